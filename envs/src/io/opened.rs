//! What comes out of a file: the voxels, how they were stored, and what is odd about them.

use serde::{Deserialize, Serialize};

/// Something a person should know about a file that can be used all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// With the number or value that is there.
    pub found: String,
    pub expected: String,
    /// One thing to do about it.
    pub action: String,
}

impl Warning {
    pub fn new(found: impl Into<String>, expected: impl Into<String>, action: impl Into<String>) -> Self {
        Warning { found: found.into(), expected: expected.into(), action: action.into() }
    }
}

/// What was read. `T` is a `Volume`, `Labels` or a `Geometry`.
#[derive(Clone, Debug)]
pub struct Opened<T> {
    pub item: T,
    /// `NIfTI-1`, `NIfTI-2`, `DICOM`, `NRRD`, `MetaImage`, ...
    pub format: &'static str,
    /// How voxels are stored, in numpy's words: `int16`, `float32`, ...
    pub dtype: String,
    pub warnings: Vec<Warning>,
}

impl<T> Opened<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Opened<U> {
        Opened { item: f(self.item), format: self.format, dtype: self.dtype, warnings: self.warnings }
    }
}
