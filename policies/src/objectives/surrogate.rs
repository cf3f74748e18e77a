//! The clipped surrogate that GRPO, Dr. GRPO, DAPO, GSPO and PPO share.

use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::{constant, host, odds};
use super::{PolicyStats, Rollout};

/// Keeps exp of a difference of log-probabilities finite; e^30 is far outside every clip range.
pub(super) const LOG_RATIO_LIMIT: f64 = 30.0;

/// What the ratio new / old is taken of, as in TRL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceSampling {
    /// Each decision by itself.
    #[default]
    Token,
    /// All decisions of a selection together: the geometric mean of their ratios.
    Sequence,
}

/// How a ratio is clipped, and the pull to the reference policy.
pub(super) struct Surrogate {
    pub epsilon: f64,
    pub epsilon_high: f64,
    pub delta: Option<f64>,
    pub level: ImportanceSampling,
    pub beta: f64,
}

pub(super) struct Clipped<B: Backend> {
    /// `min(rho A, clip(rho) A)`, `[S * W]`, or `[S]` with one ratio a sample.
    pub gain: Tensor<B, 1>,
    /// `beta * mean k3` where beta is not 0.
    pub kl_loss: Option<Tensor<B, 1>>,
    pub stats: PolicyStats,
}

impl Surrogate {
    pub fn check(&self) -> Result<(), String> {
        super::within("epsilon", self.epsilon, 1e-6, 1.0)?;
        super::within("epsilon_high", self.epsilon_high, 1e-6, f64::INFINITY)?;
        super::within("beta", self.beta, 0.0, f64::INFINITY)?;
        match self.delta {
            Some(delta) => super::within("delta", delta, 1.0 + self.epsilon_high, f64::INFINITY),
            None => Ok(()),
        }
    }

    /// `advantages` holds one value for each decision, `[S][W]`.
    pub fn clipped<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout, advantages: &[f32]) -> Clipped<B> {
        let samples = &rollout.samples;
        let log_odds_g = odds(logits_g2);
        let log_p = samples.log_probs_of(log_odds_g.clone());
        let mut log_ratio = log_p.clone() - constant(&samples.log_probs(&rollout.old_log_odds), &log_p);
        let mut a = advantages.to_vec();
        if self.level == ImportanceSampling::Sequence {
            log_ratio = log_ratio.reshape([samples.len(), samples.width]).mean_dim(1).flatten(0, 1);
            a = a.into_iter().step_by(samples.width).collect();
        }
        let ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp();
        let (range, a_sw) = ([1.0 - self.epsilon, 1.0 + self.epsilon_high], constant(&a, &log_p));
        let mut gain = (ratio.clone() * a_sw.clone()).min_pair(ratio.clone().clamp(range[0], range[1]) * a_sw.clone());
        if let Some(delta) = self.delta {
            let floor = gain.clone().max_pair(a_sw.clone() * delta);
            gain = gain.mask_where(a_sw.lower_elem(0), floor);
        }
        let kl = (self.beta > 0.0).then(|| {
            let over = constant(&samples.log_probs(&rollout.reference_log_odds), &log_p) - log_p;
            let over = over.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT);
            (over.clone().exp() - over - 1.0).mean()
        });
        let kl_value = kl.as_ref().map_or(0.0, |kl| host(kl.clone()).iter().sum());
        let stats = PolicyStats::new(&host(ratio), &a, &host(log_odds_g), kl_value, range);
        Clipped { gain, kl_loss: kl.map(|kl| kl * self.beta), stats }
    }
}
