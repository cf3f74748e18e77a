//! The figures of a cohort, every mean with its counts and its interval.

use panscreen_envs::metrics::detection::ScanTable;
use panscreen_envs::metrics::protocols::gf_screen::{Detection, Rates};
use panscreen_envs::metrics::protocols::{Metric, Protocol};
use panscreen_envs::metrics::statistics::Interval;
use panscreen_envs::metrics::statistics::bootstrap::{Bootstrap, IntervalKind, singles, units_of};
use panscreen_envs::metrics::statistics::describe::{mean, quantile, variance};
use panscreen_envs::metrics::statistics::groups::GroupAnalysis;
use panscreen_envs::metrics::statistics::resample::Draws;
use panscreen_envs::metrics::{Mean, Outcome};
use serde::{Deserialize, Serialize};

use super::efficiency::Efficiency;
use super::metadata::Metadata;
use super::record::{CaseRecord, Status};
use super::screening::Screening;

/// How intervals are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resampling {
    pub resamples: usize,
    pub seed: u64,
}

impl Resampling {
    pub fn draws(self) -> Draws {
        // Seeds of users lie side by side, and draws must not overlap.
        Draws { seed: self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) }
    }
}

/// `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub protocol: String,
    pub rule: String,
    /// Name of the policy for empty masks in the first metric.
    pub empty_policy: String,
    /// What empty masks count as.
    pub empty_masks: String,
    pub known_flaws: Vec<Note>,
    /// What each metric is, with its unit.
    pub metrics: Vec<Note>,
    pub cases: usize,
    /// Cases with at least one structure that was measured.
    pub scored: usize,
    /// Cases without any prediction.
    pub missing: usize,
    /// Cases none of whose predictions can be used.
    pub failed: usize,
    /// Cases whose reference can't be used; they are in no mean.
    pub unjudged: usize,
    /// Structures of all judged cases; of lesions there is one a case.
    pub structures: Structures,
    /// Predictions without a marked voxel, among the scored.
    pub empty_predictions: usize,
    pub resampling: Resampling,
    /// Patients that were drawn together for the intervals; `null`: every case by itself.
    pub patients: Option<usize>,
    pub table: Vec<Row>,
    pub screening: Option<Screening>,
    /// GF-Screen's two tables.
    pub detection: Vec<DetectionTable>,
    pub groups: Vec<FactorAnalysis>,
    pub efficiency: Option<Efficiency>,
}

/// Something that a reader of the numbers must know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub name: String,
    pub text: String,
}

impl Note {
    fn of(name: &str, text: &str) -> Self {
        Note { name: name.into(), text: text.into() }
    }
}

/// What became of the structures of a cohort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Structures {
    pub scored: usize,
    pub missing: usize,
    pub failed: usize,
    /// Scored cases that lack one or more.
    pub cases_in_part: usize,
}

impl Structures {
    fn of(cases: &[&CaseRecord]) -> Self {
        let count = |status| cases.iter().flat_map(|c| &c.structures).filter(|s| s.status == status).count();
        let in_part = |c: &&&CaseRecord| c.status == Status::Scored && c.structures.iter().any(|s| s.status != Status::Scored);
        Structures {
            scored: count(Status::Scored),
            missing: count(Status::Missing),
            failed: count(Status::Failed),
            cases_in_part: cases.iter().filter(in_part).count(),
        }
    }
}

/// One metric of one structure over the cohort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// A structure, or [`STRUCTURES`] or [`CASES`].
    pub structure: String,
    pub metric: String,
    pub higher_is_better: bool,
    pub mean: Mean,
    /// 95 % by bootstrap over patients or cases; `null` where the mean has no value.
    pub interval: Option<Interval>,
    pub deviation: Option<f64>,
    /// Lower quartile, median, upper quartile.
    pub quartiles: Option<[f64; 3]>,
}

/// The mean of the structures' means: each counts the same, however many cases hold it.
pub const STRUCTURES: &str = "mean of structures";
/// The mean over cases of each case's mean over its structures.
pub const CASES: &str = "mean of cases";

/// One of GF-Screen's tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectionTable {
    pub name: String,
    pub table: ScanTable,
    pub rates: Rates,
}

/// Cases grouped by one column of the metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactorAnalysis {
    pub factor: String,
    pub metric: String,
    /// Cases that the metadata says nothing about.
    pub unknown: usize,
    #[serde(flatten)]
    pub analysis: GroupAnalysis,
}

impl Summary {
    /// No prediction and no reference had to be given up. Missing predictions are for the reader to judge.
    pub fn is_whole(&self) -> bool {
        self.structures.failed + self.unjudged == 0
    }

