//! What does the telemetry say of each flow, route and resource, once it is made fit for arithmetic?
//!
//! Rates are bounded, ratios are in [0, 1] or absent, and a latency is net of the delay of its route. Where an
//! endpoint is reached over several routes and one of them is much slower than the quickest, the excess is
//! the route's (a detour in the network), not the endpoint's: each route counts with at most
//! `1.5 · quickest + 2 ms`.

use std::time::Duration;

use crate::telemetry::{Measurements, Reading, Telemetry};
use crate::topology::Topology;

/// Beyond any real rate; keeps squares and sums finite.
const RATE_LIMIT: f64 = 1e12;
/// Beyond any real latency, in seconds.
const LATENCY_LIMIT: f64 = 1e6;
/// Routes with fewer requests in a window than this do not say which one is quickest.
const FEW: f64 = 10.0;

/// Numbers of one window about a route or a resource.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct View {
    /// Age of the newest throughput; `None` when nothing fresh was measured.
    pub(super) age: Option<Duration>,
    /// Load, in the resource's unit per second (requests for a route), errors and timeouts included.
    pub(super) offered: f64,
    /// Requests in the window.
    pub(super) samples: f64,
    /// Mean latency of answered requests without the routes' delay, in seconds.
    pub(super) latency: Option<f64>,
    /// Share of failed requests, timeouts included.
    pub(super) errors: Option<f64>,
    /// Share of timed-out requests.
    pub(super) censored: Option<f64>,
    /// 95th percentile, round trip included, in seconds.
    pub(super) p95: Option<f64>,
    /// For a route: latency above what its endpoint explains, in seconds.
    pub(super) excess: f64,
    /// Known delay of the route, or of a resource's routes in the mean by traffic, in seconds; 0 = unknown.
    pub(super) delay: f64,
    /// A resource that nobody measures, such as a quota: its capacity is what was said, and it witnesses nothing.
    pub(super) unmeasured: bool,
}

/// All numbers of one collection.
#[derive(Debug, Clone)]
pub(super) struct Readings {
    /// By route.
    pub(super) routes: Vec<View>,
    /// By resource.
    pub(super) resources: Vec<View>,
    /// By flow: total throughput and age of its newest part.
    pub(super) flows: Vec<Option<(f64, Duration)>>,
}

impl Readings {
    /// Reads one collection whose shape was checked.
    pub(super) fn new(topology: &Topology, telemetry: &Telemetry, stale: Duration) -> Self {
        let window = telemetry.window.as_secs_f64().min(86_400.0);
        let mut routes: Vec<View> = telemetry
            .routes
            .iter()
            .zip(topology.routes())
            .map(|(t, route)| view(&t.measured, window, stale, route.delay.as_secs()))
            .collect();
        let flows = topology
            .flow_offsets()
            .windows(2)
            .map(|w| {
                let fresh = routes[w[0]..w[1]].iter().filter_map(|v| v.age.map(|age| (v.offered, age)));
                fresh.reduce(|a, b| (a.0 + b.0, a.1.min(b.1)))
            })
            .collect();
        let mut members: Vec<Vec<(usize, f64, bool)>> = vec![Vec::new(); topology.resources().len()];
        for (ix, route) in topology.routes().iter().enumerate() {
            for (place, consumption) in route.consumption.iter().enumerate() {
                members[consumption.resource.ix()].push((ix, consumption.per_request, place == 0));
            }
        }
        let resources = members
            .iter()
            .zip(&telemetry.resources)
            .map(|(members, t)| {
                let delays: Vec<(f64, f64)> = members
                    .iter()
                    .map(|(ix, ..)| (routes[*ix].offered, topology.routes()[*ix].delay.as_secs()))
                    .collect();
                let own = view(&t.measured, window, stale, mean(&delays).unwrap_or(0.0));
                let background = t.background.filter(|r| r.age <= stale).map_or(0.0, |r| r.value.get());
                let mut pooled = pool(members, &mut routes, own, background);
                pooled.delay = mean(&delays).unwrap_or(0.0);
                pooled
            })
            .collect();
        Self { routes, resources, flows }
    }
}

/// One route's or resource's measurements.
fn view(measured: &Measurements, window: f64, stale: Duration, delay: f64) -> View {
    let fresh = |age: Duration| age <= stale;
    let ratio = |r: Option<Reading<f64>>| {
        r.filter(|r| fresh(r.age) && r.value.is_finite()).map(|r| r.value.clamp(0.0, 1.0))
    };
    let throughput = measured.throughput.filter(|r| fresh(r.age));
    let offered = throughput.map_or(0.0, |r| r.value.get().min(RATE_LIMIT));
    let concurrency = measured.concurrency.filter(|r| fresh(r.age) && r.value.is_finite() && r.value >= 0.0);
    let seconds = measured.latency_mean.filter(|r| fresh(r.age)).map(|r| r.value.as_secs()).or_else(|| {
        // Little's law: requests in flight = throughput · latency.
        concurrency.filter(|_| offered > 0.0).map(|r| r.value / offered)
    });
    let censored = ratio(measured.censored_ratio);
    let errors = ratio(measured.error_ratio);
    View {
        age: throughput.map(|r| r.age),
        offered,
        samples: offered * window,
        latency: seconds.filter(|_| offered > 0.0).map(|l| (l - delay).clamp(0.0, LATENCY_LIMIT)),
        errors: errors.map(|e| e.max(censored.unwrap_or(0.0))).or(censored),
        censored,
        p95: measured.latency_p95.filter(|r| fresh(r.age)).map(|r| r.value.as_secs()),
        excess: 0.0,
        delay,
        unmeasured: false,
    }
}

