//! ARCHITECTURE.md's invariants that can be read off the source.
//!
//! The checks read text. Tests inside a source file are left out: they may print, open files and draw what they like.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use panscreen_policies::objectives::ObjectiveKind;

use crate::config::{self, CompatConfig};
use crate::stages;
use crate::sweep::{self, SweepConfig};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Files below `folder` with this ending, sorted.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == ending) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folder} holds no .{ending} file: the check looks at the wrong place");
    found
}

/// Path below the root, with `/`.
fn name(path: &Path) -> String {
    path.strip_prefix(ROOT).unwrap_or(path).components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The lines of a formatted file that are neither comments nor part of a test, with their numbers from 1; and the modules that are tests.
fn product_lines(text: &str) -> (Vec<(usize, &str)>, Vec<String>) {
    let (mut lines, mut test_modules) = (Vec::new(), Vec::new());
    let mut rest = text.lines().enumerate();
    while let Some((number, line)) = rest.next() {
        let code = line.trim_start();
        if code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(all(test") || code.starts_with("#[test]") {
            // The item ends on its own line, or at the first bracket as deep as its attribute.
            let indent = &line[..line.len() - code.len()];
            let ends = [format!("{indent}}}"), format!("{indent}}};")];
            for (_, item) in rest.by_ref() {
                let module = item.trim().strip_suffix(';').and_then(|m| m.rsplit_once("mod "));
                test_modules.extend(module.map(|(_, name)| name.to_owned()));
                let own_line = item.starts_with(&format!("{indent}#[")) || item.trim_start().starts_with("//");
                let whole = !item[indent.len().min(item.len())..].starts_with(' ') && (item.ends_with(';') || item.ends_with('}'));
                if !own_line && (whole || ends.iter().any(|e| e == item)) {
                    break;
                }
            }
        } else if !code.starts_with("//") {
            lines.push((number + 1, line));
        }
    }
    (lines, test_modules)
}

/// Source files below `folder` without the test modules that have a file of their own.
fn product_files(folder: &str) -> Vec<PathBuf> {
    let all = files(folder, "rs");
    let mut tests = BTreeSet::new();
    for path in &all {
        let text = std::fs::read_to_string(path).unwrap();
        let stem = path.file_stem().unwrap().to_string_lossy();
        let below = if ["mod", "lib", "main"].contains(&&*stem) { path.parent().unwrap().to_owned() } else { path.with_extension("") };
        tests.extend(product_lines(&text).1.into_iter().map(|module| below.join(module)));
    }
    all.into_iter().filter(|path| !path.ancestors().any(|a| tests.contains(a) || tests.contains(&a.with_extension("")))).collect()
}

/// No product line below `folders` may hold one of `words`, but in the files that `allowed` names by their beginning.
fn check_absent(folders: &[&str], words: &[&str], allowed: &[&str]) {
    let mut found = String::new();
    for path in folders.iter().flat_map(|folder| product_files(folder)) {
        let (name, text) = (name(&path), std::fs::read_to_string(&path).unwrap());
        if allowed.iter().any(|a| name.starts_with(a)) {
            continue;
        }
        for (number, line) in product_lines(&text).0 {
            if let Some(word) = words.iter().find(|w| holds(line, w)) {
                found += &format!("\n  {name}:{number}: `{word}`");
            }
        }
    }
    assert!(found.is_empty(), "not allowed here:{found}");
}

/// Whether `line` holds `word`, not as the end of a longer one.
fn holds(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !word.starts_with(inside) || !line[..at].ends_with(inside))
}

/// Keys of a table of a manifest; none where it has no such table.
fn manifest_keys(manifest: &str, table: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join(manifest)).unwrap();
    let parsed: toml::Table = text.parse().unwrap();
    parsed.get(table).and_then(|t| t.as_table()).map(|t| t.keys().cloned().collect()).unwrap_or_default()
}

const CRATES: [&str; 3] = ["src", "envs/src", "policies/src"];
const MANIFESTS: [&str; 3] = ["Cargo.toml", "envs/Cargo.toml", "policies/Cargo.toml"];

