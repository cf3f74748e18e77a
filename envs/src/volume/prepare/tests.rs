//! Properties of the chain on generated grids; the numbers are checked in `golden_tests`.

use rand::RngExt;

use super::*;
use crate::rng;

/// A random grid (any permutation and reflection, a little oblique), its image of air with a bright box, and labels inside the box.
fn random_case(index: u64) -> (Volume, Labels) {
    let mut r = rng::stream(7, "prepare-tests", 0, index);
    let shape: [usize; 3] = std::array::from_fn(|_| r.random_range(1..24));
    let mut g = Geometry::ras(shape, [0.0; 3], std::array::from_fn(|_| r.random_range(-300.0..300.0)));
    let mut axes = [0, 1, 2];
    axes.swap(0, r.random_range(0..3));
    axes.swap(1, r.random_range(1..3));
    let (sin, cos) = r.random_range(-0.6f64..0.6).sin_cos();
    for stored in 0..3 {
        let length = r.random_range(0.5..5.0) * if r.random::<bool>() { -1.0 } else { 1.0 };
        let mut column = [0.0; 3];
        column[axes[stored]] = length;
        let turned = [column[0] * cos - column[1] * sin, column[0] * sin + column[1] * cos, column[2]];
        (0..3).for_each(|row| g.affine[row][stored] = turned[row]);
    }
    let lo: [usize; 3] = std::array::from_fn(|a| r.random_range(0..shape[a]));
    let hi: [usize; 3] = std::array::from_fn(|a| r.random_range(lo[a]..shape[a]) + 1);
    let mut data = vec![-1000.0; g.voxels()];
    let mut labels = vec![0; g.voxels()];
    for i in 0..data.len() {
        let at = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
        if (0..3).all(|a| (lo[a]..hi[a]).contains(&at[a])) {
            data[i] = r.random_range(-100.0..300.0);
            labels[i] = r.random_range(0..4);
        }
    }
    (Volume { data, geometry: g.clone() }, Labels { data: labels, geometry: g, classes: Default::default() })
}

fn config(spacing_mm: Option<[f64; 3]>, pad_to: [usize; 3]) -> PrepareConfig {
    PrepareConfig { spacing_mm, windows_hu: vec![[-175.0, 250.0], [-900.0, 650.0]], crop_foreground: true, pad_to }
}

#[test]
fn with_the_spacing_kept_the_way_back_is_the_identity() {
    for index in 0..60 {
        let (volume, labels) = random_case(index);
        let p = prepare(volume.clone(), Some(&labels), &config(None, [9, 10, 11])).unwrap();
        assert_eq!(p.image.len(), 2 * p.shape.iter().product::<usize>());
        let prepared = p.labels.unwrap();
        assert!(p.way_back.restore_labels(&prepared) == labels.data, "case {index}");
        let as_f32 = |v: &[u8]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
        assert!(p.way_back.restore_probability(&as_f32(&prepared)) == as_f32(&labels.data), "case {index}");
        // The second window sees everything in the box: its values come back as well, 0 outside the crop.
        let back = p.way_back.restore_probability(&p.image[prepared.len()..]);
        for (hu, got) in volume.data.iter().zip(back) {
            assert_eq!(got, ((hu + 900.0) / 1550.0).clamp(0.0, 1.0));
        }
    }
}

/// HU that grow linearly along a direction of the world: linear resampling must keep them.
fn ramp(world: [f64; 3]) -> f64 {
    0.7 * world[0] - 0.4 * world[1] + 0.5 * world[2]
}

fn ramp_on(g: &Geometry) -> Vec<f32> {
    let at = |i: usize| [i / (g.shape[1] * g.shape[2]), i / g.shape[2] % g.shape[1], i % g.shape[2]].map(|v| v as f64);
    (0..g.voxels()).map(|i| ramp(g.world(at(i))) as f32).collect()
}

