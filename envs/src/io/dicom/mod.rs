//! DICOM: CT series, multi-frame CT, segmentations (SEG) and contours (RTSTRUCT).

use std::path::Path;

use super::Opened;
use crate::volume::{Geometry, Labels, Volume};
use crate::{Error, Result};

/// Whether the first bytes of a file are DICOM's.
pub(super) fn is_dicom(head: &[u8]) -> bool {
    head.get(128..132) == Some(b"DICM")
}

/// A CT scan in HU: a folder that holds one series, or one file.
pub(super) fn read_volume(path: &Path) -> Result<Opened<Volume>> {
    Err(not_here(path))
}

/// Labels from a SEG or an RTSTRUCT; contours need the grid of the `scan` that they were drawn on.
pub(super) fn read_labels(path: &Path, _scan: Option<&Geometry>) -> Result<Opened<Labels>> {
    Err(not_here(path))
}

fn not_here(path: &Path) -> Error {
    Error::file(path, "a DICOM file", "NIfTI-1, plain or gzipped", "convert it (dcm2niix)")
}
