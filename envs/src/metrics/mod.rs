//! How well a mask agrees with its reference: pure functions of two masks and a spacing, they open no file.
//!
//! A [`Pair`] is built once a case (one pass over the bytes of each mask); [`overlap`](Pair::overlap), [`distances`](Pair::distances) and
//! [`match_lesions`] then work in proportion to the lesions. What can be asked of a pair has three kinds of answer, see [`Outcome`]. What an
//! empty mask means differs between benchmarks: nothing is assumed here, [`policy`] holds the choices by name and [`protocols`] the rule books.

pub mod agreement;
pub mod brats;
pub mod calibration;
pub mod conformal;
pub mod detection;
pub mod distance;
pub mod froc;
pub mod matching;
pub mod morphology;
mod nearest;
pub mod outcome;
pub mod overlap;
pub mod policy;
pub mod protocols;
pub mod roc;
pub mod statistics;
pub mod surface;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_detection;
#[cfg(test)]
mod tests_real;

pub use detection::{LesionMatch, LesionSummary, Matching, ScanCell, ScanTable, match_lesions};
pub use distance::{Distances, SurfaceKind};
pub use outcome::{Mean, Outcome};
pub use overlap::Overlap;
pub use protocols::flare24 as flare;
pub use protocols::flare24::FlareScore;

use crate::volume::runs::Runs;
use crate::{Error, Result};

/// A reference mask and a predicted one on the same grid.
#[derive(Clone, Debug)]
pub struct Pair {
    pub reference: Runs,
    pub predicted: Runs,
    /// Distance between voxel centres along x, y, z.
    pub spacing_mm: [f64; 3],
}

impl Pair {
    /// Voxels that are not 0 are in the mask; both arrays are C order over `[x][y][z]`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] under the name `case` where a mask does not have the voxels of `shape`; [`Error::Setting`] where the spacing is
    /// not three positive numbers.
    pub fn new(case: &str, reference: &[u8], predicted: &[u8], shape: [usize; 3], spacing_mm: [f64; 3]) -> Result<Self> {
        for (what, mask) in [("reference", reference), ("prediction", predicted)] {
            if mask.len() != shape.iter().product::<usize>() {
                return Err(Error::Mismatch {
                    case: case.to_owned(),
                    found: format!("{what} of {} voxels", mask.len()),
                    expected: format!("the {} voxels of a grid of {shape:?}", shape.iter().product::<usize>()),
                    action: "give both masks on the grid of the reference".to_owned(),
                });
            }
        }
        if spacing_mm.iter().any(|&s| !(s.is_finite() && s > 0.0)) {
            return Err(Error::Setting(format!("{case}: spacing {spacing_mm:?} mm is not three positive numbers; correct the header")));
        }
        Ok(Pair { reference: Runs::of(reference, shape), predicted: Runs::of(predicted, shape), spacing_mm })
    }

    /// Volume of one voxel in mL.
    pub fn voxel_ml(&self) -> f64 {
        self.spacing_mm.iter().product::<f64>() / 1000.0
    }

    /// Voxel counts, for Dice, IoU and volumes.
    pub fn overlap(&self) -> Overlap {
        Overlap::of(&self.reference, &self.predicted)
    }

    /// Distances between the two surfaces, for NSD, HD, HD95 and mean surface distances.
    pub fn distances(&self, kind: SurfaceKind) -> Distances {
        Distances::of(self, kind)
    }
}
