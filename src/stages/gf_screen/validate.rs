//! Validation on whole scans, through the code that screens; and the operating point that it gives.

use std::convert::Infallible;
use std::sync::Arc;

use panscreen_envs::dataset::Store;
use panscreen_envs::metrics::Pair;
use panscreen_envs::screening::Scan;
use panscreen_envs::volume::Geometry;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::backend::InferBackend;
use crate::config::{BestMetric, Config, Threshold};
use crate::error::Result;
use crate::evaluate::{CaseScore, Scores};
use crate::run::Scalar;
use crate::screen::{Budget, Choice, FocusCache, Glanced, Image, Looked, Plan, Screener, Votes, lesions, thresholds_at};

/// Shares of the windows that are tried as operating points: fine where it matters, up to half.
const SHARES: [f64; 22] =
    [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.22, 0.25, 0.28, 0.32, 0.36, 0.4, 0.5, 1.0];

/// Scans that are judged side by side.
const AT_ONCE: usize = 8;

/// The threshold where there is no window to choose one by.
const NO_CANDIDATE: f32 = 0.5;

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
    pub glance_focus: Scores,
    pub everywhere: Scores,
    pub operating_point: OperatingPoint,
}

impl Validation {
    /// The figure that chooses the best checkpoint; higher is better.
    pub fn best_metric(&self, metric: BestMetric) -> f64 {
        let s = &self.glance_focus;
        match metric {
            BestMetric::LesionDice => s.lesion_dice.mean.value().unwrap_or(0.0),
            BestMetric::LesionRecall => s.lesions.recall.value().unwrap_or(0.0),
            BestMetric::LesionF1 => s.lesions.f1().value().unwrap_or(0.0),
        }
    }

    /// Names and values for the log.
    pub fn named(&self) -> Vec<(&'static str, Scalar)> {
        let recall = |s: &Scores| s.lesions.recall.value().unwrap_or(0.0);
        let dice = |s: &Scores| s.lesion_dice.mean.value().unwrap_or(0.0);
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

/// A scan with all network outputs that screening it can need, at any operating point: no network runs again, and what is kept is small.
pub struct Seen<'s> {
    store: &'s Store,
    index: usize,
    pub name: String,
    pub spacing_mm: [f64; 3],
    pub plan: Plan,
    pub glanced: Glanced,
    /// Flat indices of the lesion voxels.
    pub lesion_voxels: Vec<u32>,
    /// Focus in the windows that a threshold of `lowest` or above asks for.
    votes: Votes,
    lowest: f32,
}

impl<'s> Seen<'s> {
    /// Glance's view of scan number `index`; Focus has seen nothing yet.
    fn glance<B: InferBackend>(screener: &Screener<B>, store: &'s Store, index: usize, config: &Config) -> Result<Self> {
        let case = store.load(index)?;
        let plan = screener.plan(case.scan.shape, &config.screen);
        let glanced = screener.glance(image(&case.scan), &plan)?;
        Ok(Seen {
            store,
            index,
            name: case.scan.name.clone(),
            spacing_mm: case.spacing_mm,
            votes: Votes::of(&[], &plan, 0.0),
            lowest: f32::INFINITY,
            plan,
            glanced,
            lesion_voxels: case.scan.lesion_voxels().to_vec(),
        })
    }

    /// Let Focus look at every window that a threshold of `lowest` or above, second looks and wider windows can ask for.
    fn focus<B: InferBackend>(&mut self, screener: &Screener<B>, lowest: f32, cache: Option<&FocusCache>, config: &Config) -> Result<()> {
        let scan = self.scan()?;
        self.lowest = lowest;
        if let Some(cache) = cache.filter(|_| self.plan.count() == self.plan.grid) {
            let everywhere = || screener.focus(image(&scan), &self.plan.starts);
            self.votes = cache.votes(&self.store.cases()[self.index], &self.plan, everywhere)?;
            return Ok(());
        }
        let from_queue = self.plan.queue(&self.glanced).into_iter().take_while(|q| q.1 > lowest).map(|q| q.0);
        let free = from_queue.filter(|&w| w >= self.plan.grid);
        let numbers: Vec<usize> = (0..self.plan.grid).chain(free).chain(self.plan.starts.len()..self.plan.count()).collect();
        let looked: Vec<(usize, Vec<f32>)> = numbers.iter().copied().zip(screener.look(image(&scan), &self.plan, &numbers)?).collect();
        self.votes = Votes::of(&looked, &self.plan, config.screen.mask_threshold as f32);
        Ok(())
    }

    /// The prepared scan.
    pub fn scan(&self) -> Result<Arc<Scan>> {
        Ok(self.store.load(self.index)?.scan)
    }

    /// Screen by `choice`. The probability is that of a screening wherever it is above the mask threshold, and at most that elsewhere. Nothing is known
    /// below the lowest threshold that Focus was asked for.
    pub fn screen(&self, choice: Choice) -> Looked {
        assert!(!matches!(choice, Choice::Best(_)), "Focus was asked by thresholds, a share may need other windows");
        let choice = match choice {
            Choice::Above(threshold) => Choice::Above(threshold.max(self.lowest)),
            other => other,
        };
        let stored =
            |numbers: &[usize]| -> Result<Vec<Vec<f32>>, Infallible> { Ok(numbers.iter().map(|&w| self.votes.window(w)).collect()) };
        let Ok(looked) = self.plan.run(&self.glanced, choice, &Budget::default(), stored);
        looked
    }

