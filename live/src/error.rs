//! What can go wrong around the system under test?

use std::path::PathBuf;

/// Why a step of a live test could not be done. A claim that does not hold is no error but a verdict.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiveError {
    /// A program could not be started, or ended when it should run.
    #[error("{program}: {reason}")]
    Program { program: String, reason: String },
    /// A file could not be written or read.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// A request to an interface failed.
    #[error("{url}: {reason}")]
    Http { url: String, reason: String },
    /// Something did not happen in time.
    #[error("{what}: not within {limit_s:.0} s")]
    Timeout { what: String, limit_s: f64 },
    /// An answer lacks what it must have.
    #[error("{what} is missing in the answer")]
    Missing { what: String },
}

impl LiveError {
    pub(crate) fn program(program: &str, reason: impl ToString) -> Self {
        Self::Program { program: program.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::File { path: path.into(), reason: reason.to_string() }
    }

    pub(crate) fn http(url: &str, reason: impl ToString) -> Self {
        Self::Http { url: url.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn missing(what: impl Into<String>) -> Self {
        Self::Missing { what: what.into() }
    }
}

pub(crate) type Result<T> = std::result::Result<T, LiveError>;
