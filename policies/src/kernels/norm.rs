//! Group norm, residual and activation in one pass, and its gradients in two, on slices.
//!
//! One task per sample and group, whose values are contiguous. Plain loops, compiled for each instruction set.

use super::backend::NormAct;
use super::geometry::{Dims, Volumes};
use super::simd::{Isa, Kernel, Lanes, dispatch};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Values summed in `f32` before they go on in `f64`; also what is read twice for the variance, from the first cache level.
const CHUNK: usize = 4096;

/// Sums of `term(i)` over `0..len` in 16 strands, then in `f64`.
#[inline(always)]
fn sum(len: usize, term: impl Fn(usize) -> f32) -> f64 {
    const STRANDS: usize = 16;
    let mut strands = [0.0f32; STRANDS];
    let whole = len / STRANDS * STRANDS;
    for i in (0..whole).step_by(STRANDS) {
        for (s, strand) in strands.iter_mut().enumerate() {
            *strand += term(i + s);
        }
    }
    let rest = (whole..len).map(&term).sum::<f32>();
    strands.iter().map(|&strand| strand as f64).sum::<f64>() + rest as f64
}

/// Mean and biased variance, chunk by chunk (Chan, Golub and LeVeque's update), so that the data is read from memory once.
#[inline(always)]
fn mean_and_variance(x: &[f32]) -> (f64, f64) {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for chunk in x.chunks(CHUNK) {
        let n = chunk.len() as f64;
        let chunk_mean = sum(chunk.len(), |i| chunk[i]) / n;
        let centre = chunk_mean as f32;
        let chunk_squares = sum(chunk.len(), |i| (chunk[i] - centre) * (chunk[i] - centre));
        let (delta, total) = (chunk_mean - mean, count + n);
        squares += chunk_squares + delta * delta * count * n / total;
        mean += delta * n / total;
        count = total;
    }
    (mean, squares / count)
}

/// What forward and backward share about a batch.
#[derive(Clone, Copy)]
struct Layout<'a> {
    gamma: Option<&'a [f32]>,
    /// Values per channel, and channels per group.
    volume: usize,
    channels: usize,
    groups: usize,
    epsilon: f64,
    /// 1 without activation.
    slope: f32,
}

impl<'a> Layout<'a> {
    fn new(dims: Dims, gamma: Option<&'a [f32]>, config: NormAct) -> Self {
        let [_, channels, d, h, w] = dims;
        let slope = config.negative_slope.unwrap_or(1.0);
        Layout { gamma, volume: d * h * w, channels: channels / config.groups, groups: config.groups, epsilon: config.epsilon, slope }
    }

    fn group_len(&self) -> usize {
        self.channels * self.volume
    }

    /// Index of the first channel of the `task`-th sample and group.
    fn first_channel(&self, task: usize) -> usize {
        task % self.groups * self.channels
    }

    fn gamma(&self, channel: usize) -> f32 {
        self.gamma.map_or(1.0, |gamma| gamma[channel])
    }
}

/// See [`norm_add_act`](super::norm_add_act).
pub fn forward(isa: Isa, x: Volumes, gamma: Option<&[f32]>, beta: Option<&[f32]>, residual: Option<&[f32]>, config: NormAct) -> Vec<f32> {
    let layout = Layout::new(x.dims, gamma, config);
    let x = x.values;
    let len = layout.group_len();
    let mut y = Vec::with_capacity(x.len());
    y.spare_capacity_mut()[..x.len()].par_chunks_mut(len).enumerate().for_each(|(task, y)| {
        let group = task * len..(task + 1) * len;
        let first_channel = layout.first_channel(task);
        let forward = Forward { layout, first_channel, x: &x[group.clone()], beta, residual: residual.map(|r| &r[group]), y };
        // SAFETY: `isa` is detected or portable.
        unsafe { dispatch(isa, forward) }
    });
    // SAFETY: each task wrote all values of its group.
    unsafe { y.set_len(x.len()) };
    y
}

