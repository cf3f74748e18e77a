//! Broken NRRD and MetaImage files, or broken data lists, by the hundred thousand: none may end in a panic.
//!
//! `cargo run --release -p panscreen-envs --example fuzz_nrrd -- [--format nrrd|list] [--executions N] [--seed S]`
//!
//! Good inputs are changed by a seeded generator, so a failure comes again with the same seed. Every input that panics is printed as an escaped text.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use panscreen_envs::dataset::{Folder, read_list};
use panscreen_envs::{io, rng};
use rand::RngExt;

/// What numbers become.
const NUMBERS: [&str; 16] = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "255",
    "256",
    "65536",
    "2147483647",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e999",
    "-1e-320",
    "nan",
    "",
];

/// Reads a file; whether it could be used.
type Run = fn(&Path) -> bool;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut format, mut executions, mut seed) = ("nrrd".to_owned(), 200_000u64, 1u64);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--format" => format = value,
            "--executions" => executions = value.parse()?,
            "--seed" => seed = value.parse()?,
            _ => return Err(format!("unknown option {arg}").into()),
        }
    }
    let dir = std::env::temp_dir().join(format!("panscreen_fuzz_{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let (corpus, run): (Vec<Vec<u8>>, Run) = match format.as_str() {
        "nrrd" => (scans(&dir)?, |path| {
            let volume = io::read(path);
            let labels = io::read_labels(path, None);
            let header = io::open_header(path);
            assert!(header.is_ok() || volume.is_err(), "a scan that can be read has a place");
            volume.is_ok() || labels.is_ok()
        }),
        "list" => (lists(), |path| read_list(path, None, &Folder::default(), false).is_ok()),
        other => return Err(format!("unknown format {other}, expected nrrd or list").into()),
    };
    std::panic::set_hook(Box::new(|_| {}));
    let path = dir.join("input");
    let (mut read, mut panics) = (0, 0);
    for index in 0..executions {
        let input = mutated(&corpus, seed, index);
        std::fs::write(&path, &input)?;
        match catch_unwind(AssertUnwindSafe(|| run(&path))) {
            Ok(good) => read += u64::from(good),
            Err(cause) => {
                panics += 1;
                let said = cause.downcast_ref::<String>().cloned().or_else(|| cause.downcast_ref::<&str>().map(|s| s.to_string()));
                println!("PANIC at {index}: {}\n{}", said.unwrap_or_default(), input.escape_ascii());
            }
        }
    }
    std::fs::remove_dir_all(&dir)?;
    println!(
        "{format}: {executions} executions with seed {seed}, {read} were read, {} refused, {panics} panics",
        executions - read - panics
    );
    if panics > 0 { Err("there were panics".into()) } else { Ok(()) }
}

/// An input of the corpus with one to six changes.
fn mutated(corpus: &[Vec<u8>], seed: u64, index: u64) -> Vec<u8> {
    let mut r = rng::stream(seed, "fuzz", 0, index);
    let mut input = corpus[r.random_range(0..corpus.len())].clone();
    for _ in 0..r.random_range(1..=6) {
        if input.is_empty() {
            break;
        }
        let at = r.random_range(0..input.len());
        match r.random_range(0..8) {
            0 => input[at] ^= 1 << r.random_range(0..8),
            1 => input[at] = r.random(),
            2 => input.truncate(at),
            3 => input.insert(at, [b'\n', b' ', b':', b'(', b'"', 0, 0xff, b'-'][r.random_range(0..8)]),
            4 => drop(input.remove(at)),
            5 => {
                // A line twice, somewhere else.
                let line: Vec<u8> = input[at..].split_inclusive(|&b| b == b'\n').next().unwrap_or_default().to_vec();
                let to = r.random_range(0..input.len());
                input.splice(to..to, line);
            }
            _ => {
                // The number at or after this place.
                let number = |b: &u8| b.is_ascii_digit() || *b == b'.' || *b == b'-';
                if let Some(start) = input[at..].iter().position(number).map(|n| n + at) {
                    let end = input[start..].iter().position(|b| !number(b)).map_or(input.len(), |n| n + start);
                    input.splice(start..end, NUMBERS[r.random_range(0..NUMBERS.len())].bytes());
                }
            }
        }
    }
    input
}

fn scans(dir: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    use std::io::Write;
    let raw: Vec<u8> = (0..120u8).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&raw)?;
    let gzip = gzip.finish()?;
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(&raw)?;
    let zlib = zlib.finish()?;
    std::fs::write(dir.join("v.raw"), &raw)?;
    let nrrd = |kind: &str, sizes: &str, encoding: &str, more: &str| {
        format!(
            "NRRD0004\n# a comment\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n\
             space directions: (0.5,0,0) (0,0.7,0.1) (0,0,2)\nkinds: domain domain domain\nendian: little\nencoding: {encoding}\n\
             space origin: (10,20,-30)\nSegment0_Name:=liver\n{more}\n"
        )
        .into_bytes()
    };
    let mha = |kind: &str, sizes: &str, compressed: &str, file: &str| {
        format!(
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = {compressed}\n\
             TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 10 20 -30\nElementSpacing = 0.5 0.7 2\nDimSize = {sizes}\nElementType = {kind}\n\
             ElementDataFile = {file}\n"
        )
        .into_bytes()
    };
    Ok(vec![
        [nrrd("uchar", "4 5 6", "raw", ""), raw.clone()].concat(),
        [nrrd("short", "3 4 5", "gzip", ""), gzip.clone()].concat(),
        [nrrd("float", "2 3 5", "raw", "byte skip: -1\n"), raw.clone()].concat(),
        [nrrd("int", "2 3 5", "gzip", "line skip: 0\nbyte skip: 0\n"), gzip].concat(),
        nrrd("double", "3 5 1", "raw", "data file: v.raw\n"),
        [mha("MET_UCHAR", "4 5 6", "False", "LOCAL"), raw].concat(),
        [mha("MET_SHORT", "3 4 5", "True", "LOCAL"), zlib].concat(),
        mha("MET_FLOAT", "2 3 5", "False", "v.raw"),
    ])
}

fn lists() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"name": "x", "labels": {"0": "background", "1": "tumour"}, "numTraining": 2, "training": [{"image": "./imagesTr/a.nii.gz", "label":
           "./labelsTr/a.nii.gz"}, {"image": "b_0000.nii.gz", "label": "b.nii.gz", "name": "b", "patient": "p1"}], "test": ["./imagesTs/c.nii.gz"]}"#,
        r#"{"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1}, "numTraining": 1, "file_ending": ".nii.gz"}"#,
        r#"{"training": [{"image": "a", "lesion_free": true}], "validation": [{"image": "é_ü/ö", "label": "y"}]}"#,
    ];
    texts.map(|t| t.as_bytes().to_vec()).to_vec()
}
