//! MONAI's `DynUNet` with residual blocks.
//!
//! Keys are MONAI's after `encoder.` for `input_block`, `downsamples` and `bottleneck`; `upsamples` (coarsest first) and `output_block` as
//! they are. MONAI lists every weight twice (`skip_layers.*`), with equal values.
//!
//! Shapes: `x_NCDHW`, `logits_NKDHW`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::monai::{OutBlock, UnetBlock, UpBlock};
use super::{ConfigError, Init, require, require_channels, require_levels};
use crate::kernels::KernelBackend;

/// MONAI's DynUNet: 3x3x3 kernels, instance norm, leaky ReLU 0.01, residual blocks on the way down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DynUnetConfig {
    /// Channels of each level, finest first: 1 to 8192, 3 to 8 levels. Default [32, 64, 128, 256, 320].
    pub widths: Vec<usize>,
    /// Stride of each level per axis, each 1 or 2. Default (empty): 1 for the first level, 2 for the others; the first must be 1.
    pub strides: Vec<[usize; 3]>,
}

impl Default for DynUnetConfig {
    fn default() -> Self {
        Self { widths: vec![32, 64, 128, 256, 320], strides: vec![] }
    }
}

impl DynUnetConfig {
    /// Refuse what no network can be made of.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { widths, strides } = self;
        require_levels("DynUNet", widths, 3)?;
        super::check_strides(strides, widths)?;
        require(strides.first().is_none_or(|s| *s == [1; 3]), || {
            format!(
                "strides = {strides:?} begin with {:?}; the finest level of a DynUNet has the input's grid: begin with [1, 1, 1]",
                strides[0]
            )
        })
    }

    /// What each side of a sub-volume must be divisible by.
    pub fn divisor(&self) -> [usize; 3] {
        super::divisor(&self.level_strides())
    }

    /// Stride of each level.
    pub fn level_strides(&self) -> Vec<[usize; 3]> {
        super::level_strides(&self.strides, self.widths.len())
    }

    /// The encoder alone, for networks that share it.
    pub fn init_encoder<B: Backend>(&self, in_channels: usize, init: &Init<B>) -> Result<DynEncoder<B>, ConfigError> {
        self.check()?;
        let (strides, widths) = (self.level_strides(), &self.widths);
        let block = |place: &Init<B>, level: usize| {
            let from = if level == 0 { in_channels } else { widths[level - 1] };
            UnetBlock::residual(place, [from, widths[level]], strides[level], true)
        };
        let last = widths.len() - 1;
        Ok(DynEncoder {
            input_block: block(&init.at("input_block"), 0),
            downsamples: (1..last).map(|level| block(&init.at("downsamples").at(level - 1), level)).collect(),
            bottleneck: block(&init.at("bottleneck"), last),
        })
    }

    /// The network with its first weights: Kaiming normal over incoming connections.
    pub fn init<B: Backend>(&self, in_channels: usize, classes: usize, init: &Init<B>) -> Result<DynUnet<B>, ConfigError> {
        require_channels(in_channels, classes)?;
        let encoder = self.init_encoder(in_channels, &init.at("encoder"))?;
        let (strides, widths) = (self.level_strides(), &self.widths);
        let up = |(i, level): (usize, usize)| {
            UpBlock::new(&init.at("upsamples").at(i), [widths[level], widths[level - 1]], strides[level], false)
        };
        Ok(DynUnet {
            encoder,
            upsamples: (1..widths.len()).rev().enumerate().map(up).collect(),
            output_block: OutBlock::new(&init.at("output_block"), [widths[0], classes]),
        })
    }
}

/// The way down.
#[derive(Module, Debug)]
pub struct DynEncoder<B: Backend> {
    input_block: UnetBlock<B>,
    downsamples: Vec<UnetBlock<B>>,
    bottleneck: UnetBlock<B>,
}

