//! How do the parts make one estimate?

use std::collections::HashMap;
use std::time::Duration;

use super::capacity::CapacityTracker;
use super::check;
use super::config::EstimatorConfig;
use super::demand::DemandTracker;
use super::health::{HealthTracker, Signs};
use super::peers::{Rise, common_slowdown};
use super::readings::{Readings, View};
use super::smooth::{Clock, weight};
use crate::curve::LatencyCurve;
use crate::error::EstimateError;
use crate::estimate::{Estimate, Health, ResourceEstimate, RouteEstimate};
use crate::stages::Estimator;
use crate::telemetry::{ResourceTelemetry, Telemetry};
use crate::topology::{Generation, Topology};
use crate::units::{Latency, Rate};

/// Time constant of a detour's extra delay: routes change for minutes, a slow window may be chance.
const DETOUR_S: f64 = 60.0;
/// Time constant of reported latency and error ratio, on top of the window's own average.
const REPORT_S: f64 = 10.0;

/// Demand, capacity, curves and health of a fleet, learned from its telemetry.
///
/// See the [module](crate::estimator) for the formulas.
#[derive(Debug, Clone, Default)]
pub struct FleetEstimator {
    config: EstimatorConfig,
    generation: Option<Generation>,
    flows: Vec<(String, DemandTracker)>,
    routes: Vec<(String, RouteState)>,
    resources: Vec<(String, ResourceState)>,
    fleet_clock: Clock,
    fleet_rise: Rise,
}

#[derive(Debug, Clone, Default)]
struct RouteState {
    clock: Clock,
    health: HealthTracker,
    detour: f64,
    load: f64,
}

#[derive(Debug, Clone, Default)]
struct ResourceState {
    capacity: CapacityTracker,
    health: HealthTracker,
    clock: Clock,
    /// Whether it was ever more than a number in the configuration.
    measured: bool,
    latency: Option<f64>,
    errors: f64,
    load: f64,
    background: f64,
}

