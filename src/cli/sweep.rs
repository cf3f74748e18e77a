//! `panscreen sweep`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::error::{FAILED_CASES, Failure, STOPPED, USAGE};
use super::{Context, Ended};
use crate::error::Error;
use crate::sweep::{self, Left, Options, PointFolder, State, SweepConfig, SweepSummary, Table};

/// Run every point of a sweep, or go on with a sweep that was interrupted.
///
/// Each point is a process of its own with one final state: done, failed with its reason, or pruned. Killed and started again, a sweep neither
/// repeats nor loses a point. A failed point is run again when its folder is deleted, or with `--retry-failed`.
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
    /// Delete the folders of failed points, and run these again.
    #[arg(long)]
    retry_failed: bool,
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
                retry_failed: args.retry_failed,
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
    match sweep::work(&folder, until, metric, &context.observer) {
        // No failure of the point: whoever has it will end it.
        Err(Error::Run(e @ crate::run::Error::Locked { .. })) => Err(Failure::says(STOPPED, e.to_string())),
        Err(e) => Err(e.into()),
        Ok(left) => leave(left),
    }
}

fn leave(left: Left) -> Result<Ended, Failure> {
    match left {
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

/// Figures beside each other in one block.
const ABREAST: usize = 3;

/// A block for each operating point, so that no line is longer than a wide terminal.
fn text_of_table(table: &Table) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for column in &table.columns {
        let group = column.split_once('/').map_or("", |(group, _)| group);
        match groups.last_mut().filter(|(name, columns)| *name == group && columns.len() < ABREAST) {
            Some((_, columns)) => columns.push(column),
            None => groups.push((group, vec![column])),
        }
    }
    let mut blocks = vec![format!("{}{}\n", table.sweep, if table.scans > 0 { format!(": {}", table.counts()) } else { String::new() })];
    blocks.extend(groups.iter().map(|(group, columns)| block(table, group, columns)));
    blocks.push(table.legend());
    blocks.join("\n")
}

/// Rows below a heading of column names, each as wide as it needs. Beside each figure how it compares with the baseline.
fn block(table: &Table, group: &str, columns: &[&str]) -> String {
    let against = table.baseline.as_ref().map(|name| format!("against {name}"));
    let heading = columns.iter().flat_map(|c| std::iter::once(Table::heading(c)).chain(against.clone()));
    let lead = |name: &str, seeds: &str| [name.to_owned(), seeds.to_owned()].into_iter();
    let mut lines: Vec<Vec<String>> = vec![lead(group, "seeds").chain(heading).collect()];
    for row in &table.rows {
        let cells = columns.iter().flat_map(|c| {
            let (value, compared) = Table::texts(row, c);
            std::iter::once(value).chain(against.is_some().then_some(compared))
        });
        lines.push(lead(&row.name, &row.count()).chain(cells).collect());
    }
    let width = |c: usize| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    // What compares stands left, beside its figure.
    let is_left = |c: usize| c == 0 || (against.is_some() && c > 2 && c % 2 == 1);
    let padded = |(c, text): (usize, &String)| if is_left(c) { format!("{text:0$}", widths[c]) } else { format!("{text:>0$}", widths[c]) };
    lines.iter().map(|l| l.iter().enumerate().map(padded).collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_table_has_room_and_its_floor() {
        let cell = |mean, difference: Option<f64>| sweep::Cell {
            mean,
            sd: Some(0.0112),
            difference,
            low: difference.map(|d| d - 0.01),
            high: difference.map(|d| d + 0.01),
        };
        let row = |name: &str, failed, kept: sweep::Cell, dice: Option<sweep::Cell>| sweep::Row {
            name: name.into(),
            seeds: vec![1, 2],
            failed,
            pruned: 0,
            reference: false,
            cells: BTreeMap::from_iter(
                [("at_0.9/windows_kept".to_owned(), kept)].into_iter().chain(dice.map(|d| ("at_0.9/dice".into(), d))),
            ),
        };
        let table = Table {
            sweep: "selection".into(),
            baseline: Some("ce".into()),
            columns: vec!["at_0.9/windows_kept".into(), "at_0.9/dice".into()],
            rows: vec![
                row("ce", 1, cell(0.0831, None), Some(cell(0.5, None))),
                row("grl", 0, cell(0.1, Some(0.0169)), Some(cell(0.6, Some(0.1)))),
                row("oracle", 0, cell(0.012, Some(-0.0711)), None),
            ],
            scans: 120,
            patients: 118,
            lesions: 312,
            intervals: "95 %".into(),
        };
        let expected = "\
selection: 120 test scans of 118 patients with 312 lesions

at_0.9         seeds   windows_kept %   against ce                      dice   against ce
ce       2, 1 failed      8.31 ± 1.12                          0.500 ± 0.011
grl                2      10.0 ± 1.1    +1.69 [+0.69, +2.69]   0.600 ± 0.011   +0.100 [+0.090, +0.110]
oracle             2      1.20 ± 1.12   -7.11 [-8.11, -6.11]

mean ± standard deviation over seeds; against ce: 95 %";
        let squeezed = |text: &str| text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
        let text = text_of_table(&table);
        assert_eq!(squeezed(&text), squeezed(expected), "{text}");
        let starts: Vec<usize> = text.lines().filter_map(|l| l.find('[')).collect();
        assert!(starts.len() == 2 && starts[0] == starts[1], "{text}");
    }
}
