//! The training run: steps, validations, checkpoints; interrupted anywhere and started again, it goes on bit for bit.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use burn::module::AutodiffModule;
use panscreen_envs::dataset::Store;
use panscreen_envs::screening::{CropEnv, EnvState, Observation};
use serde::{Deserialize, Serialize};

use super::learner::{Learner, Settings};
use super::step::training_step;
use super::validate::{OperatingPoint, look, validate};
use crate::backend::{Inner, TrainBackend};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::run::{Best, CheckpointStore, MetricsLog, Scalar, signals};
use crate::screen::Screener;
use crate::setup;
use crate::stages::{Artifacts, Run, Scope};

/// What a checkpoint holds besides weights and optimisers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub env: EnvState,
    /// Validations since the best.
    pub without_better: usize,
    pub best: Option<Best>,
    /// `None` before the first validation.
    pub operating_point: Option<OperatingPoint>,
    /// The training ended early: `train.patience` ran out.
    pub finished: bool,
}

impl State {
    /// Before the first step.
    pub fn first(config: &Config) -> Self {
        State { env: EnvState { seed: config.seed, index: 0 }, without_better: 0, best: None, operating_point: None, finished: false }
    }
}

pub fn train<B: TrainBackend>(run: &mut Run<B>) -> Result<Artifacts> {
    let config = run.config;
    let settings = Settings::new(config);
    let split = setup::split(config, run.folder, &*run.observer)?;
    run.observer.phase("prepare scans", Some((split.train.len() + split.validation.len()) as u64));
    let training = Arc::new(setup::store(config, split.train.clone(), &*run.observer)?);
    let validation = setup::store(config, split.validation.clone(), &*run.observer)?;
    run.observer.finish();
    run.folder.manifest.inputs = setup::input_hashes(&split)?;
    run.folder.save_manifest()?;
    let env = setup::environment(config, training)?;

    let mut learner = Learner::<B>::new(config, &run.device)?;
    setup::init_from(config, &mut learner, &*run.observer)?;
    let mut state = State::first(config);
    let checkpoints = run.folder.checkpoints(config.train.keep_checkpoints)?;
    let resumed = checkpoints.latest(&*run.observer)?;
    if let Some(checkpoint) = &resumed {
        learner.restore(checkpoint)?;
        state = serde_json::from_value(checkpoint.state.clone()).map_err(|e| Error::Usage(format!("checkpoint state: {e}")))?;
        run.folder.continue_from(learner.step)?;
        // A kill between saving the best checkpoint and marking it.
        if let Some(best) = state.best.as_ref().filter(|b| b.step == learner.step) {
            checkpoints.mark_best(best)?;
        }
    }
    let resumed_at = resumed.map(|c| c.step);
    let mut log = MetricsLog::open(&run.folder.metrics_path(), Some(&run.folder.tensorboard_dir()), resumed_at, run.observer.clone())?;

    run.observer.phase("train", Some(settings.steps));
    run.observer.advance(learner.step, &[]);
    let outcome = std::thread::scope(|scope| {
        let batches = prefetch(scope, &env, state.env, settings.steps, config.env.workers);
        steps(run, &settings, &env, &mut learner, &mut state, &checkpoints, &mut log, &validation, batches)
    });
    run.observer.finish();
    outcome?;
    let (_, best) = checkpoints.best()?.ok_or_else(|| Error::Usage("the run ended without a validation".into()))?;
    Ok(Artifacts { checkpoint: best.dir().to_owned(), scope: Scope::Whole })
}

/// Prepare observations ahead on a thread; each is a pure function of its index, so nothing depends on how far ahead it is.
fn prefetch<'s>(
    scope: &'s std::thread::Scope<'s, '_>,
    env: &'s CropEnv,
    from: EnvState,
    steps: u64,
    ahead: usize,
) -> Receiver<panscreen_envs::Result<Observation>> {
    let (sender, receiver) = sync_channel(ahead);
    scope.spawn(move || {
        for index in from.index..steps {
            // The receiver is gone when the run stops early.
            if sender.send(env.observe(from.seed, index)).is_err() {
                return;
            }
        }
    });
    receiver
}

