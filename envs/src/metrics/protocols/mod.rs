//! The rule books of benchmarks, each under its name. A published rule is followed with its flaws, and each flaw is named in the output.

pub mod flare24;
pub mod flare_organs;
pub mod gf_screen;
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
    /// What a failed or missing prediction counts as, see [`super::Mean::of`].
    pub worst: Option<f64>,
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
    /// What empty masks count as, printed above every table.
    pub empty: &'static str,
    pub oddities: &'static [Oddity],
    /// Scores one case: one entry for each of `structures`, in their order. Fails where the masks do not fit together.
    pub score: fn(&CaseMasks) -> Result<Vec<StructureScore>>,
}

/// All rule books.
pub const PROTOCOLS: [Protocol; 4] = [flare24::PROTOCOL, flare_organs::PROTOCOL, gf_screen::PROTOCOL, touchstone::PROTOCOL];

/// The rule book called `name`.
///
/// # Errors
/// [`Error::Setting`] with the nearest name and the list of all where there is none.
pub fn find(name: &str) -> Result<&'static Protocol> {
    static ALL: [Protocol; 4] = PROTOCOLS;
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
