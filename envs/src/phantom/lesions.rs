//! Lesions of nine types, each grown in its organ.

use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

use crate::rng::{RngExt, Stream};
use crate::volume::Geometry;

use super::anatomy::{ADRENAL, COLON, KIDNEY, LIVER, LUNG, PANCREAS, Tissue, VISCERAL, organ_name};
use super::canvas::{Canvas, Noise, Point, change, mix, norm, smooth_min};
use super::settings::Settings;

/// The nine lesion types that GF-Screen is trained on (ICLR 2026).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LesionKind {
    LungTumour,
    LungNodule,
    PleuralEffusion,
    Covid19,
    LiverTumour,
    PancreasTumour,
    KidneyTumour,
    AdrenalTumour,
    ColonTumour,
}

use LesionKind::*;

impl LesionKind {
    /// In the order of their classes.
    pub const ALL: [LesionKind; 9] =
        [LungTumour, LungNodule, PleuralEffusion, Covid19, LiverTumour, PancreasTumour, KidneyTumour, AdrenalTumour, ColonTumour];

    /// Class in the lesion labels, 1..=9.
    pub fn class(self) -> u8 {
        self as u8 + 1
    }

    /// Name in class tables.
    pub fn name(self) -> &'static str {
        match self {
            LungTumour => "lung tumour",
            LungNodule => "lung nodule",
            PleuralEffusion => "pleural effusion",
            Covid19 => "COVID-19",
            LiverTumour => "liver tumour",
            PancreasTumour => "pancreas tumour",
            KidneyTumour => "kidney tumour",
            AdrenalTumour => "adrenal tumour",
            ColonTumour => "colon tumour",
        }
    }

    /// Organ classes it grows in.
    pub fn homes(self) -> &'static [u8] {
        match self {
            LungTumour | LungNodule | PleuralEffusion | Covid19 => &LUNG,
            LiverTumour => &[LIVER],
            PancreasTumour => &[PANCREAS],
            KidneyTumour => &KIDNEY,
            AdrenalTumour => &ADRENAL,
            ColonTumour => &[COLON],
        }
    }

    /// Whether it lies in the lungs or the pleura, with HU of its own rather than a contrast to its organ.
    pub fn in_chest(self) -> bool {
        self.homes() == LUNG
    }

    /// What it does to the median volume, and the largest volume in mL that is still this type.
    fn size(self) -> (f64, f64) {
        match self {
            LungTumour => (1.3, 400.0),
            // Above 3 cm across it would be a mass.
            LungNodule => (0.1, 14.0),
            PleuralEffusion => (6.0, 500.0),
            Covid19 => (2.5, 300.0),
            LiverTumour => (1.5, 400.0),
            PancreasTumour => (0.8, 80.0),
            KidneyTumour => (1.2, 200.0),
            AdrenalTumour => (0.7, 80.0),
            ColonTumour => (1.2, 120.0),
        }
    }
}

/// One lesion as it was placed.
#[derive(Clone, Debug, Serialize)]
pub struct Lesion {
    pub kind: LesionKind,
    /// Its value in the lesion labels.
    pub class: u8,
    /// Centre of its voxels, mm in the world of the scan (R, A, S).
    pub centre_mm: [f64; 3],
    /// Labelled voxels times the volume of one.
    pub volume_ml: f64,
    /// Longest side of the box around its voxels, mm.
    pub longest_mm: f64,
    /// HU of its mean before texture and noise, minus its organ's.
    pub contrast_hu: f32,
    /// Name of the organ class it grows in ([`super::ORGANS`]).
    pub organ: &'static str,
}

/// A lesion about to be placed: a shape around a voxel, and what it may grow into.
struct Seed {
    kind: LesionKind,
    home: u8,
    /// mm from the first voxel's centre, along the axes.
    centre: Point,
    radius: f32,
    volume_ml: f64,
    hu: f32,
    contrast: f32,
}

const TRIES: usize = 40;

/// The body that lesions grow in and how full it is.
struct Ground<'a> {
    canvas: &'a mut Canvas,
    labels: &'a mut [u8],
    /// Voxels on or beside a lesion.
    taken: Vec<bool>,
    boxes: Boxes,
    geometry: &'a Geometry,
    settings: &'a Settings,
    noise: &'a Noise,
}

/// Draws this case's lesions, paints them and labels them.
pub fn grow(
    canvas: &mut Canvas,
    labels: &mut [u8],
    geometry: &Geometry,
    settings: &Settings,
    tissue: &Tissue,
    noise: &Noise,
    rng: &mut Stream,
) -> Vec<Lesion> {
    let wanted = 1 + weighted(&settings.lesion_counts, rng);
    let (taken, boxes) = (vec![false; labels.len()], organ_boxes(canvas));
    let mut ground = Ground { canvas, labels, taken, boxes, geometry, settings, noise };
    let mut found = Vec::new();
    // A type may find no room (an organ out of the field of view, another lesion in the way): then another type is drawn.
    for _ in 0..wanted * TRIES {
        if found.len() == wanted {
            break;
        }
        let kind = LesionKind::ALL[weighted(&settings.kind_weights, rng)];
        let Some(seed) = draw(ground.canvas, settings, tissue, &ground.boxes, kind, rng) else { continue };
        found.extend(ground.place(&seed, rng));
    }
    found
}

