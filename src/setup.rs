//! From settings to the things that a run works with: cohort, split, prepared scans, environment, first weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use panscreen_envs::dataset::{CacheBudget, Case, CohortList, Folder, LesionClasses, Split, Store, read_folder, read_list};
use panscreen_envs::io::write_atomic;
use panscreen_envs::phantom;
use panscreen_envs::rewards::{AnyOverlap, Dice, FourCell, Reward};
use panscreen_envs::screening::{CropEnv, EnvConfig, Grouping, LesionPosition, SamplerConfig, SetReward};
use panscreen_envs::volume::PrepareConfig;
use rayon::prelude::*;

use crate::backend::TrainBackend;
use crate::config::{self, Config, PhantomPreset, RewardKind};
use crate::error::{Error, Result};
use crate::run::{CheckpointStore, Observer, RunFolder};
use crate::stages::gf_screen::Learner;

/// Who trains and who validates, in the run folder.
const SPLIT: &str = "split.json";

/// How scans are prepared.
pub fn prepare_config(config: &Config) -> PrepareConfig {
    PrepareConfig {
        spacing_mm: config.data.spacing_mm,
        windows_hu: config.data.windows_hu.iter().map(|w| w.map(|hu| hu as f32)).collect(),
        crop_foreground: config.data.crop_foreground,
        pad_to: config.env.window,
    }
}

pub fn lesion_classes(config: &Config) -> LesionClasses {
    match &config.data.lesion_classes {
        config::LesionClasses::Word(_) => LesionClasses::All,
        config::LesionClasses::Values(v) => LesionClasses::These(v.clone()),
    }
}

/// Folder of the cohort. Where the config asks for a phantom cohort that isn't there, it is made.
pub fn root(config: &Config, observer: &dyn Observer) -> Result<PathBuf> {
    let data = &config.data;
    let root = data.root.clone().ok_or_else(|| {
        Error::Usage("the config names no data; give `data.root=PATH` (a folder of scans, or one with a dataset.json)".into())
    })?;
    if let (Some(wanted), false) = (&data.phantom, root.join("dataset.json").exists()) {
        let cases = &wanted.cases;
        let settings = phantom::Settings::preset(match wanted.preset {
            PhantomPreset::Demo => phantom::Preset::Demo,
            PhantomPreset::Standard => phantom::Preset::Standard,
        })
        .at_spacing(wanted.spacing_mm);
        let split = [cases.train, cases.validation, cases.test];
        observer.phase("make the phantom cohort", None);
        phantom::write_cohort(&settings, wanted.seed, split.iter().sum(), &root, split)?;
        observer.finish();
    }
    Ok(root)
}

/// The cases of the cohort as its list or folder says.
pub fn cohort(config: &Config, root: &Path) -> Result<CohortList> {
    let data = &config.data;
    let folder =
        Folder { image_suffix: data.image_suffix.clone(), label_suffix: data.label_suffix.clone(), patient_parts: data.patient_parts };
    let listed = data.list.clone().map(|l| root.join(l)).or_else(|| Some(root.join("dataset.json")).filter(|p| p.exists()));
    let mut list = match listed {
        Some(path) if path.is_file() => {
            let list = read_list(&path, Some(root), &folder, false)?;
            // nnU-Net's `dataset.json` names classes, and the cases are what lies in the folder.
            if list.is_empty() { CohortList { classes: list.classes, ..read_folder(root, &folder)? } } else { list }
        }
        Some(path) if path.is_dir() => read_folder(&path, &folder)?,
        Some(path) => return Err(panscreen_envs::Error::io(&path, std::io::ErrorKind::NotFound.into()).into()),
        None => read_folder(root, &folder)?,
    };
    for extra in &data.lesion_free_lists {
        let more = read_list(&root.join(extra), Some(root), &folder, true)?;
        list.training.extend(more.training);
        list.validation.extend(more.validation);
        list.test.extend(more.test);
    }
    Ok(list)
}

/// Who trains and who validates: drawn once, then kept in the run folder.
pub fn split(config: &Config, folder: &RunFolder, observer: &dyn Observer) -> Result<Split> {
    if folder.root().join(SPLIT).exists() {
        return kept_split(folder.root());
    }
    let split = draw_split(config, observer)?;
    save_split(&split, folder)?;
    Ok(split)
}

/// The split that the run in `run` keeps to.
pub fn kept_split(run: &Path) -> Result<Split> {
    let path = run.join(SPLIT);
    let text = std::fs::read_to_string(&path).map_err(|e| panscreen_envs::Error::io(&path, e))?;
    serde_json::from_str(&text)
        .map_err(|e| panscreen_envs::Error::file(&path, e.to_string(), "the split of this run", "delete the file to draw it anew").into())
}

/// The split as its settings draw it.
pub fn draw_split(config: &Config, observer: &dyn Observer) -> Result<Split> {
    let list = cohort(config, &root(config, observer)?)?;
    Ok(Split::new(list, &config.data.test_cases, config.data.validation_fraction, config.data.split_seed)?)
}

