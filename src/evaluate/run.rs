//! A folder of predictions against a folder of references.

use std::collections::BTreeSet;
use std::path::Path;

use panscreen_envs::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::efficiency::Efficiency;
use super::files::{Masks, masks_in};
use super::judge::{CaseFiles, Rule, judge, key};
use super::log::CaseLog;
use super::metadata::Metadata;
use super::record::CaseRecord;
use super::summary::{Resampling, Summary, summarise};

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct Settings {
    pub rule: Rule,
    pub resampling: Resampling,
    /// Facts about the cases, to group them by.
    pub metadata: Option<Metadata>,
    /// Seconds and memory of the container, measured by `panscreen submit check`.
    pub efficiency: Option<Efficiency>,
}

/// `evaluation.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    pub summary: Summary,
    /// By name.
    pub cases: Vec<CaseRecord>,
    /// Predictions that no reference asks for.
    pub without_reference: Vec<String>,
}

/// Judge every reference of `reference` by the prediction of the same name in `predicted`. With `out`, the records are appended to
/// `out/cases.jsonl` as they finish, and what is there already is not done again.
pub fn evaluate(
    predicted: &Path,
    reference: &Path,
    out: Option<&Path>,
    settings: &Settings,
    done: impl Fn(&str) + Sync,
) -> Result<Evaluation> {
    let (cases, without_reference) = judge_all(predicted, reference, out, &settings.rule, done)?;
    let summary = summarise(settings.rule.protocol, &cases, settings.metadata.as_ref(), settings.efficiency.clone(), settings.resampling);
    Ok(Evaluation { summary, cases, without_reference })
}

/// The records of all references, by name, and the predictions that no reference asks for.
pub fn judge_all(
    predicted: &Path,
    reference: &Path,
    out: Option<&Path>,
    rule: &Rule,
    done: impl Fn(&str) + Sync,
) -> Result<(Vec<CaseRecord>, Vec<String>)> {
    let references = masks_in(reference, rule.protocol)?;
    let predictions = masks_in(predicted, rule.protocol)?;
    if references.is_empty() {
        return Err(Error::file(reference, "no label map (NIfTI, NRRD, MetaImage, DICOM SEG)", "reference masks", "check the path"));
    }
    let log = out.map(CaseLog::open).transpose()?;
    let work = |(case, reference): (&String, &Masks), wait: bool| -> Result<Option<CaseRecord>> {
        let files = CaseFiles { case, reference, predicted: predictions.get(case), folder: predicted };
        let record = judge_once(files, rule, log.as_ref(), wait)?;
        if record.is_some() {
            done(case);
        }
        Ok(record)
    };
    let first: Vec<Option<CaseRecord>> = references.par_iter().map(|case| work(case, false)).collect::<Result<_>>()?;
    // What other processes had in hand is waited for, and done here where they did not finish it.
    let mut records = Vec::with_capacity(first.len());
    for (record, case) in first.into_iter().zip(&references) {
        records.extend(match record {
            Some(record) => Some(record),
            None => work(case, true)?,
        });
    }
    if let Some(log) = log {
        log.close();
    }
    let asked: BTreeSet<&String> = references.keys().collect();
    Ok((records, predictions.into_keys().filter(|n| !asked.contains(n)).collect()))
}

/// The record of a case, from the log or made now; `None` where another process is at it and `wait` is false.
fn judge_once(files: CaseFiles, rule: &Rule, log: Option<&CaseLog>, wait: bool) -> Result<Option<CaseRecord>> {
    let key = key(files, rule);
    let Some(log) = log else { return Ok(Some(judge(files, rule, key))) };
    if let Some(record) = log.finished(files.case, &key)? {
        return Ok(Some(record));
    }
    let Some(_claim) = log.claim(files.case, wait)? else { return Ok(None) };
    // Its last owner may have finished it in between.
    if let Some(record) = log.finished(files.case, &key)? {
        return Ok(Some(record));
    }
    let record = judge(files, rule, key);
    log.append(&record)?;
    Ok(Some(record))
}
