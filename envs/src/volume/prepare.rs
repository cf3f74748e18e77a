//! From a scan as stored to what a network sees: canonical axes, grid, intensity windows, foreground, least size.

use serde::{Deserialize, Serialize};

use super::target::Target;
use super::{Geometry, Labels, Orientation, Volume, WayBack};
use crate::{Error, Result};

/// Two grids are one where no corner voxel is further off than this part of the smallest voxel size: files round their geometry.
const GRID_TOLERANCE: f64 = 0.1;
/// No scan may need more memory than this while it is prepared: 8 GiB.
const MOST_BYTES: f64 = (8u64 << 30) as f64;

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

/// What preparing a scan would make, known from where it lies alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Voxels along R, A, S after resampling, before anything is cropped or padded.
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    /// Memory needed at most: the scan as read, its labels, and the image before and after padding.
    pub bytes: u64,
}

impl PrepareConfig {
    /// Shape and memory of a scan on this grid, before a voxel is read.
    ///
    /// # Errors
    /// As [`prepare`], for settings that can't be used and for more than 8 GiB.
    pub fn predict(&self, scan: &Geometry) -> Result<Predicted> {
        check(self)?;
        self.size_of(&Target::of(Orientation::of(scan).turn(scan), self.spacing_mm)?)
    }

    fn size_of(&self, target: &Target) -> Result<Predicted> {
        let (stored, shape) = (&target.from, target.grid.shape);
        // In f64: the product of absurd lengths overflows any integer.
        let product = |lengths: [usize; 3]| lengths.iter().map(|&n| n as f64).product::<f64>();
        let padded: [usize; 3] = std::array::from_fn(|a| shape[a].max(self.pad_to[a]));
        let resampled = if padded == shape { 0.0 } else { product(shape) };
        let a_channel = size_of::<f32>() as f64 * (resampled + product(padded));
        let bytes = 5.0 * product(stored.shape) + a_channel * self.windows_hu.len() as f64 + product(padded);
        if bytes > MOST_BYTES {
            let mib = |bytes: f64| bytes / (1u64 << 20) as f64;
            return Err(Error::Setting(format!(
                "{:?} voxels of {:.3?} mm brought to {:?} mm and padded to {:?} make {shape:?} voxels and need {:.0} MiB, more than {:.0}; \
                 set a larger spacing_mm, a smaller pad_to or check the spacing in the file",
                stored.shape,
                stored.spacing_mm(),
                target.spacing_mm,
                self.pad_to,
                mib(bytes),
                mib(MOST_BYTES)
            )));
        }
        Ok(Predicted { shape, spacing_mm: target.spacing_mm, bytes: bytes as u64 })
    }
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
/// is nothing to find in it, and a way back must exist. A sheared scan (gantry tilt) is resampled onto a grid with right angles.
///
/// # Errors
/// [`Error::Setting`] for settings that can't be used and for scans that would need more than 8 GiB, [`Error::Mismatch`] for labels on another grid.
pub fn prepare(volume: Volume, labels: Option<&Labels>, config: &PrepareConfig) -> Result<Prepared> {
    check(config)?;
    let Volume { data, geometry: native } = volume;
    let orientation = Orientation::of(&native);
    let canonical = orientation.turn(&native);
    let labels = labels.map(|l| same_grid(&canonical, l).map(|o| (l, o))).transpose()?;
    let target = Target::of(canonical, config.spacing_mm)?;
    config.size_of(&target)?;
    let (shape, channels) = (target.grid.shape, config.windows_hu.len());

    let (mut image, foreground) = window(&data, &orientation, &target, &config.windows_hu);
    drop(data);

    let whole = ([0; 3], shape);
    let (start, end) = if config.crop_foreground { foreground.unwrap_or(whole) } else { whole };
    let way_back = WayBack::new(native, orientation, &target, (start, end), config.pad_to);
    crop(&mut image, channels, shape, start, end);
    if way_back.shape() != [0, 1, 2].map(|a| end[a] - start[a]) {
        image = way_back.pad(&image, channels);
    }
    let wanted = std::array::from_fn(|c| way_back.padded(c, (start[c]..end[c]).map(Some)));
    let labels = labels.map(|(l, turned)| target.labels(&l.data, &turned, &wanted));
    Ok(Prepared { image, channels, shape: way_back.shape(), labels, spacing_mm: target.spacing_mm, way_back })
}

/// Labels (or numbers of lesions) of a stored grid on the grid of `spacing_mm`, each voxel the nearest one's: what [`prepare`] makes of them, uncropped.
pub(crate) fn resample_labels<T: Copy + Default + Send + Sync>(data: &[T], stored: &Geometry, spacing_mm: [f64; 3]) -> Result<Vec<T>> {
    let turned = Orientation::of(stored);
    let target = Target::of(turned.turn(stored), Some(spacing_mm))?;
    Ok(target.labels(data, &turned, &target.grid.shape.map(|n| (0..n).map(Some).collect())))
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
pub(crate) fn same_grid(canonical: &Geometry, labels: &Labels) -> Result<Orientation> {
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

/// First and one-past-last voxel along each axis.
type Range3 = ([usize; 3], [usize; 3]);

/// Resample and window in one go: `[C][X][Y][Z]`, and the box of voxels that are above the lower end of any window.
fn window(data: &[f32], turned: &Orientation, target: &Target, windows_hu: &[[f32; 2]]) -> (Vec<f32>, Option<Range3>) {
    let [nx, ny, nz] = target.grid.shape;
    let lowest = windows_hu.iter().map(|w| w[0]).fold(f32::INFINITY, f32::min);
    let mut image = vec![0f32; windows_hu.len() * nx * ny * nz];
    let mut planes: Vec<Vec<&mut [f32]>> = (0..nx).map(|_| Vec::with_capacity(windows_hu.len())).collect();
    image.chunks_exact_mut(ny * nz).enumerate().for_each(|(i, plane)| planes[i % nx].push(plane));
    let boxes = target.image(data, turned, planes, |hu, channels| {
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
