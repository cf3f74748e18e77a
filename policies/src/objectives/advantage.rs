//! Group-relative advantages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How rewards become advantages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdvantageConfig {
    /// Smallest standard deviation that a group is divided by, in units of the reward, > 0. Default 0.01. With 0/1 rewards it only prevents 0/0.
    pub std_floor: f64,
    /// Advantages are cut to [-clamp, clamp], > 0. Default 5. Groups of at most 25 never reach 5.
    pub clamp: f64,
}

impl Default for AdvantageConfig {
    fn default() -> Self {
        Self { std_floor: 0.01, clamp: 5.0 }
    }
}

impl AdvantageConfig {
    /// Names the first value out of its range.
    pub fn check(&self) -> Result<(), String> {
        for (key, value) in [("std_floor", self.std_floor), ("clamp", self.clamp)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("`{key}` is {value}, expected a number > 0"));
            }
        }
        Ok(())
    }
}

/// Advantages and the statistics of the rewards that they came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// One value a sub-volume, in the order of the rewards.
    pub values: Vec<f32>,
    /// Mean of all rewards.
    pub reward: f32,
    /// Mean over the groups of the standard deviation of their rewards.
    pub reward_std: f32,
    /// Share of the groups whose rewards are all equal: they teach nothing.
    pub frac_reward_zero_std: f32,
}

impl Advantages {
    /// Names and values for the log, as TRL calls them.
    pub fn named(&self) -> [(&'static str, f32); 3] {
        [("reward", self.reward), ("reward_std", self.reward_std), ("frac_reward_zero_std", self.frac_reward_zero_std)]
    }
}

/// `clamp((r - mean) / max(std, floor))` within each group, standard deviation with n - 1.
///
/// `groups` holds the group id of each reward, any numbers in any order; the published "group = whole batch" is one id for all. A group of
/// one has deviation 0 and so advantage 0. Source: GF-Screen (ICLR 2026).
pub fn advantages(rewards: &[f32], groups: &[u32], config: &AdvantageConfig) -> Advantages {
    assert_eq!(rewards.len(), groups.len(), "advantages: one group id for each reward");
    let mut members: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, &group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(i);
    }
    let mut values = vec![0.0; rewards.len()];
    let (mut std_sum, mut flat) = (0.0, 0.0);
    for indices in members.values() {
        let n = indices.len() as f64;
        let mean = indices.iter().map(|&i| f64::from(rewards[i])).sum::<f64>() / n;
        let squares: f64 = indices.iter().map(|&i| (f64::from(rewards[i]) - mean).powi(2)).sum();
        let std = (squares / (n - 1.0).max(1.0)).sqrt();
        // Compared directly: a mean of equal values can differ from them in its last bit.
        if indices.iter().all(|&i| rewards[i] == rewards[indices[0]]) {
            flat += 1.0;
            continue;
        }
        std_sum += std;
        for &i in indices {
            let a = (f64::from(rewards[i]) - mean) / std.max(config.std_floor);
            values[i] = a.clamp(-config.clamp, config.clamp) as f32;
        }
    }
    let groups = members.len().max(1) as f64;
    let reward = rewards.iter().map(|&r| f64::from(r)).sum::<f64>() / rewards.len().max(1) as f64;
    Advantages { values, reward: reward as f32, reward_std: (std_sum / groups) as f32, frac_reward_zero_std: (flat / groups) as f32 }
}

/// What rewards are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Baseline {
    /// The mean of the group.
    Mean,
    /// The mean of the others of the group.
    LeaveOneOut,
}

/// What differences from the baseline are divided by, as in TRL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The standard deviation of the group: groups weigh alike, hard ones and easy ones.
    #[default]
    Group,
    /// The standard deviation of all rewards of the step.
    Batch,
    /// Nothing.
    None,
}

/// Keeps the division by a standard deviation finite, as in TRL.
const STD_TINY: f64 = 1e-4;

