//! `[glance]`, `[backbone]`, `[loss]`, `[optim]`: who learns, from what, and how. The parts' own settings are theirs to document.
//
// No `deny_unknown_fields` on structs with `flatten`: serde has no such pair. The schema check refuses unknown keys all the same.

use panscreen_policies::glance::{GlanceConfig as GlanceNetwork, Shared};
use panscreen_policies::losses::DiceCeConfig;
use panscreen_policies::optim::{AdamWConfig, ScheduleConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Glance policy, which decides which sub-volumes deserve a look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GlanceConfig {
    /// How many rewards are compared with each other; must divide what `env.group` puts together. With `"masks"` the group is the
    /// selections of `objective.masks`, and this stays unset. Range 2 or more. Default none: all that `env.group` puts together.
    #[schemars(range(min = 2))]
    pub group_size: Option<usize>,
    /// The network.
    #[serde(flatten)]
    pub network: GlanceNetwork,
}

/// What Glance and Focus have in common.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackboneConfig {
    /// Whether Glance and Focus share their encoder; sharing needs `glance.kind = "encoder"`. Default `"none"`.
    pub shared: Shared,
}

/// The supervised losses: Dice plus cross-entropy for Focus, class-balanced cross-entropy for Glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LossConfig {
    /// Weight of Glance's supervised, class-balanced cross-entropy (alpha of the paper); 0 leaves only the reward. Range 0 or more. Default `0.1`.
    #[schemars(range(min = 0.0))]
    pub alpha: f64,
    /// Weight of the supervision of Glance's cells, with `glance.pooling = "cells"`: which part of the sub-volume holds the lesion. 0 is off,
    /// as published. A small Glance learns from it many times faster than from one answer a sub-volume. Range 0 or more. Default `0`.
    #[schemars(range(min = 0.0))]
    pub cell_weight: f64,
    /// How much more a cell with lesion weighs than one without, in that term. Range 0.01 to 1000. Default `8`.
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub cell_lesion_weight: f64,
    /// The loss of Focus.
    #[serde(flatten)]
    pub dice_ce: DiceCeConfig,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig { alpha: 0.1, cell_weight: 0.0, cell_lesion_weight: 8.0, dice_ce: DiceCeConfig::default() }
    }
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
#[serde(default)]
pub struct OptimizerConfig {
    /// Learning rate after the warm-up. Range 0 to 1. Default `3e-4`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub lr: f64,
    /// Largest global norm of the gradient; 0 never clips, as published. Range 0 or more. Default `1`.
    #[schemars(range(min = 0.0))]
    pub clip_norm: f64,
    #[serde(flatten)]
    pub adamw: AdamWConfig,
    /// How the learning rate goes over the steps of the run.
    pub schedule: ScheduleConfig,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig { lr: 3e-4, clip_norm: 1.0, adamw: AdamWConfig::default(), schedule: ScheduleConfig::default() }
    }
}
