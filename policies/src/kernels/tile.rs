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
        // SAFETY: all offsets are checked above; the instruction set was detected.
        unsafe { dispatch(isa, CorrelateTiles(self)) }
    }
}

/// Tiles of two output channels by `VECTORS` vectors, each summed over all positions.
struct CorrelateTiles<'a>(Correlate<'a>);

impl Kernel for CorrelateTiles<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Correlate { source, windows, dy, dy_stride, pairs, parts, start, out, out_stride } = self.0;
        let parts = *parts;
        for pair in 0..pairs {
            // SAFETY: `Correlate::run` checked every window, part, pair and sum.
            unsafe {
                let mut sums = [[L::zero(); Correlate::PAIR]; Correlate::VECTORS];
                let dy = dy.as_ptr().add(pair * dy_stride);
                for (position, &window) in windows.iter().enumerate() {
                    let window = source.as_ptr().add(window);
                    let gradients: [L::V; Correlate::PAIR] = std::array::from_fn(|m| L::splat(dy.add(position * Correlate::PAIR + m)));
                    for (part, sums) in parts.into_iter().zip(&mut sums) {
                        let x = L::load(window.add(part));
                        for (gradient, sum) in gradients.iter().zip(sums) {
                            *sum = L::mul_add(*gradient, x, *sum);
                        }
                    }
                }
                for (v, sums) in sums.into_iter().enumerate() {
                    for (m, sum) in sums.into_iter().enumerate() {
                        let to = out.as_mut_ptr().add((pair * Correlate::PAIR + m) * out_stride + v * LANES);
                        L::store(to, if start { sum } else { L::add(L::load(to), sum) });
                    }
                }
            }
        }
    }
}
