//! Tests by rearranging the data, and sizes of effects.

use super::describe::{mean, median};
use super::resample::Draws;
use super::{Alternative, Test};

/// Units up to this many are tested over all of their sign patterns.
const EXACT_UP_TO: usize = 20;

/// Two means closer than this are the same arrangement, summed in another order.
const TIE: f64 = 1e-12;

/// Sign-flip test of paired differences on their mean: exact for at most 20 units, else over `resamples` random patterns, the observed one
/// counted with them. Each of `units` (indices of differences) flips as a whole: one case, or all the cases of one patient
/// ([`units_of`](super::bootstrap::units_of)). Several scans of a patient are no independent witnesses.
///
/// `None` where there is no difference or one is not finite.
pub fn sign_flip(differences: &[f64], units: &[Vec<usize>], alternative: Alternative, resamples: usize, draws: Draws) -> Option<Test> {
    let observed = mean(differences)?;
    if !observed.is_finite() {
        return None;
    }
    let sums: Vec<f64> = units.iter().map(|unit| unit.iter().map(|&i| differences[i]).sum()).collect();
    let n = sums.len();
    let flipped = |flips: &mut dyn Iterator<Item = bool>| {
        sums.iter().zip(flips).map(|(d, flip)| if flip { -d } else { *d }).sum::<f64>() / differences.len() as f64
    };
    let p = if n <= EXACT_UP_TO {
        let hits =
            (0..1u32 << n).filter(|&code| as_extreme(flipped(&mut (0..n).map(|i| code >> i & 1 == 1)), observed, alternative)).count();
        hits as f64 / (1u64 << n) as f64
    } else {
        sampled(resamples, |r| as_extreme(flipped(&mut draws.flips(r, n)), observed, alternative))
    };
    Some(Test { statistic: observed, p })
}

/// Permutation test of two independent groups on the difference of their means, over `resamples` random divisions.
///
/// `None` where a group is empty or a number is not finite.
pub fn permutation(a: &[f64], b: &[f64], alternative: Alternative, resamples: usize, draws: Draws) -> Option<Test> {
    let difference = |all: &[f64]| Some(mean(&all[..a.len()])? - mean(&all[a.len()..])?);
    let all = [a, b].concat();
    let observed = difference(&all)?;
    if !observed.is_finite() {
        return None;
    }
    let p = sampled(resamples, |r| {
        let mut all = all.clone();
        draws.shuffle(r, &mut all);
        as_extreme(difference(&all).unwrap_or(observed), observed, alternative)
    });
    Some(Test { statistic: observed, p })
}

/// The observed arrangement is one of those counted, so p is never 0.
fn sampled(resamples: usize, extreme: impl Fn(usize) -> bool) -> f64 {
    (1 + (0..resamples).filter(|&r| extreme(r)).count()) as f64 / (1 + resamples) as f64
}

fn as_extreme(value: f64, observed: f64, alternative: Alternative) -> bool {
    match alternative {
        Alternative::Greater => value >= observed - TIE,
        Alternative::Less => value <= observed + TIE,
        Alternative::TwoSided => value.abs() >= observed.abs() - TIE,
    }
}

/// Hodges and Lehmann's shift: the median of the means of all pairs of differences, each with itself included (Walsh averages).
pub fn hodges_lehmann(differences: &[f64]) -> Option<f64> {
    let walsh: Vec<f64> = differences.iter().enumerate().flat_map(|(i, a)| differences[..=i].iter().map(move |b| (a + b) / 2.0)).collect();
    median(&walsh)
}

/// Cliff's delta: how much more often a number of `a` is larger than one of `b` than smaller, -1 to 1. `None` where a group is empty.
pub fn cliffs_delta(a: &[f64], b: &[f64]) -> Option<f64> {
    let pairs = a.len() * b.len();
    let sum: i64 = a.iter().flat_map(|x| b.iter().map(move |y| x.partial_cmp(y).map_or(0, |o| o as i64))).sum();
    if pairs == 0 { None } else { Some(sum as f64 / pairs as f64) }
}
