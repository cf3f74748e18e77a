//! Headers and bodies made here, files of other tools, and files that are broken on purpose.

use std::io::Write;
use std::path::PathBuf;

use super::super::{open, open_header, open_labels, read};
use crate::golden::shared;
use crate::volume::Affine;

fn write(dir: &tempfile::TempDir, name: &str, parts: &[&[u8]]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, parts.concat()).unwrap();
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// A header of 2 x 3 x 2 voxels with `type`, `endian`, `encoding` and more lines.
fn nrrd(kind: &str, endian: &str, encoding: &str, more: &str) -> String {
    format!(
        "NRRD0004\n# made for a test\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 3 2\n\
         space directions: (0.5,0,0) (0,0.7,0) (0,0,2)\nkinds: domain domain domain\nendian: {endian}\nencoding: {encoding}\n\
         space origin: (10,20,-30)\nSegment0_Name:=liver\n{more}\n"
    )
}

/// 0 to 11 in file order, less `offset`.
fn voxels<const N: usize>(encode: impl Fn(i8) -> [u8; N], offset: i8) -> Vec<u8> {
    (0..12).flat_map(|v| encode(v - offset)).collect()
}

/// Voxel `(x, y, z)` of 2 x 3 x 2 in file order, in `[x][y][z]`.
fn expected(offset: f32) -> Vec<f32> {
    let mut out = Vec::new();
    for x in 0..2 {
        for y in 0..3 {
            for z in 0..2 {
                out.push((x + 2 * y + 6 * z) as f32 - offset);
            }
        }
    }
    out
}

const AFFINE: [[f64; 4]; 3] = [[-0.5, 0.0, 0.0, -10.0], [0.0, -0.7, 0.0, -20.0], [0.0, 0.0, 2.0, -30.0]];

