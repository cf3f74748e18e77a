//! Where a NIfTI header puts its voxels: sform, qform, or voxel sizes alone, and how far they are apart in mm.

use std::path::Path;

use super::Warning;
use super::header::Fields;
use crate::volume::{Affine, Geometry};
use crate::{Error, Result};

/// Two readings of one header that put no voxel further apart than this are the same: rounding of quaternions near half turns makes up to 0.3 mm.
const SILENT_MM: f64 = 0.5;
/// And never more than half a voxel.
const SILENT_VOXELS: f64 = 0.5;
/// The box that three axes span over that of orthogonal ones. Scanners tilt up to 30 degrees (0.87); below this, axes are within 3 degrees of one plane.
const FLATTEST: f64 = 0.05;
/// Voxel sizes of scanners, in mm, with much room.
const USUAL_MM: [f64; 2] = [0.02, 50.0];
/// A kilometre. What is larger is no number that anybody meant.
const FARTHEST_MM: f64 = 1e6;

/// Voxel to world in mm as NIfTI orders it: sform where its code says so, else qform, else pixdim alone; and what is odd about it.
pub(super) fn affine(path: &Path, f: &Fields, shape: [usize; 3]) -> Result<(Affine, Vec<Warning>)> {
    let mut warnings = Vec::new();
    let sform = (f.sform_code > 0).then_some(f.srow);
    let qform = (f.qform_code > 0).then(|| qform(f));
    let (name, stored) = match (sform, qform) {
        (Some(s), q) if spans(&s) || !q.is_some_and(|q| spans(&q)) => ("sform", s),
        (Some(s), Some(q)) => {
            let action = "the qform was taken; repair the header";
            warnings.push(Warning::new(format!("an sform of {}", text(&s)), "three independent directions with finite numbers", action));
            ("qform", q)
        }
        (_, Some(q)) => ("qform", q),
        _ => ("pixdim", centred(f, shape)),
    };
    if !spans(&stored) {
        if name != "sform"
            && let Some(a) = (1..4).find(|&a| !f.pixdim[a].is_finite() || f.pixdim[a] == 0.0)
        {
            let found = format!("a voxel size of pixdim[{a}] = {:?} and no sform", f.pixdim[a]);
            return Err(Error::file(path, found, "a finite size above 0 mm", "repair the header's geometry"));
        }
        let expected = "three independent directions with finite numbers";
        return Err(Error::file(path, format!("a {name} of {}", text(&stored)), expected, "repair the header's geometry"));
    }
    let in_units = |m: Affine| Geometry { shape, affine: m, stored: None };
    let (scale, unit) = unit(f.units, in_units(stored).spacing_mm());
    warnings.extend(unit);
    let grid = in_units(scaled(&stored, scale));
    if grid.affine.as_flattened().iter().any(|v| v.abs() > FARTHEST_MM) {
        let expected = format!("sizes and places below {FARTHEST_MM} mm");
        return Err(Error::file(path, format!("a {name} of {}", text(&stored)), expected, "repair the header's geometry"));
    }
    let spacing = grid.spacing_mm();
    let silent = SILENT_MM.min(spacing.into_iter().fold(f64::INFINITY, f64::min) * SILENT_VOXELS);

    if name == "pixdim" {
        let action = "read with its first axis to the left and its middle at 0; give it the scanner's orientation (dcm2niix)";
        warnings.push(Warning::new("neither sform nor qform: only the voxel sizes are known", "where the scan lies", action));
    }
    let fits = |q: &Affine| spans(q) && scaled(q, scale).as_flattened().iter().all(|v| v.abs() <= FARTHEST_MM);
    let apart = match qform {
        Some(q) if name == "sform" && fits(&q) => grid.corner_distance_mm(&in_units(scaled(&q, scale))),
        _ => 0.0,
    };
    let sizes_apart = |a: usize| (f.pixdim[a + 1].abs() * scale - spacing[a]).abs() * shape[a] as f64;
    if name == "sform" && qform.is_some_and(|q| !fits(&q)) {
        warnings.push(Warning::new(
            "a qform that is no rotation with finite sizes",
            "the sform's places",
            "the sform was taken; repair the header",
        ));
    } else if apart > silent {
        let action = "the sform was taken; where left and right or the position are wrong, remove it or repair it";
        warnings.push(Warning::new(format!("sform and qform that lie {apart:.2} mm apart"), format!("at most {silent:.2} mm"), action));
    } else if name == "sform"
        && let Some(a) = (0..3).find(|&a| sizes_apart(a).is_nan() || sizes_apart(a) > silent)
    {
        let found = format!("pixdim[{}] = {:?}, where the sform has steps of {:.4} mm", a + 1, f.pixdim[a + 1], spacing[a]);
        warnings.push(Warning::new(found, "one voxel size", "the sform was taken; repair the header"));
    }
    if let Some(a) = (1..4).find(|&a| f.pixdim[a] < 0.0) {
        let action = if name == "sform" { "the sform was taken; repair the header" } else { "its size was taken; repair the header" };
        warnings.push(Warning::new(format!("pixdim[{a}] = {:?}", f.pixdim[a]), "a size above 0", action));
    }
    if name == "qform" && f.quatern.iter().map(|v| v * v).sum::<f64>() > 1.001 {
        let found = format!("a quaternion of {:?}, longer than 1", f.quatern);
        warnings.push(Warning::new(found, "a rotation", "it was scaled to length 1; repair the header"));
    }
    let (degrees, sheared) = shear(&grid);
    if sheared > silent {
        let found = format!("axes {degrees:.2} degrees apart; taken for a box, voxels would be up to {sheared:.2} mm off");
        warnings.push(Warning::new(found, "90 degrees", "it is read as it lies; check that the scanner's gantry was tilted"));
    }
    if let Some(size) = spacing.into_iter().find(|&s| !usual(s)) {
        let expected = format!("{} to {} mm", USUAL_MM[0], USUAL_MM[1]);
        warnings.push(Warning::new(format!("a voxel size of {size:?} mm"), expected, "check the header's spacing"));
    }
    Ok((grid.affine, warnings))
}

