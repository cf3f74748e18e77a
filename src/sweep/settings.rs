//! The sweep file: which points there are, how they are chosen, when to stop.
//!
//! Names are Optuna's where it has them (`sampler`, `pruner`, `n_trials`, `low`, `high`, `log`, `step`, `direction`) and Hydra's where that has
//! them (`overrides`, `params`, `launcher`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::judge::JudgeConfig;
use super::space::{Param, params_of};
use crate::error::{Error, Result};

/// A sweep as its TOML file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// The folder is `runs/NAME`. Default: the file's name without `.toml`.
    #[serde(default)]
    pub name: String,
    /// Config file of every point, relative to the sweep file.
    pub config: PathBuf,
    /// Overrides of every point, such as `train.steps=500`.
    #[serde(default)]
    pub overrides: Vec<String>,
    /// Rows of the table: named sets of overrides. Each is combined with each choice of `params` and each of `seeds`.
    #[serde(default)]
    pub methods: Vec<Method>,
    /// Keys of the config and what they may be: a list of choices, or `{ low = , high = , log = , step = }`. Dotted keys need no quotes.
    #[serde(default)]
    pub params: toml::Table,
    /// Every trial is run with each of these seeds. Default `[0]`.
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    /// How `params` are chosen. Default `"grid"`.
    #[serde(default)]
    pub sampler: Sampler,
    /// Trials of `"random"` and `"tpe"`.
    #[serde(default)]
    pub n_trials: Option<usize>,
    /// Seed of the sampler, apart from those of the points.
    #[serde(default)]
    pub seed: u64,
    /// What stops trials early. Default `"none"`.
    #[serde(default)]
    pub pruner: Pruner,
    /// Name of the figure that tpe and the pruner go by. Default `"validation/lesion_dice"`.
    #[serde(default = "lesion_dice")]
    pub metric: String,
    #[serde(default)]
    pub direction: Direction,
    /// Runs that are made once, before the points, and that points start from.
    #[serde(default)]
    pub shared: BTreeMap<String, Shared>,
    /// Judge each trained point on the test scans. Default: points have the figures of their validation only.
    #[serde(default)]
    pub judge: Option<JudgeConfig>,
    /// A program to run for each point instead of training: `{config}`, `{out}` and `{seed}` are filled in, and it leaves `{out}/result.json`.
    #[serde(default)]
    pub command: Vec<String>,
    /// The sweep stops when so many points in a row fail for the same reason. Default 5.
    #[serde(default = "five")]
    pub stop_after_failures: usize,
    /// A point whose worker died so often is failed. Default 3.
    #[serde(default = "three")]
    pub max_deaths: usize,
    /// The row that others are compared with in the table. Default: the first method.
    #[serde(default)]
    pub baseline: Option<String>,
    /// Figures in the table, in this order. Default: all there are.
    #[serde(default)]
    pub columns: Vec<String>,
    #[serde(default)]
    pub slurm: SlurmConfig,
}

/// A named set of overrides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    pub name: String,
    #[serde(default)]
    pub overrides: Vec<String>,
    /// Points of this method start from this shared run; default: from every one.
    #[serde(default)]
    pub needs: Option<Vec<String>>,
}

/// A run that is made once for all points (or once for each seed).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Its config file, relative to the sweep file. Default: that of the points.
    #[serde(default)]
    pub config: Option<PathBuf>,
    #[serde(default)]
    pub overrides: Vec<String>,
    /// The key of the points that gets its run folder: `init_focus_from` or `init_from`.
    pub key: String,
    /// One for each of `seeds`, instead of one for all.
    #[serde(default)]
    pub per_seed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Every combination.
    #[default]
    Grid,
    /// Independent draws.
    Random,
    /// Tree-structured Parzen estimator (Bergstra et al. 2011), with Optuna's defaults.
    Tpe,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name", deny_unknown_fields)]
pub enum Pruner {
    #[default]
    None,
    /// All trials train for `min_resource` steps; the best `1 / reduction_factor` go on for `reduction_factor` times as many, and so on.
    SuccessiveHalving {
        /// Steps of the first rung; a multiple of `train.validate_every`.
        min_resource: u64,
        #[serde(default = "four")]
        reduction_factor: u64,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    Maximize,
    Minimize,
}

impl Direction {
    /// `value` so that higher is better.
    pub fn upward(self, value: f64) -> f64 {
        match self {
            Direction::Maximize => value,
            Direction::Minimize => -value,
        }
    }
}

/// What `--launcher slurm` tells sbatch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmConfig {
    /// sbatch's own words, such as `["--partition=gpu", "--time=4:00:00", "--cpus-per-task=8"]`. A worker takes as many threads as
    /// `--cpus-per-task` says.
    pub options: Vec<String>,
    /// Lines of the job script before the work, such as `["module load gcc"]`.
    pub setup: Vec<String>,
    /// Tasks of one array at most; Slurm refuses arrays above its `MaxArraySize` (1001 unless the site changed it). Default 1000.
    pub array_size: usize,
}

