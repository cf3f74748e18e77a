//! Which way the axes of a grid run.

use std::borrow::Cow;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Geometry;

/// How to turn a stored grid so that its axes run right, anterior, superior: which stored axis each of the three is, and whether it runs backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orientation {
    /// `axes[c]`: the stored axis that lies closest to world axis `c` (R, A, S).
    pub axes: [usize; 3],
    /// `flip[c]`: it runs to the left, posterior or inferior.
    pub flip: [bool; 3],
}

impl Orientation {
    /// The closest axes of a grid, oblique ones included, by nibabel's rule (`io_orientation`): the rotation nearest to the affine (polar
    /// decomposition of its normalised columns), then each stored axis, the most aligned first, takes the free world axis it follows most.
    pub fn of(geometry: &Geometry) -> Self {
        let spacing = geometry.spacing_mm();
        let r = nearest_rotation(std::array::from_fn(|i| std::array::from_fn(|j| geometry.affine[i][j] / spacing[j])));
        let strength = |j: usize| (0..3).map(|i| r[i][j].abs()).fold(0.0, f64::max);
        let strengths: [f64; 3] = std::array::from_fn(strength);
        let mut order = [0, 1, 2];
        order.sort_by(|&a, &b| strengths[b].total_cmp(&strengths[a]));
        let mut turned = Orientation { axes: [0; 3], flip: [false; 3] };
        let mut free = vec![0, 1, 2];
        for stored in order {
            let mut best = 0;
            for i in 1..free.len() {
                if r[free[i]][stored].abs() > r[free[best]][stored].abs() {
                    best = i;
                }
            }
            let world = free.remove(best);
            turned.axes[world] = stored;
            turned.flip[world] = r[world][stored] < 0.0;
        }
        turned
    }

    /// The turned grid. It has no stored header: no file has it.
    pub fn turn(&self, g: &Geometry) -> Geometry {
        let shape = self.axes.map(|a| g.shape[a]);
        let mut affine = [[0.0; 4]; 3];
        for (r, row) in affine.iter_mut().enumerate() {
            row[3] = g.affine[r][3];
            for c in 0..3 {
                let column = g.affine[r][self.axes[c]];
                row[c] = if self.flip[c] { -column } else { column };
                if self.flip[c] {
                    row[3] += column * (shape[c] as f64 - 1.0);
                }
            }
        }
        Geometry { shape, affine, stored: None }
    }

    /// The voxels of a stored grid on the turned one; borrowed where nothing turns.
    pub fn turn_voxels<'a, T: Copy + Default + Send + Sync>(&self, data: &'a [T], stored: [usize; 3]) -> Cow<'a, [T]> {
        if *self == (Orientation { axes: [0, 1, 2], flip: [false; 3] }) {
            return Cow::Borrowed(data);
        }
        let mut turned = permute(data, stored, self.axes);
        let [nx, ny, nz] = self.axes.map(|a| stored[a]);
        if self.flip[0] {
            reverse_blocks(&mut turned, nx, ny * nz);
        }
        if self.flip[1] {
            turned.chunks_exact_mut(ny * nz).for_each(|plane| reverse_blocks(plane, ny, nz));
        }
        if self.flip[2] {
            turned.chunks_exact_mut(nz).for_each(<[T]>::reverse);
        }
        Cow::Owned(turned)
    }

    /// How far one step along each turned axis goes in the stored voxels, leaving aside that it may go backwards. `shape` is the turned one.
    pub(super) fn strides(&self, shape: [usize; 3]) -> [usize; 3] {
        let turned = self.turned_of();
        let stored = turned.map(|c| shape[c]);
        let strides = [stored[1] * stored[2], stored[2], 1];
        self.axes.map(|a| strides[a])
    }

    /// What index `i` of turned axis `c` adds to a voxel's place in the stored voxels. `shape` is the turned one.
    pub(super) fn offset(&self, shape: [usize; 3], c: usize, i: usize) -> usize {
        (if self.flip[c] { shape[c] - 1 - i } else { i }) * self.strides(shape)[c]
    }

    /// The inverse permutation: which turned axis each stored axis is.
    pub(super) fn turned_of(&self) -> [usize; 3] {
        let mut inverse = [0; 3];
        for c in 0..3 {
            inverse[self.axes[c]] = c;
        }
        inverse
    }
}

/// The `n` blocks of `data` in the reverse order, each as it is.
fn reverse_blocks<T>(data: &mut [T], n: usize, block: usize) {
    for i in 0..n / 2 {
        let (front, back) = data.split_at_mut((n - 1 - i) * block);
        front[i * block..(i + 1) * block].swap_with_slice(&mut back[..block]);
    }
}

