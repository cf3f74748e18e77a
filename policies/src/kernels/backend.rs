//! The backend extension: what a backend must offer, composed from Burn's operations unless it does better.

use super::conv;
use super::conv_weight::weight_gradient;
use super::simd::Isa;
use super::{fallback, norm, pool};
use burn::backend::Flex;
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions, FloatTensor, ModuleOps};
use burn::tensor::{DType, TensorData, TensorMetadata, backend::Backend};

type FlexTensor = FloatTensor<Flex>;

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

    fn conv_options(&self) -> ConvOptions<3> {
        ConvOptions::new(self.stride, self.padding, [1; 3], 1)
    }
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

/// A backend that our networks run on: Burn's operations plus our own kernels.
///
/// The provided methods compose Burn's operations; shapes are checked by the callers in [`super`].
pub trait KernelBackend: Backend {
    /// See [`conv3d`](super::conv3d).
    fn kernel_conv3d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        window: Window,
    ) -> FloatTensor<Self> {
        Self::conv3d(x, weight, bias, window.conv_options())
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
}

impl KernelBackend for Flex {
    fn kernel_channel_sum(x: FlexTensor) -> FlexTensor {
        let Some([Some(x)]) = f32_inputs([Some(&x)]) else { return fallback::channel_sum::<Self>(x) };
        let dims: conv::Dims = x.shape().dims();
        flex(norm::channel_sum(Isa::detect(), x.storage(), dims), [dims[1]])
    }

    fn kernel_norm_act(
        x: FlexTensor,
        gamma: Option<FlexTensor>,
        beta: Option<FlexTensor>,
        residual: Option<FlexTensor>,
        config: NormAct,
    ) -> FlexTensor {
        let inputs = [Some(&x), gamma.as_ref(), beta.as_ref(), residual.as_ref()];
        let Some([Some(x), gamma, beta, residual]) = f32_inputs(inputs) else {
            return fallback::norm_act::<Self>(x, gamma, beta, residual, config);
        };
        let dims: conv::Dims = x.shape().dims();
        let [gamma, beta, residual] = [&gamma, &beta, &residual].map(|input| input.as_ref().map(FlexTensor::storage));
        flex(norm::forward(Isa::detect(), x.storage(), dims, gamma, beta, residual, config), dims)
    }

    fn kernel_norm_act_backward(
        x: FlexTensor,
        gamma: Option<FlexTensor>,
        y: FlexTensor,
        dy: FlexTensor,
        with_residual: bool,
        config: NormAct,
    ) -> NormActGrads<Self> {
        let Some([Some(x), gamma, Some(y), Some(dy)]) = f32_inputs([Some(&x), gamma.as_ref(), Some(&y), Some(&dy)]) else {
            return fallback::norm_act_backward::<Self>(x, gamma, y, dy, with_residual, config);
        };
        let dims: conv::Dims = x.shape().dims();
        let gamma = gamma.as_ref().map(FlexTensor::storage);
        let found = norm::backward(Isa::detect(), x.storage(), dims, gamma, y.storage(), dy.storage(), with_residual, config);
        NormActGrads {
            x: flex(found.x, dims),
            residual: with_residual.then(|| flex(found.residual, dims)),
            gamma: flex(found.gamma, [dims[1]]),
            beta: flex(found.beta, [dims[1]]),
        }
    }

    fn kernel_max_pool3d(x: FlexTensor, window: Window) -> FlexTensor {
        let Some([Some(x)]) = f32_inputs([Some(&x)]) else { return fallback::max_pool3d::<Self>(x, window) };
        let dims: conv::Dims = x.shape().dims();
        let [n, c, size @ ..] = dims;
        let [d, h, w] = window.output(size);
        flex(pool::max_forward(x.storage(), dims, window), [n, c, d, h, w])
    }

