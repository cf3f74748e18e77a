//! Are probabilities what they say? Reliability, its errors, proper scores, and what a recalibration would change.

use serde::{Deserialize, Serialize};

/// Predicted probabilities of events with their outcomes.
#[derive(Clone, Debug)]
pub struct Forecasts {
    /// `(probability, happened)` in the order given.
    pairs: Vec<(f64, bool)>,
}

/// The events whose probability falls into one bin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Number of the bin among all, empty ones included.
    pub index: usize,
    pub count: usize,
    pub mean_probability: f64,
    /// Share of the events that happened.
    pub frequency: f64,
}

impl Bin {
    fn of(index: usize, pairs: &[(f64, bool)]) -> Option<Self> {
        let n = pairs.len() as f64;
        (!pairs.is_empty()).then(|| Bin {
            index,
            count: pairs.len(),
            mean_probability: pairs.iter().map(|p| p.0).sum::<f64>() / n,
            frequency: pairs.iter().filter(|p| p.1).count() as f64 / n,
        })
    }

    pub fn gap(&self) -> f64 {
        (self.mean_probability - self.frequency).abs()
    }
}

/// Mean gap of `bins` by their counts: ECE over equally wide bins, ACE over bins of equal mass.
pub fn mean_gap(bins: &[Bin]) -> Option<f64> {
    let count: usize = bins.iter().map(|b| b.count).sum();
    (count > 0).then(|| bins.iter().map(|b| b.gap() * b.count as f64).sum::<f64>() / count as f64)
}

/// Largest gap of `bins`: MCE over equally wide bins.
pub fn largest_gap(bins: &[Bin]) -> Option<f64> {
    bins.iter().map(Bin::gap).max_by(f64::total_cmp)
}

/// Probabilities are kept this far from 0 and 1 where their logarithm is taken.
const NEAREST: f64 = 1e-15;

impl Forecasts {
    /// `None` where the lists differ in length or are empty, or a probability is not within 0 to 1.
    pub fn new(happened: &[bool], probabilities: &[f64]) -> Option<Self> {
        let sound = happened.len() == probabilities.len() && !happened.is_empty() && probabilities.iter().all(|p| (0.0..=1.0).contains(p));
        sound.then(|| Forecasts { pairs: probabilities.iter().copied().zip(happened.iter().copied()).collect() })
    }

    /// Bins `(i / n, (i + 1) / n]` that are not empty; 0 is in the first.
    pub fn equal_width(&self, n: usize) -> Vec<Bin> {
        let bin_of = |p: f64| {
            // A probability on a limit belongs below it; the limits are the doubles nearest to i / n.
            let guess = ((p * n as f64).ceil() as usize).saturating_sub(1);
            if guess > 0 && p <= guess as f64 / n as f64 { guess - 1 } else { guess.min(n.saturating_sub(1)) }
        };
        let mut bins = vec![Vec::new(); n];
        for &pair in &self.pairs {
            if let Some(bin) = bins.get_mut(bin_of(pair.0)) {
                bin.push(pair);
            }
        }
        bins.iter().enumerate().filter_map(|(i, pairs)| Bin::of(i, pairs)).collect()
    }

    /// `n` bins of as equal numbers as possible, the first ones larger by one; equal probabilities stay in the order given.
    pub fn equal_mass(&self, n: usize) -> Vec<Bin> {
        let mut sorted = self.pairs.clone();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (size, larger) = (sorted.len().checked_div(n).unwrap_or(0), sorted.len().checked_rem(n).unwrap_or(0));
        let mut rest = sorted.as_slice();
        let take = |i: usize| {
            let (bin, others) = rest.split_at(size + (i < larger) as usize);
            rest = others;
            Bin::of(i, bin)
        };
        (0..n).map(take).collect::<Vec<_>>().into_iter().flatten().collect()
    }

    fn mean(&self, f: impl Fn(f64, f64) -> f64) -> f64 {
        self.pairs.iter().map(|&(p, y)| f(p, y as u8 as f64)).sum::<f64>() / self.pairs.len() as f64
    }

    /// Mean squared error of the probabilities.
    pub fn brier(&self) -> f64 {
        self.mean(|p, y| (p - y).powi(2))
    }

    /// Mean negative logarithm of the probability of what happened.
    pub fn log_loss(&self) -> f64 {
        self.mean(|p, y| {
            let p = p.clamp(NEAREST, 1.0 - NEAREST);
            -(if y > 0.0 { p } else { 1.0 - p }).ln()
        })
    }

    /// Number of events observed by the number expected; `None` where none is expected.
    pub fn observed_to_expected(&self) -> Option<f64> {
        let expected = self.mean(|p, _| p);
        (expected > 0.0).then(|| self.mean(|_, y| y) / expected)
    }

    fn logits(&self) -> Vec<(f64, f64)> {
        let logit = |p: f64| {
            let p = p.clamp(NEAREST, 1.0 - NEAREST);
            (p / (1.0 - p)).ln()
        };
        self.pairs.iter().map(|&(p, y)| (logit(p), y as u8 as f64)).collect()
    }

