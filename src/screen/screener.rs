//! Both policies on the windows of a scan.

use std::any::TypeId;

use burn::backend::Flex;
use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, TensorData};
use panscreen_envs::screening::windows::cut;
use panscreen_policies::focus::Focus;
use panscreen_policies::glance::Glance;
use panscreen_policies::nets::Mode;
use panscreen_policies::objectives::log_odds;

use super::{Glanced, Plan};
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

    /// Glance's probability that each window of `plan` deserves a look. One that isn't a number is an error that names the window.
    pub fn glance(&self, image: Image, plan: &Plan) -> Result<Glanced> {
        let probability = |z: f32| 1.0 / (1.0 + (-z).exp());
        if let Some(net) = self.glance.whole_scan() {
            let grid = net.grid(image.shape);
            let [d, h, w] = grid.coarse();
            let x = TensorData::new(grid.pool(image.data, image.channels), [1, image.channels, d, h, w]);
            let cells = net.cells(net.features(Tensor::from_data(x, &self.device), Mode::Eval));
            let odds: Vec<f32> = cells.into_data().iter::<f32>().collect();
            let read = grid.read(&odds, self.window, &plan.starts, net.falloff());
            let windows = read.into_iter().map(|r| probability(r.log_odds)).collect();
            let glanced = Glanced { windows, heat: Some((grid, odds.into_iter().map(probability).collect())) };
            check("Glance", &plan.starts, glanced.windows.iter().map(std::slice::from_ref))?;
            return Ok(glanced);
        }
        // Glance is small: a larger batch keeps every core busy.
        let mut windows = Vec::with_capacity(plan.starts.len());
        for batch in plan.starts.chunks(self.at_once(self.batch * 4)) {
            let odds = log_odds(self.glance.forward(self.windows(image, batch), &self.focus, Mode::Eval));
            windows.extend(odds.into_iter().map(probability));
            check("Glance", batch, windows[windows.len() - batch.len()..].iter().map(std::slice::from_ref))?;
        }
        Ok(Glanced { windows, heat: None })
    }

    /// Focus's lesion probability in each window, `[window]`. One that isn't a number is an error that names the window.
    pub fn focus(&self, image: Image, starts: &[[usize; 3]]) -> Result<Vec<Vec<f32>>> {
        let voxels: usize = self.window.iter().product();
        let mut out = Vec::with_capacity(starts.len());
        for batch in starts.chunks(self.at_once(self.batch)) {
            let logits = self.focus.forward(self.windows(image, batch), Mode::Eval);
            let lesion = softmax(logits, 1).narrow(1, 1, 1).into_data().convert::<f32>();
            let lesion: &[f32] = lesion.as_slice().expect("converted to f32 above");
            check("Focus", batch, lesion.chunks_exact(voxels))?;
            out.extend(lesion.chunks_exact(voxels).map(<[f32]>::to_vec));
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

    fn windows(&self, image: Image, starts: &[[usize; 3]]) -> Tensor<B, 5> {
        let [d, h, w] = self.window;
        let one = image.channels * d * h * w;
        let mut x = vec![0.0; starts.len() * one];
        for (start, x) in starts.iter().zip(x.chunks_exact_mut(one)) {
            cut(image.data, image.channels, image.shape, *start, self.window, 0.0, x);
        }
        Tensor::from_data(TensorData::new(x, [starts.len(), image.channels, d, h, w]), &self.device)
    }
}

/// Refuse probabilities that aren't numbers.
fn check<'a>(network: &str, starts: &[[usize; 3]], values: impl Iterator<Item = &'a [f32]>) -> Result<()> {
    match starts.iter().zip(values).find(|(_, values)| values.iter().any(|v| !v.is_finite())) {
        None => Ok(()),
        Some((start, _)) => Err(Error::Usage(format!(
            "{network}'s answer for the window at {start:?} of the prepared scan is not a number; look at the scan (`panscreen inspect`) and the weights"
        ))),
    }
}

#[test]
fn an_answer_that_is_no_number_names_its_window() {
    let starts = [[0, 0, 0], [8, 0, 4]];
    assert!(check("Glance", &starts, [[0.1, 0.9], [1.0, 0.0]].iter().map(|v| v.as_slice())).is_ok());
    let error = check("Focus", &starts, [[0.1, 0.9], [0.5, f32::NAN]].iter().map(|v| v.as_slice())).unwrap_err().to_string();
    assert!(error.contains("Focus") && error.contains("[8, 0, 4]") && error.contains("inspect"), "{error}");
}
