use burn::tensor::{Tensor, activation::log_sigmoid, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::{constant, odds};
use super::{Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, Terms};

/// `-mean_g (alpha y (1 - p)^gamma log p + (1 - alpha) (1 - y) p^gamma log(1 - p))`.
///
/// Source: Lin et al., "Focal Loss for Dense Object Detection" (2017); a mean over sub-volumes, where the paper divides by the objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FocalConfig {
    /// How much less what is easy weighs, 0 or more; 0 is cross-entropy. Default 2.
    pub gamma: f64,
    /// Weight of sub-volumes with lesion, 0 to 1; the others have the rest. Default 0.25.
    pub alpha: f64,
}

impl Default for FocalConfig {
    fn default() -> Self {
        FocalConfig { gamma: 2.0, alpha: 0.25 }
    }
}

impl Objective for FocalConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "focal",
        summary: "cross-entropy that looks past what is easy",
        needs: Needs::Labels,
        old_policy: OldPolicy::Unused,
    };

    fn check(&self) -> Result<(), String> {
        super::within("gamma", self.gamma, 0.0, f64::INFINITY)?;
        super::within("alpha", self.alpha, 0.0, 1.0)
    }

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let log_odds_g = odds(logits_g2);
        let y = constant(&rollout.labels.lesion, &log_odds_g);
        let (log_p, log_q) = (log_sigmoid(log_odds_g.clone()), log_sigmoid(log_odds_g.clone().neg()));
        let hit = (log_q.clone() * self.gamma).exp() * log_p.clone() * y.clone() * self.alpha;
        let clear = (log_p * self.gamma).exp() * log_q * (y.neg() + 1.0) * (1.0 - self.alpha);
        Ok(Terms::supervised((hit + clear).mean().neg(), log_odds_g, rollout))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_supervised;
    use super::*;

    #[test]
    fn focal_by_hand() {
        // p = 0.8 with lesion, 0.5 without: -(0.25 0.2^2 ln 0.8 + 0.75 0.5^2 ln 0.5) / 2.
        check_supervised(&FocalConfig::default(), &[4f64.ln(), 0.0], &[1.0, 0.0], 0.0660983);
        check_supervised(&FocalConfig { gamma: 0.0, alpha: 0.5 }, &[4f64.ln(), 0.0], &[1.0, 0.0], 0.458145 / 2.0);
        assert!(FocalConfig { alpha: 1.5, ..FocalConfig::default() }.check().unwrap_err().contains("`alpha`"));
    }
}
