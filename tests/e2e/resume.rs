//! Interrupted anywhere and started again, a run is the run that was not interrupted.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use panscreen_envs::rng::{RngExt, stream};

use crate::support::World;

const STEPS: u64 = 60;
const SETTINGS: [&str; 5] =
    ["train.steps=60", "train.steps_per_epoch=7", "train.validate_every=20", "train.checkpoint_every=3", "objective.refresh_steps=5"];

fn start(world: &World, out: &str) -> Child {
    let args = [&["train", "tiny.toml", "--quiet", "--out", out], &SETTINGS[..]].concat();
    world.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn finish(world: &World, out: &str) {
    world.ok(&[&["train", "tiny.toml", "--quiet", "--out", out], &SETTINGS[..]].concat());
}

/// Wait until `child` has come so far.
fn wait_until(child: &mut Child, so_far: impl Fn() -> bool) {
    let started = Instant::now();
    while !so_far() {
        assert!(child.try_wait().unwrap().is_none(), "the program ended too early");
        assert!(started.elapsed() < Duration::from_secs(120), "nothing moves");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the log has a line for `step`.
fn logged(log: &Path, step: u64) -> bool {
    std::fs::read_to_string(log).map_or(0, |text| text.lines().count() as u64) >= step
}

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}

#[test]
fn a_run_killed_at_twenty_moments_is_the_run_that_was_not() {
    let world = World::new();
    finish(&world, "whole");
    // The cut points walk through the run: somewhere in a step, a validation or a save.
    let mut draws = stream(1, "kill and resume", 0, 0);
    let mut cuts: Vec<u64> = (0..20).map(|_| draws.random_range(0..STEPS - 15)).collect();
    cuts.sort_unstable();
    for cut in cuts {
        let mut child = start(&world, "killed");
        wait_until(&mut child, || logged(&world.path("killed/metrics.jsonl"), cut));
        std::thread::sleep(Duration::from_micros(draws.random_range(0..150_000)));
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    finish(&world, "killed");
    world.same_run("whole", "killed");
    let manifest: serde_json::Value = serde_json::from_slice(&world.read("killed/manifest.json")).unwrap();
    let resumed = manifest["sessions"].as_array().unwrap().iter().filter(|s| s["from_step"] != 0).count();
    assert!(resumed >= 10, "most kills should fall into a run under way: {manifest}");

    // A finished run has nothing to do.
    let before = (world.read("killed/metrics.jsonl"), world.tree("killed/checkpoints"));
    finish(&world, "killed");
    world.ok(&["train", "killed", "--quiet"]);
    assert!(before == (world.read("killed/metrics.jsonl"), world.tree("killed/checkpoints")));
}

#[cfg(unix)]
#[test]
fn a_run_that_is_told_to_stop_saves_and_returns_75() {
    let world = World::new();
    finish(&world, "whole");
    let mut child = start(&world, "stopped");
    wait_until(&mut child, || logged(&world.path("stopped/metrics.jsonl"), 5));
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let manifest: serde_json::Value = serde_json::from_slice(&world.read("stopped/manifest.json")).unwrap();
    assert_eq!(manifest["sessions"][0]["outcome"], "stopped");
    // From its own folder, as well as from its config.
    world.ok(&["train", "stopped", "--quiet"]);
    world.same_run("whole", "stopped");
}

#[cfg(unix)]
#[test]
fn screening_that_was_killed_and_then_stopped_is_gone_on_with() {
    let world = World::trained();
    std::fs::create_dir(world.path("scans")).unwrap();
    for i in 0..30 {
        std::fs::copy(world.path("data/imagesTr/phantom_0002_0000.nii.gz"), world.path(&format!("scans/{i:02}.nii.gz"))).unwrap();
    }
    let screen = ["screen", "scans", "--model", "runs/tiny", "--out", "out", "--quiet", "--no-preview", "--json"];
    let begin = || world.command(&screen).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let finished = |case: &str| world.path(&format!("out/{case}.json")).exists();

    let mut child = begin();
    wait_until(&mut child, || finished("01"));
    child.kill().unwrap();
    child.wait().unwrap();

    let mut child = begin();
    wait_until(&mut child, || finished("05"));
    terminate(&child);
    let output = child.wait_with_output().unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let done = summary["cases"].as_array().unwrap().len() as u64;
    assert!(summary["already_there"].as_u64().unwrap() >= 2 && done >= 6, "{summary}");
    let text = format!("stopped after {done} of 30 scans; start the same command again to go on\n");
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(75), text));

    let summary = world.json(0, &screen[..screen.len() - 1]);
    assert_eq!((summary["already_there"].as_u64(), summary["screened"].as_u64()), (Some(done), Some(30 - done)));
}
