//! Nearest neighbour among points of a grid, exact.
//!
//! The usual way to surface distances is a distance transform of the whole box that holds both masks. One false positive at the other
//! end of a scan makes that box the scan. A tree over the surface points costs in proportion to the surfaces alone.

use super::surface::Surface;

/// A surface whose points can be asked for the nearest to another.
pub struct Nearest {
    spacing_mm: [f64; 3],
    /// Points and weights, reordered: the first half of every part lies before the second along the axis on which the part is widest.
    surface: Surface,
    /// Smallest box around each part; the halves of part `i` are `2 i + 1` and `2 i + 2`.
    boxes: Vec<[[i32; 3]; 2]>,
}

/// Parts of at most this many points are not divided.
const LEAF: usize = 8;

struct Best {
    squared: f64,
    point: [i32; 3],
}

impl Nearest {
    pub fn new(surface: Surface, spacing_mm: [f64; 3]) -> Self {
        let mut elements: Vec<_> = surface.points.into_iter().zip(surface.weights).collect();
        let mut boxes = Vec::new();
        divide(&mut elements, 0, spacing_mm, &mut boxes);
        let (points, weights) = elements.into_iter().unzip();
        Nearest { spacing_mm, surface: Surface { points, weights }, boxes }
    }

    /// For every point of this surface, the distance in mm to the nearest point of `other` (infinite where it has none) and its own weight.
    pub fn distances_to(&self, other: &Nearest) -> Vec<(f64, f64)> {
        let Surface { points, weights } = &self.surface;
        let Some(&first) = other.surface.points.first() else { return weights.iter().map(|&w| (f64::INFINITY, w)).collect() };
        // In the tree's order consecutive points are close, so the nearest of one bounds the search for the next.
        let mut near = first;
        let distances = points.iter().map(|&q| {
            let mut best = Best { squared: other.squared(q, near), point: near };
            if best.squared > 0.0 {
                other.search(0, 0, other.surface.points.len(), q, &mut best);
            }
            near = best.point;
            best.squared.sqrt()
        });
        distances.zip(weights.iter().copied()).collect()
    }

    /// Squared distance in mm²; summed axis by axis as SciPy does, so that ties with a tolerance fall on the same side.
    fn squared(&self, a: [i32; 3], b: [i32; 3]) -> f64 {
        self.length([a[0] - b[0], a[1] - b[1], a[2] - b[2]])
    }

    fn length(&self, steps: [i32; 3]) -> f64 {
        let d: [f64; 3] = std::array::from_fn(|a| steps[a] as f64 * self.spacing_mm[a]);
        d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    }

    /// Squared distance from `q` to the box of a part; no point of the part is nearer.
    fn beyond(&self, part: usize, q: [i32; 3]) -> f64 {
        let [low, high] = self.boxes[part];
        self.length(std::array::from_fn(|a| (low[a] - q[a]).max(q[a] - high[a]).max(0)))
    }

    fn search(&self, part: usize, from: usize, to: usize, q: [i32; 3], best: &mut Best) {
        if to - from <= LEAF {
            for &point in &self.surface.points[from..to] {
                let squared = self.squared(q, point);
                if squared < best.squared {
                    *best = Best { squared, point };
                }
            }
            return;
        }
        let middle = (from + to) / 2;
        let first = (self.beyond(2 * part + 1, q), 2 * part + 1, from, middle);
        let second = (self.beyond(2 * part + 2, q), 2 * part + 2, middle, to);
        for (beyond, part, from, to) in if second.0 < first.0 { [second, first] } else { [first, second] } {
            if beyond < best.squared {
                self.search(part, from, to, q, best);
            }
        }
    }
}

fn divide(elements: &mut [([i32; 3], f64)], part: usize, spacing_mm: [f64; 3], boxes: &mut Vec<[[i32; 3]; 2]>) {
    let (mut low, mut high) = ([i32::MAX; 3], [i32::MIN; 3]);
    for (p, _) in elements.iter() {
        for a in 0..3 {
            low[a] = low[a].min(p[a]);
            high[a] = high[a].max(p[a]);
        }
    }
    if boxes.len() <= part {
        boxes.resize(part + 1, [[0; 3]; 2]);
    }
    boxes[part] = [low, high];
    if elements.len() <= LEAF {
        return;
    }
    let extent = |a: usize| (high[a] - low[a]) as f64 * spacing_mm[a];
    let axis = (1..3).fold(0, |widest, a| if extent(a) > extent(widest) { a } else { widest });
    let middle = elements.len() / 2;
    elements.select_nth_unstable_by_key(middle, |(p, _)| p[axis]);
    let (before, after) = elements.split_at_mut(middle);
    divide(before, 2 * part + 1, spacing_mm, boxes);
    divide(after, 2 * part + 2, spacing_mm, boxes);
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
            let surface = |range: std::ops::Range<u64>| Surface {
                points: range.clone().map(draw).collect(),
                weights: range.map(|k| k as f64).collect(),
            };
            let (from, to) = (5000..5300, 0..n);
            let target = Nearest::new(surface(to.clone()), spacing);
            let mut got = Nearest::new(surface(from.clone()), spacing).distances_to(&target);
            got.sort_by(|a, b| a.1.total_cmp(&b.1));
            let nearest = |k| to.clone().map(|t| target.squared(draw(k), draw(t))).fold(f64::INFINITY, f64::min).sqrt();
            assert_eq!(got, from.map(|k| (nearest(k), k as f64)).collect::<Vec<_>>());
        }
        let one = |points| Nearest::new(Surface { weights: vec![2.0; 1], points }, [1.0; 3]);
        let nothing = Nearest::new(Surface::default(), [1.0; 3]);
        assert_eq!(one(vec![[0, 0, 0]]).distances_to(&nothing), [(f64::INFINITY, 2.0)]);
        assert!(nothing.distances_to(&one(vec![[0, 0, 0]])).is_empty());
    }
}
