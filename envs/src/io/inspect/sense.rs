//! What numbers mean: HU or something else, labels or something else. Judged by the values alone.

use rayon::prelude::*;

use super::Grade;
use crate::io::Warning;

/// Fewer voxels say nothing about intensities.
const FEWEST: usize = 64;
/// A range of less is no CT: noise alone is wider.
const NARROWEST_HU: f32 = 30.0;
/// Where voxels of a CT are: air, and water with fat and soft tissue around it.
const AIR_HU: [f32; 2] = [-1100.0, -900.0];
const TISSUE_HU: [f32; 2] = [-200.0, 200.0];
/// Where the two would be with 1000 or 1024 added.
const AIR_SHIFTED_HU: [f32; 2] = [-100.0, 124.0];
const TISSUE_SHIFTED_HU: [f32; 2] = [850.0, 1200.0];
/// Share of voxels that must be there. Real scans, lungs and limbs cropped tightly included, have more than half.
const LEAST_SHARE: f64 = 0.05;
/// As many different values are taken for labels whatever their pattern.
const FEW_LABELS: usize = 32;
/// Share of a voxel's neighbours of its own value; noise of an image leaves far less, organs more.
const LEAST_EQUAL: f64 = 0.6;
/// A lesion or organ mask that covers more of the scan is filled or inverted.
const MOST_COVERED: f64 = 0.95;

struct Values {
    min: f32,
    max: f32,
    /// The lowest value but for `min`, which may be padding.
    second: f32,
    at_min: f64,
    at_max: f64,
    /// Share of voxels in [`AIR_HU`] or [`TISSUE_HU`].
    usual: f64,
    /// Share of voxels above the lower end of [`TISSUE_HU`].
    dense: f64,
    /// Shares of voxels in [`AIR_SHIFTED_HU`] and [`TISSUE_SHIFTED_HU`], and below both.
    shifted: [f64; 3],
}

impl Values {
    fn of(data: &[f32]) -> Values {
        let least = |value: fn(f32) -> f32, above: f32| {
            let part = |chunk: &[f32]| chunk.iter().map(|&v| value(v)).filter(|&v| v > above).fold(f32::INFINITY, f32::min);
            data.par_chunks(1 << 16).map(part).reduce(|| f32::INFINITY, f32::min)
        };
        let share = |is: &(dyn Fn(f32) -> bool + Sync)| {
            data.par_chunks(1 << 16).map(|chunk| chunk.iter().filter(|&&v| is(v)).count()).sum::<usize>() as f64 / data.len() as f64
        };
        let inside = |v: f32, [low, high]: [f32; 2]| (low..=high).contains(&v);
        let min = least(|v| v, f32::NEG_INFINITY);
        let max = -least(|v| -v, f32::NEG_INFINITY);
        Values {
            min,
            max,
            second: least(|v| v, min),
            at_min: share(&|v| v == min),
            at_max: share(&|v| v == max),
            usual: share(&|v| inside(v, AIR_HU) || inside(v, TISSUE_HU)),
            dense: share(&|v| v >= TISSUE_HU[0]),
            shifted: [share(&|v| inside(v, AIR_SHIFTED_HU)), share(&|v| inside(v, TISSUE_SHIFTED_HU)), share(&|v| v < AIR_SHIFTED_HU[0])],
        }
    }
}

/// Whether voxels are those of a label map: whole numbers from 0 to 255, few of them or in patches.
pub fn looks_like_labels(data: &[f32]) -> bool {
    if !data.iter().all(|v| (0.0..=255.0).contains(v) && v.fract() == 0.0) {
        return false;
    }
    let labels: Vec<u8> = data.iter().map(|&v| v as u8).collect();
    let kinds = histogram(&labels).iter().filter(|&&n| n > 0).count();
    kinds >= 2 && labels.len() >= 8 * kinds && has_patches(&labels, kinds)
}

/// Noise is no label.
fn has_patches(labels: &[u8], kinds: usize) -> bool {
    let touching = || labels.windows(2).filter(|pair| pair[0] > 0 || pair[1] > 0);
    kinds <= FEW_LABELS || touching().filter(|pair| pair[0] == pair[1]).count() as f64 >= LEAST_EQUAL * touching().count() as f64
}

pub fn histogram(labels: &[u8]) -> [usize; 256] {
    let mut counts = [0; 256];
    labels.iter().for_each(|&l| counts[l as usize] += 1);
    counts
}

