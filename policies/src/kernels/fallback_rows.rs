//! Linear layers, layer norm and attention composed from Burn's operations, see `fallback.rs`.

use super::backend::{AttentionConfig, AttentionGrads, KernelBackend, LayerNormGrads, LinearGrads};
use super::fallback::tensor;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata, activation, backend::Backend, s};

use crate::precision::{cast, wide};

fn primitive<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

pub fn linear<B: KernelBackend>(x: FloatTensor<B>, weight: FloatTensor<B>, bias: Option<FloatTensor<B>>) -> FloatTensor<B> {
    let y = tensor::<B, 2>(x).matmul(tensor::<B, 2>(weight).transpose());
    primitive(match bias {
        Some(bias) => y + tensor::<B, 1>(bias).unsqueeze(),
        None => y,
    })
}

pub fn linear_backward<B: KernelBackend>(x: FloatTensor<B>, dy: FloatTensor<B>) -> LinearGrads<B> {
    let (dtype, x, dy) = (x.dtype(), tensor::<B, 2>(x), tensor::<B, 2>(dy));
    LinearGrads {
        weight: primitive(dy.clone().transpose().matmul(x)),
        bias: primitive(cast(wide(dy).sum_dim(0).squeeze_dim::<1>(0), dtype)),
    }
}

pub fn softmax_backward<B: KernelBackend>(y: FloatTensor<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
    let axis = y.shape().num_dims() - 1;
    let mean = B::float_sum_dim(B::float_mul(y.clone(), dy.clone()), axis);
    B::float_mul(y, B::float_sub(dy, mean))
}

/// `(x - mean) / sqrt(var + epsilon)` of each row, and the inverse standard deviation `[R, 1]`.
fn normalize<B: Backend>(x: Tensor<B, 2>, epsilon: f64) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let centred = x.clone() - x.mean_dim(1);
    let inverse_std = (centred.clone() * centred.clone()).mean_dim(1).add_scalar(epsilon).sqrt().recip();
    (centred * inverse_std.clone(), inverse_std)
}

pub fn layer_norm<B: KernelBackend>(x: FloatTensor<B>, gamma: FloatTensor<B>, beta: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
    let dtype = x.dtype();
    let (normalized, _) = normalize(wide(tensor::<B, 2>(x)), epsilon);
    primitive(cast(normalized * tensor::<B, 1>(gamma).unsqueeze() + tensor::<B, 1>(beta).unsqueeze(), dtype))
}

pub fn layer_norm_backward<B: KernelBackend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    dy: FloatTensor<B>,
    epsilon: f64,
) -> LayerNormGrads<B> {
    let dtype = x.dtype();
    let (normalized, inverse_std) = normalize(wide(tensor::<B, 2>(x)), epsilon);
    let dy = wide(tensor::<B, 2>(dy));
    let over_rows = |x: Tensor<B, 2>| primitive(x.sum_dim(0).squeeze_dim::<1>(0));
    let (dgamma, dbeta) = (over_rows(dy.clone() * normalized.clone()), over_rows(dy.clone()));
    let scaled = dy * tensor::<B, 1>(gamma).unsqueeze();
    let projection = (scaled.clone() * normalized.clone()).mean_dim(1);
    let dx = (scaled.clone() - scaled.mean_dim(1) - normalized * projection) * inverse_std;
    LayerNormGrads { x: primitive(cast(dx, dtype)), gamma: dgamma, beta: dbeta }
}

/// Queries (scaled), keys and values `[W, H, L, E]`, and the weights `[W, H, L, L]`.
fn weights<B: KernelBackend>(
    qkv: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    regions: Option<FloatTensor<B>>,
    config: AttentionConfig,
) -> ([Tensor<B, 4>; 3], Tensor<B, 4>) {
    let qkv = tensor::<B, 3>(qkv);
    let [windows, length, width] = qkv.dims();
    let (heads, per_head) = (config.heads, width / 3 / config.heads);
    let split = qkv.reshape([windows, length, 3, heads, per_head]).permute([2, 0, 3, 1, 4]);
    let part = |i: usize| split.clone().slice(s![i..i + 1]).reshape([windows, heads, length, per_head]);
    let (queries, keys, values) = (part(0) * (per_head as f64).powf(-0.5), part(1), part(2));
    let dtype = queries.dtype();
    let mut scores = wide(queries.clone().matmul(keys.clone().transpose()));
    if let Some(bias) = bias {
        scores = scores + wide(tensor::<B, 3>(bias)).unsqueeze();
    }
    if let Some(regions) = regions {
        let regions = tensor::<B, 2>(regions);
        let [per_sample, _] = regions.dims();
        let pairs = [per_sample, length, length];
        let columns = regions.clone().reshape([per_sample, 1, length]).expand(pairs);
        let apart = regions.reshape([per_sample, length, 1]).expand(pairs).not_equal(columns);
        let lowered = apart.float().cast(scores.dtype()) * -100.0;
        let grouped = scores.reshape([windows / per_sample, per_sample, heads, length, length]);
        scores = (grouped + lowered.reshape([1, per_sample, 1, length, length])).reshape([windows, heads, length, length]);
    }
    ([queries, keys, values], cast(activation::softmax(scores, 3), dtype))
}

pub fn attention<B: KernelBackend>(
    qkv: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    regions: Option<FloatTensor<B>>,
    config: AttentionConfig,
) -> FloatTensor<B> {
    let ([_, _, values], weights) = weights::<B>(qkv, bias, regions, config);
    let [windows, heads, length, per_head] = values.dims();
    primitive(weights.matmul(values).swap_dims(1, 2).reshape([windows, length, heads * per_head]))
}

pub fn attention_backward<B: KernelBackend>(
    qkv: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    regions: Option<FloatTensor<B>>,
    dy: FloatTensor<B>,
    config: AttentionConfig,
) -> AttentionGrads<B> {
    let with_bias = bias.is_some();
    let ([queries, keys, values], weights) = weights::<B>(qkv, bias, regions, config);
    let [windows, heads, length, per_head] = values.dims();
    let dy = tensor::<B, 3>(dy).reshape([windows, length, heads, per_head]).swap_dims(1, 2);
    let dvalues = weights.clone().transpose().matmul(dy.clone());
    let dweights = dy.matmul(values.transpose());
    // Sums of half precision are wide; the bias has its gradient from them.
    let (dtype, weights, dweights) = (weights.dtype(), wide(weights), wide(dweights));
    let mean = (weights.clone() * dweights.clone()).sum_dim(3);
    let wide_dscores = weights * (dweights - mean);
    let dscores = cast(wide_dscores.clone(), dtype);
    let dqueries = dscores.clone().matmul(keys) * (per_head as f64).powf(-0.5);
    let dkeys = dscores.clone().transpose().matmul(queries);
    let parts = [dqueries, dkeys, dvalues].map(|part| part.swap_dims(1, 2).reshape([windows, length, 1, heads * per_head]));
    AttentionGrads {
        qkv: primitive(Tensor::cat(parts.to_vec(), 2).reshape([windows, length, 3 * heads * per_head])),
        bias: with_bias.then(|| primitive(wide_dscores.sum_dim(0).reshape([heads, length, length]))),
    }
}
