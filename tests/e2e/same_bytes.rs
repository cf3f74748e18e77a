//! Same seed, same bytes, on any number of threads.

use crate::support::World;

#[test]
fn one_thread_and_two_give_the_same_bytes() {
    let world = World::new();
    for threads in ["1", "2"] {
        let at = |name: &str| format!("{name}{threads}");
        world.ok(&["train", "tiny.toml", "--quiet", "--threads", threads, "--out", &at("run")]);
        let data = at("data");
        world.ok(&["data", "phantom", "--cases", "3", "--seed", "9", "--out", &data, "--threads", threads, "--quiet"]);
        let (run, out) = (at("run"), at("out"));
        let more = ["--quiet", "--threads", threads, "--save-probabilities"];
        world.ok(&[&["screen", "data/imagesTr", "--model", &run, "--out", &out][..], &more].concat());
    }
    world.same_run("run1", "run2");
    assert!(world.tree("data1") == world.tree("data2"));
    let (one, two) = (world.tree("out1"), world.tree("out2"));
    // Records and summaries hold seconds.
    for (name, bytes) in one.iter().filter(|(name, _)| !name.to_string_lossy().ends_with("json") && !name.ends_with("summary.tsv")) {
        assert!(*bytes == two[name], "{}", name.display());
    }
}

#[test]
fn another_seed_is_another_run() {
    let world = World::new();
    world.ok(&["train", "tiny.toml", "--quiet", "--out", "a"]);
    world.ok(&["train", "tiny.toml", "--quiet", "--out", "b", "seed=6"]);
    assert_ne!(world.log("a"), world.log("b"));
}
