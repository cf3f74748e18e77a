use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::advantage::{Baseline, compared};
use super::reinforce::score_function;
use super::{Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, ScaleRewards, Terms};

/// `-mean_s A sum_w log pi`, `A` the reward less the mean reward of the *other* selections of the group: an unbiased baseline.
///
/// Source: Ahmadian et al., "Back to Basics" (2024), as in TRL's `RLOOTrainer`; no ratio, so the selections are those of the policy as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RlooConfig {}

impl Objective for RlooConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "rloo",
        summary: "REINFORCE against the mean of the other selections (RLOO)",
        needs: Needs::SampledMasks,
        old_policy: OldPolicy::Unused,
    };

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let found = compared(&rollout.samples.rewards, &rollout.samples.groups, Baseline::LeaveOneOut, ScaleRewards::None)?;
        Ok(score_function(logits_g2, rollout, &found))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, check_gradient, golden_rollout, golden_z};
    use super::*;

    #[test]
    fn rloo_equals_the_reference() {
        check_golden(&RlooConfig {}, "rloo");
        check_gradient(&RlooConfig {}, &golden_z(), &golden_rollout());
    }
}