#[test]
fn prepared_voxels_are_where_their_affine_says() {
    for index in 0..60 {
        let geometry = random_case(index).0.geometry;
        let wide = PrepareConfig {
            spacing_mm: Some([1.5, 1.2, 2.0]),
            windows_hu: vec![[-2000.0, 2000.0]],
            crop_foreground: false,
            pad_to: [0; 3],
        };
        let p = prepare(Volume { data: ramp_on(&geometry), geometry }, None, &wide).unwrap();
        // The last sample of an axis may lie beyond the last voxel and then repeats the border.
        for i in 0..p.image.len() {
            let at = [i / (p.shape[1] * p.shape[2]), i / p.shape[2] % p.shape[1], i % p.shape[2]];
            if (0..3).all(|a| at[a] + 1 < p.shape[a] || at[a] == 0) {
                let (got, want) = (p.image[i] as f64 * 4000.0 - 2000.0, ramp(p.way_back.native_world_of(at.map(|v| v as f64))));
                assert!((got - want).abs() < 2e-3, "case {index} {at:?}: {got}, {want}");
            }
        }
    }
}

#[test]
fn a_probability_is_brought_back_linearly() {
    // 9 steps of 1 mm are 6 of 1.5 mm, so no border is in play; axes run left, anterior, inferior.
    let mut geometry = Geometry::ras([10, 7, 4], [1.0; 3], [-3.0, 8.0, 1.0]);
    (geometry.affine[0][0], geometry.affine[2][2]) = (-1.0, -1.0);
    let data = ramp_on(&geometry);
    let wide = PrepareConfig { spacing_mm: Some([1.5; 3]), windows_hu: vec![[-100.0, 100.0]], crop_foreground: true, pad_to: [8; 3] };
    let p = prepare(Volume { data: data.clone(), geometry }, None, &wide).unwrap();
    for (got, hu) in p.way_back.restore_probability(&p.image).iter().zip(&data) {
        assert!((got * 200.0 - 100.0 - hu).abs() < 1e-4);
    }
}

#[test]
fn labels_may_be_turned_otherwise_but_must_lie_on_the_same_grid() {
    let (volume, labels) = (0..).map(random_case).find(|(v, _)| v.shape().iter().all(|&n| n > 3)).unwrap();
    let want = prepare(volume.clone(), Some(&labels), &config(Some([1.0; 3]), [1; 3])).unwrap().labels.unwrap();
    // The same labels stored with the first axis reversed.
    let mut turned = labels.clone();
    let [nx, ny, nz] = labels.shape();
    turned.data = labels.data.chunks_exact(ny * nz).rev().flatten().copied().collect();
    for row in &mut turned.geometry.affine {
        row[3] += row[0] * (nx as f64 - 1.0);
        row[0] = -row[0];
    }
    assert_eq!(prepare(volume.clone(), Some(&turned), &config(Some([1.0; 3]), [1; 3])).unwrap().labels.unwrap(), want);

    let refused = |change: &dyn Fn(&mut Geometry)| {
        let mut moved = labels.clone();
        change(&mut moved.geometry);
        moved.data = vec![0; moved.geometry.voxels()];
        prepare(volume.clone(), Some(&moved), &config(None, [1; 3])).err().map(|e| e.to_string())
    };
    assert_eq!(refused(&|g| g.affine[0][3] += 1e-3), None);
    assert!(refused(&|g| g.affine[2][3] += 30.0).unwrap().contains("30.000 mm off"));
    assert!(refused(&|g| g.affine.iter_mut().for_each(|r| r[1] *= 1.5)).unwrap().contains("mm off"));
    assert!(refused(&|g| g.shape[0] -= 1).unwrap().contains("as the image"));
}

#[test]
fn a_scan_of_air_is_not_cropped_away() {
    let g = Geometry::ras([5, 6, 7], [1.0; 3], [0.0; 3]);
    let p = prepare(Volume { data: vec![-1000.0; 210], geometry: g }, None, &config(None, [8, 1, 1])).unwrap();
    assert_eq!(p.shape, [8, 6, 7]);
    assert!(p.image.iter().all(|&v| v == 0.0));
}

#[test]
fn the_odd_padding_voxel_comes_after() {
    let g = Geometry::ras([1, 1, 1], [1.0; 3], [10.0, 20.0, 30.0]);
    let p = prepare(Volume { data: vec![250.0], geometry: g }, None, &config(None, [4, 3, 1])).unwrap();
    let bright: Vec<usize> = (0..12).filter(|&i| p.image[i] == 1.0).collect();
    assert_eq!(bright, [3 + 1]);
    assert_eq!(p.way_back.native_world_of([1.0, 1.0, 0.0]), [10.0, 20.0, 30.0]);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (volume, labels) = random_case(3);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let p = pool.install(|| prepare(volume.clone(), Some(&labels), &config(Some([0.7, 0.9, 1.1]), [20; 3])).unwrap());
        let back = pool.install(|| p.way_back.restore_probability(&p.image[..p.labels.as_ref().unwrap().len()]));
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        (bits(&p.image), p.labels, bits(&back))
    };
    assert!(run(1) == run(3));
}

