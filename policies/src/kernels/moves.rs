//! Values that only change their place: rows of tokens into windows and back, channels last and first, two maps side by side.
//!
//! Burn's CPU backend does these on one thread, which costs two threads a fifth of a SwinUNETR.

use super::conv::Output;
use super::flex::{f32_inputs, flex};
use super::simd::{Isa, Kernel, LANES, Lanes, dispatch};
use burn::backend::Flex;
use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn::tensor::{Int, Tensor, TensorData, TensorMetadata};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

/// Rows of a task.
const ROWS: usize = 512;
/// Values of a task that copies (256 KiB).
const PIECE: usize = 1 << 16;
/// Columns of a task of [`swapped`]; a multiple of a cache line.
const COLUMNS: usize = 256;
const LINE: usize = 2 * LANES;

/// Which row of a matrix each row of another one is.
#[derive(Debug)]
pub struct Places {
    rows: usize,
    from: Vec<u32>,
}

impl Places {
    /// A row of zeros.
    pub const NONE: u32 = u32::MAX;

    /// `from` holds indices of `rows` rows, or [`Places::NONE`].
    pub fn new(rows: usize, from: Vec<u32>) -> Self {
        assert!(from.iter().all(|&place| place == Self::NONE || (place as usize) < rows), "a place beyond {rows} rows");
        Places { rows, from }
    }

    /// The way back, where every row has one place: from the matrix that was made to its source.
    pub fn inverse(&self) -> Self {
        let mut back = vec![Self::NONE; self.rows];
        for (to, &from) in self.from.iter().enumerate() {
            if from != Self::NONE {
                back[from as usize] = to as u32;
            }
        }
        Places { rows: self.from.len(), from: back }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    fn index<B: Backend>(&self, device: &B::Device) -> Tensor<B, 1, Int> {
        let index: Vec<i64> = self.from.iter().map(|&from| if from == Self::NONE { self.rows as i64 } else { i64::from(from) }).collect();
        let len = index.len();
        Tensor::from_data(TensorData::new(index, [len]), device)
    }
}

/// What moves values on a backend; the provided methods compose Burn's operations.
pub trait MoveBackend: Backend {
    /// See [`take_rows`](super::take_rows).
    fn kernel_take_rows(x: FloatTensor<Self>, places: &Arc<Places>) -> FloatTensor<Self> {
        composed::take_rows::<Self>(x, places)
    }

    /// Gradient of `kernel_take_rows` with respect to its input.
    fn kernel_put_rows(dy: FloatTensor<Self>, places: &Arc<Places>) -> FloatTensor<Self> {
        composed::put_rows::<Self>(dy, places)
    }

    /// See [`swap_last`](super::swap_last), which is its own gradient.
    fn kernel_swap_last(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_swap_dims(x, 1, 2)
    }

    /// See [`side_by_side`](super::side_by_side).
    fn kernel_side_by_side(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_cat(vec![a, b], 1)
    }

    /// Gradients of `kernel_side_by_side`, of which the first has so many channels.
    fn kernel_apart(dy: FloatTensor<Self>, channels: usize) -> [FloatTensor<Self>; 2] {
        composed::apart::<Self>(dy, channels)
    }
}

mod composed {
    use super::super::fallback::tensor;
    use super::Places;
    use burn::tensor::backend::Backend;
    use burn::tensor::ops::FloatTensor;
    use burn::tensor::{IndexingUpdateOp, Tensor};

    pub fn take_rows<B: Backend>(x: FloatTensor<B>, places: &Places) -> FloatTensor<B> {
        let x = tensor::<B, 2>(x);
        let zeros = Tensor::zeros([1, x.dims()[1]], (&x.device(), x.dtype()));
        let index = places.index(&x.device());
        Tensor::cat(vec![x, zeros], 0).select(0, index).into_primitive().tensor()
    }

    pub fn put_rows<B: Backend>(dy: FloatTensor<B>, places: &Places) -> FloatTensor<B> {
        let dy = tensor::<B, 2>(dy);
        let zeros = Tensor::zeros([places.rows + 1, dy.dims()[1]], (&dy.device(), dy.dtype()));
        let index = places.index(&dy.device());
        zeros.select_assign(0, index, dy, IndexingUpdateOp::Add).narrow(0, 0, places.rows).into_primitive().tensor()
    }

