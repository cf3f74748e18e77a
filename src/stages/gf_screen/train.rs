//! The training run: steps, validations, checkpoints; interrupted anywhere and started again, it goes on bit for bit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use burn::module::AutodiffModule;
use panscreen_envs::dataset::Store;
use panscreen_envs::screening::cached::Dual;
use panscreen_envs::screening::{CropEnv, EnvState, Observation};
use panscreen_policies::objectives::{Needs, OldPolicy};
use serde::{Deserialize, Serialize};

use super::learner::{Learner, Settings};
use super::operating::Operating;
use super::step::training_step;
use super::validate::{OperatingPoint, Seen, Validation, look, validate};
use crate::backend::{Inner, TrainBackend};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::run::verdict::{Expected, Verdict};
use crate::run::{Best, Checkpoint, CheckpointStore, MetricsLog, Record, Scalar, metrics, signals};
use crate::screen::{Again, Screener};
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
    /// Where the stage `selection` is; `None` before it began.
    #[serde(default)]
    pub selection: Option<SelectionState>,
}

/// What the stage `selection` goes on from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SelectionState {
    /// The step that it began at.
    pub from: u64,
    /// The prices that its constraint has found.
    pub dual: Option<Dual>,
}

impl State {
    /// Before the first step.
    pub fn new(seed: u64) -> Self {
        let env = EnvState { seed, index: 0 };
        State { env, without_better: 0, best: None, operating_point: None, finished: false, selection: None }
    }

    pub fn read(checkpoint: &Checkpoint) -> Result<Self> {
        serde_json::from_value(checkpoint.state.clone()).map_err(|e| Error::Usage(format!("checkpoint state: {e}")))
    }

    /// Take in a validation; whether it is the best so far.
    pub fn judge(&mut self, step: u64, result: &Validation, config: &Config) -> bool {
        let metric = config.train.best_metric;
        let value = result.best_metric(metric);
        let better = self.best.as_ref().is_none_or(|b| value > b.value);
        self.without_better = if better { 0 } else { self.without_better + 1 };
        if better {
            self.best = Some(Best { step, metric: metric.name().into(), value });
        }
        self.operating_point = Some(result.operating_point);
        self.finished = config.train.patience > 0 && self.without_better >= config.train.patience;
        better
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
    let mut state = State::new(config.seed);
    let checkpoints = run.folder.checkpoints(config.train.keep_checkpoints)?;
    let resumed = checkpoints.latest(&*run.observer)?;
    // The next stage has begun: this one was done.
    if let (Some(_), Some((_, best))) = (resumed.as_ref().map(State::read).transpose()?.and_then(|s| s.selection), checkpoints.best()?) {
        return Ok(Artifacts { checkpoint: best.dir().to_owned(), scope: Scope::Whole });
    }
    if let Some(checkpoint) = &resumed {
        learner.restore(checkpoint)?;
        state = State::read(checkpoint)?;
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
    judge_health(run, &settings, outcome.as_ref().err())?;
    let best = outcome?;
    finish(run, learner, &checkpoints, &validation, best)
}

/// The validation scans as the networks of a step saw them.
pub type SeenAt<'s> = (u64, Vec<Seen<'s>>);

/// Write down what there is to know about operating the best checkpoint, unless that has been done. `seen`: what this process has of the best
/// validation; the networks look again where that was another's.
pub fn finish<B: TrainBackend>(
    run: &Run<B>,
    mut learner: Learner<B>,
    checkpoints: &CheckpointStore,
    validation: &Store,
    seen: Option<SeenAt>,
) -> Result<Artifacts> {
    let (_, best) = checkpoints.best()?.ok_or_else(|| Error::Usage("the run ended without a validation".into()))?;
    if Operating::read(run.folder.root(), best.step).is_none() {
        run.observer.phase("measure operating points", None);
        let seen = match seen.filter(|(step, _)| *step == best.step) {
            Some((_, seen)) => seen,
            None => {
                learner.load_weights(best.dir())?;
                let screener = screener(&learner, run.config);
                let seen = look(&screener, validation, None, run.config)?;
                screener.again.warn(&*run.observer);
                seen
            }
        };
        let point = State::read(&best)?.operating_point;
        Operating::measure(&seen, point.as_ref(), best.step, run.config)?.write(run.folder.root())?;
        run.observer.finish();
    }
    Ok(Artifacts { checkpoint: best.dir().to_owned(), scope: Scope::Whole })
}

/// Say what the whole log of this stage says about the run's health, and keep it as `health.json`.
pub fn judge_health<B: TrainBackend>(run: &Run<B>, settings: &Settings, error: Option<&Error>) -> Result<()> {
    let records: Vec<Record> = metrics::read(&run.folder.metrics_path())?.into_iter().filter(|r| r.step > settings.from).collect();
    let mut verdict = Verdict::of(&records, expected(settings));
    match error {
        Some(Error::Stopped { .. }) => {}
        Some(Error::Run(crate::run::Error::NonFinite(e))) => verdict = verdict.with_error(&e.to_string()),
        Some(Error::Optimizer(e)) => verdict = verdict.with_error(&e.to_string()),
        Some(_) => return Ok(()),
        None => {}
    }
    run.observer.message(&format!("health: {verdict}"));
    Ok(verdict.write(run.folder.root())?)
}

/// What the objective of `settings` promises, for the verdict.
pub fn expected(settings: &Settings) -> Expected {
    let info = settings.objective.info();
    Expected { groups: matches!(info.needs, Needs::Groups | Needs::SampledMasks), ratio: info.old_policy != OldPolicy::Unused }
}

/// The last lines of the log, from which the bar's verdict is made.
#[derive(Default)]
pub struct Recent(VecDeque<Record>);

impl Recent {
    /// Steps that the verdict on the bar goes by, and how often it is made.
    const STEPS: usize = 150;
    const EVERY: u64 = 25;

