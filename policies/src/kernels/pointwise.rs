//! Convolutions of a single tap on slices: matrix products on Burn's layout as it is, `y[o][p] = sum over c of w[o][c] * x[c][p]`.

use super::conv::Output;
use super::geometry::Volumes;
use super::linear::{Panels, TERMS, cells, sum_of_products};
use super::pack::Epilogue;
use super::scratch::{uninit, with_scratch};
use super::simd::Isa;
use rayon::prelude::*;
use std::ops::Range;

/// Positions of a task: at most so many, and so that their input has at most so many values; a multiple of the widest block of columns.
const POSITIONS: usize = 384;
const VALUES: usize = 1 << 17;
const TOGETHER: usize = 32;

/// `x` convolved with `weight_OI`, finished by `epilogue`.
pub fn forward(isa: Isa, x: Volumes, weight: &[f32], epilogue: Epilogue) -> Vec<f32> {
    let [batch, inputs, size @ ..] = x.dims;
    let (volume, outputs): (usize, _) = (size.iter().product(), weight.len() / inputs);
    let len = batch * outputs * volume;
    let mut y: Vec<f32> = Vec::with_capacity(len);
    let to = Output(y.as_mut_ptr());
    let most = (VALUES / inputs).clamp(TOGETHER, POSITIONS) / TOGETHER * TOGETHER;
    let tasks = volume.div_ceil(most);
    (0..batch * tasks).into_par_iter().for_each(|task| {
        let (n, first) = (task / tasks, task % tasks * most);
        let count = most.min(volume - first);
        let panels = Panels::of_far_rows(isa, &x.values[n * inputs * volume + first..(n + 1) * inputs * volume], count, inputs, volume);
        let row_len = count.next_multiple_of(TOGETHER);
        with_scratch(outputs * row_len, |out| {
            // SAFETY: `multiply` writes values.
            panels.multiply(isa, weight, &cells(outputs, inputs), Some(&[0.0; POSITIONS]), row_len, unsafe { uninit(out) });
            for (o, out) in out.chunks_exact(row_len).enumerate() {
                let at = (n * outputs + o) * volume + first;
                // SAFETY: these positions of this channel belong to this task alone.
                unsafe { epilogue.part(o, at).finish_row(isa, &out[..count], to.at(at)) };
            }
        });
    });
    // SAFETY: every position of every image and channel was written above.
    unsafe { y.set_len(len) };
    y
}

/// Gradient of [`forward`] with respect to its input.
pub fn input_gradient(isa: Isa, dy: Volumes, weight: &[f32]) -> Vec<f32> {
    let outputs = dy.dims[1];
    let inputs = weight.len() / outputs;
    let transposed: Vec<f32> = (0..weight.len()).map(|i| weight[i % outputs * inputs + i / outputs]).collect();
    forward(isa, dy, &transposed, Epilogue::default())
}

/// Gradient of [`forward`] with respect to its weight.
pub fn weight_gradient(isa: Isa, x: Volumes, dy: Volumes) -> Vec<f32> {
    let [batch, inputs, size @ ..] = x.dims;
    let (volume, outputs): (usize, _) = (size.iter().product(), dy.dims[1]);
    let per_image = volume.div_ceil(TERMS);
    let positions = |block: usize| block % per_image * TERMS..(block % per_image * TERMS + TERMS).min(volume);
    let left = |block: usize, channels: Range<usize>, to: &mut [f32]| {
        let positions = positions(block);
        for (o, to) in channels.zip(to.chunks_exact_mut(positions.len())) {
            let row = (block / per_image * outputs + o) * volume;
            to.copy_from_slice(&dy.values[row + positions.start..row + positions.end]);
        }
    };
    let right = |block: usize| {
        let (image, positions) = (block / per_image * inputs * volume, positions(block));
        let from = &x.values[image + positions.start..image + inputs * volume];
        Panels::of_rows(isa, from, inputs, positions.len(), volume)
    };
    sum_of_products(isa, [outputs, inputs], batch * per_image, &left, &right).0
}
