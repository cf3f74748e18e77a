//! `panscreen demo`: the main job on a generated cohort, from nothing to a report, in minutes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use panscreen_envs::dataset::Case;
use panscreen_envs::io;
use panscreen_envs::metrics::Pair;
use panscreen_envs::volume::Labels;
use serde::{Deserialize, Serialize};

use crate::backend::{TrainBackend, Work, on_device};
use crate::config::{self, Config, Device};
use crate::error::{Error, Result};
use crate::evaluate::{CaseScore, Scores};
use crate::report::demo::{self as page, Pictured};
use crate::run::usage::Stopwatch;
use crate::run::{Observer, metrics};
use crate::screen::{Choice, Model, Screened, screen_case};
use crate::setup;
use crate::stages::gf_screen::Operating;
use crate::train::train;

/// The demo's settings, compiled in so that it runs from any folder.
const CONFIG: &str = include_str!("../configs/demo.toml");

/// Pictures in the report.
const PICTURES: usize = 8;

/// One way to screen, on the scans that nobody trained or validated on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// Mean Dice over scans with lesions.
    pub lesion_dice: f64,
    /// Share of the lesions with at least one marked voxel.
    pub lesion_recall: f64,
    /// Findings on scans without lesions, a scan.
    pub false_positives_per_healthy_scan: f64,
    /// Share of the windows that Focus saw.
    pub windows_kept: f64,
    /// From the first byte read to the mask on the scan's own grid, mean.
    pub seconds_per_scan: f64,
}

/// `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoSummary {
    pub glance_focus: Way,
    pub focus_everywhere: Way,
    /// Held-out scans, and the lesions in them.
    pub cases: usize,
    pub lesions: usize,
    pub seed: u64,
    /// Everything: cohort, training, screening, report. Of this start only, if an earlier one had done a part.
    pub seconds_total: f64,
    pub report: PathBuf,
}

impl fmt::Display for DemoSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (g, e) = (&self.glance_focus, &self.focus_everywhere);
        writeln!(f, "{} held-out scans with {} lesions, seed {}, {:.0} s in all", self.cases, self.lesions, self.seed, self.seconds_total)?;
        writeln!(f, "{:<34}{:>14}{:>18}", "", "Glance+Focus", "Focus everywhere")?;
        let mut row = |name: &str, a: f64, b: f64, digits: usize| writeln!(f, "{name:<34}{a:>14.digits$}{b:>18.digits$}");
        row("lesion Dice", g.lesion_dice, e.lesion_dice, 3)?;
        row("lesion recall", g.lesion_recall, e.lesion_recall, 3)?;
        row("false positives per healthy scan", g.false_positives_per_healthy_scan, e.false_positives_per_healthy_scan, 2)?;
        row("windows that Focus saw, %", g.windows_kept * 100.0, e.windows_kept * 100.0, 1)?;
        row("seconds per scan", g.seconds_per_scan, e.seconds_per_scan, 3)?;
        write!(f, "report: {}", self.report.display())
    }
}

/// Run the demo in `out`, or go on where it was interrupted. A demo of another seed in that folder is moved aside, not deleted.
pub fn run(seed: u64, out: &Path, observer: Arc<dyn Observer>) -> Result<DemoSummary> {
    let clock = Stopwatch::start();
    let config = demo_config(seed, out)?;
    move_aside(&config, out, &*observer)?;
    train(&config, out, observer.clone(), None)?;
    on_device(Device::Cpu, Screening { out, seed, clock, observer })
}

fn demo_config(seed: u64, out: &Path) -> Result<Config> {
    let text = |v: &Path| toml::Value::String(v.display().to_string()).to_string();
    let overrides = [format!("seed={seed}"), format!("data.phantom.seed={seed}"), format!("data.root={}", text(&out.join("data")))];
    Ok(config::open_text(Path::new("configs/demo.toml"), CONFIG, &overrides)?.config)
}

/// Where `out` holds a demo with other settings, rename that folder to the first free `out-earlier-N`.
fn move_aside(config: &Config, out: &Path, observer: &dyn Observer) -> Result<()> {
    let stored = out.join("config.toml");
    match std::fs::read_to_string(&stored) {
        Ok(text) if text != config.to_toml() => {}
        _ => return Ok(()),
    }
    let free = (1..).map(|n| PathBuf::from(format!("{}-earlier-{n}", out.display()))).find(|p| !p.exists());
    if let Some(free) = free {
        std::fs::rename(out, &free).map_err(|e| panscreen_envs::Error::io(out, e))?;
        observer.message(&format!("{} held a demo with other settings; it is now {}", out.display(), free.display()));
    }
    Ok(())
}

struct Screening<'a> {
    out: &'a Path,
    seed: u64,
    clock: Stopwatch,
    observer: Arc<dyn Observer>,
}

