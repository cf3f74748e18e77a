//! What a worker does: take a point, do it, leave its final state. One process a point.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::judge;
use super::point::{Attempt, Final, Point, PointFolder, PointResult, State, read_json};
use crate::backend::on_device;
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::run::folder::lock;
use crate::run::{Observer, metrics, signals, usage};
use crate::train::train;

/// How a worker left its point.
#[derive(Clone, Debug, PartialEq)]
pub enum Left {
    Ended(Final),
    /// At the rung that it was sent to.
    Halted,
    /// Asked to stop; the point is given back.
    Stopped,
}

/// Work on the point in `folder`. With `until`, halt after so many training steps, where the figure `metric` is noted.
///
/// The lease is a lock that goes with this process, however that ends. An error means that nothing was done: somebody else has the lease, or
/// the folder is no point.
pub fn work(folder: &PointFolder, until: Option<u64>, metric: &str, observer: &Arc<dyn Observer>) -> Result<Left> {
    let action = "give a folder that `panscreen sweep` made";
    let nothing = || panscreen_envs::Error::file(&folder.0, "no point.json", "a point of a sweep", action);
    let point = folder.point()?.ok_or_else(nothing)?;
    let lease = lock(&folder.0)?;
    if let Some(state) = folder.state()? {
        return Ok(Left::Ended(state));
    }
    let before = folder.attempt()?;
    let mut attempt = Attempt {
        starts: before.starts + 1,
        process: std::process::id(),
        started: usage::utc_now(),
        stopped: false,
        deaths: before.deaths,
    };
    folder.write("attempt.json", &attempt)?;
    match carry_out(folder, &point, lease.as_ref(), until, metric, observer) {
        Ok(Some(result)) => {
            folder.write("result.json", &result)?;
            folder.finish(Final::now(State::Done, None)).map(Left::Ended)
        }
        Ok(None) => Ok(Left::Halted),
        Err(Error::Stopped { .. }) => {
            attempt.stopped = true;
            folder.write("attempt.json", &attempt)?;
            Ok(Left::Stopped)
        }
        Err(e) => folder.finish(Final::failed(&e.to_string())).map(Left::Ended),
    }
}

/// The result, or `None` where the point halted at `until`.
fn carry_out(
    folder: &PointFolder,
    point: &Point,
    lease: Option<&File>,
    until: Option<u64>,
    metric: &str,
    observer: &Arc<dyn Observer>,
) -> Result<Option<PointResult>> {
    if !point.command.is_empty() {
        return run_command(folder, point, lease).map(Some);
    }
    let config = config::load(&folder.0.join("config.toml"), &[])?;
    let run = folder.run();
    if let Some(step) = until.filter(|step| *step < config.train.steps as u64) {
        return halt_at(&config, folder, step, metric, observer).map(|()| None);
    }
    train(&config, &run, observer.clone(), Some(&focus_cache(folder)))?;
    result_of(folder, point, &config, observer).map(Some)
}

/// Train to the rung `step`, and note the figure there.
fn halt_at(config: &Config, folder: &PointFolder, step: u64, metric: &str, observer: &Arc<dyn Observer>) -> Result<()> {
    let run = folder.run();
    if value_at(&run, step, metric)?.is_none() {
        let halting = Arc::new(Halting { inner: observer.clone(), until: step, done: AtomicU64::new(0) });
        match train(config, &run, halting, None) {
            Err(Error::Stopped { step: reached }) if reached < step => return Err(Error::Stopped { step: reached }),
            Err(Error::Stopped { .. }) | Ok(_) => {}
            Err(e) => return Err(e),
        }
    }
    let value = value_at(&run, step, metric)?
        .ok_or_else(|| Error::Usage(format!("step {step} has no `{metric}`; make `min_resource` a multiple of `train.validate_every`")))?;
    folder.write(&format!("rung-{step}.json"), &value)
}

/// The validation figures of the best checkpoint, and those of the test scans where they are asked for.
fn result_of(folder: &PointFolder, point: &Point, config: &Config, observer: &Arc<dyn Observer>) -> Result<PointResult> {
    let run = folder.run();
    let best = crate::run::CheckpointStore::read_only(&run.join("checkpoints")).best()?.map(|(best, _)| best.step);
    let records = metrics::read(&run.join("metrics.jsonl"))?;
    let mut result = PointResult::default();
    if let Some(record) = records.iter().find(|r| Some(r.step) == best) {
        let clock = metrics::CLOCK_PREFIX;
        result.metrics.extend(record.fields.iter().filter(|(name, _)| !name.starts_with(clock)).cloned());
    }
    if let (Some(judge), false) = (&point.judge, point.shared) {
        let cache = focus_cache(folder);
        let judged = on_device(config.device, judge::Judging { run: &run, judge, cache: &cache, observer: &**observer })?;
        result.metrics.extend(judged.metrics);
        return Ok(PointResult { metrics: result.metrics, ..judged });
    }
    Ok(result)
}

