//! Cohorts made here, each fault in one case of its own.

use super::*;
use crate::dataset::{Folder, read_cohort};
use crate::volume::{Geometry, Volume};

/// A soft-tissue cube of 12 voxels in air, noisy by `seed`, and a lesion of `side` voxels in it.
fn scan(seed: u64, side: usize, geometry: &Geometry) -> (Volume, Vec<u8>) {
    let (mut data, mut mask) = (vec![-1000.0; 8000], vec![0; 8000]);
    for i in 0..8000usize {
        let at = [i / 400, i / 20 % 20, i % 20];
        if at.iter().all(|v| (4..16).contains(v)) {
            data[i] = ((i as u64 * 2654435761 + seed * 7919) % 997) as f32 / 5.0;
        }
        if at.iter().all(|v| (5..5 + side).contains(v)) {
            mask[i] = 1;
        }
    }
    (Volume { data, geometry: geometry.clone() }, mask)
}

/// Writes a case into a folder, and gives its line in the list.
type Make<'a> = &'a dyn Fn(&Path) -> String;

/// A folder with one good case `good`, and whatever `more` writes and lists.
fn report(more: &[(&str, Make)], spacing_mm: Option<[f64; 3]>) -> CohortReport {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mut listed = vec![write(root, "good", 0, 3, |g| g, |_| {})];
    listed.extend(more.iter().map(|(_, make)| make(root)));
    let text = format!(r#"{{"labels": {{"1": "tumour"}}, "training": [{}]}}"#, listed.join(",\n"));
    std::fs::write(root.join("dataset.json"), text).unwrap();
    let (list, faults) = read_cohort(root, &Folder::default()).unwrap();
    let prepare = PrepareConfig { spacing_mm, windows_hu: vec![[-175.0, 250.0]], crop_foreground: true, pad_to: [8; 3] };
    check(&list, faults, &prepare, &LesionClasses::All, |_| {}).0
}

/// Write a case, its grid and then its label changed, and give back its line in the list.
fn write(
    root: &Path,
    name: &str,
    seed: u64,
    side: usize,
    grid: impl Fn(Geometry) -> Geometry,
    change: impl Fn(&mut (Volume, Vec<u8>, Geometry)),
) -> String {
    let geometry = grid(Geometry::ras([20; 3], [1.0, 1.0, 2.0], [0.0; 3]));
    let (volume, mask) = scan(seed, side, &geometry);
    let mut made = (volume, mask, geometry);
    change(&mut made);
    io::write_volume(&root.join(format!("{name}_0000.nii.gz")), &made.0).unwrap();
    io::write_labels(&root.join(format!("{name}.nii.gz")), &made.1, &made.2).unwrap();
    format!(r#"{{"image": "{name}_0000.nii.gz", "label": "{name}.nii.gz"}}"#)
}

#[test]
fn a_good_cohort_has_nothing_to_say() {
    let report = report(&[("other", &|root| write(root, "other", 5, 4, |g| g, |_| {}))], Some([1.0; 3]));
    assert_eq!((report.cases, report.errors, report.warnings), (2, 0, 0), "{:?}", report.findings);
    assert!(report.findings.is_empty() && report.lost_lesions.is_empty());
    assert_eq!(report.spacing_mm.unwrap()[2].max, 2.0);
}

#[test]
fn every_fault_is_found_at_once() {
    // What is wrong, how the case is made, how severe, and words of the finding.
    type Make<'a> = &'a dyn Fn(&Path) -> String;
    let cases: Vec<(&str, Make, Severity, &str)> = vec![
        ("missing", &|_| r#"{"image": "missing_0000.nii.gz", "label": "missing.nii.gz"}"#.into(), Severity::Error, "No such file"),
        (
            "torn",
            &|root| {
                let line = write(root, "torn", 1, 3, |g| g, |_| {});
                std::fs::write(root.join("torn_0000.nii.gz"), "torn").unwrap();
                line
            },
            Severity::Error,
            "no NIfTI",
        ),
        ("moved", &|root| write(root, "moved", 2, 3, |g| g, |m| m.2.affine[0][3] += 30.0), Severity::Error, "30.000 mm off"),
        (
            "huge",
            &|root| {
                let grown = |g: Geometry| Geometry { affine: g.affine.map(|row| row.map(|v| v * 999.0)), ..g };
                write(root, "huge", 3, 3, grown, |_| {})
            },
            Severity::Error,
            "MiB, more than",
        ),
        ("constant", &|root| write(root, "constant", 4, 3, |g| g, |m| m.0.data.fill(7.0)), Severity::Error, "in every voxel"),
        (
            "unlabelled",
            &|root| {
                write(root, "unlabelled", 5, 3, |g| g, |_| {});
                r#"{"image": "unlabelled_0000.nii.gz"}"#.into()
            },
            Severity::Error,
            "has no `label`",
        ),
        (
            "shifted",
            &|root| write(root, "shifted", 6, 3, |g| g, |m| m.0.data.iter_mut().for_each(|v| *v += 1024.0)),
            Severity::Warning,
            "HU + 1024",
        ),
        (
            "windowed",
            &|root| write(root, "windowed", 7, 3, |g| g, |m| m.0.data.iter_mut().for_each(|v| *v = v.clamp(-175.0, 60.0))),
            Severity::Warning,
            "clipped to -175..60",
        ),
        ("full", &|root| write(root, "full", 8, 3, |g| g, |m| m.1.fill(1)), Severity::Warning, "every voxel labelled"),
        ("empty", &|root| write(root, "empty", 9, 0, |g| g, |_| {}), Severity::Note, "an empty label"),
        ("nameless", &|root| write(root, "nameless", 10, 3, |g| g, |m| m.1[8000 / 2] = 9), Severity::Warning, "label values 9"),
        ("small", &|root| write(root, "small", 11, 1, |g| g, |_| {}), Severity::Warning, "1 of 1 lesions lost"),
        ("again", &|root| write(root, "again", 0, 3, |g| g, |_| {}), Severity::Warning, "the same voxels 2 times"),
        (
            "turned",
            &|root| {
                let turned = |mut g: Geometry| {
                    g.affine[0] = [-1.0, 0.0, 0.0, 19.0];
                    g
                };
                write(root, "turned", 12, 3, turned, |_| {})
            },
            Severity::Note,
            "of LAS",
        ),
        (
            "coarse",
            &|root| {
                let coarse = |g: Geometry| Geometry { affine: g.affine.map(|row| row.map(|v| v * 4.0)), ..g };
                write(root, "coarse", 13, 3, coarse, |_| {})
            },
            Severity::Warning,
            "voxels of 4.000 x 4.000 x 8.000",
        ),
    ];
    let makes: Vec<(&str, Make)> = cases.iter().map(|(name, make, ..)| (*name, *make)).collect();
    let report = report(&makes, Some([2.0; 3]));
    assert_eq!(report.cases, 16);
    for (name, _, severity, words) in &cases {
        let found = report.findings.iter().any(|f| {
            let about = f.cases.iter().any(|c| c == name) || f.cases.is_empty();
            about && f.severity == *severity && f.found.contains(words) && !f.action.is_empty() && !f.expected.is_empty()
        });
        assert!(found, "{name} {words}: {:#?}", report.findings);
    }
    assert!(
        report.findings.iter().all(|f| !f.cases.contains(&"good".into()) || f.found.contains("the same voxels")),
        "{:#?}",
        report.findings
    );
    assert!(report.findings.is_sorted_by_key(|f| f.severity) && report.faulty == 5);
    let small = report.lost_lesions.iter().find(|l| l.case == "small").unwrap();
    assert_eq!((small.lesions, small.lost_ml.as_slice()), (1, &[0.002][..]));
}

#[test]
fn a_patient_and_a_scan_on_both_sides_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let lines = ["p1_a", "p1_b", "p2_a", "p3_a"]
        .map(|name| write(dir.path(), name, if name == "p3_a" { 2 } else { name.len() as u64 }, 3, |g| g, |_| {}));
    let again = write(dir.path(), "p4_a", 2, 3, |g| g, |_| {});
    let text = format!(r#"{{"training": [{}, {}], "validation": [{}, {}], "test": [{again}]}}"#, lines[0], lines[2], lines[1], lines[3]);
    std::fs::write(dir.path().join("dataset.json"), text).unwrap();
    let (list, faults) = read_cohort(dir.path(), &Folder { patient_parts: 1, ..Folder::default() }).unwrap();
    let prepare = PrepareConfig { spacing_mm: None, windows_hu: vec![[-175.0, 250.0]], crop_foreground: true, pad_to: [8; 3] };
    let (report, facts) = check(&list, faults, &prepare, &LesionClasses::All, |_| {});
    let has = |words: &str, cases: &[&str]| {
        report.findings.iter().any(|f| f.severity == Severity::Error && f.found.contains(words) && f.cases == cases)
    };
    assert!(has("patient `p1` in training and validation", &["p1_a", "p1_b"]), "{:#?}", report.findings);
    assert!(has("on two sides of the split", &["p3_a", "p4_a"]), "{:#?}", report.findings);
    assert_eq!(facts.len(), 5);
}
