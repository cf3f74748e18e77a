//! (being written)
pub mod progress;
