//! Both policies on the windows of a scan.

use std::any::TypeId;

use burn::backend::Flex;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Tensor, TensorData};
use panscreen_envs::screening::heat::{CellGrid, Part};
use panscreen_envs::screening::windows::{cut, enlarge};
use panscreen_policies::focus::Focus;
use panscreen_policies::glance::Glance;
use panscreen_policies::nets::Mode;
use panscreen_policies::objectives::log_odds;
use panscreen_policies::whole_scan::WholeScanGlance;

use super::{Again, Glanced, Place, Plan};
use crate::backend::InferBackend;
use crate::config::ScreenConfig;
use crate::error::{Error, Result};

/// Glance and Focus, ready to look.
pub struct Screener<B: InferBackend> {
    pub glance: Glance<B>,
    pub focus: Focus<B>,
    /// Voxels of a window.
    pub window: [usize; 3],
    /// Windows that go through a network at once.
    pub batch: usize,
    pub device: B::Device,
    /// What the networks are given. In half precision a window whose logits overflow is given to the same weights once more, in `f32`.
    pub dtype: DType,
    /// Those windows.
    pub again: Again,
}

/// A prepared scan: `[C][X][Y][Z]`, intensities 0..1.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    pub data: &'a [f32],
    pub channels: usize,
    pub shape: [usize; 3],
}

impl<B: InferBackend> Screener<B> {
    /// How the windows of a scan of `shape` voxels are laid.
    pub fn plan(&self, shape: [usize; 3], config: &ScreenConfig) -> Plan {
        Plan::new(shape, self.window, config, self.glance.whole_scan().map(|net| net.grid(shape)))
    }

    /// Glance's probability that each window of `plan` deserves a look. One that isn't a number is an error that names the place.
    pub fn glance(&self, image: Image, plan: &Plan) -> Result<Glanced> {
        if let Some(net) = self.glance.whole_scan() {
            return self.second_heat(net, image, self.heat(net, image)?).map(|heat| self.read(net, plan, heat));
        }
        // Glance is small: a larger batch keeps every core busy.
        let mut windows = Vec::with_capacity(plan.starts.len());
        for batch in plan.starts.chunks(self.at_once(self.batch * 4)) {
            let places = places(batch);
            let net = |x| log_odds(self.glance.forward(x, &self.focus, Mode::Eval));
            let odds = self.again.ask("Glance", self.windows(image, &places), self.dtype, &places, net);
            check("Glance", batch, odds.chunks_exact(1))?;
            windows.extend(odds.into_iter().map(probability));
        }
        Ok(Glanced { windows, heat: None })
    }

    /// The whole-scan Glance that will look at scans of `shape` twice, where it is such.
    pub fn glances_twice(&self, shape: [usize; 3]) -> Option<&WholeScanGlance<B>> {
        self.glance.whole_scan().filter(|net| net.second_grid(shape).is_some())
    }

    /// The first look of a whole-scan Glance.
    pub fn heat(&self, net: &WholeScanGlance<B>, image: Image) -> Result<Heat> {
        let grid = net.grid(image.shape);
        let [d, h, w] = grid.coarse();
        let x = TensorData::new(grid.pool(image.data, image.channels), [1, image.channels, d, h, w]);
        let cells = |x| net.cells(net.features(x, Mode::Eval)).into_data().iter::<f32>().collect();
        let odds = self.again.ask("Glance", Tensor::from_data(x, &self.device), self.dtype, &places(&[[0; 3]]), cells);
        check_cells(&odds, |i| grid.middle(i))?;
        Ok(Heat { grid, odds, parts: 0 })
    }

