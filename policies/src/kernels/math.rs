//! Elementary functions and reductions that the compiler turns into vector code, and GELU.

use super::simd::{Isa, Kernel, Lanes, dispatch};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Values per task of elementwise loops.
const CHUNK: usize = 1 << 14;

/// `e^x` to 2 units in the last place; 1e-38 below -87, 2e38 above 88.
#[inline(always)]
pub fn exp<L: Lanes>(x: f32) -> f32 {
    // Added to a value below 2^22, rounds it to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Cephes' polynomial for |r| <= ln 2 / 2.
    const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    // NaN stays NaN: the comparisons are false.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let rounded = L::fused(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = L::fused(n, -LN_2[1], L::fused(n, -LN_2[0], x));
    let p = polynomial::<L, 6>(r, POLYNOMIAL);
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    (L::fused(p * r, r, r) + 1.0) * power
}

/// By Horner's rule, the highest power first.
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(x: f32, factors: [f32; N]) -> f32 {
    let mut sum = factors[0];
    for factor in &factors[1..] {
        sum = L::fused(sum, x, *factor);
    }
    sum
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

/// `|x|` of 0 to `reach` on -1 to 1; beyond, 1.
#[inline(always)]
fn within<L: Lanes>(x: f32, reach: f32) -> f32 {
    let u = L::fused(x.abs(), 2.0 / reach, -1.0);
    // Not a number stays so: the comparison is false.
    if u > 1.0 { 1.0 } else { u }
}

/// A task of [`gelu`]: `max(x, 0) - |x| Q(|x|)`, with the upper tail `Q` of the standard normal distribution; off by 4e-7 at most.
///
/// `|x| Q(|x|)` is `1 - u^2` times a polynomial, so exactly 0 at 0 and from 5.5 on. Its factors had the smallest largest error in `f64` (Lawson's
/// weights) before they were rounded. By way of the error function there would be a division.
struct Gelu<'a>(&'a [f32], &'a mut [MaybeUninit<f32>]);

impl Kernel for Gelu<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        const TAIL: [f32; 15] = [
            1.531_266e-2,
            6.781_466e-4,
            -8.207_209e-2,
            3.752_536_3e-2,
            1.723_399_2e-1,
            -1.939_172_5e-1,
            -9.778_089e-2,
            3.505_979_2e-1,
            -2.501_293_7e-1,
            -1.087_774_7e-1,
            3.784_328e-1,
            -3.692_653e-1,
            1.994_564_5e-1,
            -6.057_780_2e-2,
            8.194_379_5e-3,
        ];
        for (&x, y) in self.0.iter().zip(self.1) {
            let u = within::<L>(x, 5.5);
            let positive = if x < 0.0 { 0.0 } else { x };
            y.write(L::fused(L::fused(u, u, -1.0), polynomial::<L, 15>(u, TAIL), positive));
        }
    }
}

/// A task of [`gelu_backward`]: `1/2 + sign(x) (1/2 - Q(|x|) + |x| phi(x))`, with the normal density `phi`; off by 1e-6 at most.
/// What is missing to 1 above 0 is `1 - u` times a polynomial, made as in [`Gelu`].
struct GeluBackward<'a>(&'a [f32], &'a [f32], &'a mut [MaybeUninit<f32>]);

impl Kernel for GeluBackward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        const SLOPE: [f32; 19] = [
            -4.052_907e-2,
            1.807_871_8e-2,
            2.303_430_3e-1,
            -1.774_139_4e-1,
            -5.343_427_7e-1,
            6.746_040_6e-1,
            4.853_143_4e-1,
            -1.293_611_5,
            3.702_65e-1,
            1.127_481_7,
            -1.326_150_7,
            1.333_528e-1,
            9.494_659_3e-1,
            -9.093_096e-1,
            2.205_957_9e-1,
            2.206_868_8e-1,
            -2.180_231_2e-1,
            8.112_378_4e-2,
            -1.194_566_1e-2,
        ];
        for ((&x, dy), dx) in self.0.iter().zip(self.1).zip(self.2) {
            let u = within::<L>(x, 6.0);
            dx.write(dy * (0.5 + L::fused(u - 1.0, polynomial::<L, 19>(u, SLOPE), 0.5).copysign(x)));
        }
    }
}

