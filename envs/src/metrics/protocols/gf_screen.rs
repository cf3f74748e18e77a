//! The definitions of GF-Screen's published code (ICLR 2026), so that its numbers can be held against ours.

use super::{Asked, Metric, Oddity, Protocol, Structure, StructurePair};
use crate::metrics::detection::{ScanCell, ScanTable};
use crate::metrics::matching::Links;
use crate::metrics::policy;
use crate::metrics::statistics::adjust::Adjustment;
use crate::metrics::{Outcome, Pair};
use crate::volume::components::Connectivity;

/// The rule book.
pub const PROTOCOL: Protocol = Protocol {
    name: "gf_screen",
    summary: "GF-Screen's published code: Dice of each case, scan-level detection, and detection of reference components and lesion-free scans",
    structures: &[Structure { name: "lesion", label: None }],
    metrics: &[
        Metric::share("case_dice", "Dice; 1 where the reference is empty, whatever was predicted", Asked::Always),
        Metric::share("running_dice", "Dice; cases with an empty reference are left out", Asked::WithReference),
    ],
    main: &["case_dice", "running_dice"],
    policy: policy::GF_SCREEN,
    empty: "case_dice: reference empty: 1, whatever was predicted; running_dice: reference empty: left out; prediction alone empty: 0",
    group_adjustment: Adjustment::Holm,
    oddities: &[
        Oddity {
            name: "empty_reference_is_perfect",
            text: "case_dice is 1 on every lesion-free scan, also where lesions were predicted: sets with such scans are inflated",
        },
        Oddity {
            name: "running_dice_grid",
            text: "the published running Dice is taken on the 1 x 1 x 3 mm grid of the network; here on the grid of the masks given",
        },
        Oddity {
            name: "hit_by_one_voxel",
            text: "one shared voxel finds a scan or a lesion; a scan whose lesion is missed is no false positive, whatever else was marked",
        },
        Oddity { name: "false_positives_in_diseased_scans", text: "item table: false positives in scans with lesions are never counted" },
        Oddity {
            name: "healthy_up_to_125_voxels",
            text: "item table: a lesion-free scan counts as a false positive only above 125 predicted voxels, whatever their size in mm; the scan table counts one voxel",
        },
        Oddity {
            name: "items_mix_lesions_and_scans",
            text: "item table: lesions (face connectivity) and lesion-free scans are summed in one table",
        },
        Oddity {
            name: "sets_by_file_name",
            text: "the published report means Dice by data set and lesion type, told apart by parts of file names; here by a column of --metadata",
        },
        Oddity { name: "epsilon", text: "rates have 1e-6 in their denominators: never exactly 1, and 0 where there is nothing to count" },
        Oddity {
            name: "fpr",
            text: "the paper's false-positive rate is read as 1 - specificity; no published script calls either detection function",
        },
    ],
    score,
};

/// More voxels than this must be predicted on a lesion-free scan for a false positive of the item table.
const HEALTHY_UP_TO: u64 = 125;

fn score(s: &StructurePair) -> Vec<Outcome> {
    vec![Outcome::Value(case_dice(&s.pair)), running_dice(&s.pair)]
}

/// Dice, and 1 wherever the reference is empty.
pub fn case_dice(pair: &Pair) -> f64 {
    let overlap = pair.overlap();
    // The policy has a value for every empty mask, and without one there is a Dice.
    policy::GF_SCREEN.apply(overlap, overlap.dice()).value().unwrap_or(0.0)
}

/// Dice over cases with lesions (MONAI's metric that leaves empty references out).
pub fn running_dice(pair: &Pair) -> Outcome {
    let overlap = pair.overlap();
    policy::REFERENCE_ONLY.apply(overlap, overlap.dice())
}

/// The two detection tables of the published code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Detection {
    /// Every scan is one entry.
    pub scans: ScanTable,
    /// Every reference component (face connectivity) and every lesion-free scan is one entry ("case level").
    pub items: ScanTable,
}

impl Detection {
    pub fn add(&mut self, pair: &Pair) {
        let overlap = pair.overlap();
        self.scans.add(ScanCell::of(overlap.reference > 0, overlap.predicted > 0, overlap.both > 0));
        if pair.reference.is_empty() {
            let many = pair.predicted.voxels() > HEALTHY_UP_TO;
            self.items.add(if many { ScanCell::FalsePositive } else { ScanCell::TrueNegative });
            return;
        }
        let links = Links::of(pair, Connectivity::Face);
        let hits = links.shared.chunk_by(|a, b| a.lesion == b.lesion).count();
        self.items.tp += hits;
        self.items.fn_ += links.lesions.count() - hits;
    }

    /// A scan without a usable prediction: everything in it is wrong, though the published code leaves it out.
    pub fn add_without_prediction(&mut self, pair_reference: &crate::volume::runs::Runs) {
        let cell = ScanCell::without_prediction(!pair_reference.is_empty());
        self.scans.add(cell);
        if pair_reference.is_empty() {
            self.items.add(cell);
        } else {
            self.items.fn_ += crate::volume::components::Components::of(pair_reference, Connectivity::Face).count();
        }
    }
}

/// What the published code derives from a table.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rates {
    pub accuracy: f64,
    pub sensitivity: f64,
    pub specificity: f64,
    pub precision: f64,
    /// Of precision and sensitivity.
    pub f1: f64,
    /// `1 - specificity`.
    pub false_positive_rate: f64,
}

impl Rates {
    pub fn of(table: &ScanTable) -> Self {
        let rate = |part: f64, whole: f64| part / (whole + 1e-6);
        let [tp, fn_, fp, tn] = [table.tp, table.fn_, table.fp, table.tn].map(|n| n as f64);
        let (sensitivity, specificity, precision) = (rate(tp, tp + fn_), rate(tn, tn + fp), rate(tp, tp + fp));
        Rates {
            accuracy: rate(tp + tn, tp + tn + fp + fn_),
            sensitivity,
            specificity,
            precision,
            f1: rate(2.0 * precision * sensitivity, precision + sensitivity),
            false_positive_rate: 1.0 - specificity,
        }
    }
}
