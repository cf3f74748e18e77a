//! What a choice of windows promises.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Choice;

/// A promised recall: on scans like those it was calibrated on, of the lesions that Focus everywhere finds, a share of `recall` or more is found, on
/// average over scans with such lesions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guarantee {
    pub recall: f64,
    /// Glance's threshold; `null`: only Focus everywhere keeps the promise.
    pub threshold: Option<f32>,
    /// Calibration scans: validation scans with lesions that Focus finds.
    pub scans: usize,
    pub classes: Vec<ClassGuarantee>,
}

/// Whether the promise holds for lesions of one size class by themselves too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassGuarantee {
    /// Such as `below 1 mL`.
    pub lesions: String,
    /// Calibration scans with lesions of this class that Focus finds.
    pub scans: usize,
    /// False where those are too few.
    pub holds: bool,
}

impl Guarantee {
    pub fn choice(&self) -> Choice {
        self.threshold.map_or(Choice::All, Choice::Above)
    }
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "recall {} of what Focus everywhere finds is guaranteed on scans like the {} calibration scans",
            self.recall, self.scans
        )?;
        let of = |holds: bool| {
            let classes = self.classes.iter().filter(move |c| c.holds == holds);
            classes.map(|c| format!("{} ({} scans)", c.lesions, c.scans)).collect::<Vec<_>>().join(", ")
        };
        let (by_itself, not) = (of(true), of(false));
        if !by_itself.is_empty() {
            write!(f, "; by itself for lesions {by_itself}")?;
        }
        if !not.is_empty() {
            write!(f, "; too few scans for lesions {not} by themselves")?;
        }
        Ok(())
    }
}

#[test]
fn a_promise_says_on_what_it_rests_and_for_which_lesions() {
    let class = |lesions: &str, scans, holds| ClassGuarantee { lesions: lesions.into(), scans, holds };
    let classes = vec![class("below 1 mL", 25, true), class("1 to 10 mL", 30, true), class("from 10 mL", 4, false)];
    let guarantee = Guarantee { recall: 0.95, threshold: None, scans: 42, classes };
    assert_eq!(guarantee.choice(), Choice::All);
    assert_eq!(
        guarantee.to_string(),
        "recall 0.95 of what Focus everywhere finds is guaranteed on scans like the 42 calibration scans; by itself for lesions below 1 mL (25 \
         scans), 1 to 10 mL (30 scans); too few scans for lesions from 10 mL (4 scans) by themselves"
    );
}
