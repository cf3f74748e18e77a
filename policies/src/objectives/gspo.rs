use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::advantage::{Baseline, compared};
use super::rollout::log;
use super::surrogate::Surrogate;
use super::{ImportanceSampling, Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, ScaleRewards, Terms};

/// `-mean_s min(rho_s A, clip(rho_s, 1 - epsilon, 1 + epsilon_high) A)` with one ratio a selection,
/// `rho_s = exp(mean_w (log pi - log pi_old))`, `A` as in GRPO.
///
/// What is rewarded is the selection, so that is what is weighed. Source: Zheng et al., "Group Sequence Policy Optimization" (2025).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GspoConfig {
    /// How far the ratio new / old of a selection may fall below 1, 1e-6 to 1. Default 3e-4, as published: a mean over many decisions moves little.
    /// Selections of few sub-volumes want more.
    pub epsilon: f64,
    /// How far it may rise above 1, 1e-6 or more. Default 4e-4, as published.
    pub epsilon_high: f64,
    /// Factor of the KL penalty, >= 0. Default 0.
    pub beta: f64,
    /// Updates made of one rollout, 1 or more. Default 1.
    pub num_iterations: usize,
    /// What differences from the group's mean are divided by. Default "group".
    pub scale_rewards: ScaleRewards,
}

impl Default for GspoConfig {
    fn default() -> Self {
        GspoConfig { epsilon: 3e-4, epsilon_high: 4e-4, beta: 0.0, num_iterations: 1, scale_rewards: ScaleRewards::Group }
    }
}

impl GspoConfig {
    fn surrogate(&self) -> Surrogate {
        let GspoConfig { epsilon, epsilon_high, beta, .. } = *self;
        Surrogate { epsilon, epsilon_high, delta: None, level: ImportanceSampling::Sequence, beta }
    }
}

impl Objective for GspoConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "gspo",
        summary: "GRPO with one ratio a selection (GSPO)",
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
    use super::super::testing::{check_golden, check_gradient, golden, golden_rollout, golden_z, logits};
    use super::*;
    use crate::losses::golden::{check_close, numbers};
    use burn::backend::Flex;

    #[test]
    fn gspo_equals_the_reference() {
        check_golden(&GspoConfig::default(), "gspo");
        check_golden(&GspoConfig { epsilon: 0.2, epsilon_high: 0.2, ..GspoConfig::default() }, "gspo_wide");
        check_gradient(&GspoConfig { epsilon: 0.3, beta: 0.1, ..GspoConfig::default() }, &golden_z(), &golden_rollout());
    }

    #[test]
    fn the_log_has_the_ratios_of_selections() {
        let terms = GspoConfig::default().loss::<Flex>(logits(&golden_z()), &golden_rollout()).unwrap();
        let ratio = numbers(&golden("gspo")["ratio"]);
        let most = ratio.iter().copied().fold(0.0, f64::max);
        let found = terms.log.iter().find(|(name, _)| *name == "ratio/max").unwrap().1;
        check_close("largest ratio", &[f64::from(found)], &[most], 1e-6);
    }
}
