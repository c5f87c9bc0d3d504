//! What the fleet tells its controller.

use std::time::Duration;

use traflux_core::{
    HourlyPrice, InForce, PlanVersion, Reading, ResourceTelemetry, RouteTelemetry, Telemetry, UnitPrice,
};

use super::{Fleet, Kind, Window, nanos};
use crate::scrape::{Difference, measure};

impl Fleet {
    /// What was scraped in the window: per route as its source saw it, per resource in sum over sources. Parts that
    /// are missing are `None`, with a warning. Prices are as they are now.
    #[must_use]
    pub fn telemetry(&self, window: Window) -> Telemetry {
        let now = u64::try_from(window.at.since_epoch().as_nanos()).unwrap_or(u64::MAX).min(self.now);
        let length = u64::try_from(window.length.as_nanos()).unwrap_or(u64::MAX);
        let bounds = &self.scenario.metrics.histogram_buckets_ms;
        let timeout_s = self.timeout as f64 * 1e-9;
        let mut telemetry = Telemetry::empty(&self.topology, window.at, window.length);
        let mut by_endpoint: Vec<Vec<Difference>> = vec![Vec::new(); self.endpoints.len()];
        let mut seen: Vec<(u32, u32)> = vec![(0, 0); self.endpoints.len()];
        let mut missing = Vec::new();
        for (ix, route) in self.routes.iter().enumerate() {
            let source = &self.sources[route.source as usize];
            let local = ix - source.first_route;
            let difference = source.scrapes.difference(local, now, length);
            match difference {
                Some(difference) => by_endpoint[route.endpoint as usize].push(difference),
                None => missing.push(self.topology.routes()[ix].name.as_str()),
            }
            if let Some(healthy) = source.scrapes.healthy(local, now) {
                let (yes, no) = &mut seen[route.endpoint as usize];
                *(if healthy { yes } else { no }) += 1;
            }
            telemetry.routes[ix] = RouteTelemetry {
                measured: measure(difference.as_slice(), bounds, timeout_s),
                price: Some(UnitPrice::saturating(route.usd_per_request * 1e6)),
            };
        }
        if !missing.is_empty() {
            telemetry.warnings.push(format!("no rate for {}", missing.join(", ")));
        }
        for (ix, endpoint) in self.endpoints.iter().enumerate() {
            let condition = &endpoint.condition;
            let (healthy, ejected) = seen[ix];
            telemetry.resources[ix] = ResourceTelemetry {
                measured: measure(&by_endpoint[ix], bounds, timeout_s),
                // Unhealthy where more sources eject it than not.
                healthy: (healthy + ejected > 0).then_some(healthy >= ejected),
                capacity: condition.announced.map(|capacity| Reading::new(capacity, Duration::ZERO)),
                hourly_price: Some(HourlyPrice::saturating(
                    self.scenario.endpoints[ix].hourly_usd * condition.hourly_factor,
                )),
                ..ResourceTelemetry::default()
            };
        }
        telemetry
    }

    pub(super) fn scrape(&mut self, source: usize) {
        let state = &mut self.sources[source];
        let plumbing = state.plumbing;
        // Drawn whether needed or not, so that scrapes do not depend on what else goes on.
        let lost = state.scrape_rng.uniform() < plumbing.scrape_loss;
        if !lost {
            let range = state.first_route..state.first_route + state.in_flight.len();
            let endpoints = &self.endpoints;
            let present = self.routes[range.clone()]
                .iter()
                .map(|route| !endpoints[route.endpoint as usize].condition.series_lost);
            let visible_at = self.now + nanos(plumbing.metric_delay_s);
            let healthy = state.ejections.iter().map(|e| !e.ejected);
            state.scrapes.push(self.now, visible_at, &self.counters[range], present, healthy);
        }
        if self.now <= self.end {
            self.schedule(self.now + nanos(plumbing.scrape_interval_s), Kind::Scrape, source as u32);
        }
    }

    /// Sends rows of weights under a version, one per source; `None` leaves a source as it is. Lengths are checked by the caller.
    pub(crate) fn send_plan(&mut self, rows: Vec<Option<Vec<u32>>>, version: &PlanVersion) {
        for (source, row) in rows.into_iter().enumerate() {
            if let Some(row) = row {
                self.send(source, row, Some(version.clone()));
            }
        }
    }

    /// What the source of a name has in force, once a plan was sent to it.
    #[must_use]
    pub fn in_force(&self, source: &str) -> Option<InForce> {
        let ix = self.scenario.sources.iter().position(|s| s.name == source)?;
        self.sources[ix].in_force.clone()
    }
}