impl Default for SlurmConfig {
    fn default() -> Self {
        SlurmConfig { options: vec![], setup: vec![], array_size: thousand() }
    }
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

fn lesion_dice() -> String {
    "validation/lesion_dice".into()
}

fn three() -> usize {
    3
}

fn four() -> u64 {
    4
}

fn five() -> usize {
    5
}

fn thousand() -> usize {
    1000
}

/// Keys that take a run folder, which a shared run can fill.
const SHARED_KEYS: [&str; 2] = ["init_from", "init_focus_from"];

/// Points of a grid at most: beyond that somebody has mistaken a step.
const MOST_POINTS: usize = 100_000;

impl SweepConfig {
    /// Read and check a sweep file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| panscreen_envs::Error::io(path, e))?;
        let mut sweep: SweepConfig = toml::from_str(&text)
            .map_err(|e| Error::Usage(format!("{}: not a sweep file: {}", path.display(), e.to_string().trim_end())))?;
        if sweep.name.is_empty() {
            sweep.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        sweep.config = folder.join(&sweep.config);
        for shared in sweep.shared.values_mut() {
            shared.config = shared.config.take().map(|c| folder.join(c));
        }
        sweep.check().map_err(|sentence| Error::Usage(format!("{}: {sentence}", path.display())))?;
        Ok(sweep)
    }

    /// `params` as dimensions, sorted by key.
    pub fn space(&self) -> Result<Vec<(String, Param)>, String> {
        params_of(&self.params)
    }

    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_alphanumeric() || "._-+=".contains(c);
        if self.name.starts_with('.') || !self.name.chars().all(plain) {
            return Err(format!("`name` is {:?}, expected letters, digits and . _ - + =", self.name));
        }
        let space = self.space()?;
        if self.seeds.is_empty() {
            return Err("`seeds` is empty, expected at least one".into());
        }
        if self.seeds.iter().collect::<BTreeSet<_>>().len() != self.seeds.len() {
            return Err("`seeds` names one twice; a point is run once".into());
        }
        if space.iter().any(|(key, _)| key == "seed") {
            return Err("`params` has `seed`; write `seeds = [1, 2, 3]`, so that the table takes the mean over them".into());
        }
        match (self.sampler, self.n_trials) {
            (Sampler::Grid, Some(_)) => return Err("`n_trials` does nothing with `sampler = \"grid\"`; take it out".into()),
            (Sampler::Grid, None) => {
                let mut points = self.methods.len().max(1).saturating_mul(self.seeds.len());
                for (key, param) in &space {
                    let values = param
                        .grid()
                        .ok_or_else(|| format!("`params.{key}` is a range without `step`, which has no grid; give a list or a `step`"))?;
                    points = points.saturating_mul(values.len());
                }
                if points > MOST_POINTS {
                    return Err(format!("the grid has {points} points, at most {MOST_POINTS}; use `sampler = \"random\"` with `n_trials`"));
                }
            }
            (_, None | Some(0)) => return Err("`n_trials` is missing; say how many trials to draw".into()),
            (_, Some(_)) if space.is_empty() => return Err("`params` is empty; there is nothing to draw".into()),
            (Sampler::Random | Sampler::Tpe, Some(_)) if !self.methods.is_empty() => {
                return Err("`methods` go with `sampler = \"grid\"`; write them as choices of a key in `params`".into());
            }
            _ => {}
        }
        if let Pruner::SuccessiveHalving { min_resource, reduction_factor } = self.pruner {
            if self.sampler == Sampler::Tpe {
                return Err(
                    "successive halving compares trials that are all known at the start; use `sampler = \"random\"` or `\"grid\"`".into()
                );
            }
            if min_resource == 0 || reduction_factor < 2 {
                return Err("`pruner` needs `min_resource` of 1 or more and `reduction_factor` of 2 or more".into());
            }
            if !self.command.is_empty() {
                return Err("successive halving stops and continues trainings; a `command` can't be continued".into());
            }
        }
        let names: BTreeSet<&str> = self.methods.iter().map(|m| m.name.as_str()).collect();
        if names.len() != self.methods.len() || names.contains("") {
            return Err("`methods` have names, and each its own".into());
        }
        self.check_shared()?;
        if let Some(judge) = &self.judge {
            judge.check()?;
        }
        if !self.command.is_empty() && self.judge.is_some() {
            return Err("[judge] judges trainings; what a `command` finds stands in its own result.json; take one out".into());
        }
        if self.slurm.array_size == 0 {
            return Err("`slurm.array_size` is 0, expected at least 1".into());
        }
        Ok(())
    }

