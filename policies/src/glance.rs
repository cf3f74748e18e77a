//! Glance: the policy that decides which sub-volumes deserve a look.
//!
//! Shapes: `x_GCDHW` (G sub-volumes, C intensity windows), `logits_G2` (skip, look).

// Shape suffixes.
#![allow(non_snake_case)]

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::focus::{Focus, FocusConfig};
use crate::kernels::{self, KernelBackend};
use crate::nets::layers::Linear;
use crate::nets::{AnyEncoder, ConfigError, Init, Mode, Pooling, ResNet, ResNetConfig};
use crate::precision::relu;
use crate::weights::layout::Layout;
use crate::weights::{self, Scope};
use crate::whole_scan::{ENCODER_PREFIX, Reader, WholeScanConfig, WholeScanGlance};

/// Actions of Glance: skip, look.
const ACTIONS: usize = 2;

/// What Glance and Focus have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// Two networks (the published system). Default.
    #[default]
    None,
    /// Glance has an encoder like Focus's and starts from a copy of Focus's weights.
    Init,
    /// Glance is a head on Focus's encoder; both objectives train it.
    Tied,
}

/// The network of Glance, by `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GlanceConfig {
    /// A 3D ResNet (the published system).
    Resnet3d(ResNetConfig),
    /// Focus's encoder with a small head. Needed for a shared backbone; with none shared, the encoder is like Focus's but its own.
    Encoder(GlanceHeadConfig),
    /// A ResNet on the whole scan at a coarse grid: one pass gives a heat map, and windows are placed on its peaks.
    WholeScan(WholeScanConfig),
}

impl Default for GlanceConfig {
    fn default() -> Self {
        GlanceConfig::Resnet3d(ResNetConfig::default())
    }
}

/// The head on an encoder's coarsest features: global pooling, a hidden layer with ReLU, a linear layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GlanceHeadConfig {
    /// Global pooling: "max" (default) or "avg".
    pub pooling: Pooling,
    /// Units of the hidden layer, at most 8192; 0 leaves it out. Default 32.
    pub hidden: usize,
}

impl Default for GlanceHeadConfig {
    fn default() -> Self {
        Self { pooling: Pooling::Max, hidden: 32 }
    }
}

impl GlanceConfig {
    /// Channels of the features that Glance judges by.
    pub fn width(&self, focus: &FocusConfig) -> usize {
        match self {
            GlanceConfig::Resnet3d(config) => config.widths.last().copied().unwrap_or(0),
            GlanceConfig::Encoder(_) => focus.encoder_width(),
            GlanceConfig::WholeScan(config) => config.width(focus),
        }
    }

    /// Refuse what can't be built.
    pub fn check(&self, shared: Shared) -> Result<(), ConfigError> {
        match self {
            GlanceConfig::Resnet3d(config) if shared == Shared::None => config.check(),
            GlanceConfig::WholeScan(config) if shared == Shared::None => config.check(),
            GlanceConfig::WholeScan(config) if shared == Shared::Init && config.reader == Reader::Encoder => config.check(),
            GlanceConfig::Resnet3d(_) | GlanceConfig::WholeScan(_) => {
                let kind = if matches!(self, GlanceConfig::WholeScan(_)) { "whole_scan" } else { "resnet3d" };
                Err(ConfigError(format!(
                    "a shared backbone needs glance.kind = \"encoder\", found {kind:?}; change it, or set backbone.shared = \"none\" (\"init\" also goes with \
                     kind = \"whole_scan\" and reader = \"encoder\")"
                )))
            }
            GlanceConfig::Encoder(GlanceHeadConfig { hidden, .. }) if *hidden > 8192 => {
                Err(ConfigError(format!("hidden = {hidden}; choose at most 8192")))
            }
            GlanceConfig::Encoder(_) => Ok(()),
        }
    }

    /// The names that weights of this network have in published files; `focus` describes the encoder of a head.
    pub fn layout(&self, focus: &FocusConfig) -> Layout {
        match self {
            GlanceConfig::Resnet3d(_) | GlanceConfig::WholeScan(_) => Layout::Own,
            GlanceConfig::Encoder(_) => focus.layout(),
        }
    }

