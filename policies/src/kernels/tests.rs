//! The kernels against naive loops in `f64`, against Burn's own operations and autodiff, across instruction sets and
//! numbers of threads.

use super::backend::Window;
use super::conv;
use super::conv_weight::weight_gradient;
use super::geometry::{Dims, Volumes};
use super::pack::Epilogue;
use super::simd::Isa;
use super::*;
use burn::backend::{Autodiff, Flex};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn::tensor::{DType, TensorData, activation, module};

mod fused;
mod moves;
mod rows;
mod step;
mod threads;

type Cpu = Autodiff<Flex>;

/// Repeatable values in -1..1.
fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2654435761).max(1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn len(dims: Dims) -> usize {
    dims.iter().product()
}

/// Largest difference relative to the largest magnitude.
fn check_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * scale, "{what}: {f} at {i}, expected {e}, scale {scale}");
    }
}

/// Output, input gradient and weight gradient by the definition.
fn naive(x: &[f32], xd: Dims, w: &[f32], wd: Dims, dy: &[f32], window: Window) -> [Vec<f32>; 3] {
    let [n, ci, size @ ..] = xd;
    let [co, _, k @ ..] = wd;
    let out = window.output(size);
    let (mut y, mut dx, mut dw) = (vec![0f64; n * co * out.iter().product::<usize>()], vec![0f64; x.len()], vec![0f64; w.len()]);
    let inside = |a: usize, o: usize, t: usize| (o * window.stride[a] + t).checked_sub(window.padding[a]).filter(|&i| i < size[a]);
    for (n, o) in (0..n).flat_map(|n| (0..co).map(move |o| (n, o))) {
        for p in 0..out.iter().product() {
            let yi = (n * co + o) * out.iter().product::<usize>() + p;
            let (z, r, q) = (p / out[2] / out[1], p / out[2] % out[1], p % out[2]);
            for (c, t) in (0..ci).flat_map(|c| (0..k.iter().product()).map(move |t| (c, t))) {
                let (kz, kr, kq) = (t / k[2] / k[1], t / k[2] % k[1], t % k[2]);
                let (Some(z), Some(r), Some(q)) = (inside(0, z, kz), inside(1, r, kr), inside(2, q, kq)) else { continue };
                let xi = (((n * ci + c) * size[0] + z) * size[1] + r) * size[2] + q;
                let wi = (o * ci + c) * k.iter().product::<usize>() + t;
                y[yi] += x[xi] as f64 * w[wi] as f64;
                dx[xi] += dy[yi] as f64 * w[wi] as f64;
                dw[wi] += dy[yi] as f64 * x[xi] as f64;
            }
        }
    }
    [y, dx, dw].map(|v| v.into_iter().map(|v| v as f32).collect())
}

fn check_conv(n: usize, [ci, co]: [usize; 2], size: [usize; 3], kernel: [usize; 3], stride: [usize; 3], padding: [usize; 3]) {
    let window = Window { kernel, stride, padding };
    let out = window.output(size);
    let xd = [n, ci, size[0], size[1], size[2]];
    let wd = [co, ci, kernel[0], kernel[1], kernel[2]];
    let yd = [n, co, out[0], out[1], out[2]];
    let (x, w, dy) = (values(len(xd), 1), values(len(wd), 2), values(len(yd), 3));
    let [y, dx, dw] = naive(&x, xd, &w, wd, &dy, window);
    let [x, w, dy] = [(&x, xd), (&w, wd), (&dy, yd)].map(|(values, dims)| Volumes { values, dims });
    for &isa in Isa::all() {
        let what = |name: &str| format!("{name} {isa:?} {xd:?} {wd:?} {window:?}");
        check_close(&what("y"), &conv::forward(isa, x, w, window, Epilogue::default()), &y, 1e-5);
        check_close(&what("dx"), &conv::input_gradient(isa, dy, w, None, size, window), &dx, 1e-5);
        check_close(&what("dw"), &weight_gradient(isa, x, dy, window), &dw, 1e-5);
        if window == (Window { kernel: [1; 3], stride: [1; 3], padding: [0; 3] }) {
            check_close(&what("pointwise y"), &pointwise::forward(isa, x, w.values, Epilogue::default()), &y, 1e-5);
            check_close(&what("pointwise dx"), &pointwise::input_gradient(isa, dy, w.values), &dx, 1e-5);
            check_close(&what("pointwise dw"), &pointwise::weight_gradient(isa, x, dy), &dw, 1e-5);
        }
    }
}

