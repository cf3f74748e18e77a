//! Linear layers on slices: the gathered product and the correlation of `tile.rs`, whose windows are rows.

use super::pack_weight::{WeightBlock, WeightStrides};
use super::scratch::with_scratch;
use super::simd::{Isa, LANES};
use super::tile::{Cell, Correlate, Gather};
use rayon::prelude::*;

/// Rows per task.
const BLOCK: usize = 192;
/// Inputs of a row that are multiplied between two visits of the output.
const DEPTH: usize = 1024;
/// Rows between two visits of a block of the weight gradient, and parts of the rows with sums of their own.
const ROWS: usize = 96;
const CHUNKS: usize = 8;
const PAIR: usize = Correlate::PAIR;

/// A matrix `[K, O]` for the right side of a product, in blocks of 16 columns.
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

    fn new(isa: Isa, weight: &[f32], columns: usize, depth: usize, strides: WeightStrides, taps: &[usize]) -> Self {
        let mut values = vec![0.0; depth * columns.next_multiple_of(LANES)];
        let inputs = 0..depth / taps.len();
        values.par_chunks_mut(depth * 2 * LANES).enumerate().for_each(|(i, to)| {
            let (first, width) = (i * 2 * LANES, to.len() / depth);
            let outputs = first..(first + width).min(columns);
            WeightBlock { weight, strides, outputs, width, inputs: inputs.clone(), depth: inputs.len(), taps }.pack(isa, to);
        });
        Panels { values, depth, columns }
    }

    /// `out[row][..] (+)= x[source..][..K] * self` for each cell; rows of `out` have `row_len` values, at least the columns rounded up
    /// to 8. They continue from what `out` holds unless `start` gives each row's first values.
    pub fn multiply(&self, isa: Isa, x: &[f32], cells: &[Cell], start: Option<&[f32]>, row_len: usize, out: &mut [f32]) {
        let mut shifted = cells.to_vec();
        for at in (0..self.depth).step_by(DEPTH) {
            let run_len = DEPTH.min(self.depth - at);
            for (cell, from) in shifted.iter_mut().zip(cells) {
                cell.source = from.source + at;
            }
            for first in (0..self.columns).step_by(2 * LANES) {
                let vectors = (self.columns - first).div_ceil(LANES).min(2);
                let gather = Gather {
                    source: x,
                    cells: &shifted,
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

/// `x_RK * panels + start`, `[R, O]`.
fn product(isa: Isa, x: &[f32], panels: &Panels, bias: Option<&[f32]>) -> Vec<f32> {
    let (depth, columns) = (panels.depth, panels.columns);
    let rows = x.len() / depth;
    let row_len = columns.next_multiple_of(LANES);
    let mut start = vec![0.0; row_len];
    if let Some(bias) = bias {
        start[..columns].copy_from_slice(bias);
    }
    let block = (rows / 16).next_multiple_of(24).clamp(24, BLOCK);
    let mut y = vec![0.0; rows * columns];
    y.par_chunks_mut(block * columns).zip(x.par_chunks(block * depth)).for_each(|(y, x)| {
        let cells: Vec<Cell> = (0..x.len() / depth).map(|row| Cell { source: row * depth, row }).collect();
        if row_len == columns {
            panels.multiply(isa, x, &cells, Some(&start), row_len, y);
        } else {
            with_scratch(cells.len() * row_len, |out| {
                panels.multiply(isa, x, &cells, Some(&start), row_len, out);
                for (y, out) in y.chunks_exact_mut(columns).zip(out.chunks_exact(row_len)) {
                    y.copy_from_slice(&out[..columns]);
                }
            });
        }
    });
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

/// Whether [`weight_gradient`] takes rows of `inputs` values.
pub fn fits(inputs: usize) -> bool {
    inputs >= LANES
}

/// Offsets of the vectors that cover `len >= 8` values (the last may overlap the one before), in whole blocks: the last is repeated.
pub fn cover(len: usize) -> Vec<[usize; Correlate::VECTORS]> {
    let vectors = len.div_ceil(LANES);
    let offset = |v: usize| (v.min(vectors - 1) * LANES).min(len - LANES);
    (0..vectors.div_ceil(Correlate::VECTORS)).map(|block| std::array::from_fn(|v| offset(block * Correlate::VECTORS + v))).collect()
}

/// Writes `columns` values of each row as `[pair of columns][row][2]`; a missing last column is 0.
pub fn pack_pairs(rows: &[f32], stride: usize, columns: usize, to: &mut [f32]) {
    let count = to.len() / columns.next_multiple_of(PAIR);
    for (pair, to) in to.chunks_exact_mut(count * PAIR).enumerate() {
        for (row, to) in to.chunks_exact_mut(PAIR).enumerate() {
            let at = row * stride + pair * PAIR;
            to[0] = rows[at];
            to[1] = if pair * PAIR + 1 < columns { rows[at + 1] } else { 0.0 };
        }
    }
}

/// Gradients of [`forward`] with respect to weight and bias from `x_RI` and `dy_RO`. Sums are split by the shape alone.
pub fn weight_gradient(isa: Isa, x: &[f32], dy: &[f32], [outputs, inputs]: [usize; 2]) -> (Vec<f32>, Vec<f32>) {
    let rows = x.len() / inputs;
    let parts = cover(inputs);
    let row = parts.len() * Correlate::VECTORS * LANES;
    let summed = outputs.next_multiple_of(PAIR);
    let chunks = (rows / ROWS).clamp(1, CHUNKS);
    let chunk_len = rows.div_ceil(chunks);
    let mut bias_sums = vec![0.0f32; chunks * outputs];
    with_scratch(chunks * summed * row, |sums| {
        let tasks = sums.par_chunks_mut(summed * row).zip(bias_sums.par_chunks_mut(outputs)).enumerate();
        tasks.for_each(|(chunk, (sums, bias))| {
            let (begin, end) = (chunk * chunk_len, ((chunk + 1) * chunk_len).min(rows));
            for at in (begin..end).step_by(ROWS) {
                let count = ROWS.min(end - at);
                let dy = &dy[at * outputs..(at + count) * outputs];
                let windows: Vec<usize> = (at..at + count).map(|r| r * inputs).collect();
                for dy in dy.chunks_exact(outputs) {
                    for (bias, dy) in bias.iter_mut().zip(dy) {
                        *bias += dy;
                    }
                }
                with_scratch(summed * count, |pairs| {
                    pack_pairs(dy, outputs, outputs, pairs);
                    for (block, parts) in parts.iter().enumerate() {
                        let correlate = Correlate {
                            source: x,
                            windows: &windows,
                            dy: pairs,
                            dy_stride: count * PAIR,
                            pairs: summed / PAIR,
                            parts,
                            start: at == begin,
                            out: &mut sums[block * Correlate::VECTORS * LANES..],
                            out_stride: row,
                        };
                        correlate.run(isa);
                    }
                });
            }
        });
        let mut weight = vec![0.0f32; outputs * inputs];
        weight.par_chunks_mut(inputs).enumerate().for_each(|(o, weight)| {
            let offsets = parts.iter().flatten().enumerate().take(inputs.div_ceil(LANES));
            for (v, &offset) in offsets {
                let to = &mut weight[offset..offset + LANES];
                to.fill(0.0);
                for sums in sums.chunks_exact(summed * row) {
                    for (to, sum) in to.iter_mut().zip(&sums[o * row + v * LANES..]) {
                        *to += sum;
                    }
                }
            }
        });
        let bias = (0..outputs).map(|o| bias_sums.chunks_exact(outputs).map(|sums| sums[o]).sum()).collect();
        (weight, bias)
    })
}