#[test]
fn every_type_order_and_encoding_reads_alike() {
    let dir = tempfile::tempdir().unwrap();
    // NRRD's and MetaImage's name, whether it is signed, the twelve voxels in both orders.
    type Kind<'a> = (&'a str, &'a str, bool, Vec<u8>, Vec<u8>);
    let kinds: Vec<Kind> = vec![
        ("int8", "MET_CHAR", true, voxels(|v| v.to_le_bytes(), 5), voxels(|v| v.to_be_bytes(), 5)),
        ("unsigned char", "MET_UCHAR", false, voxels(|v| (v as u8).to_le_bytes(), 0), voxels(|v| (v as u8).to_be_bytes(), 0)),
        ("short", "MET_SHORT", true, voxels(|v| (v as i16).to_le_bytes(), 5), voxels(|v| (v as i16).to_be_bytes(), 5)),
        ("uint16_t", "MET_USHORT", false, voxels(|v| (v as u16).to_le_bytes(), 0), voxels(|v| (v as u16).to_be_bytes(), 0)),
        ("int", "MET_INT", true, voxels(|v| (v as i32).to_le_bytes(), 5), voxels(|v| (v as i32).to_be_bytes(), 5)),
        ("unsigned  int", "MET_UINT", false, voxels(|v| (v as u32).to_le_bytes(), 0), voxels(|v| (v as u32).to_be_bytes(), 0)),
        ("long long", "MET_LONG_LONG", true, voxels(|v| (v as i64).to_le_bytes(), 5), voxels(|v| (v as i64).to_be_bytes(), 5)),
        ("ulonglong", "MET_ULONG_LONG", false, voxels(|v| (v as u64).to_le_bytes(), 0), voxels(|v| (v as u64).to_be_bytes(), 0)),
        ("float", "MET_FLOAT", true, voxels(|v| (v as f32).to_le_bytes(), 5), voxels(|v| (v as f32).to_be_bytes(), 5)),
        ("double", "MET_DOUBLE", true, voxels(|v| (v as f64).to_le_bytes(), 5), voxels(|v| (v as f64).to_be_bytes(), 5)),
    ];
    for (kind, met, signed, little, big) in kinds {
        for (endian, msb, raw) in [("little", "False", &little), ("big", "True", &big)] {
            let meta = |compressed: &str, file: &str| {
                format!(
                    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = {msb}\nCompressedData = {compressed}\n\
                     TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 10 20 -30\nElementSpacing = 0.5 0.7 2\nDimSize = 2 3 2\n\
                     ElementType = {met}\nElementDataFile = {file}\n"
                )
            };
            write(&dir, "v.raw", &[b"one\r\ntwo\n....", raw]);
            write(&dir, "v.gz", &[b"line\n", &gzip(&[b"....", &raw[..]].concat())]);
            let whole = gzip(&[nrrd(kind, endian, "raw", "").as_bytes(), raw].concat());
            let files = [
                write(&dir, "raw", &[nrrd(kind, endian, "raw", "").as_bytes(), raw, b"trailing"]),
                write(&dir, "gzip", &[nrrd(kind, endian, "gzip", "").as_bytes(), &gzip(raw)]),
                write(&dir, "members", &[nrrd(kind, endian, "gz", "").as_bytes(), &gzip(&raw[..5]), &gzip(&raw[5..])]),
                write(&dir, "whole.gz", &[&whole]),
                write(&dir, "dos", &[nrrd(kind, endian, "raw", "").replace('\n', "\r\n").as_bytes(), raw]),
                write(&dir, "skip", &[nrrd(kind, endian, "raw", "line skip: 2\nbyte skip: 3\n").as_bytes(), b"a\nb\n...", raw]),
                write(&dir, "end", &[nrrd(kind, endian, "raw", "byteskip: -1\n").as_bytes(), b"whatever", raw]),
                write(
                    &dir,
                    "detached.nhdr",
                    &[nrrd(kind, endian, "raw", "data file: v.raw\nlineskip: 2\nbyte skip: 4").trim_end().as_bytes()],
                ),
                write(&dir, "packed.nhdr", &[nrrd(kind, endian, "gzip", "datafile: v.gz\nline skip: 1\nbyte skip: 4\n").as_bytes()]),
                write(&dir, "local.mha", &[meta("False", "LOCAL").as_bytes(), raw]),
                write(&dir, "packed.mha", &[meta("True", "LOCAL").as_bytes(), &zlib(raw)]),
                write(&dir, "apart.mhd", &[meta("False", "v.raw").replace("ElementType", "HeaderSize = -1\nElementType").as_bytes()]),
            ];
            for file in files {
                let at = format!("{kind} {endian} {}", file.display());
                let got = open(&file).unwrap_or_else(|e| panic!("{at}: {e}"));
                assert_eq!(got.data, expected(if signed { 5.0 } else { 0.0 }), "{at}");
                assert_eq!(got.geometry.affine, AFFINE, "{at}");
                assert_eq!(open_header(&file).unwrap().affine, AFFINE, "{at}");
                match open_labels(&file) {
                    Ok(labels) => assert!(!signed && labels.data == expected(0.0).iter().map(|&v| v as u8).collect::<Vec<_>>(), "{at}"),
                    Err(e) => assert!(signed && e.to_string().contains("whole numbers from 0 to 255"), "{at}: {e}"),
                }
            }
        }
    }
}

