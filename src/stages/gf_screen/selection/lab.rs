//! The training scans with what Focus did in their windows, and what Glance is shown of them.

use std::sync::Arc;

use burn::tensor::backend::BackendTypes;
use burn::tensor::{DType, Tensor, TensorData};
use panscreen_envs::dataset::Store;
use panscreen_envs::rng::{RngExt, SliceRandom, Stream, stream};
use panscreen_envs::screening::blend::gaussian;
use panscreen_envs::screening::cached::{TableBuilder, WindowTable};
use panscreen_envs::screening::heat::{CellGrid, Part, mirror};
use panscreen_envs::screening::windows::cut;
use panscreen_envs::screening::{CropEnv, Grouping, Scan};
use panscreen_policies::PolicyBackend;
use panscreen_policies::focus::Focus;
use panscreen_policies::glance::Glance;
use panscreen_policies::losses::cell_targets;
use panscreen_policies::nets::Mode;
use panscreen_policies::whole_scan::WholeScanGlance;

use crate::backend::InferBackend;
use crate::config::{Config, SetScore};
use crate::error::Result;
use crate::run::Observer;
use crate::screen::{FocusCache, Image, Plan, Screener};
use crate::setup;

/// The training scans and their windows.
pub struct Lab {
    store: Arc<Store>,
    env: CropEnv,
    tables: Vec<WindowTable>,
    window: [usize; 3],
    flip_probability: f64,
    seed: u64,
}

/// Windows of one scan that a step decides on.
pub struct Draw {
    pub scan: Arc<Scan>,
    /// Number of the scan.
    pub number: usize,
    /// Numbers of the windows in its table.
    pub windows: Vec<usize>,
    /// A voxel of a lesion drawn at random, each lesion as often as the others; `None` in a scan without.
    lesion: Option<[usize; 3]>,
    /// Axes along which Glance sees it mirrored.
    flips: [bool; 3],
}

impl Lab {
    /// Let Focus look at every window of every training scan, once.
    pub fn new<B: InferBackend>(
        screener: &Screener<B>,
        store: Arc<Store>,
        cache: Option<&FocusCache>,
        config: &Config,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let (reward, keep) = (setup::reward(config), config.selection.reward != SetScore::Recall);
        let importance = gaussian(config.env.window, 0.125);
        let count = store.cases().len();
        observer.phase("let Focus look everywhere once", Some(count as u64));
        let mut tables = Vec::with_capacity(count);
        for i in 0..count {
            let case = store.load(i)?;
            // The windows of the grid alone, wherever Glance's may lie.
            let plan = Plan::new(case.scan.shape, config.env.window, &config.screen, None);
            let voxel_ml = case.spacing_mm.iter().product::<f64>() / 1000.0;
            let threshold = config.screen.mask_threshold as f32;
            let mut table = TableBuilder::new(&case.scan, voxel_ml, config.env.window, threshold, &*reward, keep);
            let image = Image { data: &case.scan.image, channels: case.scan.channels, shape: case.scan.shape };
            if let Some(cache) = cache {
                let votes = cache.votes(&store.cases()[i], &plan, || screener.focus(image, &plan.starts))?;
                plan.starts.iter().enumerate().for_each(|(w, start)| table.add(*start, votes.window(w)));
            } else {
                for starts in plan.starts.chunks(screener.batch) {
                    starts.iter().zip(screener.focus(image, starts)?).for_each(|(start, p)| table.add(*start, p));
                }
            }
            tables.push(table.finish(keep.then_some((case.spacing_mm, &importance[..])))?);
            observer.advance(1, &[]);
        }
        observer.finish();
        let env = setup::environment(config, store.clone())?;
        Ok(Lab { store, env, tables, window: config.env.window, flip_probability: config.env.flip_probability, seed: config.seed })
    }

    pub fn grouping(&self) -> Grouping {
        self.env.config().grouping
    }

    pub fn table(&self, draw: &Draw) -> &WindowTable {
        &self.tables[draw.number]
    }

