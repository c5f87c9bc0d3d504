//! How does the engine take part?

use std::collections::HashMap;
use std::time::Duration;

use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::{Algorithm, RoutePlan};
use traflux_gateway::affinity::AffinityPlan;
use traflux_gateway::congestion::{Feedback, Wait};
use traflux_gateway::health::Outcome;
use traflux_gateway::queue::Ticket;
use traflux_gateway::{
    Client as Asker, Decision, End, Engine, EngineSettings, Forward, GatewayError, QueuePlan, Request,
    TokenEstimate, Usage, Waiting,
};

use super::arrival::Arrival;
use super::client::{Client, Ended, Step, moment};
use super::scenario::Scenario;

/// The engine, called as an adapter calls it.
pub(super) struct EngineClient<'a> {
    scenario: &'a Scenario,
    engine: Engine,
    /// Whether the engine is told of deadlines.
    tells_deadlines: bool,
    places: HashMap<String, usize>,
    users: Vec<String>,
    held: HashMap<usize, Held>,
    tickets: HashMap<(usize, Ticket), usize>,
}

enum Held {
    Forward(Forward),
    Waiting(Waiting),
}

impl<'a> EngineClient<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        algorithm: Algorithm,
        queue: &QueuePlan,
        seed: u64,
        tells_deadlines: bool,
    ) -> Result<Self, GatewayError> {
        let names: Vec<String> = (0..scenario.servers.len()).map(|ix| format!("backend-{ix}")).collect();
        let mut plan = RequestPlan::default();
        plan.routing.default = Some(RoutePlan::to(&names).by(algorithm));
        plan.queue = queue.clone();
        let sessions = scenario.tenants.iter().filter_map(|t| t.sessions).map(|(count, _)| count).max();
        // Conversations are kept where there are any.
        plan.affinity = sessions.map(|_| AffinityPlan::default());
        let settings = EngineSettings { seed, ..EngineSettings::default() };
        Ok(Self {
            scenario,
            engine: Engine::new(&plan, &settings, moment(0.0))?,
            tells_deadlines,
            places: names.into_iter().enumerate().map(|(ix, name)| (name, ix)).collect(),
            users: (0..sessions.unwrap_or(0)).map(|ix| format!("user-{ix}")).collect(),
            held: HashMap::new(),
            tickets: HashMap::new(),
        })
    }

    fn take(&mut self, request: usize, decision: Decision, steps: &mut Vec<Step>) {
        match decision {
            Decision::Forward(forward) => {
                let backend = self.places[forward.backend()];
                steps.push(Step::Send { request, backend });
                self.held.insert(request, Held::Forward(forward));
            }
            Decision::Wait(waiting) => {
                self.tickets.insert(waiting.ticket(), request);
                self.held.insert(request, Held::Waiting(waiting));
            }
            // No scenario has a limit that may be waited for.
            Decision::Later(_) => steps.push(Step::Refuse { request, reason: "later" }),
            Decision::Refuse(refusal) => {
                steps.push(Step::Refuse { request, reason: refusal.reason.code() });
            }
        }
    }

    fn take_ready(&mut self, steps: &mut Vec<Step>) {
        while let Some((ticket, decision)) = self.engine.take_ready() {
            // One whose client is gone is dropped here, which cancels it.
            let Some(request) = self.tickets.remove(&ticket) else { continue };
            self.held.remove(&request);
            self.take(request, decision, steps);
        }
    }
}

impl Client for EngineClient<'_> {
    fn ask(&mut self, now: f64, request: usize, arrival: &Arrival, steps: &mut Vec<Step>) {
        let tenant = &self.scenario.tenants[arrival.tenant];
        let asked = Request {
            method: "POST",
            path: "/v1/chat/completions",
            client: Asker {
                tenant: tenant.name,
                user: arrival.session.map_or("", |session| &self.users[session]),
                ..Asker::default()
            },
            tokens: TokenEstimate { input: arrival.prompt as u64, output: tenant.max_output as u64 },
            stream: true,
            kind: tenant.kind,
            deadline: arrival.deadline.filter(|_| self.tells_deadlines).map(moment),
            ..Request::default()
        };
        let decision = self.engine.decide(&asked, moment(now));
        self.take(request, decision, steps);
        self.take_ready(steps);
    }

    fn first_byte(&mut self, now: f64, request: usize) {
        if let Some(Held::Forward(forward)) = self.held.get_mut(&request) {
            forward.first_byte(moment(now));
        }
    }

    fn ended(&mut self, now: f64, request: usize, arrival: &Arrival, end: &Ended, steps: &mut Vec<Step>) {
        let Some(Held::Forward(forward)) = self.held.remove(&request) else { return };
        let mut feedback = Feedback::NONE;
        feedback.retry_after = end.retry_after.map(|seconds| {
            let wait = Duration::from_secs_f64(seconds);
            Wait { wait, stated: wait }
        });
        let usage = (end.outcome == Outcome::Success).then_some(Usage {
            input: arrival.prompt as u64,
            cached: end.cached_tokens as u64,
            output: arrival.output as u64,
        });
        let said = End { outcome: end.outcome, usage, feedback: &feedback };
        if end.outcome == Outcome::Success {
            forward.finish(moment(now), &said);
        } else {
            let decision = forward.retry(moment(now), &said);
            self.take(request, decision, steps);
        }
        self.take_ready(steps);
    }

    fn gone(&mut self, now: f64, request: usize, steps: &mut Vec<Step>) {
        match self.held.remove(&request) {
            Some(Held::Forward(forward)) => forward.finish(moment(now), &End::of(Outcome::Cancelled)),
            Some(Held::Waiting(waiting)) => {
                self.tickets.remove(&waiting.ticket());
            }
            None => {}
        }
        self.take_ready(steps);
    }

    fn upkeep(&mut self, now: f64, steps: &mut Vec<Step>) {
        self.engine.upkeep(moment(now));
        self.take_ready(steps);
    }
}
