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
    fn floor_and_clamp_bound_advantages() {
        let tight = of(&[0.5, 0.501], &[0, 0]);
        check_close("floor", &wide(&tight.values), &[-0.05, 0.05], 1e-4);
        let mut rewards = [0.0; 100];
        rewards[0] = 1.0;
        assert_eq!(of(&rewards, &[0; 100]).values[0], 5.0);
    }
}
