//! From a generated cohort to a judged mask.

use serde_json::{Value, json};

use crate::support::{World, same_header};

const SCAN: &str = "data/imagesTr/phantom_0000_0000.nii.gz";

/// Status of each case by name.
fn statuses(summary: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    summary["cases"].as_array().unwrap().iter().map(|c| (text(&c["case"]), text(&c["status"]))).collect()
}

fn with_status(summary: &Value, status: &str) -> Vec<String> {
    statuses(summary).into_iter().filter(|(_, s)| s == status).map(|(case, _)| case).collect()
}

#[test]
fn cohort_train_screen_evaluate() {
    let world = World::new();
    let trained = world.json(0, &["train", "tiny.toml", "--quiet"]);
    assert!(world.path(trained["checkpoint"].as_str().unwrap()).join("glance.safetensors").exists(), "{trained}");
    assert!(trained["best"]["step"] == 6 || trained["best"]["step"] == 12, "{trained}");
    assert!(trained["operating_point"]["threshold"].is_number(), "{trained}");

    // A broken file is listed, the others are screened.
    std::fs::write(world.path("data/imagesTr/broken.nii.gz"), "no scan").unwrap();
    let screen = ["screen", "data/imagesTr", "--model", "runs/tiny", "--out", "out", "--quiet", "--save-probabilities"];
    let summary = world.json(1, &screen);
    assert_eq!((with_status(&summary, "screened").len(), with_status(&summary, "failed")), (6, vec!["broken".into()]));
    let cause = summary["cases"][0]["cause"].as_str().unwrap();
    assert!(cause.starts_with("content that is no NIfTI, DICOM or NRRD header"), "{cause}");
    let said = world.run(&screen).err;
    assert!(said.starts_with("warning: data/imagesTr/broken.nii.gz: content that is no NIfTI, DICOM or NRRD header"), "{said}");
    std::fs::remove_file(world.path("data/imagesTr/broken.nii.gz")).unwrap();

    for case in ["phantom_0000", "phantom_0003"] {
        same_header(&world.path(&format!("data/imagesTr/{case}_0000.nii.gz")), &world.path(&format!("out/{case}.nii.gz")));
        assert!(world.read(&format!("out/{case}.png")).starts_with(b"\x89PNG"));
    }
    let record: Value = serde_json::from_slice(&world.read("out/phantom_0002.json")).unwrap();
    for key in ["verdict", "lesions", "windows", "costs", "input_blake3", "model_blake3", "settings_blake3", "step"] {
        assert!(!record[key].is_null(), "{key} in {record}");
    }

    // Everything was there, and nothing is written again.
    let before = world.tree("out");
    let summary = world.json(0, &screen);
    assert_eq!(with_status(&summary, "already_there").len(), 6, "{summary}");
    let after = world.tree("out");
    assert!(
        before
            .iter()
            .filter(|(name, _)| !name.starts_with("summary.json") && !name.starts_with("summary.tsv"))
            .all(|(n, b)| after[n] == *b)
    );

    // Another scan under the old name, and a mask that somebody has changed: both are done again.
    std::fs::copy(world.path("data/imagesTr/phantom_0001_0000.nii.gz"), world.path(SCAN)).unwrap();
    std::fs::write(world.path("out/phantom_0003.nii.gz"), "x").unwrap();
    assert_eq!(with_status(&world.json(0, &screen), "screened"), ["phantom_0000", "phantom_0003"]);
    assert_eq!(world.read("out/phantom_0000.nii.gz"), world.read("out/phantom_0001.nii.gz"));

    // The same decision from saved probabilities.
    let decided = world.json(0, &["screen", "--from-probabilities", "out", "--mask-threshold", "0.5", "--out", "again", "--quiet"]);
    assert_eq!(decided["screened"], 6);
    let voxels = |name: &str| panscreen_envs::io::open_labels(&world.path(name)).unwrap().data;
    assert_eq!(voxels("again/phantom_0002.nii.gz"), voxels("out/phantom_0002.nii.gz"));

    // Other settings are another result.
    let all = world.json(0, &[&screen[..], &["--select", "all"]].concat());
    assert_eq!(with_status(&all, "screened").len(), 6);
    assert_eq!(all["cases"][0]["windows"], all["cases"][0]["windows_kept"]);
    let few = world.json(0, &[&screen[..], &["--keep-fraction", "0.1", "screen.second_look=false"]].concat());
    assert_eq!(few["cases"][1]["windows_kept"].as_u64(), few["cases"][1]["windows"].as_u64().map(|n| (n as f64 * 0.1).round() as u64));

    // Missing, failed and scored are three things.
    let evaluate = ["evaluate", "--pred", "out", "--ref", "data/labelsTr", "--out", "judged", "--quiet"];
    let counts = |e: &Value| json!([e["summary"]["cases"], e["summary"]["scored"], e["summary"]["missing"], e["summary"]["failed"]]);
    let evaluation = world.json(0, &evaluate);
    assert_eq!(counts(&evaluation), json!([6, 6, 0, 0]));
    assert_eq!(evaluation["without_reference"], json!([]));
    std::fs::remove_file(world.path("out/phantom_0004.nii.gz")).unwrap();
    std::fs::write(world.path("out/phantom_0005.nii.gz"), "x").unwrap();
    let evaluation = world.json(1, &evaluate);
    assert_eq!(counts(&evaluation), json!([6, 4, 1, 1]));
    let written: Value = serde_json::from_slice(&world.read("judged/evaluation.json")).unwrap();
    assert_eq!(written["summary"], evaluation["summary"]);
    let lines = String::from_utf8(world.read("judged/cases.tsv")).unwrap();
    assert_eq!(lines.lines().count(), 7);
    let text = world.ends(1, &evaluate);
    assert!(text.contains("\n6 cases (4 scored, 1 missing, 1 failed); "), "{text}");
    // Probability maps lie beside the masks: findings are scored by them, and their calibration is known.
    assert_eq!(evaluation["summary"]["screening"]["scores"], "probability");
}

#[test]
fn names_that_collide_are_refused() {
    let world = World::trained();
    std::fs::create_dir(world.path("other")).unwrap();
    std::fs::copy(world.path(SCAN), world.path("other/phantom_0000_0000.nii.gz")).unwrap();
    let summary = world.json(1, &["screen", SCAN, "other", "--model", "runs/tiny", "--out", "out", "--no-preview", "--quiet"]);
    assert_eq!(statuses(&summary).iter().map(|(_, s)| s.as_str()).collect::<Vec<_>>(), ["screened", "failed"]);
    let cause = summary["cases"][1]["cause"].as_str().unwrap();
    assert_eq!(cause, format!("its results would be named `phantom_0000` as those of {SCAN}; screen it into another folder"));
    assert!(!world.path("out/phantom_0000.png").exists());

    // The mask of a scan is never written over the scan.
    std::fs::copy(world.path(SCAN), world.path("other/liver.nii.gz")).unwrap();
    let before = world.read("other/liver.nii.gz");
    let summary = world.json(1, &["screen", "other", "--model", "runs/tiny", "--out", "other", "--quiet"]);
    assert_eq!(with_status(&summary, "failed"), ["liver"]);
    assert!(before == world.read("other/liver.nii.gz"));
}
