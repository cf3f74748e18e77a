//! What became of what was started.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::Sampler;
use super::super::launcher::{Exit, Task};
use super::super::point::{Attempt, Final, State};
use super::Scheduler;
use crate::cli::error::STOPPED;
use crate::error::Result;
use crate::run::folder::lock;

impl Scheduler<'_> {
    /// What became of a task whose worker is gone.
    pub(super) fn after(&mut self, task: &Task, exit: &Exit) -> Result<()> {
        self.changed = true;
        // An array that was submitted when the sweep had other points, or one of a point that is known to have ended.
        if !self.points.contains_key(&task.id) || self.take_in(&task.id, task.until)? {
            return Ok(());
        }
        let folder = self.folder(&task.id);
        let mut attempt = folder.attempt()?;
        let worked = self.starts.get(&task.id).is_none_or(|before| attempt.starts > *before);
        let given_back = self.stopping || *exit == Exit::Code(STOPPED.into()) || (attempt.stopped && worked);
        let Some(_lease) = lease(&folder.0)? else {
            // A worker of an earlier sweep that was killed still has it; or what this one started and left behind.
            self.busy.insert(task.id.clone());
            if !worked || given_back {
                return Ok(());
            }
            return self.count_death(task, exit, &mut attempt);
        };
        // Nobody can end it any more; somebody may have, a moment ago.
        if given_back || self.take_in(&task.id, task.until)? {
            return Ok(());
        }
        self.count_death(task, exit, &mut attempt)
    }

    /// A worker is gone and left nothing: the point is given back, or fails.
    fn count_death(&mut self, task: &Task, exit: &Exit, attempt: &mut Attempt) -> Result<()> {
        let folder = self.folder(&task.id);
        let said = folder.last_words().map_or(String::new(), |words| format!(": {words}"));
        let how = match exit {
            Exit::Code(code) => return self.fail(&task.id, format!("its worker ended with code {code}{said}")),
            Exit::Died(how) => how,
        };
        attempt.deaths += 1;
        folder.write("attempt.json", attempt)?;
        if attempt.deaths >= self.planner.sweep.max_deaths.max(1) {
            return self.fail(&task.id, format!("its worker died {} times, last by {how}{said}", attempt.deaths));
        }
        let label = self.points[&task.id].label();
        self.observer.warn(&format!("{label}: its worker died ({how}); the point is given back"));
        Ok(())
    }

    /// Take in what lies in the point's folder: a final state, or the figure of the rung `until`. False where there is neither.
    fn take_in(&mut self, id: &str, until: Option<u64>) -> Result<bool> {
        if self.ended.contains_key(id) {
            return Ok(true);
        }
        let folder = self.folder(id);
        if let Some(state) = folder.state()? {
            self.note(id, state)?;
            return Ok(true);
        }
        let Some(value) = until.map(|step| folder.rung(step)).transpose()?.flatten() else { return Ok(false) };
        if self.rungs.first().copied() == until {
            self.halted.insert(id.to_owned(), value);
        }
        Ok(true)
    }

    /// Points whose lease was somebody else's are looked at now and then.
    pub(super) fn look_at_busy(&mut self) -> Result<()> {
        let pause = Duration::from_millis(if self.options.slurm { 10_000 } else { 500 });
        if self.busy.is_empty() || self.looked.elapsed() < pause {
            return Ok(());
        }
        self.looked = Instant::now();
        let until = self.rungs.first().copied();
        for id in self.busy.clone() {
            if self.take_in(&id, until)? || lease(&self.folder(&id).0)?.is_some() {
                self.busy.remove(&id);
                self.changed = true;
            }
        }
        Ok(())
    }

    pub(super) fn fail(&mut self, id: &str, reason: String) -> Result<()> {
        self.end(id, Final::failed(&reason))
    }

    pub(super) fn end(&mut self, id: &str, state: Final) -> Result<()> {
        let state = self.folder(id).finish(state)?;
        self.note(id, state)
    }

    fn note(&mut self, id: &str, state: Final) -> Result<()> {
        self.changed = true;
        let label = self.points[id].label();
        match state.state {
            State::Failed => {
                let reason = state.reason.clone().unwrap_or_default();
                self.observer.warn(&format!("{label} failed: {reason}"));
                // Its place and its numbers make no other cause.
                let reason = reason.replace(id, "ID");
                let alike = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
                let equal = self.last_reason.as_ref().is_some_and(|last| alike(last) == alike(&reason));
                self.equal_failures = if equal { self.equal_failures + 1 } else { 1 };
                self.last_reason = Some(reason);
            }
            State::Done => (self.last_reason, self.equal_failures) = (None, 0),
            State::Pruned => {}
        }
        self.take_figure(id, &state)?;
        self.ended.insert(id.to_owned(), state);
        self.open.retain(|open| open != id);
        let count = |state| self.count(state) as f64;
        let fields = [("done", count(State::Done)), ("failed", count(State::Failed)), ("pruned", count(State::Pruned))];
        self.observer.advance(1, &fields);
        Ok(())
    }

    /// The figure that the sweep goes by, of a point that is done.
    pub(super) fn take_figure(&mut self, id: &str, state: &Final) -> Result<()> {
        if state.state != State::Done || self.points[id].shared {
            return Ok(());
        }
        let metrics = self.folder(id).result()?.unwrap_or_default().metrics;
        let metric = &self.planner.sweep.metric;
        match metrics.get(metric) {
            Some(value) => _ = self.figures.insert(id.to_owned(), *value),
            None if self.planner.sweep.sampler == Sampler::Tpe && !self.warned => {
                self.warned = true;
                let (label, has) = (self.points[id].label(), metrics.into_keys().collect::<Vec<_>>().join(", "));
                self.observer.warn(&format!("{label} has no `{metric}`, by which trials are drawn; it has {has}"));
            }
            None => {}
        }
        Ok(())
    }
}

/// The lease of a point, or `None` where somebody else holds it. Within: no file where the file system has no locks.
pub(super) fn lease(folder: &Path) -> Result<Option<Option<File>>> {
    match lock(folder) {
        Ok(lease) => Ok(Some(lease)),
        Err(crate::run::Error::Locked { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
