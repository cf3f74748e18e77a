//! 3D convolution and its input gradient on slices: geometry, packing, and the split of the work.
//!
//! Both are the same gathered matrix product (`tile.rs`) over a zero-padded channels-last copy; they differ in what an
//! output position reads. With stride s, input gradients fall into s phases per axis, each using its own kernel taps.

use super::backend::Window;
use super::pack::{pack_plane, unpack};
use super::scratch::with_scratch;
use super::simd::{Isa, LANES};
use super::tile::{Cell, Gather};
use rayon::prelude::*;

/// Packed images are worked on in groups of at most so many values (8 MiB), to stay in the cache; at least one image.
const GROUP: usize = 2 << 20;
/// Positions per task: a block of the output that stays in the first two cache levels.
const BLOCK: usize = 192;
/// Products per output value between two visits of the output block, so that a weight block stays in the second level.
const DEPTH: usize = 4096;

/// Size of a batch of volumes `[N, C, D, H, W]`, or of a weight `[O, I, KD, KH, KW]`.
pub type Dims = [usize; 5];

/// Contiguous values and their size.
#[derive(Clone, Copy)]
pub struct Volumes<'a> {
    pub values: &'a [f32],
    pub dims: Dims,
}

/// How one axis of the output reads the packed input.
pub struct Axis {
    /// Zeros before the first input value.
    pub left: usize,
    /// Packed size.
    pub size: usize,
    /// Per output index: its phase, and the packed index that its window starts from.
    pub cells: Vec<(usize, usize)>,
    /// Per phase: `(offset from the window's start, kernel index)`, offsets consecutive and ascending.
    pub taps: Vec<Vec<(usize, usize)>>,
}

impl Axis {
    /// Output `i` reads `padded[i * stride + tap]`.
    pub fn forward(size: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        let out = (size + 2 * padding - kernel) / stride + 1;
        Axis {
            left: padding,
            size: size + 2 * padding,
            cells: (0..out).map(|i| (0, i * stride)).collect(),
            taps: vec![(0..kernel).map(|tap| (tap, tap)).collect()],
        }
    }

    /// Input `i` was read by output `o` through `tap` where `i + padding = o * stride + tap`: with `i + padding =
    /// phase + stride * m`, the taps `phase + stride * j` of the outputs `m - j`.
    pub fn gradient(size: usize, out: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        let left = kernel.div_ceil(stride) - 1;
        let cells: Vec<_> = (0..size)
            .map(|i| {
                let (phase, m) = ((i + padding) % stride, (i + padding) / stride);
                let taps = kernel.saturating_sub(phase).div_ceil(stride);
                (phase, m + left + 1 - taps.max(1))
            })
            .collect();
        let taps = (0..stride)
            .map(|phase| {
                let count = kernel.saturating_sub(phase).div_ceil(stride);
                (0..count).map(|offset| (offset, phase + stride * (count - 1 - offset))).collect()
            })
            .collect();
        let size = ((size - 1 + padding) / stride).max(out - 1) + left + 1;
        Axis { left, size, cells, taps }
    }
}

/// Output channels in blocks of 2 vectors, the last perhaps of 1: `(first vector, vectors)`.
fn channel_blocks(channels: usize) -> impl Iterator<Item = (usize, usize)> {
    let total = channels.div_ceil(LANES);
    (0..total).step_by(2).map(move |first| (first, (total - first).min(2)))
}

/// The weights of one phase.
struct Part {
    /// Offsets of the contiguous runs in a packed image.
    runs: Vec<usize>,
    run_len: usize,
    /// `[channel block][run][run_len][8 * vectors]`, missing channels 0.
    weights: Vec<f32>,
}

/// Geometry of a packed batch: `[n][D'][H'][W'][C]` with zeros around.
pub struct Packing {
    channels: usize,
    /// Input size, and its offset in the packed volume.
    from: [usize; 3],
    left: [usize; 3],
    to: [usize; 3],
}

impl Packing {
    pub fn new(channels: usize, from: [usize; 3], axes: &[Axis; 3]) -> Self {
        Packing { channels, from, left: std::array::from_fn(|a| axes[a].left), to: std::array::from_fn(|a| axes[a].size) }
    }

    /// Values between neighbours along each axis.
    pub fn strides(&self) -> [usize; 3] {
        [self.to[1] * self.to[2] * self.channels, self.to[2] * self.channels, self.channels]
    }

    pub fn image_len(&self) -> usize {
        self.to.iter().product::<usize>() * self.channels
    }

    /// Images per group, see [`GROUP`].
    pub fn group(&self) -> usize {
        (GROUP / self.image_len()).max(1)
    }

