//! The networks that `panscreen bench nets` times: the published pair and a small one, screening and training.
//!
//! A training step is that of `gf_screen` without its environment: both networks forward, Dice + CE and balanced CE, backward, both optimisers.

use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use panscreen_envs::rng::{RngExt, stream};
use panscreen_policies::bench::{Row, Work};
use panscreen_policies::focus::FocusConfig;
use panscreen_policies::glance::GlanceConfig;
use panscreen_policies::losses::{balanced_ce, dice_ce};
use panscreen_policies::nets::{Mode, PatchMerging, ResNetConfig, ResidualUNetConfig, SwinUnetrConfig};

use crate::backend::{Inner, TrainBackend, sync};
use crate::config::{Config, Precision};
use crate::error::Result;
use crate::stages::gf_screen::learner::{Learner, Settings};
use crate::stages::gf_screen::shard;

/// A window of the published system.
const WINDOW: [usize; 3] = [96, 96, 64];

/// Both networks of the published GF-Screen; their cost in one window is 141.1 and 461.1 GFLOP.
fn published(checkpointing: bool) -> Config {
    let mut config = one_channel();
    config.glance.network = GlanceConfig::Resnet3d(ResNetConfig::published());
    config.focus = FocusConfig::SwinUnetr(SwinUnetrConfig { merging: PatchMerging::Old, checkpointing, ..SwinUnetrConfig::default() });
    config.env.window = WINDOW;
    config
}

/// The defaults for one intensity window.
fn one_channel() -> Config {
    let mut config = Config::default();
    config.data.windows_hu.truncate(1);
    config
}

/// A pair that a processor trains: ResNet-10 and a residual U-Net, both with a first stride of 2.
fn small(shards: usize) -> Config {
    let (widths, strides) = (vec![16, 32, 64, 128], vec![[2; 3]; 4]);
    let mut config = one_channel();
    let resnet10 = ResNetConfig { blocks: vec![1; 4], widths: widths.clone(), ..ResNetConfig::default() };
    config.glance.network = GlanceConfig::Resnet3d(resnet10);
    config.focus = FocusConfig::ResidualUnet(ResidualUNetConfig { widths, strides, blocks: vec![1; 4], ..ResidualUNetConfig::default() });
    config.env.window = [64, 64, 32];
    config.train.shards = shards;
    config
}

/// Rows of whole networks. With several threads the small pair's step is cut into two parts, as `train.shards = 2` does.
pub fn networks<B: TrainBackend>(device: &B::Device, precision: Precision, threads: usize) -> Vec<Row> {
    let dtype = precision.dtype();
    let (glance, focus) = (device.clone(), device.clone());
    let step = |name: &str, crops: usize, flop: Option<f64>, config: fn(usize) -> Config| {
        let (device, shards) = (device.clone(), threads.min(2));
        let [d, h, w] = config(1).env.window;
        let name = format!("{name} [{crops}, 1, {d}, {h}, {w}] training step");
        Row::new(name, flop, move || {
            let mut training = Training::<B>::new(&Config { precision, ..config(shards) }, crops, &device).expect("a config of our own");
            Work::new(move || training.step().expect("finite losses"))
        })
    };
    vec![
        Row::new("glance resnet18 [1, 1, 96, 96, 64] forward".to_owned(), Some(141.1e9), move || {
            let (learner, x) = (learner::<B>(&published(false), &glance), input::<Inner<B>>(1, WINDOW, (&glance, dtype)));
            let (net, focus, device) = (learner.glance.valid(), learner.focus.valid(), glance.clone());
            Work::new(move || {
                drop(net.forward(x.clone(), &focus, Mode::Eval));
                sync::<Inner<B>>(&device);
            })
        }),
        Row::new("focus swin_unetr48 [1, 1, 96, 96, 64] forward".to_owned(), Some(461.1e9), move || {
            let (net, x) = (learner::<B>(&published(false), &focus).focus.valid(), input::<Inner<B>>(1, WINDOW, (&focus, dtype)));
            let device = focus.clone();
            Work::new(move || {
                drop(net.forward(x.clone(), Mode::Eval));
                sync::<Inner<B>>(&device);
            })
        }),
        step("published pair", 1, Some(3.0 * 602.2e9), |_| published(false)),
        step("published pair, checkpointing", 1, Some(3.0 * 602.2e9), |_| published(true)),
        step("small pair", 16, None, small),
    ]
}

