//! From a probability map to a table of lesions.

use panscreen_envs::volume::Geometry;
use panscreen_envs::volume::components::{Connectivity, label};
use serde::{Deserialize, Serialize};

/// One finding: a 26-connected component of the mask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lesion {
    pub volume_ml: f64,
    /// World position (R, A, S) of the centroid, in mm.
    pub centre_mm: [f64; 3],
    /// Largest distance between two voxel centres of its surface plus one voxel's mean spacing, in mm.
    pub longest_axis_mm: f64,
    /// Highest probability in it.
    pub confidence: f32,
    pub voxels: usize,
}

/// The mask of `probability > threshold` without components below `min_ml`, and what is left, largest first.
pub fn lesions(probability: &[f32], geometry: &Geometry, threshold: f32, min_ml: f64) -> (Vec<u8>, Vec<Lesion>) {
    let mut mask: Vec<u8> = probability.iter().map(|&p| (p > threshold) as u8).collect();
    let (labels, components) = label(&mask, geometry.shape, Connectivity::Corner);
    let voxel_ml = geometry.voxel_ml();
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); components.count()];
    for (i, &n) in labels.iter().enumerate().filter(|(_, n)| **n > 0) {
        members[n as usize - 1].push(i as u32);
    }
    let mut found = Vec::new();
    for voxels in members {
        let volume_ml = voxels.len() as f64 * voxel_ml;
        if volume_ml < min_ml {
            voxels.iter().for_each(|&i| mask[i as usize] = 0);
            continue;
        }
        let points: Vec<[f64; 3]> = voxels.iter().map(|&i| world(geometry, i as usize)).collect();
        let centre_mm = std::array::from_fn(|a| points.iter().map(|p| p[a]).sum::<f64>() / points.len() as f64);
        let confidence = voxels.iter().map(|&i| probability[i as usize]).fold(0.0, f32::max);
        let spacing = geometry.spacing_mm();
        let longest_axis_mm = diameter(&points, centre_mm) + spacing.iter().sum::<f64>() / 3.0;
        found.push(Lesion { volume_ml, centre_mm, longest_axis_mm, confidence, voxels: voxels.len() });
    }
    found.sort_by(|a, b| b.volume_ml.total_cmp(&a.volume_ml));
    (mask, found)
}

fn world(geometry: &Geometry, flat: usize) -> [f64; 3] {
    let [_, ny, nz] = geometry.shape;
    geometry.world([flat / (ny * nz), flat / nz % ny, flat % nz].map(|v| v as f64))
}

/// Largest distance between two points: from the point farthest from the centre, walk to the farthest until nothing grows.
/// Exact for convex bodies of practical shape at a linear cost; never more than the true diameter.
fn diameter(points: &[[f64; 3]], centre: [f64; 3]) -> f64 {
    let distance = |a: &[f64; 3], b: &[f64; 3]| (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>();
    let farthest = |from: &[f64; 3]| points.iter().max_by(|a, b| distance(a, from).total_cmp(&distance(b, from)));
    let (Some(mut end), mut longest) = (farthest(&centre), 0.0) else { return 0.0 };
    while let Some(next) = farthest(end).filter(|n| distance(n, end) > longest) {
        longest = distance(next, end);
        end = next;
    }
    longest.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_components_go_and_the_rest_is_measured_in_the_world() {
        let geometry = Geometry::ras([4, 1, 10], [2.0, 5.0, 10.0], [-1.0, 7.0, 0.0]);
        let mut p = vec![0.0; 40];
        p[..3].copy_from_slice(&[0.6, 0.9, 0.7]);
        p[39] = 0.8;
        let (mask, found) = lesions(&p, &geometry, 0.5, 0.2);
        assert_eq!(mask.iter().map(|&v| v as usize).sum::<usize>(), 3);
        assert_eq!(found.len(), 1);
        let l = &found[0];
        assert!((l.volume_ml - 0.3).abs() < 1e-12);
        assert_eq!((l.centre_mm, l.confidence), ([-1.0, 7.0, 10.0], 0.9));
        assert!((l.longest_axis_mm - (20.0 + 17.0 / 3.0)).abs() < 1e-9);
    }
}
