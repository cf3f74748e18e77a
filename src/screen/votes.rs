//! What Focus sees in the windows of a scan, as far as it can matter.

use super::Plan;

/// Focus's probabilities in windows of a scan, where they can matter.
///
/// A voxel that no window gives more than the mask threshold is in no selection's mask, since a blend is at most its largest part. Only the others are
/// kept: masks of every selection of these windows are those of a screening to the last voxel, at a hundredth of the size.
pub struct Votes {
    /// Voxels of a window.
    voxels: usize,
    /// Of each wider window; those are the last.
    wide: Vec<usize>,
    threshold: f32,
    /// Voxel of the window and probability, for each window.
    windows: Vec<Vec<(u32, f32)>>,
}

const MAGIC: &[u8; 8] = b"pansvot1";

impl Votes {
    /// From the windows of `plan` that Focus looked at, by number, each `[window]` (of a wider one `[size]`). The others have no votes.
    pub fn of(looked: &[(usize, Vec<f32>)], plan: &Plan, threshold: f32) -> Self {
        let [_, sy, sz] = plan.shape;
        // The voxel of the scan that a voxel of a window is.
        let voxel = |number: usize, i: usize| {
            let place = plan.place(number);
            let ([x, y, z], [_, wy, wz]) = (place.start, plan.size(place));
            let [x, y, z] = [x + i / (wy * wz), y + i / wz % wy, z + i % wz];
            (x < plan.shape[0] && y < sy && z < sz).then(|| (x * sy + y) * sz + z)
        };
        let mut live = vec![false; if looked.is_empty() { 0 } else { plan.shape.iter().product() }];
        for (number, p) in looked {
            p.iter().enumerate().filter(|(_, p)| **p > threshold).filter_map(|(i, _)| voxel(*number, i)).for_each(|v| live[v] = true);
        }
        let mut windows = vec![vec![]; plan.count()];
        for (number, p) in looked {
            let alive = |i: usize| voxel(*number, i).is_some_and(|v| live[v]);
            windows[*number] = p.iter().enumerate().filter(|(i, _)| alive(*i)).map(|(i, p)| (i as u32, *p)).collect();
        }
        let wide = plan.wide.iter().map(|&place| plan.size(place).iter().product()).collect();
        Votes { voxels: plan.window.iter().product(), wide, threshold, windows }
    }

    /// Probabilities in window `w`, 0 where they can't matter.
    pub fn window(&self, w: usize) -> Vec<f32> {
        let from = self.windows.len() - self.wide.len();
        let mut dense = vec![0.0; if w < from { self.voxels } else { self.wide[w - from] }];
        self.windows[w].iter().for_each(|&(i, p)| dense[i as usize] = p);
        dense
    }

    /// 1 where Focus marks a voxel of window `w`.
    pub fn mask(&self, w: usize) -> Vec<u8> {
        self.window(w).into_iter().map(|p| u8::from(p > self.threshold)).collect()
    }

    /// With a hash at the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for window in &self.windows {
            bytes.extend((window.len() as u32).to_le_bytes());
            window.iter().for_each(|(i, p)| bytes.extend(i.to_le_bytes().into_iter().chain(p.to_le_bytes())));
        }
        bytes.extend(blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) made of `windows` windows of `voxels` voxels, none of them wide; `None` where it is damaged.
    pub fn of_bytes(bytes: &[u8], voxels: usize, windows: usize, threshold: f32) -> Option<Self> {
        let (body, hash) = bytes.split_last_chunk::<32>()?;
        if blake3::hash(body).as_bytes() != hash {
            return None;
        }
        let mut words = body.strip_prefix(MAGIC)?.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        let mut read = || -> Option<Vec<(u32, f32)>> {
            let count = words.next()? as usize;
            (0..count).map(|_| Some((words.next().filter(|i| (*i as usize) < voxels)?, f32::from_bits(words.next()?)))).collect()
        };
        let windows = (0..windows).map(|_| read()).collect::<Option<_>>()?;
        Some(Votes { voxels, wide: vec![], threshold, windows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScreenConfig;
    use crate::error::Result;
    use crate::screen::{Budget, Choice, Glanced};

    /// Three windows of four voxels on eight; the middle one is sure of voxel 4, its right neighbour is not.
    fn plan() -> Plan {
        Plan::new([1, 1, 8], [1, 1, 4], &ScreenConfig { second_look: false, ..ScreenConfig::default() }, None)
    }

    fn probabilities() -> Vec<Vec<f32>> {
        vec![vec![0.1, 0.2, 0.3, 0.4], vec![0.2, 0.1, 0.9, 0.3], vec![0.3, 0.1, 0.2, 0.05]]
    }

    fn looked(probabilities: Vec<Vec<f32>>) -> Vec<(usize, Vec<f32>)> {
        probabilities.into_iter().enumerate().collect()
    }

    #[test]
    fn masks_of_every_selection_are_those_of_all_probabilities() {
        let (plan, all) = (plan(), probabilities());
        let votes = Votes::of(&looked(all.clone()), &plan, 0.5);
        assert_eq!(votes.windows, [vec![], vec![(2, 0.9)], vec![(0, 0.3)]]);
        for chosen in 0..8_u32 {
            let glanced = Glanced { windows: (0..3).map(|w| (chosen >> w & 1) as f32).collect(), heat: None };
            let mask = |of: &dyn Fn(usize) -> Vec<f32>| -> Vec<bool> {
                let stored = |windows: &[usize]| -> Result<Vec<Vec<f32>>> { Ok(windows.iter().map(|&w| of(w)).collect()) };
                plan.run(&glanced, Choice::Above(0.5), &Budget::default(), stored).unwrap().probability.iter().map(|p| *p > 0.5).collect()
            };
            assert_eq!(mask(&|w| votes.window(w)), mask(&|w| all[w].clone()), "{chosen:03b}");
        }
        assert_eq!(votes.mask(1), [0, 0, 1, 0]);
    }

    #[test]
    fn votes_come_back_and_damage_is_seen() {
        let votes = Votes::of(&looked(probabilities()), &plan(), 0.5);
        let bytes = votes.to_bytes();
        assert_eq!(Votes::of_bytes(&bytes, 4, 3, 0.5).unwrap().windows, votes.windows);
        assert!(Votes::of_bytes(&bytes, 4, 4, 0.5).is_none() && Votes::of_bytes(&bytes, 2, 3, 0.5).is_none());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Votes::of_bytes(&damaged, 4, 3, 0.5).is_none(), "byte {at}");
            assert!(Votes::of_bytes(&bytes[..at], 4, 3, 0.5).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn a_wider_window_keeps_what_its_neighbours_mark_and_the_reverse() {
        let config = ScreenConfig { second_look: false, scales: vec![1, 2], ..ScreenConfig::default() };
        let plan = Plan::new([1, 1, 8], [1, 1, 4], &config, None);
        assert_eq!((plan.starts.len(), plan.wide.len()), (3, 1));
        // The wider window reaches beyond the scan along x and y: its first eight voxels are the scan.
        let mut wide = vec![0.2; 32];
        (wide[7], wide[8]) = (0.8, 0.9);
        let votes = Votes::of(&[(1, probabilities().remove(1)), (2, vec![0.3, 0.1, 0.2, 0.05]), (3, wide)], &plan, 0.5);
        assert_eq!(votes.windows, [vec![], vec![(2, 0.9)], vec![(0, 0.3), (3, 0.05)], vec![(4, 0.2), (7, 0.8)]]);
        assert_eq!((votes.window(0).len(), votes.window(3).len(), votes.window(3)[7]), (4, 32, 0.8));
    }
}
