//! Gradient checkpointing: parts of a network keep their input instead of everything in between, and run once more in the backward pass.
//!
//! Burn's autodiff can recompute single operations, not modules (a backward pass within a backward pass would wait for its own lock), so
//! the parts are replayed after the first backward pass:
//!
//! ```ignore
//! let mut tape = Tape::default();
//! let loss = loss(focus.forward_with(x, mode, &mut tape));
//! let mut grads = loss.backward();
//! tape.backward(&mut grads); // now complete
//! ```

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::kernels::{self, KernelBackend};

/// Runs the parts of a network: as they are ([`Direct`]), or to be recomputed ([`Tape`]).
///
/// A part's inputs are the network's input or outputs of parts, nothing computed outside of them from those; a part has no running statistics.
pub trait Runner<B: Backend> {
    /// `part` is all of the weights that `forward` uses.
    fn run<M: Module<B> + 'static, const N: usize>(
        &mut self,
        part: &M,
        inputs: [Tensor<B, 5>; N],
        forward: fn(&M, [Tensor<B, 5>; N]) -> Tensor<B, 5>,
    ) -> Tensor<B, 5>;
}

/// No checkpointing.
#[derive(Clone, Copy, Debug)]
pub struct Direct;

impl<B: Backend> Runner<B> for Direct {
    fn run<M: Module<B> + 'static, const N: usize>(
        &mut self,
        part: &M,
        inputs: [Tensor<B, 5>; N],
        forward: fn(&M, [Tensor<B, 5>; N]) -> Tensor<B, 5>,
    ) -> Tensor<B, 5> {
        forward(part, inputs)
    }
}

/// The parts of one forward pass, in order.
pub struct Tape<B: AutodiffBackend> {
    parts: Vec<Part<B>>,
}

struct Part<B: AutodiffBackend> {
    output: Tensor<B, 5>,
    /// From the output's gradient to those of inputs and parameters, which are added to what is there.
    replay: Box<Replay<B>>,
}

type Replay<B> = dyn FnOnce(Tensor<<B as AutodiffBackend>::InnerBackend, 5>, &mut <B as AutodiffBackend>::Gradients) + Send;

impl<B: AutodiffBackend> Default for Tape<B> {
    fn default() -> Self {
        Self { parts: vec![] }
    }
}

impl<B: AutodiffBackend + KernelBackend> Runner<B> for Tape<B> {
    fn run<M: Module<B> + 'static, const N: usize>(
        &mut self,
        part: &M,
        inputs: [Tensor<B, 5>; N],
        forward: fn(&M, [Tensor<B, 5>; N]) -> Tensor<B, 5>,
    ) -> Tensor<B, 5> {
        // A frozen part of what nobody asks a gradient of has nothing to carry back, as a finished Focus while Glance learns.
        if !inputs.iter().any(Tensor::is_require_grad) && !learns(part) {
            return forward(part, inputs);
        }
        // Without gradients nothing in between is kept.
        let frozen = part.clone().no_grad();
        let output = forward(&frozen, inputs.clone().map(Tensor::detach)).detach().require_grad();
        // A clone has the same parameters, not copies of them.
        let part = part.clone();
        let replay = move |dy: Tensor<B::InnerBackend, 5>, grads: &mut B::Gradients| {
            let found = kernels::carry(forward(&part, inputs.clone()), Tensor::from_inner(dy)).backward();
            inputs.iter().filter(|x| x.is_require_grad()).for_each(|x| add(x, &found, grads));
            part.visit(&mut AddParameters::<B> { from: &found, to: grads });
        };
        self.parts.push(Part { output: output.clone(), replay: Box::new(replay) });
        output
    }
}

impl<B: AutodiffBackend> Tape<B> {
    /// Complete the gradients of the loss's own backward pass.
    pub fn backward(self, grads: &mut B::Gradients) {
        for part in self.parts.into_iter().rev() {
            if let Some(dy) = part.output.grad_remove(grads) {
                (part.replay)(dy, grads);
            }
        }
    }
}

/// Whether any weight of the part asks for a gradient.
fn learns<B: AutodiffBackend>(part: &impl Module<B>) -> bool {
    struct Learns(bool);
    impl<B: AutodiffBackend> ModuleVisitor<B> for Learns {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0 |= param.val().is_require_grad();
        }
    }
    let mut visitor = Learns(false);
    part.visit(&mut visitor);
    visitor.0
}

fn add<B: AutodiffBackend, const D: usize>(x: &Tensor<B, D>, from: &B::Gradients, to: &mut B::Gradients) {
    if let Some(found) = x.grad(from) {
        let sum = match x.grad(to) {
            Some(before) => before + found,
            None => found,
        };
        x.grad_replace(to, sum);
    }
}

struct AddParameters<'a, B: AutodiffBackend> {
    from: &'a B::Gradients,
    to: &'a mut B::Gradients,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for AddParameters<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        add(&param.val(), self.from, self.to);
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::B;
    use super::super::{Init, SwinUnetrConfig};
    use super::*;

    #[test]
    fn what_nobody_learns_from_is_not_run_again() {
        let config = SwinUnetrConfig { feature_size: 2, depths: [1; 4], heads: [1; 4], window: 2, ..SwinUnetrConfig::default() };
        let model = config.init::<B>(1, 2, &Init::new(0, "focus", &Default::default())).unwrap();
        let x = Tensor::<B, 5>::ones([1, 1, 64, 32, 32], &Default::default());
        let look = |model: &crate::nets::SwinUnetr<B>, x: &Tensor<B, 5>| {
            let mut tape = Tape::default();
            let logits = model.forward(x.clone(), &mut tape);
            (tape.parts.len(), logits.is_require_grad(), logits.into_data())
        };
        let (parts, asks, logits) = look(&model, &x);
        assert!(parts > 0 && asks);
        let frozen = model.no_grad();
        assert_eq!(look(&frozen, &x), (0, false, logits.clone()));
        // The input's gradient goes through a frozen network, through each of its parts.
        assert_eq!(look(&frozen, &x.require_grad()), (parts, true, logits));
    }
}
