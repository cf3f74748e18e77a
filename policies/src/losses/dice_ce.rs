//! Soft Dice and cross-entropy over voxels, the loss of Focus.
//!
//! Shapes: `logits_NKDHW`, `target_NDHW` with one class number (0 = background) a voxel.

use super::dice_ce_fused::{self, DiceCeBackend};
use burn::tensor::{Int, Tensor, TensorData, TensorPrimitive, activation::log_softmax, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Dice + cross-entropy. The defaults are MONAI's `DiceCELoss(softmax=True)`, but for `empty`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiceCeConfig {
    /// Factor of the Dice term, >= 0. Default 1. 0 leaves cross-entropy alone.
    pub dice_weight: f64,
    /// Factor of the cross-entropy term, >= 0. Default 1. A large one (10) helps tiny networks to start, and hurts later.
    pub ce_weight: f64,
    /// Added to the numerator of Dice, in voxels, >= 0. Default 1e-5. Large values (20) calm crops with few lesion voxels.
    pub smooth_nr: f64,
    /// Added to the denominator of Dice, in voxels, > 0. Default 1e-5.
    pub smooth_dr: f64,
    /// Whether class 0 has a Dice term too. Default true, as published. Cross-entropy always covers all classes.
    pub include_background: bool,
    /// Sum over the whole batch before the Dice ratio is taken, instead of one ratio a crop. Default false.
    pub batch: bool,
    /// Squares the probabilities in the denominator of Dice. Default false.
    pub squared: bool,
    /// What crops without lesion do in the Dice term. Default `skip`.
    pub empty: EmptyCrops,
    /// Weight of each class in cross-entropy, > 0, one a class, background first; the mean is over the weights, as in PyTorch.
    /// Default empty: all equal.
    pub class_weights: Vec<f64>,
}

/// Crops whose label holds background alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmptyCrops {
    /// They count, as published: a lesion Dice loss near 1 whose gradient is negligible, so that it only dilutes the others.
    Keep,
    /// They have no Dice term; cross-entropy alone teaches "nothing here". With `batch`, only a wholly empty batch is skipped.
    Skip,
}

impl Default for DiceCeConfig {
    fn default() -> Self {
        Self { empty: EmptyCrops::Skip, ..Self::published() }
    }
}

impl DiceCeConfig {
    /// The loss of the published code: MONAI's defaults, empty crops kept.
    pub fn published() -> Self {
        Self {
            dice_weight: 1.0,
            ce_weight: 1.0,
            smooth_nr: 1e-5,
            smooth_dr: 1e-5,
            include_background: true,
            batch: false,
            squared: false,
            empty: EmptyCrops::Keep,
            class_weights: Vec::new(),
        }
    }

    /// Names the first value out of its range, for a network with `classes` outputs.
    pub fn check(&self, classes: usize) -> Result<(), String> {
        let at_least_zero = [("dice_weight", self.dice_weight), ("ce_weight", self.ce_weight), ("smooth_nr", self.smooth_nr)];
        for (key, value) in at_least_zero {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!("`{key}` is {value}, expected a number >= 0"));
            }
        }
        if !(self.smooth_dr.is_finite() && self.smooth_dr > 0.0) {
            return Err(format!("`smooth_dr` is {}, expected a number > 0", self.smooth_dr));
        }
        let weights = &self.class_weights;
        if !weights.is_empty() && weights.len() != classes {
            return Err(format!("`class_weights` has {} values, expected none or {classes}, one a class", weights.len()));
        }
        if let Some(value) = weights.iter().find(|w| !(w.is_finite() && **w > 0.0)) {
            return Err(format!("`class_weights` holds {value}, expected numbers > 0"));
        }
        if classes < 2 && !self.include_background {
            return Err("`include_background = false` leaves no class for Dice; set it to true".into());
        }
        Ok(())
    }

    /// First class that has a Dice term.
    pub(super) fn first_class(&self) -> usize {
        usize::from(!self.include_background)
    }
}

/// The two terms, each unweighted, and their weighted sum; all of one element, all with gradients.
#[derive(Clone, Debug)]
pub struct DiceCe<B: Backend> {
    /// Mean of `1 - Dice` over crops and classes.
    pub dice: Tensor<B, 1>,
    /// Mean cross-entropy over voxels.
    pub ce: Tensor<B, 1>,
    /// `dice_weight * dice + ce_weight * ce`.
    pub total: Tensor<B, 1>,
}

