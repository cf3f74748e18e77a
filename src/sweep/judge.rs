//! What a point's Glance is worth on the test scans: windows kept, lesions found, Dice and false alarms, at fixed thresholds and at matched recall.
//!
//! Thresholds for matched recall are chosen on the validation scans: the fewest windows that find the wanted share of what Focus finds everywhere.
//! Every point is decoded alike. Focus runs once on each scan for all points that share it ([`super::cache`]).

use std::path::Path;

use panscreen_envs::dataset::Case;
use panscreen_envs::metrics::{Matching, Pair, match_lesions};
use panscreen_envs::screening::cached::CachedScan;
use panscreen_envs::screening::decode::oracle;
use panscreen_envs::volume::Geometry;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::point::{PointResult, Share, figure};
use crate::backend::{TrainBackend, Work};
use crate::config::{Config, Decoder, ScreenConfig};
use crate::error::{Error, Result};
use crate::run::Observer;
use crate::screen::{Budget, Choice, Decoding, FocusCache, Glanced, Image, Looked, Model, Plan, Votes, lesions, thresholds_at};
use crate::setup;

/// At which operating points each point is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeConfig {
    /// Fixed thresholds of Glance, without decoding. Default `[0.9]`, the published one.
    pub thresholds: Vec<f64>,
    /// Recall relative to Focus everywhere, at least this on the validation scans. Default `[0.95, 0.99]`.
    pub recalls: Vec<f64>,
    /// How windows are chosen above a threshold: `threshold`, `greedy_apart`, `soft_apart`, `cover_mass`. Default `["threshold"]`.
    pub decoders: Vec<Decoder>,
    /// Values of `screen.soft_decay` under which `soft_apart` is judged; each is in the name: `soft_apart_decay2_95`. Default `[]`: the run's own.
    pub soft_decays: Vec<f64>,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        JudgeConfig { thresholds: vec![0.9], recalls: vec![0.95, 0.99], decoders: vec![Decoder::Threshold], soft_decays: vec![] }
    }
}

impl JudgeConfig {
    /// A sentence where an operating point can't be one, or two would have the same name.
    pub fn check(&self) -> Result<(), String> {
        if let Some(t) = self.thresholds.iter().find(|t| !(0.0..1.0).contains(*t)) {
            return Err(format!("`judge.thresholds` has {t}, expected 0 to below 1"));
        }
        if let Some(r) = self.recalls.iter().find(|r| !(**r > 0.0 && **r <= 1.0)) {
            return Err(format!("`judge.recalls` has {r}, expected above 0 to 1, such as 0.95"));
        }
        if let Some(d) = self.soft_decays.iter().find(|d| !(0.0..=100.0).contains(*d)) {
            return Err(format!("`judge.soft_decays` has {d}, expected 0 to 100"));
        }
        if !self.soft_decays.is_empty() && !self.decoders.contains(&Decoder::SoftApart) {
            return Err(
                "`judge.soft_decays` is about `soft_apart`, which `judge.decoders` lacks; add it there, or take `soft_decays` out".into()
            );
        }
        let fixed = self.thresholds.iter().map(|t| fixed_name(*t));
        let matched = self.ways().flat_map(|way| self.recalls.iter().map(move |r| matched_name(way, *r)));
        let mut names: Vec<String> = fixed.chain(matched).collect();
        if names.is_empty() {
            return Err("[judge] has no operating point; name `thresholds`, or `recalls` and `decoders`".into());
        }
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("[judge] has `{}` twice; take one out", pair[0])),
            None => Ok(()),
        }
    }

    /// Each decoder, `soft_apart` with each of its decays; `None`: the run's own.
    fn ways(&self) -> impl Iterator<Item = (Decoder, Option<f64>)> {
        self.decoders.iter().flat_map(|&decoder| {
            let soft = decoder == Decoder::SoftApart && !self.soft_decays.is_empty();
            let decays = if soft { self.soft_decays.iter().copied().map(Some).collect() } else { vec![None] };
            decays.into_iter().map(move |decay| (decoder, decay))
        })
    }
}

