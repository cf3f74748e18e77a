//! What Focus sees in the windows of a scan, kept on the disk for all points that share one Focus.
//!
//! Only what can matter is kept, see [`Votes`]: the masks are those of a screening to the last voxel, at a hundredth of the size.

use std::path::{Path, PathBuf};

use panscreen_envs::dataset::Case;
use panscreen_envs::io::{hash, write_atomic};

use crate::config::Config;
use crate::error::Result;
use crate::screen::{Plan, Votes};
use crate::setup;

/// The outcomes of one Focus under one set of settings.
pub struct FocusCache {
    dir: PathBuf,
    threshold: f32,
}

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
        if let Some(votes) = std::fs::read(&path).ok().and_then(|bytes| Votes::of_bytes(&bytes, voxels, plan.starts.len(), self.threshold))
        {
            return Ok(votes);
        }
        let looked: Vec<(usize, Vec<f32>)> = focus()?.into_iter().enumerate().collect();
        let votes = Votes::of(&looked, plan, self.threshold);
        std::fs::create_dir_all(&self.dir).map_err(|e| panscreen_envs::Error::io(&self.dir, e))?;
        write_atomic(&path, &votes.to_bytes())?;
        Ok(votes)
    }
}
