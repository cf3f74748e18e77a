//! Damaged inputs for the readers: `fuzz_io --format nifti --executions 200000 --seed 1`. Same seed, same inputs.
//!
//! Every execution takes a good input, damages it and reads it in every way. A panic is printed with the input that made it, and ends the run with
//! code 1. `scripts/fuzz.sh` runs all formats.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use panscreen_envs::io;
use panscreen_envs::rng::{RngExt, Stream, stream};
use panscreen_envs::volume::Geometry;

/// One format to damage.
struct Target {
    name: &'static str,
    /// Good inputs to start from.
    seeds: fn(&Path) -> Vec<Vec<u8>>,
    /// Put a damaged input into a folder and read it.
    run: fn(&Path, &[u8], &mut Stream),
}

const TARGETS: [Target; 2] =
    [Target { name: "nifti", seeds: nifti_seeds, run: read_nifti }, Target { name: "gzip", seeds: gzip_seeds, run: read_scan }];

fn main() {
    let (mut format, mut executions, mut seed) = (String::new(), 200_000u64, 1u64);
    let mut args = std::env::args().skip(1);
    while let Some(key) = args.next() {
        let value = args.next().unwrap_or_default();
        match key.as_str() {
            "--format" => format = value,
            "--executions" => executions = value.parse().unwrap_or_else(|_| usage()),
            "--seed" => seed = value.parse().unwrap_or_else(|_| usage()),
            _ => usage(),
        }
    }
    let Some(target) = TARGETS.iter().find(|t| t.name == format) else { usage() };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let seeds = (target.seeds)(dir.path());
    for execution in 0..executions {
        let mut r = stream(seed, target.name, 0, execution);
        let input = damaged(&seeds[r.random_range(0..seeds.len())], &mut r);
        if catch_unwind(AssertUnwindSafe(|| (target.run)(dir.path(), &input, &mut r))).is_err() {
            let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
            eprintln!("{format}: execution {execution} of seed {seed} panicked on {} bytes: {hex}", input.len());
            std::process::exit(1);
        }
    }
    println!("{format}: {executions} executions, seed {seed}, no panic");
}

fn usage() -> ! {
    let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    eprintln!("fuzz_io --format {} [--executions N] [--seed S]", names.join("|"));
    std::process::exit(2);
}

