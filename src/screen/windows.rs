//! From windows to a probability per voxel: Glance on all, Focus on the chosen, blended.

use std::time::Instant;

use panscreen_envs::metrics::calibration::Scaling;
use panscreen_envs::screening::blend::{Blend, flat, gaussian};
use panscreen_envs::screening::decode::{DecoderKind, GreedyApart, Scored, windows_on_cells};
use panscreen_envs::screening::heat::CellGrid;
use panscreen_envs::screening::windows::{gf_screen_grid, grid};
use panscreen_envs::volume::components::{Components, Connectivity};
use panscreen_envs::volume::runs::Runs;
use serde::{Deserialize, Serialize};

use crate::config::{self, Decoder, Denominator, ScreenConfig};

/// Largest share of its volume that a freely placed window may have in common with a chosen one: less leaves gaps that are never looked at.
const FREE_OVERLAP: f32 = 0.3;

/// Share of the grid's say about a finding's centre that second looks of a search have: with Gaussian weights one or two windows have nearly all of
/// it, and the others would be looked at for nothing.
const SECOND_SAY: f32 = 0.9;

/// Windows chosen for Focus are those that pass a threshold, a fixed share of the best, or all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// Every window of the grid: Focus everywhere.
    All,
    /// Windows whose key in the queue is above this: their Glance probability, but with `cover_mass`.
    Above(f32),
    /// The first of the queue, as many as are this share of the grid's windows; at least one.
    Best(f64),
}

/// What Glance says about a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Glanced {
    /// Probability of each window of the plan.
    pub windows: Vec<f32>,
    /// The heat map of a whole-scan Glance: how its cells lie, and the probability of each.
    pub heat: Option<(CellGrid, Vec<f32>)>,
}

impl Glanced {
    /// What stands for a Glance that wasn't asked.
    pub fn unasked(plan: &Plan) -> Self {
        Glanced { windows: vec![1.0; plan.starts.len()], heat: None }
    }
}

/// Where Focus has to stop looking.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    pub windows: Option<usize>,
    /// Seconds, counted from the instant.
    pub seconds: Option<(f64, Instant)>,
}

impl Budget {
    /// The budget of a scan that was begun at `start`.
    pub fn of(config: &ScreenConfig, start: Instant) -> Self {
        Budget { windows: config.budget_windows, seconds: config.budget_seconds.map(|s| (s, start)) }
    }

    fn is_limited(&self) -> bool {
        self.windows.is_some() || self.seconds.is_some()
    }

    /// How many of `wanted` more windows may be looked at after `seen`, if a window takes `each` seconds.
    fn allows(&self, wanted: usize, seen: usize, each: f64) -> usize {
        let by_windows = self.windows.map_or(wanted, |most| most.saturating_sub(seen));
        let by_seconds = self.seconds.map_or(wanted, |(most, start)| {
            let left = most - start.elapsed().as_secs_f64();
            if left <= 0.0 { 0 } else { (left / each.max(1e-9)) as usize }
        });
        wanted.min(by_windows).min(by_seconds)
    }
}

/// How the windows of a scan are laid, chosen and put together. Shapes are voxels of the prepared grid.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shape: [usize; 3],
    pub window: [usize; 3],
    /// The windows of the dense grid; with a whole-scan Glance then one centred on each of its cells.
    pub starts: Vec<[usize; 3]>,
    /// How many of them are the grid's: what Focus everywhere looks at.
    pub grid: usize,
    importance: Vec<f32>,
    denominator: Denominator,
    glance_weight: f32,
    second_look: bool,
    mask_threshold: f32,
    decoder: DecoderKind,
    /// Windows that go through Focus at once.
    batch: usize,
}