    /// Calibration in the large: the intercept that, added to every logit, makes expected equal observed; 0 is perfect. `None` where all
    /// or none happened.
    pub fn in_the_large(&self) -> Option<f64> {
        let both_happen = self.pairs.iter().any(|p| p.1) && self.pairs.iter().any(|p| !p.1);
        if both_happen { logistic(&self.logits(), false).map(|(intercept, _)| intercept) } else { None }
    }

    /// Intercept and slope of the logistic regression of what happened on the logits (Cox); 0 and 1 are perfect, a slope below 1 is overconfident.
    /// `None` where all or none happened, all probabilities are equal, or they separate the outcomes (no finite slope).
    pub fn recalibration(&self) -> Option<(f64, f64)> {
        let range = |kind: bool| {
            let of_kind = self.pairs.iter().filter(move |p| p.1 == kind).map(|p| p.0);
            of_kind.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| (low.min(p), high.max(p)))
        };
        // There is a finite slope only where the two kinds overlap.
        let ((low, high), (low_not, high_not)) = (range(true), range(false));
        if low < high_not && low_not < high { logistic(&self.logits(), true) } else { None }
    }
}

/// What makes log-odds calibrated: `intercept + log_odds / temperature`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Above 1 where the probabilities are too sure of themselves.
    pub temperature: f64,
    /// 0 for temperature scaling alone; what a balanced loss shifts is only undone by an intercept (Platt).
    pub intercept: f64,
}

impl Scaling {
    /// Changes nothing.
    pub const IDENTITY: Scaling = Scaling { temperature: 1.0, intercept: 0.0 };

    /// The temperature with the smallest log loss, within 0.01 to 100: temperature scaling (Guo et al., 2017). The loss is convex in 1 / T, so a
    /// golden-section search over its logarithm finds it.
    pub fn temperature(log_odds: &[f64], happened: &[bool]) -> Self {
        let loss = |log_t: f64| {
            let t = log_t.exp();
            // -log p of what happened is softplus of the log-odds against it.
            let against = |z: f64, y: bool| if y { -z / t } else { z / t };
            log_odds.iter().zip(happened).map(|(&z, &y)| against(z, y).max(0.0) + (-against(z, y).abs()).exp().ln_1p()).sum::<f64>()
        };
        let shrink = (5f64.sqrt() - 1.0) / 2.0;
        let (mut low, mut high) = (0.01f64.ln(), 100f64.ln());
        while high - low > 1e-6 {
            let (a, b) = (high - shrink * (high - low), low + shrink * (high - low));
            if loss(a) <= loss(b) { high = b } else { low = a }
        }
        Scaling { temperature: ((low + high) / 2.0).exp(), intercept: 0.0 }
    }

    /// Temperature and intercept with the smallest log loss (Platt scaling). `None` where the outcomes are all alike, or perfectly separated.
    pub fn platt(log_odds: &[f64], happened: &[bool]) -> Option<Self> {
        let sound = |p: f64| p.clamp(NEAREST, 1.0 - NEAREST);
        let p: Vec<f64> = log_odds.iter().map(|z| sound(1.0 / (1.0 + (-z).exp()))).collect();
        let (intercept, slope) = Forecasts::new(happened, &p)?.recalibration()?;
        (slope > 0.0).then(|| Scaling { temperature: 1.0 / slope, intercept })
    }

    /// The calibrated probability of an event with these log-odds.
    pub fn probability(&self, log_odds: f64) -> f64 {
        1.0 / (1.0 + (-(self.intercept + log_odds / self.temperature)).exp())
    }
}

