//! `panscreen env check`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use panscreen_envs::screening;

use super::error::Failure;
use super::{Context, Ended};
use crate::{config, setup};

/// Look at an environment.
#[derive(Debug, Args)]
pub struct EnvArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Prove that the environment keeps its promises: same seed same bytes, finite rewards, group sizes, an end, a state that survives.
    Check {
        /// Config file or run folder.
        config: PathBuf,
        /// Overrides such as `env.group=masks`.
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
}

pub fn run(args: EnvArgs, context: &Context) -> Result<Ended, Failure> {
    let Action::Check { config, overrides } = args.action;
    let config = config::load(&config, &overrides)?;
    context.use_threads(config.threads)?;
    let observer = &*context.observer;
    let split = setup::draw_split(&config, observer)?;
    observer.phase("prepare scans", Some(split.train.len() as u64));
    let scans = Arc::new(setup::store(&config, split.train, observer)?);
    observer.phase("check", None);
    let reports = screening::check(&setup::environment(&config, scans)?, config.seed)?;
    observer.finish();
    context.output.result(&reports, |reports| {
        let line = |r: &screening::CheckReport| format!("{:7} {}: {}\n", if r.kept { "kept" } else { "BROKEN" }, r.promise, r.seen);
        reports.iter().map(line).collect()
    })?;
    Ok(if reports.iter().all(|r| r.kept) { Ended::Done } else { Ended::WithFailures })
}
