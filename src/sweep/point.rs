//! One point of a sweep: its identity, its folder, its one final state.
//!
//! ```text
//! SWEEP/points/ID/  point.json (what it is)  config.toml (effective)  run/ (the run folder)  log.txt (what its workers said)
//!                   attempt.json (who works on it, or did)  rung-400.json (halted there)  result.json  state.json (final, written once)
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use panscreen_envs::io::write_atomic;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::judge::JudgeConfig;
use super::space::Params;
use crate::error::{Error, Result};

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
    /// `balanced_ce glance.group_size=8 seed=2`.
    pub fn label(&self) -> String {
        let params = self.params.iter().map(|(key, value)| format!("{key}={}", plain(value)));
        let method = (!self.method.is_empty()).then(|| self.method.clone());
        method.into_iter().chain(params).chain([format!("seed={}", self.seed)]).collect::<Vec<_>>().join(" ")
    }

    /// Method and parameters: what stays when seeds are averaged.
    pub fn row(&self) -> String {
        let label = self.label();
        label.rsplit_once("seed=").map_or(label.clone(), |(row, _)| if row.is_empty() { "all".into() } else { row.trim_end().to_owned() })
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
    /// The same of what the points are held against: Focus everywhere, and the oracle.
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
    pub fn create(sweep: &Path, point: &Point, config: &str) -> Result<Self> {
        let folder = PointFolder::of(sweep, &point.id);
        std::fs::create_dir_all(&folder.0).map_err(|e| panscreen_envs::Error::io(&folder.0, e))?;
        match folder.point() {
            Ok(Some(there)) if there.id == point.id => {}
            Ok(None) => write_atomic(&folder.0.join("config.toml"), config.as_bytes())?,
            Ok(Some(other)) => {
                let found = format!("the point {}", other.id);
                return Err(panscreen_envs::Error::file(&folder.0, found, format!("the point {}", point.id), "choose another --out").into());
            }
            Err(e) => return Err(e),
        }
        // Anew each time: the trial's number changes when choices are added to a grid.
        folder.write("point.json", point)?;
        Ok(folder)
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

    /// The last line that its worker wrote.
    pub fn last_words(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&std::fs::read(self.log()).ok()?).into_owned();
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
        let folder = PointFolder::create(dir.path(), &point("a1"), "seed = 2").unwrap();
        assert_eq!(folder.state().unwrap(), None);
        let failed = Final::now(State::Failed, Some("no data".into()));
        assert_eq!(folder.finish(failed.clone()).unwrap(), failed);
        assert_eq!(folder.finish(Final::now(State::Done, None)).unwrap(), failed, "the first one stays");
        assert!(PointFolder::create(dir.path(), &point("a1"), "seed = 2").is_ok(), "the same point");
        folder.write("point.json", &point("b2")).unwrap();
        let refused = PointFolder::create(dir.path(), &point("a1"), "seed = 2").unwrap_err().to_string();
        assert!(refused.contains("the point b2, expected the point a1"), "{refused}");
    }

    #[test]
    fn labels_and_rows() {
        let mut point = point("a1");
        assert_eq!((point.label(), point.row()), ("ce loss.alpha=0.5 seed=2".into(), "ce loss.alpha=0.5".into()));
        (point.method, point.params) = (String::new(), Params::new());
        assert_eq!((point.label(), point.row()), ("seed=2".into(), "all".into()));
    }

    #[test]
    fn figures_are_shares_of_sums() {
        let case = |a, b| BTreeMap::from([("recall".to_owned(), [a, b])]);
        assert_eq!(figure(&[case(1.0, 2.0), case(2.0, 2.0), case(0.0, 0.0)], "recall"), Some(0.75));
        assert_eq!(figure(&[case(0.0, 0.0)], "recall"), None);
        assert_eq!(figure(&[case(1.0, 1.0)], "dice"), None);
    }
}
