use serde::{Deserialize, Serialize};

use super::{Decode, Scored, at_least};

/// Every window above a probability, as published (there 0.9).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Threshold {
    /// Windows above it are chosen, 0 to 1. Default 0.5.
    pub threshold: f32,
}

impl Default for Threshold {
    fn default() -> Self {
        Threshold { threshold: 0.5 }
    }
}

impl Decode for Threshold {
    fn name(&self) -> &'static str {
        "threshold"
    }

    fn summary(&self) -> &'static str {
        "every window above a probability (GF-Screen)"
    }

    fn check(&self) -> Result<(), String> {
        at_least("threshold", self.threshold.into(), 0.0, 1.0)
    }

    fn decode(&self, scored: Scored) -> Vec<usize> {
        scored.ranked(self.threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threshold_keeps_what_is_above_it_best_first() {
        let scored = Scored { window: [2; 3], starts: &[[0; 3]; 5], probabilities: &[0.5, 0.9, 0.2, 0.6, 0.9] };
        assert_eq!(Threshold::default().decode(scored), [1, 4, 3]);
        assert!(Threshold { threshold: f32::NAN }.check().unwrap_err().contains("`threshold`"));
    }
}
