//! Backward nodes: our kernels under Burn's autodiff.
//!
//! A node has a fixed number of parents; where an optional input is missing, the node of `x` stands in for it and no
//! gradient is registered for that parent.

use super::backend::{KernelBackend, NormAct, Window};
use burn::backend::Autodiff;
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::tensor::ops::FloatTensor;

impl<B: KernelBackend, C: CheckpointStrategy> KernelBackend for Autodiff<B, C> {
    fn kernel_conv3d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        window: Window,
    ) -> FloatTensor<Self> {
        let nodes = [x.node.clone(), weight.node.clone(), bias.as_ref().unwrap_or(&x).node.clone()];
        let has_bias = bias.is_some();
        let bias = bias.map(|bias| bias.primitive);
        match Conv3d.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&weight), has_bias, window);
                prep.finish(state, B::kernel_conv3d(x.primitive, weight.primitive, bias, window))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_conv3d(x.primitive, weight.primitive, bias, window)),
        }
    }

    fn kernel_conv_transpose3d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        stride: [usize; 3],
    ) -> FloatTensor<Self> {
        let nodes = [x.node.clone(), weight.node.clone(), bias.as_ref().unwrap_or(&x).node.clone()];
        let has_bias = bias.is_some();
        let bias = bias.map(|bias| bias.primitive);
        match ConvTranspose3d.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&weight), has_bias, stride);
                prep.finish(state, B::kernel_conv_transpose3d(x.primitive, weight.primitive, bias, stride))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_conv_transpose3d(x.primitive, weight.primitive, bias, stride)),
        }
    }

    fn kernel_norm_act(
        x: FloatTensor<Self>,
        gamma: Option<FloatTensor<Self>>,
        beta: Option<FloatTensor<Self>>,
        residual: Option<FloatTensor<Self>>,
        config: NormAct,
    ) -> FloatTensor<Self> {
        let node = |input: &Option<FloatTensor<Self>>| input.as_ref().unwrap_or(&x).node.clone();
        let nodes = [x.node.clone(), node(&gamma), node(&beta), node(&residual)];
        let (has_beta, has_residual) = (beta.is_some(), residual.is_some());
        let inner = |input: &Option<FloatTensor<Self>>| input.as_ref().map(|input| input.primitive.clone());
        let y = B::kernel_norm_act(x.primitive.clone(), inner(&gamma), inner(&beta), inner(&residual), config);
        match NormActNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let gamma = gamma.as_ref().map(|gamma| prep.checkpoint(gamma));
                let state = NormActState { x: prep.checkpoint(&x), gamma, has_beta, has_residual, y: y.clone(), config };
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn kernel_max_pool3d(x: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        match MaxPool3d.prepare::<C>([x.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), window);
                prep.finish(state, B::kernel_max_pool3d(x.primitive, window))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_max_pool3d(x.primitive, window)),
        }
    }
}

#[derive(Debug)]
struct Conv3d;

impl<B: KernelBackend> Backward<B, 3> for Conv3d {
    type State = (NodeId, NodeId, bool, Window);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let ([x_node, weight_node, bias_node], (x, weight, has_bias, window)) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::kernel_conv3d_dx(x.clone(), weight.clone(), dy.clone(), window));
        }
        if let Some(node) = bias_node.filter(|_| has_bias) {
            grads.register::<B>(node.id, B::kernel_channel_sum(dy.clone()));
        }
        if let Some(node) = weight_node {
            grads.register::<B>(node.id, B::kernel_conv3d_dw(x, weight, dy, window));
        }
    }
}

/// With kernel = stride the transposed convolution is the input gradient of a convolution whose input is our output;
/// so its own input gradient is that convolution, and its weight gradient that one's with the roles exchanged.
#[derive(Debug)]
struct ConvTranspose3d;

impl<B: KernelBackend> Backward<B, 3> for ConvTranspose3d {
    type State = (NodeId, NodeId, bool, [usize; 3]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let ([x_node, weight_node, bias_node], (x, weight, has_bias, stride)) = (ops.parents, ops.state);
        let window = Window { kernel: stride, stride, padding: [0; 3] };
        let dy = grads.consume::<B>(&ops.node);
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::kernel_conv3d(dy.clone(), weight.clone(), None, window));
        }
        if let Some(node) = bias_node.filter(|_| has_bias) {
            grads.register::<B>(node.id, B::kernel_channel_sum(dy.clone()));
        }
        if let Some(node) = weight_node {
            grads.register::<B>(node.id, B::kernel_conv3d_dw(dy, weight, x, window));
        }
    }
}

#[derive(Debug)]
struct NormActNode;

/// The output is kept (the next layer keeps it too, so that costs no memory); mean and variance are computed again.
#[derive(Clone, Debug)]
struct NormActState<T> {
    x: NodeId,
    gamma: Option<NodeId>,
    has_beta: bool,
    has_residual: bool,
    y: T,
    config: NormAct,
}

impl<B: KernelBackend> Backward<B, 4> for NormActNode {
    type State = NormActState<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let ([x_node, gamma_node, beta_node, residual_node], state) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(state.x);
        let has_gamma = state.gamma.is_some();
        let gamma = state.gamma.map(|gamma| checkpointer.retrieve_node_output(gamma));
        let residual_node = residual_node.filter(|_| state.has_residual);
        let found = B::kernel_norm_act_backward(x, gamma, state.y, dy, residual_node.is_some(), state.config);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, found.x);
        }
        if let Some(node) = gamma_node.filter(|_| has_gamma) {
            grads.register::<B>(node.id, found.gamma);
        }
        if let Some(node) = beta_node.filter(|_| state.has_beta) {
            grads.register::<B>(node.id, found.beta);
        }
        if let (Some(node), Some(residual)) = (residual_node, found.residual) {
            grads.register::<B>(node.id, residual);
        }
    }
}

#[derive(Debug)]
struct MaxPool3d;

impl<B: KernelBackend> Backward<B, 1> for MaxPool3d {
    type State = (NodeId, Window);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let ([x_node], (x, window)) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        if let Some(node) = x_node {
            let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
            grads.register::<B>(node.id, B::kernel_max_pool3d_backward(x, dy, window));
        }
    }
}
