//! `panscreen bench metrics`.

use std::path::PathBuf;

use clap::Args;
use panscreen_envs::io::write_atomic;
use panscreen_envs::metrics::statistics::describe::median;
use panscreen_envs::metrics::{Matching, Pair, SurfaceKind, match_lesions};
use panscreen_envs::rng::{RngExt, stream};
use serde::Serialize;

use super::super::error::Failure;
use super::super::output::table;
use super::super::{Context, Ended};
use crate::run::usage::{peak_memory_bytes, reset_peak_memory};

/// Dice, NSD at 2 mm with HD95, and components of two 512x512x200 lesion masks with scattered false positives, on one thread.
///
/// `python scripts/bench_metrics.py` runs it beside DeepMind's surface-distance and cc3d on the same masks.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Scattered false positives of 1 to 5 mm in radius.
    #[arg(long, value_name = "N", default_value_t = 300)]
    false_positives: usize,
    /// Times that everything is measured.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Write the reference and the predicted mask, a byte a voxel, for the same measurement with other programs.
    #[arg(long, value_name = "FILE")]
    masks: Option<PathBuf>,
}

const SHAPE: [usize; 3] = [512, 512, 200];
const SPACING_MM: [f64; 3] = [0.8, 0.8, 2.5];

#[derive(Debug, Serialize)]
struct Report {
    shape: [usize; 3],
    false_positives: usize,
    rows: Vec<Row>,
    /// Beyond the two masks, at the highest; `null` where the system does not tell.
    bytes_per_voxel: Option<f64>,
    results: Results,
}

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    threads: usize,
    /// CPU time of the thread that does the work; wall time where the system does not tell.
    seconds_median: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Results {
    dice: Option<f64>,
    nsd_2mm: Option<f64>,
    hd95_mm: Option<f64>,
    lesions: usize,
    lesions_hit: usize,
    findings: usize,
}

const STEPS: [&str; 4] = ["runs of voxels", "Dice", "NSD and HD95", "components and matching"];

pub fn run(args: MetricsArgs, context: &Context) -> Result<Ended, Failure> {
    let (reference, predicted) = masks(args.false_positives);
    if let Some(path) = &args.masks {
        write_atomic(path, &[reference.as_slice(), &predicted].concat())?;
    }
    reset_peak_memory();
    let before = peak_memory_bytes();
    let mut seconds: Vec<[f64; 5]> = Vec::new();
    let mut results = None;
    for _ in 0..args.rounds.max(1) {
        let (of, found) = measure(&reference, &predicted)?;
        seconds.push(of);
        results = Some(found);
    }
    let Some(results) = results else { return Ok(Ended::Done) };
    let beyond = peak_memory_bytes().zip(before).map(|(peak, before)| peak.saturating_sub(before) as f64 / reference.len() as f64);
    let row = |(i, name)| {
        let column: Vec<f64> = seconds.iter().map(|s| s[i]).collect();
        Row { name, threads: 1, seconds_median: median(&column).unwrap_or(f64::NAN) }
    };
    let rows = STEPS.into_iter().chain(["all"]).enumerate().map(row).collect();
    let report = Report { shape: SHAPE, false_positives: args.false_positives, rows, bytes_per_voxel: beyond, results };
    context.output.result(&report, text)?;
    Ok(Ended::Done)
}

