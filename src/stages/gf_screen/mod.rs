//! GF-Screen: Glance and Focus trained together, Focus's results being the reward that trains Glance.
//!
//! Source: Wu, Zhuang, Chen, "Glance and Focus Reinforcement for Pan-cancer Screening", ICLR 2026.
//! Start reading at [`step::training_step`]. The stage [`selection`] goes on with Glance alone, on what the finished Focus did in whole scans.
//!
//! Limits: Focus is trained on every sub-volume, chosen or not (as published): Glance gates screening, not training. One lesion class.

pub mod critic;
pub mod learner;
pub mod operating;
pub mod selection;
pub mod shard;
pub mod step;
pub mod train;
pub mod validate;

pub use learner::Learner;
pub use operating::Operating;
pub use validate::{OperatingPoint, Validation};

use crate::backend::TrainBackend;
use crate::error::Result;
use crate::stages::{Artifacts, Needs, Run, Scope, Stage, StageInfo};

pub const INFO: StageInfo = StageInfo {
    name: "gf_screen",
    summary: "train Glance and Focus together; Focus's results are Glance's reward",
    needs: Needs::LesionLabels,
    emits: Scope::Whole,
};

pub struct GfScreen;

impl<B: TrainBackend> Stage<B> for GfScreen {
    fn info(&self) -> StageInfo {
        INFO
    }

    fn run(&self, run: &mut Run<B>) -> Result<Artifacts> {
        train::train(run)
    }
}
