//! `[env]`: how sub-volumes are drawn, grouped, augmented and rewarded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The environment: how sub-volumes are drawn, grouped, augmented and rewarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnvConfig {
    /// Size of a sub-volume in voxels (x, y, z), in training and in screening. Must suit the strides of Focus.
    /// Range 4 to 512 each. Default `[96, 96, 64]`.
    #[schemars(inner(range(min = 4, max = 512)))]
    pub window: [usize; 3],
    /// Whose rewards are compared with each other. Default `"batch"`.
    pub group: GroupKind,
    /// Scans that one step draws from. Range 1 or more. Default `4`.
    #[schemars(range(min = 1))]
    pub volumes_per_batch: usize,
    /// Sub-volumes drawn from each of them; a step sees `volumes_per_batch` x `crops_per_volume`. Range 1 or more. Default `4`.
    #[schemars(range(min = 1))]
    pub crops_per_volume: usize,
    /// Probability that a crop of a scan with lesions holds one; the others are drawn from the rest of the body. Range 0 to 1. Default `0.5`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub lesion_fraction: f64,
    /// Where in such a crop the lesion lies. Default `"anywhere"`: with `"centre"` a small Focus learns the position instead of the lesion.
    pub lesion_position: LesionPosition,
    /// Draw a lesion first and then one of its voxels, so that small lesions are seen as often as large ones; published: a voxel of all.
    /// Default `false`.
    pub balance_lesions: bool,
    /// How often a lesion-free scan is drawn, relative to one with lesions; 0 leaves them out. The published code used 10, which leaves about
    /// a fifth of the batches without any lesion. Range 0 to 1000. Default `1`.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub lesion_free_weight: f64,
    /// Probability of a flip, for each axis. Range 0 to 1. Default `0.2`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub flip_probability: f64,
    /// Probability of a rotation by 90, 180 or 270 degrees in the axial plane. Range 0 to 1. Default `0.2`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub rotate_probability: f64,
    /// Probability of an intensity shift. Range 0 to 1. Default `0.1`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub intensity_shift_probability: f64,
    /// Largest intensity shift either way, as a share of the window's width. Range 0 to 1. Default `0.1`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub intensity_shift: f64,
    /// What a selected sub-volume earns. Default `"any_overlap"`.
    pub reward: RewardKind,
    /// What the four outcomes earn with `reward = "four_cell"`.
    pub four_cell: FourCellConfig,
    /// With `group = "masks"`: cost of selecting every sub-volume of a scan, in units of lesion recall. Range 0 to 10. Default `0.3`.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub window_cost: f64,
    /// With `group = "masks"`: cost of a false alarm of Focus in every selected sub-volume. Range 0 to 10. Default `0.3`.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub false_alarm_cost: f64,
    /// Batches prepared ahead by background threads; 0 prepares each when it is needed. Results do not depend on it. Range 0 to 64. Default `2`.
    #[schemars(range(min = 0, max = 64))]
    pub workers: usize,
}

impl Default for EnvConfig {
    fn default() -> Self {
        EnvConfig {
            window: [96, 96, 64],
            group: GroupKind::Batch,
            volumes_per_batch: 4,
            crops_per_volume: 4,
            lesion_fraction: 0.5,
            lesion_position: LesionPosition::Anywhere,
            balance_lesions: false,
            lesion_free_weight: 1.0,
            flip_probability: 0.2,
            rotate_probability: 0.2,
            intensity_shift_probability: 0.1,
            intensity_shift: 0.1,
            reward: RewardKind::AnyOverlap,
            four_cell: FourCellConfig::default(),
            window_cost: 0.3,
            false_alarm_cost: 0.3,
            workers: 2,
        }
    }
}

/// Whose rewards are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// All sub-volumes of a step, from several scans (the published code).
    Batch,
    /// The sub-volumes of one scan.
    Volume,
    /// Many sampled selections of one scan, each scored as a set.
    Masks,
}

/// Where in a lesion crop the lesion lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LesionPosition {
    /// The drawn lesion voxel may lie anywhere in the crop.
    Anywhere,
    /// The drawn lesion voxel is the centre, as far as the crop stays inside the scan (the published code).
    Centre,
}

/// What a selected sub-volume earns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// 1 when Focus marks at least one voxel of the lesion, else 0 (the paper).
    AnyOverlap,
    /// The Dice of Focus in the sub-volume; 1 where both are empty.
    Dice,
    /// One value for each outcome, from `[env.four_cell]`.
    FourCell,
}

/// What the four outcomes earn with `reward = "four_cell"`; positive is earned, negative is a cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FourCellConfig {
    /// A lesion is there and Focus marks at least one voxel of it. Range -100 to 100. Default `1`.
    #[schemars(range(min = -100.0, max = 100.0))]
    pub tp: f64,
    /// A lesion is there and Focus misses it. Above 0, so that Glance isn't taught to reject what Focus can't do yet.
    /// Range -100 to 100. Default `0.5`.
    #[schemars(range(min = -100.0, max = 100.0))]
    pub r#fn: f64,
    /// No lesion is there, yet Focus marks something. Range -100 to 100. Default `-0.5`.
    #[schemars(range(min = -100.0, max = 100.0))]
    pub fp: f64,
    /// No lesion is there and Focus marks nothing: only the time is lost. Range -100 to 100. Default `0`.
    #[schemars(range(min = -100.0, max = 100.0))]
    pub tn: f64,
}

impl Default for FourCellConfig {
    fn default() -> Self {
        FourCellConfig { tp: 1.0, r#fn: 0.5, fp: -0.5, tn: 0.0 }
    }
}
