//! The normal body: what is painted before any lesion, from the outside in.
//!
//! Positions are mm in the body's frame: x to the patient's right, y to the front, z to the head, z = 0 just below the top of the diaphragm.

use std::f32::consts::TAU;

use crate::rng::{RngExt, Stream};

use super::canvas::{Canvas, KEEP, Noise, Point, Tube, around, ellipsoid, mix, norm, smooth_min};
use super::settings::Settings;

pub const SKIN: u8 = 1;
pub const FAT: u8 = 2;
pub const VISCERAL: u8 = 3;
pub const MUSCLE: u8 = 4;
pub const BONE: u8 = 5;
pub const CANAL: u8 = 6;
pub const LUNG: [u8; 2] = [7, 8];
pub const AIRWAY: u8 = 9;
pub const HEART: u8 = 10;
pub const AORTA: u8 = 11;
pub const CAVA: u8 = 12;
pub const LIVER: u8 = 13;
pub const GALLBLADDER: u8 = 14;
pub const SPLEEN: u8 = 15;
pub const STOMACH: u8 = 16;
pub const PANCREAS: u8 = 17;
pub const KIDNEY: [u8; 2] = [18, 19];
pub const ADRENAL: [u8; 2] = [20, 21];
pub const BOWEL: u8 = 22;
pub const COLON: u8 = 23;
pub const VEIN: u8 = 24;
pub const OESOPHAGUS: u8 = 25;

/// Classes of the organ labels and their names; of a pair the right one comes first.
pub const ORGANS: [(u8, &str); 25] = [
    (SKIN, "skin"),
    (FAT, "subcutaneous fat"),
    (VISCERAL, "visceral fat"),
    (MUSCLE, "muscle"),
    (BONE, "bone"),
    (CANAL, "spinal canal"),
    (LUNG[0], "right lung"),
    (LUNG[1], "left lung"),
    (AIRWAY, "airways"),
    (HEART, "heart"),
    (AORTA, "aorta"),
    (CAVA, "vena cava"),
    (LIVER, "liver"),
    (GALLBLADDER, "gallbladder"),
    (SPLEEN, "spleen"),
    (STOMACH, "stomach"),
    (PANCREAS, "pancreas"),
    (KIDNEY[0], "right kidney"),
    (KIDNEY[1], "left kidney"),
    (ADRENAL[0], "right adrenal gland"),
    (ADRENAL[1], "left adrenal gland"),
    (BOWEL, "small bowel"),
    (COLON, "colon"),
    (VEIN, "portal and mesenteric veins"),
    (OESOPHAGUS, "oesophagus"),
];

/// Name of an organ class.
pub fn organ_name(class: u8) -> &'static str {
    ORGANS.iter().find(|o| o.0 == class).map_or("body", |o| o.1)
}

/// HU of this patient's tissues.
pub struct Tissue {
    pub lung: f32,
    pub liver: f32,
    pub pancreas: f32,
    pub kidney: f32,
    pub adrenal: f32,
    pub bowel_wall: f32,
    blood: f32,
    vein: f32,
    muscle: f32,
    fat: f32,
    spleen: f32,
    cortical: f32,
    spongiosa: f32,
}

const EVERYWHERE: [Point; 2] = [[-1e4; 3], [1e4; 3]];

/// A round-cornered ellipse across the body, as a tube along z: negative inside, mm along the ray from the axis.
#[inline]
fn barrel(p: Point, ax: f32, ay: f32) -> f32 {
    let (u, v) = ((p[0] / ax).powi(2), (p[1] / ay).powi(2));
    let k = (u + v - 0.45 * (u * v).min(1.0)).max(1e-6).sqrt();
    (p[0] * p[0] + p[1] * p[1]).sqrt() * (1.0 - 1.0 / k)
}

/// Distance of `v` from the nearest multiple of `period`, signed.
fn wrap(v: f32, period: f32) -> f32 {
    v - period * (v / period).round()
}

/// The torso's surfaces, shared by what touches them.
#[derive(Clone, Copy)]
struct Torso {
    fat: f32,
    muscle: f32,
    dome: [f32; 2],
}

impl Torso {
    fn skin(&self, p: Point) -> f32 {
        // A waist below the ribs.
        let waist = 5.0 * ((-p[2] - 20.0) / 60.0).clamp(0.0, 1.0);
        barrel(p, 143.0 - waist, 98.0)
    }

    /// Outer surface of the muscle wall.
    fn wall(&self, p: Point) -> f32 {
        barrel(p, 141.0 - self.fat, 96.0 - 0.6 * self.fat)
    }