fn usual(size: f64) -> bool {
    (USUAL_MM[0]..=USUAL_MM[1]).contains(&size)
}

fn scaled(m: &Affine, scale: f64) -> Affine {
    m.map(|row| row.map(|v| v * scale))
}

/// Rows, short enough for a sentence.
fn text(m: &Affine) -> String {
    let number = |v: f64| if v.abs() < 1e6 { format!("{v:.4}") } else { format!("{v:.1e}") };
    m.map(|row| format!("({})", row.map(number).join(" "))).join(" ")
}

/// Finite, and no axis (nearly) in the plane of the others.
fn spans(m: &Affine) -> bool {
    let g = Geometry { shape: [1; 3], affine: *m, stored: None };
    let box_size: f64 = g.spacing_mm().iter().product();
    // NaN and infinity fail the comparisons as well.
    m.as_flattened().iter().all(|v| v.is_finite()) && box_size > 0.0 && g.voxel_ml() * 1000.0 > FLATTEST * box_size
}

/// Factor from the header's unit to mm. Where the unit makes nonsense of sizes that are good in mm, it was never meant.
fn unit(code: i32, spacing: [f64; 3]) -> (f64, Option<Warning>) {
    let (name, factor) = match code & 7 {
        1 => ("metres", 1e3),
        3 => ("micrometres", 1e-3),
        _ => return (1.0, None),
    };
    let found = format!("a header in {name} with voxel sizes of {spacing:?}");
    if spacing.iter().all(|&s| usual(s)) && !spacing.iter().all(|&s| usual(s * factor)) {
        return (1.0, Some(Warning::new(found, "mm", "the sizes were taken for mm; repair xyzt_units")));
    }
    (factor, Some(Warning::new(found, "mm", "it was converted to mm; many tools ignore the unit, so store it in mm")))
}

/// The angle between the two axes that are furthest from 90 degrees, and how far voxels move in mm if they are taken to be orthogonal.
fn shear(g: &Geometry) -> (f64, f64) {
    let (m, spacing) = (&g.affine, g.spacing_mm());
    let mut worst = (90.0, 0.0);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let cosine = (0..3).map(|r| m[r][a] * m[r][b]).sum::<f64>() / (spacing[a] * spacing[b]);
        let length = |axis: usize| spacing[axis] * (g.shape[axis] as f64 - 1.0);
        let off = cosine.abs() * length(a).min(length(b));
        if off > worst.1 {
            worst = (cosine.clamp(-1.0, 1.0).acos().to_degrees(), off);
        }
    }
    worst
}

/// Rotation from the quaternion, spacing from pixdim, handedness from pixdim[0]. All in f64 from the stored numbers.
fn qform(f: &Fields) -> Affine {
    let q = f.quatern;
    let square: f64 = q.iter().map(|v| v * v).sum();
    // Within rounding of a half turn it is one, as in nibabel; the stored three are scaled back to unit length, as everywhere.
    let (a, scale) = if 1.0 - square < 3.0 * f.epsilon { (0.0, 1.0 / square.sqrt()) } else { ((1.0 - square).sqrt(), 1.0) };
    let [b, c, d] = q.map(|v| v * scale);
    let qfac = if f.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    // Some tools store negative sizes; as nibabel reads them, only the quaternion and qfac say directions.
    let [dx, dy, dz] = std::array::from_fn(|i| f.pixdim[i + 1].abs());
    let dz = dz * qfac;
    let [x, y, z] = f.qoffset;
    [
        [(a * a + b * b - c * c - d * d) * dx, 2.0 * (b * c - a * d) * dy, 2.0 * (b * d + a * c) * dz, x],
        [2.0 * (b * c + a * d) * dx, (a * a + c * c - b * b - d * d) * dy, 2.0 * (c * d - a * b) * dz, y],
        [2.0 * (b * d - a * c) * dx, 2.0 * (c * d + a * b) * dy, (a * a + d * d - b * b - c * c) * dz, z],
    ]
}

/// Neither form is valid: nibabel's reading of such files (and so MONAI's), first axis to the left, origin in the middle.
fn centred(f: &Fields, shape: [usize; 3]) -> Affine {
    let mut m = [[0.0; 4]; 3];
    for a in 0..3 {
        let size = f.pixdim[a + 1].abs() * if a == 0 { -1.0 } else { 1.0 };
        m[a][a] = size;
        m[a][3] = -size * (shape[a] as f64 - 1.0) / 2.0;
    }
    m
}
