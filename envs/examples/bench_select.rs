//! Selections scored per second on cached outcomes of one scan, one thread.
//!
//! `cargo run --release -p panscreen-envs --example bench_select [windows along an axis]`

use std::time::Instant;

use panscreen_envs::rng::{RngExt, stream};
use panscreen_envs::screening::SetReward;
use panscreen_envs::screening::blend::gaussian;
use panscreen_envs::screening::cached::{CachedScan, CachedVolume, VolumeInput, WindowSets};
use panscreen_envs::screening::windows::{cut, grid};

const WINDOW: [usize; 3] = [24, 24, 16];
const SPACING_MM: [f64; 3] = [5.0; 3];
/// Share of the windows that a selection has.
const SHARE: f32 = 0.1;

fn rate(what: &str, selections: usize, mut work: impl FnMut() -> f64) {
    let mut best = f64::INFINITY;
    let mut sum = 0.0;
    for _ in 0..5 {
        let clock = Instant::now();
        sum = std::hint::black_box(work());
        best = best.min(clock.elapsed().as_secs_f64());
    }
    println!("{what:<44} {:>12.0} selections/s   (mean {:.4})", selections as f64 / best, sum / selections as f64);
}

fn main() {
    let axis: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(5);
    let shape = WINDOW.map(|w| w / 2 * (axis + 1));
    let voxels: usize = shape.iter().product();
    let starts = grid(shape, WINDOW, 0.5);
    let mut rng = stream(1, "bench_select", 0, 0);

    // Six lesions of 1 to 6 voxels' radius; Focus sees each voxel of them with 0.8, and now and then something that is none.
    let mut lesion = vec![0_u8; voxels];
    for number in 1..=6_u8 {
        let centre: [usize; 3] = std::array::from_fn(|a| rng.random_range(0..shape[a]));
        for (flat, l) in lesion.iter_mut().enumerate() {
            let p = [flat / (shape[1] * shape[2]), flat / shape[2] % shape[1], flat % shape[2]];
            let d: usize = (0..3).map(|a| p[a].abs_diff(centre[a]).pow(2)).sum();
            *l = if d <= usize::from(number).pow(2) { number } else { *l };
        }
    }
    let mut probabilities = Vec::new();
    for &start in &starts {
        let mut inside = vec![0; WINDOW.iter().product()];
        cut(&lesion, 1, shape, start, WINDOW, 0, &mut inside);
        let mut p = |&l: &u8| if rng.random_bool(if l > 0 { 0.8 } else { 0.002 }) { 0.9 } else { 0.1 };
        probabilities.push(inside.iter().map(&mut p).collect::<Vec<f32>>());
    }
    let masks: Vec<Vec<u8>> = probabilities.iter().map(|p| p.iter().map(|&p| u8::from(p > 0.5)).collect()).collect();
    let voxel_ml = SPACING_MM.iter().product::<f64>() / 1000.0;
    let scan = CachedScan::of_masks(&lesion, shape, voxel_ml, WINDOW, &starts, &masks);
    let importance = gaussian(WINDOW, 0.125);
    let input = VolumeInput {
        reference: &lesion,
        shape,
        spacing_mm: SPACING_MM,
        window: WINDOW,
        starts: &starts,
        importance: &importance,
        probabilities: &probabilities,
        threshold: 0.5,
    };
    let volume = match CachedVolume::new(input) {
        Ok(volume) => volume,
        Err(error) => return eprintln!("error: {error}"),
    };
    println!(
        "{shape:?} voxels, {} windows of {WINDOW:?}, {:?} lesions, {} live voxels",
        starts.len(),
        scan.lesions(),
        volume.live_voxels()
    );

    let p = vec![SHARE; starts.len()];
    let cost = SetReward { window_cost: 0.3, false_alarm_cost: 0.01 };
    let total = |sets: &WindowSets| scan.outcomes(sets).iter().map(|o| f64::from(scan.reward(o, cost))).sum::<f64>();
    let many = WindowSets::sample(&p, 100_000, &mut rng);
    rate("recall minus cost", many.len(), || total(&many));
    let mut draws = stream(2, "bench_select", 0, 0);
    rate("drawn and scored by recall minus cost", 100_000, || total(&WindowSets::sample(&p, 100_000, &mut draws)));
    let few = WindowSets::sample(&p, 2_000, &mut rng);
    rate("Dice of the blend", few.len(), || volume.dice(&few).iter().sum());
    let fewer = WindowSets::sample(&p, 200, &mut rng);
    rate("Dice and NSD of the blend (FLARE's rule)", fewer.len(), || {
        volume.flare(&fewer).map_or(f64::NAN, |scores| scores.iter().map(|s| s.dsc + s.nsd).sum())
    });
}