/// Newton's method on the log-likelihood of `intercept + slope x`; the slope stays 1 where it is not `free`.
fn logistic(points: &[(f64, f64)], free: bool) -> Option<(f64, f64)> {
    // From a slope of 0: from 1, overconfident probabilities lie where the curve is flat, and steps go astray.
    let (mut intercept, mut slope) = (0.0, if free { 0.0 } else { 1.0 });
    for _ in 0..200 {
        let (mut g, mut gx, mut h, mut hx, mut hxx) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for &(x, y) in points {
            let p = 1.0 / (1.0 + (-(intercept + slope * x)).exp());
            let w = p * (1.0 - p);
            g += y - p;
            gx += (y - p) * x;
            h += w;
            hx += w * x;
            hxx += w * x * x;
        }
        let (di, ds) = if free {
            let determinant = h * hxx - hx * hx;
            ((hxx * g - hx * gx) / determinant, (h * gx - hx * g) / determinant)
        } else {
            (g / h, 0.0)
        };
        // A long step overshoots where the curve is flat.
        let short = (4.0 / di.abs().max(ds.abs())).min(1.0);
        intercept += short * di;
        slope += short * ds;
        if !intercept.is_finite() || !slope.is_finite() || intercept.abs().max(slope.abs()) > 1e4 {
            return None;
        }
        if di.abs().max(ds.abs()) < 1e-11 {
            return Some((intercept, slope));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_close, load, numbers};

    fn golden() -> (Forecasts, serde_json::Value) {
        let g = load("golden_metrics.json");
        let y: Vec<bool> = numbers(&g["classification"]["y"]).iter().map(|v| *v == 1.0).collect();
        (Forecasts::new(&y, &numbers(&g["classification"]["score"])).unwrap(), g)
    }

    #[test]
    fn the_references() {
        let (f, g) = golden();
        let want = &g["calibration"];
        let check = |got: Option<f64>, key: &str| assert_close(got.unwrap(), want[key].as_f64().unwrap(), 1e-9, key);
        let ten = f.equal_width(10);
        check(mean_gap(&ten), "ece10");
        check(largest_gap(&ten), "mce10");
        check(mean_gap(&f.equal_width(5)), "ece5");
        check(largest_gap(&f.equal_width(5)), "mce5");
        check(mean_gap(&f.equal_mass(5)), "ace5");
        check(Some(f.brier()), "brier");
        check(f.recalibration().map(|r| r.0), "recal_intercept");
        check(f.recalibration().map(|r| r.1), "recal_slope");
        check(f.in_the_large(), "calibration_in_the_large");
        check(f.observed_to_expected(), "oe_ratio");
        let bins = want["bins10"].as_array().unwrap();
        assert_eq!(bins.len(), ten.len());
        for (bin, want) in ten.iter().zip(bins) {
            let want = numbers(want);
            assert_eq!([bin.index as f64, bin.count as f64], want[..2]);
            assert_close(bin.mean_probability, want[2], 1e-9, "mean");
            assert_close(bin.frequency, want[3], 1e-9, "frequency");
        }
        for key in ["brier", "logloss"] {
            let got = if key == "brier" { f.brier() } else { f.log_loss() };
            assert_close(got, g["classification"][key].as_f64().unwrap(), 1e-9, key);
        }
    }

    #[test]
    fn edges_of_bins_and_of_what_can_be_fitted() {
        let f = Forecasts::new(&[true, false, true, false], &[0.0, 0.1, 1.0, 0.3]).unwrap();
        assert_eq!(f.equal_width(10).iter().map(|b| b.index).collect::<Vec<_>>(), [0, 2, 9]);
        assert_eq!(f.equal_mass(3).iter().map(|b| b.count).collect::<Vec<_>>(), [2, 1, 1]);
        assert!(f.equal_width(0).is_empty() && f.equal_mass(0).is_empty() && mean_gap(&[]).is_none() && largest_gap(&[]).is_none());
        assert!(f.log_loss().is_finite());
        let of = |y: &[bool], p: &[f64]| Forecasts::new(y, p).unwrap();
        assert_eq!(of(&[true; 3], &[0.5, 0.6, 0.7]).in_the_large(), None);
        assert_eq!(of(&[true, false], &[0.5, 0.5]).recalibration(), None);
        assert_eq!(of(&[false, false, true, true], &[0.1, 0.2, 0.8, 0.9]).recalibration(), None);
        assert_eq!(of(&[false], &[0.0]).observed_to_expected(), None);
        for (y, p) in [(vec![], vec![]), (vec![true], vec![f64::NAN]), (vec![true], vec![1.1]), (vec![true], vec![])] {
            assert!(Forecasts::new(&y, &p).is_none());
        }
    }

    #[test]
    fn scaling_finds_the_temperature_that_was_applied() {
        let mut rng = crate::rng::stream(1, "scaling", 0, 0);
        use crate::rng::RngExt;
        let truth: Vec<f64> = (0..20_000).map(|_| rng.random::<f64>() * 8.0 - 4.0).collect();
        let happened: Vec<bool> = truth.iter().map(|z| rng.random::<f64>() < 1.0 / (1.0 + (-z).exp())).collect();
        let sure: Vec<f64> = truth.iter().map(|z| z * 2.5).collect();
        let found = Scaling::temperature(&sure, &happened);
        assert!((found.temperature - 2.5).abs() < 0.1, "{found:?}");
        let shifted: Vec<f64> = truth.iter().map(|z| (z + 1.0) * 2.5).collect();
        let found = Scaling::platt(&shifted, &happened).unwrap();
        assert!((found.temperature - 2.5).abs() < 0.1 && (found.intercept + 1.0).abs() < 0.1, "{found:?}");
        assert!((found.probability(shifted[0]) - Scaling::IDENTITY.probability(truth[0])).abs() < 0.02);
        let ece = |p: Vec<f64>| mean_gap(&Forecasts::new(&happened, &p).unwrap().equal_width(10)).unwrap();
        let before = ece(shifted.iter().map(|&z| Scaling::IDENTITY.probability(z)).collect());
        let after = ece(shifted.iter().map(|&z| found.probability(z)).collect());
        assert!(before > 0.05 && after < 0.015, "{before} {after}");
        assert_eq!(Scaling::platt(&[1.0, 2.0], &[true, true]), None);
    }
}
