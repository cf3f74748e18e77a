//! 3D ResNet with basic blocks: MONAI's `ResNet`, and the published Glance (ResNet-18, 32,987,202 parameters).
//!
//! State-dict keys are MONAI's: `conv1.weight`, `bn1.weight`, `layer2.0.conv1.weight`, `layer2.0.downsample.0.weight`, `fc.bias`, ...
//!
//! Shapes: `x_NCDHW`, `logits_NK`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layers::{Conv3d, ConvInit, Linear, Pooling, max_pool3d, subsample};
use super::norm::{Mode, Norm, NormConfig, NormKind};
use super::{ConfigError, Init, require, require_channels, require_kernels, require_within};
use crate::kernels::KernelBackend;

/// The path around a block that changes the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Shortcut {
    /// Every second voxel, new channels zero: no parameters (the published Glance).
    A,
    /// 1x1x1 convolution and norm.
    B,
}

/// A 3D ResNet. The default is the demo's (56 thousand parameters).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResNetConfig {
    /// Basic blocks of each stage, 1 to 64; 1 to 4 stages. Default [1, 1, 1]; ResNet-10 is [1, 1, 1, 1], -18 [2, 2, 2, 2], -34 [3, 4, 6, 3].
    pub blocks: Vec<usize>,
    /// Channels of each stage, 1 to 8192. Default [8, 16, 32]; published [64, 128, 256, 512]. Cost grows with the square.
    pub widths: Vec<usize>,
    /// Side of the first convolution's kernel in voxels, odd, at most 31. Default 3; published 7.
    pub stem_kernel: usize,
    /// Stride of the first convolution, 1 or 2. Default 2; published 1, which costs about eight times as much.
    pub stem_stride: usize,
    /// A 3x3x3 max pooling with stride 2 after the first convolution. Default false; published true.
    pub stem_max_pool: bool,
    /// Global pooling before the last layer. Default "max", as published: a lesion is small; MONAI has "avg".
    pub pooling: Pooling,
    /// Shortcut of blocks that change the shape: "A" (published) or "B" (default).
    pub shortcut: Shortcut,
    /// Shortcut A carries no gradient, as in MONAI and the published Glance. Default false. No effect on B.
    pub shortcut_detached: bool,
    /// The 1x1x1 convolution of shortcut B has a bias. Default false: a norm follows; MONAI's default is true. No effect on A.
    pub shortcut_bias: bool,
    /// Normalisation: "group" (default), "batch" (published) or "instance".
    pub norm: NormKind,
    /// Groups of "group" norm; each width must be divisible by it. Default 4.
    pub norm_groups: usize,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            blocks: vec![1, 1, 1],
            widths: vec![8, 16, 32],
            stem_kernel: 3,
            stem_stride: 2,
            stem_max_pool: false,
            pooling: Pooling::Max,
            shortcut: Shortcut::B,
            shortcut_detached: false,
            shortcut_bias: false,
            norm: NormKind::Group,
            norm_groups: 4,
        }
    }
}

impl ResNetConfig {
    /// The published Glance: ResNet-18 with a stride-1 stem, max pooling and detached shortcuts A. Its ResNet-10 has one block a stage and
    /// shortcuts B.
    pub fn published() -> Self {
        Self {
            blocks: vec![2, 2, 2, 2],
            widths: vec![64, 128, 256, 512],
            stem_kernel: 7,
            stem_stride: 1,
            stem_max_pool: true,
            pooling: Pooling::Max,
            shortcut: Shortcut::A,
            shortcut_detached: true,
            shortcut_bias: false,
            norm: NormKind::Batch,
            norm_groups: 4,
        }
    }

    /// Refuse what no network can be made of.
    pub fn check(&self) -> Result<(), ConfigError> {
        let stages = self.blocks.len();
        require((1..=4).contains(&stages), || format!("blocks = {:?} has {stages} stages, a ResNet has 1 to 4", self.blocks))?;
        require(self.widths.len() == stages, || {
            format!("widths = {:?} and blocks = {:?} differ in length; give one of each for every stage", self.widths, self.blocks)
        })?;
        require_within("blocks", &self.blocks, super::BLOCKS)?;
        require_within("widths", &self.widths, super::WIDTHS)?;
        require(self.shortcut == Shortcut::B || self.widths.is_sorted(), || {
            format!("widths = {:?} shrink, shortcut \"A\" can only add channels; choose shortcut \"B\" or growing widths", self.widths)
        })?;
        require_kernels("stem_kernel", &[self.stem_kernel])?;
        require((1..=2).contains(&self.stem_stride), || format!("stem_stride = {}; choose 1 or 2", self.stem_stride))?;
        self.norm().check(&self.widths)
    }

