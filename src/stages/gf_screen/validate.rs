//! Validation on whole scans, through the code that screens; and the operating point that it gives.

use panscreen_envs::dataset::Store;
use panscreen_envs::metrics::Pair;
use serde::{Deserialize, Serialize};

use crate::backend::InferBackend;
use crate::config::{BestMetric, Config, Threshold};
use crate::error::Result;
use crate::evaluate::{CaseScore, Judged, Summary, summarise};
use crate::run::Scalar;
use crate::screen::{Choice, Image, Plan, Screener, lesions};

/// Shares of the windows that are tried as operating points: fine where it matters, up to half.
const SHARES: [f64; 22] =
    [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.22, 0.25, 0.28, 0.32, 0.36, 0.4, 0.5, 1.0];

/// Where Glance's threshold lies, and what was seen there on the validation scans.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// Windows with a probability above this go to Focus.
    pub threshold: f32,
    /// Lesions found, as a share of those that Focus everywhere finds.
    pub relative_recall: f64,
    /// Share of the windows that Focus saw.
    pub windows_kept: f64,
    /// Scans and lesions it was chosen on; 0 where it was fixed by the config.
    pub scans: usize,
    pub lesions: usize,
}

/// Figures of both ways to screen, and the operating point.
#[derive(Clone, Debug)]
pub struct Validation {
    pub glance_focus: Summary,
    pub everywhere: Summary,
    pub operating_point: OperatingPoint,
}

impl Validation {
    /// The figure that chooses the best checkpoint; higher is better.
    pub fn best_metric(&self, metric: BestMetric) -> f64 {
        let s = &self.glance_focus;
        let recall = s.lesions.recall.value().unwrap_or(0.0);
        match metric {
            BestMetric::LesionDice => s.lesion_dice.mean.value().unwrap_or(0.0),
            BestMetric::LesionRecall => recall,
            BestMetric::LesionF1 => {
                let precision = s.lesions.precision.value().unwrap_or(0.0);
                if recall + precision > 0.0 { 2.0 * recall * precision / (recall + precision) } else { 0.0 }
            }
        }
    }

    /// Names and values for the log.
    pub fn named(&self) -> Vec<(&'static str, Scalar)> {
        let recall = |s: &Summary| s.lesions.recall.value().unwrap_or(0.0);
        let dice = |s: &Summary| s.lesion_dice.mean.value().unwrap_or(0.0);
        let (g, e, o) = (&self.glance_focus, &self.everywhere, &self.operating_point);
        vec![
            ("validation/lesion_dice", dice(g).into()),
            ("validation/lesion_recall", recall(g).into()),
            ("validation/false_positives_per_healthy_scan", g.false_positives_per_healthy_scan.into()),
            ("validation/windows_kept", o.windows_kept.into()),
            ("validation/threshold", o.threshold.into()),
            ("validation/everywhere/lesion_dice", dice(e).into()),
            ("validation/everywhere/lesion_recall", recall(e).into()),
            ("validation/everywhere/false_positives_per_healthy_scan", e.false_positives_per_healthy_scan.into()),
        ]
    }
}

/// A scan with every network output that screening it could need.
pub struct Seen {
    name: String,
    plan: Plan,
    glance: Vec<f32>,
    focus: Vec<Vec<f32>>,
    lesion: Vec<u8>,
    spacing_mm: [f64; 3],
}

impl Seen {
    /// Screen by `choice` from the outputs at hand.
    fn judge(&self, choice: Choice, config: &Config) -> Result<(Judged, usize)> {
        let stored = |numbers: &[usize]| -> Result<Vec<Vec<f32>>> { Ok(numbers.iter().map(|&i| self.focus[i].clone()).collect()) };
        let looked = self.plan.run(&self.glance, choice, stored)?;
        let geometry = panscreen_envs::volume::Geometry::ras(self.plan.shape, self.spacing_mm, [0.0; 3]);
        let (mask, _) = lesions(&looked.probability, &geometry, config.screen.mask_threshold as f32, config.screen.min_component_ml);
        let pair = Pair::new(&self.name, &self.lesion, &mask, self.plan.shape, self.spacing_mm)?;
        Ok((Judged::Scored(CaseScore::of(&pair)), looked.windows_kept()))
    }
}

