//! A whole scan at a coarse grid, and what a heat map on it says about windows.

use super::scan::Scan;
use super::windows::cut;

/// Share of a cell's voxels from which a lesion fills it, as far as its target goes.
const FULL: f32 = 0.125;

/// Share of a part's sides, about its middle, whose cells count as read: what lies at its faces was read without its surroundings.
const WELL_READ: f64 = 0.75;

/// How the cells of a heat map lie on a scan: `factor` voxels of the scan are one coarse voxel, `stride` coarse voxels one cell, along each axis.
/// The last cells may reach beyond the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellGrid {
    /// Voxels of the scan.
    pub shape: [usize; 3],
    pub factor: [usize; 3],
    pub stride: usize,
}

/// What a heat map says about one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The cell that speaks for the window.
    pub cell: usize,
    /// What was taken off its log-odds for lying off the window's centre.
    pub discount: f32,
    /// Its log-odds less the discount.
    pub log_odds: f32,
}

/// A box of whole cells, read by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First cell.
    pub start: [usize; 3],
    /// Cells along each axis.
    pub cells: [usize; 3],
}

impl Part {
    /// The numbers of its cells among those of a grid of `all` cells, in order.
    fn numbers(self, all: [usize; 3]) -> impl Iterator<Item = usize> {
        let [x, y, z] = self.start;
        let [nx, ny, nz] = self.cells;
        (x..x + nx).flat_map(move |x| (y..y + ny).flat_map(move |y| (z..z + nz).map(move |z| (x * all[1] + y) * all[2] + z)))
    }
}

impl CellGrid {
    /// Voxels of the scan that one cell spans.
    pub fn cell(&self) -> [usize; 3] {
        self.factor.map(|f| (f * self.stride).max(1))
    }

    /// Number of cells along each axis.
    pub fn cells(&self) -> [usize; 3] {
        let cell = self.cell();
        std::array::from_fn(|a| self.shape[a].div_ceil(cell[a]))
    }

    /// Coarse voxels along each axis: whole cells.
    pub fn coarse(&self) -> [usize; 3] {
        self.cells().map(|n| n * self.stride)
    }

    /// The scan (`[C][shape]`) at the coarse grid, `[C][coarse]`: the mean of the voxels of each coarse one, 0 beyond the scan.
    pub fn pool(&self, image: &[f32], channels: usize) -> Vec<f32> {
        let ([_, ny, nz], [fx, fy, fz]) = (self.shape, self.factor);
        let [cx, cy, cz] = self.coarse();
        let voxels: usize = self.shape.iter().product();
        let mut out = vec![0.0; channels * cx * cy * cz];
        let share = 1.0 / (fx * fy * fz) as f32;
        for (c, out) in out.chunks_exact_mut((cx * cy * cz).max(1)).enumerate() {
            for x in 0..self.shape[0] {
                for y in 0..ny {
                    let row = c * voxels + (x * ny + y) * nz;
                    let to = ((x / fx) * cy + y / fy) * cz;
                    for (z, coarse) in image[row..row + nz].chunks(fz).zip(&mut out[to..to + cz]) {
                        *coarse += z.iter().sum::<f32>() * share;
                    }
                }
            }
        }
        out
    }

    /// The cells that a window centred on `voxel` would span, pushed back inside the grid. All parts of one window are of one size.
    pub fn part(&self, voxel: [usize; 3], window: [usize; 3]) -> Part {
        let (cell, all) = (self.cell(), self.cells());
        let cells: [usize; 3] = std::array::from_fn(|a| window[a].div_ceil(cell[a]).min(all[a]));
        let start = std::array::from_fn(|a| (voxel[a] / cell[a]).saturating_sub(cells[a] / 2).min(all[a] - cells[a]));
        Part { start, cells }
    }

    /// [`pool`](Self::pool) of `part` alone, `[C][its coarse voxels]`.
    pub fn pool_part(&self, image: &[f32], channels: usize, part: Part) -> Vec<f32> {
        let cell = self.cell();
        let shape: [usize; 3] = std::array::from_fn(|a| part.cells[a] * cell[a]);
        let mut voxels = vec![0.0; channels * shape.iter().product::<usize>()];
        cut(image, channels, self.shape, std::array::from_fn(|a| part.start[a] * cell[a]), shape, 0.0, &mut voxels);
        CellGrid { shape, ..*self }.pool(&voxels, channels)
    }

