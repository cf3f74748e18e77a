//! GF-Screen's group-relative objective: clipped probability ratio and a KL penalty against the old policy.
//!
//! Shapes: G sub-volumes; `logits_G2` are (discard, select); log-odds are select less discard.

use burn::tensor::{
    Tensor, TensorData,
    activation::{log_sigmoid, sigmoid},
    backend::Backend,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Added to probabilities before the logarithm in the published code.
const TINY: f64 = 1e-6;
/// Keeps exp of a difference of log-probabilities finite; e^30 is far outside every clip range.
const LOG_RATIO_LIMIT: f64 = 30.0;

/// Clipped group-relative objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrlConfig {
    /// Half width of the clip range of the ratio new / old, 0 < epsilon < 1. Default 0.1, as published. Smaller: smaller steps between two
    /// refreshes of the old policy.
    pub epsilon: f64,
    /// Factor of the KL penalty, >= 0. Default 0.01, as published. Larger: closer to the old policy.
    pub beta: f64,
    /// Dual clip: the loss of a negative advantage ends at `delta * |advantage|`, delta > 1 + epsilon. Default none. Acts with
    /// `action = "select"` only, where it also ends the push on sub-volumes whose probability rose most.
    pub delta: Option<f64>,
    /// Whose probability the advantage moves. Default `favoured`.
    pub action: Action,
    /// The penalty that keeps the policy near the old one. Default `bernoulli`.
    pub kl: Kl,
    /// Oddities of the published code, all off by default.
    pub compat: GrlCompat,
}

/// Whose probability the advantage moves. No action is sampled in either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Always "select", as published: at ratio 1 the gradient on the log-odds is `-A (1 - p)`, which vanishes where Glance is sure, also
    /// where it is sure and wrong (A < 0, p near 1).
    Select,
    /// The action that the advantage speaks for: "select" with A where A >= 0, else "discard" with -A, since not selecting has the
    /// opposite advantage. At ratio 1 the gradient is `-A (1 - p)` for A >= 0 and `|A| p` for A < 0: a cross-entropy weighted by |A|,
    /// strongest where Glance is sure and wrong.
    Favoured,
}

/// KL penalty between the policy and the old policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kl {
    /// Exact KL(new || old) of the two actions.
    Bernoulli,
    /// `u - log u - 1` with u = old / new probability of "select", as published. Not a KL here, because "select" is not drawn from the policy:
    /// it explodes when p falls and is flat when p rises, a floor that keeps Glance from discarding.
    K3,
}

/// Oddities of the published code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrlCompat {
    /// Uses log(p + 1e-6) instead of exact log-probabilities: flattens the ratio below p of about 1e-5. Default false.
    pub smoothed_log: bool,
    /// [low, high] that the ratio is clamped to before the objective sees it, published [0.01, 5.0]. Ends the gradient of false positives whose probability
    /// rose more than `high` times. Default none: clamped in the clipped term alone.
    pub ratio_clamp: Option<[f64; 2]>,
}

impl Default for GrlConfig {
    fn default() -> Self {
        Self { epsilon: 0.1, beta: 0.01, delta: None, action: Action::Favoured, kl: Kl::Bernoulli, compat: GrlCompat::default() }
    }
}

impl GrlConfig {
    /// The objective of the published code, oddities included.
    pub fn published() -> Self {
        let compat = GrlCompat { smoothed_log: true, ratio_clamp: Some([0.01, 5.0]) };
        Self { action: Action::Select, kl: Kl::K3, compat, ..Self::default() }
    }

    /// Names the first value out of its range.
    pub fn check(&self) -> Result<(), String> {
        if !(self.epsilon > 0.0 && self.epsilon < 1.0) {
            return Err(format!("`epsilon` is {}, expected a number between 0 and 1", self.epsilon));
        }
        if !(self.beta.is_finite() && self.beta >= 0.0) {
            return Err(format!("`beta` is {}, expected a number >= 0", self.beta));
        }
        if let Some(delta) = self.delta {
            if !(delta.is_finite() && delta > 1.0 + self.epsilon) {
                return Err(format!("`delta` is {delta}, expected a number > 1 + epsilon = {}", 1.0 + self.epsilon));
            }
            if self.action == Action::Favoured {
                return Err("`delta` has no effect with `action = \"favoured\"`; remove it or set `action = \"select\"`".into());
            }
        }
        if let Some([low, high]) = self.compat.ratio_clamp
            && !(low > 0.0 && low < 1.0 && high > 1.0 && high.is_finite())
        {
            return Err(format!("`compat.ratio_clamp` is [{low}, {high}], expected 0 < low < 1 < high"));
        }
        Ok(())
    }
}

