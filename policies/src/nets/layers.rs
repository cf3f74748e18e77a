//! Layers that every network is made of. Names and shapes of weights are PyTorch's, so that state dicts need no key map.
//!
//! Shapes: `x_NCDHW`; D, H, W are the volume's x, y, z.

use std::sync::Mutex;

use burn::module::{
    AutodiffModule, Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId,
};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData, activation, s};
use panscreen_envs::rng;
use rand_distr::{Distribution, StandardNormal, StandardUniform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::kernels::{self, KernelBackend};

/// What batch norm does: nothing else differs between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Statistics of the batch; running statistics are updated (momentum 0.1, unbiased variance).
    Train,
    /// The running statistics.
    Eval,
}

/// Where a layer's first weights come from: stream `init/PATH` of `seed`, so that they depend on the seed and their own name only.
pub struct Init<'a, B: Backend> {
    seed: u64,
    path: String,
    device: &'a B::Device,
}

impl<'a, B: Backend> Init<'a, B> {
    /// The root of a network called `name` (`glance`, `focus`).
    pub fn new(seed: u64, name: &str, device: &'a B::Device) -> Self {
        Self { seed, path: name.to_owned(), device }
    }

    /// The place of a part: `init.at("layer1").at(0)` draws the weights of `layer1.0`.
    pub fn at(&self, part: impl std::fmt::Display) -> Self {
        Self { seed: self.seed, path: format!("{}.{part}", self.path), device: self.device }
    }

    /// A parameter drawn from a normal distribution with mean 0.
    pub fn normal<const D: usize>(&self, name: &str, shape: [usize; D], std: f64) -> Param<Tensor<B, D>> {
        self.draw(name, shape, |rng| {
            let z: f64 = StandardNormal.sample(rng);
            z * std
        })
    }

    /// A parameter drawn uniformly from -bound to bound.
    pub fn uniform<const D: usize>(&self, name: &str, shape: [usize; D], bound: f64) -> Param<Tensor<B, D>> {
        self.draw(name, shape, |rng| {
            let u: f64 = StandardUniform.sample(rng);
            bound * (2.0 * u - 1.0)
        })
    }

    /// A parameter with one value everywhere.
    pub fn constant<const D: usize>(&self, name: &str, shape: [usize; D], value: f64) -> Param<Tensor<B, D>> {
        self.draw(name, shape, |_| value)
    }

    fn draw<const D: usize>(&self, name: &str, shape: [usize; D], mut value: impl FnMut(&mut rng::Stream) -> f64) -> Param<Tensor<B, D>> {
        let path = format!("{}.{name}", self.path);
        let mut stream = rng::stream(self.seed, &format!("init/{path}"), 0, 0);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| value(&mut stream) as f32).collect();
        let tensor = Tensor::from_data(TensorData::new(values, shape), self.device);
        Param::initialized(param_id(&path), tensor.require_grad())
    }
}

/// An id that depends on the path only, so that optimiser records of one run fit the next.
fn param_id(path: &str) -> ParamId {
    use rng::Rng;
    ParamId::from(rng::stream(0, &format!("param id/{path}"), 0, 0).next_u64())
}

/// How the weights of a convolution are drawn.
#[derive(Clone, Copy, Debug)]
pub enum ConvInit {
    /// Kaiming normal over the outgoing connections, gain of ReLU (ResNet as published).
    FanOut,
    /// Kaiming normal over the incoming connections, gain of leaky ReLU with this slope (nnU-Net).
    FanIn { negative_slope: f64 },
}

/// 3D convolution. `weight` is `[out, in, k, k, k]`.
#[derive(Module, Debug)]
pub struct Conv3d<B: Backend> {
    pub weight: Param<Tensor<B, 5>>,
    pub bias: Option<Param<Tensor<B, 1>>>,
    stride: [usize; 3],
    padding: [usize; 3],
}

