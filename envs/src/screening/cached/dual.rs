//! Constrained forms of the set reward: a multiplier finds the price instead of the user.

use serde::{Deserialize, Serialize};

use super::{CachedScan, Price, SIZE_CLASSES, SetOutcome};

/// What must hold on average over scans.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// Most recall with at most this share of the windows.
    Windows(f32),
    /// Fewest windows with at least this recall in every size class.
    Recall(f32),
}

/// A constraint with its multipliers, which rise while it is broken and fall to 0 while there is room (dual ascent).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dual {
    pub constraint: Constraint,
    /// Change of a multiplier for each unit that the constraint is missed by, above 0.
    pub rate: f32,
    /// One for the windows, or one for each size class. At least 0.
    pub multipliers: [f32; SIZE_CLASSES],
}

impl Dual {
    /// Multipliers of 1: a window budget counts as much as the recall at first.
    pub fn new(constraint: Constraint, rate: f32) -> Self {
        Dual { constraint, rate, multipliers: [1.0; SIZE_CLASSES] }
    }

    /// The Lagrangian: what is wanted, plus what the constraint is kept by at its present price.
    pub fn price(&self, scan: &CachedScan) -> Price {
        let lesions = scan.lesions();
        let windows = scan.windows().max(1) as f32;
        match self.constraint {
            Constraint::Windows(_) => {
                let all = lesions.iter().sum::<u32>();
                let of_lesion = [share(1, all).unwrap_or(0.0); SIZE_CLASSES];
                Price { of_lesion, of_window: self.multipliers[0] / windows, of_false_alarm: 0.0 }
            }
            Constraint::Recall(_) => {
                let of_lesion = std::array::from_fn(|c| self.multipliers[c] * share(1, lesions[c]).unwrap_or(0.0));
                Price { of_lesion, of_window: 1.0 / windows, of_false_alarm: 0.0 }
            }
        }
    }

    /// The Lagrangian of one selection.
    pub fn reward(&self, scan: &CachedScan, outcome: &SetOutcome) -> f32 {
        self.price(scan).worth(outcome)
    }

    /// Move the multipliers by what selections of these scans made of the constraint.
    pub fn update<'a>(&mut self, seen: impl Iterator<Item = (&'a CachedScan, SetOutcome)>) {
        // Sums and counts: for the windows in place 0, or of the recall of each class over the scans that have it.
        let (mut sum, mut count) = ([0.0_f32; SIZE_CLASSES], [0.0_f32; SIZE_CLASSES]);
        for (scan, outcome) in seen {
            let lesions = scan.lesions();
            for c in 0..SIZE_CLASSES {
                let value = match self.constraint {
                    Constraint::Windows(_) => (c == 0).then(|| used(scan, &outcome)),
                    Constraint::Recall(_) => share(outcome.found[c], lesions[c]),
                };
                if let Some(value) = value {
                    sum[c] += value;
                    count[c] += 1.0;
                }
            }
        }
        for c in (0..SIZE_CLASSES).filter(|&c| count[c] > 0.0) {
            let mean = sum[c] / count[c];
            let broken_by = match self.constraint {
                Constraint::Windows(most) => mean - most,
                Constraint::Recall(least) => least - mean,
            };
            self.multipliers[c] = (self.multipliers[c] + self.rate * broken_by).max(0.0);
        }
    }
}

fn share(part: u32, all: u32) -> Option<f32> {
    (all > 0).then(|| part as f32 / all as f32)
}

fn used(scan: &CachedScan, outcome: &SetOutcome) -> f32 {
    outcome.windows_used as f32 / scan.windows().max(1) as f32
}
