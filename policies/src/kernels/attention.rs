//! Multi-head self-attention with a bias on slices, without the score tensor.
//!
//! Scores exist for a block of query rows at a time; the backward pass computes them again. Shapes: W windows of L tokens, H heads of E
//! values; `qkv_WL3HE` is what the projection of queries, keys and values gives.

use super::linear::{Panels, cells};
use super::scratch::{uninit, with_scratch};
use super::simd::{Isa, Kernel, LANES, Lanes, dispatch};
use super::softmax::{backward_row, exponentials};
use super::tile::Correlate;
use rayon::prelude::*;

/// Query rows whose scores exist at the same time: 66 KiB for windows of 343.
const ROWS: usize = 48;
/// Parts of the windows with a bias gradient of their own, and most values of these (32 MiB).
const CHUNKS: usize = 8;
const PARTIAL: usize = 8 << 20;
/// Added between tokens of different regions, as published.
const APART: f32 = -100.0;

/// Inputs of attention.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    pub qkv: &'a [f32],
    /// `[H, L, L]`
    pub bias: Option<&'a [f32]>,
    /// `[windows of a sample, L]`
    pub regions: Option<&'a [f32]>,
    pub heads: usize,
    pub length: usize,
    /// H times E.
    pub width: usize,
}

/// Whether this code takes heads of `per_head` values and windows of `length` tokens.
pub fn fits(per_head: usize, length: usize) -> bool {
    per_head.is_multiple_of(LANES) && length >= LANES
}

impl<'a> Attention<'a> {
    fn per_head(&self) -> usize {
        self.width / self.heads
    }

    /// Values of a window of `qkv`.
    fn window_len(&self) -> usize {
        self.length * 3 * self.width
    }

    /// Length of a row of scores.
    fn row_len(&self) -> usize {
        self.length.next_multiple_of(LANES)
    }

    fn scale(&self) -> f32 {
        (self.per_head() as f32).powf(-0.5)
    }

