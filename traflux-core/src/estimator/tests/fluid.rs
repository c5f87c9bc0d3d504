//! A small fluid model of a fleet, to make telemetry with a known truth behind it.
//!
//! Each endpoint is a queue served at `μ = servers/service time`; its latency is the stationary curve plus the
//! backlog's wait, its requests time out after 2 s. Counters are scraped and differenced over a window, so
//! that readings lag, average and carry sampling noise like real ones.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::estimate::Estimate;
use crate::estimator::slowdown::stretch;
use crate::estimator::{EstimatorConfig, FleetEstimator};
use crate::stages::Estimator;
use crate::telemetry::{Measurements, Reading, Telemetry};
use crate::topology::{Consumption, Flow, Resource, Route, Topology};
use crate::units::{HourlyPrice, Latency, Rate, Timestamp, UnitPrice};

const TIMEOUT: f64 = 2.0;
const STEP: f64 = 0.1;

/// How telemetry is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cadence {
    pub(super) window: f64,
    pub(super) scrape: f64,
    pub(super) tick: f64,
}

/// 15 s scrapes under a 60 s window.
pub(super) const PROMETHEUS: Cadence = Cadence { window: 60.0, scrape: 15.0, tick: 5.0 };
/// 1 s scrapes under a 10 s window.
pub(super) const FAST: Cadence = Cadence { window: 10.0, scrape: 1.0, tick: 1.0 };

/// Truth about one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) servers: f64,
    pub(super) service: f64,
    pub(super) delay: f64,
    /// Factor on the number of servers.
    pub(super) present: f64,
    /// Factor on the service time.
    pub(super) slow: f64,
    /// Share of requests that fail at once.
    pub(super) failing: f64,
    backlog: f64,
    counters: [f64; 4],
    scrapes: Vec<(f64, [f64; 4])>,
    pending: [f64; 4],
}

impl Endpoint {
    pub(super) fn new(servers: f64, service: f64, delay: f64) -> Self {
        Self {
            servers,
            service,
            delay,
            present: 1.0,
            slow: 1.0,
            failing: 0.0,
            backlog: 0.0,
            counters: [0.0; 4],
            scrapes: vec![(0.0, [0.0; 4])],
            pending: [0.0; 4],
        }
    }

    pub(super) fn nominal(&self) -> f64 {
        self.servers / self.service
    }

    pub(super) fn capacity(&self) -> f64 {
        self.servers * self.present / (self.service * self.slow)
    }

    /// Serves `rate` for one step. Counters: finished, answered, sum of latencies, failed.
    fn advance(&mut self, rate: f64) {
        let capacity = self.capacity();
        let arrived = rate * STEP * (1.0 - self.failing);
        let served = (capacity * STEP).min(arrived + self.backlog);
        self.backlog += arrived - served;
        let service = self.service * self.slow;
        let room = ((TIMEOUT - service) * capacity).max(0.0);
        let mut timeouts = (self.backlog - room).max(0.0);
        self.backlog -= timeouts;
        let mut answered = served;
        if service >= TIMEOUT {
            timeouts += served;
            answered = 0.0;
        }
        let servers = (self.servers * self.present).max(1.0);
        let wait = service * stretch((rate / capacity).min(0.98), servers) + self.backlog / capacity;
        let failed = rate * STEP * self.failing;
        let add = [
            served + timeouts + failed,
            answered,
            answered * (self.delay + wait.min(TIMEOUT)),
            timeouts + failed,
        ];
        for (sum, part) in self.pending.iter_mut().zip(add) {
            *sum += part;
        }
    }

    fn scrape(&mut self, time: f64, noise: [f64; 2]) {
        let [finished, answered, latency, failed] = self.pending;
        let count = 1.0 + noise[0] / finished.max(1.0).sqrt();
        // Times at the endpoint have a coefficient of variation of 1, the way there one of 0.03.
        let mean = 1.0 + noise[1] / answered.max(1.0).sqrt();
        let way = answered * self.delay;
        let noisy = (latency - way) * mean.max(0.1) + way * (1.0 + 0.03 * (mean - 1.0));
        for (sum, part) in self.counters.iter_mut().zip([finished, answered, noisy, failed]) {
            *sum += part * count.max(0.1);
        }
        self.pending = [0.0; 4];
        self.scrapes.push((time, self.counters));
    }

