//! The blended mask of a selection, scored by Dice and by FLARE's rule.

use super::{WindowSets, for_each_inside};
use crate::metrics::{FlareScore, Pair, flare::TOLERANCE_MM};
use crate::{Error, Result};

/// One window's say in one voxel.
#[derive(Clone, Copy, Debug)]
struct Vote {
    /// Number of the voxel among those that can be marked.
    voxel: u32,
    weight: f32,
    /// Weight times probability.
    sum: f32,
}

/// Focus's probabilities in every window of a scan, as far as they can matter.
///
/// A voxel whose probability is nowhere above the threshold is in no selection's mask, so it isn't kept: what is scored is exactly the blend of
/// the selected windows (to rounding), at a cost in proportion to what Focus marks.
#[derive(Clone, Debug)]
pub struct CachedVolume {
    windows: usize,
    votes: Vec<Vec<Vote>>,
    /// Place in the box of each voxel that can be marked, and whether it is lesion.
    live: Vec<(u32, bool)>,
    /// The reference in the box around it and all that can be marked.
    reference: Vec<u8>,
    reference_voxels: u64,
    box_shape: [usize; 3],
    spacing_mm: [f64; 3],
    threshold: f32,
}

/// A whole scan as [`CachedVolume::new`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct VolumeInput<'a> {
    /// Not 0 on lesion voxels, C order over `shape`.
    pub reference: &'a [u8],
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    pub window: [usize; 3],
    pub starts: &'a [[usize; 3]],
    /// Weight of each voxel of a window, above 0; see [`super::super::blend`].
    pub importance: &'a [f32],
    /// Focus's lesion probability, `[windows][window]`.
    pub probabilities: &'a [Vec<f32>],
    /// Voxels above it are marked.
    pub threshold: f32,
}

impl CachedVolume {
    /// # Errors
    /// [`Error::Setting`] where a part of `input` has not the length that the others ask for.
    pub fn new(input: VolumeInput) -> Result<Self> {
        let VolumeInput { reference, shape, spacing_mm, window, starts, importance, probabilities, threshold } = input;
        let (voxels, of_window) = (shape.iter().product::<usize>(), window.iter().product::<usize>());
        let fits = reference.len() == voxels
            && importance.len() == of_window
            && probabilities.len() == starts.len()
            && probabilities.iter().all(|p| p.len() == of_window)
            && voxels <= u32::MAX as usize;
        if !fits {
            return Err(Error::Setting(format!(
                "a scan of {shape:?} with {} windows of {window:?} got {} reference voxels, {} weights, {} windows of probabilities; give one of each",
                starts.len(),
                reference.len(),
                importance.len(),
                probabilities.len()
            )));
        }
        // Voxels that some window marks get a number, from 1.
        let mut number = vec![0_u32; voxels];
        for (start, p) in starts.iter().zip(probabilities) {
            for_each_inside(shape, window, *start, |there, here| number[there] |= u32::from(p[here] > threshold));
        }
        let at = |flat: usize| [flat / (shape[1] * shape[2]), flat / shape[2] % shape[1], flat % shape[2]];
        let (mut low, mut high) = (shape, [0; 3]);
        let kept: Vec<usize> = (0..voxels).filter(|&v| number[v] > 0 || reference[v] != 0).collect();
        for &flat in &kept {
            let p = at(flat);
            low = std::array::from_fn(|a| low[a].min(p[a]));
            high = std::array::from_fn(|a| high[a].max(p[a] + 1));
        }
        let box_shape: [usize; 3] = std::array::from_fn(|a| high[a].saturating_sub(low[a]));
        let (mut live, mut in_box) = (Vec::new(), vec![0_u8; box_shape.iter().product()]);
        for flat in kept {
            let [x, y, z] = std::array::from_fn(|a| at(flat)[a] - low[a]);
            let place = (x * box_shape[1] + y) * box_shape[2] + z;
            in_box[place] = u8::from(reference[flat] != 0);
            if number[flat] > 0 {
                live.push((place as u32, reference[flat] != 0));
                number[flat] = live.len() as u32;
            }
        }
        let votes_of = |(start, p): (&[usize; 3], &Vec<f32>)| {
            let mut votes = Vec::new();
            for_each_inside(shape, window, *start, |there, here| {
                if let Some(voxel) = number[there].checked_sub(1) {
                    votes.push(Vote { voxel, weight: importance[here], sum: importance[here] * p[here] });
                }
            });
            votes
        };
        Ok(CachedVolume {
            windows: starts.len(),
            votes: starts.iter().zip(probabilities).map(votes_of).collect(),
            live,
            reference_voxels: in_box.iter().map(|&v| u64::from(v)).sum(),
            reference: in_box,
            box_shape,
            spacing_mm,
            threshold,
        })
    }

    /// Voxels that some window marks.
    pub fn live_voxels(&self) -> usize {
        self.live.len()
    }

    /// Dice of the blend of each set's windows; 1 where it and the reference are empty.
    pub fn dice(&self, sets: &WindowSets) -> Vec<f64> {
        self.each(sets, |marked| {
            let (mut predicted, mut both) = (0_u64, 0_u64);
            for (&(_, lesion), _) in self.live.iter().zip(marked).filter(|(_, m)| **m) {
                predicted += 1;
                both += u64::from(lesion);
            }
            let all = predicted + self.reference_voxels;
            if all == 0 { 1.0 } else { 2.0 * both as f64 / all as f64 }
        })
    }

    /// Dice and NSD at 2 mm by FLARE's rule.
    ///
    /// # Errors
    /// As [`Pair::new`]: a spacing that is not three positive numbers.
    pub fn flare(&self, sets: &WindowSets) -> Result<Vec<FlareScore>> {
        let score = |marked: &[bool]| {
            let mut mask = vec![0; self.reference.len()];
            self.live.iter().zip(marked).for_each(|(&(place, _), &m)| mask[place as usize] = u8::from(m));
            let pair = Pair::new("selection", &self.reference, &mask, self.box_shape, self.spacing_mm)?;
            Ok(FlareScore::of_pair(&pair, TOLERANCE_MM))
        };
        self.each(sets, score).into_iter().collect()
    }

    /// `score` of which live voxels the blend of each set marks.
    fn each<T>(&self, sets: &WindowSets, score: impl Fn(&[bool]) -> T) -> Vec<T> {
        assert_eq!(sets.windows, self.windows, "sets over another number of windows");
        let (mut blend, mut marked) = (vec![[0.0_f32; 2]; self.live.len()], vec![false; self.live.len()]);
        let of_set = |s| {
            blend.fill([0.0; 2]);
            for vote in sets.windows(s).flat_map(|w| &self.votes[w]) {
                let [sum, weight] = &mut blend[vote.voxel as usize];
                *sum += vote.sum;
                *weight += vote.weight;
            }
            marked.iter_mut().zip(&blend).for_each(|(m, [sum, weight])| *m = *weight > 0.0 && sum / weight > self.threshold);
            score(&marked)
        };
        (0..sets.len()).map(of_set).collect()
    }
}
