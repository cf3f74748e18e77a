//! A trained run, ready to screen.

use std::path::Path;

use panscreen_envs::metrics::calibration::Scaling;

use super::{Choice, ScreenSettings, Screener};
use crate::backend::{Inner, TrainBackend};
use crate::config::{self, Config, Precision, ScreenConfig, Select};
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
    /// How the scans were screened that the operating points were measured on.
    measured: ScreenConfig,
    /// What the networks computed in then.
    measured_in: Precision,
    /// BLAKE3 of both weight files.
    pub hash: String,
    /// BLAKE3 of Focus's weights alone: the same for all that share one.
    pub focus_hash: String,
    pub step: u64,
}

impl<B: TrainBackend> Model<B> {
    pub fn open(run: &Path, overrides: &[String], device: &B::Device, observer: &dyn Observer) -> Result<Self> {
        let file = run.join("config.toml");
        let config = config::load(&file, overrides)?;
        // Measured without a gate and without a budget, whatever the run screens with.
        let own = config::load(&file, &[])?;
        let measured = ScreenConfig { gate: false, budget_windows: None, budget_seconds: None, ..own.screen };
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
        Ok(Model {
            screener: screener(&learner, &config),
            config,
            threshold,
            operating,
            measured,
            measured_in: own.precision,
            hash,
            focus_hash,
            step: checkpoint.step,
        })
    }

    /// How to screen with `choice`; what the run's own settings choose where it is `None`.
    pub fn settings(&self, choice: Option<Choice>) -> Result<ScreenSettings> {
        let screen = self.config.screen.clone();
        let known = || {
            let what = "what is known about operating points is written when a training ends; let this run come to its end";
            self.operating.as_ref().ok_or_else(|| Error::Usage(format!("the run has no operating.json of this checkpoint; {what}")))
        };
        let mut guarantee = None;
        let choice = match (choice, screen.select, screen.keep_fraction, screen.guaranteed_recall) {
            (Some(choice), ..) => choice,
            (None, Select::All, ..) => Choice::All,
            (None, Select::Glance, Some(_), Some(_)) => {
                let text = "`screen.keep_fraction` and `screen.guaranteed_recall` both choose the windows; set one of them to \"none\"";
                return Err(Error::Usage(text.into()));
            }
            (None, Select::Glance, Some(share), None) => Choice::Best(share),
            (None, Select::Glance, None, Some(recall)) => {
                let precision = || (self.config.precision != self.measured_in).then(|| "precision".to_owned());
                if let Some(key) = differing(&screen, &self.measured).map(|key| format!("screen.{key}")).or_else(precision) {
                    return Err(Error::Usage(format!(
                        "a recall of {recall} can't be guaranteed with this `{key}`: the validation scans were screened with another; leave it \
                         as the run has it (a gate and a budget out), or leave the guarantee out"
                    )));
                }
                guarantee.insert(known()?.losses.guarantee(recall)?).choice()
            }
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
        Ok(ScreenSettings { prepare: setup::prepare_config(&self.config), screen, choice, scaling, gate, guarantee })
    }
}

/// The first setting in which two ways to screen differ that can change what is found in the windows chosen.
fn differing(a: &ScreenConfig, b: &ScreenConfig) -> Option<String> {
    // How the windows are chosen is the guarantee's; the rest of these changes no finding on the prepared grid.
    const FREE: [&str; 8] = ["threshold", "recall", "most_windows", "select", "keep_fraction", "guaranteed_recall", "restore", "batch"];
    let [a, b] = [a, b].map(|c| serde_json::to_value(c).unwrap_or_default());
    let mut keys = a.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value));
    keys.find(|(key, value)| !FREE.contains(key) && b.get(key) != Some(value)).map(|(key, _)| key.to_owned())
}

#[test]
fn what_was_measured_is_told_from_other_ways_to_screen() {
    let own = ScreenConfig::default();
    let changed = |change: fn(&mut ScreenConfig)| {
        let mut other = own.clone();
        change(&mut other);
        differing(&other, &own)
    };
    assert_eq!(changed(|s| (s.guaranteed_recall, s.batch, s.recall) = (Some(0.9), 64, 0.5)), None);
    for (change, key) in [
        ((|s| s.gate = true) as fn(&mut ScreenConfig), "gate"),
        (|s| s.budget_windows = Some(3), "budget_windows"),
        (|s| s.overlap = 0.25, "overlap"),
        (|s| s.mask_threshold = 0.7, "mask_threshold"),
        (|s| s.scales = vec![1, 2], "scales"),
    ] {
        assert_eq!(changed(change).as_deref(), Some(key));
    }
}
