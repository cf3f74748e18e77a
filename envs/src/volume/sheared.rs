//! Resampling of sheared grids (gantry tilt), where no axis can be done alone: each target voxel is looked up at its place in the world.

use rayon::prelude::*;

use super::resample::{checked_len, snapped};
use super::{Affine, Geometry};
use crate::Result;

/// The grid with axes at right angles and voxels of `spacing_mm` that replaces a sheared one.
///
/// Its directions are R of the decomposition A = R U with U upper triangular (MONAI `Spacing`): the first axis is kept, the second stays in the plane
/// of the first two. It begins where the scan begins along each direction: where nothing leans backwards that is the scan's first voxel
/// centre, as in MONAI, which keeps that voxel in every case and then cuts off what leans over it.
pub(super) fn upright(from: &Geometry, spacing_mm: [f64; 3]) -> Result<Geometry> {
    let mut r = [[0.0f64; 3]; 3]; // r[axis] is a direction
    for a in 0..3 {
        let mut v = [0, 1, 2].map(|row| from.affine[row][a]);
        for done in &r[..a] {
            let along = dot(done, &v);
            (0..3).for_each(|row| v[row] -= along * done[row]);
        }
        let length = dot(&v, &v).sqrt();
        r[a] = v.map(|x| x / length);
    }
    let mut grid = from.clone();
    for a in 0..3 {
        let step = [0, 1, 2].map(|stored| dot(&r[a], &[0, 1, 2].map(|row| from.affine[row][stored])) / spacing_mm[a]);
        let reach = [0, 1, 2].map(|stored| step[stored] * (from.shape[stored] as f64 - 1.0));
        let low: f64 = reach.iter().map(|v| v.min(0.0)).sum();
        let high: f64 = reach.iter().map(|v| v.max(0.0)).sum();
        grid.shape[a] = checked_len(high - low + 1.0, from.shape[a], from.spacing_mm()[a], spacing_mm[a])?;
        for (row, direction) in grid.affine.iter_mut().zip(r[a]) {
            row[a] = direction * spacing_mm[a];
            row[3] += row[a] * low;
        }
    }
    Ok(grid)
}

fn dot(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Voxels that are looked up at places between them. Nothing lies beyond the border: places outside are held at it.
pub(super) struct Sheared<'a, T> {
    source: &'a [T],
    /// Where in `source` the voxels of an index of each axis are; `None`: they are 0.
    tables: [Vec<Option<usize>>; 3],
    /// Target voxel to source voxel.
    map: Affine,
}

impl<'a, T: Copy + Default + Send + Sync> Sheared<'a, T> {
    pub fn new(source: &'a [T], tables: [Vec<Option<usize>>; 3], map: Affine) -> Self {
        Sheared { source, tables, map }
    }

    fn position(&self, c: usize, target: [usize; 3]) -> f64 {
        let m = &self.map[c];
        let at = m[0] * target[0] as f64 + m[1] * target[1] as f64 + m[2] * target[2] as f64 + m[3];
        snapped(at).clamp(0.0, self.tables[c].len() as f64 - 1.0)
    }

    fn value(&self, [x, y, z]: [usize; 3]) -> T {
        match (self.tables[0][x], self.tables[1][y], self.tables[2][z]) {
            (Some(x), Some(y), Some(z)) => self.source[x + y + z],
            _ => T::default(),
        }
    }

    /// The nearest voxel, half to even, at every combination of the target indices that `wanted` lists; 0 where it says `None`.
    pub fn nearest(&self, wanted: &[Vec<Option<usize>>; 3]) -> Vec<T> {
        let [xs, ys, zs] = wanted;
        let mut out = vec![T::default(); xs.len() * ys.len() * zs.len()];
        out.par_chunks_mut((ys.len() * zs.len()).max(1)).zip(xs).for_each(|(plane, &x)| {
            for (row, &y) in plane.chunks_exact_mut(zs.len().max(1)).zip(ys) {
                for (o, &z) in row.iter_mut().zip(zs) {
                    if let (Some(x), Some(y), Some(z)) = (x, y, z) {
                        *o = self.value([0, 1, 2].map(|c| self.position(c, [x, y, z]).round_ties_even() as usize));
                    }
                }
            }
        });
        out
    }
}

impl Sheared<'_, f32> {
    /// Linear between the eight voxels around, one target x plane at a time: `sink(plane, out)` gets each finished plane `[y][z]` and its own element
    /// of `outs`.
    pub fn planes<S: Send, R: Send>(&self, [_, ny, nz]: [usize; 3], outs: Vec<S>, sink: impl Fn(&[f32], S) -> R + Sync) -> Vec<R> {
        let plane = || vec![0f32; ny * nz];
        let one = |plane: &mut Vec<f32>, (x, out): (usize, S)| {
            plane.iter_mut().enumerate().for_each(|(i, o)| *o = self.linear([x, i / nz, i % nz]));
            sink(plane, out)
        };
        outs.into_par_iter().enumerate().map_init(plane, one).collect()
    }

    fn linear(&self, target: [usize; 3]) -> f32 {
        let at = [0, 1, 2].map(|c| self.position(c, target));
        let lo = at.map(|v| v as usize);
        let hi: [usize; 3] = std::array::from_fn(|c| (lo[c] + 1).min(self.tables[c].len() - 1));
        let w: [f32; 3] = std::array::from_fn(|c| (at[c] - at[c].floor()) as f32);
        // `a + w (b - a)`, as axis by axis: exact on constant images.
        let blend = |a: f32, b: f32, w: f32| a + w * (b - a);
        let along_z = |x, y| blend(self.value([x, y, lo[2]]), self.value([x, y, hi[2]]), w[2]);
        let along_y = |x| blend(along_z(x, lo[1]), along_z(x, hi[1]), w[1]);
        blend(along_y(lo[0]), along_y(hi[0]), w[0])
    }
}
