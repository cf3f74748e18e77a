//! Lesions, scans and scores against the Python references of `tests/golden/golden_metrics.json`.

use serde_json::Value;

use super::agreement::{Agreement, centre_distance_mm, volume_error_ml};
use super::brats::{GLIOMA, LesionWise, METASTASES};
use super::detection::{LesionMatch, LesionSummary, Matching, ScanCell, ScanTable, Size, SizeClass, match_lesions, sensitivity_by_size};
use super::froc::{CAMELYON, FreeResponse, LUNA, froc_score, sensitivity_at};
use super::matching::{Links, Panoptic, part_of};
use super::roc::{Scored, delong};
use super::statistics::special::{clopper_pearson, wilson};
use super::tests::{Case, check_outcome, row};
use super::*;
use crate::golden::{assert_close, load, numbers};
use crate::volume::components::Connectivity;

fn close(got: Option<f64>, want: &Value, what: &str) {
    assert_close(got.unwrap_or_else(|| panic!("{what}: no value")), want.as_f64().unwrap(), 1e-9, what);
}

#[test]
fn lesions_matched_by_any_overlap() {
    let golden = load("golden_metrics.json");
    for e in golden["lesions"].as_array().unwrap() {
        let case = Case::of(e);
        for (key, connectivity) in [("any_overlap_cc26", Connectivity::Corner), ("any_overlap_cc6", Connectivity::Face)] {
            let m = match_lesions(&case.pair(), Matching { connectivity, ..Matching::default() });
            let findings = m.findings.as_ref().unwrap().len();
            let got = [m.lesions.len(), findings, m.hits(), m.false_positives().count(), m.lesions.len() - m.hits()];
            assert_eq!(
                got.map(|v| Some(v as u64)),
                ["n_gt", "n_pred", "gt_hit", "fp", "fn"].map(|k| e[key][k].as_u64()),
                "{} {key}",
                case.id
            );
            // autoPET's volume of false positives: predicted components without overlap, at 18 there.
            if e["autopet"]["n_pred_cc18"] == findings {
                assert_close(m.false_positive_ml(), e["autopet"]["fp_ml"].as_f64().unwrap(), 1e-12, &case.id);
            }
        }
    }
}

#[test]
fn lesions_matched_one_to_one() {
    let golden = load("golden_metrics.json");
    for e in golden["lesions"].as_array().unwrap() {
        let pair = Case::of(e).pair();
        let links = Links::of(&pair, Connectivity::Corner);
        for least in [0.1, 0.25, 0.5] {
            let (key, counts) = (format!("greedy_iou_{least}_cc26"), links.counts(&links.one_to_one(least)));
            let got = [links.lesions.count(), links.findings.count(), counts.tp, counts.fp, counts.fn_];
            assert_eq!(got.map(|v| Some(v as u64)), ["n_gt", "n_pred", "tp", "fp", "fn"].map(|k| e[&key][k].as_u64()), "{} {key}", e["id"]);
        }
        // autoPET: voxels of components without overlap, at 18.
        let m = match_lesions(&pair, Matching { connectivity: Connectivity::Edge, ..Matching::default() });
        let missed: u64 = m.lesions.iter().filter(|l| !l.hit()).map(|l| l.part.voxels).sum();
        let false_voxels: u64 = m.false_positives().map(|f| f.part.voxels).sum();
        let want = &e["autopet"];
        assert_eq!((want["fp_vox"].as_u64(), want["fn_vox"].as_u64()), (Some(false_voxels), Some(missed)), "{}", e["id"]);
        close(Some(missed as f64 * pair.voxel_ml()), &want["fn_ml"], "missed volume");
        close(Some(m.false_positive_ml()), &want["fp_ml"], "false volume");
        for least in [0.1, 0.5] {
            check_panoptic(&pair, least, &e[format!("panoptica_iou{least}")]);
        }
        check_brats(&LesionWise::of(&pair, GLIOMA), &pair, &e["brats_gli"]);
        check_brats(&LesionWise::of(&pair, METASTASES), &pair, &e["brats_met"]);
    }
}

