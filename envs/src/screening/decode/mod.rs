//! From what Glance thinks of windows to the windows that Focus looks at.
//!
//! A decoder is a file of its own and a line in [`DecoderKind`]. Each answers best first, so that a budget is a cut of its answer.
//! [`oracle`] is not one of them: it knows what Focus will find, and is the floor that the others are held against.

mod cover_mass;
mod greedy_apart;
mod oracle;
mod threshold;

pub use cover_mass::CoverMass;
pub use greedy_apart::GreedyApart;
pub use oracle::{Oracle, oracle};
pub use threshold::Threshold;

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
}

impl DecoderKind {
    pub fn decoder(&self) -> &dyn Decode {
        match self {
            DecoderKind::Threshold(d) => d,
            DecoderKind::GreedyApart(d) => d,
            DecoderKind::CoverMass(d) => d,
        }
    }
}

impl DecoderKind {
    /// Every window that the decoder would ever choose, the most promising first, each with the key that an operating point cuts at: windows whose
    /// key is above it are chosen. The key is the probability; with `cover_mass` the share of the mass still uncovered before it.
    pub fn queue(&self, scored: Scored) -> Vec<(usize, f32)> {
        let keyed = |order: Vec<usize>| order.into_iter().map(|w| (w, scored.probabilities[w])).collect();
        match self {
            DecoderKind::Threshold(_) => keyed(scored.ranked(f32::NEG_INFINITY)),
            DecoderKind::GreedyApart(d) => keyed(GreedyApart { threshold: f32::NEG_INFINITY, ..*d }.decode(scored)),
            DecoderKind::CoverMass(d) => CoverMass { share: 1.0, ..*d }.ordered(scored),
        }
    }
}

/// Every decoder with its default settings.
pub fn all() -> Vec<DecoderKind> {
    vec![
        DecoderKind::Threshold(Default::default()),
        DecoderKind::GreedyApart(Default::default()),
        DecoderKind::CoverMass(Default::default()),
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
        assert_eq!(names, ["threshold", "greedy_apart", "cover_mass"]);
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
