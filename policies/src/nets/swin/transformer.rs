//! The Swin transformer under MONAI's names: `patch_embed`, `layers1.0.blocks.0.attn.qkv`, `layers1.0.downsample`, `layers1c.0`.
//!
//! Shapes: `x_NCDHW` between stages, `x_NDHWC` within one.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::super::Init;
use super::super::checkpoint::Runner;
use super::super::layers::{Conv3d, LayerNorm, Linear};
use super::super::monai::{CONV_INIT, UnetrBlock};
use super::SwinUnetrConfig;
use super::attention::{WindowAttention, Windows};
use crate::kernels::{self, KernelBackend, Places};
use crate::precision::is_half;

/// How eight neighbours become one token: the order in which their channels are put side by side.
///
/// Keys and shapes of the weights are the same for all three, so a checkpoint can't tell which one it was trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PatchMerging {
    /// MONAI up to 1.4 (the published GF-Screen, VoCo, SuPreM): two of the eight neighbours are taken twice, two are dropped.
    Old,
    /// MONAI from 1.5: each neighbour once, in the order of `old` where that had it right.
    Fixed,
    /// MONAI's `mergingv2`: each neighbour once, in C order.
    V2,
}

impl PatchMerging {
    /// Offsets along the three axes.
    fn offsets(self) -> [[usize; 3]; 8] {
        match self {
            PatchMerging::Old => [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]],
            PatchMerging::Fixed => [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]],
            PatchMerging::V2 => [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]],
        }
    }
}

/// 2x2x2 voxels to one token.
#[derive(Module, Debug)]
pub struct PatchEmbed<B: Backend> {
    proj: Conv3d<B>,
}

/// Two linear layers with GELU between.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    linear1: Linear<B>,
    linear2: Linear<B>,
}

impl<B: Backend> Mlp<B> {
    pub fn new(init: &Init<B>, width: usize, hidden: usize) -> Self {
        Self { linear1: Linear::new(&init.at("linear1"), width, hidden), linear2: Linear::new(&init.at("linear2"), hidden, width) }
    }
}

impl<B: KernelBackend> Mlp<B> {
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        self.linear2.forward_rows(kernels::gelu(self.linear1.forward_rows(x)))
    }
}

/// Attention within windows, then an MLP, each around a layer norm and beside a shortcut.
#[derive(Module, Debug)]
pub struct SwinBlock<B: Backend> {
    norm1: LayerNorm<B>,
    attn: WindowAttention<B>,
    norm2: LayerNorm<B>,
    mlp: Mlp<B>,
}

impl<B: Backend> SwinBlock<B> {
    fn new(config: &SwinUnetrConfig, init: &Init<B>, width: usize, heads: usize) -> Self {
        Self {
            norm1: LayerNorm::new(&init.at("norm1"), width),
            attn: WindowAttention::new(&init.at("attn"), width, heads, config.window),
            norm2: LayerNorm::new(&init.at("norm2"), width),
            mlp: Mlp::new(&init.at("mlp"), width, config.mlp_ratio * width),
        }
    }
}

impl<B: KernelBackend> SwinBlock<B> {
    fn forward(&self, x_NDHWC: Tensor<B, 5>, windows: Windows) -> Tensor<B, 5> {
        let shape @ [n, d, h, w, c] = x_NDHWC.dims();
        let (places, length) = (windows.places(n, [d, h, w]), windows.sides.iter().product::<usize>());
        let (back, into) = (Arc::new(places.inverse()), Arc::new(places));
        let y = kernels::take_rows(self.norm1.forward(x_NDHWC.clone()).reshape([n * d * h * w, c]), &into);
        let count = y.dims()[0];
        let y = self.attn.forward(y.reshape([count / length, length, c]), windows, [d, h, w]);
        let x = x_NDHWC + kernels::take_rows(y.reshape([count, c]), &back).reshape(shape);
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }
}

/// Half the resolution, twice the channels.
#[derive(Module, Debug)]
pub struct Merging<B: Backend> {
    reduction: Reduction<B>,
    norm: LayerNorm<B>,
    #[module(skip)]
    merging: PatchMerging,
}

