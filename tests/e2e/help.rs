//! The option list is frozen: a new option, a new verb or another word shows up here and in the diff of its text.
//!
//! `PANSCREEN_UPDATE_HELP=1 cargo test --release --test e2e help` writes the texts anew.

use std::path::Path;

use crate::support::World;

const VERBS: [&str; 33] = [
    "",
    "demo",
    "train",
    "screen",
    "sweep",
    "sweep table",
    "evaluate",
    "leaderboard",
    "submit",
    "submit check",
    "report",
    "inspect",
    "data",
    "data phantom",
    "data check",
    "data fingerprint",
    "data plan",
    "env",
    "env check",
    "config",
    "config show",
    "config explain",
    "config schema",
    "model",
    "model new",
    "model info",
    "model import",
    "model export",
    "stages",
    "bench",
    "bench conv",
    "bench nets",
    "bench metrics",
];

#[test]
fn help_of_every_verb_is_the_committed_text() {
    let (world, folder) = (World::empty(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/help"));
    for verb in VERBS {
        let mut args: Vec<&str> = verb.split_whitespace().collect();
        args.push("--help");
        let text = world.ok(&args);
        let name = if verb.is_empty() { "panscreen".to_owned() } else { verb.replace(' ', "_") };
        let path = folder.join(format!("{name}.txt"));
        if std::env::var_os("PANSCREEN_UPDATE_HELP").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text == committed, "panscreen {} differs from {}; now:\n{text}", args.join(" "), path.display());
        assert!(text.lines().all(|line| line.chars().count() <= 100), "a line of `{verb} --help` is too long");
    }
}
