//! Layer norm over rows on slices, eight rows at a time: their sums then are the lanes of one vector.

use super::simd::{Isa, Kernel, LANES, Lanes, dispatch};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Rows per task; also parts of the rows with sums of their own in the backward pass.
const ROWS: usize = 512;

/// The sum of each of eight vectors.
#[inline(always)]
unsafe fn totals<L: Lanes>(sums: [L::V; LANES]) -> [f32; LANES] {
    let mut totals = [0.0; LANES];
    // SAFETY: the caller's instruction set.
    unsafe {
        let t = L::transpose(sums);
        let sum = L::add(L::add(L::add(t[0], t[1]), L::add(t[2], t[3])), L::add(L::add(t[4], t[5]), L::add(t[6], t[7])));
        L::store(totals.as_mut_ptr(), sum);
    }
    totals
}

/// Means and inverse standard deviations of eight rows.
///
/// # Safety
/// The instruction set of `L`; `width` values at each of `x`.
#[inline(always)]
unsafe fn statistics<L: Lanes>(x: [*const f32; LANES], width: usize, epsilon: f32) -> [[f32; LANES]; 2] {
    let (whole, count) = (width / LANES * LANES, width as f32);
    // SAFETY: handed on to the caller.
    unsafe {
        let mut sums = [L::zero(); LANES];
        for c in (0..whole).step_by(LANES) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = L::add(*sum, L::load(x.add(c)));
            }
        }
        let mut mean = totals::<L>(sums);
        for (mean, x) in mean.iter_mut().zip(x) {
            for c in whole..width {
                *mean += *x.add(c);
            }
            *mean /= count;
        }
        let mut sums = [L::zero(); LANES];
        for c in (0..whole).step_by(LANES) {
            for r in 0..LANES {
                let centred = L::sub(L::load(x[r].add(c)), L::splat(&mean[r]));
                sums[r] = L::mul_add(centred, centred, sums[r]);
            }
        }
        let mut inverse = totals::<L>(sums);
        for r in 0..LANES {
            for c in whole..width {
                let centred = *x[r].add(c) - mean[r];
                inverse[r] += centred * centred;
            }
        }
        for inverse in &mut inverse {
            *inverse = 1.0 / (*inverse / count + epsilon).sqrt();
        }
        [mean, inverse]
    }
}

/// Pointers to rows `first..` of `width` values, of which the last is repeated.
///
/// # Safety
/// `values` has `rows > first` rows.
#[inline(always)]
unsafe fn eight(values: *const f32, first: usize, rows: usize, width: usize) -> [*const f32; LANES] {
    // SAFETY: handed on to the caller.
    std::array::from_fn(|r| unsafe { values.add((first + r).min(rows - 1) * width) })
}

/// See [`layer_norm`](super::layer_norm): `x_RC`.
pub fn forward(isa: Isa, x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32) -> Vec<f32> {
    let len = ROWS * gamma.len();
    let mut y = Vec::with_capacity(x.len());
    let tasks = y.spare_capacity_mut()[..x.len()].par_chunks_mut(len).zip(x.par_chunks(len));
    // SAFETY: `isa` is detected or portable.
    tasks.for_each(|(y, x)| unsafe { dispatch(isa, Forward { x, gamma, beta, epsilon, y }) });
    // SAFETY: every row was written.
    unsafe { y.set_len(x.len()) };
    y
}

struct Forward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Forward { x, gamma, beta, epsilon, y } = self;
        let width = gamma.len();
        let (rows, whole) = (x.len() / width, width / LANES * LANES);
        assert!(beta.len() == width && y.len() == x.len() && x.len() == rows * width, "layer norm of other lengths");
        let (gamma, beta) = (gamma.as_ptr(), beta.as_ptr());
        for first in (0..rows).step_by(LANES) {
            // SAFETY: rows, columns and lengths are checked above; the caller's instruction set.
            unsafe {
                let from = eight(x.as_ptr(), first, rows, width);
                let [mean, inverse] = statistics::<L>(from, width, epsilon);
                for r in 0..LANES.min(rows - first) {
                    let (x, y) = (from[r], y.as_mut_ptr().cast::<f32>().add((first + r) * width));
                    let [means, inverses] = [&mean[r], &inverse[r]].map(|value| L::splat(value));
                    for c in (0..whole).step_by(LANES) {
                        let normal = L::mul_add(L::sub(L::load(x.add(c)), means), inverses, L::zero());
                        L::store(y.add(c), L::mul_add(normal, L::load(gamma.add(c)), L::load(beta.add(c))));
                    }
                    for c in whole..width {
                        y.add(c).write(L::fused((*x.add(c) - mean[r]) * inverse[r], *gamma.add(c), *beta.add(c)));
                    }
                }
            }
        }
    }
}

/// Gradients of `x`, `gamma` and `beta`. Sums over rows are split by the shape alone.
pub fn backward(isa: Isa, x: &[f32], gamma: &[f32], dy: &[f32], epsilon: f32) -> [Vec<f32>; 3] {
    let width = gamma.len();
    let len = ROWS * width;
    let mut dx = Vec::with_capacity(x.len());
    let mut sums = vec![0.0f32; x.len().div_ceil(len) * 2 * width];
    let tasks = dx.spare_capacity_mut()[..x.len()].par_chunks_mut(len).zip(x.par_chunks(len)).zip(dy.par_chunks(len));
    tasks.zip(sums.par_chunks_mut(2 * width)).for_each(|(((dx, x), dy), sums)| {
        // SAFETY: `isa` is detected or portable.
        unsafe { dispatch(isa, Backward { x, gamma, dy, epsilon, dx, sums }) }
    });
    // SAFETY: every row was written.
    unsafe { dx.set_len(x.len()) };
    let total = |from: usize| (from..from + width).map(|c| sums.chunks_exact(2 * width).map(|s| s[c] as f64).sum::<f64>() as f32).collect();
    [dx, total(0), total(width)]
}

