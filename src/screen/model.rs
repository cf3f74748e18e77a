//! A trained run, ready to screen.

use std::path::Path;

use super::Screener;
use crate::backend::{Inner, TrainBackend};
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::run::CheckpointStore;
use crate::run::progress::Observer;
use crate::stages::gf_screen::learner::Learner;
use crate::stages::gf_screen::train::{State, screener};

/// Settings, weights and operating point of a run's best checkpoint (its last one where nothing was validated yet).
pub struct Model<B: TrainBackend> {
    pub config: Config,
    pub screener: Screener<Inner<B>>,
    /// Windows with a Glance probability above this go to Focus.
    pub threshold: f32,
    /// BLAKE3 of both weight files.
    pub hash: String,
    pub step: u64,
}

impl<B: TrainBackend> Model<B> {
    pub fn open(run: &Path, overrides: &[String], device: &B::Device, observer: &dyn Observer) -> Result<Self> {
        let config = config::load(&run.join("config.toml"), overrides)?;
        let store = CheckpointStore::read_only(&run.join("checkpoints"));
        let checkpoint = match store.best()? {
            Some((_, best)) => best,
            None => store.latest(observer)?.ok_or_else(|| {
                Error::Usage(format!("{}: no checkpoint; train first: `panscreen train {}`", run.display(), run.display()))
            })?,
        };
        let mut learner = Learner::<B>::new(&config, device)?;
        let (glance, focus) = (checkpoint.read("glance.safetensors")?, checkpoint.read("focus.safetensors")?);
        let hash = blake3::Hasher::new().update(&glance).update(&focus).finalize().to_hex()[..32].to_owned();
        learner.load_weights(checkpoint.dir())?;
        let state: State = serde_json::from_value(checkpoint.state.clone())
            .map_err(|e| Error::Usage(format!("{}: the checkpoint is of another version ({e}); train anew", run.display())))?;
        let threshold = match config.screen.threshold {
            config::Threshold::Fixed(t) => t as f32,
            config::Threshold::Word(_) => state.operating_point.map_or(0.5, |p| p.threshold),
        };
        Ok(Model { screener: screener(&learner, &config), config, threshold, hash, step: checkpoint.step })
    }
}
