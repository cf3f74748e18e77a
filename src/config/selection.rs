//! `[selection]`: learning to select on cached results of a Focus that stays as it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The stage `selection`: Glance learns on whole scans, from what a finished Focus did once in every window of them. What teaches it is
/// `[objective]`; whose rewards are compared is `env.group`, where `"masks"` scores sampled selections of all windows of a scan as sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SelectionConfig {
    /// Training steps of the stage; the schedule of `optim.glance` goes over them. Range 1 or more. Default `500`.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// Steps between validations on whole scans; 0 validates only at the end. Range 0 or more. Default `0`.
    pub validate_every: usize,
    /// Start with fresh weights of Glance instead of those at hand (of `init_from`, or of the stage before). Default `false`.
    pub fresh_glance: bool,
    /// With `env.group = "masks"`: what a selection of windows earns, before `env.window_cost` times the share of the windows and
    /// `env.false_alarm_cost` times each 10 mL that Focus marks falsely in them. Default `"recall"`.
    pub reward: SetScore,
    /// With `env.group = "masks"`: the most windows a selection may have on average, as a share; a price a window that finds itself takes the place of
    /// `env.window_cost`. Range 0.001 to 1. Default none.
    #[schemars(range(min = 0.001, max = 1.0))]
    pub most_windows: Option<f64>,
    /// With `env.group = "masks"`: the least recall in every size class of lesions (below 1 mL, to 10 mL, above); the fewest windows that
    /// keep it are learnt, at a price of missing that finds itself. Range 0.01 to 1. Default none.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub least_recall: Option<f64>,
    /// How fast those prices move: change a step for each unit that the constraint is missed by. Range 0.0001 to 10. Default `0.05`.
    #[schemars(range(min = 0.0001, max = 10.0))]
    pub dual_rate: f64,
}

impl Default for SelectionConfig {
    fn default() -> Self {
        SelectionConfig {
            steps: 500,
            validate_every: 0,
            fresh_glance: false,
            reward: SetScore::Recall,
            most_windows: None,
            least_recall: None,
            dual_rate: 0.05,
        }
    }
}

/// What a selection of windows is scored by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SetScore {
    /// Share of the lesions that Focus marks in a selected window.
    Recall,
    /// Dice of the blended mask of the selected windows.
    Dice,
    /// Mean of Dice and NSD of that mask after the FLARE rule; a hundred times slower than recall.
    Flare,
}
