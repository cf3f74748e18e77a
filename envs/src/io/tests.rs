//! The readers and writers against files made here, files of other tools, and files that are broken on purpose.

use std::path::{Path, PathBuf};

use super::*;
use crate::golden::shared;
use crate::volume::Affine;

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
        if !name.starts_with("same_") && !name.starts_with("pair.") {
            continue;
        }
        let got = open(&path).unwrap();
        assert_eq!(got.shape(), want.shape(), "{name}");
        assert!(close(&got.geometry.affine, &want.geometry.affine, 1e-4), "{name}: {:?} {:?}", got.geometry.affine, want.geometry.affine);
        let off = got.data.iter().zip(&want.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 1e-3, "{name}: {off} HU");
        seen += 1;
    }
    assert!(seen >= 18);
}

#[test]
fn files_of_other_tools_lie_where_nibabel_puts_them() {
    // Diagonal and origin as nibabel 5.4.2 gives them, and the sum of all voxels.
    for (name, diagonal, origin, sum) in [
        ("bad/no_forms.nii.gz", [-3.0, 3.0, 3.0], [58.5, -52.5, -28.5], 554308.0),
        ("bad/same_qform_only.nii.gz", [3.0; 3], [2.04367, 131.319, 118.30176], 554308.0),
        ("bad/negative_spacing.nii.gz", [3.0; 3], [2.04367, 131.319, 118.30176], 554308.0),
        ("bad/forms_disagree.nii.gz", [-3.0, 3.0, 3.0], [50.0, 131.319, 118.30176], 554308.0),
        ("bad/oblique_affine.nii.gz", [3.0, 2.84497, 2.84497], [2.04367, 86.99522, 153.85649], 554308.0),
        ("ct/odd/be_int16.nii", [-2.0, 2.0, 2.0], [32.0, -40.0, -16.0], 284166082.0),
        ("ct/odd/tiny_4x5x7.nii.gz", [1.0, 3.0, 2.0], [0.0; 3], 7650.0),
        ("ct/odd/ibsi_digital_phantom_5x4x4.nii.gz", [-2.0, -2.0, 2.0], [0.0; 3], 173.0),
        ("ct/sts/STS_001_CT_image.nii.gz", [-0.97656, -0.97656, 3.27], [23.43762, 86.91415, -881.32001], -523058985.0),
    ] {
        let Some(path) = shared(&format!("data/{name}")) else { continue };
        let volume = open(&path).unwrap();
        let m = volume.geometry.affine;
        for a in 0..3 {
            assert!((m[a][a] - diagonal[a]).abs() < 1e-4 && (m[a][3] - origin[a]).abs() < 1e-4, "{name}: {m:?}");
        }
        assert_eq!(volume.data.iter().map(|&v| v as f64).sum::<f64>(), sum, "{name}");
    }
}

#[test]
fn no_odd_file_makes_the_readers_panic() {
    let Some(dir) = shared("data/ct/odd") else { return };
    let mut read = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let _ = open_labels(&path);
        assert!(open(&path).is_ok() || open_header(&path).is_err(), "{}: the header alone is good", path.display());
        read += open(&path).is_ok() as usize;
    }
    assert!(read >= 14, "{read}");
}

// ---- files made here ----

mod dress;

use super::header::Dtype;
use rand::RngExt;

/// Where numbers lie in a header: offset, size, count.
const FIELDS: [(usize, usize, usize); 9] =
    [(0, 4, 1), (32, 4, 1), (36, 2, 1), (40, 2, 8), (56, 4, 3), (68, 2, 4), (76, 4, 11), (120, 2, 1), (124, 4, 6)];

/// A header for `kind` in the asked byte order, everything else as this crate writes it.
fn header(g: &Geometry, kind: Dtype, big: bool) -> Vec<u8> {
    let mut bytes = output::for_output(Path::new("made.nii"), g, kind).unwrap().0.bytes;
    if big {
        let forms = [(252, 2, 2), (256, 4, 18)];
        for (at, size, count) in FIELDS.iter().chain(&forms) {
            bytes[*at..at + size * count].chunks_exact_mut(*size).for_each(|n| n.reverse());
        }
    }
    bytes
}

