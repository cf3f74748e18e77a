//! Eight lanes as two NEON vectors of four.

use super::{LANES, Lanes, Vector};
use std::arch::aarch64::*;

pub struct Neon;

/// Lanes 0 to 3 and 4 to 7.
type Two = float32x4x2_t;

#[inline(always)]
fn each(a: Two, b: Two, of: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Two {
    float32x4x2_t(of(a.0, b.0), of(a.1, b.1))
}

// SAFETY of every block: the trait's contract gives the instruction set and the pointers.
impl Vector for Neon {
    const WIDTH: usize = LANES;
    type V = Two;
    #[inline(always)]
    unsafe fn zero() -> Two {
        let zero = unsafe { vdupq_n_f32(0.0) };
        float32x4x2_t(zero, zero)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Two {
        unsafe { float32x4x2_t(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Two {
        // One register for both halves.
        let value = unsafe { vld1q_dup_f32(from) };
        float32x4x2_t(value, value)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Two) {
        unsafe {
            vst1q_f32(to, v.0);
            vst1q_f32(to.add(4), v.1);
        }
    }
    #[inline(always)]
    unsafe fn add(a: Two, b: Two) -> Two {
        each(a, b, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn sub(a: Two, b: Two) -> Two {
        each(a, b, |a, b| unsafe { vsubq_f32(a, b) })
    }
    // Comparison and choice: `vmaxq_f32` gives what is no number where either isn't one, `vmaxnmq_f32` the other value.
    #[inline(always)]
    unsafe fn max(a: Two, b: Two) -> Two {
        each(a, b, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }
    #[inline(always)]
    unsafe fn min(a: Two, b: Two) -> Two {
        each(a, b, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }
    #[inline(always)]
    unsafe fn mul_add(a: Two, b: Two, c: Two) -> Two {
        unsafe { float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }
}

/// Transposes a 4 x 4 matrix.
#[inline(always)]
fn transpose_four(r: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: the caller is code for NEON.
    unsafe {
        let (even, odd) = (|a, b| vreinterpretq_f64_f32(vtrn1q_f32(a, b)), |a, b| vreinterpretq_f64_f32(vtrn2q_f32(a, b)));
        let (low, high) = (|a, b| vreinterpretq_f32_f64(vtrn1q_f64(a, b)), |a, b| vreinterpretq_f32_f64(vtrn2q_f64(a, b)));
        // Columns 0 and 2, 1 and 3, of rows 0 and 1, 2 and 3.
        let [top_even, top_odd, bottom_even, bottom_odd] = [even(r[0], r[1]), odd(r[0], r[1]), even(r[2], r[3]), odd(r[2], r[3])];
        [low(top_even, bottom_even), low(top_odd, bottom_odd), high(top_even, bottom_even), high(top_odd, bottom_odd)]
    }
}

impl Lanes for Neon {
    #[inline(always)]
    fn fused(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    unsafe fn transpose(r: [Two; LANES]) -> [Two; LANES] {
        let left = [transpose_four([r[0].0, r[1].0, r[2].0, r[3].0]), transpose_four([r[4].0, r[5].0, r[6].0, r[7].0])];
        let right = [transpose_four([r[0].1, r[1].1, r[2].1, r[3].1]), transpose_four([r[4].1, r[5].1, r[6].1, r[7].1])];
        std::array::from_fn(|i| {
            let [top, bottom] = if i < 4 { left } else { right };
            float32x4x2_t(top[i % 4], bottom[i % 4])
        })
    }
}