fn check_panoptic(pair: &Pair, least: f64, want: &Value) {
    let p = Panoptic::of(pair, Connectivity::Corner, least);
    assert_eq!([p.counts.tp, p.counts.fp, p.counts.fn_].map(|n| Some(n as f64)), ["tp", "fp", "fn"].map(|k| want[k].as_f64()));
    for (got, key) in [
        (&p.counts.f1(), "rq"),
        (&p.counts.recall(), "rec"),
        (&p.counts.precision(), "prec"),
        (&p.sq, "sq"),
        (&p.sq_std, "sq_std"),
        (&p.pq, "pq"),
        (&p.sq_dice, "sq_dsc"),
        (&p.pq_dice, "pq_dsc"),
        (&p.sq_assd, "sq_assd"),
        (&p.sq_relative_volume, "sq_rvd"),
    ] {
        check_outcome(got, &want[key], key);
    }
    // Without any voxel there is no overlap to speak of; with voxels on one side only Panoptica and we both say 0.
    check_outcome(&pair.overlap().dice(), &want["global_bin_dsc"], "dice");
    check_outcome(&pair.overlap().iou(), &want["global_bin_iou"], "iou");
}

fn check_brats(got: &LesionWise, pair: &Pair, want: &Value) {
    assert_eq!([got.tp, got.fp, got.fn_].map(|n| Some(n as u64)), ["Num_TP", "Num_FP", "Num_FN"].map(|k| want[k].as_u64()));
    close(Some(got.dice), &want["LesionWise_Score_Dice"], "lesion-wise Dice");
    close(Some(got.hd95_mm), &want["LesionWise_Score_HD95"], "lesion-wise HD95");
    let lesions = want["per_lesion"].as_array().unwrap();
    assert_eq!(lesions.len(), got.lesions.len());
    for (got, want) in got.lesions.iter().zip(lesions) {
        assert_eq!(want["n_pred_components"], got.findings);
        close(Some(got.volume_mm3), &want["gt_vol_mm3"], "volume");
        close(Some(got.dice), &want["dice"], "Dice of a lesion");
        close(Some(got.hd95_mm), &want["hd95"], "HD95 of a lesion");
    }
    let overlap = pair.overlap();
    close(Some(overlap.reference as f64 * pair.voxel_ml() * 1000.0), &want["GT_Complete_Volume"], "volume");
    if overlap.reference > 0 {
        close(overlap.recall().value(), &want["Sensitivity"], "sensitivity");
        let grid = pair.reference.shape().iter().product::<usize>() as u64;
        close(overlap.voxel_specificity(grid).value(), &want["Specificity"], "specificity");
    }
    if overlap.reference + overlap.predicted > 0 {
        close(overlap.dice().value(), &want["Legacy_Dice"], "Dice");
        let hd95 = pair.distances(SurfaceKind::Surfels).hausdorff_percentile(95.0).value();
        close(Some(hd95.unwrap_or(brats::WORST_MM)), &want["Legacy_HD95"], "HD95");
    }
}

#[test]
fn a_part_is_one_component() {
    let pair = row("##.#.###", "........", 1.0);
    let components = Links::of(&pair, Connectivity::Face).lesions;
    let voxels: Vec<u64> = (0..3).map(|i| part_of(&pair.reference, &components, i).voxels()).collect();
    assert_eq!(voxels, [2, 1, 3]);
    assert!(part_of(&pair.reference, &components, 3).is_empty());
}