#[test]
fn tests_are_told_from_the_product() {
    let text = "use a;\n// println!\n#[cfg(test)]\nmod tests;\n\nfn f() {\n    g();\n}\n\n#[cfg(test)]\nmod inside {\n    fn h() {}\n}\n\n\
                #[test]\nfn one() {\n    t();\n}\n#[cfg(test)]\nuse b;\nfn last() {}\n";
    let (lines, modules) = product_lines(text);
    let kept: Vec<&str> = lines.into_iter().map(|(_, line)| line).filter(|line| !line.is_empty()).collect();
    assert_eq!(kept, ["use a;", "fn f() {", "    g();", "}", "fn last() {}"]);
    assert_eq!(modules, ["tests"]);
    assert!(holds("    println!(\"\")", "println!") && !holds("eprintln!()", "println!") && holds("x.fs::write(", "fs::write("));
}

/// 1. `envs` knows no deep-learning framework, not even in a comment.
#[test]
fn envs_never_names_burn() {
    let manifest = Path::new(ROOT).join("envs/Cargo.toml");
    for path in files("envs", "rs").into_iter().chain([manifest]) {
        let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
        let named = text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "burn");
        assert!(!named, "{} names Burn", name(&path));
    }
}

/// 1. Only `src/cli` prints.
#[test]
fn only_the_command_line_prints() {
    let words = ["println!", "eprintln!", "print!", "eprint!", "dbg!", "io::stdout(", "io::stderr("];
    check_absent(&CRATES, &words, &["src/cli/"]);
}

/// 1. `policies` opens no file but weights.
#[test]
fn policies_open_no_file_but_weights() {
    check_absent(&["policies/src"], &["fs::", "File::", "OpenOptions", "panscreen_envs::io"], &["policies/src/weights/mod.rs"]);
}

/// 1. Dependencies point one way: `src` -> `policies` -> `envs`.
#[test]
fn dependencies_point_one_way() {
    for (manifest, allowed) in [("envs/Cargo.toml", &[][..]), ("policies/Cargo.toml", &["panscreen-envs"])] {
        let ours = |key: &String| key.starts_with("panscreen");
        let found: Vec<String> = manifest_keys(manifest, "dependencies").into_iter().filter(ours).collect();
        assert_eq!(found, allowed, "{manifest}");
        assert!(!manifest_keys(manifest, "dev-dependencies").iter().any(ours), "{manifest}");
    }
}

/// 2. Rooms never import each other, and each is in the registry. Vacuous in its first half while there is one room.
#[test]
fn rooms_are_listed_and_apart() {
    let folders = |of: &Path| -> BTreeSet<String> {
        let entries = std::fs::read_dir(of).unwrap().map(|e| e.unwrap().path());
        entries.filter(|p| p.is_dir()).map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    let folder = Path::new(ROOT).join("src/stages");
    let rooms = folders(&folder);
    // A system of several stages has each further one in a folder of its room.
    let further: BTreeSet<String> = rooms.iter().flat_map(|room| folders(&folder.join(room))).collect();
    let listed: BTreeSet<String> = stages::all().iter().map(|s| s.name.to_owned()).collect();
    assert!(rooms.is_subset(&listed), "each of the folders {rooms:?} of src/stages is in `stages::all()`: {listed:?}");
    assert!(listed.iter().all(|s| rooms.contains(s) || further.contains(s)), "each stage of {listed:?} has a folder");
    for room in &rooms {
        for path in product_files(&format!("src/stages/{room}")) {
            let text = std::fs::read_to_string(&path).unwrap();
            for (number, line) in product_lines(&text).0.into_iter().filter(|(_, l)| l.contains("stages::") || l.contains("super::")) {
                let other = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).find(|word| *word != room && rooms.contains(*word));
                assert_eq!(other, None, "{}:{number} imports another room", name(&path));
            }
        }
    }
}

