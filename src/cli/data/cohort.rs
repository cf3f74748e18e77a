//! `panscreen data check | fingerprint | plan`: a cohort before a run.

use std::path::{Path, PathBuf};

use clap::Args;
use panscreen_envs::dataset::{self, CaseFacts, CohortReport, Fingerprint, Folder, HuFigures, Plan, Severity, Spread};
use panscreen_envs::io::write_atomic;

use super::super::error::{DATA, Failure, USAGE};
use super::super::output::table;
use super::super::{Context, Ended};
use crate::config::{self, Config};
use crate::setup;

/// Which cohort, and how a run would use it.
#[derive(Debug, Args)]
pub struct CohortArgs {
    /// A data list (JSON), or a folder of scans.
    #[arg(value_name = "LIST|FOLDER")]
    cohort: PathBuf,
    /// Config or run folder whose spacing, windows, lesion classes and file names count [default: the built-in settings].
    #[arg(long, value_name = "CONFIG")]
    config: Option<PathBuf>,
}

impl CohortArgs {
    fn config(&self) -> Result<Config, Failure> {
        Ok(self.config.as_ref().map_or_else(|| Ok(Config::default()), |path| config::load(path, &[]))?)
    }

    /// Look at every case.
    fn look(&self, config: &Config, context: &Context) -> Result<(CohortReport, Vec<CaseFacts>), Failure> {
        context.use_threads(config.threads)?;
        let data = &config.data;
        let folder =
            Folder { image_suffix: data.image_suffix.clone(), label_suffix: data.label_suffix.clone(), patient_parts: data.patient_parts };
        let (list, faults) = dataset::read_cohort(&self.cohort, &folder)?;
        let cases = list.training.len() + list.validation.len() + list.test.len();
        context.observer.phase("look at scans", Some(cases as u64));
        let (prepare, lesion) = (setup::prepare_config(config), setup::lesion_classes(config));
        let looked = dataset::check(&list, faults, &prepare, &lesion, |_| context.observer.advance(1, &[]));
        context.observer.finish();
        Ok(looked)
    }

    /// The numbers of the cases that can be read; what can't is only counted here.
    fn fingerprint(&self, config: &Config, context: &Context) -> Result<Fingerprint, Failure> {
        let (report, facts) = self.look(config, context)?;
        let hint = format!("`panscreen data check {}` says what is wrong", self.cohort.display());
        if report.errors > 0 {
            context.observer.warn(&format!("{} of {} cases can't be used; {hint}", report.faulty, report.cases));
        }
        dataset::fingerprint(&facts)
            .ok_or_else(|| Failure::says(DATA, format!("{}: no case can be read", self.cohort.display())).hint(hint))
    }
}

pub fn check(args: &CohortArgs, context: &Context) -> Result<Ended, Failure> {
    let (report, _) = args.look(&args.config()?, context)?;
    context.output.result(&report, report_text)?;
    if report.errors == 0 {
        return Ok(Ended::Done);
    }
    Err(Failure::says(DATA, format!("{} of {} cases can't be used as they are ({} errors)", report.faulty, report.cases, report.errors)))
}

pub fn fingerprint(args: &CohortArgs, context: &Context) -> Result<Ended, Failure> {
    context.output.result(&args.fingerprint(&args.config()?, context)?, fingerprint_text)?;
    Ok(Ended::Done)
}

pub fn plan(args: &CohortArgs, memory_gib: f64, out: Option<&Path>, context: &Context) -> Result<Ended, Failure> {
    if !(memory_gib > 0.0 && memory_gib.is_finite()) {
        return Err(Failure::says(USAGE, format!("--memory-gib is {memory_gib}, expected a number above 0")));
    }
    let fingerprint = args.fingerprint(&args.config()?, context)?;
    let plan = dataset::plan(&fingerprint, memory_gib);
    if let Some(out) = out {
        write_atomic(out, plan_toml(args, &fingerprint, &plan, out).as_bytes())?;
    }
    context.output.result(&plan, |plan| {
        let rules: String = plan.rules.iter().map(|r| format!("{:12} {}\n{:12} {}\n", r.rule, r.outcome, "", r.because)).collect();
        let next =
            out.map_or("--out FILE writes it as a config".to_owned(), |out| format!("train with it: panscreen train {}", out.display()));
        format!("{rules}\n{next}")
    })?;
    Ok(Ended::Done)
}

fn report_text(r: &CohortReport) -> String {
    let mut text = format!("{} cases: {} can't be used, {} errors, {} warnings\n", r.cases, r.faulty, r.errors, r.warnings);
    for f in &r.findings {
        let kind = match f.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let cases = if f.cases.is_empty() { String::new() } else { format!("{}: ", f.cases.join(", ")) };
        let file = f.file.as_ref().map_or(String::new(), |p| format!("{}: ", p.display()));
        text += &format!("\n{kind:8} {cases}{file}{}, expected {}; {}", f.found, f.expected, f.action);
    }
    if !r.findings.is_empty() {
        text += "\n";
    }
    let counts = |counts: &std::collections::BTreeMap<String, usize>| {
        counts.iter().map(|(what, n)| format!("{n} {what}")).collect::<Vec<_>>().join(", ")
    };
    if let (Some(spacing), Some(min), Some(max)) = (&r.spacing_mm, r.hu_min, r.hu_max) {
        text += &format!("\norientations  {}\nintensities   {}\n\n", counts(&r.orientations), counts(&r.intensities));
        let mut rows: Vec<[String; 4]> = Vec::new();
        for (axis, s) in ["R", "A", "S"].iter().zip(spacing) {
            rows.push(row(&format!("voxel along {axis}, mm"), s, 3));
        }
        rows.extend([row("lowest HU", &min, 0), row("highest HU", &max, 0)]);
        text += &table(["over scans", "least", "median", "most"], &rows);
    }
    text
}

