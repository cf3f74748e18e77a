//! The backend extension: what a backend must offer, composed from Burn's operations unless it does better.
//!
//! `flex.rs` and `autodiff.rs` implement it.

use super::moves::MoveBackend;
use super::{fallback, fallback_rows, step};
use burn::tensor::backend::Backend;
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions, FloatTensor};
use burn::tensor::{Shape, TensorMetadata};

/// A sliding window over a volume, per axis D, H, W: kernel size, stride, and padding on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub padding: [usize; 3],
}

impl Window {
    /// Output size for an input of `size`.
    pub fn output(&self, size: [usize; 3]) -> [usize; 3] {
        std::array::from_fn(|a| (size[a] + 2 * self.padding[a] - self.kernel[a]) / self.stride[a] + 1)
    }

    /// Panics with a sentence where the window doesn't fit an input of `size`.
    pub(super) fn check(&self, size: [usize; 3]) {
        let fits = |a: usize| self.stride[a] > 0 && self.kernel[a] > 0 && size[a] + 2 * self.padding[a] >= self.kernel[a];
        assert!((0..3).all(fits), "{self:?} doesn't fit a volume of {size:?} voxels");
    }

    pub(super) fn conv_options(&self) -> ConvOptions<3> {
        ConvOptions::new(self.stride, self.padding, [1; 3], 1)
    }
}

/// What [`conv3d_act`](super::conv3d_act) does besides its tensors of volumes.
pub struct ConvAct<B: Backend> {
    /// `[O]`
    pub scale: FloatTensor<B>,
    /// `[O]`
    pub shift: FloatTensor<B>,
    pub window: Window,
    /// As in [`NormAct`].
    pub negative_slope: Option<f32>,
}

/// What [`norm_add_act`](super::norm_add_act) computes besides its tensors.
#[derive(Clone, Copy, Debug)]
pub struct NormAct {
    /// Groups of channels that share mean and variance; divides the number of channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// `None`: no activation; otherwise the slope below zero, at least 0.
    pub negative_slope: Option<f32>,
}

/// Gradients of [`KernelBackend::kernel_norm_act`].
pub struct NormActGrads<B: Backend> {
    /// `[N, C, D, H, W]`
    pub x: FloatTensor<B>,
    /// `[N, C, D, H, W]`: also the gradient of the normalised value before the activation.
    pub residual: Option<FloatTensor<B>>,
    /// `[C]`
    pub gamma: FloatTensor<B>,
    /// `[C]`
    pub beta: FloatTensor<B>,
}

/// What [`attention`](super::attention) computes besides its tensors.
#[derive(Clone, Copy, Debug)]
pub struct AttentionConfig {
    /// Divides the width.
    pub heads: usize,
}

/// Gradients of [`KernelBackend::kernel_linear`] with respect to its parameters.
pub struct LinearGrads<B: Backend> {
    /// `[O, I]`
    pub weight: FloatTensor<B>,
    /// `[O]`
    pub bias: FloatTensor<B>,
}

/// Gradients of [`KernelBackend::kernel_layer_norm`].
pub struct LayerNormGrads<B: Backend> {
    /// `[R, C]`
    pub x: FloatTensor<B>,
    /// `[C]`
    pub gamma: FloatTensor<B>,
    /// `[C]`
    pub beta: FloatTensor<B>,
}

/// Gradients of [`KernelBackend::kernel_attention`].
pub struct AttentionGrads<B: Backend> {
    /// `[W, L, 3 * H * E]`
    pub qkv: FloatTensor<B>,
    /// `[H, L, L]`
    pub bias: Option<FloatTensor<B>>,
}

/// A step of AdamW, see [`adamw`](super::adamw).
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Decay of the running means of the gradient and of its square.
    pub betas: [f64; 2],
    /// Added to the root of the mean square.
    pub eps: f64,
    /// What is left of a weight.
    pub decay: f64,
    /// Length of the step, corrected for the means' start from zero.
    pub size: f64,
    /// By which the root of the mean square is divided, for the same reason.
    pub root: f64,
}

