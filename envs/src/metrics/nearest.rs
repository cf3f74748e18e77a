//! Nearest neighbour among points of a grid, exact.
//!
//! The usual way to surface distances is a distance transform of the whole box that holds both masks. One false positive at the other
//! end of a scan makes that box the scan. A k-d tree over the surface points costs in proportion to the surfaces alone.

/// Points of a set from which distances are asked.
pub struct Nearest {
    spacing_mm: [f64; 3],
    /// Reordered so that the middle of every part splits it by the axis in `axes`.
    points: Vec<[i32; 3]>,
    axes: Vec<u8>,
}

/// Parts of at most this many points are searched one by one.
const LEAF: usize = 12;

struct Best {
    squared: f64,
    point: [i32; 3],
}

impl Nearest {
    pub fn new(mut points: Vec<[i32; 3]>, spacing_mm: [f64; 3]) -> Self {
        let mut axes = vec![0; points.len()];
        split(&mut points, &mut axes, spacing_mm);
        Nearest { spacing_mm, points, axes }
    }

    /// Distance in mm from each of `queries` to the nearest point of the set, infinite where the set is empty.
    ///
    /// Quickest when consecutive queries are near each other: the nearest of one bounds the search for the next.
    pub fn distances(&self, queries: &[[i32; 3]]) -> Vec<f64> {
        let Some(&first) = self.points.first() else { return vec![f64::INFINITY; queries.len()] };
        let mut near = first;
        let mut distances = Vec::with_capacity(queries.len());
        for &q in queries {
            let mut best = Best { squared: self.squared(q, near), point: near };
            if best.squared > 0.0 {
                self.search(0, self.points.len(), q, [0.0; 3], &mut best);
            }
            near = best.point;
            distances.push(best.squared.sqrt());
        }
        distances
    }

    /// Squared distance in mm²; summed axis by axis as SciPy does, so that ties with a tolerance fall on the same side.
    fn squared(&self, a: [i32; 3], b: [i32; 3]) -> f64 {
        let d: [f64; 3] = std::array::from_fn(|k| (a[k] - b[k]) as f64 * self.spacing_mm[k]);
        d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    }

    /// `beyond` holds, for each axis, the squared distance from `q` to the part being searched.
    fn search(&self, from: usize, to: usize, q: [i32; 3], beyond: [f64; 3], best: &mut Best) {
        if to - from <= LEAF {
            for &p in &self.points[from..to] {
                self.take(q, p, best);
            }
            return;
        }
        let middle = (from + to) / 2;
        let axis = self.axes[middle] as usize;
        let p = self.points[middle];
        self.take(q, p, best);
        let step = (q[axis] - p[axis]) as f64 * self.spacing_mm[axis];
        let ((near_from, near_to), (far_from, far_to)) =
            if step < 0.0 { ((from, middle), (middle + 1, to)) } else { ((middle + 1, to), (from, middle)) };
        self.search(near_from, near_to, q, beyond, best);
        let mut far = beyond;
        far[axis] = step * step;
        if far[0] + far[1] + far[2] < best.squared {
            self.search(far_from, far_to, q, far, best);
        }
    }

    fn take(&self, q: [i32; 3], p: [i32; 3], best: &mut Best) {
        let squared = self.squared(q, p);
        if squared < best.squared {
            *best = Best { squared, point: p };
        }
    }
}

fn split(points: &mut [[i32; 3]], axes: &mut [u8], spacing_mm: [f64; 3]) {
    if points.len() <= LEAF {
        return;
    }
    let (mut low, mut high) = (points[0], points[0]);
    for p in points.iter() {
        for a in 0..3 {
            low[a] = low[a].min(p[a]);
            high[a] = high[a].max(p[a]);
        }
    }
    let extent = |a: usize| (high[a] - low[a]) as f64 * spacing_mm[a];
    let axis = (1..3).fold(0, |widest, a| if extent(a) > extent(widest) { a } else { widest });
    let middle = points.len() / 2;
    points.select_nth_unstable_by_key(middle, |p| p[axis]);
    axes[middle] = axis as u8;
    let (before, after) = points.split_at_mut(middle);
    let (axes_before, axes_after) = axes.split_at_mut(middle);
    split(before, axes_before, spacing_mm);
    split(&mut after[1..], &mut axes_after[1..], spacing_mm);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::splitmix64;

    #[test]
    fn the_same_as_looking_at_every_point() {
        for (seed, n, size, spacing) in
            [(1u64, 400, 30, [0.8, 0.8, 2.5]), (2, 7, 5, [1.0; 3]), (3, 1, 9, [3.0, 0.5, 1.0]), (4, 900, 8, [1.0, 2.0, 0.7])]
        {
            let draw = |k: u64| -> [i32; 3] { std::array::from_fn(|a| (splitmix64(seed * 1_000_003 + 3 * k + a as u64) % size) as i32) };
            let set: Vec<_> = (0..n).map(draw).collect();
            let queries: Vec<_> = (5000..5300).map(draw).collect();
            let tree = Nearest::new(set.clone(), spacing);
            for (q, got) in queries.iter().zip(tree.distances(&queries)) {
                let want = set.iter().map(|&p| tree.squared(*q, p)).fold(f64::INFINITY, f64::min).sqrt();
                assert_eq!(got, want);
            }
        }
        assert_eq!(Nearest::new(vec![], [1.0; 3]).distances(&[[0, 0, 0]]), [f64::INFINITY]);
    }
}
