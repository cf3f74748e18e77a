//! What dominates the training time of 3D networks on a CPU, as Burn backend extensions.
//!
//! Burn's CPU backend runs 3D convolutions and group norms well below what the machine can do. The functions here are
//! generic over [`KernelBackend`]: on `Flex` with `f32` they run our own code (forward and backward), on every other
//! backend and element type they are composed from Burn's operations. Weights are cast to the type of the input they meet, see
//! [`crate::precision`]. Results on the CPU are bit-equal for any number of
//! rayon threads: the work is split by shape alone and every sum has a fixed order.
//!
//! | file | owns |
//! |---|---|
//! | `backend.rs`, `fallback.rs`, `fallback_rows.rs` | the trait; its methods from Burn's operations |
//! | `flex.rs`, `autodiff.rs` | the CPU's implementation; the backward nodes |
//! | `norm.rs`, `pool.rs` | group norm + residual + activation, max pooling |
//! | `linear.rs`, `layer_norm.rs`, `softmax.rs`, `attention.rs`, `math.rs` | transformers: rows of tokens; GELU |
//! | `moves.rs`, `autodiff_moves.rs` | rows taken in another order, axes swapped, maps side by side |
//! | `step.rs` | the optimiser's step, the gradients' norm |
//! | `conv.rs`, `conv_weight.rs`, `geometry.rs` | convolution on slices: work split; what each output position reads |
//! | `conv_stem.rs` | weight gradients where next to no channels come in |
//! | `pointwise.rs` | convolutions of a single tap |
//! | `winograd.rs`, `winograd_transforms.rs` | 3x3x3 convolutions of wide layers with fewer products |
//! | `tile.rs`, `simd.rs` | the inner loops, generic over the instruction set |
//! | `pack.rs`, `pack_weight.rs`, `scratch.rs` | channels-last copies, packed weights, reused buffers |
//! | `flops.rs` | how much arithmetic was asked for |
//!
//! Shapes: N batch, C / I / O channels, D, H, W = the volume's x, y, z (W is contiguous).

mod attention;
mod autodiff;
mod autodiff_moves;
mod backend;
mod conv;
mod conv_stem;
mod conv_weight;
mod fallback;
mod fallback_rows;
mod flex;
mod flops;
mod geometry;
mod layer_norm;
mod linear;
mod math;
mod moves;
mod norm;
mod pack;
mod pack_weight;
mod pointwise;
mod pool;
mod scratch;
mod simd;
mod softmax;
mod step;
#[cfg(test)]
mod tests;
mod tile;
mod winograd;
mod winograd_transforms;

pub use backend::{AdamStep, AttentionConfig, ConvAct, KernelBackend, NormAct, Window};
pub use flops::flops;
pub use moves::{MoveBackend, Places};
#[cfg(test)]
pub use simd::Isa;

/// Whether the kernels can run as the environment asks (`PANSCREEN_ISA`), with a sentence where not.
pub fn check_instruction_set() -> Result<(), String> {
    simd::Isa::wanted().map(|_| ())
}

pub(crate) use flops::count;

use burn::tensor::{Tensor, TensorPrimitive};
use std::sync::Arc;

use crate::precision::{cast, wide};

