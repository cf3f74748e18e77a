//! One case from files to its record.

use std::collections::BTreeMap;
use std::path::Path;

use panscreen_envs::dataset::LesionClasses;
use panscreen_envs::metrics::detection::{LesionMatch, Matching};
use panscreen_envs::metrics::matching::{Counts, Links};
use panscreen_envs::metrics::protocols::gf_screen::{self, Detection};
use panscreen_envs::metrics::protocols::{Protocol, Structure, StructurePair, panscreen};
use panscreen_envs::metrics::{Outcome, Pair};
use panscreen_envs::volume::components::Components;
use panscreen_envs::volume::runs::Runs;
use panscreen_envs::volume::{Geometry, Labels};
use panscreen_envs::{Error, Result, io};
use serde_json::json;

use super::files::{Masks, probability_map};
use super::record::{CaseRecord, LesionRecord, Status, StructureRecord};

/// What cases are judged by.
#[derive(Clone, Debug)]
pub struct Rule {
    pub protocol: &'static Protocol,
    /// Which reference values are lesions, where the protocol is one of lesions.
    pub lesion: LesionClasses,
}

/// The files of one case.
#[derive(Clone, Copy, Debug)]
pub struct CaseFiles<'a> {
    pub case: &'a str,
    pub reference: &'a Masks,
    pub predicted: Option<&'a Masks>,
    /// Folder of the prediction, for the probability map beside it.
    pub folder: &'a Path,
}

/// A mask with the grid that it lies on.
struct Placed {
    mask: Runs,
    geometry: Geometry,
    above_one: bool,
}

impl Placed {
    fn of(labels: &Labels, chosen: &[bool; 256]) -> Self {
        Placed {
            mask: Runs::select(&labels.data, labels.shape(), |v| chosen[usize::from(v)]),
            geometry: labels.geometry.clone(),
            above_one: labels.data.iter().any(|&v| v > 1),
        }
    }
}

/// Counts up when the same files give another line.
const LINE: u32 = 2;

/// Hash of all that the record of a case depends on. A file that can't be read is hashed as such.
pub fn key(files: CaseFiles, rule: &Rule) -> String {
    let hash = |path: &Path| {
        let mut hasher = blake3::Hasher::new();
        match io::hash(path, &mut hasher) {
            Ok(()) => hasher.finalize().to_hex()[..32].to_owned(),
            Err(e) => format!("unreadable: {e}"),
        }
    };
    let all = |masks: &Masks| {
        masks.paths().into_iter().map(|p| (p.file_name().map(|n| n.to_string_lossy().into_owned()), hash(p))).collect::<Vec<_>>()
    };
    let map = probability_map(files.folder, files.case).map(|p| hash(&p));
    let lesion = format!("{:?}", rule.lesion);
    let of = json!([env!("CARGO_PKG_VERSION"), LINE, rule.protocol.name, lesion, all(files.reference), files.predicted.map(all), map]);
    blake3::hash(of.to_string().as_bytes()).to_hex()[..32].to_owned()
}

/// Judge one case. Nothing that is wrong with its files is an error: it is the case's status.
pub fn judge(files: CaseFiles, rule: &Rule, key: String) -> CaseRecord {
    let blank = CaseRecord::blank(files.case, key);
    match try_judge(files, rule, blank.clone()) {
        Ok(record) => record.settled(),
        Err(e) => CaseRecord { status: Status::Unjudged, reason: Some(e.to_string()), ..blank },
    }
}

