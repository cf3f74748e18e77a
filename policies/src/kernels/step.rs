//! One step of an optimiser on the CPU, in a single pass over a parameter: composed from Burn's operations it is fifteen, on one thread.

use super::backend::{AdamStep, KernelBackend};
use super::fallback::tensor;
use super::simd::{Isa, Kernel, Lanes, dispatch};
use burn::tensor::Tensor;
use burn::tensor::ops::FloatTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Values of a task.
const PIECE: usize = 1 << 14;
/// Squares are summed in so many strands.
const STRANDS: usize = 16;
/// Elements whose squares are summed in the tensor's own precision before f64 takes over, where Burn sums them.
const ROW: usize = 1024;

/// Weight and both means after a step, from Burn's operations.
pub fn adamw_composed<B: KernelBackend>(inputs: [FloatTensor<B>; 4], step: &AdamStep) -> [FloatTensor<B>; 3] {
    let [weight, grad, m, v] = inputs.map(tensor::<B, 1>);
    let [beta1, beta2] = step.betas;
    let m = m * beta1 + grad.clone() * (1.0 - beta1);
    let v = v * beta2 + grad.clone() * grad * (1.0 - beta2);
    let denominator = v.clone().sqrt() / step.root + step.eps;
    let weight = weight * step.decay - m.clone() / denominator * step.size;
    [weight, m, v].map(|tensor| tensor.into_primitive().tensor())
}

/// The sum of a vector's squares, from Burn's operations.
pub fn squares_composed<B: KernelBackend>(x: FloatTensor<B>) -> f64 {
    let x = tensor::<B, 1>(x);
    let n = x.dims()[0];
    let squares: Tensor<B, 1> = x.clone() * x;
    let whole = n / ROW * ROW;
    let mut sum = 0.0;
    if whole > 0 {
        let rows = squares.clone().narrow(0, 0, whole).reshape([n / ROW, ROW]).sum_dim(1);
        sum += rows.into_data().iter::<f64>().sum::<f64>();
    }
    if whole < n {
        sum += squares.narrow(0, whole, n - whole).sum().into_data().iter::<f64>().sum::<f64>();
    }
    sum
}

/// Weight and both means after a step, from the weight, its gradient and the means before.
pub fn adamw(isa: Isa, [weight, grad, m, v]: [&[f32]; 4], step: &AdamStep) -> [Vec<f32>; 3] {
    let len = weight.len();
    assert!([grad, m, v].iter().all(|values| values.len() == len), "a step with values of other lengths");
    let mut found = [(); 3].map(|()| Vec::with_capacity(len));
    let [new_weight, new_m, new_v] = found.each_mut().map(|values: &mut Vec<f32>| &mut values.spare_capacity_mut()[..len]);
    let to = new_weight.par_chunks_mut(PIECE).zip(new_m.par_chunks_mut(PIECE)).zip(new_v.par_chunks_mut(PIECE));
    let from = weight.par_chunks(PIECE).zip(grad.par_chunks(PIECE)).zip(m.par_chunks(PIECE).zip(v.par_chunks(PIECE)));
    to.zip(from).for_each(|(((to_weight, to_m), to_v), ((weight, grad), (m, v)))| {
        let part = Adam { from: [weight, grad, m, v], to: [to_weight, to_m, to_v], step };
        // SAFETY: `isa` is detected or portable.
        unsafe { dispatch(isa, part) };
    });
    for values in &mut found {
        // SAFETY: all was written.
        unsafe { values.set_len(len) };
    }
    found
}

struct Adam<'a> {
    from: [&'a [f32]; 4],
    to: [&'a mut [MaybeUninit<f32>]; 3],
    step: &'a AdamStep,
}

impl Kernel for Adam<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Adam { from: [weight, grad, m, v], to: [to_weight, to_m, to_v], step } = self;
        let [beta1, beta2] = step.betas.map(|beta| beta as f32);
        let [rest1, rest2] = step.betas.map(|beta| (1.0 - beta) as f32);
        let (decay, root, eps, size) = (step.decay as f32, step.root as f32, step.eps as f32, step.size as f32);
        let from = weight.iter().zip(grad).zip(m.iter().zip(v));
        let to = to_weight.iter_mut().zip(to_m).zip(to_v);
        for (((weight, grad), (m, v)), ((to_weight, to_m), to_v)) in from.zip(to) {
            let m = m * beta1 + grad * rest1;
            let v = v * beta2 + grad * grad * rest2;
            to_weight.write(weight * decay - m / (v.sqrt() / root + eps) * size);
            to_m.write(m);
            to_v.write(v);
        }
    }
}

/// The sum of squares, each and all in f64. Sums are split by the length alone.
pub fn squares(isa: Isa, x: &[f32]) -> f64 {
    let sums: Vec<f64> = x
        .par_chunks(PIECE)
        .map(|x| {
            let mut sum = 0.0;
            // SAFETY: `isa` is detected or portable.
            unsafe { dispatch(isa, Squares { x, sum: &mut sum }) };
            sum
        })
        .collect();
    sums.iter().sum()
}

struct Squares<'a> {
    x: &'a [f32],
    sum: &'a mut f64,
}

impl Kernel for Squares<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let mut strands = [0.0; STRANDS];
        let (whole, rest) = self.x.as_chunks::<STRANDS>();
        for values in whole {
            for (sum, x) in strands.iter_mut().zip(values) {
                *sum += square(*x);
            }
        }
        *self.sum = strands.iter().sum::<f64>() + rest.iter().map(|x| square(*x)).sum::<f64>();
    }
}
