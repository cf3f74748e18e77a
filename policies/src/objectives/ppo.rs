use burn::tensor::{Tensor, activation::log_sigmoid, activation::sigmoid, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::{Samples, constant, log, odds};
use super::surrogate::Surrogate;
use super::{Advantages, ImportanceSampling, Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, Terms};

/// `-mean_sw min(rho A, clip(rho) A) - ent_coef * mean entropy`, `A = R - V` of each decision, whitened over all.
///
/// V is a linear head on Glance's pooled features, taught by [`value_loss`] with an optimiser of its own; no gradient of it reaches Glance, so
/// there is no `vf_coef` to weigh the two. It judges a sub-volume, not a selection.
/// Source: Schulman et al. (2017), with the settings of TRL's `PPOTrainer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PpoConfig {
    /// How far the ratio new / old may fall below 1, 1e-6 to 1. Default 0.2.
    pub epsilon: f64,
    /// How far it may rise above 1, 1e-6 or more. Default 0.2.
    pub epsilon_high: f64,
    /// Updates made of one rollout, 1 or more; the first is that of the step, the others move Glance and its value head alone. Default 4.
    pub num_iterations: usize,
    /// Parts that the samples of each further update are dealt into, one update each, 1 or more. Default 1.
    pub num_mini_batches: usize,
    /// How far a value may move in one rollout before its loss ends, 1e-6 or more. Default 0.2.
    pub cliprange_value: f64,
    /// Factor of the entropy bonus, >= 0. Default 0.01.
    pub ent_coef: f64,
}

impl Default for PpoConfig {
    fn default() -> Self {
        PpoConfig { epsilon: 0.2, epsilon_high: 0.2, num_iterations: 4, num_mini_batches: 1, cliprange_value: 0.2, ent_coef: 0.01 }
    }
}

impl PpoConfig {
    fn surrogate(&self) -> Surrogate {
        let PpoConfig { epsilon, epsilon_high, .. } = *self;
        Surrogate { epsilon, epsilon_high, delta: None, level: ImportanceSampling::Token, beta: 0.0 }
    }
}

impl Objective for PpoConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "ppo",
        summary: "clipped ratio against a value head, several passes (PPO)",
        needs: Needs::ValueHead,
        old_policy: OldPolicy::Sampled,
    };

    fn check(&self) -> Result<(), String> {
        super::at_least_one("num_iterations", self.num_iterations)?;
        super::at_least_one("num_mini_batches", self.num_mini_batches)?;
        super::within("cliprange_value", self.cliprange_value, 1e-6, f64::INFINITY)?;
        super::within("ent_coef", self.ent_coef, 0.0, f64::INFINITY)?;
        self.surrogate().check()
    }

    fn num_iterations(&self) -> usize {
        self.num_iterations
    }

    fn num_mini_batches(&self) -> usize {
        self.num_mini_batches
    }

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let samples = &rollout.samples;
        let found = super::advantages(&samples.rewards, &samples.groups, &Default::default());
        let a = whitened(samples, &rollout.values);
        let clipped = self.surrogate().clipped(logits_g2.clone(), rollout, &a);
        let entropy = entropy(odds(logits_g2)).mean();
        let log = log(&Advantages { values: vec![], ..found }, &a, &clipped.stats.named());
        Ok(Terms { policy_loss: clipped.gain.mean().neg() - entropy * self.ent_coef, kl_loss: None, log })
    }
}

