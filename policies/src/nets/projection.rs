//! Projection heads of self-supervised stages: linear layers with batch norm (always the batch's statistics, no parameters) and ReLU between.
//!
//! Keys: `layers.I.{weight,bias}`.
//!
//! Shapes: `x_NC`.

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, activation};

use super::layers::Linear;
use super::{ConfigError, Init, require};

/// A projection head. VoCo's is 1152 features to 1024, 1024, 1024 (3,279,872 parameters).
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionConfig {
    /// Features in, hidden units, features out: at least two numbers.
    pub widths: Vec<usize>,
    /// Batch norm after the last layer too.
    pub norm_last: bool,
}

impl ProjectionConfig {
    /// The head with its first weights, uniform as in PyTorch.
    pub fn init<B: Backend>(&self, init: &Init<B>) -> Result<Projection<B>, ConfigError> {
        let widths = &self.widths;
        require(widths.len() >= 2 && widths.iter().all(|&w| w > 0), || {
            format!("a projection head of widths {widths:?}; give at least features in and out, each at least 1")
        })?;
        let layer = |(i, pair): (usize, &[usize])| Linear::new(&init.at("layers").at(i), pair[0], pair[1]);
        Ok(Projection { layers: widths.windows(2).enumerate().map(layer).collect(), norm_last: self.norm_last })
    }
}

/// A projection head. See [`ProjectionConfig`].
#[derive(Module, Debug)]
pub struct Projection<B: Backend> {
    layers: Vec<Linear<B>>,
    norm_last: bool,
}

impl<B: Backend> Projection<B> {
    /// `x_NC` -> `[N, out]`; all rows are one batch.
    pub fn forward(&self, x_NC: Tensor<B, 2>) -> Tensor<B, 2> {
        let last = self.layers.len() - 1;
        self.layers.iter().enumerate().fold(x_NC, |x, (i, layer)| match layer.forward(x) {
            y if i < last => activation::relu(batch_norm(y)),
            y if self.norm_last => batch_norm(y),
            y => y,
        })
    }
}

/// Mean 0 and variance 1 of every column; epsilon 1e-6 (VoCo).
fn batch_norm<B: Backend>(x_NC: Tensor<B, 2>) -> Tensor<B, 2> {
    let x = x_NC.clone() - x_NC.mean_dim(0);
    let variance = x.clone().square().mean_dim(0);
    x / (variance + 1e-6).sqrt()
}

/// Cosine of every row of `a_NC` with every row of `b_MC`, `[N, M]`.
pub fn cosines<B: Backend>(a_NC: Tensor<B, 2>, b_MC: Tensor<B, 2>) -> Tensor<B, 2> {
    let unit = |x: Tensor<B, 2>| x.clone() / x.square().sum_dim(1).sqrt().clamp_min(1e-8);
    unit(a_NC).matmul(unit(b_MC).transpose())
}

#[cfg(test)]
mod tests {
    use super::super::golden::{self, B};
    use super::*;
    use crate::weights::{self, Scope};
    use burn::backend::Flex;
    use burn::tensor::TensorData;

    fn filled(name: &str, shape: [usize; 2], off: f64, scale: f64) -> Tensor<B, 2> {
        Tensor::from_data(TensorData::new(golden::fill(name, shape[0] * shape[1], off, scale), shape), &Default::default())
    }

    #[test]
    fn golden_voco_head() {
        let entry = golden::entry("voco_head");
        let config = ProjectionConfig { widths: vec![24, 32, 32, 16], norm_last: true };
        let head = config.init::<B>(&Init::new(0, "head", &Default::default())).unwrap();
        let mut tensors = golden::weights("voco", &entry);
        tensors.retain(|t| t.name.contains(".0."));
        tensors.iter_mut().for_each(|t| t.name = format!("layers.{}{}", t.name.as_bytes()[5] - b'1', &t.name[8..]));
        let (head, _) = weights::from_tensors(head, tensors, &Scope::Whole).unwrap();

        let x = Tensor::cat(vec![filled("voco.base", [9, 24], 0.0, 1.0), filled("voco.query", [6, 24], 0.0, 1.0)], 0);
        let z = head.forward(x);
        let rows = |v: &serde_json::Value| v.as_array().unwrap().iter().flat_map(golden::floats).collect::<Vec<f64>>();
        let check = |name: &str, t: &Tensor<B, 2>| {
            let found: Vec<f64> = t.to_data().iter::<f32>().map(f64::from).collect();
            golden::assert_close(name, &found, &rows(&entry[name]), 1.0, 1e-4);
        };
        check("embedding", &z);
        let (base, query) = (z.clone().narrow(0, 0, 9), z.narrow(0, 9, 6));
        let cosine = cosines(query, base.clone());
        check("cosine", &cosine);

        let overlap = filled("voco.overlap", [6, 9], 0.5, 0.5);
        let overlap = overlap.clone() / overlap.sum_dim(1);
        let position = -(((overlap - activation::relu(cosine)).abs() - 1.0).neg() + 1e-6).log().mean();
        // Each pair of bases twice on a symmetric matrix, without the diagonal.
        let pairs = activation::relu(cosines(base.clone(), base))
            * (Tensor::<B, 2>::ones([9, 9], &Default::default()) - Tensor::eye(9, &Default::default()));
        let regulariser = pairs.sum() / 72.0;
        for (name, loss) in [("loss_position", &position), ("loss_regulariser", &regulariser)] {
            golden::assert_close(name, &[f64::from(loss.clone().into_scalar())], &[entry[name].as_f64().unwrap()], 0.1, 1e-4);
        }
        let grads = golden::gradients(&head, &(position + regulariser).backward());
        for (name, expected) in entry["grads"].as_object().unwrap() {
            let layer = format!("layers.{}.weight", name.as_bytes()[5] - b'1');
            let grad = grads.iter().find(|g| g.name == layer).unwrap();
            golden::assert_tensor(name, &grad.shape, &grad.values, expected, 1e-4);
        }
    }

    #[test]
    fn parameter_counts() {
        let count = |widths: &[usize]| {
            let config = ProjectionConfig { widths: widths.to_vec(), norm_last: false };
            weights::parameter_count(&config.init::<Flex>(&Init::new(0, "head", &Default::default())).unwrap())
        };
        assert_eq!(count(&[1152, 1024, 1024, 1024]), 3_279_872);
        assert_eq!(count(&[2304, 1024, 1024, 1024]), 4_459_520);
        assert_eq!(count(&[1152, 2048, 2048, 2048]), 10_754_048);
        assert!(ProjectionConfig { widths: vec![3], norm_last: true }.init::<Flex>(&Init::new(0, "head", &Default::default())).is_err());
    }
}
