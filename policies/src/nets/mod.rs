//! Networks, one file each. A network is made from its config, the number of input channels and classes, and an [`Init`].

// Shape suffixes such as x_NCDHW.
#![allow(non_snake_case)]

pub mod any;
pub mod checkpoint;
pub mod dyn_unet;
pub mod init;
pub mod layers;
pub mod monai;
pub mod norm;
pub mod projection;
pub mod residual_encoder_unet;
pub mod residual_unet;
pub mod resnet3d;
pub mod swin;
pub mod unet3d;
pub mod unetr;
pub mod vit;

pub use any::{AnyEncoder, AnySegmenter, FeatureMap, SegmenterConfig};
pub use dyn_unet::{DynUnet, DynUnetConfig};
pub use init::Init;
pub use layers::Pooling;
pub use norm::{Mode, NormKind};
pub use residual_encoder_unet::{ResidualEncoderUnet, ResidualEncoderUnetConfig};
pub use residual_unet::{Encoder, ResidualUNet, ResidualUNetConfig};
pub use resnet3d::{ResNet, ResNetConfig};
pub use swin::{PatchMerging, SwinUnetr, SwinUnetrConfig};
pub use unet3d::{Unet3d, Unet3dConfig};
pub use unetr::{Unetr, UnetrConfig};

use std::ops::RangeInclusive;

#[cfg(test)]
pub(crate) mod golden;

/// A network that can't be built as configured: what was found, what is needed, what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// `Err` with this sentence unless `ok`.
fn require(ok: bool, sentence: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if ok { Ok(()) } else { Err(ConfigError(sentence())) }
}

/// Channels of a level. A convolution between levels of the most has 1.8 thousand million weights.
const WIDTHS: RangeInclusive<usize> = 1..=8192;
/// Blocks, or convolutions, of a level.
const BLOCKS: RangeInclusive<usize> = 1..=64;
/// Most levels of a U-Net: sides are then multiples of up to 128 voxels.
const MOST_LEVELS: usize = 8;
/// Longest side of a kernel.
const MOST_KERNEL: usize = 31;

/// Most scores of attention that may exist at once for a sub-volume, 1 GiB.
const MOST_SCORES: usize = 1 << 28;

/// Every one of `values` lies within `range`.
fn require_within(name: &str, values: &[usize], range: RangeInclusive<usize>) -> Result<(), ConfigError> {
    let (least, most) = (range.start(), range.end());
    require(values.iter().all(|value| range.contains(value)), || match values {
        [one] => format!("{name} = {one}; choose at least {least} and at most {most}"),
        _ => format!("{name} = {values:?}; choose at least {least} and at most {most} each"),
    })
}

/// Channels of each level of `a` network, which has `least` levels or more.
fn require_levels(a: &str, widths: &[usize], least: usize) -> Result<(), ConfigError> {
    let levels = widths.len();
    require((least..=MOST_LEVELS).contains(&levels), || {
        format!("widths = {widths:?} has {levels} levels, a {a} has at least {least} and at most {MOST_LEVELS}")
    })?;
    require_within("widths", widths, WIDTHS)
}

/// Sides of kernels in voxels.
fn require_kernels(name: &str, sides: &[usize]) -> Result<(), ConfigError> {
    let unfit = sides.iter().find(|&&side| side % 2 == 0 || side > MOST_KERNEL);
    require(unfit.is_none(), || {
        let side = unfit.copied().unwrap_or_default();
        let what = if side % 2 == 0 { "is even" } else { "is too long" };
        format!("{name}: a side of {side} voxels {what}; choose odd sides, at most {MOST_KERNEL}")
    })
}

/// Attention of `tokens` to `length` tokens each. With heads of a multiple of 8 channels scores exist for a few rows at a time; others hold all of
/// them, several times over in training.
fn require_scores([width, heads]: [usize; 2], tokens: usize, length: usize) -> Result<(), ConfigError> {
    let (per_head, scores) = (width / heads.max(1), tokens.saturating_mul(length).saturating_mul(heads));
    require(per_head.is_multiple_of(8) || scores <= MOST_SCORES, || {
        let gib = scores as f64 / MOST_SCORES as f64;
        format!(
            "{heads} heads of {per_head} channels need {gib:.1} GiB for the attention of {tokens} tokens to {length} each; choose heads of a multiple of 8 \
             channels, which need next to nothing, or fewer tokens"
        )
    })
}

/// Input channels (intensity windows) and classes that a network can have.
fn require_channels(in_channels: usize, classes: usize) -> Result<(), ConfigError> {
    require(in_channels > 0, || "no input channel; give at least one intensity window in windows_hu".to_owned())?;
    require(classes > 1, || format!("{classes} classes; a network tells at least 2 apart"))
}

/// `strides`, or without any 1 for the first of `levels` and 2 for the others.
fn level_strides(strides: &[[usize; 3]], levels: usize) -> Vec<[usize; 3]> {
    if strides.is_empty() { (0..levels).map(|level| [1 + usize::from(level > 0); 3]).collect() } else { strides.to_vec() }
}

/// One stride of 1 or 2 an axis for every level, or none at all.
fn check_strides(strides: &[[usize; 3]], widths: &[usize]) -> Result<(), ConfigError> {
    require(strides.is_empty() || strides.len() == widths.len(), || {
        format!("strides = {strides:?} and widths = {widths:?} differ in length; give one of each for every level, or no strides")
    })?;
    require(strides.iter().flatten().all(|&s| s == 1 || s == 2), || format!("strides = {strides:?}; each is 1 or 2"))
}

/// What each side of a window must be divisible by: the product of the strides.
fn divisor(strides: &[[usize; 3]]) -> [usize; 3] {
    [0, 1, 2].map(|axis| strides.iter().map(|s| s[axis]).product())
}
