use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::io;

fn demo() -> Settings {
    Settings::preset(Preset::Demo)
}

fn with_threads<T: Send>(n: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
}

/// Every offset of at most `reach` along each axis, as voxels of `shape`.
fn around(shape: [usize; 3], v: usize, reach: isize) -> Vec<usize> {
    let at = [v / (shape[1] * shape[2]), v / shape[2] % shape[1], v % shape[2]];
    let mut out = Vec::new();
    for i in -reach..=reach {
        for j in -reach..=reach {
            for k in -reach..=reach {
                let x = [at[0] as isize + i, at[1] as isize + j, at[2] as isize + k];
                if (0..3).all(|a| (0..shape[a] as isize).contains(&x[a])) {
                    out.push((x[0] as usize * shape[1] + x[1] as usize) * shape[2] + x[2] as usize);
                }
            }
        }
    }
    out
}

/// The 26-connected parts of the non-zero labels, as lists of voxels.
fn parts(labels: &Labels) -> Vec<Vec<usize>> {
    let mut seen = vec![false; labels.data.len()];
    let mut parts = Vec::new();
    for start in 0..seen.len() {
        if labels.data[start] == 0 || seen[start] {
            continue;
        }
        seen[start] = true;
        let (mut queue, mut part) = (vec![start], Vec::new());
        while let Some(v) = queue.pop() {
            part.push(v);
            for n in around(labels.shape(), v, 1) {
                if labels.data[n] != 0 && !seen[n] {
                    seen[n] = true;
                    queue.push(n);
                }
            }
        }
        parts.push(part);
    }
    parts
}

fn check_lesions(settings: &Settings, seed: u64, index: u64) -> usize {
    let case = generate(settings, seed, index);
    let normal = generate(&Settings { lesion_free_fraction: 1.0, ..settings.clone() }, seed, index);
    let (parts, name) = (parts(&case.lesions), &case.name);
    assert_eq!(parts.len(), case.findings.len(), "{name}: one connected part per lesion");
    let mut left = case.findings.clone();
    for part in &parts {
        let classes: BTreeSet<u8> = part.iter().map(|&v| case.lesions.data[v]).collect();
        assert_eq!(classes.len(), 1, "{name}: lesions touch");
        let volume_ml = part.len() as f64 * case.ct.geometry.voxel_ml();
        let at = left.iter().position(|l| classes.contains(&l.class) && (l.volume_ml - volume_ml).abs() < 1e-9);
        let lesion = left.swap_remove(at.unwrap_or_else(|| panic!("{name}: no finding of class {classes:?} and {volume_ml} mL")));
        assert!((settings.volume_ml[0] - 1e-9..=settings.volume_ml[1] + 1e-9).contains(&volume_ml), "{name}: {lesion:?}");
        if !lesion.kind.in_chest() {
            let c = lesion.contrast_hu.abs();
            assert!((settings.contrast_hu[0]..=settings.contrast_hu[1]).contains(&c), "{name}: {lesion:?}");
        }
        let home = ORGANS.iter().find(|o| o.1 == lesion.organ).unwrap().0;
        assert!(lesion.kind.homes().contains(&home));
        assert!(part.iter().all(|&v| case.organs.data[v] == home), "{name}: {lesion:?} carries another organ");
        assert!(part.iter().any(|&v| normal.organs.data[v] == home), "{name}: {lesion:?} is not in its organ");
        let own: BTreeSet<usize> = part.iter().copied().collect();
        for &v in part {
            assert!(around(case.ct.shape(), v, 2).iter().all(|n| case.lesions.data[*n] == 0 || own.contains(n)), "{name}: no gap");
        }
        assert!(case.report.contains(&format!("{volume_ml:.1} mL")), "{name}: {} lacks {lesion:?}", case.report);
    }
    for v in (0..case.lesions.data.len()).filter(|&v| case.lesions.data[v] == 0) {
        assert_eq!(case.organs.data[v], normal.organs.data[v], "{name}: an organ changed outside the lesions");
    }
    case.findings.len()
}

