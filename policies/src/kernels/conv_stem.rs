//! The weight gradient of convolutions with next to no input channels, the stems: vectors run over the output channels there, where those of
//! `conv_weight.rs` would be mostly empty.

use super::backend::Window;
use super::geometry::{Axis, Packing, Volumes, for_each_cell};
use super::pack::pack_plane;
use super::scratch::with_scratch;
use super::simd::{Eight, Isa, LANES, Vector, WideKernel, dispatch, dispatch_wide};
use rayon::prelude::*;

/// Positions between two visits of the sums: few enough that their gradients stay in the first cache level.
const BLOCK: usize = 96;
/// Parts of the positions with sums of their own, and most values of these (8 MiB).
const CHUNKS: usize = 16;
const PARTIAL: usize = 2 << 20;

/// Whether this way is faster; depends on the shape alone.
pub fn fits(channels_in: usize, channels_out: usize, window: Window) -> bool {
    channels_in * window.kernel[2] <= LANES && channels_out >= LANES
}

/// Gradient of [`forward`](super::conv::forward) with respect to its weight, `[O, I, KD, KH, KW]`.
pub fn weight_gradient(isa: Isa, x: Volumes, dy: Volumes, window: Window) -> Vec<f32> {
    let [batch, channels_in, size @ ..] = x.dims;
    let [_, channels_out, out @ ..] = dy.dims;
    let Window { kernel, stride, padding } = window;
    let axes: [Axis; 3] = std::array::from_fn(|a| Axis::forward(size[a], kernel[a], stride[a], padding[a]));
    let packing = Packing::new(channels_in, channels_in, size, &axes);
    let strides = packing.strides();
    let taps: usize = kernel.iter().product();
    let offset = |tap: usize| {
        [tap / kernel[2] / kernel[1], tap / kernel[2] % kernel[1], tap % kernel[2]].iter().zip(strides).map(|(i, s)| i * s).sum::<usize>()
    };
    let offsets: Vec<usize> = (0..channels_in * taps).map(|i| i / taps + offset(i % taps)).collect();
    let row = channels_out.next_multiple_of(Outer::lanes(isa));
    let place: Vec<usize> = (0..BLOCK).map(|p| p * row).collect();

    let volume: usize = out.iter().product();
    let (per_image, len) = (volume.div_ceil(BLOCK), offsets.len() * row);
    let blocks = batch * per_image;
    let per_chunk = blocks.div_ceil(CHUNKS.min((PARTIAL / len).max(1))).max(1);
    let chunks = blocks.div_ceil(per_chunk);
    let mut gradient = vec![0.0f32; channels_out * offsets.len()];
    with_scratch(chunks * len, |sums| {
        with_scratch(batch * packing.image_len(), |packed| {
            packing.pack(isa, x.values, packed);
            let packed = &*packed;
            sums.par_chunks_mut(len).enumerate().for_each(|(chunk, sums)| {
                let mut windows = Vec::with_capacity(BLOCK);
                with_scratch(BLOCK * row, |rows| {
                    for block in chunk * per_chunk..((chunk + 1) * per_chunk).min(blocks) {
                        let (n, first) = (block / per_image, block % per_image * BLOCK);
                        let count = BLOCK.min(volume - first);
                        windows.clear();
                        for_each_cell(&packing, &axes, n * volume + first..n * volume + first + count, |_, cell| windows.push(cell.source));
                        let from = &dy.values[n * channels_out * volume + first..(n + 1) * channels_out * volume];
                        let rows = &mut rows[..count * row];
                        pack_plane(isa, from, channels_out, volume, &place[..count], rows);
                        let start = block == chunk * per_chunk;
                        Outer { source: packed, windows: &windows, offsets: &offsets, rows, row, start, out: sums }.run(isa);
                    }
                });
            });
        });
        gradient.par_chunks_mut(offsets.len()).enumerate().for_each(|(o, gradient)| {
            for sums in sums.chunks_exact(len) {
                for (total, sums) in gradient.iter_mut().zip(sums.chunks_exact(row)) {
                    *total += sums[o];
                }
            }
        });
    });
    gradient
}

