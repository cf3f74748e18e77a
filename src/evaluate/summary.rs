//! The figures of a cohort, every mean with its counts and its interval.

use panscreen_envs::metrics::calibration::{Bin, Forecasts, largest_gap, mean_gap};
use panscreen_envs::metrics::detection::{LesionSummary, ScanTable, Size, SizeClass, sensitivity_by_size};
use panscreen_envs::metrics::froc::{CAMELYON, FreeResponse, FrocPoint, LUNA, froc_score};
use panscreen_envs::metrics::protocols::gf_screen::Rates;
use panscreen_envs::metrics::protocols::{Metric, Protocol};
use panscreen_envs::metrics::roc::{Auc, Scored};
use panscreen_envs::metrics::statistics::Interval;
use panscreen_envs::metrics::statistics::adjust::Adjustment;
use panscreen_envs::metrics::statistics::bootstrap::{Bootstrap, IntervalKind, units_of};
use panscreen_envs::metrics::statistics::describe::{quantile, variance};
use panscreen_envs::metrics::statistics::groups::GroupAnalysis;
use panscreen_envs::metrics::statistics::resample::Draws;
use panscreen_envs::metrics::statistics::special::wilson;
use panscreen_envs::metrics::{Mean, Outcome};
use serde::{Deserialize, Serialize};

use super::efficiency::Efficiency;
use super::metadata::Metadata;
use super::record::{CaseRecord, LesionRecord, Score, Status};

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
    /// What empty masks count as.
    pub empty_masks: String,
    pub known_flaws: Vec<Flaw>,
    pub cases: usize,
    pub scored: usize,
    pub missing: usize,
    pub failed: usize,
    /// Cases whose reference can't be used; they are in no mean.
    pub unjudged: usize,
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

/// Something about the rule that a reader of its numbers must know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flaw {
    pub name: String,
    pub text: String,
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

/// Lesions and scans: found, missed, wrongly marked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Screening {
    pub scans: ScanTable,
    pub sensitivity: Rate,
    pub specificity: Rate,
    pub lesions: LesionSummary,
    pub recall: Rate,
    pub by_volume_ml: Vec<SizeClass>,
    pub by_diameter_mm: Vec<SizeClass>,
    /// What findings are scored by: `probability` (saved beside the masks) or `volume_ml`.
    pub scores: String,
    /// Area under the ROC of scans by their highest score, with DeLong's interval.
    pub auc: Option<Auc>,
    pub auc_interval: Option<Interval>,
    pub average_precision: Option<f64>,
    pub froc: Option<Vec<FrocPoint>>,
    pub camelyon_score: Option<f64>,
    pub luna_score: Option<f64>,
    /// Of findings by their probability; `null` where masks came without.
    pub calibration: Option<Calibration>,
}

/// A share with what it is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub value: Outcome,
    pub hits: usize,
    pub of: usize,
    /// Wilson's 95 %.
    pub interval: Option<Interval>,
}

