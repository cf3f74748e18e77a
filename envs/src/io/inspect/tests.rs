//! Verdicts on the files of `bad` and `ct/odd`, and on their like made here.

use std::path::PathBuf;

use super::*;
use crate::golden::shared;
use crate::io::{open, write_labels, write_probability, write_volume};
use crate::rng::{RngExt, stream};

#[test]
fn every_file_of_the_index_gets_its_verdict() {
    let Some(dir) = shared("data/bad") else { return };
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("INDEX.json")).unwrap()).unwrap();
    let reference = inspect(&dir.join("ref_ct.nii.gz"), None).voxels_sha256.unwrap();
    let mut wrong = String::new();
    for (name, entry) in index.as_object().unwrap() {
        let path = dir.join(name);
        let is_mask = name.contains("mask");
        // The two orphans have one name: side by side they are a good pair.
        let alone = tempfile::tempdir().unwrap();
        let path = if name.starts_with("orphan") { alone.path().join(name) } else { path };
        if name.starts_with("orphan") {
            std::fs::copy(dir.join(name), &path).unwrap();
        }
        let report = if is_mask { inspect(&dir.join("ref_ct.nii.gz"), Some(&path)) } else { inspect(&path, None) };
        let want = entry["expect"].as_str().unwrap();
        let got = serde_json::to_value(report.verdict).unwrap();
        let good = match want {
            "same" => got == "ok" && report.voxels_sha256.as_deref() == Some(&reference),
            want => got == want,
        };
        // Everything that can be read turns to the same voxels, whichever way it was stored.
        let turned = name != "reorient_LPS.nii.gz" || report.voxels_sha256.as_deref() == Some(&reference);
        if !good || !turned {
            wrong += &format!("\n{name} ({}): {want}, got {got}: {:?}", entry["why"], report.reasons);
        }
        check_wording(&report);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Each reason says all of its three parts, and a bad verdict has one.
#[track_caller]
fn check_wording(report: &Report) {
    assert_eq!(report.verdict == Grade::Ok, report.reasons.is_empty(), "{report:?}");
    for reason in &report.reasons {
        let parts = [&reason.file, &reason.found, &reason.expected, &reason.action];
        assert!(parts.iter().all(|part| !part.is_empty() && part.len() < 300 && !part.contains('\n')), "{reason:?}");
    }
    let json = serde_json::to_string(report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap().verdict, report.verdict);
}

#[test]
fn odd_files_of_other_tools_get_a_verdict() {
    use Grade::*;
    let Some(dir) = shared("data/ct/odd") else { return };
    for (name, verdict, word) in [
        ("analyze75_header_only.hdr", Error, "Analyze"),
        ("be_float32.nii", Warn, "nothing below 0"),
        ("be_int16.nii", Warn, "air and soft tissue"),
        ("complex64.nii", Error, "complex64"),
        ("ct_head_phantom_shear.nii.gz", Warn, "degrees"),
        ("ct_perfusion_rgb24.nii.gz", Error, "RGB"),
        ("float64.nii", Ok, ""),
        ("fuzz_crash_1.nii", Error, "sizeof_hdr"),
        ("git_lfs_pointer.nii.gz", Error, "Git LFS"),
        ("hdr_extension_2d.nii", Warn, "0 in every voxel"),
        ("ibsi2_all_ones_mask.nii.gz", Warn, "1 in every voxel"),
        ("ibsi2_empty_image.nii.gz", Warn, "0 in every voxel"),
        ("ibsi2_orientation_32x48x64.nii.gz", Warn, "8 bits"),
        ("ibsi_digital_phantom_5x4x4.nii.gz", Warn, "% of all voxels"),
        ("ibsi_digital_phantom_mask_5x4x4.nii.gz", Ok, ""),
        ("int64.nii", Ok, ""),
        ("int8.nii", Ok, ""),
        ("uint64.nii", Ok, ""),
        ("nifti1_pair_header_only.hdr", Error, "no other half"),
        ("nifti2_pair_header_only.hdr", Error, "no other half"),
        ("oblique_4d.nii.gz", Error, "series"),
        ("pair_gz_minimal2.hdr", Warn, "neither sform nor qform"),
        ("pair_gz_minimal2.img.gz", Warn, "neither sform nor qform"),
        ("pair_minimal.hdr", Warn, "neither sform nor qform"),
        ("pair_minimal.img", Warn, "neither sform nor qform"),
        ("rgb24_3d.nii", Error, "RGB"),
        ("rgba32_4d.nii", Error, ""),
        ("tiny_4x5x7.nii.gz", Warn, "0 and 255"),
    ] {
        let report = inspect(&dir.join(name), None);
        check_wording(&report);
        let said: String = report.reasons.iter().map(|r| r.found.as_str()).collect();
        assert!(report.verdict == verdict && said.contains(word), "{name}: {:?} {:?}", report.verdict, report.reasons);
    }
}

#[test]
fn real_scans_and_their_masks_are_ok() {
    let mut seen = 0;
    for (image, mask) in [
        ("sts/STS_001_CT_image.nii.gz", Some("sts/STS_001_CT_mask.nii.gz")),
        ("sts/STS_002_CT_image.nii.gz", Some("sts/STS_002_CT_mask.nii.gz")),
        ("sts/STS_019_CT_image.nii.gz", Some("sts/STS_019_CT_mask.nii.gz")),
        ("totalseg/aorta_ct_cropped.nii.gz", None),
        ("totalseg/example_ct.nii.gz", None),
        ("totalseg/example_ct_sm.nii.gz", Some("totalseg/example_seg.nii.gz")),
        ("totalseg/example_seg.nii.gz", None),
    ] {
        let Some(path) = shared(&format!("data/ct/{image}")) else { return };
        let report = inspect(&path, mask.and_then(|m| shared(&format!("data/ct/{m}"))).as_deref());
        assert_eq!(report.reasons, [], "{image}");
        assert_eq!(report.kind == Kind::Labels, image.contains("seg.nii"), "{image}");
        seen += 1;
    }
    assert_eq!(seen, 7);
}

// ---- made here ----

const SHAPE: [usize; 3] = [24, 22, 20];

fn grid() -> Geometry {
    Geometry::ras(SHAPE, [3.0; 3], [0.0; 3])
}

/// A body with a bone and a lung in air, noise everywhere.
fn body() -> Vec<f32> {
    let mut r = stream(3, "inspect-tests", 0, 0);
    let mut voxels = Vec::new();
    for n in 0..grid().voxels() {
        let [x, y, z] = [n / 440, n / 20 % 22, n % 20].map(|i| i as f32);
        let far = (x - 12.0).hypot(y - 11.0);
        let hu = match () {
            _ if far > 9.0 => -1000.0,
            _ if far < 2.0 => 700.0,
            _ if (x - 8.0).hypot(z - 6.0) < 3.0 => -800.0,
            _ => 40.0,
        };
        voxels.push((hu + r.random_range(-25.0..25.0f32)).round());
    }
    voxels
}

fn lesion() -> Vec<u8> {
    (0..grid().voxels()).map(|n| u8::from((n / 440).abs_diff(12) < 3 && (n / 20 % 22).abs_diff(14) < 2 && n % 20 > 12)).collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn image(&self, values: &[f32]) -> PathBuf {
        let path = self.0.path().join("image.nii.gz");
        write_probability(&path, values, &grid()).unwrap();
        path
    }

    fn mask(&self, values: &[f32], grid: &Geometry) -> PathBuf {
        let path = self.0.path().join("mask.nii.gz");
        write_probability(&path, values, grid).unwrap();
        path
    }
}

#[test]
fn what_is_not_hu_is_told_apart() {
    let body = body();
    let map = |f: &dyn Fn(f32) -> f32| body.iter().map(|&v| f(v)).collect::<Vec<f32>>();
    let windowed = |v: f32| ((v + 160.0) / 400.0).clamp(0.0, 1.0);
    let mean = body.iter().sum::<f32>() / body.len() as f32;
    let mut noise = stream(4, "inspect-tests", 0, 0);
    let padded =
        |f: &dyn Fn(f32) -> f32, padding: f32| body.iter().enumerate().map(|(n, &v)| if n < 900 { padding } else { f(v) }).collect();
    let cases: Vec<(&str, Vec<f32>, &str)> = vec![
        ("HU", body.clone(), ""),
        ("HU, padded", padded(&|v| v, -3024.0), ""),
        ("HU, padded as many do", padded(&|v| v, -2000.0), ""),
        ("HU, clipped at -1000", map(&|v| v.max(-1000.0)), ""),
        ("HU, metal", map(&|v| if v > 720.0 { 30000.0 } else { v }), ""),
        ("HU, inside a body", body.iter().copied().filter(|&v| v > -900.0).cycle().take(body.len()).collect(), ""),
        ("HU, 0.5 steps", map(&|v| v + 0.5), ""),
        ("+1024", map(&|v| v + 1100.0), "nothing below 0"),
        ("+1000", map(&|v| (v + 1000.0).max(0.0)), "nothing below 0"),
        ("+1000, noise below 0", map(&|v| v + 1000.0), "mostly near 0 and near 1000"),
        ("+1024, padded", padded(&|v| v + 1100.0, -2000.0), "padding -2000 aside"),
        ("+8192", map(&|v| v + 8192.0), "nothing below 0"),
        ("+32768", map(&|v| v + 32768.0), "without sign"),
        ("wrapped", map(&|v| if v < 0.0 { v + 65536.0 } else { v }), "without sign"),
        ("-1024 twice", map(&|v| v - 1024.0), "taken off twice"),
        ("+400", map(&|v| v + 400.0), "where air and soft tissue are"),
        ("times 10", map(&|v| v * 10.0 + 2500.0), "where air and soft tissue are"),
        ("8 bits", map(&|v| (windowed(v) * 255.0).round()), "8 bits"),
        ("8 bits, not rounded", map(&|v| windowed(v) * 255.0), "8 bits"),
        ("clipped", map(&|v| v.clamp(-160.0, 240.0)), "clipped at both ends"),
        ("0 to 1", map(&windowed), "normalised"),
        ("-1 to 1", map(&|v| windowed(v) * 2.0 - 1.0), "normalised"),
        ("z-score", map(&|v| (v - mean) / 480.0), "normalised"),
        ("zeros", map(&|_| 0.0), "0 in every voxel"),
        ("air", map(&|_| -1024.0), "-1024 in every voxel"),
        ("a magnetic resonance", body.iter().map(|_| noise.random_range(0.0..1800.0f32).round()).collect(), "nothing below 0"),
    ];
    for (name, values, word) in cases {
        let report = inspect(&Folder::new().image(&values), None);
        check_wording(&report);
        let said: Vec<_> = report.reasons.iter().map(|r| (r.grade, r.found.as_str())).collect();
        let good = if word.is_empty() { said.is_empty() } else { said.len() == 1 && said[0].0 == Grade::Warn && said[0].1.contains(word) };
        assert!(good && report.kind == Kind::Image, "{name}: {said:?}");
        assert_eq!(report.hu_max, values.iter().copied().reduce(f32::max), "{name}");
    }
}

#[test]
fn what_is_no_good_mask_is_told_apart() {
    use Grade::*;
    let (body, lesion) = (body(), lesion());
    let map = |f: &dyn Fn(u8) -> f32| lesion.iter().map(|&l| f(l)).collect::<Vec<f32>>();
    let mut r = stream(5, "inspect-tests", 0, 0);
    let first = |value: f32| {
        let mut values = map(&f32::from);
        values[0] = value;
        values
    };
    let many: Vec<f32> = (0..lesion.len()).map(|n| (n / 100) as f32).collect();
    let cases: Vec<(&str, Vec<f32>, Grade, &str)> = vec![
        ("0 and 1", map(&f32::from), Ok, ""),
        ("two labels", first(2.0), Ok, ""),
        ("organs", many, Warn, "% of all voxels"),
        ("255 for 1", map(&|l| 255.0 * f32::from(l)), Warn, "0 and 255"),
        ("255 as well", first(255.0), Warn, "255 beside 1 others"),
        ("only 7", map(&|l| 7.0 * f32::from(l)), Warn, "only the label 7"),
        ("only 128", map(&|l| 128.0 * f32::from(l)), Warn, "only the label 128"),
        ("nothing", map(&|_| 0.0), Warn, "no labelled voxel"),
        ("everything", map(&|_| 1.0), Warn, "100.0 % of all voxels"),
        ("inverted", map(&|l| 1.0 - f32::from(l)), Warn, "% of all voxels"),
        ("negative", first(-1.0), Error, "from -1.0 to 1.0"),
        ("too large", first(1000.0), Error, "to 1000.0"),
        ("probabilities", map(&|l| 0.9 * f32::from(l)), Error, "probabilities"),
        ("interpolated", first(1.5), Error, "fractional"),
        ("not a number", first(f32::NAN), Error, "1 of 10560 labels"),
        ("the image", body.clone(), Error, "values from"),
        ("the image in 8 bits", (0..lesion.len()).map(|_| r.random_range(0..=255u8).into()).collect(), Error, "an image"),
    ];
    let folder = Folder::new();
    let image = folder.image(&body);
    for (name, values, verdict, word) in cases {
        let report = inspect(&image, Some(&folder.mask(&values, &grid())));
        check_wording(&report);
        let said: Vec<_> = report.reasons.iter().map(|r| r.found.as_str()).collect();
        assert!(report.verdict == verdict && (word.is_empty() || said.len() == 1 && said[0].contains(word)), "{name}: {said:?}");
        assert_eq!(report.mask.is_some(), verdict != Error || word == "an image", "{name}");
        assert!(report.reasons.iter().all(|r| r.file.ends_with("mask.nii.gz")));
    }
}

#[test]
fn grids_are_compared_in_the_world() {
    let folder = Folder::new();
    let image = folder.image(&body());
    let lesion = lesion();
    let [nx, ny, nz] = SHAPE;
    let check = |name: &str, grid: &Geometry, data: &[u8], word: &str| {
        let path = folder.0.path().join("mask.nii.gz");
        write_labels(&path, data, grid).unwrap();
        let report = inspect(&image, Some(&path));
        let said: Vec<_> = report.reasons.iter().map(|r| r.found.as_str()).collect();
        let good = if word.is_empty() { said.is_empty() } else { report.verdict == Grade::Error && said.iter().any(|s| s.contains(word)) };
        assert!(good, "{name}: {said:?}");
        report.mask.unwrap()
    };
    let moved = |mm: f64| Geometry::ras(SHAPE, [3.0; 3], [mm, 0.0, 0.0]);
    check("moved by a hundredth", &moved(0.01), &lesion, "");
    check("moved by a voxel", &moved(3.0), &lesion, "3.00 mm off");
    check("moved by a fifth of a voxel", &moved(0.6), &lesion, "0.60 mm off");
    check("another spacing", &Geometry::ras(SHAPE, [3.0, 3.0, 3.1], [0.0; 3]), &lesion, "1.90 mm off");
    check("one row less", &Geometry::ras([nx - 1, ny, nz], [3.0; 3], [0.0; 3]), &lesion[..(nx - 1) * ny * nz], "[23, 22, 20] voxels");

    // The same places with the first two axes backwards: LPS.
    let mut turned = moved(0.0);
    for (a, n) in SHAPE.into_iter().enumerate().take(2) {
        turned.affine[a][a] = -3.0;
        turned.affine[a][3] = 3.0 * (n as f64 - 1.0);
    }
    let backwards: Vec<u8> = (0..nx * ny).rev().flat_map(|column| lesion[column * nz..][..nz].to_vec()).collect();
    let mask = check("LPS", &turned, &backwards, "");
    assert_eq!((mask.orientation.as_str(), mask.labels.len(), mask.labels[0].label), ("LPS", 1, 1));
    assert!((mask.labels[0].volume_ml - mask.labels[0].voxels as f64 * 0.027).abs() < 1e-9);
    // Mirrored in the world.
    let mut mirrored = moved(0.0);
    mirrored.affine[0][0] = -3.0;
    check("mirrored", &mirrored, &lesion, "mm off");
}

#[test]
fn one_scan_has_one_hash_however_its_axes_run() {
    let folder = Folder::new();
    let want = inspect(&folder.image(&body()), None).voxels_sha256.unwrap();
    let scan = Volume { data: body(), geometry: grid() };
    let path = folder.0.path().join("turned.nii.gz");
    for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for flips in 0..8 {
            let turn = Orientation { axes, flip: std::array::from_fn(|a| flips >> a & 1 == 1) };
            let turned = Volume { data: turn.turn_voxels(&scan.data, SHAPE).into_owned(), geometry: turn.turn(&scan.geometry) };
            write_volume(&path, &turned).unwrap();
            let report = inspect(&path, None);
            assert_eq!(report.voxels_sha256.as_ref(), Some(&want), "{turn:?}");
            assert_eq!(open(&path).unwrap().shape(), report.shape.unwrap());
        }
    }
}

#[test]
fn what_is_not_there_is_a_report_too() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("nothing.nii.gz"), folder.path().to_owned()] {
        let report = inspect(&path, Some(&path));
        assert!(report.verdict == Grade::Error && report.reasons.len() == 2 && report.voxels_sha256.is_none(), "{report:?}");
    }
}
