//! What there is to know about one case before anything is done with it: its grid, its intensities, its lesions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::LesionClasses;
use crate::Result;
use crate::volume::components::{Component, Components, Connectivity};
use crate::volume::runs::Runs;
use crate::volume::{Geometry, Labels, Orientation, Volume, resample_labels, same_grid};

/// How far around a lesion its surroundings go.
const SURROUNDINGS_MM: f64 = 5.0;
/// Above it is body: soft tissue and bone, no air and no lung.
const BODY_HU: f32 = -400.0;

/// A scan and, where they are known, its lesions.
#[derive(Clone, Debug, Serialize)]
pub struct CaseFacts {
    pub name: String,
    /// Voxels along R, A, S.
    pub shape: [usize; 3],
    /// mm along R, A, S.
    pub spacing_mm: [f64; 3],
    /// Where the stored axes run: `LPS`, `RAS`, ...
    pub orientation: String,
    pub hu_min: f32,
    pub hu_max: f32,
    pub intensity: Intensity,
    /// Voxels of each label value but 0; empty where there is no label.
    pub classes: BTreeMap<u8, u64>,
    /// Connected parts (26 neighbours) of the lesion classes.
    pub lesions: Vec<LesionFacts>,
    /// BLAKE3 of shape and voxels, both along R, A, S: equal for the same scan however it is stored.
    pub content: String,
    #[serde(skip)]
    pub body: HuHistogram,
    #[serde(skip)]
    pub lesion: HuHistogram,
}

/// One connected lesion.
#[derive(Clone, Debug, Serialize)]
pub struct LesionFacts {
    pub volume_ml: f64,
    /// Sides of its box along R, A, S.
    pub extent_mm: [f64; 3],
    /// Its middle in the world (R, A, S).
    pub centre_mm: [f64; 3],
    pub mean_hu: f64,
    /// Its mean less the mean of what lies within 5 mm of its box and is no lesion.
    pub contrast_hu: Option<f64>,
    /// Voxels left on the resampled grid; `None` where nothing is resampled.
    pub resampled_voxels: Option<u64>,
}

/// What the numbers of a scan mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intensity {
    Hu,
    /// HU cut at a window: much of the scan has one of these values.
    Clipped {
        low: f32,
        high: f32,
    },
    /// No value below 0, many above 255: HU + 1024 stored without its intercept.
    Shifted,
    /// 0 to 255: a picture of a window.
    EightBit,
    /// Within 10 of 0: scaled or standardised.
    Normalised,
    Constant,
}

impl Intensity {
    /// Of a scan by its extremes and the share of voxels at each of them.
    fn of(min: f32, max: f32, at_min: f64, at_max: f64) -> Self {
        match (min, max) {
            _ if min == max => Intensity::Constant,
            _ if min >= -10.0 && max <= 10.0 => Intensity::Normalised,
            _ if min >= 0.0 && max <= 255.0 => Intensity::EightBit,
            _ if min >= 0.0 => Intensity::Shifted,
            // Air is where a scan ends below, and scanners saturate at 3071: neither is a window.
            _ if (min > -800.0 && at_min > 0.02) || (max < 2500.0 && at_max > 0.002) => Intensity::Clipped { low: min, high: max },
            _ => Intensity::Hu,
        }
    }

    /// In a few words.
    pub fn words(self) -> String {
        match self {
            Intensity::Hu => "HU".into(),
            Intensity::Clipped { low, high } => format!("HU clipped to {low:.0}..{high:.0}"),
            Intensity::Shifted => "HU + 1024 without an intercept".into(),
            Intensity::EightBit => "an 8-bit window 0..255".into(),
            Intensity::Normalised => "normalised values".into(),
            Intensity::Constant => "one value everywhere".into(),
        }
    }
}

/// Counts of voxels by whole HU, -1024 to 3071; what lies beyond is counted at the ends.
#[derive(Clone, Debug, Default)]
pub struct HuHistogram {
    counts: Vec<u64>,
}