impl Plan {
    /// `cells`: those of a whole-scan Glance.
    pub fn new(shape: [usize; 3], window: [usize; 3], config: &ScreenConfig, cells: Option<CellGrid>) -> Self {
        let published = config.blend == config::Blend::Flat;
        let mut starts = if published { gf_screen_grid(shape, window, config.overlap) } else { grid(shape, window, config.overlap) };
        let grid = starts.len();
        starts.extend(cells.into_iter().flat_map(|c| windows_on_cells(c.cells(), c.cell(), shape, window)));
        let default = if cells.is_some() { Decoder::GreedyApart } else { Decoder::Threshold };
        Plan {
            shape,
            window,
            starts,
            grid,
            importance: if published { flat(window) } else { gaussian(window, 0.125) },
            denominator: config.denominator,
            glance_weight: config.glance_weight as f32,
            second_look: config.second_look,
            mask_threshold: config.mask_threshold as f32,
            decoder: match config.decode.unwrap_or(default) {
                Decoder::Threshold => DecoderKind::Threshold(Default::default()),
                // Windows that may lie anywhere leave gaps if none may overlap.
                Decoder::GreedyApart => DecoderKind::GreedyApart(GreedyApart {
                    overlap: if cells.is_some() { FREE_OVERLAP } else { 0.0 },
                    ..Default::default()
                }),
                Decoder::CoverMass => DecoderKind::CoverMass(Default::default()),
            },
            batch: config.batch,
        }
    }

    /// Whether windows lie where Glance wants them, not on the grid.
    fn is_free(&self) -> bool {
        self.starts.len() > self.grid
    }

    /// The first window that Glance can send to Focus; all behind it are such too.
    pub fn candidates(&self) -> usize {
        if self.is_free() { self.grid } else { 0 }
    }

    /// Every window that Glance could send to Focus, the most promising first, with its key for [`Choice::Above`].
    pub fn queue(&self, glanced: &Glanced) -> Vec<(usize, f32)> {
        let from = self.candidates();
        let scored = Scored { window: self.window, starts: &self.starts[from..], probabilities: &glanced.windows[from..] };
        self.decoder.queue(scored).into_iter().map(|(w, key)| (w + from, key)).collect()
    }

    fn chosen(&self, glanced: &Glanced, choice: Choice) -> Vec<usize> {
        let queue = || self.queue(glanced).into_iter();
        match choice {
            Choice::All => (0..self.grid).collect(),
            Choice::Above(threshold) => queue().take_while(|q| q.1 > threshold).map(|q| q.0).collect(),
            Choice::Best(share) => {
                let wanted = ((self.grid as f64 * share).round() as usize).clamp(1, self.grid.max(1));
                queue().take(wanted).map(|q| q.0).collect()
            }
        }
    }

