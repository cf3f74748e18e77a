//! The per-case rules of the Touchstone benchmark (NeurIPS 2024), as its evaluator has them.

use super::{Asked, Metric, Oddity, Protocol, Structure, StructurePair};
use crate::metrics::morphology::{erode, keep_slices};
use crate::metrics::statistics::adjust::Adjustment;
use crate::metrics::{Outcome, Overlap, Pair, SurfaceKind, policy};
use crate::volume::components::{Components, Connectivity};
use crate::volume::runs::Runs;

/// The rule book.
pub const PROTOCOL: Protocol = Protocol {
    name: "touchstone",
    summary: "Touchstone: DSC with 1 in the denominator and NSD at 1.5 mm (MONAI's border voxels) of nine organs; aorta cropped and whole",
    structures: &[
        organ(1, "aorta"),
        organ(2, "gall_bladder"),
        organ(3, "kidney_left"),
        organ(4, "kidney_right"),
        organ(5, "liver"),
        organ(6, "pancreas"),
        organ(7, "postcava"),
        organ(8, "spleen"),
        organ(9, "stomach"),
    ],
    metrics: &[
        Metric::share("dsc", "2 |R n P| / (|R| + |P| + 1)", Asked::WithReference),
        Metric::share("nsd", "NSD at 1.5 mm over border voxels", Asked::WithReference),
        Metric::share("dsc_cropped", "dsc of the aorta without its arch", Asked::WithReference),
        Metric::share("nsd_cropped", "nsd of the aorta without its arch", Asked::WithReference),
        Metric::amount("false_organ_ml", "volume predicted of an organ that the reference does not hold", Asked::WithoutReference),
    ],
    main: &["dsc", "nsd"],
    policy: policy::REFERENCE_ONLY,
    empty: "organ not in the reference: left out of dsc and nsd, its predicted volume in false_organ_ml; prediction alone empty: 0",
    group_adjustment: Adjustment::Bonferroni,
    oddities: &[
        Oddity { name: "dsc_plus_one", text: "1 in the denominator: a perfect organ of one voxel scores 0.667, of 848 voxels 0.99941" },
        Oddity {
            name: "nsd_border_voxels",
            text: "MONAI's NSD of border voxels at 1.5 mm for all organs; the later submission page asks for DeepMind's with a tolerance per organ",
        },
        Oddity {
            name: "absent_organs_left_out",
            text: "organs that the reference does not hold, or that a list which was not published names, are left out: false organs never count",
        },
        Oddity {
            name: "crop_last_slice",
            text: "the aorta crop also drops the last slice of the longest run of slices with one component",
        },
        Oddity {
            name: "crop_by_reference",
            text: "the crop looks at the reference only, and deletes correct voxels of the arch with the wrong ones: scores rise",
        },
        Oddity {
            name: "crop_thin_aorta",
            text: "slices are eroded by 3 x 3 before components are counted (4 neighbours): a thinner aorta has none",
        },
        Oddity {
            name: "missing_is_dropped",
            text: "the published evaluator drops cases with an error; here they count as the worst value",
        },
    ],
    score,
};

const fn organ(label: u8, name: &'static str) -> Structure {
    Structure { name, label: Some(label) }
}

pub const TOLERANCE_MM: f64 = 1.5;

/// An organ was scored, by an earlier rule of the evaluator, if more voxels than this are left when its reference is eroded.
const LEFT_OF_A_LARGE_ORGAN: u64 = 10;

fn score(s: &StructurePair) -> Vec<Outcome> {
    organ_score(&s.pair, s.structure.name == "aorta")
}

fn organ_score(pair: &Pair, crop: bool) -> Vec<Outcome> {
    let absent = || Outcome::not_applicable("the organ is not in the reference");
    if pair.reference.is_empty() {
        let ml = Outcome::Value(pair.predicted.voxels() as f64 * pair.voxel_ml());
        return vec![absent(), absent(), absent(), absent(), ml];
    }
    let [dsc_cropped, nsd_cropped] = match (crop, aorta_slices(&pair.reference, false)) {
        (false, _) => [(); 2].map(|_| Outcome::not_applicable("only the aorta is cropped")),
        (true, None) => [(); 2].map(|_| Outcome::not_applicable("no slice of the reference holds one component")),
        (true, Some(slices)) => {
            let cropped = crop_to(pair, slices);
            [Outcome::Value(dsc_plus1(cropped.overlap())), nsd(&cropped)]
        }
    };
    let present = Outcome::not_applicable("the organ is in the reference");
    vec![Outcome::Value(dsc_plus1(pair.overlap())), nsd(pair), dsc_cropped, nsd_cropped, present]
}

/// `2 |R n P| / (|R| + |P| + 1)`: 0 where both are empty.
pub fn dsc_plus1(overlap: Overlap) -> f64 {
    2.0 * overlap.both as f64 / ((overlap.reference + overlap.predicted) as f64 + 1.0)
}

/// NSD at 1.5 mm over border voxels: not applicable where both masks are empty, 0 where one is.
pub fn nsd(pair: &Pair) -> Outcome {
    pair.distances(SurfaceKind::BorderVoxels).nsd(TOLERANCE_MM)
}

/// Whether the reference is large enough to be scored by the evaluator's earlier rule (the later one is a list that was not published):
/// more than 10 voxels are left after one erosion with a cube of 3 x 3 x 3.
pub fn large_enough(reference: &Runs) -> bool {
    erode(reference, true).voxels() > LEFT_OF_A_LARGE_ORGAN
}

/// Slices along z in which the aorta is scored: the longest run of slices whose reference, eroded by 3 x 3, has exactly one component of 4
/// neighbours; the first of them on a tie. The published code drops the run's last slice; `with_last` keeps it. `None` where no slice has one.
pub fn aorta_slices(reference: &Runs, with_last: bool) -> Option<std::ops::Range<usize>> {
    let counts = components_per_slice(&erode(reference, false));
    let mut best: Option<std::ops::Range<usize>> = None;
    let mut from = 0;
    for run in counts.chunk_by(|a, b| (*a == 1) == (*b == 1)) {
        if run[0] == 1 && best.as_ref().is_none_or(|b| run.len() > b.len()) {
            best = Some(from..from + run.len());
        }
        from += run.len();
    }
    best.map(|b| b.start..if with_last { b.end } else { b.end - 1 })
}

/// Number of components of 4 neighbours in each slice along z.
pub fn components_per_slice(mask: &Runs) -> Vec<usize> {
    let [nx, ny, nz] = mask.shape();
    let mut slices = vec![Vec::new(); nz];
    mask.for_each(|x, y, _, run| (run.start..run.end).for_each(|z| slices[z as usize].push(x * ny + y)));
    let mut slice = vec![0u8; nx * ny];
    let mut count = |voxels: &Vec<usize>| {
        if voxels.is_empty() {
            return 0;
        }
        voxels.iter().for_each(|&i| slice[i] = 1);
        let count = Components::of(&Runs::of(&slice, [1, nx, ny]), Connectivity::Face).count();
        voxels.iter().for_each(|&i| slice[i] = 0);
        count
    };
    slices.iter().map(&mut count).collect()
}

/// Both masks within `slices`.
pub fn crop_to(pair: &Pair, slices: std::ops::Range<usize>) -> Pair {
    Pair {
        reference: keep_slices(&pair.reference, slices.clone()),
        predicted: keep_slices(&pair.predicted, slices),
        spacing_mm: pair.spacing_mm,
    }
}
