//! Was there a lesion, and was it found: per scan and per lesion.

use serde::{Deserialize, Serialize};

use super::{Outcome, Pair};
use crate::volume::components::{Component, Components, Connectivity};
use crate::volume::runs::{Runs, for_each_overlap};

/// What a scan is in the table of reference against prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScanCell {
    /// The scan has lesions and a predicted voxel lies on one.
    #[serde(rename = "tp")]
    TruePositive,
    /// The scan has lesions and none was touched, whatever was predicted elsewhere.
    #[serde(rename = "fn")]
    FalseNegative,
    /// The scan has no lesion and something was predicted.
    #[serde(rename = "fp")]
    FalsePositive,
    /// The scan has no lesion and nothing was predicted.
    #[serde(rename = "tn")]
    TrueNegative,
}

impl ScanCell {
    pub fn of(pair: &Pair) -> Self {
        match (pair.reference.is_empty(), pair.predicted.is_empty()) {
            (true, true) => ScanCell::TrueNegative,
            (true, false) => ScanCell::FalsePositive,
            (false, _) if pair.overlap().both > 0 => ScanCell::TruePositive,
            (false, _) => ScanCell::FalseNegative,
        }
    }

    /// The cell of a scan without a usable prediction: the wrong one, so that nothing improves by failing.
    pub fn without_prediction(has_lesion: bool) -> Self {
        if has_lesion { ScanCell::FalseNegative } else { ScanCell::FalsePositive }
    }
}

/// Numbers of scans in each cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanTable {
    pub tp: usize,
    #[serde(rename = "fn")]
    pub fn_: usize,
    pub fp: usize,
    pub tn: usize,
}

impl ScanTable {
    pub fn add(&mut self, cell: ScanCell) {
        match cell {
            ScanCell::TruePositive => self.tp += 1,
            ScanCell::FalseNegative => self.fn_ += 1,
            ScanCell::FalsePositive => self.fp += 1,
            ScanCell::TrueNegative => self.tn += 1,
        }
    }

    /// Share of the scans with lesions in which one was touched.
    pub fn sensitivity(&self) -> Outcome {
        Outcome::ratio(self.tp as f64, (self.tp + self.fn_) as f64, "no scan has a lesion")
    }

    /// Share of the lesion-free scans left without a mark.
    pub fn specificity(&self) -> Outcome {
        Outcome::ratio(self.tn as f64, (self.tn + self.fp) as f64, "every scan has a lesion")
    }

    /// Share of the scans called positive that are; false negatives with marks elsewhere are not called positive here.
    pub fn precision(&self) -> Outcome {
        Outcome::ratio(self.tp as f64, (self.tp + self.fp) as f64, "no scan was called positive")
    }
}

/// How lesions are made of masks and which predictions count.
#[derive(Clone, Copy, Debug)]
pub struct Matching {
    pub connectivity: Connectivity,
    /// Predicted components smaller than this many mL are not looked at: they hit nothing and are no false positives. 0 keeps all.
    pub min_predicted_ml: f64,
}

impl Default for Matching {
    fn default() -> Self {
        Matching { connectivity: Connectivity::Corner, min_predicted_ml: 0.0 }
    }
}

/// A component of the reference or of the prediction, and whether the other side touches it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matched {
    pub part: Component,
    pub volume_ml: f64,
    /// Voxels shared with the other mask.
    pub shared: u64,
}

impl Matched {
    /// Any overlap at all.
    pub fn hit(&self) -> bool {
        self.shared > 0
    }

    fn all(components: &Components, voxel_ml: f64) -> Vec<Self> {
        components.parts.iter().map(|c| Matched { part: c.clone(), volume_ml: c.volume_ml(voxel_ml), shared: 0 }).collect()
    }
}

/// Lesions and predicted components of one scan, matched by any overlap: one prediction may hit several lesions and the reverse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LesionMatch {
    /// Components of the reference; those not hit are the false negatives.
    pub lesions: Vec<Matched>,
    /// Components of the prediction; those that hit nothing are the false positives. `None`: there is no usable prediction.
    pub findings: Option<Vec<Matched>>,
}

impl LesionMatch {
    /// A scan without a usable prediction (missing, failed, of another shape): none of its lesions is hit.
    pub fn without_prediction(reference: &Runs, voxel_ml: f64, matching: Matching) -> Self {
        LesionMatch { lesions: Matched::all(&Components::of(reference, matching.connectivity), voxel_ml), findings: None }
    }