    /// Glance with its first weights, drawn from `seed`; for [`Shared::Init`] the encoder is copied from `focus`, which `focus_config` describes.
    /// `spacing_mm`: voxels of the prepared grid, where all scans have the same.
    #[expect(clippy::too_many_arguments, reason = "what a network is made from, each used once")]
    pub fn init<B: Backend>(
        &self,
        in_channels: usize,
        spacing_mm: Option<[f64; 3]>,
        shared: Shared,
        focus_config: &FocusConfig,
        focus: &Focus<B>,
        seed: u64,
        device: &B::Device,
    ) -> Result<Glance<B>, ConfigError> {
        self.check(shared)?;
        let init = Init::new(seed, "glance", device);
        let head = |config: &GlanceHeadConfig| GlanceHead::new(config, focus_config.encoder_width(), &init.at("head"));
        Ok(match (self, shared) {
            (GlanceConfig::Resnet3d(config), _) => Glance::Resnet3d(config.init(in_channels, ACTIONS, &init)?),
            (GlanceConfig::WholeScan(config), _) => {
                let glance = Glance::WholeScan(config.init(in_channels, spacing_mm, focus_config, &init)?);
                if shared == Shared::Init { glance.with_encoder_of(focus)? } else { glance }
            }
            (GlanceConfig::Encoder(config), Shared::Tied) => Glance::Tied(TiedGlance { head: head(config) }),
            (GlanceConfig::Encoder(config), Shared::None | Shared::Init) => {
                let encoder = focus_config.build_encoder(in_channels, &init.at("encoder"))?;
                let glance = Glance::Encoder(EncoderGlance { encoder, head: head(config) });
                if shared == Shared::Init { glance.with_encoder_of(focus)? } else { glance }
            }
        })
    }
}

/// Features -> logits.
#[derive(Module, Debug)]
pub struct GlanceHead<B: Backend> {
    hidden: Option<Linear<B>>,
    fc: Linear<B>,
    #[module(skip)]
    pooling: Pooling,
}

impl<B: Backend> GlanceHead<B> {
    /// A head on features with `width` channels.
    pub fn new(config: &GlanceHeadConfig, width: usize, init: &Init<B>) -> Self {
        let hidden = (config.hidden > 0).then(|| Linear::new(&init.at("hidden"), width, config.hidden));
        let from = if config.hidden > 0 { config.hidden } else { width };
        Self { hidden, fc: Linear::new(&init.at("fc"), from, ACTIONS), pooling: config.pooling }
    }
}

impl<B: KernelBackend> GlanceHead<B> {
    /// The coarsest features `[G, C, D, H, W]` -> `logits_G2`.
    pub fn forward(&self, coarsest: Tensor<B, 5>) -> Tensor<B, 2> {
        match &self.hidden {
            None => self.pooling.judge(coarsest, &self.fc).0,
            Some(layer) => {
                let pooled = match self.pooling {
                    Pooling::Avg => kernels::global_avg_pool3d(coarsest),
                    Pooling::Max | Pooling::Cells => kernels::global_max_pool3d(coarsest),
                };
                self.fc.forward(relu(layer.forward(pooled)))
            }
        }
    }
}

/// An encoder of its own, and a head.
#[derive(Module, Debug)]
pub struct EncoderGlance<B: Backend> {
    encoder: AnyEncoder<B>,
    head: GlanceHead<B>,
}

/// A head on Focus's encoder.
#[derive(Module, Debug)]
pub struct TiedGlance<B: Backend> {
    head: GlanceHead<B>,
}

/// Glance, one variant a network.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One or two of them live at a time.
pub enum Glance<B: Backend> {
    Resnet3d(ResNet<B>),
    Encoder(EncoderGlance<B>),
    Tied(TiedGlance<B>),
    WholeScan(WholeScanGlance<B>),
}

impl<B: Backend> Glance<B> {
    /// Whether Glance is a head on Focus's encoder.
    pub fn is_tied(&self) -> bool {
        matches!(self, Glance::Tied(_))
    }

    /// The network that reads whole scans, where it is one.
    pub fn whole_scan(&self) -> Option<&WholeScanGlance<B>> {
        if let Glance::WholeScan(net) = self { Some(net) } else { None }
    }

    /// The same Glance with a copy of Focus's encoder.
    pub fn with_encoder_of(self, focus: &Focus<B>) -> Result<Self, ConfigError> {
        let prefix = if self.whole_scan().is_some() { ENCODER_PREFIX } else { "" };
        let only_encoder = |name: &str| name.starts_with("encoder.").then(|| format!("{prefix}{name}"));
        let scope = Scope::Prefixes(vec![format!("{prefix}encoder.")]);
        let (glance, _) = weights::copy(focus, self, &scope, only_encoder)
            .map_err(|e| ConfigError(format!("Glance can't start from Focus's encoder: {e}")))?;
        Ok(glance)
    }
}