fn fixed_name(threshold: f64) -> String {
    format!("at_{threshold}")
}

fn matched_name((decoder, decay): (Decoder, Option<f64>), recall: f64) -> String {
    let decay = decay.map_or(String::new(), |decay| format!("_decay{decay}"));
    format!("{}{decay}_{}", name(decoder), (recall * 1000.0).round() / 10.0)
}

fn name(decoder: Decoder) -> &'static str {
    match decoder {
        Decoder::Threshold => "threshold",
        Decoder::GreedyApart => "greedy_apart",
        Decoder::CoverMass => "cover_mass",
        Decoder::SoftApart => "soft_apart",
    }
}

/// The work of judging the run in `run`.
pub struct Judging<'a> {
    pub run: &'a Path,
    pub judge: &'a JudgeConfig,
    /// Where Focus's outcomes are kept.
    pub cache: &'a Path,
    pub observer: &'a dyn Observer,
}

/// A scan with what both networks think of its windows.
struct Seen {
    name: String,
    patient: String,
    plan: Plan,
    glanced: Glanced,
    votes: Votes,
    /// Number of the lesion at each voxel, from 1.
    numbers: Vec<u8>,
    lesion: Vec<u8>,
    spacing_mm: [f64; 3],
}

/// What a selection found in one scan.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    kept: usize,
    lesions: usize,
    hits: usize,
    dice: Option<f64>,
    false_positives: usize,
}

impl Work for Judging<'_> {
    type Output = PointResult;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<PointResult> {
        let Judging { run, judge, cache, observer } = self;
        let model = Model::<B>::open(run, &[], &device, observer)?;
        let split = setup::kept_split(run)?;
        let labelled: Vec<Case> = split.test.into_iter().filter(|c| c.label.is_some()).collect();
        if labelled.is_empty() || split.validation.is_empty() {
            return Err(Error::Usage(
                "[judge] needs labelled test scans and validation scans; set `data.test_cases`, or take [judge] out".into(),
            ));
        }
        let cache = FocusCache::open(cache, &model.focus_hash, &model.config);
        let look = |cases: Vec<Case>| look(&model, cases, &cache, observer);
        let (validation, test) = (look(split.validation)?, look(labelled)?);
        report(&validation, &test, judge, &model.config)
    }
}

fn look<B: TrainBackend>(model: &Model<B>, cases: Vec<Case>, cache: &FocusCache, observer: &dyn Observer) -> Result<Vec<Seen>> {
    observer.phase("look at the scans", Some(cases.len() as u64));
    let store = setup::store(&model.config, cases, &crate::run::Silent)?;
    let mut seen = Vec::with_capacity(store.cases().len());
    for i in 0..store.cases().len() {
        let case = store.load(i)?;
        // All runs choose among the windows of the grid, all of one size. A whole-scan Glance's would lie anywhere: a comparison of where windows may
        // lie, not of who knows which are worth it.
        let config = ScreenConfig { scales: vec![1], ..model.config.screen.clone() };
        let plan = Plan::new(case.scan.shape, model.screener.window, &config, None);
        let image = Image { data: &case.scan.image, channels: case.scan.channels, shape: case.scan.shape };
        let glanced = model.screener.glance(image, &plan)?;
        let votes = cache.votes(&store.cases()[i], &plan, || model.screener.focus(image, &plan.starts))?;
        let lesion = case.scan.lesion.iter().map(|&n| (n > 0) as u8).collect();
        let numbers = case.scan.lesion.clone();
        let (name, patient) = (case.scan.name.clone(), store.cases()[i].patient.clone());
        seen.push(Seen { name, patient, plan, glanced, votes, numbers, lesion, spacing_mm: case.spacing_mm });
        observer.advance(1, &[]);
    }
    observer.finish();
    model.screener.again.warn(observer);
    Ok(seen)
}

impl Seen {
    /// Screen with the windows `chosen` only.
    fn with(&self, chosen: Vec<usize>, config: &Config) -> Result<Found> {
        self.found(self.plan.run_from(chosen, &self.glanced, &Budget::default(), |w| self.stored(w))?, config)
    }