    /// What step number `index` of the stage sees: a pure function. Where sets are scored, all windows of each scan; else
    /// `env.crops_per_volume`, each of them one with lesion with the probability `env.lesion_fraction`.
    pub fn draw(&self, index: u64) -> Result<Vec<Draw>> {
        let of_slot = |(slot, number): (usize, usize)| {
            let mut rng = stream(self.seed, "selection", index, slot as u64);
            let flips = std::array::from_fn(|_| rng.random_bool(self.flip_probability));
            let windows = self.windows(&self.tables[number], &mut rng);
            let scan = self.store.load(number)?.scan;
            let lesion = lesion_voxel(&scan, &mut stream(self.seed, "second look", index, slot as u64));
            Ok(Draw { scan, number, windows, lesion, flips })
        };
        self.env.scans(self.seed, index).into_iter().enumerate().map(of_slot).collect()
    }

    fn windows(&self, table: &WindowTable, rng: &mut Stream) -> Vec<usize> {
        let (all, wanted) = (table.starts.len(), self.env.config().crops);
        if self.grouping() == Grouping::Masks || all <= wanted {
            return (0..all).collect();
        }
        let (mut with, mut without): (Vec<usize>, Vec<usize>) = (0..all).partition(|&w| table.labels.lesion[w] > 0.0);
        with.shuffle(rng);
        without.shuffle(rng);
        let fraction = self.env.config().sampler.lesion_fraction;
        let mut take = || {
            let first = if rng.random_bool(fraction) { &mut with } else { &mut without };
            first.pop()
        };
        let mut drawn: Vec<usize> = (0..wanted).filter_map(|_| take()).collect();
        // One kind ran out: the other fills the group.
        drawn.extend(with.into_iter().chain(without).take(wanted - drawn.len()));
        drawn
    }

    /// What the second look of a whole-scan Glance is taught on: the part that it would read first by `heat` (of the first look, as it was shown the
    /// draw), where false alarms are, and one around a lesion. `None` where there is no second look.
    pub fn second_view<B: PolicyBackend>(&self, draw: &Draw, net: &WholeScanGlance<B>, heat: &[f32]) -> Option<Parts> {
        let scan = &*draw.scan;
        let fine = net.second_grid(scan.shape)?;
        let heat = mirror(heat, net.grid(scan.shape).cells(), draw.flips);
        let hottest = net.second_parts(scan.shape, &heat, self.window).into_iter().next();
        let parts: Vec<Part> = hottest.into_iter().chain(draw.lesion.map(|voxel| fine.part(voxel, self.window))).collect();
        let cells = parts.first()?.cells;
        let targets = fine.targets(scan);
        let view = |part: &Part| mirror(&fine.pool_part(&scan.image, scan.channels, *part), cells.map(|n| n * fine.stride), draw.flips);
        Some(Parts {
            x: parts.iter().flat_map(view).collect(),
            dims: [parts.len(), scan.channels, cells[0] * fine.stride, cells[1] * fine.stride, cells[2] * fine.stride],
            targets: parts.iter().flat_map(|&part| mirror(&fine.of_part(&targets, part), cells, draw.flips)).collect(),
        })
    }

    /// What Glance is shown of a draw: the scan at its coarse grid, or the windows.
    pub fn view(&self, draw: &Draw, whole_scan: Option<CellGrid>) -> View {
        let starts: Vec<[usize; 3]> = draw.windows.iter().map(|&w| self.table(draw).starts[w]).collect();
        let (scan, window) = (&*draw.scan, self.window);
        if let Some(grid) = whole_scan {
            let x = mirror(&grid.pool(&scan.image, scan.channels), grid.coarse(), draw.flips);
            let targets = mirror(&grid.targets(scan), grid.cells(), draw.flips);
            return View {
                x,
                channels: scan.channels,
                window,
                what: Sight::Scan { grid, starts: grid.mirrored(&starts, window, draw.flips), targets },
            };
        }
        let voxels: usize = window.iter().product();
        let (mut x, mut lesion) = (vec![0.0; starts.len() * scan.channels * voxels], vec![0; starts.len() * voxels]);
        for (start, (x, lesion)) in starts.iter().zip(x.chunks_exact_mut(scan.channels * voxels).zip(lesion.chunks_exact_mut(voxels))) {
            cut(&scan.image, scan.channels, scan.shape, *start, window, 0.0, x);
            cut(&scan.lesion, 1, scan.shape, *start, window, 0, lesion);
        }
        View {
            x: mirror(&x, window, draw.flips),
            channels: scan.channels,
            window,
            what: Sight::Windows { count: starts.len(), lesion: mirror(&lesion, window, draw.flips) },
        }
    }
}