/// Make `split` the one that the run keeps.
pub fn save_split(split: &Split, folder: &RunFolder) -> Result<()> {
    let text = serde_json::to_string_pretty(split).map_err(|e| Error::Usage(e.to_string()))?;
    Ok(write_atomic(&folder.root().join(SPLIT), text.as_bytes())?)
}

/// Prepare `cases`, or say what is wrong with each that can't be used.
pub fn store(config: &Config, cases: Vec<Case>, observer: &dyn Observer) -> Result<Store> {
    let budget = CacheBudget((config.data.memory_gib * (1u64 << 30) as f64) as usize);
    let cache = Some(config.data.cache_dir.clone()).filter(|d| !d.as_os_str().is_empty());
    Store::open(cases, prepare_config(config), lesion_classes(config), cache, budget, |_| observer.advance(1, &[]))
        .map_err(|failed| Error::Cases(failed.into_iter().map(|(c, e)| (c.name, e)).collect()))
}

/// What a selected sub-volume earns.
pub fn reward(config: &Config) -> Arc<dyn Reward> {
    match config.env.reward {
        RewardKind::AnyOverlap => Arc::new(AnyOverlap),
        RewardKind::Dice => Arc::new(Dice),
        RewardKind::FourCell => {
            let c = &config.env.four_cell;
            Arc::new(FourCell { tp: c.tp as f32, fn_: c.r#fn as f32, fp: c.fp as f32, tn: c.tn as f32 })
        }
    }
}

/// The environment over `scans`.
pub fn environment(config: &Config, scans: Arc<Store>) -> Result<CropEnv> {
    let env = &config.env;
    let reward = reward(config);
    let settings = EnvConfig {
        sampler: SamplerConfig {
            window: env.window,
            lesion_fraction: env.lesion_fraction,
            lesion_position: match env.lesion_position {
                config::LesionPosition::Anywhere => LesionPosition::Anywhere,
                config::LesionPosition::Centre => LesionPosition::Centre,
            },
            balance_lesions: env.balance_lesions,
            flip_probability: env.flip_probability,
            rotate_probability: env.rotate_probability,
            intensity_shift_probability: env.intensity_shift_probability,
            intensity_shift: env.intensity_shift as f32,
        },
        grouping: match env.group {
            config::GroupKind::Batch => Grouping::Batch,
            config::GroupKind::Volume => Grouping::Volume,
            config::GroupKind::Masks => Grouping::Masks,
        },
        volumes: env.volumes_per_batch,
        crops: env.crops_per_volume,
        group_size: config.glance.group_size,
        lesion_free_weight: env.lesion_free_weight,
        episode: config.train.steps_per_epoch as u64,
        set_reward: SetReward { window_cost: env.window_cost as f32, false_alarm_cost: env.false_alarm_cost as f32 },
    };
    Ok(CropEnv::new(scans, reward, settings)?)
}

/// Start from the weights that `init_from` names: a run folder (its best checkpoint, else its last) or a checkpoint folder.
pub fn init_from<B: TrainBackend>(config: &Config, learner: &mut Learner<B>, observer: &dyn Observer) -> Result<()> {
    let dir = |from: &Option<PathBuf>| from.as_ref().map(|from| checkpoint_of(from, observer));
    match (dir(&config.init_from), dir(&config.init_focus_from)) {
        (None, None) => Ok(()),
        (Some(both), None) => learner.load_weights(&both),
        (None, Some(focus)) => learner.start_on_focus(&focus),
        (Some(both), Some(focus)) => {
            learner.load_weights(&both)?;
            learner.load_focus(&focus)
        }
    }
}

/// The checkpoint folder that a run folder, or itself, means.
pub fn checkpoint_of(from: &Path, observer: &dyn Observer) -> PathBuf {
    let store = CheckpointStore::read_only(&from.join("checkpoints"));
    match store.best() {
        Ok(Some((_, best))) => best.dir().to_owned(),
        _ => match store.latest(observer) {
            Ok(Some(last)) => last.dir().to_owned(),
            _ => from.to_owned(),
        },
    }
}

/// BLAKE3 of the images and labels that a run trains and validates on, by path.
pub fn input_hashes(split: &Split) -> Result<BTreeMap<String, String>> {
    let files: Vec<&PathBuf> =
        split.train.iter().chain(&split.validation).flat_map(|c| std::iter::once(&c.image).chain(&c.label)).collect();
    let hash = |path: &&PathBuf| {
        let mut hasher = blake3::Hasher::new();
        panscreen_envs::io::hash(path, &mut hasher)?;
        Ok((path.display().to_string(), hasher.finalize().to_hex().to_string()))
    };
    files.par_iter().map(hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nnunet_raw_data_lists_its_cases_by_lying_there() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            (
                "dataset.json",
                r#"{"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1}, "numTraining": 1, "file_ending": ".nii.gz"}"#,
            ),
            ("imagesTr/a_0000.nii.gz", ""),
            ("labelsTr/a.nii.gz", ""),
            ("imagesTs/b_0000.nii.gz", ""),
        ] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let list = cohort(&Config::default(), dir.path()).unwrap();
        assert_eq!(list.training.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!((list.test[0].name.as_str(), list.classes[&1].as_str()), ("b", "tumour"));
    }
}
