//! Speed of the CPU kernels beside Burn's own operations.
//!
//! `cargo run --release -p panscreen-policies --example bench_kernels [FILTER]`
//!
//! Prints GFLOP/s (a multiply and an add are 2; backward counts as twice the forward) or milliseconds, each the best of
//! many runs, since other load on the machine only ever adds time.

use burn::backend::{Autodiff, Flex};
use burn::tensor::{Distribution, Tensor, activation, module, ops::ConvOptions};
use panscreen_policies::kernels::{conv_transpose3d, conv3d, max_pool3d, norm_act, norm_add_act};
use std::time::{Duration, Instant};

type Cpu = Autodiff<Flex>;
type X = Tensor<Cpu, 5>;
type Op<'a> = &'a (dyn Fn(X, X) -> X + Sync);

fn random(shape: [usize; 5]) -> X {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

/// Seconds of the fastest of at least 5 runs, for at least half a second.
fn best(run: &mut dyn FnMut()) -> f64 {
    let (start, mut fastest, mut runs) = (Instant::now(), f64::MAX, 0);
    while runs < 5 || start.elapsed() < Duration::from_millis(500) {
        let from = Instant::now();
        run();
        fastest = fastest.min(from.elapsed().as_secs_f64());
        runs += 1;
    }
    fastest
}

/// Seconds for forward, and for forward and backward.
fn time(op: Op, x: &X, weight: &X, threads: usize) -> [f64; 2] {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    pool.install(|| {
        let (x, weight) = (x.clone().detach(), weight.clone().detach());
        let forward = best(&mut || drop(op(x.clone(), weight.clone())));
        let (x, weight) = (x.require_grad(), weight.require_grad());
        let y = op(x.clone(), weight.clone());
        let dy = random(y.dims()).inner();
        let dy = Tensor::<Cpu, 5>::from_inner(dy);
        let both = best(&mut || drop((op(x.clone(), weight.clone()) * dy.clone()).sum().backward()));
        // What it takes Burn to bring the gradient to the output isn't the operation's.
        let y = y.detach().require_grad();
        let scaffold = best(&mut || drop((y.clone() * dy.clone()).sum().backward()));
        [forward, both - scaffold]
    })
}

fn conv_row(name: &str, filter: &str, x: [usize; 5], channels: usize, kernel: usize, stride: usize) {
    let name = format!("conv{kernel}/{stride} {name} {x:?}->{channels}");
    if !name.contains(filter) {
        return;
    }
    let (padding, strides) = ([kernel / 2; 3], [stride; 3]);
    let weight = random([channels, x[1], kernel, kernel, kernel]);
    let ours: Op = &|x, w| conv3d(x, w, None, strides, padding);
    let burn: Op = &|x, w| module::conv3d(x, w, None, ConvOptions::new(strides, padding, [1; 3], 1));
    let input = random(x);
    let y = ours(input.clone(), weight.clone()).dims();
    let flop = 2.0 * y.iter().product::<usize>() as f64 * (x[1] * kernel.pow(3)) as f64;
    let rate = |[forward, both]: [f64; 2]| format!("{:6.1} {:6.1}", flop / forward / 1e9, 3.0 * flop / both / 1e9);
    println!(
        "{name:44} | {} | {} | {} | {}",
        rate(time(ours, &input, &weight, 1)),
        rate(time(burn, &input, &weight, 1)),
        rate(time(ours, &input, &weight, 2)),
        rate(time(burn, &input, &weight, 2))
    );
}

fn milliseconds_row(name: &str, filter: &str, x: [usize; 5], weight: [usize; 5], ours: Op, burn: Op) {
    let name = format!("{name} {x:?}");
    if !name.contains(filter) {
        return;
    }
    let (x, weight) = (random(x), random(weight));
    let rate = |[forward, both]: [f64; 2]| format!("{:6.2} {:6.2}", forward * 1e3, both * 1e3);
    println!(
        "{name:44} | {} | {} | {} | {}",
        rate(time(ours, &x, &weight, 1)),
        rate(time(burn, &x, &weight, 1)),
        rate(time(ours, &x, &weight, 2)),
        rate(time(burn, &x, &weight, 2))
    );
}

fn burn_norm_act(x: X, groups: usize) -> X {
    let gamma = Tensor::ones([x.dims()[1]], &Default::default());
    let dims = x.dims();
    let grouped = x.reshape([dims[0], groups, dims.iter().product::<usize>() / dims[0] / groups]);
    let centred = grouped.clone() - grouped.mean_dim(2);
    let inverse = (centred.clone() * centred.clone()).mean_dim(2).add_scalar(1e-5).sqrt().recip();
    let y = (centred * inverse).reshape(dims) * Tensor::<Cpu, 1>::reshape(gamma, [1, dims[1], 1, 1, 1]);
    activation::leaky_relu(y, 0.01)
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    println!("GFLOP/s, forward and forward + backward{:5} | ours 1 thread | burn 1 thread | ours 2        | burn 2", "");
    for (x, channels, kernel, stride) in [
        ([16, 1, 24, 24, 16], 8, 3, 1),
        ([16, 2, 24, 24, 16], 8, 3, 1),
        ([16, 8, 24, 24, 16], 8, 3, 1),
        ([4, 8, 24, 24, 16], 16, 3, 1),
        ([16, 8, 24, 24, 16], 16, 3, 2),
        ([16, 16, 12, 12, 8], 16, 3, 1),
        ([16, 24, 12, 12, 8], 24, 3, 1),
        ([16, 24, 12, 12, 8], 48, 3, 2),
        ([16, 48, 6, 6, 4], 48, 3, 1),
        ([16, 48, 3, 3, 2], 48, 3, 1),
        ([16, 8, 24, 24, 16], 2, 1, 1),
        ([16, 24, 12, 12, 8], 48, 1, 1),
        ([2, 32, 48, 48, 32], 32, 3, 1),
        ([1, 64, 48, 48, 32], 64, 3, 1),
        ([1, 1, 48, 48, 32], 64, 7, 1),
        ([1, 256, 12, 12, 8], 256, 3, 1),
        ([1, 512, 6, 6, 4], 512, 3, 1),
    ] {
        conv_row("", &filter, x, channels, kernel, stride);
    }
    println!("milliseconds");
    let up: Op = &|x, w| conv_transpose3d(x, w, None, [2; 3]);
    let burn_up: Op =
        &|x, w| module::conv_transpose3d(x, w, None, burn::tensor::ops::ConvTransposeOptions::new([2; 3], [0; 3], [0; 3], [1; 3], 1));
    milliseconds_row("up 48->24", &filter, [16, 48, 6, 6, 4], [48, 24, 2, 2, 2], up, burn_up);
    milliseconds_row("up 24->8", &filter, [16, 24, 12, 12, 8], [24, 8, 2, 2, 2], up, burn_up);
    for (x, groups) in [([16, 8, 24, 24, 16], 8), ([16, 24, 12, 12, 8], 4), ([16, 48, 6, 6, 4], 8), ([2, 32, 48, 48, 32], 32)] {
        let ours: Op = &|x, w| norm_act(x, Some(w.flatten::<1>(0, 4)), None, groups, 1e-5, Some(0.01));
        let burn: Op = &|x, _| burn_norm_act(x, groups);
        milliseconds_row("norm_act", &filter, x, [x[1], 1, 1, 1, 1], ours, burn);
    }
    let pool: Op = &|x, _| max_pool3d(x, [3; 3], [2; 3], [1; 3]);
    milliseconds_row("max_pool3d", &filter, [8, 16, 24, 24, 16], [1; 5], pool, pool);
    // A residual block as at the demo's middle level: two convolutions, two norms, shortcut.
    let block: Op = &|x, w| {
        let y = conv3d(x.clone(), w.clone(), None, [1; 3], [1; 3]);
        let y = norm_act(y, None, None, 4, 1e-5, Some(0.01));
        let y = conv3d(y, w, None, [1; 3], [1; 3]);
        norm_add_act(y, None, None, 4, 1e-5, Some(x), Some(0.01))
    };
    let burn_block: Op = &|x, w| {
        let options = || ConvOptions::new([1; 3], [1; 3], [1; 3], 1);
        let y = burn_norm_act(module::conv3d(x.clone(), w.clone(), None, options()), 4);
        let y = burn_norm_act(module::conv3d(y, w, None, options()), 4);
        activation::leaky_relu(y + x, 0.01)
    };
    for x in [[16, 8, 24, 24, 16], [16, 24, 12, 12, 8], [16, 48, 6, 6, 4]] {
        milliseconds_row("residual block", &filter, x, [x[1], x[1], 3, 3, 3], block, burn_block);
    }
}
