//! What can be wrong with what a caller asks for?

use traflux_core::NetworkError;

/// A network, a matrix or a set of pairs that cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TeError {
    /// A number outside its range.
    #[error("{what} is {value}; it must be {limit}")]
    Parameter {
        /// Which number.
        what: &'static str,
        /// The number.
        value: f64,
        /// Its range in words.
        limit: &'static str,
    },
    /// Utilisation that stays zero, whatever the traffic is multiplied with.
    #[error("traffic that uses no link cannot be scaled to a utilization of {target}")]
    NoLoad {
        /// The utilisation asked for.
        target: f64,
    },
    /// A network, a matrix or a routing that does not hold together.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

impl TeError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Parameter { .. } => "te_parameter",
            Self::NoLoad { .. } => "te_no_load",
            Self::Network(error) => error.code(),
        }
    }

    /// Whether the same call may succeed later with nothing changed here: never.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}

/// Checks one number.
pub(crate) fn require(
    holds: bool,
    what: &'static str,
    value: f64,
    limit: &'static str,
) -> Result<(), TeError> {
    if holds { Ok(()) } else { Err(TeError::Parameter { what, value, limit }) }
}
