//! A Glance that looks at a whole scan at once: fully convolutional at a coarse grid, one answer a cell.
//!
//! One pass gives a heat map for the whole scan, where a Glance on windows reads every voxel as often as windows overlap. On a sub-volume it works
//! like the others, so that it can be trained together with Focus; on whole scans it is trained by the stage `selection`.
//!
//! The second look: the parts around the hottest cells are read again by the same network at a finer grid. Each part goes through it by itself, with
//! nothing around it, in training as in screening: what a cell says depends on its part alone. A "group" or "instance" norm then sees the part, where
//! the first look's sees the scan.

// Shape suffixes.
#![allow(non_snake_case)]

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use panscreen_envs::screening::heat::{CellGrid, Part, Reading};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::focus::FocusConfig;
use crate::kernels::KernelBackend;
use crate::nets::layers::Linear;
use crate::nets::{AnyEncoder, ConfigError, Init, Mode, NormKind, Pooling, ResNet, ResNetConfig};

/// What reads the coarse grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reader {
    /// A ResNet of its own (default).
    #[default]
    Resnet,
    /// An encoder like Focus's.
    Encoder,
}

/// The network of a whole-scan Glance: a ResNet, or Focus's encoder, with a last layer that judges every cell of the coarsest feature map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WholeScanConfig {
    /// Wanted voxel size of the coarse grid in mm, at least 0.1. Voxels of `data.spacing_mm` are put together, as many along each axis as come nearest
    /// to it; where that is unset or coarser, the scan's grid is taken as it is. Default 4.
    pub spacing_mm: f64,
    /// Voxel size in mm at which the most suspicious parts of the scan are read again, by the same weights; what is read replaces the heat there. 0 or
    /// at least 0.1 and below `spacing_mm`; where the scan's own grid is no finer than that of the first look, there is no second one. Taught by the
    /// stage `selection` through `loss.cell_weight`. Default 0: no second look.
    pub second_spacing_mm: f64,
    /// Share of the scan that the second look reads at most, in parts of the size of a window; one part is always read. 0.001 to 1. Default 0.25.
    pub second_share: f64,
    /// What a cell at the face of a window counts less than one in its middle, in log-odds, 0 to 20: which of overlapping windows is preferred.
    /// Default 1.
    pub falloff: f64,
    /// "resnet" (default), which the settings below describe, or "encoder": an encoder like Focus's, which with `backbone.shared = "init"` starts
    /// from a copy of Focus's weights. It knows lesions from the first step, and reads the coarse grid at full resolution, which costs more.
    pub reader: Reader,
    /// Basic blocks of each stage, 1 to 64; 1 to 4 stages. Default [2, 2].
    pub blocks: Vec<usize>,
    /// Channels of each stage, 1 to 8192. Default [16, 32]. Each stage after the first doubles the side of a cell, which is 2 coarse voxels at first.
    pub widths: Vec<usize>,
    /// Side of the first convolution's kernel in coarse voxels, odd, at most 31. Default 3.
    pub stem_kernel: usize,
    /// Normalisation: "group" (default), "batch" or "instance".
    pub norm: NormKind,
    /// Groups of "group" norm; each width must be divisible by it. Default 1: what is bright against the whole scan stays bright.
    pub norm_groups: usize,
}

impl Default for WholeScanConfig {
    fn default() -> Self {
        Self {
            spacing_mm: 4.0,
            second_spacing_mm: 0.0,
            second_share: 0.25,
            falloff: 1.0,
            reader: Reader::Resnet,
            blocks: vec![2, 2],
            widths: vec![16, 32],
            stem_kernel: 3,
            norm: NormKind::Group,
            norm_groups: 1,
        }
    }
}

impl WholeScanConfig {
    fn network(&self) -> ResNetConfig {
        ResNetConfig {
            blocks: self.blocks.clone(),
            widths: self.widths.clone(),
            stem_kernel: self.stem_kernel,
            stem_stride: 2,
            pooling: Pooling::Cells,
            norm: self.norm,
            norm_groups: self.norm_groups,
            ..ResNetConfig::default()
        }
    }

