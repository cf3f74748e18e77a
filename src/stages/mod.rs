//! What a run does: one room per system.
//!
//! Rooms never import each other; what two of them need moves down. A room is added by its folder and one line in [`all`] and [`stage`].

pub mod gf_screen;

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::backend::TrainBackend;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::run::{Observer, RunFolder};

/// What a stage needs of the cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Needs {
    LesionLabels,
}

/// What the weights that a stage leaves behind cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Whole,
}

/// What a stage is, known without a backend.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StageInfo {
    pub name: &'static str,
    pub summary: &'static str,
    pub needs: Needs,
    pub emits: Scope,
}

/// Weights that a stage leaves behind.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// Folder of the checkpoint.
    pub checkpoint: PathBuf,
    pub scope: Scope,
}

/// A run while a stage works on it.
pub struct Run<'a, B: TrainBackend> {
    pub config: &'a Config,
    pub folder: &'a mut RunFolder,
    pub device: B::Device,
    pub observer: Arc<dyn Observer>,
    /// Where what a finished Focus sees is kept for other runs on the same one; `None` keeps nothing.
    pub focus_cache: Option<PathBuf>,
}

pub trait Stage<B: TrainBackend> {
    fn info(&self) -> StageInfo;
    /// Do the work, or go on where it was interrupted.
    fn run(&self, run: &mut Run<B>) -> Result<Artifacts>;
}

/// Every stage there is.
pub fn all() -> Vec<StageInfo> {
    vec![gf_screen::INFO, gf_screen::selection::INFO]
}

/// The stage called `name`.
pub fn stage<B: TrainBackend>(name: &str) -> Result<Box<dyn Stage<B>>> {
    match name {
        "gf_screen" => Ok(Box::new(gf_screen::GfScreen)),
        "selection" => Ok(Box::new(gf_screen::selection::Selection)),
        _ => {
            let known: Vec<&str> = all().iter().map(|s| s.name).collect();
            Err(Error::Usage(format!("`stages` names `{name}`, known are {}", known.join(", "))))
        }
    }
}