impl<B: KernelBackend> DynEncoder<B> {
    /// `x_NCDHW` -> the map of each level, finest first.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Vec<Tensor<B, 5>> {
        let mut x = self.input_block.forward(x_NCDHW);
        let mut maps = vec![x.clone()];
        for block in self.downsamples.iter().chain([&self.bottleneck]) {
            x = block.forward(x);
            maps.push(x.clone());
        }
        maps
    }
}

/// A DynUNet. See [`DynUnetConfig`].
#[derive(Module, Debug)]
pub struct DynUnet<B: Backend> {
    pub encoder: DynEncoder<B>,
    /// Coarsest first.
    upsamples: Vec<UpBlock<B>>,
    output_block: OutBlock<B>,
}

impl<B: KernelBackend> DynUnet<B> {
    /// The way up from the encoder's maps to `logits_NKDHW`.
    pub fn decode(&self, mut features: Vec<Tensor<B, 5>>) -> Tensor<B, 5> {
        let coarsest = features.pop().expect("a DynUNet has at least three levels");
        let steps = self.upsamples.iter().zip(features.into_iter().rev());
        self.output_block.forward(steps.fold(coarsest, |x, (step, skip)| step.forward(x, skip)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{self, B};
    use super::*;
    use crate::weights;
    use crate::weights::layout::Layout;
    use burn::backend::Flex;

    #[test]
    fn golden_residual_blocks() {
        let entry = golden::entry("dynunet_res");
        let config = DynUnetConfig { widths: vec![8, 16, 32, 64], ..DynUnetConfig::default() };
        let model = config.init::<B>(1, 2, &Init::new(0, "focus", &Default::default())).unwrap();
        let model = golden::load(model, Layout::DynUnet, golden::weights("dynunet_res", &entry));
        assert_eq!(weights::parameter_count(&model) as u64, entry["params"].as_u64().unwrap());
        let maps = model.encoder.forward(golden::input(&entry));
        for (name, map) in [("input_block", &maps[0]), ("downsamples.0", &maps[1]), ("bottleneck", &maps[3])] {
            golden::assert_map(name, map, &entry["features"][name]);
        }
        let logits = model.decode(maps);
        golden::check_segmenter(&entry, &model, Layout::DynUnet, logits, 1e-4, |_| {});
    }

    #[test]
    fn parameter_counts_and_grids() {
        let config = DynUnetConfig { strides: vec![[1; 3], [2, 2, 1], [2; 3]], widths: vec![4, 6, 8] };
        assert_eq!(config.divisor(), [4, 4, 2]);
        let model = config.init::<Flex>(2, 3, &Init::new(0, "focus", &Default::default())).unwrap();
        let x = Tensor::zeros([1, 2, 8, 4, 6], &Default::default());
        assert_eq!(model.decode(model.encoder.forward(x)).dims(), [1, 3, 8, 4, 6]);
        let default = DynUnetConfig::default().init::<Flex>(1, 2, &Init::new(0, "focus", &Default::default())).unwrap();
        assert_eq!(weights::parameter_count(&default), 16_670_210);
    }

    #[test]
    fn impossible_configs_are_refused_with_a_sentence() {
        let base = DynUnetConfig::default;
        for (config, part) in [
            (DynUnetConfig { widths: vec![8, 16], ..base() }, "at least 3"),
            (DynUnetConfig { widths: vec![8, 0, 16], ..base() }, "at least 1"),
            (DynUnetConfig { widths: vec![4; 65], ..base() }, "at most 8"),
            (DynUnetConfig { widths: vec![8, 16, 4_000_000_000], ..base() }, "at most 8192"),
            (DynUnetConfig { strides: vec![[1; 3]], ..base() }, "differ in length"),
            (DynUnetConfig { strides: vec![[2; 3]; 5], ..base() }, "begin with [1, 1, 1]"),
            (DynUnetConfig { strides: vec![[1, 1, 3]; 5], ..base() }, "1 or 2"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
