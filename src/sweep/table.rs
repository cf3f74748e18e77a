//! The table of a sweep: one row for each method and choice of params, the mean and the spread over seeds, paired intervals against a baseline.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use panscreen_envs::io::write_atomic;
use panscreen_envs::metrics::statistics::bootstrap::{Bootstrap, IntervalKind};
use panscreen_envs::metrics::statistics::resample::Draws;
use serde::Serialize;

use super::point::{Point, PointFolder, PointResult, Share, State, figure};
use super::settings::SweepConfig;
use crate::error::{Error, Result};

/// Draws of the bootstrap.
const RESAMPLES: usize = 2000;

/// `table.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    pub sweep: String,
    /// The row that the others are compared with.
    pub baseline: Option<String>,
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    /// Test scans behind the intervals; 0 where points were not judged.
    pub scans: usize,
    /// What the intervals are.
    pub intervals: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    /// Seeds that are done.
    pub seeds: Vec<u64>,
    pub failed: usize,
    pub pruned: usize,
    /// Not a method but what methods are held against.
    pub reference: bool,
    pub cells: BTreeMap<String, Cell>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cell {
    /// Over the seeds.
    pub mean: f64,
    /// Standard deviation over the seeds (n - 1); none for one seed.
    pub sd: Option<f64>,
    /// Mean difference from the baseline over the seeds that both have.
    pub difference: Option<f64>,
    /// 95 % of the difference when scans are drawn anew.
    pub low: Option<f64>,
    pub high: Option<f64>,
}

type Cases = BTreeMap<String, BTreeMap<String, Share>>;

/// A row's results by seed.
#[derive(Default)]
struct Results {
    by_seed: BTreeMap<u64, PointResult>,
    failed: usize,
    pruned: usize,
}

/// Make the table of the sweep in `root` and write it there as `table.json`, `table.csv` and `table.md`.
pub fn table(root: &Path) -> Result<Table> {
    let path = root.join("sweep.toml");
    let text = std::fs::read_to_string(&path).map_err(|e| panscreen_envs::Error::io(&path, e))?;
    let sweep: SweepConfig = toml::from_str(&text).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))?;
    let table = build(&sweep, results(root)?);
    let json = serde_json::to_string_pretty(&table).map_err(|e| Error::Usage(e.to_string()))?;
    for (name, text) in [("table.json", json + "\n"), ("table.csv", table.csv()), ("table.md", table.markdown())] {
        write_atomic(&root.join(name), text.as_bytes())?;
    }
    Ok(table)
}

/// Results of every point, by row, in the order of the trials.
fn results(root: &Path) -> Result<Vec<(String, Results)>> {
    let folder = root.join("points");
    let entries = std::fs::read_dir(&folder).map_err(|e| panscreen_envs::Error::io(&folder, e))?;
    let mut points: Vec<(Point, PointFolder)> = Vec::new();
    for entry in entries.flatten() {
        let folder = PointFolder(entry.path());
        points.extend(folder.point()?.filter(|p| !p.shared).map(|p| (p, folder)));
    }
    points.sort_by_key(|p| (p.0.trial, p.0.seed));
    let mut rows: Vec<(String, Results)> = Vec::new();
    for (point, folder) in points {
        let name = point.row();
        let at = rows.iter().position(|(n, _)| *n == name).unwrap_or_else(|| {
            rows.push((name, Results::default()));
            rows.len() - 1
        });
        let row = &mut rows[at].1;
        match folder.state()?.map(|f| f.state) {
            Some(State::Done) => row.by_seed.extend(folder.result()?.map(|r| (point.seed, r))),
            Some(State::Failed) => row.failed += 1,
            Some(State::Pruned) => row.pruned += 1,
            None => {}
        }
    }
    Ok(rows)
}

fn build(sweep: &SweepConfig, results: Vec<(String, Results)>) -> Table {
    let judged = sweep.judge.is_some();
    let mut columns = sweep.columns.clone();
    if columns.is_empty() {
        let all: BTreeSet<&String> = results.iter().flat_map(|(_, r)| r.by_seed.values().flat_map(|p| p.metrics.keys())).collect();
        let wanted = |name: &str| match (judged, sweep.command.is_empty()) {
            (true, _) => {
                ["/windows_kept", "/relative_recall", "/lesion_dice"].iter().any(|end| name.ends_with(end))
                    && !name.starts_with("validation")
            }
            (false, true) => name.starts_with("validation/"),
            (false, false) => true,
        };
        columns = all.into_iter().filter(|name| wanted(name)).cloned().collect();
    }
    let baseline = sweep.baseline.clone().or_else(|| Some(results.first()?.0.clone())).filter(|_| results.len() > 1);
    let held_against = baseline.as_ref().and_then(|name| results.iter().find(|(n, _)| n == name)).map(|(_, r)| r);
    let mut rows: Vec<Row> =
        results.iter().map(|(name, r)| row(name, r, held_against.filter(|_| baseline.as_ref() != Some(name)), &columns)).collect();
    let scans = results.iter().flat_map(|(_, r)| r.by_seed.values()).map(|p| p.cases.len()).max().unwrap_or(0);
    rows.extend(references(&results, &columns));
    let intervals = format!(
        "difference from the baseline on the same scans; 95 % of {RESAMPLES} draws of the scans with replacement, mean over the seeds"
    );
    Table { sweep: sweep.name.clone(), baseline, columns, rows, scans, intervals }
}

