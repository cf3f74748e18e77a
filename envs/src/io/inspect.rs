//! A verdict on a scan, and on its mask: what is odd, what was expected, what to do.

mod sense;

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Opened, Warning, open_header, read, read_labels};
use crate::Error;
use crate::volume::{Geometry, Labels, Orientation, Volume};

/// How bad: the verdict of a report is its worst reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Ok,
    /// It can be used; a person should know.
    Warn,
    /// It is refused everywhere.
    Error,
}

impl std::fmt::Display for Grade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Error => "error",
        })
    }
}

/// What a file without a mask was judged as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Image,
    Labels,
}

/// One thing that is odd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The scan or its mask.
    pub file: String,
    pub grade: Grade,
    pub found: String,
    pub expected: String,
    /// One thing to do about it.
    pub action: String,
}

/// How often a label occurs. Background (0) is not listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelCount {
    pub label: u8,
    pub voxels: usize,
    pub volume_ml: f64,
}

/// What a mask is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskReport {
    pub file: String,
    pub format: String,
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    pub orientation: String,
    pub dtype: String,
    pub labels: Vec<LabelCount>,
}

/// What [`inspect`] found. What could not be read is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub file: String,
    pub kind: Kind,
    pub verdict: Grade,
    pub reasons: Vec<Reason>,
    pub format: Option<String>,
    /// As stored.
    pub shape: Option<[usize; 3]>,
    pub spacing_mm: Option<[f64; 3]>,
    /// Where each stored axis runs to: `RAS`, `LPS`, ...
    pub orientation: Option<String>,
    /// How voxels are stored, in numpy's words.
    pub dtype: Option<String>,
    pub hu_min: Option<f32>,
    pub hu_max: Option<f32>,
    /// SHA-256 of the voxels turned to RAS, as little-endian f32 in C order over `[x][y][z]`: the same for every way to store one scan.
    pub voxels_sha256: Option<String>,
    /// Where the file itself is a label map.
    pub labels: Option<Vec<LabelCount>>,
    pub mask: Option<MaskReport>,
}

/// Judge a scan, or a label map, and optionally the mask of the scan. Never fails: what can't be read is a report with the verdict `error`.
pub fn inspect(path: &Path, mask: Option<&Path>) -> Report {
    let mut reasons = Reasons { file: path.display().to_string(), list: Vec::new() };
    let mut report = Report {
        file: reasons.file.clone(),
        kind: Kind::Image,
        verdict: Grade::Ok,
        reasons: Vec::new(),
        format: None,
        shape: None,
        spacing_mm: None,
        orientation: None,
        dtype: None,
        hu_min: None,
        hu_max: None,
        voxels_sha256: None,
        labels: None,
        mask: None,
    };
    let image = match read(path) {
        Ok(opened) if mask.is_none() && sense::looks_like_labels(&opened.item.data) => {
            report.of_voxels(&opened);
            report.kind = Kind::Labels;
            match read_labels(path, None) {
                Ok(labels) => {
                    reasons.warn(labels.warnings);
                    reasons.judge_labels(&labels.item);
                    report.labels = Some(counts(&labels.item));
                }
                Err(e) => reasons.error(e),
            }
            None
        }
        Ok(opened) => {
            report.of_voxels(&opened);
            reasons.warn(opened.warnings);
            reasons.warn(sense::of_image(&opened.item.data));
            Some(opened.item.geometry)
        }
        // Segmentations and contours are no scans, but may be asked about alone.
        Err(e) => match read_labels(path, None) {
            Ok(labels) if mask.is_none() => {
                report.kind = Kind::Labels;
                report.of_grid(&labels.item.geometry);
                (report.format, report.dtype) = (Some(labels.format.into()), Some(labels.dtype));
                reasons.warn(labels.warnings);
                reasons.judge_labels(&labels.item);
                report.labels = Some(counts(&labels.item));
                None
            }
            _ => {
                if let Ok(geometry) = open_header(path) {
                    report.of_grid(&geometry);
                }
                reasons.error(e);
                None
            }
        },
    };
    if let Some(mask) = mask {
        reasons.file = mask.display().to_string();
        match read_labels(mask, image.as_ref()) {
            Ok(opened) => {
                reasons.warn(opened.warnings);
                let labels = opened.item;
                if let Some(image) = &image {
                    reasons.compare(&labels.geometry, image);
                }
                reasons.judge_labels(&labels);
                report.mask = Some(MaskReport {
                    file: reasons.file.clone(),
                    format: opened.format.into(),
                    shape: labels.shape(),
                    spacing_mm: labels.geometry.spacing_mm(),
                    orientation: letters(&labels.geometry),
                    dtype: opened.dtype,
                    labels: counts(&labels),
                });
            }
            Err(e) => reasons.error(e),
        }
    }
    report.verdict = reasons.list.iter().map(|r| r.grade).max().unwrap_or(Grade::Ok);
    report.reasons = reasons.list;
    report
}

