//! CPU seconds and peak memory of reading, resampling and windowing one 512x512x200 int16 `.nii.gz` (0.8x0.8x2.5 mm to 1x1x3 mm).
//!
//! `cargo run --release -p panscreen-envs --example bench_preprocess -- [WINDOWS] [REPEATS] [FILE | sagittal | coronal]`; Linux only (it reads
//! /proc). `sagittal` and `coronal` store the generated scan with permuted axes, as such acquisitions are.
//! The generated scan is a body in air with tissue and scanner noise, so that it packs as real scans do. The peak is that of one
//! whole run in a fresh process. `scripts/bench_preprocess.py` does the same in Python.

mod process;

use std::path::Path;
use std::time::Instant;

use panscreen_envs::io;
use panscreen_envs::volume::{Geometry, PrepareConfig, Volume, prepare};
use process::{cpu_seconds, peak_megabytes};

const SHAPE: [usize; 3] = [512, 512, 200];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let windows: usize = args.next().map_or(Ok(1), |v| v.parse())?;
    let repeats: usize = args.next().map_or(Ok(5), |v| v.parse())?;
    match args.next() {
        Some(file) if repeats == 0 => return measure(Path::new(&file), windows),
        Some(file) if order(&file).is_none() => run(Path::new(&file), windows, repeats)?,
        named => {
            let dir = std::env::temp_dir().join(format!("bench_preprocess_{}", std::process::id()));
            let file = dir.join("scan.nii.gz");
            let axes = named.and_then(|n| order(&n)).unwrap_or([0, 1, 2]);
            io::write_volume(&file, &stored_as(scan(), axes))?;
            let ran = run(&file, windows, repeats);
            std::fs::remove_dir_all(dir)?;
            ran?;
        }
    }
    Ok(())
}

fn run(file: &Path, windows: usize, repeats: usize) -> Result<(), Box<dyn std::error::Error>> {
    let megabytes = std::fs::metadata(file)?.len() as f64 / 1e6;
    println!("{} ({megabytes:.1} MB), {windows} window(s), {} thread(s)", file.display(), rayon::current_num_threads());
    let [open, prepare, cpu, wall, peak, labels, probability] = process::medians(&[windows.to_string()], file, repeats)?;
    println!("median of {repeats}: open {open:.2} s, prepare {prepare:.2} s; CPU {cpu:.2} s, wall {wall:.2} s; peak {peak:.0} MB");
    println!("way back (wall): labels {labels:.2} s, probability {probability:.2} s");
    Ok(())
}

/// Wall seconds of `open` and of `prepare`, CPU seconds and wall seconds of both, peak MB; then wall seconds of the two ways back.
fn measure(file: &Path, windows: usize) -> Result<(), Box<dyn std::error::Error>> {
    let config = PrepareConfig {
        spacing_mm: Some([1.0, 1.0, 3.0]),
        windows_hu: [[-175.0, 250.0], [-900.0, 650.0]][..windows].to_vec(),
        crop_foreground: true,
        pad_to: [96, 96, 64],
    };
    let (cpu, start) = (cpu_seconds()?, Instant::now());
    let volume = io::open(file)?;
    let opened = start.elapsed().as_secs_f64();
    let prepared = prepare(volume, None, &config)?;
    let wall = start.elapsed().as_secs_f64();
    let (cpu, peak) = (cpu_seconds()? - cpu, peak_megabytes()?);
    let voxels = prepared.shape.iter().product();
    let start = Instant::now();
    let labels = prepared.way_back.restore_labels(&vec![1; voxels]);
    let labels_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let probability = prepared.way_back.restore_probability(&prepared.image[..voxels]);
    let probability_s = start.elapsed().as_secs_f64();
    assert_eq!(labels.len(), probability.len());
    println!("{opened} {} {cpu} {wall} {peak} {labels_s} {probability_s}", wall - opened);
    assert!(prepared.image.iter().any(|&v| v > 0.0), "the scan has foreground");
    Ok(())
}

/// Which axis (x, y, z) each stored one is, finest slices last.
fn order(name: &str) -> Option<[usize; 3]> {
    match name {
        "sagittal" => Some([1, 2, 0]),
        "coronal" => Some([0, 2, 1]),
        _ => None,
    }
}

/// The same scan with its axes stored in another order.
fn stored_as(volume: Volume, axes: [usize; 3]) -> Volume {
    let shape = axes.map(|a| SHAPE[a]);
    let strides = [SHAPE[1] * SHAPE[2], SHAPE[2], 1];
    let [s0, s1, s2] = axes.map(|a| strides[a]);
    let mut data = Vec::with_capacity(volume.data.len());
    for i in 0..shape[0] {
        for j in 0..shape[1] {
            data.extend((0..shape[2]).map(|k| volume.data[i * s0 + j * s1 + k * s2]));
        }
    }
    let affine = volume.geometry.affine.map(|row| [row[axes[0]], row[axes[1]], row[axes[2]], row[3]]);
    Volume { data, geometry: Geometry { shape, affine, stored: None } }
}

/// An elliptic body with lungs, tissue in soft steps and noise of some 20 HU, in air.
fn scan() -> Volume {
    let [nx, ny, nz] = SHAPE;
    let mut geometry = Geometry::ras(SHAPE, [0.8, 0.8, 2.5], [-204.8, -204.8, 0.0]);
    // Left, posterior, superior, as most scanners store it.
    for a in 0..2 {
        geometry.affine[a][a] = -0.8;
        geometry.affine[a][3] = 204.0;
    }
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (0..4).map(|b| (state >> (24 + 10 * b) & 1023) as f32).sum::<f32>() / 1023.0 - 2.0
    };
    let mut data = Vec::with_capacity(nx * ny * nz);
    for x in 0..nx {
        for y in 0..ny {
            for z in 0..nz {
                let (u, v) = ((x as f32 - 256.0) / 220.0, (y as f32 - 256.0) / 150.0);
                let r = u * u + v * v;
                let lung = (u.abs() - 0.45).powi(2) * 8.0 + v * v * 3.0 < 1.0 && z > 120;
                let tissue = 40.0 + 60.0 * ((x / 24 + y / 20 + z / 9) % 3) as f32;
                data.push(match (r < 1.0, lung) {
                    (false, _) => -1000.0 + 8.0 * noise(),
                    (true, true) => -850.0 + 60.0 * noise(),
                    (true, false) => tissue - 140.0 * f32::from(r > 0.85) + 34.0 * noise(),
                });
            }
        }
    }
    Volume { data, geometry }
}
