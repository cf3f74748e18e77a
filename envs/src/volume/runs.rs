//! A mask as runs of voxels along its last axis.
//!
//! Lesions fill a thousandth of a scan, so everything that is measured on masks works on runs: one pass over the bytes, then work
//! and memory in proportion to the lesions (8 bytes a run) and not to the scan.

/// The voxels `start..end` along z of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub start: u32,
    pub end: u32,
}

impl Run {
    pub fn voxels(self) -> u64 {
        (self.end - self.start) as u64
    }
}

/// Runs of all rows of a mask, in C order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    shape: [usize; 3],
    /// Runs of row `x * ny + y` are `runs[first[row]..first[row + 1]]`.
    first: Vec<usize>,
    runs: Vec<Run>,
}

impl Runs {
    /// Voxels of `mask` (C order over `[x][y][z]`) that are not 0.
    pub fn of(mask: &[u8], shape: [usize; 3]) -> Self {
        Self::select(mask, shape, |v| v != 0)
    }

    /// Voxels of `labels` (C order over `[x][y][z]`) for which `keep` holds.
    pub fn select(labels: &[u8], shape: [usize; 3], keep: impl Fn(u8) -> bool) -> Self {
        let [nx, ny, nz] = shape;
        assert_eq!(labels.len(), nx * ny * nz, "a mask must hold as many voxels as its shape says");
        assert!(nz < u32::MAX as usize, "rows are indexed by u32");
        let mut first = Vec::with_capacity(nx * ny + 1);
        let mut runs = Vec::new();
        first.push(0);
        for row in 0..nx * ny {
            push_runs(&labels[row * nz..(row + 1) * nz], &keep, &mut runs);
            first.push(runs.len());
        }
        Runs { shape, first, runs }
    }

    /// The mask whose row at `(x, y)` holds what `row(x, y, runs)` appends: ascending runs within the row that do not touch.
    pub fn from_rows(shape: [usize; 3], mut row: impl FnMut(usize, usize, &mut Vec<Run>)) -> Self {
        let [nx, ny, nz] = shape;
        let mut first = Vec::with_capacity(nx * ny + 1);
        let mut runs: Vec<Run> = Vec::new();
        first.push(0);
        for (x, y) in (0..nx).flat_map(|x| (0..ny).map(move |y| (x, y))) {
            let from = runs.len();
            row(x, y, &mut runs);
            let apart = runs[from..].windows(2).all(|w| w[0].end < w[1].start) && runs[from..].iter().all(|r| r.start < r.end);
            assert!(
                apart && runs[from..].last().is_none_or(|r| r.end as usize <= nz),
                "runs of a row ascend, lie within it and do not touch"
            );
            first.push(runs.len());
        }
        Runs { shape, first, runs }
    }

    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// All runs, in C order of their first voxel.
    pub fn all(&self) -> &[Run] {
        &self.runs
    }

    /// Runs of the row at `(x, y)`, ascending, never touching each other.
    pub fn row(&self, x: usize, y: usize) -> &[Run] {
        &self.runs[self.indices(x, y)]
    }

    /// Where the runs of the row at `(x, y)` are in [`Runs::all`].
    pub fn indices(&self, x: usize, y: usize) -> std::ops::Range<usize> {
        let row = x * self.shape[1] + y;
        self.first[row]..self.first[row + 1]
    }

    pub fn voxels(&self) -> u64 {
        self.runs.iter().map(|r| r.voxels()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Calls `each(x, y, index, run)` for every run in C order.
    pub fn for_each(&self, mut each: impl FnMut(usize, usize, usize, Run)) {
        let ny = self.shape[1];
        for row in 0..self.first.len() - 1 {
            for i in self.first[row]..self.first[row + 1] {
                each(row / ny, row % ny, i, self.runs[i]);
            }
        }
    }
}

/// Calls `each(i, j, voxels)` for every run `i` of `a` and run `j` of `b` that share voxels when `b` is widened by `reach` at both ends;
/// `voxels` is the number shared (widened ends included). Both lists ascend.
pub fn for_each_overlap(a: &[Run], b: &[Run], reach: u32, mut each: impl FnMut(usize, usize, u64)) {
    let mut from = 0;
    for (i, ra) in a.iter().enumerate() {
        while from < b.len() && b[from].end + reach <= ra.start {
            from += 1;
        }
        for (j, rb) in b.iter().enumerate().skip(from) {
            let (start, end) = (ra.start.max(rb.start.saturating_sub(reach)), ra.end.min(rb.end + reach));
            if rb.start >= ra.end + reach {
                break;
            }
            if start < end {
                each(i, j, (end - start) as u64);
            }
        }
    }
}

/// Bytes looked at together while skipping background; the compiler turns the inner loop into vector instructions.
const STRIDE: usize = 32;

fn push_runs(row: &[u8], keep: &impl Fn(u8) -> bool, runs: &mut Vec<Run>) {
    let mut z = 0;
    loop {
        while z + STRIDE <= row.len() && !row[z..z + STRIDE].iter().fold(false, |any, &v| any | keep(v)) {
            z += STRIDE;
        }
        while z < row.len() && !keep(row[z]) {
            z += 1;
        }
        if z >= row.len() {
            return;
        }
        let start = z;
        while z < row.len() && keep(row[z]) {
            z += 1;
        }
        runs.push(Run { start: start as u32, end: z as u32 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::u01;

    #[test]
    fn runs_hold_exactly_the_voxels_of_the_mask() {
        for (seed, shape, p) in
            [(1, [3, 4, 5], 0.4), (2, [2, 3, 97], 0.02), (3, [1, 1, 64], 0.9), (4, [2, 2, 33], 0.0), (5, [2, 1, 32], 1.0)]
        {
            let n = shape.iter().product::<usize>();
            let mask: Vec<u8> = (0..n).map(|i| 7 * (u01(seed, i as u64) < p) as u8).collect();
            let runs = Runs::of(&mask, shape);
            let mut back = vec![0u8; n];
            runs.for_each(|x, y, i, r| {
                assert_eq!(runs.all()[i], r);
                for z in r.start..r.end {
                    back[(x * shape[1] + y) * shape[2] + z as usize] = 7;
                }
            });
            assert_eq!(back, mask);
            assert_eq!(runs.voxels(), mask.iter().filter(|&&v| v != 0).count() as u64);
            // Runs are the longest possible: neighbours in a row never touch.
            for w in (0..shape[0]).flat_map(|x| (0..shape[1]).map(move |y| (x, y))).flat_map(|(x, y)| runs.row(x, y).windows(2)) {
                assert!(w[0].end < w[1].start);
            }
        }
    }

    #[test]
    fn overlaps_of_rows() {
        let run = |start, end| Run { start, end };
        let (a, b) = (vec![run(0, 3), run(5, 9)], vec![run(2, 6), run(9, 11)]);
        let list = |reach| {
            let mut v = Vec::new();
            for_each_overlap(&a, &b, reach, |i, j, n| v.push((i, j, n)));
            v
        };
        assert_eq!(list(0), [(0, 0, 1), (1, 0, 1)]);
        assert_eq!(list(1), [(0, 0, 2), (1, 0, 2), (1, 1, 1)]);
    }
}
