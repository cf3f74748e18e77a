//! Real masks of `../shared/data` against `../shared/golden/components_26.json`.

use std::collections::HashMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::flare::{FlareScore, TOLERANCE_MM};
use super::*;
use crate::golden::{assert_close, numbers, shared};
use crate::io;
use crate::volume::components::{Components, Connectivity, label};

fn check_hash(mask: &[u8], want: &Value, what: &str) {
    let hash: String = Sha256::digest(mask).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(Some(hash.as_str()), want.as_str(), "{what}: the mask is made differently");
}

struct Mask {
    voxels: Vec<u8>,
    shape: [usize; 3],
    spacing_mm: [f64; 3],
}

impl Mask {
    fn read(e: &Value) -> Option<Self> {
        let volume = io::open(&shared(&format!("data/{}", e["file"].as_str().unwrap()))?).unwrap();
        let (shape, spacing_mm) = (volume.shape(), volume.geometry.spacing_mm());
        // The golden file has pixdim; ties at a tolerance need the very same number.
        let stored: [f64; 3] = numbers(&e["spacing_mm"]).try_into().unwrap();
        (0..3).for_each(|a| assert_close(spacing_mm[a], stored[a], 1e-7, "spacing"));
        let rule = e["mask"].as_str().unwrap();
        let keep = |v: f32| match rule {
            "> 0" => v > 0.0,
            "== 2" => v == 2.0,
            "label odd" => v % 2.0 == 1.0,
            "label > 90" => v > 90.0,
            _ if rule.starts_with("image > 300 HU") => v > 300.0,
            other => panic!("unknown mask {other}"),
        };
        let voxels: Vec<u8> = volume.data.into_iter().map(|v| keep(v) as u8).collect();
        check_hash(&voxels, &e["sha256_u8"], rule);
        Some(Mask { voxels, shape, spacing_mm: stored })
    }

    fn at(&self, v: [isize; 3]) -> u8 {
        let [nx, ny, nz] = self.shape.map(|n| n as isize);
        if v[0] < 0 || v[1] < 0 || v[2] < 0 || v[0] >= nx || v[1] >= ny || v[2] >= nz {
            return 0;
        }
        self.voxels[((v[0] * ny + v[1]) * nz + v[2]) as usize]
    }

    /// The mask changed as the golden file describes.
    fn perturbed(&self, how: &str) -> Vec<u8> {
        let [_, ny, nz] = self.shape;
        let shift = |axis: usize, by: isize| -> Box<dyn Fn([isize; 3]) -> u8> {
            Box::new(move |mut v| {
                v[axis] -= by;
                self.at(v)
            })
        };
        let cross = |v: [isize; 3]| {
            let steps = [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]];
            steps.map(|s| self.at(std::array::from_fn(|a| v[a] + s[a])))
        };
        let runs = crate::volume::runs::Runs::of(&self.voxels, self.shape);
        let rule: Box<dyn Fn([isize; 3]) -> u8> = match how {
            "shift +1 along axis 0 (zero fill)" => shift(0, 1),
            "shift +1 along axis 1 (zero fill)" => shift(1, 1),
            "shift +1 along axis 2 (zero fill)" => shift(2, 1),
            "shift -3 along axis 0" => shift(0, -3),
            "dilate once, 6-neighbourhood" => Box::new(move |v| cross(v).into_iter().max().unwrap()),
            "erode once, 6-neighbourhood, border 0" => Box::new(move |v| cross(v).into_iter().min().unwrap()),
            "itself" => Box::new(|v| self.at(v)),
            // The low corner of these masks' boxes is empty.
            "empty prediction" | "only the mask voxels in the 4x4x4 box at the bounding box's low corner" => Box::new(|_| 0),
            _ if how.starts_with("kept: axis 0 index < floor(mean index) - int(0.42*extent)") => {
                let parts = Components::of(&runs, Connectivity::Corner).parts;
                let mean = parts.iter().map(|c| c.centroid[0] * c.voxels as f64).sum::<f64>() / runs.voxels() as f64;
                let low = parts.iter().map(|c| c.box_start[0]).min().unwrap();
                let high = parts.iter().map(|c| c.box_end[0] - 1).max().unwrap();
                let limit = mean.floor() as isize - (0.42 * (high - low) as f64) as isize;
                Box::new(move |v| if v[0] < limit { self.at(v) } else { 0 })
            }
            other => panic!("unknown perturbation {other}"),
        };
        (0..self.voxels.len()).map(|i| rule([i / (ny * nz), i / nz % ny, i % nz].map(|v| v as isize))).collect()
    }
}

