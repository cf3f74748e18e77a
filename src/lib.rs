//! `panscreen`: learn to glance over a CT scan, then focus.

pub mod cli;
pub mod config;
pub mod evaluate;
pub mod report;
pub mod run;
pub mod screen;
pub mod stages;
