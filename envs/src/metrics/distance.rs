//! Metrics of the distance between two surfaces, in mm.

use super::nearest::Nearest;
use super::statistics::describe::quantile_of_sorted;
use super::surface::{border_voxels, contours, surfels};
use super::{Outcome, Pair};

/// What a surface is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SurfaceKind {
    /// Surface elements weighted by their area: DeepMind's `surface-distance`, FLARE and MSD.
    Surfels,
    /// Voxels with a face on the background, each counting the same: MedPy, and MONAI without its sub-voxel option.
    BorderVoxels,
    /// Pieces of contours weighted by their length, in slices of equal x: DeepMind's for planes.
    Contours,
    /// Pixels with an edge on the background within their slice of equal x, each counting the same: MedPy and MONAI for planes.
    ContourPixels,
}

/// Distances from each element of one surface to the nearest element of the other.
#[derive(Clone, Debug)]
pub struct Directed {
    /// `(mm, weight)`, ascending by distance.
    elements: Vec<(f64, f64)>,
    weight: f64,
}

impl Directed {
    fn of(from: &Nearest, to: &Nearest) -> Self {
        let mut elements = from.distances_to(to);
        elements.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        // Summed in this order, so that the whole surface within a tolerance is exactly all of it.
        let weight = elements.iter().map(|e| e.1).sum();
        Directed { elements, weight }
    }

    /// Number of surface elements.
    pub fn count(&self) -> usize {
        self.elements.len()
    }

    /// Sum of the weights: the area in mm² for surfels, the count for border voxels.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Weight of the elements at most `tolerance_mm` away.
    fn within(&self, tolerance_mm: f64) -> f64 {
        self.elements.iter().take_while(|e| e.0 <= tolerance_mm).map(|e| e.1).sum()
    }

    /// Sum of the distances by weight.
    fn sum(&self) -> f64 {
        self.elements.iter().map(|e| e.0 * e.1).sum()
    }

    /// `percent`-percentile of the distances, linear between neighbours, whatever the weights; `None` without elements.
    fn percentile_linear(&self, percent: f64) -> Option<f64> {
        let distances: Vec<f64> = self.elements.iter().map(|e| e.0).collect();
        quantile_of_sorted(&distances, percent / 100.0)
    }

    fn mean(&self) -> f64 {
        self.sum() / self.weight
    }

    /// Smallest distance that covers `percent` of the weight.
    fn percentile(&self, percent: f64) -> f64 {
        let mut covered = 0.0;
        for &(distance, weight) in &self.elements {
            covered += weight;
            if covered / self.weight >= percent / 100.0 {
                return distance;
            }
        }
        self.elements.last().map_or(f64::INFINITY, |e| e.0)
    }
}

/// Distances between the surfaces of a reference and of a prediction, in both directions.
#[derive(Clone, Debug)]
pub struct Distances {
    pub reference_to_predicted: Directed,
    pub predicted_to_reference: Directed,
}

impl Distances {
    pub fn of(pair: &Pair, kind: SurfaceKind) -> Self {
        let surface = |mask| match kind {
            SurfaceKind::Surfels => surfels(mask, pair.spacing_mm),
            SurfaceKind::BorderVoxels => border_voxels(mask, false),
            SurfaceKind::Contours => contours(mask, pair.spacing_mm),
            SurfaceKind::ContourPixels => border_voxels(mask, true),
        };
        let tree = |mask| Nearest::new(surface(mask), pair.spacing_mm);
        let (reference, predicted) = (tree(&pair.reference), tree(&pair.predicted));
        Distances {
            reference_to_predicted: Directed::of(&reference, &predicted),
            predicted_to_reference: Directed::of(&predicted, &reference),
        }
    }

    /// Normalised surface Dice: share of both surfaces that is at most `tolerance_mm` from the other. 0 where one mask is empty.
    pub fn nsd(&self, tolerance_mm: f64) -> Outcome {
        let (r, p) = (&self.reference_to_predicted, &self.predicted_to_reference);
        Outcome::ratio(r.within(tolerance_mm) + p.within(tolerance_mm), r.weight + p.weight, "both masks are empty")
    }

