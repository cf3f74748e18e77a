//! A training run from its config: the folder, the stages, how it ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::{TrainBackend, Work, on_device};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::run::usage::Stopwatch;
use crate::run::{Observer, OnDifference, RunFolder};
use crate::stages::{Artifacts, Run, stage};

/// Run all stages of `config` in `folder`, or go on where it was interrupted.
pub fn train(config: &Config, folder: &Path, observer: Arc<dyn Observer>) -> Result<Artifacts> {
    let mut folder = RunFolder::create_or_open(folder, &config.to_toml(), OnDifference::Refuse)?;
    folder.manifest.device = format!("{:?}", config.device).to_lowercase();
    folder.manifest.threads = rayon::current_num_threads();
    folder.manifest.seed = config.seed;
    folder.save_manifest()?;
    let clock = Stopwatch::start();
    let result = on_device(config.device, Stages { config, folder: &mut folder, observer });
    folder.add_timing("train", clock.seconds());
    folder.end(&match &result {
        Ok(_) => "done".into(),
        Err(Error::Stopped { .. }) => "stopped".into(),
        Err(e) => e.to_string(),
    })?;
    result
}

struct Stages<'a> {
    config: &'a Config,
    folder: &'a mut RunFolder,
    observer: Arc<dyn Observer>,
}

impl Work for Stages<'_> {
    type Output = Artifacts;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<Artifacts> {
        let mut artifacts = None;
        let mut run = Run::<B> { config: self.config, folder: self.folder, device, observer: self.observer };
        for name in &self.config.stages {
            artifacts = Some(stage::<B>(name)?.run(&mut run)?);
        }
        artifacts.ok_or_else(|| Error::Usage("`stages` is empty; name at least one stage".into()))
    }
}

/// Where a run of this config lives, unless told otherwise.
pub fn default_folder(config: &Config) -> PathBuf {
    Path::new("runs").join(&config.name)
}
