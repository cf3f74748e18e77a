use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ce::cross_entropy;
use super::rollout::{constant, host, odds};
use super::{Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, Terms};

/// The mean cross-entropy of the share `keep` of the sub-volumes where it is largest.
///
/// Source: Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example Mining" (2016).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OhemConfig {
    /// Share of the sub-volumes that teach, above 0 to 1; at least one does. Default 0.25.
    pub keep: f64,
}

impl Default for OhemConfig {
    fn default() -> Self {
        OhemConfig { keep: 0.25 }
    }
}

impl Objective for OhemConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "ohem",
        summary: "cross-entropy of the hardest sub-volumes",
        needs: Needs::Labels,
        old_policy: OldPolicy::Unused,
    };

    fn check(&self) -> Result<(), String> {
        super::within("keep", self.keep, 1e-6, 1.0)
    }

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let log_odds_g = odds(logits_g2);
        let ce = cross_entropy(log_odds_g.clone(), &rollout.labels.lesion);
        let values = host(ce.clone());
        let mut order: Vec<usize> = (0..values.len()).collect();
        // Stable: of equals the first teaches.
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        let kept = ((values.len() as f64 * self.keep).round() as usize).max(1);
        let mut weights = vec![0.0_f64; values.len()];
        order.iter().take(kept).for_each(|&i| weights[i] = 1.0 / kept as f64);
        Ok(Terms::supervised((ce.clone() * constant(&weights, &ce)).sum(), log_odds_g, rollout))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_supervised;
    use super::*;

    #[test]
    fn ohem_by_hand() {
        // Cross-entropies ln 1.25, ln 5, ln 2, ln 2: the hardest one, the hardest two.
        let (z, y) = ([4f64.ln(), 4f64.ln(), 0.0, 0.1], [1.0, 0.0, 0.0, 1.0]);
        check_supervised(&OhemConfig::default(), &z, &y, 5f64.ln());
        check_supervised(&OhemConfig { keep: 0.5 }, &z, &y, (5f64.ln() + 2f64.ln()) / 2.0);
        assert!(OhemConfig { keep: 0.0 }.check().unwrap_err().contains("`keep`"));
    }
}
