//! Sweeps: every point has one final state, whoever is killed; the samplers, the shared Focus and the table through the program.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::World;

/// A point that takes a moment, fails for some seeds, and notes that it came to its end.
const POINT: &str = r#"
seed=$1 out=$2
sleep 0.1
case $seed in 7|8|23) echo "no lesion in scan $seed" >&2; exit 3;; esac
echo $seed >> finished
echo "{\"metrics\": {\"worth\": $seed}}" > $out/result.json
"#;

fn fake(seeds: std::ops::Range<u64>, more: &str) -> World {
    let world = World::empty();
    std::fs::write(world.path("base.toml"), "").unwrap();
    std::fs::write(world.path("point.sh"), POINT).unwrap();
    let seeds: Vec<u64> = seeds.collect();
    let text = format!(
        "config = \"base.toml\"\nseeds = {seeds:?}\nmetric = \"worth\"\ncommand = [\"sh\", \"point.sh\", \"{{seed}}\", \"{{out}}\"]\n{more}"
    );
    std::fs::write(world.path("fake.toml"), text).unwrap();
    world
}

/// State of every point by its seed; `None` while it has none.
fn states(world: &World, sweep: &str) -> BTreeMap<u64, Option<Value>> {
    let points = std::fs::read_dir(world.path(sweep).join("points")).into_iter().flatten().flatten();
    let read = |path: std::path::PathBuf| -> Option<Value> { serde_json::from_slice(&std::fs::read(path).ok()?).ok() };
    points.filter_map(|p| Some((read(p.path().join("point.json"))?["seed"].as_u64()?, read(p.path().join("state.json"))))).collect()
}

/// How often each point was begun, by its seed.
fn starts(world: &World, sweep: &str) -> BTreeMap<u64, u64> {
    let points = std::fs::read_dir(world.path(sweep).join("points")).unwrap().map(|p| p.unwrap().path());
    let read = |path: std::path::PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    points
        .map(|p| (read(p.join("point.json"))["seed"].as_u64().unwrap(), read(p.join("attempt.json"))["starts"].as_u64().unwrap()))
        .collect()
}

/// Processes that work on points without a final state.
fn workers(world: &World, sweep: &str) -> Vec<u64> {
    let points = std::fs::read_dir(world.path(sweep).join("points")).into_iter().flatten().flatten().map(|p| p.path());
    let open = points.filter(|p| !p.join("state.json").exists());
    open.filter_map(|p| serde_json::from_slice::<Value>(&std::fs::read(p.join("attempt.json")).ok()?).ok()?["process"].as_u64()).collect()
}

