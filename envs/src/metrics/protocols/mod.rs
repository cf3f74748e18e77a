//! The rule books of benchmarks, each under its name. A published rule is followed with its flaws, and each flaw is named in the output.

pub mod flare24;
pub mod flare_organs;
pub mod gf_screen;
pub mod panscreen;
#[cfg(test)]
mod tests;
pub mod touchstone;

use super::{Outcome, Pair};
use crate::volume::runs::Runs;
use crate::{Error, Result};

/// Reference and prediction of one case as stored: labels, C order over `[x][y][z]`, z from feet to head or the reverse.
#[derive(Clone, Copy, Debug)]
pub struct CaseMasks<'a> {
    pub case: &'a str,
    pub reference: &'a [u8],
    pub predicted: &'a [u8],
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
}

impl CaseMasks<'_> {
    /// The masks of one structure.
    ///
    /// # Errors
    /// As [`Pair::new`].
    pub fn pair(&self, structure: &Structure) -> Result<Pair> {
        // One check of sizes and spacing for all structures; then only the voxels of this one.
        let mut pair = Pair::new(self.case, self.reference, self.predicted, self.shape, self.spacing_mm)?;
        if let Some(label) = structure.label {
            pair.reference = Runs::select(self.reference, self.shape, |v| v == label);
            pair.predicted = Runs::select(self.predicted, self.shape, |v| v == label);
        }
        Ok(pair)
    }
}

/// Something that is scored by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Structure {
    pub name: &'static str,
    /// Its value in both masks; `None`: every value but 0.
    pub label: Option<u8>,
}

/// A column of the protocol's table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub summary: &'static str,
    pub asked: Asked,
    /// Higher values are better.
    pub higher: bool,
    /// What a failed or missing prediction counts as, see [`super::Mean::of`].
    pub worst: Option<f64>,
}

/// On which references a metric has something to say. It never depends on the prediction, so that two methods are compared on the same cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Always,
    /// Only where the reference holds the structure.
    WithReference,
    /// Only where it does not.
    WithoutReference,
}

impl Asked {
    /// Whether the metric speaks about a reference that is empty or not.
    pub fn of(self, reference_is_empty: bool) -> bool {
        match self {
            Asked::Always => true,
            Asked::WithReference => !reference_is_empty,
            Asked::WithoutReference => reference_is_empty,
        }
    }
}

impl Metric {
    /// From 0 (the worst) to 1.
    const fn share(name: &'static str, summary: &'static str, asked: Asked) -> Self {
        Metric { name, summary, asked, higher: true, worst: Some(0.0) }
    }

    /// From 0 (the best) without a limit: a case without a usable prediction has no number.
    const fn amount(name: &'static str, summary: &'static str, asked: Asked) -> Self {
        Metric { name, summary, asked, higher: false, worst: None }
    }
}

/// Something about a published rule that a reader of its numbers must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oddity {
    pub name: &'static str,
    pub text: &'static str,
}

/// The metrics of one structure, in the order of [`Protocol::metrics`].
#[derive(Clone, Debug, PartialEq)]
pub struct StructureScore {
    pub structure: &'static str,
    pub values: Vec<Outcome>,
}

/// A rule book: what is scored, how, and what to know about it.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// As in `panscreen evaluate --protocol NAME`.
    pub name: &'static str,
    pub summary: &'static str,
    pub structures: &'static [Structure],
    pub metrics: &'static [Metric],
    /// Metrics that methods are ranked and groups compared by; each has a worst value.
    pub main: &'static [&'static str],
    /// What empty masks count as, printed above every table.
    pub empty: &'static str,
    pub oddities: &'static [Oddity],
    /// Scores one structure of one case, in the order of `metrics`.
    pub score: fn(&StructurePair) -> Vec<Outcome>,
}

/// Both masks of one structure in one case.
#[derive(Clone, Debug)]
pub struct StructurePair {
    pub structure: Structure,
    pub pair: Pair,
    /// The prediction as stored holds a value above 1.
    pub above_one: bool,
}

impl Protocol {
    /// The metrics of `main`.
    pub fn main_metrics(&self) -> impl Iterator<Item = &'static Metric> {
        self.metrics.iter().filter(|m| self.main.contains(&m.name))
    }

    /// Whether all lesions are one structure, so that lesions are matched and scans called healthy.
    pub fn is_of_lesions(&self) -> bool {
        matches!(self.structures, [Structure { label: None, .. }])
    }

    /// Scores one case: one entry for each of `structures`, in their order.
    ///
    /// # Errors
    /// As [`Pair::new`]: masks that do not fit together.
    pub fn score(&self, case: &CaseMasks) -> Result<Vec<StructureScore>> {
        let above_one = case.predicted.iter().any(|&v| v > 1);
        let score = |s: &Structure| {
            let values = (self.score)(&StructurePair { structure: *s, pair: case.pair(s)?, above_one });
            Ok(StructureScore { structure: s.name, values })
        };
        self.structures.iter().map(score).collect()
    }
}

/// All rule books; the first is the recommended one.
pub const PROTOCOLS: [Protocol; 5] =
    [panscreen::PROTOCOL, flare24::PROTOCOL, flare_organs::PROTOCOL, gf_screen::PROTOCOL, touchstone::PROTOCOL];

/// The rule book called `name`.
///
/// # Errors
/// [`Error::Setting`] with the nearest name and the list of all where there is none.
pub fn find(name: &str) -> Result<&'static Protocol> {
    static ALL: [Protocol; 5] = PROTOCOLS;
    ALL.iter().find(|p| p.name == name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|p| p.name).collect();
        let near = names.iter().copied().max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
        Error::Setting(format!(
            "there is no protocol `{name}`; did you mean `{}`? The protocols are {}",
            near.unwrap_or_default(),
            names.join(", ")
        ))
    })
}