    /// The second look: the hottest parts again at the finer grid. `first` as it is where there is none.
    pub fn second_heat(&self, net: &WholeScanGlance<B>, image: Image, first: Heat) -> Result<Heat> {
        let Some(fine) = net.second_grid(image.shape) else { return Ok(first) };
        let parts = net.second_parts(image.shape, &first.odds, self.window);
        let mut read: Vec<(Part, Vec<f32>)> = Vec::with_capacity(parts.len());
        for batch in parts.chunks(self.at_once(self.batch)) {
            let [d, h, w] = batch[0].cells.map(|n| n * fine.stride);
            let x: Vec<f32> = batch.iter().flat_map(|&part| fine.pool_part(image.data, image.channels, part)).collect();
            let x = Tensor::from_data(TensorData::new(x, [batch.len(), image.channels, d, h, w]), &self.device);
            let voxel = |a: usize, cell: usize| cell * fine.stride * fine.factor[a];
            let starts: Vec<[usize; 3]> = batch.iter().map(|p| std::array::from_fn(|a| voxel(a, p.start[a]))).collect();
            let look = |x| net.parts(x, Mode::Eval).into_data().iter::<f32>().collect();
            let odds = self.again.ask("Glance", x, self.dtype, &places(&starts), look);
            let cells = batch[0].cells.iter().product();
            read.extend(batch.iter().copied().zip(odds.chunks_exact(cells).map(<[f32]>::to_vec)));
        }
        let odds = first.grid.refine(&first.odds, &fine, &read);
        check_cells(&odds, |i| fine.middle(i))?;
        Ok(Heat { grid: fine, odds, parts: read.len() })
    }

    /// What `heat` says about the windows of `plan`.
    pub fn read(&self, net: &WholeScanGlance<B>, plan: &Plan, heat: Heat) -> Glanced {
        let read = heat.grid.read(&heat.odds, self.window, &plan.starts, net.falloff());
        let windows = read.into_iter().map(|r| probability(r.log_odds)).collect();
        Glanced { windows, heat: Some((heat.grid, heat.odds.into_iter().map(probability).collect())) }
    }

    /// Focus's lesion probability in each window, `[window]`. One that isn't a number is an error that names the window.
    pub fn focus(&self, image: Image, starts: &[[usize; 3]]) -> Result<Vec<Vec<f32>>> {
        self.focus_at(image, &places(starts))
    }

    /// Focus's lesion probability in each window of `plan` in `numbers`, on the scan's voxels: `[window]`, or `[size]` of a wider one.
    pub fn look(&self, image: Image, plan: &Plan, numbers: &[usize]) -> Result<Vec<Vec<f32>>> {
        let places: Vec<Place> = numbers.iter().map(|&i| plan.place(i)).collect();
        self.focus_at(image, &places)
    }

    fn focus_at(&self, image: Image, places: &[Place]) -> Result<Vec<Vec<f32>>> {
        let voxels: usize = self.window.iter().product();
        let mut out = Vec::with_capacity(places.len());
        for batch in places.chunks(self.at_once(self.batch)) {
            let lesion = self.again.ask("Focus", self.windows(image, batch), self.dtype, batch, |x| {
                let logits = self.focus.forward(x, Mode::Eval);
                // An infinite logit can have a probability that is a number: it must not pass for one.
                let numbers = logits.clone().sum_dim(1) * 0.0;
                let lesion = softmax(logits, 1).narrow(1, 1, 1) + numbers;
                lesion.into_data().iter::<f32>().collect()
            });
            let starts: Vec<[usize; 3]> = batch.iter().map(|place| place.start).collect();
            check("Focus", &starts, lesion.chunks_exact(voxels))?;
            let on_scan = |(p, place): (&[f32], &Place)| if place.scale == 1 { p.to_vec() } else { enlarge(p, self.window, place.scale) };
            out.extend(lesion.chunks_exact(voxels).zip(batch).map(on_scan));
        }
        Ok(out)
    }

    /// How many of `wanted` windows go through a network together. Large ones keep a processor busy by themselves, and its caches hold more of one.
    fn at_once(&self, wanted: usize) -> usize {
        const VOXELS: usize = 1 << 20;
        let on_cpu = TypeId::of::<B>() == TypeId::of::<Flex>();
        let most = if on_cpu { VOXELS / self.window.iter().product::<usize>().max(1) } else { usize::MAX };
        wanted.min(most).max(1)
    }

