//! Passes on several threads at the same time.

use super::*;

/// Burn drops nodes that no tensor holds whenever a pass ends on any thread. Here the bias is a product that nobody holds besides the
/// convolution: before its node is registered, it must not be given up.
#[test]
fn a_bias_keeps_its_gradient_while_other_threads_end_their_passes() {
    const PASSES: usize = 400;
    let device = Default::default();
    let passes = |thread: u32| {
        let random = |seed, dims: Dims| X::from_data(TensorData::new(values(len(dims), thread + seed), dims), &device);
        let (x, weight) = (random(10, [1, 4, 6, 6, 6]), random(20, [8, 4, 3, 3, 3]).require_grad());
        let bias = Tensor::<Cpu, 1>::ones([8], &device).require_grad();
        (0..PASSES)
            .filter(|_| {
                let y = conv3d(x.clone(), weight.clone(), Some(bias.clone() * 2.0), [1; 3], [1; 3]);
                bias.grad(&y.sum().backward()).is_none()
            })
            .count()
    };
    let lost: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || passes(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(lost, 0, "of {} passes lost the bias's gradient", 4 * PASSES);
}
