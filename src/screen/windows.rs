//! How the windows of a scan are laid, and which of them Focus is to see.

use std::collections::BTreeSet;
use std::time::Instant;

use panscreen_envs::metrics::calibration::Scaling;
use panscreen_envs::screening::blend::{Blend, flat, gaussian};
use panscreen_envs::screening::decode::{DecoderKind, GreedyApart, Scored, SoftApart, windows_on_cells};
use panscreen_envs::screening::heat::CellGrid;
use panscreen_envs::screening::windows::{gf_screen_grid, grid};

use super::Looked;
use crate::config::{self, Decoder, Denominator, ScreenConfig};

/// Largest share of its volume that a freely placed window may have in common with a chosen one: less leaves gaps that are never looked at.
const FREE_OVERLAP: f32 = 0.3;

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

    pub(super) fn is_limited(&self) -> bool {
        self.windows.is_some() || self.seconds.is_some()
    }

    /// How many of `wanted` more windows may be looked at after `seen`, if a window takes `each` seconds. How long one takes is known from the second
    /// on: where time counts, the first goes alone.
    pub(super) fn allows(&self, wanted: usize, seen: usize, each: f64) -> usize {
        let by_windows = self.windows.map_or(wanted, |most| most.saturating_sub(seen));
        let by_seconds = self.seconds.map_or(wanted, |(most, start)| {
            let left = most - start.elapsed().as_secs_f64();
            match left > 0.0 {
                false => 0,
                true if seen == 0 => 1,
                true => (left / each.max(1e-9)) as usize,
            }
        });
        wanted.min(by_windows).min(by_seconds)
    }
}

/// A place that Focus looks at: as many voxels as a window has, each `scale` times as long as the scan's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First voxel.
    pub start: [usize; 3],
    pub scale: usize,
}

/// How windows are chosen from their probabilities: `screen.decode` and `screen.soft_decay`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    pub decoder: Decoder,
    /// Of `soft_apart`.
    pub soft_decay: f32,
}

/// How the windows of a scan are laid, chosen and put together. Shapes are voxels of the prepared grid.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shape: [usize; 3],
    pub window: [usize; 3],
    /// The windows of the dense grid; with a whole-scan Glance then one centred on each of its cells, as far as they differ.
    pub starts: Vec<[usize; 3]>,
    /// How many of them are the grid's: what Focus everywhere looks at.
    pub grid: usize,
    /// Wider windows, a grid for each scale; their numbers follow those of `starts`.
    pub wide: Vec<Place>,
    /// The scales of the wider windows, the smallest first.
    pub(super) scales: Vec<usize>,
    /// Every voxel of a window weighs the same.
    flat: bool,
    pub(super) denominator: Denominator,
    pub(super) glance_weight: f32,
    pub(super) second_look: bool,
    pub(super) mask_threshold: f32,
    decoding: Decoding,
    /// Windows that go through Focus at once.
    pub(super) batch: usize,
}

impl Plan {
    /// `cells`: those of a whole-scan Glance.
    pub fn new(shape: [usize; 3], window: [usize; 3], config: &ScreenConfig, cells: Option<CellGrid>) -> Self {
        let published = config.blend == config::Blend::Flat;
        let lay = |window| if published { gf_screen_grid(shape, window, config.overlap) } else { grid(shape, window, config.overlap) };
        let mut starts = lay(window);
        let grid = starts.len();
        // At the scan's faces many cells push their window to the same place.
        let mut known = BTreeSet::new();
        starts.extend(cells.into_iter().flat_map(|c| windows_on_cells(c.cells(), c.cell(), shape, window)).filter(|s| known.insert(*s)));
        let mut scales: Vec<usize> = config.scales.iter().copied().filter(|&s| s > 1).collect();
        scales.sort_unstable();
        scales.dedup();
        let wider = |scale: usize| window.map(|n| n * scale);
        let default = if cells.is_some() { Decoder::GreedyApart } else { Decoder::Threshold };
        Plan {
            shape,
            window,
            starts,
            grid,
            wide: scales.iter().flat_map(|&scale| lay(wider(scale)).into_iter().map(move |start| Place { start, scale })).collect(),
            scales,
            flat: published,
            denominator: config.denominator,
            glance_weight: config.glance_weight as f32,
            second_look: config.second_look,
            mask_threshold: config.mask_threshold as f32,
            decoding: Decoding { decoder: config.decode.unwrap_or(default), soft_decay: config.soft_decay as f32 },
            batch: config.batch,
        }
    }

