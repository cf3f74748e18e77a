//! The worst cases of the leading method, as pictures.

use std::path::Path;

use panscreen_envs::io;
use panscreen_envs::metrics::protocols::Protocol;
use panscreen_envs::volume::{Geometry, Orientation};

use super::{Column, Leaderboard, Method};
use crate::evaluate::files::{Masks, masks_in};
use crate::evaluate::record::Score;
use crate::evaluate::{Rule, Settings};
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
    let mut order: Vec<(f64, usize)> =
        leader.cases.iter().enumerate().filter_map(|(i, c)| Some((c.score(None, metric).value()?, i))).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let folders = Folders::open(&leader.folder, reference, images, &settings.rule);
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
struct Folders<'a> {
    rule: &'a Rule,
    reference: std::collections::BTreeMap<String, Masks>,
    predicted: std::collections::BTreeMap<String, Masks>,
    images: Vec<std::path::PathBuf>,
}

impl<'a> Folders<'a> {
    fn open(predicted: &Path, reference: Option<&Path>, images: Option<&Path>, rule: &'a Rule) -> Option<Self> {
        let reference = masks_in(reference?, rule.protocol).ok()?;
        // Scans that can't be listed leave the pictures without a scan; the leaderboard is whole.
        let images = images.and_then(|dir| io::scans_in(dir).ok()).unwrap_or_default();
        Some(Folders { rule, reference, predicted: masks_in(predicted, rule.protocol).unwrap_or_default(), images })
    }

    fn picture(&self, case: &str) -> Option<Vec<u8>> {
        // What is scored is what is drawn: of a label map the lesion classes, or the organs that the protocol knows.
        let protocol = self.rule.protocol;
        let organ = |v: u8| v != 0 && protocol.structures.iter().any(|s| s.label.is_none_or(|label| label == v));
        let scored = |v: u8| if protocol.is_of_lesions() { self.rule.lesion.contains(v) } else { organ(v) };
        let (reference, stored) = union(self.reference.get(case)?, scored)?;
        let predicted =
            self.predicted.get(case).and_then(|masks| union(masks, organ)).filter(|(_, g)| g.shape == stored.shape).map(|(mask, _)| mask);
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

/// All structures of a case as one mask, on its own grid. `scored`: which values of a label map count.
fn union(masks: &Masks, scored: impl Fn(u8) -> bool) -> Option<(Vec<u8>, Geometry)> {
    let mark = |v: u8| u8::from(if matches!(masks, Masks::Whole(_)) { scored(v) } else { v != 0 });
    let mut all: Option<(Vec<u8>, Geometry)> = None;
    for path in masks.paths() {
        let labels = io::open_labels(path).ok()?;
        match &mut all {
            None => all = Some((labels.data.iter().map(|&v| mark(v)).collect(), labels.geometry)),
            Some((mask, geometry)) if geometry.shape == labels.shape() => {
                mask.iter_mut().zip(&labels.data).for_each(|(m, &v)| *m |= mark(v));
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
    let of = |m: &Method| m.cases.iter().filter_map(|c| c.score(structure, metric).value()).collect();
    methods.iter().map(of).collect()
}

#[test]
fn a_picture_outlines_what_is_scored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.nii.gz");
    // Liver 1, tumour 2.
    io::write_labels(&path, &[0, 1, 2, 1], &Geometry::ras([1, 1, 4], [1.0; 3], [0.0; 3])).unwrap();
    assert_eq!(union(&Masks::Whole(path.clone()), |v| v == 2).unwrap().0, [0, 0, 1, 0]);
    let organs = Masks::ByStructure([("liver".to_owned(), path)].into());
    assert_eq!(union(&organs, |v| v == 2).unwrap().0, [0, 1, 1, 1], "a file of one organ is that organ");
}
