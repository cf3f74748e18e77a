//! `panscreen demo`.

use std::path::PathBuf;

use clap::Args;

use super::error::Failure;
use super::{Context, Ended};

/// Make a cohort, train on it, screen scans never seen, and judge the result: five minutes on two cores.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Seed of the cohort, the weights and the training.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where everything goes; the page to look at is `report/index.html` in it.
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    out: PathBuf,
}

pub fn run(args: DemoArgs, context: &Context) -> Result<Ended, Failure> {
    context.use_threads(0)?;
    context.listen_to_signals();
    let summary = crate::demo::run(args.seed, &args.out, context.observer.clone())?;
    context.output.result(&summary, ToString::to_string)?;
    Ok(Ended::Done)
}
