//! Layers that every network is made of. Names and shapes of weights are PyTorch's, so that state dicts need no key map.
//!
//! Shapes: `x_NCDHW`; D, H, W are the volume's x, y, z.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Init;
use crate::kernels::{self, KernelBackend};
use crate::precision::wide;

/// How the weights of a convolution are drawn.
#[derive(Clone, Copy, Debug)]
pub enum ConvInit {
    /// Kaiming normal over the outgoing connections, gain of ReLU (ResNet as published).
    FanOut,
    /// Kaiming normal over the incoming connections, gain of leaky ReLU with this slope (nnU-Net).
    FanIn { negative_slope: f64 },
}

/// 3D convolution. `weight` is `[out, in, k, k, k]`.
#[derive(Module, Debug)]
pub struct Conv3d<B: Backend> {
    pub weight: Param<Tensor<B, 5>>,
    pub bias: Option<Param<Tensor<B, 1>>>,
    stride: [usize; 3],
    padding: [usize; 3],
}

impl<B: Backend> Conv3d<B> {
    /// A cubic kernel (odd) with padding `kernel / 2`; the bias starts at 0.
    pub fn new(init: &Init<B>, channels: [usize; 2], kernel: usize, stride: [usize; 3], bias: bool, how: ConvInit) -> Self {
        Self::with_kernel(init, channels, [kernel; 3], stride, bias, how)
    }

    /// As [`Conv3d::new`], with a side of the kernel for each axis.
    pub fn with_kernel(init: &Init<B>, channels: [usize; 2], kernel: [usize; 3], stride: [usize; 3], bias: bool, how: ConvInit) -> Self {
        let [from, to] = channels;
        let [kd, kh, kw] = kernel;
        let volume = kd * kh * kw;
        let std = match how {
            ConvInit::FanOut => (2.0 / (to * volume) as f64).sqrt(),
            ConvInit::FanIn { negative_slope: a } => (2.0 / ((1.0 + a * a) * (from * volume) as f64)).sqrt(),
        };
        Self {
            weight: init.normal("weight", [to, from, kd, kh, kw], std),
            bias: bias.then(|| init.constant("bias", [to], 0.0)),
            stride,
            padding: kernel.map(|side| side / 2),
        }
    }

    /// Cubes of `side` voxels, side by side, to one voxel each.
    pub fn patches(init: &Init<B>, channels: [usize; 2], side: usize, how: ConvInit) -> Self {
        Self { padding: [0; 3], ..Self::with_kernel(init, channels, [side; 3], [side; 3], true, how) }
    }
}

impl<B: KernelBackend> Conv3d<B> {
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
        kernels::conv3d(x_NCDHW, self.weight.val(), self.bias.as_ref().map(Param::val), self.stride, self.padding)
    }

    /// Without the bias, and with what follows, see [`kernels::conv3d_act`].
    pub fn forward_act(
        &self,
        x_NCDHW: Tensor<B, 5>,
        scale: Tensor<B, 1>,
        shift: Tensor<B, 1>,
        shortcut: Option<Tensor<B, 5>>,
        negative_slope: Option<f32>,
    ) -> Tensor<B, 5> {
        kernels::conv3d_act(x_NCDHW, self.weight.val(), scale, shift, self.stride, self.padding, shortcut, negative_slope)
    }
}

/// Transposed convolution whose kernel is its stride: each voxel becomes a block. `weight` is `[in, out, s, s, s]`.
#[derive(Module, Debug)]
pub struct ConvTranspose3d<B: Backend> {
    pub weight: Param<Tensor<B, 5>>,
    pub bias: Option<Param<Tensor<B, 1>>>,
    stride: [usize; 3],
}

impl<B: Backend> ConvTranspose3d<B> {
    /// Every output voxel has `from` incoming connections, hence the deviation (gain 1: no activation follows).
    pub fn new(init: &Init<B>, channels: [usize; 2], stride: [usize; 3], bias: bool) -> Self {
        let [from, to] = channels;
        let [kd, kh, kw] = stride;
        Self {
            weight: init.normal("weight", [from, to, kd, kh, kw], (1.0 / from as f64).sqrt()),
            bias: bias.then(|| init.constant("bias", [to], 0.0)),
            stride,
        }
    }
}

impl<B: KernelBackend> ConvTranspose3d<B> {
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
        kernels::conv_transpose3d(x_NCDHW, self.weight.val(), self.bias.as_ref().map(Param::val), self.stride)
    }
}

/// Linear layer `x W' + b`. `weight` is `[out, in]`, as in PyTorch.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    pub weight: Param<Tensor<B, 2>>,
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> Linear<B> {
    /// Uniform within 1/sqrt(in), as PyTorch draws it; the bias starts at 0, as in the published ResNet.
    pub fn new(init: &Init<B>, from: usize, to: usize) -> Self {
        Self { weight: init.uniform("weight", [to, from], (1.0 / from as f64).sqrt()), bias: init.constant("bias", [to], 0.0) }
    }

    /// `x_NI` -> `[N, O]`, for a few rows; wide.
    pub fn forward(&self, x_NI: Tensor<B, 2>) -> Tensor<B, 2> {
        let ([rows, from], to) = (x_NI.dims(), self.weight.dims()[0]);
        kernels::count(rows * to, from);
        wide(x_NI).matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze()
    }
}

