//! `panscreen data phantom | check | fingerprint | plan`.

mod cohort;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use panscreen_envs::phantom::{self, CohortSummary, LesionKind, Preset, Settings};

use super::error::Failure;
use super::output::table;
use super::{Context, Ended};

/// Make data, and look at data before a run.
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write a cohort of generated CT scans with lesions, organs and report texts, as `.nii.gz` files and a `dataset.json`.
    Phantom {
        /// `demo`: 64x64x40 voxels of 5 mm, clear lesions; `standard`: 300x250x100 voxels of 1.5x1.5x3 mm, faint to clear lesions.
        #[arg(long, default_value_t = Preset::Demo)]
        preset: Preset,
        /// Voxel size, the bodies and lesions being the same [default: the preset's].
        #[arg(long, value_name = "X,Y,Z")]
        spacing_mm: Option<Triple<f64>>,
        /// Number of scans.
        #[arg(long, value_name = "N")]
        cases: usize,
        /// Same seed, same bytes.
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
        /// Folder of the cohort. An interrupted cohort is gone on with.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Scans to train on, to validate on and to test on [default: 60, 15 and 25 %].
        #[arg(long, value_name = "A,B,C")]
        split: Option<Triple<usize>>,
    },
    /// Say everything that is wrong with a cohort, with one thing to do for each: files, grids, intensities, labels, lesions that resampling
    /// loses, patients and scans on both sides of a split. Returns 3 where a case can't be used.
    Check(cohort::CohortArgs),
    /// Say what a cohort looks like: voxel sizes, extents, HU, number, size and contrast of its lesions.
    Fingerprint(cohort::CohortArgs),
    /// Plan a run from a cohort's fingerprint: grid, window, networks, batch, each with the rule that it comes from.
    Plan {
        #[command(flatten)]
        cohort: cohort::CohortArgs,
        /// Memory that a training step may use.
        #[arg(long, value_name = "GIB", default_value_t = 8.0)]
        memory_gib: f64,
        /// Write the plan as a config that `panscreen train` takes and a person can change; with `--config`, on top of that one.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Three numbers with commas between them.
#[derive(Debug, Clone, Copy)]
struct Triple<T>([T; 3]);

impl<T: FromStr> FromStr for Triple<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<T>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
        let three = numbers.and_then(|numbers| <[T; 3]>::try_from(numbers).ok());
        three.map(Triple).ok_or_else(|| "three numbers with commas between them are needed, such as 60,12,40".into())
    }
}

pub fn run(args: DataArgs, context: &Context) -> Result<Ended, Failure> {
    let (preset, spacing_mm, cases, seed, out, split) = match args.action {
        Action::Phantom { preset, spacing_mm, cases, seed, out, split } => (preset, spacing_mm, cases, seed, out, split),
        Action::Check(cohort) => return cohort::check(&cohort, context),
        Action::Fingerprint(cohort) => return cohort::fingerprint(&cohort, context),
        Action::Plan { cohort, memory_gib, out } => return cohort::plan(&cohort, memory_gib, out.as_deref(), context),
    };
    context.use_threads(0)?;
    context.observer.phase("make the cohort", None);
    let split = split.map_or_else(|| phantom::default_split(cases), |s| s.0);
    let settings = Settings::preset(preset).at_spacing(spacing_mm.map(|s| s.0));
    let summary = phantom::write_cohort(&settings, seed, cases, &out, split)?;
    context.observer.finish();
    context.output.result(&summary, text)?;
    Ok(Ended::Done)
}

fn text(s: &CohortSummary) -> String {
    let [train, validation, test] = s.split;
    let kinds = LesionKind::ALL.iter().zip(s.per_class);
    let rows: Vec<[String; 2]> = kinds.map(|(kind, n)| [kind.name().to_owned(), n.to_string()]).collect();
    format!(
        "{}: {} scans ({train} to train, {validation} to validate, {test} to test), {} of them lesion-free, {} were there\n\n{}",
        s.list.display(),
        s.cases,
        s.lesion_free,
        s.already_there,
        table(["lesions", &s.lesions.to_string()], &rows)
    )
}
