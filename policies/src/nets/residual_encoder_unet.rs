//! nnU-Net's residual-encoder U-Net (`ResidualEncoderUNet` of dynamic-network-architectures).
//!
//! Keys are nnU-Net's: `encoder.stem.convs.0.{conv,norm}`, `encoder.stages.L.blocks.I.{conv1,conv2,skip}`, `decoder.stages.L.convs.I`,
//! `decoder.transpconvs.L`, `decoder.seg_layers.L` (all coarsest first). nnU-Net lists every weight several times (`all_modules.*`,
//! `decoder.encoder.*`), with equal values.
//!
//! Shapes: `x_NCDHW`, `logits_NKDHW`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layers::{Conv3d, ConvInit, ConvTranspose3d, avg_pool3d};
use super::monai::InstanceNorm;
use super::{ConfigError, Init, require, require_channels, require_kernels, require_levels, require_within};
use crate::kernels::KernelBackend;

const CONV_INIT: ConvInit = ConvInit::FanIn { negative_slope: 0.01 };

/// nnU-Net's residual-encoder U-Net: instance norm, leaky ReLU 0.01, convolutions with bias.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResidualEncoderUnetConfig {
    /// Channels of each level, finest first: 1 to 8192, 2 to 8 levels. Default [32, 64, 128, 256, 320, 320] (nnU-Net's "M").
    pub widths: Vec<usize>,
    /// Residual blocks of each level, 1 to 64. Default [1, 3, 4, 6, 6, 6].
    pub blocks: Vec<usize>,
    /// Stride of each level per axis, each 1 or 2, as in the plans' `strides`. Default (empty): 1 for the first level, 2 for the others; the
    /// first must be 1.
    pub strides: Vec<[usize; 3]>,
    /// Sides of each level's kernels, odd, at most 31, as in the plans' `kernel_sizes`. Default (empty): 3x3x3 everywhere.
    pub kernels: Vec<[usize; 3]>,
    /// Convolutions of each level of the decoder, 1 to 64. Default 1.
    pub decoder_convs: usize,
}

impl Default for ResidualEncoderUnetConfig {
    fn default() -> Self {
        Self {
            widths: vec![32, 64, 128, 256, 320, 320],
            blocks: vec![1, 3, 4, 6, 6, 6],
            strides: vec![],
            kernels: vec![],
            decoder_convs: 1,
        }
    }
}

impl ResidualEncoderUnetConfig {
    /// Refuse what no network can be made of.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { widths, blocks, strides, kernels, .. } = self;
        require_levels("U-Net", widths, 2)?;
        require(blocks.len() == widths.len(), || {
            format!("blocks = {blocks:?} and widths = {widths:?} differ in length; give one of each for every level")
        })?;
        require_within("blocks", blocks, super::BLOCKS)?;
        super::check_strides(strides, widths)?;
        require(strides.first().is_none_or(|s| *s == [1; 3]), || {
            format!("strides = {strides:?} begin with {:?}; nnU-Net's finest level has the input's grid: begin with [1, 1, 1]", strides[0])
        })?;
        require(kernels.is_empty() || kernels.len() == widths.len(), || {
            format!("kernels = {kernels:?} and widths = {widths:?} differ in length; give one of each for every level, or no kernels")
        })?;
        require_kernels("kernels", kernels.as_flattened())?;
        require_within("decoder_convs", &[self.decoder_convs], super::BLOCKS)
    }

    /// What each side of a sub-volume must be divisible by.
    pub fn divisor(&self) -> [usize; 3] {
        super::divisor(&self.level_strides())
    }

    /// Stride of each level.
    pub fn level_strides(&self) -> Vec<[usize; 3]> {
        super::level_strides(&self.strides, self.widths.len())
    }

    fn kernel(&self, level: usize) -> [usize; 3] {
        self.kernels.get(level).copied().unwrap_or([3; 3])
    }

    /// The encoder alone, for networks that share it.
    pub fn init_encoder<B: Backend>(&self, in_channels: usize, init: &Init<B>) -> Result<ResidualEncoder<B>, ConfigError> {
        self.check()?;
        let (strides, widths) = (self.level_strides(), &self.widths);
        let stage = |level: usize| {
            let places = init.at("stages").at(level).at("blocks");
            let to = widths[level];
            let block = |i: usize| match i {
                0 => Block::new(&places.at(i), [widths[level.saturating_sub(1)], to], self.kernel(level), strides[level]),
                _ => Block::new(&places.at(i), [to, to], self.kernel(level), [1; 3]),
            };
            Stage { blocks: (0..self.blocks[level]).map(block).collect() }
        };
        let stem = Unit::new(&init.at("stem").at("convs").at(0), [in_channels, widths[0]], self.kernel(0), [1; 3], true);
        Ok(ResidualEncoder { stem: Units { convs: vec![stem] }, stages: (0..widths.len()).map(stage).collect() })
    }

    /// The network with its first weights: Kaiming normal over incoming connections, biases 0.
    pub fn init<B: Backend>(&self, in_channels: usize, classes: usize, init: &Init<B>) -> Result<ResidualEncoderUnet<B>, ConfigError> {
        require_channels(in_channels, classes)?;
        let encoder = self.init_encoder(in_channels, &init.at("encoder"))?;
        let (strides, widths, place) = (self.level_strides(), &self.widths, init.at("decoder"));
        // Level of each step, coarsest first: where it arrives.
        let levels: Vec<usize> = (0..widths.len() - 1).rev().collect();
        let stage = |(i, &level): (usize, &usize)| {
            let convs = place.at("stages").at(i).at("convs");
            let width = widths[level];
            let conv = |j| Unit::new(&convs.at(j), [if j == 0 { 2 * width } else { width }, width], self.kernel(level), [1; 3], true);
            Units { convs: (0..self.decoder_convs).map(conv).collect() }
        };
        let up = |(i, &level): (usize, &usize)| {
            ConvTranspose3d::new(&place.at("transpconvs").at(i), [widths[level + 1], widths[level]], strides[level + 1], true)
        };
        let head =
            |(i, &level): (usize, &usize)| Conv3d::new(&place.at("seg_layers").at(i), [widths[level], classes], 1, [1; 3], true, CONV_INIT);
        let decoder = Decoder {
            stages: levels.iter().enumerate().map(stage).collect(),
            transpconvs: levels.iter().enumerate().map(up).collect(),
            seg_layers: levels.iter().enumerate().map(head).collect(),
        };
        Ok(ResidualEncoderUnet { encoder, decoder })
    }
}

