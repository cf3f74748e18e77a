//! The networks that a config can choose, behind one enum a role: Burn's modules can't be trait objects.
//!
//! A segmenter is an encoder and a way up; the encoder can serve another policy or be pretrained by itself. Its maps have names, so that
//! whoever takes one says which.
//!
//! Shapes: `x_NCDHW`, `logits_NKDHW`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Direct, Runner};
use super::dyn_unet::DynEncoder;
use super::residual_encoder_unet::ResidualEncoder;
use super::swin::SwinEncoder;
use super::unet3d::PlainEncoder;
use super::unetr::UnetrEncoder;
use super::{
    ConfigError, DynUnet, DynUnetConfig, Encoder, Init, Mode, ResidualEncoderUnet, ResidualEncoderUnetConfig, ResidualUNet,
    ResidualUNetConfig, SwinUnetr, SwinUnetrConfig, Unet3d, Unet3dConfig, Unetr, UnetrConfig, require,
};
use crate::kernels::KernelBackend;
use crate::precision::wide;
use crate::weights::layout::Layout;

/// A segmenter, by `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SegmenterConfig {
    /// A residual 3D U-Net, small by default.
    ResidualUnet(ResidualUNetConfig),
    /// MONAI's SwinUNETR (the published system).
    SwinUnetr(SwinUnetrConfig),
    /// nnU-Net's residual-encoder U-Net.
    ResidualEncoderUnet(ResidualEncoderUnetConfig),
    /// MONAI's DynUNet with residual blocks.
    DynUnet(DynUnetConfig),
    /// The plain 3D U-Net of FreeTumor and SuPreM.
    Unet3d(Unet3dConfig),
    /// UNETR: a vision transformer, whose hidden states become maps of every scale.
    Unetr(UnetrConfig),
}

impl Default for SegmenterConfig {
    fn default() -> Self {
        SegmenterConfig::ResidualUnet(ResidualUNetConfig::default())
    }
}

/// One of an encoder's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureMap {
    /// `stride4`, or `stride4x4x2` where axes differ.
    pub name: String,
    /// Voxels of the input that one of its voxels stands for, per axis.
    pub stride: [usize; 3],
    /// Channels.
    pub width: usize,
}

impl SegmenterConfig {
    /// Refuse what can't be built, and windows that the network can't put together again on its way up.
    pub fn check(&self, window: [usize; 3]) -> Result<(), ConfigError> {
        match self {
            Self::ResidualUnet(config) => config.check(),
            Self::SwinUnetr(config) => config.check(),
            Self::ResidualEncoderUnet(config) => config.check(),
            Self::DynUnet(config) => config.check(),
            Self::Unet3d(config) => config.check(),
            Self::Unetr(config) => config.check().and_then(|()| config.check_window(window)),
        }?;
        let divisor = self.divisor();
        let nearest = [0, 1, 2].map(|a| window[a].next_multiple_of(divisor[a]).max(divisor[a]));
        require(nearest == window, || {
            format!("a window of {window:?} voxels is not divisible by the network's strides {divisor:?}; choose for example {nearest:?}")
        })?;
        // PyTorch refuses that too, in the forward pass.
        require(window != divisor || !self.norms_single_channels(), || {
            let [d, h, w] = divisor;
            format!(
                "a window of {window:?} voxels is a single voxel of the coarsest map, and a norm of one value is 0: nothing there could learn; choose for \
                 example {:?}, or fewer levels",
                [2 * d, h, w]
            )
        })?;
        match self {
            Self::SwinUnetr(config) => config.check_attention(window),
            Self::Unetr(config) => config.check_attention(window),
            _ => Ok(()),
        }
    }

    /// Whether the coarsest map is normalised with each channel of a sub-volume by itself.
    fn norms_single_channels(&self) -> bool {
        match self {
            Self::ResidualUnet(config) => config.norms_single_channels(),
            // The last also over the batch, which may be one sub-volume.
            Self::SwinUnetr(_) | Self::ResidualEncoderUnet(_) | Self::DynUnet(_) | Self::Unet3d(_) => true,
            // Its coarsest map is the transformer's, with layer norms.
            Self::Unetr(_) => false,
        }
    }

