//! What a run shows: pictures of cases, curves, and one HTML file that needs nothing beside itself.
//!
//! [`preview`] draws a case in three planes, [`chart`] draws curves as SVG, [`html`] puts both, numbers and tables on one page. Nothing here
//! reads a run; callers hand over what is to be shown.

pub mod chart;
pub mod demo;
mod font;
pub mod html;
pub mod preview;
