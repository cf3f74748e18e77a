//! What a DICOM image says of itself: its pixels' layout, and where each frame lies.

use std::path::{Path, PathBuf};

use super::codec::Syntax;
use super::content::{Content, Store, missing};
use super::element::{DataSet, Element, UNDEFINED};
use super::tags;
use crate::{Error, Result};

pub type Vec3 = [f64; 3];

pub fn dot(a: Vec3, b: Vec3) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub fn cross(a: Vec3, b: Vec3) -> Vec3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub fn minus(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub fn length(a: Vec3) -> f64 {
    dot(a, a).sqrt()
}

/// Where a frame lies, in DICOM's world (left, posterior, superior; mm).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plane {
    /// Centre of the first pixel.
    pub position: Vec3,
    /// Unit vectors along a row (its columns count up) and along a column.
    pub axes: [Vec3; 2],
    /// Distance of columns, then of rows: along `axes[0]` and `axes[1]`.
    pub spacing: [f64; 2],
}

impl Plane {
    pub fn normal(&self) -> Vec3 {
        cross(self.axes[0], self.axes[1])
    }
}

/// One frame: where it lies and how its numbers become HU.
#[derive(Clone, Debug)]
pub struct Frame {
    pub plane: Plane,
    pub slope: f64,
    pub intercept: f64,
    /// 0 where the file doesn't say.
    pub thickness: f64,
    /// Where its bytes are; several pieces where it is compressed.
    pub bytes: Vec<std::ops::Range<u64>>,
}

/// How numbers lie in the pixel data.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    pub rows: usize,
    pub columns: usize,
    pub bits_allocated: u16,
    pub bits_stored: u16,
    pub high_bit: u16,
    pub signed: bool,
    pub big_endian: bool,
    /// Values from the first to the second are no measurements.
    pub padding: Option<[i32; 2]>,
}

impl Layout {
    pub fn pixels(&self) -> usize {
        self.rows * self.columns
    }

    /// Bytes of an uncompressed frame; one of single bits may begin within a byte, and is not asked.
    pub fn frame_bytes(&self) -> u64 {
        self.pixels() as u64 * self.bits_allocated as u64 / 8
    }

    /// In numpy's words.
    pub fn dtype(&self) -> String {
        format!("{}int{}", if self.signed { "" } else { "u" }, self.bits_allocated)
    }
}

/// An image file, without its pixels.
#[derive(Clone)]
pub struct Image {
    pub path: PathBuf,
    pub store: Store,
    pub syntax: Syntax,
    /// Compressed so that numbers may differ from those measured.
    pub lossy: bool,
    pub layout: Layout,
    pub modality: String,
    pub series: String,
    pub description: String,
    /// Spacing between slices as stored, 0 where it isn't.
    pub spacing_between: f64,
    /// The file says how numbers become HU.
    pub rescaled: bool,
    pub frames: Vec<Frame>,
}

/// What a DICOM file is to a reader of scans.
pub enum Kind {
    Slices(Box<Image>),
    Segmentation(Content),
    Contours(Content),
    /// Something else, in a word or two: `a report (SR)`.
    Other(String),
}

/// Sorts a file; what calls itself a slice and can't be read is an error.
pub fn classify(content: Content) -> Result<Kind> {
    let class = content.text(tags::SOP_CLASS_UID);
    let modality = content.text(tags::MODALITY);
    let kind = match class.strip_prefix("1.2.840.10008.5.1.4.1.1.").unwrap_or(&class) {
        "66.4" | "66.7" => return Ok(Kind::Segmentation(content)),
        "481.3" => return Ok(Kind::Contours(content)),
        _ if modality == "SEG" => return Ok(Kind::Segmentation(content)),
        _ if modality == "RTSTRUCT" => return Ok(Kind::Contours(content)),
        "1.2.840.10008.1.3.10" => "a DICOMDIR".into(),
        _ if modality == "RTDOSE" => "a dose grid (RTDOSE)".into(),
        _ if content.pixels.is_none() && content.find(tags::ROWS).is_some() => {
            return Err(missing(&content.path, tags::PIXEL_DATA, "pixel data"));
        }
        _ if content.pixels.is_none() => format!("no image ({})", if modality.is_empty() { "no modality" } else { &modality }),
        _ if content.text(tags::IMAGE_TYPE).split('\\').any(|part| part == "LOCALIZER") => "a localizer".into(),
        _ if content.u16(tags::SAMPLES_PER_PIXEL).unwrap_or(1) != 1 => "a colour image".into(),
        _ if !placed(&content) => format!("an image without a position ({modality})"),
        _ => return Ok(Kind::Slices(Box::new(read(content)?))),
    };
    Ok(Kind::Other(kind))
}

