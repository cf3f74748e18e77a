use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::advantage::{Baseline, compared};
use super::rollout::log;
use super::surrogate::Surrogate;
use super::{ImportanceSampling, Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, Samples, ScaleRewards, Terms};

/// `-mean_sw min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A)` over all decisions together, `A` as in GRPO, over the groups that teach.
///
/// The higher upper clip lets what is unlikely and good grow; no KL. Dynamic sampling leaves out groups whose rewards are all equal, so that
/// the others keep their weight; the published form draws until as many groups are left, which the next steps do here.
/// Source: Yu et al., "DAPO" (2025).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DapoConfig {
    /// How far the ratio new / old may fall below 1, 1e-6 to 1. Default 0.2.
    pub epsilon: f64,
    /// How far it may rise above 1, 1e-6 or more. Default 0.28.
    pub epsilon_high: f64,
    /// Leave out groups whose rewards are all equal. Default true.
    pub dynamic_sampling: bool,
    /// Updates made of one rollout, 1 or more. Default 1.
    pub num_iterations: usize,
}

impl Default for DapoConfig {
    fn default() -> Self {
        DapoConfig { epsilon: 0.2, epsilon_high: 0.28, dynamic_sampling: true, num_iterations: 1 }
    }
}

impl DapoConfig {
    fn surrogate(&self) -> Surrogate {
        let DapoConfig { epsilon, epsilon_high, .. } = *self;
        Surrogate { epsilon, epsilon_high, delta: None, level: ImportanceSampling::Token, beta: 0.0 }
    }
}

/// The samples of groups whose rewards differ.
fn teaching(samples: &Samples) -> Samples {
    let differs = |s: usize| (0..samples.len()).any(|o| samples.groups[o] == samples.groups[s] && samples.rewards[o] != samples.rewards[s]);
    samples.kept(differs)
}

impl Objective for DapoConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "dapo",
        summary: "GRPO with a higher upper clip, without groups of equal rewards (DAPO)",
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
        let all = &rollout.samples;
        let of_all = compared(&all.rewards, &all.groups, Baseline::Mean, ScaleRewards::Group)?;
        let samples = if self.dynamic_sampling { teaching(all) } else { all.clone() };
        if samples.is_empty() {
            // Nothing to compare: a loss of 0 that still hangs on the logits.
            return Ok(Terms { policy_loss: logits_g2.sum() * 0.0, kl_loss: None, log: log(&of_all, &[], &[]) });
        }
        let found = compared(&samples.rewards, &samples.groups, Baseline::Mean, ScaleRewards::Group)?;
        let spread = samples.spread(&found.values);
        let clipped = self.surrogate().clipped(logits_g2, &Rollout { samples, ..rollout.clone() }, &spread);
        let log = log(&of_all, &found.values, &clipped.stats.named());
        Ok(Terms { policy_loss: clipped.gain.mean().neg(), kl_loss: None, log })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, check_gradient, golden_rollout, golden_z, value_and_gradient};
    use super::*;
    use crate::losses::golden::{check_close, losses, numbers, singles};

    #[test]
    fn dapo_equals_the_reference() {
        check_golden(&DapoConfig::default(), "dapo");
        check_gradient(&DapoConfig::default(), &golden_z(), &golden_rollout());
    }

    #[test]
    fn groups_of_equal_rewards_are_left_out() {
        let golden = &losses()["rl_variants"]["dapo_dynamic_sampling"];
        let rewards = singles(&golden["rewards"]);
        let groups: Vec<u32> = (0..rewards.len() as u32).map(|s| s / 4).collect();
        let n = rewards.len();
        let samples = Samples { width: 1, windows: (0..n).collect(), selected: vec![true; n], rewards, groups };
        let mut kept: Vec<f64> = teaching(&samples).groups.iter().map(|&g| f64::from(g)).collect();
        kept.dedup();
        assert_eq!(kept, numbers(&golden["kept"]));
    }

    #[test]
    fn what_teaches_keeps_its_weight() {
        let alone = golden_rollout();
        let mut with = alone.clone();
        for (windows, selected) in alone.samples.windows.chunks(12).zip(alone.samples.selected.chunks(12)).take(2) {
            with.samples.windows.extend(windows);
            with.samples.selected.extend(selected);
            with.samples.rewards.push(0.5);
            with.samples.groups.push(6);
        }
        let (expected, gradient) = value_and_gradient(&DapoConfig::default(), &golden_z(), &alone);
        let found = value_and_gradient(&DapoConfig::default(), &golden_z(), &with);
        check_close("loss and gradient", &[vec![found.0], found.1].concat(), &[vec![expected], gradient].concat(), 1e-12);
        let off = value_and_gradient(&DapoConfig { dynamic_sampling: false, ..DapoConfig::default() }, &golden_z(), &with);
        check_close("diluted", &[off.0], &[expected * 0.8], 1e-6);
        with.samples.rewards = vec![0.5; 10];
        assert_eq!(value_and_gradient(&DapoConfig::default(), &golden_z(), &with), (0.0, vec![0.0; 12]));
    }
}
