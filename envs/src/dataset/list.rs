//! Data lists: a folder (FLARE layout or any pair of suffixes), Decathlon / MSD `dataset.json`, and the JSON lists of the published code (dossier D.3).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::io;
use crate::volume::ClassTable;
use crate::{Error, Result};

/// One scan of a cohort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// Unique in its cohort; outputs are named after it.
    pub name: String,
    pub image: PathBuf,
    /// `None`: no label is known (a test case), or the scan is known to be free of lesions.
    pub label: Option<PathBuf>,
    /// Who was scanned: a patient is never on both sides of a split.
    pub patient: String,
    /// Known to hold no lesion: whatever its label file says, every voxel is background (the published lesion-free set, dossier B.4 #48).
    pub lesion_free: bool,
}

/// What a list says. Lists that don't name a validation or test part leave it empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CohortList {
    pub training: Vec<Case>,
    pub validation: Vec<Case>,
    pub test: Vec<Case>,
    /// Names of label values as the list gives them.
    pub classes: ClassTable,
}

impl CohortList {
    /// Whether no part lists a case.
    pub fn is_empty(&self) -> bool {
        self.training.is_empty() && self.validation.is_empty() && self.test.is_empty()
    }
}

/// How images and labels are named in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// `<name><image_suffix>` is an image. FLARE and nnU-Net: `_0000.nii.gz`.
    pub image_suffix: String,
    /// `<name><label_suffix>` is its label.
    pub label_suffix: String,
    /// How many `_`-separated parts of the name tell the patient; 0 = the whole name.
    pub patient_parts: usize,
}

impl Default for Folder {
    fn default() -> Self {
        Folder { image_suffix: "_0000.nii.gz".into(), label_suffix: ".nii.gz".into(), patient_parts: 0 }
    }
}

impl Folder {
    fn patient(&self, name: &str) -> String {
        match self.patient_parts {
            0 => name.to_owned(),
            n => name.split('_').take(n).collect::<Vec<_>>().join("_"),
        }
    }

    /// The case name of an image file: its file name without the image suffix (or without `.nii.gz` / `.nii`).
    fn name(&self, image: &Path) -> String {
        let file = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        file.strip_suffix(&self.image_suffix).filter(|n| !n.is_empty()).map_or_else(|| io::case_name(image), str::to_owned)
    }
}

/// All images below `root` (not deeper than one folder) with the labels that lie beside them or in a `labels*` folder, sorted by name.
///
/// Cases without a label come back as test cases.
pub fn read_folder(root: &Path, folder: &Folder) -> Result<CohortList> {
    let files = files_below(root)?;
    let mut list = CohortList::default();
    for image in files.iter().filter(|f| has_suffix(f, &folder.image_suffix)) {
        let name = folder.name(image);
        let wanted = format!("{name}{}", folder.label_suffix);
        let label = files.iter().find(|f| *f != image && f.file_name().is_some_and(|n| n.to_string_lossy() == wanted)).cloned();
        let case = Case { patient: folder.patient(&name), name, image: image.clone(), label, lesion_free: false };
        if case.label.is_some() { list.training.push(case) } else { list.test.push(case) }
    }
    if list.training.is_empty() && list.test.is_empty() {
        return Err(Error::file(
            root,
            format!("no file that ends in `{}`", folder.image_suffix),
            "a folder of scans",
            "check the path, or set `data.image_suffix` to how the images' names end",
        ));
    }
    unique(root, [&list.training, &list.test])?;
    Ok(list)
}

fn has_suffix(file: &Path, suffix: &str) -> bool {
    file.file_name().is_some_and(|n| n.to_string_lossy().ends_with(suffix) && n.len() > suffix.len())
}

fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let entries = |dir: &Path| -> Result<Vec<PathBuf>> {
        let read = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
        read.map(|e| e.map(|e| e.path()).map_err(|e| Error::io(dir, e))).collect()
    };
    let mut files = Vec::new();
    for path in entries(root)? {
        if path.is_dir() { files.extend(entries(&path)?.into_iter().filter(|p| p.is_file())) } else { files.push(path) }
    }
    files.sort();
    Ok(files)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(non_snake_case)] // the Decathlon's own key names
