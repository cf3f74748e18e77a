//! Window attention with a learned bias for each relative position.
//!
//! Shapes: `x_NDHWC` (channels last), `x_WLC` (W windows of L voxels each, windows of one sample side by side), H heads.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use super::super::Init;
use super::super::layers::Linear;
use crate::kernels::{self, KernelBackend, Places};

/// Boxes of voxels that attend to each other, for one feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Sides, no longer than the feature map's.
    pub sides: [usize; 3],
    /// By how much odd blocks shift the grid, 0 along axes that one window covers.
    pub shift: [usize; 3],
}

impl Windows {
    /// `side` along each axis and shifts of half of it; an axis that is no longer has one window and no shift.
    pub fn new(side: usize, size: [usize; 3]) -> Self {
        let covers = |axis: usize| size[axis] <= side;
        Self {
            sides: [0, 1, 2].map(|a| if covers(a) { size[a] } else { side }),
            shift: [0, 1, 2].map(|a| if covers(a) { 0 } else { side / 2 }),
        }
    }

    /// The same grid without shifts.
    pub fn unshifted(self) -> Self {
        Self { shift: [0; 3], ..self }
    }

    fn is_shifted(&self) -> bool {
        self.shift != [0; 3]
    }

    /// `size`, each axis rounded up to whole windows.
    fn padded(&self, size: [usize; 3]) -> [usize; 3] {
        [0, 1, 2].map(|a| size[a].next_multiple_of(self.sides[a]))
    }

    /// Where the windows' voxels come from, of a batch of maps: `x_NDHWC` -> `x_WLC` as rows, shifted back by `shift`; voxels beyond the end
    /// are zeros.
    pub fn places(&self, batch: usize, size: [usize; 3]) -> Places {
        let (padded, sides) = (self.padded(size), self.sides);
        let [windows, voxels] = [[0, 1, 2].map(|a| padded[a] / sides[a]), size].map(|n| n.iter().product::<usize>());
        let mut from = Vec::with_capacity(batch * padded.iter().product::<usize>());
        let counts = [0, 1, 2].map(|a| padded[a] / sides[a]);
        // Per axis: what each place of each window adds to the index, nothing where it lies beyond the end.
        let steps = [size[1] * size[2], size[2], 1];
        let axis = |a: usize, window: usize| -> Vec<Option<usize>> {
            let at = |inside: usize| (window * sides[a] + inside + self.shift[a]) % padded[a];
            (0..sides[a]).map(|inside| Some(at(inside)).filter(|&i| i < size[a]).map(|i| i * steps[a])).collect()
        };
        let axes = [0, 1, 2].map(|a| (0..counts[a]).map(|window| axis(a, window)).collect::<Vec<_>>());
        for index in 0..batch * windows {
            let ([d, h, w], first) = (unravel(index % windows, counts), index / windows * voxels);
            for (d, h) in axes[0][d].iter().flat_map(|d| axes[1][h].iter().map(move |h| (d, h))) {
                let row = d.zip(*h).map(|(d, h)| first + d + h);
                from.extend(axes[2][w].iter().map(|w| row.zip(*w).map_or(Places::NONE, |(row, w)| (row + w) as u32)));
            }
        }
        Places::new(batch * voxels, from)
    }

    /// Which part of the unshifted map each voxel of each window comes from, `[windows of a sample, L]`: parts that the shift brought
    /// together must not attend to each other.
    fn regions(&self, size: [usize; 3]) -> (usize, Vec<f32>) {
        let (padded, sides) = (self.padded(size), self.sides);
        let region = |axis: usize, at: usize| match at {
            _ if self.shift[axis] == 0 => 0,
            _ if at < padded[axis] - sides[axis] => 0,
            _ if at < padded[axis] - self.shift[axis] => 1,
            _ => 2,
        };
        let counts = [0, 1, 2].map(|a| padded[a] / sides[a]);
        let (windows, length) = (counts.iter().product::<usize>(), sides.iter().product::<usize>());
        let part = |index: usize| {
            let (window, inside) = (unravel(index / length, counts), unravel(index % length, sides));
            let [r0, r1, r2] = [0, 1, 2].map(|a| region(a, window[a] * sides[a] + inside[a]));
            (9 * r0 + 3 * r1 + r2) as f32
        };
        (windows, (0..windows * length).map(part).collect())
    }
}

/// Coordinates of a C-order index.
fn unravel(index: usize, [_, h, w]: [usize; 3]) -> [usize; 3] {
    [index / (h * w), index / w % h, index % w]
}

/// Multi-head self-attention within windows.
#[derive(Module, Debug)]
pub struct WindowAttention<B: Backend> {
    /// `[(2 side - 1)^3, heads]`
    pub relative_position_bias_table: Param<Tensor<B, 2>>,
    qkv: Linear<B>,
    proj: Linear<B>,
    side: usize,
    heads: usize,
}