    /// Queries (0), keys (1) or values (2) of a head in `window`: rows `3 * width` apart.
    fn part(&self, window: usize, head: usize, which: usize) -> &'a [f32] {
        &self.qkv[window * self.window_len()..(window + 1) * self.window_len()][which * self.width + head * self.per_head()..]
    }

    fn regions(&self, window: usize) -> Option<&'a [f32]> {
        let regions = self.regions?;
        let window = window % (regions.len() / self.length);
        Some(&regions[window * self.length..(window + 1) * self.length])
    }

    /// Scores of query rows `first..` against `keys`, in rows of `row_len`: `exp(score - the row's maximum)`, not divided by its sum,
    /// which goes to `sums`.
    #[expect(clippy::too_many_arguments, reason = "forward and backward share it")]
    fn weights(
        &self,
        isa: Isa,
        window: usize,
        head: usize,
        first: usize,
        queries: &[f32],
        keys: &Panels,
        scores: &mut [f32],
        sums: &mut [f32],
    ) {
        let (length, row_len) = (self.length, self.row_len());
        for (r, row) in scores.chunks_exact_mut(row_len).enumerate() {
            match self.bias {
                Some(bias) => row[..length].copy_from_slice(&bias[(head * length + first + r) * length..][..length]),
                None => row[..length].fill(0.0),
            }
            row[length..].fill(0.0);
        }
        // SAFETY: `multiply` writes values.
        keys.multiply(isa, queries, &cells(sums.len(), self.per_head()), None, row_len, unsafe { uninit(scores) });
        let regions = self.regions(window);
        for (r, (row, sum)) in scores.chunks_exact_mut(row_len).zip(sums).enumerate() {
            // SAFETY: `isa` is detected or portable.
            unsafe { dispatch(isa, SoftmaxRow { row: &mut row[..length], regions, query: first + r, sum }) };
        }
    }

    /// Copies of query rows times the scale.
    fn scaled_queries(&self, window: usize, head: usize, first: usize, to: &mut [f32]) {
        let (from, per_head, scale) = (self.part(window, head, 0), self.per_head(), self.scale());
        for (r, to) in to.chunks_exact_mut(per_head).enumerate() {
            for (to, from) in to.iter_mut().zip(&from[(first + r) * 3 * self.width..]) {
                *to = from * scale;
            }
        }
    }

    /// The output `[W, L, H * E]`.
    pub fn forward(&self, isa: Isa) -> Vec<f32> {
        let (length, width, per_head, row_len) = (self.length, self.width, self.per_head(), self.row_len());
        let mut y = vec![0.0; self.qkv.len() / 3];
        y.par_chunks_mut(length * width).enumerate().for_each(|(window, y)| {
            for head in 0..self.heads {
                let keys = Panels::of_rows(isa, self.part(window, head, 1), length, per_head, 3 * width);
                let values = Panels::of_columns(isa, self.part(window, head, 2), per_head, length, 3 * width);
                y.par_chunks_mut(ROWS * width).enumerate().for_each(|(block, y)| {
                    let rows = y.len() / width;
                    with_scratch(rows * (row_len + 2 * per_head + 1), |scratch| {
                        let (scores, scratch) = scratch.split_at_mut(rows * row_len);
                        let (queries, scratch) = scratch.split_at_mut(rows * per_head);
                        let (out, sums) = scratch.split_at_mut(rows * per_head);
                        self.scaled_queries(window, head, block * ROWS, queries);
                        self.weights(isa, window, head, block * ROWS, queries, &keys, scores, sums);
                        out.fill(0.0);
                        // SAFETY: `multiply` writes values.
                        values.multiply(isa, scores, &cells(rows, row_len), None, per_head, unsafe { uninit(out) });
                        for ((y, out), sum) in y.chunks_exact_mut(width).zip(out.chunks_exact(per_head)).zip(sums) {
                            let inverse = 1.0 / *sum;
                            for (y, out) in y[head * per_head..].iter_mut().zip(out) {
                                *y = out * inverse;
                            }
                        }
                    });
                });
            }
        });
        y
    }

    /// Gradients of `qkv` and, if there is one, of the bias, from the output's gradient. Sums are split by the shape alone.
    pub fn backward(&self, isa: Isa, dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let windows = self.qkv.len() / self.window_len();
        let bias_len = self.bias.map_or(0, <[f32]>::len);
        let chunks = windows.min(CHUNKS).min(PARTIAL / bias_len.max(1)).max(1);
        let per_chunk = windows.div_ceil(chunks);
        let mut dqkv = vec![0.0; self.qkv.len()];
        let mut dbias = vec![0.0f32; windows.div_ceil(per_chunk) * bias_len];
        let mut parts: Vec<_> = dbias.chunks_mut(bias_len.max(1)).map(Some).collect();
        parts.resize_with(windows.div_ceil(per_chunk), || None);
        let tasks = dqkv.par_chunks_mut(per_chunk * self.window_len()).zip(parts).enumerate();
        tasks.for_each(|(chunk, (dqkv, mut dbias))| {
            for (i, dqkv) in dqkv.chunks_exact_mut(self.window_len()).enumerate() {
                let window = chunk * per_chunk + i;
                let dy = &dy[window * self.length * self.width..][..self.length * self.width];
                for head in 0..self.heads {
                    let dbias = dbias.as_deref_mut().map(|dbias| &mut dbias[head * self.length * self.length..]);
                    self.head_backward(isa, window, head, dy, dqkv, dbias);
                }
            }
        });
        let (total, others) = dbias.split_at_mut(bias_len);
        for part in others.chunks_exact(bias_len.max(1)) {
            for (total, part) in total.iter_mut().zip(part) {
                *total += part;
            }
        }
        dbias.truncate(bias_len);
        (dqkv, dbias)
    }

    fn head_backward(&self, isa: Isa, window: usize, head: usize, dy: &[f32], dqkv: &mut [f32], mut dbias: Option<&mut [f32]>) {
        let (length, width, per_head, row_len) = (self.length, self.width, self.per_head(), self.row_len());
        let stride = 3 * width;
        let [key_rows, value_rows] = [1, 2].map(|which| self.part(window, head, which));
        let keys = Panels::of_rows(isa, key_rows, length, per_head, stride);
        let key_columns = Panels::of_columns(isa, key_rows, per_head, length, stride);
        let values = Panels::of_rows(isa, value_rows, length, per_head, stride);
        let parts = cover(row_len);
        let sums_len = parts.len() * Correlate::VECTORS * LANES;
        // Transposed gradients of keys and values, `[E][L]`.
        with_scratch(2 * per_head * sums_len, |gradients| {
            let (dkeys, dvalues) = gradients.split_at_mut(per_head * sums_len);
            for first in (0..length).step_by(ROWS) {
                let rows = ROWS.min(length - first);
                let dy = &dy[first * width + head * per_head..];
                with_scratch(rows * (2 * row_len + 4 * per_head + 1), |scratch| {
                    let (weights, scratch) = scratch.split_at_mut(rows * row_len);
                    let (dscores, scratch) = scratch.split_at_mut(rows * row_len);
                    let (queries, scratch) = scratch.split_at_mut(rows * per_head);
                    let (dqueries, scratch) = scratch.split_at_mut(rows * per_head);
                    let (dout, scratch) = scratch.split_at_mut(rows * per_head);
                    let (pairs, sums) = scratch.split_at_mut(rows * per_head);
                    for (to, from) in dout.chunks_exact_mut(per_head).zip(dy.chunks(width)) {
                        to.copy_from_slice(&from[..per_head]);
                    }
                    self.scaled_queries(window, head, first, queries);
                    self.weights(isa, window, head, first, queries, &keys, weights, sums);
                    dscores.fill(0.0);
                    // SAFETY: `multiply` writes values.
                    values.multiply(isa, dout, &cells(rows, per_head), None, row_len, unsafe { uninit(dscores) });
                    for (r, sum) in sums.iter().enumerate() {
                        let [weights, dscores] = [&mut *weights, &mut *dscores].map(|all| &mut all[r * row_len..][..length]);
                        let dbias = dbias.as_deref_mut().map(|dbias| &mut dbias[(first + r) * length..][..length]);
                        // SAFETY: `isa` is detected or portable.
                        unsafe { dispatch(isa, SoftmaxBackward { weights, dscores, inverse: 1.0 / sum, dbias }) };
                    }
                    let windows: Vec<usize> = (0..rows).map(|r| r * row_len).collect();
                    let mut accumulate = |left: &[f32], source: &[f32], to: &mut [f32]| {
                        pack_pairs(left, per_head, per_head, pairs);
                        for (block, parts) in parts.iter().enumerate() {
                            let correlate = Correlate {
                                source,
                                windows: &windows,
                                dy: pairs,
                                dy_stride: rows * Correlate::PAIR,
                                pairs: per_head / Correlate::PAIR,
                                parts,
                                start: first == 0,
                                out: &mut to[block * Correlate::VECTORS * LANES..],
                                out_stride: sums_len,
                            };
                            correlate.run(isa);
                        }
                    };
                    accumulate(dout, weights, dvalues);
                    accumulate(queries, dscores, dkeys);
                    dqueries.fill(0.0);
                    // SAFETY: `multiply` writes values.
                    key_columns.multiply(isa, dscores, &cells(rows, row_len), None, per_head, unsafe { uninit(dqueries) });
                    for (r, from) in dqueries.chunks_exact(per_head).enumerate() {
                        let to = &mut dqkv[(first + r) * stride + head * per_head..];
                        for (to, from) in to.iter_mut().zip(from) {
                            *to = from * self.scale();
                        }
                    }
                });
            }
            for (which, gradient) in [(1, dkeys), (2, dvalues)] {
                for token in 0..length {
                    let to = &mut dqkv[token * stride + which * width + head * per_head..][..per_head];
                    for (e, to) in to.iter_mut().enumerate() {
                        *to = gradient[e * sums_len + token];
                    }
                }
            }
        });
    }
}

