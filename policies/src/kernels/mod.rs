//! CPU kernels for what Burn's CPU backend does slowly, as Burn backend extensions.
//!
//! Shapes: `x_NCDHW`; D, H, W are the volume's x, y, z.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, module, ops::ConvOptions};

/// A backend that our networks run on: Burn's operations plus our own kernels (with Burn's as the fallback).
pub trait KernelBackend: Backend {}
impl KernelBackend for burn::backend::Flex {}
impl<B: KernelBackend, C: burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy> KernelBackend
    for burn::backend::Autodiff<B, C>
{
}

/// 3D convolution, groups 1, dilation 1. `x_NCDHW`, `weight_OIDHW`, `bias_O`.
pub fn conv3d<B: KernelBackend>(
    x: Tensor<B, 5>,
    weight: Tensor<B, 5>,
    bias: Option<Tensor<B, 1>>,
    stride: [usize; 3],
    padding: [usize; 3],
) -> Tensor<B, 5> {
    module::conv3d(x, weight, bias, ConvOptions::new(stride, padding, [1; 3], 1))
}

/// Transposed convolution with kernel 2 and stride 2 in each axis where `stride` is 2 (kernel = stride). `weight_IODHW`.
pub fn conv_transpose3d<B: KernelBackend>(
    x: Tensor<B, 5>,
    weight: Tensor<B, 5>,
    bias: Option<Tensor<B, 1>>,
    stride: [usize; 3],
) -> Tensor<B, 5> {
    module::conv_transpose3d(x, weight, bias, burn::tensor::ops::ConvTransposeOptions::new(stride, [0; 3], [0; 3], [1; 3], 1))
}
