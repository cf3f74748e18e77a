//! What objectives are told of a step, and what they answer.

use burn::tensor::{Int, Tensor, TensorData, activation::log_sigmoid, backend::Backend};
use panscreen_envs::screening::{Grouping, Labels, Observation, Outcome, Selection};

use super::{AdvantageConfig, Advantages, advantages};

/// Sampled actions: S samples, each a decision over W sub-volumes that earned one reward.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// W: 1 where each sub-volume is rewarded by itself.
    pub width: usize,
    /// Number of each sub-volume decided on, `[S][W]`.
    pub windows: Vec<usize>,
    /// Whether it was selected, `[S][W]`.
    pub selected: Vec<bool>,
    /// `[S]`
    pub rewards: Vec<f32>,
    /// The group in which each reward is compared, `[S]`.
    pub groups: Vec<u32>,
}

impl Samples {
    /// The samples behind an outcome: with [`Grouping::Masks`] each mask over each group's sub-volumes, else "select" on each sub-volume, as
    /// published.
    pub fn new(grouping: Grouping, observation: &Observation, selection: &Selection, outcome: &Outcome) -> Self {
        let (rewards, groups) = (outcome.rewards.clone(), outcome.groups.clone());
        if grouping != Grouping::Masks {
            let g = observation.len();
            return Samples { width: 1, windows: (0..g).collect(), selected: vec![true; g], rewards, groups };
        }
        let members = observation.members();
        let width = members.first().map_or(0, |(_, m)| m.len());
        assert!(members.iter().all(|(_, m)| m.len() == width), "every group has the same number of sub-volumes");
        let (mut windows, mut selected) = (Vec::new(), Vec::new());
        for (_, members) in &members {
            for mask in &selection.masks {
                windows.extend(members);
                selected.extend(members.iter().map(|&i| mask[i]));
            }
        }
        Samples { width, windows, selected, rewards, groups }
    }

    /// Number of samples, S.
    pub fn len(&self) -> usize {
        self.rewards.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rewards.is_empty()
    }

    /// The samples for which `keep` holds, by their number.
    pub fn kept(&self, keep: impl Fn(usize) -> bool) -> Self {
        let of = |s: &usize| s * self.width..(s + 1) * self.width;
        let kept: Vec<usize> = (0..self.len()).filter(|&s| keep(s)).collect();
        Samples {
            width: self.width,
            windows: kept.iter().flat_map(|s| &self.windows[of(s)]).copied().collect(),
            selected: kept.iter().flat_map(|s| &self.selected[of(s)]).copied().collect(),
            rewards: kept.iter().map(|&s| self.rewards[s]).collect(),
            groups: kept.iter().map(|&s| self.groups[s]).collect(),
        }
    }

    /// `values` of the samples, once for each sub-volume decided on, `[S][W]`.
    pub(super) fn spread(&self, values: &[f32]) -> Vec<f32> {
        values.iter().flat_map(|&v| std::iter::repeat_n(v, self.width)).collect()
    }

    /// Log-probability of each decision under a policy's log-odds of "select", `[S][W]`.
    pub(super) fn log_probs(&self, log_odds: &[f32]) -> Vec<f64> {
        let log_sigmoid = |x: f64| x.min(0.0) - (-x.abs()).exp().ln_1p();
        let decisions = self.windows.iter().zip(&self.selected);
        decisions.map(|(&w, &selected)| log_sigmoid(f64::from(if selected { log_odds[w] } else { -log_odds[w] }))).collect()
    }

    /// The same as a tensor that carries the gradient of `log_odds_g`, `[S * W]`.
    pub(super) fn log_probs_of<B: Backend>(&self, log_odds_g: Tensor<B, 1>) -> Tensor<B, 1> {
        let windows: Vec<i64> = self.windows.iter().map(|&w| w as i64).collect();
        let signs: Vec<f32> = self.selected.iter().map(|&s| if s { 1.0 } else { -1.0 }).collect();
        let signs = constant(&signs, &log_odds_g);
        let windows = Tensor::<B, 1, Int>::from_data(TensorData::from(&windows[..]), &log_odds_g.device());
        log_sigmoid(log_odds_g.select(0, windows) * signs)
    }
}