#[test]
fn convolution_equals_naive_loops() {
    // Kernels, strides and paddings that the networks use.
    check_conv(2, [8, 16], [5, 6, 16], [3; 3], [1; 3], [1; 3]);
    check_conv(1, [1, 64], [7, 7, 9], [7; 3], [1; 3], [3; 3]);
    check_conv(1, [1, 8], [9, 8, 12], [7; 3], [2; 3], [3; 3]);
    check_conv(2, [2, 8], [6, 6, 8], [3; 3], [2; 3], [1; 3]);
    check_conv(3, [24, 48], [4, 6, 4], [1; 3], [2; 3], [0; 3]);
    check_conv(2, [16, 2], [4, 4, 4], [1; 3], [1; 3], [0; 3]);
    check_conv(2, [5, 7], [4, 6, 8], [2; 3], [2; 3], [0; 3]);
    check_conv(9, [48, 24], [3, 3, 2], [3; 3], [1; 3], [1; 3]);
    // Every remainder of the channel and width blocks.
    for channels in 1..=9 {
        check_conv(1, [channels, 10 - channels], [2, 3, 1 + channels], [3; 3], [1; 3], [1; 3]);
        check_conv(1, [17, 15 + channels], [1, 2, 3], [1, 2, 3], [1; 3], [0, 1, 1]);
    }
    // Size 1, strides that don't divide, unequal axes, padding at and beyond the kernel.
    check_conv(1, [3, 4], [1; 3], [3; 3], [1; 3], [1; 3]);
    check_conv(2, [3, 4], [7, 8, 10], [3, 2, 3], [2, 3, 2], [0, 1, 1]);
    check_conv(1, [2, 3], [5, 4, 6], [1, 2, 3], [3, 1, 2], [2, 2, 3]);
    check_conv(1, [2, 2], [1, 1, 1], [2; 3], [2; 3], [1; 3]);
    check_conv(1, [3, 3], [4, 5, 96], [3; 3], [1; 3], [1; 3]);
}

/// More positions than a task takes, and than are summed between two visits; every remainder of the blocks of columns.
#[test]
fn convolution_of_a_single_tap_equals_naive_loops() {
    for (n, channels, size) in [(2, [3, 5], [9, 7, 13]), (1, [40, 33], [3, 5, 7]), (3, [1, 2], [1, 1, 1]), (1, [9, 56], [2, 3, 43])] {
        check_conv(n, channels, size, [1; 3], [1; 3], [0; 3]);
    }
}

#[test]
fn convolution_splits_long_sums_and_large_batches() {
    // More than `DEPTH` products per output; more images than fit a group; many output channels.
    check_conv(1, [520, 9], [2, 2, 3], [3; 3], [1; 3], [1; 3]);
    check_conv(3, [64, 2], [32, 32, 26], [1; 3], [1; 3], [0; 3]);
    check_conv(2, [40, 530], [2, 3, 2], [3; 3], [1; 3], [1; 3]);
}

/// Vectors over output channels: each remainder of their blocks, of the offsets', and of the positions; several images; strides.
#[test]
fn stems_equal_naive_loops() {
    for (n, [inputs, outputs], size, kernel, stride) in [
        (1, [1, 64], [9, 8, 13], [7; 3], [1; 3]),
        (2, [1, 48], [8, 9, 11], [3; 3], [1; 3]),
        (3, [2, 8], [5, 4, 7], [3; 3], [2; 3]),
        (1, [1, 13], [1, 1, 1], [3; 3], [1; 3]),
        (2, [8, 24], [4, 3, 5], [2, 2, 1], [1; 3]),
        (1, [1, 120], [6, 7, 40], [1, 2, 5], [1, 2, 1]),
    ] {
        let window = Window { kernel, stride, padding: kernel.map(|k| k / 2) };
        assert!(conv_stem::fits(inputs, outputs, window), "{inputs} to {outputs} channels go the other way");
        check_conv(n, [inputs, outputs], size, kernel, stride, window.padding);
    }
}

