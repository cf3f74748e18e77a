//! A screened scan as a picture.

use image::RgbImage;
use panscreen_envs::volume::Orientation;

use super::Screened;
use crate::report::preview::{PreviewInput, SOFT_TISSUE_HU, middle_of_largest, preview};

/// Three planes through the centre of the largest marked lesion (of the scan where nothing is marked), with outlines and Glance's heat.
/// `reference`: labelled lesions on the scan's own grid.
pub fn picture(screened: &Screened, reference: Option<&[u8]>) -> RgbImage {
    let stored = &screened.volume.geometry;
    let turn = Orientation::of(stored);
    let canonical = turn.turn(stored);
    let mask = turn.turn_voxels(&screened.mask, stored.shape);
    let reference = reference.map(|r| turn.turn_voxels(r, stored.shape));
    let heat = (!screened.heat.is_empty()).then(|| turn.turn_voxels(&screened.heat, stored.shape));
    preview(&PreviewInput {
        voxels: &turn.turn_voxels(&screened.volume.data, stored.shape),
        shape: canonical.shape,
        spacing_mm: canonical.spacing_mm(),
        window: SOFT_TISSUE_HU,
        at: middle_of_largest(&mask, canonical.shape).unwrap_or(canonical.shape.map(|n| n / 2)),
        prediction: Some(&mask),
        reference: reference.as_deref(),
        heat: heat.as_deref(),
        caption: &caption(screened),
    })
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use panscreen_envs::volume::{Geometry, PrepareConfig, Volume, prepare};

    use super::*;
    use crate::screen::{CaseResult, WindowCount};

    /// A scan stored the way scanners do (x to the left, y to the back), one lesion at the patient's right, in front.
    #[test]
    fn a_lesion_is_outlined_where_it_is_in_the_patient() {
        let mut geometry = Geometry::ras([24; 3], [1.0; 3], [0.0; 3]);
        (geometry.affine[0][0], geometry.affine[1][1]) = (-1.0, -1.0);
        let volume = Volume { data: vec![-1000.0; 24 * 24 * 24], geometry };
        let as_stored = PrepareConfig { spacing_mm: None, windows_hu: vec![[0.0, 1.0]], crop_foreground: false, pad_to: [1; 3] };
        let way_back = prepare(volume.clone(), None, &as_stored).unwrap().way_back;
        let inside = |v: usize| [v / 576, v / 24 % 24, v % 24].iter().all(|p| (2..6).contains(p));
        let result = CaseResult {
            case: "c".into(),
            input: PathBuf::new(),
            verdict: "lesion".into(),
            reason: None,
            warnings: Vec::new(),
            lesions: vec![],
            recomputed: vec![],
            windows: WindowCount { total: 1, kept: 1, ..WindowCount::default() },
            shape: [24; 3],
            spacing_mm: [1.0; 3],
            costs: vec![],
            seconds: 0.0,
        };
        let screened = Screened {
            result,
            mask: (0..volume.data.len()).map(|v| u8::from(inside(v))).collect(),
            probability: vec![],
            heat: vec![],
            volume,
            windows: vec![],
            glance: vec![],
            kept: vec![],
            way_back,
        };
        let image = picture(&screened, None);
        // The axial picture is the first 360 pixels beside a border of 8; its outline is the only thing in colour.
        let coloured: Vec<(u32, u32)> = (30..360)
            .flat_map(|y| (30..360).map(move |x| (x, y)))
            .filter(|&(x, y)| {
                let p = image.get_pixel(x, y).0;
                p[2] > 150 && p[0] < 100
            })
            .collect();
        assert!(!coloured.is_empty() && coloured.iter().all(|&(x, y)| x < 188 && y < 188), "{coloured:?}");
    }
}
