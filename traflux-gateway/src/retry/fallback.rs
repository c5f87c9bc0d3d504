//! Who serves a request that its backend cannot?
//!
//! A [`FallbackChain`] lists alternatives in order, each with the causes it takes and a budget of its own: when
//! a large backend fails, what falls on the next is bounded by `budget.ratio` of the requests the **first**
//! one gets (1 unless set: each request may move on once, and not once per retry), so that the failure does not travel down the chain. One goes forward only, so there are no circles.

use serde::{Deserialize, Serialize};
use traflux_core::Timestamp;
use traflux_core::plan::retry::BudgetPlan;

use super::budget::{RetryBudget, RetryTicket};
use super::policy::Progress;
use crate::error::{GatewayError, check};
use crate::outcome::Outcome;

/// Why a request looks for another backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FallbackCause {
    /// It failed, and its retries are used up.
    Failed,
    /// No answer in time.
    Timeout,
    /// No capacity: refused, cooling down, limits full.
    Capacity,
    /// No endpoint is healthy.
    Unhealthy,
    /// The request is too long for the model.
    ContextTooLong,
    /// The model refused the content.
    ContentFiltered,
}

impl FallbackCause {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Failed,
        Self::Timeout,
        Self::Capacity,
        Self::Unhealthy,
        Self::ContextTooLong,
        Self::ContentFiltered,
    ];

    /// What the end of the last attempt amounts to; `None` where another backend would do no better.
    #[must_use]
    pub const fn of(outcome: Outcome) -> Option<Self> {
        match outcome {
            Outcome::ServerError | Outcome::GatewayError | Outcome::ConnectFailure | Outcome::Reset => {
                Some(Self::Failed)
            }
            Outcome::Timeout => Some(Self::Timeout),
            Outcome::Limited => Some(Self::Capacity),
            Outcome::Success | Outcome::ClientError | Outcome::LocalTimeout | Outcome::Cancelled => None,
        }
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Capacity => "capacity",
            Self::Unhealthy => "unhealthy",
            Self::ContextTooLong => "context_too_long",
            Self::ContentFiltered => "content_filtered",
        }
    }
}

/// One alternative in configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alternative {
    /// Name of the backend.
    pub backend: String,
    /// Causes it takes; all when empty.
    #[serde(default)]
    pub on: Vec<FallbackCause>,
    /// The longest request it can serve, in tokens.
    #[serde(default)]
    pub context_tokens: Option<u64>,
    /// How much may fall on it; ratio 1, 5 per second besides, at most as many in flight as there are requests,
    /// or 10. Where it is given, keys left out are those of [`BudgetPlan::default`].
    #[serde(default = "generous")]
    pub budget: BudgetPlan,
}

/// A whole backend may be away, and then all its requests move on. A budget for retries would be used up at
/// once.
fn generous() -> BudgetPlan {
    BudgetPlan {
        ratio: 1.0,
        concurrency_share: 1.0,
        min_concurrency: 10,
        min_per_second: 5.0,
        ..BudgetPlan::default()
    }
}

impl Alternative {
    /// A backend that takes all causes, each request to the first once at most.
    #[must_use]
    pub fn new(backend: impl Into<String>) -> Self {
        Self { backend: backend.into(), on: Vec::new(), context_tokens: None, budget: generous() }
    }

    fn takes(&self, cause: FallbackCause, tokens: Option<u64>) -> bool {
        let fits = match (self.context_tokens, tokens) {
            (Some(most), Some(tokens)) => tokens <= most,
            _ => true,
        };
        fits && (self.on.is_empty() || self.on.contains(&cause))
    }
}

/// The alternatives of a backend, in the order they are tried.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FallbackSettings {
    /// Alternatives.
    pub alternatives: Vec<Alternative>,
}

impl FallbackSettings {
    /// Checks the alternatives.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a backend without name or named twice, or a budget out of range.
    pub fn validate(&self) -> Result<(), GatewayError> {
        for (ix, alternative) in self.alternatives.iter().enumerate() {
            check(!alternative.backend.is_empty(), "backend", &alternative.backend, "a name")?;
            check(
                self.alternatives[..ix].iter().all(|other| other.backend != alternative.backend),
                "backend",
                &alternative.backend,
                "each backend once in a chain",
            )?;
            alternative.budget.validate()?;
        }
        Ok(())
    }
}

/// Where a request goes next.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum FallbackDecision {
    /// To the alternative of this position, with leave to be given back when it ends.
    To {
        /// Position in the chain.
        alternative: usize,
        /// Leave of its budget.
        ticket: RetryTicket,
    },
    /// Nowhere: no alternative further on takes it.
    None,
    /// Nowhere: those that would take it have their budgets spent.
    OverBudget,
    /// Nowhere: the client has part of an answer.
    Streaming,
}

/// The alternatives of one backend at work.
#[derive(Debug)]
pub struct FallbackChain {
    alternatives: Vec<(Alternative, RetryBudget)>,
}

