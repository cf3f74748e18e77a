//! `panscreen inspect`: verdicts, exit codes, JSON.

use panscreen_envs::io;
use panscreen_envs::volume::{Geometry, Volume};

use crate::support::World;

#[test]
fn a_scan_and_its_mask_get_a_verdict() {
    let world = World::empty();
    let geometry = Geometry::ras([20, 20, 20], [1.5; 3], [-15.0; 3]);
    let inside = |n: usize| (n / 400).abs_diff(10) < 6 && (n / 20 % 20).abs_diff(10) < 6;
    let data: Vec<f32> = (0..8000).map(|n| if inside(n) { (n * 7 % 90) as f32 } else { -1000.0 + (n % 20) as f32 }).collect();
    let mask: Vec<u8> = (0..8000).map(|n| u8::from(inside(n) && n % 20 < 4)).collect();
    io::write_labels(&world.path("mask.nii.gz"), &mask, &geometry).unwrap();
    io::write_volume(&world.path("ct.nii.gz"), &Volume { data, geometry }).unwrap();
    std::fs::write(world.path("notes.nii.gz"), "not a scan").unwrap();

    let ok = world.json(0, &["inspect", "ct.nii.gz", "--mask", "mask.nii.gz"]);
    assert_eq!((&ok["verdict"], &ok["orientation"], &ok["dtype"]), (&"ok".into(), &"RAS".into(), &"int16".into()));
    assert_eq!(ok["mask"]["labels"][0]["voxels"], mask.iter().filter(|&&l| l == 1).count());
    assert_eq!(ok["voxels_sha256"].as_str().map(str::len), Some(64));

    let text = world.ok(&["inspect", "mask.nii.gz"]);
    assert!(text.starts_with("mask.nii.gz: ok\n  NIfTI-1, uint8, 20 x 20 x 20 voxels, 1.5000 x 1.5000 x 1.5000 mm, RAS\n"), "{text}");

    let refused = world.run(&["inspect", "notes.nii.gz", "--json"]);
    assert_eq!(refused.code, 3);
    assert!(
        refused.out.contains("\"verdict\": \"error\"") && refused.err.starts_with("error: notes.nii.gz: "),
        "{}{}",
        refused.out,
        refused.err
    );
    assert_eq!(world.json(3, &["inspect", "ct.nii.gz", "--mask", "ct.nii.gz"])["verdict"], "error");
    assert_eq!(world.json(3, &["inspect", "nowhere.nii.gz"])["shape"], serde_json::Value::Null);
}
