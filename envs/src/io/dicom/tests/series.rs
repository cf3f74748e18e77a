//! Rules of series: order, rescaling, padding, doubles, holes, steps, tilt, several series, frames.

use super::super::tags::*;
use super::writer::{Dcm, NX, NY, ds};
use super::*;

#[test]
fn slices_are_ordered_by_position_and_lie_where_they_say() {
    // Names and instance numbers say nothing; z goes 8, 0, 6, 2, 4.
    let slices: Vec<CtSlice> = [8.0, 0.0, 6.0, 2.0, 4.0].iter().map(|&z| CtSlice::at(z, (z * 100.0) as i16)).collect();
    let dir = folder(&slices);
    let opened = read_volume(dir.path()).unwrap();
    assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
    assert_eq!((opened.format, opened.dtype.as_str()), ("DICOM", "int16"));
    let volume = opened.item;
    assert_eq!(volume.geometry.shape, [NX, NY, 5]);
    for (i, j, k) in [(0, 0, 0), (3, 2, 4), (1, 2, 3)] {
        assert_eq!(at(&volume, i, j, k), (200 * k + j * NX + i) as f32);
    }
    // Distance of rows comes first in the file (0.5); left and posterior turn to right and anterior.
    assert_eq!(volume.geometry.affine, [[-0.25, 0.0, 0.0, -10.0], [0.0, -0.5, 0.0, 20.0], [0.0, 0.0, 2.0, 0.0]]);
    assert_eq!(read_geometry(dir.path()).unwrap().affine, volume.geometry.affine);
}

#[test]
fn every_orientation_puts_a_voxel_where_its_slice_says() {
    let unit = |a: usize, sign: f64| std::array::from_fn::<f64, 3, _>(|r| if r == a { sign } else { 0.0 });
    for (row, column) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        for signs in 0..4 {
            let (x, y) = (unit(row, [1.0, -1.0][signs & 1]), unit(column, [1.0, -1.0][signs >> 1]));
            let normal = image::cross(x, y);
            let position = |k: f64| std::array::from_fn::<f64, 3, _>(|r| [5.0, -7.0, 11.0][r] + 3.0 * k * normal[r]);
            let slice = |k: i16| {
                CtSlice::at(0.0, 100 * k).with(IMAGE_POSITION, ds(&position(k as f64))).with(IMAGE_ORIENTATION, ds(&[x, y].concat()))
            };
            let dir = folder(&[slice(2), slice(0), slice(1)]);
            let volume = read_volume(dir.path()).unwrap().item;
            let (i, j, k) = (3, 1, 2);
            let want: Vec<f64> = (0..3).map(|r| position(2.0)[r] + 3.0 * 0.25 * x[r] + 0.5 * y[r]).collect();
            let got = volume.geometry.world([i as f64, j as f64, k as f64]);
            assert!((got[0] + want[0]).abs() + (got[1] + want[1]).abs() + (got[2] - want[2]).abs() < 1e-9, "{x:?} {y:?}: {got:?} {want:?}");
            assert_eq!(at(&volume, i, j, k), 207.0);
        }
    }
}

