//! What went wrong, in variants that a caller can act on.

use std::borrow::Cow;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GatewayError {
    /// A plan that contradicts itself.
    #[error(transparent)]
    Plan(#[from] traflux_core::PlanError),
    /// A regular expression that does not compile.
    #[error("regular expression `{pattern}` does not compile: {reason}")]
    Pattern {
        /// The expression.
        pattern: String,
        /// What the compiler said.
        reason: String,
    },
    /// The body of a request that is no JSON object of the expected form.
    #[error("request body: {reason}")]
    Body {
        /// What the parser said, with line and column.
        reason: String,
    },
    /// A picker was asked for by a name that none has.
    #[error("unknown picker `{name}`, expected one of {expected}")]
    UnknownPicker {
        /// The name.
        name: String,
        /// The names there are.
        expected: String,
    },
    /// A tenant of a queue cannot get this weight or parent.
    #[error("tenant {tenant} of a queue {problem}")]
    QueueTenant {
        /// The number of the tenant.
        tenant: u32,
        /// What is wrong.
        problem: &'static str,
    },
    /// A tenant of a queue cannot move while something of it waits.
    #[error("tenant {tenant} of a queue cannot move while requests of it wait")]
    QueueTenantBusy {
        /// The number of the tenant.
        tenant: u32,
    },
    /// More limits may hold for one request than a reservation has room for.
    #[error("limit `{limit}` may hold together with {together} others, at most {most} may")]
    TooManyLimits {
        /// One of them.
        limit: String,
        /// How many.
        together: usize,
        /// How many may.
        most: usize,
    },
    /// A file of levels cannot be read or written.
    #[error("level store {}: {kind}", path.display())]
    LevelStore {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        kind: std::io::ErrorKind,
    },
    /// Another process keeps its levels in the same file.
    #[error("level store {} is in use by another process", path.display())]
    LevelStoreBusy {
        /// The file.
        path: PathBuf,
    },
    /// A file of levels is damaged or of another version; nothing of it was used.
    #[error("level store is damaged at line {line}: {problem}")]
    LevelStoreDamaged {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
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
    /// A setting has a value that it cannot have.
    #[error("`{setting}` is {value}, expected {expected}")]
    Setting {
        /// Its key, behind the name of the limit where it is one of a limit.
        setting: Cow<'static, str>,
        /// The value.
        value: String,
        /// What it may be.
        expected: Cow<'static, str>,
    },
    /// The gateway cannot listen there.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address and port.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// A certificate, key or authority that cannot be used.
    #[error("{file}: {reason}")]
    Certificate {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A secret that is not where the plan says.
    #[error("{path}: {source_of} holds no usable secret: {reason}")]
    Secret {
        /// Key of the plan.
        path: String,
        /// The variable or the file.
        source_of: String,
        /// What is wrong; never the secret.
        reason: String,
    },
    /// A change that a running gateway cannot make.
    #[error("`{setting}` cannot change from {before} to {after} without a restart")]
    NeedsRestart {
        /// Key of the plan.
        setting: &'static str,
        /// What is in force.
        before: String,
        /// What was asked for.
        after: String,
    },
    /// A file that cannot be read, or holds no plan.
    #[error("{file}: {reason}")]
    PlanFile {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A decision log that cannot be read.
    #[error("decision log, line {line}: {problem}")]
    DecisionLog {
        /// The line, from 1; 0 for the whole.
        line: usize,
        /// What is wrong with it.
        problem: String,
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
    /// An error of a setting.
    pub(crate) fn setting(
        setting: impl Into<Cow<'static, str>>,
        value: impl ToString,
        expected: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Setting { setting: setting.into(), value: value.to_string(), expected: expected.into() }
    }

    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Plan(error) => error.code(),
            Self::Pattern { .. } => "gateway_pattern",
            Self::Body { .. } => "gateway_body",
            Self::UnknownPicker { .. } => "gateway_unknown_picker",
            Self::QueueTenant { .. } => "gateway_queue_tenant",
            Self::QueueTenantBusy { .. } => "gateway_queue_tenant_busy",
            Self::LevelStore { .. } => "gateway_level_store",
            Self::LevelStoreBusy { .. } => "gateway_level_store_busy",
            Self::LevelStoreDamaged { .. } => "gateway_level_store_damaged",
            Self::Setting { .. } => "gateway_setting",
            Self::Shape { .. } => "gateway_shape",
            Self::TooManyLimits { .. } => "gateway_too_many_limits",
            Self::DuplicateName { .. } => "gateway_duplicate_name",
            Self::Listen { .. } => "gateway_listen",
            Self::Certificate { .. } => "gateway_certificate",
            Self::Secret { .. } => "gateway_secret",
            Self::NeedsRestart { .. } => "gateway_needs_restart",
            Self::PlanFile { .. } => "gateway_plan_file",
            Self::DecisionLog { .. } => "gateway_decision_log",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Plan(error) => error.is_transient(),
            Self::QueueTenantBusy { .. }
            | Self::LevelStore { .. }
            | Self::LevelStoreBusy { .. }
            | Self::Listen { .. } => true,
            Self::Pattern { .. }
            | Self::Body { .. }
            | Self::UnknownPicker { .. }
            | Self::QueueTenant { .. }
            | Self::TooManyLimits { .. }
            | Self::LevelStoreDamaged { .. }
            | Self::Setting { .. }
            | Self::Shape { .. }
            | Self::DuplicateName { .. }
            | Self::Certificate { .. }
            | Self::Secret { .. }
            | Self::NeedsRestart { .. }
            | Self::DecisionLog { .. }
            | Self::PlanFile { .. } => false,
        }
    }
}
