//! Eight lanes of AVX2, sixteen of AVX-512.

use super::{LANES, Lanes, Vector};
use std::arch::x86_64::*;

pub struct Avx2;
pub struct Avx512;

/// The same operations under the names of either width.
macro_rules! vector {
    ($name:ident, $width:expr, $v:ty, $zero:ident, $load:ident, $splat:ident, $store:ident, $add:ident, $sub:ident, $max:ident, $min:ident, $fma:ident) => {
        // SAFETY of every block: the trait's contract gives the instruction set and the pointers.
        impl Vector for $name {
            const WIDTH: usize = $width;
            type V = $v;
            #[inline(always)]
            unsafe fn zero() -> $v {
                unsafe { $zero() }
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> $v {
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn splat(from: *const f32) -> $v {
                unsafe { $splat(from.read()) }
            }
            #[inline(always)]
            unsafe fn store(to: *mut f32, v: $v) {
                unsafe { $store(to, v) }
            }
            #[inline(always)]
            unsafe fn add(a: $v, b: $v) -> $v {
                unsafe { $add(a, b) }
            }
            #[inline(always)]
            unsafe fn sub(a: $v, b: $v) -> $v {
                unsafe { $sub(a, b) }
            }
            #[inline(always)]
            unsafe fn max(a: $v, b: $v) -> $v {
                unsafe { $max(a, b) }
            }
            #[inline(always)]
            unsafe fn min(a: $v, b: $v) -> $v {
                unsafe { $min(a, b) }
            }
            #[inline(always)]
            unsafe fn mul_add(a: $v, b: $v, c: $v) -> $v {
                unsafe { $fma(a, b, c) }
            }
            #[inline(always)]
            unsafe fn will_write(at: *mut f32) {
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
            }
        }
    };
}

#[rustfmt::skip]
vector!(
    Avx2, LANES, __m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps,
    _mm256_max_ps, _mm256_min_ps, _mm256_fmadd_ps
);
#[rustfmt::skip]
vector!(
    Avx512, 2 * LANES, __m512, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps,
    _mm512_max_ps, _mm512_min_ps, _mm512_fmadd_ps
);

impl Lanes for Avx2 {
    #[inline(always)]
    fn fused(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    unsafe fn transpose(r: [__m256; LANES]) -> [__m256; LANES] {
        unsafe {
            let low = |a, b| _mm256_unpacklo_ps(a, b);
            let high = |a, b| _mm256_unpackhi_ps(a, b);
            let pairs = [
                low(r[0], r[1]),
                high(r[0], r[1]),
                low(r[2], r[3]),
                high(r[2], r[3]),
                low(r[4], r[5]),
                high(r[4], r[5]),
                low(r[6], r[7]),
                high(r[6], r[7]),
            ];
            let even = |a, b| _mm256_shuffle_ps::<0x44>(a, b);
            let odd = |a, b| _mm256_shuffle_ps::<0xEE>(a, b);
            let top = [even(pairs[0], pairs[2]), odd(pairs[0], pairs[2]), even(pairs[1], pairs[3]), odd(pairs[1], pairs[3])];
            let bottom = [even(pairs[4], pairs[6]), odd(pairs[4], pairs[6]), even(pairs[5], pairs[7]), odd(pairs[5], pairs[7])];
            std::array::from_fn(|i| match i {
                0..4 => _mm256_permute2f128_ps::<0x20>(top[i], bottom[i]),
                _ => _mm256_permute2f128_ps::<0x31>(top[i - 4], bottom[i - 4]),
            })
        }
    }
}
