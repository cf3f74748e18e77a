//! One scan in every dress: NIfTI-2, pairs, odd names, and headers that can be used with a warning.

use super::*;

fn le<const N: usize, T: Copy>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&v| bytes(v)).collect()
}

fn i16s(values: &[i16]) -> Vec<u8> {
    le(values, i16::to_le_bytes)
}

fn f32s(values: &[f32]) -> Vec<u8> {
    le(values, f32::to_le_bytes)
}

/// A NIfTI-2 single file with an sform.
fn second(g: &Geometry, dtype: Dtype, big: bool, value: impl Fn(usize, usize, usize) -> i64) -> Vec<u8> {
    let mut bytes = vec![0; 544];
    let mut put = |at: usize, number: &[u8]| {
        bytes[at..at + number.len()].copy_from_slice(number);
        if big {
            bytes[at..at + number.len()].reverse();
        }
    };
    put(0, &540i32.to_le_bytes());
    put(12, &dtype.code().to_le_bytes());
    put(14, &(dtype.bytes() as i16 * 8).to_le_bytes());
    for (i, n) in [3, g.shape[0], g.shape[1], g.shape[2], 1, 1, 1, 1].into_iter().enumerate() {
        put(16 + 8 * i, &(n as i64).to_le_bytes());
    }
    let spacing = g.spacing_mm();
    for (i, v) in [1.0, spacing[0], spacing[1], spacing[2]].into_iter().enumerate() {
        put(104 + 8 * i, &v.to_le_bytes());
    }
    put(168, &544i64.to_le_bytes());
    put(176, &1f64.to_le_bytes());
    put(348, &1i32.to_le_bytes());
    for (i, v) in g.affine.as_flattened().iter().enumerate() {
        put(400 + 8 * i, &v.to_le_bytes());
    }
    put(500, &2i32.to_le_bytes());
    bytes[4..12].copy_from_slice(b"n+2\0\r\n\x1a\n");
    for k in 0..g.shape[2] {
        for j in 0..g.shape[1] {
            for i in 0..g.shape[0] {
                bytes.extend(encode(dtype, value(i, j, k), big));
            }
        }
    }
    bytes
}

/// The halves of a pair made from a single file of either version.
fn halves(single: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (version, big) = Version::of(single).unwrap();
    let mut header = single[..version.bytes()].to_vec();
    match version {
        Version::One => header[344..348].copy_from_slice(b"ni1\0"),
        Version::Two => header[4..8].copy_from_slice(b"ni2\0"),
    }
    match (version, big) {
        (Version::One, _) => header[108..112].fill(0),
        (Version::Two, _) => header[168..176].fill(0),
    }
    (header, single[version.bytes() + 4..].to_vec())
}

fn value(i: usize, j: usize, k: usize) -> i64 {
    ((i * 7 + j * 31 + k * 11) % 121) as i64
}

fn grid() -> Geometry {
    Geometry::ras([13, 6, 9], [0.8, 0.9, 2.5], [-10.0, 20.0, 30.0])
}

#[test]
fn both_versions_say_the_same() {
    let g = grid();
    let (_dir, path) = folder_with(&file(&g, Dtype::Int16, false, value));
    let want = open(&path).unwrap().data;
    for dtype in Dtype::ALL {
        for (big, packed) in [(false, false), (true, false), (false, true), (true, true)] {
            let bytes = second(&g, dtype, big, value);
            let (_dir, path) = folder_with(&if packed { gz(&bytes) } else { bytes });
            let opened = read(&path).unwrap();
            assert_eq!((opened.format, opened.dtype.as_str(), opened.warnings.len()), ("NIfTI-2", &*dtype.name(), 0));
            assert!(opened.item.data == want && opened.item.geometry.affine == g.affine, "{dtype:?} {big} {packed}");
            assert!(open_labels(&path).unwrap().data.iter().zip(&want).all(|(&l, &v)| l as f32 == v));
        }
    }
}

