//! Stochastic gradient descent with PyTorch's arithmetic, nnU-Net's optimiser.

use super::state::{Optimizer, Rule, Slots};
use crate::kernels::KernelBackend;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// SGD with momentum. The learning rate comes from the schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// Decay of the running sum of gradients, 0 <= momentum < 1. Default 0.99, as nnU-Net.
    pub momentum: f64,
    /// Looks one step ahead along the momentum. Default true, as nnU-Net.
    pub nesterov: bool,
    /// Times the parameter, added to its gradient, >= 0. Default 3e-5, as nnU-Net.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { momentum: 0.99, nesterov: true, weight_decay: 3e-5 }
    }
}

impl SgdConfig {
    /// Names the first value out of its range.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..1.0).contains(&self.momentum) {
            return Err(format!("`momentum` is {}, expected a number from 0 to below 1", self.momentum));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(format!("`weight_decay` is {}, expected a number >= 0", self.weight_decay));
        }
        Ok(())
    }
}

/// SGD with its momentum.
pub type Sgd<B> = Optimizer<B, SgdConfig, 1>;

impl Rule<1> for SgdConfig {
    const NAME: &'static str = "sgd";
    const SLOT_NAMES: [&'static str; 1] = ["momentum_buffer"];

    fn update<B: KernelBackend>(&self, lr: f64, weight: Tensor<B, 1>, grad: Tensor<B, 1>, slots: &mut Slots<B, 1>) -> Tensor<B, 1> {
        let grad = grad + weight.clone() * self.weight_decay;
        let [buffer] = slots.tensors.clone();
        // From zeros this is the gradient itself, PyTorch's first step.
        let buffer = buffer * self.momentum + grad.clone();
        slots.tensors = [buffer.clone()];
        let direction = if self.nesterov { grad + buffer * self.momentum } else { buffer };
        weight - direction * lr
    }
}
