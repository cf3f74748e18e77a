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
/// Longest key of a dictionary or tensor, in bytes, and most axes of a tensor. A pickle says long ones once and refers to them a million times.
const KEY_BYTES: usize = 1024;
const RANK: usize = 8;
/// Dictionaries that a message lists.
const LISTED: usize = 10;

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
    collect(&pickle, pickle.root(), &mut vec![], &mut HashSet::new(), &mut dicts)?;
    let dict = choose(&pickle, dicts, key)?;
    let mut storages = HashMap::new();
    let (mut tensors, mut numbers) = (vec![], 0usize);
    for (name, arguments) in tensors_of(&pickle, dict.id) {
        let view = View::of(&pickle, arguments)?;
        // nnU-Net lists every weight four times; a small file that fills the memory lists one, or its name, a million times.
        numbers = view.shape.iter().fold(1usize, |n, side| n.saturating_mul(*side)).saturating_add(name.len()).saturating_add(numbers);
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
    Ok(Found { key: dict.key(&pickle), tensors })
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
        let (mut entries, mut total) = (HashMap::new(), 0u64);
        let mut listed = zip.entries();
        while let Some(entry) = listed.next_entry().map_err(damaged)? {
            // Several entries may be one place of the file; no program writes that, and all of them would be read.
            total = total.saturating_add(entry.compressed_size_hint());
            if total > bytes.len() as u64 {
                return Err(problem(format!("a zip archive whose entries have more than its {} bytes", bytes.len())));
            }
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

/// A dictionary with tensors in it. It is named by the keys on the way to it, which are no text before they are asked for: many dictionaries
/// may lie below one long key.
struct Dict {
    path: Vec<Id>,
    id: Id,
    /// How many.
    tensors: usize,
}

impl Dict {
    fn key(&self, pickle: &Pickle) -> String {
        self.path.iter().filter_map(|id| pickle.text(*id)).collect::<Vec<_>>().join(".")
    }
}

/// The items of a dictionary that have a text for a key.
fn items(pickle: &Pickle, id: Id) -> impl Iterator<Item = (Id, &str, Id)> {
    let items = if let Value::Dict(items) = pickle.get(id) { &items[..] } else { &[] };
    items.iter().filter_map(|&(key, value)| Some((key, pickle.text(key)?, value)))
}

/// Name and description of the tensors in a dictionary.
fn tensors_of(pickle: &Pickle, id: Id) -> impl Iterator<Item = (&str, &[Id])> {
    items(pickle, id).filter_map(|(_, name, value)| Some((name, description(pickle, value)?)))
}

/// All dictionaries below a value that hold tensors, each once however many others hold it. `path` leads to the value.
fn collect(pickle: &Pickle, id: Id, path: &mut Vec<Id>, seen: &mut HashSet<Id>, found: &mut Vec<Dict>) -> Result<(), Error> {
    if !matches!(pickle.get(id), Value::Dict(_)) || !seen.insert(id) {
        return Ok(());
    }
    if path.len() > DEPTH {
        return Err(problem(format!("dictionaries nested deeper than {DEPTH}")));
    }
    let mut tensors = 0;
    for (key, name, value) in items(pickle, id) {
        let is_tensor = description(pickle, value).is_some();
        if (is_tensor || matches!(pickle.get(value), Value::Dict(_))) && name.len() > KEY_BYTES {
            return Err(problem(format!("a key of {} bytes, more than {KEY_BYTES}", name.len())));
        }
        if is_tensor {
            tensors += 1;
        } else {
            path.push(key);
            collect(pickle, value, path, seen, found)?;
            path.pop();
        }
    }
    if tensors > 0 {
        found.push(Dict { path: path.clone(), id, tensors });
    }
    Ok(())
}

/// The dictionary asked for, or the one with a telling name, or the largest.
fn choose(pickle: &Pickle, mut dicts: Vec<Dict>, key: Option<&str>) -> Result<Dict, Error> {
    let rank = |dict: &Dict| {
        let name = dict.path.last().and_then(|id| pickle.text(*id)).unwrap_or_default();
        let telling = NAMES.iter().position(|n| name.rsplit('.').next() == Some(*n)).unwrap_or(NAMES.len());
        (std::cmp::Reverse(telling), dict.tensors)
    };
    let chosen = match key {
        Some(key) => dicts.iter().position(|dict| dict.key(pickle) == key),
        None => (0..dicts.len()).max_by_key(|&i| rank(&dicts[i])),
    };
    match (chosen, key) {
        (Some(chosen), _) => Ok(dicts.swap_remove(chosen)),
        (None, Some(key)) => Err(Error::Format {
            found: format!("no tensors at {key:?}, but at {}", list(pickle, &dicts)),
            expected: "the key of a dictionary of tensors",
            action: "name one of these",
        }),
        (None, None) => Err(problem("no dictionary with tensors (a whole model rather than its state_dict?)")),
    }
}

/// The dictionaries in words.
fn list(pickle: &Pickle, dicts: &[Dict]) -> String {
    if dicts.is_empty() {
        return "no place at all".to_owned();
    }
    let of = |dict: &Dict| format!("{:?} ({} tensors)", dict.key(pickle), dict.tensors);
    let more = dicts.len().saturating_sub(LISTED);
    let more = (more > 0).then(|| format!("{more} more"));
    dicts.iter().take(LISTED).map(of).chain(more).collect::<Vec<_>>().join(", ")
}

/// What a value says of the tensor that it describes by itself or as a parameter, if it does.
fn description(pickle: &Pickle, id: Id) -> Option<&[Id]> {
    let of_tensor = |id: Id| {
        let Value::Call { function, arguments } = pickle.get(id) else { return None };
        let arguments = pickle.list(*arguments);
        match pickle.global(*function)? {
            "torch._tensor._rebuild_from_type_v2" => Some(pickle.list(*arguments.get(2)?)),
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => Some(arguments),
            _ => None,
        }
        .filter(|arguments| arguments.len() >= 4)
    };
    of_tensor(id).or_else(|| {
        let Value::Call { function, arguments } = pickle.get(id) else { return None };
        let is_parameter = pickle.global(*function)?.starts_with("torch._utils._rebuild_parameter");
        of_tensor(*pickle.list(*arguments).first().filter(|_| is_parameter)?)
    })
}

/// A tensor: part of a storage.
struct View<'a> {
    /// `torch.FloatStorage`, ...
    kind: &'a str,
    storage: &'a str,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'a> View<'a> {
    /// The tensor of a [`description`].
    fn of(pickle: &'a Pickle, arguments: &[Id]) -> Result<Self, Error> {
        let counts = |id: Id| {
            let list = pickle.list(id);
            let few = (list.len() <= RANK).then_some(list)?;
            few.iter().map(|id| pickle.count(*id)).collect::<Option<Vec<_>>>()
        };
        let view = || {
            let &[storage, offset, shape, strides, ..] = arguments else { return None };
            let Value::Persistent(description) = pickle.get(storage) else { return None };
            let &[_, kind, key, ..] = pickle.list(*description) else { return None };
            let (shape, strides) = (counts(shape)?, counts(strides)?);
            let view = View { kind: pickle.global(kind)?, storage: pickle.text(key)?, offset: pickle.count(offset)?, shape, strides };
            (view.shape.len() == view.strides.len()).then_some(view)
        };
        view().ok_or_else(|| problem(format!("a tensor with a malformed description, or of more than {RANK} axes")))
    }

    /// The values in C order; `None` for integers and truth values, which are no weights.
    fn read(self, name: &str, archive: &Archive, storages: &mut HashMap<&'a str, Vec<f32>>) -> Result<Option<NamedTensor>, Error> {
        let Some(kind) = floats::Kind::of_storage(self.kind) else { return Ok(None) };
        if !storages.contains_key(self.storage) {
            let bytes = archive.entry(&format!("data/{}", self.storage))?;
            storages.insert(self.storage, kind.decode(&bytes));
        }
        let storage = &storages[self.storage];
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
        Ok(Some(NamedTensor { name: name.to_owned(), shape: self.shape, values }))
    }
}

#[cfg(test)]
pub(super) mod tests;
