//! What other backends and element types run: our kernels composed from Burn's operations.
//!
//! Norms and sums of half precision are `f32` inside; their parameters, and the gradients of those, are `f32` throughout.

use super::backend::{ConvAct, KernelBackend, NormAct, NormActGrads, Window};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata, TensorPrimitive, activation, backend::Backend};

use crate::precision::{cast, relu, wide};

pub fn channel_sum<B: KernelBackend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = x.dtype();
    let x = wide(tensor::<B, 5>(x));
    let channels = x.dims()[1];
    let sum = x.flatten::<3>(2, 4).sum_dim(2).sum_dim(0).reshape([channels]);
    cast(sum, dtype).into_primitive().tensor()
}

pub fn conv3d_act<B: KernelBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    residual: Option<FloatTensor<B>>,
    config: ConvAct<B>,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let y = wide(tensor::<B, 5>(B::kernel_conv3d(x, weight, None, config.window)));
    let mut y = y * per_channel(config.scale) + per_channel(config.shift);
    if let Some(residual) = residual {
        y = y + wide(tensor(residual));
    }
    cast(activate(y, config.negative_slope), dtype).into_primitive().tensor()
}

fn activate<B: Backend>(x: Tensor<B, 5>, negative_slope: Option<f32>) -> Tensor<B, 5> {
    match negative_slope {
        None => x,
        Some(0.0) => relu(x),
        Some(slope) => activation::leaky_relu(x, slope as f64),
    }
}

pub fn channel_moments<B: KernelBackend>(x: FloatTensor<B>) -> [FloatTensor<B>; 2] {
    let x = wide(tensor::<B, 5>(x));
    let channels = x.dims()[1];
    let mean = x.clone().mean_dims(&[0, 2, 3, 4]);
    let variance = (x - mean.clone()).square().mean_dims(&[0, 2, 3, 4]);
    [mean, variance].map(|t| t.reshape([channels]).into_primitive().tensor())
}

pub fn norm_act<B: KernelBackend>(
    x: FloatTensor<B>,
    gamma: Option<FloatTensor<B>>,
    beta: Option<FloatTensor<B>>,
    residual: Option<FloatTensor<B>>,
    config: NormAct,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let (normalized, _) = normalize(wide(tensor::<B, 5>(x)), config);
    let mut y = normalized;
    if let Some(gamma) = gamma {
        y = y * per_channel(gamma);
    }
    if let Some(beta) = beta {
        y = y + per_channel(beta);
    }
    if let Some(residual) = residual {
        y = y + wide(tensor(residual));
    }
    cast(activate(y, config.negative_slope), dtype).into_primitive().tensor()
}

pub fn norm_act_backward<B: KernelBackend>(
    x: FloatTensor<B>,
    gamma: Option<FloatTensor<B>>,
    y: FloatTensor<B>,
    dy: FloatTensor<B>,
    with_residual: bool,
    config: NormAct,
) -> NormActGrads<B> {
    let dtype = x.dtype();
    let (normalized, inverse_std) = normalize(wide(tensor::<B, 5>(x)), config);
    let mut dy = wide(tensor::<B, 5>(dy));
    if let Some(slope) = config.negative_slope {
        let scaled = dy.clone() * slope;
        dy = dy.mask_where(tensor::<B, 5>(y).lower_equal_elem(0.0), scaled);
    }
    let gamma_grad = channel_sum::<B>((dy.clone() * normalized.clone()).into_primitive().tensor());
    let beta_grad = channel_sum::<B>(dy.clone().into_primitive().tensor());
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
        x: cast(dx.reshape(dims), dtype).into_primitive().tensor(),
        residual: with_residual.then(|| cast(dy, dtype).into_primitive().tensor()),
        gamma: gamma_grad,
        beta: beta_grad,
    }
}

pub fn max_pool3d<B: KernelBackend>(x: FloatTensor<B>, window: Window) -> FloatTensor<B> {
    let x = tensor::<B, 5>(x);
    let (size, [slices, columns]) = (x.dims(), pool_axes(window));
    let [n, c, d, h, w] = size;
    let [od, oh, ow] = window.output([d, h, w]);
    let pool = |x: Tensor<B, 4>, (kernel, stride, padding): Pool2d| {
        tensor::<B, 4>(B::max_pool2d(x.into_primitive().tensor(), kernel, stride, padding, [1; 2], false))
    };
    let y = pool(x.reshape([n * c, d, h, w]), slices);
    let y = pool(y.reshape([n, c, d, oh * ow]), columns);
    y.reshape([n, c, od, oh, ow]).into_primitive().tensor()
}

pub fn max_pool3d_backward<B: KernelBackend>(x: FloatTensor<B>, dy: FloatTensor<B>, window: Window) -> FloatTensor<B> {
    let x = tensor::<B, 5>(x);
    let (size, [slices, columns]) = (x.dims(), pool_axes(window));
    let [n, c, d, h, w] = size;
    let [od, oh, ow] = window.output([d, h, w]);
    let x = x.reshape([n * c, d, h, w]).into_primitive().tensor();
    let forward = |x, (kernel, stride, padding): Pool2d| B::max_pool2d_with_indices(x, kernel, stride, padding, [1; 2], false);
    let backward = |x, dy, indices, (kernel, stride, padding): Pool2d| {
        B::max_pool2d_with_indices_backward(x, kernel, stride, padding, [1; 2], false, dy, indices).x_grad
    };
    let in_slices = forward(x.clone(), slices);
    let middle = tensor::<B, 4>(in_slices.output).reshape([n, c, d, oh * ow]).into_primitive().tensor();
    let in_columns = forward(middle.clone(), columns);
    let dy = tensor::<B, 5>(dy).reshape([n, c, od, oh * ow]).into_primitive().tensor();
    let dy = tensor::<B, 4>(backward(middle, dy, in_columns.indices, columns)).reshape([n * c, d, oh, ow]);
    let dx = tensor::<B, 4>(backward(x, dy.into_primitive().tensor(), in_slices.indices, slices));
    dx.reshape(size).into_primitive().tensor()
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

pub fn tensor<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}
