//! The kernels against naive loops in `f64`, against Burn's own operations and autodiff, across instruction sets and
//! numbers of threads.

use super::backend::Window;
use super::conv::{self, Dims};
use super::conv_weight::weight_gradient;
use super::simd::Isa;
use super::*;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{TensorData, module, ops::ConvOptions};

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
    for isa in [Isa::Portable, Isa::detect()] {
        let what = |name: &str| format!("{name} {isa:?} {xd:?} {wd:?} {window:?}");
        check_close(&what("y"), &conv::forward(isa, &x, xd, &w, wd, None, window), &y, 1e-5);
        check_close(&what("dx"), &conv::input_gradient(isa, &dy, yd, &w, wd, None, size, window), &dx, 1e-5);
        check_close(&what("dw"), &weight_gradient(isa, &x, xd, &dy, yd, window), &dw, 1e-5);
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

#[test]
fn convolution_splits_long_sums_and_large_batches() {
    // More than `DEPTH` products per output; more images than fit a group; many output channels.
    check_conv(1, [520, 9], [2, 2, 3], [3; 3], [1; 3], [1; 3]);
    check_conv(3, [64, 2], [32, 32, 26], [1; 3], [1; 3], [0; 3]);
    check_conv(2, [40, 530], [2, 3, 2], [3; 3], [1; 3], [1; 3]);
}
