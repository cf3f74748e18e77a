//! NRRD (attached and detached headers) and MetaImage (MHA, MHD): a text header, then voxels in file order, raw or deflated.
//!
//! Both say directions in the patient's left, posterior, superior unless they say otherwise; here the world is right, anterior, superior.

mod body;
mod metaimage;
mod text;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::source::{Source, zeroed};
use super::voxels::{Stored, from_file_order};
use super::{Opened, Warning};
use crate::volume::{Affine, Geometry, Labels, Volume};
use crate::{Error, Result};

/// Calls `$f::<T>($args)` with the Rust type of a [`Scalar`].
macro_rules! with_type {
    ($scalar:expr, $f:ident($($arg:expr),*)) => {
        match $scalar {
            Scalar::I8 => $f::<i8>($($arg),*),
            Scalar::U8 => $f::<u8>($($arg),*),
            Scalar::I16 => $f::<i16>($($arg),*),
            Scalar::U16 => $f::<u16>($($arg),*),
            Scalar::I32 => $f::<i32>($($arg),*),
            Scalar::U32 => $f::<u32>($($arg),*),
            Scalar::I64 => $f::<i64>($($arg),*),
            Scalar::U64 => $f::<u64>($($arg),*),
            Scalar::F32 => $f::<f32>($($arg),*),
            Scalar::F64 => $f::<f64>($($arg),*),
        }
    };
}
/// No CT is larger: 2^31 voxels are 8 GiB as f32.
const MOST_VOXELS: u64 = 1 << 31;
/// Headers of segmentations name every segment; none is this long.
const MOST_HEADER_BYTES: usize = 1 << 20;

/// Whether the first bytes of a file are those of an NRRD or a MetaImage header.
pub(super) fn is_nrrd(head: &[u8]) -> bool {
    head.starts_with(b"NRRD") || metaimage::is_metaimage(head)
}

pub(super) fn read_volume(mut source: Source) -> Result<Opened<Volume>> {
    let header = Header::read(&mut source)?;
    let raw = body::read(&header, &source)?;
    let path = &source.path;
    let mut data = zeroed::<f32>(header.geometry.voxels(), path)?;
    with_type!(header.scalar, hu(&raw, &header.geometry, &mut data));
    drop(raw);
    if header.scalar.is_float() && data.iter().any(|v| !v.is_finite()) {
        let count = data.iter().filter(|v| !v.is_finite()).count();
        let found = format!("{count} of {} voxels NaN or infinite", data.len());
        return Err(Error::file(path, found, "HU in every voxel", "fill the missing voxels with air (-1024)"));
    }
    Ok(header.opened(|geometry| Volume { data, geometry }))
}

pub(super) fn read_labels(mut source: Source) -> Result<Opened<Labels>> {
    let header = Header::read(&mut source)?;
    let raw = body::read(&header, &source)?;
    let mut data = zeroed::<u8>(header.geometry.voxels(), &source.path)?;
    if !with_type!(header.scalar, classes(&raw, &header.geometry, &mut data)) {
        let found = "values that are not whole numbers from 0 to 255";
        let action = "give the label file, not the image, or renumber its classes";
        return Err(Error::file(&source.path, found, "a label map", action));
    }
    Ok(header.opened(|geometry| Labels { data, geometry, classes: Arc::default() }))
}

/// Where the scan lies; no voxel is read, but the file that a detached header names must be there.
pub(super) fn read_geometry(mut source: Source) -> Result<Geometry> {
    let header = Header::read(&mut source)?;
    body::open(&header, &source)?;
    Ok(header.geometry)
}

fn hu<T: Stored>(raw: &[u8], geometry: &Geometry, out: &mut [f32]) {
    from_file_order(raw, geometry.shape, out, |v: T| v.to_f32());
}

/// False where a value is no label.
fn classes<T: Stored>(raw: &[u8], geometry: &Geometry, out: &mut [u8]) -> bool {
    let good = AtomicBool::new(true);
    from_file_order(raw, geometry.shape, out, |v: T| {
        let class = v.to_f64() as u8;
        if v.to_f64() != class as f64 {
            good.store(false, Ordering::Relaxed);
        }
        class
    });
    good.into_inner()
}

