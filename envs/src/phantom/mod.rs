//! Generated CT cohorts: torsos with organs, lesions of nine types, look-alikes that are none, organ labels and a report.
//!
//! Everything is analytic (ellipsoids, tubes along splines, noise-warped surfaces) and drawn from streams of `(seed, index)`: the same seed
//! gives the same bytes, on any number of threads. A case goes: torso and organs ([`anatomy`]), lesions in their organs ([`lesions`]),
//! texture and scanner noise, rounding to whole HU. [`write_cohort`] puts cases on disk as `.nii.gz`.

mod anatomy;
mod canvas;
mod cohort;
mod lesions;
mod report;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use rand_distr::{Distribution, StandardNormal};

use crate::rng::{RngExt, Stream, stream};
use crate::volume::{ClassTable, Geometry, Labels, Volume};
use canvas::{Canvas, Noise};

pub use anatomy::ORGANS;
pub use cohort::{CohortSummary, default_split, write_cohort};
pub use lesions::{Lesion, LesionKind};
pub use settings::{Preset, Settings};

/// One generated patient with one scan.
#[derive(Clone, Debug)]
pub struct Case {
    /// `phantom_0007`: the index in at least four digits.
    pub name: String,
    /// Whole HU in [-1024, 3071].
    pub ct: Volume,
    /// Lesion classes 1..=9 ([`LesionKind`]); each lesion is one component and no two touch.
    pub lesions: Labels,
    /// Organ classes ([`ORGANS`]); a lesion's voxels carry the organ it grows in.
    pub organs: Labels,
    /// One paragraph, as a radiologist might dictate it.
    pub report: String,
    /// The lesions in the order in which they were placed.
    pub findings: Vec<Lesion>,
}

/// Name of case `index`.
pub fn case_name(index: u64) -> String {
    format!("phantom_{index:04}")
}

/// Case `index` of the cohort with `seed`. A pure function: cases can be made in any order, on any thread.
pub fn generate(settings: &Settings, seed: u64, index: u64) -> Case {
    let mut rng = stream(seed, "phantom/anatomy", 0, index);
    let geometry = grid(settings);
    let noise = Noise::new(&mut rng);
    // Slim or stout, short or tall: the whole body follows.
    let scale = [(0.93, 1.05), (0.90, 1.10), (0.93, 1.08)].map(|(low, high)| settings.body_scale * rng.random_range(low..high));
    let shift = [0.0, 0.0, rng.random_range(-8.0..8.0)];
    let origin = std::array::from_fn(|a| (geometry.affine[a][3] / scale[a] + shift[a]) as f32);
    let step = std::array::from_fn(|a| (settings.spacing_mm[a] / scale[a]) as f32);
    let mut canvas = Canvas::new(settings.shape, origin, step, &noise);
    let tissue = anatomy::paint(&mut canvas, settings, &noise, &mut rng);

    let mut rng = stream(seed, "phantom/lesions", 0, index);
    let mut labels = vec![0u8; canvas.hu.len()];
    let findings = if lesion_free(settings.lesion_free_fraction, seed, index) {
        Vec::new()
    } else {
        lesions::grow(&mut canvas, &mut labels, &geometry, settings, &tissue, &noise, &mut rng)
    };
    let report = report::paragraph(&findings, &mut rng);

    let mut hu = std::mem::take(&mut canvas.hu);
    scan(&mut hu, settings, &noise, &mut stream(seed, "phantom/noise", 0, index));
    Case {
        name: case_name(index),
        ct: Volume { data: hu, geometry: geometry.clone() },
        lesions: Labels { data: labels, geometry: geometry.clone(), classes: Arc::new(lesion_classes()) },
        organs: Labels { data: canvas.organs, geometry, classes: Arc::new(organ_classes()) },
        report,
        findings,
    }
}

/// The classes of `Case::lesions`.
pub fn lesion_classes() -> ClassTable {
    LesionKind::ALL.iter().map(|k| (k.class(), k.name().to_owned())).collect()
}

/// The classes of `Case::organs`.
pub fn organ_classes() -> ClassTable {
    ORGANS.iter().map(|&(class, name)| (class, name.to_owned())).collect::<BTreeMap<_, _>>()
}

/// The grid: centred on the body across, 60 % of its height below the diaphragm (z = 0) so that chest and abdomen are both seen.
fn grid(s: &Settings) -> Geometry {
    let below = [0.5, 0.5, 0.6];
    let origin = std::array::from_fn(|a| s.spacing_mm[a] * (0.5 - below[a] * s.shape[a] as f64));
    Geometry::ras(s.shape, s.spacing_mm, origin)
}

/// Whether case `index` is free of lesions. Over each block of 12 cases the share is as close to `fraction` as whole cases allow; which of
/// the block's cases they are is drawn.
fn lesion_free(fraction: f64, seed: u64, index: u64) -> bool {
    const BLOCK: u64 = 12;
    let mut rng = stream(seed, "phantom/lesion-free", 0, index / BLOCK);
    let mut order: Vec<u64> = (0..BLOCK).collect();
    for i in (1..BLOCK as usize).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    let place = index / BLOCK * BLOCK + order[(index % BLOCK) as usize];
    let free_before = |n: u64| (n as f64 * fraction + 0.5).floor();
    free_before(place + 1) > free_before(place)
}

/// Tissue texture, scanner noise correlated in the slice, whole HU.
fn scan(hu: &mut [f32], s: &Settings, noise: &Noise, rng: &mut Stream) {
    let [nx, ny, nz] = s.shape;
    let mut grain: Vec<f32> = (0..hu.len()).map(|_| StandardNormal.sample(rng)).collect();
    let side = s.noise_correlation;
    blur(&mut grain, nx, ny * nz, side);
    for plane in grain.chunks_exact_mut(ny * nz) {
        blur(plane, ny, nz, side);
    }
    // Per axis the three-tap kernel (side, 1 - 2 side, side) leaves this share of the standard deviation.
    let left = (1.0 - 2.0 * side).powi(2) + 2.0 * side * side;
    let [sx, sy, sz] = s.spacing_mm.map(|v| v as f32);
    for i in 0..nx {
        for j in 0..ny {
            let across = [(i as f32 / nx as f32 - 0.5) * 2.0, (j as f32 / ny as f32 - 0.5) * 2.0];
            // Rays through the middle of the body cross more tissue: more noise there.
            let sigma = s.noise_hu / left * (1.15 - 0.35 * (across[0] * across[0] + across[1] * across[1]));
            let row = (i * ny + j) * nz;
            for k in 0..nz {
                let v = &mut hu[row + k];
                let p = [i as f32 * sx, j as f32 * sy, k as f32 * sz];
                // Fat and organs are mottled; air is not.
                let tissue = ((*v + 950.0) / 700.0).clamp(0.0, 1.0);
                *v += tissue * s.texture_hu * (noise.waves(p, 9.0) + 0.7 * noise.waves(p, 23.0)) + sigma * grain[row + k];
                *v = v.round().clamp(-1024.0, 3071.0);
            }
        }
    }
}

/// One pass of the kernel (side, 1 - 2 side, side) along the first axis of `[n][stride]`; the ends repeat.
fn blur(x: &mut [f32], n: usize, stride: usize, side: f32) {
    let mut before = x[..stride].to_vec();
    for i in 0..n {
        let next = (i + 1).min(n - 1);
        for s in 0..stride {
            let here = x[i * stride + s];
            let after = x[next * stride + s];
            x[i * stride + s] = side * (before[s] + after) + (1.0 - 2.0 * side) * here;
            before[s] = here;
        }
    }
}