impl FallbackChain {
    /// A chain with unused budgets.
    #[must_use]
    pub fn new(settings: &FallbackSettings) -> Self {
        let with_budget =
            |alternative: &Alternative| (alternative.clone(), RetryBudget::new(alternative.budget));
        Self { alternatives: settings.alternatives.iter().map(with_budget).collect() }
    }

    /// Counts a request to the first backend.
    #[inline]
    pub fn request(&self, now: Timestamp) {
        self.alternatives.iter().for_each(|(_, budget)| budget.request(now));
    }

    /// The alternative of a position.
    #[must_use]
    pub fn alternative(&self, position: usize) -> Option<&Alternative> {
        self.alternatives.get(position).map(|(alternative, _)| alternative)
    }

    /// Where a request goes that came from position `from` (`None`: from the first backend) for a cause.
    /// `tokens` is its length if known, and `in_flight` the requests in flight over the chain. An alternative
    /// that `is_open` denies (unhealthy, cooling down, full) is passed over.
    pub fn next(
        &self,
        now: Timestamp,
        from: Option<usize>,
        cause: FallbackCause,
        progress: Progress,
        tokens: Option<u64>,
        in_flight: u32,
        mut is_open: impl FnMut(usize) -> bool,
    ) -> FallbackDecision {
        if progress == Progress::Streaming {
            return FallbackDecision::Streaming;
        }
        let mut refused = false;
        let first = from.map_or(0, |from| from.saturating_add(1));
        for (position, (alternative, budget)) in self.alternatives.iter().enumerate().skip(first) {
            if !alternative.takes(cause, tokens) || !is_open(position) {
                continue;
            }
            if let Some(ticket) = budget.try_retry(now, in_flight) {
                return FallbackDecision::To { alternative: position, ticket };
            }
            refused = true;
        }
        if refused { FallbackDecision::OverBudget } else { FallbackDecision::None }
    }

    /// Takes back the ticket of a request to an alternative that ended.
    pub fn finish(&self, alternative: usize, ticket: RetryTicket) {
        if let Some((_, budget)) = self.alternatives.get(alternative) {
            budget.finish(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> FallbackChain {
        let long = Alternative {
            on: vec![FallbackCause::ContextTooLong],
            context_tokens: Some(1_000_000),
            ..Alternative::new("long")
        };
        let small = Alternative { context_tokens: Some(8_000), ..Alternative::new("small") };
        let settings = FallbackSettings { alternatives: vec![long, small, Alternative::new("any")] };
        assert!(settings.validate().is_ok());
        FallbackChain::new(&settings)
    }

    fn next(chain: &FallbackChain, from: Option<usize>, cause: FallbackCause, tokens: u64) -> Option<usize> {
        match chain.next(Timestamp::ZERO, from, cause, Progress::Sent, Some(tokens), 100, |_| true) {
            FallbackDecision::To { alternative, ticket } => {
                chain.finish(alternative, ticket);
                Some(alternative)
            }
            _ => None,
        }
    }

    #[test]
    fn the_first_alternative_that_takes_the_cause_and_holds_the_request_is_next() {
        let chain = chain();
        assert_eq!(next(&chain, None, FallbackCause::Capacity, 100), Some(1));
        assert_eq!(next(&chain, None, FallbackCause::Capacity, 9_000), Some(2));
        assert_eq!(next(&chain, None, FallbackCause::ContextTooLong, 200_000), Some(0));
        assert_eq!(next(&chain, Some(0), FallbackCause::Failed, 100), Some(1));
        assert_eq!(next(&chain, Some(2), FallbackCause::Failed, 100), None);
        assert_eq!(chain.alternative(2).map(|a| a.backend.as_str()), Some("any"));
    }

    #[test]
    fn a_fall_back_takes_the_traffic_of_the_first_once_and_then_the_chain_goes_on() {
        let chain = chain();
        (0..1000).for_each(|_| chain.request(Timestamp::ZERO));
        let taken: Vec<_> = (0..2200).map(|_| next(&chain, None, FallbackCause::Failed, 100)).collect();
        // 1000, and 5 per second of the window of 10 s, of each of two.
        assert_eq!(taken.iter().filter(|t| **t == Some(1)).count(), 1050);
        assert_eq!(taken.iter().filter(|t| **t == Some(2)).count(), 1050);
        assert_eq!(taken[2100], None);
    }

    #[test]
    fn nothing_follows_the_first_streamed_byte() {
        let decision =
            chain()
                .next(Timestamp::ZERO, None, FallbackCause::Failed, Progress::Streaming, None, 0, |_| true);
        assert_eq!(decision, FallbackDecision::Streaming);
    }

    #[test]
    fn a_chain_reads_as_plain_configuration() {
        let text = r#"{"alternatives": [{"backend": "azure", "on": ["capacity", "timeout"]}, {"backend": "azure"}]}"#;
        let settings: FallbackSettings = serde_json::from_str(text).unwrap();
        assert_eq!(settings.alternatives[0].budget.ratio, 1.0);
        assert!(settings.validate().is_err(), "named twice");
    }
}