    /// Choose windows by what Glance said, let `focus` segment them, and blend.
    ///
    /// `focus` gets window numbers and returns the lesion probability of each, `[window]`. With `second_look`, every place where the chosen
    /// windows see a lesion is looked at again through all windows of the grid that cover its centre, so that a false alarm of one window
    /// is outvoted by its neighbours as it would be if Focus had looked everywhere.
    pub fn run<E>(
        &self,
        glanced: &Glanced,
        choice: Choice,
        budget: &Budget,
        focus: impl FnMut(&[usize]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Looked, E> {
        let mut first = self.chosen(glanced, choice);
        if budget.is_limited() || (self.is_free() && choice != Choice::All) {
            return self.search(glanced, &first, choice != Choice::All, budget, focus);
        }
        // In the order of the grid: neighbours share what the processor has at hand.
        first.sort_unstable();
        self.at_once(glanced, &first, choice != Choice::All, focus)
    }

    /// All chosen windows, then all second looks.
    fn at_once<E>(
        &self,
        glanced: &Glanced,
        first: &[usize],
        again: bool,
        mut focus: impl FnMut(&[usize]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Looked, E> {
        let mut seen: Vec<Option<Vec<f32>>> = vec![None; self.starts.len()];
        let mut look = |numbers: &[usize], seen: &mut Vec<Option<Vec<f32>>>| -> Result<(), E> {
            for (&i, p) in numbers.iter().zip(focus(numbers)?) {
                seen[i] = Some(p);
            }
            Ok(())
        };
        look(first, &mut seen)?;
        let mut probability = self.blend(glanced, &seen);
        if self.second_look && again {
            let again: Vec<usize> =
                self.covering_findings(&probability, self.shape, [0; 3], 1.0).into_iter().filter(|&i| seen[i].is_none()).collect();
            if !again.is_empty() {
                look(&again, &mut seen)?;
                probability = self.blend(glanced, &seen);
            }
        }
        Ok(Looked { kept: seen.iter().map(Option::is_some).collect(), probability, skipped: 0 })
    }

    /// The most promising window first, each followed at once by the second looks that it asks for, until the budget ends: whatever was
    /// looked at is then looked at in full. Votes are counted as they come, so memory doesn't grow with the windows.
    fn search<E>(
        &self,
        glanced: &Glanced,
        first: &[usize],
        again: bool,
        budget: &Budget,
        mut focus: impl FnMut(&[usize]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Looked, E> {
        let mut blend = Blend::new(self.shape, self.window, self.importance.clone());
        let mut kept = vec![false; self.starts.len()];
        let (mut rest, mut pending): (&[usize], Vec<usize>) = (first, vec![]);
        let (clock, mut seen) = (Instant::now(), 0);
        loop {
            let second = !pending.is_empty();
            let each = if seen == 0 { 0.0 } else { clock.elapsed().as_secs_f64() / seen as f64 };
            let wanted = if second { pending.len() } else { rest.len() }.min(self.batch);
            let allowed = budget.allows(wanted, seen, each);
            if allowed == 0 {
                break;
            }
            let batch: Vec<usize> = if second {
                pending.drain(..allowed).collect()
            } else {
                let (now, later) = rest.split_at(allowed);
                rest = later;
                now.iter().copied().filter(|&i| !kept[i]).collect()
            };
            for (&i, p) in batch.iter().zip(focus(&batch)?) {
                blend.add(self.starts[i], &p, self.weight(glanced, i));
                kept[i] = true;
                seen += 1;
                if self.second_look && again && !second {
                    for i in self.covering_findings(&p, self.window, self.starts[i], SECOND_SAY) {
                        if !kept[i] && !pending.contains(&i) {
                            pending.push(i);
                        }
                    }
                }
            }
            // A window of this batch may have been asked for by an earlier one of it.
            pending.retain(|&i| !kept[i]);
        }
        if !self.is_free() && self.denominator == Denominator::Covering {
            (0..self.grid).filter(|&i| !kept[i]).for_each(|i| blend.add_constant(self.starts[i], 0.0, 1.0));
        }
        Ok(Looked { kept, probability: blend.finish(), skipped: rest.len() + pending.len() })
    }

    /// The weight of a window's vote.
    fn weight(&self, glanced: &Glanced, i: usize) -> f32 {
        if self.glance_weight > 0.0 { glanced.windows[i].powf(self.glance_weight) } else { 1.0 }
    }

    fn blend(&self, glanced: &Glanced, seen: &[Option<Vec<f32>>]) -> Vec<f32> {
        let mut blend = Blend::new(self.shape, self.window, self.importance.clone());
        for (i, p) in seen.iter().enumerate() {
            match p {
                Some(p) => blend.add(self.starts[i], p, self.weight(glanced, i)),
                None if i < self.grid && self.denominator == Denominator::Covering => blend.add_constant(self.starts[i], 0.0, 1.0),
                None => {}
            }
        }
        blend.finish()
    }

    /// What Glance thinks of each voxel of the prepared grid: its heat map, or the mean probability of the windows over it.
    pub fn heat(&self, glanced: &Glanced) -> Vec<f32> {
        if let Some((cells, probabilities)) = &glanced.heat {
            return cells.spread(probabilities);
        }
        let mut blend = Blend::new(self.shape, self.window, flat(self.window));
        for (start, &p) in self.starts.iter().zip(&glanced.windows) {
            blend.add_constant(*start, p, 1.0);
        }
        blend.finish()
    }

    /// Windows of the grid that hold the centre voxel of something that would be called a lesion now, in a part of the scan: its probabilities,
    /// its shape and its first voxel. Of those over a centre, the weightiest there that together have `say` of the vote.
    fn covering_findings(&self, probability: &[f32], shape: [usize; 3], start: [usize; 3], say: f32) -> Vec<usize> {
        if !probability.iter().any(|&p| p > self.mask_threshold) {
            return vec![];
        }
        let mask: Vec<u8> = probability.iter().map(|&p| (p > self.mask_threshold) as u8).collect();
        let found = Components::of(&Runs::of(&mask, shape), Connectivity::Corner);
        let mut again = vec![false; self.grid];
        for part in &found.parts {
            let centre: [usize; 3] = std::array::from_fn(|a| start[a] + part.centroid[a].round() as usize);
            let holds = |s: &[usize; 3]| (0..3).all(|a| centre[a] >= s[a] && centre[a] < s[a] + self.window[a]);
            let weight = |s: &[usize; 3]| {
                let [x, y, z]: [usize; 3] = std::array::from_fn(|a| centre[a] - s[a]);
                self.importance[(x * self.window[1] + y) * self.window[2] + z]
            };
            let mut over: Vec<(usize, f32)> =
                self.starts[..self.grid].iter().enumerate().filter(|(_, s)| holds(s)).map(|(i, s)| (i, weight(s))).collect();
            over.sort_by(|a, b| b.1.total_cmp(&a.1));
            let (all, mut so_far) = (over.iter().map(|o| o.1).sum::<f32>(), 0.0);
            for (i, weight) in over {
                if so_far > say * all {
                    break;
                }
                again[i] = true;
                so_far += weight;
            }
        }
        (0..self.grid).filter(|&i| again[i]).collect()
    }

    /// Where Glance expects lesions, as voxels with a probability: the middle of every cell, or of every window of the grid.
    pub fn expected(&self, glanced: &Glanced) -> Vec<([usize; 3], f32)> {
        let middle = |s: &[usize; 3]| std::array::from_fn(|a| s[a] + self.window[a].min(self.shape[a]) / 2);
        match &glanced.heat {
            Some((cells, p)) => {
                let (side, [_, my, mz]) = (cells.cell(), cells.cells());
                let place = |i: usize| [i / (my * mz), i / mz % my, i % mz];
                let voxel = |i: usize| std::array::from_fn(|a| (place(i)[a] * side[a] + side[a] / 2).min(self.shape[a] - 1));
                p.iter().enumerate().map(|(i, &p)| (voxel(i), p)).collect()
            }
            None => self.starts[..self.grid].iter().map(middle).zip(glanced.windows.iter().copied()).collect(),
        }
    }

    /// The share of the lesions that Glance expects outside every window that Focus saw: the calibrated probabilities there, of all.
    pub fn unseen(&self, glanced: &Glanced, looked: &Looked, scaling: Scaling) -> f64 {
        let windows: Vec<[usize; 3]> = (0..self.starts.len()).filter(|&i| looked.kept[i]).map(|i| self.starts[i]).collect();
        let covered = |v: [usize; 3]| windows.iter().any(|s| (0..3).all(|a| v[a] >= s[a] && v[a] < s[a] + self.window[a]));
        let (mut all, mut unseen) = (0.0, 0.0);
        for (voxel, p) in self.expected(glanced) {
            let p = scaling.probability(log_odds(p));
            all += p;
            unseen += if covered(voxel) { 0.0 } else { p };
        }
        if all > 0.0 { unseen / all } else { 0.0 }
    }
}

/// Log-odds of a probability, finite at 0 and 1.
pub fn log_odds(p: f32) -> f64 {
    let p = f64::from(p).clamp(1e-12, 1.0 - 1e-7);
    (p / (1.0 - p)).ln()
}

/// What looking gave.
#[derive(Clone, Debug)]
pub struct Looked {
    /// Windows that Focus segmented.
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
    /// validation scans.
    pub lesions_expected: f64,
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
        let plan = Plan::new([1, 1, 10], [1, 1, 4], &ScreenConfig::default(), None);
        let glanced = Glanced { windows: vec![0.1, 0.9, 0.5, 0.5], heat: None };
        for (choice, expected) in
            [(Choice::All, vec![0, 1, 2, 3]), (Choice::Above(0.5), vec![1]), (Choice::Best(0.5), vec![1, 2]), (Choice::Best(0.0), vec![1])]
        {
            assert_eq!(plan.chosen(&glanced, choice), expected, "{choice:?}");
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
        Plan::new([1, 1, 8], [1, 1, 4], &config, None)
    }

    /// One window of three cries wolf at voxels 4 and 5.
    fn wolf(numbers: &[usize]) -> Result<Vec<Vec<f32>>, ()> {
        Ok(numbers.iter().map(|&i| if i == 1 { vec![0.0, 0.0, 0.9, 0.9] } else { vec![0.0; 4] }).collect())
    }

    #[test]
    fn a_second_look_outvotes_a_false_alarm_as_focus_everywhere_does() {
        let glance = Glanced { windows: vec![0.1, 0.9, 0.1], heat: None };
        let none = Budget::default();
        let everywhere = plan(false, Denominator::Kept).run(&glance, Choice::All, &none, wolf).unwrap();
        assert_eq!(everywhere.probability[4], 0.45);
        let once = plan(false, Denominator::Kept).run(&glance, Choice::Above(0.5), &none, wolf).unwrap();
        assert_eq!((once.probability[4], once.windows_kept()), (0.9, 1));
        let twice = plan(true, Denominator::Kept).run(&glance, Choice::Above(0.5), &none, wolf).unwrap();
        assert_eq!((twice.probability[4], twice.windows_kept()), (0.45, 2));
        let covering = plan(false, Denominator::Covering).run(&glance, Choice::Above(0.5), &none, wolf).unwrap();
        assert_eq!((covering.probability[4], covering.windows_kept()), (0.45, 1));
    }

    type Seen = Result<Vec<Vec<f32>>, ()>;

    /// A scan of 16 voxels whose cells of one voxel are hot where lesions are; Focus marks lesions it sees.
    fn whole(lesions: &'static [usize]) -> (Plan, Glanced, impl Fn(&[usize]) -> Seen) {
        let cells = CellGrid { shape: [1, 1, 16], factor: [1; 3], stride: 1 };
        let config = ScreenConfig { blend: config::Blend::Flat, batch: 1, ..ScreenConfig::default() };
        let plan = Plan::new([1, 1, 16], [1, 1, 4], &config, Some(cells));
        let mut odds = vec![-4.0; 16];
        lesions.iter().zip([2.0, 1.0]).for_each(|(&v, z)| odds[v] = z);
        let p = |z: f32| 1.0 / (1.0 + (-z).exp());
        let windows = cells.read(&odds, [1, 1, 4], &plan.starts, 1.0).iter().map(|r| p(r.log_odds)).collect();
        let glanced = Glanced { windows, heat: Some((cells, odds.iter().map(|&z| p(z)).collect())) };
        let starts = plan.starts.clone();
        let focus = move |numbers: &[usize]| {
            let of = |&i: &usize| (0..4).map(|v| f32::from(u8::from(lesions.contains(&(starts[i][2] + v))))).collect();
            Ok(numbers.iter().map(of).collect())
        };
        (plan, glanced, focus)
    }

    #[test]
    fn windows_lie_on_peaks_and_only_hits_are_looked_at_again() {
        let (plan, glanced, focus) = whole(&[3, 12]);
        assert_eq!((plan.grid, plan.starts.len()), (7, 23));
        let looked = plan.run(&glanced, Choice::Above(0.4), &Budget::default(), &focus).unwrap();
        let seen: Vec<[usize; 3]> = (0..23).filter(|&i| looked.kept[i]).map(|i| plan.starts[i]).collect();
        // Two of the grid's seven over each lesion, and the one that found it.
        assert_eq!(seen.len(), 6, "{seen:?}");
        assert_eq!((looked.probability[3], looked.probability[12], looked.probability[7], looked.skipped), (1.0, 1.0, 0.0, 0));
    }

    #[test]
    fn a_budget_takes_the_most_promising_first_and_says_what_is_left() {
        let (plan, glanced, focus) = whole(&[3, 12]);
        let budget = Budget { windows: Some(3), seconds: None };
        let looked = plan.run(&glanced, Choice::Above(0.4), &budget, &focus).unwrap();
        assert_eq!((looked.windows_kept(), looked.probability[3], looked.probability[12], looked.skipped), (3, 1.0, 0.0, 1));
        let left = plan.unseen(&glanced, &looked, Scaling::IDENTITY);
        let all: f32 = 0.880797 + 0.731059 + 14.0 * 0.017986;
        assert!(left > f64::from(0.731059 / all) && left < f64::from((0.731059 + 12.0 * 0.017986) / all), "{left}");
        let over = Budget { windows: None, seconds: Some((0.0, Instant::now())) };
        let looked = plan.run(&glanced, Choice::Above(0.4), &over, &focus).unwrap();
        assert_eq!((looked.windows_kept(), looked.skipped), (0, 2));
        assert!((plan.unseen(&glanced, &looked, Scaling::IDENTITY) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_budget_that_is_never_reached_changes_nothing_on_the_grid() {
        let glance = Glanced { windows: vec![0.1, 0.9, 0.1], heat: None };
        for denominator in [Denominator::Kept, Denominator::Covering] {
            let plan = plan(false, denominator);
            let free = plan.run(&glance, Choice::Above(0.5), &Budget::default(), wolf).unwrap();
            let wide = Budget { windows: Some(100), seconds: Some((1e6, Instant::now())) };
            let bound = plan.run(&glance, Choice::Above(0.5), &wide, wolf).unwrap();
            assert_eq!((free.probability, free.kept), (bound.probability, bound.kept));
        }
    }
}
