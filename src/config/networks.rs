//! `[glance]` and `[focus]`: the two networks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Glance policy.
// No `deny_unknown_fields` here: serde has none together with `flatten`. The schema check refuses unknown keys all the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GlanceConfig {
    /// How many rewards are compared with each other; must divide what `env.group` puts together (with `"masks"` it is the number of
    /// selections sampled for each scan). Range 2 or more. Default none: all of them (16 selections with `"masks"`).
    #[schemars(range(min = 2))]
    pub group_size: Option<usize>,
    #[serde(flatten)]
    pub network: GlanceNetwork,
}

/// A 3D ResNet that gives each sub-volume one logit pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GlanceNetwork {
    /// Kind of network. Default `"resnet3d"`.
    pub net: GlanceNet,
    /// Channels of each stage; their number is the number of stages, each but the first halves the grid. Range 1 to 4096 each.
    /// Default `[32, 64, 128, 256]`.
    #[schemars(length(min = 1, max = 8), inner(range(min = 1, max = 4096)))]
    pub widths: Vec<usize>,
    /// Residual blocks of each stage; ResNet-10 is 1, ResNet-18 is 2 in each. Range 1 to 64 each. Default `[1, 1, 1, 1]`.
    #[schemars(length(min = 1, max = 8), inner(range(min = 1, max = 64)))]
    pub blocks: Vec<usize>,
    /// Edge of the stem's convolution in voxels, odd. Range 1 to 15. Default `7`.
    #[schemars(range(min = 1, max = 15))]
    pub stem_kernel: usize,
    /// Stride of the stem. The published 1 spends 65 % of Glance there; 2 costs about an eighth. Range 1 to 4. Default `2`.
    #[schemars(range(min = 1, max = 4))]
    pub stem_stride: usize,
    /// A 3 x 3 x 3 max-pool of stride 2 after the stem. Default `true`.
    pub stem_pool: bool,
    /// How the last map becomes one vector. Default `"max"`.
    pub pooling: Pooling,
    /// What the skip path does where size or width changes. Default `"projection"`.
    pub shortcut: Shortcut,
    /// Cut the gradient in the skip path where size or width changes, as the published shortcut does. Default `false`.
    pub shortcut_detached: bool,
    /// Normalisation. Default `"group"`: the same in training and in the old policy, whatever the batch.
    pub norm: Norm,
    /// Groups of `norm = "group"`; must divide every width. Range 1 to 256. Default `8`.
    #[schemars(range(min = 1, max = 256))]
    pub groups: usize,
}

impl Default for GlanceNetwork {
    fn default() -> Self {
        GlanceNetwork {
            net: GlanceNet::Resnet3d,
            widths: vec![32, 64, 128, 256],
            blocks: vec![1, 1, 1, 1],
            stem_kernel: 7,
            stem_stride: 2,
            stem_pool: true,
            pooling: Pooling::Max,
            shortcut: Shortcut::Projection,
            shortcut_detached: false,
            norm: Norm::Group,
            groups: 8,
        }
    }
}

/// Networks that can glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GlanceNet {
    /// 3D ResNet of basic blocks.
    Resnet3d,
}

/// How the last map becomes one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The strongest voxel of each channel (the published code).
    Max,
    /// The mean over the voxels of each channel.
    Average,
}

/// What a residual block's skip path does where size or width changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// 1 x 1 x 1 convolution (type B).
    Projection,
    /// Every second voxel, new channels are zero (type A, the published code).
    Pad,
}

/// Normalisation layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Over groups of channels of one sample.
    Group,
    /// Over each channel of one sample.
    Instance,
    /// Over each channel of the batch (the published Glance); training and evaluation differ.
    Batch,
}

/// The Focus network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FocusConfig {
    /// Kind of network. Default `"residual_unet"`.
    pub net: FocusNet,
    /// Channels of each level, from the finest. Range 1 to 4096 each. Default `[32, 64, 128, 256, 320]`.
    #[schemars(length(min = 1, max = 8), inner(range(min = 1, max = 4096)))]
    pub widths: Vec<usize>,
    /// Residual blocks of each level of the encoder. Range 1 to 64 each. Default `[1, 1, 1, 1, 1]`.
    #[schemars(length(min = 1, max = 8), inner(range(min = 1, max = 64)))]
    pub blocks: Vec<usize>,
    /// Stride into each level, for each axis (x, y, z); the first is usually `[1, 1, 1]`. Range 1 to 4 each.
    /// Default `[[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]`.
    #[schemars(length(min = 1, max = 8), inner(inner(range(min = 1, max = 4))))]
    pub strides: Vec<[usize; 3]>,
    /// Normalisation. Default `"instance"`.
    pub norm: Norm,
    /// Groups of `norm = "group"`; must divide every width. Range 1 to 256. Default `8`.
    #[schemars(range(min = 1, max = 256))]
    pub groups: usize,
}

impl Default for FocusConfig {
    fn default() -> Self {
        FocusConfig {
            net: FocusNet::ResidualUnet,
            widths: vec![32, 64, 128, 256, 320],
            blocks: vec![1, 1, 1, 1, 1],
            strides: vec![[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
            norm: Norm::Instance,
            groups: 8,
        }
    }
}

/// Networks that can focus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FocusNet {
    /// Residual 3D U-Net.
    ResidualUnet,
}
