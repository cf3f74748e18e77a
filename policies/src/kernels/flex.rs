//! Burn's CPU backend: our own code for `f32`, Burn's operations for other element types.

use super::attention::{self, Attention};
use super::backend::{
    AdamStep, AttentionConfig, AttentionGrads, ConvAct, KernelBackend, LayerNormGrads, LinearGrads, NormAct, NormActGrads, Window,
};
use super::conv;
use super::conv_weight::weight_gradient;
use super::geometry::{Dims, Volumes};
use super::pack::Epilogue;
use super::simd::Isa;
use super::{fallback, fallback_rows, layer_norm, linear, math, norm, pointwise, pool, softmax, step};
use burn::backend::Flex;
use burn::tensor::ops::{ActivationOps, ConvTransposeOptions, FloatTensor, FloatTensorOps, ModuleOps};
use burn::tensor::{DType, TensorData, TensorMetadata};

type FlexTensor = FloatTensor<Flex>;

/// A pointwise convolution is a plain matrix product on the layout as it is.
const POINTWISE: Window = Window { kernel: [1; 3], stride: [1; 3], padding: [0; 3] };

impl KernelBackend for Flex {
    fn kernel_conv3d(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>, window: Window) -> FlexTensor {
        let Some([Some(x), Some(weight), bias]) = f32_inputs([Some(&x), Some(&weight), bias.as_ref()]) else {
            return Self::conv3d(x, weight, bias, window.conv_options());
        };
        let (x, weight) = (volumes(&x), volumes(&weight));
        let [batch, _, size @ ..] = x.dims;
        let [d, h, w] = window.output(size);
        let epilogue = Epilogue { shift: bias.as_ref().map(FlexTensor::storage), ..Epilogue::default() };
        flex(convolution(x, weight, window, epilogue), [batch, weight.dims[0], d, h, w])
    }

    fn kernel_conv3d_act(x: FlexTensor, weight: FlexTensor, residual: Option<FlexTensor>, config: ConvAct<Self>) -> FlexTensor {
        let ConvAct { scale, shift, window, negative_slope } = &config;
        let inputs = [Some(&x), Some(&weight), residual.as_ref(), Some(scale), Some(shift)];
        let Some([Some(x), Some(weight), residual, Some(scale), Some(shift)]) = f32_inputs(inputs) else {
            return fallback::conv3d_act::<Self>(x, weight, residual, config);
        };
        let (x, weight) = (volumes(&x), volumes(&weight));
        let [batch, _, size @ ..] = x.dims;
        let [d, h, w] = window.output(size);
        let residual = residual.as_ref().map(FlexTensor::storage);
        let epilogue = Epilogue { scale: Some(scale.storage()), shift: Some(shift.storage()), residual, negative_slope: *negative_slope };
        flex(convolution(x, weight, *window, epilogue), [batch, weight.dims[0], d, h, w])
    }

    fn kernel_channel_moments(x: FlexTensor) -> [FlexTensor; 2] {
        let Some([Some(x)]) = f32_inputs([Some(&x)]) else { return fallback::channel_moments::<Self>(x) };
        let x = volumes(&x);
        norm::channel_moments(Isa::detect(), x).map(|values| flex(values, [x.dims[1]]))
    }

    fn kernel_conv3d_dx(x: FlexTensor, weight: FlexTensor, dy: FlexTensor, window: Window) -> FlexTensor {
        let Some([Some(weight_f32), Some(dy_f32)]) = f32_inputs([Some(&weight), Some(&dy)]) else {
            return Self::conv3d_x_backward(x, weight, dy, window.conv_options());
        };
        let dims: Dims = x.shape().dims();
        let [_, _, size @ ..] = dims;
        if window == POINTWISE {
            return flex(pointwise::input_gradient(Isa::detect(), volumes(&dy_f32), weight_f32.storage()), dims);
        }
        flex(conv::input_gradient(Isa::detect(), volumes(&dy_f32), volumes(&weight_f32), None, size, window), dims)
    }

    fn kernel_conv3d_dw(x: FlexTensor, weight: FlexTensor, dy: FlexTensor, window: Window) -> FlexTensor {
        let Some([Some(x), Some(dy)]) = f32_inputs([Some(&x), Some(&dy)]) else {
            return Self::conv3d_weight_backward(x, weight, dy, window.conv_options());
        };
        let dims: Dims = weight.shape().dims();
        if window == POINTWISE {
            return flex(pointwise::weight_gradient(Isa::detect(), volumes(&x), volumes(&dy)), dims);
        }
        flex(weight_gradient(Isa::detect(), volumes(&x), volumes(&dy), window), dims)
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
        flex(pool::max_forward(Isa::detect(), x, window), [n, c, d, h, w])
    }

