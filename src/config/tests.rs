//! Configs as they are written, and what a person reads when one is wrong.

use std::path::Path;

use panscreen_policies::glance::GlanceConfig as GlanceNetwork;
use panscreen_policies::losses::DiceCeConfig;
use panscreen_policies::nets::{PatchMerging, ResNetConfig, SwinUnetrConfig};
use panscreen_policies::objectives::{self, DapoConfig, GrlConfig, ObjectiveKind};

use panscreen_envs::rng::{RngExt, stream};

use super::*;

const CONFIGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");

fn strings(overrides: &[&str]) -> Vec<String> {
    overrides.iter().map(|text| text.to_string()).collect()
}

fn read(text: &str, overrides: &[&str]) -> Result<Config, String> {
    open_text(Path::new("a.toml"), text, &strings(overrides)).map(|loaded| loaded.config).map_err(|error| format!("error: {error}"))
}

fn check_error(text: &str, overrides: &[&str], expected: &str) {
    assert_eq!(read(text, overrides).unwrap_err(), expected);
}

#[test]
fn unknown_keys() {
    check_error(
        "seed = 1\n\n[glance]\n  gruop_size = 16\n",
        &[],
        "error: unknown key `gruop_size` in table `glance`
 --> a.toml:4:3
  |
4 |   gruop_size = 16
  |   ^^^^^^^^^^ not a key of [glance]
hint: did you mean `group_size`?",
    );
    check_error(
        "[trian]\nsteps = 1",
        &[],
        "error: unknown key `trian` at the top level
 --> a.toml:1:2
  |
1 | [trian]
  |  ^^^^^ not a key of the top level
hint: did you mean `train`?",
    );
    check_error(
        &("\n".repeat(11) + "glance = { stem_kernel = 3, epsilon = 1 }"),
        &[],
        "error: unknown key `epsilon` in table `glance`
  --> a.toml:12:29
   |
12 | glance = { stem_kernel = 3, epsilon = 1 }
   |                             ^^^^^^^ not a key of [glance]
hint: `epsilon` is a key of [objective]",
    );
    check_error(
        "optim.glance.momentum = 1",
        &[],
        "error: unknown key `momentum` in table `optim.glance`
 --> a.toml:1:14
  |
1 | optim.glance.momentum = 1
  |              ^^^^^^^^ not a key of [optim.glance]
hint: `panscreen config explain optim.glance` lists the keys",
    );
    check_error(
        "",
        &["glance.gruop_size=16"],
        "error: unknown key `gruop_size` in table `glance`
  --> command line: glance.gruop_size=16
                           ^^^^^^^^^^ not a key of [glance]
hint: did you mean `group_size`?",
    );
    check_error(
        "",
        &["base=other.toml"],
        "error: unknown key `base` at the top level
  --> command line: base=other.toml
                    ^^^^ not a key of the top level
hint: `panscreen config explain` lists the keys",
    );
}

