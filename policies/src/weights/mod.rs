//! Weights of a network by name, in and out of safetensors; other programs' files in [`import`].
//!
//! A name is the dotted path of fields and indices from the network down to the tensor (`layer1.0.conv1.weight`); the variant of an enum
//! such as [`crate::glance::Glance`] is not part of it. Running statistics of batch norm are weights too, optimisers never touch them.

mod floats;
pub mod import;
pub mod layout;
mod pickle;
mod report;
mod torch;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

pub use report::Report;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] panscreen_envs::Error),

    /// The bytes are not what we write.
    #[error("weights can't be read: {found}, expected {expected}; {action}")]
    Format { found: String, expected: &'static str, action: &'static str },

    /// Two tensors of a file have one name in the network, and other values.
    #[error("weights hold {0} twice, with other values; save the state_dict of the network alone")]
    Twice(String),

    /// Names or shapes differ between file and network.
    #[error("weights don't fit the network: {0}")]
    Coverage(Box<Report>),

    /// A value that no training can have meant.
    #[error("weights of {0} are not finite (NaN or infinity); take an earlier checkpoint")]
    NotFinite(String),

    /// The tensors can't be written.
    #[error("weights can't be written: {0}")]
    Write(safetensors::SafeTensorError),

    /// What is wrong, and with which file.
    #[error("{}: {source}", path.display())]
    At { path: std::path::PathBuf, source: Box<Error> },
}

/// One tensor with its name; values in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Which of the network's tensors must be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every tensor of the network, and nothing else may be in the file.
    Whole,
    /// Every tensor of the network whose name starts with one of these (`encoder.`); the others keep their values, and the file may have more.
    Prefixes(Vec<String>),
}

impl Scope {
    /// The encoder only.
    pub fn encoder() -> Self {
        Scope::Prefixes(vec!["encoder.".to_owned()])
    }

    fn covers(&self, name: &str) -> bool {
        match self {
            Scope::Whole => true,
            Scope::Prefixes(prefixes) => prefixes.iter().any(|p| name.starts_with(p.as_str())),
        }
    }
}

/// The path of a visitor or mapper through a module.
#[derive(Default)]
pub struct ModulePath(Vec<String>);

impl ModulePath {
    /// Call from `enter_module`.
    pub fn enter(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.push(name.to_owned());
        }
    }

    /// Call from `exit_module`.
    pub fn exit(&mut self, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.pop();
        }
    }

    /// The dotted name of the tensor being visited.
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Whether a name is that of a running statistic, which is no parameter.
pub fn is_buffer(name: &str) -> bool {
    name.ends_with(".running_mean") || name.ends_with(".running_var")
}

/// Names and shapes of all weights, in the order of the module's fields.
pub fn shapes<B: Backend>(module: &impl Module<B>) -> Vec<(String, Vec<usize>)> {
    struct Shapes(ModulePath, Vec<(String, Vec<usize>)>);
    impl<B: Backend> ModuleVisitor<B> for Shapes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.1.push((self.0.name(), param.dims().to_vec()));
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, container: &str) {
            self.0.exit(container);
        }
    }
    let mut visitor = Shapes(ModulePath::default(), vec![]);
    module.visit(&mut visitor);
    visitor.1
}

/// Trainable parameters of a network, running statistics not counted (Burn's `num_params` counts them).
pub fn parameter_count<B: Backend>(module: &impl Module<B>) -> usize {
    shapes(module).iter().filter(|(name, _)| !is_buffer(name)).map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

/// All weights, in the order of the module's fields.
pub fn tensors<B: Backend>(module: &impl Module<B>) -> Vec<NamedTensor> {
    struct Values(ModulePath, Vec<NamedTensor>);
    impl<B: Backend> ModuleVisitor<B> for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            let data = param.val().into_data().convert_dtype(DType::F32);
            let shape = data.shape.to_vec();
            let values = data.into_vec().expect("just converted to f32");
            self.1.push(NamedTensor { name: self.0.name(), shape, values });
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, container: &str) {
            self.0.exit(container);
        }
    }
    let mut visitor = Values(ModulePath::default(), vec![]);
    module.visit(&mut visitor);
    visitor.1
}

/// The module with the values of `source`; an error, and no module, where the scope is not covered in full.
pub fn from_tensors<B: Backend, M: Module<B>>(module: M, source: Vec<NamedTensor>, scope: &Scope) -> Result<(M, Report), Error> {
    let (module, report) = assign(module, source, scope)?;
    if report.is_full() { Ok((module, report)) } else { Err(Error::Coverage(Box::new(report))) }
}

