//! From a cohort's fingerprint to a grid, a window, networks and a batch: nnU-Net's rules (Isensee et al. 2021, and its version 2) where they fit,
//! each with its outcome, so that a person can follow and change it.
//!
//! Where it differs: the window covers at most half of a scan along each axis, since Glance decides between windows; least batch is 8 instead of 2,
//! since rewards are compared within it; features are fewer where memory is short, before the window becomes too small for the lesions;
//! intensities are HU windows scaled to 0..1 instead of z-scores.

use serde::Serialize;

use super::Fingerprint;

/// nnU-Net: voxels of a first window, before anything limits it.
const FIRST_WINDOW: f64 = 256.0 * 256.0 * 256.0;
/// nnU-Net: the coarsest features keep this many voxels along each axis.
const LEAST_FEATURES: usize = 4;
/// nnU-Net: an axis is coarse where its voxels are so many times those of the others.
const ANISOTROPY: f64 = 3.0;
/// nnU-Net: most features of a level.
const MOST_WIDTH: usize = 320;
/// Sub-volumes of a step: at least so many rewards to compare, at most the published 16.
const BATCH: std::ops::RangeInclusive<usize> = 8..=16;
/// nnU-Net: a batch holds at most this share of the cohort's voxels.
const BATCH_SHARE: f64 = 0.05;
/// Levels of Focus at most.
const MOST_LEVELS: usize = 6;

/// One rule and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    pub rule: &'static str,
    pub outcome: String,
    pub because: String,
}

/// The settings of a run, as far as a cohort decides them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    pub rules: Vec<Rule>,
    pub spacing_mm: [f64; 3],
    pub windows_hu: Vec<[f64; 2]>,
    /// Voxels of a sub-volume.
    pub window: [usize; 3],
    /// Features, residual blocks and strides of each level of Focus, finest first.
    pub widths: Vec<usize>,
    pub blocks: Vec<usize>,
    pub strides: Vec<[usize; 3]>,
    pub glance_widths: Vec<usize>,
    pub volumes_per_batch: usize,
    pub crops_per_volume: usize,
    /// Counted, not measured: feature maps kept for the backward pass, their gradients, weights and optimiser.
    pub step_gib: f64,
}

/// Make a plan for a step that fits into `memory_gib`.
pub fn plan(f: &Fingerprint, memory_gib: f64) -> Plan {
    let mut rules = Vec::new();
    let mut say = |rule, outcome: String, because: String| rules.push(Rule { rule, outcome, because });

    let (spacing_mm, why) = spacing(f);
    say("spacing", format!("{} mm", by(spacing_mm)), why);
    // The median scan on this grid.
    let shape: [f64; 3] = std::array::from_fn(|a| (f.extent_mm[a].median / spacing_mm[a]).max(1.0));
    let (windows_hu, why) = windows(f);
    say("windows_hu", windows_hu.iter().map(|[lo, hi]| format!("{lo} to {hi}")).collect::<Vec<_>>().join(", "), why);

    let least: [f64; 3] = std::array::from_fn(|a| {
        let lesion = f.lesion_extent_mm.map_or(0.0, |e| 1.5 * e[a].p75 / spacing_mm[a]);
        lesion.clamp(16.0, 96.0).min(shape[a])
    });
    let most: [f64; 3] = std::array::from_fn(|a| (shape[a] / 2.0).max(least[a]));
    let start = first_window(spacing_mm).map(|edge| edge.floor());
    let wanted: [f64; 3] = std::array::from_fn(|a| start[a].clamp(least[a], most[a]));
    // Fewer features only where the window would become too small with more.
    let budget = memory_gib * (1u64 << 30) as f64;
    let tries = [32, 16, 8].map(|width| shrink(wanted, least, shape, spacing_mm, width, windows_hu.len(), budget));
    let chosen = tries.iter().find(|t| t.fits).unwrap_or(&tries[2]);
    say(
        "window",
        by(chosen.window),
        format!(
            "from {} (256^3 voxels in the shape of 1 / spacing), at most half of the median scan of {} voxels, at least 1.5 x the 75th percentile of the \
             lesions' sides ({}), shrunk until {} of them fit, made divisible by the strides",
            by(start),
            by(shape.map(f64::round)),
            by(least.map(f64::ceil)),
            BATCH.start()
        ),
    );
    say(
        "depth",
        format!("{} levels, strides {:?}", chosen.strides.len(), chosen.strides),
        format!("each axis is halved while {LEAST_FEATURES} voxels stay and its voxels are less than twice the finest ones"),
    );
    say(
        "widths",
        format!("{:?}", chosen.widths),
        format!("doubled from level to level up to {MOST_WIDTH}, from 32, or from 16 or 8 where memory is short"),
    );

    let by_memory = chosen.batch(budget);
    let cohort = BATCH_SHARE * f.cases as f64 * shape.iter().product::<f64>() / chosen.window.iter().product::<usize>() as f64;
    let batch = by_memory.min((cohort as usize).max(*BATCH.start())).clamp(if chosen.fits { *BATCH.start() } else { 2 }, *BATCH.end());
    let volumes_per_batch = (f.cases * 4 / 5).clamp(1, 4);
    let crops_per_volume = (batch / volumes_per_batch).max(if volumes_per_batch == 1 { 2 } else { 1 });
    let step_gib = chosen.bytes(volumes_per_batch * crops_per_volume) / (1u64 << 30) as f64;
    say(
        "batch",
        format!("{volumes_per_batch} scans x {crops_per_volume} sub-volumes"),
        format!(
            "{by_memory} fit into {memory_gib} GiB, {:.0} are {:.0} % of the cohort, {} to {} are wanted; a step needs about {step_gib:.1} GiB (counted, \
             not measured){}",
            cohort,
            BATCH_SHARE * 100.0,
            BATCH.start(),
            BATCH.end(),
            if chosen.fits { "" } else { ", MORE THAN GIVEN: give more memory or set a coarser spacing_mm" }
        ),
    );
    let glance_widths: Vec<usize> = chosen.widths.iter().take(4).copied().collect();
    say("glance", format!("{glance_widths:?}"), "Focus's first widths, one block each: Glance sees every window and must be cheap".into());
    Plan {
        spacing_mm,
        windows_hu,
        window: chosen.window,
        widths: chosen.widths.clone(),
        blocks: (0..chosen.widths.len()).map(|level| if level == 0 { 1 } else { 2 }).collect(),
        strides: chosen.strides.clone(),
        glance_widths,
        volumes_per_batch,
        crops_per_volume,
        step_gib,
        rules,
    }
}