    /// Packs the images in `x` into the start of `to`.
    pub fn pack(&self, isa: Isa, x: &[f32], to: &mut [f32]) {
        let [d, h, w] = self.from;
        let strides = self.strides();
        let place: Vec<usize> = (0..h * w).map(|p| (p / w + self.left[1]) * strides[1] + (p % w + self.left[2]) * strides[2]).collect();
        let image = self.channels * d * h * w;
        let planes = x.len() / image * self.to[0];
        to[..planes * strides[0]].par_chunks_mut(strides[0]).enumerate().for_each(|(plane, to)| {
            let (n, z) = (plane / self.to[0], plane % self.to[0]);
            match z.checked_sub(self.left[0]).filter(|&z| z < d) {
                Some(z) => pack_plane(isa, &x[n * image + z * h * w..(n + 1) * image], self.channels, d * h * w, &place, to),
                None => to.fill(0.0),
            }
        });
    }
}

/// A pointer into the output that tasks write disjoint parts of.
#[derive(Clone, Copy)]
struct Output(*mut f32);
// SAFETY: only `Plan::block` writes through it, each task to its own positions.
unsafe impl Sync for Output {}

impl Output {
    /// The pointer; a method, so that closures capture the whole (`Sync`) struct.
    fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: callers stay inside the allocation, see `Plan::block`.
        unsafe { self.0.add(offset) }
    }
}

/// A gathered product from a batch of `channels_in` to one of `channels_out` channels.
struct Plan {
    packing: Packing,
    axes: [Axis; 3],
    parts: Vec<Part>,
    channels_out: usize,
}

/// Strides of a weight array: from one output channel of the product to the next, and from one input channel to the next.
struct WeightStrides {
    out: usize,
    input: usize,
}

impl Plan {
    fn new(packing: Packing, axes: [Axis; 3], channels_out: usize, weight: &[f32], kernel: [usize; 3], ws: WeightStrides) -> Self {
        let (channels_in, strides) = (packing.channels, packing.strides());
        let phases = |a: usize| axes[a].taps.len();
        let parts = (0..phases(0) * phases(1) * phases(2)).map(|phase| {
            let [d, h, w] = [
                &axes[0].taps[phase / phases(2) / phases(1)],
                &axes[1].taps[phase / phases(2) % phases(1)],
                &axes[2].taps[phase % phases(2)],
            ];
            let rows: Vec<_> = d.iter().flat_map(|d| h.iter().map(move |h| (d, h))).filter(|_| !w.is_empty()).collect();
            let runs: Vec<usize> = rows.iter().map(|(d, h)| d.0 * strides[0] + h.0 * strides[1]).collect();
            let run_len = w.len() * channels_in;
            let depth = runs.len() * run_len;
            let mut packed = vec![0.0; depth * channels_out.next_multiple_of(LANES)];
            for (first, vectors) in channel_blocks(channels_out) {
                let width = vectors * LANES;
                let channels = first * LANES..(first * LANES + width).min(channels_out);
                let block = &mut packed[first * LANES * depth..][..width * depth];
                let taps = rows.iter().flat_map(|(d, h)| w.iter().map(move |w| (d.1 * kernel[1] + h.1) * kernel[2] + w.1));
                let sources = taps.flat_map(|tap| (0..channels_in).map(move |c| c * ws.input + tap));
                for (row, source) in block.chunks_exact_mut(width).zip(sources) {
                    for (value, o) in row.iter_mut().zip(channels.clone()) {
                        *value = weight[o * ws.out + source];
                    }
                }
            }
            Part { runs, run_len, weights: packed }
        });
        let parts = parts.collect();
        Plan { packing, axes, parts, channels_out }
    }

    fn out_size(&self) -> [usize; 3] {
        std::array::from_fn(|a| self.axes[a].cells.len())
    }

    /// `[N, channels_out, ...]` from `x`, `[N, channels_in, ...]`.
    fn run(&self, isa: Isa, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let image = self.packing.channels * self.packing.from.iter().product::<usize>();
        let volume: usize = self.out_size().iter().product();
        let (batch, group) = (x.len() / image, self.packing.group());
        let mut start = vec![0.0; self.channels_out.next_multiple_of(LANES)];
        if let Some(bias) = bias {
            start[..self.channels_out].copy_from_slice(bias);
        }
        let len = batch * self.channels_out * volume;
        let mut out: Vec<f32> = Vec::with_capacity(len);
        for first in (0..batch).step_by(group) {
            let images = group.min(batch - first);
            let to = Output(out.as_mut_ptr().wrapping_add(first * self.channels_out * volume));
            with_scratch(images * self.packing.image_len(), |packed| {
                self.packing.pack(isa, &x[first * image..(first + images) * image], packed);
                let positions = images * volume;
                // Small layers still give some tasks to share; depends on the shape alone.
                let block = (positions / 16).next_multiple_of(24).clamp(24, BLOCK);
                let packed = &*packed;
                (0..positions.div_ceil(block)).into_par_iter().for_each(|task| {
                    let range = task * block..((task + 1) * block).min(positions);
                    // SAFETY: the ranges of the tasks are disjoint and inside the group's part of `out`.
                    unsafe { self.block(isa, packed, &start, range, &to) };
                });
            });
        }
        // SAFETY: every position of every image and channel was written above.
        unsafe { out.set_len(len) };
        out
    }

