//! PyTorch checkpoints (`torch.save` since 1.6): a zip archive of a pickle and one entry for each storage.
//!
//! The weights are one dictionary of tensors, often within others beside optimiser state and settings, which are passed over.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use rawzip::{CompressionMethod, ZipArchive, ZipArchiveEntryWayfinder, ZipSliceArchive};

use super::pickle::{Id, Pickle, Value};
use super::{Error, NamedTensor, floats};

/// Dictionaries in a checkpoint are not nested deeper than this.
const DEPTH: usize = 32;

/// What authors call the dictionary with the weights, the most telling first.
const NAMES: [&str; 8] = ["state_dict", "network_weights", "model_state_dict", "model", "net", "network", "student", "weights"];

/// Whether the bytes begin as a zip archive does.
pub fn is_torch(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// The weights of a checkpoint and where they were.
#[derive(Debug)]
pub struct Found {
    /// Keys from the whole file down to the dictionary with the weights; empty where the file is that dictionary.
    pub key: String,
    pub tensors: Vec<NamedTensor>,
}

/// The floating-point tensors of the dictionary at `key`, or without one of that which holds the weights.
pub fn read(bytes: &[u8], key: Option<&str>) -> Result<Found, Error> {
    let archive = Archive::open(bytes)?;
    let pickle = archive.entry("data.pkl")?;
    let pickle = Pickle::read(&pickle).map_err(|found| problem(format!("{found} in its pickle")))?;
    if archive.has("byteorder") && archive.entry("byteorder")? != b"little" {
        return Err(problem("big-endian numbers"));
    }
    let mut dicts = vec![];
    collect(&pickle, pickle.root(), String::new(), 0, &mut HashSet::new(), &mut dicts)?;
    let dict = choose(dicts, key)?;
    let mut storages = HashMap::new();
    let (mut tensors, mut numbers) = (vec![], 0);
    for (name, view) in dict.tensors {
        // nnU-Net lists every weight four times; a small file that fills the memory lists one a million times.
        numbers = view.shape.iter().fold(1usize, |n, side| n.saturating_mul(*side)).saturating_add(numbers);
        if numbers > bytes.len().saturating_mul(4) {
            return Err(problem(format!(
                "tensors of more than {} numbers in a file of {} bytes",
                bytes.len().saturating_mul(4),
                bytes.len()
            )));
        }
        if let Some(tensor) = view.read(name, &archive, &mut storages)? {
            tensors.push(tensor);
        }
    }
    Ok(Found { key: dict.key, tensors })
}

fn problem(found: impl Into<String>) -> Error {
    Error::Format {
        found: found.into(),
        expected: "a PyTorch checkpoint as torch.save writes it since version 1.6",
        action: "copy the file again, or load it in PyTorch and save its state_dict anew",
    }
}

/// The zip archive. Every entry lies below one folder, as it is.
struct Archive<'a> {
    zip: ZipSliceArchive<&'a [u8]>,
    entries: HashMap<String, ZipArchiveEntryWayfinder>,
    folder: String,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, Error> {
        let damaged = |e| problem(format!("a damaged zip archive ({e})"));
        let zip = ZipArchive::from_slice(bytes).map_err(damaged)?;
        let mut entries = HashMap::new();
        let mut listed = zip.entries();
        while let Some(entry) = listed.next_entry().map_err(damaged)? {
            if entry.compression_method() == CompressionMethod::Store {
                entries.insert(String::from_utf8_lossy(entry.file_path().as_ref()).into_owned(), entry.wayfinder());
            }
        }
        let folder = entries.keys().filter_map(|name| name.strip_suffix("data.pkl")).min().map(str::to_owned);
        let folder = folder.ok_or_else(|| problem("a zip archive without an uncompressed data.pkl"))?;
        Ok(Self { zip, entries, folder })
    }

    fn has(&self, name: &str) -> bool {
        self.entries.contains_key(&format!("{}{name}", self.folder))
    }

    fn entry(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = format!("{}{name}", self.folder);
        let place = *self.entries.get(&path).ok_or_else(|| problem(format!("no uncompressed entry {path}")))?;
        let entry = self.zip.get_entry(place).map_err(|e| problem(format!("no readable entry {path} ({e})")))?;
        let mut bytes = Vec::with_capacity(entry.data().len());
        let read = entry.verifying_reader(entry.data()).read_to_end(&mut bytes);
        read.map_err(|e| problem(format!("a damaged entry {path} ({e})")))?;
        Ok(bytes)
    }
}

/// A dictionary with tensors in it.
struct Dict {
    key: String,
    tensors: Vec<(String, View)>,
}

/// All dictionaries below a value that hold tensors, each once however many others hold it.
fn collect(pickle: &Pickle, id: Id, key: String, depth: usize, seen: &mut HashSet<Id>, found: &mut Vec<Dict>) -> Result<(), Error> {
    let Value::Dict(items) = pickle.get(id) else { return Ok(()) };
    if !seen.insert(id) {
        return Ok(());
    }
    if depth > DEPTH {
        return Err(problem(format!("dictionaries nested deeper than {DEPTH}")));
    }
    let mut tensors = vec![];
    for &(name, value) in items {
        let Some(name) = pickle.text(name) else { continue };
        match View::of(pickle, value) {
            Some(view) => tensors.push((name.to_owned(), view?)),
            None => {
                let key = if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
                collect(pickle, value, key, depth + 1, seen, found)?;
            }
        }
    }
    if !tensors.is_empty() {
        found.push(Dict { key, tensors });
    }
    Ok(())
}

