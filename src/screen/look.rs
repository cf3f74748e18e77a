//! Looking: Focus on the chosen windows, second looks and wider windows, within a budget; one probability a voxel.

use std::collections::BTreeSet;
use std::time::Instant;

use panscreen_envs::screening::blend::Blend;
use panscreen_envs::volume::components::{Component, Components, Connectivity};
use panscreen_envs::volume::runs::Runs;
use serde::{Deserialize, Serialize};

use super::{Budget, Choice, Glanced, Place, Plan};
use crate::config::Denominator;

/// Share of a grid's say about a finding's centre that second looks of a search have, and looks through wider windows: with Gaussian weights one or two
/// windows have nearly all of it, and the others would be looked at for nothing.
const SECOND_SAY: f32 = 0.9;

/// What looking gave.
#[derive(Clone, Debug)]
pub struct Looked {
    /// Windows of the plan that Focus segmented, wider ones last.
    pub kept: Vec<bool>,
    /// Lesion probability per voxel of the prepared grid.
    pub probability: Vec<f32>,
    /// Windows that would have been looked at without a budget, as far as is known.
    pub skipped: usize,
}

/// What Focus did not look at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Left {
    /// Windows that the budget left out, as far as is known.
    pub windows: usize,
    /// Share of the lesions that Glance expects outside every window that Focus saw: an estimate, from probabilities calibrated on the
    /// validation scans. Where Glance wasn't asked every place counts the same.
    pub lesions_expected: f64,
}

impl Looked {
    pub fn windows_kept(&self) -> usize {
        self.kept.iter().filter(|k| **k).count()
    }
}

