//! Both policies on the windows of a scan.

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

    /// Glance's probability that each window of `plan` deserves a look.
    pub fn glance(&self, image: Image, plan: &Plan) -> Glanced {
        let probability = |z: f32| 1.0 / (1.0 + (-z).exp());
        if let Some(net) = self.glance.whole_scan() {
            let grid = net.grid(image.shape);
            let [d, h, w] = grid.coarse();
            let x = TensorData::new(grid.pool(image.data, image.channels), [1, image.channels, d, h, w]);
            let cells = net.cells(net.features(Tensor::from_data(x, &self.device), Mode::Eval));
            let odds: Vec<f32> = cells.into_data().iter::<f32>().collect();
            let read = grid.read(&odds, self.window, &plan.starts, net.falloff());
            let windows = read.into_iter().map(|r| probability(r.log_odds)).collect();
            return Glanced { windows, heat: Some((grid, odds.into_iter().map(probability).collect())) };
        }
        // Glance is small: a larger batch keeps every core busy.
        let batches = plan.starts.chunks(self.batch * 4);
        let odds = batches.flat_map(|s| log_odds(self.glance.forward(self.windows(image, s), &self.focus, Mode::Eval)));
        Glanced { windows: odds.map(probability).collect(), heat: None }
    }

    /// Focus's lesion probability in each window, `[window]`.
    pub fn focus(&self, image: Image, starts: &[[usize; 3]]) -> Vec<Vec<f32>> {
        let voxels: usize = self.window.iter().product();
        let mut out = Vec::with_capacity(starts.len());
        for batch in starts.chunks(self.batch) {
            let logits = self.focus.forward(self.windows(image, batch), Mode::Eval);
            let lesion = softmax(logits, 1).narrow(1, 1, 1).into_data().convert::<f32>();
            let lesion: &[f32] = lesion.as_slice().expect("converted to f32 above");
            out.extend(lesion.chunks_exact(voxels).map(<[f32]>::to_vec));
        }
        out
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