fn encode(kind: Dtype, v: i64, big: bool) -> Vec<u8> {
    use Dtype::*;
    let mut le = match kind {
        Uint8 | Int8 => vec![v as u8],
        Uint16 | Int16 => (v as i16).to_le_bytes().to_vec(),
        Uint32 | Int32 => (v as i32).to_le_bytes().to_vec(),
        Float32 => (v as f32).to_le_bytes().to_vec(),
        Float64 => (v as f64).to_le_bytes().to_vec(),
        _ => v.to_le_bytes().to_vec(),
    };
    if big {
        le.reverse();
    }
    le
}

/// A single file whose voxel `(i, j, k)` is `value(i, j, k)`.
fn file(g: &Geometry, kind: Dtype, big: bool, value: impl Fn(usize, usize, usize) -> i64) -> Vec<u8> {
    let mut bytes = header(g, kind, big);
    bytes.extend([0; 4]);
    for k in 0..g.shape[2] {
        for j in 0..g.shape[1] {
            for i in 0..g.shape[0] {
                bytes.extend(encode(kind, value(i, j, k), big));
            }
        }
    }
    bytes
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    source::gzip(bytes, Path::new("made.nii.gz")).unwrap()
}

fn folder_with(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a name without ending");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// Any rotation (half turns among them) and handedness.
fn random_grid(r: &mut crate::rng::Stream, shape: [usize; 3]) -> Geometry {
    let q: [f64; 4] = std::array::from_fn(|_| if r.random::<f64>() < 0.3 { 0.0 } else { r.random_range(-1.0..1.0) });
    let n = q.iter().map(|v| v * v).sum::<f64>().sqrt();
    let [a, b, c, d] = if n > 0.0 { q.map(|v| v / n) } else { [1.0, 0.0, 0.0, 0.0] };
    let rotation = [
        [1.0 - 2.0 * (c * c + d * d), 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), 1.0 - 2.0 * (b * b + d * d), 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), 1.0 - 2.0 * (b * b + c * c)],
    ];
    let size: [f64; 3] = std::array::from_fn(|i| r.random_range(0.3..5.0) * if i == 2 && r.random() { -1.0 } else { 1.0 });
    let affine =
        std::array::from_fn(|i| std::array::from_fn(|j| if j < 3 { rotation[i][j] * size[j] } else { r.random_range(-300.0..300.0) }));
    Geometry { shape, affine, stored: None }
}

#[test]
fn all_types_in_both_orders_plain_and_packed() {
    let g = Geometry::ras([67, 3, 35], [0.8, 0.9, 2.5], [-10.0, 20.0, 30.0]);
    for kind in Dtype::ALL {
        for (big, packed) in [(false, false), (true, false), (false, true), (true, true)] {
            let value = |i: usize, j: usize, k: usize| ((i * 7 + j * 31 + k * 11) % 121) as i64;
            let bytes = file(&g, kind, big, value);
            let (_dir, path) = folder_with(&if packed { gz(&bytes) } else { bytes });
            let (volume, labels) = (open(&path).unwrap(), open_labels(&path).unwrap());
            assert!(close(&volume.geometry.affine, &g.affine, 1e-5));
            assert_eq!(open_header(&path).unwrap().shape, g.shape);
            for (n, (hu, class)) in volume.data.iter().zip(&labels.data).enumerate() {
                let want = value(n / 105, n / 35 % 3, n % 35);
                assert_eq!((*hu as i64, *class as i64), (want, want), "{kind:?} big {big} packed {packed} at {n}");
            }
        }
    }
}

#[test]
fn slopes_scale_unless_they_are_zero_or_no_number() {
    let g = Geometry::ras([2, 1, 1], [1.0; 3], [0.0; 3]);
    for (slope, inter, want) in [
        (1.0f32, -1024.0f32, Some([-1014.0, -1004.0])),
        (0.5, 0.0, Some([5.0, 10.0])),
        (0.0, -1024.0, Some([10.0, 20.0])),
        (f32::NAN, f32::NAN, Some([10.0, 20.0])),
        (f32::INFINITY, 1.0, Some([10.0, 20.0])),
        (2.0, f32::NAN, None),
        (3e38, 0.0, None),
    ] {
        let mut bytes = file(&g, Dtype::Int16, false, |i, _, _| 10 * (i as i64 + 1));
        bytes[112..116].copy_from_slice(&slope.to_le_bytes());
        bytes[116..120].copy_from_slice(&inter.to_le_bytes());
        let (_dir, path) = folder_with(&bytes);
        assert_eq!(open(&path).ok().map(|v| v.data), want.map(|w| w.to_vec()), "{slope} {inter}");
    }
}

