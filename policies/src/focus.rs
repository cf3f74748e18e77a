//! Focus: the segmenter that marks lesions in a sub-volume.
//!
//! Shapes: `x_GCDHW` (G sub-volumes, C intensity windows), `logits_GKDHW` (K classes, 0 is background).

use burn::tensor::backend::Backend;

use crate::nets::{AnySegmenter, ConfigError, Init, SegmenterConfig};

/// The network of Focus, by `kind`.
pub type FocusConfig = SegmenterConfig;

/// Focus: any segmenter.
pub type Focus<B> = AnySegmenter<B>;

impl FocusConfig {
    /// Focus with its first weights, drawn from `seed`.
    pub fn init<B: Backend>(&self, in_channels: usize, classes: usize, seed: u64, device: &B::Device) -> Result<Focus<B>, ConfigError> {
        self.build(in_channels, classes, &Init::new(seed, "focus", device))
    }
}
