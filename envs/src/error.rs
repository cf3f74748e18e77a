//! What can go wrong with data, sorted by cause. Every message names the file, what was found, what was expected and one action.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused: missing file, no permission, full disk.
    #[error("{}: {source}; {}", path.display(), remedy(source))]
    Io { path: PathBuf, source: std::io::Error },

    /// The file is there but is not what its reader needs.
    #[error("{}: {found}, expected {expected}; {action}", path.display())]
    File { path: PathBuf, found: String, expected: String, action: String },

    /// A data list (JSON) is wrong at a place.
    #[error("{}:{line}:{column}: {message}", path.display())]
    List { path: PathBuf, line: usize, column: usize, message: String },

    /// Two things that must agree do not (image and mask, grid and window).
    #[error("{case}: {found}, expected {expected}; {action}")]
    Mismatch { case: String, found: String, expected: String, action: String },

    /// A setting that can't be used.
    #[error("{0}")]
    Setting(String),
}

/// What to do about a refusal of the operating system.
fn remedy(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind as Kind;
    match source.kind() {
        Kind::NotFound => "check the path",
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => "check its permissions",
        Kind::StorageFull | Kind::QuotaExceeded => "free some space",
        _ => "check the path and the disk",
    }
}

impl Error {
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), source }
    }

    pub fn file(path: &Path, found: impl Into<String>, expected: impl Into<String>, action: impl Into<String>) -> Self {
        Error::File { path: path.to_owned(), found: found.into(), expected: expected.into(), action: action.into() }
    }
}
