//! Which endpoints are asked how they are, and what do their answers change?
//!
//! Endpoints of routes with `health_check: true` are asked as `health.probe` of the plan says. The engine keeps the
//! times and the [state](crate::health::Probe) of each; whoever embeds it asks what [`Engine::probes`] hands out and
//! tells [`Engine::on_probe`] what came of it. An endpoint is asked once for all routes, and what it answers counts
//! only on routes with `health_check: true`. State outlives reloads.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, PoisonError};

use rustc_hash::FxHasher;
use traflux_core::Timestamp;

use super::Engine;
use super::compile::{Compiled, RoutePool};
use crate::decision_log::entry::Call;
use crate::health::{NextProbe, Probe, ProbeKind, ProbePlan, ProbeResult, ProbeState};

/// A question to an endpoint. Ask it and call [`Engine::on_probe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeQuestion {
    /// Name of the backend.
    pub backend: Arc<str>,
    /// Base URL of the endpoint; empty for a backend that is known by its name alone.
    pub url: Arc<str>,
    /// What to ask.
    pub kind: ProbeKind,
    /// When to give up; an answer after that counts as none.
    pub give_up: Timestamp,
    pub(crate) attempt: u64,
}

/// What is known of an endpoint by asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStatus {
    /// Name of the backend.
    pub backend: Arc<str>,
    /// Base URL of the endpoint.
    pub url: Arc<str>,
    /// What its answers amount to.
    pub state: ProbeState,
    /// Whether it may be used, as far as its answers go.
    pub usable: bool,
    /// Answers as expected.
    pub passed: u64,
    /// Other answers, and questions that got none in time.
    pub failed: u64,
}

/// Name of the backend and URL.
type Endpoint = (Arc<str>, Arc<str>);

/// All endpoints that are asked.
#[derive(Debug, Default)]
pub(super) struct Probes {
    plan: ProbePlan,
    endpoints: BTreeMap<Endpoint, Asked>,
}

#[derive(Debug)]
struct Asked {
    probe: Probe,
    passed: u64,
    failed: u64,
}

impl Probes {
    /// Asks those that a plan wants asked; what is known of those that stay remains.
    pub(super) fn follow(&mut self, compiled: &Compiled, now: Timestamp) {
        let plan = &compiled.plan.health.probe;
        let mut before = std::mem::take(&mut self.endpoints);
        for pool in compiled.pools().filter(|pool| pool.probed) {
            for member in pool.members.iter() {
                let endpoint = (Arc::clone(&member.state.name), Arc::clone(&member.url));
                if self.endpoints.contains_key(&endpoint) {
                    continue;
                }
                let asked = match before.remove(&endpoint) {
                    Some(asked) if self.plan == *plan => asked,
                    Some(asked) => Asked { probe: asked.probe.with_plan(plan.clone(), now), ..asked },
                    None => {
                        let mut hasher = FxHasher::default();
                        endpoint.hash(&mut hasher);
                        let seed = compiled.settings.seed ^ hasher.finish();
                        Asked { probe: Probe::new(plan.clone(), now, seed), passed: 0, failed: 0 }
                    }
                };
                self.endpoints.insert(endpoint, asked);
            }
        }
        self.plan = plan.clone();
        for pool in compiled.pools() {
            self.tell(pool, now);
        }
    }

    /// Tells the health of a pool what is known; a pool that asks for no probes takes all for well.
    fn tell(&self, pool: &RoutePool, now: Timestamp) {
        let Some(health) = &pool.health else { return };
        for (position, member) in pool.members.iter().enumerate() {
            let asked = self.endpoints.get(&(Arc::clone(&member.state.name), Arc::clone(&member.url)));
            let usable = !pool.probed || asked.is_none_or(|asked| asked.probe.is_usable());
            health.set_probe_usable(now, position, usable);
        }
        pool.follow_health(now);
    }
}

