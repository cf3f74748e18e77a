//! Speed of the CPU kernels, and of Burn's own operations beside them.
//!
//! `cargo run --release -p panscreen-policies --example bench_kernels -- [--json] [--burn] [--threads N] [--seconds S] [--list] [FILTER]`
//!
//! A row whose name contains FILTER is run for S seconds (1), in samples of at least 50 ms after a first run that isn't counted. With one thread
//! (the default) a sample is CPU seconds, which other load on the machine changes less than time; with more it is elapsed time. `--json`
//! prints one object a row: `name`, `threads`, `seconds_median`, `gflops` (a multiply and an add are 2, backward counts twice the
//! forward; null where time says more) and the samples. `--burn` runs Burn's operations instead. `scripts/bench_pytorch.py` puts the rows
//! beside PyTorch's. Linux only (it reads /proc).

use burn::backend::{Autodiff, Flex};
use burn::tensor::{Distribution, Tensor, activation, module, ops::ConvOptions, ops::ConvTransposeOptions};
use panscreen_policies::kernels;
use std::time::{Duration, Instant};

type Cpu = Autodiff<Flex>;
type X<const D: usize> = Tensor<Cpu, D>;

struct Settings {
    json: bool,
    burn: bool,
    list: bool,
    threads: usize,
    seconds: f64,
    filter: String,
}

