//! A cohort looked at as a whole: every case that can't be used, and what a person should know about the others, before a run begins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::facts::{CaseFacts, Intensity, gather};
use super::{Case, CohortList, LesionClasses, Spread};
use crate::io::{self, Warning};
use crate::volume::{ClassTable, PrepareConfig};
use crate::{Error, Result};

/// A case whose voxels are so many times larger or smaller than the cohort's median ones is named.
const ODD_SPACING: f64 = 3.0;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing can be done with the cases as they are.
    Error,
    /// They can be used, but are probably not what was meant.
    Warning,
    /// Good to know.
    Note,
}

/// Something about one case or several.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Empty: it is about the list.
    pub cases: Vec<String>,
    pub file: Option<PathBuf>,
    pub found: String,
    pub expected: String,
    /// One thing to do about it.
    pub action: String,
}

impl Finding {
    fn new(severity: Severity, cases: Vec<String>, found: String, expected: &str, action: &str) -> Self {
        Finding { severity, cases, file: None, found, expected: expected.into(), action: action.into() }
    }

    fn of_case(severity: Severity, case: &Case, found: String, expected: &str, action: &str) -> Self {
        Finding::new(severity, vec![case.name.clone()], found, expected, action)
    }

    fn of_error(cases: Vec<String>, error: Error) -> Self {
        let (file, found, expected, action) = match error {
            Error::File { path, found, expected, action } => (Some(path), found, expected, action),
            Error::Mismatch { case, found, expected, action } => (None, format!("{case}: {found}"), expected, action),
            Error::Io { path, source } => (Some(path), source.to_string(), "a file that can be read".into(), "check the path".into()),
            Error::List { path, line, column, message } => {
                (Some(path), format!("line {line}, column {column}: {message}"), "a list of cases".into(), "correct the list".into())
            }
            Error::Setting(sentence) => (None, sentence, "a size that fits".into(), "change the setting or leave the case out".into()),
        };
        Finding { severity: Severity::Error, cases, file, found, expected, action }
    }

    fn of_warning(case: &Case, file: &Path, warning: Warning) -> Self {
        let Warning { found, expected, action } = warning;
        Finding { severity: Severity::Warning, cases: vec![case.name.clone()], file: Some(file.to_owned()), found, expected, action }
    }
}

/// Lesions of a case of which no voxel is left on the resampled grid.
#[derive(Clone, Debug, Serialize)]
pub struct LostLesions {
    pub case: String,
    /// Of how many.
    pub lesions: usize,
    /// Each lost one, the largest first.
    pub lost_ml: Vec<f64>,
}

/// The verdict on a cohort.
#[derive(Clone, Debug, Serialize)]
pub struct CohortReport {
    pub cases: usize,
    /// Cases with an error.
    pub faulty: usize,
    pub errors: usize,
    pub warnings: usize,
    /// Errors first.
    pub findings: Vec<Finding>,
    pub lost_lesions: Vec<LostLesions>,
    /// How many scans are stored in each orientation.
    pub orientations: BTreeMap<String, usize>,
    /// Voxel size along R, A, S, mm.
    pub spacing_mm: Option<[Spread; 3]>,
    /// How many scans hold each kind of numbers.
    pub intensities: BTreeMap<String, usize>,
    /// Lowest and highest HU of each scan.
    pub hu_min: Option<Spread>,
    pub hu_max: Option<Spread>,
}

/// Look at every case of `list`; `faults` are what is wrong with the list itself. `prepare` and `lesion` are how a run would use the scans;
/// `progress` hears of each case. The facts are those of the cases that could be read.
pub fn check(
    list: &CohortList,
    faults: Vec<Error>,
    prepare: &PrepareConfig,
    lesion: &LesionClasses,
    progress: impl Fn(&Case) + Sync,
) -> (CohortReport, Vec<CaseFacts>) {
    let cases: Vec<&Case> = list.training.iter().chain(&list.validation).chain(&list.test).collect();
    let looked: Vec<(Option<CaseFacts>, Vec<Finding>)> = cases
        .par_iter()
        .map(|case| {
            let mut findings = Vec::new();
            let facts = look(case, prepare, lesion, &list.classes, &mut findings);
            progress(case);
            let facts = facts.map_err(|e| findings.push(Finding::of_error(vec![case.name.clone()], e))).ok();
            (facts, findings)
        })
        .collect();
    let mut findings: Vec<Finding> = faults.into_iter().map(|e| Finding::of_error(Vec::new(), e)).collect();
    let mut facts = Vec::new();
    for (fact, found) in looked {
        facts.extend(fact);
        findings.extend(found);
    }
    findings.extend(two_sides(list));
    findings.extend(duplicates(list, &facts));
    findings.extend(mixtures(&facts));
    if !list.is_empty() && list.training.iter().all(|c| c.lesion_free || c.label.is_none()) {
        let found = "no training case with a label".to_owned();
        findings.push(Finding::new(Severity::Warning, Vec::new(), found, "labelled cases to train on", "add labels, or only screen"));
    }
    findings.sort_by_key(|f| f.severity);
    let lost_lesions = facts.iter().filter_map(lost).collect();
    let of = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let faulty: std::collections::BTreeSet<&String> =
        findings.iter().filter(|f| f.severity == Severity::Error).flat_map(|f| &f.cases).collect();
    let report = CohortReport {
        cases: cases.len(),
        faulty: faulty.len(),
        errors: of(Severity::Error),
        warnings: of(Severity::Warning),
        lost_lesions,
        orientations: tally(&facts, |f| f.orientation.clone()),
        spacing_mm: spacings(&facts),
        intensities: tally(&facts, |f| f.intensity.words()),
        hu_min: Spread::of(facts.iter().map(|f| f.hu_min as f64)),
        hu_max: Spread::of(facts.iter().map(|f| f.hu_max as f64)),
        findings,
    };
    (report, facts)
}