/// A held-out scan screened in both ways.
struct Both {
    name: String,
    everywhere: (Screened, CaseScore),
    glance_focus: (Screened, CaseScore),
    reference: Vec<u8>,
}

impl Work for Screening<'_> {
    type Output = DemoSummary;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<DemoSummary> {
        let observer = &*self.observer;
        let model = Model::<B>::open(self.out, &[], &device, observer)?;
        let split = setup::kept_split(self.out)?;

        observer.phase("screen the held-out scans in both ways", Some(split.test.len() as u64));
        let mut screened = Vec::with_capacity(split.test.len());
        for case in &split.test {
            screened.push(self.both(&model, case)?);
            observer.advance(1, &[]);
        }
        observer.finish();

        let (everywhere, all) = way(&screened, |b| &b.everywhere);
        let (glance_focus, chosen) = way(&screened, |b| &b.glance_focus);
        let operating = model.operating.as_ref().ok_or_else(|| Error::Usage("the training ended without operating.json".into()))?;
        let report = self.out.join("report").join("index.html");
        let summary = DemoSummary {
            glance_focus,
            focus_everywhere: everywhere,
            cases: screened.len(),
            lesions: all.lesions.lesions,
            seed: self.seed,
            seconds_total: self.clock.seconds(),
            report: report.clone(),
        };
        observer.phase("write the report", None);
        self.report(&model, &screened, &summary, [&chosen, &all], operating, &report)?;
        // Again with the report's own time, for what a person waited.
        let summary = DemoSummary { seconds_total: self.clock.seconds(), ..summary };
        let text = serde_json::to_string_pretty(&summary).map_err(|e| Error::Usage(e.to_string()))?;
        io::write_atomic(&self.out.join("summary.json"), text.as_bytes())?;
        observer.finish();
        Ok(summary)
    }
}

impl Screening<'_> {
    fn both<B: TrainBackend>(&self, model: &Model<B>, case: &Case) -> Result<Both> {
        let label = case.label.as_ref().ok_or_else(|| Error::Usage(format!("{}: the demo judges labelled scans only", case.name)))?;
        let labels: Labels = io::open_labels(label)?;
        let reference: Vec<u8> = labels.data.iter().map(|&v| setup::lesion_classes(&model.config).contains(v) as u8).collect();
        let screen = |way: &str, choice| -> Result<(Screened, CaseScore)> {
            let screened = screen_case(&model.screener, &case.image, &model.settings(Some(choice))?)?;
            let geometry = &screened.volume.geometry;
            io::write_labels(&self.out.join("screened").join(way).join(format!("{}.nii.gz", case.name)), &screened.mask, geometry)?;
            let pair = Pair::new(&case.name, &reference, &screened.mask, geometry.shape, geometry.spacing_mm())?;
            Ok((screened, CaseScore::with_surfaces(&pair)))
        };
        // Alternating, so that whatever else the machine does slows both alike.
        let everywhere = screen("everywhere", Choice::All)?;
        let glance_focus = screen("glance_focus", Choice::Above(model.threshold))?;
        Ok(Both { name: case.name.clone(), everywhere, glance_focus, reference })
    }

    fn report<B: TrainBackend>(
        &self,
        model: &Model<B>,
        screened: &[Both],
        summary: &DemoSummary,
        [chosen, all]: [&Scores; 2],
        operating: &Operating,
        path: &Path,
    ) -> Result<()> {
        let records = metrics::read(&self.out.join("metrics.jsonl"))?;
        let pictured: Vec<Pictured> = screened
            .iter()
            .map(|b| Pictured { name: &b.name, screened: &b.glance_focus.0, score: &b.glance_focus.1, reference: &b.reference })
            .collect();
        let html = page::page(&page::Material {
            summary,
            glance_focus: chosen,
            everywhere: all,
            threshold: model.threshold,
            records: &records,
            operating,
            cases: &pictured,
            pictures: PICTURES,
        });
        Ok(io::write_atomic(path, html.as_bytes())?)
    }
}

fn way(screened: &[Both], of: impl Fn(&Both) -> &(Screened, CaseScore)) -> (Way, Scores) {
    let scores = Scores::of(&screened.iter().map(|b| &of(b).1).collect::<Vec<_>>());
    let sum = |f: &dyn Fn(&Screened) -> f64| screened.iter().map(|b| f(&of(b).0)).sum::<f64>();
    let way = Way {
        lesion_dice: scores.lesion_dice.mean.value().unwrap_or(0.0),
        lesion_recall: scores.lesions.recall.value().unwrap_or(0.0),
        false_positives_per_healthy_scan: scores.false_positives_per_healthy_scan,
        windows_kept: sum(&|s| s.result.windows.kept as f64) / sum(&|s| s.result.windows.total as f64).max(1.0),
        seconds_per_scan: sum(&|s| s.result.seconds) / screened.len().max(1) as f64,
    };
    (way, scores)
}
