//! A cohort on disk, in the layout of the Medical Segmentation Decathlon.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use crate::io::{write_atomic, write_labels, write_volume};
use crate::{Error, Result};

use super::{Lesion, Settings, case_name, generate, lesion_classes, organ_classes};

/// What [`write_cohort`] left on disk.
#[derive(Clone, Debug, Serialize)]
pub struct CohortSummary {
    /// The data list.
    pub list: PathBuf,
    pub cases: usize,
    /// Cases that an earlier call had finished.
    pub already_there: usize,
    pub lesion_free: usize,
    pub lesions: usize,
    /// Lesions per class 1..=9.
    pub per_class: [usize; 9],
    /// Training, validation and test cases.
    pub split: [usize; 3],
}

/// 60 % for training, 15 % for validation, the rest for the test; one case of each as soon as there are three.
pub fn default_split(cases: usize) -> [usize; 3] {
    let share = |percent: usize| (cases * percent / 100).max(usize::from(cases >= 3));
    let validation = share(15);
    let test = (cases * 25 / 100).max(usize::from(cases >= 2));
    [cases - validation - test, validation, test]
}

/// Write cases `0..cases` of the cohort with `seed` under `out`:
/// `imagesTr/NAME_0000.nii.gz` (int16 HU), `labelsTr/NAME.nii.gz` (lesion classes), `organsTr/NAME.nii.gz`, `reports/NAME.txt`,
/// `findings/NAME.json`, and at last `dataset.json` with the first `split[0]` cases for training, the next for validation, the rest for the test.
///
/// Interrupted and started again it goes on where it was: a case's findings are its last file. `phantom.json` keeps settings and seed; a
/// folder that holds another cohort is refused.
pub fn write_cohort(settings: &Settings, seed: u64, cases: usize, out: &Path, split: [usize; 3]) -> Result<CohortSummary> {
    settings.check()?;
    if cases == 0 || split.iter().sum::<usize>() != cases {
        let [a, b, c] = split;
        return Err(Error::Setting(format!("phantom split {a} + {b} + {c} does not make up the {cases} cases; give counts that do")));
    }
    let recipe = out.join("phantom.json");
    let now = json!({ "seed": seed, "settings": settings, "version": 1 });
    if recipe.exists() {
        let stored = std::fs::read(&recipe).map_err(|e| Error::io(&recipe, e))?;
        if stored != pretty(&now) {
            return Err(Error::file(
                &recipe,
                "a cohort made with other settings or another seed",
                "the same ones, to go on with it",
                "choose another folder or remove this one",
            ));
        }
    } else {
        write_atomic(&recipe, &pretty(&now))?;
    }

    let done: Vec<(bool, Vec<u8>)> =
        (0..cases as u64).into_par_iter().map(|index| write_case(settings, seed, index, out)).collect::<Result<_>>()?;
    let entry = |index: usize| {
        let name = case_name(index as u64);
        json!({ "image": format!("./imagesTr/{name}_0000.nii.gz"), "label": format!("./labelsTr/{name}.nii.gz") })
    };
    let [training, validation, test] = split;
    let list = |from: usize, n: usize| (from..from + n).map(entry).collect::<Vec<_>>();
    let mut labels = serde_json::Map::from_iter([("0".to_owned(), json!("background"))]);
    labels.extend(lesion_classes().into_iter().map(|(class, name)| (class.to_string(), json!(name))));
    let dataset = json!({
        "name": "phantom",
        "description": "Generated CT torsos with lesions of nine types",
        "reference": "panscreen",
        "licence": "CC0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": { "0": "CT" },
        "labels": labels,
        "numTraining": training,
        "numTest": test,
        "training": list(0, training),
        "validation": list(training, validation),
        "test": list(training + validation, test),
    });
    let organs: serde_json::Map<String, Value> =
        organ_classes().into_iter().map(|(class, name)| (class.to_string(), json!(name))).collect();
    write_atomic(&out.join("organs.json"), &pretty(&json!(organs)))?;
    let path = out.join("dataset.json");
    write_atomic(&path, &pretty(&dataset))?;

    let mut per_class = [0; 9];
    for class in done.iter().flat_map(|(_, classes)| classes) {
        per_class[*class as usize - 1] += 1;
    }
    Ok(CohortSummary {
        list: path,
        cases,
        already_there: done.iter().filter(|(there, _)| *there).count(),
        lesion_free: done.iter().filter(|(_, classes)| classes.is_empty()).count(),
        lesions: per_class.iter().sum(),
        per_class,
        split,
    })
}

/// Write one case unless it is there; whether it was, and the classes of its lesions.
fn write_case(settings: &Settings, seed: u64, index: u64, out: &Path) -> Result<(bool, Vec<u8>)> {
    let name = case_name(index);
    let marker = out.join("findings").join(format!("{name}.json"));
    if marker.exists() {
        return read_classes(&marker).map(|classes| (true, classes));
    }
    let case = generate(settings, seed, index);
    write_volume(&out.join("imagesTr").join(format!("{name}_0000.nii.gz")), &case.ct)?;
    write_labels(&out.join("labelsTr").join(format!("{name}.nii.gz")), &case.lesions.data, &case.lesions.geometry)?;
    write_labels(&out.join("organsTr").join(format!("{name}.nii.gz")), &case.organs.data, &case.organs.geometry)?;
    write_atomic(&out.join("reports").join(format!("{name}.txt")), case.report.as_bytes())?;
    write_atomic(&marker, &pretty(&json!({ "case": name, "lesions": case.findings })))?;
    Ok((false, case.findings.iter().map(|l: &Lesion| l.class).collect()))
}

fn read_classes(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let classes = || -> Option<Vec<u8>> {
        let value: Value = serde_json::from_slice(&bytes).ok()?;
        let classes = value["lesions"].as_array()?.iter().map(|l| l["class"].as_u64().filter(|c| (1..=9).contains(c)).map(|c| c as u8));
        classes.collect()
    };
    classes().ok_or_else(|| {
        Error::file(path, "no list of lesions", "the findings of a generated case", "remove the file, the case is then made again")
    })
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