/// Odd sides, channels that are no multiple of 8, every padding, more blocks than a task takes, several images.
#[test]
fn wide_convolution_by_minimal_filtering_equals_naive_loops() {
    for (n, channels, size, padding) in [
        (1, [32, 40], [9, 11, 13], [1; 3]),
        (2, [35, 33], [13, 12, 12], [0; 3]),
        (1, [40, 32], [8, 10, 14], [2, 1, 0]),
        (1, [32, 32], [3, 5, 101], [1; 3]),
        // Blocks of output channels of each width.
        (1, [48, 48], [10, 12, 11], [1; 3]),
        (1, [33, 83], [9, 11, 13], [1; 3]),
        // Point by point, in two goes.
        (1, [129, 257], [3, 4, 97], [1; 3]),
    ] {
        let window = Window { kernel: [3; 3], stride: [1; 3], padding };
        assert!(winograd::fits(channels, window, window.output(size)), "{channels:?} {size:?} goes the direct way");
        check_conv(n, channels, size, [3; 3], [1; 3], padding);
    }
}

type X = Tensor<Cpu, 5>;
type Op<'a> = &'a (dyn Fn(&[X]) -> X + Sync);

/// The output of `op`, and the gradients of its inputs for a fixed random gradient of the output.
fn gradients(op: Op, inputs: &[Dims], dtype: DType) -> Vec<Vec<f32>> {
    let random =
        |(i, dims): (usize, Dims)| X::from_data(TensorData::new(values(len(dims), i as u32 + 1), dims), &Default::default()).cast(dtype);
    let inputs: Vec<X> = inputs.iter().copied().enumerate().map(random).map(|x| x.detach().require_grad()).collect();
    let y = op(&inputs);
    let dy = random((99, y.dims()));
    let grads = (y.clone() * dy).sum().backward();
    let mut found = vec![y.inner()];
    found.extend(inputs.iter().map(|x| x.grad(&grads).expect("a gradient")));
    found.into_iter().map(|t| t.into_data().convert::<f32>().to_vec().expect("f32")).collect()
}

/// `ours` (our kernels, and their fallbacks in `f64`) against `burn`, composed from Burn's operations.
fn check_gradients(what: &str, ours: Op, burn: Op, inputs: &[Dims]) {
    let expected = gradients(burn, inputs, DType::F64);
    for dtype in [DType::F32, DType::F64] {
        for (i, (f, e)) in gradients(ours, inputs, dtype).iter().zip(&expected).enumerate() {
            check_close(&format!("{what} {inputs:?} {dtype:?}, result {i}"), f, e, 1e-5);
        }
    }
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| gradients(ours, inputs, DType::F32))
    };
    let one = with(1);
    for threads in [2, 3] {
        assert!(one == with(threads), "{what} {inputs:?}: {threads} threads give other bits than one");
    }
}

fn channels(x: &X) -> Tensor<Cpu, 1> {
    x.clone().flatten(0, 4)
}

#[test]
fn convolution_under_autodiff_equals_burn() {
    for (x, o, kernel, stride, padding) in [
        ([3, 8, 6, 7, 16], 16, [3; 3], [1; 3], [1; 3]),
        ([2, 3, 9, 8, 7], 5, [3, 1, 2], [2, 1, 2], [1, 0, 1]),
        ([8, 48, 6, 6, 4], 48, [3; 3], [1; 3], [1; 3]),
        ([4, 24, 12, 12, 8], 48, [1; 3], [1; 3], [0; 3]),
        ([2, 32, 8, 16, 10], 32, [3; 3], [1; 3], [1; 3]),
    ] {
        let inputs = [x, [o, x[1], kernel[0], kernel[1], kernel[2]], [o, 1, 1, 1, 1]];
        let ours = |t: &[X]| conv3d(t[0].clone(), t[1].clone(), Some(channels(&t[2])), stride, padding);
        let options = || ConvOptions::new(stride, padding, [1; 3], 1);
        let burn = |t: &[X]| module::conv3d(t[0].clone(), t[1].clone(), Some(channels(&t[2])), options());
        check_gradients("conv3d", &ours, &burn, &inputs);
        // A transposed input isn't contiguous.
        let swap = |x: &X| x.clone().swap_dims(0, 1).swap_dims(0, 1).swap_dims(2, 4);
        let turned = [[x[0], x[1], x[4], x[3], x[2]], inputs[1]];
        let ours = |t: &[X]| conv3d(swap(&t[0]), t[1].clone(), None, stride, padding);
        let burn = |t: &[X]| module::conv3d(swap(&t[0]), t[1].clone(), None, options());
        check_gradients("conv3d of a view", &ours, &burn, &turned);
    }
}

