//! The tables of a leaderboard.

use std::path::Path;

use panscreen_envs::Result;
use panscreen_envs::io::write_atomic;
use panscreen_envs::metrics::Outcome;

use super::{Column, Leaderboard, Method, PairTest, Standing};
use crate::evaluate::summary::{CASES, Structures, Summary};
use crate::evaluate::write::{cell, delimited, json, six, tex};
use crate::evaluate::{Settings, Status};

impl Leaderboard {
    /// Write `leaderboard.json`, `ranks.csv`, `tests.csv`, `scores.csv` (long format) and `leaderboard.tex` into `dir`, and each method's files into
    /// `dir/methods/NAME`.
    pub fn write(&self, methods: &[Method], settings: &Settings, dir: &Path) -> Result<()> {
        write_atomic(&dir.join("leaderboard.json"), json(self)?.as_bytes())?;
        write_atomic(&dir.join("ranks.csv"), self.ranks_csv()?.as_bytes())?;
        write_atomic(&dir.join("tests.csv"), self.tests_csv()?.as_bytes())?;
        write_atomic(&dir.join("leaderboard.tex"), self.tex().as_bytes())?;
        write_atomic(&dir.join("scores.csv"), scores_csv(methods)?.as_bytes())?;
        for m in methods {
            let evaluation =
                crate::evaluate::Evaluation { summary: m.summary.clone(), cases: m.cases.clone(), without_reference: Vec::new() };
            evaluation.write(settings.rule.protocol, &dir.join("methods").join(&m.name))?;
        }
        Ok(())
    }

    fn ranks_csv(&self) -> Result<String> {
        let row = |(c, s): (&Column, &Standing)| {
            let rank = |r: Option<usize>| r.map_or(String::new(), |r| r.to_string());
            vec![
                c.structure.clone(),
                c.metric.clone(),
                s.method.clone(),
                c.cases.to_string(),
                s.mean.failed.to_string(),
                s.mean.missing.to_string(),
                six(s.mean.mean.value()),
                six(s.interval.map(|i| i.low)),
                six(s.interval.map(|i| i.high)),
                c.common.to_string(),
                six(s.common_mean),
                six(s.median),
                rank(s.rank_by_mean),
                rank(s.rank_by_median),
                s.rank_by_case_ranks.to_string(),
                format!("{:.4}", s.mean_case_rank),
                s.wins.to_string(),
                format!("{:.4}", s.first),
                s.rank_interval[0].to_string(),
                s.rank_interval[1].to_string(),
            ]
        };
        delimited(b',', &RANKS, self.columns.iter().flat_map(|c| c.standings.iter().map(move |s| (c, s))).map(row))
    }

    fn tests_csv(&self) -> Result<String> {
        let row = |(c, p): (&Column, &PairTest)| {
            vec![
                c.structure.clone(),
                c.metric.clone(),
                p.a.clone(),
                p.b.clone(),
                p.cases.to_string(),
                p.units.to_string(),
                six(Some(p.mean_difference)),
                six(p.interval.map(|i| i.low)),
                six(p.interval.map(|i| i.high)),
                six(p.hodges_lehmann),
                format!("{:e}", p.wilcoxon_p),
                format!("{:e}", p.holm_p),
                format!("{:e}", p.sign_flip_p),
            ]
        };
        delimited(b',', &TESTS, self.columns.iter().flat_map(|c| c.pairs.iter().map(move |p| (c, p))).map(row))
    }

