//! `panscreen leaderboard`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::error::Failure;
use super::evaluate::{HowArgs, draws_text, rule_text};
use super::output::table;
use super::{Context, Ended};
use crate::evaluate::summary::Summary;
use crate::leaderboard::{Entry, Leaderboard, leaderboard};
use crate::report::leaderboard::{Sources, write};

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

pub fn run(args: LeaderboardArgs, context: &Context) -> Result<Ended, Failure> {
    context.use_threads(0)?;
    let settings = args.how.settings(None, context)?;
    let entries = Entry::parse(&args.methods)?;
    let observer = &*context.observer;
    let (board, methods) = leaderboard(&entries, args.r#ref.as_deref(), &args.out, &settings, observer)?;
    observer.phase("write the page", None);
    board.write(&methods, &settings, &args.out)?;
    let sources = Sources { reference: args.r#ref.as_deref(), images: args.images.as_deref() };
    write(&board, &methods, &settings, sources, &args.out)?;
    observer.finish();
    context.output.result(&board, |b| text(b, &args.out))?;
    let whole = board.summaries.iter().all(Summary::is_whole);
    Ok(if whole { Ended::Done } else { Ended::WithFailures })
}

fn text(board: &Leaderboard, out: &Path) -> String {
    let Some(first) = board.summaries.first() else { return String::new() };
    let counts: String = board.methods.iter().zip(&board.summaries).map(|(m, s)| format!("{m}: {}\n", s.counts())).collect();
    let head = format!("{}{counts}{}", rule_text(first), draws_text(first));
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
