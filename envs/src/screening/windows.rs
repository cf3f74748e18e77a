//! The window grid: where sub-volumes of one size lie on a scan.

/// Start voxels of a dense grid of windows, last axis fastest: MONAI's `dense_patch_slices` with its scan interval
/// `int(window * (1 - overlap))`, at least 1. The last window of an axis is pushed back inside.
///
/// An axis shorter than the window has the single start 0: pad the scan to the window first ([`crate::volume::prepare`] does).
pub fn grid(shape: [usize; 3], window: [usize; 3], overlap: f64) -> Vec<[usize; 3]> {
    let axis = |a: usize| {
        let interval = if shape[a] <= window[a] { window[a] } else { ((window[a] as f64 * (1.0 - overlap)) as usize).max(1) };
        let last = shape[a].saturating_sub(window[a]);
        (0..last.div_ceil(interval) + 1).map(|i| (i * interval).min(last)).collect()
    };
    product([axis(0), axis(1), axis(2)])
}

/// The grid of the published code: the overlap is truncated to voxels, not the interval. Differs from [`grid`] where `window * overlap` isn't whole.
pub fn gf_screen_grid(shape: [usize; 3], window: [usize; 3], overlap: f64) -> Vec<[usize; 3]> {
    let axis = |a: usize| {
        let shared = (window[a] as f64 * overlap) as usize;
        let stride = (window[a] - shared).max(1);
        let count = shape[a].saturating_sub(shared).div_ceil(stride).max(1);
        let last = shape[a].saturating_sub(window[a]);
        (0..count).map(|i| (i * stride).min(last)).collect()
    };
    product([axis(0), axis(1), axis(2)])
}

fn product(axes: [Vec<usize>; 3]) -> Vec<[usize; 3]> {
    let [xs, ys, zs] = &axes;
    let mut starts = Vec::with_capacity(xs.len() * ys.len() * zs.len());
    for &x in xs {
        for &y in ys {
            for &z in zs {
                starts.push([x, y, z]);
            }
        }
    }
    starts
}

/// Copy the window at `start` out of `scan` (`[C][X][Y][Z]`, spatial `shape`) into `out` (`[C][window]`). Voxels outside the scan become `fill`.
pub fn cut<T: Copy>(scan: &[T], channels: usize, shape: [usize; 3], start: [usize; 3], window: [usize; 3], fill: T, out: &mut [T]) {
    let voxels = shape.iter().product::<usize>();
    let row = window[2].min(shape[2].saturating_sub(start[2]));
    let mut rows = out.chunks_exact_mut(window[2]);
    for c in 0..channels {
        for x in start[0]..start[0] + window[0] {
            for y in start[1]..start[1] + window[1] {
                let Some(target) = rows.next() else { return };
                if x < shape[0] && y < shape[1] {
                    let from = c * voxels + (x * shape[1] + y) * shape[2] + start[2];
                    target[..row].copy_from_slice(&scan[from..from + row]);
                    target[row..].fill(fill);
                } else {
                    target.fill(fill);
                }
            }
        }
    }
}

/// Values at voxels `scale` times as long as the scan's (`[window]`), on the scan's voxels, `[window * scale]`: linear between the middles of the
/// long voxels, and constant beyond the outermost.
pub fn enlarge(values: &[f32], window: [usize; 3], scale: usize) -> Vec<f32> {
    let mut shape = window;
    (0..3).fold(values.to_vec(), |values, a| {
        let (length, after) = (shape[a], shape[a + 1..].iter().product::<usize>());
        shape[a] *= scale;
        let mut out = Vec::with_capacity(values.len() * scale);
        for plane in values.chunks_exact((length * after).max(1)) {
            for i in 0..length * scale {
                let at = ((i as f32 + 0.5) / scale as f32 - 0.5).clamp(0.0, (length - 1) as f32);
                let (low, part) = (at as usize, at.fract());
                let high = (low + 1).min(length - 1);
                let row = |n: usize| &plane[n * after..(n + 1) * after];
                out.extend(row(low).iter().zip(row(high)).map(|(l, h)| l + (h - l) * part));
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    type Tiling = fn([usize; 3], [usize; 3], f64) -> Vec<[usize; 3]>;

    fn check(cases: &serde_json::Value, tiling: Tiling) {
        for case in cases.as_array().unwrap() {
            let shape = golden::usize3(case.get("padded").unwrap_or(&case["shape"]));
            let starts = tiling(shape, golden::usize3(&case["roi"]), case["overlap"].as_f64().unwrap());
            assert_eq!(starts.len() as u64, case["count"].as_u64().unwrap(), "{case}");
            for a in 0..3 {
                let mut axis: Vec<u64> = starts.iter().map(|s| s[a] as u64).collect();
                axis.sort_unstable();
                axis.dedup();
                let mut expected: Vec<u64> = serde_json::from_value(case["axis_starts"][a].clone()).unwrap();
                expected.dedup();
                assert_eq!(axis, expected, "axis {a} of {case}");
            }
            if let Some(last) = case.get("last") {
                assert_eq!(*starts.last().unwrap(), golden::usize3(last));
            }
        }
    }

    #[test]
    fn grid_equals_monai() {
        check(&golden::load("sliding_window.json")["windows"], grid);
    }

    #[test]
    fn gf_screen_grid_equals_the_released_tiling() {
        check(&golden::load("sliding_window.json")["gf_screen_windows"]["cases"], gf_screen_grid);
    }

    #[test]
    fn cut_fills_what_lies_outside() {
        let scan: Vec<u8> = (1..=8).collect();
        let mut out = [0; 12];
        cut(&scan, 1, [2, 2, 2], [1, 1, 1], [1, 2, 2], 9, &mut out[..4]);
        assert_eq!(out[..4], [8, 9, 9, 9]);
        cut(&scan, 1, [2, 2, 2], [0, 0, 0], [2, 2, 3], 0, &mut out);
        assert_eq!(out, [1, 2, 0, 3, 4, 0, 5, 6, 0, 7, 8, 0]);
    }

    #[test]
    fn enlarging_keeps_linear_ramps_where_they_are() {
        // A ramp over the scan, taken at long voxels and brought back: the same inside, constant from the outermost middles on.
        let (window, scale) = ([3, 2, 4], 2);
        let ramp = |p: [f32; 3]| p[0] + 10.0 * p[1] + 100.0 * p[2];
        let places = |shape: [usize; 3]| {
            (0..shape.iter().product()).map(move |i: usize| [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]])
        };
        let middle = |i: usize| (i as f32 + 0.5) * scale as f32 - 0.5;
        let long: Vec<f32> = places(window).map(|p| ramp(p.map(middle))).collect();
        let out = enlarge(&long, window, scale);
        let shape = window.map(|n| n * scale);
        assert_eq!(out.len(), shape.iter().product::<usize>());
        for (p, found) in places(shape).zip(&out) {
            let expected = ramp(std::array::from_fn(|a| (p[a] as f32).clamp(middle(0), middle(window[a] - 1))));
            assert!((found - expected).abs() < 1e-3, "{p:?}: {found}, expected {expected}");
        }
        assert_eq!(enlarge(&[0.3, 0.7], [1, 2, 1], 1), [0.3, 0.7]);
    }
}
