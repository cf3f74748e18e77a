//! Linear layers on slices: the gathered product of `tile.rs`, whose windows are rows.

use super::math::strands;
use super::pack::transpose;
use super::pack_weight::{WeightBlock, WeightStrides};
use super::scratch::{uninit, with_scratch};
use super::simd::{Isa, Kernel, LANES, Lanes, dispatch};
use super::tile::{Cell, Gather, channel_blocks};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows per task.
const BLOCK: usize = 192;
/// Inputs of a row that are multiplied between two visits of the output.
const DEPTH: usize = 1024;
/// Up to so many values of a right side stay in the second cache level: then it is read again for each few rows, which so stay in the first.
const NEAR: usize = 1 << 16;
/// Values of such rows.
const ROWS_NEAR: usize = 6 << 10;
/// Terms of a sum between two visits of a block of [`sum_of_products`].
pub const TERMS: usize = 256;
/// Parts with sums of their own there, most values of these (32 MiB), and tasks wanted.
const CHUNKS: usize = 8;
const PARTIAL: usize = 8 << 20;
const TASKS: usize = 16;
/// Rows of a task are a multiple of this: of the rows of any tile.
const TOGETHER: usize = 24;

/// A matrix `[K, O]` for the right side of a product, in blocks of columns.
pub struct Panels {
    values: Vec<f32>,
    depth: usize,
    columns: usize,
}

impl Panels {
    /// Of `matrix_ok[o * stride + k]`, as the weight of a linear layer or keys are stored.
    pub fn of_rows(isa: Isa, matrix_ok: &[f32], columns: usize, depth: usize, stride: usize) -> Self {
        let taps: Vec<usize> = (0..depth).collect();
        Self::new(isa, matrix_ok, columns, depth, WeightStrides { out: stride, input: 0 }, &taps)
    }

    /// Of `matrix_ko[k * stride + o]`.
    pub fn of_columns(isa: Isa, matrix_ko: &[f32], columns: usize, depth: usize, stride: usize) -> Self {
        Self::new(isa, matrix_ko, columns, depth, WeightStrides { out: 1, input: stride }, &[0])
    }

    /// As [`Panels::of_columns`] for rows far apart, each read in one go.
    pub fn of_far_rows(isa: Isa, matrix_ko: &[f32], columns: usize, depth: usize, stride: usize) -> Self {
        let mut values = vec![0.0; depth * columns.next_multiple_of(LANES)];
        let blocks: Vec<_> = channel_blocks(isa, columns).map(|(first, vectors)| (first * LANES, vectors * LANES)).collect();
        for k in 0..depth {
            let row = &matrix_ko[k * stride..][..columns];
            for &(first, width) in &blocks {
                let from = &row[first..(first + width).min(columns)];
                values[first * depth + k * width..][..from.len()].copy_from_slice(from);
            }
        }
        Panels { values, depth, columns }
    }

    fn new(isa: Isa, weight: &[f32], columns: usize, depth: usize, strides: WeightStrides, taps: &[usize]) -> Self {
        let mut values = vec![0.0; depth * columns.next_multiple_of(LANES)];
        let inputs = 0..depth / taps.len();
        let mut rest = &mut values[..];
        let mut blocks = Vec::new();
        for (first, vectors) in channel_blocks(isa, columns) {
            let (here, after) = rest.split_at_mut(depth * vectors * LANES);
            blocks.push((first * LANES, vectors * LANES, here));
            rest = after;
        }
        blocks.into_par_iter().for_each(|(first, width, to)| {
            let outputs = first..(first + width).min(columns);
            WeightBlock { weight, strides, outputs, width, inputs: inputs.clone(), depth: inputs.len(), taps }.pack(isa, to);
        });
        Panels { values, depth, columns }
    }

    /// `out[row][..] (+)= x[source..][..K] * self` for each cell; rows of `out` have `row_len` values, at least the columns rounded up
    /// to 8. They continue from what `out` holds unless `start` gives each row's first values.
    pub fn multiply(&self, isa: Isa, x: &[f32], cells: &[Cell], start: Option<&[f32]>, row_len: usize, out: &mut [MaybeUninit<f32>]) {
        let mut shifted = cells.to_vec();
        for at in (0..self.depth).step_by(DEPTH) {
            let run_len = DEPTH.min(self.depth - at);
            for (cell, from) in shifted.iter_mut().zip(cells) {
                cell.source = from.source + at;
            }
            let together = match self.values.len() <= NEAR {
                true => (ROWS_NEAR / run_len / TOGETHER).max(1) * TOGETHER,
                false => usize::MAX,
            };
            for cells in shifted.chunks(together) {
                for (first, vectors) in channel_blocks(isa, self.columns) {
                    let first = first * LANES;
                    let gather = Gather {
                        source: x,
                        cells,
                        runs: &[0],
                        run_len,
                        weights: &self.values[first * self.depth + at * vectors * LANES..],
                        start: start.filter(|_| at == 0).map(|start| &start[first..]),
                        vectors,
                        row_len,
                        out: &mut out[first..],
                    };
                    gather.run(isa);
                }
            }
        }
    }
}

/// `count` consecutive rows of `stride` values.
pub fn cells(count: usize, stride: usize) -> Vec<Cell> {
    (0..count).map(|row| Cell { source: row * stride, row }).collect()
}