    pub fn apart<B: Backend>(dy: FloatTensor<B>, channels: usize) -> [FloatTensor<B>; 2] {
        let dy = tensor::<B, 5>(dy);
        let all = dy.dims()[1];
        [dy.clone().narrow(1, 0, channels), dy.narrow(1, channels, all - channels)].map(|part| part.into_primitive().tensor())
    }
}

#[cfg(feature = "cuda")]
impl MoveBackend for burn::backend::Cuda {}

impl MoveBackend for Flex {
    fn kernel_take_rows(x: FloatTensor<Self>, places: &Arc<Places>) -> FloatTensor<Self> {
        let Some([Some(x)]) = f32_inputs([Some(&x)]) else { return composed::take_rows::<Self>(x, places) };
        let width = x.shape().dims::<2>()[1];
        flex(take(x.storage(), width, &places.from), [places.from.len(), width])
    }

    fn kernel_put_rows(dy: FloatTensor<Self>, places: &Arc<Places>) -> FloatTensor<Self> {
        let Some([Some(dy)]) = f32_inputs([Some(&dy)]) else { return composed::put_rows::<Self>(dy, places) };
        let width = dy.shape().dims::<2>()[1];
        flex(put(dy.storage(), width, places), [places.rows, width])
    }

    fn kernel_swap_last(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let Some([Some(x)]) = f32_inputs([Some(&x)]) else { return Self::float_swap_dims(x, 1, 2) };
        let [n, rows, columns] = x.shape().dims();
        flex(swapped(Isa::detect(), x.storage(), rows, columns), [n, columns, rows])
    }

    fn kernel_side_by_side(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let Some([Some(a), Some(b)]) = f32_inputs([Some(&a), Some(&b)]) else { return Self::float_cat(vec![a, b], 1) };
        let ([n, channels, d, h, w], others) = (a.shape().dims(), b.shape().dims::<5>()[1]);
        flex(together(a.storage(), b.storage(), n), [n, channels + others, d, h, w])
    }

    fn kernel_apart(dy: FloatTensor<Self>, channels: usize) -> [FloatTensor<Self>; 2] {
        let Some([Some(dy)]) = f32_inputs([Some(&dy)]) else { return composed::apart::<Self>(dy, channels) };
        let [n, all, d, h, w] = dy.shape().dims();
        let [a, b] = apart(dy.storage(), n, channels * d * h * w);
        [flex(a, [n, channels, d, h, w]), flex(b, [n, all - channels, d, h, w])]
    }
}

/// Row `from[i]` of `x` for each `i`.
fn take(x: &[f32], width: usize, from: &[u32]) -> Vec<f32> {
    let len = from.len() * width;
    let mut y = Vec::with_capacity(len);
    y.spare_capacity_mut()[..len].par_chunks_mut(ROWS * width).zip(from.par_chunks(ROWS)).for_each(|(y, from)| {
        for (y, &from) in y.chunks_exact_mut(width).zip(from) {
            if from == Places::NONE {
                y.fill(MaybeUninit::new(0.0));
            } else {
                copy(&x[from as usize * width..][..width], y);
            }
        }
    });
    // SAFETY: every row was written.
    unsafe { y.set_len(len) };
    y
}

/// The sum of the rows of `dy` that each row was taken for, in their order.
fn put(dy: &[f32], width: usize, places: &Places) -> Vec<f32> {
    let [first, order] = places.users();
    let len = places.rows * width;
    let mut dx = Vec::with_capacity(len);
    dx.spare_capacity_mut()[..len].par_chunks_mut(ROWS * width).enumerate().for_each(|(task, dx)| {
        for (i, dx) in dx.chunks_exact_mut(width).enumerate() {
            let row = task * ROWS + i;
            let users = &order[first[row] as usize..first[row + 1] as usize];
            let of = |user: u32| &dy[user as usize * width..][..width];
            match users {
                [] => dx.fill(MaybeUninit::new(0.0)),
                &[one] => copy(of(one), dx),
                &[one, ref others @ ..] => {
                    for (c, (to, start)) in dx.iter_mut().zip(of(one)).enumerate() {
                        to.write(others.iter().fold(*start, |sum, &user| sum + of(user)[c]));
                    }
                }
            }
        }
    });
    // SAFETY: every row was written.
    unsafe { dx.set_len(len) };
    dx
}

impl Places {
    /// The rows that each row was taken for: those of row `i` are `order[first[i]..first[i + 1]]`.
    fn users(&self) -> [Vec<u32>; 2] {
        let mut first = vec![0u32; self.rows + 2];
        let used = || self.from.iter().enumerate().filter(|(_, from)| **from != Self::NONE);
        for (_, &from) in used() {
            first[from as usize + 2] += 1;
        }
        for i in 2..first.len() {
            first[i] += first[i - 1];
        }
        // The second half of the count: each start moves to the next row's as its users are entered.
        let mut order = vec![0u32; first[self.rows + 1] as usize];
        for (to, &from) in used() {
            let at = &mut first[from as usize + 1];
            order[*at as usize] = to as u32;
            *at += 1;
        }
        [first, order]
    }
}

/// Each matrix of `rows` by `columns` transposed.
pub fn swapped(isa: Isa, x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    let to = Output(y.as_mut_ptr());
    let [high, wide] = [rows.div_ceil(COLUMNS), columns.div_ceil(COLUMNS)];
    let images = if x.is_empty() { 0 } else { x.len() / (rows * columns) };
    (0..images * high * wide).into_par_iter().for_each(|task| {
        let part = |i: usize, end: usize| i * COLUMNS..((i + 1) * COLUMNS).min(end);
        let (image, row, column) = (task / wide / high * rows * columns, part(task / wide % high, rows), part(task % wide, columns));
        let block = Swap { from: &x[image..image + rows * columns], size: [rows, columns], row, column, to: to.at(image) };
        // SAFETY: blocks are disjoint and inside the image; `isa` is detected or portable.
        unsafe { dispatch(isa, block) };
    });
    // SAFETY: every value of every image was written.
    unsafe { y.set_len(x.len()) };
    y
}

/// A block of a matrix to its place in the transposed one.
struct Swap<'a> {
    from: &'a [f32],
    size: [usize; 2],
    row: Range<usize>,
    column: Range<usize>,
    to: *mut f32,
}

