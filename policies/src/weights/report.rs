//! What of a file went into a network.

use std::fmt;

/// What was loaded and what was not. Shapes stand beside the names, so that a list can be acted on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Loaded: name and shape.
    pub matched: Vec<(String, Vec<usize>)>,
    /// Wanted by the network, absent from the file.
    pub missing: Vec<(String, Vec<usize>)>,
    /// In the file, unknown to the network.
    pub unexpected: Vec<(String, Vec<usize>)>,
    /// In both: name, shape in the file, shape in the network.
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Of the network, left as they were because the scope leaves them out.
    pub left: Vec<(String, Vec<usize>)>,
    /// The scope asked for.
    pub(super) partial: bool,
}

impl Report {
    /// Numbers (parameters and running statistics) that were loaded.
    pub fn matched_parameters(&self) -> usize {
        parameters(self.matched.iter().map(|(_, shape)| shape))
    }

    /// Share of the numbers asked for that were loaded, 0 to 1.
    pub fn coverage(&self) -> f64 {
        self.matched_parameters() as f64 / self.wanted_parameters().max(1) as f64
    }

    /// Numbers that should have been loaded.
    pub fn wanted_parameters(&self) -> usize {
        let mismatched = parameters(self.mismatched.iter().map(|(_, _, network)| network));
        self.matched_parameters() + parameters(self.missing.iter().map(|(_, shape)| shape)) + mismatched
    }

    /// Everything in the scope was loaded; for the whole network, nothing was left over either.
    pub fn is_full(&self) -> bool {
        self.missing.is_empty() && self.mismatched.is_empty() && (self.partial || self.unexpected.is_empty()) && !self.matched.is_empty()
    }
}

fn parameters<'a>(shapes: impl Iterator<Item = &'a Vec<usize>>) -> usize {
    shapes.map(|shape| shape.iter().product::<usize>()).sum()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = self.matched.len() + self.missing.len() + self.mismatched.len();
        let (numbers, all) = (self.matched_parameters(), self.wanted_parameters());
        write!(f, "matched {} of {wanted} tensors ({numbers} of {all} parameters)", self.matched.len())?;
        let named = |f: &mut fmt::Formatter<'_>, title: &str, list: &[(String, Vec<usize>)]| {
            if list.is_empty() {
                return Ok(());
            }
            write!(f, "; {title}: ")?;
            join(f, list, |f, (name, shape)| write!(f, "{name} {shape:?}"))
        };
        named(f, "missing", &self.missing)?;
        named(f, "unexpected", &self.unexpected)?;
        if !self.mismatched.is_empty() {
            write!(f, "; other shape: ")?;
            join(f, &self.mismatched, |f, (name, found, expected)| write!(f, "{name} {found:?}, expected {expected:?}"))?;
        }
        if self.is_full() {
            Ok(())
        } else {
            write!(f, "; check that the run's config is the one the weights were trained with, or give a scope")
        }
    }
}

/// At most eight entries of a list, then how many more there are.
fn join<T>(f: &mut fmt::Formatter<'_>, list: &[T], each: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result) -> fmt::Result {
    const SHOWN: usize = 8;
    for (i, item) in list.iter().take(SHOWN).enumerate() {
        if i > 0 {
            write!(f, ", ")?;
        }
        each(f, item)?;
    }
    if list.len() > SHOWN { write!(f, ", and {} more", list.len() - SHOWN) } else { Ok(()) }
}
