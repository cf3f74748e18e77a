//! Which points there are.

use panscreen_envs::io::write_atomic;
use rayon::prelude::*;

use super::super::plan::{Planned, Trial};
use super::super::point::{PointFolder, State};
use super::super::{Pruner, Sampler, halving, table};
use super::Scheduler;
use super::outcome::lease;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::setup;

impl Scheduler<'_> {
    /// Take in trials. Their configs are loaded side by side: there may be ten thousand.
    pub(super) fn admit(&mut self, trials: Vec<Trial>) -> Result<()> {
        let (planner, first) = (&self.planner, self.trials.len());
        let plan = |(i, trial): (usize, &Trial)| planner.points(first + i, trial);
        let planned: Vec<Vec<Planned>> = trials.par_iter().enumerate().map(plan).collect::<Result<_>>()?;
        trials.into_iter().zip(planned).try_for_each(|(trial, points)| self.add(trial, points))
    }

    /// Delete what points left that failed before and are to run again, once the sweep is known to be acceptable. A point whose lease is still
    /// held (a program of its worker lives on) stays as it is: its worker finds the final state.
    pub(super) fn delete_failed(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.retried) {
            let folder = self.folder(&id);
            if lease(&folder.0)?.is_some() {
                folder.delete()?;
            }
        }
        Ok(())
    }

    /// Points that have ended before are known; of the others nothing is made before they start.
    fn add(&mut self, mut trial: Trial, points: Vec<Planned>) -> Result<()> {
        for Planned { point, config } in points {
            let id = point.id.clone();
            if !point.shared {
                trial.points.push(id.clone());
                if let Some(other) = self.points.get(&id)
                    && self.planner.sweep.sampler == Sampler::Grid
                {
                    return Err(Error::Usage(format!("`{}` and `{}` are the same run; take one out", other.label(), point.label())));
                }
            }
            // A sampler may draw the same values again: they are run once.
            if self.points.contains_key(&id) {
                continue;
            }
            let folder = self.folder(&id);
            let mut state = folder.state()?;
            if self.options.retry_failed && state.as_ref().is_some_and(|s| s.state == State::Failed) {
                state = None;
                self.retried.push(id.clone());
            }
            self.points.insert(id.clone(), point);
            self.order.push(id.clone());
            match (state, config) {
                (Some(state), _) => {
                    PointFolder::create(self.planner.root, &self.points[&id], None)?;
                    self.take_figure(&id, &state)?;
                    self.ended.insert(id, state);
                }
                (None, Ok(config)) => {
                    self.make_cohort(&config)?;
                    self.set_rungs(&id, &config)?;
                    self.configs.insert(id.clone(), config.to_toml());
                    self.open.push(id);
                }
                (None, Err(refused)) => {
                    self.refused.push((id.clone(), refused));
                    self.open.push(id);
                }
            }
        }
        self.trials.push(trial);
        Ok(())
    }

    /// Rungs are the same for all: trials are compared after the same steps.
    fn set_rungs(&mut self, id: &str, config: &Config) -> Result<()> {
        let Pruner::SuccessiveHalving { min_resource, reduction_factor } = self.planner.sweep.pruner else { return Ok(()) };
        if self.points[id].shared {
            return Ok(());
        }
        if config.stages != ["gf_screen"] {
            return Err(Error::Usage(
                "successive halving goes by the steps of the stage `gf_screen`; let it be the only one of `stages`".into(),
            ));
        }
        let rungs = halving::rungs(min_resource, reduction_factor, config.train.steps as u64);
        if !self.rungs.is_empty() && self.rungs != rungs {
            let label = self.points[id].label();
            return Err(Error::Usage(format!("successive halving needs the same `train.steps` in all points; `{label}` has other ones")));
        }
        self.rungs = rungs;
        Ok(())
    }

    /// A phantom cohort is made here, once, before several workers want it.
    fn make_cohort(&mut self, config: &Config) -> Result<()> {
        let Some(root) = config.data.root.clone().filter(|_| config.data.phantom.is_some() && self.planner.sweep.command.is_empty()) else {
            return Ok(());
        };
        if self.cohorts.insert(root) {
            setup::root(config, self.observer)?;
        }
        Ok(())
    }

    /// A baseline that no row will ever have is a slip of the pen.
    pub(super) fn check_baseline(&self) -> Result<()> {
        let Some(baseline) = self.planner.sweep.baseline.as_ref().filter(|_| self.planner.sweep.sampler == Sampler::Grid) else {
            return Ok(());
        };
        let rows: Vec<String> = self.trials.iter().filter_map(|t| Some(self.points.get(t.points.first()?)?.row())).collect();
        if rows.contains(baseline) {
            return Ok(());
        }
        let some: Vec<&str> = rows.iter().take(5).map(String::as_str).collect();
        Err(Error::Usage(format!("`baseline` is {baseline:?}, expected the name of a row, such as {}", some.join(", "))))
    }

    /// `points.txt`: which points the sweep has now. Those of an earlier version of its file keep their folders, but are no rows of the table.
    pub(super) fn list_points(&self) -> Result<()> {
        let text: String = self.order.iter().map(|id| format!("{id}\n")).collect();
        Ok(write_atomic(&self.planner.root.join(table::POINTS), text.as_bytes())?)
    }
}