    fn everywhere(&self, config: &Config) -> Result<Found> {
        self.found(self.plan.run(&self.glanced, Choice::All, &Budget::default(), |w| self.stored(w))?, config)
    }

    fn stored(&self, windows: &[usize]) -> Result<Vec<Vec<f32>>> {
        Ok(windows.iter().map(|&w| self.votes.window(w)).collect())
    }

    fn found(&self, looked: Looked, config: &Config) -> Result<Found> {
        let geometry = Geometry::ras(self.plan.shape, self.spacing_mm, [0.0; 3]);
        let (mask, _) = lesions(&looked.probability, &geometry, config.screen.mask_threshold as f32, config.screen.min_component_ml);
        let pair = Pair::new(&self.name, &self.lesion, &mask, self.plan.shape, self.spacing_mm)?;
        let matched = match_lesions(&pair, Matching::default());
        Ok(Found {
            kept: looked.windows_kept(),
            lesions: matched.lesions.len(),
            hits: matched.hits(),
            dice: (!matched.lesions.is_empty()).then(|| pair.overlap().dice().value().unwrap_or(0.0)),
            false_positives: matched.false_positives().count(),
        })
    }

    /// Every window, best first, each with what a threshold is held against.
    fn queue(&self, decoding: Decoding) -> Vec<(usize, f32)> {
        self.plan.queue_by(decoding, &self.glanced)
    }

    /// The fewest windows that hit every lesion that Focus hits in any window.
    fn oracle(&self) -> Vec<usize> {
        let masks: Vec<Vec<u8>> = (0..self.plan.starts.len()).map(|w| self.votes.mask(w)).collect();
        let voxel_ml = self.spacing_mm.iter().product::<f64>() / 1000.0;
        let scan = CachedScan::of_masks(&self.numbers, self.plan.shape, voxel_ml, self.plan.window, &self.plan.starts, &masks);
        oracle(&scan).windows
    }
}

/// Figures at every operating point, by case and over the test scans.
fn report(validation: &[Seen], test: &[Seen], judge: &JudgeConfig, config: &Config) -> Result<PointResult> {
    let everywhere = all(test, |s| s.everywhere(config))?;
    let everywhere_validation = all(validation, |s| s.everywhere(config))?;
    let decoding = |decoder, decay: Option<f64>| Decoding { decoder, soft_decay: decay.unwrap_or(config.screen.soft_decay) as f32 };
    let mut points: Vec<(String, Decoding, f32)> =
        judge.thresholds.iter().map(|&t| (fixed_name(t), decoding(Decoder::Threshold, None), t as f32)).collect();
    let mut result = PointResult::default();
    for way in judge.ways() {
        let decoding = decoding(way.0, way.1);
        let matched = thresholds_for(validation, &everywhere_validation, decoding, &judge.recalls, config)?;
        for (recall, Matched { threshold, windows }) in judge.recalls.iter().zip(matched) {
            let name = matched_name(way, *recall);
            result.metrics.insert(format!("{name}/threshold"), threshold.into());
            result.metrics.insert(format!("{name}/validation_windows_kept"), windows);
            points.push((name, decoding, threshold));
        }
    }
    let oracle = all(test, |s| s.with(s.oracle(), config))?;
    for (name, decoding, threshold) in &points {
        let found = all(test, |s| s.with(above(&s.queue(*decoding), *threshold), config))?;
        for (into, found) in [(None, &found), (Some("Focus everywhere"), &everywhere), (Some("oracle"), &oracle)] {
            let cases = match into {
                None => &mut result.cases,
                Some(reference) => result.references.entry(reference.to_owned()).or_default(),
            };
            for ((seen, found), dense) in test.iter().zip(found).zip(&everywhere) {
                cases.entry(seen.name.clone()).or_default().extend(shares(name, seen, found, dense));
            }
        }
    }
    let names: Vec<String> = result.cases.values().next().into_iter().flat_map(|c| c.keys().cloned()).collect();
    for name in names {
        result.metrics.extend(figure(result.cases.values(), &name).map(|value| (name, value)));
    }
    result.patients = test.iter().map(|s| (s.name.clone(), s.patient.clone())).collect();
    result.metrics.insert("test_scans".into(), test.len() as f64);
    result.metrics.insert("test_lesions".into(), everywhere.iter().map(|f| f.lesions as f64).sum());
    Ok(result)
}

