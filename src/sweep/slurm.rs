//! Points as tasks of Slurm job arrays.
//!
//! Each batch of tasks is one array; task i takes line i of the batch's list. The sweep stays behind as a small process that watches the queue,
//! as Hydra's Slurm launcher does. Killed and started again it finds the arrays that it submitted in `slurm/` and goes on watching them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use panscreen_envs::io::write_atomic;
use serde::{Deserialize, Serialize};

use super::launcher::{Exit, Task, program};
use super::point::read_json;
use super::settings::SlurmConfig;
use crate::error::{Error, Result};

/// Time between two looks at the queue: a controller serves a whole cluster.
const LOOK_EVERY: Duration = Duration::from_secs(10);

pub struct Slurm {
    program: PathBuf,
    sweep: PathBuf,
    name: String,
    metric: String,
    config: SlurmConfig,
    /// Tasks that run at the same time.
    jobs: usize,
    batches: usize,
    /// By array job and index.
    running: BTreeMap<(u64, usize), Task>,
    looked: Instant,
}

/// `slurm/batch-N.json`: an array that was submitted.
#[derive(Serialize, Deserialize)]
struct Batch {
    job: u64,
    /// Point and rung of each task.
    tasks: Vec<(String, Option<u64>)>,
}

/// A task of an array that is queued, running or on its way out.
struct Queued {
    job: u64,
    index: usize,
    /// The array's name.
    name: String,
}

impl Slurm {
    pub fn new(sweep: &Path, name: &str, metric: &str, config: &SlurmConfig, jobs: usize) -> Result<Self> {
        let mut slurm = Slurm {
            program: program()?,
            sweep: std::path::absolute(sweep).map_err(|e| panscreen_envs::Error::io(sweep, e))?,
            name: name.to_owned(),
            metric: metric.to_owned(),
            config: config.clone(),
            jobs: jobs.max(1),
            batches: 0,
            running: BTreeMap::new(),
            looked: Instant::now(),
        };
        // Ask once at the start, so that a machine without Slurm says so before anything is made.
        let queued = queue()?;
        slurm.adopt(&queued)?;
        Ok(slurm)
    }

    /// Go on watching what was submitted before. An array whose number a kill has kept from being noted is known by its name.
    fn adopt(&mut self, queued: &[Queued]) -> Result<()> {
        while self.batch(self.batches + 1, "txt").exists() {
            self.batches += 1;
            let noted = self.batch(self.batches, "json");
            let name = self.job_name(self.batches);
            let batch = match read_json::<Batch>(&noted)? {
                Some(batch) => batch,
                None => {
                    let Some(there) = queued.iter().find(|q| q.name == name) else { continue };
                    let path = self.batch(self.batches, "txt");
                    let list = std::fs::read_to_string(&path).map_err(|e| panscreen_envs::Error::io(&path, e))?;
                    self.note(there.job, list.lines().filter_map(task_of).collect())?
                }
            };
            for (index, (id, until)) in batch.tasks.into_iter().enumerate() {
                if queued.iter().any(|q| (q.job, q.index) == (batch.job, index)) {
                    self.running.insert((batch.job, index), Task { id, until });
                }
            }
        }
        Ok(())
    }

    /// Write down that the newest batch is the array `job`.
    fn note(&self, job: u64, tasks: Vec<(String, Option<u64>)>) -> Result<Batch> {
        let batch = Batch { job, tasks };
        let text = serde_json::to_string_pretty(&batch).map_err(|e| Error::Usage(e.to_string()))?;
        write_atomic(&self.batch(self.batches, "json"), text.as_bytes())?;
        Ok(batch)
    }

    fn batch(&self, number: usize, ending: &str) -> PathBuf {
        self.sweep.join("slurm").join(format!("batch-{number}.{ending}"))
    }

    /// A name that no other array of this user has.
    fn job_name(&self, number: usize) -> String {
        let place = blake3::hash(self.sweep.as_os_str().as_encoded_bytes()).to_hex();
        format!("panscreen-{}-{}-{number}", self.name, &place[..6])
    }

    /// How many more tasks can be submitted. While an array runs, others fill up what is left of `jobs`, so that no more run at the same time.
    pub fn free(&self) -> usize {
        let free = if self.running.is_empty() { usize::MAX } else { self.jobs.saturating_sub(self.running.len()) };
        free.min(self.config.array_size)
    }