/// The module with those values of `source` that fit, and what did not.
fn assign<B: Backend, M: Module<B>>(module: M, source: Vec<NamedTensor>, scope: &Scope) -> Result<(M, Report), Error> {
    let mut source: BTreeMap<String, NamedTensor> = source.into_iter().map(|t| (t.name.clone(), t)).collect();
    let mut report = Report { partial: *scope != Scope::Whole, ..Report::default() };
    let mut wanted = HashMap::new();
    for (name, shape) in shapes(&module) {
        if !scope.covers(&name) {
            source.remove(&name);
            report.left.push((name, shape));
            continue;
        }
        match source.remove(&name) {
            None => report.missing.push((name, shape)),
            Some(found) if found.shape != shape => report.mismatched.push((name, found.shape, shape)),
            Some(found) if found.values.iter().any(|v| !v.is_finite()) => return Err(Error::NotFinite(name)),
            Some(found) => {
                wanted.insert(name.clone(), found.values);
                report.matched.push((name, shape));
            }
        }
    }
    // PyTorch counts batches in every batch norm; with a fixed momentum the count has no effect.
    report.unexpected = source.into_values().filter(|t| !t.name.ends_with(".num_batches_tracked")).map(|t| (t.name, t.shape)).collect();
    Ok((module.map(&mut Assign { path: ModulePath::default(), values: wanted }), report))
}

struct Assign {
    path: ModulePath,
    values: HashMap<String, Vec<f32>>,
}

impl<B: Backend> ModuleMapper<B> for Assign {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        match self.values.remove(&self.path.name()) {
            None => param,
            Some(values) => param.map(|old| {
                let data = TensorData::new(values, old.shape()).convert_dtype(old.dtype());
                Tensor::from_data(data, &old.device()).set_require_grad(old.is_require_grad())
            }),
        }
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }
}

/// `to` with the weights of `from` under the names that `rename` gives them (`None`: not copied). Every tensor of `to` within `scope` must get one.
pub fn copy<B: Backend, M: Module<B>>(
    from: &impl Module<B>,
    to: M,
    scope: &Scope,
    rename: impl Fn(&str) -> Option<String>,
) -> Result<(M, Report), Error> {
    let renamed = tensors(from).into_iter().filter_map(|t| Some(NamedTensor { name: rename(&t.name)?, ..t }));
    from_tensors(to, renamed.collect(), scope)
}

/// The one metadata entry. It holds the whole map as JSON, because safetensors keeps entries in an unordered map and equal weights must
/// give equal bytes.
const METADATA: &str = "panscreen";

/// The weights as a safetensors file (f32, names in alphabetical order); equal weights and metadata give equal bytes.
pub fn to_bytes<B: Backend>(module: &impl Module<B>, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
    write(&tensors(module), metadata)
}

fn write(tensors: &[NamedTensor], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|(t, b)| Ok((t.name.as_str(), TensorView::new(Dtype::F32, t.shape.clone(), b)?)));
    let views = views.collect::<Result<Vec<_>, _>>().map_err(Error::Write)?;
    let json = serde_json::json!(metadata).to_string();
    safetensors::serialize(views, Some(HashMap::from([(METADATA.to_owned(), json)]))).map_err(Error::Write)
}

/// The module with the weights of a safetensors file. `module` says what is expected; its own values are replaced within `scope`.
pub fn from_bytes<B: Backend, M: Module<B>>(module: M, bytes: &[u8], scope: &Scope) -> Result<(M, Report), Error> {
    from_tensors(module, read(bytes)?, scope)
}

/// The metadata that was given to [`to_bytes`]; empty for files of other programs.
pub fn metadata(bytes: &[u8]) -> Result<BTreeMap<String, String>, Error> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
    let json = header.metadata().as_ref().and_then(|m| m.get(METADATA));
    json.map_or(Ok(BTreeMap::new()), |json| {
        serde_json::from_str(json).map_err(|e| Error::Format {
            found: format!("metadata that is no table of text ({e})"),
            expected: "metadata as panscreen writes it",
            action: "use the file as it was written",
        })
    })
}