struct Backward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    dy: &'a [f32],
    epsilon: f32,
    dx: &'a mut [MaybeUninit<f32>],
    /// Of gamma, then of beta.
    sums: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Backward { x, gamma, dy, epsilon, dx, sums } = self;
        let width = gamma.len();
        let rows = x.len() / width;
        assert!(x.len() == rows * width && dy.len() == x.len() && dx.len() == x.len(), "layer norm of other lengths");
        let (dgamma, dbeta) = sums.split_at_mut(width);
        assert_eq!(dbeta.len(), width, "sums of gamma and beta");
        for first in (0..rows).step_by(LANES) {
            // SAFETY: rows, columns and lengths are checked above; the caller's instruction set.
            unsafe {
                let [x, dy] = [x, dy].map(|values| eight(values.as_ptr(), first, rows, width));
                let [mean, inverse] = statistics::<L>(x, width, epsilon);
                let [constant, linear] = projections::<L>(x, dy, gamma, &mean, &inverse);
                for r in 0..LANES.min(rows - first) {
                    let dx = dx.as_mut_ptr().cast::<f32>().add((first + r) * width);
                    let row = Row { x: x[r], dy: dy[r], mean: mean[r], inverse: inverse[r], constant: constant[r], linear: linear[r] };
                    row.gradients::<L>(gamma, dx, dgamma, dbeta);
                }
            }
        }
    }
}

/// Means over eight rows of `dy * gamma`, and of its product with the normalised values.
///
/// # Safety
/// The instruction set of `L`; as many values as gamma has at each of `x` and `dy`.
#[inline(always)]
unsafe fn projections<L: Lanes>(
    x: [*const f32; LANES],
    dy: [*const f32; LANES],
    gamma: &[f32],
    mean: &[f32; LANES],
    inverse: &[f32; LANES],
) -> [[f32; LANES]; 2] {
    const HALF: usize = LANES / 2;
    let (width, whole) = (gamma.len(), gamma.len() / LANES * LANES);
    let mut found = [[0.0; LANES]; 2];
    // Both sums of four rows are eight vectors, which fit the registers.
    for half in (0..LANES).step_by(HALF) {
        // SAFETY: handed on to the caller.
        unsafe {
            let mut sums = [L::zero(); LANES];
            for c in (0..whole).step_by(LANES) {
                let gamma = L::load(gamma.as_ptr().add(c));
                for r in 0..HALF {
                    let gradient = L::mul_add(L::load(dy[half + r].add(c)), gamma, L::zero());
                    sums[r] = L::add(sums[r], gradient);
                    let centred = L::sub(L::load(x[half + r].add(c)), L::splat(&mean[half + r]));
                    sums[HALF + r] = L::mul_add(gradient, centred, sums[HALF + r]);
                }
            }
            let mut sums = totals::<L>(sums);
            for r in 0..HALF {
                for (c, gamma) in gamma.iter().enumerate().skip(whole) {
                    let gradient = *dy[half + r].add(c) * gamma;
                    sums[r] += gradient;
                    sums[HALF + r] += gradient * (*x[half + r].add(c) - mean[half + r]);
                }
                found[0][half + r] = sums[r] / width as f32;
                found[1][half + r] = sums[HALF + r] / width as f32 * inverse[half + r];
            }
        }
    }
    found
}

/// A row in the backward pass.
struct Row {
    x: *const f32,
    dy: *const f32,
    mean: f32,
    inverse: f32,
    /// See [`projections`].
    constant: f32,
    linear: f32,
}

impl Row {
    /// Writes `dx` and adds to `dgamma` and `dbeta`.
    ///
    /// # Safety
    /// The instruction set of `L`; all have as many values as gamma.
    #[inline(always)]
    unsafe fn gradients<L: Lanes>(&self, gamma: &[f32], dx: *mut f32, dgamma: &mut [f32], dbeta: &mut [f32]) {
        let (width, whole) = (gamma.len(), gamma.len() / LANES * LANES);
        // SAFETY: handed on to the caller.
        unsafe {
            let [mean, inverse, constant, linear] = [&self.mean, &self.inverse, &self.constant, &self.linear].map(|value| L::splat(value));
            let (dgammas, dbetas) = (dgamma.as_mut_ptr(), dbeta.as_mut_ptr());
            for c in (0..whole).step_by(LANES) {
                let dy = L::load(self.dy.add(c));
                let normal = L::mul_add(L::sub(L::load(self.x.add(c)), mean), inverse, L::zero());
                L::store(dgammas.add(c), L::mul_add(dy, normal, L::load(dgammas.add(c))));
                L::store(dbetas.add(c), L::add(dy, L::load(dbetas.add(c))));
                let centred = L::sub(L::mul_add(dy, L::load(gamma.as_ptr().add(c)), L::zero()), constant);
                let gradient = L::sub(centred, L::mul_add(normal, linear, L::zero()));
                L::store(dx.add(c), L::mul_add(gradient, inverse, L::zero()));
            }
            for c in whole..width {
                let (dy, normal) = (*self.dy.add(c), (*self.x.add(c) - self.mean) * self.inverse);
                dgamma[c] += dy * normal;
                dbeta[c] += dy;
                dx.add(c).write((dy * gamma[c] - self.constant - normal * self.linear) * self.inverse);
            }
        }
    }
}
