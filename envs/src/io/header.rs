//! The NIfTI-1 header: what it says about voxels and where they are, and how to write one.

use std::path::Path;
use std::sync::Arc;

use nifti::{Endianness, NiftiHeader, NiftiType};

use super::{Opened, StoredHeader};
use crate::volume::{Affine, Geometry};
use crate::{Error, Result};

/// Size of a NIfTI-1 header.
pub(super) const BYTES: usize = 348;
/// First voxel byte of the single files written here: header and the four bytes that say "no extension".
pub(super) const VOXELS_AT: usize = 352;
/// No CT is larger: 2^31 voxels are 8 GiB as f32.
const MOST_VOXELS: u64 = 1 << 31;

/// Where the voxels are in a file, how they are stored, and where they are in the world.
pub(super) struct Layout {
    pub geometry: Geometry,
    pub kind: NiftiType,
    /// First voxel byte in the file.
    pub offset: u64,
    /// Stored value times slope plus intercept is the true value; `None`: stored values are true.
    pub scaling: Option<(f64, f64)>,
}

impl Layout {
    /// Check and understand the 348 bytes of a header.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let refuse = |found: String, expected: &str, action: &str| Err(Error::file(path, found, expected, action));
        let big_endian = bytes.first_chunk().is_some_and(|&b| i32::from_be_bytes(b) == BYTES as i32);
        let header = match NiftiHeader::from_reader(bytes) {
            Ok(h) => h,
            Err(e) => return refuse(format!("a header with a wrong magic ({e})"), "magic n+1", "the file is damaged: copy it again"),
        };
        // The crate tells the order by dim[0], this reader by sizeof_hdr: where they differ dim[0] is nonsense.
        let dims = i16_dims(bytes, big_endian);
        if (header.endianness == Endianness::Big) != big_endian || !(1..=7).contains(&dims[0]) {
            return refuse(format!("dim[0] = {}", dims[0]), "1 to 7", "repair the header");
        }
        if &header.magic != nifti::header::MAGIC_CODE_NIP1 {
            return refuse("one half of a .hdr/.img pair".into(), "a single file", "join the pair into one .nii (nibabel, fslchfiletype)");
        }
        let used = &dims[1..=dims[0] as usize];
        if let Some(a) = used.iter().position(|&n| n < 1) {
            return refuse(format!("dim[{}] = {}", a + 1, used[a]), "at least 1", "repair the header");
        }
        if used.iter().skip(3).any(|&n| n != 1) {
            return refuse(format!("a series of shape {used:?}"), "one volume (three axes)", "split it into single volumes");
        }
        let shape: [usize; 3] = std::array::from_fn(|a| used.get(a).map_or(1, |&n| n as usize));
        let voxels: u64 = shape.iter().map(|&n| n as u64).product();
        if voxels > MOST_VOXELS {
            return refuse(format!("{shape:?} = {voxels} voxels"), "at most 2^31", "repair the header");
        }
        let kind = match header.data_type() {
            Ok(k) if bytes_of(k).is_some() => k,
            Ok(k) => {
                return refuse(
                    format!("voxels of type {k:?}"),
                    "a real scalar type (int8 to int64, uint8 to uint64, float32, float64)",
                    "convert the file",
                );
            }
            Err(_) => return refuse(format!("datatype code {}", header.datatype), "a NIfTI-1 data type", "repair the header"),
        };
        // 0 in a single file is written by some tools and means "right behind the header".
        let offset = if header.vox_offset == 0.0 { VOXELS_AT as f32 } else { header.vox_offset };
        if !(offset >= BYTES as f32 && offset < 1e9) {
            return refuse(format!("vox_offset = {offset}"), "348 or more", "repair the header");
        }
        // A slope of 0 or NaN says "not scaled", and then the intercept doesn't count either; as nibabel does it.
        let (slope, inter) = (header.scl_slope as f64, header.scl_inter as f64);
        let scaled = slope != 0.0 && slope.is_finite();
        if scaled && !inter.is_finite() {
            return refuse(format!("scl_inter = {inter}"), "a finite number", "repair the header");
        }
        let affine = affine(path, &header, shape)?;
        let stored = Some(Arc::new(StoredHeader { bytes: bytes.to_vec(), big_endian }));
        Ok(Layout {
            geometry: Geometry { shape, affine, stored },
            kind,
            offset: offset as u64,
            scaling: (scaled && (slope, inter) != (1.0, 0.0)).then_some((slope, inter)),
        })
    }

    /// What was read with this layout.
    pub fn opened<T>(self, item: impl FnOnce(Geometry) -> T) -> Opened<T> {
        let dtype = format!("{:?}", self.kind).to_lowercase();
        Opened { item: item(self.geometry), format: "NIfTI-1", dtype, warnings: Vec::new() }
    }

    /// Bytes from the start of the file to behind the last voxel.
    pub fn bytes_needed(&self) -> u64 {
        self.offset + self.geometry.voxels() as u64 * bytes_of(self.kind).unwrap_or(1) as u64
    }
}

