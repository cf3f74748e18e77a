//! FLARE's harness on one's own machine: the container's entry is run case by case as the organisers run it, and what it leaves is checked.

mod launch;
mod output;

use std::path::{Path, PathBuf};

use panscreen_envs::io;
use panscreen_envs::metrics::protocols::flare24::MemoryUse;
use serde::{Deserialize, Serialize};

pub use launch::Isolation;

use crate::error::{Error, Result};
use crate::evaluate::efficiency::{Efficiency, Launch};
use crate::run::Observer;

/// What a launch may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    pub seconds: f64,
    pub memory_gib: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { seconds: 60.0, memory_gib: 28.0 }
    }
}

/// One rule of the contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    pub rule: String,
    /// `null`: it can't be checked on this machine.
    pub passed: Option<bool>,
    pub found: String,
}

/// One launch with its rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckedLaunch {
    #[serde(flatten)]
    pub launch: Launch,
    pub rules: Vec<Checked>,
    /// The end of what the entry said, where it failed.
    pub said: Option<String>,
}

/// What `panscreen submit check` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub entry: PathBuf,
    pub limits: Limits,
    pub isolation: Isolation,
    pub launches: Vec<CheckedLaunch>,
    pub efficiency: Option<Efficiency>,
    /// Every rule that can be checked was kept.
    pub passed: bool,
}

/// What is launched.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `predict.sh`.
    pub script: PathBuf,
    /// Run folder that stands for the image's model.
    pub model: PathBuf,
    /// The program that stands for the image's.
    pub program: PathBuf,
}

/// Launch the entry once for each scan, in a folder and an environment of its own, without a network where the system lets us.
pub fn check(entry: &Entry, scans: &[PathBuf], limits: Limits, observer: &dyn Observer) -> Result<Report> {
    let absolute = |path: &Path| path.canonicalize().map_err(|e| panscreen_envs::Error::io(path, e));
    let entry = Entry { script: absolute(&entry.script)?, model: absolute(&entry.model)?, program: absolute(&entry.program)? };
    if let Some(scan) = scans.iter().find(|s| !s.to_string_lossy().ends_with(".nii.gz")) {
        return Err(Error::Usage(format!("{}: the harness gives .nii.gz files; convert it first", scan.display())));
    }
    let isolation = Isolation::possible();
    observer.phase("launch", Some(scans.len() as u64));
    let mut launches = Vec::with_capacity(scans.len());
    for scan in scans {
        launches.push(check_one(&entry, scan, limits, isolation)?);
        observer.advance(1, &[]);
    }
    observer.finish();
    let measured: Vec<Launch> = launches.iter().map(|l| l.launch.clone()).collect();
    let passed = launches.iter().flat_map(|l| &l.rules).all(|r| r.passed != Some(false));
    Ok(Report { entry: entry.script, limits, isolation, efficiency: Efficiency::of(&measured), launches, passed })
}

fn check_one(entry: &Entry, scan: &Path, limits: Limits, isolation: Isolation) -> Result<CheckedLaunch> {
    let case = io::case_name(scan);
    let temporary = |e| panscreen_envs::Error::io(&std::env::temp_dir(), e);
    let place = tempfile::tempdir().map_err(temporary)?;
    let [inputs, outputs, home] = ["inputs", "outputs", "home"].map(|name| place.path().join(name));
    for folder in [&inputs, &outputs, &home] {
        std::fs::create_dir(folder).map_err(temporary)?;
    }
    std::fs::copy(scan, inputs.join(format!("{case}_0000.nii.gz"))).map_err(|e| panscreen_envs::Error::io(scan, e))?;
    let ran = launch::launch(entry, &inputs, &outputs, &home, limits, isolation)?;
    let memory = MemoryUse::of(&ran.memory_mb, launch::SAMPLE_SECONDS);
    let mut rules = Vec::new();
    let mut rule = |rule: &str, passed: Option<bool>, found: String| rules.push(Checked { rule: rule.to_owned(), passed, found });
    rule("ends with 0", Some(ran.code == Some(0)), ran.code.map_or("ended by a signal".into(), |c| format!("exit code {c}")));
    rule(
        &format!("at most {} s", limits.seconds),
        Some(ran.seconds <= limits.seconds),
        format!("{:.1} s with the model load", ran.seconds),
    );
    let peak = memory.map(|m| m.peak_mb / 1024.0);
    let found =
        peak.map_or("the system does not tell".to_owned(), |p| format!("{p:.2} GiB at most, sampled every {} s", launch::SAMPLE_SECONDS));
    rule(&format!("at most {} GiB", limits.memory_gib), peak.map(|p| p <= limits.memory_gib), found);
    let alone = isolation == Isolation::Network;
    // Without a network a case can only succeed on its own.
    let found = if alone { "ran in a network namespace of its own" } else { "not checked: `unshare` is not permitted here" };
    rule("needs no network", alone.then_some(ran.code == Some(0)), found.into());
    rules.extend(output::check(&outputs, &case, scan));
    let said = (ran.code != Some(0)).then_some(ran.said);
    Ok(CheckedLaunch { launch: Launch { case, seconds: ran.seconds, memory }, rules, said })
}
