//! `panscreen screen`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::error::{Failure, STOPPED, USAGE};
use super::output::table;
use super::{Context, Ended};
use crate::backend::{TrainBackend, Work, on_device};
use crate::config;
use crate::error::Result;
use crate::run::Observer;
use crate::screen::Model;
use crate::screen::Shard;
use crate::screen::batch::{BatchSummary, Extras, Status, decide_all, inputs, screen_all};

/// Screen scans with a trained run: masks, a record and a picture of each.
///
/// Finished cases are skipped on a second start, by the content of scan, model, settings and result. Cases that fail are listed and the rest goes
/// on; the exit code is then 1.
#[derive(Debug, Args)]
pub struct ScreenArgs {
    /// Scans (NIfTI, DICOM series, NRRD, MetaImage), folders of scans, and overrides such as `screen.overlap=0.25`.
    #[arg(value_name = "INPUT|KEY=VALUE", required_unless_present = "from_probabilities")]
    inputs: Vec<String>,
    /// Run folder with the trained networks.
    #[arg(long, value_name = "RUN", required_unless_present = "from_probabilities")]
    model: Option<PathBuf>,
    /// Folder of the results.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// `glance`: Focus sees what Glance chooses; `all`: Focus everywhere.
    #[arg(long)]
    select: Option<Selection>,
    /// Keep this share of each scan's windows, the most probable first, whatever the threshold.
    #[arg(long, value_name = "F")]
    keep_fraction: Option<f64>,
    /// Glance's threshold [default: the one chosen in validation].
    #[arg(long, value_name = "T")]
    threshold: Option<f64>,
    /// Guarantee this recall, of what Focus everywhere finds, on scans like the run's validation scans: the threshold then comes from conformal
    /// risk control, and is refused where those scans are too few.
    #[arg(long, value_name = "R", conflicts_with_all = ["threshold", "keep_fraction"])]
    recall: Option<f64>,
    /// Let Focus see this many windows of a scan at most, the most promising first; the record estimates what was left.
    #[arg(long, value_name = "N")]
    budget_windows: Option<usize>,
    /// Let Focus look no further this many seconds after a scan was begun.
    #[arg(long, value_name = "S")]
    budget_seconds: Option<f64>,
    /// Drop findings that look like false alarms, by what the run's validation scans taught.
    #[arg(long)]
    gate: bool,
    /// Lesion probability above which a voxel is marked [default: the run's `screen.mask_threshold`].
    #[arg(long, value_name = "T")]
    mask_threshold: Option<f64>,
    /// Also write probability maps and Glance's windows, to try thresholds without networks.
    #[arg(long)]
    save_probabilities: bool,
    /// No pictures.
    #[arg(long)]
    no_preview: bool,
    /// Screen a part of the scans only, such as 3/40; `slurm` takes the part from the index of a Slurm array task. The parts may share --out.
    #[arg(long, value_name = "PART/PARTS")]
    shard: Option<Shard>,
    /// Decide anew by --mask-threshold from what --save-probabilities left in this folder; no network runs.
    #[arg(
        long,
        value_name = "DIR",
        requires = "mask_threshold",
        conflicts_with_all = [
            "inputs", "model", "select", "keep_fraction", "threshold", "recall", "budget_windows", "budget_seconds", "gate",
            "save_probabilities", "no_preview", "shard"
        ]
    )]
    from_probabilities: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Selection {
    Glance,
    All,
}

pub fn run(args: ScreenArgs, context: &Context) -> Result<Ended, Failure> {
    context.listen_to_signals();
    let observer = &*context.observer;
    let summary = match (&args.from_probabilities, args.mask_threshold, &args.model) {
        (Some(from), Some(threshold), _) => {
            context.use_threads(0)?;
            decide_all(from, threshold, &args.out, observer)?
        }
        (None, _, Some(run)) => screen(&args, run, context)?,
        _ => return Err(Failure::says(USAGE, "--model and at least one scan are needed")),
    };
    context.output.result(&summary, text)?;
    if summary.left > 0 {
        let done = summary.cases.len();
        let text = format!("stopped after {done} of {} scans; start the same command again to go on", done + summary.left);
        return Err(Failure::says(STOPPED, text));
    }
    Ok(if summary.failed == 0 { Ended::Done } else { Ended::WithFailures })
}

