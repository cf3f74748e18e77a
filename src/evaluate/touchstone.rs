//! Touchstone's tables: `dsc.csv` and `nsd.csv` as released (a row a case, a column an organ, empty: not scored), in and out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use panscreen_envs::io::write_atomic;
use panscreen_envs::metrics::Outcome;
use panscreen_envs::metrics::protocols::touchstone::PROTOCOL;
use panscreen_envs::{Error, Result};

use super::metadata::read_table;
use super::record::{CaseRecord, Status, StructureRecord};
use super::write::delimited;

pub mod published;

/// Metrics with a table of their own, named after them.
const TABLES: [&str; 2] = ["dsc", "nsd"];

/// One released table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wide {
    pub organs: Vec<String>,
    /// Scores of a case in the order of `organs`; `None` where the field is empty or no number.
    pub rows: BTreeMap<String, Vec<Option<f64>>>,
    /// Rows beyond the first of their case, left out.
    pub duplicates: usize,
}

impl Wide {
    pub fn read(path: &Path) -> Result<Self> {
        let (heading, lines) = read_table(path)?;
        let organs: Vec<String> = heading.iter().skip(1).cloned().collect();
        let mut wide = Wide { organs, ..Wide::default() };
        for line in lines {
            let Some((case, fields)) = line.split_first() else { continue };
            if wide.rows.contains_key(case) {
                wide.duplicates += 1;
                continue;
            }
            let mut scores = Vec::with_capacity(wide.organs.len());
            for (organ, i) in wide.organs.iter().zip(0..) {
                let text = fields.get(i).map_or("", String::as_str);
                let score = text.parse::<f64>().ok().filter(|v| v.is_finite());
                if score.is_none() && !["", "nan", "NaN"].contains(&text) {
                    let found = format!("`{text}` for {organ} of {case}");
                    return Err(Error::file(path, found, "a number, or nothing", "correct the field"));
                }
                scores.push(score);
            }
            wide.rows.insert(case.clone(), scores);
        }
        Ok(wide)
    }

    /// As pandas writes it.
    pub fn csv(&self) -> Result<String> {
        let heading: Vec<&str> = std::iter::once("name").chain(self.organs.iter().map(String::as_str)).collect();
        let row = |(case, scores): (&String, &Vec<Option<f64>>)| {
            std::iter::once(case.clone()).chain(scores.iter().map(|s| s.map_or(String::new(), number))).collect()
        };
        delimited(b',', &heading, self.rows.iter().map(row))
    }

    fn of(records: &[CaseRecord], metric: &str) -> Self {
        let organs: Vec<String> = PROTOCOL.structures.iter().map(|s| s.name.to_owned()).collect();
        let score = |record: &CaseRecord, organ: &String| {
            let outcome = record.structures.iter().find(|s| s.structure == *organ)?.values.get(metric)?;
            match outcome {
                Outcome::Value(v) => Some(*v),
                // A lost case is the worst, and not left out.
                Outcome::Failed(_) => Some(0.0),
                Outcome::NotApplicable(_) => None,
            }
        };
        let judged = records.iter().filter(|r| r.status != Status::Unjudged);
        let rows = judged.map(|r| (r.case.clone(), organs.iter().map(|o| score(r, o)).collect())).collect();
        Wide { organs, rows, duplicates: 0 }
    }
}

