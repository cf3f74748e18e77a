//! How slices lie on one another: their order, doubles, holes, uneven steps and shifts, all measured in mm along the normal.

use super::image::{Vec3, dot, length, minus};
use super::series::{Slice, Stack};
use crate::io::Warning;
use crate::volume::{Affine, Geometry};
use crate::{Error, Result};

/// Slices closer than this lie at one place.
const SAME_PLACE_MM: f64 = 0.01;
/// Positions are written with few digits; what rounding does is not worth a word.
const ROUNDING_MM: f64 = 0.02;
/// Unevenness that is only warned of, as a part of the mean step; more is resampled away.
const UNEVEN: f64 = 0.05;
/// Sideways shift over the whole stack that is only warned of, in pixels.
const SHIFT: f64 = 0.25;

/// Slices in order, and the grid that they make.
pub struct Plan {
    pub slices: Vec<Slice>,
    pub geometry: Geometry,
    /// Where slices lie, for those that make no grid by themselves.
    pub uneven: Option<Uneven>,
    pub warnings: Vec<Warning>,
}

/// Where each slice lies on the grid that it is resampled to.
pub struct Uneven {
    /// Along the normal, in slices of the grid.
    pub heights: Vec<f64>,
    /// Of a slice's first pixel along x and y, in pixels of the grid.
    pub shifts: Vec<[f64; 2]>,
}

/// The columns of a grid and its first voxel, from DICOM's world (L, P, S) to ours (R, A, S).
pub fn affine(columns: [Vec3; 3], origin: Vec3) -> Affine {
    std::array::from_fn(|r| {
        let sign = if r < 2 { -1.0 } else { 1.0 };
        [columns[0][r] * sign, columns[1][r] * sign, columns[2][r] * sign, origin[r] * sign]
    })
}

fn times(a: Vec3, by: f64) -> Vec3 {
    a.map(|v| v * by)
}

pub fn plan(stack: Stack) -> Result<Plan> {
    let mut warnings = Vec::new();
    let slices = in_order(stack, &mut warnings)?;
    let (Some(first), Some(last)) = (slices.first(), slices.last()) else {
        return Err(Error::Setting("a stack of no slices".into()));
    };
    let (plane, layout) = (*first.plane(), &first.image.layout);
    let (normal, n) = (plane.normal(), slices.len());
    let sides: [Vec3; 2] = std::array::from_fn(|a| times(plane.axes[a], plane.spacing[a]));
    let shape = [layout.columns, layout.rows, n];
    let grid = |step: Vec3| Geometry { shape, affine: affine([sides[0], sides[1], step], plane.position), stored: None };
    if n == 1 {
        let step = lone_step(first, &mut warnings);
        return Ok(Plan { geometry: grid(times(normal, step)), slices, uneven: None, warnings });
    }
    let offsets: Vec<Vec3> = slices.iter().map(|s| minus(s.plane().position, plane.position)).collect();
    let heights: Vec<f64> = offsets.iter().map(|&o| dot(o, normal)).collect();
    let steps: Vec<f64> = heights.windows(2).map(|pair| pair[1] - pair[0]).collect();
    refuse_holes(&slices, &steps)?;

    let mean = times(minus(last.plane().position, plane.position), 1.0 / (n as f64 - 1.0));
    let step = dot(mean, normal);
    let off_step = heights.iter().enumerate().map(|(k, h)| (h - k as f64 * step).abs()).fold(0.0, f64::max);
    let shifts: Vec<[f64; 2]> = offsets.iter().map(|&o| std::array::from_fn(|a| dot(o, plane.axes[a]))).collect();
    let shift = shifts.iter().map(|s| s[0].hypot(s[1])).fold(0.0, f64::max);
    let pixel = plane.spacing[0].min(plane.spacing[1]);
    let (uneven, shifted) = (off_step > ROUNDING_MM.max(UNEVEN * step), shift > ROUNDING_MM.max(SHIFT * pixel));

    let (low, high) = steps.iter().fold((f64::INFINITY, 0f64), |(low, high), &s| (low.min(s), high.max(s)));
    if off_step > ROUNDING_MM {
        let found = format!("slice steps from {low:.3} to {high:.3} mm (up to {off_step:.3} mm off an even step of {step:.3} mm)");
        let action = if uneven { "resampled along the true positions; look at the result" } else { "used as if even; nothing is lost" };
        warnings.push(Warning::new(found, "even steps", action));
    }
    if shift > ROUNDING_MM {
        let tilt = (shift / heights[n - 1].max(f64::MIN_POSITIVE)).atan().to_degrees();
        let found = format!("slices shifted sideways by up to {shift:.2} mm (gantry tilt of {tilt:.1} degrees)");
        let action = if shifted { "resampled to an upright grid; look at the result" } else { "used as they lie; nothing is lost" };
        warnings.push(Warning::new(found, "slices straight above one another", action));
    }
    if !uneven && !shifted {
        return Ok(Plan { geometry: grid(mean), slices, uneven: None, warnings });
    }
    let (geometry, uneven) = upright(&slices, &heights, &steps, &shifts)?;
    Ok(Plan { slices, geometry, uneven: Some(uneven), warnings })
}