/// Offsets of the vectors that cover `len >= 8` values (the last may overlap the one before), in whole blocks: the last is repeated.
fn cover(len: usize) -> Vec<[usize; Correlate::VECTORS]> {
    let vectors = len.div_ceil(LANES);
    let offset = |v: usize| (v.min(vectors - 1) * LANES).min(len - LANES);
    (0..vectors.div_ceil(Correlate::VECTORS)).map(|block| std::array::from_fn(|v| offset(block * Correlate::VECTORS + v))).collect()
}

/// Writes `columns` values of each row as `[pair of columns][row][2]`; a missing last column is 0.
fn pack_pairs(rows: &[f32], stride: usize, columns: usize, to: &mut [f32]) {
    let count = to.len() / columns.next_multiple_of(Correlate::PAIR);
    for (pair, to) in to.chunks_exact_mut(count * Correlate::PAIR).enumerate() {
        for (row, to) in to.chunks_exact_mut(Correlate::PAIR).enumerate() {
            let at = row * stride + pair * Correlate::PAIR;
            to[0] = rows[at];
            to[1] = if pair * Correlate::PAIR + 1 < columns { rows[at + 1] } else { 0.0 };
        }
    }
}

/// The mask, then `exp(score - maximum)` in place; their sum.
struct SoftmaxRow<'a> {
    row: &'a mut [f32],
    regions: Option<&'a [f32]>,
    query: usize,
    sum: &'a mut f32,
}

impl Kernel for SoftmaxRow<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let SoftmaxRow { row, regions, query, sum } = self;
        if let Some(regions) = regions {
            let own = regions[query];
            for (score, region) in row.iter_mut().zip(regions) {
                *score += if *region == own { 0.0 } else { APART };
            }
        }
        *sum = exponentials::<L>(row);
    }
}

/// Normalises the weights, turns their gradients into those of the scores, and adds these to the bias's.
struct SoftmaxBackward<'a> {
    weights: &'a mut [f32],
    dscores: &'a mut [f32],
    inverse: f32,
    dbias: Option<&'a mut [f32]>,
}

impl Kernel for SoftmaxBackward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let SoftmaxBackward { weights, dscores, inverse, dbias } = self;
        for weight in weights.iter_mut() {
            *weight *= inverse;
        }
        backward_row(weights, dscores);
        if let Some(dbias) = dbias {
            for (dbias, dscore) in dbias.iter_mut().zip(dscores.iter()) {
                *dbias += dscore;
            }
        }
    }
}
