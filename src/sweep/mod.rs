//! Sweeps: many runs, each a point with an identity and one final state.
//!
//! ```text
//! SWEEP/  sweep.toml (as given)  trials.jsonl  points.txt (their ids)  points/ID/ (see [`point`])  cache/ (Focus's outcomes)
//!         slurm/ (arrays that were submitted)  table.{json,csv,md}
//! ```
//!
//! The sweep decides which points there are ([`plan`], [`tpe`], [`halving`]) and what is next ([`scheduler`]), and starts a worker process for
//! each point ([`launcher`], [`slurm`]).
//! A worker holds its point's lease, a lock that goes with the process, and leaves the point's only final state ([`worker`]). Everything that
//! decides what is next lies in files written whole, so that a sweep killed at any moment goes on without repeating or losing a point.

mod halving;
mod judge;
mod launcher;
mod plan;
mod point;
mod scheduler;
mod settings;
mod slurm;
mod space;
mod table;
mod tpe;
mod worker;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use panscreen_envs::io::write_atomic;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::run::Observer;
use crate::run::folder::lock;
use launcher::{Launcher, Local};
use plan::{Planned, Planner, TrialLog};
use scheduler::Scheduler;
use slurm::Slurm;

pub use point::{Final, Point, PointFolder, PointResult, State};
pub use settings::{Direction, Pruner, Sampler, SweepConfig};
pub use table::{Cell, Row, Table, table};
pub use worker::{Left, work};

/// How a sweep is carried out.
#[derive(Clone, Debug)]
pub struct Options {
    /// Points at the same time.
    pub jobs: usize,
    /// Threads of each worker on this machine; 0 leaves it to the config.
    pub threads: usize,
    pub slurm: bool,
    /// Delete the folders of failed points and run them again.
    pub retry_failed: bool,
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
    let log = TrialLog::open(root)?;
    let launcher = if options.slurm {
        Launcher::Slurm(Slurm::new(root, &sweep.name, &sweep.metric, &sweep.slurm, options.jobs)?)
    } else {
        Launcher::Local(Local::new(root, &sweep.metric, options.jobs, options.threads)?)
    };
    Scheduler::new(Planner::new(&sweep, root)?, options, &*observer, log, launcher).run()
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
        for Planned { point, config } in planner.points(0, trial)? {
            config?;
            ids.insert(point.id);
        }
    }
    Ok(ids.len())
}

/// `sweep.toml`, for the table and for whoever looks. A sweep that draws its trials must go on with the settings it began with.
fn keep_settings(sweep: &SweepConfig, root: &Path) -> Result<()> {
    let path = root.join("sweep.toml");
    let begun = root.join("points").exists();
    if !begun {
        // No point was ever begun: nothing depends on what was drawn.
        TrialLog::forget(root)?;
    }
    let text = toml::to_string(sweep).map_err(|e| Error::Usage(e.to_string()))?;
    let there = std::fs::read_to_string(&path).ok().and_then(|there| toml::from_str::<SweepConfig>(&there).ok());
    if let Some(there) = there.filter(|_| begun) {
        let drawn = |s: &SweepConfig| (s.sampler, s.params.clone(), s.seed, s.metric.clone(), s.direction);
        let grids = [&there, sweep].iter().all(|s| s.sampler == Sampler::Grid);
        if !grids && drawn(&there) != drawn(sweep) {
            let text = format!("{}: this sweep began with another sampler or other params; choose another --out", root.display());
            return Err(Error::Usage(text));
        }
    }
    Ok(write_atomic(&path, text.as_bytes())?)
}