#[test]
fn numbers_become_hu_without_wrapping() {
    let words = |w: u16| vec![w; NX * NY];
    // Stored word, bits allocated and stored, high bit, signed, slope, intercept, HU.
    for (word, stored, high, signed, slope, intercept, want) in [
        (0x8000u16, 16, 15, 1, "1", "-1024", -33792.0),
        (0xFFFF, 16, 15, 0, "1", "-1024", 64511.0),
        (0, 16, 15, 0, "1", "-1024", -1024.0),
        (0xFFFF, 16, 15, 1, "2.5", "0.5", -2.0),
        // Bits above the high bit are not the pixel's: overlays.
        (0xF7D0, 12, 11, 1, "1", "0", 2000.0),
        (0xF830, 12, 11, 1, "1", "0", -2000.0),
        (0xFFFF, 12, 11, 0, "1", "-1024", 3071.0),
        // Bits below the lowest bit are not the pixel's either.
        (0x1234, 12, 15, 0, "1", "0", 291.0),
        (40000, 16, 15, 0, "0.1", "-1000", 3000.0),
    ] {
        let slice =
            CtSlice::at(0.0, 0).words(&words(word)).with(BITS_STORED, stored).with(HIGH_BIT, high).with(PIXEL_REPRESENTATION, signed);
        let slice = slice.with(RESCALE_SLOPE, slope).with(RESCALE_INTERCEPT, intercept);
        assert_eq!(read_one(&slice).unwrap().item.data[0], want, "{word:#x}");
    }
    let bytes = CtSlice::at(0.0, 0).with(BITS_ALLOCATED, 8).with(BITS_STORED, 8).with(HIGH_BIT, 7);
    let bytes = bytes.with(PIXEL_DATA, vec![200u8; NX * NY]);
    assert_eq!(read_one(&bytes.clone().with(PIXEL_REPRESENTATION, 0)).unwrap().item.data[0], 200.0);
    assert_eq!(read_one(&bytes).unwrap().item.data[0], -56.0);
    let wide = CtSlice::at(0.0, 0).with(BITS_ALLOCATED, 32).with(BITS_STORED, 32).with(HIGH_BIT, 31);
    let wide = wide.with(PIXEL_DATA, (-70000i32).to_le_bytes().repeat(NX * NY));
    assert_eq!(read_one(&wide).unwrap().item.data[5], -70000.0);
}

#[test]
fn each_slice_has_its_own_rescaling() {
    let slices: Vec<CtSlice> = (0..3)
        .map(|k| CtSlice::at(2.0 * k as f64, 0).with(RESCALE_INTERCEPT, format!("{}", -1000 * k)).with(RESCALE_SLOPE, format!("{}", k + 1)))
        .collect();
    let volume = read_volume(folder(&slices).path()).unwrap().item;
    assert_eq!([0, 1, 2].map(|k| at(&volume, 1, 1, k)), [5.0, -990.0, -1985.0]);
}

#[test]
fn padding_is_air_before_anything_else() {
    let pad = |value: u16| CtSlice::at(0.0, 0).words(&[63536, 10, 63530, 7, 8, 9, 63540, 1, 1, 1, 1, 1]).with(PIXEL_PADDING_VALUE, value);
    let data = |slice: &CtSlice| [0, 1, 2].map(|i| at(&read_one(slice).unwrap().item, i, 0, 0));
    assert_eq!(data(&pad(63536)), [-1024.0, 10.0, -2006.0]);
    assert_eq!(data(&pad(63536).with(PIXEL_PADDING_RANGE_LIMIT, 63520)), [-1024.0, 10.0, -1024.0]);
    assert!(!warned(&read_one(&pad(63536)).unwrap().warnings, "padding"));
    // Water as padding is masked as the file asks, and named.
    assert!(warned(&read_one(&pad(10)).unwrap().warnings, "padding value of 10 HU"));
}

#[test]
fn all_encodings_read_alike() {
    let plain = CtSlice::at(0.0, -3);
    let want = read_one(&plain).unwrap().item.data;
    for syntax in ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"] {
        for (bare, undefined) in [(false, false), (true, true), (false, true)] {
            let mut slice = plain.clone().with(PLANE_POSITION_SEQUENCE, vec![Dcm::new("").with(0x0040_A30A, "x"), Dcm::new("")]);
            (slice.dcm.syntax, slice.dcm.bare, slice.dcm.undefined) = (syntax, bare, undefined);
            if syntax == "1.2.840.10008.1.2.2" {
                let swapped: Vec<u8> = (-3..9i16).flat_map(i16::to_be_bytes).collect();
                slice = slice.with(PIXEL_DATA, swapped);
            }
            if bare && syntax.ends_with(".99") {
                continue;
            }
            let got = read_one(&slice).unwrap_or_else(|e| panic!("{syntax} bare {bare}: {e}"));
            assert_eq!(got.item.data, want, "{syntax} bare {bare}");
        }
    }
}