#[test]
fn axes_lie_in_the_world_as_the_header_says() {
    let dir = tempfile::tempdir().unwrap();
    let head = |space: &str, rest: &str| format!("NRRD0005\ntype: uchar\nencoding: raw\n{space}{rest}\n");
    let three = "dimension: 3\nsizes: 2 3 2\n";
    let turned = "space directions: (0,0.7,0) (0.5,0,0.1) (0,0,-2)\nspace origin: (1,2,3)\n";
    // Space, the rest of the header, the affine, what a warning must say.
    type Grid<'a> = (&'a str, &'a str, String, Affine, Option<&'a str>);
    let cases: [Grid; 8] = [
        ("space: LPS\n", three, turned.into(), [[0.0, -0.5, 0.0, -1.0], [-0.7, 0.0, 0.0, -2.0], [0.0, 0.1, -2.0, 3.0]], None),
        (
            "space: right-anterior-superior\n",
            three,
            turned.into(),
            [[0.0, 0.5, 0.0, 1.0], [0.7, 0.0, 0.0, 2.0], [0.0, 0.1, -2.0, 3.0]],
            None,
        ),
        ("space: LAS\n", three, turned.into(), [[0.0, -0.5, 0.0, -1.0], [0.7, 0.0, 0.0, 2.0], [0.0, 0.1, -2.0, 3.0]], None),
        (
            "space: scanner-xyz\n",
            three,
            turned.into(),
            [[0.0, -0.5, 0.0, -1.0], [-0.7, 0.0, 0.0, -2.0], [0.0, 0.1, -2.0, 3.0]],
            Some("scanner-xyz"),
        ),
        (
            "space dimension: 3\n",
            three,
            turned.into(),
            [[0.0, -0.5, 0.0, -1.0], [-0.7, 0.0, 0.0, -2.0], [0.0, 0.1, -2.0, 3.0]],
            Some("no space"),
        ),
        (
            "",
            three,
            "spacings: 0.5 0.7 2\n".into(),
            [[-0.5, 0.0, 0.0, 0.0], [0.0, -0.7, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]],
            Some("without directions"),
        ),
        (
            "space: RAS\n",
            "dimension: 4\nsizes: 1 2 3 2\nkinds: list domain domain domain\n",
            "space directions: none (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n".into(),
            [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]],
            None,
        ),
        (
            "space: RAS\nspace units: \"mm\" \"mm\" \"mm\"\n",
            three,
            "space directions: (1,0,0)(0,1,0)  (0,0,1)\nspace origin: (0, 0, 0)\nfoo: bar\n".into(),
            [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]],
            Some("\"foo\""),
        ),
    ];
    for (space, sizes, rest, affine, warning) in cases {
        let path = write(&dir, "a.nrrd", &[head(&format!("{space}{sizes}"), &rest).as_bytes(), &[0; 12]]);
        let got = read(&path).unwrap_or_else(|e| panic!("{space}{rest}: {e}"));
        assert_eq!(got.item.geometry.affine, affine, "{space}{rest}");
        match warning {
            Some(words) => assert!(got.warnings.iter().any(|w| w.found.contains(words)), "{space}: {:?}", got.warnings),
            None => assert_eq!(got.warnings, [], "{space}{rest}"),
        }
        assert_eq!((got.format, got.dtype.as_str()), ("NRRD", "uint8"));
    }
    // MetaImage: each three numbers of the matrix are an axis.
    let text = "NDims = 3\nDimSize = 2 3 2\nTransformMatrix = 0 1 0 -1 0 0 0 0 1\nPosition = 1 2 3\nElementSize = 0.5 0.7 2\n\
                ElementType = MET_UCHAR\nElementDataFile = LOCAL\n";
    let got = read(&write(&dir, "a.mha", &[text.as_bytes(), &[0; 12]])).unwrap();
    assert_eq!(got.item.geometry.affine, [[0.0, 0.7, 0.0, -1.0], [-0.5, 0.0, 0.0, -2.0], [0.0, 0.0, 2.0, 3.0]]);
    assert_eq!(got.format, "MetaImage");
}

