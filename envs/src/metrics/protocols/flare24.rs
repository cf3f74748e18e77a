//! The per-case rule of the FLARE pan-cancer task (FLARE24 Task 1, official script). Later editions are judged by it until their own rule is known.

use serde::{Deserialize, Serialize};

use super::{Asked, Metric, Oddity, Protocol, Structure, StructurePair};
use crate::metrics::statistics::adjust::Adjustment;
use crate::metrics::{Outcome, Pair, SurfaceKind, policy};

/// The rule book.
pub const PROTOCOL: Protocol = Protocol {
    name: "flare24",
    summary: "FLARE pan-cancer task: Dice and NSD at 2 mm (DeepMind's surfels) of all lesions together, four decimals, means over all cases",
    structures: &[Structure { name: "lesion", label: None }],
    metrics: &[
        Metric::share("dsc", "Dice", Asked::Always),
        Metric::share("nsd", "NSD at 2 mm; 0 where the Dice is below 0.2", Asked::Always),
    ],
    main: &["dsc", "nsd"],
    policy: policy::FLARE,
    empty: "both masks empty: 1 and 1; only one of them empty: 0 and 0",
    group_adjustment: Adjustment::Holm,
    oddities: &[
        Oddity {
            name: "edition",
            text: "this is the script of FLARE24; the rules of later editions are not known, and are taken to be the same",
        },
        Oddity { name: "values_above_one", text: "a prediction that holds any value above 1 scores 0 and 0" },
        Oddity { name: "nsd_needs_dice", text: "NSD jumps to 0 below a Dice of 0.2, so small lesions that are half found lose it" },
        Oddity {
            name: "healthy_scans_all_or_nothing",
            text: "one false voxel on a lesion-free scan takes the case from 1 to 0, however small",
        },
    ],
    score,
};

fn score(s: &StructurePair) -> Vec<Outcome> {
    let score = if s.above_one { FlareScore::BAD_VALUES } else { FlareScore::of_pair(&s.pair, TOLERANCE_MM).rounded() };
    vec![Outcome::Value(score.dsc), Outcome::Value(score.nsd)]
}

/// Tolerance of the pan-cancer task's NSD in mm.
pub const TOLERANCE_MM: f64 = 2.0;

/// Below this Dice the NSD counts as 0 and is not computed.
const NSD_NEEDS_DICE: f64 = 0.2;

/// Which part of the rule gave the score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clause {
    /// The prediction holds a value above 1: 0 and 0.
    BadValues,
    /// Nothing to find and nothing found: 1 and 1.
    BothEmpty,
    /// Only one of them is empty: 0 and 0.
    OneEmpty,
    /// Dice below 0.2: the NSD is 0.
    LowDice,
    Measured,
}

/// Dice and NSD by FLARE's rule. Every case has both, so means are over all cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlareScore {
    pub dsc: f64,
    pub nsd: f64,
    pub clause: Clause,
}

impl FlareScore {
    pub(super) const BAD_VALUES: Self = FlareScore { dsc: 0.0, nsd: 0.0, clause: Clause::BadValues };

    /// Scores a prediction that holds 0 and 1 only; the clause of other values is the caller's, who has them.
    pub fn of_pair(pair: &Pair, tolerance_mm: f64) -> Self {
        Self::with(pair, || pair.distances(SurfaceKind::Surfels).nsd(tolerance_mm))
    }

    /// As [`FlareScore::of_pair`], where somebody has measured the surfaces, or will.
    pub fn with(pair: &Pair, nsd: impl FnOnce() -> Outcome) -> Self {
        let score = |dsc, nsd, clause| FlareScore { dsc, nsd, clause };
        match (pair.reference.is_empty(), pair.predicted.is_empty()) {
            (true, true) => return score(1.0, 1.0, Clause::BothEmpty),
            (false, false) => {}
            _ => return score(0.0, 0.0, Clause::OneEmpty),
        }
        // Neither is empty from here on, so both metrics have a value.
        let dsc = pair.overlap().dice().value().unwrap_or(0.0);
        if dsc < NSD_NEEDS_DICE {
            return score(dsc, 0.0, Clause::LowDice);
        }
        let nsd = nsd().value().unwrap_or(0.0);
        score(dsc, nsd, Clause::Measured)
    }

    /// Rounded to four decimals, half to even, as the script stores them.
    pub fn rounded(self) -> Self {
        let round = |v: f64| (v * 1e4).round_ties_even() / 1e4;
        FlareScore { dsc: round(self.dsc), nsd: round(self.nsd), clause: self.clause }
    }
}

/// What the container's use of GPU memory comes to, from samples taken at a fixed pace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Sum of the samples times their distance in time: MB s.
    pub area_mb_s: f64,
    /// The largest amount seen in more than 2 % of the samples (0 without one): the peak without its flickers.
    pub sustained_mb: f64,
    pub peak_mb: f64,
}

impl MemoryUse {
    /// `None` without samples, or where a sample or `seconds` between samples (0.1 in FLARE) is not a number from 0.
    pub fn of(samples_mb: &[f64], seconds: f64) -> Option<Self> {
        let sound = |v: &f64| v.is_finite() && *v >= 0.0;
        if samples_mb.is_empty() || !samples_mb.iter().chain([&seconds]).all(sound) {
            return None;
        }
        let sorted = crate::metrics::statistics::describe::sorted(samples_mb);
        let often = |g: &&[f64]| g.len() as f64 > 0.02 * sorted.len() as f64;
        let sustained = sorted.chunk_by(|a, b| a == b).rfind(often).and_then(|g| g.first());
        Some(MemoryUse {
            area_mb_s: samples_mb.iter().sum::<f64>() * seconds,
            sustained_mb: sustained.copied().unwrap_or(0.0),
            peak_mb: sorted.last().copied().unwrap_or(0.0),
        })
    }
}
