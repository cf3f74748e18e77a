//! `panscreen sweep`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::error::{FAILED_CASES, Failure, STOPPED, USAGE};
use super::{Context, Ended};
use crate::sweep::{self, Left, Options, PointFolder, State, SweepConfig, SweepSummary, Table};

/// Run every point of a sweep, or go on with a sweep that was interrupted.
///
/// Each point is a process of its own with one final state: done, failed with its reason, or pruned. Killed and started again, a sweep neither
/// repeats nor loses a point. A failed point is run again when its folder is deleted.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct SweepArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// Sweep file.
    #[arg(value_name = "CONFIG", required = true)]
    config: Option<PathBuf>,
    /// The sweep's folder [default: runs/NAME].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Points at the same time; they share the cores.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Where points run.
    #[arg(long, default_value = "local")]
    launcher: LauncherName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LauncherName {
    /// As processes of this machine.
    Local,
    /// As tasks of Slurm job arrays, at most --jobs at a time.
    Slurm,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the results, and write them to DIR/table.json, table.csv and table.md.
    Table {
        /// The sweep's folder.
        dir: PathBuf,
    },
    /// Work on one point; started by the sweep.
    #[command(hide = true)]
    Work {
        dir: PathBuf,
        #[arg(long)]
        point: String,
        #[arg(long)]
        until: Option<u64>,
        #[arg(long)]
        metric: String,
    },
}

pub fn run(args: SweepArgs, context: &Context) -> Result<Ended, Failure> {
    match (args.action, &args.config) {
        (Some(Action::Table { dir }), _) => {
            context.output.result(&sweep::table(&dir)?, text_of_table)?;
            Ok(Ended::Done)
        }
        (Some(Action::Work { dir, point, until, metric }), _) => work(&dir, &point, until, &metric, context),
        (None, Some(config)) => {
            context.listen_to_signals();
            let root = match args.out {
                Some(out) => out,
                None => Path::new("runs").join(SweepConfig::read(config)?.name),
            };
            let jobs = args.jobs.max(1);
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let options = Options {
                jobs,
                threads: context.threads.unwrap_or(if jobs > 1 { (cores / jobs).max(1) } else { 0 }),
                slurm: args.launcher == LauncherName::Slurm,
            };
            let summary = sweep::run(config, &root, &options, context.observer.clone())?;
            context.output.result(&summary, text)?;
            ended(&summary)
        }
        (None, None) => Err(Failure::says(USAGE, "no sweep file")),
    }
}

fn work(dir: &Path, point: &str, until: Option<u64>, metric: &str, context: &Context) -> Result<Ended, Failure> {
    context.listen_to_signals();
    let folder = PointFolder::of(dir, point);
    let threads = crate::config::load(&folder.0.join("config.toml"), &[])?.threads;
    context.use_threads(threads)?;
    match sweep::work(&folder, until, metric, &context.observer)? {
        Left::Ended(state) if state.state == State::Failed => Err(Failure::says(FAILED_CASES, state.reason.unwrap_or_default())),
        Left::Ended(_) | Left::Halted => Ok(Ended::Done),
        Left::Stopped => Err(Failure::says(STOPPED, "stopped; the point is given back")),
    }
}

fn ended(summary: &SweepSummary) -> Result<Ended, Failure> {
    if summary.left > 0 {
        let why = summary.stopped.as_deref().unwrap_or("stopped");
        let asked = why == "asked to stop";
        let text = format!("{why}; {} of {} points are left; start the same command again to go on", summary.left, summary.points);
        return Err(Failure::says(if asked { STOPPED } else { FAILED_CASES }, text));
    }
    Ok(if summary.failed > 0 { Ended::WithFailures } else { Ended::Done })
}

fn text(s: &SweepSummary) -> String {
    let mut text =
        format!("{} points: {} done, {} failed, {} pruned, {} left, {:.1} s", s.points, s.done, s.failed, s.pruned, s.left, s.seconds);
    for failure in &s.failures {
        let _ = write!(text, "\n{} ({}): {}", failure.label, failure.id, failure.reason);
    }
    if let Some(best) = &s.best {
        let _ = write!(text, "\nbest         {} ({} {:.4})", best.trial, best.metric, best.value);
    }
    let _ = write!(text, "\nall results  panscreen sweep table {}", s.sweep.display());
    text
}

fn text_of_table(table: &Table) -> String {
    let mut blocks = vec![columns(table, "", |cell| Some(cell.value()))];
    if let Some(baseline) = &table.baseline {
        let compared = columns(table, &format!("against {baseline}"), sweep::Cell::compared);
        blocks.push(format!("{compared}{}", table.intervals));
    }
    blocks.join("\n")
}

/// Rows below a heading of column names, each as wide as it needs.
fn columns(table: &Table, corner: &str, cell: impl Fn(&sweep::Cell) -> Option<String>) -> String {
    let heading = [corner.to_owned(), "seeds".into()].into_iter().chain(table.columns.iter().cloned()).collect::<Vec<_>>();
    let line = |row: &sweep::Row| {
        let cells = table.columns.iter().map(|c| row.cells.get(c).and_then(&cell).unwrap_or_default());
        [row.name.clone(), row.seeds.len().to_string()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let lines: Vec<Vec<String>> = [heading].into_iter().chain(table.rows.iter().map(line)).collect();
    let width = |c: usize| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table.columns.len() + 2).map(width).collect();
    let padded = |(c, text): (usize, &String)| if c == 0 { format!("{text:0$}", widths[c]) } else { format!("{text:>0$}", widths[c]) };
    lines.iter().map(|l| l.iter().enumerate().map(padded).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n").collect()
}