/// Fails where the reference can't be used.
fn try_judge(files: CaseFiles, rule: &Rule, mut record: CaseRecord) -> Result<CaseRecord> {
    let reference = Side::of(files.reference, None)?;
    // What the prediction must lie on; of organ files the first that can be read.
    let grid = match &reference {
        Side::Whole(labels) => Some(labels.geometry.clone()),
        Side::ByStructure(_) => None,
    };
    let predicted = files.predicted.map(|masks| Side::of(masks, grid.as_ref()));
    let predicted = match predicted {
        None => Err((Status::Missing, "there is no prediction".to_owned())),
        Some(Err(e)) => Err((Status::Failed, e.to_string())),
        Some(Ok(side)) => Ok(side),
    };
    for structure in rule.protocol.structures {
        let lesion = rule.protocol.is_of_lesions().then_some(&rule.lesion);
        let Some(truth) = reference.mask(structure, lesion)? else { continue };
        let spacing_mm = truth.geometry.spacing_mm();
        if spacing_mm.iter().any(|&s| !(s.is_finite() && s > 0.0)) {
            return Err(Error::Setting(format!(
                "spacing {spacing_mm:?} mm of the reference is not three positive numbers; correct the header"
            )));
        }
        let usable = match &predicted {
            Err(lost) => Err(lost.clone()),
            Ok(side) => match side.mask(structure, None) {
                Ok(None) => Err((Status::Missing, format!("there is no prediction of {}", structure.name))),
                Ok(Some(mask)) => {
                    same_grid(files.case, &mask.geometry, &truth.geometry).map(|()| mask).map_err(|e| (Status::Failed, e.to_string()))
                }
                Err(e) => Err((Status::Failed, e.to_string())),
            },
        };
        let above_one = usable.as_ref().is_ok_and(|p| p.above_one);
        let (mask, lost) = match usable {
            Ok(p) => (p.mask, None),
            Err(lost) => (Runs::from_rows(truth.geometry.shape, |_, _, _| {}), Some(lost)),
        };
        let pair = Pair { reference: truth.mask, predicted: mask, spacing_mm };
        if rule.protocol.is_of_lesions() {
            let map = probability_map(files.folder, files.case).filter(|_| lost.is_none());
            record.lesions = Some(lesions(&pair, lost.is_some(), map.as_deref(), &truth.geometry));
            record.detection = (rule.protocol.name == gf_screen::PROTOCOL.name).then(|| {
                let mut table = Detection::default();
                if lost.is_some() {
                    table.add_without_prediction(&pair.reference)
                } else {
                    table.add(&pair)
                }
                table
            });
        }
        record.structures.push(score(rule.protocol, StructurePair { structure: *structure, pair, above_one }, lost));
    }
    Ok(record)
}

fn score(protocol: &Protocol, case: StructurePair, lost: Option<(Status, String)>) -> StructureRecord {
    let ml = |mask: &Runs| mask.voxels() as f64 * case.pair.voxel_ml();
    let (reference_ml, predicted_ml) = (ml(&case.pair.reference), ml(&case.pair.predicted));
    let outcomes = (protocol.score)(&case);
    let value = |outcome: Outcome, asked: bool| match (&lost, outcome) {
        // What the reference leaves out stays out; everything else that was asked has no answer.
        (Some((_, reason)), Outcome::Value(_) | Outcome::Failed(_)) => Outcome::failed(reason.clone()),
        (Some((_, reason)), Outcome::NotApplicable(_)) if asked && case.pair.reference.is_empty() => Outcome::failed(reason.clone()),
        (_, outcome) => outcome,
    };
    let empty = case.pair.reference.is_empty();
    let values: BTreeMap<String, Outcome> =
        protocol.metrics.iter().zip(outcomes).map(|(m, o)| (m.name.to_owned(), value(o, m.asked.of(empty)))).collect();
    StructureRecord {
        structure: case.structure.name.to_owned(),
        status: lost.as_ref().map_or(Status::Scored, |(status, _)| *status),
        reason: lost.as_ref().map(|(_, reason)| reason.clone()),
        reference_ml,
        predicted_ml: lost.is_none().then_some(predicted_ml),
        values,
    }
}

