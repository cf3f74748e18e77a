//! `[screen]`: screening of whole scans.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Screening of whole scans, in validation and afterwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScreenConfig {
    /// Share of its edge that a window has in common with the next, for each axis. More is slower and smoother. Range 0 to 0.95. Default `0.5`.
    #[schemars(range(min = 0.0, max = 0.95))]
    pub overlap: f64,
    /// Weight of a voxel by its place in the window. Default `"gaussian"`.
    pub blend: Blend,
    /// Which windows a voxel's sum is divided by. Default `"covering"`.
    pub denominator: Denominator,
    /// Power of Glance's probability by which a window's vote is multiplied; 0 lets every kept window vote in full. Range 0 to 10. Default `0`.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub glance_weight: f64,
    /// Glance's operating point: `"validation"` chooses it for `screen.recall` on the validation scans; a number fixes it (the published code
    /// had 0.9). Range 0 to 1. Default `"validation"`.
    pub threshold: Threshold,
    /// Share of the lesions found by Focus everywhere that must still be found on the validation scans. Range 0.01 to 1. Default `0.98`.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub recall: f64,
    /// With `threshold = "validation"`: the most windows, as a share, that the operating point may keep, even where the wanted recall would need
    /// more (a lesion that Glance can't see at all would otherwise cost every window). Range 0.01 to 1. Default `1`.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub most_windows: f64,
    /// Which windows Focus sees. Default `"glance"`.
    pub select: Select,
    /// Keep this share of each scan's windows, the most probable first, instead of a threshold. Range 0 to 1. Default none: the threshold decides.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub keep_fraction: Option<f64>,
    /// How windows are chosen from Glance's probabilities. Default none: `"threshold"` on the windows of the grid, `"greedy_apart"` where a
    /// whole-scan Glance lets windows lie anywhere.
    pub decode: Option<Decoder>,
    /// With `decode = "soft_apart"`: each chosen window multiplies the probability of another by `(1 - share)^soft_decay`, the share of its volume that
    /// they have in common. 0 is `"threshold"`; the more, the more windows keep apart, as with `"greedy_apart"`. Range 0 to 100. Default `1`.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub soft_decay: f64,
    /// Recall that the operating point must guarantee on scans like the validation scans, as a mean over scans with lesions, of what Focus everywhere
    /// finds: conformal risk control takes the place of the threshold, and refuses where there are too few validation scans. Range 0.01 to
    /// 0.9999. Default none.
    #[schemars(range(min = 0.01, max = 0.9999))]
    pub guaranteed_recall: Option<f64>,
    /// Most windows that Focus sees of a scan, second looks included; the most promising come first, and the record says what was left.
    /// Range 1 or more. Default none.
    #[schemars(range(min = 1))]
    pub budget_windows: Option<usize>,
    /// Seconds after which Focus looks no further, counted from the first byte read; what is found then still has to be brought back to the scan's
    /// grid. Results then depend on the machine. Range 0.001 or more. Default none.
    #[schemars(range(min = 0.001))]
    pub budget_seconds: Option<f64>,
    /// Drop findings that look like false alarms: a gate on their size, shape, contrast, confidence and place, taught on the validation scans'
    /// findings. Default `false`.
    pub gate: bool,
    /// Found lesions smaller than this are dropped, in mL. Range 0 or more. Default `0`.
    #[schemars(range(min = 0.0))]
    pub min_component_ml: f64,
    /// Blended lesion probability from which a voxel is lesion. Range 0 to 1. Default `0.5`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub mask_threshold: f64,
    /// Look again, through every window that holds the centre of a finding, before it counts: a false alarm of one window is then outvoted
    /// by its neighbours as it is when Focus looks everywhere. The windows looked at again count as kept. Default `true`; published `false`.
    pub second_look: bool,
    /// Sizes of Focus's windows, in windows. A finding that is longer than a window is looked at again through windows of the next size that holds it,
    /// at voxels as many times as long, and both votes are blended; `[1, 2]` does so at half resolution. Range 1 to 4 each, 1 among them.
    /// Default `[1]`: one size.
    #[schemars(inner(range(min = 1, max = 4)))]
    pub scales: Vec<usize>,
    /// What is brought back to the scan's own grid. Default `"probability"`.
    pub restore: Restore,
    /// Windows that go through a network at once: memory against speed. Range 1 to 4096. Default `4`.
    #[schemars(range(min = 1, max = 4096))]
    pub batch: usize,
}

impl Default for ScreenConfig {
    fn default() -> Self {
        ScreenConfig {
            overlap: 0.5,
            blend: Blend::Gaussian,
            denominator: Denominator::Covering,
            glance_weight: 0.0,
            threshold: Threshold::default(),
            recall: 0.98,
            most_windows: 1.0,
            select: Select::Glance,
            keep_fraction: None,
            decode: None,
            soft_decay: 1.0,
            guaranteed_recall: None,
            budget_windows: None,
            budget_seconds: None,
            gate: false,
            min_component_ml: 0.0,
            mask_threshold: 0.5,
            second_look: true,
            scales: vec![1],
            restore: Restore::Probability,
            batch: 4,
        }
    }
}

/// Weight of a voxel by its place in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Blend {
    /// Most in the middle, little at the border.
    Gaussian,
    /// The same everywhere (the published code).
    Flat,
}

/// What is brought back to the scan's own grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Restore {
    /// The lesion probability, interpolated linearly and then compared with the threshold: smooth outlines on fine grids.
    Probability,
    /// The mask, by the nearest voxel (the published code).
    Mask,
}

/// Which windows a voxel's sum is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Denominator {
    /// The kept windows over the voxel (the published code); a single window can then mark a lesion.
    Kept,
    /// All windows over the voxel: a rejected window votes for background.
    Covering,
}

/// How windows are chosen from Glance's probabilities, the most promising first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decoder {
    /// Every window above the threshold (the published code).
    Threshold,
    /// Best first, none that overlaps a chosen one (of a whole-scan Glance: by more than 0.3 of its volume).
    GreedyApart,
    /// The window that covers most of the probability not covered yet; the threshold is the share that may stay uncovered.
    CoverMass,
    /// Best first, each chosen one lowers the probability of those that overlap it, the more they have in common (soft non-maximum suppression).
    SoftApart,
}

/// Which windows Focus sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// Those that Glance keeps.
    Glance,
    /// All: Focus everywhere.
    All,
}

/// Glance's operating point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Threshold {
    Word(ThresholdWord),
    /// This probability.
    Fixed(#[schemars(range(min = 0.0, max = 1.0))] f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdWord {
    /// Chosen on the validation scans for `screen.recall`.
    Validation,
}

impl Default for Threshold {
    fn default() -> Self {
        Threshold::Word(ThresholdWord::Validation)
    }
}
