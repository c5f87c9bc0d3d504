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
    /// A setting has a value that makes no sense.
    #[error("setting `{setting}` is {value}, expected {expected}")]
    InvalidSetting {
        /// The key in configuration.
        setting: &'static str,
        /// The value found.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
}

impl GatewayError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownPicker { .. } => "gateway_unknown_picker",
            Self::InvalidSetting { .. } => "gateway_invalid_setting",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::UnknownPicker { .. } | Self::InvalidSetting { .. } => false,
        }
    }
}

/// Fails for a setting unless `valid`.
pub(crate) fn check(
    valid: bool,
    setting: &'static str,
    value: impl std::fmt::Debug,
    expected: &'static str,
) -> Result<(), GatewayError> {
    if valid {
        Ok(())
    } else {
        Err(GatewayError::InvalidSetting { setting, value: format!("{value:?}"), expected })
    }
}
