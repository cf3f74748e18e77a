//! 3D convolution and its input gradient on slices: the split of the work.
//!
//! Both are the same gathered matrix product (`tile.rs`) over a zero-padded channels-last copy; they differ in what an
//! output position reads. With stride s, input gradients fall into s phases per axis, each using its own kernel taps.

use super::backend::Window;
use super::geometry::{Axis, Packing, Volumes, for_each_cell};
use super::pack::{Epilogue, unpack};
use super::pack_weight::{WeightBlock, WeightStrides};
use super::scratch::{uninit, with_scratch};
use super::simd::{Isa, LANES};
use super::tile::{Cell, Gather, channel_blocks};
use super::winograd;
use rayon::prelude::*;
use std::ops::Range;

/// Positions per task: a block of the output that stays in the first two cache levels.
const BLOCK: usize = 192;
/// Products per output value between two visits of the output block: the weights for 16 channels and a block of the input
/// then fit the second cache level together.
const DEPTH: usize = 2048;
/// With so few positions and so many output channels (the deepest levels), packing the weights is a large part of the work
/// and the packed weights exceed the cache: every task packs the weights of its own channels, and visits all positions.
const DEEP_POSITIONS: usize = 2 * BLOCK;
const DEEP_CHANNELS: usize = 128;

/// One phase: the kernel taps that its output positions use. Every tap belongs to one phase.
struct Part {
    /// In [`Plan::taps`].
    taps: Range<usize>,
    /// Offsets of the contiguous runs in a channel block of a packed image.
    runs: Vec<usize>,
    run_len: usize,
}

/// A pointer into the output that tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub struct Output(pub *mut f32);
// SAFETY: each task of `Plan::block` and of `winograd` writes to its own positions and channels.
unsafe impl Sync for Output {}

impl Output {
    /// The pointer; a method, so that closures capture the whole (`Sync`) struct.
    pub fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: callers stay inside the allocation.
        unsafe { self.0.add(offset) }
    }
}

/// A gathered product from a batch to one of `channels_out` channels.
struct Plan<'a> {
    packing: Packing,
    axes: [Axis; 3],
    parts: Vec<Part>,
    /// Kernel indices in the order of the packed weights.
    taps: Vec<usize>,
    channels_out: usize,
    weight: &'a [f32],
    strides: WeightStrides,
}

impl<'a> Plan<'a> {
    fn new(channels: [usize; 2], size: [usize; 3], axes: [Axis; 3], weight: &'a [f32], kernel: [usize; 3], strides: WeightStrides) -> Self {
        let [channels_in, channels_out] = channels;
        let most_channels = (DEPTH / kernel.iter().product::<usize>()).max(LANES);
        let packing = Packing::new(channels_in, most_channels, size, &axes);
        let [plane, row, _] = packing.strides();
        let phases = |a: usize| axes[a].taps.len();
        let (mut parts, mut taps) = (Vec::new(), Vec::new());
        for phase in 0..phases(0) * phases(1) * phases(2) {
            let [d, h, w] = [
                &axes[0].taps[phase / phases(2) / phases(1)],
                &axes[1].taps[phase / phases(2) % phases(1)],
                &axes[2].taps[phase % phases(2)],
            ];
            let rows: Vec<_> = d.iter().flat_map(|d| h.iter().map(move |h| (d, h))).filter(|_| !w.is_empty()).collect();
            let runs = rows.iter().map(|(d, h)| d.0 * plane + h.0 * row).collect();
            let first = taps.len();
            taps.extend(rows.iter().flat_map(|(d, h)| w.iter().map(move |w| (d.1 * kernel[1] + h.1) * kernel[2] + w.1)));
            parts.push(Part { taps: first..taps.len(), runs, run_len: w.len() * packing.block });
        }
        Plan { packing, axes, parts, taps, channels_out, weight, strides }
    }

    fn out_size(&self) -> [usize; 3] {
        std::array::from_fn(|a| self.axes[a].cells.len())
    }

