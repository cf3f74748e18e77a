use burn::tensor::{Tensor, activation::sigmoid, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::{constant, host, log, odds};
use super::{Needs, Objective, ObjectiveInfo, OldPolicy, PolicyStats, Rollout, Terms};

/// `-mean_w (p R1 + (1 - p) R0)`, R1 and R0 the expected rewards of selecting and of discarding a sub-volume while the others are drawn from the
/// policy. Its gradient `-p (1 - p) (R1 - R0) / W` is that of the expected reward, without the noise of sampling.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExactConfig {}

impl Objective for ExactConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "exact",
        summary: "the gradient of the expected reward of independent choices",
        needs: Needs::BothActions,
        old_policy: OldPolicy::Unused,
    };

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let log_odds_g = odds(logits_g2);
        let [r0, r1] = [0, 1].map(|a| constant(&rollout.both.iter().map(|r| r[a]).collect::<Vec<f32>>(), &log_odds_g));
        let (p, q) = (sigmoid(log_odds_g.clone()), sigmoid(log_odds_g.clone().neg()));
        let policy_loss = (p * r1 + q * r0).mean().neg();
        let samples = &rollout.samples;
        let found = super::advantages(&samples.rewards, &samples.groups, &Default::default());
        let gains: Vec<f32> = rollout.both.iter().map(|[r0, r1]| r1 - r0).collect();
        let stats = PolicyStats::new(&[], &[], &host(log_odds_g), 0.0, [0.0, f64::INFINITY]);
        Ok(Terms { policy_loss, kl_loss: None, log: log(&found, &gains, &stats.policy()) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, check_gradient, golden_rollout, golden_z};
    use super::*;

    #[test]
    fn exact_equals_the_reference() {
        check_golden(&ExactConfig {}, "exact_bernoulli");
        check_gradient(&ExactConfig {}, &golden_z(), &golden_rollout());
    }
}
