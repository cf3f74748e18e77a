//! From windows to a probability per voxel: Glance on all, Focus on the chosen, blended.

use panscreen_envs::screening::blend::{Blend, flat, gaussian};
use panscreen_envs::screening::windows::{gf_screen_grid, grid};
use panscreen_envs::volume::components::{Components, Connectivity};
use panscreen_envs::volume::runs::Runs;

use crate::config::{self, Denominator, ScreenConfig};

/// Windows chosen for Focus are those that pass a threshold, a fixed share of the best, or all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// Every window: Focus everywhere.
    All,
    /// Windows whose Glance probability is above this.
    Above(f32),
    /// This share of the windows, the best first; at least one.
    Best(f64),
}

impl Choice {
    /// Whether each window is chosen, by its Glance probability.
    pub fn select(self, glance: &[f32]) -> Vec<bool> {
        match self {
            Choice::All => vec![true; glance.len()],
            Choice::Above(threshold) => glance.iter().map(|&p| p > threshold).collect(),
            Choice::Best(fraction) => {
                let wanted = ((glance.len() as f64 * fraction).round() as usize).clamp(1, glance.len());
                let mut order: Vec<usize> = (0..glance.len()).collect();
                order.sort_by(|&a, &b| glance[b].total_cmp(&glance[a]));
                let mut chosen = vec![false; glance.len()];
                order[..wanted].iter().for_each(|&i| chosen[i] = true);
                chosen
            }
        }
    }
}

/// How the windows of a scan are laid, chosen and put together. Shapes are voxels of the prepared grid.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shape: [usize; 3],
    pub window: [usize; 3],
    pub starts: Vec<[usize; 3]>,
    importance: Vec<f32>,
    denominator: Denominator,
    glance_weight: f32,
    second_look: bool,
    /// Windows go to Focus by their probability: what is not looked at in time is the least probable.
    best_first: bool,
    mask_threshold: f32,
}

impl Plan {
    pub fn new(shape: [usize; 3], window: [usize; 3], config: &ScreenConfig) -> Self {
        let published = config.blend == config::Blend::Flat;
        Plan {
            shape,
            window,
            starts: if published { gf_screen_grid(shape, window, config.overlap) } else { grid(shape, window, config.overlap) },
            importance: if published { flat(window) } else { gaussian(window, 0.125) },
            denominator: config.denominator,
            glance_weight: config.glance_weight as f32,
            second_look: config.second_look,
            best_first: config.budget_seconds.is_some(),
            mask_threshold: config.mask_threshold as f32,
        }
    }

    /// Choose windows by `glance` (their probabilities), let `focus` segment them, and blend.
    ///
    /// `focus` gets window numbers and returns the lesion probability of each, `[window]`, or of the first of them where its time is spent. With `second_look`, every place where the chosen
    /// windows see a lesion is looked at again through all windows that cover its centre, so that a false alarm of one window
    /// is outvoted by its neighbours as it would be if Focus had looked everywhere.
    pub fn run<E>(&self, glance: &[f32], choice: Choice, mut focus: impl FnMut(&[usize]) -> Result<Vec<Vec<f32>>, E>) -> Result<Looked, E> {
        let mut kept = choice.select(glance);
        let mut seen: Vec<Option<Vec<f32>>> = vec![None; self.starts.len()];
        let mut look = |numbers: &[usize], seen: &mut Vec<Option<Vec<f32>>>| -> Result<(), E> {
            for (&i, p) in numbers.iter().zip(focus(numbers)?) {
                seen[i] = Some(p);
            }
            Ok(())
        };
        let mut first: Vec<usize> = (0..kept.len()).filter(|&i| kept[i]).collect();
        if self.best_first {
            first.sort_by(|&a, &b| glance[b].total_cmp(&glance[a]));
        }
        look(&first, &mut seen)?;
        let mut probability = self.blend(glance, &seen);
        if self.second_look && choice != Choice::All {
            let again: Vec<usize> = self.covering_findings(&probability).into_iter().filter(|&i| !kept[i]).collect();
            if !again.is_empty() {
                look(&again, &mut seen)?;
                probability = self.blend(glance, &seen);
            }
        }
        let wanted = first.len();
        kept.iter_mut().zip(&seen).for_each(|(kept, seen)| *kept = seen.is_some());
        let left = first.iter().filter(|&&i| !kept[i]).count();
        Ok(Looked { kept, probability, wanted, left })
    }

