//! Segmentations and contours lie in the world where they say, whatever the directions of the axes.

use super::super::tags::*;
use super::writer::{Dcm, Value, ds};
use super::*;
use crate::volume::Geometry;

fn unit(a: usize, sign: f64) -> [f64; 3] {
    std::array::from_fn(|r| if r == a { sign } else { 0.0 })
}

/// All 24 ways in which rows and columns can run along the world's axes.
fn directions() -> Vec<[[f64; 3]; 2]> {
    let mut all = Vec::new();
    for (row, column) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        for (a, b) in [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)] {
            all.push([unit(row, a), unit(column, b)]);
        }
    }
    all
}

fn item(tag: u32, value: impl Into<Value>) -> Vec<Dcm> {
    vec![Dcm::new("").with(tag, value)]
}

/// A segmentation of 5 columns and 3 rows, 2 mm columns, 1.5 mm rows and 3 mm slices. Each frame: segment, slice, pixels.
fn seg(axes: [[f64; 3]; 2], origin: [f64; 3], frames: &[(u16, f64, Vec<usize>)], segments: &[(u16, &str)]) -> Dcm {
    let normal = image::cross(axes[0], axes[1]);
    let mut bits = vec![0u8; (frames.len() * 15).div_ceil(8)];
    let mut groups = Vec::new();
    for (f, (segment, slice, pixels)) in frames.iter().enumerate() {
        pixels.iter().for_each(|p| bits[(f * 15 + p) / 8] |= 1 << ((f * 15 + p) % 8));
        let position: [f64; 3] = std::array::from_fn(|r| origin[r] + 3.0 * slice * normal[r]);
        groups.push(
            Dcm::new("")
                .with(PLANE_POSITION_SEQUENCE, item(IMAGE_POSITION, ds(&position)))
                .with(SEGMENT_IDENTIFICATION_SEQUENCE, item(REFERENCED_SEGMENT_NUMBER, *segment)),
        );
    }
    let shared = Dcm::new("")
        .with(PIXEL_MEASURES_SEQUENCE, vec![Dcm::new("").with(PIXEL_SPACING, ds(&[1.5, 2.0])).with(SPACING_BETWEEN_SLICES, "3")])
        .with(PLANE_ORIENTATION_SEQUENCE, item(IMAGE_ORIENTATION, ds(&axes.concat())));
    let list = segments.iter().map(|&(n, label)| Dcm::new("").with(SEGMENT_NUMBER, n).with(SEGMENT_LABEL, label)).collect::<Vec<_>>();
    Dcm::new("1.2.840.10008.1.2.1")
        .with(SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.66.4")
        .with(MODALITY, "SEG")
        .with(SEGMENTATION_TYPE, "BINARY")
        .with(NUMBER_OF_FRAMES, frames.len().to_string())
        .with(COLUMNS, 5)
        .with(ROWS, 3)
        .with(BITS_ALLOCATED, 1)
        .with(BITS_STORED, 1)
        .with(HIGH_BIT, 0)
        .with(SEGMENT_SEQUENCE, list)
        .with(SHARED_FUNCTIONAL_GROUPS, vec![shared])
        .with(PER_FRAME_FUNCTIONAL_GROUPS, groups)
        .with(PIXEL_DATA, bits)
}

fn read(file: &Dcm, scan: Option<&Geometry>) -> Result<Opened<Labels>> {
    let dir = tempfile::tempdir().unwrap();
    read_labels(&write(dir.path(), "labels", file), scan)
}

/// Mean position in our world, and number of voxels, of a class.
fn centroid(labels: &Labels, class: u8) -> ([f64; 3], usize) {
    let [_, ny, nz] = labels.geometry.shape;
    let mut sum = [0.0; 3];
    let mut count = 0;
    for (i, _) in labels.data.iter().enumerate().filter(|(_, v)| **v == class) {
        let world = labels.geometry.world([i / (ny * nz), i / nz % ny, i % nz].map(|v| v as f64));
        (0..3).for_each(|r| sum[r] += world[r]);
        count += 1;
    }
    (sum.map(|s| s / count as f64), count)
}

#[track_caller]
fn assert_near(got: [f64; 3], want: [f64; 3]) {
    assert!((0..3).all(|r| (got[r] - want[r]).abs() < 0.01), "{got:?}, want {want:?}");
}

#[test]
fn a_segmentation_lies_in_the_world_where_its_frames_do() {
    let origin = [12.0, -30.0, 44.0];
    for axes in directions() {
        let normal = image::cross(axes[0], axes[1]);
        // Frames in no order; segment 2 in slices 1 and 2, segment 7 in slice 4.
        let frames = [(7, 4.0, vec![14]), (2, 2.0, vec![1, 2]), (2, 1.0, vec![1, 2])];
        let file = seg(axes, origin, &frames, &[(2, "liver"), (7, "lesion")]);
        let labels = read(&file, None).unwrap().item;
        assert_eq!(labels.geometry.shape, [5, 3, 4]);
        assert_eq!(labels.classes.get(&2).map(String::as_str), Some("liver"));
        let dicom = |i: f64, j: f64, k: f64| -> [f64; 3] {
            let p: [f64; 3] = std::array::from_fn(|r| origin[r] + 2.0 * i * axes[0][r] + 1.5 * j * axes[1][r] + 3.0 * k * normal[r]);
            [-p[0], -p[1], p[2]]
        };
        let (at, count) = centroid(&labels, 2);
        assert_eq!(count, 4);
        assert_near(at, dicom(1.5, 0.0, 1.5));
        assert_near(centroid(&labels, 7).0, dicom(4.0, 2.0, 4.0));
        // On a scan that holds all of it, with its axes another way round, it lies at the same place.
        let mut scan = Geometry { shape: [9, 8, 8], affine: stack::affine([[0.0; 3]; 3], [0.0; 3]), stored: None };
        let columns = [normal.map(|v| -3.0 * v), axes[1].map(|v| -1.5 * v), axes[0].map(|v| 2.0 * v)];
        let first = std::array::from_fn(|r| origin[r] - 2.0 * axes[0][r] + 1.5 * 4.0 * axes[1][r] + 3.0 * 6.0 * normal[r]);
        scan.affine = stack::affine(columns, first);
        let on_scan = read(&file, Some(&scan)).unwrap().item;
        assert_eq!(on_scan.geometry.affine, scan.affine);
        assert_near(centroid(&on_scan, 2).0, dicom(1.5, 0.0, 1.5));
        assert_near(centroid(&on_scan, 7).0, dicom(4.0, 2.0, 4.0));
        // A scan of other voxels leaves it on its own grid.
        scan.affine[0][3] += 0.7;
        scan.affine[1][3] += 0.7;
        scan.affine[2][3] += 0.7;
        assert_eq!(read(&file, Some(&scan)).unwrap().item.geometry.shape, [5, 3, 4]);
    }
}

#[test]
fn fractional_segments_and_label_maps() {
    let axes = [unit(0, 1.0), unit(1, 1.0)];
    let byte = |values: [u8; 15], kind: &str| {
        seg(axes, [0.0; 3], &[(3, 0.0, vec![])], &[(3, "a"), (4, "b")])
            .with(SEGMENTATION_TYPE, kind)
            .with(BITS_ALLOCATED, 8)
            .with(BITS_STORED, 8)
            .with(HIGH_BIT, 7)
            .with(PIXEL_DATA, values.to_vec())
    };
    let mut values = [0; 15];
    (values[0], values[1], values[2]) = (100, 50, 49);
    let got = read(&byte(values, "FRACTIONAL").with(MAXIMUM_FRACTIONAL_VALUE, 100), None).unwrap().item;
    assert_eq!([0, 1, 2].map(|i| got.data[i * 3]), [3, 3, 0]);
    (values[0], values[1], values[2]) = (4, 3, 0);
    let got = read(&byte(values, "LABELMAP"), None).unwrap().item;
    assert_eq!([0, 1, 2].map(|i| got.data[i * 3]), [4, 3, 0]);
}

#[test]
fn where_segments_overlap_the_smaller_is_seen() {
    let frames = [(1, 0.0, vec![3]), (2, 0.0, vec![0, 1, 2, 3, 4])];
    let opened = read(&seg([unit(0, 1.0), unit(1, 1.0)], [0.0; 3], &frames, &[(1, "lesion"), (2, "organ")]), None).unwrap();
    assert_eq!([0, 1, 2, 3, 4].map(|i| opened.item.data[i * 3]), [2, 2, 2, 1, 2]);
    assert!(warned(&opened.warnings, "overlap in 1 voxels"));
}

#[test]
fn broken_segmentations_are_refused() {
    let axes = [unit(0, 1.0), unit(1, 1.0)];
    let good = |frames: &[(u16, f64, Vec<usize>)]| seg(axes, [0.0; 3], frames, &[(1, "a")]);
    let one = good(&[(1, 0.0, vec![1])]);
    let far_apart = good(&[(1, 0.0, vec![]), (1, 1.0, vec![]), (1, 100_000.0, vec![])]);
    let far_apart = far_apart.with(ROWS, 512).with(COLUMNS, 512).with(PIXEL_DATA, vec![0u8; 3 * 512 * 512 / 8]);
    for (file, word) in [
        (one.clone().without(SEGMENT_SEQUENCE), "list of segments"),
        (one.clone().without(PER_FRAME_FUNCTIONAL_GROUPS), "frames without positions"),
        (good(&[(2, 0.0, vec![1])]), "a frame of segment 2"),
        (good(&[(1, 0.0, vec![1]), (1, 1.0, vec![1]), (1, 2.4, vec![1])]), "uneven steps"),
        (far_apart, "2^30 voxels"),
        (seg(axes, [0.0; 3], &[(1, 0.0, vec![1])], &[(300, "a")]), "segment number 300"),
    ] {
        assert_refused(read(&file, None), &[word]);
    }
    let many = good(&(0..40).map(|k| (1, k as f64, vec![1])).collect::<Vec<_>>());
    assert_refused(read(&many.with(PIXEL_DATA, vec![1u8, 2]), None), &["2 bytes of pixels where 75 should be"]);
}

/// A structure: number, name, and contours as points in DICOM's world.
type Roi<'a> = (u32, &'a str, Vec<Vec<[f64; 3]>>);

