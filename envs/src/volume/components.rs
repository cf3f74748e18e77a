//! Connected components of a mask: union-find over runs of voxels.
//!
//! Components are numbered from 1 in C order of their first voxel, as SciPy and cc3d number them.

use serde::{Deserialize, Serialize};

use super::runs::{Run, Runs, for_each_overlap};

/// Which voxels touch: those that share a face (6), also an edge (18), also a corner (26).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Connectivity {
    #[serde(rename = "6")]
    Face,
    #[serde(rename = "18")]
    Edge,
    #[serde(rename = "26")]
    Corner,
}

impl Connectivity {
    /// From the number of neighbours: 6, 18 or 26.
    pub fn from_neighbours(n: u32) -> Option<Self> {
        match n {
            6 => Some(Connectivity::Face),
            18 => Some(Connectivity::Edge),
            26 => Some(Connectivity::Corner),
            _ => None,
        }
    }

    /// How far along z two touching voxels may be apart in rows that are `row_steps` (1 or 2) apart in x and y; `None`: they never touch.
    fn reach(self, row_steps: u32) -> Option<u32> {
        match (self, row_steps) {
            (Connectivity::Face, 1) | (Connectivity::Edge, 2) => Some(0),
            (Connectivity::Edge, 1) | (Connectivity::Corner, _) => Some(1),
            _ => None,
        }
    }
}

/// One connected component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Component {
    pub voxels: u64,
    /// First voxel index on each axis (inclusive).
    pub box_start: [usize; 3],
    /// Last voxel index on each axis plus one.
    pub box_end: [usize; 3],
    /// Mean voxel index on each axis; [`super::Geometry::world`] makes mm of it.
    pub centroid: [f64; 3],
}

impl Component {
    /// Volume in mL of `voxels` of `voxel_ml` each.
    pub fn volume_ml(&self, voxel_ml: f64) -> f64 {
        self.voxels as f64 * voxel_ml
    }
}

/// The components of a mask.
#[derive(Clone, Debug)]
pub struct Components {
    /// Component `i` has label `i + 1`.
    pub parts: Vec<Component>,
    /// Label of every run of the mask, in the order of [`Runs::all`].
    pub of_run: Vec<u32>,
}

impl Components {
    /// Components of a mask given as runs. Needs 4 bytes a run and nothing per voxel.
    pub fn of(runs: &Runs, connectivity: Connectivity) -> Self {
        let mut parent: Vec<u32> = (0..runs.all().len() as u32).collect();
        let [nx, ny, _] = runs.shape();
        for x in 0..nx {
            for y in 0..ny {
                let here = runs.indices(x, y);
                if here.is_empty() {
                    continue;
                }
                // The rows that come earlier in C order and can touch this one.
                let earlier = [(1, 1, 2), (1, 0, 1), (1, -1, 2), (0, 1, 1)];
                for (dx, dy, steps) in earlier {
                    let (Some(nx), Some(y2)) = (x.checked_sub(dx), y.checked_add_signed(-dy)) else { continue };
                    let Some(reach) = connectivity.reach(steps) else { continue };
                    if y2 >= ny {
                        continue;
                    }
                    let there = runs.indices(nx, y2);
                    for_each_overlap(&runs.all()[here.clone()], &runs.all()[there.clone()], reach, |i, j, _| {
                        union(&mut parent, (here.start + i) as u32, (there.start + j) as u32);
                    });
                }
            }
        }
        collect(runs, parent)
    }

    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Number of the largest component in `parts` (the first of them on a tie), `None` where there is none.
    pub fn largest(&self) -> Option<usize> {
        (0..self.parts.len()).rev().max_by_key(|&i| self.parts[i].voxels)
    }

    /// Label of every voxel (0 is background), C order over `[x][y][z]`; `runs` must be those the components were made of.
    pub fn labels(&self, runs: &Runs) -> Vec<u32> {
        let [nx, ny, nz] = runs.shape();
        let mut labels = vec![0; nx * ny * nz];
        runs.for_each(|x, y, i, Run { start, end }| {
            let row = (x * ny + y) * nz;
            labels[row + start as usize..row + end as usize].fill(self.of_run[i]);
        });
        labels
    }
}

/// Components of the voxels of `mask` (C order over `[x][y][z]`) that are not 0, with the label of every voxel.
///
/// Where only sizes, boxes and centroids are needed, [`Components::of`] does without the 4 bytes a voxel.
pub fn label(mask: &[u8], shape: [usize; 3], connectivity: Connectivity) -> (Vec<u32>, Components) {
    let runs = Runs::of(mask, shape);
    let components = Components::of(&runs, connectivity);
    (components.labels(&runs), components)
}

fn root(parent: &mut [u32], mut i: u32) -> u32 {
    while parent[i as usize] != i {
        parent[i as usize] = parent[parent[i as usize] as usize];
        i = parent[i as usize];
    }
    i
}

/// The smaller root stays root, so a component's root is its first run in C order.
fn union(parent: &mut [u32], a: u32, b: u32) {
    let (a, b) = (root(parent, a), root(parent, b));
    parent[a.max(b) as usize] = a.min(b);
}

