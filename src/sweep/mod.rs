//! Sweeps: many runs, each a point with an identity and one final state.
//!
//! ```text
//! SWEEP/  sweep.toml (as given)  trials.jsonl  points/ID/ (see [`point`])  cache/ (Focus's outcomes)  slurm/  table.{json,csv,md}
//! ```
//!
//! The sweep decides which points there are ([`plan`], [`tpe`], [`halving`]) and starts a worker process for each ([`launcher`], [`slurm`]).
//! A worker holds its point's lease, a lock that goes with the process, and leaves the point's only final state ([`worker`]). Everything that
//! decides what is next lies in files written whole, so that a sweep killed at any moment goes on without repeating or losing a point.

mod cache;
mod halving;
mod judge;
mod launcher;
mod plan;
mod point;
mod settings;
mod slurm;
mod space;
mod table;
mod tpe;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use panscreen_envs::io::write_atomic;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::run::folder::lock;
use crate::run::usage::Stopwatch;
use crate::run::{Observer, signals};
use crate::setup;
use launcher::{Exit, Launcher, Local, Task};
use plan::{Planned, Planner, Points, Trial, TrialLog};
use slurm::Slurm;

pub use point::{Final, Point, PointFolder, PointResult, State};
pub use settings::{Direction, Pruner, Sampler, SweepConfig};
pub use table::{Cell, Row, Table, table};
pub use worker::{Left, work};

/// Characters of a reason that are kept.
const MAX_REASON: usize = 500;

/// How a sweep is carried out.
#[derive(Clone, Debug)]
pub struct Options {
    /// Points at the same time.
    pub jobs: usize,
    /// Threads of each worker on this machine; 0 leaves it to the config.
    pub threads: usize,
    pub slurm: bool,
}

/// How a sweep ended.
#[derive(Clone, Debug, Serialize)]
pub struct SweepSummary {
    pub sweep: PathBuf,
    pub points: usize,
    pub done: usize,
    pub failed: usize,
    pub pruned: usize,
    /// Without a final state, because the sweep stopped.
    pub left: usize,
    /// Each failed point with its reason.
    pub failures: Vec<Failure>,
    /// Why it stopped before the end.
    pub stopped: Option<String>,
    /// The best trial, where points have the figure that the sweep goes by.
    pub best: Option<Best>,
    pub seconds: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    pub id: String,
    pub label: String,
    pub reason: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Best {
    pub trial: String,
    pub metric: String,
    /// Mean over the seeds.
    pub value: f64,
}

/// Run the sweep of the file `path` in the folder `root`, or go on with it.
pub fn run(path: &Path, root: &Path, options: &Options, observer: Arc<dyn Observer>) -> Result<SweepSummary> {
    let sweep = SweepConfig::read(path)?;
    if root.join("config.toml").exists() {
        return Err(panscreen_envs::Error::file(root, "a run", "an empty folder or a sweep", "choose another --out").into());
    }
    std::fs::create_dir_all(root).map_err(|e| panscreen_envs::Error::io(root, e))?;
    let _lock = lock(root)?;
    keep_settings(&sweep, root)?;
    let launcher = if options.slurm {
        Launcher::Slurm(Slurm::new(root, &sweep.name, &sweep.metric, &sweep.slurm, options.jobs)?)
    } else {
        Launcher::Local(Local::new(root, &sweep.metric, options.jobs, options.threads))
    };
    let mut scheduler = Scheduler {
        planner: Planner::new(&sweep, root)?,
        root,
        options,
        observer: &*observer,
        log: TrialLog::open(root)?,
        trials: Vec::new(),
        points: Points::new(),
        order: Vec::new(),
        ended: BTreeMap::new(),
        rungs: Vec::new(),
        cohorts: BTreeSet::new(),
        busy_until: BTreeMap::new(),
        starts: BTreeMap::new(),
        last_reason: None,
        equal_failures: 0,
        stopping: false,
        launcher,
        clock: Stopwatch::start(),
    };
    scheduler.run()
}

/// How many points of a sweep are known before it runs: those of a grid, or one trial of a sampler that draws. Every config is loaded.
pub fn points_of(sweep: &SweepConfig) -> Result<usize> {
    let planner = Planner::new(sweep, Path::new("runs"))?;
    let mut trials = planner.grid();
    if trials.is_empty() {
        trials.push(planner.draw(0, &[]));
    }
    let mut ids = BTreeSet::new();
    for trial in &trials {
        ids.extend(planner.points(0, trial)?.into_iter().map(|p| p.point.id));
    }
    Ok(ids.len())
}

/// `sweep.toml`, for the table and for whoever looks. A sweep that draws its trials must go on with the settings it began with.
fn keep_settings(sweep: &SweepConfig, root: &Path) -> Result<()> {
    let path = root.join("sweep.toml");
    let text = toml::to_string(sweep).map_err(|e| Error::Usage(e.to_string()))?;
    if let Ok(there) = std::fs::read_to_string(&path)
        && sweep.sampler != Sampler::Grid
    {
        let drawn = |s: &SweepConfig| (s.sampler, s.params.clone(), s.seed, s.metric.clone(), s.direction);
        if toml::from_str::<SweepConfig>(&there).is_ok_and(|there| drawn(&there) != drawn(sweep)) {
            let text = format!("{}: this sweep began with another sampler or other params; choose another --out", root.display());
            return Err(Error::Usage(text));
        }
    }
    Ok(write_atomic(&path, text.as_bytes())?)
}

struct Scheduler<'a> {
    planner: Planner<'a>,
    root: &'a Path,
    options: &'a Options,
    observer: &'a dyn Observer,
    log: TrialLog,
    trials: Vec<Trial>,
    points: Points,
    /// Ids in the order they are to be run.
    order: Vec<String>,
    ended: BTreeMap<String, Final>,
    /// Of successive halving: rungs that are not decided yet.
    rungs: Vec<u64>,
    /// Cohorts that are known to be there.
    cohorts: BTreeSet<PathBuf>,
    /// Points whose lease somebody else holds, until they are tried again.
    busy_until: BTreeMap<String, Instant>,
    /// Starts that each running point had before: a worker that counts no new one never got to work.
    starts: BTreeMap<String, usize>,
    last_reason: Option<String>,
    equal_failures: usize,
    stopping: bool,
    launcher: Launcher,
    clock: Stopwatch,
}