#[test]
fn wrong_values() {
    check_error(
        "[train]\nsteps = \"many\"",
        &[],
        "error: `train.steps` is \"many\", expected a whole number (1 or more)
 --> a.toml:2:9
  |
2 | steps = \"many\"
  |         ^^^^^^ expected a whole number (1 or more)
hint: `panscreen config explain train.steps` says what it does",
    );
    check_error(
        "[backbone]\nshared = \"tide\"",
        &[],
        "error: `backbone.shared` is \"tide\", expected \"none\", \"init\" or \"tied\"
 --> a.toml:2:10
  |
2 | shared = \"tide\"
  |          ^^^^^^ expected \"none\", \"init\" or \"tied\"
hint: did you mean \"tied\"?",
    );
    check_error(
        "",
        &["env.flip_probability= 1.5"],
        "error: `env.flip_probability` is 1.5, expected a number (0 to 1)
  --> command line: env.flip_probability= 1.5
                                          ^^^ expected a number (0 to 1)
hint: `panscreen config explain env.flip_probability` says what it does",
    );
    check_error(
        "",
        &["seed=today"],
        "error: `seed` is \"today\", expected a whole number (0 or more)
  --> command line: seed=today
                         ^^^^^ expected a whole number (0 or more)
hint: `panscreen config explain seed` says what it does",
    );
    // One line each: the title.
    for (text, title) in [
        ("env.window = [24, 24]", "`env.window` has 2 values, expected a list of 3 whole numbers (4 to 512)"),
        ("env.window = [24, 24, 2]", "`env.window[2]` is 2, expected a whole number (4 to 512)"),
        ("env.window = 24", "`env.window` is 24, expected a list of 3 whole numbers (4 to 512)"),
        ("env.window = [24, 24, 16.0]", "`env.window[2]` is 16, expected a whole number (4 to 512)"),
        ("data.windows_hu = []", "`data.windows_hu` has 0 values, expected a list of lists of 2 numbers, at least 1"),
        ("data.windows_hu = [[1, \"2\"]]", "`data.windows_hu[0][1]` is \"2\", expected a number"),
        ("data.lesion_classes = \"some\"", "`data.lesion_classes` is \"some\", expected \"all\" or a list of whole numbers (1 to 255)"),
        ("data.lesion_classes = [0]", "`data.lesion_classes[0]` is 0, expected a whole number (1 to 255)"),
        ("data.crop_foreground = 1", "`data.crop_foreground` is 1, expected true or false"),
        ("data.root = 1979-05-27", "`data.root` is a date, expected a text or \"none\""),
        ("data.phantom = true", "`data.phantom` is true, expected a table or \"none\""),
        ("train = 5", "`train` is 5, expected a table"),
        ("[[train]]\nsteps = 1", "`train` is a list of tables, expected a table"),
        ("seed = { x = 1 }", "`seed` is a table, expected a whole number (0 or more)"),
        ("[seed]\nx = 1", "`seed` is a table, expected a whole number (0 or more)"),
        ("seed = -1", "`seed` is -1, expected a whole number (0 or more)"),
        ("optim.glance.lr = nan", "`optim.glance.lr` is NaN, expected a number (0 to 1)"),
        ("optim.glance.clip_norm = inf", "`optim.glance.clip_norm` is inf, expected a number (0 or more)"),
        ("screen.threshold = 2", "`screen.threshold` is 2, expected \"validation\" or a number (0 to 1)"),
        ("screen.threshold = true", "`screen.threshold` is true, expected \"validation\" or a number (0 to 1)"),
        (
            "focus.kind = \"unet\"",
            "`focus.kind` is \"unet\", expected \"residual_unet\", \"swin_unetr\", \"residual_encoder_unet\", \"dyn_unet\", \"unet3d\" or \"unetr\"",
        ),
        ("seed = 1\nseed = 2", "not valid TOML: duplicate key"),
        ("seed = ", "not valid TOML: string values must be quoted, expected literal string"),
    ] {
        assert_eq!(read(text, &[]).unwrap_err().lines().next().unwrap(), format!("error: {title}"), "{text}");
    }
    for (text, title) in [
        ("seed", "an override without `=`"),
        ("=5", "not valid TOML: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`"),
        ("a b=5", "not valid TOML: key with no value, expected `=`"),
        ("seed=[1", "`seed` is \"[1\", expected a whole number (0 or more)"),
        ("", "an override without `=`"),
    ] {
        assert_eq!(read("", &[text]).unwrap_err().lines().next().unwrap(), format!("error: {title}"), "{text}");
    }
}

