//! Putting windows back together: one probability per voxel from the windows that cover it.

/// Weight of each voxel of a window: MONAI's Gaussian importance map, sigma = `sigma_scale` x window length,
/// clamped from below as its sliding-window inferer does. `[window]`, C order.
pub fn gaussian(window: [usize; 3], sigma_scale: f64) -> Vec<f32> {
    let axis = |n: usize| -> Vec<f32> {
        let (centre, sigma) = ((n as f64 - 1.0) / 2.0, n as f64 * sigma_scale);
        (0..n).map(|i| (-(i as f64 - centre).powi(2) / (2.0 * sigma * sigma)).exp() as f32).collect()
    };
    let [x, y, z] = [axis(window[0]), axis(window[1]), axis(window[2])];
    let mut map = Vec::with_capacity(x.len() * y.len() * z.len());
    for a in &x {
        for b in &y {
            map.extend(z.iter().map(|c| a * b * c));
        }
    }
    let smallest = map.iter().copied().filter(|&w| w > 0.0).fold(f32::INFINITY, f32::min);
    let floor = smallest.max(1e-3);
    map.iter_mut().for_each(|w| *w = w.max(floor));
    map
}

/// Every voxel of a window weighs the same, as published.
pub fn flat(window: [usize; 3]) -> Vec<f32> {
    vec![1.0; window.iter().product()]
}

/// Running weighted mean of window predictions over a scan.
///
/// A voxel that no window covered stays 0 (background).
pub struct Blend {
    shape: [usize; 3],
    window: [usize; 3],
    importance: Vec<f32>,
    sum: Vec<f32>,
    weight: Vec<f32>,
}

impl Blend {
    pub fn new(shape: [usize; 3], window: [usize; 3], importance: Vec<f32>) -> Self {
        assert_eq!(importance.len(), window.iter().product::<usize>(), "one weight per voxel of the window");
        let voxels = shape.iter().product();
        Blend { shape, window, importance, sum: vec![0.0; voxels], weight: vec![0.0; voxels] }
    }

    /// Let the window at `start` vote `values` (`[window]`) with `weight` times its importance.
    pub fn add(&mut self, start: [usize; 3], values: &[f32], weight: f32) {
        let Blend { shape, window, importance, sum, weight: weights } = self;
        vote(*shape, *window, start, |i| (importance[i] * weight, values[i]), sum, weights);
    }

    /// Let the window at `start` vote one value for all its voxels. 0 is "nothing here": how a window that Glance rejected keeps
    /// its say in the denominator.
    pub fn add_constant(&mut self, start: [usize; 3], value: f32, weight: f32) {
        let Blend { shape, window, importance, sum, weight: weights } = self;
        vote(*shape, *window, start, |i| (importance[i] * weight, value), sum, weights);
    }

    /// Let a window of another size vote: `values` and `importance` are `[window]`.
    pub fn add_sized(&mut self, start: [usize; 3], window: [usize; 3], importance: &[f32], values: &[f32]) {
        vote(self.shape, window, start, |i| (importance[i], values[i]), &mut self.sum, &mut self.weight);
    }

    /// The weighted mean per voxel, `[X][Y][Z]`.
    pub fn mean(&self) -> Vec<f32> {
        self.sum.iter().zip(&self.weight).map(|(&s, &w)| if w > 0.0 { s / w } else { 0.0 }).collect()
    }

    /// [`mean`](Self::mean), at the end.
    pub fn finish(self) -> Vec<f32> {
        self.mean()
    }
}

