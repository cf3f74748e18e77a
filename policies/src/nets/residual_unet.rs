//! Residual 3D U-Net: residual blocks going down, plain convolutions going up, skips concatenated.
//!
//! Keys: `encoder.stem.{conv,norm}`, `encoder.levels.L.I.{conv1,norm1,conv2,norm2,projection.{0,1}}`, `decoder.L.{up,reduce}`,
//! `decoder.L.convs.I.{conv,norm}`, `expand` (only where the first level is strided), `head`; each `.weight` and where present `.bias`.
//! Level 0 is the finest.
//!
//! Shapes: `x_NCDHW`, `logits_NKDHW`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layers::{Conv3d, ConvInit, ConvTranspose3d, upsample_trilinear};
use super::norm::{Mode, Norm, NormConfig, NormKind};
use super::{ConfigError, Init, require, require_channels, require_kernels, require_levels, require_within};
use crate::kernels::{self, KernelBackend};

/// How a coarse level becomes as fine as the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Upsampling {
    /// Transposed convolution with kernel = stride.
    Transposed,
    /// 1x1x1 convolution, then trilinear interpolation.
    Trilinear,
}

/// A residual 3D U-Net. The default is the demo's (about 400 thousand parameters).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResidualUNetConfig {
    /// Channels of each level, finest first: 1 to 8192, 2 to 8 levels. Default [8, 24, 48].
    pub widths: Vec<usize>,
    /// Residual blocks of each level of the encoder, 1 to 64. Default [1, 2, 3]: deep levels are cheap and see the context.
    pub blocks: Vec<usize>,
    /// Stride of each level per axis, finest first, each 1 or 2. Default (empty): 1 for the first level, 2 for the others. A first level
    /// of 2 makes everything about eight times cheaper and the mask's edge coarser.
    pub strides: Vec<[usize; 3]>,
    /// Side of the first convolution's kernel in voxels, odd, at most 31. Default 3.
    pub stem_kernel: usize,
    /// Normalisation: "group" (default), "instance" (nnU-Net) or "batch".
    pub norm: NormKind,
    /// Groups of "group" norm; each width must be divisible by it. Default 4.
    pub norm_groups: usize,
    /// Slope of leaky ReLU below 0, at least 0 and below 1. Default 0.01; 0 is ReLU.
    pub negative_slope: f64,
    /// Way up: "transposed" (default) or "trilinear".
    pub upsampling: Upsampling,
    /// Convolutions of each level of the decoder, 1 to 64. Default 1: most of the cost is in the finest level.
    pub decoder_convs: usize,
    /// Share of lesion voxels that the untrained network expects, above 0 and below 1. Default 0.02: most voxels are background, and from
    /// even odds (0.5 for two classes) the first hundreds of steps only teach that.
    pub foreground_prior: f64,
}

impl Default for ResidualUNetConfig {
    fn default() -> Self {
        Self {
            widths: vec![8, 24, 48],
            blocks: vec![1, 2, 3],
            strides: vec![],
            stem_kernel: 3,
            norm: NormKind::Group,
            norm_groups: 4,
            negative_slope: 0.01,
            upsampling: Upsampling::Transposed,
            decoder_convs: 1,
            foreground_prior: 0.02,
        }
    }
}

