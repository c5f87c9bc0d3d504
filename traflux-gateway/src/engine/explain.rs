//! Why would this request go where it goes?

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::limit::{LimitScope, LimitUnit};
use traflux_core::plan::routing::Algorithm;

use super::admission::Kept;
use super::compile::{Compiled, OTHERS};
use super::decision::{Reason, Refusal};
use crate::balance::estimator::Tick;
use crate::limit::LimitLevel;
use crate::request::Request;
use crate::rule::Mismatch;
use crate::units::PicoDollars;

/// What a decision looks at, found without deciding: nothing is charged and nothing counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Rules in the order in which they are tried, up to the one that decides.
    pub rules: Vec<RuleTrace>,
    /// The algorithm that would choose; none where no rule matches.
    pub algorithm: Option<Algorithm>,
    /// Endpoints of the route that serve the model.
    pub candidates: Vec<CandidateTrace>,
    /// Limits that hold: first those whoever serves, then those that count each backend apart, for each candidate.
    pub limits: Vec<LimitTrace>,
    /// Why the request would be refused before any endpoint is asked.
    pub refusal: Option<Refusal>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTrace {
    /// Its name.
    pub rule: String,
    /// Why it does not match; `None` for the one that decides.
    pub mismatch: Option<Mismatch>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct CandidateTrace {
    /// Its backend.
    pub backend: String,
    /// Its base URL.
    pub url: String,
    /// The most tokens of input and one answer that its model takes, where the plan says so.
    pub context_tokens: Option<u64>,
    /// Whether the request is no longer than that.
    pub fits: bool,
    /// Weight in force.
    pub weight: u32,
    /// Whether it may be chosen: healthy, not draining, of positive weight.
    pub open: bool,
    /// Whether the plan takes it out of service: it gets no new requests.
    pub draining: bool,
    /// Time that it is left alone after a refusal.
    pub cooling: Option<Duration>,
    /// Requests in flight to the backend and model, and the most there may be.
    pub in_flight: (u32, u32),
    /// Latency to expect; `None` while nothing is known.
    pub expected_latency: Option<Duration>,
    /// What the request is expected to cost there, by its upper bounds.
    pub price: PicoDollars,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitTrace {
    /// Its name.
    pub limit: String,
    /// The backend, where each is counted apart.
    pub backend: Option<String>,
    /// What it counts; levels of dollars are in 10⁻¹² of them.
    pub unit: LimitUnit,
    /// How full it is for this request's key; as new where that is not known yet.
    pub level: Option<LimitLevel>,
}

impl Compiled {
    pub(super) fn explain(&self, request: &Request<'_>, now: Timestamp) -> Explanation {
        let mut rules = Vec::new();
        for ix in 0..self.rules.len() {
            let mismatch = self.rules.mismatch(ix, request);
            let decides = mismatch.is_none();
            rules.push(RuleTrace { rule: self.routes[ix].name.to_string(), mismatch });
            if decides {
                break;
            }
        }
        let none =
            Explanation { rules, algorithm: None, candidates: Vec::new(), limits: Vec::new(), refusal: None };
        let Some(route) = self.route_of(request) else {
            return Explanation { refusal: Some(self.refusal(None, Reason::NoRoute)), ..none };
        };
        // Neither its tenant nor its keys are made known.
        let admission = self.taken_in(route, OTHERS, request, now);
        let route = &self.routes[admission.route as usize];
        let small = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        let (prompt, output) = (small(request.tokens.input), small(request.tokens.output));
        let mut candidates = Vec::new();
        // Those that the request is too long for are shown as well.
        if let Some(pool) = &route.pools[self.model_at(admission.model) as usize] {
            for (position, member) in pool.members.iter().enumerate() {
                let concurrency = &member.state.concurrency;
                let latency = pool.pool.endpoint(position).and_then(|endpoint| {
                    let seconds =
                        endpoint.expected_latency(Tick::of(now), prompt, output, endpoint.in_flight())?;
                    Duration::try_from_secs_f32(seconds).ok()
                });
                candidates.push(CandidateTrace {
                    backend: member.state.name.to_string(),
                    url: member.url.to_string(),
                    context_tokens: member.context,
                    fits: member.context.is_none_or(|most| request.context_tokens() <= most),
                    weight: pool.pool.weight(position).unwrap_or(0),
                    open: pool.pool.is_open(position),
                    draining: member.draining,
                    cooling: member.state.cool_down.left(now),
                    in_flight: (concurrency.in_flight(), concurrency.ceiling(usize::from(admission.band))),
                    expected_latency: latency,
                    price: member.price.expected(prompt, 0, output),
                });
            }
        }
        let backends: BTreeSet<&str> = candidates.iter().map(|one| one.backend.as_str()).collect();
        let limits = self.explain_limits(request, &backends, now);
        let refusal = self.unserved_by_all(&admission);
        Explanation { algorithm: Some(route.algorithm), candidates, limits, refusal, ..none }
    }

    fn explain_limits(
        &self,
        request: &Request<'_>,
        backends: &BTreeSet<&str>,
        now: Timestamp,
    ) -> Vec<LimitTrace> {
        let (mut limits, mut at_backends) = (Vec::new(), Vec::new());
        self.each_limit(request, |ix| {
            let plan = &self.plan.limits[ix];
            let trace = |backend: Option<&str>| LimitTrace {
                limit: plan.name.clone(),
                backend: backend.map(str::to_owned),
                unit: plan.unit,
                level: self.level_of(ix, request, backend, now),
            };
            if plan.by.contains(&LimitScope::Backend) {
                at_backends.extend(backends.iter().map(|backend| trace(Some(backend))));
            } else {
                limits.push(trace(None));
            }
        });
        limits.append(&mut at_backends);
        limits
    }

    /// The refusal of a request that neither its route nor any that it falls back to may have.
    fn unserved_by_all(&self, admission: &Kept) -> Option<Refusal> {
        let (mut next, mut found) = (Some(admission.route), Reason::NoModel);
        while let Some(ix) = next {
            let route = &self.routes[ix as usize];
            if route.pools[admission.model as usize].is_some() {
                return None;
            }
            if self.unserved(route, admission.model) == Reason::ContextExceeded {
                found = Reason::ContextExceeded;
            }
            next = route.fallback;
        }
        Some(self.refusal(Some(admission.route), found))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            match &rule.mismatch {
                Some(mismatch) => writeln!(f, "rule {}: {mismatch}", rule.rule)?,
                None => writeln!(f, "rule {}: matches", rule.rule)?,
            }
        }
        if let Some(refusal) = &self.refusal {
            writeln!(f, "refused: {refusal}")?;
        }
        if let Some(algorithm) = self.algorithm {
            writeln!(f, "chosen by {algorithm} among")?;
        }
        for one in &self.candidates {
            let state = match (one.open, one.cooling) {
                _ if one.draining => "draining".to_owned(),
                _ if !one.fits => format!("too small with {} tokens", one.context_tokens.unwrap_or_default()),
                (false, _) => "closed".to_owned(),
                (true, Some(left)) => format!("left alone for {:.1} s", left.as_secs_f64()),
                (true, None) => "open".to_owned(),
            };
            let latency = one
                .expected_latency
                .map_or_else(|| "unknown latency".to_owned(), |l| format!("{:.0} ms", l.as_secs_f64() * 1e3));
            writeln!(
                f,
                "  {} {}: weight {}, {state}, {} of {} in flight, {latency}, {} dollars at most",
                one.backend,
                one.url,
                one.weight,
                one.in_flight.0,
                one.in_flight.1,
                one.price.0 as f64 * 1e-12
            )?;
        }
        for limit in &self.limits {
            write!(f, "limit {}", limit.limit)?;
            if let Some(backend) = &limit.backend {
                write!(f, " at {backend}")?;
            }
            let Some(level) = &limit.level else {
                writeln!(f, ": unknown")?;
                continue;
            };
            let (left, most) = (level.remaining, level.limit);
            if limit.unit == LimitUnit::Dollars {
                let (left, most) = (PicoDollars(left), PicoDollars(most));
                writeln!(f, ": {left} of {most} left")?;
            } else {
                writeln!(f, ": {left} of {most} left")?;
            }
        }
        Ok(())
    }
}