/// An index with a chance in proportion to its weight.
fn weighted(weights: &[f64], rng: &mut Stream) -> usize {
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (i, w) in weights.iter().enumerate() {
        if left < *w {
            return i;
        }
        left -= w;
    }
    weights.iter().rposition(|w| *w > 0.0).unwrap_or(0)
}

/// Per organ class the box of its voxels: first and one past last along each axis.
type Boxes = Vec<[[usize; 2]; 3]>;

fn organ_boxes(c: &Canvas) -> Boxes {
    let [nx, ny, nz] = c.shape;
    let mut boxes = vec![[[usize::MAX, 0]; 3]; 256];
    for i in 0..nx {
        for j in 0..ny {
            for k in 0..nz {
                let b = &mut boxes[c.organs[(i * ny + j) * nz + k] as usize];
                for (side, v) in b.iter_mut().zip([i, j, k]) {
                    *side = [side[0].min(v), side[1].max(v + 1)];
                }
            }
        }
    }
    boxes
}

/// Size, place and HU of a lesion of `kind`, or `None` if its organ is not in view.
fn draw(c: &Canvas, s: &Settings, t: &Tissue, boxes: &Boxes, kind: LesionKind, rng: &mut Stream) -> Option<Seed> {
    let (shift, most) = kind.size();
    let most = most.min(s.volume_ml[1]).max(s.volume_ml[0]);
    let mut volume_ml = 0.0;
    for _ in 0..20 {
        let spread: f64 = StandardNormal.sample(rng);
        volume_ml = s.volume_median_ml * shift * (s.volume_sigma * spread).exp();
        if (s.volume_ml[0]..=most).contains(&volume_ml) {
            break;
        }
    }
    let volume_ml = volume_ml.clamp(s.volume_ml[0], most);
    let home = kind.homes()[rng.random_range(0..kind.homes().len())];
    let mut candidates = Vec::new();
    let b = boxes[home as usize];
    if b[0][0] > b[0][1] {
        return None;
    }
    let [_, ny, nz] = c.shape;
    for _ in 0..400 {
        let [i, j, k] = b.map(|side| rng.random_range(side[0]..side[1]));
        let v = (i * ny + j) * nz + k;
        let fits = c.organs[v] == home && (kind != ColonTumour || touches_fat(c, [i, j, k]));
        if fits {
            candidates.push([i, j, k]);
        }
        if candidates.len() == 8 || (candidates.len() == 1 && kind != Covid19) {
            break;
        }
    }
    // COVID-19 prefers the outer and lower (back) lung.
    let middle = (b[0][0] + b[0][1]) as f32 / 2.0;
    let outward = |v: &[usize; 3]| (v[0] as f32 - middle).abs() - v[1] as f32;
    let at = candidates.into_iter().max_by(|x, y| outward(x).total_cmp(&outward(y)))?;

    let centre = std::array::from_fn(|a| (at[a] as f64 * s.spacing_mm[a]) as f32);
    let radius = (volume_ml * 1000.0 * 3.0 / (4.0 * std::f64::consts::PI)).cbrt() as f32;
    let (hu, contrast) = if kind.in_chest() {
        let hu = match kind {
            PleuralEffusion => rng.random_range(0.0f32..20.0),
            Covid19 => rng.random_range(-600.0f32..-350.0),
            LungNodule if rng.random_bool(0.3) => rng.random_range(-450.0f32..-250.0),
            _ => mix(s.lung_tumour_hu[0], s.lung_tumour_hu[1], rng.random()),
        };
        (hu, hu - t.lung)
    } else {
        let organ = match kind {
            LiverTumour => t.liver,
            PancreasTumour => t.pancreas,
            KidneyTumour => t.kidney,
            AdrenalTumour => t.adrenal,
            _ => t.bowel_wall,
        };
        let size = mix(s.contrast_hu[0], s.contrast_hu[1], rng.random());
        // Darker than water only fat is.
        let darkest = (organ - 12.0).max(s.contrast_hu[0]);
        let contrast = if rng.random_bool(s.darker_fraction) { -size.min(darkest) } else { size };
        (organ + contrast, contrast)
    };
    Some(Seed { kind, home, centre, radius, volume_ml, hu, contrast })
}