fn i16_dims(bytes: &[u8], big_endian: bool) -> [i16; 8] {
    std::array::from_fn(|i| {
        let b = [bytes[40 + 2 * i], bytes[41 + 2 * i]];
        if big_endian { i16::from_be_bytes(b) } else { i16::from_le_bytes(b) }
    })
}

/// Size of a real scalar; `None` for the types this reader refuses.
pub(super) fn bytes_of(kind: NiftiType) -> Option<usize> {
    use NiftiType::*;
    matches!(kind, Uint8 | Int8 | Uint16 | Int16 | Uint32 | Int32 | Uint64 | Int64 | Float32 | Float64).then(|| kind.size_of())
}

/// Voxel to world as NIfTI orders it: sform where its code says so, else qform, else pixdim alone.
fn affine(path: &Path, h: &NiftiHeader, shape: [usize; 3]) -> Result<Affine> {
    let (name, m) = if h.sform_code > 0 {
        ("sform", [h.srow_x, h.srow_y, h.srow_z].map(|row| row.map(f64::from)))
    } else if h.qform_code > 0 {
        ("qform", qform(h))
    } else {
        ("pixdim", centred(h, shape))
    };
    let g = Geometry { shape, affine: m, stored: None };
    let size: f64 = g.spacing_mm().iter().product();
    // Relative to the box that the columns span; NaN and infinity fail the comparison as well.
    if m.as_flattened().iter().all(|v| v.is_finite()) && size > 0.0 && g.voxel_ml() * 1000.0 > 1e-6 * size {
        return Ok(m);
    }
    Err(Error::file(path, format!("a {name} of {m:?}"), "three independent directions with finite numbers", "repair the header's geometry"))
}

/// Rotation from the quaternion, spacing from pixdim, handedness from pixdim[0]. All in f64 from the stored f32.
fn qform(h: &NiftiHeader) -> Affine {
    let q = [h.quatern_b, h.quatern_c, h.quatern_d].map(f64::from);
    let square: f64 = q.iter().map(|v| v * v).sum();
    // Within f32 rounding of a half turn it is one, as in nibabel; the stored three are scaled back to unit length, as everywhere.
    let (a, scale) = if 1.0 - square < 3.0 * f32::EPSILON as f64 { (0.0, 1.0 / square.sqrt()) } else { ((1.0 - square).sqrt(), 1.0) };
    let [b, c, d] = q.map(|v| v * scale);
    let qfac = if h.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    // Some tools store negative sizes; as nibabel reads them, only the quaternion and qfac say directions.
    let [dx, dy, dz] = std::array::from_fn(|i| h.pixdim[i + 1].abs() as f64);
    let dz = dz * qfac;
    [
        [(a * a + b * b - c * c - d * d) * dx, 2.0 * (b * c - a * d) * dy, 2.0 * (b * d + a * c) * dz, h.quatern_x as f64],
        [2.0 * (b * c + a * d) * dx, (a * a + c * c - b * b - d * d) * dy, 2.0 * (c * d - a * b) * dz, h.quatern_y as f64],
        [2.0 * (b * d - a * c) * dx, 2.0 * (c * d + a * b) * dy, (a * a + d * d - b * b - c * c) * dz, h.quatern_z as f64],
    ]
}

/// Neither form is valid: nibabel's reading of such files (and so MONAI's), first axis to the left, origin in the middle.
fn centred(h: &NiftiHeader, shape: [usize; 3]) -> Affine {
    let mut m = [[0.0; 4]; 3];
    for a in 0..3 {
        let size = h.pixdim[a + 1].abs() as f64 * if a == 0 { -1.0 } else { 1.0 };
        m[a][a] = size;
        m[a][3] = -size * (shape[a] as f64 - 1.0) / 2.0;
    }
    m
}

