//! The networks' share of a training step, on parts of the observation that run side by side.
//!
//! Small networks leave most cores idle inside one operation, so a step is cut along its sub-volumes. Losses and rewards see the whole
//! observation all the same: they are computed on the joined logits, and their gradients with respect to the logits go back into each part.
//! By the chain rule this is the gradient of the uncut step; only the order of sums differs, and it is fixed by the number of parts. Batch norm is the
//! exception, as on several GPUs: it sees its part.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use panscreen_policies::focus::Focus;
use panscreen_policies::glance::Glance;
use panscreen_policies::nets::Mode;
use panscreen_policies::nets::checkpoint::Tape;
use panscreen_policies::nets::norm::with_running_statistics;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::backend::{Inner, TrainBackend};
use crate::error::{Error, Result};

/// One part after the forward pass.
pub struct Shard<B: TrainBackend> {
    glance: Glance<B>,
    focus: Focus<B>,
    z_g2: Tensor<B, 2>,
    cells: Option<Tensor<B, 4>>,
    s_gkdhw: Tensor<B, 5>,
    /// What the backward pass computes again.
    tape: Option<Tape<B>>,
}

/// The joined outputs of both networks, as leaves that losses are computed on.
pub struct Logits<B: TrainBackend> {
    /// Glance's actions (skip, look).
    pub z_g2: Tensor<B, 2>,
    /// Log-odds of Glance's cells, where it has them.
    pub cells: Option<Tensor<B, 4>>,
    /// Focus's classes.
    pub s_gkdhw: Tensor<B, 5>,
}

impl<B: TrainBackend> Logits<B> {
    /// Numbers of the sub-volumes with a logit that is not a number.
    pub fn broken(&self) -> Vec<usize> {
        let z = self.z_g2.clone().inner().sum_dim(1);
        let s = self.s_gkdhw.clone().inner().flatten::<2>(1, 4).sum_dim(1);
        let cells = self.cells.clone().map(|cells| cells.inner().flatten::<2>(1, 3).sum_dim(1));
        let sums = cells.into_iter().fold(z + s, |sums, cells| sums + cells);
        sums.into_data().iter::<f32>().enumerate().filter(|(_, sum)| !sum.is_finite()).map(|(i, _)| i).collect()
    }
}

/// Gradients of the total loss with respect to both networks' logits, for the whole observation.
pub struct LogitGradients<B: TrainBackend> {
    z_g2: Tensor<Inner<B>, 2>,
    cells: Option<Tensor<Inner<B>, 4>>,
    s_gkdhw: Tensor<Inner<B>, 5>,
}

/// A thread pool for each part.
///
/// The parts can't be tasks of one pool: Burn's backward pass holds a lock of its graph, and a worker that waits inside it would take up the
/// other part and wait for its own lock.
pub struct Pools(Vec<ThreadPool>);

impl Pools {
    /// Pools for `parts` parts that share the threads there are. With fewer threads than parts, the parts take turns.
    pub fn new(parts: usize) -> Result<Self> {
        let threads = rayon::current_num_threads();
        let build = |_| ThreadPoolBuilder::new().num_threads(threads / parts).build();
        let pools = if parts == 1 || threads < parts { Ok(vec![]) } else { (0..parts).map(build).collect() };
        pools.map(Pools).map_err(|e| Error::Usage(format!("the system gives no threads: {e}")))
    }

    fn map<T: Send, U: Send>(&self, parts: Vec<T>, work: impl Fn(T) -> U + Sync) -> Vec<U> {
        if self.0.len() < parts.len() {
            return parts.into_iter().map(work).collect();
        }
        let mut done: Vec<Option<U>> = parts.iter().map(|_| None).collect();
        std::thread::scope(|scope| {
            for ((pool, part), done) in self.0.iter().zip(parts).zip(&mut done) {
                let work = &work;
                scope.spawn(move || *done = Some(pool.install(|| work(part))));
            }
        });
        done.into_iter().flatten().collect()
    }
}