    /// Inner surface of the muscle wall, which is thin in front and thicker at the flanks.
    fn cavity(&self, p: Point) -> f32 {
        self.wall(p) + self.muscle * (0.72 + 0.34 * (p[0] / 110.0).powi(2).min(1.0))
    }

    /// Height of the diaphragm over (x, y).
    fn diaphragm(&self, p: Point) -> f32 {
        let dome = |side: f32, top: f32| top - 0.0105 * (p[0] - side * 60.0).powi(2) - 0.011 * (p[1] - 8.0).powi(2);
        -smooth_min(-dome(1.0, self.dome[0]), -dome(-1.0, self.dome[1]), 14.0)
    }
}

/// Draws one of the ranges used below.
fn within(rng: &mut Stream, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

fn jitter(rng: &mut Stream, p: Point, by: f32) -> Point {
    p.map(|v| v + within(rng, -by, by))
}

/// Paint a whole normal body and say which HU it got.
pub fn paint(c: &mut Canvas, s: &Settings, noise: &Noise, rng: &mut Stream) -> Tissue {
    let spread = s.organ_spread_hu;
    let mut about = |hu: f32| hu + within(rng, -spread, spread);
    let (liver, spleen, pancreas) = (about(104.0), about(110.0), about(94.0));
    let (adrenal, bowel_wall, muscle, fat) = (about(74.0), about(74.0), about(58.0), about(-102.0).clamp(-112.0, -92.0));
    let blood = within(rng, s.blood_hu[0], s.blood_hu[1]);
    let tissue = Tissue {
        lung: within(rng, -880.0, -820.0),
        liver,
        pancreas,
        kidney: within(rng, s.kidney_hu[0], s.kidney_hu[1]),
        adrenal,
        bowel_wall,
        blood,
        vein: mix(blood, 0.5 * (s.blood_hu[0] + s.blood_hu[1]), 0.5),
        muscle,
        fat,
        spleen,
        cortical: within(rng, 600.0, 800.0),
        spongiosa: within(rng, 240.0, 340.0),
    };
    let torso =
        Torso { fat: within(rng, 7.0, 20.0), muscle: within(rng, 11.0, 15.0), dome: [within(rng, 6.0, 16.0), within(rng, -2.0, 9.0)] };
    frame(c, &tissue, torso, noise, rng);
    chest(c, &tissue, torso, noise, rng);
    spine(c, &tissue, noise, rng);
    stomach(c, s, &tissue, torso, noise, rng);
    upper_organs(c, &tissue, torso, noise, rng);
    retroperitoneum(c, &tissue, noise, rng);
    bowel(c, s, &tissue, torso, noise, rng);
    look_alikes(c, s, &tissue, rng);
    tissue
}

/// Table, skin, fat, muscle wall, ribs.
fn frame(c: &mut Canvas, t: &Tissue, torso: Torso, noise: &Noise, rng: &mut Stream) {
    let top = -within(rng, 104.0, 110.0);
    // A slightly hollow couch: a thin shell around foam.
    let couch = |p: Point| (p[1] - top - 0.0009 * p[0] * p[0]).max(top - 14.0 - p[1]).max(p[0].abs() - 120.0);
    c.paint([[-125.0, top - 15.0, -1e4], [125.0, top + 16.0, 1e4]], couch, &[(0.0, KEEP), (2.5, KEEP)], |layer, _| {
        if layer == 0 { -120.0 } else { -930.0 }
    });
    c.paint(
        EVERYWHERE,
        |p| torso.skin(p),
        &[(0.0, SKIN), (2.2, FAT)],
        |layer, p| {
            if layer == 0 { 10.0 } else { t.fat + 7.0 * noise.waves(p, 14.0) }
        },
    );
    c.paint(
        EVERYWHERE,
        |p| torso.wall(p) + 1.5 * noise.waves(p, 30.0),
        &[(0.0, MUSCLE)],
        |_, p| {
            // Fat between the sheets of muscle.
            t.muscle - 90.0 * (noise.at([p[0] / 30.0, p[1] / 30.0, p[2] / 11.0]) - 0.35).max(0.0)
        },
    );
    c.paint(EVERYWHERE, |p| torso.cavity(p) + 1.5 * noise.waves(p, 24.0), &[(0.0, VISCERAL)], |_, p| t.fat + 10.0 * noise.waves(p, 12.0));
    let phase = within(rng, 0.0, 27.0);
    let rib = |p: Point| {
        let z = p[2] + 0.45 * p[1];
        let across = wrap(z - phase, 27.0).abs() - 6.0;
        let behind_spine = 16.0 - p[0].abs();
        (torso.wall(p) + 0.5 * torso.muscle).abs().max(across + 4.2).max(-62.0 - z).max(behind_spine) - 4.2
    };
    c.paint([[-145.0, -100.0, -110.0], [145.0, 100.0, 1e4]], rib, &[(0.0, BONE), (1.8, BONE)], |layer, p| match layer {
        _ if p[1] > 52.0 => 110.0,
        0 => 0.85 * t.cortical,
        _ => t.spongiosa,
    });
    let sternum = |p: Point| (torso.wall(p) + 0.5 * torso.muscle).abs().max(p[0].abs() - 11.0).max(18.0 - p[2]).max(40.0 - p[1]) - 4.0;
    c.paint([[-25.0, 40.0, 10.0], [25.0, 100.0, 1e4]], sternum, &[(0.0, BONE), (2.0, BONE)], |layer, _| {
        if layer == 0 { 0.6 * t.cortical } else { 0.8 * t.spongiosa }
    });
}

/// Lungs with vessels and airways, mediastinum, heart, diaphragm.
fn chest(c: &mut Canvas, t: &Tissue, torso: Torso, noise: &Noise, rng: &mut Stream) {
    let lung = |p: Point| (torso.cavity(p) + 2.0).max(torso.diaphragm(p) - p[2]);
    for (side, label) in [(1.0, LUNG[0]), (-1.0, LUNG[1])] {
        let bounds = if side > 0.0 { [[0.0, -100.0, -90.0], [150.0, 100.0, 1e4]] } else { [[-150.0, -100.0, -90.0], [0.0, 100.0, 1e4]] };
        // The lower (back) parts hold more blood.
        c.paint(
            bounds,
            |p| lung(p).max(8.0 - side * p[0]),
            &[(0.0, label)],
            |_, p| t.lung - 0.25 * (p[1] + 20.0) + 14.0 * noise.waves(p, 26.0),
        );
    }
    let middle = |p: Point| {
        let low = ((20.0 - p[2]) / 60.0).clamp(0.0, 1.0);
        let narrow = 1.0 - 0.45 * (p[1] / 80.0).clamp(0.0, 1.0);
        ellipsoid([p[0], p[1], 0.0], [-2.0, 2.0, 0.0], [(30.0 + 8.0 * low) * narrow, 86.0, 1.0]).max(torso.cavity(p))
            + 3.0 * noise.waves(p, 28.0)
    };
    c.paint([[-60.0, -95.0, -60.0], [60.0, 95.0, 1e4]], middle, &[(0.0, VISCERAL)], |_, p| t.fat + 10.0 * noise.waves(p, 11.0));

    let heart = jitter(rng, [-26.0, 22.0, 30.0], 4.0);
    let radii = [within(rng, 46.0, 54.0), within(rng, 38.0, 44.0), within(rng, 38.0, 44.0)];
    let tilted = |p: Point| [p[0], p[1], p[2] + 0.25 * (p[0] - heart[0])];
    let shape = |p: Point| ellipsoid(tilted(p), heart, radii) + 3.0 * noise.waves(p, 30.0);
    c.paint(around(heart, [62.0, 50.0, 60.0]), shape, &[(0.0, VISCERAL), (3.0, MUSCLE), (4.5, HEART)], |layer, _| match layer {
        0 => t.fat,
        1 => 30.0,
        _ => 0.8 * t.blood + 5.0,
    });
    let myocardium = 0.8 * t.blood + 5.0;
    for (offset, size) in
        [([-16.0, -8.0, -4.0], [19.0, 15.0, 20.0]), ([14.0, 10.0, -6.0], [17.0, 16.0, 20.0]), ([6.0, -14.0, 14.0], [18.0, 12.0, 12.0])]
    {
        let at: Point = std::array::from_fn(|a| heart[a] + offset[a]);
        c.blob(at, size, HEART, t.blood.max(myocardium + 8.0) + within(rng, -4.0, 4.0));
    }

    for side in [1.0f32, -1.0] {
        let label = if side > 0.0 { LUNG[0] } else { LUNG[1] };
        for _ in 0..10 {
            let root = jitter(rng, [side * 38.0, -4.0, 42.0], 9.0);
            let way = unit([side * within(rng, 0.3, 1.0), within(rng, -0.9, 0.9), within(rng, -1.2, 0.7)]);
            let radius = within(rng, 3.2, 5.2);
            tree(c, rng, (root, radius), way, 30.0, 5, (t.blood - 10.0, label));
        }
        // Main bronchus and two of its branches: a wall around air.
        let hilum = [side * 30.0, -10.0, 56.0];
        let lower = jitter(rng, [side * 46.0, -22.0, 22.0], 5.0);
        let airway = Tube::new(&[([0.0, -14.0, 82.0], 7.5), (hilum, 5.5), (lower, 3.2)], 6);
        c.paint(
            airway.bounds(2.0),
            |p| airway.at(p).0 - 1.5,
            &[(0.0, label), (1.8, AIRWAY)],
            |layer, _| if layer == 0 { 0.0 } else { -990.0 },
        );
    }
    let trachea = Tube::new(&[([0.0, -14.0, 80.0], 8.5), ([1.0, -16.0, 180.0], 8.5)], 4);
    c.paint(
        trachea.bounds(2.0),
        |p| trachea.at(p).0 - 1.5,
        &[(0.0, VISCERAL), (1.8, AIRWAY)],
        |layer, _| if layer == 0 { 20.0 } else { -995.0 },
    );

    let sheet = |p: Point| ((p[2] - torso.diaphragm(p)).max(torso.cavity(p)) + 1.5).abs().max(torso.cavity(p)) - 1.8;
    c.paint(
        [[-140.0, -95.0, -75.0], [140.0, 95.0, 22.0]],
        |p| sheet(p).max(p[2] - torso.diaphragm(p) - 1.0),
        &[(0.0, MUSCLE)],
        |_, _| t.muscle,
    );
}

/// Vertebrae with discs, canal and processes; muscles of the back and psoas.
fn spine(c: &mut Canvas, t: &Tissue, noise: &Noise, rng: &mut Stream) {
    for side in [-1.0f32, 1.0] {
        let back = |p: Point| {
            let d = ellipsoid([p[0], p[1], 0.0], [side * 30.0, -70.0, 0.0], [26.0, 15.5, 1.0]);
            d.max(4.0 - side * p[0]) + 2.0 * noise.waves(p, 17.0)
        };
        c.paint([[-62.0, -92.0, -1e4], [62.0, -50.0, 1e4]], back, &[(0.0, MUSCLE)], |_, p| {
            t.muscle - 45.0 * (noise.waves(p, 8.0) - 0.4).max(0.0)
        });
        let psoas =
            Tube::new(&[([side * 24.0, -48.0, -40.0], 5.0), ([side * 32.0, -46.0, -90.0], 14.0), ([side * 42.0, -38.0, -190.0], 20.0)], 4);
        c.solid(psoas.bounds(1.0), MUSCLE, t.muscle, |p| psoas.at(p).0);
        let crus = Tube::new(&[([side * 16.0, -28.0, 8.0], 4.0), ([side * 15.0, -32.0, -80.0], 3.5)], 3);
        c.solid(crus.bounds(1.0), MUSCLE, t.muscle, |p| crus.at(p).0);
    }
    let column = |p: Point| ellipsoid([p[0], p[1], 0.0], [0.0, -50.0, 0.0], [21.0, 16.0, 1.0]);
    c.solid([[-24.0, -70.0, -1e4], [24.0, -30.0, 1e4]], MUSCLE, 85.0, column);
    let phase = within(rng, 0.0, 33.0);
    let vertebra = |p: Point| {
        let z = wrap(p[2] - phase, 33.0);
        let waist = 1.8 * (1.0 - (z / 13.0).powi(2)).max(0.0);
        let body = (ellipsoid([p[0], p[1], 0.0], [0.0, -50.0, 0.0], [23.0, 17.5, 1.0]) + waist).max(z.abs() - 13.0);
        let ring = (ellipsoid([p[0], p[1], 0.0], [0.0, -73.0, 0.0], [15.0, 12.5, 1.0])).max(z.abs() - 10.0);
        let spinous = (p[0].abs() - 3.6).max(p[1] + 80.0).max(-94.0 - p[1]).max((z + 0.3 * (-80.0 - p[1])).abs() - 9.0);
        let transverse = (p[0].abs() - 34.0).max((p[1] + 70.0 + 0.15 * p[0].abs()).abs() - 4.5).max((z - 4.0).abs() - 5.5);
        body.min(ring).min(spinous).min(transverse)
    };
    let bone = |layer: usize, p: Point| if layer == 0 { t.cortical } else { t.spongiosa + 40.0 * noise.waves(p, 6.0) };
    c.paint([[-37.0, -97.0, -1e4], [37.0, -30.0, 1e4]], vertebra, &[(0.0, BONE), (2.0, BONE)], bone);
    let canal = |p: Point| ellipsoid([p[0], p[1], 0.0], [0.0, -73.5, 0.0], [9.5, 8.0, 1.0]);
    c.paint(
        [[-11.0, -83.0, -1e4], [11.0, -64.0, 1e4]],
        canal,
        &[(0.0, CANAL), (2.2, CANAL)],
        |layer, _| if layer == 0 { -10.0 } else { 32.0 },
    );
}

/// Stomach: wall, food, gas above it.
fn stomach(c: &mut Canvas, s: &Settings, t: &Tissue, torso: Torso, noise: &Noise, rng: &mut Stream) {
    let knots = [
        ([-52.0, -18.0, -8.0], 20.0),
        ([-60.0, 12.0, -34.0], 29.0),
        ([-38.0, 40.0, -66.0], 21.0),
        ([4.0, 38.0, -72.0], 13.0),
        ([30.0, 22.0, -66.0], 8.0),
    ];
    let tube = Tube::new(&knots.map(|(p, r)| (jitter(rng, p, 3.0), r * within(rng, 0.85, 1.15))), 6);
    let level = within(rng, 18.0, 45.0);
    let food = if rng.random_bool(0.3) { within(rng, s.oral_contrast_hu[0], s.oral_contrast_hu[1]) } else { within(rng, 5.0, 45.0) };
    let inside = |p: Point| (tube.at(p).0 + 2.0 * noise.waves(p, 18.0)).max(torso.cavity(p) + 2.0).max(p[2] - torso.diaphragm(p) + 3.0);
    c.paint(tube.bounds(3.0), inside, &[(0.0, STOMACH), (4.0, STOMACH)], |layer, p| {
        if layer == 0 {
            t.bowel_wall + 6.0
        } else {
            mix(food + 12.0 * noise.waves(p, 7.0), -960.0, ((p[1] - level) / 4.0 + 0.5).clamp(0.0, 1.0))
        }
    });
    let gullet =
        Tube::new(&[([-6.0, -27.0, 160.0], 7.0), ([-8.0, -26.0, 40.0], 7.0), ([-22.0, -18.0, 4.0], 8.0), ([-45.0, -14.0, -8.0], 8.0)], 5);
    c.solid(gullet.bounds(1.0), OESOPHAGUS, t.muscle - 8.0, |p| gullet.at(p).0);
    if rng.random_bool(0.5) {
        let air = within(rng, 30.0, 110.0);
        c.blob([-7.0, -25.0, air], [2.5, 2.5, 8.0], KEEP, -700.0);
    }
}

/// Liver with vessels and gallbladder, spleen.
fn upper_organs(c: &mut Canvas, t: &Tissue, torso: Torso, noise: &Noise, rng: &mut Stream) {
    let place = jitter(rng, [-96.0, -36.0, -34.0], 5.0);
    let radii = [within(rng, 26.0, 34.0), within(rng, 36.0, 46.0), within(rng, 36.0, 48.0)];
    let spleen = |p: Point| {
        let d = ellipsoid(p, place, radii) + 3.0 * noise.waves(p, 24.0);
        d.max(torso.cavity(p) + 2.5).max(p[2] - torso.diaphragm(p) + 4.0)
    };
    c.paint(around(place, radii.map(|r| r + 4.0)), spleen, &[(0.0, SPLEEN)], |_, _| t.spleen);

    let (reach, tip, slope) = (within(rng, -70.0, -40.0), within(rng, -118.0, -96.0), within(rng, 0.42, 0.56));
    let fissure = within(rng, 2.0, 12.0);
    let liver = |p: Point| {
        let below = 0.88 * (tip + slope * (118.0 - p[0]) - p[2]);
        let behind = 4.0 - p[1] - 2.5 * (p[0] - 4.0).max(0.0);
        let cleft = 2.0 - (p[0] - fissure).abs().max(20.0 - p[1]).max(p[2] + 42.0);
        let edges = (torso.cavity(p) + 2.5).max(p[2] - torso.diaphragm(p) + 4.0).max(reach - p[0]).max(0.5 * behind);
        -smooth_min(-edges, -below, 12.0).min(-cleft) + 3.0 * noise.waves(p, 38.0)
    };
    c.paint([[-75.0, -92.0, -135.0], [140.0, 95.0, 20.0]], liver, &[(0.0, LIVER)], |_, _| t.liver);
    let bile = jitter(rng, [48.0, 46.0, -76.0], 6.0);
    let size = [within(rng, 11.0, 16.0), within(rng, 15.0, 22.0), within(rng, 13.0, 20.0)];
    c.paint(
        around(bile, size),
        |p| ellipsoid(p, bile, size),
        &[(0.0, GALLBLADDER), (1.8, GALLBLADDER)],
        |layer, _| if layer == 0 { 50.0 } else { 9.0 },
    );

    let vessel_hu = t.vein.max(t.liver + 12.0);
    for (root, radius, ways) in [([30.0, 2.0, -48.0], 4.6, 6), ([24.0, -8.0, -8.0], 4.2, 5)] {
        for n in 0..ways {
            let turn = TAU * (n as f32 + rng.random::<f32>()) / ways as f32;
            let way = unit([0.55 + 0.8 * turn.cos(), 0.8 * turn.sin(), within(rng, -0.5, 0.4) - if root[2] > -20.0 { 0.4 } else { 0.0 }]);
            let start = (jitter(rng, root, 2.0), radius * within(rng, 0.7, 1.0));
            tree(c, rng, start, way, 30.0, 4, (vessel_hu, LIVER));
        }
    }
}

/// Kidneys, adrenals, pancreas, great vessels.
fn retroperitoneum(c: &mut Canvas, t: &Tissue, noise: &Noise, rng: &mut Stream) {
    for (n, side) in [(0, 1.0f32), (1, -1.0)] {
        let place = jitter(rng, [side * 62.0, -46.0, if n == 0 { -92.0 } else { -80.0 }], 4.0);
        let radii = [within(rng, 24.0, 29.0), within(rng, 21.0, 26.0), within(rng, 44.0, 52.0)];
        let lean = |p: Point| [p[0] + side * 0.17 * (p[2] - place[2]), p[1] - 0.08 * (p[2] - place[2]), p[2]];
        let bed = radii.map(|r| r + 7.0);
        c.paint(around(place, bed.map(|r| r + 10.0)), |p| ellipsoid(lean(p), place, bed), &[(0.0, VISCERAL)], |_, _| t.fat);
        // The bed of the adrenal between spine, liver or spleen, and kidney.
        let above = jitter(rng, [side * 33.0, -36.0, if n == 0 { -36.0 } else { -34.0 }], 2.5);
        c.blob(above, [17.0, 20.0, 24.0], VISCERAL, t.fat);
        let shape = |p: Point| ellipsoid(lean(p), place, radii) + 2.0 * noise.waves(p, 16.0);
        let kidney = |layer: usize, p: Point| match layer {
            0 => t.kidney + 6.0,
            _ => t.kidney - 4.0 - 10.0 * noise.waves(p, 9.0).abs(),
        };
        c.paint(around(place, radii.map(|r| r + 10.0)), shape, &[(0.0, KIDNEY[n]), (7.0, KIDNEY[n])], kidney);
        let hilum = [place[0] - side * 13.0, place[1] + 3.0, place[2]];
        let sinus = |p: Point| ellipsoid(lean(p), hilum, [15.0, 8.0, 19.0]) + 3.0 * noise.waves(p, 10.0);
        c.paint(around(hilum, [22.0, 14.0, 26.0]), sinus, &[(0.0, KEEP), (4.5, KEEP)], |layer, _| if layer == 0 { -70.0 } else { 10.0 });

        let gland = |p: Point| {
            let leg = |turn: f32| {
                let (s, co) = (side * turn).sin_cos();
                let d = [p[0] - above[0], p[1] - above[1] + 7.0, p[2] - above[2]];
                ellipsoid([co * d[0] - s * d[1], s * d[0] + co * d[1], d[2]], [0.0; 3], [2.9, 13.0, 15.0])
            };
            smooth_min(leg(0.25), leg(-0.5), 2.0)
        };
        c.solid(around(above, [16.0, 22.0, 17.0]), ADRENAL[n], t.adrenal, gland);
    }

    let lift = within(rng, -6.0, 6.0);
    let knots = [
        ([38.0, 4.0, -84.0], 14.0),
        ([30.0, 12.0, -68.0], 14.5),
        ([4.0, 20.0, -60.0], 9.5),
        ([-30.0, 6.0, -54.0], 9.5),
        ([-62.0, -18.0, -46.0], 9.0),
    ];
    let gland = Tube::new(&knots.map(|(p, r)| (jitter(rng, [p[0], p[1], p[2] + lift], 2.5), r * within(rng, 0.88, 1.15))), 6);
    let lobules = |p: Point| gland.at(p).0 + 2.2 * noise.waves(p, 8.0);
    c.paint(gland.bounds(3.0), |p| gland.at(p).0 - 4.0, &[(0.0, VISCERAL)], |_, _| t.fat);
    c.paint(gland.bounds(3.0), lobules, &[(0.0, PANCREAS)], |_, p| t.pancreas - 30.0 * (noise.waves(p, 5.0) - 0.45).max(0.0));

    let mut pipe = |knots: &[(Point, f32)], label: u8, hu: f32| {
        let tube = Tube::new(knots, 5);
        c.solid(tube.bounds(1.0), label, hu, |p| tube.at(p).0);
    };
    let bulge = within(rng, 0.9, 1.15);
    pipe(
        &[([-9.0, -18.0, 190.0], 12.0), ([-12.0, -22.0, 60.0], 11.5), ([-8.0, -20.0, -20.0], 10.5), ([-5.0, -19.0, -190.0], 9.0)]
            .map(|(p, r)| (p, r * bulge)),
        AORTA,
        t.blood,
    );
    pipe(
        &[([16.0, -2.0, 16.0], 11.0), ([20.0, -10.0, -20.0], 11.5), ([17.0, -16.0, -80.0], 10.5), ([15.0, -18.0, -190.0], 10.0)],
        CAVA,
        t.vein - 4.0,
    );
    pipe(&[([8.0, -4.0, 64.0], 12.0), ([2.0, 4.0, 82.0], 14.0), ([-9.0, -16.0, 98.0], 12.0)], AORTA, t.blood);
    pipe(&[([26.0, 6.0, 50.0], 9.0), ([24.0, 4.0, 190.0], 8.5)], CAVA, t.vein);
    pipe(&[([-34.0, -2.0, 50.0], 9.0), ([0.0, 2.0, 62.0], 12.0), ([36.0, -4.0, 48.0], 9.0)], HEART, t.blood);
    // Splenic vein behind the pancreas, portal vein into the liver, mesenteric vessels down from both.
    pipe(
        &[
            ([-80.0, -26.0, -42.0], 4.0),
            ([-34.0, -6.0, -54.0], 4.6),
            ([6.0, 6.0, -62.0], 6.0),
            ([16.0, 4.0, -58.0], 7.0),
            ([32.0, 2.0, -46.0], 6.6),
        ],
        VEIN,
        t.vein,
    );
    pipe(&[([14.0, 6.0, -64.0], 6.0), ([8.0, 16.0, -110.0], 5.0), ([6.0, 14.0, -180.0], 4.0)], VEIN, t.vein);
    pipe(&[([-6.0, -12.0, -52.0], 4.0), ([-2.0, 4.0, -66.0], 3.8), ([0.0, 14.0, -120.0], 3.4), ([2.0, 12.0, -180.0], 3.0)], AORTA, t.blood);
    for (n, side) in [(0, 1.0f32), (1, -1.0)] {
        let z = if n == 0 { -88.0 } else { -78.0 };
        pipe(&[([side * 6.0, -20.0, z + 4.0], 4.0), ([side * 26.0, -30.0, z], 3.4), ([side * 50.0, -42.0, z], 3.0)], VEIN, t.vein);
    }
}

/// Colon and small bowel: walls, haustra, gas, stool, swallowed contrast.
fn bowel(c: &mut Canvas, s: &Settings, t: &Tissue, torso: Torso, noise: &Noise, rng: &mut Stream) {
    let oral = rng.random_bool(0.4).then(|| within(rng, s.oral_contrast_hu[0], s.oral_contrast_hu[1]));
    for _ in 0..5 {
        let mut at = [within(rng, -60.0, 60.0), within(rng, 0.0, 45.0), within(rng, -165.0, -110.0)];
        let mut knots = Vec::new();
        for _ in 0..5 {
            knots.push((at, within(rng, 8.0, 12.5)));
            at = jitter(rng, at, 36.0);
            at = [at[0].clamp(-75.0, 75.0), at[1].clamp(-8.0, 58.0), at[2].clamp(-185.0, -104.0)];
        }
        let loops = Tube::new(&knots, 4);
        let content = match oral {
            Some(hu) if rng.random_bool(0.5) => hu,
            _ => within(rng, 5.0, 40.0),
        };
        let folds = |p: Point| loops.at(p).0 + 1.2 * noise.waves(p, 6.0);
        c.paint(loops.bounds(2.0), folds, &[(0.0, BOWEL), (3.0, BOWEL)], |layer, p| {
            if layer == 0 { t.bowel_wall + 8.0 } else { content + 12.0 * noise.waves(p, 6.0) }
        });
    }

    let sag = within(rng, -10.0, 10.0);
    let across = [
        ([98.0, -14.0, -200.0], 21.0),
        ([98.0, -8.0, -150.0], 20.0),
        ([92.0, 6.0, -118.0], 19.0),
        ([62.0, 46.0, -104.0], 17.0),
        ([22.0, 60.0, -108.0 + sag], 17.0),
        ([-24.0, 60.0, -102.0 + sag], 17.0),
        ([-68.0, 42.0, -84.0], 17.0),
        ([-92.0, 4.0, -74.0], 16.0),
        ([-98.0, -16.0, -105.0], 14.0),
        ([-96.0, -16.0, -150.0], 14.0),
        ([-94.0, -10.0, -200.0], 14.0),
    ];
    let tube = Tube::new(&across.map(|(p, r)| (jitter(rng, p, 4.0), r * within(rng, 0.8, 1.12))), 5);
    let (haustra, level) = (within(rng, 24.0, 34.0), within(rng, 6.0, 14.0));
    let inside = |p: Point| {
        let (d, along) = tube.at(p);
        (d + 2.4 * (TAU * along / haustra).cos() + 1.2 * noise.waves(p, 15.0)).max(torso.cavity(p) + 2.0)
    };
    let content = |p: Point| {
        let along = tube.at(p).1;
        // Along the colon stretches of gas, of stool and of both; gas floats to the front.
        let gas = noise.at([along / 70.0, 3.3, 8.1]) * 26.0 + level;
        let front = p[1] - tube.centre(along)[1];
        let stool = match oral {
            Some(hu) => hu * (0.9 + 0.25 * noise.waves(p, 9.0)),
            None => 35.0 + 45.0 * noise.waves(p, 7.0) - 500.0 * (noise.waves(p, 4.5) - 0.55).max(0.0),
        };
        mix(stool, -960.0, ((front + gas - 8.0) / 4.0).clamp(0.0, 1.0))
    };
    c.paint(tube.bounds(4.0), inside, &[(0.0, COLON), (3.2, COLON)], |layer, p| if layer == 0 { t.bowel_wall } else { content(p) });
}

/// What is not a lesion but looks like one: cysts and nodes.
fn look_alikes(c: &mut Canvas, s: &Settings, t: &Tissue, rng: &mut Stream) {
    for _ in 0..rng.random_range(s.cysts[0]..=s.cysts[1]) {
        let organ = [LIVER, KIDNEY[0], KIDNEY[1]][rng.random_range(0..3)];
        let r = if organ == LIVER { within(rng, 4.0, 17.0) } else { within(rng, 4.0, 13.0) };
        let place = if organ == LIVER {
            [within(rng, 15.0, 100.0), within(rng, -40.0, 55.0), within(rng, -70.0, -15.0)]
        } else {
            let side = if organ == KIDNEY[0] { 1.0 } else { -1.0 };
            [side * within(rng, 66.0, 84.0), within(rng, -60.0, -34.0), within(rng, -120.0, -55.0)]
        };
        c.within(organ, place, r, within(rng, 2.0, 14.0));
    }
    for _ in 0..rng.random_range(s.nodes[0]..=s.nodes[1]) {
        let side = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
        let place = [side * within(rng, 16.0, 32.0), within(rng, -26.0, 14.0), within(rng, -150.0, 70.0)];
        c.within(VISCERAL, place, within(rng, 3.0, 6.0), t.muscle + within(rng, 15.0, 40.0));
    }
}

fn unit(v: Point) -> Point {
    let n = norm(v).max(1e-6);
    v.map(|x| x / n)
}

/// A vessel that splits in two again and again. `paint` is its HU and the organ it stays in.
fn tree(c: &mut Canvas, rng: &mut Stream, (from, radius): (Point, f32), way: Point, length: f32, splits: u32, paint: (f32, u8)) {
    let way = unit(jitter(rng, way, 0.25));
    let to: Point = std::array::from_fn(|a| from[a] + length * way[a]);
    let end = 0.87 * radius;
    c.vessel((from, radius), (to, end), paint.0, paint.1);
    if splits == 0 {
        return;
    }
    let turn = unit(jitter(rng, [0.0; 3], 1.0));
    for sign in [1.0, -1.0] {
        let next = unit(std::array::from_fn(|a| way[a] + sign * 0.55 * turn[a]));
        let (thinner, shorter) = (within(rng, 0.72, 0.95), within(rng, 0.65, 0.95));
        tree(c, rng, (to, end * thinner), next, length * shorter, splits - 1, paint);
    }
}