/// Convolution, norm, leaky ReLU (`ConvDropoutNormReLU`).
#[derive(Module, Debug)]
pub struct Unit<B: Backend> {
    conv: Conv3d<B>,
    norm: InstanceNorm<B>,
}

impl<B: Backend> Unit<B> {
    fn new(init: &Init<B>, channels: [usize; 2], kernel: [usize; 3], stride: [usize; 3], bias: bool) -> Self {
        Self {
            conv: Conv3d::with_kernel(&init.at("conv"), channels, kernel, stride, bias, CONV_INIT),
            norm: InstanceNorm::new(&init.at("norm"), channels[1], true),
        }
    }
}

impl<B: KernelBackend> Unit<B> {
    fn forward(&self, x: Tensor<B, 5>, shortcut: Option<Tensor<B, 5>>, act: bool) -> Tensor<B, 5> {
        self.norm.forward(self.conv.forward(x), shortcut, act)
    }
}

/// One unit after the other (`StackedConvBlocks`).
#[derive(Module, Debug)]
pub struct Units<B: Backend> {
    convs: Vec<Unit<B>>,
}

impl<B: KernelBackend> Units<B> {
    fn forward(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        self.convs.iter().fold(x, |x, conv| conv.forward(x, None, true))
    }
}

/// Two units with a shortcut (`BasicBlockD`): mean of the voxels that the stride joins, then a 1x1x1 unit where the channels change.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    conv1: Unit<B>,
    conv2: Unit<B>,
    /// nnU-Net's list of the pooling (without weights) and the unit; it is the unit's place in it that the keys tell.
    skip: Vec<Option<Unit<B>>>,
    stride: [usize; 3],
}

impl<B: Backend> Block<B> {
    fn new(init: &Init<B>, [from, to]: [usize; 2], kernel: [usize; 3], stride: [usize; 3]) -> Self {
        let pools = stride != [1; 3];
        let place = init.at("skip").at(usize::from(pools));
        let unit = (from != to).then(|| Unit::new(&place, [from, to], [1; 3], [1; 3], false));
        Self {
            conv1: Unit::new(&init.at("conv1"), [from, to], kernel, stride, true),
            conv2: Unit::new(&init.at("conv2"), [to, to], kernel, [1; 3], true),
            skip: if pools { vec![None, unit] } else { vec![unit] },
            stride,
        }
    }
}

impl<B: KernelBackend> Block<B> {
    fn forward(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        let y = self.conv1.forward(x.clone(), None, true);
        let units = self.skip.iter().flatten();
        let shortcut = units.fold(avg_pool3d(x, self.stride), |x, unit| unit.forward(x, None, false));
        self.conv2.forward(y, Some(shortcut), true)
    }
}

/// The blocks of one level.
#[derive(Module, Debug)]
pub struct Stage<B: Backend> {
    blocks: Vec<Block<B>>,
}

