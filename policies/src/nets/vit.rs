//! 3D vision transformer that reads the visible patches only, and the light decoder of masked auto-encoding.
//!
//! Keys: `patch_embed.proj`, `blocks.I.{norm1,attn.{qkv,proj},norm2,mlp.{linear1,linear2}}`, `norm`; of the decoder `embed`, `mask_token`,
//! `blocks`, `norm`, `pred`. Positions are fixed sines and cosines, no weights, but for MONAI's (`patch_embed.positions`).
//!
//! Shapes: `x_NCDHW`, `tokens_NTC` (T patches in C order), V visible tokens.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layers::{Conv3d, ConvInit, LayerNorm, Linear};
use super::swin::Mlp;
use super::{ConfigError, Init, require};
use crate::kernels::{self, KernelBackend};
use crate::precision::cast;

/// A 3D vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VitConfig {
    /// Side of a patch in voxels, 1 to 64; divides the sides of the sub-volume. Default 16.
    pub patch: usize,
    /// Channels of a token, at most 8192, divisible by 6 (sine and cosine of three axes) and by `heads`. Default 384.
    pub width: usize,
    /// Transformer blocks, 1 to 128. Default 12.
    pub depth: usize,
    /// Attention heads. Those of a multiple of 8 channels are fastest and need least memory; with others, UNETR refuses windows whose scores need
    /// more than 1 GiB a sub-volume. Default 6.
    pub heads: usize,
    /// Hidden units of a block's MLP, in multiples of `width`, 1 to 64. Default 4.
    pub mlp_ratio: usize,
}

impl Default for VitConfig {
    fn default() -> Self {
        Self { patch: 16, width: 384, depth: 12, heads: 6, mlp_ratio: 4 }
    }
}

/// The decoder of masked auto-encoding. The default is MiM's (34.5 M parameters), whose heads of 36 channels are no multiple of 8: each block
/// holds the scores of all pairs of tokens, 16 heads of 4 bytes. That is 3 MB for the 216 patches of a 96 x 96 x 96 sub-volume, and grows with the
/// square of their number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaeDecoderConfig {
    /// Channels of a token, divisible by 6 and by `heads`. Default 576.
    pub width: usize,
    /// Transformer blocks, 1 to 128. Default 8.
    pub depth: usize,
    /// Attention heads. Default 16; 12 or 18 have heads of a multiple of 8 channels, which hold no scores.
    pub heads: usize,
}

impl Default for MaeDecoderConfig {
    fn default() -> Self {
        Self { width: 576, depth: 8, heads: 16 }
    }
}

fn check_blocks(width: usize, depth: usize, heads: usize) -> Result<(), ConfigError> {
    require((6..=8192).contains(&width) && width.is_multiple_of(6), || format!("width = {width}; choose a multiple of 6, at most 8192"))?;
    require(heads > 0 && width.is_multiple_of(heads), || format!("heads = {heads} doesn't divide width = {width}; choose a divisor"))?;
    require((1..=128).contains(&depth), || format!("depth = {depth}; choose 1 to 128"))
}

impl VitConfig {
    /// Refuse what no network can be made of.
    pub fn check(&self) -> Result<(), ConfigError> {
        require((1..=64).contains(&self.patch), || format!("patch = {}; choose 1 to 64 voxels", self.patch))?;
        require((1..=64).contains(&self.mlp_ratio), || format!("mlp_ratio = {}; choose 1 to 64", self.mlp_ratio))?;
        check_blocks(self.width, self.depth, self.heads)
    }

    /// The encoder with its first weights.
    pub fn init<B: Backend>(&self, in_channels: usize, init: &Init<B>) -> Result<Vit<B>, ConfigError> {
        self.init_as(in_channels, None, init)
    }

    /// As [`VitConfig::init`]; with the sides of a window as MONAI's: learned positions of the patches of this window, and queries, keys and values
    /// without bias.
    pub fn init_as<B: Backend>(&self, in_channels: usize, monai: Option<[usize; 3]>, init: &Init<B>) -> Result<Vit<B>, ConfigError> {
        self.check()?;
        require(in_channels > 0, || "no input channel; give at least one".to_owned())?;
        let proj = Conv3d::patches(
            &init.at("patch_embed").at("proj"),
            [in_channels, self.width],
            self.patch,
            ConvInit::FanIn { negative_slope: 1.0 },
        );
        Ok(Vit {
            patch_embed: VitPatchEmbed {
                proj,
                positions: monai.map(|window| {
                    let tokens = window.iter().map(|side| side / self.patch).product();
                    init.at("patch_embed").normal("positions", [1, tokens, self.width], 0.02)
                }),
            },
            blocks: blocks(&init.at("blocks"), self.depth, [self.width, self.heads, self.mlp_ratio], monai.is_none()),
            norm: LayerNorm::new(&init.at("norm"), self.width),
            patch: self.patch,
        })
    }