    /// What each side of a window must be divisible by.
    pub fn divisor(&self) -> [usize; 3] {
        match self {
            Self::ResidualUnet(config) => config.divisor(),
            Self::SwinUnetr(config) => config.divisor(),
            Self::ResidualEncoderUnet(config) => config.divisor(),
            Self::DynUnet(config) => config.divisor(),
            Self::Unet3d(config) => config.divisor(),
            Self::Unetr(config) => config.divisor(),
        }
    }

    /// What the encoder gives, finest first.
    pub fn feature_maps(&self) -> Vec<FeatureMap> {
        let (widths, strides) = match self {
            Self::ResidualUnet(config) => (config.widths.clone(), config.level_strides()),
            Self::SwinUnetr(config) => (config.widths(), super::level_strides(&[], 6)),
            Self::ResidualEncoderUnet(config) => (config.widths.clone(), config.level_strides()),
            Self::DynUnet(config) => (config.widths.clone(), config.level_strides()),
            Self::Unet3d(config) => (config.widths(), super::level_strides(&[], config.levels)),
            Self::Unetr(config) => (config.widths(), super::level_strides(&[], config.widths().len())),
        };
        let mut stride = [1; 3];
        let map = |(width, step): (usize, [usize; 3])| {
            stride = [0, 1, 2].map(|a| stride[a] * step[a]);
            let [d, h, w] = stride;
            let name = if d == h && h == w { format!("stride{d}") } else { format!("stride{d}x{h}x{w}") };
            FeatureMap { name, stride, width }
        };
        widths.into_iter().zip(strides).map(map).collect()
    }

    /// Channels of the coarsest map.
    pub fn encoder_width(&self) -> usize {
        self.feature_maps().last().map_or(0, |map| map.width)
    }

    /// The names that weights of this network have in published files.
    pub fn layout(&self) -> Layout {
        match self {
            Self::ResidualUnet(_) => Layout::Own,
            Self::SwinUnetr(_) => Layout::SwinUnetr,
            Self::ResidualEncoderUnet(_) => Layout::NnUnet,
            Self::DynUnet(_) => Layout::DynUnet,
            Self::Unet3d(_) => Layout::Unet3d,
            Self::Unetr(_) => Layout::Unetr,
        }
    }

    /// The segmenter with its first weights.
    pub fn build<B: Backend>(&self, in_channels: usize, classes: usize, init: &Init<B>) -> Result<AnySegmenter<B>, ConfigError> {
        Ok(match self {
            Self::ResidualUnet(config) => AnySegmenter::ResidualUnet(config.init(in_channels, classes, init)?),
            Self::SwinUnetr(config) => AnySegmenter::SwinUnetr(config.init(in_channels, classes, init)?),
            Self::ResidualEncoderUnet(config) => AnySegmenter::ResidualEncoderUnet(config.init(in_channels, classes, init)?),
            Self::DynUnet(config) => AnySegmenter::DynUnet(config.init(in_channels, classes, init)?),
            Self::Unet3d(config) => AnySegmenter::Unet3d(config.init(in_channels, classes, init)?),
            Self::Unetr(config) => AnySegmenter::Unetr(config.init(in_channels, classes, init)?),
        })
    }

    /// An encoder like this network's.
    pub fn build_encoder<B: Backend>(&self, in_channels: usize, init: &Init<B>) -> Result<AnyEncoder<B>, ConfigError> {
        Ok(match self {
            Self::ResidualUnet(config) => AnyEncoder::ResidualUnet(config.init_encoder(in_channels, init)?),
            Self::SwinUnetr(config) => AnyEncoder::SwinUnetr(config.init_encoder(in_channels, init)?),
            Self::ResidualEncoderUnet(config) => AnyEncoder::ResidualEncoderUnet(config.init_encoder(in_channels, init)?),
            Self::DynUnet(config) => AnyEncoder::DynUnet(config.init_encoder(in_channels, init)?),
            Self::Unet3d(config) => AnyEncoder::Unet3d(config.init_encoder(in_channels, init)?),
            Self::Unetr(config) => AnyEncoder::Unetr(config.init_encoder(in_channels, init)?),
        })
    }
}