impl<B: Backend> Conv3d<B> {
    /// A cubic kernel (odd) with padding `kernel / 2`; the bias starts at 0.
    pub fn new(init: &Init<B>, channels: [usize; 2], kernel: usize, stride: [usize; 3], bias: bool, how: ConvInit) -> Self {
        let [from, to] = channels;
        let volume = kernel.pow(3);
        let std = match how {
            ConvInit::FanOut => (2.0 / (to * volume) as f64).sqrt(),
            ConvInit::FanIn { negative_slope: a } => (2.0 / ((1.0 + a * a) * (from * volume) as f64)).sqrt(),
        };
        Self {
            weight: init.normal("weight", [to, from, kernel, kernel, kernel], std),
            bias: bias.then(|| init.constant("bias", [to], 0.0)),
            stride,
            padding: [kernel / 2; 3],
        }
    }
}

impl<B: KernelBackend> Conv3d<B> {
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
        kernels::conv3d(x_NCDHW, self.weight.val(), self.bias.as_ref().map(Param::val), self.stride, self.padding)
    }
}

/// Transposed convolution whose kernel is its stride: each voxel becomes a block. `weight` is `[in, out, s, s, s]`.
#[derive(Module, Debug)]
pub struct ConvTranspose3d<B: Backend> {
    pub weight: Param<Tensor<B, 5>>,
    pub bias: Option<Param<Tensor<B, 1>>>,
    stride: [usize; 3],
}

impl<B: Backend> ConvTranspose3d<B> {
    /// Every output voxel has `from` incoming connections, hence the deviation (gain 1: no activation follows).
    pub fn new(init: &Init<B>, channels: [usize; 2], stride: [usize; 3]) -> Self {
        let [from, to] = channels;
        let [kd, kh, kw] = stride;
        Self {
            weight: init.normal("weight", [from, to, kd, kh, kw], (1.0 / from as f64).sqrt()),
            bias: Some(init.constant("bias", [to], 0.0)),
            stride,
        }
    }
}

impl<B: KernelBackend> ConvTranspose3d<B> {
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
        kernels::conv_transpose3d(x_NCDHW, self.weight.val(), self.bias.as_ref().map(Param::val), self.stride)
    }
}

/// Linear layer `x W' + b`. `weight` is `[out, in]`, as in PyTorch.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    pub weight: Param<Tensor<B, 2>>,
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> Linear<B> {
    /// Uniform within 1/sqrt(in), as PyTorch draws it; the bias starts at 0, as in the published ResNet.
    pub fn new(init: &Init<B>, from: usize, to: usize) -> Self {
        Self { weight: init.uniform("weight", [to, from], (1.0 / from as f64).sqrt()), bias: init.constant("bias", [to], 0.0) }
    }

    /// `x_NI` -> `[N, O]`.
    pub fn forward(&self, x_NI: Tensor<B, 2>) -> Tensor<B, 2> {
        x_NI.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze()
    }
}

/// Which activations are normalised together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Groups of channels within one sub-volume. The same in training and screening.
    Group,
    /// One channel over the whole batch in training, running statistics afterwards (the published Glance).
    Batch,
    /// One channel within one sub-volume.
    Instance,
}

/// A normalisation with learned scale and offset, epsilon 1e-5.
#[derive(Module, Debug)]
pub struct Norm<B: Backend> {
    pub weight: Param<Tensor<B, 1>>,
    pub bias: Param<Tensor<B, 1>>,
    /// Batch norm only.
    pub running_mean: Option<Buffer<B>>,
    /// Batch norm only.
    pub running_var: Option<Buffer<B>>,
    /// Groups of channels within a sample; not used by batch norm.
    groups: usize,
}

const EPSILON: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// Kind and number of groups as a network's config gives them.
#[derive(Clone, Copy, Debug)]
pub struct NormConfig {
    pub kind: NormKind,
    pub groups: usize,
}

impl NormConfig {
    /// All widths must be divisible by the number of groups.
    pub fn check(&self, widths: &[usize]) -> Result<(), ConfigError> {
        match widths.iter().find(|&&w| self.kind == NormKind::Group && (self.groups == 0 || w % self.groups != 0)) {
            None => Ok(()),
            Some(w) => Err(ConfigError(format!(
                "a width of {w} is not divisible by norm_groups = {}; choose a common divisor of all widths {widths:?}",
                self.groups
            ))),
        }
    }