    /// A decoder for this encoder's tokens, which predicts `in_channels` values a voxel.
    pub fn init_decoder<B: Backend>(
        &self,
        decoder: &MaeDecoderConfig,
        in_channels: usize,
        init: &Init<B>,
    ) -> Result<MaeDecoder<B>, ConfigError> {
        self.check()?;
        let MaeDecoderConfig { width, depth, heads } = *decoder;
        check_blocks(width, depth, heads)?;
        Ok(MaeDecoder {
            embed: Linear::new(&init.at("embed"), self.width, width),
            mask_token: init.normal("mask_token", [1, 1, width], 0.02),
            blocks: blocks(&init.at("blocks"), depth, [width, heads, 4], true),
            norm: LayerNorm::new(&init.at("norm"), width),
            pred: Linear::new(&init.at("pred"), width, self.patch.pow(3) * in_channels),
        })
    }
}

fn blocks<B: Backend>(init: &Init<B>, depth: usize, [width, heads, mlp_ratio]: [usize; 3], bias: bool) -> Vec<VitBlock<B>> {
    let block = |place: Init<B>| VitBlock {
        norm1: LayerNorm::new(&place.at("norm1"), width),
        attn: Attention {
            qkv: Qkv::new(&place.at("attn").at("qkv"), width, bias),
            proj: Linear::new(&place.at("attn").at("proj"), width, width),
            heads,
        },
        norm2: LayerNorm::new(&place.at("norm2"), width),
        mlp: Mlp::new(&place.at("mlp"), width, mlp_ratio * width),
    };
    (0..depth).map(|i| block(init.at(i))).collect()
}

/// Which patches of each sample are visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visible {
    tokens: usize,
    visible: Vec<Vec<usize>>,
}

impl Visible {
    /// The visible tokens of each sample out of `tokens`: as many for each, each once.
    pub fn new(tokens: usize, visible: Vec<Vec<usize>>) -> Result<Self, ConfigError> {
        let count = visible.first().map_or(0, Vec::len);
        for list in &visible {
            let mut seen = vec![false; tokens];
            let fits = list.len() == count && list.iter().all(|&t| t < tokens && !std::mem::replace(&mut seen[t], true));
            require(fits && count > 0, || {
                format!("visible tokens {list:?} of {tokens}; give {count} different ones for each sample, at least one")
            })?;
        }
        Ok(Self { tokens, visible })
    }

    fn index<B: Backend>(&self, device: &B::Device) -> Tensor<B, 2, Int> {
        int(self.visible.iter().flatten().map(|&t| t as i64), [self.visible.len(), self.count()], device)
    }

    /// For each token its place among the visible ones, which come first, or among the masked ones behind them.
    fn restore<B: Backend>(&self, device: &B::Device) -> Tensor<B, 2, Int> {
        let of_sample = |list: &Vec<usize>| {
            let mut places = vec![None; self.tokens];
            list.iter().enumerate().for_each(|(place, &token)| places[token] = Some(place as i64));
            let mut masked = self.count() as i64..;
            places.into_iter().map(|place| place.or_else(|| masked.next()).unwrap_or_default()).collect::<Vec<_>>()
        };
        int(self.visible.iter().flat_map(of_sample), [self.visible.len(), self.tokens], device)
    }

    /// Visible tokens of a sample.
    pub fn count(&self) -> usize {
        self.visible.first().map_or(0, Vec::len)
    }
}

fn int<B: Backend>(values: impl Iterator<Item = i64>, shape: [usize; 2], device: &B::Device) -> Tensor<B, 2, Int> {
    Tensor::from_data(TensorData::new(values.collect::<Vec<_>>(), shape), device)
}

/// `tokens_NTC` at `index_NV` -> `[N, V, C]`.
fn take<B: Backend>(tokens_NTC: Tensor<B, 3>, index_NV: Tensor<B, 2, Int>) -> Tensor<B, 3> {
    let [n, v] = index_NV.dims();
    let width = tokens_NTC.dims()[2];
    tokens_NTC.gather(1, index_NV.unsqueeze_dim::<3>(2).expand([n, v, width]))
}