/// An encoder, one variant a network.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One or two of them live at a time.
pub enum AnyEncoder<B: Backend> {
    ResidualUnet(Encoder<B>),
    SwinUnetr(SwinEncoder<B>),
    ResidualEncoderUnet(ResidualEncoder<B>),
    DynUnet(DynEncoder<B>),
    Unet3d(PlainEncoder<B>),
    Unetr(UnetrEncoder<B>),
}

impl<B: KernelBackend> AnyEncoder<B> {
    /// `x_NCDHW` -> the maps of [`SegmenterConfig::feature_maps`], finest first.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> Vec<Tensor<B, 5>> {
        match self {
            Self::ResidualUnet(net) => net.forward(x_NCDHW, mode),
            Self::SwinUnetr(net) => net.forward(x_NCDHW, &mut Direct),
            Self::ResidualEncoderUnet(net) => net.forward(x_NCDHW),
            Self::DynUnet(net) => net.forward(x_NCDHW),
            Self::Unet3d(net) => net.forward(x_NCDHW),
            Self::Unetr(net) => net.forward(x_NCDHW),
        }
    }
}

/// A segmenter, one variant a network.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One or two of them live at a time.
pub enum AnySegmenter<B: Backend> {
    ResidualUnet(ResidualUNet<B>),
    SwinUnetr(SwinUnetr<B>),
    ResidualEncoderUnet(ResidualEncoderUnet<B>),
    DynUnet(DynUnet<B>),
    Unet3d(Unet3d<B>),
    Unetr(Unetr<B>),
}

impl<B: Backend> AnySegmenter<B> {
    /// Whether training should run it on a [`super::checkpoint::Tape`]. The other networks have no parts to recompute.
    pub fn wants_checkpointing(&self) -> bool {
        matches!(self, Self::SwinUnetr(net) if net.checkpointing)
    }
}

impl<B: KernelBackend> AnySegmenter<B> {
    /// `x_NCDHW` -> `logits_NKDHW`.
    pub fn forward(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        self.decode(self.features(x_NCDHW, mode), mode)
    }

