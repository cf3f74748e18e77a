//! Dice, NSD at 2 mm and components of two 512x512x200 lesion masks with scattered false positives, in CPU seconds.
//!
//! `cargo run --release -p panscreen-envs --example bench_metrics [false positives [file for the masks]]`, or, beside the Python packages,
//! `python scripts/bench_metrics.py`.

use panscreen_envs::metrics::{Matching, Pair, SurfaceKind, match_lesions};

const SHAPE: [usize; 3] = [512, 512, 200];
const SPACING_MM: [f64; 3] = [0.8, 0.8, 2.5];

/// Seconds of CPU time of the main thread so far (everything here runs on it), where the system tells.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).map_or(f64::NAN, |ns| ns / 1e9)
}

/// Largest memory of this process so far, in MiB.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
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

fn main() {
    let false_positives: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(300);
    let mut rng = panscreen_envs::rng::stream(1, "bench_metrics", 0, 0);
    let mut draw = |low: f64, high: f64| low + (high - low) * (panscreen_envs::rng::RngExt::random::<f64>(&mut rng));
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
    let masks_mib = peak_mib();
    for round in 0..3 {
        let start = cpu_seconds();
        let mut last = start;
        let mut lap = || {
            let seconds = cpu_seconds() - last;
            last += seconds;
            seconds
        };
        let Ok(pair) = Pair::new("bench", &reference, &predicted, SHAPE, SPACING_MM) else { return };
        let runs = lap();
        let dice = pair.overlap().dice();
        let dice_seconds = lap();
        let distances = pair.distances(SurfaceKind::Surfels);
        let (nsd, hd95) = (distances.nsd(2.0), distances.hausdorff_percentile(95.0));
        let nsd_seconds = lap();
        let found = match_lesions(&pair, Matching::default());
        let components_seconds = lap();
        println!(
            "round {round}: {:.3} CPU s (runs {runs:.3}, Dice {dice_seconds:.3}, NSD {nsd_seconds:.3}, components {components_seconds:.3})",
            last - start
        );
        let findings = found.findings.as_ref().map_or(0, Vec::len);
        println!(
            "  dice={} nsd={} hd95={} lesions={} findings={findings}; surfels {} and {}, {} lesions hit, {} false positives",
            dice.value().unwrap_or(f64::NAN),
            nsd.value().unwrap_or(f64::NAN),
            hd95.value().unwrap_or(f64::NAN),
            found.lesions.len(),
            distances.reference_to_predicted.count(),
            distances.predicted_to_reference.count(),
            found.hits(),
            found.false_positives().count()
        );
    }
    if let (Some(masks), Some(peak)) = (masks_mib, peak_mib()) {
        let beyond = (peak - masks) * 1024.0 * 1024.0 / voxels as f64;
        println!("peak memory {peak:.0} MiB, of which the masks and the program {masks:.0} MiB: {beyond:.2} bytes a voxel beyond them");
    }
    if let Some(path) = std::env::args().nth(2) {
        // For the same measurement with other programs.
        let _ = std::fs::write(path, [reference, predicted].concat());
    }
}
