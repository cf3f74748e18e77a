//! Files of scanners and other tools, in `../shared` where it is present.

use super::*;
use crate::golden::shared;
use crate::volume::Orientation;

fn canonical(volume: &Volume) -> (Geometry, Vec<f32>) {
    let turn = Orientation::of(&volume.geometry);
    (turn.turn(&volume.geometry), turn.turn_voxels(&volume.data, volume.geometry.shape).into_owned())
}

fn dice(a: &[u8], b: &[u8]) -> f64 {
    let both = a.iter().zip(b).filter(|(a, b)| **a > 0 && **b > 0).count();
    let sum = a.iter().chain(b).filter(|v| **v > 0).count();
    2.0 * both as f64 / sum as f64
}

#[test]
fn a_sarcoma_series_is_its_nifti_and_its_contour_the_mask() {
    let (Some(dicom), Some(nifti)) = (shared("data/ct/sts_dicom/STS_019"), shared("data/ct/sts")) else { return };
    let opened = crate::io::read(&dicom.join("image")).unwrap();
    assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
    let want = crate::io::open(&nifti.join("STS_019_CT_image.nii.gz")).unwrap();
    let ((got_grid, got), (want_grid, voxels)) = (canonical(&opened.item), canonical(&want));
    assert!(got_grid.corner_distance_mm(&want_grid) < 1e-3, "{}", got_grid.corner_distance_mm(&want_grid));
    assert_eq!(got, voxels);
    let mask = crate::io::open_labels(&nifti.join("STS_019_CT_mask.nii.gz")).unwrap();
    // On the series' own grid, and on that of the NIfTI.
    for scan in [&opened.item.geometry, &want.geometry] {
        let drawn = crate::io::read_labels(&dicom.join("mask"), Some(scan)).unwrap().item;
        let turn = |labels: &Labels| Orientation::of(&labels.geometry).turn_voxels(&labels.data, labels.shape()).into_owned();
        let overlap = dice(&turn(&drawn), &turn(&mask));
        eprintln!("Dice of the contour: {overlap:.4}");
        assert!(overlap >= 0.97);
        assert_eq!(drawn.classes.get(&1).map(String::as_str), Some("GTV_Mass_CT"));
    }
}

#[test]
fn a_jpeg_2000_series_lies_on_the_grid_of_its_mask() {
    let Some(dir) = shared("data/ct/totalseg_dicom") else { return };
    let opened = crate::io::read(&dir).unwrap();
    assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
    let mask = crate::io::open_labels(&dir.join("example_seg_dicom.nii.gz")).unwrap();
    let (grid, voxels) = canonical(&opened.item);
    let turn = Orientation::of(&mask.geometry);
    assert!(grid.corner_distance_mm(&turn.turn(&mask.geometry)) < 0.01);
    let classes = turn.turn_voxels(&mask.data, mask.shape());
    // HU of organs as they are in every abdomen: the mask lies on the right voxels.
    for (class, low, high) in [(5, 40.0, 140.0), (1, 60.0, 180.0), (52, 80.0, 400.0)] {
        let inside: Vec<f64> = voxels.iter().zip(classes.iter()).filter(|(_, c)| **c == class).map(|(v, _)| *v as f64).collect();
        let mean = inside.iter().sum::<f64>() / inside.len() as f64;
        assert!((low..high).contains(&mean), "class {class}: {mean} HU");
    }
    assert_eq!(voxels.iter().cloned().fold(f32::INFINITY, f32::min), -1024.0);
}

#[test]
fn a_cut_jpeg_2000_stream_is_refused() {
    let Some(dir) = shared("data/ct/totalseg_dicom") else { return };
    let name = "CT.1.3.12.2.1107.5.1.4.60064.30000022120808113428000016573";
    let bytes = std::fs::read(dir.join(name)).unwrap();
    let start = bytes.windows(4).position(|w| w == [0xFF, 0x4F, 0xFF, 0x51]).unwrap();
    let end = bytes.windows(2).rposition(|w| w == [0xFF, 0xD9]).unwrap() + 2;
    let slice = |stream: &[u8]| {
        let mut slice = CtSlice::at(0.0, 0).with(tags::PIXEL_DATA, writer::Value::Fragments(vec![stream.to_vec()]));
        slice.dcm.syntax = "1.2.840.10008.1.2.4.90";
        slice
            .with(tags::ROWS, 512)
            .with(tags::COLUMNS, 512)
            .with(tags::BITS_STORED, 12)
            .with(tags::HIGH_BIT, 11)
            .with(tags::PIXEL_REPRESENTATION, 0)
    };
    let whole = read_one(&slice(&bytes[start..end])).unwrap().item;
    let own = crate::io::open(&dir.join(name)).unwrap();
    assert!(whole.data.iter().zip(&own.data).all(|(a, b)| a - 1024.0 == *b));
    for part in [3, 10, 50, 90, 99] {
        assert_refused(read_one(&slice(&bytes[start..start + (end - start) * part / 100])), &["JPEG 2000"]);
    }
}

