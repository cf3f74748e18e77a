//! From what Glance thinks of windows to the windows that Focus looks at.
//!
//! A decoder is a file of its own and a line in [`DecoderKind`]. Each answers best first, so that a budget is a cut of its answer.
//! [`oracle`] is not one of them: it knows what Focus will find, and is the floor that the others are held against.

mod cover_mass;
mod greedy_apart;
mod oracle;
mod soft_apart;
mod threshold;

pub use cover_mass::CoverMass;
pub use greedy_apart::GreedyApart;
pub use oracle::{Oracle, oracle};
pub use soft_apart::SoftApart;
pub use threshold::Threshold;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Windows of one size with Glance's probability of each: the windows of a grid, or one centred on each cell of a heat map.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// Voxels of a window.
    pub window: [usize; 3],
    /// First voxel of each.
    pub starts: &'a [[usize; 3]],
    /// Probability of each, finite.
    pub probabilities: &'a [f32],
}

impl Scored<'_> {
    /// Numbers of the windows above `least`, highest probability first, of equals the first.
    fn ranked(&self, least: f32) -> Vec<usize> {
        assert_eq!(self.starts.len(), self.probabilities.len(), "one probability for each window");
        let mut order: Vec<usize> = (0..self.starts.len()).filter(|&w| self.probabilities[w] > least).collect();
        order.sort_by(|&a, &b| self.probabilities[b].total_cmp(&self.probabilities[a]));
        order
    }

    /// Voxels that two windows have in common.
    fn common(&self, v: usize, w: usize) -> usize {
        (0..3).map(|a| self.window[a].saturating_sub(self.starts[v][a].abs_diff(self.starts[w][a]))).product()
    }

    /// All windows, to be asked for those near a place.
    fn neighbours(&self) -> Blocks {
        let mut blocks = Blocks::new(self.window);
        self.starts.iter().enumerate().for_each(|(w, start)| blocks.add(*start, w));
        blocks
    }
}

/// A window in a heap, largest key first, of equals the first window. Its key may have sunk since: a bound.
#[derive(PartialEq)]
struct Bound {
    key: f64,
    window: usize,
}

impl Eq for Bound {}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then(other.window.cmp(&self.window))
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Windows by the block of window size that they start in (or that their centres lie in): what overlaps is in the same or a neighbouring block.
struct Blocks {
    window: [usize; 3],
    of_block: BTreeMap<[usize; 3], Vec<usize>>,
}

impl Blocks {
    fn new(window: [usize; 3]) -> Self {
        Blocks { window: window.map(|n| n.max(1)), of_block: BTreeMap::new() }
    }

    fn block(&self, start: [usize; 3]) -> [usize; 3] {
        std::array::from_fn(|a| start[a] / self.window[a])
    }

    fn add(&mut self, start: [usize; 3], window: usize) {
        let block = self.block(start);
        self.of_block.entry(block).or_default().push(window);
    }

    /// All that can overlap a window that is here.
    fn of(&self, start: [usize; 3]) -> impl Iterator<Item = usize> {
        let [x, y, z] = self.block(start);
        let near =
            (0..27).filter_map(move |n| Some([(x + n / 9).checked_sub(1)?, (y + n / 3 % 3).checked_sub(1)?, (z + n % 3).checked_sub(1)?]));
        near.filter_map(|b| self.of_block.get(&b)).flatten().copied()
    }
}

/// Chooses windows.
pub trait Decode: Send + Sync {
    /// Name in a config, snake case.
    fn name(&self) -> &'static str;

    /// One line for lists.
    fn summary(&self) -> &'static str;

    /// Names the first setting out of its range.
    fn check(&self) -> Result<(), String>;

    /// Numbers of the chosen windows, none twice, the most promising first.
    fn decode(&self, scored: Scored) -> Vec<usize>;
}

/// A decoder by its name, with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum DecoderKind {
    Threshold(Threshold),
    GreedyApart(GreedyApart),
    CoverMass(CoverMass),
    SoftApart(SoftApart),
}

impl DecoderKind {
    pub fn decoder(&self) -> &dyn Decode {
        match self {
            DecoderKind::Threshold(d) => d,
            DecoderKind::GreedyApart(d) => d,
            DecoderKind::CoverMass(d) => d,
            DecoderKind::SoftApart(d) => d,
        }
    }
}

