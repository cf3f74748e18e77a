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
    let p_sum = if config.squared { sum(p_nkv.clone() * p_nkv) } else { sum(p_nkv) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::golden::{check_close, losses, numbers};
    use burn::backend::{Autodiff, Flex};
    use burn::tensor::DType;

    type B = Autodiff<Flex>;

    fn list<const D: usize>(x: Tensor<B, D>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    fn logits(values: &[f64], shape: [usize; 5], dtype: DType) -> Tensor<B, 5> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), (&Default::default(), dtype)).require_grad()
    }

    fn target(values: &[f64], [n, _, d, h, w]: [usize; 5]) -> Tensor<B, 4, Int> {
        let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
        Tensor::from_data(TensorData::new(values, [n, d, h, w]), &Default::default())
    }

    /// Loss terms and gradient of the total, from the fused kernel (f32) or from tensor operations (f64).
    fn run(z: &[f64], y: &[f64], shape: [usize; 5], config: &DiceCeConfig, fused: bool) -> (Vec<f64>, Vec<f64>) {
        let z = logits(z, shape, if fused { DType::F32 } else { DType::F64 });
        // Only f32 takes the kernel, so this is the reference in f64.
        let loss = dice_ce(z.clone(), target(y, shape), config);
        let grad = z.grad(&loss.total.backward()).unwrap().into_data().iter::<f64>().collect();
        (vec![list(loss.dice)[0], list(loss.ce)[0], list(loss.total)[0]], grad)
    }

    #[test]
    fn dice_ce_equals_monai() {
        let base = DiceCeConfig::published();
        let configs = [
            ("dicece_default", base.clone()),
            ("dicece_no_background", DiceCeConfig { include_background: false, ..base.clone() }),
            ("dicece_batch", DiceCeConfig { batch: true, ..base.clone() }),
            ("dice_default", DiceCeConfig { ce_weight: 0.0, ..base.clone() }),
            ("dice_squared", DiceCeConfig { ce_weight: 0.0, squared: true, ..base.clone() }),
            ("dice_no_background", DiceCeConfig { ce_weight: 0.0, include_background: false, ..base.clone() }),
            ("ce_only", DiceCeConfig { dice_weight: 0.0, ..base.clone() }),
            ("dicece_lambda", DiceCeConfig { dice_weight: 0.7, ce_weight: 1.3, ..base }),
        ];
        let golden = &losses()["dice_ce"];
        let (z, y) = (numbers(&golden["logits"]), numbers(&golden["label"]));
        for case in golden["cases"].as_array().unwrap() {
            let id = case["id"].as_str().unwrap();
            let Some((_, config)) = configs.iter().find(|(name, _)| *name == id) else {
                assert_eq!(id, "dice_none", "a golden case without a config");
                continue;
            };
            // The reference of the squared case carries f32 rounding: the formula in f64 NumPy agrees with ours, 1e-8 from it.
            let exact = if config.squared { 1e-7 } else { 1e-12 };
            for (fused, tolerance) in [(false, exact), (true, 1e-6)] {
                let (terms, grad) = run(&z, &y, [2, 2, 4, 5, 3], config, fused);
                check_close(id, &terms[2..], &numbers(&case["value"]), tolerance);
                // Gradients are below 0.01 here: judged on that scale.
                check_close(id, &grad, &numbers(&case["grad"]), 0.01 * tolerance);
            }
        }
    }

    #[test]
    fn dice_terms_equal_monai_without_reduction() {
        let golden = &losses()["dice_ce"];
        let (z, y) = (numbers(&golden["logits"]), numbers(&golden["label"]));
        let case = golden["cases"].as_array().unwrap().iter().find(|c| c["id"] == "dice_none").unwrap();
        let z = logits(&z, [2, 2, 4, 5, 3], DType::F64);
        let one_hot: Vec<f64> = y.chunks(60).flat_map(|y| y.iter().map(|v| 1.0 - v).chain(y.iter().copied())).collect();
        let one_hot = Tensor::from_data(TensorData::new(one_hot, [2, 2, 60]), (&Default::default(), DType::F64));
        let p = burn::tensor::activation::softmax(z.clone().reshape([2, 2, 60]), 1);
        let terms = dice_terms(p, one_hot, &DiceCeConfig::published());
        check_close("dice_none", &list(terms.clone()), &numbers(&case["value"]), 1e-12);
        let grad: Vec<f64> = z.grad(&terms.sum().backward()).unwrap().into_data().iter::<f64>().collect();
        check_close("dice_none gradient", &grad, &numbers(&case["grad"]), 1e-14);
    }

    /// Three classes, a crop with every class, one with background alone, one with classes 0 and 2; more voxels than one chunk.
    fn three_classes() -> (Vec<f64>, Vec<f64>, [usize; 5]) {
        let shape = [3, 3, 15, 16, 10];
        let voxels = 15 * 16 * 10;
        let hash = |i: usize| ((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / (1u64 << 24) as f64;
        let z = (0..9 * voxels).map(|i| 8.0 * hash(i) - 4.0).collect();
        let y = (0..3 * voxels).map(|i| match (i / voxels, hash(7 * i + 3)) {
            (0, h) if h < 0.1 => 1.0,
            (0 | 2, h) if h > 0.95 => 2.0,
            _ => 0.0,
        });
        (z, y.collect(), shape)
    }

    fn varied_configs() -> Vec<DiceCeConfig> {
        let base = DiceCeConfig::default();
        vec![
            base.clone(),
            DiceCeConfig::published(),
            DiceCeConfig { batch: true, ..base.clone() },
            DiceCeConfig { squared: true, smooth_nr: 20.0, smooth_dr: 20.0, ..base.clone() },
            DiceCeConfig { include_background: false, class_weights: vec![1.0, 10.0, 0.5], ..base.clone() },
            DiceCeConfig { dice_weight: 0.3, ce_weight: 2.0, squared: true, batch: true, include_background: false, ..base },
        ]
    }

    #[test]
    fn fused_kernel_equals_tensor_operations() {
        let (z, y, shape) = three_classes();
        for config in varied_configs() {
            let (terms, grad) = run(&z, &y, shape, &config, true);
            let (terms_f64, grad_f64) = run(&z, &y, shape, &config, false);
            check_close(&format!("{config:?}"), &terms, &terms_f64, 1e-6);
            let scale = grad_f64.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
            let scaled = |g: &[f64]| g.iter().map(|g| g / scale).collect::<Vec<_>>();
            check_close(&format!("gradient, {config:?}"), &scaled(&grad), &scaled(&grad_f64), 1e-6);
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (z, y, shape) = three_classes();
        for config in varied_configs() {
            let (_, grad) = run(&z, &y, shape, &config, false);
            for i in [0, 1234, 2400, 5000, 7300, 12_000, 21_599] {
                let at = |step: f64| {
                    let mut z = z.clone();
                    z[i] += step;
                    run(&z, &y, shape, &config, false).0[2]
                };
                let h = 1e-4;
                check_close(&format!("{config:?} at {i}"), &[(at(h) - at(-h)) / (2.0 * h)], &[grad[i]], 1e-10);
            }
        }
    }

    #[test]
    fn each_term_has_its_own_gradient() {
        let (z, y, shape) = three_classes();
        let z = logits(&z, shape, DType::F32);
        let config = DiceCeConfig::default();
        let grads = [true, false].map(|first| {
            let loss = dice_ce(z.clone(), target(&y, shape), &config);
            let term = if first { loss.dice } else { loss.ce };
            z.grad(&term.backward()).unwrap().into_data().iter::<f64>().collect::<Vec<_>>()
        });
        let (_, total) = run(&list(z), &y, shape, &config, true);
        let sum: Vec<f64> = grads[0].iter().zip(&grads[1]).map(|(a, b)| a + b).collect();
        check_close("sum of the gradients of both terms", &sum, &total, 1e-9);
        assert!(grads.iter().all(|g| g.iter().any(|v| v.abs() > 1e-6)));
    }

    #[test]
    fn crops_without_lesion_have_no_dice_term_when_skipped() {
        let (z, y, shape) = three_classes();
        let config = DiceCeConfig { ce_weight: 0.0, ..DiceCeConfig::default() };
        let (_, grad) = run(&z, &y, shape, &config, true);
        let crop = grad.len() / 3;
        assert!(grad[crop..2 * crop].iter().all(|&g| g == 0.0), "the second crop is background alone");
        assert!(grad[..crop].iter().any(|&g| g != 0.0) && grad[2 * crop..].iter().any(|&g| g != 0.0));
        let (terms, grad) = run(&z, &vec![0.0; y.len()], shape, &config, true);
        assert_eq!(terms[0], 0.0, "no crop with lesion: no Dice loss");
        assert!(grad.iter().all(|&g| g == 0.0));
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (z, y, shape) = three_classes();
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&z, &y, shape, &DiceCeConfig::default(), true))
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn extreme_logits_stay_finite_and_nan_is_seen() {
        let shape = [1, 2, 1, 1, 4];
        let (z, y) = ([900.0, -900.0, 0.0, 88.0, -900.0, 900.0, 0.0, -88.0], [0.0, 0.0, 1.0, 1.0]);
        let (terms, grad) = run(&z, &y, shape, &DiceCeConfig::default(), true);
        let (terms_f64, grad_f64) = run(&z, &y, shape, &DiceCeConfig::default(), false);
        check_close("terms", &terms, &terms_f64, 1e-6);
        check_close("gradient", &grad, &grad_f64, 1e-6);
        for bad in [f64::NAN, f64::INFINITY] {
            for i in 0..8 {
                let mut z = z;
                z[i] = bad;
                let (terms, _) = run(&z, &y, shape, &DiceCeConfig::default(), true);
                assert!(!terms[2].is_finite(), "{bad} at {i} gave {terms:?}");
            }
        }
    }

    #[test]
    fn argmax_takes_the_likeliest_class_and_the_lower_on_a_tie() {
        let z = logits(&[0.0, 1.0, 2.0, -1.0, 1.0, 1.0, 1.0, -2.0, 3.0, 0.0, 2.0, -3.0], [1, 3, 1, 2, 2], DType::F32);
        assert_eq!(argmax_masks(z), vec![vec![2, 0, 0, 0]]);
    }

    #[test]
    fn check_names_the_value() {
        let cases = [
            (DiceCeConfig { ce_weight: -1.0, ..Default::default() }, "ce_weight"),
            (DiceCeConfig { smooth_dr: 0.0, ..Default::default() }, "smooth_dr"),
            (DiceCeConfig { dice_weight: f64::NAN, ..Default::default() }, "dice_weight"),
            (DiceCeConfig { class_weights: vec![1.0], ..Default::default() }, "class_weights"),
            (DiceCeConfig { class_weights: vec![1.0, 0.0], ..Default::default() }, "class_weights"),
        ];
        for (config, key) in cases {
            assert!(config.check(2).unwrap_err().contains(key));
        }
        assert_eq!(DiceCeConfig::default().check(2), Ok(()));
    }
}