#[test]
fn doubles_are_used_once_where_they_are_equal() {
    let slices = [0.0, 2.0, 4.0].map(|z| CtSlice::at(z, z as i16));
    let twice = [&slices[..], &[slices[1].clone()]].concat();
    let opened = read_volume(folder(&twice).path()).unwrap();
    assert_eq!(opened.item.geometry.shape[2], 3);
    assert!(warned(&opened.warnings, "1 slices that are there twice"));
    let other_phase = [&slices[..], &[CtSlice::at(2.0, 99)]].concat();
    assert_refused(read_volume(folder(&other_phase).path()), &["different slices at one position", "2.00 mm", "IM"]);
}

#[test]
fn holes_are_refused_and_named() {
    let series = |heights: &[f64], thickness: &str| {
        let slices: Vec<CtSlice> = heights.iter().map(|&z| CtSlice::at(z, 0).with(SLICE_THICKNESS, thickness)).collect();
        read_volume(folder(&slices).path())
    };
    assert_refused(series(&[0.0, 2.0, 4.0, 8.0, 10.0], "2"), &["1 hole(s)", "4.00 mm", "2.00 mm is usual"]);
    // Overlapping slices don't hide it, nor do two holes.
    assert_refused(series(&[0.0, 2.0, 4.0, 8.0, 10.0], "4"), &["1 hole(s)"]);
    assert_refused(series(&[0.0, 2.0, 4.0, 6.0, 10.0, 14.0, 16.0], "2"), &["2 hole(s)"]);
    assert_eq!(series(&[0.0, 10.0, 20.0, 30.0], "1").unwrap().item.geometry.spacing_mm()[2], 10.0);
}

#[test]
fn small_unevenness_is_named_and_large_is_resampled_at_the_true_positions() {
    // HU equal to the height, so that the resampled volume is known everywhere.
    let series = |heights: &[f64]| {
        let slice = |&z: &f64| CtSlice::at(z, 0).words(&[(z * 100.0).round() as u16; NX * NY]).with(RESCALE_SLOPE, "0.01");
        read_volume(folder(&heights.iter().map(slice).collect::<Vec<_>>()).path()).unwrap()
    };
    let rounded = series(&[0.0, 2.001, 4.0, 5.999]);
    assert!(rounded.warnings.is_empty());
    let small = series(&[0.0, 2.05, 4.0, 6.0]);
    assert!(warned(&small.warnings, "up to 0.050 mm off an even step of 2.000 mm"), "{:?}", small.warnings);
    assert_eq!(small.item.geometry.shape[2], 4);
    let large = series(&[0.0, 2.0, 4.5, 6.5, 9.0, 11.0]);
    assert!(warned(&large.warnings, "slice steps from 2.000 to 2.500 mm"));
    let geometry = &large.item.geometry;
    for k in 0..geometry.shape[2] {
        let height = geometry.world([0.0, 0.0, k as f64])[2];
        assert!((at(&large.item, 1, 1, k) as f64 - height).abs() < 1e-3, "{k}");
    }
    let last = geometry.shape[2] - 1;
    assert_eq!(geometry.world([0.0, 0.0, last as f64])[2], 11.0);
}

#[test]
fn steps_that_change_with_the_thickness_are_no_holes() {
    let slices: Vec<CtSlice> = [0.0, 4.0, 8.0, 12.0, 13.0, 20.0, 27.0, 34.0]
        .iter()
        .enumerate()
        .map(|(i, &z)| CtSlice::at(z, 0).with(SLICE_THICKNESS, if i < 4 { "4" } else { "7" }))
        .collect();
    let opened = read_volume(folder(&slices).path()).unwrap();
    assert!(warned(&opened.warnings, "from 1.000 to 7.000 mm"));
}

