//! From a scan as stored to what a network sees: canonical axes, grid, intensity windows, foreground, least size.

use serde::{Deserialize, Serialize};

use super::orientation::permute;
use super::resample::{Taps, gather, nearest, resample_planes, resampled_len};
use super::{Geometry, Labels, Orientation, Volume, WayBack};
use crate::{Error, Result};

/// Two grids are one where no corner voxel is further off than this part of the smallest voxel size: files round their geometry.
const GRID_TOLERANCE: f64 = 0.1;
/// Largest cosine between two axes that is resampled axis by axis: 0.6 degrees, far above what rounding in files does, far below a gantry tilt.
const SHEAR_TOLERANCE: f64 = 0.01;
/// Values in a prepared image: 2^31 are 8 GiB.
const MOST_VALUES: f64 = (1u64 << 31) as f64;

/// What is done to every scan before it is cut into sub-volumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareConfig {
    /// Voxel size after resampling, mm along R, A, S; none: as stored.
    pub spacing_mm: Option<[f64; 3]>,
    /// Intensity windows in HU, each mapped to 0..1 with clipping; one channel each.
    pub windows_hu: Vec<[f32; 2]>,
    /// Cut to the bounding box of the voxels that are above the lower end of any window.
    pub crop_foreground: bool,
    /// Least number of voxels along R, A, S; zeros are added on both sides, the odd one after.
    pub pad_to: [usize; 3],
}

/// A scan as networks see it.
#[derive(Clone)]
pub struct Prepared {
    /// 0..1, C order over `[C][X][Y][Z]`, one channel a window.
    pub image: Vec<f32>,
    pub channels: usize,
    pub shape: [usize; 3],
    /// C order over `[X][Y][Z]`.
    pub labels: Option<Vec<u8>>,
    pub spacing_mm: [f64; 3],
    pub way_back: WayBack,
}

/// Turn to RAS, resample (MONAI `Spacing`: image linear, labels nearest), window to 0..1, crop to foreground, pad.
///
/// The labels may be stored in another orientation than the image, but must lie on the same grid. A scan without foreground is not cropped: there
/// is nothing to find in it, and a way back must exist.
///
/// # Errors
/// [`Error::Setting`] for settings that can't be used or absurd sizes, [`Error::Mismatch`] for labels on another grid and for sheared scans.
pub fn prepare(volume: Volume, labels: Option<&Labels>, config: &PrepareConfig) -> Result<Prepared> {
    check(config)?;
    let Volume { data, geometry: native } = volume;
    let orientation = Orientation::of(&native);
    let canonical = orientation.turn(&native);
    let labels = labels.map(|l| same_grid(&canonical, l).map(|o| (l, o))).transpose()?;
    let from_mm = canonical.spacing_mm();
    let spacing_mm = match config.spacing_mm {
        Some(s) => {
            refuse_shear(&canonical)?;
            s
        }
        None => from_mm,
    };
    let mut shape = [0; 3];
    for a in 0..3 {
        shape[a] = resampled_len(canonical.shape[a], from_mm[a], spacing_mm[a])?;
    }
    let channels = config.windows_hu.len();
    // In f64: the product of absurd lengths overflows any integer.
    let after_pad = shape.iter().zip(config.pad_to).map(|(&n, p)| n.max(p) as f64).product::<f64>() * channels as f64;
    if after_pad > MOST_VALUES {
        return Err(Error::Setting(format!(
            "{:?} voxels of {from_mm:.3?} mm brought to {spacing_mm:?} mm and padded to {:?} make {after_pad:.2e} values, more than 2^31; \
             set a larger spacing_mm, a smaller pad_to or check the spacing in the file",
            canonical.shape, config.pad_to
        )));
    }

    let data = if orientation.axes == [0, 1, 2] { data } else { permute(&data, native.shape, orientation.axes) };
    let taps = std::array::from_fn(|a| Taps::linear(canonical.shape[a], shape[a], from_mm[a], spacing_mm[a], orientation.flip[a], false));
    let (mut image, foreground) = window(&data, canonical.shape, &taps, &config.windows_hu);
    drop(data);

    let whole = ([0; 3], shape);
    let (start, end) = if config.crop_foreground { foreground.unwrap_or(whole) } else { whole };
    let way_back = WayBack::new(native, orientation, &canonical, (shape, spacing_mm), (start, end), config.pad_to);
    crop(&mut image, channels, shape, start, end);
    if way_back.shape() != [0, 1, 2].map(|a| end[a] - start[a]) {
        image = way_back.pad(&image, channels);
    }
    let labels = labels.map(|(l, turned)| {
        let strides = [l.shape()[1] * l.shape()[2], l.shape()[2], 1];
        let tables = std::array::from_fn(|c| {
            let (n, stride) = (canonical.shape[c], strides[turned.axes[c]]);
            let index = nearest(n, shape[c], from_mm[c], spacing_mm[c]);
            let inside = index[start[c]..end[c]].iter().map(|&i| Some(if turned.flip[c] { n - 1 - i } else { i } * stride));
            way_back.padded(c, inside)
        });
        gather(&l.data, &tables)
    });
    Ok(Prepared { image, channels, shape: way_back.shape(), labels, spacing_mm, way_back })
}