/// What is odd about the intensities of an image that should be HU.
pub fn of_image(data: &[f32]) -> Option<Warning> {
    let v = Values::of(data);
    let says = |found: String, action: &str| Some(Warning::new(found, "Hounsfield units (air -1000, water 0)", action));
    let range = format!("values from {} to {}", v.min, v.max);
    if data.len() > 1 && v.min == v.max {
        return says(format!("{} in every voxel", v.min), "look whether the export worked: there is nothing in this image");
    }
    if data.len() < FEWEST {
        return None;
    }
    // With one value set aside that may be padding.
    let lowest = if v.min < 0.0 { v.second } else { v.min };
    if v.max - v.min <= NARROWEST_HU {
        return says(format!("{range}: normalised, or no CT"), "give the scan as it was before it was normalised");
    }
    if looks_like_labels(data) {
        return says(format!("{range} in patches of one value: a label map"), "give the image here and the labels as its mask");
    }
    if v.min >= 0.0 && v.max <= 255.0 {
        return says(format!("{range}: windowed to 8 bits"), "give the scan before windowing: HU can't be had back");
    }
    if v.at_min > 0.01 && v.at_max > 0.005 && v.max < 1000.0 {
        return says(format!("{range}, clipped at both ends"), "give the scan before windowing");
    }
    if v.max > 32767.0 {
        return says(format!("{range}: negative numbers stored without sign, or no CT"), "convert the original scan again (dcm2niix)");
    }
    if lowest >= 0.0 {
        let padding = if v.min < 0.0 { format!(" (padding {} aside)", v.min) } else { String::new() };
        let found = format!("values from {lowest} to {}{padding}: nothing below 0, as in HU with 1024 added", v.max);
        return says(found, "subtract the offset (rescale intercept, often -1024), or convert the original again");
    }
    // Noise of air goes below 0 there. No fat and no air beside as much bone is no body.
    if v.shifted[0] > 0.1 && v.shifted[1] > 0.1 && v.shifted[2] < 0.001 {
        let found = format!("{range}, mostly near 0 and near 1000: HU with about 1000 added");
        return says(found, "subtract the offset (rescale intercept, often -1024), or convert the original again");
    }
    if v.dense < 0.01 {
        return says(format!("{range}: nothing as dense as the body, as in HU with 1024 taken off twice"), "check the rescale intercept");
    }
    if v.usual < LEAST_SHARE {
        let found = format!("{range}, {:.1} % of the voxels where air and soft tissue are", 100.0 * v.usual);
        return says(found, "check slope and intercept, and that this is a CT");
    }
    None
}

/// What is odd about the labels of a mask.
pub fn of_labels(labels: &[u8]) -> Vec<(Grade, Warning)> {
    let counts = histogram(labels);
    let present: Vec<usize> = (1..256).filter(|&l| counts[l] > 0).collect();
    let covered = 1.0 - counts[0] as f64 / labels.len().max(1) as f64;
    let mut odd = Vec::new();
    let mut says = |grade, found: String, expected: &str, action: &str| odd.push((grade, Warning::new(found, expected, action)));
    match present[..] {
        [] => says(
            Grade::Warn,
            "no labelled voxel".into(),
            "a labelled lesion",
            "check that the scan is meant to be free of lesions; the labels may have been lost",
        ),
        [255] => says(Grade::Warn, "values 0 and 255".into(), "0 and 1", "renumber 255 to 1"),
        [label] if label != 1 => says(
            Grade::Warn,
            format!("only the label {label}"),
            "the label 1",
            "check which label is meant; name it as a lesion class, or renumber it",
        ),
        _ if !has_patches(labels, present.len()) => {
            let found = format!("{} different values without patches of one value: an image", present.len());
            says(Grade::Error, found, "a label map", "give the label file, not the image");
            return odd;
        }
        _ if counts[255] > 0 => {
            let found = format!("the label 255 beside {} others", present.len() - 1);
            says(Grade::Warn, found, "labels that name classes", "renumber or remove 255: it often means \"ignore\"");
        }
        _ => {}
    }
    if covered > MOST_COVERED && labels.len() > 1 {
        let found = format!("{:.1} % of all voxels labelled", 100.0 * covered);
        says(Grade::Warn, found, "labels on a part of the scan", "look whether the mask was inverted or filled");
    }
    odd
}