/// The two terms, to be added, and the numbers worth logging.
#[derive(Clone, Debug)]
pub struct Grl<B: Backend> {
    /// `-mean min(ratio A, clip(ratio) A)`, one element.
    pub clip_loss: Tensor<B, 1>,
    /// `beta * mean KL`, one element.
    pub kl_loss: Tensor<B, 1>,
    /// Plain numbers of this step.
    pub stats: GrlStats,
}

/// What the ratio, the clipping and the policy did in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrlStats {
    /// Ratio new / old of the action that the advantage moves: mean, smallest, largest.
    pub ratio_mean: f32,
    pub ratio_min: f32,
    pub ratio_max: f32,
    /// Share of sub-volumes whose gradient is cut below 1 - epsilon (A < 0).
    pub clip_low: f32,
    /// Share of sub-volumes whose gradient is cut above 1 + epsilon (A > 0).
    pub clip_high: f32,
    /// Mean penalty, without beta.
    pub kl: f32,
    /// Mean entropy of the two actions, in nats.
    pub entropy: f32,
    /// Mean probability of "select".
    pub select_probability: f32,
}

impl GrlStats {
    /// Names and values for the log, as TRL calls them.
    pub fn named(&self) -> [(&'static str, f32); 9] {
        [
            ("ratio/mean", self.ratio_mean),
            ("ratio/min", self.ratio_min),
            ("ratio/max", self.ratio_max),
            ("clip_ratio/low_mean", self.clip_low),
            ("clip_ratio/high_mean", self.clip_high),
            ("clip_ratio/region_mean", self.clip_low + self.clip_high),
            ("kl", self.kl),
            ("entropy", self.entropy),
            ("select_probability", self.select_probability),
        ]
    }
}

/// Log-odds of "select", one value a sub-volume: all that [`grl`] needs to know of the old policy.
pub fn log_odds<B: Backend>(logits_g2: Tensor<B, 2>) -> Vec<f32> {
    let logits = logits_g2.into_data().convert::<f32>();
    logits.as_slice::<f32>().expect("converted to f32 above").chunks_exact(2).map(|row| row[1] - row[0]).collect()
}

/// The clipped group-relative objective with its KL penalty.
///
/// `old_log_odds` come from [`log_odds`] of the old policy on the same sub-volumes, `advantages` from [`super::advantages`]; both are
/// constants. Source: GF-Screen (ICLR 2026); [`GrlConfig::published`] reproduces its code.
pub fn grl<B: Backend>(logits_g2: Tensor<B, 2>, old_log_odds: &[f32], advantages: &[f32], config: &GrlConfig) -> Grl<B> {
    let [g, actions] = logits_g2.dims();
    assert!(
        actions == 2 && old_log_odds.len() == g && advantages.len() == g,
        "grl: {g}x{actions} logits, {} old log-odds, {} advantages",
        old_log_odds.len(),
        advantages.len()
    );
    let options = (&logits_g2.device(), logits_g2.dtype());
    let constant = |values: &[f32]| Tensor::<B, 1>::from_data(TensorData::from(values), options);
    let log_odds_g = (logits_g2.clone().narrow(1, 1, 1) - logits_g2.narrow(1, 0, 1)).flatten(0, 1);
    let smoothed = config.compat.smoothed_log;
    let (new, old) = (LogPolicy::new(log_odds_g, smoothed), LogPolicy::new(constant(old_log_odds), smoothed));
    let a_g = constant(advantages);

    let (log_ratio_g, a_g) = match config.action {
        Action::Select => (new.select.clone() - old.select.clone(), a_g),
        Action::Favoured => {
            let discards = a_g.clone().lower_elem(0);
            let select = new.select.clone() - old.select.clone();
            let discard = new.discard.clone() - old.discard.clone();
            (select.mask_where(discards, discard), a_g.abs())
        }
    };
    let mut ratio_g = log_ratio_g.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp();
    if let Some([low, high]) = config.compat.ratio_clamp {
        ratio_g = ratio_g.clamp(low, high);
    }
    let clipped_g = ratio_g.clone().clamp(1.0 - config.epsilon, 1.0 + config.epsilon);
    let mut gain_g = (ratio_g.clone() * a_g.clone()).min_pair(clipped_g * a_g.clone());
    if let Some(delta) = config.delta {
        let floor = gain_g.clone().max_pair(a_g.clone() * delta);
        gain_g = gain_g.mask_where(a_g.clone().lower_elem(0), floor);
    }
    let kl = match config.kl {
        Kl::Bernoulli => new.bernoulli_kl(&old),
        Kl::K3 => new.k3(&old, smoothed),
    }
    .mean();

    let stats = GrlStats::new(ratio_g, a_g, new.p, kl.clone(), config);
    Grl { clip_loss: gain_g.mean().neg(), kl_loss: kl * config.beta, stats }
}

/// A policy on G sub-volumes: probability of "select", and the log-probabilities of both actions.
struct LogPolicy<B: Backend> {
    p: Tensor<B, 1>,
    select: Tensor<B, 1>,
    discard: Tensor<B, 1>,
}

impl<B: Backend> LogPolicy<B> {
    fn new(log_odds_g: Tensor<B, 1>, smoothed: bool) -> Self {
        let p = sigmoid(log_odds_g.clone());
        let (select, discard) = if smoothed {
            let q = sigmoid(log_odds_g.neg());
            ((p.clone() + TINY).log(), (q + TINY).log())
        } else {
            (log_sigmoid(log_odds_g.clone()), log_sigmoid(log_odds_g.neg()))
        };
        Self { p, select, discard }
    }

