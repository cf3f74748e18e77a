//! UNETR: a vision transformer whose hidden states become maps of every scale, and the way up of MONAI's networks.
//!
//! Keys: `encoder.vit`, `encoder.encoder1` (reads the volume), `encoder.encoders.I` (read hidden states), `decoders.I` (coarsest first),
//! `out`. The transformer is [`super::vit`]'s, with fixed positions, so that masked auto-encoding can pretrain it.
//!
//! Shapes: `x_NCDHW`, `logits_NKDHW`. Source: Hatamizadeh et al., "UNETR", WACV 2022.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layers::ConvTranspose3d;
use super::monai::{OutBlock, UnetrBlock, UpBlock};
use super::vit::{Vit, VitConfig};
use super::{ConfigError, Init, require, require_channels, require_scores};
use crate::kernels::KernelBackend;

/// UNETR on a 3D vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnetrConfig {
    /// Channels of the finest map, 1 to 512; each coarser one has twice as many. Default 16.
    pub feature_size: usize,
    /// The transformer. Its `patch` must be 2, 4, 8, 16 or 32, its `depth` at least the number of halvings to a patch. The published UNETR
    /// has `width = 768`, `heads = 12`.
    pub vit: VitConfig,
    /// Sides of the window that MONAI's UNETR is for, [96, 96, 96] as published: the network is then MONAI's to the last number, so that its weights
    /// fit, with learned positions for windows of this size alone, queries, keys and values without bias, and hidden states after blocks 4, 7
    /// and 10. Default none: fixed positions for any window, hidden states after blocks 3, 6 and 9.
    pub monai_window: Option<[usize; 3]>,
}

impl Default for UnetrConfig {
    fn default() -> Self {
        Self { feature_size: 16, vit: VitConfig::default(), monai_window: None }
    }
}

impl UnetrConfig {
    /// Refuse what no network can be made of.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.vit.check()?;
        let VitConfig { patch, depth, .. } = self.vit;
        require((1..=512).contains(&self.feature_size), || format!("feature_size = {}; choose 1 to 512", self.feature_size))?;
        require((2..=32).contains(&patch) && patch.is_power_of_two(), || {
            format!("vit.patch = {patch}; UNETR needs a patch of 2, 4, 8, 16 or 32 voxels")
        })?;
        require(depth >= self.halvings(), || {
            format!("vit.depth = {depth}; a patch of {patch} needs hidden states of {} depths: choose at least as many", self.halvings())
        })?;
        require(self.monai_window.is_none() || (patch, depth) == (16, 12), || {
            format!("vit.patch = {patch} and vit.depth = {depth}; MONAI's UNETR has 16 and 12: choose those, or no monai_window")
        })?;
        require(self.monai_window.is_none_or(|window| window.iter().all(|side| (16..=1024).contains(side) && side % 16 == 0)), || {
            format!("monai_window = {:?}; choose sides of 16 to 1024 voxels, divisible by 16", self.monai_window.unwrap_or_default())
        })
    }

    /// Refuse windows that there are no learned positions for.
    pub fn check_window(&self, window: [usize; 3]) -> Result<(), ConfigError> {
        require(self.monai_window.is_none_or(|known| known == window), || {
            let known = self.monai_window.unwrap_or_default();
            format!(
                "a window of {window:?} voxels with monai_window = {known:?}, whose positions are learned; make them equal, or leave monai_window out"
            )
        })
    }

    /// Refuse windows of more tokens than attention has memory for.
    pub fn check_attention(&self, window: [usize; 3]) -> Result<(), ConfigError> {
        let tokens = window.iter().map(|side| side / self.vit.patch).fold(1, usize::saturating_mul);
        require_scores([self.vit.width, self.vit.heads], tokens, tokens)
    }

    /// What each side of a sub-volume must be divisible by.
    pub fn divisor(&self) -> [usize; 3] {
        [self.vit.patch; 3]
    }

    /// From a voxel to a patch.
    fn halvings(&self) -> usize {
        self.vit.patch.checked_ilog2().unwrap_or(0) as usize
    }

    /// Channels of each map, finest first.
    pub fn widths(&self) -> Vec<usize> {
        (0..self.halvings()).map(|level| self.feature_size << level).chain([self.vit.width]).collect()
    }

    /// The encoder alone, for networks that share it.
    pub fn init_encoder<B: Backend>(&self, in_channels: usize, init: &Init<B>) -> Result<UnetrEncoder<B>, ConfigError> {
        self.check()?;
        let (widths, last) = (self.widths(), self.halvings());
        let place = |level: usize| init.at(format_args!("encoder{}", level + 1));
        Ok(UnetrEncoder {
            vit: self.vit.init_as(in_channels, self.monai_window, &init.at("vit"))?,
            encoder1: UnetrBlock::new(&place(0), [in_channels, widths[0]]),
            encoders: (1..last).map(|level| PrUpBlock::new(&place(level), [widths[last], widths[level]], last - level - 1)).collect(),
            late: self.monai_window.is_some(),
        })
    }

    /// The network with its first weights.
    pub fn init<B: Backend>(&self, in_channels: usize, classes: usize, init: &Init<B>) -> Result<Unetr<B>, ConfigError> {
        require_channels(in_channels, classes)?;
        let encoder = self.init_encoder(in_channels, &init.at("encoder"))?;
        let (widths, last) = (self.widths(), self.halvings());
        let up = |(i, level): (usize, usize)| UpBlock::new(&init.at("decoders").at(i), [widths[level], widths[level - 1]], [2; 3], true);
        Ok(Unetr {
            encoder,
            decoders: (1..=last).rev().enumerate().map(up).collect(),
            out: OutBlock::new(&init.at("out"), [widths[0], classes]),
        })
    }
}

