//! The plain 3D U-Net of Models Genesis, SuPreM and FreeTumor, whose batch norm uses the batch's own statistics always.
//!
//! Keys: `encoder.levels.L.I.{conv1,bn1}` (published `down_tr64.ops.I`, `down_tr128.ops.I`, ...), `decoder.L.{up_conv,ops.I}`
//! (`up_tr64`, ...; here finest first), `head` (`out_tr.final_conv`).
//!
//! Shapes: `x_NCDHW`, `logits_NKDHW`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layers::{Conv3d, ConvInit, ConvTranspose3d};
use super::norm::{Norm, NormConfig, NormKind};
use super::{ConfigError, Init, Mode, require};
use crate::kernels::{self, KernelBackend};

const CONV_INIT: ConvInit = ConvInit::FanIn { negative_slope: 0.0 };

/// The plain 3D U-Net. Batch norm has no running statistics: what a sub-volume gives depends on those beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Unet3dConfig {
    /// Channels of the finest level, even; each level doubles them, to 8192 at most. Default 64 (19 M parameters).
    pub width: usize,
    /// Levels, 2 to 6. Default 4.
    pub levels: usize,
}

impl Default for Unet3dConfig {
    fn default() -> Self {
        Self { width: 64, levels: 4 }
    }
}

impl Unet3dConfig {
    /// Refuse what no network can be made of.
    pub fn check(&self) -> Result<(), ConfigError> {
        require((2..=6).contains(&self.levels), || format!("levels = {}; choose 2 to 6", self.levels))?;
        let most = super::WIDTHS.end() >> (self.levels - 1);
        require(self.width.is_multiple_of(2) && (2..=most).contains(&self.width), || {
            format!("width = {}; choose an even number from 2 to {most} (of {} levels the last has at most 8192)", self.width, self.levels)
        })
    }

    /// What each side of a sub-volume must be divisible by.
    pub fn divisor(&self) -> [usize; 3] {
        [1 << (self.levels - 1); 3]
    }

    /// Channels of each level, finest first.
    pub fn widths(&self) -> Vec<usize> {
        (0..self.levels).map(|level| self.width << level).collect()
    }

    /// The encoder alone, for networks that share it.
    pub fn init_encoder<B: Backend>(&self, in_channels: usize, init: &Init<B>) -> Result<PlainEncoder<B>, ConfigError> {
        self.check()?;
        let widths = self.widths();
        let level = |level: usize| {
            let place = init.at("levels").at(level);
            let (from, to) = (if level == 0 { in_channels } else { widths[level - 1] }, widths[level]);
            vec![LuConv::new(&place.at(0), [from, to / 2]), LuConv::new(&place.at(1), [to / 2, to])]
        };
        Ok(PlainEncoder { levels: (0..self.levels).map(level).collect() })
    }

    /// The network with its first weights: Kaiming normal over incoming connections. One class is allowed: FreeTumor's generator has one output.
    pub fn init<B: Backend>(&self, in_channels: usize, classes: usize, init: &Init<B>) -> Result<Unet3d<B>, ConfigError> {
        require(in_channels > 0 && classes > 0, || format!("{in_channels} input channels and {classes} outputs; choose at least 1 each"))?;
        let encoder = self.init_encoder(in_channels, &init.at("encoder"))?;
        let widths = self.widths();
        let step = |level: usize| {
            let (place, from, to) = (init.at("decoder").at(level), widths[level + 1], widths[level]);
            let ops = place.at("ops");
            UpTransition {
                up_conv: ConvTranspose3d::new(&place.at("up_conv"), [from, from], [2; 3], true),
                ops: vec![LuConv::new(&ops.at(0), [from + to, to]), LuConv::new(&ops.at(1), [to, to])],
            }
        };
        Ok(Unet3d {
            encoder,
            decoder: (0..self.levels - 1).map(step).collect(),
            head: Conv3d::new(&init.at("head"), [self.width, classes], 1, [1; 3], true, CONV_INIT),
        })
    }
}

/// Convolution with bias, batch norm, ReLU.
#[derive(Module, Debug)]
pub struct LuConv<B: Backend> {
    conv1: Conv3d<B>,
    bn1: Norm<B>,
}

impl<B: Backend> LuConv<B> {
    fn new(init: &Init<B>, channels: [usize; 2]) -> Self {
        // Instance norm has the same parameters as batch norm without running statistics.
        let norm = NormConfig { kind: NormKind::Instance, groups: 0 };
        Self { conv1: Conv3d::new(&init.at("conv1"), channels, 3, [1; 3], true, CONV_INIT), bn1: norm.init(&init.at("bn1"), channels[1]) }
    }
}

impl<B: KernelBackend> LuConv<B> {
    /// The batch's statistics of a channel are those of one sample that is the whole batch.
    fn forward(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        let y = self.conv1.forward(x);
        let [n, c, d, h, w] = y.dims();
        let one = y.swap_dims(0, 1).reshape([1, c, n * d, h, w]);
        self.bn1.forward_act(one, Mode::Train, 0.0).reshape([c, n, d, h, w]).swap_dims(0, 1)
    }
}