#[test]
fn a_pair_is_found_by_either_half() {
    let g = grid();
    let singles = [file(&g, Dtype::Int16, true, value), second(&g, Dtype::Int16, false, value)];
    for (one, two) in
        [("a.hdr", "a.img"), ("A.HDR", "a.IMG"), ("a.hdr", "a.img.gz"), ("a.hdr.gz", "a.img.gz"), ("ct 1.2.hdr.GZ", "ct 1.2.img")]
    {
        for single in &singles {
            let (header, image) = halves(single);
            let dir = tempfile::tempdir().unwrap();
            let packed = |name: &str, bytes: Vec<u8>| if name.to_lowercase().ends_with(".gz") { gz(&bytes) } else { bytes };
            std::fs::write(dir.path().join(one), packed(one, header)).unwrap();
            std::fs::write(dir.path().join(two), packed(two, image)).unwrap();
            // Files beside it with nearly the same name are not taken for it.
            std::fs::write(dir.path().join("a.b.img"), b"x").unwrap();
            std::fs::write(dir.path().join("aa.hdr"), b"x").unwrap();
            let (_single_dir, single) = folder_with(single);
            let want = open(&single).unwrap();
            for half in [one, two] {
                let opened = read(&dir.path().join(half)).unwrap();
                assert_eq!(opened.warnings, [], "{half}");
                assert!(opened.item.data == want.data && opened.item.geometry.affine == want.geometry.affine, "{half}");
                assert!(open_labels(&dir.path().join(half)).is_ok() && open_header(&dir.path().join(half)).unwrap().shape == g.shape);
            }
        }
    }
}

#[test]
fn half_a_pair_is_refused_in_a_sentence() {
    let (header, image) = halves(&file(&grid(), Dtype::Int16, false, value));
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("a.hdr"), dir.path().join("a.img"));
    let says = |path: &Path, word: &str| {
        let e = open(path).unwrap_err().to_string();
        assert!(e.contains(word), "{word}: {e}");
    };
    std::fs::write(&one, &header).unwrap();
    says(&one, "no other half");
    std::fs::write(&two, &image[..image.len() - 1]).unwrap();
    says(&one, "cut short");
    says(&two, "cut short");
    std::fs::write(&two, &image).unwrap();
    assert!(open(&one).is_ok());
    // Two images: one is taken, and which one is said.
    std::fs::write(dir.path().join("A.IMG.gz"), gz(&image)).unwrap();
    assert!(read(&one).unwrap().warnings[0].found.contains("2 files"));
    std::fs::remove_file(&one).unwrap();
    says(&two, "image half");
    // The header of a single file beside an image.
    std::fs::write(&one, &file(&grid(), Dtype::Int16, false, value)[..348]).unwrap();
    says(&two, "single file");
}

#[test]
fn an_output_keeps_the_version_and_makes_one_file_of_a_pair() {
    let singles =
        [file(&grid(), Dtype::Int16, true, value), second(&grid(), Dtype::Int16, true, value), second(&grid(), Dtype::Int16, false, value)];
    for mut single in singles {
        let (version, big) = Version::of(&single).unwrap();
        // Text that must stay: descrip.
        let descrip = if version == Version::One { 148 } else { 240 };
        single[descrip..descrip + 4].copy_from_slice(b"mine");
        let (header, image) = halves(&single);
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("a.hdr"), dir.path().join("out.nii.gz"));
        std::fs::write(&input, header).unwrap();
        std::fs::write(dir.path().join("a.img"), image).unwrap();
        let volume = open(&input).unwrap();
        let labels: Vec<u8> = (0..volume.data.len()).map(|i| (i % 5) as u8).collect();
        write_labels(&output, &labels, &volume.geometry).unwrap();
        let got = read_labels(&output, None).unwrap();
        assert_eq!((got.format, got.warnings.len()), (version.name(), 0));
        assert!(got.item.data == labels && got.item.geometry.affine == volume.geometry.affine);
        let (before, after) = (volume.geometry.stored.unwrap(), got.item.geometry.stored.unwrap());
        assert_eq!((after.big_endian, after.bytes.len()), (big, version.bytes()));
        // Datatype and bitpix, vox_offset to the intercept, display range, magic.
        let kept = |b: &[u8]| match version {
            Version::One => super::kept(&b[..344]),
            Version::Two => [&b[..4], &b[16..168], &b[208..]].concat(),
        };
        assert_eq!(kept(&after.bytes), kept(&before.bytes));
    }
}

