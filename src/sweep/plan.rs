//! From the sweep file to points: trials, their seeds, the shared runs that they start from.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use panscreen_envs::rng::stream;
use serde::{Deserialize, Serialize};

use super::point::{Point, PointFolder};
use super::settings::{Direction, Sampler, Shared, SweepConfig};
use super::space::{Param, Params, grid};
use super::tpe;
use crate::config::{self, Config, ConfigError};
use crate::error::{Error, Result};

/// A trial: what is averaged over seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    pub method: String,
    pub params: Params,
    #[serde(skip)]
    pub points: Vec<String>,
}

/// A point with its config, or why that can't be used.
pub struct Planned {
    pub point: Point,
    pub config: Result<Config, ConfigError>,
}

/// A shared run as one of the seeds has it.
struct SharedRun {
    point: Point,
    config: Config,
    /// The key of the points that gets its run folder.
    key: String,
}

/// Makes points of a sweep's settings.
pub struct Planner<'a> {
    pub sweep: &'a SweepConfig,
    pub root: &'a Path,
    space: Vec<(String, Param)>,
    /// By name and seed of the points.
    shared: BTreeMap<(String, u64), SharedRun>,
}

impl<'a> Planner<'a> {
    pub fn new(sweep: &'a SweepConfig, root: &'a Path) -> Result<Self> {
        let space = sweep.space().map_err(Error::Usage)?;
        let mut shared = BTreeMap::new();
        for (name, run) in &sweep.shared {
            for &seed in &sweep.seeds {
                let of_seed = shared_run(sweep, name, run, if run.per_seed { seed } else { sweep.seeds[0] })?;
                shared.insert((name.clone(), seed), of_seed);
            }
        }
        Ok(Planner { sweep, root, space, shared })
    }

    /// The trials that are known before anything has run; none with a sampler that draws.
    pub fn grid(&self) -> Vec<Trial> {
        if self.sweep.sampler != Sampler::Grid {
            return Vec::new();
        }
        let names: Vec<String> =
            if self.sweep.methods.is_empty() { vec![String::new()] } else { self.sweep.methods.iter().map(|m| m.name.clone()).collect() };
        let of = |method: &String| {
            grid(&self.space).into_iter().map(|params| Trial { method: method.clone(), params, points: vec![] }).collect::<Vec<_>>()
        };
        names.iter().flat_map(of).collect()
    }

    /// Draw trial number `k`, after `history` (values by key, and how good; higher is better).
    pub fn draw(&self, k: usize, history: &[(Params, f64)]) -> Trial {
        let params = match self.sweep.sampler {
            Sampler::Tpe => tpe::suggest(&self.space, history, &mut stream(self.sweep.seed, "sweep/tpe", 0, k as u64)),
            Sampler::Random | Sampler::Grid => {
                let mut rng = stream(self.sweep.seed, "sweep/random", 0, k as u64);
                self.space.iter().map(|(key, param)| (key.clone(), param.draw(&mut rng))).collect()
            }
        };
        Trial { method: String::new(), params, points: vec![] }
    }

    /// The points of a trial, the shared runs that they need first.
    pub fn points(&self, number: usize, trial: &Trial) -> Result<Vec<Planned>> {
        let method = self.sweep.methods.iter().find(|m| m.name == trial.method);
        let mut planned: Vec<Planned> = Vec::new();
        for &seed in &self.sweep.seeds {
            let mut overrides = self.sweep.overrides.clone();
            overrides.extend(method.into_iter().flat_map(|m| m.overrides.iter().cloned()));
            overrides.extend(trial.params.iter().map(|(key, value)| format!("{key}={value}")));
            overrides.push(format!("seed={seed}"));
            let wanted = method.and_then(|m| m.needs.clone()).unwrap_or_else(|| self.sweep.shared.keys().cloned().collect());
            let (mut needs, mut filled) = (Vec::new(), Vec::new());
            for name in wanted {
                let shared = self.shared.get(&(name.clone(), seed)).ok_or_else(|| Error::Usage(format!("there is no [shared.{name}]")))?;
                let run = PointFolder::of(self.root, &shared.point.id).run();
                overrides.push(format!("{}={}", shared.key, toml::Value::String(run.display().to_string())));
                filled.push(shared.key.as_str());
                needs.push(shared.point.id.clone());
                if !planned.iter().any(|p| p.point.id == shared.point.id) {
                    planned.push(Planned { point: shared.point.clone(), config: Ok(shared.config.clone()) });
                }
            }
            let mut point = Point {
                id: String::new(),
                trial: number,
                method: trial.method.clone(),
                params: trial.params.clone(),
                seed,
                shared: false,
                needs,
                command: self.sweep.command.clone(),
                judge: self.sweep.judge.clone(),
            };
            let config = config::load(&self.sweep.config, &overrides).map(|config| Config { name: NAME.into(), ..config });
            point.id = match &config {
                Ok(config) => identity(&point, config, &filled),
                // There is no effective config; what was asked for tells one such point from another.
                Err(_) => id_of(&serde_json::json!(["refused", self.sweep.config, overrides, point.needs, point.command, point.judge])),
            };
            planned.push(Planned { point, config });
        }
        Ok(planned)
    }
}

