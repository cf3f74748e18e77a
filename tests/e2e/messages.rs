//! What goes wrong, what is said, and the exit code.

use std::process::Stdio;

use crate::support::World;

#[test]
fn errors_and_exit_codes() {
    let world = World::new();
    std::fs::create_dir(world.path("empty")).unwrap();
    std::fs::write(world.path("typo.toml"), "[glance]\n\ngruop_size = 16\n").unwrap();
    std::fs::write(world.path("nodata.toml"), "seed = 1\n").unwrap();
    std::fs::write(world.path("listless.toml"), "[data]\nroot = \"nowhere\"\n").unwrap();
    std::fs::create_dir(world.path("thesis")).unwrap();
    std::fs::write(world.path("thesis/thesis.docx"), "").unwrap();
    std::fs::create_dir(world.path("untrained")).unwrap();
    std::fs::copy(world.path("tiny.toml"), world.path("untrained/config.toml")).unwrap();
    let cases: Vec<(&[&str], i32, String)> = vec![
        (
            &["scren"],
            2,
            "error: unrecognized subcommand 'scren'\n\n  tip: a similar subcommand exists: 'screen'\n\nUsage: panscreen [OPTIONS] <COMMAND>\n\n\
             For more information, try '--help'.\n"
                .into(),
        ),
        (
            &["screen", "--modle", "x"],
            2,
            "error: unexpected argument '--modle' found\n\n  tip: a similar argument exists: '--model'\n\n\
             Usage: panscreen screen --out <DIR> --model <RUN> [INPUT|KEY=VALUE]...\n\nFor more information, try '--help'.\n"
                .into(),
        ),
        (
            &["train", "typo.toml"],
            2,
            "error: unknown key `gruop_size` in table `glance`\n --> typo.toml:3:1\n  |\n3 | gruop_size = 16\n  | ^^^^^^^^^^ not a key of [glance]\n\
             hint: did you mean `group_size`?\n"
                .into(),
        ),
        (
            &["train", "tiny.toml", "train.stps=3"],
            2,
            "error: unknown key `stps` in table `train`\n  --> command line: train.stps=3\n                          ^^^^ not a key of [train]\n\
             hint: did you mean `steps`?\n"
                .into(),
        ),
        (
            &["train", "tniy.toml"],
            2,
            "error: cannot read the config tniy.toml: No such file or directory (os error 2)\n\nhint: did you mean tiny.toml?\n".into(),
        ),
        (
            &["train", "nodata.toml"],
            2,
            "error: the config names no data; give `data.root=PATH` (a folder of scans, or one with a dataset.json)\n".into(),
        ),
        (&["train", "listless.toml"], 3, "error: nowhere: No such file or directory (os error 2); check the path\n".into()),
        (
            &["train", "tiny.toml", "--out", "thesis"],
            3,
            "error: thesis: files but no config.toml, expected an empty folder or a run; choose another run name\n".into(),
        ),
        (
            &["screen", "data/imagesTr", "--model", "missing", "--out", "o"],
            2,
            "error: missing: no run in this folder (it has no config.toml)\n\nhint: --model takes the folder of a run that `panscreen train` made, \
             such as runs/demo\n"
                .into(),
        ),
        (
            &["screen", "data/imagesTr", "--model", "untrained", "--out", "o"],
            2,
            "error: untrained: no checkpoint; train first: `panscreen train untrained`\n".into(),
        ),
        (
            &["screen", "empty", "--model", "untrained", "--out", "o"],
            3,
            "error: empty: no scan (NIfTI, DICOM, NRRD or MetaImage), expected a folder of scans; check the path\n".into(),
        ),
        (
            &["screen", "data/imagesTr", "data.root=x", "--model", "untrained", "--out", "o"],
            2,
            "error: `data.root=x` can't be overridden in screening\n\nhint: the networks fit the settings they were trained with; `screen.*`, \
             `device`, `precision` and `threads` may differ\n"
                .into(),
        ),
        (
            &["screen", "--from-probabilities", "empty", "--mask-threshold", "0.5", "--out", "o"],
            3,
            "error: empty: no *_probability.nii.gz, expected saved probabilities; screen with --save-probabilities first\n".into(),
        ),
        (
            &["evaluate", "--pred", "empty", "--ref", "empty"],
            3,
            "error: empty: no label map (NIfTI, NRRD, MetaImage, DICOM SEG), expected reference masks; check the path\n".into(),
        ),
        (
            &["data", "phantom", "--cases", "3", "--split", "1,1,9", "--out", "o"],
            2,
            "error: phantom split 1 + 1 + 9 does not make up the 3 cases; give counts that do\n".into(),
        ),
        (
            &["data", "phantom", "--cases", "6", "--seed", "4", "--out", "data"],
            3,
            "error: data/phantom.json: a cohort made with other settings or another seed, expected the same ones, to go on with it; \
             choose another folder or remove this one\n"
                .into(),
        ),
        (
            &["data", "phantom", "--cases", "3", "--preset", "dmeo", "--out", "o"],
            2,
            "error: invalid value 'dmeo' for '--preset <PRESET>': unknown phantom preset `dmeo`, expected `demo` or `standard`; choose one of the \
             two\n\nFor more information, try '--help'.\n"
                .into(),
        ),
    ];
    for (args, code, text) in cases {
        let ran = world.run(&[args, if args.len() > 1 { &["--quiet"] } else { &[] }].concat());
        assert_eq!((ran.code, ran.err.as_str(), ran.out.as_str()), (code, text.as_str(), ""), "panscreen {}", args.join(" "));
    }
    assert!(!world.path("o").exists(), "a refused command leaves nothing behind");
    // What the message asked for helps, though the refused run has a folder by now.
    world.ok(&["train", "nodata.toml", "data.root=data", "data.cache_dir=cache", "env.window=[24,24,16]", "train.steps=1", "--quiet"]);
}

#[test]
fn a_run_with_other_settings_is_refused_by_its_keys() {
    let world = World::trained();
    let ran = world.run(&["train", "tiny.toml", "seed=9", "glance.widths=[4,4]", "--quiet"]);
    let text = "error: runs/tiny: this folder holds a run with other settings (glance.widths: [4, 8] there, [4, 4] here, seed: 5 there, 9 here); \
                choose another run name, or give the old values to continue it\n";
    assert_eq!((ran.code, ran.err.as_str()), (2, text));
}

/// The settings of a run may change until it has saved something.
#[test]
fn a_run_that_did_not_get_anywhere_takes_other_settings() {
    let world = World::new();
    std::fs::write(world.path("data/imagesTr/phantom_0001_0000.nii.gz"), "torn").unwrap();
    let ran = world.run(&["train", "tiny.toml", "--quiet"]);
    assert!(ran.code == 3 && ran.err.starts_with("error: 1 case can't be used:\n  phantom_0001: "), "{}", ran.err);
    world.ok(&["train", "tiny.toml", "data.test_cases=[\"phantom_0001\"]", "--quiet"]);
}

#[test]
fn an_instruction_set_that_this_processor_lacks_is_named() {
    let world = World::empty();
    let with = |isa: &str| world.command(&["stages"]).env("PANSCREEN_ISA", isa).output().unwrap();
    let refused = with("avx3");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.starts_with("error: PANSCREEN_ISA is `avx3`, expected one that this processor has: portable"), "{said}");
    assert!(with("portable").status.success());
}

/// `panscreen config explain | head -1`: no panic, no error.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::empty();
    for args in [&["config", "explain"][..], &["stages", "--json"], &["config", "schema"]] {
        let mut child = world.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""), "{args:?}");
    }
}