/// The tensors of a safetensors file.
fn read(bytes: &[u8]) -> Result<Vec<NamedTensor>, Error> {
    let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
    let float = |name: &str, view: &TensorView| match view.dtype() {
        Dtype::F32 => Ok(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        // A PyTorch counter, ignored later: its value is not needed.
        _ if name.ends_with(".num_batches_tracked") => Ok(vec![]),
        other => Err(Error::Format { found: format!("{name} of type {other:?}"), expected: "F32", action: "convert the file to float32" }),
    };
    file.iter()
        .map(|(name, view)| Ok(NamedTensor { values: float(name, &view)?, shape: view.shape().to_vec(), name: name.to_owned() }))
        .collect()
}

fn unreadable(e: safetensors::SafeTensorError) -> Error {
    Error::Format { found: e.to_string(), expected: "a whole safetensors file", action: "copy the file again or take another checkpoint" }
}

/// Write the weights to a file: a reader sees the old file or the new one, never a part.
pub fn save<B: Backend>(path: &Path, module: &impl Module<B>, metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    let bytes = to_bytes(module, metadata).map_err(|e| at(path, e))?;
    Ok(panscreen_envs::io::write_atomic(path, &bytes)?)
}

/// The module with the weights of a file.
pub fn load<B: Backend, M: Module<B>>(path: &Path, module: M, scope: &Scope) -> Result<(M, Report), Error> {
    from_bytes(module, &bytes(path)?, scope).map_err(|e| at(path, e))
}

fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    Ok(std::fs::read(path).map_err(|e| panscreen_envs::Error::io(path, e))?)
}

