//! What Focus sees in the windows of a scan, kept on the disk for all runs that share one Focus.
//!
//! Only what can matter is kept, see [`Votes`]: the masks are those of a screening to the last voxel, at a hundredth of the size.

use std::path::{Path, PathBuf};

use panscreen_envs::dataset::Case;
use panscreen_envs::io::{hash, write_atomic};

use super::{Plan, Votes};
use crate::config::Config;
use crate::error::Result;
use crate::run::folder::wait_for_lock;
use crate::setup;

/// The outcomes of one Focus under one set of settings.
pub struct FocusCache {
    dir: PathBuf,
    threshold: f32,
}

impl FocusCache {
    /// The cache below `root` for the Focus with the content `focus` (see [`crate::screen::Model::focus_hash`]).
    pub fn open(root: &Path, focus: &str, config: &Config) -> Self {
        let settings = (setup::prepare_config(config), &config.focus, config.env.window, config.screen.mask_threshold, config.precision);
        let settings = format!("{settings:?}");
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
        let looked: Vec<(usize, Vec<f32>)> = focus()?.into_iter().enumerate().collect();
        let votes = Votes::of(&looked, plan, self.threshold);
        write_atomic(&path, &votes.to_bytes())?;
        Ok(votes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScreenConfig;

    #[test]
    fn workers_that_want_the_same_scan_let_focus_look_once() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("scan.nii.gz");
        std::fs::write(&image, "voxels").unwrap();
        let case = Case { name: "a".into(), patient: "a".into(), image, label: None, lesion_free: false };
        let plan = Plan::new([1, 1, 8], [1, 1, 4], &ScreenConfig::default(), None);
        let looks = std::sync::atomic::AtomicUsize::new(0);
        let focus = || {
            looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(50));
            Ok(vec![vec![0.1, 0.2, 0.3, 0.4], vec![0.2, 0.1, 0.9, 0.3], vec![0.3, 0.1, 0.2, 0.05]])
        };
        let open = |focus: &str| FocusCache::open(dir.path(), focus, &Config::default());
        let cache = open("focus of a");
        let masks: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let worker = || scope.spawn(|| cache.votes(&case, &plan, focus).unwrap().mask(1));
            let workers: Vec<_> = (0..4).map(|_| worker()).collect();
            workers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        assert!(masks.iter().all(|m| *m == masks[0]) && looks.load(std::sync::atomic::Ordering::Relaxed) == 1);
        open("focus of b").votes(&case, &plan, focus).unwrap();
        assert_eq!(looks.load(std::sync::atomic::Ordering::Relaxed), 2, "another Focus looks for itself");
    }
}
