//! Against the Python references: `tests/golden/golden_metrics.json`, see `tests_real.rs` for real masks.

use serde_json::Value;

use super::policy::{FLARE, REFERENCE_ONLY};
use super::surface::{contour_lengths, surfel_areas};
use super::*;
use crate::golden::{assert_close, fnv1a64, load, numbers, u01};
use crate::volume::components::{Components, Connectivity};

/// Three numbers of a JSON list; a plane becomes a volume of one voxel in x.
fn three(v: &Value, if_two: f64) -> [f64; 3] {
    match numbers(v).as_slice() {
        &[y, z] => [if_two, y, z],
        &[x, y, z] => [x, y, z],
        other => panic!("{other:?} are not two or three numbers"),
    }
}

/// The mask made of primitives, see the conventions in the golden file.
fn mask_of(primitives: &Value, shape: [usize; 3], spacing_mm: [f64; 3]) -> Vec<u8> {
    let [nx, ny, nz] = shape;
    let mut mask = vec![0u8; nx * ny * nz];
    for p in primitives.as_array().unwrap() {
        let inside: Box<dyn Fn(usize, [f64; 3]) -> bool> = match p["type"].as_str().unwrap() {
            "sphere" => {
                let (c, r) = (three(&p["center_mm"], 0.0), p["radius_mm"].as_f64().unwrap());
                Box::new(move |_, v| (0..3).map(|a| (v[a] * spacing_mm[a] - c[a]).powi(2)).sum::<f64>() <= r * r)
            }
            "box" => {
                let (lo, hi) = (three(&p["lo"], 0.0), three(&p["hi"], 1.0));
                Box::new(move |_, v| (0..3).all(|a| lo[a] <= v[a] && v[a] < hi[a]))
            }
            "voxels" => {
                let list: Vec<_> = p["index"].as_array().unwrap().iter().map(|v| three(v, 0.0)).collect();
                Box::new(move |_, v| list.contains(&v))
            }
            "noise" => {
                let (seed, share) = (p["seed"].as_u64().unwrap(), p["p"].as_f64().unwrap());
                Box::new(move |i, _| u01(seed, i as u64) < share)
            }
            other => panic!("unknown primitive {other}"),
        };
        for (i, m) in mask.iter_mut().enumerate() {
            if inside(i, [i / (ny * nz), i / nz % ny, i % nz].map(|v| v as f64)) {
                *m = match p["op"].as_str() {
                    None => 1,
                    Some("subtract") => 0,
                    Some("xor") => 1 - *m,
                    Some(other) => panic!("unknown operation {other}"),
                };
            }
        }
    }
    mask
}

pub struct Case {
    pub id: String,
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    pub reference: Vec<u8>,
    pub predicted: Vec<u8>,
    pub plane: bool,
}

impl Case {
    pub fn of(e: &Value) -> Self {
        let (shape, spacing_mm) = (three(&e["shape"], 1.0).map(|v| v as usize), three(&e["spacing_mm"], 1.0));
        let mask = |key: &str, hash: &str| {
            let mask = mask_of(&e[key], shape, spacing_mm);
            assert_eq!(Some(format!("{:016x}", fnv1a64(&mask)).as_str()), e[hash].as_str(), "{}: the mask is made differently", e["id"]);
            mask
        };
        Case {
            id: e["id"].as_str().unwrap().to_owned(),
            shape,
            spacing_mm,
            reference: mask("gt", "fnv1a64_gt"),
            predicted: mask("pred", "fnv1a64_pred"),
            plane: e["shape"].as_array().unwrap().len() == 2,
        }
    }

    pub fn pair(&self) -> Pair {
        Pair::new(&self.id, &self.reference, &self.predicted, self.shape, self.spacing_mm).unwrap()
    }
}

/// A number must agree to 1e-9; where the reference gives nan, inf or raises, ours must have no value.
pub fn check_outcome(got: &Outcome, want: &Value, what: &str) {
    match (got, want) {
        (Outcome::Value(v), Value::Number(w)) => assert_close(*v, w.as_f64().unwrap(), 1e-9, what),
        (Outcome::NotApplicable(_) | Outcome::Failed(_), Value::String(_)) => {}
        _ => panic!("{what}: got {got:?}, want {want}"),
    }
}

