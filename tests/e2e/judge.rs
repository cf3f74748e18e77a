//! The judge from outside: protocols over a folder with every kind of fault, several processes on one folder, leaderboards, the container's entry.

use std::path::Path;

use panscreen_envs::io::{open_labels, write_labels};
use panscreen_envs::volume::Geometry;
use serde_json::{Value, json};

use crate::support::World;

const SHAPE: [usize; 3] = [12, 12, 8];

/// A ball of voxels around `at`; nothing with radius 0.
fn ball(at: [f64; 3], radius: f64) -> Vec<u8> {
    let [_, ny, nz] = SHAPE;
    let squared = |i: usize| [i / (ny * nz), i / nz % ny, i % nz].iter().zip(at).map(|(&v, c)| (v as f64 - c).powi(2)).sum::<f64>();
    (0..SHAPE.iter().product()).map(|i| u8::from(radius > 0.0 && squared(i) <= radius * radius)).collect()
}

fn write(path: &Path, mask: &[u8]) {
    write_labels(path, mask, &Geometry::ras(SHAPE, [1.0, 1.0, 2.0], [0.0; 3])).unwrap();
}

/// References `a` to `f` (`e` is lesion-free, the others hold one ball), and predictions: one good, one missing, one empty, one of another shape,
/// one on a lesion-free scan, one shifted.
fn faulty(world: &World) {
    let lesion = ball([5.0, 5.0, 4.0], 3.0);
    for case in ["a", "b", "c", "d", "f"] {
        write(&world.path(&format!("ref/{case}.nii.gz")), &lesion);
    }
    write(&world.path("ref/e.nii.gz"), &[0; 1152]);
    write(&world.path("pred/a.nii.gz"), &ball([5.0, 5.0, 4.0], 2.8));
    write(&world.path("pred/c.nii.gz"), &[0; 1152]);
    write_labels(&world.path("pred/d.nii.gz"), &[1; 1000], &Geometry::ras([10; 3], [1.0; 3], [0.0; 3])).unwrap();
    write(&world.path("pred/e.nii.gz"), &ball([8.0, 8.0, 2.0], 1.0));
    write_labels(&world.path("pred/f.nii.gz"), &lesion, &Geometry::ras(SHAPE, [1.0, 1.0, 2.0], [9.0, 0.0, 0.0])).unwrap();
    write(&world.path("pred/unasked.nii.gz"), &lesion);
}

fn statuses(evaluation: &Value) -> Vec<&str> {
    evaluation["cases"].as_array().unwrap().iter().map(|c| c["status"].as_str().unwrap()).collect()
}

