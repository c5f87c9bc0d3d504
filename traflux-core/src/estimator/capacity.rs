//! How much can this endpoint serve, and how fast?
//!
//! The nominal capacity `μ` is divided by a *loss* `f ≥ 1` that explains the measured latency at the measured
//! load (see [`slowdown`](super::slowdown)) and the share of failing requests (`f ≥ 1/(1 − errors)`). Losses are
//! followed within a few windows, and only what the *least* slowdown explains that is compatible with the
//! highest load the window may have seen. Recovery is gradual, and only towards what the *present* load shows:
//! after a saturation an endpoint with little traffic says nothing about its capacity, so the estimate probes
//! upwards slowly until traffic returns and confirms or refutes it.

use std::time::Duration;

use super::config::CapacityConfig;
use super::peers::Rise;
use super::readings::View;
use super::service::ServiceTime;
use super::slowdown::{slowdown, stretch};
use super::smooth::{Clock, Recent, weight};
use crate::curve::LatencyCurve;
use crate::estimate::Attribution;
use crate::topology::Resource;
use crate::units::{Latency, Rate, Timestamp};

/// Offered utilisation from which any latency is explained by the load.
const OVERLOAD: f64 = 0.9;
/// Utilisation implied by a loss from which it is a saturation, which low load cannot confirm.
const SATURATED: f64 = 0.85;
/// A loss not worth careful probing.
const SMALL_LOSS: f64 = 1.2;
/// Failing share that counts as a loss of capacity.
const FAILING: f64 = 0.05;

/// What one new window says about one endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence {
    /// Seconds of data that are new.
    step: f64,
    /// Requests in the window.
    samples: f64,
    /// Least slowdown that explains the window.
    pub(super) least: f64,
    /// Slowdown at exactly the measured load.
    exact: f64,
    /// Latency over service time at no load, where measured.
    latency_ratio: Option<f64>,
    /// Latency over what the nominal curve expects at the measured load.
    excess: f64,
    /// Highest load offered in the window over nominal capacity.
    offered: f64,
    /// Served load over nominal capacity.
    utilization: f64,
    /// The highest load that may have made this window's latency, over nominal capacity.
    reference: f64,
    /// The load explains any latency.
    overloaded: bool,
    /// The load was rising.
    rising: bool,
    errors: f64,
}

/// What is known of the capacity of one resource.
#[derive(Debug, Clone)]
pub(super) struct CapacityTracker {
    pub(super) clock: Clock,
    service: ServiceTime,
    served: Recent,
    offered: Recent,
    rise: Rise,
    announced: Option<Rate>,
    peak: f64,
    loss: f64,
    spread: f64,
    samples: f64,
    suspicion: u32,
    saturated: bool,
    probing: bool,
    probes: u32,
    slow_service: f64,
    attribution: Attribution,
    excess: f64,
    overload: f64,
    last: Option<f64>,
    window: f64,
}

impl Default for CapacityTracker {
    fn default() -> Self {
        Self {
            clock: Clock::default(),
            service: ServiceTime::default(),
            served: Recent::default(),
            offered: Recent::default(),
            rise: Rise::default(),
            announced: None,
            peak: 0.0,
            loss: 1.0,
            spread: 0.0,
            samples: 0.0,
            suspicion: 0,
            saturated: false,
            probing: false,
            probes: 0,
            slow_service: 1.0,
            attribution: Attribution::Normal,
            excess: 1.0,
            overload: 0.0,
            last: None,
            window: 0.0,
        }
    }
}

impl CapacityTracker {
    /// Takes over an announced capacity; one that never comes again stays in force.
    ///
    /// A loss that was inferred before the announcement is most likely what is announced now: the estimate is
    /// lowered to the announcement, not once more by it.
    pub(super) fn announce(&mut self, capacity: Option<Rate>, nominal: Rate) {
        let Some(new) = capacity.map(|c| c.min(Rate::saturating(1e12))) else { return };
        let old = self.announced.unwrap_or(nominal);
        if new.get() < old.get() {
            self.loss = (self.loss * (new / old)).max(1.0);
        }
        self.announced = Some(new);
    }