impl FleetEstimator {
    /// An estimator that knows nothing yet.
    #[must_use]
    pub fn new(config: EstimatorConfig) -> Self {
        Self { config: config.sanitized(), ..Self::default() }
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &EstimatorConfig {
        &self.config
    }

    /// Orders the state by a topology, keeping what is known of every name that stays.
    fn adopt(&mut self, topology: &Topology) {
        reorder(&mut self.flows, topology.flows().iter().map(|f| f.name.as_str()));
        reorder(&mut self.routes, topology.routes().iter().map(|r| r.name.as_str()));
        reorder(&mut self.resources, topology.resources().iter().map(|r| r.name.as_str()));
        self.generation = Some(topology.generation());
    }

    fn fits(&self, topology: &Topology) -> bool {
        self.generation == Some(topology.generation())
            && self.flows.len() == topology.flows().len()
            && self.routes.len() == topology.routes().len()
            && self.resources.len() == topology.resources().len()
    }

    /// Whether the demand of the whole fleet is rising.
    fn observe_fleet(&mut self, telemetry: &Telemetry, readings: &Readings) -> bool {
        let fresh: Vec<&(f64, Duration)> = readings.flows.iter().flatten().collect();
        if let Some(age) = fresh.iter().map(|f| f.1).min()
            && self.fleet_clock.advance(telemetry.at, age).is_some()
            && let Some(time) = self.fleet_clock.sampled()
        {
            let total = fresh.iter().map(|f| f.0).sum();
            let window = telemetry.window.as_secs_f64();
            self.fleet_rise.observe(time, total, window, self.config.capacity.surge_ratio);
        }
        self.fleet_rise.is_rising()
    }

    /// Capacities: every resource is assessed before any is judged, since peers are witnesses.
    fn learn_capacities(
        &mut self,
        topology: &Topology,
        telemetry: &Telemetry,
        readings: &Readings,
        fleet_rising: bool,
    ) {
        let config = &self.config.capacity;
        let (at, window) = (telemetry.at, telemetry.window.as_secs_f64());
        let stale = Duration::from_secs_f64(self.config.stale_s);
        let mut assessed = Vec::with_capacity(self.resources.len());
        for (ix, (_, state)) in self.resources.iter_mut().enumerate() {
            let (resource, told) = (&topology.resources()[ix], &telemetry.resources[ix]);
            state.capacity.announce(told.capacity.map(|r| r.value), resource.capacity);
            if let Some(background) = told.background.filter(|r| r.age <= stale) {
                state.background = background.value.get().min(1e12);
            }
            let (view, background) = (&readings.resources[ix], state.background);
            state.measured |= !view.unmeasured;
            if !state.measured {
                assessed.push(None);
                continue;
            }
            assessed.push(state.capacity.assess(
                at,
                window,
                view,
                resource,
                background,
                fleet_rising,
                config,
            ));
        }
        let testimonies: Vec<Option<(f64, f64)>> = self
            .resources
            .iter()
            .zip(topology.resources())
            .map(|((_, state), resource)| state.capacity.testimony(at, stale, resource.capacity))
            .collect();
        let common = common_slowdown(&testimonies);
        for (ix, evidence) in assessed.iter().enumerate() {
            if let Some(evidence) = evidence {
                let (resource, view) = (&topology.resources()[ix], &readings.resources[ix]);
                self.resources[ix].1.capacity.learn(evidence, common[ix], resource, view, config);
            }
        }
    }

    fn route(
        &mut self,
        ix: usize,
        topology: &Topology,
        telemetry: &Telemetry,
        view: &View,
        fleet_seen: bool,
    ) -> RouteEstimate {
        let (route, told) = (&topology.routes()[ix], &telemetry.routes[ix]);
        let state = &mut self.routes[ix].1;
        let step = view.age.and_then(|age| state.clock.advance(telemetry.at, age));
        if let Some(step) = step {
            state.load = view.offered;
            if view.latency.is_some() && view.samples >= 10.0 {
                state.detour += weight(step, DETOUR_S) * (view.excess - state.detour);
            }
        } else if fleet_seen && is_gone(&state.clock, telemetry, self.config.stale_s) {
            state.load = 0.0;
        }
        let signs = Signs {
            step,
            window: telemetry.window.as_secs_f64(),
            samples: view.samples,
            errors: view.errors,
            censored: view.censored,
            fleet_seen,
            ..Signs::default()
        };
        RouteEstimate {
            delay: route.delay + Latency::saturating(state.detour),
            price: told.price.unwrap_or(route.price),
            load: Rate::saturating(state.load),
            health: state.health.update(telemetry.at, &signs, &self.config.health),
        }
    }

    fn resource(
        &mut self,
        ix: usize,
        topology: &Topology,
        telemetry: &Telemetry,
        view: &View,
        fleet_seen: bool,
    ) -> ResourceEstimate {
        let (resource, told) = (&topology.resources()[ix], &telemetry.resources[ix]);
        let health = &self.config.health;
        let state = &mut self.resources[ix].1;
        let step = view.age.and_then(|age| state.clock.advance(telemetry.at, age));
        if let Some(step) = step {
            state.load = view.offered;
            if let Some(latency) = view.latency {
                let before = state.latency.unwrap_or(latency);
                state.latency = Some(before + weight(step, REPORT_S) * (latency - before));
            }
            if let Some(errors) = view.errors {
                state.errors += weight(step.max(1.0), REPORT_S) * (errors - state.errors);
            }
        } else if fleet_seen && is_gone(&state.clock, telemetry, self.config.stale_s) {
            state.load = 0.0;
            state.background = 0.0;
        }
        let attribution = state.capacity.attribution();
        // Draining an overloaded endpoint would overload its peers next; its capacity estimate sends it less.
        let excuse = state.capacity.excuse();
        let too_slow = state.capacity.excess() >= health.degraded_slowdown
            || view.p95.zip(health.p95_limit_ms).is_some_and(|(p95, limit)| p95 * 1e3 > limit);
        let signs = Signs {
            step,
            window: telemetry.window.as_secs_f64(),
            probed: told.healthy,
            samples: view.samples,
            errors: view.errors.map(|errors| (errors - excuse).max(0.0)),
            censored: view.censored.map(|censored| (censored - excuse).max(0.0)),
            slow: state.capacity.is_slow_with_room() && too_slow,
            signal: breaches(told, health, self.config.stale_s),
            fleet_seen,
        };
        let healthy: Health = state.health.update(telemetry.at, &signs, health);
        let config = &self.config.capacity;
        let (capacity, mut capacity_lower) = state.capacity.capacity(telemetry.at, resource.capacity, config);
        let mut curve = state.capacity.curve(resource, config);
        if !state.measured {
            // A quota is known, however little was sent, and nobody waits for it below its limit.
            capacity_lower = capacity;
            curve = LatencyCurve::new(resource.service_time.unwrap_or(Latency::ZERO), 1.0);
        }
        ResourceEstimate {
            capacity,
            capacity_lower,
            load: Rate::saturating(state.load + state.background),
            background: Rate::saturating(state.background),
            curve,
            latency: state.latency.map(Latency::saturating),
            error_ratio: state.errors.clamp(0.0, 1.0),
            health: healthy,
            attribution,
            hourly_price: told.hourly_price.unwrap_or(resource.hourly_price),
            age: state.clock.age(telemetry.at),
        }
    }
}

impl Estimator for FleetEstimator {
    fn estimate(&mut self, topology: &Topology, telemetry: &Telemetry) -> Result<Estimate, EstimateError> {
        check(topology, telemetry)?;
        if !self.fits(topology) {
            self.adopt(topology);
        }
        let at = telemetry.at;
        let stale = Duration::from_secs_f64(self.config.stale_s);
        let readings = Readings::new(topology, telemetry, stale);
        let fleet_rising = self.observe_fleet(telemetry, &readings);
        let fleet_seen = readings.flows.iter().any(Option::is_some);
        for ((_, tracker), reading) in self.flows.iter_mut().zip(&readings.flows) {
            if let Some((offered, age)) = reading {
                tracker.observe(at, telemetry.window, *offered, *age, &self.config.demand);
            }
        }
        self.learn_capacities(topology, telemetry, &readings, fleet_rising);
        let flows = self
            .flows
            .iter()
            .map(|(_, t)| t.estimate(at, self.config.control_delay_s, &self.config.demand))
            .collect();
        let routes = (0..self.routes.len())
            .map(|ix| self.route(ix, topology, telemetry, &readings.routes[ix], fleet_seen))
            .collect();
        let resources = (0..self.resources.len())
            .map(|ix| self.resource(ix, topology, telemetry, &readings.resources[ix], fleet_seen))
            .collect();
        Ok(Estimate { at, generation: topology.generation(), flows, resources, routes })
    }

    fn rebuild(&mut self, _old: &Topology, new: &Topology) {
        self.adopt(new);
    }
}

/// Whether nothing was measured for so long that, with the rest of the fleet in sight, there is no traffic.
fn is_gone(clock: &Clock, telemetry: &Telemetry, stale_s: f64) -> bool {
    clock.age(telemetry.at).is_some_and(|age| age.as_secs_f64() > stale_s)
}

/// Whether a user's signal exceeds its limit; NaN exceeds nothing.
fn breaches(told: &ResourceTelemetry, config: &super::HealthConfig, stale_s: f64) -> bool {
    config.signal_limits.iter().any(|(name, limit)| {
        told.signals.get(name).is_some_and(|r| r.age.as_secs_f64() <= stale_s && r.value > *limit)
    })
}

/// Brings named states into a new order; names that are new start afresh.
fn reorder<'a, T: Default>(states: &mut Vec<(String, T)>, names: impl Iterator<Item = &'a str>) {
    let mut known: HashMap<String, T> = std::mem::take(states).into_iter().collect();
    *states = names.map(|name| (name.to_owned(), known.remove(name).unwrap_or_default())).collect();
}
