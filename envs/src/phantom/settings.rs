//! The knobs of a cohort.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A named set of [`Settings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// 64x64x40 at 5 mm, bright lesions of 1 mL and more: a tiny network learns it in minutes.
    Demo,
    /// 300x250x100 at 1.5x1.5x3 mm, lesions of 0.05-500 mL, faint to clear, darker or brighter.
    Standard,
}

impl Preset {
    pub const ALL: [Preset; 2] = [Preset::Demo, Preset::Standard];
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preset::Demo => "demo",
            Preset::Standard => "standard",
        })
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Preset::ALL
            .into_iter()
            .find(|p| p.to_string() == s)
            .ok_or_else(|| Error::Setting(format!("unknown phantom preset `{s}`, expected `demo` or `standard`; choose one of the two")))
    }
}

/// Everything that shapes a cohort but the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Voxels along x (to the right), y (to the front), z (to the head).
    pub shape: [usize; 3],
    /// Voxel size in mm along the same axes.
    pub spacing_mm: [f64; 3],
    /// Size of the bodies; 1 is about 290 mm wide and fits a field of view of 320 mm.
    pub body_scale: f64,
    /// Standard deviation of the scanner noise in HU, on average over the slice. More is harder.
    pub noise_hu: f32,
    /// Side weight, 0 to 0.33, of the three-tap kernel that correlates the noise with its neighbours in the slice.
    pub noise_correlation: f32,
    /// Amplitude in HU of the mottle of tissue (features of 9 and 23 mm). More is harder.
    pub texture_hu: f32,
    /// Share of scans without any lesion, 0 to 1.
    pub lesion_free_fraction: f64,
    /// Chances of 1, 2, 3 and 4 lesions in a scan that has some.
    pub lesion_counts: [f64; 4],
    /// How often each lesion type is drawn, in the order of its class; 0 leaves a type out.
    pub kind_weights: [f64; 9],
    /// Smallest and largest lesion in mL.
    pub volume_ml: [f64; 2],
    /// Median in mL of the log-normal distribution that volumes are drawn from; types shift it (a nodule is small, an effusion large).
    pub volume_median_ml: f64,
    /// Standard deviation of the natural logarithm of the volume.
    pub volume_sigma: f64,
    /// Smallest and largest difference in HU between a soft-tissue lesion and its organ. Lung lesions have HU of their own. Less is harder.
    pub contrast_hu: [f32; 2],
    /// Lowest and highest HU of solid lung tumours; enhancing ones stand out from muscle too. Nodules are of their kind, at most this bright.
    pub lung_tumour_hu: [f32; 2],
    /// Share of soft-tissue lesions that are darker than their organ, 0 to 1; cysts are then much alike. More is harder.
    pub darker_fraction: f64,
    /// Mottle inside a lesion, as a share of its contrast. More is harder.
    pub heterogeneity: f32,
    /// How strongly a lesion's surface is warped, as a share of its radius.
    pub irregularity: f32,
    /// Fewest and most cysts in liver and kidneys: dark, sharp, not lesions.
    pub cysts: [usize; 2],
    /// Fewest and most small round nodes in the fat along the great vessels: not lesions.
    pub nodes: [usize; 2],
    /// HU of enhanced blood, lowest and highest over the cases. Near the lesions' HU is harder.
    pub blood_hu: [f32; 2],
    /// HU of the kidneys' cortex, lowest and highest over the cases.
    pub kidney_hu: [f32; 2],
    /// HU of swallowed contrast in bowel, lowest and highest over the cases; some cases have none.
    pub oral_contrast_hu: [f32; 2],
    /// Random difference in HU, either way, of each organ from its usual value.
    pub organ_spread_hu: f32,
}

