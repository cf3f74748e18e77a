//! What became of one case: a line of `cases.jsonl`.

use std::collections::BTreeMap;

use panscreen_envs::metrics::detection::LesionMatch;
use panscreen_envs::metrics::matching::Counts;
use panscreen_envs::metrics::protocols::Metric;
use panscreen_envs::metrics::protocols::gf_screen::Detection;
use panscreen_envs::metrics::{Mean, Outcome};
use serde::{Deserialize, Serialize};

/// What there was to judge. Three ways to have no score are three different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is a prediction (it may be empty) and it was measured.
    Scored,
    /// There is no prediction. Counts as the worst value.
    Missing,
    /// There is a prediction that can't be used (unreadable, another shape, another place). Counts as the worst value.
    Failed,
    /// The reference can't be used: nobody is to blame, and the case is in no mean. It is listed and counted.
    Unjudged,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    pub case: String,
    /// Missing or failed where every structure is: a case that lacks one organ is no missing case.
    pub status: Status,
    /// Why it, or the worst of its structures, is not scored.
    pub reason: Option<String>,
    pub structures: Vec<StructureRecord>,
    /// Where the protocol is one of lesions.
    pub lesions: Option<LesionRecord>,
    /// The published code's two tables, where the protocol is GF-Screen's.
    pub detection: Option<Detection>,
    /// Hash of everything that the line depends on; a line with another key is done again.
    pub key: String,
}

/// One structure of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StructureRecord {
    pub structure: String,
    pub status: Status,
    /// Why it is not scored.
    pub reason: Option<String>,
    pub reference_ml: f64,
    /// `null` where there is no usable prediction.
    pub predicted_ml: Option<f64>,
    /// By the metric's name. Where the status is not `scored`, what is asked of the case has failed.
    pub values: BTreeMap<String, Outcome>,
}

impl StructureRecord {
    /// The outcome of `metric` as [`panscreen_envs::metrics::Mean::of`] takes it: `None` for a missing prediction.
    pub fn outcome(&self, metric: &str) -> Option<&Outcome> {
        self.values.get(metric).filter(|o| !(self.status == Status::Missing && matches!(o, Outcome::Failed(_))))
    }
}

/// Lesions and findings of a case, and how sure the method was of each finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LesionRecord {
    pub matched: LesionMatch,
    /// `[lesion, finding]` that share a voxel.
    pub links: Vec<[usize; 2]>,
    /// Matched one to one at the IoU of `lesion_f1`.
    pub one_to_one: Counts,
    /// Highest lesion probability in each finding, from `CASE_probability.nii.gz` beside the mask; `null` without one.
    pub probabilities: Option<Vec<f64>>,
}

impl LesionRecord {
    /// Scores of the findings: their probabilities, or their volumes in mL.
    pub fn scores(&self, by_probability: bool) -> Vec<f64> {
        match &self.probabilities {
            Some(p) if by_probability => p.clone(),
            _ => self.matched.findings.iter().flatten().map(|f| f.volume_ml).collect(),
        }
    }
}

impl CaseRecord {
    /// A case without a structure yet.
    pub fn blank(case: &str, key: String) -> Self {
        let case = case.to_owned();
        CaseRecord { case, status: Status::Scored, reason: None, structures: Vec::new(), lesions: None, detection: None, key }
    }

    /// Status and reason from the structures that it has.
    pub fn settled(mut self) -> Self {
        // The first of the worst.
        let worst = self.structures.iter().filter(|s| s.status != Status::Scored).rev().max_by_key(|s| s.status);
        self.reason = worst.and_then(|s| s.reason.clone());
        if let Some(worst) = worst.filter(|_| self.structures.iter().all(|s| s.status != Status::Scored)) {
            self.status = worst.status;
        }
        self
    }

    /// The outcome of `metric` on `structure`, as [`panscreen_envs::metrics::Mean::of`] takes it: `None` for a missing prediction.
    ///
    /// `None` for the structure: the mean over the case's structures, where a lost one counts as the metric's worst value.
    pub fn outcome(&self, structure: Option<&str>, metric: &Metric) -> Option<Outcome> {
        if let Some(name) = structure {
            return match self.structures.iter().find(|s| s.structure == name) {
                Some(s) => s.outcome(metric.name).cloned(),
                None => Some(Outcome::not_applicable("the reference has no file for it")),
            };
        }
        let asked = || self.structures.iter().filter(|s| !matches!(s.values.get(metric.name), Some(Outcome::NotApplicable(_)) | None));
        if asked().count() > 0 && asked().all(|s| s.outcome(metric.name).is_none()) {
            return None;
        }
        let outcomes: Vec<Option<&Outcome>> = asked().map(|s| s.outcome(metric.name)).collect();
        Some(match Mean::of(outcomes, metric.worst) {
            // With nothing but lost structures the case itself has failed; its reason is the first one's.
            Mean { values: 0, failed, .. } if failed > 0 => {
                Outcome::failed(self.reason.clone().unwrap_or_else(|| "no structure has a value".into()))
            }
            mean => mean.mean,
        })
    }

    /// What the case counts as in a comparison: a number, or nothing where the metric is not asked of it. A lost case without a worst value is
    /// [`Score::Lost`].
    pub fn score(&self, structure: Option<&str>, metric: &Metric) -> Score {
        match (self.outcome(structure, metric), metric.worst) {
            (Some(Outcome::Value(v)), _) => Score::Value(v),
            (Some(Outcome::NotApplicable(_)), _) => Score::NotAsked,
            (_, Some(worst)) => Score::Value(worst),
            (_, None) => Score::Lost,
        }
    }
}

impl Score {
    pub fn value(self) -> Option<f64> {
        if let Score::Value(v) = self { Some(v) } else { None }
    }
}

/// A case in a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    Value(f64),
    NotAsked,
    Lost,
}

#[cfg(test)]
mod tests {
    use panscreen_envs::metrics::protocols::touchstone;

    use super::*;

    fn organ(name: &str, dsc: Option<f64>, status: Status) -> StructureRecord {
        let reason = (status != Status::Scored).then(|| format!("no {name}"));
        let values = BTreeMap::from([("dsc".to_owned(), dsc.map_or(Outcome::failed("lost"), Outcome::Value))]);
        StructureRecord { structure: name.into(), status, reason, reference_ml: 1.0, predicted_ml: dsc.map(|_| 1.0), values }
    }

    fn case(structures: Vec<StructureRecord>) -> CaseRecord {
        CaseRecord { structures, ..CaseRecord::blank("c", String::new()) }.settled()
    }

    #[test]
    fn a_case_is_lost_where_all_of_its_structures_are() {
        let dsc = &touchstone::PROTOCOL.metrics[0];
        let (there, missing, failed) = (
            || organ("liver", Some(0.8), Status::Scored),
            || organ("aorta", None, Status::Missing),
            || organ("spleen", None, Status::Failed),
        );
        let one = case(vec![missing(), there()]);
        assert_eq!((one.status, one.reason.as_deref()), (Status::Scored, Some("no aorta")));
        // The organ that is missing costs the case's mean, and is missing in its own column.
        assert_eq!((one.outcome(None, dsc), one.outcome(Some("aorta"), dsc)), (Some(Outcome::Value(0.4)), None));
        let all = case(vec![missing(), failed()]);
        assert_eq!((all.status, all.reason.as_deref()), (Status::Failed, Some("no spleen")));
        let none = case(vec![missing(), missing()]);
        assert_eq!((none.status, none.outcome(None, dsc)), (Status::Missing, None));
        assert_eq!(case(vec![there()]).reason, None);
    }
}