#[test]
fn each_lesion_is_one_part_in_its_organ_within_the_settings() {
    let total: usize = (0..36).map(|index| check_lesions(&demo(), 5, index)).sum();
    assert!((36..=72).contains(&total), "{total} lesions in 24 diseased cases");
}

#[test]
fn standard_lesions_are_one_part_each_too_and_the_grid_is_fine() {
    let standard = Settings::preset(Preset::Standard);
    assert_eq!((standard.shape, standard.spacing_mm), ([300, 250, 100], [1.5, 1.5, 3.0]));
    let diseased = (0..12).filter(|&i| !lesion_free(standard.lesion_free_fraction, 3, i)).take(2);
    assert!(diseased.map(|index| check_lesions(&standard, 3, index)).sum::<usize>() >= 2);
}

#[test]
fn finer_voxels_show_the_same_bodies() {
    let fine = demo().at_spacing(Some([2.5, 2.5, 5.0]));
    assert_eq!((fine.shape, demo().at_spacing(Some([0.625, 0.625, 1.0])).shape), ([128, 128, 40], [512, 512, 200]));
    for (spacing, part) in
        [([0.0, 1.0, 1.0], "`spacing_mm` must be 0.2 to 20 mm, not [0.0, 1.0, 1.0]"), ([0.3; 3], "not [1067, 1067, 667]")]
    {
        let error = demo().at_spacing(Some(spacing)).check().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let litres = |settings: &Settings, index| {
        let case = generate(settings, 5, index);
        let voxel = settings.spacing_mm.iter().product::<f64>() / 1e6;
        (case.findings.len(), case.ct.data.iter().filter(|&&hu| hu > -300.0).count() as f64 * voxel)
    };
    for index in 0..3 {
        let ((coarse, a), (same, b)) = (litres(&demo(), index), litres(&fine, index));
        assert!(coarse == same && (a / b - 1.0).abs() < 0.05, "{coarse} and {same} lesions in {a} and {b} litres");
    }
}

#[test]
fn same_seed_same_bytes_on_any_number_of_threads() {
    use rayon::prelude::*;
    let cases = |threads| with_threads(threads, || (0..4u64).into_par_iter().map(|i| generate(&demo(), 9, i)).collect::<Vec<_>>());
    let (one, two) = (cases(1), cases(2));
    for (a, b) in one.iter().zip(&two) {
        assert!(a.ct.data.iter().zip(&b.ct.data).all(|(x, y)| x.to_bits() == y.to_bits()));
        assert_eq!((&a.lesions.data, &a.organs.data, &a.report), (&b.lesions.data, &b.organs.data, &b.report));
    }
    assert_ne!(one[0].ct.data, one[1].ct.data, "another index is another patient");
    assert_ne!(one[0].ct.data, generate(&demo(), 10, 0).ct.data, "another seed is another patient");
}

#[test]
fn the_wanted_share_is_free_of_lesions() {
    for (fraction, free) in [(0.0, 0), (1.0 / 3.0, 80), (0.5, 120), (1.0, 240)] {
        let n = (0..240).filter(|&i| lesion_free(fraction, 4, i)).count();
        assert_eq!(n, free, "fraction {fraction}");
    }
    let empty = generate(&Settings { lesion_free_fraction: 1.0, ..demo() }, 4, 0);
    assert!(empty.findings.is_empty() && empty.lesions.data.iter().all(|&v| v == 0));
    assert!(empty.report.contains("no focal lesion"), "{}", empty.report);
}

/// Means over voxels whose 26 neighbours are of the same organ, without lesions.
#[test]
fn organs_have_the_hu_of_real_tissue() {
    let s = Settings { lesion_free_fraction: 1.0, cysts: [0, 0], ..Settings::preset(Preset::Standard) };
    let case = generate(&s, 21, 0);
    let mut sums = vec![(0.0, 0usize); 256];
    for v in 0..case.ct.data.len() {
        let organ = case.organs.data[v];
        if organ != 0 && around(case.ct.shape(), v, 1).iter().all(|&n| case.organs.data[n] == organ) {
            sums[organ as usize].0 += f64::from(case.ct.data[v]);
            sums[organ as usize].1 += 1;
        }
    }
    for (name, low, high) in [
        ("subcutaneous fat", -120.0, -85.0),
        ("visceral fat", -120.0, -80.0),
        ("muscle", 30.0, 75.0),
        ("bone", 180.0, 900.0),
        ("spinal canal", 5.0, 50.0),
        ("right lung", -900.0, -780.0),
        ("left lung", -900.0, -780.0),
        ("heart", 80.0, 220.0),
        ("aorta", 115.0, 215.0),
        ("vena cava", 100.0, 215.0),
        ("liver", 85.0, 130.0),
        ("gallbladder", -5.0, 25.0),
        ("spleen", 90.0, 130.0),
        ("pancreas", 70.0, 115.0),
        ("right kidney", 100.0, 195.0),
        ("left kidney", 100.0, 195.0),
        ("colon", -990.0, 300.0),
    ] {
        let organ = ORGANS.iter().find(|o| o.1 == name).unwrap().0 as usize;
        let (sum, n) = sums[organ];
        let mean = sum / n as f64;
        assert!(n > 50 && (low..=high).contains(&mean), "{name}: mean {mean:.0} HU over {n} voxels, expected {low} to {high}");
    }
    let air: Vec<f32> = (0..2000).map(|v| case.ct.data[v]).collect();
    let mean = air.iter().sum::<f32>() / 2000.0;
    assert!((-1010.0..-985.0).contains(&mean), "air {mean}");
    assert!(case.ct.data.iter().all(|v| v.fract() == 0.0 && (-1024.0..=3071.0).contains(v)), "whole HU");
}

#[test]
fn every_organ_is_in_view_in_both_presets() {
    for preset in Preset::ALL {
        let case = generate(&Settings::preset(preset), 2, 1);
        let seen: BTreeSet<u8> = case.organs.data.iter().copied().collect();
        let missing: Vec<&str> = ORGANS.iter().filter(|o| !seen.contains(&o.0)).map(|o| o.1).collect();
        assert!(missing.is_empty(), "{preset}: {missing:?}");
    }
}

#[test]
fn cysts_are_dark_places_in_organs_and_never_labelled() {
    let count = |cysts: usize| {
        let case = generate(&Settings { lesion_free_fraction: 1.0, cysts: [cysts; 2], ..demo() }, 6, 2);
        assert!(case.lesions.data.iter().all(|&v| v == 0));
        let liver = ORGANS.iter().find(|o| o.1 == "liver").unwrap().0;
        let inner = |v: &usize| around(case.ct.shape(), *v, 1).iter().all(|&n| case.organs.data[n] == liver);
        (0..case.ct.data.len()).filter(inner).filter(|&v| case.ct.data[v] < 50.0).count()
    };
    let (none, many) = (count(0), count(12));
    assert!(many > none + 20, "{none} dark liver voxels without cysts, {many} with");
}

/// About 12 (the demo's lesions are large, for networks of minutes) and 14 mL over all types: nodules are smaller, effusions larger than the setting, which allows for it.
#[test]
fn volumes_have_the_wanted_median() {
    for (preset, low, high) in [(Preset::Demo, 9.0, 15.0), (Preset::Standard, 9.0, 20.0)] {
        let settings = Settings { shape: [64, 64, 50], spacing_mm: [7.0, 6.0, 6.0], ..Settings::preset(preset) };
        let settings = if preset == Preset::Demo { demo() } else { settings };
        let mut volumes: Vec<f64> = (0..90).flat_map(|i| generate(&settings, 8, i).findings).map(|l| l.volume_ml).collect();
        volumes.sort_by(f64::total_cmp);
        let median = volumes[volumes.len() / 2];
        assert!((low..=high).contains(&median), "{preset}: median {median:.2} mL of {}", volumes.len());
    }
}

#[test]
fn settings_no_cohort_can_be_made_from_are_refused() {
    type Spoil = fn(&mut Settings);
    let cases: [(&str, Spoil); 5] = [
        ("shape", |s| s.shape[1] = 1),
        ("lesion_free_fraction", |s| s.lesion_free_fraction = f64::NAN),
        ("volume_ml", |s| s.volume_ml = [5.0, 1.0]),
        ("kind_weights", |s| s.kind_weights = [0.0; 9]),
        ("cysts", |s| s.cysts = [3, 2]),
    ];
    for (name, spoil) in cases {
        let mut s = demo();
        spoil(&mut s);
        assert!(s.check().unwrap_err().to_string().contains(name), "{name}");
    }
    for preset in Preset::ALL {
        Settings::preset(preset).check().unwrap();
        assert_eq!(preset.to_string().parse::<Preset>().unwrap(), preset);
    }
    assert!("big".parse::<Preset>().unwrap_err().to_string().contains("demo"));
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(files(&path).into_iter().map(|(n, b)| (format!("{}/{n}", path.file_name().unwrap().to_string_lossy()), b)));
        } else {
            out.push((path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()));
        }
    }
    out.sort();
    out
}