#[test]
fn a_tilted_gantry_is_put_upright() {
    // Slices tilted by about 14 degrees about the x axis (0.97, 0.24), moved along z: HU is the world's y in tenths of a millimetre.
    let (c, s) = (0.97, (1f64 - 0.97 * 0.97).sqrt());
    let (columns, rows) = (NX, 40);
    let slice = |k: usize| {
        let position = [0.0, 5.0, 4.0 * k as f64];
        let y = |j: usize| position[1] + 0.5 * j as f64 * c;
        let words: Vec<u16> = (0..rows).flat_map(|j| vec![(y(j) * 100.0).round() as u16; columns]).collect();
        CtSlice::at(0.0, 0)
            .with(ROWS, rows as u16)
            .words(&words)
            .with(RESCALE_SLOPE, "0.1")
            .with(IMAGE_POSITION, ds(&position))
            .with(IMAGE_ORIENTATION, ds(&[1.0, 0.0, 0.0, 0.0, c, -s]))
    };
    let opened = read_volume(folder(&(0..6).map(slice).collect::<Vec<_>>()).path()).unwrap();
    assert!(warned(&opened.warnings, "gantry tilt of 14.1 degrees"), "{:?}", opened.warnings);
    let g = &opened.item.geometry;
    let column = |a: usize| std::array::from_fn(|r| g.affine[r][a]);
    assert!(image::dot(column(1), column(2)).abs() < 1e-9, "upright");
    assert_eq!(g.shape[0], columns);
    assert!(g.shape[1] > rows, "wider, so that nothing is lost");
    let (mut seen, mut most) = (0, 0f64);
    for j in 0..g.shape[1] {
        for k in 0..g.shape[2] {
            let hu = at(&opened.item, 1, j, k) as f64;
            // Each plane is a slice, shifted along y; its first row lies where the plane's air ends.
            let first = g.shape[1] as f64 - rows as f64 - k as f64 * 4.0 * s / 0.5;
            let inside = (first + 1.0..first + rows as f64 - 2.0).contains(&(j as f64));
            if inside {
                let y = -g.world([1.0, j as f64, k as f64])[1];
                (seen, most) = (seen + 1, most.max((hu - y * 10.0).abs()));
            }
        }
    }
    assert!(seen > 50 && most < 0.1, "{seen} voxels, {most} off");
}

#[test]
fn several_series_are_told_apart_and_each_can_be_named() {
    let of = |uid: &str, z: f64, first| CtSlice::at(z, first).with(SERIES_INSTANCE_UID, uid);
    let mut slices: Vec<CtSlice> = (0..3).map(|k| of("1.2.3", 2.0 * k as f64, 0)).collect();
    slices.extend((0..2).map(|k| of("1.2.4", 2.0 * k as f64, 50).with(SERIES_DESCRIPTION, "Lung")));
    // One series with two orientations.
    let turned = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0];
    slices.push(of("1.2.4", 0.0, 70).with(SERIES_DESCRIPTION, "Lung").with(IMAGE_ORIENTATION, ds(&turned)));
    let dir = folder(&slices);
    let names: Vec<String> = series_in(dir.path()).unwrap().iter().map(|s| s.path.display().to_string()).collect();
    let name = |suffix: &str| format!("{}#{suffix}", dir.path().display());
    assert_eq!(names, ["1.2.3", "1.2.4:1", "1.2.4:2"].map(name));
    assert_refused(read_volume(dir.path()), &["3 series", "1.2.3 \"Abdomen\": 3 axial", "1.2.4:2 \"Lung\": 1 coronal", "one series"]);
    for (suffix, slices, first) in [("1.2.3", 3, 0.0), ("1.2.4:1", 2, 50.0), ("1.2.4:2", 1, 70.0)] {
        let volume = crate::io::open(Path::new(&name(suffix))).unwrap();
        assert_eq!((volume.geometry.shape[2], volume.data[0]), (slices, first), "{suffix}");
    }
    assert_refused(crate::io::open(Path::new(&name("9.9"))), &["3 series", "a series 9.9"]);
    let info = &series_in(dir.path()).unwrap()[0];
    assert_eq!((info.images, info.matrix, info.orientation, info.pixel_mm), (3, [NX, NY], "axial", [0.25, 0.5]));
}

