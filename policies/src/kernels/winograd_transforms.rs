//! The transforms of minimal filtering, see `winograd.rs`.

use super::pack_weight::WeightStrides;
use super::simd::{Kernel, LANES, Lanes};
use std::ops::Range;

/// Values of a transformed block or kernel.
pub const POINTS: usize = 64;

/// A kernel as it is stored.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    pub values: &'a [f32],
    pub strides: WeightStrides,
    /// The last tap first.
    pub mirrored: bool,
}

/// `G g` along an axis: the value at 0, the sum and the alternating sum of all halved, the value at infinity.
#[inline(always)]
fn kernel_points(g: [[f32; 2 * LANES]; 3]) -> [[f32; 2 * LANES]; 4] {
    let of = |f: fn(f32, f32, f32) -> f32| std::array::from_fn(|i| f(g[0][i], g[1][i], g[2][i]));
    [g[0], of(|a, b, c| 0.5 * (a + b + c)), of(|a, b, c| 0.5 * (a - b + c)), g[2]]
}

/// Kernels of `width` outputs in the transformed space, `[point][input][output]`.
pub struct TransformWeights<'a> {
    pub weights: Weights<'a>,
    pub outputs: Range<usize>,
    pub width: usize,
    pub inputs: usize,
    pub to: &'a mut [f32],
}

impl Kernel for TransformWeights<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let TransformWeights { weights: Weights { values, strides, mirrored }, outputs, width, inputs, to } = self;
        for (input, half) in (0..inputs).flat_map(|input| (0..width).step_by(2 * LANES).map(move |half| (input, half))) {
            let lanes = (width - half).min(2 * LANES);
            let mut taps = [[0.0f32; 2 * LANES]; 27];
            for (lane, output) in outputs.clone().skip(half).take(lanes).enumerate() {
                let kernel = &values[output * strides.out + input * strides.input..][..27];
                for (i, tap) in taps.iter_mut().enumerate() {
                    tap[lane] = kernel[if mirrored { 26 - i } else { i }];
                }
            }
            let mut planes = [[[0.0; 2 * LANES]; 16]; 3];
            for (plane, taps) in planes.iter_mut().zip(taps.chunks_exact(9)) {
                let rows: [_; 3] = std::array::from_fn(|y| kernel_points([taps[3 * y], taps[3 * y + 1], taps[3 * y + 2]]));
                for x in 0..4 {
                    let column = kernel_points([rows[0][x], rows[1][x], rows[2][x]]);
                    for (y, value) in column.into_iter().enumerate() {
                        plane[4 * y + x] = value;
                    }
                }
            }
            for i in 0..16 {
                let column = kernel_points([planes[0][i], planes[1][i], planes[2][i]]);
                for (z, value) in column.iter().enumerate() {
                    to[((16 * z + i) * inputs + input) * width + half..][..lanes].copy_from_slice(&value[..lanes]);
                }
            }
        }
    }
}

/// `B' d` along an axis.
#[inline(always)]
unsafe fn input_points<L: Lanes>(d: [L::V; 4]) -> [L::V; 4] {
    // SAFETY: the caller's instruction set.
    unsafe { [L::sub(d[0], d[2]), L::add(d[1], d[2]), L::sub(d[2], d[1]), L::sub(d[1], d[3])] }
}

/// `A' m` along an axis.
#[inline(always)]
unsafe fn outputs_of<L: Lanes>(m: [L::V; 4]) -> [L::V; 2] {
    // SAFETY: the caller's instruction set.
    unsafe { [L::add(L::add(m[0], m[1]), m[2]), L::sub(L::sub(m[1], m[2]), m[3])] }
}

/// Blocks of 4x4x4 inputs to their points: `to[point * stride + block * inputs + input]`.
pub struct TransformInputs<'a> {
    pub packed: &'a [f32],
    pub sources: &'a [usize],
    pub strides: [usize; 3],
    /// Offsets of vectors that cover the inputs.
    pub parts: &'a [usize],
    pub to: &'a mut [f32],
    pub stride: usize,
    pub inputs: usize,
}

impl Kernel for TransformInputs<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let TransformInputs { packed, sources, strides: [plane, row, step], parts, to, stride, inputs } = self;
        let last = sources.iter().max().map_or(0, |source| source + 3 * (plane + row + step) + inputs);
        assert!(last <= packed.len() && to.len() >= (POINTS - 1) * stride + sources.len() * inputs, "TransformInputs leaves its slices");
        for (block, source) in sources.iter().enumerate() {
            for part in parts {
                // SAFETY: checked above.
                unsafe {
                    let from = packed.as_ptr().add(source + part);
                    let to = to.as_mut_ptr().add(block * inputs + part);
                    let mut planes = [[L::zero(); 16]; 4];
                    for (z, points) in planes.iter_mut().enumerate() {
                        let from = from.add(z * plane);
                        let rows: [[L::V; 4]; 4] =
                            std::array::from_fn(|y| input_points::<L>(std::array::from_fn(|x| L::load(from.add(y * row + x * step)))));
                        for x in 0..4 {
                            let column = input_points::<L>(std::array::from_fn(|y| rows[y][x]));
                            for (y, value) in column.into_iter().enumerate() {
                                points[4 * y + x] = value;
                            }
                        }
                    }
                    #[expect(clippy::needless_range_loop, reason = "the index runs over the second dimension")]
                    for i in 0..16 {
                        let column = input_points::<L>(std::array::from_fn(|z| planes[z][i]));
                        for (z, value) in column.into_iter().enumerate() {
                            L::store(to.add((16 * z + i) * stride), value);
                        }
                    }
                }
            }
        }
    }
}

/// Sums at the points of blocks to 2x2x2 outputs each.
pub struct TransformSums<'a> {
    pub sums: &'a [f32],
    pub stride: usize,
    pub row_len: usize,
    pub targets: &'a [usize],
    pub strides: [usize; 2],
    pub lines: &'a mut [f32],
}

impl Kernel for TransformSums<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let TransformSums { sums, stride, row_len, targets, strides: [plane, line], lines } = self;
        let last = targets.iter().max().map_or(0, |target| target + plane + line + 2 * row_len);
        assert!(last <= lines.len() && sums.len() >= (POINTS - 1) * stride + targets.len() * row_len, "TransformSums leaves its slices");
        for (block, target) in targets.iter().enumerate() {
            for part in (0..row_len).step_by(LANES) {
                // SAFETY: checked above.
                unsafe {
                    let from = sums.as_ptr().add(block * row_len + part);
                    let to = lines.as_mut_ptr().add(target + part);
                    let mut planes = [[L::zero(); 16]; 2];
                    #[expect(clippy::needless_range_loop, reason = "the index runs over the second dimension")]
                    for i in 0..16 {
                        let pair = outputs_of::<L>(std::array::from_fn(|z| L::load(from.add((16 * z + i) * stride))));
                        (planes[0][i], planes[1][i]) = (pair[0], pair[1]);
                    }
                    for (z, points) in planes.iter().enumerate() {
                        let columns: [[L::V; 2]; 4] = std::array::from_fn(|x| outputs_of::<L>(std::array::from_fn(|y| points[4 * y + x])));
                        #[expect(clippy::needless_range_loop, reason = "the index runs over the second dimension")]
                        for y in 0..2 {
                            let pair = outputs_of::<L>(std::array::from_fn(|x| columns[x][y]));
                            for (x, value) in pair.into_iter().enumerate() {
                                L::store(to.add(z * plane + y * line + x * row_len), value);
                            }
                        }
                    }
                }
            }
        }
    }
}
