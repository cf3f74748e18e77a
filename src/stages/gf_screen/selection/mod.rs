//! Learning to select: Glance alone, on what a finished Focus did once in every window of the training scans.
//!
//! Focus is the dear part of a training step, and nothing that Glance decides changes it. So its results are cached, and Glance can be taught on
//! whole scans: sampled selections of all windows of a scan are a group in the proper sense (the same state, different actions), scored as sets.
//! Supervised objectives learn from labels over all windows of a scan. A Glance that reads whole scans at once is trained here.
//!
//! Source: the idea of judging selections of one scan as sets is ours; the objectives are those of `panscreen_policies::objectives`.
//! Start reading at [`step::selection_step`].
//!
//! Limits: the windows are those of the grid, while a whole-scan Glance places its windows freely when it screens.

pub mod lab;
pub mod step;

use std::sync::Arc;
use std::time::Instant;

use panscreen_envs::dataset::Store;
use panscreen_envs::screening::cached::{Constraint, Dual};

use super::learner::{Learner, Settings};
use super::train::{Recent, SeenAt, SelectionState, State, finish, judge_health, screener, sentence};
use super::validate::{look, validate};
use crate::backend::TrainBackend;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::run::{CheckpointStore, MetricsLog, signals};
use crate::screen::FocusCache;
use crate::setup;
use crate::stages::{Artifacts, Needs, Run, Scope, Stage, StageInfo};
use lab::Lab;
use step::selection_step;

pub const INFO: StageInfo = StageInfo {
    name: "selection",
    summary: "teach Glance alone, on cached results of a finished Focus; whole scans, sets of windows",
    needs: Needs::LesionLabels,
    emits: Scope::Whole,
};

pub struct Selection;

impl<B: TrainBackend> Stage<B> for Selection {
    fn info(&self) -> StageInfo {
        INFO
    }

    fn run(&self, run: &mut Run<B>) -> Result<Artifacts> {
        train(run)
    }
}

fn train<B: TrainBackend>(run: &mut Run<B>) -> Result<Artifacts> {
    let config = run.config;
    let split = setup::split(config, run.folder, &*run.observer)?;
    run.observer.phase("prepare scans", Some((split.train.len() + split.validation.len()) as u64));
    let training = Arc::new(setup::store(config, split.train.clone(), &*run.observer)?);
    let validation = setup::store(config, split.validation.clone(), &*run.observer)?;
    run.observer.finish();
    run.folder.manifest.inputs = setup::input_hashes(&split)?;
    run.folder.save_manifest()?;

    let mut learner = Learner::<B>::new(config, &run.device)?;
    let checkpoints = run.folder.checkpoints(config.train.keep_checkpoints)?;
    let resumed = checkpoints.latest(&*run.observer)?;
    let resumed_at = resumed.as_ref().map(|c| c.step);
    let begun = resumed.as_ref().map(State::read).transpose()?.filter(|s| s.selection.is_some());
    let mut state = match (begun, &resumed) {
        (Some(state), Some(checkpoint)) => {
            learner.restore(checkpoint)?;
            run.folder.continue_from(learner.step)?;
            if let Some(best) = state.best.as_ref().filter(|b| b.step == learner.step) {
                checkpoints.mark_best(best)?;
            }
            state
        }
        _ => {
            let state = begin(run, &mut learner, &checkpoints, resumed_at.unwrap_or(0))?;
            learner.reset_glance_optimizer(config);
            state
        }
    };
    let from = state.selection.as_ref().map_or(0, |s| s.from);
    let settings = Settings { steps: config.selection.steps as u64, from, ..Settings::new(config) };
    if learner.glance.whole_scan().is_some() && settings.objective.num_iterations() > 1 {
        let text = "`objective.num_iterations` above 1 is for a Glance on windows; set it to 1, or choose another `glance.kind`";
        return Err(Error::Usage(text.into()));
    }
    let cache = run.focus_cache.as_ref().map(|root| Ok::<_, Error>(FocusCache::open(root, &learner.focus_hash()?, config))).transpose()?;
    let at_first = screener(&learner, config);
    let lab = Lab::new(&at_first, training, cache.as_ref(), config, &*run.observer)?;
    at_first.again.warn(&*run.observer);
    let mut log = MetricsLog::open(&run.folder.metrics_path(), Some(&run.folder.tensorboard_dir()), resumed_at, run.observer.clone())?;
    run.observer.phase("learn to select", Some(settings.steps));
    run.observer.advance(learner.step - from, &[]);
    let outcome = steps(run, &settings, &lab, cache.as_ref(), &mut learner, &mut state, &checkpoints, &mut log, &validation);
    run.observer.finish();
    judge_health(run, &settings, outcome.as_ref().err())?;
    let best = outcome?;
    finish(run, learner, &checkpoints, &validation, best)
}