    /// Cases in one line, structures too where a case has several.
    pub fn counts(&self) -> String {
        let unjudged =
            if self.unjudged > 0 { format!(", {} unjudged: their references can't be used", self.unjudged) } else { String::new() };
        let Summary { cases, scored, missing, failed, empty_predictions, .. } = self;
        let Structures { scored: whole, missing: without, failed: broken, cases_in_part } = self.structures;
        let all = whole + without + broken;
        let structures = if all > *cases {
            format!(
                "; {all} structures ({whole} scored, {without} missing, {broken} failed; {cases_in_part} of the scored cases lack some)"
            )
        } else {
            String::new()
        };
        format!(
            "{cases} cases ({scored} scored, {missing} missing, {failed} failed{unjudged}){structures}; {empty_predictions} of the scored with an empty mask"
        )
    }
}

/// Groups smaller than this are listed and left out.
pub const LEAST_GROUP: usize = 5;

/// Sum up the cases of a cohort.
pub fn summarise(
    protocol: &'static Protocol,
    cases: &[CaseRecord],
    metadata: Option<&Metadata>,
    efficiency: Option<Efficiency>,
    resampling: Resampling,
) -> Summary {
    let judged: Vec<&CaseRecord> = cases.iter().filter(|c| c.status != Status::Unjudged).collect();
    let names: Vec<&str> = judged.iter().map(|c| c.case.as_str()).collect();
    let patients = metadata.and_then(|m| m.patients(&names));
    let units: Vec<Vec<usize>> = patients.as_ref().map_or_else(|| singles(judged.len()), |p| units_of(p));
    let count = |status| cases.iter().filter(|c| c.status == status).count();
    let nothing = |c: &&&CaseRecord| c.status == Status::Scored && c.structures.iter().all(|s| s.predicted_ml == Some(0.0));
    Summary {
        protocol: protocol.name.into(),
        rule: protocol.summary.into(),
        empty_policy: protocol.policy.name.into(),
        empty_masks: protocol.empty.into(),
        known_flaws: protocol.oddities.iter().map(|o| Note::of(o.name, o.text)).collect(),
        metrics: protocol.metrics.iter().map(|m| Note::of(m.name, m.summary)).collect(),
        cases: cases.len(),
        scored: count(Status::Scored),
        missing: count(Status::Missing),
        failed: count(Status::Failed),
        unjudged: count(Status::Unjudged),
        structures: Structures::of(&judged),
        empty_predictions: judged.iter().filter(nothing).count(),
        resampling,
        patients: patients.is_some().then_some(units.len()),
        table: table(protocol, &judged, &units, resampling),
        screening: protocol.is_of_lesions().then(|| Screening::of(&judged.iter().filter_map(|c| c.lesions.as_ref()).collect::<Vec<_>>())),
        detection: detection(&judged),
        groups: metadata.map_or_else(Vec::new, |m| groups(protocol, &judged, &names, m)),
        efficiency,
    }
}

fn table(protocol: &Protocol, cases: &[&CaseRecord], units: &[Vec<usize>], resampling: Resampling) -> Vec<Row> {
    let mut rows = Vec::new();
    for structure in protocol.structures {
        rows.extend(protocol.metrics.iter().map(|m| row(structure.name, Some(structure.name), m, cases, units, resampling)));
    }
    if protocol.structures.len() > 1 {
        for metric in protocol.metrics {
            let means = rows.iter().filter(|r| r.metric == metric.name && r.structure != STRUCTURES).map(|r| &r.mean);
            let outcomes: Vec<Option<&Outcome>> = means.map(|m| Some(&m.mean)).collect();
            let mean = Mean::of(outcomes, metric.worst);
            let interval =
                if mean.mean.value().is_some() { interval_of_structures(protocol, metric, cases, units, resampling) } else { None };
            rows.push(Row {
                structure: STRUCTURES.to_owned(),
                metric: metric.name.to_owned(),
                higher_is_better: metric.higher,
                mean,
                interval,
                deviation: None,
                quartiles: None,
            });
        }
        rows.extend(protocol.metrics.iter().map(|m| row(CASES, None, m, cases, units, resampling)));
    }
    // What no case was asked says nothing (the cropped figures of organs that are not cropped).
    rows.retain(|r| r.mean.values + r.mean.failed + r.mean.missing > 0);
    rows
}

