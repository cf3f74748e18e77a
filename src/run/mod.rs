//! What a run leaves behind, and how it survives being interrupted.
//!
//! ```text
//! runs/NAME/  config.toml (effective)  manifest.json  metrics.jsonl  tensorboard/
//!             checkpoints/step-000400/{glance,focus}.safetensors, ..., state.json   checkpoints/best.json   report/index.html
//! ```
//!
//! [`RunFolder`] owns the folder while a process writes it; [`CheckpointStore`] saves whole checkpoints or none; [`MetricsLog`] holds one line
//! a step and is cut back to the checkpoint on resume; [`health`] stops a run on the first value that is not finite. Every file that matters is
//! written under a temporary name, synced and renamed, so a kill at any moment leaves a folder the same command continues from.

pub mod checkpoint;
pub mod error;
pub mod folder;
pub mod health;
pub mod metrics;
pub mod progress;
pub mod signals;
pub mod tensorboard;
pub mod usage;

pub use checkpoint::{Best, Checkpoint, CheckpointStore};
pub use error::{Error, Result};
pub use folder::{Manifest, OnDifference, RunFolder, Session};
pub use health::{NonFinite, check_finite};
pub use metrics::{MetricsLog, Record, Scalar};
pub use progress::{Observer, Silent};
