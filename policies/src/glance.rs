//! Glance: the policy that decides which sub-volumes deserve a look.
//!
//! Shapes: `x_GCDHW` (G sub-volumes, C intensity windows), `logits_G2` (skip, look).

// Shape suffixes.
#![allow(non_snake_case)]

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::focus::{Focus, FocusConfig};
use crate::kernels::KernelBackend;
use crate::nets::layers::Linear;
use crate::nets::{ConfigError, Encoder, Init, Mode, Pooling, ResNet, ResNetConfig};
use crate::weights::{self, Scope};

/// Actions of Glance: skip, look.
const ACTIONS: usize = 2;

/// What Glance and Focus have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// Two networks (the published system). Default.
    #[default]
    None,
    /// Glance has an encoder like Focus's and starts from a copy of Focus's weights.
    Init,
    /// Glance is a head on Focus's encoder; both objectives train it.
    Tied,
}

/// The network of Glance, by `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GlanceConfig {
    /// A 3D ResNet (the published system).
    Resnet3d(ResNetConfig),
    /// Focus's encoder with a small head. Needed for a shared backbone; with none shared, the encoder is like Focus's but its own.
    Encoder(GlanceHeadConfig),
}

impl Default for GlanceConfig {
    fn default() -> Self {
        GlanceConfig::Resnet3d(ResNetConfig::default())
    }
}

/// The head on an encoder's coarsest features: global pooling, a hidden layer with ReLU, a linear layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GlanceHeadConfig {
    /// Global pooling: "max" (default) or "avg".
    pub pooling: Pooling,
    /// Units of the hidden layer; 0 leaves it out. Default 32.
    pub hidden: usize,
}

impl Default for GlanceHeadConfig {
    fn default() -> Self {
        Self { pooling: Pooling::Max, hidden: 32 }
    }
}

impl GlanceConfig {
    /// Refuse what can't be built.
    pub fn check(&self, shared: Shared) -> Result<(), ConfigError> {
        match self {
            GlanceConfig::Resnet3d(config) if shared == Shared::None => config.check(),
            GlanceConfig::Resnet3d(_) => Err(ConfigError(
                "a shared backbone needs glance.kind = \"encoder\", found \"resnet3d\"; change it, or set backbone.shared = \"none\""
                    .to_owned(),
            )),
            GlanceConfig::Encoder(_) => Ok(()),
        }
    }

    /// Glance with its first weights, drawn from `seed`; for [`Shared::Init`] the encoder is copied from `focus`, which `focus_config` describes.
    pub fn init<B: Backend>(
        &self,
        in_channels: usize,
        shared: Shared,
        focus_config: &FocusConfig,
        focus: &Focus<B>,
        seed: u64,
        device: &B::Device,
    ) -> Result<Glance<B>, ConfigError> {
        self.check(shared)?;
        let init = Init::new(seed, "glance", device);
        let head = |config: &GlanceHeadConfig| GlanceHead::new(config, focus_config.encoder_width(), &init.at("head"));
        Ok(match (self, shared) {
            (GlanceConfig::Resnet3d(config), _) => Glance::Resnet3d(config.init(in_channels, ACTIONS, &init)?),
            (GlanceConfig::Encoder(config), Shared::Tied) => Glance::Tied(TiedGlance { head: head(config) }),
            (GlanceConfig::Encoder(config), Shared::None | Shared::Init) => {
                let encoder = focus_config.init_encoder(in_channels, &init.at("encoder"))?;
                let glance = Glance::Encoder(EncoderGlance { encoder, head: head(config) });
                if shared == Shared::Init { glance.with_encoder_of(focus)? } else { glance }
            }
        })
    }
}

/// Features -> logits.
#[derive(Module, Debug)]
pub struct GlanceHead<B: Backend> {
    hidden: Option<Linear<B>>,
    fc: Linear<B>,
    #[module(skip)]
    pooling: Pooling,
}

impl<B: Backend> GlanceHead<B> {
    /// A head on features with `width` channels.
    pub fn new(config: &GlanceHeadConfig, width: usize, init: &Init<B>) -> Self {
        let hidden = (config.hidden > 0).then(|| Linear::new(&init.at("hidden"), width, config.hidden));
        let from = if config.hidden > 0 { config.hidden } else { width };
        Self { hidden, fc: Linear::new(&init.at("fc"), from, ACTIONS), pooling: config.pooling }
    }

    /// The coarsest features `[G, C, D, H, W]` -> `logits_G2`.
    pub fn forward(&self, coarsest: Tensor<B, 5>) -> Tensor<B, 2> {
        let pooled = self.pooling.apply(coarsest);
        let hidden = match &self.hidden {
            Some(layer) => activation::relu(layer.forward(pooled)),
            None => pooled,
        };
        self.fc.forward(hidden)
    }
}

/// An encoder of its own, and a head.
#[derive(Module, Debug)]
pub struct EncoderGlance<B: Backend> {
    encoder: Encoder<B>,
    head: GlanceHead<B>,
}

/// A head on Focus's encoder.
#[derive(Module, Debug)]
pub struct TiedGlance<B: Backend> {
    head: GlanceHead<B>,
}

/// Glance, one variant a network.
#[derive(Module, Debug)]
pub enum Glance<B: Backend> {
    Resnet3d(ResNet<B>),
    Encoder(EncoderGlance<B>),
    Tied(TiedGlance<B>),
}

impl<B: Backend> Glance<B> {
    /// Whether Glance is a head on Focus's encoder.
    pub fn is_tied(&self) -> bool {
        matches!(self, Glance::Tied(_))
    }

    /// The same Glance with a copy of Focus's encoder.
    pub fn with_encoder_of(self, focus: &Focus<B>) -> Result<Self, ConfigError> {
        let only_encoder = |name: &str| name.starts_with("encoder.").then(|| name.to_owned());
        let (glance, _) = weights::copy(focus, self, &Scope::encoder(), only_encoder)
            .map_err(|e| ConfigError(format!("Glance can't start from Focus's encoder: {e}")))?;
        Ok(glance)
    }
}

impl<B: KernelBackend> Glance<B> {
    /// `x_GCDHW` -> `logits_G2`. `focus` is used by a tied Glance only: its encoder reads `x`.
    pub fn forward(&self, x_GCDHW: Tensor<B, 5>, focus: &Focus<B>, mode: Mode) -> Tensor<B, 2> {
        match self {
            Glance::Resnet3d(net) => net.forward(x_GCDHW, mode),
            Glance::Encoder(net) => net.head.forward(coarsest(net.encoder.forward(x_GCDHW, mode))),
            Glance::Tied(net) => net.head.forward(coarsest(focus.features(x_GCDHW, mode))),
        }
    }

    /// As [`Glance::forward`] where Focus's features of the same `x` are at hand: a tied Glance takes them, no encoder runs twice.
    pub fn forward_shared(&self, x_GCDHW: Tensor<B, 5>, features: &[Tensor<B, 5>], mode: Mode) -> Tensor<B, 2> {
        match self {
            Glance::Resnet3d(net) => net.forward(x_GCDHW, mode),
            Glance::Encoder(net) => net.head.forward(coarsest(net.encoder.forward(x_GCDHW, mode))),
            Glance::Tied(net) => net.head.forward(coarsest(features.to_vec())),
        }
    }
}

fn coarsest<B: Backend>(mut features: Vec<Tensor<B, 5>>) -> Tensor<B, 5> {
    features.pop().expect("an encoder has at least two levels")
}
