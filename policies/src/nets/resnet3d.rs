//! 3D ResNet with basic blocks: MONAI's `ResNet`, and the published Glance (ResNet-18, 32,987,202 parameters).
//!
//! State-dict keys are MONAI's: `conv1.weight`, `bn1.weight`, `layer2.0.conv1.weight`, `layer2.0.downsample.0.weight`, `fc.bias`, ...
//!
//! Shapes: `x_NCDHW`, `logits_NK`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layers::{Conv3d, ConvInit, Init, Linear, Mode, Norm, NormConfig, NormKind, Pooling, max_pool3d, subsample};
use super::{ConfigError, require};
use crate::kernels::KernelBackend;

/// The path around a block that changes the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Shortcut {
    /// Every second voxel, new channels zero: no parameters (the published Glance).
    A,
    /// 1x1x1 convolution and norm.
    B,
}

/// A 3D ResNet. The default is the demo's (56 thousand parameters).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResNetConfig {
    /// Basic blocks of each stage, 1 to 4 stages. Default [1, 1, 1]; ResNet-10 is [1, 1, 1, 1], -18 [2, 2, 2, 2], -34 [3, 4, 6, 3].
    pub blocks: Vec<usize>,
    /// Channels of each stage. Default [8, 16, 32]; published [64, 128, 256, 512]. Cost grows with the square.
    pub widths: Vec<usize>,
    /// Side of the first convolution's kernel in voxels, odd. Default 3; published 7.
    pub stem_kernel: usize,
    /// Stride of the first convolution, 1 or 2. Default 2; published 1, which costs about eight times as much.
    pub stem_stride: usize,
    /// A 3x3x3 max pooling with stride 2 after the first convolution. Default false; published true.
    pub stem_max_pool: bool,
    /// Global pooling before the last layer. Default "max", as published: a lesion is small; MONAI has "avg".
    pub pooling: Pooling,
    /// Shortcut of blocks that change the shape: "A" (published) or "B" (default).
    pub shortcut: Shortcut,
    /// Shortcut A carries no gradient, as in MONAI and the published Glance. Default false. No effect on B.
    pub shortcut_detached: bool,
    /// Normalisation: "group" (default), "batch" (published) or "instance".
    pub norm: NormKind,
    /// Groups of "group" norm; each width must be divisible by it. Default 4.
    pub norm_groups: usize,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            blocks: vec![1, 1, 1],
            widths: vec![8, 16, 32],
            stem_kernel: 3,
            stem_stride: 2,
            stem_max_pool: false,
            pooling: Pooling::Max,
            shortcut: Shortcut::B,
            shortcut_detached: false,
            norm: NormKind::Group,
            norm_groups: 4,
        }
    }
}

impl ResNetConfig {
    /// The published Glance: ResNet-18 with a stride-1 stem, max pooling and detached shortcuts A.
    pub fn published() -> Self {
        Self {
            blocks: vec![2, 2, 2, 2],
            widths: vec![64, 128, 256, 512],
            stem_kernel: 7,
            stem_stride: 1,
            stem_max_pool: true,
            pooling: Pooling::Max,
            shortcut: Shortcut::A,
            shortcut_detached: true,
            norm: NormKind::Batch,
            norm_groups: 4,
        }
    }

    /// Refuse what no network can be made of.
    pub fn check(&self) -> Result<(), ConfigError> {
        let stages = self.blocks.len();
        require((1..=4).contains(&stages), || format!("blocks = {:?} has {stages} stages, a ResNet has 1 to 4", self.blocks))?;
        require(self.widths.len() == stages, || {
            format!("widths = {:?} and blocks = {:?} differ in length; give one of each for every stage", self.widths, self.blocks)
        })?;
        require(self.blocks.iter().chain(&self.widths).all(|&n| n > 0), || {
            format!("blocks = {:?} and widths = {:?} must be at least 1 each", self.blocks, self.widths)
        })?;
        require(self.shortcut == Shortcut::B || self.widths.is_sorted(), || {
            format!("widths = {:?} shrink, shortcut \"A\" can only add channels; choose shortcut \"B\" or growing widths", self.widths)
        })?;
        require(self.stem_kernel % 2 == 1, || format!("stem_kernel = {} is even; choose an odd side", self.stem_kernel))?;
        require((1..=2).contains(&self.stem_stride), || format!("stem_stride = {}; choose 1 or 2", self.stem_stride))?;
        self.norm().check(&self.widths)
    }

    fn norm(&self) -> NormConfig {
        NormConfig { kind: self.norm, groups: self.norm_groups }
    }

