//! `panscreen`: learn to glance over a CT scan, then focus.

pub mod backend;
pub mod bench;
pub mod cli;
pub mod config;
pub mod demo;
pub mod error;
pub mod evaluate;
#[cfg(test)]
mod invariants;
pub mod leaderboard;
pub mod memory;
pub mod report;
pub mod run;
pub mod screen;
pub mod setup;
pub mod stages;
pub mod submit;
pub mod sweep;
pub mod train;

pub use error::{Error, Result};