fn start(world: &World, args: &[&str]) -> Child {
    world.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn kill(process: u64) {
    let _ = std::process::Command::new("kill").args(["-KILL", &process.to_string()]).stderr(Stdio::null()).status();
}

/// 50 points of which 3 fail; 5 workers are killed, and the sweep itself twice.
#[cfg(target_os = "linux")]
#[test]
fn every_point_has_one_final_state_whoever_is_killed() {
    let world = fake(0..50, "");
    let sweep = ["sweep", "fake.toml", "--jobs", "4", "--out", "out", "--quiet"];
    let ended = || states(&world, "out").values().flatten().count();
    let (mut killed, mut child) = (std::collections::BTreeSet::new(), start(&world, &sweep));
    let began = Instant::now();
    for (part, of) in [(1, 8), (2, 20), (3, 50)] {
        while ended() < of && child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "nothing moves: {:?}", states(&world, "out"));
            if killed.len() < 2 * part - 1
                && let Some(process) = workers(&world, "out").into_iter().find(|p| !killed.contains(p))
            {
                kill(process);
                killed.insert(process);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if of < 50 {
            child.kill().unwrap();
            child.wait().unwrap();
            child = start(&world, &sweep);
        }
    }
    assert_eq!((child.wait().unwrap().code(), killed.len()), (Some(1), 5), "finished, with failed points");
    let states = states(&world, "out");
    assert_eq!(states.len(), 50);
    for (seed, state) in &states {
        let state = state.as_ref().unwrap_or_else(|| panic!("point {seed} is lost"));
        if [7, 8, 23].contains(seed) {
            assert_eq!(state["state"], "failed", "{seed}");
            assert!(state["reason"].as_str().unwrap().ends_with(&format!("no lesion in scan {seed}")), "{state}");
        } else {
            assert_eq!(state["state"], "done", "{seed}: {state}");
        }
    }
    // A point is begun again only where its worker was killed: five by us, and at most the four of each sweep that was.
    let starts = starts(&world, "out");
    assert!(starts.values().map(|n| n - 1).sum::<u64>() <= 5 + 2 * 4, "{starts:?}");
    let finished = String::from_utf8(world.read("finished")).unwrap();
    for seed in (0..50).filter(|s| ![7, 8, 23].contains(s)) {
        let times = finished.lines().filter(|l| l.parse() == Ok(seed)).count() as u64;
        assert!((1..=starts[&seed]).contains(&times), "point {seed} came {times} times to its end in {} starts", starts[&seed]);
    }

    // Nothing is left to do, and nothing is done again.
    let again = world.json(1, &sweep);
    assert_eq!((again["done"].as_u64(), again["failed"].as_u64(), again["left"].as_u64()), (Some(47), Some(3), Some(0)), "{again}");
    let table = world.json(0, &["sweep", "table", "out"]);
    let row = &table["rows"][0];
    assert_eq!((row["failed"].as_u64(), row["seeds"].as_array().unwrap().len()), (Some(3), 47));
    let csv = String::from_utf8(world.read("out/table.csv")).unwrap();
    assert!(csv.starts_with("row,column,seeds,mean,sd,difference,low,high\n\"all\",\"worth\",47,"), "{csv}");
}

#[cfg(unix)]
#[test]
fn a_sweep_stops_where_it_must_and_goes_on() {
    // Equal failures in a row, wherever each happened.
    let world = fake(0..20, "stop_after_failures = 3");
    std::fs::write(world.path("point.sh"), "echo disk full at $1 in $2 >&2; exit 1").unwrap();
    let ran = world.run(&["sweep", "fake.toml", "--out", "out", "--quiet"]);
    assert!(ran.code == 1 && ran.err.contains("3 points in a row failed alike"), "{}", ran.err);
    assert_eq!(states(&world, "out").values().flatten().count(), 3);
    // The cause is repaired: the others run, and the failed ones when it is asked for.
    std::fs::write(world.path("point.sh"), POINT).unwrap();
    let summary = world.json(1, &["sweep", "fake.toml", "--out", "out", "--quiet"]);
    assert_eq!((summary["done"].as_u64(), summary["failed"].as_u64()), (Some(15), Some(5)), "{summary}");
    let summary = world.json(1, &["sweep", "fake.toml", "--out", "out", "--quiet", "--retry-failed"]);
    assert_eq!((summary["done"].as_u64(), summary["failed"].as_u64()), (Some(18), Some(2)), "{summary}");

    // SIGTERM gives the points back.
    let world = fake(0..6, "");
    let mut child = start(&world, &["sweep", "fake.toml", "--jobs", "2", "--out", "out", "--quiet"]);
    while workers(&world, "out").is_empty() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(states(&world, "out").values().flatten().count() <= 3, "those that had not begun stay open");
    let summary = world.json(0, &["sweep", "fake.toml", "--jobs", "2", "--out", "out", "--quiet"]);
    assert_eq!((summary["done"].as_u64(), summary["best"]["value"].as_f64()), (Some(6), Some(2.5)), "{summary}");

    // Whoever kills every worker of a point makes it fail.
    let world = fake(0..1, "");
    std::fs::write(world.path("point.sh"), "kill -KILL $PPID; sleep 1").unwrap();
    let summary = world.json(1, &["sweep", "fake.toml", "--out", "out", "--quiet"]);
    assert!(summary["failures"][0]["reason"].as_str().unwrap().contains("died 3 times"), "{summary}");
}

/// A program's own programs outlive it when a worker is killed. The point waits for them, and takes no result that was left half-way.
#[cfg(target_os = "linux")]
#[test]
fn a_point_is_never_worked_on_twice_at_once() {
    let world = fake(0..1, "");
    let script = r#"
out=$2
( mkdir $out/busy || echo twice >> twice; sleep 1; rmdir $out/busy ) &
[ -e $out/first ] && { wait; echo '{"metrics": {"worth": 1}}' > $out/result.json; exit 0; }
touch $out/first
kill -KILL $PPID
sleep 1
"#;
    std::fs::write(world.path("point.sh"), script).unwrap();
    let summary = world.json(0, &["sweep", "fake.toml", "--jobs", "2", "--out", "out", "--quiet"]);
    assert_eq!(summary["done"].as_u64(), Some(1), "{summary}");
    assert!(!world.path("twice").exists());

    let world = fake(0..1, "");
    let script = r#"
[ -e $2/first ] && exit 0
touch $2/first
echo '{"metrics": {"worth": 1}}' > $2/result.json
kill -KILL $PPID
sleep 1
"#;
    std::fs::write(world.path("point.sh"), script).unwrap();
    let summary = world.json(1, &["sweep", "fake.toml", "--out", "out", "--quiet"]);
    assert!(summary["failures"][0]["reason"].as_str().unwrap().contains("left no result.json"), "{summary}");
}

/// What can't be a run is a failed point with its reason, and the others go on; where nothing can be one, nothing is begun.
#[cfg(unix)]
#[test]
fn a_config_that_is_refused_fails_its_point_alone() {
    let world = fake(1..3, "[params]\nenv.lesion_fraction = [0.25, 2.0, 0.5]\n");
    let args = ["sweep", "fake.toml", "--jobs", "2", "--out", "out", "--quiet"];
    for _ in 0..2 {
        let summary = world.json(1, &args);
        assert_eq!((summary["done"].as_u64(), summary["failed"].as_u64()), (Some(4), Some(2)), "{summary}");
        assert!(summary["failures"][0]["reason"].as_str().unwrap().contains("lesion_fraction"), "{summary}");
    }
    let text = String::from_utf8(world.read("fake.toml")).unwrap();
    for (from, to) in [("env.lesion_fraction", "env.lesion_fractoin"), ("[0.25, 2.0, 0.5]", "[2.0, 3.0]")] {
        std::fs::write(world.path("wrong.toml"), text.replace(from, to)).unwrap();
        let ran = world.run(&["sweep", "wrong.toml", "--out", "wrong", "--quiet"]);
        assert!(ran.code == 2 && ran.err.contains("lesion_fract"), "{}", ran.err);
        assert!(!world.path("wrong/points").exists());
    }
    // A draw that is refused does not end a search either, and a search that never began may be mended.
    let drawn = format!("sampler = \"random\"\nn_trials = 60\n{text}");
    std::fs::write(world.path("wrong.toml"), drawn.replace("[0.25, 2.0, 0.5]", "[2.0, 3.0]")).unwrap();
    assert_eq!(world.run(&["sweep", "wrong.toml", "--out", "drawn", "--quiet"]).code, 2);
    std::fs::write(world.path("wrong.toml"), drawn).unwrap();
    for out in ["drawn", "drawn", "fresh"] {
        let summary = world.json(1, &["sweep", "wrong.toml", "--out", out, "--quiet"]);
        assert_eq!((summary["done"].as_u64(), summary["failed"].as_u64()), (Some(4), Some(2)), "{summary}");
    }
    assert_eq!(world.read("drawn/trials.jsonl"), world.read("fresh/trials.jsonl"));

    // A baseline that no row has.
    std::fs::write(world.path("wrong.toml"), text.replace("seeds", "baseline = \"ce\"\nseeds")).unwrap();
    let ran = world.run(&["sweep", "wrong.toml", "--out", "baseline", "--quiet"]);
    assert!(
        ran.code == 2 && ran.err.contains("`baseline` is \"ce\", expected the name of a row, such as env.lesion_fraction=0.25"),
        "{}",
        ran.err
    );
}

/// Points of a changed sweep file are other points: the table has theirs, not what an earlier version of the file has left.
#[cfg(unix)]
#[test]
fn the_table_follows_the_sweep_file() {
    let world = fake(1..3, "overrides = [\"loss.alpha=0.5\"]");
    let args = ["sweep", "fake.toml", "--out", "out", "--quiet"];
    world.json(0, &args);
    let text = String::from_utf8(world.read("fake.toml")).unwrap();
    std::fs::write(world.path("fake.toml"), text.replace("alpha=0.5", "alpha=0.6").replace("[1, 2]", "[1, 2, 3]")).unwrap();
    std::fs::write(world.path("point.sh"), POINT.replace("\\\"worth\\\": $seed", "\\\"worth\\\": 4$seed")).unwrap();
    world.json(0, &args);
    let row = &world.json(0, &["sweep", "table", "out"])["rows"][0];
    assert_eq!((row["seeds"].as_array().unwrap().len(), row["cells"]["worth"]["mean"].as_f64()), (3, Some(42.0)), "{row}");
}

/// The estimator's trials follow from the results alone: a sweep that was killed has the trials of one that was not.
#[cfg(target_os = "linux")]
#[test]
fn tpe_draws_the_same_trials_when_it_was_killed() {
    let world = World::empty();
    std::fs::write(world.path("base.toml"), "").unwrap();
    let point = "alpha=$(sed -n 's/^alpha = //p' $1/config.toml | head -1); sleep 0.03\necho \"{\\\"metrics\\\": {\\\"worth\\\": $alpha}}\" > $1/result.json\n";
    std::fs::write(world.path("point.sh"), point).unwrap();
    let text = "config = \"base.toml\"\nsampler = \"tpe\"\nn_trials = 16\nmetric = \"worth\"\ncommand = [\"sh\", \"point.sh\", \"{out}\"]\n\
                [params]\nloss.alpha = { low = 0.0, high = 1.0 }\nenv.reward = [\"dice\", \"any_overlap\"]\n";
    std::fs::write(world.path("t.toml"), text).unwrap();
    let run = |out: &str| world.json(0, &["sweep", "t.toml", "--jobs", "2", "--out", out, "--quiet"]);
    let whole = run("whole");
    for of in [3, 9] {
        let mut child = start(&world, &["sweep", "t.toml", "--jobs", "2", "--out", "killed", "--quiet"]);
        let began = Instant::now();
        while states(&world, "killed").values().count() < 1 || std::fs::read_dir(world.path("killed/points")).unwrap().count() < of {
            assert!(began.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "nothing moves");
            std::thread::sleep(Duration::from_millis(3));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let killed = run("killed");
    assert_eq!(world.read("whole/trials.jsonl"), world.read("killed/trials.jsonl"));
    assert_eq!((&whole["best"], whole["done"].as_u64()), (&killed["best"], Some(16)));
    let best = whole["best"]["value"].as_f64().unwrap();
    assert!(best > 0.8, "{whole}");
    // With other ranges it would be another sweep.
    std::fs::write(world.path("t.toml"), text.replace("high = 1.0", "high = 2.0")).unwrap();
    let ran = world.run(&["sweep", "t.toml", "--out", "killed", "--quiet"]);
    assert!(ran.code == 2 && ran.err.contains("began with another sampler or other params"), "{}", ran.err);
}

#[test]
fn methods_share_a_focus_and_are_compared() {
    let world = World::new();
    let sweep = r#"
config = "tiny.toml"
overrides = ["train.steps=4", "train.validate_every=4", "train.freeze_focus=true", "screen.second_look=false"]
seeds = [1, 2]
[judge]
decoders = ["threshold", "greedy_apart", "soft_apart"]
soft_decays = [0, 1]
[shared.focus]
key = "init_focus_from"
overrides = ["train.steps=6", "train.validate_every=6", "train.checkpoint_every=0"]
[[methods]]
name = "ce"
overrides = ["objective.name=ce", "loss.alpha=0"]
[[methods]]
name = "grl"
"#;
    std::fs::write(world.path("s.toml"), sweep).unwrap();
    let run = ["sweep", "s.toml", "--jobs", "2", "--out", "out", "--quiet"];
    let summary = world.json(0, &run);
    assert_eq!((summary["points"].as_u64(), summary["done"].as_u64()), (Some(5), Some(5)), "{summary}");
    let focus: std::collections::BTreeSet<Vec<u8>> =
        world.tree("out/points").into_iter().filter(|(path, _)| path.ends_with("focus.safetensors")).map(|(_, bytes)| bytes).collect();
    assert_eq!(focus.len(), 1, "one Focus, which nobody changed");
    let table = world.json(0, &["sweep", "table", "out"]);
    let names: Vec<&str> = table["rows"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ce", "grl", "Focus everywhere", "oracle"]);
    let kept = |row: usize| table["rows"][row]["cells"]["threshold_95/windows_kept"]["mean"].as_f64().unwrap();
    assert!(kept(2) == 1.0 && (0..2).all(|row| kept(3) <= kept(row) && kept(row) <= 1.0), "{table}");
    assert!(table["rows"][1]["cells"]["at_0.9/windows_kept"]["difference"].is_number());
    let before = world.tree("out/points");
    let results = before.iter().filter(|(path, _)| path.ends_with("result.json")).map(|(_, bytes)| bytes);
    let judged: Vec<Value> =
        results.map(|r| serde_json::from_slice::<Value>(r).unwrap()["metrics"].take()).filter(|m| m["test_scans"].is_number()).collect();
    assert_eq!(judged.len(), 4);
    for metrics in judged {
        let of = |decoder: &str, what: &str| metrics[format!("{decoder}_95/{what}")].clone();
        // Recall has no value where Focus finds nothing anywhere.
        for what in ["threshold", "validation_windows_kept", "windows_kept", "relative_recall"] {
            assert_eq!(of("soft_apart_decay0", what), of("threshold", what), "{what}: {metrics}");
        }
        let kept = |decoder: &str| of(decoder, "validation_windows_kept").as_f64().unwrap();
        assert!((0.0..=1.0).contains(&kept("soft_apart_decay1")), "{metrics}");
    }
    world.json(0, &run);
    assert!(before == world.tree("out/points"), "a second start changes nothing");
}

/// A sampler draws what it drew before as soon as there are few values: such a trial is over at once, and the next one comes.
#[cfg(unix)]
#[test]
fn a_trial_that_is_known_already_does_not_end_the_drawing() {
    let world = fake(1..2, "sampler = \"tpe\"\nn_trials = 6\n[params]\nenv.lesion_fraction = [0.25, 0.5]\n");
    let summary = world.json(0, &["sweep", "fake.toml", "--out", "out", "--quiet"]);
    assert_eq!((summary["points"].as_u64(), summary["done"].as_u64()), (Some(2), Some(2)), "{summary}");
    assert_eq!(world.read("out/trials.jsonl").iter().filter(|b| **b == b'\n').count(), 6);
}

/// Points that can't begin are no success: a row of equal failures of what they share goes on through them.
#[cfg(unix)]
#[test]
fn shared_runs_that_all_fail_stop_the_sweep() {
    let world = World::new();
    let sweep = r#"
config = "tiny.toml"
overrides = ["train.freeze_focus=true"]
seeds = [1, 2, 3, 4, 5, 6, 7, 8]
stop_after_failures = 3
[shared.focus]
key = "init_focus_from"
per_seed = true
overrides = ["data.cache_dir=tiny.toml/cache", "train.freeze_focus=false"]
"#;
    std::fs::write(world.path("s.toml"), sweep).unwrap();
    let ran = world.run(&["sweep", "s.toml", "--out", "out", "--quiet"]);
    assert!(ran.code == 1 && ran.err.contains("3 points in a row failed alike"), "{}", ran.err);
}

/// Points share what their Focus sees: the second one finds all of it there, and is still the run that it would be alone, to the last bit.
#[test]
fn a_point_on_what_its_focus_saw_before_is_the_run_alone() {
    let world = World::new();
    let sweep = r#"
config = "tiny.toml"
overrides = ['stages=["selection"]', "selection.fresh_glance=true", "selection.steps=3", "screen.second_look=false", "train.freeze_focus=true"]
seeds = [1, 2]
[judge]
[shared.focus]
key = "init_from"
overrides = ['stages=["gf_screen"]', "train.freeze_focus=false", "train.steps=6", "train.validate_every=6"]
"#;
    std::fs::write(world.path("s.toml"), sweep).unwrap();
    let summary = world.json(0, &["sweep", "s.toml", "--out", "out", "--quiet"]);
    assert_eq!(summary["done"].as_u64(), Some(3), "{summary}");
    let votes = world.tree("out/cache").into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "votes")).count();
    assert_eq!(votes, 6, "each scan once, for training, validation and test");
    for point in std::fs::read_dir(world.path("out/points")).unwrap().map(|p| p.unwrap().file_name().into_string().unwrap()) {
        let record: Value = serde_json::from_slice(&world.read(&format!("out/points/{point}/point.json"))).unwrap();
        if record["shared"] == true {
            continue;
        }
        let alone = format!("alone-{point}");
        world.ok(&["train", &format!("out/points/{point}/config.toml"), "--out", &alone, "--quiet"]);
        let run = format!("out/points/{point}/run");
        assert_eq!(world.log(&run), world.log(&alone));
        assert_eq!(world.read(&format!("{run}/operating.json")), world.read(&format!("{alone}/operating.json")));
    }
}

#[test]
fn halving_prunes_and_the_survivor_is_the_run_that_was_not_halted() {
    let world = World::new();
    let sweep = r#"
config = "tiny.toml"
overrides = ["train.validate_every=3", "train.keep_checkpoints=9"]
sampler = "random"
n_trials = 4
pruner = { name = "successive_halving", min_resource = 3, reduction_factor = 2 }
[params]
optim.focus.lr = { low = 1e-4, high = 1e-2, log = true }
env.lesion_fraction = [0.3, 0.7]
"#;
    std::fs::write(world.path("s.toml"), sweep).unwrap();
    let summary = world.json(0, &["sweep", "s.toml", "--jobs", "2", "--out", "out", "--quiet"]);
    assert_eq!((summary["done"].as_u64(), summary["pruned"].as_u64()), (Some(1), Some(3)), "{summary}");
    let done = world.tree("out/points").into_iter().find(|(path, _)| path.ends_with("result.json")).unwrap().0;
    let id = done.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    world.ok(&["train", &format!("out/points/{id}/config.toml"), "--out", "straight", "--quiet"]);
    let (halted, straight) = (world.log(&format!("out/points/{id}/run")), world.log("straight"));
    assert_eq!(halted, straight);
}

#[test]
fn parts_of_a_cohort_are_screened_side_by_side_and_a_run_is_reported() {
    let world = World::trained();
    std::fs::create_dir(world.path("scans")).unwrap();
    for i in 0..5 {
        std::fs::copy(world.path("data/imagesTr/phantom_0002_0000.nii.gz"), world.path(&format!("scans/{i}.nii.gz"))).unwrap();
    }
    let screen = |shard: &str, code| {
        world.json(code, &["screen", "scans", "--model", "runs/tiny", "--out", "out", "--quiet", "--no-preview", "--shard", shard])
    };
    let cases = |summary: &Value| -> Vec<String> {
        summary["cases"].as_array().unwrap().iter().map(|c| c["case"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(cases(&screen("1/2", 0)), ["0", "2", "4"]);
    assert_eq!(cases(&screen("2/2", 0)), ["1", "3"]);
    assert!(world.path("out/summary-2-of-2.tsv").exists() && !world.path("out/summary.json").exists());
    let ran = world.run(&["screen", "scans", "--model", "runs/tiny", "--out", "out", "--shard", "3/2"]);
    assert!(ran.code == 2 && ran.err.contains("such as 3/40"), "{}", ran.err);

    let health: Value = serde_json::from_slice(&world.read("runs/tiny/health.json")).unwrap();
    assert!(health["summary"].as_str().unwrap().contains("12 steps"), "{health}");
    let report = world.json(0, &["report", "runs/tiny", "--quiet"]);
    assert_eq!(report["report"], "runs/tiny/report/index.html");
    let html = String::from_utf8(world.read("runs/tiny/report/index.html")).unwrap();
    for part in ["data:image/gif;base64,", "data:image/png;base64,", "Health", "its own choice", "The order of looks"] {
        assert!(html.contains(part), "{part}");
    }
}

/// The settings of a Slurm that answers: the one around us, or the one of `scripts/slurm_single_node.sh start`.
#[cfg(unix)]
fn slurm() -> Option<std::path::PathBuf> {
    let conf = std::env::var_os("SLURM_CONF").map_or("/tmp/panscreen-slurm/slurm.conf".into(), std::path::PathBuf::from);
    let answers = std::process::Command::new("sinfo").env("SLURM_CONF", &conf).stdout(Stdio::null()).stderr(Stdio::null()).status();
    answers.is_ok_and(|status| status.success()).then_some(conf)
}

/// On a real slurmctld and slurmd: job arrays, a task whose worker is killed, a sweep that is killed and adopts what it had submitted.
#[cfg(unix)]
#[test]
fn a_slurm_array_does_the_same_points() {
    let Some(conf) = slurm() else {
        eprintln!("SKIPPED a_slurm_array_does_the_same_points: no Slurm answers; `scripts/slurm_single_node.sh start` starts one");
        return;
    };
    let world = fake(4..12, "");
    let args = ["sweep", "fake.toml", "--launcher", "slurm", "--jobs", "4", "--out", "out", "--quiet", "--json"];
    std::fs::write(world.path("point.sh"), POINT.replace("sleep 0.1", "sleep 1.5")).unwrap();
    let mut child = world.command(&args).env("SLURM_CONF", &conf).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let mut victim = None;
    while victim.is_none() {
        assert!(began.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "no task begins");
        victim = workers(&world, "out").first().copied();
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    kill(victim.unwrap());
    let output = world.command(&args).env("SLURM_CONF", &conf).output().unwrap();
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!((output.status.code(), summary["done"].as_u64(), summary["failed"].as_u64()), (Some(1), Some(6), Some(2)), "{summary}");
    let mut finished: Vec<u64> = String::from_utf8(world.read("finished")).unwrap().lines().map(|l| l.parse().unwrap()).collect();
    finished.sort_unstable();
    assert_eq!(finished, [4, 5, 6, 9, 10, 11], "each came to its end once");
    assert!(world.path("out/slurm/batch-1.json").exists());
}

#[cfg(unix)]
#[test]
fn without_slurm_the_sweep_says_so() {
    let world = fake(0..2, "");
    let output = world.command(&["sweep", "fake.toml", "--launcher", "slurm", "--out", "out"]).env("PATH", "/nowhere").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("`squeue` can't be started"), "{said}");
}