impl Plan {
    /// Choose windows by what Glance said, let `focus` segment them, and blend.
    ///
    /// `focus` gets window numbers and returns the lesion probability of each, on the scan's voxels: `[window]`, or `[size]` of a wider one. With
    /// `second_look`, every place where the chosen windows together (with a budget, or where windows lie freely, any of them) see a lesion is looked at
    /// again through the windows of the grid that cover its centre, so that a false alarm of one window is outvoted by its neighbours as it would be if
    /// Focus had looked everywhere. A finding that is longer than a window was seen in pieces: where there are wider windows, it is looked at through
    /// those too.
    pub fn run<E>(
        &self,
        glanced: &Glanced,
        choice: Choice,
        budget: &Budget,
        focus: impl FnMut(&[usize]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Looked, E> {
        let first = self.chosen(glanced, choice);
        if choice == Choice::All {
            return self.search(glanced, &first, false, budget, focus);
        }
        self.run_from(first, glanced, budget, focus)
    }

    /// As [`Plan::run`], with the windows `first`, the most promising first, instead of those that Glance would choose.
    pub fn run_from<E>(
        &self,
        mut first: Vec<usize>,
        glanced: &Glanced,
        budget: &Budget,
        focus: impl FnMut(&[usize]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Looked, E> {
        if budget.is_limited() || self.is_free() {
            return self.search(glanced, &first, true, budget, focus);
        }
        // In the order of the grid: neighbours share what the processor has at hand.
        first.sort_unstable();
        self.at_once(glanced, &first, focus)
    }

    /// All chosen windows, then all second looks, then wider ones.
    fn at_once<E>(
        &self,
        glanced: &Glanced,
        first: &[usize],
        mut focus: impl FnMut(&[usize]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Looked, E> {
        let mut seen: Vec<Option<Vec<f32>>> = vec![None; self.count()];
        let mut look = |numbers: &[usize], seen: &mut Vec<Option<Vec<f32>>>| -> Result<(), E> {
            for (&i, p) in numbers.iter().zip(focus(numbers)?) {
                seen[i] = Some(p);
            }
            Ok(())
        };
        look(first, &mut seen)?;
        if self.second_look {
            // Only what was looked at votes here: where few of the windows over a lesion were chosen, the votes of the others for background would hide
            // it.
            let shown = self.blend(glanced, &seen, Denominator::Kept);
            let mut again = self.covering_findings(&shown, self.shape, [0; 3], &self.importance(1), 1.0);
            again.retain(|&i| seen[i].is_none());
            look(&again, &mut seen)?;
        }
        let mut probability = self.blend(glanced, &seen, self.denominator);
        let wide = self.wide_over_findings(&probability);
        if !wide.is_empty() {
            look(&wide, &mut seen)?;
            probability = self.blend(glanced, &seen, self.denominator);
        }
        Ok(Looked { kept: seen.iter().map(Option::is_some).collect(), probability, skipped: 0 })
    }

    /// The most promising window first, each followed at once by the second looks that it asks for, until the budget ends: whatever was
    /// looked at is then looked at in full. Wider windows come last. Votes are counted as they come, so memory doesn't grow with the windows.
    fn search<E>(
        &self,
        glanced: &Glanced,
        first: &[usize],
        again: bool,
        budget: &Budget,
        mut focus: impl FnMut(&[usize]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Looked, E> {
        let (mut tally, importance) = (Tally::new(self, budget), self.importance(1));
        let (mut rest, mut pending): (&[usize], Vec<usize>) = (first, vec![]);
        loop {
            let second = !pending.is_empty();
            let allowed = tally.allows(if second { pending.len() } else { rest.len() }.min(self.batch));
            if allowed == 0 {
                break;
            }
            let batch: Vec<usize> = if second {
                pending.drain(..allowed).collect()
            } else {
                let (now, later) = rest.split_at(allowed);
                rest = later;
                now.iter().copied().filter(|&i| !tally.has(i)).collect()
            };
            for (&i, p) in batch.iter().zip(focus(&batch)?) {
                tally.add(i, &p, self.weight(glanced, i));
                if self.second_look && again && !second {
                    for i in self.covering_findings(&p, self.window, self.starts[i], &importance, SECOND_SAY) {
                        if !tally.has(i) && !pending.contains(&i) {
                            pending.push(i);
                        }
                    }
                }
            }
            // A window of this batch may have been asked for by an earlier one of it.
            pending.retain(|&i| !tally.has(i));
        }
        let mut skipped = pending.len() + rest.iter().filter(|&&i| !tally.has(i)).count();
        if !(self.is_free() && again) && self.denominator == Denominator::Covering {
            tally.vote_unseen();
        }
        for i in if self.wide.is_empty() { vec![] } else { self.wide_over_findings(&tally.blend.mean()) } {
            if tally.allows(1) == 0 {
                skipped += 1;
                continue;
            }
            for p in focus(&[i])? {
                tally.add(i, &p, 1.0);
            }
        }
        Ok(Looked { kept: tally.kept, probability: tally.blend.finish(), skipped })
    }

    /// The weight of a window's vote.
    fn weight(&self, glanced: &Glanced, i: usize) -> f32 {
        if self.glance_weight > 0.0 { glanced.windows[i].powf(self.glance_weight) } else { 1.0 }
    }

    fn blend(&self, glanced: &Glanced, seen: &[Option<Vec<f32>>], denominator: Denominator) -> Vec<f32> {
        let mut blend = Blend::new(self.shape, self.window, self.importance(1));
        for (i, p) in seen.iter().enumerate() {
            match p {
                Some(p) if i < self.starts.len() => blend.add(self.starts[i], p, self.weight(glanced, i)),
                Some(p) => self.add_wide(&mut blend, self.place(i), p),
                None if i < self.grid && denominator == Denominator::Covering => blend.add_constant(self.starts[i], 0.0, 1.0),
                None => {}
            }
        }
        blend.finish()
    }

    fn add_wide(&self, blend: &mut Blend, place: Place, p: &[f32]) {
        blend.add_sized(place.start, self.size(place), &self.importance(place.scale), p);
    }

    /// What would be called a lesion now.
    fn findings(&self, probability: &[f32], shape: [usize; 3]) -> Vec<Component> {
        if !probability.iter().any(|&p| p > self.mask_threshold) {
            return vec![];
        }
        let mask: Vec<u8> = probability.iter().map(|&p| (p > self.mask_threshold) as u8).collect();
        Components::of(&Runs::of(&mask, shape), Connectivity::Corner).parts
    }

    /// Windows of the grid that hold the centre voxel of something that would be called a lesion now, in a part of the scan: its probabilities,
    /// its shape and its first voxel. Of those over a centre, the weightiest there that together have `say` of the vote.
    fn covering_findings(&self, probability: &[f32], shape: [usize; 3], start: [usize; 3], importance: &[f32], say: f32) -> Vec<usize> {
        let grid = self.starts[..self.grid].iter().copied().enumerate();
        let mut again = vec![false; self.grid];
        for part in self.findings(probability, shape) {
            let centre: [usize; 3] = std::array::from_fn(|a| start[a] + part.centroid[a].round() as usize);
            weightiest(grid.clone(), self.window, importance, centre, say).into_iter().for_each(|i| again[i] = true);
        }
        (0..self.grid).filter(|&i| again[i]).collect()
    }

    /// Wider windows that hold the centre of a finding that is longer than a window along some axis, ascending: of the smallest scale at which a
    /// window is longer than it along every axis, or of the largest.
    fn wide_over_findings(&self, probability: &[f32]) -> Vec<usize> {
        let Some(&largest) = self.scales.last() else { return vec![] };
        let mut chosen = BTreeSet::new();
        for part in self.findings(probability, self.shape) {
            let fits = |scale: usize| (0..3).all(|a| part.box_end[a] - part.box_start[a] <= self.window[a] * scale);
            if fits(1) {
                continue;
            }
            let scale = self.scales.iter().copied().find(|&scale| fits(scale)).unwrap_or(largest);
            let centre = part.centroid.map(|c| c.round() as usize);
            let wide = self.wide.iter().enumerate().filter(|w| w.1.scale == scale).map(|(i, place)| (i + self.starts.len(), place.start));
            chosen.extend(weightiest(wide, self.window.map(|n| n * scale), &self.importance(scale), centre, SECOND_SAY));
        }
        chosen.into_iter().collect()
    }
}

/// Of windows of one size over `centre`, the weightiest there that together have `say` of the vote.
fn weightiest(
    windows: impl Iterator<Item = (usize, [usize; 3])>,
    window: [usize; 3],
    importance: &[f32],
    centre: [usize; 3],
    say: f32,
) -> Vec<usize> {
    let holds = |s: &[usize; 3]| (0..3).all(|a| centre[a] >= s[a] && centre[a] < s[a] + window[a]);
    let weight = |s: [usize; 3]| {
        let [x, y, z]: [usize; 3] = std::array::from_fn(|a| centre[a] - s[a]);
        importance[(x * window[1] + y) * window[2] + z]
    };
    let mut over: Vec<(usize, f32)> = windows.filter(|(_, s)| holds(s)).map(|(i, s)| (i, weight(s))).collect();
    over.sort_by(|a, b| b.1.total_cmp(&a.1));
    let (all, mut so_far, mut chosen) = (over.iter().map(|o| o.1).sum::<f32>(), 0.0, vec![]);
    for (i, weight) in over {
        if so_far > say * all {
            break;
        }
        chosen.push(i);
        so_far += weight;
    }
    chosen
}

/// What a search has seen so far.
struct Tally<'a> {
    plan: &'a Plan,
    budget: &'a Budget,
    blend: Blend,
    kept: Vec<bool>,
    /// First voxels of the windows seen, where those may lie anywhere: one of them and one of the grid may be the same.
    starts: BTreeSet<[usize; 3]>,
    seen: usize,
    clock: Instant,
}

impl<'a> Tally<'a> {
    fn new(plan: &'a Plan, budget: &'a Budget) -> Self {
        Tally {
            plan,
            budget,
            blend: Blend::new(plan.shape, plan.window, plan.importance(1)),
            kept: vec![false; plan.count()],
            starts: BTreeSet::new(),
            seen: 0,
            clock: Instant::now(),
        }
    }

    /// How many of `wanted` more windows the budget allows.
    fn allows(&self, wanted: usize) -> usize {
        self.budget.allows(wanted, self.seen, self.clock.elapsed().as_secs_f64() / self.seen.max(1) as f64)
    }

    /// Whether what window `i` of `starts` shows has been seen.
    fn has(&self, i: usize) -> bool {
        self.kept[i] || (self.plan.is_free() && self.starts.contains(&self.plan.starts[i]))
    }

    fn add(&mut self, i: usize, p: &[f32], weight: f32) {
        let place = self.plan.place(i);
        if place.scale > 1 {
            self.plan.add_wide(&mut self.blend, place, p);
        } else {
            self.blend.add(place.start, p, weight);
            self.starts.insert(place.start);
        }
        self.kept[i] = true;
        self.seen += 1;
    }

    /// The windows of the grid that Focus did not see vote for background.
    fn vote_unseen(&mut self) {
        for i in (0..self.plan.grid).filter(|&i| !self.kept[i]) {
            self.blend.add_constant(self.plan.starts[i], 0.0, 1.0);
        }
    }
}

#[cfg(test)]
mod tests;