/// The dictionary asked for, or the one with a telling name, or the largest.
fn choose(dicts: Vec<Dict>, key: Option<&str>) -> Result<Dict, Error> {
    let list = dicts.iter().map(|d| format!("{:?} ({} tensors)", d.key, d.tensors.len())).collect::<Vec<_>>().join(", ");
    let rank = |dict: &Dict| {
        let name = dict.key.rsplit('.').next().unwrap_or_default();
        let telling = NAMES.iter().position(|n| *n == name).unwrap_or(NAMES.len());
        (std::cmp::Reverse(telling), dict.tensors.len())
    };
    let chosen = match key {
        Some(key) => dicts.into_iter().find(|dict| dict.key == key),
        None => dicts.into_iter().max_by_key(rank),
    };
    chosen.ok_or_else(|| match key {
        Some(key) => Error::Format {
            found: format!("no tensors at {key:?}, but at {}", if list.is_empty() { "no place at all" } else { &list }),
            expected: "the key of a dictionary of tensors",
            action: "name one of these",
        },
        None => problem("no dictionary with tensors (a whole model rather than its state_dict?)"),
    })
}

/// A tensor: part of a storage.
struct View {
    /// `torch.FloatStorage`, ...
    kind: String,
    storage: String,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl View {
    /// The tensor that a value describes, if it describes one: by itself or as a parameter.
    fn of(pickle: &Pickle, id: Id) -> Option<Result<View, Error>> {
        View::tensor(pickle, id).or_else(|| {
            let Value::Call { function, arguments } = pickle.get(id) else { return None };
            let is_parameter = pickle.global(*function)?.starts_with("torch._utils._rebuild_parameter");
            View::tensor(pickle, *pickle.list(*arguments).first().filter(|_| is_parameter)?)
        })
    }

    fn tensor(pickle: &Pickle, id: Id) -> Option<Result<View, Error>> {
        let Value::Call { function, arguments } = pickle.get(id) else { return None };
        let arguments = pickle.list(*arguments);
        match pickle.global(*function)? {
            "torch._tensor._rebuild_from_type_v2" => View::rebuilt(pickle, pickle.list(*arguments.get(2)?)),
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => View::rebuilt(pickle, arguments),
            _ => None,
        }
    }

    fn rebuilt(pickle: &Pickle, arguments: &[Id]) -> Option<Result<View, Error>> {
        let &[storage, offset, shape, strides, ..] = arguments else { return None };
        let counts = |id: Id| pickle.list(id).iter().map(|id| pickle.count(*id)).collect::<Option<Vec<_>>>();
        let view = || {
            let Value::Persistent(description) = pickle.get(storage) else { return None };
            let &[_, kind, key, ..] = pickle.list(*description) else { return None };
            let (kind, storage) = (pickle.global(kind)?.to_owned(), pickle.text(key)?.to_owned());
            let (shape, strides) = (counts(shape)?, counts(strides)?);
            (shape.len() == strides.len()).then_some(View { kind, storage, offset: pickle.count(offset)?, shape, strides })
        };
        Some(view().ok_or_else(|| problem("a tensor with a malformed description")))
    }

    /// The values in C order; `None` for integers and truth values, which are no weights.
    fn read(self, name: String, archive: &Archive, storages: &mut HashMap<String, Vec<f32>>) -> Result<Option<NamedTensor>, Error> {
        let Some(kind) = floats::Kind::of_storage(&self.kind) else { return Ok(None) };
        if !storages.contains_key(&self.storage) {
            let bytes = archive.entry(&format!("data/{}", self.storage))?;
            storages.insert(self.storage.clone(), kind.decode(&bytes));
        }
        let storage = &storages[&self.storage];
        let beyond = || problem(format!("{name} of shape {:?}, which goes beyond its {} stored numbers", self.shape, storage.len()));
        let count =
            self.shape.iter().try_fold(1usize, |n, side| n.checked_mul(*side)).filter(|n| *n <= storage.len()).ok_or_else(beyond)?;
        let last = self
            .shape
            .iter()
            .zip(&self.strides)
            .try_fold(self.offset, |last, (side, stride)| last.checked_add(side.saturating_sub(1).checked_mul(*stride)?));
        if count > 0 && last.is_none_or(|last| last >= storage.len()) {
            return Err(beyond());
        }
        let at = |index: usize| {
            let step = |(rest, at): (usize, usize), (side, stride): (&usize, &usize)| (rest / side, at + rest % side * stride);
            self.shape.iter().zip(&self.strides).rev().fold((index, self.offset), step).1
        };
        let values = (0..count).map(|index| storage[at(index)]).collect();
        Ok(Some(NamedTensor { name, shape: self.shape, values }))
    }
}

#[cfg(test)]
pub(super) mod tests;