    /// Take in a step; now and then what the bar should say of the last ones.
    pub fn push(&mut self, step: u64, values: &[(&'static str, Scalar)], settings: &Settings) -> Option<String> {
        self.0.truncate(Self::STEPS - 1);
        self.0.push_front(Record { step, fields: values.iter().map(|(name, v)| ((*name).to_owned(), v.as_f64())).collect() });
        let verdict = || Verdict::of(&self.0.iter().rev().cloned().collect::<Vec<_>>(), expected(settings));
        (step - settings.from).is_multiple_of(Self::EVERY).then(|| verdict().short())
    }
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

/// Train to the end; what the best validation saw, where this process made it.
#[expect(clippy::too_many_arguments, reason = "the parts of a run, each used once")]
fn steps<'s, B: TrainBackend>(
    run: &Run<B>,
    settings: &Settings,
    env: &CropEnv,
    learner: &mut Learner<B>,
    state: &mut State,
    checkpoints: &CheckpointStore,
    log: &mut MetricsLog,
    validation: &'s Store,
    batches: Receiver<panscreen_envs::Result<Observation>>,
) -> Result<Option<SeenAt<'s>>> {
    let train = &run.config.train;
    let mut best_seen = None;
    let mut recent = Recent::default();
    let mut overflowed = false;
    let due = |step: u64, every: usize| every > 0 && step.is_multiple_of(every as u64);
    while learner.step < settings.steps && !state.finished {
        let started = Instant::now();
        let group = batches.recv().map_err(|_| Error::Usage("the data thread ended early".into()))??;
        let waited = started.elapsed().as_secs_f64();
        let mut values = training_step(learner, settings, env, &group)?;
        let step = learner.step;
        if !learner.recomputed.is_empty() && !overflowed {
            overflowed = true;
            let which = &learner.recomputed;
            let text =
                format!("step {step}: the logits of sub-volumes {which:?} overflowed half precision; the step was computed again in f32");
            run.observer.warn(&format!("{text}; `precision/recomputed` counts those that follow"));
        }
        state.env.index = group.index + 1;
        let seconds = started.elapsed().as_secs_f64();
        values.extend([
            ("time/step_s", Scalar::from(seconds)),
            ("time/crops_per_second", (group.len() as f64 / seconds).into()),
            ("time/waiting_for_data", (waited / seconds).into()),
        ]);
        run.observer.advance(1, &shown(&values));
        if let Some(short) = recent.push(step, &values, settings) {
            run.observer.health(&short);
        }

        let last = step == settings.steps;
        let validate_now = last || due(step, train.validate_every);
        let mut better = false;
        if validate_now {
            let clock = Instant::now();
            let screener = screener(learner, run.config);
            let seen = look(&screener, validation, None, run.config)?;
            screener.again.warn(&*run.observer);
            let result = validate(&seen, run.config)?;
            better = state.judge(step, &result, run.config);
            if better {
                best_seen = Some((step, seen));
            }
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
    Ok(best_seen)
}

/// The networks as they are now, for screening.
pub fn screener<B: TrainBackend>(learner: &Learner<B>, config: &Config) -> Screener<Inner<B>> {
    Screener {
        glance: learner.glance.valid(),
        focus: learner.focus.valid(),
        window: config.env.window,
        batch: config.screen.batch,
        device: learner.device.clone(),
        dtype: learner.dtype,
        again: Again::default(),
    }
}

/// The few values that a progress bar has room for.
fn shown(values: &[(&'static str, Scalar)]) -> Vec<(&'static str, f64)> {
    let pick = [("losses/focus", "focus"), ("losses/glance_ce", "glance"), ("reward", "reward"), ("time/crops_per_second", "crops/s")];
    pick.iter().filter_map(|(name, label)| values.iter().find(|(n, _)| n == name).map(|(_, v)| (*label, v.as_f64()))).collect()
}

pub fn sentence(step: u64, v: &Validation) -> String {
    let (g, e, o) = (&v.glance_focus, &v.everywhere, &v.operating_point);
    let dice = |s: &crate::evaluate::Scores| s.lesion_dice.mean.value().unwrap_or(0.0);
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
