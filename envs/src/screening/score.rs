//! What an action earns, from what Focus finds in the sub-volumes.

use serde::{Deserialize, Serialize};

use super::{Grouping, Observation, Selection};
use crate::rewards::Reward;

/// Reward of a set of sub-volumes of one scan ([`Grouping::Masks`]):
/// share of the lesions that Focus marks in a chosen sub-volume, minus what the look costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SetReward {
    /// Cost of choosing every sub-volume (a share of them costs that share). At least 0, default 0.3.
    pub window_cost: f32,
    /// Cost of choosing every false alarm, sub-volumes where Focus marks something and no lesion is. At least 0, default 0.3.
    pub false_alarm_cost: f32,
}

impl Default for SetReward {
    fn default() -> Self {
        SetReward { window_cost: 0.3, false_alarm_cost: 0.3 }
    }
}

/// What happened in the chosen sub-volumes. Counts are over all masks of the selection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Chosen sub-volumes with a lesion that Focus touched.
    pub hits: usize,
    /// Sub-volumes with a lesion that were not chosen, or chosen and not touched by Focus.
    pub misses: usize,
    /// Chosen sub-volumes without a lesion where Focus marked something.
    pub false_alarms: usize,
    /// Chosen sub-volumes.
    pub windows_used: usize,
}

/// Rewards of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// One reward per action: `[G]` for [`Grouping::Batch`] and [`Grouping::Volume`]; `[groups][masks]` for [`Grouping::Masks`].
    pub rewards: Vec<f32>,
    /// The group in which each reward is compared.
    pub groups: Vec<u32>,
    pub info: Info,
}

/// Score a selection. `predicted`: Focus's mask of every sub-volume, 1 on what it marks, `[G][window]`.
///
/// For [`Grouping::Batch`] and [`Grouping::Volume`] every sub-volume earns `reward` whether it was chosen or not: the published objective
/// compares sub-volumes, it doesn't sample actions (dossier B.1 #1).
pub fn score(
    grouping: Grouping,
    observation: &Observation,
    selection: &Selection,
    predicted: &[u8],
    reward: &dyn Reward,
    set: SetReward,
) -> Outcome {
    let n = observation.voxels_per_window();
    let lesion: Vec<u8> = observation.lesion.iter().map(|&v| (v > 0) as u8).collect();
    let pairs = || predicted.chunks_exact(n).zip(lesion.chunks_exact(n));
    let hit: Vec<bool> = pairs().map(|(p, l)| p.iter().zip(l).any(|(p, l)| p & l == 1)).collect();
    let marked: Vec<bool> = predicted.chunks_exact(n).map(|p| p.contains(&1)).collect();
    let diseased: Vec<bool> = observation.targets();

    let mut info = Info::default();
    for mask in &selection.masks {
        for (i, &chosen) in mask.iter().enumerate() {
            info.windows_used += chosen as usize;
            info.hits += (chosen && hit[i]) as usize;
            info.misses += (diseased[i] && !(chosen && hit[i])) as usize;
            info.false_alarms += (chosen && marked[i] && !diseased[i]) as usize;
        }
    }

    if grouping != Grouping::Masks {
        return Outcome { rewards: pairs().map(|(p, l)| reward.score(p, l)).collect(), groups: observation.groups(), info };
    }

    // Which lesions Focus touches in each sub-volume, as a bit set over the 256 lesion numbers.
    let touched: Vec<[u64; 4]> = predicted
        .chunks_exact(n)
        .zip(observation.lesion.chunks_exact(n))
        .map(|(p, l)| {
            let mut bits = [0u64; 4];
            p.iter().zip(l).filter(|(p, l)| **p == 1 && **l > 0).for_each(|(_, l)| bits[*l as usize / 64] |= 1 << (l % 64));
            bits
        })
        .collect();
    let (mut rewards, mut groups) = (Vec::new(), Vec::new());
    for (group, members) in observation.members() {
        let mut lesions: Vec<u8> = members.iter().flat_map(|&i| observation.windows[i].lesions.iter().copied()).collect();
        lesions.sort_unstable();
        lesions.dedup();
        for mask in &selection.masks {
            let chosen = || members.iter().copied().filter(|&i| mask[i]);
            let mut found = [0u64; 4];
            chosen().for_each(|i| (0..4).for_each(|w| found[w] |= touched[i][w]));
            let found: u32 = found.iter().map(|w| w.count_ones()).sum();
            let recall = if lesions.is_empty() { 0.0 } else { found as f32 / lesions.len() as f32 };
            let share = |count: usize| count as f32 / members.len() as f32;
            let alarms = chosen().filter(|&i| marked[i] && !diseased[i]).count();
            rewards.push(recall - set.window_cost * share(chosen().count()) - set.false_alarm_cost * share(alarms));
            groups.push(group);
        }
    }
    Outcome { rewards, groups, info }
}

#[cfg(test)]
mod tests {
    use super::super::SubVolume;
    use super::*;
    use crate::rewards::by_name;

    /// Four windows of two voxels of one scan; lesion numbers and predictions as given.
    fn observation(lesion: [u8; 8]) -> Observation {
        let windows = lesion.chunks(2).map(|w| {
            let mut lesions: Vec<u8> = w.iter().copied().filter(|&v| v > 0).collect();
            lesions.dedup();
            SubVolume { scan: 0, start: [0; 3], lesions, group: 0 }
        });
        Observation { index: 0, channels: 1, window: [1, 1, 2], x: vec![0.0; 8], windows: windows.collect(), lesion: lesion.to_vec() }
    }

    #[test]
    fn each_sub_volume_earns_its_own_reward() {
        let o = observation([1, 0, 0, 0, 2, 2, 0, 0]);
        let predicted = [1, 0, 1, 0, 0, 0, 0, 0];
        let out = score(Grouping::Batch, &o, &Selection::all(4), &predicted, &*by_name("any_overlap").unwrap(), SetReward::default());
        assert_eq!(out.rewards, [1.0, 0.0, 0.0, 0.0]);
        assert_eq!(out.info, Info { hits: 1, misses: 1, false_alarms: 1, windows_used: 4 });
    }

    #[test]
    fn a_set_earns_its_recall_minus_its_cost() {
        let o = observation([1, 0, 0, 0, 2, 2, 0, 0]);
        let predicted = [1, 0, 1, 0, 0, 1, 0, 0];
        let selection =
            Selection { masks: vec![vec![true, false, true, false], vec![true, true, false, false], vec![false; 4], vec![true; 4]] };
        let cost = SetReward { window_cost: 0.4, false_alarm_cost: 0.2 };
        let out = score(Grouping::Masks, &o, &selection, &predicted, &*by_name("any_overlap").unwrap(), cost);
        assert_eq!(out.rewards, [1.0 - 0.2, 0.5 - 0.2 - 0.05, 0.0, 1.0 - 0.4 - 0.05]);
        assert_eq!(out.groups, [0; 4]);
    }
}
