//! The per-case rule of the FLARE pan-cancer task (FLARE24 Task 1, official script).

use serde::{Deserialize, Serialize};

use super::{Pair, SurfaceKind};
use crate::Result;

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
    /// Scores `predicted` (values as stored) against `reference` (lesion where not 0), both C order over `[x][y][z]`.
    ///
    /// # Errors
    /// As [`Pair::new`]: masks that do not fit `shape`, or an impossible spacing.
    pub fn of(case: &str, reference: &[u8], predicted: &[u8], shape: [usize; 3], spacing_mm: [f64; 3], tolerance_mm: f64) -> Result<Self> {
        let pair = Pair::new(case, reference, predicted, shape, spacing_mm)?;
        if predicted.iter().any(|&v| v > 1) {
            return Ok(FlareScore { dsc: 0.0, nsd: 0.0, clause: Clause::BadValues });
        }
        Ok(Self::of_pair(&pair, tolerance_mm))
    }

    /// The same for masks already known to hold 0 and 1 only.
    pub fn of_pair(pair: &Pair, tolerance_mm: f64) -> Self {
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
        let nsd = pair.distances(SurfaceKind::Surfels).nsd(tolerance_mm).value().unwrap_or(0.0);
        score(dsc, nsd, Clause::Measured)
    }

    /// Rounded to four decimals, half to even, as the script stores them.
    pub fn rounded(self) -> Self {
        let round = |v: f64| (v * 1e4).round_ties_even() / 1e4;
        FlareScore { dsc: round(self.dsc), nsd: round(self.nsd), clause: self.clause }
    }
}
