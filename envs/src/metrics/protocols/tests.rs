//! Each rule book against its published script, where `tests/golden/golden_metrics.json` has what it gives.

use serde_json::Value;

use super::flare24::{Clause, FlareScore, MemoryUse, TOLERANCE_MM};
use super::gf_screen::{Detection, Rates, case_dice, running_dice};
use super::touchstone::{aorta_slices, components_per_slice, crop_to, dsc_plus1, large_enough, nsd};
use super::*;
use crate::golden::{assert_close, fnv1a64, load, numbers};
use crate::metrics::detection::ScanTable;
use crate::metrics::morphology::erode;
use crate::metrics::tests::{Case, row};
use crate::metrics::{Outcome, SurfaceKind};

#[test]
fn flare_clauses() {
    let check = |reference: &str, predicted: &str, dsc: f64, nsd: f64, clause: Clause| {
        assert_eq!(FlareScore::of_pair(&row(reference, predicted, 1.0), TOLERANCE_MM), FlareScore { dsc, nsd, clause });
    };
    check("....", "....", 1.0, 1.0, Clause::BothEmpty);
    check("##..", "....", 0.0, 0.0, Clause::OneEmpty);
    check("....", ".#..", 0.0, 0.0, Clause::OneEmpty);
    check("##..", "##..", 1.0, 1.0, Clause::Measured);
    // One voxel of ten is a Dice of 2 / 11; one of nine, 0.2, is not below the limit.
    check("##########", "#.........", 2.0 / 11.0, 0.0, Clause::LowDice);
    // A perfect prediction with a value above 1, which the masks of the pair no longer show.
    for protocol in [flare24::PROTOCOL, panscreen::PROTOCOL] {
        let case = StructurePair { structure: protocol.structures[0], pair: row("##..", "##..", 1.0), above_one: true };
        let flare: Vec<_> = (protocol.score)(&case).into_iter().rev().take(2).collect();
        assert_eq!(flare, [Outcome::Value(0.0), Outcome::Value(0.0)], "{}", protocol.name);
    }
    let limit = row("#########", "#........", 1.0);
    let score = FlareScore::of_pair(&limit, TOLERANCE_MM);
    assert_eq!((score.dsc, score.clause), (0.2, Clause::Measured));
    assert_eq!(Some(score.nsd), limit.distances(SurfaceKind::Surfels).nsd(2.0).value());
    assert!(score.nsd > 0.0);
    let s = FlareScore { dsc: 0.123_45, nsd: 0.987_650_1, clause: Clause::Measured }.rounded();
    assert_eq!((s.dsc, s.nsd), (0.1234, 0.9877));
}

#[test]
fn organs_of_flare() {
    let golden = load("golden_metrics.json");
    for e in golden["segmentation"].as_array().unwrap().iter().filter(|e| e.get("flare_dsc_nsd").is_some()) {
        let pair = Case::of(e).pair();
        for (key, tolerance, crop) in [("liver_tol5", 5.0, false), ("aorta_tol2_zcrop", 2.0, true)] {
            match (flare_organs::organ_score(&pair, tolerance, crop), &e["flare_dsc_nsd"][key]) {
                ([Outcome::Value(dsc), Outcome::Value(nsd)], want @ Value::Array(_)) => {
                    assert_eq!(vec![dsc, nsd], numbers(want), "{} {key}", e["id"]);
                }
                ([Outcome::Failed(_), Outcome::Failed(_)], Value::String(_)) => {}
                (got, want) => panic!("{} {key}: got {got:?}, want {want}", e["id"]),
            }
        }
    }
}

#[test]
fn memory_of_flare() {
    let want = &load("golden_metrics.json")["flare_efficiency"];
    let pattern = [1000.0, 1000.0, 4500.0, 5200.0, 5200.0, 5200.0, 9000.0, 5200.0, 3000.0, 1000.0];
    let mut samples = pattern.repeat(12);
    samples[5] = 20000.0;
    let got = MemoryUse::of(&samples, 0.1).unwrap();
    for (got, key) in [(got.area_mb_s, "auc"), (got.sustained_mb, "max_mem_gt2pct"), (got.peak_mb, "peak")] {
        assert_close(got, want[key].as_f64().unwrap(), 1e-9, key);
    }
    assert!(MemoryUse::of(&[], 0.1).is_none() && MemoryUse::of(&[f64::NAN], 0.1).is_none() && MemoryUse::of(&[1.0], -1.0).is_none());
    let all_different: Vec<f64> = (0..100).map(f64::from).collect();
    assert_eq!(MemoryUse::of(&all_different, 1.0).unwrap().sustained_mb, 0.0);
}

