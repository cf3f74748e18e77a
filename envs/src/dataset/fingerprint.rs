//! A cohort in numbers: grids, intensities, lesions. What a plan is made from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::tally;
use super::facts::{CaseFacts, HuHistogram, LesionFacts};

/// How a figure is spread over cases or lesions: percentiles by linear interpolation, as numpy's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub min: f64,
    pub p10: f64,
    pub p25: f64,
    pub median: f64,
    pub p75: f64,
    pub p90: f64,
    pub max: f64,
}

impl Spread {
    /// `None` where there are no values.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |q: f64| {
            let place = q * last as f64;
            let (lo, hi) = (place as usize, (place as usize + 1).min(last));
            sorted[lo] + place.fract() * (sorted[hi] - sorted[lo])
        };
        Some(Spread { min: at(0.0), p10: at(0.1), p25: at(0.25), median: at(0.5), p75: at(0.75), p90: at(0.9), max: at(1.0) })
    }
}

/// HU of many voxels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HuFigures {
    pub voxels: u64,
    pub mean: f64,
    pub std: f64,
    /// 0.5th, 50th and 99.5th percentile.
    pub p0_5: f64,
    pub median: f64,
    pub p99_5: f64,
}

impl HuFigures {
    fn of(histogram: &HuHistogram) -> Option<Self> {
        let (mean, std) = histogram.moments()?;
        let at = |q| histogram.percentile(q);
        Some(HuFigures { voxels: histogram.count(), mean, std, p0_5: at(0.005)?, median: at(0.5)?, p99_5: at(0.995)? })
    }
}

/// What a cohort looks like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Scans that could be read.
    pub cases: usize,
    /// Of them with at least one lesion.
    pub with_lesions: usize,
    /// How many scans are stored in each orientation.
    pub orientations: BTreeMap<String, usize>,
    /// Along R, A, S.
    pub spacing_mm: [Spread; 3],
    /// Voxels along R, A, S as stored.
    pub shape: [Spread; 3],
    pub extent_mm: [Spread; 3],
    /// Voxels above -400 HU.
    pub body_hu: Option<HuFigures>,
    pub lesion_hu: Option<HuFigures>,
    pub lesions: usize,
    /// In scans with at least one.
    pub lesions_per_scan: Option<Spread>,
    pub lesion_ml: Option<Spread>,
    /// Sides of the lesions' boxes along R, A, S.
    pub lesion_extent_mm: Option<[Spread; 3]>,
    /// Of each lesion: its mean HU less that of its surroundings.
    pub lesion_contrast_hu: Option<Spread>,
}

/// The numbers of a cohort; `None` where no scan could be read.
pub fn fingerprint(facts: &[CaseFacts]) -> Option<Fingerprint> {
    let (mut body, mut lesion) = (HuHistogram::default(), HuHistogram::default());
    for f in facts {
        body.merge(&f.body);
        lesion.merge(&f.lesion);
    }
    let lesions: Vec<&LesionFacts> = facts.iter().flat_map(|f| &f.lesions).collect();
    let of_lesions = |value: &dyn Fn(&LesionFacts) -> f64| Spread::of(lesions.iter().map(|l| value(l)));
    let with: Vec<f64> = facts.iter().map(|f| f.lesions.len() as f64).filter(|&n| n > 0.0).collect();
    Some(Fingerprint {
        cases: facts.len(),
        with_lesions: with.len(),
        orientations: tally(facts, |f| f.orientation.clone()),
        spacing_mm: along(|a| Spread::of(facts.iter().map(|f| f.spacing_mm[a])))?,
        shape: along(|a| Spread::of(facts.iter().map(|f| f.shape[a] as f64)))?,
        extent_mm: along(|a| Spread::of(facts.iter().map(|f| f.shape[a] as f64 * f.spacing_mm[a])))?,
        body_hu: HuFigures::of(&body),
        lesion_hu: HuFigures::of(&lesion),
        lesions: lesions.len(),
        lesions_per_scan: Spread::of(with.into_iter()),
        lesion_ml: of_lesions(&|l| l.volume_ml),
        lesion_extent_mm: along(|a| of_lesions(&|l| l.extent_mm[a])),
        lesion_contrast_hu: Spread::of(lesions.iter().filter_map(|l| l.contrast_hu)),
    })
}

/// One of each axis, if every axis has one.
fn along(of: impl Fn(usize) -> Option<Spread>) -> Option<[Spread; 3]> {
    Some([of(0)?, of(1)?, of(2)?])
}

#[test]
fn percentiles_are_numpys() {
    let spread = Spread::of([4.0, 1.0, 3.0, 2.0, 10.0].into_iter()).unwrap();
    assert_eq!(spread, Spread { min: 1.0, p10: 1.4, p25: 2.0, median: 3.0, p75: 4.0, p90: 7.6000000000000005, max: 10.0 });
    assert_eq!(Spread::of([7.0].into_iter()).unwrap().p90, 7.0);
    assert!(Spread::of(std::iter::empty()).is_none());
}
