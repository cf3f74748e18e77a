//! Where the surface of a mask lies, and how large each piece of it is.
//!
//! Surface elements (surfels) as in DeepMind's `surface-distance`: every corner between eight voxels of which some, but not all, are
//! in the mask carries the area that marching cubes would draw there. Beyond the grid everything is background.

use crate::volume::runs::{Run, Runs};

/// Points on a grid with a weight each, in C order.
#[derive(Clone, Debug, Default)]
pub struct Surface {
    /// Index on each axis. For surfels it is the corner's: corner `i` lies between voxels `i - 1` and `i`.
    pub points: Vec<[i32; 3]>,
    /// Area in mm² for surfels, 1 for border voxels.
    pub weights: Vec<f64>,
}

/// Area in mm² of the surfel of each 2x2x2 neighbourhood. Voxel `(x, y, z)` of the neighbourhood, each 0 or 1, is bit `7 - (4x + 2y + z)`.
///
/// Up to turning, mirroring and swapping inside and outside there are 14 neighbourhoods (one of them uniform, without a surface); each
/// is listed with the triangles that marching cubes puts there.
pub fn surfel_areas(spacing_mm: [f64; 3]) -> [f64; 256] {
    // Normals in eighths of a unit square, the length is the area: `corners` times (1, 1, 1), and the others by their absolute components.
    #[rustfmt::skip]
    const CLASSES: [(u8, f64, &[[f64; 3]]); 13] = [
        (0b0000_0001, 1.0, &[]),
        (0b0000_0011, 0.0, &[[2.0, 2.0, 0.0], [2.0, 2.0, 0.0]]),
        (0b0000_0110, 2.0, &[]),
        (0b0001_1000, 2.0, &[]),
        (0b0000_0111, 3.0, &[[4.0, 0.0, 0.0]]),
        (0b0001_0110, 3.0, &[]),
        (0b0001_1001, 1.0, &[[0.0, 2.0, 2.0], [0.0, 2.0, 2.0]]),
        (0b0000_1111, 0.0, &[[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]]),
        (0b0001_0111, 6.0, &[]),
        (0b0001_1011, 4.0, &[[0.0, 2.0, 2.0], [2.0, 0.0, 2.0]]),
        (0b0001_1110, 4.0, &[[4.0, 0.0, 0.0]]),
        (0b0011_1100, 0.0, &[[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [2.0, 2.0, 0.0]]),
        (0b0110_1001, 4.0, &[]),
    ];
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let [sx, sy, sz] = spacing_mm;
    let face = [sy * sz, sx * sz, sx * sy];
    let area = |n: [f64; 3]| (0..3).map(|a| (n[a] / 8.0 * face[a]).powi(2)).sum::<f64>().sqrt();
    let mut areas = [0.0; 256];
    for (code, corners, others) in CLASSES {
        for order in ORDERS {
            let total = corners * area([1.0; 3]) + others.iter().map(|n| area(order.map(|a| n[a]))).sum::<f64>();
            for mirror in 0..8 {
                let turned = (0..8).filter(|bit| code >> (7 - bit) & 1 == 1).fold(0u8, |turned, bit| {
                    let voxel: [usize; 3] = std::array::from_fn(|a| (bit ^ mirror) >> (2 - a) & 1);
                    turned | 1 << (7 - (4 * voxel[order[0]] + 2 * voxel[order[1]] + voxel[order[2]]))
                });
                areas[turned as usize] = total;
                areas[!turned as usize] = total;
            }
        }
    }
    areas
}

/// Surfels of a mask with their areas in mm².
pub fn surfels(mask: &Runs, spacing_mm: [f64; 3]) -> Surface {
    let areas = surfel_areas(spacing_mm);
    let [nx, ny, _] = mask.shape();
    let mut surface = Surface::default();
    let row = |x: Option<usize>, y: Option<usize>| match (x, y) {
        (Some(x), Some(y)) if x < nx && y < ny => mask.row(x, y),
        _ => &[],
    };
    for x in 0..=nx {
        for y in 0..=ny {
            let (x0, y0) = (x.checked_sub(1), y.checked_sub(1));
            let rows = [row(x0, y0), row(x0, Some(y)), row(Some(x), y0), row(Some(x), Some(y))];
            if rows.iter().all(|r| r.is_empty()) {
                continue;
            }
            for_each_corner(rows, |z, code| {
                surface.points.push([x as i32, y as i32, z as i32]);
                surface.weights.push(areas[code as usize]);
            });
        }
    }
    surface
}

/// Length in mm of the contour in each 2x2 neighbourhood of the plane of y and z. Pixel `(y, z)`, each 0 or 1, is bit `3 - (2y + z)`.
pub fn contour_lengths([_, sy, sz]: [f64; 3]) -> [f64; 16] {
    let corner = (sy * sy + sz * sz).sqrt() / 2.0;
    std::array::from_fn(|code| match code {
        0b0000 | 0b1111 => 0.0,
        0b0011 | 0b1100 => sz,
        0b0101 | 0b1010 => sy,
        0b0110 | 0b1001 => 2.0 * corner,
        _ => corner,
    })
}

/// Pieces of the contours that a mask has in its slices of equal x, with their lengths in mm (DeepMind's surface elements of a plane).
pub fn contours(mask: &Runs, spacing_mm: [f64; 3]) -> Surface {
    let lengths = contour_lengths(spacing_mm);
    let [nx, ny, _] = mask.shape();
    let mut surface = Surface::default();
    for (x, y) in (0..nx).flat_map(|x| (0..=ny).map(move |y| (x, y))) {
        let before = if y > 0 { mask.row(x, y - 1) } else { &[] };
        let here = if y < ny { mask.row(x, y) } else { &[] };
        for_each_corner([&[], &[], before, here], |z, code| {
            // With two of the four rows empty the walk also stops at corners inside of the mask.
            if code != 0b1111 {
                surface.points.push([x as i32, y as i32, z as i32]);
                surface.weights.push(lengths[code as usize]);
            }
        });
    }
    surface
}

/// Calls `each(z, code)` along the line of corners between four rows, where the eight voxels around the corner differ.
fn for_each_corner(rows: [&[Run]; 4], mut each: impl FnMut(u32, u8)) {
    // Bit `3 - r` of a pattern says whether row r is inside; a code takes the pattern before the corner at its odd bits, the one after at the even.
    let spread = |p: u8| (0..4).map(|b| (p >> b & 1) << (2 * b)).sum::<u8>();
    let mut next = [0; 4];
    let mut pattern = 0u8;
    let mut z = 0;
    loop {
        // Where does any of the rows change next?
        let mut change = u32::MAX;
        for r in 0..4 {
            if let Some(run) = rows[r].get(next[r]) {
                change = change.min(if pattern >> (3 - r) & 1 == 1 { run.end } else { run.start });
            }
        }
        // Up to there the pattern stays: a surface runs along z unless all four are in or all four are out.
        if pattern != 0 && pattern != 15 {
            let code = spread(pattern) * 3;
            for z in z..change {
                each(z, code);
            }
        }
        if change == u32::MAX {
            return;
        }
        let before = pattern;
        for r in 0..4 {
            if let Some(run) = rows[r].get(next[r]) {
                let bit = 1 << (3 - r);
                if pattern & bit == 0 && run.start == change {
                    pattern |= bit;
                } else if pattern & bit != 0 && run.end == change {
                    pattern &= !bit;
                    next[r] += 1;
                }
            }
        }
        each(change, spread(before) << 1 | spread(pattern));
        z = change + 1;
    }
}

/// Voxels of a mask with a face on the background, each of weight 1 (MedPy's and SciPy's border: mask without its erosion).
/// With `in_slices` only the four neighbours in the slice of equal x count, as for a plane.
pub fn border_voxels(mask: &Runs, in_slices: bool) -> Surface {
    let [nx, ny, _] = mask.shape();
    let mut surface = Surface::default();
    let mut inner = Vec::new();
    let mut buffer = Vec::new();
    for x in 0..nx {
        for y in 0..ny {
            let row = mask.row(x, y);
            // The interior of the row: its runs without their ends, cut by the four neighbours.
            inner.clear();
            if (in_slices || x > 0 && x + 1 < nx) && y > 0 && y + 1 < ny {
                inner.extend(row.iter().map(|r| Run { start: r.start + 1, end: r.end - 1 }).filter(|r| r.start < r.end));
                let mut cut = |neighbour| {
                    intersect(&inner, neighbour, &mut buffer);
                    std::mem::swap(&mut inner, &mut buffer);
                };
                cut(mask.row(x, y - 1));
                cut(mask.row(x, y + 1));
                if !in_slices {
                    cut(mask.row(x - 1, y));
                    cut(mask.row(x + 1, y));
                }
            }
            let mut holes = inner.iter().peekable();
            for run in row {
                let mut z = run.start;
                while z < run.end {
                    if let Some(hole) = holes.next_if(|h| h.start == z) {
                        z = hole.end;
                    } else {
                        surface.points.push([x as i32, y as i32, z as i32]);
                        z += 1;
                    }
                }
            }
        }
    }
    surface.weights = vec![1.0; surface.points.len()];
    surface
}

/// Voxels that both lists of runs hold, into `out`.
pub fn intersect(a: &[Run], b: &[Run], out: &mut Vec<Run>) {
    out.clear();
    crate::volume::runs::for_each_overlap(a, b, 0, |i, j, _| {
        out.push(Run { start: a[i].start.max(b[j].start), end: a[i].end.min(b[j].end) });
    });
}
