use super::super::checkpoint::{Direct, Tape};
use super::super::golden::{self, B};
use super::*;
use crate::weights;
use crate::weights::layout::Layout;
use burn::backend::Flex;

fn tiny(merging: PatchMerging) -> SwinUnetrConfig {
    SwinUnetrConfig { feature_size: 12, merging, ..SwinUnetrConfig::default() }
}

fn loaded(entry: &serde_json::Value, merging: PatchMerging) -> SwinUnetr<B> {
    let model = tiny(merging).init(1, 2, &Init::new(0, "focus", &Default::default())).unwrap();
    golden::load(model, Layout::SwinUnetr, golden::weights("swin12", entry))
}

fn check_golden(net: &str, merging: PatchMerging) {
    let entry = golden::entry(net);
    let model = loaded(&entry, merging);
    let check = |name: &str, map: &Tensor<B, 5>| golden::assert_map(name, map, &entry["features"][name]);
    let [t2, t4, t8, t16, t32] = model.encoder.swinViT.forward(golden::input(&entry), &mut Direct);
    check("swinViT.patch_embed", &t2);
    for (i, map) in [t4, t8, t16, t32].iter().enumerate() {
        check(&format!("swinViT.layers{}.0", i + 1), map);
    }
    let maps = model.encoder.forward(golden::input(&entry), &mut Direct);
    for (name, map) in [("encoder1", &maps[0]), ("encoder2", &maps[1]), ("encoder10", &maps[5])] {
        check(name, map);
    }
    let logits = model.decode(maps, &mut Direct);
    golden::check_segmenter(&entry, &model, Layout::SwinUnetr, logits, |_| {});
}

#[test]
fn golden_merging_fixed() {
    check_golden("swin_merging_fixed", PatchMerging::Fixed);
}

#[test]
fn golden_merging_v2() {
    check_golden("swin_mergingv2", PatchMerging::V2);
}

#[test]
fn golden_merging_old_with_checkpointing() {
    let entry = golden::entry("swin_merging_old");
    let model = loaded(&entry, PatchMerging::Old);
    let mut tape = Tape::default();
    let logits = model.forward(golden::input(&entry), &mut tape);
    golden::check_segmenter(&entry, &model, Layout::SwinUnetr, logits, |grads| tape.backward(grads));
}

#[test]
fn parameter_counts() {
    let count = |config: SwinUnetrConfig, classes| {
        weights::parameter_count(&config.init::<Flex>(1, classes, &Init::new(0, "focus", &Default::default())).unwrap())
    };
    assert_eq!(count(SwinUnetrConfig::default(), 2), 72_762_068);
    assert_eq!(count(SwinUnetrConfig { v2: false, ..SwinUnetrConfig::default() }, 14), 62_187_296);
    let encoder = SwinUnetrConfig::default().init_encoder::<Flex>(1, &Init::new(0, "focus", &Default::default())).unwrap();
    assert_eq!(weights::parameter_count(&encoder), 53_164_146, "what VoCo transfers");
    assert_eq!(weights::parameter_count(&encoder.swinViT), 18_637_362);
}

#[test]
fn impossible_configs_are_refused_with_a_sentence() {
    let base = SwinUnetrConfig::default;
    for (config, part) in [
        (SwinUnetrConfig { feature_size: 0, ..base() }, "feature_size"),
        (SwinUnetrConfig { feature_size: 20, ..base() }, "not divisible by its 3 heads"),
        (SwinUnetrConfig { heads: [3, 6, 0, 24], ..base() }, "not divisible by its 0 heads"),
        (SwinUnetrConfig { depths: [2, 0, 2, 2], ..base() }, "depths"),
        (SwinUnetrConfig { window: 1, ..base() }, "window"),
        (SwinUnetrConfig { mlp_ratio: 0, ..base() }, "mlp_ratio"),
    ] {
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
