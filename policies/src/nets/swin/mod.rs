//! SwinUNETR: MONAI's, and the Focus of the published GF-Screen (feature size 48, v2, 72,762,068 parameters).
//!
//! Keys are MONAI's after `encoder.` for `swinViT`, `encoder1`, `encoder2`, `encoder3`, `encoder4`, `encoder10` (what VoCo pretrains);
//! `decoder5` ... `decoder1` and `out` are MONAI's as they are.
//!
//! Shapes: `x_NCDHW`, `logits_NKDHW`.

mod attention;
mod transformer;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use transformer::normalize;
pub use transformer::{Mlp, PatchMerging, SwinTransformer};

use super::checkpoint::Runner;
use super::monai::{OutBlock, UnetrBlock, UpBlock};
use super::{ConfigError, Init, require, require_channels, require_scores, require_within};
use crate::kernels::KernelBackend;

/// A SwinUNETR. The default is the Focus of the published GF-Screen, with its patch merging put right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SwinUnetrConfig {
    /// Channels of the finest tokens, 1 to 512, doubled by each stage; divisible by the first of `heads`. Default 48 (72.8 M parameters).
    pub feature_size: usize,
    /// Transformer blocks of the four stages, 1 to 64 each. Default [2, 2, 2, 2].
    pub depths: [usize; 4],
    /// Attention heads of the four stages; each divides its stage's channels. Heads of a multiple of 8 channels are fastest and need least memory;
    /// with others, windows are refused whose scores need more than 1 GiB a sub-volume. Default [3, 6, 12, 24].
    pub heads: [usize; 4],
    /// Side of the attention window in tokens, 2 to 16. Default 7. The cost grows with its third power.
    pub window: usize,
    /// Hidden units of a block's MLP, in multiples of its channels, 1 to 64. Default 4.
    pub mlp_ratio: usize,
    /// A residual convolution block before each stage ("v2"). Default true; VoCo and GF-Screen have it, MONAI's plain network and SuPreM don't.
    pub v2: bool,
    /// Patch merging: "fixed" (default; MONAI from 1.5), "old" (MONAI up to 1.4: GF-Screen, VoCo, SuPreM) or "v2". Must be the one that
    /// imported weights were trained with: neither names nor shapes tell.
    pub merging: PatchMerging,
    /// Keep only what lies between the parts of the network in training and compute the rest again: less than half the memory for a third
    /// more time. Default false; published true.
    pub checkpointing: bool,
}

impl Default for SwinUnetrConfig {
    fn default() -> Self {
        Self {
            feature_size: 48,
            depths: [2; 4],
            heads: [3, 6, 12, 24],
            window: 7,
            mlp_ratio: 4,
            v2: true,
            merging: PatchMerging::Fixed,
            checkpointing: false,
        }
    }
}

impl SwinUnetrConfig {
    /// Channels of the encoder's maps, at strides 1, 2, 4, 8, 16 and 32.
    pub fn widths(&self) -> Vec<usize> {
        [1, 1, 2, 4, 8, 16].map(|factor| factor * self.feature_size).to_vec()
    }