    /// Refuse what can't be built.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(self.spacing_mm >= 0.1 && self.spacing_mm.is_finite()) {
            return Err(ConfigError(format!("spacing_mm = {}, expected 0.1 mm or more", self.spacing_mm)));
        }
        if self.second_spacing_mm != 0.0 && !(self.second_spacing_mm >= 0.1 && self.second_spacing_mm < self.spacing_mm) {
            let text = format!("second_spacing_mm = {}, expected 0, or 0.1 or more and less than spacing_mm", self.second_spacing_mm);
            return Err(ConfigError(text));
        }
        if !(0.001..=1.0).contains(&self.second_share) {
            return Err(ConfigError(format!("second_share = {}, expected 0.001 to 1", self.second_share)));
        }
        if !(0.0..=20.0).contains(&self.falloff) {
            return Err(ConfigError(format!("falloff = {}, expected 0 to 20", self.falloff)));
        }
        self.network().check()
    }

    /// Coarse voxels along a side of a cell; `focus` describes the encoder. An error where the encoder's cells are no cubes, or its input can't grow.
    pub fn stride(&self, focus: &FocusConfig) -> Result<usize, ConfigError> {
        match self.reader {
            Reader::Resnet => Ok(2 << self.blocks.len().saturating_sub(1)),
            Reader::Encoder if matches!(focus, FocusConfig::Unetr(_)) => Err(ConfigError(
                "reader = \"encoder\": UNETR's encoder reads windows of one size only; choose \"resnet\", or another Focus".into(),
            )),
            Reader::Encoder => match focus.divisor() {
                [x, y, z] if x == y && y == z => Ok(x),
                strides => Err(ConfigError(format!(
                    "reader = \"encoder\": Focus's encoder has strides {strides:?}, a heat map needs equal ones; choose \"resnet\""
                ))),
            },
        }
    }

    /// Channels of the features that the last layer judges.
    pub fn width(&self, focus: &FocusConfig) -> usize {
        match self.reader {
            Reader::Resnet => self.widths.last().copied().unwrap_or(0),
            Reader::Encoder => focus.encoder_width(),
        }
    }

    /// Voxels of a grid with this spacing that make one coarse voxel, along each axis.
    pub fn factor(&self, spacing_mm: Option<[f64; 3]>) -> [usize; 3] {
        factor(self.spacing_mm, spacing_mm)
    }

    /// As [`factor`](Self::factor) for the second look; `None` where there is none.
    pub fn second_factor(&self, spacing_mm: Option<[f64; 3]>) -> Option<[usize; 3]> {
        let second = (self.second_spacing_mm > 0.0).then(|| factor(self.second_spacing_mm, spacing_mm));
        second.filter(|second| *second != self.factor(spacing_mm))
    }

    /// The network with its first weights, on voxels of `spacing_mm`; `focus` describes the encoder.
    pub fn init<B: Backend>(
        &self,
        in_channels: usize,
        spacing_mm: Option<[f64; 3]>,
        focus: &FocusConfig,
        init: &Init<B>,
    ) -> Result<WholeScanGlance<B>, ConfigError> {
        self.check()?;
        let net = match self.reader {
            Reader::Resnet => CellNet::Resnet(self.network().init(in_channels, 2, init)?),
            Reader::Encoder => CellNet::Encoder(EncoderCells {
                encoder: focus.build_encoder(in_channels, &init.at("encoder"))?,
                fc: Linear::new(&init.at("fc"), focus.encoder_width(), 2),
            }),
        };
        Ok(WholeScanGlance {
            net,
            factor: self.factor(spacing_mm),
            second: self.second_factor(spacing_mm),
            second_share: self.second_share,
            stride: self.stride(focus)?,
            falloff: self.falloff,
        })
    }
}

fn factor(wanted_mm: f64, spacing_mm: Option<[f64; 3]>) -> [usize; 3] {
    spacing_mm.map_or([1; 3], |spacing| spacing.map(|s| ((wanted_mm / s).round() as usize).clamp(1, 64)))
}

/// Features of the coarse grid, and the layer that judges its cells.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One of them lives at a time.
enum CellNet<B: Backend> {
    Resnet(ResNet<B>),
    Encoder(EncoderCells<B>),
}