/// Is a finding of probability p a lesion in p of the cases?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    pub findings: usize,
    /// Mean and largest gap over ten bins of equal width, mean gap over ten of equal mass.
    pub ece: Option<f64>,
    pub mce: Option<f64>,
    pub ace: Option<f64>,
    pub brier: f64,
    pub bins: Vec<Bin>,
}

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
    let units: Vec<Vec<usize>> = patients.as_ref().map_or_else(|| (0..judged.len()).map(|i| vec![i]).collect(), |p| units_of(p));
    let count = |status| cases.iter().filter(|c| c.status == status).count();
    let nothing = |c: &&&CaseRecord| c.status == Status::Scored && c.structures.iter().all(|s| s.predicted_ml == Some(0.0));
    Summary {
        protocol: protocol.name.into(),
        rule: protocol.summary.into(),
        empty_masks: protocol.empty.into(),
        known_flaws: protocol.oddities.iter().map(|o| Flaw { name: o.name.into(), text: o.text.into() }).collect(),
        cases: cases.len(),
        scored: count(Status::Scored),
        missing: count(Status::Missing),
        failed: count(Status::Failed),
        unjudged: count(Status::Unjudged),
        empty_predictions: judged.iter().filter(nothing).count(),
        resampling,
        patients: patients.is_some().then_some(units.len()),
        table: table(protocol, &judged, &units, resampling),
        screening: protocol.is_of_lesions().then(|| screening(&judged.iter().filter_map(|c| c.lesions.as_ref()).collect::<Vec<_>>())),
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
            let name = STRUCTURES.to_owned();
            let (metric, higher_is_better) = (metric.name.to_owned(), metric.higher);
            rows.push(Row { structure: name, metric, higher_is_better, mean, interval: None, deviation: None, quartiles: None });
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
    let scores: Vec<Option<f64>> =
        cases.iter().map(|c| if let Score::Value(v) = c.score(structure, metric) { Some(v) } else { None }).collect();
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

/// 95 % interval of the mean of the scores that there are, by drawing units (patients, or cases) again.
pub fn interval(scores: &[Option<f64>], units: &[Vec<usize>], resampling: Resampling) -> Option<Interval> {
    // Only units with a score: a draw without any would have no mean.
    let units: Vec<Vec<usize>> =
        units.iter().map(|u| u.iter().copied().filter(|&i| scores[i].is_some()).collect::<Vec<_>>()).filter(|u| !u.is_empty()).collect();
    if units.len() < 2 {
        return None;
    }
    let mean = |drawn: &[usize]| drawn.iter().filter_map(|&i| scores[i]).sum::<f64>() / drawn.len() as f64;
    Bootstrap::of(&units, resampling.resamples, resampling.draws(), mean)?.interval(IntervalKind::Percentile, 0.95)
}

fn rate(hits: usize, of: usize, if_none: &str) -> Rate {
    Rate { value: Outcome::ratio(hits as f64, of as f64, if_none), hits, of, interval: wilson(hits, of, 0.95) }
}

fn screening(cases: &[&LesionRecord]) -> Screening {
    let mut scans = ScanTable::default();
    cases.iter().for_each(|c| scans.add(c.cell()));
    let matched = || cases.iter().map(|c| &c.matched);
    let lesions = LesionSummary::of(matched());
    let usable = |c: &&&LesionRecord| c.matched.findings.is_some();
    let by_probability = cases.iter().filter(usable).count() > 0 && cases.iter().filter(usable).all(|c| c.probabilities.is_some());
    let response = free_response(cases, by_probability);
    let froc = response.curve(false);
    let scored = scan_scores(cases, by_probability);
    let by_size = |size: Size| sensitivity_by_size(matched(), size, size.usual_limits());
    let auc = scored.as_ref().map(Scored::auc);
    Screening {
        sensitivity: rate(scans.tp, scans.tp + scans.fn_, "no scan has a lesion"),
        specificity: rate(scans.tn, scans.tn + scans.fp, "every scan has a lesion"),
        scans,
        recall: rate(lesions.hits, lesions.lesions, "no scan has a lesion"),
        lesions,
        by_volume_ml: by_size(Size::Ml),
        by_diameter_mm: by_size(Size::DiameterMm),
        scores: if by_probability { "probability" } else { "volume_ml" }.into(),
        auc_interval: auc.and_then(|a| a.logit(0.95)),
        auc,
        average_precision: scored.as_ref().map(Scored::average_precision),
        camelyon_score: froc.as_ref().and_then(|c| froc_score(c, &CAMELYON)),
        luna_score: froc.as_ref().and_then(|c| froc_score(c, &LUNA)),
        froc,
        calibration: if by_probability { calibration(cases) } else { None },
    }
}

fn free_response(cases: &[&LesionRecord], by_probability: bool) -> FreeResponse {
    let mut all = FreeResponse::default();
    for case in cases {
        let lesions = case.matched.lesions.len();
        let Some(findings) = &case.matched.findings else {
            all.add_without_prediction(lesions);
            continue;
        };
        let scores = case.scores(by_probability);
        let mut best: Vec<Option<f64>> = vec![None; lesions];
        for &[lesion, finding] in &case.links {
            if let (Some(best), Some(&score)) = (best.get_mut(lesion), scores.get(finding)) {
                *best = Some(best.map_or(score, |b| b.max(score)));
            }
        }
        all.scans += 1;
        all.lesions.extend(best);
        all.false_positives.extend(findings.iter().zip(&scores).filter(|(f, _)| !f.hit()).map(|(_, s)| *s));
    }
    all
}

/// Scans by their highest score; a lost one gets the score that is most wrong.
fn scan_scores(cases: &[&LesionRecord], by_probability: bool) -> Option<Scored> {
    let top = |c: &LesionRecord| c.scores(by_probability).into_iter().fold(0.0, f64::max);
    let highest = cases.iter().map(|c| top(c)).fold(0.0, f64::max);
    let diseased: Vec<bool> = cases.iter().map(|c| !c.matched.lesions.is_empty()).collect();
    let score = |c: &&LesionRecord| match (&c.matched.findings, c.matched.lesions.is_empty()) {
        (Some(_), _) => top(c),
        (None, true) => highest + 1.0,
        (None, false) => -1.0,
    };
    Scored::new(&diseased, &cases.iter().map(score).collect::<Vec<_>>())
}

fn calibration(cases: &[&LesionRecord]) -> Option<Calibration> {
    let (mut hit, mut p) = (Vec::new(), Vec::new());
    for case in cases {
        let findings = case.matched.findings.iter().flatten();
        for (finding, probability) in findings.zip(case.scores(true)) {
            hit.push(finding.hit());
            p.push(probability.clamp(0.0, 1.0));
        }
    }
    let forecasts = Forecasts::new(&hit, &p)?;
    let bins = forecasts.equal_width(10);
    let (ece, mce, ace) = (mean_gap(&bins), largest_gap(&bins), mean_gap(&forecasts.equal_mass(10)));
    Some(Calibration { findings: hit.len(), ece, mce, ace, brier: forecasts.brier(), bins })
}

fn detection(cases: &[&CaseRecord]) -> Vec<DetectionTable> {
    let tables: Vec<_> = cases.iter().filter_map(|c| c.detection).collect();
    if tables.is_empty() {
        return Vec::new();
    }
    let sum = |name: &str, of: fn(&panscreen_envs::metrics::protocols::gf_screen::Detection) -> ScanTable| {
        let table = tables.iter().map(of).fold(ScanTable::default(), |a, b| ScanTable {
            tp: a.tp + b.tp,
            fn_: a.fn_ + b.fn_,
            fp: a.fp + b.fp,
            tn: a.tn + b.tn,
        });
        DetectionTable { name: name.into(), table, rates: Rates::of(&table) }
    };
    vec![sum("scans", |d| d.scans), sum("lesions and lesion-free scans", |d| d.items)]
}

fn groups(protocol: &'static Protocol, cases: &[&CaseRecord], names: &[&str], metadata: &Metadata) -> Vec<FactorAnalysis> {
    // Touchstone corrects by Bonferroni.
    let adjustment = if protocol.name == "touchstone" { Adjustment::Bonferroni } else { Adjustment::Holm };
    let mut all = Vec::new();
    for factor in metadata.factors(names) {
        for metric in protocol.main_metrics() {
            let value = |&i: &usize| if let Score::Value(v) = cases[i].score(None, metric) { Some(v) } else { None };
            let groups: Vec<(String, Vec<f64>)> =
                factor.groups.iter().map(|(name, members)| (name.clone(), members.iter().filter_map(value).collect())).collect();
            all.push(FactorAnalysis {
                factor: factor.name.clone(),
                metric: metric.name.into(),
                unknown: factor.unknown,
                analysis: GroupAnalysis::of(&groups, LEAST_GROUP, adjustment),
            });
        }
    }
    all
}