/// See [`gelu`](super::gelu).
pub fn gelu(isa: Isa, x: &[f32]) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    let tasks = y.spare_capacity_mut()[..x.len()].par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    // SAFETY: `isa` is detected or portable.
    tasks.for_each(|(y, x)| unsafe { dispatch(isa, Gelu(x, y)) });
    // SAFETY: every value was written.
    unsafe { y.set_len(x.len()) };
    y
}

/// Gradient of [`gelu`].
pub fn gelu_backward(isa: Isa, x: &[f32], dy: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), dy.len(), "gelu_backward: the inputs' lengths differ");
    let mut dx = Vec::with_capacity(x.len());
    let tasks = dx.spare_capacity_mut()[..x.len()].par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
    // SAFETY: `isa` is detected or portable.
    tasks.for_each(|((dx, x), dy)| unsafe { dispatch(isa, GeluBackward(x, dy, dx)) });
    // SAFETY: every value was written.
    unsafe { dx.set_len(x.len()) };
    dx
}

#[test]
fn exp_is_exact_to_two_units() {
    use super::simd::Portable;
    let exp = exp::<Portable>;
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
    for &isa in Isa::all() {
        let (found, slope) = (gelu(isa, &x), gelu_backward(isa, &x, &[1.0; 7]));
        for i in 0..6 {
            assert!((found[i] - y[i]).abs() < 3e-7, "{isa:?}: gelu({}) = {}, expected {}", x[i], found[i], y[i]);
            assert!((slope[i] - dy[i]).abs() < 5e-7, "{isa:?}: gelu'({}) = {}, expected {}", x[i], slope[i], dy[i]);
        }
        assert_eq!(found[6], f32::INFINITY);
        assert_eq!(gelu(isa, &[0.0, -0.0, -6.0, f32::NEG_INFINITY]), [0.0; 4], "{isa:?}");
        assert!(gelu(isa, &[1e-9, 1e-7, 1e-3]).into_iter().all(|y| y > 0.0), "{isa:?}");
        assert!(gelu(isa, &[f32::NAN])[0].is_nan() && gelu_backward(isa, &[f32::NAN], &[1.0])[0].is_nan());
    }
}

/// Against the error function in `f64`, by its series and its continued fraction.
#[test]
fn gelu_is_exact_to_a_millionth() {
    let upper_tail = |x: f64| match x < 3.0 {
        true => {
            let (mut term, mut sum) = (x, x);
            for n in 1..100 {
                term *= x * x / (2 * n + 1) as f64;
                sum += term;
            }
            0.5 - sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
        }
        false => {
            let fraction = (1..200).rev().fold(x, |fraction, n| x + n as f64 / fraction);
            (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt() / fraction
        }
    };
    let fine = (-3_000..=3_000).map(|i| i as f32 * 1e-4);
    let x: Vec<f32> = (-12_000..=12_000).map(|i| i as f32 * 1e-3).chain(fine).collect();
    for &isa in Isa::all() {
        let (y, dy) = (gelu(isa, &x), gelu_backward(isa, &x, &vec![1.0; x.len()]));
        for ((&x, &y), &dy) in x.iter().zip(&y).zip(&dy) {
            let x = x as f64;
            let below = if x < 0.0 { upper_tail(-x) } else { 1.0 - upper_tail(x) };
            let slope = below + x * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
            // An f32 near 12 is exact to 5e-7.
            assert!((y as f64 - x * below).abs() < 6e-7, "{isa:?}: gelu({x}) = {y}, expected {}", x * below);
            assert!((dy as f64 - slope).abs() < 1e-6, "{isa:?}: gelu'({x}) = {dy}, expected {slope}");
        }
    }
}
