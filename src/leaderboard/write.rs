//! The tables of a leaderboard.

use std::path::Path;

use panscreen_envs::Result;
use panscreen_envs::io::write_atomic;

use super::{Leaderboard, Method};
use crate::evaluate::Settings;
use crate::evaluate::write::{cell, json, tex};

impl Leaderboard {
    /// Write `leaderboard.json`, `ranks.csv`, `tests.csv`, `scores.csv` (long format) and `leaderboard.tex` into `dir`, and each method's files into
    /// `dir/methods/NAME`.
    pub fn write(&self, methods: &[Method], settings: &Settings, dir: &Path) -> Result<()> {
        write_atomic(&dir.join("leaderboard.json"), json(self)?.as_bytes())?;
        write_atomic(&dir.join("ranks.csv"), self.ranks_csv().as_bytes())?;
        write_atomic(&dir.join("tests.csv"), self.tests_csv().as_bytes())?;
        write_atomic(&dir.join("leaderboard.tex"), self.tex().as_bytes())?;
        write_atomic(&dir.join("scores.csv"), scores_csv(methods).as_bytes())?;
        for m in methods {
            let evaluation =
                crate::evaluate::Evaluation { summary: m.summary.clone(), cases: m.cases.clone(), without_reference: Vec::new() };
            evaluation.write(settings.rule.protocol, &dir.join("methods").join(&m.name))?;
        }
        Ok(())
    }

    fn ranks_csv(&self) -> String {
        let mut text = String::from(
            "structure,metric,method,cases,failed,missing,mean,low,high,median,rank_by_mean,rank_by_median,rank_by_case_ranks,mean_case_rank,wins,first,rank_low,rank_high\n",
        );
        for c in &self.columns {
            for s in &c.standings {
                let n = |v: Option<f64>| v.map_or(String::new(), |v| format!("{:.6}", v + 0.0));
                let rank = |r: Option<usize>| r.map_or(String::new(), |r| r.to_string());
                text += &format!(
                    "{},{},{},{},{},{},{},{},{},{},{},{},{},{:.4},{},{:.4},{},{}\n",
                    c.structure,
                    c.metric,
                    quoted(&s.method),
                    c.cases,
                    s.mean.failed,
                    s.mean.missing,
                    n(s.mean.mean.value()),
                    n(s.interval.map(|i| i.low)),
                    n(s.interval.map(|i| i.high)),
                    n(s.median),
                    rank(s.rank_by_mean),
                    rank(s.rank_by_median),
                    s.rank_by_case_ranks,
                    s.mean_case_rank,
                    s.wins,
                    s.first,
                    s.rank_interval[0],
                    s.rank_interval[1]
                );
            }
        }
        text
    }

    fn tests_csv(&self) -> String {
        let mut text = String::from("structure,metric,a,b,cases,mean_difference,low,high,hodges_lehmann,wilcoxon_p,holm_p,sign_flip_p\n");
        for (c, p) in self.columns.iter().flat_map(|c| c.pairs.iter().map(move |p| (c, p))) {
            let n = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.6}"));
            text += &format!(
                "{},{},{},{},{},{:.6},{},{},{},{:e},{:e},{:e}\n",
                c.structure,
                c.metric,
                quoted(&p.a),
                quoted(&p.b),
                p.cases,
                p.mean_difference,
                n(p.interval.map(|i| i.low)),
                n(p.interval.map(|i| i.high)),
                n(p.hodges_lehmann),
                p.wilcoxon_p,
                p.holm_p,
                p.sign_flip_p
            );
        }
        text
    }

    /// A row a method, a column a main metric with its interval; the best mean is bold.
    fn tex(&self) -> String {
        let main: Vec<_> = self.columns.iter().filter(|c| c.main).collect();
        let best = |c: &super::Column, m: usize| c.standings[m].rank_by_mean == Some(1);
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
            let lost = self.summaries[m].missing + self.summaries[m].failed;
            rows += &format!("{} & {}{cells} & {lost} & {:.2} \\\\\n", o.rank, tex(&o.method), o.mean_case_rank);
        }
        let heading: String = main.iter().map(|c| format!(" & {}", tex(&c.metric))).collect();
        let Some(s) = self.summaries.first() else { return String::new() };
        let caption = format!(
            "{} cases by the protocol {}. Empty masks: {}. Lost cases (missing or failed) count as the worst value. Means with 95\\,\\% intervals ({} \
             bootstrap draws); ranked by the mean rank on every case.",
            s.cases,
            tex(&s.protocol),
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

fn scores_csv(methods: &[Method]) -> String {
    let mut text = String::from("method,case,structure,metric,value,status,reason\n");
    for m in methods {
        for (c, s) in m.cases.iter().flat_map(|c| c.structures.iter().map(move |s| (c, s))) {
            for (metric, outcome) in &s.values {
                use panscreen_envs::metrics::Outcome::{Failed, NotApplicable, Value};
                let (status, reason) = match outcome {
                    Value(_) => ("value", ""),
                    NotApplicable(why) => ("not_applicable", why.as_str()),
                    Failed(why) => ("failed", why.as_str()),
                };
                let (method, case, reason) = (quoted(&m.name), quoted(&c.case), quoted(reason));
                text += &format!("{method},{case},{},{metric},{},{status},{reason}\n", s.structure, cell(Some(outcome)));
            }
        }
    }
    text
}

/// A field of a CSV.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[test]
fn fields_with_commas_are_quoted() {
    assert_eq!((quoted("a b"), quoted("a,\"b\"")), ("a b".to_owned(), "\"a,\"\"b\"\"\"".to_owned()));
}
