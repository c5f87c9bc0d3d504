//! Who decides where a request goes, and what is it told?

use traflux_core::Timestamp;
use traflux_gateway::health::Outcome;

use super::arrival::Arrival;

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send this request to this backend.
    Send {
        /// Number of the request.
        request: usize,
        /// Position of the backend.
        backend: usize,
    },
    /// Answer this request by an error.
    Refuse {
        /// Number of the request.
        request: usize,
        /// Why, a stable name.
        reason: &'static str,
    },
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// What came of it.
    pub outcome: Outcome,
    /// Seconds to wait, as a 429 says.
    pub retry_after: Option<f64>,
    /// Tokens read from a cache.
    pub cached_tokens: f64,
}

/// What is compared: it sees what a gateway sees and nothing else.
///
/// Time is in seconds since the start; decisions are added to `steps`. A request has at most one attempt at a time.
pub trait Client {
    /// A request came.
    fn ask(&mut self, now: f64, request: usize, arrival: &Arrival, steps: &mut Vec<Step>);
    /// The first token of its answer came.
    fn first_byte(&mut self, now: f64, request: usize);
    /// Its attempt ended; after a failure before the first token it may be sent again.
    fn ended(&mut self, now: f64, request: usize, arrival: &Arrival, end: &Ended, steps: &mut Vec<Step>);
    /// Its client went away.
    fn gone(&mut self, now: f64, request: usize, steps: &mut Vec<Step>);
    /// Time passed.
    fn upkeep(&mut self, now: f64, steps: &mut Vec<Step>);
}

/// A moment of the simulation. It does not begin at zero, because clocks do not.
pub(super) fn moment(now: f64) -> Timestamp {
    Timestamp::from_secs_f64(1_000.0 + now)
}