/// Polar factor of a 3x3 matrix by Newton's iteration (Higham): the mean of a matrix and its inverse transpose, repeated. Quadratic convergence.
fn nearest_rotation(mut m: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    for _ in 0..50 {
        let cof = |i: usize, j: usize| {
            let (a, b, c, d) = ((i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3);
            m[a][c] * m[b][d] - m[a][d] * m[b][c]
        };
        let det = (0..3).map(|j| m[0][j] * cof(0, j)).sum::<f64>();
        let next: [[f64; 3]; 3] = std::array::from_fn(|i| std::array::from_fn(|j| 0.5 * (m[i][j] + cof(i, j) / det)));
        let change = (0..9).map(|k| (next[k / 3][k % 3] - m[k / 3][k % 3]).abs()).fold(0.0, f64::max);
        m = next;
        if change < 1e-14 {
            break;
        }
    }
    m
}

/// An array with its axes in another order: axis `c` of the result is axis `axes[c]` of `data` (shape `shape`).
pub(super) fn permute<T: Copy + Default + Send + Sync>(data: &[T], shape: [usize; 3], axes: [usize; 3]) -> Vec<T> {
    /// Outer planes handled together: where the outer axis of the result is contiguous in the source, whole cache lines are used.
    const BLOCK: usize = 16;
    let strides = [shape[1] * shape[2], shape[2], 1];
    let [s0, s1, s2] = axes.map(|a| strides[a]);
    let [_, n1, n2] = axes.map(|a| shape[a]);
    let mut out = vec![T::default(); data.len()];
    out.par_chunks_mut(BLOCK * n1 * n2).enumerate().for_each(|(block, out)| {
        let width = out.len() / (n1 * n2);
        for j in 0..n1 {
            for k in 0..n2 {
                for i in 0..width {
                    out[(i * n1 + j) * n2 + k] = data[(block * BLOCK + i) * s0 + j * s1 + k * s2];
                }
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oblique_and_sheared_grids_turn_as_in_nibabel() {
        // 3x3 part, axes, flips: nibabel.orientations.io_orientation on random rotations, reflections and, in the last three, shears.
        let cases = [
            ([[-0.304, 1.012, 1.25], [-0.107, -0.755, 2.007], [0.732, 0.31, 0.811]], [1, 2, 0], [false, false, false]),
            ([[0.679, -0.275, 1.212], [-0.409, -0.731, 1.625], [-0.108, 1.039, 1.463]], [0, 2, 1], [false, false, false]),
            ([[-0.069, 1.282, 0.348], [0.576, 0.206, -1.688], [0.551, -0.055, 1.811]], [1, 0, 2], [false, false, false]),
            ([[0.583, -0.308, 1.607], [-0.149, -1.263, -0.365], [-0.527, 0.018, 1.88]], [0, 1, 2], [false, true, false]),
            ([[0.373, 1.01, 1.057], [0.515, -0.814, 1.098], [-0.485, -0.087, 1.982]], [1, 0, 2], [false, false, false]),
            ([[-0.173, -1.252, -0.811], [-0.022, -0.364, 2.366], [-0.781, 0.124, 0.112]], [1, 2, 0], [true, false, true]),
            ([[0.183, -0.294, 2.316], [-0.756, 0.072, 0.714], [-0.185, -1.274, -0.626]], [2, 0, 1], [false, true, true]),
            ([[-0.736, -0.606, 0.388], [0.314, -0.982, 1.013], [0.015, -0.62, -2.256]], [0, 1, 2], [true, true, true]),
        ];
        for (m, axes, flip) in cases {
            let mut g = Geometry::ras([4, 5, 6], [1.0; 3], [7.0, 8.0, 9.0]);
            (0..9).for_each(|k| g.affine[k / 3][k % 3] = m[k / 3][k % 3]);
            let turned = Orientation::of(&g);
            assert_eq!(turned, Orientation { axes, flip }, "{m:?}");
            // A voxel stays where it is in the world.
            let stored = [1usize, 2, 3];
            let index = std::array::from_fn(|c| {
                let i = stored[axes[c]];
                (if flip[c] { g.shape[axes[c]] - 1 - i } else { i }) as f64
            });
            let (a, b) = (turned.turn(&g).world(index), g.world(stored.map(|i| i as f64)));
            assert!((0..3).all(|r| (a[r] - b[r]).abs() < 1e-9));
        }
    }

    #[test]
    fn voxels_turn_with_their_grid() {
        let stored = [3, 4, 5];
        for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for flips in 0..8 {
                let turn = Orientation { axes, flip: [flips & 1 > 0, flips & 2 > 0, flips & 4 > 0] };
                let data: Vec<u16> = (0..60).collect();
                let turned = turn.turn_voxels(&data, stored);
                let shape = axes.map(|a| stored[a]);
                for (flat, &value) in turned.iter().enumerate() {
                    let index = [flat / (shape[1] * shape[2]), flat / shape[2] % shape[1], flat % shape[2]];
                    let mut from = [0; 3];
                    for c in 0..3 {
                        from[axes[c]] = if turn.flip[c] { shape[c] - 1 - index[c] } else { index[c] };
                    }
                    assert_eq!(value as usize, (from[0] * 4 + from[1]) * 5 + from[2], "{turn:?}");
                }
            }
        }
    }

    #[test]
    fn permuting_and_back_is_nothing_for_all_six_orders() {
        let shape = [3, 18, 5];
        let data: Vec<u16> = (0..3 * 18 * 5).collect();
        for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let there = permute(&data, shape, axes);
            let turned = axes.map(|a| shape[a]);
            let i = [2, 11, 4];
            let j = axes.map(|a| i[a]);
            assert_eq!(there[(j[0] * turned[1] + j[1]) * turned[2] + j[2]], data[(i[0] * 18 + i[1]) * 5 + i[2]]);
            assert_eq!(permute(&there, turned, Orientation { axes, flip: [false; 3] }.turned_of()), data);
        }
    }
}