/// The header of a file to be written: the stored one where there is one, with only the voxel type, scaling and display range changed, so that
/// shape, both forms and their codes, spacing, units and the byte order stay as they were; else a new one with sform and qform.
pub(super) fn for_output(path: &Path, geometry: &Geometry, kind: NiftiType) -> Result<StoredHeader> {
    let mut out = match &geometry.stored {
        Some(stored) => {
            let as_stored = Layout::parse(path, &stored.bytes)?.geometry;
            if as_stored.shape != geometry.shape || as_stored.affine != geometry.affine {
                return Err(Error::Mismatch {
                    case: path.display().to_string(),
                    found: format!("a grid of {:?} with another grid's header", geometry.shape),
                    expected: format!("{:?} at the header's position", as_stored.shape),
                    action: "bring the result back to the grid of the input before writing".into(),
                });
            }
            stored.as_ref().clone()
        }
        None => StoredHeader { bytes: fresh(path, geometry)?, big_endian: false },
    };
    let big = out.big_endian;
    let mut put = |at: usize, le: &[u8]| {
        out.bytes[at..at + le.len()].copy_from_slice(le);
        if big {
            out.bytes[at..at + le.len()].reverse();
        }
    };
    put(70, &(kind as i16).to_le_bytes());
    put(72, &(kind.size_of() as i16 * 8).to_le_bytes());
    put(108, &(VOXELS_AT as f32).to_le_bytes());
    put(112, &1f32.to_le_bytes()); // scl_slope
    put(116, &0f32.to_le_bytes()); // scl_inter
    put(124, &0f32.to_le_bytes()); // cal_max, cal_min: of the input's values, not of ours
    put(128, &0f32.to_le_bytes());
    Ok(out)
}

/// A little-endian header for a grid that was not read from a file.
fn fresh(path: &Path, g: &Geometry) -> Result<Vec<u8>> {
    if g.shape.iter().any(|&n| n == 0 || n > i16::MAX as usize) {
        return Err(Error::file(path, format!("a grid of {:?}", g.shape), "1 to 32767 voxels an axis (NIfTI-1)", "crop the volume"));
    }
    let mut bytes = vec![0u8; BYTES];
    let mut put = |at: usize, le: &[u8]| bytes[at..at + le.len()].copy_from_slice(le);
    put(0, &(BYTES as i32).to_le_bytes());
    put(38, b"r");
    for (i, n) in [3, g.shape[0], g.shape[1], g.shape[2], 1, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * i, &(n as i16).to_le_bytes());
    }
    let spacing = g.spacing_mm();
    let (quaternion, qfac) = quaternion(&g.affine, spacing);
    for (i, v) in [qfac, spacing[0], spacing[1], spacing[2], 1.0, 1.0, 1.0, 1.0].into_iter().enumerate() {
        put(76 + 4 * i, &(v as f32).to_le_bytes());
    }
    put(123, &[2]); // mm
    put(252, &1i16.to_le_bytes()); // qform: scanner
    put(254, &1i16.to_le_bytes()); // sform: scanner
    let origin = g.affine.map(|row| row[3]);
    for (i, v) in quaternion.into_iter().chain(origin).chain(g.affine.into_iter().flatten()).enumerate() {
        put(256 + 4 * i, &(v as f32).to_le_bytes());
    }
    put(344, b"n+1\0");
    Ok(bytes)
}

/// (b, c, d) of the rotation in an affine, and its handedness. Shear can't be said in a qform; the sform says it.
fn quaternion(affine: &Affine, spacing: [f64; 3]) -> ([f64; 3], f64) {
    let mut r: [[f64; 3]; 3] = std::array::from_fn(|i| std::array::from_fn(|j| affine[i][j] / spacing[j]));
    let det = r[0][0] * (r[1][1] * r[2][2] - r[1][2] * r[2][1]) - r[0][1] * (r[1][0] * r[2][2] - r[1][2] * r[2][0])
        + r[0][2] * (r[1][0] * r[2][1] - r[1][1] * r[2][0]);
    let qfac = if det < 0.0 { -1.0 } else { 1.0 };
    r.iter_mut().for_each(|row| row[2] *= qfac);
    // Sizes from the diagonal (never a division by something small), signs from the off-diagonal with a >= 0.
    let size = |x: f64| (x.max(0.0)).sqrt() / 2.0;
    let a = size(1.0 + r[0][0] + r[1][1] + r[2][2]);
    let [b, c, d] =
        [size(1.0 + r[0][0] - r[1][1] - r[2][2]), size(1.0 - r[0][0] + r[1][1] - r[2][2]), size(1.0 - r[0][0] - r[1][1] + r[2][2])];
    if a > 1e-4 {
        return ([b.copysign(r[2][1] - r[1][2]), c.copysign(r[0][2] - r[2][0]), d.copysign(r[1][0] - r[0][1])], qfac);
    }
    // A half turn: a = 0, both signs of the axis say the same, so the largest part is made positive.
    let v = if b >= c && b >= d {
        [b, c.copysign(r[0][1] + r[1][0]), d.copysign(r[0][2] + r[2][0])]
    } else if c >= d {
        [b.copysign(r[0][1] + r[1][0]), c, d.copysign(r[1][2] + r[2][1])]
    } else {
        [b.copysign(r[0][2] + r[2][0]), c.copysign(r[1][2] + r[2][1]), d]
    };
    (v, qfac)
}
