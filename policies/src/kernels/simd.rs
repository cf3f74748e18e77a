//! Vectors of `f32` on whatever the processor has, chosen at run time.
//!
//! A kernel is written once, generic over [`Lanes`] and `#[inline(always)]`; [`dispatch`] compiles it again under each
//! instruction set's `target_feature` and calls the one asked for. Layouts are in units of eight lanes everywhere; a
//! [`WideKernel`] takes vectors of any length, sixteen where the processor has AVX-512.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
use std::sync::OnceLock;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

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
    /// 64-bit ARM, all of which have NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// That of `PANSCREEN_ISA` in the environment, else the best that this processor has. Results of plain Rust are the same to the bit on other
    /// processors too.
    pub fn detect() -> Self {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        *CHOSEN.get_or_init(|| Self::wanted().unwrap_or(Self::best()))
    }

    /// As [`Isa::detect`], with a sentence where this processor doesn't have what the environment names.
    pub fn wanted() -> Result<Self, String> {
        let Some(name) = std::env::var_os("PANSCREEN_ISA") else { return Ok(Self::best()) };
        Self::all().iter().copied().find(|isa| name == isa.name()).ok_or_else(|| {
            let names: Vec<_> = Self::all().iter().map(|isa| isa.name()).collect();
            format!(
                "PANSCREEN_ISA is `{}`, expected one that this processor has: {}; name one of these, or unset it",
                name.display(),
                names.join(", ")
            )
        })
    }

    fn best() -> Self {
        *Self::all().last().expect("the portable one")
    }

    fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
        }
    }

    /// All that this processor has, the best last.
    pub fn all() -> &'static [Isa] {
        static ALL: OnceLock<Vec<Isa>> = OnceLock::new();
        ALL.get_or_init(|| {
            #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(unused_mut))]
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
            #[cfg(target_arch = "aarch64")]
            all.push(Isa::Neon);
            all
        })
    }

    /// Vectors of eight lanes in a block of output channels of the gathered product (`tile.rs`). NEON's 32 registers of four lanes hold as much as
    /// AVX2's 16 of eight, so its blocks are the same.
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
    /// That the cache line of `at`, which need not be valid, will be written.
    #[inline(always)]
    unsafe fn will_write(_at: *mut f32) {}
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
            // Part of the target's baseline, so nothing needs to be enabled.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => kernel.run::<Neon>(),
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

#[test]
fn extremes_are_the_second_where_one_is_no_number_or_both_are_zero() {
    struct Extremes<'a>(&'a [f32; LANES], &'a [f32; LANES], &'a mut [[f32; LANES]; 2]);
    impl WideKernel for Extremes<'_> {
        #[inline(always)]
        unsafe fn run<W: Vector>(self) {
            let Extremes(a, b, [max, min]) = self;
            // SAFETY: each array has eight values, the width of what `Eight` hands on.
            unsafe {
                let (a, b) = (W::load(a.as_ptr()), W::load(b.as_ptr()));
                W::store(max.as_mut_ptr(), W::max(a, b));
                W::store(min.as_mut_ptr(), W::min(a, b));
            }
        }
    }
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let a = [nan, 1.0, nan, 0.0, -0.0, -inf, inf, 2.0];
    let b = [1.0, nan, nan, -0.0, 0.0, inf, -3.0, 1.0];
    let bits = |values: [f32; LANES]| values.map(f32::to_bits);
    for &isa in Isa::all() {
        let mut found = [[5.0; LANES]; 2];
        // SAFETY: `isa` is one of this processor's.
        unsafe { dispatch(isa, Eight(Extremes(&a, &b, &mut found))) };
        assert_eq!(bits(found[0]), bits([1.0, nan, nan, -0.0, 0.0, inf, inf, 2.0]), "{isa:?}");
        assert_eq!(bits(found[1]), bits([1.0, nan, nan, -0.0, 0.0, -inf, -3.0, 1.0]), "{isa:?}");
    }
}
