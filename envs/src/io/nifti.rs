//! NIfTI-1 and NIfTI-2, single files and pairs, plain or gzipped. Voxels are decoded in bulk.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::header::{Dtype, Layout, MOST_BYTES};
use super::output::for_output;
use super::source::{Source, gzip, zeroed};
use super::voxels::{Stored, from_file_order, swap_bytes, to_file_order};
use super::{Opened, StoredHeader, Warning, pair, write_atomic};
use crate::volume::{Geometry, Labels, Volume};
use crate::{Error, Result};

/// Calls `$f::<T>($args)` with the Rust type of a stored type.
macro_rules! with_type {
    ($dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            Dtype::Uint8 => $f::<u8>($($arg),*),
            Dtype::Int8 => $f::<i8>($($arg),*),
            Dtype::Uint16 => $f::<u16>($($arg),*),
            Dtype::Int16 => $f::<i16>($($arg),*),
            Dtype::Uint32 => $f::<u32>($($arg),*),
            Dtype::Int32 => $f::<i32>($($arg),*),
            Dtype::Uint64 => $f::<u64>($($arg),*),
            Dtype::Int64 => $f::<i64>($($arg),*),
            Dtype::Float32 => $f::<f32>($($arg),*),
            Dtype::Float64 => $f::<f64>($($arg),*),
        }
    };
}

/// Refuses voxels that can't be used.
type Judge<'a> = &'a dyn Fn(&Survey) -> Result<()>;

/// A NIfTI scan whose header was understood and whose voxels are still to be read.
pub(super) struct Scan {
    pub layout: Layout,
    /// The file with the voxels.
    source: Source,
}

impl Scan {
    /// From a file that begins with a header: a single file, or the header half of a pair.
    pub fn of_header(source: Source, head: &[u8]) -> Result<Self> {
        let layout = Layout::parse(&source.path, head)?;
        let source = if layout.pair { pair::partner(&source.path, "img")? } else { source };
        Ok(Scan { layout, source })
    }

    /// From the image half of a pair.
    pub fn of_image(source: Source) -> Result<Self> {
        let mut header = pair::partner(&source.path, "hdr")?;
        let head = header.head(MOST_BYTES)?;
        let mut layout = Layout::parse(&header.path, &head)?;
        if !layout.pair {
            let action = "give the path of the single file, or repair its magic";
            return Err(Error::file(&header.path, "the header of a single file", "that of a .hdr/.img pair (magic ni1)", action));
        }
        layout.warnings.append(&mut header.warnings);
        Ok(Scan { layout, source })
    }

    pub fn read_volume(mut self) -> Result<Opened<Volume>> {
        let path = self.source.path.clone();
        let (dtype, scaling) = (self.layout.dtype, self.layout.scaling);
        let may_lack = dtype.is_float() || scaling.is_some();
        let judge = |seen: &Survey| if seen.is_finite() { Ok(()) } else { Err(no_number(&path)) };
        let raw = self.raw(may_lack.then_some(&judge))?;
        let voxels = &raw[self.layout.offset as usize..];
        if may_lack && !with_type!(dtype, any_finite(voxels, scaling)) {
            return Err(no_number(&path));
        }
        let mut data = zeroed::<f32>(self.layout.geometry.voxels(), &path)?;
        with_type!(dtype, hu(voxels, self.layout.geometry.shape, scaling, &mut data));
        let filled = if may_lack { fill(&mut data) } else { None };
        self.layout.warnings.extend(filled);
        Ok(self.opened(|geometry| Volume { data, geometry }))
    }

    pub fn read_labels(mut self) -> Result<Opened<Labels>> {
        let path = self.source.path.clone();
        let (dtype, scaling) = (self.layout.dtype, self.layout.scaling);
        let may_be_none = dtype != Dtype::Uint8 || scaling.is_some();
        let raw = self.raw(may_be_none.then_some(&|seen| seen.are_labels(&path)))?;
        let voxels = &raw[self.layout.offset as usize..];
        if may_be_none {
            with_type!(dtype, survey(voxels, scaling)).are_labels(&path)?;
        }
        let mut data = zeroed::<u8>(self.layout.geometry.voxels(), &path)?;
        with_type!(dtype, classes(voxels, self.layout.geometry.shape, scaling, &mut data));
        Ok(self.opened(|geometry| Labels { data, geometry, classes: Arc::default() }))
    }