/// `[1, T, width]`: a third of the channels for each axis, half of them sines, half cosines, wavelengths from 2 pi to 20,000 pi patches; on the device and of the type
/// of `like`.
fn positions<B: Backend>([d, h, w]: [usize; 3], width: usize, like: &Tensor<B, 3>) -> Tensor<B, 3> {
    let waves = width / 6;
    let code = |at: usize| {
        let angle = move |k: usize| at as f64 / 10_000f64.powf(k as f64 / waves as f64);
        (0..waves).map(move |k| angle(k).sin() as f32).chain((0..waves).map(move |k| angle(k).cos() as f32))
    };
    let values: Vec<f32> = (0..d * h * w).flat_map(|t| [t / (h * w), t / w % h, t % w]).flat_map(code).collect();
    Tensor::from_data(TensorData::new(values, [1, d * h * w, width]), (&like.device(), like.dtype()))
}

/// Patches to tokens.
#[derive(Module, Debug)]
pub struct VitPatchEmbed<B: Backend> {
    proj: Conv3d<B>,
    /// MONAI's learned ones; fixed ones are no weights.
    positions: Option<Param<Tensor<B, 3>>>,
}

/// Queries, keys and values of all heads: a linear layer with or without bias.
#[derive(Module, Debug)]
pub struct Qkv<B: Backend> {
    weight: Param<Tensor<B, 2>>,
    bias: Option<Param<Tensor<B, 1>>>,
}

impl<B: Backend> Qkv<B> {
    fn new(init: &Init<B>, width: usize, bias: bool) -> Self {
        let Linear { weight, bias: zeros } = Linear::new(init, width, 3 * width);
        Self { weight, bias: bias.then_some(zeros) }
    }
}

impl<B: KernelBackend> Qkv<B> {
    fn forward(&self, x_NTC: Tensor<B, 3>) -> Tensor<B, 3> {
        let [n, t, width] = x_NTC.dims();
        let y = kernels::linear(x_NTC.reshape([n * t, width]), self.weight.val(), self.bias.as_ref().map(Param::val));
        y.reshape([n, t, 3 * width])
    }
}

/// Multi-head self-attention over all tokens.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    qkv: Qkv<B>,
    proj: Linear<B>,
    heads: usize,
}

impl<B: KernelBackend> Attention<B> {
    fn forward(&self, x_NTC: Tensor<B, 3>) -> Tensor<B, 3> {
        self.proj.forward_rows(kernels::attention(self.qkv.forward(x_NTC), None, None, self.heads))
    }
}

/// Attention and MLP, each around a layer norm and beside a shortcut.
#[derive(Module, Debug)]
pub struct VitBlock<B: Backend> {
    norm1: LayerNorm<B>,
    attn: Attention<B>,
    norm2: LayerNorm<B>,
    mlp: Mlp<B>,
}

impl<B: KernelBackend> VitBlock<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = x.clone() + self.attn.forward(self.norm1.forward(x));
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }
}

/// A 3D vision transformer. See [`VitConfig`].
#[derive(Module, Debug)]
pub struct Vit<B: Backend> {
    patch_embed: VitPatchEmbed<B>,
    blocks: Vec<VitBlock<B>>,
    norm: LayerNorm<B>,
    patch: usize,
}

impl<B: KernelBackend> Vit<B> {
    /// Patches along each axis of `x_NCDHW`, whose sides must be divisible by the patch.
    pub fn grid(&self, x_NCDHW: &Tensor<B, 5>) -> [usize; 3] {
        let [_, _, size @ ..] = x_NCDHW.dims();
        size.map(|side| side / self.patch)
    }

