//! Each choice of the system trains to its end, is validated, and screens.

use crate::support::World;

const PARITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/parity/gf_screen.toml");

#[test]
fn every_choice_trains_to_an_end_and_screens() {
    let world = World::new();
    let tiny = "tiny.toml";
    // The published choices on networks, windows and lengths that fit a test.
    let small = [
        "data.root=data",
        "data.cache_dir=cache",
        "data.lesion_free_lists=[]",
        "env.window=[64, 32, 32]",
        "data.spacing_mm=[5, 5, 5]",
        "env.volumes_per_batch=2",
        "env.crops_per_volume=2",
        "glance.widths=[4, 4, 8, 8]",
        "glance.stem_kernel=3",
        "focus.feature_size=4",
        "focus.depths=[1, 1, 1, 2]",
        "focus.heads=[1, 2, 2, 2]",
        "focus.window=2",
        "optim.focus.schedule.warmup_steps=2",
        "train.steps=6",
        "train.steps_per_epoch=3",
        "screen.overlap=0.5",
    ];
    for (name, config, overrides) in [
        ("dice", tiny, &["env.reward=dice"][..]),
        ("four_cell", tiny, &["env.reward=four_cell", "env.group=volume"]),
        ("masks", tiny, &["env.group=masks", "objective.masks=4"]),
        ("grpo", tiny, &["env.group=masks", "objective.name=grpo", "objective.num_iterations=2", "objective.beta=0.04"]),
        ("exact", tiny, &["env.group=masks", "objective.name=exact"]),
        ("ppo", tiny, &["env.group=masks", "objective.name=ppo", "objective.num_mini_batches=2"]),
        ("best_window", tiny, &["env.group=volume", "objective.name=best_window", "loss.alpha=0"]),
        ("cells", tiny, &["glance.pooling=cells", "loss.cell_weight=30"]),
        ("encoder", tiny, &["glance={ kind = \"encoder\" }"]),
        ("init", tiny, &["glance={ kind = \"encoder\" }", "backbone.shared=init"]),
        ("tied", tiny, &["glance={ kind = \"encoder\" }", "backbone.shared=tied"]),
        (
            "nnunet",
            tiny,
            &["focus={ kind = \"residual_encoder_unet\", widths = [4, 8], blocks = [1, 1] }", "glance={ kind = \"encoder\" }"],
        ),
        ("dyn_unet", tiny, &["focus={ kind = \"dyn_unet\", widths = [4, 6, 8] }", "glance={ kind = \"encoder\" }", "backbone.shared=init"]),
        ("unet3d", tiny, &["focus={ kind = \"unet3d\", width = 4, levels = 3 }", "glance={ kind = \"encoder\" }", "backbone.shared=tied"]),
        ("published", PARITY, &small),
    ] {
        let trained = world.json(0, &[&["train", config, "--quiet", "--out", name], overrides].concat());
        assert!(trained["best"]["step"].is_u64() && trained["operating_point"]["threshold"].is_number(), "{name}: {trained}");
        every_name_is_explained(&world, name);
        let out = format!("{name}-out");
        let screened =
            world.json(0, &["screen", "data/imagesTr/phantom_0005_0000.nii.gz", "--model", name, "--out", &out, "--quiet", "--no-preview"]);
        assert_eq!(screened["screened"], 1, "{name}: {screened}");
        for net in ["glance", "focus"] {
            weights_go_out_and_in(&world, name, net);
        }
    }
}

/// Every name in the run's log is in `docs/metrics.md`.
fn every_name_is_explained(world: &World, run: &str) {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let log = String::from_utf8(world.read(&format!("{run}/metrics.jsonl"))).unwrap();
    for line in log.lines() {
        let values: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        let missing: Vec<&String> = values.keys().filter(|key| !page.contains(&format!("`{key}`"))).collect();
        assert!(missing.is_empty(), "{run}: not in docs/metrics.md: {missing:?}");
    }
}

/// Export, import elsewhere, export again: the same bytes.
fn weights_go_out_and_in(world: &World, run: &str, net: &str) {
    let (file, weights, again) = (format!("{run}-{net}.safetensors"), format!("{run}-weights"), format!("{run}-{net}-again.safetensors"));
    let exported = world.json(0, &["model", "export", run, "--net", net, "--out", &file, "--quiet"]);
    let info = world.json(0, &["model", "info", &file]);
    // Running statistics are numbers and no parameters.
    assert!(info["parameters"].as_u64() >= exported["parameters"].as_u64(), "{run} {net}: {info}");
    let imported = world.json(0, &["model", "import", &file, "--net", net, "--config", run, "--out", &weights, "--quiet"]);
    assert_eq!(imported["coverage"], 1.0, "{run} {net}: {imported}");
    world.json(0, &["model", "export", &weights, "--net", net, "--config", run, "--out", &again, "--quiet"]);
    assert_eq!(std::fs::read(world.path(&file)).unwrap(), std::fs::read(world.path(&again)).unwrap(), "{run} {net}");
}