    pub fn init<B: Backend>(&self, init: &Init<B>, channels: usize) -> Norm<B> {
        let batch = self.kind == NormKind::Batch;
        let buffer = |name: &str, value| {
            let (id, tensor, _) = init.constant(name, [channels], value).consume();
            Buffer { id, value: Mutex::new(tensor.detach().set_require_grad(false)) }
        };
        Norm {
            weight: init.constant("weight", [channels], 1.0),
            bias: init.constant("bias", [channels], 0.0),
            running_mean: batch.then(|| buffer("running_mean", 0.0)),
            running_var: batch.then(|| buffer("running_var", 1.0)),
            groups: if self.kind == NormKind::Instance { channels } else { self.groups },
        }
    }
}

impl<B: KernelBackend> Norm<B> {
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        self.apply(x_NCDHW, None, mode, None)
    }

    /// Normalise, then leaky ReLU with this negative slope (0 is ReLU).
    pub fn forward_act(&self, x_NCDHW: Tensor<B, 5>, mode: Mode, negative_slope: f64) -> Tensor<B, 5> {
        self.apply(x_NCDHW, None, mode, Some(negative_slope))
    }

    /// Normalise, add the shortcut, then leaky ReLU: the end of a residual block.
    pub fn forward_add_act(&self, x: Tensor<B, 5>, shortcut: Tensor<B, 5>, mode: Mode, negative_slope: f64) -> Tensor<B, 5> {
        self.apply(x, Some(shortcut), mode, Some(negative_slope))
    }

    fn apply(&self, x: Tensor<B, 5>, shortcut: Option<Tensor<B, 5>>, mode: Mode, negative_slope: Option<f64>) -> Tensor<B, 5> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let (Some(mean), Some(var)) = (&self.running_mean, &self.running_var) else {
            let slope = negative_slope.map(|s| s as f32);
            return kernels::norm_add_act(x, Some(weight), Some(bias), self.groups, EPSILON, shortcut, slope);
        };
        let [n, c, d, h, w] = x.dims();
        let per_channel = [1, c, 1, 1, 1];
        let normed = match mode {
            Mode::Eval => (x - mean.get().reshape(per_channel)) / (var.get().reshape(per_channel) + EPSILON).sqrt(),
            Mode::Train => {
                let batch_mean = x.clone().mean_dims(&[0, 2, 3, 4]);
                let x = x - batch_mean.clone();
                let batch_var = x.clone().square().mean_dims(&[0, 2, 3, 4]);
                let count = (n * d * h * w) as f64;
                mean.update(batch_mean.reshape([c]));
                var.update(batch_var.clone().reshape([c]) * (count / (count - 1.0).max(1.0)));
                x / (batch_var + EPSILON).sqrt()
            }
        };
        let mut y = normed * weight.reshape(per_channel) + bias.reshape(per_channel);
        if let Some(shortcut) = shortcut {
            y = y + shortcut;
        }
        match negative_slope {
            None => y,
            Some(0.0) => activation::relu(y),
            Some(slope) => activation::leaky_relu(y, slope),
        }
    }
}

/// A running statistic: saved with the weights, updated in a training forward pass, never by an optimiser.
///
/// Unlike Burn's `RunningState`, a clone is a copy of its own (an old policy must not follow the current one), and what is read is never
/// one update behind.
#[derive(Debug)]
pub struct Buffer<B: Backend> {
    id: ParamId,
    value: Mutex<Tensor<B, 1>>,
}

impl<B: Backend> Buffer<B> {
    pub fn get(&self) -> Tensor<B, 1> {
        self.value.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn update(&self, observed: Tensor<B, 1>) {
        let mut value = self.value.lock().unwrap_or_else(|e| e.into_inner());
        *value = value.clone() * (1.0 - MOMENTUM) + observed.detach() * MOMENTUM;
    }

    fn with(&self, value: Tensor<B, 1>) -> Self {
        Self { id: self.id, value: Mutex::new(value) }
    }
}

impl<B: Backend> Clone for Buffer<B> {
    fn clone(&self) -> Self {
        self.with(self.get())
    }
}

impl<B: Backend> Module<B> for Buffer<B> {
    type Record = Param<Tensor<B, 1>>;

