//! The command line: one file a verb. Only this folder prints.

pub mod config;
pub mod error;
