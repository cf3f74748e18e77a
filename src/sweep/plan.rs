//! From the sweep file to points: trials, their seeds, the shared runs that they start from.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use panscreen_envs::rng::stream;
use serde::{Deserialize, Serialize};

use super::point::{Point, PointFolder};
use super::settings::{Sampler, SweepConfig};
use super::space::{Param, Params, grid};
use super::tpe;
use crate::config::{self, Config};
use crate::error::{Error, Result};

/// A trial: what is averaged over seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    pub method: String,
    pub params: Params,
    #[serde(skip)]
    pub points: Vec<String>,
}

/// A point with the text of its config.
pub struct Planned {
    pub point: Point,
    pub config: Config,
}

/// Makes points of a sweep's settings.
pub struct Planner<'a> {
    pub sweep: &'a SweepConfig,
    pub root: &'a Path,
    space: Vec<(String, Param)>,
}

impl<'a> Planner<'a> {
    pub fn new(sweep: &'a SweepConfig, root: &'a Path) -> Result<Self> {
        let space = sweep.space().map_err(Error::Usage)?;
        Ok(Planner { sweep, root, space })
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
            let mut needs = Vec::new();
            for name in wanted {
                let (shared, key) = self.shared(&name, seed)?;
                let path = toml::Value::String(PointFolder::of(self.root, &shared.point.id).run().display().to_string());
                overrides.push(format!("{key}={path}"));
                needs.push(shared.point.id.clone());
                if !planned.iter().any(|p| p.point.id == shared.point.id) {
                    planned.push(shared);
                }
            }
            let config = config::load(&self.sweep.config, &overrides)?;
            let point = Point {
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
            planned.push(self.identified(point, config));
        }
        Ok(planned)
    }

    fn shared(&self, name: &str, seed: u64) -> Result<(Planned, String)> {
        let shared = self.sweep.shared.get(name).ok_or_else(|| Error::Usage(format!("there is no [shared.{name}]")))?;
        let seed = if shared.per_seed { seed } else { self.sweep.seeds[0] };
        let mut overrides = shared.overrides.clone();
        overrides.push(format!("seed={seed}"));
        let config = config::load(shared.config.as_ref().unwrap_or(&self.sweep.config), &overrides)?;
        let point = Point {
            id: String::new(),
            trial: 0,
            method: name.to_owned(),
            params: Params::new(),
            seed,
            shared: true,
            needs: vec![],
            command: self.sweep.command.clone(),
            judge: None,
        };
        Ok((self.identified(point, config), shared.key.clone()))
    }

    /// The id: a hash of everything that decides the point's result. Shared runs count by their own id, not by where they lie.
    fn identified(&self, mut point: Point, mut config: Config) -> Planned {
        config.name = "point".into();
        let mut bare = config.clone();
        if !point.needs.is_empty() {
            (bare.init_from, bare.init_focus_from) = (None, None);
        }
        // The cohort's place is left out of the config's own hash: two places are one cohort. Not here, where places may be swept over.
        let rest = serde_json::json!([bare.hash(), bare.data.root, point.needs, point.command, point.judge]);
        point.id = blake3::hash(rest.to_string().as_bytes()).to_hex()[..12].to_owned();
        Planned { point, config }
    }
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

    pub fn push(&mut self, trial: Trial) -> Result<()> {
        let line = serde_json::to_string(&trial).map_err(|e| Error::Usage(e.to_string()))? + "\n";
        let mut file =
            std::fs::File::options().create(true).append(true).open(&self.path).map_err(|e| panscreen_envs::Error::io(&self.path, e))?;
        file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).map_err(|e| panscreen_envs::Error::io(&self.path, e))?;
        self.trials.push(trial);
        Ok(())
    }
}

/// What each trial that has ended is worth: the mean of `metric` over its seeds, higher being better. Failed and pruned trials have no worth.
pub fn history(root: &Path, sweep: &SweepConfig, trials: &[Trial]) -> Result<Vec<(Params, f64)>> {
    let mut history = Vec::new();
    for trial in trials {
        let mut values = Vec::new();
        for id in &trial.points {
            let result = PointFolder::of(root, id).result()?;
            values.extend(result.and_then(|r| r.metrics.get(&sweep.metric).copied()));
        }
        if !values.is_empty() && values.len() == trial.points.len() {
            history.push((trial.params.clone(), sweep.direction.upward(values.iter().sum::<f64>() / values.len() as f64)));
        }
    }
    Ok(history)
}

/// Points by id, without repetition.
pub type Points = BTreeMap<String, Point>;