    fn measured(&self, now: f64, window: f64) -> Measurements {
        let (time, last) = *self.scrapes.last().unwrap();
        let start = self.scrapes.iter().rev().find(|(t, _)| *t <= time - window + 1e-6);
        let (from, first) = *start.unwrap_or(&self.scrapes[0]);
        if time <= from {
            return Measurements::default();
        }
        let age = Duration::from_secs_f64((now - time).max(0.0));
        let delta: Vec<f64> = last.iter().zip(first).map(|(a, b)| a - b).collect();
        let rate = delta[0] / (time - from);
        let ratio =
            |part: f64| (delta[0] > 0.0).then(|| Reading::new((part / delta[0]).clamp(0.0, 1.0), age));
        Measurements {
            throughput: Some(Reading::new(Rate::saturating(rate), age)),
            latency_mean: (delta[1] > 0.0)
                .then(|| Reading::new(Latency::saturating(delta[2] / delta[1]), age)),
            error_ratio: ratio(delta[3]),
            censored_ratio: ratio(if self.failing > 0.0 { 0.0 } else { delta[3] }),
            ..Measurements::default()
        }
    }
}

/// A fleet with one flow, and the estimator that watches it.
pub(super) struct Fleet {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) shares: Vec<f64>,
    pub(super) topology: Topology,
    pub(super) estimator: FleetEstimator,
    pub(super) time: f64,
    cadence: Cadence,
    rng: ChaCha8Rng,
}

impl Fleet {
    /// Eight endpoints of different size and distance, shares by capacity.
    pub(super) fn eight(cadence: Cadence, seed: u64) -> Self {
        let endpoints = [
            (4.0, 2.0),
            (8.0, 5.0),
            (16.0, 20.0),
            (16.0, 70.0),
            (32.0, 85.0),
            (8.0, 90.0),
            (64.0, 150.0),
            (16.0, 160.0),
        ]
        .map(|(servers, delay)| Endpoint::new(servers, 0.02, delay * 1e-3))
        .to_vec();
        Self::new(endpoints, cadence, seed)
    }

    pub(super) fn new(endpoints: Vec<Endpoint>, cadence: Cadence, seed: u64) -> Self {
        let total: f64 = endpoints.iter().map(Endpoint::nominal).sum();
        let shares = endpoints.iter().map(|e| e.nominal() / total).collect();
        let mut builder = Topology::builder();
        let flow = builder.add_flow(Flow { name: "f".into(), source: "s".into(), service: "v".into() });
        for (ix, endpoint) in endpoints.iter().enumerate() {
            let (resource, group) = builder.add_endpoint(
                Resource {
                    name: format!("e{ix}"),
                    capacity: Rate::per_second(endpoint.nominal()),
                    concurrency: Some(endpoint.servers as u32),
                    service_time: Some(Latency::saturating(endpoint.service)),
                    domain: None,
                    hourly_price: HourlyPrice::ZERO,
                },
                0,
            );
            builder.add_route(Route {
                name: format!("r{ix}"),
                flow,
                group,
                consumption: vec![Consumption { resource, per_request: 1.0 }],
                delay: Latency::saturating(endpoint.delay),
                price: UnitPrice::ZERO,
            });
        }
        Self {
            endpoints,
            shares,
            topology: builder.build().unwrap(),
            estimator: FleetEstimator::new(EstimatorConfig::default()),
            time: 0.0,
            cadence,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    pub(super) fn nominal(&self) -> f64 {
        self.endpoints.iter().map(Endpoint::nominal).sum()
    }

    /// Runs for `seconds` under a demand profile (a function of time) and gives every estimate with its time;
    /// `react` may change shares after each.
    pub(super) fn run(
        &mut self,
        seconds: f64,
        demand: impl Fn(f64) -> f64,
        mut react: impl FnMut(&mut Self, &Estimate),
    ) -> Vec<(f64, Estimate)> {
        let mut out = Vec::new();
        let steps = (seconds / STEP).round() as u64;
        let begin = self.time;
        for step in 1..=steps {
            let now = begin + step as f64 * STEP;
            let total = demand(now);
            for (endpoint, share) in self.endpoints.iter_mut().zip(&self.shares) {
                endpoint.advance(total * share);
            }
            self.time = now;
            if is_multiple(now, self.cadence.scrape) {
                for endpoint in &mut self.endpoints {
                    let noise = [gauss(&mut self.rng), gauss(&mut self.rng)];
                    endpoint.scrape(now, noise);
                }
            }
            if is_multiple(now, self.cadence.tick) {
                let telemetry = self.telemetry();
                let estimate = self.estimator.estimate(&self.topology, &telemetry).unwrap();
                react(self, &estimate);
                out.push((now, estimate));
            }
        }
        out
    }

    pub(super) fn telemetry(&self) -> Telemetry {
        let at = Timestamp::from_secs_f64(1e9 + self.time);
        let window = Duration::from_secs_f64(self.cadence.window);
        let mut telemetry = Telemetry::empty(&self.topology, at, window);
        for (route, endpoint) in telemetry.routes.iter_mut().zip(&self.endpoints) {
            route.measured = endpoint.measured(self.time, self.cadence.window);
        }
        telemetry
    }
}

fn is_multiple(time: f64, period: f64) -> bool {
    ((time / period).round() * period - time).abs() < STEP / 2.0
}

/// About normal: the sum of 12 uniform numbers.
fn gauss(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}