fn row(name: &str, results: &Results, baseline: Option<&Results>, columns: &[String]) -> Row {
    let cell = |column: &String| {
        let values: Vec<f64> = results.by_seed.values().filter_map(|r| r.metrics.get(column).copied()).collect();
        let mean = mean(&values)?;
        let pairs: Vec<(&PointResult, &PointResult)> =
            results.by_seed.iter().filter_map(|(seed, r)| Some((r, baseline?.by_seed.get(seed)?))).collect();
        let differences: Vec<f64> = pairs.iter().filter_map(|(a, b)| Some(a.metrics.get(column)? - b.metrics.get(column)?)).collect();
        let interval = paired(&pairs, column);
        Some((
            column.clone(),
            Cell {
                mean,
                sd: deviation(&values),
                difference: self::mean(&differences),
                low: interval.map(|i| i.0),
                high: interval.map(|i| i.1),
            },
        ))
    };
    Row {
        name: name.to_owned(),
        seeds: results.by_seed.keys().copied().collect(),
        failed: results.failed,
        pruned: results.pruned,
        reference: false,
        cells: columns.iter().filter_map(cell).collect(),
    }
}

/// 95 % of the mean difference over `pairs` (one a seed) when the cases that all have are drawn with replacement.
fn paired(pairs: &[(&PointResult, &PointResult)], column: &str) -> Option<(f64, f64)> {
    let has = |cases: &Cases, name: &String| cases.get(name).is_some_and(|c| c.contains_key(column));
    let names: Vec<&String> =
        pairs.first()?.0.cases.keys().filter(|n| pairs.iter().all(|(a, b)| has(&a.cases, n) && has(&b.cases, n))).collect();
    let shares = |cases: &Cases| -> Vec<Share> { names.iter().map(|n| cases[*n][column]).collect() };
    let pairs: Vec<(Vec<Share>, Vec<Share>)> = pairs.iter().map(|(a, b)| (shares(&a.cases), shares(&b.cases))).collect();
    let units: Vec<Vec<usize>> = (0..names.len()).map(|i| vec![i]).collect();
    let of = |shares: &[Share], drawn: &[usize]| {
        let (above, below) = drawn.iter().fold((0.0, 0.0), |sum, &i| (sum.0 + shares[i][0], sum.1 + shares[i][1]));
        above / below
    };
    let difference = |drawn: &[usize]| pairs.iter().map(|(a, b)| of(a, drawn) - of(b, drawn)).sum::<f64>() / pairs.len() as f64;
    let interval = Bootstrap::of(&units, RESAMPLES, Draws { seed: 0 }, difference)?.interval(IntervalKind::Percentile, 0.95)?;
    Some((interval.low, interval.high))
}

