//! What training changes: both networks, the old policy, both optimisers. All of it goes into a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{AutodiffModule, Module};
use burn::optim::GradientsParams;
use burn::tensor::{DType, ElementConversion, Tensor};
use panscreen_envs::rng::{RngExt, stream};
use panscreen_envs::screening::{Grouping, Selection};
use panscreen_policies::focus::Focus;
use panscreen_policies::glance::{Glance, Shared};
use panscreen_policies::losses::DiceCeConfig;
use panscreen_policies::nets::Mode;
use panscreen_policies::objectives::{ObjectiveKind, OldPolicy, Rollout, log_odds};
use panscreen_policies::optim::{AdamW, clip_global_norm};
use panscreen_policies::precision::{cast, is_half};
use panscreen_policies::weights::{self, Scope};

use super::critic::Critic;
use super::shard::{self, LogitGradients, Logits, Pools, Shard};
use super::step::StepLog;
use crate::backend::{Inner, TrainBackend};
use crate::config::{Config, OptimizerConfig};
use crate::error::{Error, Result};
use crate::run::Checkpoint;

/// Classes of Focus: background and lesion.
const CLASSES: usize = 2;

/// The settings of the training step.
#[derive(Clone, Debug)]
pub struct Settings {
    pub dice_ce: DiceCeConfig,
    pub alpha: f64,
    pub cell_weight: f64,
    pub cell_lesion_weight: f64,
    pub policy_weight: f64,
    pub objective: ObjectiveKind,
    /// Steps between refreshes of the old policy; 1 where the objective has none.
    pub refresh_steps: u64,
    /// Selections sampled of each observation where sets are scored.
    pub masks: usize,
    /// Parts that an observation is cut into, so that every core has one.
    pub shards: usize,
    pub freeze_focus: bool,
    pub old_policy_mode: Mode,
    pub glance: OptimizerConfig,
    pub focus: OptimizerConfig,
    pub steps: u64,
    /// The step that the schedules begin at.
    pub from: u64,
    /// Published: the schedule moves once more at the end of each epoch of this many steps.
    pub extra_schedule_step: Option<u64>,
    pub seed: u64,
}

impl Settings {
    pub fn new(config: &Config) -> Self {
        let refresh = match config.objective.kind.info().old_policy {
            OldPolicy::Unused => 1,
            OldPolicy::Compared | OldPolicy::Sampled => config.objective.refresh_steps,
        };
        Settings {
            dice_ce: config.loss.dice_ce.clone(),
            alpha: config.loss.alpha,
            cell_weight: config.loss.cell_weight,
            cell_lesion_weight: config.loss.cell_lesion_weight,
            policy_weight: config.objective.weight,
            objective: config.objective.kind.clone(),
            refresh_steps: if refresh == 0 { config.train.steps_per_epoch } else { refresh } as u64,
            masks: config.objective.masks,
            shards: config.train.shards,
            freeze_focus: config.train.freeze_focus,
            old_policy_mode: if config.compat.glance_train_mode_norm { Mode::Eval } else { Mode::Train },
            glance: config.optim.glance.clone(),
            focus: config.optim.focus.clone(),
            steps: config.train.steps as u64,
            from: 0,
            extra_schedule_step: config.compat.extra_schedule_step.then_some(config.train.steps_per_epoch as u64),
            seed: config.seed,
        }
    }

    /// The selection that is scored: everything that is more likely selected than not, or sampled masks.
    pub fn select(&self, grouping: Grouping, log_odds: &[f32], step: u64) -> Selection {
        if grouping != Grouping::Masks {
            return Selection { masks: vec![log_odds.iter().map(|&z| z > 0.0).collect()] };
        }
        let mask = |m| {
            let mut rng = stream(self.seed, "actions", step, m as u64);
            log_odds.iter().map(|&z| rng.random::<f32>() < 1.0 / (1.0 + (-z).exp())).collect()
        };
        Selection { masks: (0..self.masks).map(mask).collect() }
    }

    fn lr(&self, optimizer: &OptimizerConfig, step: u64) -> f64 {
        let step = step - self.from;
        let extra = self.extra_schedule_step.map_or(0, |epoch| step / epoch);
        optimizer.schedule.lr(optimizer.lr, step + extra, self.steps)
    }
}

type Policies<B> = (Glance<Inner<B>>, Focus<Inner<B>>);