/// Numbers at which arithmetic breaks, in every width that fits.
const EDGES: [u64; 12] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// Up to eight changes: bytes, numbers at their edges, floats that are none, and pieces cut out, doubled or moved.
fn damaged(good: &[u8], r: &mut Stream) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..r.random_range(1..=8) {
        if bytes.is_empty() {
            return bytes;
        }
        // Headers come first and matter most.
        let reach = if r.random() { bytes.len() } else { bytes.len().min(600) };
        let at = r.random_range(0..reach);
        match r.random_range(0..8) {
            0 => bytes[at] = r.random(),
            1 => bytes[at] ^= 1 << r.random_range(0..8),
            2 | 3 => {
                let mut number = EDGES[r.random_range(0..EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][r.random_range(0..4)];
                if r.random() {
                    number[..width].reverse();
                }
                let room = width.min(bytes.len() - at);
                bytes[at..at + room].copy_from_slice(&number[..room]);
            }
            4 => {
                let float = [f32::NAN, f32::INFINITY, -1.0, 0.0, 1e-38, 3e38, 1e9][r.random_range(0..7)].to_le_bytes();
                let room = 4.min(bytes.len() - at);
                bytes[at..at + room].copy_from_slice(&float[..room]);
            }
            5 => bytes.truncate(at),
            6 => drop(bytes.drain(at..bytes.len().min(at + r.random_range(1..64)))),
            _ => {
                let piece = bytes[at..bytes.len().min(at + r.random_range(1..64))].to_vec();
                let to = r.random_range(0..=bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("memory is written");
    packer.finish().expect("memory is written")
}

/// Small scans of both versions, in both byte orders and several types.
fn nifti_seeds(dir: &Path) -> Vec<Vec<u8>> {
    let path = dir.join("seed.nii.gz");
    let grid = Geometry::ras([5, 4, 3], [0.8, 0.9, 2.5], [-10.0, 20.0, 30.0]);
    let labels: Vec<u8> = (0..60).map(|i| u8::from(i > 40)).collect();
    let mut seeds = Vec::new();
    let mut take = || {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&path).expect("the seed was written");
        std::io::copy(&mut flate2::read::GzDecoder::new(file), &mut bytes).expect("the seed is good");
        seeds.push(bytes);
    };
    io::write_labels(&path, &labels, &grid).expect("the seed can be written");
    take();
    let hu: Vec<f32> = (0..60).map(|i| i as f32 * 30.0 - 1000.0).collect();
    io::write_probability(&path, &hu, &grid).expect("the seed can be written");
    take();
    let second = nifti2(&grid, &labels);
    seeds.extend([swapped(&seeds[1]), second]);
    seeds
}

/// The float32 seed with every number of its header and voxels turned.
fn swapped(little: &[u8]) -> Vec<u8> {
    let mut big = little.to_vec();
    let fields = [
        (0, 4, 1),
        (32, 4, 1),
        (36, 2, 1),
        (40, 2, 8),
        (56, 4, 3),
        (68, 2, 4),
        (76, 4, 11),
        (120, 2, 1),
        (124, 4, 6),
        (252, 2, 2),
        (256, 4, 18),
    ];
    for (at, size, count) in fields {
        big[at..at + size * count].chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    big[352..].chunks_exact_mut(4).for_each(<[u8]>::reverse);
    big
}

fn nifti2(grid: &Geometry, labels: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 544];
    let mut put = |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
    put(0, &540i32.to_le_bytes());
    put(4, b"n+2\0\r\n\x1a\n");
    put(12, &2i16.to_le_bytes());
    put(14, &8i16.to_le_bytes());
    put(16, &3i64.to_le_bytes());
    for a in 0..3 {
        put(24 + 8 * a, &(grid.shape[a] as i64).to_le_bytes());
        put(112 + 8 * a, &grid.spacing_mm()[a].to_le_bytes());
    }
    put(168, &544i64.to_le_bytes());
    put(348, &1i32.to_le_bytes());
    grid.affine.as_flattened().iter().enumerate().for_each(|(i, v)| put(400 + 8 * i, &v.to_le_bytes()));
    bytes.extend(labels);
    bytes
}

fn gzip_seeds(dir: &Path) -> Vec<Vec<u8>> {
    let plain = nifti_seeds(dir);
    let members = [gz(&plain[1][..300]), gz(&plain[1][300..])].concat();
    plain.iter().map(|bytes| gz(bytes)).chain([members]).collect()
}

/// As a single file, as either half of a pair, or gzipped after the damage was done.
fn read_nifti(dir: &Path, input: &[u8], r: &mut Stream) {
    match r.random_range(0..4) {
        0 => {
            let cut = input.len().min(if input.first() == Some(&28) { 540 } else { 348 });
            let (header, image) = input.split_at(cut);
            std::fs::write(dir.join("pair.img"), image).expect("the temporary folder can be written");
            for magic in [&b"ni1\0"[..], b"ni2\0"] {
                let mut header = header.to_vec();
                let at = if magic == b"ni1\0" { 344 } else { 4 };
                if let Some(place) = header.get_mut(at..at + 4) {
                    place.copy_from_slice(magic);
                }
                std::fs::write(dir.join("pair.hdr"), header).expect("the temporary folder can be written");
                read(&dir.join("pair.hdr"), dir);
                read(&dir.join("pair.img"), dir);
            }
        }
        1 => read_scan(dir, &gz(input), r),
        _ => read_scan(dir, input, r),
    }
}

fn read_scan(dir: &Path, input: &[u8], _: &mut Stream) {
    let path = dir.join("input");
    std::fs::write(&path, input).expect("the temporary folder can be written");
    read(&path, dir);
}

/// In every way, beside a good scan (the last seed written) too.
fn read(path: &Path, dir: &Path) {
    let _ = io::open_header(path);
    let _ = io::open_labels(path);
    let report = io::inspect(path, None);
    assert!(report.verdict == io::Grade::Ok || !report.reasons.is_empty());
    let with_mask = io::inspect(&dir.join("seed.nii.gz"), Some(path));
    assert!(with_mask.voxels_sha256.is_some());
}