/// Every point's config is called so: its place is its id.
const NAME: &str = "point";

fn shared_run(sweep: &SweepConfig, name: &str, shared: &Shared, seed: u64) -> Result<SharedRun> {
    let mut overrides = shared.overrides.clone();
    overrides.push(format!("seed={seed}"));
    let config = config::load(shared.config.as_ref().unwrap_or(&sweep.config), &overrides)?;
    let config = Config { name: NAME.into(), ..config };
    let mut point = Point {
        id: String::new(),
        trial: 0,
        method: name.to_owned(),
        params: Params::new(),
        seed,
        shared: true,
        needs: vec![],
        command: sweep.command.clone(),
        judge: None,
    };
    point.id = identity(&point, &config, &[]);
    Ok(SharedRun { point, config, key: shared.key.clone() })
}

/// The id: a hash of everything that decides the point's result. Shared runs count by their own id, not by where they lie: the keys that they
/// have `filled` are left out.
fn identity(point: &Point, config: &Config, filled: &[&str]) -> String {
    let mut bare = config.clone();
    for key in filled {
        match *key {
            "init_from" => bare.init_from = None,
            _ => bare.init_focus_from = None,
        }
    }
    // The cohort's place is left out of the config's own hash: two places are one cohort. Not here, where places may be swept over.
    id_of(&serde_json::json!([bare.hash(), bare.data.root, point.needs, point.command, point.judge]))
}

fn id_of(what: &serde_json::Value) -> String {
    blake3::hash(what.to_string().as_bytes()).to_hex()[..12].to_owned()
}

/// `trials.jsonl`: trials in the order they were drawn, so that a sweep that goes on has the same ones.
pub struct TrialLog {
    path: PathBuf,
    pub trials: Vec<Trial>,
}

impl TrialLog {
    /// The log in `root`. A line that a kill has torn is drawn again.
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.join("trials.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(panscreen_envs::Error::io(&path, e).into()),
        };
        let trials: Vec<Trial> =
            text.split_inclusive('\n').filter(|l| l.ends_with('\n')).map_while(|l| serde_json::from_str(l).ok()).collect();
        let mut log = TrialLog { path, trials: Vec::new() };
        let whole: String = text.split_inclusive('\n').take(trials.len()).collect();
        if whole.len() != text.len() {
            panscreen_envs::io::write_atomic(&log.path, whole.as_bytes())?;
        }
        log.trials = trials;
        Ok(log)
    }

    /// Remove the log in `root`, if there is one.
    pub fn forget(root: &Path) -> Result<()> {
        let path = root.join("trials.jsonl");
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(panscreen_envs::Error::io(&path, e).into()),
            _ => Ok(()),
        }
    }

    /// Append `trials`, in one write.
    pub fn push(&mut self, trials: &[Trial]) -> Result<()> {
        let mut lines = String::new();
        for trial in trials {
            lines += &(serde_json::to_string(trial).map_err(|e| Error::Usage(e.to_string()))? + "\n");
        }
        let mut file =
            std::fs::File::options().create(true).append(true).open(&self.path).map_err(|e| panscreen_envs::Error::io(&self.path, e))?;
        file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).map_err(|e| panscreen_envs::Error::io(&self.path, e))?;
        self.trials.extend_from_slice(trials);
        Ok(())
    }
}

/// What a trial is worth: the mean of `figure` over its points, higher being better; `None` where one of them has none.
pub fn worth<'f>(trial: &Trial, direction: Direction, figure: impl Fn(&str) -> Option<&'f f64>) -> Option<f64> {
    let values: Vec<f64> = trial.points.iter().filter_map(|id| figure(id).copied()).collect();
    let all = !values.is_empty() && values.len() == trial.points.len();
    all.then(|| direction.upward(values.iter().sum::<f64>() / values.len() as f64))
}

/// Points by id, without repetition.
pub type Points = BTreeMap<String, Point>;