/// 3D convolution with groups 1 and dilation 1: `x_NIDHW * weight_OIDHW + bias_O` to `[N, O, D', H', W']`,
/// `D' = (D + 2 padding - kernel) / stride + 1`, rounded down.
pub fn conv3d<B: KernelBackend>(
    x_ncdhw: Tensor<B, 5>,
    weight_oidhw: Tensor<B, 5>,
    bias_o: Option<Tensor<B, 1>>,
    stride: [usize; 3],
    padding: [usize; 3],
) -> Tensor<B, 5> {
    let [batch, channels, size @ ..] = x_ncdhw.dims();
    let [outputs, weight_channels, kernel @ ..] = weight_oidhw.dims();
    assert_eq!(channels, weight_channels, "conv3d: the input has {channels} channels, the weight takes {weight_channels}");
    assert!(batch * channels * outputs > 0, "conv3d: {batch} samples of {channels} channels to {outputs}, expected at least one of each");
    assert!(bias_o.as_ref().is_none_or(|bias| bias.dims() == [outputs]), "conv3d: the bias must have {outputs} values");
    let window = Window { kernel, stride, padding };
    window.check(size);
    count(batch * outputs * volume(window.output(size)), channels * volume(kernel));
    let dtype = x_ncdhw.dtype();
    let (weight, bias) = (cast(weight_oidhw, dtype), bias_o.map(|bias| primitive(cast(bias, dtype))));
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_conv3d(primitive(x_ncdhw), primitive(weight), bias, window)))
}

/// A convolution as in [`conv3d`] with all that follows it once training is over, in one pass:
/// `act(conv(x) * scale_O + shift_O + residual)`, leaky ReLU (or none) as in [`norm_add_act`].
#[expect(clippy::too_many_arguments, reason = "a convolution, a norm, a shortcut and an activation")]
pub fn conv3d_act<B: KernelBackend>(
    x_ncdhw: Tensor<B, 5>,
    weight_oidhw: Tensor<B, 5>,
    scale_o: Tensor<B, 1>,
    shift_o: Tensor<B, 1>,
    stride: [usize; 3],
    padding: [usize; 3],
    residual: Option<Tensor<B, 5>>,
    negative_slope: Option<f32>,
) -> Tensor<B, 5> {
    let [batch, channels, size @ ..] = x_ncdhw.dims();
    let [outputs, weight_channels, kernel @ ..] = weight_oidhw.dims();
    assert_eq!(channels, weight_channels, "conv3d_act: the input has {channels} channels, the weight takes {weight_channels}");
    assert!(scale_o.dims() == [outputs] && shift_o.dims() == [outputs], "conv3d_act: scale and shift must have {outputs} values");
    let window = Window { kernel, stride, padding };
    window.check(size);
    let [d, h, w] = window.output(size);
    count(batch * outputs * d * h * w, channels * volume(kernel));
    let fits = residual.as_ref().is_none_or(|residual| residual.dims() == [batch, outputs, d, h, w]);
    assert!(fits, "conv3d_act: the residual's shape differs from the output's");
    let config = ConvAct { scale: primitive(scale_o), shift: primitive(shift_o), window, negative_slope };
    let weight = cast(weight_oidhw, x_ncdhw.dtype());
    let y = B::kernel_conv3d_act(primitive(x_ncdhw), primitive(weight), residual.map(primitive), config);
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// Mean and biased variance of each channel over samples and volume, `[C]` each. No gradient goes through them.
pub fn channel_moments<B: KernelBackend>(x_ncdhw: Tensor<B, 5>) -> [Tensor<B, 1>; 2] {
    B::kernel_channel_moments(primitive(x_ncdhw)).map(|values| Tensor::from_primitive(TensorPrimitive::Float(values)))
}

/// Zero, of which the gradient with respect to `x` is `gradient`: a backward pass can so start in the middle of a network.
pub fn carry<B: KernelBackend, const D: usize>(x: Tensor<B, D>, gradient: Tensor<B, D>) -> Tensor<B, 1> {
    assert_eq!(x.dims(), gradient.dims(), "carry: the gradient's shape differs");
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_carry(primitive(x), primitive(gradient))))
}