impl DecoderKind {
    /// Every window that the decoder would ever choose, the most promising first, each with the key that an operating point cuts at: windows whose
    /// key is above it are chosen. The key is the probability, with `soft_apart` as far as it is left; with `cover_mass` the share of the mass still uncovered
    /// before it.
    pub fn queue(&self, scored: Scored) -> Vec<(usize, f32)> {
        let keyed = |order: Vec<usize>| order.into_iter().map(|w| (w, scored.probabilities[w])).collect();
        match self {
            DecoderKind::Threshold(_) => keyed(scored.ranked(f32::NEG_INFINITY)),
            DecoderKind::GreedyApart(d) => keyed(GreedyApart { threshold: f32::NEG_INFINITY, ..*d }.decode(scored)),
            DecoderKind::CoverMass(d) => CoverMass { share: 1.0, ..*d }.ordered(scored),
            DecoderKind::SoftApart(d) => SoftApart { threshold: f32::NEG_INFINITY, ..*d }.ordered(scored),
        }
    }
}

/// Every decoder with its default settings.
pub fn all() -> Vec<DecoderKind> {
    vec![
        DecoderKind::Threshold(Default::default()),
        DecoderKind::GreedyApart(Default::default()),
        DecoderKind::CoverMass(Default::default()),
        DecoderKind::SoftApart(Default::default()),
    ]
}

/// One window centred on each cell of a heat map, as far as it stays inside the scan: `[x][y][z]` cells of `cell` voxels each.
pub fn windows_on_cells(cells: [usize; 3], cell: [usize; 3], shape: [usize; 3], window: [usize; 3]) -> Vec<[usize; 3]> {
    let start = |p: [usize; 3]| {
        std::array::from_fn(|a| (p[a] * cell[a] + cell[a] / 2).saturating_sub(window[a] / 2).min(shape[a].saturating_sub(window[a])))
    };
    let axis = |a: usize| 0..cells[a];
    axis(0).flat_map(|x| axis(1).flat_map(move |y| axis(2).map(move |z| [x, y, z]))).map(start).collect()
}

fn at_least(key: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if value >= low && value <= high { Ok(()) } else { Err(format!("`{key}` is {value}, expected a number from {low} to {high}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        let names: Vec<_> = all().iter().map(|d| d.decoder().name()).collect();
        assert_eq!(names, ["threshold", "greedy_apart", "cover_mass", "soft_apart"]);
        for kind in all() {
            let name = kind.decoder().name();
            let read: DecoderKind = serde_json::from_str(&format!(r#"{{"name": "{name}"}}"#)).unwrap();
            assert_eq!((read, kind.decoder().check()), (kind, Ok(())));
        }
    }

    #[test]
    fn windows_are_centred_on_cells_and_stay_inside() {
        let starts = windows_on_cells([3, 1, 2], [4, 4, 4], [12, 4, 8], [6, 6, 4]);
        assert_eq!(starts, [[0, 0, 0], [0, 0, 4], [3, 0, 0], [3, 0, 4], [6, 0, 0], [6, 0, 4]]);
    }

    #[test]
    fn a_cut_of_the_queue_is_what_the_decoder_chooses() {
        let starts: Vec<[usize; 3]> = (0..40).map(|i| [(i * 7) % 13, (i * 5) % 11, (i * 3) % 7]).collect();
        let probabilities: Vec<f32> = (0..40).map(|i| ((i * 17) % 41) as f32 / 41.0).collect();
        let scored = Scored { window: [4; 3], starts: &starts, probabilities: &probabilities };
        let cut = |kind: DecoderKind, at: f32| -> Vec<usize> { kind.queue(scored).iter().take_while(|q| q.1 > at).map(|q| q.0).collect() };
        for at in [0.0, 0.3, 0.8] {
            assert_eq!(cut(DecoderKind::Threshold(Threshold::default()), at), Threshold { threshold: at }.decode(scored));
            let apart = GreedyApart::default();
            assert_eq!(cut(DecoderKind::GreedyApart(apart), at), GreedyApart { threshold: at, ..apart }.decode(scored));
        }
        let soft = SoftApart::default();
        assert_eq!(cut(DecoderKind::SoftApart(soft), 0.2), SoftApart { threshold: 0.2, ..soft }.decode(scored));
        let cover = CoverMass::default();
        assert_eq!(cut(DecoderKind::CoverMass(cover), 0.2), CoverMass { share: 0.8, ..cover }.decode(scored));
    }

    #[test]
    fn nothing_to_choose_from_chooses_nothing() {
        for kind in all() {
            let scored = Scored { window: [2; 3], starts: &[], probabilities: &[] };
            assert!(kind.decoder().decode(scored).is_empty());
        }
    }
}