fn check_components(mask: &Mask, e: &Value) {
    let voxel_ml = mask.spacing_mm.iter().product::<f64>() / 1000.0;
    for (neighbours, want) in e["by_connectivity"].as_object().unwrap() {
        let what = format!("{} at {neighbours}", e["id"]);
        let connectivity = Connectivity::from_neighbours(neighbours.parse().unwrap()).unwrap();
        let (_, components) = label(&mask.voxels, mask.shape, connectivity);
        assert_eq!(want["count"], components.count(), "{what}");
        let mut sizes: Vec<u64> = components.parts.iter().map(|c| c.voxels).collect();
        assert_eq!(want["over_27_voxels"], sizes.iter().filter(|&&s| s >= 27).count(), "{what}");
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.truncate(20);
        assert_eq!(want["sizes_desc_first20"], serde_json::to_value(sizes).unwrap(), "{what}");
        if let Some(largest) = components.largest() {
            let c = &components.parts[largest];
            assert_eq!(want["largest_voxels"], c.voxels, "{what}");
            assert_close(c.volume_ml(voxel_ml), want["largest_ml"].as_f64().unwrap(), 1e-9, &what);
            assert_eq!(want["largest_bbox"], serde_json::to_value([c.box_start, c.box_end.map(|e| e - 1)]).unwrap(), "{what}");
            for (got, want) in c.centroid.into_iter().zip(numbers(&want["largest_centroid"])) {
                assert_close(got, want, 1e-9, &what);
            }
        }
    }
}

fn check_pair(mask: &Mask, e: &Value) {
    let what = format!("{}, {}", e["mask"], e["perturbation"]);
    let predicted = mask.perturbed(e["perturbation"].as_str().unwrap());
    check_hash(&predicted, &e["sha256_u8"], &what);
    let pair = Pair::new(&what, &mask.voxels, &predicted, mask.shape, mask.spacing_mm).unwrap();
    let close = |got: Outcome, key: &str| assert_close(got.value().unwrap(), e[key].as_f64().unwrap(), 1e-9, &format!("{what} {key}"));
    close(pair.overlap().dice(), "dsc");
    close(Outcome::Value(FlareScore::of_pair(&pair, TOLERANCE_MM).nsd), "nsd_2mm_flare");
    if e["nsd_2mm_raw"].is_number() {
        let d = pair.distances(SurfaceKind::Surfels);
        close(d.nsd(2.0), "nsd_2mm_raw");
        close(d.nsd(1.0), "nsd_1mm");
        close(d.hausdorff_percentile(95.0), "hd95");
        let means = [d.mean_reference_to_predicted(), d.mean_predicted_to_reference()];
        for (got, want) in means.into_iter().zip(numbers(&e["asd"])) {
            assert_close(got.value().unwrap(), want, 1e-9, &format!("{what} mean distance"));
        }
    }
}

#[test]
fn real_masks_of_the_references() {
    let Some(path) = shared("golden/components_26.json") else { return };
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut masks = HashMap::new();
    for e in golden["components"].as_array().unwrap() {
        let Some(mask) = Mask::read(e) else { return };
        check_components(&mask, e);
        masks.insert(e["id"].as_str().unwrap(), mask);
    }
    for e in golden["pairs"].as_array().unwrap() {
        // The two pairs of a 4x4x4 grid of zeros are among the clauses of the FLARE rule.
        if let Some(mask) = masks.get(e["mask"].as_str().unwrap()) {
            check_pair(mask, e);
        }
    }
}