/// Whether a voxel has visceral fat within two voxels: the outer wall of a hollow organ.
fn touches_fat(c: &Canvas, at: [usize; 3]) -> bool {
    let [_, ny, nz] = c.shape;
    near(c.shape, at, 2).any(|[i, j, k]| c.organs[(i * ny + j) * nz + k] == VISCERAL)
}

/// The voxels at most `reach` away along every axis.
fn near(shape: [usize; 3], at: [usize; 3], reach: usize) -> impl Iterator<Item = [usize; 3]> {
    let range = |a: usize| at[a].saturating_sub(reach)..(at[a] + reach + 1).min(shape[a]);
    let (rx, ry, rz) = (range(0), range(1), range(2));
    rx.flat_map(move |i| {
        let rz = rz.clone();
        ry.clone().flat_map(move |j| rz.clone().map(move |k| [i, j, k]))
    })
}

/// A warped, lobed, turned ellipsoid around the origin: negative inside, mm.
fn blob(seed: &Seed, irregularity: f32, noise: &Noise, rng: &mut Stream) -> impl Fn(Point) -> f32 {
    let mut normal = || -> f32 { StandardNormal.sample(rng) };
    let stretch: Point = std::array::from_fn(|_| (0.16 * normal()).clamp(-0.35, 0.35));
    let mean = stretch.iter().sum::<f32>() / 3.0;
    let axes = stretch.map(|v| (v - mean).exp());
    let q = [normal(), normal(), normal(), normal() + 1e-3];
    let turn = rotation(q);
    let r = seed.radius;
    let lobes: Vec<(Point, f32)> = (0..rng.random_range(0..4usize))
        .map(|_| {
            let d: Point = std::array::from_fn(|_| rng.random_range(-1.0f32..1.0));
            let n = norm(d).max(1e-3);
            (d.map(|v| v / n * 0.6 * r), r * rng.random_range(0.5f32..0.75))
        })
        .collect();
    let offset: Point = std::array::from_fn(|_| rng.random_range(0.0f32..16.0));
    move |p| {
        let q: Point = std::array::from_fn(|a| (turn[a][0] * p[0] + turn[a][1] * p[1] + turn[a][2] * p[2]) / axes[a]);
        let mut d = norm(q) - r;
        for (centre, radius) in &lobes {
            d = smooth_min(d, norm(std::array::from_fn(|a| q[a] - centre[a])) - radius, 0.3 * r);
        }
        let rough = |wave: f32| noise.at(std::array::from_fn(|a| p[a] / wave + offset[a]));
        d + irregularity * r * (rough(0.9 * r) + 0.5 * rough(0.4 * r))
    }
}

/// The rotation of a quaternion of any length.
fn rotation(q: [f32; 4]) -> [[f32; 3]; 3] {
    let n = q.iter().map(|v| v * v).sum::<f32>().sqrt();
    let [x, y, z, w] = q.map(|v| v / n);
    [
        [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w), 2.0 * (x * z + y * w)],
        [2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - x * w)],
        [2.0 * (x * z - y * w), 2.0 * (y * z + x * w), 1.0 - 2.0 * (x * x + y * y)],
    ]
}