/// Whether a file says where its frames are.
fn placed(content: &Content) -> bool {
    content.find(tags::IMAGE_POSITION).is_some_and(|e| !e.value.is_empty()) || content.find(tags::PER_FRAME_FUNCTIONAL_GROUPS).is_some()
}

fn read(content: Content) -> Result<Image> {
    let path = content.path.clone();
    let layout = layout(&content)?;
    if layout.bits_allocated == 1 {
        return Err(Error::file(&path, "pixels of a single bit", "CT pixels", "give it as labels if it is a segmentation"));
    }
    let syntax = Syntax::of(&path, &content.syntax)?;
    let groups = Groups::of(&content);
    let count = content.numbers::<1>(tags::NUMBER_OF_FRAMES).map_or(1.0, |[n]| n);
    if groups.per_frame.is_empty() && count > 1.0 {
        let found = format!("{count} frames without positions of their own");
        return Err(Error::file(&path, found, "one slice a file, or an enhanced image", "export the series as single slices"));
    }
    let mut frames = Vec::new();
    for index in 0..groups.per_frame.len().max(1) {
        let plane = groups.plane(&content, index)?;
        let pair = |tag| groups.find(index, tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, tag).and_then(|e| e.numbers::<1>());
        let slope = pair(tags::RESCALE_SLOPE).map(|[v]| v);
        let intercept = pair(tags::RESCALE_INTERCEPT).map(|[v]| v);
        let thickness = groups.find(index, tags::PIXEL_MEASURES_SEQUENCE, tags::SLICE_THICKNESS).and_then(|e| e.numbers::<1>());
        frames.push(Frame {
            plane,
            // NaN stands for what the file doesn't say, until all frames are seen.
            slope: slope.unwrap_or(f64::NAN),
            intercept: intercept.unwrap_or(f64::NAN),
            thickness: thickness.map_or(0.0, |[t]| t.max(0.0)),
            bytes: Vec::new(),
        });
    }
    let rescaled = frames.iter().all(|f| f.slope.is_finite() && f.intercept.is_finite());
    for frame in &mut frames {
        frame.slope = if frame.slope.is_finite() { frame.slope } else { 1.0 };
        frame.intercept = if frame.intercept.is_finite() { frame.intercept } else { 0.0 };
        if !(1e-6..=1e6).contains(&frame.slope.abs()) || frame.intercept.abs() > 1e9 {
            let found = format!("a rescale slope of {} and an intercept of {}", frame.slope, frame.intercept);
            return Err(Error::file(&path, found, "numbers that give HU", "export the series again"));
        }
    }
    if !rescaled && content.find(tags::MODALITY_LUT_SEQUENCE).is_some() {
        let action = "export the series with a rescale slope and intercept";
        return Err(Error::file(&path, "HU given by a look-up table", "a rescale slope and intercept", action));
    }
    let spacing_between = groups.find(0, tags::PIXEL_MEASURES_SEQUENCE, tags::SPACING_BETWEEN_SLICES).and_then(|e| e.numbers::<1>());
    let mut image = Image {
        store: Store::File(path.clone()),
        syntax,
        lossy: Syntax::is_lossy(&content.syntax),
        layout,
        modality: content.text(tags::MODALITY),
        series: content.text(tags::SERIES_INSTANCE_UID),
        description: content.text(tags::SERIES_DESCRIPTION),
        // Some scanners write it with the sign of the direction.
        spacing_between: spacing_between.map_or(0.0, |[s]| s.abs()),
        rescaled,
        frames,
        path,
    };
    let pieces = pieces(content, image.syntax, image.layout.frame_bytes(), image.layout.pixels(), image.frames.len())?;
    image.store = pieces.0;
    image.frames.iter_mut().zip(pieces.1).for_each(|(frame, bytes)| frame.bytes = bytes);
    Ok(image)
}

