//! One point of a sweep: its identity, its folder, its one final state.
//!
//! ```text
//! SWEEP/points/ID/  point.json (what it is)  config.toml (effective)  run/ (the run folder)  log.txt (what its workers said)
//!                   attempt.json (who works on it, or did)  rung-400.json (halted there)  result.json  state.json (final, written once)
//! ```

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use panscreen_envs::io::write_atomic;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::judge::JudgeConfig;
use super::space::Params;
use crate::error::{Error, Result};

/// Characters of a reason that are kept.
const MAX_REASON: usize = 500;

/// What a point is; `point.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Of the effective config and of what else decides its result: the name of its folder.
    pub id: String,
    /// Trial that it belongs to: points of one trial differ in their seed only.
    pub trial: usize,
    /// The method's name; the shared run's name where it is one.
    pub method: String,
    pub params: Params,
    pub seed: u64,
    /// A shared run, which others start from.
    pub shared: bool,
    /// Ids of the shared runs that must be done before it begins.
    pub needs: Vec<String>,
    /// Program to run instead of training.
    pub command: Vec<String>,
    pub judge: Option<JudgeConfig>,
}

impl Point {
    fn words(&self) -> Vec<String> {
        let params = self.params.iter().map(|(key, value)| format!("{key}={}", plain(value)));
        let method = (!self.method.is_empty()).then(|| self.method.clone());
        method.into_iter().chain(params).collect()
    }

    /// `balanced_ce glance.group_size=8 seed=2`.
    pub fn label(&self) -> String {
        let mut words = self.words();
        words.push(format!("seed={}", self.seed));
        words.join(" ")
    }

    /// Method and parameters: what stays when seeds are averaged.
    pub fn row(&self) -> String {
        let words = self.words();
        if words.is_empty() { "all".into() } else { words.join(" ") }
    }
}

fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// How a point ended; `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Final {
    pub state: State,
    /// Why it failed or was pruned.
    pub reason: Option<String>,
    /// UTC.
    pub ended: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Done,
    Failed,
    Pruned,
}

impl Final {
    pub fn now(state: State, reason: Option<String>) -> Self {
        Final { state, reason, ended: crate::run::usage::utc_now() }
    }

    /// Failed now, for this reason.
    pub fn failed(reason: &str) -> Self {
        Final::now(State::Failed, Some(reason.chars().take(MAX_REASON).collect()))
    }
}

/// Who works on a point, or did; `attempt.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Starts so far.
    pub starts: usize,
    pub process: u32,
    pub started: String,
    /// Stopped on purpose, with everything saved; otherwise it still works, or died.
    pub stopped: bool,
    /// Workers that died on it, as the sweep saw them.
    pub deaths: usize,
}

/// Numerator and denominator of a figure on one case: a figure of a cohort is the sum of the ones over the sum of the others.
pub type Share = [f64; 2];

/// What a point found; `result.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PointResult {
    pub metrics: BTreeMap<String, f64>,
    /// Figures of each test case, for paired intervals.
    pub cases: BTreeMap<String, BTreeMap<String, Share>>,
    /// Whose scan each case is, where it is known: scans of a patient are no independent draws.
    pub patients: BTreeMap<String, String>,
    /// Figures of each case of what the points are held against: Focus everywhere, and the oracle.
    pub references: BTreeMap<String, BTreeMap<String, BTreeMap<String, Share>>>,
}

/// The figure `name` over `cases`; `None` where no case has it.
pub fn figure<'a>(cases: impl IntoIterator<Item = &'a BTreeMap<String, Share>>, name: &str) -> Option<f64> {
    let (mut above, mut below) = (0.0, 0.0);
    for share in cases.into_iter().filter_map(|case| case.get(name)) {
        above += share[0];
        below += share[1];
    }
    (below != 0.0).then(|| above / below)
}

/// The folder of a point.
#[derive(Clone, Debug, PartialEq)]
pub struct PointFolder(pub PathBuf);

impl PointFolder {
    pub fn of(sweep: &Path, id: &str) -> Self {
        PointFolder(sweep.join("points").join(id))
    }

    /// Make the folder of `point`, or find it there. A folder of that name that holds something else is refused: it is never reused.
    /// Without `config` the point has none that can be used, or keeps the one that it has.
    pub fn create(sweep: &Path, point: &Point, config: Option<&str>) -> Result<Self> {
        let folder = PointFolder::of(sweep, &point.id);
        std::fs::create_dir_all(&folder.0).map_err(|e| panscreen_envs::Error::io(&folder.0, e))?;
        let there = folder.point()?;
        if let Some(other) = there.as_ref().filter(|there| there.id != point.id) {
            let found = format!("the point {}", other.id);
            return Err(panscreen_envs::Error::file(&folder.0, found, format!("the point {}", point.id), "choose another --out").into());
        }
        // Once a run has begun, its config stays. Before, what the id leaves out may have changed, such as where the sweep lies.
        let path = folder.0.join("config.toml");
        if let Some(config) = config.filter(|_| !folder.run().exists())
            && std::fs::read(&path).ok().as_deref() != Some(config.as_bytes())
        {
            write_atomic(&path, config.as_bytes())?;
        }
        // The trial's number changes when choices are added to a grid.
        if there.as_ref() != Some(point) {
            folder.write("point.json", point)?;
        }
        Ok(folder)
    }

    /// Delete the folder. Under another name first, so that half of it is never taken for a point.
    pub fn delete(&self) -> Result<()> {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let gone = self.0.with_file_name(format!(".{name}.gone"));
        let io = |e| panscreen_envs::Error::io(&self.0, e);
        if gone.exists() {
            std::fs::remove_dir_all(&gone).map_err(io)?;
        }
        std::fs::rename(&self.0, &gone).and_then(|()| std::fs::remove_dir_all(&gone)).map_err(io)?;
        Ok(())
    }

