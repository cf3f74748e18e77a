//! The folder of one run: who may write it, with which settings, and what it was made from.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use panscreen_envs::io::write_atomic;
use serde::{Deserialize, Serialize};

use super::usage::utc_now;
use super::{CheckpointStore, Error, Result};

/// The version of Burn this binary is built on (pinned in `Cargo.toml`; a test compares).
pub const BURN_VERSION: &str = "0.21.0";

/// A run folder that this process alone may write. The lock goes with the value, and with the process, however that ends.
pub struct RunFolder {
    root: PathBuf,
    resumed: bool,
    /// What the run was made with; [`RunFolder::save_manifest`] writes it.
    pub manifest: Manifest,
    /// `None` where the file system has no locks (some network mounts).
    _lock: Option<File>,
}

/// What to do with a folder that holds a run with other settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDifference {
    /// Say which keys differ and stop.
    Refuse,
    /// Continue the run with the new settings and store them.
    Replace,
}

/// `manifest.json`: what a run was made with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    pub panscreen: String,
    pub burn: String,
    pub rustc: String,
    /// `cpu` or the GPU's name, and the threads of the CPU pool.
    pub device: String,
    pub threads: usize,
    pub seed: u64,
    /// BLAKE3 of every input file's content, by path as given.
    pub inputs: BTreeMap<String, String>,
    /// One entry each time the run was started or continued.
    pub sessions: Vec<Session>,
    /// Seconds spent in each phase, over all sessions.
    pub timings_s: BTreeMap<String, f64>,
}

/// One process that worked on the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// UTC, ISO 8601.
    pub started: String,
    /// `None` while it runs, and for ever if it was killed.
    pub ended: Option<String>,
    /// The step it continued from; 0 for a fresh start.
    pub from_step: u64,
    /// `done`, `stopped`, or the error in one sentence.
    pub outcome: Option<String>,
}

impl RunFolder {
    /// Take `path` for this process: make the folder with `effective_config` (TOML) as its `config.toml`, or open the run that is there.
    ///
    /// Errors: another living process writes the run; the folder holds a run with other settings and `on_difference` is `Refuse`; the folder has
    /// files but no `config.toml`, so it is not a run; the system refuses.
    pub fn create_or_open(path: &Path, effective_config: &str, on_difference: OnDifference) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| Error::io(path, e))?;
        let config = path.join("config.toml");
        let stored = read_if_there(&config)?;
        if stored.is_none() && holds_foreign_files(path)? {
            return Err(Error::file(path, "files but no config.toml", "an empty folder or a run", "choose another run name"));
        }
        let lock = lock(path)?;
        // Again under the lock: another process may have made the run meanwhile.
        let stored = read_if_there(&config)?;
        if let Some(stored) = &stored
            && on_difference == OnDifference::Refuse
        {
            let differences = config_differences(&config, stored, effective_config)?;
            if !differences.is_empty() {
                return Err(Error::ConfigDiffers { path: path.to_owned(), differences });
            }
        }
        remove_leftovers(path)?;
        let resumed = stored.is_some();
        if stored.as_deref() != Some(effective_config) {
            write_atomic(&config, effective_config.as_bytes())?;
        }
        let mut manifest = if resumed { Manifest::read(path)?.unwrap_or_default() } else { Manifest::default() };
        manifest.panscreen = env!("CARGO_PKG_VERSION").into();
        manifest.burn = BURN_VERSION.into();
        manifest.rustc = env!("PANSCREEN_RUSTC").into();
        manifest.sessions.push(Session { started: utc_now(), ..Session::default() });
        let folder = RunFolder { root: path.to_owned(), resumed, manifest, _lock: lock };
        folder.save_manifest()?;
        Ok(folder)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Was there a run before this process came?
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    pub fn metrics_path(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    pub fn tensorboard_dir(&self) -> PathBuf {
        self.root.join("tensorboard")
    }

    pub fn report_dir(&self) -> PathBuf {
        self.root.join("report")
    }

    /// The run's checkpoints, for writing: the last `keep` and the best stay.
    pub fn checkpoints(&self, keep: usize) -> Result<CheckpointStore> {
        CheckpointStore::create(&self.root.join("checkpoints"), keep)
    }

    pub fn save_manifest(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.manifest).expect("a manifest is plain data");
        Ok(write_atomic(&self.root.join("manifest.json"), (text + "\n").as_bytes())?)
    }

    /// The step this process continues from, for the manifest.
    pub fn continue_from(&mut self, step: u64) -> Result<()> {
        self.session().from_step = step;
        self.save_manifest()
    }

    /// Note how this process ended: `done`, `stopped`, or an error in one sentence.
    pub fn end(&mut self, outcome: &str) -> Result<()> {
        let session = self.session();
        session.ended = Some(utc_now());
        session.outcome = Some(outcome.to_owned());
        self.save_manifest()
    }

    /// Add seconds to a phase of the run.
    pub fn add_timing(&mut self, phase: &str, seconds: f64) {
        *self.manifest.timings_s.entry(phase.to_owned()).or_default() += seconds;
    }

    fn session(&mut self) -> &mut Session {
        self.manifest.sessions.last_mut().expect("opening a run begins a session")
    }
}

