//! One scan from file to mask, table and figures.

use std::path::{Path, PathBuf};
use std::time::Instant;

use panscreen_envs::io::{self, Opened, Warning};
use panscreen_envs::metrics::calibration::Scaling;
use panscreen_envs::screening::gate::Gate;
use panscreen_envs::volume::{PrepareConfig, Volume, WayBack, prepare};
use panscreen_policies::kernels::flops;
use serde::{Deserialize, Serialize};

use super::again::sentence;
use super::{Budget, Choice, Glanced, Guarantee, Image, Left, Lesion, Looked, Place, Plan, Recomputed, Screener, lesions};
use crate::backend::InferBackend;
use crate::config::{Restore, ScreenConfig};
use crate::error::Result;
use crate::run::usage::{Stopwatch, peak_memory_bytes, reset_peak_memory};

/// How to screen.
#[derive(Clone, Debug)]
pub struct ScreenSettings {
    pub screen: ScreenConfig,
    pub prepare: PrepareConfig,
    pub choice: Choice,
    /// What makes Glance's probabilities calibrated: for the estimate of what was left.
    pub scaling: Scaling,
    /// Findings that it takes for false alarms are dropped.
    pub gate: Option<Gate>,
    /// What the choice of windows promises, where it was made for a promise.
    pub guarantee: Option<Guarantee>,
}

/// Seconds and peak memory of one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepCost {
    pub step: String,
    pub seconds: f64,
    /// CPU time of all threads; `null` where the system doesn't tell.
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
    /// Floating-point operations that the networks asked for, in 10^9: see [`panscreen_policies::kernels::flops`].
    #[serde(default)]
    pub gflop: f64,
    /// Highest memory of the process during the step; `null` where the system doesn't tell.
    pub peak_mib: Option<f64>,
}

/// How many windows were looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowCount {
    pub total: usize,
    /// Windows that Focus segmented, wider ones too.
    pub kept: usize,
    /// How many of those were wider than a window, see `screen.scales`.
    #[serde(default)]
    pub wide: usize,
    /// Parts of the scan that Glance read again at a finer grid; `null` where it looks once.
    #[serde(default)]
    pub read_again: Option<usize>,
    /// Glance's operating point; `null` where a share or everything was kept.
    pub threshold: Option<f32>,
    /// Highest and mean probability that Glance gave; `null` where it wasn't asked.
    pub highest: Option<f32>,
    pub mean: Option<f32>,
    /// What Focus did not look at; `null` where it looked at every window of the grid.
    #[serde(default)]
    pub left: Option<Left>,
    /// Findings that the gate dropped; `null` without one.
    #[serde(default)]
    pub gated: Option<usize>,
}

/// What is written beside the mask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    pub case: String,
    pub input: PathBuf,
    /// `lesion` or `clear`.
    pub verdict: String,
    /// Why the mask is empty, if it is.
    pub reason: Option<String>,
    /// What is odd about the input.
    #[serde(default)]
    pub warnings: Vec<Warning>,
    pub lesions: Vec<Lesion>,
    /// Windows that overflowed half precision and were computed again in `f32`; left out where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recomputed: Vec<Recomputed>,
    pub windows: WindowCount,
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    pub costs: Vec<StepCost>,
    /// From the first byte read to the mask in memory.
    pub seconds: f64,
}

/// A screened scan in memory.
pub struct Screened {
    pub result: CaseResult,
    pub volume: Volume,
    /// On the scan's own grid.
    pub mask: Vec<u8>,
    pub probability: Vec<f32>,
    /// Mean Glance probability of the windows over each voxel, on the scan's own grid; empty where Glance wasn't asked.
    pub heat: Vec<f32>,
    /// Where the windows lie that were to choose from, wider ones last.
    pub windows: Vec<Place>,
    /// What Glance thinks of them, but of the wider ones.
    pub glance: Vec<f32>,
    /// Windows that Focus segmented.
    pub kept: Vec<bool>,
    pub way_back: WayBack,
}

/// Measures the steps of a case.
#[derive(Default)]
struct Costs {
    steps: Vec<StepCost>,
}

impl Costs {
    fn step<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        reset_peak_memory();
        let (clock, flops_before) = (Stopwatch::start(), flops());
        let out = work();
        let gflop = (flops() - flops_before) as f64 * 1e-9;
        let peak_mib = peak_memory_bytes().map(|b| b as f64 / f64::from(1 << 20));
        self.steps.push(StepCost { step: name.into(), seconds: clock.seconds(), cpu_seconds: clock.cpu_seconds(), gflop, peak_mib });
        out
    }
}

