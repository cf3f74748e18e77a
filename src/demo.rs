//! `panscreen demo`: to be replaced by the whole demo.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::run::Observer;

#[derive(Debug, Serialize)]
pub struct DemoSummary {
    pub seed: u64,
}

impl fmt::Display for DemoSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "seed {}", self.seed)
    }
}

pub fn run(_seed: u64, out: &Path, _observer: Arc<dyn Observer>) -> Result<DemoSummary> {
    Err(Error::Usage(format!("{}: the demo is not part of this build", out.display())))
}