    fn blend(&self, glance: &[f32], seen: &[Option<Vec<f32>>]) -> Vec<f32> {
        let mut blend = Blend::new(self.shape, self.window, self.importance.clone());
        for (i, p) in seen.iter().enumerate() {
            let weight = if self.glance_weight > 0.0 { glance[i].powf(self.glance_weight) } else { 1.0 };
            match p {
                Some(p) => blend.add(self.starts[i], p, weight),
                None if self.denominator == Denominator::Covering => blend.add_constant(self.starts[i], 0.0, 1.0),
                None => {}
            }
        }
        blend.finish()
    }

    /// Mean Glance probability of the windows over each voxel of the prepared grid.
    pub fn heat(&self, glance: &[f32]) -> Vec<f32> {
        let mut blend = Blend::new(self.shape, self.window, flat(self.window));
        for (start, &p) in self.starts.iter().zip(glance) {
            blend.add_constant(*start, p, 1.0);
        }
        blend.finish()
    }

    /// Windows that hold the centre voxel of something that would be called a lesion now.
    fn covering_findings(&self, probability: &[f32]) -> Vec<usize> {
        let mask: Vec<u8> = probability.iter().map(|&p| (p > self.mask_threshold) as u8).collect();
        let found = Components::of(&Runs::of(&mask, self.shape), Connectivity::Corner);
        let centres: Vec<[usize; 3]> = found.parts.iter().map(|c| c.centroid.map(|v| v.round() as usize)).collect();
        let holds = |s: &[usize; 3], c: &[usize; 3]| (0..3).all(|a| c[a] >= s[a] && c[a] < s[a] + self.window[a]);
        (0..self.starts.len()).filter(|&i| centres.iter().any(|c| holds(&self.starts[i], c))).collect()
    }
}

/// What looking gave.
#[derive(Clone, Debug)]
pub struct Looked {
    /// Windows that Focus segmented.
    pub kept: Vec<bool>,
    /// Lesion probability per voxel of the prepared grid.
    pub probability: Vec<f32>,
    /// Windows that were chosen, and those of them that there was no time for.
    pub wanted: usize,
    pub left: usize,
}

impl Looked {
    pub fn windows_kept(&self) -> usize {
        self.kept.iter().filter(|k| **k).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        let p = [0.1, 0.9, 0.5, 0.5];
        for (choice, expected) in [
            (Choice::All, [true; 4]),
            (Choice::Above(0.5), [false, true, false, false]),
            (Choice::Best(0.5), [false, true, true, false]),
            (Choice::Best(0.0), [false, true, false, false]),
        ] {
            assert_eq!(choice.select(&p), expected, "{choice:?}");
        }
    }

    fn plan(second_look: bool, denominator: Denominator) -> Plan {
        let config = ScreenConfig {
            overlap: 0.5,
            blend: config::Blend::Flat,
            denominator,
            second_look,
            glance_weight: 0.0,
            ..ScreenConfig::default()
        };
        Plan::new([1, 1, 8], [1, 1, 4], &config)
    }

    /// One window of three cries wolf at voxels 4 and 5.
    fn wolf(numbers: &[usize]) -> Result<Vec<Vec<f32>>, ()> {
        Ok(numbers.iter().map(|&i| if i == 1 { vec![0.0, 0.0, 0.9, 0.9] } else { vec![0.0; 4] }).collect())
    }

    #[test]
    fn time_is_spent_on_the_most_probable_windows() {
        let config = ScreenConfig { blend: config::Blend::Flat, second_look: false, budget_seconds: Some(1.0), ..ScreenConfig::default() };
        let plan = Plan::new([1, 1, 8], [1, 1, 4], &config);
        let one = |numbers: &[usize]| Ok::<_, ()>(numbers.iter().take(1).map(|_| vec![0.9; 4]).collect());
        let looked = plan.run(&[0.6, 0.7, 0.9], Choice::Above(0.5), one).unwrap();
        assert_eq!((looked.kept, looked.wanted, looked.left), (vec![false, false, true], 3, 2));
    }

    #[test]
    fn a_second_look_outvotes_a_false_alarm_as_focus_everywhere_does() {
        let glance = [0.1, 0.9, 0.1];
        let everywhere = plan(false, Denominator::Kept).run(&glance, Choice::All, wolf).unwrap();
        assert_eq!(everywhere.probability[4], 0.45);
        let once = plan(false, Denominator::Kept).run(&glance, Choice::Above(0.5), wolf).unwrap();
        assert_eq!((once.probability[4], once.windows_kept()), (0.9, 1));
        let twice = plan(true, Denominator::Kept).run(&glance, Choice::Above(0.5), wolf).unwrap();
        assert_eq!((twice.probability[4], twice.windows_kept()), (0.45, 2));
        let covering = plan(false, Denominator::Covering).run(&glance, Choice::Above(0.5), wolf).unwrap();
        assert_eq!((covering.probability[4], covering.windows_kept()), (0.45, 1));
    }
}
