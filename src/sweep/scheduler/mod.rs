//! What is next: which points there are ([`admit`]), which of them start, what became of them ([`outcome`]).
//!
//! Everything is looked up in memory, and only when something has ended; files are read at the start and where a worker is gone.

mod admit;
mod outcome;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::launcher::{Launcher, Task};
use super::plan::{self, Planner, Points, Trial, TrialLog};
use super::point::{Final, PointFolder, State};
use super::{Best, Failure, Options, Pruner, Sampler, SweepSummary, halving};
use crate::config::ConfigError;
use crate::error::Result;
use crate::run::usage::Stopwatch;
use crate::run::{Observer, signals};

pub struct Scheduler<'a> {
    planner: Planner<'a>,
    options: &'a Options,
    observer: &'a dyn Observer,
    log: TrialLog,
    launcher: Launcher,
    trials: Vec<Trial>,
    points: Points,
    /// Ids in the order they are to be run, and those of them without a final state.
    order: Vec<String>,
    open: Vec<String>,
    ended: BTreeMap<String, Final>,
    /// The figure that the sweep goes by, of each point that is done and has it.
    figures: BTreeMap<String, f64>,
    /// Texts of the configs of points that this process has not started yet.
    configs: BTreeMap<String, String>,
    /// Points whose config can't be used, and that have no final state yet.
    refused: Vec<(String, ConfigError)>,
    /// Points that failed before and are to run again.
    retried: Vec<String>,
    /// Of successive halving: rungs that are not decided yet, and the figures of the points that halted at the first of them.
    rungs: Vec<u64>,
    halted: BTreeMap<String, f64>,
    /// Cohorts that are known to be there.
    cohorts: BTreeSet<PathBuf>,
    /// Points whose lease somebody else holds, and when they were looked at.
    busy: BTreeSet<String>,
    looked: Instant,
    /// Starts that each running point had before: a worker that counts no new one never got to work.
    starts: BTreeMap<String, usize>,
    last_reason: Option<String>,
    equal_failures: usize,
    stopping: bool,
    /// Something has ended or begun since what is next was last looked for.
    changed: bool,
    warned: bool,
    clock: Stopwatch,
}

impl<'a> Scheduler<'a> {
    pub fn new(planner: Planner<'a>, options: &'a Options, observer: &'a dyn Observer, log: TrialLog, launcher: Launcher) -> Self {
        Scheduler {
            planner,
            options,
            observer,
            log,
            launcher,
            trials: Vec::new(),
            points: Points::new(),
            order: Vec::new(),
            open: Vec::new(),
            ended: BTreeMap::new(),
            figures: BTreeMap::new(),
            configs: BTreeMap::new(),
            refused: Vec::new(),
            retried: Vec::new(),
            rungs: Vec::new(),
            halted: BTreeMap::new(),
            cohorts: BTreeSet::new(),
            busy: BTreeSet::new(),
            looked: Instant::now(),
            starts: BTreeMap::new(),
            last_reason: None,
            equal_failures: 0,
            stopping: false,
            changed: true,
            warned: false,
            clock: Stopwatch::start(),
        }
    }

    pub fn run(mut self) -> Result<SweepSummary> {
        let stopped = self.carry_out();
        if stopped.is_err() {
            // Nobody would watch over the workers: they save and give their points back.
            self.launcher.stop();
        }
        self.observer.finish();
        Ok(self.summary(stopped?))
    }