    pub fn hits(&self) -> usize {
        self.lesions.iter().filter(|l| l.hit()).count()
    }

    pub fn false_positives(&self) -> impl Iterator<Item = &Matched> {
        self.findings.iter().flatten().filter(|f| !f.hit())
    }

    pub fn false_positive_ml(&self) -> f64 {
        self.false_positives().map(|f| f.volume_ml).sum()
    }
}

/// Matches the components of the two masks of `pair`.
pub fn match_lesions(pair: &Pair, matching: Matching) -> LesionMatch {
    let reference = Components::of(&pair.reference, matching.connectivity);
    let predicted = Components::of(&pair.predicted, matching.connectivity);
    let mut lesions = Matched::all(&reference, pair.voxel_ml());
    let mut findings = Matched::all(&predicted, pair.voxel_ml());
    let [nx, ny, _] = pair.reference.shape();
    for (x, y) in (0..nx).flat_map(|x| (0..ny).map(move |y| (x, y))) {
        let (r, p) = (pair.reference.indices(x, y), pair.predicted.indices(x, y));
        for_each_overlap(pair.reference.row(x, y), pair.predicted.row(x, y), 0, |i, j, n| {
            let finding = &mut findings[predicted.of_run[p.start + j] as usize - 1];
            if finding.volume_ml >= matching.min_predicted_ml {
                finding.shared += n;
                lesions[reference.of_run[r.start + i] as usize - 1].shared += n;
            }
        });
    }
    findings.retain(|f| f.volume_ml >= matching.min_predicted_ml);
    LesionMatch { lesions, findings: Some(findings) }
}

/// Lesion-level detection over many scans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LesionSummary {
    pub scans: usize,
    /// Scans without a usable prediction.
    pub unusable: usize,
    pub lesions: usize,
    pub hits: usize,
    /// Hits among all lesions, those of unusable scans included.
    pub recall: Outcome,
    /// Predicted components.
    pub findings: usize,
    pub false_positives: usize,
    /// Predicted components on a lesion, among all predicted components; unusable scans have none.
    pub precision: Outcome,
    /// Scans whose reference is empty.
    pub healthy_scans: usize,
    /// Failed where a lesion-free scan is unusable: leaving it out would reward failing.
    pub false_positives_per_healthy_scan: Outcome,
    /// In mL; failed as above.
    pub false_positive_ml_per_healthy_scan: Outcome,
}

impl LesionSummary {
    /// Sums over `scans` in their order.
    pub fn of<'a>(scans: impl IntoIterator<Item = &'a LesionMatch>) -> Self {
        let scans: Vec<&LesionMatch> = scans.into_iter().collect();
        let healthy: Vec<&&LesionMatch> = scans.iter().filter(|s| s.lesions.is_empty()).collect();
        let total = |count: fn(&LesionMatch) -> usize| scans.iter().map(|s| count(s)).sum::<usize>();
        let lesions = total(|s| s.lesions.len());
        let hits = total(LesionMatch::hits);
        let findings = total(|s| s.findings.iter().flatten().count());
        let false_positives = total(|s| s.false_positives().count());
        let lost = healthy.iter().filter(|s| s.findings.is_none()).count();
        let per_healthy_scan = |amount: fn(&LesionMatch) -> f64| {
            if lost > 0 {
                return Outcome::failed(format!("{lost} of {} lesion-free scans have no usable prediction", healthy.len()));
            }
            Outcome::ratio(healthy.iter().map(|s| amount(s)).sum(), healthy.len() as f64, "no scan is lesion-free")
        };
        LesionSummary {
            scans: scans.len(),
            unusable: total(|s| s.findings.is_none() as usize),
            lesions,
            hits,
            recall: Outcome::ratio(hits as f64, lesions as f64, "no scan has a lesion"),
            findings,
            false_positives,
            precision: Outcome::ratio((findings - false_positives) as f64, findings as f64, "nothing was predicted"),
            healthy_scans: healthy.len(),
            false_positives_per_healthy_scan: per_healthy_scan(|s| s.false_positives().count() as f64),
            false_positive_ml_per_healthy_scan: per_healthy_scan(LesionMatch::false_positive_ml),
        }
    }
}