struct RawList {
    #[serde(default)]
    labels: std::collections::BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    training: Vec<RawCase>,
    #[serde(default)]
    validation: Vec<RawCase>,
    #[serde(default)]
    test: Vec<RawCase>,
    // Known to the formats, of no use here; a count that disagrees is common in public lists (dossier B.4 #49) and never trusted.
    #[serde(default, rename = "name")]
    _name: Option<serde_json::Value>,
    #[serde(default, rename = "description")]
    _description: Option<serde_json::Value>,
    #[serde(default, rename = "reference")]
    _reference: Option<serde_json::Value>,
    #[serde(default, rename = "licence", alias = "license")]
    _licence: Option<serde_json::Value>,
    #[serde(default, rename = "release", alias = "relase")]
    _release: Option<serde_json::Value>,
    #[serde(default, rename = "tensorImageSize")]
    _size: Option<serde_json::Value>,
    #[serde(default, rename = "modality", alias = "channel_names")]
    _modality: Option<serde_json::Value>,
    #[serde(default, rename = "numTraining")]
    _training: Option<serde_json::Value>,
    #[serde(default, rename = "numValidation")]
    _validation: Option<serde_json::Value>,
    #[serde(default, rename = "numTest")]
    _test: Option<serde_json::Value>,
    #[serde(default, rename = "file_ending")]
    _ending: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawCase {
    Image(String),
    Entry(RawEntry),
}

#[derive(Deserialize)]
struct RawEntry {
    image: String,
    label: Option<String>,
    name: Option<String>,
    patient: Option<String>,
    #[serde(default)]
    lesion_free: bool,
    #[serde(flatten)]
    unknown: std::collections::BTreeMap<String, serde_json::Value>,
}

/// A JSON list. Paths in it are relative to `root` (default: the list's own folder). `lesion_free`: every case of this list is free of lesions.
///
/// # Errors
/// The first thing that is wrong with the list.
pub fn read_list(path: &Path, root: Option<&Path>, folder: &Folder, lesion_free: bool) -> Result<CohortList> {
    let (list, faults) = read_list_with_faults(path, root, folder, lesion_free)?;
    faults.into_iter().next().map_or(Ok(list), Err)
}

/// The cohort of a list or a folder, with everything that is wrong with the list: for [`super::check`], which goes on past faults.
///
/// # Errors
/// What cannot be read at all: no such file, no JSON, a folder without scans.
pub fn read_cohort(path: &Path, folder: &Folder) -> Result<(CohortList, Vec<Error>)> {
    if !path.is_dir() {
        return read_list_with_faults(path, None, folder, false);
    }
    let listed = path.join("dataset.json");
    if listed.is_file() {
        let (list, faults) = read_list_with_faults(&listed, None, folder, false)?;
        if !list.is_empty() || !faults.is_empty() {
            return Ok((list, faults));
        }
        // nnU-Net's `dataset.json` names classes, and the cases are what lies in the folder.
        return Ok((CohortList { classes: list.classes, ..read_folder(path, folder)? }, faults));
    }
    Ok((read_folder(path, folder)?, Vec::new()))
}

fn read_list_with_faults(path: &Path, root: Option<&Path>, folder: &Folder, lesion_free: bool) -> Result<(CohortList, Vec<Error>)> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let raw: RawList = serde_json::from_str(&text).map_err(|e| list_error(path, &e))?;
    let root = root.unwrap_or_else(|| path.parent().unwrap_or(Path::new(".")));
    let (mut list, mut faults) = (CohortList::default(), Vec::new());
    for (value, name) in &raw.labels {
        // Decathlon writes {"1": "tumour"}, nnU-Net v2 {"tumour": 1}.
        let (value, name) = match name {
            serde_json::Value::String(name) => (value.parse::<u8>().ok(), name.clone()),
            number => (number.as_u64().and_then(|v| u8::try_from(v).ok()), value.clone()),
        };
        match value {
            Some(0) => {}
            Some(v) => drop(list.classes.insert(v, name)),
            None => faults.push(place(path, &text, &name, "`labels` must name values 0 to 255")),
        }
    }
    let mut case = |raw: RawCase| -> Case {
        let entry = match raw {
            RawCase::Image(image) => {
                RawEntry { image, label: None, name: None, patient: None, lesion_free: false, unknown: Default::default() }
            }
            RawCase::Entry(entry) => entry,
        };
        for key in entry.unknown.keys() {
            faults.push(place(path, &text, key, &unknown_key(key, &["image", "label", "name", "patient", "lesion_free"])));
        }
        let image = root.join(&entry.image);
        let name = entry.name.unwrap_or_else(|| folder.name(&image));
        Case {
            patient: entry.patient.unwrap_or_else(|| folder.patient(&name)),
            name,
            image,
            label: entry.label.map(|l| root.join(l)),
            lesion_free: entry.lesion_free || lesion_free,
        }
    };
    list.training = raw.training.into_iter().map(&mut case).collect();
    list.validation = raw.validation.into_iter().map(&mut case).collect();
    list.test = raw.test.into_iter().map(&mut case).collect();
    for c in list.training.iter().chain(&list.validation).filter(|c| c.label.is_none() && !c.lesion_free) {
        faults.push(place(
            path,
            &text,
            &c.name,
            &format!("case `{}` has no `label`; add one, or say `\"lesion_free\": true` if the scan is known to hold no lesion", c.name),
        ));
    }
    faults.extend(same_names(path, [&list.training, &list.validation, &list.test]));
    Ok((list, faults))
}

fn unique<const N: usize>(path: &Path, parts: [&Vec<Case>; N]) -> Result<()> {
    same_names(path, parts).into_iter().next().map_or(Ok(()), Err)
}