/// Transposed convolution whose kernel equals its stride (1 or more per axis), so that outputs don't overlap:
/// `x_NIDHW`, `weight_IODHW`, `bias_O` to `[N, O, D * stride, ...]`.
pub fn conv_transpose3d<B: KernelBackend>(
    x_ncdhw: Tensor<B, 5>,
    weight_iodhw: Tensor<B, 5>,
    bias_o: Option<Tensor<B, 1>>,
    stride: [usize; 3],
) -> Tensor<B, 5> {
    let [channels, outputs, kernel @ ..] = weight_iodhw.dims();
    assert_eq!(x_ncdhw.dims()[1], channels, "conv_transpose3d: the weight takes {channels} channels");
    assert_eq!(kernel, stride, "conv_transpose3d: the kernel must equal the stride");
    assert!(bias_o.as_ref().is_none_or(|bias| bias.dims() == [outputs]), "conv_transpose3d: the bias must have {outputs} values");
    count(x_ncdhw.dims().iter().product(), outputs * volume(kernel));
    let dtype = x_ncdhw.dtype();
    let (weight, bias) = (cast(weight_iodhw, dtype), bias_o.map(|bias| primitive(cast(bias, dtype))));
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_conv_transpose3d(primitive(x_ncdhw), primitive(weight), bias, stride)))
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
    let fits = [&gamma_c, &beta_c].into_iter().flatten().all(|values| values.dims() == [channels]);
    assert!(fits, "norm_act: gamma and beta must have {channels} values");
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

/// Linear layer `x_RI weight_OI' + bias_O`, `[R, O]`.
pub fn linear<B: KernelBackend>(x_ri: Tensor<B, 2>, weight_oi: Tensor<B, 2>, bias_o: Option<Tensor<B, 1>>) -> Tensor<B, 2> {
    let ([rows, inputs], [outputs, weight_inputs]) = (x_ri.dims(), weight_oi.dims());
    assert_eq!(inputs, weight_inputs, "linear: rows have {inputs} values, the weight takes {weight_inputs}");
    assert!(bias_o.as_ref().is_none_or(|bias| bias.dims() == [outputs]), "linear: the bias must have {outputs} values");
    count(rows * outputs, inputs);
    let dtype = x_ri.dtype();
    let (weight, bias) = (cast(weight_oi, dtype), bias_o.map(|bias| primitive(cast(bias, dtype))));
    let y = B::kernel_linear(primitive(x_ri), primitive(weight), bias);
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// `x` times the standard normal distribution function of `x` (PyTorch's default, not the approximation by tanh).
pub fn gelu<B: KernelBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_gelu(primitive(x))))
}

/// Softmax over the last axis.
pub fn softmax<B: KernelBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_softmax(primitive(x))))
}