    /// `values` of all cells in `part`.
    pub fn of_part<T: Copy>(&self, values: &[T], part: Part) -> Vec<T> {
        part.numbers(self.cells()).map(|i| values[i]).collect()
    }

    /// Parts of `fine`, each of the size of a window, around the hottest cells of `heat`: first the hottest, then the hottest that no part reads, until
    /// there are `most` or all is read.
    pub fn hottest_parts(&self, heat: &[f32], fine: &CellGrid, window: [usize; 3], most: usize) -> Vec<Part> {
        let side = fine.cell();
        let in_cells = |voxel: [usize; 3]| std::array::from_fn(|a| (voxel[a] as f64 + 0.5) / side[a] as f64);
        let mut order: Vec<usize> = (0..heat.len()).collect();
        order.sort_by(|&a, &b| heat[b].total_cmp(&heat[a]));
        let mut parts: Vec<Part> = Vec::new();
        for cell in order {
            if parts.len() == most {
                break;
            }
            let voxel = self.middle(cell);
            if !parts.iter().any(|part| fine.reads(part, in_cells(voxel))) {
                parts.push(fine.part(voxel, window));
            }
        }
        parts
    }

    /// Whether `part` was read around `place`, in cells: not at its faces, unless those are the grid's own, beyond which there is nothing to miss.
    fn reads(&self, part: &Part, place: [f64; 3]) -> bool {
        (0..3).all(|a| {
            let half = part.cells[a] as f64 / 2.0;
            let off = place[a] - part.start[a] as f64 - half;
            let own_face = if off < 0.0 { part.start[a] == 0 } else { part.start[a] + part.cells[a] == self.cells()[a] };
            off.abs() <= if own_face { half } else { half * WELL_READ }
        })
    }

    /// The voxel in the middle of cell number `cell`, inside the scan.
    pub fn middle(&self, cell: usize) -> [usize; 3] {
        let (side, [_, my, mz]) = (self.cell(), self.cells());
        let place = [cell / (my * mz), cell / mz % my, cell % mz];
        std::array::from_fn(|a| (place[a] * side[a] + side[a] / 2).min(self.shape[a].saturating_sub(1)))
    }

    /// `heat` of this grid on the cells of `fine`: what was read of each part (`[cells]`) in its place, but at its faces; of parts that overlap that
    /// whose middle is nearest; and elsewhere what the cell of this grid says that lies over it.
    pub fn refine(&self, heat: &[f32], fine: &CellGrid, parts: &[(Part, Vec<f32>)]) -> Vec<f32> {
        let (cell, [_, my, mz]) = (self.cell(), self.cells());
        let over = |v: [usize; 3]| ((v[0] / cell[0]) * my + v[1] / cell[1]) * mz + v[2] / cell[2];
        let all = fine.cells();
        let mut refined: Vec<f32> = (0..all.iter().product()).map(|i| heat[over(fine.middle(i))]).collect();
        let mut nearest = vec![f32::INFINITY; refined.len()];
        for (part, read) in parts {
            let off = |a: usize, i: usize| ((i - part.start[a]) as f32 + 0.5) * 2.0 / part.cells[a] as f32 - 1.0;
            for (i, &value) in part.numbers(all).zip(read) {
                let place = [i / (all[1] * all[2]), i / all[2] % all[1], i % all[2]];
                let distance = (0..3).map(|a| off(a, place[a]).powi(2)).sum::<f32>();
                if distance < nearest[i] && fine.reads(part, place.map(|p| p as f64 + 0.5)) {
                    (nearest[i], refined[i]) = (distance, value);
                }
            }
        }
        refined
    }