/// Both policies and everything that trains them.
pub struct Learner<B: TrainBackend> {
    pub glance: Glance<B>,
    pub focus: Focus<B>,
    /// The old policy: Glance as it was at the last refresh (with Focus's encoder of that time, which a tied Glance reads through).
    old: Option<Policies<B>>,
    glance_optimizer: AdamW<B>,
    focus_optimizer: AdamW<B>,
    /// The value head, where the objective has one.
    critic: Option<Critic<B>>,
    pools: Pools,
    shared: Shared,
    pub step: u64,
    pub device: B::Device,
    /// What the networks compute in, see [`panscreen_policies::precision`].
    pub dtype: DType,
    /// Sub-volumes of the last step whose logits overflowed half precision.
    pub recomputed: Vec<usize>,
}

impl<B: TrainBackend> Learner<B> {
    /// Fresh networks, the same for the same `config.seed`.
    pub fn new(config: &Config, device: &B::Device) -> Result<Self> {
        if !B::supports_dtype(device, config.precision.dtype()) {
            return Err(Error::Usage("this device does not compute in bf16; set `precision = \"f32\"`".into()));
        }
        let channels = config.data.windows_hu.len();
        config.focus.check(config.env.window)?;
        let focus = config.focus.init(channels, CLASSES, config.seed, device)?;
        let glance = config.glance.network.init(
            channels,
            config.data.spacing_mm,
            config.backbone.shared,
            &config.focus,
            &focus,
            config.seed,
            device,
        )?;
        let critic = match &config.objective.kind {
            ObjectiveKind::Ppo(ppo) => {
                let width = config.glance.network.width(&config.focus);
                Some(Critic::new(ppo, config.optim.glance.adamw.clone(), width, config.seed, device))
            }
            _ => None,
        };
        Ok(Learner {
            critic,
            glance,
            focus,
            old: None,
            glance_optimizer: AdamW::new(config.optim.glance.adamw.clone()),
            focus_optimizer: AdamW::new(config.optim.focus.adamw.clone()),
            pools: Pools::new(config.train.shards)?,
            shared: config.backbone.shared,
            step: 0,
            device: device.clone(),
            dtype: config.precision.dtype(),
            recomputed: vec![],
        })
    }

    /// Log-odds of the old policy. It is refreshed every `refresh_steps`; with 1 it is the current policy and costs nothing.
    pub fn old_log_odds(&mut self, x: &Tensor<B, 5>, current: &[f32], settings: &Settings) -> Vec<f32> {
        match self.old_policy(settings) {
            None => current.to_vec(),
            Some((glance, focus)) => log_odds(glance.forward(x.clone().inner(), focus, settings.old_policy_mode)),
        }
    }

    /// What the value head expects of each sub-volume; nothing where there is none.
    pub fn values(&self, x: &Tensor<B, 5>) -> Vec<f32> {
        self.critic.as_ref().map(|critic| critic.values(self.pooled(x))).unwrap_or_default()
    }

    fn pooled(&self, x: &Tensor<B, 5>) -> Tensor<Inner<B>, 2> {
        self.glance.valid().pooled(x.clone().inner(), &self.focus.valid(), Mode::Eval)
    }

    /// Teach the value head, and update Glance as often again as the objective takes from one rollout. Focus stays.
    pub fn iterate(&mut self, x: &Tensor<B, 5>, rollout: &Rollout, settings: &Settings) -> Result<StepLog> {
        let lr = settings.lr(&settings.glance, self.step);
        let mut log = self.teach_critic(x, rollout, lr)?;
        let parts = settings.objective.num_mini_batches().min(rollout.samples.len()).max(1);
        for _ in 1..settings.objective.num_iterations() {
            for part in 0..parts {
                let rollout = rollout.minibatch(part, parts);
                let z = self.glance.forward(x.clone(), &self.focus, Mode::Train);
                let terms = settings.objective.loss(z, &rollout).map_err(Error::Usage)?;
                let mut total = terms.policy_loss * settings.policy_weight;
                if let Some(kl) = terms.kl_loss {
                    total = total + kl;
                }
                further_finite("losses/policy_loss", total.clone().into_scalar().elem::<f32>(), self.step)?;
                self.update_glance(total, settings)?;
                log = self.teach_critic(x, &rollout, lr)?;
            }
        }
        Ok(log)
    }