impl HuHistogram {
    const LOWEST: f32 = -1024.0;
    const BINS: usize = 4096;

    pub fn add(&mut self, hu: f32) {
        self.counts.resize(Self::BINS, 0);
        self.counts[((hu.round() - Self::LOWEST).max(0.0) as usize).min(Self::BINS - 1)] += 1;
    }

    pub fn merge(&mut self, other: &HuHistogram) {
        if !other.counts.is_empty() {
            self.counts.resize(Self::BINS, 0);
            self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        }
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn values(&self) -> impl Iterator<Item = (f64, u64)> {
        self.counts.iter().enumerate().map(|(i, &n)| (i as f64 + Self::LOWEST as f64, n))
    }

    /// The value that a share `q` of the voxels does not exceed.
    pub fn percentile(&self, q: f64) -> Option<f64> {
        let wanted = (q * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.values()
            .find(|(_, n)| {
                seen += n;
                seen >= wanted && self.count() > 0
            })
            .map(|(v, _)| v)
    }

    /// Mean and standard deviation.
    pub fn moments(&self) -> Option<(f64, f64)> {
        let n = self.count() as f64;
        let mean = self.values().map(|(v, n)| v * n as f64).sum::<f64>() / n;
        let variance = self.values().map(|(v, n)| (v - mean).powi(2) * n as f64).sum::<f64>() / n;
        (n > 0.0).then_some((mean, variance.sqrt()))
    }
}

/// Letters of the directions in which the stored axes run.
fn letters(turned: &Orientation) -> String {
    let mut letters = [' '; 3];
    for c in 0..3 {
        letters[turned.axes[c]] = [['R', 'A', 'S'], ['L', 'P', 'I']][turned.flip[c] as usize][c];
    }
    letters.iter().collect()
}

/// Look at a scan and its labels. `spacing_mm`: the grid whose losses are counted.
///
/// # Errors
/// Labels on another grid than the scan, a grid too fine to count on.
pub(super) fn gather(
    name: &str,
    volume: &Volume,
    labels: Option<&Labels>,
    lesion: &LesionClasses,
    spacing_mm: Option<[f64; 3]>,
) -> Result<CaseFacts> {
    let turned = Orientation::of(&volume.geometry);
    let grid = turned.turn(&volume.geometry);
    let hu = turned.turn_voxels(&volume.data, volume.shape());
    let (min, max) = hu.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
    let share = |at: f32| hu.iter().filter(|&&v| v == at).count() as f64 / hu.len() as f64;
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{:?}", grid.shape).as_bytes());
    // In pieces: the bytes of a whole scan would be a second copy of it.
    for piece in hu.chunks(1 << 14) {
        hasher.update(&piece.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    }
    let mut facts = CaseFacts {
        name: name.to_owned(),
        shape: grid.shape,
        spacing_mm: grid.spacing_mm(),
        orientation: letters(&turned),
        hu_min: min,
        hu_max: max,
        intensity: Intensity::of(min, max, share(min), share(max)),
        classes: BTreeMap::new(),
        lesions: Vec::new(),
        content: hasher.finalize().to_hex()[..32].to_owned(),
        body: HuHistogram::default(),
        lesion: HuHistogram::default(),
    };
    hu.iter().filter(|v| **v > BODY_HU).for_each(|&v| facts.body.add(v));
    if let Some(labels) = labels {
        let classes = same_grid(&grid, labels)?.turn_voxels(&labels.data, labels.shape());
        let mut counts = [0u64; 256];
        classes.iter().for_each(|&v| counts[v as usize] += 1);
        facts.classes = (1..=255).filter(|&v| counts[v as usize] > 0).map(|v| (v, counts[v as usize])).collect();
        let mask: Vec<u8> = classes.iter().map(|&v| lesion.contains(v) as u8).collect();
        drop(classes);
        hu.iter().zip(&mask).filter(|(_, m)| **m > 0).for_each(|(&v, _)| facts.lesion.add(v));
        facts.lesions = lesions(&hu, &mask, &grid, spacing_mm)?;
    }
    Ok(facts)
}

/// Every connected lesion of a mask, both along R, A, S.
fn lesions(hu: &[f32], mask: &[u8], grid: &Geometry, spacing_mm: Option<[f64; 3]>) -> Result<Vec<LesionFacts>> {
    let runs = Runs::of(mask, grid.shape);
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let components = Components::of(&runs, Connectivity::Corner);
    let mut sums = vec![0f64; components.count()];
    let [_, ny, nz] = grid.shape;
    runs.for_each(|x, y, i, run| {
        let row = (x * ny + y) * nz;
        let values = &hu[row + run.start as usize..row + run.end as usize];
        sums[components.of_run[i] as usize - 1] += values.iter().map(|&v| v as f64).sum::<f64>();
    });
    let left = match spacing_mm {
        Some(spacing_mm) => {
            let mut left = vec![0u64; components.count() + 1];
            resample_labels(&components.labels(&runs), grid, spacing_mm)?.iter().for_each(|&c| left[c as usize] += 1);
            Some(left)
        }
        None => None,
    };
    let mm = grid.spacing_mm();
    let facts = |(i, part): (usize, &Component)| {
        let mean_hu = sums[i] / part.voxels as f64;
        LesionFacts {
            volume_ml: part.volume_ml(grid.voxel_ml()),
            extent_mm: std::array::from_fn(|a| (part.box_end[a] - part.box_start[a]) as f64 * mm[a]),
            centre_mm: grid.world(part.centroid),
            mean_hu,
            contrast_hu: around(hu, mask, grid, part).map(|around| mean_hu - around),
            resampled_voxels: left.as_ref().map(|left| left[i + 1]),
        }
    };
    Ok(components.parts.iter().enumerate().map(facts).collect())
}

/// Mean HU of what lies around a lesion's box and is no lesion.
fn around(hu: &[f32], mask: &[u8], grid: &Geometry, part: &Component) -> Option<f64> {
    let mm = grid.spacing_mm();
    let margin: [usize; 3] = std::array::from_fn(|a| (SURROUNDINGS_MM / mm[a]).ceil().min(grid.shape[a] as f64) as usize);
    let [xs, ys, zs] =
        std::array::from_fn(|a| part.box_start[a].saturating_sub(margin[a])..(part.box_end[a] + margin[a]).min(grid.shape[a]));
    let (mut sum, mut count) = (0.0, 0u64);
    for x in xs {
        for y in ys.clone() {
            let row = (x * grid.shape[1] + y) * grid.shape[2];
            for i in row + zs.start..row + zs.end {
                if mask[i] == 0 {
                    sum += hu[i] as f64;
                    count += 1;
                }
            }
        }
    }
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_numbers_of_a_scan_mean() {
        for (min, max, at_min, at_max, want) in [
            (-1024.0, 3071.0, 0.4, 0.0, Intensity::Hu),
            (-3024.0, 3071.0, 0.2, 0.01, Intensity::Hu),
            (-1000.0, 1400.0, 0.5, 0.00001, Intensity::Hu),
            (-120.0, 900.0, 0.0001, 0.0, Intensity::Hu),
            (-175.0, 250.0, 0.5, 0.04, Intensity::Clipped { low: -175.0, high: 250.0 }),
            (-1024.0, 1000.0, 0.5, 0.01, Intensity::Clipped { low: -1024.0, high: 1000.0 }),
            (0.0, 4095.0, 0.2, 0.0, Intensity::Shifted),
            (0.0, 255.0, 0.2, 0.2, Intensity::EightBit),
            (0.0, 1.0, 0.2, 0.2, Intensity::Normalised),
            (-3.2, 6.0, 0.0, 0.0, Intensity::Normalised),
            (7.0, 7.0, 1.0, 1.0, Intensity::Constant),
        ] {
            assert_eq!(Intensity::of(min, max, at_min, at_max), want);
        }
    }

    #[test]
    fn histograms_know_percentiles_and_moments() {
        let mut h = HuHistogram::default();
        assert!(h.percentile(0.5).is_none() && h.moments().is_none());
        (0..=100).for_each(|v| h.add(v as f32));
        h.add(-5000.0);
        h.add(9000.0);
        let mut twice = h.clone();
        twice.merge(&h);
        assert_eq!(
            (twice.count(), twice.percentile(0.0), twice.percentile(0.5), twice.percentile(1.0)),
            (206, Some(-1024.0), Some(50.0), Some(3071.0))
        );
        let mut two = HuHistogram::default();
        [10.0, 10.0, 30.0, 30.0].into_iter().for_each(|v| two.add(v));
        assert_eq!(two.moments(), Some((20.0, 10.0)));
    }

    #[test]
    fn lesions_are_measured_and_their_losses_counted() {
        // Two lesions: a 2 x 3 x 4 box in tissue of 40 HU, and one voxel that a 2 mm grid (voxels 0, 2, 4, ...) does not see.
        let mut geometry = Geometry::ras([20, 20, 20], [1.0; 3], [0.0; 3]);
        let (mut data, mut mask) = (vec![40.0f32; 8000], vec![0u8; 8000]);
        let at = |x: usize, y: usize, z: usize| (x * 20 + y) * 20 + z;
        for (x, y, z) in (4..6).flat_map(|x| (6..9).flat_map(move |y| (8..12).map(move |z| (x, y, z)))) {
            (data[at(x, y, z)], mask[at(x, y, z)]) = (100.0, 2);
        }
        (data[at(15, 15, 15)], mask[at(15, 15, 15)]) = (0.0, 1);
        let look = |geometry: &Geometry, data: &[f32], mask: &[u8], classes| {
            let labels = Labels { data: mask.to_vec(), geometry: geometry.clone(), classes: Default::default() };
            gather("a", &Volume { data: data.to_vec(), geometry: geometry.clone() }, Some(&labels), &classes, Some([2.0; 3])).unwrap()
        };
        let facts = look(&geometry, &data, &mask, LesionClasses::All);
        assert_eq!((facts.orientation.as_str(), facts.classes.clone()), ("RAS", BTreeMap::from([(1, 1), (2, 24)])));
        let [large, small] = &facts.lesions[..] else { panic!("{:?}", facts.lesions) };
        assert!((large.volume_ml - 0.024).abs() < 1e-12 && large.extent_mm == [2.0, 3.0, 4.0] && large.centre_mm == [4.5, 7.0, 9.5]);
        assert_eq!((large.mean_hu, large.contrast_hu, large.resampled_voxels), (100.0, Some(60.0), Some(4)));
        assert_eq!((small.contrast_hu, small.resampled_voxels), (Some(-40.0), Some(0)));
        assert_eq!(facts.lesion.count(), 25);
        assert_eq!(look(&geometry, &data, &mask, LesionClasses::These(vec![1])).lesions.len(), 1);

        // Stored from left to right it is the same scan, and another one where a voxel differs.
        let reversed = |v: &[f32]| v.chunks_exact(400).rev().flatten().copied().collect::<Vec<f32>>();
        geometry.affine[0] = [-1.0, 0.0, 0.0, 19.0];
        let mask: Vec<u8> = mask.chunks_exact(400).rev().flatten().copied().collect();
        let again = look(&geometry, &reversed(&data), &mask, LesionClasses::All);
        assert_eq!((again.orientation.as_str(), &again.content), ("LAS", &facts.content));
        data[0] += 1.0;
        assert_ne!(look(&geometry, &reversed(&data), &mask, LesionClasses::All).content, facts.content);
    }
}
