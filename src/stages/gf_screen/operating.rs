//! What a run knows about operating its best checkpoint: the whole curve, how calibrated Glance is, what can be guaranteed, and a gate for
//! false alarms. Measured once, on the validation scans, when the training ends; kept as `operating.json` in the run folder.

use std::path::Path;

use panscreen_envs::io::write_atomic;
use panscreen_envs::metrics::calibration::{Forecasts, Scaling, mean_gap};
use panscreen_envs::metrics::conformal::{risk_control, scans_needed, smallest_risk};
use panscreen_envs::metrics::{Matching, match_lesions};
use panscreen_envs::screening::cached::{SIZE_CLASSES, size_class};
use panscreen_envs::screening::gate::{FEATURES, Gate, findings};
use serde::{Deserialize, Serialize};

use super::validate::{OperatingPoint, Seen, candidates, each};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::screen::{Choice, ClassGuarantee, Guarantee, log_odds};

const FILE: &str = "operating.json";

/// Bins of the expected calibration error.
const BINS: usize = 15;

/// The size classes in words, see [`size_class`].
const CLASSES: [&str; SIZE_CLASSES] = ["below 1 mL", "1 to 10 mL", "from 10 mL"];

/// Parts that the scans are dealt into, so that the gate judges no finding that taught it.
const FOLDS: usize = 5;

/// `operating.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operating {
    /// Step of the checkpoint that it is about.
    pub step: u64,
    /// From few windows to all of them.
    pub curve: Vec<OperatingPoint>,
    pub calibration: Calibration,
    pub losses: Losses,
    /// At the operating point.
    pub left: LeftOut,
    /// `null` where the findings are all lesions, or none is.
    pub gate: Option<GateReport>,
}

/// Is Glance's probability the chance that a lesion is there? Of every cell of its heat map, or of every window of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error as it is; `null` where there is nothing to measure on.
    pub ece: Option<f64>,
    /// After temperature scaling, and its temperature.
    pub ece_temperature: Option<f64>,
    pub temperature: f64,
    /// After temperature and intercept, on the scans they were fitted to.
    pub ece_scaled: Option<f64>,
    /// Temperature and intercept: what estimates are made with.
    pub scaling: Scaling,
}

/// Lesions that Focus everywhere finds in each scan, and those of them still found at each threshold, by size class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// The highest first.
    pub thresholds: Vec<f32>,
    pub scans: Vec<ScanLosses>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScanLosses {
    pub everywhere: [u32; SIZE_CLASSES],
    pub kept: Vec<[u32; SIZE_CLASSES]>,
}

/// Lesions outside everything that Focus saw: what was estimated, and what was so, as shares.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    pub estimated: f64,
    /// Lesion voxels, of all.
    pub measured: f64,
}

/// The gate and what it does at each threshold, every finding judged by a gate that didn't learn from its scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateReport {
    pub gate: Gate,
    pub curve: Vec<GatePoint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatePoint {
    pub threshold: f64,
    /// Share of the findings that are lesions which stay.
    pub true_findings: f64,
    pub false_findings_per_scan: f64,
}

/// What there is to know about one scan.
struct Measured {
    losses: ScanLosses,
    /// At each threshold, lesions found and windows that Focus saw.
    at: Vec<(usize, usize)>,
    lesions: usize,
    /// Lesions expected outside everything that Focus saw at the operating point, and in all.
    expected: (f64, f64),
    /// Lesion voxels there, and in all.
    voxels: (usize, usize),
}

