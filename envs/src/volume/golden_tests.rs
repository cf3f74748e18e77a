//! The preprocessing chain and its inverse against MONAI's numbers (`../shared/golden/preprocess_*.json`), stage by stage, on real scans.

use serde_json::Value;
use sha2::Digest;

use super::target::Target;
use super::*;
use crate::golden::shared;

/// One golden case: MONAI's stages by name, the scan and the mask (label > 0).
struct Case {
    name: &'static str,
    json: Value,
    image: Volume,
    mask: Labels,
}

fn load(name: &'static str) -> Option<Case> {
    let read = |name: &str| -> Option<Value> {
        let text = std::fs::read_to_string(shared(&format!("golden/preprocess_{name}.json"))?).unwrap();
        Some(serde_json::from_str(&text).unwrap())
    };
    let json = read(name)?;
    let files = if json["image"].is_null() { read("sts_019")? } else { json.clone() };
    let file = |key: &str| shared(&format!("data/{}", files[key].as_str().unwrap()));
    let image = crate::io::open(&file("image")?).unwrap();
    let mut mask = crate::io::open_labels(&file("mask")?).unwrap();
    mask.data = mask.mask_of(&(1..=255).collect::<Vec<_>>());
    let mut case = Case { name, json, image, mask };
    if name == "sts_019_permuted" {
        // b = a.transpose(2, 0, 1)[:, :, ::-1]
        let geometry =
            Geometry { shape: usizes(&case.stage("load")["shape"]), affine: affine(&case.stage("load")["affine"]), stored: None };
        let turn = |i: usize| {
            let [_, n1, n2] = case.image.shape();
            let [_, m1, m2] = geometry.shape;
            let (x, y, z) = (i / (m1 * m2), i / m2 % m1, i % m2);
            (y * n1 + (n1 - 1 - z)) * n2 + x
        };
        let order: Vec<usize> = (0..geometry.voxels()).map(turn).collect();
        case.image = Volume { data: order.iter().map(|&i| case.image.data[i]).collect(), geometry: geometry.clone() };
        case.mask.data = order.iter().map(|&i| case.mask.data[i]).collect();
        case.mask.geometry = geometry;
    }
    Some(case)
}

fn usizes(v: &Value) -> [usize; 3] {
    std::array::from_fn(|i| v[i].as_u64().unwrap() as usize)
}

fn affine(v: &Value) -> Affine {
    std::array::from_fn(|i| std::array::from_fn(|j| v[i][j].as_f64().unwrap()))
}

fn sha(mask: &[u8]) -> String {
    sha2::Sha256::digest(mask).iter().map(|b| format!("{b:02x}")).collect()
}

impl Case {
    fn stage(&self, name: &str) -> &Value {
        self.json["stages"].as_array().unwrap().iter().find(|s| s["stage"] == name).unwrap()
    }

    /// Everything that a stage lists, against what came out here.
    fn check(&self, stage: &str, grid: &Geometry, values: &[f32], mask: Option<&[u8]>, tolerance: f64) {
        let (want, at) = (self.stage(stage), format!("{} {stage}", self.name));
        assert_eq!(grid.shape, usizes(&want["shape"]), "{at}");
        for (a, b) in grid.affine.as_flattened().iter().zip(affine(&want["affine"]).as_flattened()) {
            assert!((a - b).abs() < 1e-6, "{at}: {:?}", grid.affine);
        }
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| v as f64).sum::<f64>() / n;
        let std = (values.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / n).sqrt();
        let (min, max) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
        for (key, got) in [("mean", mean), ("std", std), ("min", min as f64), ("max", max as f64)] {
            let want = want[key].as_f64().unwrap();
            assert!((got - want).abs() <= tolerance, "{at}: {key} {got}, {want}");
        }
        if let Some(index) = want["index"].as_array() {
            for (i, v) in index.iter().zip(want["value"].as_array().unwrap()) {
                let (got, want) = (values[i.as_u64().unwrap() as usize] as f64, v.as_f64().unwrap());
                assert!((got - want).abs() <= tolerance, "{at}: voxel {i} is {got}, {want}");
            }
        }
        let Some(mask) = mask else { return };
        assert_eq!(mask.iter().filter(|&&v| v == 1).count() as u64, want["mask_voxels"].as_u64().unwrap(), "{at}");
        if let Some(hash) = want["mask_sha256_u8"].as_str() {
            assert_eq!(sha(mask), hash, "{at}");
        }
    }

    /// The block of the resampled image that the golden tensors hold.
    fn check_block(&self, grid: &Geometry, hu: &[f32]) {
        let block = &self.stage("spacing")["hu_block"];
        let Some((shape, bytes)) = tensor(&format!("{}.hu_block", self.name)).filter(|_| !block.is_null()) else { return };
        let lo = usizes(&block["lo"]);
        for (i, want) in bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).enumerate() {
            let at = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
            let got = hu[((lo[0] + at[0]) * grid.shape[1] + lo[1] + at[1]) * grid.shape[2] + lo[2] + at[2]];
            assert!((got - want).abs() <= 1e-3, "{} block {at:?}: {got}, {want}", self.name);
        }
    }
}

