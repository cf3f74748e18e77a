//! Focus: the segmenter that marks lesions in a sub-volume.
//!
//! Shapes: `x_GCDHW` (G sub-volumes, C intensity windows), `logits_GKDHW` (K classes, 0 is background).

// Shape suffixes.
#![allow(non_snake_case)]

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kernels::KernelBackend;
use crate::nets::{ConfigError, Encoder, Init, Mode, ResidualUNet, ResidualUNetConfig};

/// The network of Focus, by `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FocusConfig {
    /// A residual 3D U-Net.
    ResidualUnet(ResidualUNetConfig),
}

impl Default for FocusConfig {
    fn default() -> Self {
        FocusConfig::ResidualUnet(ResidualUNetConfig::default())
    }
}

impl FocusConfig {
    /// Refuse what can't be built, and windows that the network can't take.
    pub fn check(&self, window: [usize; 3]) -> Result<(), ConfigError> {
        match self {
            FocusConfig::ResidualUnet(config) => config.check().and_then(|()| config.check_window(window)),
        }
    }

    /// Focus with its first weights, drawn from `seed`.
    pub fn init<B: Backend>(&self, in_channels: usize, classes: usize, seed: u64, device: &B::Device) -> Result<Focus<B>, ConfigError> {
        let init = Init::new(seed, "focus", device);
        match self {
            FocusConfig::ResidualUnet(config) => Ok(Focus::ResidualUnet(config.init(in_channels, classes, &init)?)),
        }
    }

    /// An encoder like Focus's, drawn for `init`.
    pub(crate) fn init_encoder<B: Backend>(&self, in_channels: usize, init: &Init<B>) -> Result<Encoder<B>, ConfigError> {
        match self {
            FocusConfig::ResidualUnet(config) => config.init_encoder(in_channels, init),
        }
    }

    /// Channels of the coarsest features of the encoder.
    pub(crate) fn encoder_width(&self) -> usize {
        match self {
            FocusConfig::ResidualUnet(config) => config.widths.last().copied().unwrap_or(0),
        }
    }
}

/// Focus, one variant a network.
#[derive(Module, Debug)]
pub enum Focus<B: Backend> {
    ResidualUnet(ResidualUNet<B>),
}

impl<B: KernelBackend> Focus<B> {
    /// `x_GCDHW` -> `logits_GKDHW`.
    pub fn forward(&self, x_GCDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        self.decode(self.features(x_GCDHW, mode), mode)
    }

    /// The encoder's features, finest first.
    pub fn features(&self, x_GCDHW: Tensor<B, 5>, mode: Mode) -> Vec<Tensor<B, 5>> {
        match self {
            Focus::ResidualUnet(net) => net.encoder.forward(x_GCDHW, mode),
        }
    }

    /// From [`Focus::features`] to `logits_GKDHW`. With [`crate::glance::Glance::forward_shared`], one pass through the encoder serves both policies.
    pub fn decode(&self, features: Vec<Tensor<B, 5>>, mode: Mode) -> Tensor<B, 5> {
        match self {
            Focus::ResidualUnet(net) => net.decode(features, mode),
        }
    }
}