impl Operating {
    /// Measure `seen` at every threshold; `point` is the one in use. No network runs: all that is needed has been seen.
    pub fn measure(seen: &[Seen], point: Option<&OperatingPoint>, step: u64, config: &Config) -> Result<Self> {
        let thresholds = candidates(seen);
        let in_use = Choice::Above(point.map_or(0.5, |p| p.threshold));
        let calibration = Calibration::of(seen)?;
        let measured = each(seen, |s| Measured::of(s, &thresholds, in_use, calibration.scaling, config))?;
        let sum = |of: &dyn Fn(&Measured) -> usize| measured.iter().map(of).sum::<usize>();
        let windows = seen.iter().map(|s| s.plan.grid).sum::<usize>().max(1) as f64;
        let found_everywhere = sum(&|m| m.losses.everywhere.iter().sum::<u32>() as usize);
        let point = |(t, &threshold): (usize, &f32)| OperatingPoint {
            threshold,
            relative_recall: if found_everywhere == 0 { 1.0 } else { sum(&|m| m.at[t].0) as f64 / found_everywhere as f64 },
            windows_kept: sum(&|m| m.at[t].1) as f64 / windows,
            scans: seen.len(),
            lesions: sum(&|m| m.lesions),
        };
        let curve = thresholds.iter().enumerate().map(point).collect();
        let share = |part: f64, all: f64| if all > 0.0 { part / all } else { 0.0 };
        // Over all scans together, as what was so: a scan without lesions has no share of its own.
        let estimated = measured.iter().fold((0.0, 0.0), |sum, m| (sum.0 + m.expected.0, sum.1 + m.expected.1));
        let left = LeftOut {
            estimated: share(estimated.0, estimated.1),
            measured: share(sum(&|m| m.voxels.0) as f64, sum(&|m| m.voxels.1) as f64),
        };
        let losses = Losses { thresholds, scans: measured.into_iter().map(|m| m.losses).collect() };
        Ok(Operating { step, curve, calibration, losses, left, gate: gate(seen, in_use, config)? })
    }

    /// Of the checkpoint of `step`; `None` where the run folder has none of it.
    pub fn read(run: &Path, step: u64) -> Option<Self> {
        let text = std::fs::read(run.join(FILE)).ok()?;
        serde_json::from_slice::<Operating>(&text).ok().filter(|o| o.step == step)
    }

    pub fn write(&self, run: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Usage(e.to_string()))?;
        Ok(write_atomic(&run.join(FILE), (text + "\n").as_bytes())?)
    }
}

impl Measured {
    fn of(scan: &Seen, thresholds: &[f32], in_use: Choice, scaling: Scaling, config: &Config) -> Result<Self> {
        // Which lesions are found, with their size classes; their order is that of the reference.
        let hits = |choice| -> Result<(Vec<(usize, bool)>, usize)> {
            let looked = scan.screen(choice);
            let matched = match_lesions(&scan.pair(&looked.probability, config)?, Matching::default());
            let of = matched.lesions.iter().map(|l| (size_class(l.volume_ml), l.hit())).collect();
            Ok((of, looked.windows_kept()))
        };
        let count = |of: &mut dyn Iterator<Item = usize>| {
            let mut counts = [0; SIZE_CLASSES];
            of.for_each(|c| counts[c] += 1);
            counts
        };
        let (everywhere, _) = hits(Choice::All)?;
        let (mut kept, mut at) = (Vec::with_capacity(thresholds.len()), Vec::with_capacity(thresholds.len()));
        for &threshold in thresholds {
            let (now, looked_at) = hits(Choice::Above(threshold))?;
            let both = everywhere.iter().zip(&now).filter(|(e, n)| e.1 && n.1).map(|(e, _)| e.0);
            kept.push(count(&mut both.into_iter()));
            at.push((now.iter().filter(|n| n.1).count(), looked_at));
        }
        let looked = scan.screen(in_use);
        let covered = scan.plan.covered(&looked);
        let [_, ny, nz] = scan.plan.shape;
        let outside = scan.lesion_voxels.iter().map(|&v| v as usize).filter(|v| !covered([v / (ny * nz), v / nz % ny, v % nz])).count();
        Ok(Measured {
            lesions: everywhere.len(),
            losses: ScanLosses { everywhere: count(&mut everywhere.iter().filter(|e| e.1).map(|e| e.0)), kept },
            at,
            expected: scan.plan.expected_unseen(&scan.glanced, &looked, scaling),
            voxels: (outside, scan.lesion_voxels.len()),
        })
    }
}

