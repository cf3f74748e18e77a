//! What the phantom is painted on: HU and organ labels on a grid, soft-edged implicit shapes, smooth noise.

use crate::rng::{RngExt, Stream};

/// A point in mm. World axes: x to the patient's right, y to the front, z to the head.
pub type Point = [f32; 3];

/// Smooth periodic noise in [-1, 1]: random values on a 16^3 lattice, blended between with a cubic fade.
pub struct Noise {
    table: Vec<f32>,
}

const LATTICE: usize = 16;

impl Noise {
    pub fn new(rng: &mut Stream) -> Self {
        Noise { table: (0..LATTICE.pow(3)).map(|_| rng.random_range(-1.0f32..1.0)).collect() }
    }

    /// Noise at `p` lattice steps.
    #[inline]
    pub fn at(&self, p: Point) -> f32 {
        // Floor without a call into the maths library, which the baseline x86-64 target makes of `f32::floor`.
        let cell = p.map(|v| v as i32 - i32::from(v < (v as i32) as f32));
        let low = cell.map(|v| v.rem_euclid(LATTICE as i32) as usize);
        let high = low.map(|v| (v + 1) % LATTICE);
        let t: Point = std::array::from_fn(|a| {
            let f = p[a] - cell[a] as f32;
            f * f * (3.0 - 2.0 * f)
        });
        let v = |x: usize, y: usize, z: usize| self.table[(x * LATTICE + y) * LATTICE + z];
        let along_z = |x, y| mix(v(x, y, low[2]), v(x, y, high[2]), t[2]);
        let along_y = |x| mix(along_z(x, low[1]), along_z(x, high[1]), t[1]);
        mix(along_y(low[0]), along_y(high[0]), t[0])
    }

    /// Noise with features of about `wavelength` (same unit as `p`).
    #[inline]
    pub fn waves(&self, p: Point, wavelength: f32) -> f32 {
        self.at(p.map(|v| v / wavelength))
    }
}

#[inline]
pub fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// Approximate signed distance to an ellipsoid, exact to first order at its surface.
#[inline]
pub fn ellipsoid(p: Point, centre: Point, radii: Point) -> f32 {
    let q: Point = std::array::from_fn(|a| (p[a] - centre[a]) / radii[a]);
    let k = norm(q);
    let slope = norm(std::array::from_fn(|a| q[a] / radii[a]));
    if slope < 1e-6 { -radii[0].min(radii[1]).min(radii[2]) } else { k * (k - 1.0) / slope }
}

#[inline]
pub fn norm(v: Point) -> f32 {
    dot(v, v).sqrt()
}

#[inline]
fn dot(a: Point, b: Point) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Union with a rounded seam of about `width`.
#[inline]
pub fn smooth_min(a: f32, b: f32, width: f32) -> f32 {
    let h = (width - (a - b).abs()).max(0.0) / width;
    a.min(b) - h * h * width * 0.25
}

/// A tube along a Catmull-Rom spline, its radius running from knot to knot.
pub struct Tube {
    /// Centre, radius, and length along the tube so far.
    points: Vec<(Point, f32, f32)>,
}

impl Tube {
    pub fn new(knots: &[(Point, f32)], steps: usize) -> Self {
        let mut points: Vec<(Point, f32, f32)> = Vec::new();
        for s in 0..knots.len() - 1 {
            let at = |i: isize| knots[(s as isize + i).clamp(0, knots.len() as isize - 1) as usize];
            let (a, b, c, d) = (at(-1), at(0), at(1), at(2));
            for n in 0..steps + usize::from(s + 2 == knots.len()) {
                let t = n as f32 / steps as f32;
                let p = std::array::from_fn(|x| {
                    let (a, b, c, d) = (a.0[x], b.0[x], c.0[x], d.0[x]);
                    0.5 * (2.0 * b + (c - a) * t + (2.0 * a - 5.0 * b + 4.0 * c - d) * t * t + (3.0 * b - a - 3.0 * c + d) * t * t * t)
                });
                let length = points.last().map_or(0.0, |l| l.2 + norm(std::array::from_fn(|x| p[x] - l.0[x])));
                points.push((p, mix(b.1, c.1, t), length));
            }
        }
        Tube { points }
    }

