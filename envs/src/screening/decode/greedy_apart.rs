use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Decode, Scored, at_least};

/// Best first, leaving out whatever overlaps a chosen window too much: several windows on one lesion add little to one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GreedyApart {
    /// Windows above it can be chosen, 0 to 1. Default 0.5.
    pub threshold: f32,
    /// Largest share of its volume that a window may have in common with a chosen one, 0 to 1. Default 0: none.
    pub overlap: f32,
}

impl Default for GreedyApart {
    fn default() -> Self {
        GreedyApart { threshold: 0.5, overlap: 0.0 }
    }
}

impl Decode for GreedyApart {
    fn name(&self) -> &'static str {
        "greedy_apart"
    }

    fn summary(&self) -> &'static str {
        "best first, none that overlaps a chosen one"
    }

    fn check(&self) -> Result<(), String> {
        at_least("threshold", self.threshold.into(), 0.0, 1.0)?;
        at_least("overlap", self.overlap.into(), 0.0, 1.0)
    }

    fn decode(&self, scored: Scored) -> Vec<usize> {
        let volume = scored.window.iter().product::<usize>() as f64;
        let common =
            |a: [usize; 3], b: [usize; 3]| -> f64 { (0..3).map(|i| scored.window[i].saturating_sub(a[i].abs_diff(b[i])) as f64).product() };
        // Chosen windows by the block of window size that they start in: what overlaps starts in a neighbouring block.
        let block = |start: [usize; 3]| -> [usize; 3] { std::array::from_fn(|a| start[a] / scored.window[a].max(1)) };
        let mut taken: BTreeMap<[usize; 3], Vec<usize>> = BTreeMap::new();
        let mut chosen = Vec::new();
        for w in scored.ranked(self.threshold) {
            let (start, [x, y, z]) = (scored.starts[w], block(scored.starts[w]));
            let near =
                (0..27).filter_map(|n| Some([(x + n / 9).checked_sub(1)?, (y + n / 3 % 3).checked_sub(1)?, (z + n % 3).checked_sub(1)?]));
            let mut close = near.filter_map(|b| taken.get(&b)).flatten();
            if close.all(|&c| common(start, scored.starts[c]) <= f64::from(self.overlap) * volume) {
                taken.entry([x, y, z]).or_default().push(w);
                chosen.push(w);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{RngExt, stream};

    #[test]
    fn the_best_of_those_that_overlap_is_chosen() {
        let starts = [[0, 0, 0], [2, 0, 0], [4, 0, 0], [6, 0, 0], [0, 4, 0]];
        let scored = Scored { window: [4; 3], starts: &starts, probabilities: &[0.6, 0.9, 0.8, 0.7, 0.4] };
        assert_eq!(GreedyApart::default().decode(scored), [1, 3]);
        assert_eq!(GreedyApart { threshold: 0.3, overlap: 0.5 }.decode(scored), [1, 2, 3, 0, 4]);
    }

    #[test]
    fn looking_at_neighbours_only_equals_looking_at_all() {
        let mut rng = stream(1, "apart", 0, 0);
        for overlap in [0.0, 0.3] {
            let starts: Vec<[usize; 3]> = (0..300).map(|_| std::array::from_fn(|_| rng.random_range(0..20))).collect();
            let probabilities: Vec<f32> = (0..300).map(|_| rng.random()).collect();
            let scored = Scored { window: [5, 4, 6], starts: &starts, probabilities: &probabilities };
            let decoder = GreedyApart { threshold: 0.1, overlap };
            let mut expected: Vec<usize> = Vec::new();
            for w in scored.ranked(0.1) {
                let common = |c: &usize| -> usize {
                    (0..3).map(|a| (scored.window[a] as i64 - (starts[w][a] as i64 - starts[*c][a] as i64).abs()).max(0) as usize).product()
                };
                if expected.iter().all(|c| common(c) as f64 <= f64::from(overlap) * 120.0) {
                    expected.push(w);
                }
            }
            assert_eq!(decoder.decode(scored), expected);
        }
    }
}
