//! Separable resampling with MONAI's `Spacing` semantics: first voxel centres aligned, nothing beyond the border, lengths rounded half to even.

use std::ops::Range;

use rayon::prelude::*;

use super::Orientation;
use crate::{Error, Result};

/// Voxels along an axis of `len` after resampling: MONAI's rule, half to even.
pub(super) fn resampled_len(len: usize, spacing_mm: f64, target_mm: f64) -> Result<usize> {
    checked_len((len as f64 - 1.0) * spacing_mm / target_mm + 1.0, len, spacing_mm, target_mm)
}

/// A length in voxels that was computed, as a whole number.
pub(super) fn checked_len(computed: f64, len: usize, spacing_mm: f64, target_mm: f64) -> Result<usize> {
    let n = computed.round_ties_even().max(1.0);
    if n > i32::MAX as f64 {
        return Err(Error::Setting(format!(
            "resampling {len} voxels of {spacing_mm} mm to {target_mm} mm would make {n:.0} of them; set a larger spacing_mm or check the spacing in the file"
        )));
    }
    Ok(n as usize)
}

/// Where sample `j` of a resampled axis lies on the source axis, in voxels, held inside it.
fn position(j: usize, source_len: usize, source_mm: f64, target_mm: f64) -> f64 {
    snapped(j as f64 * target_mm / source_mm).min(source_len as f64 - 1.0)
}

/// Rounding must make neither a voxel centre a blend nor a tie none: whole and half numbers are restored (errors are below 1e-11 of a voxel).
pub(super) fn snapped(at: f64) -> f64 {
    let half = (2.0 * at).round() / 2.0;
    if (at - half).abs() < 1e-9 { half } else { at }
}

/// Source voxel of each target sample, nearest, half to even.
pub(super) fn nearest(source_len: usize, target_len: usize, source_mm: f64, target_mm: f64) -> Vec<usize> {
    (0..target_len).map(|j| position(j, source_len, source_mm, target_mm).round_ties_even() as usize).collect()
}

/// One target sample along one axis: `(1 - weight) * source[lo] + weight * source[hi]`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tap {
    lo: u32,
    hi: u32,
    weight: f32,
}

/// The linear taps of one axis.
pub(super) struct Taps {
    taps: Vec<Tap>,
    /// Sample `j` is source voxel `j`, and there are as many.
    identity: bool,
}

impl Taps {
    /// `flip_source`: the source array runs backwards along this axis. `flip_target`: the result shall.
    pub fn linear(source_len: usize, target_len: usize, source_mm: f64, target_mm: f64, flip_source: bool, flip_target: bool) -> Self {
        let tap = |j: usize| {
            let j = if flip_target { target_len - 1 - j } else { j };
            let at = position(j, source_len, source_mm, target_mm);
            let weight = (at - at.floor()) as f32;
            let lo = at as usize;
            // A weight of 0 reads one voxel only, so a kept grid comes out bit by bit.
            let hi = if weight == 0.0 { lo } else { (lo + 1).min(source_len - 1) };
            let index = |i: usize| if flip_source { source_len - 1 - i } else { i } as u32;
            Tap { lo: index(lo), hi: index(hi), weight }
        };
        let taps: Vec<Tap> = (0..target_len).map(tap).collect();
        let identity = source_len == target_len && taps.iter().enumerate().all(|(j, t)| t.lo == j as u32 && t.weight == 0.0);
        Taps { taps, identity }
    }

    pub fn len(&self) -> usize {
        self.taps.len()
    }
}

/// `a + w (b - a)`: exact on constant images, so a border of exactly the window's lower end stays background.
fn blend(a: &[f32], b: &[f32], w: f32, out: &mut [f32]) {
    for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *o = a + w * (b - a);
    }
}

/// Voxels of a grid whose axes may be stored in any order.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    data: &'a [f32],
    shape: [usize; 3],
    /// Of every axis, one step in `data`.
    strides: [usize; 3],
}

impl<'a> Strided<'a> {
    /// C order over `[x][y][z]`.
    pub fn new(data: &'a [f32], shape: [usize; 3]) -> Self {
        Strided { data, shape, strides: [shape[1] * shape[2], shape[2], 1] }
    }

    /// A stored scan whose turned grid has the shape `shape`; axes that run backwards still do.
    pub fn turned(data: &'a [f32], shape: [usize; 3], turned: &Orientation) -> Self {
        Strided { data, shape, strides: turned.strides(shape) }
    }

    fn is_c_order(&self) -> bool {
        self.strides == [self.shape[1] * self.shape[2], self.shape[2], 1]
    }