    /// Everything up to the last voxel, numbers turned to little-endian.
    ///
    /// Where the content is large beside the file, it is looked through first, and `judge` may refuse it before room is made for it. None: any
    /// number will do.
    fn raw(&mut self, judge: Option<Judge>) -> Result<Vec<u8>> {
        let (needed, size) = (self.layout.bytes_needed(), self.layout.dtype.bytes());
        let mut raw = match judge {
            Some(judge) if !self.source.is_modest(needed) => {
                let mut seen = Survey::default();
                let (mut skip, mut pending) = (self.layout.offset, Vec::new());
                self.source.look(needed, |chunk| {
                    let skipped = skip.min(chunk.len() as u64);
                    skip -= skipped;
                    pending.extend_from_slice(&chunk[skipped as usize..]);
                    let whole = pending.len() / size * size;
                    if self.layout.big_endian {
                        swap_bytes(&mut pending[..whole], size);
                    }
                    seen = with_type!(self.layout.dtype, survey(&pending[..whole], self.layout.scaling)).and(seen);
                    pending.drain(..whole);
                })?;
                judge(&seen)?;
                self.source.read_looked(needed)?
            }
            _ => self.source.read(needed)?,
        };
        if self.layout.big_endian {
            swap_bytes(&mut raw[self.layout.offset as usize..], size);
        }
        Ok(raw)
    }

    fn opened<T>(self, item: impl FnOnce(Geometry) -> T) -> Opened<T> {
        let Layout { geometry, version, dtype, mut warnings, .. } = self.layout;
        warnings.extend(self.source.warnings);
        Opened { item: item(geometry), format: version.name(), dtype: dtype.name(), warnings }
    }
}

/// What the true values of stored voxels are like.
#[derive(Clone, Copy)]
struct Survey {
    voxels: usize,
    not_finite: usize,
    fractional: usize,
    min: f64,
    max: f64,
}

