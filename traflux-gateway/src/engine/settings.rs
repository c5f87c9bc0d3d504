//! What does an engine need beside the plan?

use std::time::Duration;

use crate::affinity::AffinitySettings;
use crate::balance::{AdaptiveSettings, BalanceSettings, LatencySettings};
use crate::congestion::{
    ConcurrencySettings, CoolDownSettings, FeedbackSettings, SignalSettings, ThrottleSettings,
};
use crate::health::HealthSettings;
use crate::observe::{MetricsSettings, TenantSettings};
use crate::queue::QueueSettings;
use crate::retry::{BudgetSettings, RetryPolicy};

/// How the parts of an [`Engine`](super::Engine) behave, for all backends alike.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSettings {
    /// Seed of all that is drawn at random, and of the hashes of key tables: secret where clients choose their keys.
    pub seed: u64,
    /// Balancing; the algorithm is the plan's.
    pub balance: BalanceSettings,
    /// What latencies are learned from.
    pub latency: LatencySettings,
    /// How weights adapt under `adaptive`.
    pub adaptive: AdaptiveSettings,
    /// Sessions, of routes that keep them; none without it.
    pub affinity: Option<AffinitySettings>,
    /// Limits on requests in flight to each backend and model.
    pub concurrency: ConcurrencySettings,
    /// Turning away what a backend would refuse.
    pub throttle: ThrottleSettings,
    /// Staying away from a backend that refused.
    pub cool_down: CoolDownSettings,
    /// What backends report of themselves.
    pub signal: SignalSettings,
    /// What response headers say.
    pub feedback: FeedbackSettings,
    /// Health.
    pub health: HealthSettings,
    /// Waiting for room; without it a request that finds none is refused at once.
    pub queue: Option<QueueSettings>,
    /// What is tried again.
    pub retry: RetryPolicy,
    /// How much trying again may cost, per rule.
    pub retry_budget: BudgetSettings,
    /// Counters and histograms.
    pub metrics: MetricsSettings,
    /// Which tenants are counted apart.
    pub tenants: TenantSettings,
    /// Names of tenants, and of keys of each kind, that are told apart at a time.
    pub max_keys: usize,
    /// How often weights adapt.
    pub adapt_every: Duration,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            seed: 0,
            balance: BalanceSettings::default(),
            latency: LatencySettings::default(),
            adaptive: AdaptiveSettings::default(),
            affinity: None,
            concurrency: ConcurrencySettings::default(),
            throttle: ThrottleSettings::default(),
            cool_down: CoolDownSettings::default(),
            signal: SignalSettings::default(),
            feedback: FeedbackSettings::default(),
            health: HealthSettings::default(),
            queue: None,
            retry: RetryPolicy::default(),
            retry_budget: BudgetSettings::default(),
            metrics: MetricsSettings::default(),
            tenants: TenantSettings::default(),
            max_keys: 10_000,
            adapt_every: Duration::from_secs(5),
        }
    }
}