#[test]
fn wrong_together() {
    check_error(
        "[env]\nvolumes_per_batch = 3",
        &["glance.group_size=8"],
        "error: `glance.group_size` is 8, expected a divisor of the 12 sub-volumes that `env.group` puts together
  --> command line: glance.group_size=8
                                      ^ does not divide 12
hint: `panscreen config explain glance.group_size` says how groups are made",
    );
    check_error(
        "[focus]\nblocks = [1, 1]\n",
        &[],
        "error: [focus] blocks = [1, 1] and widths = [8, 24, 48] differ in length; give one of each for every level
 --> a.toml:2:10
  |
2 | blocks = [1, 1]
  |          ^^^^^^ here
hint: `panscreen config explain focus` lists the keys",
    );
    for (text, title) in [
        ("name = \"a/b\"", "`name` is \"a/b\", expected letters, digits and . _ - + = (no leading dot)"),
        ("name = \"..\"", "`name` is \"..\", expected letters, digits and . _ - + = (no leading dot)"),
        ("stages = []", "`stages` is empty, expected at least one"),
        ("data.windows_hu = [[250, -175]]", "`data.windows_hu` has the window [250, -175], expected the lower HU first"),
        (
            "env.group = \"volume\"\nenv.crops_per_volume = 1",
            "`env.crops_per_volume` makes groups of 1, expected 2 or more rewards to compare",
        ),
        (
            "env.group = \"masks\"\nglance.group_size = 8",
            "`glance.group_size` does not belong to `env.group = \"masks\"`, whose groups are the selections of a scan",
        ),
        ("optim.focus.betas = [0.9, 1.0]", "[optim.focus] `betas` holds 1, expected numbers from 0 to below 1"),
        (
            "objective = { name = \"rloo\" }",
            "`objective.name = \"rloo\"` needs selections that are scored as sets, which `env.group` does not give",
        ),
        ("objective = { name = \"grpo\", action = \"select\" }", "`objective.action` does not belong to `name = \"grpo\"` of [objective]"),
        ("objective = { name = \"grpo\", epsilon = 0 }", "[objective] `epsilon` is 0, expected a number from 0.000001 to 1"),
        ("objective.advantage.clamp = 0", "[objective] `advantage.clamp` is 0, expected a number > 0"),
        (
            "objective.name = \"gpro\"",
            "`objective.name` is \"gpro\", expected \"grl\", \"grpo\", \"dr_grpo\", \"dapo\", \"gspo\", \"cispo\", \"rloo\", \"reinforce\", \"ppo\", \"exact\", \"ce\", \"balanced_ce\", \"focal\", \"ohem\", \"asymmetric\", \"soft_volume\" or \"best_window\"",
        ),
        ("precision = \"bf16\"", "`precision` is \"bf16\" with `device = \"cpu\"`, expected \"f32\": the kernels for the CPU are f32"),
        ("precision = \"f16\"", "`precision` is \"f16\", expected \"f32\" or \"bf16\""),
        ("screen.scales = [2]", "`screen.scales` is [2], expected 1 among them: wider windows look at what was found through those"),
        (
            "loss.cell_weight = 1\nglance = { kind = \"whole_scan\", second_spacing_mm = 2.0 }",
            "`glance.second_spacing_mm` needs the stage `selection` and `loss.cell_weight` above 0: nothing else teaches the second look",
        ),
        (
            "glance = { kind = \"whole_scan\", second_spacing_mm = 5.0 }",
            "[glance] second_spacing_mm = 5, expected 0, or 0.1 or more and less than spacing_mm",
        ),
        ("glance.hidden = 8", "`glance.hidden` does not belong to `kind = \"resnet3d\"` of [glance]"),
        ("glance = { kind = \"encoder\", widths = [8] }", "`glance.widths` does not belong to `kind = \"encoder\"` of [glance]"),
    ] {
        assert_eq!(read(text, &[]).unwrap_err().lines().next().unwrap(), format!("error: {title}"), "{text}");
    }
    // A part's complaint about a window that is a default still names the file.
    let error = read("focus.strides = [[2, 2, 2], [2, 2, 2], [2, 2, 2]]", &["env.window=[24,24,12]"]).unwrap_err();
    assert!(error.starts_with("error: [focus] a window of [24, 24, 12] voxels") && error.contains("focus.strides"), "{error}");
}

#[test]
fn half_precision_needs_a_gpu() {
    check_error(
        "precision = \"bf16\"\n",
        &[],
        "error: `precision` is \"bf16\" with `device = \"cpu\"`, expected \"f32\": the kernels for the CPU are f32
 --> a.toml:1:13
  |
1 | precision = \"bf16\"
  |             ^^^^^^ needs a GPU
hint: set `precision = \"f32\"`, or `device = \"cuda\"`",
    );
    let half = read("precision = \"bf16\"", &["device=cuda"]).unwrap();
    assert_eq!((half.precision, half.precision.dtype()), (Precision::Bf16, burn::tensor::DType::BF16));
    assert_ne!(half.hash(), read("", &["device=cuda"]).unwrap().hash());
    // A run of a GPU is screened on a CPU so.
    let on_cpu = read("precision = \"bf16\"\ndevice = \"cuda\"", &["device=cpu", "precision=f32"]).unwrap();
    assert_eq!((on_cpu.precision, on_cpu.device), (Precision::F32, Device::Cpu));
}

#[test]
fn overrides() {
    let config = read(
        "[train]\nsteps = 5\n",
        &[
            "train.steps=7",
            "train.steps = 8",
            "env.window=[32, 32,16]",
            "data.root=/data/2024 # x",
            "name=2024-01-31",
            "device = 'cuda'",
            "screen.threshold=validation",
        ],
    )
    .unwrap();
    assert_eq!((config.train.steps, config.env.window, config.name.as_str()), (8, [32, 32, 16], "2024-01-31"));
    assert_eq!((config.data.root.unwrap(), config.device), (PathBuf::from("/data/2024 # x"), Device::Cuda));
    // A table merges, `none` unsets, the order of kind and its keys does not matter.
    let config = read(
        "data.phantom = { seed = 4 }\ninit_from = \"a\"",
        &["init_from=none", "data.phantom={preset=\"standard\"}", "glance.hidden=8", "glance.kind=encoder"],
    )
    .unwrap();
    assert_eq!(
        (config.init_from, config.data.phantom.unwrap()),
        (None, PhantomConfig { preset: PhantomPreset::Standard, seed: 4, ..PhantomConfig::default() })
    );
    assert!(matches!(config.glance.network, GlanceNetwork::Encoder(head) if head.hidden == 8));
}