    fn norm(&self) -> NormConfig {
        NormConfig { kind: self.norm, groups: self.norm_groups }
    }

    /// The network with its first weights: convolutions Kaiming normal over outgoing connections, norms 1 and 0, as published.
    pub fn init<B: Backend>(&self, in_channels: usize, classes: usize, init: &Init<B>) -> Result<ResNet<B>, ConfigError> {
        self.check()?;
        require_channels(in_channels, classes)?;
        let mut channels = self.widths[0];
        let mut stages = (0..4).map(|stage| {
            let place = init.at(format_args!("layer{}", stage + 1));
            let blocks = self.blocks.get(stage).copied().unwrap_or(0);
            (0..blocks)
                .map(|i| {
                    let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                    let from = std::mem::replace(&mut channels, self.widths[stage]);
                    BasicBlock::new(self, [from, self.widths[stage]], stride, &place.at(i))
                })
                .collect::<Vec<_>>()
        });
        let mut next = || stages.next().unwrap_or_default();
        let [layer1, layer2, layer3, layer4] = [next(), next(), next(), next()];
        let stem = [in_channels, self.widths[0]];
        Ok(ResNet {
            conv1: Conv3d::new(&init.at("conv1"), stem, self.stem_kernel, [self.stem_stride; 3], false, ConvInit::FanOut),
            bn1: self.norm().init(&init.at("bn1"), self.widths[0]),
            layer1,
            layer2,
            layer3,
            layer4,
            fc: Linear::new(&init.at("fc"), self.widths[self.widths.len() - 1], classes),
            max_pool: self.stem_max_pool,
            pooling: self.pooling,
        })
    }
}

/// Two 3x3x3 convolutions with norms and a shortcut around them.
#[derive(Module, Debug)]
pub struct BasicBlock<B: Backend> {
    conv1: Conv3d<B>,
    bn1: Norm<B>,
    conv2: Conv3d<B>,
    bn2: Norm<B>,
    /// Shortcut B where the shape changes.
    downsample: Option<(Conv3d<B>, Norm<B>)>,
    stride: usize,
    detached: bool,
}

impl<B: Backend> BasicBlock<B> {
    fn new(config: &ResNetConfig, [from, to]: [usize; 2], stride: usize, init: &Init<B>) -> Self {
        let norm = config.norm();
        let projects = config.shortcut == Shortcut::B && (stride != 1 || from != to);
        Self {
            conv1: Conv3d::new(&init.at("conv1"), [from, to], 3, [stride; 3], false, ConvInit::FanOut),
            bn1: norm.init(&init.at("bn1"), to),
            conv2: Conv3d::new(&init.at("conv2"), [to, to], 3, [1; 3], false, ConvInit::FanOut),
            bn2: norm.init(&init.at("bn2"), to),
            downsample: projects.then(|| {
                let place = init.at("downsample");
                let conv = Conv3d::new(&place.at(0), [from, to], 1, [stride; 3], config.shortcut_bias, ConvInit::FanOut);
                (conv, norm.init(&place.at(1), to))
            }),
            stride,
            detached: config.shortcut_detached,
        }
    }
}

impl<B: KernelBackend> BasicBlock<B> {
    fn forward(&self, x: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        let y = self.bn1.after(&self.conv1, x.clone(), None, mode, Some(0.0));
        let shortcut = self.shortcut(x, y.dims(), mode);
        self.bn2.after(&self.conv2, y, Some(shortcut), mode, Some(0.0))
    }

    fn shortcut(&self, x: Tensor<B, 5>, [n, to, d, h, w]: [usize; 5], mode: Mode) -> Tensor<B, 5> {
        let from = x.dims()[1];
        if let Some((conv, norm)) = &self.downsample {
            return norm.after(conv, x, None, mode, None);
        }
        if self.stride == 1 && from == to {
            return x;
        }
        let x = if self.detached { x.detach() } else { x };
        let x = if self.stride == 1 { x } else { subsample(x, self.stride) };
        if from == to {
            return x;
        }
        let zeros = Tensor::zeros([n, to - from, d, h, w], (&x.device(), x.dtype()));
        Tensor::cat(vec![x, zeros], 1)
    }
}

/// A 3D ResNet classifier. See [`ResNetConfig`].
#[derive(Module, Debug)]
pub struct ResNet<B: Backend> {
    conv1: Conv3d<B>,
    bn1: Norm<B>,
    layer1: Vec<BasicBlock<B>>,
    layer2: Vec<BasicBlock<B>>,
    layer3: Vec<BasicBlock<B>>,
    layer4: Vec<BasicBlock<B>>,
    fc: Linear<B>,
    max_pool: bool,
    #[module(skip)]
    pooling: Pooling,
}