#[test]
fn scans_fall_into_four_cells() {
    let mut table = ScanTable::default();
    for (reference, predicted, want) in [
        ("##..", ".##.", ScanCell::TruePositive),
        ("##..", "..##", ScanCell::FalseNegative),
        ("##..", "....", ScanCell::FalseNegative),
        ("....", "..#.", ScanCell::FalsePositive),
        ("....", "....", ScanCell::TrueNegative),
    ] {
        let cell = match_lesions(&row(reference, predicted, 1.0), Matching::default()).cell();
        assert_eq!(cell, want, "{reference} {predicted}");
        table.add(cell);
    }
    assert_eq!(table, ScanTable { tp: 1, fn_: 2, fp: 1, tn: 1 });
    assert_eq!([table.sensitivity(), table.specificity(), table.precision()].map(|o| o.value()), [Some(1.0 / 3.0), Some(0.5), Some(0.5)]);
    assert_eq!(
        [table.accuracy(), table.f1(), table.negative_predictive_value()].map(|o| o.value()),
        [Some(0.4), Some(0.4), Some(1.0 / 3.0)]
    );
    let none = ScanTable::default();
    assert!(
        [none.sensitivity(), none.f1(), none.accuracy(), none.matthews(), none.balanced_accuracy()].iter().all(|o| o.value().is_none())
    );
    // A lost prediction is never better than the worst one.
    assert_eq!([true, false].map(ScanCell::without_prediction), [ScanCell::FalseNegative, ScanCell::FalsePositive]);
    let lost = |reference| LesionMatch::without_prediction(&row(reference, reference, 1.0).reference, 1.0, Matching::default());
    assert_eq!(ScanTable::of(&[lost("#."), lost("..")]), ScanTable { fn_: 1, fp: 1, ..ScanTable::default() });
}

#[test]
fn lesions_found_and_false_alarms_in_ml() {
    let pair = row("###...##..", "#...#..#.#", 2.0);
    let m = match_lesions(&pair, Matching::default());
    assert_eq!(m.lesions.iter().map(|l| (l.volume_ml, l.shared)).collect::<Vec<_>>(), [(6.0, 1), (4.0, 1)]);
    assert_eq!(m.findings.iter().flatten().map(|f| f.hit()).collect::<Vec<_>>(), [true, false, true, false]);
    assert_eq!(m.false_positive_ml(), 4.0);
    // Components below the limit hit nothing and are no false alarms.
    let large = match_lesions(&pair, Matching { min_predicted_ml: 3.0, ..Matching::default() });
    assert_eq!((large.hits(), large.findings), (0, Some(vec![])));
    let healthy =
        [match_lesions(&row("......", ".#.##.", 2.0), Matching::default()), match_lesions(&row("...", "...", 2.0), Matching::default())];
    let s = LesionSummary::of(healthy.iter().chain([&m]));
    assert_eq!([s.scans, s.lesions, s.hits, s.findings, s.false_positives, s.healthy_scans], [3, 2, 2, 6, 4, 2]);
    assert_eq!(s.recall.value(), Some(1.0));
    assert_eq!(s.precision.value(), Some(2.0 / 6.0));
    assert_eq!(s.false_positives_per_healthy_scan.value(), Some(1.0));
    assert_eq!(s.false_positive_ml_per_healthy_scan.value(), Some(3.0));
    assert!(matches!(LesionSummary::of([&m]).false_positives_per_healthy_scan, Outcome::NotApplicable(_)));
    assert_eq!(s.f1().value(), Some(0.5));
    // Losing a prediction misses its lesions, and takes the mean over lesion-free scans away instead of bettering it.
    let lost = |reference| LesionMatch::without_prediction(&row(reference, reference, 2.0).reference, 2.0, Matching::default());
    let s = LesionSummary::of([&m, &lost("#.#"), &healthy[0]]);
    assert_eq!((s.unusable, s.lesions, s.hits, s.false_positives_per_healthy_scan.value()), (1, 4, 2, Some(2.0)));
    let s = LesionSummary::of([&m, &lost("..."), &healthy[0]]);
    assert!(matches!(s.false_positive_ml_per_healthy_scan, Outcome::Failed(_)));
}

