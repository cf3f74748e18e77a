//! `panscreen evaluate`.

use std::path::{Path, PathBuf};

use clap::Args;
use panscreen_envs::dataset::LesionClasses;
use panscreen_envs::metrics::detection::SizeClass;
use panscreen_envs::metrics::protocols;
use panscreen_envs::metrics::statistics::Interval;
use panscreen_envs::metrics::{Mean, Outcome};

use super::error::Failure;
use super::output::{say, table};
use super::{Context, Ended};
use crate::evaluate::efficiency::Efficiency;
use crate::evaluate::metadata::Metadata;
use crate::evaluate::screening::{Rate, Screening};
use crate::evaluate::summary::{FactorAnalysis, Resampling, Summary};
use crate::evaluate::touchstone::{self, published};
use crate::evaluate::write::mean_text;
use crate::evaluate::{CaseRecord, Evaluation, Rule, Settings, Status, evaluate};
use crate::leaderboard::{Method, compare};
use crate::report::leaderboard::{Sources, write};

/// Judge a folder of masks by a folder of references, by the rule book of a benchmark.
///
/// A file is compared with the reference of the same name; for Touchstone also CASE/segmentations/ORGAN.nii.gz. A case without a prediction counts
/// as the worst value in every mean, and so does one whose prediction can't be used; a prediction that marks nothing is a prediction. With --out,
/// cases are written as they finish: the same command goes on, and several processes may share the work.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Predicted masks (NIfTI, NRRD, MetaImage, DICOM SEG).
    #[arg(long, value_name = "DIR")]
    pred: PathBuf,
    /// Reference masks.
    #[arg(long, value_name = "DIR")]
    r#ref: PathBuf,
    #[command(flatten)]
    how: HowArgs,
    /// What `panscreen submit check --json` measured: seconds and memory of the container.
    #[arg(long, value_name = "FILE")]
    efficiency: Option<PathBuf>,
    /// Scans, to draw the worst cases on.
    #[arg(long, value_name = "DIR", requires = "out")]
    images: Option<PathBuf>,
    /// Write cases.jsonl (as cases finish), cases.tsv, summary.json, table.csv, table.tex, and the page (index.html) with its figures (SVG, PNG)
    /// into this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What `evaluate` and `leaderboard` share.
#[derive(Debug, Args)]
pub struct HowArgs {
    /// Rule book: panscreen, flare24, flare_organs, gf_screen or touchstone.
    #[arg(long, value_name = "NAME", default_value = "panscreen")]
    protocol: String,
    /// Values of the references that are lesions [default: every value but 0].
    #[arg(long, value_name = "1,2,...", value_delimiter = ',')]
    lesion_classes: Option<Vec<u8>>,
    /// Table (CSV) of facts about the cases: age, sex, race, scanner, anything; a column `patient` says which cases are drawn together.
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
    /// Columns of the metadata to group by [default: every one that can be].
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',', requires = "metadata")]
    group_by: Vec<String>,
    /// Draws of the cases for intervals and rank stability.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    resamples: usize,
    /// Seed of the draws.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl HowArgs {
    pub fn settings(&self, efficiency: Option<Efficiency>, context: &Context) -> Result<Settings, Failure> {
        let protocol = protocols::find(&self.protocol)?;
        let lesion = self.lesion_classes.clone().map_or(LesionClasses::All, LesionClasses::These);
        let metadata = self.metadata.as_ref().map(|path| Metadata::read(path, &self.group_by)).transpose()?;
        if let (Some(path), Some(n)) = (&self.metadata, metadata.as_ref().map(|m| m.duplicates).filter(|n| *n > 0)) {
            context.observer.warn(&format!("{}: {n} rows of cases that came before; the first of each counts", path.display()));
        }
        let resampling = Resampling { resamples: self.resamples.max(1), seed: self.seed };
        Ok(Settings { rule: Rule { protocol, lesion }, resampling, metadata, efficiency })
    }
}

