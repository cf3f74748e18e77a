//! A run's settings.

mod data;
mod env;
mod learning;
mod screen;
mod train;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use data::{AllClasses, CohortSizes, DataConfig, LesionClasses, PhantomConfig, PhantomPreset};
pub use env::{EnvConfig, FourCellConfig, GroupKind, LesionPosition, RewardKind};
pub use learning::{BackboneConfig, GlanceConfig, LossConfig, ObjectiveConfig, ObjectiveKind, OptimConfig, OptimizerConfig};
pub use screen::{Blend, Denominator, Restore, ScreenConfig, Select, Threshold, ThresholdWord};
pub use train::{BestMetric, CompatConfig, Precision, TrainConfig};
use panscreen_policies::focus::FocusConfig;

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
    /// Worker threads for data and CPU kernels; 0 takes every core. Results do not depend on it. Range 0 or more. Default `0`.
    pub threads: usize,
    /// What the run does, in this order; the weights of one stage are the start of the next. Default `["gf_screen"]`.
    pub stages: Vec<String>,
    /// Weights to start from: a run folder, a checkpoint folder or a `.safetensors` file. Default none: random weights.
    pub init_from: Option<PathBuf>,
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
    /// The group-relative objective that teaches Glance from rewards.
    pub objective: ObjectiveConfig,
    /// The optimisers, one for each network.
    pub optim: OptimConfig,
    /// Length of the training, validation, checkpoints.
    pub train: TrainConfig,
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

impl Default for Config {
    fn default() -> Self {
        Config {
            name: String::new(),
            seed: 0,
            device: Device::Cpu,
            threads: 0,
            stages: vec!["gf_screen".into()],
            init_from: None,
            data: DataConfig::default(),
            env: EnvConfig::default(),
            glance: GlanceConfig::default(),
            focus: FocusConfig::default(),
            backbone: BackboneConfig::default(),
            loss: LossConfig::default(),
            objective: ObjectiveConfig::default(),
            optim: OptimConfig::default(),
            train: TrainConfig::default(),
            screen: ScreenConfig::default(),
            compat: CompatConfig::default(),
        }
    }
}


#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

pub fn load(path: &Path, overrides: &[String]) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError(e.to_string()))?;
    let mut table: toml::Table = toml::from_str(&text).map_err(|e| ConfigError(e.to_string()))?;
    for o in overrides {
        let (key, value) = o.split_once('=').ok_or_else(|| ConfigError(o.clone()))?;
        let value: toml::Value = format!("x = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("x")).unwrap_or(toml::Value::String(value.into()));
        let mut t = &mut table;
        let parts: Vec<&str> = key.split('.').collect();
        for p in &parts[..parts.len() - 1] {
            t = t.entry(*p).or_insert(toml::Value::Table(toml::Table::new())).as_table_mut().unwrap();
        }
        t.insert(parts[parts.len() - 1].into(), value);
    }
    table.try_into().map_err(|e| ConfigError(e.to_string()))
}

impl Config {
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap()
    }
}
