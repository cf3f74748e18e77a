//! What a NIfTI header says about voxels and where they are: NIfTI-1 (348 bytes) and NIfTI-2 (540 bytes), of single files and of pairs.

use std::path::Path;
use std::sync::Arc;

use nifti::{Endianness, NiftiHeader, NiftiType};

use super::{StoredHeader, Warning, forms};
use crate::volume::Geometry;
use crate::{Error, Result};

/// Size of the larger header, NIfTI-2's.
pub(super) const MOST_BYTES: usize = 540;
/// No CT is larger: 2^31 voxels are 8 GiB as f32.
const MOST_VOXELS: u64 = 1 << 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Version {
    /// The version and whether numbers are big-endian, told by the size that a header begins with.
    pub fn of(head: &[u8]) -> Option<(Version, bool)> {
        let size = *head.first_chunk()?;
        [Version::One, Version::Two].into_iter().find_map(|version| match version.bytes() as i32 {
            n if i32::from_le_bytes(size) == n => Some((version, false)),
            n if i32::from_be_bytes(size) == n => Some((version, true)),
            _ => None,
        })
    }

    /// Size of the header.
    pub fn bytes(self) -> usize {
        if self == Version::One { 348 } else { MOST_BYTES }
    }

    pub fn magic_at(self) -> usize {
        if self == Version::One { 344 } else { 4 }
    }

    /// The magic of a header with its voxels in the same file.
    pub fn single_file(self) -> &'static [u8] {
        if self == Version::One { b"n+1\0" } else { b"n+2\0\r\n\x1a\n" }
    }

    /// The magic of a header whose voxels are in a file of their own.
    fn pair(self) -> &'static [u8] {
        if self == Version::One { b"ni1\0" } else { b"ni2\0\r\n\x1a\n" }
    }

    /// Whether a header of this version begins `head`, by its magic.
    pub fn has_magic(self, head: &[u8]) -> bool {
        head.get(self.magic_at()..).is_some_and(|rest| [self.single_file(), self.pair()].iter().any(|m| rest.starts_with(m)))
    }

    pub fn name(self) -> &'static str {
        if self == Version::One { "NIfTI-1" } else { "NIfTI-2" }
    }
}

/// How a voxel is stored: the real scalars of NIfTI with their codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    Uint8 = NiftiType::Uint8 as isize,
    Int16 = NiftiType::Int16 as isize,
    Int32 = NiftiType::Int32 as isize,
    Float32 = NiftiType::Float32 as isize,
    Float64 = NiftiType::Float64 as isize,
    Int8 = NiftiType::Int8 as isize,
    Uint16 = NiftiType::Uint16 as isize,
    Uint32 = NiftiType::Uint32 as isize,
    Int64 = NiftiType::Int64 as isize,
    Uint64 = NiftiType::Uint64 as isize,
}

impl Dtype {
    pub const ALL: [Dtype; 10] = {
        use Dtype::*;
        [Uint8, Int16, Int32, Float32, Float64, Int8, Uint16, Uint32, Int64, Uint64]
    };

    pub fn code(self) -> i16 {
        self as i16
    }

    pub fn bytes(self) -> usize {
        use Dtype::*;
        match self {
            Uint8 | Int8 => 1,
            Int16 | Uint16 => 2,
            Int32 | Uint32 | Float32 => 4,
            Float64 | Int64 | Uint64 => 8,
        }
    }

    /// In numpy's words.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub fn is_float(self) -> bool {
        matches!(self, Dtype::Float32 | Dtype::Float64)
    }
}

/// What the codes mean that this reader refuses.
fn unread_type(code: i16) -> Option<&'static str> {
    Some(match code {
        0 => "unknown type",
        1 => "1 bit",
        32 => "complex64",
        128 => "RGB colours (rgb24)",
        1536 => "float128",
        1792 => "complex128",
        2048 => "complex256",
        2304 => "RGBA colours (rgba32)",
        _ => return None,
    })
}

/// The fields of either version that say something about voxels, as stored.
pub(super) struct Fields {
    pub dim: [i64; 8],
    pub datatype: i16,
    pub bitpix: i16,
    pub pixdim: [f64; 8],
    pub vox_offset: f64,
    pub slope: f64,
    pub inter: f64,
    /// 1 metre, 2 mm, 3 micrometre in the lowest three bits.
    pub units: i32,
    pub qform_code: i32,
    pub sform_code: i32,
    /// (b, c, d) of the qform's quaternion.
    pub quatern: [f64; 3],
    pub qoffset: [f64; 3],
    pub srow: [[f64; 4]; 3],
    /// Rounding of the stored numbers.
    pub epsilon: f64,
}

