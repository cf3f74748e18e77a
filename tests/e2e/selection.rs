//! Learning to select on cached results of Focus, and what comes of it in screening.

use serde_json::Value;

use crate::support::World;

const SCAN: &str = "data/imagesTr/phantom_0005_0000.nii.gz";

fn record(world: &World, out: &str) -> Value {
    serde_json::from_slice(&world.read(&format!("{out}/phantom_0005.json"))).unwrap()
}

/// Cut a run of 12 steps and a stage more back to its checkpoint of `step` in that stage, as a kill right after it would.
fn cut_back(world: &World, run: &str, step: u64) {
    for entry in std::fs::read_dir(world.path(&format!("{run}/checkpoints"))).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix("step-").and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > step) {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    // The best so far was one of the stage before.
    std::fs::write(world.path(&format!("{run}/checkpoints/best.json")), r#"{"step":12,"metric":"lesion_dice","value":0.0}"#).unwrap();
}

#[test]
fn a_whole_scan_glance_learns_on_a_finished_focus_and_screens() {
    let world = World::new();
    // Both stages in one run; Focus is that of the first.
    let train = [
        "train",
        "tiny.toml",
        "--quiet",
        "--out",
        "whole",
        "stages=[\"gf_screen\", \"selection\"]",
        "glance={ kind = \"whole_scan\", widths = [4, 8], blocks = [1, 1] }",
        "objective.name=best_window",
        "env.group=volume",
        "loss.cell_weight=1",
        "selection.steps=6",
        "train.keep_checkpoints=9",
    ];
    let trained = world.json(0, &train);
    assert_eq!(trained["best"]["step"], 18, "{trained}");
    let log = world.log("whole");
    assert!(log.lines().count() == 18 && log.contains("losses/glance_cells"), "{log}");
    // What is known about operating it.
    let operating: Value = serde_json::from_slice(&world.read("whole/operating.json")).unwrap();
    assert_eq!((&operating["step"], operating["curve"].as_array().unwrap().is_empty()), (&trained["best"]["step"], false), "{operating}");
    assert!(operating["calibration"]["ece"].is_number() && operating["left"]["estimated"].is_number(), "{operating}");
    // Another process has not seen the scans: it lets the networks look again, and measures the same.
    let before = world.read("whole/operating.json");
    std::fs::remove_file(world.path("whole/operating.json")).unwrap();
    world.ok(&train);
    assert!(world.read("whole/operating.json") == before);
    // Cut in the middle of the second stage, the run goes on to the same end, whatever the number of threads.
    let repeated: Vec<&str> = train.iter().map(|a| if *a == "whole" { "cut" } else { a }).chain(["--threads", "1"]).collect();
    world.ok(&repeated);
    world.same_run("whole", "cut");
    cut_back(&world, "cut", 16);
    world.ok(&repeated);
    world.same_run("whole", "cut");

    let screen = |out: &str, more: &[&str]| {
        world.ok(&[&["screen", SCAN, "--model", "whole", "--out", out, "--quiet", "--no-preview"], more].concat());
        record(&world, out)
    };
    let free = screen("free", &["--threshold", "0"]);
    assert!(free["windows"]["total"].as_u64() > Some(20) && free["windows"]["left"]["windows"] == 0, "{free}");
    // A budget is kept, second looks included, and the rest is estimated.
    let few = screen("few", &["--threshold", "0", "--budget-windows", "3"]);
    let left = |r: &Value| r["windows"]["left"]["lesions_expected"].as_f64().unwrap();
    assert_eq!(few["windows"]["kept"], 3);
    assert!(few["windows"]["left"]["windows"].as_u64() > Some(0) && left(&few) > left(&free) && left(&few) <= 1.0, "{few}");
    let none = screen("none", &["--budget-seconds", "0.001"]);
    assert_eq!((&none["windows"]["kept"], left(&none)), (&Value::from(0), 1.0));
    let cover = screen("cover", &["--threshold", "0.5", "screen.decode=cover_mass"]);
    assert!(cover["windows"]["kept"].as_u64() <= free["windows"]["kept"].as_u64(), "{cover}");
    // Chosen windows lower their neighbours, so fewer stay above a threshold.
    let kept = |decode: &str| {
        let way = format!("screen.decode={decode}");
        screen(decode, &["--threshold", "0.3", "screen.second_look=false", &way])["windows"]["kept"].as_u64().unwrap()
    };
    assert!(kept("soft_apart") < kept("threshold"));

    // One validation scan guarantees nothing worth the name.
    let refused = world.run(&["screen", SCAN, "--model", "whole", "--out", "sure", "--recall", "0.99", "--quiet"]);
    assert_eq!(refused.code, 2, "{}", refused.err);
    assert!(refused.err.contains("a recall of 0.99 can't be guaranteed: that needs 99 validation scans"), "{}", refused.err);
    // Where there are scans enough, the promise stands in the record and in the summary. Other ways to screen are not what it is about.
    let path = world.path("whole/operating.json");
    let mut known = operating.clone();
    let scan = serde_json::json!({ "everywhere": [1, 0, 1], "kept": [[0, 0, 1], [1, 0, 1]] });
    known["losses"] = serde_json::json!({ "thresholds": [0.9, 0.1], "scans": vec![scan; 19] });
    std::fs::write(&path, known.to_string()).unwrap();
    let sure = ["screen", SCAN, "--model", "whole", "--out", "sure", "--recall", "0.95", "--quiet", "--no-preview"];
    let summary = world.json(0, &sure);
    let guarantee = &record(&world, "sure")["guarantee"];
    assert_eq!(
        (guarantee["recall"].as_f64(), guarantee["scans"].as_u64(), guarantee["threshold"].as_f64()),
        (Some(0.95), Some(19), Some(0.1))
    );
    assert_eq!(
        (&guarantee["classes"][0]["holds"], &guarantee["classes"][1]["scans"]),
        (&Value::from(true), &Value::from(0)),
        "{guarantee}"
    );
    assert_eq!(&summary["guarantee"], guarantee);
    assert!(world.ok(&sure).contains("recall 0.95 of what Focus everywhere finds is guaranteed on scans like the 19 calibration scans"));
    assert!(free["guarantee"].is_null());
    for (other, key) in [("--gate", "gate"), ("--budget-windows=3", "budget_windows"), ("screen.overlap=0.25", "overlap")] {
        let refused = world.run(&[&sure[..], &[other]].concat());
        let expected = format!("a recall of 0.95 can't be guaranteed with this `screen.{key}`");
        assert!(refused.code == 2 && refused.err.contains(&expected), "{}", refused.err);
    }
    // A threshold that somebody gives is meant, even where the run was to guarantee a recall.
    let meant = screen("meant", &["--threshold", "0", "screen.guaranteed_recall=0.95"]);
    assert_eq!((meant["windows"]["threshold"].as_f64(), &meant["guarantee"]), (Some(0.0), &Value::Null), "{meant}");
    std::fs::write(&path, operating.to_string()).unwrap();

    // Focus everywhere under a budget leaves something too.
    let all = screen("all", &["--select", "all", "--budget-windows", "3"]);
    let total = all["windows"]["total"].as_u64().unwrap();
    assert_eq!((&all["windows"]["kept"], &all["windows"]["left"]["windows"]), (&Value::from(3), &Value::from(total - 3)), "{all}");
    // Where no finding is longer than a window the setting changes nothing; what it does is tested in `src/screen`.
    let wide = screen("wide", &["--threshold", "0", "screen.scales=[1, 2]"]);
    assert_eq!(wide["windows"]["kept"].as_u64(), free["windows"]["kept"].as_u64().map(|n| n + wide["windows"]["wide"].as_u64().unwrap()));

    let gate = world.run(&["screen", SCAN, "--model", "whole", "--out", "gated", "--gate", "--quiet", "--no-preview"]);
    if operating["gate"].is_null() {
        assert!(gate.code == 2 && gate.err.contains("the run has no gate"), "{}", gate.err);
    } else {
        assert!(gate.code == 0 && record(&world, "gated")["windows"]["gated"].is_u64(), "{}", gate.err);
    }
}

#[test]
fn a_second_look_at_a_finer_grid_is_taught_and_counted() {
    let world = World::trained();
    let glance = "glance={ kind = \"whole_scan\", widths = [4, 8], blocks = [1, 1], spacing_mm = 10.0, second_spacing_mm = 5.0 }";
    let train = |out: &str, more: &[&str]| {
        let shared =
            ["stages=[\"selection\"]", "init_from=runs/tiny", "selection.fresh_glance=true", "selection.steps=3", "loss.cell_weight=1"];
        let own = ["env.group=volume", "data.spacing_mm=[5, 5, 5]", "train.keep_checkpoints=9", "train.checkpoint_every=2"];
        world.json(0, &[&["train", "tiny.toml", "--quiet", "--out", out, glance], &shared[..], &own, more].concat())
    };
    train("twice", &[]);
    let log = world.log("twice");
    assert!(log.lines().all(|l| l.contains("losses/glance_second_look")), "{log}");
    train("again", &["--threads", "1"]);
    world.same_run("twice", "again");

    let screen = |out: &str, more: &[&str]| {
        world.ok(&[&["screen", SCAN, "--model", "twice", "--out", out, "--quiet", "--no-preview"], more].concat());
        record(&world, out)
    };
    let found = screen("found", &[]);
    let steps: Vec<&str> = found["costs"].as_array().unwrap().iter().map(|c| c["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["read", "prepare", "glance", "second glance", "focus", "restore"]);
    assert!(found["windows"]["read_again"].as_u64() > Some(0), "{found}");
    assert!(screen("all", &["--select", "all"])["windows"]["read_again"].is_null());

    let untaught = world.run(&["train", "tiny.toml", "--quiet", "--out", "none", glance]);
    assert!(untaught.code == 2 && untaught.err.contains("nothing else teaches the second look"), "{}", untaught.err);
}

#[test]
fn sets_of_windows_teach_any_glance() {
    let world = World::trained();
    let shared =
        ["stages=[\"selection\"]", "init_from=runs/tiny", "selection.steps=3", "env.volumes_per_batch=2", "train.checkpoint_every=2"];
    for (name, overrides) in [
        ("rloo", &["env.group=masks", "objective.name=rloo", "selection.least_recall=0.9"][..]),
        ("exact", &["env.group=masks", "objective.name=exact", "selection.most_windows=0.1"]),
        ("dice", &["env.group=masks", "objective.name=dr_grpo", "selection.reward=dice", "objective.num_iterations=2"]),
        ("ppo", &["env.group=volume", "objective.name=ppo"]),
        ("flare", &["env.group=masks", "objective.name=grpo", "selection.reward=flare", "objective.masks=4"]),
        ("batch", &["env.group=batch", "selection.fresh_glance=true", "objective.refresh_steps=2"]),
        ("tied", &["glance={ kind = \"encoder\" }", "backbone.shared=tied", "selection.fresh_glance=true", "objective.name=soft_volume"]),
    ] {
        let trained = world.json(0, &[&["train", "tiny.toml", "--quiet", "--out", name], &shared[..], overrides].concat());
        assert_eq!(trained["best"]["step"], 3, "{name}: {trained}");
        // Focus is what it was.
        let best = trained["checkpoint"].as_str().unwrap();
        let tiny: Value = serde_json::from_slice(&world.read("runs/tiny/checkpoints/best.json")).unwrap();
        let before = world.read(&format!("runs/tiny/checkpoints/step-{:06}/focus.safetensors", tiny["step"].as_u64().unwrap()));
        assert!(world.read(&format!("{best}/focus.safetensors")) == before, "{name}");
        let log = world.log(name);
        assert_eq!(log.contains("selection/recall"), overrides.contains(&"env.group=masks"), "{name}: {log}");
    }
    let without = world.run(&["train", "tiny.toml", "--quiet", "--out", "none", "stages=[\"selection\"]"]);
    assert!(without.code == 2 && without.err.contains("needs a trained Focus"), "{}", without.err);
    let wrong = world.run(&["train", "tiny.toml", "--quiet", "--out", "none", "selection.reward=dice"]);
    assert!(wrong.code == 2 && wrong.err.contains("needs selections that are scored as sets"), "{}", wrong.err);
}
