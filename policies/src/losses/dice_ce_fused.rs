//! Dice + cross-entropy on the CPU: one pass over the voxels forward, one back, with closed-form gradients.
//!
//! With p = softmax(z), y the one-hot label, I = sum p y, S = sum p (or p^2) + sum y:
//! `d(1 - (2 I + nr) / (S + dr)) / dp = (2 I + nr) / (S + dr)^2 * dS/dp - 2 y / (S + dr)`, then through the softmax
//! `dz_k = p_k (g_k - sum_j g_j p_j)`; cross-entropy adds `w_y (p_k - y_k) / sum w`.
//! Sums run over fixed chunks in f64 and are added in order, so that the result doesn't depend on the number of threads.

use super::dice_ce::{DiceCeConfig, EmptyCrops};
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Flex};
use burn::tensor::{
    DType, TensorData, TensorMetadata,
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};
use rayon::prelude::*;
use std::sync::Arc;

/// Voxels of one task: small enough that the working set of a few classes stays in the first-level cache.
const CHUNK: usize = 2048;

/// A backend that [`super::dice_ce`] runs on. The default methods leave it to tensor operations.
pub trait DiceCeBackend: Backend {
    /// Forward pass, and what the backward pass needs; `None` where the kernel doesn't apply.
    fn dice_ce_forward(_logits: FloatTensor<Self>, _target: IntTensor<Self>, _config: &DiceCeConfig) -> Option<Forward> {
        None
    }

    /// The tensor (dice, ce), or `None` where the kernel doesn't apply.
    fn dice_ce_fused(logits: FloatTensor<Self>, target: IntTensor<Self>, config: &DiceCeConfig) -> Option<FloatTensor<Self>> {
        let device = Self::float_device(&logits);
        Self::dice_ce_forward(logits, target, config).map(|f| Self::float_from_data(TensorData::from(f.terms), &device))
    }
}

#[cfg(feature = "cuda")]
impl DiceCeBackend for burn::backend::Cuda {}

impl DiceCeBackend for Flex {
    fn dice_ce_forward(logits: FloatTensor<Self>, target: IntTensor<Self>, config: &DiceCeConfig) -> Option<Forward> {
        let [n, k, d, h, w] = logits.shape().dims();
        if logits.dtype() != DType::F32 || k > 256 {
            return None;
        }
        let labels = labels(&target.to_contiguous().into_data(), k);
        let logits = logits.to_contiguous();
        let logits = logits.as_slice::<f32>()?;
        Some(Forward::new(logits, labels, [n, k, d, h, w], config))
    }
}

impl<B: DiceCeBackend, C: CheckpointStrategy> DiceCeBackend for Autodiff<B, C> {
    fn dice_ce_fused(logits: FloatTensor<Self>, target: IntTensor<Self>, config: &DiceCeConfig) -> Option<FloatTensor<Self>> {
        #[derive(Debug)]
        struct DiceCeNode;
        impl<B: DiceCeBackend> Backward<B, 1> for DiceCeNode {
            type State = Arc<Forward>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [parent] = ops.parents;
                let upstream = grads.consume::<B>(&ops.node);
                let Some(parent) = parent else { return };
                let device = B::float_device(&upstream);
                let factors = burn::tensor::Tensor::<B, 1>::from_primitive(burn::tensor::TensorPrimitive::Float(upstream)).into_data();
                let factors: Vec<f64> = factors.iter::<f64>().collect();
                let [n, k, d, h, w] = ops.state.shape;
                let gradient = TensorData::new(ops.state.gradient(factors[0], factors[1]), [n, k, d, h, w]);
                grads.register::<B>(parent.id, B::float_from_data(gradient, &device));
            }
        }
        let device = B::float_device(&logits.primitive);
        let forward = B::dice_ce_forward(logits.primitive.clone(), target, config)?;
        let terms = B::float_from_data(TensorData::from(forward.terms), &device);
        Some(match DiceCeNode.prepare::<C>([logits.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(Arc::new(forward), terms),
            OpsKind::UnTracked(prep) => prep.finish(terms),
        })
    }
}

/// Sums over the voxels of one chunk, crop or batch, one value a class.
#[derive(Clone, Debug)]
struct Sums {
    /// Of the probabilities, or of their squares.
    probability: Vec<f64>,
    /// Of the probability of the right class.
    overlap: Vec<f64>,
    voxels: Vec<f64>,
    /// Of `-log p` of the right class.
    nll: Vec<f64>,
}

impl Sums {
    fn zeros(k: usize) -> Self {
        Self { probability: vec![0.0; k], overlap: vec![0.0; k], voxels: vec![0.0; k], nll: vec![0.0; k] }
    }

    fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.probability, &other.probability),
            (&mut self.overlap, &other.overlap),
            (&mut self.voxels, &other.voxels),
            (&mut self.nll, &other.nll),
        ];
        for (to, from) in pairs {
            to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        }
    }
}

/// The Dice term of one class in one crop: `1 - numerator / denominator`.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    numerator: f64,
    denominator: f64,
}

