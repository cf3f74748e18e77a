//! `panscreen inspect`.

use std::path::PathBuf;

use clap::Args;
use panscreen_envs::io::{self, Grade, Kind, LabelCount, Report};

use super::error::{DATA, Failure};
use super::output::table;
use super::{Context, Ended};

/// Judge a scan or a label map: what is odd about it, what was expected, what to do.
///
/// The verdict is `ok`, `warn` (it can be used, but look) or `error` (every other command refuses it; the exit code is then 3). Judged are the file, where
/// it lies in the world, in mm, whether its values are HU, and whether a mask fits it and holds labels.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The scan: a file, or a folder with one DICOM series.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Its mask.
    #[arg(long, value_name = "MASK")]
    mask: Option<PathBuf>,
}

pub fn run(args: InspectArgs, context: &Context) -> Result<Ended, Failure> {
    context.use_threads(0)?;
    let report = io::inspect(&args.file, args.mask.as_deref());
    context.output.result(&report, text)?;
    match report.reasons.iter().find(|r| r.grade == Grade::Error) {
        Some(reason) => {
            Err(Failure::says(DATA, format!("{}: {}, expected {}", reason.file, reason.found, reason.expected)).hint(&reason.action))
        }
        None => Ok(Ended::Done),
    }
}

fn text(r: &Report) -> String {
    let mut text = format!("{}: {}\n", r.file, r.verdict);
    let mut facts = Vec::new();
    facts.extend(r.format.clone());
    facts.extend(r.dtype.clone());
    facts.extend(r.shape.map(|s| format!("{} x {} x {} voxels", s[0], s[1], s[2])));
    facts.extend(r.spacing_mm.map(|s| format!("{:.4} x {:.4} x {:.4} mm", s[0], s[1], s[2])));
    facts.extend(r.orientation.clone());
    if let (Kind::Image, Some(min), Some(max)) = (r.kind, r.hu_min, r.hu_max) {
        facts.push(format!("values {min} to {max}"));
    }
    if !facts.is_empty() {
        text += &format!("  {}\n", facts.join(", "));
    }
    for reason in &r.reasons {
        text += &format!("  {}: {}: {}, expected {}; {}\n", reason.grade, reason.file, reason.found, reason.expected, reason.action);
    }
    for labels in r.labels.iter().chain(r.mask.as_ref().map(|m| &m.labels)).filter(|labels| !labels.is_empty()) {
        let row = |l: &LabelCount| [l.label.to_string(), l.voxels.to_string(), format!("{:.2}", l.volume_ml)];
        text += &format!("\n{}", table(["label", "voxels", "mL"], &labels.iter().map(row).collect::<Vec<_>>()));
    }
    text
}
