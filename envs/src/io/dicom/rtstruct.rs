//! Contours (RTSTRUCT) drawn on the grid of a scan: even-odd at voxel centres, so that inner contours are holes.

use std::path::Path;
use std::sync::Arc;

use super::content::{Content, missing};
use super::grid::ToVoxels;
use super::seg::overlaps;
use super::tags;
use crate::io::source::zeroed;
use crate::io::{Opened, Warning};
use crate::volume::{ClassTable, Geometry, Labels};
use crate::{Error, Result};

/// How far the points of a contour may be off its slice, in voxels.
const OFF_PLANE: f64 = 0.1;

/// One structure: its contours, each with the slice that it lies on.
struct Roi {
    class: u8,
    contours: Vec<Contour>,
}

struct Contour {
    /// Where along the axis that the slices are stacked on, in voxels.
    height: f64,
    /// Along the two other axes, in voxels.
    points: Vec<[f64; 2]>,
}

pub fn read(content: &Content, scan: Option<&Geometry>) -> Result<Opened<Labels>> {
    let path = &content.path;
    let Some(scan) = scan else {
        let action = "give the scan that they were drawn on as well";
        return Err(Error::file(path, "contours (RTSTRUCT), which have no grid", "contours and their scan", action));
    };
    let to = ToVoxels::of(scan).ok_or_else(|| Error::file(path, "a scan whose grid is flat", "a grid with a volume", "check the scan"))?;
    let (classes, numbers) = classes(content)?;
    let mut warnings = Vec::new();
    let mut axis = None;
    let (mut rois, mut open) = (Vec::new(), 0);
    for item in content.items(tags::ROI_CONTOUR_SEQUENCE) {
        let number = item.find(tags::REFERENCED_ROI_NUMBER).and_then(|e| e.numbers::<1>()).map(|[n]| n);
        let Some(&(_, class)) = numbers.iter().find(|(n, _)| Some(*n) == number) else {
            return Err(missing(path, tags::REFERENCED_ROI_NUMBER, "number of a structure"));
        };
        let mut contours = Vec::new();
        for contour in item.find(tags::CONTOUR_SEQUENCE).into_iter().flat_map(|e| e.items()) {
            let kind = contour.find(tags::CONTOUR_GEOMETRIC_TYPE).map(|e| e.text().into_owned()).unwrap_or_default();
            if !kind.starts_with("CLOSED") {
                open += 1;
                continue;
            }
            let name = || classes.get(&class).cloned().unwrap_or_default();
            let world = points(path, contour.find(tags::CONTOUR_DATA).ok_or_else(|| missing(path, tags::CONTOUR_DATA, "contour"))?)?;
            contours.push(flatten(path, &name(), world, &to, &mut axis)?);
        }
        rois.push(Roi { class, contours });
    }
    if rois.iter().all(|roi| roi.contours.is_empty()) {
        let found = if open > 0 { format!("{open} open contours and points") } else { "no contours".into() };
        return Err(Error::file(path, found, "closed contours", "export the structures with their contours"));
    }
    if open > 0 {
        let found = format!("{open} open contours or points");
        warnings.push(Warning::new(found, "closed contours", "nothing to do if they are marks; they enclose nothing"));
    }
    let data = draw(path, &rois, scan, axis.unwrap_or(2), &mut warnings)?;
    let labels = Labels { data, geometry: scan.clone(), classes: Arc::new(classes) };
    Ok(Opened { item: labels, format: "DICOM RTSTRUCT", dtype: "contours".into(), warnings })
}

/// The structures' names, and the class of each ROI number: the number itself where all are from 1 to 255, else their order.
fn classes(content: &Content) -> Result<(ClassTable, Vec<(f64, u8)>)> {
    let mut rois = Vec::new();
    for item in content.items(tags::STRUCTURE_SET_ROI_SEQUENCE) {
        let number = item.find(tags::ROI_NUMBER).and_then(|e| e.numbers::<1>()).map(|[n]| n);
        let number = number.ok_or_else(|| missing(&content.path, tags::ROI_NUMBER, "number of a structure"))?;
        rois.push((number, item.find(tags::ROI_NAME).map(|e| e.text().into_owned()).unwrap_or_default()));
    }
    if rois.is_empty() || rois.len() > 255 {
        let found = format!("{} structures", rois.len());
        return Err(Error::file(&content.path, found, "1 to 255 structures", "export the structures that are needed"));
    }
    let fits = rois.iter().all(|(n, _)| (1.0..=255.0).contains(n) && n.fract() == 0.0);
    let class = |(order, (number, _)): (usize, &(f64, String))| (*number, if fits { *number as u8 } else { order as u8 + 1 });
    let numbers: Vec<(f64, u8)> = rois.iter().enumerate().map(class).collect();
    let table = numbers.iter().zip(rois).map(|(&(_, class), (_, name))| (class, name)).collect();
    Ok((table, numbers))
}

