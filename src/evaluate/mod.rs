//! Judging masks against references: case by case, then over the cohort.
//!
//! [`evaluate`] judges a folder by one of the rule books of [`panscreen_envs::metrics::protocols`]: [`judge`](judge::judge) makes a record of each
//! case, [`log`] keeps them as they finish, [`summary`] sums them up. [`score`] serves validation and the demo, which have masks in memory.

pub mod efficiency;
pub mod files;
pub mod judge;
pub mod log;
pub mod metadata;
pub mod record;
mod run;
mod score;
pub mod screening;
pub mod summary;
pub mod touchstone;
pub mod write;

pub use judge::Rule;
pub use record::{CaseRecord, Status, StructureRecord};
pub use run::{Evaluation, Settings, evaluate, judge_all};
pub use score::{CaseScore, Scores};
