//! CT scans as an environment an agent can see and be scored by.
//!
//! This crate never names a deep-learning framework. The way of a scan through it:
//! [`io::open`] reads a file into a [`volume::Volume`] in HU with its [`volume::Geometry`];
//! [`volume::prepare`] brings it to canonical axes, grid and intensity windows and remembers the exact way back;
//! [`screening`] cuts it into groups of sub-volumes; [`rewards`] and [`metrics`] judge what was found.

pub mod dataset;
pub mod error;
#[cfg(test)]
pub(crate) mod golden;
pub mod io;
pub mod metrics;
pub mod phantom;
pub mod rewards;
pub mod rng;
pub mod screening;
pub mod volume;

pub use error::{Error, Result};