/// `x_RK * panels + start`, `[R, O]`.
fn product(isa: Isa, x: &[f32], panels: &Panels, bias: Option<&[f32]>) -> Vec<f32> {
    let (depth, columns) = (panels.depth, panels.columns);
    let count = x.len() / depth;
    let row_len = columns.next_multiple_of(LANES);
    let mut start = vec![0.0; row_len];
    if let Some(bias) = bias {
        start[..columns].copy_from_slice(bias);
    }
    let block = (count / 8).next_multiple_of(TOGETHER).clamp(TOGETHER, BLOCK);
    let mut y = Vec::with_capacity(count * columns);
    y.spare_capacity_mut()[..count * columns].par_chunks_mut(block * columns).zip(x.par_chunks(block * depth)).for_each(|(y, x)| {
        let cells = cells(x.len() / depth, depth);
        if row_len == columns {
            panels.multiply(isa, x, &cells, Some(&start), row_len, y);
        } else {
            with_scratch(cells.len() * row_len, |out| {
                // SAFETY: `multiply` writes values.
                panels.multiply(isa, x, &cells, Some(&start), row_len, unsafe { uninit(out) });
                for (y, out) in y.chunks_exact_mut(columns).zip(out.chunks_exact(row_len)) {
                    for (y, out) in y.iter_mut().zip(out) {
                        y.write(*out);
                    }
                }
            });
        }
    });
    // SAFETY: every row was written.
    unsafe { y.set_len(count * columns) };
    y
}

/// See [`linear`](super::linear): `x_RI`, `weight_OI`.
pub fn forward(isa: Isa, x: &[f32], weight: &[f32], bias: Option<&[f32]>, [outputs, inputs]: [usize; 2]) -> Vec<f32> {
    product(isa, x, &Panels::of_rows(isa, weight, outputs, inputs, inputs), bias)
}

/// Gradient of [`forward`] with respect to its input, from `dy_RO`.
pub fn input_gradient(isa: Isa, weight: &[f32], dy: &[f32], [outputs, inputs]: [usize; 2]) -> Vec<f32> {
    product(isa, dy, &Panels::of_columns(isa, weight, inputs, outputs, inputs), None)
}

/// Gradients of [`forward`] with respect to weight and bias from `x_RI` and `dy_RO`.
pub fn weight_gradient(isa: Isa, x: &[f32], dy: &[f32], [outputs, inputs]: [usize; 2]) -> (Vec<f32>, Vec<f32>) {
    let count = x.len() / inputs;
    let depth = |block: usize| TERMS.min(count - block * TERMS);
    let left = |block: usize, channels: Range<usize>, to: &mut [f32]| {
        let sources: Vec<usize> = (0..depth(block)).map(|r| (block * TERMS + r) * outputs + channels.start).collect();
        // SAFETY: `transpose` writes values.
        transpose(isa, dy, &sources, channels.len(), unsafe { uninit(to) });
    };
    let right = |block: usize| Panels::of_columns(isa, &x[block * TERMS * inputs..], inputs, depth(block), inputs);
    sum_of_products(isa, [outputs, inputs], count.div_ceil(TERMS), &left, &right)
}

/// `sum over blocks of left(block)_OK * right(block)_KI`, and the sums of all rows of the left sides.
///
/// `left` writes a range of rows. Sums are split by the shape alone.
pub fn sum_of_products(
    isa: Isa,
    [outputs, inputs]: [usize; 2],
    blocks: usize,
    left: &(impl Fn(usize, Range<usize>, &mut [f32]) + Sync),
    right: &(impl Fn(usize) -> Panels + Sync),
) -> (Vec<f32>, Vec<f32>) {
    let row_len = inputs.next_multiple_of(LANES);
    let len = outputs * row_len;
    let most = (blocks / 4).clamp(1, CHUNKS).min((PARTIAL / len).max(1));
    let per_chunk = blocks.div_ceil(most).max(1);
    let chunks = blocks.div_ceil(per_chunk);
    let per_task = outputs.div_ceil((TASKS / chunks.max(1)).max(1)).next_multiple_of(TOGETHER);
    let zeros = vec![0.0; row_len];
    let mut row_sums = vec![0.0f32; chunks * outputs];
    with_scratch(chunks * len, |sums| {
        sums.par_chunks_mut(len).zip(row_sums.par_chunks_mut(outputs)).enumerate().for_each(|(chunk, (sums, row_sums))| {
            let first = chunk * per_chunk;
            for block in first..(first + per_chunk).min(blocks) {
                let panels = right(block);
                let start = (block == first).then_some(&zeros[..]);
                let tasks = sums.par_chunks_mut(per_task * row_len).zip(row_sums.par_chunks_mut(per_task)).enumerate();
                tasks.for_each(|(task, (sums, row_sums))| {
                    let channels = task * per_task..task * per_task + row_sums.len();
                    with_scratch(channels.len() * panels.depth, |values| {
                        left(block, channels, values);
                        // SAFETY: `multiply` writes values.
                        panels.multiply(isa, values, &cells(row_sums.len(), panels.depth), start, row_len, unsafe { uninit(sums) });
                        // SAFETY: `isa` was detected.
                        unsafe { dispatch(isa, AddRows { values, depth: panels.depth, to: row_sums }) };
                    });
                });
            }
        });
        let mut total = vec![0.0f32; outputs * inputs];
        total.par_chunks_mut(inputs).enumerate().for_each(|(o, total)| {
            for sums in sums.chunks_exact(len) {
                for (total, sum) in total.iter_mut().zip(&sums[o * row_len..]) {
                    *total += sum;
                }
            }
        });
        let row_sums = (0..outputs).map(|o| row_sums.chunks_exact(outputs).map(|sums| sums[o]).sum()).collect();
        (total, row_sums)
    })
}

/// Adds the sum of each row.
struct AddRows<'a> {
    values: &'a [f32],
    depth: usize,
    to: &'a mut [f32],
}

impl Kernel for AddRows<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for (row, to) in self.values.chunks_exact(self.depth).zip(self.to) {
            *to += strands(row.len(), 0.0, |i| row[i], |a, b| a + b);
        }
    }
}
