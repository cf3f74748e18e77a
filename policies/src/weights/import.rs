//! Weights from other programs, and for them.
//!
//! In: safetensors, or a PyTorch checkpoint, whose weights may lie below other keys and have wrappers' prefixes. Out: safetensors with the
//! names that MONAI, nnU-Net and Models Genesis have.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::backend::Backend;
use safetensors::SafeTensors;

use super::layout::Layout;
use super::{Error, NamedTensor, Report, Scope, assign, at, bytes, floats, metadata, tensors, torch, unreadable, write};
use crate::nets::{PatchMerging, SegmenterConfig};

/// The floating-point tensors of a file and what it says about itself.
#[derive(Debug, Default)]
pub struct Source {
    /// PyTorch: the keys from the whole file down to the weights.
    pub key: String,
    pub tensors: Vec<NamedTensor>,
    /// Of files that this program wrote; otherwise empty.
    pub metadata: BTreeMap<String, String>,
}

impl Source {
    /// Read a file; `key` names the dictionary of a PyTorch checkpoint, by default the one that holds weights.
    pub fn open(path: &Path, key: Option<&str>) -> Result<Self, Error> {
        Self::read(&bytes(path)?, key).map_err(|e| at(path, e))
    }

    /// Read the bytes of a file.
    pub fn read(bytes: &[u8], key: Option<&str>) -> Result<Self, Error> {
        if torch::is_torch(bytes) {
            let torch::Found { key, tensors } = torch::read(bytes, key)?;
            return Ok(Source { key, tensors, metadata: BTreeMap::new() });
        }
        if bytes.starts_with(b"\x80") {
            return Err(Error::Format {
                found: "a bare pickle, as PyTorch wrote before version 1.6".to_owned(),
                expected: "a safetensors file or a PyTorch checkpoint of version 1.6 or later",
                action: "load it in PyTorch and save it again",
            });
        }
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let tensor = |(name, view): (&str, safetensors::tensor::TensorView)| {
            let values = floats::Kind::of_dtype(view.dtype())?.decode(view.data());
            Some(NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), values })
        };
        Ok(Source { key: String::new(), tensors: file.iter().filter_map(tensor).collect(), metadata: metadata(bytes)? })
    }

    /// Numbers in all tensors.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(|t| t.values.len()).sum()
    }

    /// The tensors under our names, each once. Values are compared bit by bit: a NaN listed twice is one NaN, and refused as such.
    fn named(self, layout: Layout) -> Result<Vec<NamedTensor>, Error> {
        let mut named: BTreeMap<String, NamedTensor> = BTreeMap::new();
        for tensor in self.tensors {
            let Some(name) = layout.own(&tensor.name) else { continue };
            let tensor = NamedTensor { name: name.clone(), ..tensor };
            if named.get(&name).is_some_and(|before| !same_bits(before, &tensor)) {
                return Err(Error::Twice(name));
            }
            named.insert(name, tensor);
        }
        Ok(named.into_values().collect())
    }
}

fn same_bits(a: &NamedTensor, b: &NamedTensor) -> bool {
    a.shape == b.shape && a.values.iter().map(|v| v.to_bits()).eq(b.values.iter().map(|v| v.to_bits()))
}

/// The module with the weights of `source`, where they cover at least `at_least` (0 to 1) of the parameters within `scope`; otherwise an error
/// with the report, and no module. What is not covered keeps its values.
pub fn import<B: Backend, M: Module<B>>(
    module: M,
    source: Source,
    layout: Layout,
    scope: &Scope,
    at_least: f64,
) -> Result<(M, Report), Error> {
    let (module, report) = assign(module, source.named(layout)?, scope)?;
    let enough = report.coverage() >= at_least && !report.matched.is_empty();
    if enough { Ok((module, report)) } else { Err(Error::Coverage(Box::new(report))) }
}

/// The weights as a safetensors file with published names.
pub fn export<B: Backend>(module: &impl Module<B>, layout: Layout, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
    let published = |t: NamedTensor| NamedTensor { name: layout.published(&t.name), ..t };
    write(&tensors(module).into_iter().map(published).collect::<Vec<_>>(), metadata)
}

