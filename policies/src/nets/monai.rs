//! Blocks of MONAI's networks, under MONAI's names, for those that are made of them.
//!
//! Shapes: `x_NCDHW`.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::Init;
use super::layers::{Conv3d, ConvInit, ConvTranspose3d};
use crate::kernels::{self, KernelBackend};

/// Slope of leaky ReLU below 0 in these networks.
const SLOPE: f32 = 0.01;

pub const CONV_INIT: ConvInit = ConvInit::FanIn { negative_slope: SLOPE as f64 };

/// A convolution under one more name: `conv1.conv.weight`.
#[derive(Module, Debug)]
pub struct Convolution<B: Backend> {
    pub conv: Conv3d<B>,
}

impl<B: Backend> Convolution<B> {
    pub fn new(init: &Init<B>, channels: [usize; 2], kernel: usize, stride: [usize; 3], bias: bool) -> Self {
        Self { conv: Conv3d::new(&init.at("conv"), channels, kernel, stride, bias, CONV_INIT) }
    }
}

impl<B: KernelBackend> Convolution<B> {
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
        self.conv.forward(x_NCDHW)
    }
}

/// A transposed convolution without bias, under one more name.
#[derive(Module, Debug)]
pub struct Deconvolution<B: Backend> {
    pub conv: ConvTranspose3d<B>,
}

/// Instance norm, epsilon 1e-5, with or without scale and offset.
#[derive(Module, Debug)]
pub struct InstanceNorm<B: Backend> {
    weight: Option<Param<Tensor<B, 1>>>,
    bias: Option<Param<Tensor<B, 1>>>,
}

impl<B: Backend> InstanceNorm<B> {
    pub fn new(init: &Init<B>, channels: usize, affine: bool) -> Self {
        let param = |name: &str, value| affine.then(|| init.constant(name, [channels], value));
        Self { weight: param("weight", 1.0), bias: param("bias", 0.0) }
    }
}

impl<B: KernelBackend> InstanceNorm<B> {
    /// Normalise, add the shortcut, then the activation; each of the two where asked for.
    pub fn forward(&self, x: Tensor<B, 5>, shortcut: Option<Tensor<B, 5>>, act: bool) -> Tensor<B, 5> {
        let (channels, value) = (x.dims()[1], |p: &Option<Param<Tensor<B, 1>>>| p.as_ref().map(Param::val));
        kernels::norm_add_act(x, value(&self.weight), value(&self.bias), channels, 1e-5, shortcut, act.then_some(SLOPE))
    }
}

/// Two 3x3x3 convolutions with norms: `UnetResBlock`, or without a shortcut `UnetBasicBlock`.
#[derive(Module, Debug)]
pub struct UnetBlock<B: Backend> {
    conv1: Convolution<B>,
    conv2: Convolution<B>,
    norm1: InstanceNorm<B>,
    norm2: InstanceNorm<B>,
    /// The shortcut where the shape changes: 1x1x1.
    conv3: Option<Convolution<B>>,
    norm3: Option<InstanceNorm<B>>,
    residual: bool,
}

impl<B: Backend> UnetBlock<B> {
    /// With a shortcut around both convolutions.
    pub fn residual(init: &Init<B>, channels: [usize; 2], stride: [usize; 3], affine: bool) -> Self {
        Self::new(init, channels, stride, affine, true)
    }

    /// Without one.
    pub fn basic(init: &Init<B>, channels: [usize; 2], stride: [usize; 3], affine: bool) -> Self {
        Self::new(init, channels, stride, affine, false)
    }

    fn new(init: &Init<B>, [from, to]: [usize; 2], stride: [usize; 3], affine: bool, residual: bool) -> Self {
        let projects = residual && (from != to || stride != [1; 3]);
        let norm = |name: &str| InstanceNorm::new(&init.at(name), to, affine);
        Self {
            conv1: Convolution::new(&init.at("conv1"), [from, to], 3, stride, false),
            conv2: Convolution::new(&init.at("conv2"), [to, to], 3, [1; 3], false),
            norm1: norm("norm1"),
            norm2: norm("norm2"),
            conv3: projects.then(|| Convolution::new(&init.at("conv3"), [from, to], 1, stride, false)),
            norm3: projects.then(|| norm("norm3")),
            residual,
        }
    }
}

impl<B: KernelBackend> UnetBlock<B> {
    pub fn forward(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        let y = self.conv2.forward(self.norm1.forward(self.conv1.forward(x.clone()), None, true));
        let shortcut = match (&self.conv3, &self.norm3) {
            (Some(conv), Some(norm)) => Some(norm.forward(conv.forward(x), None, false)),
            _ => self.residual.then_some(x),
        };
        self.norm2.forward(y, shortcut, true)
    }
}

/// A block under one more name: `UnetrBasicBlock`.
#[derive(Module, Debug)]
pub struct UnetrBlock<B: Backend> {
    layer: UnetBlock<B>,
}

impl<B: Backend> UnetrBlock<B> {
    pub fn new(init: &Init<B>, channels: [usize; 2]) -> Self {
        Self { layer: UnetBlock::residual(&init.at("layer"), channels, [1; 3], false) }
    }
}

impl<B: KernelBackend> UnetrBlock<B> {
    pub fn forward(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        self.layer.forward(x)
    }
}

/// One step up: transposed convolution, the skip beside it, a block: `UnetUpBlock`, `UnetrUpBlock`.
#[derive(Module, Debug)]
pub struct UpBlock<B: Backend> {
    transp_conv: Deconvolution<B>,
    conv_block: UnetBlock<B>,
}

impl<B: Backend> UpBlock<B> {
    /// `residual` is `UnetrUpBlock` (its norms have no parameters), otherwise `UnetUpBlock`.
    pub fn new(init: &Init<B>, [from, to]: [usize; 2], stride: [usize; 3], residual: bool) -> Self {
        let (up, block) = (init.at("transp_conv").at("conv"), init.at("conv_block"));
        Self {
            transp_conv: Deconvolution { conv: ConvTranspose3d::new(&up, [from, to], stride, false) },
            conv_block: UnetBlock::new(&block, [2 * to, to], [1; 3], !residual, residual),
        }
    }
}

impl<B: KernelBackend> UpBlock<B> {
    pub fn forward(&self, coarse: Tensor<B, 5>, skip: Tensor<B, 5>) -> Tensor<B, 5> {
        self.conv_block.forward(kernels::side_by_side(self.transp_conv.conv.forward(coarse), skip))
    }
}

/// The last layer under two more names: `out.conv.conv.weight`.
#[derive(Module, Debug)]
pub struct OutBlock<B: Backend> {
    conv: Convolution<B>,
}

impl<B: Backend> OutBlock<B> {
    pub fn new(init: &Init<B>, channels: [usize; 2]) -> Self {
        Self { conv: Convolution::new(&init.at("conv"), channels, 1, [1; 3], true) }
    }
}

impl<B: KernelBackend> OutBlock<B> {
    pub fn forward(&self, x: Tensor<B, 5>) -> Tensor<B, 5> {
        self.conv.forward(x)
    }
}