/// A linear layer without bias.
#[derive(Module, Debug)]
pub struct Reduction<B: Backend> {
    weight: Param<Tensor<B, 2>>,
}

impl<B: Backend> Merging<B> {
    fn new(config: &SwinUnetrConfig, init: &Init<B>, width: usize) -> Self {
        let bound = (1.0 / (8 * width) as f64).sqrt();
        Self {
            reduction: Reduction { weight: init.at("reduction").uniform("weight", [2 * width, 8 * width], bound) },
            norm: LayerNorm::new(&init.at("norm"), 8 * width),
            merging: config.merging,
        }
    }
}

impl<B: KernelBackend> Merging<B> {
    fn forward(&self, x_NDHWC: Tensor<B, 5>) -> Tensor<B, 5> {
        let [n, size @ .., c] = x_NDHWC.dims();
        let [d, h, w] = size.map(|side| side.div_ceil(2));
        let offsets = self.merging.offsets();
        let token = |i: usize| [i / (d * h * w), i / (h * w) % d, i / w % h, i % w];
        let place = |[n, z, y, x]: [usize; 4], [i, j, k]: [usize; 3]| {
            let [z, y, x] = [2 * z + i, 2 * y + j, 2 * x + k];
            let inside = z < size[0] && y < size[1] && x < size[2];
            // Zeros beyond an odd side.
            if inside { (((n * size[0] + z) * size[1] + y) * size[2] + x) as u32 } else { Places::NONE }
        };
        let from = (0..n * d * h * w).flat_map(|i| offsets.map(|offset| place(token(i), offset))).collect();
        let rows = n * size.iter().product::<usize>();
        let x = kernels::take_rows(x_NDHWC.reshape([rows, c]), &Arc::new(Places::new(rows, from)));
        let x = self.norm.forward(x.reshape([n * d * h * w, 8 * c]));
        kernels::linear(x, self.reduction.weight.val(), None).reshape([n, d, h, w, 2 * c])
    }
}

/// One resolution: blocks, every second one with shifted windows, then the merging.
#[derive(Module, Debug)]
pub struct SwinStage<B: Backend> {
    blocks: Vec<SwinBlock<B>>,
    downsample: Merging<B>,
    window: usize,
}

impl<B: Backend> SwinStage<B> {
    fn new(config: &SwinUnetrConfig, init: &Init<B>, stage: usize) -> Self {
        let width = config.feature_size << stage;
        let blocks = init.at("blocks");
        let block = |i| SwinBlock::new(config, &blocks.at(i), width, config.heads[stage]);
        Self {
            blocks: (0..config.depths[stage]).map(block).collect(),
            downsample: Merging::new(config, &init.at("downsample"), width),
            window: config.window,
        }
    }
}

impl<B: KernelBackend> SwinStage<B> {
    /// `x_NCDHW` -> half the resolution, twice the channels.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
        let [_, _, size @ ..] = x_NCDHW.dims();
        let windows = Windows::new(self.window, size);
        let x = self
            .blocks
            .iter()
            .enumerate()
            .fold(channels_last(x_NCDHW), |x, (i, block)| block.forward(x, if i % 2 == 0 { windows.unshifted() } else { windows }));
        channels_first(self.downsample.forward(x))
    }
}

fn channels_last<B: KernelBackend>(x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
    let [n, c, d, h, w] = x_NCDHW.dims();
    kernels::swap_last(x_NCDHW.reshape([n, c, d * h * w])).reshape([n, d, h, w, c])
}

fn channels_first<B: KernelBackend>(x_NDHWC: Tensor<B, 5>) -> Tensor<B, 5> {
    let [n, d, h, w, c] = x_NDHWC.dims();
    kernels::swap_last(x_NDHWC.reshape([n, d * h * w, c])).reshape([n, c, d, h, w])
}

