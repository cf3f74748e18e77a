//! The table of a sweep: one row for each method and choice of params, the mean and the spread over seeds, paired intervals against a baseline.

mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use panscreen_envs::io::write_atomic;
use panscreen_envs::metrics::statistics::bootstrap::{Bootstrap, IntervalKind, units_of};
use panscreen_envs::metrics::statistics::resample::Draws;
use rayon::prelude::*;
use serde::Serialize;

use super::point::{Point, PointFolder, PointResult, Share, State, figure};
use super::settings::SweepConfig;
use crate::error::{Error, Result};

/// The ids of the points that the sweep has now.
pub const POINTS: &str = "points.txt";

/// Draws of the bootstrap.
const RESAMPLES: usize = 2000;

/// `table.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    pub sweep: String,
    /// The row that the others are compared with.
    pub baseline: Option<String>,
    pub columns: Vec<String>,
    /// Methods, then what they are held against: Focus everywhere, and the oracle, which needs the fewest windows there are.
    pub rows: Vec<Row>,
    /// Test scans, whose they are, and the lesions in them; 0 where points were not judged.
    pub scans: usize,
    pub patients: usize,
    pub lesions: usize,
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
    /// 95 % of the difference when patients are drawn anew.
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

/// Results of every point that has begun, by row, in the order of the trials.
fn results(root: &Path) -> Result<Vec<(String, Results)>> {
    let mut points: Vec<(Point, PointFolder)> = Vec::new();
    for folder in folders(root)? {
        points.extend(folder.point()?.filter(|p| !p.shared).map(|p| (p, folder)));
    }
    points.sort_by_key(|p| (p.0.trial, p.0.seed));
    let (mut rows, mut number) = (Vec::<(String, Results)>::new(), BTreeMap::new());
    for (point, folder) in points {
        let at = *number.entry(point.row()).or_insert_with(|| {
            rows.push((point.row(), Results::default()));
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

/// Folders of the points that the sweep has now. Where nobody has listed them, of all that are there.
fn folders(root: &Path) -> Result<Vec<PointFolder>> {
    if let Ok(text) = std::fs::read_to_string(root.join(POINTS)) {
        return Ok(text.lines().map(|id| PointFolder::of(root, id)).collect());
    }
    let folder = root.join("points");
    let entries = std::fs::read_dir(&folder).map_err(|e| panscreen_envs::Error::io(&folder, e))?;
    Ok(entries.flatten().map(|entry| PointFolder(entry.path())).collect())
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
    let first = || Some(results.first()?.0.clone());
    let is_there = |name: &String| results.len() > 1 && results.iter().any(|(n, _)| n == name);
    let baseline = sweep.baseline.clone().or_else(first).filter(is_there);
    let held_against = results.iter().find(|(name, _)| Some(name) == baseline.as_ref()).map(|(_, r)| r);
    let against = |name: &String| held_against.filter(|_| Some(name) != baseline.as_ref());
    let mut rows: Vec<Row> = results.par_iter().map(|(name, r)| row(name, r, against(name), &columns)).collect();
    rows.extend(references(&results).iter().map(|(name, r)| Row { reference: true, ..row(name, r, held_against, &columns) }));
    let done = || results.iter().flat_map(|(_, r)| r.by_seed.values());
    let lesions = done().filter_map(|p| p.metrics.get("test_lesions")).fold(0.0, |a: f64, b| a.max(*b)) as usize;
    let patients = |p: &PointResult| p.cases.keys().map(|case| patient(p, case)).collect::<BTreeSet<_>>().len();
    let intervals = format!(
        "difference from the baseline on the same scans; 95 % of {RESAMPLES} draws of the patients with replacement, mean over the seeds"
    );
    Table {
        sweep: sweep.name.clone(),
        scans: done().map(|p| p.cases.len()).max().unwrap_or(0),
        patients: done().map(patients).max().unwrap_or(0),
        lesions,
        baseline,
        columns,
        rows,
        intervals,
    }
}

/// Whose scan `case` is; a patient of its own where nobody knows.
fn patient<'a>(result: &'a PointResult, case: &'a String) -> &'a String {
    result.patients.get(case).unwrap_or(case)
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

/// 95 % of the mean difference over `pairs` (one a seed) when the patients of the cases that all have are drawn with
/// replacement.
fn paired(pairs: &[(&PointResult, &PointResult)], column: &str) -> Option<(f64, f64)> {
    let has = |cases: &Cases, name: &String| cases.get(name).is_some_and(|c| c.contains_key(column));
    let names: Vec<&String> =
        pairs.first()?.0.cases.keys().filter(|n| pairs.iter().all(|(a, b)| has(&a.cases, n) && has(&b.cases, n))).collect();
    let patients: Vec<&String> = names.iter().map(|name| patient(pairs[0].0, name)).collect();
    let shares = |cases: &Cases| -> Vec<Share> { names.iter().map(|n| cases[*n][column]).collect() };
    let pairs: Vec<(Vec<Share>, Vec<Share>)> = pairs.iter().map(|(a, b)| (shares(&a.cases), shares(&b.cases))).collect();
    let units = units_of(&patients);
    let of = |shares: &[Share], drawn: &[usize]| {
        let (above, below) = drawn.iter().fold((0.0, 0.0), |sum, &i| (sum.0 + shares[i][0], sum.1 + shares[i][1]));
        above / below
    };
    let difference = |drawn: &[usize]| pairs.iter().map(|(a, b)| of(a, drawn) - of(b, drawn)).sum::<f64>() / pairs.len() as f64;
    let interval = Bootstrap::of(&units, RESAMPLES, Draws { seed: 0 }, difference)?.interval(IntervalKind::Percentile, 0.95)?;
    Some((interval.low, interval.high))
}

/// What methods are held against, as rows. Points that share one Focus have the same; where they do not, each row has its own.
fn references(results: &[(String, Results)]) -> Vec<(String, Results)> {
    let mut found: BTreeMap<&str, Vec<(String, Results)>> = BTreeMap::new();
    for (row, results) in results {
        for (seed, point) in &results.by_seed {
            for (name, cases) in &point.references {
                let rows = found.entry(name).or_default();
                let fits = |r: &Results| r.by_seed.get(seed).is_none_or(|there| there.cases == *cases);
                let own = format!("{name} of {row}");
                let at = rows.iter().position(|(n, r)| (n == name || *n == own) && fits(r)).unwrap_or_else(|| {
                    rows.push((if rows.is_empty() { name.clone() } else { own }, Results::default()));
                    rows.len() - 1
                });
                rows[at].1.by_seed.entry(*seed).or_insert_with(|| {
                    let columns: BTreeSet<&String> = cases.values().flat_map(BTreeMap::keys).collect();
                    let metrics = columns.into_iter().filter_map(|c| Some((c.clone(), figure(cases.values(), c)?))).collect();
                    PointResult { metrics, cases: cases.clone(), patients: point.patients.clone(), ..PointResult::default() }
                });
            }
        }
    }
    found.into_values().flatten().collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn deviation(values: &[f64]) -> Option<f64> {
    let middle = mean(values)?;
    (values.len() > 1).then(|| (values.iter().map(|v| (v - middle).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::super::point::Final;
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
        assert_eq!((row.seeds.as_slice(), row.count().as_str(), row.cells.len()), (&[1, 2, 3][..], "3, 1 failed", 1));
        assert_eq!((cell.value(false), cell.compared(false).unwrap()), ("0.567 ± 0.289".into(), "-0.100 [-0.100, -0.100]".into()));
    }

    /// Ten scans of one patient are one draw: without that the interval would be far too narrow.
    #[test]
    fn scans_of_a_patient_are_drawn_together() {
        let of_patients = |shares: &[Share], scans_each: usize| {
            let mut result = result(shares);
            result.patients =
                result.cases.keys().map(|c| (c.clone(), format!("p{}", c[1..].parse::<usize>().unwrap() / scans_each))).collect();
            result
        };
        let shares: Vec<Share> = (0..40).map(|i| [if i / 10 % 2 == 0 { 9.0 } else { 3.0 }, 10.0]).collect();
        let baseline = of_patients(&[[5.0, 10.0]; 40], 10);
        let width = |scans_each| {
            let (low, high) = paired(&[(&of_patients(&shares, scans_each), &baseline)], "kept").unwrap();
            high - low
        };
        let (alone, together) = (width(1), width(10));
        assert!(together > 2.5 * alone, "{together} {alone}");
    }

    fn with_references(mut result: PointResult, everywhere: f64) -> PointResult {
        let of = |kept: f64| result.cases.keys().map(|c| (c.clone(), BTreeMap::from([("kept".to_owned(), [kept, 10.0])]))).collect();
        result.references = BTreeMap::from([("Focus everywhere".to_owned(), of(everywhere)), ("oracle".to_owned(), of(1.0))]);
        result
    }

    #[test]
    fn the_floor_and_focus_everywhere_are_rows_with_their_own_comparison() {
        let sweep: SweepConfig = toml::from_str("config = \"c\"\ncolumns = [\"kept\"]\n[judge]").unwrap();
        let point = |kept: f64, everywhere| with_references(result(&[[kept, 10.0], [kept, 10.0]]), everywhere);
        let row = |points: Vec<PointResult>| Results { by_seed: (1..).zip(points).collect(), failed: 0, pruned: 0 };
        let rows = |other: f64| {
            let results = vec![
                ("a".to_owned(), row(vec![point(4.0, 10.0), point(6.0, 10.0)])),
                ("b".to_owned(), row(vec![point(3.0, other), point(3.0, other)])),
            ];
            build(&sweep, results)
        };
        let table = rows(10.0);
        let names = |table: &Table| table.rows.iter().map(|r| format!("{} {}", r.name, r.count())).collect::<Vec<_>>().join(", ");
        assert_eq!(names(&table), "a 2, b 2, Focus everywhere 2, oracle 2");
        assert_eq!(Table::texts(&table.rows[3], "kept"), ("0.100 ± 0.000".into(), "-0.400 [-0.400, -0.400]".into()));
        assert_eq!(table.counts(), "2 test scans of 2 patients with 0 lesions");
        let text = table.markdown();
        assert!(
            text.contains("| oracle | 2 | 0.100 ± 0.000 (-0.400 [-0.400, -0.400]) |") && text.contains("2 test scans of 2 patients"),
            "{text}"
        );
        // Rows that each have trained a Focus have a floor of their own.
        assert_eq!(names(&rows(9.0)), "a 2, b 2, Focus everywhere 2, Focus everywhere of b 2, oracle 2");
    }

    #[test]
    fn points_of_an_earlier_sweep_file_are_no_rows() {
        let dir = tempfile::tempdir().unwrap();
        for (id, worth) in [("a1", 1.0), ("b2", 2.0)] {
            let point: Point = serde_json::from_value(serde_json::json!({
                "id": id, "trial": 0, "method": "ce", "params": {}, "seed": 1, "shared": false, "needs": [], "command": [], "judge": null
            }))
            .unwrap();
            let folder = PointFolder::create(dir.path(), &point, None).unwrap();
            folder.write("result.json", &PointResult { metrics: BTreeMap::from([("worth".into(), worth)]), ..Default::default() }).unwrap();
            folder.finish(Final::now(State::Done, None)).unwrap();
        }
        let worth = || super::results(dir.path()).unwrap()[0].1.by_seed[&1].metrics["worth"];
        for (listed, expected) in [("a1\n", 1.0), ("b2\nc3\n", 2.0)] {
            std::fs::write(dir.path().join(POINTS), listed).unwrap();
            assert_eq!(worth(), expected, "the other one has the same row and seed");
        }
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
