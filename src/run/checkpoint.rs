//! Checkpoints that are whole or absent.
//!
//! A save writes `checkpoints/step-000400.tmp/`, syncs every file and the folder, then renames it to `step-000400`. `state.json` comes last and
//! lists the length and BLAKE3 hash of every other file, so a checkpoint that a disk or a person has damaged later is told from a good one.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use panscreen_envs::io::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::folder::remove_leftovers;
use super::{Error, Observer, Result};

/// The checkpoints of one run.
pub struct CheckpointStore {
    dir: PathBuf,
    keep: usize,
}

/// A checkpoint on the disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub step: u64,
    /// The `state` given to [`CheckpointStore::save`]: everything but the files, bit for bit.
    pub state: Value,
    dir: PathBuf,
    files: Vec<Entry>,
}

/// `best.json`: the checkpoint with the best value of a named metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    pub metric: String,
    pub value: f64,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    step: u64,
    files: Vec<Entry>,
    state_blake3: String,
    state: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
    blake3: String,
}

impl CheckpointStore {
    /// The store in `dir` for the process that writes the run (it holds the run's lock): makes the folder and removes what killed saves left.
    /// The last `keep` checkpoints (at least one) and the best are kept; keep two or more to survive a damaged one.
    pub fn create(dir: &Path, keep: usize) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        remove_leftovers(dir)?;
        let store = CheckpointStore { dir: dir.to_owned(), keep: keep.max(1) };
        for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((step, suffix)) = name.split_once('.').and_then(|(n, s)| Some((step_of(n)?, s))) else { continue };
            // A save of a step that was there already sets the old one aside first; if it came no further, the old one counts.
            match suffix {
                "old" if !store.path(step).exists() => rename(&entry.path(), &store.path(step))?,
                "old" | "tmp" | "gone" => remove_dir_if_there(&entry.path())?,
                // Somebody's own copy.
                _ => {}
            }
        }
        Ok(store)
    }

    /// The store in `dir` for reading only; nothing on the disk changes.
    pub fn read_only(dir: &Path) -> Self {
        CheckpointStore { dir: dir.to_owned(), keep: usize::MAX }
    }

    /// Save `files` and `state` as the checkpoint of `step`, whole or not at all, then drop checkpoints beyond the bound.
    ///
    /// Sync the metrics log first ([`super::MetricsLog::sync`]), so that no checkpoint is newer than its log.
    pub fn save(&self, step: u64, files: &[(&str, Vec<u8>)], state: &Value) -> Result<()> {
        let aside = |suffix: &str| self.dir.join(format!("{}.{suffix}", name_of(step)));
        let (tmp, old, done) = (aside("tmp"), aside("old"), self.path(step));
        for left in [&tmp, &old] {
            remove_dir_if_there(left)?;
        }
        std::fs::create_dir_all(&tmp).map_err(|e| Error::io(&tmp, e))?;
        let mut entries = Vec::with_capacity(files.len());
        for (name, bytes) in files {
            write_synced(&tmp.join(name), bytes)?;
            entries.push(Entry { name: (*name).to_owned(), bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_string() });
        }
        let body = StateFile { step, files: entries, state_blake3: hash_of(state), state: state.clone() };
        let mut text = serde_json::to_vec_pretty(&body).expect("a JSON value is plain data");
        text.push(b'\n');
        write_synced(&tmp.join(STATE), &text)?;
        sync_dir(&tmp)?;
        if done.exists() {
            rename(&done, &old)?;
        }
        rename(&tmp, &done)?;
        sync_dir(&self.dir)?;
        remove_dir_if_there(&old)?;
        self.prune()
    }

    /// The newest checkpoint that is complete and undamaged; damaged ones are skipped with a warning that says what is wrong.
    pub fn latest(&self, observer: &dyn Observer) -> Result<Option<Checkpoint>> {
        for step in self.steps()?.into_iter().rev() {
            match self.open(step).and_then(|c| c.verify().map(|()| c)) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(e) => observer.warn(&format!("checkpoint of step {step} skipped: {e}")),
            }
        }
        Ok(None)
    }

    /// The checkpoint of `step`. Its files are verified when they are read.
    pub fn open(&self, step: u64) -> Result<Checkpoint> {
        let dir = self.path(step);
        let path = dir.join(STATE);
        let text = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let body: StateFile =
            serde_json::from_slice(&text).map_err(|e| damaged(&path, format!("unreadable text ({e})"), "the state of a checkpoint"))?;
        if body.step != step || hash_of(&body.state) != body.state_blake3 {
            return Err(damaged(&path, "a state that was changed after it was saved", "the state as saved"));
        }
        Ok(Checkpoint { step, state: body.state, dir, files: body.files })
    }

    /// The best checkpoint so far, or `None` before the first validation.
    pub fn best(&self) -> Result<Option<(Best, Checkpoint)>> {
        let Some(best) = self.best_marker()? else { return Ok(None) };
        let checkpoint = self.open(best.step)?;
        Ok(Some((best, checkpoint)))
    }

    /// Note that the checkpoint of `best.step`, saved before, is the best.
    pub fn mark_best(&self, best: &Best) -> Result<()> {
        let mut text = serde_json::to_vec(best).expect("a step, a name and a number are plain data");
        text.push(b'\n');
        write_atomic(&self.dir.join(BEST), &text)?;
        self.prune()
    }

    /// The steps of all checkpoints, ascending, damaged ones too.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&self.dir, e)),
        };
        let mut steps: Vec<u64> = entries.flatten().filter_map(|e| step_of(&e.file_name().to_string_lossy())).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn best_marker(&self) -> Result<Option<Best>> {
        let path = self.dir.join(BEST);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|e| damaged(&path, format!("unreadable text ({e})"), "a step, a metric and its value")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(&path, e)),
        }
    }

    fn prune(&self) -> Result<()> {
        // A marker that can't be read protects nothing; the next validation writes it anew.
        let best = self.best_marker().ok().flatten().map(|b| b.step);
        let steps = self.steps()?;
        for &step in &steps[..steps.len().saturating_sub(self.keep)] {
            if Some(step) != best {
                // Under another name first: a removal that is cut short must not look like a damaged checkpoint.
                let gone = self.dir.join(format!("{}.gone", name_of(step)));
                rename(&self.path(step), &gone)?;
                remove_dir_if_there(&gone)?;
            }
        }
        Ok(())
    }

    fn path(&self, step: u64) -> PathBuf {
        self.dir.join(name_of(step))
    }
}

