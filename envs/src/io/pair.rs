//! The two halves of a NIfTI pair: a `.hdr` and an `.img` of one name, either of them gzipped, in any case.

use std::path::{Path, PathBuf};

use super::{Source, Warning};
use crate::{Error, Result};

/// Whether a name is that of a half with voxels. Voxels have no mark of their own: here alone a name decides.
pub(super) fn is_image_name(path: &Path) -> bool {
    split(path).is_some_and(|(_, ending)| ending == "img")
}

/// The half that goes with `path`: voxels (`img`) to a header, a header (`hdr`) to voxels.
pub(super) fn partner(path: &Path, wanted: &str) -> Result<Source> {
    let missing = |found: String| {
        let (one, other) = if wanted == "img" { ("header", "image (.img, .img.gz)") } else { ("image", "header (.hdr, .hdr.gz)") };
        let found = format!("the {one} half of a .hdr/.img pair and {found}");
        Err(Error::file(path, found, format!("its {other} in the same folder"), "copy both halves, or one .nii.gz"))
    };
    let Some((stem, _)) = split(path) else { return missing("no ending to find the other by".into()) };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut halves: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|e| Error::io(folder, e))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|other| split(other).is_some_and(|(s, ending)| s == stem && ending == wanted))
        .collect();
    // Plain before gzipped, and the same on every file system.
    halves.sort_by_key(|p| (p.as_os_str().len(), p.clone()));
    let Some(first) = halves.first() else { return missing("no other half".into()) };
    let mut source = Source::open(first)?;
    if halves.len() > 1 {
        let found = format!("{} files that may be the other half of {}", halves.len(), path.display());
        source.warnings.push(Warning::new(found, "one", format!("{} was taken; remove the others", first.display())));
    }
    Ok(source)
}

/// `dir/Head.IMG.gz` to `head` and `img`.
fn split(path: &Path) -> Option<(String, String)> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let (stem, ending) = name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?;
    Some((stem.to_owned(), ending.to_owned()))
}