#[test]
fn organs_of_touchstone() {
    let golden = load("golden_metrics.json");
    for e in golden["segmentation"].as_array().unwrap().iter().filter(|e| e.get("touchstone_eval").is_some()) {
        let (pair, want) = (Case::of(e).pair(), &e["touchstone_eval"]);
        assert_close(dsc_plus1(pair.overlap()), want["dsc_plus1"].as_f64().unwrap(), 1e-5, "dsc_plus1");
        match (nsd(&pair), &want["nsd_1p5mm"]) {
            (Outcome::Value(v), Value::Number(w)) => assert_close(v, w.as_f64().unwrap(), 1e-5, "nsd"),
            (Outcome::NotApplicable(_), Value::String(_)) => {}
            (got, want) => panic!("{}: got {got:?}, want {want}", e["id"]),
        }
        assert_eq!(want["gt_eroded_voxels"], erode(&pair.reference, true).voxels(), "{}", e["id"]);
        assert_eq!(want["kept_if_gt_10"], large_enough(&pair.reference), "{}", e["id"]);
    }
}

#[test]
fn aorta_crop_of_touchstone() {
    let want = &load("golden_metrics.json")["touchstone_aorta_crop"];
    let shape = [40, 40, 30];
    let cylinder = |v: [f64; 3], c: [f64; 2], r: f64, z: [f64; 2]| {
        (v[0] - c[0]).powi(2) + (v[1] - c[1]).powi(2) <= r * r && z[0] <= v[2] && v[2] < z[1]
    };
    let mask = |inside: &dyn Fn([f64; 3]) -> bool| -> Vec<u8> {
        (0..48_000).map(|i| inside([i / 1200, i / 30 % 40, i % 30].map(|v| v as f64)) as u8).collect()
    };
    let arch = |v: [f64; 3]| (v[0] - 20.0).abs() <= 4.0 && (12.0..=28.0).contains(&v[1]) && (24.0..28.0).contains(&v[2]);
    let reference = mask(&|v| cylinder(v, [20.0, 28.0], 4.3, [2.0, 26.0]) || cylinder(v, [20.0, 12.0], 4.3, [16.0, 26.0]) || arch(v));
    let predicted = mask(&|v| cylinder(v, [20.0, 28.0], 3.8, [0.0, 22.0]));
    for (mask, key) in [(&reference, "fnv_gt"), (&predicted, "fnv_pred")] {
        assert_eq!(want[key], format!("{:016x}", fnv1a64(mask)), "the mask is made differently");
    }
    let pair = Pair::new("aorta", &reference, &predicted, shape, [1.0; 3]).unwrap();
    assert_eq!(want["components_per_slice"], serde_json::to_value(components_per_slice(&erode(&pair.reference, false))).unwrap());
    assert_close(dsc_plus1(pair.overlap()), want["dsc_plus1_full"].as_f64().unwrap(), 1e-9, "whole");
    let slices = aorta_slices(&pair.reference, false).unwrap();
    assert_eq!(slices, 2..15);
    let cropped = crop_to(&pair, slices).overlap();
    assert_eq!((want["n_gt_cropped"].as_u64(), want["n_pred_cropped"].as_u64()), (Some(cropped.reference), Some(cropped.predicted)));
    assert_close(dsc_plus1(cropped), want["dsc_plus1_cropped"].as_f64().unwrap(), 1e-9, "cropped");
    // With the run's last slice, the obvious repair: another number.
    let repaired = crop_to(&pair, aorta_slices(&pair.reference, true).unwrap());
    assert_close(dsc_plus1(repaired.overlap()), 0.848_484_85, 5e-9, "repaired");
    assert_eq!(aorta_slices(&row("###", "...", 1.0).reference, true), None);
    let score = |organ: usize| {
        let structure = touchstone::PROTOCOL.structures[organ];
        (touchstone::PROTOCOL.score)(&StructurePair { structure, pair: pair.clone(), above_one: false })
    };
    assert_eq!((touchstone::PROTOCOL.structures[0].name, score(0)[2].value()), ("aorta", Some(dsc_plus1(cropped))));
    assert!((1..9).all(|organ| score(organ)[2].value().is_none()), "only the aorta is cropped");
}

