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

/// Inputs whose transformed kernels are written together: the lines that are begun stay in the first cache level until the next outputs fill them.
const NEAR: usize = 4;

/// `G g` along an axis: the value at 0, the sum and the alternating sum of all halved, the value at infinity.
#[inline(always)]
unsafe fn kernel_points<L: Lanes>(g: [L::V; 3]) -> [L::V; 4] {
    // SAFETY: the caller's instruction set.
    unsafe {
        let (half, minus_half) = (L::splat(&0.5), L::splat(&-0.5));
        let ends = L::mul_add(half, L::add(g[0], g[2]), L::zero());
        [g[0], L::mul_add(half, g[1], ends), L::mul_add(minus_half, g[1], ends), g[2]]
    }
}

/// Kernels of `width` outputs, a multiple of 8, in the transformed space: `to[point * stride + input * width + output]`. What is beyond `outputs` has no
/// meaning.
pub struct TransformWeights<'a> {
    pub weights: Weights<'a>,
    pub outputs: Range<usize>,
    pub width: usize,
    pub inputs: usize,
    pub to: &'a mut [f32],
    pub stride: usize,
}

impl Kernel for TransformWeights<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let TransformWeights { weights: Weights { values, strides, mirrored }, outputs, width, inputs, to, stride } = self;
        assert!(!outputs.is_empty() && inputs > 0, "TransformWeights has nothing to do");
        let last = outputs.end - 1;
        assert!(width.is_multiple_of(LANES) && stride >= inputs * width, "TransformWeights would write its points over each other");
        assert!(last * strides.out + (inputs - 1) * strides.input + 27 <= values.len(), "TransformWeights reads past the kernels");
        assert!((POINTS - 1) * stride + inputs * width <= to.len(), "TransformWeights writes past its target");
        let parts = |first: usize| (0..width).step_by(LANES).map(move |part| (first, part));
        for (first, part) in (0..inputs).step_by(NEAR).flat_map(parts) {
            let lanes: [usize; LANES] = std::array::from_fn(|lane| (outputs.start + part + lane).min(last) * strides.out);
            for input in first..(first + NEAR).min(inputs) {
                // SAFETY: checked above.
                unsafe {
                    let mut taps = [L::zero(); 27];
                    // The last eight overlap the eight before.
                    for at in [0, 8, 16, 19] {
                        let from = values.as_ptr().add(input * strides.input + at);
                        // Loops instead of closures, here and below: of these the compiler made functions without the instruction set (5 of 24 ms).
                        let mut kernels = [L::zero(); LANES];
                        for (kernel, lane) in kernels.iter_mut().zip(lanes) {
                            *kernel = L::load(from.add(lane));
                        }
                        for (i, tap) in L::transpose(kernels).into_iter().enumerate() {
                            taps[if mirrored { 26 - at - i } else { at + i }] = tap;
                        }
                    }
                    let mut planes = [[L::zero(); 16]; 3];
                    for (plane, taps) in planes.iter_mut().zip(taps.chunks_exact(9)) {
                        let rows = [
                            kernel_points::<L>([taps[0], taps[1], taps[2]]),
                            kernel_points::<L>([taps[3], taps[4], taps[5]]),
                            kernel_points::<L>([taps[6], taps[7], taps[8]]),
                        ];
                        for x in 0..4 {
                            let column = kernel_points::<L>([rows[0][x], rows[1][x], rows[2][x]]);
                            for (y, value) in column.into_iter().enumerate() {
                                plane[4 * y + x] = value;
                            }
                        }
                    }
                    let to = to.as_mut_ptr().add(input * width + part);
                    #[expect(clippy::needless_range_loop, reason = "the index runs over the second dimension")]
                    for i in 0..16 {
                        let column = kernel_points::<L>([planes[0][i], planes[1][i], planes[2][i]]);
                        for (z, value) in column.into_iter().enumerate() {
                            L::store(to.add((16 * z + i) * stride), value);
                        }
                    }
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
