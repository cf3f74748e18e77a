//! Files in and out.
//!
//! [`open`] looks at the content and picks the reader; names and endings are never asked.

mod atomic;
mod header;
mod nifti;
mod source;
mod voxels;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use atomic::write_atomic;
pub use nifti::{write_labels, write_probability, write_volume};

use crate::volume::{Geometry, Labels, Volume};
use crate::{Error, Result};
use source::Source;

/// A NIfTI-1 header exactly as stored (348 bytes, the file's byte order), and that order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredHeader {
    pub bytes: Vec<u8>,
    pub big_endian: bool,
}

/// Read a scan in HU. The format is told by content, never by name. Voxels that are not finite are refused.
pub fn open(path: &Path) -> Result<Volume> {
    let mut source = Source::open(path)?;
    match sniff(&mut source)? {
        Format::Nifti1(head) => nifti::read_volume(source, &head),
    }
}

/// Read a label map; values that are not whole numbers from 0 to 255 are refused. The class table comes back empty.
pub fn open_labels(path: &Path) -> Result<Labels> {
    let mut source = Source::open(path)?;
    match sniff(&mut source)? {
        Format::Nifti1(head) => nifti::read_labels(source, &head),
    }
}

/// Read only where a scan lies: its shape, affine and stored header. No voxel is read.
pub fn open_header(path: &Path) -> Result<Geometry> {
    let mut source = Source::open(path)?;
    match sniff(&mut source)? {
        Format::Nifti1(head) => Ok(header::Layout::parse(path, &head)?.geometry),
    }
}

/// What a file is, with the bytes that told so.
enum Format {
    Nifti1(Vec<u8>),
}

fn sniff(source: &mut Source) -> Result<Format> {
    let head = source.head(header::BYTES)?;
    let size = head.first_chunk().map(|&b| (i32::from_le_bytes(b), i32::from_be_bytes(b)));
    let found = match size {
        Some((348, _) | (_, 348)) if head.len() == header::BYTES => return Ok(Format::Nifti1(head)),
        Some((348, _) | (_, 348)) => "the beginning of a NIfTI-1 header",
        Some((540, _) | (_, 540)) => "a NIfTI-2 file",
        _ if head.starts_with(b"PK\x03\x04") => "a zip archive",
        _ if head.starts_with(b"NRRD") => "an NRRD file",
        _ if head.get(128..132) == Some(b"DICM") => "a DICOM file",
        _ if head.starts_with(b"version https://git-lfs") => "a Git LFS pointer, not the file itself",
        _ => "content that is no NIfTI header",
    };
    Err(Error::file(&source.path, found, "NIfTI-1, plain or gzipped", "convert or copy the file again (dcm2niix, nibabel)"))
}

#[cfg(test)]
mod tests;
