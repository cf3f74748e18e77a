//! Prepared scans: made once, kept on disk under a hash of everything that they depend on, and in memory up to a budget.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::list::Case;
use crate::screening::{Scan, ScanSource};
use crate::volume::{PrepareConfig, WayBack, prepare};
use crate::{Error, Result, io};

/// Which label values are lesions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LesionClasses {
    /// Every value but 0.
    #[default]
    All,
    These(Vec<u8>),
}

impl LesionClasses {
    pub fn contains(&self, class: u8) -> bool {
        match self {
            LesionClasses::All => class > 0,
            LesionClasses::These(classes) => classes.contains(&class),
        }
    }
}

/// How many bytes of prepared scans stay in memory. One scan always does, however large.
#[derive(Clone, Copy, Debug)]
pub struct CacheBudget(pub usize);

/// A scan on the prepared grid and the way back from it.
#[derive(Clone, Debug)]
pub struct PreparedCase {
    pub scan: Arc<Scan>,
    pub spacing_mm: [f64; 3],
    pub way_back: WayBack,
}

/// What stands before the voxels in a cache file.
#[derive(Serialize, Deserialize)]
struct Head {
    channels: usize,
    shape: [usize; 3],
    spacing_mm: [f64; 3],
    way_back: WayBack,
}

/// The prepared scans of a list of cases.
pub struct Store {
    cases: Vec<Case>,
    prepare: PrepareConfig,
    lesion: LesionClasses,
    cache_dir: Option<PathBuf>,
    budget: usize,
    has_lesion: Vec<bool>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    held: HashMap<usize, (PreparedCase, u64)>,
    bytes: usize,
    clock: u64,
}

impl Store {
    /// Prepare every case once, on all threads; `progress` hears of each. All faulty cases come back together.
    pub fn open(
        cases: Vec<Case>,
        prepare: PrepareConfig,
        lesion: LesionClasses,
        cache_dir: Option<PathBuf>,
        budget: CacheBudget,
        progress: impl Fn(&Case) + Sync,
    ) -> std::result::Result<Store, Vec<(Case, Error)>> {
        let mut store =
            Store { has_lesion: vec![], cases, prepare, lesion, cache_dir, budget: budget.0, memory: Mutex::new(Memory::default()) };
        let results: Vec<Result<bool>> = (0..store.cases.len())
            .into_par_iter()
            .map(|i| {
                let prepared = store.load(i)?;
                progress(&store.cases[i]);
                Ok(prepared.scan.lesions() > 0)
            })
            .collect();
        let mut failed = Vec::new();
        for (case, result) in store.cases.iter().zip(results) {
            match result {
                Ok(has) => store.has_lesion.push(has),
                Err(e) => failed.push((case.clone(), e)),
            }
        }
        if failed.is_empty() { Ok(store) } else { Err(failed) }
    }

    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Case `index` from memory, from the disk cache, or prepared anew.
    pub fn load(&self, index: usize) -> Result<PreparedCase> {
        if let Some(held) = self.lookup(index) {
            return Ok(held);
        }
        let prepared = self.make_or_read(&self.cases[index])?;
        self.keep(index, &prepared);
        Ok(prepared)
    }

    fn lookup(&self, index: usize) -> Option<PreparedCase> {
        let mut memory = self.memory.lock().unwrap_or_else(|p| p.into_inner());
        memory.clock += 1;
        let now = memory.clock;
        memory.held.get_mut(&index).map(|(case, used)| {
            *used = now;
            case.clone()
        })
    }

    fn keep(&self, index: usize, prepared: &PreparedCase) {
        let mut memory = self.memory.lock().unwrap_or_else(|p| p.into_inner());
        memory.clock += 1;
        let now = memory.clock;
        if memory.held.insert(index, (prepared.clone(), now)).is_none() {
            memory.bytes += prepared.scan.bytes();
        }
        while memory.bytes > self.budget && memory.held.len() > 1 {
            let Some(oldest) = memory.held.iter().min_by_key(|(_, (_, used))| *used).map(|(i, _)| *i) else { break };
            if let Some((case, _)) = memory.held.remove(&oldest) {
                memory.bytes -= case.scan.bytes();
            }
        }
    }

    fn make_or_read(&self, case: &Case) -> Result<PreparedCase> {
        let Some(dir) = &self.cache_dir else { return self.prepare_files(case) };
        let path = dir.join(format!("{}.scan", self.key(case)?));
        if let Some(prepared) = read_cached(&path, &case.name) {
            return Ok(prepared);
        }
        let prepared = self.prepare_files(case)?;
        io::write_atomic(&path, &encode(&prepared)?)?;
        Ok(prepared)
    }

    /// Hash of all that a prepared scan depends on: both files' content, and every parameter.
    fn key(&self, case: &Case) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"panscreen prepared scan v2");
        for path in std::iter::once(&case.image).chain(&case.label) {
            io::hash(path, &mut hasher)?;
        }
        let parameters = serde_json::to_vec(&(&self.prepare, &self.lesion, case.lesion_free)).map_err(|e| Error::Setting(e.to_string()))?;
        hasher.update(&parameters);
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }

    fn prepare_files(&self, case: &Case) -> Result<PreparedCase> {
        let volume = io::open(&case.image)?;
        let labels = case.label.as_ref().filter(|_| !case.lesion_free).map(|l| Ok(io::read_labels(l, Some(&volume.geometry))?.item));
        let prepared = prepare(volume, labels.transpose()?.as_ref(), &self.prepare)?;
        let lesion: Vec<u8> = match &prepared.labels {
            Some(l) => l.iter().map(|&v| self.lesion.contains(v) as u8).collect(),
            None => vec![0; prepared.shape.iter().product()],
        };
        let scan = Scan::new(case.name.clone(), prepared.image, prepared.channels, prepared.shape, &lesion);
        Ok(PreparedCase { scan: Arc::new(scan), spacing_mm: prepared.spacing_mm, way_back: prepared.way_back })
    }
}

