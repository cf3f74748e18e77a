//! DICOM: CT series, multi-frame CT, segmentations (SEG) and contours (RTSTRUCT).
//!
//! The way of a series: [`content`] walks each file's elements in place and [`image`] sorts the file and says where its frames lie; [`series`] finds
//! which frames belong together; [`stack`] orders them by position and measures holes, doubles, uneven steps and tilt; [`assemble`] decodes
//! ([`codec`], [`pixels`]) and places them. Voxels are float32 HU; what the scanner padded is air (-1024 HU). World axes are turned from DICOM's
//! left, posterior, superior to right, anterior, superior; the array's first axis counts columns, the second rows, the third slices upwards along the normal.

mod assemble;
mod codec;
mod content;
mod element;
mod grid;
mod image;
mod pixels;
mod rtstruct;
mod seg;
mod series;
mod stack;
mod tags;

use std::path::{Path, PathBuf};

use super::{Opened, Warning};
use crate::volume::{Geometry, Labels, Volume};
use crate::{Error, Result};
use content::Content;
use image::{Kind, classify};

pub(super) use content::is_dicom;
pub use series::SeriesInfo;

/// HU from which padding could be something that was measured.
const PADDING_HU: f64 = -900.0;

/// The series of a folder (or of one multi-frame file), in the order of their UIDs, each with the path that reads it.
pub fn series_in(place: &Path) -> Result<Vec<SeriesInfo>> {
    Ok(series::infos(place, &series::stacks(place, kinds(place)?)?))
}

/// As [`series_in`], for a folder that may hold none: labels and reports have folders of their own.
pub(super) fn series_if_any(folder: &Path) -> Result<Vec<SeriesInfo>> {
    let kinds = series::files_in(folder)?;
    let any = kinds.iter().any(|kind| matches!(kind, Kind::Slices(_)));
    if any { Ok(series::infos(folder, &series::stacks(folder, kinds)?)) } else { Ok(Vec::new()) }
}

/// Whether a path is `FOLDER#UID`: one series of a folder that holds several.
pub(super) fn names_series(path: &Path) -> bool {
    series::named_series(path).is_some()
}

/// A CT scan in HU: a folder that holds one series, `FOLDER#UID` for one of several, or one file.
pub(super) fn read_volume(path: &Path) -> Result<Opened<Volume>> {
    let (plan, opened) = plan(path)?;
    let volume = assemble::volume(plan)?;
    Ok(opened.map(|()| volume))
}

/// Where a CT scan lies. Every file's header is read, no voxel.
pub(super) fn read_geometry(path: &Path) -> Result<Geometry> {
    Ok(plan(path)?.0.geometry)
}

/// The folder or file of a path, without the series that it may name.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    series::named_series(path).map_or_else(|| path.to_owned(), |(place, _)| place)
}

fn plan(path: &Path) -> Result<(stack::Plan, Opened<()>)> {
    let (place, asked) = series::named_series(path).map_or((path.to_owned(), None), |(place, uid)| (place, Some(uid)));
    let stack = series::choose(&place, series::stacks(&place, kinds(&place)?)?, asked.as_deref())?;
    let (mut warnings, dtype) = (Vec::new(), stack.slices.first().map(|s| s.image.layout.dtype()).unwrap_or_default());
    if let Some(first) = stack.slices.first() {
        about_numbers(&first.image, &first.image.frames[first.frame], &mut warnings);
    }
    let mut plan = stack::plan(stack)?;
    warnings.append(&mut plan.warnings);
    Ok((plan, Opened { item: (), format: "DICOM", dtype, warnings }))
}

/// What makes numbers other than HU.
fn about_numbers(image: &image::Image, frame: &image::Frame, warnings: &mut Vec<Warning>) {
    let mut warn = |found: String, expected: &str, action: &str| warnings.push(Warning::new(found, expected, action));
    if image.modality != "CT" {
        warn(format!("modality {:?}", image.modality), "CT", "use it only if its numbers are HU");
    } else if !image.rescaled {
        warn("no rescale slope and intercept".into(), "numbers that become HU", "check that air is near -1000");
    }
    if image.lossy {
        warn("pixels of a lossy compression".into(), "the numbers as they were measured", "prefer the original series");
    }
    if let Some([from, to]) = image.layout.padding {
        let highest = [from, to].map(|p| p as f64 * frame.slope + frame.intercept).into_iter().fold(f64::MIN, f64::max);
        if highest > PADDING_HU {
            let found = format!("a padding value of {highest:.0} HU, which tissue can have");
            warn(found, "padding below air", "look for holes in the scan: padded voxels were made air");
        }
    }
}

/// The DICOM files that a path stands for.
fn kinds(path: &Path) -> Result<Vec<Kind>> {
    if path.is_dir() {
        return series::files_in(path);
    }
    let content = Content::open(path)?;
    let content = content.ok_or_else(|| Error::file(path, "no DICOM", "a DICOM file", "give a DICOM file or the folder of a series"))?;
    Ok(vec![classify(content)?])
}

/// Labels from a SEG or an RTSTRUCT, or a folder that holds one; contours need the grid of the `scan` that they were drawn on.
pub(super) fn read_labels(path: &Path, scan: Option<&Geometry>) -> Result<Opened<Labels>> {
    let mut kinds = kinds(path)?;
    let slices = kinds.iter().filter(|kind| matches!(kind, Kind::Slices(_))).count();
    kinds.retain(|kind| matches!(kind, Kind::Segmentation(_) | Kind::Contours(_)));
    let count = kinds.len();
    match kinds.pop() {
        Some(Kind::Segmentation(content)) if count == 1 => seg::read(content, scan),
        Some(Kind::Contours(content)) if count == 1 => rtstruct::read(&content, scan),
        _ => {
            let found = if count > 1 { format!("{count} label files") } else { format!("{slices} image files and no labels") };
            Err(Error::file(path, found, "one DICOM SEG or RTSTRUCT", "give the label file itself"))
        }
    }
}

#[cfg(test)]
mod tests;
