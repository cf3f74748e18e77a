//! The fill rule and comparisons of `tests/golden/nets_tiny.json`, for tests.

use burn::backend::{Autodiff, Flex};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use serde_json::Value;

use crate::losses::{DiceCeConfig, dice_ce};
use crate::weights::layout::Layout;
use crate::weights::{self, ModulePath, NamedTensor, Scope};

/// The back end of tests.
pub type B = Autodiff<Flex>;

fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn fnv1a64(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// `off + scale * (2 u - 1)` for each index, computed in f64.
pub fn fill(name: &str, count: usize, off: f64, scale: f64) -> Vec<f32> {
    let seed = fnv1a64(name);
    let u01 = |i: u64| (splitmix64(seed.wrapping_add(i)) >> 11) as f64 * 2f64.powi(-53);
    (0..count as u64).map(|i| (off + scale * (2.0 * u01(i) - 1.0)) as f32).collect()
}

/// The entry `name` of `nets_tiny.json`.
pub fn entry(name: &str) -> Value {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/nets_tiny.json"));
    let mut all: Value = serde_json::from_str(text).unwrap();
    all["nets"][name].take()
}

fn usizes(v: &Value) -> Vec<usize> {
    v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

pub fn floats(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}

/// The weights of an entry, counters included (as a PyTorch file would have them).
pub fn weights(net: &str, entry: &Value) -> Vec<NamedTensor> {
    let row = |row: &Value| {
        let (name, shape) = (row[0].as_str().unwrap().to_owned(), usizes(&row[1]));
        let values = match row[2].as_array() {
            Some(rule) => fill(&format!("{net}.{name}"), shape.iter().product(), rule[0].as_f64().unwrap(), rule[1].as_f64().unwrap()),
            None => vec![],
        };
        NamedTensor { name, shape, values }
    };
    entry["keys"].as_array().unwrap().iter().map(row).collect()
}

/// Weights by the fill rule for any network: rank two or more within sqrt(3 / fan in), scales 1 and offsets 0 within 0.1.
pub fn rule(prefix: &str, shapes: Vec<(String, Vec<usize>)>) -> Vec<NamedTensor> {
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let (off, scale) = match &shape[..] {
            [_] if name.ends_with("weight") => (1.0, 0.1),
            [_] => (0.0, 0.1),
            [_, fan @ ..] => (0.0, (3.0 / fan.iter().product::<usize>() as f64).sqrt()),
            [] => (0.0, 0.0),
        };
        NamedTensor { values: fill(&format!("{prefix}.{name}"), shape.iter().product(), off, scale), name, shape }
    };
    shapes.into_iter().map(tensor).collect()
}

/// The input of an entry.
pub fn input(entry: &Value) -> Tensor<B, 5> {
    let rule = &entry["input"];
    let shape: [usize; 5] = usizes(&rule["shape"]).try_into().unwrap();
    let (off, scale) = (rule["off"].as_f64().unwrap(), rule["scale"].as_f64().unwrap());
    let values = fill(rule["fill"].as_str().unwrap(), shape.iter().product(), off, scale);
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

/// Relative to the largest value of the tensor, as sums cancel.
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], scale: f64, tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * scale, "{what}[{i}]: {f}, expected {e} within {tolerance} of {scale}");
    }
}

/// Shape, statistics and samples of a recorded tensor.
pub fn assert_tensor(what: &str, shape: &[usize], values: &[f32], expected: &Value, tolerance: f64) {
    assert_eq!(shape, usizes(&expected["shape"]), "{what}");
    let scale = expected["max"].as_f64().unwrap().abs().max(expected["min"].as_f64().unwrap().abs());
    let samples: Vec<f64> = usizes(&expected["index"]).into_iter().map(|i| f64::from(values[i])).collect();
    assert_close(what, &samples, &floats(&expected["value"]), scale, tolerance);
    let abs_sum: f64 = values.iter().map(|v| f64::from(*v).abs()).sum();
    let expected_sum = expected["abs_sum"].as_f64().unwrap();
    assert_close(&format!("abs_sum of {what}"), &[abs_sum], &[expected_sum], expected_sum, tolerance);
}

/// A module with the weights of an entry. The fill goes by name, so where a state dict lists weights under several names, the last one counts.
pub fn load<M: Module<B>>(model: M, layout: Layout, tensors: Vec<NamedTensor>) -> M {
    let mut named = std::collections::BTreeMap::new();
    for tensor in tensors.into_iter().filter(|t| !t.values.is_empty()) {
        let name = layout.own(&first_name(&tensor.name)).unwrap();
        named.insert(name.clone(), NamedTensor { name, ..tensor });
    }
    weights::from_tensors(model, named.into_values().collect(), &Scope::Whole).unwrap().0
}