impl<B: Backend> WindowAttention<B> {
    pub fn new(init: &Init<B>, width: usize, heads: usize, side: usize) -> Self {
        Self {
            relative_position_bias_table: init.normal("relative_position_bias_table", [(2 * side - 1).pow(3), heads], 0.02),
            qkv: Linear::new(&init.at("qkv"), width, 3 * width),
            proj: Linear::new(&init.at("proj"), width, width),
            side,
            heads,
        }
    }
}

impl<B: KernelBackend> WindowAttention<B> {
    /// `x_WLC` -> `x_WLC`; `size` is the feature map's.
    pub fn forward(&self, x_WLC: Tensor<B, 3>, windows: Windows, size: [usize; 3]) -> Tensor<B, 3> {
        let length = x_WLC.dims()[1];
        let qkv = self.qkv.forward_rows(x_WLC);
        // The shift brought parts together that must not attend to each other.
        let regions = windows.is_shifted().then(|| {
            let (per_sample, regions) = windows.regions(size);
            Tensor::from_data(TensorData::new(regions, [per_sample, length]), (&qkv.device(), qkv.dtype()))
        });
        self.proj.forward_rows(kernels::attention(qkv, Some(self.bias(length)), regions, self.heads))
    }

    /// The bias of each pair of voxels, `[H, L, L]`. Windows that the feature map's size cuts take the first rows of a whole window's
    /// table, as MONAI does: those are not their relative positions, but what published weights were trained with.
    fn bias(&self, length: usize) -> Tensor<B, 3> {
        let table = self.relative_position_bias_table.val();
        let index = relative_positions(self.side, length);
        let index: Tensor<B, 1, Int> = Tensor::from_data(TensorData::new(index, [length * length]), &table.device());
        // Each is held until the next is there; see `kernels::autodiff`.
        let rows = table.select(0, index);
        let columns = rows.clone().transpose();
        columns.clone().reshape([self.heads, length, length])
    }
}

/// Row of the table for each pair of the first `length` voxels of a cube of `side`.
fn relative_positions(side: usize, length: usize) -> Vec<i64> {
    let span = 2 * side - 1;
    let row = |[a, b, c]: [usize; 3]| ((a * span + b) * span + c) as i64;
    let places: Vec<i64> = (0..length).map(|i| row(unravel(i, [side; 3]))).collect();
    let centre = row([side - 1; 3]);
    places.iter().flat_map(|i| places.iter().map(move |j| centre + i - j)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;
    use std::sync::Arc;

    fn numbered(shape: [usize; 5]) -> Tensor<Flex, 2> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (1..=count).map(|i| i as f32).collect();
        Tensor::from_data(TensorData::new(values, [count / shape[4], shape[4]]), &Default::default())
    }

    #[test]
    fn windows_are_put_together_as_they_were_taken_apart() {
        for (side, size) in [(2, [4, 4, 4]), (3, [4, 5, 2]), (7, [2, 2, 1]), (3, [9, 4, 7])] {
            let windows = Windows::new(side, size);
            let [d, h, w] = size;
            let x = numbered([2, d, h, w, 3]);
            for windows in [windows, windows.unshifted()] {
                let places = windows.places(2, size);
                let back = Arc::new(places.inverse());
                let parts = kernels::take_rows(x.clone(), &Arc::new(places));
                assert!(parts.dims()[0].is_multiple_of(windows.sides.iter().product::<usize>()));
                assert_eq!(kernels::take_rows(parts, &back).to_data(), x.to_data(), "{windows:?} on {size:?}");
            }
        }
    }

    #[test]
    fn a_window_holds_its_box_after_the_shift() {
        let windows = Windows { sides: [2, 1, 1], shift: [1, 0, 0] };
        let taken = |x, size| kernels::take_rows(x, &Arc::new(windows.places(1, size))).to_data().to_vec::<f32>().unwrap();
        // Voxels 1 2 3 4 along the first axis become (2 3) (4 1); of three, a zero is the fourth.
        assert_eq!(taken(numbered([1, 4, 1, 1, 1]), [4, 1, 1]), [2.0, 3.0, 4.0, 1.0]);
        assert_eq!(taken(numbered([1, 3, 1, 1, 1]), [3, 1, 1]), [2.0, 3.0, 0.0, 1.0]);
        assert_eq!(windows.regions([4, 1, 1]), (2, vec![0.0, 0.0, 9.0, 18.0]));
    }

    #[test]
    fn relative_positions_are_those_of_the_two_voxels() {
        // A cube of side 2: the table has 27 rows, the centre is no offset.
        let index = relative_positions(2, 8);
        assert!((0..8).all(|i| index[i * 8 + i] == 13));
        assert_eq!((index[1], index[8], index[7], index[56]), (12, 14, 0, 26));
        assert_eq!(relative_positions(2, 3), [13, 12, 10, 14, 13, 11, 16, 15, 13]);
    }
}
