//! The rule books of benchmarks, each under its name. A published rule is followed with its flaws, and each flaw is named in the output.

pub mod flare24;
pub mod flare_organs;
pub mod gf_screen;
pub mod panscreen;
#[cfg(test)]
mod tests;
pub mod touchstone;

use super::policy::EmptyPolicy;
use super::statistics::adjust::Adjustment;
use super::{Outcome, Pair};
use crate::{Error, Result};

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
    /// What empty masks count as in the first metric, and its name above every table.
    pub policy: EmptyPolicy,
    /// What empty masks count as in all metrics, printed above every table.
    pub empty: &'static str,
    /// How the pairs of groups of cases are corrected for their number.
    pub group_adjustment: Adjustment,
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
