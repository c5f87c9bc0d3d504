//! What does an engine need beside the plan?

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use traflux_core::PlanError;
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::retry::HedgePlan;

use crate::affinity::AffinitySettings;
use crate::balance::{AdaptiveSettings, BalanceSettings, LatencySettings};
use crate::congestion::{
    ConcurrencySettings, CoolDownSettings, FeedbackSettings, SignalSettings, ThrottleSettings,
};
use crate::error::GatewayError;
use crate::health::{HealthSettings, Outcome, ProbeSettings};
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
    /// What endpoints of routes with `health_check: true` are asked, and how often.
    pub probe: ProbeSettings,
    /// Waiting for room; `None`: a request that finds none is refused at once.
    pub queue: Option<QueueSettings>,
    /// What is tried again.
    pub retry: RetryPolicy,
    /// How much trying again may cost, per rule.
    pub retry_budget: BudgetSettings,
    /// Second attempts while the first still runs; none without it.
    pub hedge: Option<HedgePlan>,
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
            probe: ProbeSettings::default(),
            queue: Some(QueueSettings::default()),
            // An internal error of one backend is worth another; what must not be done twice is not tried again anyway.
            retry: RetryPolicy {
                retry_on: RetryPolicy::default().retry_on.into_iter().chain([Outcome::ServerError]).collect(),
                ..RetryPolicy::default()
            },
            retry_budget: BudgetSettings::default(),
            hedge: None,
            metrics: MetricsSettings::default(),
            tenants: TenantSettings::default(),
            max_keys: 10_000,
            adapt_every: Duration::from_secs(5),
        }
    }
}

impl EngineSettings {
    /// The settings with what a plan says about health, retries, sessions and congestion; a part of the plan that is as
    /// usual leaves them as they are.
    ///
    /// # Errors
    /// [`GatewayError::Plan`] for a value out of range, with the path of its part.
    pub(super) fn following(&self, plan: &RequestPlan) -> Result<Self, GatewayError> {
        let mut settings = self.clone();
        let usual = RequestPlan::default();
        if plan.health != usual.health {
            settings.health = read("health", &plan.health, &["probe"])?;
            checked("health", settings.health.validate())?;
            settings.probe = read("health.probe", &plan.health.probe, &[])?;
            checked("health.probe", settings.probe.validate())?;
        }
        if plan.retry != usual.retry {
            let usual_causes = plan.retry.retry_on == usual.retry.retry_on;
            let causes = settings.retry.retry_on;
            settings.retry = read("retry", &plan.retry, &["budget", "hedge"])?;
            if usual_causes {
                settings.retry.retry_on = causes;
            }
            checked("retry", settings.retry.validate())?;
            settings.retry_budget = read("retry.budget", &plan.retry.budget, &[])?;
            checked("retry.budget", settings.retry_budget.validate())?;
            settings.hedge = plan.retry.hedge.or(settings.hedge);
        }
        if let Some(affinity) = &plan.affinity {
            settings.affinity = Some(read("affinity", affinity, &[])?);
            checked("affinity", settings.affinity.as_ref().map_or(Ok(()), AffinitySettings::validate))?;
        }
        if let Some(concurrency) = &plan.congestion.concurrency {
            settings.concurrency = read("congestion.concurrency", concurrency, &[])?;
            checked("congestion.concurrency", settings.concurrency.validate())?;
        }
        if let Some(throttle) = &plan.congestion.throttle {
            settings.throttle = read("congestion.throttle", throttle, &[])?;
            checked("congestion.throttle", settings.throttle.validate())?;
        }
        Ok(settings)
    }
}

/// Reads the settings of a part from the plan, whose keys are the same but for those left out.
fn read<P: Serialize, S: DeserializeOwned>(path: &str, part: &P, but: &[&str]) -> Result<S, GatewayError> {
    let wrong =
        |problem: serde_json::Error| PlanError::Key { path: path.to_owned(), problem: problem.to_string() };
    let mut value = serde_json::to_value(part).map_err(wrong)?;
    if let Value::Object(keys) = &mut value {
        keys.retain(|key, _| !but.contains(&key.as_str()));
    }
    Ok(serde_json::from_value(value).map_err(wrong)?)
}

fn checked(path: &str, result: Result<(), GatewayError>) -> Result<(), GatewayError> {
    result.map_err(|problem| PlanError::Key { path: path.to_owned(), problem: problem.to_string() }.into())
}
