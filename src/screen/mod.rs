//! Screening of whole scans: Glance on every window, Focus on the chosen, one mask in the scan's own geometry.

mod again;
pub mod batch;
mod case;
mod focus_cache;
mod guarantee;
mod lesions;
mod look;
mod model;
mod picture;
mod screener;
mod shard;
mod votes;
mod windows;

pub use again::{Again, Recomputed};
pub use case::{CaseResult, ScreenSettings, Screened, WindowCount, screen_case};
pub use focus_cache::FocusCache;
pub use guarantee::{ClassGuarantee, Guarantee};
pub use lesions::{Lesion, lesions};
pub use look::{Left, Looked};
pub use model::Model;
pub use picture::picture;
pub use screener::{Heat, Image, Screener};
pub use shard::Shard;
pub use votes::Votes;
pub use windows::{Budget, Choice, Decoding, Glanced, Place, Plan, log_odds, thresholds_at};