impl Fields {
    /// `None` where the byte order that dim[0] tells is not that of the header's size.
    fn of(bytes: &[u8], version: Version, big: bool) -> Option<Fields> {
        let n = Numbers { bytes, big };
        Some(match version {
            Version::One => {
                let h = NiftiHeader::from_reader(bytes).ok().filter(|h| (h.endianness == Endianness::Big) == big)?;
                Fields {
                    dim: h.dim.map(|n| (n as i16).into()),
                    datatype: h.datatype,
                    bitpix: h.bitpix,
                    pixdim: h.pixdim.map(f64::from),
                    vox_offset: h.vox_offset.into(),
                    slope: h.scl_slope.into(),
                    inter: h.scl_inter.into(),
                    units: h.xyzt_units.into(),
                    qform_code: h.qform_code.into(),
                    sform_code: h.sform_code.into(),
                    quatern: [h.quatern_b, h.quatern_c, h.quatern_d].map(f64::from),
                    qoffset: [h.quatern_x, h.quatern_y, h.quatern_z].map(f64::from),
                    srow: [h.srow_x, h.srow_y, h.srow_z].map(|row| row.map(f64::from)),
                    epsilon: f32::EPSILON.into(),
                }
            }
            Version::Two => Fields {
                dim: std::array::from_fn(|i| n.i64(16 + 8 * i)),
                datatype: n.i16(12),
                bitpix: n.i16(14),
                pixdim: std::array::from_fn(|i| n.f64(104 + 8 * i)),
                vox_offset: n.i64(168) as f64,
                slope: n.f64(176),
                inter: n.f64(184),
                units: n.i32(500),
                qform_code: n.i32(344),
                sform_code: n.i32(348),
                quatern: std::array::from_fn(|i| n.f64(352 + 8 * i)),
                qoffset: std::array::from_fn(|i| n.f64(376 + 8 * i)),
                srow: std::array::from_fn(|r| std::array::from_fn(|c| n.f64(400 + 32 * r + 8 * c))),
                epsilon: f64::EPSILON,
            },
        })
    }
}

/// Numbers at a place of a header, in its byte order.
struct Numbers<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl Numbers<'_> {
    /// Little-endian; zeros where the header ends before.
    fn at<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut number = [0; N];
        if let Some(stored) = self.bytes.get(at..at + N) {
            number.copy_from_slice(stored);
        }
        if self.big {
            number.reverse();
        }
        number
    }

    fn i16(&self, at: usize) -> i16 {
        i16::from_le_bytes(self.at(at))
    }

    fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.at(at))
    }

    fn i64(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.at(at))
    }

    fn f64(&self, at: usize) -> f64 {
        f64::from_le_bytes(self.at(at))
    }
}

/// Where the voxels are in a file, how they are stored, and where they are in the world.
pub(super) struct Layout {
    pub geometry: Geometry,
    pub version: Version,
    pub big_endian: bool,
    /// The voxels are in a file of their own.
    pub pair: bool,
    pub dtype: Dtype,
    /// First voxel byte in the file that holds them.
    pub offset: u64,
    /// Stored value times slope plus intercept is the true value; `None`: stored values are true.
    pub scaling: Option<(f64, f64)>,
    /// What is odd about the header.
    pub warnings: Vec<Warning>,
}

impl Layout {
    /// Check and understand a header. `bytes` may go on behind it.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let refuse = |found: String, expected: &str, action: &str| Err(Error::file(path, found, expected, action));
        let Some((version, big_endian)) = Version::of(bytes).filter(|(v, _)| bytes.len() >= v.bytes()) else {
            return refuse(format!("{} bytes that are no NIfTI header", bytes.len()), "348 or 540 bytes", "copy the file again");
        };
        let bytes = &bytes[..version.bytes()];
        let pair = is_pair(path, bytes, version)?;
        let Some(fields) = Fields::of(bytes, version, big_endian) else {
            let dim = Numbers { bytes, big: big_endian }.i16(40);
            return refuse(format!("dim[0] = {dim}"), "1 to 7", "repair the header");
        };
        let shape = shape(path, &fields)?;
        let mut warnings = Vec::new();
        let dtype = match Dtype::ALL.into_iter().find(|d| d.code() == fields.datatype) {
            Some(dtype) => dtype,
            None => {
                let what = unread_type(fields.datatype).map_or("none that NIfTI knows".into(), |w| format!("voxels of {w}"));
                let expected = "a real scalar type (int8 to int64, uint8 to uint64, float32, float64)";
                return refuse(format!("datatype code {}, {what}", fields.datatype), expected, "convert the file to a scan in HU");
            }
        };
        if i64::from(fields.bitpix) != dtype.bytes() as i64 * 8 {
            let (found, expected) = (format!("bitpix = {}", fields.bitpix), format!("{} for {}", dtype.bytes() * 8, dtype.name()));
            warnings.push(Warning::new(found, expected, "the datatype was taken; repair the header"));
        }
        let offset = offset(path, &fields, version, pair, &mut warnings)?;
        // A slope of 0 or NaN says "not scaled", and then the intercept doesn't count either; as nibabel does it.
        let (slope, inter) = (fields.slope, fields.inter);
        if slope.is_infinite() {
            let action = "the stored values were taken as they are; repair the header";
            warnings.push(Warning::new(format!("scl_slope = {slope}"), "a finite number", action));
        }
        if slope < 0.0 && slope.is_finite() {
            let action = "it was applied; check that air is at -1000 and not at 1000";
            warnings.push(Warning::new(format!("scl_slope = {slope:?}"), "a slope above 0", action));
        }
        let scaled = slope != 0.0 && slope.is_finite();
        if scaled && !inter.is_finite() {
            return refuse(format!("scl_inter = {inter}"), "a finite number", "repair the header");
        }
        let (affine, odd) = forms::affine(path, &fields, shape)?;
        warnings.extend(odd);
        let stored = Some(Arc::new(StoredHeader { bytes: bytes.to_vec(), big_endian }));
        Ok(Layout {
            geometry: Geometry { shape, affine, stored },
            version,
            big_endian,
            pair,
            dtype,
            offset,
            scaling: (scaled && (slope, inter) != (1.0, 0.0)).then_some((slope, inter)),
            warnings,
        })
    }

    /// Bytes from the start of the file to behind the last voxel.
    pub fn bytes_needed(&self) -> u64 {
        self.offset + self.geometry.voxels() as u64 * self.dtype.bytes() as u64
    }
}