/// From a hidden state to the map of a level: a transposed convolution, then more of them with a residual block each (`UnetrPrUpBlock`).
#[derive(Module, Debug)]
pub struct PrUpBlock<B: Backend> {
    transp_conv_init: ConvTranspose3d<B>,
    blocks: Vec<PrUpStep<B>>,
}

/// One more doubling.
#[derive(Module, Debug)]
pub struct PrUpStep<B: Backend> {
    transp_conv: ConvTranspose3d<B>,
    block: UnetrBlock<B>,
}

impl<B: Backend> PrUpBlock<B> {
    fn new(init: &Init<B>, [from, to]: [usize; 2], more: usize) -> Self {
        let step = |place: Init<B>| PrUpStep {
            transp_conv: ConvTranspose3d::new(&place.at("transp_conv"), [to, to], [2; 3], false),
            block: UnetrBlock::new(&place.at("block"), [to, to]),
        };
        Self {
            transp_conv_init: ConvTranspose3d::new(&init.at("transp_conv_init"), [from, to], [2; 3], false),
            blocks: (0..more).map(|i| step(init.at("blocks").at(i))).collect(),
        }
    }
}

impl<B: KernelBackend> PrUpBlock<B> {
    fn forward(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        let x = self.transp_conv_init.forward(x);
        self.blocks.iter().fold(x, |x, step| step.block.forward(step.transp_conv.forward(x)))
    }
}

/// The transformer, and what makes maps of its hidden states.
#[derive(Module, Debug)]
pub struct UnetrEncoder<B: Backend> {
    pub vit: Vit<B>,
    /// Reads the volume itself.
    encoder1: UnetrBlock<B>,
    /// Of the levels between the voxels and the patches, finest first.
    encoders: Vec<PrUpBlock<B>>,
    /// Hidden states are MONAI's.
    late: bool,
}

impl<B: KernelBackend> UnetrEncoder<B> {
    /// `x_NCDHW` -> the map of each level, finest first; finer maps are of earlier blocks.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Vec<Tensor<B, 5>> {
        let mut maps = vec![self.encoder1.forward(x_NCDHW.clone())];
        let mut states = self.vit.states(x_NCDHW, self.encoders.len() + 1, self.late).into_iter();
        maps.extend(self.encoders.iter().zip(states.by_ref()).map(|(encoder, state)| encoder.forward(state)));
        maps.extend(states);
        maps
    }
}

/// A UNETR. See [`UnetrConfig`].
#[derive(Module, Debug)]
pub struct Unetr<B: Backend> {
    pub encoder: UnetrEncoder<B>,
    /// Coarsest first.
    decoders: Vec<UpBlock<B>>,
    out: OutBlock<B>,
}