/// Layer norm over the channels, without parameters.
pub fn normalize<B: KernelBackend>(x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
    let x = channels_last(x_NCDHW);
    let shape @ [.., c] = x.dims();
    let rows: usize = shape[..4].iter().product();
    // Scale and offset are weights, and as wide.
    let options = (&x.device(), if is_half(x.dtype()) { DType::F32 } else { x.dtype() });
    let y = kernels::layer_norm(x.reshape([rows, c]), Tensor::ones([c], options), Tensor::zeros([c], options), 1e-5);
    channels_first(y.reshape(shape))
}

/// Patch embedding and four stages. MONAI keeps each stage in a list of one.
#[derive(Module, Debug)]
pub struct SwinTransformer<B: Backend> {
    patch_embed: PatchEmbed<B>,
    layers1: Vec<SwinStage<B>>,
    layers2: Vec<SwinStage<B>>,
    layers3: Vec<SwinStage<B>>,
    layers4: Vec<SwinStage<B>>,
    layers1c: Vec<UnetrBlock<B>>,
    layers2c: Vec<UnetrBlock<B>>,
    layers3c: Vec<UnetrBlock<B>>,
    layers4c: Vec<UnetrBlock<B>>,
}

impl<B: Backend> SwinTransformer<B> {
    /// The config must have passed [`SwinUnetrConfig::check`].
    pub fn new(config: &SwinUnetrConfig, in_channels: usize, init: &Init<B>) -> Self {
        let stage = |i: usize| vec![SwinStage::new(config, &init.at(format_args!("layers{}", i + 1)).at(0), i)];
        let conv = |i: usize| {
            let width = config.feature_size << i;
            let block = || UnetrBlock::new(&init.at(format_args!("layers{}c", i + 1)).at(0), [width, width]);
            config.v2.then(block).into_iter().collect()
        };
        Self {
            patch_embed: PatchEmbed {
                proj: Conv3d::patches(&init.at("patch_embed").at("proj"), [in_channels, config.feature_size], 2, CONV_INIT),
            },
            layers1: stage(0),
            layers2: stage(1),
            layers3: stage(2),
            layers4: stage(3),
            layers1c: conv(0),
            layers2c: conv(1),
            layers3c: conv(2),
            layers4c: conv(3),
        }
    }
}

impl<B: KernelBackend> SwinTransformer<B> {
    /// `x_NCDHW` -> five maps at strides 2 to 32, each to be normalised over its channels.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>, run: &mut impl Runner<B>) -> [Tensor<B, 5>; 5] {
        let tokens = run.run(&self.patch_embed, [x_NCDHW], |embed, [x]| embed.proj.forward(x));
        let mut step = |x, conv: &[UnetrBlock<B>], stage: &[SwinStage<B>]| {
            let x = conv.iter().fold(x, |x, conv| run.run(conv, [x], |conv, [x]| conv.forward(x)));
            stage.iter().fold(x, |x, stage| run.run(stage, [x], |stage, [x]| stage.forward(x)))
        };
        let x1 = step(tokens.clone(), &self.layers1c, &self.layers1);
        let x2 = step(x1.clone(), &self.layers2c, &self.layers2);
        let x3 = step(x2.clone(), &self.layers3c, &self.layers3);
        let x4 = step(x3.clone(), &self.layers4c, &self.layers4);
        [tokens, x1, x2, x3, x4]
    }

    /// A map of [`SwinTransformer::forward`], normalised over its channels. (A part needs a module, though this one has no weights.)
    pub fn normalized(&self, x_NCDHW: Tensor<B, 5>, run: &mut impl Runner<B>) -> Tensor<B, 5> {
        run.run(&self.patch_embed, [x_NCDHW], |_, [x]| normalize(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_old_merging_drops_neighbours() {
        let kinds = |merging: PatchMerging| {
            let mut offsets = merging.offsets().to_vec();
            offsets.sort_unstable();
            offsets.dedup();
            offsets.len()
        };
        assert_eq!([PatchMerging::Old, PatchMerging::Fixed, PatchMerging::V2].map(kinds), [6, 8, 8]);
    }
}