    /// Until every point has its final state, or why it stopped before.
    fn carry_out(&mut self) -> Result<Option<String>> {
        let known = self.planner.grid().into_iter().chain(self.log.trials.clone()).collect();
        self.admit(known)?;
        self.check_baseline()?;
        self.delete_failed()?;
        self.list_points()?;
        self.read_rung()?;
        let sweep = self.planner.sweep;
        let wanted = if sweep.sampler == Sampler::Grid { self.trials.len() } else { sweep.n_trials.unwrap_or(0) };
        let to_come = wanted.saturating_sub(self.trials.len()) * sweep.seeds.len();
        self.observer.phase("sweep", Some((self.order.len() + to_come) as u64));
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
            self.look_at_busy()?;
            if self.changed && stopped.is_none() {
                self.changed = false;
                self.draw(wanted)?;
                self.fail_refused(wanted)?;
                self.fail_orphans()?;
                self.decide_rungs()?;
                self.start()?;
            }
            let over = self.trials.len() >= wanted && self.open.is_empty();
            if self.launcher.running().is_empty() && (stopped.is_some() || over) {
                return Ok(stopped);
            }
            std::thread::sleep(Duration::from_millis(if self.options.slurm { 500 } else { 20 }));
        }
    }

    fn why_stop(&self) -> Option<String> {
        if signals::stop_requested() {
            return Some("asked to stop".into());
        }
        let reason = self.last_reason.as_ref()?;
        let most = self.planner.sweep.stop_after_failures;
        (most > 0 && self.equal_failures >= most).then(|| format!("{most} points in a row failed alike: {reason}"))
    }

    fn folder(&self, id: &str) -> PointFolder {
        PointFolder::of(self.planner.root, id)
    }

    /// Draw trials while there is room for them. Trial k goes by the results of trials up to k - jobs, whoever is faster.
    fn draw(&mut self, wanted: usize) -> Result<()> {
        let ahead = match self.planner.sweep.sampler {
            Sampler::Grid => return Ok(()),
            Sampler::Random => usize::MAX,
            Sampler::Tpe => self.options.jobs.max(1),
        };
        let mut drawn = Vec::new();
        for number in self.trials.len()..wanted {
            let known = (number + 1).saturating_sub(ahead);
            let Some(known) =
                self.trials.get(..known).filter(|known| known.iter().all(|t| t.points.iter().all(|id| self.ended.contains_key(id))))
            else {
                break;
            };
            let worth = |trial: &Trial| Some((trial.params.clone(), self.worth(trial)?));
            let history: Vec<_> = known.iter().filter_map(worth).collect();
            drawn.push(self.planner.draw(number, &history));
        }
        if drawn.is_empty() {
            return Ok(());
        }
        self.log.push(&drawn)?;
        self.admit(drawn)?;
        // A trial whose points are all known opens nothing, so that nothing will end: the next one is drawn all the same.
        self.changed = true;
        self.list_points()?;
        self.read_rung()
    }

    /// What a trial is worth, higher being better; failed and pruned ones have no worth.
    fn worth(&self, trial: &Trial) -> Option<f64> {
        plan::worth(trial, self.planner.sweep.direction, |id| self.figures.get(id))
    }

    /// Points whose config can't be used fail. Where that is all of them, the sweep is refused instead, before any point has a folder.
    fn fail_refused(&mut self, wanted: usize) -> Result<()> {
        let refused = std::mem::take(&mut self.refused);
        let all_known = self.trials.len() >= wanted;
        let points = self.order.iter().filter(|id| !self.points[*id].shared).count();
        if let Some((_, first)) = refused.first().filter(|_| all_known && refused.len() == points) {
            return Err(first.clone().into());
        }
        for (id, error) in refused {
            PointFolder::create(self.planner.root, &self.points[&id], None)?;
            if all_known {
                self.fail_beforehand(&id, error.to_string())?;
            } else {
                self.fail(&id, error.to_string())?;
            }
        }
        Ok(())
    }

    /// Points whose shared run failed can't begin.
    fn fail_orphans(&mut self) -> Result<()> {
        let lost = |id: &String| {
            let lost = self.points[id].needs.iter().find(|n| self.ended.get(*n).is_some_and(|f| f.state != State::Done))?;
            Some((id.clone(), self.points.get(lost).map_or(lost.clone(), |p| p.method.clone())))
        };
        let orphans: Vec<(String, String)> = self.open.iter().filter_map(lost).collect();
        for (id, lost) in orphans {
            PointFolder::create(self.planner.root, &self.points[&id], self.configs.get(&id).map(String::as_str))?;
            self.fail_beforehand(&id, format!("the shared run `{lost}` failed"))?;
        }
        Ok(())
    }

    /// Fail a point for what was known beforehand: that says nothing about the points to come, nor does it end a row of failures.
    fn fail_beforehand(&mut self, id: &str, reason: String) -> Result<()> {
        let before = (self.last_reason.clone(), self.equal_failures);
        self.fail(id, reason)?;
        (self.last_reason, self.equal_failures) = before;
        Ok(())
    }

    /// The figures of the points that have halted at the rung that is next to be decided.
    fn read_rung(&mut self) -> Result<()> {
        self.halted.clear();
        let Some(&rung) = self.rungs.first() else { return Ok(()) };
        for id in &self.order {
            if let Some(value) = self.folder(id).rung(rung)? {
                self.halted.insert(id.clone(), value);
            }
        }
        Ok(())
    }

    /// Where every trial has reached the rung or has ended, the best go on and the others are pruned.
    fn decide_rungs(&mut self) -> Result<()> {
        let Pruner::SuccessiveHalving { reduction_factor, .. } = self.planner.sweep.pruner else { return Ok(()) };
        while let Some(&rung) = self.rungs.first() {
            let waits = |id: &String| !self.halted.contains_key(id) && !self.ended.contains_key(id);
            if self.trials.iter().flat_map(|t| &t.points).any(waits) {
                return Ok(());
            }
            // A failed point takes its trial out of the comparison; one pruned at this very rung was in it.
            let failed = |id: &str| self.ended.get(id).is_some_and(|f| f.state == State::Failed);
            let figure = |id: &str| self.halted.get(id).filter(|_| !failed(id));
            let worth = |(number, trial): (usize, &Trial)| Some((number, plan::worth(trial, self.planner.sweep.direction, figure)?));
            let (reached, worths): (Vec<usize>, Vec<f64>) = self.trials.iter().enumerate().filter_map(worth).unzip();
            let stays = halving::survivors(&worths, reduction_factor);
            let among = format!("not among the best {} of {} at step {rung}", stays.iter().filter(|s| **s).count(), stays.len());
            for (number, _) in reached.iter().zip(&stays).filter(|(_, stays)| !**stays) {
                for id in self.trials[*number].points.clone() {
                    if !self.ended.contains_key(&id) {
                        self.end(&id, Final::now(State::Pruned, Some(among.clone())))?;
                    }
                }
            }
            self.rungs.remove(0);
            self.read_rung()?;
        }
        Ok(())
    }

    /// Start what can be started now.
    fn start(&mut self) -> Result<()> {
        let running: BTreeSet<&str> = self.launcher.running().into_iter().map(|t| t.id.as_str()).collect();
        let until = self.rungs.first().copied();
        let done = |id: &String| self.ended.get(id).is_some_and(|f| f.state == State::Done);
        let free = |id: &&String| {
            !running.contains(id.as_str())
                && !self.busy.contains(*id)
                && !self.halted.contains_key(*id)
                && self.points[*id].needs.iter().all(done)
        };
        let task = |id: &String| Task { id: id.clone(), until: until.filter(|_| !self.points[id].shared) };
        let ready: Vec<Task> = self.open.iter().filter(free).take(self.launcher.free()).map(task).collect();
        for Task { id, .. } in &ready {
            let config = self.configs.remove(id);
            let folder = PointFolder::create(self.planner.root, &self.points[id], config.as_deref())?;
            self.starts.insert(id.clone(), folder.attempt()?.starts);
        }
        self.launcher.start(&ready)
    }

    fn count(&self, state: State) -> usize {
        self.ended.values().filter(|f| f.state == state).count()
    }

    fn summary(&self, stopped: Option<String>) -> SweepSummary {
        let sweep = self.planner.sweep;
        let failure = |id: &String| {
            let state = self.ended.get(id).filter(|f| f.state == State::Failed)?;
            Some(Failure { id: id.clone(), label: self.points[id].label(), reason: state.reason.clone().unwrap_or_default() })
        };
        let worths = self.trials.iter().filter_map(|trial| Some((self.worth(trial)?, trial)));
        // Of equals the first.
        let best = worths.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let best = best.and_then(|(worth, trial)| {
            let trial = self.points.get(trial.points.first()?)?.row();
            Some(Best { trial, metric: sweep.metric.clone(), value: sweep.direction.upward(worth) })
        });
        SweepSummary {
            sweep: self.planner.root.to_owned(),
            points: self.order.len(),
            done: self.count(State::Done),
            failed: self.count(State::Failed),
            pruned: self.count(State::Pruned),
            left: self.open.len(),
            failures: self.order.iter().filter_map(failure).collect(),
            stopped,
            best,
            seconds: self.clock.seconds(),
        }
    }
}