impl ResidualUNetConfig {
    /// Refuse what no network can be made of.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { widths, blocks, strides, .. } = self;
        require_levels("U-Net", widths, 2)?;
        require(blocks.len() == widths.len(), || {
            format!("blocks = {blocks:?} and widths = {widths:?} differ in length; give one of each for every level")
        })?;
        super::check_strides(strides, widths)?;
        require_within("blocks", blocks, super::BLOCKS)?;
        require_kernels("stem_kernel", &[self.stem_kernel])?;
        require((0.0..1.0).contains(&self.negative_slope), || {
            format!("negative_slope = {}; choose at least 0 and below 1", self.negative_slope)
        })?;
        require_within("decoder_convs", &[self.decoder_convs], super::BLOCKS)?;
        require(self.foreground_prior > 0.0 && self.foreground_prior < 1.0, || {
            format!("foreground_prior = {}; choose above 0 and below 1", self.foreground_prior)
        })?;
        self.norm().check(widths)
    }

    /// What each side of a window must be divisible by: the product of the strides.
    pub fn divisor(&self) -> [usize; 3] {
        super::divisor(&self.level_strides())
    }

    /// Stride of each level.
    pub fn level_strides(&self) -> Vec<[usize; 3]> {
        super::level_strides(&self.strides, self.widths.len())
    }

    /// Whether the coarsest map is normalised with each channel of a sub-volume by itself.
    pub(super) fn norms_single_channels(&self) -> bool {
        match self.norm {
            NormKind::Group => self.widths.last() == Some(&self.norm_groups),
            NormKind::Instance => true,
            NormKind::Batch => false,
        }
    }

    fn norm(&self) -> NormConfig {
        NormConfig { kind: self.norm, groups: self.norm_groups }
    }

    fn conv_init(&self) -> ConvInit {
        ConvInit::FanIn { negative_slope: self.negative_slope }
    }

    /// The encoder alone, for networks that share it.
    pub fn init_encoder<B: Backend>(&self, in_channels: usize, init: &Init<B>) -> Result<Encoder<B>, ConfigError> {
        self.check()?;
        let strides = self.level_strides();
        let stem = ConvNormAct::new(self, [in_channels, self.widths[0]], self.stem_kernel, strides[0], &init.at("stem"));
        let levels = (0..self.widths.len()).map(|level| {
            let place = init.at("levels").at(level);
            let to = self.widths[level];
            let block = |i| match i {
                0 if level > 0 => ResidualBlock::new(self, [self.widths[level - 1], to], strides[level], &place.at(i)),
                _ => ResidualBlock::new(self, [to, to], [1; 3], &place.at(i)),
            };
            (0..self.blocks[level]).map(block).collect()
        });
        Ok(Encoder { levels: levels.collect(), stem })
    }

    /// The network with its first weights: Kaiming normal over incoming connections, norms 1 and 0, biases 0 (nnU-Net), but
    /// for the head's, which say `foreground_prior` (as in RetinaNet).
    pub fn init<B: Backend>(&self, in_channels: usize, classes: usize, init: &Init<B>) -> Result<ResidualUNet<B>, ConfigError> {
        require_channels(in_channels, classes)?;
        let encoder = self.init_encoder(in_channels, &init.at("encoder"))?;
        let strides = self.level_strides();
        let decoder = (0..self.widths.len() - 1).map(|level| {
            DecoderLevel::new(self, [self.widths[level + 1], self.widths[level]], strides[level + 1], &init.at("decoder").at(level))
        });
        let finest = self.widths[0];
        let mut head = Conv3d::new(&init.at("head"), [finest, classes], 1, [1; 3], true, self.conv_init());
        let lesion = self.foreground_prior / (classes - 1) as f64;
        let log_odds: Vec<f64> = (0..classes).map(|k| if k == 0 { (1.0 - self.foreground_prior).ln() } else { lesion.ln() }).collect();
        head.bias = Some(init.at("head").given("bias", &log_odds));
        let expands = strides[0] != [1; 3] && self.upsampling == Upsampling::Transposed;
        Ok(ResidualUNet {
            encoder,
            decoder: decoder.collect(),
            expand: expands.then(|| ConvTranspose3d::new(&init.at("expand"), [finest, finest], strides[0], true)),
            head,
            stem_stride: strides[0],
        })
    }
}

/// Convolution, norm, leaky ReLU.
#[derive(Module, Debug)]
pub struct ConvNormAct<B: Backend> {
    conv: Conv3d<B>,
    norm: Norm<B>,
    negative_slope: f64,
}

impl<B: Backend> ConvNormAct<B> {
    fn new(config: &ResidualUNetConfig, channels: [usize; 2], kernel: usize, stride: [usize; 3], init: &Init<B>) -> Self {
        Self {
            conv: Conv3d::new(&init.at("conv"), channels, kernel, stride, false, config.conv_init()),
            norm: config.norm().init(&init.at("norm"), channels[1]),
            negative_slope: config.negative_slope,
        }
    }
}

impl<B: KernelBackend> ConvNormAct<B> {
    fn forward(&self, x: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        self.norm.after(&self.conv, x, None, mode, Some(self.negative_slope))
    }
}

/// Two 3x3x3 convolutions with norms; around them the input, through a 1x1x1 convolution and norm where the shape changes.
#[derive(Module, Debug)]
pub struct ResidualBlock<B: Backend> {
    conv1: Conv3d<B>,
    norm1: Norm<B>,
    conv2: Conv3d<B>,
    norm2: Norm<B>,
    projection: Option<(Conv3d<B>, Norm<B>)>,
    negative_slope: f64,
}

