//! Stored voxels to arrays and back: NIfTI has x fastest, arrays here have z fastest.

use rayon::prelude::*;

/// Extent of a tile along x and z: 64 int16 are two cache lines, 32 f32 as well.
const X_BLOCK: usize = 64;
const Z_BLOCK: usize = 32;

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
///
/// Blocks of x, then of z, then all y: few pages are in use at a time (slices of a scan lie a power of two apart, so that touching all of
/// them in turn makes every access a TLB miss), and the tile between the two orders stays in the L1 cache.
pub(super) fn from_file_order<T: Stored, O: Copy + Default + Send + Sync>(
    raw: &[u8],
    [nx, ny, nz]: [usize; 3],
    out: &mut [O],
    convert: impl Fn(T) -> O + Sync,
) {
    out.par_chunks_mut(X_BLOCK * ny * nz).enumerate().for_each(|(block, out)| {
        let (x0, width) = (block * X_BLOCK, out.len() / (ny * nz));
        let mut tile = [O::default(); X_BLOCK * Z_BLOCK];
        let mut lines = [0u8; X_BLOCK * Z_BLOCK * size_of::<u64>()];
        for z0 in (0..nz).step_by(Z_BLOCK) {
            let depth = Z_BLOCK.min(nz - z0);
            for y in 0..ny {
                // Plain copies first: the processor has many of them under way at once, where it would wait for each line in the loop below.
                for (z, line) in lines.chunks_exact_mut(X_BLOCK * T::BYTES).take(depth).enumerate() {
                    let from = (((z0 + z) * ny + y) * nx + x0) * T::BYTES;
                    line[..width * T::BYTES].copy_from_slice(&raw[from..from + width * T::BYTES]);
                }
                for (z, line) in lines.chunks_exact(X_BLOCK * T::BYTES).take(depth).enumerate() {
                    for (row, number) in tile.chunks_exact_mut(Z_BLOCK).zip(line.chunks_exact(T::BYTES)) {
                        row[z] = convert(T::from_le(number));
                    }
                }
                for (x, row) in tile.chunks_exact(Z_BLOCK).take(width).enumerate() {
                    out[(x * ny + y) * nz + z0..][..depth].copy_from_slice(&row[..depth]);
                }
            }
        }
    });
}

/// `[x][y][z]` to file order, each number as the `N` bytes that `encode` gives. Blocked as above, the other way.
pub(super) fn to_file_order<T: Copy + Send + Sync, const N: usize>(
    data: &[T],
    [nx, ny, nz]: [usize; 3],
    out: &mut [u8],
    encode: impl Fn(T) -> [u8; N] + Sync,
) {
    out.par_chunks_mut(Z_BLOCK * ny * nx * N).enumerate().for_each(|(block, out)| {
        let (z0, depth) = (block * Z_BLOCK, out.len() / (ny * nx * N));
        let mut tile = [[[0u8; N]; X_BLOCK]; Z_BLOCK];
        for x0 in (0..nx).step_by(X_BLOCK) {
            let width = X_BLOCK.min(nx - x0);
            for y in 0..ny {
                for x in 0..width {
                    let row = &data[((x0 + x) * ny + y) * nz + z0..][..depth];
                    row.iter().zip(&mut tile).for_each(|(&v, line)| line[x] = encode(v));
                }
                for (z, line) in tile.iter().take(depth).enumerate() {
                    out[((z * ny + y) * nx + x0) * N..][..width * N].copy_from_slice(line[..width].as_flattened());
                }
            }
        }
    });
}