    /// Nominal capacity: announced, else configured, else what was served at most and half as much again.
    pub(super) fn nominal(&self, configured: Rate) -> f64 {
        match self.announced {
            Some(announced) => announced.get(),
            None if configured.get() > 0.0 => configured.get().min(1e12),
            None => 1.5 * self.peak,
        }
    }

    /// Reads a window; `None` when it brings nothing new.
    pub(super) fn assess(
        &mut self,
        at: Timestamp,
        window: f64,
        view: &View,
        resource: &Resource,
        background: f64,
        fleet_rising: bool,
        config: &CapacityConfig,
    ) -> Option<Evidence> {
        let step = self.clock.advance(at, view.age?)?;
        let now = self.clock.sampled()?;
        self.window = window;
        let errors = view.errors.unwrap_or(0.0);
        let served = view.offered * (1.0 - errors);
        // 30 scrape jitters long: the load one window ago still echoes in this window's latency.
        let span = window + 3.0;
        self.served.push(now, served, span);
        self.offered.push(now, view.offered, span);
        let rising = self.rise.observe(now, view.offered, window, 1.0 + 2.0 * (config.surge_ratio - 1.0));
        let rising = rising || fleet_rising;
        self.peak = (self.peak * (1.0 - weight(step.min(600.0), 3600.0))).max(served);
        let nominal = self.nominal(resource.capacity);
        self.samples = self.samples * (1.0 - weight(step, 3.0 * window.max(1.0))) + view.samples;
        self.samples = self.samples.min(1e9);
        let servers = self.servers(resource, config);
        if nominal < 1e-6 {
            return None;
        }
        let lag = if rising { config.surge_lag } else { 1.0 };
        let utilization = (served + background) / nominal;
        // Where as much is offered as ever in the last window, less served is the endpoint's doing; otherwise the
        // load fell, and the latency may be that of what was served before.
        let steady = view.offered >= 0.93 * self.offered.max();
        let highest = if steady { served } else { self.served.max() };
        let reference = (highest * lag + background) / nominal;
        let offered = (self.offered.max() + background) / nominal;
        let overloaded = (self.offered.max() * lag + background) / nominal >= OVERLOAD;
        let known = self.service.prepare(resource, view, utilization, servers);
        let latency_ratio = view.latency.zip(known).map(|(latency, service)| latency / service);
        let failing = if errors >= FAILING && errors * view.samples >= 2.0 {
            (1.0 / (1.0 - errors)).min(1.0 / config.floor_ratio)
        } else {
            0.0
        };
        let solve =
            |ratio: Option<f64>, load: f64| ratio.map_or(1.0, |r| slowdown(r, load, servers)).max(failing);
        // A far endpoint's round trip varies by some percent, which is none of its own time.
        let tolerated = known.map_or(0.0, |service| 0.03 * view.delay / service);
        let reference = reference.max(utilization);
        let least = solve(latency_ratio.map(|r| (r - tolerated).max(r.min(1.0))), reference);
        self.last = (view.samples >= 10.0).then_some(least);
        Some(Evidence {
            step,
            samples: view.samples,
            least,
            exact: solve(latency_ratio, utilization),
            latency_ratio,
            excess: latency_ratio.map_or(1.0, |r| r / stretch(utilization.min(0.97), servers)),
            offered,
            utilization,
            reference,
            overloaded,
            rising,
            errors,
        })
    }