impl<B: Backend> ResidualBlock<B> {
    fn new(config: &ResidualUNetConfig, [from, to]: [usize; 2], stride: [usize; 3], init: &Init<B>) -> Self {
        let (norm, how) = (config.norm(), config.conv_init());
        let projects = stride != [1; 3] || from != to;
        Self {
            conv1: Conv3d::new(&init.at("conv1"), [from, to], 3, stride, false, how),
            norm1: norm.init(&init.at("norm1"), to),
            conv2: Conv3d::new(&init.at("conv2"), [to, to], 3, [1; 3], false, how),
            norm2: norm.init(&init.at("norm2"), to),
            projection: projects.then(|| {
                let place = init.at("projection");
                (Conv3d::new(&place.at(0), [from, to], 1, stride, false, how), norm.init(&place.at(1), to))
            }),
            negative_slope: config.negative_slope,
        }
    }
}

impl<B: KernelBackend> ResidualBlock<B> {
    fn forward(&self, x: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        let y = self.norm1.after(&self.conv1, x.clone(), None, mode, Some(self.negative_slope));
        let shortcut = match &self.projection {
            Some((conv, norm)) => norm.after(conv, x, None, mode, None),
            None => x,
        };
        self.norm2.after(&self.conv2, y, Some(shortcut), mode, Some(self.negative_slope))
    }
}

/// The way down. Glance may have one of its own, or use Focus's.
#[derive(Module, Debug)]
pub struct Encoder<B: Backend> {
    stem: ConvNormAct<B>,
    levels: Vec<Vec<ResidualBlock<B>>>,
}

impl<B: KernelBackend> Encoder<B> {
    /// `x_NCDHW` -> the features of each level, finest first.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> Vec<Tensor<B, 5>> {
        let mut y = self.stem.forward(x_NCDHW, mode);
        let mut features = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            y = level.iter().fold(y, |y, block| block.forward(y, mode));
            features.push(y.clone());
        }
        features
    }
}

/// One step up: as fine as the skip, joined with it, convolved.
#[derive(Module, Debug)]
pub struct DecoderLevel<B: Backend> {
    /// Transposed upsampling.
    up: Option<ConvTranspose3d<B>>,
    /// Trilinear upsampling: channels are reduced on the coarse side, where it is cheap.
    reduce: Option<Conv3d<B>>,
    convs: Vec<ConvNormAct<B>>,
    stride: [usize; 3],
}

impl<B: Backend> DecoderLevel<B> {
    fn new(config: &ResidualUNetConfig, [from, to]: [usize; 2], stride: [usize; 3], init: &Init<B>) -> Self {
        let convs = init.at("convs");
        let conv = |i| ConvNormAct::new(config, [if i == 0 { 2 * to } else { to }, to], 3, [1; 3], &convs.at(i));
        let transposed = config.upsampling == Upsampling::Transposed;
        Self {
            up: transposed.then(|| ConvTranspose3d::new(&init.at("up"), [from, to], stride, true)),
            reduce: (!transposed).then(|| Conv3d::new(&init.at("reduce"), [from, to], 1, [1; 3], true, config.conv_init())),
            convs: (0..config.decoder_convs).map(conv).collect(),
            stride,
        }
    }
}

impl<B: KernelBackend> DecoderLevel<B> {
    fn forward(&self, coarse: Tensor<B, 5>, skip: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        let up = match (&self.up, &self.reduce) {
            (Some(up), _) => up.forward(coarse),
            (None, Some(reduce)) => upsample_trilinear(reduce.forward(coarse), self.stride),
            (None, None) => upsample_trilinear(coarse, self.stride),
        };
        self.convs.iter().fold(kernels::side_by_side(up, skip), |y, conv| conv.forward(y, mode))
    }
}

/// A residual 3D U-Net. See [`ResidualUNetConfig`].
#[derive(Module, Debug)]
pub struct ResidualUNet<B: Backend> {
    pub encoder: Encoder<B>,
    decoder: Vec<DecoderLevel<B>>,
    /// Back to the input's grid where the first level is strided.
    expand: Option<ConvTranspose3d<B>>,
    head: Conv3d<B>,
    stem_stride: [usize; 3],
}

