//! 3x3x3 convolutions with stride 1 by minimal filtering, F(2x2x2, 3x3x3): an eighth of the transformed products of a block of 2x2x2 outputs do
//! the work of 27.
//!
//! A block reads 4x4x4 inputs. These and the kernel are transformed along each axis; in the transformed space the convolution is 64 matrix
//! products over the channels (`tile.rs`), and the way back makes 2x2x2 outputs of 64 sums. Sums of products have other roundings than
//! the direct way, of the same size. Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016.

use super::backend::Window;
use super::conv::Output;
use super::geometry::{Axis, Packing, Volumes};
use super::pack::{Epilogue, unpack};
use super::pack_weight::WeightStrides;
use super::scratch::{uninit, with_scratch};
use super::simd::{Isa, LANES, dispatch};
use super::tile::{Cell, Gather, WIDEST, channel_blocks};
use super::winograd_transforms::{POINTS, TransformInputs, TransformSums, TransformWeights, Weights};
use rayon::prelude::*;
use std::ops::Range;

/// Blocks that are transformed together: their values and sums stay near the second cache level, and transformed kernels are read as often
/// less. A multiple of the rows of a tile.
const BLOCKS: usize = 24;
/// Most blocks of a task, in whole rows.
const TASK: usize = 96;
/// Fewer channels leave the transforms too large a part of the work, fewer outputs the transform of the kernel.
const LEAST_CHANNELS: usize = 32;
const LEAST_OUTPUTS: usize = 1024;
/// With so many products of inputs and outputs the transformed kernels (8 MiB) exceed the second cache level: they are read once for many
/// blocks, point by point.
const FAR: usize = 1 << 15;
const FAR_BLOCKS: usize = 192;
/// Between the points of blocks and of kernels, so that they don't share few sets of the cache.
const SPACER: usize = 16;

/// Whether this way is faster than the direct one; depends on the shape alone.
pub fn fits(channels: [usize; 2], window: Window, out: [usize; 3]) -> bool {
    let Window { kernel, stride, padding } = window;
    let shape = kernel == [3; 3] && stride == [1; 3] && padding.iter().all(|&p| p <= 2);
    shape && channels.iter().all(|&c| c >= LEAST_CHANNELS) && out.iter().product::<usize>() >= LEAST_OUTPUTS
}

/// `x` convolved with `weight`, finished by `epilogue`.
pub fn forward(isa: Isa, x: Volumes, weight: Volumes, padding: [usize; 3], epilogue: Epilogue) -> Vec<f32> {
    let [_, inputs, size @ ..] = x.dims;
    let strides = WeightStrides { out: inputs * 27, input: 27 };
    let weights = Weights { values: weight.values, strides, mirrored: false };
    let out = std::array::from_fn(|a| size[a] + 2 * padding[a] - 2);
    Plan::new([inputs, weight.dims[0]], size, padding, out, weights).run(isa, x.values, epilogue)
}

/// Gradient of [`forward`] with respect to its input of `size`: a convolution of `dy` with the mirrored kernel.
pub fn input_gradient(isa: Isa, dy: Volumes, weight: Volumes, padding: [usize; 3], size: [usize; 3]) -> Vec<f32> {
    let [_, outputs, out @ ..] = dy.dims;
    let inputs = weight.dims[1];
    let weights = Weights { values: weight.values, strides: WeightStrides { out: 27, input: inputs * 27 }, mirrored: true };
    Plan::new([outputs, inputs], out, padding.map(|p| 2 - p), size, weights).run(isa, dy.values, Epilogue::default())
}

struct Plan<'a> {
    packing: Packing,
    inputs: usize,
    outputs: usize,
    /// Blocks along each axis.
    blocks: [usize; 3],
    out: [usize; 3],
    weights: Weights<'a>,
}