    /// KL(self || old), exact.
    fn bernoulli_kl(&self, old: &Self) -> Tensor<B, 1> {
        let select = self.p.clone() * (self.select.clone() - old.select.clone());
        let discard = (self.p.clone().neg() + 1.0) * (self.discard.clone() - old.discard.clone());
        select + discard
    }

    /// `u - log u - 1`, u the ratio old / self of "select", kept within [1e-4, 1e4].
    fn k3(&self, old: &Self, smoothed: bool) -> Tensor<B, 1> {
        if smoothed {
            let u = (old.p.clone() / (self.p.clone() + TINY)).clamp(1e-4, 1e4);
            return u.clone() - (u + TINY).log() - 1.0;
        }
        let limit = 1e4_f64.ln();
        let log_u = (old.select.clone() - self.select.clone()).clamp(-limit, limit);
        log_u.clone().exp() - log_u - 1.0
    }
}

impl GrlStats {
    fn new<B: Backend>(ratio_g: Tensor<B, 1>, a_g: Tensor<B, 1>, p_g: Tensor<B, 1>, kl: Tensor<B, 1>, config: &GrlConfig) -> Self {
        let host = |x: Tensor<B, 1>| -> Vec<f64> { x.into_data().iter::<f64>().collect() };
        let (ratio, a, p, kl) = (host(ratio_g), host(a_g), host(p_g), host(kl));
        let n = ratio.len().max(1) as f64;
        let mean = |sum: f64| (sum / n) as f32;
        let share = |cut: &dyn Fn(f64, f64) -> bool| mean(ratio.iter().zip(&a).filter(|&(&r, &a)| cut(r, a)).count() as f64);
        let entropy = |p: f64| [p, 1.0 - p].into_iter().filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum::<f64>();
        Self {
            ratio_mean: mean(ratio.iter().sum()),
            ratio_min: ratio.iter().copied().reduce(f64::min).unwrap_or(1.0) as f32,
            ratio_max: ratio.iter().copied().reduce(f64::max).unwrap_or(1.0) as f32,
            clip_low: share(&|r, a| r < 1.0 - config.epsilon && a < 0.0),
            clip_high: share(&|r, a| r > 1.0 + config.epsilon && a > 0.0),
            kl: kl[0] as f32,
            entropy: mean(p.iter().map(|&p| entropy(p)).sum()),
            select_probability: mean(p.iter().sum()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::golden::{check_close, losses, numbers, singles};
    use burn::backend::{Autodiff, Flex};
    use burn::tensor::DType;
    use serde_json::Value;

    type B = Autodiff<Flex>;

    fn logit(p: f64) -> f64 {
        (p / (1.0 - p)).ln()
    }

    struct Run {
        clip: f64,
        kl: f64,
        clip_grad: Vec<f64>,
        kl_grad: Vec<f64>,
        stats: GrlStats,
    }

    fn run(logits: &[f64], old_p: &[f64], advantages: &[f32], config: &GrlConfig) -> Run {
        let old: Vec<f32> = old_p.iter().map(|&q| logit(q) as f32).collect();
        // Burn frees the graph in a backward pass: one forward for each term.
        let term = |kl: bool| {
            let data = TensorData::new(logits.to_vec(), [old.len(), 2]);
            let z = Tensor::<B, 2>::from_data(data, (&Default::default(), DType::F64)).require_grad();
            let found = grl(z.clone(), &old, advantages, config);
            let loss = if kl { found.kl_loss } else { found.clip_loss };
            let grad: Vec<f64> = z.grad(&loss.backward()).unwrap().into_data().iter::<f64>().collect();
            (loss.into_data().iter::<f64>().next().unwrap(), grad, found.stats)
        };
        let ((clip, clip_grad, stats), (kl, kl_grad, _)) = (term(false), term(true));
        Run { clip, kl, clip_grad, kl_grad, stats }
    }

    /// One sub-volume: (clip loss, its gradient on the log-odds, KL loss, its gradient).
    fn single(p: f64, q: f64, a: f64, config: &GrlConfig) -> [f64; 4] {
        let found = run(&[0.0, logit(p)], &[q], &[a as f32], config);
        [found.clip, found.clip_grad[1], found.kl, found.kl_grad[1]]
    }

    #[test]
    fn published_batches_equal_the_published_code() {
        for case in losses()["gf_screen"]["cases"].as_array().unwrap() {
            let id = case["id"].as_str().unwrap();
            let get = |key: &str| numbers(&case[key]);
            let found = run(&get("logits"), &get("old_p"), &singles(&case["advantage"]), &GrlConfig::published());
            check_close(id, &[found.clip, found.kl], &[get("L_clip"), get("L_kl")].concat(), 1e-6);
            check_close(&format!("{id} clip gradient"), &found.clip_grad, &get("grad_L_clip"), 1e-7);
            check_close(&format!("{id} KL gradient"), &found.kl_grad, &get("grad_L_kl"), 1e-7);
            let ratio = get("ratio");
            let mean = ratio.iter().sum::<f64>() / ratio.len() as f64;
            check_close(&format!("{id} ratio"), &[f64::from(found.stats.ratio_mean)], &[mean], 1e-6);
        }
    }

    #[test]
    fn published_single_samples_equal_the_published_code() {
        for row in losses()["gf_single_sample"]["rows"].as_array().unwrap() {
            let get = |key: &str| row.get(key).and_then(Value::as_f64).unwrap();
            let found = single(get("p"), get("q"), get("A"), &GrlConfig::published());
            check_close(&row.to_string(), &found, &[get("clip"), get("dclip"), get("kl"), get("dkl")], 1e-6);
        }
    }

    #[test]
    fn favoured_action_pushes_hardest_where_glance_is_sure_and_wrong() {
        let config = GrlConfig::default();
        // (p, A, gradient on the log-odds at ratio 1): |A| p for A < 0, -A (1 - p) for A >= 0.
        for (p, a, expected) in [(0.99, -0.6, 0.594), (0.01, -0.6, 0.006), (0.01, 1.7, -1.683), (0.99, 1.7, -0.017), (0.5, 0.0, 0.0)] {
            let found = single(p, p, a, &config);
            check_close(&format!("p {p}, A {a}"), &found[..2], &[-a.abs(), expected], 1e-6);
        }
        let published = single(0.99, 0.99, -0.6, &GrlConfig::published());
        assert!(published[1] < 0.0061, "what the fix is for");
    }

    #[test]
    fn false_positives_that_rose_keep_their_gradient() {
        let select = GrlConfig { action: Action::Select, ..GrlConfig::default() };
        assert_eq!(single(0.6, 0.05, -0.6, &GrlConfig::published())[1], 0.0);
        assert!(single(0.6, 0.05, -0.6, &select)[1] > 1.0);
        assert!(single(0.6, 0.05, -0.6, &GrlConfig::default())[1] > 0.1);
        let dual = GrlConfig { delta: Some(3.0), ..select };
        let found = single(0.6, 0.05, -0.6, &dual);
        check_close("dual clip", &found[..2], &[1.8, 0.0], 1e-6);
    }

    #[test]
    fn clipping_ends_the_gradient_in_the_wanted_direction_only() {
        let config = GrlConfig::default();
        assert_eq!(single(0.6, 0.5, 1.7, &config)[1], 0.0, "select rose by more than 10 %");
        assert_eq!(single(0.4, 0.5, -0.6, &config)[1], 0.0, "discard rose by more than 10 %");
        assert!(single(0.4, 0.5, 1.7, &config)[1] < 0.0 && single(0.6, 0.5, -0.6, &config)[1] > 0.0);
        let logits = [0.0, logit(0.6), 0.0, logit(0.4), 0.0, 0.0, 0.0, logit(0.6)];
        let found = run(&logits, &[0.5; 4], &[1.0, 1.0, 1.0, -1.0], &GrlConfig { action: Action::Select, ..config });
        assert_eq!((found.stats.clip_high, found.stats.clip_low), (0.25, 0.0));
        let found = run(&[0.0, logit(0.4)], &[0.5], &[-1.0], &GrlConfig::published());
        assert_eq!((found.stats.clip_high, found.stats.clip_low), (0.0, 1.0));
    }

    #[test]
    fn bernoulli_kl_is_exact_and_zero_at_the_old_policy() {
        let config = GrlConfig { beta: 1.0, ..GrlConfig::default() };
        for (p, q) in [(0.3, 0.5), (0.001, 0.5), (0.9, 0.2)] {
            let kl = p * f64::ln(p / q) + (1.0 - p) * f64::ln((1.0 - p) / (1.0 - q));
            let grad = p * (1.0 - p) * (logit(p) - logit(q));
            check_close(&format!("p {p}, q {q}"), &single(p, q, 0.0, &config)[2..], &[kl, grad], 1e-6);
        }
        check_close("p = q", &single(0.3, 0.3, 0.0, &config)[2..], &[0.0, 0.0], 1e-7);
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let logits = [0.3, -0.2, 1.0, 2.0, -1.5, 0.5, 0.2, 0.1];
        let (old_p, a) = ([0.4, 0.7, 0.8, 0.5], [1.2, -0.7, -0.9, 0.3]);
        for config in [
            GrlConfig::default(),
            GrlConfig { action: Action::Select, ..GrlConfig::default() },
            GrlConfig { kl: Kl::K3, beta: 0.5, ..GrlConfig::default() },
            GrlConfig::published(),
        ] {
            let grad = run(&logits, &old_p, &a, &config);
            for i in 0..logits.len() {
                let at = |step: f64| {
                    let mut z = logits;
                    z[i] += step;
                    let found = run(&z, &old_p, &a, &config);
                    found.clip + found.kl
                };
                let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                check_close(&format!("{config:?} at {i}"), &[difference], &[grad.clip_grad[i] + grad.kl_grad[i]], 1e-8);
            }
        }
    }

    #[test]
    fn extreme_policies_stay_finite() {
        for config in [GrlConfig::default(), GrlConfig::published(), GrlConfig { kl: Kl::K3, ..GrlConfig::default() }] {
            for (z, old) in [(80.0_f32, -80.0_f32), (-80.0, 80.0), (300.0, 300.0), (-300.0, 0.0)] {
                for a in [-1.0, 0.0, 1.0] {
                    let data = TensorData::from([[0.0_f32, z]]);
                    let z = Tensor::<B, 2>::from_data(data, &Default::default()).require_grad();
                    let found = grl(z.clone(), &[old], &[a], &config);
                    let grad = z.grad(&(found.clip_loss.clone() + found.kl_loss.clone()).backward()).unwrap();
                    let all = [found.clip_loss.into_data(), found.kl_loss.into_data(), grad.into_data()];
                    let finite = all.iter().all(|d| d.iter::<f32>().all(f32::is_finite));
                    assert!(finite && found.stats.named().iter().all(|(_, v)| v.is_finite()), "{config:?} {old} {a}: {all:?}");
                }
            }
        }
    }

    #[test]
    fn check_names_the_value() {
        let cases = [
            (GrlConfig { epsilon: 0.0, ..Default::default() }, "epsilon"),
            (GrlConfig { beta: -0.1, ..Default::default() }, "beta"),
            (GrlConfig { delta: Some(1.05), action: Action::Select, ..Default::default() }, "delta"),
            (GrlConfig { delta: Some(3.0), ..Default::default() }, "favoured"),
            (GrlConfig { compat: GrlCompat { ratio_clamp: Some([2.0, 5.0]), ..Default::default() }, ..Default::default() }, "ratio_clamp"),
        ];
        for (config, word) in cases {
            assert!(config.check().unwrap_err().contains(word));
        }
        assert_eq!((GrlConfig::default().check(), GrlConfig::published().check()), (Ok(()), Ok(())));
    }
}
