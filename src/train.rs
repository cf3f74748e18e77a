//! A training run from its config: the folder, the stages, how it ended. And two aids: one step of everything, and one scan alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use panscreen_envs::dataset::{Case, Split};
use panscreen_policies::weights;
use serde::Serialize;

use crate::backend::{TrainBackend, Work, on_device, sync};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::run::usage::{Stopwatch, peak_memory_bytes};
use crate::run::{CheckpointStore, Observer, OnDifference, RunFolder};
use crate::setup;
use crate::stages::gf_screen::learner::{Learner, Settings};
use crate::stages::gf_screen::step::training_step;
use crate::stages::gf_screen::train::{State, screener};
use crate::stages::gf_screen::validate::{look, validate};
use crate::stages::{Artifacts, Run, stage};

/// Run all stages of `config` in `folder`, or go on where it was interrupted.
/// `focus_cache`: where what a finished Focus sees is kept for other runs on the same one.
pub fn train(config: &Config, folder: &Path, observer: Arc<dyn Observer>, focus_cache: Option<&Path>) -> Result<Artifacts> {
    let folder = open(config, folder, || setup::draw_split(config, &*observer))?;
    run_stages(config, folder, observer, focus_cache.map(Path::to_owned))
}

/// As [`train`], on the first training scan that has a lesion, which validates too.
pub fn overfit_one(config: &Config, folder: &Path, observer: Arc<dyn Observer>) -> Result<Artifacts> {
    let one_scan = || {
        let case = first_with_lesion(config, &setup::draw_split(config, &*observer)?, &*observer)?;
        observer.message(&format!("train and validate on {} alone", case.name));
        Ok(Split { train: vec![case.clone()], validation: vec![case], test: vec![] })
    };
    let folder = open(config, folder, one_scan)?;
    run_stages(config, folder, observer, None)
}

/// The run folder, with its split. A run without a checkpoint has not got anywhere: it may still change its settings, and its split is drawn
/// anew, so that whoever was told to give `data.root` can do so.
fn open(config: &Config, folder: &Path, draw: impl FnOnce() -> Result<Split>) -> Result<RunFolder> {
    let begun = !CheckpointStore::read_only(&folder.join("checkpoints")).steps()?.is_empty();
    let on_difference = if begun { OnDifference::Refuse } else { OnDifference::Replace };
    let mut folder = RunFolder::create_or_open(folder, &config.to_toml(), on_difference)?;
    if !begun {
        match draw() {
            Ok(split) => setup::save_split(&split, &folder)?,
            Err(e) => {
                folder.end(&e.to_string())?;
                return Err(e);
            }
        }
    }
    folder.manifest.device = format!("{:?}", config.device).to_lowercase();
    folder.manifest.threads = rayon::current_num_threads();
    folder.manifest.seed = config.seed;
    folder.save_manifest()?;
    Ok(folder)
}

fn run_stages(config: &Config, mut folder: RunFolder, observer: Arc<dyn Observer>, focus_cache: Option<PathBuf>) -> Result<Artifacts> {
    let clock = Stopwatch::start();
    let result = on_device(config.device, Stages { config, folder: &mut folder, observer, focus_cache });
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
    focus_cache: Option<PathBuf>,
}

impl Work for Stages<'_> {
    type Output = Artifacts;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<Artifacts> {
        let mut artifacts = None;
        let mut run = Run::<B> { config: self.config, folder: self.folder, device, observer: self.observer, focus_cache: self.focus_cache };
        for name in &self.config.stages {
            artifacts = Some(stage::<B>(name)?.run(&mut run)?);
        }
        artifacts.ok_or_else(|| Error::Usage("`stages` is empty; name at least one stage".into()))
    }
}

/// A run of networks that nobody trained.
#[derive(Clone, Debug, Serialize)]
pub struct Untrained {
    pub run: PathBuf,
    /// Parameters.
    pub glance: usize,
    pub focus: usize,
}

