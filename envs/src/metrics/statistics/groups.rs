//! Do groups differ: Kruskal and Wallis for all together, Mann and Whitney for two, on independent numbers.

use serde::{Deserialize, Serialize};

use super::adjust::Adjustment;
use super::describe::{mean, median, midranks, quantile, tie_term};
use super::special::{chi_squared_above, normal_p};
use super::{Alternative, Test};

fn all_finite(groups: &[&[f64]]) -> bool {
    groups.iter().all(|g| !g.is_empty() && g.iter().all(|v| v.is_finite()))
}

/// Kruskal and Wallis's H with the correction for ties, and its p by chi-squared with one degree of freedom less than groups.
///
/// `None` for fewer than two groups, an empty one, a number that is not finite, or where all numbers are equal.
pub fn kruskal_wallis(groups: &[&[f64]]) -> Option<Test> {
    if groups.len() < 2 || !all_finite(groups) {
        return None;
    }
    let all = groups.concat();
    let (n, ranks) = (all.len() as f64, midranks(&all));
    let mut rest = ranks.as_slice();
    let mut sum = 0.0;
    for group in groups {
        let (own, others) = rest.split_at(group.len());
        rest = others;
        sum += own.iter().sum::<f64>().powi(2) / group.len() as f64;
    }
    let correction = 1.0 - tie_term(&all) / (n * n * n - n);
    if correction == 0.0 {
        return None;
    }
    let statistic = (12.0 / (n * (n + 1.0)) * sum - 3.0 * (n + 1.0)) / correction;
    Some(Test { statistic, p: chi_squared_above(statistic, (groups.len() - 1) as f64) })
}

/// Mann and Whitney's U of `a` over `b`: normal approximation with corrections for ties and continuity (SciPy's `asymptotic`).
///
/// `None` where a group is empty, a number is not finite, or all numbers are equal.
pub fn mann_whitney(a: &[f64], b: &[f64], alternative: Alternative) -> Option<Test> {
    let (statistic, ties) = u_statistic(a, b)?;
    let (m, n) = (a.len() as f64, b.len() as f64);
    let count = m + n;
    let deviation = (m * n / 12.0 * (count + 1.0 - ties / (count * (count - 1.0)))).sqrt();
    if deviation == 0.0 {
        return None;
    }
    // Continuity takes half a step towards the middle, on the side that is tested.
    let z = |u: f64| (u - m * n / 2.0 - 0.5) / deviation;
    let p = match alternative {
        Alternative::Greater => normal_p(z(statistic), Alternative::Greater),
        Alternative::Less => normal_p(z(m * n - statistic), Alternative::Greater),
        Alternative::TwoSided => (2.0 * normal_p(z(statistic.max(m * n - statistic)), Alternative::Greater)).min(1.0),
    };
    Some(Test { statistic, p })
}

/// The same with the exact distribution of U, for groups without ties between numbers.
///
/// `None` as above, where numbers tie, or where the groups have more than 10,000 pairs.
pub fn mann_whitney_exact(a: &[f64], b: &[f64], alternative: Alternative) -> Option<Test> {
    let (statistic, ties) = u_statistic(a, b)?;
    let (m, n) = (a.len(), b.len());
    if ties > 0.0 || m * n > 10_000 {
        return None;
    }
    // Ways to place the numbers of `a` among all by their U, one number of `a` or `b` after the other: share[j][u] with i of `a`, j of `b`.
    let most = m * n;
    let mut ways = vec![vec![0.0; most + 1]; n + 1];
    ways.iter_mut().for_each(|w| w[0] = 1.0);
    for i in 1..=m {
        let mut next = vec![vec![0.0; most + 1]; n + 1];
        for j in 0..=n {
            let chance = i as f64 / (i + j) as f64;
            for u in 0..=i * j {
                // The largest is of `a` (above all j of `b`) or of `b`.
                let of_a = if u >= j { ways[j][u - j] } else { 0.0 };
                let of_b = if j > 0 { next[j - 1][u] } else { 0.0 };
                next[j][u] = chance * of_a + (1.0 - chance) * of_b;
            }
        }
        ways = next;
    }
    let u = statistic as usize;
    let (at_least, at_most) = (ways[n][u..].iter().sum::<f64>(), ways[n][..=u].iter().sum::<f64>());
    let p = match alternative {
        Alternative::Greater => at_least,
        Alternative::Less => at_most,
        Alternative::TwoSided => (2.0 * at_least.min(at_most)).min(1.0),
    };
    Some(Test { statistic, p })
}

