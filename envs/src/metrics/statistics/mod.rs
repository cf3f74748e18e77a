//! How sure a difference is: intervals, tests, corrections for many tests, ranks and how stable they are.
//!
//! Everything takes plain numbers and returns `None` where there is no answer (too few numbers, a number that is not finite).
//! Nothing draws from a hidden generator: what is random takes a seed, and equal seeds give equal bytes.

pub mod adjust;
pub mod bootstrap;
pub mod describe;
pub mod groups;
pub mod paired;
pub mod ranking;
pub mod resample;
pub mod significance;
pub mod special;
#[cfg(test)]
mod tests;
pub mod wilcoxon;

use serde::{Deserialize, Serialize};

/// What is held against "no difference".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alternative {
    TwoSided,
    /// The first is larger.
    Greater,
    /// The first is smaller.
    Less,
}

/// Statistic and p-value of a test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Test {
    pub statistic: f64,
    pub p: f64,
}

/// A value with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    pub(crate) fn around(middle: f64, reach: f64) -> Self {
        Interval { low: middle - reach, high: middle + reach }
    }
}
