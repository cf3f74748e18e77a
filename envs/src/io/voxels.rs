//! Stored voxels to arrays and back: NIfTI has x fastest, arrays here have z fastest.

use rayon::prelude::*;

/// x planes handled together. 32 int16 are one cache line, and a tile of 32 rows stays in the L2 cache.
const BLOCK: usize = 32;

/// A number as it is stored, little-endian.
pub(super) trait Stored: Copy + Send + Sync {
    const BYTES: usize;
    fn from_le(bytes: &[u8]) -> Self;
    fn to_f32(self) -> f32;
    fn to_f64(self) -> f64;
}

macro_rules! stored {
    ($($t:ty),*) => {$(
        impl Stored for $t {
            const BYTES: usize = size_of::<$t>();
            #[inline(always)]
            fn from_le(bytes: &[u8]) -> Self {
                let mut b = [0; size_of::<$t>()];
                b.copy_from_slice(bytes);
                <$t>::from_le_bytes(b)
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
        }
    )*};
}
stored!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// Swap the bytes of every number of `size` bytes.
pub(super) fn swap_bytes(raw: &mut [u8], size: usize) {
    if size > 1 {
        raw.chunks_exact_mut(size).for_each(|number| number.reverse());
    }
}

/// File order (x fastest) to `out` in `[x][y][z]`, each number through `convert`.
pub(super) fn from_file_order<T: Stored, O: Copy + Default + Send + Sync>(
    raw: &[u8],
    [nx, ny, nz]: [usize; 3],
    out: &mut [O],
    convert: impl Fn(T) -> O + Sync,
) {
    // Rows of the tile are kept apart by an odd number of cache lines, or they would all fall into one cache set.
    let stride = nz.next_multiple_of(16) + 16;
    out.par_chunks_mut(BLOCK * ny * nz).enumerate().for_each_init(
        || vec![O::default(); BLOCK * stride],
        |tile, (block, out)| {
            let (x0, width) = (block * BLOCK, out.len() / (ny * nz));
            for y in 0..ny {
                for z in 0..nz {
                    let line = &raw[((z * ny + y) * nx + x0) * T::BYTES..][..width * T::BYTES];
                    for (x, number) in line.chunks_exact(T::BYTES).enumerate() {
                        tile[x * stride + z] = convert(T::from_le(number));
                    }
                }
                for x in 0..width {
                    out[(x * ny + y) * nz..][..nz].copy_from_slice(&tile[x * stride..][..nz]);
                }
            }
        },
    );
}

/// `[x][y][z]` to file order behind `head`, each number as the `N` bytes that `encode` gives.
pub(super) fn to_file_order<T: Copy + Send + Sync, const N: usize>(
    data: &[T],
    [nx, ny, nz]: [usize; 3],
    out: &mut [u8],
    encode: impl Fn(T) -> [u8; N] + Sync,
) {
    out.par_chunks_mut(BLOCK * ny * nx * N).enumerate().for_each(|(block, out)| {
        let (z0, depth) = (block * BLOCK, out.len() / (ny * nx * N));
        for y in 0..ny {
            for x in 0..nx {
                let row = &data[(x * ny + y) * nz + z0..][..depth];
                for (z, &v) in row.iter().enumerate() {
                    out[((z * ny + y) * nx + x) * N..][..N].copy_from_slice(&encode(v));
                }
            }
        }
    });
}