#[test]
fn settings_that_cannot_be_used_are_refused_in_one_sentence() {
    let volume = || Volume { data: vec![0.0; 8], geometry: Geometry::ras([2; 3], [1.0; 3], [0.0; 3]) };
    let good = config(Some([1.0; 3]), [1; 3]);
    for (config, word) in [
        (PrepareConfig { windows_hu: vec![], ..good.clone() }, "windows_hu is empty"),
        (PrepareConfig { windows_hu: vec![[250.0, -175.0]], ..good.clone() }, "lower to a higher"),
        (PrepareConfig { windows_hu: vec![[f32::NAN, 0.0]], ..good.clone() }, "lower to a higher"),
        (PrepareConfig { spacing_mm: Some([1.0, 0.0, 1.0]), ..good.clone() }, "positive"),
        (PrepareConfig { spacing_mm: Some([1.0, f64::INFINITY, 1.0]), ..good.clone() }, "positive"),
        (PrepareConfig { spacing_mm: Some([1e-4; 3]), ..good.clone() }, "more than 8192"),
        (PrepareConfig { spacing_mm: Some([1e-12; 3]), ..good.clone() }, "set a larger spacing_mm"),
        (PrepareConfig { pad_to: [usize::MAX; 3], ..good.clone() }, "more than 8192"),
    ] {
        let e = prepare(volume(), None, &config).err().expect("refused").to_string();
        assert!(e.contains(word), "{e}");
    }
}

#[test]
fn a_sheared_scan_keeps_what_is_linear_in_the_world_and_finds_back() {
    // Leaning forwards, backwards, both, and stored with permuted and reversed axes.
    for (index, lean) in [[0.0, 0.4, 0.0], [0.0, -0.4, 0.0], [0.2, -0.3, 0.1], [-0.2, -0.3, -0.1]].into_iter().enumerate() {
        let mut columns = [[-1.5, 0.0, 0.0], [lean[0], 1.2, 0.0], [lean[1], lean[2] + 0.8, 2.0]];
        columns.rotate_left(index % 3);
        let mut geometry = Geometry::ras([20, 24, 18], [1.0; 3], [5.0, -7.0, 11.0]);
        for (a, column) in columns.iter().enumerate() {
            (0..3).for_each(|row| geometry.affine[row][a] = column[row]);
        }
        let data = ramp_on(&geometry);
        let labels = Labels { data: vec![3; data.len()], geometry: geometry.clone(), classes: Default::default() };
        let wide = PrepareConfig { windows_hu: vec![[-100.0, 100.0]], crop_foreground: false, ..config(Some([1.0, 1.1, 1.3]), [30; 3]) };
        let p = prepare(Volume { data: data.clone(), geometry: geometry.clone() }, Some(&labels), &wide).unwrap();
        let turned = Geometry { shape: p.shape, affine: p.way_back.prepared_affine(), stored: None };
        assert!(super::super::target::largest_cosine(&turned) < 1e-9);
        // Inside the scan the prepared value is the world's ramp.
        let to_stored = turned.index_map(&geometry);
        let mut inside = 0;
        for (i, &got) in p.image.iter().enumerate() {
            let at = [i / (p.shape[1] * p.shape[2]), i / p.shape[2] % p.shape[1], i % p.shape[2]].map(|v| v as f64);
            let stored = Geometry { shape: p.shape, affine: to_stored, stored: None }.world(at);
            if (0..3).all(|a| (0.0..=geometry.shape[a] as f64 - 1.0).contains(&stored[a])) {
                assert!((got * 200.0 - 100.0 - ramp(turned.world(at)) as f32).abs() < 1e-3, "{index} {at:?}");
                inside += 1;
            }
        }
        assert!(inside > 2000);
        // Every voxel of the file is found again, and what is one class everywhere stays so.
        assert!(p.way_back.restore_labels(&p.labels.unwrap()).iter().all(|&v| v == 3), "{index}");
        let back = p.way_back.restore_probability(&p.image);
        let deep = |i: &usize| {
            let at = [i / (24 * 18), i / 18 % 24, i % 18];
            (0..3).all(|a| (3..geometry.shape[a] - 3).contains(&at[a]))
        };
        for i in (0..data.len()).filter(deep) {
            assert!((back[i] * 200.0 - 100.0 - data[i]).abs() < 1e-3, "{index}: {} {}", back[i] * 200.0 - 100.0, data[i]);
        }
    }
}

