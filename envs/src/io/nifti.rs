//! NIfTI-1 single files, plain or gzipped. Header types are those of the `nifti` crate; voxels are decoded here, in bulk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nifti::NiftiType;

use super::header::{self, Layout, VOXELS_AT, bytes_of};
use super::source::{Source, gzip, zeroed};
use super::voxels::{Stored, from_file_order, swap_bytes, to_file_order};
use super::{Opened, StoredHeader, write_atomic};
use crate::volume::{Geometry, Labels, Volume};
use crate::{Error, Result};

/// Calls `$f::<T>($args)` with the Rust type of a NIfTI type. Types that are no real scalars were refused with the header.
macro_rules! with_type {
    ($kind:expr, $f:ident($($arg:expr),*)) => {
        match $kind {
            NiftiType::Int8 => $f::<i8>($($arg),*),
            NiftiType::Uint16 => $f::<u16>($($arg),*),
            NiftiType::Int16 => $f::<i16>($($arg),*),
            NiftiType::Uint32 => $f::<u32>($($arg),*),
            NiftiType::Int32 => $f::<i32>($($arg),*),
            NiftiType::Uint64 => $f::<u64>($($arg),*),
            NiftiType::Int64 => $f::<i64>($($arg),*),
            NiftiType::Float32 => $f::<f32>($($arg),*),
            NiftiType::Float64 => $f::<f64>($($arg),*),
            _ => $f::<u8>($($arg),*),
        }
    };
}

/// Everything up to the last voxel, numbers turned to little-endian.
fn read_raw(source: &mut Source, layout: &Layout) -> Result<Vec<u8>> {
    let mut raw = source.read(layout.bytes_needed())?;
    if layout.geometry.stored.as_ref().is_some_and(|s| s.big_endian) {
        swap_bytes(&mut raw[layout.offset as usize..], bytes_of(layout.kind).unwrap_or(1));
    }
    Ok(raw)
}

pub(super) fn read_volume(mut source: Source, head: &[u8]) -> Result<Opened<Volume>> {
    let layout = Layout::parse(&source.path, head)?;
    let raw = read_raw(&mut source, &layout)?;
    let mut data = zeroed::<f32>(layout.geometry.voxels(), &source.path)?;
    with_type!(layout.kind, hu(&raw[layout.offset as usize..], &layout, &mut data));
    let integer = !matches!(layout.kind, NiftiType::Float32 | NiftiType::Float64);
    if (!integer || layout.scaling.is_some()) && data.iter().any(|v| !v.is_finite()) {
        let count = data.iter().filter(|v| !v.is_finite()).count();
        let found = format!("{count} of {} voxels NaN or infinite", data.len());
        return Err(Error::file(&source.path, found, "HU in every voxel", "fill the missing voxels with air (-1024)"));
    }
    Ok(layout.opened(|geometry| Volume { data, geometry }))
}

fn hu<T: Stored>(raw: &[u8], layout: &Layout, out: &mut [f32]) {
    let shape = layout.geometry.shape;
    match layout.scaling {
        None => from_file_order(raw, shape, out, |v: T| v.to_f32()),
        Some((slope, inter)) => from_file_order(raw, shape, out, |v: T| (v.to_f64() * slope + inter) as f32),
    }
}

pub(super) fn read_labels(mut source: Source, head: &[u8]) -> Result<Opened<Labels>> {
    let layout = Layout::parse(&source.path, head)?;
    let raw = read_raw(&mut source, &layout)?;
    let mut data = zeroed::<u8>(layout.geometry.voxels(), &source.path)?;
    if !with_type!(layout.kind, classes(&raw[layout.offset as usize..], &layout, &mut data)) {
        return Err(Error::file(
            &source.path,
            "values that are not whole numbers from 0 to 255",
            "a label map",
            "give the label file, not the image, or renumber its classes",
        ));
    }
    Ok(layout.opened(|geometry| Labels { data, geometry, classes: Arc::default() }))
}

/// False where a value is no label.
fn classes<T: Stored>(raw: &[u8], layout: &Layout, out: &mut [u8]) -> bool {
    // Scaled labels (0 and 1 stored as 0 and 100 with slope 0.01) are whole only up to f32 rounding of the slope.
    let (slope, inter, tolerance) = layout.scaling.map_or((1.0, 0.0, 0.0), |(s, i)| (s, i, 1e-4));
    let good = AtomicBool::new(true);
    from_file_order(raw, layout.geometry.shape, out, |v: T| {
        let value = v.to_f64() * slope + inter;
        let class = value as u8;
        let class = if value - class as f64 > 0.5 { class.saturating_add(1) } else { class };
        let off = (value - class as f64).abs();
        if off > tolerance || off.is_nan() {
            good.store(false, Ordering::Relaxed);
        }
        class
    });
    good.into_inner()
}

/// Write labels (C order over `[x][y][z]`) as uint8 `.nii.gz`, atomically.
///
/// Where `geometry` was read from a file, the header is that file's, byte for byte and in its byte order, but for the fields that say how voxels
/// are stored: datatype, bitpix, vox_offset, scl_slope, scl_inter, cal_max, cal_min.
pub fn write_labels(path: &Path, data: &[u8], geometry: &Geometry) -> Result<()> {
    write(path, data, geometry, NiftiType::Uint8, |v| [v])
}

/// Write a scan as int16 HU (rounded, half to even) `.nii.gz`, atomically; header as in [`write_labels`].
pub fn write_volume(path: &Path, volume: &Volume) -> Result<()> {
    if volume.data.iter().any(|v| !v.is_finite()) {
        return Err(Error::file(path, "a scan with NaN or infinite voxels", "HU in every voxel", "look for the step that made them"));
    }
    write(path, &volume.data, &volume.geometry, NiftiType::Int16, |v: f32| (v.round_ties_even() as i16).to_le_bytes())
}

/// Write one probability per voxel as float32 `.nii.gz`, atomically; header as in [`write_labels`].
pub fn write_probability(path: &Path, data: &[f32], geometry: &Geometry) -> Result<()> {
    write(path, data, geometry, NiftiType::Float32, f32::to_le_bytes)
}

fn write<T: Copy + Send + Sync, const N: usize>(
    path: &Path,
    data: &[T],
    geometry: &Geometry,
    kind: NiftiType,
    encode: impl Fn(T) -> [u8; N] + Sync,
) -> Result<()> {
    if data.len() != geometry.voxels() {
        return Err(Error::Mismatch {
            case: path.display().to_string(),
            found: format!("{} values", data.len()),
            expected: format!("{} for a grid of {:?}", geometry.voxels(), geometry.shape),
            action: "write one value a voxel".into(),
        });
    }
    let StoredHeader { bytes, big_endian } = header::for_output(path, geometry, kind)?;
    let mut file = zeroed::<u8>(VOXELS_AT + data.len() * N, path)?;
    file[..bytes.len()].copy_from_slice(&bytes);
    to_file_order(data, geometry.shape, &mut file[VOXELS_AT..], encode);
    if big_endian {
        swap_bytes(&mut file[VOXELS_AT..], N);
    }
    write_atomic(path, &gzip(&file, path)?)
}
