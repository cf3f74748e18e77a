//! DICOM segmentations (SEG): binary, fractional and label maps, frames placed by their own positions.

use std::path::Path;
use std::sync::Arc;

use super::codec::Syntax;
use super::content::{Content, Store, missing};
use super::element::UNDEFINED;
use super::grid::Fit;
use super::image::{Groups, Layout, Plane, dot, layout, length, minus, pieces};
use super::stack::affine;
use super::tags;
use crate::io::source::zeroed;
use crate::io::{Opened, Warning};
use crate::volume::{ClassTable, Geometry, Labels};
use crate::{Error, Result};

/// Voxels of the largest grid that a segmentation may span; its frames can be few and far apart.
const MOST_VOXELS: f64 = (1u64 << 30) as f64;
/// Frames lie at whole steps; what they may be off, in steps, and in mm where that is more.
const OFF_STEP: f64 = 0.05;
const ROUNDING_MM: f64 = 0.02;

struct Segmentation {
    layout: Layout,
    /// Pixels of a label map are segment numbers; of a fractional segmentation, from this value on they belong to the segment.
    kind: Values,
    /// Of each frame: the segment (0 in a label map) and where it is along the grid's last axis.
    frames: Vec<(u8, usize)>,
    /// The pixels of all frames, or of each.
    pixels: Pixels,
}

enum Values {
    Binary,
    Fractional { from: u32 },
    LabelMap,
}

enum Pixels {
    /// Single bits, frame after frame without gaps.
    Bits(Vec<u8>),
    Frames(Vec<Vec<u8>>),
}

/// The segments as classes: on the grid of `scan` where its voxels are the segmentation's, else on its own.
pub fn read(content: Content, scan: Option<&Geometry>) -> Result<Opened<Labels>> {
    let path = content.path.clone();
    let classes = classes(&content)?;
    let (geometry, segmentation) = parse(content, &classes)?;
    let fit = scan.and_then(|scan| Some((scan, Fit::of(&geometry, scan)?)));
    let mut warnings = Vec::new();
    let labels = match fit {
        Some((scan, fit)) if segmentation.lies_inside(&geometry, &fit) => {
            let mut data = zeroed::<u8>(scan.voxels(), &path)?;
            segmentation.draw(&path, &mut data, |ijk| fit.flat(ijk), &mut warnings)?;
            Labels { data, geometry: scan.clone(), classes: Arc::new(classes) }
        }
        _ => {
            let [_, ny, nz] = geometry.shape;
            let mut data = zeroed::<u8>(geometry.voxels(), &path)?;
            segmentation.draw(&path, &mut data, |[i, j, k]| Some((i * ny + j) * nz + k), &mut warnings)?;
            Labels { data, geometry, classes: Arc::new(classes) }
        }
    };
    let dtype = if segmentation.layout.bits_allocated == 1 { "bool".into() } else { segmentation.layout.dtype() };
    Ok(Opened { item: labels, format: "DICOM SEG", dtype, warnings })
}

fn classes(content: &Content) -> Result<ClassTable> {
    let mut classes = ClassTable::new();
    for segment in content.items(tags::SEGMENT_SEQUENCE) {
        let number = segment.find(tags::SEGMENT_NUMBER).and_then(|e| e.u16());
        let number = number.ok_or_else(|| missing(&content.path, tags::SEGMENT_NUMBER, "segment number"))?;
        let label = segment.find(tags::SEGMENT_LABEL).map(|e| e.text().into_owned()).unwrap_or_default();
        // A label map lists its background.
        if number == 0 {
            continue;
        }
        let class = u8::try_from(number).map_err(|_| {
            Error::file(&content.path, format!("segment number {number}"), "numbers from 1 to 255", "split the segmentation")
        })?;
        classes.insert(class, if label.is_empty() { format!("segment {number}") } else { label });
    }
    if classes.is_empty() {
        return Err(missing(&content.path, tags::SEGMENT_SEQUENCE, "list of segments"));
    }
    Ok(classes)
}

