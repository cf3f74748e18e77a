//! What the labels say about each sub-volume, for supervised objectives.

use std::collections::BTreeMap;

use super::Observation;

/// One value a sub-volume, 0 to 1, `[G]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels {
    /// 1 where it holds lesion.
    pub lesion: Vec<f32>,
    /// Of the lesion it holds most of: the share of the most that any sub-volume of the scan in this observation holds.
    pub volume: Vec<f32>,
    /// 1 where it is the best of its scan in this observation for a lesion: Focus marks most of the lesion there, or, where it marks none of it
    /// anywhere, the sub-volume holds most of it.
    pub best: Vec<f32>,
}

/// What one sub-volume has of one lesion, in voxels.
#[derive(Clone, Copy, Default)]
struct Part {
    held: usize,
    marked: usize,
}

impl Labels {
    /// `predicted`: Focus's mask of every sub-volume, 1 on what it marks, `[G][window]`.
    pub fn new(observation: &Observation, predicted: &[u8]) -> Self {
        let n = observation.voxels_per_window();
        assert_eq!(predicted.len(), observation.lesion.len(), "one prediction for each voxel of the sub-volumes");
        let mut builder = LabelBuilder::default();
        for (i, (window, predicted)) in observation.windows.iter().zip(predicted.chunks_exact(n)).enumerate() {
            builder.add(window.scan, observation.lesion_of(i), predicted);
        }
        builder.finish()
    }
}

/// [`Labels`] from one sub-volume after the other.
#[derive(Default)]
pub struct LabelBuilder {
    /// (scan, lesion) -> the parts of it, by sub-volume.
    parts: BTreeMap<(usize, u8), BTreeMap<usize, Part>>,
    lesion: Vec<f32>,
}

impl LabelBuilder {
    /// The next sub-volume, of scan `scan`: the number of the lesion at each voxel (0 outside) and Focus's mask, `[window]` each.
    pub fn add(&mut self, scan: usize, lesion: &[u8], predicted: &[u8]) {
        let i = self.lesion.len();
        for (&lesion, &marked) in lesion.iter().zip(predicted).filter(|(l, _)| **l > 0) {
            let part = self.parts.entry((scan, lesion)).or_default().entry(i).or_default();
            part.held += 1;
            part.marked += usize::from(marked == 1);
        }
        self.lesion.push(f32::from(u8::from(lesion.iter().any(|&l| l > 0))));
    }

    pub fn finish(self) -> Labels {
        let g = self.lesion.len();
        let (mut volume, mut best) = (vec![0.0_f32; g], vec![0.0; g]);
        for of_lesion in self.parts.values() {
            let most = of_lesion.values().map(|p| p.held).max().unwrap_or(1);
            for (&i, part) in of_lesion {
                volume[i] = volume[i].max(part.held as f32 / most as f32);
            }
            // Of equals the first.
            if let Some((&i, _)) = of_lesion.iter().rev().max_by_key(|(_, p)| (p.marked, p.held)) {
                best[i] = 1.0;
            }
        }
        Labels { lesion: self.lesion, volume, best }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SubVolume;
    use super::*;

    #[test]
    fn labels_by_hand() {
        // Sub-volumes of four voxels: three of scan 0 (lesions 1 and 2), two of scan 1 (its own lesion 1).
        let lesion = [[1, 1, 1, 1], [1, 1, 0, 2], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]];
        let windows = [0, 0, 0, 1, 1].map(|scan| SubVolume { scan, start: [0; 3], lesions: vec![], group: 0 }).to_vec();
        let observation = Observation { index: 0, channels: 1, window: [1, 1, 4], x: vec![0.0; 20], lesion: lesion.concat(), windows };
        let predicted = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]].concat();
        let labels = Labels::new(&observation, &predicted);
        assert_eq!(labels.lesion, [1.0, 1.0, 0.0, 1.0, 1.0]);
        assert_eq!(labels.volume, [1.0, 1.0, 0.0, 0.5, 1.0]);
        // Lesion 1 of scan 0 is marked most in the second; lesion 2 is only there; scan 1's is marked nowhere, so the fuller one.
        assert_eq!(labels.best, [0.0, 1.0, 0.0, 0.0, 1.0]);
        let unseen = Labels::new(&observation, &[0; 20]);
        assert_eq!(unseen.best, [1.0, 1.0, 0.0, 0.0, 1.0]);
    }
}
