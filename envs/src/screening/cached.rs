//! Selections of whole scans on cached outcomes: Focus ran once on every window, and any number of selections is scored without it.
//!
//! A true group: the same scan, different selections. What Focus did is kept as bit sets over the windows, one a lesion, so that a selection's
//! recall is a few AND operations. [`volume::CachedVolume`] scores the blended mask instead.

mod dual;
mod table;
mod volume;

pub use dual::{Constraint, Dual};
pub use table::{TableBuilder, WindowTable};
pub use volume::{CachedVolume, VolumeInput};

use crate::rng::{Rng, Stream};

use super::SetReward;

/// Lesions below 1 mL, from 1 to below 10 mL, and from 10 mL.
pub const SIZE_CLASSES: usize = 3;

/// The class of a lesion of `ml`.
pub fn size_class(ml: f64) -> usize {
    usize::from(ml >= 1.0) + usize::from(ml >= 10.0)
}

/// Sets of the windows of one scan, one bit a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowSets {
    windows: usize,
    sets: usize,
    /// `[sets][words]`, window w is bit `w % 64` of word `w / 64`; bits beyond the windows are 0.
    words: Vec<u64>,
}

impl WindowSets {
    /// `sets` empty sets over `windows` windows.
    pub fn empty(sets: usize, windows: usize) -> Self {
        WindowSets { windows, sets, words: vec![0; sets * windows.div_ceil(64)] }
    }

    /// One set for each mask, `[sets][windows]`.
    pub fn of_masks<'a>(masks: impl ExactSizeIterator<Item = &'a [bool]>, windows: usize) -> Self {
        let mut sets = WindowSets::empty(masks.len(), windows);
        for (set, mask) in masks.enumerate() {
            assert_eq!(mask.len(), windows, "a mask has one choice for each window");
            mask.iter().enumerate().filter(|(_, m)| **m).for_each(|(w, _)| sets.insert(set, w));
        }
        sets
    }

    /// `sets` sets, each window in each of them with its probability, all independent.
    pub fn sample(probabilities: &[f32], sets: usize, rng: &mut Stream) -> Self {
        // p * 2^32 of the values of a u32 lie below it; from 1 on all do.
        let below: Vec<u64> = probabilities.iter().map(|&p| (f64::from(p) * 4_294_967_296.0) as u64).collect();
        let mut drawn = WindowSets::empty(sets, probabilities.len());
        for set in drawn.words.chunks_exact_mut(probabilities.len().div_ceil(64).max(1)) {
            for (word, below) in set.iter_mut().zip(below.chunks(64)) {
                for (bit, &below) in below.iter().enumerate() {
                    *word |= u64::from(u64::from(rng.next_u32()) < below) << bit;
                }
            }
        }
        drawn
    }

    /// Number of sets.
    pub fn len(&self) -> usize {
        self.sets
    }

    pub fn is_empty(&self) -> bool {
        self.sets == 0
    }

    pub fn insert(&mut self, set: usize, window: usize) {
        assert!(set < self.sets && window < self.windows, "window {window} of set {set}: there are {} and {}", self.windows, self.sets);
        let words = self.windows.div_ceil(64);
        self.words[set * words + window / 64] |= 1 << (window % 64);
    }

    /// The words of set `set`.
    pub fn row(&self, set: usize) -> &[u64] {
        let words = self.windows.div_ceil(64);
        &self.words[set * words..(set + 1) * words]
    }

    /// The windows in set `set`, ascending.
    pub fn windows(&self, set: usize) -> impl Iterator<Item = usize> + '_ {
        bits(self.row(set).iter().copied())
    }
}

/// Positions of the bits that are 1.
fn bits(words: impl Iterator<Item = u64>) -> impl Iterator<Item = usize> {
    words.enumerate().flat_map(|(i, mut word)| {
        std::iter::from_fn(move || {
            let bit = word.trailing_zeros();
            word &= word.wrapping_sub(1);
            (bit < 64).then_some(i * 64 + bit as usize)
        })
    })
}

/// What Focus does in every window of a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedScan {
    windows: usize,
    /// Set l: the windows in which Focus marks a voxel of lesion l.
    hits: WindowSets,
    /// Size class of each lesion.
    class: Vec<usize>,
    /// What a false alarm in each window counts, `[windows]`.
    false_alarm: Vec<f32>,
    /// The windows with a false alarm.
    alarms: WindowSets,
}