fn rtstruct(rois: &[Roi]) -> Dcm {
    let list = rois.iter().map(|(n, name, _)| Dcm::new("").with(ROI_NUMBER, n.to_string()).with(ROI_NAME, *name)).collect::<Vec<_>>();
    let contour =
        |points: &Vec<[f64; 3]>| Dcm::new("").with(CONTOUR_GEOMETRIC_TYPE, "CLOSED_PLANAR").with(CONTOUR_DATA, ds(&points.concat()));
    let drawn = |(n, _, contours): &(u32, &str, Vec<Vec<[f64; 3]>>)| {
        Dcm::new("").with(REFERENCED_ROI_NUMBER, n.to_string()).with(CONTOUR_SEQUENCE, contours.iter().map(contour).collect::<Vec<_>>())
    };
    Dcm::new("1.2.840.10008.1.2")
        .with(SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.481.3")
        .with(MODALITY, "RTSTRUCT")
        .with(STRUCTURE_SET_ROI_SEQUENCE, list)
        .with(ROI_CONTOUR_SEQUENCE, rois.iter().map(drawn).collect::<Vec<_>>())
}

/// A scan whose columns run along `axes[0]`, rows along `axes[1]`: 20 x 16 x 6 voxels of 1 x 1.5 x 3 mm; and DICOM's place of a voxel.
fn scan(axes: [[f64; 3]; 2]) -> (Geometry, impl Fn([f64; 3]) -> [f64; 3]) {
    let normal = image::cross(axes[0], axes[1]);
    let columns = [axes[0], axes[1].map(|v| 1.5 * v), normal.map(|v| 3.0 * v)];
    let origin = [3.0, 40.0, -9.0];
    let geometry = Geometry { shape: [20, 16, 6], affine: stack::affine(columns, origin), stored: None };
    let place = move |ijk: [f64; 3]| std::array::from_fn(|r| origin[r] + (0..3).map(|a| columns[a][r] * ijk[a]).sum::<f64>());
    (geometry, place)
}

fn rectangle(place: &impl Fn([f64; 3]) -> [f64; 3], k: f64, [x0, x1]: [f64; 2], [y0, y1]: [f64; 2]) -> Vec<[f64; 3]> {
    [[x0, y0, k], [x1, y0, k], [x1, y1, k], [x0, y1, k]].map(place).to_vec()
}

#[test]
fn contours_lie_in_the_world_where_they_were_drawn() {
    for axes in directions() {
        let (geometry, place) = scan(axes);
        // Voxels 3..=7 and 5..=9 in slices 2 and 3, with a hole of one voxel at (6, 7).
        let ring = |k| vec![rectangle(&place, k, [2.5, 7.5], [4.5, 9.5]), rectangle(&place, k, [5.5, 6.5], [6.5, 7.5])];
        let file = rtstruct(&[(1, "GTV", [ring(2.0), ring(3.0)].concat())]);
        for turned in [false, true] {
            // The same scan stored with its axes in another order: contours find their slices by where they are.
            let (mut grid, g) = (geometry.clone(), &geometry.affine);
            if turned {
                grid.shape = [6, 20, 16];
                grid.affine = std::array::from_fn(|r| [g[r][2], g[r][0], g[r][1], g[r][3]]);
            }
            let labels = read(&file, Some(&grid)).unwrap().item;
            let (at, count) = centroid(&labels, 1);
            assert_eq!(count, 2 * (25 - 1));
            let of = |x: f64, y: f64| (25.0 * x - y) / 24.0;
            assert_near(at, geometry.world([of(5.0, 6.0), of(7.0, 7.0), 2.5]));
            assert_eq!(labels.classes.get(&1).map(String::as_str), Some("GTV"));
        }
    }
}

#[test]
fn a_centre_on_the_edge_belongs_to_one_side() {
    let (geometry, place) = scan([unit(0, 1.0), unit(1, 1.0)]);
    let file = rtstruct(&[
        (1, "left", vec![rectangle(&place, 1.0, [2.0, 6.0], [2.0, 6.0])]),
        (2, "right", vec![rectangle(&place, 1.0, [6.0, 10.0], [2.0, 6.0])]),
    ]);
    let opened = read(&file, Some(&geometry)).unwrap();
    assert!(!warned(&opened.warnings, "overlap"));
    assert_eq!([1, 2].map(|c| centroid(&opened.item, c).1), [16, 16]);
}

#[test]
fn small_structures_are_seen_inside_of_large_ones() {
    let (geometry, place) = scan([unit(0, 1.0), unit(1, 1.0)]);
    let file = rtstruct(&[
        (1, "lesion", vec![rectangle(&place, 1.0, [4.5, 6.5], [4.5, 6.5])]),
        (2, "body", vec![rectangle(&place, 1.0, [0.5, 15.5], [0.5, 12.5])]),
        (900, "outside", vec![rectangle(&place, 40.0, [0.5, 15.5], [0.5, 12.5])]),
    ]);
    let opened = read(&file, Some(&geometry)).unwrap();
    assert_eq!([1, 2, 3].map(|c| centroid(&opened.item, c).1), [4, 15 * 12 - 4, 0]);
    assert_eq!(opened.item.classes.get(&3).map(String::as_str), Some("outside"));
    for word in ["overlap in 4 voxels", "1 contours outside", "enclose no voxel: [3]"] {
        assert!(warned(&opened.warnings, word), "{word}: {:?}", opened.warnings);
    }
}

#[test]
fn contours_between_slices_go_to_the_nearest() {
    let (geometry, place) = scan([unit(0, 1.0), unit(1, 1.0)]);
    // Drawn on slices 1.5 voxels apart: 0.4, 1.9, 3.4.
    let contours = [0.4, 1.9, 3.4].map(|k| rectangle(&place, k, [2.5, 4.5], [2.5, 4.5])).to_vec();
    let opened = read(&rtstruct(&[(1, "a", contours)]), Some(&geometry)).unwrap();
    assert!(warned(&opened.warnings, "0.40 slices off"), "{:?}", opened.warnings);
    assert_eq!(centroid(&opened.item, 1).1, 5 * 4);
}

#[test]
fn contours_without_a_scan_or_sense_are_refused() {
    let (geometry, place) = scan([unit(0, 1.0), unit(1, 1.0)]);
    let square = rectangle(&place, 1.0, [2.5, 4.5], [2.5, 4.5]);
    let good = rtstruct(&[(1, "a", vec![square.clone()])]);
    assert_refused(read(&good, None), &["contours (RTSTRUCT), which have no grid", "give the scan"]);
    let mut slanted = square.clone();
    slanted[0][2] += 2.0;
    assert_refused(read(&rtstruct(&[(1, "a", vec![slanted])]), Some(&geometry)), &["0.67 voxels off its slice"]);
    assert_refused(read(&rtstruct(&[(1, "a", vec![])]), Some(&geometry)), &["no contours"]);
    assert_refused(read(&good.clone().without(STRUCTURE_SET_ROI_SEQUENCE), Some(&geometry)), &["0 structures"]);
    let bad = Dcm::new("").with(CONTOUR_GEOMETRIC_TYPE, "CLOSED_PLANAR").with(CONTOUR_DATA, "1\\2\\x");
    let bad = Dcm::new("").with(REFERENCED_ROI_NUMBER, "1").with(CONTOUR_SEQUENCE, vec![bad]);
    assert_refused(read(&good.with(ROI_CONTOUR_SEQUENCE, vec![bad]), Some(&geometry)), &["numbers that are no points"]);
}

#[test]
fn a_file_of_the_other_kind_is_named() {
    let (geometry, place) = scan([unit(0, 1.0), unit(1, 1.0)]);
    let contours = rtstruct(&[(1, "a", vec![rectangle(&place, 1.0, [2.5, 4.5], [2.5, 4.5])])]);
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "rs", &contours);
    assert_refused(read_volume(&path), &["contours (RTSTRUCT)", "the slices of a CT series"]);
    // A folder with one label file stands for it.
    assert!(read_labels(dir.path(), Some(&geometry)).is_ok());
    CtSlice::at(0.0, 0).write(&dir.path().join("slice"));
    assert!(read_labels(dir.path(), Some(&geometry)).is_ok());
    std::fs::remove_file(path).unwrap();
    assert_refused(read_labels(dir.path(), Some(&geometry)), &["1 image files and no labels"]);
}
