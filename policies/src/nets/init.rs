//! First weights, from streams named by the path of the parameter.

use burn::module::{Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use panscreen_envs::rng;
use rand_distr::{Distribution, StandardNormal, StandardUniform};

/// Where a layer's first weights come from: stream `init/PATH` of `seed`, so that they depend on the seed and their own name only.
pub struct Init<'a, B: Backend> {
    seed: u64,
    path: String,
    device: &'a B::Device,
}

impl<'a, B: Backend> Init<'a, B> {
    /// The root of a network called `name` (`glance`, `focus`).
    pub fn new(seed: u64, name: &str, device: &'a B::Device) -> Self {
        Self { seed, path: name.to_owned(), device }
    }

    /// The place of a part: `init.at("layer1").at(0)` draws the weights of `layer1.0`.
    pub fn at(&self, part: impl std::fmt::Display) -> Self {
        Self { seed: self.seed, path: format!("{}.{part}", self.path), device: self.device }
    }

    /// A parameter drawn from a normal distribution with mean 0.
    pub fn normal<const D: usize>(&self, name: &str, shape: [usize; D], std: f64) -> Param<Tensor<B, D>> {
        self.draw(name, shape, |rng| {
            let z: f64 = StandardNormal.sample(rng);
            z * std
        })
    }

    /// A parameter drawn uniformly from -bound to bound.
    pub fn uniform<const D: usize>(&self, name: &str, shape: [usize; D], bound: f64) -> Param<Tensor<B, D>> {
        self.draw(name, shape, |rng| {
            let u: f64 = StandardUniform.sample(rng);
            bound * (2.0 * u - 1.0)
        })
    }

    /// A parameter with one value everywhere.
    pub fn constant<const D: usize>(&self, name: &str, shape: [usize; D], value: f64) -> Param<Tensor<B, D>> {
        self.draw(name, shape, |_| value)
    }

    /// A vector of given values.
    pub fn given(&self, name: &str, values: &[f64]) -> Param<Tensor<B, 1>> {
        let mut next = values.iter();
        self.draw(name, [values.len()], |_| next.next().copied().unwrap_or_default())
    }

    fn draw<const D: usize>(&self, name: &str, shape: [usize; D], mut value: impl FnMut(&mut rng::Stream) -> f64) -> Param<Tensor<B, D>> {
        let path = format!("{}.{name}", self.path);
        let mut stream = rng::stream(self.seed, &format!("init/{path}"), 0, 0);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| value(&mut stream) as f32).collect();
        let tensor = Tensor::from_data(TensorData::new(values, shape), self.device);
        Param::initialized(param_id(&path), tensor.require_grad())
    }
}

/// An id that depends on the path only, so that optimiser records of one run fit the next.
fn param_id(path: &str) -> ParamId {
    use rng::Rng;
    ParamId::from(rng::stream(0, &format!("param id/{path}"), 0, 0).next_u64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;
    use burn::backend::flex::FlexDevice;

    fn values<const D: usize>(t: Tensor<Flex, D>) -> Vec<f32> {
        t.into_data().to_vec().unwrap()
    }

    #[test]
    fn first_weights_depend_on_seed_and_name_only() {
        let draw = |seed, name: &str| {
            let place = Init::<Flex>::new(seed, "glance", &FlexDevice);
            let param = place.at(name).normal("weight", [5], 1.0);
            (param.id, values(param.val()))
        };
        assert_eq!(draw(1, "conv1"), draw(1, "conv1"));
        assert_ne!(draw(1, "conv1").1, draw(2, "conv1").1);
        assert_ne!(draw(1, "conv1").1, draw(1, "conv2").1);
        assert_eq!(draw(1, "conv1").0, draw(2, "conv1").0);
        assert_ne!(draw(1, "conv1").0, draw(1, "conv2").0);
    }
}