/// What a selection of windows found and cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SetOutcome {
    /// Lesions found, by size class.
    pub found: [u32; SIZE_CLASSES],
    pub windows_used: u32,
    /// Sum over the selected windows: false-alarm volume in mL for a whole scan. Where windows overlap, what both mark counts twice.
    pub false_alarm: f32,
}

impl CachedScan {
    /// `hits[w]` lists the lesions (from 0) that Focus hits in window w, `false_alarm[w]` is what a false alarm there counts, `class` holds the
    /// size class of every lesion.
    pub fn new(hits: &[Vec<usize>], class: Vec<usize>, false_alarm: Vec<f32>) -> Self {
        let windows = hits.len();
        assert_eq!(false_alarm.len(), windows, "one false-alarm figure for each window");
        assert!(class.iter().all(|&c| c < SIZE_CLASSES), "size classes are 0 to {}", SIZE_CLASSES - 1);
        let (mut of_lesion, mut alarms) = (WindowSets::empty(class.len(), windows), WindowSets::empty(1, windows));
        for (w, lesions) in hits.iter().enumerate() {
            lesions.iter().for_each(|&l| of_lesion.insert(l, w));
            if false_alarm[w] != 0.0 {
                alarms.insert(0, w);
            }
        }
        CachedScan { windows, hits: of_lesion, class, false_alarm, alarms }
    }

    /// From Focus's mask of every window, 1 on what it marks: `masks[w]` is `[window]` at `starts[w]`, as far as that lies inside the scan.
    ///
    /// `lesion`: number of the lesion (from 1) at each voxel, 0 outside, C order over `shape`. `voxel_ml`: volume of a voxel.
    pub fn of_masks(lesion: &[u8], shape: [usize; 3], voxel_ml: f64, window: [usize; 3], starts: &[[usize; 3]], masks: &[Vec<u8>]) -> Self {
        assert_eq!(lesion.len(), shape.iter().product::<usize>(), "lesions of another shape");
        assert_eq!(starts.len(), masks.len(), "one mask for each window");
        let mut voxels = [0_u64; 256];
        lesion.iter().for_each(|&l| voxels[l as usize] += 1);
        let lesions = (1..256).rev().find(|&l| voxels[l] > 0).unwrap_or(0);
        let class = (1..=lesions).map(|l| size_class(voxels[l] as f64 * voxel_ml)).collect();
        let of_window = |(start, mask): (&[usize; 3], &Vec<u8>)| {
            let mut marked = [0_u64; 256];
            for_each_inside(shape, window, *start, |there, here| marked[lesion[there] as usize] += u64::from(mask[here] == 1));
            ((0..lesions).filter(|l| marked[l + 1] > 0).collect::<Vec<_>>(), (marked[0] as f64 * voxel_ml) as f32)
        };
        let (hits, false_alarm): (Vec<_>, Vec<_>) = starts.iter().zip(masks).map(of_window).unzip();
        CachedScan::new(&hits, class, false_alarm)
    }

    /// Number of windows.
    pub fn windows(&self) -> usize {
        self.windows
    }

    /// Lesions, by size class.
    pub fn lesions(&self) -> [u32; SIZE_CLASSES] {
        let mut count = [0; SIZE_CLASSES];
        self.class.iter().for_each(|&c| count[c] += 1);
        count
    }

    /// Set l: the windows in which Focus hits lesion l.
    pub fn hits(&self) -> &WindowSets {
        &self.hits
    }

    /// What each of `sets` found and cost.
    pub fn outcomes(&self, sets: &WindowSets) -> Vec<SetOutcome> {
        assert_eq!(sets.windows, self.windows, "sets over another number of windows");
        (0..sets.len()).map(|s| self.outcome(sets.row(s))).collect()
    }

    fn outcome(&self, set: &[u64]) -> SetOutcome {
        let both = |row: &[u64]| row.iter().zip(set).fold(0, |any, (a, b)| any | (a & b)) != 0;
        let mut found = [0; SIZE_CLASSES];
        for (l, &class) in self.class.iter().enumerate() {
            found[class] += u32::from(both(self.hits.row(l)));
        }
        let alarms = bits(self.alarms.row(0).iter().zip(set).map(|(a, b)| a & b));
        SetOutcome { found, windows_used: set.iter().map(|w| w.count_ones()).sum(), false_alarm: alarms.map(|w| self.false_alarm[w]).sum() }
    }