    /// The encoder's maps, finest first.
    pub fn features(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> Vec<Tensor<B, 5>> {
        self.features_with(x_NCDHW, mode, &mut Direct)
    }

    /// From [`AnySegmenter::features`] to `logits_NKDHW`, which are wide (see [`crate::precision`]). One pass through the encoder can so serve two policies.
    pub fn decode(&self, features: Vec<Tensor<B, 5>>, mode: Mode) -> Tensor<B, 5> {
        self.decode_with(features, mode, &mut Direct)
    }

    /// As [`AnySegmenter::features`], the parts run by `run`.
    pub fn features_with(&self, x_NCDHW: Tensor<B, 5>, mode: Mode, run: &mut impl Runner<B>) -> Vec<Tensor<B, 5>> {
        match self {
            Self::ResidualUnet(net) => net.encoder.forward(x_NCDHW, mode),
            Self::SwinUnetr(net) => net.encoder.forward(x_NCDHW, run),
            Self::ResidualEncoderUnet(net) => net.encoder.forward(x_NCDHW),
            Self::DynUnet(net) => net.encoder.forward(x_NCDHW),
            Self::Unet3d(net) => net.encoder.forward(x_NCDHW),
            Self::Unetr(net) => net.encoder.forward(x_NCDHW),
        }
    }

    /// As [`AnySegmenter::decode`], the parts run by `run`.
    pub fn decode_with(&self, features: Vec<Tensor<B, 5>>, mode: Mode, run: &mut impl Runner<B>) -> Tensor<B, 5> {
        wide(match self {
            Self::ResidualUnet(net) => net.decode(features, mode),
            Self::SwinUnetr(net) => net.decode(features, run),
            Self::ResidualEncoderUnet(net) => net.decode(features),
            Self::DynUnet(net) => net.decode(features),
            Self::Unet3d(net) => net.decode(features),
            Self::Unetr(net) => net.decode(features),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::{NormKind, vit::VitConfig};
    use super::*;
    use crate::weights;
    use burn::backend::Flex;
    use burn::backend::flex::FlexDevice;

    /// Each kind, as small as it goes.
    pub fn each_kind() -> Vec<SegmenterConfig> {
        vec![
            SegmenterConfig::ResidualUnet(ResidualUNetConfig {
                widths: vec![4, 8],
                blocks: vec![1, 1],
                strides: vec![[1, 1, 1], [2, 2, 1]],
                ..ResidualUNetConfig::default()
            }),
            SegmenterConfig::SwinUnetr(SwinUnetrConfig {
                feature_size: 2,
                depths: [1; 4],
                heads: [1; 4],
                window: 2,
                ..SwinUnetrConfig::default()
            }),
            SegmenterConfig::ResidualEncoderUnet(ResidualEncoderUnetConfig {
                widths: vec![2, 3],
                blocks: vec![1, 1],
                ..ResidualEncoderUnetConfig::default()
            }),
            SegmenterConfig::DynUnet(DynUnetConfig { widths: vec![2, 3, 4], strides: vec![] }),
            SegmenterConfig::Unet3d(Unet3dConfig { width: 2, levels: 2 }),
            SegmenterConfig::Unetr(UnetrConfig {
                feature_size: 2,
                vit: VitConfig { patch: 4, width: 6, depth: 2, heads: 1, mlp_ratio: 1 },
                monai_window: None,
            }),
        ]
    }

    #[test]
    fn maps_are_what_the_config_says_and_encoders_are_interchangeable() {
        for config in each_kind() {
            let size = config.divisor().map(|d| 2 * d);
            config.check(size).unwrap();
            let init = Init::<Flex>::new(1, "focus", &FlexDevice);
            let segmenter = config.build(2, 3, &init).unwrap();
            let x = Tensor::ones([1, 2, size[0], size[1], size[2]], &Default::default());
            let maps = segmenter.features(x.clone(), Mode::Eval);
            let expected: Vec<[usize; 5]> = config
                .feature_maps()
                .into_iter()
                .map(|map| [1, map.width, size[0] / map.stride[0], size[1] / map.stride[1], size[2] / map.stride[2]])
                .collect();
            assert_eq!(maps.iter().map(Tensor::dims).collect::<Vec<_>>(), expected, "{config:?}");
            assert_eq!(segmenter.decode(maps, Mode::Eval).dims(), [1, 3, size[0], size[1], size[2]]);
            // An encoder by itself has the names and shapes of the segmenter's.
            let alone = config.build_encoder(2, &init).unwrap();
            let named = |(name, shape): (String, Vec<usize>)| (format!("encoder.{name}"), shape);
            let of_segmenter: Vec<_> = weights::shapes(&segmenter).into_iter().filter(|(name, _)| name.starts_with("encoder.")).collect();
            assert_eq!(weights::shapes(&alone).into_iter().map(named).collect::<Vec<_>>(), of_segmenter);
            assert_eq!(alone.forward(x, Mode::Eval).len(), expected.len());
        }
    }

    #[test]
    fn maps_are_named_by_their_stride() {
        let names = |config: &SegmenterConfig| config.feature_maps().into_iter().map(|map| map.name).collect::<Vec<_>>();
        assert_eq!(names(&each_kind()[0]), ["stride1", "stride2x2x1"]);
        assert_eq!(names(&each_kind()[1]), ["stride1", "stride2", "stride4", "stride8", "stride16", "stride32"]);
    }

    #[test]
    fn windows_that_do_not_divide_are_refused_with_a_sentence() {
        let config = SegmenterConfig::default();
        assert_eq!(config.divisor(), [4, 4, 4]);
        assert!(config.check([24, 24, 16]).is_ok());
        for (window, nearest) in [([25, 24, 16], "[28, 24, 16]"), ([24, 24, 0], "[24, 24, 4]")] {
            let error = config.check(window).unwrap_err().to_string();
            assert!(error.contains("[4, 4, 4]") && error.contains(nearest), "{error}");
        }
        let strides = vec![[1; 3], [2; 3], [2, 2, 1]];
        let anisotropic = SegmenterConfig::ResidualUnet(ResidualUNetConfig { strides, ..ResidualUNetConfig::default() });
        assert!(anisotropic.check([24, 24, 18]).is_ok());
        assert!(anisotropic.check([24, 26, 18]).is_err());
        let swin = SegmenterConfig::SwinUnetr(SwinUnetrConfig::default());
        assert!(swin.check([96, 96, 64]).is_ok());
        assert!(swin.check([96, 96, 48]).unwrap_err().to_string().contains("[96, 96, 64]"));
    }

    #[test]
    fn windows_that_are_one_voxel_of_the_coarsest_map_are_refused_where_its_norm_would_be_0() {
        let norm = |norm, norm_groups| {
            let widths = vec![8, 8];
            SegmenterConfig::ResidualUnet(ResidualUNetConfig { widths, blocks: vec![1, 1], norm, norm_groups, ..Default::default() })
        };
        let mut learn_nothing = each_kind()[1..5].to_vec();
        learn_nothing.extend([norm(NormKind::Instance, 1), norm(NormKind::Group, 8)]);
        for config in learn_nothing {
            let [d, h, w] = config.divisor();
            let error = config.check([d, h, w]).unwrap_err().to_string();
            assert!(error.contains("single voxel") && error.contains(&format!("{:?}", [2 * d, h, w])), "{error}");
            assert!(config.check([2 * d, h, w]).is_ok());
        }
        for config in [each_kind()[5].clone(), norm(NormKind::Group, 4), norm(NormKind::Batch, 1)] {
            assert!(config.check(config.divisor()).is_ok());
        }
    }

    #[test]
    fn attention_that_would_fill_the_memory_is_refused_with_a_sentence() {
        let unetr = |heads| {
            SegmenterConfig::Unetr(UnetrConfig {
                vit: VitConfig { patch: 2, width: 48, heads, ..VitConfig::default() },
                ..Default::default()
            })
        };
        // 13,824 tokens: 12 heads would hold 8.5 GiB of scores.
        let error = unetr(12).check([48, 48, 48]).unwrap_err().to_string();
        assert!(error.contains("8.5 GiB") && error.contains("multiple of 8"), "{error}");
        assert!(unetr(12).check([24, 24, 24]).is_ok() && unetr(6).check([48, 48, 48]).is_ok());
        let swin = |feature_size| {
            let config = SwinUnetrConfig { feature_size, window: 16, ..SwinUnetrConfig::default() };
            SegmenterConfig::SwinUnetr(config).check([96, 96, 96])
        };
        assert!(swin(36).unwrap_err().to_string().contains("GiB"));
        assert!(swin(48).is_ok());
    }

    #[test]
    fn kinds_have_their_names_and_are_strict() {
        let read = |json: String| serde_json::from_str::<SegmenterConfig>(&json);
        for (config, kind) in
            each_kind().iter().zip(["residual_unet", "swin_unetr", "residual_encoder_unet", "dyn_unet", "unet3d", "unetr"])
        {
            assert_eq!(serde_json::to_value(config).unwrap()["kind"], kind);
            assert!(read(format!(r#"{{"kind": "{kind}"}}"#)).is_ok());
            assert!(read(format!(r#"{{"kind": "{kind}", "witdh": 3}}"#)).is_err());
        }
    }
}
