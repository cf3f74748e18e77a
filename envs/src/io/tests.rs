//! The readers and writers against files made here, files of other tools, and files that are broken on purpose.

use std::path::{Path, PathBuf};

use super::*;
use crate::volume::Affine;

/// A folder beside the repository that holds real and broken files; tests that need it say so when it is absent.
fn shared(part: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(part);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: ../shared/{part} not present");
    None
}

fn close(a: &Affine, b: &Affine, tolerance: f64) -> bool {
    a.as_flattened().iter().zip(b.as_flattened()).all(|(a, b)| (a - b).abs() <= tolerance)
}

#[test]
fn every_good_variant_of_one_scan_reads_alike() {
    let Some(dir) = shared("data/bad") else { return };
    let want = open(&dir.join("ref_ct.nii.gz")).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with("same_") || name.contains("nifti2") {
            continue;
        }
        let got = open(&path).unwrap();
        assert_eq!(got.shape(), want.shape(), "{name}");
        assert!(close(&got.geometry.affine, &want.geometry.affine, 1e-4), "{name}: {:?} {:?}", got.geometry.affine, want.geometry.affine);
        let off = got.data.iter().zip(&want.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 1e-3, "{name}: {off} HU");
        seen += 1;
    }
    assert!(seen >= 15);
}

#[test]
fn no_file_makes_the_readers_panic() {
    for folder in ["data/bad", "data/ct/odd"] {
        let Some(dir) = shared(folder) else { return };
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let say = |r: Result<String>| r.unwrap_or_else(|e| e.to_string().replace(&dir.display().to_string(), ""));
            println!("{name:40} {}", say(open(&path).map(|v| format!("{:?}", v.shape()))));
            println!("{:40} {}", "", say(open_labels(&path).map(|v| format!("{:?}", v.shape()))));
        }
    }
}