#[test]
fn detection_of_gf_screen() {
    let healthy = |predicted: usize| {
        let mask: Vec<u8> = (0..200).map(|i| (i < predicted) as u8).collect();
        Pair::new("healthy", &[0; 200], &mask, [1, 1, 200], [1.0; 3]).unwrap()
    };
    let mut d = Detection::default();
    // Two lesions, one hit by two findings; marks elsewhere do not count. A miss with a mark elsewhere. Three healthy scans.
    for pair in [row("####..##..", "#.#.....##", 1.0), row("##....", "....##", 1.0), healthy(0), healthy(125), healthy(126)] {
        d.add(&pair);
    }
    assert_eq!(d.scans, ScanTable { tp: 1, fn_: 1, fp: 2, tn: 1 });
    assert_eq!(d.items, ScanTable { tp: 1, fn_: 2, fp: 1, tn: 2 });
    let rates = Rates::of(&d.scans);
    assert_close(rates.sensitivity, 1.0 / 2.000_001, 1e-12, "sensitivity");
    assert_close(rates.false_positive_rate, 1.0 - 1.0 / 3.000_001, 1e-12, "false-positive rate");
    assert_eq!(Rates::of(&ScanTable::default()).f1, 0.0);
    d.add_without_prediction(&row("#.#", "...", 1.0).reference);
    d.add_without_prediction(&row("...", "...", 1.0).reference);
    assert_eq!((d.scans, d.items), (ScanTable { tp: 1, fn_: 2, fp: 3, tn: 1 }, ScanTable { tp: 1, fn_: 4, fp: 2, tn: 2 }));
    for (reference, predicted, case, running) in
        [("..", "##", 1.0, None), ("..", "..", 1.0, None), ("##", "..", 0.0, Some(0.0)), ("##", "#.", 2.0 / 3.0, Some(2.0 / 3.0))]
    {
        let pair = row(reference, predicted, 1.0);
        assert_eq!((case_dice(&pair), running_dice(&pair).value()), (case, running), "{reference} {predicted}");
    }
}

#[test]
fn every_rule_book_fills_its_table() {
    for p in &PROTOCOLS {
        let masks = [("....", "...."), ("....", "##.."), ("##..", "...."), ("##..", ".##.")];
        for (structure, (reference, predicted)) in p.structures.iter().flat_map(|s| masks.map(|m| (s, m))) {
            let pair = row(reference, predicted, 1.0);
            let overlap = pair.overlap();
            let values = (p.score)(&StructurePair { structure: *structure, pair, above_one: false });
            assert_eq!(values.len(), p.metrics.len(), "{}", p.name);
            for (value, metric) in values.iter().zip(p.metrics).filter(|(_, m)| !m.asked.of(overlap.reference == 0)) {
                assert!(matches!(value, Outcome::NotApplicable(_)), "{} {} {}: {value:?}", p.name, structure.name, metric.name);
            }
            // The first metric does with empty masks what the policy says that stands above the table.
            if overlap.reference == 0 || overlap.predicted == 0 {
                let want = p.policy.apply(overlap, Outcome::failed("measured"));
                assert_eq!(values[0].value(), want.value(), "{} {} {reference} {predicted}", p.name, structure.name);
            }
        }
        assert!(!p.oddities.is_empty() && p.metrics.iter().all(|m| !m.summary.is_empty()) && p.empty.contains(':'));
        assert!(p.main_metrics().count() == p.main.len() && p.main_metrics().all(|m| m.worst.is_some()), "{}", p.name);
        assert_eq!(find(p.name).unwrap().name, p.name);
    }
    let text = find("touchston").unwrap_err().to_string();
    assert!(text.contains("did you mean `touchstone`?") && text.contains("gf_screen"), "{text}");
}