fn lesions(pair: &Pair, lost: bool, map: Option<&Path>, geometry: &Geometry) -> LesionRecord {
    let matching = Matching::default();
    if lost {
        let matched = LesionMatch::without_prediction(&pair.reference, pair.voxel_ml(), matching);
        let one_to_one = Counts { fn_: matched.lesions.len(), ..Counts::default() };
        return LesionRecord { matched, links: Vec::new(), one_to_one, probabilities: None };
    }
    let links = Links::of(pair, matching.connectivity);
    let matched = LesionMatch::of(&links, pair.voxel_ml(), matching.min_predicted_ml);
    let one_to_one = links.counts(&links.one_to_one(panscreen::LEAST_IOU));
    let probabilities = map.and_then(|path| {
        let map = io::open(path).ok().filter(|map| map.shape() == geometry.shape)?;
        Some(highest_in(&map.data, &pair.predicted, &links.findings))
    });
    let links = links.shared.iter().map(|s| [s.lesion, s.finding]).collect();
    LesionRecord { matched, links, one_to_one, probabilities }
}

/// Highest value of `map` in each component of `mask`.
fn highest_in(map: &[f32], mask: &Runs, components: &Components) -> Vec<f64> {
    let mut highest = vec![0.0f64; components.count()];
    let [_, ny, nz] = mask.shape();
    mask.for_each(|x, y, i, run| {
        let row = (x * ny + y) * nz;
        let top = map[row + run.start as usize..row + run.end as usize].iter().copied().fold(0.0f32, f32::max);
        let of = &mut highest[components.of_run[i] as usize - 1];
        *of = of.max(f64::from(top));
    });
    highest
}

/// One side of a case, as far as it must be in memory.
enum Side<'a> {
    Whole(Labels),
    ByStructure(&'a BTreeMap<String, std::path::PathBuf>),
}

impl<'a> Side<'a> {
    fn of(masks: &'a Masks, grid: Option<&Geometry>) -> Result<Self> {
        Ok(match masks {
            Masks::Whole(path) => Side::Whole(io::read_labels(path, grid)?.item),
            Masks::ByStructure(paths) => Side::ByStructure(paths),
        })
    }

    /// The mask of a structure; `None` where there is no file for it. `lesion`: which values of a label map are lesions.
    fn mask(&self, structure: &Structure, lesion: Option<&LesionClasses>) -> Result<Option<Placed>> {
        let mut chosen = [false; 256];
        for (v, chosen) in (0..=255u8).zip(&mut chosen) {
            *chosen = match (structure.label, lesion) {
                (Some(label), _) => v == label,
                (None, Some(lesion)) => lesion.contains(v),
                (None, None) => v != 0,
            };
        }
        match self {
            Side::Whole(labels) => Ok(Some(Placed::of(labels, &chosen))),
            Side::ByStructure(paths) => {
                let Some(path) = paths.get(structure.name) else { return Ok(None) };
                let marked: [bool; 256] = std::array::from_fn(|v| v != 0);
                Ok(Some(Placed::of(&io::read_labels(path, None)?.item, &marked)))
            }
        }
    }
}

/// The grid of the reference, no corner displaced by more than a tenth of a voxel.
fn same_grid(case: &str, predicted: &Geometry, reference: &Geometry) -> Result<()> {
    let mismatch = |found: String, expected: String| {
        Err(Error::Mismatch { case: case.to_owned(), found, expected, action: "write the prediction on the grid of the scan".into() })
    };
    if predicted.shape != reference.shape {
        return mismatch(format!("a prediction of {:?} voxels", predicted.shape), format!("{:?}", reference.shape));
    }
    let tolerance = reference.spacing_mm().into_iter().fold(f64::INFINITY, f64::min) * 0.1;
    let displaced = predicted.corner_distance_mm(reference);
    if displaced > tolerance {
        return mismatch(format!("a grid that lies {displaced:.2} mm off"), format!("at most {tolerance:.2} mm"));
    }
    Ok(())
}