#[test]
fn one_bad_case_never_stops_the_batch_whatever_the_protocol() {
    let world = World::empty();
    faulty(&world);
    let evaluate = |protocol: &str, code| {
        let out = format!("judged_{protocol}");
        world.json(code, &["evaluate", "--protocol", protocol, "--pred", "pred", "--ref", "ref", "--out", &out, "--quiet"])
    };
    for protocol in ["panscreen", "flare24", "gf_screen", "flare_organs", "touchstone"] {
        let e = evaluate(protocol, 1);
        assert_eq!(statuses(&e), ["scored", "missing", "scored", "failed", "scored", "failed"], "{protocol}");
        assert_eq!(e["without_reference"], json!(["unasked"]));
        let s = &e["summary"];
        assert_eq!(json!([s["cases"], s["scored"], s["missing"], s["failed"]]), json!([6, 3, 1, 2]), "{protocol}");
        let structures = match protocol {
            "touchstone" => 9,
            "flare_organs" => 13,
            _ => 1,
        };
        let of = |n: u64| n * structures;
        assert_eq!(s["structures"], json!({"scored": of(3), "missing": of(1), "failed": of(2), "cases_in_part": 0}), "{protocol}");
        assert!(!s["empty_masks"].as_str().unwrap().is_empty() && !s["known_flaws"].as_array().unwrap().is_empty());
        assert!(s["empty_policy"].is_string() && s["metrics"].as_array().unwrap().iter().all(|m| !m["text"].as_str().unwrap().is_empty()));
        for row in s["table"].as_array().unwrap() {
            let m = &row["mean"];
            let n: u64 = ["values", "not_applicable", "failed", "missing"].iter().map(|k| m[*k].as_u64().unwrap()).sum();
            let all = if row["structure"] == "mean of structures" { n } else { 6 };
            assert_eq!(n, all, "{protocol}: every case is in the counts of {row}");
        }
        let files = world.tree(&format!("judged_{protocol}"));
        for name in ["cases.jsonl", "cases.tsv", "summary.json", "table.csv", "table.tex", "index.html"] {
            assert!(files.contains_key(Path::new(name)), "{protocol}: {name}");
        }
        let text = |name: &str| String::from_utf8(files[Path::new(name)].clone()).unwrap();
        assert!(text("table.tex").contains("6 cases (3 scored, 1 missing, 2 failed)"), "{protocol}: {}", text("table.tex"));
        // One page of one method: its worst cases, and nobody to rank it with.
        let page = text("index.html");
        assert!(page.contains("panscreen evaluation") && page.contains("Worst cases") && !page.contains("Rank stability"), "{protocol}");
        assert!(page.contains("data:image/png;base64,") && !page.contains("http://") && !page.contains("https://"), "{protocol}");
        assert!(files.keys().any(|name| name.starts_with("figures") && name.extension().is_some_and(|e| e == "png")), "{protocol}");
        let columns = |line: &str| line.split('\t').count();
        let tsv = text("cases.tsv");
        assert!(tsv.lines().all(|l| columns(l) == columns(tsv.lines().next().unwrap())), "{protocol}: {tsv}");
        assert_eq!(files.contains_key(Path::new("dsc.csv")), protocol == "touchstone");
    }
    // FLARE by hand: only a scores; the lost ones and the two one-sided empties are 0.
    let flare = evaluate("flare24", 1);
    let dsc = &flare["cases"][0]["structures"][0]["values"]["dsc"]["value"];
    assert_eq!(flare["summary"]["table"][0]["mean"]["mean"]["value"].as_f64().unwrap(), dsc.as_f64().unwrap() / 6.0);
    // The published definition calls the false alarm on a lesion-free scan perfect; the output says so.
    let gf = evaluate("gf_screen", 1);
    assert_eq!(gf["cases"][4]["structures"][0]["values"]["case_dice"]["value"], 1.0);
    assert!(gf["summary"]["known_flaws"].to_string().contains("1 on every lesion-free scan"));
    let text = world.ends(1, &["evaluate", "--protocol", "gf_screen", "--pred", "pred", "--ref", "ref", "--quiet"]);
    assert!(
        text.contains("empty masks: policy gf_screen: case_dice: reference empty: 1")
            && text.contains("known flaws:\n  empty_reference_is_perfect:"),
        "{text}"
    );
    // A reference that can't be read is in no mean, and is listed.
    std::fs::write(world.path("ref/a.nii.gz"), "x").unwrap();
    let e = evaluate("panscreen", 1);
    assert_eq!((&e["cases"][0]["status"], &e["summary"]["unjudged"]), (&json!("unjudged"), &json!(1)));
    let text = world.run(&["evaluate", "--protocol", "touchston", "--pred", "pred", "--ref", "ref"]).err;
    assert!(text.starts_with("error: there is no protocol `touchston`; did you mean `touchstone`?"), "{text}");
}

#[test]
fn processes_share_a_folder_and_a_killed_one_loses_nothing() {
    let world = World::empty();
    for i in 0..24 {
        write(&world.path(&format!("ref/c{i:02}.nii.gz")), &ball([5.0, 5.0, 4.0], 3.0));
        write(&world.path(&format!("pred/c{i:02}.nii.gz")), &ball([5.0, 5.0, 4.0], 2.0 + f64::from(i) / 24.0));
    }
    let args = ["evaluate", "--pred", "pred", "--ref", "ref", "--out", "judged", "--quiet", "--threads", "1", "--resamples", "50"];
    // A line that a killed process tore.
    std::fs::create_dir(world.path("judged")).unwrap();
    std::fs::write(world.path("judged/cases.jsonl"), "{\"case\":\"c00\",\"sta").unwrap();
    let children: Vec<_> = (0..4).map(|_| world.command(&args).stdout(std::process::Stdio::null()).spawn().unwrap()).collect();
    assert!(children.into_iter().all(|mut c| c.wait().unwrap().success()));
    let lines = String::from_utf8(world.read("judged/cases.jsonl")).unwrap();
    let cases: Vec<String> =
        lines.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).map(|c| c["case"].as_str().unwrap().to_owned()).collect();
    let distinct: std::collections::BTreeSet<&String> = cases.iter().collect();
    assert_eq!((cases.len(), distinct.len()), (24, 24), "each case once: {cases:?}");
    assert!(!world.path("judged/.claims").exists());
    // Again: nothing is judged anew, and the summary is the same byte for byte.
    let (before, summary) = (world.read("judged/cases.jsonl"), world.read("judged/summary.json"));
    world.ok(&args);
    assert!(before == world.read("judged/cases.jsonl") && summary == world.read("judged/summary.json"));
    // Another prediction under the old name is another result.
    write(&world.path("pred/c03.nii.gz"), &[0; 1152]);
    let e = world.json(0, &args);
    assert_eq!(e["cases"][3]["structures"][0]["values"]["dice"]["value"], 0.0);
    assert_eq!(String::from_utf8(world.read("judged/cases.jsonl")).unwrap().lines().count(), lines.lines().count() + 1);
}

