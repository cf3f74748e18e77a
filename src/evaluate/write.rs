//! The files of an evaluation besides `cases.jsonl`.

use std::path::Path;

use panscreen_envs::io::write_atomic;
use panscreen_envs::metrics::protocols::Protocol;
use panscreen_envs::metrics::{Mean, Outcome};
use panscreen_envs::{Error, Result};
use serde::Serialize;

use super::record::{CaseRecord, Status};
use super::run::Evaluation;
use super::summary::Summary;
use super::touchstone;

impl Evaluation {
    /// Write `summary.json`, `evaluation.json` (summary and cases), `cases.tsv` (a line a case and structure), `table.csv` and `table.tex` into
    /// `dir`; for Touchstone its `dsc.csv` and `nsd.csv` too.
    pub fn write(&self, protocol: &Protocol, dir: &Path) -> Result<()> {
        write_atomic(&dir.join("summary.json"), json(&self.summary)?.as_bytes())?;
        write_atomic(&dir.join("evaluation.json"), json(self)?.as_bytes())?;
        write_atomic(&dir.join("cases.tsv"), cases_tsv(protocol, &self.cases).as_bytes())?;
        write_atomic(&dir.join("table.csv"), table_csv(&self.summary).as_bytes())?;
        write_atomic(&dir.join("table.tex"), table_tex(&self.summary).as_bytes())?;
        if protocol.name == touchstone_protocol() { touchstone::write_tables(&self.cases, dir) } else { Ok(()) }
    }
}

fn touchstone_protocol() -> &'static str {
    panscreen_envs::metrics::protocols::touchstone::PROTOCOL.name
}

pub fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|e| Error::Setting(e.to_string()))
}

/// Empty where there is no number. The 0 added turns the -0 of an empty sum into 0.
pub fn cell(outcome: Option<&Outcome>) -> String {
    outcome.and_then(Outcome::value).map_or(String::new(), |v| format!("{:.4}", v + 0.0))
}

fn cases_tsv(protocol: &Protocol, cases: &[CaseRecord]) -> String {
    let lesions = protocol.is_of_lesions();
    let mut text = String::from("case\tstructure\tstatus\treference_ml\tpredicted_ml");
    protocol.metrics.iter().for_each(|m| text += &format!("\t{}", m.name));
    text += if lesions { "\tlesions\tlesions_hit\tfindings\treason\n" } else { "\treason\n" };
    for c in cases {
        let reason = c.reason.as_deref().unwrap_or("").replace(['\t', '\n'], " ");
        if c.structures.is_empty() {
            let blanks = "\t".repeat(protocol.metrics.len() + 2 + 3 * usize::from(lesions));
            text += &format!("{}\t\t{}{blanks}\t{reason}\n", c.case, status(c.status));
        }
        for s in &c.structures {
            let predicted = s.predicted_ml.map_or(String::new(), |v| format!("{v:.3}"));
            text += &format!("{}\t{}\t{}\t{:.3}\t{predicted}", c.case, s.structure, status(s.status), s.reference_ml);
            protocol.metrics.iter().for_each(|m| text += &format!("\t{}", cell(s.values.get(m.name))));
            if let Some(l) = &c.lesions {
                let findings = l.matched.findings.as_ref().map_or(String::new(), |f| f.len().to_string());
                text += &format!("\t{}\t{}\t{findings}", l.matched.lesions.len(), l.matched.hits());
            }
            text += &format!("\t{reason}\n");
        }
    }
    text
}

pub fn status(status: Status) -> &'static str {
    match status {
        Status::Scored => "scored",
        Status::Missing => "missing",
        Status::Failed => "failed",
        Status::Unjudged => "unjudged",
    }
}

fn table_csv(s: &Summary) -> String {
    let mut text =
        String::from("structure,metric,mean,low,high,deviation,quartile_1,median,quartile_3,values,not_applicable,failed,missing\n");
    for r in &s.table {
        let n = |v: Option<f64>| v.map_or(String::new(), |v| format!("{:.6}", v + 0.0));
        let [q1, median, q3] = r.quartiles.map_or([None; 3], |q| q.map(Some));
        let Mean { mean, values, not_applicable, failed, missing } = &r.mean;
        let figures = [mean.value(), r.interval.map(|i| i.low), r.interval.map(|i| i.high), r.deviation, q1, median, q3].map(n).join(",");
        text += &format!("{},{},{figures},{values},{not_applicable},{failed},{missing}\n", r.structure, r.metric);
    }
    text
}

/// For `booktabs`: the policy stands in the caption.
fn table_tex(s: &Summary) -> String {
    let mut rows = String::new();
    for r in &s.table {
        let mean = r.mean.mean.value().map_or("--".into(), |v| format!("{v:.3}"));
        let interval = r.interval.map_or("--".into(), |i| format!("{:.3}--{:.3}", i.low, i.high));
        let lost = r.mean.failed + r.mean.missing;
        rows += &format!("{} & {} & {mean} & {interval} & {} & {lost} \\\\\n", tex(&r.structure), tex(&r.metric), r.mean.values);
    }
    let caption = format!(
        "{} cases by the protocol {} ({} scored, {} missing, {} failed). Empty masks: {}. Lost cases count as the worst value. Intervals: 95\\,\\%, {} bootstrap draws.",
        s.cases,
        tex(&s.protocol),
        s.scored,
        s.missing,
        s.failed,
        tex(&s.empty_masks),
        s.resampling.resamples
    );
    format!(
        "\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n\\begin{{tabular}}{{llrrrr}}\n\\toprule\nstructure & metric & mean & 95\\,\\% & cases & lost \\\\\n\
         \\midrule\n{rows}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )
}

/// Text made safe for LaTeX.
pub fn tex(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '_' | '&' | '%' | '#' | '$' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '<' => out += "$<$",
            '>' => out += "$>$",
            '|' => out += "$|$",
            c => out.push(c),
        }
    }
    out
}

/// A mean with what it was made of.
pub fn mean_text(m: &Mean) -> String {
    let lost = [(m.failed, "failed"), (m.missing, "missing")].into_iter().filter(|(n, _)| *n > 0);
    let as_worst = if m.mean.value().is_some() { " as the worst" } else { "" };
    let lost: String = lost.map(|(n, what)| format!(" + {n} {what}{as_worst}")).collect();
    let apart = if m.not_applicable > 0 { format!(", {} not asked", m.not_applicable) } else { String::new() };
    format!("{}{lost}{apart}", m.values)
}

#[test]
fn a_mean_says_what_it_was_made_of() {
    let na = Outcome::not_applicable("both empty");
    let outcomes = [Some(Outcome::Value(0.5)), Some(na), Some(Outcome::failed("wrong grid")), None];
    let mean = Mean::of(outcomes.iter().map(Option::as_ref), Some(0.0));
    assert_eq!(mean_text(&mean), "1 + 1 failed as the worst + 1 missing as the worst, 1 not asked");
}

#[test]
fn names_are_safe_in_latex() {
    assert_eq!(tex("a_b 5% |R| < {x}\\"), "a\\_b 5\\% $|$R$|$ $<$ \\{x\\}\\textbackslash{}");
}
