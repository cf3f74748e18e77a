//! `panscreen report`.

use std::path::PathBuf;

use clap::Args;
use panscreen_envs::io::write_atomic;
use serde::Serialize;

use super::error::Failure;
use super::{Context, Ended};
use crate::backend::on_device;
use crate::config;
use crate::report::run::Reporting;

/// Make the page of a run: its health, its curves, groups with actions, rewards and advantages, the order of looks over a scan.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run folder.
    run: PathBuf,
    /// The page; one file, opens offline [default: RUN/report/index.html].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Reported {
    report: PathBuf,
}

pub fn run(args: ReportArgs, context: &Context) -> Result<Ended, Failure> {
    let config = config::load(&args.run, &[])?;
    context.use_threads(config.threads)?;
    let html = on_device(config.device, Reporting { run: &args.run, observer: &*context.observer })?;
    let report = args.out.unwrap_or_else(|| args.run.join("report").join("index.html"));
    write_atomic(&report, html.as_bytes())?;
    context.output.result(&Reported { report }, |r| r.report.display().to_string())?;
    Ok(Ended::Done)
}