/// The way down.
#[derive(Module, Debug)]
pub struct ResidualEncoder<B: Backend> {
    stem: Units<B>,
    stages: Vec<Stage<B>>,
}

impl<B: KernelBackend> ResidualEncoder<B> {
    /// `x_NCDHW` -> the map of each level, finest first.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Vec<Tensor<B, 5>> {
        let mut x = self.stem.forward(x_NCDHW);
        let mut maps = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            x = stage.blocks.iter().fold(x, |x, block| block.forward(x));
            maps.push(x.clone());
        }
        maps
    }
}

/// The way up, all lists coarsest first.
#[derive(Module, Debug)]
pub struct Decoder<B: Backend> {
    stages: Vec<Units<B>>,
    transpconvs: Vec<ConvTranspose3d<B>>,
    /// One head a level; the coarser ones are for deep supervision only.
    seg_layers: Vec<Conv3d<B>>,
}

/// A residual-encoder U-Net. See [`ResidualEncoderUnetConfig`].
#[derive(Module, Debug)]
pub struct ResidualEncoderUnet<B: Backend> {
    pub encoder: ResidualEncoder<B>,
    decoder: Decoder<B>,
}

impl<B: KernelBackend> ResidualEncoderUnet<B> {
    /// The way up from the encoder's maps to `logits_NKDHW` of the finest level.
    pub fn decode(&self, features: Vec<Tensor<B, 5>>) -> Tensor<B, 5> {
        let head = self.decoder.seg_layers.last().expect("a U-Net has at least two levels");
        head.forward(self.levels(features).pop().expect("a U-Net has at least two levels"))
    }

    /// The logits of every level, finest first, for deep supervision.
    pub fn decode_levels(&self, features: Vec<Tensor<B, 5>>) -> Vec<Tensor<B, 5>> {
        let maps = self.levels(features).into_iter();
        maps.zip(&self.decoder.seg_layers).map(|(x, head)| head.forward(x)).rev().collect()
    }