impl<'a> Plan<'a> {
    fn new([inputs, outputs]: [usize; 2], size: [usize; 3], left: [usize; 3], out: [usize; 3], weights: Weights<'a>) -> Self {
        let blocks = out.map(|n| n.div_ceil(2));
        let axis = |a: usize| Axis { left: left[a], size: (2 * blocks[a] + 2).max(left[a] + size[a]), cells: vec![], taps: vec![] };
        let packing = Packing::new(inputs, inputs, size, &[axis(0), axis(1), axis(2)]);
        Plan { packing, inputs, outputs, blocks, out, weights }
    }

    /// Length of a row of sums.
    fn row_len(&self) -> usize {
        self.outputs.next_multiple_of(LANES)
    }

    /// The convolution of all images of `x`: `[N, outputs, ...]`.
    fn run(&self, isa: Isa, x: &[f32], epilogue: Epilogue) -> Vec<f32> {
        let image = self.packing.source_len();
        let volume: usize = self.out.iter().product();
        let (batch, group) = (x.len() / image, self.packing.group());
        let len = batch * self.outputs * volume;
        let mut y: Vec<f32> = Vec::with_capacity(len);
        let far = self.inputs * self.outputs >= FAR;
        let spacers = channel_blocks(isa, self.outputs).count() * SPACER;
        with_scratch(POINTS * (self.inputs * self.row_len() + spacers), |kernels| {
            self.transform_weights(isa, kernels);
            for first in (0..batch).step_by(group) {
                let images = group.min(batch - first);
                let to = Output(y.as_mut_ptr().wrapping_add(first * self.outputs * volume));
                let epilogue = epilogue.part(0, first * self.outputs * volume);
                with_scratch(images * self.packing.image_len(), |packed| {
                    self.packing.pack(isa, &x[first * image..(first + images) * image], packed);
                    let rows = images * self.blocks[0] * self.blocks[1];
                    if far {
                        // SAFETY: `to` is the group's part of `y`, which no other task has.
                        unsafe { self.point_by_point(isa, packed, kernels, rows, &to, epilogue) };
                        return;
                    }
                    // Rows that fill whole parts, though small layers still give some tasks to share; depends on the shape alone.
                    let whole = (1..BLOCKS).find(|rows| (rows * self.blocks[2]).is_multiple_of(BLOCKS)).unwrap_or(BLOCKS);
                    let per_task = whole.min(TASK / self.blocks[2]).min(rows.div_ceil(8)).max(1);
                    let (packed, kernels) = (&*packed, &*kernels);
                    (0..rows.div_ceil(per_task)).into_par_iter().for_each(|task| {
                        let rows = task * per_task..((task + 1) * per_task).min(rows);
                        // SAFETY: the tasks' rows are disjoint and inside the group's part of `y`.
                        unsafe { self.rows(isa, packed, kernels, rows, &to, epilogue) };
                    });
                });
            }
        });
        // SAFETY: every position of every image and channel was written above.
        unsafe { y.set_len(len) };
        y
    }

