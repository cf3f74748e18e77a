//! What a run shows: pictures of cases, curves, and one HTML file that needs nothing beside itself.
//!
//! [`preview`] draws a case in three planes, [`groups`] the sub-volumes of a step, [`looks`] the order of looks as a GIF, [`chart`] curves as SVG;
//! [`html`] puts them, numbers and tables on one page. Only [`run`] reads a run; to all others callers hand over what is to be shown.

pub mod chart;
pub mod demo;
mod font;
pub mod groups;
pub mod html;
pub mod looks;
pub mod preview;
pub mod run;