struct Forward<'a> {
    layout: Layout<'a>,
    first_channel: usize,
    x: &'a [f32],
    beta: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (mean, variance) = mean_and_variance(self.x);
        let (mean, inverse_std) = (mean as f32, (1.0 / (variance + self.layout.epsilon).sqrt()) as f32);
        let (volume, slope) = (self.layout.volume, self.layout.slope);
        for (c, (x, y)) in self.x.chunks_exact(volume).zip(self.y.chunks_exact_mut(volume)).enumerate() {
            let channel = self.first_channel + c;
            let scale = inverse_std * self.layout.gamma(channel);
            let shift = self.beta.map_or(0.0, |beta| beta[channel]);
            let act = |v: f32| if v > 0.0 { v } else { slope * v };
            match self.residual.map(|r| &r[c * volume..(c + 1) * volume]) {
                Some(r) => {
                    for ((x, r), y) in x.iter().zip(r).zip(y) {
                        y.write(act((x - mean) * scale + shift + r));
                    }
                }
                None => {
                    for (x, y) in x.iter().zip(y) {
                        y.write(act((x - mean) * scale + shift));
                    }
                }
            }
        }
    }
}

/// Gradients of [`forward`].
pub struct Gradients {
    pub x: Vec<f32>,
    /// Before the activation; empty unless asked for.
    pub residual: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
}

/// Gradients from the input, the output and the output's gradient; see `KernelBackend::kernel_norm_act_backward`.
pub fn backward(isa: Isa, x: Volumes, gamma: Option<&[f32]>, y: &[f32], dy: &[f32], with_residual: bool, config: NormAct) -> Gradients {
    let Volumes { values: x, dims } = x;
    let layout = Layout::new(dims, gamma, config);
    let (len, total) = (layout.group_len(), x.len());
    let residual_len = if with_residual { total } else { 0 };
    let (mut dx, mut residual) = (Vec::with_capacity(total), Vec::with_capacity(residual_len));
    let mut residual_chunks: Vec<_> = residual.spare_capacity_mut()[..residual_len].chunks_mut(len).map(Some).collect();
    residual_chunks.resize_with(total / len, || None);
    // `[sample][channel]`: sums of the gradient, and of the gradient times the normalised value.
    let mut sums = vec![[0.0f64; 2]; dims[0] * dims[1]];
    let outputs = dx.spare_capacity_mut()[..total].par_chunks_mut(len).zip(residual_chunks).zip(sums.par_chunks_mut(layout.channels));
    outputs.enumerate().for_each(|(task, ((dx, residual), sums))| {
        let group = task * len..(task + 1) * len;
        let first_channel = layout.first_channel(task);
        let (x, y, dy) = (&x[group.clone()], &y[group.clone()], &dy[group]);
        // SAFETY: `isa` is detected or portable.
        unsafe { dispatch(isa, Backward { layout, first_channel, x, y, dy, dx, residual, sums }) }
    });
    // SAFETY: each task wrote all values of its group, in both where there are two.
    unsafe {
        dx.set_len(total);
        residual.set_len(residual_len);
    }
    let channels = dims[1];
    let over_batch =
        |which: usize| (0..channels).map(|c| (0..dims[0]).map(|n| sums[n * channels + c][which]).sum::<f64>() as f32).collect();
    Gradients { x: dx, residual, gamma: over_batch(1), beta: over_batch(0) }
}

