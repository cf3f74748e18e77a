//! Facts about cases from a table (age, sex, race, scanner, any column): groups to compare, and which cases are one patient's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use panscreen_envs::metrics::statistics::describe::{quantile_of_sorted, sorted};
use panscreen_envs::{Error, Result};

/// Headings that name the column of the case, and of the patient; the first column is the case's where none does.
const CASE: [&str; 5] = ["case", "name", "image_id", "case_id", "id"];
const PATIENT: [&str; 4] = ["patient", "patient_id", "subject", "subject_id"];
/// A column with more values than this is no factor, but one of numbers is cut into quarters.
const MOST_VALUES: usize = 12;

/// A metadata table.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    columns: Vec<String>,
    rows: BTreeMap<String, Vec<String>>,
    /// Rows beyond the first of their case; the first counts.
    pub duplicates: usize,
    /// Columns to group by; empty: every column that can be.
    wanted: Vec<String>,
}

/// Cases by one factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    pub name: String,
    /// Name of the group and the numbers of its cases.
    pub groups: Vec<(String, Vec<usize>)>,
    /// Cases that the table says nothing about.
    pub unknown: usize,
}

/// A table of text with its heading: comma, semicolon or tab, whichever the first line has most of. Blanks and a byte-order mark are taken off.
pub fn read_table(path: &Path) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let first = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let count = |c: u8| first.iter().filter(|&&b| b == c).count();
    let delimiter = [b',', b';', b'\t'].into_iter().rev().max_by_key(|&c| count(c)).unwrap_or(b',');
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).trim(csv::Trim::All).from_reader(bytes);
    let wrong = |e: csv::Error| Error::file(path, e.to_string(), "a table with a heading", "write it as CSV in UTF-8");
    let heading: Vec<String> = reader.headers().map_err(wrong)?.iter().map(str::to_owned).collect();
    if heading.iter().all(String::is_empty) {
        return Err(Error::file(path, "no heading", "a table whose first line names its columns", "write it as CSV in UTF-8"));
    }
    let rows = reader.records().map(|r| r.map(|r| r.iter().map(str::to_owned).collect())).collect::<Result<_, _>>().map_err(wrong)?;
    Ok((heading, rows))
}