/// Add (weight, value) of each voxel of a window, as far as it lies inside the scan.
fn vote(
    shape: [usize; 3],
    window: [usize; 3],
    start: [usize; 3],
    of_voxel: impl Fn(usize) -> (f32, f32),
    sum: &mut [f32],
    weight: &mut [f32],
) {
    let extent: [usize; 3] = std::array::from_fn(|a| window[a].min(shape[a].saturating_sub(start[a])));
    for x in 0..extent[0] {
        for y in 0..extent[1] {
            let here = (x * window[1] + y) * window[2];
            let there = ((start[0] + x) * shape[1] + start[1] + y) * shape[2] + start[2];
            for z in 0..extent[2] {
                let (w, value) = of_voxel(here + z);
                sum[there + z] += w * value;
                weight[there + z] += w;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::windows::{cut, gf_screen_grid, grid};
    use super::*;
    use crate::golden;

    const SHAPE: [usize; 3] = [20, 18, 15];
    const ROI: [usize; 3] = [8, 8, 6];

    fn ramp() -> impl Iterator<Item = f32> {
        (0..ROI[0] * ROI[1] * ROI[2]).map(|n| {
            let (i, j, k) = (n / (ROI[1] * ROI[2]), n / ROI[2] % ROI[1], n % ROI[2]);
            0.1 * i as f32 + 0.01 * j as f32 + 0.001 * k as f32
        })
    }

    fn window(scan: &[f32], shape: [usize; 3], start: [usize; 3]) -> Vec<f32> {
        let mut w = vec![0.0; ROI.iter().product()];
        cut(scan, 1, shape, start, ROI, 0.0, &mut w);
        w
    }

    #[test]
    fn gaussian_equals_monai() {
        for map in golden::load("sliding_window.json")["importance"]["maps"].as_array().unwrap() {
            let ours = gaussian(golden::usize3(&map["roi"]), map["sigma_scale"].as_f64().unwrap());
            let sum: f64 = ours.iter().map(|&w| w as f64).sum();
            golden::assert_close(sum, map["clamped_sum"].as_f64().unwrap(), 1e-5, "sum of the map");
            let floor = map["clamp_min"].as_f64().unwrap();
            golden::check_samples(map, "index", "raw", |i| ours[i] as f64, |raw| raw.max(floor), 1e-6);
        }
    }

    #[test]
    fn blended_inference_equals_monai() {
        let scan: Vec<f32> = golden::fill("slide.x", SHAPE.iter().product(), 0.0, 1.0).iter().map(|&v| v as f32).collect();
        let all = golden::load("sliding_window.json");
        for case in all["inference"]["cases"].as_array().unwrap() {
            if case.get("note").is_some() {
                continue; // smaller than the window: padding is the preparation's work
            }
            let map = if case["mode"] == "gaussian" { gaussian(ROI, 0.125) } else { flat(ROI) };
            let mut channels = [Blend::new(SHAPE, ROI, map.clone()), Blend::new(SHAPE, ROI, map)];
            for start in grid(SHAPE, ROI, case["overlap"].as_f64().unwrap()) {
                let w = window(&scan, SHAPE, start);
                let out0: Vec<f32> = w.iter().zip(ramp()).map(|(w, r)| w + r).collect();
                let out1: Vec<f32> = w.iter().zip(ramp()).map(|(w, r)| 2.0 * w - r).collect();
                channels[0].add(start, &out0, 1.0);
                channels[1].add(start, &out1, 1.0);
            }
            let blended: Vec<f32> = channels.into_iter().flat_map(Blend::finish).collect();
            golden::check_samples(case, "index", "value", |i| blended[i] as f64, |v| v, 1e-5);
        }
    }

    #[test]
    fn flat_blend_of_kept_windows_equals_gf_screen() {
        let scan: Vec<f32> = golden::fill("slide.x", SHAPE.iter().product(), 0.0, 1.0).iter().map(|&v| v as f32).collect();
        let all = golden::load("sliding_window.json");
        let case = &all["gf_screen_aggregate"];
        let starts = gf_screen_grid(SHAPE, ROI, 0.5);
        let mut blend = Blend::new(SHAPE, ROI, flat(ROI));
        for k in case["kept"].as_array().unwrap() {
            let start = starts[k.as_u64().unwrap() as usize];
            let p: Vec<f32> =
                window(&scan, SHAPE, start).iter().zip(ramp()).map(|(w, r)| 1.0 / (1.0 + ((w + r) - (2.0 * w - r)).exp())).collect();
            blend.add(start, &p, 1.0);
        }
        let probability = blend.finish();
        golden::check_samples(case, "index", "prob1", |i| probability[i] as f64, |v| v, 1e-5);
        let mask: Vec<u8> = probability.iter().map(|&p| (p > 0.5) as u8).collect();
        assert_eq!(mask.iter().map(|&v| v as u64).sum::<u64>(), case["label_voxels"].as_u64().unwrap());
        assert_eq!(golden::sha256(&mask), case["label_sha256_u8"].as_str().unwrap());
    }

    #[test]
    fn a_rejected_window_outvotes_in_the_denominator() {
        let mut blend = Blend::new([1, 1, 3], [1, 1, 2], flat([1, 1, 2]));
        blend.add([0, 0, 0], &[0.8, 0.8], 1.0);
        blend.add_constant([0, 0, 1], 0.0, 1.0);
        assert_eq!(blend.finish(), [0.8, 0.4, 0.0]);
    }

    #[test]
    fn windows_of_two_sizes_vote_together() {
        let mut blend = Blend::new([1, 1, 4], [1, 1, 2], flat([1, 1, 2]));
        blend.add([0, 0, 0], &[0.8, 0.8], 1.0);
        blend.add_sized([0, 0, 1], [1, 1, 6], &[1.0, 3.0, 1.0, 1.0, 1.0, 1.0], &[0.4; 6]);
        let mean = blend.mean();
        assert_eq!(mean[0], 0.8);
        assert!((mean[1] - 0.6).abs() < 1e-6 && mean[2..].iter().all(|p| (p - 0.4).abs() < 1e-6), "{mean:?}");
        assert_eq!(blend.finish(), mean);
    }
}
