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