fn row(what: &str, s: &Spread, digits: usize) -> [String; 4] {
    [what.to_owned(), format!("{:.digits$}", s.min), format!("{:.digits$}", s.median), format!("{:.digits$}", s.max)]
}

fn fingerprint_text(f: &Fingerprint) -> String {
    let axes = ["R", "A", "S"];
    let cells = |what: String, s: &Spread, digits: usize| {
        let [least, p10, p25, median, p75, p90, most] =
            [s.min, s.p10, s.p25, s.median, s.p75, s.p90, s.max].map(|v| format!("{v:.digits$}"));
        [what, least, p10, p25, median, p75, p90, most]
    };
    let heading = |what| [what, "least", "10 %", "25 %", "median", "75 %", "90 %", "most"];
    let mut rows = Vec::new();
    for (what, spreads, digits) in [("voxel, mm", &f.spacing_mm, 3), ("voxels", &f.shape, 0), ("extent, mm", &f.extent_mm, 0)] {
        rows.extend(axes.iter().zip(spreads).map(|(axis, s)| cells(format!("{axis} {what}"), s, digits)));
    }
    let mut text =
        format!("{} scans, {} of them with {} lesions\n\n{}", f.cases, f.with_lesions, f.lesions, table(heading("scans"), &rows));
    let mut rows = Vec::new();
    rows.extend(f.lesions_per_scan.iter().map(|s| cells("a scan".into(), s, 0)));
    rows.extend(f.lesion_ml.iter().map(|s| cells("mL".into(), s, 3)));
    rows.extend(f.lesion_extent_mm.iter().flat_map(|e| axes.iter().zip(e).map(|(axis, s)| cells(format!("{axis} extent, mm"), s, 1))));
    rows.extend(f.lesion_contrast_hu.iter().map(|s| cells("contrast, HU".into(), s, 0)));
    if !rows.is_empty() {
        text += &format!("\n{}", table(heading("lesions"), &rows));
    }
    let mut rows: Vec<[String; 6]> = Vec::new();
    let mut hu = |what: &str, h: &HuFigures| {
        rows.push([
            what.to_owned(),
            format!("{:.0}", h.mean),
            format!("{:.0}", h.std),
            format!("{:.0}", h.p0_5),
            format!("{:.0}", h.median),
            format!("{:.0}", h.p99_5),
        ]);
    };
    f.body_hu.iter().for_each(|h| hu("body (above -400)", h));
    f.lesion_hu.iter().for_each(|h| hu("lesions", h));
    text + "\n" + &table(["HU", "mean", "std", "0.5 %", "median", "99.5 %"], &rows)
}

/// The plan as a config file: each setting below the rule that it comes from.
fn plan_toml(args: &CohortArgs, f: &Fingerprint, plan: &Plan, out: &Path) -> String {
    let text = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let because = |name: &str| plan.rules.iter().find(|r| r.rule == name).map_or(String::new(), |r| format!("# {}.\n", r.because));
    let mut toml = format!(
        "# Planned from {} scans with {} lesions. Change what you like: `panscreen config explain KEY` says what a key does.\n",
        f.cases, f.lesions
    );
    if let Some(config) = &args.config {
        // `base` counts from the file that names it.
        let file = if config.is_dir() { config.join("config.toml") } else { config.clone() };
        let beside = file.parent() == out.parent();
        let base = if beside { file.file_name().map(PathBuf::from) } else { file.canonicalize().ok() };
        toml += &format!("base = {}\n", text(&base.unwrap_or(file)));
    }
    let root = if args.cohort.is_dir() { Some(args.cohort.as_path()) } else { args.cohort.parent() };
    let root = root.filter(|r| !r.as_os_str().is_empty()).unwrap_or(Path::new("."));
    toml += &format!("\n[data]\nroot = {}\n", text(root));
    if let Some(name) = args.cohort.file_name().filter(|_| !args.cohort.is_dir()) {
        toml += &format!("list = {}\n", text(Path::new(name)));
    }
    toml += &format!("{}spacing_mm = {:?}\n", because("spacing"), plan.spacing_mm);
    toml += &format!("{}windows_hu = {:?}\n", because("windows_hu"), plan.windows_hu);
    toml += &format!("\n[env]\n{}window = {:?}\n", because("window"), plan.window);
    toml += &format!("{}volumes_per_batch = {}\ncrops_per_volume = {}\n", because("batch"), plan.volumes_per_batch, plan.crops_per_volume);
    toml += &format!(
        "\n[focus]\nkind = \"residual_unet\"\n{}strides = {:?}\n{}widths = {:?}\nblocks = {:?}\n",
        because("depth"),
        plan.strides,
        because("widths"),
        plan.widths,
        plan.blocks
    );
    toml += &format!(
        "\n[glance]\nkind = \"resnet3d\"\n{}widths = {:?}\nblocks = {:?}\n",
        because("glance"),
        plan.glance_widths,
        vec![1; plan.glance_widths.len()]
    );
    toml
}
