//! Screening of whole scans: Glance on every window, Focus on the chosen, one mask in the scan's own geometry.

pub mod batch;
mod case;
mod lesions;
mod model;
mod picture;
mod screener;
mod shard;
mod windows;

pub use case::{CaseResult, ScreenSettings, Screened, WindowCount, screen_case};
pub use lesions::{Lesion, lesions};
pub use model::Model;
pub use picture::picture;
pub use screener::{Image, Screener};
pub use shard::Shard;
pub use windows::{Budget, Choice, Glanced, Left, Looked, Plan, log_odds};
