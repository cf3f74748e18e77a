//! Wilcoxon's signed-rank test of paired differences.

use serde::{Deserialize, Serialize};

use super::describe::{midranks, tie_term};
use super::special::normal_p;
use super::{Alternative, Test};

/// What becomes of differences that are exactly 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zeros {
    /// Left out before ranking (Wilcoxon; SciPy's default).
    Discard,
    /// Ranked, then their ranks left out (Pratt).
    Pratt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Exact for at most 50 differences without ties or zeros, else the normal approximation (SciPy's `auto`).
    Auto,
    /// The exact distribution of ranks without ties.
    Exact,
    /// Normal with the correction for ties, without one for continuity.
    Normal,
}

/// SciPy goes over to the normal approximation above this.
const EXACT_UP_TO: usize = 50;

/// Tests whether `differences` (first minus second) lie around 0. The statistic is the sum of the ranks of the positive differences, for
/// the two-sided test the smaller of the positive and the negative sum (as SciPy reports it).
///
/// Differences are ranked as they are. Where scores have few decimals, round their differences to as many: 0.83 - 0.81 and 0.53 - 0.51 are
/// two doubles, and the tie is lost (in SciPy too).
///
/// `None` where a difference is not finite or none differs from 0: there is nothing to test. A table of p-values takes 1 for the latter.
pub fn signed_rank(differences: &[f64], zeros: Zeros, method: Method, alternative: Alternative) -> Option<Test> {
    if differences.iter().any(|d| !d.is_finite()) {
        return None;
    }
    let zero_count = differences.iter().filter(|&&d| d == 0.0).count();
    let kept: Vec<f64> = match zeros {
        Zeros::Discard => differences.iter().copied().filter(|&d| d != 0.0).collect(),
        Zeros::Pratt => differences.to_vec(),
    };
    if zero_count == differences.len() {
        return None;
    }
    let sizes: Vec<f64> = kept.iter().map(|d| d.abs()).collect();
    let ranks = midranks(&sizes);
    let sum = |sign: f64| kept.iter().zip(&ranks).filter(|(d, _)| *d * sign > 0.0).map(|(_, r)| r).sum::<f64>();
    let (plus, minus) = (sum(1.0), sum(-1.0));
    let n = kept.len();
    let exact = match method {
        Method::Exact => true,
        Method::Normal => false,
        Method::Auto => n <= EXACT_UP_TO && zero_count == 0 && tie_term(&sizes) == 0.0,
    };
    let statistic = if alternative == Alternative::TwoSided { plus.min(minus) } else { plus };
    if exact {
        return Some(Test { statistic, p: exact_p(plus, n, alternative)? });
    }
    let count = n as f64;
    let mut mean = count * (count + 1.0) / 4.0;
    let mut variance = count * (count + 1.0) * (2.0 * count + 1.0);
    // Ties among the ranks that are counted; with Pratt the zeros are not.
    let counted: Vec<f64> = sizes.iter().copied().filter(|&s| s != 0.0).collect();
    if zeros == Zeros::Pratt {
        let z = zero_count as f64;
        mean -= z * (z + 1.0) / 4.0;
        variance -= z * (z + 1.0) * (2.0 * z + 1.0);
    }
    variance = (variance - tie_term(&counted) / 2.0) / 24.0;
    let z = (plus - mean) / variance.sqrt();
    Some(Test { statistic, p: normal_p(z, alternative) })
}

/// The share of the 2ⁿ ways to sign ranks 1..n that are at least as extreme; `None` for more ranks than fit in doubles.
fn exact_p(plus: f64, n: usize, alternative: Alternative) -> Option<f64> {
    if n > 1000 {
        return None;
    }
    // Shares of the sign patterns by their sum of positive ranks, one rank after the other.
    let most = n * (n + 1) / 2;
    let mut share = vec![0.0; most + 1];
    share[0] = 1.0;
    let mut reached = 0;
    for rank in 1..=n {
        reached += rank;
        for sum in (0..=reached).rev() {
            let with = if sum >= rank { share[sum - rank] } else { 0.0 };
            share[sum] = (share[sum] + with) / 2.0;
        }
    }
    // With ties a sum may lie between two whole numbers: the test stays on the careful side.
    let at_least = share[(plus.floor() as usize).min(most)..].iter().sum::<f64>();
    let at_most = share[..=(plus.ceil() as usize).min(most)].iter().sum::<f64>();
    Some(match alternative {
        Alternative::Greater => at_least,
        Alternative::Less => at_most,
        Alternative::TwoSided => (2.0 * at_least.min(at_most)).min(1.0),
    })
}