/// The corners of a contour in our world (R, A, S), in mm.
fn points(path: &Path, data: super::element::Element) -> Result<Vec<[f64; 3]>> {
    let bad = || {
        let (found, expected) = ("a contour of numbers that are no points", "three numbers in mm a point");
        Error::file(path, found, expected, "export the structures again")
    };
    let count = data.value.iter().filter(|&&b| b == b'\\').count() + 1;
    let mut points = Vec::with_capacity(count / 3);
    let mut numbers = data.decimals();
    while let Some(x) = numbers.next() {
        let (Some(x), Some(Some(y)), Some(Some(z))) = (x, numbers.next(), numbers.next()) else { return Err(bad()) };
        points.push([-x, -y, z]);
    }
    Ok(points)
}

/// A contour on a slice of the grid: along the axis on which its points don't move. All contours lie along one axis.
fn flatten(path: &Path, name: &str, world: Vec<[f64; 3]>, to: &ToVoxels, axis: &mut Option<usize>) -> Result<Contour> {
    let range = |a: usize| {
        let (low, high) = world.iter().map(|&p| to.at(p)[a]).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        high - low
    };
    // A contour of few points may lie flat along two axes: the first one with an extent decides.
    let ranges: [f64; 3] = std::array::from_fn(range);
    let flattest = (0..3).rev().min_by(|&a, &b| ranges[a].total_cmp(&ranges[b])).unwrap_or(2);
    let along = *axis.get_or_insert(flattest);
    if ranges[along] > 2.0 * OFF_PLANE {
        let found = format!("a contour of \"{name}\" that is {:.2} voxels off its slice", ranges[along]);
        let action = "give the scan that the structures were drawn on";
        return Err(Error::file(path, found, "contours that lie in the slices of the scan", action));
    }
    let others = [[1, 2], [0, 2], [0, 1]][along];
    let mut height = 0.0;
    let mut points = Vec::with_capacity(world.len());
    for &point in &world {
        let voxel = to.at(point);
        height += voxel[along] / world.len() as f64;
        points.push(others.map(|a| voxel[a]));
    }
    Ok(Contour { height, points })
}

/// Large structures first, so that a small one inside of a large one is seen.
fn draw(path: &Path, rois: &[Roi], scan: &Geometry, axis: usize, warnings: &mut Vec<Warning>) -> Result<Vec<u8>> {
    let mut data = zeroed::<u8>(scan.voxels(), path)?;
    let [_, ny, nz] = scan.shape;
    let others = [[1, 2], [0, 2], [0, 1]][axis];
    let size = others.map(|a| scan.shape[a]);
    let strides = [ny * nz, nz, 1];
    let mut fill = Fill { parity: zeroed((size[0] + 1) * size[1], path)?, size };
    let mut order = Vec::new();
    let (mut outside, mut off) = (0, 0f64);
    for roi in rois {
        let (slices, farthest) = slices_of(roi, scan.shape[axis]);
        off = off.max(farthest);
        outside += roi.contours.iter().filter(|c| !(-0.5..=scan.shape[axis] as f64 - 0.5).contains(&c.height)).count();
        let voxels: u64 = slices.iter().map(|(_, contours)| fill.each(roi, contours, |_, _| {})).sum();
        order.push((voxels, roi, slices));
    }
    order.sort_by_key(|(voxels, roi, _)| (std::cmp::Reverse(*voxels), roi.class));
    let mut overlap = 0;
    for (_, roi, slices) in &order {
        for (slice, contours) in slices {
            fill.each(roi, contours, |u, v| {
                let at = slice * strides[axis] + u * strides[others[0]] + v * strides[others[1]];
                overlap += u64::from(data[at] != 0 && data[at] != roi.class);
                data[at] = roi.class;
            });
        }
    }
    if outside > 0 {
        let found = format!("{outside} contours outside of the scan");
        warnings.push(Warning::new(found, "contours inside", "give the scan that they were drawn on if they should be"));
    }
    if off > OFF_PLANE {
        let found = format!("contours up to {off:.2} slices off the scan's");
        warnings.push(Warning::new(found, "contours on its slices", "each slice has the contours nearest to it; look at the result"));
    }
    let empty: Vec<u8> = order.iter().filter(|(voxels, ..)| *voxels == 0).map(|(_, roi, _)| roi.class).collect();
    if !empty.is_empty() {
        let found = format!("structures that enclose no voxel: {empty:?}");
        warnings.push(Warning::new(found, "structures of at least one voxel", "leave them out if they are not needed"));
    }
    if overlap > 0 {
        warnings.push(overlaps(overlap));
    }
    Ok(data)
}