impl Report {
    fn of_grid(&mut self, geometry: &Geometry) {
        self.shape = Some(geometry.shape);
        self.spacing_mm = Some(geometry.spacing_mm());
        self.orientation = Some(letters(geometry));
    }

    fn of_voxels(&mut self, opened: &Opened<Volume>) {
        let Volume { data, geometry } = &opened.item;
        self.of_grid(geometry);
        (self.format, self.dtype) = (Some(opened.format.into()), Some(opened.dtype.clone()));
        self.hu_min = data.iter().copied().reduce(f32::min);
        self.hu_max = data.iter().copied().reduce(f32::max);
        self.voxels_sha256 = Some(hash(&Orientation::of(geometry).turn_voxels(data, geometry.shape)));
    }
}

/// Reasons of one file after the other.
struct Reasons {
    file: String,
    list: Vec<Reason>,
}

impl Reasons {
    fn add(&mut self, grade: Grade, Warning { found, expected, action }: Warning) {
        self.list.push(Reason { file: self.file.clone(), grade, found, expected, action });
    }

    fn warn(&mut self, warnings: impl IntoIterator<Item = Warning>) {
        warnings.into_iter().for_each(|w| self.add(Grade::Warn, w));
    }

    fn error(&mut self, error: Error) {
        let said = match error {
            Error::Io { source, .. } => Warning::new(source.to_string(), "a file that can be read", "check the path and its permissions"),
            // The file that is meant may be another half of it.
            Error::File { path, found, expected, action } if path.display().to_string() != self.file => {
                Warning::new(format!("{}: {found}", path.display()), expected, action)
            }
            Error::File { found, expected, action, .. } | Error::Mismatch { found, expected, action, .. } => {
                Warning { found, expected, action }
            }
            other => Warning::new(other.to_string(), "a scan or a label map", "copy or convert the file again"),
        };
        self.add(Grade::Error, said);
    }

    fn judge_labels(&mut self, labels: &Labels) {
        for (grade, warning) in sense::of_labels(&labels.data) {
            self.add(grade, warning);
        }
    }

    /// The same grid in the world, whatever way its axes run; measured in mm at the corners, as where scans are prepared.
    fn compare(&mut self, mask: &Geometry, image: &Geometry) {
        let (mask, image) = (Orientation::of(mask).turn(mask), Orientation::of(image).turn(image));
        let action = "give the mask of this scan, or bring it to the scan's grid (nearest neighbour)";
        if mask.shape != image.shape {
            let found = format!("a mask of {:?} voxels (along R, A, S)", mask.shape);
            return self.add(Grade::Error, Warning::new(found, format!("{:?} as the image", image.shape), action));
        }
        let off = mask.corner_distance_mm(&image);
        let allowed = 0.1 * image.spacing_mm().into_iter().fold(f64::INFINITY, f64::min);
        if off > allowed {
            let (found, expected) = (format!("a mask whose corner lies {off:.2} mm off"), format!("at most {allowed:.2} mm"));
            self.add(Grade::Error, Warning::new(found, expected, action));
        }
    }
}

/// Where each stored axis runs to.
fn letters(geometry: &Geometry) -> String {
    let turn = Orientation::of(geometry);
    let mut letters = [' '; 3];
    for c in 0..3 {
        letters[turn.axes[c]] = [['R', 'L'], ['A', 'P'], ['S', 'I']][c][usize::from(turn.flip[c])];
    }
    letters.iter().collect()
}

fn counts(labels: &Labels) -> Vec<LabelCount> {
    let ml = labels.geometry.voxel_ml();
    let of = |(label, voxels): (usize, usize)| LabelCount { label: label as u8, voxels, volume_ml: voxels as f64 * ml };
    sense::histogram(&labels.data).into_iter().enumerate().skip(1).filter(|&(_, n)| n > 0).map(of).collect()
}

fn hash(data: &[f32]) -> String {
    let mut hasher = Sha256::new();
    let mut bytes = Vec::with_capacity(1 << 16);
    for chunk in data.chunks(1 << 14) {
        bytes.clear();
        // There is one zero.
        bytes.extend(chunk.iter().flat_map(|v| (v + 0.0).to_le_bytes()));
        hasher.update(&bytes);
    }
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;
