//! `panscreen train`.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::error::Failure;
use super::{Context, Ended};
use crate::config;
use crate::error::Error;
use crate::run::{Best, CheckpointStore, Verdict};
use crate::stages::gf_screen::OperatingPoint;
use crate::train::{self, DryRun};

/// Train Glance and Focus, or go on with a run that was interrupted.
///
/// The run folder is `runs/NAME`, NAME being the config's `name`. Given a run folder instead of a config, that run is continued; with `--out` it
/// is repeated elsewhere.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Config file or run folder.
    #[arg(value_name = "CONFIG|RUN")]
    config: PathBuf,
    /// Overrides such as `glance.group_size=8`.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The run folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Do one step of everything, print what a run would take in time and memory, and leave no run behind.
    #[arg(long, conflicts_with_all = ["out", "overfit_one"])]
    dry_run: bool,
    /// Train and validate on the first training scan with a lesion alone, in `runs/NAME-overfit`: what can't learn one scan can't learn many.
    #[arg(long)]
    overfit_one: bool,
}

/// What a training left behind.
#[derive(Debug, Serialize)]
struct Trained {
    run: PathBuf,
    checkpoint: PathBuf,
    best: Best,
    operating_point: Option<OperatingPoint>,
    /// `health.json` of the run.
    health: Option<Verdict>,
}

pub fn run(args: TrainArgs, context: &Context) -> Result<Ended, Failure> {
    let mut config = config::load(&args.config, &args.overrides)?;
    if args.overfit_one && !config.name.ends_with("-overfit") {
        config.name += "-overfit";
    }
    context.use_threads(config.threads)?;
    context.listen_to_signals();
    if args.dry_run {
        let figures = train::dry_run(&config, context.observer.clone())?;
        context.output.result(&figures, DryRun::to_string)?;
        return Ok(Ended::Done);
    }
    let continued = (args.config.is_dir() && !args.overfit_one).then(|| args.config.clone());
    let folder = args.out.or(continued).unwrap_or_else(|| train::default_folder(&config));
    let artifacts = if args.overfit_one {
        train::overfit_one(&config, &folder, context.observer.clone())?
    } else {
        train::train(&config, &folder, context.observer.clone(), None)?
    };
    context.output.result(&trained(&folder, &artifacts.checkpoint)?, ToString::to_string)?;
    Ok(Ended::Done)
}

fn trained(run: &Path, checkpoint: &Path) -> Result<Trained, Error> {
    let best = CheckpointStore::read_only(&run.join("checkpoints")).best()?;
    let (best, saved) = best.ok_or_else(|| Error::Usage(format!("{}: the run ended without a validation", run.display())))?;
    let operating_point = serde_json::from_value(saved.state["operating_point"].clone()).unwrap_or(None);
    Ok(Trained { run: run.to_owned(), checkpoint: checkpoint.to_owned(), best, operating_point, health: Verdict::read(run) })
}

impl fmt::Display for Trained {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Best { step, metric, value } = &self.best;
        writeln!(f, "best checkpoint  {} (step {step}, {metric} {value:.4})", self.checkpoint.display())?;
        if let Some(p) = &self.operating_point {
            writeln!(
                f,
                "operating point  Glance above {:.4}: {:.1} % of the windows, {:.1} % of the lesions that Focus everywhere finds ({} scans, {} lesions)",
                p.threshold,
                p.windows_kept * 100.0,
                p.relative_recall * 100.0,
                p.scans,
                p.lesions
            )?;
        }
        if let Some(health) = &self.health {
            writeln!(f, "health           {}", health.to_string().replace('\n', "\n                 "))?;
        }
        write!(f, "screen with it   panscreen screen SCANS --model {} --out DIR", self.run.display())
    }
}
