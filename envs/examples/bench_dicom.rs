//! CPU seconds and peak memory of reading a series of 512 uncompressed slices of 512x512 pixels.
//!
//! `cargo run --release -p panscreen-envs --example bench_dicom -- [SLICES] [REPEATS] [FOLDER]`; Linux only (it reads /proc). The series is
//! generated, or that of FOLDER is read. Each measurement is a fresh process; files are in the page cache.

#[allow(dead_code)]
#[path = "../src/io/dicom/tags.rs"]
mod tags;
#[allow(dead_code)]
#[path = "../src/io/dicom/tests/writer.rs"]
mod writer;

use std::path::{Path, PathBuf};
use std::time::Instant;

use panscreen_envs::io;
use writer::CtSlice;

const SIDE: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let slices: usize = args.next().map_or(Ok(512), |v| v.parse())?;
    let repeats: usize = args.next().map_or(Ok(5), |v| v.parse())?;
    match args.next() {
        Some(folder) if repeats == 0 => return measure(Path::new(&folder)),
        Some(folder) => run(Path::new(&folder), repeats),
        None => {
            let folder = std::env::temp_dir().join(format!("bench_dicom_{}", std::process::id()));
            std::fs::create_dir_all(&folder)?;
            (0..slices).for_each(|k| slice(k).write(&folder.join(format!("{:04}", k * 37 % slices))));
            run(&folder, repeats);
            std::fs::remove_dir_all(folder)?;
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

fn run(folder: &Path, repeats: usize) {
    let me = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("bench_dicom"));
    let mut rows: Vec<[f64; 3]> = Vec::new();
    for _ in 0..repeats {
        let out = std::process::Command::new(&me).args(["0", "0"]).arg(folder).output();
        let text = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        match text.split_whitespace().filter_map(|v| v.parse().ok()).collect::<Vec<f64>>().try_into() {
            Ok(row) => rows.push(row),
            Err(_) => return eprintln!("a measurement failed: {text}"),
        }
    }
    let median = |i: usize| {
        let mut column: Vec<f64> = rows.iter().map(|r| r[i]).collect();
        column.sort_by(f64::total_cmp);
        column[column.len() / 2]
    };
    println!("{}, {} thread(s), median of {repeats}", folder.display(), rayon::current_num_threads());
    println!("CPU {:.2} s, wall {:.2} s, peak {:.0} MB", median(0), median(1), median(2));
}

/// CPU seconds, wall seconds, peak MB.
fn measure(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (cpu, start) = (cpu_seconds()?, Instant::now());
    let volume = io::open(folder)?;
    println!("{} {} {}", cpu_seconds()? - cpu, start.elapsed().as_secs_f64(), peak_megabytes()?);
    assert!(volume.data.iter().any(|&v| v > 0.0), "the scan isn't empty");
    Ok(())
}

fn cpu_seconds() -> std::io::Result<f64> {
    // Nanoseconds on a CPU, summed over the threads that live; the pool's threads live as long as the process.
    let mut total = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        total += text.split(' ').next().and_then(|v| v.parse::<f64>().ok()).unwrap_or(f64::NAN) * 1e-9;
    }
    Ok(total)
}

fn peak_megabytes() -> std::io::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    Ok(line.split_whitespace().nth(1).and_then(|v| v.parse::<f64>().ok()).unwrap_or(f64::NAN) * 1024.0 / 1e6)
}
