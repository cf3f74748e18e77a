//! Telling scans with lesions from those without, by a score: ROC, its area with DeLong's variance, precision and recall.

use serde::{Deserialize, Serialize};

use super::detection::ScanTable;
use super::statistics::Interval;
use super::statistics::describe::midranks;
use super::statistics::special::{normal_p, normal_quantile};
use super::statistics::{Alternative, Test};

/// Scores of scans whose truth is known. Higher scores speak for a lesion.
#[derive(Clone, Debug)]
pub struct Scored {
    positive: Vec<f64>,
    negative: Vec<f64>,
}

/// A threshold and what it gives: scans scored at least `threshold` are called positive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    pub threshold: f64,
    pub sensitivity: f64,
    pub specificity: f64,
}

impl OperatingPoint {
    /// Sensitivity + specificity - 1.
    pub fn youden(&self) -> f64 {
        self.sensitivity + self.specificity - 1.0
    }
}

/// Area under the ROC curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Auc {
    pub area: f64,
    /// By DeLong; `None` with fewer than two scans on a side.
    pub standard_error: Option<f64>,
}

impl Auc {
    /// Normal interval, which may reach beyond 1 on small sets.
    pub fn wald(&self, level: f64) -> Option<Interval> {
        Some(Interval::around(self.area, normal_quantile((1.0 + level) / 2.0) * self.standard_error?))
    }

    /// Normal interval of the area's logit: stays between 0 and 1. `None` at an area of 0 or 1.
    pub fn logit(&self, level: f64) -> Option<Interval> {
        let spread = self.area * (1.0 - self.area);
        if spread <= 0.0 {
            return None;
        }
        let reach = normal_quantile((1.0 + level) / 2.0) * self.standard_error? / spread;
        let middle = (self.area / (1.0 - self.area)).ln();
        let back = |x: f64| 1.0 / (1.0 + (-x).exp());
        Some(Interval { low: back(middle - reach), high: back(middle + reach) })
    }
}

impl Scored {
    /// `None` where the lists differ in length, a score is not finite, or one of the two kinds of scan is absent.
    pub fn new(lesion: &[bool], scores: &[f64]) -> Option<Self> {
        if lesion.len() != scores.len() || scores.iter().any(|s| !s.is_finite()) {
            return None;
        }
        let of = |kind: bool| lesion.iter().zip(scores).filter(|(l, _)| **l == kind).map(|(_, s)| *s).collect::<Vec<_>>();
        let (positive, negative) = (of(true), of(false));
        (!positive.is_empty() && !negative.is_empty()).then_some(Scored { positive, negative })
    }

    /// Share of positives above each negative and of negatives below each positive (ties half): DeLong's placements.
    fn placements(&self) -> [Vec<f64>; 2] {
        let all = [self.positive.as_slice(), &self.negative].concat();
        let ranks = midranks(&all);
        let (m, n) = (self.positive.len() as f64, self.negative.len() as f64);
        let own = [midranks(&self.positive), midranks(&self.negative)];
        let of_positive = ranks.iter().zip(&own[0]).map(|(r, o)| (r - o) / n).collect();
        let of_negative = ranks[self.positive.len()..].iter().zip(&own[1]).map(|(r, o)| 1.0 - (r - o) / m).collect();
        [of_positive, of_negative]
    }

    pub fn auc(&self) -> Auc {
        let [positive, negative] = self.placements();
        let area = positive.iter().sum::<f64>() / positive.len() as f64;
        let variance = covariance_of_mean(&positive, &positive).zip(covariance_of_mean(&negative, &negative)).map(|(a, b)| a + b);
        Auc { area, standard_error: variance.map(f64::sqrt) }
    }

    /// Thresholds from infinity (nothing is called positive) down over all scores.
    pub fn roc(&self) -> Vec<OperatingPoint> {
        let mut thresholds = [self.positive.as_slice(), &self.negative].concat();
        thresholds.push(f64::INFINITY);
        thresholds.sort_unstable_by(|a, b| b.total_cmp(a));
        thresholds.dedup();
        thresholds.into_iter().map(|t| self.at(t)).collect()
    }

