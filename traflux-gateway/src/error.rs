//! What went wrong, in variants that a caller can act on.

/// An error of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GatewayError {
    /// A picker was asked for by a name that none has.
    #[error("unknown picker `{name}`, expected one of {expected}")]
    UnknownPicker {
        /// The name.
        name: String,
        /// The names there are.
        expected: String,
    },
    /// A setting is out of range.
    #[error("`{name}` is {value}, expected {least} to {most}")]
    Setting {
        /// Its key.
        name: &'static str,
        /// The value.
        value: f64,
        /// The least that is valid.
        least: f64,
        /// The most that is valid.
        most: f64,
    },
    /// Something has another number of elements than it must have.
    #[error("{len} {what}, expected {expected}")]
    Shape {
        /// What.
        what: &'static str,
        /// How many there are.
        len: usize,
        /// How many there must be.
        expected: usize,
    },
}

impl GatewayError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownPicker { .. } => "gateway_unknown_picker",
            Self::Setting { .. } => "gateway_setting",
            Self::Shape { .. } => "gateway_shape",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::UnknownPicker { .. } | Self::Setting { .. } | Self::Shape { .. } => false,
        }
    }
}