/// One case: read it as a run would, and say what is odd.
fn look(
    case: &Case,
    prepare: &PrepareConfig,
    lesion: &LesionClasses,
    named: &ClassTable,
    findings: &mut Vec<Finding>,
) -> Result<CaseFacts> {
    let scan = io::read(&case.image);
    // A case may be wrong twice: its labels are looked at where the scan can't be read as well.
    let grid = scan.as_ref().ok().map(|s| &s.item.geometry);
    let labels = case.label.as_ref().map(|l| io::read_labels(l, grid)).transpose();
    let labels = match labels {
        Err(e) if scan.is_err() => {
            findings.push(Finding::of_error(vec![case.name.clone()], e));
            None
        }
        labels => labels?,
    };
    let scan = scan?;
    findings.extend(scan.warnings.into_iter().map(|w| Finding::of_warning(case, &case.image, w)));
    if let (Some(labels), Some(path)) = (&labels, &case.label) {
        findings.extend(labels.warnings.iter().map(|w| Finding::of_warning(case, path, w.clone())));
    }
    prepare.predict(&scan.item.geometry)?;
    let facts = gather(&case.name, &scan.item, labels.as_ref().map(|l| &l.item), lesion, prepare.spacing_mm)?;

    let mut say =
        |severity, found: String, expected: &str, action: &str| findings.push(Finding::of_case(severity, case, found, expected, action));
    match facts.intensity {
        Intensity::Hu => {}
        Intensity::Constant => {
            say(Severity::Error, format!("{} in every voxel", facts.hu_min), "a scan", "look at the file: it holds no image")
        }
        Intensity::Clipped { .. } => say(
            Severity::Warning,
            facts.intensity.words(),
            "HU as scanned",
            "export the scan without a window, or set windows_hu inside it",
        ),
        _ => {
            let found = format!("{} ({} to {})", facts.intensity.words(), facts.hu_min, facts.hu_max);
            say(Severity::Warning, found, "HU", "convert the scan again with its rescale slope and intercept")
        }
    }
    if case.label.is_some() {
        labels_as_meant(case, &facts, lesion, named, &mut say);
    }
    if let Some(lost) = lost(&facts) {
        let sizes = lost.lost_ml.iter().take(5).map(|ml| format!("{ml:.3}")).collect::<Vec<_>>().join(", ");
        let more = if lost.lost_ml.len() > 5 { ", ..." } else { "" };
        let found = format!("{} of {} lesions lost in resampling ({sizes}{more} mL)", lost.lost_ml.len(), lost.lesions);
        say(Severity::Warning, found, "at least one voxel of each", "set a finer data.spacing_mm, or accept that they are never seen");
    }
    Ok(facts)
}

fn labels_as_meant(
    case: &Case,
    facts: &CaseFacts,
    lesion: &LesionClasses,
    named: &ClassTable,
    say: &mut impl FnMut(Severity, String, &str, &str),
) {
    let voxels: u64 = facts.shape.iter().map(|&n| n as u64).product();
    let labelled: u64 = facts.classes.values().sum();
    let lesions: u64 = facts.lesion.count();
    let values = || facts.classes.keys().map(u8::to_string).collect::<Vec<_>>().join(", ");
    if labelled == voxels {
        say(Severity::Warning, format!("every voxel labelled ({})", values()), "background as 0", "check that it is the label file");
    }
    if case.lesion_free && lesions > 0 {
        let found = format!("listed as free of lesions, and {lesions} voxels of lesion");
        say(Severity::Note, found, "one of the two", "the list decides: the label is not used");
    } else if !case.lesion_free && labelled == 0 {
        say(Severity::Note, "an empty label".into(), "lesions", "nothing if the scan is free of lesions");
    } else if !case.lesion_free && lesions == 0 {
        let wanted = match lesion {
            LesionClasses::All => "a lesion".into(),
            LesionClasses::These(classes) => format!("{classes:?} (data.lesion_classes)"),
        };
        say(
            Severity::Warning,
            format!("only label values {}", values()),
            &wanted,
            "set data.lesion_classes to the values that are lesions",
        );
    }
    let unnamed: Vec<String> = facts.classes.keys().filter(|v| !named.is_empty() && !named.contains_key(v)).map(u8::to_string).collect();
    if !unnamed.is_empty() {
        let found = format!("label values {} that the list does not name", unnamed.join(", "));
        say(Severity::Warning, found, &format!("{:?}", named.keys().collect::<Vec<_>>()), "name them in the list, or correct the label");
    }
}