/// A finished forward pass: the two terms, and what the gradient needs.
#[derive(Debug)]
pub struct Forward {
    /// Dice, cross-entropy.
    terms: [f32; 2],
    shape: [usize; 5],
    probabilities: Vec<f32>,
    labels: Vec<u8>,
    /// Per crop and class; `None` where there is no Dice term.
    ratios: Vec<Option<Ratio>>,
    /// How many terms the mean of Dice has.
    dice_count: f64,
    /// Weight of each class in cross-entropy over the sum of all voxels' weights.
    ce_share: Vec<f64>,
    squared: bool,
}

impl Forward {
    fn new(logits: &[f32], labels: Vec<u8>, shape: [usize; 5], config: &DiceCeConfig) -> Self {
        let [n, k, d, h, w] = shape;
        let voxels = d * h * w;
        let mut probabilities = vec![0.0_f32; logits.len()];
        let chunks = split(&mut probabilities, k, voxels);
        let partial: Vec<Sums> = chunks
            .into_par_iter()
            .map(|mut chunk| {
                let (start, len) = (chunk.start, chunk.classes[0].len());
                let z: Vec<&[f32]> = (0..k).map(|c| &logits[(chunk.crop * k + c) * voxels + start..][..len]).collect();
                softmax_sums(&z, &labels[chunk.crop * voxels + start..][..len], &mut chunk.classes, config.squared)
            })
            .collect();
        let per_crop = voxels.div_ceil(CHUNK).max(1);
        let mut crops = vec![Sums::zeros(k); n];
        let mut all = Sums::zeros(k);
        for (i, sums) in partial.iter().enumerate() {
            crops[i / per_crop].add(sums);
            all.add(sums);
        }

        let weight = |c: usize| config.class_weights.get(c).copied().unwrap_or(1.0);
        let total_weight: f64 = (0..k).map(|c| weight(c) * all.voxels[c]).sum();
        let ce = (0..k).map(|c| weight(c) * all.nll[c]).sum::<f64>() / total_weight;
        let ce_share = (0..k).map(|c| weight(c) / total_weight).collect();

        let (mut ratios, mut dice, mut dice_count) = (Vec::with_capacity(n * k), 0.0, 0.0);
        for (i, own) in crops.iter().enumerate() {
            let sums = if config.batch { &all } else { own };
            let skipped = config.empty == EmptyCrops::Skip && sums.voxels[1..].iter().all(|&v| v == 0.0);
            for c in 0..k {
                let ratio = (c >= config.first_class() && !skipped).then(|| Ratio {
                    numerator: 2.0 * sums.overlap[c] + config.smooth_nr,
                    denominator: sums.probability[c] + sums.voxels[c] + config.smooth_dr,
                });
                if let Some(r) = ratio
                    && (i == 0 || !config.batch)
                {
                    dice += 1.0 - r.numerator / r.denominator;
                    dice_count += 1.0;
                }
                ratios.push(ratio);
            }
        }
        let dice_count = f64::max(dice_count, 1.0);
        let terms = [(dice / dice_count) as f32, ce as f32];
        Self { terms, shape, probabilities, labels, ratios, dice_count, ce_share, squared: config.squared }
    }

    /// `dice_factor * d(dice)/dz + ce_factor * d(ce)/dz`.
    fn gradient(&self, dice_factor: f64, ce_factor: f64) -> Vec<f32> {
        let [_, k, d, h, w] = self.shape;
        let voxels = d * h * w;
        let mut gradient = vec![0.0_f32; self.probabilities.len()];
        let ce: Vec<f32> = self.ce_share.iter().map(|share| (ce_factor * share) as f32).collect();
        split(&mut gradient, k, voxels).into_par_iter().for_each(|mut chunk| {
            let (start, len) = (chunk.start, chunk.classes[0].len());
            let p: Vec<&[f32]> = (0..k).map(|c| &self.probabilities[(chunk.crop * k + c) * voxels + start..][..len]).collect();
            let scale = dice_factor / self.dice_count;
            // g_k = every[k] * (1 or 2 p_k) - right[k] * y_k
            let ratios = &self.ratios[chunk.crop * k..][..k];
            let every: Vec<f32> = ratios.iter().map(|r| r.map_or(0.0, |r| scale * r.numerator / r.denominator.powi(2)) as f32).collect();
            let right: Vec<f32> = ratios.iter().map(|r| r.map_or(0.0, |r| scale * 2.0 / r.denominator) as f32).collect();
            let labels = &self.labels[chunk.crop * voxels + start..][..len];
            softmax_gradient(&p, labels, &mut chunk.classes, [&every, &right, &ce], self.squared);
        });
        gradient
    }
}

/// The part of an `[N, K, V]` array that one task writes: some voxels of one crop, all classes.
struct Chunk<'a> {
    crop: usize,
    start: usize,
    classes: Vec<&'a mut [f32]>,
}

