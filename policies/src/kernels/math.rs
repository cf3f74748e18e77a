//! Elementary functions and reductions that the compiler turns into vector code, and GELU.

use super::simd::{Isa, Kernel, Lanes, dispatch};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Values per task of elementwise loops.
const CHUNK: usize = 1 << 14;

/// `e^x` to 2 units in the last place; 1e-38 below -87, 2e38 above 88.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Added to a value below 2^22, rounds it to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // NaN stays NaN: the comparisons are false.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    // Cephes' polynomial for |r| <= ln 2 / 2.
    let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1) * r + 0.5;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    (p * r * r + r + 1.0) * power
}

/// Distribution function and density of the standard normal distribution, to 1e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let e = exp(-0.5 * x * x);
    let p = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_7) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    let tail = 0.5 * p * e;
    (if x > 0.0 { 1.0 - tail } else { tail }, FRAC_1_SQRT_2PI * e)
}

/// Reduces `term(i)` over `0..len` in 16 strands.
#[inline(always)]
pub fn strands(len: usize, first: f32, term: impl Fn(usize) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    const STRANDS: usize = 16;
    let mut strands = [first; STRANDS];
    let whole = len / STRANDS * STRANDS;
    for i in (0..whole).step_by(STRANDS) {
        for (s, strand) in strands.iter_mut().enumerate() {
            *strand = join(*strand, term(i + s));
        }
    }
    let rest = (whole..len).fold(first, |a, i| join(a, term(i)));
    strands.iter().fold(rest, |a, &b| join(a, b))
}

struct Map<'a, F>(&'a [f32], &'a [f32], &'a mut [MaybeUninit<f32>], F);

impl<F: Fn(f32, f32) -> f32> Kernel for Map<'_, F> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Map(a, b, to, f) = self;
        for ((a, b), to) in a.iter().zip(b).zip(to) {
            to.write(f(*a, *b));
        }
    }
}

/// `f` of each pair of values.
fn map(isa: Isa, a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Copy + Sync) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "map: the inputs' lengths differ");
    let mut y = Vec::with_capacity(a.len());
    let tasks = y.spare_capacity_mut()[..a.len()].par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK));
    // SAFETY: `isa` is detected or portable.
    tasks.for_each(|((y, a), b)| unsafe { dispatch(isa, Map(a, b, y, f)) });
    // SAFETY: every value was written.
    unsafe { y.set_len(a.len()) };
    y
}

/// See [`gelu`](super::gelu).
pub fn gelu(isa: Isa, x: &[f32]) -> Vec<f32> {
    map(isa, x, x, |x, _| x * normal(x).0)
}

/// Gradient of [`gelu`].
pub fn gelu_backward(isa: Isa, x: &[f32], dy: &[f32]) -> Vec<f32> {
    map(isa, x, dy, |x, dy| {
        let (below, density) = normal(x);
        dy * (below + x * density)
    })
}

#[test]
fn exp_is_exact_to_two_units() {
    for i in -86_999..88_000 {
        let x = i as f32 * 1e-3;
        let expected = (x as f64).exp();
        assert!((exp(x) as f64 / expected - 1.0).abs() < 2.5e-7, "exp({x}) = {}, expected {expected}", exp(x));
    }
    assert_eq!(exp(0.0), 1.0);
    assert!(exp(f32::NAN).is_nan() && exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::INFINITY) > 1e38);
}

#[test]
fn gelu_has_pytorchs_values() {
    // torch.nn.functional.gelu and its derivative in float64.
    let x = [-5.0, -1.0, -0.1, 0.0, 0.5, 2.0, f32::INFINITY];
    let y = [-1.433_257e-6, -0.158_655_25, -0.046_017_22, 0.0, 0.345_731_23, 1.954_499_7];
    let dy = [-7.146_63e-6, -0.083_315_47, 0.420_476_9, 0.5, 0.867_495_1, 1.085_231_8];
    for isa in [Isa::Portable, Isa::detect()] {
        let (found, slope) = (gelu(isa, &x), gelu_backward(isa, &x, &[1.0; 7]));
        for i in 0..6 {
            assert!((found[i] - y[i]).abs() < 3e-7, "{isa:?}: gelu({}) = {}, expected {}", x[i], found[i], y[i]);
            assert!((slope[i] - dy[i]).abs() < 5e-7, "{isa:?}: gelu'({}) = {}, expected {}", x[i], slope[i], dy[i]);
        }
        assert_eq!(found[6], f32::INFINITY);
    }
}