/// `(r - baseline) / (std + 1e-4)`, standard deviation with n - 1: the advantages of GRPO and its kin.
///
/// # Errors
/// A group of one has nothing to be compared with, and is refused.
pub(super) fn compared(rewards: &[f32], groups: &[u32], baseline: Baseline, scale: ScaleRewards) -> Result<Advantages, String> {
    // Equal groups are counted as everywhere, and the means and deviations are those of the published form.
    let seen = advantages(rewards, groups, &AdvantageConfig::default());
    let mut members: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (&group, &r) in groups.iter().zip(rewards) {
        members.entry(group).or_default().push(f64::from(r));
    }
    if let Some(group) = members.iter().find(|(_, m)| m.len() < 2).map(|(g, _)| g) {
        return Err(format!(
            "group {group} has one reward, expected 2 or more to compare; raise `objective.masks` or `env.crops_per_volume`"
        ));
    }
    let of_batch = std(&rewards.iter().map(|&r| f64::from(r)).collect::<Vec<_>>());
    let stats: BTreeMap<u32, [f64; 3]> = members.into_iter().map(|(g, m)| (g, [m.len() as f64, mean(&m), std(&m)])).collect();
    let value = |(&r, group): (&f32, &u32)| {
        let [n, mean, std] = stats[group];
        let over = f64::from(r) - mean;
        let over = if baseline == Baseline::LeaveOneOut { over * n / (n - 1.0) } else { over };
        (match scale {
            ScaleRewards::Group => over / (std + STD_TINY),
            ScaleRewards::Batch => over / (of_batch + STD_TINY),
            ScaleRewards::None => over,
        }) as f32
    };
    Ok(Advantages { values: rewards.iter().zip(groups).map(value).collect(), ..seen })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn std(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0).max(1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::golden::{check_close, losses, numbers, singles};

    fn of(rewards: &[f32], groups: &[u32]) -> Advantages {
        advantages(rewards, groups, &AdvantageConfig::default())
    }

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&v| f64::from(v)).collect()
    }

    #[test]
    fn k_rewarded_of_16_equals_the_published_code() {
        for row in losses()["advantage_k_of_16"].as_array().unwrap() {
            let k = row["k"].as_u64().unwrap() as usize;
            let rewards: Vec<f32> = (0..16).map(|i| f32::from(u8::from(i < k))).collect();
            let found = of(&rewards, &[0; 16]);
            let (pos, neg) = (row["pos"].as_f64().unwrap(), row["neg"].as_f64().unwrap());
            let expected: Vec<f64> = (0..16).map(|i| if i < k { pos } else { neg }).collect();
            check_close(&format!("k = {k}"), &wide(&found.values), &expected, 1e-6);
            check_close(&format!("std, k = {k}"), &[f64::from(found.reward_std)], &[row["std"].as_f64().unwrap()], 1e-6);
            assert_eq!(found.frac_reward_zero_std, f32::from(u8::from(k == 0 || k == 16)));
        }
        for case in losses()["gf_screen"]["cases"].as_array().unwrap() {
            let rewards = singles(&case["reward"]);
            let found = of(&rewards, &vec![7; rewards.len()]);
            check_close(case["id"].as_str().unwrap(), &wide(&found.values), &numbers(&case["advantage"]), 1e-6);
        }
    }

    #[test]
    fn groups_stand_alone_whatever_their_order() {
        let (a, b) = ([1.0, 0.0, 0.0, 1.0], [0.25, 0.5, 0.75, 0.5]);
        let (alone_a, alone_b) = (of(&a, &[3; 4]), of(&b, &[9; 4]));
        let mixed = of(&[a[0], b[0], b[1], a[1], a[2], b[2], a[3], b[3]], &[3, 9, 9, 3, 3, 9, 3, 9]);
        let pick = |indices: [usize; 4]| indices.map(|i| mixed.values[i]).to_vec();
        assert_eq!(pick([0, 3, 4, 6]), alone_a.values);
        assert_eq!(pick([1, 2, 5, 7]), alone_b.values);
        assert_eq!(mixed.reward_std, (alone_a.reward_std + alone_b.reward_std) / 2.0);
    }

    #[test]
    fn groups_that_teach_nothing_have_advantage_zero() {
        let found = of(&[0.1, 0.1, 0.1, 1.0, 0.0, 1.0], &[0, 0, 0, 1, 2, 2]);
        assert_eq!(found.values[..4], [0.0; 4]);
        assert!(found.values[4] < 0.0 && found.values[5] > 0.0);
        check_close("zero-std share", &[f64::from(found.frac_reward_zero_std)], &[2.0 / 3.0], 1e-6);
        assert_eq!(of(&[], &[]).reward, 0.0);
    }

    #[test]
    fn rewards_are_compared_within_their_group() {
        let (rewards, groups) = ([1.0, 0.0, 3.0, 1.0], [0, 0, 1, 1]);
        let of = |baseline, scale| wide(&compared(&rewards, &groups, baseline, scale).unwrap().values);
        // Deviations: 0.7071 and 1.4142 within the groups, 1.2583 over all.
        for (baseline, scale, expected) in [
            (Baseline::Mean, ScaleRewards::None, [0.5, -0.5, 1.0, -1.0]),
            (Baseline::LeaveOneOut, ScaleRewards::None, [1.0, -1.0, 2.0, -2.0]),
            (Baseline::Mean, ScaleRewards::Group, [0.707007, -0.707007, 0.707057, -0.707057]),
            (Baseline::Mean, ScaleRewards::Batch, [0.397328, -0.397328, 0.794656, -0.794656]),
        ] {
            check_close(&format!("{baseline:?} {scale:?}"), &of(baseline, scale), &expected, 1e-5);
        }
        let error = compared(&rewards, &[0, 0, 1, 2], Baseline::Mean, ScaleRewards::Group).unwrap_err();
        assert!(error.contains("group 1 has one reward"), "{error}");
    }

    #[test]
    fn floor_and_clamp_bound_advantages() {
        let tight = of(&[0.5, 0.501], &[0, 0]);
        check_close("floor", &wide(&tight.values), &[-0.05, 0.05], 1e-4);
        let mut rewards = [0.0; 100];
        rewards[0] = 1.0;
        assert_eq!(of(&rewards, &[0; 100]).values[0], 5.0);
    }
}
