//! Free-response analysis: lesions found against false positives a scan, as the threshold on the findings' scores falls.

use serde::{Deserialize, Serialize};

/// False positives a scan at which the CAMELYON16 score averages sensitivity.
pub const CAMELYON: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0];
/// The same for LUNA16.
pub const LUNA: [f64; 7] = [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0];

/// What was found in how many scans, and with what scores. Scans without findings and without lesions count too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FreeResponse {
    pub scans: usize,
    /// For each lesion the best score of the findings on it; `None` where there is none.
    pub lesions: Vec<Option<f64>>,
    /// Scores of the findings on no lesion.
    pub false_positives: Vec<f64>,
}

/// A threshold and what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrocPoint {
    /// Findings of at least this score count; `None`: none does.
    pub threshold: Option<f64>,
    pub false_positives_per_scan: f64,
    pub sensitivity: f64,
}

impl FreeResponse {
    /// Adds a scan of `lesions` lesions and a finding for each of `scores` (the highest probability of its voxels, or its volume). `links` has
    /// every lesion and finding that share a voxel; those beyond the numbers given are not looked at.
    ///
    /// A score that is not a number counts as the lowest.
    pub fn add(&mut self, lesions: usize, scores: &[f64], links: impl IntoIterator<Item = [usize; 2]>) {
        let mut best: Vec<Option<f64>> = vec![None; lesions];
        let mut on_lesion = vec![false; scores.len()];
        let score = |f: usize| if scores[f].is_nan() { f64::NEG_INFINITY } else { scores[f] };
        for [lesion, finding] in links {
            if let (Some(best), Some(on_lesion)) = (best.get_mut(lesion), on_lesion.get_mut(finding)) {
                *on_lesion = true;
                *best = Some(best.map_or(score(finding), |b: f64| b.max(score(finding))));
            }
        }
        self.scans += 1;
        self.lesions.extend(best);
        self.false_positives.extend((0..scores.len()).filter(|&f| !on_lesion[f]).map(score));
    }

    /// Adds a scan without a usable prediction: its lesions are missed at every threshold.
    pub fn add_without_prediction(&mut self, lesions: usize) {
        self.scans += 1;
        self.lesions.extend(std::iter::repeat_n(None, lesions));
    }

    /// The curve, from the lowest threshold (most findings) to none. `None` without scans or without lesions.
    ///
    /// `as_monai`: without the lowest threshold where every lesion has a score, as MONAI's function has it (it takes the lowest number for the
    /// score of missed lesions, which is right only if there is one).
    pub fn curve(&self, as_monai: bool) -> Option<Vec<FrocPoint>> {
        if self.scans == 0 || self.lesions.is_empty() {
            return None;
        }
        let found: Vec<f64> = self.lesions.iter().flatten().copied().collect();
        let mut thresholds = [found.as_slice(), &self.false_positives].concat();
        thresholds.sort_unstable_by(f64::total_cmp);
        thresholds.dedup();
        if as_monai && found.len() == self.lesions.len() && !thresholds.is_empty() {
            thresholds.remove(0);
        }
        let at = |threshold: Option<f64>| {
            let count = |scores: &[f64]| threshold.map_or(0, |t| scores.iter().filter(|&&s| s >= t).count());
            FrocPoint {
                threshold,
                false_positives_per_scan: count(&self.false_positives) as f64 / self.scans as f64,
                sensitivity: count(&found) as f64 / self.lesions.len() as f64,
            }
        };
        Some(thresholds.into_iter().map(Some).chain([None]).map(at).collect())
    }
}

/// Mean sensitivity at `rates` false positives a scan (ascending curve read linearly between points, flat beyond its end).
pub fn froc_score(curve: &[FrocPoint], rates: &[f64]) -> Option<f64> {
    let sum = rates.iter().map(|&rate| sensitivity_at(curve, rate)).sum::<Option<f64>>()?;
    if rates.is_empty() { None } else { Some(sum / rates.len() as f64) }
}

/// Sensitivity at a number of false positives a scan, linear between the points of the curve. Where the curve rises at one rate (several
/// points with the same false positives), its top counts.
pub fn sensitivity_at(curve: &[FrocPoint], rate: f64) -> Option<f64> {
    // The curve falls from its first point to its last: the first point within the rate is the top of those with its false positives.
    let Some(i) = curve.iter().position(|p| p.false_positives_per_scan <= rate) else { return curve.last().map(|p| p.sensitivity) };
    let below = &curve[i];
    let Some(above) = i.checked_sub(1).map(|i| &curve[i]) else { return Some(below.sensitivity) };
    let share = (rate - below.false_positives_per_scan) / (above.false_positives_per_scan - below.false_positives_per_scan);
    Some(below.sensitivity + share * (above.sensitivity - below.sensitivity))
}