    /// Computes the output positions `range`, counted through the images of the group.
    ///
    /// # Safety
    /// `to` holds all positions of the group's images; no other task has positions of `range`.
    unsafe fn block(&self, isa: Isa, packed: &[f32], start: &[f32], range: std::ops::Range<usize>, to: &Output) {
        let cells = self.cells(range.clone());
        let row_len = start.len();
        with_scratch(range.len() * row_len, |out| {
            for (part, cells) in self.parts.iter().zip(&cells) {
                for (first, vectors) in channel_blocks(self.channels_out) {
                    let depth = part.runs.len() * part.run_len;
                    let width = vectors * LANES;
                    let weights = &part.weights[first * LANES * depth..][..width * depth];
                    let runs_at_once = (DEPTH / part.run_len.max(1)).max(1);
                    // A phase without taps still gets its start values.
                    for at in (0..part.runs.len().max(1)).step_by(runs_at_once) {
                        let gather = Gather {
                            source: packed,
                            cells,
                            runs: &part.runs[at..(at + runs_at_once).min(part.runs.len())],
                            run_len: part.run_len,
                            weights: &weights[at * part.run_len * width..],
                            start: (at == 0).then(|| &start[first * LANES..]),
                            vectors,
                            row_len,
                            out: &mut out[first * LANES..],
                        };
                        gather.run(isa);
                    }
                }
            }
            let volume: usize = self.out_size().iter().product();
            let mut at = range.start;
            while at < range.end {
                let (n, p) = (at / volume, at % volume);
                let count = (volume - p).min(range.end - at);
                let rows = &out[(at - range.start) * row_len..];
                // SAFETY: positions p.. of image n belong to this task alone.
                unsafe { unpack(isa, rows, row_len, count, self.channels_out, to.at(n * self.channels_out * volume + p), volume) };
                at += count;
            }
        });
    }

    /// The positions of `range` by phase; rows are counted from the range's start.
    fn cells(&self, range: std::ops::Range<usize>) -> Vec<Vec<Cell>> {
        let mut cells = vec![Vec::with_capacity(range.len()); self.parts.len()];
        for_each_cell(&self.packing, &self.axes, range, |phase, cell| cells[phase].push(cell));
        cells
    }
}

/// Calls `visit` with the phase and the cell of every output position in `range`, counted through a group's images.
pub fn for_each_cell(packing: &Packing, axes: &[Axis; 3], range: std::ops::Range<usize>, mut visit: impl FnMut(usize, Cell)) {
    let strides = packing.strides();
    let [d, h, w] = std::array::from_fn(|a| axes[a].cells.len());
    let mut position = range.start;
    while position < range.end {
        let (line, first) = (position / w, position % w);
        let (n, z, y) = (line / h / d, line / h % d, line % h);
        let (z, y) = (axes[0].cells[z], axes[1].cells[y]);
        let source = n * packing.image_len() + z.1 * strides[0] + y.1 * strides[1];
        let phase = (z.0 * axes[1].taps.len() + y.0) * axes[2].taps.len();
        let count = (w - first).min(range.end - position);
        for (i, x) in axes[2].cells[first..first + count].iter().enumerate() {
            visit(phase + x.0, Cell { source: source + x.1 * strides[2], row: position + i - range.start });
        }
        position += count;
    }
}

/// `x` convolved with `weight`, plus `bias`.
pub fn forward(isa: Isa, x: Volumes, weight: Volumes, bias: Option<&[f32]>, window: Window) -> Vec<f32> {
    let [_, channels_in, size @ ..] = x.dims;
    let Window { kernel, stride, padding } = window;
    let axes = std::array::from_fn(|a| Axis::forward(size[a], kernel[a], stride[a], padding[a]));
    let taps = kernel.iter().product();
    let strides = WeightStrides { out: channels_in * taps, input: taps };
    let packing = Packing::new(channels_in, size, &axes);
    Plan::new(packing, axes, weight.dims[0], weight.values, kernel, strides).run(isa, x.values, bias)
}

/// Gradient of [`forward`] with respect to its input of `size`, from `dy`; plus `bias` (of a transposed convolution).
pub fn input_gradient(isa: Isa, dy: Volumes, weight: Volumes, bias: Option<&[f32]>, size: [usize; 3], window: Window) -> Vec<f32> {
    let [_, _, out @ ..] = dy.dims;
    let Window { kernel, stride, padding } = window;
    let axes = std::array::from_fn(|a| Axis::gradient(size[a], out[a], kernel[a], stride[a], padding[a]));
    let taps: usize = kernel.iter().product();
    let [channels_out, channels_in, ..] = weight.dims;
    let strides = WeightStrides { out: taps, input: channels_in * taps };
    let packing = Packing::new(channels_out, out, &axes);
    Plan::new(packing, axes, channels_in, weight.values, kernel, strides).run(isa, dy.values, bias)
}