#[test]
fn transposed_convolution_under_autodiff_equals_burn() {
    for (x, o, stride) in [([2, 24, 3, 3, 2], 8, [2; 3]), ([3, 5, 4, 3, 6], 7, [1, 2, 2]), ([1, 2, 1, 1, 1], 1, [3, 1, 2])] {
        let inputs = [x, [x[1], o, stride[0], stride[1], stride[2]], [o, 1, 1, 1, 1]];
        let ours = |t: &[X]| conv_transpose3d(t[0].clone(), t[1].clone(), Some(channels(&t[2])), stride);
        let options = || ConvTransposeOptions::new(stride, [0; 3], [0; 3], [1; 3], 1);
        let burn = |t: &[X]| module::conv_transpose3d(t[0].clone(), t[1].clone(), Some(channels(&t[2])), options());
        check_gradients("conv_transpose3d", &ours, &burn, &inputs);
    }
}

#[test]
fn norm_act_under_autodiff_equals_burn() {
    let spread = |x: &X| x.clone() * 3.0 + 2.0;
    for (dims, groups) in [([2, 8, 5, 6, 7], 8), ([3, 12, 4, 4, 4], 4), ([1, 6, 24, 24, 16], 1), ([2, 3, 1, 2, 3], 3)] {
        for slope in [None, Some(0.0), Some(0.01)] {
            let per_channel = [dims[1], 1, 1, 1, 1];
            let burn = |x: &X, gamma: Option<&X>, beta: Option<&X>, residual: Option<&X>| {
                let grouped = spread(x).reshape([dims[0], groups, len(dims) / dims[0] / groups]);
                let centred = grouped.clone() - grouped.mean_dim(2);
                let mut y = (centred.clone() / (centred.clone() * centred).mean_dim(2).add_scalar(1e-3).sqrt()).reshape(dims);
                y = gamma.map_or(y.clone(), |gamma| y * gamma.clone().swap_dims(0, 1));
                y = beta.map_or(y.clone(), |beta| y + beta.clone().swap_dims(0, 1));
                y = residual.map_or(y.clone(), |residual| y + residual.clone());
                match slope {
                    None => y,
                    Some(slope) => activation::leaky_relu(y, slope as f64),
                }
            };
            check_gradients(
                &format!("norm_add_act {groups} {slope:?}"),
                &|t| {
                    let (gamma, beta) = (Some(channels(&t[1])), Some(channels(&t[2])));
                    norm_add_act(spread(&t[0]), gamma, beta, groups, 1e-3, Some(t[3].clone()), slope)
                },
                &|t| burn(&t[0], Some(&t[1]), Some(&t[2]), Some(&t[3])),
                &[dims, per_channel, per_channel, dims],
            );
            check_gradients(
                &format!("norm_act {groups} {slope:?}"),
                &|t| norm_act(spread(&t[0]), None, None, groups, 1e-3, slope),
                &|t| burn(&t[0], None, None, None),
                &[dims],
            );
            check_gradients(
                &format!("norm_act with beta {groups} {slope:?}"),
                &|t| norm_act(spread(&t[0]), None, Some(channels(&t[1])), groups, 1e-3, slope),
                &|t| burn(&t[0], None, Some(&t[1]), None),
                &[dims, per_channel],
            );
        }
    }
}