#[test]
fn segmentation_metrics_of_the_references() {
    let golden = load("golden_metrics.json");
    for e in golden["segmentation"].as_array().unwrap() {
        let case = Case::of(e);
        let (id, pair) = (&case.id, case.pair());
        let overlap = pair.overlap();
        assert_eq!(
            [Some(overlap.reference), Some(overlap.predicted), Some(overlap.both)],
            ["n_gt", "n_pred", "n_inter"].map(|k| e[k].as_u64())
        );
        check_outcome(&overlap.dice(), &e["deepmind"]["dice"], id);
        let medpy = &e["medpy"];
        if overlap.reference + overlap.predicted > 0 {
            check_outcome(&overlap.dice(), &medpy["dc"], id);
            check_outcome(&overlap.iou(), &medpy["jc"], id);
        }
        if overlap.reference > 0 && overlap.predicted > 0 {
            check_outcome(&overlap.precision(), &medpy["precision"], id);
            check_outcome(&overlap.recall(), &medpy["recall"], id);
            check_outcome(&overlap.relative_volume_error(), &medpy["ravd"], id);
        }
        let grid = case.reference.len() as u64;
        if overlap.reference < grid {
            check_outcome(&overlap.voxel_specificity(grid), &medpy["specificity"], id);
        }
        let (surfels, border) = match case.plane {
            true => (SurfaceKind::Contours, SurfaceKind::ContourPixels),
            false => (SurfaceKind::Surfels, SurfaceKind::BorderVoxels),
        };
        let d = pair.distances(border);
        check_deepmind(id, &pair.distances(surfels), &e["deepmind"]);
        check_monai(id, &pair, &d, &pair.distances(surfels), &e["monai"]);
        check_outcome(&d.hausdorff(), &medpy["hd"], id);
        check_outcome(&d.pooled_percentile(95.0), &medpy["hd95"], id);
        check_outcome(&d.mean_predicted_to_reference(), &medpy["asd_pred_to_gt"], id);
        check_outcome(&d.mean_reference_to_predicted(), &medpy["asd_gt_to_pred"], id);
        check_outcome(&d.assd(), &medpy["assd"], id);
    }
}

/// MONAI's values are single precision.
fn check_monai(id: &str, pair: &Pair, border: &Distances, surfels: &Distances, want: &Value) {
    let check = |got: Outcome, key: &str, want: &Value| match (got, want) {
        (Outcome::Value(v), Value::Number(w)) => assert_close(v, w.as_f64().unwrap(), 1e-5, &format!("{id} {key}")),
        (Outcome::NotApplicable(_) | Outcome::Failed(_), Value::String(_)) => {}
        (got, want) => panic!("{id} {key}: got {got:?}, want {want}"),
    };
    for (key, d) in [("nsd", border), ("nsd_subvoxel", surfels)] {
        for (tolerance, nsd) in want[key].as_object().unwrap() {
            check(d.nsd(tolerance.parse().unwrap()), &format!("{key} at {tolerance}"), nsd);
        }
    }
    check(border.hausdorff(), "hd", &want["hd"]);
    check(border.hausdorff_percentile_linear(95.0), "hd95", &want["hd95"]);
    check(border.predicted_percentile_linear(95.0), "directed hd95", &want["hd95_directed_pred_to_gt"]);
    check(border.mean_predicted_to_reference(), "asd", &want["asd_pred_to_gt"]);
    check(border.assd(), "assd", &want["assd"]);
    let overlap = pair.overlap();
    for (metric, of) in [("dice", Overlap::dice as fn(Overlap) -> Outcome), ("iou", Overlap::iou)] {
        for (key, policy) in [("ignore_empty", REFERENCE_ONLY), ("keep_empty", FLARE)] {
            let key = format!("{metric}_{key}");
            check(policy.apply(overlap, of(overlap)), &key, &want[&key]);
        }
    }
}

fn check_deepmind(id: &str, d: &Distances, want: &Value) {
    let (r, p) = (&d.reference_to_predicted, &d.predicted_to_reference);
    assert_eq!([Some(r.count() as u64), Some(p.count() as u64)], ["surfels_gt", "surfels_pred"].map(|k| want[k].as_u64()), "{id}");
    assert_close(r.weight(), want["area_gt_mm2"].as_f64().unwrap(), 1e-9, id);
    assert_close(p.weight(), want["area_pred_mm2"].as_f64().unwrap(), 1e-9, id);
    for percent in [50, 95, 100] {
        check_outcome(&d.hausdorff_percentile(percent as f64), &want[format!("hd{percent}")], &format!("{id} hd{percent}"));
    }
    check_outcome(&d.mean_reference_to_predicted(), &want["asd_gt_to_pred"], id);
    check_outcome(&d.mean_predicted_to_reference(), &want["asd_pred_to_gt"], id);
    for (tolerance, nsd) in want["nsd"].as_object().unwrap() {
        check_outcome(&d.nsd(tolerance.parse().unwrap()), nsd, &format!("{id} nsd at {tolerance}"));
    }
    for (tolerance, overlap) in want["overlap"].as_object().unwrap() {
        for (got, want) in d.surface_overlap(tolerance.parse().unwrap()).iter().zip(overlap.as_array().unwrap()) {
            check_outcome(got, want, &format!("{id} overlap at {tolerance}"));
        }
    }
}

