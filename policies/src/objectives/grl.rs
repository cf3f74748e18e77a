//! GF-Screen's group-relative objective: clipped probability ratio and a KL penalty against the old policy.
//!
//! Shapes: G sub-volumes; `logits_G2` are (discard, select); log-odds are select less discard.

use burn::tensor::{
    Tensor,
    activation::{log_sigmoid, sigmoid},
    backend::Backend,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::{constant, host, log, odds};
use super::surrogate::LOG_RATIO_LIMIT;
use super::{AdvantageConfig, Needs, Objective, ObjectiveInfo, OldPolicy, PolicyStats, Rollout, Samples, Terms, advantages};

/// Added to probabilities before the logarithm in the published code.
const TINY: f64 = 1e-6;

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
    /// How rewards become advantages.
    pub advantage: AdvantageConfig,
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
        Self {
            epsilon: 0.1,
            beta: 0.01,
            delta: None,
            action: Action::Favoured,
            kl: Kl::Bernoulli,
            compat: GrlCompat::default(),
            advantage: AdvantageConfig::default(),
        }
    }
}

impl GrlConfig {
    /// The objective of the published code, oddities included.
    pub fn published() -> Self {
        let compat = GrlCompat { smoothed_log: true, ratio_clamp: Some([0.01, 5.0]) };
        Self { action: Action::Select, kl: Kl::K3, compat, ..Self::default() }
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
    pub stats: PolicyStats,
}

impl Objective for GrlConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "grl",
        summary: "GF-Screen: clipped ratio on group-relative advantages, KL to the old policy",
        needs: Needs::Groups,
        old_policy: OldPolicy::Compared,
    };

    fn check(&self) -> Result<(), String> {
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
        self.advantage.check().map_err(|e| e.replacen('`', "`advantage.", 1))
    }

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        let samples = &rollout.samples;
        let found = advantages(&samples.rewards, &samples.groups, &self.advantage);
        let a_g = credit(samples, &found.values, logits_g2.dims()[0]);
        let terms = grl(logits_g2, &rollout.old_log_odds, &a_g, self);
        Ok(Terms { policy_loss: terms.clip_loss, kl_loss: Some(terms.kl_loss), log: log(&found, &a_g, &terms.stats.named()) })
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
    let log_odds_g = odds(logits_g2);
    let smoothed = config.compat.smoothed_log;
    let (old, a_g) = (constant(old_log_odds, &log_odds_g), constant(advantages, &log_odds_g));
    let (new, old) = (LogPolicy::new(log_odds_g.clone(), smoothed), LogPolicy::new(old, smoothed));

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

    let moved: Vec<f32> = host(a_g).into_iter().map(|a| a as f32).collect();
    let kl_value = host(kl.clone()).first().copied().unwrap_or(0.0);
    let range = [1.0 - config.epsilon, 1.0 + config.epsilon];
    let stats = PolicyStats::new(&host(ratio_g), &moved, &host(log_odds_g), kl_value, range);
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

/// One advantage a sub-volume: the mean advantage of the samples that selected it less that of those that did not, the score-function estimate for
/// independent choices. A sub-volume that is a sample by itself has its own.
fn credit(samples: &Samples, advantages: &[f32], sub_volumes: usize) -> Vec<f32> {
    let (mut sum, mut count) = (vec![0.0; sub_volumes], vec![0.0_f32; sub_volumes]);
    for (i, (&w, &selected)) in samples.windows.iter().zip(&samples.selected).enumerate() {
        let a = advantages[i / samples.width];
        sum[w] += if selected { a } else { -a };
        count[w] += 1.0;
    }
    sum.iter().zip(count).map(|(sum, count)| sum / count.max(1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::golden::{check_close, losses, numbers, singles};
    use burn::backend::{Autodiff, Flex};
    use burn::tensor::{DType, TensorData};
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
        stats: PolicyStats,
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
    fn bernoulli_kl_equals_the_reference() {
        let all = &losses()["rl_variants"];
        let golden = &all["objectives"]["bernoulli_kl"];
        let logits: Vec<f64> = numbers(&all["z"]).into_iter().flat_map(|z| [0.0, z]).collect();
        let reference: Vec<f64> = numbers(&all["ref"]).iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect();
        let found = run(&logits, &reference, &[0.0; 12], &GrlConfig { beta: 1.0, ..GrlConfig::default() });
        let grad: Vec<f64> = found.kl_grad.chunks(2).map(|row| row[1]).collect();
        check_close("KL", &[found.kl], &numbers(&golden["loss"]), 1e-6);
        check_close("gradient", &grad, &numbers(&golden["grad"]), 1e-6);
    }

    #[test]
    fn a_sub_volume_is_credited_with_the_samples_that_selected_it() {
        // Two masks over sub-volumes 0 and 1, two over sub-volume 2 and 3.
        let samples = Samples {
            width: 2,
            windows: vec![0, 1, 0, 1, 2, 3, 2, 3],
            selected: vec![true, false, false, false, true, true, true, false],
            ..Samples::default()
        };
        let found: Vec<f64> = credit(&samples, &[1.0, -1.0, 0.5, 0.7], 4).into_iter().map(f64::from).collect();
        check_close("credit", &found, &[1.0, 0.0, 0.6, -0.1], 1e-6);
        let alone = Samples { width: 1, windows: vec![0, 1], selected: vec![true; 2], ..Samples::default() };
        assert_eq!(credit(&alone, &[0.3, -0.7], 2), [0.3, -0.7]);
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
