use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::advantage::{Baseline, compared};
use super::rollout::{constant, host, log, odds};
use super::surrogate::LOG_RATIO_LIMIT;
use super::{Needs, Objective, ObjectiveInfo, OldPolicy, PolicyStats, Rollout, ScaleRewards, Terms};

/// `-mean_sw stop_gradient(min(rho, 1 + epsilon_high)) A log pi`, `A` as in GRPO.
///
/// The importance weight is cut, never the gradient: no decision stops teaching. Source: MiniMax, "MiniMax-M1" (2025). TRL's option of the same
/// name is the cap itself, here it is what the cap has above 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CispoConfig {
    /// How far the weight may rise above 1, 1e-6 or more. Default 0.28.
    pub epsilon_high: f64,
    /// Updates made of one rollout, 1 or more. Default 1.
    pub num_iterations: usize,
    /// What differences from the group's mean are divided by. Default "group".
    pub scale_rewards: ScaleRewards,
}

impl Default for CispoConfig {
    fn default() -> Self {
        CispoConfig { epsilon_high: 0.28, num_iterations: 1, scale_rewards: ScaleRewards::Group }
    }
}

impl Objective for CispoConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "cispo",
        summary: "capped importance weights that keep every gradient (MiniMax-M1)",
        needs: Needs::Groups,
        old_policy: OldPolicy::Sampled,
    };

    fn check(&self) -> Result<(), String> {
        super::at_least_one("num_iterations", self.num_iterations)?;
        super::within("epsilon_high", self.epsilon_high, 1e-6, f64::INFINITY)
    }

    fn num_iterations(&self) -> usize {
        self.num_iterations
    }

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let samples = &rollout.samples;
        let found = compared(&samples.rewards, &samples.groups, Baseline::Mean, self.scale_rewards)?;
        let log_odds_g = odds(logits_g2);
        let log_p = samples.log_probs_of(log_odds_g.clone());
        let old = constant(&samples.log_probs(&rollout.old_log_odds), &log_p);
        let ratio = host((log_p.clone() - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp());
        let (cap, a) = (1.0 + self.epsilon_high, samples.spread(&found.values));
        let weights: Vec<f64> = ratio.iter().zip(&a).map(|(rho, &a)| rho.min(cap) * f64::from(a)).collect();
        let policy_loss = (log_p.clone() * constant(&weights, &log_p)).mean().neg();
        let stats = PolicyStats::new(&ratio, &a, &host(log_odds_g), 0.0, [0.0, cap]);
        Ok(Terms { policy_loss, kl_loss: None, log: log(&found, &found.values, &stats.named()) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, golden_rollout, golden_z, value_and_gradient};
    use super::*;

    /// Finite differences of the loss see the weight move, which the gradient must not: the reference is the test.
    #[test]
    fn cispo_equals_the_reference() {
        check_golden(&CispoConfig::default(), "cispo");
    }

    #[test]
    fn a_capped_decision_still_teaches() {
        let mut rollout = golden_rollout();
        rollout.old_log_odds = vec![-5.0; 12];
        let (_, gradient) = value_and_gradient(&CispoConfig::default(), &golden_z(), &rollout);
        assert!(gradient[0].abs() > 1e-3, "{gradient:?}");
    }
}