/// A number as Python writes it: `0.5`, `1.0`, `1e-05`.
fn number(v: f64) -> String {
    if v != 0.0 && (v.abs() < 1e-4 || v.abs() >= 1e16) {
        let text = format!("{v:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{v:?}")
}

/// Write `dsc.csv` and `nsd.csv` into `dir`: the folder that a submission consists of.
pub fn write_tables(records: &[CaseRecord], dir: &Path) -> Result<()> {
    TABLES.iter().try_for_each(|metric| write_atomic(&dir.join(format!("{metric}.csv")), Wide::of(records, metric).csv()?.as_bytes()))
}

/// Whether the rule book of this name is Touchstone's.
pub fn is_rule(protocol: &str) -> bool {
    protocol == PROTOCOL.name
}

/// Whether a folder holds released tables and not masks.
pub fn is_released(dir: &Path) -> bool {
    dir.join("dsc.csv").is_file()
}

/// The tables of one method: `dsc.csv`, and `nsd.csv` where there is one.
pub fn read_released(dir: &Path) -> Result<Vec<(&'static str, Wide)>> {
    let there = TABLES.iter().map(|metric| (*metric, dir.join(format!("{metric}.csv")))).filter(|(_, path)| path.is_file());
    there.map(|(metric, path)| Ok((metric, Wide::read(&path)?))).collect()
}

/// Records of several methods from their tables. What any method has a score for is asked of all: a case that a table lacks is missing there.
pub fn records_of(methods: &[Vec<(&'static str, Wide)>]) -> Vec<Vec<CaseRecord>> {
    let mut asked: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (_, table) in methods.iter().flatten() {
        for (case, scores) in &table.rows {
            let organs = asked.entry(case).or_default();
            organs.extend(table.organs.iter().zip(scores).filter(|(_, s)| s.is_some()).map(|(o, _)| o.as_str()));
        }
    }
    // A row without any number is no case.
    asked.retain(|_, organs| !organs.is_empty());
    let of = |tables: &Vec<(&'static str, Wide)>| asked.iter().map(|(case, organs)| record_of(case, organs, tables)).collect();
    methods.iter().map(of).collect()
}

fn record_of(case: &str, organs: &BTreeSet<&str>, tables: &[(&'static str, Wide)]) -> CaseRecord {
    let lost = || Outcome::failed("the table has no score");
    let structures = PROTOCOL.structures.iter().map(|s| {
        let score = |metric: &str| {
            let (_, table) = tables.iter().find(|(m, _)| *m == metric)?;
            let column = table.organs.iter().position(|o| o == s.name)?;
            *table.rows.get(case)?.get(column)?
        };
        let asked = organs.contains(s.name);
        let outcome = |metric: &str| match (asked, score(metric)) {
            (false, _) => Outcome::not_applicable("no method has a score"),
            (true, Some(v)) => Outcome::Value(v),
            // A table that was not released is no failure of the case.
            (true, None) if !tables.iter().any(|(m, _)| *m == metric) => Outcome::not_applicable("no table of this metric"),
            (true, None) => lost(),
        };
        let values: BTreeMap<String, Outcome> = TABLES.iter().map(|m| ((*m).to_owned(), outcome(m))).collect();
        let missing = values.values().any(|o| matches!(o, Outcome::Failed(_)));
        let status = if missing { Status::Missing } else { Status::Scored };
        let reason = missing.then(|| format!("the table has no score of {}", s.name));
        StructureRecord { structure: s.name.into(), status, reason, reference_ml: 0.0, predicted_ml: None, values }
    });
    // What no method has is no structure of the case.
    let structures = structures.filter(|s| organs.contains(s.structure.as_str())).collect();
    CaseRecord { structures, ..CaseRecord::blank(case, String::new()) }.settled()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_python_writes_them() {
        for (v, text) in
            [(1.0, "1.0"), (0.0, "0.0"), (0.5, "0.5"), (0.1 + 0.2, "0.30000000000000004"), (1.5e-5, "1.5e-05"), (2e-5, "2e-05")]
        {
            assert_eq!(number(v), text);
        }
    }

    #[test]
    fn a_released_table_comes_back_and_a_case_that_it_lacks_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let write = |method: &str, text: &str| {
            let folder = dir.path().join(method);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("dsc.csv"), text).unwrap();
            read_released(&folder).unwrap()
        };
        let heading = "name,aorta,gall_bladder,kidney_left,kidney_right,liver,pancreas,postcava,spleen,stomach";
        let rows = "s1,0.5,,1.0,1.0,0.9712345678901234,0.0,0.1,0.2,3e-05\ns2,0.25,,,,0.5,,,,\n";
        let text = format!("{heading}\n{rows}");
        let a = write("a", &format!("\u{feff}{}s2,0.9,,,,,,,,\r\n", text.replace('\n', "\r\n")));
        assert_eq!((a[0].1.csv().unwrap(), a[0].1.duplicates), (text, 1));
        let b = write("b", &format!("{heading}\ns1,0.5,0.5,1.0,1.0,1.0,1.0,1.0,1.0,1.0\ns3,,,,,,,,,\n"));
        let [ra, rb] = &records_of(&[a, b])[..] else { panic!() };
        assert_eq!((ra.len(), rb.len()), (2, 2), "a row without a number is no case");
        assert_eq!((ra[1].status, rb[1].status), (Status::Scored, Status::Missing));
        let dsc = &PROTOCOL.metrics[0];
        // The gallbladder of s1 is asked of both, since one has a score; of s2 two organs are.
        let missing = |r: &CaseRecord| r.structures.iter().filter(|s| s.status == Status::Missing).count();
        assert_eq!((ra[0].status, missing(&ra[0]), missing(&rb[1])), (Status::Scored, 1, 2));
        assert_eq!((ra[1].outcome(None, dsc), rb[1].outcome(None, dsc)), (Some(Outcome::Value(0.375)), None));
        let refused = dir.path().join("x.csv");
        std::fs::write(&refused, format!("{heading}\ns1,0.5,abc\n")).unwrap();
        assert!(Wide::read(&refused).unwrap_err().to_string().contains("`abc` for gall_bladder of s1, expected a number"));
    }

    /// Order and significant cells of the maps over all cases, against SciPy. METHOD is named as in the golden file.
    #[test]
    fn significance_maps_of_the_released_tables() {
        use panscreen_envs::metrics::statistics::adjust::Adjustment;
        use panscreen_envs::metrics::statistics::significance::SignificanceMap;
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let released = root.join("../shared/touchstone/totalsegmentator_results");
        if !released.exists() {
            eprintln!(
                "SKIPPED: ../shared/touchstone/totalsegmentator_results/METHOD/{{dsc,nsd}}.csv, Touchstone's released tables, not present"
            );
            return;
        }
        let golden = std::fs::read(root.join("tests/golden/golden_metrics.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
        let maps = golden["touchstone_totalsegmentator"]["significance"].as_object().unwrap();
        for (key, want) in maps.iter().filter(|(key, _)| key.split('/').nth(1) == Some("all")) {
            let (metric, organ) = (key.split('/').next().unwrap(), key.split('/').next_back().unwrap());
            let mut names: Vec<&str> = want["order"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
            let order = names.clone();
            names.sort_unstable();
            let tables: Vec<Wide> = names.iter().map(|n| Wide::read(&released.join(n).join(format!("{metric}.csv"))).unwrap()).collect();
            let cases: BTreeSet<&String> = tables.iter().flat_map(|t| t.rows.keys()).collect();
            let score = |table: &Wide, case: &String| {
                let row = table.rows.get(case)?;
                let present: Vec<f64> = row.iter().flatten().copied().collect();
                match table.organs.iter().position(|o| o == organ) {
                    Some(column) => row[column],
                    None => panscreen_envs::metrics::statistics::describe::mean(&present),
                }
            };
            let scores: Vec<Vec<Option<f64>>> = tables.iter().map(|t| cases.iter().map(|c| score(t, c)).collect()).collect();
            let map = SignificanceMap::of(&scores, Adjustment::Holm, 0.05);
            assert_eq!(map.order.iter().map(|&m| names[m]).collect::<Vec<_>>(), order, "{key}");
            assert_eq!(want["n_significant_cells"], map.significant_cells(), "{key}");
        }
    }
}