/// A backend that our networks run on: Burn's operations plus our own kernels.
///
/// The provided methods compose Burn's operations; shapes are checked by the callers in [`super`].
pub trait KernelBackend: MoveBackend {
    /// See [`conv3d`](super::conv3d).
    fn kernel_conv3d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        window: Window,
    ) -> FloatTensor<Self> {
        Self::conv3d(x, weight, bias, window.conv_options())
    }

    /// See [`conv3d_act`](super::conv3d_act).
    fn kernel_conv3d_act(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        residual: Option<FloatTensor<Self>>,
        config: ConvAct<Self>,
    ) -> FloatTensor<Self> {
        fallback::conv3d_act::<Self>(x, weight, residual, config)
    }

    /// See [`channel_moments`](super::channel_moments).
    fn kernel_channel_moments(x: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        fallback::channel_moments::<Self>(x)
    }

    /// See [`carry`](super::carry).
    fn kernel_carry(x: FloatTensor<Self>, _gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_zeros(Shape::new([1]), &Self::float_device(&x), x.dtype().into())
    }

    /// Gradient of `kernel_conv3d` with respect to `x` (of which only the shape matters).
    fn kernel_conv3d_dx(x: FloatTensor<Self>, weight: FloatTensor<Self>, dy: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        Self::conv3d_x_backward(x, weight, dy, window.conv_options())
    }

    /// Gradient of `kernel_conv3d` with respect to `weight` (of which only the shape matters).
    fn kernel_conv3d_dw(x: FloatTensor<Self>, weight: FloatTensor<Self>, dy: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        Self::conv3d_weight_backward(x, weight, dy, window.conv_options())
    }

    /// See [`conv_transpose3d`](super::conv_transpose3d). Its gradients are convolutions.
    fn kernel_conv_transpose3d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        stride: [usize; 3],
    ) -> FloatTensor<Self> {
        Self::conv_transpose3d(x, weight, bias, ConvTransposeOptions::new(stride, [0; 3], [0; 3], [1; 3], 1))
    }

    /// Sum over all axes but the channels: `[N, C, D, H, W]` to `[C]`, the gradient of a bias.
    fn kernel_channel_sum(x: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::channel_sum::<Self>(x)
    }

    /// See [`norm_add_act`](super::norm_add_act).
    fn kernel_norm_act(
        x: FloatTensor<Self>,
        gamma: Option<FloatTensor<Self>>,
        beta: Option<FloatTensor<Self>>,
        residual: Option<FloatTensor<Self>>,
        config: NormAct,
    ) -> FloatTensor<Self> {
        fallback::norm_act::<Self>(x, gamma, beta, residual, config)
    }

    /// Gradients of `kernel_norm_act` from its input `x`, its output `y` and the gradient `dy` of the output.
    ///
    /// The sign of `y` tells on which side of the activation's kink a value was.
    fn kernel_norm_act_backward(
        x: FloatTensor<Self>,
        gamma: Option<FloatTensor<Self>>,
        y: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        with_residual: bool,
        config: NormAct,
    ) -> NormActGrads<Self> {
        fallback::norm_act_backward::<Self>(x, gamma, y, dy, with_residual, config)
    }

    /// See [`max_pool3d`](super::max_pool3d).
    fn kernel_max_pool3d(x: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        fallback::max_pool3d::<Self>(x, window)
    }

    /// Gradient of `kernel_max_pool3d` with respect to `x`.
    fn kernel_max_pool3d_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        fallback::max_pool3d_backward::<Self>(x, dy, window)
    }

    /// See [`linear`](super::linear).
    fn kernel_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Option<FloatTensor<Self>>) -> FloatTensor<Self> {
        fallback_rows::linear::<Self>(x, weight, bias)
    }

    /// Gradient of `kernel_linear` with respect to `x`.
    fn kernel_linear_dx(weight: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(dy, weight)
    }

    /// Gradients of `kernel_linear` with respect to its parameters.
    fn kernel_linear_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> LinearGrads<Self> {
        fallback_rows::linear_backward::<Self>(x, dy)
    }

    /// See [`gelu`](super::gelu); any shape.
    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }

    /// Gradient of `kernel_gelu`.
    fn kernel_gelu_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu_backward(x, dy)
    }

    /// See [`softmax`](super::softmax): over the last axis of any shape.
    fn kernel_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let axis = x.shape().num_dims() - 1;
        Self::softmax(x, axis)
    }

    /// Gradient of `kernel_softmax` from its output.
    fn kernel_softmax_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback_rows::softmax_backward::<Self>(y, dy)
    }

    /// See [`layer_norm`](super::layer_norm): `[R, C]`.
    fn kernel_layer_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, beta: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        fallback_rows::layer_norm::<Self>(x, gamma, beta, epsilon)
    }

    /// Gradients of `kernel_layer_norm`.
    fn kernel_layer_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        epsilon: f64,
    ) -> LayerNormGrads<Self> {
        fallback_rows::layer_norm_backward::<Self>(x, gamma, dy, epsilon)
    }

    /// See [`adamw`](super::adamw): of a flat weight, its gradient, and the means.
    fn kernel_adamw(inputs: [FloatTensor<Self>; 4], step: &AdamStep) -> [FloatTensor<Self>; 3] {
        step::adamw_composed::<Self>(inputs, step)
    }

    /// Sum of the squares of a vector.
    fn kernel_squares(x: FloatTensor<Self>) -> f64 {
        step::squares_composed::<Self>(x)
    }

    /// See [`attention`](super::attention).
    fn kernel_attention(
        qkv: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        regions: Option<FloatTensor<Self>>,
        config: AttentionConfig,
    ) -> FloatTensor<Self> {
        fallback_rows::attention::<Self>(qkv, bias, regions, config)
    }

    /// Gradients of `kernel_attention` from the gradient `dy` of its output.
    fn kernel_attention_backward(
        qkv: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        regions: Option<FloatTensor<Self>>,
        dy: FloatTensor<Self>,
        config: AttentionConfig,
    ) -> AttentionGrads<Self> {
        fallback_rows::attention_backward::<Self>(qkv, bias, regions, dy, config)
    }
}

#[cfg(feature = "cuda")]
impl KernelBackend for burn::backend::Cuda {}
