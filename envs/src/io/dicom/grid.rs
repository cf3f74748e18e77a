//! World to voxels, for labels that lie on another grid than their own.

use crate::volume::{Affine, Geometry};

/// Fractional voxel indices of points in the world (R, A, S; mm).
pub struct ToVoxels(Affine);

impl ToVoxels {
    /// `None` where the grid is flat.
    pub fn of(geometry: &Geometry) -> Option<Self> {
        let m = &geometry.affine;
        let cofactor = |i: usize, j: usize| {
            let (a, b, c, d) = ((i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3);
            m[a][c] * m[b][d] - m[a][d] * m[b][c]
        };
        let det: f64 = (0..3).map(|j| m[0][j] * cofactor(0, j)).sum();
        if !det.is_normal() {
            return None;
        }
        let mut inverse = [[0.0; 4]; 3];
        for (i, row) in inverse.iter_mut().enumerate() {
            (0..3).for_each(|j| row[j] = cofactor(j, i) / det);
            row[3] = -(0..3).map(|j| row[j] * m[j][3]).sum::<f64>();
        }
        inverse.as_flattened().iter().all(|v| v.is_finite()).then_some(ToVoxels(inverse))
    }

    pub fn at(&self, world: [f64; 3]) -> [f64; 3] {
        std::array::from_fn(|r| (0..3).map(|c| self.0[r][c] * world[c]).sum::<f64>() + self.0[r][3])
    }
}

/// How the voxels of one grid are those of another: each axis is one of the other, forwards or backwards.
pub struct Fit {
    /// For each axis: the axis of the other grid, whether it runs the same way, and the other grid's index of voxel 0.
    axes: [(usize, bool, i64); 3],
    shape: [usize; 3],
}

impl Fit {
    /// `None` where some corner of `grid` is more than a tenth of a voxel off the voxels of `other`.
    pub fn of(grid: &Geometry, other: &Geometry) -> Option<Self> {
        let to = ToVoxels::of(other)?;
        let at = |ijk: [f64; 3]| to.at(grid.world(ijk));
        let origin = at([0.0; 3]);
        let mut axes = [(0, true, 0); 3];
        let mut taken = [false; 3];
        for (a, axis) in axes.iter_mut().enumerate() {
            let one = at(std::array::from_fn(|b| if a == b { 1.0 } else { 0.0 }));
            let along: [f64; 3] = std::array::from_fn(|r| one[r] - origin[r]);
            let target = (0..3).filter(|&r| !taken[r]).max_by(|&r, &s| along[r].abs().total_cmp(&along[s].abs()))?;
            taken[target] = true;
            *axis = (target, along[target] > 0.0, origin[target].round() as i64);
        }
        let fit = Fit { axes, shape: other.shape };
        let near = |corner: usize| {
            let ijk: [usize; 3] = std::array::from_fn(|a| if corner >> a & 1 == 1 { grid.shape[a] - 1 } else { 0 });
            let (exact, whole) = (at(ijk.map(|i| i as f64)), fit.index(ijk));
            (0..3).all(|r| (exact[r] - whole[r] as f64).abs() <= 0.1)
        };
        (0..8).all(near).then_some(fit)
    }

    fn index(&self, ijk: [usize; 3]) -> [i64; 3] {
        let mut out = [0; 3];
        for (&i, &(target, same_way, first)) in ijk.iter().zip(&self.axes) {
            out[target] = first.saturating_add(if same_way { i as i64 } else { -(i as i64) });
        }
        out
    }

    /// Where a voxel is in the other grid's array; `None` outside of it.
    pub fn flat(&self, ijk: [usize; 3]) -> Option<usize> {
        let [x, y, z] = self.index(ijk);
        let inside = |i: i64, n: usize| usize::try_from(i).ok().filter(|&i| i < n);
        let (x, y, z) = (inside(x, self.shape[0])?, inside(y, self.shape[1])?, inside(z, self.shape[2])?);
        Some((x * self.shape[1] + y) * self.shape[2] + z)
    }
}
