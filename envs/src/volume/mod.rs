//! Voxels and where they are in the world.
//!
//! Arrays are C order over `[x][y][z]` (first axis outermost), so voxel `(i, j, k)` of a NIfTI file is `data[(i * ny + j) * nz + k]`
//! and a tensor made from it is `[.., X, Y, Z]`, as in MONAI.

pub mod components;
mod geometry;
mod orientation;
mod prepare;
mod resample;
pub mod runs;
mod sheared;
mod target;
mod way_back;

pub use geometry::{Affine, Geometry};
pub use orientation::Orientation;
pub use prepare::{Predicted, PrepareConfig, Prepared, prepare};
pub(crate) use prepare::{resample_labels, same_grid};
pub use way_back::WayBack;

use std::collections::BTreeMap;
use std::sync::Arc;

/// A CT scan in Hounsfield units.
#[derive(Clone, Debug)]
pub struct Volume {
    /// HU, C order over `[x][y][z]`.
    pub data: Vec<f32>,
    pub geometry: Geometry,
}

/// Names of label values. Value 0 is background and is not listed.
pub type ClassTable = BTreeMap<u8, String>;

/// A label map: small integers on a grid. "Lesion" is a set of its classes.
#[derive(Clone, Debug)]
pub struct Labels {
    /// One class per voxel, C order over `[x][y][z]`.
    pub data: Vec<u8>,
    pub geometry: Geometry,
    pub classes: Arc<ClassTable>,
}

impl Volume {
    pub fn shape(&self) -> [usize; 3] {
        self.geometry.shape
    }
}

impl Labels {
    pub fn shape(&self) -> [usize; 3] {
        self.geometry.shape
    }

    /// 1 where the voxel's class is one of `classes`, else 0.
    pub fn mask_of(&self, classes: &[u8]) -> Vec<u8> {
        let mut table = [0u8; 256];
        for &c in classes {
            table[c as usize] = 1;
        }
        self.data.iter().map(|&v| table[v as usize]).collect()
    }
}

#[cfg(test)]
mod golden_tests;
