//! The backend extension: what a backend must offer, composed from Burn's operations unless it does better.

use super::conv;
use super::conv_weight::weight_gradient;
use super::simd::Isa;
use burn::backend::Flex;
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions, FloatTensor, ModuleOps};
use burn::tensor::{DType, Tensor, TensorData, TensorMetadata, TensorPrimitive, activation, backend::Backend};

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
        let x = tensor::<Self, 5>(x);
        let channels = x.dims()[1];
        let sum = x.flatten::<3>(2, 4).sum_dim(2).sum_dim(0).reshape([channels]);
        sum.into_primitive().tensor()
    }

    /// See [`norm_add_act`](super::norm_add_act).
    fn kernel_norm_act(
        x: FloatTensor<Self>,
        gamma: Option<FloatTensor<Self>>,
        beta: Option<FloatTensor<Self>>,
        residual: Option<FloatTensor<Self>>,
        config: NormAct,
    ) -> FloatTensor<Self> {
        let (normalized, _) = normalize(tensor::<Self, 5>(x), config);
        let mut y = normalized;
        if let Some(gamma) = gamma {
            y = y * per_channel(gamma);
        }
        if let Some(beta) = beta {
            y = y + per_channel(beta);
        }
        if let Some(residual) = residual {
            y = y + tensor(residual);
        }
        if let Some(slope) = config.negative_slope {
            y = if slope == 0.0 { activation::relu(y) } else { activation::leaky_relu(y, slope as f64) };
        }
        y.into_primitive().tensor()
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
        let (normalized, inverse_std) = normalize(tensor::<Self, 5>(x), config);
        let mut dy = tensor::<Self, 5>(dy);
        if let Some(slope) = config.negative_slope {
            let scaled = dy.clone() * slope;
            dy = dy.mask_where(tensor::<Self, 5>(y).lower_equal_elem(0.0), scaled);
        }
        let gamma_grad = Self::kernel_channel_sum((dy.clone() * normalized.clone()).into_primitive().tensor());
        let beta_grad = Self::kernel_channel_sum(dy.clone().into_primitive().tensor());
        let scaled = match gamma {
            Some(gamma) => dy.clone() * per_channel(gamma),
            None => dy.clone(),
        };
        let dims = scaled.dims();
        let grouped = [dims[0], config.groups, scaled.shape().num_elements() / (dims[0] * config.groups)];
        let (scaled, normalized) = (scaled.reshape(grouped), normalized.reshape(grouped));
        let mean = scaled.clone().mean_dim(2);
        let projection = (scaled.clone() * normalized.clone()).mean_dim(2);
        let dx = (scaled - mean - normalized * projection) * inverse_std;
        NormActGrads {
            x: dx.reshape(dims).into_primitive().tensor(),
            residual: with_residual.then(|| dy.into_primitive().tensor()),
            gamma: gamma_grad,
            beta: beta_grad,
        }
    }

    /// See [`max_pool3d`](super::max_pool3d).
    fn kernel_max_pool3d(x: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        let x = tensor::<Self, 5>(x);
        let (size, [slices, columns]) = (x.dims(), pool_axes(window));
        let [n, c, d, h, w] = size;
        let [od, oh, ow] = window.output([d, h, w]);
        let pool = |x: Tensor<Self, 4>, (kernel, stride, padding): Pool2d| {
            tensor::<Self, 4>(Self::max_pool2d(x.into_primitive().tensor(), kernel, stride, padding, [1; 2], false))
        };
        let y = pool(x.reshape([n * c, d, h, w]), slices);
        let y = pool(y.reshape([n, c, d, oh * ow]), columns);
        y.reshape([n, c, od, oh, ow]).into_primitive().tensor()
    }

    /// Gradient of `kernel_max_pool3d` with respect to `x`.
    fn kernel_max_pool3d_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        let x = tensor::<Self, 5>(x);
        let (size, [slices, columns]) = (x.dims(), pool_axes(window));
        let [n, c, d, h, w] = size;
        let [od, oh, ow] = window.output([d, h, w]);
        let x = x.reshape([n * c, d, h, w]).into_primitive().tensor();
        let forward = |x, (kernel, stride, padding): Pool2d| Self::max_pool2d_with_indices(x, kernel, stride, padding, [1; 2], false);
        let backward = |x, dy, indices, (kernel, stride, padding): Pool2d| {
            Self::max_pool2d_with_indices_backward(x, kernel, stride, padding, [1; 2], false, dy, indices).x_grad
        };
        let in_slices = forward(x.clone(), slices);
        let middle = tensor::<Self, 4>(in_slices.output).reshape([n, c, d, oh * ow]).into_primitive().tensor();
        let in_columns = forward(middle.clone(), columns);
        let dy = tensor::<Self, 5>(dy).reshape([n, c, od, oh * ow]).into_primitive().tensor();
        let dy = tensor::<Self, 4>(backward(middle, dy, in_columns.indices, columns)).reshape([n * c, d, oh, ow]);
        let dx = tensor::<Self, 4>(backward(x, dy.into_primitive().tensor(), in_slices.indices, slices));
        dx.reshape(size).into_primitive().tensor()
    }
}

type Pool2d = ([usize; 2], [usize; 2], [usize; 2]);

/// The maximum is separable: first over `(H, W)` in each slice, then over D with H and W flattened.
fn pool_axes(Window { kernel, stride, padding }: Window) -> [Pool2d; 2] {
    [([kernel[1], kernel[2]], [stride[1], stride[2]], [padding[1], padding[2]]), ([kernel[0], 1], [stride[0], 1], [padding[0], 0])]
}

/// `(x - mean) / sqrt(var + epsilon)` in x's shape, and the inverse standard deviation `[N, groups, 1]`.
fn normalize<B: Backend>(x: Tensor<B, 5>, config: NormAct) -> (Tensor<B, 5>, Tensor<B, 3>) {
    let dims = x.dims();
    let x = x.reshape([dims[0], config.groups, dims.iter().product::<usize>() / (dims[0] * config.groups)]);
    let centred = x.clone() - x.mean_dim(2);
    let inverse_std = (centred.clone() * centred.clone()).mean_dim(2).add_scalar(config.epsilon).sqrt().recip();
    ((centred * inverse_std.clone()).reshape(dims), inverse_std)
}

fn per_channel<B: Backend>(values_c: FloatTensor<B>) -> Tensor<B, 5> {
    let channels = values_c.shape().num_elements();
    tensor::<B, 1>(values_c).reshape([1, channels, 1, 1, 1])
}

fn tensor<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

impl KernelBackend for Flex {
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
        let Some([weight_f32, dy_f32]) = f32_inputs([Some(&weight), Some(&dy)]).map(|inputs| inputs.map(Option::unwrap)) else {
            return Self::conv3d_x_backward(x, weight, dy, window.conv_options());
        };
        let x_dims: conv::Dims = x.shape().dims();
        let [_, _, size @ ..] = x_dims;
        let (dy_dims, weight_dims) = (dy_f32.shape().dims(), weight_f32.shape().dims());
        let dx = conv::input_gradient(Isa::detect(), dy_f32.storage(), dy_dims, weight_f32.storage(), weight_dims, None, size, window);
        flex(dx, x_dims)
    }

    fn kernel_conv3d_dw(x: FlexTensor, weight: FlexTensor, dy: FlexTensor, window: Window) -> FlexTensor {
        let Some([x_f32, dy_f32]) = f32_inputs([Some(&x), Some(&dy)]).map(|inputs| inputs.map(Option::unwrap)) else {
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