/// A tensor of `preprocess.safetensors`: shape and bytes.
fn tensor(name: &str) -> Option<(Vec<usize>, Vec<u8>)> {
    let file = std::fs::read(shared("golden/preprocess.safetensors")?).unwrap();
    let head = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&file[8..8 + head]).unwrap();
    let at = |i: usize| 8 + head + json[name]["data_offsets"][i].as_u64().unwrap() as usize;
    let shape = json[name]["shape"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
    Some((shape, file[at(0)..at(1)].to_vec()))
}

const PARITY: ([f64; 3], [f32; 2], [usize; 3]) = ([1.0, 1.0, 3.0], [-175.0, 250.0], [96, 96, 64]);

fn config(spacing: bool, crop: bool, pad: bool) -> PrepareConfig {
    PrepareConfig {
        spacing_mm: spacing.then_some(PARITY.0),
        windows_hu: vec![PARITY.1],
        crop_foreground: crop,
        pad_to: if pad { PARITY.2 } else { [0; 3] },
    }
}

/// Image in HU and mask after turning and, with `spacing_mm`, resampling.
fn before_windowing(image: &Volume, mask: &[u8], spacing_mm: Option<[f64; 3]>) -> (Geometry, Vec<f32>, Vec<u8>) {
    let turned = Orientation::of(&image.geometry);
    let target = Target::of(turned.turn(&image.geometry), spacing_mm).unwrap();
    let shape = target.grid.shape;
    let hu = target.image(&image.data, &turned, vec![(); shape[0]], |plane, ()| plane.to_vec()).concat();
    let mask = target.labels(mask, &turned, &shape.map(|n| (0..n).map(Some).collect()));
    (target.grid, hu, mask)
}

fn prepared(case: &Case, config: &PrepareConfig) -> (Geometry, Prepared) {
    let p = prepare(case.image.clone(), Some(&case.mask), config).unwrap();
    (Geometry { shape: p.shape, affine: p.way_back.prepared_affine(), stored: None }, p)
}

