//! Where workers run: as processes of this machine, or as tasks of Slurm job arrays.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::point::PointFolder;
use super::slurm::Slurm;
use crate::error::{Error, Result};
use crate::run::signals;

/// A piece of work: a point, and how far it is to go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    pub id: String,
    pub until: Option<u64>,
}

/// How a worker ended, as far as it can be seen from outside. What it left in the point's folder says more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By a signal, or nobody knows how.
    Died(String),
}

pub enum Launcher {
    Local(Local),
    Slurm(Slurm),
}

impl Launcher {
    /// How many more tasks can be started now.
    pub fn free(&self) -> usize {
        match self {
            Launcher::Local(local) => local.jobs.saturating_sub(local.running.len()),
            Launcher::Slurm(slurm) => slurm.free(),
        }
    }

    pub fn start(&mut self, tasks: &[Task]) -> Result<()> {
        match self {
            Launcher::Local(local) => tasks.iter().try_for_each(|task| local.start(task)),
            Launcher::Slurm(slurm) => slurm.start(tasks),
        }
    }

    /// Those that have ended since the last call.
    pub fn ended(&mut self) -> Result<Vec<(Task, Exit)>> {
        match self {
            Launcher::Local(local) => Ok(local.ended()),
            Launcher::Slurm(slurm) => slurm.ended(),
        }
    }

    pub fn running(&self) -> Vec<&Task> {
        match self {
            Launcher::Local(local) => local.running.iter().map(|(task, _)| task).collect(),
            Launcher::Slurm(slurm) => slurm.running(),
        }
    }

    /// Ask every worker to save and stop.
    pub fn stop(&mut self) {
        match self {
            Launcher::Local(local) => {
                local.running.iter_mut().for_each(|(_, child)| signals::ask_to_stop(child));
            }
            Launcher::Slurm(slurm) => slurm.stop(),
        }
    }
}

/// Processes of this machine.
pub struct Local {
    program: PathBuf,
    sweep: PathBuf,
    metric: String,
    jobs: usize,
    /// Threads of each; 0 leaves it to the point's config.
    threads: usize,
    running: Vec<(Task, Child)>,
}

impl Local {
    pub fn new(sweep: &Path, metric: &str, jobs: usize, threads: usize) -> Result<Self> {
        // The very program that runs, even where its file has been built anew meanwhile: all points come from one.
        let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { program()? };
        Ok(Local { program, sweep: sweep.to_owned(), metric: metric.to_owned(), jobs: jobs.max(1), threads, running: Vec::new() })
    }

    fn start(&mut self, task: &Task) -> Result<()> {
        let folder = PointFolder::of(&self.sweep, &task.id);
        let log = folder.log();
        let out = File::options().create(true).append(true).open(&log).map_err(|e| panscreen_envs::Error::io(&log, e))?;
        let err = out.try_clone().map_err(|e| panscreen_envs::Error::io(&log, e))?;
        let mut command = Command::new(&self.program);
        command.args(["sweep", "work"]).arg(&self.sweep).args(["--point", &task.id, "--metric", &self.metric, "--quiet"]);
        if let Some(step) = task.until {
            command.args(["--until", &step.to_string()]);
        }
        if self.threads > 0 {
            command.args(["--threads", &self.threads.to_string()]);
        }
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt;
            // Ctrl-C on the terminal reaches the sweep alone, which asks its workers once: asked twice, they would not save.
            command.arg0("panscreen").process_group(0);
        }
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.map_err(|e| Error::Usage(format!("no worker can be started: {e}")))?;
        self.running.push((task.clone(), child));
        Ok(())
    }

    fn ended(&mut self) -> Vec<(Task, Exit)> {
        let mut ended = Vec::new();
        self.running.retain_mut(|(task, child)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                ended.push((task.clone(), exit(status)));
                false
            }
            Err(e) => {
                ended.push((task.clone(), Exit::Died(e.to_string())));
                false
            }
        });
        ended
    }
}

fn exit(status: ExitStatus) -> Exit {
    match status.code() {
        // What a shell says of a signal, and what this program says of the second one that it gets.
        Some(code @ 129..=192) => Exit::Died(format!("signal {}", code - 128)),
        Some(code) => Exit::Code(code),
        None => Exit::Died(status.to_string()),
    }
}

/// This program, to be run again.
pub fn program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| Error::Usage(format!("the system does not say where this program is: {e}")))
}

#[cfg(unix)]
#[test]
fn a_signal_is_a_death_and_no_failure() {
    let of = |script: &str| exit(Command::new("sh").args(["-c", script]).status().unwrap());
    assert_eq!(of("exit 3"), Exit::Code(3));
    assert_eq!(of("exit 143"), Exit::Died("signal 15".into()));
    assert!(matches!(of("kill -KILL $$"), Exit::Died(how) if how.contains('9')));
}