impl Calibration {
    fn of(seen: &[Seen]) -> Result<Self> {
        let (mut odds, mut happened) = (vec![], vec![]);
        for s in seen {
            let scan = s.scan()?;
            let holds: Vec<bool> = match &s.glanced.heat {
                Some((cells, _)) => cells.targets(&scan).into_iter().map(|t| t > 0.0).collect(),
                None => s.plan.starts.iter().map(|&start| !scan.lesions_in(start, s.plan.window).is_empty()).collect(),
            };
            let p = s.glanced.heat.as_ref().map_or(&s.glanced.windows, |(_, cells)| cells);
            odds.extend(p.iter().map(|&p| log_odds(p)));
            happened.extend(holds);
        }
        let ece = |scaling: Scaling| {
            let p: Vec<f64> = odds.iter().map(|&z| scaling.probability(z)).collect();
            mean_gap(&Forecasts::new(&happened, &p)?.equal_width(BINS))
        };
        let temperature = if odds.is_empty() { Scaling::IDENTITY } else { Scaling::temperature(&odds, &happened) };
        let scaling = Scaling::platt(&odds, &happened).unwrap_or(temperature);
        Ok(Calibration {
            ece: ece(Scaling::IDENTITY),
            ece_temperature: ece(temperature),
            temperature: temperature.temperature,
            ece_scaled: ece(scaling),
            scaling,
        })
    }
}

impl Losses {
    /// The fewest windows with which the expected recall on a scan like these, of what Focus everywhere finds there, is at least `recall`.
    ///
    /// # Errors
    /// A sentence where the scans are too few for that.
    pub fn guarantee(&self, recall: f64) -> Result<Guarantee> {
        let risk = 1.0 - recall;
        let of = |classes: std::ops::Range<usize>| -> Vec<Vec<f64>> {
            let lost = |s: &ScanLosses| {
                let sum = |counts: &[u32; SIZE_CLASSES]| f64::from(counts[classes.clone()].iter().sum::<u32>());
                let all = sum(&s.everywhere);
                // Last comes Focus everywhere, which loses nothing of what it finds.
                (all > 0.0).then(|| s.kept.iter().map(|k| 1.0 - sum(k) / all).chain([0.0]).collect())
            };
            self.scans.iter().filter_map(lost).collect()
        };
        let all = of(0..SIZE_CLASSES);
        let Some(mut setting) = risk_control(&all, risk) else {
            return Err(Error::Usage(format!(
                "a recall of {recall} can't be guaranteed: that needs {} validation scans with lesions that Focus finds, there are {}, which guarantee at most {:.3}",
                scans_needed(risk),
                all.len(),
                1.0 - smallest_risk(all.len())
            )));
        };
        let mut classes = Vec::with_capacity(SIZE_CLASSES);
        for (c, name) in CLASSES.iter().enumerate() {
            let of_class = of(c..c + 1);
            let needs = risk_control(&of_class, risk);
            setting = setting.max(needs.unwrap_or(0));
            classes.push(ClassGuarantee { lesions: (*name).into(), scans: of_class.len(), holds: needs.is_some() });
        }
        Ok(Guarantee { recall, threshold: self.thresholds.get(setting).copied(), scans: all.len(), classes })
    }
}

