//! Verbs and flags beside the way: environment proof, dry run, one scan alone, screening that is stopped.

use serde_json::Value;

use crate::support::World;

#[test]
fn the_environment_of_the_demo_keeps_its_promises() {
    let world = World::new();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/demo.toml");
    let check = ["env", "check", demo, "data.root=data", "data.cache_dir=cache", "train.steps_per_epoch=6"];
    for more in [&[][..], &["env.group=batch"], &["env.group=masks"]] {
        let reports = world.json(0, &[&check[..], more].concat());
        let reports = reports.as_array().unwrap();
        assert!(reports.len() >= 7 && reports.iter().all(|r| r["kept"] == true), "{more:?} {reports:?}");
    }
    let text = world.ok(&check);
    assert!(text.lines().all(|line| line.starts_with("kept ")), "{text}");
}

#[test]
fn a_dry_run_tells_time_and_memory_and_leaves_nothing() {
    let world = World::new();
    let before = world.tree("");
    let figures = world.json(0, &["train", "tiny.toml", "--dry-run", "--quiet"]);
    assert!(before == world.tree(""), "something was left behind");
    let positive = ["seconds_per_step", "seconds_per_validation", "seconds_per_checkpoint", "checkpoint_mib", "seconds_total", "scans_mib"];
    for key in positive {
        assert!(figures[key].as_f64().unwrap() > 0.0, "{key} in {figures}");
    }
    assert_eq!((&figures["train_scans"], &figures["validation_scans"], &figures["validations"]), (&4.into(), &1.into(), &2.into()));
    let text = world.ok(&["train", "tiny.toml", "--dry-run", "--quiet"]);
    assert_eq!(
        text.lines().map(|l| l.split("  ").next().unwrap()).collect::<Vec<_>>(),
        ["scans", "training", "validation", "checkpoint", "in all", "memory"]
    );
}

#[test]
fn one_scan_alone_trains_and_validates() {
    let world = World::new();
    world.ok(&["train", "tiny.toml", "--overfit-one", "--quiet"]);
    assert!(!world.path("runs/tiny").exists());
    let split: Value = serde_json::from_slice(&world.read("runs/tiny-overfit/split.json")).unwrap();
    assert_eq!((split["train"].as_array().unwrap().len(), &split["train"]), (1, &split["validation"]));
    let before = world.tree("runs/tiny-overfit/checkpoints");
    world.ok(&["train", "runs/tiny-overfit", "--quiet"]);
    assert!(before == world.tree("runs/tiny-overfit/checkpoints"));
}

#[test]
fn what_a_run_can_do_is_listed() {
    let stages = World::empty().json(0, &["stages"]);
    assert!(stages.as_array().unwrap().iter().any(|s| s["name"] == "gf_screen"), "{stages}");
}
