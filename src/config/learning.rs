//! `[backbone]`, `[loss]`, `[objective]`, `[optim]`: what is learnt from, and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What Glance and Focus have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackboneConfig {
    /// Whether Glance and Focus share their encoder. Default `"none"`.
    pub shared: SharedBackbone,
}

impl Default for BackboneConfig {
    fn default() -> Self {
        BackboneConfig { shared: SharedBackbone::None }
    }
}

/// Whether Glance and Focus share their encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SharedBackbone {
    /// Two networks (the published code).
    None,
    /// Both start from the same encoder weights, then go their own way.
    Init,
    /// One encoder with two heads, for as long as the run lasts.
    Tied,
}

/// The supervised losses: Dice plus cross-entropy for Focus, class-balanced cross-entropy for Glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Weight of Glance's supervised, class-balanced cross-entropy (alpha of the paper); 0 leaves only the reward. Range 0 or more. Default `0.1`.
    #[schemars(range(min = 0.0))]
    pub alpha: f64,
    /// Weight of Focus's soft Dice. Range 0 or more. Default `1`.
    #[schemars(range(min = 0.0))]
    pub dice_weight: f64,
    /// Weight of Focus's voxel cross-entropy. Range 0 or more. Default `1`.
    #[schemars(range(min = 0.0))]
    pub ce_weight: f64,
    /// Weight of a lesion voxel in the cross-entropy, against 1 for background. Above 1 helps early and hurts later. Range 0 or more. Default `1`.
    #[schemars(range(min = 0.0))]
    pub lesion_weight: f64,
    /// Added to numerator and denominator of the soft Dice, in voxels. Range 0 or more. Default `1e-5`.
    #[schemars(range(min = 0.0))]
    pub smoothing: f64,
    /// Count background as a class of its own in the Dice. Default `true`.
    pub include_background: bool,
    /// Take the Dice over the whole batch rather than for each sub-volume: lesion-free sub-volumes then teach too. Default `false`.
    pub batch_dice: bool,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig {
            alpha: 0.1,
            dice_weight: 1.0,
            ce_weight: 1.0,
            lesion_weight: 1.0,
            smoothing: 1e-5,
            include_background: true,
            batch_dice: false,
        }
    }
}

/// The group-relative objective that teaches Glance from rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveConfig {
    /// Which objective. Default `"grl"`.
    pub name: ObjectiveKind,
    /// How far the ratio to the old policy may move before its gradient is cut: it is clipped to 1 - epsilon .. 1 + epsilon.
    /// Range 0 to 1. Default `0.1`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub epsilon: f64,
    /// Weight of the KL term towards the old policy; it keeps Glance from rejecting too much. Range 0 or more. Default `0.01`.
    #[schemars(range(min = 0.0))]
    pub beta: f64,
    /// Smallest standard deviation that advantages are divided by; a group of equal rewards then has advantage 0. Range 1e-6 to 1. Default `0.01`.
    #[schemars(range(min = 1e-6, max = 1.0))]
    pub advantage_std_floor: f64,
    /// Advantages are cut to this size either way; no group of 16 or less reaches 5. Range 0.1 or more. Default `5`.
    #[schemars(range(min = 0.1))]
    pub advantage_clamp: f64,
    /// Steps after which the old policy becomes the current one; 0 is once per epoch (`train.steps_per_epoch`), as published, which leaves
    /// most updates clipped. Range 0 or more. Default `10`.
    pub refresh_steps: usize,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        ObjectiveConfig {
            name: ObjectiveKind::Grl,
            epsilon: 0.1,
            beta: 0.01,
            advantage_std_floor: 0.01,
            advantage_clamp: 5.0,
            refresh_steps: 10,
        }
    }
}

/// Objectives for Glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveKind {
    /// Clipped group-relative objective with KL (GF-Screen).
    Grl,
}

/// The optimisers, one for each network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// The optimiser of Glance.
    pub glance: OptimizerConfig,
    /// The optimiser of Focus.
    pub focus: OptimizerConfig,
}

/// AdamW, its schedule and the clipping of its gradient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Learning rate after the warm-up. Range 0 to 1. Default `3e-4`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub lr: f64,
    /// Decoupled weight decay. Range 0 to 1. Default `1e-5`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub weight_decay: f64,
    /// How the learning rate goes on after the warm-up. Default `"cosine"`.
    pub schedule: Schedule,
    /// Steps over which the learning rate rises linearly from 0. Range 0 or more. Default `100`.
    pub warmup_steps: usize,
    /// Largest global norm of the gradient; 0 never clips. Range 0 or more. Default `1`.
    #[schemars(range(min = 0.0))]
    pub clip_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig { lr: 3e-4, weight_decay: 1e-5, schedule: Schedule::Cosine, warmup_steps: 100, clip_norm: 1.0 }
    }
}

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine down to 0 at `train.steps`.
    Cosine,
    /// Stays where it is.
    Constant,
    /// (1 - progress) to the power 0.9 (nnU-Net).
    Poly,
}