/// What a file should say about a network beyond its weights: what neither names nor shapes tell.
pub fn describe(config: &SegmenterConfig) -> BTreeMap<String, String> {
    let merging = merging(config).map(|merging| ("merging".to_owned(), merging.to_owned()));
    merging.into_iter().collect()
}

/// A warning where weights may have been trained with another patch merging than the config's: they load, and give other results.
pub fn merging_warning(config: &SegmenterConfig, metadata: &BTreeMap<String, String>) -> Option<String> {
    let configured = merging(config)?;
    match metadata.get("merging").map(String::as_str) {
        Some(trained) if trained == configured => None,
        Some(trained) => Some(format!(
            "these weights were trained with merging = {trained:?}, the config says {configured:?}: results will differ; set merging = {trained:?}"
        )),
        None if configured == "old" => None,
        None => Some(format!(
            "the file can't tell which patch merging its weights were trained with, the config says {configured:?}; weights from MONAI up to 1.4 \
             (GF-Screen, VoCo, SuPreM) need merging = \"old\", else they load and give other results"
        )),
    }
}

/// The name of a network's patch merging, if it has one.
fn merging(config: &SegmenterConfig) -> Option<&'static str> {
    match config {
        SegmenterConfig::SwinUnetr(config) => Some(match config.merging {
            PatchMerging::Old => "old",
            PatchMerging::Fixed => "fixed",
            PatchMerging::V2 => "v2",
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::torch::tests::{Item, checkpoint};
    use super::*;
    use crate::nets::any::tests::each_kind;
    use crate::nets::{AnySegmenter, Init, SwinUnetrConfig};
    use burn::backend::Flex;
    use burn::backend::flex::FlexDevice;

    fn net(config: &SegmenterConfig, seed: u64) -> AnySegmenter<Flex> {
        config.build(1, 2, &Init::new(seed, "focus", &FlexDevice)).unwrap()
    }

    fn bits(model: &AnySegmenter<Flex>) -> Vec<(String, Vec<u32>)> {
        tensors(model).into_iter().map(|t| (t.name, t.values.into_iter().map(f32::to_bits).collect())).collect()
    }

    /// A checkpoint as PyTorch would hold the network, `prefix` before every name.
    fn published(config: &SegmenterConfig, seed: u64, prefix: &str) -> Vec<NamedTensor> {
        let name = |t: NamedTensor| NamedTensor { name: format!("{prefix}{}", config.layout().published(&t.name)), ..t };
        tensors(&net(config, seed)).into_iter().map(name).collect()
    }

    #[test]
    fn every_network_goes_out_and_in_with_every_bit() {
        for config in each_kind() {
            let layout = config.layout();
            let bytes = export(&net(&config, 1), layout, &describe(&config)).unwrap();
            let source = Source::read(&bytes, None).unwrap();
            assert_eq!(merging_warning(&config, &source.metadata), None);
            let (back, report) = import(net(&config, 2), source, layout, &Scope::Whole, 1.0).unwrap();
            assert_eq!(bits(&back), bits(&net(&config, 1)));
            assert!(report.is_full(), "{report}");
            assert_eq!(export(&back, layout, &describe(&config)).unwrap(), bytes);
        }
    }

    #[test]
    fn pytorch_checkpoints_are_read_with_prefixes_and_below_keys() {
        for config in each_kind() {
            for (keys, prefix) in [(&[][..], ""), (&["state_dict"], "module."), (&["state", "network_weights"], "module.backbone.")] {
                let weights = Item::tensors(&published(&config, 1, prefix));
                let file = checkpoint(keys.iter().rev().fold(weights, |inner, key| {
                    let optimizer = Item::Dict(vec![("momentum".into(), Item::Tensor(vec![3], vec![9.0; 3]))]);
                    Item::Dict(vec![("optimizer".into(), optimizer), ((*key).into(), inner), ("epoch".into(), Item::Int(3))])
                }));
                let source = Source::read(&file, None).unwrap();
                assert_eq!(source.key, keys.join("."));
                let (model, report) = import(net(&config, 2), source, config.layout(), &Scope::Whole, 1.0).unwrap();
                assert_eq!(bits(&model), bits(&net(&config, 1)), "{report}");
            }
        }
    }

    #[test]
    fn coverage_is_counted_and_a_threshold_refuses() {
        let config = &each_kind()[1];
        // As self-supervised files are: the encoder, and a head that nobody knows.
        let mut tensors = published(config, 1, "module.");
        tensors.retain(|t| !t.name.starts_with("module.decoder") && !t.name.starts_with("module.out"));
        tensors.push(NamedTensor { name: "module.rotation_head.weight".into(), shape: vec![4], values: vec![0.0; 4] });
        let file = checkpoint(Item::Dict(vec![("state_dict".into(), Item::tensors(&tensors))]));
        let load = |scope: &Scope, at_least| import(net(config, 2), Source::read(&file, None).unwrap(), config.layout(), scope, at_least);

        let Err(Error::Coverage(report)) = load(&Scope::Whole, 0.99) else { panic!("loaded") };
        assert!(report.missing.iter().all(|(name, _)| name.starts_with("decoder") || name.starts_with("out")), "{report}");
        assert_eq!(report.unexpected, [("rotation_head.weight".to_owned(), vec![4])]);
        let share = report.matched_parameters() as f64 / super::super::parameter_count(&net(config, 2)) as f64;
        assert_eq!(report.coverage(), share);
        assert!(load(&Scope::Whole, share).is_ok());
        let (model, report) = load(&Scope::encoder(), 1.0).unwrap();
        assert!(report.missing.is_empty());
        for ((name, now), ((_, from), (_, to))) in
            bits(&model).into_iter().zip(bits(&net(config, 1)).into_iter().zip(bits(&net(config, 2))))
        {
            assert_eq!(now, if name.starts_with("encoder.") { from } else { to }, "{name}");
        }
        assert!(import(net(config, 2), Source::default(), config.layout(), &Scope::Whole, 0.0).is_err(), "nothing at all is no import");
    }

    #[test]
    fn a_second_name_must_agree() {
        let one = |name: &str, value| NamedTensor { name: name.into(), shape: vec![1], values: vec![value] };
        let source = |value| Source { tensors: vec![one("module.a", 1.0), one("a", value)], ..Source::default() };
        assert_eq!(source(1.0).named(Layout::Own).unwrap().len(), 1);
        assert!(source(2.0).named(Layout::Own).unwrap_err().to_string().contains("a twice"));
    }

    #[test]
    fn a_nan_listed_twice_is_a_nan_and_no_contradiction() {
        let config = &each_kind()[0];
        let mut tensors = published(config, 1, "");
        tensors[0].values[0] = f32::NAN;
        let again = tensors.iter().map(|t| NamedTensor { name: format!("module.{}", t.name), ..t.clone() }).collect::<Vec<_>>();
        tensors.extend(again);
        let source = Source { tensors, ..Source::default() };
        let error = import(net(config, 2), source, config.layout(), &Scope::Whole, 1.0).unwrap_err();
        assert!(matches!(error, Error::NotFinite(_)), "{error}");
    }

    #[test]
    fn another_patch_merging_is_warned_about() {
        let swin = |merging| SegmenterConfig::SwinUnetr(SwinUnetrConfig { merging, ..SwinUnetrConfig::default() });
        let (old, fixed) = (swin(PatchMerging::Old), swin(PatchMerging::Fixed));
        let nothing = BTreeMap::new();
        assert_eq!(merging_warning(&old, &nothing), None);
        assert!(merging_warning(&fixed, &nothing).unwrap().contains("merging = \"old\""));
        assert!(merging_warning(&old, &describe(&fixed)).unwrap().contains("set merging = \"fixed\""));
        assert_eq!(merging_warning(&each_kind()[0], &nothing), None);
    }

    #[test]
    fn other_files_are_refused_with_a_sentence() {
        for (bytes, part) in [
            (&b"\x80\x02."[..], "before version 1.6"),
            (b"PK\x03\x04 and nothing", "zip archive"),
            (b"nothing at all", "whole safetensors file"),
            (b"", "whole safetensors file"),
        ] {
            let error = Source::read(bytes, None).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