impl Metadata {
    /// `wanted`: columns to group by; empty takes all that can be.
    pub fn read(path: &Path, wanted: &[String]) -> Result<Self> {
        let (columns, lines) = read_table(path)?;
        let case = column(&columns, &CASE).unwrap_or(0);
        let (mut rows, mut duplicates) = (BTreeMap::new(), 0);
        for line in lines {
            let name = line.get(case).map(|n| panscreen_envs::io::case_name(Path::new(n))).unwrap_or_default();
            match rows.entry(name) {
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(line);
                }
                std::collections::btree_map::Entry::Occupied(_) => duplicates += 1,
            }
        }
        if let Some(unknown) = wanted.iter().find(|w| !columns.contains(w)) {
            return Err(Error::file(
                path,
                format!("no column `{unknown}`"),
                format!("one of {}", columns.join(", ")),
                "correct --group-by",
            ));
        }
        Ok(Metadata { columns, rows, duplicates, wanted: wanted.to_vec() })
    }

    fn value(&self, case: &str, column: usize) -> Option<&str> {
        self.rows.get(case)?.get(column).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// The patient of each case, where the table has such a column; a case without one is its own patient.
    pub fn patients<'a>(&'a self, cases: &[&'a str]) -> Option<Vec<&'a str>> {
        let patient = column(&self.columns, &PATIENT)?;
        Some(cases.iter().map(|case| self.value(case, patient).unwrap_or(case)).collect())
    }

    /// Groups of `cases` by each column. Ages are grouped by decade, other numbers of many values by quarter.
    pub fn factors(&self, cases: &[&str]) -> Vec<Factor> {
        let apart = [column(&self.columns, &CASE).unwrap_or(0)].into_iter().chain(column(&self.columns, &PATIENT)).collect::<Vec<_>>();
        let asked = |i: usize| if self.wanted.is_empty() { !apart.contains(&i) } else { self.wanted.contains(&self.columns[i]) };
        (0..self.columns.len()).filter(|&i| asked(i)).filter_map(|i| self.factor(i, cases)).collect()
    }

    fn factor(&self, column: usize, cases: &[&str]) -> Option<Factor> {
        let name = self.columns[column].clone();
        let values: Vec<Option<&str>> = cases.iter().map(|case| self.value(case, column)).collect();
        let known = || values.iter().flatten();
        let numbers: Option<Vec<f64>> = known().map(|v| v.parse::<f64>().ok().filter(|v| v.is_finite())).collect();
        let distinct: BTreeSet<&str> = known().copied().collect();
        let is_age = ["age", "ages"].contains(&name.to_lowercase().as_str());
        let cut = match numbers {
            Some(_) if is_age => Cut::Decades,
            _ if distinct.len() <= MOST_VALUES => Cut::Values,
            Some(numbers) => Cut::quarters(&numbers),
            None => return None,
        };
        let mut groups: BTreeMap<(i64, String), Vec<usize>> = BTreeMap::new();
        for (i, value) in values.iter().enumerate() {
            if let Some(value) = value {
                groups.entry(cut.group(value)).or_default().push(i);
            }
        }
        let unknown = values.iter().filter(|v| v.is_none()).count();
        let groups: Vec<(String, Vec<usize>)> = groups.into_iter().map(|((_, name), cases)| (name, cases)).collect();
        (groups.len() > 1).then_some(Factor { name, groups, unknown })
    }
}

/// How a column's values become groups.
enum Cut {
    Decades,
    Values,
    /// At the quartiles.
    Quarters([f64; 3]),
}

impl Cut {
    fn quarters(numbers: &[f64]) -> Self {
        let ascending = sorted(numbers);
        Cut::Quarters([0.25, 0.5, 0.75].map(|q| quantile_of_sorted(&ascending, q).unwrap_or(0.0)))
    }

    /// Groups come in the order of their number, then of their name.
    fn group(&self, value: &str) -> (i64, String) {
        let number = value.parse::<f64>().unwrap_or(0.0);
        match self {
            Cut::Values => (0, value.to_owned()),
            Cut::Decades => {
                let decade = (number / 10.0).floor() as i64 * 10;
                (decade, format!("{decade}-{}", decade + 9))
            }
            Cut::Quarters(limits) => {
                let quarter = limits.partition_point(|l| *l < number);
                let name = match quarter {
                    0 => format!("up to {}", limits[0]),
                    3 => format!("above {}", limits[2]),
                    q => format!("{} to {}", limits[q - 1], limits[q]),
                };
                (quarter as i64, name)
            }
        }
    }
}

fn column(columns: &[String], names: &[&str]) -> Option<usize> {
    names.iter().find_map(|n| columns.iter().position(|c| c.eq_ignore_ascii_case(n)))
}

#[test]
fn groups_of_a_table_as_people_write_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("meta.csv");
    let rows: String =
        (0..20).map(|i| format!("s{i};{};{};P{};{}\r\n", 20 + i, if i % 3 == 0 { "f" } else { "m" }, i / 2, 100 * i)).collect();
    std::fs::write(&path, format!("\u{feff}image_id;age;sex;patient;kvp\r\n{rows}s0;99;m;P0;5\r\n")).unwrap();
    let table = Metadata::read(&path, &[]).unwrap();
    let cases = ["s0", "s1", "s12", "s19", "other"];
    let factors = table.factors(&cases);
    let names = |f: &Factor| f.groups.iter().map(|g| (g.0.clone(), g.1.len())).collect::<Vec<_>>();
    assert_eq!(factors.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["age", "sex", "kvp"]);
    assert_eq!((names(&factors[0]), factors[0].unknown), (vec![("20-29".into(), 2), ("30-39".into(), 2)], 1));
    assert_eq!(names(&factors[1]), [("f".to_owned(), 2), ("m".to_owned(), 2)]);
    assert_eq!(table.patients(&cases).unwrap(), ["P0", "P0", "P6", "P9", "other"]);
    assert_eq!(table.duplicates, 1);
    let all: Vec<String> = (0..20).map(|i| format!("s{i}")).collect();
    let quarters = table.factors(&all.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(names(&quarters[2]).iter().map(|g| g.1).collect::<Vec<_>>(), [5, 5, 5, 5]);
    let message = Metadata::read(&path, &["race".into()]).unwrap_err().to_string();
    assert!(message.contains("no column `race`, expected one of image_id, age, sex, patient, kvp"), "{message}");
}
