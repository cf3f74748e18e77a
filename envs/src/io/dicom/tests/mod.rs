//! DICOM files made here for each rule, files of other tools, and files that are broken on purpose.

mod codecs;
mod labels;
mod real;
mod series;
mod writer;

use std::path::Path;

use super::*;
use crate::volume::Volume;
use writer::{CtSlice, Dcm};

/// `[x][y][z]` index.
fn at(volume: &Volume, i: usize, j: usize, k: usize) -> f32 {
    let [_, ny, nz] = volume.geometry.shape;
    volume.data[(i * ny + j) * nz + k]
}

#[track_caller]
fn assert_refused<T>(got: Result<T>, words: &[&str]) {
    let Err(error) = got else { panic!("it should be refused: {words:?}") };
    let text = error.to_string();
    for word in words.iter().chain(&["expected"]) {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

fn warned(warnings: &[Warning], word: &str) -> bool {
    warnings.iter().any(|w| w.found.contains(word))
}

/// A folder with these slices, named so that the order of names is not that of positions.
fn folder(slices: &[CtSlice]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (i, slice) in slices.iter().enumerate() {
        slice.write(&dir.path().join(format!("IM{:03}", (i * 7 + 3) % 101)));
    }
    dir
}

fn read_one(slice: &CtSlice) -> Result<Opened<Volume>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    slice.write(&path);
    read_volume(&path)
}

fn write(dir: &Path, name: &str, file: &Dcm) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, file.bytes()).unwrap();
    path
}
