//! The worst cases of the leading method, as pictures.

use std::path::Path;

use panscreen_envs::io;
use panscreen_envs::metrics::protocols::Protocol;
use panscreen_envs::volume::{Geometry, Orientation};

use super::{Column, Leaderboard, Method};
use crate::evaluate::Settings;
use crate::evaluate::files::{Masks, masks_in};
use crate::evaluate::record::Score;
use crate::report::preview::{PreviewInput, SOFT_TISSUE_HU, middle_of_largest, png, preview};

/// A case that went badly.
pub struct Worst {
    pub case: String,
    /// What it is the worst by: the first main metric of the leading method.
    pub score: f64,
    /// Each method's score, as text, in the order of the methods.
    pub scores: Vec<String>,
    pub status: String,
    /// `None` where nothing can be drawn.
    pub picture: Option<Vec<u8>>,
}

/// The `most` cases with the lowest first main metric of the method that leads. Drawn on the scans of `images`, where they are given.
pub fn worst_cases(
    board: &Leaderboard,
    methods: &[Method],
    settings: &Settings,
    reference: Option<&Path>,
    images: Option<&Path>,
    most: usize,
) -> Vec<Worst> {
    let protocol = settings.rule.protocol;
    let leader = board.overall.first().and_then(|o| methods.iter().find(|m| m.name == o.method));
    let (Some(leader), Some(metric)) = (leader, protocol.main_metrics().next()) else { return Vec::new() };
    let mut order: Vec<(f64, usize)> = leader
        .cases
        .iter()
        .enumerate()
        .filter_map(|(i, c)| if let Score::Value(v) = c.score(None, metric) { Some((v, i)) } else { None })
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let folders = Folders::open(&leader.folder, reference, images, protocol);
    let worst = order.into_iter().take(most).map(|(score, i)| {
        let record = &leader.cases[i];
        let text = |m: &Method| match m.cases[i].score(None, metric) {
            Score::Value(v) => format!("{v:.3}"),
            Score::NotAsked => "not asked".into(),
            Score::Lost => "lost".into(),
        };
        Worst {
            case: record.case.clone(),
            score,
            scores: methods.iter().map(text).collect(),
            status: crate::evaluate::write::status(record.status).into(),
            picture: folders.as_ref().and_then(|f| f.picture(&record.case)),
        }
    });
    worst.collect()
}

/// Where masks and scans lie.
struct Folders {
    reference: std::collections::BTreeMap<String, Masks>,
    predicted: std::collections::BTreeMap<String, Masks>,
    images: Vec<std::path::PathBuf>,
}

impl Folders {
    fn open(predicted: &Path, reference: Option<&Path>, images: Option<&Path>, protocol: &Protocol) -> Option<Self> {
        let reference = masks_in(reference?, protocol).ok()?;
        // Scans that can't be listed leave the pictures without a scan; the leaderboard is whole.
        let images = images.and_then(|dir| io::scans_in(dir).ok()).unwrap_or_default();
        Some(Folders { reference, predicted: masks_in(predicted, protocol).unwrap_or_default(), images })
    }

    fn picture(&self, case: &str) -> Option<Vec<u8>> {
        let (reference, stored) = union(self.reference.get(case)?)?;
        let predicted = self.predicted.get(case).and_then(union).filter(|(_, g)| g.shape == stored.shape).map(|(mask, _)| mask);
        let scan =
            self.images.iter().find(|p| io::case_name(p) == case).and_then(|p| io::open(p).ok()).filter(|v| v.shape() == stored.shape);
        // Without a scan the outlines stand on grey.
        let voxels = scan.map_or_else(|| vec![0.0; reference.len()], |v| v.data);
        let turn = Orientation::of(&stored);
        let canonical = turn.turn(&stored);
        let reference = turn.turn_voxels(&reference, stored.shape);
        let predicted = predicted.as_ref().map(|p| turn.turn_voxels(p, stored.shape));
        let at = [Some(&reference), predicted.as_ref()].into_iter().flatten().find_map(|m| middle_of_largest(m, canonical.shape));
        let input = PreviewInput {
            voxels: &turn.turn_voxels(&voxels, stored.shape),
            shape: canonical.shape,
            spacing_mm: canonical.spacing_mm(),
            window: SOFT_TISSUE_HU,
            at: at.unwrap_or(canonical.shape.map(|n| n / 2)),
            prediction: predicted.as_deref(),
            reference: Some(&reference),
            heat: None,
            caption: case,
        };
        Some(png(&preview(&input)))
    }
}

/// All structures of a case as one mask, on its own grid.
fn union(masks: &Masks) -> Option<(Vec<u8>, Geometry)> {
    let mut all: Option<(Vec<u8>, Geometry)> = None;
    for path in masks.paths() {
        let labels = io::open_labels(path).ok()?;
        match &mut all {
            None => all = Some((labels.data.iter().map(|&v| u8::from(v != 0)).collect(), labels.geometry)),
            Some((mask, geometry)) if geometry.shape == labels.shape() => {
                mask.iter_mut().zip(&labels.data).for_each(|(m, &v)| *m |= u8::from(v != 0));
            }
            Some(_) => return None,
        }
    }
    all
}

/// Scores of each method in a column, for box plots: what it counts as on every case that is asked.
pub fn values(column: &Column, methods: &[Method], protocol: &Protocol) -> Vec<Vec<f64>> {
    let Some(metric) = protocol.metrics.iter().find(|m| m.name == column.metric) else { return Vec::new() };
    let structure = protocol.structures.iter().find(|s| s.name == column.structure).map(|s| s.name);
    let of =
        |m: &Method| m.cases.iter().filter_map(|c| if let Score::Value(v) = c.score(structure, metric) { Some(v) } else { None }).collect();
    methods.iter().map(of).collect()
}