#[test]
fn a_leaderboard_of_three_with_groups_is_one_page() {
    let world = World::empty();
    let mut metadata = String::from("case;age;sex;patient\n");
    for i in 0..20 {
        let radius = if i % 4 == 3 { 0.0 } else { 3.0 };
        write(&world.path(&format!("ref/c{i:02}.nii.gz")), &ball([5.0, 5.0, 4.0], radius));
        write(&world.path(&format!("good/c{i:02}.nii.gz")), &ball([5.0, 5.0, 4.0], radius * 0.95));
        write(&world.path(&format!("poor/c{i:02}.nii.gz")), &ball([6.0, 5.0, 4.0], 2.0 + f64::from(i % 3) / 2.0));
        write(&world.path(&format!("empty/c{i:02}.nii.gz")), &[0; 1152]);
        metadata += &format!("c{i:02};{};{};p{}\n", 40 + i, if i % 2 == 0 { "f" } else { "m" }, i / 2);
    }
    std::fs::remove_file(world.path("poor/c01.nii.gz")).unwrap();
    std::fs::write(world.path("meta.csv"), metadata).unwrap();
    let args = [
        "leaderboard",
        "good",
        "poor",
        "none=empty",
        "--ref",
        "ref",
        "--out",
        "board",
        "--metadata",
        "meta.csv",
        "--resamples",
        "200",
        "--quiet",
    ];
    let board = world.json(0, &args);
    assert_eq!(board["methods"], json!(["good", "poor", "none"]));
    assert_eq!(board["overall"][0]["method"], "good");
    let dice = &board["columns"].as_array().unwrap().iter().find(|c| c["metric"] == "dice").unwrap();
    assert_eq!((&dice["cases"], &dice["not_asked"]), (&json!(15), &json!(5)));
    assert_eq!((&dice["standings"][1]["mean"]["missing"], &dice["common"]), (&json!(1), &json!(14)));
    assert_eq!(dice["pairs"].as_array().unwrap().len(), 3);
    // Two scans a patient are one witness.
    assert_eq!((&dice["pairs"][0]["cases"], &dice["pairs"][0]["units"]), (&json!(15), &json!(10)));
    let tex = String::from_utf8(world.read("board/leaderboard.tex")).unwrap();
    assert!(tex.contains("Lost cases: poor 1 missing and 0 failed, none of the others"), "{tex}");
    let screening = &board["summaries"][0]["screening"];
    assert_eq!(screening["one_to_one"]["counts"], json!({"tp": 15, "fp": 0, "fn": 0}));
    assert_eq!(screening["f1"]["value"], 1.0);
    assert!(dice["standings"][0]["rank_interval"] == json!([1.0, 1.0]) && dice["standings"][0]["first"] == 1.0);
    assert_eq!(board["summaries"][0]["patients"], 10);
    let html = String::from_utf8(world.read("board/index.html")).unwrap();
    for part in ["Rank stability: dice", "FROC", "column better than row", "Worst cases", "good: dice by sex", "data:image/png;base64,"] {
        assert!(html.to_lowercase().contains(&part.to_lowercase()), "{part}");
    }
    assert!(!html.contains("http://") && !html.contains("https://"));
    for file in [
        "ranks.csv",
        "tests.csv",
        "scores.csv",
        "leaderboard.tex",
        "leaderboard.json",
        "figures/froc.svg",
        "figures/froc.png",
        "methods/poor/cases.tsv",
    ] {
        assert!(world.path(&format!("board/{file}")).is_file(), "{file}");
    }
    let again = world.json(0, &args);
    assert_eq!(board, again, "the same cases and seed give the same leaderboard");
}