/// 5. Random numbers come from `panscreen_envs::rng::stream` and from nowhere else.
#[test]
fn every_draw_comes_from_a_named_stream() {
    let words = [
        "thread_rng",
        "rand::rng(",
        "rand::random",
        "from_os_rng",
        "from_entropy",
        "SmallRng",
        "StdRng",
        "ChaCha8Rng",
        "seed_from_u64",
        "from_seed(",
        "Tensor::random",
        "random_like",
        "Distribution::",
    ];
    check_absent(&CRATES, &words, &["envs/src/rng.rs"]);
}

/// 6. Files that matter go through `write_atomic`; who writes otherwise is named here, with the reason.
#[test]
fn files_are_written_whole() {
    let allowed = [
        "envs/src/io/atomic.rs",  // is `write_atomic`
        "src/run/checkpoint.rs",  // writes and syncs a whole folder under a temporary name, then renames that
        "src/run/metrics.rs",     // appends lines; a torn last one is cut off when the run goes on
        "src/run/tensorboard.rs", // a copy of the metrics for another program
        "src/run/folder.rs",      // the lock
        "src/evaluate/log.rs",    // appends lines; a torn last one is skipped
        "src/submit/launch.rs",   // what a launch says, in a temporary folder
        "src/run/usage.rs",       // asks the system to reset the memory peak
        "src/sweep/plan.rs",      // appends trials; a torn last one is drawn again
        "src/sweep/launcher.rs",  // what a worker prints
    ];
    check_absent(&CRATES, &["fs::write(", "File::create", "File::options", "OpenOptions"], &allowed);
}

/// 8. Nothing uses the network.
#[test]
fn nothing_uses_the_network() {
    check_absent(&CRATES, &["std::net", "TcpStream", "TcpListener", "UdpSocket", "ToSocketAddrs"], &[]);
    let network = ["reqwest", "ureq", "hyper", "curl", "tokio", "async-std", "attohttpc", "minreq", "isahc", "surf", "git2", "rustls"];
    for manifest in MANIFESTS {
        let named = manifest_keys(manifest, "dependencies");
        assert!(!network.iter().any(|crate_| named.contains(*crate_)), "{manifest}: {named:?}");
    }
}

/// 9. Features choose back ends only, and none is on by default.
#[test]
fn features_choose_back_ends_only() {
    for manifest in MANIFESTS {
        let features = manifest_keys(manifest, "features");
        assert!(features.iter().all(|f| f == "cuda"), "{manifest}: {features:?}");
    }
}

/// 10. Every config of the repository loads, and `compat` switches are off outside `configs/parity`.
#[test]
fn configs_load_and_oddities_stay_in_parity() {
    for path in files("configs", "toml") {
        if name(&path).starts_with("configs/sweeps/") {
            let sweep = SweepConfig::read(&path).unwrap_or_else(|e| panic!("{e}"));
            let points = sweep::points_of(&sweep).unwrap_or_else(|e| panic!("{}: {e}", name(&path)));
            assert!(points > 0, "{}", name(&path));
            continue;
        }
        let config = config::load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
        if !name(&path).starts_with("configs/parity/") {
            assert_eq!(config.compat, CompatConfig::default(), "{}", name(&path));
            if let ObjectiveKind::Grl(grl) = &config.objective.kind {
                assert_eq!(grl.compat, Default::default(), "{}", name(&path));
            }
        }
    }
}

/// `docs/metrics.md` explains every metric whose name has a group (`losses/focus`).
#[test]
fn every_logged_metric_is_explained() {
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/metrics.md")).unwrap();
    let (mut named, mut missing) = (0, BTreeSet::new());
    for path in ["src/stages", "policies/src/objectives"].into_iter().flat_map(product_files) {
        let text = std::fs::read_to_string(&path).unwrap();
        for line in product_lines(&text).0.into_iter().map(|(_, line)| line) {
            let literals = line.split("(\"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(literal, _)| literal);
            for metric in literals.filter(|l| l.contains('/') && l.chars().all(|c| c.is_ascii_lowercase() || "_/".contains(c))) {
                named += 1;
                if !page.contains(&format!("`{metric}`")) {
                    missing.insert(metric.to_owned());
                }
            }
        }
    }
    assert!(named > 20, "{named} metrics found: the check looks at the wrong place");
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
}
