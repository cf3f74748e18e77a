//! Clipping by the global norm of a module's gradients.

use super::Error;
use crate::kernels::{self, KernelBackend};
use burn::module::{AutodiffModule, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, backend::AutodiffBackend};

/// Scales all gradients by `min(1, max_norm / (norm + 1e-6))`, PyTorch's coefficient, and returns the norm before.
///
/// `max_norm = None` only measures. A gradient that holds NaN or infinity is an error that names its parameter; the gradients are then
/// unchanged. Sums run in the order of the module's parameters.
pub fn clip_global_norm<B: AutodiffBackend<InnerBackend: KernelBackend>, M: AutodiffModule<B>>(
    module: &M,
    grads: &mut GradientsParams,
    max_norm: Option<f64>,
) -> Result<f64, Error> {
    let mut squares = Squares { grads, path: Vec::new(), sum: 0.0, bad: None };
    module.visit(&mut squares);
    let (sum, bad) = (squares.sum, squares.bad);
    if let Some((path, value)) = bad {
        return Err(Error::NonFiniteGradient { path, value });
    }
    let norm = sum.sqrt();
    if let Some(max_norm) = max_norm {
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            module.visit(&mut Scale { grads, factor });
        }
    }
    Ok(norm)
}

struct Squares<'a> {
    grads: &'a GradientsParams,
    path: Vec<String>,
    sum: f64,
    bad: Option<(String, f64)>,
}

impl<B: AutodiffBackend<InnerBackend: KernelBackend>> ModuleVisitor<B> for Squares<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(grad) = self.grads.get::<B::InnerBackend, D>(param.id) else { return };
        if self.bad.is_some() {
            return;
        }
        let sum = kernels::squares(grad.clone().reshape([grad.shape().num_elements()]));
        if !sum.is_finite() {
            // Squares can overflow where the gradient doesn't: look again, in f64.
            let values: Vec<f64> = grad.into_data().iter::<f64>().collect();
            match values.iter().find(|v| !v.is_finite()) {
                Some(&value) => self.bad = Some((self.path.join("."), value)),
                None => self.sum += values.iter().map(|v| v * v).sum::<f64>(),
            }
            return;
        }
        self.sum += sum;
    }
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    factor: f64,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(grad) = self.grads.remove::<B::InnerBackend, D>(param.id) {
            self.grads.register::<B::InnerBackend, D>(param.id, grad * self.factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{B, Toy, gradients};
    use super::*;
    use crate::losses::golden::{check_close, losses, numbers};
    use burn::backend::Flex;

    fn values(toy: &Toy<B>, grads: &GradientsParams) -> Vec<f64> {
        let list = |d: burn::tensor::TensorData| d.iter::<f64>().collect::<Vec<_>>();
        let bias = grads.get::<Flex, 1>(toy.bias.id).unwrap().into_data();
        let weight = grads.get::<Flex, 2>(toy.inner.weight.id).unwrap().into_data();
        [list(bias), list(weight)].concat()
    }

    #[test]
    fn clipping_equals_torch() {
        let golden = &losses()["grad_clip"];
        let (toy, g) = (Toy::new(4, [2, 3]), numbers(&golden["grad"]));
        let mut grads = gradients(&toy, Some(&g[..4]), Some(&g[4..]));
        let norm = clip_global_norm(&toy, &mut grads, golden["max_norm"].as_f64()).unwrap();
        check_close("norm", &[norm], &numbers(&golden["total_norm"]), 1e-6);
        check_close("clipped", &values(&toy, &grads), &numbers(&golden["clipped"]), 1e-6);
        let mut grads = gradients(&toy, Some(&g[..4]), Some(&g[4..]));
        for max_norm in [None, Some(100.0)] {
            clip_global_norm(&toy, &mut grads, max_norm).unwrap();
            check_close("below the limit", &values(&toy, &grads), &g, 1e-6);
        }
    }

    #[test]
    fn the_norm_covers_rows_and_rest() {
        let toy = Toy::new(1, [50, 61]);
        let g: Vec<f64> = (0..3050).map(|i| (i % 7) as f64).collect();
        let norm = clip_global_norm(&toy, &mut gradients(&toy, None, Some(&g)), None).unwrap();
        check_close("norm", &[norm], &[g.iter().map(|v| v * v).sum::<f64>().sqrt()], 1e-6);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named_and_left_alone() {
        let toy = Toy::new(2, [1, 2]);
        for bad in [f64::NAN, f64::INFINITY] {
            let mut grads = gradients(&toy, Some(&[3.0, 4.0]), Some(&[0.0, bad]));
            let error = clip_global_norm(&toy, &mut grads, Some(1.0)).unwrap_err().to_string();
            assert!(error.contains("`inner.weight`"), "{error}");
            assert_eq!(values(&toy, &grads)[..2], [3.0, 4.0]);
        }
        let mut grads = gradients(&toy, Some(&[3e20, 4e20]), None);
        let norm = clip_global_norm(&toy, &mut grads, None).unwrap();
        check_close("squares beyond f32", &[norm / 1e20], &[5.0], 1e-6);
    }
}