    /// What each cell is taught, 0 to 1: how much lesion it holds, full from an eighth of its voxels on.
    pub fn targets(&self, scan: &Scan) -> Vec<f32> {
        let (cell, [_, my, mz]) = (self.cell(), self.cells());
        let mut targets = vec![0.0; self.cells().iter().product()];
        for &flat in scan.lesion_voxels() {
            let [x, y, z] = scan.position(flat as usize);
            targets[((x / cell[0]) * my + y / cell[1]) * mz + z / cell[2]] += 1.0;
        }
        let full = FULL * cell.iter().product::<usize>() as f32;
        targets.iter_mut().for_each(|t: &mut f32| *t = (*t / full).min(1.0));
        targets
    }

    /// The most telling cell of each window: that with the highest log-odds less `falloff` times the squared distance from the window's centre,
    /// in units of half a window. Focus sees best what lies in the middle, so of overlapping windows the centred one is preferred.
    pub fn read(&self, heat: &[f32], window: [usize; 3], starts: &[[usize; 3]], falloff: f32) -> Vec<Reading> {
        let [_, my, mz] = self.cells();
        let of_window = |start: &[usize; 3]| {
            let [xs, ys, zs]: [Vec<(usize, f32)>; 3] = std::array::from_fn(|a| self.inside(a, start[a], window[a]));
            let mut best = Reading { cell: 0, discount: 0.0, log_odds: f32::NEG_INFINITY };
            for &(x, rx) in &xs {
                for &(y, ry) in &ys {
                    for &(z, rz) in &zs {
                        let cell = (x * my + y) * mz + z;
                        let discount = falloff * (rx + ry + rz);
                        let log_odds = heat[cell] - discount;
                        if log_odds > best.log_odds {
                            best = Reading { cell, discount, log_odds };
                        }
                    }
                }
            }
            best
        };
        starts.iter().map(of_window).collect()
    }

    /// Cells along axis `a` whose centre lies in a window, with the squared distance from its centre in half windows; where none does, the nearest.
    fn inside(&self, a: usize, start: usize, window: usize) -> Vec<(usize, f32)> {
        let (cell, count) = (self.cell()[a] as f32, self.cells()[a]);
        let middle = start as f32 + window as f32 / 2.0;
        let place = |i: usize| ((i as f32 + 0.5) * cell - middle) / (window as f32 / 2.0).max(0.5);
        let first = ((start as f32 / cell - 0.5).ceil().max(0.0) as usize).min(count.saturating_sub(1));
        let found: Vec<(usize, f32)> =
            (first..count).map(|i| (i, place(i))).take_while(|(_, r)| *r <= 1.0).map(|(i, r)| (i, r * r)).collect();
        if found.is_empty() {
            let nearest = ((middle / cell) as usize).min(count.saturating_sub(1));
            return vec![(nearest, place(nearest).powi(2))];
        }
        found
    }

    /// First voxels of windows in a scan that is mirrored together with what its last cells reach beyond it.
    pub fn mirrored(&self, starts: &[[usize; 3]], window: [usize; 3], flips: [bool; 3]) -> Vec<[usize; 3]> {
        let (cell, cells) = (self.cell(), self.cells());
        let turn =
            |s: &[usize; 3]| std::array::from_fn(|a| if flips[a] { (cell[a] * cells[a]).saturating_sub(s[a] + window[a]) } else { s[a] });
        starts.iter().map(turn).collect()
    }

    /// The value of its cell at every voxel of the scan.
    pub fn spread(&self, cells: &[f32]) -> Vec<f32> {
        let ([nx, ny, nz], cell, [_, my, mz]) = (self.shape, self.cell(), self.cells());
        let mut out = Vec::with_capacity(nx * ny * nz);
        for x in 0..nx {
            for y in 0..ny {
                let row = ((x / cell[0]) * my + y / cell[1]) * mz;
                out.extend((0..nz).map(|z| cells[row + z / cell[2]]));
            }
        }
        out
    }
}

