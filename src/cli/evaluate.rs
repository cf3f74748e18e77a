//! `panscreen evaluate`.

use std::path::PathBuf;

use clap::Args;
use panscreen_envs::dataset::LesionClasses;

use super::error::Failure;
use super::output::say;
use super::{Context, Ended};
use crate::evaluate::{Judged, evaluate_folders};

/// Judge a folder of masks by a folder of references: Dice, NSD, detection of scans and of lesions, false positives.
///
/// A file is compared with the reference of the same name. A case without a prediction counts as the worst value in every mean, and so does one
/// whose prediction can't be used; a prediction that marks nothing is a prediction.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Predicted masks (NIfTI, NRRD, MetaImage, DICOM SEG), every value but 0 a lesion.
    #[arg(long, value_name = "DIR")]
    pred: PathBuf,
    /// Reference masks.
    #[arg(long, value_name = "DIR")]
    r#ref: PathBuf,
    /// Values of the references that are lesions [default: every value but 0].
    #[arg(long, value_name = "1,2,...", value_delimiter = ',')]
    lesion_classes: Option<Vec<u8>>,
    /// Write `evaluation.json` and `cases.tsv` into this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: EvaluateArgs, context: &Context) -> Result<Ended, Failure> {
    context.use_threads(0)?;
    let lesion = args.lesion_classes.map_or(LesionClasses::All, LesionClasses::These);
    context.observer.phase("evaluate", None);
    let evaluation = evaluate_folders(&args.pred, &args.r#ref, &lesion, |_| context.observer.advance(1, &[]))?;
    context.observer.finish();
    for case in &evaluation.cases {
        if let Judged::Failed { reason, .. } = &case.judged {
            say(&format!("{}: {reason}", case.case));
        }
    }
    if let Some(out) = &args.out {
        evaluation.write(out)?;
    }
    context.output.result(&evaluation, ToString::to_string)?;
    Ok(if evaluation.summary.failed == 0 { Ended::Done } else { Ended::WithFailures })
}
