//! A run's settings: TOML -> checked structs.
//!
//! The structs are the documentation: each field's doc comment says what it does, its unit, range and default, and becomes the text of
//! `panscreen config explain` and of the JSON schema. The same schema drives the checks (unknown keys, types, ranges), so that a new
//! setting is one field with its doc comment and its value in `Default`.
//!
//! A setting that may be left out is an `Option` whose default is `None`; in TOML the word `"none"` unsets what a base set.

mod check;
mod data;
mod env;
mod error;
mod layers;
mod learning;
mod objective;
mod rules;
mod schema;
mod screen;
mod selection;
#[cfg(test)]
mod tests;
mod train;

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use panscreen_policies::focus::FocusConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use layers::Layers;

pub use data::{AllClasses, CohortSizes, DataConfig, LesionClasses, PhantomConfig, PhantomPreset};
pub use env::{EnvConfig, FourCellConfig, GroupKind, LesionPosition, RewardKind};
pub use error::ConfigError;
pub use learning::{BackboneConfig, GlanceConfig, LossConfig, OptimConfig, OptimizerConfig};
pub use objective::ObjectiveConfig;
pub use schema::{KeyHelp, explain, file_schema, keys, nearest_key};
pub use screen::{Blend, Decoder, Denominator, Restore, ScreenConfig, Select, Threshold, ThresholdWord};
pub use selection::{SelectionConfig, SetScore};
pub use train::{BestMetric, CompatConfig, TrainConfig};

/// Everything that a run can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the run; its folder is `runs/NAME`. Default `""`: the name of the config file without `.toml`.
    pub name: String,
    /// Seed of every random stream (weights, sampling, augmentation). Same seed, same bytes on the CPU. Range 0 or more. Default `0`.
    pub seed: u64,
    /// Where the networks compute. Default `"cpu"`.
    pub device: Device,
    /// Numbers that the networks compute in. With `"bf16"` weights, optimisers, norms, heads and losses stay `f32`, and a window whose logits
    /// overflow is computed again in `f32`. Needs `device = "cuda"`: the kernels for the CPU are `f32`. Default `"f32"`.
    pub precision: Precision,
    /// Worker threads for data and CPU kernels; 0 takes every core. Results do not depend on it. Range 0 or more. Default `0`.
    pub threads: usize,
    /// What the run does, in this order; the weights of one stage are the start of the next. Default `["gf_screen"]`.
    pub stages: Vec<String>,
    /// Weights to start from: a run folder (its best checkpoint, else its last) or a checkpoint folder. Default none: random weights.
    pub init_from: Option<PathBuf>,
    /// Weights of Focus alone, put in after `init_from`: a run folder or a checkpoint folder. With `train.freeze_focus` many runs share one Focus.
    /// Default none.
    pub init_focus_from: Option<PathBuf>,
    /// Which scans, and how they are prepared.
    pub data: DataConfig,
    /// The environment: how sub-volumes are drawn, grouped, augmented and rewarded.
    pub env: EnvConfig,
    /// The Glance policy, which decides which sub-volumes deserve a look.
    pub glance: GlanceConfig,
    /// The Focus network, which segments lesions in a sub-volume.
    pub focus: FocusConfig,
    /// What Glance and Focus have in common.
    pub backbone: BackboneConfig,
    /// The supervised losses of Focus and Glance.
    pub loss: LossConfig,
    /// The objective that teaches Glance from rewards or labels.
    pub objective: ObjectiveConfig,
    /// The optimisers, one for each network.
    pub optim: OptimConfig,
    /// Length of the training, validation, checkpoints.
    pub train: TrainConfig,
    /// Learning to select on cached results of a Focus that stays as it is.
    pub selection: SelectionConfig,
    /// Screening of whole scans, in validation and afterwards.
    pub screen: ScreenConfig,
    /// Oddities of the published code, all off; only `configs/parity` turns them on.
    pub compat: CompatConfig,
}

/// Where the networks compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// This machine's processor; runs are reproducible bit for bit.
    Cpu,
    /// An NVIDIA GPU; needs a build with `--features cuda` and the driver.
    Cuda,
}