    /// Whether windows lie where Glance wants them, not on the grid.
    pub(super) fn is_free(&self) -> bool {
        self.starts.len() > self.grid
    }

    /// How many windows there are, wider ones too.
    pub fn count(&self) -> usize {
        self.starts.len() + self.wide.len()
    }

    /// Where window number `i` lies.
    pub fn place(&self, i: usize) -> Place {
        match i.checked_sub(self.starts.len()) {
            None => Place { start: self.starts[i], scale: 1 },
            Some(wide) => self.wide[wide],
        }
    }

    /// Weight of each voxel of a window of this scale, on the scan's voxels. Made when it is needed: it is as large as the window, and plans of whole
    /// cohorts are kept.
    pub(super) fn importance(&self, scale: usize) -> Vec<f32> {
        let size = self.window.map(|n| n * scale);
        if self.flat { flat(size) } else { gaussian(size, 0.125) }
    }

    /// Voxels of the scan that `place` spans; they may reach beyond it.
    pub fn size(&self, place: Place) -> [usize; 3] {
        self.window.map(|n| n * place.scale)
    }

    /// The first of `starts` that Glance can send to Focus; all behind it are such too.
    pub fn candidates(&self) -> usize {
        if self.is_free() { self.grid } else { 0 }
    }

    /// Every window that Glance could send to Focus, the most promising first, with its key for [`Choice::Above`].
    pub fn queue(&self, glanced: &Glanced) -> Vec<(usize, f32)> {
        self.queue_by(self.decoding, glanced)
    }

    /// As [`Plan::queue`], decoded otherwise.
    pub fn queue_by(&self, decoding: Decoding, glanced: &Glanced) -> Vec<(usize, f32)> {
        let from = self.candidates();
        let scored = Scored { window: self.window, starts: &self.starts[from..], probabilities: &glanced.windows[from..] };
        let kind = match decoding.decoder {
            Decoder::Threshold => DecoderKind::Threshold(Default::default()),
            // Windows that may lie anywhere leave gaps if none may overlap.
            Decoder::GreedyApart => {
                DecoderKind::GreedyApart(GreedyApart { overlap: if self.is_free() { FREE_OVERLAP } else { 0.0 }, ..Default::default() })
            }
            Decoder::CoverMass => DecoderKind::CoverMass(Default::default()),
            Decoder::SoftApart => DecoderKind::SoftApart(SoftApart { decay: decoding.soft_decay, ..Default::default() }),
        };
        kind.queue(scored).into_iter().map(|(w, key)| (w + from, key)).collect()
    }