fn learner<B: TrainBackend>(config: &Config, device: &B::Device) -> Learner<B> {
    Learner::new(config, device).expect("a config of our own")
}

/// Intensities of 0 to 1.
fn input<B: Backend>(crops: usize, [d, h, w]: [usize; 3], to: (&B::Device, DType)) -> Tensor<B, 5> {
    let mut rng = stream(0, "bench", 0, 0);
    let values: Vec<f32> = (0..crops * d * h * w).map(|_| rng.random()).collect();
    Tensor::from_data(TensorData::new(values, [crops, 1, d, h, w]), to)
}

/// A learner and one batch that it learns again and again: every second crop holds a ball.
struct Training<B: TrainBackend> {
    learner: Learner<B>,
    settings: Settings,
    x: Tensor<B, 5>,
    lesion: Tensor<B, 4, Int>,
    target: Vec<f32>,
}

impl<B: TrainBackend> Training<B> {
    fn new(config: &Config, crops: usize, device: &B::Device) -> Result<Self> {
        let size @ [d, h, w] = config.env.window;
        let inside =
            |i: usize| [i / (h * w), i / w % h, i % w].iter().zip(size).map(|(&at, n)| at.abs_diff(n / 2).pow(2)).sum::<usize>() < 64;
        let lesion: Vec<i64> = (0..crops * d * h * w).map(|i| i64::from(i / (d * h * w) % 2 == 0 && inside(i % (d * h * w)))).collect();
        Ok(Training {
            learner: Learner::new(config, device)?,
            settings: Settings::new(config),
            x: input(crops, size, (device, config.precision.dtype())),
            lesion: Tensor::from_data(TensorData::new(lesion, [crops, d, h, w]), device),
            target: (0..crops).map(|crop| f32::from(crop % 2 == 0)).collect(),
        })
    }

    fn step(&mut self) -> Result<()> {
        let shards = self.learner.look(&self.x, &self.settings);
        let logits = shard::logits(&shards);
        let focus = dice_ce(logits.s_gkdhw.clone(), self.lesion.clone(), &self.settings.dice_ce).total;
        let loss = focus + balanced_ce(logits.z_g2.clone(), &self.target) * self.settings.alpha;
        let gradients = shard::gradients(loss, logits);
        self.learner.update(shards, gradients, &self.settings)?;
        self.learner.step += 1;
        sync::<B>(&self.learner.device);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::{Autodiff, Flex};

    #[test]
    fn networks_are_those_that_the_rows_name() {
        let rows = networks::<Autodiff<Flex>>(&Default::default(), Precision::F32, 2);
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names[0], "glance resnet18 [1, 1, 96, 96, 64] forward");
        assert_eq!(names[4], "small pair [16, 1, 64, 64, 32] training step");
        let parity = crate::config::load(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/parity/gf_screen.toml")), &[]);
        let (parity, ours) = (parity.unwrap(), published(true));
        assert_eq!((parity.glance.network, parity.focus, parity.env.window), (ours.glance.network, ours.focus, ours.env.window));
    }

    #[test]
    fn a_step_learns_its_batch() {
        let mut config = small(1);
        config.env.window = [16; 3];
        let mut training = Training::<Autodiff<Flex>>::new(&config, 2, &Default::default()).unwrap();
        let first = weights(&training);
        training.step().unwrap();
        assert!(training.learner.step == 1 && weights(&training) != first);
    }

    #[test]
    fn a_step_in_half_precision_learns_f32_weights() {
        let mut config = small(2);
        (config.env.window, config.precision) = ([16; 3], Precision::Bf16);
        let mut training = Training::<Autodiff<Flex>>::new(&config, 2, &Default::default()).unwrap();
        assert_eq!(training.x.dtype(), DType::BF16);
        let first = weights(&training);
        training.step().unwrap();
        let then = weights(&training);
        assert!(then != first && then.iter().all(|w| w.is_finite()));
        // More bits than a half has.
        assert!(then.iter().any(|w| w.to_bits() & 0xFFFF != 0));
    }

    fn weights(training: &Training<Autodiff<Flex>>) -> Vec<f32> {
        panscreen_policies::weights::tensors(&training.learner.focus).remove(0).values
    }
}
