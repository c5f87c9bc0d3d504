//! What does a caller learn when a call fails?
//!
//! Always `{"error": {"code": …, "message": …}}`. The code is stable; the message names value and limit.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::limits::{BODY_LIMIT, REQUEST_LIMIT, REQUESTS_AT_A_TIME};
use crate::service::CommandError;

/// A call that failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// No token is configured, so nothing may be changed.
    #[error("changes are disabled: set `api.token_file` in the configuration to allow them")]
    ChangesDisabled,
    /// The token is missing or wrong.
    #[error("this call needs `authorization: Bearer <token>` with the token of `api.token_file`")]
    Unauthorized,
    /// There is no such path.
    #[error("there is nothing at {path}; /openapi.json lists all calls")]
    NotFound {
        /// The path.
        path: String,
    },
    /// The path is there, the method is not.
    #[error("{path} cannot be called with {method}")]
    MethodNotAllowed {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// A query parameter is unknown, of the wrong type or out of its limits.
    #[error("query: {problem}")]
    InvalidQuery {
        /// What is wrong, with the value and its limits.
        problem: String,
    },
    /// The body did not come whole.
    #[error("the body could not be read: {problem}")]
    UnreadableBody {
        /// What went wrong.
        problem: String,
    },
    /// The body is too large.
    #[error("the body is larger than the limit of {BODY_LIMIT} bytes")]
    BodyTooLarge,
    /// The body is not announced as JSON.
    #[error("the body needs `content-type: application/json`, got {found}")]
    UnsupportedMediaType {
        /// What was announced instead.
        found: String,
    },
    /// The body is not JSON.
    #[error("the body is not JSON: {problem}")]
    MalformedJson {
        /// What the parser said, with line and column.
        problem: String,
    },
    /// The body is JSON, but not what this call takes.
    #[error("{path}: {problem}")]
    InvalidBody {
        /// Path of the key.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The controller refused.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Too many requests are in flight.
    #[error("{REQUESTS_AT_A_TIME} requests are in flight, which is the limit")]
    Busy,
    /// The call took too long.
    #[error("no answer within {} s", REQUEST_LIMIT.as_secs())]
    Deadline,
}

impl ApiError {
    /// One of each, to document them.
    pub(super) fn examples() -> Vec<Self> {
        let text = String::new;
        vec![
            Self::ChangesDisabled,
            Self::Unauthorized,
            Self::NotFound { path: text() },
            Self::MethodNotAllowed { method: text(), path: text() },
            Self::InvalidQuery { problem: text() },
            Self::UnreadableBody { problem: text() },
            Self::BodyTooLarge,
            Self::UnsupportedMediaType { found: text() },
            Self::MalformedJson { problem: text() },
            Self::InvalidBody { path: text(), problem: text() },
            Self::Command(CommandError::Invalid { key: text(), problem: text() }),
            Self::Command(CommandError::NotAvailable { what: "", needs: "" }),
            Self::Command(CommandError::NoAnswer { limit_ms: 0 }),
            Self::Busy,
            Self::Deadline,
        ]
    }

    /// A stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ChangesDisabled => "api_changes_disabled",
            Self::Unauthorized => "api_unauthorized",
            Self::NotFound { .. } => "api_not_found",
            Self::MethodNotAllowed { .. } => "api_method_not_allowed",
            Self::InvalidQuery { .. } => "api_invalid_query",
            Self::UnreadableBody { .. } => "api_unreadable_body",
            Self::BodyTooLarge => "api_body_too_large",
            Self::UnsupportedMediaType { .. } => "api_unsupported_media_type",
            Self::MalformedJson { .. } => "api_malformed_json",
            Self::InvalidBody { .. } => "api_invalid_body",
            Self::Command(error) => error.code(),
            Self::Busy => "api_busy",
            Self::Deadline => "api_deadline",
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy | Self::Deadline | Self::UnreadableBody { .. } => true,
            Self::Command(error) => error.is_transient(),
            _ => false,
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ChangesDisabled => StatusCode::FORBIDDEN,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::InvalidQuery { .. } | Self::UnreadableBody { .. } | Self::MalformedJson { .. } => {
                StatusCode::BAD_REQUEST
            }
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidBody { .. } | Self::Command(CommandError::Invalid { .. }) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::Command(CommandError::NotAvailable { .. }) => StatusCode::CONFLICT,
            Self::Command(CommandError::NoAnswer { .. }) | Self::Busy | Self::Deadline => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code(), "message": self.to_string() } });
        let mut response = (self.status(), Json(body)).into_response();
        let headers = response.headers_mut();
        if self == Self::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"traflux\""));
        }
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

pub(super) async fn not_found(uri: Uri) -> ApiError {
    ApiError::NotFound { path: shortened(uri.path()) }
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed { method: shortened(method.as_str()), path: shortened(uri.path()) }
}

/// Foreign text, cut to a bounded length.
pub(super) fn shortened(text: &str) -> String {
    const LIMIT: usize = 200;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