/// A mean far from 0 must not eat the variance (an f32 mean near 1000 is exact to 3e-5, 1e-4 of a standard deviation here).
#[test]
fn norm_act_of_shifted_values() {
    let dims = [1, 2, 16, 24, 16];
    let x: Vec<f32> = values(len(dims), 5).iter().map(|v| 1000.0 + v).collect();
    let config = NormAct { groups: 2, epsilon: 0.0, negative_slope: None };
    for &isa in Isa::all() {
        let y = norm::forward(isa, Volumes { values: &x, dims }, None, None, None, config);
        for y in y.chunks(len(dims) / 2) {
            let mean = y.iter().map(|&v| v as f64).sum::<f64>() / y.len() as f64;
            let variance = y.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / y.len() as f64;
            assert!(mean.abs() < 3e-4 && (variance - 1.0).abs() < 1e-4, "{isa:?}: mean {mean}, variance {variance}");
        }
    }
}

#[test]
fn max_pool_equals_its_fallback_and_counts_ties_once() {
    for (dims, kernel, stride, padding) in [
        ([2, 3, 7, 8, 9], [3; 3], [2; 3], [1; 3]),
        ([1, 2, 6, 6, 4], [2; 3], [2; 3], [0; 3]),
        ([1, 2, 5, 4, 6], [1, 2, 3], [1, 3, 2], [0, 1, 1]),
    ] {
        let pool = |t: &[X]| max_pool3d(t[0].clone(), kernel, stride, padding);
        let window = Window { kernel, stride, padding };
        let fallback =
            |t: &[X]| Tensor::from_primitive(TensorPrimitive::Float(fallback::max_pool3d::<Cpu>(primitive(t[0].clone()), window)));
        check_gradients("max_pool3d", &pool, &fallback, &[dims]);
    }
    let window = Window { kernel: [1, 1, 3], stride: [1; 3], padding: [0; 3] };
    let x = Volumes { values: &[2.0, 2.0, 1.0, f32::NAN, 5.0], dims: [1, 1, 1, 1, 5] };
    assert_eq!(pool::max_forward(Isa::detect(), x, window)[0], 2.0);
    assert!(pool::max_forward(Isa::Portable, x, window)[1].is_nan());
    assert_eq!(pool::max_backward(x, &[1.0, 10.0, 100.0], window), [1.0, 0.0, 0.0, 110.0, 0.0]);
}

#[test]
fn global_pools() {
    let x = X::from_data(TensorData::new((0..16).map(|v| v as f32).collect::<Vec<_>>(), [1, 2, 2, 2, 2]), &Default::default());
    let data = |t: Tensor<Cpu, 2>| t.into_data().to_vec::<f32>().expect("f32");
    assert_eq!(data(global_avg_pool3d(x.clone())), [3.5, 11.5]);
    assert_eq!(data(global_max_pool3d(x)), [7.0, 15.0]);
}

/// Burn's own operations that networks and losses use. `sum` of 4 Mi values and more is missing: it adds its chunks as
/// the threads split them.
#[test]
fn burn_operations_give_the_same_bits_for_any_number_of_threads() {
    let random = |dims: Dims| X::from_data(TensorData::new(values(len(dims), 7), dims), &Default::default()).inner();
    let (x, y) = (random([4, 8, 24, 24, 16]), random([1, 1, 1, 700, 900]).reshape([700, 900]));
    let results = || {
        let flat = x.clone().reshape([2, 147456]);
        [
            x.clone().sum().into_data(),
            x.clone().mean().into_data(),
            x.clone().sum_dim(1).into_data(),
            flat.clone().sum_dim(1).into_data(),
            flat.clone().mean_dim(0).into_data(),
            activation::softmax(x.clone(), 1).into_data(),
            activation::log_softmax(y.clone(), 1).into_data(),
            y.clone().matmul(y.clone().transpose()).into_data(),
            flat.clone().matmul(flat.transpose()).into_data(),
        ]
    };
    let with = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(results);
    let one = with(1);
    for threads in [2, 3] {
        for (i, (a, b)) in one.iter().zip(with(threads)).enumerate() {
            assert!(a.as_bytes() == b.as_bytes(), "operation {i} with {threads} threads");
        }
    }
}