#[test]
fn surfel_tables_of_the_reference() {
    let golden = &load("golden_metrics.json")["surfel_tables"];
    for (key, spacing) in [("unit", [1.0; 3]), ("sp_0p8_0p8_2p5", [0.8, 0.8, 2.5])] {
        let areas = surfel_areas(spacing);
        for (code, want) in numbers(&golden[key]).into_iter().enumerate() {
            // The file has twelve decimals.
            assert!((areas[code] - want).abs() < 1e-11, "{key} {code}: got {}, want {want}", areas[code]);
        }
    }
    for (length, want) in contour_lengths([9.0, 0.8, 1.2]).into_iter().zip(numbers(&golden["contour2d_0p8_1p2"])) {
        assert!((length - want).abs() < 1e-11, "contour: got {length}, want {want}");
    }
}

/// Masks of one row each, `#` for marked, one character a voxel of `ml` mL.
pub fn row(reference: &str, predicted: &str, ml: f64) -> Pair {
    let mask = |s: &str| -> Vec<u8> { s.bytes().map(|c| (c == b'#') as u8).collect() };
    Pair::new("row", &mask(reference), &mask(predicted), [1, 1, reference.len()], [10.0, 10.0, 10.0 * ml]).unwrap()
}

#[test]
fn masks_that_do_not_fit_are_refused() {
    let message = |r: &[u8], p: &[u8], spacing| Pair::new("case_7", r, p, [1, 1, 3], spacing).unwrap_err().to_string();
    let text = message(&[0; 3], &[0; 4], [1.0; 3]);
    assert!(text.contains("case_7: prediction of 4 voxels") && text.contains("[1, 1, 3]"), "{text}");
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(message(&[0; 3], &[0; 3], [1.0, bad, 1.0]).contains("spacing"), "{bad}");
    }
}

#[test]
fn components_of_the_references() {
    let golden = load("golden_metrics.json");
    for e in golden["connected_components"].as_array().unwrap() {
        let shape = three(&e["shape"], 1.0).map(|v| v as usize);
        let mask = mask_of(&e["prims"], shape, [1.0; 3]);
        assert_eq!(Some(format!("{:016x}", fnv1a64(&mask)).as_str()), e["fnv1a64"].as_str());
        for neighbours in [6, 18, 26] {
            let components = Components::of(&Runs::of(&mask, shape), Connectivity::from_neighbours(neighbours).unwrap());
            let key = neighbours.to_string();
            assert_eq!(e["counts"][&key], components.count(), "{} {key}", e["id"]);
            let mut sizes: Vec<u64> = components.parts.iter().map(|c| c.voxels).collect();
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            sizes.truncate(12);
            assert_eq!(e["sizes_desc"][&key], serde_json::to_value(sizes).unwrap(), "{} {key}", e["id"]);
        }
    }
}

/// Two random blobs on a grid, and the same two moved by `by` on a larger one.
fn noise_pair(seed: u64, by: usize, spacing_mm: [f64; 3]) -> (Pair, Vec<u8>, Vec<u8>) {
    let (small, large) = (9, 9 + by);
    let mut masks = [vec![0u8; large * large * large], vec![0u8; large * large * large]];
    for (k, mask) in masks.iter_mut().enumerate() {
        for i in 0..small * small * small {
            let at = [i / (small * small), i / small % small, i % small].map(|v| v + by);
            mask[(at[0] * large + at[1]) * large + at[2]] = (u01(seed + 1000 * k as u64, i as u64) < 0.3) as u8;
        }
    }
    let [a, b] = masks;
    (Pair::new("noise", &a, &b, [large; 3], spacing_mm).unwrap(), a, b)
}

#[test]
fn metrics_do_not_change_when_masks_are_swapped_or_moved() {
    for seed in 0..6 {
        let spacing = [0.8 + 0.1 * seed as f64, 1.0, 2.5];
        let (pair, a, b) = noise_pair(seed, 0, spacing);
        let (moved, ..) = noise_pair(seed, 4, spacing);
        let swapped = Pair::new("swapped", &b, &a, pair.reference.shape(), spacing).unwrap();
        let all = |p: &Pair| {
            let (o, d) = (p.overlap(), p.distances(SurfaceKind::Surfels));
            [o.dice(), o.iou(), d.nsd(1.0), d.hausdorff(), d.hausdorff_percentile(95.0), d.assd()].map(|o| o.value().unwrap())
        };
        for (x, (y, z)) in all(&pair).into_iter().zip(all(&swapped).into_iter().zip(all(&moved))) {
            assert_close(y, x, 1e-12, "swapped");
            assert_close(z, x, 1e-12, "moved");
        }
        let same = Pair::new("same", &a, &a, pair.reference.shape(), spacing).unwrap();
        assert_eq!(all(&same), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    }
}
