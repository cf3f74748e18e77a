//! `panscreen model info`, `import`, `export`, `new`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::AutodiffModule;
use clap::{Args, Subcommand, ValueEnum};
use panscreen_envs::io::write_atomic;
use panscreen_policies::weights::import::{self, Source};
use panscreen_policies::weights::{self, Report, Scope};
use serde::Serialize;

use super::error::{Failure, USAGE};
use super::output::table;
use super::{Context, Ended};
use crate::backend::{TrainBackend, Work, on_device};
use crate::config::{self, Config, Device};
use crate::error::Result;
use crate::run::Observer;
use crate::setup;
use crate::stages::gf_screen::learner::Learner;
use crate::train;

/// Look at weights, bring in those of other programs, write them for others.
#[derive(Debug, Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What a file of weights holds: safetensors, or a PyTorch checkpoint.
    Info {
        /// The file.
        file: PathBuf,
        /// Keys of a PyTorch checkpoint down to the weights, such as `state_dict` [default: found].
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// Bring weights of MONAI, nnU-Net, VoCo, SuPreM or the published GF-Screen into a network; what did not fit is listed.
    ///
    /// `init_from=DIR` then starts a run from them.
    #[command(override_usage = "panscreen model import [OPTIONS] <FILE> --net <NET> --config <TOML> --out <DIR> [K=V]...")]
    Import {
        /// The file: safetensors, or a PyTorch checkpoint.
        file: PathBuf,
        /// Which network of the config.
        #[arg(long, value_name = "NET")]
        net: Net,
        /// Config file or run folder that describes the networks.
        #[arg(long, value_name = "TOML")]
        config: PathBuf,
        /// Folder of the weights. The network that it lacks gets its first weights.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Keys of a PyTorch checkpoint down to the weights, such as `state_dict` [default: found].
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// What the file must have: the whole network, or its encoder.
        #[arg(long, value_name = "PART", default_value = "whole")]
        part: Part,
        /// Share of that part's parameters that must fit, 0 to 1.
        #[arg(long, value_name = "SHARE", default_value_t = 0.99)]
        at_least: f64,
        /// Overrides such as `focus.merging=old`.
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
    /// Make a run folder of untrained networks: with first weights, or with `init_from=DIR` those that were imported. It can be screened with,
    /// and `panscreen train` goes on from it.
    #[command(override_usage = "panscreen model new [OPTIONS] <CONFIG> --out <RUN> [K=V]...")]
    New {
        /// Config file.
        config: PathBuf,
        /// The run folder.
        #[arg(long, value_name = "RUN")]
        out: PathBuf,
        /// Overrides such as `init_from=weights`.
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
    /// Write a network's weights as safetensors, with the names that MONAI, nnU-Net or SuPreM have.
    Export {
        /// Run folder (its best checkpoint, else its last), or a folder of weights.
        run: PathBuf,
        /// Which network.
        #[arg(long, value_name = "NET")]
        net: Net,
        /// Config file that describes the networks [default: the run's].
        #[arg(long, value_name = "TOML")]
        config: Option<PathBuf>,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Overrides such as `focus.merging=old`.
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Net {
    Glance,
    Focus,
}

impl Net {
    fn file(self) -> &'static str {
        match self {
            Net::Glance => "glance.safetensors",
            Net::Focus => "focus.safetensors",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Whole,
    Encoder,
}

pub fn run(args: ModelArgs, context: &Context) -> Result<Ended, Failure> {
    match args.action {
        Action::Info { file, key } => info(&file, key.as_deref(), context)?,
        Action::Import { file, net, config, out, key, part, at_least, overrides } => {
            if !(0.0..=1.0).contains(&at_least) {
                return Err(Failure::says(USAGE, format!("--at-least is {at_least}, expected a share from 0 to 1")));
            }
            let config = config::load(&config, &overrides)?;
            context.use_threads(config.threads)?;
            let source = Source::open(&file, key.as_deref()).map_err(crate::Error::from)?;
            if let Some(warning) = import::merging_warning(&config.focus, &source.metadata) {
                context.observer.warn(&warning);
            }
            let imported = on_device(Device::Cpu, Import { config, net, file, source, part, at_least, out, observer: &*context.observer })?;
            context.output.result(&imported, Imported::text)?;
        }
        Action::New { config, out, overrides } => {
            let config = config::load(&config, &overrides)?;
            context.use_threads(config.threads)?;
            let made = train::untrained(&config, &out, &*context.observer)?;
            context.output.result(&made, |m| format!("{}: Glance {} and Focus {} parameters\n", m.run.display(), m.glance, m.focus))?;
        }
        Action::Export { run, net, config, out, overrides } => {
            let mut config = config::load(config.as_deref().unwrap_or(&run), &overrides)?;
            config.init_from = Some(run);
            context.use_threads(config.threads)?;
            let exported = on_device(Device::Cpu, Export { config, net, out, observer: &*context.observer })?;
            context.output.result(&exported, |e| format!("{}: {} parameters\n", e.file.display(), e.parameters))?;
        }
    }
    Ok(Ended::Done)
}

/// A file of weights.
#[derive(Debug, Serialize)]
struct Info {
    key: String,
    parameters: usize,
    tensors: Vec<(String, Vec<usize>)>,
    metadata: BTreeMap<String, String>,
}

fn info(file: &Path, key: Option<&str>, context: &Context) -> Result<(), Failure> {
    let source = Source::open(file, key).map_err(crate::Error::from)?;
    let parameters = source.parameters();
    let tensors = source.tensors.into_iter().map(|t| (t.name, t.shape)).collect();
    context.output.result(&Info { key: source.key, parameters, tensors, metadata: source.metadata }, |info| {
        let rows: Vec<[String; 2]> = info.tensors.iter().map(|(name, shape)| [name.clone(), format!("{shape:?}")]).collect();
        let at = if info.key.is_empty() { String::new() } else { format!(" at {}", info.key) };
        let about: String = info.metadata.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
        format!("{} tensors, {} numbers{at}\n{about}\n{}", rows.len(), info.parameters, table(["tensor", "shape"], &rows))
    })
}

/// What an import did.
#[derive(Debug, Serialize)]
struct Imported {
    file: PathBuf,
    /// Share of the parameters asked for that were found, 0 to 1.
    coverage: f64,
    matched_parameters: usize,
    wanted_parameters: usize,
    matched: Vec<(String, Vec<usize>)>,
    missing: Vec<(String, Vec<usize>)>,
    unexpected: Vec<(String, Vec<usize>)>,
    /// Name, shape in the file, shape in the network.
    mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
    #[serde(skip)]
    summary: String,
}

impl Imported {
    fn new(file: PathBuf, report: Report) -> Self {
        Imported {
            file,
            coverage: report.coverage(),
            matched_parameters: report.matched_parameters(),
            wanted_parameters: report.wanted_parameters(),
            summary: report.to_string(),
            matched: report.matched,
            missing: report.missing,
            unexpected: report.unexpected,
            mismatched: report.mismatched,
        }
    }

    fn text(&self) -> String {
        format!("{}: {}\n", self.file.display(), self.summary)
    }
}

struct Import<'a> {
    config: Config,
    net: Net,
    file: PathBuf,
    source: Source,
    part: Part,
    at_least: f64,
    out: PathBuf,
    observer: &'a dyn Observer,
}

impl Work for Import<'_> {
    type Output = Imported;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<Imported> {
        let Import { mut config, net, file, source, part, at_least, out, observer } = self;
        // The other network stays what it was in the folder.
        let there = [Net::Glance, Net::Focus].iter().all(|net| out.join(net.file()).is_file());
        config.init_from = there.then(|| out.clone());
        let mut learner = Learner::<B>::new(&config, &device)?;
        setup::init_from(&config, &mut learner, observer)?;
        let scope = match part {
            Part::Whole => Scope::Whole,
            Part::Encoder => Scope::encoder(),
        };
        let of_file = |e| weights::Error::At { path: file.clone(), source: Box::new(e) };
        let report = match net {
            Net::Glance => {
                let layout = config.glance.network.layout(&config.focus);
                let (glance, report) = import::import(learner.glance, source, layout, &scope, at_least).map_err(of_file)?;
                learner.glance = glance;
                report
            }
            Net::Focus => {
                let (focus, report) = import::import(learner.focus, source, config.focus.layout(), &scope, at_least).map_err(of_file)?;
                learner.focus = focus;
                report
            }
        };
        weights::save(&out.join(Net::Glance.file()), &learner.glance.valid(), &BTreeMap::new())?;
        weights::save(&out.join(Net::Focus.file()), &learner.focus.valid(), &import::describe(&config.focus))?;
        Ok(Imported::new(out.join(net.file()), report))
    }
}

/// What an export wrote.
#[derive(Debug, Serialize)]
struct Exported {
    file: PathBuf,
    parameters: usize,
}

struct Export<'a> {
    config: Config,
    net: Net,
    out: PathBuf,
    observer: &'a dyn Observer,
}

impl Work for Export<'_> {
    type Output = Exported;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<Exported> {
        let Export { config, net, out, observer } = self;
        let mut learner = Learner::<B>::new(&config, &device)?;
        setup::init_from(&config, &mut learner, observer)?;
        let (bytes, parameters) = match net {
            Net::Glance => {
                let (glance, layout) = (learner.glance.valid(), config.glance.network.layout(&config.focus));
                (import::export(&glance, layout, &BTreeMap::new())?, weights::parameter_count(&glance))
            }
            Net::Focus => {
                let focus = learner.focus.valid();
                (import::export(&focus, config.focus.layout(), &import::describe(&config.focus))?, weights::parameter_count(&focus))
            }
        };
        write_atomic(&out, &bytes)?;
        Ok(Exported { file: out, parameters })
    }
}