fn check(config: &PrepareConfig) -> Result<()> {
    if config.windows_hu.is_empty() {
        return Err(Error::Setting("windows_hu is empty; give at least one window such as [-175, 250]".into()));
    }
    if let Some(w) = config.windows_hu.iter().find(|w| !(w[0].is_finite() && w[1].is_finite() && w[0] < w[1])) {
        return Err(Error::Setting(format!("windows_hu has {w:?}; a window goes from a lower to a higher HU")));
    }
    match config.spacing_mm {
        Some(s) if s.iter().any(|v| !(v.is_finite() && *v > 0.0)) => {
            Err(Error::Setting(format!("spacing_mm is {s:?}; voxel sizes are positive numbers of mm")))
        }
        _ => Ok(()),
    }
}

/// How the labels' own axes turn onto the image's canonical grid, if that is where they lie.
fn same_grid(canonical: &Geometry, labels: &Labels) -> Result<Orientation> {
    let turned = Orientation::of(&labels.geometry);
    let own = turned.turn(&labels.geometry);
    let mismatch = |found, expected| {
        Err(Error::Mismatch {
            case: "labels and image lie on different grids".into(),
            found,
            expected,
            action: "resample the labels onto the image's grid".into(),
        })
    };
    if own.shape != canonical.shape {
        return mismatch(format!("labels of {:?} voxels (R, A, S)", own.shape), format!("{:?} as the image", canonical.shape));
    }
    let off = own.corner_distance_mm(canonical);
    let allowed = GRID_TOLERANCE * canonical.spacing_mm().into_iter().fold(f64::INFINITY, f64::min);
    if off > allowed {
        return mismatch(format!("a corner of the labels {off:.3} mm off"), format!("at most {allowed:.3} mm"));
    }
    Ok(turned)
}

fn refuse_shear(g: &Geometry) -> Result<()> {
    let (m, size) = (&g.affine, g.spacing_mm());
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let cosine = (0..3).map(|r| m[r][a] * m[r][b]).sum::<f64>() / (size[a] * size[b]);
        if cosine.abs() > SHEAR_TOLERANCE {
            return Err(Error::Mismatch {
                case: "sheared scan (gantry tilt)".into(),
                found: format!("axes at {:.2} degrees", cosine.acos().to_degrees()),
                expected: "right angles".into(),
                action: "resample the scan onto an orthogonal grid first".into(),
            });
        }
    }
    Ok(())
}

/// First and one-past-last voxel along each axis.
type Range3 = ([usize; 3], [usize; 3]);

/// Resample and window in one go: `[C][X][Y][Z]`, and the box of voxels that are above the lower end of any window.
fn window(data: &[f32], shape: [usize; 3], taps: &[Taps; 3], windows_hu: &[[f32; 2]]) -> (Vec<f32>, Option<Range3>) {
    let [nx, ny, nz] = [0, 1, 2].map(|a| taps[a].len());
    let lowest = windows_hu.iter().map(|w| w[0]).fold(f32::INFINITY, f32::min);
    let mut image = vec![0f32; windows_hu.len() * nx * ny * nz];
    let mut planes: Vec<Vec<&mut [f32]>> = (0..nx).map(|_| Vec::with_capacity(windows_hu.len())).collect();
    image.chunks_exact_mut(ny * nz).enumerate().for_each(|(i, plane)| planes[i % nx].push(plane));
    let boxes = resample_planes(data, shape, taps, planes, |hu, channels| {
        for (out, &[lo, hi]) in channels.into_iter().zip(windows_hu) {
            let width = hi - lo;
            out.iter_mut().zip(hu).for_each(|(o, &v)| *o = ((v - lo) / width).clamp(0.0, 1.0));
        }
        plane_box(hu, nz, lowest)
    });
    let mut found: Option<Range3> = None;
    for (x, plane) in boxes.into_iter().enumerate() {
        if let Some([y0, y1, z0, z1]) = plane {
            let (s, e) = found.get_or_insert(([x, y0, z0], [x + 1, y1, z1]));
            (*s, *e) = ([s[0], s[1].min(y0), s[2].min(z0)], [x + 1, e[1].max(y1), e[2].max(z1)]);
        }
    }
    (image, found)
}

/// Rows and columns `[y0, y1, z0, z1)` of a plane that hold a value above `lowest`.
fn plane_box(hu: &[f32], nz: usize, lowest: f32) -> Option<[usize; 4]> {
    let mut columns = vec![false; nz];
    let (mut first, mut end) = (usize::MAX, 0);
    for (y, row) in hu.chunks_exact(nz).enumerate() {
        let mut any = false;
        for (c, &v) in columns.iter_mut().zip(row) {
            *c |= v > lowest;
            any |= v > lowest;
        }
        if any {
            (first, end) = (first.min(y), y + 1);
        }
    }
    let z0 = columns.iter().position(|&c| c)?;
    let z1 = columns.iter().rposition(|&c| c)? + 1;
    Some([first, end, z0, z1])
}

/// Cut `[C][X][Y][Z]` to a box in place: every row moves towards the front, so nothing is overwritten before it was moved.
fn crop(image: &mut Vec<f32>, channels: usize, [nx, ny, nz]: [usize; 3], start: [usize; 3], end: [usize; 3]) {
    if (start, end) == ([0; 3], [nx, ny, nz]) {
        return;
    }
    let depth = end[2] - start[2];
    let mut to = 0;
    for c in 0..channels {
        for x in start[0]..end[0] {
            for y in start[1]..end[1] {
                let from = ((c * nx + x) * ny + y) * nz + start[2];
                image.copy_within(from..from + depth, to);
                to += depth;
            }
        }
    }
    image.truncate(to);
}

#[cfg(test)]
mod tests;