    fn windows(&self, image: Image, places: &[Place]) -> Tensor<B, 5> {
        let [d, h, w] = self.window;
        let mut x = Vec::with_capacity(places.len() * image.channels * d * h * w);
        places.iter().for_each(|&place| x.extend(voxels_at(image, place, self.window)));
        Tensor::from_data(TensorData::new(x, [places.len(), image.channels, d, h, w]), &self.device)
    }
}

fn places(starts: &[[usize; 3]]) -> Vec<Place> {
    starts.iter().map(|&start| Place { start, scale: 1 }).collect()
}

fn probability(log_odds: f32) -> f32 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// What a network sees at `place`, `[C][window]`: at a larger scale the means of blocks of voxels. 0 beyond the scan.
fn voxels_at(image: Image, place: Place, window: [usize; 3]) -> Vec<f32> {
    let size = window.map(|n| n * place.scale);
    let mut voxels = vec![0.0; image.channels * size.iter().product::<usize>()];
    cut(image.data, image.channels, image.shape, place.start, size, 0.0, &mut voxels);
    if place.scale == 1 {
        return voxels;
    }
    CellGrid { shape: size, factor: [place.scale; 3], stride: 1 }.pool(&voxels, image.channels)
}

/// The heat map of a whole-scan Glance.
#[derive(Clone, Debug, PartialEq)]
pub struct Heat {
    pub grid: CellGrid,
    /// Log-odds of each cell.
    pub odds: Vec<f32>,
    /// Parts that the second look read.
    pub parts: usize,
}

/// Refuse log-odds of cells that aren't numbers; `middle` says where a cell lies.
fn check_cells(odds: &[f32], middle: impl Fn(usize) -> [usize; 3]) -> Result<()> {
    match odds.iter().position(|z| !z.is_finite()) {
        None => Ok(()),
        Some(i) => Err(not_a_number("Glance", &format!("cell around {:?}", middle(i)))),
    }
}

/// Refuse probabilities that aren't numbers.
fn check<'a>(network: &str, starts: &[[usize; 3]], values: impl Iterator<Item = &'a [f32]>) -> Result<()> {
    match starts.iter().zip(values).find(|(_, values)| values.iter().any(|v| !v.is_finite())) {
        None => Ok(()),
        Some((start, _)) => Err(not_a_number(network, &format!("window at {start:?}"))),
    }
}

fn not_a_number(network: &str, place: &str) -> Error {
    Error::Usage(format!(
        "{network}'s answer for the {place} of the prepared scan is not a number; look at the scan (`panscreen inspect`) and the weights"
    ))
}

#[cfg(test)]
mod tests {
    use panscreen_policies::focus::FocusConfig;
    use panscreen_policies::glance::{GlanceConfig, Shared};
    use panscreen_policies::nets::{NormKind, ResidualUNetConfig};
    use panscreen_policies::whole_scan::WholeScanConfig;

    use super::*;

    #[test]
    fn an_answer_that_is_no_number_names_its_window() {
        let starts = [[0, 0, 0], [8, 0, 4]];
        assert!(check("Glance", &starts, [[0.1, 0.9], [1.0, 0.0]].iter().map(|v| v.as_slice())).is_ok());
        let error = check("Focus", &starts, [[0.1, 0.9], [0.5, f32::NAN]].iter().map(|v| v.as_slice())).unwrap_err().to_string();
        assert!(error.contains("Focus") && error.contains("[8, 0, 4]") && error.contains("inspect"), "{error}");
    }

    /// A window that is no number reads as minus infinity, which is a probability of 0: the cells themselves are looked at.
    #[test]
    fn a_cell_that_is_no_number_is_an_error_and_not_a_clear_scan() {
        let grid = CellGrid { shape: [4, 4, 12], factor: [2; 3], stride: 2 };
        assert!(check_cells(&[0.0, -3.0, 2.0], |i| grid.middle(i)).is_ok());
        let error = check_cells(&[0.0, f32::NAN, 2.0], |i| grid.middle(i)).unwrap_err().to_string();
        assert!(error.contains("Glance's answer for the cell around [2, 2, 6]"), "{error}");
    }

