//! Max pooling and its gradient on slices, one task per sample and channel.

use super::backend::Window;
use super::geometry::Volumes;
use super::simd::{Isa, Kernel, Lanes, dispatch};
use rayon::prelude::*;

/// See [`max_pool3d`](super::max_pool3d).
pub fn max_forward(isa: Isa, x: Volumes, window: Window) -> Vec<f32> {
    let [n, c, size @ ..] = x.dims;
    let out: usize = window.output(size).iter().product();
    let mut y = vec![0.0; n * c * out];
    y.par_chunks_mut(out).zip(x.values.par_chunks(size.iter().product())).for_each(|(y, x)| {
        // SAFETY: `isa` is detected or portable.
        unsafe { dispatch(isa, Forward { x, size, window, y }) };
    });
    y
}

/// Maxima of one channel: of rows first, element by element, then within the row.
struct Forward<'a> {
    x: &'a [f32],
    size: [usize; 3],
    window: Window,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Forward { x, size: size @ [_, height, width], window, y } = self;
        let [_, h, w] = window.output(size);
        // NaN wins, as in Burn and PyTorch.
        let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
        let mut best = vec![0.0; width];
        for (line, y) in y.chunks_exact_mut(w).enumerate() {
            best.fill(f32::NEG_INFINITY);
            for z in range(window, size, 0, line / h) {
                for row in range(window, size, 1, line % h) {
                    for (best, &x) in best.iter_mut().zip(&x[(z * height + row) * width..]) {
                        *best = larger(*best, x);
                    }
                }
            }
            for (column, y) in y.iter_mut().enumerate() {
                *y = best[range(window, size, 2, column)].iter().fold(f32::NEG_INFINITY, |a, &b| larger(a, b));
            }
        }
    }
}

/// What output `o` reads along an axis.
#[inline(always)]
fn range(window: Window, size: [usize; 3], axis: usize, o: usize) -> std::ops::Range<usize> {
    let start = o * window.stride[axis];
    start.saturating_sub(window.padding[axis])..(start + window.kernel[axis] - window.padding[axis]).min(size[axis])
}

/// Gradient of [`max_forward`]: each output's goes to the value that it took.
pub fn max_backward(x: Volumes, dy: &[f32], window: Window) -> Vec<f32> {
    let [_, _, size @ ..] = x.dims;
    let (volume, out) = (size.iter().product(), window.output(size).iter().product());
    let mut dx = vec![0.0; x.values.len()];
    dx.par_chunks_mut(volume).zip(x.values.par_chunks(volume)).zip(dy.par_chunks(out)).for_each(|((dx, x), dy)| {
        for_each_maximum(x, size, window, |o, i| dx[i] += dy[o]);
    });
    dx
}

/// Calls `visit` with the index of each output and of the first maximum in its window, or of the last NaN.
fn for_each_maximum(x: &[f32], size: [usize; 3], window: Window, mut visit: impl FnMut(usize, usize)) {
    let [d, h, w] = window.output(size);
    let range = |a: usize, o: usize| range(window, size, a, o);
    let columns: Vec<_> = (0..w).map(|o| range(2, o)).collect();
    for (z, y) in (0..d).flat_map(|z| (0..h).map(move |y| (z, y))) {
        for (q, columns) in columns.iter().enumerate() {
            // The window's first value, in case that all are minus infinity.
            let (mut best, mut at) = (f32::NEG_INFINITY, (range(0, z).start * size[1] + range(1, y).start) * size[2] + columns.start);
            for iz in range(0, z) {
                for iy in range(1, y) {
                    let row = (iz * size[1] + iy) * size[2];
                    for (i, &value) in x[row + columns.start..row + columns.end].iter().enumerate() {
                        // Nothing is greater than NaN: it stays.
                        let wins = value > best || value.is_nan();
                        (best, at) = if wins { (value, row + columns.start + i) } else { (best, at) };
                    }
                }
            }
            visit((z * h + y) * w + q, at);
        }
    }
}
