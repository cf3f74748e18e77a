//! Scans as places: which scans a folder holds, what a scan is called, and a hash of all the bytes that make it up.

use std::path::{Path, PathBuf};

use super::dicom;
use super::source::Source;
use crate::{Error, Result};

/// How the names of files end that hold a scan or a label map, or its header.
const ENDINGS: [&str; 9] = [".nii.gz", ".nii", ".hdr.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm"];
/// Headers whose voxels lie in a file beside them.
const DETACHED: [&str; 4] = [".hdr.gz", ".hdr", ".nhdr", ".mhd"];
/// Folders in folders that are searched for DICOM: patient, study, series and two to spare.
const DEPTH: usize = 5;

/// The file name without the ending of a scan; `None` where it has none.
pub fn stem(file: &str) -> Option<&str> {
    ENDINGS.iter().find_map(|e| file.strip_suffix(e)).filter(|s| !s.is_empty())
}

/// Scans of a folder, by name: every NIfTI, NRRD and MetaImage file directly in it, and every DICOM series in it or in a folder below. Where there are CT
/// series, series of other modalities are left out. Empty where there is none.
pub fn scans_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let (files, _) = entries(folder)?;
    let mut scans: Vec<PathBuf> = files.into_iter().filter(|f| is_scan_file(f)).collect();
    let mut series = Vec::new();
    series_below(folder, DEPTH, &mut series)?;
    let any_ct = series.iter().any(|(_, ct)| *ct);
    scans.extend(series.into_iter().filter(|(_, ct)| *ct || !any_ct).map(|(path, _)| path));
    scans.sort();
    Ok(scans)
}

/// What a case is called: its file or folder without the ending of a scan and without `_0000` (FLARE, nnU-Net); the UID of one of several series behind a `_`.
pub fn case_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().replace(['#', ':'], "_");
    let stem = stem(&name).unwrap_or(&name);
    stem.strip_suffix("_0000").filter(|s| !s.is_empty()).unwrap_or(stem).to_owned()
}

/// BLAKE3 of a scan's bytes: of the file, with the file that holds its voxels where that is another; of every file of a DICOM folder.
pub fn hash(path: &Path, hasher: &mut blake3::Hasher) -> Result<()> {
    for part in parts(path)? {
        let io = |e| Error::io(&part, e);
        let file = std::fs::File::open(&part).map_err(io)?;
        hasher.update(&file.metadata().map_err(io)?.len().to_le_bytes());
        hasher.update_reader(file).map_err(io)?;
    }
    Ok(())
}

fn parts(path: &Path) -> Result<Vec<PathBuf>> {
    let place = dicom::folder_of(path);
    if place.is_dir() {
        return Ok(entries(&place)?.0);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(bare) = DETACHED.iter().find_map(|e| name.strip_suffix(e)) else { return Ok(vec![path.to_owned()]) };
    let beside =
        |f: &PathBuf| f.file_name().is_some_and(|n| n.to_string_lossy().strip_prefix(bare).is_some_and(|rest| rest.starts_with('.')));
    Ok(entries(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.0.into_iter().filter(beside).collect())
}

/// Not what macOS leaves beside files on foreign disks (`._NAME`), nor a file being written, nor a single slice.
fn is_scan_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && stem(&name).is_some() && !name.ends_with(".dcm")
}

/// Series, and whether each is a CT. A folder that can't be read counts as one: reading it will say why, and the others go on.
fn series_below(folder: &Path, depth: usize, found: &mut Vec<(PathBuf, bool)>) -> Result<()> {
    let (files, folders) = entries(folder)?;
    let is_dicom = |f: &PathBuf| Source::open(f).and_then(|mut s| s.head(132)).is_ok_and(|head| dicom::is_dicom(&head));
    if files.iter().filter(|f| !is_scan_file(f)).any(is_dicom) {
        match dicom::series_if_any(folder) {
            Ok(series) => found.extend(series.into_iter().map(|s| (s.path, s.modality == "CT"))),
            Err(_) => found.push((folder.to_owned(), true)),
        }
    }
    if depth > 0 {
        folders.iter().try_for_each(|f| series_below(f, depth - 1, found))?;
    }
    Ok(())
}

/// Files and folders of a folder, by name. Links to folders are not followed: they may lead in circles.
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let read = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths = read.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(|e| Error::io(folder, e))?;
    paths.sort();
    let (files, others): (Vec<_>, Vec<_>) = paths.into_iter().partition(|p| p.is_file());
    Ok((files, others.into_iter().filter(|p| p.is_dir() && !p.is_symlink()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_named_after_file_folder_or_series() {
        for (path, name) in [
            ("a/x_0000.nii.gz", "x"),
            ("x.nii", "x"),
            ("x.nrrd", "x"),
            ("x.mhd", "x"),
            ("a/STS_019", "STS_019"),
            ("scan", "scan"),
            ("a/p#1.2.3", "p_1.2.3"),
            (".nii", ".nii"),
        ] {
            assert_eq!(case_name(Path::new(path)), name, "{path}");
        }
    }

    #[test]
    fn a_hash_covers_header_and_voxels() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let of = |path: &Path| {
            let mut hasher = blake3::Hasher::new();
            hash(path, &mut hasher).unwrap();
            hasher.finalize()
        };
        let (header, folder) = (at("a.hdr", "h"), dir.path().to_owned());
        at("a.img", "1");
        at("ab.img", "1");
        let (pair, all) = (of(&header), of(&folder));
        at("ab.img", "2");
        assert!(of(&header) == pair && of(&folder) != all);
        at("a.img", "2");
        assert!(of(&header) != pair);
    }
}
