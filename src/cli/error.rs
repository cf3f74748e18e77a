//! How a failure looks and what the program returns: one renderer and one list of exit codes for all verbs.

use std::error::Error;
use std::fmt;

use crate::config::ConfigError;

/// Everything was done.
pub const DONE: u8 = 0;
/// Not everything came out: some cases failed (they are listed, the others are there), or a run met a value that is not finite.
pub const FAILED_CASES: u8 = 1;
/// The command line or the config can't be used, or the run folder is another run's; nothing was begun.
pub const USAGE: u8 = 2;
/// The data were refused: not readable, damaged, or not what they must be.
pub const DATA: u8 = 3;
/// Stopped on purpose (SIGINT, SIGTERM, time limit) with everything saved: run the same command again. The code is BSD's EX_TEMPFAIL.
pub const STOPPED: u8 = 75;

/// Why a verb ended, for a person:
///
/// ```text
/// error: cannot read the case liver_12
///   cause: images/liver_12.nii.gz: unexpected end of file
///
/// hint: copy the file again
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the program returns.
    pub code: u8,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure with the cause chain of `error`.
    pub fn new(code: u8, error: &dyn Error) -> Self {
        let mut failure = Failure::says(code, error.to_string());
        let mut said = failure.message.clone();
        let mut next = error.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Many errors repeat their cause in their own sentence.
            if !said.contains(&text) {
                said.clone_from(&text);
                failure.causes.push(text);
            }
            next = cause.source();
        }
        failure
    }

    /// A failure without a cause.
    pub fn says(code: u8, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// The one thing to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.code == STOPPED { "" } else { "error: " }, self.message)?;
        for cause in &self.causes {
            write!(f, "\n  cause: {cause}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<ConfigError> for Failure {
    /// A config error brings its place and its hint.
    fn from(error: ConfigError) -> Self {
        Failure::says(USAGE, error.to_string())
    }
}

impl From<panscreen_envs::Error> for Failure {
    fn from(error: panscreen_envs::Error) -> Self {
        let code = if matches!(error, panscreen_envs::Error::Setting(_)) { USAGE } else { DATA };
        Failure::new(code, &error)
    }
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        use crate::{Error, run};
        let code = match error {
            Error::Config(e) => return e.into(),
            Error::Data(e) | Error::Run(run::Error::File(e)) => return e.into(),
            Error::Usage(_) | Error::Run(run::Error::Locked { .. } | run::Error::ConfigDiffers { .. }) => USAGE,
            Error::Cases(_) | Error::Weights(_) => DATA,
            Error::Run(run::Error::NonFinite(_)) | Error::Optimizer(_) => FAILED_CASES,
            Error::Stopped { .. } => STOPPED,
        };
        Failure::new(code, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::path::Path;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the case liver_12")]
    struct Case(#[source] panscreen_envs::Error);

    #[test]
    fn what_a_person_reads() {
        let truncated =
            || panscreen_envs::Error::io(Path::new("a.nii.gz"), io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected end of file"));
        for (failure, code, text) in [
            (Failure::from(truncated()), DATA, "error: a.nii.gz: unexpected end of file; check the path and the disk"),
            (
                Failure::new(DATA, &Case(truncated())).hint("copy the file again"),
                DATA,
                "error: cannot read the case liver_12\n  cause: a.nii.gz: unexpected end of file; check the path and the disk\n\nhint: copy the file again",
            ),
            (Failure::from(panscreen_envs::Error::Setting("no windows".into())), USAGE, "error: no windows"),
            (
                Failure::from(crate::Error::Stopped { step: 7 }),
                STOPPED,
                "stopped at step 7 and saved; start the same command again to go on",
            ),
        ] {
            assert_eq!((failure.code, failure.to_string().as_str()), (code, text));
        }
    }
}
