//! What does the fleet look like to a policy?
//!
//! Every feature is clamped, finite and about unit scale. A group's features describe its resource (a group
//! without one is described by the most utilised resource that its routes cross), relative to the fleet where
//! that is what matters, so that fleets of any size look alike. What was not measured is 0 with a flag of
//! its own, or, for age, as old as can be.

use std::time::Duration;

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};
use traflux_core::{
    Attribution, EncodeError, Estimate, GroupIx, Health, Observation, ObservationSpace, ResourceEstimate,
    ResourceIx, Split, StateEncoder, Telemetry, Topology,
};

/// Ages count as fully stale from here on.
const STALE: Duration = Duration::from_secs(30);
/// Latency and delay of 1.
const LATENCY_UNIT_SECONDS: f64 = 0.1;
/// A log ratio of observed to expected latency above which a group counts as slower than its load explains.
const SLOWER: f64 = 0.182;

/// Names of the features.
pub mod feature {
    /// Load over the lower bound of capacity, in [0, 3].
    pub const UTILIZATION: &str = "utilization";
    /// Lower bound of capacity over nominal capacity, in [0, 2].
    pub const CAPACITY_RATIO: &str = "capacity_ratio";
    /// Latency without delay, per 100 ms, in [0, 10].
    pub const LATENCY: &str = "latency";
    /// 1 where a latency was measured.
    pub const LATENCY_KNOWN: &str = "latency_known";
    /// Log of observed over expected latency at this utilisation, in [−3, 3].
    pub const LATENCY_RATIO: &str = "latency_ratio";
    /// Share of requests that fail.
    pub const ERROR_RATIO: &str = "error_ratio";
    /// Share of requests without a latency because they timed out.
    pub const CENSORED_RATIO: &str = "censored_ratio";
    /// Share of the fleet's traffic.
    pub const TRAFFIC_SHARE: &str = "traffic_share";
    /// Traffic relative to an even share, in [0, 4].
    pub const TRAFFIC_RELATIVE: &str = "traffic_relative";
    /// Spare capacity relative to an even share of the fleet's, in [0, 4].
    pub const SPARE_RELATIVE: &str = "spare_relative";
    /// Demand-weighted mean delay of its routes, per 100 ms, in [0, 10].
    pub const DELAY: &str = "delay";
    /// Demand-weighted marginal price of its routes, relative to the fleet's mean, in [−1, 3].
    pub const PRICE: &str = "price";
    /// Hourly price relative to the fleet's mean, in [−1, 3].
    pub const HOURLY_PRICE: &str = "hourly_price";
    /// One of four: within its objective.
    pub const HEALTHY: &str = "healthy";
    /// One of four: in breach of its objective.
    pub const DEGRADED: &str = "degraded";
    /// One of four: must not get traffic.
    pub const UNHEALTHY: &str = "unhealthy";
    /// One of four: never measured.
    pub const UNKNOWN: &str = "unknown";
    /// One of three: latency is as it should be.
    pub const NORMAL: &str = "normal";
    /// One of three: all peers are slower.
    pub const LOAD_SURGE: &str = "load_surge";
    /// One of three: this one is slower than its load explains.
    pub const CAPACITY_LOSS: &str = "capacity_loss";
    /// Age of its inputs over 30 s, in [0, 1]; 1 when never measured.
    pub const AGE: &str = "age";
    /// 1 in breach; else the demand-weighted share of its routes that are.
    pub const BREACH: &str = "breach";
    /// Priority tier over 4, in [0, 1].
    pub const TIER: &str = "tier";

    /// Of the fleet: demand over the sum of lower bounds of capacity, in [0, 3].
    pub const FLEET_LOAD: &str = "fleet_load";
    /// Of the fleet: how far the forecast's upper band is above demand, relative, in [0, 3].
    pub const FLEET_BAND: &str = "fleet_band";
    /// Of the fleet: log of demand over demand at the last encoding, in [−2, 2].
    pub const FLEET_TREND: &str = "fleet_trend";
    /// Of the fleet: traffic-weighted latency with delay, per 100 ms, in [0, 10].
    pub const FLEET_LATENCY: &str = "fleet_latency";
    /// Of the fleet: greatest utilisation, in [0, 3].
    pub const FLEET_MAX_UTILIZATION: &str = "fleet_max_utilization";
    /// Of the fleet: fraction of groups that are unhealthy.
    pub const FLEET_UNHEALTHY: &str = "fleet_unhealthy";
    /// Of the fleet: fraction of groups more than 20 % slower than their load explains.
    pub const FLEET_SLOWER: &str = "fleet_slower";
    /// Of the fleet: mean age of inputs over 30 s, in [0, 1].
    pub const FLEET_AGE: &str = "fleet_age";

