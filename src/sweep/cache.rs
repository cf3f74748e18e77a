//! What Focus sees in the windows of a scan, kept on the disk for all points that share one Focus.
//!
//! A voxel that no window gives more than `screen.mask_threshold` is in no selection's mask, since a blend is at most its largest part. Only the
//! others are kept, so that the masks are those of a screening to the last voxel, at a hundredth of the size.

use std::path::{Path, PathBuf};

use panscreen_envs::dataset::Case;
use panscreen_envs::io::{hash, write_atomic};

use crate::config::Config;
use crate::error::Result;
use crate::run::folder::wait_for_lock;
use crate::screen::Plan;
use crate::setup;

/// The outcomes of one Focus under one set of settings.
pub struct FocusCache {
    dir: PathBuf,
    threshold: f32,
}

/// Focus's probabilities in each window of a scan, where they can matter.
pub struct Votes {
    voxels: usize,
    threshold: f32,
    /// Voxel of the window and probability, for each window.
    windows: Vec<Vec<(u32, f32)>>,
}

const MAGIC: &[u8; 8] = b"pansvot1";

impl FocusCache {
    /// The cache below `root` for the Focus with the content `focus` (see [`crate::screen::Model::focus_hash`]).
    pub fn open(root: &Path, focus: &str, config: &Config) -> Self {
        let settings =
            format!("{:?} {:?} {:?} {}", setup::prepare_config(config), config.focus, config.env.window, config.screen.mask_threshold);
        let key = blake3::Hasher::new().update(focus.as_bytes()).update(settings.as_bytes()).finalize().to_hex()[..16].to_owned();
        FocusCache { dir: root.join(format!("focus-{key}")), threshold: config.screen.mask_threshold as f32 }
    }

    /// The votes of `case` on the windows of `plan`; `focus` gives the probabilities `[windows][window]` where they are not there yet.
    pub fn votes(&self, case: &Case, plan: &Plan, focus: impl FnOnce() -> Result<Vec<Vec<f32>>>) -> Result<Votes> {
        let mut hasher = blake3::Hasher::new();
        hash(&case.image, &mut hasher)?;
        hasher.update(format!("{:?} {:?}", plan.window, plan.starts).as_bytes());
        let path = self.dir.join(format!("{}.votes", &hasher.finalize().to_hex()[..24]));
        let voxels = plan.window.iter().product();
        // What can't be read is made anew.
        let kept = || std::fs::read(&path).ok().and_then(|bytes| Votes::of_bytes(&bytes, voxels, plan.starts.len(), self.threshold));
        if let Some(votes) = kept() {
            return Ok(votes);
        }
        std::fs::create_dir_all(&self.dir).map_err(|e| panscreen_envs::Error::io(&self.dir, e))?;
        // One worker at a time: what another is finding out is waited for, and not found out twice.
        let _turn = wait_for_lock(&self.dir)?;
        if let Some(votes) = kept() {
            return Ok(votes);
        }
        let votes = Votes::of(&focus()?, plan, self.threshold);
        write_atomic(&path, &votes.to_bytes())?;
        Ok(votes)
    }
}

impl Votes {
    fn of(probabilities: &[Vec<f32>], plan: &Plan, threshold: f32) -> Self {
        let [_, sy, sz] = plan.shape;
        let [wx, wy, wz] = plan.window;
        let voxel = |start: [usize; 3], i: usize| {
            let [x, y, z] = [start[0] + i / (wy * wz), start[1] + i / wz % wy, start[2] + i % wz];
            (x < plan.shape[0] && y < sy && z < sz).then(|| (x * sy + y) * sz + z)
        };
        let mut live = vec![false; plan.shape.iter().product()];
        for (start, p) in plan.starts.iter().zip(probabilities) {
            p.iter().enumerate().filter(|(_, p)| **p > threshold).filter_map(|(i, _)| voxel(*start, i)).for_each(|v| live[v] = true);
        }
        let kept = |(start, p): (&[usize; 3], &Vec<f32>)| {
            let alive = |i: usize| voxel(*start, i).is_some_and(|v| live[v]);
            p.iter().enumerate().filter(|(i, _)| alive(*i)).map(|(i, p)| (i as u32, *p)).collect()
        };
        Votes { voxels: wx * wy * wz, threshold, windows: plan.starts.iter().zip(probabilities).map(kept).collect() }
    }

    /// Probabilities in window `w`, 0 where they can't matter.
    pub fn window(&self, w: usize) -> Vec<f32> {
        let mut dense = vec![0.0; self.voxels];
        self.windows[w].iter().for_each(|&(i, p)| dense[i as usize] = p);
        dense
    }

    /// 1 where Focus marks a voxel of window `w`.
    pub fn mask(&self, w: usize) -> Vec<u8> {
        let mut mask = vec![0; self.voxels];
        self.windows[w].iter().for_each(|&(i, p)| mask[i as usize] = (p > self.threshold) as u8);
        mask
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for window in &self.windows {
            bytes.extend((window.len() as u32).to_le_bytes());
            window.iter().for_each(|(i, p)| bytes.extend(i.to_le_bytes().into_iter().chain(p.to_le_bytes())));
        }
        bytes.extend(blake3::hash(&bytes).as_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8], voxels: usize, windows: usize, threshold: f32) -> Option<Self> {
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
        Some(Votes { voxels, threshold, windows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScreenConfig;
    use crate::screen::{Budget, Choice, Glanced};

    /// Three windows of four voxels on eight; the middle one is sure of voxel 4, its right neighbour is not.
    fn plan() -> Plan {
        Plan::new([1, 1, 8], [1, 1, 4], &ScreenConfig { second_look: false, ..ScreenConfig::default() }, None)
    }

    fn probabilities() -> Vec<Vec<f32>> {
        vec![vec![0.1, 0.2, 0.3, 0.4], vec![0.2, 0.1, 0.9, 0.3], vec![0.3, 0.1, 0.2, 0.05]]
    }

    #[test]
    fn masks_of_every_selection_are_those_of_all_probabilities() {
        let (plan, all) = (plan(), probabilities());
        let votes = Votes::of(&all, &plan, 0.5);
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
    fn workers_that_want_the_same_scan_let_focus_look_once() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("scan.nii.gz");
        std::fs::write(&image, "voxels").unwrap();
        let case = Case { name: "a".into(), patient: "a".into(), image, label: None, lesion_free: false };
        let looks = std::sync::atomic::AtomicUsize::new(0);
        let focus = || {
            looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(50));
            Ok(probabilities())
        };
        let open = |focus: &str| FocusCache::open(dir.path(), focus, &Config::default());
        let cache = open("focus of a");
        let masks: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let worker = || scope.spawn(|| cache.votes(&case, &plan(), focus).unwrap().mask(1));
            let workers: Vec<_> = (0..4).map(|_| worker()).collect();
            workers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        assert!(masks.iter().all(|m| *m == masks[0]) && looks.load(std::sync::atomic::Ordering::Relaxed) == 1);
        open("focus of b").votes(&case, &plan(), focus).unwrap();
        assert_eq!(looks.load(std::sync::atomic::Ordering::Relaxed), 2, "another Focus looks for itself");
    }

    #[test]
    fn votes_come_back_and_damage_is_seen() {
        let votes = Votes::of(&probabilities(), &plan(), 0.5);
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
}