impl<B: KernelBackend> ResidualUNet<B> {
    /// `x_NCDHW` -> `logits_NKDHW`. D, H, W must be divisible by [`ResidualUNetConfig::divisor`].
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        self.decode(self.encoder.forward(x_NCDHW, mode), mode)
    }

    /// The way up from the encoder's features (finest first) to `logits_NKDHW`.
    pub fn decode(&self, mut features: Vec<Tensor<B, 5>>, mode: Mode) -> Tensor<B, 5> {
        let coarsest = features.pop().expect("an encoder has at least two levels");
        let y = self.decoder.iter().zip(features).rev().fold(coarsest, |y, (level, skip)| level.forward(y, skip, mode));
        match &self.expand {
            Some(expand) => self.head.forward(expand.forward(y)),
            None => upsample_trilinear(self.head.forward(y), self.stem_stride),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{self, B};
    use super::*;
    use crate::weights::{self, NamedTensor, Scope};
    use burn::backend::Flex;
    use burn::tensor::TensorData;

    fn tiny() -> ResidualUNetConfig {
        ResidualUNetConfig { widths: vec![2, 4], blocks: vec![1, 1], norm_groups: 2, ..ResidualUNetConfig::default() }
    }

    fn net(config: &ResidualUNetConfig) -> ResidualUNet<B> {
        config.init(1, 2, &Init::new(5, "focus", &Default::default())).unwrap()
    }

    fn filled<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<B, D> {
        Tensor::from_data(TensorData::new(golden::fill(name, shape.iter().product(), 0.0, 1.0), shape), &Default::default())
    }

    /// Every 97th logit, from a NumPy implementation in f64 that shares nothing with this one but the fill rule.
    fn check_logits(config: ResidualUNetConfig, samples: [f64; 8], abs_sum: f64) {
        let config = ResidualUNetConfig { widths: vec![4, 8], blocks: vec![1, 2], norm_groups: 2, ..config };
        let model = config.init::<B>(2, 3, &Init::new(0, "focus", &Default::default())).unwrap();
        let weights = golden::rule("unet", weights::shapes(&model));
        let (model, _) = weights::from_tensors(model, weights, &Scope::Whole).unwrap();
        let logits = model.forward(filled("unet.x", [2, 2, 4, 8, 4]), Mode::Eval);
        assert_eq!(logits.dims(), [2, 3, 4, 8, 4]);
        let logits: Vec<f64> = logits.into_data().iter::<f32>().map(f64::from).collect();
        let found: Vec<f64> = logits.iter().step_by(97).copied().collect();
        golden::assert_close("logits", &found, &samples, 1.0, 1e-4);
        golden::assert_close("abs_sum", &[logits.iter().map(|v| v.abs()).sum()], &[abs_sum], abs_sum, 1e-5);
    }

    #[test]
    fn logits_agree_with_a_second_implementation() {
        let plain = ResidualUNetConfig::default;
        let strided = || ResidualUNetConfig { strides: vec![[1, 2, 2], [2, 2, 1]], ..plain() };
        let smooth = ResidualUNetConfig { upsampling: Upsampling::Trilinear, decoder_convs: 2, ..strided() };
        check_logits(plain(), [0.226052, 0.550814, 0.222535, 0.483231, 0.0811, 1.217596, -1.259135, -0.049653], 387.4523);
        check_logits(strided(), [-0.028732, -0.067309, -0.052387, -0.365025, 0.066662, -0.415201, -0.08022, -0.106597], 222.4591);
        check_logits(smooth, [0.283986, -0.035955, -0.278521, 0.298984, 0.168891, 0.807011, 0.084372, -0.738144], 291.5353);
    }

    /// Each tensor's gradient along its own direction against central differences of a loss that weighs every logit.
    fn check_gradient(config: ResidualUNetConfig) {
        // A steep slope below 0: differences are not defined across a kink.
        let config = ResidualUNetConfig { negative_slope: 0.7, ..config };
        let model = net(&config);
        let x = filled("x", [2, 1, 4, 4, 4]);
        let loss = |model: &ResidualUNet<B>| (model.forward(x.clone(), Mode::Eval) * filled("w", [2, 2, 4, 4, 4])).sum();
        let grads = golden::gradients(&model, &loss(&model).backward());
        let all = weights::tensors(&model);
        assert_eq!(grads.len(), all.iter().filter(|t| !weights::is_buffer(&t.name)).count(), "every parameter has a gradient");
        for grad in grads {
            let norm = grad.values.iter().map(|g| g * g).sum::<f32>().sqrt();
            assert!(norm > 1e-4, "{} has no gradient", grad.name);
            const H: f32 = 2e-3;
            let moved = |by: f32| {
                let step = |t: &NamedTensor| match t.name == grad.name {
                    true => {
                        NamedTensor { values: t.values.iter().zip(&grad.values).map(|(v, g)| v + by * g / norm).collect(), ..t.clone() }
                    }
                    false => t.clone(),
                };
                let (moved, _) = weights::from_tensors(model.clone(), all.iter().map(step).collect(), &Scope::Whole).unwrap();
                loss(&moved).into_scalar()
            };
            let slope = (moved(H) - moved(-H)) / (2.0 * H);
            assert!((slope - norm).abs() < 0.02 * norm + 0.02, "{}: {slope} by differences, {norm} by autodiff", grad.name);
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        check_gradient(tiny());
        check_gradient(ResidualUNetConfig { upsampling: Upsampling::Trilinear, decoder_convs: 2, norm: NormKind::Instance, ..tiny() });
        check_gradient(ResidualUNetConfig { strides: vec![[2, 2, 1], [1, 2, 2]], norm: NormKind::Batch, ..tiny() });
    }

    #[test]
    fn logits_lie_on_the_grid_of_the_input() {
        let strided = || vec![[2, 2, 1], [2, 2, 2]];
        for (strides, upsampling) in
            [(vec![], Upsampling::Transposed), (strided(), Upsampling::Transposed), (strided(), Upsampling::Trilinear)]
        {
            let config = ResidualUNetConfig { strides, upsampling, ..tiny() };
            let [d, h, w] = config.divisor();
            let x = Tensor::<B, 5>::zeros([1, 1, 2 * d, h, 3 * w], &Default::default());
            assert_eq!(net(&config).forward(x, Mode::Eval).dims(), [1, 2, 2 * d, h, 3 * w]);
        }
    }

    #[test]
    fn an_untrained_network_expects_few_lesions() {
        for classes in [2, 4] {
            let model = tiny().init::<B>(1, classes, &Init::new(5, "focus", &Default::default())).unwrap();
            // Zero features leave the bias.
            let logits = model.head.forward(Tensor::zeros([1, 2, 1, 1, 1], &Default::default()));
            let p: Vec<f32> = burn::tensor::activation::softmax(logits, 1).into_data().to_vec().unwrap();
            assert!((p[0] - 0.98).abs() < 1e-6 && (p[1] - 0.02 / (classes - 1) as f32).abs() < 1e-6, "{p:?}");
        }
    }

    #[test]
    fn impossible_configs_are_refused_with_a_sentence() {
        let base = ResidualUNetConfig::default;
        for (config, part) in [
            (ResidualUNetConfig { widths: vec![8], blocks: vec![1], ..base() }, "at least 2"),
            (ResidualUNetConfig { blocks: vec![1], ..base() }, "differ in length"),
            (ResidualUNetConfig { strides: vec![[1; 3]], ..base() }, "differ in length"),
            (ResidualUNetConfig { strides: vec![[1; 3], [2; 3], [3; 3]], ..base() }, "1 or 2"),
            (ResidualUNetConfig { blocks: vec![1, 0, 1], ..base() }, "at least 1"),
            (ResidualUNetConfig { widths: vec![8, 24, 50], ..base() }, "not divisible"),
            (ResidualUNetConfig { stem_kernel: 2, ..base() }, "even"),
            (ResidualUNetConfig { negative_slope: f64::NAN, ..base() }, "negative_slope"),
            (ResidualUNetConfig { decoder_convs: 0, ..base() }, "decoder_convs"),
            (ResidualUNetConfig { foreground_prior: 0.0, ..base() }, "foreground_prior"),
            (ResidualUNetConfig { widths: vec![4; 65], blocks: vec![1; 65], ..base() }, "at most 8"),
            (ResidualUNetConfig { widths: vec![8, 24, 4_000_000_000], ..base() }, "at most 8192"),
            (ResidualUNetConfig { blocks: vec![1, 2, 65], ..base() }, "at most 64"),
            (ResidualUNetConfig { stem_kernel: 100_001, ..base() }, "at most 31"),
            (ResidualUNetConfig { decoder_convs: 65, ..base() }, "at most 64"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_demo_has_its_size_and_documented_keys() {
        let model = ResidualUNetConfig::default().init(2, 2, &Init::<Flex>::new(0, "focus", &Default::default())).unwrap();
        assert_eq!(weights::parameter_count(&model), 445_602);
        let names: Vec<String> = weights::shapes(&model).into_iter().map(|(name, _)| name).collect();
        for key in [
            "encoder.stem.conv.weight",
            "encoder.levels.2.0.projection.1.bias",
            "encoder.levels.0.0.norm2.weight",
            "decoder.1.up.bias",
            "decoder.0.convs.0.norm.weight",
            "head.bias",
        ] {
            assert!(names.iter().any(|n| n == key), "{key} in {names:?}");
        }
    }
}
