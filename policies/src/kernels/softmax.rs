//! Softmax over rows on slices.

use super::math::{exp, strands};
use super::simd::{Isa, Kernel, Lanes, dispatch};
use rayon::prelude::*;

/// Values per task, in whole rows.
const CHUNK: usize = 1 << 14;

/// `exp(x - maximum)` of the row in place, and their sum.
#[inline(always)]
pub fn exponentials<L: Lanes>(row: &mut [f32]) -> f32 {
    let highest = strands(row.len(), f32::NEG_INFINITY, |i| row[i], |a, b| if b > a { b } else { a });
    for x in row.iter_mut() {
        *x = exp::<L>(*x - highest);
    }
    strands(row.len(), 0.0, |i| row[i], |a, b| a + b)
}

/// Gradient of a softmax row `y` before it, in place of that after it.
#[inline(always)]
pub fn backward_row(y: &[f32], gradient: &mut [f32]) {
    let mean = strands(y.len(), 0.0, |i| y[i] * gradient[i], |a, b| a + b);
    for (gradient, y) in gradient.iter_mut().zip(y) {
        *gradient = y * (*gradient - mean);
    }
}

/// See [`softmax`](super::softmax), for rows of `width` values.
pub fn forward(isa: Isa, x: &[f32], width: usize) -> Vec<f32> {
    let mut y = x.to_vec();
    let len = (CHUNK / width).max(1) * width;
    // SAFETY: `isa` is detected or portable.
    y.par_chunks_mut(len).for_each(|y| unsafe { dispatch(isa, Forward { y, width }) });
    y
}

struct Forward<'a> {
    y: &'a mut [f32],
    width: usize,
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for row in self.y.chunks_exact_mut(self.width) {
            let inverse = 1.0 / exponentials::<L>(row);
            for y in row.iter_mut() {
                *y *= inverse;
            }
        }
    }
}

/// Gradient of [`forward`] from its output.
pub fn backward(isa: Isa, y: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
    let mut dx = dy.to_vec();
    let len = (CHUNK / width).max(1) * width;
    // SAFETY: `isa` is detected or portable.
    dx.par_chunks_mut(len).zip(y.par_chunks(len)).for_each(|(dx, y)| unsafe { dispatch(isa, Backward { y, dx, width }) });
    dx
}

struct Backward<'a> {
    y: &'a [f32],
    dx: &'a mut [f32],
    width: usize,
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for (y, dx) in self.y.chunks_exact(self.width).zip(self.dx.chunks_exact_mut(self.width)) {
            backward_row(y, dx);
        }
    }
}