/// Numbers that the networks compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits with the range of `f32` and 8 bits of mantissa: half the memory for activations, and the GPU's tensor cores.
    Bf16,
}

impl Precision {
    /// The type of the elements that networks are given, see [`panscreen_policies::precision`].
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: String::new(),
            seed: 0,
            device: Device::Cpu,
            precision: Precision::F32,
            threads: 0,
            stages: vec!["gf_screen".into()],
            init_from: None,
            init_focus_from: None,
            data: DataConfig::default(),
            env: EnvConfig::default(),
            glance: GlanceConfig::default(),
            focus: FocusConfig::default(),
            backbone: BackboneConfig::default(),
            loss: LossConfig::default(),
            objective: ObjectiveConfig::default(),
            optim: OptimConfig::default(),
            train: TrainConfig::default(),
            selection: SelectionConfig::default(),
            screen: ScreenConfig::default(),
            compat: CompatConfig::default(),
        }
    }
}

/// A config with the places its values came from, so that later checks can point at them.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    layers: Layers,
}

impl Loaded {
    /// An error at the place where `key` was set. `label` stands at the carets; `hint` is the one thing to do.
    pub fn error(&self, key: &str, message: impl Into<String>, label: &str, hint: &str) -> ConfigError {
        self.layers.error(key, message.into(), label, hint)
    }
}

/// The checked config of a file or run folder, with overrides such as `glance.group_size=8`.
pub fn load(path: &Path, overrides: &[String]) -> Result<Config, ConfigError> {
    open(path, overrides).map(|loaded| loaded.config)
}

/// As [`load`], with the places.
pub fn open(path: &Path, overrides: &[String]) -> Result<Loaded, ConfigError> {
    let file = if path.is_dir() { path.join("config.toml") } else { path.to_owned() };
    let mut layers = Layers::default();
    layers.file(&file, &mut Vec::new())?;
    finish(&file, layers, overrides)
}

/// As [`open`], of a text that is part of the program; `path` is what errors call it.
pub fn open_text(path: &Path, text: &str, overrides: &[String]) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::default();
    layers.text(path, text.to_owned(), &mut Vec::new())?;
    finish(path, layers, overrides)
}

fn finish(path: &Path, mut layers: Layers, overrides: &[String]) -> Result<Loaded, ConfigError> {
    overrides.iter().try_for_each(|text| layers.override_with(text))?;
    let values = rules::resolve_kinds(&layers)?;
    let mut config: Config = serde_json::from_value(values.into()).map_err(|cause| {
        ConfigError::new(format!("cannot use the config {}: {cause}", path.display())).hint("`panscreen config schema` has the whole form")
    })?;
    if config.name.is_empty() {
        config.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    }
    let loaded = Loaded { config, layers };
    rules::check(&loaded)?;
    Ok(loaded)
}

impl Config {
    /// The effective config: loading this text gives the same config again.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every key is a text, every number finite")
    }

    /// What decides the numbers that come out of a run, as a BLAKE3 hash in hex. Left out: names, places, and whatever changes speed,
    /// memory, logs or the files kept, but no result.
    pub fn hash(&self) -> String {
        let mut config = self.clone();
        let default = Config::default();
        config.name = default.name;
        config.threads = default.threads;
        config.data.root = default.data.root;
        config.data.cache_dir = default.data.cache_dir;
        config.data.memory_gib = default.data.memory_gib;
        config.env.workers = default.env.workers;
        config.train.checkpoint_every = default.train.checkpoint_every;
        config.train.keep_checkpoints = default.train.keep_checkpoints;
        config.train.log_every = default.train.log_every;
        blake3::hash(config.to_toml().as_bytes()).to_hex().to_string()
    }

    /// Rewards that `env.group` puts together.
    fn whole_group(&self) -> usize {
        match self.env.group {
            GroupKind::Batch => self.env.volumes_per_batch.saturating_mul(self.env.crops_per_volume),
            GroupKind::Volume => self.env.crops_per_volume,
            GroupKind::Masks => self.objective.masks,
        }
    }

    /// Rewards that are compared with each other.
    pub fn group_size(&self) -> usize {
        self.glance.group_size.unwrap_or_else(|| self.whole_group())
    }
}
