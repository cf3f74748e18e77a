//! Metrics that count voxels.

use super::Outcome;
use crate::volume::runs::{Runs, for_each_overlap};

const BOTH_EMPTY: &str = "both masks are empty";

/// Numbers of voxels of a reference, of a prediction and of what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    pub reference: u64,
    pub predicted: u64,
    pub both: u64,
}

impl Overlap {
    pub fn of(reference: &Runs, predicted: &Runs) -> Self {
        assert_eq!(reference.shape(), predicted.shape(), "two masks of a pair lie on one grid");
        let mut both = 0;
        let [nx, ny, _] = reference.shape();
        for (x, y) in (0..nx).flat_map(|x| (0..ny).map(move |y| (x, y))) {
            for_each_overlap(reference.row(x, y), predicted.row(x, y), 0, |_, _, n| both += n);
        }
        Overlap { reference: reference.voxels(), predicted: predicted.voxels(), both }
    }

    /// `2 |R ∩ P| / (|R| + |P|)`: 0 where one of them is empty, not applicable where both are.
    pub fn dice(self) -> Outcome {
        Outcome::ratio(2.0 * self.both as f64, (self.reference + self.predicted) as f64, BOTH_EMPTY)
    }

    /// `|R ∩ P| / |R ∪ P|` (Jaccard): 0 where one of them is empty, not applicable where both are.
    pub fn iou(self) -> Outcome {
        Outcome::ratio(self.both as f64, (self.reference + self.predicted - self.both) as f64, BOTH_EMPTY)
    }

    /// Share of the predicted voxels that are in the reference.
    pub fn precision(self) -> Outcome {
        Outcome::ratio(self.both as f64, self.predicted as f64, "nothing was predicted")
    }

    /// Share of the reference's voxels that were predicted (sensitivity).
    pub fn recall(self) -> Outcome {
        Outcome::ratio(self.both as f64, self.reference as f64, "the reference is empty")
    }

    /// Share of the background that was left unmarked on a grid of `grid` voxels. Depends on how much empty space was scanned.
    pub fn voxel_specificity(self, grid: u64) -> Outcome {
        let background = grid as f64 - self.reference as f64;
        Outcome::ratio(background - (self.predicted - self.both) as f64, background, "the reference fills the grid")
    }

    /// `(|P| - |R|) / |R|`: above 0 where too much was predicted (relative absolute volume difference with its sign, MedPy's `ravd`).
    pub fn relative_volume_error(self) -> Outcome {
        Outcome::ratio(self.predicted as f64 - self.reference as f64, self.reference as f64, "the reference is empty")
    }
}