    /// The planes `x` in C order: borrowed, or copied into `buffer`, by tiles that use the whole of each cache line read.
    fn planes<'b>(&self, x: Range<usize>, buffer: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        /// f32 in a cache line.
        const LINE: usize = 16;
        const DEPTH: usize = 32;
        let [_, ny, nz] = self.shape;
        if self.is_c_order() {
            return &self.data[x.start * ny * nz..x.end * ny * nz];
        }
        let [s0, s1, s2] = self.strides;
        buffer.resize(x.len() * ny * nz, 0.0);
        let from = &self.data[x.start * s0..];
        if s2 == 1 {
            for (i, row) in buffer.chunks_exact_mut(nz).enumerate() {
                row.copy_from_slice(&from[i / ny * s0 + i % ny * s1..][..nz]);
            }
            return buffer;
        }
        // Lines are read along the axis that is contiguous and written along z.
        let (n, steps, rows) = ([x.len(), ny], [s0, s1], [ny * nz, nz]);
        let (fast, slow) = if s0 == 1 { (0, 1) } else { (1, 0) };
        let mut tile = [[0f32; DEPTH]; LINE];
        for z0 in (0..nz).step_by(DEPTH) {
            let depth = DEPTH.min(nz - z0);
            for g in 0..n[slow] {
                for f0 in (0..n[fast]).step_by(LINE) {
                    let width = LINE.min(n[fast] - f0);
                    for z in 0..depth {
                        let line = &from[g * steps[slow] + f0 + (z0 + z) * s2..][..width];
                        tile.iter_mut().zip(line).for_each(|(row, &v)| row[z] = v);
                    }
                    for (f, row) in tile.iter().take(width).enumerate() {
                        buffer[g * rows[slow] + (f0 + f) * rows[fast] + z0..][..depth].copy_from_slice(&row[..depth]);
                    }
                }
            }
        }
        buffer
    }

    /// Target planes that are made together: one, or, where axes are permuted, as many as a cache line's worth of source planes gives.
    fn together(&self, target_len: usize) -> usize {
        if self.is_c_order() { 1 } else { (16 * target_len / self.shape[0].max(1)).max(1) }
    }
}

/// Linear resampling along all three axes, one target x plane at a time: blend two source planes, then z, then y, all within the cache.
///
/// `sink(plane, out)` gets each finished plane `[y][z]` and its own element of `outs` (one a target x); its results come back in order. Planes are computed in parallel and
/// independently, so the result doesn't depend on the number of threads.
pub(super) fn resample_planes<S: Send, R: Send>(
    source: Strided,
    taps: &[Taps; 3],
    outs: Vec<S>,
    sink: impl Fn(&[f32], S) -> R + Sync,
) -> Vec<R> {
    let [_, ny, nz] = source.shape;
    let (ty, tz) = (taps[1].len(), taps[2].len());
    let mut rows_used = vec![false; ny];
    taps[1].taps.iter().for_each(|t| (rows_used[t.lo as usize], rows_used[t.hi as usize]) = (true, true));
    let scratch = || (Vec::new(), vec![0f32; nz], vec![0f32; ny * tz], vec![0f32; ty * tz]);
    let together = source.together(taps[0].len());
    let blocks = outs.into_par_iter().chunks(together).enumerate().map_init(scratch, |(buffer, row, half, plane), (block, outs)| {
        let taps_x = &taps[0].taps[block * together..][..outs.len()];
        let first = taps_x.iter().map(|t| t.lo.min(t.hi)).min().unwrap_or(0) as usize;
        let last = taps_x.iter().map(|t| t.lo.max(t.hi)).max().unwrap_or(0) as usize;
        let planes = source.planes(first..last + 1, buffer);
        let one = |(t, out): (&Tap, S)| {
            let (a, b) = (&planes[(t.lo as usize - first) * ny * nz..][..ny * nz], &planes[(t.hi as usize - first) * ny * nz..][..ny * nz]);
            for y in (0..ny).filter(|&y| rows_used[y]) {
                let (a, b) = (&a[y * nz..][..nz], &b[y * nz..][..nz]);
                let target = &mut half[y * tz..][..tz];
                match (t.weight == 0.0, taps[2].identity) {
                    (true, true) => target.copy_from_slice(a),
                    (false, true) => blend(a, b, t.weight, target),
                    (true, false) => along_z(a, &taps[2], target),
                    (false, false) => {
                        blend(a, b, t.weight, row);
                        along_z(row, &taps[2], target);
                    }
                }
            }
            if taps[1].identity {
                return sink(half, out);
            }
            for (t, target) in taps[1].taps.iter().zip(plane.chunks_exact_mut(tz)) {
                let (a, b) = (&half[t.lo as usize * tz..][..tz], &half[t.hi as usize * tz..][..tz]);
                if t.weight == 0.0 { target.copy_from_slice(a) } else { blend(a, b, t.weight, target) }
            }
            sink(plane, out)
        };
        taps_x.iter().zip(outs).map(one).collect::<Vec<R>>()
    });
    blocks.collect::<Vec<_>>().into_iter().flatten().collect()
}

