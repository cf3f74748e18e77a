//! What a run shows: pictures of cases, curves, and one HTML file that needs nothing beside itself.
//!
//! [`preview`] draws a case in three planes; [`chart`], [`spread`] and [`significance`] draw curves, boxes and maps as SVG; [`raster`] makes files
//! of those; [`html`] puts all with numbers and tables on one page. Nothing here reads a run; callers hand over what is to be shown.

pub mod chart;
pub mod demo;
mod font;
pub mod html;
pub mod leaderboard;
pub mod preview;
pub mod raster;
pub mod significance;
pub mod spread;