#[test]
fn sensitivity_by_lesion_size() {
    let m = match_lesions(&row("#.##.####.#", "#......#..#", 1.0), Matching::default());
    let lost = LesionMatch::without_prediction(&row("##", "##", 1.0).reference, 1.0, Matching::default());
    let classes = sensitivity_by_size([&m, &lost], Size::Ml, &[2.0, 4.0, 9.0]);
    assert_eq!(
        classes.iter().map(|c| (c.from, c.to, c.lesions, c.hits)).collect::<Vec<_>>(),
        [(None, Some(2.0), 2, 2), (Some(2.0), Some(4.0), 2, 0), (Some(4.0), Some(9.0), 1, 1), (Some(9.0), None, 0, 0)]
    );
    assert!(classes[3].sensitivity.value().is_none() && classes[3].interval.is_none());
    assert_eq!(classes[0].interval, wilson(2, 2, 0.95));
    // A ball of 10 mm has pi / 6 mL.
    assert_close(Size::DiameterMm.of(std::f64::consts::FRAC_PI_6), 10.0, 1e-9, "diameter");
    for size in [Size::Ml, Size::DiameterMm] {
        assert!(size.usual_limits().is_sorted());
    }
    assert_eq!(classes.iter().map(SizeClass::label).collect::<Vec<_>>(), ["< 2", "2-4", "4-9", ">= 9"]);
    // Lesions of 4, 9 and 22 mm by the usual limits in mm.
    let ml = |mm: f64| std::f64::consts::PI / 6000.0 * mm.powi(3);
    let of_mm = |mm| LesionMatch::without_prediction(&row("#", "#", 1.0).reference, ml(mm), Matching::default());
    let by_mm = sensitivity_by_size(&[of_mm(4.0), of_mm(9.0), of_mm(22.0)], Size::DiameterMm, Size::DiameterMm.usual_limits());
    assert_eq!(by_mm.iter().map(|c| c.lesions).collect::<Vec<_>>(), [1, 1, 0, 1]);
}

#[test]
fn free_response_of_monai() {
    let golden = &load("golden_metrics.json")["froc"];
    let a = &golden["froc_a"];
    let scores = |v: &Value| -> Vec<Option<f64>> { numbers(v).into_iter().map(|s| (s > 0.0).then_some(s)).collect() };
    let mut response = FreeResponse {
        scans: a["num_images"].as_u64().unwrap() as usize,
        lesions: scores(&a["tp_probs_max_per_lesion_0_if_missed"]),
        false_positives: numbers(&a["fp_probs"]),
    };
    check_curve(&response, a);
    let b = &golden["froc_b_all_hit_lowest_prob_dropped"];
    response.lesions = scores(&b["tp_probs"]);
    check_curve(&response, b);
    // Ours keeps the lowest threshold.
    let curve = response.curve(false).unwrap();
    assert_eq!((curve.len(), curve[0].false_positives_per_scan, curve[0].sensitivity), (14, 2.25, 1.0));
    assert_eq!((sensitivity_at(&curve, 100.0), sensitivity_at(&curve, 0.0)), (Some(1.0), Some(1.0 / 6.0)));
    assert_eq!((sensitivity_at(&[], 1.0), froc_score(&curve, &[])), (None, None));
    assert_eq!(FreeResponse::default().curve(false), None);
}

fn check_curve(response: &FreeResponse, want: &Value) {
    let curve = response.curve(true).unwrap();
    assert_eq!(curve.iter().map(|p| p.false_positives_per_scan).collect::<Vec<_>>(), numbers(&want["fps_per_image"]));
    for (p, want) in curve.iter().zip(numbers(&want["sens"])) {
        assert_close(p.sensitivity, want, 1e-12, "sensitivity");
    }
    close(froc_score(&curve, &CAMELYON), &want["score_camelyon"], "CAMELYON");
    close(froc_score(&curve, &LUNA), &want["score_luna"], "LUNA");
}

