//! Which masks belong to which case: one label map a case (`CASE.nii.gz`), or one file an organ (`CASE/segmentations/ORGAN.nii.gz`, Touchstone).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use panscreen_envs::metrics::protocols::{Protocol, Structure};
use panscreen_envs::{Error, Result, io};

/// The masks of one side of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Masks {
    /// One label map with all structures.
    Whole(PathBuf),
    /// One file a structure, by the structure's name.
    ByStructure(BTreeMap<String, PathBuf>),
}

impl Masks {
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Masks::Whole(path) => vec![path],
            Masks::ByStructure(paths) => paths.values().map(PathBuf::as_path).collect(),
        }
    }
}

/// Folders below a case that may hold its organs.
const ORGAN_FOLDERS: [&str; 2] = ["segmentations", "predictions"];

/// TotalSegmentator's names of Touchstone's organs, where they differ.
const ALIASES: [(&str, &str); 2] = [("gallbladder", "gall_bladder"), ("inferior_vena_cava", "postcava")];

/// What is saved beside a mask and is no mask.
const PROBABILITY: &str = "_probability";

/// The masks of a folder by case. Files end like a scan; a folder is a case if it holds organs of `protocol` or slices of a DICOM SEG.
pub fn masks_in(dir: &Path, protocol: &Protocol) -> Result<BTreeMap<String, Masks>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            let organs = organs_in(&path, protocol)?;
            if !organs.is_empty() {
                found.insert(file, Masks::ByStructure(organs));
            }
        } else if let Some(name) = io::stem(&file) {
            found.insert(name.to_owned(), Masks::Whole(path));
        }
    }
    // A probability map that was saved beside its mask is no prediction.
    let maps: Vec<String> =
        found.keys().filter(|n| n.strip_suffix(PROBABILITY).is_some_and(|case| found.contains_key(case))).cloned().collect();
    maps.iter().for_each(|n| {
        found.remove(n);
    });
    Ok(found)
}

fn organs_in(case: &Path, protocol: &Protocol) -> Result<BTreeMap<String, PathBuf>> {
    let mut organs = BTreeMap::new();
    for folder in ORGAN_FOLDERS.iter().map(|f| case.join(f)).filter(|f| f.is_dir()) {
        for entry in std::fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
            let path = entry.map_err(|e| Error::io(&folder, e))?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let stem = io::stem(&file).unwrap_or_default();
            let name = ALIASES.iter().find(|(alias, _)| *alias == stem).map_or(stem, |(_, name)| name);
            if protocol.structures.iter().any(|s: &Structure| s.name == name) {
                organs.insert(name.to_owned(), path);
            }
        }
    }
    Ok(organs)
}

/// The probability map that `panscreen screen --save-probabilities` leaves beside the mask of `case`.
pub fn probability_map(predicted: &Path, case: &str) -> Option<PathBuf> {
    Some(predicted.join(format!("{case}{PROBABILITY}.nii.gz"))).filter(|p| p.is_file())
}

#[test]
fn label_maps_and_organ_files() {
    use panscreen_envs::metrics::protocols::touchstone;
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.nii.gz", "a_probability.nii.gz", "b.nrrd", "notes.txt", ".c.nii.gz.7-0.tmp", "b_probability.json"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    for name in ["d/segmentations/liver.nii.gz", "d/segmentations/inferior_vena_cava.nii.gz", "d/segmentations/rib.nii.gz", "e/x/liver.nii"]
    {
        std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let found = masks_in(dir.path(), &touchstone::PROTOCOL).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b", "d"]);
    let Masks::ByStructure(organs) = &found["d"] else { panic!("{found:?}") };
    assert_eq!(organs.keys().collect::<Vec<_>>(), ["liver", "postcava"]);
    assert!(probability_map(dir.path(), "a").is_some() && probability_map(dir.path(), "b").is_none());
}