fn same_names<const N: usize>(path: &Path, parts: [&Vec<Case>; N]) -> Vec<Error> {
    let (mut names, mut faults) = (std::collections::BTreeMap::new(), Vec::new());
    for case in parts.into_iter().flatten() {
        if let Some(other) = names.insert(&case.name, &case.image) {
            faults.push(Error::file(
                path,
                format!("two cases named `{}` ({} and {})", case.name, other.display(), case.image.display()),
                "each name once",
                "rename one of them: outputs are named after the case",
            ));
        }
    }
    faults
}

/// `serde_json`'s message with its place, and a suggestion where it is about an unknown key.
fn list_error(path: &Path, e: &serde_json::Error) -> Error {
    let full = e.to_string();
    let message = full.rsplit_once(" at line ").map_or(full.as_str(), |(m, _)| m);
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let message = match quoted.split_first() {
        Some((key, known)) if message.starts_with("unknown field") => {
            unknown_key(key, &known.iter().copied().filter(|k| !k.starts_with('_')).collect::<Vec<_>>())
        }
        _ => message.to_owned(),
    };
    Error::List { path: path.to_owned(), line: e.line(), column: e.column(), message }
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
    match nearest {
        Some(k) if strsim::jaro_winkler(key, k) > 0.8 => format!("unknown key `{key}`; did you mean `{k}`?"),
        _ => format!("unknown key `{key}`; known are {}", known.join(", ")),
    }
}

/// An error at the first place where `word` stands in the text.
fn place(path: &Path, text: &str, word: &str, message: &str) -> Error {
    let at = text.find(&format!("\"{word}\"")).or_else(|| text.find(word)).unwrap_or(0);
    let before = &text[..at];
    let column = before.len() - before.rfind('\n').map_or(0, |n| n + 1) + 1;
    Error::List { path: path.to_owned(), line: before.matches('\n').count() + 1, column, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CohortList> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dataset.json");
        std::fs::write(&path, text).unwrap();
        read_list(&path, Some(Path::new("/d")), &Folder::default(), false)
    }

    #[test]
    fn decathlon_and_published_lists_are_read() {
        let list = read(
            r#"{"name": "x", "labels": {"0": "background", "1": "tumour"}, "numTraining": 9,
                "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
                             {"image": "imagesTr/b_0000.nii.gz", "label": "labelsTr/b.nii.gz", "name": "b"}],
                "test": ["./imagesTs/c.nii.gz"]}"#,
        )
        .unwrap();
        assert_eq!(list.training.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(list.training[1].image, Path::new("/d/imagesTr/b_0000.nii.gz"));
        assert_eq!(list.test[0].name, "c");
        assert_eq!(list.classes[&1], "tumour");
    }

    #[test]
    fn wrong_lists_are_refused_with_a_place_and_a_suggestion() {
        for (text, expected) in [
            (r#"{"trainig": []}"#, "dataset.json:1:10: unknown key `trainig`; did you mean `training`?"),
            ("{\"training\": [\n{\"image\": \"a\", \"lable\": \"b\"}]}", "dataset.json:2:16: unknown key `lable`; did you mean `label`?"),
            (r#"{"training": [{"image": "a.nii.gz"}]}"#, "case `a` has no `label`"),
            (r#"{"training": [{"image": "a", "label": "b"}, {"image": "x/a", "label": "c"}]}"#, "two cases named `a`"),
            (r#"{"labels": {"300": "x"}}"#, "values 0 to 255"),
            ("{", "EOF"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn all_faults_of_a_list_are_found_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"labels": {"300": "x"}, "training": [{"image": "a"}, {"image": "b", "label": "c", "lable": "d"}, {"image": "b"}]}"#;
        std::fs::write(dir.path().join("dataset.json"), text).unwrap();
        let (list, faults) = read_cohort(dir.path(), &Folder::default()).unwrap();
        assert_eq!(list.training.len(), 3);
        let said: String = faults.iter().map(|f| format!("{f}\n")).collect();
        for words in ["values 0 to 255", "did you mean `label`", "case `a` has no", "case `b` has no", "two cases named `b`"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(faults.len(), 5, "{said}");
    }

    #[test]
    fn folders_pair_images_with_labels_by_suffix() {
        let dir = tempfile::tempdir().unwrap();
        for f in ["imagesTr/p1_a_0000.nii.gz", "imagesTr/p2_0000.nii.gz", "labelsTr/p1_a.nii.gz"] {
            let path = dir.path().join(f);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        let list = read_folder(dir.path(), &Folder { patient_parts: 1, ..Folder::default() }).unwrap();
        assert_eq!((list.training[0].name.as_str(), list.training[0].patient.as_str()), ("p1_a", "p1"));
        assert_eq!(list.test[0].name, "p2");
        let none = read_folder(dir.path(), &Folder { image_suffix: ".dcm".into(), ..Folder::default() }).unwrap_err();
        assert!(none.to_string().contains("no file that ends in `.dcm`"), "{none}");
    }
}
