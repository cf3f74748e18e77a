//! `[data]`: which scans, and how they are prepared.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which scans, and how they are prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Folder of the cohort; a relative path counts from the working directory. Default none: the run must be given `data.root=PATH`.
    pub root: Option<PathBuf>,
    /// The list of cases: a Decathlon `dataset.json`, a published JSON list, or a folder of `*_0000.nii.gz`, relative to `data.root`.
    /// Default none: `dataset.json` in the root if it lists cases, else the root as a folder.
    pub list: Option<PathBuf>,
    /// How image files of a folder end; the rest of the file name is the case. Default `"_0000.nii.gz"` (FLARE, nnU-Net).
    pub image_suffix: String,
    /// How label files of a folder end, after the case. Default `".nii.gz"`.
    pub label_suffix: String,
    /// How many `_`-separated parts of a case's name tell the patient; 0 takes the whole name. A patient is never on two sides of a split.
    /// Range 0 or more. Default `0`.
    pub patient_parts: usize,
    /// More JSON lists, relative to `data.root`, whose scans are known to hold no lesion, whatever their label files say. Default `[]`.
    pub lesion_free_lists: Vec<PathBuf>,
    /// Label values that count as lesion: `"all"` (every value but 0) or a list of values. Range of each 1 to 255. Default `"all"`.
    pub lesion_classes: LesionClasses,
    /// Voxel size in mm (x, y, z; axes RAS) that scans are resampled to. Coarser is faster and loses small lesions.
    /// Range 0.05 to 50 each. Default none: as stored.
    #[schemars(inner(range(min = 0.05, max = 50.0)))]
    pub spacing_mm: Option<[f64; 3]>,
    /// Intensity windows in HU, `[low, high]` each; every window is one input channel, scaled to 0..1 and clipped.
    /// Default `[[-175, 250], [-900, 650]]`: soft tissue and lung, so that one network sees every body region.
    #[schemars(length(min = 1))]
    pub windows_hu: Vec<[f64; 2]>,
    /// Crop to the bounding box of what is above the lowest window (the body) before windows are cut. Saves time. Default `true`.
    pub crop_foreground: bool,
    /// Share of the patients held out of training to choose threshold and checkpoint; unused where the list has its own validation part.
    /// Range 0 to 0.9. Default `0.2`.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub validation_fraction: f64,
    /// Seed of the split by patient, apart from `seed` so that runs with other seeds see the same patients. Range 0 or more. Default `0`.
    pub split_seed: u64,
    /// Names of cases kept out of training and validation (each with its whole patient). Default `[]`.
    pub test_cases: Vec<String>,
    /// Folder for prepared scans, shared between runs: its entries are named by the hash of the file and of every parameter. Default `"runs/cache"`.
    pub cache_dir: PathBuf,
    /// Memory for prepared scans in GiB; what does not fit is read again from `data.cache_dir`. Range 0.05 or more. Default `4`.
    #[schemars(range(min = 0.05))]
    pub memory_gib: f64,
    /// Generate this cohort into `data.root` when that folder is missing. Default none: never generate.
    pub phantom: Option<PhantomConfig>,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            root: None,
            list: None,
            image_suffix: "_0000.nii.gz".into(),
            label_suffix: ".nii.gz".into(),
            patient_parts: 0,
            lesion_free_lists: Vec::new(),
            lesion_classes: LesionClasses::default(),
            spacing_mm: None,
            windows_hu: vec![[-175.0, 250.0], [-900.0, 650.0]],
            crop_foreground: true,
            validation_fraction: 0.2,
            split_seed: 0,
            test_cases: Vec::new(),
            cache_dir: "runs/cache".into(),
            memory_gib: 4.0,
            phantom: None,
        }
    }
}

/// Label values that count as lesion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LesionClasses {
    Word(AllClasses),
    /// These label values.
    Values(#[schemars(length(min = 1), inner(range(min = 1)))] Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AllClasses {
    /// Every label value but 0.
    All,
}

impl Default for LesionClasses {
    fn default() -> Self {
        LesionClasses::Word(AllClasses::All)
    }
}

/// A generated cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PhantomConfig {
    /// How fine the anatomy is. Default `"demo"`.
    pub preset: PhantomPreset,
    /// Seed of the cohort, apart from `seed`: same seed, same bytes. Range 0 or more. Default `0`.
    pub seed: u64,
    /// Voxel size in mm (x, y, z), the bodies and lesions being the same: the demo's at 0.625, 0.625, 1 mm are 512 x 512 x 200 voxels. Range 0.3 to 20
    /// each. Default none: the preset's.
    #[schemars(inner(range(min = 0.3, max = 20.0)))]
    pub spacing_mm: Option<[f64; 3]>,
    /// How many scans each part gets.
    pub cases: CohortSizes,
}

impl Default for PhantomConfig {
    fn default() -> Self {
        PhantomConfig { preset: PhantomPreset::Demo, seed: 0, spacing_mm: None, cases: CohortSizes::default() }
    }
}

/// How fine the generated anatomy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PhantomPreset {
    /// About 64 x 64 x 40 voxels of 5 mm, clear lesions from 1 mL: learnt in minutes.
    Demo,
    /// At least 300 x 250 x 100 voxels of about 1.5 x 1.5 x 3 mm, lesions from 0.05 mL, faint to clear.
    Standard,
}

/// How many scans each part of a generated cohort gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CohortSizes {
    /// Scans to train on. Range 1 or more. Default `60`.
    #[schemars(range(min = 1))]
    pub train: usize,
    /// Scans that choose threshold and checkpoint. Range 0 or more. Default `12`.
    pub validation: usize,
    /// Scans that are only screened and judged. Range 0 or more. Default `40`.
    pub test: usize,
}

impl Default for CohortSizes {
    fn default() -> Self {
        CohortSizes { train: 60, validation: 12, test: 40 }
    }
}
