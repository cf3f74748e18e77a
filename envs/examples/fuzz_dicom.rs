//! Damages DICOM files at random and reads them: nothing may panic, and nothing that is refused may have allocated more than 4 times its size + 64 MiB.
//!
//! `cargo run --release -p panscreen-envs --example fuzz_dicom -- [--executions N] [--seed S] [--first I] [--corpus FOLDER]`
//!
//! Execution `I` of a seed is always the same, so `--first I --executions 1` repeats a finding. The corpus is generated; files of FOLDER join it.

#[expect(dead_code, reason = "the reader's own list; an example uses some of it")]
#[path = "../src/io/dicom/tags.rs"]
mod tags;
#[expect(dead_code, reason = "the tests' own writer; an example uses some of it")]
#[path = "../src/io/dicom/tests/writer.rs"]
mod writer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use panscreen_envs::io;
use panscreen_envs::rng;
use panscreen_envs::volume::Geometry;
use rand::RngExt;
use tags::*;
use writer::{CtSlice, Dcm, Value, ds};

/// Counts bytes that are held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came; only numbers are added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut executions, mut seed, mut first, mut corpus) = (200_000u64, 1u64, 0u64, corpus());
    let mut args = std::env::args().skip(1);
    while let (Some(key), Some(value)) = (args.next(), args.next()) {
        match key.as_str() {
            "--executions" => executions = value.parse()?,
            "--seed" => seed = value.parse()?,
            "--first" => first = value.parse()?,
            "--corpus" => {
                let mut paths: Vec<_> = std::fs::read_dir(value)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
                paths.sort();
                for path in paths {
                    corpus.push(std::fs::read(path)?);
                }
            }
            _ => return Err(format!("{key} is no option of this program").into()),
        }
    }
    let folder = std::env::temp_dir().join(format!("fuzz_dicom_{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    // Good slices beside the damaged one, in the executions that read a folder.
    (1..4).for_each(|k| CtSlice::at(2.0 * k as f64, 0).write(&folder.join(format!("good{k}"))));
    // What decoders panic with is caught inside the readers; only what comes out of them counts.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut read, mut findings) = (0u64, 0u64);
    let start = std::time::Instant::now();
    for i in first..first + executions {
        let bytes = damaged(&corpus, seed, i);
        match execute(&folder, &bytes, i % 8 == 0) {
            Ok(good) => read += u64::from(good),
            Err(found) => {
                findings += 1;
                println!("execution {i}: {found}");
            }
        }
    }
    std::fs::remove_dir_all(folder)?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "seed {seed}: {executions} executions in {seconds:.0} s, {read} read, {} refused, {findings} findings",
        executions - read - findings
    );
    if findings == 0 { Ok(()) } else { Err("there are findings".into()) }
}

/// Whether something was read; what is wrong where there was a panic or too much memory.
fn execute(folder: &Path, bytes: &[u8], whole_folder: bool) -> Result<bool, String> {
    let path = folder.join("damaged");
    std::fs::write(&path, bytes).map_err(|e| e.to_string())?;
    let scan = Geometry::ras([8, 8, 4], [1.0; 3], [-8.0; 3]);
    let target = if whole_folder { folder } else { path.as_path() };
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let got = catch_unwind(AssertUnwindSafe(|| (io::read(target).is_ok(), io::read_labels(&path, Some(&scan)).is_ok())));
    let used = PEAK.load(Relaxed) - before;
    match got {
        Err(_) => Err("a panic".into()),
        Ok((false, false)) if used > 4 * (bytes.len() + 4096) + (64 << 20) => Err(format!("{used} bytes for a file of {}", bytes.len())),
        Ok((volume, labels)) => Ok(volume || labels),
    }
}

fn damaged(corpus: &[Vec<u8>], seed: u64, index: u64) -> Vec<u8> {
    let mut random = rng::stream(seed, "fuzz_dicom", 0, index);
    let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(1..8) {
        if bytes.is_empty() {
            break;
        }
        let at = random.random_range(0..bytes.len());
        let to = (at + random.random_range(1..64)).min(bytes.len());
        match random.random_range(0..8) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => {
                let word = [0u32, 1, 8, 255, 65535, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF][random.random_range(0..9)];
                let count = random.random_range(1..5).min(bytes.len() - at);
                bytes[at..at + count].copy_from_slice(&word.to_le_bytes()[..count]);
            }
            3 => drop(bytes.drain(at..to)),
            4 => {
                let copy = bytes[at..to].to_vec();
                let into = random.random_range(0..=bytes.len());
                bytes.splice(into..into, copy);
            }
            5 => bytes.truncate(at),
            6 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..other.len());
                let part = &other[from..(from + to - at).min(other.len())];
                bytes.splice(at..to, part.iter().copied());
            }
            // Text of numbers: another digit, sign or separator.
            _ => bytes[at] = b"0123456789-.e\\ "[random.random_range(0..15)],
        }
    }
    bytes
}

fn item(tag: u32, value: impl Into<Value>) -> Vec<Dcm> {
    vec![Dcm::new("").with(tag, value)]
}