    /// Learns from a window, given the slowdown that all peers share.
    pub(super) fn learn(
        &mut self,
        evidence: &Evidence,
        common: f64,
        resource: &Resource,
        view: &View,
        config: &CapacityConfig,
    ) {
        let Evidence { step, samples, utilization, .. } = *evidence;
        self.excess = evidence.excess;
        self.overload = 0.0;
        let least = evidence.least / common;
        let exact = (evidence.exact / common).max(least);
        let window = self.window.max(1.0);
        let servers = self.servers(resource, config);
        let lost = self.loss > 1.05;
        // Few requests make a noisy mean: the relative error of n exponential times is 1/√n.
        let threshold = config.loss_threshold * (1.0 + 2.5 / samples.max(1.0).sqrt());
        let calibrating = self.service.is_calibrating(window, view, least);
        let onset = least > threshold && !calibrating;
        self.suspicion = if onset && !evidence.overloaded { self.suspicion.saturating_add(1) } else { 0 };
        let certain = least > 2.0 * threshold && samples >= 30.0;
        let confirmed = self.suspicion >= 2 || (self.suspicion == 1 && certain);
        let steady = utilization >= 0.7 * evidence.reference;
        let band = 1.05 + 1.0 / samples.max(1.0).sqrt();
        if confirmed && least > self.loss * band {
            let gain = (config.loss_speed * (2.0 * step / window).min(1.0)).max(0.1);
            self.loss *= (least / self.loss).powf(gain);
            self.saturate(evidence.reference * least >= SATURATED, config);
        } else if lost && steady && !evidence.rising && exact * band >= self.loss {
            // The loss is confirmed, and so is the load: what differs is noise, and is averaged.
            self.loss *= (exact / self.loss).powf(weight(step, window));
        } else if exact < self.loss && !evidence.rising {
            self.recover(evidence, exact, servers, config);
        }
        if lost && steady && evidence.reference * self.loss.max(least) < SATURATED && least > threshold {
            // Slow although it has room, and had all the time: the service itself is slow, and will show when it
            // is not.
            self.saturated = false;
        }
        self.loss = self.loss.clamp(1.0 / config.ceiling_ratio, 1.0 / config.floor_ratio);
        let slow = if self.loss > 1.05 { exact.clamp(1.0, self.loss.max(least)) } else { 1.0 };
        self.slow_service *= (slow / self.slow_service).powf(weight(step.max(1.0), 0.3 * window));
        if !evidence.rising && !evidence.overloaded {
            // Faster than believed is no reason to trust the estimate less.
            let error = (exact / self.loss).clamp(1.0, 1.5).ln();
            self.spread += weight(step, 2.0 * window) * (error * error - self.spread);
        }
        if let Some(ratio) = evidence.latency_ratio
            && self.loss < 1.1
            && self.suspicion == 0
            && common < config.loss_threshold
            && !evidence.rising
        {
            self.service.learn(step, window, ratio, utilization, servers, resource, view, config);
        }
        self.attribution = self.attribute(evidence, common, config);
        let saturated =
            evidence.overloaded || (self.saturated && evidence.reference * self.loss >= SATURATED);
        self.overload = if saturated { evidence.offered * self.loss } else { 0.0 };
    }

    fn saturate(&mut self, saturated: bool, config: &CapacityConfig) {
        if saturated && self.probing && self.probes < config.probe_doublings {
            self.probes += 1;
        }
        self.probing = false;
        self.saturated = saturated;
    }

    /// Moves the estimate towards what the present window shows, as fast as the evidence allows.
    ///
    /// After a saturation a low latency at low load proves nothing: half of the servers serve a quarter of the load
    /// as fast as all of them. Evidence is a latency well below what the believed number of servers would
    /// give. Without it the estimate probes upwards, half as fast after each probe that failed.
    fn recover(&mut self, evidence: &Evidence, exact: f64, servers: f64, config: &CapacityConfig) {
        // Beyond nominal only on the evidence of a load that the nominal capacity could not carry so well.
        let proven = evidence.utilization >= OVERLOAD && evidence.errors < 0.01;
        let target = if proven { evidence.exact } else { exact.max(1.0) };
        if target >= self.loss {
            if self.loss < 1.0 {
                self.loss += weight(evidence.step, 600.0) * (1.0 - self.loss);
            }
            return;
        }
        let clear = 1.06 + 3.0 / evidence.samples.max(1.0).sqrt();
        let believed = stretch((evidence.utilization * self.loss).min(0.99), (servers / self.loss).max(1.0));
        let evident = evidence.latency_ratio.is_some_and(|ratio| believed > clear * ratio);
        let blind = self.saturated && !evident && self.loss > SMALL_LOSS;
        self.probing |= blind;
        let constant =
            if blind { config.probe_s * f64::from(1u32 << self.probes) } else { config.recovery_s };
        // Capacity, not its inverse, returns exponentially: a loss of 10 is not half gone at 5.
        let capacity = 1.0 / self.loss;
        self.loss = 1.0 / (capacity + weight(evidence.step, constant) * (1.0 / target - capacity));
        if self.loss < 1.05 {
            self.saturated = false;
            self.probing = false;
            self.probes = 0;
        }
    }

