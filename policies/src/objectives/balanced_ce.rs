use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::odds;
use super::{Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, Terms};
use crate::losses::balanced_ce;

/// The mean cross-entropy of the sub-volumes with lesion plus that of those without; see [`balanced_ce`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BalancedCeConfig {}

impl Objective for BalancedCeConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "balanced_ce",
        summary: "cross-entropy in which both classes weigh alike",
        needs: Needs::Labels,
        old_policy: OldPolicy::Unused,
    };

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        Ok(Terms::supervised(balanced_ce(logits_g2.clone(), &rollout.labels.lesion), odds(logits_g2), rollout))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_supervised;
    use super::*;

    #[test]
    fn balanced_ce_by_hand() {
        // One sub-volume with lesion, two without: -ln 0.8 - (ln 0.5 + ln 0.5) / 2.
        check_supervised(&BalancedCeConfig {}, &[4f64.ln(), 0.0, 0.0], &[1.0, 0.0, 0.0], 0.916287);
    }
}