/// Median voxel sizes; where one axis is coarse, a finer one for it (nnU-Net: its 10th percentile).
fn spacing(f: &Fingerprint) -> ([f64; 3], String) {
    let mut spacing = f.spacing_mm.map(|s| s.median);
    let worst = (0..3).max_by(|&a, &b| spacing[a].total_cmp(&spacing[b])).unwrap_or(2);
    let others = || (0..3).filter(|&a| a != worst);
    let next = others().map(|a| spacing[a]).fold(0.0, f64::max);
    let fewest = others().map(|a| f.shape[a].median).fold(f64::INFINITY, f64::min);
    let mut why = "the cohort's median voxel".to_owned();
    if spacing[worst] > ANISOTROPY * next && f.shape[worst].median * ANISOTROPY < fewest {
        spacing[worst] = f.spacing_mm[worst].p10.max(next);
        why += &format!("; {} is more than {ANISOTROPY} times coarser than the others: its 10th percentile", ["R", "A", "S"][worst]);
    }
    // As a person would write it.
    (spacing.map(|v| ((v * 100.0).round() / 100.0).clamp(0.05, 50.0)), why)
}

/// Soft tissue and lung; one more where the lesions reach out of both.
fn windows(f: &Fingerprint) -> (Vec<[f64; 2]>, String) {
    let mut windows = vec![[-175.0, 250.0], [-900.0, 650.0]];
    let Some(hu) = f.lesion_hu else { return (windows, "soft tissue and lung; no lesion voxels to look at".into()) };
    let seen = format!("lesions hold {:.0} to {:.0} HU (0.5th to 99.5th percentile)", hu.p0_5, hu.p99_5);
    if hu.p0_5 >= -900.0 && hu.p99_5 <= 650.0 {
        return (windows, format!("soft tissue and lung: {seen}"));
    }
    windows.push([(hu.p0_5 / 10.0).floor() * 10.0, (hu.p99_5 / 10.0).ceil() * 10.0]);
    (windows, format!("soft tissue, lung, and one for the lesions: {seen}"))
}

/// The sides of 256^3 voxels that are a cube in mm.
fn first_window(spacing_mm: [f64; 3]) -> [f64; 3] {
    let scale = (FIRST_WINDOW * spacing_mm.iter().product::<f64>()).cbrt();
    spacing_mm.map(|s| scale / s)
}

/// A window with the network for it.
struct Fitted {
    window: [usize; 3],
    strides: Vec<[usize; 3]>,
    widths: Vec<usize>,
    channels: usize,
    fits: bool,
}