fn collect(runs: &Runs, mut parent: Vec<u32>) -> Components {
    // A parent is never larger than its child: one ascending pass turns parents into labels, in place.
    let mut count = 0;
    for i in 0..parent.len() {
        let p = parent[i] as usize;
        parent[i] = if p == i {
            count += 1;
            count
        } else {
            parent[p]
        };
    }
    let of_run = parent;
    let nothing = Component { voxels: 0, box_start: [usize::MAX; 3], box_end: [0; 3], centroid: [0.0; 3] };
    let mut parts = vec![nothing; count as usize];
    let mut sums = vec![[0u64; 3]; count as usize];
    runs.for_each(|x, y, i, r| {
        let c = of_run[i] as usize - 1;
        let part = &mut parts[c];
        part.voxels += r.voxels();
        for (a, (lo, hi)) in [(x, x + 1), (y, y + 1), (r.start as usize, r.end as usize)].into_iter().enumerate() {
            part.box_start[a] = part.box_start[a].min(lo);
            part.box_end[a] = part.box_end[a].max(hi);
        }
        // Twice the sum of the indices, to stay in integers: the result does not depend on any order.
        let twice_z = r.start as u64 + r.end as u64 - 1;
        for (sum, twice) in sums[c].iter_mut().zip([2 * x as u64, 2 * y as u64, twice_z]) {
            *sum += twice * r.voxels();
        }
    });
    for (part, sum) in parts.iter_mut().zip(sums) {
        part.centroid = sum.map(|s| s as f64 / 2.0 / part.voxels as f64);
    }
    Components { parts, of_run }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::u01;

    const ALL: [(u32, Connectivity); 3] = [(6, Connectivity::Face), (18, Connectivity::Edge), (26, Connectivity::Corner)];

    /// Flood fill, voxel by voxel.
    fn naive(mask: &[u8], shape: [usize; 3], neighbours: u32) -> Vec<u32> {
        let [nx, ny, nz] = shape;
        let most_steps = match neighbours {
            6 => 1,
            18 => 2,
            _ => 3,
        };
        let mut labels = vec![0; mask.len()];
        let mut count = 0;
        for seed in 0..mask.len() {
            if mask[seed] == 0 || labels[seed] > 0 {
                continue;
            }
            count += 1;
            labels[seed] = count;
            let mut stack = vec![seed];
            while let Some(i) = stack.pop() {
                for code in 0..27 {
                    let step = [code / 9, code / 3 % 3, code % 3].map(|s| s as isize - 1);
                    if step.iter().map(|s| s.abs()).sum::<isize>() > most_steps {
                        continue;
                    }
                    let at = [i / (ny * nz), i / nz % ny, i % nz];
                    let to: [isize; 3] = std::array::from_fn(|a| at[a] as isize + step[a]);
                    if (0..3).all(|a| to[a] >= 0 && to[a] < [nx, ny, nz][a] as isize) {
                        let j = (to[0] as usize * ny + to[1] as usize) * nz + to[2] as usize;
                        if mask[j] != 0 && labels[j] == 0 {
                            labels[j] = count;
                            stack.push(j);
                        }
                    }
                }
            }
        }
        labels
    }

    #[test]
    fn the_same_as_flood_fill() {
        for (seed, shape, p) in [
            (1, [7, 8, 9], 0.1),
            (2, [6, 9, 5], 0.25),
            (3, [9, 4, 40], 0.4),
            (4, [1, 12, 12], 0.5),
            (5, [5, 5, 5], 0.9),
            (6, [4, 4, 4], 0.0),
        ] {
            let mask: Vec<u8> = (0..shape.iter().product::<usize>() as u64).map(|i| (u01(seed, i) < p) as u8).collect();
            for (n, connectivity) in ALL {
                let (labels, components) = label(&mask, shape, connectivity);
                assert_eq!(labels, naive(&mask, shape, n), "seed {seed}, {n} neighbours");
                for (i, part) in components.parts.iter().enumerate() {
                    let voxels: Vec<_> = (0..mask.len()).filter(|&v| labels[v] == i as u32 + 1).collect();
                    assert_eq!(part.voxels, voxels.len() as u64);
                    for a in 0..3 {
                        let index = voxels.iter().map(|&v| [v / (shape[1] * shape[2]), v / shape[2] % shape[1], v % shape[2]][a]);
                        assert_eq!(Some(part.box_start[a]), index.clone().min());
                        assert_eq!(Some(part.box_end[a] - 1), index.clone().max());
                        assert!((part.centroid[a] - index.sum::<usize>() as f64 / voxels.len() as f64).abs() < 1e-12);
                    }
                }
            }
        }
    }

    #[test]
    fn connectivity_by_number() {
        for (n, connectivity) in ALL {
            assert_eq!(Connectivity::from_neighbours(n), Some(connectivity));
            assert_eq!(serde_json::to_string(&connectivity).unwrap(), format!("\"{n}\""));
        }
        assert_eq!(Connectivity::from_neighbours(8), None);
    }

    #[test]
    fn the_largest_is_the_first_on_a_tie() {
        let components = Components::of(&Runs::of(&[1, 0, 1, 1, 0, 1, 1], [1, 1, 7]), Connectivity::Corner);
        assert_eq!(components.largest(), Some(1));
        assert_eq!(Components::of(&Runs::of(&[0], [1, 1, 1]), Connectivity::Corner).largest(), None);
    }
}
