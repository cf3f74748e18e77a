//! The value head of objectives that compare rewards with what was expected of a sub-volume.
//!
//! It reads Glance's pooled features without changing them: its gradient ends at the features.

use std::collections::BTreeMap;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use panscreen_policies::nets::Init;
use panscreen_policies::nets::layers::Linear;
use panscreen_policies::objectives::{PpoConfig, Rollout, value_loss};
use panscreen_policies::optim::{AdamW, AdamWConfig, clip_global_norm};
use panscreen_policies::weights::{self, Scope};

use super::learner::further_finite;
use crate::backend::{Inner, TrainBackend};
use crate::error::Result;
use crate::run::Checkpoint;

const HEAD: &str = "value_head.safetensors";
const OPTIMIZER: &str = "value_head_optimizer.safetensors";

pub struct Critic<B: TrainBackend> {
    head: Linear<B>,
    optimizer: AdamW<B>,
    cliprange_value: f64,
    device: B::Device,
}

impl<B: TrainBackend> Critic<B> {
    /// A head on `width` channels, drawn from `seed`.
    pub fn new(config: &PpoConfig, optimizer: AdamWConfig, width: usize, seed: u64, device: &B::Device) -> Self {
        Critic {
            head: Linear::new(&Init::new(seed, "value_head", device), width, 1),
            optimizer: AdamW::new(optimizer),
            cliprange_value: config.cliprange_value,
            device: device.clone(),
        }
    }

    /// The expected reward of each sub-volume from its features `[G, width]`.
    pub fn values(&self, features: Tensor<Inner<B>, 2>) -> Vec<f32> {
        self.forward(features).inner().into_data().iter::<f32>().collect()
    }

    fn forward(&self, features: Tensor<Inner<B>, 2>) -> Tensor<B, 1> {
        self.head.forward(Tensor::from_inner(features)).flatten(0, 1)
    }

    /// One step towards the rewards of `rollout`; the loss before it. `step` is named where the loss isn't finite.
    pub fn learn(&mut self, features: Tensor<Inner<B>, 2>, rollout: &Rollout, lr: f64, step: u64) -> Result<f32> {
        let loss = value_loss(self.forward(features), &rollout.values, &rollout.samples, self.cliprange_value);
        let value: f32 = loss.clone().into_data().iter::<f32>().sum();
        further_finite("losses/value", value, step)?;
        let mut grads = GradientsParams::from_grads(loss.backward(), &self.head);
        clip_global_norm(&self.head, &mut grads, None)?;
        self.head = self.optimizer.step(self.head.clone(), grads, lr);
        Ok(value)
    }

    /// Its files of a checkpoint.
    pub fn files(&self) -> Result<[(&'static str, Vec<u8>); 2]> {
        Ok([(HEAD, weights::to_bytes(&self.head, &BTreeMap::new())?), (OPTIMIZER, self.optimizer.state_bytes())])
    }

    /// Take over what [`Critic::files`] wrote.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.head = weights::from_bytes(self.head.clone(), &checkpoint.read(HEAD)?, &Scope::Whole)?.0;
        Ok(self.optimizer.load_state(&checkpoint.read(OPTIMIZER)?, &self.head, &self.device)?)
    }
}