/// `R - V` of each decision, brought to mean 0 and deviation 1 (n - 1), `[S][W]`.
fn whitened(samples: &Samples, values: &[f32]) -> Vec<f32> {
    let rewards = samples.spread(&samples.rewards);
    let over: Vec<f64> = rewards.iter().zip(&samples.windows).map(|(&r, &w)| f64::from(r) - f64::from(values[w])).collect();
    let n = over.len() as f64;
    let mean = over.iter().sum::<f64>() / n.max(1.0);
    let std = (over.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
    over.into_iter().map(|a| ((a - mean) / (std + 1e-8)) as f32).collect()
}

/// Entropy of the two actions in nats, `[G]`.
fn entropy<B: Backend>(log_odds_g: Tensor<B, 1>) -> Tensor<B, 1> {
    let (p, q) = (sigmoid(log_odds_g.clone()), sigmoid(log_odds_g.clone().neg()));
    (p * log_sigmoid(log_odds_g.clone()) + q * log_sigmoid(log_odds_g.neg())).neg()
}

/// `mean_sw max((V - R)^2, (V_old + clamp(V - V_old, -c, c) - R)^2) / 2`: the loss of a value head, clipped as the ratio is.
///
/// `values_g` carry the gradient; `old_values` are what they were when the samples were drawn, c is `cliprange_value`.
pub fn value_loss<B: Backend>(values_g: Tensor<B, 1>, old_values: &[f32], samples: &Samples, cliprange_value: f64) -> Tensor<B, 1> {
    let windows: Vec<i64> = samples.windows.iter().map(|&w| w as i64).collect();
    let v = values_g.clone().select(0, Tensor::from_data(&windows[..], &values_g.device()));
    let old: Vec<f32> = samples.windows.iter().map(|&w| old_values[w]).collect();
    let (old, r) = (constant(&old, &v), constant(&samples.spread(&samples.rewards), &v));
    let near = old.clone() + (v.clone() - old).clamp(-cliprange_value, cliprange_value);
    let square = |x: Tensor<B, 1>| x.clone() * x;
    square(v - r.clone()).max_pair(square(near - r)).mean() * 0.5
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradient, golden, golden_rollout, golden_z, value_and_gradient};
    use super::*;
    use crate::losses::golden::{check_close, numbers, singles};
    use burn::backend::{Autodiff, Flex};
    use burn::tensor::{DType, TensorData};

    type B = Autodiff<Flex>;

    fn values(v: &[f64]) -> Tensor<B, 1> {
        Tensor::from_data(TensorData::from(v), (&Default::default(), DType::F64))
    }

    #[test]
    fn ppo_equals_the_reference() {
        let (golden, rollout) = (golden("ppo_value"), golden_rollout());
        let (policy, gradient) = value_and_gradient(&PpoConfig::default(), &golden_z(), &rollout);
        let value = value_loss(values(&numbers(&golden["V"])), &singles(&golden["V_old"]), &rollout.samples, 0.2);
        let value: f64 = value.into_data().iter::<f64>().sum();
        // The reference adds half the value loss to the policy's.
        check_close("loss", &[policy + 0.5 * value], &numbers(&golden["loss"]), 1e-6);
        check_close("gradient", &gradient, &numbers(&golden["grad"]), 1e-6);
        let a: Vec<f64> = whitened(&rollout.samples, &rollout.values).into_iter().map(f64::from).collect();
        check_close("advantage", &a, &numbers(&golden["advantage"]), 1e-6);
    }

    #[test]
    fn gradients_equal_finite_differences() {
        check_gradient(&PpoConfig { ent_coef: 0.3, ..PpoConfig::default() }, &golden_z(), &golden_rollout());
        let samples = golden_rollout().samples;
        let (v, old) = (numbers(&golden("ppo_value")["V"]), singles(&golden("ppo_value")["V_old"]));
        let leaf = values(&v).require_grad();
        let grad = leaf.grad(&value_loss(leaf.clone(), &old, &samples, 0.2).backward()).unwrap();
        let grad: Vec<f64> = grad.into_data().iter::<f64>().collect();
        for (i, grad) in grad.into_iter().enumerate() {
            let at = |step: f64| -> f64 {
                let mut v = v.clone();
                v[i] += step;
                value_loss(values(&v), &old, &samples, 0.2).into_data().iter::<f64>().sum()
            };
            check_close("value", &[(at(1e-5) - at(-1e-5)) / 2e-5], &[grad], 1e-8);
        }
    }
}
