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
