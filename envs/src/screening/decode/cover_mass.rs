use std::collections::{BTreeMap, BinaryHeap};

use serde::{Deserialize, Serialize};

use super::{Blocks, Bound, Decode, Scored, at_least};

/// The window that covers most of what is not covered yet, until a share of the mass is covered.
///
/// The mass is the probability of every window, lying at its centre; a window covers the centres inside it. Greedy, which for such a cover is
/// within 1 - 1/e of the best of as many windows (Nemhauser et al., 1978).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoverMass {
    /// Probability up to which a window has no mass and isn't chosen, 0 to 1. Default 0.1: most of a scan is nearly nothing, but much of it.
    pub least: f32,
    /// Share of the mass that is to be covered, 0 to 1. Default 0.95.
    pub share: f32,
}

impl Default for CoverMass {
    fn default() -> Self {
        CoverMass { least: 0.1, share: 0.95 }
    }
}

impl Decode for CoverMass {
    fn name(&self) -> &'static str {
        "cover_mass"
    }

    fn summary(&self) -> &'static str {
        "fewest windows that cover a share of the probability, greedily"
    }

    fn check(&self) -> Result<(), String> {
        at_least("least", self.least.into(), 0.0, 1.0)?;
        at_least("share", self.share.into(), 0.0, 1.0)
    }

    fn decode(&self, scored: Scored) -> Vec<usize> {
        self.ordered(scored).into_iter().map(|(w, _)| w).collect()
    }
}

impl CoverMass {
    /// As [`Decode::decode`], each window with the share of the mass that was not covered before it.
    pub fn ordered(&self, scored: Scored) -> Vec<(usize, f32)> {
        let candidates = scored.ranked(self.least);
        let centre = |w: usize| -> [usize; 3] { std::array::from_fn(|a| scored.starts[w][a] + scored.window[a] / 2) };
        let mut centres = Blocks::new(scored.window);
        candidates.iter().for_each(|&w| centres.add(centre(w), w));
        let inside = |w: usize| -> Vec<usize> {
            let start = scored.starts[w];
            let holds = |&v: &usize| (0..3).all(|a| centre(v)[a] >= start[a] && centre(v)[a] < start[a] + scored.window[a]);
            centres.of(centre(w)).filter(holds).collect()
        };
        let mut left: BTreeMap<usize, f64> = candidates.iter().map(|&w| (w, f64::from(scored.probabilities[w]))).collect();
        let total: f64 = left.values().sum();
        let mass = |w: usize, left: &BTreeMap<usize, f64>| inside(w).iter().filter_map(|v| left.get(v)).sum::<f64>();
        let mut heap: BinaryHeap<Bound> = candidates.iter().map(|&window| Bound { key: mass(window, &left), window }).collect();
        let (mut chosen, mut covered) = (Vec::new(), 0.0);
        // A hair less than the share: sums in another order differ in their last bits.
        while covered < total * (f64::from(self.share) - 1e-9) {
            let Some(Bound { window, .. }) = heap.pop() else { break };
            let now = Bound { key: mass(window, &left), window };
            if heap.peek().is_some_and(|next| *next > now) {
                if now.key > 0.0 {
                    heap.push(now);
                }
                continue;
            }
            if now.key <= 0.0 {
                break;
            }
            inside(window).iter().for_each(|v| {
                left.remove(v);
            });
            chosen.push((window, (1.0 - covered / total) as f32));
            covered += now.key;
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{RngExt, stream};

    #[test]
    fn the_window_that_covers_most_comes_first() {
        // Centres 2, 4, 6 and 20 along x; the window at 2 covers centres 2 to 5, that at 4 covers 4 to 7.
        let starts = [[0, 0, 0], [2, 0, 0], [4, 0, 0], [18, 0, 0]];
        let scored = Scored { window: [4; 3], starts: &starts, probabilities: &[0.5, 0.8, 0.6, 0.9] };
        // Mass: window 0 covers 0.5, 1 covers 0.5 + 0.8, 2 covers 0.8 + 0.6, 3 covers 0.9.
        assert_eq!(CoverMass { least: 0.1, share: 0.5 }.decode(scored), [2]);
        assert_eq!(CoverMass { least: 0.1, share: 0.8 }.decode(scored), [2, 3]);
        assert_eq!(CoverMass { least: 0.1, share: 1.0 }.decode(scored), [2, 3, 0], "of equals the first");
        assert_eq!(CoverMass { least: 0.85, share: 1.0 }.decode(scored), [3]);
        let open: Vec<f32> = CoverMass { least: 0.1, share: 1.0 }.ordered(scored).into_iter().map(|(_, open)| open).collect();
        assert!((open[0] - 1.0).abs() < 1e-6 && (open[1] - 1.4 / 2.8).abs() < 1e-6 && (open[2] - 0.5 / 2.8).abs() < 1e-6, "{open:?}");
    }

    #[test]
    fn lazy_choice_equals_the_plain_greedy_one() {
        let mut rng = stream(2, "cover", 0, 0);
        let window = [5, 4, 6];
        let starts: Vec<[usize; 3]> = (0..200).map(|_| std::array::from_fn(|_| rng.random_range(0..16))).collect();
        let probabilities: Vec<f32> = (0..200).map(|_| rng.random()).collect();
        let chosen = CoverMass { least: 0.2, share: 0.9 }.decode(Scored { window, starts: &starts, probabilities: &probabilities });
        let mut left: Vec<f64> = probabilities.iter().map(|&p| if p > 0.2 { f64::from(p) } else { 0.0 }).collect();
        let total: f64 = left.iter().sum();
        let covers =
            |w: usize, v: usize| (0..3).all(|a| (starts[w][a]..starts[w][a] + window[a]).contains(&(starts[v][a] + window[a] / 2)));
        let mut covered = 0.0;
        for &w in &chosen {
            let mass = |w: usize| (0..200).filter(|&v| covers(w, v)).map(|v| left[v]).sum::<f64>();
            let most = (0..200).filter(|&w| probabilities[w] > 0.2).map(mass).fold(0.0, f64::max);
            assert!((mass(w) - most).abs() < 1e-9, "window {w} covers {}, another {most}", mass(w));
            covered += mass(w);
            (0..200).filter(|&v| covers(w, v)).for_each(|v| left[v] = 0.0);
        }
        let last = chosen.last().unwrap();
        assert!(covered >= 0.9 * total - 1e-6 && !chosen[..chosen.len() - 1].contains(last));
    }
}
