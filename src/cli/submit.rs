//! `panscreen submit`: before a container is sent.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::error::Failure;
use super::output::table;
use super::{Context, Ended};
use crate::submit::{Entry, Limits, Report, check};

/// Check a submission the way a challenge's organisers run it.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Check(CheckArgs),
}

/// Launch the container's entry once a scan: clean environment, no network, time and memory measured, output checked.
///
/// Prints pass or fail for each rule of FLARE's contract; exit code 1 where one is broken. --json gives what `evaluate --efficiency` takes.
#[derive(Debug, Args)]
struct CheckArgs {
    /// Scans (.nii.gz).
    #[arg(value_name = "SCAN", required = true)]
    scans: Vec<PathBuf>,
    /// Run folder with the trained networks: what the image holds as its model.
    #[arg(long, value_name = "RUN")]
    model: PathBuf,
    /// The container's entry.
    #[arg(long, value_name = "FILE", default_value = "scripts/flare/predict.sh")]
    entry: PathBuf,
    /// Seconds that a launch may take.
    #[arg(long, value_name = "S", default_value_t = Limits::default().seconds)]
    seconds: f64,
    /// GiB of memory that a launch may take.
    #[arg(long, value_name = "GIB", default_value_t = Limits::default().memory_gib)]
    memory: f64,
}

pub fn run(args: SubmitArgs, context: &Context) -> Result<Ended, Failure> {
    let What::Check(args) = args.what;
    let program =
        std::env::current_exe().map_err(|e| Failure::says(super::error::USAGE, format!("this program's own file is unknown: {e}")))?;
    let entry = Entry { script: args.entry, model: args.model, program };
    let limits = Limits { seconds: args.seconds, memory_gib: args.memory };
    let report = check(&entry, &args.scans, limits, &*context.observer)?;
    context.output.result(&report, text)?;
    Ok(if report.passed { Ended::Done } else { Ended::WithFailures })
}

fn text(r: &Report) -> String {
    let mut text = String::new();
    for l in &r.launches {
        let rows: Vec<[String; 3]> = l
            .rules
            .iter()
            .map(|rule| {
                let passed = rule.passed.map_or("unknown", |p| if p { "pass" } else { "FAIL" });
                [rule.rule.clone(), passed.to_owned(), rule.found.clone()]
            })
            .collect();
        text += &format!("{}\n", table([l.launch.case.as_str(), "", "found"], &rows));
        text += &l.said.as_ref().map_or(String::new(), |said| format!("it said:\n{said}\n\n"));
    }
    text += &r.efficiency.as_ref().map_or(String::new(), |e| format!("{}\n", e.text()));
    text + if r.passed { "passed" } else { "FAILED" }
}
