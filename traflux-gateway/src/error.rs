//! What went wrong, in variants that a caller can act on.

use std::path::PathBuf;

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
    /// A setting of a limit has a value that it cannot have.
    #[error("limit `{limit}`: {setting} is {value}, expected {expected}")]
    LimitSetting {
        /// The limit or scope.
        limit: String,
        /// The key of the setting.
        setting: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A file of levels cannot be read or written.
    #[error("level store {}: {kind}", path.display())]
    LevelStore {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        kind: std::io::ErrorKind,
    },
    /// A file of levels is damaged or of another version; nothing of it was used.
    #[error("level store is damaged at line {line}: {problem}")]
    LevelStoreDamaged {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl GatewayError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownPicker { .. } => "gateway_unknown_picker",
            Self::LimitSetting { .. } => "gateway_limit_setting",
            Self::LevelStore { .. } => "gateway_level_store",
            Self::LevelStoreDamaged { .. } => "gateway_level_store_damaged",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::LevelStore { .. } => true,
            Self::UnknownPicker { .. } | Self::LimitSetting { .. } | Self::LevelStoreDamaged { .. } => false,
        }
    }
}