    /// The network with its first weights: convolutions Kaiming normal over outgoing connections, norms 1 and 0, as published.
    pub fn init<B: Backend>(&self, in_channels: usize, classes: usize, init: &Init<B>) -> Result<ResNet<B>, ConfigError> {
        self.check()?;
        let mut channels = self.widths[0];
        let mut stages = (0..4).map(|stage| {
            let place = init.at(format_args!("layer{}", stage + 1));
            let blocks = self.blocks.get(stage).copied().unwrap_or(0);
            (0..blocks)
                .map(|i| {
                    let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                    let from = std::mem::replace(&mut channels, self.widths[stage]);
                    BasicBlock::new(self, [from, self.widths[stage]], stride, &place.at(i))
                })
                .collect::<Vec<_>>()
        });
        let mut next = || stages.next().unwrap_or_default();
        let [layer1, layer2, layer3, layer4] = [next(), next(), next(), next()];
        let stem = [in_channels, self.widths[0]];
        Ok(ResNet {
            conv1: Conv3d::new(&init.at("conv1"), stem, self.stem_kernel, [self.stem_stride; 3], false, ConvInit::FanOut),
            bn1: self.norm().init(&init.at("bn1"), self.widths[0]),
            layer1,
            layer2,
            layer3,
            layer4,
            fc: Linear::new(&init.at("fc"), self.widths[self.widths.len() - 1], classes),
            max_pool: self.stem_max_pool,
            pooling: self.pooling,
        })
    }
}

/// Two 3x3x3 convolutions with norms and a shortcut around them.
#[derive(Module, Debug)]
pub struct BasicBlock<B: Backend> {
    conv1: Conv3d<B>,
    bn1: Norm<B>,
    conv2: Conv3d<B>,
    bn2: Norm<B>,
    /// Shortcut B where the shape changes.
    downsample: Option<(Conv3d<B>, Norm<B>)>,
    stride: usize,
    detached: bool,
}

impl<B: Backend> BasicBlock<B> {
    fn new(config: &ResNetConfig, [from, to]: [usize; 2], stride: usize, init: &Init<B>) -> Self {
        let norm = config.norm();
        let projects = config.shortcut == Shortcut::B && (stride != 1 || from != to);
        Self {
            conv1: Conv3d::new(&init.at("conv1"), [from, to], 3, [stride; 3], false, ConvInit::FanOut),
            bn1: norm.init(&init.at("bn1"), to),
            conv2: Conv3d::new(&init.at("conv2"), [to, to], 3, [1; 3], false, ConvInit::FanOut),
            bn2: norm.init(&init.at("bn2"), to),
            downsample: projects.then(|| {
                let place = init.at("downsample");
                // The bias before the norm is MONAI's, kept for its keys and count.
                let conv = Conv3d::new(&place.at(0), [from, to], 1, [stride; 3], true, ConvInit::FanOut);
                (conv, norm.init(&place.at(1), to))
            }),
            stride,
            detached: config.shortcut_detached,
        }
    }
}

impl<B: KernelBackend> BasicBlock<B> {
    fn forward(&self, x: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        let y = self.bn1.forward_act(self.conv1.forward(x.clone()), mode, 0.0);
        let y = self.conv2.forward(y);
        let shortcut = self.shortcut(x, y.dims(), mode);
        self.bn2.forward_add_act(y, shortcut, mode, 0.0)
    }

    fn shortcut(&self, x: Tensor<B, 5>, [n, to, d, h, w]: [usize; 5], mode: Mode) -> Tensor<B, 5> {
        let from = x.dims()[1];
        if let Some((conv, norm)) = &self.downsample {
            return norm.forward(conv.forward(x), mode);
        }
        if self.stride == 1 && from == to {
            return x;
        }
        let x = if self.detached { x.detach() } else { x };
        let x = if self.stride == 1 { x } else { subsample(x, self.stride) };
        if from == to {
            return x;
        }
        let zeros = Tensor::zeros([n, to - from, d, h, w], &x.device());
        Tensor::cat(vec![x, zeros], 1)
    }
}

/// A 3D ResNet classifier. See [`ResNetConfig`].
#[derive(Module, Debug)]
pub struct ResNet<B: Backend> {
    conv1: Conv3d<B>,
    bn1: Norm<B>,
    layer1: Vec<BasicBlock<B>>,
    layer2: Vec<BasicBlock<B>>,
    layer3: Vec<BasicBlock<B>>,
    layer4: Vec<BasicBlock<B>>,
    fc: Linear<B>,
    max_pool: bool,
    #[module(skip)]
    pooling: Pooling,
}

impl<B: KernelBackend> ResNet<B> {
    /// `x_NCDHW` -> `logits_NK`.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 2> {
        let y = self.stem(x_NCDHW, mode);
        let y = self.stages().into_iter().flatten().fold(y, |y, block| block.forward(y, mode));
        self.fc.forward(self.pooling.apply(y))
    }

    fn stem(&self, x: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        let y = self.bn1.forward_act(self.conv1.forward(x), mode, 0.0);
        if self.max_pool { max_pool3d(y) } else { y }
    }

    fn stages(&self) -> [&Vec<BasicBlock<B>>; 4] {
        [&self.layer1, &self.layer2, &self.layer3, &self.layer4]
    }
}