/// A resource as the sum of its routes; `own` measurements stand in for what the routes do not say, less the
/// `background`, which they contain and no route here carries.
fn pool(members: &[(usize, f64, bool)], routes: &mut [View], own: View, background: f64) -> View {
    let is_endpoint = members.iter().any(|(_, _, first)| *first);
    let unmeasured = !is_endpoint && own.latency.is_none() && own.errors.is_none();
    let fresh: Vec<(usize, f64, bool)> =
        members.iter().copied().filter(|(ix, ..)| routes[*ix].age.is_some()).collect();
    if fresh.is_empty() {
        let per_request = members.iter().map(|m| m.1).sum::<f64>() / members.len().max(1) as f64;
        let offered = own.offered * per_request.max(f64::MIN_POSITIVE) - background;
        return View { offered: offered.max(0.0), unmeasured, ..own };
    }
    let offered: f64 = fresh.iter().map(|(ix, per_request, _)| routes[*ix].offered * per_request).sum();
    let samples: f64 = fresh.iter().map(|(ix, ..)| routes[*ix].samples).sum();
    let timed: Vec<usize> = fresh
        .iter()
        .filter(|(ix, _, first)| *first && routes[*ix].latency.is_some())
        .map(|(ix, ..)| *ix)
        .collect();
    // With few requests everywhere any route may define the quickest.
    let quickest = [FEW, 0.0].into_iter().find_map(|least| {
        timed
            .iter()
            .filter(|ix| routes[**ix].samples >= least)
            .filter_map(|ix| routes[*ix].latency)
            .reduce(f64::min)
    });
    let mut latencies = Vec::with_capacity(timed.len());
    for ix in timed {
        let limit = quickest.map_or(LATENCY_LIMIT, |q| 1.5 * q + 0.002);
        let latency = routes[ix].latency.unwrap_or(0.0);
        routes[ix].excess = (latency - limit).max(0.0);
        let answered = routes[ix].offered * (1.0 - routes[ix].censored.unwrap_or(0.0));
        latencies.push((answered, latency.min(limit)));
    }
    let reached = reached(&fresh, routes);
    let ratios = |pick: fn(&View) -> Option<f64>| {
        let parts: Vec<(f64, f64)> = reached
            .iter()
            .filter_map(|ix| pick(&routes[*ix]).map(|ratio| (routes[*ix].offered, ratio)))
            .collect();
        mean(&parts)
    };
    View {
        age: fresh.iter().filter_map(|(ix, ..)| routes[*ix].age).min(),
        offered: offered.min(RATE_LIMIT),
        samples,
        latency: mean(&latencies).or(own.latency),
        errors: if is_endpoint { ratios(|v| v.errors).or(own.errors) } else { own.errors },
        censored: if is_endpoint { ratios(|v| v.censored).or(own.censored) } else { own.censored },
        p95: own.p95,
        excess: 0.0,
        delay: 0.0,
        unmeasured,
    }
}

/// The routes whose failures are the endpoint's: where some sources are served well, a source that cannot get
/// through is cut off on its own way.
fn reached(fresh: &[(usize, f64, bool)], routes: &[View]) -> Vec<usize> {
    let failing = |ix: &usize| routes[*ix].errors.is_some_and(|e| e >= 0.5);
    let all: Vec<usize> = fresh.iter().map(|(ix, ..)| *ix).collect();
    let served: Vec<usize> = all.iter().copied().filter(|ix| !failing(ix)).collect();
    let requests: f64 = served.iter().map(|ix| routes[*ix].samples).sum();
    let failed: f64 = served.iter().map(|ix| routes[*ix].samples * routes[*ix].errors.unwrap_or(0.0)).sum();
    if requests >= FEW && failed < 0.1 * requests { served } else { all }
}

/// Weighted mean; `None` without weight.
fn mean(parts: &[(f64, f64)]) -> Option<f64> {
    let weight: f64 = parts.iter().map(|(w, _)| w).sum();
    if weight > 0.0 {
        return Some(parts.iter().map(|(w, v)| w / weight * v).sum());
    }
    // Without traffic all count alike: what was measured still says something.
    (!parts.is_empty()).then(|| parts.iter().map(|(_, v)| v).sum::<f64>() / parts.len() as f64)
}