    /// Refuse what no network can be made of.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { feature_size, depths, heads, .. } = self;
        // The last stage has 16 times as many.
        require_within("feature_size", &[*feature_size], 1..=super::WIDTHS.end() / 16)?;
        require_within("depths", depths, super::BLOCKS)?;
        for (stage, &heads) in heads.iter().enumerate() {
            let width = feature_size << stage;
            require(heads > 0 && width.is_multiple_of(heads), || {
                format!("stage {} has {width} channels, not divisible by its {heads} heads; choose heads that divide them", stage + 1)
            })?;
        }
        require_within("window", &[self.window], 2..=16)?;
        require_within("mlp_ratio", &[self.mlp_ratio], 1..=64)
    }

    /// Refuse windows of more tokens than attention has memory for.
    pub fn check_attention(&self, window: [usize; 3]) -> Result<(), ConfigError> {
        (0..4).try_for_each(|stage| {
            let map = window.map(|side| (side >> (stage + 1)).max(1));
            let sides = map.map(|side| side.min(self.window));
            let tokens = [0, 1, 2].map(|a| map[a].next_multiple_of(sides[a])).into_iter().fold(1, usize::saturating_mul);
            require_scores([self.feature_size << stage, self.heads[stage]], tokens, sides.iter().product())
        })
    }

    /// What each side of a sub-volume must be divisible by.
    pub fn divisor(&self) -> [usize; 3] {
        [32; 3]
    }

    /// The encoder alone, for networks that share it.
    pub fn init_encoder<B: Backend>(&self, in_channels: usize, init: &Init<B>) -> Result<SwinEncoder<B>, ConfigError> {
        self.check()?;
        let [w1, _, w4, w8, _, w32] = [1, 1, 2, 4, 8, 16].map(|factor| factor * self.feature_size);
        let block = |name: &str, from, to| UnetrBlock::new(&init.at(name), [from, to]);
        Ok(SwinEncoder {
            swinViT: SwinTransformer::new(self, in_channels, &init.at("swinViT")),
            encoder1: block("encoder1", in_channels, w1),
            encoder2: block("encoder2", w1, w1),
            encoder3: block("encoder3", w4, w4),
            encoder4: block("encoder4", w8, w8),
            encoder10: block("encoder10", w32, w32),
        })
    }

    /// The network with its first weights: convolutions Kaiming normal over incoming connections, linear layers uniform as in PyTorch, the
    /// tables of relative positions with deviation 0.02.
    pub fn init<B: Backend>(&self, in_channels: usize, classes: usize, init: &Init<B>) -> Result<SwinUnetr<B>, ConfigError> {
        require_channels(in_channels, classes)?;
        let encoder = self.init_encoder(in_channels, &init.at("encoder"))?;
        let up = |name: &str, from: usize, to: usize| {
            UpBlock::new(&init.at(name), [from * self.feature_size, to * self.feature_size], [2; 3], true)
        };
        Ok(SwinUnetr {
            encoder,
            decoder5: up("decoder5", 16, 8),
            decoder4: up("decoder4", 8, 4),
            decoder3: up("decoder3", 4, 2),
            decoder2: up("decoder2", 2, 1),
            decoder1: up("decoder1", 1, 1),
            out: OutBlock::new(&init.at("out"), [self.feature_size, classes]),
            checkpointing: self.checkpointing,
        })
    }
}

/// The transformer and the convolution blocks between it and the decoder.
#[derive(Module, Debug)]
pub struct SwinEncoder<B: Backend> {
    swinViT: SwinTransformer<B>,
    encoder1: UnetrBlock<B>,
    encoder2: UnetrBlock<B>,
    encoder3: UnetrBlock<B>,
    encoder4: UnetrBlock<B>,
    encoder10: UnetrBlock<B>,
}

impl<B: KernelBackend> SwinEncoder<B> {
    /// `x_NCDHW` -> six maps at strides 1 to 32, finest first.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>, run: &mut impl Runner<B>) -> Vec<Tensor<B, 5>> {
        let finest = run.run(&self.encoder1, [x_NCDHW.clone()], |block, [x]| block.forward(x));
        let [t2, t4, t8, t16, t32] = self.swinViT.forward(x_NCDHW, run);
        let mut block = |block, x| run.run(block, [x], |block: &UnetrBlock<B>, [x]| block.forward(normalize(x)));
        let [s2, s4, s8, s32] =
            [(&self.encoder2, t2), (&self.encoder3, t4), (&self.encoder4, t8), (&self.encoder10, t32)].map(|(part, x)| block(part, x));
        vec![finest, s2, s4, s8, self.swinViT.normalized(t16, run), s32]
    }
}

/// A SwinUNETR. See [`SwinUnetrConfig`].
#[derive(Module, Debug)]
pub struct SwinUnetr<B: Backend> {
    pub encoder: SwinEncoder<B>,
    decoder5: UpBlock<B>,
    decoder4: UpBlock<B>,
    decoder3: UpBlock<B>,
    decoder2: UpBlock<B>,
    decoder1: UpBlock<B>,
    out: OutBlock<B>,
    pub checkpointing: bool,
}

impl<B: KernelBackend> SwinUnetr<B> {
    /// `x_NCDHW` -> `logits_NKDHW`. D, H, W must be divisible by [`SwinUnetrConfig::divisor`].
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>, run: &mut impl Runner<B>) -> Tensor<B, 5> {
        let features = self.encoder.forward(x_NCDHW, run);
        self.decode(features, run)
    }

    /// The way up from the encoder's maps to `logits_NKDHW`.
    pub fn decode(&self, mut features: Vec<Tensor<B, 5>>, run: &mut impl Runner<B>) -> Tensor<B, 5> {
        let coarsest = features.pop().expect("a SwinUNETR's encoder has six maps");
        let steps = [&self.decoder5, &self.decoder4, &self.decoder3, &self.decoder2, &self.decoder1];
        let finest = steps
            .into_iter()
            .zip(features.into_iter().rev())
            .fold(coarsest, |x, (step, skip)| run.run(step, [x, skip], |step, [x, skip]| step.forward(x, skip)));
        run.run(&self.out, [finest], |out, [x]| out.forward(x))
    }
}

#[cfg(test)]
mod tests;