    /// Recall less costs: lesions found as a share, `window_cost` times the share of the windows used, `false_alarm_cost` times the false alarms.
    /// A scan without lesions has recall 0.
    pub fn price(&self, reward: SetReward) -> Price {
        Price {
            of_lesion: [share(1, self.class.len()) as f32; SIZE_CLASSES],
            of_window: (f64::from(reward.window_cost) * share(1, self.windows)) as f32,
            of_false_alarm: reward.false_alarm_cost,
        }
    }

    /// [`price`](Self::price) of what a selection found and cost.
    pub fn reward(&self, outcome: &SetOutcome, reward: SetReward) -> f32 {
        // Shares as such: thirds that were summed up would differ in the last bit.
        let share = |part: u32, all: usize| if all == 0 { 0.0 } else { part as f32 / all as f32 };
        share(outcome.found.iter().sum(), self.class.len())
            - reward.window_cost * share(outcome.windows_used, self.windows)
            - reward.false_alarm_cost * outcome.false_alarm
    }

    /// Expected worth at `price` of (leaving out, using) each window while every other one is used with its probability, independently.
    pub fn both(&self, probabilities: &[f32], price: &Price) -> Vec<[f32; 2]> {
        assert_eq!(probabilities.len(), self.windows, "one probability for each window");
        let p: Vec<f64> = probabilities.iter().map(|&p| f64::from(p)).collect();
        let cost = |w: usize| f64::from(price.of_window) + f64::from(price.of_false_alarm) * f64::from(self.false_alarm[w]);
        // Without any window: all costs paid with their probability, each lesion missed unless another window hits it.
        let costs: f64 = (0..self.windows).map(|w| p[w] * cost(w)).sum();
        let mut missed_without: Vec<f64> = vec![0.0; self.windows];
        let mut found = 0.0;
        for (l, &class) in self.class.iter().enumerate() {
            let of_lesion = f64::from(price.of_lesion[class]);
            let windows: Vec<usize> = self.hits.windows(l).collect();
            // The product over the others is that of those before and those after: a window that is certain divides by nothing.
            let mut after = vec![1.0; windows.len() + 1];
            for (i, &w) in windows.iter().enumerate().rev() {
                after[i] = after[i + 1] * (1.0 - p[w]);
            }
            let mut before = 1.0;
            for (i, &w) in windows.iter().enumerate() {
                missed_without[w] += before * after[i + 1] * of_lesion;
                before *= 1.0 - p[w];
            }
            found += (1.0 - before) * of_lesion;
        }
        let both = |w: usize| {
            // Using w finds what the others miss: a share p of that is in `found` already.
            let gain = missed_without[w];
            let without = found - p[w] * gain - (costs - p[w] * cost(w));
            [without as f32, (without + gain - cost(w)) as f32]
        };
        (0..self.windows).map(both).collect()
    }
}

/// What a selection is worth, as far as that is a sum: a value for each lesion found by its size class, less a price for each window used and
/// for each unit of false alarm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    pub of_lesion: [f32; SIZE_CLASSES],
    pub of_window: f32,
    pub of_false_alarm: f32,
}

impl Price {
    /// Of one selection.
    pub fn worth(&self, outcome: &SetOutcome) -> f32 {
        let found: f32 = outcome.found.iter().zip(self.of_lesion).map(|(&n, value)| n as f32 * value).sum();
        found - self.of_window * outcome.windows_used as f32 - self.of_false_alarm * outcome.false_alarm
    }
}

fn share(part: usize, all: usize) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

/// Calls `each(voxel of the scan, voxel of the window)` for every voxel of the window at `start` that lies inside the scan.
fn for_each_inside(shape: [usize; 3], window: [usize; 3], start: [usize; 3], mut each: impl FnMut(usize, usize)) {
    let extent: [usize; 3] = std::array::from_fn(|a| window[a].min(shape[a].saturating_sub(start[a])));
    for x in 0..extent[0] {
        for y in 0..extent[1] {
            let here = (x * window[1] + y) * window[2];
            let there = ((start[0] + x) * shape[1] + start[1] + y) * shape[2] + start[2];
            (0..extent[2]).for_each(|z| each(there + z, here + z));
        }
    }
}

#[cfg(test)]
mod tests;
