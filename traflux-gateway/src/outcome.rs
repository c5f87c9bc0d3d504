//! What does the end of a request say, and about whom?
//!
//! The same end means different things to balancing, to health, to congestion, to retries and to metrics. One enum
//! names the ends; its methods tell what each part makes of them.

use serde::{Deserialize, Serialize};
use traflux_core::plan::retry::RetryCause;

/// How a request to a backend ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered well.
    Success,
    /// The client's mistake: any 4xx that is not about capacity.
    ClientError,
    /// Refused for lack of capacity or quota: 429, 529, 503 with `Retry-After`.
    Limited,
    /// The backend failed: 5xx but for the next.
    ServerError,
    /// A proxy could not reach what is behind it: 502, 503, 504.
    GatewayError,
    /// No connection: refused, unreachable, TLS failure.
    ConnectFailure,
    /// The connection broke before the answer was complete.
    Reset,
    /// No answer in time.
    Timeout,
    /// It never left us: its time was spent in our queues.
    LocalTimeout,
    /// The client went away.
    Cancelled,
    /// It never left us: as much was under way to the endpoint as its pool allows.
    PoolFull,
}

impl Outcome {
    /// All of them, in the order of their series.
    pub const ALL: [Self; 11] = [
        Self::Success,
        Self::ClientError,
        Self::Limited,
        Self::ServerError,
        Self::GatewayError,
        Self::ConnectFailure,
        Self::Reset,
        Self::Timeout,
        Self::LocalTimeout,
        Self::Cancelled,
        Self::PoolFull,
    ];

    /// What an HTTP status means; `has_retry_after` tells a full backend from a broken one at 503.
    #[must_use]
    pub const fn of_status(status: u16, has_retry_after: bool) -> Self {
        match status {
            429 | 529 => Self::Limited,
            503 if has_retry_after => Self::Limited,
            502..=504 => Self::GatewayError,
            500..=599 => Self::ServerError,
            // 408: the server waited for a request in vain, and RFC 9110 lets it be sent again.
            408 => Self::Reset,
            400..=499 => Self::ClientError,
            _ => Self::Success,
        }
    }

    /// Whether it speaks against the endpoint's health.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::ServerError | Self::GatewayError | Self::ConnectFailure | Self::Reset | Self::Timeout
        )
    }

    /// Whether the failure arose on our side of the endpoint, without an answer of it.
    #[must_use]
    pub const fn is_local_origin(self) -> bool {
        matches!(self, Self::ConnectFailure | Self::Reset | Self::Timeout)
    }

    /// Whether it speaks for the endpoint's health: it answered as it should. A refusal for lack of capacity
    /// speaks neither for nor against.
    #[must_use]
    pub const fn is_healthy(self) -> bool {
        matches!(self, Self::Success | Self::ClientError)
    }

    /// What a plan calls it where it may be tried again; `None` for an end that would repeat itself.
    #[must_use]
    pub const fn retry_cause(self) -> Option<RetryCause> {
        match self {
            // Nothing was sent, and another endpoint may have room.
            Self::Limited | Self::PoolFull => Some(RetryCause::Limited),
            Self::ServerError => Some(RetryCause::ServerError),
            Self::GatewayError => Some(RetryCause::GatewayError),
            Self::ConnectFailure => Some(RetryCause::ConnectFailure),
            Self::Reset => Some(RetryCause::Reset),
            Self::Timeout => Some(RetryCause::Timeout),
            Self::Success | Self::ClientError | Self::LocalTimeout | Self::Cancelled => None,
        }
    }

    /// Whether the request was given up on our side, which says nothing of the endpoint.
    #[must_use]
    pub const fn is_given_up(self) -> bool {
        matches!(self, Self::LocalTimeout | Self::Cancelled | Self::PoolFull)
    }

    /// Whether it counts against the backend's error budget: it failed, or had no room.
    #[must_use]
    pub const fn is_error(self) -> bool {
        !self.is_healthy() && !self.is_given_up()
    }

    /// Whether the backend took the request on, as client throttling counts it.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        matches!(self, Self::Success | Self::ClientError | Self::ServerError)
    }

    /// Whether it is a sign of overload to concurrency limits.
    #[must_use]
    pub const fn is_overload(self) -> bool {
        matches!(self, Self::Limited | Self::Timeout)
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ClientError => "client_error",
            Self::Limited => "limited",
            Self::ServerError => "server_error",
            Self::GatewayError => "gateway_error",
            Self::ConnectFailure => "connect_failure",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::LocalTimeout => "local_timeout",
            Self::Cancelled => "cancelled",
            Self::PoolFull => "pool_full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lack_of_capacity_is_never_ill_health() {
        for outcome in [
            Outcome::of_status(429, false),
            Outcome::of_status(529, false),
            Outcome::of_status(503, true),
            Outcome::LocalTimeout,
            Outcome::Cancelled,
            Outcome::PoolFull,
        ] {
            assert!(!outcome.is_failure() && !outcome.is_healthy(), "{outcome:?}");
        }
        assert_eq!(Outcome::of_status(503, false), Outcome::GatewayError);
        assert_eq!(Outcome::of_status(500, true), Outcome::ServerError);
        assert_eq!(Outcome::of_status(404, false), Outcome::ClientError);
        assert_eq!(Outcome::of_status(200, false), Outcome::Success);
    }
}