    /// Shares of the reference's and of the predicted surface that are at most `tolerance_mm` from the other (DeepMind's surface overlap).
    pub fn surface_overlap(&self, tolerance_mm: f64) -> [Outcome; 2] {
        [(&self.reference_to_predicted, "the reference is empty"), (&self.predicted_to_reference, "nothing was predicted")]
            .map(|(side, if_empty)| Outcome::ratio(side.within(tolerance_mm), side.weight, if_empty))
    }

    /// Hausdorff distance: the largest of all distances.
    pub fn hausdorff(&self) -> Outcome {
        self.hausdorff_percentile(100.0)
    }

    /// The larger of the two directions' `percent`-percentiles by weight; 95 gives HD95 as DeepMind's code and FLARE have it.
    pub fn hausdorff_percentile(&self, percent: f64) -> Outcome {
        self.defined(|d| d.reference_to_predicted.percentile(percent).max(d.predicted_to_reference.percentile(percent)))
    }

    /// The larger of the two directions' `percent`-percentiles, linear between neighbours and without weights; 95 gives MONAI's HD95.
    pub fn hausdorff_percentile_linear(&self, percent: f64) -> Outcome {
        self.defined(|d| {
            let sides = [&d.reference_to_predicted, &d.predicted_to_reference].map(|side| side.percentile_linear(percent));
            sides.into_iter().flatten().fold(0.0, f64::max)
        })
    }

    /// The same from the predicted surface to the reference's alone (MONAI's `directed`).
    pub fn predicted_percentile_linear(&self, percent: f64) -> Outcome {
        self.defined(|d| d.predicted_to_reference.percentile_linear(percent).unwrap_or(0.0))
    }

    /// `percent`-percentile of the distances of both directions together, linear between neighbours; 95 gives MedPy's HD95.
    pub fn pooled_percentile(&self, percent: f64) -> Outcome {
        self.defined(|d| {
            let mut all: Vec<f64> =
                d.reference_to_predicted.elements.iter().chain(&d.predicted_to_reference.elements).map(|e| e.0).collect();
            all.sort_unstable_by(f64::total_cmp);
            quantile_of_sorted(&all, percent / 100.0).unwrap_or(0.0)
        })
    }

    /// Mean distance from the reference's surface to the predicted one.
    pub fn mean_reference_to_predicted(&self) -> Outcome {
        self.defined(|d| d.reference_to_predicted.mean())
    }

    /// Mean distance from the predicted surface to the reference's (MedPy's `asd(result, reference)`).
    pub fn mean_predicted_to_reference(&self) -> Outcome {
        self.defined(|d| d.predicted_to_reference.mean())
    }

    /// Average symmetric surface distance: the mean over both surfaces together (MedPy, MONAI).
    pub fn assd(&self) -> Outcome {
        self.defined(|d| {
            let (r, p) = (&d.reference_to_predicted, &d.predicted_to_reference);
            (r.sum() + p.sum()) / (r.weight + p.weight)
        })
    }

    /// The mean of the two directions' means, each counting the same whatever the size of its surface (Panoptica's ASSD).
    pub fn mean_of_directed_means(&self) -> Outcome {
        self.defined(|d| (d.reference_to_predicted.mean() + d.predicted_to_reference.mean()) / 2.0)
    }

    /// A distance to nothing is no number: with both masks empty there is nothing to ask, with one of them empty the prediction failed.
    fn defined(&self, metric: impl FnOnce(&Self) -> f64) -> Outcome {
        match (self.reference_to_predicted.count(), self.predicted_to_reference.count()) {
            (0, 0) => Outcome::not_applicable("both masks are empty"),
            (0, _) => Outcome::failed("the reference is empty and the prediction is not: there is no distance between them"),
            (_, 0) => Outcome::failed("the prediction is empty and the reference is not: there is no distance between them"),
            _ => Outcome::Value(metric(self)),
        }
    }
}