/// U of `a` (pairs in which it is larger, ties half) and the tie term.
fn u_statistic(a: &[f64], b: &[f64]) -> Option<(f64, f64)> {
    if !all_finite(&[a, b]) {
        return None;
    }
    let all = [a, b].concat();
    let (m, rank_sum) = (a.len() as f64, midranks(&all)[..a.len()].iter().sum::<f64>());
    Some((rank_sum - m * (m + 1.0) / 2.0, tie_term(&all)))
}

/// One group of cases in a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub n: usize,
    pub mean: f64,
    /// Lower quartile, median, upper quartile.
    pub quartiles: [f64; 3],
}

/// Two groups held against each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupPair {
    pub a: String,
    pub b: String,
    /// Two-sided, by Mann and Whitney.
    pub p: f64,
    pub p_adjusted: f64,
    pub cliffs_delta: f64,
}

/// Groups of cases by one factor (age decade, sex, scanner): described, tested together, then two by two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupAnalysis {
    pub groups: Vec<Group>,
    /// Groups left out because they have fewer than the least number of cases.
    pub too_small: Vec<(String, usize)>,
    pub kruskal_wallis: Option<Test>,
    pub pairs: Vec<GroupPair>,
}

impl GroupAnalysis {
    /// Touchstone's analysis takes [`Adjustment::Bonferroni`]. Groups are in the order given; those with fewer than `least` numbers are
    /// listed and left out. Numbers that are not finite are left out and not counted.
    pub fn of(groups: &[(String, Vec<f64>)], least: usize, adjustment: Adjustment) -> Self {
        let finite = |values: &[f64]| values.iter().copied().filter(|v| v.is_finite()).collect::<Vec<f64>>();
        let (kept, small): (Vec<_>, Vec<_>) =
            groups.iter().map(|(name, values)| (name, finite(values))).partition(|(_, values)| values.len() >= least.max(1));
        let describe = |(name, values): &(&String, Vec<f64>)| {
            let quartile = |q| quantile(values, q).unwrap_or(f64::NAN);
            Group {
                name: (*name).clone(),
                n: values.len(),
                mean: mean(values).unwrap_or(f64::NAN),
                quartiles: [quartile(0.25), median(values).unwrap_or(f64::NAN), quartile(0.75)],
            }
        };
        let mut pairs: Vec<GroupPair> = Vec::new();
        for (i, (a, x)) in kept.iter().enumerate() {
            for (b, y) in &kept[i + 1..] {
                // All numbers equal: nothing speaks for a difference.
                let p = mann_whitney(x, y, Alternative::TwoSided).map_or(1.0, |t| t.p);
                let delta = super::paired::cliffs_delta(x, y).unwrap_or(0.0);
                pairs.push(GroupPair { a: (*a).clone(), b: (*b).clone(), p, p_adjusted: p, cliffs_delta: delta });
            }
        }
        let adjusted = adjustment.adjust(&pairs.iter().map(|p| p.p).collect::<Vec<_>>());
        pairs.iter_mut().zip(adjusted).for_each(|(pair, p)| pair.p_adjusted = p);
        let values: Vec<&[f64]> = kept.iter().map(|(_, v)| v.as_slice()).collect();
        GroupAnalysis {
            groups: kept.iter().map(describe).collect(),
            too_small: small.into_iter().map(|(name, values)| (name.clone(), values.len())).collect(),
            kruskal_wallis: kruskal_wallis(&values),
            pairs,
        }
    }
}