/// nnU-Net's loop: where the least batch needs too much, the axis that covers most of the median scan is shortened.
fn shrink(wanted: [f64; 3], least: [f64; 3], shape: [f64; 3], spacing_mm: [f64; 3], width: usize, channels: usize, budget: f64) -> Fitted {
    let mut edges = wanted.map(|v| v as usize);
    // Enough to shorten three axes from 512 to nothing, one voxel a time.
    let mut left = 3 * 512;
    loop {
        let strides = strides(edges, spacing_mm);
        let divisor: [usize; 3] = std::array::from_fn(|a| strides.iter().map(|s| s[a]).product());
        let window: [usize; 3] = std::array::from_fn(|a| edges[a].next_multiple_of(divisor[a]).clamp(4, 512));
        let widths = (0..strides.len()).map(|level| (width << level).min(MOST_WIDTH)).collect();
        let mut fitted = Fitted { window, strides, widths, channels, fits: false };
        fitted.fits = fitted.batch(budget) >= *BATCH.start();
        // One step of an axis, if it stays large enough.
        let shorter = |a: usize| window[a].saturating_sub(divisor[a]);
        let next = (0..3).filter(|&a| shorter(a) as f64 >= least[a] && shorter(a) >= 4);
        let next = next.max_by(|&a, &b| (window[a] as f64 / shape[a]).total_cmp(&(window[b] as f64 / shape[b])));
        match next {
            Some(a) if !fitted.fits && left > 0 => {
                left -= 1;
                edges = window;
                edges[a] = shorter(a);
            }
            _ => return fitted,
        }
    }
}

/// nnU-Net's pooling (`get_pool_and_conv_props`): which axes each level halves.
fn strides(window: [usize; 3], spacing_mm: [f64; 3]) -> Vec<[usize; 3]> {
    let (mut size, mut mm) = (window, spacing_mm);
    let mut strides = vec![[1; 3]];
    while strides.len() < MOST_LEVELS {
        let mut axes: Vec<usize> = (0..3).filter(|&a| size[a] >= 2 * LEAST_FEATURES).collect();
        let finest = axes.iter().map(|&a| mm[a]).fold(f64::INFINITY, f64::min);
        axes.retain(|&a| mm[a] / finest < 2.0);
        if axes.is_empty() || axes.len() == 1 && size[axes[0]] < 3 * LEAST_FEATURES {
            break;
        }
        let mut stride = [1; 3];
        for a in axes {
            stride[a] = 2;
            size[a] = size[a].div_ceil(2);
            mm[a] *= 2.0;
        }
        strides.push(stride);
    }
    // A U-Net has two levels at least.
    if strides.len() == 1 {
        strides.push([0, 1, 2].map(|a| if window[a] >= 2 { 2 } else { 1 }));
    }
    strides
}

impl Fitted {
    /// Bytes of a training step with `batch` sub-volumes.
    fn bytes(&self, batch: usize) -> f64 {
        let (mut voxels, mut maps, mut weights) = (self.window.iter().product::<usize>() as f64, self.channels as f64, 0.0);
        maps *= voxels;
        for (level, (&width, stride)) in self.widths.iter().zip(&self.strides).enumerate() {
            voxels /= stride.iter().product::<usize>() as f64;
            let (w, blocks) = (width as f64, if level == 0 { 1.0 } else { 2.0 });
            // A residual block keeps convolution, norm and activation twice; the way up the joined features and one such triple.
            maps += voxels * w * (6.0 * blocks + if level + 1 < self.widths.len() { 6.0 } else { 0.0 });
            weights += 27.0 * w * w * (2.0 * blocks + 2.0);
        }
        // Maps and their gradients, a quarter more for Glance; weights, gradients, two moments and the old policy.
        4.0 * (2.0 * 1.25 * maps * batch as f64 + 5.0 * 1.25 * weights)
    }

    /// How many sub-volumes a step can hold.
    fn batch(&self, budget: f64) -> usize {
        let (none, one) = (self.bytes(0), self.bytes(1));
        ((budget - none) / (one - none)).clamp(0.0, 1e6) as usize
    }
}

