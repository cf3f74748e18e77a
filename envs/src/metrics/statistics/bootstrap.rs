//! Bootstrap intervals: cases, or patients with all of their cases, are drawn with replacement.

use super::Interval;
use super::describe::{quantile_of_sorted, sorted, variance};
use super::resample::Draws;
use super::special::{normal_below, normal_quantile};

/// How an interval is made of the resampled values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalKind {
    /// Quantiles of the resampled values.
    Percentile,
    /// The estimate minus the quantiles' distances from it, mirrored.
    Basic,
    /// Percentile with corrections for bias and acceleration (Efron), the latter by leaving out one unit at a time.
    Bca,
}

/// A statistic of the cases and of `resamples` draws of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    pub estimate: f64,
    /// In the order of the draws.
    pub values: Vec<f64>,
    /// The statistic without each unit in turn.
    left_out: Vec<f64>,
}

impl Bootstrap {
    /// `statistic(cases)` gets indices of cases. Each of `units` is what is drawn together: one case, or all the cases of one patient
    /// ([`units_of`]). `None` without units, without draws, or where the statistic is not finite on some draw.
    pub fn of(units: &[Vec<usize>], resamples: usize, draws: Draws, statistic: impl Fn(&[usize]) -> f64) -> Option<Self> {
        if units.is_empty() || resamples == 0 {
            return None;
        }
        let value_of = |drawn: &mut dyn Iterator<Item = usize>| statistic(&drawn.flat_map(|u| &units[u]).copied().collect::<Vec<_>>());
        let n = units.len();
        let estimate = value_of(&mut (0..n));
        let values: Vec<f64> = (0..resamples).map(|r| value_of(&mut draws.with_replacement(r, n))).collect();
        let left_out = (0..n).map(|without| value_of(&mut (0..n).filter(|&u| u != without))).collect();
        let finite = estimate.is_finite() && values.iter().all(|v| v.is_finite());
        finite.then_some(Bootstrap { estimate, values, left_out })
    }

    /// Of the mean of `values`, one unit each.
    pub fn of_mean(values: &[f64], resamples: usize, draws: Draws) -> Option<Self> {
        Self::of(&singles(values.len()), resamples, draws, |cases| cases.iter().map(|&i| values[i]).sum::<f64>() / cases.len() as f64)
    }

    /// Standard error: the standard deviation of the resampled values.
    pub fn standard_error(&self) -> Option<f64> {
        variance(&self.values).map(f64::sqrt)
    }

    /// Correction for bias: where among the resampled values the estimate lies, as a normal quantile.
    pub fn bias(&self) -> f64 {
        let below = |v: &&f64| **v < self.estimate;
        normal_quantile(self.values.iter().filter(below).count() as f64 / self.values.len() as f64)
    }

    /// Acceleration: skewness of the statistic as units are left out.
    pub fn acceleration(&self) -> f64 {
        let middle = self.left_out.iter().sum::<f64>() / self.left_out.len() as f64;
        let sum = |power| self.left_out.iter().map(|v| (middle - v).powi(power)).sum::<f64>();
        let spread = sum(2);
        if spread > 0.0 { sum(3) / (6.0 * spread.powf(1.5)) } else { 0.0 }
    }

    /// Interval of confidence `level` (0.95). `None` where [`IntervalKind::Bca`] is undefined: all resampled values on one side of the estimate,
    /// or a statistic that can't do without some unit.
    pub fn interval(&self, kind: IntervalKind, level: f64) -> Option<Interval> {
        let ascending = sorted(&self.values);
        let tail = (1.0 - level) / 2.0;
        let between = |low, high| Some(Interval { low: quantile_of_sorted(&ascending, low)?, high: quantile_of_sorted(&ascending, high)? });
        let percentile = between(tail, 1.0 - tail)?;
        match kind {
            IntervalKind::Percentile => Some(percentile),
            IntervalKind::Basic => {
                Some(Interval { low: 2.0 * self.estimate - percentile.high, high: 2.0 * self.estimate - percentile.low })
            }
            IntervalKind::Bca => {
                let (bias, acceleration) = (self.bias(), self.acceleration());
                let moved = |p| {
                    let z = bias + normal_quantile(p);
                    normal_below(bias + z / (1.0 - acceleration * z))
                };
                let (low, high) = (moved(tail), moved(1.0 - tail));
                if low.is_finite() && high.is_finite() && bias.is_finite() { between(low, high) } else { None }
            }
        }
    }
}

/// `n` cases, each a unit of its own.
pub fn singles(n: usize) -> Vec<Vec<usize>> {
    (0..n).map(|i| vec![i]).collect()
}

/// Indices of cases by patient, patients in the order in which they first come.
pub fn units_of<K: std::hash::Hash + Eq>(patients: &[K]) -> Vec<Vec<usize>> {
    let mut number = std::collections::HashMap::new();
    let mut units: Vec<Vec<usize>> = Vec::new();
    for (case, patient) in patients.iter().enumerate() {
        let unit = *number.entry(patient).or_insert_with(|| {
            units.push(Vec::new());
            units.len() - 1
        });
        units[unit].push(case);
    }
    units
}