    fn kernel_max_pool3d_backward(x: FlexTensor, dy: FlexTensor, window: Window) -> FlexTensor {
        let Some([Some(x), Some(dy)]) = f32_inputs([Some(&x), Some(&dy)]) else {
            return fallback::max_pool3d_backward::<Self>(x, dy, window);
        };
        let x = volumes(&x);
        flex(pool::max_backward(x, dy.storage(), window), x.dims)
    }

    fn kernel_linear(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
        let Some([Some(x), Some(weight), bias]) = f32_inputs([Some(&x), Some(&weight), bias.as_ref()]) else {
            return fallback_rows::linear::<Self>(x, weight, bias);
        };
        let size: [usize; 2] = weight.shape().dims();
        let y = linear::forward(Isa::detect(), x.storage(), weight.storage(), bias.as_ref().map(FlexTensor::storage), size);
        flex(y, [x.shape().dims::<2>()[0], size[0]])
    }

    fn kernel_linear_dx(weight: FlexTensor, dy: FlexTensor) -> FlexTensor {
        let Some([Some(weight), Some(dy)]) = f32_inputs([Some(&weight), Some(&dy)]) else { return Self::float_matmul(dy, weight) };
        let size: [usize; 2] = weight.shape().dims();
        flex(linear::input_gradient(Isa::detect(), weight.storage(), dy.storage(), size), [dy.shape().dims::<2>()[0], size[1]])
    }

    fn kernel_linear_backward(x: FlexTensor, dy: FlexTensor) -> LinearGrads<Self> {
        let size @ [outputs, _] = [dy.shape().dims::<2>()[1], x.shape().dims::<2>()[1]];
        let Some([Some(x), Some(dy)]) = f32_inputs([Some(&x), Some(&dy)]) else {
            return fallback_rows::linear_backward::<Self>(x, dy);
        };
        let (weight, bias) = linear::weight_gradient(Isa::detect(), x.storage(), dy.storage(), size);
        LinearGrads { weight: flex(weight, size), bias: flex(bias, [outputs]) }
    }

    fn kernel_gelu(x: FlexTensor) -> FlexTensor {
        let Some([Some(x)]) = f32_inputs([Some(&x)]) else { return Self::gelu(x) };
        like(math::gelu(Isa::detect(), x.storage()), &x)
    }