impl ScanSource for Store {
    fn len(&self) -> usize {
        self.cases.len()
    }

    fn scan(&self, index: usize) -> Result<Arc<Scan>> {
        Ok(self.load(index)?.scan)
    }

    fn has_lesion(&self, index: usize) -> Result<bool> {
        Ok(self.has_lesion[index])
    }
}

/// Head length, head (JSON), intensities (f32, little endian), lesion numbers, and a hash of all that.
fn encode(prepared: &PreparedCase) -> Result<Vec<u8>> {
    let scan = &prepared.scan;
    let head = Head { channels: scan.channels, shape: scan.shape, spacing_mm: prepared.spacing_mm, way_back: prepared.way_back.clone() };
    let head = serde_json::to_vec(&head).map_err(|e| Error::Setting(e.to_string()))?;
    let mut bytes = Vec::with_capacity(head.len() + scan.image.len() * 4 + scan.lesion.len() + 40);
    bytes.extend((head.len() as u64).to_le_bytes());
    bytes.extend(head);
    scan.image.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    bytes.extend(&scan.lesion);
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    Ok(bytes)
}

/// A cached scan, or `None` where there is none or it is damaged (then it is made anew).
fn read_cached(path: &Path, name: &str) -> Option<PreparedCase> {
    let bytes = std::fs::read(path).ok()?;
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let (length, rest) = body.split_at_checked(8)?;
    let (head, rest) = rest.split_at_checked(u64::from_le_bytes(length.try_into().ok()?) as usize)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    let voxels: usize = head.shape.iter().product();
    let (image, lesion) = rest.split_at_checked(head.channels * voxels * 4)?;
    if lesion.len() != voxels {
        return None;
    }
    let image = image.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let scan = Scan::new(name.to_owned(), image, head.channels, head.shape, lesion);
    Some(PreparedCase { scan: Arc::new(scan), spacing_mm: head.spacing_mm, way_back: head.way_back })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{Geometry, Volume};

    fn cohort(dir: &Path, n: usize) -> Vec<Case> {
        (0..n)
            .map(|i| {
                let geometry = Geometry::ras([6, 5, 4], [2.0, 2.0, 3.0], [0.0; 3]);
                let (image, label) = (dir.join(format!("{i}_0000.nii.gz")), dir.join(format!("{i}.nii.gz")));
                let data = (0..120).map(|v| (v * (i + 1)) as f32 - 100.0).collect();
                io::write_volume(&image, &Volume { data, geometry: geometry.clone() }).unwrap();
                let mut lesion = vec![0; 120];
                lesion[60] = (i % 3) as u8;
                io::write_labels(&label, &lesion, &geometry).unwrap();
                Case { name: i.to_string(), image, label: Some(label), patient: i.to_string(), lesion_free: false }
            })
            .collect()
    }

    fn open(cases: &[Case], cache: Option<&Path>, spacing: f64, budget: usize) -> Store {
        let prepare =
            PrepareConfig { spacing_mm: Some([spacing; 3]), windows_hu: vec![[-175.0, 250.0]], crop_foreground: true, pad_to: [4; 3] };
        Store::open(cases.to_vec(), prepare, LesionClasses::All, cache.map(Path::to_owned), CacheBudget(budget), |_| {})
            .unwrap_or_else(|e| panic!("{}", e[0].1))
    }

    #[test]
    fn the_cache_gives_the_same_bytes_and_notices_every_change() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let cases = cohort(dir.path(), 3);
        let files = || std::fs::read_dir(&cache).unwrap().count();
        let fresh = open(&cases, Some(&cache), 2.0, 1 << 30).load(1).unwrap();
        assert_eq!(files(), 3);
        let cached = open(&cases, Some(&cache), 2.0, 1 << 30).load(1).unwrap();
        assert_eq!((&fresh.scan.image, &fresh.scan.lesion), (&cached.scan.image, &cached.scan.lesion));
        assert_eq!(files(), 3, "nothing is prepared twice");
        open(&cases, Some(&cache), 2.5, 1 << 30);
        assert_eq!(files(), 6, "another spacing is another entry");
        std::fs::copy(&cases[2].image, &cases[1].image).unwrap();
        open(&cases, Some(&cache), 2.0, 1 << 30);
        assert_eq!(files(), 7, "another content under the same name is another entry");
    }

    #[test]
    fn a_damaged_cache_entry_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let cases = cohort(dir.path(), 1);
        let fresh = open(&cases, Some(&cache), 2.0, 1 << 30).load(0).unwrap();
        let entry = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&entry).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&entry, &bytes).unwrap();
        assert_eq!(open(&cases, Some(&cache), 2.0, 1 << 30).load(0).unwrap().scan.image, fresh.scan.image);
    }

    #[test]
    fn memory_stays_within_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        let cases = cohort(dir.path(), 3);
        let store = open(&cases, None, 2.0, 1);
        assert_eq!(store.memory.lock().unwrap().held.len(), 1);
        for i in 0..3 {
            assert_eq!(store.load(i).unwrap().scan.name, i.to_string());
        }
        assert_eq!([0, 1, 2].map(|i| store.has_lesion(i).unwrap()), [false, true, true]);
    }
}