impl Checkpoint {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of its files, in the order they were saved, without `state.json`.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|f| f.name.as_str())
    }

    /// The content of one file, compared with the hash it was saved with.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.dir.join(name);
        let Some(entry) = self.files.iter().find(|f| f.name == name) else {
            let names: Vec<_> = self.files().collect();
            return Err(Error::file(
                &self.dir,
                format!("no `{name}` (it has {})", names.join(", ")),
                "a checkpoint with that part",
                "choose a run of the right kind",
            ));
        };
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        entry.compare(&path, bytes.len() as u64, blake3::hash(&bytes))?;
        Ok(bytes)
    }

    /// Read every file once and compare it with the hash it was saved with; one block in memory at a time.
    pub fn verify(&self) -> Result<()> {
        self.files.iter().try_for_each(|entry| {
            let path = self.dir.join(&entry.name);
            let io = |e| Error::io(&path, e);
            let mut file = File::open(&path).map_err(io)?;
            let (mut hasher, mut block, mut bytes) = (blake3::Hasher::new(), vec![0; 1 << 20], 0);
            loop {
                let n = file.read(&mut block).map_err(io)?;
                if n == 0 {
                    return entry.compare(&path, bytes, hasher.finalize());
                }
                hasher.update(&block[..n]);
                bytes += n as u64;
            }
        })
    }
}

impl Entry {
    fn compare(&self, path: &Path, bytes: u64, hash: blake3::Hash) -> Result<()> {
        if bytes != self.bytes {
            return Err(damaged(path, format!("{bytes} bytes"), format!("the {} bytes that were saved", self.bytes)));
        }
        // Compared as text: the list is text, and a damaged hash is as bad as damaged content.
        if hash.to_string() != self.blake3 {
            return Err(damaged(path, "content that was changed after it was saved", "the content as saved"));
        }
        Ok(())
    }
}