/// Dice + cross-entropy of softmax(logits) against a label.
///
/// On the CPU one fused pass forward and one back; elsewhere tensor operations. The config must have passed [`DiceCeConfig::check`], the
/// label must hold classes below K.
pub fn dice_ce<B: DiceCeBackend>(logits_nkdhw: Tensor<B, 5>, target_ndhw: Tensor<B, 4, Int>, config: &DiceCeConfig) -> DiceCe<B> {
    let [n, _, d, h, w] = logits_nkdhw.dims();
    assert_eq!([n, d, h, w], target_ndhw.dims(), "dice_ce: logits and target differ in shape");
    let logits = logits_nkdhw.clone().into_primitive().tensor();
    let (dice, ce) = match B::dice_ce_fused(logits, target_ndhw.clone().into_primitive(), config) {
        Some(terms) => {
            let terms: Tensor<B, 1> = Tensor::from_primitive(TensorPrimitive::Float(terms));
            (terms.clone().narrow(0, 0, 1), terms.narrow(0, 1, 1))
        }
        None => reference(logits_nkdhw, target_ndhw, config),
    };
    let total = dice.clone() * config.dice_weight + ce.clone() * config.ce_weight;
    DiceCe { dice, ce, total }
}

/// Dice and cross-entropy by tensor operations: the definition that the fused kernel is tested against.
pub(super) fn reference<B: Backend>(
    logits_nkdhw: Tensor<B, 5>,
    target_ndhw: Tensor<B, 4, Int>,
    config: &DiceCeConfig,
) -> (Tensor<B, 1>, Tensor<B, 1>) {
    let [n, k, d, h, w] = logits_nkdhw.dims();
    let options = (&logits_nkdhw.device(), logits_nkdhw.dtype());
    let log_p_nkv = log_softmax(logits_nkdhw.reshape([n, k, d * h * w]), 1);
    let classes: Tensor<B, 1> = Tensor::from_data(TensorData::from(&(0..k).map(|c| c as f64).collect::<Vec<_>>()[..]), options);
    let target: Tensor<B, 3> = target_ndhw.reshape([n, 1, d * h * w]).float().cast(log_p_nkv.dtype());
    let y_nkv =
        target.expand([n, k, d * h * w]).equal(classes.reshape([1, k, 1]).expand([n, k, d * h * w])).float().cast(log_p_nkv.dtype());

    let weights: Vec<f64> = if config.class_weights.is_empty() { vec![1.0; k] } else { config.class_weights.clone() };
    let weights: Tensor<B, 1> = Tensor::from_data(TensorData::from(&weights[..]), options);
    let weighted_nkv = y_nkv.clone() * weights.reshape([1, k, 1]);
    let ce = (weighted_nkv.clone() * log_p_nkv.clone()).sum().neg() / weighted_nkv.sum();

    let lesion_n1 = y_nkv.clone().narrow(1, 1, k - 1).sum_dim(2).sum_dim(1).reshape([n, 1]);
    let terms_nc = dice_terms(log_p_nkv.exp(), y_nkv, config);
    let [rows, columns] = terms_nc.dims();
    let kept_n1 = match config.empty {
        EmptyCrops::Keep => lesion_n1.ones_like().narrow(0, 0, rows),
        EmptyCrops::Skip if config.batch => lesion_n1.sum_dim(0).greater_elem(0).float().cast(terms_nc.dtype()),
        EmptyCrops::Skip => lesion_n1.greater_elem(0).float().cast(terms_nc.dtype()),
    };
    let count = kept_n1.clone().sum().clamp_min(1.0) * columns as f64;
    ((terms_nc * kept_n1).sum() / count, ce)
}

/// `1 - Dice` of each crop and class, `[N, C]` (`[1, C]` with `batch`); C leaves out class 0 unless `include_background`.
///
/// `p_NKV` are probabilities, `y_NKV` the one-hot label, V voxels.
pub fn dice_terms<B: Backend>(p_nkv: Tensor<B, 3>, y_nkv: Tensor<B, 3>, config: &DiceCeConfig) -> Tensor<B, 2> {
    let [n, k, _] = p_nkv.dims();
    let (first, kept) = (config.first_class(), k - config.first_class());
    let sum = |x: Tensor<B, 3>| -> Tensor<B, 2> {
        let x_nc = x.narrow(1, first, kept).sum_dim(2).reshape([n, kept]);
        if config.batch { x_nc.sum_dim(0) } else { x_nc }
    };
    let overlap = sum(p_nkv.clone() * y_nkv.clone());
    let p_sum = if config.squared { sum(p_nkv.powi_scalar(2)) } else { sum(p_nkv) };
    let dice = (overlap * 2.0 + config.smooth_nr) / (p_sum + sum(y_nkv) + config.smooth_dr);
    dice.neg() + 1.0
}

/// The most likely class of each voxel, one mask a crop in C order, read from logits that are already there.
///
/// Ties go to the lower class. At most 256 classes.
pub fn argmax_masks<B: Backend>(logits_nkdhw: Tensor<B, 5>) -> Vec<Vec<u8>> {
    let [_, k, d, h, w] = logits_nkdhw.dims();
    let voxels = d * h * w;
    let data = logits_nkdhw.into_data().convert::<f32>();
    let logits = data.as_slice::<f32>().expect("converted to f32 above");
    dice_ce_fused::argmax(logits, k, voxels)
}