#[test]
fn every_objective_is_chosen_by_name_and_has_defaults_of_its_own() {
    for info in objectives::all() {
        let config = read("env.group = \"masks\"", &[&format!("objective.name={}", info.name)]).unwrap();
        assert_eq!(config.objective.kind.info(), info);
        assert_eq!(read(&config.to_toml(), &[]).unwrap(), config, "{}", info.name);
    }
    // One key, several meanings: each is explained with its own default.
    let epsilon = explain("objective").unwrap().into_iter().filter(|help| help.key == "objective.epsilon");
    let defaults: Vec<f64> = epsilon.map(|help| help.default.as_f64().unwrap()).collect();
    assert!(defaults.contains(&0.1) && defaults.contains(&0.2) && defaults.contains(&3e-4), "{defaults:?}");
    // A base's settings for another objective are dropped when the name changes later.
    let config = read("[objective]\naction = \"select\"\nmasks = 4", &["objective.name=dapo", "objective.epsilon_high=0.3"]).unwrap();
    assert_eq!(config.objective.kind, ObjectiveKind::Dapo(DapoConfig { epsilon_high: 0.3, ..DapoConfig::default() }));
    assert_eq!(config.objective.masks, 4);
}

#[test]
fn bases() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    let failure = |path: &Path| load(path, &[]).unwrap_err().to_string().replace(&folder.path().display().to_string(), "DIR");
    write("first.toml", "seed = 1\n[glance]\nwidths = [4, 8, 16]\n[env]\nwindow = [32, 32, 32]\n[train]\nsteps = 10\nlog_every = 3");
    write("sub/second.toml", "base = \"../first.toml\"\n[env]\nwindow = [16, 16, 16]\n[train]\nsteps = 20\n");
    let third = write("third.toml", "base = \"sub/second.toml\"\n[glance]\nkind = \"encoder\"\n[train]\npatience = 2");
    let config = load(&third, &strings(&["train.steps=30"])).unwrap();
    assert_eq!((config.name.as_str(), config.seed, config.env.window), ("third", 1, [16, 16, 16]));
    assert_eq!((config.train.steps, config.train.log_every, config.train.patience), (30, 3, 2));
    assert!(matches!(config.glance.network, GlanceNetwork::Encoder(_)));

    // A run folder is loaded by its name.
    write("runs/one/config.toml", &config.to_toml());
    assert_eq!(load(&folder.path().join("runs/one"), &[]).unwrap(), config);

    // A mistake is shown in the file that has it.
    write("bad.toml", "[train]\nstep = 1");
    let error = failure(&write("on_bad.toml", "base = \"bad.toml\""));
    assert!(error.contains(" --> DIR/bad.toml:2:1") && error.ends_with("did you mean `steps`?"), "{error}");

    write("b.toml", "seed = 1\nbase = \"a.toml\"");
    assert_eq!(
        failure(&write("a.toml", "base = \"b.toml\"")),
        "base files go in a circle: a.toml -> b.toml -> a.toml
 --> DIR/b.toml:2:8
  |
2 | base = \"a.toml\"
  |        ^^^^^^^^ leads back
hint: take one `base` out"
    );
    let error = failure(&write("lost.toml", "base = \"nowhere.toml\""));
    assert!(error.starts_with("cannot read the base DIR/nowhere.toml: ") && error.contains(" --> DIR/lost.toml:1:8"), "{error}");
    assert!(failure(&write("odd.toml", "base = 5")).starts_with("`base` names another config file"));
    let error = failure(&folder.path().join("thrid.toml"));
    assert!(
        error.starts_with("cannot read the config DIR/thrid.toml: ") && error.ends_with("\n\nhint: did you mean DIR/third.toml?"),
        "{error}"
    );
}

#[test]
fn shipped_configs_load_and_come_back_as_shown() {
    for name in ["demo", "default", "sarcoma", "whole_scan", "small", "parity/gf_screen"] {
        let config = load(&Path::new(CONFIGS).join(name).with_extension("toml"), &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config.name, name.rsplit('/').next().unwrap());
        let again = read(&config.to_toml(), &[]).unwrap();
        assert_eq!(again, config, "{name}");
        assert_eq!((again.to_toml(), again.hash()), (config.to_toml(), config.hash()));
        if !name.starts_with("parity") {
            assert_eq!(config.compat, CompatConfig::default(), "oddities are for parity");
        }
    }
    let shipped = std::fs::read_dir(CONFIGS).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file()).count();
    assert_eq!(shipped, 5, "a new config belongs into the list above");
}

