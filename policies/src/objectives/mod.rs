//! Policy objectives of Glance, one file each, on explicit group ids.
//!
//! An objective takes the logits of G sub-volumes (`logits_G2`: discard, select), what the old policy thought of them, and advantages from
//! [`advantages`]; it answers with differentiable terms and the numbers worth logging, under TRL's names.

mod advantage;
mod grl;

pub use advantage::{AdvantageConfig, Advantages, advantages};
pub use grl::{Action, Grl, GrlCompat, GrlConfig, GrlStats, Kl, grl, log_odds};