/// A run folder at step 0: first weights, or those of `init_from`.
pub fn untrained(config: &Config, folder: &Path, observer: &dyn Observer) -> Result<Untrained> {
    if !CheckpointStore::read_only(&folder.join("checkpoints")).steps()?.is_empty() {
        return Err(Error::Usage(format!("{}: this run has checkpoints already; choose another folder", folder.display())));
    }
    let mut run = RunFolder::create_or_open(folder, &config.to_toml(), OnDifference::Replace)?;
    let made = on_device(config.device, FirstWeights { config, folder: &run, observer });
    run.end(&made.as_ref().map_or_else(|e| e.to_string(), |_| "untrained".into()))?;
    made
}

struct FirstWeights<'a> {
    config: &'a Config,
    folder: &'a RunFolder,
    observer: &'a dyn Observer,
}

impl Work for FirstWeights<'_> {
    type Output = Untrained;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<Untrained> {
        let FirstWeights { config, folder, observer } = self;
        let mut learner = Learner::<B>::new(config, &device)?;
        setup::init_from(config, &mut learner, observer)?;
        let state = serde_json::to_value(State::new(config.seed)).map_err(|e| Error::Usage(e.to_string()))?;
        folder.checkpoints(config.train.keep_checkpoints)?.save(0, &learner.files()?, &state)?;
        let (glance, focus) = (weights::parameter_count(&learner.glance), weights::parameter_count(&learner.focus));
        Ok(Untrained { run: folder.root().to_owned(), glance, focus })
    }
}

/// Where a run of this config lives, unless told otherwise.
pub fn default_folder(config: &Config) -> PathBuf {
    Path::new("runs").join(&config.name)
}

fn first_with_lesion(config: &Config, split: &Split, observer: &dyn Observer) -> Result<Case> {
    for case in &split.train {
        let scan = setup::store(config, vec![case.clone()], observer)?.load(0)?.scan;
        if scan.lesions() > 0 {
            return Ok(case.clone());
        }
    }
    let what = format!("none of the {} training scans has a lesion; check `data.lesion_classes` and the labels", split.train.len());
    Err(Error::Usage(what))
}

/// What a run would take, measured on one scan and one step of everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DryRun {
    pub train_scans: usize,
    pub validation_scans: usize,
    pub steps: usize,
    pub validations: usize,
    /// Preparing one scan that is not in the cache yet.
    pub seconds_per_scan: f64,
    pub seconds_per_step: f64,
    pub seconds_per_validation: f64,
    /// Saving one checkpoint, and its size.
    pub seconds_per_checkpoint: f64,
    pub checkpoint_mib: f64,
    /// Preparing, training, validating and saving, with what was measured here.
    pub seconds_total: f64,
    /// Highest memory of the process with one scan of each part in memory; `null` where the system doesn't tell.
    pub peak_mib: Option<f64>,
    /// Memory of all prepared scans, as far as `data.memory_gib` lets them stay.
    pub scans_mib: f64,
}

/// Do one step of everything in a temporary folder. The only thing left behind is a generated cohort, where the config asks for one.
pub fn dry_run(config: &Config, observer: Arc<dyn Observer>) -> Result<DryRun> {
    let root = setup::root(config, &*observer)?;
    let scratch = tempfile::tempdir().map_err(|e| panscreen_envs::Error::io(&std::env::temp_dir(), e))?;
    let mut config = config.clone();
    config.data.root = Some(root);
    config.data.cache_dir = scratch.path().join("cache");
    on_device(config.device, OneOfEverything { config: &config, scratch: scratch.path(), observer: &*observer })
}

struct OneOfEverything<'a> {
    config: &'a Config,
    scratch: &'a Path,
    observer: &'a dyn Observer,
}