    fn visit<V: ModuleVisitor<B>>(&self, visitor: &mut V) {
        visitor.visit_float(&Param::initialized(self.id, self.get()));
    }
    fn map<M: ModuleMapper<B>>(self, mapper: &mut M) -> Self {
        let (_, value, _) = mapper.map_float(Param::initialized(self.id, self.get())).consume();
        self.with(value)
    }
    fn into_record(self) -> Self::Record {
        Param::initialized(self.id, self.get())
    }
    fn load_record(self, record: Self::Record) -> Self {
        self.with(record.val())
    }
    fn to_device(self, device: &B::Device) -> Self {
        self.with(self.get().to_device(device))
    }
    fn fork(self, device: &B::Device) -> Self {
        self.to_device(device)
    }
    fn collect_devices(&self, mut devices: Devices<B>) -> Devices<B> {
        let device = self.get().device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }
}

impl<B: AutodiffBackend> AutodiffModule<B> for Buffer<B> {
    type InnerModule = Buffer<B::InnerBackend>;

    fn valid(&self) -> Self::InnerModule {
        Buffer { id: self.id, value: Mutex::new(self.get().inner()) }
    }
    fn from_inner(module: Self::InnerModule) -> Self {
        Buffer { id: module.id, value: Mutex::new(Tensor::from_inner(module.get())) }
    }
}

impl<B: Backend> ModuleDisplayDefault for Buffer<B> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&"Buffer").optional()
    }
}
impl<B: Backend> ModuleDisplay for Buffer<B> {}

/// Max pooling of ResNet's stem: kernel 3, stride 2, padding 1.
pub fn max_pool3d<B: KernelBackend>(x_NCDHW: Tensor<B, 5>) -> Tensor<B, 5> {
    kernels::max_pool3d(x_NCDHW, [3; 3], [2; 3], [1; 3])
}

/// Every `stride`-th voxel from the first.
pub fn subsample<B: Backend>(x_NCDHW: Tensor<B, 5>, stride: usize) -> Tensor<B, 5> {
    let step = stride as isize;
    x_NCDHW.slice(s![.., .., ..;step, ..;step, ..;step])
}

/// How a whole feature map becomes one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The strongest response of each channel (the published Glance).
    Max,
    /// The mean response of each channel (MONAI's ResNet).
    Avg,
}

impl Pooling {
    /// `x_NCDHW` -> `[N, C]`.
    pub fn apply<B: KernelBackend>(self, x_NCDHW: Tensor<B, 5>) -> Tensor<B, 2> {
        match self {
            Pooling::Max => kernels::global_max_pool3d(x_NCDHW),
            Pooling::Avg => kernels::global_avg_pool3d(x_NCDHW),
        }
    }
}

/// Trilinear interpolation to a multiple of the size, corners not aligned (PyTorch's default). One axis after the other, each a product
/// with a banded matrix.
pub fn upsample_trilinear<B: Backend>(x_NCDHW: Tensor<B, 5>, scale: [usize; 3]) -> Tensor<B, 5> {
    (0..3).fold(x_NCDHW, |x, axis| match scale[axis] {
        1 => x,
        scale => {
            let length = x.dims()[2 + axis];
            let weights: Tensor<B, 2> =
                Tensor::from_data(TensorData::new(interpolation(length, scale), [length, length * scale]), &x.device());
            x.swap_dims(2 + axis, 4).matmul(weights.unsqueeze()).swap_dims(2 + axis, 4)
        }
    })
}