    fn teach_critic(&mut self, x: &Tensor<B, 5>, rollout: &Rollout, lr: f64) -> Result<StepLog> {
        if self.critic.is_none() {
            return Ok(vec![]);
        }
        let features = self.pooled(x);
        let step = self.step;
        let loss = self.critic.as_mut().map(|critic| critic.learn(features, rollout, lr, step)).transpose()?;
        Ok(loss.map(|loss| ("losses/value", loss.into())).into_iter().collect())
    }

    /// [`Learner::look`] in the learner's precision; where a logit overflows half precision, all of it again in `f32`. Also what was looked at.
    pub fn look_until_finite(&mut self, x: Tensor<B, 5>, settings: &Settings) -> (Tensor<B, 5>, Vec<Shard<B>>, Logits<B>) {
        let half = cast(x.clone(), self.dtype);
        let shards = self.look(&half, settings);
        let logits = shard::logits(&shards);
        self.recomputed = if is_half(self.dtype) { logits.broken() } else { vec![] };
        if self.recomputed.is_empty() {
            return (half, shards, logits);
        }
        let shards = self.look(&x, settings);
        let logits = shard::logits(&shards);
        (x, shards, logits)
    }

    /// Both networks on the observation, cut into `shards` parts that run side by side.
    pub fn look(&self, x: &Tensor<B, 5>, settings: &Settings) -> Vec<Shard<B>> {
        if settings.freeze_focus {
            // Without gradients of its own there is nothing to keep for the way back.
            return shard::look(&self.glance, &self.focus.clone().no_grad(), Mode::Eval, x, settings.shards, &self.pools);
        }
        shard::look(&self.glance, &self.focus, Mode::Train, x, settings.shards, &self.pools)
    }

    /// Refresh the old policy where that is due, and give it back; `None` where it is the current one.
    pub fn old_policy(&mut self, settings: &Settings) -> Option<&Policies<B>> {
        if self.step.is_multiple_of(settings.refresh_steps) {
            self.old = (settings.refresh_steps > 1).then(|| (self.glance.valid(), self.focus.valid()));
        }
        self.old.as_ref()
    }

    /// One step of Glance's optimiser on a loss of its logits; Focus stays.
    pub fn update_glance(&mut self, loss: Tensor<B, 1>, settings: &Settings) -> Result<StepLog> {
        let mut grads = loss.backward();
        let mut grads = GradientsParams::from_module(&mut grads, &self.glance);
        let norm = clip_global_norm(&self.glance, &mut grads, Some(settings.glance.clip_norm).filter(|n| *n > 0.0))?;
        let lr = settings.lr(&settings.glance, self.step);
        self.glance = self.glance_optimizer.step(self.glance.clone(), grads, lr);
        Ok(vec![("grad_norm/glance", norm.into()), ("learning_rate/glance", lr.into())])
    }

    /// Fresh moments of Glance's optimiser: what it learns from now on is another thing.
    pub fn reset_glance_optimizer(&mut self, config: &Config) {
        self.glance_optimizer = AdamW::new(config.optim.glance.adamw.clone());
        self.old = None;
    }

    /// Carry the gradients of the logits through both networks, clip them, and take one step of each optimiser.
    pub fn update(&mut self, shards: Vec<Shard<B>>, gradients: LogitGradients<B>, settings: &Settings) -> Result<StepLog> {
        let (glance, focus) = shard::counted(self.glance.clone(), self.focus.clone(), &shards);
        let (mut glance_grads, mut focus_grads) = shard::backward(&self.glance, &self.focus, shards, gradients, &self.pools);
        let clip = |norm: f64| (norm > 0.0).then_some(norm);
        let glance_norm = clip_global_norm(&self.glance, &mut glance_grads, clip(settings.glance.clip_norm))?;
        let focus_norm = clip_global_norm(&self.focus, &mut focus_grads, clip(settings.focus.clip_norm))?;
        // Not before the gradients are known to be numbers.
        self.glance = glance;
        if !settings.freeze_focus {
            self.focus = focus;
        }
        let glance_lr = settings.lr(&settings.glance, self.step);
        let focus_lr = settings.lr(&settings.focus, self.step);
        self.glance = self.glance_optimizer.step(self.glance.clone(), glance_grads, glance_lr);
        if !settings.freeze_focus {
            self.focus = self.focus_optimizer.step(self.focus.clone(), focus_grads, focus_lr);
        }
        Ok(vec![
            ("grad_norm/glance", glance_norm.into()),
            ("grad_norm/focus", focus_norm.into()),
            ("learning_rate/glance", glance_lr.into()),
            ("learning_rate/focus", focus_lr.into()),
        ])
    }