    pub fn start(&mut self, tasks: &[Task]) -> Result<()> {
        if tasks.is_empty() {
            return Ok(());
        }
        self.batches += 1;
        let folder = self.sweep.join("slurm");
        std::fs::create_dir_all(&folder).map_err(|e| panscreen_envs::Error::io(&folder, e))?;
        let list: String = tasks.iter().map(|t| format!("{} {}\n", t.id, t.until.map_or("-".into(), |s| s.to_string()))).collect();
        write_atomic(&self.batch(self.batches, "txt"), list.as_bytes())?;
        let script = self.batch(self.batches, "sh");
        write_atomic(&script, self.script(self.batches)?.as_bytes())?;
        let said = call(Command::new("sbatch").args(self.options(self.batches, tasks.len())).arg(&script))?;
        // `JOB` or `JOB;CLUSTER`.
        let job = said.trim().split(';').next().and_then(|job| job.parse().ok());
        let job = job.ok_or_else(|| Error::Usage(format!("sbatch answered {:?}, expected a job number", said.trim())))?;
        self.note(job, tasks.iter().map(|t| (t.id.clone(), t.until)).collect())?;
        self.running.extend(tasks.iter().enumerate().map(|(index, task)| ((job, index), task.clone())));
        Ok(())
    }

    /// What sbatch is told: the user's own words may change when a task is warned, but not what the sweep knows its arrays by.
    fn options(&self, number: usize, tasks: usize) -> Vec<String> {
        // `%` begins a pattern in a file's name.
        let logs = self.sweep.join("slurm").display().to_string().replace('%', "%%");
        let first = ["--parsable", "--signal=B:TERM@90"].map(str::to_owned).into_iter();
        let last = [
            format!("--job-name={}", self.job_name(number)),
            format!("--array=0-{}%{}", tasks - 1, self.jobs),
            format!("--output={logs}/batch-{number}-%a.log"),
        ];
        first.chain(self.config.options.iter().cloned()).chain(last).collect()
    }

    /// Each task works on the point in its line of the list, and says in the point's own log what it has to say.
    fn script(&self, number: usize) -> Result<String> {
        let here = std::env::current_dir().map_err(|e| Error::Usage(format!("no working directory: {e}")))?;
        Ok(format!(
            "#!/bin/bash\n\
             {setup}\
             cd {here} || exit 2\n\
             read -r point until < <(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {list})\n\
             [ \"$until\" = - ] && until= || until=\"--until $until\"\n\
             threads=${{SLURM_CPUS_PER_TASK:+--threads $SLURM_CPUS_PER_TASK}}\n\
             exec {program} sweep work {sweep} --point \"$point\" $until --metric {metric} $threads --quiet \\\n    \
             >>{sweep}/points/\"$point\"/log.txt 2>&1\n",
            setup = self.config.setup.iter().map(|line| format!("{line}\n")).collect::<String>(),
            here = quoted(&here.display().to_string()),
            list = quoted(&self.batch(number, "txt").display().to_string()),
            program = quoted(&self.program.display().to_string()),
            sweep = quoted(&self.sweep.display().to_string()),
            metric = quoted(&self.metric),
        ))
    }

