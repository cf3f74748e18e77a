//! Which slices of a folder belong together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::content::Content;
use super::image::{Image, Kind, Plane, classify};
use super::pixels;
use crate::{Error, Result};

/// A series of a folder, or a part of one whose slices lie in one orientation and matrix.
#[derive(Clone, Debug)]
pub struct SeriesInfo {
    /// What to give to `io::open` to read this one: the folder, then `#` and the UID where there are several. A UID whose slices don't fit on one
    /// another has several stacks; `:2` after it is the second.
    pub path: PathBuf,
    /// SeriesInstanceUID.
    pub uid: String,
    /// SeriesDescription.
    pub description: String,
    pub modality: String,
    /// Slices, frames of multi-frame files among them.
    pub images: usize,
    /// Columns and rows of a slice.
    pub matrix: [usize; 2],
    /// `axial`, `coronal`, `sagittal`, or `oblique` where the slices lie more than 30 degrees off all three.
    pub orientation: &'static str,
    /// Distance of columns and of rows.
    pub pixel_mm: [f64; 2],
}

/// One slice: a frame of a file.
#[derive(Clone)]
pub struct Slice {
    pub image: Arc<Image>,
    pub frame: usize,
}

impl Slice {
    pub fn plane(&self) -> &Plane {
        &self.image.frames[self.frame].plane
    }

    pub fn path(&self) -> &Path {
        &self.image.path
    }

    /// See [`pixels::hu`].
    pub fn hu(&self, scratch: &mut Vec<u8>, out: &mut Vec<f32>) -> Result<()> {
        pixels::hu(&self.image, &self.image.frames[self.frame], scratch, out)
    }
}

/// Slices that can lie on one another: at least one, of one series, orientation, matrix and spacing.
pub struct Stack {
    pub slices: Vec<Slice>,
}

impl Stack {
    fn takes(&self, slice: &Slice) -> bool {
        let Some(first) = self.slices.first() else { return true };
        let (a, b) = (first.plane(), slice.plane());
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-3 * a.abs().max(1.0);
        let (axes, spacing) = (a.axes.as_flattened().iter().zip(b.axes.as_flattened()), a.spacing.iter().zip(&b.spacing));
        let matrix = |s: &Slice| [s.image.layout.columns, s.image.layout.rows];
        first.image.series == slice.image.series
            && matrix(first) == matrix(slice)
            && axes.into_iter().all(|(&a, &b)| near(a, b))
            && spacing.into_iter().all(|(a, b)| (a - b).abs() <= 1e-3 * a)
    }

    fn info(&self, path: PathBuf) -> Option<SeriesInfo> {
        let first = self.slices.first()?;
        let (image, plane) = (&first.image, first.plane());
        let normal = plane.normal().map(f64::abs);
        let orientation =
            ["sagittal", "coronal", "axial"].into_iter().zip(normal).find(|(_, n)| *n > 0.866).map_or("oblique", |(name, _)| name);
        Some(SeriesInfo {
            path,
            uid: image.series.clone(),
            description: image.description.clone(),
            modality: image.modality.clone(),
            images: self.slices.len(),
            matrix: [image.layout.columns, image.layout.rows],
            orientation,
            pixel_mm: plane.spacing,
        })
    }
}

/// A folder and the part of it that is asked for, of `FOLDER#UID` or `FOLDER#UID:2`; `None` where the path is one of a file or folder itself.
pub fn named_series(path: &Path) -> Option<(PathBuf, String)> {
    if path.exists() {
        return None;
    }
    let (place, uid) = path.to_str()?.rsplit_once('#')?;
    let place = PathBuf::from(place);
    place.exists().then(|| (place, uid.to_owned()))
}

/// The files of a folder that are DICOM, by name; other files are let be. Folders inside are not looked into: they hold other series.
pub fn files_in(folder: &Path) -> Result<Vec<Kind>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        paths.push(entry.map_err(|e| Error::io(folder, e))?.path());
    }
    paths.sort();
    let sort = |path: &PathBuf| if path.is_file() { Content::open(path)?.map(classify).transpose() } else { Ok(None) };
    // In order, so that of several broken files always the same one is named.
    let kinds: Vec<Result<Option<Kind>>> = paths.par_iter().map(sort).collect();
    kinds.into_iter().filter_map(Result::transpose).collect()
}

