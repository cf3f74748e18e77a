use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::advantage::{Baseline, compared};
use super::rollout::{constant, host, log, odds};
use super::{Advantages, Needs, Objective, ObjectiveInfo, OldPolicy, PolicyStats, Rollout, ScaleRewards, Terms};

/// `-mean_s A sum_w log pi`, `A` the reward less the mean reward of the group's selections.
///
/// The mean holds the selection's own reward, which shortens the gradient by (n - 1) / n against [`super::RlooConfig`]. Source: Williams (1992).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReinforceConfig {}

impl Objective for ReinforceConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "reinforce",
        summary: "REINFORCE against the mean of all selections",
        needs: Needs::SampledMasks,
        old_policy: OldPolicy::Unused,
    };

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let found = compared(&rollout.samples.rewards, &rollout.samples.groups, Baseline::Mean, ScaleRewards::None)?;
        Ok(score_function(logits_g2, rollout, &found))
    }
}

/// `-mean_s A sum_w log pi`.
pub(super) fn score_function<B: Backend>(logits_g2: Tensor<B, 2>, rollout: &Rollout, found: &Advantages) -> Terms<B> {
    let samples = &rollout.samples;
    let log_odds_g = odds(logits_g2);
    let log_p = samples.log_probs_of(log_odds_g.clone());
    let a = constant(&samples.spread(&found.values), &log_p);
    let policy_loss = (log_p * a).mean().neg() * samples.width as f64;
    let stats = PolicyStats::new(&[], &[], &host(log_odds_g), 0.0, [0.0, f64::INFINITY]);
    Terms { policy_loss, kl_loss: None, log: log(found, &found.values, &stats.policy()) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, check_gradient, golden_rollout, golden_z};
    use super::*;

    #[test]
    fn reinforce_equals_the_reference() {
        check_golden(&ReinforceConfig {}, "reinforce_mean");
        check_gradient(&ReinforceConfig {}, &golden_z(), &golden_rollout());
    }
}
