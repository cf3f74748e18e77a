//! Our own rule, the recommended one: what a screening system must be asked, and nothing that a method can win by failing.

use super::{Asked, Metric, Oddity, Protocol, Structure, StructurePair};
use crate::metrics::agreement::centre_distance_mm;
use crate::metrics::detection::{LesionMatch, Matching};
use crate::metrics::flare::{FlareScore, TOLERANCE_MM};
use crate::metrics::matching::Links;
use crate::metrics::statistics::adjust::Adjustment;
use crate::metrics::{Outcome, SurfaceKind, policy};

/// The rule book.
pub const PROTOCOL: Protocol = Protocol {
    name: "panscreen",
    summary: "panscreen: overlap, surfaces (DeepMind's surfels) and lesions of scans with lesions, false positives of all scans, the FLARE rule beside",
    structures: &[Structure { name: "lesion", label: None }],
    metrics: &[
        Metric::share("dice", "Dice", Asked::WithReference),
        Metric::share("iou", "intersection over union", Asked::WithReference),
        Metric::share("nsd_2mm", "share of both surfaces (DeepMind's surfels, by area) within 2 mm of the other", Asked::WithReference),
        Metric::share("nsd_2mm_voxels", "the same over border voxels, each counting the same (MONAI)", Asked::WithReference),
        Metric::amount("hd95_mm", "95th percentile of surface distances, the larger direction", Asked::WithReference),
        Metric::amount("assd_mm", "mean symmetric surface distance", Asked::WithReference),
        Metric::amount("volume_error", "|P - R| / R in volume", Asked::WithReference),
        Metric::amount("centre_distance_mm", "distance of the centres of mass", Asked::WithReference),
        Metric::share(
            "lesion_recall",
            "share of the scan's lesions (26 neighbours) that share a voxel with a finding",
            Asked::WithReference,
        ),
        Metric::share("lesion_f1", "F1 of lesions and findings, one to one at an IoU of at least 0.1", Asked::WithReference),
        Metric::amount("false_positives", "findings on no lesion", Asked::Always),
        Metric::amount("false_positive_ml", "their volume in mL", Asked::Always),
        Metric::amount("healthy_false_positive_ml", "volume marked on a lesion-free scan in mL", Asked::WithoutReference),
        Metric::share("flare_dsc", "Dice by the FLARE rule, all scans", Asked::Always),
        Metric::share("flare_nsd", "NSD by the FLARE rule, all scans", Asked::Always),
    ],
    main: &["dice", "nsd_2mm", "lesion_recall", "flare_dsc"],
    policy: policy::REFERENCE_ONLY,
    empty: "reference empty: left out of overlap, distances and lesion metrics, what was marked is in false_positives, false_positive_ml, \
            healthy_false_positive_ml and the FLARE rule; prediction alone empty: 0, and its distances have failed",
    group_adjustment: Adjustment::Holm,
    oddities: &[
        Oddity {
            name: "worst_of_distances",
            text: "a distance has no worst value: with one case that is missing, failed or empty, its mean has failed and only ranks are given",
        },
        Oddity { name: "hit_by_one_voxel", text: "lesion_recall takes one shared voxel for a hit; lesion_f1 does not" },
        Oddity {
            name: "flare_jumps",
            text: "flare_dsc and flare_nsd have the FLARE rule's jumps: one false voxel on a lesion-free scan costs the case",
        },
    ],
    score,
};

/// One-to-one matches of `lesion_f1` overlap at least this much.
pub const LEAST_IOU: f64 = 0.1;

fn score(s: &StructurePair) -> Vec<Outcome> {
    let (pair, overlap) = (&s.pair, s.pair.overlap());
    let Matching { connectivity, min_predicted_ml } = Matching::default();
    let links = Links::of(pair, connectivity);
    let found = LesionMatch::of(&links, pair.voxel_ml(), min_predicted_ml);
    let false_positives = Outcome::Value(found.false_positives().count() as f64);
    let false_positive_ml = Outcome::Value(found.false_positive_ml() + 0.0);
    let flare = |nsd: Outcome| {
        let flare = if s.above_one { FlareScore::BAD_VALUES } else { FlareScore::with(pair, || nsd) };
        [flare.dsc, flare.nsd].map(Outcome::Value)
    };
    if pair.reference.is_empty() {
        let mut values = vec![Outcome::not_applicable("the reference is empty"); 10];
        let healthy_ml = Outcome::Value(overlap.predicted as f64 * pair.voxel_ml());
        values.extend([false_positives, false_positive_ml, healthy_ml]);
        values.extend(flare(Outcome::not_applicable("the reference is empty")));
        return values;
    }
    let distances = pair.distances(SurfaceKind::Surfels);
    let nsd = distances.nsd(TOLERANCE_MM);
    let recall = Outcome::ratio(found.hits() as f64, found.lesions.len() as f64, "there is no lesion");
    let mut values = vec![
        overlap.dice(),
        overlap.iou(),
        nsd.clone(),
        pair.distances(SurfaceKind::BorderVoxels).nsd(TOLERANCE_MM),
        distances.hausdorff_percentile(95.0),
        distances.assd(),
        overlap.relative_volume_error().map(f64::abs),
        centre_distance_mm(pair),
        recall,
        links.counts(&links.one_to_one(LEAST_IOU)).f1(),
        false_positives,
        false_positive_ml,
        Outcome::not_applicable("the scan has lesions"),
    ];
    values.extend(flare(nsd));
    values
}

#[test]
fn a_missed_scan_loses_and_a_clear_one_is_not_asked() {
    use crate::metrics::tests::row;
    let of = |reference: &str, predicted: &str| {
        let values = score(&StructurePair { structure: PROTOCOL.structures[0], pair: row(reference, predicted, 1.0), above_one: false });
        values.iter().zip(PROTOCOL.metrics).map(|(v, m)| (m.name, v.clone())).collect::<std::collections::BTreeMap<_, _>>()
    };
    let missed = of("##..", "...#");
    for (name, want) in [("dice", 0.0), ("iou", 0.0), ("lesion_recall", 0.0), ("lesion_f1", 0.0), ("false_positives", 1.0)] {
        assert_eq!(missed[name].value(), Some(want), "{name}");
    }
    let nothing = of("##..", "....");
    assert!(matches!(nothing["hd95_mm"], Outcome::Failed(_)) && nothing["nsd_2mm"] == Outcome::Value(0.0));
    let clear = of("....", "....");
    assert!(matches!(clear["dice"], Outcome::NotApplicable(_)));
    assert_eq!((clear["healthy_false_positive_ml"].value(), clear["flare_dsc"].value()), (Some(0.0), Some(1.0)));
    assert_eq!(of("....", "##..")["healthy_false_positive_ml"].value(), Some(2.0));
}