    pub(super) const GROUP: [&str; 23] = [
        UTILIZATION,
        CAPACITY_RATIO,
        LATENCY,
        LATENCY_KNOWN,
        LATENCY_RATIO,
        ERROR_RATIO,
        CENSORED_RATIO,
        TRAFFIC_SHARE,
        TRAFFIC_RELATIVE,
        SPARE_RELATIVE,
        DELAY,
        PRICE,
        HOURLY_PRICE,
        HEALTHY,
        DEGRADED,
        UNHEALTHY,
        UNKNOWN,
        NORMAL,
        LOAD_SURGE,
        CAPACITY_LOSS,
        AGE,
        BREACH,
        TIER,
    ];

    pub(super) const CONTEXT: [&str; 8] = [
        FLEET_LOAD,
        FLEET_BAND,
        FLEET_TREND,
        FLEET_LATENCY,
        FLEET_MAX_UTILIZATION,
        FLEET_UNHEALTHY,
        FLEET_SLOWER,
        FLEET_AGE,
    ];
}

/// A signal of the user's own, as a feature of every group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalFeature {
    /// Its name in the telemetry.
    pub name: String,
    /// The value that counts as 1; the feature is clamped to [−10, 10].
    #[serde(default = "one")]
    pub scale: f64,
}

fn one() -> f64 {
    1.0
}

/// What an encoder adds to the features that are always there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderConfig {
    /// Signals by name, each as two features: `signal.NAME` and `signal.NAME.known`.
    pub signals: Vec<SignalFeature>,
}

/// The encoder of fleets: one row of features per group, one vector for the whole.
#[derive(Debug, Clone, Default)]
pub struct FleetEncoder {
    config: EncoderConfig,
    last_demand: Option<f64>,
    groups: Vec<GroupState>,
}

/// What is gathered of a group before the fleet's means are known.
#[derive(Debug, Clone, Copy, Default)]
struct GroupState {
    resource: Option<ResourceIx>,
    /// Requests/s on it now.
    traffic: f64,
    /// Requests/s that it could take.
    capacity: f64,
    spare: f64,
    utilization: f64,
    latency: Option<f64>,
    latency_ratio: f64,
    delay: f64,
    price: f64,
    hourly: f64,
    breach: f64,
    age: f64,
}