/// An encoder like Focus's, and a layer that judges the cells of its coarsest map.
#[derive(Module, Debug)]
struct EncoderCells<B: Backend> {
    encoder: AnyEncoder<B>,
    fc: Linear<B>,
}

impl<B: KernelBackend> CellNet<B> {
    /// `x_NCDHW` -> the feature map whose voxels are cells.
    fn features(&self, x_NCDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        match self {
            CellNet::Resnet(net) => net.features(x_NCDHW, mode),
            CellNet::Encoder(net) => net.encoder.forward(x_NCDHW, mode).pop().expect("an encoder has at least two levels"),
        }
    }

    /// Features -> log-odds of every cell, `[N, D, H, W]`.
    fn judge(&self, features: Tensor<B, 5>) -> Tensor<B, 4> {
        let cells = match self {
            CellNet::Resnet(net) => net.judge(features).1,
            CellNet::Encoder(net) => Pooling::Cells.judge(features, &net.fc).1,
        };
        cells.expect("the network judges cells")
    }
}

/// Where an encoder's weights are in a whole-scan Glance, before `encoder.`.
pub const ENCODER_PREFIX: &str = "net.";

/// See the module.
#[derive(Module, Debug)]
pub struct WholeScanGlance<B: Backend> {
    net: CellNet<B>,
    #[module(skip)]
    factor: [usize; 3],
    #[module(skip)]
    second: Option<[usize; 3]>,
    #[module(skip)]
    second_share: f64,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    falloff: f64,
}

impl<B: Backend> WholeScanGlance<B> {
    /// How its cells lie on a scan of `shape` voxels.
    pub fn grid(&self, shape: [usize; 3]) -> CellGrid {
        CellGrid { shape, factor: self.factor, stride: self.stride }
    }

    /// As [`grid`](Self::grid) for the second look; `None` where there is none.
    pub fn second_grid(&self, shape: [usize; 3]) -> Option<CellGrid> {
        self.second.map(|factor| CellGrid { shape, factor, stride: self.stride })
    }

    /// The parts that the second look reads of a scan, by the first look's `heat` (log-odds of each cell); none where there is no second look.
    pub fn second_parts(&self, shape: [usize; 3], heat: &[f32], window: [usize; 3]) -> Vec<Part> {
        let Some(fine) = self.second_grid(shape) else { return vec![] };
        let cells = |of: [usize; 3]| of.iter().product::<usize>() as f64;
        let one = cells(fine.part([0; 3], window).cells).max(1.0);
        let most = (self.second_share * cells(fine.cells()) / one) as usize;
        self.grid(shape).hottest_parts(heat, &fine, window, most.max(1))
    }

    /// See [`WholeScanConfig::falloff`].
    pub fn falloff(&self) -> f32 {
        self.falloff as f32
    }
}

impl<B: KernelBackend> WholeScanGlance<B> {
    /// Features `[1, C, d, h, w]` of a pooled scan `[1, C, coarse]`, see [`CellGrid::pool`].
    pub fn features(&self, x_1CDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        self.net.features(x_1CDHW, mode)
    }