    pub(super) fn chosen(&self, glanced: &Glanced, choice: Choice) -> Vec<usize> {
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

    /// Where Glance expects lesions, as voxels with a probability: the middle of every cell, or of every window of the grid.
    pub fn expected(&self, glanced: &Glanced) -> Vec<([usize; 3], f32)> {
        let middle = |s: &[usize; 3]| std::array::from_fn(|a| s[a] + self.window[a].min(self.shape[a]) / 2);
        match &glanced.heat {
            Some((cells, p)) => p.iter().enumerate().map(|(i, &p)| (cells.middle(i), p)).collect(),
            None => self.starts[..self.grid].iter().map(middle).zip(glanced.windows.iter().copied()).collect(),
        }
    }

    /// Whether a voxel lies in some window that Focus saw.
    pub fn covered(&self, looked: &Looked) -> impl Fn([usize; 3]) -> bool + use<> {
        let seen = (0..self.count()).filter(|&i| looked.kept[i]).map(|i| self.place(i));
        let boxes: Vec<([usize; 3], [usize; 3])> = seen.map(|place| (place.start, self.size(place))).collect();
        move |v| boxes.iter().any(|(start, size)| (0..3).all(|a| v[a] >= start[a] && v[a] < start[a] + size[a]))
    }

    /// How many cells or windows with lesion Glance expects outside everything that Focus saw, and in all, by its calibrated probabilities.
    pub fn expected_unseen(&self, glanced: &Glanced, looked: &Looked, scaling: Scaling) -> (f64, f64) {
        let covered = self.covered(looked);
        self.expected(glanced).into_iter().fold((0.0, 0.0), |(unseen, all), (voxel, p)| {
            let p = scaling.probability(log_odds(p));
            (unseen + if covered(voxel) { 0.0 } else { p }, all + p)
        })
    }

    /// The share of the lesions that Glance expects outside every window that Focus saw: the calibrated probabilities there, of all.
    pub fn unseen(&self, glanced: &Glanced, looked: &Looked, scaling: Scaling) -> f64 {
        let (unseen, all) = self.expected_unseen(glanced, looked, scaling);
        if all > 0.0 { unseen / all } else { 0.0 }
    }
}

/// Thresholds just below the key of the last window of each of `shares`, ascending, of `windows`, so that it is kept; the highest first, and none below 0,
/// which no window with a key of 0 passes. `keys`: those of all queues together; shares that they don't fill end at the last of them.
pub fn thresholds_at(mut keys: Vec<f32>, windows: usize, shares: impl IntoIterator<Item = f64>) -> Vec<f32> {
    keys.sort_by(|a, b| b.total_cmp(a));
    let last = keys.len().saturating_sub(1);
    let at = |share: f64| keys.get(((windows as f64 * share) as usize).saturating_sub(1).min(last)).map(|key| key.next_down().max(0.0));
    let mut thresholds: Vec<f32> = shares.into_iter().filter_map(at).collect();
    thresholds.dedup();
    thresholds
}

/// Log-odds of a probability, finite at 0 and 1.
pub fn log_odds(p: f32) -> f64 {
    let p = f64::from(p).clamp(1e-12, 1.0 - 1e-7);
    (p / (1.0 - p)).ln()
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

    #[test]
    fn without_decay_soft_apart_is_a_threshold() {
        let queue = |soft_decay| {
            let config = ScreenConfig { decode: Some(Decoder::SoftApart), soft_decay, ..ScreenConfig::default() };
            Plan::new([1, 1, 10], [1, 1, 4], &config, None).queue(&Glanced { windows: vec![0.1, 0.9, 0.8, 0.5], heat: None })
        };
        assert_eq!(queue(0.0), [(1, 0.9), (2, 0.8), (3, 0.5), (0, 0.1)]);
        // Neighbours have half of a window in common.
        assert_eq!(queue(2.0), [(1, 0.9), (3, 0.5), (2, 0.8 / 16.0), (0, 0.1 / 4.0)]);
    }

    #[test]
    fn wider_windows_follow_the_others_and_every_place_is_counted_once() {
        let cells = CellGrid { shape: [4, 4, 10], factor: [1; 3], stride: 1 };
        let config = ScreenConfig { scales: vec![3, 1, 2, 2], ..ScreenConfig::default() };
        let plan = Plan::new([4, 4, 10], [4, 4, 4], &config, Some(cells));
        // A grid of 4; windows start at 0 to 6; of 8 voxels two starts, of 12 one.
        assert_eq!((plan.grid, plan.starts.len(), plan.count()), (4, 4 + 7, 4 + 7 + 2 + 1));
        assert_eq!(plan.place(3), Place { start: [0, 0, 6], scale: 1 });
        assert_eq!(plan.place(12), Place { start: [0, 0, 2], scale: 2 });
        assert_eq!((plan.place(13), plan.size(plan.place(13))), (Place { start: [0; 3], scale: 3 }, [12; 3]));
    }

    #[test]
    fn a_threshold_keeps_the_last_window_of_its_share() {
        let below = f32::next_down;
        assert_eq!(thresholds_at(vec![0.1, 0.9, 0.5, 0.5], 4, [0.25, 0.5, 0.75, 1.0]), [below(0.9), below(0.5), below(0.1)]);
        assert_eq!(thresholds_at(vec![0.9, 0.0], 100, [0.001, 0.02, 0.5]), [below(0.9), 0.0]);
        assert!(thresholds_at(vec![], 100, [0.5]).is_empty());
    }

    #[test]
    fn where_time_counts_the_first_window_goes_alone() {
        let within = |seconds| Budget { windows: None, seconds: Some((seconds, Instant::now())) };
        assert_eq!([Budget::default().allows(16, 0, 0.0), within(100.0).allows(16, 0, 0.0), within(0.0).allows(16, 0, 0.0)], [16, 1, 0]);
        assert_eq!([within(100.0).allows(16, 1, 30.0), within(100.0).allows(16, 1, 200.0)], [3, 0]);
    }
}