#[test]
fn a_little_shear_is_rounding_and_much_is_a_tilt() {
    for (shear, tilted) in [(1e-3, false), (0.05, true)] {
        let mut g = Geometry::ras([4; 3], [1.0; 3], [0.0; 3]);
        g.affine[1][2] = shear;
        let volume = Volume { data: vec![100.0; 64], geometry: g.clone() };
        let p = prepare(volume.clone(), None, &config(Some([2.0; 3]), [1; 3])).unwrap();
        // The tilt is straightened; rounding is carried along.
        assert_eq!(p.way_back.prepared_affine()[1][2] == 0.0, tilted, "{:?}", p.way_back.prepared_affine());
        // Without resampling nothing is lost by it.
        let kept = prepare(volume, None, &config(None, [1; 3])).unwrap();
        assert_eq!(kept.way_back.prepared_affine(), g.affine);
    }
}

#[test]
fn the_size_is_known_before_the_work() {
    let scan = |shape, spacing| Geometry::ras(shape, spacing, [0.0; 3]);
    // Stored shape and spacing, wanted spacing, padding; what it makes, or the words of the refusal.
    let cases = [
        (scan([512, 512, 200], [0.8, 0.8, 2.5]), Some([1.0, 1.0, 3.0]), [96, 96, 64], Ok([410, 410, 167])),
        (scan([1500, 1900, 1], [0.2, 0.2, 1.0]), Some([1.0; 3]), [96, 96, 64], Ok([301, 381, 1])),
        (scan([1500, 1900, 1], [0.2, 0.2, 1.0]), None, [96, 96, 64], Ok([1500, 1900, 1])),
        (scan([512, 512, 1], [0.8, 0.8, 5.0]), Some([1.0, 1.0, 3.0]), [96, 96, 64], Ok([410, 410, 1])),
        (scan([512, 512, 120], [0.8, 0.8, 2.5]), Some([999.0; 3]), [96, 96, 64], Ok([1, 1, 1])),
        (scan([300, 300, 300], [1.0; 3]), Some([0.1; 3]), [1, 1, 1], Err("need 229792 MiB, more than 8192")),
        (scan([512, 512, 120], [0.8, 0.8, 999.0]), Some([1.0, 1.0, 3.0]), [96, 96, 64], Err("set a larger spacing_mm")),
        (scan([512, 512, 120], [0.8, 0.8, 1e12]), Some([1.0, 1.0, 3.0]), [96, 96, 64], Err("check the spacing in the file")),
        (scan([100, 100, 100], [1.0; 3]), Some([1.0; 3]), [4096; 3], Err("a smaller pad_to")),
    ];
    for (geometry, spacing, pad_to, want) in cases {
        let config = config(spacing, pad_to);
        match (config.predict(&geometry), want) {
            (Ok(predicted), Ok(shape)) => {
                assert_eq!(predicted.shape, shape);
                let image = shape.iter().zip(pad_to).map(|(&n, p)| n.max(p)).product::<usize>() * 8;
                assert!(predicted.bytes >= image as u64 && predicted.bytes < 8 << 30);
            }
            (Err(e), Err(words)) => assert!(e.to_string().contains(words), "{e}"),
            (got, want) => panic!("{geometry:?}: {got:?}, {want:?}"),
        }
    }
    // `prepare` asks the same: no voxel of this scan is looked at.
    let absurd = Volume { data: Vec::new(), geometry: scan([300, 300, 300], [1.0; 3]) };
    assert!(prepare(absurd, None, &config(Some([0.1; 3]), [1; 3])).is_err_and(|e| e.to_string().contains("300, 300, 300")));
}
