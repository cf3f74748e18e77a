//! The files of an evaluation besides `cases.jsonl`.

use std::path::Path;

use panscreen_envs::io::write_atomic;
use panscreen_envs::metrics::protocols::Protocol;
use panscreen_envs::metrics::{Mean, Outcome};
use panscreen_envs::{Error, Result};
use serde::Serialize;

use super::record::{CaseRecord, Status};
use super::run::Evaluation;
use super::summary::{Row, Summary};
use super::touchstone;

impl Evaluation {
    /// Write `summary.json`, `evaluation.json` (summary and cases), `cases.tsv` (a line a case and structure), `table.csv` and `table.tex` into
    /// `dir`; for Touchstone its `dsc.csv` and `nsd.csv` too.
    pub fn write(&self, protocol: &Protocol, dir: &Path) -> Result<()> {
        write_atomic(&dir.join("summary.json"), json(&self.summary)?.as_bytes())?;
        write_atomic(&dir.join("evaluation.json"), json(self)?.as_bytes())?;
        write_atomic(&dir.join("cases.tsv"), cases_tsv(protocol, &self.cases)?.as_bytes())?;
        write_atomic(&dir.join("table.csv"), table_csv(&self.summary)?.as_bytes())?;
        write_atomic(&dir.join("table.tex"), table_tex(&self.summary).as_bytes())?;
        if touchstone::is_rule(protocol.name) { touchstone::write_tables(&self.cases, dir) } else { Ok(()) }
    }
}

/// A table as text: fields are quoted where they hold the delimiter, a quote or a line's end.
pub fn delimited(delimiter: u8, heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<String> {
    let wrong = |e: &dyn std::fmt::Display| Error::Setting(format!("a table can't be written: {e}"));
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
    writer.write_record(heading).map_err(|e| wrong(&e))?;
    for row in rows {
        writer.write_record(&row).map_err(|e| wrong(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| wrong(&e))?;
    String::from_utf8(bytes).map_err(|e| wrong(&e))
}

/// Six decimals; empty where there is no number. The 0 added turns the -0 of an empty sum into 0.
pub fn six(v: Option<f64>) -> String {
    v.map_or(String::new(), |v| format!("{:.6}", v + 0.0))
}

pub fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|e| Error::Setting(e.to_string()))
}

/// Empty where there is no number. The 0 added turns the -0 of an empty sum into 0.
pub fn cell(outcome: Option<&Outcome>) -> String {
    outcome.and_then(Outcome::value).map_or(String::new(), |v| format!("{:.4}", v + 0.0))
}

fn cases_tsv(protocol: &Protocol, cases: &[CaseRecord]) -> Result<String> {
    let of_lesions = protocol.is_of_lesions();
    let mut heading = vec!["case", "structure", "status", "reference_ml", "predicted_ml"];
    heading.extend(protocol.metrics.iter().map(|m| m.name));
    heading.extend(of_lesions.then_some(["lesions", "lesions_hit", "findings"]).into_iter().flatten());
    heading.push("reason");
    // A line stays a line, for readers that know no quotes.
    let said = |reason: &Option<String>| reason.as_deref().unwrap_or("").replace(['\t', '\n', '\r', '"'], " ");
    let mut rows = Vec::new();
    for c in cases {
        if c.structures.is_empty() {
            let mut row = vec![c.case.clone(), String::new(), status(c.status).to_owned()];
            row.resize(heading.len() - 1, String::new());
            row.push(said(&c.reason));
            rows.push(row);
        }
        for s in &c.structures {
            let ml = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.3}"));
            let mut row =
                vec![c.case.clone(), s.structure.clone(), status(s.status).to_owned(), ml(Some(s.reference_ml)), ml(s.predicted_ml)];
            row.extend(protocol.metrics.iter().map(|m| cell(s.values.get(m.name))));
            if let Some(l) = &c.lesions {
                let findings = l.matched.findings.as_ref().map_or(String::new(), |f| f.len().to_string());
                row.extend([l.matched.lesions.len().to_string(), l.matched.hits().to_string(), findings]);
            }
            row.push(said(&s.reason));
            rows.push(row);
        }
    }
    delimited(b'\t', &heading, rows)
}

pub fn status(status: Status) -> &'static str {
    match status {
        Status::Scored => "scored",
        Status::Missing => "missing",
        Status::Failed => "failed",
        Status::Unjudged => "unjudged",
    }
}

fn table_csv(s: &Summary) -> Result<String> {
    const HEADING: [&str; 13] = [
        "structure",
        "metric",
        "mean",
        "low",
        "high",
        "deviation",
        "quartile_1",
        "median",
        "quartile_3",
        "values",
        "not_applicable",
        "failed",
        "missing",
    ];
    let row = |r: &Row| {
        let [q1, median, q3] = r.quartiles.map_or([None; 3], |q| q.map(Some));
        let Mean { mean, values, not_applicable, failed, missing } = &r.mean;
        let figures = [mean.value(), r.interval.map(|i| i.low), r.interval.map(|i| i.high), r.deviation, q1, median, q3].map(six);
        let counts = [values, not_applicable, failed, missing].map(usize::to_string);
        [r.structure.clone(), r.metric.clone()].into_iter().chain(figures).chain(counts).collect()
    };
    delimited(b',', &HEADING, s.table.iter().map(row))
}

/// For `booktabs`: the policy and what became of the cases stand in the caption.
fn table_tex(s: &Summary) -> String {
    let mut rows = String::new();
    for r in &s.table {
        let mean = r.mean.mean.value().map_or("--".into(), |v| format!("{v:.3}"));
        let interval = r.interval.map_or("--".into(), |i| format!("{:.3}--{:.3}", i.low, i.high));
        let lost = r.mean.failed + r.mean.missing;
        rows += &format!("{} & {} & {mean} & {interval} & {} & {lost} \\\\\n", tex(&r.structure), tex(&r.metric), r.mean.values);
    }
    let caption = format!(
        "Protocol {}: {}. Empty masks ({}): {}. Lost ones, missing or failed, count as the worst value; a metric without one has no mean then. Intervals: 95\\,\\%, {} bootstrap draws.",
        tex(&s.protocol),
        tex(&s.counts()),
        tex(&s.empty_policy),
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
fn fields_are_quoted_where_they_must_be() {
    let text = delimited(b',', &["a", "b"], [vec!["x, y".to_owned(), "said \"no\"".to_owned()], vec!["plain".into(), String::new()]]);
    assert_eq!(text.unwrap(), "a,b\n\"x, y\",\"said \"\"no\"\"\"\nplain,\n");
    assert!(delimited(b',', &["a", "b"], [vec!["one".to_owned()]]).is_err());
}

#[test]
fn names_are_safe_in_latex() {
    assert_eq!(tex("a_b 5% |R| < {x}\\"), "a\\_b 5\\% $|$R$|$ $<$ \\{x\\}\\textbackslash{}");
}