impl<B: KernelBackend> Linear<B> {
    /// `[.., I]` -> `[.., O]`: every row of the last axis.
    pub fn forward_rows<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let mut shape = x.dims();
        let rows = shape[..D - 1].iter().product();
        let y = kernels::linear(x.reshape([rows, shape[D - 1]]), self.weight.val(), Some(self.bias.val()));
        shape[D - 1] = y.dims()[1];
        y.reshape(shape)
    }
}

/// Layer norm over the last axis, epsilon 1e-5.
#[derive(Module, Debug)]
pub struct LayerNorm<B: Backend> {
    pub weight: Param<Tensor<B, 1>>,
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> LayerNorm<B> {
    pub fn new(init: &Init<B>, width: usize) -> Self {
        Self { weight: init.constant("weight", [width], 1.0), bias: init.constant("bias", [width], 0.0) }
    }
}

impl<B: KernelBackend> LayerNorm<B> {
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let shape = x.dims();
        let rows = shape[..D - 1].iter().product();
        kernels::layer_norm(x.reshape([rows, shape[D - 1]]), self.weight.val(), self.bias.val(), 1e-5).reshape(shape)
    }
}

/// Mean of blocks of `stride` voxels; the sides must be divisible by it.
pub fn avg_pool3d<B: Backend>(x_NCDHW: Tensor<B, 5>, stride: [usize; 3]) -> Tensor<B, 5> {
    (0..3).fold(x_NCDHW, |x, axis| match stride[axis] {
        1 => x,
        step => {
            let mut shape = x.dims();
            let length = shape[2 + axis];
            assert!(length.is_multiple_of(step), "avg_pool3d: a side of {length} voxels is not divisible by {step}");
            let before = shape[..2 + axis].iter().product::<usize>() * (length / step);
            let after: usize = shape[3 + axis..].iter().product();
            shape[2 + axis] = length / step;
            x.reshape([before, step, after]).mean_dim(1).reshape(shape)
        }
    })
}

/// Max pooling of ResNet's stem: kernel 3, stride 2, padding 1.
pub fn max_pool3d<B: KernelBackend>(x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
    kernels::max_pool3d(x_NCDHW, [3; 3], [2; 3], [1; 3])
}

/// Every `stride`-th voxel from the first.
pub fn subsample<B: Backend>(x_NCDHW: Tensor<B, 5>, stride: usize) -> Tensor<B, 5> {
    let step = stride as isize;
    x_NCDHW.slice(s![.., .., ..;step, ..;step, ..;step])
}

/// How a whole feature map becomes one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The strongest response of each channel (the published Glance).
    Max,
    /// The mean response of each channel (MONAI's ResNet).
    Avg,
    /// The last layer judges every cell of the feature map, and the most suspicious cell speaks for the whole. The cells can be taught one by
    /// one (`loss.cell_weight`), which a small network learns from far faster than from one answer for the whole.
    Cells,
}

impl Pooling {
    /// Features `x_NCDHW` -> `logits_NK` through the last layer; with [`Pooling::Cells`] also the log-odds of every cell, `[N, D, H, W]`.
    pub fn judge<B: KernelBackend>(self, x_NCDHW: Tensor<B, 5>, last: &Linear<B>) -> (Tensor<B, 2>, Option<Tensor<B, 4>>) {
        let [n, c, d, h, w] = x_NCDHW.dims();
        match self {
            Pooling::Max => (last.forward(kernels::global_max_pool3d(x_NCDHW)), None),
            Pooling::Avg => (last.forward(kernels::global_avg_pool3d(x_NCDHW)), None),
            Pooling::Cells => {
                let voxels = d * h * w;
                let logits = last.forward(x_NCDHW.reshape([n, c, voxels]).swap_dims(1, 2).reshape([n * voxels, c]));
                let odds = (logits.clone().narrow(1, 1, 1) - logits.narrow(1, 0, 1)).reshape([n, voxels]);
                let most = odds.clone().max_dim(1);
                (Tensor::cat(vec![most.zeros_like(), most], 1), Some(odds.reshape([n, d, h, w])))
            }
        }
    }
}

/// Trilinear interpolation to a multiple of the size, corners not aligned (PyTorch's default). One axis after the other, each a product
/// with a banded matrix.
pub fn upsample_trilinear<B: Backend>(x_NCDHW: Tensor<B, 5>, scale: [usize; 3]) -> Tensor<B, 5> {
    (0..3).fold(x_NCDHW, |x, axis| match scale[axis] {
        1 => x,
        scale => {
            let length = x.dims()[2 + axis];
            let weights: Tensor<B, 2> =
                Tensor::from_data(TensorData::new(interpolation(length, scale), [length, length * scale]), (&x.device(), x.dtype()));
            x.swap_dims(2 + axis, 4).matmul(weights.unsqueeze()).swap_dims(2 + axis, 4)
        }
    })
}