/// Forward passes of both networks, one encoder pass where it is shared.
pub fn look<B: TrainBackend>(
    glance: &Glance<B>,
    focus: &Focus<B>,
    focus_mode: Mode,
    x: &Tensor<B, 5>,
    shards: usize,
    pools: &Pools,
) -> Vec<Shard<B>> {
    let parts: Vec<_> = ranges(x.dims()[0], shards)
        .map(|(from, count)| {
            if shards == 1 {
                return (glance.clone(), focus.clone(), x.clone());
            }
            // Leaves of their own: parts that share a node would share, and wait for, one graph.
            (glance.clone().map(&mut Fork), focus.clone().map(&mut Fork), x.clone().narrow(0, from, count))
        })
        .collect();
    pools.map(parts, |(glance, focus, x): (Glance<B>, Focus<B>, Tensor<B, 5>)| {
        if !focus.wants_checkpointing() {
            let features = focus.features(x.clone(), focus_mode);
            let (z_g2, cells) = glance.forward_cells(x, &features, Mode::Train);
            let s_gkdhw = focus.decode(features, focus_mode);
            return Shard { glance, focus, z_g2, cells, s_gkdhw, tape: None };
        }
        let mut tape = Tape::default();
        let features = focus.features_with(x.clone(), focus_mode, &mut tape);
        let (z_g2, cells) = glance.forward_cells(x, &features, Mode::Train);
        let s_gkdhw = focus.decode_with(features, focus_mode, &mut tape);
        Shard { glance, focus, z_g2, cells, s_gkdhw, tape: Some(tape) }
    })
}

/// The logits of all parts, joined.
pub fn logits<B: TrainBackend>(shards: &[Shard<B>]) -> Logits<B> {
    let cells: Vec<_> = shards.iter().filter_map(|s| Some(s.cells.clone()?.inner())).collect();
    Logits {
        z_g2: leaf(shards.iter().map(|s| s.z_g2.clone().inner()).collect()),
        cells: (!cells.is_empty()).then(|| leaf(cells)),
        s_gkdhw: leaf(shards.iter().map(|s| s.s_gkdhw.clone().inner()).collect()),
    }
}

fn leaf<B: TrainBackend, const D: usize>(parts: Vec<Tensor<Inner<B>, D>>) -> Tensor<B, D> {
    Tensor::from_inner(Tensor::cat(parts, 0)).require_grad()
}

/// Both networks with what their batch norms counted in the forward passes, each part's as much as the others'.
pub fn counted<B: TrainBackend>(glance: Glance<B>, focus: Focus<B>, shards: &[Shard<B>]) -> (Glance<B>, Focus<B>) {
    let glances: Vec<_> = shards.iter().map(|s| &s.glance).collect();
    let focuses: Vec<_> = shards.iter().map(|s| &s.focus).collect();
    (with_running_statistics(glance, &glances), with_running_statistics(focus, &focuses))
}

/// Backward through the losses.
pub fn gradients<B: TrainBackend>(loss: Tensor<B, 1>, logits: Logits<B>) -> LogitGradients<B> {
    let grads = loss.backward();
    let function = "every loss is a function of both logits";
    LogitGradients {
        z_g2: logits.z_g2.grad(&grads).expect(function),
        // Without `loss.cell_weight` nothing is asked of the cells themselves.
        cells: logits.cells.and_then(|c| c.grad(&grads)),
        s_gkdhw: logits.s_gkdhw.grad(&grads).expect(function),
    }
}

/// Backward through both networks: the gradients of all parts, summed in their order.
pub fn backward<B: TrainBackend>(
    glance: &Glance<B>,
    focus: &Focus<B>,
    shards: Vec<Shard<B>>,
    gradients: LogitGradients<B>,
    pools: &Pools,
) -> (GradientsParams, GradientsParams) {
    let mut from = 0;
    let parts: Vec<_> = shards
        .into_iter()
        .map(|s| {
            let count = s.z_g2.dims()[0];
            let part = LogitGradients::<B> {
                z_g2: gradients.z_g2.clone().narrow(0, from, count),
                cells: gradients.cells.clone().map(|c| c.narrow(0, from, count)),
                s_gkdhw: gradients.s_gkdhw.clone().narrow(0, from, count),
            };
            from += count;
            (s, part)
        })
        .collect();
    let grads = pools.map(parts, |(s, d): (Shard<B>, LogitGradients<B>)| {
        // The gradient of this sum is the given gradient, carried through the network.
        let mut carrier = (s.z_g2 * Tensor::from_inner(d.z_g2)).sum() + (s.s_gkdhw * Tensor::from_inner(d.s_gkdhw)).sum();
        if let (Some(cells), Some(gradient)) = (s.cells, d.cells) {
            carrier = carrier + (cells * Tensor::from_inner(gradient)).sum();
        }
        let mut grads = carrier.backward();
        if let Some(tape) = s.tape {
            tape.backward(&mut grads);
        }
        let glance = GradientsParams::from_module(&mut grads, &s.glance);
        (glance, GradientsParams::from_module(&mut grads, &s.focus))
    });
    let (glance_parts, focus_parts): (Vec<_>, Vec<_>) = grads.into_iter().unzip();
    (sum(glance, glance_parts), sum(focus, focus_parts))
}