/// Layer norm over the last axis (biased variance), `x_RC`.
pub fn layer_norm<B: KernelBackend>(x_rc: Tensor<B, 2>, gamma_c: Tensor<B, 1>, beta_c: Tensor<B, 1>, epsilon: f64) -> Tensor<B, 2> {
    let ([_, width], [gamma], [beta]) = (x_rc.dims(), gamma_c.dims(), beta_c.dims());
    assert!(width == gamma && width == beta, "layer_norm: rows have {width} values, gamma {gamma}, beta {beta}");
    let y = B::kernel_layer_norm(primitive(x_rc), primitive(gamma_c), primitive(beta_c), epsilon);
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// Multi-head self-attention within windows: `softmax(q k' / sqrt(E) + bias) v` of each head, `[W, L, H * E]`.
///
/// `qkv` is `[W, L, 3 * H * E]`: queries, keys and values, each with the heads side by side. `bias_hll` is added to every window's
/// scores. `regions_sl` (S divides W: the windows of a sample, samples one after the other) lowers scores between tokens of
/// different numbers by 100, as shifted windows need.
pub fn attention<B: KernelBackend>(
    qkv: Tensor<B, 3>,
    bias_hll: Option<Tensor<B, 3>>,
    regions_sl: Option<Tensor<B, 2>>,
    heads: usize,
) -> Tensor<B, 3> {
    let [windows, length, width] = qkv.dims();
    assert!(heads > 0 && width.is_multiple_of(3 * heads), "attention: {width} values are not 3 parts of {heads} heads");
    let bias_fits = bias_hll.as_ref().is_none_or(|bias| bias.dims() == [heads, length, length]);
    assert!(bias_fits, "attention: the bias is not [{heads}, {length}, {length}]");
    let regions_fit = |regions: &Tensor<B, 2>| regions.dims()[1] == length && windows.is_multiple_of(regions.dims()[0]);
    assert!(regions_sl.as_ref().is_none_or(regions_fit), "attention: the regions are not those of {windows} windows of {length}");
    // Scores, then their mixture of the values: each has L sums for each token and head, of E terms and of L.
    count(2 * windows * length * length, width / 3);
    let (bias, regions) = (bias_hll.map(primitive), regions_sl.map(primitive));
    let y = B::kernel_attention(primitive(qkv), bias, regions, AttentionConfig { heads });
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// Weight and running means (of the gradient, of its square) after a step of AdamW, from a flat weight, its gradient and the means before.
pub fn adamw<B: KernelBackend>(weight: Tensor<B, 1>, grad: Tensor<B, 1>, means: [Tensor<B, 1>; 2], step: AdamStep) -> [Tensor<B, 1>; 3] {
    let ([m, v], len) = (means, weight.dims());
    assert!([grad.dims(), m.dims(), v.dims()].iter().all(|other| *other == len), "adamw: tensors of different lengths");
    B::kernel_adamw([weight, grad, m, v].map(primitive), &step).map(|values| Tensor::from_primitive(TensorPrimitive::Float(values)))
}

/// Sum of squares, in f64 on the CPU.
pub fn squares<B: KernelBackend>(x: Tensor<B, 1>) -> f64 {
    B::kernel_squares(primitive(x))
}

/// Rows of `x_RC` at other places, `[P, C]`.
pub fn take_rows<B: KernelBackend>(x_rc: Tensor<B, 2>, places: &Arc<Places>) -> Tensor<B, 2> {
    assert_eq!(x_rc.dims()[0], places.rows(), "take_rows: the places are those of {} rows", places.rows());
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_take_rows(primitive(x_rc), places)))
}

/// `[N, R, C]` to `[N, C, R]`, the values moved.
pub fn swap_last<B: KernelBackend>(x_nrc: Tensor<B, 3>) -> Tensor<B, 3> {
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_swap_last(primitive(x_nrc))))
}

/// The channels of `a`, then those of `b`.
pub fn side_by_side<B: KernelBackend>(a_ncdhw: Tensor<B, 5>, b_ncdhw: Tensor<B, 5>) -> Tensor<B, 5> {
    let ([n, _, size @ ..], [m, _, other @ ..]) = (a_ncdhw.dims(), b_ncdhw.dims());
    assert!(n == m && size == other, "side_by_side: {n} volumes of {size:?} beside {m} of {other:?}");
    Tensor::from_primitive(TensorPrimitive::Float(B::kernel_side_by_side(primitive(a_ncdhw), primitive(b_ncdhw))))
}

/// Mean over the volume, `[N, C]`, wide.
pub fn global_avg_pool3d<B: KernelBackend>(x_ncdhw: Tensor<B, 5>) -> Tensor<B, 2> {
    wide(x_ncdhw).flatten::<3>(2, 4).mean_dim(2).squeeze_dim::<2>(2)
}

/// Maximum over the volume, `[N, C]`, wide.
pub fn global_max_pool3d<B: KernelBackend>(x_ncdhw: Tensor<B, 5>) -> Tensor<B, 2> {
    wide(x_ncdhw.flatten::<3>(2, 4).max_dim(2).squeeze_dim::<2>(2))
}

fn volume(size: [usize; 3]) -> usize {
    size.iter().product()
}

fn primitive<B: KernelBackend, const D: usize>(tensor: Tensor<B, D>) -> burn::tensor::ops::FloatTensor<B> {
    tensor.into_primitive().tensor()
}