impl<B: KernelBackend> Glance<B> {
    /// `x_GCDHW` -> `logits_G2`. `focus` is used by a tied Glance only: its encoder reads `x`. The old policy of a tied Glance is therefore a
    /// frozen copy of both.
    pub fn forward(&self, x_GCDHW: Tensor<B, 5>, focus: &Focus<B>, mode: Mode) -> Tensor<B, 2> {
        match self {
            Glance::Resnet3d(net) => net.forward(x_GCDHW, mode),
            Glance::Encoder(net) => net.head.forward(coarsest(net.encoder.forward(x_GCDHW, mode))),
            Glance::Tied(net) => net.head.forward(coarsest(focus.features(x_GCDHW, mode))),
            Glance::WholeScan(net) => net.forward_cells(x_GCDHW, mode).0,
        }
    }

    /// The mean of each channel of the features that Glance judges by, `[G, width]`: what a value head reads.
    pub fn pooled(&self, x_GCDHW: Tensor<B, 5>, focus: &Focus<B>, mode: Mode) -> Tensor<B, 2> {
        kernels::global_avg_pool3d(match self {
            Glance::Resnet3d(net) => net.features(x_GCDHW, mode),
            Glance::Encoder(net) => coarsest(net.encoder.forward(x_GCDHW, mode)),
            Glance::Tied(_) => coarsest(focus.features(x_GCDHW, mode)),
            Glance::WholeScan(net) => net.window_features(x_GCDHW, mode),
        })
    }

    /// As [`Glance::forward_shared`], with the log-odds of every cell of a ResNet that pools by [`Pooling::Cells`], `[G, D, H, W]`.
    pub fn forward_cells(&self, x_GCDHW: Tensor<B, 5>, features: &[Tensor<B, 5>], mode: Mode) -> (Tensor<B, 2>, Option<Tensor<B, 4>>) {
        match self {
            Glance::Resnet3d(net) => net.forward_cells(x_GCDHW, mode),
            Glance::WholeScan(net) => {
                let (logits, cells) = net.forward_cells(x_GCDHW, mode);
                (logits, Some(cells))
            }
            _ => (self.forward_shared(x_GCDHW, features, mode), None),
        }
    }

    /// As [`Glance::forward`] where Focus's features of the same `x` are at hand: a tied Glance takes them, no encoder runs twice.
    pub fn forward_shared(&self, x_GCDHW: Tensor<B, 5>, features: &[Tensor<B, 5>], mode: Mode) -> Tensor<B, 2> {
        match self {
            Glance::Resnet3d(net) => net.forward(x_GCDHW, mode),
            Glance::Encoder(net) => net.head.forward(coarsest(net.encoder.forward(x_GCDHW, mode))),
            Glance::Tied(net) => net.head.forward(coarsest(features.to_vec())),
            Glance::WholeScan(net) => net.forward_cells(x_GCDHW, mode).0,
        }
    }
}

