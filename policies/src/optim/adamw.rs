//! AdamW with PyTorch's arithmetic.

use super::state::{Optimizer, Rule, Slots};
use crate::kernels::{self, AdamStep, KernelBackend};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// AdamW (decoupled weight decay). The learning rate comes from the schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the running means of the gradient and of its square, each 0 <= beta < 1. Default [0.9, 0.999].
    pub betas: [f64; 2],
    /// Added to the root of the mean square, > 0. Default 1e-8.
    pub eps: f64,
    /// Each step first multiplies every parameter by 1 - lr * weight_decay, >= 0. Default 1e-5, as published.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-5 }
    }
}

impl AdamWConfig {
    /// Names the first value out of its range.
    pub fn check(&self) -> Result<(), String> {
        if let Some(beta) = self.betas.iter().find(|b| !(0.0..1.0).contains(*b)) {
            return Err(format!("`betas` holds {beta}, expected numbers from 0 to below 1"));
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(format!("`eps` is {}, expected a number > 0", self.eps));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(format!("`weight_decay` is {}, expected a number >= 0", self.weight_decay));
        }
        Ok(())
    }
}

/// AdamW with its running means.
pub type AdamW<B> = Optimizer<B, AdamWConfig, 2>;

impl Rule<2> for AdamWConfig {
    const NAME: &'static str = "adamw";
    const SLOT_NAMES: [&'static str; 2] = ["exp_avg", "exp_avg_sq"];

    fn update<B: KernelBackend>(&self, lr: f64, weight: Tensor<B, 1>, grad: Tensor<B, 1>, slots: &mut Slots<B, 2>) -> Tensor<B, 1> {
        let (betas @ [beta1, beta2], t) = (self.betas, (slots.step + 1) as f64);
        let (size, root) = (lr / (1.0 - beta1.powf(t)), (1.0 - beta2.powf(t)).sqrt());
        let step = AdamStep { betas, eps: self.eps, decay: 1.0 - lr * self.weight_decay, size, root };
        let [weight, m, v] = kernels::adamw(weight, grad, slots.tensors.clone(), step);
        slots.tensors = [m, v];
        weight
    }
}