fn lesion_voxel(scan: &Scan, rng: &mut Stream) -> Option<[usize; 3]> {
    let number = (scan.lesions() > 0).then(|| rng.random_range(1..=scan.lesions()))?;
    let voxels: Vec<u32> = scan.lesion_voxels().iter().copied().filter(|&v| scan.lesion[v as usize] == number).collect();
    Some(scan.position(voxels[rng.random_range(0..voxels.len())] as usize))
}

/// Pooled parts of a scan, and what each of their cells is taught.
pub struct Parts {
    /// `[G][C][part]`.
    x: Vec<f32>,
    dims: [usize; 5],
    targets: Vec<f32>,
}

impl Parts {
    /// Log-odds of the cells, with what they are taught.
    pub fn look<B: PolicyBackend>(self, net: &WholeScanGlance<B>, mode: Mode, to: Elements<B>) -> TaughtCells<B> {
        (net.parts(Tensor::from_data(TensorData::new(self.x, self.dims), to), mode), self.targets)
    }
}

/// Where a tensor goes, and of what type its elements are.
pub type Elements<'a, B> = (&'a <B as BackendTypes>::Device, DType);

/// Log-odds of cells and what each is taught.
pub type TaughtCells<B> = (Tensor<B, 4>, Vec<f32>);

/// What Glance is shown, as numbers.
pub struct View {
    x: Vec<f32>,
    channels: usize,
    window: [usize; 3],
    what: Sight,
}

enum Sight {
    /// `x` is `[C][coarse]`.
    Scan { grid: CellGrid, starts: Vec<[usize; 3]>, targets: Vec<f32> },
    /// `x` is `[G][C][window]`.
    Windows { count: usize, lesion: Vec<u8> },
}

impl View {
    /// The windows as a tensor; `None` of a whole scan.
    pub fn tensor<B: PolicyBackend>(&self, to: Elements<B>) -> Option<Tensor<B, 5>> {
        let Sight::Windows { count, .. } = self.what else { return None };
        let [d, h, w] = self.window;
        Some(Tensor::from_data(TensorData::new(self.x.clone(), [count, self.channels, d, h, w]), to))
    }

    /// Glance's logits of the windows, `[G, 2]`, and of its cells, where it has them, with what those are taught.
    pub fn look<B: PolicyBackend>(
        &self,
        glance: &Glance<B>,
        focus: &Focus<B>,
        mode: Mode,
        to: Elements<B>,
    ) -> (Tensor<B, 2>, Option<TaughtCells<B>>) {
        match (&self.what, glance) {
            (Sight::Scan { grid, starts, targets }, Glance::WholeScan(net)) => {
                let [d, h, w] = grid.coarse();
                let x = Tensor::from_data(TensorData::new(self.x.clone(), [1, self.channels, d, h, w]), to);
                let cells = net.cells(net.features(x, mode));
                let heat: Vec<f32> = cells.clone().into_data().iter::<f32>().collect();
                let z = WholeScanGlance::windows(cells.clone(), &grid.read(&heat, self.window, starts, net.falloff()));
                let [d, h, w] = grid.cells();
                (z, Some((cells.reshape([1, d, h, w]), targets.clone())))
            }
            (Sight::Windows { lesion, .. }, _) => {
                let x = self.tensor::<B>(to).expect("windows have a tensor");
                // As it screens: in training mode a batch norm would go on counting, and Focus is finished.
                let features = if glance.is_tied() { focus.features(x.clone(), Mode::Eval) } else { vec![] };
                let (z, cells) = glance.forward_cells(x, &features, mode);
                let cells = cells.map(|cells| {
                    let [_, d, h, w] = cells.dims();
                    (cells, cell_targets(lesion, self.window, [d, h, w]))
                });
                (z, cells)
            }
            (Sight::Scan { .. }, _) => unreachable!("only a whole-scan Glance is shown whole scans"),
        }
    }
}