    /// The files of a checkpoint.
    pub fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut files = vec![
            ("glance.safetensors", weights::to_bytes(&self.glance.valid(), &BTreeMap::new())?),
            ("focus.safetensors", weights::to_bytes(&self.focus.valid(), &BTreeMap::new())?),
            ("glance_optimizer.safetensors", self.glance_optimizer.state_bytes()),
            ("focus_optimizer.safetensors", self.focus_optimizer.state_bytes()),
        ];
        if let Some(critic) = &self.critic {
            files.extend(critic.files()?);
        }
        if let Some((glance, focus)) = &self.old {
            files.push(("old_glance.safetensors", weights::to_bytes(glance, &BTreeMap::new())?));
            files.push(("old_focus.safetensors", weights::to_bytes(focus, &BTreeMap::new())?));
        }
        Ok(files)
    }

    /// Take over the weights of both networks in a checkpoint folder, nothing else.
    pub fn load_weights(&mut self, dir: &Path) -> Result<()> {
        self.glance = weights::from_bytes(self.glance.clone(), &read(dir, "glance.safetensors")?, &Scope::Whole)?.0;
        self.load_focus(dir)
    }

    /// Take over Focus's weights alone.
    pub fn load_focus(&mut self, dir: &Path) -> Result<()> {
        self.focus = weights::from_bytes(self.focus.clone(), &read(dir, "focus.safetensors")?, &Scope::Whole)?.0;
        Ok(())
    }

    /// BLAKE3 of Focus's weights, as in a checkpoint.
    pub fn focus_hash(&self) -> Result<String> {
        Ok(blake3::hash(&weights::to_bytes(&self.focus.valid(), &BTreeMap::new())?).to_hex().to_string())
    }

    /// Start on a finished Focus. With [`Shared::Init`] Glance's fresh encoder becomes a copy of that Focus's, not of the random one that it was
    /// built beside.
    pub fn start_on_focus(&mut self, dir: &Path) -> Result<()> {
        self.load_focus(dir)?;
        if self.shared == Shared::Init {
            self.glance = self.glance.clone().with_encoder_of(&self.focus)?;
        }
        Ok(())
    }

    /// Take over everything that [`Learner::files`] wrote.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let load_old = checkpoint.files().any(|f| f == "old_glance.safetensors");
        self.old = if load_old {
            let glance = weights::from_bytes(self.glance.valid(), &checkpoint.read("old_glance.safetensors")?, &Scope::Whole)?.0;
            let focus = weights::from_bytes(self.focus.valid(), &checkpoint.read("old_focus.safetensors")?, &Scope::Whole)?.0;
            Some((glance, focus))
        } else {
            None
        };
        self.glance = weights::from_bytes(self.glance.clone(), &checkpoint.read("glance.safetensors")?, &Scope::Whole)?.0;
        self.focus = weights::from_bytes(self.focus.clone(), &checkpoint.read("focus.safetensors")?, &Scope::Whole)?.0;
        self.glance_optimizer.load_state(&checkpoint.read("glance_optimizer.safetensors")?, &self.glance, &self.device)?;
        self.focus_optimizer.load_state(&checkpoint.read("focus_optimizer.safetensors")?, &self.focus, &self.device)?;
        if let Some(critic) = &mut self.critic {
            critic.restore(checkpoint)?;
        }
        self.step = checkpoint.step;
        Ok(())
    }
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>> {
    let path = dir.join(name);
    Ok(std::fs::read(&path).map_err(|e| panscreen_envs::Error::io(&path, e))?)
}