impl<B: KernelBackend> ResNet<B> {
    /// `x_NCDHW` -> `logits_NK`.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 2> {
        self.forward_cells(x_NCDHW, mode).0
    }

    /// As [`ResNet::forward`], with [`Pooling::Cells`] also the log-odds (class 1 against class 0) of every cell, `[N, D, H, W]`.
    pub fn forward_cells(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> (Tensor<B, 2>, Option<Tensor<B, 4>>) {
        self.judge(self.features(x_NCDHW, mode))
    }

    /// The last layer on features: what [`ResNet::forward_cells`] returns.
    pub fn judge(&self, features: Tensor<B, 5>) -> (Tensor<B, 2>, Option<Tensor<B, 4>>) {
        self.pooling.judge(features, &self.fc)
    }

    /// `x_NCDHW` -> the feature map that the last layer judges.
    pub fn features(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        let y = self.stem(x_NCDHW, mode);
        self.stages().into_iter().flatten().fold(y, |y, block| block.forward(y, mode))
    }

    fn stem(&self, x: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        let y = self.bn1.after(&self.conv1, x, None, mode, Some(0.0));
        if self.max_pool { max_pool3d(y) } else { y }
    }

    fn stages(&self) -> [&Vec<BasicBlock<B>>; 4] {
        [&self.layer1, &self.layer2, &self.layer3, &self.layer4]
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{self, B};
    use super::*;
    use crate::weights::{self, Scope};
    use burn::backend::Flex;
    use burn::backend::flex::FlexDevice;
    use burn::tensor::activation;

    fn data<const D: usize>(t: &Tensor<B, D>) -> Vec<f32> {
        t.to_data().to_vec().unwrap()
    }

    /// An entry of `nets_tiny.json`: features, logits, loss, gradients and running statistics.
    fn check_golden(net: &str, config: ResNetConfig) {
        let entry = golden::entry(net);
        let mode = if entry["mode"] == "train" { Mode::Train } else { Mode::Eval };
        let init = Init::<B>::new(0, "glance", &FlexDevice);
        let mut model = config.init(1, 2, &init).unwrap();
        if entry["norm"] != "batch" {
            // MONAI 1.5 gives its `norm` argument to the stem only; the blocks keep batch norm.
            model.bn1 = NormConfig { kind: NormKind::Group, groups: 4 }.init(&init, 4);
        }
        let (model, _) = weights::from_tensors(model, golden::weights(net, &entry), &Scope::Whole).unwrap();
        assert_eq!(weights::parameter_count(&model) as u64, entry["params"].as_u64().unwrap());
        let x = golden::input(&entry);

        // A copy, so that the running statistics move once.
        let copy = model.clone();
        let check = |name: &str, t: &Tensor<B, 5>| golden::assert_tensor(name, &t.dims(), &data(t), &entry["features"][name], 1e-4);
        let conv1 = copy.conv1.forward(x.clone());
        check("conv1", &conv1);
        check("bn1", &copy.bn1.clone().forward(conv1, mode));
        let mut y = copy.stem(x.clone(), mode);
        check("maxpool", &y);
        for (i, stage) in copy.stages().into_iter().enumerate() {
            y = stage.iter().fold(y, |y, block| block.forward(y, mode));
            check(&format!("layer{}", i + 1), &y);
        }

        let logits = model.forward(x, mode);
        let expected: Vec<f64> = entry["logits"].as_array().unwrap().iter().flat_map(golden::floats).collect();
        let found: Vec<f64> = data(&logits).into_iter().map(f64::from).collect();
        let largest = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
        golden::assert_close("logits", &found, &expected, largest, 1e-4);

        let target: Vec<i64> = golden::floats(&entry["target"]).into_iter().map(|t| t as i64).collect();
        let target = Tensor::<B, 1, burn::tensor::Int>::from_data(target.as_slice(), &Default::default());
        let loss = -activation::log_softmax(logits, 1).gather(1, target.unsqueeze_dim(1)).mean();
        let ce = f64::from(data(&loss)[0]);
        let expected_ce = entry["loss_ce"].as_f64().unwrap();
        golden::assert_close("loss_ce", &[ce], &[expected_ce], expected_ce, 1e-4);

        let grads = golden::gradients(&model, &loss.backward());
        for (name, expected) in entry["grads"].as_object().unwrap() {
            let grad = grads.iter().find(|g| &g.name == name).unwrap();
            golden::assert_tensor(&format!("gradient of {name}"), &grad.shape, &grad.values, expected, 1e-4);
        }

        let now = weights::tensors(&model);
        for (name, expected) in entry["running_after"].as_object().into_iter().flatten() {
            let expected = golden::floats(expected);
            let found = &now.iter().find(|t| &t.name == name).unwrap().values;
            let found: Vec<f64> = found.iter().take(expected.len()).map(|v| f64::from(*v)).collect();
            golden::assert_close(name, &found, &expected, 1.0, 1e-4);
        }
    }

    fn tiny() -> ResNetConfig {
        ResNetConfig { widths: vec![4, 8, 16, 32], ..ResNetConfig::published() }
    }

    #[test]
    fn golden_shortcut_a_batch_norm_max_eval() {
        check_golden("r18_A_bn_max_eval", tiny());
    }

    #[test]
    fn golden_shortcut_a_batch_norm_max_train() {
        check_golden("r18_A_bn_max_train", tiny());
    }

    #[test]
    fn golden_shortcut_b_avg() {
        let config = || ResNetConfig { shortcut: Shortcut::B, shortcut_bias: true, pooling: Pooling::Avg, ..tiny() };
        check_golden("r18_B_bn_avg_eval", config());
        check_golden("r18_B_gn_avg", config());
    }

    #[test]
    fn golden_shortcut_a_group_norm_stem() {
        check_golden("r18_A_gn_max", tiny());
    }

    #[test]
    fn golden_resnet10() {
        check_golden("r10_A_bn_max_eval", ResNetConfig { blocks: vec![1, 1, 1, 1], ..tiny() });
    }

    #[test]
    fn parameter_counts() {
        let count = |config: &ResNetConfig, channels| {
            weights::parameter_count(&config.init(channels, 2, &Init::<Flex>::new(0, "glance", &Default::default())).unwrap())
        };
        let full = golden::entry("r18_full_param_count").as_u64().unwrap() as usize;
        assert_eq!(full, 32_987_202);
        assert_eq!(count(&ResNetConfig::published(), 1), full);
        assert_eq!(count(&ResNetConfig { blocks: vec![1, 1, 1, 1], shortcut: Shortcut::B, ..ResNetConfig::published() }, 1), 14_356_546);
        assert_eq!(count(&ResNetConfig::default(), 2), 56_770);
    }

    #[test]
    fn a_detached_shortcut_has_no_gradient() {
        let gradient = |detached| {
            let config = ResNetConfig { shortcut: Shortcut::A, shortcut_detached: detached, norm: NormKind::Group, ..tiny() };
            let block = BasicBlock::<B>::new(&config, [4, 8], 2, &Init::new(1, "block", &Default::default()));
            let x = Tensor::<B, 5>::ones([1, 4, 4, 4, 4], &Default::default()).require_grad();
            let y = block.shortcut(x.clone(), [1, 8, 2, 2, 2], Mode::Train);
            // A term that always carries a gradient, so that there is a graph.
            let grads = (y.sum() + x.clone().sum()).backward();
            x.grad(&grads).unwrap().sum().into_scalar()
        };
        assert_eq!(gradient(true), 256.0);
        assert_eq!(gradient(false), 256.0 + 32.0);
    }

    #[test]
    fn a_clone_keeps_its_own_running_statistics() {
        let config = ResNetConfig { norm: NormKind::Batch, ..ResNetConfig::default() };
        let model = config.init::<B>(1, 2, &Init::new(0, "glance", &Default::default())).unwrap();
        let (old, before) = (model.clone(), weights::tensors(&model));
        model.forward(Tensor::ones([2, 1, 8, 8, 8], &Default::default()), Mode::Train);
        assert_eq!(weights::tensors(&old), before);
        assert_ne!(weights::tensors(&model), before);
    }

    #[test]
    fn impossible_configs_are_refused_with_a_sentence() {
        let base = ResNetConfig::default;
        for (config, part) in [
            (ResNetConfig { blocks: vec![1; 5], widths: vec![8; 5], ..base() }, "1 to 4"),
            (ResNetConfig { blocks: vec![1, 1], ..base() }, "differ in length"),
            (ResNetConfig { widths: vec![8, 0, 32], ..base() }, "at least 1"),
            (ResNetConfig { widths: vec![8, 18, 32], ..base() }, "not divisible by norm_groups = 4"),
            (ResNetConfig { norm_groups: 0, ..base() }, "not divisible by norm_groups = 0"),
            (ResNetConfig { widths: vec![32, 16, 8], shortcut: Shortcut::A, ..base() }, "shrink"),
            (ResNetConfig { stem_kernel: 4, ..base() }, "even"),
            (ResNetConfig { stem_kernel: 100_001, ..base() }, "at most 31"),
            (ResNetConfig { widths: vec![8, 16, 4_000_000_000], ..base() }, "at most 8192"),
            (ResNetConfig { blocks: vec![1, 1, usize::MAX], ..base() }, "at most 64"),
            (ResNetConfig { stem_stride: 3, ..base() }, "choose 1 or 2"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(serde_json::from_str::<ResNetConfig>(r#"{"widht": [1]}"#).is_err());
    }
}
