//! The figures of one case, and of a cohort.

use panscreen_envs::metrics::detection::{LesionMatch, LesionSummary, Matching, ScanCell, ScanTable, match_lesions};
use panscreen_envs::metrics::flare::{FlareScore, TOLERANCE_MM};
use panscreen_envs::metrics::{Mean, Outcome, Pair, SurfaceKind};
use serde::{Deserialize, Serialize};

/// What one prediction is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseScore {
    /// Not applicable where both masks are empty.
    pub dice: Outcome,
    /// Share of the two surfaces within 2 mm (DeepMind's surfels).
    pub nsd_2mm: Outcome,
    /// The FLARE pan-cancer rule.
    pub flare: FlareScore,
    pub scan: ScanCell,
    pub lesions: usize,
    pub lesions_hit: usize,
    pub false_positives: usize,
    pub false_positive_ml: f64,
    pub reference_ml: f64,
    pub predicted_ml: f64,
    /// Every lesion and every finding.
    pub matched: LesionMatch,
}

impl CaseScore {
    pub fn of(pair: &Pair) -> Self {
        let (overlap, matched) = (pair.overlap(), match_lesions(pair, Matching::default()));
        let nsd_2mm = pair.distances(SurfaceKind::Surfels).nsd(TOLERANCE_MM);
        CaseScore {
            dice: overlap.dice(),
            nsd_2mm,
            flare: FlareScore::of_pair(pair, TOLERANCE_MM),
            scan: ScanCell::of(pair),
            lesions: matched.lesions.len(),
            lesions_hit: matched.hits(),
            false_positives: matched.false_positives().count(),
            false_positive_ml: matched.false_positive_ml(),
            reference_ml: overlap.reference as f64 * pair.voxel_ml(),
            predicted_ml: overlap.predicted as f64 * pair.voxel_ml(),
            matched,
        }
    }
}

/// A case of the reference and what became of its prediction: three different things.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Judged {
    /// There is a prediction (it may be empty) and it was measured.
    Scored(CaseScore),
    /// There is no prediction. Counts as the worst value.
    Missing {
        /// Its lesions, all missed.
        matched: LesionMatch,
    },
    /// There is a prediction that can't be used. Counts as the worst value.
    Failed { reason: String, matched: LesionMatch },
}

impl Judged {
    fn matched(&self) -> &LesionMatch {
        match self {
            Judged::Scored(s) => &s.matched,
            Judged::Missing { matched } | Judged::Failed { matched, .. } => matched,
        }
    }

    fn cell(&self) -> ScanCell {
        match self {
            Judged::Scored(s) => s.scan,
            Judged::Missing { .. } | Judged::Failed { .. } => ScanCell::without_prediction(!self.matched().lesions.is_empty()),
        }
    }
}

/// The figures of a cohort, every mean with its counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub cases: usize,
    pub scored: usize,
    pub missing: usize,
    pub failed: usize,
    /// Predictions without a marked voxel, among the scored.
    pub empty_predictions: usize,
    /// Mean Dice over scans with lesions.
    pub lesion_dice: Mean,
    /// Mean NSD at 2 mm over scans with lesions.
    pub lesion_nsd_2mm: Mean,
    /// FLARE rule over all scans.
    pub flare_dsc: Mean,
    pub flare_nsd: Mean,
    pub scans: ScanTable,
    pub scan_sensitivity: Outcome,
    pub scan_specificity: Outcome,
    pub lesions: LesionSummary,
    /// Mean false positives on scans without lesions, as in `lesions`; 0 where there is no such scan.
    pub false_positives_per_healthy_scan: f64,
}

/// Sum up a cohort.
pub fn summarise(cases: &[Judged]) -> Summary {
    let diseased = || cases.iter().filter(|c| !c.matched().lesions.is_empty());
    let failed = Outcome::failed("the prediction can't be used");
    let mean = |which: &dyn Fn(&CaseScore) -> Outcome, over: Vec<&Judged>| {
        let outcomes: Vec<Option<Outcome>> = over
            .into_iter()
            .map(|c| match c {
                Judged::Scored(s) => Some(which(s)),
                Judged::Failed { .. } => Some(failed.clone()),
                Judged::Missing { .. } => None,
            })
            .collect();
        Mean::of(outcomes.iter().map(Option::as_ref), Some(0.0))
    };
    let mut scans = ScanTable::default();
    cases.iter().for_each(|c| scans.add(c.cell()));
    let lesions = LesionSummary::of(cases.iter().map(Judged::matched));
    let count = |f: fn(&Judged) -> bool| cases.iter().filter(|c| f(c)).count();
    Summary {
        cases: cases.len(),
        scored: count(|c| matches!(c, Judged::Scored(_))),
        missing: count(|c| matches!(c, Judged::Missing { .. })),
        failed: count(|c| matches!(c, Judged::Failed { .. })),
        empty_predictions: count(|c| matches!(c, Judged::Scored(s) if s.predicted_ml == 0.0)),
        lesion_dice: mean(&|s| s.dice.clone(), diseased().collect()),
        lesion_nsd_2mm: mean(&|s| s.nsd_2mm.clone(), diseased().collect()),
        flare_dsc: mean(&|s| Outcome::Value(s.flare.dsc), cases.iter().collect()),
        flare_nsd: mean(&|s| Outcome::Value(s.flare.nsd), cases.iter().collect()),
        scan_sensitivity: scans.sensitivity(),
        scan_specificity: scans.specificity(),
        scans,
        false_positives_per_healthy_scan: lesions.false_positives_per_healthy_scan.value().unwrap_or(0.0),
        lesions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use panscreen_envs::volume::runs::Runs;

    fn judged(reference: [u8; 4], predicted: [u8; 4]) -> Judged {
        Judged::Scored(CaseScore::of(&Pair::new("t", &reference, &predicted, [1, 1, 4], [10.0; 3]).unwrap()))
    }

    #[test]
    fn missing_failed_and_empty_are_three_things_and_none_improves_a_mean() {
        let lost = || LesionMatch::without_prediction(&Runs::of(&[1, 0, 0, 0], [1, 1, 4]), 1.0, Matching::default());
        let s = summarise(&[
            judged([1, 1, 0, 0], [1, 1, 0, 0]),
            judged([1, 0, 0, 0], [0; 4]),
            judged([0; 4], [0, 0, 0, 1]),
            Judged::Missing { matched: lost() },
            Judged::Failed { reason: "wrong grid".into(), matched: lost() },
        ]);
        assert_eq!((s.cases, s.scored, s.missing, s.failed, s.empty_predictions), (5, 3, 1, 1, 1));
        assert_eq!(s.lesion_dice.mean, Outcome::Value(0.25));
        assert_eq!((s.lesions.lesions, s.lesions.hits), (4, 1));
        assert_eq!(s.false_positives_per_healthy_scan, 1.0);
        assert_eq!(s.scan_sensitivity, Outcome::Value(0.25));
    }
}