/// What an objective may use of a step over G sub-volumes. Only what its [`super::Needs`] and [`super::OldPolicy`] ask for has to be there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rollout {
    /// Log-odds of "select" of the old policy, `[G]`.
    pub old_log_odds: Vec<f32>,
    /// Log-odds of the policy that the KL penalty holds to, `[G]`.
    pub reference_log_odds: Vec<f32>,
    pub samples: Samples,
    /// What the value head expects of each sub-volume, `[G]`.
    pub values: Vec<f32>,
    /// Expected reward of (discarding, selecting) each sub-volume, the others as the policy has them, `[G]`.
    pub both: Vec<[f32; 2]>,
    pub labels: Labels,
}

impl Rollout {
    /// Part `part` of `parts` of its samples, dealt out one by one.
    pub fn minibatch(&self, part: usize, parts: usize) -> Self {
        Rollout { samples: self.samples.kept(|s| s % parts == part), ..self.clone() }
    }
}

/// What an objective answers.
#[derive(Clone, Debug)]
pub struct Terms<B: Backend> {
    /// The objective as a loss, one element.
    pub policy_loss: Tensor<B, 1>,
    /// Its KL penalty, `beta` included, where it has one; to be added.
    pub kl_loss: Option<Tensor<B, 1>>,
    /// Names and values worth logging, as TRL calls them.
    pub log: Vec<(&'static str, f32)>,
}

impl<B: Backend> Terms<B> {
    /// A loss without advantages: the log says what was earned and what the policy looks like.
    pub(super) fn supervised(policy_loss: Tensor<B, 1>, log_odds_g: Tensor<B, 1>, rollout: &Rollout) -> Self {
        let earned = advantages(&rollout.samples.rewards, &rollout.samples.groups, &AdvantageConfig::default());
        let policy = PolicyStats::new(&[], &[], &host(log_odds_g), 0.0, [0.0, f64::INFINITY]);
        Terms { policy_loss, kl_loss: None, log: earned.named().into_iter().chain(policy.policy()).collect() }
    }
}

/// Log-odds of "select" as a tensor: `logits_G2` -> `[G]`.
pub(super) fn odds<B: Backend>(logits_g2: Tensor<B, 2>) -> Tensor<B, 1> {
    let [g, actions] = logits_g2.dims();
    assert!(actions == 2, "an objective takes the logits of (discard, select), not {g}x{actions}");
    (logits_g2.clone().narrow(1, 1, 1) - logits_g2.narrow(1, 0, 1)).flatten(0, 1)
}

/// `values` without gradient, with the type and on the device of `like`.
pub(super) fn constant<B: Backend, E: burn::tensor::Element>(values: &[E], like: &Tensor<B, 1>) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::from(values), (&like.device(), like.dtype()))
}

/// The numbers of a tensor.
pub(super) fn host<B: Backend>(x: Tensor<B, 1>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// What the ratio, the clipping and the policy did in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyStats {
    /// Ratio new / old of the action that the advantage moves: mean, smallest, largest.
    pub ratio_mean: f32,
    pub ratio_min: f32,
    pub ratio_max: f32,
    /// Share of the ratios whose gradient is cut below the clip range (A < 0).
    pub clip_low: f32,
    /// Share of the ratios whose gradient is cut above the clip range (A > 0).
    pub clip_high: f32,
    /// Mean penalty, without beta.
    pub kl: f32,
    /// Mean entropy of the two actions, in nats.
    pub entropy: f32,
    /// Mean probability of "select".
    pub select_probability: f32,
}