#[test]
fn touchstone_goes_out_and_comes_back() {
    let world = World::empty();
    // Organ files as TotalSegmentator names them, and a label map as a prediction of the same.
    let (liver, spleen) = (ball([4.0, 4.0, 4.0], 3.0), ball([9.0, 9.0, 5.0], 2.0));
    for case in ["s1", "s2"] {
        write(&world.path(&format!("ref/{case}/segmentations/liver.nii.gz")), &liver);
        write(&world.path(&format!("ref/{case}/segmentations/spleen.nii.gz")), &spleen);
        write(&world.path(&format!("ref/{case}/segmentations/gallbladder.nii.gz")), &[0; 1152]);
        write(&world.path(&format!("organs/{case}/predictions/liver.nii.gz")), &liver);
    }
    let both: Vec<u8> = liver.iter().zip(&spleen).map(|(l, s)| if *l > 0 { 5 } else { 8 * s }).collect();
    write(&world.path("maps/s1.nii.gz"), &both);
    // A case that lacks organs is no missing case, and its missing organs are counted; a case without any is.
    for (method, cases, structures) in [
        ("organs", json!([2, 0, 0]), json!({"scored": 2, "missing": 4, "failed": 0, "cases_in_part": 2})),
        ("maps", json!([1, 1, 0]), json!({"scored": 3, "missing": 3, "failed": 0, "cases_in_part": 0})),
    ] {
        let out = format!("judged_{method}");
        let s = &world.json(0, &["evaluate", "--protocol", "touchstone", "--pred", method, "--ref", "ref", "--out", &out, "--quiet"])["summary"];
        assert_eq!(json!([s["scored"], s["missing"], s["failed"]]), cases, "{method}");
        assert_eq!(s["structures"], structures, "{method}");
        let of_structures = s["table"].as_array().unwrap().iter().find(|r| r["structure"] == "mean of structures").unwrap();
        assert!(of_structures["interval"].is_object(), "{of_structures}");
    }
    // An organ that can't be read fails alone, and the exit code says so.
    std::fs::create_dir_all(world.path("torn/s1/segmentations")).unwrap();
    std::fs::copy(world.path("organs/s1/predictions/liver.nii.gz"), world.path("torn/s1/segmentations/liver.nii.gz")).unwrap();
    std::fs::write(world.path("torn/s1/segmentations/spleen.nii.gz"), "").unwrap();
    let e = world.json(1, &["evaluate", "--protocol", "touchstone", "--pred", "torn", "--ref", "ref", "--quiet"]);
    assert_eq!(statuses(&e), ["scored", "missing"]);
    assert_eq!(e["summary"]["structures"], json!({"scored": 1, "missing": 4, "failed": 1, "cases_in_part": 1}));
    let csv = |method: &str| String::from_utf8(world.read(&format!("judged_{method}/dsc.csv"))).unwrap();
    let perfect = |mask: &[u8]| {
        let n: f64 = mask.iter().map(|&v| f64::from(v)).sum();
        format!("{:?}", 2.0 * n / (2.0 * n + 1.0))
    };
    let heading = "name,aorta,gall_bladder,kidney_left,kidney_right,liver,pancreas,postcava,spleen,stomach\n";
    let (l, s) = (perfect(&liver), perfect(&spleen));
    // An organ file that is missing, and a case that is missing, are the worst; an organ that the reference lacks is not scored.
    assert_eq!(csv("organs"), format!("{heading}s1,,,,,{l},,,0.0,\ns2,,,,,{l},,,0.0,\n"));
    assert_eq!(csv("maps"), format!("{heading}s1,,,,,{l},,,{s},\ns2,,,,,0.0,,,0.0,\n"));
    let board = world.json(
        0,
        &["leaderboard", "judged_organs", "judged_maps", "--protocol", "touchstone", "--out", "board", "--resamples", "50", "--quiet"],
    );
    let column = |structure: &str| {
        board["columns"].as_array().unwrap().iter().find(|c| c["structure"] == structure && c["metric"] == "dsc").unwrap().clone()
    };
    let mean = column("liver")["standings"][0]["mean"]["mean"]["value"].as_f64().unwrap();
    assert!((mean - l.parse::<f64>().unwrap()).abs() < 1e-12, "{mean} and {l}");
    assert_eq!(column("mean of cases")["cases"], 2);
    let html = String::from_utf8(world.read("board/index.html")).unwrap();
    assert!(html.contains("These methods: DSC x 100") && html.contains("Published: mean DSC x 100"));
    let tex = String::from_utf8(world.read("board/leaderboard.tex")).unwrap();
    // A released table has a 0 for what was lost, and says no more.
    assert!(tex.contains("No structures were lost"), "{tex}");
}

