//! `panscreen bench conv` and `panscreen bench nets`.

use std::time::Instant;

use clap::{Args, ValueEnum};
use panscreen_policies::bench::{Row, operations};
use serde::Serialize;

use super::super::error::{Failure, USAGE};
use super::super::output::table;
use super::super::{Context, Ended};
use crate::backend::{TrainBackend, on_device};
use crate::bench::networks;
use crate::config::{Device, Precision};
use crate::error::Result;
use crate::run::Observer;
use crate::run::usage::{cpu_seconds, peak_memory_bytes, reset_peak_memory};

/// With one thread a time is CPU seconds of the process, which other load changes less; with more, and on a GPU, it is elapsed seconds.
/// `scripts/bench_pytorch.py` puts PyTorch beside every row.
#[derive(Debug, Args)]
pub struct NetworksArgs {
    /// Only rows whose name contains this.
    #[arg(default_value = "")]
    only: String,
    /// Time for each row, after a run that isn't counted; at least one sample is taken.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// Where to run.
    #[arg(long, value_enum, default_value = "cpu")]
    device: On,
    /// Numbers that networks compute in, see `panscreen config explain precision`.
    #[arg(long, value_enum, default_value = "f32")]
    precision: In,
    /// Print the rows' names only.
    #[arg(long)]
    list: bool,
}

/// Which rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    Operations,
    Networks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum On {
    Cpu,
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum In {
    F32,
    Bf16,
}

/// A row's figures.
#[derive(Debug, Serialize)]
struct Timed {
    name: String,
    threads: usize,
    /// `cpu` or `elapsed`.
    clock: &'static str,
    /// `null` where only the name was asked for.
    seconds_median: Option<f64>,
    gflops: Option<f64>,
    /// Highest memory of the process during the row, inputs and weights included.
    peak_mib: Option<f64>,
    samples: Vec<f64>,
}

pub fn run(what: Rows, args: NetworksArgs, context: &Context) -> Result<Ended, Failure> {
    if !(0.0..=86_400.0).contains(&args.seconds) {
        return Err(Failure::says(USAGE, format!("--seconds is {}, expected 0 to 86400", args.seconds)));
    }
    let precision = if args.precision == In::F32 { Precision::F32 } else { Precision::Bf16 };
    if precision == Precision::Bf16 && args.device == On::Cpu {
        let says = "--precision is bf16 with --device cpu, expected f32: the kernels for the CPU are f32";
        return Err(Failure::says(USAGE, says).hint("give --device cuda, or leave --precision out"));
    }
    context.use_threads(0)?;
    let device = if args.device == On::Cpu { Device::Cpu } else { Device::Cuda };
    let timed = on_device(device, Bench { what, args: &args, precision, observer: &*context.observer })?;
    context.observer.finish();
    if timed.is_empty() {
        return Err(Failure::says(USAGE, format!("no row's name contains `{}`", args.only)).hint("--list names all rows"));
    }
    context.output.result(&timed, |timed| {
        if args.list {
            return timed.iter().map(|t| format!("{}\n", t.name)).collect();
        }
        let number = |value: Option<f64>, digits: usize| value.map_or(String::new(), |v| format!("{v:.digits$}"));
        let rows: Vec<[String; 4]> = timed
            .iter()
            .map(|t| [t.name.clone(), number(t.seconds_median.map(|s| s * 1e3), 2), number(t.gflops, 1), number(t.peak_mib, 0)])
            .collect();
        let (threads, clock) = (timed[0].threads, timed[0].clock);
        format!("{threads} thread(s), {clock} time, medians\n{}", table(["row", "ms", "GFLOP/s", "peak MiB"], &rows))
    })?;
    Ok(Ended::Done)
}

struct Bench<'a> {
    what: Rows,
    args: &'a NetworksArgs,
    precision: Precision,
    observer: &'a dyn Observer,
}

impl crate::backend::Work for Bench<'_> {
    type Output = Vec<Timed>;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<Vec<Timed>> {
        let Bench { what, args, precision, observer } = self;
        let threads = rayon::current_num_threads();
        let rows = match what {
            Rows::Operations => operations::<B>(&device, precision.dtype()),
            Rows::Networks => networks::<B>(&device, precision, threads),
        };
        let rows: Vec<Row> = rows.into_iter().filter(|row| row.name.contains(&args.only)).collect();
        if !args.list {
            observer.phase("time", Some(rows.len() as u64));
        }
        let start = Instant::now();
        let by_cpu = threads == 1 && args.device == On::Cpu && cpu_seconds().is_some();
        let clock = || cpu_seconds().filter(|_| by_cpu).unwrap_or_else(|| start.elapsed().as_secs_f64());
        let time = |row: Row| {
            let mut timed = Timed {
                name: row.name.clone(),
                threads,
                clock: if by_cpu { "cpu" } else { "elapsed" },
                seconds_median: None,
                gflops: None,
                peak_mib: None,
                samples: vec![],
            };
            if !args.list {
                reset_peak_memory();
                timed.samples = row.prepare().measure(args.seconds, &clock);
                timed.peak_mib = peak_memory_bytes().map(|b| b as f64 / f64::from(1 << 20));
                let median = median(&timed.samples);
                timed.seconds_median = Some(median);
                timed.gflops = row.flop.map(|flop| flop / median * 1e-9);
                observer.advance(1, &[]);
            }
            timed
        };
        Ok(rows.into_iter().map(time).collect())
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