#[test]
fn headers_that_cannot_be_used_are_refused_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let raw = [0u8; 24];
    // A replacement in a good header, and the words that the refusal must have.
    for (from, to, words) in [
        ("encoding: raw", "encoding: hex", "raw or gzip"),
        ("encoding: raw", "encoding: txt", "raw or gzip"),
        ("encoding: raw", "encoding: bzip2", "raw or gzip"),
        ("encoding: raw\n", "", "no field `encoding`"),
        ("type: short", "type: block", "scalar type"),
        ("endian: little\n", "", "no byte order"),
        ("endian: little", "endian: middle", "little or big"),
        ("sizes: 2 3 2", "sizes: 2 3", "2 sizes of 3 axes"),
        ("sizes: 2 3 2", "sizes: 2 3 0", "2^31 voxels"),
        ("sizes: 2 3 2", "sizes: 2 -3 2", "numbers"),
        ("sizes: 2 3 2", "sizes: 65536 65536 65536", "2^31 voxels"),
        ("sizes: 2 3 2", "sizes: 18446744073709551615 2 2", "2^31 voxels"),
        ("sizes: 2 3 2", "sizes: 1024 1024 1024", "2147483648 bytes"),
        ("sizes: 2 3 2", "sizes: 2 3 3", "36 bytes"),
        ("dimension: 3", "dimension: 4", "3 sizes of 4 axes"),
        ("dimension: 3", "dimension: 99999999999999999999", "a number"),
        ("(0,0,2)", "none", "2 axes in space"),
        ("(0,0,2)", "(0,0,nan)", "independent directions"),
        ("(0,0,2)", "(0,0,0)", "independent directions"),
        ("(0,0,2)", "(1,0,0)", "independent directions"),
        ("(0,0,2)", "(0,0)", "vectors such as"),
        ("(0,0,2)", "(0,0,2", "vectors such as"),
        ("(0,0,2)", "(0,0,2) (0,0,3)", "of 4 axes"),
        ("space directions: (0.5,0,0) (0,0.7,0) (0,0,2)\n", "", "no voxel size"),
        ("space origin: (10,20,-30)", "space origin: 10 20 30", "a vector"),
        ("space: left-posterior-superior", "space: left-posterior-superior-time", "three axes"),
        ("kinds: domain", "space units: \"m\" \"m\" \"m\"\nkinds: domain", "in mm"),
        ("kinds: domain", "byte skip: -2\nkinds: domain", "-1 or more"),
        ("kinds: domain", "byte skip: 9223372036854775807\nkinds: domain", "cut short"),
        ("kinds: domain", "line skip: 18446744073709551615\nkinds: domain", "fewer lines"),
        ("kinds: domain", "type: int\nkinds: domain", "two different fields `type`"),
        ("kinds: domain", "what is this\nkinds: domain", "`field: value`"),
        ("kinds: domain", "data file: missing.raw\nkinds: domain", "copy both files"),
        ("kinds: domain", "data file: /dev/zero\nkinds: domain", "no regular file"),
        ("kinds: domain", "data file: slice%03d.raw 1 9 1\nkinds: domain", "one data file"),
        ("kinds: domain", "data file: LIST\nkinds: domain", "one data file"),
        ("NRRD0004", "NRRD0009", "NRRD0001 to NRRD0005"),
        ("Segment0_Name:=liver\n\n", "", "no empty line"),
    ] {
        let good = nrrd("short", "little", "raw", "");
        assert!(good.contains(from), "{from}");
        let body: &[u8] = if words == "no empty line" { &[] } else { &raw };
        let path = write(&dir, "bad.nrrd", &[good.replacen(from, to, 1).as_bytes(), body]);
        let e = open(&path).map(|v| v.geometry).expect_err(to).to_string();
        assert!(e.contains(words) && !e.contains('\n'), "{to}: {e}");
    }
    let mha = "ObjectType = Image\nNDims = 3\nDimSize = 2 3 2\nElementSpacing = 1 1 1\nOffset = 0 0 0\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n\
               ElementType = MET_SHORT\nElementDataFile = LOCAL\n";
    for (from, to, words) in [
        ("= Image", "= Mesh", "Image"),
        ("NDims = 3", "NDims = 2", "one size an axis"),
        ("NDims = 3\nDimSize = 2 3 2", "NDims = 2\nDimSize = 2 3", "three axes"),
        ("DimSize = 2 3 2", "DimSize = 2 3 x", "numbers"),
        ("DimSize = 2 3 2", "DimSize = 4294967296 4294967296 2", "2^31 voxels"),
        ("ElementSpacing = 1 1 1\n", "", "no voxel size"),
        ("ElementSpacing = 1 1 1", "ElementSpacing = 1 1 0", "independent directions"),
        ("ElementSpacing = 1 1 1", "ElementSpacing = 1 1", "2 numbers"),
        ("MET_SHORT", "MET_SHORT_ARRAY", "scalar type"),
        ("Offset", "ElementNumberOfChannels = 3\nOffset", "split the channels"),
        ("Offset", "BinaryData = False\nOffset", "voxels as text"),
        ("Offset", "CompressedData = maybe\nOffset", "True or False"),
        ("Offset", "ElementToIntensityFunctionSlope = 2\nOffset", "HU as voxels"),
        ("Offset", "HeaderSize = -7\nOffset", "-1 or more"),
        ("LOCAL", "LIST", "one file"),
        ("LOCAL", "missing.raw", "copy both files"),
        ("ElementDataFile = LOCAL\n", "", "without ElementDataFile"),
        ("Offset = 0 0 0", "Offset", "`Key = Value`"),
    ] {
        let body: &[u8] = if words.starts_with("without") { &[] } else { &raw };
        let path = write(&dir, "bad.mha", &[mha.replacen(from, to, 1).as_bytes(), body]);
        let e = open(&path).map(|v| v.geometry).expect_err(to).to_string();
        assert!(e.contains(words) && !e.contains('\n'), "{to}: {e}");
    }
}

