//! Networks, one file each. A network is made from its config, the number of input channels and classes, and an [`Init`].

// Shape suffixes such as x_NCDHW.
#![allow(non_snake_case)]

pub mod init;
pub mod layers;
pub mod norm;
pub mod residual_unet;
pub mod resnet3d;

pub use init::Init;
pub use layers::Pooling;
pub use norm::{Mode, NormKind};
pub use residual_unet::{Encoder, ResidualUNet, ResidualUNetConfig};
pub use resnet3d::{ResNet, ResNetConfig};

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