/// The contours of each slice of the scan, and how far off their slice they are at most.
///
/// Contours between the scan's slices (a resampled scan) go to all slices that are nearest to them, as long as those are no farther than half the distance of contours.
fn slices_of(roi: &Roi, count: usize) -> (Vec<(usize, Vec<usize>)>, f64) {
    let mut order: Vec<usize> = (0..roi.contours.len()).collect();
    order.sort_by(|&a, &b| roi.contours[a].height.total_cmp(&roi.contours[b].height));
    let mut planes: Vec<(f64, Vec<usize>)> = Vec::new();
    for contour in order {
        let height = roi.contours[contour].height;
        match planes.last_mut().filter(|(at, _)| height - *at < OFF_PLANE) {
            Some((_, contours)) => contours.push(contour),
            None => planes.push((height, vec![contour])),
        }
    }
    let off = planes.iter().map(|(at, _)| (at - at.round()).abs()).fold(0.0, f64::max);
    let mut slices = Vec::new();
    if off <= OFF_PLANE {
        for (at, contours) in planes {
            if (0.0..count as f64).contains(&at.round()) {
                slices.push((at.round() as usize, contours));
            }
        }
        return (slices, off);
    }
    let mut steps: Vec<f64> = planes.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    steps.sort_by(f64::total_cmp);
    let reach = (steps.get(steps.len() / 2).copied().unwrap_or(1.0) / 2.0).max(0.5);
    for slice in 0..count {
        let above = planes.partition_point(|(at, _)| *at < slice as f64);
        let near = [above.checked_sub(1), Some(above)].into_iter().flatten().filter_map(|i| planes.get(i));
        let distance = |plane: &(f64, Vec<usize>)| (plane.0 - slice as f64).abs();
        let nearest = near.min_by(|a, b| distance(a).total_cmp(&distance(b)));
        if let Some((_, contours)) = nearest.filter(|plane| distance(plane) <= reach) {
            slices.push((slice, contours.clone()));
        }
    }
    (slices, off)
}

/// A slice that contours are filled on.
struct Fill {
    /// One more along the first axis than the slice: 1 where the inside changes from the voxel before.
    parity: Vec<u8>,
    size: [usize; 2],
}

impl Fill {
    /// Calls `mark(u, v)` for each voxel whose centre lies inside, and counts them. A centre on the edge is inside on one side only, so that neighbours don't share it.
    fn each(&mut self, roi: &Roi, contours: &[usize], mut mark: impl FnMut(usize, usize)) -> u64 {
        let [nu, nv] = self.size;
        self.parity.fill(0);
        let (mut first, mut end) = (nv, 0);
        for &contour in contours {
            let points = &roi.contours[contour].points;
            for (i, &a) in points.iter().enumerate() {
                let b = points[(i + 1) % points.len()];
                let (low, high) = if a[1] <= b[1] { (a, b) } else { (b, a) };
                // Rows that the edge crosses: its lower end belongs to it, its upper end to the next edge.
                let rows = low[1].ceil().max(0.0) as usize..high[1].ceil().clamp(0.0, nv as f64) as usize;
                for v in rows {
                    let at = low[0] + (v as f64 - low[1]) / (high[1] - low[1]) * (high[0] - low[0]);
                    self.parity[v * (nu + 1) + at.ceil().clamp(0.0, nu as f64) as usize] ^= 1;
                    (first, end) = (first.min(v), end.max(v + 1));
                }
            }
        }
        let mut count = 0;
        for v in first..end {
            let mut inside = 0;
            for u in 0..nu {
                inside ^= self.parity[v * (nu + 1) + u];
                if inside == 1 {
                    count += 1;
                    mark(u, v);
                }
            }
        }
        count
    }
}