    /// `[block of outputs][point][input][output]`, a spacer behind each point.
    fn transform_weights(&self, isa: Isa, to: &mut [f32]) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let mut rest = to;
        let mut blocks = Vec::new();
        for (first, vectors) in channel_blocks(isa, outputs) {
            let (here, after) = rest.split_at_mut(POINTS * (inputs * vectors * LANES + SPACER));
            blocks.push((first * LANES, vectors * LANES, here));
            rest = after;
        }
        blocks.into_par_iter().for_each(|(first, width, to)| {
            let outputs = first..(first + width).min(outputs);
            // SAFETY: `isa` is detected or portable.
            unsafe {
                dispatch(isa, TransformWeights { weights: self.weights, outputs, width, inputs, to, stride: inputs * width + SPACER })
            };
        });
    }

    /// All outputs of rows of blocks along the last axis, counted through the group's images.
    ///
    /// # Safety
    /// `to` holds all positions of the group's images; no other task has these rows.
    unsafe fn rows(&self, isa: Isa, packed: &[f32], kernels: &[f32], rows: Range<usize>, to: &Output, epilogue: Epilogue) {
        let line = self.line();
        let (sources, targets) = (self.sources(rows.clone()), self.targets(rows.len()));
        with_scratch(rows.len() * 4 * line, |lines| {
            // Equal parts.
            let part = sources.len().div_ceil(sources.len().div_ceil(BLOCKS));
            for (sources, targets) in sources.chunks(part).zip(targets.chunks(part)) {
                self.blocks_of(isa, packed, kernels, sources, targets, [2 * line, line], lines);
            }
            // SAFETY: handed on to the caller.
            unsafe { self.store(isa, rows, lines, to, epilogue) };
        });
    }

    /// Values of one of the four lines of outputs that a row of blocks makes.
    fn line(&self) -> usize {
        2 * self.blocks[2] * self.row_len()
    }

    /// Image and place of a row of blocks.
    fn place(&self, row: usize) -> [usize; 3] {
        let [depth, height, _] = self.blocks;
        [row / height / depth, row / height % depth, row % height]
    }

    /// Where the blocks of rows read.
    fn sources(&self, rows: Range<usize>) -> Vec<usize> {
        let strides = self.packing.strides();
        let of_row = |row| {
            let [n, z, y] = self.place(row);
            let first = n * self.packing.image_len() + 2 * z * strides[0] + 2 * y * strides[1];
            (0..self.blocks[2]).map(move |x| first + 2 * x * strides[2])
        };
        rows.flat_map(of_row).collect()
    }

    /// Where their outputs go in lines.
    fn targets(&self, rows: usize) -> Vec<usize> {
        let (line, row_len) = (self.line(), self.row_len());
        (0..rows).flat_map(|row| (0..self.blocks[2]).map(move |x| row * 4 * line + 2 * x * row_len)).collect()
    }

    /// Lines of outputs to their places.
    ///
    /// # Safety
    /// As for [`Plan::rows`].
    unsafe fn store(&self, isa: Isa, rows: Range<usize>, lines: &[f32], to: &Output, epilogue: Epilogue) {
        let (volume, line): (usize, _) = (self.out.iter().product(), self.line());
        for (row, lines) in rows.zip(lines.chunks_exact(4 * line)) {
            let [n, z, y] = self.place(row);
            for (i, from) in lines.chunks_exact(line).enumerate() {
                let (z, y) = (2 * z + i / 2, 2 * y + i % 2);
                if z < self.out[0] && y < self.out[1] {
                    let at = n * self.outputs * volume + (z * self.out[1] + y) * self.out[2];
                    // SAFETY: these lines belong to this task alone.
                    unsafe { unpack(isa, from, self.row_len(), self.out[2], self.outputs, to.at(at), volume, epilogue.part(0, at)) };
                }
            }
        }
    }

    /// All outputs of a group's `rows` of blocks, many blocks at a time: their transform, the products of each point, the way back.
    ///
    /// # Safety
    /// As for [`Plan::rows`], of all rows.
    unsafe fn point_by_point(&self, isa: Isa, packed: &[f32], kernels: &[f32], rows: usize, to: &Output, epilogue: Epilogue) {
        let (inputs, row_len, width) = (self.inputs, self.row_len(), self.blocks[2]);
        let parts = self.parts();
        let most = (FAR_BLOCKS / width).clamp(1, rows);
        let (per_row, per_point) = (width * inputs + SPACER, most * width * row_len + SPACER);
        with_scratch(POINTS * most * per_row, |values| {
            with_scratch(POINTS * per_point, |sums| {
                for first in (0..rows).step_by(most) {
                    let count = most.min(rows - first);
                    values.par_chunks_mut(POINTS * per_row).take(count).enumerate().for_each(|(row, to)| {
                        let sources = self.sources(first + row..first + row + 1);
                        let from = TransformInputs {
                            packed,
                            sources: &sources,
                            strides: self.packing.strides(),
                            parts: &parts,
                            to,
                            stride: per_row,
                            inputs,
                        };
                        // SAFETY: blocks end inside the packed images, whose sides are two more than twice the blocks; `isa` is detected or portable.
                        unsafe { dispatch(isa, from) };
                    });
                    let place = |block: usize| block / width * POINTS * per_row + block % width * inputs;
                    let cells: Vec<Cell> = (0..count * width).map(|row| Cell { source: place(row), row }).collect();
                    let values = &*values;
                    let points = sums.par_chunks_mut(per_point).enumerate();
                    points.for_each(|(point, sums)| self.point(isa, point, &values[point * per_row..], &cells, kernels, sums));
                    let sums = &*sums;
                    (0..count).into_par_iter().for_each(|row| {
                        with_scratch(4 * self.line(), |lines| {
                            let (sums, targets) = (&sums[row * width * row_len..], self.targets(1));
                            let strides = [2 * self.line(), self.line()];
                            let back = TransformSums { sums, stride: per_point, row_len, targets: &targets, strides, lines };
                            // SAFETY: targets are blocks of a whole row in `lines`; `isa` is detected or portable; the row is this task's.
                            unsafe {
                                dispatch(isa, back);
                                self.store(isa, first + row..first + row + 1, lines, to, epilogue);
                            }
                        });
                    });
                }
            });
        });
    }

    /// The products of one point.
    fn point(&self, isa: Isa, point: usize, values: &[f32], cells: &[Cell], kernels: &[f32], sums: &mut [f32]) {
        for (block, (first, vectors)) in channel_blocks(isa, self.outputs).enumerate() {
            let kernels = &kernels[POINTS * (first * LANES * self.inputs + block * SPACER)..];
            let gather = Gather {
                source: values,
                cells,
                runs: &[0],
                run_len: self.inputs,
                weights: &kernels[point * (vectors * LANES * self.inputs + SPACER)..],
                start: Some(&[0.0; WIDEST * LANES]),
                vectors,
                row_len: self.row_len(),
                // SAFETY: a product writes values.
                out: unsafe { uninit(&mut sums[first * LANES..]) },
            };
            gather.run(isa);
        }
    }

    /// Offsets of vectors that cover the inputs.
    fn parts(&self) -> Vec<usize> {
        (0..self.inputs).step_by(LANES).map(|c| c.min(self.inputs - LANES)).collect()
    }

    /// The outputs of blocks that read from `sources` on, channels last at `targets` in `lines` and `strides` (of the first two axes) behind.
    #[expect(clippy::too_many_arguments, reason = "one call, from `rows`")]
    fn blocks_of(
        &self,
        isa: Isa,
        packed: &[f32],
        kernels: &[f32],
        sources: &[usize],
        targets: &[usize],
        strides: [usize; 2],
        lines: &mut [f32],
    ) {
        let (inputs, row_len) = (self.inputs, self.row_len());
        let (values_stride, sums_stride) = (sources.len() * inputs + SPACER, sources.len() * row_len + SPACER);
        let cells: Vec<Cell> = (0..sources.len()).map(|row| Cell { source: row * inputs, row }).collect();
        with_scratch(POINTS * (values_stride + sums_stride), |scratch| {
            let (values, sums) = scratch.split_at_mut(POINTS * values_stride);
            let parts = self.parts();
            let from = TransformInputs {
                packed,
                sources,
                strides: self.packing.strides(),
                parts: &parts,
                to: values,
                stride: values_stride,
                inputs,
            };
            // SAFETY: blocks end inside the packed images, whose sides are two more than twice the blocks; `isa` is detected or portable.
            unsafe { dispatch(isa, from) };
            for point in 0..POINTS {
                self.point(isa, point, &values[point * values_stride..], &cells, kernels, &mut sums[point * sums_stride..]);
            }
            let back = TransformSums { sums, stride: sums_stride, row_len, targets, strides, lines };
            // SAFETY: targets are blocks of whole rows in `lines`; `isa` is detected or portable.
            unsafe { dispatch(isa, back) };
        });
    }
}
