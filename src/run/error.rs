//! What can go wrong with a run folder.

use std::path::{Path, PathBuf};

use super::NonFinite;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written, or is not what it should be.
    #[error(transparent)]
    File(#[from] panscreen_envs::Error),

    /// Another living process writes this run.
    #[error("{}: the run is being written by {owner}; wait for it, stop it, or choose another run name", path.display())]
    Locked { path: PathBuf, owner: String },

    /// The folder holds a run with other settings.
    #[error("{}: this folder holds a run with other settings ({}); choose another run name, or give the old values to continue it", path.display(), differences.join(", "))]
    ConfigDiffers { path: PathBuf, differences: Vec<String> },

    /// A loss, reward or gradient became NaN or infinite.
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        panscreen_envs::Error::io(path, source).into()
    }

    pub(crate) fn file(path: &Path, found: impl Into<String>, expected: impl Into<String>, action: impl Into<String>) -> Self {
        panscreen_envs::Error::file(path, found, expected, action).into()
    }
}