/// Weights `[length, length * scale]` of linear interpolation: output j sits at input coordinate (j + 0.5) / scale - 0.5, clamped.
fn interpolation(length: usize, scale: usize) -> Vec<f32> {
    let out = length * scale;
    let mut weights = vec![0.0; length * out];
    for j in 0..out {
        let at = ((j as f64 + 0.5) / scale as f64 - 0.5).clamp(0.0, (length - 1) as f64);
        let low = at.floor() as usize;
        let high = (low + 1).min(length - 1);
        weights[low * out + j] += (1.0 - at.fract()) as f32;
        weights[high * out + j] += at.fract() as f32;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;
    use burn::backend::flex::FlexDevice;

    fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<Flex, D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
    }

    fn values<const D: usize>(t: Tensor<Flex, D>) -> Vec<f32> {
        t.into_data().to_vec().unwrap()
    }

    #[test]
    fn first_weights_depend_on_seed_and_name_only() {
        let draw = |seed, name: &str| {
            let place = Init::<Flex>::new(seed, "glance", &FlexDevice);
            let param = place.at(name).normal("weight", [5], 1.0);
            (param.id, values(param.val()))
        };
        assert_eq!(draw(1, "conv1"), draw(1, "conv1"));
        assert_ne!(draw(1, "conv1").1, draw(2, "conv1").1);
        assert_ne!(draw(1, "conv1").1, draw(1, "conv2").1);
        assert_eq!(draw(1, "conv1").0, draw(2, "conv1").0);
        assert_ne!(draw(1, "conv1").0, draw(1, "conv2").0);
    }

    #[test]
    fn first_weights_have_the_deviation_asked_for() {
        let place = Init::<Flex>::new(3, "net", &FlexDevice);
        let std = |conv: Conv3d<Flex>| {
            let w = values(conv.weight.val());
            (w.iter().map(|v| v * v).sum::<f32>() / w.len() as f32).sqrt()
        };
        let new = |how| Conv3d::new(&place, [16, 32], 3, [1; 3], false, how);
        for (how, expected) in [
            (ConvInit::FanOut, (2.0 / (32.0 * 27.0f32)).sqrt()),
            (ConvInit::FanIn { negative_slope: 0.0 }, (2.0 / (16.0 * 27.0f32)).sqrt()),
        ] {
            assert!((std(new(how)) / expected - 1.0).abs() < 0.03, "{how:?}");
        }
        let uniform = values(place.uniform("u", [10_000], 0.5).val());
        assert!(uniform.iter().all(|v| v.abs() <= 0.5) && uniform.iter().any(|v| *v > 0.45) && uniform.iter().any(|v| *v < -0.45));
    }

    #[test]
    fn group_and_instance_norm_make_mean_0_and_variance_1() {
        let x: Vec<f32> = (0..2 * 4 * 8).map(|i| ((i * 37) % 23) as f32).collect();
        for (kind, groups, per_group) in [(NormKind::Group, 2, 16), (NormKind::Instance, 4, 8)] {
            let norm = NormConfig { kind, groups: 2 }.init(&Init::<Flex>::new(0, "n", &Default::default()), 4);
            let y = values(norm.forward(tensor(&x, [2, 4, 2, 2, 2]), Mode::Train));
            assert_eq!(y.len() / per_group, 2 * groups);
            for group in y.chunks(per_group) {
                let mean = group.iter().sum::<f32>() / per_group as f32;
                let var = group.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / per_group as f32;
                assert!(mean.abs() < 1e-5 && (var - 1.0).abs() < 1e-4, "{kind:?}: {mean} {var}");
            }
        }
    }

    #[test]
    fn max_pooling_sees_its_27_neighbours() {
        let [d, h, w] = [5usize, 4, 3];
        let x: Vec<f32> = (0..d * h * w).map(|i| ((i * 37) % 61) as f32 - 100.0).collect();
        let found = values(max_pool3d(tensor(&x, [1, 1, d, h, w])));
        let mut expected = vec![];
        for (i, j, k) in (0..3).flat_map(|i| (0..2).flat_map(move |j| (0..2).map(move |k| (i, j, k)))) {
            let near = |at: usize, n: usize| (2 * at).saturating_sub(1)..(2 * at + 2).min(n);
            let voxels = near(i, d).flat_map(|a| near(j, h).flat_map(move |b| near(k, w).map(move |c| (a, b, c))));
            expected.push(voxels.map(|(a, b, c)| x[(a * h + b) * w + c]).fold(f32::MIN, f32::max));
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn trilinear_upsampling_has_pytorchs_values() {
        // torch.nn.functional.interpolate([0, 1, 3], scale_factor=2, mode="linear")
        let x = tensor(&[0.0, 1.0, 3.0], [1, 1, 1, 1, 3]);
        assert_eq!(values(upsample_trilinear(x, [1, 1, 2])), [0.0, 0.25, 0.75, 1.5, 2.5, 3.0]);
        let y = upsample_trilinear(tensor(&[0.0, 4.0], [1, 1, 2, 1, 1]), [2, 2, 1]);
        assert_eq!(y.dims(), [1, 1, 4, 2, 1]);
        assert_eq!(values(y), [0.0, 0.0, 1.0, 1.0, 3.0, 3.0, 4.0, 4.0]);
    }
}