fn parse(content: Content, classes: &ClassTable) -> Result<(Geometry, Segmentation)> {
    let path = content.path.clone();
    let layout = layout(&content)?;
    let syntax = Syntax::of(&path, &content.syntax)?;
    let maximum = content.u16(tags::MAXIMUM_FRACTIONAL_VALUE).unwrap_or(255).max(1);
    let kind = match content.text(tags::SEGMENTATION_TYPE).as_str() {
        "FRACTIONAL" => Values::Fractional { from: (maximum as u32).div_ceil(2) },
        "LABELMAP" => Values::LabelMap,
        _ if layout.bits_allocated > 1 => Values::Fractional { from: 1 },
        _ => Values::Binary,
    };
    let refuse = |found: String, expected: &str| Err(Error::file(&path, found, expected, "export the segmentation again"));
    let one_bit = matches!(kind, Values::Binary | Values::Fractional { from: 1 });
    let can_be = matches!(layout.bits_allocated, 8 | 16) || (layout.bits_allocated == 1 && one_bit);
    if !can_be {
        return refuse(format!("{} bits a pixel", layout.bits_allocated), "1, 8 or 16 bits");
    }
    let groups = Groups::of(&content);
    let count = groups.per_frame.len();
    if count == 0 {
        return refuse("frames without positions of their own".into(), "a position for each frame");
    }
    let mut planes = Vec::new();
    let mut segments = Vec::new();
    for index in 0..count {
        planes.push(groups.plane(&content, index)?);
        let number = groups.find(index, tags::SEGMENT_IDENTIFICATION_SEQUENCE, tags::REFERENCED_SEGMENT_NUMBER).and_then(|e| e.u16());
        let class = match (&kind, number) {
            (Values::LabelMap, _) => 0,
            (_, Some(number)) => u8::try_from(number).ok().filter(|n| classes.contains_key(n)).unwrap_or(0),
            (_, None) => return Err(missing(&path, tags::REFERENCED_SEGMENT_NUMBER, "segment of a frame")),
        };
        if class == 0 && !matches!(kind, Values::LabelMap) {
            return refuse(format!("a frame of segment {}", number.unwrap_or(0)), "segments that the file lists");
        }
        segments.push(class);
    }
    let spacing = |tag| groups.find(0, tags::PIXEL_MEASURES_SEQUENCE, tag).and_then(|e| e.numbers::<1>()).map(|[s]| s.abs());
    let stated = [spacing(tags::SPACING_BETWEEN_SLICES), spacing(tags::SLICE_THICKNESS)];
    let (geometry, places) = grid(&path, &planes, stated, &layout)?;
    let pixels = read_pixels(content, syntax, &layout, count)?;
    let frames = segments.into_iter().zip(places).collect();
    Ok((geometry, Segmentation { layout, kind, frames, pixels }))
}

/// The even grid that all frames lie on, and where each lies along its last axis.
fn grid(path: &Path, planes: &[Plane], stated: [Option<f64>; 2], layout: &Layout) -> Result<(Geometry, Vec<usize>)> {
    let refuse = |found: String, expected: &str| Err(Error::file(path, found, expected, "export the segmentation on the grid of its scan"));
    let Some(first) = planes.first() else { return refuse("no frames".into(), "frames") };
    let normal = first.normal();
    let heights: Vec<f64> = planes.iter().map(|p| dot(minus(p.position, first.position), normal)).collect();
    let pixel = first.spacing[0].min(first.spacing[1]);
    for (plane, height) in planes.iter().zip(&heights) {
        let turned = plane.axes.as_flattened().iter().zip(first.axes.as_flattened()).any(|(a, b)| (a - b).abs() > 1e-3);
        let sideways: [f64; 3] = std::array::from_fn(|r| plane.position[r] - first.position[r] - height * normal[r]);
        if turned || plane.spacing != first.spacing || length(sideways) > 0.1 * pixel + ROUNDING_MM {
            return refuse(format!("frames {:.2} mm beside one another or turned", length(sideways)), "frames straight above one another");
        }
    }
    let mut sorted = heights.clone();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup_by(|a, b| *a - *b < ROUNDING_MM);
    let lowest = sorted[0];
    let smallest = sorted.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    let place = |height: f64, step: f64| ((height - lowest) / step).round();
    let off = |step: f64| sorted.iter().map(|&h| (h - lowest - place(h, step) * step).abs()).fold(0.0, f64::max);
    // Few digits in the smallest step add up over many: it is refined over the whole span.
    let span = sorted[sorted.len() - 1] - lowest;
    let refined = if smallest.is_finite() { span / (span / smallest).round() } else { f64::INFINITY };
    let candidates = [stated[0], Some(refined), stated[1], Some(1.0)].into_iter().flatten().filter(|s| (1e-3..=1e3).contains(s));
    let Some(step) = candidates.into_iter().find(|&s| off(s) <= ROUNDING_MM.max(OFF_STEP * s)) else {
        return refuse(format!("frames at uneven steps of {smallest:.3} mm and more"), "frames at even steps");
    };
    let count = place(span + lowest, step) + 1.0;
    if count * layout.pixels() as f64 > MOST_VOXELS {
        return refuse(format!("frames that span {count:.0} slices of {} pixels", layout.pixels()), "a grid of at most 2^30 voxels");
    }
    let places = heights.iter().map(|&h| place(h, step).max(0.0) as usize).collect();
    let columns = [first.axes[0].map(|v| v * first.spacing[0]), first.axes[1].map(|v| v * first.spacing[1]), normal.map(|v| v * step)];
    let origin = std::array::from_fn(|r| first.position[r] + normal[r] * lowest);
    Ok((Geometry { shape: [layout.columns, layout.rows, count as usize], affine: affine(columns, origin), stored: None }, places))
}