    /// The decoder's maps, coarsest first.
    fn levels(&self, mut features: Vec<Tensor<B, 5>>) -> Vec<Tensor<B, 5>> {
        let mut x = features.pop().expect("a U-Net has at least two levels");
        let steps = self.decoder.transpconvs.iter().zip(&self.decoder.stages).zip(features.into_iter().rev());
        let step = |((up, stage), skip): ((&ConvTranspose3d<B>, &Units<B>), Tensor<B, 5>)| {
            x = stage.forward(Tensor::cat(vec![up.forward(x.clone()), skip], 1));
            x.clone()
        };
        steps.map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{self, B};
    use super::*;
    use crate::weights;
    use crate::weights::layout::Layout;
    use burn::backend::Flex;
    use burn::tensor::DType;

    fn net<B: Backend>(config: &ResidualEncoderUnetConfig) -> ResidualEncoderUnet<B> {
        config.init(1, 2, &Init::new(0, "focus", &Default::default())).unwrap()
    }

    fn golden_net(entry: &serde_json::Value) -> ResidualEncoderUnet<B> {
        let config = ResidualEncoderUnetConfig {
            widths: vec![8, 16, 32, 48],
            blocks: vec![1, 2, 2, 2],
            strides: vec![[1; 3], [2, 2, 1], [2; 3], [2; 3]],
            ..ResidualEncoderUnetConfig::default()
        };
        golden::load(net::<B>(&config), Layout::NnUnet, golden::weights("nnunet_resenc", entry))
    }

    /// The golden record holds in double precision to the last digits of its own.
    #[test]
    fn golden_nnunet_in_double_precision() {
        let entry = golden::entry("nnunet_resenc");
        let model = golden::double(golden_net(&entry));
        let logits = model.decode(model.encoder.forward(golden::input(&entry).cast(DType::F64)));
        golden::check_segmenter(&entry, &model, Layout::NnUnet, logits, 1e-6, |_| {});
    }

    /// All that leaves a leaky ReLU.
    fn activations(model: &ResidualEncoderUnet<B>, x: Tensor<B, 5>) -> Vec<f64> {
        let mut maps = model.levels(model.encoder.forward(x.clone()));
        let mut x = model.encoder.stem.forward(x);
        maps.push(x.clone());
        for block in model.encoder.stages.iter().flat_map(|stage| &stage.blocks) {
            maps.push(block.conv1.forward(x.clone(), None, true));
            x = block.forward(x);
            maps.push(x.clone());
        }
        maps.into_iter().flat_map(|map| map.into_data().iter::<f64>().collect::<Vec<_>>()).collect()
    }

    /// How near single precision comes to the record. Where rounding puts an activation that is nearly 0 on the other side of it, leaky ReLU's slope
    /// is 1 in place of 0.01: in plain Rust, whose products and sums are rounded one by one, one of all does (1.3e-6 before the ReLU), and the gradients
    /// before it are off by up to 3.9e-4. No other kernel crosses 0 here, and their gradients are within 1e-6.
    fn gradient_tolerance(model: &ResidualEncoderUnet<B>, x: Tensor<B, 5>) -> f64 {
        let exact = activations(&golden::double(model.clone()), x.clone().cast(DType::F64));
        let found = activations(model, x);
        let mut crossed =
            exact.iter().zip(&found).filter(|(e, f)| (**e < 0.0) != (**f < 0.0)).map(|(e, _)| if *e < 0.0 { -e / 0.01 } else { *e });
        match crossed.next() {
            None => 1e-5,
            Some(value) => {
                assert!(value < 3e-6 && crossed.all(|value| value < 3e-6), "an activation of {value} has the other sign");
                5e-4
            }
        }
    }

    #[test]
    fn golden_nnunet() {
        let entry = golden::entry("nnunet_resenc");
        let model = golden_net(&entry);
        assert_eq!(weights::parameter_count(&model) as u64, entry["params"].as_u64().unwrap());
        let features = model.encoder.forward(golden::input(&entry));
        let levels = model.decode_levels(features.clone());
        let logits = model.decode(features);
        assert_eq!(levels.iter().map(|l| l.dims()[2..].to_vec()).collect::<Vec<_>>(), [[32, 32, 16], [16, 16, 16], [8, 8, 8]]);
        assert_eq!(levels[0].to_data(), logits.to_data());
        golden::check_segmenter(&entry, &model, Layout::NnUnet, logits, gradient_tolerance(&model, golden::input(&entry)), |_| {});
    }

    #[test]
    fn parameter_counts_and_kernels() {
        assert_eq!(weights::parameter_count(&net::<Flex>(&ResidualEncoderUnetConfig::default())), 102_349_770);
        let config = ResidualEncoderUnetConfig {
            widths: vec![2, 2, 4],
            blocks: vec![1; 3],
            strides: vec![[1; 3], [1, 2, 2], [2; 3]],
            kernels: vec![[1, 3, 3], [1, 3, 3], [3; 3]],
            ..ResidualEncoderUnetConfig::default()
        };
        assert_eq!(config.divisor(), [2, 4, 4]);
        let model = net::<Flex>(&config);
        let names = weights::shapes(&model);
        let shape = |name: &str| names.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone());
        assert_eq!(shape("encoder.stages.0.blocks.0.conv1.conv.weight").unwrap(), [2, 2, 1, 3, 3]);
        assert_eq!(shape("encoder.stages.2.blocks.0.skip.1.conv.weight").unwrap(), [4, 2, 1, 1, 1]);
        assert!(shape("encoder.stages.1.blocks.0.skip.1.conv.weight").is_none(), "as many channels: only the pooling");
        let x = Tensor::zeros([1, 1, 4, 4, 8], &Default::default());
        assert_eq!(model.decode(model.encoder.forward(x)).dims(), [1, 2, 4, 4, 8]);
    }

    #[test]
    fn impossible_configs_are_refused_with_a_sentence() {
        let base = ResidualEncoderUnetConfig::default;
        for (config, part) in [
            (ResidualEncoderUnetConfig { widths: vec![8], blocks: vec![1], ..base() }, "at least 2"),
            (ResidualEncoderUnetConfig { blocks: vec![1], ..base() }, "differ in length"),
            (ResidualEncoderUnetConfig { blocks: vec![1, 1, 1, 0, 1, 1], ..base() }, "at least 1"),
            (ResidualEncoderUnetConfig { strides: vec![[2; 3]; 6], ..base() }, "begin with [1, 1, 1]"),
            (ResidualEncoderUnetConfig { kernels: vec![[3; 3]], ..base() }, "differ in length"),
            (ResidualEncoderUnetConfig { kernels: vec![[2; 3]; 6], ..base() }, "odd"),
            (ResidualEncoderUnetConfig { decoder_convs: 0, ..base() }, "decoder_convs"),
            (ResidualEncoderUnetConfig { widths: vec![4; 65], blocks: vec![1; 65], ..base() }, "at most 8"),
            (ResidualEncoderUnetConfig { widths: vec![8, 4_000_000_000], blocks: vec![1, 1], ..base() }, "at most 8192"),
            (ResidualEncoderUnetConfig { blocks: vec![1, 1, 1, 1, 1, 65], ..base() }, "at most 64"),
            (ResidualEncoderUnetConfig { kernels: vec![[33, 3, 3]; 6], ..base() }, "at most 31"),
            (ResidualEncoderUnetConfig { decoder_convs: usize::MAX, ..base() }, "at most 64"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