#[test]
fn labels_are_whole_numbers_up_to_255() {
    let g = Geometry::ras([2, 1, 1], [1.0; 3], [0.0; 3]);
    for (kind, value, slope, want) in [
        (Dtype::Int16, 255, 1.0, Some(255)),
        (Dtype::Int16, 256, 1.0, None),
        (Dtype::Int16, -1, 1.0, None),
        (Dtype::Float64, 3, 1.0, Some(3)),
        (Dtype::Uint8, 100, 0.01f32, Some(1)),
        (Dtype::Uint8, 50, 0.01, None),
    ] {
        let mut bytes = file(&g, kind, false, |_, _, _| value);
        bytes[112..116].copy_from_slice(&slope.to_le_bytes());
        let (_dir, path) = folder_with(&bytes);
        assert_eq!(open_labels(&path).ok().map(|l| l.data[1]), want, "{kind:?} {value} {slope}");
    }
}

#[test]
fn gzip_members_count_together_and_what_follows_the_voxels_does_not() {
    let g = Geometry::ras([40, 30, 20], [1.0; 3], [0.0; 3]);
    let bytes = file(&g, Dtype::Int16, false, |i, j, k| (i * j * k) as i64 % 3000);
    let want = {
        let (_dir, path) = folder_with(&bytes);
        open(&path).unwrap().data
    };
    let members = [gz(&bytes[..1000]), gz(&bytes[1000..30_000]), gz(&bytes[30_000..])].concat();
    let padded = [gz(&bytes), vec![0; 512]].concat();
    let longer = gz(&[bytes.clone(), vec![7; 5_000_000]].concat());
    for (name, packed) in [("members", members), ("padded", padded), ("longer", longer)] {
        let (_dir, path) = folder_with(&packed);
        assert!(open(&path).unwrap().data == want, "{name}");
    }
    // Damage behind the last voxel costs nothing but a warning.
    let packed = gz(&bytes);
    let end = packed.len();
    let mut damaged = packed.clone();
    damaged[end - 6] ^= 1;
    for (bytes, word) in [(&damaged[..], "checksum"), (&packed[..end - 8], "without its end"), (&packed[..end - 3], "without its end")] {
        let (_dir, path) = folder_with(bytes);
        let opened = read(&path).unwrap();
        assert!(opened.item.data == want && opened.warnings.len() == 1 && opened.warnings[0].found.contains(word), "{:?}", opened.warnings);
    }
    let (_dir, path) = folder_with(&packed[..end - 100]);
    assert!(open(&path).unwrap_err().to_string().contains("cut short"));
}

#[test]
fn what_is_written_is_read_back_on_any_grid() {
    for index in 0..80 {
        let mut r = crate::rng::stream(5, "io-tests", 0, index);
        let shape: [usize; 3] = std::array::from_fn(|_| r.random_range(1..70));
        let g = random_grid(&mut r, shape);
        let (dir, _) = folder_with(b"");
        let path = dir.path().join("out/labels.nii.gz");
        let labels: Vec<u8> = (0..g.voxels()).map(|_| r.random()).collect();
        write_labels(&path, &labels, &g).unwrap();
        let got = open_labels(&path).unwrap();
        assert!(got.data == labels && close(&got.geometry.affine, &g.affine, 1e-4), "{index}");

        let volume = Volume { data: labels.iter().map(|&v| v as f32 * 40.0 - 1024.4).collect(), geometry: g.clone() };
        write_volume(&path, &volume).unwrap();
        assert!(open(&path).unwrap().data.iter().zip(&volume.data).all(|(a, b)| *a == b.round_ties_even()), "{index}");

        // On a grid that was read from a file, whatever its byte order.
        let big = index % 2 == 0;
        std::fs::write(&path, file(&g, Dtype::Int16, big, |_, _, _| 0)).unwrap();
        let stored = open_header(&path).unwrap();
        let probability: Vec<f32> = labels.iter().map(|&v| v as f32 / 255.0).collect();
        write_probability(&path, &probability, &stored).unwrap();
        assert!(open(&path).unwrap().data == probability, "{index}");
        assert_eq!(open_header(&path).unwrap().stored.unwrap().big_endian, big);

        // The qform alone says the same, also for half turns and left-handed grids; near those f32 leaves 6e-4 of a radian open.
        let mut bytes = header(&g, Dtype::Uint8, false);
        bytes[254] = 0;
        bytes.extend(vec![0; 4 + g.voxels()]);
        std::fs::write(&path, bytes).unwrap();
        let got = open_header(&path).unwrap();
        assert!(close(&got.affine, &g.affine, 7e-3), "{index}: {:?} {:?}", got.affine, g.affine);
    }
}