    /// 1 on lesion voxels, `[shape]`.
    pub fn lesion(&self) -> Vec<u8> {
        let mut lesion = vec![0; self.plan.shape.iter().product()];
        self.lesion_voxels.iter().for_each(|&v| lesion[v as usize] = 1);
        lesion
    }

    /// The mask of a blended probability against the labels.
    pub fn pair(&self, probability: &[f32], config: &Config) -> Result<Pair> {
        let geometry = Geometry::ras(self.plan.shape, self.spacing_mm, [0.0; 3]);
        let (mask, _) = lesions(probability, &geometry, config.screen.mask_threshold as f32, config.screen.min_component_ml);
        Ok(Pair::new(&self.name, &self.lesion(), &mask, self.plan.shape, self.spacing_mm)?)
    }

    fn judge(&self, choice: Choice, config: &Config) -> Result<(CaseScore, usize)> {
        let looked = self.screen(choice);
        let pair = self.pair(&looked.probability, config)?;
        Ok((CaseScore::of(&pair), looked.windows_kept()))
    }
}

fn image(scan: &Scan) -> Image<'_> {
    Image { data: &scan.image, channels: scan.channels, shape: scan.shape }
}

/// Both networks' view of the scans of `store`, a scan at a time: only what can matter of Focus's is kept, and no image.
/// `cache`: where what Focus sees is kept for others on the same one.
pub fn look<'s, B: InferBackend>(
    screener: &Screener<B>,
    store: &'s Store,
    cache: Option<&FocusCache>,
    config: &Config,
) -> Result<Vec<Seen<'s>>> {
    let mut seen = (0..store.cases().len())
        .map(|i| {
            let mut seen = Seen::glance(screener, store, i, config)?;
            // The grid is looked at everywhere: only windows that may lie anywhere wait for the thresholds of all scans.
            if seen.plan.candidates() == 0 {
                seen.focus(screener, 0.0, cache, config)?;
            }
            Ok(seen)
        })
        .collect::<Result<Vec<_>>>()?;
    let fixed = if let Threshold::Fixed(t) = config.screen.threshold { t as f32 } else { NO_CANDIDATE };
    let lowest = candidates(&seen).last().map_or(fixed, |&least| least.min(fixed));
    seen.iter_mut().filter(|s| s.plan.candidates() > 0).try_for_each(|s| s.focus(screener, lowest, cache, config))?;
    Ok(seen)
}

/// Screen with Focus everywhere and with Glance and Focus, on the prepared grid, and find the operating point: the fewest windows with the
/// wanted recall; where that needs more than `screen.most_windows`, the best recall within them.
pub fn validate(seen: &[Seen], config: &Config) -> Result<Validation> {
    let (everywhere, _) = judge_all(seen, Choice::All, config)?;
    let at = |threshold: f32| at(seen, &everywhere, threshold, config);
    if let Threshold::Fixed(t) = config.screen.threshold {
        let (glance_focus, point) = at(t as f32)?;
        return Ok(Validation { glance_focus, everywhere, operating_point: OperatingPoint { scans: 0, lesions: 0, ..point } });
    }
    let mut chosen: Option<(Scores, OperatingPoint)> = None;
    for threshold in candidates(seen) {
        let measured = at(threshold)?;
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
        None => at(NO_CANDIDATE)?,
    };
    Ok(Validation { glance_focus, everywhere, operating_point })
}

/// Thresholds that keep each of [`SHARES`] of all windows of the grid, the highest first.
pub fn candidates(seen: &[Seen]) -> Vec<f32> {
    let keys = seen.iter().flat_map(|s| s.plan.queue(&s.glanced).into_iter().map(|q| q.1)).collect();
    thresholds_at(keys, seen.iter().map(|s| s.plan.grid).sum(), SHARES)
}

/// What Glance and Focus find at `threshold`.
fn at(seen: &[Seen], everywhere: &Scores, threshold: f32, config: &Config) -> Result<(Scores, OperatingPoint)> {
    let (summary, windows_kept) = judge_all(seen, Choice::Above(threshold), config)?;
    let found = everywhere.lesions.hits;
    let relative_recall = if found == 0 { 1.0 } else { summary.lesions.hits as f64 / found as f64 };
    Ok((summary, OperatingPoint { threshold, relative_recall, windows_kept, scans: seen.len(), lesions: everywhere.lesions.lesions }))
}

/// `of` each scan, in order. A few at a time: each needs memory for a whole scan.
pub fn each<'s, T: Send>(seen: &[Seen<'s>], of: impl Fn(&Seen<'s>) -> Result<T> + Sync) -> Result<Vec<T>> {
    let mut all = Vec::with_capacity(seen.len());
    for some in seen.chunks(AT_ONCE) {
        all.extend(some.par_iter().map(&of).collect::<Result<Vec<_>>>()?);
    }
    Ok(all)
}

/// Summary over all scans, and the share of the windows that Focus saw.
fn judge_all(seen: &[Seen], choice: Choice, config: &Config) -> Result<(Scores, f64)> {
    let judged = each(seen, |s| s.judge(choice, config))?;
    let (scores, kept): (Vec<CaseScore>, Vec<usize>) = judged.into_iter().unzip();
    let windows: usize = seen.iter().map(|s| s.plan.grid).sum();
    Ok((Scores::of(&scores.iter().collect::<Vec<_>>()), kept.iter().sum::<usize>() as f64 / windows.max(1) as f64))
}