/// Seconds of each step and of all, and what came out.
fn measure(reference: &[u8], predicted: &[u8]) -> Result<([f64; 5], Results), Failure> {
    let start = cpu_seconds();
    let mut last = start;
    let mut lap = || {
        let seconds = cpu_seconds() - last;
        last += seconds;
        seconds
    };
    let pair = Pair::new("bench", reference, predicted, SHAPE, SPACING_MM)?;
    let runs = lap();
    let dice = pair.overlap().dice();
    let overlap = lap();
    let distances = pair.distances(SurfaceKind::Surfels);
    let (nsd, hd95) = (distances.nsd(2.0), distances.hausdorff_percentile(95.0));
    let surfaces = lap();
    let found = match_lesions(&pair, Matching::default());
    let components = lap();
    let results = Results {
        dice: dice.value(),
        nsd_2mm: nsd.value(),
        hd95_mm: hd95.value(),
        lesions: found.lesions.len(),
        lesions_hit: found.hits(),
        findings: found.findings.as_ref().map_or(0, Vec::len),
    };
    Ok(([runs, overlap, surfaces, components, runs + overlap + surfaces + components], results))
}

/// CPU time of this thread; the wall's where the system does not tell.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let cpu = stat.split_ascii_whitespace().next().and_then(|ns| ns.parse::<f64>().ok());
    let wall = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    cpu.map_or_else(wall, |ns| ns / 1e9)
}

/// Eight lesions of 4 to 45 mm in radius, found a little beside their place, and scattered findings on none.
fn masks(false_positives: usize) -> (Vec<u8>, Vec<u8>) {
    let mut rng = stream(1, "bench_metrics", 0, 0);
    let mut draw = |low: f64, high: f64| low + (high - low) * rng.random::<f64>();
    let voxels: usize = SHAPE.iter().product();
    // Not `vec![0; n]`: pages that were never written would not count as memory, and cost nothing to read.
    let background = || (0..voxels).map(|i| std::hint::black_box((i == voxels) as u8)).collect::<Vec<u8>>();
    let (mut reference, mut predicted) = (background(), background());
    for radius_mm in [4.0, 6.0, 9.0, 12.0, 15.0, 20.0, 30.0, 45.0] {
        let centre = [draw(80.0, 430.0), draw(80.0, 430.0), draw(30.0, 170.0)];
        ball(&mut reference, centre, radius_mm);
        ball(&mut predicted, [centre[0] + draw(-4.0, 4.0), centre[1] + draw(-4.0, 4.0), centre[2] + 1.0], radius_mm * draw(0.8, 1.1));
    }
    for _ in 0..false_positives {
        ball(&mut predicted, [draw(0.0, 511.0), draw(0.0, 511.0), draw(0.0, 199.0)], draw(1.0, 5.0));
    }
    (reference, predicted)
}

fn ball(mask: &mut [u8], centre: [f64; 3], radius_mm: f64) {
    let [_, ny, nz] = SHAPE;
    let range = |a: usize| {
        let reach = (radius_mm / SPACING_MM[a]).ceil();
        (centre[a] - reach).max(0.0) as usize..((centre[a] + reach) as usize + 1).min(SHAPE[a])
    };
    for x in range(0) {
        for y in range(1) {
            for z in range(2) {
                let d: f64 = [x, y, z].iter().enumerate().map(|(a, &v)| ((v as f64 - centre[a]) * SPACING_MM[a]).powi(2)).sum();
                if d <= radius_mm * radius_mm {
                    mask[(x * ny + y) * nz + z] = 1;
                }
            }
        }
    }
}

fn text(r: &Report) -> String {
    let rows: Vec<[String; 2]> = r.rows.iter().map(|row| [row.name.to_owned(), format!("{:.3}", row.seconds_median)]).collect();
    let n = |v: Option<f64>| v.map_or("none".into(), |v| format!("{v:.6}"));
    let beyond = r.bytes_per_voxel.map_or("unknown".into(), |b| format!("{b:.2}"));
    let Results { dice, nsd_2mm, hd95_mm, lesions, lesions_hit, findings } = r.results;
    format!(
        "{}\n{beyond} bytes a voxel beyond the masks\nDice {}, NSD {}, HD95 {} mm; {lesions_hit} of {lesions} lesions hit, {findings} findings",
        table(["512x512x200, one thread", "CPU s, median"], &rows),
        n(dice),
        n(nsd_2mm),
        n(hd95_mm)
    )
}