#[test]
fn nifti2_headers_that_lie_are_refused() {
    let good = second(&grid(), Dtype::Int16, false, value);
    let i64s = |v: &[i64]| le(v, i64::to_le_bytes);
    for (at, patch, word) in [
        (4, b"n+2\0\n\n\x1a\n".to_vec(), "line ends"),
        (4, b"n+3\0".to_vec(), "magic"),
        (16, i64s(&[3, i64::MAX, i64::MAX, i64::MAX]), "2^31"),
        (16, i64s(&[3, 1 << 40, 1, 1]), "2^31"),
        (16, i64s(&[3, -1, 1, 1]), "dim[1]"),
        (16, i64s(&[i64::MIN]), "dim[0]"),
        (168, i64s(&[i64::MAX]), "vox_offset"),
        (168, i64s(&[-1]), "vox_offset"),
        (168, i64s(&[1 << 39]), "cut short"),
        (184, f64::NAN.to_le_bytes().to_vec(), "scl_inter"),
        (400, le(&[f64::NAN], f64::to_le_bytes), "sform"),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + patch.len()].copy_from_slice(&patch);
        for bytes in [gz(&bytes), bytes] {
            let (_dir, path) = folder_with(&bytes);
            let e = open(&path).err().unwrap_or_else(|| panic!("{word}: read")).to_string();
            assert!(e.contains(word), "{word}: {e}");
        }
    }
    let (_dir, path) = folder_with(&good[..400]);
    assert!(open(&path).unwrap_err().to_string().contains("first 400 bytes of a NIfTI-2"));
}