impl Manifest {
    /// The manifest of the run in `root`, or `None` if there is none.
    pub fn read(root: &Path) -> Result<Option<Self>> {
        let path = root.join("manifest.json");
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        let damaged = |e: serde_json::Error| {
            Error::file(&path, format!("unreadable text ({e})"), "a run's manifest", "delete the file, the run goes on without it")
        };
        serde_json::from_str(&text).map(Some).map_err(damaged)
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, e)),
    }
}

/// Files nobody of us wrote; a lock and temporary files may be left of a start that was killed early.
fn holds_foreign_files(path: &Path) -> Result<bool> {
    let mut entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
    Ok(entries.any(|e| e.is_ok_and(|e| e.file_name() != LOCK && !is_temporary(&e.file_name().to_string_lossy()))))
}

const LOCK: &str = "run.lock";

/// Take the lock, or say who has it. The system frees it when its process ends, so a killed run never blocks the next.
pub(crate) fn lock(root: &Path) -> Result<Option<File>> {
    let (path, mut file) = open_lock(root)?;
    let io = |e| Error::io(&path, e);
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            let owner = if owner.trim().is_empty() { "another process".into() } else { owner.trim().to_owned() };
            return Err(Error::Locked { path: root.to_owned(), owner });
        }
        Err(TryLockError::Error(e)) if has_no_locks(&e) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(io(e)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
    write!(file, "process {} since {}", std::process::id(), utc_now()).map_err(io)?;
    Ok(Some(file))
}

/// Wait until nobody else has the lock, and take it; `None` where the file system has none.
pub(crate) fn wait_for_lock(root: &Path) -> Result<Option<File>> {
    let (path, file) = open_lock(root)?;
    match file.lock() {
        Ok(()) => Ok(Some(file)),
        Err(e) if has_no_locks(&e) => Ok(None),
        Err(e) => Err(Error::io(&path, e)),
    }
}

fn open_lock(root: &Path) -> Result<(PathBuf, File)> {
    let path = root.join(LOCK);
    match File::options().read(true).write(true).create(true).truncate(false).open(&path) {
        Ok(file) => Ok((path, file)),
        Err(e) => Err(Error::io(&path, e)),
    }
}

/// Lustre without its option `flock` says that it has no such call; NFS without a lock service, that there are no locks left.
fn has_no_locks(e: &std::io::Error) -> bool {
    #[cfg(unix)]
    if e.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error()) {
        return true;
    }
    e.kind() == std::io::ErrorKind::Unsupported
}

/// `write_atomic` leaves `.NAME.PID.tmp` when it is killed.
fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Remove what killed writers left in `dir`. Only the process that holds the lock may call it.
pub(super) fn remove_leftovers(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?.flatten() {
        if is_temporary(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path()).map_err(|e| Error::io(&entry.path(), e))?;
        }
    }
    Ok(())
}