    pub fn point(&self) -> Result<Option<Point>> {
        self.read("point.json")
    }

    pub fn state(&self) -> Result<Option<Final>> {
        self.read("state.json")
    }

    pub fn result(&self) -> Result<Option<PointResult>> {
        self.read("result.json")
    }

    pub fn attempt(&self) -> Result<Attempt> {
        Ok(self.read("attempt.json")?.unwrap_or_default())
    }

    /// The figure at which the point halted after `step` steps.
    pub fn rung(&self, step: u64) -> Result<Option<f64>> {
        self.read(&format!("rung-{step}.json"))
    }

    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("log.txt")
    }

    /// The final state, once: a second one is not written.
    pub fn finish(&self, state: Final) -> Result<Final> {
        if let Some(there) = self.state()? {
            return Ok(there);
        }
        self.write("state.json", &state)?;
        Ok(state)
    }

    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Error::Usage(e.to_string()))?;
        Ok(write_atomic(&self.0.join(name), (text + "\n").as_bytes())?)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        read_json(&self.0.join(name))
    }

    /// Remove what an attempt that was cut short may have left as a result.
    pub fn forget_result(&self) -> Result<()> {
        let path = self.0.join("result.json");
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(panscreen_envs::Error::io(&path, e).into()),
            _ => Ok(()),
        }
    }

    /// The last line that its worker wrote. Only the end of the log is read: a program may have written gigabytes.
    pub fn last_words(&self) -> Option<String> {
        const END: u64 = 1 << 16;
        let mut file = std::fs::File::open(self.log()).ok()?;
        let bytes = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(bytes.saturating_sub(END))).ok()?;
        let mut text = Vec::new();
        file.take(END).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(|line| line.chars().take(300).collect())
    }
}

/// A JSON file, or `None` where there is none.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(panscreen_envs::Error::io(path, e).into()),
    };
    let damaged = |e: serde_json::Error| {
        panscreen_envs::Error::file(path, e.to_string(), "a file of a sweep", "delete its folder to run the point again")
    };
    Ok(Some(serde_json::from_slice(&text).map_err(damaged)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn point(id: &str) -> Point {
        Point {
            id: id.into(),
            trial: 0,
            method: "ce".into(),
            params: Params::from([("loss.alpha".into(), toml::Value::Float(0.5))]),
            seed: 2,
            shared: false,
            needs: vec![],
            command: vec![],
            judge: None,
        }
    }

    #[test]
    fn one_final_state_and_no_folder_twice() {
        let dir = tempfile::tempdir().unwrap();
        let folder = PointFolder::create(dir.path(), &point("a1"), Some("seed = 2")).unwrap();
        assert_eq!(folder.state().unwrap(), None);
        let failed = Final::now(State::Failed, Some("no data".into()));
        assert_eq!(folder.finish(failed.clone()).unwrap(), failed);
        assert_eq!(folder.finish(Final::now(State::Done, None)).unwrap(), failed, "the first one stays");
        assert!(PointFolder::create(dir.path(), &point("a1"), Some("seed = 2")).is_ok(), "the same point");
        folder.write("point.json", &point("b2")).unwrap();
        let refused = PointFolder::create(dir.path(), &point("a1"), Some("seed = 2")).unwrap_err().to_string();
        assert!(refused.contains("the point b2, expected the point a1"), "{refused}");
        folder.delete().unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("points")).unwrap().count(), 0, "nothing is left of it");
    }

    /// A sweep that was moved starts its points from where their Focus lies now; one that has begun stays as it is.
    #[test]
    fn a_config_is_kept_from_the_moment_its_run_begins() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            |text| PointFolder::create(dir.path(), &point("a1"), text).map(|f| std::fs::read_to_string(f.0.join("config.toml")).unwrap());
        for (given, kept) in [(Some("from = 1"), "from = 1"), (None, "from = 1"), (Some("from = 2"), "from = 2")] {
            assert_eq!(config(given).unwrap(), kept);
        }
        std::fs::create_dir(PointFolder::of(dir.path(), "a1").run()).unwrap();
        assert_eq!(config(Some("from = 3")).unwrap(), "from = 2");
    }

    #[test]
    fn last_words_are_those_at_the_end_of_a_long_log() {
        let dir = tempfile::tempdir().unwrap();
        let folder = PointFolder::create(dir.path(), &point("a1"), None).unwrap();
        assert_eq!(folder.last_words(), None);
        std::fs::write(folder.log(), "first\n".repeat(50_000) + "no lesion in scan 7\n\n").unwrap();
        assert_eq!(folder.last_words().unwrap(), "no lesion in scan 7");
    }

    #[test]
    fn labels_and_rows() {
        let mut point = point("a1");
        assert_eq!((point.label(), point.row()), ("ce loss.alpha=0.5 seed=2".into(), "ce loss.alpha=0.5".into()));
        (point.method, point.params) = (String::new(), Params::new());
        assert_eq!((point.label(), point.row()), ("seed=2".into(), "all".into()));
        point.method = "ce seed=1".into();
        assert_eq!((point.label(), point.row()), ("ce seed=1 seed=2".into(), "ce seed=1".into()));
    }

    #[test]
    fn figures_are_shares_of_sums() {
        let case = |a, b| BTreeMap::from([("recall".to_owned(), [a, b])]);
        assert_eq!(figure(&[case(1.0, 2.0), case(2.0, 2.0), case(0.0, 0.0)], "recall"), Some(0.75));
        assert_eq!(figure(&[case(0.0, 0.0)], "recall"), None);
        assert_eq!(figure(&[case(1.0, 1.0)], "dice"), None);
    }
}