/// Where the points of a sweep keep what their Focus sees.
fn focus_cache(folder: &PointFolder) -> PathBuf {
    folder.0.parent().and_then(Path::parent).unwrap_or(Path::new(".")).join("cache")
}

/// The figure that the run logged at `step`.
fn value_at(run: &Path, step: u64, metric: &str) -> Result<Option<f64>> {
    let records = metrics::read(&run.join("metrics.jsonl"))?;
    let record = records.iter().find(|r| r.step == step);
    Ok(record.and_then(|r| r.fields.iter().find(|(name, _)| name == metric)).map(|(_, value)| *value))
}

/// Passes everything on, and asks the training to stop after `until` steps.
struct Halting {
    inner: Arc<dyn Observer>,
    until: u64,
    done: AtomicU64,
}

impl Observer for Halting {
    fn phase(&self, name: &str, total: Option<u64>) {
        self.done.store(if name == "train" { 0 } else { u64::MAX / 2 }, Ordering::Relaxed);
        self.inner.phase(name, total);
    }

    fn advance(&self, n: u64, fields: &[(&str, f64)]) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        if (self.until..u64::MAX / 2).contains(&done) {
            signals::request_stop();
        }
        self.inner.advance(n, fields);
    }

    fn health(&self, short: &str) {
        self.inner.health(short);
    }

    fn message(&self, text: &str) {
        self.inner.message(text);
    }

    fn warn(&self, text: &str) {
        self.inner.warn(text);
    }

    fn finish(&self) {
        self.inner.finish();
    }
}

/// Let the program die with its worker, and whatever it has started hold the worker's lease until that is gone too: the point is given back
/// then, and must not be worked on twice.
fn end_with_parent(command: &mut Command, lease: Option<&File>) {
    #[cfg(unix)]
    {
        use std::os::fd::{AsRawFd, BorrowedFd};
        let lease = lease.map(|file| file.as_raw_fd());
        let prepare = move || -> std::io::Result<()> {
            if let Some(lease) = lease {
                // SAFETY: the file is open in the parent, so its copy is open here.
                let lease = unsafe { BorrowedFd::borrow_raw(lease) };
                rustix::io::fcntl_setfd(lease, rustix::io::FdFlags::empty())?;
            }
            #[cfg(target_os = "linux")]
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes two system calls, and allocates nothing.
        unsafe { std::os::unix::process::CommandExt::pre_exec(command, prepare) };
    }
    #[cfg(not(unix))]
    let _ = (command, lease);
}

/// Run the point's own program to its end.
fn run_command(folder: &PointFolder, point: &Point, lease: Option<&File>) -> Result<PointResult> {
    folder.forget_result()?;
    let fill = |word: &String| {
        let text = |path: &Path| path.display().to_string();
        word.replace("{config}", &text(&folder.0.join("config.toml")))
            .replace("{out}", &text(&folder.0))
            .replace("{seed}", &point.seed.to_string())
    };
    let words: Vec<String> = point.command.iter().map(fill).collect();
    let (program, args) = words.split_first().ok_or_else(|| Error::Usage("`command` is empty".into()))?;
    let mut command = Command::new(program);
    command.args(args);
    end_with_parent(&mut command, lease);
    let mut child = command.spawn().map_err(|e| Error::Usage(format!("`{program}` can't be started: {e}")))?;
    let mut asked = false;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| Error::Usage(format!("`{program}`: {e}")))? {
            break status;
        }
        if signals::stop_requested() && !asked {
            asked = true;
            signals::ask_to_stop(&mut child);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    if asked {
        return Err(Error::Stopped { step: 0 });
    }
    if !status.success() {
        let said = folder.last_words().map_or(String::new(), |words| format!(": {words}"));
        return Err(Error::Usage(format!("`{program}` ended with {status}{said}")));
    }
    let result: Option<PointResult> = read_json(&folder.0.join("result.json"))?;
    result.ok_or_else(|| Error::Usage(format!("`{program}` left no result.json; it writes {{\"metrics\": {{NAME: NUMBER}}}} into {{out}}")))
}