#[test]
fn the_containers_entry_keeps_flares_contract() {
    let world = World::trained();
    let entry = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/flare/predict.sh");
    let scan = "data/imagesTr/phantom_0000_0000.nii.gz";
    // The image's model: what the Dockerfile takes of a run, and nothing else.
    let dockerfile = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/flare/Dockerfile")).unwrap();
    let taken: Vec<String> = dockerfile
        .lines()
        .filter(|l| l.starts_with("COPY"))
        .flat_map(str::split_whitespace)
        .filter_map(|word| word.strip_prefix("${RUN}/"))
        .map(|name| name.replace(['[', ']'], ""))
        .collect();
    assert_eq!(taken, ["config.toml", "operating.json", "checkpoints"]);
    for (path, bytes) in world.tree("runs/tiny").into_iter().filter(|(path, _)| taken.iter().any(|t| path.starts_with(t))) {
        let to = world.path("model").join(path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
    let report = world.json(0, &["submit", "check", scan, "--model", "model", "--entry", entry, "--quiet"]);
    let launch = &report["launches"][0];
    let rules = launch["rules"].as_array().unwrap();
    assert!(report["passed"] == true && rules.len() == 8 && rules.iter().all(|r| r["passed"] != false), "{report}");
    assert!(launch["seconds"].as_f64().unwrap() > 0.0);
    // The figures go into a FLARE evaluation.
    std::fs::write(world.path("submit.json"), report.to_string()).unwrap();
    let evaluate = [
        "evaluate",
        "--protocol",
        "flare24",
        "--pred",
        "data/labelsTr",
        "--ref",
        "data/labelsTr",
        "--efficiency",
        "submit.json",
        "--quiet",
    ];
    assert_eq!(world.json(0, &evaluate)["summary"]["efficiency"]["launches"], 1);
    // An entry that leaves more than it may, or nothing, fails by name.
    std::fs::write(world.path("bad.sh"), "touch \"$OUTPUTS/notes.txt\"; exit 4\n").unwrap();
    let text = world.ends(1, &["submit", "check", scan, "--model", "runs/tiny", "--entry", "bad.sh", "--quiet"]);
    let line = |rule: &str| text.lines().find(|l| l.starts_with(rule)).unwrap_or_else(|| panic!("{rule} in {text}"));
    assert!(line("ends with 0").contains("FAIL  exit code 4") || line("ends with 0").contains("FAIL"), "{text}");
    assert!(line("leaves phantom_0000.nii.gz and nothing else").contains("FAIL") && text.ends_with("FAILED\n"), "{text}");
}

#[test]
fn a_budget_is_kept_and_told() {
    let world = World::trained();
    let scan = "data/imagesTr/phantom_0001_0000.nii.gz";
    world.ok(&[
        "screen",
        scan,
        "--model",
        "runs/tiny",
        "--out",
        "none",
        "--budget-seconds",
        "0.001",
        "--threshold",
        "0",
        "--no-preview",
        "--quiet",
    ]);
    let record: Value = serde_json::from_slice(&world.read("none/phantom_0001.json")).unwrap();
    assert_eq!(record["windows"]["kept"], 0);
    assert!(record["warnings"].to_string().contains("chosen windows not looked at"), "{record}");
    assert!(open_labels(&world.path("none/phantom_0001.nii.gz")).unwrap().data.iter().all(|&v| v == 0));
    world.ok(&["screen", scan, "--model", "runs/tiny", "--out", "free", "--no-preview", "--quiet"]);
    world.ok(&["screen", scan, "--model", "runs/tiny", "--out", "ample", "--budget-seconds", "600", "--no-preview", "--quiet"]);
    assert!(world.read("free/phantom_0001.nii.gz") == world.read("ample/phantom_0001.nii.gz"));
}
