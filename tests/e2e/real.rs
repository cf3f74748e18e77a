//! A real scan, where the data folder is there.

use std::path::Path;

use crate::support::{World, same_header};

#[test]
fn a_real_scan_is_screened_on_its_own_grid() {
    let scan = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/ct/totalseg/example_ct_sm.nii.gz");
    if !scan.exists() {
        eprintln!("SKIPPED: ../shared/data/ct/totalseg/example_ct_sm.nii.gz not present");
        return;
    }
    let world = World::trained();
    let summary =
        world.json(0, &["screen", scan.to_str().unwrap(), "--model", "runs/tiny", "--out", "out", "--quiet", "--save-probabilities"]);
    assert_eq!(summary["screened"], 1);
    same_header(&scan, &world.path("out/example_ct_sm.nii.gz"));
    let open = |name: &str| panscreen_envs::io::open(&world.path(name)).unwrap();
    let (mask, map) = (open("out/example_ct_sm.nii.gz"), open("out/example_ct_sm_probability.nii.gz"));
    assert_eq!((mask.shape(), map.shape()), (panscreen_envs::io::open(&scan).unwrap().shape(), mask.shape()));
    assert!(map.data.iter().all(|p| (0.0..=1.0).contains(p)));
    assert!(mask.data.iter().zip(&map.data).all(|(&m, &p)| (m == 1.0) == (p > 0.5)));
    assert!(world.path("out/example_ct_sm.png").exists());
}