/// By position along the normal, each place once.
fn in_order(stack: Stack, warnings: &mut Vec<Warning>) -> Result<Vec<Slice>> {
    let Some(normal) = stack.slices.first().map(|s| s.plane().normal()) else { return Ok(Vec::new()) };
    let mut sorted: Vec<(f64, Slice)> = stack.slices.into_iter().map(|s| (dot(s.plane().position, normal), s)).collect();
    // Stable: slices at one place stay in the order of their names.
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut kept: Vec<(f64, Slice)> = Vec::new();
    let mut doubles = 0;
    for (height, slice) in sorted {
        let Some((_, before)) = kept.last().filter(|(before, _)| height - before < SAME_PLACE_MM) else {
            kept.push((height, slice));
            continue;
        };
        let apart = length(minus(slice.plane().position, before.plane().position));
        let pixels = |s: &Slice| {
            let mut plane = Vec::new();
            s.hu(&mut Vec::new(), &mut plane).map(|()| plane)
        };
        if apart > 2.0 * SAME_PLACE_MM || pixels(before)? != pixels(&slice)? {
            let (one, other) = (before.path().display(), slice.path().display());
            let found = format!("different slices at one position, {height:.2} mm along the normal ({one}, {other})");
            let action = "keep one phase or reconstruction in the folder";
            return Err(Error::file(slice.path(), found, "one slice at each position", action));
        }
        doubles += 1;
    }
    if doubles > 0 {
        let found = format!("{doubles} slices that are there twice");
        warnings.push(Warning::new(found, "each slice once", "nothing to do: each is used once"));
    }
    Ok(kept.into_iter().map(|(_, slice)| slice).collect())
}

/// The distance to neighbours that a slice alone doesn't have.
fn lone_step(slice: &Slice, warnings: &mut Vec<Warning>) -> f64 {
    let (image, frame) = (&slice.image, &slice.image.frames[slice.frame]);
    let known = [image.spacing_between, frame.thickness].into_iter().find(|s| (1e-3..=1e3).contains(s));
    let folder = image.path.parent().map(|p| p.display().to_string()).unwrap_or_default();
    let from = if known.is_some() { "" } else { ", and no thickness" };
    warnings.push(Warning::new(
        format!("a single slice{from}"),
        "a series of slices",
        format!("give the folder ({folder}) to read all of its slices"),
    ));
    known.unwrap_or(1.0)
}

/// A step is a hole where it is half as large again as the usual one, unless the series goes on with such steps and its slices are as thick.
fn refuse_holes(slices: &[Slice], steps: &[f64]) -> Result<()> {
    let mut sorted = steps.to_vec();
    sorted.sort_by(f64::total_cmp);
    let usual = sorted[sorted.len() / 2];
    let thickness = |k: usize| slices[k].image.frames[slices[k].frame].thickness;
    let is_hole = |k: &usize| {
        let step = steps[*k];
        let like = |other: Option<&f64>| other.is_some_and(|o| (o - step).abs() <= 0.1 * step);
        let goes_on = like(k.checked_sub(1).and_then(|b| steps.get(b))) || like(steps.get(k + 1));
        let thick = thickness(*k).min(thickness(k + 1));
        step > 1.5 * usual && !(goes_on && (thick == 0.0 || step <= 1.1 * thick))
    };
    let holes: Vec<usize> = (0..steps.len()).filter(is_hole).collect();
    let Some(&k) = holes.first() else { return Ok(()) };
    let found = format!(
        "{} hole(s) in the series: {:.2} mm between {} and {} where {usual:.2} mm is usual",
        holes.len(),
        steps[k],
        slices[k].path().display(),
        slices[k + 1].path().display()
    );
    let folder = slices[k].path().parent().unwrap_or(slices[k].path());
    Err(Error::file(folder, found, "all slices of the series", "export the missing slices as well"))
}

/// An even grid with its z axis along the normal that holds all of the slices.
fn upright(slices: &[Slice], heights: &[f64], steps: &[f64], shifts: &[[f64; 2]]) -> Result<(Geometry, Uneven)> {
    let (plane, layout) = (slices[0].plane(), &slices[0].image.layout);
    let mut sorted = steps.to_vec();
    sorted.sort_by(f64::total_cmp);
    // The finer quarter decides, so that a part with small steps keeps its detail, and a single small step doesn't.
    let fine = sorted[sorted.len() / 4];
    let span = heights[heights.len() - 1];
    let count = (span / fine).round() + 1.0;
    let shifts: Vec<[f64; 2]> = shifts.iter().map(|s| std::array::from_fn(|a| s[a] / plane.spacing[a])).collect();
    let bound = |a: usize, pick: fn(f64, f64) -> f64| shifts.iter().map(|s| s[a]).fold(0.0, pick);
    let low: [f64; 2] = std::array::from_fn(|a| (bound(a, f64::min) + 1e-3).floor());
    let high: [f64; 2] = std::array::from_fn(|a| (bound(a, f64::max) - 1e-3).ceil());
    let wide: [f64; 2] = std::array::from_fn(|a| [layout.columns, layout.rows][a] as f64 + high[a] - low[a]);
    let sizes = [wide[0], wide[1], count];
    if count > 4.0 * slices.len() as f64 + 4.0 || wide[0] > 4.0 * layout.columns as f64 + 4.0 || wide[1] > 4.0 * layout.rows as f64 + 4.0 {
        let found = format!("slices that would need a grid of {:.0} x {:.0} x {:.0} voxels", sizes[0], sizes[1], sizes[2]);
        let action = "the positions are damaged: export the series again";
        return Err(Error::file(slices[0].path(), found, "slices that lie near one another", action));
    }
    let step = span / (count - 1.0).max(1.0);
    let columns = [times(plane.axes[0], plane.spacing[0]), times(plane.axes[1], plane.spacing[1]), times(plane.normal(), step)];
    let origin = std::array::from_fn(|r| plane.position[r] + columns[0][r] * low[0] + columns[1][r] * low[1]);
    let geometry = Geometry { shape: sizes.map(|s| s as usize), affine: affine(columns, origin), stored: None };
    let heights = heights.iter().map(|h| h / step).collect();
    let shifts = shifts.iter().map(|s| std::array::from_fn(|a| s[a] - low[a])).collect();
    Ok((geometry, Uneven { heights, shifts }))
}