fn coarsest<B: Backend>(mut features: Vec<Tensor<B, 5>>) -> Tensor<B, 5> {
    features.pop().expect("an encoder has at least two levels")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::ResidualUNetConfig;
    use crate::nets::golden::{B, gradients};

    fn pair(shared: Shared) -> (Glance<B>, Focus<B>) {
        let unet = ResidualUNetConfig { widths: vec![4, 8], blocks: vec![1, 1], ..ResidualUNetConfig::default() };
        let focus_config = FocusConfig::ResidualUnet(unet);
        let focus = focus_config.init(2, 2, 7, &Default::default()).unwrap();
        let config = GlanceConfig::Encoder(GlanceHeadConfig::default());
        let glance = config.init(2, None, shared, &focus_config, &focus, 7, &Default::default()).unwrap();
        (glance, focus)
    }

    fn x() -> Tensor<B, 5> {
        let values: Vec<f32> = (0..2 * 2 * 64).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        Tensor::<B, 1>::from_floats(values.as_slice(), &Default::default()).reshape([2, 2, 4, 4, 4])
    }

    fn encoder_of(module: &impl Module<B>) -> Vec<weights::NamedTensor> {
        weights::tensors(module).into_iter().filter(|t| t.name.starts_with("encoder.")).collect()
    }

    #[test]
    fn init_copies_focus_and_none_does_not() {
        let (glance, focus) = pair(Shared::Init);
        assert_eq!(encoder_of(&glance), encoder_of(&focus));
        assert!(!encoder_of(&glance).is_empty());
        let (glance, focus) = pair(Shared::None);
        assert_ne!(encoder_of(&glance), encoder_of(&focus));
    }

    #[test]
    fn a_whole_scan_glance_starts_from_the_encoder_of_focus() {
        let (_, focus) = pair(Shared::None);
        let focus_config = FocusConfig::ResidualUnet(ResidualUNetConfig { widths: vec![4, 8], blocks: vec![1, 1], ..Default::default() });
        let config = GlanceConfig::WholeScan(WholeScanConfig { reader: Reader::Encoder, ..Default::default() });
        let of = |shared| config.init(2, None, shared, &focus_config, &focus, 7, &Default::default()).unwrap();
        let encoder = |glance: &Glance<B>| -> Vec<_> {
            let named = weights::tensors(glance).into_iter();
            named.filter_map(|t| Some(weights::NamedTensor { name: t.name.strip_prefix("net.")?.to_owned(), ..t })).collect()
        };
        let copied: Vec<_> = encoder(&of(Shared::Init)).into_iter().filter(|t| t.name.starts_with("encoder.")).collect();
        assert_eq!(copied, encoder_of(&focus));
        assert_ne!(encoder(&of(Shared::None)), encoder(&of(Shared::Init)));
        // Cells of two voxels, as coarse as the encoder's last map; features as many as the config says.
        let glance = of(Shared::Init);
        assert_eq!(glance.whole_scan().unwrap().grid([8, 8, 6]).cells(), [4, 4, 3]);
        assert_eq!(glance.forward_cells(x(), &[], Mode::Eval).1.unwrap().dims(), [2, 2, 2, 2]);
        assert_eq!(glance.pooled(x(), &focus, Mode::Eval).dims(), [2, config.width(&focus_config)]);
        assert!(config.check(Shared::Tied).is_err() && GlanceConfig::WholeScan(Default::default()).check(Shared::Init).is_err());
    }

    #[test]
    fn heat_maps_need_cubes_and_encoders_that_read_any_size() {
        let config = WholeScanConfig { reader: Reader::Encoder, ..Default::default() };
        let flat = FocusConfig::ResidualUnet(ResidualUNetConfig {
            widths: vec![4, 8],
            blocks: vec![1, 1],
            strides: vec![[1; 3], [2, 2, 1]],
            ..Default::default()
        });
        for (focus, part) in [(flat, "strides [2, 2, 1]"), (FocusConfig::Unetr(Default::default()), "windows of one size")] {
            let error = config.stride(&focus).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert_eq!(WholeScanConfig::default().stride(&focus).unwrap(), 4);
        }
    }

    #[test]
    fn a_tied_glance_sends_its_gradient_into_the_encoder_of_focus() {
        let (glance, focus) = pair(Shared::Tied);
        assert!(glance.is_tied() && encoder_of(&glance).is_empty());
        let features = focus.features(x(), Mode::Train);
        let logits = glance.forward_shared(x(), &features, Mode::Train);
        assert_eq!(logits.to_data(), glance.forward(x(), &focus, Mode::Train).to_data());
        assert_eq!(logits.dims(), [2, 2]);
        let grads = logits.slice([0..2, 0..1]).sum().backward();
        let of_focus = gradients(&focus, &grads);
        assert!(of_focus.iter().any(|g| g.name == "encoder.stem.conv.weight" && g.values.iter().any(|v| *v != 0.0)));
        assert!(of_focus.iter().all(|g| g.name.starts_with("encoder.")), "the decoder has no part in it");
        assert_eq!(gradients(&glance, &grads).len(), 4);
    }

    #[test]
    fn a_value_head_reads_as_many_channels_as_the_config_says() {
        for shared in [Shared::None, Shared::Tied] {
            let (glance, focus) = pair(shared);
            assert_eq!(glance.pooled(x(), &focus, Mode::Eval).dims(), [2, 8]);
        }
        let config = GlanceConfig::default();
        let (_, focus) = pair(Shared::None);
        let glance = config.init(2, None, Shared::None, &FocusConfig::default(), &focus, 7, &Default::default()).unwrap();
        let pooled = glance.pooled(x(), &focus, Mode::Eval).dims();
        assert_eq!(pooled, [2, config.width(&FocusConfig::default())]);
    }

    #[test]
    fn an_own_encoder_leaves_focus_alone() {
        let (glance, focus) = pair(Shared::Init);
        let grads = glance.forward(x(), &focus, Mode::Train).slice([0..2, 0..1]).sum().backward();
        assert!(gradients(&focus, &grads).is_empty());
        assert!(gradients(&glance, &grads).iter().any(|g| g.name == "encoder.stem.conv.weight"));
    }

    #[test]
    fn one_encoder_serves_both_policies() {
        let (_, focus) = pair(Shared::Tied);
        let at_once = focus.forward(x(), Mode::Eval);
        let in_parts = focus.decode(focus.features(x(), Mode::Eval), Mode::Eval);
        assert_eq!(at_once.dims(), [2, 2, 4, 4, 4]);
        assert_eq!(at_once.to_data(), in_parts.to_data());
    }

    #[test]
    fn a_resnet_can_not_share() {
        for shared in [Shared::Init, Shared::Tied] {
            let error = GlanceConfig::default().check(shared).unwrap_err().to_string();
            assert!(error.contains("glance.kind = \"encoder\""), "{error}");
        }
        assert!(GlanceConfig::default().check(Shared::None).is_ok());
    }

    #[test]
    fn configs_are_tagged_and_strict() {
        let read = serde_json::from_str::<GlanceConfig>;
        assert_eq!(read(r#"{"kind": "resnet3d"}"#).unwrap(), GlanceConfig::default());
        assert_eq!(
            read(r#"{"kind": "encoder", "hidden": 0}"#).unwrap(),
            GlanceConfig::Encoder(GlanceHeadConfig { hidden: 0, ..Default::default() })
        );
        assert!(read(r#"{"kind": "resnet3d", "hiden": 0}"#).is_err());
        assert_eq!(serde_json::from_str::<FocusConfig>(r#"{"kind": "residual_unet"}"#).unwrap(), FocusConfig::default());
    }
}

#[cfg(test)]
mod cells {
    use super::*;
    use burn::backend::{Autodiff, Flex};
    use burn::module::ModuleMapper;
    use burn::module::Param;

    type B = Autodiff<Flex>;

    /// Adds `by` to element `element` of parameter number `parameter`.
    struct Nudge {
        parameter: usize,
        element: usize,
        by: f32,
        seen: usize,
    }

    impl ModuleMapper<B> for Nudge {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            self.seen += 1;
            if self.seen - 1 != self.parameter {
                return param;
            }
            let (element, by) = (self.element, self.by);
            param.map(|t| {
                let dims = t.dims();
                let mut values: Vec<f32> = t.into_data().to_vec().unwrap();
                let at = element % values.len();
                values[at] += by;
                Tensor::<B, 1>::from_floats(values.as_slice(), &Default::default()).reshape(dims).detach().require_grad()
            })
        }
    }

    struct Grad<'a> {
        grads: &'a <B as burn::tensor::backend::AutodiffBackend>::Gradients,
        out: Vec<Vec<f32>>,
    }

    impl burn::module::ModuleVisitor<B> for Grad<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.out.push(param.val().grad(self.grads).map(|g| g.into_data().to_vec().unwrap()).unwrap_or_default());
        }
    }

    #[test]
    fn gradients_of_every_parameter_equal_finite_differences() {
        // Not `Max`: a channel's strongest voxel changes within the step, a kink that finite differences can't see.
        for pooling in [Pooling::Cells, Pooling::Avg] {
            let device = Default::default();
            let config = ResNetConfig { widths: vec![4, 8], blocks: vec![1, 1], norm_groups: 2, pooling, ..ResNetConfig::default() };
            let net = config.init::<B>(2, 2, &Init::new(3, "glance", &device)).unwrap();
            let values: Vec<f32> = (0..2 * 2 * 8 * 8 * 8).map(|i| ((i * 7919) % 1013) as f32 / 1013.0).collect();
            let x = Tensor::<B, 1>::from_floats(values.as_slice(), &device).reshape([2, 2, 8, 8, 8]);
            let loss = |net: &ResNet<B>| {
                let z = net.forward(x.clone(), Mode::Train);
                (z.clone() * z).sum()
            };
            let grads = loss(&net).backward();
            let mut g = Grad { grads: &grads, out: vec![] };
            net.visit(&mut g);
            for (parameter, grad) in g.out.iter().enumerate() {
                for element in [0, 5, 17] {
                    let element = element % grad.len().max(1);
                    let at = |by| -> f32 { loss(&net.clone().map(&mut Nudge { parameter, element, by, seen: 0 })).into_scalar() };
                    let numeric = (at(2e-3) - at(-2e-3)) / 4e-3;
                    let exact = grad.get(element).copied().unwrap_or(f32::NAN);
                    let close = (numeric - exact).abs() <= 0.03 * (1.0 + numeric.abs());
                    assert!(close, "{pooling:?} parameter {parameter} element {element}: {numeric} against {exact}");
                }
            }
        }
    }
}
