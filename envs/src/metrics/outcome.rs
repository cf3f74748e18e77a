//! A metric's result is one of three things, and a mean says how many of each it was made of.

use serde::{Deserialize, Serialize};

/// What came of a metric on one case. In JSON: `{"value": 0.81}`, `{"not_applicable": "..."}` or `{"failed": "..."}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A finite number.
    Value(f64),
    /// The question makes no sense on this case (the Dice of two empty masks), and nobody is to blame.
    NotApplicable(String),
    /// There should be a number and there is none (a distance to an empty prediction, a prediction of the wrong shape).
    Failed(String),
}

impl Outcome {
    pub fn not_applicable(reason: impl Into<String>) -> Self {
        Outcome::NotApplicable(reason.into())
    }

    pub fn failed(reason: impl Into<String>) -> Self {
        Outcome::Failed(reason.into())
    }

    /// `part / whole`, not applicable for the stated reason where `whole` is 0. Never -0, which an empty sum is.
    pub fn ratio(part: f64, whole: f64, if_zero: &str) -> Self {
        if whole == 0.0 { Self::not_applicable(if_zero) } else { Outcome::Value(part / whole + 0.0) }
    }

    pub fn value(&self) -> Option<f64> {
        match self {
            Outcome::Value(v) => Some(*v),
            _ => None,
        }
    }

    pub fn map(self, f: impl FnOnce(f64) -> f64) -> Self {
        match self {
            Outcome::Value(v) => Outcome::Value(f(v)),
            other => other,
        }
    }
}

/// The mean of a metric over cases, with what it was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// Mean over `values`, `failed` and `missing` cases; the latter two count as the metric's worst value.
    pub mean: Outcome,
    /// Cases with a number.
    pub values: usize,
    /// Cases left out because the metric says nothing about them.
    pub not_applicable: usize,
    /// Cases with a prediction that could not be measured.
    pub failed: usize,
    /// Cases without a prediction.
    pub missing: usize,
}

impl Mean {
    /// Mean of `outcomes` in their order; `None` is a case whose prediction is missing.
    ///
    /// `worst` is what a failed or missing case counts as: 0 for Dice, NSD and recall. Distances have no worst value (`None`): one failed
    /// case, and the mean has failed, because leaving it out would reward failing.
    pub fn of<'a>(outcomes: impl IntoIterator<Item = Option<&'a Outcome>>, worst: Option<f64>) -> Self {
        let mut mean = Mean { mean: Outcome::Value(0.0), values: 0, not_applicable: 0, failed: 0, missing: 0 };
        let mut sum = 0.0;
        for outcome in outcomes {
            match outcome {
                Some(Outcome::Value(v)) => {
                    mean.values += 1;
                    sum += v;
                }
                Some(Outcome::NotApplicable(_)) => mean.not_applicable += 1,
                Some(Outcome::Failed(_)) => mean.failed += 1,
                None => mean.missing += 1,
            }
        }
        let lost = mean.failed + mean.missing;
        let cases = mean.values + lost;
        mean.mean = match worst {
            _ if cases == 0 => Outcome::not_applicable("no case has a value"),
            None if lost > 0 => Outcome::failed(format!("{lost} of {cases} cases have no value and this metric has no worst one")),
            worst => Outcome::Value((sum + worst.unwrap_or(0.0) * lost as f64) / cases as f64),
        };
        mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_mean(outcomes: &[Option<Outcome>], worst: Option<f64>, mean: Option<f64>, counts: [usize; 4]) {
        let m = Mean::of(outcomes.iter().map(Option::as_ref), worst);
        assert_eq!((m.mean.value(), [m.values, m.not_applicable, m.failed, m.missing]), (mean, counts), "{outcomes:?}");
    }

    #[test]
    fn nothing_improves_by_failing() {
        let v = |x| Some(Outcome::Value(x));
        let (na, failed) = (|| Some(Outcome::not_applicable("both empty")), || Some(Outcome::failed("wrong shape")));
        check_mean(&[v(0.5), v(0.7)], Some(0.0), Some(0.6), [2, 0, 0, 0]);
        check_mean(&[v(0.5), v(0.7), na()], Some(0.0), Some(0.6), [2, 1, 0, 0]);
        check_mean(&[v(0.5), v(0.7), failed(), None], Some(0.0), Some(0.3), [2, 0, 1, 1]);
        check_mean(&[v(3.0), na()], None, Some(3.0), [1, 1, 0, 0]);
        check_mean(&[v(3.0), failed()], None, None, [1, 0, 1, 0]);
        check_mean(&[v(3.0), None], None, None, [1, 0, 0, 1]);
        check_mean(&[na()], Some(0.0), None, [0, 1, 0, 0]);
        check_mean(&[], Some(0.0), None, [0; 4]);
    }

    #[test]
    fn outcomes_in_json() {
        for (outcome, text) in [
            (Outcome::Value(0.25), r#"{"value":0.25}"#),
            (Outcome::not_applicable("both masks are empty"), r#"{"not_applicable":"both masks are empty"}"#),
            (Outcome::failed("no prediction"), r#"{"failed":"no prediction"}"#),
        ] {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), text);
            assert_eq!(serde_json::from_str::<Outcome>(text).unwrap(), outcome);
        }
    }
}
