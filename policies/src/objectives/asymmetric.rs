use burn::tensor::{
    Tensor,
    activation::{log_sigmoid, sigmoid},
    backend::Backend,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::{constant, odds};
use super::{Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, Terms};

/// `-mean_g (y (1 - p)^gamma_pos log p + (1 - y) p_m^gamma_neg log(1 - p_m))`, `p_m = max(p - clip, 0)`.
///
/// A sub-volume without lesion teaches nothing once p is below `clip`. Source: Ridnik et al., "Asymmetric Loss" (2021).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AsymmetricConfig {
    /// Focus on hard sub-volumes with lesion, 0 or more. Default 1.
    pub gamma_pos: f64,
    /// Focus on hard sub-volumes without, 0 or 1 and more. Default 4.
    pub gamma_neg: f64,
    /// Probability below which a sub-volume without lesion is let go, 0 to 0.5. Default 0.05.
    pub clip: f64,
}

impl Default for AsymmetricConfig {
    fn default() -> Self {
        AsymmetricConfig { gamma_pos: 1.0, gamma_neg: 4.0, clip: 0.05 }
    }
}

impl Objective for AsymmetricConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "asymmetric",
        summary: "focal loss that lets go of easy negatives (ASL)",
        needs: Needs::Labels,
        old_policy: OldPolicy::Unused,
    };

    fn check(&self) -> Result<(), String> {
        super::within("gamma_pos", self.gamma_pos, 0.0, f64::INFINITY)?;
        super::within("clip", self.clip, 0.0, 0.5)?;
        // Between 0 and 1 the slope at p_m = 0 has no end.
        if self.gamma_neg == 0.0 { Ok(()) } else { super::within("gamma_neg", self.gamma_neg, 1.0, f64::INFINITY) }
    }

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let log_odds_g = odds(logits_g2);
        let y = constant(&rollout.labels.lesion, &log_odds_g);
        let (log_p, log_q) = (log_sigmoid(log_odds_g.clone()), log_sigmoid(log_odds_g.clone().neg()));
        let hit = (log_q.clone() * self.gamma_pos).exp() * log_p * y.clone();
        let p_m = (sigmoid(log_odds_g.clone()) - self.clip).clamp_min(0.0);
        // Without a margin the logarithm is that of 1 - p itself, which stays exact where p is near 1.
        let log_q_m = if self.clip > 0.0 { (p_m.clone().neg() + 1.0).log() } else { log_q };
        let weight = if self.gamma_neg == 0.0 { p_m.ones_like() } else { p_m.powf_scalar(self.gamma_neg) };
        let clear = weight * log_q_m * (y.neg() + 1.0);
        Ok(Terms::supervised((hit + clear).mean().neg(), log_odds_g, rollout))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_supervised;
    use super::*;

    #[test]
    fn asymmetric_by_hand() {
        // p = 0.8 with lesion, 0.5 without: -(0.2 ln 0.8 + 0.45^4 ln 0.55) / 2.
        check_supervised(&AsymmetricConfig::default(), &[4f64.ln(), 0.0], &[1.0, 0.0], 0.0345718);
        // p = 0.04 without lesion: let go.
        check_supervised(&AsymmetricConfig::default(), &[-(24f64.ln())], &[0.0], 0.0);
        let plain = AsymmetricConfig { gamma_pos: 0.0, gamma_neg: 0.0, clip: 0.0 };
        check_supervised(&plain, &[4f64.ln(), 0.0], &[1.0, 0.0], 0.458145);
        assert!(AsymmetricConfig { gamma_neg: 0.5, ..plain }.check().unwrap_err().contains("`gamma_neg`"));
    }
}