    /// Signed distance to the tube's surface and the length along the tube at the nearest place of its axis.
    #[inline]
    pub fn at(&self, p: Point) -> (f32, f32) {
        let mut best = (f32::MAX, 0.0);
        for w in self.points.windows(2) {
            let (a, ra, la) = w[0];
            let (b, rb, lb) = w[1];
            let ab: Point = std::array::from_fn(|x| b[x] - a[x]);
            let ap: Point = std::array::from_fn(|x| p[x] - a[x]);
            let t = (dot(ap, ab) / dot(ab, ab).max(1e-6)).clamp(0.0, 1.0);
            let away: Point = std::array::from_fn(|x| ap[x] - t * ab[x]);
            let (squared, r) = (dot(away, away), mix(ra, rb, t));
            // Roots are slow: only for pieces that come nearer.
            if best.0 == f32::MAX || squared < (best.0 + r) * (best.0 + r) {
                let d = squared.sqrt() - r;
                if d < best.0 {
                    best = (d, mix(la, lb, t));
                }
            }
        }
        best
    }

    /// The axis at a length along the tube.
    pub fn centre(&self, along: f32) -> Point {
        let n = self.points.partition_point(|p| p.2 < along).clamp(1, self.points.len() - 1);
        let ((a, _, la), (b, _, lb)) = (self.points[n - 1], self.points[n]);
        let t = ((along - la) / (lb - la).max(1e-6)).clamp(0.0, 1.0);
        std::array::from_fn(|x| mix(a[x], b[x], t))
    }

    /// Corners of a box that holds the tube with `margin` around it.
    pub fn bounds(&self, margin: f32) -> [Point; 2] {
        let mut b = [[f32::MAX; 3], [f32::MIN; 3]];
        for (p, r, _) in &self.points {
            for a in 0..3 {
                b[0][a] = b[0][a].min(p[a] - r - margin);
                b[1][a] = b[1][a].max(p[a] + r + margin);
            }
        }
        b
    }
}

/// HU and organ labels while a case is painted. Positions are mm in the frame of a body of scale 1, bent smoothly so that no two bodies are alike.
pub struct Canvas {
    pub shape: [usize; 3],
    pub hu: Vec<f32>,
    pub organs: Vec<u8>,
    axes: [Vec<f32>; 3],
    /// Shift of x over (y, z), of y over (x, z), of z over (x, y): mm.
    bend: [Vec<f32>; 3],
    /// Largest shift along each axis, mm; boxes are widened by it.
    reach: Point,
    scratch: Vec<f32>,
}

/// How far the bend moves a point at most, mm.
const BEND: f32 = 5.0;

/// Vessels that fill less of a voxel's face than this are not painted: they would drown in the noise.
const MIN_FILL: f32 = 0.08;

/// A label that leaves the organ map as it is: vessels inside an organ stay that organ.
pub const KEEP: u8 = 0;

/// Voxel edges are blurred a little wider than one voxel, as a scanner's in-plane kernel does.
const SOFTNESS: f32 = 1.15;

