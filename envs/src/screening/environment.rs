//! The environment that training draws from.

use std::sync::Arc;

use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::sampler::{SamplerConfig, cut_augmented, draw_start};
use super::scan::ScanSource;
use super::score::{Outcome, SetReward, both, score};
use super::{Grouping, Observation, Selection, SubVolume};
use crate::rewards::Reward;
use crate::rng::stream;
use crate::{Error, Result};

/// An environment over groups of sub-volumes.
///
/// Focus's masks come in with the action: in training they are the argmax of the very logits that the segmentation loss was computed on,
/// so that no sub-volume is segmented twice.
pub trait Environment {
    /// Start again. The same seed gives the same bytes.
    fn reset(&mut self, seed: u64) -> Result<Observation>;
    /// Choose sub-volumes of the last observation; `predicted` is Focus's mask of each, `[G][window]`.
    fn step(&mut self, action: &Selection, predicted: &[u8]) -> Result<Step>;
    /// All there is to continue from here.
    fn state(&self) -> EnvState;
    /// Continue from `state`: the observation that was current then.
    fn restore(&mut self, state: EnvState) -> Result<Observation>;
}

/// What a step gives.
#[derive(Clone, Debug)]
pub struct Step {
    pub outcome: Outcome,
    /// `None` when the episode is over.
    pub next: Option<Observation>,
}

/// Random streams are counters, so this is the whole state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvState {
    pub seed: u64,
    /// Index of the current observation.
    pub index: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EnvConfig {
    pub sampler: SamplerConfig,
    pub grouping: Grouping,
    /// Scans per observation.
    pub volumes: usize,
    /// Sub-volumes per scan.
    pub crops: usize,
    /// Sub-volumes that are compared with each other, where that is fewer than the batch or the scan gives; must divide it.
    pub group_size: Option<usize>,
    /// How often a lesion-free scan is drawn for each time that one with lesions is (published: 10).
    pub lesion_free_weight: f64,
    /// Observations until the episode ends.
    pub episode: u64,
    pub set_reward: SetReward,
}

impl EnvConfig {
    /// Sub-volumes in a group, or a sentence why that can't be learned from.
    pub fn group_size(&self) -> Result<usize> {
        let most = if self.grouping == Grouping::Batch { self.volumes * self.crops } else { self.crops };
        let size = self.group_size.filter(|_| self.grouping != Grouping::Masks).unwrap_or(most);
        if size < 2 {
            return Err(Error::Setting(format!(
                "a group has {size} sub-volume, expected at least 2: there is nothing to compare it with; raise `env.crops_per_volume`"
            )));
        }
        if !most.is_multiple_of(size) {
            return Err(Error::Setting(format!(
                "`glance.group_size` is {size}, expected a divisor of the {most} sub-volumes that `env.group` puts together"
            )));
        }
        Ok(size)
    }
}

/// Random sub-volumes of the scans of a source.
#[derive(Clone)]
pub struct CropEnv {
    source: Arc<dyn ScanSource>,
    reward: Arc<dyn Reward>,
    config: EnvConfig,
    group_size: usize,
    /// Scan indices of one pass over the cohort, lesion-free scans repeated by their weight; shuffled anew for each pass.
    lesion_free: Vec<usize>,
    diseased: Vec<usize>,
    state: EnvState,
    current: Option<Observation>,
}

impl CropEnv {
    /// Refuses an empty source, an empty pass and a group of one.
    pub fn new(source: Arc<dyn ScanSource>, reward: Arc<dyn Reward>, config: EnvConfig) -> Result<Self> {
        let group_size = config.group_size()?;
        let (mut lesion_free, mut diseased) = (Vec::new(), Vec::new());
        for i in 0..source.len() {
            if source.has_lesion(i)? { diseased.push(i) } else { lesion_free.push(i) }
        }
        let env =
            CropEnv { source, reward, config, group_size, lesion_free, diseased, state: EnvState { seed: 0, index: 0 }, current: None };
        if env.pass(0, 0).is_empty() {
            return Err(Error::Setting(
                "there is no scan to train on: the list is empty, or only lesion-free scans are in it and `env.lesion_free_weight` is 0"
                    .into(),
            ));
        }
        Ok(env)
    }

    pub fn config(&self) -> &EnvConfig {
        &self.config
    }

    /// The scans of pass number `epoch` in the order they are drawn.
    fn pass(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let mut rng = stream(seed, "order", epoch, 0);
        let weight = self.config.lesion_free_weight;
        let mut scans = self.diseased.clone();
        for _ in 0..weight as usize {
            scans.extend(&self.lesion_free);
        }
        let mut rest = self.lesion_free.clone();
        rest.shuffle(&mut rng);
        scans.extend(&rest[..(weight.fract() * rest.len() as f64).round() as usize]);
        scans.shuffle(&mut rng);
        scans
    }

    /// The scans that observation number `index` of a run with `seed` is drawn from.
    pub fn scans(&self, seed: u64, index: u64) -> Vec<usize> {
        let volumes = self.config.volumes;
        let length = self.pass(seed, 0).len() as u64;
        let mut pass: Option<(u64, Vec<usize>)> = None;
        let mut scans = Vec::with_capacity(volumes);
        for slot in 0..volumes as u64 {
            let position = index * volumes as u64 + slot;
            let epoch = position / length;
            if pass.as_ref().is_none_or(|(e, _)| *e != epoch) {
                pass = Some((epoch, self.pass(seed, epoch)));
            }
            if let Some((_, order)) = &pass {
                scans.push(order[(position % length) as usize]);
            }
        }
        scans
    }

