//! What can go wrong, and the exit code that says so.

use crate::config::ConfigError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A config file, an override or an option on the command line.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A request that can't be carried out as it is.
    #[error("{0}")]
    Usage(String),
    /// A scan, a label, a list.
    #[error(transparent)]
    Data(#[from] panscreen_envs::Error),
    /// Several cases at once; none of them can be used.
    #[error("{} can't be used:{}", count(.0.len(), "case"), .0.iter().map(|(case, e)| format!("\n  {case}: {e}")).collect::<String>())]
    Cases(Vec<(String, panscreen_envs::Error)>),
    /// The run folder, its log or its checkpoints.
    #[error(transparent)]
    Run(#[from] crate::run::Error),
    /// Weights that do not fit the network.
    #[error(transparent)]
    Weights(#[from] panscreen_policies::weights::Error),
    /// Optimiser state, or a gradient that isn't finite.
    #[error(transparent)]
    Optimizer(#[from] panscreen_policies::optim::Error),
    /// The run was asked to stop and has saved itself.
    #[error("stopped at step {step} and saved; start the same command again to go on")]
    Stopped { step: u64 },
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

impl From<crate::run::NonFinite> for Error {
    fn from(e: crate::run::NonFinite) -> Self {
        Error::Run(e.into())
    }
}

impl From<panscreen_policies::nets::ConfigError> for Error {
    fn from(e: panscreen_policies::nets::ConfigError) -> Self {
        Error::Usage(e.to_string())
    }
}
