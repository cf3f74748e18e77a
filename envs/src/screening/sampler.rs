//! Which sub-volumes of a scan are drawn for training, and how they are changed (dossier A.4).

use serde::{Deserialize, Serialize};

use super::scan::Scan;
use super::windows::cut;
use crate::rng::{RngExt, Stream};

/// Where a lesion voxel lies in the crop that was drawn for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LesionPosition {
    /// In the centre, as published. A network can learn "lesions are in the middle" instead of lesions.
    Centre,
    /// Anywhere, each place equally likely.
    #[default]
    Anywhere,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    /// Voxels of a sub-volume.
    pub window: [usize; 3],
    /// Probability that a crop of a scan with lesions is drawn around a lesion voxel.
    pub lesion_fraction: f64,
    pub lesion_position: LesionPosition,
    /// Draw a lesion first and then one of its voxels, so that small lesions are seen as often as large ones. Published: off (a voxel of all).
    pub balance_lesions: bool,
    /// Probability of a flip, per axis.
    pub flip_probability: f64,
    /// Probability of a turn by 90, 180 or 270 degrees in the axial plane (only where the window is square there).
    pub rotate_probability: f64,
    pub intensity_shift_probability: f64,
    /// The shift is uniform in plus/minus this (intensities are 0..1).
    pub intensity_shift: f32,
}

/// Where to cut.
pub fn draw_start(scan: &Scan, config: &SamplerConfig, rng: &mut Stream) -> [usize; 3] {
    let window = config.window;
    let last: [usize; 3] = std::array::from_fn(|a| scan.shape[a].saturating_sub(window[a]));
    let centred = |p: [usize; 3]| std::array::from_fn(|a| p[a].saturating_sub(window[a] / 2).min(last[a]));
    if scan.lesions() == 0 {
        return std::array::from_fn(|a| rng.random_range(0..=last[a]));
    }
    if !rng.random_bool(config.lesion_fraction) {
        return centred(background_voxel(scan, rng));
    }
    let p = lesion_voxel(scan, config.balance_lesions, rng);
    match config.lesion_position {
        LesionPosition::Centre => centred(p),
        LesionPosition::Anywhere => std::array::from_fn(|a| {
            let lowest = (p[a] + 1).saturating_sub(window[a]).min(last[a]);
            rng.random_range(lowest..=p[a].min(last[a]))
        }),
    }
}

fn lesion_voxel(scan: &Scan, balanced: bool, rng: &mut Stream) -> [usize; 3] {
    let all = scan.lesion_voxels();
    let flat = if balanced {
        let wanted = rng.random_range(1..=scan.lesions());
        let of_lesion: Vec<u32> = all.iter().copied().filter(|&v| scan.lesion[v as usize] == wanted).collect();
        of_lesion[rng.random_range(0..of_lesion.len())]
    } else {
        all[rng.random_range(0..all.len())]
    };
    scan.position(flat as usize)
}

/// A voxel inside the body (some intensity > 0) and outside every lesion; after 64 misses, any voxel.
fn background_voxel(scan: &Scan, rng: &mut Stream) -> [usize; 3] {
    let voxels = scan.voxels();
    let mut flat = 0;
    for _ in 0..64 {
        flat = rng.random_range(0..voxels);
        if scan.lesion[flat] == 0 && (0..scan.channels).any(|c| scan.image[c * voxels + flat] > 0.0) {
            break;
        }
    }
    scan.position(flat)
}