impl FleetEncoder {
    /// An encoder with those signals.
    #[must_use]
    pub fn new(config: EncoderConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Forgets the last encoding: the trend starts again at 0.
    pub fn reset(&mut self) {
        self.last_demand = None;
    }

    fn features(&self) -> usize {
        feature::GROUP.len() + 2 * self.config.signals.len()
    }

    fn gather(&mut self, topology: &Topology, estimate: &Estimate, traffic: &[f64]) {
        self.groups.clear();
        for group in 0..topology.groups().len() {
            let routes = topology.routes_of(GroupIx::from(group));
            let resource = topology.groups()[group].resource.or_else(|| {
                let crossed =
                    routes.iter().flat_map(|r| &topology.routes()[r.ix()].consumption).map(|c| c.resource);
                crossed.max_by(|a, b| {
                    let used = |r: &ResourceIx| planned_utilization(&estimate.resources[r.ix()]);
                    // The earlier resource wins a tie, whatever the order of routes.
                    used(a).total_cmp(&used(b)).then(b.cmp(a))
                })
            });
            let mut state = GroupState { resource, age: 1.0, ..GroupState::default() };
            let (mut weight, mut per_request) = (0.0, None);
            for route in routes {
                let (described, now) = (&topology.routes()[route.ix()], &estimate.routes[route.ix()]);
                // A route without demand still counts a little, so that an idle group has a delay and a price.
                let demand = estimate.flows[described.flow.ix()].demand.get().max(1e-6);
                weight += demand;
                state.traffic += traffic[route.ix()];
                state.delay += demand * now.delay.as_secs();
                state.price += demand * now.price.get();
                if matches!(now.health, Health::Degraded | Health::Unhealthy) {
                    state.breach += demand;
                }
                let consumed = described.consumption.iter().find(|c| Some(c.resource) == resource);
                per_request = per_request.or(consumed.map(|c| c.per_request));
            }
            if weight > 0.0 {
                state.delay /= weight;
                state.price /= weight;
                state.breach /= weight;
            }
            if let Some(now) = resource.map(|r| &estimate.resources[r.ix()]) {
                let per_request = per_request.unwrap_or(1.0);
                state.capacity = now.capacity_lower.get() / per_request;
                state.spare = now.capacity_lower.saturating_sub(now.load).get() / per_request;
                state.utilization = planned_utilization(now);
                state.latency = now.latency.map(|l| l.as_secs());
                state.latency_ratio = latency_ratio(now);
                state.hourly = now.hourly_price.get();
                state.age = staleness(now.age);
                if matches!(now.health, Health::Degraded | Health::Unhealthy) {
                    state.breach = 1.0;
                }
            }
            self.groups.push(state);
        }
    }

    fn context(&mut self, estimate: &Estimate) -> Array1<f32> {
        let groups = &self.groups;
        let count = groups.len().max(1) as f64;
        let sum = |value: fn(&GroupState) -> f64| groups.iter().map(value).sum::<f64>();
        let demand: f64 = estimate.flows.iter().map(|f| f.demand.get()).sum();
        let upper: f64 = estimate.flows.iter().map(|f| f.upper.get()).sum();
        let trend = match self.last_demand.replace(demand) {
            Some(last) if last > 0.0 && demand > 0.0 => (demand / last).ln(),
            _ => 0.0,
        };
        let traffic = sum(|g| g.traffic);
        let latency = sum(|g| g.traffic * (g.delay + g.latency.unwrap_or(0.0)));
        let unhealthy = groups
            .iter()
            .filter(|g| g.resource.is_some_and(|r| estimate.resources[r.ix()].health == Health::Unhealthy));
        let slower = groups.iter().filter(|g| g.latency_ratio > SLOWER).count() as f64;
        let highest = groups.iter().map(|g| g.utilization).fold(0.0, f64::max);
        Array1::from_vec(vec![
            clamped(ratio(demand, sum(|g| g.capacity), 3.0), 0.0, 3.0),
            clamped(if demand > 0.0 { upper / demand - 1.0 } else { 0.0 }, 0.0, 3.0),
            clamped(trend, -2.0, 2.0),
            clamped(ratio(latency, traffic, 0.0) / LATENCY_UNIT_SECONDS, 0.0, 10.0),
            clamped(highest, 0.0, 3.0),
            clamped(unhealthy.count() as f64 / count, 0.0, 1.0),
            clamped(slower / count, 0.0, 1.0),
            clamped(sum(|g| g.age) / count, 0.0, 1.0),
        ])
    }
}

impl StateEncoder for FleetEncoder {
    fn space(&self) -> ObservationSpace {
        let fixed = feature::GROUP.iter().map(|name| (*name).to_owned());
        let signals =
            self.config.signals.iter().flat_map(|signal| {
                [format!("signal.{}", signal.name), format!("signal.{}.known", signal.name)]
            });
        ObservationSpace {
            group_features: fixed.chain(signals).collect(),
            context_features: feature::CONTEXT.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn encode(
        &mut self,
        topology: &Topology,
        telemetry: &Telemetry,
        estimate: &Estimate,
        current: &Split,
    ) -> Result<Observation, EncodeError> {
        check_shapes(topology, telemetry, estimate, current)?;
        let traffic = traffic_by_route(topology, estimate, current);
        self.gather(topology, estimate, &traffic);

        let count = self.groups.len();
        let fleet = |value: fn(&GroupState) -> f64| self.groups.iter().map(value).sum::<f64>();
        let (traffic, spare) = (fleet(|g| g.traffic), fleet(|g| g.spare));
        let price = ratio(fleet(|g| g.price), count as f64, 0.0);
        let hourly = ratio(fleet(|g| g.hourly), count as f64, 0.0);
        let mut values = Vec::with_capacity(count * self.features());
        let mut mask = Vec::with_capacity(count);
        for (ix, group) in self.groups.iter().enumerate() {
            let described = &topology.groups()[ix];
            let routes = topology.routes_of(GroupIx::from(ix));
            let now = group.resource.map(|r| &estimate.resources[r.ix()]);
            let measured = group.resource.map(|r| &telemetry.resources[r.ix()]);
            let health = now.map_or(Health::Unknown, |r| r.health);
            let attribution = now.map_or(Attribution::Normal, |r| r.attribution);
            let nominal = group.resource.map_or(0.0, |r| topology.resources()[r.ix()].capacity.get());
            let lower = now.map_or(0.0, |r| r.capacity_lower.get());
            let censored = measured.and_then(|m| m.measured.censored_ratio.map(|r| r.value));
            let share = ratio(group.traffic, traffic, 0.0);
            let is = |condition: bool| f32::from(u8::from(condition));
            mask.push(!routes.is_empty() && lower > 0.0 && health != Health::Unhealthy);
            values.extend([
                clamped(group.utilization, 0.0, 3.0),
                clamped(ratio(lower, nominal, 0.0), 0.0, 2.0),
                clamped(group.latency.unwrap_or(0.0) / LATENCY_UNIT_SECONDS, 0.0, 10.0),
                is(group.latency.is_some()),
                clamped(group.latency_ratio, -3.0, 3.0),
                clamped(now.map_or(0.0, |r| r.error_ratio), 0.0, 1.0),
                clamped(censored.unwrap_or(0.0), 0.0, 1.0),
                clamped(share, 0.0, 1.0),
                clamped(share * count as f64, 0.0, 4.0),
                clamped(ratio(group.spare, spare, 0.0) * count as f64, 0.0, 4.0),
                clamped(group.delay / LATENCY_UNIT_SECONDS, 0.0, 10.0),
                clamped(ratio(group.price - price, price, 0.0), -1.0, 3.0),
                clamped(ratio(group.hourly - hourly, hourly, 0.0), -1.0, 3.0),
                is(health == Health::Healthy),
                is(health == Health::Degraded),
                is(health == Health::Unhealthy),
                is(health == Health::Unknown),
                is(attribution == Attribution::Normal),
                is(attribution == Attribution::LoadSurge),
                is(attribution == Attribution::CapacityLoss),
                clamped(group.age, 0.0, 1.0),
                clamped(group.breach, 0.0, 1.0),
                clamped(f64::from(described.tier) / 4.0, 0.0, 1.0),
            ]);
            for signal in &self.config.signals {
                let value = measured.and_then(|m| m.signals.get(&signal.name)).map(|r| r.value);
                let value = value.filter(|v| v.is_finite());
                values.push(clamped(value.unwrap_or(0.0) / signal.scale, -10.0, 10.0));
                values.push(is(value.is_some()));
            }
        }
        let groups = Array2::from_shape_vec((count, self.features()), values)
            .expect("every group pushed every feature once");
        Ok(Observation { groups, context: self.context(estimate), mask })
    }
}

fn check_shapes(
    topology: &Topology,
    telemetry: &Telemetry,
    estimate: &Estimate,
    current: &Split,
) -> Result<(), EncodeError> {
    let (routes, resources) = (topology.routes().len(), topology.resources().len());
    let lengths = [
        ("routes of telemetry", routes, telemetry.routes.len()),
        ("resources of telemetry", resources, telemetry.resources.len()),
        ("flows of the estimate", topology.flows().len(), estimate.flows.len()),
        ("routes of the estimate", routes, estimate.routes.len()),
        ("resources of the estimate", resources, estimate.resources.len()),
        ("shares", routes, current.shares().len()),
    ];
    match lengths.into_iter().find(|(_, expected, found)| expected != found) {
        Some((what, expected, found)) => Err(EncodeError::Shape { what, expected, found }),
        None => Ok(()),
    }
}

/// Requests/s on each route: as estimated, or, while nothing was measured, demand by the split in force.
fn traffic_by_route(topology: &Topology, estimate: &Estimate, current: &Split) -> Vec<f64> {
    let measured: Vec<f64> = estimate.routes.iter().map(|r| r.load.get()).collect();
    if measured.iter().any(|load| *load > 0.0) {
        return measured;
    }
    let demand = topology.routes().iter().map(|r| estimate.flows[r.flow.ix()].demand.get());
    demand.zip(current.shares()).map(|(demand, share)| demand * share).collect()
}

/// Load over the lower bound of capacity; full overload where there is load and no capacity.
fn planned_utilization(resource: &ResourceEstimate) -> f64 {
    ratio(resource.load.get(), resource.capacity_lower.get(), 3.0)
}

fn latency_ratio(resource: &ResourceEstimate) -> f64 {
    let expected = resource.curve.latency(resource.utilization()).as_secs();
    match resource.latency {
        Some(latency) if latency.as_secs() > 0.0 && expected > 0.0 => (latency.as_secs() / expected).ln(),
        _ => 0.0,
    }
}

fn staleness(age: Option<Duration>) -> f64 {
    age.map_or(1.0, |age| (age.as_secs_f64() / STALE.as_secs_f64()).min(1.0))
}

/// `a / b`, 0 for 0/0, and `beyond` where only `b` is zero.
fn ratio(a: f64, b: f64, beyond: f64) -> f64 {
    if a == 0.0 {
        0.0
    } else if b == 0.0 {
        beyond
    } else {
        a / b
    }
}

fn clamped(value: f64, low: f64, high: f64) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(low, high) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use traflux_core::{
        Consumption, Flow, FlowEstimate, HourlyPrice, Latency, LatencyCurve, Rate, Reading, Resource, Route,
        RouteEstimate, Timestamp, UnitPrice,
    };

    /// One flow over endpoints of 100 requests/s, and, after them, `tier` = 1 for the last.
    fn topology(endpoints: usize) -> Topology {
        let mut builder = Topology::builder();
        if endpoints == 0 {
            return builder.build().unwrap();
        }
        let flow = builder.add_flow(Flow { name: "eu".into(), source: "eu".into(), service: "api".into() });
        for ix in 0..endpoints {
            let name = format!("endpoint-{ix}");
            let tier = u8::from(ix + 1 == endpoints && ix > 0);
            let (resource, group) = builder.add_endpoint(
                Resource {
                    name: name.clone(),
                    capacity: Rate::per_second(100.0),
                    concurrency: Some(4),
                    service_time: Some(Latency::millis(20.0)),
                    domain: None,
                    hourly_price: HourlyPrice::per_hour(0.2),
                },
                tier,
            );
            builder.add_route(Route {
                name,
                flow,
                group,
                consumption: vec![Consumption { resource, per_request: 1.0 }],
                delay: Latency::millis(10.0),
                price: UnitPrice::per_million(1.0),
            });
        }
        builder.build().unwrap()
    }

    fn estimate(topology: &Topology, load: f64) -> Estimate {
        let curve = LatencyCurve::new(Latency::millis(20.0), 4.0);
        let endpoints = topology.resources().len();
        Estimate {
            at: Timestamp::ZERO,
            generation: topology.generation(),
            flows: topology
                .flows()
                .iter()
                .map(|_| FlowEstimate {
                    demand: Rate::per_second(load * endpoints as f64),
                    upper: Rate::per_second(load * endpoints as f64 * 1.2),
                    age: Some(Duration::from_secs(3)),
                })
                .collect(),
            resources: (0..endpoints)
                .map(|_| ResourceEstimate {
                    capacity: Rate::per_second(100.0),
                    capacity_lower: Rate::per_second(80.0),
                    load: Rate::per_second(load),
                    background: Rate::ZERO,
                    curve,
                    latency: Some(curve.latency(load / 100.0)),
                    error_ratio: 0.0,
                    health: Health::Healthy,
                    attribution: Attribution::Normal,
                    hourly_price: HourlyPrice::per_hour(0.2),
                    age: Some(Duration::from_secs(15)),
                })
                .collect(),
            routes: topology
                .routes()
                .iter()
                .map(|r| RouteEstimate {
                    delay: r.delay,
                    price: r.price,
                    load: Rate::per_second(load),
                    health: Health::Healthy,
                })
                .collect(),
        }
    }

    fn encode(topology: &Topology, estimate: &Estimate) -> Observation {
        let telemetry = Telemetry::empty(topology, Timestamp::ZERO, Duration::from_secs(60));
        let split = Split::uniform(topology);
        FleetEncoder::default().encode(topology, &telemetry, estimate, &split).unwrap()
    }

    fn column(observation: &Observation, name: &str) -> Vec<f32> {
        let column = feature::GROUP.iter().position(|f| *f == name).unwrap();
        observation.groups.column(column).to_vec()
    }

    fn context(observation: &Observation, name: &str) -> f32 {
        observation.context[feature::CONTEXT.iter().position(|f| *f == name).unwrap()]
    }

    #[test]
    fn a_balanced_fleet_has_the_features_that_its_numbers_give() {
        let topology = topology(4);
        let seen = encode(&topology, &estimate(&topology, 40.0));
        for (name, expected) in [
            (feature::UTILIZATION, 0.5),    // 40 of 80
            (feature::CAPACITY_RATIO, 0.8), // 80 of 100
            (feature::LATENCY_KNOWN, 1.0),
            (feature::LATENCY_RATIO, 0.0),
            (feature::TRAFFIC_SHARE, 0.25),
            (feature::TRAFFIC_RELATIVE, 1.0),
            (feature::SPARE_RELATIVE, 1.0),
            (feature::DELAY, 0.1), // 10 ms of 100
            (feature::PRICE, 0.0),
            (feature::HOURLY_PRICE, 0.0),
            (feature::HEALTHY, 1.0),
            (feature::AGE, 0.5), // 15 s of 30
            (feature::BREACH, 0.0),
        ] {
            for value in column(&seen, name) {
                assert!((value - expected).abs() < 1e-6, "{name}: {value}, expected {expected}");
            }
        }
        assert_eq!(column(&seen, feature::TIER), [0.0, 0.0, 0.0, 0.25]);
        assert!((context(&seen, feature::FLEET_LOAD) - 0.5).abs() < 1e-6);
        assert!((context(&seen, feature::FLEET_BAND) - 0.2).abs() < 1e-6);
        assert_eq!(context(&seen, feature::FLEET_SLOWER), 0.0);
        assert_eq!(seen.mask, [true; 4]);
    }

    #[test]
    fn names_and_values_have_one_order_and_one_length() {
        let config = EncoderConfig { signals: vec![SignalFeature { name: "cpu".into(), scale: 100.0 }] };
        let mut encoder = FleetEncoder::new(config);
        let topology = topology(2);
        let mut telemetry = Telemetry::empty(&topology, Timestamp::ZERO, Duration::from_secs(60));
        telemetry.resources[1].signals.insert("cpu".into(), Reading::new(75.0, Duration::ZERO));
        let estimate = estimate(&topology, 10.0);
        let seen = encoder.encode(&topology, &telemetry, &estimate, &Split::uniform(&topology)).unwrap();
        let space = encoder.space();
        assert_eq!(space.group_features.len(), seen.groups.ncols());
        assert_eq!(space.context_features.len(), seen.context.len());
        let cpu = space.group_features.iter().position(|f| f == "signal.cpu").unwrap();
        assert_eq!(seen.groups.row(0).to_vec()[cpu..], [0.0, 0.0], "not measured: zero, and not known");
        assert_eq!(seen.groups.row(1).to_vec()[cpu..], [0.75, 1.0]);
    }

    #[test]
    fn one_slow_endpoint_is_told_from_a_fleet_that_is_slow() {
        let topology = topology(4);
        let mut now = estimate(&topology, 40.0);
        now.resources[2].latency = now.resources[2].latency.map(|l| l * 10.0);
        now.resources[2].attribution = Attribution::CapacityLoss;
        let one = encode(&topology, &now);
        assert!((column(&one, feature::LATENCY_RATIO)[2] - 10f32.ln()).abs() < 1e-3);
        assert_eq!(context(&one, feature::FLEET_SLOWER), 0.25);
        assert_eq!(column(&one, feature::CAPACITY_LOSS), [0.0, 0.0, 1.0, 0.0]);
        now.resources.iter_mut().for_each(|r| r.latency = Some(Latency::millis(900.0)));
        assert_eq!(context(&encode(&topology, &now), feature::FLEET_SLOWER), 1.0);
    }

    #[test]
    fn a_group_without_capacity_or_health_cannot_be_chosen() {
        let topology = topology(4);
        let mut now = estimate(&topology, 40.0);
        now.resources[0].capacity_lower = Rate::ZERO;
        now.resources[1].health = Health::Unhealthy;
        now.resources[2].health = Health::Degraded;
        let seen = encode(&topology, &now);
        assert_eq!(seen.mask, [false, false, true, true]);
        assert_eq!(column(&seen, feature::UTILIZATION)[0], 3.0);
        assert_eq!(column(&seen, feature::BREACH), [0.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn a_route_in_breach_shows_although_its_endpoint_is_healthy() {
        let topology = topology(3);
        let mut now = estimate(&topology, 40.0);
        now.routes[1].health = Health::Degraded;
        assert_eq!(column(&encode(&topology, &now), feature::BREACH), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn the_trend_is_zero_at_first_and_then_the_log_ratio() {
        let topology = topology(2);
        let telemetry = Telemetry::empty(&topology, Timestamp::ZERO, Duration::from_secs(60));
        let split = Split::uniform(&topology);
        let mut encoder = FleetEncoder::default();
        let mut trend = |load| {
            let seen = encoder.encode(&topology, &telemetry, &estimate(&topology, load), &split).unwrap();
            context(&seen, feature::FLEET_TREND)
        };
        assert_eq!(trend(40.0), 0.0);
        assert!((trend(80.0) - 2f32.ln()).abs() < 1e-6);
        assert_eq!(trend(0.0), 0.0);
    }

    #[test]
    fn before_anything_is_measured_traffic_is_demand_by_the_split_in_force() {
        let topology = topology(4);
        let mut now = estimate(&topology, 40.0);
        now.routes.iter_mut().for_each(|r| r.load = Rate::ZERO);
        assert_eq!(column(&encode(&topology, &now), feature::TRAFFIC_SHARE), [0.25; 4]);
    }

    #[test]
    fn fleets_of_none_and_of_ten_thousand_are_encoded() {
        for endpoints in [0, 1, 10_000] {
            let topology = topology(endpoints);
            let seen = encode(&topology, &estimate(&topology, 40.0));
            assert_eq!((seen.len(), seen.mask.len()), (endpoints, endpoints));
            assert!(seen.groups.iter().chain(&seen.context).all(|v| v.is_finite()));
        }
    }

    #[test]
    fn inputs_of_another_topology_are_refused() {
        let (two, three) = (topology(2), topology(3));
        let telemetry = Telemetry::empty(&two, Timestamp::ZERO, Duration::from_secs(60));
        let error = FleetEncoder::default()
            .encode(&three, &telemetry, &estimate(&three, 1.0), &Split::uniform(&three))
            .unwrap_err();
        assert_eq!(error.to_string(), "encoder expects 3 routes of telemetry, got 2");
    }

    fn any_number() -> impl Strategy<Value = f64> {
        prop_oneof![
            Just(0.0),
            Just(f64::MAX),
            Just(f64::NAN),
            Just(f64::INFINITY),
            -1.0..1e6f64,
            0.0..1e-300f64
        ]
    }

    proptest! {
        #[test]
        fn every_feature_is_finite_and_bounded_whatever_was_estimated(
            numbers in prop::collection::vec(any_number(), 7 * 3 + 2),
            known in prop::collection::vec(any::<bool>(), 9),
        ) {
            let topology = topology(3);
            let mut now = estimate(&topology, 40.0);
            let rate = |ix: usize| Rate::saturating(numbers[ix]);
            for (ix, resource) in now.resources.iter_mut().enumerate() {
                resource.capacity_lower = rate(7 * ix);
                resource.capacity = rate(7 * ix + 1);
                resource.load = rate(7 * ix + 2);
                resource.latency = known[ix].then(|| Latency::saturating(numbers[7 * ix + 3]));
                resource.error_ratio = numbers[7 * ix + 4];
                resource.age = known[3 + ix].then_some(Duration::MAX);
                resource.hourly_price = HourlyPrice::saturating(numbers[7 * ix + 5]);
                now.routes[ix].load = if known[6 + ix] { rate(7 * ix + 6) } else { Rate::ZERO };
                now.routes[ix].price = UnitPrice::saturating(numbers[7 * ix + 5]);
            }
            now.flows[0].demand = rate(21);
            now.flows[0].upper = rate(22);
            let seen = encode(&topology, &now);
            prop_assert!(seen.groups.iter().chain(&seen.context).all(|v| (-10.0..=10.0).contains(v)));
        }
    }
}
