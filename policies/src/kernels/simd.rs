//! Eight `f32` lanes on whatever the processor has, chosen at run time.
//!
//! A kernel is written once, generic over [`Lanes`] and `#[inline(always)]`; [`dispatch`] compiles it again under each
//! instruction set's `target_feature` and calls the one asked for.

use std::sync::OnceLock;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust; what the compiler makes of it for the target's baseline.
    Portable,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Isa {
    /// The best that this processor has; plain Rust where the environment has `PANSCREEN_PORTABLE` (results are then the same to the bit on
    /// other processors too).
    pub fn detect() -> Self {
        static PORTABLE: OnceLock<bool> = OnceLock::new();
        if *PORTABLE.get_or_init(|| std::env::var_os("PANSCREEN_PORTABLE").is_some()) {
            return Isa::Portable;
        }
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return Isa::Avx2;
        }
        Isa::Portable
    }
}

/// Number of lanes of [`Lanes::V`].
pub const LANES: usize = 8;

/// Operations on eight `f32`.
///
/// # Safety
/// All functions need a processor with the implementor's instruction set; `load`, `splat` and `store` need pointers
/// that are valid for 8, 1 and 8 values, of any alignment.
pub trait Lanes {
    type V: Copy;
    unsafe fn zero() -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn splat(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// The larger of each; `b` where one isn't a number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each; `b` where one isn't a number.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once or twice.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Transposes the 8 x 8 matrix whose rows are given.
    unsafe fn transpose(rows: [Self::V; LANES]) -> [Self::V; LANES];
}

pub struct Portable;

impl Lanes for Portable {
    type V = [f32; LANES];
    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is valid for 8 values; an array has the alignment of its element.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is valid.
        [unsafe { from.read() }; LANES]
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's pointer is valid for 8 values.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self::V; LANES]) -> [Self::V; LANES] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }
}

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{LANES, Lanes};
    use std::arch::x86_64::*;

    pub struct Avx2;

    // SAFETY of every block: the trait's contract gives the instruction set and the pointers.
    impl Lanes for Avx2 {
        type V = __m256;
        #[inline(always)]
        unsafe fn zero() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m256 {
            unsafe { _mm256_broadcast_ss(&*from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
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
}

/// A loop to be compiled for each instruction set.
pub trait Kernel {
    /// # Safety
    /// The processor has `L`'s instruction set, and whatever the kernel itself asks for.
    unsafe fn run<L: Lanes>(self);
}

/// Runs `kernel` compiled for `isa`.
///
/// # Safety
/// Whatever the kernel asks for. `isa` comes from [`Isa::detect`] or is `Portable`.
pub unsafe fn dispatch<K: Kernel>(isa: Isa, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn with_avx2<K: Kernel>(kernel: K) {
        // SAFETY: handed on to the caller.
        unsafe { kernel.run::<Avx2>() }
    }
    // SAFETY: handed on to the caller.
    unsafe {
        match isa {
            Isa::Portable => kernel.run::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => with_avx2(kernel),
        }
    }
}

#[test]
fn lanes_agree_on_every_operation() {
    struct All<'a>(&'a mut Vec<f32>);
    impl Kernel for All<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            let matrix: Vec<f32> = (0..64).map(|i| i as f32).collect();
            // SAFETY: every pointer is followed by 8 values.
            unsafe {
                let rows: [L::V; LANES] = std::array::from_fn(|i| L::load(matrix.as_ptr().add(8 * i)));
                let columns = L::transpose(rows);
                let sum = L::mul_add(L::splat(matrix.as_ptr().add(3)), columns[1], L::add(columns[2], L::zero()));
                let extremes = [L::max(columns[2], columns[1]), L::min(columns[2], columns[1]), L::sub(columns[2], columns[1])];
                for v in columns.into_iter().chain([sum]).chain(extremes) {
                    let at = self.0.len();
                    self.0.resize(at + LANES, 0.0);
                    L::store(self.0.as_mut_ptr().add(at), v);
                }
            }
        }
    }
    let run = |isa| {
        let mut values = Vec::new();
        // SAFETY: `isa` is detected or portable.
        unsafe { dispatch(isa, All(&mut values)) };
        values
    };
    let row = |f: fn(f32) -> f32| (0..8).map(move |i| f(8.0 * i as f32));
    let expected: Vec<f32> = (0..64)
        .map(|i| (i % 8 * 8 + i / 8) as f32)
        .chain(row(|first| 3.0 * (first + 1.0) + first + 2.0))
        .chain(row(|first| first + 2.0))
        .chain(row(|first| first + 1.0))
        .chain(row(|_| 1.0))
        .collect();
    assert_eq!(run(Isa::Portable), expected);
    assert_eq!(run(Isa::detect()), expected);
}
