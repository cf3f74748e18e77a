use serde::{Deserialize, Serialize};

use super::{Blocks, Decode, Scored, at_least};

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
        let most = f64::from(self.overlap) * scored.window.iter().product::<usize>() as f64;
        let (mut taken, mut chosen) = (Blocks::new(scored.window), Vec::new());
        for w in scored.ranked(self.threshold) {
            if taken.of(scored.starts[w]).all(|c| scored.common(w, c) as f64 <= most) {
                taken.add(scored.starts[w], w);
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