fn screen(args: &ScreenArgs, run: &Path, context: &Context) -> Result<BatchSummary, Failure> {
    let (mut overrides, paths): (Vec<String>, Vec<String>) = args.inputs.iter().cloned().partition(|text| is_override(text));
    let own = ["screen.", "device=", "precision=", "threads="];
    if let Some(foreign) = overrides.iter().find(|o| !own.iter().any(|key| o.starts_with(key))) {
        let hint = "the networks fit the settings they were trained with; `screen.*`, `device`, `precision` and `threads` may differ";
        return Err(Failure::says(USAGE, format!("`{foreign}` can't be overridden in screening")).hint(hint));
    }
    overrides.extend(args.select.map(|s| format!("screen.select={}", format!("{s:?}").to_lowercase())));
    overrides.extend(args.keep_fraction.map(|f| format!("screen.keep_fraction={f}")));
    // A threshold that somebody gives is meant, whatever the run was to guarantee.
    overrides.extend(args.threshold.iter().flat_map(|t| [format!("screen.threshold={t}"), "screen.guaranteed_recall=none".to_owned()]));
    overrides.extend(args.recall.map(|r| format!("screen.guaranteed_recall={r}")));
    overrides.extend(args.budget_windows.map(|n| format!("screen.budget_windows={n}")));
    overrides.extend(args.budget_seconds.map(|s| format!("screen.budget_seconds={s:?}")));
    overrides.extend(args.gate.then(|| "screen.gate=true".to_owned()));
    overrides.extend(args.mask_threshold.map(|t| format!("screen.mask_threshold={t}")));
    if !run.join("config.toml").is_file() {
        let hint = "--model takes the folder of a run that `panscreen train` made, such as runs/demo";
        return Err(Failure::says(USAGE, format!("{}: no run in this folder (it has no config.toml)", run.display())).hint(hint));
    }
    let config = config::load(run, &overrides)?;
    context.use_threads(config.threads)?;
    let inputs = inputs(&paths.into_iter().map(PathBuf::from).collect::<Vec<_>>())?;
    if inputs.is_empty() {
        return Err(Failure::says(USAGE, "no scan to screen; name files or folders"));
    }
    let extras = Extras { previews: !args.no_preview, probabilities: args.save_probabilities };
    let shard = args.shard.unwrap_or(Shard::WHOLE);
    let work = Screening { run, overrides: &overrides, inputs: &inputs, shard, out: &args.out, extras, observer: &*context.observer };
    Ok(on_device(config.device, work)?)
}

/// `KEY=VALUE` with a key's letters, unless a file is called so.
fn is_override(text: &str) -> bool {
    let key = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c));
    text.split_once('=').is_some_and(|(k, _)| key(k)) && !Path::new(text).exists()
}

struct Screening<'a> {
    run: &'a Path,
    overrides: &'a [String],
    inputs: &'a [PathBuf],
    shard: Shard,
    out: &'a Path,
    extras: Extras,
    observer: &'a dyn Observer,
}

impl Work for Screening<'_> {
    type Output = BatchSummary;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<BatchSummary> {
        let Screening { run, overrides, inputs, shard, out, extras, observer } = self;
        let model = Model::<B>::open(run, overrides, &device, observer)?;
        let settings = model.settings(None)?;
        screen_all(&model, run, &settings, extras, inputs, shard, out, observer)
    }
}

fn text(s: &BatchSummary) -> String {
    let rows: Vec<[String; 7]> = s
        .cases
        .iter()
        .map(|c| {
            let [verdict, lesions, largest, kept, windows, seconds] = c.cells();
            let windows = if windows.is_empty() { windows } else { format!("{kept} of {windows}") };
            let there = if c.status == Status::AlreadyThere { "there" } else { "" };
            [c.case.clone(), verdict, lesions, largest, windows, seconds, there.into()]
        })
        .collect();
    let failed: String = s.cases.iter().filter_map(|c| Some(format!("\n{}: {}", c.input.display(), c.cause.as_ref()?))).collect();
    let promise = s.guarantee.as_ref().map_or(String::new(), |g| format!("\n{g}"));
    format!(
        "{}\n{} screened, {} were there, {} failed, {:.1} s{promise}{failed}",
        table(["case", "verdict", "lesions", "largest mL", "windows", "seconds", ""], &rows),
        s.screened,
        s.already_there,
        s.failed,
        s.seconds
    )
}

#[test]
fn overrides_are_told_from_scans() {
    for (text, is) in
        [("screen.overlap=0.25", true), ("data/a=b.nii.gz", false), ("scan.nii.gz", false), ("=3", false), ("device=cuda", true)]
    {
        assert_eq!(is_override(text), is, "{text}");
    }
}