    /// A row a method, a column a main metric with its interval; the best mean is bold.
    fn tex(&self) -> String {
        let main: Vec<_> = self.columns.iter().filter(|c| c.main).collect();
        let best = |c: &Column, m: usize| c.standings[m].rank_by_mean == Some(1);
        let mut rows = String::new();
        for o in &self.overall {
            let Some(m) = self.methods.iter().position(|name| *name == o.method) else { continue };
            let cells: String = main
                .iter()
                .map(|c| {
                    let s = &c.standings[m];
                    let mean = s.mean.mean.value().map_or("--".into(), |v| format!("{v:.3}"));
                    let mean = if best(c, m) { format!("\\textbf{{{mean}}}") } else { mean };
                    let interval = s.interval.map_or(String::new(), |i| format!(" ({:.3}--{:.3})", i.low, i.high));
                    format!(" & {mean}{interval}")
                })
                .collect();
            let lost = self.summaries[m].structures.missing + self.summaries[m].structures.failed;
            rows += &format!("{} & {}{cells} & {lost} & {:.2} \\\\\n", o.rank, tex(&o.method), o.mean_case_rank);
        }
        let heading: String = main.iter().map(|c| format!(" & {}", tex(&c.metric))).collect();
        let Some(s) = self.summaries.first() else { return String::new() };
        let caption = format!(
            "{} cases, {} unjudged, by the protocol {}. {}. Empty masks ({}): {}. Lost ones, missing or failed, count as the worst value. Means with \
             95\\,\\% intervals ({} bootstrap draws); ranked by the mean rank on every case.",
            s.cases,
            s.unjudged,
            tex(&s.protocol),
            tex(&self.lost()),
            tex(&s.empty_policy),
            tex(&s.empty_masks),
            s.resampling.resamples
        );
        format!(
            "\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n\\begin{{tabular}}{{rl{}rr}}\n\\toprule\nrank & method{heading} & lost & mean rank \\\\\n\\midrule\n\
             {rows}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n",
            "l".repeat(main.len())
        )
    }
}

impl Leaderboard {
    /// What each method lost, in one line.
    fn lost(&self) -> String {
        let several = self.columns.iter().any(|c| c.structure == CASES);
        let what = if several { "structures" } else { "cases" };
        let of = |(m, s): (&String, &Summary)| {
            let Structures { missing, failed, .. } = s.structures;
            (missing + failed > 0).then(|| format!("{m} {missing} missing and {failed} failed"))
        };
        let lost: Vec<String> = self.methods.iter().zip(&self.summaries).filter_map(of).collect();
        match lost.len() {
            0 => format!("No {what} were lost"),
            n if n < self.methods.len() => format!("Lost {what}: {}, none of the others", lost.join(", ")),
            _ => format!("Lost {what}: {}", lost.join(", ")),
        }
    }
}

fn scores_csv(methods: &[Method]) -> Result<String> {
    let all = methods.iter().flat_map(|m| m.cases.iter().flat_map(move |c| c.structures.iter().map(move |s| (m, c, s))));
    let rows = all.flat_map(|(m, c, s)| {
        s.values.iter().map(move |(metric, outcome)| {
            let (status, reason) = match outcome {
                Outcome::Value(_) => ("value", ""),
                Outcome::NotApplicable(why) => ("not_applicable", why.as_str()),
                Outcome::Failed(why) if s.status == Status::Missing => ("missing", why.as_str()),
                Outcome::Failed(why) => ("failed", why.as_str()),
            };
            [&m.name, &c.case, &s.structure, metric, &cell(Some(outcome)), status, reason].map(str::to_owned).to_vec()
        })
    });
    delimited(b',', &SCORES, rows)
}

const RANKS: [&str; 20] = [
    "structure",
    "metric",
    "method",
    "cases",
    "failed",
    "missing",
    "mean",
    "low",
    "high",
    "common",
    "common_mean",
    "median",
    "rank_by_mean",
    "rank_by_median",
    "rank_by_case_ranks",
    "mean_case_rank",
    "wins",
    "first",
    "rank_low",
    "rank_high",
];
const TESTS: [&str; 13] = [
    "structure",
    "metric",
    "a",
    "b",
    "cases",
    "units",
    "mean_difference",
    "low",
    "high",
    "hodges_lehmann",
    "wilcoxon_p",
    "holm_p",
    "sign_flip_p",
];
const SCORES: [&str; 7] = ["method", "case", "structure", "metric", "value", "status", "reason"];