/// How numbers lie, checked against each other and the memory that one frame takes.
pub fn layout(content: &Content) -> Result<Layout> {
    let path = &content.path;
    let need = |tag, what: &str| content.u16(tag).ok_or_else(|| missing(path, tag, what));
    let (rows, columns) = (need(tags::ROWS, "number of rows")?, need(tags::COLUMNS, "number of columns")?);
    let bits_allocated = need(tags::BITS_ALLOCATED, "number of bits")?;
    let bits_stored = content.u16(tags::BITS_STORED).unwrap_or(bits_allocated);
    let high_bit = content.u16(tags::HIGH_BIT).unwrap_or(bits_stored.saturating_sub(1));
    let signed = content.u16(tags::PIXEL_REPRESENTATION).unwrap_or(0) == 1;
    let bad = |found: String, expected: &str| Err(Error::file(path, found, expected, "export the series again"));
    if rows == 0 || columns == 0 {
        return bad(format!("{columns}x{rows} pixels"), "an image");
    }
    let grey = content.text(tags::PHOTOMETRIC_INTERPRETATION);
    if content.u16(tags::SAMPLES_PER_PIXEL).unwrap_or(1) != 1 || grey.contains("RGB") || grey.contains("YBR") || grey.contains("PALETTE") {
        return bad(format!("colours ({grey})"), "one number a pixel");
    }
    if content.pixels.is_none_or(|head| head.tag != tags::PIXEL_DATA) || !matches!(bits_allocated, 1 | 8 | 16 | 32) {
        return bad(format!("{bits_allocated}-bit pixels that are no whole numbers of 8, 16 or 32 bits"), "CT pixels");
    }
    if bits_stored == 0 || bits_stored > high_bit.saturating_add(1) || high_bit >= bits_allocated {
        return bad(format!("{bits_stored} bits up to bit {high_bit} of {bits_allocated}"), "bits stored that fit into the bits allocated");
    }
    // SS or US by the representation; a wrong VR holds the same bits.
    let padding = |tag| {
        let bits = content.u16(tag)?;
        Some(if signed { bits as i16 as i32 } else { bits as i32 })
    };
    let padding = padding(tags::PIXEL_PADDING_VALUE).map(|value| {
        let limit = padding(tags::PIXEL_PADDING_RANGE_LIMIT).unwrap_or(value);
        [value.min(limit), value.max(limit)]
    });
    let (rows, columns) = (rows as usize, columns as usize);
    let big_endian = content.encoding.big_endian;
    Ok(Layout { rows, columns, bits_allocated, bits_stored, high_bit, signed, big_endian, padding })
}

/// What each frame says of itself, and what all share; the outermost level speaks for images of one frame.
pub struct Groups<'a> {
    pub per_frame: Vec<DataSet<'a>>,
    shared: Option<DataSet<'a>>,
    content: &'a Content,
}

impl<'a> Groups<'a> {
    pub fn of(content: &'a Content) -> Self {
        let per_frame = content.items(tags::PER_FRAME_FUNCTIONAL_GROUPS).collect();
        Groups { per_frame, shared: content.items(tags::SHARED_FUNCTIONAL_GROUPS).next(), content }
    }

    pub fn find(&self, frame: usize, sequence: u32, tag: u32) -> Option<Element<'a>> {
        let own = self.per_frame.get(frame).and_then(|group| group.find_in(sequence, tag));
        own.or_else(|| self.shared?.find_in(sequence, tag)).or_else(|| self.content.find(tag))
    }

    pub fn plane(&self, content: &Content, frame: usize) -> Result<Plane> {
        let path = &content.path;
        let position = self.find(frame, tags::PLANE_POSITION_SEQUENCE, tags::IMAGE_POSITION).and_then(|e| e.numbers::<3>());
        let position = position.ok_or_else(|| missing(path, tags::IMAGE_POSITION, "image position"))?;
        let axes = self.find(frame, tags::PLANE_ORIENTATION_SEQUENCE, tags::IMAGE_ORIENTATION).and_then(|e| e.numbers::<6>());
        let [a, b, c, d, e, f] = axes.ok_or_else(|| missing(path, tags::IMAGE_ORIENTATION, "image orientation"))?;
        let spacing = self.find(frame, tags::PIXEL_MEASURES_SEQUENCE, tags::PIXEL_SPACING).and_then(|e| e.numbers::<2>());
        // DICOM gives the distance of rows first.
        let [of_rows, of_columns] = spacing.ok_or_else(|| missing(path, tags::PIXEL_SPACING, "pixel spacing"))?;
        check_plane(path, position, [[a, b, c], [d, e, f]], [of_columns, of_rows])
    }
}

