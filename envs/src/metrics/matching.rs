//! Which finding is which lesion. The choice of the rule is the result: one finding over two lesions is two hits by any overlap, one true
//! positive by one-to-one matching at a low IoU, none at a high one.

use serde::{Deserialize, Serialize};

use super::{Outcome, Pair, SurfaceKind};
use crate::volume::components::{Components, Connectivity};
use crate::volume::runs::{Runs, for_each_overlap};

/// A lesion and a finding that share voxels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Index in [`Links::lesions`].
    pub lesion: usize,
    /// Index in [`Links::findings`].
    pub finding: usize,
    pub voxels: u64,
}

/// Components of the two masks of a pair, and who shares voxels with whom.
#[derive(Clone, Debug)]
pub struct Links {
    /// Components of the reference.
    pub lesions: Components,
    /// Components of the prediction.
    pub findings: Components,
    /// By lesion, then by finding; every pair once.
    pub shared: Vec<Shared>,
}

impl Links {
    pub fn of(pair: &Pair, connectivity: Connectivity) -> Self {
        let lesions = Components::of(&pair.reference, connectivity);
        let findings = Components::of(&pair.predicted, connectivity);
        let mut shared: Vec<Shared> = Vec::new();
        let [nx, ny, _] = pair.reference.shape();
        for (x, y) in (0..nx).flat_map(|x| (0..ny).map(move |y| (x, y))) {
            let (r, p) = (pair.reference.indices(x, y), pair.predicted.indices(x, y));
            if r.is_empty() || p.is_empty() {
                continue;
            }
            for_each_overlap(pair.reference.row(x, y), pair.predicted.row(x, y), 0, |i, j, voxels| {
                let (lesion, finding) = (lesions.of_run[r.start + i] as usize - 1, findings.of_run[p.start + j] as usize - 1);
                shared.push(Shared { lesion, finding, voxels });
            });
        }
        shared.sort_unstable_by_key(|s| (s.lesion, s.finding));
        shared.dedup_by(|next, kept| {
            let same = (next.lesion, next.finding) == (kept.lesion, kept.finding);
            if same {
                kept.voxels += next.voxels;
            }
            same
        });
        Links { lesions, findings, shared }
    }

    /// Intersection over union of the two components.
    pub fn iou(&self, s: &Shared) -> f64 {
        let union = self.lesions.parts[s.lesion].voxels + self.findings.parts[s.finding].voxels - s.voxels;
        s.voxels as f64 / union as f64
    }

    /// Dice of the two components.
    pub fn dice(&self, s: &Shared) -> f64 {
        2.0 * s.voxels as f64 / (self.lesions.parts[s.lesion].voxels + self.findings.parts[s.finding].voxels) as f64
    }

    /// Pairs of at least `least_iou`, the best first, each lesion and each finding in one pair at most; ties in the order of [`Links::shared`].
    ///
    /// Above 0.5 a lesion has one finding at most, and the order does not matter.
    pub fn one_to_one(&self, least_iou: f64) -> Vec<Shared> {
        let mut pairs: Vec<Shared> = self.shared.iter().copied().filter(|s| self.iou(s) >= least_iou).collect();
        pairs.sort_by(|a, b| self.iou(b).total_cmp(&self.iou(a)));
        let (mut lesion_taken, mut finding_taken) = (vec![false; self.lesions.count()], vec![false; self.findings.count()]);
        pairs.retain(|s| {
            let free = !lesion_taken[s.lesion] && !finding_taken[s.finding];
            if free {
                (lesion_taken[s.lesion], finding_taken[s.finding]) = (true, true);
            }
            free
        });
        pairs
    }

    pub fn counts(&self, matched: &[Shared]) -> Counts {
        Counts { tp: matched.len(), fp: self.findings.count() - matched.len(), fn_: self.lesions.count() - matched.len() }
    }
}

/// One-to-one matched lesions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub tp: usize,
    pub fp: usize,
    #[serde(rename = "fn")]
    pub fn_: usize,
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Counts::default(), |a, b| Counts { tp: a.tp + b.tp, fp: a.fp + b.fp, fn_: a.fn_ + b.fn_ })
    }
}