impl Engine {
    /// Questions that are due, those that have waited longest first, at most so many. Each is handed out once, and no
    /// endpoint has two at a time. Call it several times in the shortest interval of the plan's probes.
    #[must_use]
    pub fn probes(&self, now: Timestamp, most: usize) -> Vec<ProbeQuestion> {
        let mut turn = self.shared.log.as_deref().map(|log| log.begin());
        let mut registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due: Vec<(Timestamp, Endpoint)> = registry
            .probes
            .endpoints
            .iter()
            .map(|(endpoint, asked)| (asked.probe.due(), endpoint))
            .filter(|(due, _)| *due <= now)
            .map(|(due, endpoint)| (due, endpoint.clone()))
            .collect();
        if due.is_empty() {
            return Vec::new();
        }
        if let Some(turn) = &mut turn {
            turn.write(Call::AskProbes { most: most as u64 }, Some(now));
        }
        due.sort();
        let (mut questions, mut silent) = (Vec::new(), Vec::new());
        let kind = registry.probes.plan.probe.clone();
        for (_, endpoint) in due.into_iter().take(most) {
            let Some(asked) = registry.probes.endpoints.get_mut(&endpoint) else { continue };
            let before = asked.probe.is_usable();
            let overdue = asked.probe.is_asked();
            let next = asked.probe.next(now);
            if overdue {
                asked.failed += 1;
                if asked.probe.is_usable() != before {
                    silent.push((endpoint.clone(), !before));
                }
            }
            if let NextProbe::Ask { attempt, give_up } = next {
                let (backend, url) = endpoint;
                questions.push(ProbeQuestion { backend, url, kind: kind.clone(), give_up, attempt });
            }
        }
        drop(registry);
        for (endpoint, usable) in silent {
            self.spread(now, &endpoint, usable, ProbeResult::Failed);
        }
        questions
    }

    /// Takes in what came of a question, and returns the state of the endpoint when it changed. Answers to questions
    /// that were given up are ignored.
    pub fn on_probe(
        &self,
        now: Timestamp,
        question: &ProbeQuestion,
        result: ProbeResult,
    ) -> Option<ProbeState> {
        let _turn = self.shared.turn(now, || Call::probe(question, result));
        let endpoint = (Arc::clone(&question.backend), Arc::clone(&question.url));
        let mut registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = registry.probes.endpoints.get_mut(&endpoint)?;
        if !asked.probe.awaits(question.attempt) {
            return None;
        }
        let result = if now > question.give_up { ProbeResult::Failed } else { result };
        let changed = asked.probe.on_result(now, question.attempt, result);
        match result {
            ProbeResult::Passed => asked.passed += 1,
            ProbeResult::Failed => asked.failed += 1,
        }
        let usable = asked.probe.is_usable();
        drop(registry);
        self.spread(now, &endpoint, usable, result);
        changed
    }

    /// What is known of all endpoints that are asked, by backend and URL.
    #[must_use]
    pub fn probe_statuses(&self) -> Vec<ProbeStatus> {
        let registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |((backend, url), asked): (&Endpoint, &Asked)| ProbeStatus {
            backend: Arc::clone(backend),
            url: Arc::clone(url),
            state: asked.probe.state(),
            usable: asked.probe.is_usable(),
            passed: asked.passed,
            failed: asked.failed,
        };
        registry.probes.endpoints.iter().map(status).collect()
    }

    /// Tells all pools that go by it.
    fn spread(&self, now: Timestamp, (backend, url): &Endpoint, usable: bool, result: ProbeResult) {
        let compiled = self.compiled.load();
        for pool in compiled.pools().filter(|pool| pool.probed) {
            let Some(health) = &pool.health else { continue };
            let mut concerned = false;
            for (position, member) in pool.members.iter().enumerate() {
                if member.state.name == *backend && member.url == *url {
                    health.on_probe(now, position, usable, result);
                    concerned = true;
                }
            }
            if concerned {
                pool.follow_health(now);
            }
        }
    }
}
