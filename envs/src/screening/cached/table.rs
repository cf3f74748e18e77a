//! All that learning to select needs to know of a scan's windows, from one pass of Focus over them.

use super::super::cached::{CachedScan, size_class};
use super::super::labels::{LabelBuilder, Labels};
use super::super::scan::Scan;
use super::super::windows::cut;
use super::{CachedVolume, VolumeInput};
use crate::Result;
use crate::rewards::Reward;

/// The windows of a scan with what Focus did in each.
#[derive(Clone, Debug)]
pub struct WindowTable {
    pub starts: Vec<[usize; 3]>,
    /// Against all windows of the scan.
    pub labels: Labels,
    /// What a look at each earns by itself.
    pub rewards: Vec<f32>,
    /// Lesions hit and false alarm in mL.
    pub outcomes: CachedScan,
    /// Where blended masks are scored.
    pub volume: Option<CachedVolume>,
}

/// A [`WindowTable`], one window after the other: the voxels of a window are forgotten, unless blended masks are wanted.
pub struct TableBuilder<'a> {
    scan: &'a Scan,
    voxel_ml: f64,
    window: [usize; 3],
    threshold: f32,
    reward: &'a dyn Reward,
    labels: LabelBuilder,
    starts: Vec<[usize; 3]>,
    rewards: Vec<f32>,
    hits: Vec<Vec<usize>>,
    false_alarm: Vec<f32>,
    probabilities: Option<Vec<Vec<f32>>>,
}

impl<'a> TableBuilder<'a> {
    /// Focus marks what is above `threshold`. `keep`: keep its probabilities, for the volume of [`TableBuilder::finish`].
    pub fn new(scan: &'a Scan, voxel_ml: f64, window: [usize; 3], threshold: f32, reward: &'a dyn Reward, keep: bool) -> Self {
        TableBuilder {
            scan,
            voxel_ml,
            window,
            threshold,
            reward,
            labels: LabelBuilder::default(),
            starts: vec![],
            rewards: vec![],
            hits: vec![],
            false_alarm: vec![],
            probabilities: keep.then(Vec::new),
        }
    }

    /// The window at `start`, in which Focus sees `probability`, `[window]`.
    pub fn add(&mut self, start: [usize; 3], probability: Vec<f32>) {
        let voxels: usize = self.window.iter().product();
        assert_eq!(probability.len(), voxels, "one probability for each voxel of the window");
        let mut lesion = vec![0; voxels];
        cut(&self.scan.lesion, 1, self.scan.shape, start, self.window, 0, &mut lesion);
        let mask: Vec<u8> = probability.iter().map(|&p| u8::from(p > self.threshold)).collect();
        let mut marked = [0_u64; 256];
        lesion.iter().zip(&mask).filter(|(_, m)| **m == 1).for_each(|(&l, _)| marked[l as usize] += 1);
        self.labels.add(0, &lesion, &mask);
        self.rewards.push(self.reward.score(&mask, &lesion));
        self.hits.push((0..usize::from(self.scan.lesions())).filter(|l| marked[l + 1] > 0).collect());
        self.false_alarm.push((marked[0] as f64 * self.voxel_ml) as f32);
        self.starts.push(start);
        if let Some(kept) = &mut self.probabilities {
            kept.push(probability);
        }
    }

    /// The table of all windows added. `volume`: voxel spacing and the weight of each voxel of a window, where blended masks are to be scored.
    ///
    /// # Errors
    /// As [`CachedVolume::new`].
    pub fn finish(self, volume: Option<([f64; 3], &[f32])>) -> Result<WindowTable> {
        let mut voxels = [0_u64; 256];
        self.scan.lesion_voxels().iter().for_each(|&v| voxels[self.scan.lesion[v as usize] as usize] += 1);
        let class = (1..=usize::from(self.scan.lesions())).map(|l| size_class(voxels[l] as f64 * self.voxel_ml)).collect();
        let volume = match (volume, &self.probabilities) {
            (Some((spacing_mm, importance)), Some(probabilities)) => Some(CachedVolume::new(VolumeInput {
                reference: &self.scan.lesion,
                shape: self.scan.shape,
                spacing_mm,
                window: self.window,
                starts: &self.starts,
                importance,
                probabilities,
                threshold: self.threshold,
            })?),
            _ => None,
        };
        Ok(WindowTable {
            labels: self.labels.finish(),
            rewards: self.rewards,
            outcomes: CachedScan::new(&self.hits, class, self.false_alarm),
            starts: self.starts,
            volume,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewards::AnyOverlap;
    use crate::screening::cached::WindowSets;

    #[test]
    fn a_table_by_hand() {
        // Lesion 1 at voxels 1 and 2, lesion 2 at voxel 6 of eight; windows of four voxels, half overlapping.
        let scan = Scan::new("t".into(), vec![0.0; 8], 1, [1, 1, 8], &[0, 1, 1, 0, 0, 0, 1, 0]);
        let mut table = TableBuilder::new(&scan, 0.5, [1, 1, 4], 0.5, &AnyOverlap, true);
        table.add([0, 0, 0], vec![0.0, 0.9, 0.9, 0.9]);
        table.add([0, 0, 2], vec![0.6, 0.0, 0.0, 0.0]);
        table.add([0, 0, 4], vec![0.0; 4]);
        let table = table.finish(Some(([1.0; 3], &[1.0; 4]))).unwrap();
        assert_eq!(table.labels.lesion, [1.0, 1.0, 1.0]);
        assert_eq!(table.labels.volume, [1.0, 0.5, 1.0]);
        assert_eq!(table.labels.best, [1.0, 0.0, 1.0]);
        assert_eq!(table.rewards, [1.0, 1.0, 0.0]);
        let sets = WindowSets::of_masks([&[true, false, false][..], &[false, true, true]].into_iter(), 3);
        let outcomes = table.outcomes.outcomes(&sets);
        assert_eq!((outcomes[0].found, outcomes[0].false_alarm, outcomes[1].found), ([0, 1, 0], 0.5, [0, 1, 0]));
        let dice = table.volume.unwrap().dice(&sets);
        assert_eq!(dice, [2.0 * 2.0 / 6.0, 2.0 / 4.0]);
    }
}
