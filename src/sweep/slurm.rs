//! Points as tasks of Slurm job arrays.
//!
//! Each batch of tasks is one array; task i takes line i of the batch's list. The sweep stays behind as a small process that watches the queue,
//! as Hydra's Slurm launcher does. Killed and started again it finds the arrays that it submitted in `slurm/` and goes on watching them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use panscreen_envs::io::write_atomic;
use serde::{Deserialize, Serialize};

use super::launcher::{Exit, Task, program};
use super::point::read_json;
use super::settings::SlurmConfig;
use crate::error::{Error, Result};

pub struct Slurm {
    sweep: PathBuf,
    name: String,
    metric: String,
    config: SlurmConfig,
    /// Tasks of an array that run at the same time.
    jobs: usize,
    batches: usize,
    /// By array job and index.
    running: BTreeMap<(u64, usize), Task>,
}

/// `slurm/batch-N.json`: an array that was submitted.
#[derive(Serialize, Deserialize)]
struct Batch {
    job: u64,
    /// Point and rung of each task.
    tasks: Vec<(String, Option<u64>)>,
}

impl Slurm {
    pub fn new(sweep: &Path, name: &str, metric: &str, config: &SlurmConfig, jobs: usize) -> Result<Self> {
        let mut slurm = Slurm {
            sweep: std::path::absolute(sweep).map_err(|e| panscreen_envs::Error::io(sweep, e))?,
            name: name.to_owned(),
            metric: metric.to_owned(),
            config: config.clone(),
            jobs: jobs.max(1),
            batches: 0,
            running: BTreeMap::new(),
        };
        // Ask once at the start, so that a machine without Slurm says so before anything is made.
        let queued = queue()?;
        while let Some(batch) = read_json::<Batch>(&slurm.batch(slurm.batches + 1, "json"))? {
            slurm.batches += 1;
            for (index, (id, until)) in batch.tasks.into_iter().enumerate() {
                if queued.contains(&(batch.job, index)) {
                    slurm.running.insert((batch.job, index), Task { id, until });
                }
            }
        }
        Ok(slurm)
    }

    fn batch(&self, number: usize, ending: &str) -> PathBuf {
        self.sweep.join("slurm").join(format!("batch-{number}.{ending}"))
    }

    pub fn start(&mut self, tasks: &[Task]) -> Result<()> {
        if tasks.is_empty() {
            return Ok(());
        }
        let number = self.batches + 1;
        let folder = self.sweep.join("slurm");
        std::fs::create_dir_all(&folder).map_err(|e| panscreen_envs::Error::io(&folder, e))?;
        let list: String = tasks.iter().map(|t| format!("{} {}\n", t.id, t.until.map_or("-".into(), |s| s.to_string()))).collect();
        write_atomic(&self.batch(number, "txt"), list.as_bytes())?;
        let script = self.batch(number, "sh");
        write_atomic(&script, self.script(number, tasks.len())?.as_bytes())?;
        let said = call(Command::new("sbatch").arg("--parsable").args(&self.config.options).arg(&script))?;
        // `JOB` or `JOB;CLUSTER`.
        let job = said.trim().split(';').next().and_then(|job| job.parse().ok());
        let job = job.ok_or_else(|| Error::Usage(format!("sbatch answered {:?}, expected a job number", said.trim())))?;
        let batch = Batch { job, tasks: tasks.iter().map(|t| (t.id.clone(), t.until)).collect() };
        let text = serde_json::to_string_pretty(&batch).map_err(|e| Error::Usage(e.to_string()))?;
        write_atomic(&self.batch(number, "json"), text.as_bytes())?;
        self.batches = number;
        self.running.extend(tasks.iter().enumerate().map(|(index, task)| ((job, index), task.clone())));
        Ok(())
    }

    fn script(&self, number: usize, tasks: usize) -> Result<String> {
        let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let logs = self.sweep.join("slurm").join(format!("batch-{number}-%a.log"));
        let list = quoted(&self.batch(number, "txt"));
        Ok(format!(
            "#!/bin/bash\n\
             #SBATCH --job-name=panscreen-{name}\n\
             #SBATCH --array=0-{last}%{jobs}\n\
             #SBATCH --output={logs}\n\
             #SBATCH --signal=B:TERM@90\n\
             {setup}\
             cd {here} || exit 2\n\
             read -r point until < <(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {list})\n\
             [ \"$until\" = - ] && until= || until=\"--until $until\"\n\
             exec {program} sweep work {sweep} --point \"$point\" $until --metric '{metric}' --quiet\n",
            name = self.name,
            last = tasks - 1,
            jobs = self.jobs,
            logs = logs.display(),
            setup = self.config.setup.iter().map(|line| format!("{line}\n")).collect::<String>(),
            here = quoted(&std::env::current_dir().map_err(|e| Error::Usage(format!("no working directory: {e}")))?),
            program = quoted(&program()?),
            sweep = quoted(&self.sweep),
            metric = self.metric,
        ))
    }

    pub fn ended(&mut self) -> Result<Vec<(Task, Exit)>> {
        if self.running.is_empty() {
            return Ok(Vec::new());
        }
        // A controller that does not answer for a while is no reason to give up tasks that go on.
        let Ok(queued) = queue() else { return Ok(Vec::new()) };
        let gone: Vec<(u64, usize)> = self.running.keys().filter(|key| !queued.contains(key)).copied().collect();
        let exit = |(job, index): (u64, usize)| Exit::Died(format!("Slurm task {job}_{index} left the queue"));
        Ok(gone.into_iter().filter_map(|key| Some((self.running.remove(&key)?, exit(key)))).collect())
    }

    pub fn running(&self) -> Vec<&Task> {
        self.running.values().collect()
    }

    pub fn stop(&mut self) {
        for job in self.running.keys().map(|(job, _)| *job).collect::<BTreeSet<_>>() {
            // Those that wait are taken out, those that run get SIGTERM and time to save (KillWait).
            let _ = call(Command::new("scancel").arg(job.to_string()));
        }
    }
}

/// Array job and index of every task of this user that is queued, running or on its way out.
fn queue() -> Result<BTreeSet<(u64, usize)>> {
    let said = call(Command::new("squeue").args(["--noheader", "--array", "--me", "--format=%F %K"]))?;
    let task = |line: &str| {
        let (job, index) = line.trim().split_once(' ')?;
        Some((job.parse().ok()?, index.trim().parse().ok()?))
    };
    Ok(said.lines().filter_map(task).collect())
}

/// What a Slurm command prints.
fn call(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| {
        Error::Usage(format!("`{name}` can't be started ({e}); run this where Slurm's commands are, or leave out `--launcher slurm`"))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Usage(format!("`{name}` failed: {said}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
