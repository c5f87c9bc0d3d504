//! With what is a controller compared?
//!
//! An [`ArmController`] is one way to route the fleet, and [`run_arm`] plays a scenario with it. The
//! [`Baseline`]s here need no optimiser; controllers with one are composed elsewhere through the same driver.

use serde::{Deserialize, Serialize};
use traflux_core::{Split, Timestamp, Topology, WeightTable, quantize};
use traflux_gateway::PickerKind;

use crate::error::SimError;
use crate::fleet::Fleet;
use crate::outcome::Outcome;
use crate::scenario::{Scenario, WEIGHT_TOTAL};
use crate::shared::SharedFleet;

/// What was critical at a moment, and why: a row of the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CriticalRow {
    /// When, in seconds.
    pub at_s: f64,
    /// Which group.
    pub group: String,
    /// Why, in words.
    pub reason: String,
}

/// One way to route the fleet.
pub trait ArmController {
    /// Its name in tables.
    fn name(&self) -> &str;

    /// Time zero: sets pickers and weights. The fleet starts with smooth weights by nominal capacity.
    ///
    /// # Errors
    /// Whatever keeps the arm from running.
    fn start(&mut self, fleet: &SharedFleet) -> Result<(), SimError>;

    /// Every control interval after zero.
    ///
    /// # Errors
    /// Whatever keeps the arm from running on.
    fn tick(&mut self, fleet: &SharedFleet, now: Timestamp) -> Result<(), SimError> {
        let _ = (fleet, now);
        Ok(())
    }

    /// What was critical so far and why, in order of time; nothing for arms that do not choose.
    fn critical(&self) -> &[CriticalRow] {
        &[]
    }
}

/// Plays a scenario once; `progress` is told the share of virtual time that is over, in [0, 1].
///
/// # Errors
/// As [`Fleet::new`], and whatever the arm returns.
pub fn run_arm(
    scenario: &Scenario,
    seed: u64,
    arm: &mut dyn ArmController,
    progress: &mut dyn FnMut(f64),
) -> Result<Outcome, SimError> {
    let shared = SharedFleet::new(Fleet::new(scenario, seed)?);
    arm.start(&shared)?;
    let ticks = (scenario.duration_s / scenario.control_interval_s).ceil() as u64;
    for tick in 1..ticks {
        let now = Timestamp::from_secs_f64(tick as f64 * scenario.control_interval_s);
        shared.with(|fleet| fleet.advance(now));
        arm.tick(&shared, now)?;
        progress(tick as f64 / ticks as f64);
    }
    let outcome = shared.finish(arm.name());
    progress(1.0);
    Ok(outcome)
}

/// Arms without an optimiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Baseline {
    /// Every endpoint in turn.
    RoundRobin,
    /// Fixed weights in proportion to nominal capacity.
    StaticCapacity,
    /// Fixed weights: the cheapest routes within a latency budget, filled up to a utilisation.
    StaticCostAware(CostAware),
    /// Per request: the less busy of two, by weights of nominal capacity.
    LeastRequest,
    /// Per request: the better of two in peak-sensitive latency × requests in flight, by the same weights.
    PeakEwma,
}

/// Parameters of [`Baseline::StaticCostAware`]. The defaults are the best of a grid on the demo scenario, events included:
/// a baseline tuned with hindsight. At 0.6 it is faster and cheaper while nothing happens, and fails in a flash crowd.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostAware {
    /// Routes whose round trip and service together exceed this are used last, in milliseconds.
    pub latency_budget_ms: f64,
    /// Utilisation by the sources' base rates up to which an endpoint is filled, in (0, 1].
    pub max_utilization: f64,
}

impl Default for CostAware {
    fn default() -> Self {
        Self { latency_budget_ms: 100.0, max_utilization: 0.35 }
    }
}

impl Baseline {
    /// All of them, in the order of tables.
    #[must_use]
    pub fn all() -> [Self; 5] {
        [
            Self::RoundRobin,
            Self::StaticCapacity,
            Self::StaticCostAware(CostAware::default()),
            Self::LeastRequest,
            Self::PeakEwma,
        ]
    }
}

impl ArmController for Baseline {
    fn name(&self) -> &str {
        match self {
            Self::RoundRobin => "round robin",
            Self::StaticCapacity => "static capacity weights",
            Self::StaticCostAware(_) => "cost-aware static",
            Self::LeastRequest => "least request",
            Self::PeakEwma => "P2C Peak-EWMA",
        }
    }

    fn start(&mut self, fleet: &SharedFleet) -> Result<(), SimError> {
        fleet.with(|fleet| {
            match self {
                Self::RoundRobin => fleet.set_picker(PickerKind::RoundRobin),
                Self::StaticCapacity => {}
                Self::StaticCostAware(settings) => {
                    let weights = cost_aware_weights(fleet.scenario(), *settings)?;
                    fleet.force_weights(&weights)?;
                }
                Self::LeastRequest => fleet.set_picker(PickerKind::LeastRequest),
                Self::PeakEwma => fleet.set_picker(PickerKind::PeakEwma),
            }
            Ok(())
        })
    }
}

/// Fills routes in the order of their marginal price, cheapest first and nearest among equals, first those within the
/// latency budget, each endpoint up to a utilisation; what is left over is spread by capacity.
///
/// # Errors
/// As [`Scenario::topology`].
pub fn cost_aware_weights(scenario: &Scenario, settings: CostAware) -> Result<WeightTable, SimError> {
    let topology = scenario.topology()?;
    let routes = topology.routes();
    let endpoint = |ix: usize| routes[ix].consumption[0].resource.ix();
    let latency_ms = |ix: usize| routes[ix].delay.as_millis() + scenario.endpoints[endpoint(ix)].service_ms;
    let mut order: Vec<usize> = (0..routes.len()).collect();
    order.sort_by(|a, b| {
        let far = |ix: usize| latency_ms(ix) > settings.latency_budget_ms;
        let price = |ix: usize| routes[ix].price.get();
        far(*a)
            .cmp(&far(*b))
            .then(price(*a).total_cmp(&price(*b)))
            .then(latency_ms(*a).total_cmp(&latency_ms(*b)))
            .then(a.cmp(b))
    });
    let mut demand: Vec<f64> = scenario.sources.iter().map(|s| s.base_rps).collect();
    let mut room: Vec<f64> =
        scenario.endpoints.iter().map(|e| e.capacity().get() * settings.max_utilization).collect();
    let mut amounts = vec![0.0; routes.len()];
    for ix in order {
        let (flow, endpoint) = (routes[ix].flow.ix(), endpoint(ix));
        let amount = demand[flow].min(room[endpoint]);
        amounts[ix] += amount;
        demand[flow] -= amount;
        room[endpoint] -= amount;
    }
    spread_leftover(&topology, scenario, &demand, &mut amounts);
    let total = WEIGHT_TOTAL.max(topology.resources().len() as u32);
    Ok(quantize(&Split::proportional(&topology, &amounts), total)?)
}

fn spread_leftover(topology: &Topology, scenario: &Scenario, demand: &[f64], amounts: &mut [f64]) {
    for (flow, w) in topology.flow_offsets().windows(2).enumerate() {
        let capacity = |ix: usize| {
            scenario.endpoints[topology.routes()[ix].consumption[0].resource.ix()].capacity().get()
        };
        let all: f64 = (w[0]..w[1]).map(capacity).sum();
        if demand[flow] > 0.0 && all > 0.0 {
            for (ix, amount) in amounts.iter_mut().enumerate().take(w[1]).skip(w[0]) {
                *amount += demand[flow] * capacity(ix) / all;
            }
        }
    }
}