    fn check_shared(&self) -> Result<(), String> {
        if let Some((name, run)) = self.shared.iter().find(|(_, run)| !SHARED_KEYS.contains(&run.key.as_str())) {
            let keys = SHARED_KEYS.map(|key| format!("`{key}`")).join(" or ");
            return Err(format!("[shared.{name}] fills `{}`, which takes no run folder; expected `key` to be {keys}", run.key));
        }
        let all: Vec<String> = self.shared.keys().cloned().collect();
        let mut wanted: Vec<&Vec<String>> = self.methods.iter().map(|m| m.needs.as_ref().unwrap_or(&all)).collect();
        if wanted.is_empty() {
            wanted.push(&all);
        }
        let unknown = self.methods.iter().flat_map(|m| m.needs.iter().flatten()).find(|n| !self.shared.contains_key(*n));
        if let Some(name) = unknown {
            return Err(format!("a method needs `{name}`, but there is no [shared.{name}]"));
        }
        for names in wanted {
            let mut by_key = BTreeMap::new();
            for name in names {
                if let Some(other) = by_key.insert(&self.shared[name].key, name) {
                    let key = &self.shared[name].key;
                    return Err(format!(
                        "[shared.{other}] and [shared.{name}] both fill `{key}`; say with `needs` which one a method takes"
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<SweepConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.toml");
        std::fs::write(&path, format!("config = \"base.toml\"\n{text}")).unwrap();
        SweepConfig::read(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        for (text, said) in [
            ("sampler = \"gird\"", "unknown variant `gird`, expected one of `grid`, `random`, `tpe`"),
            ("samplr = \"grid\"", "unknown field `samplr`"),
            ("seeds = []", "`seeds` is empty"),
            ("seeds = [1, 1]", "names one twice"),
            ("n_trials = 3", "does nothing"),
            ("sampler = \"tpe\"\n[params]\nseed = [1]", "write `seeds"),
            ("sampler = \"random\"\n[params]\nloss.alpha = [0, 1]", "`n_trials` is missing"),
            ("[params]\nloss.alpha = { low = 0.0, high = 1.0 }", "has no grid"),
            ("[params]\nloss.alpha = { low = 1.0, high = 0.0 }", "`low` must be below `high`"),
            ("[params]\nloss.alpha = { low = 0.0, high = 1.0, log = true }", "above 0"),
            ("[params]\nloss.alpha = []", "no choice"),
            ("[[methods]]\nname = \"a\"\n[[methods]]\nname = \"a\"", "each its own"),
            ("[[methods]]\nname = \"a\"\nneeds = [\"focus\"]", "no [shared.focus]"),
            ("pruner = { name = \"successive_halving\", min_resource = 0 }", "1 or more"),
            ("[params]\na.b = { low = 0, high = 999 }\nc.d = { low = 0, high = 999 }", "the grid has 1000000 points, at most 100000"),
            ("[slurm]\narray_size = 0", "at least 1"),
            ("command = [\"sh\"]\n[judge]", "take one out"),
            ("[judge]\nrecalls = [95]", "`judge.recalls` has 95, expected above 0 to 1"),
            ("[judge]\nthresholds = [1.0]", "expected 0 to below 1"),
            ("[judge]\nsoft_decays = [-1.0]", "`judge.soft_decays` has -1, expected 0 to 100"),
            ("[judge]\nsoft_decays = [2]", "which `judge.decoders` lacks"),
            ("[judge]\ndecoders = [\"soft_apart\"]\nsoft_decays = [2, 2]", "`soft_apart_decay2_95` twice"),
            ("[judge]\nrecalls = [0.95, 0.9501]", "[judge] has `threshold_95` twice"),
            ("[judge]\nrecalls = []\nthresholds = []", "no operating point"),
            ("[shared.focus]\nkey = \"data.root\"", "[shared.focus] fills `data.root`, which takes no run folder"),
            ("[shared.a]\nkey = \"init_from\"\n[shared.b]\nkey = \"init_from\"", "[shared.a] and [shared.b] both fill `init_from`"),
            (
                "[shared.a]\nkey = \"init_from\"\n[[methods]]\nname = \"m\"\nneeds = [\"a\", \"a\"]",
                "[shared.a] and [shared.a] both fill `init_from`",
            ),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn two_shared_runs_fill_one_key_for_different_methods() {
        let shared = "[shared.a]\nkey = \"init_from\"\n[shared.b]\nkey = \"init_from\"\n";
        let methods = "[[methods]]\nname = \"m\"\nneeds = [\"a\"]\n[[methods]]\nname = \"n\"\nneeds = [\"b\"]";
        assert!(check(&format!("{shared}{methods}")).is_ok());
        assert_eq!(check("").unwrap().slurm.array_size, 1000);
        assert_eq!(check("[slurm]\nsetup = [\"module load gcc\"]").unwrap().slurm.array_size, 1000);
    }

    #[test]
    fn dotted_and_quoted_keys_are_the_same() {
        let a =
            check("[params]\nobjective.name = [\"ce\", \"focal\"]\noptim.glance.lr = { low = 1e-4, high = 1e-2, log = true, step = 1e-3 }");
        assert!(a.unwrap_err().contains("`log` and `step`"));
        let a =
            check("[params]\nobjective.name = [\"ce\", \"focal\"]\noptim.glance.lr = { low = 1e-3, high = 1e-2, step = 3e-3 }").unwrap();
        let b = check("[params]\n\"objective.name\" = [\"ce\", \"focal\"]\n\"optim.glance.lr\" = { low = 1e-3, high = 1e-2, step = 3e-3 }")
            .unwrap();
        assert_eq!(a.space(), b.space());
        assert_eq!(a.name, "s");
    }
}