    /// Features of sub-volumes, `[G, C, d, h, w]`.
    pub fn window_features(&self, x_GCDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 5> {
        self.net.features(pool(x_GCDHW, self.factor), mode)
    }

    /// Log-odds of every cell, flat, from features of one scan.
    pub fn cells(&self, features: Tensor<B, 5>) -> Tensor<B, 1> {
        self.net.judge(features).flatten(0, 3)
    }

    /// Log-odds of the cells of parts, `[G, d, h, w]`, each by itself; `x_GCDHW` is pooled, see [`CellGrid::pool_part`].
    pub fn parts(&self, x_GCDHW: Tensor<B, 5>, mode: Mode) -> Tensor<B, 4> {
        self.net.judge(self.net.features(x_GCDHW, mode))
    }

    /// Sub-volumes `x_GCDHW` -> logits_G2, and the log-odds of every cell, `[G, d, h, w]`. The most telling cell speaks for its sub-volume.
    pub fn forward_cells(&self, x_GCDHW: Tensor<B, 5>, mode: Mode) -> (Tensor<B, 2>, Tensor<B, 4>) {
        let window: [usize; 3] = std::array::from_fn(|a| x_GCDHW.dims()[2 + a]);
        let cells = self.net.judge(self.window_features(x_GCDHW, mode));
        let [g, d, h, w] = cells.dims();
        // With one window of the size of the scan, the discount of each cell by its distance from the middle.
        let discount = Tensor::<B, 1>::from_data(TensorData::from(&self.discounts(window, [d, h, w])[..]), &cells.device());
        let read = cells.clone().reshape([g, d * h * w]) - discount.unsqueeze();
        let most = read.max_dim(1);
        (Tensor::cat(vec![most.zeros_like(), most], 1), cells)
    }

    fn discounts(&self, window: [usize; 3], cells: [usize; 3]) -> Vec<f32> {
        let squared = |a: usize, i: usize| {
            let cell = window[a] as f64 / cells[a] as f64;
            (((i as f64 + 0.5) * cell - window[a] as f64 / 2.0) / (window[a] as f64 / 2.0)).powi(2)
        };
        let axis = |a: usize| (0..cells[a]).map(move |i| squared(a, i)).collect::<Vec<f64>>();
        let [x, y, z] = [axis(0), axis(1), axis(2)];
        let rows: Vec<f64> = x.iter().flat_map(|x| y.iter().map(move |y| x + y)).collect();
        rows.iter().flat_map(|row| z.iter().map(move |z| (self.falloff * (row + z)) as f32)).collect()
    }

    /// Logits (skip, look) of windows from the cells that speak for them, `[G, 2]`.
    pub fn windows(cells: Tensor<B, 1>, readings: &[Reading]) -> Tensor<B, 2> {
        let numbers: Vec<i64> = readings.iter().map(|r| r.cell as i64).collect();
        let discounts: Vec<f32> = readings.iter().map(|r| r.discount).collect();
        let device = cells.device();
        let numbers = Tensor::<B, 1, Int>::from_data(TensorData::from(&numbers[..]), &device);
        let odds = cells.select(0, numbers) - Tensor::from_data(TensorData::from(&discounts[..]), &device);
        let odds: Tensor<B, 2> = odds.unsqueeze_dim(1);
        Tensor::cat(vec![odds.zeros_like(), odds], 1)
    }
}

/// The mean of blocks of `factor` voxels; what is left over at the end of an axis is left out.
fn pool<B: Backend>(x: Tensor<B, 5>, factor: [usize; 3]) -> Tensor<B, 5> {
    (0..3).fold(x, |x, a| {
        let mut dims = x.dims();
        let f = factor[a].min(dims[2 + a]);
        if f == 1 {
            return x;
        }
        dims[2 + a] /= f;
        let x = x.narrow(2 + a, 0, dims[2 + a] * f);
        let (before, after): (usize, usize) = (dims[..2 + a].iter().product(), dims[3 + a..].iter().product());
        x.reshape([before, dims[2 + a], f, after]).mean_dim(2).reshape(dims)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::{Autodiff, Flex};

    type B = Autodiff<Flex>;

    fn glance(spacing_mm: Option<[f64; 3]>) -> WholeScanGlance<B> {
        let config = WholeScanConfig { blocks: vec![1, 1], widths: vec![4, 8], ..WholeScanConfig::default() };
        config.init(1, spacing_mm, &FocusConfig::default(), &Init::new(3, "glance", &Default::default())).unwrap()
    }

    fn tensor<const D: usize>(values: &[f32], dims: [usize; D]) -> Tensor<B, D> {
        Tensor::<B, 1>::from_floats(values, &Default::default()).reshape(dims)
    }

    fn numbers<const D: usize>(t: Tensor<B, D>) -> Vec<f32> {
        t.into_data().iter::<f32>().collect()
    }

    fn scan(voxels: usize) -> Vec<f32> {
        (0..voxels).map(|i| ((i * 7919) % 1013) as f32 / 1013.0).collect()
    }

    #[test]
    fn factors_come_nearest_to_the_wanted_spacing() {
        let config = WholeScanConfig::default();
        for (spacing, expected) in
            [(None, [1; 3]), (Some([1.5, 1.5, 3.0]), [3, 3, 1]), (Some([0.8, 1.0, 5.0]), [5, 4, 1]), (Some([0.001; 3]), [64; 3])]
        {
            assert_eq!(config.factor(spacing), expected, "{spacing:?}");
        }
        assert_eq!(config.stride(&FocusConfig::default()).unwrap(), 4);
        let second = |second_spacing_mm| WholeScanConfig { second_spacing_mm, ..config.clone() };
        for (spacing, expected) in
            [(None, None), (Some([5.0; 3]), None), (Some([1.5, 1.5, 3.0]), Some([1; 3])), (Some([0.8, 1.0, 2.5]), Some([3, 2, 1]))]
        {
            assert_eq!(second(2.0).second_factor(spacing), expected, "{spacing:?}");
            assert_eq!(config.second_factor(spacing), None);
        }
        let share = |second_share| WholeScanConfig { second_share, ..config.clone() };
        let wrong = [WholeScanConfig { spacing_mm: f64::NAN, ..config.clone() }, WholeScanConfig { falloff: -1.0, ..config.clone() }];
        for wrong in wrong.into_iter().chain([second(4.0), second(f64::NAN), second(0.01), share(0.0), share(1.5)]) {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        assert!(second(2.0).check().is_ok());
    }

    /// A Glance with batch norm, whose answers depend on what lies around a cell and on nothing else, and which reads twice.
    fn twice(norm: NormKind) -> WholeScanGlance<B> {
        let config =
            WholeScanConfig { blocks: vec![1, 1], widths: vec![4, 8], norm, spacing_mm: 2.0, second_spacing_mm: 1.0, ..Default::default() };
        config.init(1, Some([1.0; 3]), &FocusConfig::default(), &Init::new(3, "glance", &Default::default())).unwrap()
    }

    /// Log-odds of a part's cells.
    fn read(glance: &WholeScanGlance<B>, grid: &CellGrid, image: &[f32], part: Part) -> Vec<f32> {
        let [d, h, w] = part.cells.map(|n| n * grid.stride);
        numbers(glance.parts(tensor(&grid.pool_part(image, 1, part), [1, 1, d, h, w]), Mode::Eval))
    }

    #[test]
    fn a_part_reads_as_a_full_fine_pass_does_where_its_faces_are_out_of_sight() {
        let glance = twice(NormKind::Batch);
        let (shape, image) = ([16, 48, 8], scan(16 * 48 * 8));
        let fine = glance.second_grid(shape).unwrap();
        assert_eq!((glance.grid(shape).factor, fine.cells()), ([2; 3], [4, 12, 2]));
        let [d, h, w] = fine.coarse();
        let full = numbers(glance.cells(glance.features(tensor(&fine.pool(&image, 1), [1, 1, d, h, w]), Mode::Eval)));
        let part = Part { start: [0, 2, 0], cells: [4, 8, 2] };
        let full = fine.of_part(&full, part);
        // One voxel of the stem, two layers at 2 voxels, one more at 2 and one at 4 for the strided block: within 11 voxels, or three cells.
        let sight = 3;
        let mut differ = 0;
        for (i, (a, b)) in read(&glance, &fine, &image, part).iter().zip(&full).enumerate() {
            let y = i / 2 % 8;
            let same = (a - b).abs() < 1e-5;
            assert!(same || y < sight || y >= 8 - sight, "cell {i}: {a}, in the full pass {b}");
            differ += usize::from(!same);
        }
        assert!(differ > 0, "the faces are in sight of the outer cells");
    }

    #[test]
    fn what_a_part_says_depends_on_nothing_else() {
        for norm in [NormKind::Batch, NormKind::Group, NormKind::Instance] {
            let glance = twice(norm);
            let (shape, image) = ([16, 48, 8], scan(16 * 48 * 8));
            let fine = glance.second_grid(shape).unwrap();
            let parts = [[0, 0, 0], [0, 2, 0], [1, 7, 0]].map(|start| Part { start, cells: [3, 5, 2] });
            let alone: Vec<f32> = parts.iter().flat_map(|&part| read(&glance, &fine, &image, part)).collect();
            let x: Vec<f32> = parts.iter().flat_map(|&part| fine.pool_part(&image, 1, part)).collect();
            let together = numbers(glance.parts(tensor(&x, [3, 1, 12, 20, 8]), Mode::Eval));
            assert!(alone.iter().zip(&together).all(|(a, b)| (a - b).abs() < 1e-5), "{norm:?}");
        }
    }

    #[test]
    fn the_second_look_keeps_to_its_share() {
        let glance = twice(NormKind::Group);
        let (shape, window) = ([32, 32, 16], [8, 8, 8]);
        let heat: Vec<f32> = scan(glance.grid(shape).cells().iter().product());
        let parts = glance.second_parts(shape, &heat, window);
        assert_eq!(parts.len(), 8, "8 parts of 2 x 2 x 2 cells are a quarter of 8 x 8 x 4");
        assert_eq!(glance.second_parts([8; 3], &heat[..1], [8; 3]).len(), 1, "one part is always read");
        let once = self::glance(Some([2.0; 3]));
        assert!(once.second_parts(shape, &heat, window).is_empty());
    }

    #[test]
    fn pooling_a_tensor_equals_pooling_a_scan() {
        let glance = glance(Some([2.0, 4.0, 1.0]));
        let grid = glance.grid([16, 8, 32]);
        assert_eq!((grid.factor, grid.cells()), ([2, 1, 4], [2, 2, 2]));
        let values = scan(2 * 16 * 8 * 32);
        let pooled = numbers(pool(tensor(&values, [1, 2, 16, 8, 32]), grid.factor));
        for (a, b) in pooled.iter().zip(grid.pool(&values, 2)) {
            assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn a_scan_of_one_window_reads_as_the_window_does() {
        let glance = glance(None);
        let (shape, values) = ([16, 16, 8], scan(16 * 16 * 8));
        let (logits, cells) = glance.forward_cells(tensor(&values, [1, 1, 16, 16, 8]), Mode::Eval);
        let grid = glance.grid(shape);
        let heat = glance.cells(glance.features(tensor(&grid.pool(&values, 1), [1, 1, 16, 16, 8]), Mode::Eval));
        assert_eq!(numbers(cells), numbers(heat.clone()));
        let readings = grid.read(&numbers(heat.clone()), shape, &[[0; 3]], glance.falloff());
        let read = numbers(WholeScanGlance::windows(heat, &readings));
        let logits = numbers(logits);
        assert!(
            (read[1] - logits[1]).abs() < 1e-5 && read[0] == 0.0 && (readings[0].log_odds - read[1]).abs() < 1e-6,
            "{read:?} {logits:?}"
        );
    }

    #[test]
    fn gradients_of_readings_equal_finite_differences() {
        let grid = CellGrid { shape: [1, 1, 6], factor: [1; 3], stride: 1 };
        let starts = [[0, 0, 0], [0, 0, 1], [0, 0, 3]];
        let heat = [0.3, -0.2, 0.9, 0.1, -0.4, 0.7];
        let weights = [1.0, -2.0, 0.5];
        let loss = |heat: &[f32]| -> f64 {
            let read = grid.read(heat, [1, 1, 3], &starts, 0.5);
            read.iter().zip(weights).map(|(r, w)| f64::from(r.log_odds).powi(2) * w).sum()
        };
        let leaf = tensor(&heat, [6]).require_grad();
        let read = grid.read(&heat, [1, 1, 3], &starts, 0.5);
        let z = WholeScanGlance::windows(leaf.clone(), &read).narrow(1, 1, 1).flatten::<1>(0, 1);
        let weights = tensor(&[1.0, -2.0, 0.5], [3]);
        let grad: Vec<f32> = leaf.grad(&(z.powf_scalar(2.0) * weights).sum().backward()).unwrap().into_data().iter::<f32>().collect();
        for i in 0..6 {
            let at = |step: f32| {
                let mut heat = heat;
                heat[i] += step;
                loss(&heat)
            };
            let expected = (at(1e-3) - at(-1e-3)) / 2e-3;
            assert!((f64::from(grad[i]) - expected).abs() < 1e-2, "cell {i}: {} and {expected}", grad[i]);
        }
    }
}
