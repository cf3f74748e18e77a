//! Files in and out.
//!
//! [`open`] looks at the content and picks the reader; names and endings are never asked.

mod atomic;
mod dicom;
mod header;
mod nifti;
mod nrrd;
mod opened;
mod source;
mod voxels;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use atomic::write_atomic;
pub use dicom::{SeriesInfo, series_in};
pub use nifti::{write_labels, write_probability, write_volume};
pub use opened::{Opened, Warning};

use crate::volume::{Geometry, Labels, Volume};
use crate::{Error, Result};
use source::Source;

/// A NIfTI-1 header exactly as stored (348 bytes, the file's byte order), and that order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredHeader {
    pub bytes: Vec<u8>,
    pub big_endian: bool,
}

/// Read a scan in HU: a file, or a folder that holds one DICOM series (`FOLDER#UID` for one of several: see [`series_in`]). The format is told by
/// content, never by name.
pub fn open(path: &Path) -> Result<Volume> {
    Ok(read(path)?.item)
}

/// As [`open`], with what is odd about the file.
pub fn read(path: &Path) -> Result<Opened<Volume>> {
    if path.is_dir() || dicom::names_series(path) {
        return dicom::read_volume(path);
    }
    let mut source = Source::open(path)?;
    match sniff(&mut source)? {
        Format::Nifti1(head) => nifti::read_volume(source, &head),
        Format::Dicom => dicom::read_volume(path),
        Format::Nrrd => nrrd::read_volume(source),
    }
}

/// Read a label map that needs no scan beside it; values that are not whole numbers from 0 to 255 are refused.
pub fn open_labels(path: &Path) -> Result<Labels> {
    Ok(read_labels(path, None)?.item)
}

/// Read the labels of a scan, with what is odd about the file. Contours (RTSTRUCT) are drawn on the grid of `scan`; every other format has its own.
pub fn read_labels(path: &Path, scan: Option<&Geometry>) -> Result<Opened<Labels>> {
    if path.is_dir() {
        return dicom::read_labels(path, scan);
    }
    let mut source = Source::open(path)?;
    match sniff(&mut source)? {
        Format::Nifti1(head) => nifti::read_labels(source, &head),
        Format::Dicom => dicom::read_labels(path, scan),
        Format::Nrrd => nrrd::read_labels(source),
    }
}

/// Read only where a scan lies: its shape, affine and stored header. No voxel is read.
pub fn open_header(path: &Path) -> Result<Geometry> {
    if path.is_dir() || dicom::names_series(path) {
        return dicom::read_geometry(path);
    }
    let mut source = Source::open(path)?;
    match sniff(&mut source)? {
        Format::Nifti1(head) => Ok(header::Layout::parse(path, &head)?.geometry),
        Format::Dicom => dicom::read_geometry(path),
        Format::Nrrd => nrrd::read_geometry(source),
    }
}

/// What a file is, with the bytes that told so.
enum Format {
    Nifti1(Vec<u8>),
    Dicom,
    Nrrd,
}

fn sniff(source: &mut Source) -> Result<Format> {
    let head = source.head(header::BYTES)?;
    let size = head.first_chunk().map(|&b| (i32::from_le_bytes(b), i32::from_be_bytes(b)));
    let found = match size {
        Some((348, _) | (_, 348)) if head.len() == header::BYTES => return Ok(Format::Nifti1(head)),
        _ if dicom::is_dicom(&head) => return Ok(Format::Dicom),
        _ if nrrd::is_nrrd(&head) => return Ok(Format::Nrrd),
        Some((348, _) | (_, 348)) => "the beginning of a NIfTI-1 header",
        Some((540, _) | (_, 540)) => "a NIfTI-2 file",
        _ if head.starts_with(b"PK\x03\x04") => "a zip archive",
        _ if head.starts_with(b"version https://git-lfs") => "a Git LFS pointer, not the file itself",
        _ => "content that is no NIfTI header",
    };
    Err(Error::file(&source.path, found, "NIfTI-1, plain or gzipped", "convert or copy the file again (dcm2niix, nibabel)"))
}

#[cfg(test)]
mod tests;