    /// `x_NCDHW` -> the map of all patches, `[N, width, D / patch, ...]`.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
        let grid = self.grid(&x_NCDHW);
        map(self.transform(self.tokens(x_NCDHW)), grid)
    }

    /// The maps after equal shares of the blocks, `count` of them, at most as many as there are blocks; the last is [`Vit::forward`]'s. `late`: all but
    /// the last one block later, as in MONAI's UNETR.
    pub fn states(&self, x_NCDHW: Tensor<B, 5>, count: usize, late: bool) -> Vec<Tensor<B, 5>> {
        let grid = self.grid(&x_NCDHW);
        let mut tokens = self.tokens(x_NCDHW);
        let mut states = Vec::with_capacity(count);
        for (i, block) in self.blocks.iter().enumerate() {
            tokens = block.forward(tokens);
            if i + 1 == self.blocks.len() {
                tokens = self.norm.forward(tokens);
            }
            let (done, all) = ((i + 1).saturating_sub(usize::from(late && i + 1 < self.blocks.len())), self.blocks.len());
            if done * count / all > states.len() {
                states.push(map(tokens.clone(), grid));
            }
        }
        states
    }

    /// `x_NCDHW` -> the visible tokens, `[N, V, width]`. What is masked has no influence.
    pub fn forward_visible(&self, x_NCDHW: Tensor<B, 5>, visible: &Visible) -> Tensor<B, 3> {
        let index = visible.index(&x_NCDHW.device());
        self.transform(take(self.tokens(x_NCDHW), index))
    }

    fn tokens(&self, x_NCDHW: Tensor<B, 5>) -> Tensor<B, 3> {
        let grid = self.grid(&x_NCDHW);
        let map = self.patch_embed.proj.forward(x_NCDHW);
        let [n, width, ..] = map.dims();
        let tokens = map.reshape([n, width, grid.iter().product()]).swap_dims(1, 2);
        let positions = match &self.patch_embed.positions {
            Some(learned) => cast(learned.val(), tokens.dtype()),
            None => positions(grid, width, &tokens),
        };
        tokens + positions
    }

    fn transform(&self, tokens: Tensor<B, 3>) -> Tensor<B, 3> {
        self.norm.forward(self.blocks.iter().fold(tokens, |x, block| block.forward(x)))
    }
}

/// `tokens_NTC` of all patches in order -> `[N, C, D / patch, ...]`.
fn map<B: Backend>(tokens_NTC: Tensor<B, 3>, [d, h, w]: [usize; 3]) -> Tensor<B, 5> {
    let [n, _, width] = tokens_NTC.dims();
    tokens_NTC.swap_dims(1, 2).reshape([n, width, d, h, w])
}

/// From the visible tokens to every voxel. See [`MaeDecoderConfig`].
#[derive(Module, Debug)]
pub struct MaeDecoder<B: Backend> {
    embed: Linear<B>,
    mask_token: Param<Tensor<B, 3>>,
    blocks: Vec<VitBlock<B>>,
    norm: LayerNorm<B>,
    pred: Linear<B>,
}

impl<B: KernelBackend> MaeDecoder<B> {
    /// `[N, V, C]` of [`Vit::forward_visible`] -> voxels of all patches as [`patchify`] orders them; `grid` is [`Vit::grid`].
    pub fn forward(&self, latent_NVC: Tensor<B, 3>, visible: &Visible, grid: [usize; 3]) -> Tensor<B, 3> {
        let shown = self.embed.forward_rows(latent_NVC);
        let [n, v, width] = shown.dims();
        let hidden = cast(self.mask_token.val(), shown.dtype()).expand([n, visible.tokens - v, width]);
        let tokens = take(Tensor::cat(vec![shown, hidden], 1), visible.restore(&self.mask_token.device()));
        let positions = positions(grid, width, &tokens);
        let tokens = tokens + positions;
        self.pred.forward_rows(self.norm.forward(self.blocks.iter().fold(tokens, |x, block| block.forward(x))))
    }
}