fn row(name: &str, structure: Option<&str>, metric: &Metric, cases: &[&CaseRecord], units: &[Vec<usize>], resampling: Resampling) -> Row {
    let outcomes: Vec<Option<Outcome>> = cases.iter().map(|c| c.outcome(structure, metric)).collect();
    let mean = Mean::of(outcomes.iter().map(Option::as_ref), metric.worst);
    let scores = scores_of(structure, metric, cases);
    let values: Vec<f64> = scores.iter().flatten().copied().collect();
    // A mean that has failed gets no figures of the cases that are left.
    let whole = mean.mean.value().is_some();
    let quartile = |q| quantile(&values, q);
    Row {
        structure: name.to_owned(),
        metric: metric.name.to_owned(),
        higher_is_better: metric.higher,
        interval: if whole { interval(&scores, units, resampling) } else { None },
        deviation: if whole { variance(&values).map(f64::sqrt) } else { None },
        quartiles: if whole { quartile(0.25).zip(quartile(0.5)).zip(quartile(0.75)).map(|((a, b), c)| [a, b, c]) } else { None },
        mean,
    }
}

/// What each case counts as; `None` where the metric is not asked of it, or it is lost and there is no worst value.
fn scores_of(structure: Option<&str>, metric: &Metric, cases: &[&CaseRecord]) -> Vec<Option<f64>> {
    cases.iter().map(|c| c.score(structure, metric).value()).collect()
}

/// 95 % interval of the mean of the structures' means, by drawing units again; a structure that a draw does not hold is not in its mean.
fn interval_of_structures(
    protocol: &Protocol,
    metric: &Metric,
    cases: &[&CaseRecord],
    units: &[Vec<usize>],
    resampling: Resampling,
) -> Option<Interval> {
    let scores: Vec<Vec<Option<f64>>> = protocol.structures.iter().map(|s| scores_of(Some(s.name), metric, cases)).collect();
    let units: Vec<Vec<usize>> = units.iter().filter(|u| u.iter().any(|&i| scores.iter().any(|s| s[i].is_some()))).cloned().collect();
    if units.len() < 2 {
        return None;
    }
    let statistic = |drawn: &[usize]| {
        let of = |s: &Vec<Option<f64>>| mean(&drawn.iter().filter_map(|&i| s[i]).collect::<Vec<_>>());
        mean(&scores.iter().filter_map(of).collect::<Vec<_>>()).unwrap_or(f64::NAN)
    };
    Bootstrap::of(&units, resampling.resamples, resampling.draws(), statistic)?.interval(IntervalKind::Percentile, 0.95)
}

/// 95 % interval of the mean of the scores that there are, by drawing units (patients, or cases) again.
pub fn interval(scores: &[Option<f64>], units: &[Vec<usize>], resampling: Resampling) -> Option<Interval> {
    // Only units with a score: a draw without any would have no mean.
    let units: Vec<Vec<usize>> =
        units.iter().map(|u| u.iter().copied().filter(|&i| scores[i].is_some()).collect::<Vec<_>>()).filter(|u| !u.is_empty()).collect();
    if units.len() < 2 {
        return None;
    }
    let statistic = |drawn: &[usize]| drawn.iter().filter_map(|&i| scores[i]).sum::<f64>() / drawn.len() as f64;
    Bootstrap::of(&units, resampling.resamples, resampling.draws(), statistic)?.interval(IntervalKind::Percentile, 0.95)
}

fn detection(cases: &[&CaseRecord]) -> Vec<DetectionTable> {
    let tables: Vec<_> = cases.iter().filter_map(|c| c.detection).collect();
    if tables.is_empty() {
        return Vec::new();
    }
    let sum = |name: &str, of: fn(&Detection) -> ScanTable| {
        let table: ScanTable = tables.iter().map(of).sum();
        DetectionTable { name: name.into(), table, rates: Rates::of(&table) }
    };
    vec![sum("scans", |d| d.scans), sum("lesions and lesion-free scans", |d| d.items)]
}

fn groups(protocol: &'static Protocol, cases: &[&CaseRecord], names: &[&str], metadata: &Metadata) -> Vec<FactorAnalysis> {
    let mut all = Vec::new();
    for factor in metadata.factors(names) {
        for metric in protocol.main_metrics() {
            let value = |&i: &usize| cases[i].score(None, metric).value();
            let groups: Vec<(String, Vec<f64>)> =
                factor.groups.iter().map(|(name, members)| (name.clone(), members.iter().filter_map(value).collect())).collect();
            all.push(FactorAnalysis {
                factor: factor.name.clone(),
                metric: metric.name.into(),
                unknown: factor.unknown,
                analysis: GroupAnalysis::of(&groups, LEAST_GROUP, protocol.group_adjustment),
            });
        }
    }
    all
}