    /// The product for all images of `x`, finished by `epilogue`: `[N, channels_out, ...]`.
    fn run(&self, isa: Isa, x: &[f32], mut epilogue: Epilogue) -> Vec<f32> {
        let image = self.packing.source_len();
        let volume: usize = self.out_size().iter().product();
        let (batch, group) = (x.len() / image, self.packing.group());
        let mut start = vec![0.0; self.channels_out.next_multiple_of(LANES)];
        if let (None, Some(bias)) = (epilogue.scale, epilogue.shift) {
            start[..self.channels_out].copy_from_slice(bias);
            epilogue.shift = None;
        }
        let len = batch * self.channels_out * volume;
        let mut out: Vec<f32> = Vec::with_capacity(len);
        let deep = group.min(batch) * volume <= DEEP_POSITIONS && self.channels_out >= DEEP_CHANNELS;
        let weights_len = if deep { 0 } else { start.len() * self.depth() * self.packing.blocks() };
        with_scratch(weights_len, |weights| {
            if !deep {
                self.pack_weights(isa, weights);
            }
            for first in (0..batch).step_by(group) {
                let images = group.min(batch - first);
                let to = Output(out.as_mut_ptr().wrapping_add(first * self.channels_out * volume));
                let epilogue = epilogue.part(0, first * self.channels_out * volume);
                with_scratch(images * self.packing.image_len(), |packed| {
                    self.packing.pack(isa, &x[first * image..(first + images) * image], packed);
                    let positions = images * volume;
                    // Small layers still give some tasks to share; depends on the shape alone.
                    let (block, channels) = match deep {
                        true => (positions, isa.block() * LANES),
                        false => ((positions / 16).next_multiple_of(24).clamp(24, BLOCK), self.channels_out),
                    };
                    let (packed, weights) = (&*packed, (!deep).then_some(&*weights));
                    let channel_tasks = self.channels_out.div_ceil(channels);
                    (0..positions.div_ceil(block) * channel_tasks).into_par_iter().for_each(|task| {
                        let part = |i: usize, len: usize, end: usize| i * len..((i + 1) * len).min(end);
                        let positions = part(task / channel_tasks, block, positions);
                        let channels = part(task % channel_tasks, channels, self.channels_out);
                        // SAFETY: the tasks' positions and channels are disjoint and inside the group's part of `out`.
                        unsafe { self.block(isa, packed, weights, &start, channels, positions, &to, epilogue) };
                    });
                });
            }
        });
        // SAFETY: every position of every image and channel was written above.
        unsafe { out.set_len(len) };
        out
    }

    /// Products per output value and channel block of the input, over all phases.
    fn depth(&self) -> usize {
        self.taps.len() * self.packing.block
    }

    /// Packs all weights as `[block of output channels][block of input channels][tap][input channel][output channel]`.
    fn pack_weights(&self, isa: Isa, to: &mut [f32]) {
        let mut rest = to;
        let mut blocks = Vec::new();
        for (first, vectors) in channel_blocks(isa, self.channels_out) {
            for block in 0..self.packing.blocks() {
                let (here, after) = rest.split_at_mut(self.depth() * vectors * LANES);
                blocks.push((first * LANES, vectors * LANES, block, here));
                rest = after;
            }
        }
        blocks.into_par_iter().for_each(|(first, width, block, to)| self.pack_block(isa, first, width, block, to));
    }

    fn pack_block(&self, isa: Isa, first: usize, width: usize, block: usize, to: &mut [f32]) {
        let outputs = first..(first + width).min(self.channels_out);
        let (inputs, depth) = (self.packing.block_channels(block), self.packing.block);
        WeightBlock { weight: self.weight, strides: self.strides, outputs, width, inputs, depth, taps: &self.taps }.pack(isa, to);
    }