/// Screen the scan in `input`.
pub fn screen_case<B: InferBackend>(screener: &Screener<B>, input: &Path, settings: &ScreenSettings) -> Result<Screened> {
    let (clock, budget) = (Stopwatch::start(), Budget::of(&settings.screen, Instant::now()));
    let mut costs = Costs::default();
    let Opened { item: volume, mut warnings, .. } = costs.step("read", || io::read(input))?;
    let geometry = volume.geometry.clone();
    let prepared = costs.step("prepare", || prepare(volume.clone(), None, &settings.prepare))?;
    let plan = screener.plan(prepared.shape, &settings.screen);
    let image = Image { data: &prepared.image, channels: prepared.channels, shape: prepared.shape };

    // Of a scan that failed.
    screener.again.take();
    let asked = settings.choice != Choice::All;
    let (glanced, read_again) = if asked { glance(screener, image, &plan, &mut costs)? } else { (Glanced::unasked(&plan), None) };
    let focus = |numbers: &[usize]| screener.look(image, &plan, numbers);
    let mut looked = costs.step("focus", || plan.run(&glanced, settings.choice, &budget, focus))?;
    if looked.skipped > 0 {
        let found = format!("{} chosen windows not looked at", looked.skipped);
        warnings.push(Warning::new(found, "all of them", "give a larger budget, or choose fewer windows"));
    }
    let recomputed = screener.again.take();
    if let Some(found) = sentence(&recomputed) {
        warnings.push(Warning::new(found, "numbers", "they were computed again in f32; with many of them precision=f32 is faster"));
    }
    let threshold = settings.screen.mask_threshold as f32;
    let gated = settings.gate.as_ref().map(|gate| {
        let voxel_ml = prepared.spacing_mm.iter().product::<f64>() / 1000.0;
        gate.apply(&mut looked.probability, &prepared.image[..prepared.shape.iter().product()], prepared.shape, threshold, voxel_ml)
    });
    let min_ml = settings.screen.min_component_ml;
    let (probability, mask, found) = costs.step("restore", || {
        let probability = prepared.way_back.restore_probability(&looked.probability);
        match settings.screen.restore {
            Restore::Probability => {
                let (mask, found) = lesions(&probability, &geometry, threshold, min_ml);
                (probability, mask, found)
            }
            Restore::Mask => {
                let hard: Vec<u8> = looked.probability.iter().map(|&p| (p > threshold) as u8).collect();
                let hard = prepared.way_back.restore_labels(&hard);
                // Confidence still comes from the probability; a voxel of the mask is above any threshold below 0.
                let inside: Vec<f32> = hard.iter().zip(&probability).map(|(&m, &p)| if m == 1 { p } else { -1.0 }).collect();
                let (mask, found) = lesions(&inside, &geometry, -0.5, min_ml);
                (probability, mask, found)
            }
        }
    });
    let heat = if asked { prepared.way_back.restore_probability(&plan.heat(&glanced)) } else { Vec::new() };
    let glance = glanced.windows.clone();
    let highest = glance.iter().copied().fold(0.0, f32::max);
    let left = |looked: &Looked| Left { windows: looked.skipped, lesions_expected: plan.unseen(&glanced, looked, settings.scaling) };
    let windows = WindowCount {
        total: plan.grid,
        kept: looked.windows_kept(),
        wide: looked.kept[plan.starts.len()..].iter().filter(|k| **k).count(),
        read_again,
        threshold: if let Choice::Above(t) = settings.choice { Some(t) } else { None },
        highest: asked.then_some(highest),
        mean: asked.then(|| glance.iter().sum::<f32>() / glance.len().max(1) as f32),
        left: (asked || looked.skipped > 0).then(|| left(&looked)),
        gated,
    };
    let reason = found.is_empty().then(|| empty_because(&windows, &looked.probability, threshold, min_ml));
    let result = CaseResult {
        case: io::case_name(input),
        input: input.to_owned(),
        verdict: if found.is_empty() { "clear" } else { "lesion" }.into(),
        reason,
        warnings,
        lesions: found,
        recomputed,
        windows,
        shape: geometry.shape,
        spacing_mm: geometry.spacing_mm(),
        costs: costs.steps,
        seconds: clock.seconds(),
    };
    Ok(Screened {
        result,
        volume,
        mask,
        probability,
        heat,
        windows: (0..plan.count()).map(|i| plan.place(i)).collect(),
        glance,
        kept: looked.kept,
        way_back: prepared.way_back,
    })
}

/// Glance's view, each of its looks a step of its own; and how many parts the second one read.
fn glance<B: InferBackend>(screener: &Screener<B>, image: Image, plan: &Plan, costs: &mut Costs) -> Result<(Glanced, Option<usize>)> {
    let Some(net) = screener.glances_twice(image.shape) else {
        return Ok((costs.step("glance", || screener.glance(image, plan))?, None));
    };
    let first = costs.step("glance", || screener.heat(net, image))?;
    costs.step("second glance", || {
        let heat = screener.second_heat(net, image, first)?;
        let parts = heat.parts;
        Ok((screener.read(net, plan, heat), Some(parts)))
    })
}

/// One sentence on why nothing was marked.
fn empty_because(windows: &WindowCount, probability: &[f32], threshold: f32, min_ml: f64) -> String {
    let most = probability.iter().copied().fold(0.0, f32::max);
    if let Some(left) = windows.left.filter(|l| l.windows > 0) {
        return format!("the budget ended after {} windows; {} more were chosen", windows.kept, left.windows);
    }
    match (windows.kept, windows.highest) {
        (0, Some(highest)) => format!("0 of {} windows passed; highest {highest:.2}", windows.total),
        (kept, _) if most <= threshold => {
            format!("Focus saw {kept} of {} windows; highest lesion probability {most:.2}, needed above {threshold:.2}", windows.total)
        }
        (kept, _) => format!("Focus saw {kept} of {} windows; everything it marked is smaller than {min_ml} mL", windows.total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_mask_says_why() {
        let windows = |kept, highest| WindowCount { total: 214, kept, threshold: Some(0.4), highest, ..WindowCount::default() };
        for (kept, highest, p, expected) in [
            (0, Some(0.31), 0.0, "0 of 214 windows passed; highest 0.31"),
            (3, Some(0.8), 0.4, "Focus saw 3 of 214 windows; highest lesion probability 0.40, needed above 0.50"),
            (214, None, 0.9, "Focus saw 214 of 214 windows; everything it marked is smaller than 0.2 mL"),
        ] {
            assert_eq!(empty_because(&windows(kept, highest), &[p], 0.5, 0.2), expected);
        }
    }
}
