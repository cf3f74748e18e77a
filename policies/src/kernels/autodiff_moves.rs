//! Backward nodes of what only moves values, see `autodiff.rs`.

use super::moves::{MoveBackend, Places};
use burn::backend::Autodiff;
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::tensor::TensorMetadata;
use burn::tensor::ops::FloatTensor;
use std::sync::Arc;

impl<B: MoveBackend, C: CheckpointStrategy> MoveBackend for Autodiff<B, C> {
    fn kernel_take_rows(x: FloatTensor<Self>, places: &Arc<Places>) -> FloatTensor<Self> {
        let _held = x.rc.clone();
        let y = B::kernel_take_rows(x.primitive, places);
        match TakeRows.prepare::<C>([x.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(places.clone(), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn kernel_swap_last(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let _held = x.rc.clone();
        let y = B::kernel_swap_last(x.primitive);
        match SwapLast.prepare::<C>([x.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn kernel_side_by_side(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let _held = [a.rc.clone(), b.rc.clone()];
        let channels = a.primitive.shape()[1];
        let y = B::kernel_side_by_side(a.primitive, b.primitive);
        match SideBySide.prepare::<C>([a.node, b.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(channels, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct TakeRows;

impl<B: MoveBackend> Backward<B, 1> for TakeRows {
    type State = Arc<Places>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let ([node], places) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::kernel_put_rows(dy, &places));
        }
    }
}

#[derive(Debug)]
struct SwapLast;

impl<B: MoveBackend> Backward<B, 1> for SwapLast {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::kernel_swap_last(dy));
        }
    }
}

#[derive(Debug)]
struct SideBySide;

impl<B: MoveBackend> Backward<B, 2> for SideBySide {
    /// Channels of the first.
    type State = usize;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (nodes, channels) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        for (node, gradient) in nodes.into_iter().zip(B::kernel_apart(dy, channels)) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}