impl PolicyStats {
    /// `ratio` and `a` go together; `log_odds` are the policy's, one a sub-volume; `range` is the clip range of the ratio.
    pub(super) fn new(ratio: &[f64], a: &[f32], log_odds: &[f64], kl: f64, range: [f64; 2]) -> Self {
        let mean = |values: &mut dyn Iterator<Item = f64>, n: usize| (values.sum::<f64>() / n.max(1) as f64) as f32;
        let cut = |by: &dyn Fn(f64, f32) -> bool| mean(&mut ratio.iter().zip(a).map(|(&r, &a)| f64::from(u8::from(by(r, a)))), ratio.len());
        let p = |z: &f64| 1.0 / (1.0 + (-z).exp());
        let entropy = |p: f64| [p, 1.0 - p].into_iter().filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum::<f64>();
        PolicyStats {
            ratio_mean: mean(&mut ratio.iter().copied(), ratio.len()),
            ratio_min: ratio.iter().copied().reduce(f64::min).unwrap_or(1.0) as f32,
            ratio_max: ratio.iter().copied().reduce(f64::max).unwrap_or(1.0) as f32,
            clip_low: cut(&|r, a| r < range[0] && a < 0.0),
            clip_high: cut(&|r, a| r > range[1] && a > 0.0),
            kl: kl as f32,
            entropy: mean(&mut log_odds.iter().map(|z| entropy(p(z))), log_odds.len()),
            select_probability: mean(&mut log_odds.iter().map(p), log_odds.len()),
        }
    }

    /// Names and values for the log, as TRL calls them.
    pub fn named(&self) -> [(&'static str, f32); 9] {
        let [entropy, select] = self.policy();
        [
            ("ratio/mean", self.ratio_mean),
            ("ratio/min", self.ratio_min),
            ("ratio/max", self.ratio_max),
            ("clip_ratio/low_mean", self.clip_low),
            ("clip_ratio/high_mean", self.clip_high),
            ("clip_ratio/region_mean", self.clip_low + self.clip_high),
            ("kl", self.kl),
            entropy,
            select,
        ]
    }

    /// What there is to say without a ratio.
    pub(super) fn policy(&self) -> [(&'static str, f32); 2] {
        [("entropy", self.entropy), ("select_probability", self.select_probability)]
    }
}

/// The log of an objective with rewards: theirs, the largest advantage, then `policy`.
pub(super) fn log(advantages: &Advantages, largest: &[f32], policy: &[(&'static str, f32)]) -> Vec<(&'static str, f32)> {
    let largest = largest.iter().fold(0.0, |most: f32, a| most.max(a.abs()));
    advantages.named().into_iter().chain([("advantage/max", largest)]).chain(policy.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use panscreen_envs::screening::SubVolume;

    fn observation() -> Observation {
        let windows = [4, 9, 4, 9].map(|group| SubVolume { scan: 0, start: [0; 3], lesions: vec![], group }).to_vec();
        Observation { index: 0, channels: 1, window: [1; 3], x: vec![0.0; 4], lesion: vec![0; 4], windows }
    }

    #[test]
    fn masks_give_a_sample_for_each_group_and_mask() {
        let selection = Selection { masks: vec![vec![true, false, false, true], vec![false, false, true, true]] };
        let outcome = Outcome { rewards: vec![0.1, 0.2, 0.3, 0.4], groups: vec![4, 4, 9, 9], ..Outcome::default() };
        let samples = Samples::new(Grouping::Masks, &observation(), &selection, &outcome);
        assert_eq!((samples.width, samples.len()), (2, 4));
        assert_eq!(samples.windows, [0, 2, 0, 2, 1, 3, 1, 3]);
        assert_eq!(samples.selected, [true, false, false, true, false, true, false, true]);
        let second = Rollout { samples, ..Rollout::default() }.minibatch(1, 2).samples;
        assert_eq!((second.windows, second.rewards, second.groups), (vec![0, 2, 1, 3], vec![0.2, 0.4], vec![4, 9]));
    }

    #[test]
    fn elsewhere_every_sub_volume_is_a_sample_of_select() {
        let outcome = Outcome { rewards: vec![1.0, 0.0, 0.0, 1.0], groups: vec![4, 9, 4, 9], ..Outcome::default() };
        let samples = Samples::new(Grouping::Volume, &observation(), &Selection::all(4), &outcome);
        assert_eq!((samples.width, samples.windows, samples.selected), (1, vec![0, 1, 2, 3], vec![true; 4]));
    }
}
