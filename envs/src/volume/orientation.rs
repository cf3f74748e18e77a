//! Which way the axes of a grid run.

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

    /// The inverse permutation: which turned axis each stored axis is.
    pub(super) fn turned_of(&self) -> [usize; 3] {
        let mut inverse = [0; 3];
        for c in 0..3 {
            inverse[self.axes[c]] = c;
        }
        inverse
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