/// Voxels of MONAI's native mask that may differ, with the native slices they all lie in (`golden/README.md`).
type Ties = (usize, &'static [usize]);

fn check_case(name: &'static str, (allowed, slices): Ties) {
    let Some(case) = load(name) else { return };
    case.check("load", &case.image.geometry, &case.image.data, Some(&case.mask.data), 1e-3);
    let (grid, hu, mask) = before_windowing(&case.image, &case.mask.data, None);
    case.check("reorient", &grid, &hu, Some(&mask), 1e-3);
    let (grid, hu, mask) = before_windowing(&case.image, &case.mask.data, Some(PARITY.0));
    case.check("spacing", &grid, &hu, Some(&mask), 1e-3);
    case.check_block(&grid, &hu);
    for (stage, config) in [("window", config(true, false, false)), ("crop", config(true, true, false)), ("pad", config(true, true, true))]
    {
        let (grid, p) = prepared(&case, &config);
        case.check(stage, &grid, &p.image, p.labels.as_deref(), 1e-5);
    }

    let (_, p) = prepared(&case, &config(true, true, true));
    let (start, end) = p.way_back.crop_box();
    assert_eq!((start, end), (usizes(&case.stage("crop")["box_start"]), usizes(&case.stage("crop")["box_end"])), "{name}");
    // Saved and loaded, the way back is still the same way.
    let way: WayBack = serde_json::from_str(&serde_json::to_string(&p.way_back).unwrap()).unwrap();
    let native = way.restore_labels(p.labels.as_ref().unwrap());
    let want = &case.json["inverse"];
    assert_eq!(way.native().shape, usizes(&want["native_shape"]));
    if allowed == 0 {
        assert_eq!(native.iter().filter(|&&v| v == 1).count() as u64, want["voxels_native"].as_u64().unwrap(), "{name}");
        assert_eq!(sha(&native), want["sha256_u8"].as_str().unwrap(), "{name}");
    } else if let Some((_, bits)) = tensor(&format!("{name}.mask_native_bits")) {
        let differ: Vec<usize> = (0..native.len()).filter(|&i| native[i] != bits[i / 8] >> (7 - i % 8) & 1).collect();
        assert!(differ.len() <= allowed, "{name}: {} voxels differ", differ.len());
        let depth = way.native().shape[2];
        assert!(differ.iter().all(|i| slices.contains(&(i % depth))), "{name}: outside the tie slices");
    }
}

#[test]
fn totalseg_3_mm_isotropic() {
    check_case("totalseg_sm", (0, &[]));
}

#[test]
fn sts_019_flipped_and_qform_only() {
    check_case("sts_019", (0, &[]));
}

#[test]
fn sts_019_with_permuted_axes() {
    let Some(case) = load("sts_019_permuted") else { return };
    // The golden inverse is on the permuted grid; the rest of the chain is checked as for the others.
    assert_eq!(Orientation::of(&case.image.geometry).axes, [1, 2, 0]);
    check_case("sts_019_permuted", (0, &[]));
}

#[test]
fn aorta_with_ties_in_lengths_and_in_every_odd_slice() {
    check_case("aorta", (506, &[1, 7, 13, 15, 25, 27, 29, 45, 55, 69, 91, 93, 107, 111]));
}

#[test]
fn a_head_with_gantry_tilt() {
    let Some(path) = shared("data/ct/odd/ct_head_phantom_shear.nii.gz") else { return };
    let image = crate::io::open(&path).unwrap();
    let mask = Labels { data: vec![0; image.data.len()], geometry: image.geometry.clone(), classes: Default::default() };
    let case = Case { name: "shear", json: crate::golden::load("preprocess_shear.json"), image, mask };
    case.check("load", &case.image.geometry, &case.image.data, None, 1e-3);
    let (grid, hu, _) = before_windowing(&case.image, &case.mask.data, None);
    case.check("reorient", &grid, &hu, None, 1e-3);
    let (grid, hu, _) = before_windowing(&case.image, &case.mask.data, Some(PARITY.0));
    case.check("spacing", &grid, &hu, None, 1e-3);
    case.check_block(&grid, &hu);
    for (stage, config) in [("window", config(true, false, false)), ("crop", config(true, true, false)), ("pad", config(true, true, true))]
    {
        let (grid, p) = prepared(&case, &config);
        case.check(stage, &grid, &p.image, None, 1e-5);
    }

    let (grid, p) = prepared(&case, &config(true, true, true));
    // The ellipsoid that the file describes.
    let inside = |i: usize| {
        let at = [i / (grid.shape[1] * grid.shape[2]), i / grid.shape[2] % grid.shape[1], i % grid.shape[2]];
        let part = |a: usize, r: f64| ((at[a] as f64 - grid.shape[a] as f64 / 2.0) / r).powi(2);
        part(0, 30.0) + part(1, 25.0) + part(2, 9.0) <= 1.0
    };
    let ellipsoid: Vec<u8> = (0..grid.voxels()).map(|i| inside(i) as u8).collect();
    let count = |mask: &[u8]| mask.iter().filter(|&&v| v == 1).count() as u64;
    let want = &case.json["inverse"];
    assert_eq!(count(&ellipsoid), want["voxels_padded"].as_u64().unwrap());
    let native = p.way_back.restore_labels(&ellipsoid);
    assert_eq!(count(&native), want["voxels_native"].as_u64().unwrap());
    assert_eq!(sha(&native), want["sha256_u8"].as_str().unwrap());
}