    fn attribute(&self, evidence: &Evidence, common: f64, config: &CapacityConfig) -> Attribution {
        if self.loss >= 0.95 * config.loss_threshold {
            return Attribution::CapacityLoss;
        }
        let slow = evidence.latency_ratio.is_some_and(|r| r > 1.5) || evidence.errors >= FAILING;
        let loaded = evidence.overloaded || evidence.rising || evidence.utilization * self.loss >= OVERLOAD;
        if slow && (loaded || common >= config.loss_threshold) {
            Attribution::LoadSurge
        } else {
            Attribution::Normal
        }
    }

    fn servers(&self, resource: &Resource, config: &CapacityConfig) -> f64 {
        if let Some(concurrency) = resource.concurrency {
            return f64::from(concurrency.max(1));
        }
        // At full utilisation c = μ·S requests are in service (Little's law).
        match resource.service_time {
            Some(service) if resource.capacity.get() > 0.0 && service.as_secs() > 0.0 => {
                (resource.capacity.get() * service.as_secs()).clamp(1.0, 1e4)
            }
            _ => config.default_servers,
        }
    }

    /// Best guess of the capacity and its lower bound as of `at`.
    pub(super) fn capacity(&self, at: Timestamp, configured: Rate, config: &CapacityConfig) -> (Rate, Rate) {
        let nominal = self.nominal(configured);
        let capacity = nominal / self.loss;
        let age = self.clock.age(at).map_or(0.0, |age| age.as_secs_f64());
        let few = 0.1 / (1.0 + self.samples / 20.0);
        let margin = config.margin + config.margin_sigmas * self.spread.max(0.0).sqrt() + few;
        let margin = (margin + config.margin_per_s * age).min(config.margin_max);
        let lower = (capacity * (1.0 - margin)).max(nominal * config.floor_ratio).min(capacity);
        (Rate::saturating(capacity), Rate::saturating(lower))
    }

    /// The latency curve now: the service time at no load, slowed down as measured.
    pub(super) fn curve(&self, resource: &Resource, config: &CapacityConfig) -> LatencyCurve {
        let service = self.service.seconds(resource);
        LatencyCurve::new(Latency::saturating(service * self.slow_service), self.servers(resource, config))
    }

    /// Slowdown of the last window and capacity, to compare peers by; `None` where the window is old or holds
    /// too few requests.
    pub(super) fn testimony(&self, at: Timestamp, stale: Duration, configured: Rate) -> Option<(f64, f64)> {
        let fresh = self.clock.age(at).is_some_and(|age| age <= stale);
        self.last.filter(|_| fresh).map(|slowdown| (slowdown, self.nominal(configured)))
    }

    /// Why it is slow, where it is.
    pub(super) fn attribution(&self) -> Attribution {
        self.attribution
    }

    /// The share of failures that too much load explains, whether it grew or the capacity shrank: what exceeds
    /// the capacity fails, and a sixth more while queues drain. Nothing explains more than a third: beyond
    /// that it is an outage, whatever the reason. 0 when there is no overload.
    pub(super) fn excuse(&self) -> f64 {
        if self.overload > 0.0 { ((1.0 - OVERLOAD / self.overload).max(0.0) + 0.15).min(0.35) } else { 0.0 }
    }

    /// Whether requests are slow although the endpoint has room: a lower load does not cure it.
    pub(super) fn is_slow_with_room(&self) -> bool {
        self.attribution == Attribution::CapacityLoss && !self.saturated
    }

    /// Latency of the last window over what the nominal curve expects.
    pub(super) fn excess(&self) -> f64 {
        self.excess
    }
}
