//! `panscreen evaluate`: a folder of predictions against a folder of references.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use panscreen_envs::dataset::LesionClasses;
use panscreen_envs::metrics::Pair;
use panscreen_envs::metrics::detection::{LesionMatch, Matching};
use panscreen_envs::metrics::flare::{FlareScore, TOLERANCE_MM};
use panscreen_envs::volume::Labels;
use panscreen_envs::volume::runs::Runs;
use panscreen_envs::{Error, Result, io};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::score::{CaseScore, Judged, Summary, summarise};

/// One line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaseReport {
    pub case: String,
    #[serde(flatten)]
    pub judged: Judged,
}

/// The table and its summary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    pub summary: Summary,
    pub cases: Vec<CaseReport>,
    /// Predictions that no reference asks for.
    pub without_reference: Vec<String>,
}

/// Judge every reference of `reference` by the file of the same name in `predicted`. `lesion`: which reference values are lesions;
/// in a prediction every value but 0 is.
pub fn evaluate_folders(predicted: &Path, reference: &Path, lesion: &LesionClasses, done: impl Fn(&str) + Sync) -> Result<Evaluation> {
    let references = masks_in(reference)?;
    let predictions = masks_in(predicted)?;
    if references.is_empty() {
        return Err(Error::file(reference, "no label map (NIfTI, NRRD, MetaImage, DICOM SEG)", "reference masks", "check the path"));
    }
    let cases: Vec<CaseReport> = references
        .par_iter()
        .map(|(name, path)| {
            let judged = judge(name, predictions.get(name), path, lesion)?;
            done(name);
            Ok(CaseReport { case: name.clone(), judged })
        })
        .collect::<Result<_>>()?;
    let judged: Vec<Judged> = cases.iter().map(|c| c.judged.clone()).collect();
    // Probability maps that were saved beside their masks are no predictions.
    let map_of_a_mask = |n: &str| n.strip_suffix("_probability").is_some_and(|case| predictions.contains_key(case));
    let without_reference = predictions.keys().filter(|n| !references.contains_key(*n) && !map_of_a_mask(n)).cloned().collect();
    Ok(Evaluation { summary: summarise(&judged), cases, without_reference })
}

/// A broken reference is an error of the whole evaluation; a broken prediction is that case's failure.
fn judge(name: &str, predicted: Option<&PathBuf>, reference: &Path, lesion: &LesionClasses) -> Result<Judged> {
    let truth = io::open_labels(reference)?;
    let mask: Vec<u8> = truth.data.iter().map(|&v| lesion.contains(v) as u8).collect();
    let geometry = &truth.geometry;
    let lost = || LesionMatch::without_prediction(&Runs::of(&mask, truth.shape()), geometry.voxel_ml(), Matching::default());
    let Some(path) = predicted else { return Ok(Judged::Missing { matched: lost() }) };
    let usable = io::read_labels(path, Some(geometry)).map(|p| p.item).and_then(|p| same_grid(name, &p, &truth).map(|()| p));
    match usable {
        Ok(p) => {
            let mut score = CaseScore::of(&Pair::new(name, &mask, &p.data, truth.shape(), geometry.spacing_mm())?);
            // Only the FLARE rule asks for the values as stored: above 1 they cost the case.
            score.flare = FlareScore::of(name, &mask, &p.data, truth.shape(), geometry.spacing_mm(), TOLERANCE_MM)?;
            Ok(Judged::Scored(score))
        }
        Err(e) => Ok(Judged::Failed { reason: e.to_string(), matched: lost() }),
    }
}

/// The grid of the reference, no corner displaced by more than a tenth of a voxel.
fn same_grid(case: &str, predicted: &Labels, reference: &Labels) -> Result<()> {
    let mismatch = |found: String, expected: String| {
        Err(Error::Mismatch { case: case.to_owned(), found, expected, action: "write the prediction on the grid of the scan".into() })
    };
    if predicted.shape() != reference.shape() {
        return mismatch(format!("a prediction of {:?} voxels", predicted.shape()), format!("{:?}", reference.shape()));
    }
    let tolerance = reference.geometry.spacing_mm().into_iter().fold(f64::INFINITY, f64::min) * 0.1;
    let displaced = predicted.geometry.corner_distance_mm(&reference.geometry);
    if displaced > tolerance {
        return mismatch(format!("a grid that lies {displaced:.2} mm off"), format!("at most {tolerance:.2} mm"));
    }
    Ok(())
}

/// Mask files of a folder by case name.
fn masks_in(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(name) = io::stem(&file) {
            found.insert(name.to_owned(), path);
        }
    }
    Ok(found)
}
