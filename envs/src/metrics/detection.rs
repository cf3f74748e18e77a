//! Was there a lesion, and was it found: per scan and per lesion.

use serde::{Deserialize, Serialize};

use super::matching::Links;
use super::statistics::Interval;
use super::statistics::special::wilson;
use super::{Outcome, Pair};
use crate::volume::components::{Component, Components, Connectivity};
use crate::volume::runs::Runs;

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
    /// `marked`: anything was predicted; `hit`: some of it lies on a lesion.
    pub fn of(has_lesion: bool, marked: bool, hit: bool) -> Self {
        match (has_lesion, marked) {
            (false, false) => ScanCell::TrueNegative,
            (false, true) => ScanCell::FalsePositive,
            (true, _) if hit => ScanCell::TruePositive,
            (true, _) => ScanCell::FalseNegative,
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

impl std::iter::Sum for ScanTable {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        let add = |a: Self, b: Self| ScanTable { tp: a.tp + b.tp, fn_: a.fn_ + b.fn_, fp: a.fp + b.fp, tn: a.tn + b.tn };
        all.fold(ScanTable::default(), add)
    }
}

impl ScanTable {
    /// The cells of all `scans`.
    pub fn of<'a>(scans: impl IntoIterator<Item = &'a LesionMatch>) -> Self {
        let mut table = ScanTable::default();
        scans.into_iter().for_each(|s| table.add(s.cell()));
        table
    }

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

    /// Share of the scans called negative that are lesion-free; scans with marks beside their lesions count as called negative here.
    pub fn negative_predictive_value(&self) -> Outcome {
        Outcome::ratio(self.tn as f64, (self.tn + self.fn_) as f64, "no scan was called negative")
    }

    /// Share of the scans called right.
    pub fn accuracy(&self) -> Outcome {
        Outcome::ratio((self.tp + self.tn) as f64, (self.tp + self.tn + self.fp + self.fn_) as f64, "there is no scan")
    }

    /// Mean of sensitivity and specificity.
    pub fn balanced_accuracy(&self) -> Outcome {
        match (self.sensitivity(), self.specificity()) {
            (Outcome::Value(a), Outcome::Value(b)) => Outcome::Value((a + b) / 2.0),
            (Outcome::Value(_), other) | (other, _) => other,
        }
    }

    /// `2 TP / (2 TP + FP + FN)`.
    pub fn f1(&self) -> Outcome {
        Outcome::ratio(2.0 * self.tp as f64, (2 * self.tp + self.fp + self.fn_) as f64, "no scan has a lesion and none was called positive")
    }

    /// Matthews' correlation; not applicable where a row or a column of the table is empty.
    pub fn matthews(&self) -> Outcome {
        let [tp, fn_, fp, tn] = [self.tp, self.fn_, self.fp, self.tn].map(|n| n as f64);
        let whole = ((tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_)).sqrt();
        Outcome::ratio(tp * tn - fp * fn_, whole, "all scans lie in one row or one column of the table")
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
    /// From components that are known already; findings below `min_predicted_ml` are not looked at.
    pub fn of(links: &Links, voxel_ml: f64, min_predicted_ml: f64) -> Self {
        let mut lesions = Matched::all(&links.lesions, voxel_ml);
        let mut findings = Matched::all(&links.findings, voxel_ml);
        for s in &links.shared {
            let finding = &mut findings[s.finding];
            if finding.volume_ml >= min_predicted_ml {
                finding.shared += s.voxels;
                lesions[s.lesion].shared += s.voxels;
            }
        }
        findings.retain(|f| f.volume_ml >= min_predicted_ml);
        LesionMatch { lesions, findings: Some(findings) }
    }

    /// A scan without a usable prediction (missing, failed, of another shape): none of its lesions is hit.
    pub fn without_prediction(reference: &Runs, voxel_ml: f64, matching: Matching) -> Self {
        LesionMatch { lesions: Matched::all(&Components::of(reference, matching.connectivity), voxel_ml), findings: None }
    }

    pub fn cell(&self) -> ScanCell {
        match &self.findings {
            Some(findings) => ScanCell::of(!self.lesions.is_empty(), !findings.is_empty(), self.hits() > 0),
            None => ScanCell::without_prediction(!self.lesions.is_empty()),
        }
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
    LesionMatch::of(&Links::of(pair, matching.connectivity), pair.voxel_ml(), matching.min_predicted_ml)
}

/// How large a lesion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// Volume in mL.
    Ml,
    /// Diameter in mm of the ball of the same volume. A long thin lesion is longer than this.
    DiameterMm,
}

impl Size {
    /// Limits of the usual classes: below the first, between neighbours, from the last on.
    pub fn usual_limits(self) -> &'static [f64] {
        match self {
            Size::Ml => &[0.1, 1.0, 10.0, 100.0],
            Size::DiameterMm => &[5.0, 10.0, 20.0],
        }
    }

    pub fn of(self, volume_ml: f64) -> f64 {
        match self {
            Size::Ml => volume_ml,
            Size::DiameterMm => (6000.0 * volume_ml / std::f64::consts::PI).cbrt(),
        }
    }
}

/// Detection of the lesions of one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SizeClass {
    /// Inclusive; `None`: from 0.
    pub from: Option<f64>,
    /// Exclusive; `None`: no limit.
    pub to: Option<f64>,
    pub lesions: usize,
    pub hits: usize,
    pub sensitivity: Outcome,
    /// Wilson's 95 % interval of the sensitivity; lesions of one patient count as independent. `None` without lesions.
    pub interval: Option<Interval>,
}

impl SizeClass {
    /// Its limits as text, without a unit: `< 5`, `5-10`, `>= 20`.
    pub fn label(&self) -> String {
        match (self.from, self.to) {
            (None, Some(to)) => format!("< {to}"),
            (Some(from), Some(to)) => format!("{from}-{to}"),
            (Some(from), None) => format!(">= {from}"),
            (None, None) => "all".into(),
        }
    }
}

/// Sensitivity by size over all lesions of `scans`, classes divided at the ascending `limits`; lesions of unusable scans are missed.
pub fn sensitivity_by_size<'a>(scans: impl IntoIterator<Item = &'a LesionMatch>, size: Size, limits: &[f64]) -> Vec<SizeClass> {
    let mut counts = vec![(0, 0); limits.len() + 1];
    for lesion in scans.into_iter().flat_map(|s| &s.lesions) {
        let class = &mut counts[limits.partition_point(|&l| l <= size.of(lesion.volume_ml))];
        class.0 += 1;
        class.1 += lesion.hit() as usize;
    }
    let class = |(i, (lesions, hits)): (usize, (usize, usize))| SizeClass {
        from: i.checked_sub(1).map(|i| limits[i]),
        to: limits.get(i).copied(),
        lesions,
        hits,
        sensitivity: Outcome::ratio(hits as f64, lesions as f64, "no lesion is of this size"),
        interval: wilson(hits, lesions, 0.95),
    };
    counts.into_iter().enumerate().map(class).collect()
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

    /// Harmonic mean of recall and precision; 0 where there are lesions and findings and none meet.
    pub fn f1(&self) -> Outcome {
        match (&self.recall, &self.precision) {
            (Outcome::Value(r), Outcome::Value(p)) if r + p > 0.0 => Outcome::Value(2.0 * r * p / (r + p)),
            (Outcome::NotApplicable(_), Outcome::NotApplicable(_)) => Outcome::not_applicable("there is neither a lesion nor a finding"),
            _ => Outcome::Value(0.0),
        }
    }
}
