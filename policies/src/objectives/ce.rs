use burn::tensor::{Tensor, activation::log_sigmoid, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::{constant, odds};
use super::{Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, Terms};

/// `-mean_g (y log p + (1 - y) log(1 - p))`, y 1 where the sub-volume holds lesion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CeConfig {}

impl Objective for CeConfig {
    const INFO: ObjectiveInfo =
        ObjectiveInfo { name: "ce", summary: "cross-entropy with the labels", needs: Needs::Labels, old_policy: OldPolicy::Unused };

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let log_odds_g = odds(logits_g2);
        let ce = cross_entropy(log_odds_g.clone(), &rollout.labels.lesion).mean();
        Ok(Terms::supervised(ce, log_odds_g, rollout))
    }
}

/// `-(y log p + (1 - y) log(1 - p))`, `[G]`.
pub(super) fn cross_entropy<B: Backend>(log_odds_g: Tensor<B, 1>, labels: &[f32]) -> Tensor<B, 1> {
    let y = constant(labels, &log_odds_g);
    let hit = log_sigmoid(log_odds_g.clone()) * y.clone();
    let clear = log_sigmoid(log_odds_g.neg()) * (y.neg() + 1.0);
    (hit + clear).neg()
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_supervised;
    use super::*;

    #[test]
    fn ce_by_hand() {
        // p = 0.8 and 0.5: -(ln 0.8 + ln 0.5) / 2.
        check_supervised(&CeConfig {}, &[4f64.ln(), 0.0], &[1.0, 0.0], 0.458145);
        check_supervised(&CeConfig {}, &[4f64.ln(), 0.0], &[0.0, 1.0], 1.151293);
    }
}
