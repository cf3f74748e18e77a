//! Burn's CPU backend: our own code for `f32`, Burn's operations for other element types.

use super::backend::{KernelBackend, NormAct, NormActGrads, Window};
use super::conv;
use super::conv_weight::weight_gradient;
use super::geometry::{Dims, Volumes};
use super::simd::Isa;
use super::{fallback, norm, pool};
use burn::backend::Flex;
use burn::tensor::ops::{ConvTransposeOptions, FloatTensor, ModuleOps};
use burn::tensor::{DType, TensorData, TensorMetadata};

type FlexTensor = FloatTensor<Flex>;

/// A pointwise convolution is a plain matrix product on the layout as it is, where Burn's is faster than packing.
const POINTWISE: Window = Window { kernel: [1; 3], stride: [1; 3], padding: [0; 3] };

impl KernelBackend for Flex {
    fn kernel_conv3d(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>, window: Window) -> FlexTensor {
        if window == POINTWISE {
            return Self::conv3d(x, weight, bias, window.conv_options());
        }
        let Some([Some(x), Some(weight), bias]) = f32_inputs([Some(&x), Some(&weight), bias.as_ref()]) else {
            return Self::conv3d(x, weight, bias, window.conv_options());
        };
        let (x, weight) = (volumes(&x), volumes(&weight));
        let [batch, _, size @ ..] = x.dims;
        let [d, h, w] = window.output(size);
        let y = conv::forward(Isa::detect(), x, weight, bias.as_ref().map(FlexTensor::storage), window);
        flex(y, [batch, weight.dims[0], d, h, w])
    }

    fn kernel_conv3d_dx(x: FlexTensor, weight: FlexTensor, dy: FlexTensor, window: Window) -> FlexTensor {
        if window == POINTWISE {
            return Self::conv3d(dy, weight.transpose(0, 1), None, window.conv_options());
        }
        let Some([Some(weight_f32), Some(dy_f32)]) = f32_inputs([Some(&weight), Some(&dy)]) else {
            return Self::conv3d_x_backward(x, weight, dy, window.conv_options());
        };
        let dims: Dims = x.shape().dims();
        let [_, _, size @ ..] = dims;
        flex(conv::input_gradient(Isa::detect(), volumes(&dy_f32), volumes(&weight_f32), None, size, window), dims)
    }

    fn kernel_conv3d_dw(x: FlexTensor, weight: FlexTensor, dy: FlexTensor, window: Window) -> FlexTensor {
        let Some([Some(x), Some(dy)]) = f32_inputs([Some(&x), Some(&dy)]) else {
            return Self::conv3d_weight_backward(x, weight, dy, window.conv_options());
        };
        flex(weight_gradient(Isa::detect(), volumes(&x), volumes(&dy), window), weight.shape().dims::<5>())
    }

    fn kernel_conv_transpose3d(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>, stride: [usize; 3]) -> FlexTensor {
        let Some([Some(x), Some(weight), bias]) = f32_inputs([Some(&x), Some(&weight), bias.as_ref()]) else {
            return Self::conv_transpose3d(x, weight, bias, ConvTransposeOptions::new(stride, [0; 3], [0; 3], [1; 3], 1));
        };
        // The input gradient of a convolution that has our output as its input.
        let window = Window { kernel: stride, stride, padding: [0; 3] };
        let (x, weight) = (volumes(&x), volumes(&weight));
        let [d, h, w] = std::array::from_fn(|a| x.dims[a + 2] * stride[a]);
        let y = conv::input_gradient(Isa::detect(), x, weight, bias.as_ref().map(FlexTensor::storage), [d, h, w], window);
        flex(y, [x.dims[0], weight.dims[1], d, h, w])
    }

    fn kernel_channel_sum(x: FlexTensor) -> FlexTensor {
        let Some([Some(x)]) = f32_inputs([Some(&x)]) else { return fallback::channel_sum::<Self>(x) };
        let x = volumes(&x);
        flex(norm::channel_sum(Isa::detect(), x), [x.dims[1]])
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
        let x = volumes(&x);
        let [gamma, beta, residual] = [&gamma, &beta, &residual].map(|input| input.as_ref().map(FlexTensor::storage));
        flex(norm::forward(Isa::detect(), x, gamma, beta, residual, config), x.dims)
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
        let x = volumes(&x);
        let gamma = gamma.as_ref().map(FlexTensor::storage);
        let found = norm::backward(Isa::detect(), x, gamma, y.storage(), dy.storage(), with_residual, config);
        NormActGrads {
            x: flex(found.x, x.dims),
            residual: with_residual.then(|| flex(found.residual, x.dims)),
            gamma: flex(found.gamma, [x.dims[1]]),
            beta: flex(found.beta, [x.dims[1]]),
        }
    }

    fn kernel_max_pool3d(x: FlexTensor, window: Window) -> FlexTensor {
        let Some([Some(x)]) = f32_inputs([Some(&x)]) else { return fallback::max_pool3d::<Self>(x, window) };
        let x = volumes(&x);
        let [n, c, size @ ..] = x.dims;
        let [d, h, w] = window.output(size);
        flex(pool::max_forward(x, window), [n, c, d, h, w])
    }

    fn kernel_max_pool3d_backward(x: FlexTensor, dy: FlexTensor, window: Window) -> FlexTensor {
        let Some([Some(x), Some(dy)]) = f32_inputs([Some(&x), Some(&dy)]) else {
            return fallback::max_pool3d_backward::<Self>(x, dy, window);
        };
        let x = volumes(&x);
        flex(pool::max_backward(x, dy.storage(), window), x.dims)
    }
}

/// Contiguous versions of the inputs that are there, unless one isn't `f32`.
fn f32_inputs<const N: usize>(inputs: [Option<&FlexTensor>; N]) -> Option<[Option<FlexTensor>; N]> {
    let all = inputs.iter().flatten().all(|input| input.dtype() == DType::F32);
    all.then(|| inputs.map(|input| input.map(FlexTensor::to_contiguous)))
}

fn volumes(tensor: &FlexTensor) -> Volumes<'_> {
    Volumes { values: tensor.storage(), dims: tensor.shape().dims() }
}

fn flex<const D: usize>(values: Vec<f32>, dims: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, dims))
}
