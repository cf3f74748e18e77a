//! What a launch must leave: one mask, named after the case, as bytes of 0 and 1 on the scan's own grid.

use std::path::Path;

use panscreen_envs::io;

use super::Checked;

/// NIfTI's code of unsigned bytes, and where a NIfTI-1 header has it.
const UINT8: u16 = 2;
const DATATYPE_AT: std::ops::Range<usize> = 70..72;
/// Corners may be this far off: what rounding to the header's f32 takes.
const CLOSE_MM: f64 = 1e-3;

pub fn check(outputs: &Path, case: &str, scan: &Path) -> Vec<Checked> {
    let mut rules = Vec::new();
    let mut rule = |rule: &str, passed: bool, found: String| rules.push(Checked { rule: rule.to_owned(), passed: Some(passed), found });
    let name = format!("{case}.nii.gz");
    let mut there: Vec<String> =
        std::fs::read_dir(outputs).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    there.sort();
    let found = if there.is_empty() { "an empty folder".to_owned() } else { there.join(", ") };
    rule(&format!("leaves {name} and nothing else"), there == [name.clone()], found);
    let path = outputs.join(&name);
    if !path.is_file() {
        return rules;
    }
    let header = io::open_header(&path);
    let code = header.as_ref().ok().and_then(|g| g.stored.as_ref()).filter(|s| s.bytes.len() == 348).map(|s| {
        let bytes = [s.bytes[DATATYPE_AT.start], s.bytes[DATATYPE_AT.start + 1]];
        if s.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    });
    rule("is NIfTI-1 of uint8", code == Some(UINT8), code.map_or("no NIfTI-1 header".into(), |c| format!("data type {c}")));
    match io::open_labels(&path) {
        Ok(labels) => {
            let highest = labels.data.iter().copied().max().unwrap_or(0);
            rule(
                "holds 0 and 1 only",
                highest <= 1,
                format!("highest value {highest}, {} voxels marked", labels.data.iter().filter(|v| **v > 0).count()),
            );
        }
        Err(e) => rule("holds 0 and 1 only", false, e.to_string()),
    }
    match (header, io::open_header(scan)) {
        (Ok(mask), Ok(scan)) if mask.shape == scan.shape => {
            let off = mask.corner_distance_mm(&scan);
            rule("has the scan's geometry", off <= CLOSE_MM, format!("{:?} voxels, corners at most {off:.4} mm off", mask.shape));
        }
        (Ok(mask), Ok(scan)) => rule("has the scan's geometry", false, format!("{:?} voxels, the scan {:?}", mask.shape, scan.shape)),
        (Err(e), _) | (_, Err(e)) => rule("has the scan's geometry", false, e.to_string()),
    }
    rules
}

#[test]
fn each_fault_breaks_its_rule() {
    use panscreen_envs::volume::{Geometry, Volume};
    let dir = tempfile::tempdir().unwrap();
    let (scan, outputs) = (dir.path().join("a_0000.nii.gz"), dir.path().join("out"));
    let geometry = Geometry::ras([4, 4, 4], [1.0, 1.0, 2.0], [0.0; 3]);
    io::write_labels(&scan, &[0; 64], &geometry).unwrap();
    let broken = |make: &dyn Fn(&Path)| {
        let _ = std::fs::remove_dir_all(&outputs);
        std::fs::create_dir(&outputs).unwrap();
        make(&outputs.join("a.nii.gz"));
        check(&outputs, "a", &scan).into_iter().filter(|r| r.passed != Some(true)).map(|r| r.rule).collect::<Vec<_>>()
    };
    let good = |path: &Path| io::write_labels(path, &[1; 64], &geometry).unwrap();
    assert_eq!(broken(&good), [""; 0]);
    assert_eq!(broken(&|_| {}), ["leaves a.nii.gz and nothing else"]);
    let more = |path: &Path| {
        good(path);
        std::fs::write(path.with_file_name("a.json"), "").unwrap();
    };
    assert_eq!(broken(&more), ["leaves a.nii.gz and nothing else"]);
    assert_eq!(broken(&|path| io::write_labels(path, &[2; 64], &geometry).unwrap()), ["holds 0 and 1 only"]);
    assert_eq!(
        broken(&|path| io::write_labels(path, &[1; 48], &Geometry::ras([4, 4, 3], [1.0; 3], [0.0; 3])).unwrap()),
        ["has the scan's geometry"]
    );
    let shifted = Geometry::ras([4, 4, 4], [1.0, 1.0, 2.0], [0.5, 0.0, 0.0]);
    assert_eq!(broken(&|path| io::write_labels(path, &[1; 64], &shifted).unwrap()), ["has the scan's geometry"]);
    let floats = |path: &Path| io::write_volume(path, &Volume { data: vec![1.0; 64], geometry: geometry.clone() }).unwrap();
    assert_eq!(broken(&floats), ["is NIfTI-1 of uint8"]);
    let torn = |path: &Path| {
        good(path);
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    assert!(broken(&torn).contains(&"holds 0 and 1 only".to_owned()));
}
