//! Which packed values each output position of a convolution reads.

use super::pack::pack_plane;
use super::simd::Isa;
use super::tile::Cell;
use rayon::prelude::*;

/// Packed images are worked on in groups of at most so many values (8 MiB), to stay in the cache; at least one image.
const GROUP: usize = 2 << 20;

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

/// Geometry of a packed batch: `[n][channel block][D'][H'][W'][block]` with zeros around, and in missing channels of the last block.
///
/// Blocks keep neighbours close: with hundreds of channels a window's values would lie kilobytes apart, in few sets of the cache.
pub struct Packing {
    channels: usize,
    /// Channels in a block.
    pub block: usize,
    /// Input size, and its offset in the packed volume.
    from: [usize; 3],
    left: [usize; 3],
    to: [usize; 3],
}

impl Packing {
    /// Equal blocks of at most `most` channels.
    pub fn new(channels: usize, most: usize, from: [usize; 3], axes: &[Axis; 3]) -> Self {
        let block = channels.div_ceil(channels.div_ceil(most));
        Packing { channels, block, from, left: std::array::from_fn(|a| axes[a].left), to: std::array::from_fn(|a| axes[a].size) }
    }

    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(self.block)
    }

    /// The channels of a block that exist.
    pub fn block_channels(&self, block: usize) -> std::ops::Range<usize> {
        block * self.block..((block + 1) * self.block).min(self.channels)
    }

    /// Values between neighbours along each axis.
    pub fn strides(&self) -> [usize; 3] {
        [self.to[1] * self.to[2] * self.block, self.to[2] * self.block, self.block]
    }

    /// Values from one channel block to the next.
    pub fn block_len(&self) -> usize {
        self.to.iter().product::<usize>() * self.block
    }

    pub fn image_len(&self) -> usize {
        self.block_len() * self.blocks()
    }

    /// Input values of an image.
    pub fn source_len(&self) -> usize {
        self.channels * self.from.iter().product::<usize>()
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
        let planes = x.len() / self.source_len() * self.blocks() * self.to[0];
        to[..planes * strides[0]].par_chunks_mut(strides[0]).enumerate().for_each(|(plane, to)| {
            let (n, block, z) = (plane / self.to[0] / self.blocks(), plane / self.to[0] % self.blocks(), plane % self.to[0]);
            match z.checked_sub(self.left[0]).filter(|&z| z < d) {
                Some(z) => {
                    let channels = self.block_channels(block);
                    let from = &x[n * self.source_len() + channels.start * d * h * w + z * h * w..(n + 1) * self.source_len()];
                    pack_plane(isa, from, channels.len(), d * h * w, &place, to);
                }
                None => to.fill(0.0),
            }
        });
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
