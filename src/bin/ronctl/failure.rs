//! Why a command failed, and the exit code that says so (SPEC §9).

use crate::output::warn;
use std::io;
use std::process::ExitCode;

/// The end of a command that did not succeed. The text is for a person and never holds a secret or a token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command ran and did not succeed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The command line makes no sense: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// No node answers: exit code 69 (EX_UNAVAILABLE).
    #[error("{0}")]
    Unreachable(String),
    /// The configuration is bad: exit code 78 (EX_CONFIG).
    #[error("{0}")]
    Config(String),
    /// Nobody reads the output any more (`ronctl … | head`): not an error.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::OutputClosed => 0,
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 69,
            Failure::Config(_) => 78,
        }
    }

    /// Says why on stderr, if there is something to say, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !matches!(self, Failure::OutputClosed) {
            warn(&self.to_string());
        }
        ExitCode::from(self.code())
    }
}

/// An error of a subcommand that knows no exit codes: ours if it came from us, else plain failure.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(other) => match other.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::BrokenPipe) => Failure::OutputClosed,
                _ => Failure::Failed(format!("{other:#}")),
            },
        }
    }
}

impl From<ron_client::Error> for Failure {
    fn from(error: ron_client::Error) -> Failure {
        match error {
            ron_client::Error::Io(_) => Failure::Unreachable(error.to_string()),
            other => Failure::Failed(other.to_string()),
        }
    }
}

/// `Failed` with a formatted text, for `map_err` and `ok_or_else`.
pub(crate) fn failed(text: impl Into<String>) -> Failure {
    Failure::Failed(text.into())
}
