//! A real scan, where the data folder is there.

use std::path::Path;

use crate::support::{World, same_header};

#[test]
fn a_real_scan_is_screened_on_its_own_grid() {
    let scan = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/ct/totalseg/example_ct_sm.nii.gz");
    if !scan.exists() {
        eprintln!("SKIPPED: ../shared/data/ct/totalseg/example_ct_sm.nii.gz not present");
        return;
    }
    let world = World::trained();
    let summary =
        world.json(0, &["screen", scan.to_str().unwrap(), "--model", "runs/tiny", "--out", "out", "--quiet", "--save-probabilities"]);
    assert_eq!(summary["screened"], 1);
    same_header(&scan, &world.path("out/example_ct_sm.nii.gz"));
    let open = |name: &str| panscreen_envs::io::open(&world.path(name)).unwrap();
    let (mask, map) = (open("out/example_ct_sm.nii.gz"), open("out/example_ct_sm_probability.nii.gz"));
    assert_eq!((mask.shape(), map.shape()), (panscreen_envs::io::open(&scan).unwrap().shape(), mask.shape()));
    assert!(map.data.iter().all(|p| (0.0..=1.0).contains(p)));
    assert!(mask.data.iter().zip(&map.data).all(|(&m, &p)| (m == 1.0) == (p > 0.5)));
    assert!(world.path("out/example_ct_sm.png").exists());
}

/// Grid corners and the mask's centroid, in mm of the world.
fn marks(path: &Path) -> (Vec<[f64; 3]>, [f64; 3]) {
    let mask = panscreen_envs::io::open(path).unwrap();
    let [nx, ny, nz] = mask.shape();
    let world = |v: [f64; 3]| {
        let a = mask.geometry.affine;
        std::array::from_fn(|r| a[r][0] * v[0] + a[r][1] * v[1] + a[r][2] * v[2] + a[r][3])
    };
    let corners = (0..8).map(|c| world([(c & 1) * (nx - 1), (c >> 1 & 1) * (ny - 1), (c >> 2) * (nz - 1)].map(|v| v as f64)));
    let (mut sum, mut count) = ([0.0; 3], 0.0);
    for (i, _) in mask.data.iter().enumerate().filter(|(_, v)| **v > 0.0) {
        let at = [i / (ny * nz), i / nz % ny, i % nz];
        sum = std::array::from_fn(|a| sum[a] + at[a] as f64);
        count += 1.0;
    }
    assert!(count > 0.0, "{} marks something", path.display());
    (corners.collect(), world(sum.map(|s| s / count)))
}

#[test]
fn every_form_of_input_gets_a_mask_on_its_own_grid() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/ct");
    // What is given, and the case that it becomes.
    let inputs = [
        ("sts/STS_019_CT_image.nii.gz", "STS_019_CT_image"),
        ("sts_dicom/STS_019/image", "image"),
        ("totalseg_dicom", "totalseg_dicom"),
        ("ge_head_dicom", "ge_head_dicom"),
        ("dcmqi_ct3slice", "dcmqi_ct3slice"),
        ("cip/ct-64.nrrd", "ct-64"),
        ("totalseg/example_ct_sm.nii.gz", "example_ct_sm"),
    ];
    if inputs.iter().any(|(input, _)| !data.join(input).exists()) {
        eprintln!("SKIPPED: ../shared/data/ct not present, or a part of it");
        return;
    }
    let world = World::new();
    // Coarse, so that whole chests are few windows.
    world.ok(&["train", "tiny.toml", "data.spacing_mm=[4,4,6]", "--quiet"]);
    let paths = inputs.map(|(input, _)| data.join(input).display().to_string());
    let given: Vec<&str> = paths.iter().map(String::as_str).collect();
    // A network of twelve steps marks little: everything that Focus gives a chance is marked.
    let how = ["--model", "runs/tiny", "--out", "out", "--quiet", "--no-preview", "--mask-threshold", "0.001", "--keep-fraction", "0.2"];
    world.ok(&[&["screen"], given.as_slice(), &how].concat());
    for (path, (input, case)) in paths.iter().zip(inputs) {
        let mask = world.path(&format!("out/{case}.nii.gz"));
        if input.ends_with(".nii.gz") {
            same_header(Path::new(path), &mask);
        }
        let (geometry, written) =
            (panscreen_envs::io::open_header(Path::new(path)).unwrap(), panscreen_envs::io::open_header(&mask).unwrap());
        assert_eq!(geometry.shape, written.shape, "{input}");
        let off = geometry.affine.as_flattened().iter().zip(written.affine.as_flattened()).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0.0, f64::max) < 1e-4, "{input}: {:?} and {:?}", geometry.affine, written.affine);
    }
    // One scan in two forms: the same marks at the same place.
    let near = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let (nifti, dicom) = (marks(&world.path("out/STS_019_CT_image.nii.gz")), marks(&world.path("out/image.nii.gz")));
    assert!(near(nifti.1, dicom.1) <= 0.01, "{:?} and {:?}", nifti.1, dicom.1);
    let farthest = nifti.0.iter().map(|&a| dicom.0.iter().map(|&b| near(a, b)).fold(f64::MAX, f64::min)).fold(0.0, f64::max);
    assert!(farthest <= 0.01, "corners {farthest} mm apart");
}
