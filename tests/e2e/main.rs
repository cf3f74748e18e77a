//! The program as people run it: command lines in, exit codes, files and text out. One binary, because each one carries Burn.
//!
//! Every test makes its own small cohort and run in a temporary folder: scans of 64 x 64 x 40 voxels, networks of two stages, 12 steps.

mod aids;
mod data_check;
mod every_way;
mod help;
mod inspect;
mod judge;
mod messages;
mod real;
mod resume;
mod same_bytes;
mod selection;
mod support;
mod sweep;
mod whole_way;