/// Cut the sub-volume at `start` into `x` (`[C][window]`) and `lesion` (`[window]`), then flip, turn and shift it.
pub fn cut_augmented(scan: &Scan, config: &SamplerConfig, start: [usize; 3], rng: &mut Stream, x: &mut [f32], lesion: &mut [u8]) {
    let [nx, ny, nz] = config.window;
    cut(&scan.image, scan.channels, scan.shape, start, config.window, 0.0, x);
    cut(&scan.lesion, 1, scan.shape, start, config.window, 0, lesion);

    let flips: [bool; 3] = std::array::from_fn(|_| rng.random_bool(config.flip_probability));
    let turned = rng.random_bool(config.rotate_probability);
    let turns = rng.random_range(1..=3);
    let turns = if turned && nx == ny { turns } else { 0 };
    if flips != [false; 3] || turns > 0 {
        // Where output voxel (i, j, k) comes from: first undo the turn, then the flips.
        let source: Vec<u32> = (0..nx * ny * nz)
            .map(|n| {
                let (mut i, mut j, mut k) = (n / (ny * nz), n / nz % ny, n % nz);
                for _ in 0..turns {
                    (i, j) = (j, nx - 1 - i);
                }
                if flips[0] {
                    i = nx - 1 - i;
                }
                if flips[1] {
                    j = ny - 1 - j;
                }
                if flips[2] {
                    k = nz - 1 - k;
                }
                ((i * ny + j) * nz + k) as u32
            })
            .collect();
        let mut old = Vec::new();
        for channel in x.chunks_exact_mut(nx * ny * nz) {
            old.clear();
            old.extend_from_slice(channel);
            channel.iter_mut().zip(&source).for_each(|(v, &s)| *v = old[s as usize]);
        }
        let old = lesion.to_vec();
        lesion.iter_mut().zip(&source).for_each(|(v, &s)| *v = old[s as usize]);
    }

    let shifted = rng.random_bool(config.intensity_shift_probability);
    let shift = config.intensity_shift * (2.0 * rng.random::<f32>() - 1.0);
    if shifted {
        x.iter_mut().for_each(|v| *v += shift);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rng::stream;

    pub fn config() -> SamplerConfig {
        SamplerConfig {
            window: [4, 4, 3],
            lesion_fraction: 0.5,
            lesion_position: LesionPosition::Anywhere,
            balance_lesions: false,
            flip_probability: 0.2,
            rotate_probability: 0.2,
            intensity_shift_probability: 0.0,
            intensity_shift: 0.1,
        }
    }

    /// A scan of 10x9x8 with intensity = flat index and one lesion voxel at (5, 2, 6).
    pub fn one_lesion() -> Scan {
        let mut lesion = vec![0; 720];
        lesion[(5 * 9 + 2) * 8 + 6] = 1;
        Scan::new("one".into(), (0..720).map(|v| v as f32).collect(), 1, [10, 9, 8], &lesion)
    }

    fn holds(start: [usize; 3], p: [usize; 3], window: [usize; 3]) -> bool {
        (0..3).all(|a| p[a] >= start[a] && p[a] < start[a] + window[a])
    }

    #[test]
    fn a_lesion_crop_holds_its_lesion_and_stays_inside() {
        for position in [LesionPosition::Anywhere, LesionPosition::Centre] {
            let config = SamplerConfig { lesion_fraction: 1.0, lesion_position: position, ..config() };
            for i in 0..200 {
                let start = draw_start(&one_lesion(), &config, &mut stream(1, "test", 0, i));
                assert!(holds(start, [5, 2, 6], config.window), "{position:?} {start:?}");
                assert!(start[0] <= 6 && start[1] <= 5 && start[2] <= 5);
            }
        }
    }

    #[test]
    fn anywhere_reaches_every_place_of_the_crop_and_centre_only_one() {
        let places = |position| {
            let config = SamplerConfig { lesion_fraction: 1.0, lesion_position: position, ..config() };
            let mut xs: Vec<usize> = (0..200).map(|i| 5 - draw_start(&one_lesion(), &config, &mut stream(1, "test", 0, i))[0]).collect();
            xs.sort_unstable();
            xs.dedup();
            xs
        };
        assert_eq!(places(LesionPosition::Anywhere), [0, 1, 2, 3]);
        assert_eq!(places(LesionPosition::Centre), [2]);
    }

    #[test]
    fn half_of_the_crops_are_drawn_around_lesions() {
        let scan = one_lesion();
        let hits = (0..2000).filter(|&i| holds(draw_start(&scan, &config(), &mut stream(3, "test", 0, i)), [5, 2, 6], [4, 4, 3])).count();
        assert!((1000..1500).contains(&hits), "{hits} of 2000: half by choice, some background crops by chance");
    }

    #[test]
    fn augmentation_moves_image_and_label_alike_and_loses_nothing() {
        let scan = one_lesion();
        let config = SamplerConfig { flip_probability: 0.5, rotate_probability: 0.5, ..config() };
        for i in 0..64 {
            let (mut x, mut lesion) = (vec![0.0; 48], vec![0; 48]);
            cut_augmented(&scan, &config, [3, 1, 4], &mut stream(1, "test", 0, i), &mut x, &mut lesion);
            let at = lesion.iter().position(|&v| v == 1).unwrap();
            assert_eq!(x[at], ((5 * 9 + 2) * 8 + 6) as f32);
            let mut sorted = x.clone();
            sorted.sort_by(f32::total_cmp);
            sorted.dedup();
            assert_eq!(sorted.len(), 48);
        }
    }
}