fn sum<B: TrainBackend, M: Module<B>>(module: &M, parts: Vec<GradientsParams>) -> GradientsParams {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        module.visit(&mut Add { total: &mut total, part });
    }
    total
}

struct Add<'a> {
    total: &'a mut GradientsParams,
    part: GradientsParams,
}

impl<B: TrainBackend> ModuleVisitor<B> for Add<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(more) = self.part.remove::<Inner<B>, D>(param.id) else { return };
        let sum = match self.total.remove::<Inner<B>, D>(param.id) {
            Some(so_far) => so_far + more,
            None => more,
        };
        self.total.register::<Inner<B>, D>(param.id, sum);
    }
}

/// The same weights under the same ids, as leaves of a graph of their own.
struct Fork;

impl<B: TrainBackend> ModuleMapper<B> for Fork {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        // A frozen network stays frozen.
        let learns = tensor.is_require_grad();
        Param::from_mapped_value(id, Tensor::from_inner(tensor.inner()).set_require_grad(learns), mapper)
    }
}

/// `count` things in `parts` runs of nearly equal length: (first, length), none empty.
fn ranges(count: usize, parts: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = parts.clamp(1, count.max(1));
    (0..parts).map(move |p| {
        let (from, to) = (count * p / parts, count * (p + 1) / parts);
        (from, to - from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::{Autodiff, Flex};
    use panscreen_policies::focus::FocusConfig;
    use panscreen_policies::glance::{GlanceConfig, GlanceHeadConfig, Shared};
    use panscreen_policies::nets::{NormKind, ResNetConfig, ResidualUNetConfig, SwinUnetrConfig};
    use panscreen_policies::weights;

    type B = Autodiff<Flex>;

    /// Gradients of a loss that couples all sub-volumes, by parameter, for `shards` parts.
    fn grads(shared: Shared, shards: usize) -> Vec<f32> {
        grads_of(&FocusConfig::default(), shared, shards, 8)
    }

    /// As [`grads`], for windows of a side.
    fn grads_of(focus_config: &FocusConfig, shared: Shared, shards: usize, side: usize) -> Vec<f32> {
        let device = Default::default();
        let focus = focus_config.init::<B>(2, 2, 1, &device).unwrap();
        let glance = GlanceConfig::Encoder(GlanceHeadConfig::default()).init(2, None, shared, focus_config, &focus, 1, &device).unwrap();
        let count = if side > 8 { 2 } else { 5 };
        let values: Vec<f32> = (0..count * 2 * side.pow(3)).map(|i| ((i * 7919) % 1013) as f32 / 1013.0).collect();
        let x = Tensor::<B, 1>::from_floats(values.as_slice(), &device).reshape([count, 2, side, side, side]);
        let pools = Pools::new(shards).unwrap();
        let parts = look(&glance, &focus, Mode::Train, &x, shards, &pools);
        let joined = logits(&parts);
        let (z, s) = (joined.z_g2.clone(), joined.s_gkdhw.clone());
        let loss = z.powf_scalar(2.0).mean().sqrt() + s.powf_scalar(2.0).mean().sqrt();
        let given = gradients(loss, joined);
        let (g, f) = backward(&glance, &focus, parts, given, &pools);
        let mut out = Collect { grads: g, values: vec![] };
        glance.visit(&mut out);
        out.grads = f;
        focus.visit(&mut out);
        assert!(out.values.len() > weights::parameter_count(&focus) / 2);
        out.values
    }

    struct Collect {
        grads: GradientsParams,
        values: Vec<f32>,
    }

    impl ModuleVisitor<B> for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            if let Some(g) = self.grads.get::<Flex, D>(param.id) {
                self.values.extend(g.into_data().iter::<f32>());
            }
        }
    }

    #[test]
    fn any_number_of_parts_gives_the_same_gradients() {
        for shared in [Shared::None, Shared::Tied] {
            let whole = grads(shared, 1);
            let largest = whole.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            for shards in [2, 3, 5] {
                for (a, b) in whole.iter().zip(grads(shared, shards)) {
                    assert!((a - b).abs() <= 1e-4 * largest, "{shared:?}, {shards} parts: {a} and {b}, largest {largest}");
                }
            }
        }
    }

    #[test]
    fn checkpointing_gives_the_same_gradients() {
        let focus = |checkpointing| {
            let swin = SwinUnetrConfig { feature_size: 2, depths: [1; 4], heads: [1; 4], window: 2, checkpointing, ..Default::default() };
            FocusConfig::SwinUnetr(swin)
        };
        for shared in [Shared::None, Shared::Tied] {
            let plain = grads_of(&focus(false), shared, 1, 64);
            let largest = plain.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            for shards in [1, 2] {
                let found = grads_of(&focus(true), shared, shards, 64);
                assert_eq!(found.len(), plain.len());
                for (a, b) in plain.iter().zip(found) {
                    assert!((a - b).abs() <= 1e-3 * largest, "{shared:?}, {shards} parts: {a} and {b}, largest {largest}");
                }
            }
        }
    }

    #[test]
    fn batch_norm_counts_in_a_training_step() {
        let device = Default::default();
        let focus_config = FocusConfig::ResidualUnet(ResidualUNetConfig { norm: NormKind::Batch, ..Default::default() });
        let glance_config = GlanceConfig::Resnet3d(ResNetConfig { norm: NormKind::Batch, ..Default::default() });
        let x = Tensor::<B, 1>::from_floats(&(0..4 * 512).map(|i| ((i * 7919) % 1013) as f32).collect::<Vec<_>>()[..], &device);
        let x = x.reshape([4, 1, 8, 8, 8]);
        let statistics = |module: &dyn Fn() -> Vec<weights::NamedTensor>| -> Vec<f32> {
            module().into_iter().filter(|t| t.name.contains("running_")).flat_map(|t| t.values).collect()
        };
        let after = |shards: usize, focus_mode: Mode| {
            let focus = focus_config.init::<B>(1, 2, 1, &device).unwrap();
            let glance = glance_config.init(1, None, Shared::None, &focus_config, &focus, 1, &device).unwrap();
            let parts = look(&glance, &focus, focus_mode, &x, shards, &Pools::new(shards).unwrap());
            let (glance, focus) = counted(glance, focus, &parts);
            (statistics(&|| weights::tensors(&glance)), statistics(&|| weights::tensors(&focus)))
        };
        let fresh = |values: &[f32]| values.iter().all(|v| *v == 0.0 || *v == 1.0);
        for shards in [1, 2] {
            let (glance, focus) = after(shards, Mode::Train);
            assert!(!glance.is_empty() && !fresh(&glance) && !fresh(&focus), "{shards} parts");
            assert!(fresh(&after(shards, Mode::Eval).1), "a frozen Focus counts nothing");
        }
        // The mean of the stem is linear in what it sees: that of two halves is that of the whole.
        let (one, two) = (after(1, Mode::Train).0, after(2, Mode::Train).0);
        assert!(one[..8].iter().zip(&two).all(|(a, b)| (a - b).abs() < 1e-3 * a.abs().max(1.0)), "{:?} {:?}", &one[..8], &two[..8]);
    }

    #[test]
    fn parts_cover_everything_once() {
        for (count, parts, expected) in [(8, 2, vec![(0, 4), (4, 4)]), (5, 2, vec![(0, 2), (2, 3)]), (2, 4, vec![(0, 1), (1, 1)])] {
            assert_eq!(ranges(count, parts).collect::<Vec<_>>(), expected);
        }
    }
}