/// Every network output that screening the scans of `store` could need.
pub fn look<B: InferBackend>(screener: &Screener<B>, store: &Store, config: &Config) -> Result<Vec<Seen>> {
    (0..store.cases().len())
        .map(|i| {
            let case = store.load(i)?;
            let plan = Plan::new(case.scan.shape, screener.window, &config.screen);
            let image = Image { data: &case.scan.image, channels: case.scan.channels, shape: case.scan.shape };
            let (glance, focus) = (screener.glance(image, &plan.starts)?, screener.focus(image, &plan.starts)?);
            let lesion = case.scan.lesion.iter().map(|&n| (n > 0) as u8).collect();
            Ok(Seen { name: case.scan.name.clone(), plan, glance, focus, lesion, spacing_mm: case.spacing_mm })
        })
        .collect()
}

/// Screen with Focus everywhere and with Glance and Focus, on the prepared grid, and find the operating point: the fewest windows with the
/// wanted recall; where that needs more than `screen.most_windows`, the best recall within them.
pub fn validate(seen: &[Seen], config: &Config) -> Result<Validation> {
    let (everywhere, _) = judge_all(seen, Choice::All, config)?;
    if let Threshold::Fixed(t) = config.screen.threshold {
        let (glance_focus, point) = at(seen, &everywhere, t as f32, config)?;
        return Ok(Validation { glance_focus, everywhere, operating_point: OperatingPoint { scans: 0, lesions: 0, ..point } });
    }
    let mut chosen: Option<(Summary, OperatingPoint)> = None;
    for threshold in candidates(seen) {
        let measured = at(seen, &everywhere, threshold, config)?;
        let better = chosen.as_ref().is_none_or(|c| measured.1.relative_recall >= c.1.relative_recall);
        if chosen.is_some() && measured.1.windows_kept > config.screen.most_windows {
            break;
        }
        let enough = measured.1.relative_recall >= config.screen.recall;
        if better {
            chosen = Some(measured);
        }
        if enough {
            break;
        }
    }
    let (glance_focus, operating_point) = match chosen {
        Some(measured) => measured,
        None => at(seen, &everywhere, 0.5, config)?,
    };
    Ok(Validation { glance_focus, everywhere, operating_point })
}

/// The operating points from few windows to all of them: "windows kept" against "recall relative to Focus everywhere".
pub fn curve(seen: &[Seen], config: &Config) -> Result<Vec<OperatingPoint>> {
    let (everywhere, _) = judge_all(seen, Choice::All, config)?;
    candidates(seen).into_iter().map(|t| Ok(at(seen, &everywhere, t, config)?.1)).collect()
}

/// Thresholds that keep each of [`SHARES`] of all windows, the highest first.
fn candidates(seen: &[Seen]) -> Vec<f32> {
    let mut all: Vec<f32> = seen.iter().flat_map(|s| s.glance.iter().copied()).collect();
    all.sort_by(|a, b| b.total_cmp(a));
    let threshold = |share: f64| {
        // Just below the last window of that share, so that it is kept.
        let last = all.get(((all.len() as f64 * share) as usize).saturating_sub(1))?;
        Some(last.next_down().max(0.0))
    };
    let mut thresholds: Vec<f32> = SHARES.iter().filter_map(|&s| threshold(s)).collect();
    thresholds.dedup();
    thresholds
}

/// What Glance and Focus find at `threshold`.
fn at(seen: &[Seen], everywhere: &Summary, threshold: f32, config: &Config) -> Result<(Summary, OperatingPoint)> {
    let (summary, windows_kept) = judge_all(seen, Choice::Above(threshold), config)?;
    let found = everywhere.lesions.hits;
    let relative_recall = if found == 0 { 1.0 } else { summary.lesions.hits as f64 / found as f64 };
    Ok((summary, OperatingPoint { threshold, relative_recall, windows_kept, scans: seen.len(), lesions: everywhere.lesions.lesions }))
}

/// Summary over all scans, and the share of the windows that Focus saw.
fn judge_all(seen: &[Seen], choice: Choice, config: &Config) -> Result<(Summary, f64)> {
    let judged = seen.iter().map(|s| s.judge(choice, config)).collect::<Result<Vec<_>>>()?;
    let (judged, kept): (Vec<Judged>, Vec<usize>) = judged.into_iter().unzip();
    let windows: usize = seen.iter().map(|s| s.glance.len()).sum();
    Ok((summarise(&judged), kept.iter().sum::<usize>() as f64 / windows.max(1) as f64))
}
