//! Optimisers over any Burn module, gradient clipping and learning-rate schedules.
//!
//! Everything is keyed by a parameter's path in its module (`encoder.stem.weight`), never by Burn's `ParamId`, which is random in each
//! process: saved state fits a freshly built module.

mod adamw;
mod clip;
mod schedule;
mod sgd;
mod state;

pub use adamw::{AdamW, AdamWConfig};
pub use clip::clip_global_norm;
pub use schedule::{ScheduleConfig, ScheduleKind};
pub use sgd::{Sgd, SgdConfig};

/// What can go wrong in an optimiser step or with saved optimiser state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A gradient with NaN or infinity.
    #[error("the gradient of `{path}` is not finite ({value}); lower the learning rate or look at this step's input")]
    NonFiniteGradient {
        /// Path of the parameter in its module.
        path: String,
        /// The first such value.
        value: f64,
    },
    /// Saved state that is no optimiser state at all.
    #[error("optimiser state cannot be read: {0}; start from another checkpoint")]
    Unreadable(String),
    /// Saved state of another optimiser.
    #[error("optimiser state is of `{found}`, expected `{expected}`; set the optimiser that the checkpoint was trained with")]
    WrongOptimizer {
        /// Name in the saved state.
        found: String,
        /// Name of this optimiser.
        expected: &'static str,
    },
    /// Saved state for another network.
    #[error("optimiser state of `{path}`: found {found}, expected {expected}; build the network that the checkpoint was trained with")]
    Mismatch {
        /// Path of the parameter in its module.
        path: String,
        /// What the saved state holds.
        found: String,
        /// What the module holds.
        expected: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::golden::{check_close, losses, numbers};
    use burn::backend::{Autodiff, Flex};
    use burn::module::{Module, Param};
    use burn::optim::GradientsParams;
    use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
    use serde_json::Value;

    pub type B = Autodiff<Flex>;

    /// A network with a bias and a weight one level down.
    #[derive(Module, Debug)]
    pub struct Toy<B: Backend> {
        pub bias: Param<Tensor<B, 1>>,
        pub inner: Inner<B>,
    }

    #[derive(Module, Debug)]
    pub struct Inner<B: Backend> {
        pub weight: Param<Tensor<B, 2>>,
    }

    fn param<const D: usize>(values: &[f64], shape: [usize; D], dtype: DType) -> Param<Tensor<B, D>> {
        let data = TensorData::new(values.to_vec(), shape);
        Param::from_tensor(Tensor::from_data(data, (&Default::default(), dtype)))
    }

    impl Toy<B> {
        pub fn new(bias: usize, weight: [usize; 2]) -> Self {
            Self::from_values(&vec![0.5; bias], &vec![-0.25; weight[0] * weight[1]], weight, DType::F32)
        }

        fn from_values(bias: &[f64], weight: &[f64], shape: [usize; 2], dtype: DType) -> Self {
            Self { bias: param(bias, [bias.len()], dtype), inner: Inner { weight: param(weight, shape, dtype) } }
        }

        fn values(&self) -> Vec<f64> {
            let list = |d: TensorData| d.iter::<f64>().collect::<Vec<_>>();
            [list(self.bias.val().into_data()), list(self.inner.weight.val().into_data())].concat()
        }
    }

    /// Gradients for a toy; `None` leaves a parameter without one.
    pub fn gradients(toy: &Toy<B>, bias: Option<&[f64]>, weight: Option<&[f64]>) -> GradientsParams {
        let mut grads = GradientsParams::new();
        if let Some(g) = bias {
            let data = TensorData::new(g.to_vec(), toy.bias.shape());
            grads.register(toy.bias.id, Tensor::<Flex, 1>::from_data(data, (&Default::default(), toy.bias.val().dtype())));
        }
        if let Some(g) = weight {
            let data = TensorData::new(g.to_vec(), toy.inner.weight.shape());
            grads.register(toy.inner.weight.id, Tensor::<Flex, 2>::from_data(data, (&Default::default(), toy.inner.weight.val().dtype())));
        }
        grads
    }

    fn check_steps(case: &Value, tolerance: f64, dtype: DType, mut step: impl FnMut(Toy<B>, GradientsParams, f64) -> Toy<B>) {
        let w0 = numbers(&case["w0"]);
        let mut toy = Toy::from_values(&w0[..2], &w0[2..], [2, 2], dtype);
        for (i, row) in case["steps"].as_array().unwrap().iter().enumerate() {
            let g = numbers(&row["grad"]);
            let grads = gradients(&toy, Some(&g[..2]), Some(&g[2..]));
            toy = step(toy, grads, case["settings"]["lr"].as_f64().unwrap());
            check_close(&format!("{}, step {i}", case["id"]), &toy.values(), &numbers(&row["w"]), tolerance);
        }
    }

    #[test]
    fn steps_equal_torch() {
        for case in losses()["optimizers"].as_array().unwrap() {
            let settings = &case["settings"];
            let number = |key: &str| settings[key].as_f64().unwrap();
            let (dtype, tolerance) = if case["dtype"] == "torch.float32" { (DType::F32, 1e-7) } else { (DType::F64, 1e-13) };
            if settings["momentum"].is_number() {
                let config = SgdConfig { momentum: number("momentum"), nesterov: true, weight_decay: number("weight_decay") };
                let mut sgd = Sgd::new(config);
                check_steps(case, tolerance, dtype, |toy, grads, lr| sgd.step(toy, grads, lr));
            } else {
                let mut config = AdamWConfig { weight_decay: number("weight_decay"), ..AdamWConfig::default() };
                if settings["betas"].is_array() {
                    config.betas = numbers(&settings["betas"]).try_into().unwrap();
                    config.eps = number("eps");
                }
                let mut adamw = AdamW::new(config);
                check_steps(case, tolerance, dtype, |toy, grads, lr| adamw.step(toy, grads, lr));
            }
        }
    }

    #[test]
    fn a_parameter_without_gradient_keeps_value_and_state() {
        let mut adamw = AdamW::<B>::new(AdamWConfig { weight_decay: 0.5, ..AdamWConfig::default() });
        let toy = Toy::new(2, [1, 2]);
        let grads = gradients(&toy, Some(&[1.0, -1.0]), None);
        let toy = adamw.step(toy, grads, 0.1);
        assert_eq!(toy.values()[2..], [-0.25, -0.25]);
        assert!(toy.values()[0] < 0.5);
        // Its first step is later, and corrected as a first step: lr in size, after the decay.
        let grads = gradients(&toy, None, Some(&[1.0, -1.0]));
        let after = adamw.step(toy.clone(), grads, 0.1);
        check_close("first step", &after.values()[2..], &[-0.25 * 0.95 - 0.1, -0.25 * 0.95 + 0.1], 1e-6);
        assert_eq!(after.values()[..2], toy.values()[..2]);
    }

    #[test]
    fn saved_state_continues_bit_for_bit_in_a_new_module() {
        let shape = [3, 5];
        let g: Vec<f64> = (0..19).map(|i| (f64::from(i) * 0.7).sin()).collect();
        let step = |adamw: &mut AdamW<B>, toy: Toy<B>| {
            let grads = gradients(&toy, Some(&g[..4]), Some(&g[4..]));
            adamw.step(toy, grads, 0.01)
        };
        let mut adamw = AdamW::new(AdamWConfig::default());
        let mut toy = Toy::new(4, shape);
        for _ in 0..3 {
            toy = step(&mut adamw, toy);
        }
        let bytes = adamw.state_bytes();
        let values = toy.values();
        let fresh = Toy::from_values(&values[..4], &values[4..], shape, DType::F32);
        assert_ne!(fresh.bias.id, toy.bias.id, "ids differ as in another process");
        let mut restored = AdamW::new(AdamWConfig::default());
        restored.load_state(&bytes, &fresh, &Default::default()).unwrap();
        assert_eq!(restored.state_bytes(), bytes);
        assert_eq!(step(&mut restored, fresh).values(), step(&mut adamw, toy).values());
        assert_eq!(restored.state_bytes(), adamw.state_bytes());
    }

    #[test]
    fn state_that_does_not_fit_is_refused() {
        let device = Default::default();
        let mut adamw = AdamW::<B>::new(AdamWConfig::default());
        let toy = Toy::new(2, [1, 2]);
        let grads = gradients(&toy, Some(&[1.0, 1.0]), Some(&[1.0, 1.0]));
        let toy = adamw.step(toy, grads, 0.1);
        let bytes = adamw.state_bytes();
        let refused = |error: Error, word: &str| assert!(error.to_string().contains(word), "{error}");
        refused(adamw.load_state(&bytes, &Toy::new(2, [2, 2]), &device).unwrap_err(), "`inner.weight`");
        refused(adamw.load_state(&bytes, &toy.inner, &device).unwrap_err(), "none of that name");
        refused(Sgd::new(SgdConfig::default()).load_state(&bytes, &toy, &device).unwrap_err(), "`adamw`");
        for cut in [0, 7, 60, bytes.len() - 1] {
            refused(adamw.load_state(&bytes[..cut], &toy, &device).unwrap_err(), "cannot be read");
        }
        assert_eq!(adamw.state_bytes(), bytes, "a refused load changes nothing");
    }
}