impl Scheduler<'_> {
    fn run(&mut self) -> Result<SweepSummary> {
        for trial in self.planner.grid() {
            self.add(trial)?;
        }
        for trial in self.log.trials.clone() {
            self.add(trial)?;
        }
        let wanted = if self.planner.sweep.sampler == Sampler::Grid { self.trials.len() } else { self.planner.sweep.n_trials.unwrap_or(0) };
        let seeds = self.planner.sweep.seeds.len();
        let shared = self.order.len() - self.trials.len() * seeds;
        self.observer.phase("sweep", Some((wanted * seeds + shared) as u64));
        self.observer.advance(self.ended.len() as u64, &[]);
        let mut stopped = None;
        loop {
            for (task, exit) in self.launcher.ended()? {
                self.after(&task, &exit)?;
            }
            if stopped.is_none() {
                stopped = self.why_stop();
                if stopped.is_some() {
                    self.stopping = true;
                    self.launcher.stop();
                }
            }
            if stopped.is_none() {
                self.draw(wanted)?;
                self.fail_orphans()?;
                self.decide_rungs()?;
                let ready = self.ready();
                for task in &ready {
                    self.starts.insert(task.id.clone(), PointFolder::of(self.root, &task.id).attempt()?.starts);
                }
                self.launcher.start(&ready)?;
            }
            let over = self.trials.len() >= wanted && self.order.iter().all(|id| self.ended.contains_key(id));
            if self.launcher.running().is_empty() && (stopped.is_some() || over) {
                break;
            }
            std::thread::sleep(Duration::from_millis(if self.options.slurm { 1000 } else { 20 }));
        }
        self.observer.finish();
        self.summary(stopped)
    }

    fn why_stop(&self) -> Option<String> {
        if signals::stop_requested() {
            return Some("asked to stop".into());
        }
        let reason = self.last_reason.as_ref()?;
        let most = self.planner.sweep.stop_after_failures;
        (most > 0 && self.equal_failures >= most).then(|| format!("{most} points in a row failed alike: {reason}"))
    }

    /// Take in a trial: its points get their folders, and those that have ended before are known.
    fn add(&mut self, mut trial: Trial) -> Result<()> {
        for Planned { point, config } in self.planner.points(self.trials.len(), &trial)? {
            let id = point.id.clone();
            if !point.shared {
                if trial.points.contains(&id) || self.trials.iter().any(|t| t.points.contains(&id)) {
                    if self.planner.sweep.sampler == Sampler::Grid {
                        let other = &self.points[&id];
                        return Err(Error::Usage(format!("`{}` and `{}` are the same run; take one out", other.label(), point.label())));
                    }
                    // A sampler may draw the same values again: they are run once.
                    trial.points.push(id);
                    continue;
                }
                trial.points.push(id.clone());
            }
            if self.points.contains_key(&id) {
                continue;
            }
            self.make_cohort(&config)?;
            let folder = PointFolder::create(self.root, &point, &config.to_toml())?;
            if let Some(state) = folder.state()? {
                self.ended.insert(id.clone(), state);
            }
            if let Pruner::SuccessiveHalving { min_resource, reduction_factor } = self.planner.sweep.pruner
                && !point.shared
            {
                self.rungs = halving::rungs(min_resource, reduction_factor, config.train.steps as u64);
            }
            self.points.insert(id.clone(), point);
            self.order.push(id);
        }
        self.trials.push(trial);
        Ok(())
    }

    /// A phantom cohort is made here, once, before several workers want it.
    fn make_cohort(&mut self, config: &crate::config::Config) -> Result<()> {
        let Some(root) = config.data.root.clone().filter(|_| config.data.phantom.is_some() && self.planner.sweep.command.is_empty()) else {
            return Ok(());
        };
        if self.cohorts.insert(root) {
            setup::root(config, self.observer)?;
        }
        Ok(())
    }

    /// Draw trials while there is room for them. Trial k goes by the results of trials up to k - jobs, whoever is faster.
    fn draw(&mut self, wanted: usize) -> Result<()> {
        let ahead = match self.planner.sweep.sampler {
            Sampler::Grid => return Ok(()),
            Sampler::Random => usize::MAX,
            Sampler::Tpe => self.options.jobs.max(1),
        };
        while self.trials.len() < wanted {
            let known = (self.trials.len() + 1).saturating_sub(ahead);
            let open = |trial: &Trial| trial.points.iter().any(|id| !self.ended.contains_key(id));
            if self.trials[..known].iter().any(open) {
                return Ok(());
            }
            let history = plan::history(self.root, self.planner.sweep, &self.trials[..known])?;
            let trial = self.planner.draw(self.trials.len(), &history);
            self.log.push(trial.clone())?;
            self.add(trial)?;
        }
        Ok(())
    }

    /// Points whose shared run failed can't begin.
    fn fail_orphans(&mut self) -> Result<()> {
        for id in self.order.clone() {
            if self.ended.contains_key(&id) {
                continue;
            }
            let lost = self.points[&id].needs.iter().find(|n| self.ended.get(*n).is_some_and(|f| f.state != State::Done)).cloned();
            if let Some(lost) = lost {
                let reason = format!("the shared run `{}` failed", self.points.get(&lost).map_or(lost.clone(), |p| p.method.clone()));
                self.end(&id, Final::now(State::Failed, Some(reason)))?;
                // They say nothing about the points to come.
                (self.last_reason, self.equal_failures) = (None, 0);
            }
        }
        Ok(())
    }

    /// Where every trial has reached the rung or has ended, the best go on and the others are pruned.
    fn decide_rungs(&mut self) -> Result<()> {
        while let (Some(&rung), Pruner::SuccessiveHalving { reduction_factor, .. }) = (self.rungs.first(), &self.planner.sweep.pruner) {
            let (mut reached, mut figures) = (Vec::new(), Vec::new());
            for (number, trial) in self.trials.iter().enumerate() {
                let mut values = Vec::new();
                for id in &trial.points {
                    match (PointFolder::of(self.root, id).rung(rung)?, self.ended.get(id)) {
                        // A failed point takes its trial out of the comparison; one pruned at this very rung was in it.
                        (_, Some(Final { state: State::Failed, .. })) => {}
                        (Some(value), _) => values.push(value),
                        (None, Some(_)) => {}
                        (None, None) => return Ok(()),
                    }
                }
                if values.len() == trial.points.len() {
                    reached.push(number);
                    figures.push(self.planner.sweep.direction.upward(values.iter().sum::<f64>() / values.len() as f64));
                }
            }
            let stays = halving::survivors(&figures, *reduction_factor);
            for (number, _) in reached.iter().zip(&stays).filter(|(_, stays)| !**stays) {
                let among = format!("not among the best {} of {} at step {rung}", stays.iter().filter(|s| **s).count(), stays.len());
                for id in self.trials[*number].points.clone() {
                    if !self.ended.contains_key(&id) {
                        self.end(&id, Final::now(State::Pruned, Some(among.clone())))?;
                    }
                }
            }
            self.rungs.remove(0);
        }
        Ok(())
    }

    /// The tasks to start now.
    fn ready(&mut self) -> Vec<Task> {
        let now = Instant::now();
        self.busy_until.retain(|_, until| *until > now);
        let running: BTreeSet<&str> = self.launcher.running().into_iter().map(|t| t.id.as_str()).collect();
        let until = self.rungs.first().copied();
        let halted = |id: &String| until.is_some_and(|step| PointFolder::of(self.root, id).rung(step).is_ok_and(|r| r.is_some()));
        let done = |id: &String| self.ended.get(id).is_some_and(|f| f.state == State::Done);
        let free = |id: &&String| {
            !self.ended.contains_key(*id)
                && !running.contains(id.as_str())
                && !self.busy_until.contains_key(*id)
                && self.points[*id].needs.iter().all(done)
                && !halted(id)
        };
        let task = |id: &String| Task { id: id.clone(), until: until.filter(|_| !self.points[id].shared) };
        self.order.iter().filter(free).take(self.launcher.free()).map(task).collect()
    }

    /// What became of a task whose worker is gone.
    fn after(&mut self, task: &Task, exit: &Exit) -> Result<()> {
        let folder = PointFolder::of(self.root, &task.id);
        if let Some(state) = folder.state()? {
            return self.note(&task.id, state);
        }
        let halted = match task.until {
            Some(step) => folder.rung(step)?.is_some(),
            None => false,
        };
        let mut attempt = folder.attempt()?;
        let worked = self.starts.get(&task.id).is_none_or(|before| attempt.starts > *before);
        if halted || (attempt.stopped && worked) || self.stopping {
            return Ok(());
        }
        match lock(&folder.0) {
            // A worker of an earlier sweep that was killed still has it.
            Err(crate::run::Error::Locked { .. }) => {
                self.busy_until.insert(task.id.clone(), Instant::now() + Duration::from_secs(2));
                Ok(())
            }
            Err(e) => Err(e.into()),
            Ok(_lease) => {
                let said = folder.last_words().map_or(String::new(), |words| format!(": {words}"));
                let reason = match exit {
                    Exit::Code(code) => format!("its worker ended with code {code}{said}"),
                    Exit::Died(how) => {
                        attempt.deaths += 1;
                        folder.write("attempt.json", &attempt)?;
                        let most = self.planner.sweep.max_deaths.max(1);
                        if attempt.deaths < most {
                            let label = self.points[&task.id].label();
                            self.observer.warn(&format!("{label}: its worker died ({how}); the point is given back"));
                            return Ok(());
                        }
                        format!("its worker died {} times, last by {how}{said}", attempt.deaths)
                    }
                };
                self.end(&task.id, Final::now(State::Failed, Some(reason.chars().take(MAX_REASON).collect())))
            }
        }
    }

    fn end(&mut self, id: &str, state: Final) -> Result<()> {
        let state = PointFolder::of(self.root, id).finish(state)?;
        self.note(id, state)
    }

    fn note(&mut self, id: &str, state: Final) -> Result<()> {
        let label = self.points[id].label();
        match state.state {
            State::Failed => {
                let reason = state.reason.clone().unwrap_or_default();
                self.observer.warn(&format!("{label} failed: {reason}"));
                let alike = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
                let equal = self.last_reason.as_ref().is_some_and(|last| alike(last) == alike(&reason));
                self.equal_failures = if equal { self.equal_failures + 1 } else { 1 };
                self.last_reason = Some(reason);
            }
            State::Done => (self.last_reason, self.equal_failures) = (None, 0),
            State::Pruned => {}
        }
        self.ended.insert(id.to_owned(), state);
        let count = |state| self.ended.values().filter(|f| f.state == state).count() as f64;
        let fields = [("done", count(State::Done)), ("failed", count(State::Failed)), ("pruned", count(State::Pruned))];
        self.observer.advance(1, &fields);
        Ok(())
    }

    fn summary(&self, stopped: Option<String>) -> Result<SweepSummary> {
        let count = |state| self.ended.values().filter(|f| f.state == state).count();
        let failure = |id: &String| {
            let state = self.ended.get(id).filter(|f| f.state == State::Failed)?;
            Some(Failure { id: id.clone(), label: self.points[id].label(), reason: state.reason.clone().unwrap_or_default() })
        };
        let mut best: Option<(f64, &Trial)> = None;
        for trial in &self.trials {
            let worth = plan::history(self.root, self.planner.sweep, std::slice::from_ref(trial))?;
            if let Some((_, value)) = worth.first().filter(|(_, value)| best.as_ref().is_none_or(|b| *value > b.0)) {
                best = Some((*value, trial));
            }
        }
        let best = best.and_then(|(value, trial)| {
            let trial = self.points.get(trial.points.first()?)?.row();
            Some(Best { trial, metric: self.planner.sweep.metric.clone(), value: self.planner.sweep.direction.upward(value) })
        });
        Ok(SweepSummary {
            sweep: self.root.to_owned(),
            points: self.order.len(),
            done: count(State::Done),
            failed: count(State::Failed),
            pruned: count(State::Pruned),
            left: self.order.iter().filter(|id| !self.ended.contains_key(*id)).count(),
            failures: self.order.iter().filter_map(failure).collect(),
            stopped,
            best,
            seconds: self.clock.seconds(),
        })
    }
}