    /// Computes `channels` at the output positions `range`, counted through the images of the group.
    ///
    /// Without `weights` they are packed here.
    ///
    /// # Safety
    /// `to` holds all positions of the group's images; no other task has these channels at positions of `range`.
    #[expect(clippy::too_many_arguments, reason = "one call, from `run`")]
    unsafe fn block(
        &self,
        isa: Isa,
        packed: &[f32],
        weights: Option<&[f32]>,
        start: &[f32],
        channels: Range<usize>,
        range: Range<usize>,
        to: &Output,
        epilogue: Epilogue,
    ) {
        let cells = self.cells(range.clone());
        let row_len = channels.len().next_multiple_of(LANES);
        with_scratch(range.len() * row_len, |out| {
            for block in 0..self.packing.blocks() {
                for (first, vectors) in channel_blocks(isa, channels.len()) {
                    let (first, width) = (first * LANES, vectors * LANES);
                    let mut product = |weights: &[f32]| {
                        for (part, cells) in self.parts.iter().zip(&cells) {
                            let gather = Gather {
                                source: &packed[block * self.packing.block_len()..],
                                cells,
                                runs: &part.runs,
                                run_len: part.run_len,
                                weights: &weights[part.taps.start * self.packing.block * width..],
                                // A phase without taps still gets its start values.
                                start: (block == 0).then(|| &start[channels.start + first..]),
                                vectors,
                                row_len,
                                // SAFETY: a product writes values.
                                out: unsafe { uninit(&mut out[first..]) },
                            };
                            gather.run(isa);
                        }
                    };
                    let (first, len) = (channels.start + first, self.depth() * width);
                    match weights {
                        Some(all) => product(&all[first * self.depth() * self.packing.blocks() + block * len..][..len]),
                        None => with_scratch(len, |weights| {
                            self.pack_block(isa, first, width, block, weights);
                            product(weights);
                        }),
                    }
                }
            }
            let volume: usize = self.out_size().iter().product();
            let mut at = range.start;
            while at < range.end {
                let (n, p) = (at / volume, at % volume);
                let count = (volume - p).min(range.end - at);
                let rows = &out[(at - range.start) * row_len..];
                let first = (n * self.channels_out + channels.start) * volume + p;
                // SAFETY: these channels at positions p.. of image n belong to this task alone.
                unsafe { unpack(isa, rows, row_len, count, channels.len(), to.at(first), volume, epilogue.part(channels.start, first)) };
                at += count;
            }
        });
    }

    /// The positions of `range` by phase; rows are counted from the range's start.
    fn cells(&self, range: Range<usize>) -> Vec<Vec<Cell>> {
        let mut cells = vec![Vec::with_capacity(range.len()); self.parts.len()];
        for_each_cell(&self.packing, &self.axes, range, |phase, cell| cells[phase].push(cell));
        cells
    }
}

/// `x` convolved with `weight`, finished by `epilogue`.
pub fn forward(isa: Isa, x: Volumes, weight: Volumes, window: Window, epilogue: Epilogue) -> Vec<f32> {
    let [_, channels_in, size @ ..] = x.dims;
    let Window { kernel, stride, padding } = window;
    if winograd::fits([channels_in, weight.dims[0]], window, window.output(size)) {
        return winograd::forward(isa, x, weight, padding, epilogue);
    }
    let axes = std::array::from_fn(|a| Axis::forward(size[a], kernel[a], stride[a], padding[a]));
    let taps = kernel.iter().product();
    let strides = WeightStrides { out: channels_in * taps, input: taps };
    Plan::new([channels_in, weight.dims[0]], size, axes, weight.values, kernel, strides).run(isa, x.values, epilogue)
}

/// Gradient of [`forward`] with respect to its input of `size`, from `dy`; plus `bias` (of a transposed convolution).
pub fn input_gradient(isa: Isa, dy: Volumes, weight: Volumes, bias: Option<&[f32]>, size: [usize; 3], window: Window) -> Vec<f32> {
    let [_, _, out @ ..] = dy.dims;
    let Window { kernel, stride, padding } = window;
    let axes = std::array::from_fn(|a| Axis::gradient(size[a], out[a], kernel[a], stride[a], padding[a]));
    let taps: usize = kernel.iter().product();
    let [channels_out, channels_in, ..] = weight.dims;
    if bias.is_none() && winograd::fits([channels_out, channels_in], window, size) {
        return winograd::input_gradient(isa, dy, weight, padding, size);
    }
    let strides = WeightStrides { out: taps, input: channels_in * taps };
    Plan::new([channels_out, channels_in], out, axes, weight.values, kernel, strides).run(
        isa,
        dy.values,
        Epilogue { shift: bias, ..Epilogue::default() },
    )
}