    fn kernel_max_pool3d_backward(x: FlexTensor, dy: FlexTensor, window: Window) -> FlexTensor {
        let Some([Some(x), Some(dy)]) = f32_inputs([Some(&x), Some(&dy)]) else {
            return fallback::max_pool3d_backward::<Self>(x, dy, window);
        };
        let dims: conv::Dims = x.shape().dims();
        flex(pool::max_backward(x.storage(), dims, dy.storage(), window), dims)
    }

    fn kernel_conv3d(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>, window: Window) -> FlexTensor {
        let inputs = [Some(&x), Some(&weight), bias.as_ref()];
        let Some([Some(x), Some(weight), bias]) = f32_inputs(inputs) else {
            return Self::conv3d(x, weight, bias, window.conv_options());
        };
        let (x_dims, weight_dims) = (x.shape().dims(), weight.shape().dims());
        let y = conv::forward(
            Isa::detect(),
            x.storage(),
            x_dims,
            weight.storage(),
            weight_dims,
            bias.as_ref().map(FlexTensor::storage),
            window,
        );
        let [d, h, w] = window.output([x_dims[2], x_dims[3], x_dims[4]]);
        flex(y, [x_dims[0], weight_dims[0], d, h, w])
    }

    fn kernel_conv3d_dx(x: FlexTensor, weight: FlexTensor, dy: FlexTensor, window: Window) -> FlexTensor {
        let Some([Some(weight_f32), Some(dy_f32)]) = f32_inputs([Some(&weight), Some(&dy)]) else {
            return Self::conv3d_x_backward(x, weight, dy, window.conv_options());
        };
        let x_dims: conv::Dims = x.shape().dims();
        let [_, _, size @ ..] = x_dims;
        let (dy_dims, weight_dims) = (dy_f32.shape().dims(), weight_f32.shape().dims());
        let dx = conv::input_gradient(Isa::detect(), dy_f32.storage(), dy_dims, weight_f32.storage(), weight_dims, None, size, window);
        flex(dx, x_dims)
    }

    fn kernel_conv3d_dw(x: FlexTensor, weight: FlexTensor, dy: FlexTensor, window: Window) -> FlexTensor {
        let Some([Some(x_f32), Some(dy_f32)]) = f32_inputs([Some(&x), Some(&dy)]) else {
            return Self::conv3d_weight_backward(x, weight, dy, window.conv_options());
        };
        let dw = weight_gradient(Isa::detect(), x_f32.storage(), x_f32.shape().dims(), dy_f32.storage(), dy_f32.shape().dims(), window);
        flex(dw, weight.shape().dims::<5>())
    }

    fn kernel_conv_transpose3d(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>, stride: [usize; 3]) -> FlexTensor {
        let Some([Some(x), Some(weight), bias]) = f32_inputs([Some(&x), Some(&weight), bias.as_ref()]) else {
            return Self::conv_transpose3d(x, weight, bias, ConvTransposeOptions::new(stride, [0; 3], [0; 3], [1; 3], 1));
        };
        // The input gradient of a convolution that has our output as its input.
        let window = Window { kernel: stride, stride, padding: [0; 3] };
        let x_dims: conv::Dims = x.shape().dims();
        let weight_dims: conv::Dims = weight.shape().dims();
        let size = std::array::from_fn(|a| x_dims[a + 2] * stride[a]);
        let bias = bias.as_ref().map(FlexTensor::storage);
        let y = conv::input_gradient(Isa::detect(), x.storage(), x_dims, weight.storage(), weight_dims, bias, size, window);
        flex(y, [x_dims[0], weight_dims[1], size[0], size[1], size[2]])
    }
}

/// Contiguous versions of the inputs that are there, unless one isn't `f32`.
fn f32_inputs<const N: usize>(inputs: [Option<&FlexTensor>; N]) -> Option<[Option<FlexTensor>; N]> {
    let all = inputs.iter().flatten().all(|input| input.dtype() == DType::F32);
    all.then(|| inputs.map(|input| input.map(FlexTensor::to_contiguous)))
}

fn flex<const D: usize>(values: Vec<f32>, dims: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, dims))
}

#[cfg(feature = "cuda")]
impl KernelBackend for burn::backend::Cuda {}
