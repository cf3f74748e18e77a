//! `panscreen bench`: how fast this program is on this machine.

mod metrics;
mod networks;

use clap::{Args, Subcommand};

use super::error::Failure;
use super::{Context, Ended};
use metrics::MetricsArgs;
use networks::{NetworksArgs, Rows};

/// Measure the program on this machine.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Convolutions, norms, linear layers, attention: forward, and forward and backward.
    Conv(NetworksArgs),
    /// The published pair and a small one: one window, one training step.
    Nets(NetworksArgs),
    Metrics(MetricsArgs),
}

pub fn run(args: BenchArgs, context: &Context) -> Result<Ended, Failure> {
    match args.what {
        What::Conv(args) => networks::run(Rows::Operations, args, context),
        What::Nets(args) => networks::run(Rows::Networks, args, context),
        What::Metrics(args) => metrics::run(args, context),
    }
}