/// Weights `[length, length * scale]` of linear interpolation: output j sits at input coordinate (j + 0.5) / scale - 0.5, clamped.
fn interpolation(length: usize, scale: usize) -> Vec<f32> {
    let out = length * scale;
    let mut weights = vec![0.0; length * out];
    for j in 0..out {
        let at = ((j as f64 + 0.5) / scale as f64 - 0.5).clamp(0.0, (length - 1) as f64);
        let low = at.floor() as usize;
        let high = (low + 1).min(length - 1);
        weights[low * out + j] += (1.0 - at.fract()) as f32;
        weights[high * out + j] += at.fract() as f32;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;
    use burn::backend::flex::FlexDevice;

    fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<Flex, D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
    }

    fn values<const D: usize>(t: Tensor<Flex, D>) -> Vec<f32> {
        t.into_data().to_vec().unwrap()
    }

    #[test]
    fn first_weights_have_the_deviation_asked_for() {
        let place = Init::<Flex>::new(3, "net", &FlexDevice);
        let std = |conv: Conv3d<Flex>| {
            let w = values(conv.weight.val());
            (w.iter().map(|v| v * v).sum::<f32>() / w.len() as f32).sqrt()
        };
        let new = |how| Conv3d::new(&place, [16, 32], 3, [1; 3], false, how);
        for (how, expected) in [
            (ConvInit::FanOut, (2.0 / (32.0 * 27.0f32)).sqrt()),
            (ConvInit::FanIn { negative_slope: 0.0 }, (2.0 / (16.0 * 27.0f32)).sqrt()),
        ] {
            assert!((std(new(how)) / expected - 1.0).abs() < 0.03, "{how:?}");
        }
        let uniform = values(place.uniform("u", [10_000], 0.5).val());
        assert!(uniform.iter().all(|v| v.abs() <= 0.5) && uniform.iter().any(|v| *v > 0.45) && uniform.iter().any(|v| *v < -0.45));
    }

    #[test]
    fn both_ways_through_a_linear_layer_count_its_arithmetic() {
        let layer = Linear::<Flex>::new(&Init::new(0, "net", &FlexDevice), 3, 5);
        let before = kernels::flops();
        layer.forward(Tensor::zeros([7, 3], &FlexDevice));
        assert_eq!(kernels::flops() - before, 2 * 7 * 3 * 5);
        layer.forward_rows(Tensor::<Flex, 2>::zeros([7, 3], &FlexDevice));
        assert_eq!(kernels::flops() - before, 2 * (2 * 7 * 3 * 5));
        // Of a head on cells every cell is judged.
        let before = kernels::flops();
        Pooling::Cells.judge(Tensor::zeros([2, 3, 2, 2, 4], &FlexDevice), &layer);
        assert_eq!(kernels::flops() - before, 2 * (2 * 2 * 2 * 4) * 3 * 5);
    }

    #[test]
    fn max_pooling_sees_its_27_neighbours() {
        let [d, h, w] = [5usize, 4, 3];
        let x: Vec<f32> = (0..d * h * w).map(|i| ((i * 37) % 61) as f32 - 100.0).collect();
        let found = values(max_pool3d(tensor(&x, [1, 1, d, h, w])));
        let mut expected = vec![];
        for (i, j, k) in (0..3).flat_map(|i| (0..2).flat_map(move |j| (0..2).map(move |k| (i, j, k)))) {
            let near = |at: usize, n: usize| (2 * at).saturating_sub(1)..(2 * at + 2).min(n);
            let voxels = near(i, d).flat_map(|a| near(j, h).flat_map(move |b| near(k, w).map(move |c| (a, b, c))));
            expected.push(voxels.map(|(a, b, c)| x[(a * h + b) * w + c]).fold(f32::MIN, f32::max));
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn trilinear_upsampling_has_pytorchs_values() {
        // torch.nn.functional.interpolate([0, 1, 3], scale_factor=2, mode="linear")
        let x = tensor(&[0.0, 1.0, 3.0], [1, 1, 1, 1, 3]);
        assert_eq!(values(upsample_trilinear(x, [1, 1, 2])), [0.0, 0.25, 0.75, 1.5, 2.5, 3.0]);
        let y = upsample_trilinear(tensor(&[0.0, 4.0], [1, 1, 2, 1, 1]), [2, 2, 1]);
        assert_eq!(y.dims(), [1, 1, 4, 2, 1]);
        assert_eq!(values(y), [0.0, 0.0, 1.0, 1.0, 3.0, 3.0, 4.0, 4.0]);
    }
}