fn check_plane(path: &Path, position: Vec3, axes: [Vec3; 2], spacing: [f64; 2]) -> Result<Plane> {
    let (lengths, angle) = (axes.map(length), dot(axes[0], axes[1]));
    if lengths.iter().any(|l| (l - 1.0).abs() > 1e-2) || angle.abs() > 1e-2 {
        let found =
            format!("image axes of lengths {:.3} and {:.3}, {:.1} degrees apart", lengths[0], lengths[1], angle.acos().to_degrees());
        return Err(Error::file(path, found, "two unit vectors at a right angle", "export the series again"));
    }
    if !spacing.iter().all(|s| (1e-3..=1e3).contains(s)) {
        let found = format!("pixels of {} x {} mm", spacing[0], spacing[1]);
        return Err(Error::file(path, found, "a spacing between 0.001 and 1000 mm", "export the series again"));
    }
    if position.iter().any(|p| p.abs() > 1e6) {
        return Err(Error::file(path, format!("a slice at {position:?} mm"), "a place within a kilometre", "export the series again"));
    }
    Ok(Plane { position, axes: std::array::from_fn(|i| axes[i].map(|v| v / lengths[i])), spacing })
}

/// Where the bytes of each frame are. Checked against the file's size, so that no frame promises more than there is.
pub fn pieces(
    content: Content,
    syntax: Syntax,
    frame_bytes: u64,
    pixels: usize,
    frames: usize,
) -> Result<(Store, Vec<Vec<std::ops::Range<u64>>>)> {
    let (path, len) = (content.path.clone(), content.len);
    let head = content.pixels.ok_or_else(|| missing(&path, tags::PIXEL_DATA, "pixel data"))?;
    let (store, fragments) = content.into_store()?;
    let short = |found: String| {
        let expected = format!("pixels for {frames} frame(s) of {pixels}");
        Error::file(&path, found, expected, "the file is cut short or damaged: copy it again")
    };
    if head.len != UNDEFINED {
        if syntax != Syntax::Native {
            return Err(short("compressed pixels without fragments".into()));
        }
        let end = match &store {
            Store::Memory(bytes) => bytes.len() as u64,
            Store::File(_) => len,
        };
        let there = end.saturating_sub(head.at as u64).min(head.len as u64);
        let needed = frame_bytes.saturating_mul(frames as u64);
        if needed > there {
            return Err(short(format!("{there} bytes of pixels where {needed} should be")));
        }
        let frame = |i: u64| {
            let start = head.at as u64 + i * frame_bytes;
            std::iter::once(start..start + frame_bytes).collect()
        };
        return Ok((store, (0..frames as u64).map(frame).collect()));
    }
    if syntax == Syntax::Native {
        return Err(short("fragments of pixels that should not be compressed".into()));
    }
    syntax.check_memory(&path, pixels, len)?;
    let Some((table, data)) = fragments.split_first() else { return Err(short("no fragments".into())) };
    if frames == 1 && !data.is_empty() {
        return Ok((store, vec![data.to_vec()]));
    }
    if data.len() == frames {
        return Ok((store, data.iter().map(|piece| vec![piece.clone()]).collect()));
    }
    // Frames in several fragments each: the offset table says where each begins, counted from the first fragment's item.
    let (mut offsets, Some(first)) = (Vec::new(), data.first()) else { return Err(short("no fragments".into())) };
    store.read(&path, table, &mut offsets)?;
    let begins: Vec<u64> = offsets.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as u64 + first.start).collect();
    if begins.len() != frames {
        return Err(short(format!("{} fragments and {} offsets", data.len(), begins.len())));
    }
    let mut all = vec![Vec::new(); frames];
    for piece in data {
        let frame = begins.partition_point(|&begin| begin <= piece.start);
        all[frame.saturating_sub(1)].push(piece.clone());
    }
    if all.iter().any(Vec::is_empty) {
        return Err(short("an offset table that leaves frames empty".into()));
    }
    Ok((store, all))
}