impl Settings {
    fn parse() -> Self {
        let mut settings = Settings { json: false, burn: false, list: false, threads: 1, seconds: 1.0, filter: String::new() };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || args.next().and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{arg} needs a number"));
            match arg.as_str() {
                "--json" => settings.json = true,
                "--burn" => settings.burn = true,
                "--list" => settings.list = true,
                "--threads" => settings.threads = (number() as usize).max(1),
                "--seconds" => settings.seconds = number(),
                _ => settings.filter = arg,
            }
        }
        settings
    }

    /// Seconds that this thread, or the world, has spent.
    fn clock(&self, start: Instant) -> f64 {
        if self.threads > 1 {
            return start.elapsed().as_secs_f64();
        }
        // The kernel brings the figure up to date when the thread gives way.
        std::thread::yield_now();
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux's /proc");
        stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("nanoseconds") * 1e-9
    }

    /// Seconds of `run` less those of `scaffold`, in samples.
    fn measure(&self, run: &mut dyn FnMut(), scaffold: &mut dyn FnMut()) -> Vec<f64> {
        let start = Instant::now();
        run();
        let (mut samples, began) = (Vec::new(), Instant::now());
        while samples.len() < 3 || began.elapsed() < Duration::from_secs_f64(self.seconds) {
            let (from, from_time, mut runs) = (self.clock(start), Instant::now(), 0);
            while runs == 0 || from_time.elapsed() < Duration::from_millis(50) {
                run();
                runs += 1;
            }
            let middle = self.clock(start);
            (0..runs).for_each(|_| scaffold());
            samples.push((2.0 * middle - from - self.clock(start)) / runs as f64);
        }
        samples
    }

    fn report(&self, name: &str, flop: Option<f64>, samples: Vec<f64>) {
        let seconds = median(&samples);
        let gflops = flop.map(|flop| flop / seconds / 1e9);
        if self.json {
            let rate = gflops.map_or("null".into(), |rate| format!("{rate:.2}"));
            let threads = self.threads;
            println!(
                r#"{{"name": "{name}", "threads": {threads}, "seconds_median": {seconds:.7}, "gflops": {rate}, "samples": {samples:.7?}}}"#
            );
        } else {
            println!("{name:56} {:10.3} ms {}", seconds * 1e3, gflops.map_or(String::new(), |rate| format!("{rate:7.1} GFLOP/s")));
        }
    }

    /// The rows `name forward` and `name forward+backward` of an operation on `x` and `parameters`.
    fn row<const D: usize, const P: usize>(
        &self,
        name: &str,
        flop: Option<f64>,
        shapes: ([usize; D], [usize; P]),
        with_dx: bool,
        op: &dyn Fn(X<D>, X<P>) -> X<D>,
    ) {
        let named = |pass: &str| Some(format!("{name} {pass}")).filter(|name| name.contains(&self.filter));
        let (forward, both) = (named("forward"), named("forward+backward"));
        // `forward` is a part of the other name: a filter that ends in it means it alone.
        let both = both.filter(|_| !self.filter.ends_with("forward"));
        if self.list {
            [forward, both].into_iter().flatten().for_each(|name| println!("{name}"));
            return;
        }
        if forward.is_none() && both.is_none() {
            return;
        }
        let (x, parameters) = (random(shapes.0), random(shapes.1));
        if let Some(name) = forward {
            let (x, parameters) = (x.clone().inner(), parameters.clone().inner());
            let constant = |x: &Tensor<Flex, D>| X::<D>::from_inner(x.clone());
            let samples = self.measure(&mut || drop(op(constant(&x), X::<P>::from_inner(parameters.clone()))), &mut || ());
            self.report(&name, flop, samples);
        }
        if let Some(name) = both {
            let (x, parameters) = (if with_dx { x.require_grad() } else { x }, parameters.require_grad());
            let y = op(x.clone(), parameters.clone());
            let dy = random(y.dims());
            // What it takes Burn to bring the gradient to the output isn't the operation's.
            let output = y.detach().require_grad();
            let samples = self.measure(&mut || drop((op(x.clone(), parameters.clone()) * dy.clone()).sum().backward()), &mut || {
                drop((output.clone() * dy.clone()).sum().backward())
            });
            let passes = if with_dx { 3.0 } else { 2.0 };
            self.report(&name, flop.map(|flop| passes * flop), samples);
        }
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn random<const D: usize>(shape: [usize; D]) -> X<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

fn main() {
    let settings = Settings::parse();
    // Before anything runs: the first use makes a pool of all cores.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(settings.threads);
    let pool = if settings.threads == 1 { pool.use_current_thread() } else { pool };
    pool.build_global().expect("a thread pool");
    convolutions(&settings);
    volumes(&settings);
    rows(&settings);
}

fn convolutions(settings: &Settings) {
    for (x, channels, kernel, stride) in [
        ([2, 32, 48, 48, 32], 32, 3, 1),
        ([1, 64, 48, 48, 32], 64, 3, 1),
        ([1, 48, 96, 96, 64], 48, 3, 1),
        ([1, 1, 96, 96, 64], 64, 7, 1),
        ([1, 256, 12, 12, 8], 256, 3, 1),
        ([1, 512, 6, 6, 4], 512, 3, 1),
        ([4, 8, 24, 24, 16], 16, 3, 1),
        // What else the networks have: stems, strides, the deepest levels, small training crops.
        ([1, 1, 96, 96, 64], 64, 7, 2),
        ([16, 1, 64, 64, 32], 16, 3, 1),
        ([16, 16, 32, 32, 16], 16, 3, 1),
        ([16, 32, 32, 32, 16], 64, 3, 2),
        ([1, 64, 48, 48, 32], 128, 3, 2),
        ([1, 128, 24, 24, 16], 128, 3, 1),
        ([1, 768, 3, 3, 2], 768, 3, 1),
        ([16, 48, 3, 3, 2], 48, 3, 1),
        ([1, 48, 48, 48, 32], 48, 1, 1),
    ] {
        let (padding, strides) = ([kernel / 2; 3], [stride; 3]);
        let weight = [channels, x[1], kernel, kernel, kernel];
        let out: usize = x[2..].iter().map(|n| (n - 1) / stride + 1).product();
        let flop = 2.0 * (x[0] * channels * out * x[1] * kernel.pow(3)) as f64;
        let name = format!("conv{kernel}/{stride} {x:?}->{channels}");
        let burn = settings.burn;
        settings.row(&name, Some(flop), (x, weight), x[1] > 1, &|x, w| match burn {
            false => kernels::conv3d(x, w, None, strides, padding),
            true => module::conv3d(x, w, None, ConvOptions::new(strides, padding, [1; 3], 1)),
        });
    }
    let x = [1, 64, 24, 24, 16];
    let flop = 2.0 * (x.iter().product::<usize>() * 32 * 8) as f64;
    let burn = settings.burn;
    settings.row("up2 [1, 64, 24, 24, 16]->32", Some(flop), (x, [64, 32, 2, 2, 2]), true, &|x, w| match burn {
        false => kernels::conv_transpose3d(x, w, None, [2; 3]),
        true => module::conv_transpose3d(x, w, None, ConvTransposeOptions::new([2; 3], [0; 3], [0; 3], [1; 3], 1)),
    });
}

fn volumes(settings: &Settings) {
    let burn = settings.burn;
    let x = [2, 32, 48, 48, 32];
    settings.row("instance_norm+leaky_relu [2, 32, 48, 48, 32]", None, (x, [32]), true, &|x, gamma| match burn {
        false => kernels::norm_act(x, Some(gamma), None, 32, 1e-5, Some(0.01)),
        true => {
            let dims = x.dims();
            let grouped = x.reshape([dims[0], dims[1], dims[2] * dims[3] * dims[4]]);
            let centred = grouped.clone() - grouped.mean_dim(2);
            let inverse = (centred.clone() * centred.clone()).mean_dim(2).add_scalar(1e-5).sqrt().recip();
            activation::leaky_relu((centred * inverse).reshape(dims) * gamma.reshape([1, 32, 1, 1, 1]), 0.01)
        }
    });
    settings.row("max_pool3/2 [1, 64, 48, 48, 32]", None, ([1, 64, 48, 48, 32], [1]), true, &|x, _| {
        kernels::max_pool3d(x, [3; 3], [2; 3], [1; 3])
    });
}

fn rows(settings: &Settings) {
    let burn = settings.burn;
    let elements = [32928, 144];
    settings.row("gelu [32928, 144]", None, (elements, [1]), true, &|x, _| if burn { activation::gelu(x) } else { kernels::gelu(x) });
    for (x, outputs) in [([32928, 48], 192), ([32928, 192], 48), ([512, 384], 1536)] {
        let flop = 2.0 * (x[0] * x[1] * outputs) as f64;
        let name = format!("linear {x:?}->{outputs}");
        settings.row(&name, Some(flop), (x, [outputs, x[1]]), true, &|x, w| match burn {
            false => kernels::linear(x, w, None),
            true => x.matmul(w.transpose()),
        });
    }
    settings.row("softmax [96, 3, 343, 343]", None, ([96, 3, 343, 343], [1]), true, &|x, _| match burn {
        false => kernels::softmax(x),
        true => activation::softmax(x, 3),
    });
    settings.row("layer_norm [73728, 48]", None, ([73728, 48], [48]), true, &|x, gamma| match burn {
        false => kernels::layer_norm(x, gamma.clone(), gamma, 1e-5),
        true => {
            let centred = x.clone() - x.mean_dim(1);
            let inverse = (centred.clone() * centred.clone()).mean_dim(1).add_scalar(1e-5).sqrt().recip();
            centred * inverse * gamma.clone().unsqueeze() + gamma.unsqueeze()
        }
    });
    // Two products of 16 values for each pair of tokens.
    let (windows, heads, length, per_head) = (96, 3, 343, 16);
    let flop = 4.0 * (windows * heads * length * length * per_head) as f64;
    let shapes = ([windows, length, 3 * heads * per_head], [heads, length, length]);
    settings.row("window_attention 96x343, 3 heads of 16", Some(flop), shapes, true, &|qkv, bias| match burn {
        false => kernels::attention(qkv, Some(bias), None, heads),
        true => {
            let part = |i: usize| qkv.clone().narrow(2, i * 48, 48).reshape([windows, length, heads, per_head]).swap_dims(1, 2);
            let scores = (part(0) * 0.25).matmul(part(1).transpose()) + bias.unsqueeze();
            activation::softmax(scores, 3).matmul(part(2)).swap_dims(1, 2).reshape([windows, length, heads * per_head])
        }
    });
}