fn along_z(row: &[f32], taps: &Taps, out: &mut [f32]) {
    for (o, t) in out.iter_mut().zip(&taps.taps) {
        let (a, b) = (row[t.lo as usize], row[t.hi as usize]);
        *o = a + t.weight * (b - a);
    }
}

/// Copy by tables: element `[i][j][k]` of the result is `source[t0[i] + t1[j] + t2[k]]`, or 0 where a table says `None`.
pub(super) fn gather<T: Copy + Default + Send + Sync>(source: &[T], tables: &[Vec<Option<usize>>; 3]) -> Vec<T> {
    let [t0, t1, t2] = tables;
    let (n1, n2) = (t1.len(), t2.len());
    let mut out = vec![T::default(); t0.len() * n1 * n2];
    out.par_chunks_mut(n1 * n2).zip(t0).for_each(|(plane, &x)| {
        let Some(x) = x else { return };
        for (row, &y) in plane.chunks_exact_mut(n2).zip(t1) {
            let Some(y) = y else { continue };
            for (o, &z) in row.iter_mut().zip(t2) {
                if let Some(z) = z {
                    *o = source[x + y + z];
                }
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_round_half_to_even_and_never_vanish() {
        // (len, from, to) -> len; the first three are the aorta of the golden values: 179.5, 188.5, 82.5.
        for (n, from, to, want) in
            [(120, 1.5, 1.0, 180), (126, 1.5, 1.0, 188), (164, 1.5, 3.0, 82), (1, 5.0, 1.0, 1), (2, 0.1, 3.0, 1), (47, 3.27, 3.0, 51)]
        {
            assert_eq!(resampled_len(n, from, to).unwrap(), want, "{n} x {from} mm -> {to} mm");
        }
        assert!(resampled_len(100, 1e9, 1e-3).unwrap_err().to_string().contains("spacing_mm"));
    }

    #[test]
    fn nearest_takes_the_even_neighbour_on_a_tie_and_stays_inside() {
        assert_eq!(nearest(4, 7, 2.0, 1.0), [0, 0, 1, 2, 2, 2, 3]);
        assert_eq!(nearest(2, 4, 1.0, 1.0), [0, 1, 1, 1]);
        // j * s / (2 s) and j * s / s miss j / 2 and j in the last bit for some j of most of these.
        for step in [0.1, 0.7, 0.8, 1.1, 1.3] {
            assert_eq!(nearest(100, 8, 2.0 * step, step), [0, 0, 1, 2, 2, 2, 3, 4], "{step}");
            assert!(Taps::linear(500, 500, step, step, false, false).identity, "{step}");
        }
    }

    #[test]
    fn axes_stored_in_any_order_give_the_same_bits() {
        use crate::volume::orientation::permute;
        let shape = [37, 19, 45];
        let data: Vec<f32> = (0..37 * 19 * 45).map(|i| (i * 7919 % 10007) as f32).collect();
        let run = |source: Strided, shape: [usize; 3], target: usize| {
            let taps: [Taps; 3] =
                std::array::from_fn(|a| Taps::linear(shape[a], target, 1.0, shape[a] as f64 / target as f64, a == 1, false));
            resample_planes(source, &taps, vec![(); target], |p, ()| p.to_vec()).concat()
        };
        for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (turned, there) = (permute(&data, shape, axes), axes.map(|a| shape[a]));
            let stored = Strided::turned(&data, there, &Orientation { axes, flip: [false, true, false] });
            for target in [5, 40] {
                assert!(run(stored, there, target) == run(Strided::new(&turned, there), there, target), "{axes:?} {target}");
            }
        }
    }

    #[test]
    fn linear_in_three_axes_reproduces_a_plane_and_a_constant() {
        let shape = [4usize, 5, 6];
        let at = |x: f64, y: f64, z: f64| (3.0 * x - 2.0 * y + 0.5 * z) as f32;
        let mut source = Vec::new();
        for x in 0..4 {
            for y in 0..5 {
                for z in 0..6 {
                    source.push(at(x as f64, y as f64, z as f64));
                }
            }
        }
        let taps: [Taps; 3] = std::array::from_fn(|a| Taps::linear(shape[a], 3, 1.0, 1.25, false, false));
        let got = resample_planes(Strided::new(&source, shape), &taps, vec![(); 3], |p, ()| p.to_vec()).concat();
        for (i, v) in got.iter().enumerate() {
            let (x, y, z) = (i / 9, i / 3 % 3, i % 3);
            assert!((v - at(x as f64 * 1.25, y as f64 * 1.25, z as f64 * 1.25)).abs() < 1e-5);
        }
        let constant = resample_planes(Strided::new(&[-174.9f32; 120], shape), &taps, vec![(); 3], |p, ()| p.to_vec()).concat();
        assert!(constant.iter().all(|&v| v == -174.9));
    }
}