fn at(path: &Path, source: Error) -> Error {
    Error::At { path: path.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::golden::B;
    use crate::nets::{Init, NormKind, ResNet, ResNetConfig};

    fn small() -> ResNetConfig {
        ResNetConfig { blocks: vec![1, 1], widths: vec![4, 8], norm: NormKind::Batch, ..ResNetConfig::default() }
    }

    fn net(config: &ResNetConfig, seed: u64) -> ResNet<B> {
        config.init(1, 2, &Init::new(seed, "glance", &Default::default())).unwrap()
    }

    fn about(epoch: &str) -> BTreeMap<String, String> {
        [("epoch", epoch), ("net", "resnet3d"), ("seed", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    fn coverage<M>(result: Result<M, Error>) -> Report {
        match result {
            Err(Error::Coverage(report)) => *report,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("loaded"),
        }
    }

    #[test]
    fn a_round_trip_keeps_every_bit() {
        let odd = [f32::MIN_POSITIVE / 2.0, -0.0, 1.0 + f32::EPSILON, f32::MAX, 1e-45];
        let set = |mut t: NamedTensor| {
            t.values.iter_mut().zip(odd).for_each(|(v, o)| *v = o);
            t
        };
        let (model, _) = from_tensors(net(&small(), 1), tensors(&net(&small(), 1)).into_iter().map(set).collect(), &Scope::Whole).unwrap();
        let bytes = to_bytes(&model, &about("3")).unwrap();
        let (loaded, report) = from_bytes(net(&small(), 2), &bytes, &Scope::Whole).unwrap();
        let bits = |m: &ResNet<B>| tensors(m).into_iter().flat_map(|t| t.values).map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(&loaded), bits(&model));
        assert_eq!(bytes, to_bytes(&loaded, &about("3")).unwrap());
        assert_eq!(metadata(&bytes).unwrap(), about("3"));
        assert_eq!(report.matched_parameters(), bits(&model).len());
        assert!(shapes(&model).iter().any(|(name, _)| name == "layer1.0.bn2.running_var"), "running statistics are saved");
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let bytes = |seed| to_bytes(&net(&small(), seed), &about("0")).unwrap();
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }

    #[test]
    fn loaded_parameters_can_be_trained_and_statistics_can_not() {
        struct Trainable(ModulePath, Vec<String>);
        impl ModuleVisitor<B> for Trainable {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                if param.val().is_require_grad() {
                    self.1.push(self.0.name());
                }
            }
            fn enter_module(&mut self, name: &str, container: &str) {
                self.0.enter(name, container);
            }
            fn exit_module(&mut self, _name: &str, container: &str) {
                self.0.exit(container);
            }
        }
        let (model, _) = from_tensors(net(&small(), 1), tensors(&net(&small(), 2)), &Scope::Whole).unwrap();
        let mut visitor = Trainable(ModulePath::default(), vec![]);
        model.visit(&mut visitor);
        let expected: Vec<String> = shapes(&model).into_iter().map(|(name, _)| name).filter(|n| !is_buffer(n)).collect();
        assert_eq!(visitor.1, expected);
    }

    #[test]
    fn what_does_not_fit_is_listed() {
        let wider = ResNetConfig { blocks: vec![1, 2], widths: vec![4, 12], ..small() };
        let deeper = ResNetConfig { blocks: vec![2, 1], ..small() };
        let bytes = |config: &ResNetConfig| to_bytes(&net(config, 1), &about("0")).unwrap();

        let report = coverage(from_bytes(net(&wider, 1), &bytes(&small()), &Scope::Whole));
        assert!(report.missing.iter().any(|(name, shape)| name == "layer2.1.conv1.weight" && *shape == [12, 12, 3, 3, 3]));
        assert!(report.mismatched.contains(&("fc.weight".to_owned(), vec![2, 8], vec![2, 12])));
        assert!(report.unexpected.is_empty());
        let text = report.to_string();
        assert!(
            text.starts_with(&format!("matched {} of ", report.matched.len())) && text.contains("layer2.0.bn1.bias [8], expected [12]"),
            "{text}"
        );

        let report = coverage(from_bytes(net(&small(), 1), &bytes(&deeper), &Scope::Whole));
        assert!(report.missing.is_empty() && report.unexpected.iter().all(|(name, _)| name.starts_with("layer1.1.")), "{report}");
        assert_eq!(report.unexpected.len(), 10);
        assert!(report.to_string().contains("and 2 more"), "{report}");
    }

    #[test]
    fn a_scope_loads_its_part_and_leaves_the_rest() {
        let scope = |prefix: &str| Scope::Prefixes(vec![prefix.to_owned()]);
        let bytes = to_bytes(&net(&small(), 1), &about("0")).unwrap();
        let (loaded, report) = from_bytes(net(&small(), 2), &bytes, &scope("layer1.")).unwrap();
        let (from, to) = (tensors(&net(&small(), 1)), tensors(&net(&small(), 2)));
        for ((now, from), to) in tensors(&loaded).iter().zip(&from).zip(&to) {
            assert_eq!(now, if now.name.starts_with("layer1.") { from } else { to });
        }
        assert_eq!(report.left.len() + report.matched.len(), from.len());
        assert!(coverage(from_bytes(net(&small(), 2), &bytes, &scope("encoder."))).matched.is_empty(), "nothing matched is an error");
    }

    #[test]
    fn values_that_are_not_finite_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = tensors(&net(&small(), 1));
            values[3].values[0] = bad;
            let error = from_tensors(net(&small(), 1), values, &Scope::Whole).unwrap_err().to_string();
            assert!(error.contains("bn1.running_mean") && error.contains("not finite"), "{error}");
        }
    }

    #[test]
    fn a_copy_goes_by_the_path_map() {
        let swap = |name: &str| match name.strip_prefix("layer1.0.conv1") {
            Some(rest) => Some(format!("layer1.0.conv2{rest}")),
            None => name.starts_with("layer1.0.conv2").then(|| name.replace("conv2", "conv1")),
        };
        let convs = Scope::Prefixes(vec!["layer1.0.conv".to_owned()]);
        let (copied, report) = copy(&net(&small(), 1), net(&small(), 2), &convs, swap).unwrap();
        let value = |m: &ResNet<B>, name: &str| tensors(m).into_iter().find(|t| t.name == name).unwrap().values;
        assert_eq!(value(&copied, "layer1.0.conv1.weight"), value(&net(&small(), 1), "layer1.0.conv2.weight"));
        assert_eq!(report.matched.len(), 2);
    }

    #[test]
    fn files_are_written_and_damage_is_an_error() {
        let dir = std::env::temp_dir().join(format!("panscreen-weights-{}", std::process::id()));
        let path = dir.join("glance.safetensors");
        save(&path, &net(&small(), 1), &about("0")).unwrap();
        assert!(load(&path, net(&small(), 2), &Scope::Whole).is_ok());
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..4], b"", b"not weights at all", &[0xFF; 64]] {
            std::fs::write(&path, damaged).unwrap();
            let error = load(&path, net(&small(), 2), &Scope::Whole).unwrap_err().to_string();
            assert!(error.contains("glance.safetensors") && error.contains("expected"), "{error}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(matches!(load(&path, net(&small(), 2), &Scope::Whole), Err(Error::File(_))));
    }
}
