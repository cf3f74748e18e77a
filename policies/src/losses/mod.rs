//! Supervised losses: Dice + cross-entropy for Focus, class-balanced cross-entropy for Glance.

mod balanced_ce;
mod dice_ce;
mod dice_ce_fused;

pub use balanced_ce::balanced_ce;
pub use dice_ce::{DiceCe, DiceCeConfig, EmptyCrops, argmax_masks, dice_ce, dice_terms};
pub use dice_ce_fused::DiceCeBackend;
