//! What went wrong, in variants that a caller can act on.

/// An error of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// A picker was asked for by a name that none has.
    #[error("unknown picker `{name}`, expected one of {expected}")]
    UnknownPicker {
        /// The name.
        name: String,
        /// The names there are.
        expected: String,
    },
    /// A setting has a value it cannot have.
    #[error("setting `{setting}` is {value}, expected {expected}")]
    InvalidSetting {
        /// Its key.
        setting: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Two things of one kind have the same name.
    #[error("{kind} `{name}` is named twice")]
    DuplicateName {
        /// What it is.
        kind: &'static str,
        /// The name.
        name: String,
    },
}

impl GatewayError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownPicker { .. } => "gateway_unknown_picker",
            Self::InvalidSetting { .. } => "gateway_invalid_setting",
            Self::DuplicateName { .. } => "gateway_duplicate_name",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::UnknownPicker { .. } | Self::InvalidSetting { .. } | Self::DuplicateName { .. } => false,
        }
    }
}