impl Canvas {
    /// All air, at least two voxels along each axis. `origin` is the centre of voxel (0, 0, 0), `step` the voxel size, both in the body's frame.
    pub fn new(shape: [usize; 3], origin: Point, step: Point, noise: &Noise) -> Self {
        let axes: [Vec<f32>; 3] = std::array::from_fn(|a| (0..shape[a]).map(|i| origin[a] + step[a] * i as f32).collect());
        let plane = |u: usize, v: usize, offset: f32| -> Vec<f32> {
            let mut out = Vec::with_capacity(shape[u] * shape[v]);
            for &pu in &axes[u] {
                out.extend(axes[v].iter().map(|&pv| BEND * noise.at([pu / 75.0, pv / 75.0, offset])));
            }
            out
        };
        let bend = [plane(1, 2, 3.5), plane(0, 2, 7.5), plane(0, 1, 11.5)];
        let reach = [0, 1, 2].map(|a: usize| bend[a].iter().fold(0.0f32, |m, v| m.max(v.abs())));
        let n = shape.iter().product();
        Canvas { shape, hu: vec![-1000.0; n], organs: vec![KEEP; n], axes, bend, reach, scratch: Vec::new() }
    }

    fn step(&self) -> Point {
        std::array::from_fn(|a| self.axes[a][1] - self.axes[a][0])
    }

    #[inline]
    fn point(&self, i: usize, j: usize, k: usize) -> Point {
        let [_, ny, nz] = self.shape;
        [self.axes[0][i] + self.bend[0][j * nz + k], self.axes[1][j] + self.bend[1][i * nz + k], self.axes[2][k] + self.bend[2][i * ny + j]]
    }

    /// First and one-past-last voxel, per axis, of a box in mm.
    fn voxels(&self, bounds: [Point; 2]) -> [std::ops::Range<usize>; 3] {
        std::array::from_fn(|a| {
            let axis = &self.axes[a];
            let step = self.step()[a];
            // A soft edge reaches at most one voxel beyond the surface.
            let low = ((bounds[0][a] - self.reach[a] - axis[0]) / step - 1.0).ceil().max(0.0) as usize;
            let high = ((bounds[1][a] + self.reach[a] - axis[0]) / step + 2.0).floor().clamp(0.0, axis.len() as f32) as usize;
            low.min(high)..high
        })
    }

    /// Paint a shape that is inside where `inside(p)` is negative. `layers` go from the surface in: how deep (same unit as `inside`) a layer
    /// begins and its label ([`KEEP`] leaves the labels). `hu(layer, p)` is a layer's HU.
    ///
    /// How much of a voxel is inside comes from the value at its centre and its change over one voxel along each axis, so thick slices blur
    /// oblique surfaces as a scanner's do.
    pub fn paint(&mut self, bounds: [Point; 2], inside: impl Fn(Point) -> f32, layers: &[(f32, u8)], hu: impl Fn(usize, Point) -> f32) {
        let range = self.voxels(bounds);
        let n: [usize; 3] = std::array::from_fn(|a| range[a].len());
        if n.contains(&0) {
            return;
        }
        let mut f = std::mem::take(&mut self.scratch);
        f.clear();
        for i in range[0].clone() {
            for j in range[1].clone() {
                f.extend(range[2].clone().map(|k| inside(self.point(i, j, k))));
            }
        }
        let [_, ny, nz] = self.shape;
        // Shapes change by about 1 per mm, so one voxel along each axis away from the surface nothing is left of its edge.
        let far = 1.2 * self.step().iter().sum::<f32>();
        for i in 0..n[0] {
            for j in 0..n[1] {
                let row = ((range[0].start + i) * ny + range[1].start + j) * nz + range[2].start;
                for k in 0..n[2] {
                    let at = (i * n[1] + j) * n[2] + k;
                    let here = f[at];
                    if here > far {
                        continue;
                    }
                    let width = SOFTNESS * change(&f, n, [i, j, k], at);
                    for (layer, &(depth, label)) in layers.iter().enumerate() {
                        let share = (0.5 - (here + depth) / width).clamp(0.0, 1.0);
                        if share <= 0.0 {
                            break;
                        }
                        let v = row + k;
                        let value = hu(layer, self.point(range[0].start + i, range[1].start + j, range[2].start + k));
                        self.hu[v] = mix(self.hu[v], value, share);
                        if share >= 0.5 && label != KEEP {
                            self.organs[v] = label;
                        }
                    }
                }
            }
        }
        self.scratch = f;
    }

