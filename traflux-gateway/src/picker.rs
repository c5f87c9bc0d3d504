//! What can choose an endpoint, and what does it get to know?

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use traflux_core::Timestamp;

use crate::balance::{Algorithm, PoolPicker};
use crate::error::GatewayError;
use crate::least_request::LeastRequest;
use crate::peak_ewma::{PeakEwma, PeakEwmaSettings};
use crate::round_robin::RoundRobin;
use crate::weighted::{SmoothWeighted, WeightedRandom};

/// One endpoint as a picker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Integer weight; 0 leaves the endpoint out.
    pub weight: u32,
    /// Whether it may be chosen now (healthy, not ejected).
    pub eligible: bool,
}

impl Candidate {
    /// An eligible endpoint.
    #[must_use]
    pub const fn weighted(weight: u32) -> Self {
        Self { weight, eligible: true }
    }

    /// Whether it may be chosen.
    #[must_use]
    pub const fn is_open(self) -> bool {
        self.eligible && self.weight > 0
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// Answered well.
    Success,
    /// Failed or timed out.
    Failure,
}

/// Chooses an endpoint for each request: O(1) or O(log n), without allocation.
///
/// [`configure`](Self::configure) comes first and again whenever weights or eligibility change; it costs
/// O(n) and keeps what was learned of endpoints whose position stays.
pub trait Picker: fmt::Debug + Send {
    /// Sets the endpoints. Positions are identity.
    fn configure(&mut self, candidates: &[Candidate]);

    /// Chooses; `None` when nothing is open. `in_flight` counts this client's open requests by endpoint.
    ///
    /// # Panics
    /// May panic when `in_flight` is shorter than the candidates.
    fn pick(&mut self, now: Timestamp, in_flight: &[u32]) -> Option<usize>;

    /// Takes in how a request ended and what its client waited.
    fn observe(&mut self, now: Timestamp, endpoint: usize, latency: Duration, completion: Completion) {
        let _ = (now, endpoint, latency, completion);
    }
}

/// The pickers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PickerKind {
    /// In turn, weights ignored.
    RoundRobin,
    /// In proportion to weights, evenly spaced (earliest deadline first, as Envoy's weighted round robin).
    SmoothWeighted,
    /// In proportion to weights, independently at random.
    WeightedRandom,
    /// The less busy, per weight, of two drawn by weight.
    LeastRequest,
    /// The better of two drawn by weight in peak-sensitive latency × requests in flight.
    PeakEwma,
    /// The default of a [`Pool`](crate::balance::Pool): expected latency × load × errors.
    Adaptive,
    /// Prequal's rule, in a [`Pool`](crate::balance::Pool).
    HotCold,
}

impl PickerKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::RoundRobin,
        Self::SmoothWeighted,
        Self::WeightedRandom,
        Self::LeastRequest,
        Self::PeakEwma,
        Self::Adaptive,
        Self::HotCold,
    ];

    /// Makes a picker with its own random numbers.
    #[must_use]
    pub fn build(self, seed: u64) -> Box<dyn Picker> {
        match self {
            Self::RoundRobin => Box::new(RoundRobin::new(seed)),
            Self::SmoothWeighted => Box::new(SmoothWeighted::new(seed)),
            Self::WeightedRandom => Box::new(WeightedRandom::new(seed)),
            Self::LeastRequest => Box::new(LeastRequest::new(seed)),
            Self::PeakEwma => Box::new(PeakEwma::new(seed, PeakEwmaSettings::default())),
            Self::Adaptive => Box::new(PoolPicker::new(Algorithm::Adaptive, seed)),
            Self::HotCold => Box::new(PoolPicker::new(Algorithm::HotCold, seed)),
        }
    }

    /// Its name in configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::SmoothWeighted => "smooth_weighted",
            Self::WeightedRandom => "weighted_random",
            Self::LeastRequest => "least_request",
            Self::PeakEwma => "peak_ewma",
            Self::Adaptive => "adaptive",
            Self::HotCold => "hot_cold",
        }
    }
}

impl fmt::Display for PickerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PickerKind {
    type Err = GatewayError;

    fn from_str(text: &str) -> Result<Self, GatewayError> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| GatewayError::UnknownPicker {
            name: text.to_owned(),
            expected: Self::ALL.map(Self::name).join(", "),
        })
    }
}
