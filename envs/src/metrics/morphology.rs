//! Masks grown and shrunk by one voxel. Beyond the grid everything is background.

use super::surface::intersect;
use crate::volume::components::Connectivity;
use crate::volume::runs::{Run, Runs};

/// `mask` and every voxel that touches it.
pub fn dilate(mask: &Runs, connectivity: Connectivity) -> Runs {
    let [nx, ny, nz] = mask.shape();
    let mut all = Vec::new();
    Runs::from_rows(mask.shape(), |x, y, out| {
        all.clear();
        for dx in -1..=1isize {
            for dy in -1..=1isize {
                let (Some(x), Some(y)) = (x.checked_add_signed(dx), y.checked_add_signed(dy)) else { continue };
                if x >= nx || y >= ny {
                    continue;
                }
                // How far a voxel of that row reaches along z.
                let reach = match (connectivity, dx.abs() + dy.abs()) {
                    (_, 0) | (Connectivity::Edge, 1) | (Connectivity::Corner, _) => 1,
                    (Connectivity::Face, 1) | (Connectivity::Edge, 2) => 0,
                    _ => continue,
                };
                all.extend(
                    mask.row(x, y).iter().map(|r| Run { start: r.start.saturating_sub(reach), end: (r.end + reach).min(nz as u32) }),
                );
            }
        }
        all.sort_unstable_by_key(|r| r.start);
        let from = out.len();
        for run in &all {
            match out[from..].last_mut() {
                Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
                _ => out.push(*run),
            }
        }
    })
}

/// Voxels of `mask` whose neighbours in x and y, corners included, are all in it; with `along_z` those of the slices before and after too
/// (a cube of 3 x 3 x 3).
pub fn erode(mask: &Runs, along_z: bool) -> Runs {
    let [nx, ny, _] = mask.shape();
    let (mut inner, mut buffer) = (Vec::new(), Vec::new());
    Runs::from_rows(mask.shape(), |x, y, out| {
        if x == 0 || y == 0 || x + 1 >= nx || y + 1 >= ny {
            return;
        }
        inner.clear();
        inner.extend_from_slice(mask.row(x, y));
        for (x, y) in (x - 1..=x + 1).flat_map(|x| (y - 1..=y + 1).map(move |y| (x, y))) {
            intersect(&inner, mask.row(x, y), &mut buffer);
            std::mem::swap(&mut inner, &mut buffer);
        }
        let shrink = along_z as u32;
        out.extend(inner.iter().map(|r| Run { start: r.start + shrink, end: r.end.saturating_sub(shrink) }).filter(|r| r.start < r.end));
    })
}

/// The slices `slices` of `mask` (indices along z); the others become background.
pub fn keep_slices(mask: &Runs, slices: std::ops::Range<usize>) -> Runs {
    let within = [Run { start: slices.start as u32, end: slices.end.max(slices.start) as u32 }];
    let mut kept = Vec::new();
    Runs::from_rows(mask.shape(), |x, y, out| {
        intersect(mask.row(x, y), &within, &mut kept);
        out.extend(kept.iter().filter(|r| r.start < r.end));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::u01;

    /// Voxel by voxel: does any (or every) neighbour that `near` accepts lie in the mask?
    fn naive(mask: &[u8], shape: [usize; 3], all: bool, near: impl Fn([isize; 3]) -> bool) -> Vec<u8> {
        let [nx, ny, nz] = shape.map(|n| n as isize);
        let at = |v: [isize; 3]| {
            let inside = (0..3).all(|a| v[a] >= 0 && v[a] < [nx, ny, nz][a]);
            inside && mask[((v[0] * ny + v[1]) * nz + v[2]) as usize] != 0
        };
        let steps: Vec<[isize; 3]> = (0..27).map(|c| [c / 9 - 1, c / 3 % 3 - 1, c % 3 - 1]).filter(|&s| near(s)).collect();
        (0..nx * ny * nz)
            .map(|i| {
                let v = [i / (ny * nz), i / nz % ny, i % nz];
                let mut hits = steps.iter().map(|s| at(std::array::from_fn(|a| v[a] + s[a])));
                (if all { hits.all(|h| h) } else { hits.any(|h| h) }) as u8
            })
            .collect()
    }

    #[test]
    fn the_same_as_looking_at_every_neighbour() {
        for (seed, shape, share) in
            [(1, [5, 6, 7], 0.1), (2, [4, 5, 40], 0.9), (3, [1, 3, 3], 0.5), (4, [6, 6, 6], 1.0), (5, [3, 3, 1], 0.97)]
        {
            let mask: Vec<u8> = (0..shape.iter().product::<usize>() as u64).map(|i| (u01(seed, i) < share) as u8).collect();
            let runs = Runs::of(&mask, shape);
            let check = |got: Runs, want: Vec<u8>, what: &str| assert_eq!(got, Runs::of(&want, shape), "{what}, seed {seed}");
            for (connectivity, steps) in [(Connectivity::Face, 1), (Connectivity::Edge, 2), (Connectivity::Corner, 3)] {
                let near = |s: [isize; 3]| s.iter().map(|v| v.abs()).sum::<isize>() <= steps;
                check(dilate(&runs, connectivity), naive(&mask, shape, false, near), "dilated");
            }
            check(erode(&runs, true), naive(&mask, shape, true, |_| true), "eroded");
            check(erode(&runs, false), naive(&mask, shape, true, |s| s[2] == 0), "eroded in slices");
            let nz = shape[2];
            let cut: Vec<u8> = mask.iter().enumerate().map(|(i, &v)| if (1..3).contains(&(i % nz)) { v } else { 0 }).collect();
            check(keep_slices(&runs, 1..3), cut, "slices kept");
            check(keep_slices(&runs, 2..2), vec![0; mask.len()], "no slice kept");
        }
    }
}
