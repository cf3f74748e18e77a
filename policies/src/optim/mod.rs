//! Optimisers over any Burn module, gradient clipping and learning-rate schedules.
//!
//! Everything is keyed by a parameter's path in its module (`encoder.stem.weight`), never by Burn's `ParamId`, which is random in each
//! process: saved state fits a freshly built module.

mod adamw;
mod clip;
mod schedule;
mod sgd;
mod state;

pub use adamw::{AdamW, AdamWConfig};
pub use clip::clip_global_norm;
pub use schedule::{ScheduleConfig, ScheduleKind};
pub use sgd::{Sgd, SgdConfig};

/// What can go wrong in an optimiser step or with saved optimiser state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A gradient with NaN or infinity.
    #[error("the gradient of `{path}` is not finite ({value}); lower the learning rate or look at this step's input")]
    NonFiniteGradient {
        /// Path of the parameter in its module.
        path: String,
        /// The first such value.
        value: f64,
    },
    /// Saved state that is no optimiser state at all.
    #[error("optimiser state cannot be read: {0}; start from another checkpoint")]
    Unreadable(String),
    /// Saved state of another optimiser.
    #[error("optimiser state is of `{found}`, expected `{expected}`; set the optimiser that the checkpoint was trained with")]
    WrongOptimizer {
        /// Name in the saved state.
        found: String,
        /// Name of this optimiser.
        expected: &'static str,
    },
    /// Saved state for another network.
    #[error("optimiser state of `{path}`: found {found}, expected {expected}; build the network that the checkpoint was trained with")]
    Mismatch {
        /// Path of the parameter in its module.
        path: String,
        /// What the saved state holds.
        found: String,
        /// What the module holds.
        expected: String,
    },
}
