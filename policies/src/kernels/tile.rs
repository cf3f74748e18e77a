//! The convolution's inner loops on channels-last data: a matrix product whose left side is gathered on the fly.
//!
//! A window around one output position is a few contiguous *runs* of `kernel_w * channels` values, one for each kernel
//! row. So position p and the runs' offsets are all that the loops need: no im2col copy, and no dependence on the
//! volume's width, the stride or the padding.

use super::simd::{Isa, Kernel, LANES, Lanes, dispatch};

/// Where an output position reads (offset of its window's first value) and which row of the output block it writes.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub source: usize,
    pub row: usize,
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
    /// Output channels of this block in vectors: 1 or 2.
    pub vectors: usize,
    /// Length of a row of `out`.
    pub row_len: usize,
    /// Output block; rows start at its first value.
    pub out: &'a mut [f32],
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
        // Twelve accumulators, two weights and an input fit the 16 registers; a single vector needs at least 8 chains to hide
        // the latency of the addition.
        // SAFETY: all offsets are checked above; the instruction set was detected.
        unsafe {
            match self.vectors {
                1 => dispatch(isa, GatherTiles::<8, 1>(self)),
                2 => dispatch(isa, GatherTiles::<6, 2>(self)),
                n => unreachable!("blocks have 1 or 2 vectors, not {n}"),
            }
        }
    }
}

/// Tiles of `P` positions by `V` vectors of output channels.
struct GatherTiles<'a, const P: usize, const V: usize>(Gather<'a>);

impl<const P: usize, const V: usize> Kernel for GatherTiles<'_, P, V> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Gather { source, cells, runs, run_len, weights, start, row_len, out, .. } = self.0;
        for tile in cells.chunks(P) {
            // SAFETY: `Gather::run` checked every cell, run, weight and row.
            unsafe {
                // A short last tile repeats its last position and stores it once.
                let cell = |i: usize| tile[i.min(tile.len() - 1)];
                let windows: [*const f32; P] = std::array::from_fn(|i| source.as_ptr().add(cell(i).source));
                let mut sums: [[L::V; V]; P] = std::array::from_fn(|i| {
                    let from = match start {
                        Some(start) => start.as_ptr(),
                        None => out.as_ptr().add(cell(i).row * row_len),
                    };
                    std::array::from_fn(|v| L::load(from.add(v * LANES)))
                });
                let mut w = weights.as_ptr();
                for &run in runs {
                    let at: [*const f32; P] = std::array::from_fn(|i| windows[i].add(run));
                    for r in 0..run_len {
                        let row: [L::V; V] = std::array::from_fn(|v| L::load(w.add(v * LANES)));
                        for (at, sums) in at.iter().zip(&mut sums) {
                            let x = L::splat(at.add(r));
                            for (w, sum) in row.iter().zip(sums) {
                                *sum = L::mul_add(x, *w, *sum);
                            }
                        }
                        w = w.add(V * LANES);
                    }
                }
                for (cell, sums) in tile.iter().zip(sums) {
                    let to = out.as_mut_ptr().add(cell.row * row_len);
                    for (v, sum) in sums.into_iter().enumerate() {
                        L::store(to.add(v * LANES), sum);
                    }
                }
            }
        }
    }
}

/// `out[o][part] (+)= sum over positions of dy[position][o] * source[window + part ..][0..8]`.
pub struct Correlate<'a> {
    /// Channels-last input.
    pub source: &'a [f32],
    /// Offset of each position's window.
    pub windows: &'a [usize],
    /// Channels-last output gradient, `[position][row_len]`, starting at this block's first output channel.
    pub dy: &'a [f32],
    pub row_len: usize,
    /// Output channels of this block: 1 or 2.
    pub channels: usize,
    /// Offsets of vectors inside a window.
    pub parts: &'a [usize; Correlate::VECTORS],
    /// Whether `out` holds nothing yet.
    pub start: bool,
    /// `[o][out_stride]`, each with `8 * VECTORS` sums at its start.
    pub out: &'a mut [f32],
    pub out_stride: usize,
}

impl Correlate<'_> {
    /// Vectors in one block: with two channels, 12 sums, 2 gradients and an input fit the 16 registers.
    pub const VECTORS: usize = 6;

    /// Adds the products.
    pub fn run(self, isa: Isa) {
        let last_window = self.windows.iter().max().map_or(0, |window| window + LANES);
        let last_part = self.parts.iter().max().copied().unwrap_or(0);
        let count = self.windows.len();
        assert!(last_window + last_part <= self.source.len(), "Correlate reads past its source");
        assert!(count == 0 || (count - 1) * self.row_len + self.channels <= self.dy.len(), "Correlate reads past dy");
        let sums = (self.channels - 1) * self.out_stride + Self::VECTORS * LANES;
        assert!(self.out.len() >= sums, "Correlate writes past its block");
        // SAFETY: all offsets are checked above; the instruction set was detected.
        unsafe {
            match self.channels {
                1 => dispatch(isa, CorrelateTile::<1>(self)),
                2 => dispatch(isa, CorrelateTile::<2>(self)),
                n => unreachable!("blocks have 1 or 2 channels, not {n}"),
            }
        }
    }
}

/// `M` output channels by `VECTORS` vectors, summed over all positions.
struct CorrelateTile<'a, const M: usize>(Correlate<'a>);

impl<const M: usize> Kernel for CorrelateTile<'_, M> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Correlate { source, windows, dy, row_len, parts, start, out, out_stride, .. } = self.0;
        let parts = *parts;
        // SAFETY: `Correlate::run` checked every window, part, row and sum.
        unsafe {
            let mut sums = [[L::zero(); M]; Correlate::VECTORS];
            let mut row = dy.as_ptr();
            for &window in windows {
                let window = source.as_ptr().add(window);
                let gradients: [L::V; M] = std::array::from_fn(|m| L::splat(row.add(m)));
                for (part, sums) in parts.into_iter().zip(&mut sums) {
                    let x = L::load(window.add(part));
                    for (gradient, sum) in gradients.iter().zip(sums) {
                        *sum = L::mul_add(*gradient, x, *sum);
                    }
                }
                row = row.wrapping_add(row_len);
            }
            for (v, sums) in sums.into_iter().enumerate() {
                for (m, sum) in sums.into_iter().enumerate() {
                    let to = out.as_mut_ptr().add(m * out_stride + v * LANES);
                    L::store(to, if start { sum } else { L::add(L::load(to), sum) });
                }
            }
        }
    }
}
