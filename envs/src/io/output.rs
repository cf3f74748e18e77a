//! Headers of files to be written.

use std::path::Path;

use super::StoredHeader;
use super::header::{Dtype, Layout, Version};
use crate::volume::{Affine, Geometry};
use crate::{Error, Result};

/// The header of a file to be written: the stored one where there is one, with only the voxel type, scaling and display range changed, so that
/// shape, both forms and their codes, spacing, units, version and byte order stay as they were; a pair becomes a single file. Else a new NIfTI-1
/// header with sform and qform.
///
/// The second value is where the voxels begin: behind the header and the four bytes that say "no extension".
pub(super) fn for_output(path: &Path, geometry: &Geometry, dtype: Dtype) -> Result<(StoredHeader, usize)> {
    let (mut out, version) = match &geometry.stored {
        Some(stored) => {
            let layout = Layout::parse(path, &stored.bytes)?;
            if layout.geometry.shape != geometry.shape || layout.geometry.affine != geometry.affine {
                return Err(Error::Mismatch {
                    case: path.display().to_string(),
                    found: format!("a grid of {:?} with another grid's header", geometry.shape),
                    expected: format!("{:?} at the header's position", layout.geometry.shape),
                    action: "bring the result back to the grid of the input before writing".into(),
                });
            }
            let bytes = stored.bytes[..layout.version.bytes()].to_vec();
            (StoredHeader { bytes, big_endian: layout.big_endian }, layout.version)
        }
        None => (StoredHeader { bytes: fresh(path, geometry)?, big_endian: false }, Version::One),
    };
    let (big, voxels_at) = (out.big_endian, version.bytes() + 4);
    let mut put = |at: usize, le: &[u8]| {
        out.bytes[at..at + le.len()].copy_from_slice(le);
        if big {
            out.bytes[at..at + le.len()].reverse();
        }
    };
    let (code, bits) = (dtype.code().to_le_bytes(), (dtype.bytes() as i16 * 8).to_le_bytes());
    // The display range (cal_max, cal_min) is of the input's values, not of ours.
    match version {
        Version::One => {
            put(70, &code);
            put(72, &bits);
            put(108, &(voxels_at as f32).to_le_bytes());
            [(112, 1f32), (116, 0.0), (124, 0.0), (128, 0.0)].into_iter().for_each(|(at, v)| put(at, &v.to_le_bytes()));
        }
        Version::Two => {
            put(12, &code);
            put(14, &bits);
            put(168, &(voxels_at as i64).to_le_bytes());
            [(176, 1f64), (184, 0.0), (192, 0.0), (200, 0.0)].into_iter().for_each(|(at, v)| put(at, &v.to_le_bytes()));
        }
    }
    let magic = version.single_file();
    out.bytes[version.magic_at()..][..magic.len()].copy_from_slice(magic);
    Ok((out, voxels_at))
}

/// A little-endian header for a grid that was not read from a file.
fn fresh(path: &Path, g: &Geometry) -> Result<Vec<u8>> {
    if g.shape.iter().any(|&n| n == 0 || n > i16::MAX as usize) {
        return Err(Error::file(path, format!("a grid of {:?}", g.shape), "1 to 32767 voxels an axis (NIfTI-1)", "crop the volume"));
    }
    let mut bytes = vec![0u8; Version::One.bytes()];
    let mut put = |at: usize, le: &[u8]| bytes[at..at + le.len()].copy_from_slice(le);
    put(0, &348i32.to_le_bytes());
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