fn corpus() -> Vec<Vec<u8>> {
    let slice = CtSlice::at(0.0, 0).with(PIXEL_PADDING_VALUE, 63536);
    let mut files = Vec::new();
    for syntax in ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"] {
        for undefined in [false, true] {
            let mut slice = slice.clone().with(MODALITY_LUT_SEQUENCE, vec![Dcm::new("").with(0x0040_A30A, "x"), Dcm::new("")]);
            (slice.dcm.syntax, slice.dcm.undefined) = (syntax, undefined);
            files.push(slice.dcm.bytes());
        }
    }
    let mut bare = slice.clone();
    bare.dcm.bare = true;
    files.push(bare.dcm.bytes());
    let packed = |syntax, bytes: Vec<u8>| {
        let mut slice = slice.clone().with(PIXEL_DATA, Value::Fragments(vec![bytes]));
        slice.dcm.syntax = syntax;
        slice.dcm.bytes()
    };
    // Two parts of 12 zeros and sevens.
    let mut rle = vec![0; 64];
    [2u32, 64, 67].into_iter().enumerate().for_each(|(i, word)| rle[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes()));
    files.push(packed("1.2.840.10008.1.2.5", [rle, vec![0xF5, 0, 0x80, 0xF5, 7, 0x80]].concat()));
    // A lossless JPEG of 4x3 equal pixels: one code of one bit, for a difference of 0.
    let mut jpeg = vec![0xFF, 0xD8, 0xFF, 0xC3, 0, 11, 16, 0, 3, 0, 4, 1, 1, 0x11, 0, 0xFF, 0xC4, 0, 20, 0, 1];
    jpeg.extend([0; 16]);
    jpeg.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, 1, 0, 0, 0, 0x0F, 0xFF, 0xD9]);
    files.push(packed("1.2.840.10008.1.2.4.70", jpeg));
    files.push(packed("1.2.840.10008.1.2.4.90", jpeg_2000()));
    let planes = |k: usize| Dcm::new("").with(PLANE_POSITION_SEQUENCE, item(IMAGE_POSITION, ds(&[-8.0, -8.0, 2.0 * k as f64])));
    let measures = Dcm::new("").with(PIXEL_SPACING, "1\\1").with(SLICE_THICKNESS, "2");
    let shared = Dcm::new("")
        .with(PIXEL_MEASURES_SEQUENCE, vec![measures])
        .with(PLANE_ORIENTATION_SEQUENCE, item(IMAGE_ORIENTATION, "1\\0\\0\\0\\1\\0"));
    let frames = slice.dcm.clone().with(NUMBER_OF_FRAMES, "3").with(SHARED_FUNCTIONAL_GROUPS, vec![shared]);
    let enhanced = frames.clone().with(PER_FRAME_FUNCTIONAL_GROUPS, (0..3).map(planes).collect::<Vec<_>>());
    files.push(enhanced.clone().with(PIXEL_DATA, vec![3u8; 72]).bytes());
    let seg = frames.with(SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.66.4").with(MODALITY, "SEG").with(SEGMENTATION_TYPE, "BINARY");
    let segment = |n: u16| Dcm::new("").with(SEGMENT_NUMBER, n).with(SEGMENT_LABEL, "lesion");
    let of = |k: usize| planes(k).with(SEGMENT_IDENTIFICATION_SEQUENCE, item(REFERENCED_SEGMENT_NUMBER, 1 + k as u16 % 2));
    let seg =
        seg.with(SEGMENT_SEQUENCE, vec![segment(1), segment(2)]).with(PER_FRAME_FUNCTIONAL_GROUPS, (0..3).map(of).collect::<Vec<_>>());
    let bits = |n: u16| seg.clone().with(BITS_ALLOCATED, n).with(BITS_STORED, n).with(HIGH_BIT, n - 1);
    files.push(bits(1).with(PIXEL_DATA, vec![0x5Au8; 6]).bytes());
    files.push(bits(8).with(SEGMENTATION_TYPE, "FRACTIONAL").with(PIXEL_DATA, vec![200u8; 36]).bytes());
    files.push(bits(8).with(SEGMENTATION_TYPE, "LABELMAP").with(PIXEL_DATA, vec![2u8; 36]).bytes());
    let contour = Dcm::new("").with(CONTOUR_GEOMETRIC_TYPE, "CLOSED_PLANAR").with(CONTOUR_DATA, "8\\8\\-8\\4\\8\\-8\\4\\4\\-8\\8\\4\\-8");
    let contours = Dcm::new("").with(REFERENCED_ROI_NUMBER, "1").with(CONTOUR_SEQUENCE, vec![contour.clone(), contour]);
    let rtstruct = Dcm::new("1.2.840.10008.1.2")
        .with(SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.481.3")
        .with(MODALITY, "RTSTRUCT")
        .with(STRUCTURE_SET_ROI_SEQUENCE, vec![Dcm::new("").with(ROI_NUMBER, "1").with(ROI_NAME, "GTV")])
        .with(ROI_CONTOUR_SEQUENCE, vec![contours]);
    files.push(rtstruct.bytes());
    files
}

/// The markers of a JPEG 2000 stream of 4x3 pixels, one tile, no decomposition, and an empty packet: all pixels at the middle of the range.
fn jpeg_2000() -> Vec<u8> {
    let mut out = vec![0xFF, 0x4F, 0xFF, 0x51, 0, 41, 0, 0];
    for word in [4u32, 3, 0, 0, 4, 3, 0, 0] {
        out.extend(word.to_be_bytes());
    }
    out.extend([0, 1, 15, 1, 1]);
    // COD: no precincts, one layer, no component transform; no decomposition, 64x64 blocks, 5/3. QCD: no quantisation, 1 guard bit.
    out.extend([0xFF, 0x52, 0, 12, 0, 0, 0, 1, 0, 0, 4, 4, 0, 1]);
    out.extend([0xFF, 0x5C, 0, 4, 0x20, 0x80]);
    out.extend([0xFF, 0x90, 0, 10, 0, 0, 0, 0, 0, 15, 0, 1, 0xFF, 0x93, 0]);
    out.extend([0xFF, 0xD9]);
    out
}
