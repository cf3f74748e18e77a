use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::advantage::{Baseline, compared};
use super::rollout::log;
use super::surrogate::Surrogate;
use super::{ImportanceSampling, Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, ScaleRewards, Terms};

/// `-mean_s 1/W sum_w min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A) + beta * mean k3`,
/// `A = (R - mean) / (std + 1e-4)` within the group, `k3 = exp(d) - d - 1` with d the reference's log-probability less the policy's.
///
/// Source: Shao et al., "DeepSeekMath" (2024), as in TRL's `GRPOTrainer`. The reference is the old policy: there is no other one here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrpoConfig {
    /// How far the ratio new / old may fall below 1, 1e-6 to 1. Default 0.2.
    pub epsilon: f64,
    /// How far it may rise above 1, 1e-6 or more. Default 0.2.
    pub epsilon_high: f64,
    /// Dual clip: the loss of a negative advantage ends at `delta * |advantage|`, at least 1 + epsilon_high. Default none.
    pub delta: Option<f64>,
    /// Factor of the KL penalty, >= 0. Default 0, as in TRL; DeepSeekMath has 0.04.
    pub beta: f64,
    /// Updates made of one rollout, 1 or more. Default 1.
    pub num_iterations: usize,
    /// What differences from the group's mean are divided by. Default "group".
    pub scale_rewards: ScaleRewards,
    /// What the ratio is taken of. Default "token": each decision by itself.
    pub importance_sampling_level: ImportanceSampling,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        GrpoConfig {
            epsilon: 0.2,
            epsilon_high: 0.2,
            delta: None,
            beta: 0.0,
            num_iterations: 1,
            scale_rewards: ScaleRewards::Group,
            importance_sampling_level: ImportanceSampling::Token,
        }
    }
}

impl GrpoConfig {
    fn surrogate(&self) -> Surrogate {
        let GrpoConfig { epsilon, epsilon_high, delta, beta, importance_sampling_level: level, .. } = *self;
        Surrogate { epsilon, epsilon_high, delta, level, beta }
    }
}

impl Objective for GrpoConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "grpo",
        summary: "clipped ratio on advantages within the group (DeepSeekMath)",
        needs: Needs::Groups,
        old_policy: OldPolicy::Sampled,
    };

    fn check(&self) -> Result<(), String> {
        super::at_least_one("num_iterations", self.num_iterations)?;
        self.surrogate().check()
    }

    fn num_iterations(&self) -> usize {
        self.num_iterations
    }

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let samples = &rollout.samples;
        let found = compared(&samples.rewards, &samples.groups, Baseline::Mean, self.scale_rewards)?;
        let clipped = self.surrogate().clipped(logits_g2, rollout, &samples.spread(&found.values));
        let log = log(&found, &found.values, &clipped.stats.named());
        Ok(Terms { policy_loss: clipped.gain.mean().neg(), kl_loss: clipped.kl_loss, log })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, check_gradient, golden_rollout, golden_z};
    use super::*;

    #[test]
    fn grpo_equals_the_reference() {
        check_golden(&GrpoConfig { beta: 0.04, ..GrpoConfig::default() }, "grpo");
        check_golden(&GrpoConfig { delta: Some(3.0), ..GrpoConfig::default() }, "dual_clip");
        let wide = GrpoConfig { importance_sampling_level: ImportanceSampling::Sequence, ..GrpoConfig::default() };
        check_golden(&wide, "gspo_wide");
    }

    #[test]
    fn gradients_equal_finite_differences() {
        for scale_rewards in [ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None] {
            check_gradient(&GrpoConfig { beta: 0.1, scale_rewards, ..GrpoConfig::default() }, &golden_z(), &golden_rollout());
        }
    }

    #[test]
    fn check_names_the_value() {
        for (config, word) in [
            (GrpoConfig { epsilon: 0.0, ..GrpoConfig::default() }, "`epsilon`"),
            (GrpoConfig { epsilon_high: f64::NAN, ..GrpoConfig::default() }, "`epsilon_high`"),
            (GrpoConfig { beta: -1.0, ..GrpoConfig::default() }, "`beta`"),
            (GrpoConfig { delta: Some(1.1), ..GrpoConfig::default() }, "`delta`"),
            (GrpoConfig { num_iterations: 0, ..GrpoConfig::default() }, "`num_iterations`"),
        ] {
            assert!(config.check().unwrap_err().contains(word), "{config:?}");
        }
    }
}
