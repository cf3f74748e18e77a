//! The convolution's inner loops on channels-last data: a matrix product whose left side is gathered on the fly.
//!
//! A window around one output position is a few contiguous *runs* of `kernel_w * channels` values, one for each kernel
//! row. So position p and the runs' offsets are all that the loops need: no im2col copy, and no dependence on the
//! volume's width, the stride or the padding.

use super::simd::{Eight, Isa, LANES, Vector, WideKernel, dispatch, dispatch_wide};
use std::mem::MaybeUninit;

/// Where an output position reads (offset of its window's first value) and which row of the output block it writes.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub source: usize,
    pub row: usize,
}

/// The most vectors in a block of output channels.
pub const WIDEST: usize = 6;

/// Output channels in blocks that [`Gather`] takes, `(first vector, vectors)`: as many as [`Isa::block`] says, then what remains. Of blocks of four the
/// last may be one of six: half of it alone, two vectors, would read an input for each product.
pub fn channel_blocks(isa: Isa, channels: usize) -> impl Iterator<Item = (usize, usize)> {
    let (total, mut first) = (channels.div_ceil(LANES), 0);
    std::iter::from_fn(move || {
        let vectors = match (isa.block(), total - first) {
            (4, WIDEST | 7) => WIDEST,
            (block, left) => [block, 2, 1].into_iter().find(|&vectors| vectors <= left)?,
        };
        first += vectors;
        Some((first - vectors, vectors))
    })
}

/// `out[cell.row][0..8 * vectors] (+)= sum over runs and r of source[cell.source + run + r] * weights[..]`.
pub struct Gather<'a> {
    /// Channels-last input.
    pub source: &'a [f32],
    pub cells: &'a [Cell],
    /// Offsets of the runs from a window's first value.
    pub runs: &'a [usize],
    /// Length of each run.
    pub run_len: usize,
    /// `[run][run_len][8 * vectors]`
    pub weights: &'a [f32],
    /// Start value of a row, `[8 * vectors]`; `None` continues from what `out` holds.
    pub start: Option<&'a [f32]>,
    /// Output channels of this block in vectors of 8: 1, 2 or, where blocks are that wide, 4 or 6.
    pub vectors: usize,
    /// Length of a row of `out`.
    pub row_len: usize,
    /// Output block; rows start at its first value. All values but those of rows and columns that are continued may be fresh memory; values are
    /// all that is written.
    pub out: &'a mut [MaybeUninit<f32>],
}

impl Gather<'_> {
    /// Runs the product.
    pub fn run(self, isa: Isa) {
        let (width, depth) = (self.vectors * LANES, self.runs.len() * self.run_len);
        let last_source = self.cells.iter().map(|c| c.source).max().unwrap_or(0);
        let last_row = self.cells.iter().map(|c| c.row).max().unwrap_or(0);
        let last_run = self.runs.iter().max().map_or(0, |run| run + self.run_len);
        assert!(self.cells.is_empty() || depth == 0 || last_source + last_run <= self.source.len(), "Gather reads past its source");
        assert!(self.weights.len() >= depth * width, "Gather reads past its weights");
        assert!(self.start.is_none_or(|start| start.len() >= width), "Gather reads past its start values");
        assert!(self.cells.is_empty() || last_row * self.row_len + width <= self.out.len(), "Gather writes past its block");
        // Twelve accumulators, two weights and an input fit 16 registers, twice as many the 32 of AVX-512; NEON's 32 are half as long, so it takes
        // 24, four and one, since both halves of an input are the same. A single vector needs at least 8 chains to hide the latency of the addition.
        // SAFETY: all offsets are checked above; the instruction set was detected.
        unsafe {
            match (self.vectors, isa.block()) {
                (1, _) => dispatch(isa, Eight(GatherTiles::<8, 4, 1>(self))),
                (2, 2) => dispatch(isa, Eight(GatherTiles::<6, 3, 2>(self))),
                (2, 4) => dispatch_wide(isa, GatherTiles::<12, 6, 1>(self)),
                (4, 4) => dispatch_wide(isa, GatherTiles::<12, 6, 2>(self)),
                (WIDEST, 4) => dispatch_wide(isa, GatherTiles::<8, 4, 3>(self)),
                (n, _) => unreachable!("blocks have 1, 2, 4 or 6 vectors, not {n}"),
            }
        }
    }
}

