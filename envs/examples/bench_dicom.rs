//! CPU seconds and peak memory of reading a series of 512 uncompressed slices of 512x512 pixels.
//!
//! `cargo run --release -p panscreen-envs --example bench_dicom -- [SLICES] [REPEATS] [FOLDER]`; Linux only (it reads /proc). The series is
//! generated, or that of FOLDER is read. Each measurement is a fresh process; files are in the page cache.

mod process;
#[expect(dead_code, reason = "the reader's own list; an example uses some of it")]
#[path = "../src/io/dicom/tags.rs"]
mod tags;
#[expect(dead_code, reason = "the tests' own writer; an example uses some of it")]
#[path = "../src/io/dicom/tests/writer.rs"]
mod writer;

use std::path::Path;
use std::time::Instant;

use panscreen_envs::io;
use process::{cpu_seconds, peak_megabytes};
use writer::CtSlice;

const SIDE: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let slices: usize = args.next().map_or(Ok(512), |v| v.parse())?;
    let repeats: usize = args.next().map_or(Ok(5), |v| v.parse())?;
    match args.next() {
        Some(folder) if repeats == 0 => return measure(Path::new(&folder)),
        Some(folder) => run(Path::new(&folder), repeats)?,
        None => {
            let folder = std::env::temp_dir().join(format!("bench_dicom_{}", std::process::id()));
            std::fs::create_dir_all(&folder)?;
            (0..slices).for_each(|k| slice(k).write(&folder.join(format!("{:04}", k * 37 % slices))));
            let ran = run(&folder, repeats);
            std::fs::remove_dir_all(folder)?;
            ran?;
        }
    }
    Ok(())
}

fn slice(k: usize) -> CtSlice {
    let mut state = k as u64 + 1;
    let noise = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 53) as u16
    };
    CtSlice::at(0.75 * k as f64, 0)
        .with(tags::ROWS, SIDE as u16)
        .with(tags::COLUMNS, SIDE as u16)
        .with(tags::RESCALE_INTERCEPT, "-1024")
        .with(tags::PIXEL_PADDING_VALUE, 63536)
        .words(&(0..SIDE * SIDE).map(noise).collect::<Vec<u16>>())
}

fn run(folder: &Path, repeats: usize) -> Result<(), String> {
    let [cpu, wall, peak] = process::medians(&["0".into()], folder, repeats)?;
    println!("{}, {} thread(s), median of {repeats}", folder.display(), rayon::current_num_threads());
    println!("CPU {cpu:.2} s, wall {wall:.2} s, peak {peak:.0} MB");
    Ok(())
}

/// CPU seconds, wall seconds, peak MB.
fn measure(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (cpu, start) = (cpu_seconds()?, Instant::now());
    let volume = io::open(folder)?;
    println!("{} {} {}", cpu_seconds()? - cpu, start.elapsed().as_secs_f64(), peak_megabytes()?);
    assert!(volume.data.iter().any(|&v| v > 0.0), "the scan isn't empty");
    Ok(())
}
