//! `panscreen bench`: how fast this program is on this machine.

use clap::{Args, Subcommand};

use super::bench_metrics::{self, MetricsArgs};
use super::error::Failure;
use super::{Context, Ended};

/// Measure the program on this machine.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Metrics(MetricsArgs),
}

pub fn run(args: BenchArgs, context: &Context) -> Result<Ended, Failure> {
    match args.what {
        What::Metrics(args) => bench_metrics::run(args, context),
    }
}