fn read_pixels(content: Content, syntax: Syntax, layout: &Layout, frames: usize) -> Result<Pixels> {
    let path = content.path.clone();
    let damaged = |found: String| Error::file(&path, found, "the frames that the header announces", "copy or export the file again");
    if layout.bits_allocated == 1 {
        let head = content.pixels.filter(|head| head.len != UNDEFINED && syntax == Syntax::Native);
        let head = head.ok_or_else(|| damaged("compressed pixels of single bits".into()))?;
        let bits = (layout.pixels() as u64).saturating_mul(frames as u64);
        if bits.div_ceil(8) > head.len as u64 {
            return Err(damaged(format!("{} bytes of pixels where {} should be", head.len, bits.div_ceil(8))));
        }
        let (store, _): (Store, _) = content.into_store()?;
        let mut bytes = Vec::new();
        store.read(&path, &(head.at as u64..head.at as u64 + bits.div_ceil(8)), &mut bytes)?;
        return Ok(Pixels::Bits(bytes));
    }
    let (store, all) = pieces(content, syntax, layout.frame_bytes(), layout.pixels(), frames)?;
    let decode = |ranges: &Vec<std::ops::Range<u64>>| {
        let mut bytes = Vec::new();
        for range in ranges {
            store.read(&path, range, &mut bytes)?;
        }
        syntax.decode(bytes, layout).map_err(&damaged)
    };
    Ok(Pixels::Frames(all.iter().map(decode).collect::<Result<_>>()?))
}

impl Segmentation {
    /// Calls `mark(pixel index, class)` for every labelled pixel of a frame.
    fn each(&self, frame: usize, mut mark: impl FnMut(usize, u32)) {
        let (count, class) = (self.layout.pixels(), self.frames[frame].0 as u32);
        match &self.pixels {
            Pixels::Bits(bytes) => {
                let first = frame * count;
                // The first pixel is the lowest bit (PS3.5, 8.1.1).
                let set = |i: usize| bytes.get((first + i) / 8).is_some_and(|b| b >> ((first + i) % 8) & 1 == 1);
                (0..count).filter(|&i| set(i)).for_each(|i| mark(i, class));
            }
            Pixels::Frames(frames) => {
                let bytes = &frames[frame];
                let wide = self.layout.bits_allocated == 16;
                for i in 0..count {
                    let value = if wide { u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]) as u32 } else { bytes[i] as u32 };
                    match self.kind {
                        Values::LabelMap if value > 0 => mark(i, value),
                        Values::Fractional { from } if value >= from => mark(i, class),
                        Values::Binary if value > 0 => mark(i, class),
                        _ => {}
                    }
                }
            }
        }
    }

    fn voxel(&self, frame: usize, pixel: usize) -> [usize; 3] {
        [pixel % self.layout.columns, pixel / self.layout.columns, self.frames[frame].1]
    }

    fn lies_inside(&self, geometry: &Geometry, fit: &Fit) -> bool {
        let corners = |k: usize| [[0, 0, k], [geometry.shape[0] - 1, geometry.shape[1] - 1, k]];
        self.frames.iter().all(|&(_, k)| corners(k).into_iter().all(|corner| fit.flat(corner).is_some()))
    }

    /// Large segments first, so that a small one inside of a large one is seen.
    fn draw(&self, path: &Path, data: &mut [u8], flat: impl Fn([usize; 3]) -> Option<usize>, warnings: &mut Vec<Warning>) -> Result<()> {
        let mut sizes = [0u64; 256];
        let mut largest = 0;
        for frame in 0..self.frames.len() {
            self.each(frame, |_, class| {
                largest = largest.max(class);
                sizes[(class & 255) as usize] += 1;
            });
        }
        if largest > 255 {
            return Err(Error::file(path, format!("segment number {largest}"), "numbers from 1 to 255", "split the segmentation"));
        }
        let mut order: Vec<usize> = (0..self.frames.len()).collect();
        order.sort_by_key(|&frame| (std::cmp::Reverse(sizes[self.frames[frame].0 as usize]), self.frames[frame].0));
        let mut overlap = 0u64;
        for frame in order {
            self.each(frame, |pixel, class| {
                let Some(at) = flat(self.voxel(frame, pixel)) else { return };
                overlap += u64::from(data[at] != 0 && data[at] as u32 != class);
                data[at] = class as u8;
            });
        }
        if overlap > 0 {
            warnings.push(overlaps(overlap));
        }
        Ok(())
    }
}

/// Structures that share voxels, where a label map has one class a voxel.
pub fn overlaps(voxels: u64) -> Warning {
    let action = "the smaller structure has them; split the file if that is not meant";
    Warning::new(format!("structures that overlap in {voxels} voxels"), "one structure a voxel", action)
}