impl Settings {
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::Demo => Settings {
                shape: [64, 64, 40],
                spacing_mm: [5.0; 3],
                body_scale: 1.0,
                noise_hu: 10.0,
                noise_correlation: 0.1,
                texture_hu: 4.0,
                lesion_free_fraction: 1.0 / 3.0,
                lesion_counts: [0.3, 0.3, 0.25, 0.15],
                // Enhancing tumours of solid organs are what a tiny network learns in minutes; every type still occurs.
                kind_weights: [1.5, 0.5, 0.1, 0.15, 2.0, 1.2, 1.5, 0.8, 0.8],
                volume_ml: [1.0, 60.0],
                volume_median_ml: 10.0,
                volume_sigma: 0.7,
                contrast_hu: [70.0, 110.0],
                lung_tumour_hu: [170.0, 210.0],
                darker_fraction: 0.0,
                heterogeneity: 0.05,
                irregularity: 0.15,
                cysts: [0, 2],
                nodes: [0, 1],
                blood_hu: [118.0, 130.0],
                kidney_hu: [115.0, 128.0],
                oral_contrast_hu: [330.0, 450.0],
                organ_spread_hu: 4.0,
            },
            Preset::Standard => Settings {
                shape: [300, 250, 100],
                spacing_mm: [1.5, 1.5, 3.0],
                body_scale: 1.15,
                noise_hu: 16.0,
                noise_correlation: 0.22,
                texture_hu: 7.0,
                kind_weights: [1.0; 9],
                volume_ml: [0.05, 500.0],
                volume_median_ml: 14.0,
                volume_sigma: 1.6,
                contrast_hu: [15.0, 120.0],
                lung_tumour_hu: [10.0, 55.0],
                darker_fraction: 0.6,
                heterogeneity: 0.35,
                irregularity: 0.22,
                cysts: [0, 5],
                nodes: [2, 8],
                blood_hu: [120.0, 210.0],
                kidney_hu: [140.0, 190.0],
                oral_contrast_hu: [160.0, 380.0],
                organ_spread_hu: 14.0,
                ..Settings::preset(Preset::Demo)
            },
        }
    }

    /// The same bodies and lesions in the same field of view, on other voxels (mm); as they are where none is given.
    pub fn at_spacing(self, spacing_mm: Option<[f64; 3]>) -> Self {
        let Some(spacing_mm) = spacing_mm else { return self };
        let shape = std::array::from_fn(|a| (self.shape[a] as f64 * self.spacing_mm[a] / spacing_mm[a]).round() as usize);
        Settings { shape, spacing_mm, ..self }
    }

    /// Refuses settings no cohort can be made from.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str, rule: &str| Err(Error::Setting(format!("phantom setting `{what}` must be {rule}; change it")));
        let share = |v: f64| (0.0..=1.0).contains(&v);
        let ordered = |r: [f32; 2]| r[0].is_finite() && r[1].is_finite() && r[0] <= r[1];
        let weights = |w: &[f64]| w.iter().all(|v| v.is_finite() && *v >= 0.0) && w.iter().sum::<f64>() > 0.0;
        match () {
            // First: the shape may follow from it.
            _ if !self.spacing_mm.iter().all(|v| (0.2..=20.0).contains(v)) => {
                bad("spacing_mm", &format!("0.2 to 20 mm, not {:?}", self.spacing_mm))
            }
            _ if self.shape.iter().any(|&n| !(8..=1024).contains(&n)) => bad(
                "shape",
                &format!(
                    "8 to 1024 voxels along each axis, not {:?} (voxels of {:?} mm in the field of view)",
                    self.shape, self.spacing_mm
                ),
            ),
            _ if !(0.5..=2.0).contains(&self.body_scale) => bad("body_scale", "0.5 to 2"),
            _ if !(0.0..=500.0).contains(&self.noise_hu) => bad("noise_hu", "0 to 500 HU"),
            _ if !(0.0..=0.33).contains(&self.noise_correlation) => bad("noise_correlation", "0 to 0.33"),
            _ if !(0.0..=500.0).contains(&self.texture_hu) => bad("texture_hu", "0 to 500 HU"),
            _ if !share(self.lesion_free_fraction) => bad("lesion_free_fraction", "0 to 1"),
            _ if !weights(&self.lesion_counts) => bad("lesion_counts", "not negative, with one above 0"),
            _ if !weights(&self.kind_weights) => bad("kind_weights", "not negative, with one above 0"),
            _ if !(self.volume_ml[0] > 0.0 && self.volume_ml[0] <= self.volume_ml[1] && self.volume_ml[1] < 1e4) => {
                bad("volume_ml", "two volumes above 0 mL, the smaller first")
            }
            _ if !(self.volume_median_ml > 0.0 && self.volume_median_ml.is_finite()) => bad("volume_median_ml", "above 0 mL"),
            _ if !(0.0..=5.0).contains(&self.volume_sigma) => bad("volume_sigma", "0 to 5"),
            _ if !ordered(self.contrast_hu) || self.contrast_hu[0] < 0.0 => {
                bad("contrast_hu", "two differences of 0 HU or more, the smaller first")
            }
            _ if !share(self.darker_fraction) => bad("darker_fraction", "0 to 1"),
            _ if !(0.0..=1.0).contains(&self.heterogeneity) => bad("heterogeneity", "0 to 1"),
            _ if !(0.0..=0.5).contains(&self.irregularity) => bad("irregularity", "0 to 0.5"),
            _ if self.cysts[0] > self.cysts[1] || self.cysts[1] > 100 => bad("cysts", "two counts up to 100, the smaller first"),
            _ if self.nodes[0] > self.nodes[1] || self.nodes[1] > 100 => bad("nodes", "two counts up to 100, the smaller first"),
            _ if !ordered(self.blood_hu) => bad("blood_hu", "two HU values, the smaller first"),
            _ if !ordered(self.kidney_hu) => bad("kidney_hu", "two HU values, the smaller first"),
            _ if !ordered(self.oral_contrast_hu) => bad("oral_contrast_hu", "two HU values, the smaller first"),
            _ if !(0.0..=200.0).contains(&self.organ_spread_hu) => bad("organ_spread_hu", "0 to 200 HU"),
            _ => Ok(()),
        }
    }
}
