use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::advantage::{Baseline, compared};
use super::rollout::log;
use super::surrogate::Surrogate;
use super::{ImportanceSampling, Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, ScaleRewards, Terms};

/// `-sum_sw min(rho A, clip(rho) A) / (S * max_completion_length)`, `A = R - mean` within the group.
///
/// GRPO divides by the group's deviation, which favours scans that are nearly always or nearly never solved, and by the number of decisions,
/// which dilutes the blame of long selections. Source: Liu et al., "Understanding R1-Zero-Like Training" (2025).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DrGrpoConfig {
    /// How far the ratio new / old may fall below 1, 1e-6 to 1. Default 0.2.
    pub epsilon: f64,
    /// How far it may rise above 1, 1e-6 or more. Default 0.2.
    pub epsilon_high: f64,
    /// Factor of the KL penalty, >= 0. Default 0.
    pub beta: f64,
    /// Updates made of one rollout, 1 or more. Default 1.
    pub num_iterations: usize,
    /// Decisions that a sum over a selection is divided by, whatever its number of sub-volumes, 1 or more. Default 16.
    pub max_completion_length: usize,
}

impl Default for DrGrpoConfig {
    fn default() -> Self {
        DrGrpoConfig { epsilon: 0.2, epsilon_high: 0.2, beta: 0.0, num_iterations: 1, max_completion_length: 16 }
    }
}

impl DrGrpoConfig {
    fn surrogate(&self) -> Surrogate {
        let DrGrpoConfig { epsilon, epsilon_high, beta, .. } = *self;
        Surrogate { epsilon, epsilon_high, delta: None, level: ImportanceSampling::Token, beta }
    }
}

impl Objective for DrGrpoConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "dr_grpo",
        summary: "GRPO without the deviation, over a constant length (Dr. GRPO)",
        needs: Needs::Groups,
        old_policy: OldPolicy::Sampled,
    };

    fn check(&self) -> Result<(), String> {
        super::at_least_one("num_iterations", self.num_iterations)?;
        super::at_least_one("max_completion_length", self.max_completion_length)?;
        self.surrogate().check()
    }

    fn num_iterations(&self) -> usize {
        self.num_iterations
    }

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let samples = &rollout.samples;
        let found = compared(&samples.rewards, &samples.groups, Baseline::Mean, ScaleRewards::None)?;
        let clipped = self.surrogate().clipped(logits_g2, rollout, &samples.spread(&found.values));
        let length = samples.width as f64 / self.max_completion_length as f64;
        let log = log(&found, &found.values, &clipped.stats.named());
        Ok(Terms { policy_loss: clipped.gain.mean().neg() * length, kl_loss: clipped.kl_loss, log })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, check_gradient, golden_rollout, golden_z};
    use super::*;

    #[test]
    fn dr_grpo_equals_the_reference() {
        let config = DrGrpoConfig { max_completion_length: 20, ..DrGrpoConfig::default() };
        check_golden(&config, "dr_grpo");
        check_gradient(&DrGrpoConfig { beta: 0.1, ..config }, &golden_z(), &golden_rollout());
    }
}