    /// The table of calling positive what scores at least `threshold`.
    pub fn table(&self, threshold: f64) -> ScanTable {
        let called = |scores: &[f64]| scores.iter().filter(|&&s| s >= threshold).count();
        let (tp, fp) = (called(&self.positive), called(&self.negative));
        ScanTable { tp, fn_: self.positive.len() - tp, fp, tn: self.negative.len() - fp }
    }

    fn at(&self, threshold: f64) -> OperatingPoint {
        let t = self.table(threshold);
        OperatingPoint {
            threshold,
            sensitivity: t.tp as f64 / self.positive.len() as f64,
            specificity: t.tn as f64 / self.negative.len() as f64,
        }
    }

    /// The most sensitive point of at least this specificity.
    pub fn at_specificity(&self, least: f64) -> Option<OperatingPoint> {
        self.roc().into_iter().filter(|p| p.specificity >= least).max_by(|a, b| a.sensitivity.total_cmp(&b.sensitivity))
    }

    /// The most specific point of at least this sensitivity.
    pub fn at_sensitivity(&self, least: f64) -> Option<OperatingPoint> {
        self.roc().into_iter().filter(|p| p.sensitivity >= least).max_by(|a, b| a.specificity.total_cmp(&b.specificity))
    }

    /// The point of the largest Youden index, the highest threshold of them on a tie.
    pub fn best_youden(&self) -> Option<OperatingPoint> {
        self.roc().into_iter().rev().max_by(|a, b| a.youden().total_cmp(&b.youden()))
    }

    /// Area up to a false-positive rate of `most`, scaled by McClish so that chance is 0.5 and perfect is 1. `None` unless 0 < `most` <= 1.
    pub fn partial_auc(&self, most: f64) -> Option<f64> {
        if !(most > 0.0 && most <= 1.0) {
            return None;
        }
        let mut area = 0.0;
        let mut last = (0.0, 0.0);
        for p in self.roc() {
            let (mut x, mut y) = (1.0 - p.specificity, p.sensitivity);
            if x > most {
                y = last.1 + (y - last.1) * (most - last.0) / (x - last.0);
                x = most;
            }
            area += (x - last.0) * (y + last.1) / 2.0;
            last = (x, y);
            if x >= most {
                // Further points at the same rate add no area.
                break;
            }
        }
        let least = most * most / 2.0;
        Some((1.0 + (area - least) / (most - least)) / 2.0)
    }

    /// Average precision: mean over positives of the precision at their score, without interpolation (scikit-learn's).
    pub fn average_precision(&self) -> f64 {
        let (mut sum, mut last) = (0.0, 0.0);
        for p in self.roc() {
            let t = self.table(p.threshold);
            let called = (t.tp + t.fp) as f64;
            if called > 0.0 {
                sum += (p.sensitivity - last) * t.tp as f64 / called;
            }
            last = p.sensitivity;
        }
        sum
    }
}

/// Covariance of two means over the same things; `None` of fewer than two.
fn covariance_of_mean(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len() as f64;
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let sum: f64 = a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb)).sum();
    (a.len() > 1).then(|| sum / (n - 1.0) / n)
}

/// DeLong's test of two scores on the same scans.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedAuc {
    pub first: f64,
    pub second: f64,
    /// Of the difference of the areas.
    pub variance: f64,
    /// z and its two-sided p; p is 1 where the two order the scans alike.
    pub test: Test,
}

/// Compares the areas of `first` and `second`, which score the same scans; `None` as for [`Scored::new`] or with fewer than two scans a side.
pub fn delong(lesion: &[bool], first: &[f64], second: &[f64]) -> Option<PairedAuc> {
    let (a, b) = (Scored::new(lesion, first)?, Scored::new(lesion, second)?);
    let (pa, pb) = (a.placements(), b.placements());
    let mut variance = 0.0;
    for (x, y) in pa.iter().zip(&pb) {
        variance += covariance_of_mean(x, x)? + covariance_of_mean(y, y)? - 2.0 * covariance_of_mean(x, y)?;
    }
    let (first, second) = (a.auc().area, b.auc().area);
    // Rounding leaves a little below or above 0 where the two agree on every scan.
    let z = if variance > 1e-15 { (first - second) / variance.sqrt() } else { 0.0 };
    Some(PairedAuc { first, second, variance, test: Test { statistic: z, p: normal_p(z, Alternative::TwoSided) } })
}