const STATE: &str = "state.json";
const BEST: &str = "best.json";

fn name_of(step: u64) -> String {
    format!("step-{step:06}")
}

fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (name_of(step) == name).then_some(step)
}

fn hash_of(state: &Value) -> String {
    blake3::hash(state.to_string().as_bytes()).to_string()
}

fn damaged(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Error {
    Error::file(path, found, expected, "take an earlier checkpoint")
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io(path, e))
}

/// Make the names in `dir` durable. Elsewhere than on Unix a folder can't be opened and the rename itself is as good as it gets.
fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io(dir, e))?;
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|e| Error::io(from, e))
}

fn remove_dir_if_there(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(dir, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Recorder;
    use super::*;
    use serde_json::json;

    fn parts(step: u64) -> Vec<(&'static str, Vec<u8>)> {
        vec![("glance.safetensors", vec![step as u8; 3000]), ("focus.safetensors", vec![7; 10]), ("optimizer.bin", Vec::new())]
    }

    fn saved(dir: &Path, keep: usize, steps: &[u64]) -> CheckpointStore {
        let store = CheckpointStore::create(dir, keep).unwrap();
        for &step in steps {
            store.save(step, &parts(step), &json!({"epoch": step})).unwrap();
        }
        store
    }

    fn latest(store: &CheckpointStore) -> (Option<u64>, Vec<String>) {
        let recorder = Recorder::default();
        let found = store.latest(&recorder).unwrap().map(|c| c.step);
        (found, recorder.0.into_inner().unwrap())
    }

    #[test]
    fn what_is_saved_comes_back() {
        let tmp = tempfile::tempdir().unwrap();
        // Numbers whose text must come back to the same bits.
        let state = json!({"lr": 0.1 + 0.2, "tiny": f64::MIN_POSITIVE, "seed": u64::MAX, "best": [1e300, -0.0], "f32": 0.1f32});
        let store = CheckpointStore::create(tmp.path(), 2).unwrap();
        store.save(400, &parts(400), &state).unwrap();
        let back = CheckpointStore::read_only(tmp.path()).latest(&super::super::Silent).unwrap().unwrap();
        assert_eq!((back.step, &back.state), (400, &state));
        assert_eq!(back.state["lr"].as_f64().unwrap().to_bits(), (0.1f64 + 0.2).to_bits());
        assert_eq!(back.files().collect::<Vec<_>>(), ["glance.safetensors", "focus.safetensors", "optimizer.bin"]);
        assert_eq!(back.read("glance.safetensors").unwrap(), parts(400)[0].1);
        let message = back.read("critic").unwrap_err().to_string();
        assert!(message.contains("no `critic` (it has glance.safetensors, focus.safetensors, optimizer.bin)"), "{message}");
    }

    #[test]
    fn a_copy_that_somebody_made_beside_a_checkpoint_stays() {
        let tmp = tempfile::tempdir().unwrap();
        saved(tmp.path(), 2, &[100]);
        for name in ["step-000100.bak", "step-000100.tmp", "step-000200.gone"] {
            std::fs::create_dir(tmp.path().join(name)).unwrap();
        }
        let store = saved(tmp.path(), 2, &[]);
        let left = |name: &str| tmp.path().join(name).exists();
        assert!(left("step-000100.bak") && !left("step-000100.tmp") && !left("step-000200.gone"));
        assert_eq!(store.steps().unwrap(), [100]);
    }

    #[test]
    fn every_float_comes_back_to_the_same_bits() {
        let tmp = tempfile::tempdir().unwrap();
        let store = CheckpointStore::create(tmp.path(), 1).unwrap();
        let mut draws = panscreen_envs::rng::stream(1, "checkpoint test", 0, 0);
        let values: Vec<f64> = std::iter::repeat_with(|| f64::from_bits(panscreen_envs::rng::Rng::next_u64(&mut draws)))
            .filter(|v| v.is_finite())
            .take(2000)
            .collect();
        store.save(1, &[], &json!(values)).unwrap();
        let back: Vec<f64> = serde_json::from_value(store.open(1).unwrap().state).unwrap();
        assert!(values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    /// Any one file of the newest checkpoint cut at any length, deleted, or with one bit turned: the one before is taken, with one warning.
    #[test]
    fn damage_to_any_one_file_falls_back_to_the_checkpoint_before() {
        let tmp = tempfile::tempdir().unwrap();
        let store = saved(tmp.path(), 3, &[100, 200]);
        for name in ["glance.safetensors", "focus.safetensors", "optimizer.bin", "state.json"] {
            let path = tmp.path().join("step-000200").join(name);
            let whole = std::fs::read(&path).unwrap();
            let mut broken: Vec<Option<Vec<u8>>> = vec![None, Some([&whole[..], b"x"].concat())];
            broken.extend((0..whole.len()).step_by(1 + whole.len() / 40).map(|n| Some(whole[..n].to_vec())));
            broken.extend((0..whole.len()).step_by(1 + whole.len() / 97).map(|at| {
                let mut turned = whole.clone();
                turned[at] ^= 1;
                Some(turned)
            }));
            for content in broken {
                match &content {
                    None => std::fs::remove_file(&path).unwrap(),
                    Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                }
                let (step, warnings) = latest(&store);
                // Without its last line break the state is still the same state.
                let same = |c: &Vec<u8>| name == STATE && c.trim_ascii_end() == whole.trim_ascii_end();
                if !content.as_ref().is_some_and(same) {
                    assert_eq!((step, warnings.len()), (Some(100), 1), "{name} {content:?}");
                    assert!(warnings[0].starts_with("checkpoint of step 200 skipped: "), "{warnings:?}");
                }
            }
            std::fs::write(&path, &whole).unwrap();
            assert_eq!(latest(&store), (Some(200), vec![]));
        }
    }

    #[test]
    fn leftovers_of_killed_saves_are_never_taken_and_are_cleaned() {
        let tmp = tempfile::tempdir().unwrap();
        saved(tmp.path(), 2, &[100]);
        let copy = |name: &str| {
            std::fs::create_dir(tmp.path().join(name)).unwrap();
            for file in std::fs::read_dir(tmp.path().join("step-000100")).unwrap().flatten() {
                std::fs::copy(file.path(), tmp.path().join(name).join(file.file_name())).unwrap();
            }
        };
        for name in ["step-000200.tmp", "step-000050.gone", "step-000100.old"] {
            copy(name);
        }
        std::fs::write(tmp.path().join(".best.json.9.tmp"), "{").unwrap();
        assert_eq!(latest(&CheckpointStore::read_only(tmp.path())).0, Some(100));
        let names = || {
            let mut names: Vec<_> =
                std::fs::read_dir(tmp.path()).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        CheckpointStore::create(tmp.path(), 2).unwrap();
        assert_eq!(names(), ["step-000100"]);
        // Killed between setting the old one aside and putting the new one in its place.
        std::fs::rename(tmp.path().join("step-000100"), tmp.path().join("step-000100.old")).unwrap();
        assert_eq!(latest(&CheckpointStore::create(tmp.path(), 2).unwrap()).0, Some(100));
    }

    #[test]
    fn saving_a_step_again_replaces_it() {
        let tmp = tempfile::tempdir().unwrap();
        let store = saved(tmp.path(), 2, &[100, 100]);
        store.save(100, &[("only", b"new".to_vec())], &json!(2)).unwrap();
        let back = store.open(100).unwrap();
        assert_eq!((back.files().collect::<Vec<_>>(), &back.state), (vec!["only"], &json!(2)));
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_last_few_and_the_best_are_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let store = saved(tmp.path(), 2, &[1, 2]);
        assert!(store.best().unwrap().is_none());
        let best = |step, value| Best { step, metric: "val/lesion_dice".into(), value };
        store.mark_best(&best(1, 0.5)).unwrap();
        let store = saved(tmp.path(), 2, &[3, 4, 5]);
        assert_eq!(store.steps().unwrap(), [1, 4, 5]);
        assert_eq!(store.best().unwrap().unwrap().0, best(1, 0.5));
        store.mark_best(&best(5, 0.6)).unwrap();
        assert_eq!(store.steps().unwrap(), [4, 5]);
        assert_eq!(store.best().unwrap().unwrap().1.step, 5);
    }
}
