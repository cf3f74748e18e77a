//! `[objective]`: what teaches Glance from rewards or labels. Each objective's own settings are its to document.
//
// No `deny_unknown_fields` beside `flatten`: serde has no such pair. The schema check refuses unknown keys all the same.

use panscreen_policies::objectives::ObjectiveKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The objective that teaches Glance from rewards or labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ObjectiveConfig {
    /// Weight of the objective in the total loss (with `name = "grl"` of its clipped term); 1 as published, 0 leaves Glance to its supervised
    /// losses. Range 0 or more. Default `1`.
    #[schemars(range(min = 0.0))]
    pub weight: f64,
    /// Steps after which the old policy becomes the current one; 0 is once per epoch (`train.steps_per_epoch`), as published, which leaves
    /// most updates clipped. Objectives with a ratio draw their actions from the old policy; those without have none. Range 0 or more. Default `10`.
    pub refresh_steps: usize,
    /// With `env.group = "masks"`: selections sampled of every observation. Range 2 to 256. Default `8`.
    #[schemars(range(min = 2, max = 256))]
    pub masks: usize,
    /// The objective, by name, and its settings. Actions are sampled with `env.group = "masks"` only; in the other groups each sub-volume is an
    /// action "select" with a reward of its own, as published.
    #[serde(flatten)]
    pub kind: ObjectiveKind,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        ObjectiveConfig { weight: 1.0, refresh_steps: 10, masks: 8, kind: ObjectiveKind::default() }
    }
}
