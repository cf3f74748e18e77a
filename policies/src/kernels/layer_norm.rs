//! Layer norm over rows on slices.

use super::math::strands;
use super::simd::{Isa, Kernel, Lanes, dispatch};
use rayon::prelude::*;

/// Rows per task; also parts of the rows with sums of their own in the backward pass.
const ROWS: usize = 512;

/// Mean and inverse standard deviation of a row.
#[inline(always)]
fn statistics(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = strands(x.len(), 0.0, |i| x[i], |a, b| a + b) / count;
    let variance = strands(x.len(), 0.0, |i| (x[i] - mean) * (x[i] - mean), |a, b| a + b) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// See [`layer_norm`](super::layer_norm): `x_RC`.
pub fn forward(isa: Isa, x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32) -> Vec<f32> {
    let width = gamma.len();
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).for_each(|(y, x)| {
        // SAFETY: `isa` is detected or portable.
        unsafe { dispatch(isa, Forward { x, gamma, beta, epsilon, y }) }
    });
    y
}

struct Forward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let width = self.gamma.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let (mean, inverse) = statistics(x, self.epsilon);
            for (((y, x), gamma), beta) in y.iter_mut().zip(x).zip(self.gamma).zip(self.beta) {
                *y = (x - mean) * inverse * gamma + beta;
            }
        }
    }
}

/// Gradients of `x`, `gamma` and `beta`. Sums over rows are split by the shape alone.
pub fn backward(isa: Isa, x: &[f32], gamma: &[f32], dy: &[f32], epsilon: f32) -> [Vec<f32>; 3] {
    let width = gamma.len();
    let len = ROWS * width;
    let mut dx = vec![0.0; x.len()];
    let mut sums = vec![0.0f32; x.len().div_ceil(len) * 2 * width];
    let tasks = dx.par_chunks_mut(len).zip(x.par_chunks(len)).zip(dy.par_chunks(len)).zip(sums.par_chunks_mut(2 * width));
    tasks.for_each(|(((dx, x), dy), sums)| {
        // SAFETY: `isa` is detected or portable.
        unsafe { dispatch(isa, Backward { x, gamma, dy, epsilon, dx, sums }) }
    });
    let total = |from: usize| (from..from + width).map(|c| sums.chunks_exact(2 * width).map(|s| s[c] as f64).sum::<f64>() as f32).collect();
    [dx, total(0), total(width)]
}

struct Backward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    dy: &'a [f32],
    epsilon: f32,
    dx: &'a mut [f32],
    /// Of gamma, then of beta.
    sums: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let width = self.gamma.len();
        let (dgamma, dbeta) = self.sums.split_at_mut(width);
        let gamma = &self.gamma[..width];
        for ((x, dy), dx) in self.x.chunks_exact(width).zip(self.dy.chunks_exact(width)).zip(self.dx.chunks_exact_mut(width)) {
            let (mean, inverse) = statistics(x, self.epsilon);
            for c in 0..width {
                dgamma[c] += dy[c] * (x[c] - mean) * inverse;
                dbeta[c] += dy[c];
            }
            let count = width as f32;
            let constant = strands(width, 0.0, |c| dy[c] * gamma[c], |a, b| a + b) / count;
            let linear = strands(width, 0.0, |c| dy[c] * gamma[c] * (x[c] - mean), |a, b| a + b) / count * inverse * inverse;
            for c in 0..width {
                dx[c] = (dy[c] * gamma[c] - constant - (x[c] - mean) * linear) * inverse;
            }
        }
    }
}