/// How a voxel is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scalar {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
}

impl Scalar {
    fn bytes(self) -> usize {
        match self {
            Scalar::I8 | Scalar::U8 => 1,
            Scalar::I16 | Scalar::U16 => 2,
            Scalar::I32 | Scalar::U32 | Scalar::F32 => 4,
            Scalar::I64 | Scalar::U64 | Scalar::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Scalar::F32 | Scalar::F64)
    }

    /// In numpy's words.
    fn name(self) -> &'static str {
        match self {
            Scalar::I8 => "int8",
            Scalar::U8 => "uint8",
            Scalar::I16 => "int16",
            Scalar::U16 => "uint16",
            Scalar::I32 => "int32",
            Scalar::U32 => "uint32",
            Scalar::I64 => "int64",
            Scalar::U64 => "uint64",
            Scalar::F32 => "float32",
            Scalar::F64 => "float64",
        }
    }
}

/// What a header says, checked.
#[derive(Debug)]
struct Header {
    format: &'static str,
    geometry: Geometry,
    scalar: Scalar,
    big_endian: bool,
    deflated: bool,
    place: body::Place,
    warnings: Vec<Warning>,
}

impl Header {
    fn read(source: &mut Source) -> Result<Header> {
        let text = source.head(MOST_HEADER_BYTES)?;
        if metaimage::is_metaimage(&text) { metaimage::parse(&source.path, &text) } else { text::parse(&source.path, &text) }
    }

    fn opened<T>(self, item: impl FnOnce(Geometry) -> T) -> Opened<T> {
        Opened { item: item(self.geometry), format: self.format, dtype: self.scalar.name().into(), warnings: self.warnings }
    }
}

/// A sentence about a header.
fn refuse<T>(path: &Path, found: impl Into<String>, expected: &str, action: &str) -> Result<T> {
    Err(Error::file(path, found, expected, action))
}

/// A grid in the world: `directions` (one a stored axis, in mm) and `origin` (the first voxel's centre) with the signs of `to_ras` applied.
fn geometry(path: &Path, shape: [usize; 3], directions: [[f64; 3]; 3], origin: [f64; 3], to_ras: [f64; 3]) -> Result<Geometry> {
    let affine: Affine = std::array::from_fn(|r| {
        std::array::from_fn(|c| to_ras[r] * directions.get(c).map_or(origin[r], |d| d[r]) + 0.0) // + 0.0: no -0
    });
    let g = Geometry { shape, affine, stored: None };
    let size: f64 = g.spacing_mm().iter().product();
    // Relative to the box that the axes span; NaN and infinity fail the comparison as well.
    if affine.as_flattened().iter().all(|v| v.is_finite()) && size > 0.0 && g.voxel_ml() * 1000.0 > 1e-6 * size {
        return Ok(g);
    }
    refuse(
        path,
        format!("axes along {directions:?} mm from {origin:?}"),
        "three independent directions with finite numbers",
        "repair the header",
    )
}

/// The sizes of three axes of a scan; `extra` are those of the others, which must be 1.
fn shape(path: &Path, sizes: &[u64], extra: &[u64]) -> Result<[usize; 3]> {
    let &[x, y, z] = sizes else {
        return refuse(path, format!("{} axes in space", sizes.len()), "three axes", "convert it to one volume");
    };
    if extra.iter().any(|&n| n != 1) {
        return refuse(
            path,
            format!("a series of sizes {sizes:?} x {extra:?}"),
            "one value a voxel (three axes)",
            "split it into single volumes",
        );
    }
    let voxels = [x, y, z].into_iter().try_fold(1u64, u64::checked_mul);
    match voxels {
        Some(1..=MOST_VOXELS) => Ok([x as usize, y as usize, z as usize]),
        _ => refuse(path, format!("sizes {sizes:?}"), "1 to 2^31 voxels", "repair the header"),
    }
}

#[cfg(test)]
mod tests;
