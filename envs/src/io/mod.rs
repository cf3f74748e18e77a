//! Files in and out.
//!
//! [`open`] looks at the content and picks the reader; names and endings are never asked (but to find the other half of a `.hdr`/`.img` pair).
//! [`read`] says besides what is odd about a file, [`inspect`] what is odd about its voxels as well.

mod atomic;
mod dicom;
mod forms;
mod header;
mod inspect;
mod nifti;
mod nrrd;
mod opened;
mod output;
mod pair;
mod place;
mod source;
mod voxels;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use atomic::write_atomic;
pub use dicom::{SeriesInfo, series_in};
pub use inspect::{Grade, Kind, LabelCount, MaskReport, Reason, Report, inspect};
pub use nifti::{write_labels, write_probability, write_volume};
pub use opened::{Opened, Warning};
pub use place::{case_name, hash, scans_in, stem};

use crate::volume::{Geometry, Labels, Volume};
use crate::{Error, Result};
use header::Version;
use source::Source;

/// A NIfTI header exactly as stored (348 bytes of a NIfTI-1, 540 of a NIfTI-2, the file's byte order), and that order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredHeader {
    pub bytes: Vec<u8>,
    pub big_endian: bool,
}

/// Read a scan in HU: a file, or a folder that holds one DICOM series (`FOLDER#UID` for one of several: see [`series_in`]). The format is told by
/// content, never by name.
///
/// Voxels that are NaN or minus infinity become the lowest value of the scan, plus infinity the highest; [`read`] says so.
pub fn open(path: &Path) -> Result<Volume> {
    Ok(read(path)?.item)
}

/// As [`open`], with what is odd about the file.
pub fn read(path: &Path) -> Result<Opened<Volume>> {
    if path.is_dir() || dicom::names_series(path) {
        return dicom::read_volume(path);
    }
    let source = Source::open(path)?;
    let gzip = source.is_gzip();
    let opened = match sniff(source)? {
        Format::Nifti(scan) => scan.read_volume(),
        Format::Dicom => dicom::read_volume(path),
        Format::Nrrd(source) => nrrd::read_volume(source),
    };
    Ok(misnamed(opened?, path, gzip))
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
    let source = Source::open(path)?;
    let gzip = source.is_gzip();
    let opened = match sniff(source)? {
        Format::Nifti(scan) => scan.read_labels(),
        Format::Dicom => dicom::read_labels(path, scan),
        Format::Nrrd(source) => nrrd::read_labels(source),
    };
    Ok(misnamed(opened?, path, gzip))
}

/// Read only where a scan lies: its shape, affine and stored header. No voxel of a NIfTI file is read.
pub fn open_header(path: &Path) -> Result<Geometry> {
    if path.is_dir() || dicom::names_series(path) {
        return dicom::read_geometry(path);
    }
    match sniff(Source::open(path)?)? {
        Format::Nifti(scan) => Ok(scan.layout.geometry),
        Format::Dicom => dicom::read_geometry(path),
        Format::Nrrd(source) => nrrd::read_geometry(source),
    }
}

/// How files begin that often stand where a scan should.
const FOREIGN: [(&[u8], &str); 13] = [
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a file that was gzipped twice"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"<", "a web page or XML text"),
    (b"{", "a JSON text"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89HDF", "an HDF5 or MINC file"),
    (b"\x93NUMPY", "a NumPy array, which says nothing about the world"),
];

/// What a file is, with what its reader needs.
enum Format {
    Nifti(Box<nifti::Scan>),
    Dicom,
    Nrrd(Source),
}

fn sniff(mut source: Source) -> Result<Format> {
    let head = source.head(header::MOST_BYTES)?;
    let version = Version::of(&head);
    let whole = version.is_some_and(|(v, _)| head.len() >= v.bytes());
    if dicom::is_dicom(&head) {
        return Ok(Format::Dicom);
    }
    if nrrd::is_nrrd(&head) {
        return Ok(Format::Nrrd(source));
    }
    // Voxels may begin with any number, a header's size among them: only a magic makes the image half of a pair a header.
    if pair::is_image_name(&source.path) && !(whole && version.is_some_and(|(v, _)| v.has_magic(&head))) {
        return Ok(Format::Nifti(Box::new(nifti::Scan::of_image(source)?)));
    }
    if whole {
        return Ok(Format::Nifti(Box::new(nifti::Scan::of_header(source, &head)?)));
    }
    let found = match version {
        Some((version, _)) => format!("the first {} bytes of a {} header", head.len(), version.name()),
        None if [b"n+1\0", b"ni1\0"].iter().any(|m| head.get(344..348) == Some(&m[..])) => "sizeof_hdr that is not 348".into(),
        None => match FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
            Some((_, what)) => (*what).into(),
            None => "content that is no NIfTI, DICOM or NRRD header".into(),
        },
    };
    Err(Error::file(
        &source.path,
        found,
        "a NIfTI, DICOM or NRRD file, plain or gzipped",
        "copy or convert the file again (dcm2niix, nibabel)",
    ))
}

/// Adds a warning where the ending of a name says something else than the content.
fn misnamed<T>(mut opened: Opened<T>, path: &Path, gzip: bool) -> Opened<T> {
    let Some(name) = path.file_name().map(|n| n.to_string_lossy().to_lowercase()) else { return opened };
    let (inner, named_gz) = name.strip_suffix(".gz").map_or((&*name, false), |inner| (inner, true));
    let says = match inner.rsplit_once('.').map(|(_, ending)| ending) {
        Some("nii" | "hdr" | "img") => "NIfTI",
        Some("dcm") => "DICOM",
        Some("nrrd" | "nhdr") => "NRRD",
        Some("mha" | "mhd") => "MetaImage",
        _ => opened.format,
    };
    if !opened.format.starts_with(says) {
        let found = format!("a {} file with the name of a {says} file", opened.format);
        opened.warnings.push(Warning::new(found, "a name that says what the file is", "the content was taken; rename the file"));
    } else if named_gz != gzip && (named_gz || says == "NIfTI") {
        let found =
            if gzip { "a gzipped file whose name doesn't end in .gz" } else { "a file that is not gzipped and whose name ends in .gz" };
        opened.warnings.push(Warning::new(found, "a name that says what the file is", "the content was taken; rename the file"));
    }
    opened
}

#[cfg(test)]
mod tests;