/// Everything of a header but datatype, bitpix, vox_offset, scl_slope, scl_inter, cal_max and cal_min.
fn kept(header: &[u8]) -> Vec<u8> {
    [&header[..70], &header[74..108], &header[120..124], &header[132..]].concat()
}

#[test]
fn an_output_has_the_header_of_its_input_byte_for_byte() {
    let mut made = header(&Geometry::ras([3, 4, 5], [0.7, 0.8, 3.0], [1.0, 2.0, 3.0]), Dtype::Int16, true);
    // A series of one volume, texts, codes, intent: all of it stays.
    made[40..56].copy_from_slice(&[0, 4, 0, 3, 0, 4, 0, 5, 0, 1, 0, 1, 0, 1, 0, 1]);
    made[148..160].copy_from_slice(b"made by hand");
    (made[123], made[253], made[255]) = (10, 2, 4);
    made.extend(vec![0; 4 + 120]);
    let (_dir, own) = folder_with(&made);
    let mut inputs = vec![own];
    for name in ["ct/sts/STS_019_CT_image.nii.gz", "ct/totalseg/example_ct_sm.nii.gz", "bad/same_bigendian.nii.gz", "bad/same_4d_t1.nii.gz"]
    {
        inputs.extend(shared(&format!("data/{name}")));
    }
    for input in inputs {
        let volume = open(&input).unwrap();
        let before = volume.geometry.stored.clone().unwrap();
        let (dir, _) = folder_with(b"");
        let out = dir.path().join("x.nii.gz");
        let labels: Vec<u8> = (0..volume.data.len()).map(|i| (i % 5) as u8).collect();
        write_labels(&out, &labels, &volume.geometry).unwrap();
        let got = open_labels(&out).unwrap();
        let after = got.geometry.stored.clone().unwrap();
        assert_eq!((kept(&after.bytes), after.big_endian), (kept(&before.bytes), before.big_endian), "{}", input.display());
        assert!(got.data == labels && got.geometry.affine == volume.geometry.affine);
    }
}

#[test]
fn a_grid_with_another_grids_header_is_not_written() {
    let (dir, path) = folder_with(&file(&Geometry::ras([3, 4, 5], [1.0; 3], [0.0; 3]), Dtype::Int16, false, |_, _, _| 0));
    let good = open_header(&path).unwrap();
    let out = dir.path().join("out.nii.gz");
    let cropped = Geometry { shape: [3, 4, 4], ..good.clone() };
    assert!(write_labels(&out, &[0; 48], &cropped).unwrap_err().to_string().contains("back to the grid of the input"));
    let mut moved = good.clone();
    moved.affine[0][3] += 1.0;
    assert!(write_labels(&out, &[0; 60], &moved).is_err());
    assert!(write_labels(&out, &[0; 59], &good).unwrap_err().to_string().contains("one value a voxel"));
    let nan = Volume { data: vec![f32::NAN; 60], geometry: good };
    assert!(write_volume(&out, &nan).is_err());
    assert!(!out.exists());
}

