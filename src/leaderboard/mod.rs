//! Several methods on the same references: ranks, intervals, tests, and whether another draw of the cases would have said the same.

mod compare;
pub mod pictures;
mod write;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use compare::{ALPHA, Column, Overall, PairTest, Standing, compare};

use crate::error::{Error, Result};
use crate::evaluate::summary::{Summary, summarise};
use crate::evaluate::touchstone::{is_released, is_rule, read_released, records_of};
use crate::evaluate::{CaseRecord, Settings, judge_all};
use crate::run::Observer;

/// One competitor: its name and the folder of its masks, or of its released tables (`dsc.csv`, `nsd.csv`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub folder: PathBuf,
}

/// A method with the records of all cases, in one order for all methods.
#[derive(Clone, Debug)]
pub struct Method {
    pub name: String,
    pub folder: PathBuf,
    pub cases: Vec<CaseRecord>,
    pub summary: Summary,
}

/// `leaderboard.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leaderboard {
    pub methods: Vec<String>,
    /// In the order of `methods`; each says its protocol, its policy for empty masks and its counts.
    pub summaries: Vec<Summary>,
    /// The best first.
    pub overall: Vec<Overall>,
    pub columns: Vec<Column>,
}

impl Entry {
    /// `DIR` or `NAME=DIR`. Where folders share their last name, more of the path is part of it.
    pub fn parse(arguments: &[String]) -> Result<Vec<Self>> {
        let mut entries: Vec<Entry> = Vec::new();
        for argument in arguments {
            let entry = match argument.split_once('=').filter(|_| !Path::new(argument).exists()) {
                Some((name, folder)) => Entry { name: name.to_owned(), folder: folder.into() },
                None => Entry { name: last_parts(Path::new(argument), 1), folder: argument.into() },
            };
            entries.push(entry);
        }
        let shared = |entries: &[Entry], name: &str| entries.iter().filter(|e| e.name == name).count() > 1;
        let names: Vec<String> =
            entries.iter().map(|e| if shared(&entries, &e.name) { last_parts(&e.folder, 2) } else { e.name.clone() }).collect();
        entries.iter_mut().zip(names).for_each(|(e, name)| e.name = name);
        let bad = entries.iter().find(|e| e.name.is_empty() || e.name.contains(['/', '\\']) || shared(&entries, &e.name));
        match bad {
            Some(e) => {
                Err(Error::Usage(format!("{}: a method needs a name of its own; write NAME={}", e.folder.display(), e.folder.display())))
            }
            None => Ok(entries),
        }
    }
}

/// The last `n` parts of a path, joined by a hyphen.
fn last_parts(path: &Path, n: usize) -> String {
    let parts: Vec<String> = path.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    let named: Vec<&str> = parts.iter().map(String::as_str).filter(|p| !["/", ".", ".."].contains(p)).collect();
    named[named.len().saturating_sub(n)..].join("-")
}

/// Judge every entry by `reference` (released tables bring their scores), and compare. Records are kept in `out/methods/NAME`.
pub fn leaderboard(
    entries: &[Entry],
    reference: Option<&Path>,
    out: &Path,
    settings: &Settings,
    observer: &dyn Observer,
) -> Result<(Leaderboard, Vec<Method>)> {
    let released = entries.iter().filter(|e| is_released(&e.folder)).count();
    let records = match (released, reference) {
        (0, Some(reference)) => judged(entries, reference, out, settings, observer)?,
        (0, None) => return Err(Error::Usage("masks need references; give --ref DIR".into())),
        (n, _) if n < entries.len() => {
            return Err(Error::Usage(
                "some folders hold masks and some released tables (dsc.csv); evaluate the masks first, and give their tables".into(),
            ));
        }
        _ if !is_rule(settings.rule.protocol.name) => {
            return Err(Error::Usage("released tables are Touchstone's; give --protocol touchstone".into()));
        }
        _ => from_tables(entries, observer)?,
    };
    let methods: Vec<Method> = entries
        .iter()
        .zip(records)
        .map(|(entry, cases)| {
            let summary = summarise(settings.rule.protocol, &cases, settings.metadata.as_ref(), None, settings.resampling);
            Method { name: entry.name.clone(), folder: entry.folder.clone(), cases, summary }
        })
        .collect();
    observer.phase("compare", None);
    let board = compare(&methods, settings);
    observer.finish();
    Ok((board, methods))
}

fn judged(entries: &[Entry], reference: &Path, out: &Path, settings: &Settings, observer: &dyn Observer) -> Result<Vec<Vec<CaseRecord>>> {
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        observer.phase(&format!("judge {}", entry.name), None);
        let log = out.join("methods").join(&entry.name);
        let (cases, without_reference) = judge_all(&entry.folder, reference, Some(&log), &settings.rule, |_| observer.advance(1, &[]))?;
        if !without_reference.is_empty() {
            observer.warn(&format!("{}: no reference asks for {}", entry.name, without_reference.join(", ")));
        }
        all.push(cases);
    }
    observer.finish();
    Ok(all)
}

fn from_tables(entries: &[Entry], observer: &dyn Observer) -> Result<Vec<Vec<CaseRecord>>> {
    let mut tables = Vec::with_capacity(entries.len());
    for entry in entries {
        let released = read_released(&entry.folder)?;
        for (metric, table) in released.iter().filter(|(_, t)| t.duplicates > 0) {
            observer.warn(&format!("{}: {metric}.csv repeats {} cases; the first row of each counts", entry.name, table.duplicates));
        }
        tables.push(released);
    }
    Ok(records_of(&tables))
}

#[test]
fn methods_are_called_by_their_folder() {
    let names = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        Entry::parse(&args).map(|e| e.into_iter().map(|e| e.name).collect::<Vec<_>>()).map_err(|e| e.to_string())
    };
    assert_eq!(names(&["runs/a/", "./b", "best=runs/c"]).unwrap(), ["a", "b", "best"]);
    assert_eq!(names(&["one/out", "two/out", "c"]).unwrap(), ["one-out", "two-out", "c"]);
    assert!(names(&["one/out", "one/out"]).unwrap_err().contains("write NAME=one/out"));
}