    /// Observation number `index` of a run with `seed`: a pure function, so that any thread may prepare any of them ahead.
    pub fn observe(&self, seed: u64, index: u64) -> Result<Observation> {
        let config = &self.config;
        let scans = self.scans(seed, index);
        let loaded = scans.iter().map(|&s| self.source.scan(s)).collect::<Result<Vec<_>>>()?;
        let channels = loaded[0].channels;
        let voxels: usize = config.sampler.window.iter().product();
        let count = config.volumes * config.crops;
        let mut x = vec![0.0; count * channels * voxels];
        let mut lesion = vec![0; count * voxels];
        let windows = x
            .par_chunks_exact_mut(channels * voxels)
            .zip(lesion.par_chunks_exact_mut(voxels))
            .enumerate()
            .map(|(i, (x, lesion))| {
                let slot = i / config.crops;
                let scan = &loaded[slot];
                let mut rng = stream(seed, "crops", index, i as u64);
                let start = draw_start(scan, &config.sampler, &mut rng);
                cut_augmented(scan, &config.sampler, start, &mut rng, x, lesion);
                let group = (i / self.group_size) as u32;
                SubVolume { scan: scans[slot], start, lesions: scan.lesions_in(start, config.sampler.window), group }
            })
            .collect();
        Ok(Observation { index, channels, window: config.sampler.window, x, lesion, windows })
    }

    /// Reward of a selection of `observation`; see [`score`].
    pub fn score(&self, observation: &Observation, selection: &Selection, predicted: &[u8]) -> Outcome {
        score(self.config.grouping, observation, selection, predicted, &*self.reward, self.config.set_reward)
    }

    /// Expected set reward of (leaving out, selecting) each sub-volume under independent `probabilities`, `[G]`.
    pub fn both(&self, observation: &Observation, predicted: &[u8], probabilities: &[f32]) -> Vec<[f32; 2]> {
        both(observation, predicted, probabilities, self.config.set_reward)
    }
}

impl Environment for CropEnv {
    fn reset(&mut self, seed: u64) -> Result<Observation> {
        self.restore(EnvState { seed, index: 0 })
    }

    fn step(&mut self, action: &Selection, predicted: &[u8]) -> Result<Step> {
        let current = self.current.take().ok_or_else(|| Error::Setting("step before reset, or after the episode was over".into()))?;
        let outcome = self.score(&current, action, predicted);
        self.state.index += 1;
        if self.state.index < self.config.episode {
            self.current = Some(self.observe(self.state.seed, self.state.index)?);
        }
        Ok(Step { outcome, next: self.current.clone() })
    }

    fn state(&self) -> EnvState {
        self.state
    }

    fn restore(&mut self, state: EnvState) -> Result<Observation> {
        let observation = self.observe(state.seed, state.index)?;
        self.state = state;
        self.current = Some(observation.clone());
        Ok(observation)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::sampler::tests::{config as sampler, one_lesion};
    use super::super::scan::Scan;
    use super::*;
    use crate::rewards::by_name;

    pub fn env(grouping: Grouping, lesion_free_weight: f64) -> CropEnv {
        let healthy = |n: usize| Arc::new(Scan::new(format!("healthy{n}"), vec![0.5; 720], 1, [10, 9, 8], &[0; 720]));
        let scans = vec![Arc::new(one_lesion()), healthy(1), healthy(2), healthy(3)];
        let config = EnvConfig {
            sampler: sampler(),
            grouping,
            volumes: 2,
            crops: 3,
            group_size: None,
            lesion_free_weight,
            episode: 5,
            set_reward: SetReward::default(),
        };
        CropEnv::new(Arc::new(scans), by_name("any_overlap").unwrap().into(), config).unwrap()
    }

    #[test]
    fn groups_are_explicit() {
        assert_eq!(env(Grouping::Batch, 1.0).observe(1, 0).unwrap().groups(), [0; 6]);
        assert_eq!(env(Grouping::Volume, 1.0).observe(1, 0).unwrap().groups(), [0, 0, 0, 1, 1, 1]);
        let batch = env(Grouping::Batch, 1.0);
        let with = |group_size| {
            let config = EnvConfig { group_size: Some(group_size), ..batch.config().clone() };
            CropEnv::new(batch.source.clone(), batch.reward.clone(), config)
        };
        assert_eq!(with(2).unwrap().observe(1, 0).unwrap().groups(), [0, 0, 1, 1, 2, 2]);
        assert!(with(4).err().unwrap().to_string().contains("a divisor of the 6"));
    }

    #[test]
    fn a_pass_shows_every_scan_once_and_lesion_free_ones_by_their_weight() {
        for (weight, expected) in [(1.0, [1, 1, 1, 1]), (2.0, [1, 2, 2, 2]), (0.0, [1, 0, 0, 0])] {
            let pass = env(Grouping::Batch, weight).pass(7, 3);
            assert_eq!(std::array::from_fn(|s| pass.iter().filter(|&&p| p == s).count()), expected, "weight {weight}");
        }
        assert_eq!(env(Grouping::Batch, 0.34).pass(7, 3).len(), 2);
    }

    #[test]
    fn a_group_of_one_is_refused() {
        let mut config = env(Grouping::Volume, 1.0).config().clone();
        config.crops = 1;
        let scans: Vec<Arc<Scan>> = vec![Arc::new(one_lesion())];
        let error = CropEnv::new(Arc::new(scans), by_name("dice").unwrap().into(), config).err().unwrap().to_string();
        assert!(error.contains("at least 2"), "{error}");
    }
}
