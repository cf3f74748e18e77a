use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

use super::{Bound, Decode, Scored, at_least};

/// Best first, and every chosen window lowers the probability of those that overlap it, the more they have in common (soft non-maximum suppression,
/// Bodla et al., ICCV 2017): a second window on a lesion must be surer than a first one elsewhere.
///
/// Between the two other ways: without decay it is `threshold`, with endless decay `greedy_apart`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftApart {
    /// Windows that stay above it are chosen, 0 to 1. Default 0.5.
    pub threshold: f32,
    /// A probability is multiplied by `(1 - share)^decay` for each chosen window with which it has that share of its volume in common, 0 to 100.
    /// Default 1.
    pub decay: f32,
}

impl Default for SoftApart {
    fn default() -> Self {
        SoftApart { threshold: 0.5, decay: 1.0 }
    }
}

impl Decode for SoftApart {
    fn name(&self) -> &'static str {
        "soft_apart"
    }

    fn summary(&self) -> &'static str {
        "best first, each lowers what overlaps it"
    }

    fn check(&self) -> Result<(), String> {
        at_least("threshold", self.threshold.into(), 0.0, 1.0)?;
        at_least("decay", self.decay.into(), 0.0, 100.0)
    }

    fn decode(&self, scored: Scored) -> Vec<usize> {
        self.ordered(scored).into_iter().map(|(w, _)| w).collect()
    }
}

impl SoftApart {
    /// As [`Decode::decode`], each window with its probability when it was chosen.
    pub fn ordered(&self, scored: Scored) -> Vec<(usize, f32)> {
        let volume = scored.window.iter().product::<usize>() as f32;
        let near = scored.neighbours();
        // What was chosen, or is no longer above the threshold, has none.
        let mut now: Vec<Option<f32>> = scored.probabilities.iter().map(|&p| (p > self.threshold).then_some(p)).collect();
        let bound = |window: usize, p: f32| Bound { key: f64::from(p), window };
        let mut heap: BinaryHeap<Bound> = now.iter().enumerate().filter_map(|(w, p)| p.map(|p| bound(w, p))).collect();
        let mut chosen = Vec::new();
        while let Some(Bound { key, window }) = heap.pop() {
            // A window was put here each time that it sank: the last counts.
            let Some(probability) = now[window].filter(|p| f64::from(*p) == key) else { continue };
            now[window] = None;
            chosen.push((window, probability));
            for v in near.of(scored.starts[window]) {
                let common = scored.common(window, v);
                let (Some(before), true) = (now[v], common > 0) else { continue };
                let after = before * (1.0 - common as f32 / volume).powf(self.decay);
                now[v] = (after > self.threshold).then_some(after);
                heap.extend(now[v].map(|p| bound(v, p)));
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::super::{GreedyApart, Threshold};
    use super::*;
    use crate::rng::{RngExt, stream};

    #[test]
    fn a_second_window_on_the_same_must_be_surer() {
        let starts = [[0, 0, 0], [1, 0, 0], [2, 0, 0], [8, 0, 0]];
        let scored = Scored { window: [4; 3], starts: &starts, probabilities: &[0.6, 0.9, 0.8, 0.5] };
        // Behind 0.9 at 1: 0.6 * 0.25 = 0.15 at 0, 0.8 * 0.25 = 0.2 at 2, then behind that half of 0.15.
        let expected = [(1, 0.9), (3, 0.5), (2, 0.2), (0, 0.075)];
        let found = SoftApart { threshold: 0.0, decay: 1.0 }.ordered(scored);
        assert_eq!(found.len(), 4);
        for ((window, p), (expected, q)) in found.into_iter().zip(expected) {
            assert!(window == expected && (p - q).abs() < 1e-6, "{window} at {p}, expected {expected} at {q}");
        }
        assert_eq!(SoftApart { threshold: 0.18, decay: 1.0 }.decode(scored), [1, 3, 2]);
    }

    #[test]
    fn no_decay_is_a_threshold_and_an_endless_one_keeps_windows_apart() {
        let mut rng = stream(1, "soft", 0, 0);
        let starts: Vec<[usize; 3]> = (0..300).map(|_| std::array::from_fn(|_| rng.random_range(0..20))).collect();
        let probabilities: Vec<f32> = (0..300).map(|_| rng.random()).collect();
        let scored = Scored { window: [5, 4, 6], starts: &starts, probabilities: &probabilities };
        let threshold = 0.3;
        assert_eq!(SoftApart { threshold, decay: 0.0 }.decode(scored), Threshold { threshold }.decode(scored));
        let apart = GreedyApart { threshold, overlap: 0.0 };
        assert_eq!(SoftApart { threshold, decay: 1e6 }.decode(scored), apart.decode(scored));
    }

    #[test]
    fn looking_at_neighbours_only_equals_looking_at_all() {
        let mut rng = stream(2, "soft", 0, 0);
        let starts: Vec<[usize; 3]> = (0..200).map(|_| std::array::from_fn(|_| rng.random_range(0..20))).collect();
        let probabilities: Vec<f32> = (0..200).map(|_| rng.random()).collect();
        let scored = Scored { window: [5, 4, 6], starts: &starts, probabilities: &probabilities };
        let (mut left, mut expected) = (probabilities.clone(), Vec::new());
        while let Some(best) = (0..200).filter(|&w| left[w] > 0.1).max_by(|&a, &b| left[a].total_cmp(&left[b]).then(b.cmp(&a))) {
            expected.push((best, left[best]));
            for (v, left) in left.iter_mut().enumerate() {
                *left *= (1.0 - scored.common(best, v) as f32 / 120.0).powf(2.0);
            }
            left[best] = 0.0;
        }
        assert_eq!(SoftApart { threshold: 0.1, decay: 2.0 }.ordered(scored), expected);
    }
}