/// A header that can be used is used, and what is odd about it is said in mm where it is about places.
#[test]
fn odd_headers_are_read_with_a_warning() {
    let good = file(&Geometry::ras([40, 30, 20], [2.0, 2.0, 3.0], [1.0, 2.0, 3.0]), Dtype::Int16, false, value);
    let codes = |q: i16, s: i16| (252, i16s(&[q, s]));
    let sform = |m: [f32; 12]| (280, f32s(&m));
    let units = |u: u8| (123, vec![u]);
    let straight = [2.0f32, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 2.0, 0.0, 0.0, 3.0, 3.0];
    let with = |at: usize, v: f32| {
        let mut m = straight;
        m[at] = v;
        m
    };
    let metres = straight.map(|v| v / 1000.0);
    let sizes = |v: [f32; 4]| (76, f32s(&v));
    type Patch = (usize, Vec<u8>);
    let cases: Vec<(Vec<Patch>, Option<&str>, [f64; 3])> = vec![
        (vec![], None, [2.0, 2.0, 3.0]),
        (vec![(72, i16s(&[8]))], Some("bitpix = 8"), [2.0, 2.0, 3.0]),
        (vec![(108, f32s(&[0.0]))], Some("vox_offset = 0"), [2.0, 2.0, 3.0]),
        (vec![(112, f32s(&[f32::NEG_INFINITY]))], Some("scl_slope = -inf"), [2.0, 2.0, 3.0]),
        (vec![(112, f32s(&[-1.0]))], Some("scl_slope = -1.0"), [2.0, 2.0, 3.0]),
        (vec![codes(0, 0)], Some("neither sform nor qform"), [2.0, 2.0, 3.0]),
        (vec![codes(1, 0)], None, [2.0, 2.0, 3.0]),
        (vec![codes(0, 1)], None, [2.0, 2.0, 3.0]),
        // Forms apart by less than half a mm, by 10 mm, and by a mirror (2 * 78 + 2 mm).
        (vec![sform(with(3, 1.3))], None, [2.0, 2.0, 3.0]),
        (vec![sform(with(3, 11.0))], Some("10.00 mm apart"), [2.0, 2.0, 3.0]),
        (vec![sform(with(0, -2.0))], Some("156.00 mm apart"), [2.0, 2.0, 3.0]),
        // Either form can't be used: the other is.
        (vec![sform([0.0; 12])], Some("an sform of"), [2.0, 2.0, 3.0]),
        (vec![sform([f32::NAN; 12])], Some("an sform of"), [2.0, 2.0, 3.0]),
        (vec![(256, f32s(&[f32::NAN]))], Some("no rotation"), [2.0, 2.0, 3.0]),
        (vec![codes(1, 0), (256, f32s(&[0.0, 0.0, 1.2]))], Some("longer than 1"), [2.0, 2.0, 3.0]),
        // Sizes that the sform doesn't have.
        (vec![codes(0, 1), sizes([1.0, 2.0, 2.0, 1.0])], Some("pixdim[3] = 1.0"), [2.0, 2.0, 3.0]),
        (vec![codes(0, 1), sizes([1.0, 2.0, 0.0, 3.0])], Some("pixdim[2] = 0.0"), [2.0, 2.0, 3.0]),
        (vec![codes(0, 1), sizes([1.0, f32::NAN, 2.0, 3.0])], Some("pixdim[1] = NaN"), [2.0, 2.0, 3.0]),
        (vec![codes(0, 1), sizes([1.0, 2.0, 2.0, 3.01])], None, [2.0, 2.0, 3.0]),
        (vec![codes(1, 0), sizes([1.0, 2.0, -2.0, 3.0])], Some("pixdim[2] = -2.0"), [2.0, 2.0, 3.0]),
        (vec![codes(0, 1), sizes([1.0, 2.0, -2.0, 3.0])], Some("pixdim[2] = -2.0"), [2.0, 2.0, 3.0]),
        // Tilted by 18.5 degrees about x: the last slice is 19 * 1 mm off.
        (vec![codes(0, 1), sform(with(6, 1.0)), sizes([1.0, 2.0, 2.0, 3.1623])], Some("71.57 degrees"), [2.0, 2.0, 3.16228]),
        (vec![codes(0, 1), sform(with(6, 0.01))], None, [2.0, 2.0, 3.0]),
        // Metres and micrometres; and the code alone, where sizes are in mm.
        (vec![units(1), codes(0, 1), sform(metres), sizes([1.0, 0.002, 0.002, 0.003])], Some("in metres"), [2.0, 2.0, 3.0]),
        (vec![units(1), codes(1, 0), sizes([1.0, 0.002, 0.002, 0.003])], Some("in metres"), [2.0, 2.0, 3.0]),
        (vec![units(3), codes(1, 0), sizes([1.0, 2000.0, 2000.0, 3000.0])], Some("in micrometres"), [2.0, 2.0, 3.0]),
        (vec![units(1)], Some("taken for mm"), [2.0, 2.0, 3.0]),
        (vec![units(3)], Some("taken for mm"), [2.0, 2.0, 3.0]),
        (vec![units(0)], None, [2.0, 2.0, 3.0]),
        (vec![units(10)], None, [2.0, 2.0, 3.0]),
        // Sizes that no scanner makes.
        (vec![codes(1, 0), sizes([1.0, 2.0, 2.0, 999.0])], Some("999.0 mm"), [2.0, 2.0, 999.0]),
        (vec![codes(1, 0), sizes([1.0, 0.001, 2.0, 3.0])], Some("0.001"), [0.001, 2.0, 3.0]),
    ];
    for (patches, word, spacing) in cases {
        let mut bytes = good.clone();
        for (at, patch) in &patches {
            bytes[*at..at + patch.len()].copy_from_slice(patch);
        }
        let (dir, path) = folder_with(&bytes);
        let opened = read(&path).unwrap_or_else(|e| panic!("{word:?}: {e}"));
        let said: String = opened.warnings.iter().map(|w| format!("{}; {}; {}\n", w.found, w.expected, w.action)).collect();
        match word {
            None => assert_eq!(opened.warnings, [], "{patches:?}"),
            Some(word) => assert!(opened.warnings.len() == 1 && said.contains(word), "{word}: {said}"),
        }
        let got = opened.item.geometry.spacing_mm();
        assert!((0..3).all(|a| (got[a] - spacing[a]).abs() < 1e-4), "{word:?}: {got:?}");
        // An output lies where its input lies, unit and all.
        let out = dir.path().join("out.nii.gz");
        write_labels(&out, &vec![1; opened.item.data.len()], &opened.item.geometry).unwrap();
        assert_eq!(open_header(&out).unwrap().affine, opened.item.geometry.affine);
    }
}

#[test]
fn nearly_flat_grids_are_refused() {
    for tilt in [60.0f64, 80.0, 88.0, 90.0] {
        let mut g = Geometry::ras([4, 4, 4], [1.0; 3], [0.0; 3]);
        (g.affine[1][2], g.affine[2][2]) = (tilt.to_radians().sin(), tilt.to_radians().cos());
        let (_dir, path) = folder_with(&second(&g, Dtype::Int16, false, value));
        assert_eq!(open(&path).is_ok(), tilt < 87.0, "{tilt}");
    }
}