/// As [`crate::run::check_finite`] for a loss behind the step's first update.
pub(super) fn further_finite(name: &str, value: f32, step: u64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    let action = "the last checkpoint is from before; lower `optim.glance.lr` or `objective.num_iterations`";
    Err(Error::Usage(format!("step {step}: `{name}` of a further update is {value}; {action}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::{Autodiff, Flex};
    use burn::tensor::TensorData;
    use panscreen_policies::glance::{GlanceConfig, GlanceHeadConfig};

    type B = Autodiff<Flex>;

    #[test]
    fn a_step_that_overflows_half_precision_is_computed_in_f32_and_names_its_sub_volumes() {
        let mut config = Config::default();
        config.data.windows_hu.truncate(1);
        let mut learner = Learner::<B>::new(&config, &Default::default()).unwrap();
        // The norm behind the first convolution brings it back; in f16 it is too large before that.
        let mut first = true;
        learner.focus = learner.focus.map(&mut Scaled(&mut first));
        let settings = Settings::new(&config);
        let values: Vec<f32> = (0..2 * 512).map(|i| if i < 512 { 0.0 } else { (i % 101) as f32 / 101.0 }).collect();
        let x = Tensor::<B, 5>::from_data(TensorData::new(values, [2, 1, 8, 8, 8]), &Default::default());
        let exact = shard::logits(&learner.look(&x, &settings));
        for (dtype, recomputed) in [(DType::F32, vec![]), (DType::BF16, vec![]), (DType::F16, vec![1])] {
            learner.dtype = dtype;
            let (seen, _, logits) = learner.look_until_finite(x.clone(), &settings);
            assert!(logits.broken().is_empty());
            assert_eq!(learner.recomputed, recomputed, "{dtype:?}");
            assert_eq!(seen.dtype() == DType::F32, dtype != DType::BF16);
            assert_eq!(logits.s_gkdhw.to_data() == exact.s_gkdhw.to_data(), dtype != DType::BF16);
        }
    }

    struct Scaled<'a>(&'a mut bool);
    impl burn::module::ModuleMapper<B> for Scaled<'_> {
        fn map_float<const D: usize>(&mut self, param: burn::module::Param<Tensor<B, D>>) -> burn::module::Param<Tensor<B, D>> {
            let scaled = |t: Tensor<B, D>| Tensor::from_inner(t.inner() * 5e4).require_grad();
            if std::mem::replace(self.0, false) { param.map(scaled) } else { param }
        }
    }

    #[test]
    fn a_training_step_moves_the_running_statistics_of_the_learner() {
        let mut config = Config::default();
        config.data.windows_hu.truncate(1);
        config.glance.network = GlanceConfig::Resnet3d(panscreen_policies::nets::ResNetConfig {
            widths: vec![4],
            blocks: vec![1],
            norm: panscreen_policies::nets::NormKind::Batch,
            ..Default::default()
        });
        let mut learner = Learner::<B>::new(&config, &Default::default()).unwrap();
        let statistics = |learner: &Learner<B>| -> Vec<f32> {
            let all = weights::tensors(&learner.glance).into_iter().filter(|t| t.name.ends_with("running_mean"));
            all.flat_map(|t| t.values).collect()
        };
        let x = Tensor::<B, 5>::ones([2, 1, 8, 8, 8], &Default::default());
        for shards in [1, 2] {
            let before = statistics(&learner);
            let settings = Settings { shards, ..Settings::new(&config) };
            let (_, parts, logits) = learner.look_until_finite(x.clone(), &settings);
            assert_eq!(statistics(&learner), before, "a step that stops has changed nothing");
            let loss = logits.z_g2.clone().sum() + logits.s_gkdhw.clone().sum();
            let gradients = shard::gradients(loss, logits);
            learner.update(parts, gradients, &settings).unwrap();
            assert_ne!(statistics(&learner), before);
        }
    }

    fn encoder_of(module: &impl Module<B>) -> Vec<weights::NamedTensor> {
        weights::tensors(module).into_iter().filter(|t| t.name.starts_with("encoder.")).collect()
    }

    #[test]
    fn a_shared_start_is_on_the_finished_focus_not_on_the_random_one() {
        let mut config = Config { seed: 1, ..Config::default() };
        config.glance.network = GlanceConfig::Encoder(GlanceHeadConfig::default());
        config.backbone.shared = Shared::Init;
        let device = Default::default();
        let finished = Learner::<B>::new(&config, &device).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in finished.files().unwrap() {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let mut learner = Learner::<B>::new(&Config { seed: 2, ..config }, &device).unwrap();
        assert_ne!(encoder_of(&learner.glance), encoder_of(&finished.focus));
        learner.start_on_focus(dir.path()).unwrap();
        assert_eq!(encoder_of(&learner.glance), encoder_of(&finished.focus));
    }
}
