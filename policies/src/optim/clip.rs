//! Clipping by the global norm of a module's gradients.

use super::Error;
use burn::module::{AutodiffModule, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, backend::AutodiffBackend};

/// Elements whose squares are summed in the tensor's own precision before f64 takes over.
const ROW: usize = 1024;

/// Scales all gradients by `min(1, max_norm / (norm + 1e-6))`, PyTorch's coefficient, and returns the norm before.
///
/// `max_norm = None` only measures. A gradient that holds NaN or infinity is an error that names its parameter; the gradients are then
/// unchanged. Sums run in the order of the module's parameters.
pub fn clip_global_norm<B: AutodiffBackend, M: AutodiffModule<B>>(
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

impl<B: AutodiffBackend> ModuleVisitor<B> for Squares<'_> {
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
        let sum = sum_of_squares(grad.clone());
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

fn sum_of_squares<B: burn::tensor::backend::Backend, const D: usize>(x: Tensor<B, D>) -> f64 {
    let n = x.shape().num_elements();
    let flat: Tensor<B, 1> = x.reshape([n]);
    let squares = flat.clone() * flat;
    let whole = n / ROW * ROW;
    let mut sum = 0.0;
    if whole > 0 {
        let rows = squares.clone().narrow(0, 0, whole).reshape([n / ROW, ROW]).sum_dim(1);
        sum += rows.into_data().iter::<f64>().sum::<f64>();
    }
    if whole < n {
        sum += squares.narrow(0, whole, n - whole).sum().into_data().iter::<f64>().sum::<f64>();
    }
    sum
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
