//! A cohort before a run: `data check`, `data fingerprint`, `data plan`.

use crate::support::World;

#[test]
fn a_cohort_is_checked_measured_and_planned() {
    let world = World::new();
    // Nothing is wrong with a generated cohort.
    let report = world.json(0, &["data", "check", "data"]);
    assert_eq!((report["cases"].as_u64(), report["errors"].as_u64()), (Some(6), Some(0)), "{report:#}");
    let text = world.ok(&["data", "check", "data/dataset.json", "--config", "tiny.toml"]);
    assert!(text.starts_with("6 cases: 0 can't be used, 0 errors") && text.contains("voxel along S, mm"), "{text}");

    let print = world.json(0, &["data", "fingerprint", "data"]);
    assert_eq!((print["cases"].as_u64(), print["shape"][0]["median"].as_f64()), (Some(6), Some(64.0)));
    assert!(print["lesions"].as_u64().unwrap() > 0 && print["lesion_contrast_hu"]["median"].is_number());
    let text = world.ok(&["data", "fingerprint", "data"]);
    assert!(text.contains("contrast, HU") && text.contains("99.5 %"), "{text}");

    let plan = world.json(0, &["data", "plan", "data", "--memory-gib", "2", "--out", "plan.toml"]);
    assert!(
        plan["rules"].as_array().unwrap().iter().any(|r| r["rule"] == "window" && r["because"].as_str().unwrap().contains("median scan"))
    );
    let shown = world.json(0, &["config", "show", "plan.toml"]);
    for (key, planned) in [("widths", &plan["widths"]), ("strides", &plan["strides"])] {
        assert_eq!(&shown["config"]["focus"][key], planned);
    }
    assert_eq!(shown["config"]["env"]["window"], plan["window"]);
    assert_eq!(shown["config"]["data"]["spacing_mm"], plan["spacing_mm"]);
    // It trains, and with `--config` it stands on that config.
    world.ok(&["train", "plan.toml", "--dry-run", "data.cache_dir=cache", "--quiet"]);
    let text = world.ok(&["data", "plan", "data", "--config", "tiny.toml", "--out", "mine.toml"]);
    assert!(text.contains("train with it: panscreen train mine.toml"), "{text}");
    let shown = world.json(0, &["config", "show", "mine.toml"]);
    assert_eq!((shown["config"]["seed"].as_u64(), shown["config"]["train"]["steps"].as_u64()), (Some(5), Some(12)));
}

#[test]
fn every_faulty_case_is_named_and_the_code_is_3() {
    let world = World::new();
    let images = world.path("data/imagesTr");
    std::fs::write(images.join("phantom_0001_0000.nii.gz"), "torn").unwrap();
    std::fs::remove_file(images.join("phantom_0002_0000.nii.gz")).unwrap();
    std::fs::copy(images.join("phantom_0003_0000.nii.gz"), images.join("phantom_0000_0000.nii.gz")).unwrap();
    let report = world.json(3, &["data", "check", "data"]);
    let found = |words: &str, case: &str| {
        let findings = report["findings"].as_array().unwrap();
        findings.iter().any(|f| f["found"].as_str().unwrap().contains(words) && f["cases"].as_array().unwrap().iter().any(|c| c == case))
    };
    assert!(found("no NIfTI", "phantom_0001") && found("No such file", "phantom_0002") && found("the same voxels 2 times", "phantom_0000"));
    assert_eq!(report["faulty"], 2);
    let ran = world.run(&["data", "check", "data", "--quiet"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, "error: 2 of 6 cases can't be used as they are (2 errors)\n"));
    assert!(
        ran.out.contains("error    phantom_0001: ") && ran.out.contains("warning  phantom_0000, phantom_0003: the same voxels"),
        "{}",
        ran.out
    );
    // What can be read has a fingerprint all the same.
    assert_eq!(world.json(0, &["data", "fingerprint", "data", "--quiet"])["cases"], 4);
    for (args, code, text) in [
        (&["data", "check", "nowhere"][..], 3, "nowhere"),
        (&["data", "plan", "data", "--memory-gib", "0"], 2, "expected a number above 0"),
    ] {
        let ran = world.run(args);
        assert!(ran.code == code && ran.err.contains(text), "{args:?} {}", ran.err);
    }
}
