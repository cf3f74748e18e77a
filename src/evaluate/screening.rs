//! Lesions and scans of a cohort: found, missed, wrongly marked, and how sure the method was.

use panscreen_envs::metrics::Outcome;
use panscreen_envs::metrics::calibration::{Bin, Forecasts, largest_gap, mean_gap};
use panscreen_envs::metrics::detection::{LesionSummary, ScanTable, Size, SizeClass, sensitivity_by_size};
use panscreen_envs::metrics::froc::{CAMELYON, FreeResponse, FrocPoint, LUNA, froc_score};
use panscreen_envs::metrics::matching::Counts;
use panscreen_envs::metrics::protocols::panscreen;
use panscreen_envs::metrics::roc::{Auc, Scored};
use panscreen_envs::metrics::statistics::Interval;
use panscreen_envs::metrics::statistics::special::wilson;
use serde::{Deserialize, Serialize};

use super::record::LesionRecord;

/// Lesions and scans: found, missed, wrongly marked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Screening {
    pub scans: ScanTable,
    pub sensitivity: Rate,
    pub specificity: Rate,
    pub lesions: LesionSummary,
    pub recall: Rate,
    /// Of the recall and the precision of `lesions`.
    pub f1: Outcome,
    pub one_to_one: OneToOne,
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

/// Lesions and findings in pairs, each in one pair at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneToOne {
    /// Pairs overlap at least this much.
    pub least_iou: f64,
    pub counts: Counts,
    pub recall: Outcome,
    pub precision: Outcome,
    pub f1: Outcome,
}

/// A share with what it is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub value: Outcome,
    pub hits: usize,
    pub of: usize,
    /// Wilson's 95 %; lesions of one scan count as independent.
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

fn rate(hits: usize, of: usize, if_none: &str) -> Rate {
    Rate { value: Outcome::ratio(hits as f64, of as f64, if_none), hits, of, interval: wilson(hits, of, 0.95) }
}

impl Screening {
    pub fn of(cases: &[&LesionRecord]) -> Self {
        let matched = || cases.iter().map(|c| &c.matched);
        let scans = ScanTable::of(matched());
        let pairs: Counts = cases.iter().map(|c| c.one_to_one).sum();
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
            f1: lesions.f1(),
            one_to_one: OneToOne {
                least_iou: panscreen::LEAST_IOU,
                counts: pairs,
                recall: pairs.recall(),
                precision: pairs.precision(),
                f1: pairs.f1(),
            },
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
}

fn free_response(cases: &[&LesionRecord], by_probability: bool) -> FreeResponse {
    let mut all = FreeResponse::default();
    for case in cases {
        match case.matched.findings {
            Some(_) => all.add(case.matched.lesions.len(), &case.scores(by_probability), case.links.iter().copied()),
            None => all.add_without_prediction(case.matched.lesions.len()),
        }
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
