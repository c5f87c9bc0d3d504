//! Why would this request go where it goes?

use std::fmt;
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::limit::LimitUnit;
use traflux_core::plan::routing::Algorithm;

use super::admission::Kept;
use super::compile::Compiled;
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
    /// Limits that hold, whoever serves.
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
    /// What it counts; levels of dollars are in 10⁻¹² of them.
    pub unit: LimitUnit,
    /// How full it is for this request's key.
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
        let admission = match self.admit(request, now) {
            Ok(admission) => admission,
            Err((route, reason)) => {
                return Explanation { refusal: Some(self.refusal(route, reason)), ..none };
            }
        };
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
        let limits = admission
            .limits
            .iter()
            .filter_map(|(ix, key)| {
                let plan = &self.plan.limits[self.limit_position(*ix)?];
                let level = self.limiter.level(now, *ix, *key);
                Some(LimitTrace { limit: plan.name.clone(), unit: plan.unit, level })
            })
            .collect();
        let refusal = self.unserved_by_all(&admission);
        Explanation { algorithm: Some(route.algorithm), candidates, limits, refusal, ..none }
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
            let Some(level) = &limit.level else {
                writeln!(f, "limit {}: unknown", limit.limit)?;
                continue;
            };
            let (left, most) = (level.remaining, level.limit);
            if limit.unit == LimitUnit::Dollars {
                let (left, most) = (PicoDollars(left), PicoDollars(most));
                writeln!(f, "limit {}: {left} of {most} left", limit.limit)?;
            } else {
                writeln!(f, "limit {}: {left} of {most} left", limit.limit)?;
            }
        }
        Ok(())
    }
}
