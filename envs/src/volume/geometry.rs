//! Where a grid lies in the world.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::io::StoredHeader;

/// Voxel index to world, in mm: rows 0..3 of the 4x4 matrix; world axes are R, A, S as in NIfTI.
pub type Affine = [[f64; 4]; 3];

/// Shape, position and, if it was read from a file, the header as stored.
///
/// It travels with the voxels. An output's header comes from `stored`, it is never recomputed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Geometry {
    pub shape: [usize; 3],
    pub affine: Affine,
    /// The header of the file that the grid was read from, byte for byte; `None` for grids made here.
    pub stored: Option<Arc<StoredHeader>>,
}

impl Geometry {
    /// A grid with axes along R, A, S, its first voxel centre at `origin_mm`.
    pub fn ras(shape: [usize; 3], spacing_mm: [f64; 3], origin_mm: [f64; 3]) -> Self {
        let mut affine = [[0.0; 4]; 3];
        for a in 0..3 {
            affine[a][a] = spacing_mm[a];
            affine[a][3] = origin_mm[a];
        }
        Geometry { shape, affine, stored: None }
    }

    pub fn voxels(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of each column of the affine (MONAI's rule, not pixdim).
    pub fn spacing_mm(&self) -> [f64; 3] {
        std::array::from_fn(|a| (0..3).map(|r| self.affine[r][a].powi(2)).sum::<f64>().sqrt())
    }

    /// World position in mm of a (fractional) voxel index.
    pub fn world(&self, ijk: [f64; 3]) -> [f64; 3] {
        std::array::from_fn(|r| (0..3).map(|a| self.affine[r][a] * ijk[a]).sum::<f64>() + self.affine[r][3])
    }

    /// Voxel indices of this grid to those of `other`: the same place in the world.
    pub(super) fn index_map(&self, other: &Geometry) -> Affine {
        let m = &other.affine;
        let cofactor = |i: usize, j: usize| {
            let (a, b, c, d) = ((i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3);
            m[a][c] * m[b][d] - m[a][d] * m[b][c]
        };
        let det: f64 = (0..3).map(|j| m[0][j] * cofactor(0, j)).sum();
        let apart: [f64; 3] = std::array::from_fn(|r| self.affine[r][3] - m[r][3]);
        std::array::from_fn(|i| {
            let inverse: [f64; 3] = std::array::from_fn(|r| cofactor(r, i) / det);
            let times = |column: [f64; 3]| (0..3).map(|r| inverse[r] * column[r]).sum();
            std::array::from_fn(|a| times(if a < 3 { self.affine.map(|row| row[a]) } else { apart }))
        })
    }

    /// The largest distance in mm between the same corner voxels of two grids; infinite where their shapes differ.
    pub fn corner_distance_mm(&self, other: &Geometry) -> f64 {
        if self.shape != other.shape {
            return f64::INFINITY;
        }
        let distance = |corner: usize| {
            let ijk = std::array::from_fn(|a| if corner >> a & 1 == 1 { self.shape[a] as f64 - 1.0 } else { 0.0 });
            let (p, q) = (self.world(ijk), other.world(ijk));
            (0..3).map(|r| (p[r] - q[r]).powi(2)).sum::<f64>().sqrt()
        };
        (0..8).map(distance).fold(0.0, f64::max)
    }

    /// Volume of one voxel in mL (determinant of the affine's 3x3 part).
    pub fn voxel_ml(&self) -> f64 {
        let m = &self.affine;
        let det = m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
        det.abs() / 1000.0
    }
}
