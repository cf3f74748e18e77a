//! `panscreen leaderboard`.

use std::path::{Path, PathBuf};

use clap::Args;
use panscreen_envs::io::write_atomic;

use super::error::Failure;
use super::evaluate::{HowArgs, heading};
use super::output::table;
use super::{Context, Ended};
use crate::leaderboard::pictures::{values, worst_cases};
use crate::leaderboard::{Entry, Leaderboard, leaderboard};
use crate::report::leaderboard::{Material, drawings, page};
use crate::report::raster::{png_of, standalone};

/// Rank several methods on the same references: intervals, paired tests, rank stability, one HTML page.
///
/// Each method is a folder of masks, judged as by `evaluate`, or one of Touchstone's released tables (dsc.csv, nsd.csv), which need no references.
#[derive(Debug, Args)]
pub struct LeaderboardArgs {
    /// Folders of the methods; NAME=DIR gives a name other than the folder's.
    #[arg(value_name = "DIR|NAME=DIR", required = true)]
    methods: Vec<String>,
    /// Reference masks.
    #[arg(long, value_name = "DIR")]
    r#ref: Option<PathBuf>,
    #[command(flatten)]
    how: HowArgs,
    /// Scans, to draw the worst cases on.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Folder of the page (index.html), the tables (CSV, LaTeX, JSON), the figures (SVG, PNG) and each method's cases.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Cases shown as pictures.
const WORST: usize = 10;

pub fn run(args: LeaderboardArgs, context: &Context) -> Result<Ended, Failure> {
    context.use_threads(0)?;
    let settings = args.how.settings(None, context)?;
    let entries = Entry::parse(&args.methods)?;
    let observer = &*context.observer;
    let (board, methods) = leaderboard(&entries, args.r#ref.as_deref(), &args.out, &settings, observer)?;
    observer.phase("write the page", None);
    board.write(&methods, &settings, &args.out)?;
    let values: Vec<Vec<Vec<f64>>> = board.columns.iter().map(|c| values(c, &methods, settings.rule.protocol)).collect();
    let worst = worst_cases(&board, &methods, &settings, args.r#ref.as_deref(), args.images.as_deref(), WORST);
    let material = Material { board: &board, values: &values, worst: &worst };
    let drawn = drawings(&material);
    for d in drawn.all() {
        let (file, svg) = (file_name(&d.name), standalone(&d.svg));
        write_atomic(&args.out.join("figures").join(format!("{file}.svg")), svg.as_bytes())?;
        if let Some(png) = png_of(&svg) {
            write_atomic(&args.out.join("figures").join(format!("{file}.png")), &png)?;
        }
    }
    write_atomic(&args.out.join("index.html"), page(&material, &drawn).as_bytes())?;
    observer.finish();
    context.output.result(&board, |b| text(b, &args.out))?;
    let whole = board.summaries.iter().all(|s| s.failed + s.unjudged == 0);
    Ok(if whole { Ended::Done } else { Ended::WithFailures })
}

/// A name that every file system takes.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

fn text(board: &Leaderboard, out: &Path) -> String {
    let Some(first) = board.summaries.first() else { return String::new() };
    // The counts differ between methods and stand in the table.
    let head: String = heading(first).lines().filter(|l| !l.contains(" scored, ")).map(|l| format!("{l}\n")).collect();
    let mut rows = Vec::new();
    for o in &board.overall {
        let Some(m) = board.methods.iter().position(|name| *name == o.method) else { continue };
        for c in board.columns.iter().filter(|c| c.main) {
            let s = &c.standings[m];
            let interval = s.interval.map_or(String::new(), |i| format!("{:.4}-{:.4}", i.low, i.high));
            let mean = s.mean.mean.value().map_or("failed".into(), |v| format!("{v:.4}"));
            let ranks = format!("{:.0}-{:.0}", s.rank_interval[0], s.rank_interval[1]);
            let lost = s.mean.failed + s.mean.missing;
            let rank = s.rank_by_mean.map_or(String::new(), |r| r.to_string());
            rows.push([
                o.method.clone(),
                o.rank.to_string(),
                c.metric.clone(),
                mean,
                interval,
                format!("{}", c.cases),
                lost.to_string(),
                rank,
                ranks,
                s.wins.to_string(),
            ]);
        }
    }
    let columns = ["method", "rank", "metric", "mean", "95 %", "cases", "lost", "by mean", "95 % of draws", "wins"];
    let mut pairs = String::new();
    for (c, p) in board.columns.iter().flat_map(|c| c.pairs.iter().map(move |p| (c, p))) {
        let shown = if p.holm_p < 0.0001 { "< 0.0001".to_owned() } else { format!("{:.4}", p.holm_p) };
        pairs += &format!("{}: {} less {}: {:+.4}, Holm p {shown} ({} cases)\n", c.metric, p.a, p.b, p.mean_difference, p.cases);
    }
    format!("{head}\n{}\n{pairs}\npage: {}", table(columns, &rows), out.join("index.html").display())
}

#[test]
fn figures_have_names_that_every_file_system_takes() {
    assert_eq!(file_name("dsc_mean of cases/ä:b"), "dsc_mean_of_cases_ä_b");
}
