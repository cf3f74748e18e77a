//! Masks in memory against their references, for validation and the demo: no file, no protocol, the metrics and the counts of `panscreen`'s.

use panscreen_envs::metrics::detection::{LesionMatch, LesionSummary, Matching, ScanTable, match_lesions};
use panscreen_envs::metrics::flare::TOLERANCE_MM;
use panscreen_envs::metrics::{Mean, Outcome, Pair, SurfaceKind};
use serde::{Deserialize, Serialize};

/// What one prediction is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseScore {
    /// Not applicable where both masks are empty.
    pub dice: Outcome,
    /// Share of the two surfaces within 2 mm (DeepMind's surfels); `None` where it was not measured.
    pub nsd_2mm: Option<Outcome>,
    pub lesions: usize,
    pub lesions_hit: usize,
    pub false_positives: usize,
    pub reference_ml: f64,
    pub predicted_ml: f64,
    /// Every lesion and every finding.
    pub matched: LesionMatch,
}

impl CaseScore {
    /// Without the surfaces, which cost ten times as much as all else and which validation has no use for.
    pub fn of(pair: &Pair) -> Self {
        let (overlap, matched) = (pair.overlap(), match_lesions(pair, Matching::default()));
        CaseScore {
            dice: overlap.dice(),
            nsd_2mm: None,
            lesions: matched.lesions.len(),
            lesions_hit: matched.hits(),
            false_positives: matched.false_positives().count(),
            reference_ml: overlap.reference as f64 * pair.voxel_ml(),
            predicted_ml: overlap.predicted as f64 * pair.voxel_ml(),
            matched,
        }
    }

    /// The surfaces too.
    pub fn with_surfaces(pair: &Pair) -> Self {
        CaseScore { nsd_2mm: Some(pair.distances(SurfaceKind::Surfels).nsd(TOLERANCE_MM)), ..CaseScore::of(pair) }
    }
}

/// The figures of a cohort, every mean with its counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub cases: usize,
    /// Mean Dice over scans with lesions.
    pub lesion_dice: Mean,
    /// Mean NSD at 2 mm over scans with lesions where it was measured.
    pub lesion_nsd_2mm: Mean,
    pub scans: ScanTable,
    pub scan_sensitivity: Outcome,
    pub scan_specificity: Outcome,
    pub lesions: LesionSummary,
    /// Mean false positives on scans without lesions, as in `lesions`; 0 where there is no such scan.
    pub false_positives_per_healthy_scan: f64,
}

impl Scores {
    /// Sum up a cohort.
    pub fn of(cases: &[&CaseScore]) -> Self {
        let with_lesions = || cases.iter().filter(|c| c.lesions > 0);
        let scans = ScanTable::of(cases.iter().map(|c| &c.matched));
        let lesions = LesionSummary::of(cases.iter().map(|c| &c.matched));
        Scores {
            cases: cases.len(),
            lesion_dice: Mean::of(with_lesions().map(|s| Some(&s.dice)), Some(0.0)),
            lesion_nsd_2mm: Mean::of(with_lesions().map(|s| s.nsd_2mm.as_ref()).filter(Option::is_some), Some(0.0)),
            scan_sensitivity: scans.sensitivity(),
            scan_specificity: scans.specificity(),
            scans,
            false_positives_per_healthy_scan: lesions.false_positives_per_healthy_scan.value().unwrap_or(0.0),
            lesions,
        }
    }
}

#[cfg(test)]
mod tests {
    use panscreen_envs::metrics::protocols::{StructurePair, panscreen};

    use super::*;

    const CASES: [([u8; 4], [u8; 4]); 4] = [([1, 1, 0, 0], [1, 0, 0, 0]), ([1, 0, 0, 0], [0; 4]), ([0; 4], [0, 0, 0, 1]), ([0; 4], [0; 4])];

    fn pair((reference, predicted): ([u8; 4], [u8; 4])) -> Pair {
        Pair::new("t", &reference, &predicted, [1, 1, 4], [10.0; 3]).unwrap()
    }

    #[test]
    fn a_cohort_by_hand() {
        let scored = CASES.map(|c| CaseScore::of(&pair(c)));
        let s = Scores::of(&scored.iter().collect::<Vec<_>>());
        assert_eq!(s.cases, 4);
        assert_eq!((&s.lesion_dice.mean, s.lesion_dice.values), (&Outcome::Value(1.0 / 3.0), 2));
        assert_eq!((s.lesions.lesions, s.lesions.hits, s.false_positives_per_healthy_scan), (2, 1, 0.5));
        assert_eq!(s.scans, ScanTable { tp: 1, fn_: 1, fp: 1, tn: 1 });
    }

    /// Validation and `panscreen evaluate` say the same of the same masks.
    #[test]
    fn the_figures_are_those_of_the_protocol() {
        for pair in CASES.map(pair) {
            let (score, structure) = (CaseScore::with_surfaces(&pair), panscreen::PROTOCOL.structures[0]);
            let values = (panscreen::PROTOCOL.score)(&StructurePair { structure, pair, above_one: false });
            let of = |name: &str| &values[panscreen::PROTOCOL.metrics.iter().position(|m| m.name == name).unwrap()];
            assert_eq!(of("false_positives").value(), Some(score.false_positives as f64));
            if score.reference_ml > 0.0 {
                assert_eq!((of("dice"), Some(of("nsd_2mm"))), (&score.dice, score.nsd_2mm.as_ref()));
                assert_eq!(of("lesion_recall").value(), Some(score.lesions_hit as f64 / score.lesions as f64));
            }
        }
    }
}