#[test]
fn voxels_without_a_number_are_filled_and_said() {
    let g = Geometry::ras([4, 1, 1], [1.0; 3], [0.0; 3]);
    let file = |values: [f32; 4]| [&file(&g, Dtype::Float32, false, |_, _, _| 0)[..352], &f32s(&values)].concat();
    for (stored, want, word) in [
        ([-1000.0, f32::NAN, 5.0, 7.0], Some([-1000.0, -1000.0, 5.0, 7.0]), "1 of 4"),
        ([f32::INFINITY, f32::NAN, 5.0, f32::NEG_INFINITY], Some([5.0, 5.0, 5.0, 5.0]), "3 of 4"),
        ([f32::INFINITY, 0.0, 0.5, 1.0], Some([1.0, 0.0, 0.5, 1.0]), "1 of 4"),
        ([f32::NAN; 4], None, "all NaN"),
        ([f32::INFINITY; 4], None, "all NaN"),
    ] {
        let (_dir, path) = folder_with(&file(stored));
        match (read(&path), want) {
            (Ok(opened), Some(want)) => assert!(opened.item.data == want && opened.warnings[0].found.contains(word)),
            (Err(e), None) => assert!(e.to_string().contains(word), "{e}"),
            (got, _) => panic!("{stored:?}: {got:?}"),
        }
        let e = open_labels(&path).unwrap_err().to_string();
        assert!(e.contains("NaN or infinite") && e.contains("whole numbers"), "{e}");
    }
}

#[test]
fn what_is_no_label_is_said() {
    let g = Geometry::ras([2, 1, 1], [1.0; 3], [0.0; 3]);
    for (values, word) in [
        ([0.0, 0.5], "probabilities"),
        ([0.0, 3.5], "fractional values from 0.0 to 3.5"),
        ([-1024.0, 3.0], "from -1024.0 to 3.0"),
        ([0.0, 256.0], "to 256.0"),
    ] {
        let bytes = [&file(&g, Dtype::Float32, true, |_, _, _| 0)[..352], &le(&values, f32::to_be_bytes)].concat();
        let (_dir, path) = folder_with(&bytes);
        let e = open_labels(&path).unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    }
}

#[test]
fn content_decides_and_a_wrong_name_is_said() {
    let bytes = file(&grid(), Dtype::Int16, false, value);
    for (name, packed, word) in [
        ("a.nii", false, None),
        ("a.NII.GZ", true, None),
        ("a", true, None),
        ("a.nii", true, Some("doesn't end in .gz")),
        ("a.nii.gz", false, Some("not gzipped")),
        ("a.dcm", false, Some("name of a DICOM file")),
        ("a.nrrd", true, Some("name of a NRRD file")),
        ("a.mha", false, Some("name of a MetaImage file")),
        ("a.img", false, None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, if packed { gz(&bytes) } else { bytes.clone() }).unwrap();
        for warnings in [read(&path).unwrap().warnings, read_labels(&path, None).unwrap().warnings] {
            assert!(
                warnings.len() == usize::from(word.is_some()) && word.is_none_or(|w| warnings[0].found.contains(w)),
                "{name}: {warnings:?}"
            );
        }
    }
}

#[test]
fn what_follows_the_voxels_is_not_read_and_said() {
    let bytes = file(&grid(), Dtype::Int16, false, value);
    let longer = [&bytes[..], &[7; 1000]].concat();
    let members = [gz(&bytes), gz(&[7; 1000])].concat();
    // The empty member at the end is how bgzip says "complete".
    let bgzip = [gz(&bytes[..500]), gz(&bytes[500..]), gz(b"")].concat();
    for (name, stored, word) in [
        ("plain", longer.clone(), Some("1000 more bytes")),
        ("packed", gz(&longer), Some("more content")),
        ("members", members, Some("more content")),
        ("bgzip", bgzip, None),
    ] {
        let (_dir, path) = folder_with(&stored);
        let opened = read(&path).unwrap();
        let said: Vec<_> = opened.warnings.iter().map(|w| w.found.as_str()).collect();
        assert!(said.len() == usize::from(word.is_some()) && word.is_none_or(|w| said[0].contains(w)), "{name}: {said:?}");
    }
}

#[test]
fn what_is_no_scan_is_named() {
    let twice = gz(&gz(&file(&grid(), Dtype::Int16, false, value)));
    for (content, word) in [
        (&twice[..], "gzipped twice"),
        (b"PK\x03\x04 and more", "zip"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"{\"error\": 404}", "JSON"),
        (b"\x93NUMPY\x01", "NumPy"),
        (b"just some text", "no NIfTI, DICOM or NRRD"),
        (b"x", "no NIfTI, DICOM or NRRD"),
    ] {
        let (_dir, path) = folder_with(content);
        let e = open(&path).unwrap_err().to_string();
        assert!(e.contains(word), "{word}: {e}");
    }
}
