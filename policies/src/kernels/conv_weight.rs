//! The weight gradient of a 3D convolution on slices.

use super::backend::Window;
use super::conv::{Axis, Packing, Volumes, for_each_cell};
use super::scratch::with_scratch;
use super::simd::{Isa, LANES};
use super::tile::Correlate;
use rayon::prelude::*;

/// Positions between two visits of a block of sums: few enough that their inputs stay in the first cache level.
const BLOCK: usize = 96;
/// Most partial sums, in values, that are kept at the same time (8 MiB).
const PARTIAL: usize = 2 << 20;
/// Tasks wanted for one group of images.
const TASKS: usize = 16;

/// Gradient of [`forward`](super::conv::forward) with respect to its weight, `[O, I, KD, KH, KW]`.
///
/// The positions are split into chunks with partial sums of their own, which are added in order at the end; a chunk's
/// sums may be split by output channel. Both depend on the shape alone, so the result doesn't depend on the threads.
pub fn weight_gradient(isa: Isa, x: Volumes, dy: Volumes, window: Window) -> Vec<f32> {
    let [batch, channels_in, size @ ..] = x.dims;
    let [_, channels_out, out @ ..] = dy.dims;
    let (x, dy) = (x.values, dy.values);
    let Window { kernel, stride, padding } = window;
    let axes: [Axis; 3] = std::array::from_fn(|a| Axis::forward(size[a], kernel[a], stride[a], padding[a]));
    let packing = Packing::new(channels_in, size, &axes);
    let plain = out.map(|n| Axis::forward(n, 1, 1, 0));
    let dy_packing = Packing::new(channels_out, out, &plain);

    // A window's values in vectors: every kernel row is a run, whose last vector may reach beyond it.
    let strides = packing.strides();
    let run_len = kernel[2] * channels_in;
    let vectors_per_run = run_len.div_ceil(LANES);
    let parts: Vec<usize> = (0..kernel[0] * kernel[1])
        .map(|row| row / kernel[1] * strides[0] + row % kernel[1] * strides[1])
        .flat_map(|run| (0..vectors_per_run).map(move |v| run + v * LANES))
        .collect();
    // Whole blocks of vectors: the last is repeated, and the repetitions are not read.
    let blocks = parts.len().div_ceil(Correlate::VECTORS);
    let part = |i: usize| parts[i.min(parts.len() - 1)];
    let parts: Vec<[usize; Correlate::VECTORS]> =
        (0..blocks).map(|block| std::array::from_fn(|v| part(block * Correlate::VECTORS + v))).collect();
    let row = blocks * Correlate::VECTORS * LANES;

    let (image, dy_image) = (x.len() / batch, dy.len() / batch);
    let volume: usize = out.iter().product();
    let group = packing.group().min(dy_packing.group());
    let chunks = (group.min(batch) * volume / BLOCK).clamp(1, TASKS).min((PARTIAL / (channels_out * row)).max(1));
    let channels_per_task = channels_out.div_ceil(TASKS / chunks).next_multiple_of(4).min(channels_out);

    let mut sums = vec![0.0f32; chunks * channels_out * row];
    for first in (0..batch).step_by(group) {
        let images = group.min(batch - first);
        let packed_len = images * packing.image_len();
        with_scratch(packed_len + LANES, |packed| {
            with_scratch(images * dy_packing.image_len(), |dy_packed| {
                packing.pack(isa, &x[first * image..(first + images) * image], &mut packed[..packed_len]);
                // Vectors may reach beyond the last run, into lanes that nobody reads.
                packed[packed_len..].fill(0.0);
                dy_packing.pack(isa, &dy[first * dy_image..(first + images) * dy_image], dy_packed);
                let (packed, dy_packed) = (&*packed, &*dy_packed);
                let positions = images * volume;
                let chunk_len = positions.div_ceil(chunks);
                let chunk_sums = sums.par_chunks_mut(channels_out * row).enumerate();
                let tasks = chunk_sums.flat_map(|(chunk, sums)| {
                    sums.par_chunks_mut(channels_per_task * row).enumerate().map(move |(part, sums)| (chunk, part, sums))
                });
                tasks.for_each(|(chunk, part, sums)| {
                    let channels = part * channels_per_task..((part + 1) * channels_per_task).min(channels_out);
                    let end = ((chunk + 1) * chunk_len).min(positions);
                    let mut windows = Vec::with_capacity(BLOCK);
                    for start in (chunk * chunk_len..end).step_by(BLOCK) {
                        windows.clear();
                        for_each_cell(&packing, &axes, start..(start + BLOCK).min(end), |_, cell| windows.push(cell.source));
                        // The vectors of a block of parts are read again for each pair of channels: the inner loop.
                        for (block, parts) in parts.iter().enumerate() {
                            for o in channels.clone().step_by(2) {
                                let correlate = Correlate {
                                    source: packed,
                                    windows: &windows,
                                    dy: &dy_packed[start * channels_out + o..],
                                    row_len: channels_out,
                                    channels: 2.min(channels.end - o),
                                    parts,
                                    out: &mut sums[(o - channels.start) * row + block * Correlate::VECTORS * LANES..],
                                    out_stride: row,
                                };
                                correlate.run(isa);
                            }
                        }
                    }
                });
            });
        });
    }

    let taps: usize = kernel.iter().product();
    let mut gradient = vec![0.0f32; channels_out * channels_in * taps];
    gradient.par_chunks_mut(channels_in * taps).enumerate().for_each(|(o, gradient)| {
        for kernel_row in 0..kernel[0] * kernel[1] {
            for r in 0..run_len {
                let at = o * row + kernel_row * vectors_per_run * LANES + r;
                let sum: f32 = (0..chunks).map(|chunk| sums[chunk * channels_out * row + at]).sum();
                gradient[r % channels_in * taps + kernel_row * kernel[2] + r / channels_in] = sum;
            }
        }
    });
    gradient
}