struct Backward<'a> {
    layout: Layout<'a>,
    first_channel: usize,
    x: &'a [f32],
    y: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [MaybeUninit<f32>],
    residual: Option<&'a mut [MaybeUninit<f32>]>,
    sums: &'a mut [[f64; 2]],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let (mean, variance) = mean_and_variance(self.x);
        let (mean, inverse_std) = (mean as f32, (1.0 / (variance + self.layout.epsilon).sqrt()) as f32);
        let (volume, slope) = (self.layout.volume, self.layout.slope);
        // The gradient before the activation.
        let before = |y: f32, dy: f32| if y > 0.0 { dy } else { slope * dy };
        let (mut total, mut projection) = (0.0, 0.0);
        for (c, sums) in self.sums.iter_mut().enumerate() {
            for start in (c * volume..(c + 1) * volume).step_by(CHUNK) {
                let range = start..(start + CHUNK).min((c + 1) * volume);
                let (x, y, dy) = (&self.x[range.clone()], &self.y[range.clone()], &self.dy[range]);
                sums[0] += sum(x.len(), |i| before(y[i], dy[i]));
                sums[1] += sum(x.len(), |i| before(y[i], dy[i]) * ((x[i] - mean) * inverse_std));
            }
            let gamma = self.layout.gamma(self.first_channel + c) as f64;
            total += gamma * sums[0];
            projection += gamma * sums[1];
        }
        let count = self.x.len() as f64;
        let constant = (total / count) as f32 * inverse_std;
        let linear = (projection / count) as f32 * inverse_std * inverse_std;
        for c in 0..self.layout.channels {
            let range = c * volume..(c + 1) * volume;
            let scale = inverse_std * self.layout.gamma(self.first_channel + c);
            let (x, y, dy) = (&self.x[range.clone()], &self.y[range.clone()], &self.dy[range.clone()]);
            for (((x, y), dy), dx) in x.iter().zip(y).zip(dy).zip(&mut self.dx[range.clone()]) {
                dx.write(before(*y, *dy) * scale - constant - (x - mean) * linear);
            }
            if let Some(residual) = &mut self.residual {
                for ((y, dy), residual) in y.iter().zip(dy).zip(&mut residual[range]) {
                    residual.write(before(*y, *dy));
                }
            }
        }
    }
}

/// Mean and biased variance of each channel over samples and volume.
pub fn channel_moments(isa: Isa, x: Volumes) -> [Vec<f32>; 2] {
    struct Moments<'a>(&'a [f32], &'a mut (f64, f64));
    impl Kernel for Moments<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            *self.1 = mean_and_variance(self.0);
        }
    }
    let [batch, channels, d, h, w] = x.dims;
    let mut moments = vec![(0.0f64, 0.0f64); batch * channels];
    // SAFETY: `isa` is detected or portable.
    moments.par_iter_mut().zip(x.values.par_chunks(d * h * w)).for_each(|(m, x)| unsafe { dispatch(isa, Moments(x, m)) });
    let of = |c: usize| (0..batch).map(move |n| n * channels + c);
    let mean = |c: usize| of(c).map(|i| moments[i].0).sum::<f64>() / batch as f64;
    let variance = |c: usize| of(c).map(|i| moments[i].1 + (moments[i].0 - mean(c)).powi(2)).sum::<f64>() / batch as f64;
    [(0..channels).map(|c| mean(c) as f32).collect(), (0..channels).map(|c| variance(c) as f32).collect()]
}

/// Sum over all axes but the channels.
pub fn channel_sum(isa: Isa, x: Volumes) -> Vec<f32> {
    struct Sum<'a>(&'a [f32], &'a mut f64);
    impl Kernel for Sum<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            *self.1 = self.0.chunks(CHUNK).map(|x| sum(x.len(), |i| x[i])).sum();
        }
    }
    let [batch, channels, d, h, w] = x.dims;
    let mut sums = vec![0.0f64; batch * channels];
    // SAFETY: `isa` is detected or portable.
    sums.par_iter_mut().zip(x.values.par_chunks(d * h * w)).for_each(|(sum, x)| unsafe { dispatch(isa, Sum(x, sum)) });
    (0..channels).map(|c| (0..batch).map(|n| sums[n * channels + c]).sum::<f64>() as f32).collect()
}