/// The first name of weights that nnU-Net or MONAI's DynUNet (of four levels) list under others too.
fn first_name(name: &str) -> String {
    let Some(rest) = name.strip_prefix("skip_layers.") else {
        let name = name.strip_prefix("decoder.").filter(|rest| rest.starts_with("encoder.")).unwrap_or(name);
        return name.replace("all_modules.0", "conv").replace("all_modules.1", "norm");
    };
    let depth = rest.matches("next_layer.").count();
    match (rest.trim_start_matches("next_layer."), depth) {
        (block, 0) if block.starts_with("downsample.") => block.replacen("downsample", "input_block", 1),
        (block, 1..) if block.starts_with("downsample.") => block.replacen("downsample", &format!("downsamples.{}", depth - 1), 1),
        (block, _) if block.starts_with("upsample.") => block.replacen("upsample", &format!("upsamples.{}", 2 - depth), 1),
        (block, _) => format!("bottleneck.{block}"),
    }
}

/// The module in double precision.
pub fn double<M: Module<B>>(model: M) -> M {
    struct Double;
    impl burn::module::ModuleMapper<B> for Double {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            param.map(|t| Tensor::from_inner(t.inner().cast(DType::F64)).require_grad())
        }
    }
    model.map(&mut Double)
}

/// A recorded map, to 1e-4.
pub fn assert_map(name: &str, map: &Tensor<B, 5>, expected: &Value) {
    assert_tensor(name, &map.dims(), &map.to_data().iter::<f32>().collect::<Vec<_>>(), expected, 1e-4);
}

/// Logits and Dice + CE of an entry to 1e-4, its gradients to `tolerance`. `finish` completes the gradients of the backward pass.
pub fn check_segmenter(
    entry: &Value,
    model: &impl Module<B>,
    layout: Layout,
    logits: Tensor<B, 5>,
    tolerance: f64,
    finish: impl FnOnce(&mut <B as AutodiffBackend>::Gradients),
) {
    assert_map("output", &logits, &entry["output"]);
    let loss = dice_ce(logits.clone(), label(entry, logits.dims()), &DiceCeConfig::published()).total;
    let (found, expected) = (loss.to_data().iter::<f64>().sum::<f64>(), entry["loss_dicece"].as_f64().unwrap());
    assert_close("loss_dicece", &[found], &[expected], expected, 1e-4);
    let mut grads = loss.backward();
    finish(&mut grads);
    let grads = gradients(model, &grads);
    for (name, expected) in entry["grads"].as_object().unwrap() {
        let own = layout.own(name).unwrap();
        let grad = grads.iter().find(|g| g.name == own).unwrap_or_else(|| panic!("{own} has no gradient"));
        assert_tensor(&format!("gradient of {name}"), &grad.shape, &grad.values, expected, tolerance);
    }
    let squares: f64 = grads.iter().flat_map(|g| &g.values).map(|g| f64::from(*g).powi(2)).sum();
    let expected = entry["grad_norm"].as_f64().unwrap();
    assert_close("grad_norm", &[squares.sqrt()], &[expected], expected, tolerance);
}

/// The ellipsoid of an entry.
fn label(entry: &Value, [n, _, d, h, w]: [usize; 5]) -> Tensor<B, 4, Int> {
    let centre = fill(entry["label"]["fill"].as_str().unwrap(), 3, 0.5, 0.15);
    let size = [d, h, w];
    let inside = |at: [usize; 3]| {
        let term = |a: usize| {
            let side = size[a] as f64;
            ((at[a] as f64 + 0.5 - side * f64::from(centre[a])) / (0.22 * side)).powi(2)
        };
        i64::from(term(0) + term(1) + term(2) <= 1.0)
    };
    let values: Vec<i64> = (0..n * d * h * w).map(|i| inside([i / (h * w) % d, i / w % h, i % w])).collect();
    assert_eq!(values.iter().sum::<i64>(), entry["label"]["voxels"].as_i64().unwrap());
    Tensor::from_data(TensorData::new(values, [n, d, h, w]), &Default::default())
}

/// Gradients of a backward pass by name.
pub fn gradients(module: &impl Module<B>, grads: &<B as AutodiffBackend>::Gradients) -> Vec<NamedTensor> {
    struct Grads<'a>(ModulePath, &'a <B as AutodiffBackend>::Gradients, Vec<NamedTensor>);
    impl ModuleVisitor<B> for Grads<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            if let Some(grad) = param.val().grad(self.1) {
                let shape = grad.dims().to_vec();
                self.2.push(NamedTensor { name: self.0.name(), shape, values: grad.into_data().iter::<f32>().collect() });
            }
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, container: &str) {
            self.0.exit(container);
        }
    }
    let mut visitor = Grads(ModulePath::default(), grads, vec![]);
    module.visit(&mut visitor);
    visitor.2
}

#[test]
fn fill_rule_reproduces_its_constants() {
    assert_eq!(splitmix64(0), 0xE220_A839_7B1D_CDAF);
    assert_eq!(fnv1a64("a"), 0xAF63_DC4C_8601_EC8C);
}