fn is_pair(path: &Path, bytes: &[u8], version: Version) -> Result<bool> {
    let (single, pair) = (version.single_file(), version.pair());
    let magic = &bytes[version.magic_at()..][..single.len()];
    if version.has_magic(bytes) {
        return Ok(magic == pair);
    }
    let (found, action) = if magic[..4] == single[..4] || magic[..4] == pair[..4] {
        ("a NIfTI-2 signature whose line ends were changed", "the file went through a transfer of texts: copy it again as a binary file")
    } else if version == Version::One && (magic == [0; 4] || bytes[32..36] == [0, 0, 0x40, 0] || bytes[32..36] == [0, 0x40, 0, 0]) {
        // Extents of 16384 or an empty magic are Analyze's. It doesn't say left from right.
        ("an Analyze 7.5 header", "Analyze doesn't tell left from right: convert the original scan again (dcm2niix)")
    } else {
        let text = magic.escape_ascii();
        return Err(Error::file(
            path,
            format!("a header with the wrong magic \"{text}\""),
            "magic n+1",
            "the file is damaged: copy it again",
        ));
    };
    Err(Error::file(path, found, "a NIfTI-1 or NIfTI-2 header", action))
}

/// The three axes of a scan; more only where they have one step.
fn shape(path: &Path, fields: &Fields) -> Result<[usize; 3]> {
    let refuse = |found: String, expected: &str, action: &str| Err(Error::file(path, found, expected, action));
    let dim = &fields.dim;
    if !(1..=7).contains(&dim[0]) {
        return refuse(format!("dim[0] = {}", dim[0]), "1 to 7", "repair the header");
    }
    let used = &dim[1..=dim[0] as usize];
    if let Some(a) = used.iter().position(|&n| n < 1) {
        return refuse(format!("dim[{}] = {}", a + 1, used[a]), "at least 1", "repair the header");
    }
    if used.iter().skip(3).any(|&n| n != 1) {
        return refuse(format!("a series of shape {used:?}"), "one volume (three axes)", "split it into single volumes");
    }
    let shape = std::array::from_fn(|a| used.get(a).map_or(1, |&n| n as u64));
    match shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n)) {
        Some(voxels) if voxels <= MOST_VOXELS => Ok(shape.map(|n| n as usize)),
        _ => refuse(format!("{shape:?} voxels"), "at most 2^31", "repair the header"),
    }
}

/// First voxel byte of the file that holds the voxels.
fn offset(path: &Path, fields: &Fields, version: Version, pair: bool, warnings: &mut Vec<Warning>) -> Result<u64> {
    let (stored, header) = (fields.vox_offset, version.bytes() as f64);
    if stored == 0.0 && !pair {
        // Written by some tools; means "right behind the header".
        let behind = version.bytes() as u64 + 4;
        let (found, expected) = ("vox_offset = 0 in a single file", format!("{behind} or more"));
        warnings.push(Warning::new(found, expected, format!("read as {behind}; repair the header")));
        return Ok(behind);
    }
    let least = if pair { 0.0 } else { header };
    if stored >= least && stored < 1e12 {
        return Ok(stored as u64);
    }
    Err(Error::file(path, format!("vox_offset = {stored}"), format!("{least} or more, within the file"), "repair the header"))
}