impl<B: KernelBackend> Unetr<B> {
    /// The way up from the encoder's maps to `logits_NKDHW`.
    pub fn decode(&self, mut features: Vec<Tensor<B, 5>>) -> Tensor<B, 5> {
        let coarsest = features.pop().expect("a UNETR has at least two levels");
        let steps = self.decoders.iter().zip(features.into_iter().rev());
        self.out.forward(steps.fold(coarsest, |x, (step, skip)| step.forward(x, skip)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use super::super::golden::{self, B};
    use crate::weights::layout::Layout;
    use crate::weights::{self, NamedTensor};
    use burn::backend::Flex;

    #[test]
    fn levels_follow_the_patch() {
        let vit = VitConfig { patch: 8, width: 12, depth: 3, heads: 2, mlp_ratio: 2 };
        let config = UnetrConfig { feature_size: 2, vit, monai_window: None };
        assert_eq!(config.widths(), [2, 4, 8, 12]);
        let model = config.init::<Flex>(1, 3, &Init::new(0, "focus", &Default::default())).unwrap();
        let x = Tensor::ones([2, 1, 8, 16, 8], &Default::default());
        let maps = model.encoder.forward(x.clone());
        let sides: Vec<_> = maps.iter().map(Tensor::dims).collect();
        assert_eq!(sides, [[2, 2, 8, 16, 8], [2, 4, 4, 8, 4], [2, 8, 2, 4, 2], [2, 12, 1, 2, 1]]);
        assert_eq!(model.decode(maps.clone()).dims(), [2, 3, 8, 16, 8]);
        // The coarsest map is the transformer's, so that whoever pretrains it pretrains this.
        let values = |t: Tensor<Flex, 5>| t.into_data().to_vec::<f32>().unwrap();
        assert_eq!(values(model.encoder.vit.forward(x)), values(maps[3].clone()));
    }

    #[test]
    fn all_but_the_transformer_has_the_published_size() {
        let vit = VitConfig { width: 768, heads: 12, ..VitConfig::default() };
        let config = UnetrConfig { vit: vit.clone(), ..UnetrConfig::default() };
        let device = Default::default();
        let init = Init::<Flex>::new(0, "focus", &device);
        let model = config.init(1, 14, &init).unwrap();
        let transformer = weights::parameter_count(&vit.init(1, &init).unwrap());
        // MONAI 1.5.1: UNETR(1, 14, (96, 96, 96), feature_size=16) less its `vit`, which has learned positions and more.
        assert_eq!(weights::parameter_count(&model) - transformer, 4_443_310);
    }

    fn published() -> serde_json::Value {
        serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/unetr.json"))).unwrap()
    }

    fn monai() -> UnetrConfig {
        let vit = VitConfig { patch: 16, width: 12, depth: 12, heads: 2, mlp_ratio: 2 };
        UnetrConfig { feature_size: 2, vit, monai_window: Some([32, 32, 16]) }
    }

    /// Names and shapes of MONAI's state dict.
    fn monai_shapes(entry: &serde_json::Value) -> Vec<(String, Vec<usize>)> {
        serde_json::from_value(entry["keys"].clone()).unwrap()
    }

    #[test]
    fn names_and_shapes_are_monais_both_ways() {
        let model = monai().init::<Flex>(2, 3, &Init::new(0, "focus", &Default::default())).unwrap();
        let own: BTreeMap<String, Vec<usize>> = weights::shapes(&model).into_iter().collect();
        // MONAI makes cross-attention in every block and never runs it.
        let (unused, used): (Vec<_>, Vec<_>) = monai_shapes(&published()).into_iter().partition(|(name, _)| name.contains("cross_attn"));
        assert!(unused.len() == 12 * 7 && unused.iter().all(|(name, _)| Layout::Unetr.own(name).is_none()));
        let used: BTreeMap<String, Vec<usize>> = used.into_iter().collect();
        let exported: BTreeMap<_, _> = own.iter().map(|(name, shape)| (Layout::Unetr.published(name), shape.clone())).collect();
        assert_eq!(exported, used);
        let imported: BTreeMap<_, _> = used.iter().map(|(name, shape)| (Layout::Unetr.own(name).unwrap(), shape.clone())).collect();
        assert_eq!(imported, own);
    }

    #[test]
    fn with_monais_weights_logits_are_monais() {
        let entry = published();
        let model = monai().init::<B>(2, 3, &Init::new(0, "focus", &Default::default())).unwrap();
        let named = golden::rule("unetr", monai_shapes(&entry)).into_iter();
        let own = named.filter_map(|t| Layout::Unetr.own(&t.name).map(|name| NamedTensor { name, ..t })).collect();
        let (model, _) = weights::from_tensors(model, own, &weights::Scope::Whole).unwrap();
        let logits = model.decode(model.encoder.forward(golden::input(&entry)));
        golden::assert_map("output", &logits, &entry["output"]);
    }

    #[test]
    fn learned_positions_are_for_one_window() {
        let config = crate::nets::SegmenterConfig::Unetr(monai());
        assert!(config.check([32, 32, 16]).is_ok());
        let error = config.check([32, 32, 32]).unwrap_err().to_string();
        assert!(error.contains("monai_window = [32, 32, 16]"), "{error}");
    }

    #[test]
    fn impossible_configs_are_refused_with_a_sentence() {
        let vit = VitConfig::default;
        for (config, part) in [
            (UnetrConfig { feature_size: 0, ..UnetrConfig::default() }, "feature_size"),
            (UnetrConfig { vit: VitConfig { patch: 12, ..vit() }, ..UnetrConfig::default() }, "vit.patch = 12"),
            (UnetrConfig { vit: VitConfig { depth: 2, ..vit() }, ..UnetrConfig::default() }, "vit.depth = 2"),
            (
                UnetrConfig { vit: VitConfig { patch: 8, ..vit() }, monai_window: Some([96; 3]), ..UnetrConfig::default() },
                "MONAI's UNETR has 16 and 12",
            ),
            (UnetrConfig { monai_window: Some([96, 96, 40]), ..UnetrConfig::default() }, "monai_window = [96, 96, 40]"),
            (UnetrConfig { vit: VitConfig { heads: 7, ..vit() }, ..UnetrConfig::default() }, "heads"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