    /// With a Focus that sees every lesion voxel: what is cut out at a scale and brought back lies where it was.
    #[test]
    fn a_lesion_in_a_wider_window_lands_on_the_right_voxels() {
        let (shape, window) = ([20, 12, 16], [8, 6, 4]);
        let inside = |p: [usize; 3]| (6..12).contains(&p[0]) && (2..8).contains(&p[1]) && (8..14).contains(&p[2]);
        let place_of = |i: usize| [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
        let lesion: Vec<f32> = (0..shape.iter().product()).map(|i| f32::from(u8::from(inside(place_of(i))))).collect();
        let image = Image { data: &lesion, channels: 1, shape };
        for place in [Place { start: [2, 0, 8], scale: 2 }, Place { start: [4, 0, 6], scale: 2 }] {
            let size = window.map(|n| n * place.scale);
            let back = enlarge(&voxels_at(image, place, window), window, place.scale);
            assert_eq!(back.len(), size.iter().product::<usize>());
            for (i, p) in back.iter().enumerate() {
                let here = [i / (size[1] * size[2]), i / size[2] % size[1], i % size[2]];
                let there: [usize; 3] = std::array::from_fn(|a| place.start[a] + here[a]);
                // The lesion's faces are those of blocks: its outermost voxels have at least 0.75^3, those around it at most 0.25.
                assert_eq!(*p > 0.4, inside(there), "{place:?} {there:?}: {p}");
            }
        }
    }

    /// A whole-scan Glance that looks twice, of batch norm: what it says of a cell depends on what lies around it alone.
    fn twice(second_share: f64) -> Screener<Flex> {
        let focus_config = FocusConfig::ResidualUnet(ResidualUNetConfig { widths: vec![4, 8], blocks: vec![1, 1], ..Default::default() });
        let focus = focus_config.init(1, 2, 7, &Default::default()).unwrap();
        let net = WholeScanConfig {
            blocks: vec![1, 1],
            widths: vec![4, 8],
            norm: NormKind::Batch,
            spacing_mm: 2.0,
            second_spacing_mm: 1.0,
            second_share,
            ..Default::default()
        };
        let config = GlanceConfig::WholeScan(net);
        let glance = config.init(1, Some([1.0; 3]), Shared::None, &focus_config, &focus, 7, &Default::default()).unwrap();
        Screener { glance, focus, window: [16; 3], batch: 2, device: Default::default(), dtype: DType::F32, again: Again::default() }
    }

    #[test]
    fn a_second_look_changes_the_parts_it_reads_and_nothing_else() {
        let shape = [32, 32, 16];
        let data: Vec<f32> = (0..32 * 32 * 16).map(|i| ((i * 7919) % 1013) as f32 / 1013.0).collect();
        let image = Image { data: &data, channels: 1, shape };
        let screener = twice(0.25);
        let net = screener.glances_twice(shape).unwrap();
        let first = screener.heat(net, image).unwrap();
        let second = screener.second_heat(net, image, first.clone()).unwrap();
        assert_eq!((first.grid.cells(), second.grid.cells(), second.parts), ([4, 4, 2], [8, 8, 4], 1));
        let part = net.second_parts(shape, &first.odds, screener.window)[0];
        let unread = first.grid.refine(&first.odds, &second.grid, &[]);
        for (i, (a, b)) in second.odds.iter().zip(&unread).enumerate() {
            let cell = [i / 32, i / 4 % 8, i % 4];
            let read = (0..3).all(|a| (part.start[a]..part.start[a] + part.cells[a]).contains(&cell[a]));
            assert!(read || a == b, "cell {cell:?}: {a} {b}");
        }
        assert_ne!(second.odds, unread);
        // The same again, and the windows read the refined heat.
        assert_eq!(screener.second_heat(net, image, first).unwrap(), second);
        let plan = screener.plan(shape, &ScreenConfig::default());
        let glanced = screener.glance(image, &plan).unwrap();
        assert_eq!(glanced, screener.read(net, &plan, second));
        assert_eq!(glanced.heat.unwrap().0.cells(), [8, 8, 4]);
    }
}