fn shares(point: &str, seen: &Seen, found: &Found, dense: &Found) -> Vec<(String, Share)> {
    let healthy = f64::from(found.lesions == 0);
    vec![
        (format!("{point}/windows_kept"), [found.kept as f64, seen.plan.grid as f64]),
        (format!("{point}/relative_recall"), [found.hits as f64, dense.hits as f64]),
        (format!("{point}/lesion_recall"), [found.hits as f64, found.lesions as f64]),
        (format!("{point}/lesion_dice"), [found.dice.unwrap_or(0.0), f64::from(found.dice.is_some())]),
        (format!("{point}/false_positives_per_healthy_scan"), [found.false_positives as f64 * healthy, healthy]),
    ]
}

fn all(seen: &[Seen], of: impl Fn(&Seen) -> Result<Found> + Sync + Send) -> Result<Vec<Found>> {
    seen.par_iter().map(of).collect()
}

/// The windows of a queue whose key is above `threshold`.
fn above(queue: &[(usize, f32)], threshold: f32) -> Vec<usize> {
    queue.iter().take_while(|(_, key)| *key > threshold).map(|(window, _)| *window).collect()
}

/// A threshold chosen on the validation scans.
#[derive(Clone, Copy, Debug)]
struct Matched {
    threshold: f32,
    /// Share of the validation scans' windows that Focus sees there: what decoders and their settings may be compared by before the test scans are seen.
    windows: f64,
}

/// For each of `recalls` the highest threshold whose recall, relative to Focus everywhere, is at least that on the validation scans; 0 where
/// none is.
fn thresholds_for(seen: &[Seen], everywhere: &[Found], decoding: Decoding, recalls: &[f64], config: &Config) -> Result<Vec<Matched>> {
    let dense: usize = everywhere.iter().map(|f| f.hits).sum();
    let wanted: Vec<usize> = recalls.iter().map(|r| (r * dense as f64 - 1e-9).ceil().max(0.0) as usize).collect();
    let mut found: Vec<Option<Matched>> = vec![None; recalls.len()];
    let windows: usize = seen.iter().map(|s| s.plan.grid).sum();
    let queues: Vec<Vec<(usize, f32)>> = seen.par_iter().map(|s| s.queue(decoding)).collect();
    // How many windows are chosen in each scan, and what they find: most scans choose the same at the next threshold.
    let mut last: Vec<(usize, Found)> = vec![Default::default(); seen.len()];
    for threshold in candidates(&queues).into_iter().chain([0.0]) {
        last.par_iter_mut().zip(seen).zip(&queues).try_for_each(|((last, s), queue)| -> Result<()> {
            let now = above(queue, threshold);
            if now.len() != last.0 {
                *last = (now.len(), s.with(now, config)?);
            }
            Ok(())
        })?;
        let sum = |of: fn(&Found) -> usize| last.iter().map(|(_, found)| of(found)).sum::<usize>();
        for (found, wanted) in found.iter_mut().zip(&wanted) {
            if found.is_none() && (sum(|f| f.hits) >= *wanted || threshold == 0.0) {
                *found = Some(Matched { threshold, windows: sum(|f| f.kept) as f64 / windows as f64 });
            }
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// Thresholds at even steps of the ranking: a tenth of a per cent up to 12 %, then two, from half on ten per cent. Between two of them few scans choose other
/// windows, and only those are screened again.
fn candidates(queues: &[Vec<(usize, f32)>]) -> Vec<f32> {
    let keys: Vec<f32> = queues.iter().flatten().map(|(_, key)| *key).collect();
    let windows = keys.len();
    let steps =
        (1..=120).map(|i| f64::from(i) * 0.001).chain((7..=20).map(|i| f64::from(i) * 0.02)).chain((5..=10).map(|i| f64::from(i) * 0.1));
    thresholds_at(keys, windows, steps)
}