    fn kernel_gelu_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
        let Some([Some(x), Some(dy)]) = f32_inputs([Some(&x), Some(&dy)]) else { return Self::gelu_backward(x, dy) };
        like(math::gelu_backward(Isa::detect(), x.storage(), dy.storage()), &x)
    }

    fn kernel_softmax(x: FlexTensor) -> FlexTensor {
        let (shape, axis) = (x.shape(), x.shape().num_dims() - 1);
        let Some([Some(x)]) = f32_inputs([Some(&x)]) else { return Self::softmax(x, axis) };
        like(softmax::forward(Isa::detect(), x.storage(), shape[axis]), &x)
    }

    fn kernel_softmax_backward(y: FlexTensor, dy: FlexTensor) -> FlexTensor {
        let width = y.shape()[y.shape().num_dims() - 1];
        let Some([Some(y), Some(dy)]) = f32_inputs([Some(&y), Some(&dy)]) else { return fallback_rows::softmax_backward::<Self>(y, dy) };
        like(softmax::backward(Isa::detect(), y.storage(), dy.storage(), width), &y)
    }

    fn kernel_layer_norm(x: FlexTensor, gamma: FlexTensor, beta: FlexTensor, epsilon: f64) -> FlexTensor {
        let Some([Some(x), Some(gamma), Some(beta)]) = f32_inputs([Some(&x), Some(&gamma), Some(&beta)]) else {
            return fallback_rows::layer_norm::<Self>(x, gamma, beta, epsilon);
        };
        like(layer_norm::forward(Isa::detect(), x.storage(), gamma.storage(), beta.storage(), epsilon as f32), &x)
    }

    fn kernel_layer_norm_backward(x: FlexTensor, gamma: FlexTensor, dy: FlexTensor, epsilon: f64) -> LayerNormGrads<Self> {
        let Some([Some(x), Some(gamma), Some(dy)]) = f32_inputs([Some(&x), Some(&gamma), Some(&dy)]) else {
            return fallback_rows::layer_norm_backward::<Self>(x, gamma, dy, epsilon);
        };
        let [dx, dgamma, dbeta] = layer_norm::backward(Isa::detect(), x.storage(), gamma.storage(), dy.storage(), epsilon as f32);
        LayerNormGrads { x: like(dx, &x), gamma: like(dgamma, &gamma), beta: like(dbeta, &gamma) }
    }

    fn kernel_adamw(inputs: [FlexTensor; 4], step: &AdamStep) -> [FlexTensor; 3] {
        let Some([Some(weight), Some(grad), Some(m), Some(v)]) = f32_inputs(inputs.each_ref().map(Some)) else {
            return step::adamw_composed::<Self>(inputs, step);
        };
        let found = step::adamw(Isa::detect(), [&weight, &grad, &m, &v].map(FlexTensor::storage), step);
        found.map(|values| like(values, &weight))
    }

    fn kernel_squares(x: FlexTensor) -> f64 {
        let Some([Some(x)]) = f32_inputs([Some(&x)]) else { return step::squares_composed::<Self>(x) };
        step::squares(Isa::detect(), x.storage())
    }

    fn kernel_attention(qkv: FlexTensor, bias: Option<FlexTensor>, regions: Option<FlexTensor>, config: AttentionConfig) -> FlexTensor {
        let Some([Some(qkv_f32), bias_f32, regions_f32]) = attention_inputs([Some(&qkv), bias.as_ref(), regions.as_ref(), None], config)
            .map(|[qkv, bias, regions, _]| [qkv, bias, regions])
        else {
            return fallback_rows::attention::<Self>(qkv, bias, regions, config);
        };
        let inputs = attention_of(&qkv_f32, bias_f32.as_ref(), regions_f32.as_ref(), config);
        flex(inputs.forward(Isa::detect()), [qkv.shape().dims::<3>()[0], inputs.length, inputs.width])
    }

    fn kernel_attention_backward(
        qkv: FlexTensor,
        bias: Option<FlexTensor>,
        regions: Option<FlexTensor>,
        dy: FlexTensor,
        config: AttentionConfig,
    ) -> AttentionGrads<Self> {
        let found = attention_inputs([Some(&qkv), bias.as_ref(), regions.as_ref(), Some(&dy)], config);
        let Some([Some(qkv_f32), bias_f32, regions_f32, Some(dy)]) = found else {
            return fallback_rows::attention_backward::<Self>(qkv, bias, regions, dy, config);
        };
        let inputs = attention_of(&qkv_f32, bias_f32.as_ref(), regions_f32.as_ref(), config);
        let (dqkv, dbias) = inputs.backward(Isa::detect(), dy.storage());
        AttentionGrads { qkv: like(dqkv, &qkv_f32), bias: bias_f32.as_ref().map(|bias| like(dbias, bias)) }
    }
}

fn convolution(x: Volumes, weight: Volumes, window: Window, epilogue: Epilogue) -> Vec<f32> {
    if window == POINTWISE {
        return pointwise::forward(Isa::detect(), x, weight.values, epilogue);
    }
    conv::forward(Isa::detect(), x, weight, window, epilogue)
}

/// As [`f32_inputs`], where our attention takes the heads' size.
fn attention_inputs<const N: usize>(inputs: [Option<&FlexTensor>; N], config: AttentionConfig) -> Option<[Option<FlexTensor>; N]> {
    let [_, length, width] = inputs.first().copied().flatten()?.shape().dims();
    if attention::fits(width / 3 / config.heads, length) { f32_inputs(inputs) } else { None }
}

fn attention_of<'a>(
    qkv: &'a FlexTensor,
    bias: Option<&'a FlexTensor>,
    regions: Option<&'a FlexTensor>,
    config: AttentionConfig,
) -> Attention<'a> {
    let [_, length, width] = qkv.shape().dims();
    let [bias, regions] = [bias, regions].map(|input| input.map(FlexTensor::storage));
    Attention { qkv: qkv.storage(), bias, regions, heads: config.heads, length, width: width / 3 }
}

/// Contiguous versions of the inputs that are there, unless one isn't `f32`.
pub fn f32_inputs<const N: usize>(inputs: [Option<&FlexTensor>; N]) -> Option<[Option<FlexTensor>; N]> {
    let all = inputs.iter().flatten().all(|input| input.dtype() == DType::F32);
    all.then(|| inputs.map(|input| input.map(FlexTensor::to_contiguous)))
}

fn volumes(tensor: &FlexTensor) -> Volumes<'_> {
    Volumes { values: tensor.storage(), dims: tensor.shape().dims() }
}

fn like(values: Vec<f32>, shape_of: &FlexTensor) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape_of.shape()))
}

pub fn flex<const D: usize>(values: Vec<f32>, dims: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, dims))
}