/// MONAI's example of points on a labelled mask, as findings of one voxel.
#[test]
fn findings_on_lesions_have_their_best_score() {
    let golden = &load("golden_metrics.json")["froc"]["fp_tp_probs_nd"];
    let at = |v: [usize; 3]| (v[0] * 6 + v[1]) * 6 + v[2];
    let mut reference = vec![0u8; 216];
    (1..3).for_each(|x| (1..3).for_each(|y| (1..3).for_each(|z| reference[at([x, y, z])] = 1)));
    reference[at([4, 4, 4])] = 1;
    reference[at([0, 5, 5])] = 1;
    let mut points: Vec<([usize; 3], f64)> = golden["coords"]
        .as_array()
        .unwrap()
        .iter()
        .zip(numbers(&golden["probs"]))
        .map(|(c, p)| (serde_json::from_value(c.clone()).unwrap(), p))
        .collect();
    let want = (numbers(&golden["fp"]), numbers(&golden["tp"]));
    let mut response = FreeResponse::default();
    let mut lesions = [None; 3];
    // Points that touch would be one finding: every point is a scan of its own.
    points.sort_by_key(|(v, _)| at(*v));
    for (v, score) in points {
        let mut predicted = vec![0u8; 216];
        predicted[at(v)] = 1;
        let pair = Pair::new("points", &reference, &predicted, [6; 3], [1.0; 3]).unwrap();
        let links = Links::of(&pair, Connectivity::Face);
        response.add(links.lesions.count(), &[score], links.shared.iter().map(|s| [s.lesion, s.finding]));
        // Components in C order: the voxel at the edge, the cube, the voxel near the end.
        for (best, new) in lesions.iter_mut().zip(response.lesions.drain(..)) {
            *best = [*best, new].into_iter().flatten().reduce(f64::max);
        }
    }
    assert_eq!(response.scans, 6);
    response.false_positives.sort_by(|a, b| b.total_cmp(a));
    assert_eq!(response.false_positives, want.0);
    let in_label_order = [lesions[1], lesions[2], lesions[0]];
    for (got, want) in in_label_order.iter().zip(want.1) {
        assert_close(got.unwrap_or(0.0), want, 1e-6, "score of a lesion");
    }
    response.add_without_prediction(2);
    assert_eq!((response.scans, response.lesions.as_slice()), (7, [None, None].as_slice()));
    // Three findings on one lesion, one of them without a usable score, and one on none; what was never there changes nothing.
    let mut r = FreeResponse::default();
    r.add(1, &[0.2, 0.7, f64::NAN, 0.4], [[0, 0], [0, 1], [0, 2], [0, 9], [7, 3]]);
    assert_eq!((r.scans, r.lesions, r.false_positives), (1, vec![Some(0.7)], vec![0.4]));
}

fn classification() -> (Vec<bool>, Value) {
    let golden = load("golden_metrics.json")["classification"].clone();
    (numbers(&golden["y"]).iter().map(|v| *v == 1.0).collect(), golden)
}

#[test]
fn scores_of_scans() {
    let (lesion, want) = classification();
    let s = Scored::new(&lesion, &numbers(&want["score"])).unwrap();
    let auc = s.auc();
    close(Some(auc.area), &want["auc"], "auc");
    close(auc.standard_error, &want["delong_se"], "DeLong");
    for (interval, key) in [(auc.wald(0.95), "delong_ci95_wald"), (auc.logit(0.95), "delong_ci95_logit")] {
        let (interval, want) = (interval.unwrap(), numbers(&want[key]));
        assert_close(interval.low, want[0], 1e-9, key);
        assert_close(interval.high, want[1], 1e-9, key);
    }
    close(Some(s.average_precision()), &want["average_precision"], "average precision");
    let roc = s.roc();
    let thresholds: Vec<f64> = want["roc"]["thresholds"].as_array().unwrap().iter().map(|t| t.as_f64().unwrap_or(f64::INFINITY)).collect();
    assert_eq!(roc.iter().map(|p| p.threshold).collect::<Vec<_>>(), thresholds);
    for ((p, fpr), tpr) in roc.iter().zip(numbers(&want["roc"]["fpr"])).zip(numbers(&want["roc"]["tpr"])) {
        assert_close(1.0 - p.specificity, fpr, 1e-12, "rate");
        assert_close(p.sensitivity, tpr, 1e-12, "rate");
    }
    let (at, t) = (&want["at_threshold_0p5_ge"], s.table(0.5));
    assert_eq!([t.tp, t.fp, t.fn_, t.tn].map(|n| Some(n as u64)), ["tp", "fp", "fn", "tn"].map(|k| at[k].as_u64()));
    for (got, key) in [
        (t.sensitivity(), "sens"),
        (t.specificity(), "spec"),
        (t.precision(), "ppv"),
        (t.negative_predictive_value(), "npv"),
        (t.f1(), "f1"),
        (t.balanced_accuracy(), "bal_acc"),
        (t.matthews(), "mcc"),
    ] {
        close(got.value(), &at[key], key);
    }
    close(s.at_specificity(0.9).map(|p| p.sensitivity), &want["sens_at_spec_ge_0p9"], "sensitivity");
    close(s.at_sensitivity(0.95).map(|p| p.specificity), &want["spec_at_sens_ge_0p95"], "specificity");
    close(s.best_youden().map(|p| p.youden()), &want["youden_j_max"], "Youden");
    close(s.best_youden().map(|p| p.threshold), &want["youden_threshold"], "threshold");
    close(s.partial_auc(0.2), &want["partial_auc_fpr_le_0p2_mcclish"], "partial area");
    for (interval, key) in [(wilson(6, 8, 0.95), "wilson_ci95_sens"), (clopper_pearson(6, 8, 0.95), "clopper_pearson_ci95_sens")] {
        let (interval, want) = (interval.unwrap(), numbers(&want[key]));
        assert_close(interval.low, want[0], 1e-9, key);
        assert_close(interval.high, want[1], 1e-9, key);
    }
}

