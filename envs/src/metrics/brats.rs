//! Lesion-wise Dice and HD95 of the BraTS challenges (2023): lesions that touch once grown are one, and a lesion's prediction is all
//! findings that reach its grown shape.

use super::matching::part_of;
use super::{Pair, SurfaceKind};
use crate::volume::components::{Components, Connectivity};
use crate::volume::runs::{Runs, for_each_overlap};

/// What a missed lesion and a false positive count as in mm: about the diagonal of the challenge's grid.
pub const WORST_MM: f64 = 374.0;

/// The rule of one of the challenge's tasks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Task {
    /// How often a lesion is grown by one voxel (18 neighbours).
    pub grow: usize,
    /// Lesions of at most this many mm³ are left out of the mean; findings on them are no false positives.
    pub least_mm3: f64,
}

/// Adult glioma.
pub const GLIOMA: Task = Task { grow: 3, least_mm3: 50.0 };
/// Brain metastases.
pub const METASTASES: Task = Task { grow: 1, least_mm3: 2.0 };

/// A lesion after merging.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lesion {
    pub volume_mm3: f64,
    /// Findings that reach it.
    pub findings: usize,
    /// Of those findings together and the lesion.
    pub dice: f64,
    pub hd95_mm: f64,
}

/// Lesion-wise scores of one case. Both masks empty: Dice 1 and 0 mm.
#[derive(Clone, Debug, PartialEq)]
pub struct LesionWise {
    pub lesions: Vec<Lesion>,
    pub tp: usize,
    pub fp: usize,
    pub fn_: usize,
    /// Sum over lesions by the number of lesions and false positives.
    pub dice: f64,
    /// The same, a false positive counting as [`WORST_MM`].
    pub hd95_mm: f64,
}

impl LesionWise {
    pub fn of(pair: &Pair, task: Task) -> Self {
        let findings = Components::of(&pair.predicted, Connectivity::Corner);
        let merged = merge(&pair.reference, task.grow);
        let mut reached = vec![false; findings.count()];
        let lesions: Vec<Lesion> = (0..merged.count())
            .map(|i| {
                let lesion = part_of(&pair.reference, &merged, i);
                let near = reaching(&grown(&lesion, task.grow), &pair.predicted, &findings);
                near.iter().zip(&mut reached).for_each(|(near, reached)| *reached |= near);
                let predicted = Runs::from_rows(lesion.shape(), |x, y, out| {
                    let runs = pair.predicted.row(x, y).iter().zip(pair.predicted.indices(x, y));
                    out.extend(runs.filter(|(_, i)| near[findings.of_run[*i] as usize - 1]).map(|(r, _)| *r));
                });
                let part = Pair { reference: lesion, predicted, spacing_mm: pair.spacing_mm };
                Lesion {
                    volume_mm3: part.reference.voxels() as f64 * 1000.0 * pair.voxel_ml(),
                    findings: near.iter().filter(|n| **n).count(),
                    dice: part.overlap().dice().value().unwrap_or(0.0),
                    hd95_mm: part.distances(SurfaceKind::Surfels).hausdorff_percentile(95.0).value().unwrap_or(WORST_MM),
                }
            })
            .collect();
        let fp = reached.iter().filter(|r| !**r).count();
        let tp = lesions.iter().filter(|l| l.findings > 0).count();
        let counted: Vec<&Lesion> = lesions.iter().filter(|l| l.volume_mm3 > task.least_mm3).collect();
        let n = (counted.len() + fp) as f64;
        let (dice, hd95_mm) = if n == 0.0 {
            (1.0, 0.0)
        } else {
            let hd95 = counted.iter().map(|l| l.hd95_mm).sum::<f64>() + fp as f64 * WORST_MM;
            (counted.iter().map(|l| l.dice).sum::<f64>() / n, hd95 / n)
        };
        LesionWise { tp, fp, fn_: lesions.len() - tp, lesions, dice, hd95_mm }
    }
}

fn grown(mask: &Runs, times: usize) -> Runs {
    (0..times).fold(mask.clone(), |m, _| super::morphology::dilate(&m, Connectivity::Edge))
}

/// Components of `mask` where those that touch once grown are one; numbered in the order of the grown ones.
fn merge(mask: &Runs, grow: usize) -> Components {
    let large = grown(mask, grow);
    let of_large = Components::of(&large, Connectivity::Corner);
    let mut merged = Components { parts: of_large.parts.clone(), of_run: vec![0; mask.all().len()] };
    for_each_shared(mask, &large, |run, in_large, _| merged.of_run[run] = of_large.of_run[in_large]);
    merged
}

/// Which components of `predicted` share a voxel with `lesion`.
fn reaching(lesion: &Runs, predicted: &Runs, findings: &Components) -> Vec<bool> {
    let mut near = vec![false; findings.count()];
    for_each_shared(lesion, predicted, |_, run, _| near[findings.of_run[run] as usize - 1] = true);
    near
}

/// Calls `each(i, j, voxels)` for every run `i` of `a` and run `j` of `b` that share voxels.
fn for_each_shared(a: &Runs, b: &Runs, mut each: impl FnMut(usize, usize, u64)) {
    let [nx, ny, _] = a.shape();
    for (x, y) in (0..nx).flat_map(|x| (0..ny).map(move |y| (x, y))) {
        let (from_a, from_b) = (a.indices(x, y).start, b.indices(x, y).start);
        for_each_overlap(a.row(x, y), b.row(x, y), 0, |i, j, n| each(from_a + i, from_b + j, n));
    }
}
