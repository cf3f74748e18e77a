//! Which method comes first, and would it still with other cases?

use serde::{Deserialize, Serialize};

use super::describe::{kendall_tau_b, mean, median, quantile};
use super::resample::Draws;

/// How scores of many cases become one rank a method. Higher scores are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankBy {
    /// Rank of the mean.
    Mean,
    /// Rank of the median.
    Median,
    /// Rank of the mean of the ranks on every case.
    CaseRanks,
}

/// Scores of several methods on the same cases: `scores[method][case]`.
///
/// A missing prediction has a score too (the worst): a table with holes can't be ranked.
#[derive(Clone, Debug)]
pub struct ScoreTable {
    scores: Vec<Vec<f64>>,
    cases: usize,
}

impl ScoreTable {
    /// `None` without methods or cases, where rows differ in length, or where a score is not finite.
    pub fn new(scores: Vec<Vec<f64>>) -> Option<Self> {
        let cases = scores.first()?.len();
        let sound = cases > 0 && scores.iter().all(|s| s.len() == cases && s.iter().all(|v| v.is_finite()));
        sound.then_some(ScoreTable { scores, cases })
    }

    /// What methods are ranked by, higher is better: mean, median, or minus the mean rank on `cases`.
    fn standings(&self, by: RankBy, cases: &[usize]) -> Vec<f64> {
        let of = |aggregate: fn(&[f64]) -> Option<f64>| -> Vec<f64> {
            let one = |s: &Vec<f64>| aggregate(&cases.iter().map(|&c| s[c]).collect::<Vec<_>>()).unwrap_or(f64::NEG_INFINITY);
            self.scores.iter().map(one).collect()
        };
        match by {
            RankBy::Mean => of(mean),
            RankBy::Median => of(median),
            RankBy::CaseRanks => {
                let mut sums = vec![0.0; self.scores.len()];
                for &c in cases {
                    let column: Vec<f64> = self.scores.iter().map(|s| s[c]).collect();
                    sums.iter_mut().zip(ranks(&column)).for_each(|(sum, rank)| *sum -= rank as f64);
                }
                sums.into_iter().map(|s| s / cases.len() as f64).collect()
            }
        }
    }

    /// Rank of each method from 1; equal ones share the better rank.
    pub fn ranks(&self, by: RankBy) -> Vec<usize> {
        ranks(&self.standings(by, &(0..self.cases).collect::<Vec<_>>()))
    }

    /// Mean over cases of each method's rank on the case.
    pub fn mean_case_ranks(&self) -> Vec<f64> {
        self.standings(RankBy::CaseRanks, &(0..self.cases).collect::<Vec<_>>()).into_iter().map(|s| -s).collect()
    }

    /// Ranks again on `resamples` draws of the cases. Each of `units` is drawn as a whole: one case, or all the cases of one patient
    /// ([`units_of`](super::bootstrap::units_of)). `None` without units or draws.
    pub fn stability(&self, by: RankBy, units: &[Vec<usize>], resamples: usize, draws: Draws) -> Option<RankStability> {
        if units.is_empty() {
            return None;
        }
        let full: Vec<f64> = self.ranks(by).into_iter().map(|r| r as f64).collect();
        let mut drawn: Vec<Vec<f64>> = vec![Vec::with_capacity(resamples); self.scores.len()];
        let mut taus = Vec::with_capacity(resamples);
        for r in 0..resamples {
            let cases: Vec<usize> = draws.with_replacement(r, units.len()).flat_map(|u| &units[u]).copied().collect();
            let again: Vec<f64> = ranks(&self.standings(by, &cases)).into_iter().map(|r| r as f64).collect();
            // Where everybody ties there is no order to agree with.
            taus.push(kendall_tau_b(&full, &again).unwrap_or(0.0));
            drawn.iter_mut().zip(again).for_each(|(list, rank)| list.push(rank));
        }
        let methods = drawn.iter().map(|ranks| {
            Some(MethodStability {
                first: ranks.iter().filter(|&&r| r == 1.0).count() as f64 / resamples as f64,
                mean_rank: mean(ranks)?,
                rank_interval: [quantile(ranks, 0.025)?, quantile(ranks, 0.975)?],
            })
        });
        Some(RankStability { methods: methods.collect::<Option<_>>()?, mean_tau: mean(&taus)?, tau_5_percent: quantile(&taus, 0.05)? })
    }
}

/// 1 plus the number that are strictly better (higher).
pub fn ranks(standings: &[f64]) -> Vec<usize> {
    standings.iter().map(|s| 1 + standings.iter().filter(|other| *other > s).count()).collect()
}

/// How one method's rank moves with the cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodStability {
    /// Share of draws in which the method is first.
    pub first: f64,
    pub mean_rank: f64,
    /// Ranks between which 95 % of the draws lie.
    pub rank_interval: [f64; 2],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankStability {
    pub methods: Vec<MethodStability>,
    /// Mean of Kendall's tau-b between the ranking of a draw and that of all cases.
    pub mean_tau: f64,
    pub tau_5_percent: f64,
}