#[test]
fn a_tilted_head_is_resampled_at_its_positions() {
    let Some(dir) = shared("data/ct/ge_head_dicom") else { return };
    let opened = crate::io::read(&dir).unwrap();
    for word in ["slice steps from 1.081 to 6.999 mm", "gantry tilt of 18.5 degrees"] {
        assert!(warned(&opened.warnings, word), "{word}: {:?}", opened.warnings);
    }
    let volume = opened.item;
    let spacing = volume.geometry.spacing_mm();
    assert!((spacing[2] - 4.0).abs() < 0.1 && (spacing[0] - 0.4882812).abs() < 1e-6, "{spacing:?}");
    // The first slice is the first plane, as it was.
    let first = crate::io::open(&dir.join("01.dcm")).unwrap();
    let place = first.geometry.world([200.0, 300.0, 0.0]);
    let voxel = grid::ToVoxels::of(&volume.geometry).unwrap().at(place);
    assert!(voxel.iter().all(|v| (v - v.round()).abs() < 2e-3), "{voxel:?}");
    let [i, j, k] = voxel.map(|v| v.round() as usize);
    assert_eq!(at(&volume, i, j, k), at(&first, 200, 300, 0));
    // A slice in the middle of the coarse part lies between two planes; what is inside of the head is there within their blend.
    let middle = crate::io::open(&dir.join("20.dcm")).unwrap();
    let (mut seen, mut off) = (0, 0.0);
    for (x, y) in (150..350).step_by(10).flat_map(|x| (150..350).step_by(10).map(move |y| (x, y))) {
        let v = grid::ToVoxels::of(&volume.geometry).unwrap().at(middle.geometry.world([x as f64, y as f64, 0.0]));
        let (i, j, k) = (v[0].round() as usize, v[1].round() as usize, v[2] as usize);
        let w = (v[2] - k as f64) as f32;
        let hu = at(&volume, i, j, k) * (1.0 - w) + at(&volume, i, j, k + 1) * w;
        (seen, off) = (seen + 1, off + (hu - at(&middle, x, y, 0)).abs() as f64);
    }
    assert!(off / (seen as f64) < 60.0, "mean difference {} HU", off / seen as f64);
}

#[test]
fn three_slices_lie_on_the_grid_of_their_segmentations() {
    let Some(dir) = shared("data/ct/dcmqi_ct3slice") else { return };
    let opened = crate::io::read(&dir).unwrap();
    assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
    let volume = opened.item;
    assert_eq!(volume.geometry.shape, [512, 512, 3]);
    assert!((volume.geometry.spacing_mm()[2] - 1.0).abs() < 1e-6);
    assert_eq!(volume.data.iter().cloned().fold(f32::INFINITY, f32::min), -1024.0, "padding of -3024 HU is air");
}

#[test]
fn a_segmentation_of_highdicom_has_its_frames() {
    let (Some(seg), Some(slice)) = (shared("data/ct/odd/dicom_seg_ct_binary.dcm"), shared("data/ct/odd/dicom_ct_image.dcm")) else {
        return;
    };
    let labels = crate::io::read_labels(&seg, None).unwrap().item;
    assert_eq!(labels.geometry.shape, [16, 16, 3]);
    // Bits set in the three frames of the file: numpy's unpackbits.
    let counts = [0, 1, 2].map(|k| labels.data.iter().skip(k).step_by(3).filter(|v| **v == 1).count());
    let bytes = std::fs::read(&seg).unwrap();
    let bits: u32 = bytes[bytes.len() - 96..].iter().map(|b| b.count_ones()).sum();
    assert_eq!(counts.iter().sum::<usize>(), bits as usize);
    assert!(crate::io::open(&slice).is_ok());
}

#[test]
fn odd_files_are_read_or_refused_in_a_sentence() {
    let Some(dir) = shared("data/ct/odd") else { return };
    for (name, want) in [
        ("dicom_CT_small.dcm", "128x128"),
        ("dicom_ct_image.dcm", "128x128"),
        // It has a byte too many at its beginning.
        ("dicom_no_meta.dcm", "expected"),
        ("slicethickness_empty_string.dcm", "384x384"),
        ("dicom_zipMR.gz", "64x64"),
        ("dicom_ExplVR_BigEnd.dcm", "colour image"),
        ("dicom_MR_truncated.dcm", "8192"),
        ("dicom_badVR.dcm", "RTDOSE"),
        ("dicom_emri_small_jpeg_2k_lossless_too_short.dcm", "without a position"),
        ("dicom_image_dfl.dcm", "without a position"),
        ("dicom_meta_missing_tsyntax.dcm", "image"),
        ("dicom_rtplan_truncated.dcm", "cut short"),
        ("dicom_rtstruct.dcm", "contours (RTSTRUCT)"),
        ("dicom_seg_ct_binary.dcm", "segmentation (SEG)"),
    ] {
        match crate::io::read(&dir.join(name)) {
            Ok(opened) => {
                let [x, y, _] = opened.item.geometry.shape;
                eprintln!("{name}: read, {:?}", opened.warnings);
                assert_eq!(format!("{x}x{y}"), want, "{name}");
            }
            Err(e) => {
                eprintln!("{name}: {e}");
                assert!(e.to_string().contains(want), "{name}: {e}");
            }
        }
    }
}