#[test]
fn two_scores_of_the_same_scans() {
    let (lesion, want) = classification();
    let (a, b) = (numbers(&want["score"]), numbers(&want["score_b"]));
    let (got, want) = (delong(&lesion, &a, &b).unwrap(), &want["delong_paired"]);
    for (got, key) in
        [(got.first, "auc_a"), (got.second, "auc_b"), (got.variance, "var_diff"), (got.test.statistic, "z"), (got.test.p, "p_two_sided")]
    {
        close(Some(got), &want[key], key);
    }
    assert_eq!(delong(&lesion, &a, &a).unwrap().test.p, 1.0);
}

#[test]
fn curves_at_their_ends() {
    let perfect = Scored::new(&[true, false, true], &[0.9, 0.1, 0.8]).unwrap();
    assert_eq!((perfect.auc().area, perfect.auc().standard_error, perfect.auc().logit(0.95)), (1.0, None, None));
    assert_eq!((perfect.average_precision(), perfect.partial_auc(0.1), perfect.partial_auc(1.0)), (1.0, Some(1.0), Some(1.0)));
    let chance = Scored::new(&[true, false], &[0.5, 0.5]).unwrap();
    assert_eq!((chance.auc().area, chance.partial_auc(0.3)), (0.5, Some(0.5)));
    assert_eq!((chance.partial_auc(0.0), chance.partial_auc(f64::NAN)), (None, None));
    for (lesion, scores) in [(vec![true], vec![0.1]), (vec![true, false], vec![0.1]), (vec![true, false], vec![0.1, f64::NAN])] {
        assert!(Scored::new(&lesion, &scores).is_none());
    }
}

#[test]
fn volumes_agree() {
    let want = &load("golden_metrics.json")["volume_agreement"];
    let got = Agreement::of(&numbers(&want["gt_ml"]), &numbers(&want["pred_ml"])).unwrap();
    close(Some(got.bias), &want["bias"], "bias");
    close(Some(got.limits.low), &want["loa"][0], "limits");
    close(Some(got.limits.high), &want["loa"][1], "limits");
    close(got.pearson, &want["pearson"], "Pearson");
    close(got.spearman, &want["spearman"], "Spearman");
    close(got.concordance, &want["ccc"], "concordance");
    let none = [Agreement::of(&[1.0], &[1.0]), Agreement::of(&[1.0, 2.0], &[1.0]), Agreement::of(&[1.0, f64::NAN], &[1.0, 2.0])];
    assert_eq!(none, [None, None, None]);
    assert_eq!(Agreement::of(&[1.0, 2.0], &[3.0, 3.0]).unwrap().concordance, None);
}

#[test]
fn volume_and_place_of_a_pair() {
    let pair = row("##......", "......#.", 2.0);
    assert_eq!(volume_error_ml(&pair), -2.0);
    assert_close(centre_distance_mm(&pair).value().unwrap(), 5.5 * 20.0, 1e-12, "distance of centres");
    assert!(matches!(centre_distance_mm(&row("#.", "..", 1.0)), Outcome::Failed(_)));
    assert!(matches!(centre_distance_mm(&row("..", ".#", 1.0)), Outcome::Failed(_)));
    assert!(matches!(centre_distance_mm(&row("..", "..", 1.0)), Outcome::NotApplicable(_)));
}