impl Default for Survey {
    fn default() -> Self {
        Survey { voxels: 0, not_finite: 0, fractional: 0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Survey {
    fn and(self, other: Survey) -> Survey {
        Survey {
            voxels: self.voxels + other.voxels,
            not_finite: self.not_finite + other.not_finite,
            fractional: self.fractional + other.fractional,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    /// Whether any value is.
    fn is_finite(&self) -> bool {
        self.not_finite < self.voxels
    }

    /// Refuses values that are no labels, and says what they look like.
    fn are_labels(&self, path: &Path) -> Result<()> {
        let range = format!("values from {:?} to {:?}", self.min, self.max);
        let (found, action) = if self.not_finite > 0 {
            (
                format!("{} of {} labels that are NaN or infinite", self.not_finite, self.voxels),
                "write the label map again as whole numbers",
            )
        } else if self.fractional > 0 && self.min >= 0.0 && self.max <= 1.0 {
            (format!("fractions from {:?} to {:?}: probabilities", self.min, self.max), "choose a threshold and write 0 and 1")
        } else if self.fractional > 0 {
            (format!("fractional {range}"), "give the label file, not the image")
        } else if self.min < 0.0 || self.max > 255.0 {
            (range, "give the label file, not the image, or renumber its classes")
        } else {
            return Ok(());
        };
        Err(Error::file(path, found, "a label map: whole numbers from 0 to 255", action))
    }
}

fn no_number(path: &Path) -> Error {
    Error::file(path, "no voxel with a number in it (all NaN or infinite)", "HU in every voxel", "write the scan again")
}

fn true_value<T: Stored>(v: T, scaling: Option<(f64, f64)>) -> f64 {
    scaling.map_or(v.to_f64(), |(slope, inter)| v.to_f64() * slope + inter)
}

fn survey<T: Stored>(raw: &[u8], scaling: Option<(f64, f64)>) -> Survey {
    // Scaled labels (0 and 1 stored as 0 and 100 with slope 0.01) are whole only up to f32 rounding of the slope.
    let tolerance = if scaling.is_some() { 1e-4 } else { 0.0 };
    let part = |raw: &[u8]| {
        let mut seen = Survey { voxels: raw.len() / T::BYTES, ..Survey::default() };
        for number in raw.chunks_exact(T::BYTES) {
            let value = true_value(T::from_le(number), scaling);
            if !value.is_finite() {
                seen.not_finite += 1;
                continue;
            }
            seen.fractional += usize::from((value - value.round()).abs() > tolerance);
            seen.min = seen.min.min(value);
            seen.max = seen.max.max(value);
        }
        // What is whole but for rounding is meant to be whole.
        if seen.fractional == 0 && tolerance > 0.0 {
            (seen.min, seen.max) = (seen.min.round(), seen.max.round());
        }
        seen
    };
    raw.par_chunks(1 << 20).map(part).reduce(Survey::default, Survey::and)
}

fn any_finite<T: Stored>(raw: &[u8], scaling: Option<(f64, f64)>) -> bool {
    raw.chunks_exact(T::BYTES).any(|number| (true_value(T::from_le(number), scaling) as f32).is_finite())
}

fn hu<T: Stored>(raw: &[u8], shape: [usize; 3], scaling: Option<(f64, f64)>, out: &mut [f32]) {
    match scaling {
        None => from_file_order(raw, shape, out, |v: T| v.to_f32()),
        Some((slope, inter)) => from_file_order(raw, shape, out, |v: T| (v.to_f64() * slope + inter) as f32),
    }
}

fn classes<T: Stored>(raw: &[u8], shape: [usize; 3], scaling: Option<(f64, f64)>, out: &mut [u8]) {
    from_file_order(raw, shape, out, |v: T| true_value(v, scaling).round() as u8);
}

/// Gives every voxel a number: NaN and minus infinity the lowest of the scan, so that what is outside stays outside in any unit; plus infinity the
/// highest.
fn fill(data: &mut [f32]) -> Option<Warning> {
    let lacking = data.iter().filter(|v| !v.is_finite()).count();
    if lacking == 0 {
        return None;
    }
    let (low, high) = data.iter().filter(|v| v.is_finite()).fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    data.iter_mut().filter(|v| !v.is_finite()).for_each(|v| *v = if *v == f32::INFINITY { high } else { low });
    let action =
        format!("they were read as the lowest value of the scan, {low} (plus infinity as the highest, {high}); fill them as you mean them");
    Some(Warning::new(format!("{lacking} of {} voxels NaN or infinite", data.len()), "HU in every voxel", action))
}

/// Write labels (C order over `[x][y][z]`) as uint8 `.nii.gz`, atomically.
///
/// Where `geometry` was read from a NIfTI file, the header is that file's, byte for byte, in its version (1 or 2) and byte order, but for the fields
/// that say how voxels are stored: datatype, bitpix, vox_offset, scl_slope, scl_inter, cal_max, cal_min. The header of a `.hdr`/`.img` pair becomes
/// that of a single file (its magic), and header extensions are left out. A grid from any other format gets a new NIfTI-1 header.
pub fn write_labels(path: &Path, data: &[u8], geometry: &Geometry) -> Result<()> {
    write(path, data, geometry, Dtype::Uint8, |v| [v])
}

/// Write a scan as int16 HU (rounded, half to even) `.nii.gz`, atomically; header as in [`write_labels`].
pub fn write_volume(path: &Path, volume: &Volume) -> Result<()> {
    if volume.data.iter().any(|v| !v.is_finite()) {
        return Err(Error::file(path, "a scan with NaN or infinite voxels", "HU in every voxel", "look for the step that made them"));
    }
    write(path, &volume.data, &volume.geometry, Dtype::Int16, |v: f32| (v.round_ties_even() as i16).to_le_bytes())
}

/// Write one probability per voxel as float32 `.nii.gz`, atomically; header as in [`write_labels`].
pub fn write_probability(path: &Path, data: &[f32], geometry: &Geometry) -> Result<()> {
    write(path, data, geometry, Dtype::Float32, f32::to_le_bytes)
}

fn write<T: Copy + Send + Sync, const N: usize>(
    path: &Path,
    data: &[T],
    geometry: &Geometry,
    dtype: Dtype,
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
    let (StoredHeader { bytes, big_endian }, voxels_at) = for_output(path, geometry, dtype)?;
    let mut file = zeroed::<u8>(voxels_at + data.len() * N, path)?;
    file[..bytes.len()].copy_from_slice(&bytes);
    to_file_order(data, geometry.shape, &mut file[voxels_at..], encode);
    if big_endian {
        swap_bytes(&mut file[voxels_at..], N);
    }
    write_atomic(path, &gzip(&file, path)?)
}
