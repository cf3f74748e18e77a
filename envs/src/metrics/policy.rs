//! What a metric counts as where a mask is empty. Benchmarks differ, so the policy has a name, and stands above every table.

use serde::{Deserialize, Serialize};

use super::{Outcome, Overlap};

/// What an empty mask makes of an overlap metric (Dice, IoU, NSD).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfEmpty {
    /// The case counts as this value.
    Value(f64),
    /// The case is left out of means, and counted as left out.
    LeftOut,
}

/// A named rule for the three ways in which masks are empty. Every rule book names the one of its first metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EmptyPolicy {
    pub name: &'static str,
    pub both: IfEmpty,
    /// The reference is empty and the prediction is not.
    pub reference: IfEmpty,
    /// The prediction is empty and the reference is not.
    pub predicted: IfEmpty,
}

use IfEmpty::{LeftOut, Value};

/// Nothing to find and nothing found is perfect, one false voxel is 0.
pub const FLARE: EmptyPolicy = EmptyPolicy { name: "flare", both: Value(1.0), reference: Value(0.0), predicted: Value(0.0) };

/// The reference alone decides whether a case counts; false positives where there is nothing do not show.
pub const REFERENCE_ONLY: EmptyPolicy = EmptyPolicy { name: "reference_only", both: LeftOut, reference: LeftOut, predicted: Value(0.0) };

/// An empty reference is perfect, whatever was predicted.
pub const GF_SCREEN: EmptyPolicy = EmptyPolicy { name: "gf_screen", both: Value(1.0), reference: Value(1.0), predicted: Value(0.0) };

impl EmptyPolicy {
    /// `measured`, or what stands for it where a mask of the pair is empty.
    pub fn apply(&self, overlap: Overlap, measured: Outcome) -> Outcome {
        let (rule, what) = match (overlap.reference, overlap.predicted) {
            (0, 0) => (self.both, "both masks are empty"),
            (0, _) => (self.reference, "the reference is empty"),
            (_, 0) => (self.predicted, "the prediction is empty"),
            _ => return measured,
        };
        match rule {
            Value(v) => Outcome::Value(v),
            LeftOut => Outcome::not_applicable(what),
        }
    }
}

#[test]
fn each_policy_on_each_kind_of_emptiness() {
    let overlap = |reference, predicted| Overlap { reference, predicted, both: 0 };
    for (policy, both, reference, predicted) in
        [(FLARE, Some(1.0), Some(0.0), Some(0.0)), (REFERENCE_ONLY, None, None, Some(0.0)), (GF_SCREEN, Some(1.0), Some(1.0), Some(0.0))]
    {
        for (o, want) in [(overlap(0, 0), both), (overlap(0, 5), reference), (overlap(5, 0), predicted), (overlap(5, 5), Some(0.0))] {
            assert_eq!(policy.apply(o, o.dice()).value(), want, "{} {o:?}", policy.name);
        }
    }
}