#[test]
fn what_is_no_slice_is_left_aside() {
    let dir = folder(&[CtSlice::at(0.0, 0), CtSlice::at(2.0, 0)]);
    let report = Dcm::new("1.2.840.10008.1.2.1").with(SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.88.11").with(MODALITY, "SR");
    write(dir.path(), "A_SR", &report);
    write(dir.path(), "DICOMDIR", &Dcm::new("1.2.840.10008.1.2.1").with(SOP_CLASS_UID, "1.2.840.10008.1.3.10"));
    CtSlice::at(9.0, 0).with(IMAGE_TYPE, "ORIGINAL\\PRIMARY\\LOCALIZER").write(&dir.path().join("A_scout"));
    CtSlice::at(9.0, 0).without(IMAGE_POSITION).write(&dir.path().join("A_screen"));
    std::fs::write(dir.path().join("readme.txt"), "not DICOM").unwrap();
    std::fs::create_dir(dir.path().join("more")).unwrap();
    assert_eq!(read_volume(dir.path()).unwrap().item.geometry.shape[2], 2);
    let only = tempfile::tempdir().unwrap();
    write(only.path(), "a", &report);
    assert_refused(read_volume(only.path()), &["no image (SR)", "the slices of a CT series"]);
    let none = tempfile::tempdir().unwrap();
    assert_refused(read_volume(none.path()), &["no DICOM file"]);
}

#[test]
fn one_slice_alone_is_read_with_a_word() {
    let opened = read_one(&CtSlice::at(5.0, 1)).unwrap();
    assert_eq!(opened.item.geometry.shape, [NX, NY, 1]);
    assert_eq!(opened.item.geometry.spacing_mm(), [0.25, 0.5, 2.0]);
    assert!(warned(&opened.warnings, "a single slice") && opened.warnings[0].action.contains("give the folder (/"));
}

#[test]
fn frames_of_an_enhanced_ct_are_slices() {
    let heights = [4.0, 0.0, 2.0];
    let pixels: Vec<u8> = (0..3i16).flat_map(|f| (0..(NX * NY) as i16).flat_map(move |i| (100 * f + i).to_le_bytes())).collect();
    let item = |tag, value: super::writer::Value| vec![Dcm::new("").with(tag, value)];
    let frame = |f: usize| {
        let transform = Dcm::new("").with(RESCALE_SLOPE, "1").with(RESCALE_INTERCEPT, format!("{}", -1000 * f as i32));
        Dcm::new("")
            .with(PLANE_POSITION_SEQUENCE, item(IMAGE_POSITION, ds(&[0.0, 0.0, heights[f]]).into()))
            .with(PIXEL_VALUE_TRANSFORMATION_SEQUENCE, vec![transform])
    };
    let measures = Dcm::new("").with(PIXEL_SPACING, ds(&[0.5, 0.25])).with(SLICE_THICKNESS, "2");
    let shared = Dcm::new("")
        .with(PIXEL_MEASURES_SEQUENCE, vec![measures])
        .with(PLANE_ORIENTATION_SEQUENCE, item(IMAGE_ORIENTATION, ds(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]).into()));
    let mut slice = CtSlice::at(0.0, 0).with(NUMBER_OF_FRAMES, "3").with(PIXEL_DATA, pixels);
    for tag in [IMAGE_POSITION, IMAGE_ORIENTATION, PIXEL_SPACING, RESCALE_SLOPE, RESCALE_INTERCEPT] {
        slice = slice.without(tag);
    }
    let flat = slice.clone();
    let slice = slice.with(SHARED_FUNCTIONAL_GROUPS, vec![shared]).with(PER_FRAME_FUNCTIONAL_GROUPS, (0..3).map(frame).collect::<Vec<_>>());
    let volume = read_one(&slice).unwrap().item;
    assert_eq!(volume.geometry.shape, [NX, NY, 3]);
    assert_eq!([0, 1, 2].map(|k| at(&volume, 1, 0, k)), [-899.0, -1799.0, 1.0]);
    assert_eq!(volume.geometry.spacing_mm(), [0.25, 0.5, 2.0]);
    let flat = flat.with(IMAGE_POSITION, "0\\0\\0").with(IMAGE_ORIENTATION, "1\\0\\0\\0\\1\\0");
    assert_refused(read_one(&flat.with(PIXEL_SPACING, "1\\1")), &["3 frames without positions"]);
}