fn split(nkv: &mut [f32], k: usize, voxels: usize) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    for (crop, kv) in nkv.chunks_mut(k * voxels).enumerate() {
        let mut classes: Vec<_> = kv.chunks_mut(voxels).map(|v| v.chunks_mut(CHUNK)).collect();
        for start in (0..voxels).step_by(CHUNK) {
            chunks.push(Chunk { crop, start, classes: classes.iter_mut().filter_map(Iterator::next).collect() });
        }
    }
    chunks
}

/// Voxels that share one logarithm per class: the product of their softmax sums, each at most 256 = 2^8, stays below 2^1024.
const BLOCK: usize = 64;

fn softmax_sums(z: &[&[f32]], labels: &[u8], p: &mut [&mut [f32]], squared: bool) -> Sums {
    let k = z.len();
    let mut sums = Sums::zeros(k);
    let mut products = vec![1.0_f64; k];
    for start in (0..labels.len()).step_by(BLOCK) {
        let len = BLOCK.min(labels.len() - start);
        let (mut max, mut sum) = ([f32::NEG_INFINITY; BLOCK], [0.0_f32; BLOCK]);
        for z in z {
            for (m, &z) in max.iter_mut().zip(&z[start..start + len]) {
                *m = if z > *m { z } else { *m };
            }
        }
        for (z, p) in z.iter().zip(p.iter_mut()) {
            let rows = max.iter().zip(&mut sum).zip(&z[start..start + len]).zip(&mut p[start..start + len]);
            for (((&m, s), &z), p) in rows {
                *p = exp_nonpositive(z - m);
                *s += *p;
            }
        }
        for (c, p) in p.iter_mut().enumerate() {
            let mut total = 0.0_f32;
            for (p, &s) in p[start..start + len].iter_mut().zip(&sum) {
                *p /= s;
                total += if squared { *p * *p } else { *p };
            }
            sums.probability[c] += f64::from(total);
        }
        for i in 0..len {
            let y = usize::from(labels[start + i]);
            sums.voxels[y] += 1.0;
            sums.overlap[y] += f64::from(p[y][start + i]);
            sums.nll[y] += f64::from(max[i] - z[y][start + i]);
            products[y] *= f64::from(sum[i]);
        }
        for (nll, product) in sums.nll.iter_mut().zip(&mut products) {
            *nll += product.ln();
            *product = 1.0;
        }
    }
    sums
}

fn softmax_gradient(p: &[&[f32]], labels: &[u8], out: &mut [&mut [f32]], [every, right, ce]: [&[f32]; 3], squared: bool) {
    for start in (0..labels.len()).step_by(BLOCK) {
        let len = BLOCK.min(labels.len() - start);
        let labels = &labels[start..start + len];
        // sum_j g_j p_j less the weight of cross-entropy: what every class is pulled by
        let mut pull = [0.0_f32; BLOCK];
        for (p, &every) in p.iter().zip(every) {
            for (pull, &p) in pull.iter_mut().zip(&p[start..start + len]) {
                *pull += every * p * if squared { 2.0 * p } else { 1.0 };
            }
        }
        for (i, &y) in labels.iter().enumerate() {
            let y = usize::from(y);
            pull[i] -= right[y] * p[y][start + i] + ce[y];
        }
        for ((p, out), &every) in p.iter().zip(out.iter_mut()).zip(every) {
            for ((out, &p), &pull) in out[start..start + len].iter_mut().zip(&p[start..start + len]).zip(&pull) {
                *out = p * (every * if squared { 2.0 * p } else { 1.0 } - pull);
            }
        }
        for (i, &y) in labels.iter().enumerate() {
            let y = usize::from(y);
            out[y][start + i] -= right[y] * p[y][start + i] + ce[y];
        }
    }
}

/// e^x for x <= 0 to about one unit in the last place (Cephes' polynomial), in a form that compilers vectorise. NaN stays NaN.
#[inline(always)]
fn exp_nonpositive(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number, which then sits in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut y = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        y = y * r + c;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    (y * r * r + r + 1.0) * power
}

/// Class numbers as bytes, checked against the number of classes.
fn labels(target: &TensorData, k: usize) -> Vec<u8> {
    let byte = |class: i64| {
        assert!((0..k as i64).contains(&class), "dice_ce: label {class} for {k} classes");
        class as u8
    };
    match target.as_slice::<i64>() {
        Ok(classes) => classes.iter().map(|&c| byte(c)).collect(),
        Err(_) => target.iter::<i64>().map(byte).collect(),
    }
}

/// Arg-max over the classes of `[N, K, V]`, one mask a crop.
pub(super) fn argmax(logits: &[f32], k: usize, voxels: usize) -> Vec<Vec<u8>> {
    assert!(k <= 256, "argmax_masks: {k} classes do not fit a byte");
    logits
        .par_chunks(k * voxels)
        .map(|z| {
            let mut mask = vec![0_u8; voxels];
            let mut best = z[..voxels].to_vec();
            for c in 1..k {
                for ((m, b), &z) in mask.iter_mut().zip(&mut best).zip(&z[c * voxels..(c + 1) * voxels]) {
                    let wins = z > *b;
                    *m = if wins { c as u8 } else { *m };
                    *b = if wins { z } else { *b };
                }
            }
            mask
        })
        .collect()
}
