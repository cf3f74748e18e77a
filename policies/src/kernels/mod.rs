//! What dominates the training time of 3D networks on a CPU, as Burn backend extensions.
//!
//! Burn's CPU backend runs 3D convolutions and group norms well below what the machine can do. The functions here are
//! generic over [`KernelBackend`]: on `Flex` with `f32` they run our own code (forward and backward), on every other
//! backend and element type they are composed from Burn's operations. Results on the CPU are bit-equal for any number of
//! rayon threads: the work is split by shape alone and every sum has a fixed order.
//!
//! | file | owns |
//! |---|---|
//! | `backend.rs`, `fallback.rs` | the trait; its methods from Burn's operations |
//! | `flex.rs`, `autodiff.rs` | the CPU's implementation; the backward nodes |
//! | `norm.rs`, `pool.rs` | group norm + residual + activation, max pooling |
//! | `conv.rs`, `conv_weight.rs`, `geometry.rs` | convolution on slices: work split; what each output position reads |
//! | `tile.rs`, `simd.rs` | the inner loops, generic over the instruction set |
//! | `pack.rs`, `pack_weight.rs`, `scratch.rs` | channels-last copies, packed weights, reused buffers |
//!
//! Shapes: N batch, C / I / O channels, D, H, W = the volume's x, y, z (W is contiguous).

mod autodiff;
mod backend;
mod conv;
mod conv_weight;
mod fallback;
mod flex;
mod geometry;
mod norm;
mod pack;
mod pack_weight;
mod pool;
mod scratch;
mod simd;
#[cfg(test)]
mod tests;
mod tile;

pub use backend::{KernelBackend, NormAct, Window};

use burn::tensor::{Tensor, TensorPrimitive};

/// 3D convolution with groups 1 and dilation 1: `x_NIDHW * weight_OIDHW + bias_O` to `[N, O, D', H', W']`,
/// `D' = (D + 2 padding - kernel) / stride + 1`, rounded down.
pub fn conv3d<B: KernelBackend>(
    x_ncdhw: Tensor<B, 5>,
    weight_oidhw: Tensor<B, 5>,
    bias_o: Option<Tensor<B, 1>>,
    stride: [usize; 3],
    padding: [usize; 3],
) -> Tensor<B, 5> {
    let [_, channels, size @ ..] = x_ncdhw.dims();
    let [_, weight_channels, kernel @ ..] = weight_oidhw.dims();
    assert_eq!(channels, weight_channels, "conv3d: the input has {channels} channels, the weight takes {weight_channels}");
    let window = Window { kernel, stride, padding };
    window.check(size);
    let bias = bias_o.map(primitive);
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_conv3d(primitive(x_ncdhw), primitive(weight_oidhw), bias, window)))
}

/// Transposed convolution whose kernel equals its stride (1 or more per axis), so that outputs don't overlap:
/// `x_NIDHW`, `weight_IODHW`, `bias_O` to `[N, O, D * stride, ...]`.
pub fn conv_transpose3d<B: KernelBackend>(
    x_ncdhw: Tensor<B, 5>,
    weight_iodhw: Tensor<B, 5>,
    bias_o: Option<Tensor<B, 1>>,
    stride: [usize; 3],
) -> Tensor<B, 5> {
    let [channels, _, kernel @ ..] = weight_iodhw.dims();
    assert_eq!(x_ncdhw.dims()[1], channels, "conv_transpose3d: the weight takes {channels} channels");
    assert_eq!(kernel, stride, "conv_transpose3d: the kernel must equal the stride");
    let bias = bias_o.map(primitive);
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_conv_transpose3d(primitive(x_ncdhw), primitive(weight_iodhw), bias, stride)))
}

/// Group norm followed by an activation, see [`norm_add_act`].
pub fn norm_act<B: KernelBackend>(
    x_ncdhw: Tensor<B, 5>,
    gamma_c: Option<Tensor<B, 1>>,
    beta_c: Option<Tensor<B, 1>>,
    groups: usize,
    epsilon: f64,
    negative_slope: Option<f32>,
) -> Tensor<B, 5> {
    norm_add_act(x_ncdhw, gamma_c, beta_c, groups, epsilon, None, negative_slope)
}

/// The end of a residual block in one pass: `act(norm(x) * gamma + beta + residual)`.
///
/// Mean and (biased) variance are taken per sample and group of `C / groups` channels: `groups == C` is instance norm,
/// `groups == 1` layer norm over the volume. The activation is the identity for `negative_slope` `None`, ReLU for
/// `Some(0.0)`, leaky ReLU for positive slopes (a negative slope can't be undone in the backward pass and is refused).
pub fn norm_add_act<B: KernelBackend>(
    x_ncdhw: Tensor<B, 5>,
    gamma_c: Option<Tensor<B, 1>>,
    beta_c: Option<Tensor<B, 1>>,
    groups: usize,
    epsilon: f64,
    residual_ncdhw: Option<Tensor<B, 5>>,
    negative_slope: Option<f32>,
) -> Tensor<B, 5> {
    let channels = x_ncdhw.dims()[1];
    assert!(groups > 0 && channels.is_multiple_of(groups), "norm_act: {groups} groups don't divide {channels} channels");
    assert!(negative_slope.is_none_or(|s| s >= 0.0), "norm_act: the negative slope must not be below 0");
    if let Some(residual) = &residual_ncdhw {
        assert_eq!(x_ncdhw.dims(), residual.dims(), "norm_add_act: the residual's shape differs from the input's");
    }
    let config = NormAct { groups, epsilon, negative_slope };
    let y = B::kernel_norm_act(primitive(x_ncdhw), gamma_c.map(primitive), beta_c.map(primitive), residual_ncdhw.map(primitive), config);
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// Max pooling; padding never wins. Among equal values the first in `[D][H][W]` order gets the gradient.
pub fn max_pool3d<B: KernelBackend>(x_ncdhw: Tensor<B, 5>, kernel: [usize; 3], stride: [usize; 3], padding: [usize; 3]) -> Tensor<B, 5> {
    let [_, _, size @ ..] = x_ncdhw.dims();
    let window = Window { kernel, stride, padding };
    window.check(size);
    assert!((0..3).all(|a| 2 * padding[a] <= kernel[a]), "max_pool3d: padding {padding:?} is more than half of the kernel {kernel:?}");
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_max_pool3d(primitive(x_ncdhw), window)))
}

/// Mean over the volume, `[N, C]`.
pub fn global_avg_pool3d<B: KernelBackend>(x_ncdhw: Tensor<B, 5>) -> Tensor<B, 2> {
    x_ncdhw.flatten::<3>(2, 4).mean_dim(2).squeeze_dim::<2>(2)
}

/// Maximum over the volume, `[N, C]`.
pub fn global_max_pool3d<B: KernelBackend>(x_ncdhw: Tensor<B, 5>) -> Tensor<B, 2> {
    x_ncdhw.flatten::<3>(2, 4).max_dim(2).squeeze_dim::<2>(2)
}

fn primitive<B: KernelBackend, const D: usize>(tensor: Tensor<B, D>) -> burn::tensor::ops::FloatTensor<B> {
    tensor.into_primitive().tensor()
}
