//! A folder to work in, the program, and how files are compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Tiny networks and few steps on the cohort in `data`.
const TINY: &str = r#"
seed = 5
[data]
root = "data"
cache_dir = "cache"
[env]
window = [24, 24, 16]
volumes_per_batch = 2
crops_per_volume = 4
[glance]
widths = [4, 8]
blocks = [1, 1]
[focus]
widths = [4, 8]
blocks = [1, 1]
[train]
steps = 12
steps_per_epoch = 5
validate_every = 6
checkpoint_every = 4
shards = 2
"#;

pub struct World {
    dir: tempfile::TempDir,
}

/// How a command ended.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl World {
    /// An empty folder.
    pub fn empty() -> Self {
        World { dir: tempfile::tempdir().unwrap() }
    }

    /// A cohort of six generated scans in `data` (four train, one validates, one tests) and `tiny.toml`.
    pub fn new() -> Self {
        let world = World::empty();
        std::fs::write(world.path("tiny.toml"), TINY).unwrap();
        world.ok(&["data", "phantom", "--cases", "6", "--seed", "3", "--out", "data", "--split", "4,1,1"]);
        world
    }

    /// As [`World::new`], and `tiny.toml` trained in `runs/tiny`.
    pub fn trained() -> Self {
        let world = World::new();
        world.ok(&["train", "tiny.toml", "--quiet"]);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_panscreen"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Run a command that must end with `code`, and give back what it printed.
    #[track_caller]
    pub fn ends(&self, code: i32, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "panscreen {}\n{}\n{}", args.join(" "), ran.out, ran.err);
        ran.out
    }

    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        self.ends(0, args)
    }

    /// As [`World::ends`] with `--json`.
    #[track_caller]
    pub fn json(&self, code: i32, args: &[&str]) -> Value {
        serde_json::from_str(&self.ends(code, &[args, &["--json"]].concat())).unwrap()
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Every file below a folder by its path in it.
    pub fn tree(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(dir: &Path, root: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), root, found);
                } else {
                    found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), std::fs::read(entry.path()).unwrap());
                }
            }
        }
        let (root, mut found) = (self.path(name), BTreeMap::new());
        walk(&root, &root, &mut found);
        found
    }

    /// The log of a run as text, without the values that depend on the clock.
    pub fn log(&self, run: &str) -> String {
        let text = String::from_utf8(self.read(&format!("{run}/metrics.jsonl"))).unwrap();
        let line = |line: &str| line.split(',').filter(|field| !field.starts_with("\"time/")).collect::<Vec<_>>().join(",") + "\n";
        text.lines().map(|l| line(l.trim_end_matches('}'))).collect()
    }

    /// Two runs have the same log and the same checkpoints, byte for byte.
    #[track_caller]
    pub fn same_run(&self, a: &str, b: &str) {
        assert_eq!(self.log(a), self.log(b), "the logs of {a} and {b}");
        let checkpoints = |run: &str| self.tree(&format!("{run}/checkpoints"));
        let (a_files, b_files) = (checkpoints(a), checkpoints(b));
        assert_eq!(a_files.keys().collect::<Vec<_>>(), b_files.keys().collect::<Vec<_>>(), "the checkpoints of {a} and {b}");
        for (name, bytes) in &a_files {
            assert!(*bytes == b_files[name], "{} differs between {a} and {b}", name.display());
        }
    }
}

/// The header of `mask` is the one of `scan` but for the seven fields that say how voxels are stored.
#[track_caller]
pub fn same_header(scan: &Path, mask: &Path) {
    let header = |path: &Path| panscreen_envs::io::open_header(path).unwrap().stored.unwrap().bytes.clone();
    let (scan, mask) = (header(scan), header(mask));
    // datatype, bitpix; vox_offset, scl_slope, scl_inter; cal_max, cal_min.
    let free = |i: usize| (70..74).contains(&i) || (108..120).contains(&i) || (124..132).contains(&i);
    let different: Vec<usize> = (0..348).filter(|&i| !free(i) && scan[i] != mask[i]).collect();
    assert!(different.is_empty(), "header bytes {different:?} differ");
    assert_eq!(mask[70..74], if scan[0] == 0 { [0, 2, 0, 8] } else { [2, 0, 8, 0] }, "uint8");
}