fn lost(facts: &CaseFacts) -> Option<LostLesions> {
    let mut lost_ml: Vec<f64> = facts.lesions.iter().filter(|l| l.resampled_voxels == Some(0)).map(|l| l.volume_ml).collect();
    lost_ml.sort_by(|a, b| b.total_cmp(a));
    (!lost_ml.is_empty()).then(|| LostLesions { case: facts.name.clone(), lesions: facts.lesions.len(), lost_ml })
}

/// Patients in more than one part of the list.
fn two_sides(list: &CohortList) -> Vec<Finding> {
    let mut sides: BTreeMap<&str, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
    for (side, cases) in [("training", &list.training), ("validation", &list.validation), ("test", &list.test)] {
        for case in cases {
            sides.entry(&case.patient).or_default().entry(side).or_default().push(case.name.clone());
        }
    }
    let finding = |(patient, sides): (&str, BTreeMap<&str, Vec<String>>)| {
        let found = format!("patient `{patient}` in {}", sides.keys().copied().collect::<Vec<_>>().join(" and "));
        let action = "move the cases, or tell patients apart with `patient` in the list or data.patient_parts";
        Finding::new(Severity::Error, sides.into_values().flatten().collect(), found, "each patient on one side only", action)
    };
    sides.into_iter().filter(|(_, sides)| sides.len() > 1).map(finding).collect()
}

/// Scans with the same voxels: an error where they lie on two sides of the split.
fn duplicates(list: &CohortList, facts: &[CaseFacts]) -> Vec<Finding> {
    let mut same: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    facts.iter().for_each(|f| same.entry(&f.content).or_default().push(f.name.clone()));
    let side = |name: &String| [&list.training, &list.validation, &list.test].iter().position(|part| part.iter().any(|c| c.name == *name));
    let finding = |names: Vec<String>| {
        let leaks = names.iter().any(|n| side(n) != side(&names[0]));
        let severity = if leaks { Severity::Error } else { Severity::Warning };
        let found = format!("the same voxels {} times{}", names.len(), if leaks { ", on two sides of the split" } else { "" });
        Finding::new(severity, names, found, "each scan once", "keep one of them")
    };
    same.into_values().filter(|names| names.len() > 1).map(finding).collect()
}

/// What the scans do not have in common.
fn mixtures(facts: &[CaseFacts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut mixed = |what: &str, counts: BTreeMap<String, usize>, severity, action: &str| {
        if counts.len() > 1 {
            let found = counts.iter().map(|(k, n)| format!("{n} of {k}")).collect::<Vec<_>>().join(", ");
            findings.push(Finding::new(severity, Vec::new(), format!("mixed {what}: {found}"), "one for all", action));
        }
    };
    mixed("orientations", tally(facts, |f| f.orientation.clone()), Severity::Note, "nothing: scans are turned to RAS");
    mixed("intensities", tally(facts, |f| f.intensity.words()), Severity::Warning, "bring all scans to HU");
    if let Some(spacings) = spacings(facts) {
        for f in facts {
            let odd = |a: &usize| {
                let ratio = f.spacing_mm[*a] / spacings[*a].median;
                !(1.0 / ODD_SPACING..=ODD_SPACING).contains(&ratio)
            };
            if let Some(a) = (0..3).find(odd) {
                let found = format!("voxels of {} mm", f.spacing_mm.map(|v| format!("{v:.3}")).join(" x "));
                let expected = format!("about the cohort's median along {}, {:.3} mm", ["R", "A", "S"][a], spacings[a].median);
                let action = "check the spacing in the file; if it is right, resampling takes care of it";
                findings.push(Finding::new(Severity::Warning, vec![f.name.clone()], found, &expected, action));
            }
        }
    }
    findings
}

fn spacings(facts: &[CaseFacts]) -> Option<[Spread; 3]> {
    let along = |a: usize| Spread::of(facts.iter().map(|f| f.spacing_mm[a]));
    Some([along(0)?, along(1)?, along(2)?])
}

pub(super) fn tally(facts: &[CaseFacts], of: impl Fn(&CaseFacts) -> String) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    facts.iter().for_each(|f| *counts.entry(of(f)).or_default() += 1);
    counts
}

#[cfg(test)]
mod tests;