impl Counts {
    pub fn recall(self) -> Outcome {
        Outcome::ratio(self.tp as f64, (self.tp + self.fn_) as f64, "there is no lesion")
    }

    pub fn precision(self) -> Outcome {
        Outcome::ratio(self.tp as f64, (self.tp + self.fp) as f64, "nothing was predicted")
    }

    /// `2 TP / (2 TP + FP + FN)`, the recognition quality of panoptic segmentation.
    pub fn f1(self) -> Outcome {
        Outcome::ratio(2.0 * self.tp as f64, (2 * self.tp + self.fp + self.fn_) as f64, "there is neither a lesion nor a finding")
    }
}

/// The voxels of component `index` of `mask`.
pub fn part_of(mask: &Runs, components: &Components, index: usize) -> Runs {
    let label = index as u32 + 1;
    Runs::from_rows(mask.shape(), |x, y, out| {
        let runs = mask.row(x, y).iter().zip(mask.indices(x, y));
        out.extend(runs.filter(|(_, i)| components.of_run[*i] == label).map(|(r, _)| *r));
    })
}

/// Panoptic quality and its parts for one class of things (Kirillov 2019; Panoptica's names).
#[derive(Clone, Debug, PartialEq)]
pub struct Panoptic {
    pub counts: Counts,
    /// Mean IoU of the matched.
    pub sq: Outcome,
    /// Standard deviation of the matched IoUs (divisor n).
    pub sq_std: Outcome,
    /// `F1 x SQ`: unmatched lesions and findings count as 0.
    pub pq: Outcome,
    /// Mean Dice of the matched, and with F1.
    pub sq_dice: Outcome,
    pub pq_dice: Outcome,
    /// Mean over the matched of the mean of the two mean border distances, in mm.
    pub sq_assd: Outcome,
    /// Mean over the matched of the relative volume error.
    pub sq_relative_volume: Outcome,
}

impl Panoptic {
    /// By one-to-one matching of at least `least_iou` (0.5 as published).
    pub fn of(pair: &Pair, connectivity: Connectivity, least_iou: f64) -> Self {
        let links = Links::of(pair, connectivity);
        let matched = links.one_to_one(least_iou);
        let counts = links.counts(&matched);
        let mean = |of: &dyn Fn(&Shared) -> f64| Outcome::ratio(matched.iter().map(of).sum(), matched.len() as f64, "no lesion is matched");
        // With something to match and nothing matched, the qualities are 0 and not unknown.
        let quality = |o: Outcome| match o {
            Outcome::NotApplicable(_) if links.lesions.count() + links.findings.count() > 0 => Outcome::Value(0.0),
            o => o,
        };
        let f1 = counts.f1();
        let with_f1 = |o: &Outcome| f1.clone().map(|f| f * o.value().unwrap_or(0.0));
        let sq = quality(mean(&|s| links.iou(s)));
        let sq_dice = quality(mean(&|s| links.dice(s)));
        let middle = sq.value().unwrap_or(0.0);
        let assd = |s: &Shared| {
            let part = Pair {
                reference: part_of(&pair.reference, &links.lesions, s.lesion),
                predicted: part_of(&pair.predicted, &links.findings, s.finding),
                spacing_mm: pair.spacing_mm,
            };
            part.distances(SurfaceKind::BorderVoxels).mean_of_directed_means().value().unwrap_or(0.0)
        };
        let relative = |s: &Shared| {
            let (r, p) = (links.lesions.parts[s.lesion].voxels as f64, links.findings.parts[s.finding].voxels as f64);
            (p - r) / r
        };
        Panoptic {
            counts,
            sq_std: mean(&|s| (links.iou(s) - middle).powi(2)).map(f64::sqrt),
            pq: with_f1(&sq),
            pq_dice: with_f1(&sq_dice),
            sq_assd: mean(&assd),
            sq_relative_volume: mean(&relative),
            sq,
            sq_dice,
        }
    }
}
