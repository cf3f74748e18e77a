//! Every method against every other on common cases: Touchstone's significance maps.

use serde::{Deserialize, Serialize};

use super::Alternative;
use super::adjust::Adjustment;
use super::describe::median;
use super::wilcoxon::{Method, Zeros, signed_rank};

/// All ordered pairs of methods, tested one-sidedly by Wilcoxon's signed ranks and corrected together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignificanceMap {
    /// Methods by their median score, the best first; equal ones in the order given.
    pub order: Vec<usize>,
    /// Median of each method over all cases that it has.
    pub median: Vec<Option<f64>>,
    /// Cases that each method has.
    pub cases: Vec<usize>,
    /// Number of methods that each is significantly better than.
    pub wins: Vec<usize>,
    /// `p[a][b]` that `a` is no better than `b`, adjusted; `None` for `a` itself and where the two share no case.
    pub p: Vec<Vec<Option<f64>>>,
    /// Cases that two methods share: `pairs[a][b]`.
    pub pairs: Vec<Vec<usize>>,
}

impl SignificanceMap {
    /// `scores[method][case]`, `None` where a method has no score for the case. `alpha` is the level (0.05) of a win.
    ///
    /// Two methods that are equal on every common case have p 1 (Touchstone's code says 100 and clips it).
    pub fn of(scores: &[Vec<Option<f64>>], adjustment: Adjustment, alpha: f64) -> Self {
        let n = scores.len();
        let present = |s: &[Option<f64>]| s.iter().flatten().copied().collect::<Vec<f64>>();
        let medians: Vec<Option<f64>> = scores.iter().map(|s| median(&present(s))).collect();
        let mut order: Vec<usize> = (0..n).collect();
        let standing = |i: usize| medians[i].unwrap_or(f64::NEG_INFINITY);
        order.sort_by(|&a, &b| standing(b).total_cmp(&standing(a)));
        let mut pairs = vec![vec![0; n]; n];
        let (mut cells, mut raw) = (Vec::new(), Vec::new());
        for a in 0..n {
            for b in (0..n).filter(|&b| b != a) {
                let differences: Vec<f64> = scores[a].iter().zip(&scores[b]).filter_map(|(x, y)| Some((*x)? - (*y)?)).collect();
                pairs[a][b] = differences.len();
                if !differences.is_empty() {
                    cells.push((a, b));
                    raw.push(signed_rank(&differences, Zeros::Discard, Method::Auto, Alternative::Greater).map_or(1.0, |t| t.p));
                }
            }
        }
        let mut p = vec![vec![None; n]; n];
        cells.iter().zip(adjustment.adjust(&raw)).for_each(|(&(a, b), adjusted)| p[a][b] = Some(adjusted));
        let wins = p.iter().map(|row| row.iter().flatten().filter(|&&p| p < alpha).count()).collect();
        SignificanceMap { order, median: medians, cases: scores.iter().map(|s| present(s).len()).collect(), wins, p, pairs }
    }

    pub fn significant_cells(&self) -> usize {
        self.wins.iter().sum()
    }

    /// The smallest number of common cases that a cell rests on; `None` for fewer than two methods.
    pub fn least_pairs(&self) -> Option<usize> {
        let others = |a: usize| self.pairs[a].iter().enumerate().filter(move |(b, _)| *b != a).map(|(_, n)| *n);
        (0..self.pairs.len()).flat_map(others).min()
    }
}