#[test]
fn parity_is_what_was_published() {
    let config = load(&Path::new(CONFIGS).join("parity/gf_screen.toml"), &[]).unwrap();
    assert_eq!(config.glance.network, GlanceNetwork::Resnet3d(ResNetConfig::published()));
    let swin = SwinUnetrConfig { merging: PatchMerging::Old, checkpointing: true, ..SwinUnetrConfig::default() };
    assert_eq!(config.focus, FocusConfig::SwinUnetr(swin));
    assert_eq!(config.loss.dice_ce, DiceCeConfig::published());
    assert_eq!(config.objective.kind, ObjectiveKind::Grl(GrlConfig::published()));
    assert_eq!(config.group_size(), 16);
}

#[test]
fn every_default_can_be_written() {
    let plain = read("", &[]).unwrap();
    for help in explain("").unwrap() {
        let other_kind = help.doc.contains(" Only with `") && !help.doc.contains("\"resnet3d\"") && !help.doc.contains("\"grl\"");
        // An empty name stands for the name of the file.
        if help.default.is_null() || help.key.starts_with("data.phantom.") || other_kind {
            continue;
        }
        let text = format!("{} = {}", help.key, help.default);
        assert_eq!(read(&text, &[]).as_ref(), Ok(&plain), "{text}");
        assert_eq!(read("", &[&text]).as_ref(), Ok(&plain), "{text}");
    }
}

#[test]
fn hash_sees_results_and_nothing_else() {
    let hash = |overrides: &[&str]| read("", overrides).unwrap().hash();
    for same in ["name=other", "threads=2", "env.workers=0", "data.cache_dir=x", "train.log_every=5", "train.checkpoint_every=7"] {
        assert_eq!(hash(&[same]), hash(&[]), "{same}");
    }
    for other in ["seed=1", "train.steps=5", "optim.glance.lr=1e-3", "glance.widths=[8, 16, 64]", "screen.threshold=0.9"] {
        assert_ne!(hash(&[other]), hash(&[]), "{other}");
    }
}

/// Any text gives a config or a sentence, never a panic: whole configs cut and with a byte replaced.
#[test]
fn damaged_texts_do_not_panic() {
    let text = std::fs::read_to_string(Path::new(CONFIGS).join("demo.toml")).unwrap();
    for at in (0..text.len()).filter(|&at| text.is_char_boundary(at)) {
        let _ = read(&text[..at], &[]);
        for odd in ["\"", "[", "=", "é", "\n", "}", "."] {
            let _ = read(&format!("{}{odd}{}", &text[..at], &text[at + 1..]), &[]);
        }
        let _ = read("", &[&text[at..(at + 30).min(text.len())]]);
    }
}

/// `scripts/fuzz.sh` sets `PANSCREEN_FUZZ_EXECUTIONS` to 200,000.
#[test]
fn damaged_configs_are_refused_and_never_panic() {
    let executions = std::env::var("PANSCREEN_FUZZ_EXECUTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000u64);
    let good: Vec<String> = ["default.toml", "demo.toml", "sarcoma.toml", "parity/gf_screen.toml"]
        .iter()
        .map(|name| std::fs::read_to_string(Path::new(CONFIGS).join(name)).unwrap())
        .collect();
    let pieces = [
        "[",
        "]",
        "{",
        "}",
        "=",
        "\"",
        "-",
        "1e999",
        "nan",
        "inf",
        "99999999999999999999",
        "0",
        "true",
        "\n",
        "#",
        "base = \"x\"",
        ".",
        "\u{1F9A0}",
    ];
    for execution in 0..executions {
        let mut r = stream(7, "config fuzz", 0, execution);
        let mut text: Vec<char> = good[r.random_range(0..good.len())].chars().collect();
        for _ in 0..r.random_range(1..=6) {
            let at = r.random_range(0..text.len());
            let end = (at + r.random_range(0..12)).min(text.len());
            let piece: Vec<char> = pieces[r.random_range(0..pieces.len())].chars().collect();
            match r.random_range(0..4) {
                0 => drop(text.splice(at..at, piece)),
                1 => drop(text.splice(at..end, piece)),
                2 => drop(text.drain(at..end)),
                _ => text[at] = char::from(r.random_range(32..127u8)),
            }
            if text.is_empty() {
                break;
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(e) = open_text(Path::new("fuzz.toml"), &text, &[]) {
            let _ = e.to_string();
        }
    }
}