/// The keys whose values differ, as `glance.lr: 0.001 there, 0.01 here`, sorted by key.
fn config_differences(path: &Path, stored: &str, wanted: &str) -> Result<Vec<String>> {
    let flat = |text: &str| -> Result<BTreeMap<String, String>> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            Error::file(path, format!("a broken table ({})", e.message()), "the settings of a run", "choose another run name")
        })?;
        let mut out = BTreeMap::new();
        flatten("", &toml::Value::Table(table), &mut out);
        Ok(out)
    };
    let (there, here) = (flat(stored)?, flat(wanted)?);
    let keys: std::collections::BTreeSet<_> = there.keys().chain(here.keys()).collect();
    let value = |map: &BTreeMap<String, String>, key| map.get(key).map_or("absent".to_owned(), Clone::clone);
    Ok(keys
        .into_iter()
        .filter(|k| there.get(*k) != here.get(*k))
        .map(|k| format!("{k}: {} there, {} here", value(&there, k), value(&here, k)))
        .collect())
}

fn flatten(prefix: &str, value: &toml::Value, out: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, out);
            }
        }
        other => {
            out.insert(prefix.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "seed = 1\n[glance]\nlr = 0.001\n";

    fn open(path: &Path, config: &str) -> Result<RunFolder> {
        RunFolder::create_or_open(path, config, OnDifference::Refuse)
    }

    #[test]
    fn the_same_settings_continue_a_run_and_others_are_named() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("run");
        let first = open(&path, CONFIG).unwrap();
        assert!(!first.resumed());
        drop(first);
        // Same values, other spelling.
        assert!(open(&path, "glance = { lr = 0.001 }\nseed = 1").unwrap().resumed());
        let message = open(&path, "seed = 2\n[glance]\nlr = 0.001\nk = 3\n").err().unwrap().to_string();
        assert!(message.contains("(glance.k: absent there, 3 here, seed: 1 there, 2 here)"), "{message}");
        let forced = RunFolder::create_or_open(&path, "seed = 2", OnDifference::Replace).unwrap();
        assert!(forced.resumed());
        assert_eq!(std::fs::read_to_string(path.join("config.toml")).unwrap(), "seed = 2");
        assert_eq!(Manifest::read(&path).unwrap().unwrap().sessions.len(), 3);
    }

    #[test]
    fn two_writers_of_one_run_are_refused_and_a_left_lock_file_is_not() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join(LOCK), "process 1 since ever").unwrap();
        let held = open(tmp.path(), CONFIG).unwrap();
        let message = open(tmp.path(), CONFIG).err().unwrap().to_string();
        assert!(message.contains(&format!("being written by process {}", std::process::id())), "{message}");
        drop(held);
        open(tmp.path(), CONFIG).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn mounts_without_locks_are_told_from_failures() {
        use rustix::io::Errno;
        for (errno, none) in
            [(Errno::NOLCK, true), (Errno::NOSYS, true), (Errno::OPNOTSUPP, true), (Errno::IO, false), (Errno::ACCESS, false)]
        {
            assert_eq!(has_no_locks(&std::io::Error::from_raw_os_error(errno.raw_os_error())), none, "{errno:?}");
        }
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("thesis.docx"), "").unwrap();
        assert!(open(tmp.path(), CONFIG).err().unwrap().to_string().contains("files but no config.toml"));
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_of_a_killed_writer_go() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join(".config.toml.77.tmp"), "half").unwrap();
        open(tmp.path(), CONFIG).unwrap();
        assert!(!tmp.path().join(".config.toml.77.tmp").exists());
    }

    #[test]
    fn the_manifest_comes_back_with_its_sessions() {
        let tmp = tempfile::tempdir().unwrap();
        let mut run = open(tmp.path(), CONFIG).unwrap();
        run.manifest.seed = 7;
        run.manifest.inputs.insert("a.nii.gz".into(), "00ff".into());
        run.add_timing("train", 1.5);
        run.add_timing("train", 0.1);
        run.continue_from(400).unwrap();
        run.end("stopped").unwrap();
        let back = Manifest::read(tmp.path()).unwrap().unwrap();
        assert_eq!(back, run.manifest);
        assert_eq!((back.timings_s["train"], back.sessions[0].from_step), (1.6, 400));
        assert!(back.rustc.starts_with("rustc ") && back.sessions[0].ended.is_some());
    }

    #[test]
    fn the_burn_version_is_the_pinned_one() {
        let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
        let pinned = manifest["workspace"]["dependencies"]["burn"]["version"].as_str().unwrap();
        assert_eq!(pinned, format!("={BURN_VERSION}"));
    }
}