/// Tiles of `P` positions by `V` vectors of output channels; the last may be one of `H`.
struct GatherTiles<'a, const P: usize, const H: usize, const V: usize>(Gather<'a>);

impl<const P: usize, const H: usize, const V: usize> WideKernel for GatherTiles<'_, P, H, V> {
    #[inline(always)]
    unsafe fn run<W: Vector>(mut self) {
        for tile in self.0.cells.chunks(P) {
            // SAFETY: `Gather::run` checked every cell, run, weight and row.
            unsafe { if tile.len() > H { self.0.tile::<W, P, V>(tile) } else { self.0.tile::<W, H, V>(tile) } }
        }
    }
}

impl Gather<'_> {
    /// The sums of at most `P` cells, at least one.
    ///
    /// # Safety
    /// As [`run`](Self::run) checks; the instruction set of `W`.
    #[inline(always)]
    unsafe fn tile<W: Vector, const P: usize, const V: usize>(&mut self, tile: &[Cell]) {
        let Gather { source, runs, run_len, weights, start, row_len, .. } = *self;
        let out = self.out.as_mut_ptr().cast::<f32>();
        // SAFETY: handed on to the caller.
        unsafe {
            // A short last tile repeats its last position.
            let cell = |i: usize| tile[i.min(tile.len() - 1)];
            let windows: [*const f32; P] = std::array::from_fn(|i| source.as_ptr().add(cell(i).source));
            let mut sums: [[W::V; V]; P] = std::array::from_fn(|i| {
                let from = match start {
                    Some(start) => start.as_ptr(),
                    None => out.add(cell(i).row * row_len),
                };
                std::array::from_fn(|v| W::load(from.add(v * W::WIDTH)))
            });
            // Sums that don't continue others are written where nothing was read: their lines come while they are computed.
            if start.is_some() {
                for i in 0..P {
                    for v in 0..V {
                        W::will_write(out.wrapping_add(cell(i).row * row_len + v * W::WIDTH));
                    }
                }
            }
            let mut w = weights.as_ptr();
            for &run in runs {
                let at: [*const f32; P] = std::array::from_fn(|i| windows[i].add(run));
                for r in 0..run_len {
                    let row: [W::V; V] = std::array::from_fn(|v| W::load(w.add(v * W::WIDTH)));
                    for (at, sums) in at.iter().zip(&mut sums) {
                        let x = W::splat(at.add(r));
                        for (w, sum) in row.iter().zip(sums) {
                            *sum = W::mul_add(x, *w, *sum);
                        }
                    }
                    w = w.add(V * W::WIDTH);
                }
            }
            // All of them, so that the loop has a known length and the sums stay in registers.
            for (i, sums) in sums.iter().enumerate() {
                let to = out.add(cell(i).row * row_len);
                for (v, sum) in sums.iter().enumerate() {
                    W::store(to.add(v * W::WIDTH), *sum);
                }
            }
        }
    }
}

/// `out[o][part] (+)= sum over positions of dy[position][o] * source[window + part ..][0..8]`, for pairs of output channels.
pub struct Correlate<'a> {
    /// Channels-last input.
    pub source: &'a [f32],
    /// Offset of each position's window.
    pub windows: &'a [usize],
    /// Output gradient, `[position][2]` for each pair of output channels.
    pub dy: &'a [f32],
    /// Values of `dy` from one pair to the next.
    pub dy_stride: usize,
    pub pairs: usize,
    /// Offsets of vectors inside a window.
    pub parts: &'a [usize; Correlate::VECTORS],
    /// Whether `out` holds nothing yet.
    pub start: bool,
    /// `[pair][2][out_stride]`, each with `8 * VECTORS` sums at its start.
    pub out: &'a mut [f32],
    pub out_stride: usize,
}

