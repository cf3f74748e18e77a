//! Group, batch and instance norm, and the running statistics of batch norm.
//!
//! Shapes: `x_NCDHW`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use burn::module::{
    AutodiffModule, Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId,
};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layers::Conv3d;
use super::{ConfigError, Init, require};
use crate::kernels::{self, KernelBackend};
use crate::precision::{cast, relu, wide};
use crate::weights::{ModulePath, is_buffer};

/// What batch norm does: nothing else differs between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Statistics of the batch; running statistics are updated (momentum 0.1, unbiased variance).
    Train,
    /// The running statistics.
    Eval,
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
        let unfit = widths.iter().find(|&&w| self.groups == 0 || w % self.groups != 0);
        require(self.kind != NormKind::Group || unfit.is_none(), || {
            let (groups, width) = (self.groups, unfit.copied().unwrap_or_default());
            format!("a width of {width} is not divisible by norm_groups = {groups}; choose a common divisor of all widths {widths:?}")
        })
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
        let slope = negative_slope.map(|s| s as f32);
        let norm = |x, groups, shortcut| {
            kernels::norm_add_act(x, Some(self.weight.val()), Some(self.bias.val()), groups, EPSILON, shortcut, slope)
        };
        let (Some(mean), Some(var)) = (&self.running_mean, &self.running_var) else { return norm(x, self.groups, shortcut) };
        let shape @ [n, c, d, h, w] = x.dims();
        let per_channel = [1, c, 1, 1, 1];
        match mode {
            Mode::Eval => {
                let (scale, shift) = self.folded(mean, var);
                let dtype = x.dtype();
                let mut y = wide(x) * scale.reshape(per_channel) + shift.reshape(per_channel);
                if let Some(shortcut) = shortcut {
                    y = y + wide(shortcut);
                }
                let y = match negative_slope {
                    None => y,
                    Some(0.0) => relu(y),
                    Some(slope) => activation::leaky_relu(y, slope),
                };
                cast(y, dtype)
            }
            Mode::Train => {
                let [batch_mean, batch_var] = kernels::channel_moments(x.clone().detach());
                let count = (n * d * h * w) as f64;
                mean.update(batch_mean);
                var.update(batch_var * (count / (count - 1.0).max(1.0)));
                // One channel over the whole batch: instance norm of the samples laid side by side.
                let side_by_side = |x: Tensor<B, 5>| if n == 1 { x } else { x.swap_dims(0, 1).reshape([1, c, n * d, h, w]) };
                let y = norm(side_by_side(x), c, shortcut.map(side_by_side));
                if n == 1 { y } else { y.reshape([c, n, d, h, w]).swap_dims(0, 1).reshape(shape) }
            }
        }
    }

    /// `conv`, then this norm, the shortcut and leaky ReLU where there are any. Running statistics are constants, and go into the convolution.
    pub fn after(
        &self,
        conv: &Conv3d<B>,
        x: Tensor<B, 5>,
        shortcut: Option<Tensor<B, 5>>,
        mode: Mode,
        negative_slope: Option<f64>,
    ) -> Tensor<B, 5> {
        match (&self.running_mean, &self.running_var, &conv.bias, mode) {
            (Some(mean), Some(var), None, Mode::Eval) => {
                let (scale, shift) = self.folded(mean, var);
                conv.forward_act(x, scale, shift, shortcut, negative_slope.map(|s| s as f32))
            }
            _ => self.apply(conv.forward(x), shortcut, mode, negative_slope),
        }
    }

    /// Norm by running statistics as `x * scale + shift`, `[C]` each.
    fn folded(&self, mean: &Buffer<B>, var: &Buffer<B>) -> (Tensor<B, 1>, Tensor<B, 1>) {
        let scale = self.weight.val() / (var.get() + EPSILON).sqrt();
        (scale.clone(), self.bias.val() - mean.get() * scale)
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

/// `module` with running statistics that are the means of those of `parts`, copies of it that each saw a part of the batch in training. A module
/// without batch norm comes back as it is.
pub fn with_running_statistics<B: Backend, M: Module<B>>(module: M, parts: &[&M]) -> M {
    let mut sums = Collect { path: ModulePath::default(), sums: BTreeMap::new() };
    parts.iter().for_each(|part| part.visit(&mut sums));
    if sums.sums.is_empty() {
        return module;
    }
    module.map(&mut Replace { means: sums.sums, parts: parts.len() })
}

/// Sums of the running statistics of the modules visited, by number of the buffer.
struct Collect<B: Backend> {
    path: ModulePath,
    sums: BTreeMap<u64, Tensor<B, 1>>,
}

impl<B: Backend> ModuleVisitor<B> for Collect<B> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if is_buffer(&self.path.name()) {
            let value = param.val().flatten::<1>(0, D - 1);
            let sum = self.sums.remove(&param.id.val());
            self.sums.insert(param.id.val(), sum.map_or(value.clone(), |sum| sum + value));
        }
    }
}

/// Puts means in the place of buffers.
struct Replace<B: Backend> {
    means: BTreeMap<u64, Tensor<B, 1>>,
    parts: usize,
}

impl<B: Backend> ModuleMapper<B> for Replace<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some(sum) = self.means.remove(&param.id.val()) else { return param };
        let mean = if self.parts == 1 { sum } else { sum / self.parts as f64 };
        Param::initialized(param.id, mean.reshape(param.shape()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;
    use burn::backend::flex::FlexDevice;
    use burn::tensor::TensorData;

    #[test]
    fn group_and_instance_norm_make_mean_0_and_variance_1() {
        let x: Vec<f32> = (0..2 * 4 * 8).map(|i| ((i * 37) % 23) as f32).collect();
        for (kind, groups, per_group) in [(NormKind::Group, 2, 16), (NormKind::Instance, 4, 8)] {
            let norm = NormConfig { kind, groups: 2 }.init(&Init::<Flex>::new(0, "n", &FlexDevice), 4);
            let x = Tensor::from_data(TensorData::new(x.clone(), [2, 4, 2, 2, 2]), &FlexDevice);
            let y: Vec<f32> = norm.forward(x, Mode::Train).into_data().to_vec().unwrap();
            assert_eq!(y.len() / per_group, 2 * groups);
            for group in y.chunks(per_group) {
                let mean = group.iter().sum::<f32>() / per_group as f32;
                let var = group.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / per_group as f32;
                assert!(mean.abs() < 1e-5 && (var - 1.0).abs() < 1e-4, "{kind:?}: {mean} {var}");
            }
        }
    }
}
