//! Generates cases and writes their raw voxels, to look at them and to count: `phantom_preview PRESET SEED CASES [DIR]`.
//!
//! Per case one line: CPU-bound seconds, lesions with volume and contrast. With DIR also `NAME.hu.i16`, `NAME.lesions.u8`, `NAME.organs.u8`
//! (C order over `[x][y][z]`), and `NAME.txt`, the report.

use std::path::PathBuf;
use std::time::Instant;

use panscreen_envs::Error;
use panscreen_envs::io::write_atomic;
use panscreen_envs::phantom::{Preset, Settings, generate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [preset, seed, cases, dir @ ..] = args.as_slice() else {
        return Err(Error::Setting("usage: phantom_preview PRESET SEED CASES [DIR]".into()).into());
    };
    let settings = Settings::preset(preset.parse::<Preset>()?);
    let (seed, cases): (u64, u64) = (seed.parse()?, cases.parse()?);
    for index in 0..cases {
        let start = Instant::now();
        let case = generate(&settings, seed, index);
        println!("{}\t{:.3}", case.name, start.elapsed().as_secs_f64());
        for l in &case.findings {
            println!("\t{}\t{:.3} mL\t{:.0} HU\t{}\t{:?}", l.kind.name(), l.volume_ml, l.contrast_hu, l.organ, l.centre_mm);
        }
        if let [dir, ..] = dir {
            let file = |end: &str| PathBuf::from(dir).join(format!("{}.{end}", case.name));
            let hu: Vec<u8> = case.ct.data.iter().flat_map(|v| (*v as i16).to_le_bytes()).collect();
            write_atomic(&file("hu.i16"), &hu)?;
            write_atomic(&file("lesions.u8"), &case.lesions.data)?;
            write_atomic(&file("organs.u8"), &case.organs.data)?;
            write_atomic(&file("txt"), case.report.as_bytes())?;
        }
    }
    Ok(())
}
