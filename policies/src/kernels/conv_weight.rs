//! The weight gradient of a 3D convolution on slices.

use super::backend::Window;
use super::conv_stem;
use super::geometry::{Axis, Packing, Volumes, for_each_cell};
use super::pack::transpose;
use super::scratch::with_scratch;
use super::simd::{Isa, LANES};
use super::tile::Correlate;
use rayon::prelude::*;

/// Positions between two visits of a block of sums: few enough that their inputs stay in the first cache level.
const BLOCK: usize = 96;
/// Input channels that are packed together, for the same reason.
const CHANNELS: usize = 64;
/// Most partial sums, in values, that are kept at the same time (8 MiB).
const PARTIAL: usize = 2 << 20;
/// Tasks wanted for one group of images.
const TASKS: usize = 16;
const PAIR: usize = Correlate::PAIR;
/// Output channels of a task are a multiple of this: what the widest tile takes together.
const TOGETHER: usize = 8;

/// Gradient of [`forward`](super::conv::forward) with respect to its weight, `[O, I, KD, KH, KW]`.
///
/// The positions are split into chunks with partial sums of their own, which are added in order at the end; a chunk's
/// sums may be split by output channel. Both depend on the shape alone, so the result doesn't depend on the threads.
pub fn weight_gradient(isa: Isa, x: Volumes, dy: Volumes, window: Window) -> Vec<f32> {
    let [batch, channels_in, size @ ..] = x.dims;
    let [_, channels_out, out @ ..] = dy.dims;
    if conv_stem::fits(channels_in, channels_out, window) {
        return conv_stem::weight_gradient(isa, x, dy, window);
    }
    let (x, dy) = (x.values, dy.values);
    let Window { kernel, stride, padding } = window;
    let axes: [Axis; 3] = std::array::from_fn(|a| Axis::forward(size[a], kernel[a], stride[a], padding[a]));
    let packing = Packing::new(channels_in, CHANNELS, size, &axes);

    // A window's values in vectors: every kernel row of a channel block is a run, whose last vector may reach beyond it.
    let strides = packing.strides();
    let run_len = kernel[2] * packing.block;
    let vectors_per_run = run_len.div_ceil(LANES);
    let kernel_rows = kernel[0] * kernel[1];
    let parts: Vec<usize> = (0..packing.blocks() * kernel_rows)
        .map(|run| (run / kernel_rows * packing.block_len(), run % kernel_rows))
        .map(|(block, row)| block + row / kernel[1] * strides[0] + row % kernel[1] * strides[1])
        .flat_map(|run| (0..vectors_per_run).map(move |v| run + v * LANES))
        .collect();
    // Whole blocks of vectors: the last is repeated, and the repetitions are not read.
    let blocks = parts.len().div_ceil(Correlate::VECTORS);
    let part = |i: usize| parts[i.min(parts.len() - 1)];
    let parts: Vec<[usize; Correlate::VECTORS]> =
        (0..blocks).map(|block| std::array::from_fn(|v| part(block * Correlate::VECTORS + v))).collect();
    let row = blocks * Correlate::VECTORS * LANES;

    let volume: usize = out.iter().product();
    let (image, dy_image) = (packing.source_len(), channels_out * volume);
    let group = packing.group().min(batch);
    // An odd last channel gets a partner that nobody reads.
    let channels_summed = channels_out.next_multiple_of(PAIR);
    let chunks = (group * volume / BLOCK).clamp(1, TASKS).min((PARTIAL / (channels_summed * row)).max(1));
    let channels_per_task = channels_summed.div_ceil(TASKS / chunks).next_multiple_of(TOGETHER);

    with_scratch(chunks * channels_summed * row, |sums| {
        for first in (0..batch).step_by(group) {
            let images = group.min(batch - first);
            let (positions, packed_len) = (images * volume, images * packing.image_len());
            let pair_len = positions * PAIR;
            with_scratch(packed_len + LANES, |packed| {
                with_scratch(channels_out.div_ceil(PAIR) * pair_len, |pairs_dy| {
                    packing.pack(isa, &x[first * image..(first + images) * image], &mut packed[..packed_len]);
                    // Vectors may reach beyond the last run, into lanes that nobody reads.
                    packed[packed_len..].fill(0.0);
                    let dy = &dy[first * dy_image..(first + images) * dy_image];
                    pairs_dy.par_chunks_mut(pair_len).enumerate().for_each(|(pair, to)| pack_pair(dy, channels_out, volume, pair, to));
                    let (packed, pairs_dy) = (&*packed, &*pairs_dy);
                    let chunk_len = positions.div_ceil(chunks);
                    let chunk_sums = sums.par_chunks_mut(channels_summed * row).enumerate();
                    let tasks = chunk_sums.flat_map(|(chunk, sums)| {
                        sums.par_chunks_mut(channels_per_task * row).enumerate().map(move |(part, sums)| (chunk, part, sums))
                    });
                    tasks.for_each(|(chunk, part, sums)| {
                        let (first_pair, pairs) = (part * channels_per_task / PAIR, sums.len() / row / PAIR);
                        let (begin, end) = (chunk * chunk_len, ((chunk + 1) * chunk_len).min(positions));
                        let mut windows = Vec::with_capacity(BLOCK);
                        for start in (begin..end).step_by(BLOCK) {
                            windows.clear();
                            for_each_cell(&packing, &axes, start..(start + BLOCK).min(end), |_, cell| windows.push(cell.source));
                            // The vectors of a block of parts are read again for each pair of channels: the inner loop.
                            for (block, parts) in parts.iter().enumerate() {
                                let correlate = Correlate {
                                    source: packed,
                                    windows: &windows,
                                    dy: &pairs_dy[first_pair * pair_len + start * PAIR..],
                                    dy_stride: pair_len,
                                    pairs,
                                    parts,
                                    start: first == 0 && start == begin,
                                    out: &mut sums[block * Correlate::VECTORS * LANES..],
                                    out_stride: row,
                                };
                                correlate.run(isa);
                            }
                        }
                    });
                });
            });
        }

        let taps: usize = kernel.iter().product();
        let len = channels_out * channels_in * taps;
        let mut gradient = Vec::with_capacity(len);
        let (total, others) = sums.split_at_mut(channels_summed * row);
        let others = &*others;
        let rows = gradient.spare_capacity_mut()[..len].par_chunks_mut(channels_in * taps).zip(total.par_chunks_mut(row));
        rows.enumerate().for_each(|(o, (gradient, total))| {
            for chunk in others.chunks_exact(channels_summed * row) {
                for (total, value) in total.iter_mut().zip(&chunk[o * row..]) {
                    *total += value;
                }
            }
            for block in 0..packing.blocks() {
                let channels = packing.block_channels(block);
                let sources: Vec<usize> = (0..taps)
                    .map(|tap| (block * kernel_rows + tap / kernel[2]) * vectors_per_run * LANES + tap % kernel[2] * packing.block)
                    .collect();
                transpose(isa, total, &sources, channels.len(), &mut gradient[channels.start * taps..channels.end * taps]);
            }
        });
        // SAFETY: every output channel, input channel and tap was written above.
        unsafe { gradient.set_len(len) };
        gradient
    })
}

/// Writes a pair of channels of all images as `[position][2]`; a missing second channel is not read.
fn pack_pair(dy: &[f32], channels: usize, volume: usize, pair: usize, to: &mut [f32]) {
    let first = pair * PAIR;
    for (dy, to) in dy.chunks_exact(channels * volume).zip(to.chunks_exact_mut(volume * PAIR)) {
        let (a, b) = (&dy[first * volume..], &dy[(first + 1).min(channels - 1) * volume..]);
        for ((to, a), b) in to.chunks_exact_mut(PAIR).zip(a).zip(b) {
            to.copy_from_slice(&[*a, *b]);
        }
    }
}