/// `x_NCDHW` -> `[N, T, patch^3 C]`: patches in C order, within one the voxels in C order, the channel last.
pub fn patchify<B: Backend>(x_NCDHW: Tensor<B, 5>, patch: usize) -> Tensor<B, 3> {
    let [n, c, d, h, w] = x_NCDHW.dims();
    let [gd, gh, gw] = [d, h, w].map(|side| side / patch);
    x_NCDHW.reshape([n, c, gd, patch, gh, patch, gw, patch]).permute([0, 2, 4, 6, 3, 5, 7, 1]).reshape([n, gd * gh * gw, patch.pow(3) * c])
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;
    use crate::weights;
    use burn::backend::Flex;

    fn tiny() -> (VitConfig, MaeDecoderConfig) {
        (VitConfig { patch: 2, width: 12, depth: 2, heads: 2, mlp_ratio: 2 }, MaeDecoderConfig { width: 6, depth: 1, heads: 3 })
    }

    fn init() -> Init<'static, Flex> {
        Init::new(1, "vit", &burn::backend::flex::FlexDevice)
    }

    fn volume(name: &str) -> Tensor<Flex, 5> {
        Tensor::from_data(TensorData::new(golden::fill(name, 2 * 4 * 4 * 4, 0.0, 1.0), [2, 1, 4, 4, 4]), &Default::default())
    }

    fn values<const D: usize>(t: Tensor<Flex, D>) -> Vec<f32> {
        t.into_data().to_vec().unwrap()
    }

    #[test]
    fn parameter_counts() {
        let config = VitConfig::default();
        let decoder = config.init_decoder(&MaeDecoderConfig::default(), 1, &init()).unwrap();
        assert_eq!(weights::parameter_count(&decoder), 34_497_280, "MiM's decoder");
        // Per block 12 w^2 + 13 w; patch embedding 4096 w + w; last norm 2 w.
        let w = 384;
        assert_eq!(weights::parameter_count(&config.init(1, &init()).unwrap()), 12 * (12 * w * w + 13 * w) + 4097 * w + 2 * w);
    }

    #[test]
    fn what_is_masked_has_no_influence() {
        let vit = tiny().0.init(1, &init()).unwrap();
        // Patches 1 and 6 of the first sample, 0 and 3 of the second.
        let visible = Visible::new(8, vec![vec![1, 6], vec![0, 3]]).unwrap();
        let (x, noise) = (volume("x"), volume("noise"));
        let shown: Vec<f32> = (0..2 * 64)
            .map(|i| {
                let (sample, patch) = (i / 64, (i % 64) / 32 * 4 + (i % 16) / 8 * 2 + (i % 4) / 2);
                f32::from([[1, 6], [0, 3]][sample].contains(&patch))
            })
            .collect();
        let shown = Tensor::<Flex, 5>::from_data(TensorData::new(shown, [2, 1, 4, 4, 4]), &Default::default());
        let noisy = x.clone() * shown.clone() + noise * (shown.neg() + 1.0);
        assert_ne!(values(noisy.clone()), values(x.clone()));
        assert_eq!(values(vit.forward_visible(noisy, &visible)), values(vit.forward_visible(x.clone(), &visible)));
        // All visible, in order: the whole map.
        let all = Visible::new(8, vec![(0..8).collect(); 2]).unwrap();
        let map = vit.forward(x.clone());
        assert_eq!(map.dims(), [2, 12, 2, 2, 2]);
        assert_eq!(values(vit.forward_visible(x, &all).swap_dims(1, 2).reshape([2, 12, 2, 2, 2])), values(map));
    }

    #[test]
    fn hidden_states_are_of_equal_shares_of_the_blocks() {
        let vit = VitConfig { depth: 5, ..tiny().0 }.init(1, &init()).unwrap();
        let states = |count| vit.states(volume("x"), count, false).into_iter().map(values).collect::<Vec<_>>();
        let (two, all) = (states(2), states(5));
        assert_eq!([two.len(), all.len()], [2, 5]);
        assert_eq!([&two[0], &two[1]], [&all[2], &all[4]], "after 3 and 5 of 5 blocks");
        assert_eq!(two[1], values(vit.forward(volume("x"))));
    }

    #[test]
    fn the_decoder_puts_tokens_back_in_their_place() {
        let (config, decoder) = tiny();
        let (vit, decoder) = (config.init(1, &init()).unwrap(), config.init_decoder(&decoder, 1, &init()).unwrap());
        let order = |visible: Vec<usize>| {
            let visible = Visible::new(8, vec![visible; 2]).unwrap();
            values(decoder.forward(vit.forward_visible(volume("x"), &visible), &visible, [2; 3]))
        };
        let (one, other) = (order(vec![5, 2, 7]), order(vec![7, 5, 2]));
        assert_eq!(one.len(), 2 * 8 * 8);
        assert!(one.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-5), "the order of the visible tokens is no matter");
        let visible = Visible::new(4, vec![vec![2, 0]]).unwrap();
        let restore: Tensor<Flex, 2, Int> = visible.restore(&Default::default());
        assert_eq!(restore.into_data().iter::<i64>().collect::<Vec<_>>(), [1, 2, 0, 3]);
    }

    #[test]
    fn patches_hold_their_voxels() {
        let x: Vec<f32> = (0..4 * 2 * 2).map(|i| i as f32).collect();
        let x = Tensor::<Flex, 5>::from_data(TensorData::new(x, [1, 1, 4, 2, 2]), &Default::default());
        let patches = patchify(x, 2);
        assert_eq!(patches.dims(), [1, 2, 8]);
        assert_eq!(values(patches), (0..16).map(|i| i as f32).collect::<Vec<_>>());
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        for (config, part) in [
            (VitConfig { width: 100, ..VitConfig::default() }, "multiple of 6"),
            (VitConfig { heads: 7, ..VitConfig::default() }, "heads"),
            (VitConfig { depth: 0, ..VitConfig::default() }, "depth"),
            (VitConfig { patch: 0, ..VitConfig::default() }, "patch"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        for visible in [vec![vec![8]], vec![vec![1, 1]], vec![vec![1], vec![1, 2]], vec![vec![]]] {
            assert!(Visible::new(8, visible).is_err());
        }
    }
}