    /// Paint a straight piece of a vessel from `a` to `b` (radii `ra`, `rb`, mm), only over voxels labelled `within` ([`KEEP`]: anywhere), labels
    /// kept. Vessels thinner than a voxel fade as they fill less of it.
    pub fn vessel(&mut self, (a, ra): (Point, f32), (b, rb): (Point, f32), hu: f32, within: u8) {
        let step = norm(self.step()) / 3f32.sqrt();
        let tube = Tube { points: vec![(a, ra, 0.0), (b, rb, norm(std::array::from_fn(|x| b[x] - a[x])))] };
        let [rx, ry, rz] = self.voxels(tube.bounds(step));
        let fill = (ra.max(rb) * 2.0 / step).powi(2).min(1.0);
        if fill < MIN_FILL {
            return;
        }
        let nz = self.shape[2];
        for i in rx {
            for j in ry.clone() {
                let mut k = rz.start;
                while k < rz.end {
                    let v = (i * self.shape[1] + j) * nz + k;
                    let d = tube.at(self.point(i, j, k)).0 / (SOFTNESS * step);
                    if d < 0.5 && (within == KEEP || self.organs[v] == within) {
                        self.hu[v] = mix(self.hu[v], self.hu[v].max(hu), (0.5 - d).min(1.0) * fill);
                    }
                    // The next voxels are at least this far from it too.
                    k += 1 + ((d - 0.5) * SOFTNESS * step / (1.3 * self.step()[2])).max(0.0) as usize;
                }
            }
        }
    }

    /// Paint a sharp ball over the voxels of one organ, labels kept: what is in the organ but is not a lesion.
    pub fn within(&mut self, organ: u8, centre: Point, radius: f32, hu: f32) {
        let step = norm(self.step()) / 3f32.sqrt();
        let [rx, ry, rz] = self.voxels(around(centre, [radius + step; 3]));
        for i in rx {
            for j in ry.clone() {
                for k in rz.clone() {
                    let v = (i * self.shape[1] + j) * self.shape[2] + k;
                    let p = self.point(i, j, k);
                    if self.organs[v] == organ {
                        let d = norm(std::array::from_fn(|a| p[a] - centre[a])) - radius;
                        self.hu[v] = mix(self.hu[v], hu, (0.5 - d / (SOFTNESS * step)).clamp(0.0, 1.0));
                    }
                }
            }
        }
    }

    /// Paint a solid of one HU.
    pub fn solid(&mut self, bounds: [Point; 2], label: u8, hu: f32, inside: impl Fn(Point) -> f32) {
        self.paint(bounds, inside, &[(0.0, label)], |_, _| hu);
    }

    /// Paint an ellipsoid of one HU.
    pub fn blob(&mut self, centre: Point, radii: Point, label: u8, hu: f32) {
        self.solid(around(centre, radii), label, hu, |p| ellipsoid(p, centre, radii));
    }
}

/// Change of `f` over one voxel, summed over the axes: the range of a plane's values in a voxel.
#[inline]
pub fn change(f: &[f32], n: [usize; 3], ijk: [usize; 3], at: usize) -> f32 {
    let stride = [n[1] * n[2], n[2], 1];
    let mut sum = 1e-3;
    for a in 0..3 {
        let low = if ijk[a] > 0 { (f[at] - f[at - stride[a]]).abs() } else { f32::NAN };
        let high = if ijk[a] + 1 < n[a] { (f[at + stride[a]] - f[at]).abs() } else { f32::NAN };
        sum += match (low.is_nan(), high.is_nan()) {
            (false, false) => 0.5 * (low + high),
            (false, true) => low,
            (true, false) => high,
            (true, true) => 0.0,
        };
    }
    sum
}

/// The box of an ellipsoid.
pub fn around(centre: Point, radii: Point) -> [Point; 2] {
    [std::array::from_fn(|a| centre[a] - radii[a]), std::array::from_fn(|a| centre[a] + radii[a])]
}
