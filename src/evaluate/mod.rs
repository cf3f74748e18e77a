//! Judging masks against references: case by case, then over the cohort.

mod folders;
mod score;
mod write;

pub use folders::{CaseReport, Evaluation, evaluate_folders};
pub use score::{CaseScore, Judged, Summary, summarise};
