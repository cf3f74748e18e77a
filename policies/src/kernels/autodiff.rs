//! Backward nodes: our kernels under Burn's autodiff.
//!
//! A node has a fixed number of parents; where an optional input is missing, the node of `x` stands in for it and no
//! gradient is registered for that parent.
//!
//! Inputs are held (`_held`) until their node is registered: Burn drops nodes that no tensor holds whenever a backward pass ends on any thread,
//! and with a parent's node its gradient would silently be lost.

use super::backend::{AttentionConfig, KernelBackend, NormAct, Window};
use burn::backend::Autodiff;
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;

impl<B: KernelBackend, C: CheckpointStrategy> KernelBackend for Autodiff<B, C> {
    fn kernel_conv3d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        window: Window,
    ) -> FloatTensor<Self> {
        let _held = (x.rc.clone(), weight.rc.clone(), bias.as_ref().map(|input| input.rc.clone()));
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

    fn kernel_carry(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let _held = x.rc.clone();
        match Carry.prepare::<C>([x.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(gradient.primitive.clone(), B::kernel_carry(x.primitive, gradient.primitive)),
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_carry(x.primitive, gradient.primitive)),
        }
    }

    // `kernel_conv3d_act` is for what has no gradient; where one is wanted all the same, Burn's operations give it.

    fn kernel_channel_moments(x: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        B::kernel_channel_moments(x.primitive).map(<Self as AutodiffBackend>::from_inner)
    }

    fn kernel_conv_transpose3d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        stride: [usize; 3],
    ) -> FloatTensor<Self> {
        let _held = (x.rc.clone(), weight.rc.clone(), bias.as_ref().map(|input| input.rc.clone()));
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
        let _held = x.rc.clone();
        match MaxPool3d.prepare::<C>([x.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), window);
                prep.finish(state, B::kernel_max_pool3d(x.primitive, window))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_max_pool3d(x.primitive, window)),
        }
    }

    fn kernel_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Option<FloatTensor<Self>>) -> FloatTensor<Self> {
        let _held = (x.rc.clone(), weight.rc.clone(), bias.as_ref().map(|input| input.rc.clone()));
        let nodes = [x.node.clone(), weight.node.clone(), bias.as_ref().unwrap_or(&x).node.clone()];
        let has_bias = bias.is_some();
        let bias = bias.map(|bias| bias.primitive);
        match LinearNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&weight), has_bias);
                prep.finish(state, B::kernel_linear(x.primitive, weight.primitive, bias))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_linear(x.primitive, weight.primitive, bias)),
        }
    }

    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let _held = x.rc.clone();
        match Gelu.prepare::<C>([x.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = prep.checkpoint(&x);
                prep.finish(state, B::kernel_gelu(x.primitive))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_gelu(x.primitive)),
        }
    }

    fn kernel_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let _held = x.rc.clone();
        let y = B::kernel_softmax(x.primitive);
        match Softmax.prepare::<C>([x.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(y.clone(), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn kernel_layer_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, beta: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let _held = [x.rc.clone(), gamma.rc.clone(), beta.rc.clone()];
        match LayerNorm.prepare::<C>([x.node.clone(), gamma.node.clone(), beta.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&gamma), epsilon);
                prep.finish(state, B::kernel_layer_norm(x.primitive, gamma.primitive, beta.primitive, epsilon))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_layer_norm(x.primitive, gamma.primitive, beta.primitive, epsilon)),
        }
    }

    fn kernel_attention(
        qkv: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        regions: Option<FloatTensor<Self>>,
        config: AttentionConfig,
    ) -> FloatTensor<Self> {
        let _held = (qkv.rc.clone(), bias.as_ref().map(|input| input.rc.clone()));
        let nodes = [qkv.node.clone(), bias.as_ref().unwrap_or(&qkv).node.clone()];
        let regions = regions.map(|regions| regions.primitive);
        match Attention.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let bias_node = bias.as_ref().map(|bias| prep.checkpoint(bias));
                let state = AttentionState { qkv: prep.checkpoint(&qkv), bias: bias_node, regions: regions.clone(), config };
                prep.finish(state, B::kernel_attention(qkv.primitive, bias.map(|bias| bias.primitive), regions, config))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_attention(qkv.primitive, bias.map(|bias| bias.primitive), regions, config)),
        }
    }
}

/// The sum's own gradient is 1: it ends in a scalar that is differentiated.
#[derive(Debug)]
struct Carry;

impl<B: KernelBackend> Backward<B, 1> for Carry {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let ([x_node], gradient) = (ops.parents, ops.state);
        grads.consume::<B>(&ops.node);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, gradient);
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

#[derive(Debug)]
struct LinearNode;

impl<B: KernelBackend> Backward<B, 3> for LinearNode {
    type State = (NodeId, NodeId, bool);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let ([x_node, weight_node, bias_node], (x, weight, has_bias)) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::kernel_linear_dx(weight, dy.clone()));
        }
        let bias_node = bias_node.filter(|_| has_bias);
        if weight_node.is_none() && bias_node.is_none() {
            return;
        }
        let found = B::kernel_linear_backward(x, dy);
        if let Some(node) = weight_node {
            grads.register::<B>(node.id, found.weight);
        }
        if let Some(node) = bias_node {
            grads.register::<B>(node.id, found.bias);
        }
    }
}

#[derive(Debug)]
struct Gelu;

impl<B: KernelBackend> Backward<B, 1> for Gelu {
    type State = NodeId;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let ([x_node], x) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::kernel_gelu_backward(checkpointer.retrieve_node_output(x), dy));
        }
    }
}

/// The output is kept.
#[derive(Debug)]
struct Softmax;

impl<B: KernelBackend> Backward<B, 1> for Softmax {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let ([x_node], y) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::kernel_softmax_backward(y, dy));
        }
    }
}

#[derive(Debug)]
struct LayerNorm;

impl<B: KernelBackend> Backward<B, 3> for LayerNorm {
    type State = (NodeId, NodeId, f64);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (parents, (x, gamma, epsilon)) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        let (x, gamma) = (checkpointer.retrieve_node_output(x), checkpointer.retrieve_node_output(gamma));
        let found = B::kernel_layer_norm_backward(x, gamma, dy, epsilon);
        for (node, gradient) in parents.into_iter().zip([found.x, found.gamma, found.beta]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Attention;

/// The weights are computed again in the backward pass.
#[derive(Clone, Debug)]
struct AttentionState<T> {
    qkv: NodeId,
    bias: Option<NodeId>,
    regions: Option<T>,
    config: AttentionConfig,
}

impl<B: KernelBackend> Backward<B, 2> for Attention {
    type State = AttentionState<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let ([qkv_node, bias_node], state) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        let qkv: FloatTensor<B> = checkpointer.retrieve_node_output(state.qkv);
        let bias: Option<FloatTensor<B>> = state.bias.map(|bias| checkpointer.retrieve_node_output(bias));
        let found = B::kernel_attention_backward(qkv, bias, state.regions, dy, state.config);
        if let Some(node) = qkv_node {
            grads.register::<B>(node.id, found.qkv);
        }
        if let (Some(node), Some(bias)) = (bias_node, found.bias) {
            grads.register::<B>(node.id, bias);
        }
    }
}
