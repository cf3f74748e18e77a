//! A trained run, ready to screen.

use std::path::Path;

use panscreen_envs::metrics::calibration::Scaling;

use super::{Choice, ScreenSettings, Screener};
use crate::backend::{Inner, TrainBackend};
use crate::config::{self, Config, Select};
use crate::error::{Error, Result};
use crate::run::CheckpointStore;
use crate::run::progress::Observer;
use crate::setup;
use crate::stages::gf_screen::Operating;
use crate::stages::gf_screen::learner::Learner;
use crate::stages::gf_screen::train::{State, screener};

/// Settings, weights and operating point of a run's best checkpoint (its last one where nothing was validated yet).
pub struct Model<B: TrainBackend> {
    pub config: Config,
    pub screener: Screener<Inner<B>>,
    /// Windows with a Glance probability above this go to Focus.
    pub threshold: f32,
    /// What the run knows about its operating points, where its training came to an end.
    pub operating: Option<Operating>,
    /// BLAKE3 of both weight files.
    pub hash: String,
    /// BLAKE3 of Focus's weights alone: the same for all that share one.
    pub focus_hash: String,
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
        let focus_hash = blake3::hash(&focus).to_hex().to_string();
        learner.load_weights(checkpoint.dir())?;
        let state: State = serde_json::from_value(checkpoint.state.clone())
            .map_err(|e| Error::Usage(format!("{}: the checkpoint is of another version ({e}); train anew", run.display())))?;
        let threshold = match config.screen.threshold {
            config::Threshold::Fixed(t) => t as f32,
            config::Threshold::Word(_) => state.operating_point.map_or(0.5, |p| p.threshold),
        };
        let operating = Operating::read(run, checkpoint.step);
        Ok(Model { screener: screener(&learner, &config), config, threshold, operating, hash, focus_hash, step: checkpoint.step })
    }

    /// How to screen with `choice`; what the run's own settings choose where it is `None`.
    pub fn settings(&self, choice: Option<Choice>) -> Result<ScreenSettings> {
        let screen = self.config.screen.clone();
        let known = || {
            let what = "what is known about operating points is written when a training ends; let this run come to its end";
            self.operating.as_ref().ok_or_else(|| Error::Usage(format!("the run has no operating.json of this checkpoint; {what}")))
        };
        let choice = match (choice, screen.select, screen.keep_fraction, screen.guaranteed_recall) {
            (Some(choice), ..) => choice,
            (None, Select::All, ..) => Choice::All,
            (None, Select::Glance, Some(share), _) => Choice::Best(share),
            (None, Select::Glance, None, Some(recall)) => known()?.losses.guarantee(recall)?.choice(),
            (None, Select::Glance, None, None) => Choice::Above(self.threshold),
        };
        let gate = match screen.gate {
            false => None,
            true => Some(known()?.gate.as_ref().map(|g| g.gate.clone()).ok_or_else(|| {
                Error::Usage(
                    "the run has no gate: its validation scans gave no false alarm, or no lesion, to learn from; set screen.gate=false"
                        .into(),
                )
            })?),
        };
        let scaling = self.operating.as_ref().map_or(Scaling::IDENTITY, |o| o.calibration.scaling);
        Ok(ScreenSettings { prepare: setup::prepare_config(&self.config), screen, choice, scaling, gate })
    }
}
