//! p-values corrected for how many tests were made, in the order they were given.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adjustment {
    /// Family-wise error; step-down, never weaker than Bonferroni.
    Holm,
    /// Family-wise error; step-up, valid where tests are independent or positively dependent.
    Hochberg,
    /// Family-wise error; every p times the number of tests.
    Bonferroni,
    /// False discovery rate (Benjamini and Hochberg).
    BenjaminiHochberg,
}

impl Adjustment {
    /// Adjusted p-values, at most 1 and never below the raw ones.
    pub fn adjust(self, p: &[f64]) -> Vec<f64> {
        let n = p.len();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
        let mut adjusted = vec![0.0; n];
        // By what each p is multiplied, the smallest first (rank 0).
        let factor = |rank: usize| match self {
            Adjustment::Holm | Adjustment::Hochberg => (n - rank) as f64,
            Adjustment::Bonferroni => n as f64,
            Adjustment::BenjaminiHochberg => n as f64 / (rank + 1) as f64,
        };
        match self {
            Adjustment::Holm | Adjustment::Bonferroni => {
                let mut least = 0.0f64;
                for (rank, &i) in order.iter().enumerate() {
                    least = least.max((p[i] * factor(rank)).min(1.0));
                    adjusted[i] = least;
                }
            }
            Adjustment::Hochberg | Adjustment::BenjaminiHochberg => {
                let mut most = 1.0f64;
                for (rank, &i) in order.iter().enumerate().rev() {
                    most = most.min(p[i] * factor(rank));
                    adjusted[i] = most;
                }
            }
        }
        adjusted
    }
}