impl Work for OneOfEverything<'_> {
    type Output = DryRun;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<DryRun> {
        let OneOfEverything { config, scratch, observer } = self;
        observer.phase("one of all", Some(5));
        let split = setup::draw_split(config, observer)?;
        let clock = Stopwatch::start();
        let one = first_with_lesion(config, &split, &crate::run::Silent)?;
        let training = Arc::new(setup::store(config, vec![one.clone()], &crate::run::Silent)?);
        let seconds_per_scan = clock.seconds();
        let validating = split.validation.first().unwrap_or(&one).clone();
        let validation = setup::store(config, vec![validating], &crate::run::Silent)?;
        let scan_bytes = training.load(0)?.scan.bytes();
        observer.advance(1, &[]);

        let settings = Settings::new(config);
        let env = setup::environment(config, training)?;
        let mut learner = Learner::<B>::new(config, &device)?;
        setup::init_from(config, &mut learner, observer)?;
        // The first step pays for what later ones reuse.
        training_step(&mut learner, &settings, &env, &env.observe(config.seed, 0)?)?;
        sync::<B>(&device);
        observer.advance(1, &[]);
        let clock = Stopwatch::start();
        training_step(&mut learner, &settings, &env, &env.observe(config.seed, 1)?)?;
        sync::<B>(&device);
        let seconds_per_step = clock.seconds();
        observer.advance(1, &[]);

        let clock = Stopwatch::start();
        let screener = screener(&learner, config);
        validate(&look(&screener, &validation, None, config)?, config)?;
        let seconds_per_validation = clock.seconds() * split.validation.len().max(1) as f64;
        observer.advance(1, &[]);

        let clock = Stopwatch::start();
        let files = learner.files()?;
        CheckpointStore::create(&scratch.join("checkpoints"), 1)?.save(learner.step, &files, &serde_json::Value::Null)?;
        let seconds_per_checkpoint = clock.seconds();
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let checkpoint_mib = mib(files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() as f64);
        observer.advance(1, &[]);
        observer.finish();

        let steps = config.train.steps;
        let times = |every: usize| steps.checked_div(every).unwrap_or(0).max(1);
        let (train_scans, validation_scans) = (split.train.len(), split.validation.len());
        let scans = (train_scans + validation_scans) as f64;
        let validations = times(config.train.validate_every);
        let prepare = scans * seconds_per_scan / rayon::current_num_threads() as f64;
        Ok(DryRun {
            train_scans,
            validation_scans,
            steps,
            validations,
            seconds_per_scan,
            seconds_per_step,
            seconds_per_validation,
            seconds_per_checkpoint,
            checkpoint_mib,
            seconds_total: prepare
                + steps as f64 * seconds_per_step
                + validations as f64 * seconds_per_validation
                + times(config.train.checkpoint_every) as f64 * seconds_per_checkpoint,
            peak_mib: peak_memory_bytes().map(|b| mib(b as f64)),
            scans_mib: (mib(scan_bytes as f64) * scans).min(config.data.memory_gib * 1024.0),
        })
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "scans        {} to train, {} to validate, {:.2} s to prepare each",
            self.train_scans, self.validation_scans, self.seconds_per_scan
        )?;
        writeln!(f, "training     {} steps of {:.3} s", self.steps, self.seconds_per_step)?;
        writeln!(f, "validation   {} times {:.1} s", self.validations, self.seconds_per_validation)?;
        writeln!(f, "checkpoint   {:.1} MiB, {:.2} s", self.checkpoint_mib, self.seconds_per_checkpoint)?;
        writeln!(f, "in all       about {}", about(self.seconds_total))?;
        match self.peak_mib {
            Some(peak) => write!(f, "memory       {peak:.0} MiB now, and up to {:.0} MiB for the scans", self.scans_mib),
            None => write!(f, "memory       up to {:.0} MiB for the scans; this system does not tell the rest", self.scans_mib),
        }
    }
}

/// A duration to two figures at most: it is an estimate.
fn about(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[test]
fn durations_are_rounded_to_what_they_are_worth() {
    for (seconds, text) in [(0.4, "0 s"), (99.0, "99 s"), (299.0, "5 min"), (86_400.0, "24.0 h")] {
        assert_eq!(about(seconds), text);
    }
}
