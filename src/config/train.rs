//! `[train]`: length, validation, checkpoints; and `[compat]`: oddities of the published code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Length of the training, validation, checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Training steps. Range 1 or more. Default `20000`.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// Steps that make an epoch: only a unit for random streams, logs and `objective.refresh_steps = 0`. Range 1 or more. Default `250`.
    #[schemars(range(min = 1))]
    pub steps_per_epoch: usize,
    /// Steps between validations on whole scans; 0 validates only at the end. Range 0 or more. Default `1000`.
    pub validate_every: usize,
    /// Steps between checkpoints; 0 saves only at the end and when stopped. Range 0 or more. Default `500`.
    pub checkpoint_every: usize,
    /// Checkpoints kept, the oldest go first; the best one stays besides. Range 1 or more. Default `2`.
    #[schemars(range(min = 1))]
    pub keep_checkpoints: usize,
    /// The validation figure that makes a checkpoint the best one; higher is better. Default `"lesion_dice"`.
    pub best_metric: BestMetric,
    /// Validations in a row without a better figure that end the training; 0 never does. Range 0 or more. Default `0`.
    pub patience: usize,
    /// Steps between lines in `metrics.jsonl` and TensorBoard. Range 1 or more. Default `1`.
    #[schemars(range(min = 1))]
    pub log_every: usize,
    /// Parts that a step's sub-volumes are cut into; they go through the networks side by side, which keeps as many cores busy when the networks
    /// are small. Results depend on it in the last bits (the order of sums), never on the number of cores; batch norm sees one part at a
    /// time. Range 1 to 64. Default `1`.
    #[schemars(range(min = 1, max = 64))]
    pub shards: usize,
    /// Leave Focus as it is and train Glance alone: no gradient goes through Focus, which makes a step about half as long. Meant for a trained
    /// Focus (`init_focus_from`). Default `false`.
    pub freeze_focus: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            steps: 20_000,
            steps_per_epoch: 250,
            validate_every: 1000,
            checkpoint_every: 500,
            keep_checkpoints: 2,
            best_metric: BestMetric::LesionDice,
            patience: 0,
            log_every: 1,
            shards: 1,
            freeze_focus: false,
        }
    }
}

/// Validation figures that can choose the best checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BestMetric {
    /// Mean Dice over scans with lesions.
    LesionDice,
    /// Share of the lesions that were found.
    LesionRecall,
    /// Harmonic mean of lesion recall and precision.
    LesionF1,
}

impl BestMetric {
    /// As written in a config.
    pub fn name(self) -> &'static str {
        match self {
            BestMetric::LesionDice => "lesion_dice",
            BestMetric::LesionRecall => "lesion_recall",
            BestMetric::LesionF1 => "lesion_f1",
        }
    }
}

/// Oddities of the published code, all off; only `configs/parity` turns them on. Those of the objective are in `[objective.compat]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompatConfig {
    /// Advance the learning-rate schedule once more at the end of each epoch, so that the last steps run past its end. Default `false`.
    pub extra_schedule_step: bool,
    /// Run the current Glance with batch statistics and the old one with running statistics: their ratio then differs from 1 even with
    /// equal weights. Matters only with `glance.norm = "batch"`. Default `false`.
    pub glance_train_mode_norm: bool,
}