/// The stacks of a folder's files; in the order of their UIDs.
pub fn stacks(place: &Path, kinds: Vec<Kind>) -> Result<Vec<Stack>> {
    let mut stacks: Vec<Stack> = Vec::new();
    let mut aside = std::collections::BTreeMap::<String, usize>::new();
    for kind in kinds {
        let what = match kind {
            Kind::Slices(image) => {
                let image: Arc<Image> = Arc::from(image);
                for frame in 0..image.frames.len() {
                    let slice = Slice { image: image.clone(), frame };
                    match stacks.iter_mut().find(|stack| stack.takes(&slice)) {
                        Some(stack) => stack.slices.push(slice),
                        None => stacks.push(Stack { slices: vec![slice] }),
                    }
                }
                continue;
            }
            Kind::Segmentation(_) => "a segmentation (SEG)".into(),
            Kind::Contours(_) => "contours (RTSTRUCT)".into(),
            Kind::Other(what) => what,
        };
        *aside.entry(what).or_default() += 1;
    }
    if stacks.is_empty() {
        let list: Vec<String> = aside.iter().map(|(what, n)| if *n == 1 { what.clone() } else { format!("{what} x {n}") }).collect();
        let found = if list.is_empty() { "no DICOM file".into() } else { list.join(", ") };
        let action = if place.is_dir() { "give the folder that holds its slices" } else { "give a CT slice or the folder of the series" };
        return Err(Error::file(place, found, "the slices of a CT series", action));
    }
    stacks.sort_by(|a, b| uid_of(a).cmp(uid_of(b)));
    Ok(stacks)
}

fn uid_of(stack: &Stack) -> &str {
    stack.slices.first().map_or("", |slice| &slice.image.series)
}

/// What there is, and what to give for each.
pub fn infos(place: &Path, stacks: &[Stack]) -> Vec<SeriesInfo> {
    let info = |(i, stack): (usize, &Stack)| {
        let uid = uid_of(stack);
        let alike = |stacks: &[Stack]| stacks.iter().filter(|s| uid_of(s) == uid).count();
        let part = if alike(stacks) > 1 { format!(":{}", alike(&stacks[..=i])) } else { String::new() };
        let path = if stacks.len() == 1 { place.to_owned() } else { PathBuf::from(format!("{}#{uid}{part}", place.display())) };
        stack.info(path)
    };
    stacks.iter().enumerate().filter_map(info).collect()
}

/// The one that is asked for, or the only one.
pub fn choose(place: &Path, mut stacks: Vec<Stack>, asked: Option<&str>) -> Result<Stack> {
    let infos = infos(place, &stacks);
    let chosen = match asked {
        None if stacks.len() == 1 => Some(0),
        None => None,
        Some(asked) => {
            let suffix = |info: &SeriesInfo| info.path.to_str().and_then(|p| p.rsplit_once('#')).map(|(_, uid)| uid.to_owned());
            infos.iter().position(|info| suffix(info).as_deref() == Some(asked) || (infos.len() == 1 && info.uid == asked))
        }
    };
    if let Some(i) = chosen {
        return Ok(stacks.swap_remove(i));
    }
    let list: Vec<String> = infos.iter().take(8).map(describe).collect();
    let more = if infos.len() > 8 { format!(" and {} more", infos.len() - 8) } else { String::new() };
    let found = format!("{} series ({}{more})", infos.len(), list.join("; "));
    let action = match infos.first() {
        Some(info) if infos.len() > 1 => format!("name one, as in {}", info.path.display()),
        _ => "give the folder alone".into(),
    };
    let expected = asked.map_or("one series".into(), |asked| format!("a series {asked}"));
    Err(Error::file(place, found, expected, action))
}

fn describe(info: &SeriesInfo) -> String {
    let (matrix, mm, uid) = (info.matrix, info.pixel_mm, info.path.to_string_lossy());
    let uid = uid.rsplit_once('#').map_or(info.uid.as_str(), |(_, uid)| uid);
    let (images, orientation) = (info.images, info.orientation);
    format!("{uid} \"{}\": {images} {orientation} of {}x{} pixels, {:.3}x{:.3} mm", info.description, matrix[0], matrix[1], mm[0], mm[1])
}