    pub fn ended(&mut self) -> Result<Vec<(Task, Exit)>> {
        if self.running.is_empty() || self.looked.elapsed() < LOOK_EVERY {
            return Ok(Vec::new());
        }
        self.looked = Instant::now();
        // A controller that does not answer for a while is no reason to give up tasks that go on.
        let Ok(queued) = queue() else { return Ok(Vec::new()) };
        let there: BTreeSet<(u64, usize)> = queued.iter().map(|q| (q.job, q.index)).collect();
        let gone: Vec<(u64, usize)> = self.running.keys().filter(|key| !there.contains(key)).copied().collect();
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

/// A word of a shell script.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A line of a batch's list: `ID -`, or `ID STEP`.
fn task_of(line: &str) -> Option<(String, Option<u64>)> {
    let (id, until) = line.split_once(' ')?;
    Some((id.to_owned(), until.parse().ok()))
}

/// Every task of this user's arrays that is queued, running or on its way out.
fn queue() -> Result<Vec<Queued>> {
    let said = call(Command::new("squeue").args(["--noheader", "--array", "--me", "--format=%F %K %j"]))?;
    Ok(said.lines().filter_map(queued_of).collect())
}

fn queued_of(line: &str) -> Option<Queued> {
    let mut words = line.split_whitespace();
    let (job, index) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Queued { job, index, name: words.next().unwrap_or_default().to_owned() })
}

/// What a Slurm command prints.
fn call(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    // Ctrl-C on the terminal is for the sweep: a submission that is under way is not torn.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let output = command.stdin(std::process::Stdio::null()).output().map_err(|e| {
        Error::Usage(format!("`{name}` can't be started ({e}); run this where Slurm's commands are, or leave out `--launcher slurm`"))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Usage(format!("`{name}` failed: {said}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slurm(sweep: &Path, jobs: usize) -> Slurm {
        let config = SlurmConfig { options: vec!["--partition=gpu".into()], setup: vec!["module load gcc".into()], array_size: 100 };
        Slurm {
            program: "/opt/my tools/panscreen".into(),
            sweep: sweep.to_owned(),
            name: "s".into(),
            metric: "it's/worth".into(),
            config,
            jobs,
            batches: 0,
            running: BTreeMap::new(),
            looked: Instant::now(),
        }
    }

    fn task(id: &str) -> Task {
        Task { id: id.into(), until: None }
    }

    #[test]
    fn arrays_keep_to_the_sites_size_and_no_more_than_jobs_run_at_once() {
        let mut slurm = slurm(Path::new("/s"), 4);
        assert_eq!(slurm.free(), 100, "an array limits what runs of it by itself");
        for (running, free) in [(1, 3), (4, 0), (9, 0)] {
            slurm.running = (0..running).map(|index| ((7, index), task("a"))).collect();
            assert_eq!(slurm.free(), free, "{running} running");
        }
    }

    #[test]
    fn what_sbatch_gets_survives_spaces_quotes_and_percent_signs() {
        let slurm = slurm(Path::new("/a b/100%/it's"), 4);
        let options = slurm.options(3, 20);
        assert_eq!(options[..3], ["--parsable", "--signal=B:TERM@90", "--partition=gpu"]);
        assert_eq!(options[4..], ["--array=0-19%4", "--output=/a b/100%%/it's/slurm/batch-3-%a.log"]);
        let script = slurm.script(3).unwrap();
        for part in [
            "\nmodule load gcc\n",
            r"'/a b/100%/it'\''s/slurm/batch-3.txt'",
            "exec '/opt/my tools/panscreen' sweep work",
            r"--metric 'it'\''s/worth'",
        ] {
            assert!(script.contains(part), "{part} in {script}");
        }
    }

    /// The shell finds the task's line, and the worker gets its words.
    #[cfg(unix)]
    #[test]
    fn each_task_takes_its_line_of_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let mut slurm = slurm(dir.path(), 4);
        (slurm.program, slurm.config.setup) = ("echo".into(), vec![]);
        std::fs::create_dir_all(dir.path().join("slurm")).unwrap();
        std::fs::create_dir_all(dir.path().join("points/b2")).unwrap();
        std::fs::write(slurm.batch(1, "txt"), "a1 -\nb2 30\n").unwrap();
        std::fs::write(slurm.batch(1, "sh"), slurm.script(1).unwrap()).unwrap();
        let mut bash = Command::new("bash");
        bash.arg(slurm.batch(1, "sh")).env("SLURM_ARRAY_TASK_ID", "1").env("SLURM_CPUS_PER_TASK", "8");
        assert!(bash.status().unwrap().success());
        let said = std::fs::read_to_string(dir.path().join("points/b2/log.txt")).unwrap();
        let expected = format!("sweep work {} --point b2 --until 30 --metric it's/worth --threads 8 --quiet\n", dir.path().display());
        assert_eq!(said, expected);
    }

    /// Killed between sbatch and its note: the array is found by its name, and no later one gets its number.
    #[test]
    fn an_array_that_was_not_noted_is_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let mut slurm = slurm(dir.path(), 4);
        std::fs::create_dir_all(dir.path().join("slurm")).unwrap();
        std::fs::write(slurm.batch(1, "txt"), "a1 -\nb2 30\n").unwrap();
        std::fs::write(slurm.batch(2, "txt"), "c3 -\n").unwrap();
        let queued = [format!("41 1 {}", slurm.job_name(1)), "50 0 other".into(), "header".into()];
        let queued: Vec<Queued> = queued.iter().filter_map(|line| queued_of(line)).collect();
        slurm.adopt(&queued).unwrap();
        let expected = BTreeMap::from([((41, 1), Task { id: "b2".into(), until: Some(30) })]);
        assert_eq!((&slurm.running, slurm.batches), (&expected, 2));
        assert!(slurm.batch(1, "json").exists() && !slurm.batch(2, "json").exists());
    }
}