/// `values` (`[C][shape]`) mirrored along the axes where `flips` says so.
pub fn mirror<T: Copy>(values: &[T], shape: [usize; 3], flips: [bool; 3]) -> Vec<T> {
    let at = |a: usize, i: usize| if flips[a] { shape[a] - 1 - i } else { i };
    let mut out = Vec::with_capacity(values.len());
    for volume in values.chunks_exact(shape.iter().product::<usize>().max(1)) {
        for x in 0..shape[0] {
            for y in 0..shape[1] {
                let row = (at(0, x) * shape[1] + at(1, y)) * shape[2];
                out.extend((0..shape[2]).map(|z| volume[row + at(2, z)]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: CellGrid = CellGrid { shape: [5, 4, 3], factor: [2, 1, 1], stride: 2 };

    #[test]
    fn cells_cover_the_scan_and_pooling_takes_means() {
        assert_eq!((GRID.cell(), GRID.cells(), GRID.coarse()), ([4, 2, 2], [2, 2, 2], [4, 4, 4]));
        let image: Vec<f32> = (0..60).map(|i| (i / 12) as f32).collect();
        let coarse = GRID.pool(&image, 1);
        // Pairs of planes 0 1, 2 3, and half of 4; the fourth voxel along z lies outside.
        assert_eq!((coarse[0], coarse[16], coarse[32], coarse[48], coarse[3]), (0.5, 2.5, 2.0, 0.0, 0.0));
        assert_eq!(GRID.spread(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])[..6], [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn targets_say_which_cells_hold_lesion() {
        let mut lesion = vec![0; 60];
        lesion[59] = 1;
        let scan = Scan::new("t".into(), vec![0.0; 60], 1, [5, 4, 3], &lesion);
        assert_eq!(GRID.targets(&scan), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn the_centred_window_of_those_over_a_peak_reads_highest() {
        let grid = CellGrid { shape: [1, 1, 32], factor: [1; 3], stride: 1 };
        let mut heat = vec![-5.0; 32];
        heat[12] = 3.0;
        let starts: Vec<[usize; 3]> = (0..=24).map(|z| [0, 0, z]).collect();
        let read = grid.read(&heat, [1, 1, 8], &starts, 1.0);
        let best = (0..25).max_by(|&a, &b| read[a].log_odds.total_cmp(&read[b].log_odds)).unwrap();
        assert!((8..=9).contains(&best), "{best}");
        assert!(read[5].cell == 12 && (read[5].log_odds - (3.0 - (3.5f32 / 4.0).powi(2))).abs() < 1e-6, "{:?}", read[5]);
        assert!(read[4].log_odds < -4.9 && read[13].log_odds < -4.9, "the peak lies outside");
        assert!(read.iter().all(|r| (heat[r.cell] - r.discount - r.log_odds).abs() < 1e-6));
        // A window smaller than a cell reads the cell it lies in.
        let coarse = CellGrid { shape: [1, 1, 32], factor: [1; 3], stride: 16 };
        assert_eq!(coarse.read(&[1.0, 2.0], [1, 1, 2], &[[0, 0, 30]], 0.0)[0].cell, 1);
    }

    #[test]
    fn a_mirrored_scan_reads_the_same() {
        let heat: Vec<f32> = (0..8).map(|i| ((i * 5) % 7) as f32).collect();
        let starts = [[0, 0, 0], [1, 2, 1], [0, 1, 0]];
        for flips in [[true, false, false], [false, true, true], [true; 3]] {
            let plain = GRID.read(&heat, [4, 2, 2], &starts, 0.7);
            let mirrored = GRID.read(&mirror(&heat, GRID.cells(), flips), [4, 2, 2], &GRID.mirrored(&starts, [4, 2, 2], flips), 0.7);
            for (a, b) in plain.iter().zip(&mirrored) {
                assert!((a.log_odds - b.log_odds).abs() < 1e-5, "{flips:?}: {plain:?} {mirrored:?}");
            }
        }
    }

    #[test]
    fn mirrors() {
        assert_eq!(mirror(&[1.0, 2.0, 3.0, 4.0], [1, 2, 2], [false, true, false]), [3.0, 4.0, 1.0, 2.0]);
        assert_eq!(mirror(&[1.0, 2.0, 3.0, 4.0], [1, 2, 2], [true, false, true]), [2.0, 1.0, 4.0, 3.0]);
    }

    const FINE: CellGrid = CellGrid { factor: [1, 1, 1], ..GRID };

    #[test]
    fn a_part_is_pooled_as_the_whole_is() {
        let image: Vec<f32> = (0..120).map(|i| ((i * 37) % 101) as f32).collect();
        for grid in [GRID, FINE] {
            let (whole, coarse) = (grid.pool(&image, 2), grid.coarse());
            for voxel in [[0, 0, 0], [4, 3, 2], [2, 1, 1]] {
                let part = grid.part(voxel, [2, 2, 2]);
                let (start, size) = (part.start.map(|s| s * grid.stride), part.cells.map(|n| n * grid.stride));
                let mut expected = vec![0.0; 2 * size.iter().product::<usize>()];
                cut(&whole, 2, coarse, start, size, f32::NAN, &mut expected);
                assert_eq!(grid.pool_part(&image, 2, part), expected, "{voxel:?}");
            }
        }
        // A part that would reach beyond the grid is pushed back; one larger than the grid is the grid.
        assert_eq!(FINE.part([4, 3, 2], [4, 2, 2]), Part { start: [1, 1, 1], cells: [2, 1, 1] });
        assert_eq!(FINE.part([4, 3, 2], [50; 3]), Part { start: [0; 3], cells: [3, 2, 2] });
    }

    #[test]
    fn parts_lie_around_the_hottest_cells_that_no_part_reads() {
        let coarse = CellGrid { shape: [1, 1, 64], factor: [1, 1, 4], stride: 1 };
        let fine = CellGrid { factor: [1, 1, 2], ..coarse };
        let mut heat = vec![-5.0; 16];
        (heat[6], heat[7], heat[8], heat[13]) = (3.0, 2.0, 1.0, 0.0);
        // Of a part of eight fine cells around voxel 26, the middle six count as read: voxels 20 to 31.
        let parts = coarse.hottest_parts(&heat, &fine, [1, 1, 16], 3);
        let starts: Vec<usize> = parts.iter().map(|p| p.start[2]).collect();
        assert_eq!((starts, parts[0].cells), (vec![9, 13, 23], [1, 1, 8]), "cells 6 (and 7 with it), 8, 13");
        assert_eq!(coarse.hottest_parts(&heat, &fine, [1, 1, 16], 1), parts[..1]);
        // One part that holds the whole scan reads all of it.
        assert_eq!(coarse.hottest_parts(&heat, &fine, [1, 1, 64], 9).len(), 1);
    }

    #[test]
    fn what_was_read_again_replaces_the_cell_over_it() {
        let coarse = CellGrid { shape: [1, 1, 11], factor: [1, 1, 4], stride: 1 };
        let fine = CellGrid { factor: [1, 1, 2], ..coarse };
        let part = |start: usize| Part { start: [0, 0, start], cells: [1, 1, 3] };
        assert_eq!(coarse.refine(&[1.0, 2.0, 3.0], &fine, &[]), [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
        let read = [(part(0), vec![10.0, 11.0, 12.0]), (part(2), vec![20.0, 21.0, 22.0])];
        // Cell 2 lies at the faces of both parts: the first keeps it.
        assert_eq!(coarse.refine(&[1.0, 2.0, 3.0], &fine, &read), [10.0, 11.0, 12.0, 21.0, 22.0, 3.0]);
        assert_eq!(fine.of_part(&[0, 1, 2, 3, 4, 5], part(2)), [2, 3, 4]);
        // At the faces of a part nothing is replaced, unless they are the scan's.
        let coarse = CellGrid { shape: [1, 1, 64], factor: [1, 1, 4], stride: 1 };
        let fine = CellGrid { factor: [1, 1, 2], ..coarse };
        for (start, replaced) in [(9, 10..16), (0, 0..7), (24, 25..32)] {
            let part = Part { start: [0, 0, start], cells: [1, 1, 8] };
            let refined = coarse.refine(&[0.0; 16], &fine, &[(part, vec![1.0; 8])]);
            assert!((0..32).all(|i| (refined[i] == 1.0) == replaced.contains(&i)), "{start}: {refined:?}");
        }
    }
}
