//! What an action earns, from what Focus finds in the sub-volumes.

use serde::{Deserialize, Serialize};

use super::cached::{CachedScan, WindowSets};
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

    let (mut rewards, mut groups) = (Vec::new(), Vec::new());
    for (group, members, cached) in cached(observation, predicted) {
        let masks: Vec<Vec<bool>> = selection.masks.iter().map(|mask| members.iter().map(|&i| mask[i]).collect()).collect();
        let sets = WindowSets::of_masks(masks.iter().map(Vec::as_slice), members.len());
        rewards.extend(cached.outcomes(&sets).iter().map(|outcome| cached.reward(outcome, set)));
        groups.extend(selection.masks.iter().map(|_| group));
    }
    Outcome { rewards, groups, info }
}

/// Expected set reward of (leaving out, selecting) each sub-volume while the others of its group are selected with their `probabilities`, `[G]`.
pub fn both(observation: &Observation, predicted: &[u8], probabilities: &[f32], set: SetReward) -> Vec<[f32; 2]> {
    let mut all = vec![[0.0; 2]; observation.len()];
    for (_, members, cached) in cached(observation, predicted) {
        let p: Vec<f32> = members.iter().map(|&i| probabilities[i]).collect();
        members.iter().zip(cached.both(&p, &cached.price(set))).for_each(|(&i, both)| all[i] = both);
    }
    all
}

/// What Focus does in the sub-volumes of each group: (group, its sub-volumes, outcomes). A sub-volume without a lesion where Focus marks something
/// is a false alarm, and counts as its share of the group.
fn cached(observation: &Observation, predicted: &[u8]) -> Vec<(u32, Vec<usize>, CachedScan)> {
    let n = observation.voxels_per_window();
    let predicted = |i: usize| &predicted[i * n..(i + 1) * n];
    let of_group = |(group, members): (u32, Vec<usize>)| {
        let mut lesions: Vec<u8> = members.iter().flat_map(|&i| observation.windows[i].lesions.iter().copied()).collect();
        lesions.sort_unstable();
        lesions.dedup();
        let hits = |&i: &usize| {
            let mut touched = [false; 256];
            predicted(i).iter().zip(observation.lesion_of(i)).for_each(|(p, l)| touched[*l as usize] |= *p == 1);
            (0..lesions.len()).filter(|&l| touched[lesions[l] as usize]).collect()
        };
        let alarm = |&i: &usize| {
            let alarm = predicted(i).contains(&1) && observation.lesion_of(i).iter().all(|&l| l == 0);
            f32::from(u8::from(alarm)) / members.len() as f32
        };
        let hits: Vec<Vec<usize>> = members.iter().map(hits).collect();
        let false_alarm = members.iter().map(alarm).collect();
        // Crops do not show a lesion's size: one class.
        let cached = CachedScan::new(&hits, vec![0; lesions.len()], false_alarm);
        (group, members, cached)
    };
    observation.members().into_iter().map(of_group).collect()
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

    #[test]
    fn both_actions_are_worth_what_the_sets_with_and_without_earn() {
        let o = observation([1, 0, 0, 0, 2, 2, 0, 0]);
        let predicted = [1, 0, 1, 0, 0, 1, 0, 0];
        let cost = SetReward { window_cost: 0.4, false_alarm_cost: 0.2 };
        // The others are certain: sub-volume 0 is selected, 1 to 3 are not.
        let both = both(&o, &predicted, &[1.0, 0.0, 0.0, 0.0], cost);
        let expected = [[0.0, 0.5 - 0.1], [0.4, 0.5 - 0.2 - 0.05], [0.4, 1.0 - 0.2], [0.4, 0.5 - 0.2]];
        for (found, expected) in both.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() < 1e-6, "{both:?}");
        }
    }
}