#[test]
fn broken_slices_are_refused_in_a_sentence() {
    let good = CtSlice::at(0.0, 0);
    for (slice, words) in [
        (good.clone().words(&[0; 11]), vec!["22 bytes of pixels where 24 should be"]),
        (good.clone().with(ROWS, 0), vec!["4x0 pixels"]),
        (good.clone().without(COLUMNS), vec!["number of columns (0028,0011)"]),
        (good.clone().with(PIXEL_SPACING, "0\\1"), vec!["pixels of 1 x 0 mm"]),
        (good.clone().with(PIXEL_SPACING, "nan\\1"), vec!["pixel spacing"]),
        (good.clone().with(IMAGE_ORIENTATION, "1\\0\\0\\1\\0\\0"), vec!["two unit vectors"]),
        (good.clone().with(IMAGE_POSITION, "1\\2"), vec!["image position"]),
        (good.clone().with(BITS_STORED, 17), vec!["17 bits up to bit 15 of 16"]),
        (good.clone().with(HIGH_BIT, 16), vec!["16 bits up to bit 16 of 16"]),
        (good.clone().with(BITS_ALLOCATED, 12), vec!["12-bit pixels"]),
        (good.clone().with(RESCALE_SLOPE, "0"), vec!["a rescale slope of 0"]),
        (good.clone().with(SAMPLES_PER_PIXEL, 3), vec!["a colour image"]),
    ] {
        assert_refused(read_one(&slice), &words);
    }
    // A damaged slice in a folder is not left out in silence: it would be missing at an end.
    let dir = folder(&[CtSlice::at(0.0, 0), CtSlice::at(2.0, 0)]);
    let bytes = CtSlice::at(4.0, 0).dcm.bytes();
    std::fs::write(dir.path().join("cut"), &bytes[..bytes.len() - 60]).unwrap();
    assert_refused(read_volume(dir.path()), &["cut", "cut short"]);
}

#[test]
fn a_folder_gives_every_series_below_it_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    for (place, series) in [("patient/study/ct", "1.1"), ("patient/study/two", "1.2"), ("patient/study/two", "1.3")] {
        for k in 0..2 {
            CtSlice::at(k as f64, 0).with(tags::SERIES_INSTANCE_UID, series).write(&at(place).join(format!("{series}-{k}")));
        }
    }
    let contours = Dcm::new("1.2.840.10008.1.2.1").with(SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.481.3").with(MODALITY, "RTSTRUCT");
    write(&at("patient/labels"), "a", &contours);
    std::fs::write(at("patient").join("scan.nii.gz"), "in a folder below: not listed").unwrap();
    std::fs::write(dir.path().join("scan.nii.gz"), "").unwrap();
    CtSlice::at(0.0, 0).write(&at("cut").join("a"));
    let whole = std::fs::read(at("cut").join("a")).unwrap();
    std::fs::write(at("cut").join("a"), &whole[..whole.len() - 3]).unwrap();
    let study = at("patient/study");
    let two = |uid: &str| std::path::PathBuf::from(format!("{}#{uid}", study.join("two").display()));
    let found = crate::io::scans_in(dir.path()).unwrap();
    assert_eq!(found, [at("cut"), study.join("ct"), two("1.2"), two("1.3"), dir.path().join("scan.nii.gz")]);
    assert_eq!(crate::io::open(&two("1.3")).unwrap().shape()[2], 2);
}
