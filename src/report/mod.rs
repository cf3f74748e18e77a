//! What a run shows: pictures of cases, curves, and one HTML file that needs nothing beside itself.
//!
//! [`preview`] draws a case in three planes, [`groups`] the sub-volumes of a step, [`looks`] the order of looks as a GIF; [`chart`], [`spread`] and
//! [`significance`] draw curves, boxes and maps as SVG; [`raster`] makes files of those; [`curves`] those of a run; [`html`] puts all with numbers and tables on one page.
//! Only [`run`] reads a run; to all others callers hand over what is to be shown.

pub mod chart;
mod curves;
pub mod demo;
mod font;
pub mod groups;
pub mod html;
pub mod leaderboard;
pub mod looks;
pub mod preview;
pub mod raster;
pub mod run;
pub mod significance;
pub mod spread;
