//! The grid that a scan is resampled to, and the way there: axis by axis, or, where the scan is sheared, voxel by voxel.

use super::resample::{Strided, Taps, gather, nearest, resample_planes, resampled_len};
use super::sheared::{self, Sheared};
use super::{Geometry, Orientation};
use crate::Result;

/// Largest cosine between two axes that is resampled axis by axis: 0.6 degrees, far above what rounding in files does, far below a gantry tilt.
const SHEAR_TOLERANCE: f64 = 0.01;

/// Where to and from where, both along R, A, S.
pub(super) struct Target {
    pub from: Geometry,
    /// Before anything is cropped or padded.
    pub grid: Geometry,
    pub spacing_mm: [f64; 3],
    pub sheared: bool,
}

impl Target {
    /// The grid of `spacing_mm` over a scan; none: the scan's own, which may be sheared, since nothing is resampled.
    pub fn of(from: Geometry, spacing_mm: Option<[f64; 3]>) -> Result<Self> {
        let from_mm = from.spacing_mm();
        let Some(spacing_mm) = spacing_mm else {
            return Ok(Target { grid: from.clone(), from, spacing_mm: from_mm, sheared: false });
        };
        if largest_cosine(&from) > SHEAR_TOLERANCE {
            let grid = sheared::upright(&from, spacing_mm)?;
            return Ok(Target { from, grid, spacing_mm, sheared: true });
        }
        let mut grid = from.clone();
        for a in 0..3 {
            grid.shape[a] = resampled_len(from.shape[a], from_mm[a], spacing_mm[a])?;
            grid.affine.iter_mut().for_each(|row| row[a] *= spacing_mm[a] / from_mm[a]);
        }
        Ok(Target { from, grid, spacing_mm, sheared: false })
    }

    /// The scan, stored as `turned` says, on the whole target grid: `sink` gets each plane `[y][z]` and its own element of `outs`.
    pub fn image<S: Send, R: Send>(
        &self,
        data: &[f32],
        turned: &Orientation,
        outs: Vec<S>,
        sink: impl Fn(&[f32], S) -> R + Sync,
    ) -> Vec<R> {
        let shape = self.from.shape;
        if self.sheared {
            return self.lookup(data, turned).planes(self.grid.shape, outs, sink);
        }
        let from_mm = self.from.spacing_mm();
        let taps =
            std::array::from_fn(|a| Taps::linear(shape[a], self.grid.shape[a], from_mm[a], self.spacing_mm[a], turned.flip[a], false));
        resample_planes(Strided::turned(data, shape, turned), &taps, outs, sink)
    }

    /// Labels, stored as `turned` says, at the voxels of the target grid that `wanted` lists for each axis; 0 where it says `None`.
    pub fn labels<T: Copy + Default + Send + Sync>(&self, data: &[T], turned: &Orientation, wanted: &[Vec<Option<usize>>; 3]) -> Vec<T> {
        let shape = self.from.shape;
        if self.sheared {
            return self.lookup(data, turned).nearest(wanted);
        }
        let from_mm = self.from.spacing_mm();
        let tables = std::array::from_fn(|c| {
            let index = nearest(shape[c], self.grid.shape[c], from_mm[c], self.spacing_mm[c]);
            wanted[c].iter().map(|j| j.and_then(|j| index.get(j)).map(|&i| turned.offset(shape, c, i))).collect()
        });
        gather(data, &tables)
    }

    /// Stored voxels at the places of the target's.
    fn lookup<'a, T: Copy + Default + Send + Sync>(&self, data: &'a [T], turned: &Orientation) -> Sheared<'a, T> {
        let shape = self.from.shape;
        let tables = std::array::from_fn(|c| (0..shape[c]).map(|i| Some(turned.offset(shape, c, i))).collect());
        Sheared::new(data, tables, self.grid.index_map(&self.from))
    }
}

/// Of the angles between two axes, that which is furthest from a right one.
pub(super) fn largest_cosine(g: &Geometry) -> f64 {
    let (m, size) = (&g.affine, g.spacing_mm());
    let cosine = |(a, b): (usize, usize)| ((0..3).map(|r| m[r][a] * m[r][b]).sum::<f64>() / (size[a] * size[b])).abs();
    [(0, 1), (0, 2), (1, 2)].map(cosine).into_iter().fold(0.0, f64::max)
}
