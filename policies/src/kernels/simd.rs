//! Vectors of `f32` on whatever the processor has, chosen at run time.
//!
//! A kernel is written once, generic over [`Lanes`] and `#[inline(always)]`; [`dispatch`] compiles it again under each
//! instruction set's `target_feature` and calls the one asked for. Layouts are in units of eight lanes everywhere; a
//! [`WideKernel`] takes vectors of any length, sixteen where the processor has AVX-512.

use std::sync::OnceLock;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust; what the compiler makes of it for the target's baseline.
    Portable,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 (F, VL, BW, DQ), besides AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best that this processor has; plain Rust where the environment has `PANSCREEN_PORTABLE` (results are then the same to the bit on
    /// other processors too).
    pub fn detect() -> Self {
        static PORTABLE: OnceLock<bool> = OnceLock::new();
        if *PORTABLE.get_or_init(|| std::env::var_os("PANSCREEN_PORTABLE").is_some()) {
            return Isa::Portable;
        }
        *Self::all().last().expect("the portable one")
    }

    /// All that this processor has, the best last.
    pub fn all() -> &'static [Isa] {
        static ALL: OnceLock<Vec<Isa>> = OnceLock::new();
        ALL.get_or_init(|| {
            #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut))]
            let mut all = vec![Isa::Portable];
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::is_x86_feature_detected as has;
                if has!("avx2") && has!("fma") {
                    all.push(Isa::Avx2);
                    if has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq") {
                        all.push(Isa::Avx512);
                    }
                }
            }
            all
        })
    }

    /// Vectors of eight lanes in a block of output channels of the gathered product (`tile.rs`).
    pub fn block(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 4,
            _ => 2,
        }
    }
}

/// Number of lanes of [`Lanes`].
pub const LANES: usize = 8;

/// Operations on `WIDTH` `f32`.
///
/// # Safety
/// All functions need a processor with the implementor's instruction set; `load`, `splat` and `store` need pointers
/// that are valid for `WIDTH`, 1 and `WIDTH` values, of any alignment.
pub trait Vector {
    const WIDTH: usize;
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
}

/// A [`Vector`] of eight.
///
/// # Safety
/// As for [`Vector`].
pub trait Lanes: Vector {
    /// `a * b + c` of single values, rounded as [`mul_add`](Vector::mul_add) does.
    fn fused(a: f32, b: f32, c: f32) -> f32;
    /// Transposes the 8 x 8 matrix whose rows are given.
    unsafe fn transpose(rows: [Self::V; LANES]) -> [Self::V; LANES];
}

pub struct Portable;

impl Vector for Portable {
    const WIDTH: usize = LANES;
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
}

impl Lanes for Portable {
    #[inline(always)]
    fn fused(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self::V; LANES]) -> [Self::V; LANES] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
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
}

/// A loop to be compiled for each instruction set.
pub trait Kernel {
    /// # Safety
    /// The processor has `L`'s instruction set, and whatever the kernel itself asks for.
    unsafe fn run<L: Lanes>(self);
}

/// A loop for vectors of any length.
pub trait WideKernel {
    /// # Safety
    /// As for [`Kernel::run`].
    unsafe fn run<W: Vector>(self);
}

/// Runs `kernel` compiled for `isa`.
///
/// # Safety
/// Whatever the kernel asks for. `isa` comes from [`Isa::detect`] or [`Isa::all`].
pub unsafe fn dispatch<K: Kernel>(isa: Isa, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn with_avx2<K: Kernel>(kernel: K) {
        // SAFETY: handed on to the caller.
        unsafe { kernel.run::<Avx2>() }
    }
    // Eight lanes too, but twice the registers, and longer vectors where the compiler makes them.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
    unsafe fn with_avx512<K: Kernel>(kernel: K) {
        // SAFETY: handed on to the caller.
        unsafe { kernel.run::<Avx2>() }
    }
    // SAFETY: handed on to the caller.
    unsafe {
        match isa {
            Isa::Portable => kernel.run::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => with_avx2(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => with_avx512(kernel),
        }
    }
}

/// Keeps a [`WideKernel`] to eight lanes.
pub struct Eight<K>(pub K);

impl<K: WideKernel> Kernel for Eight<K> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: handed on to the caller.
        unsafe { self.0.run::<L>() }
    }
}

/// Runs `kernel` on the longest vectors of `isa`.
///
/// # Safety
/// As for [`dispatch`].
pub unsafe fn dispatch_wide<K: WideKernel>(isa: Isa, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
    unsafe fn with_avx512<K: WideKernel>(kernel: K) {
        // SAFETY: handed on to the caller.
        unsafe { kernel.run::<Avx512>() }
    }
    // SAFETY: handed on to the caller.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => with_avx512(kernel),
            _ => dispatch(isa, Eight(kernel)),
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
    for &isa in Isa::all() {
        assert_eq!(run(isa), expected, "{isa:?}");
    }
}