/// The way down, with 2x2x2 max pooling between levels.
#[derive(Module, Debug)]
pub struct PlainEncoder<B: Backend> {
    levels: Vec<Vec<LuConv<B>>>,
}

impl<B: KernelBackend> PlainEncoder<B> {
    /// `x_NCDHW` -> the map of each level, finest first.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Vec<Tensor<B, 5>> {
        let mut x = x_NCDHW;
        let mut maps: Vec<Tensor<B, 5>> = Vec::with_capacity(self.levels.len());
        for (i, level) in self.levels.iter().enumerate() {
            if i > 0 {
                x = kernels::max_pool3d(x, [2; 3], [2; 3], [0; 3]);
            }
            x = level.iter().fold(x, |x, unit| unit.forward(x));
            maps.push(x.clone());
        }
        maps
    }
}

/// One step up.
#[derive(Module, Debug)]
pub struct UpTransition<B: Backend> {
    up_conv: ConvTranspose3d<B>,
    ops: Vec<LuConv<B>>,
}

/// A plain 3D U-Net. See [`Unet3dConfig`].
#[derive(Module, Debug)]
pub struct Unet3d<B: Backend> {
    pub encoder: PlainEncoder<B>,
    /// Finest first.
    decoder: Vec<UpTransition<B>>,
    head: Conv3d<B>,
}

impl<B: KernelBackend> Unet3d<B> {
    /// The way up from the encoder's maps to `logits_NKDHW`.
    pub fn decode(&self, mut features: Vec<Tensor<B, 5>>) -> Tensor<B, 5> {
        let coarsest = features.pop().expect("a U-Net has at least two levels");
        let x = self.decoder.iter().zip(features).rev().fold(coarsest, |x, (step, skip)| {
            let joined = Tensor::cat(vec![step.up_conv.forward(x), skip], 1);
            step.ops.iter().fold(joined, |x, unit| unit.forward(x))
        });
        self.head.forward(x)
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{self, B};
    use super::*;
    use crate::weights::{self, Scope};
    use burn::backend::Flex;
    use burn::tensor::TensorData;

    fn net<B: Backend>(config: &Unet3dConfig, classes: usize) -> Unet3d<B> {
        config.init(1, classes, &Init::new(0, "focus", &Default::default())).unwrap()
    }

    #[test]
    fn parameter_counts() {
        for (classes, count) in [(3, 19_073_795), (1, 19_073_665)] {
            assert_eq!(weights::parameter_count(&net::<Flex>(&Unet3dConfig::default(), classes)), count);
        }
    }

    #[test]
    fn batch_norm_is_over_the_batch() {
        let unit = LuConv::<Flex>::new(&Init::new(3, "unit", &Default::default()), [1, 2]);
        let x = golden::fill("x", 3 * 8, 0.0, 1.0);
        let x = Tensor::<Flex, 5>::from_data(TensorData::new(x, [3, 1, 2, 2, 2]), &Default::default());
        let conv: Vec<f32> = unit.conv1.forward(x.clone()).into_data().to_vec().unwrap();
        let found: Vec<f32> = unit.forward(x).into_data().to_vec().unwrap();
        for c in 0..2 {
            let at: Vec<usize> = (0..48).filter(|i| i / 8 % 2 == c).collect();
            let mean = at.iter().map(|&i| f64::from(conv[i])).sum::<f64>() / 24.0;
            let var = at.iter().map(|&i| (f64::from(conv[i]) - mean).powi(2)).sum::<f64>() / 24.0;
            for i in at {
                let expected = ((f64::from(conv[i]) - mean) / (var + 1e-5).sqrt()).max(0.0);
                assert!((f64::from(found[i]) - expected).abs() < 1e-4, "{i}: {} {expected}", found[i]);
            }
        }
    }

    #[test]
    fn logits_lie_on_the_grid_and_every_parameter_learns() {
        let config = Unet3dConfig { width: 4, levels: 3 };
        let model = net::<B>(&config, 2);
        let shapes = weights::shapes(&model);
        let (model, _) = weights::from_tensors(model, golden::rule("unet3d", shapes.clone()), &Scope::Whole).unwrap();
        let x = golden::fill("unet3d.x", 2 * 8 * 4 * 12, 0.0, 1.0);
        let x = Tensor::<B, 5>::from_data(TensorData::new(x, [2, 1, 8, 4, 12]), &Default::default());
        let logits = model.decode(model.encoder.forward(x));
        assert_eq!(logits.dims(), [2, 2, 8, 4, 12]);
        let grads = golden::gradients(&model, &logits.square().sum().backward());
        assert_eq!(grads.len(), shapes.len());
    }

    #[test]
    fn impossible_configs_are_refused_with_a_sentence() {
        for (width, levels, part) in
            [(3, 4, "even"), (0, 4, "even"), (8, 1, "levels"), (8, 7, "levels"), (514, 5, "2 to 512"), (8, 65, "levels")]
        {
            let error = Unet3dConfig { width, levels }.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
