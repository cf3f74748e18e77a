//! What a metric counts as where a mask is empty. Benchmarks differ, so the policy has a name, stands in the config and above every table.

use serde::{Deserialize, Serialize};

use super::{Outcome, Overlap};

/// What an empty mask makes of an overlap metric (Dice, IoU, NSD).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfEmpty {
    /// The formula's own answer: 0 where one mask is empty, not applicable where both are.
    AsMeasured,
    /// The case counts as this value.
    Value(f64),
    /// The case is left out of means, and counted as left out.
    LeftOut,
}

/// A named rule for the three ways in which masks are empty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EmptyPolicy {
    pub name: &'static str,
    /// One sentence for the head of a table.
    pub summary: &'static str,
    pub both: IfEmpty,
    /// The reference is empty and the prediction is not.
    pub reference: IfEmpty,
    /// The prediction is empty and the reference is not.
    pub predicted: IfEmpty,
}

use IfEmpty::{AsMeasured, LeftOut, Value};

/// All policies; the first is the default.
pub const POLICIES: [EmptyPolicy; 5] = [
    EmptyPolicy {
        name: "strict",
        summary: "both masks empty: left out; only one of them empty: 0",
        both: LeftOut,
        reference: Value(0.0),
        predicted: Value(0.0),
    },
    EmptyPolicy {
        name: "flare",
        summary: "both masks empty: 1; only one of them empty: 0",
        both: Value(1.0),
        reference: Value(0.0),
        predicted: Value(0.0),
    },
    EmptyPolicy {
        name: "reference_only",
        summary: "reference empty: left out, whatever was predicted (false positives on lesion-free scans do not count); prediction empty: 0",
        both: LeftOut,
        reference: LeftOut,
        predicted: Value(0.0),
    },
    EmptyPolicy {
        name: "gf_screen",
        summary: "reference empty: 1, whatever was predicted (false positives on lesion-free scans count as perfect); prediction empty: 0",
        both: Value(1.0),
        reference: Value(1.0),
        predicted: Value(0.0),
    },
    EmptyPolicy {
        name: "as_measured",
        summary: "what the formula gives: 0 where one mask is empty, left out where both are",
        both: AsMeasured,
        reference: AsMeasured,
        predicted: AsMeasured,
    },
];

impl EmptyPolicy {
    pub fn named(name: &str) -> Option<&'static Self> {
        POLICIES.iter().find(|p| p.name == name)
    }

    /// `measured`, or what stands for it where a mask of the pair is empty.
    pub fn apply(&self, overlap: Overlap, measured: Outcome) -> Outcome {
        let (rule, what) = match (overlap.reference, overlap.predicted) {
            (0, 0) => (self.both, "both masks are empty"),
            (0, _) => (self.reference, "the reference is empty"),
            (_, 0) => (self.predicted, "the prediction is empty"),
            _ => return measured,
        };
        match rule {
            AsMeasured => measured,
            Value(v) => Outcome::Value(v),
            LeftOut => Outcome::not_applicable(what),
        }
    }
}

#[test]
fn each_policy_on_each_kind_of_emptiness() {
    let overlap = |reference, predicted| Overlap { reference, predicted, both: 0 };
    for (name, both, reference, predicted) in [
        ("strict", None, Some(0.0), Some(0.0)),
        ("flare", Some(1.0), Some(0.0), Some(0.0)),
        ("reference_only", None, None, Some(0.0)),
        ("gf_screen", Some(1.0), Some(1.0), Some(0.0)),
        ("as_measured", None, Some(0.0), Some(0.0)),
    ] {
        let policy = EmptyPolicy::named(name).unwrap();
        for (o, want) in [(overlap(0, 0), both), (overlap(0, 5), reference), (overlap(5, 0), predicted), (overlap(5, 5), Some(0.0))] {
            assert_eq!(policy.apply(o, o.dice()).value(), want, "{name} {o:?}");
        }
    }
    assert_eq!(EmptyPolicy::named("none"), None);
}
