//! Per-parameter optimiser state, its walk over a module, and its bytes.
//!
//! The bytes are a safetensors file: one flat tensor `<slot>/<path>` for each slot (`exp_avg`, ...) and the step count `step/<path>`;
//! the metadata names the optimiser. NumPy and PyTorch read it.

use super::Error;
use crate::kernels::KernelBackend;
use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{
    DType, Tensor, TensorData,
    backend::{AutodiffBackend, Backend},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::{BTreeMap, HashMap};

/// State of one parameter: how many steps it took, and `SLOTS` tensors of its size, flat.
#[derive(Clone, Debug)]
pub struct Slots<B: Backend, const SLOTS: usize> {
    pub step: u64,
    pub tensors: [Tensor<B, 1>; SLOTS],
}

/// The rule of one optimiser.
pub trait Rule<const SLOTS: usize> {
    const NAME: &'static str;
    const SLOT_NAMES: [&'static str; SLOTS];

    /// New value of a flat parameter. `slots` are zeros and `step` 0 before a parameter's first step.
    fn update<B: KernelBackend>(&self, lr: f64, weight: Tensor<B, 1>, grad: Tensor<B, 1>, slots: &mut Slots<B, SLOTS>) -> Tensor<B, 1>;
}

/// An optimiser: its rule, and the state of every parameter, on the device of the parameters.
#[derive(Clone, Debug)]
pub struct Optimizer<B: AutodiffBackend, R, const SLOTS: usize> {
    rule: R,
    state: State<B::InnerBackend, SLOTS>,
}

impl<B: AutodiffBackend, R: Rule<SLOTS>, const SLOTS: usize> Optimizer<B, R, SLOTS> {
    /// An optimiser that has taken no step.
    pub fn new(rule: R) -> Self {
        Self { rule, state: State::new() }
    }

    /// One step. A parameter without a gradient keeps its value and its state, as in PyTorch. The learning rate comes from the schedule.
    pub fn step<M: AutodiffModule<B>>(&mut self, module: M, grads: GradientsParams, lr: f64) -> M
    where
        B::InnerBackend: KernelBackend,
    {
        self.state.step(&self.rule, module, grads, lr)
    }

    /// Running means and step counts as a safetensors file.
    pub fn state_bytes(&self) -> Vec<u8> {
        self.state.to_bytes::<R>()
    }

    /// Takes over the state written by [`Self::state_bytes`] for a module of the same structure; on an error nothing changes.
    pub fn load_state<M: AutodiffModule<B>>(&mut self, bytes: &[u8], module: &M, device: &B::Device) -> Result<(), Error> {
        self.state = State::from_bytes::<R, M, B>(bytes, module, device)?;
        Ok(())
    }
}

/// State of all parameters by path.
#[derive(Clone, Debug)]
pub(super) struct State<B: Backend, const SLOTS: usize>(BTreeMap<String, Slots<B, SLOTS>>);

impl<B: Backend, const SLOTS: usize> State<B, SLOTS> {
    pub fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// One step over every parameter that has a gradient.
    pub fn step<A, M, R>(&mut self, rule: &R, module: M, grads: GradientsParams, lr: f64) -> M
    where
        B: KernelBackend,
        A: AutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<A>,
        R: Rule<SLOTS>,
    {
        module.map(&mut Step { rule, state: self, grads, lr, path: Vec::new() })
    }

    /// The state as bytes; equal state gives equal bytes.
    pub fn to_bytes<R: Rule<SLOTS>>(&self) -> Vec<u8> {
        let mut tensors: Vec<(String, Dtype, usize, Vec<u8>)> = Vec::new();
        for (path, slots) in &self.0 {
            tensors.push((format!("step/{path}"), Dtype::U64, 1, slots.step.to_le_bytes().to_vec()));
            for (name, tensor) in R::SLOT_NAMES.iter().zip(&slots.tensors) {
                let data = tensor.to_data();
                let (dtype, data) = match data.dtype {
                    DType::F64 => (Dtype::F64, data),
                    _ => (Dtype::F32, data.convert::<f32>()),
                };
                tensors.push((format!("{name}/{path}"), dtype, tensor.dims()[0], data.as_bytes().to_vec()));
            }
        }
        let views = tensors.iter().map(|(name, dtype, len, bytes)| {
            let view = TensorView::new(*dtype, vec![*len], bytes).expect("byte length follows from the dtype");
            (name.as_str(), view)
        });
        let metadata = HashMap::from([("optimizer".to_string(), R::NAME.to_string())]);
        safetensors::serialize(views, Some(metadata)).expect("names are unique and views are valid")
    }

    /// State from bytes, checked against the parameters of `module`.
    pub fn from_bytes<R: Rule<SLOTS>, M: Module<A>, A: Backend>(bytes: &[u8], module: &M, device: &B::Device) -> Result<Self, Error> {
        let unreadable = |e: safetensors::SafeTensorError| Error::Unreadable(e.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let found = header.metadata().as_ref().and_then(|m| m.get("optimizer")).cloned().unwrap_or_default();
        if found != R::NAME {
            return Err(Error::WrongOptimizer { found, expected: R::NAME });
        }
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let mut sizes = Sizes { path: Vec::new(), sizes: BTreeMap::new() };
        module.visit(&mut sizes);

        let mut state = BTreeMap::new();
        for name in file.names() {
            let Some(path) = name.strip_prefix("step/") else { continue };
            let Some(&size) = sizes.sizes.get(path) else {
                return Err(Error::Mismatch { path: path.into(), found: "a parameter".into(), expected: "none of that name".into() });
            };
            let step = file.tensor(name).map_err(unreadable)?;
            let step =
                step.data().try_into().map(u64::from_le_bytes).map_err(|_| Error::Unreadable(format!("`{name}` is no step count")))?;
            let mut tensors = Vec::with_capacity(SLOTS);
            for slot in R::SLOT_NAMES {
                let view = file.tensor(&format!("{slot}/{path}")).map_err(unreadable)?;
                if view.shape() != [size] {
                    let (found, expected) = (format!("{slot} of shape {:?}", view.shape()), format!("[{size}]"));
                    return Err(Error::Mismatch { path: path.into(), found, expected });
                }
                let data = match view.dtype() {
                    Dtype::F32 => TensorData::new(floats(view.data(), f32::from_le_bytes), [size]),
                    Dtype::F64 => TensorData::new(floats(view.data(), f64::from_le_bytes), [size]),
                    other => return Err(Error::Unreadable(format!("`{slot}/{path}` is {other:?}, expected F32 or F64"))),
                };
                let dtype = data.dtype;
                tensors.push(Tensor::from_data(data, (device, dtype)));
            }
            let tensors = tensors.try_into().expect("one tensor a slot");
            state.insert(path.to_string(), Slots { step, tensors });
        }
        Ok(Self(state))
    }
}

fn floats<const N: usize, F>(bytes: &[u8], read: fn([u8; N]) -> F) -> Vec<F> {
    bytes.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
}

struct Step<'a, B: Backend, R, const SLOTS: usize> {
    rule: &'a R,
    state: &'a mut State<B, SLOTS>,
    grads: GradientsParams,
    lr: f64,
    path: Vec<String>,
}

impl<A, R, const SLOTS: usize> ModuleMapper<A> for Step<'_, A::InnerBackend, R, SLOTS>
where
    A: AutodiffBackend<InnerBackend: KernelBackend>,
    R: Rule<SLOTS>,
{
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<A, D>>) -> Param<Tensor<A, D>> {
        let Some(grad) = self.grads.remove::<A::InnerBackend, D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let require_grad = tensor.is_require_grad();
        let (weight, shape) = (tensor.inner(), grad.shape());
        let size = shape.num_elements();
        let weight = weight.reshape([size]);
        let slots = self.state.0.entry(self.path.join(".")).or_insert_with(|| {
            let zeros = weight.zeros_like();
            Slots { step: 0, tensors: std::array::from_fn(|_| zeros.clone()) }
        });
        let weight = self.rule.update(self.lr, weight, grad.reshape([size]), slots);
        slots.step += 1;
        let tensor = Tensor::from_inner(weight.reshape(shape)).set_require_grad(require_grad);
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// Number of elements of each float parameter by path.
struct Sizes {
    path: Vec<String>,
    sizes: BTreeMap<String, usize>,
}

impl<B: Backend> ModuleVisitor<B> for Sizes {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.sizes.insert(self.path.join("."), param.shape().num_elements());
    }
}