#[test]
fn a_written_cohort_reads_back_and_goes_on_after_an_interruption() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |dir: &Path, threads| with_threads(threads, || write_cohort(&demo(), 11, 5, dir, [3, 1, 1]));
    let summary = write(one.path(), 1).unwrap();
    write(two.path(), 2).unwrap();
    let whole = files(one.path());
    assert_eq!(whole, files(two.path()), "1 and 2 threads");

    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(&summary.list).unwrap()).unwrap();
    for (part, n) in [("training", 3), ("validation", 1), ("test", 1)] {
        assert_eq!(list[part].as_array().unwrap().len(), n, "{part}");
    }
    assert_eq!((&list["numTraining"], &list["numTest"]), (&serde_json::json!(3), &serde_json::json!(1)));
    assert_eq!(
        (&list["modality"]["0"], &list["labels"]["0"], &list["labels"]["9"]),
        (&"CT".into(), &"background".into(), &"colon tumour".into())
    );
    let mut lesions = 0;
    for index in 0..5 {
        let case = generate(&demo(), 11, index);
        let part = [("training", 0), ("training", 1), ("training", 2), ("validation", 0), ("test", 0)][index as usize];
        let entry = &list[part.0][part.1];
        let ct = io::open(&one.path().join(entry["image"].as_str().unwrap())).unwrap();
        let labels = io::open_labels(&one.path().join(entry["label"].as_str().unwrap())).unwrap();
        let organs = io::open_labels(&one.path().join(format!("organsTr/{}.nii.gz", case.name))).unwrap();
        assert_eq!((ct.data, labels.data, organs.data), (case.ct.data, case.lesions.data, case.organs.data));
        assert_eq!(ct.geometry.affine, case.ct.geometry.affine);
        assert_eq!(std::fs::read_to_string(one.path().join(format!("reports/{}.txt", case.name))).unwrap(), case.report);
        lesions += case.findings.len();
    }
    assert_eq!((summary.lesions, summary.cases, summary.already_there), (lesions, 5, 0));

    // As after a kill: one case half written, the list missing.
    std::fs::remove_file(one.path().join("findings/phantom_0003.json")).unwrap();
    std::fs::remove_file(one.path().join("labelsTr/phantom_0003.nii.gz")).unwrap();
    std::fs::remove_file(one.path().join("dataset.json")).unwrap();
    let again = write(one.path(), 2).unwrap();
    assert_eq!((again.already_there, again.lesions), (4, lesions));
    assert_eq!(whole, files(one.path()));

    let other = write_cohort(&demo(), 12, 5, one.path(), [3, 1, 1]).unwrap_err().to_string();
    assert!(other.contains("another seed") && other.contains("phantom.json"), "{other}");
    let split = write_cohort(&demo(), 11, 5, one.path(), [3, 1, 0]).unwrap_err().to_string();
    assert!(split.contains("3 + 1 + 0"), "{split}");
}

#[test]
fn default_splits_use_every_case() {
    for (cases, split) in [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (100, [60, 15, 25])] {
        assert_eq!(default_split(cases), split, "{cases} cases");
    }
}