pub fn run(args: EvaluateArgs, context: &Context) -> Result<Ended, Failure> {
    context.use_threads(0)?;
    let efficiency = args.efficiency.as_deref().map(Efficiency::read).transpose()?;
    let settings = args.how.settings(efficiency, context)?;
    context.observer.phase("evaluate", None);
    let evaluation = evaluate(&args.pred, &args.r#ref, args.out.as_deref(), &settings, |_| context.observer.advance(1, &[]))?;
    context.observer.finish();
    let broken = |c: &&CaseRecord| c.status == Status::Unjudged || c.structures.iter().any(|s| s.status == Status::Failed);
    for case in evaluation.cases.iter().filter(broken) {
        let reason = case.reason.as_deref().unwrap_or_default();
        // Some errors begin with the case.
        say(&format!("{}: {}", case.case, reason.strip_prefix(&format!("{}: ", case.case)).unwrap_or(reason)));
    }
    if let Some(out) = &args.out {
        evaluation.write(settings.rule.protocol, out)?;
        context.observer.phase("write the page", None);
        page(&evaluation, &args, &settings, out)?;
        context.observer.finish();
    }
    context.output.result(&evaluation, text)?;
    Ok(if evaluation.summary.is_whole() { Ended::Done } else { Ended::WithFailures })
}

/// The page of a leaderboard with one method.
fn page(evaluation: &Evaluation, args: &EvaluateArgs, settings: &Settings, out: &Path) -> Result<(), Failure> {
    let name = args.pred.file_name().map_or("prediction".into(), |n| n.to_string_lossy());
    let method =
        Method { name: name.into_owned(), folder: args.pred.clone(), cases: evaluation.cases.clone(), summary: evaluation.summary.clone() };
    let board = compare(std::slice::from_ref(&method), settings);
    let sources = Sources { reference: Some(&args.r#ref), images: args.images.as_deref() };
    Ok(write(&board, &[method], settings, sources, out)?)
}

fn text(e: &Evaluation) -> String {
    let s = &e.summary;
    let mut text = format!("{}{}\n{}", rule_text(s), s.counts(), draws_text(s));
    let rows: Vec<[String; 6]> = s
        .table
        .iter()
        .map(|r| {
            let median = r.quartiles.map_or(String::new(), |q| format!("{:.4}", q[1]));
            [r.structure.clone(), r.metric.clone(), mean(&r.mean), interval(r.interval), median, mean_text(&r.mean)]
        })
        .collect();
    text += &table(["structure", "metric", "mean", "95 %", "median", "cases"], &rows);
    if let Some(screening) = &s.screening {
        text += &screening_text(screening);
    }
    for d in &s.detection {
        let (t, r) = (&d.table, &d.rates);
        text += &format!(
            "\n{}: TP {}, FN {}, FP {}, TN {}; sensitivity {:.4}, specificity {:.4}, precision {:.4}, F1 {:.4}, accuracy {:.4}",
            d.name, t.tp, t.fn_, t.fp, t.tn, r.sensitivity, r.specificity, r.precision, r.f1, r.accuracy
        );
    }
    s.groups.iter().for_each(|g| text += &group_text(g));
    text += &s.efficiency.as_ref().map_or(String::new(), |e| format!("\n{}", e.text()));
    if touchstone::is_rule(&s.protocol) {
        text += &published_text();
    }
    if !e.without_reference.is_empty() {
        text += &format!("\npredictions that no reference asks for: {}", e.without_reference.join(", "));
    }
    text
}

/// What stands above every table: the rule, what empty masks count as, what is wrong with the rule.
pub fn rule_text(s: &Summary) -> String {
    let flaws: String = s.known_flaws.iter().map(|f| format!("  {}: {}\n", f.name, f.text)).collect();
    format!(
        "{}\nempty masks: policy {}: {}\nlost cases: missing and failed ones count as the worst value; a metric without one has no mean then\nknown flaws:\n{flaws}",
        s.rule, s.empty_policy, s.empty_masks
    )
}

/// What intervals are made of.
pub fn draws_text(s: &Summary) -> String {
    let units = s.patients.map_or("cases".to_owned(), |n| format!("{n} patients"));
    format!("intervals: 95 % over {} draws of {units}, seed {}\n\n", s.resampling.resamples, s.resampling.seed)
}

fn screening_text(s: &Screening) -> String {
    let l = &s.lesions;
    let by_score =
        if s.scores == "probability" { "by their highest probability" } else { "by their volume (no probability maps beside the masks)" };
    let mut text = format!(
        "\nscan sensitivity   {} scans with lesions\nscan specificity   {} lesion-free scans\nlesion recall      {} lesions\n",
        rate(&s.sensitivity),
        rate(&s.specificity),
        rate(&s.recall)
    );
    text += &format!("lesion precision   {} ({} of {} findings)\n", number(&l.precision), l.findings - l.false_positives, l.findings);
    let pairs = &s.one_to_one;
    text += &format!("lesion F1          {}\n", number(&s.f1));
    text += &format!(
        "one to one         TP {}, FP {}, FN {}, F1 {} (IoU at least {})\n",
        pairs.counts.tp,
        pairs.counts.fp,
        pairs.counts.fn_,
        number(&pairs.f1),
        pairs.least_iou
    );
    let per_healthy = match (&l.false_positives_per_healthy_scan, &l.false_positive_ml_per_healthy_scan) {
        (Outcome::Value(n), Outcome::Value(ml)) => format!("{n:.4} findings, {ml:.4} mL on a lesion-free scan ({} scans)", l.healthy_scans),
        (other, _) => format!("on a lesion-free scan: {}", number(other)),
    };
    text += &format!("false positives    {} in all; {per_healthy}\n", l.false_positives);
    let sizes = |classes: &[SizeClass]| {
        let named = classes.iter().filter(|c| c.lesions > 0).map(|c| format!("{}: {} of {}", c.label(), c.hits, c.lesions));
        named.collect::<Vec<_>>().join(", ")
    };
    text += &format!("found by mL        {}\nfound by mm        {}\n", sizes(&s.by_volume_ml), sizes(&s.by_diameter_mm));
    if let (Some(camelyon), Some(luna)) = (s.camelyon_score, s.luna_score) {
        text += &format!("FROC               CAMELYON {camelyon:.4}, LUNA {luna:.4}, findings {by_score}\n");
    }
    if let (Some(auc), Some(ap)) = (&s.auc, s.average_precision) {
        text += &format!("scans by score     AUROC {:.4} {}, average precision {ap:.4}\n", auc.area, interval(s.auc_interval));
    }
    if let Some(c) = &s.calibration {
        let n = |v: Option<f64>| v.map_or("none".into(), |v| format!("{v:.4}"));
        text += &format!("calibration        ECE {}, ACE {}, Brier {:.4} over {} findings\n", n(c.ece), n(c.ace), c.brier, c.findings);
    }
    text
}

fn group_text(g: &FactorAnalysis) -> String {
    let rows: Vec<[String; 4]> = g
        .analysis
        .groups
        .iter()
        .map(|q| [q.name.clone(), q.n.to_string(), format!("{:.4}", q.mean), format!("{:.4}", q.quartiles[1])])
        .collect();
    let test = g.analysis.kruskal_wallis.map_or("no test".to_owned(), |t| format!("Kruskal-Wallis H {:.3}, p {:.4}", t.statistic, t.p));
    let small: String = g.analysis.too_small.iter().map(|(name, n)| format!(", {name} left out with {n}")).collect();
    let unknown = if g.unknown > 0 { format!(", {} cases unknown", g.unknown) } else { String::new() };
    let pairs = g.analysis.pairs.iter().filter(|p| p.p_adjusted < 0.05);
    let pairs: String =
        pairs.map(|p| format!("  {} and {} differ: p {:.4}, Cliff's delta {:.2}\n", p.a, p.b, p.p_adjusted, p.cliffs_delta)).collect();
    format!("\n{} by {}: {test}{small}{unknown}\n{}{pairs}", g.metric, g.factor, table(["group", "cases", "mean", "median"], &rows))
}

fn published_text() -> String {
    let shown = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.1}"));
    let rows = published::PUBLIC.map(|(model, [a, b, c, d, e, f])| {
        let [a, b, c, d, e, f] = [a, b, c, d, e, f].map(shown);
        [model.to_owned(), a, b, c, d, e, f]
    });
    format!("\npublished (x 100, means of organ means; TS: TotalSegmentator, DAP: DAP Atlas)\n{}", table(published::PUBLIC_COLUMNS, &rows))
}

fn mean(m: &Mean) -> String {
    match &m.mean {
        Outcome::Value(v) => format!("{:.4}", v + 0.0),
        Outcome::NotApplicable(_) => "none".into(),
        Outcome::Failed(_) => "failed".into(),
    }
}

fn interval(i: Option<Interval>) -> String {
    i.map_or(String::new(), |i| format!("{:.4}-{:.4}", i.low, i.high))
}

fn rate(r: &Rate) -> String {
    format!("{} {} ({} of {})", number(&r.value), interval(r.interval), r.hits, r.of)
}

fn number(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Value(v) => format!("{:.4}", v + 0.0),
        Outcome::NotApplicable(why) => format!("none, {why}"),
        Outcome::Failed(why) => format!("failed, {why}"),
    }
}