/// The weights to start from: those of the stage before, else of `init_from`. The steps go on from `step`.
fn begin<B: TrainBackend>(run: &Run<B>, learner: &mut Learner<B>, checkpoints: &CheckpointStore, step: u64) -> Result<State> {
    let config = run.config;
    let dir = match (checkpoints.best()?, &config.init_from) {
        (Some((_, best)), _) => best.dir().to_owned(),
        (None, Some(from)) => setup::checkpoint_of(from, &*run.observer),
        (None, None) => {
            let text = "the stage `selection` needs a trained Focus; put `gf_screen` before it in `stages`, or give `init_from=RUN`";
            return Err(Error::Usage(text.into()));
        }
    };
    if config.selection.fresh_glance {
        learner.start_on_focus(&dir)?
    } else {
        learner.load_weights(&dir)?
    }
    learner.step = step;
    Ok(State { selection: Some(SelectionState { from: step, dual: dual(config) }), ..State::new(config.seed) })
}

fn dual(config: &Config) -> Option<Dual> {
    let s = &config.selection;
    let most = s.most_windows.map(|most| Constraint::Windows(most as f32));
    let constraint = most.or(s.least_recall.map(|least| Constraint::Recall(least as f32)))?;
    Some(Dual::new(constraint, s.dual_rate as f32))
}

/// Train to the end; what the best validation saw, where this process made it.
#[expect(clippy::too_many_arguments, reason = "the parts of a run, each used once")]
fn steps<'s, B: TrainBackend>(
    run: &Run<B>,
    settings: &Settings,
    lab: &Lab,
    cache: Option<&FocusCache>,
    learner: &mut Learner<B>,
    state: &mut State,
    checkpoints: &CheckpointStore,
    log: &mut MetricsLog,
    validation: &'s Store,
) -> Result<Option<SeenAt<'s>>> {
    let mut best_seen = None;
    let (config, train) = (run.config, &run.config.train);
    let end = settings.from + settings.steps;
    let due = |step: u64, every: usize| every > 0 && (step - settings.from).is_multiple_of(every as u64);
    let mut recent = Recent::default();
    while learner.step < end && !state.finished {
        let clock = Instant::now();
        let dual = state.selection.as_mut().map(|s| &mut s.dual);
        let mut none = None;
        let mut values = selection_step(learner, settings, config, lab, dual.unwrap_or(&mut none))?;
        let step = learner.step;
        values.push(("time/step_s", clock.elapsed().as_secs_f64().into()));
        let shown = ["losses/glance_ce", "selection/recall", "selection/windows"];
        let shown: Vec<_> = values.iter().filter(|(n, _)| shown.contains(n)).map(|(n, v)| (*n, v.as_f64())).collect();
        run.observer.advance(1, &shown);
        if let Some(short) = recent.push(step, &values, settings) {
            run.observer.health(&short);
        }
        let last = step == end;
        let validate_now = last || due(step, config.selection.validate_every);
        let mut better = false;
        if validate_now {
            let screener = screener(learner, config);
            let seen = look(&screener, validation, cache, config)?;
            screener.again.warn(&*run.observer);
            let result = validate(&seen, config)?;
            better = state.judge(step, &result, config);
            if better {
                best_seen = Some((step, seen));
            }
            run.observer.message(&sentence(step, &result));
            values.extend(result.named());
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
