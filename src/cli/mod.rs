//! The command line: one file a verb. Only this folder prints.
//!
//! Results go to standard output (with `--json` as one JSON document), talk to standard error. What a verb returns is in [`error`].

mod bench;
pub mod config;
mod data;
mod demo;
mod env;
pub mod error;
mod evaluate;
mod inspect;
mod leaderboard;
mod model;
mod output;
pub mod progress;
mod report;
mod screen;
mod stages;
mod submit;
mod sweep;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use panscreen_policies::kernels::check_instruction_set;

use crate::run::{Observer, signals};
use error::{DONE, FAILED_CASES, Failure, USAGE};
use output::{Output, say};

/// Learn to glance over a CT scan, then focus: pan-cancer screening by reinforcement.
#[derive(Debug, Parser)]
#[command(name = "panscreen", version, disable_help_subcommand = true, term_width = 100)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    globals: Globals,
}

#[derive(Debug, Args)]
struct Globals {
    /// Print the result as one JSON document.
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    /// No progress, only warnings and the result.
    #[arg(long, short, global = true, help_heading = "Everywhere")]
    quiet: bool,
    /// Worker threads; results do not depend on it [default: the config's `threads`, else every core].
    #[arg(long, value_name = "N", global = true, help_heading = "Everywhere")]
    threads: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Demo(demo::DemoArgs),
    Train(train::TrainArgs),
    Screen(screen::ScreenArgs),
    Sweep(sweep::SweepArgs),
    Evaluate(evaluate::EvaluateArgs),
    Leaderboard(leaderboard::LeaderboardArgs),
    Submit(submit::SubmitArgs),
    Report(report::ReportArgs),
    Inspect(inspect::InspectArgs),
    Data(data::DataArgs),
    Env(env::EnvArgs),
    Config(config::ConfigArgs),
    Model(model::ModelArgs),
    Stages(stages::StagesArgs),
    Bench(bench::BenchArgs),
}

/// What every verb is given besides its own arguments.
struct Context {
    observer: Arc<dyn Observer>,
    output: Output,
    threads: Option<usize>,
}

impl Context {
    /// Size the thread pool of the process, once, before anything works on it. 0 takes every core.
    fn use_threads(&self, configured: usize) -> Result<(), Failure> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.unwrap_or(configured));
        pool.build_global().map_err(|e| Failure::says(USAGE, format!("no pool of worker threads: {e}")))
    }

    /// From now on SIGINT and SIGTERM mean: save and stop.
    fn listen_to_signals(&self) {
        if let Err(e) = signals::install() {
            self.observer.warn(&format!("signals can't be caught ({e}): stopping the process loses the work since the last checkpoint"));
        }
    }
}

/// How a verb ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// Some cases failed; they were listed and the rest is there.
    WithFailures,
}

/// The whole program, from the command line to the exit code.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os()))
}

fn run(line: impl IntoIterator<Item = OsString>) -> u8 {
    let line = match Line::try_parse_from(line) {
        Ok(line) => line,
        // Help and version come this way too: on standard output, with code 0.
        Err(refused) => {
            let _ = refused.print();
            return if refused.use_stderr() { USAGE } else { DONE };
        }
    };
    let Globals { json, quiet, threads } = line.globals;
    let context = Context { observer: progress::observer(quiet), output: Output { json }, threads };
    let ended = check_instruction_set().map_err(|unknown| Failure::says(USAGE, unknown)).and_then(|()| match line.verb {
        Verb::Demo(args) => demo::run(args, &context),
        Verb::Train(args) => train::run(args, &context),
        Verb::Screen(args) => screen::run(args, &context),
        Verb::Sweep(args) => sweep::run(args, &context),
        Verb::Evaluate(args) => evaluate::run(args, &context),
        Verb::Leaderboard(args) => leaderboard::run(args, &context),
        Verb::Submit(args) => submit::run(args, &context),
        Verb::Report(args) => report::run(args, &context),
        Verb::Inspect(args) => inspect::run(args, &context),
        Verb::Data(args) => data::run(args, &context),
        Verb::Env(args) => env::run(args, &context),
        Verb::Config(args) => config::run(args, json, &mut std::io::stdout()).map(|()| Ended::Done),
        Verb::Model(args) => model::run(args, &context),
        Verb::Stages(args) => stages::run(args, &context),
        Verb::Bench(args) => bench::run(args, &context),
    });
    match ended {
        Ok(Ended::Done) => DONE,
        Ok(Ended::WithFailures) => FAILED_CASES,
        Err(failure) => {
            context.observer.finish();
            say(&failure.to_string());
            failure.code
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Line::command().debug_assert();
    }
}
