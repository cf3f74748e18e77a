//! `panscreen stages`.

use clap::Args;

use super::error::Failure;
use super::output::table;
use super::{Context, Ended};
use crate::stages;

/// List what a run can do (the names that `stages = [...]` takes).
#[derive(Debug, Args)]
pub struct StagesArgs {}

pub fn run(_: StagesArgs, context: &Context) -> Result<Ended, Failure> {
    context.output.result(&stages::all(), |all| {
        let rows: Vec<[String; 2]> = all.iter().map(|s| [s.name.to_owned(), s.summary.to_owned()]).collect();
        table(["stage", "what it does"], &rows)
    })?;
    Ok(Ended::Done)
}