#[test]
fn hostile_headers_are_refused_before_anything_is_allocated() {
    let good = file(&Geometry::ras([4, 4, 4], [1.0; 3], [0.0; 3]), Dtype::Int16, false, |_, _, _| 5);
    let i16s = |v: &[i16]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let f32s = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let forms = |codes: [i16; 2], rows: [f32; 12]| [i16s(&codes), f32s(&[0.0; 6]), f32s(&rows)].concat();
    let cases: Vec<(usize, Vec<u8>, &str)> = vec![
        (0, vec![0; 4], "sizeof_hdr"),
        (0, 540i32.to_le_bytes().to_vec(), "a NIfTI-2 header"),
        (344, b"abcd".to_vec(), "magic"),
        (344, vec![0; 4], "Analyze"),
        (344, b"ni1\0".to_vec(), "pair"),
        (40, i16s(&[0]), "dim[0] = 0"),
        (40, i16s(&[8]), "dim[0] = 8"),
        (40, i16s(&[-1]), "dim[0] = -1"),
        (40, i16s(&[3 << 8]), "dim[0] = 768"),
        (40, i16s(&[3, 0, 4, 4]), "dim[1] = 0"),
        (40, i16s(&[3, 4, -4, 4]), "dim[2] = -4"),
        (40, i16s(&[3, 32767, 32767, 32767]), "at most 2^31"),
        (40, i16s(&[3, 1000, 1000, 1000]), "cut short"),
        (40, i16s(&[3, 4, 4, 5]), "cut short"),
        (40, i16s(&[4, 4, 4, 2, 2]), "a series"),
        (40, i16s(&[7, 4, 4, 1, 1, 1, 1, 4]), "a series"),
        (70, i16s(&[0]), "unknown type"),
        (70, i16s(&[1]), "datatype code 1"),
        (70, i16s(&[32]), "complex64"),
        (70, i16s(&[128]), "RGB"),
        (70, i16s(&[1536]), "float128"),
        (70, i16s(&[-7]), "datatype code -7"),
        (108, f32s(&[f32::NAN]), "vox_offset"),
        (108, f32s(&[-352.0]), "vox_offset"),
        (108, f32s(&[f32::INFINITY]), "vox_offset"),
        (108, f32s(&[1e6]), "cut short"),
        (252, forms([0, 1], [0.0; 12]), "sform"),
        (252, forms([0, 1], [f32::NAN; 12]), "sform"),
        (252, forms([0, 1], [1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]), "independent"),
        (252, [i16s(&[1, 0]), f32s(&[f32::NAN])].concat(), "qform"),
        (252, [i16s(&[1, 0]), f32s(&[0.0, 0.0, 0.0, f32::INFINITY])].concat(), "qform"),
    ];
    for (at, patch, word) in cases {
        let mut bytes = good.clone();
        bytes[at..at + patch.len()].copy_from_slice(&patch);
        for bytes in [gz(&bytes), bytes] {
            let (_dir, path) = folder_with(&bytes);
            for e in [open(&path).err(), open_labels(&path).err()] {
                let e = e.unwrap_or_else(|| panic!("{word}: read as if nothing were wrong")).to_string();
                assert!(e.contains(word) && e.contains("a name without ending"), "{e}");
            }
        }
    }
    // Zero sizes with no form but pixdim.
    let mut bytes = good.clone();
    bytes[252..256].fill(0);
    bytes[80..92].fill(0);
    let (_dir, path) = folder_with(&bytes);
    assert!(open(&path).unwrap_err().to_string().contains("pixdim"));
}

#[test]
fn any_cut_and_any_flipped_byte_gives_a_result_or_a_sentence() {
    let good = file(&Geometry::ras([4, 4, 4], [1.0; 3], [0.0; 3]), Dtype::Int16, false, |_, _, _| 5);
    let packed = gz(&good);
    let mut r = crate::rng::stream(9, "io-tests-fuzz", 0, 0);
    for n in 0..1500 {
        let mut bytes = if n % 2 == 0 { good.clone() } else { packed.clone() };
        if n % 3 == 0 {
            bytes.truncate(r.random_range(0..bytes.len()));
        } else {
            let last = bytes.len().min(360);
            (0..r.random_range(1..6)).for_each(|_| bytes[r.random_range(0..last)] = r.random());
        }
        let (_dir, path) = folder_with(&bytes);
        for result in [open(&path).map(|v| v.data.len()), open_labels(&path).map(|l| l.data.len())] {
            match result {
                Ok(n) => assert!(n <= 1 << 20),
                Err(e) => assert!(!e.to_string().is_empty()),
            }
        }
        let _ = open_header(&path);
    }
    assert!(open(Path::new("/nonexistent/scan.nii.gz")).unwrap_err().to_string().contains("/nonexistent/scan.nii.gz"));
    assert!(open(tempfile::tempdir().unwrap().path()).is_err());
}