/// A gate taught on the findings at the operating point. Its threshold keeps `screen.recall` of those that are lesions.
fn gate(seen: &[Seen], choice: Choice, config: &Config) -> Result<Option<GateReport>> {
    let mut examples: Vec<(usize, [f64; FEATURES.len()], bool)> = vec![];
    for (fold, scan) in seen.iter().enumerate() {
        let looked = scan.screen(choice);
        let (shape, lesion, image) = (scan.plan.shape, scan.lesion(), scan.scan()?);
        let voxel_ml = scan.spacing_mm.iter().product::<f64>() / 1000.0;
        let mask_threshold = config.screen.mask_threshold as f32;
        let (runs, components, found) = findings(&looked.probability, &image.image[..lesion.len()], shape, mask_threshold, voxel_ml);
        let mut is_lesion = vec![false; found.len()];
        let mut number = 0;
        runs.for_each(|x, y, _, run| {
            let row = (x * shape[1] + y) * shape[2];
            is_lesion[components.of_run[number] as usize - 1] |= lesion[row + run.start as usize..row + run.end as usize].contains(&1);
            number += 1;
        });
        examples.extend(found.iter().zip(is_lesion).map(|(f, y)| (fold % FOLDS, f.features, y)));
    }
    let but = |fold: usize| examples.iter().filter(|e| e.0 != fold).map(|e| (e.1, e.2)).collect::<Vec<_>>();
    let Some(mut gate) = Gate::fit(&but(FOLDS)) else { return Ok(None) };
    let mut judged: Vec<(f64, bool)> = vec![];
    for fold in 0..FOLDS {
        // Without both kinds in the others there is no gate: its findings stay.
        let gate = Gate::fit(&but(fold));
        let p = |x: &[f64; FEATURES.len()]| gate.as_ref().map_or(1.0, |g| g.probability(x));
        judged.extend(examples.iter().filter(|e| e.0 == fold).map(|e| (p(&e.1), e.2)));
    }
    let lesions = judged.iter().filter(|j| j.1).count().max(1) as f64;
    let point = |threshold: f64| {
        let stay = |kind: bool| judged.iter().filter(|j| j.1 == kind && j.0 >= threshold).count() as f64;
        GatePoint { threshold, true_findings: stay(true) / lesions, false_findings_per_scan: stay(false) / seen.len().max(1) as f64 }
    };
    let mut thresholds: Vec<f64> = judged.iter().filter(|j| j.1).map(|j| j.0).chain([0.0]).collect();
    thresholds.sort_by(f64::total_cmp);
    thresholds.dedup();
    let curve: Vec<GatePoint> = thresholds.into_iter().map(point).collect();
    gate.threshold = curve.iter().rev().find(|p| p.true_findings >= config.screen.recall).map_or(0.0, |p| p.threshold);
    Ok(Some(GateReport { gate, curve }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans with one lesion below 1 mL and one above 10, of which the first threshold keeps the large one.
    fn losses(scans: usize) -> Losses {
        let scan = ScanLosses { everywhere: [1, 0, 1], kept: vec![[0, 0, 1], [1, 0, 1]] };
        Losses { thresholds: vec![0.8, 0.2], scans: vec![scan; scans] }
    }

    #[test]
    fn a_guarantee_holds_for_all_and_for_each_class_or_is_refused_in_a_sentence() {
        let found = losses(99).guarantee(0.99).unwrap();
        let classes: Vec<(usize, bool)> = found.classes.iter().map(|c| (c.scans, c.holds)).collect();
        assert_eq!((found.threshold, found.scans, classes), (Some(0.2), 99, vec![(99, true), (0, false), (99, true)]));
        // Half of the lesions is enough for all together, but not for the small ones by themselves.
        assert_eq!(losses(20).guarantee(0.45).unwrap().threshold, Some(0.2));
        let large = Losses { scans: vec![ScanLosses { everywhere: [0, 0, 1], kept: vec![[0, 0, 1]; 2] }; 20], ..losses(0) };
        assert_eq!(large.guarantee(0.9).unwrap().threshold, Some(0.8));
        let refused = losses(16).guarantee(0.99).unwrap_err().to_string();
        let expected = "a recall of 0.99 can't be guaranteed: that needs 99 validation scans with lesions that Focus finds, there are 16, \
                        which guarantee at most 0.941";
        assert_eq!(refused, expected);
    }

    #[test]
    fn where_no_threshold_keeps_the_promise_focus_looks_everywhere() {
        let scan = ScanLosses { everywhere: [0, 2, 0], kept: vec![[0, 0, 0], [0, 1, 0]] };
        let losses = Losses { thresholds: vec![0.8, 0.2], scans: vec![scan; 30] };
        let found = losses.guarantee(0.9).unwrap();
        assert_eq!((found.threshold, found.choice()), (None, Choice::All));
    }
}