fn by<T: std::fmt::Display>(sides: [T; 3]) -> String {
    sides.map(|v| v.to_string()).join(" x ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Spread;

    fn same(v: f64) -> Spread {
        Spread { min: v, p10: v, p25: v, median: v, p75: v, p90: v, max: v }
    }

    fn cohort(spacing: [f64; 3], shape: [f64; 3], lesion_mm: f64) -> Fingerprint {
        Fingerprint {
            cases: 100,
            with_lesions: 80,
            orientations: Default::default(),
            spacing_mm: spacing.map(same),
            shape: shape.map(same),
            extent_mm: std::array::from_fn(|a| same(spacing[a] * shape[a])),
            body_hu: None,
            lesion_hu: None,
            lesions: 200,
            lesions_per_scan: Some(same(2.0)),
            lesion_ml: Some(same(3.0)),
            lesion_extent_mm: Some([same(lesion_mm); 3]),
            lesion_contrast_hu: Some(same(30.0)),
        }
    }

    #[test]
    fn strides_are_nnunets() {
        // `get_pool_and_conv_props(spacing, patch, 4, 999)` of nnU-Net 2, cut at six levels.
        for (window, spacing, want) in [
            ([128, 128, 128], [1.0; 3], vec![[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]),
            ([64, 64, 32], [0.8, 0.8, 3.0], vec![[1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]),
            ([96, 96, 4], [0.5, 0.5, 5.0], vec![[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 1], [2, 2, 1]]),
            ([4, 4, 4], [1.0; 3], vec![[1, 1, 1], [2, 2, 2]]),
        ] {
            assert_eq!(strides(window, spacing), want, "{window:?}");
        }
    }

    #[test]
    fn a_coarse_axis_gets_its_finer_scans_grid() {
        let mut f = cohort([0.8, 0.8, 5.0], [512.0, 512.0, 60.0], 20.0);
        f.spacing_mm[2].p10 = 2.5;
        assert_eq!(spacing(&f).0, [0.8, 0.8, 2.5]);
        f.spacing_mm[2].p10 = 0.3;
        assert_eq!(spacing(&f).0, [0.8, 0.8, 0.8], "never finer than the others");
        f.shape[2] = same(400.0);
        assert_eq!(spacing(&f).0, [0.8, 0.8, 5.0], "many slices: as scanned");
    }

    #[test]
    fn plans_fit_their_memory_and_their_networks() {
        for (spacing, shape, lesion) in [
            ([0.8, 0.8, 2.5], [512.0, 512.0, 200.0], 25.0),
            ([1.0, 1.0, 3.27], [300.0, 300.0, 110.0], 90.0),
            ([5.0, 5.0, 5.0], [64.0, 64.0, 40.0], 30.0),
            ([0.1, 0.1, 0.1], [2000.0, 2000.0, 2000.0], 5.0),
            ([0.7, 0.7, 10.0], [512.0, 512.0, 12.0], 15.0),
            ([1.0, 1.0, 1.0], [300.0, 300.0, 1.0], 15.0),
        ] {
            let mut last = 0;
            for memory in [1.0, 4.0, 16.0, 80.0] {
                let p = plan(&cohort(spacing, shape, lesion), memory);
                let at = format!("{spacing:?} {memory} GiB: {p:?}");
                for a in 0..3 {
                    let divisor: usize = p.strides.iter().map(|s| s[a]).product();
                    assert!(p.window[a].is_multiple_of(divisor) && (4..=512).contains(&p.window[a]), "{at}");
                }
                assert!(p.widths.len() == p.strides.len() && p.blocks.len() == p.widths.len() && p.widths.len() >= 2, "{at}");
                let warned = p.rules.iter().any(|r| r.because.contains("MORE THAN GIVEN"));
                assert!(p.step_gib <= memory || warned, "{at}");
                assert!(p.volumes_per_batch * p.crops_per_volume >= 2 && p.volumes_per_batch * p.crops_per_volume <= 16, "{at}");
                let features: usize = p.window.iter().product::<usize>() * p.widths[0];
                assert!(features >= last, "more memory, never less to see: {at}");
                last = features;
            }
            assert!(plan(&cohort(spacing, shape, lesion), 80.0).rules.iter().all(|r| !r.because.contains("MORE THAN GIVEN")));
        }
    }

    #[test]
    fn lesions_outside_of_the_windows_get_their_own() {
        let mut f = cohort([1.0; 3], [300.0; 3], 20.0);
        let hu = |p0_5, p99_5| Some(super::super::HuFigures { voxels: 9, mean: 0.0, std: 1.0, p0_5, median: 0.0, p99_5 });
        f.lesion_hu = hu(-850.0, 300.0);
        assert_eq!(windows(&f).0.len(), 2);
        f.lesion_hu = hu(-20.0, 1204.0);
        assert_eq!(windows(&f).0[2], [-20.0, 1210.0]);
    }
}