/// Focus everywhere and the oracle, as the first points saw them: one for each seed where Focus differs.
fn references(results: &[(String, Results)], columns: &[String]) -> Vec<Row> {
    let Some((_, first)) = results.iter().find(|(_, r)| r.by_seed.values().any(|p| !p.references.is_empty())) else { return Vec::new() };
    let names: BTreeSet<&String> = first.by_seed.values().flat_map(|p| p.references.keys()).collect();
    let row = |name: &String| {
        let cell = |column: &String| {
            let values: Vec<f64> = first.by_seed.values().filter_map(|p| figure(p.references.get(name)?.values(), column)).collect();
            Some((column.clone(), Cell { mean: mean(&values)?, sd: deviation(&values), ..Cell::default() }))
        };
        Row {
            name: name.clone(),
            seeds: first.by_seed.keys().copied().collect(),
            failed: 0,
            pruned: 0,
            reference: true,
            cells: columns.iter().filter_map(cell).collect(),
        }
    };
    names.into_iter().map(row).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn deviation(values: &[f64]) -> Option<f64> {
    let middle = mean(values)?;
    (values.len() > 1).then(|| (values.iter().map(|v| (v - middle).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt())
}

impl Cell {
    /// `0.083 ±0.011`.
    pub fn value(&self) -> String {
        let sd = self.sd.map_or(String::new(), |sd| format!(" ±{}", digits(sd)));
        format!("{}{sd}", digits(self.mean))
    }

    /// `+0.012 [-0.003, 0.027]`.
    pub fn compared(&self) -> Option<String> {
        let difference = self.difference?;
        let interval = self.low.zip(self.high).map_or(String::new(), |(low, high)| format!(" [{}, {}]", digits(low), digits(high)));
        Some(format!("{}{}{interval}", if difference >= 0.0 { "+" } else { "" }, digits(difference)))
    }
}

/// Three digits behind the point, or more where there would be only zeros.
fn digits(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.01 { format!("{value:.2e}") } else { format!("{value:.3}") }
}

impl Table {
    /// One line a row and column.
    fn csv(&self) -> String {
        let mut text = String::from("row,column,seeds,mean,sd,difference,low,high\n");
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
        for row in &self.rows {
            for (column, c) in &row.cells {
                let numbers = [c.mean.to_string(), number(c.sd), number(c.difference), number(c.low), number(c.high)].join(",");
                let _ = writeln!(text, "{},{},{},{numbers}", quoted(&row.name), quoted(column), row.seeds.len());
            }
        }
        text
    }

    fn markdown(&self) -> String {
        let mut text = format!("| | seeds | {} |\n|---|---|{}\n", self.columns.join(" | "), "---|".repeat(self.columns.len()));
        for row in &self.rows {
            let cell = |column: &String| {
                let Some(cell) = row.cells.get(column) else { return "–".to_owned() };
                cell.compared().map_or(cell.value(), |compared| format!("{} ({compared})", cell.value()))
            };
            let cells: Vec<String> = self.columns.iter().map(cell).collect();
            let _ = writeln!(text, "| {} | {} | {} |", row.name.replace('|', "\\|"), row.seeds.len(), cells.join(" | "));
        }
        let baseline = self.baseline.as_ref().map_or(String::new(), |b| format!(" Baseline: {b}; {}.", self.intervals));
        let _ = writeln!(text, "\nMean ± standard deviation over seeds.{baseline}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(shares: &[Share]) -> PointResult {
        let cases: Cases = shares.iter().enumerate().map(|(i, s)| (format!("c{i}"), BTreeMap::from([("kept".to_owned(), *s)]))).collect();
        PointResult { metrics: BTreeMap::from([("kept".into(), figure(cases.values(), "kept").unwrap())]), cases, ..PointResult::default() }
    }

    fn results(by_seed: &[(u64, &[Share])]) -> Results {
        Results { by_seed: by_seed.iter().map(|(seed, shares)| (*seed, result(shares))).collect(), failed: 1, pruned: 0 }
    }

    #[test]
    fn differences_are_paired_over_scans_and_seeds() {
        let baseline = results(&[(1, &[[8.0, 10.0], [2.0, 10.0]]), (2, &[[6.0, 10.0], [4.0, 10.0]])]);
        // Each scan one window less, with either seed.
        let better = results(&[(1, &[[7.0, 10.0], [1.0, 10.0]]), (2, &[[5.0, 10.0], [3.0, 10.0]]), (3, &[[9.0, 10.0], [9.0, 10.0]])]);
        let row = row("better", &better, Some(&baseline), &["kept".into(), "absent".into()]);
        let cell = &row.cells["kept"];
        let near = |a: Option<f64>, b: f64| assert!((a.unwrap() - b).abs() < 1e-12, "{a:?} {b}");
        near(Some(cell.mean), (0.4 + 0.4 + 0.9) / 3.0);
        near(cell.sd, (0.25_f64 / 3.0).sqrt());
        near(cell.difference, -0.1);
        near(cell.low, -0.1);
        near(cell.high, -0.1);
        assert_eq!((row.seeds.as_slice(), row.failed, row.cells.len()), (&[1, 2, 3][..], 1, 1));
        assert_eq!((cell.value(), cell.compared().unwrap()), ("0.567 ±0.289".into(), "-0.100 [-0.100, -0.100]".into()));
    }

    #[test]
    fn an_interval_holds_what_scans_leave_open() {
        let baseline = results(&[(1, &[[5.0, 10.0]; 40])]);
        let shares: Vec<Share> = (0..40).map(|i| [if i % 2 == 0 { 9.0 } else { 3.0 }, 10.0]).collect();
        let (low, high) = paired(&[(&result(&shares), &baseline.by_seed[&1])], "kept").unwrap();
        // The standard error of the mean difference is 0.3 / sqrt(40).
        let error = 0.3 / 40_f64.sqrt();
        assert!((low - (0.1 - 1.96 * error)).abs() < 0.02 && (high - (0.1 + 1.96 * error)).abs() < 0.02, "{low} {high}");
        assert_eq!(paired(&[(&PointResult::default(), &baseline.by_seed[&1])], "kept"), None);
    }
}
