//! What went wrong between us and Prometheus, in variants that a caller can act on.

use std::path::PathBuf;

use traflux_core::ObserveError;

/// How this source is called in the errors of the observe stage.
pub const SOURCE_NAME: &str = "prometheus";

/// A question to an HTTP metrics or price source that got no usable answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PromError {
    /// The options contradict themselves.
    #[error("invalid option `{option}`: {reason}")]
    Options {
        /// Which option.
        option: &'static str,
        /// Why it cannot be used.
        reason: String,
    },
    /// A file with a credential, certificate or key cannot be used. Its content is never repeated here.
    #[error("cannot use file {}: {reason}", .path.display())]
    SecretFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No connection.
    #[error("{host} is unreachable: {reason}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// What the transport said.
        reason: String,
    },
    /// The other side cannot be trusted, or does not trust us.
    #[error("TLS with {host} failed: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// What the handshake said.
        reason: String,
    },
    /// No complete answer in time.
    #[error("{host} did not answer within {limit_ms} ms")]
    Deadline {
        /// Host and port.
        host: String,
        /// The limit.
        limit_ms: u64,
    },
    /// The credentials were refused (401, 403).
    #[error("{host} refused the credentials ({status})")]
    Unauthorized {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// There is no such path or method there (404, 405): the URL does not lead to a Prometheus API.
    #[error("{host} has no such API ({status}): {reason}")]
    NotFound {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// A redirect, which is never followed: credentials must not go elsewhere.
    #[error("{host} redirects ({status}); use the final URL")]
    Redirect {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// The question was refused (400, 422).
    #[error("{host} refused the query ({status}, {kind}): {reason}; query: {query}")]
    Query {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// Prometheus's `errorType`, or `plain` for an answer that is not JSON.
        kind: String,
        /// Its words.
        reason: String,
        /// The query.
        query: String,
    },
    /// The server is there but cannot answer now (429, 5xx, `errorType` timeout or unavailable).
    #[error("{host} is unavailable ({status}): {reason}")]
    Unavailable {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// The answer ends too early or is not what the protocol says.
    #[error("{host} gave an answer that cannot be read: {reason}")]
    BadAnswer {
        /// Host and port.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The answer is larger than we accept.
    #[error("{host} gave an answer larger than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// Host and port.
        host: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// A list of prices that cannot be used.
    #[error("prices from {origin}: {reason}")]
    Prices {
        /// Where they come from.
        origin: String,
        /// What is wrong with them.
        reason: String,
    },
}

impl PromError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Options { .. } => "prom_options",
            Self::SecretFile { .. } => "prom_secret_file",
            Self::Unreachable { .. } => "prom_unreachable",
            Self::Tls { .. } => "prom_tls",
            Self::Deadline { .. } => "prom_deadline",
            Self::Unauthorized { .. } => "prom_unauthorized",
            Self::NotFound { .. } => "prom_not_found",
            Self::Redirect { .. } => "prom_redirect",
            Self::Query { .. } => "prom_query",
            Self::Unavailable { .. } => "prom_unavailable",
            Self::BadAnswer { .. } => "prom_bad_answer",
            Self::TooLarge { .. } => "prom_too_large",
            Self::Prices { .. } => "prom_prices",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    ///
    /// A secret file is transient: it is read again on every call, and rotation replaces it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::SecretFile { .. }
                | Self::Unreachable { .. }
                | Self::Deadline { .. }
                | Self::Unavailable { .. }
                | Self::BadAnswer { .. }
        )
    }
}

impl From<PromError> for ObserveError {
    fn from(error: PromError) -> Self {
        let source_name = SOURCE_NAME.to_owned();
        let text = error.to_string();
        match error {
            PromError::Deadline { limit_ms, .. } => Self::Timeout { source_name, limit_ms },
            PromError::Unauthorized { status, .. } => Self::Unauthorized { source_name, status },
            PromError::Unavailable { status, reason, .. } => {
                Self::Unavailable { source_name, status, reason }
            }
            PromError::Query { status, reason, query, .. } => {
                Self::BadQuery { source_name, status, reason, query }
            }
            PromError::NotFound { status, .. } | PromError::Redirect { status, .. } => {
                Self::BadQuery { source_name, status, reason: text, query: String::new() }
            }
            PromError::BadAnswer { reason, .. } => Self::BadAnswer { source_name, reason },
            PromError::TooLarge { .. } | PromError::Prices { .. } => {
                Self::BadAnswer { source_name, reason: text }
            }
            PromError::Unreachable { reason, .. } => Self::Unreachable { source_name, reason },
            PromError::Tls { .. } | PromError::Options { .. } | PromError::SecretFile { .. } => {
                Self::Unreachable { source_name, reason: text }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_query_keeps_its_text_on_the_way_to_the_observe_stage() {
        let error = PromError::Query {
            host: "h:9090".into(),
            status: 400,
            kind: "bad_data".into(),
            reason: "parse error".into(),
            query: "sum by (".into(),
        };
        assert_eq!(error.code(), "prom_query");
        assert!(!error.is_transient());
        let observed = ObserveError::from(error);
        assert_eq!(observed.code(), "observe_bad_query");
        assert!(observed.to_string().ends_with("query: sum by ("));
    }

    #[test]
    fn a_missed_deadline_is_transient_in_both_vocabularies() {
        let error = PromError::Deadline { host: "h:1".into(), limit_ms: 800 };
        assert!(error.is_transient());
        assert!(ObserveError::from(error).is_transient());
    }
}