#[test]
fn voxels_that_are_not_there_or_no_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let head = |kind: &str, encoding: &str| nrrd(kind, "little", encoding, "");
    let packed = gzip(&[7u8; 24]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut gzip", [head("short", "gzip").as_bytes(), &packed[..packed.len() / 2]].concat(), "damaged deflated voxels"),
        ("short gzip", [head("short", "gzip").as_bytes(), &gzip(&[7; 20])].concat(), "damaged deflated voxels"),
        ("no gzip", [head("short", "gzip").as_bytes(), &[9; 24]].concat(), "damaged deflated voxels"),
        ("nothing", head("short", "gzip").into_bytes(), "0 bytes of voxels"),
        ("cut raw", [head("short", "raw").as_bytes(), &[0; 23]].concat(), "23 bytes of voxels"),
        ("nan", [head("float", "raw").as_bytes(), &[0xff; 48]].concat(), "12 of 12 voxels NaN"),
        ("twice", gzip(&[head("short", "gzip").as_bytes(), &packed].concat()), "gunzip"),
        (
            "bomb",
            // One MiB that says it were two GiB, and holds one.
            [head("short", "gzip").replace("sizes: 2 3 2", "sizes: 1024 1024 1024").as_bytes(), &gzip(&vec![0; 1 << 20]).repeat(1024)]
                .concat(),
            "1073741824 bytes of voxels",
        ),
    ];
    for (name, bytes, words) in cases {
        let path = write(&dir, name, &[&bytes]);
        let e = open(&path).map(|v| v.geometry).expect_err(name).to_string();
        assert!(e.contains(words), "{name}: {e}");
    }
}

#[test]
fn files_of_other_tools_lie_where_their_headers_say() {
    // Shape, spacing, first voxel's place in R, A, S.
    for (name, shape, spacing, origin) in [
        ("cip/ct-64.nrrd", [64, 64, 79], [4.171872, 4.171872, 3.98734177], [128.413806, 264.413806, -360.256329]),
        ("dcmqi_ct3slice/liver_seg.nrrd", [512, 512, 3], [0.810547, 0.810547, 1.0], [235.2, 226.8, -128.69]),
    ] {
        let Some(path) = shared(&format!("data/ct/{name}")) else { continue };
        let g = open(&path).unwrap().geometry;
        assert_eq!(g.shape, shape);
        for a in 0..3 {
            assert!((g.spacing_mm()[a] - spacing[a]).abs() < 1e-6 && (g.affine[a][3] - origin[a]).abs() < 1e-5, "{name}: {g:?}");
        }
    }
    let Some(dir) = shared("data/ct/cip") else { return };
    let ct = open(&dir.join("ct-64.nrrd")).unwrap();
    // Air outside, the masks of the lungs on lung.
    let lung = open_labels(&dir.join("wholeLung-64.nrrd")).unwrap();
    let inside: Vec<f32> = ct.data.iter().zip(&lung.data).filter(|(_, l)| **l > 0).map(|(&v, _)| v).collect();
    let mean = inside.iter().map(|&v| v as f64).sum::<f64>() / inside.len() as f64;
    assert!(inside.len() > 1000 && (-900.0..-600.0).contains(&mean), "{} voxels of {mean} HU", inside.len());
}
