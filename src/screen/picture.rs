//! A screened scan as a picture.

use image::RgbImage;
use panscreen_envs::volume::components::{Components, Connectivity};
use panscreen_envs::volume::runs::Runs;
use panscreen_envs::volume::{Geometry, Labels, PrepareConfig, Prepared, Volume, prepare};

use super::Screened;
use crate::error::Result;
use crate::report::preview::{PreviewInput, SOFT_TISSUE_HU, preview};

/// Three planes through the centre of the largest marked lesion (of the scan where nothing is marked), with outlines and Glance's heat.
/// `reference`: labelled lesions on the scan's own grid.
pub fn picture(screened: &Screened, reference: Option<&[u8]>) -> Result<RgbImage> {
    let geometry = &screened.volume.geometry;
    let turn = |data: &[f32], window: [f32; 2], mask: Option<&[u8]>| in_canonical_axes(data, window, mask, geometry);
    let scan = turn(&screened.volume.data, SOFT_TISSUE_HU, Some(&screened.mask))?;
    let mask = scan.labels.as_deref().unwrap_or(&[]);
    let heat = if screened.heat.is_empty() { None } else { Some(turn(&screened.heat, [0.0, 1.0], None)?.image) };
    let reference = reference.map(|r| turn(&screened.volume.data, SOFT_TISSUE_HU, Some(r))).transpose()?.and_then(|p| p.labels);
    let found = Components::of(&Runs::of(mask, scan.shape), Connectivity::Corner);
    let at = match found.parts.iter().max_by_key(|part| part.voxels) {
        Some(part) => part.centroid.map(|v| v.round() as usize),
        None => scan.shape.map(|n| n / 2),
    };
    Ok(preview(&PreviewInput {
        voxels: &scan.image,
        shape: scan.shape,
        spacing_mm: scan.spacing_mm,
        window: [0.0, 1.0],
        at,
        prediction: Some(mask),
        reference: reference.as_deref(),
        heat: heat.as_deref(),
        caption: &caption(screened),
    }))
}

fn caption(screened: &Screened) -> String {
    let r = &screened.result;
    match r.lesions.first() {
        Some(largest) => {
            format!("{}: {} findings, largest {:.1} mL, confidence {:.2}", r.case, r.lesions.len(), largest.volume_ml, largest.confidence)
        }
        None => format!("{}: clear", r.case),
    }
}

/// Axes turned to RAS, nothing resampled or cut; values in `window` become 0..1.
fn in_canonical_axes(data: &[f32], window: [f32; 2], mask: Option<&[u8]>, geometry: &Geometry) -> Result<Prepared> {
    let volume = Volume { data: data.to_vec(), geometry: geometry.clone() };
    let labels = mask.map(|m| Labels { data: m.to_vec(), geometry: geometry.clone(), classes: Default::default() });
    let as_stored = PrepareConfig { spacing_mm: None, windows_hu: vec![window], crop_foreground: false, pad_to: [1; 3] };
    Ok(prepare(volume, labels.as_ref(), &as_stored)?)
}