impl Ground<'_> {
    /// Grow a lesion from its seed over the voxels it may take until it has its volume. `None`, and nothing painted, if it doesn't fit.
    ///
    /// Of the voxels it may take, those deepest in the shape become the lesion; what that cuts off from its main part is dropped. Two voxels
    /// around every lesion stay free of others, so that each connected part of the labels is one lesion.
    fn place(&mut self, seed: &Seed, rng: &mut Stream) -> Option<Lesion> {
        let Ground { canvas: c, labels, taken, boxes, geometry, settings: s, noise } = self;
        let spacing = s.spacing_mm.map(|v| v as f32);
        let irregularity = if seed.kind == Covid19 { 2.2 * s.irregularity } else { s.irregularity };
        let shape = blob(seed, irregularity, noise, rng);
        let fluid = seed.kind == PleuralEffusion;
        let start: [usize; 3];
        let n: [usize; 3];
        if fluid {
            let b = boxes[seed.home as usize];
            start = b.map(|side| side[0].saturating_sub(2));
            n = std::array::from_fn(|a| (b[a][1] + 2).min(c.shape[a]) - start[a]);
        } else {
            let reach = 1.8 * seed.radius;
            start = std::array::from_fn(|a| (((seed.centre[a] - reach) / spacing[a]).floor() - 2.0).max(0.0) as usize);
            n = std::array::from_fn(|a| ((((seed.centre[a] + reach) / spacing[a]).ceil() + 3.0) as usize).min(c.shape[a]) - start[a]);
        }
        let [_, ny, nz] = c.shape;
        let index = |x: [usize; 3]| ((start[0] + x[0]) * ny + start[1] + x[1]) * nz + start[2] + x[2];
        let inside = |x: [usize; 3]| {
            let p: Point = std::array::from_fn(|a| (start[a] + x[a]) as f32 * spacing[a] - seed.centre[a]);
            // Fluid collects at the back and the base, with a waving surface.
            if fluid { p[1] + 0.3 * p[2] + 3.0 * noise.waves(p, 30.0) } else { shape(p) }
        };
        let open = |label: u8| label == seed.home || (label == VISCERAL && !seed.kind.in_chest() && seed.kind != LiverTumour);

        let all = || (0..n[0]).flat_map(|i| (0..n[1]).flat_map(move |j| (0..n[2]).map(move |k| [i, j, k])));
        let f: Vec<f32> = all().map(inside).collect();
        let may: Vec<bool> = all().map(|x| !taken[index(x)] && open(c.organs[index(x)])).collect();
        let voxel_ml = geometry.voxel_ml();
        let least = (s.volume_ml[0] / voxel_ml - 1e-6).ceil().max(1.0) as usize;
        let wanted = ((seed.volume_ml / voxel_ml).round() as usize).max(least).min((s.volume_ml[1] / voxel_ml) as usize).max(1);
        let mut depths: Vec<f32> = f.iter().zip(&may).filter(|(_, m)| **m).map(|(f, _)| *f).collect();
        if depths.len() < wanted {
            return None;
        }
        let surface = *depths.select_nth_unstable_by(wanted - 1, f32::total_cmp).1;
        // Squeezed far out of its shape it would look like something else.
        if !fluid && surface > 0.3 * seed.radius + 0.35 * spacing[0].max(spacing[2]) {
            return None;
        }

        let deepest = (0..f.len()).filter(|&v| may[v]).min_by(|&a, &b| f[a].total_cmp(&f[b]))?;
        let mut member = vec![false; f.len()];
        let mut queue = vec![deepest];
        member[deepest] = true;
        let unravel = |v: usize| [v / (n[1] * n[2]), v / n[2] % n[1], v % n[2]];
        let ravel = |x: [usize; 3]| (x[0] * n[1] + x[1]) * n[2] + x[2];
        let mut count = 0;
        while let Some(v) = queue.pop() {
            count += 1;
            for next in near(n, unravel(v), 1).map(ravel) {
                if !member[next] && may[next] && f[next] <= surface {
                    member[next] = true;
                    queue.push(next);
                }
            }
        }
        let rooted = (0..f.len()).any(|v| member[v] && c.organs[index(unravel(v))] == seed.home);
        if count < least || count * 5 < wanted * 4 || !rooted {
            return None;
        }

        let mut sum = [0.0f64; 3];
        let mut corners = [[usize::MAX, 0]; 3];
        for v in 0..f.len() {
            let x = unravel(v);
            if !near(n, x, 1).any(|y| member[ravel(y)]) {
                continue;
            }
            let share = (0.5 - (f[v] - surface) / (1.15 * change(&f, n, x, v))).clamp(0.0, 1.0);
            let at = index(x);
            let p: Point = std::array::from_fn(|a| (start[a] + x[a]) as f32 * spacing[a]);
            let mottle = if seed.kind == Covid19 { 90.0 } else { seed.contrast.abs().min(120.0) * s.heterogeneity };
            let value = seed.hu + mottle * noise.waves(p, (0.5 * seed.radius).clamp(4.0, 14.0));
            let old = c.hu[at];
            if member[v] {
                c.hu[at] = if seed.kind.in_chest() { old.max(mix(old, value, share)) } else { mix(old, value, share.max(0.5)) };
                labels[at] = seed.kind.class();
                c.organs[at] = seed.home;
                for (a, side) in corners.iter_mut().enumerate() {
                    sum[a] += (start[a] + x[a]) as f64;
                    *side = [side[0].min(x[a]), side[1].max(x[a] + 1)];
                }
            } else if seed.kind.in_chest() {
                // No dark seam where it lies against the wall: the wall's outermost voxels were half lung.
                c.hu[at] = old.max(mix(old, value, share));
            } else if may[v] && f[v] > surface {
                c.hu[at] = mix(old, value, share);
            }
        }
        for v in (0..f.len()).filter(|&v| member[v]) {
            let x = unravel(v);
            for [i, j, k] in near(c.shape, std::array::from_fn(|a| start[a] + x[a]), 2) {
                taken[(i * ny + j) * nz + k] = true;
            }
        }
        Some(Lesion {
            kind: seed.kind,
            class: seed.kind.class(),
            centre_mm: geometry.world(sum.map(|v| v / count as f64)),
            volume_ml: count as f64 * voxel_ml,
            longest_mm: (0..3).map(|a| (corners[a][1] - corners[a][0]) as f64 * s.spacing_mm[a]).fold(0.0, f64::max),
            contrast_hu: seed.contrast,
            organ: organ_name(seed.home),
        })
    }
}