/// `out[offset][..] (+)= sum over positions of source[window + offset] * rows[position][..]`.
struct Outer<'a> {
    source: &'a [f32],
    /// Of each position.
    windows: &'a [usize],
    /// Inside a window.
    offsets: &'a [usize],
    /// `[position][row]`
    rows: &'a [f32],
    row: usize,
    /// Whether `out` holds nothing yet.
    start: bool,
    /// `[offset][row]`
    out: &'a mut [f32],
}

impl Outer<'_> {
    /// Rows are a multiple of this.
    fn lanes(isa: Isa) -> usize {
        if isa.block() == 4 { 2 * LANES } else { LANES }
    }

    fn run(self, isa: Isa) {
        let end = |offsets: &[usize]| offsets.iter().max().map_or(0, |last| last + 1);
        assert!(end(self.windows) + end(self.offsets) <= self.source.len() + 1, "Outer reads past its source");
        assert!(self.rows.len() >= self.windows.len() * self.row && self.out.len() >= self.offsets.len() * self.row, "Outer's rows");
        assert!(self.row.is_multiple_of(Self::lanes(isa)), "Outer's rows are not whole vectors");
        // Sums, values and an input fit the 32 or 16 registers.
        // SAFETY: checked above; the instruction set was detected.
        unsafe {
            match isa.block() {
                4 => dispatch_wide(isa, OuterTiles::<6, 4>(self)),
                _ => dispatch(isa, Eight(OuterTiles::<6, 2>(self))),
            }
        }
    }
}

/// Tiles of `T` offsets by `V` vectors; what remains goes in vectors one by one.
struct OuterTiles<'a, const T: usize, const V: usize>(Outer<'a>);

impl<const T: usize, const V: usize> WideKernel for OuterTiles<'_, T, V> {
    #[inline(always)]
    unsafe fn run<W: Vector>(mut self) {
        let (offsets, row) = (self.0.offsets, self.0.row);
        for first in (0..offsets.len()).step_by(T) {
            let mut column = 0;
            while column < row {
                // SAFETY: `Outer::run` checked every window, offset and row.
                unsafe {
                    if column + V * W::WIDTH <= row {
                        self.0.tile::<W, T, V>(first, column);
                        column += V * W::WIDTH;
                    } else if V > 2 && column + 2 * W::WIDTH <= row {
                        self.0.tile::<W, T, 2>(first, column);
                        column += 2 * W::WIDTH;
                    } else {
                        self.0.tile::<W, T, 1>(first, column);
                        column += W::WIDTH;
                    }
                }
            }
        }
    }
}

impl Outer<'_> {
    /// The sums of at most `T` offsets from `first` on at `column`.
    ///
    /// # Safety
    /// As [`run`](Self::run) checks; the offset and the columns exist; the instruction set of `W`.
    #[inline(always)]
    unsafe fn tile<W: Vector, const T: usize, const V: usize>(&mut self, first: usize, column: usize) {
        let Outer { source, windows, offsets, rows, row, start, .. } = *self;
        // A short last tile repeats its last offset and stores it once.
        let at: [*const f32; T] = std::array::from_fn(|t| source.as_ptr().wrapping_add(offsets[(first + t).min(offsets.len() - 1)]));
        // SAFETY: handed on to the caller.
        unsafe {
            let mut sums = [[W::zero(); V]; T];
            let mut from = rows.as_ptr().add(column);
            for &window in windows {
                let values: [W::V; V] = std::array::from_fn(|v| W::load(from.add(v * W::WIDTH)));
                for (at, sums) in at.iter().zip(&mut sums) {
                    let x = W::splat(at.add(window));
                    for (value, sum) in values.iter().zip(sums) {
                        *sum = W::mul_add(x, *value, *sum);
                    }
                }
                from = from.add(row);
            }
            // Loops of known lengths, so that the sums stay in registers.
            for (t, sums) in sums.iter().enumerate() {
                if first + t < offsets.len() {
                    for (v, sum) in sums.iter().enumerate() {
                        let to = self.out.as_mut_ptr().add((first + t) * row + column + v * W::WIDTH);
                        W::store(to, if start { *sum } else { W::add(W::load(to), *sum) });
                    }
                }
            }
        }
    }
}
