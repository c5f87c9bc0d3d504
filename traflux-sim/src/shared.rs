//! How does the real controller run on a simulated fleet?
//!
//! [`SharedFleet`] is both ends of the loop: the source of metrics and the actuator. It never waits, so its futures are
//! ready at the first poll and no runtime is needed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use traflux_core::{
    ActuateError, Actuator, BoxFuture, InForce, MetricsSource, NodeGroup, ObserveError, PlanVersion, Receipt,
    ResourceTelemetry, RouteTelemetry, Telemetry, Topology, TrafficPlan, Window,
};

use crate::fleet::Fleet;
use crate::outcome::Outcome;
use crate::scenario::Scenario;

/// A fleet that a controller and whoever advances time hold together.
#[derive(Debug, Clone)]
pub struct SharedFleet {
    inner: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    fleet: Fleet,
    sent: Option<PlanVersion>,
}

impl SharedFleet {
    /// Shares a fleet.
    #[must_use]
    pub fn new(fleet: Fleet) -> Self {
        Self { inner: Arc::new(Mutex::new(Shared { fleet, sent: None })) }
    }

    /// Does something with the fleet. Not to be nested.
    pub fn with<T>(&self, action: impl FnOnce(&mut Fleet) -> T) -> T {
        action(&mut self.lock().fleet)
    }

    /// Plays the fleet to its end and closes the books.
    #[must_use]
    pub fn finish(&self, arm: &str) -> Outcome {
        self.lock().fleet.finish(arm)
    }

    /// What [`MetricsSource::collect`] gives, without a future: telemetry in the order of any topology whose
    /// sources and endpoints have this fleet's names. What is unknown here stays unmeasured.
    #[must_use]
    pub fn collect_now(&self, topology: &Topology, window: Window) -> Telemetry {
        let shared = self.lock();
        let own = shared.fleet.topology();
        let measured = shared.fleet.telemetry(window);
        if own == topology {
            return measured;
        }
        let mut telemetry = Telemetry::empty(topology, window.at, window.length);
        telemetry.warnings = measured.warnings;
        let endpoint = |t: &Topology, ix: usize| {
            t.routes()[ix].consumption.first().map(|c| t.resources()[c.resource.ix()].name.clone())
        };
        for (ix, route) in topology.routes().iter().enumerate() {
            let source = &topology.flows()[route.flow.ix()].source;
            let name = endpoint(topology, ix);
            let here = (0..own.routes().len()).find(|k| {
                own.flows()[own.routes()[*k].flow.ix()].source == *source && endpoint(own, *k) == name
            });
            telemetry.routes[ix] = here.map_or_else(RouteTelemetry::default, |k| measured.routes[k].clone());
        }
        for (ix, resource) in topology.resources().iter().enumerate() {
            telemetry.resources[ix] = own
                .resource(&resource.name)
                .map_or_else(ResourceTelemetry::default, |k| measured.resources[k.ix()].clone());
        }
        telemetry
    }

    /// What [`Actuator::apply`] does, without a future.
    ///
    /// # Errors
    /// [`ActuateError::Compile`] for a service, group or endpoint that the fleet does not have,
    /// [`ActuateError::Refused`] for a row of zeros.
    pub fn apply_now(&self, plan: &TrafficPlan) -> Result<Receipt, ActuateError> {
        let mut shared = self.lock();
        let version = plan.version();
        if shared.sent.as_ref() == Some(version) {
            return Ok(Receipt { version: version.clone(), changed: false });
        }
        let rows = compile(shared.fleet.topology(), shared.fleet.scenario(), plan)?;
        shared.fleet.send_plan(rows, version);
        shared.sent = Some(version.clone());
        Ok(Receipt { version: version.clone(), changed: true })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One row of weights per source, in the order of the fleet's routes; `None` where the plan has no row.
pub(crate) fn compile(
    topology: &Topology,
    scenario: &Scenario,
    plan: &TrafficPlan,
) -> Result<Vec<Option<Vec<u32>>>, ActuateError> {
    let version = plan.version().as_str();
    let problem = |reason: String| ActuateError::Compile { version: version.to_owned(), reason };
    let mut rows = vec![None; scenario.sources.len()];
    for service in plan.services() {
        if service.name != scenario.service {
            return Err(problem(format!("unknown service `{}`", service.name)));
        }
        for row in &service.rows {
            let Some(source) = scenario.sources.iter().position(|s| s.name == row.group.0) else {
                return Err(problem(format!("unknown node group `{}`", row.group)));
            };
            if row.weights.len() != service.endpoints.len() {
                return Err(problem(format!(
                    "row of `{}` has {} weights for {} endpoints",
                    row.group,
                    row.weights.len(),
                    service.endpoints.len()
                )));
            }
            let range = topology.flow_offsets()[source]..topology.flow_offsets()[source + 1];
            let mut weights = vec![0u32; range.len()];
            for (endpoint, weight) in service.endpoints.iter().zip(&row.weights) {
                let route = format!("{}/{}", row.group, endpoint.name);
                match topology.route(&route) {
                    Some(ix) => weights[ix.ix() - range.start] = *weight,
                    None if *weight == 0 => {}
                    None => return Err(problem(format!("unknown route `{route}`"))),
                }
            }
            if weights.iter().all(|weight| *weight == 0) {
                return Err(ActuateError::Refused {
                    group: row.group.0.clone(),
                    version: version.to_owned(),
                    reason: "all weights are 0".to_owned(),
                });
            }
            rows[source] = Some(weights);
        }
    }
    Ok(rows)
}

impl MetricsSource for SharedFleet {
    fn collect<'a>(
        &'a self,
        topology: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, Result<Telemetry, ObserveError>> {
        Box::pin(std::future::ready(Ok(self.collect_now(topology, window))))
    }
}

impl Actuator for SharedFleet {
    fn apply<'a>(&'a self, plan: &'a TrafficPlan) -> BoxFuture<'a, Result<Receipt, ActuateError>> {
        Box::pin(std::future::ready(self.apply_now(plan)))
    }

    fn in_force(&self, group: &NodeGroup) -> Option<InForce> {
        self.lock().fleet.in_force(&group.0)
    }
}
