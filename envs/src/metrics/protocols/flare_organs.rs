//! The per-organ rule of the FLARE abdominal organ tasks (FLARE22 and FLARE23, official scripts).

use super::flare24::FlareScore;
use super::{Asked, Metric, Oddity, Protocol, Structure, StructurePair};
use crate::metrics::morphology::keep_slices;
use crate::metrics::statistics::adjust::Adjustment;
use crate::metrics::{Outcome, Pair, policy};
use crate::volume::runs::Runs;

/// The rule book.
pub const PROTOCOL: Protocol = Protocol {
    name: "flare_organs",
    summary: "FLARE abdominal organs: Dice and NSD (DeepMind's surfels) of thirteen organs, each with its own tolerance, four decimals",
    structures: &STRUCTURES,
    metrics: &[
        Metric::share("dsc", "Dice", Asked::Always),
        Metric::share("nsd", "NSD at the organ's tolerance; 0 where the Dice is below 0.2", Asked::Always),
    ],
    main: &["dsc", "nsd"],
    policy: policy::FLARE,
    empty: "both masks of an organ empty: 1 and 1; only one of them empty: 0 and 0",
    group_adjustment: Adjustment::Holm,
    oddities: &[
        Oddity { name: "absent_organs_are_perfect", text: "an organ that neither mask holds scores 1 and 1 and raises the mean" },
        Oddity { name: "nsd_needs_dice", text: "NSD jumps to 0 below a Dice of 0.2" },
        Oddity {
            name: "crop_drops_last_slice",
            text: "aorta, postcava and esophagus are scored between the reference's first and last slice, the last one left out",
        },
        Oddity {
            name: "crop_of_one_slice",
            text: "where one of these lies in a single slice the published script stops with an error; here the organ of that case has failed",
        },
    ],
    score,
};

/// An organ's label, tolerance, and whether only the slices with reference are scored.
struct Organ {
    structure: Structure,
    tolerance_mm: f64,
    labelled_slices: bool,
}

const fn organ(label: u8, name: &'static str, tolerance_mm: f64, labelled_slices: bool) -> Organ {
    Organ { structure: Structure { name, label: Some(label) }, tolerance_mm, labelled_slices }
}

const ORGANS: [Organ; 13] = [
    organ(1, "liver", 5.0, false),
    organ(2, "right_kidney", 3.0, false),
    organ(3, "spleen", 3.0, false),
    organ(4, "pancreas", 5.0, false),
    organ(5, "aorta", 2.0, true),
    organ(6, "postcava", 2.0, true),
    organ(7, "right_adrenal_gland", 2.0, false),
    organ(8, "left_adrenal_gland", 2.0, false),
    organ(9, "gall_bladder", 2.0, false),
    organ(10, "esophagus", 3.0, true),
    organ(11, "stomach", 5.0, false),
    organ(12, "duodenum", 7.0, false),
    organ(13, "left_kidney", 3.0, false),
];

static STRUCTURES: [Structure; 13] = {
    let mut all = [ORGANS[0].structure; 13];
    let mut i = 0;
    while i < all.len() {
        all[i] = ORGANS[i].structure;
        i += 1;
    }
    all
};

fn score(s: &StructurePair) -> Vec<Outcome> {
    match ORGANS.iter().find(|o| o.structure == s.structure) {
        Some(o) => organ_score(&s.pair, o.tolerance_mm, o.labelled_slices).into(),
        None => vec![Outcome::not_applicable("not an organ of this rule"); 2],
    }
}

/// Dice and NSD of one organ, four decimals. `labelled_slices`: only between the reference's first slice along z and its last, without that one.
pub fn organ_score(pair: &Pair, tolerance_mm: f64, labelled_slices: bool) -> [Outcome; 2] {
    let score = |pair: &Pair| {
        let s = FlareScore::of_pair(pair, tolerance_mm).rounded();
        [s.dsc, s.nsd].map(Outcome::Value)
    };
    let slices = if labelled_slices { slices_of(&pair.reference) } else { None };
    match slices {
        None => score(pair),
        Some((first, last)) if first == last => {
            [(); 2].map(|_| Outcome::failed("the reference lies in one slice, and the rule leaves its last slice out"))
        }
        Some((first, last)) => score(&Pair {
            reference: keep_slices(&pair.reference, first..last),
            predicted: keep_slices(&pair.predicted, first..last),
            spacing_mm: pair.spacing_mm,
        }),
    }
}

/// First and last slice along z that holds a voxel.
fn slices_of(mask: &Runs) -> Option<(usize, usize)> {
    let first = mask.all().iter().map(|r| r.start).min()?;
    let last = mask.all().iter().map(|r| r.end - 1).max()?;
    Some((first as usize, last as usize))
}
