//! Judging masks against references: case by case, then over the cohort.

mod folders;
mod score;

pub use folders::{CaseReport, Evaluation, evaluate_folders};
pub use score::{CaseScore, Judged, Summary, summarise};
