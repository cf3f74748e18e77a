//! Do predicted volumes and places agree with the reference's?

use serde::{Deserialize, Serialize};

use super::statistics::Interval;
use super::statistics::describe::{mean, pearson, spearman, variance};
use super::{Outcome, Pair};
use crate::volume::runs::Runs;

/// Predicted minus reference volume in mL.
pub fn volume_error_ml(pair: &Pair) -> f64 {
    let overlap = pair.overlap();
    (overlap.predicted as f64 - overlap.reference as f64) * pair.voxel_ml()
}

/// Distance in mm between the centres of mass of the two masks along the grid's axes.
pub fn centre_distance_mm(pair: &Pair) -> Outcome {
    match (centre(&pair.reference), centre(&pair.predicted)) {
        (None, None) => Outcome::not_applicable("both masks are empty"),
        (None, _) => Outcome::failed("the reference is empty and the prediction is not: it has no centre"),
        (_, None) => Outcome::failed("the prediction is empty and the reference is not: it has no centre"),
        (Some(r), Some(p)) => Outcome::Value((0..3).map(|a| ((p[a] - r[a]) * pair.spacing_mm[a]).powi(2)).sum::<f64>().sqrt()),
    }
}

/// Mean voxel index on each axis.
fn centre(mask: &Runs) -> Option<[f64; 3]> {
    let mut twice = [0u64; 3];
    mask.for_each(|x, y, _, r| {
        let steps = [2 * x as u64, 2 * y as u64, r.start as u64 + r.end as u64 - 1];
        twice.iter_mut().zip(steps).for_each(|(sum, v)| *sum += v * r.voxels());
    });
    let voxels = mask.voxels();
    (voxels > 0).then(|| twice.map(|t| t as f64 / 2.0 / voxels as f64))
}

/// Agreement of measured with true numbers over cases (Bland and Altman; Lin).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    pub cases: usize,
    /// Mean of predicted minus reference.
    pub bias: f64,
    /// Bias and 1.96 standard deviations of the differences to both sides.
    pub limits: Interval,
    /// `None` where a side does not vary.
    pub pearson: Option<f64>,
    pub spearman: Option<f64>,
    /// Lin's concordance: 1 on the diagonal only (moments with divisor n).
    pub concordance: Option<f64>,
}

impl Agreement {
    /// `None` for fewer than two cases, lists of different lengths, or a number that is not finite.
    pub fn of(reference: &[f64], predicted: &[f64]) -> Option<Self> {
        if reference.len() != predicted.len() || reference.iter().chain(predicted).any(|v| !v.is_finite()) {
            return None;
        }
        let differences: Vec<f64> = predicted.iter().zip(reference).map(|(p, r)| p - r).collect();
        let (bias, deviation) = (mean(&differences)?, variance(&differences)?.sqrt());
        let population = |v: &[f64]| Some(variance(v)? * (v.len() - 1) as f64 / v.len() as f64);
        let (vr, vp) = (population(reference)?, population(predicted)?);
        let correlation = pearson(reference, predicted);
        let shift = mean(predicted)? - mean(reference)?;
        Some(Agreement {
            cases: reference.len(),
            bias,
            limits: Interval::around(bias, 1.96 * deviation),
            pearson: correlation,
            spearman: spearman(reference, predicted),
            concordance: correlation.map(|r| 2.0 * r * (vr * vp).sqrt() / (vr + vp + shift * shift)),
        })
    }
}