impl Kernel for Swap<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Swap { from, size: [rows, columns], row, column, to } = self;
        assert!(from.len() == rows * columns && row.end <= rows && column.end <= columns, "a block outside its matrix");
        let whole = |range: &Range<usize>| range.start..range.start + range.len() / LANES * LANES;
        let (whole_rows, whole_columns) = (whole(&row), whole(&column));
        // Squares whose sides are a cache line, read and written whole.
        for r in whole_rows.clone().step_by(LINE) {
            for c in whole_columns.clone().step_by(LINE) {
                for r in (r..whole_rows.end.min(r + LINE)).step_by(LANES) {
                    for c in (c..whole_columns.end.min(c + LINE)).step_by(LANES) {
                        // SAFETY: checked above; the target is as large.
                        unsafe {
                            let block = L::transpose(std::array::from_fn(|i| L::load(from.as_ptr().add((r + i) * columns + c))));
                            for (i, values) in block.into_iter().enumerate() {
                                L::store(to.add((c + i) * rows + r), values);
                            }
                        }
                    }
                }
            }
        }
        for r in row {
            let first = if r < whole_rows.end { whole_columns.end } else { column.start };
            for c in first..column.end {
                // SAFETY: checked above; the target is as large.
                unsafe { to.add(c * rows + r).write(from[r * columns + c]) };
            }
        }
    }
}

/// The images of `a` and `b` in turn.
fn together(a: &[f32], b: &[f32], images: usize) -> Vec<f32> {
    let len = a.len() + b.len();
    let mut y = Vec::with_capacity(len);
    let each = [a.len() / images.max(1), b.len() / images.max(1)];
    let mut rest = &mut y.spare_capacity_mut()[..len];
    let mut copies = vec![];
    for n in 0..images {
        for (from, len) in [(a, each[0]), (b, each[1])] {
            let (to, after) = rest.split_at_mut(len);
            copies.push((&from[n * len..(n + 1) * len], to));
            rest = after;
        }
    }
    copy_all(copies);
    // SAFETY: all was written.
    unsafe { y.set_len(len) };
    y
}

/// The inverse of [`together`]; the first part of an image has `first` values.
fn apart(y: &[f32], images: usize, first: usize) -> [Vec<f32>; 2] {
    let lens = [first, y.len() / images.max(1) - first];
    let mut parts = lens.map(|len| Vec::with_capacity(images * len));
    let mut copies = vec![];
    for (which, part) in parts.iter_mut().enumerate() {
        let to = &mut part.spare_capacity_mut()[..images * lens[which]];
        for (from, to) in y.chunks_exact(first + lens[1]).zip(to.chunks_exact_mut(lens[which])) {
            copies.push((&from[which * first..][..lens[which]], to));
        }
    }
    copy_all(copies);
    for (part, len) in parts.iter_mut().zip(lens) {
        // SAFETY: all was written.
        unsafe { part.set_len(images * len) };
    }
    parts
}

fn copy_all(copies: Vec<(&[f32], &mut [MaybeUninit<f32>])>) {
    let pieces = copies.into_par_iter().flat_map(|(from, to)| from.par_chunks(PIECE).zip(to.par_chunks_mut(PIECE)));
    pieces.for_each(|(from, to)| copy(from, to));
}

fn copy(from: &[f32], to: &mut [MaybeUninit<f32>]) {
    assert_eq!(from.len(), to.len(), "a copy of another length");
    // SAFETY: as long, and borrowed apart.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast(), from.len()) };
}