#[expect(clippy::too_many_arguments, reason = "the parts of a run, each used once")]
fn steps<B: TrainBackend>(
    run: &Run<B>,
    settings: &Settings,
    env: &CropEnv,
    learner: &mut Learner<B>,
    state: &mut State,
    checkpoints: &CheckpointStore,
    log: &mut MetricsLog,
    validation: &Store,
    batches: Receiver<panscreen_envs::Result<Observation>>,
) -> Result<()> {
    let train = &run.config.train;
    let due = |step: u64, every: usize| every > 0 && step.is_multiple_of(every as u64);
    while learner.step < settings.steps && !state.finished {
        let started = Instant::now();
        let group = batches.recv().map_err(|_| Error::Usage("the data thread ended early".into()))??;
        let waited = started.elapsed().as_secs_f64();
        let mut values = training_step(learner, settings, env, &group)?;
        let step = learner.step;
        state.env.index = group.index + 1;
        let seconds = started.elapsed().as_secs_f64();
        values.extend([
            ("time/step_s", Scalar::from(seconds)),
            ("time/crops_per_second", (group.len() as f64 / seconds).into()),
            ("time/waiting_for_data", (waited / seconds).into()),
        ]);
        run.observer.advance(1, &shown(&values));

        let last = step == settings.steps;
        let validate_now = last || due(step, train.validate_every);
        let mut better = false;
        if validate_now {
            let clock = Instant::now();
            let seen = look(&screener(learner, run.config), validation, run.config)?;
            let result = validate(&seen, run.config)?;
            let value = result.best_metric(train.best_metric);
            better = state.best.as_ref().is_none_or(|b| value > b.value);
            state.without_better = if better { 0 } else { state.without_better + 1 };
            if better {
                state.best = Some(Best { step, metric: train.best_metric.name().into(), value });
            }
            state.operating_point = Some(result.operating_point);
            state.finished = train.patience > 0 && state.without_better >= train.patience;
            run.observer.message(&sentence(step, &result));
            values.extend(result.named());
            values.push(("time/validation_s", clock.elapsed().as_secs_f64().into()));
        }
        if last || validate_now || due(step, train.log_every) {
            log.append(step, &values)?;
        }
        let stop = signals::stop_requested();
        if last || better || stop || state.finished || due(step, train.checkpoint_every) {
            log.sync()?;
            let state = serde_json::to_value(&*state).map_err(|e| Error::Usage(e.to_string()))?;
            checkpoints.save(step, &learner.files()?, &state)?;
        }
        if let Some(best) = state.best.as_ref().filter(|_| better) {
            checkpoints.mark_best(best)?;
        }
        if stop && !last {
            return Err(Error::Stopped { step });
        }
    }
    Ok(())
}

/// The networks as they are now, for screening.
pub fn screener<B: TrainBackend>(learner: &Learner<B>, config: &Config) -> Screener<Inner<B>> {
    Screener {
        glance: learner.glance.valid(),
        focus: learner.focus.valid(),
        window: config.env.window,
        batch: config.screen.batch,
        device: learner.device.clone(),
    }
}

/// The few values that a progress bar has room for.
fn shown(values: &[(&'static str, Scalar)]) -> Vec<(&'static str, f64)> {
    let pick = [("losses/focus", "focus"), ("losses/glance_ce", "glance"), ("reward", "reward"), ("time/crops_per_second", "crops/s")];
    pick.iter().filter_map(|(name, label)| values.iter().find(|(n, _)| n == name).map(|(_, v)| (*label, v.as_f64()))).collect()
}

fn sentence(step: u64, v: &super::Validation) -> String {
    let (g, e, o) = (&v.glance_focus, &v.everywhere, &v.operating_point);
    let dice = |s: &crate::evaluate::Summary| s.lesion_dice.mean.value().unwrap_or(0.0);
    format!(
        "step {step}: validation Dice {:.3} (everywhere {:.3}), lesions {} of {} (everywhere {}), {:.0} % of the windows at threshold {:.3}",
        dice(g),
        dice(e),
        g.lesions.hits,
        g.lesions.lesions,
        e.lesions.hits,
        o.windows_kept * 100.0,
        o.threshold,
    )
}