impl Correlate<'_> {
    /// Vectors in one block: with two channels, 12 sums, 2 gradients and an input fit the 16 registers.
    pub const VECTORS: usize = 6;
    /// Channels in one block.
    pub const PAIR: usize = 2;

    /// Adds the products.
    pub fn run(self, isa: Isa) {
        let last_window = self.windows.iter().max().map_or(0, |window| window + LANES);
        let last_part = self.parts.iter().max().copied().unwrap_or(0);
        let last_pair = self.pairs.checked_sub(1).expect("Correlate without channels");
        assert!(last_window + last_part <= self.source.len(), "Correlate reads past its source");
        assert!(last_pair * self.dy_stride + self.windows.len() * Self::PAIR <= self.dy.len(), "Correlate reads past dy");
        let sums = (2 * last_pair + 1) * self.out_stride + Self::VECTORS * LANES;
        assert!(self.out.len() >= sums, "Correlate writes past its block");
        let twos = self.parts.chunks_exact(2).all(|two| two[1] == two[0] + LANES);
        // SAFETY: all offsets are checked above; the instruction set was detected.
        unsafe {
            if isa.block() == 4 && twos {
                dispatch_wide(isa, CorrelateTiles::<4, 3>(self))
            } else {
                dispatch(isa, Eight(CorrelateTiles::<1, { Correlate::VECTORS }>(self)))
            }
        }
    }
}

/// Tiles of `M` pairs of output channels by a block of parts in `N` vectors, each summed over all positions.
struct CorrelateTiles<'a, const M: usize, const N: usize>(Correlate<'a>);

impl<const M: usize, const N: usize> WideKernel for CorrelateTiles<'_, M, N> {
    #[inline(always)]
    unsafe fn run<W: Vector>(self) {
        let Correlate { source, windows, dy, dy_stride, pairs, parts, start, out, out_stride } = self.0;
        let parts: [usize; N] = std::array::from_fn(|n| parts[n * W::WIDTH / LANES]);
        for first in (0..pairs).step_by(M) {
            // SAFETY: `Correlate::run` checked every window, part, pair and sum.
            unsafe {
                let mut sums = [[[W::zero(); Correlate::PAIR]; M]; N];
                // A short last tile repeats its last pair and stores it once.
                let dy: [*const f32; M] = std::array::from_fn(|m| dy.as_ptr().add((first + m).min(pairs - 1) * dy_stride));
                for (position, &window) in windows.iter().enumerate() {
                    let window = source.as_ptr().add(window);
                    let x = |n: usize| W::load(window.add(parts[n]));
                    let gradient = |m: usize, c: usize| W::splat(dy[m].add(position * Correlate::PAIR + c));
                    // The fewer are held, the others pass one by one: with the sums they then fit the registers.
                    if N < M * Correlate::PAIR {
                        let x: [W::V; N] = std::array::from_fn(x);
                        for m in 0..M {
                            for c in 0..Correlate::PAIR {
                                let gradient = gradient(m, c);
                                for (x, sums) in x.iter().zip(&mut sums) {
                                    sums[m][c] = W::mul_add(gradient, *x, sums[m][c]);
                                }
                            }
                        }
                    } else {
                        let gradients: [[W::V; Correlate::PAIR]; M] = std::array::from_fn(|m| std::array::from_fn(|c| gradient(m, c)));
                        for (n, sums) in sums.iter_mut().enumerate() {
                            let x = x(n);
                            for (gradients, sums) in gradients.iter().zip(sums) {
                                for (gradient, sum) in gradients.iter().zip(sums) {
                                    *sum = W::mul_add(*gradient, x, *sum);
                                }
                            }
                        }
                    }
                }
                // Loops of known lengths, so that the sums stay in registers.
                for (n, sums) in sums.iter().enumerate() {
                    for (m, sums) in sums.iter().enumerate() {
                        if first + m < pairs {
                            for (c, sum) in sums.iter().enumerate() {
                                let to = out.as_mut_ptr().add(((first + m) * Correlate::PAIR + c) * out_stride + n * W::WIDTH);
                                W::store(to, if start { *sum } else { W::add(W::load(to), *sum) });
                            }
                        }
                    }
                }
            }
        }
    }
}
