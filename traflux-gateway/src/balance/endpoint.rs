//! What is known of one endpoint, from any thread?
//!
//! An [`Endpoint`] is the shared state of one backend: what is in flight and what its answers were like. Its
//! identity is its name alone. Weights, prices and tiers belong to the pools that refer to it, so a new plan
//! changes them without forgetting anything learned.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::balance::{Estimate, LatencyPlan};

use super::estimator::{DecayingMean, DecayingRatio, Forgetting, PeakMean, StreamingQuantile, Tick};
use crate::outcome::Outcome;

/// What came of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// From sending to the end.
    pub total: Duration,
    /// From sending to the first token of a stream; `None` for what came in one piece.
    pub first_token: Option<Duration>,
    /// Whether [`Endpoint::record_first_token`] was told of it before.
    pub first_token_recorded: bool,
    /// Tokens of the prompt that were not cached, 0 where there is none.
    pub prompt_tokens: u32,
    /// Tokens of the answer, 0 where they do not count.
    pub output_tokens: u32,
    /// Tokens that the answer could have had, as its choice was told; 0 where that is not known.
    pub output_limit: u32,
    /// What [`Endpoint::start`] returned: how many requests this one met.
    pub ahead: u32,
    /// The tokens that [`Endpoint::start`] was told of.
    pub held_tokens: u64,
}

impl Answer {
    /// An answer in one piece and without tokens, after `latency`, to a request that met `ahead` others.
    #[must_use]
    pub const fn plain(outcome: Outcome, latency: Duration, ahead: u32) -> Self {
        Self {
            outcome,
            total: latency,
            first_token: None,
            first_token_recorded: false,
            prompt_tokens: 0,
            output_tokens: 0,
            output_limit: 0,
            ahead,
            held_tokens: 0,
        }
    }
}

/// The state of one endpoint. Choosing it and learning from its answers read its first cache line alone, but for
/// quantiles.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Endpoint {
    in_flight: AtomicU32,
    samples: AtomicU32,
    in_flight_tokens: AtomicU64,
    first: DecayingMean,
    per_token: DecayingMean,
    errors: DecayingRatio,
    peak: PeakMean,
    /// One for all endpoints of a table, so that it is in the cache however many there are.
    learning: Arc<Learning>,
    id: u32,
    draining: AtomicBool,
    quantile: StreamingQuantile,
    /// Nanoseconds since the epoch.
    started_at: AtomicU64,
    name: Box<str>,
}

/// Settings, ready to use.
#[derive(Debug)]
struct Learning {
    estimate: Estimate,
    latency: Forgetting,
    errors: Forgetting,
    error_seconds: f32,
    decay: Duration,
    percentile: f32,
    per_prompt_token: f32,
}

impl Learning {
    fn new(settings: &LatencyPlan) -> Self {
        Self {
            estimate: settings.estimate,
            latency: Forgetting::new(settings.decay, settings.samples),
            errors: Forgetting::new(settings.decay, settings.error_samples),
            error_seconds: settings.decay.as_secs_f32().max(1e-6),
            decay: settings.decay,
            percentile: settings.percentile as f32,
            per_prompt_token: 1.0 / settings.prompt_base_tokens.max(1) as f32,
        }
    }
}

impl Endpoint {
    fn new(name: &str, id: u32, now: Timestamp, learning: Arc<Learning>) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            samples: AtomicU32::new(0),
            in_flight_tokens: AtomicU64::new(0),
            first: DecayingMean::default(),
            per_token: DecayingMean::default(),
            errors: DecayingRatio::default(),
            peak: PeakMean::default(),
            learning,
            id,
            draining: AtomicBool::new(false),
            quantile: StreamingQuantile::default(),
            started_at: AtomicU64::new(nanos(now)),
            name: name.into(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A small number that stands for the name as long as its table lives.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Requests in flight.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Tokens in flight, as far as they were told.
    #[inline]
    #[must_use]
    pub fn in_flight_tokens(&self) -> u64 {
        self.in_flight_tokens.load(Relaxed)
    }

    /// Answers that taught a latency, up to 2³² − 1.
    #[inline]
    #[must_use]
    pub fn samples(&self) -> u32 {
        self.samples.load(Relaxed)
    }

    /// Lets nothing new be sent here, while what is in flight goes on; or ends that.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Relaxed);
    }

    /// Whether nothing new is sent here.
    #[inline]
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whether it drains and nothing is left in flight.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.is_draining() && self.in_flight() == 0
    }

    /// When it was first seen, or recovered.
    #[inline]
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        Timestamp::new(Duration::from_nanos(self.started_at.load(Relaxed)))
    }

    /// Marks it as just started or recovered: slow start begins anew, and errors before are forgotten.
    pub fn restart(&self, now: Timestamp) {
        self.started_at.store(nanos(now), Relaxed);
        self.errors.reset();
    }

    /// Forgets errors: it came back, and its share grows by other means than slow start.
    pub fn forgive(&self) {
        self.errors.reset();
    }

    /// Forgets all latencies and errors, as when another machine has taken the name.
    pub fn forget(&self) {
        self.first.reset();
        self.per_token.reset();
        self.errors.reset();
        self.peak.reset();
        self.quantile.reset();
        self.samples.store(0, Relaxed);
    }

    /// Counts a request as in flight, with its tokens; returns how many it met.
    #[inline]
    pub fn start(&self, tokens: u64) -> u32 {
        if tokens > 0 {
            self.in_flight_tokens.fetch_add(tokens, Relaxed);
        }
        self.in_flight.fetch_add(1, Relaxed)
    }

    /// Takes in the first token of a stream before its end, so that long answers teach early.
    #[inline]
    pub fn record_first_token(&self, now: Timestamp, after: Duration, prompt_tokens: u32, ahead: u32) {
        self.learn_first(Tick::of(now), after.as_secs_f32(), prompt_tokens, ahead);
    }

    /// Takes in that no first token has come for so long, of a request that is given up because another endpoint was
    /// quicker.
    pub fn record_at_least(&self, now: Timestamp, waited: Duration, prompt_tokens: u32, ahead: u32) {
        self.learn_at_least(Tick::of(now), waited.as_secs_f32(), prompt_tokens, ahead);
    }

    /// Takes a request out of flight and learns from its answer.
    ///
    /// A finish without a start is ignored in the counts, so that a caller's mistake cannot drive them below
    /// zero.
    #[inline]
    pub fn finish(&self, now: Timestamp, answer: &Answer) {
        // A loop rather than a subtraction, for the bound at zero; without contention it costs the same.
        let _ = self.in_flight.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        if answer.held_tokens > 0 {
            let held = answer.held_tokens;
            let _ = self.in_flight_tokens.fetch_update(Relaxed, Relaxed, |n| Some(n.saturating_sub(held)));
        }
        self.observe(now, answer);
    }

    /// Learns from an answer without counting it out of flight.
    #[inline]
    pub fn observe(&self, now: Timestamp, answer: &Answer) {
        let tick = Tick::of(now);
        let total = answer.total.as_secs_f32();
        if answer.outcome.is_given_up() {
            return;
        }
        // Turned away for want of capacity repels traffic like a failure.
        let failed = !answer.outcome.is_healthy();
        self.errors.record(tick, failed, self.learning.errors);
        if failed {
            // A fast failure must not look like a fast endpoint; a slow one is slow.
            self.learn_at_least(tick, total, answer.prompt_tokens, answer.ahead);
            return;
        }
        let first = answer.first_token.map(|first| first.as_secs_f32().min(total));
        match first {
            Some(first) if !answer.first_token_recorded => {
                self.learn_first(tick, first, answer.prompt_tokens, answer.ahead);
            }
            None if answer.output_tokens == 0 => {
                self.learn_first(tick, total, answer.prompt_tokens, answer.ahead);
            }
            _ => {}
        }
        // In a stream the first token comes with the prompt; an answer in one piece has its whole time in its tokens.
        let (streamed, tokens) = match first {
            Some(first) => (total - first, answer.output_tokens.saturating_sub(1)),
            None => (total, answer.output_tokens),
        };
        if tokens > 0 {
            let sample = streamed / tokens as f32 / crowding(answer.ahead);
            self.per_token.record(tick, sample, self.learning.latency);
            if first.is_none() {
                self.count_sample();
            }
        }
    }

    /// The latency to expect, in seconds, for a prompt of `prompt_tokens` (not cached) and an answer of `output_tokens`,
    /// with `ahead` requests in flight; `None` while nothing is known.
    ///
    /// `(f·(1 + prompt / base) + output·t)·√(ahead + 1)`, where `f` and `t` are averages of time to first token
    /// and time per output token, each divided by `√(ahead + 1)` of its own request. The root stands between
    /// an endpoint with room, whose latency does not depend on its load, and one with a single slot, whose
    /// latency is proportional to it. [`Estimate::Peak`] is the latency itself.
    #[inline]
    #[must_use]
    pub fn expected_latency(
        &self,
        now: Tick,
        prompt_tokens: u32,
        output_tokens: u32,
        ahead: u32,
    ) -> Option<f32> {
        let estimate = self.learning.estimate;
        let unit = self.unit_latency(now, estimate, prompt_tokens, output_tokens)?;
        Some(if estimate == Estimate::Peak { unit } else { unit * crowding(ahead) })
    }

    /// What stands for the time to first token.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        self.learning.estimate
    }

    /// The expected latency without the root, by the estimate of its table: an argument, because a choice asks many.
    #[inline]
    pub(crate) fn unit_latency(
        &self,
        now: Tick,
        estimate: Estimate,
        prompt_tokens: u32,
        output_tokens: u32,
    ) -> Option<f32> {
        let unit =
            self.unit_latency_by(now, estimate, self.prompt_factor(prompt_tokens), output_tokens as f32);
        (unit > 0.0).then_some(unit)
    }

    /// How many times as long the first token of such a prompt takes as that of an empty one.
    #[inline]
    pub(crate) fn prompt_factor(&self, prompt_tokens: u32) -> f32 {
        1.0 + prompt_tokens as f32 * self.learning.per_prompt_token
    }

    /// The same from what is one for all endpoints of a table; 0 while nothing is known.
    #[inline]
    pub(crate) fn unit_latency_by(
        &self,
        now: Tick,
        estimate: Estimate,
        prompt_factor: f32,
        output_tokens: f32,
    ) -> f32 {
        let first = match estimate {
            Estimate::Mean => self.first.value(),
            Estimate::Peak => self.peak.at(now, self.learning.decay).unwrap_or(0.0),
            Estimate::Percentile => self.quantile.value().unwrap_or(0.0),
        };
        first * prompt_factor + output_tokens * self.per_token.value()
    }

    /// The share of answers that failed, as it counts now: it fades while nothing is heard, by `1 / (1 + Δt/τ)`.
    #[inline]
    #[must_use]
    pub fn error_ratio(&self, now: Tick) -> f32 {
        let (ratio, at) = self.errors.read();
        if ratio < 1e-3 { ratio } else { ratio / (1.0 + now.seconds_since(at) / self.learning.error_seconds) }
    }

    /// Seconds since the last answer of any kind.
    #[inline]
    #[must_use]
    pub fn silent_for(&self, now: Tick) -> f32 {
        now.seconds_since(self.errors.read().1)
    }

    #[inline]
    fn normalize(&self, seconds: f32, prompt_tokens: u32, ahead: u32) -> f32 {
        seconds / (self.prompt_factor(prompt_tokens) * crowding(ahead))
    }

    /// Learns from a wait without an answer, unless an answer would have been expected later.
    fn learn_at_least(&self, tick: Tick, waited: f32, prompt_tokens: u32, ahead: u32) {
        if self.normalize(waited, prompt_tokens, ahead) > self.first.value() {
            self.learn_first(tick, waited, prompt_tokens, ahead);
        }
    }

    #[inline]
    fn learn_first(&self, tick: Tick, seconds: f32, prompt_tokens: u32, ahead: u32) {
        let sample = self.normalize(seconds, prompt_tokens, ahead);
        self.first.record(tick, sample, self.learning.latency);
        match self.learning.estimate {
            Estimate::Mean => {}
            Estimate::Peak => self.peak.record(tick, sample * crowding(ahead), self.learning.decay),
            Estimate::Percentile => self.quantile.record(sample, self.learning.percentile),
        }
        self.count_sample();
    }

    #[inline]
    fn count_sample(&self) {
        // A lost count among threads only keeps the endpoint unproven for one answer more.
        self.samples.store(self.samples().saturating_add(1), Relaxed);
    }
}

/// `√(ahead + 1)`.
#[inline]
pub(crate) fn crowding(ahead: u32) -> f32 {
    (ahead as f32 + 1.0).sqrt()
}

pub(crate) fn nanos(now: Timestamp) -> u64 {
    u64::try_from(now.since_epoch().as_nanos()).unwrap_or(u64::MAX)
}

/// All endpoints by name.
#[derive(Debug)]
pub struct EndpointTable {
    plan: LatencyPlan,
    learning: Arc<Learning>,
    by_name: Mutex<HashMap<String, Arc<Endpoint>>>,
    next_id: AtomicU32,
}

impl EndpointTable {
    /// A table without endpoints yet; all of them learn by these settings.
    #[must_use]
    pub fn new(settings: &LatencyPlan) -> Self {
        Self {
            plan: *settings,
            learning: Arc::new(Learning::new(settings)),
            by_name: Mutex::new(HashMap::new()),
            next_id: AtomicU32::new(0),
        }
    }

    /// The endpoint of a name: the one there is, or a new one that starts now.
    pub fn endpoint(&self, name: &str, now: Timestamp) -> Arc<Endpoint> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = by_name.get(name) {
            return Arc::clone(endpoint);
        }
        let id = self.next_id.fetch_add(1, Relaxed);
        let endpoint = Arc::new(Endpoint::new(name, id, now, Arc::clone(&self.learning)));
        by_name.insert(name.to_owned(), Arc::clone(&endpoint));
        endpoint
    }

    /// Has endpoints learn by other settings from here on. Where these differ, all of them begin anew but for their ids and
    /// ages; what is in flight ends at those that there were.
    pub fn relearn(&mut self, settings: &LatencyPlan) {
        if self.plan == *settings {
            return;
        }
        (self.plan, self.learning) = (*settings, Arc::new(Learning::new(settings)));
        let by_name = self.by_name.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (name, endpoint) in by_name {
            let begun = Endpoint::new(name, endpoint.id, endpoint.started_at(), Arc::clone(&self.learning));
            begun.set_draining(endpoint.is_draining());
            *endpoint = Arc::new(begun);
        }
    }

    /// The same endpoints under the same names; what is added to one table is not in the other.
    pub(crate) fn snapshot(&self) -> Self {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self {
            plan: self.plan,
            learning: Arc::clone(&self.learning),
            by_name: Mutex::new(by_name),
            next_id: AtomicU32::new(self.next_id.load(Relaxed)),
        }
    }

    /// Forgets endpoints that no pool refers to and that have nothing in flight. Returns how many.
    pub fn sweep(&self) -> usize {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let before = by_name.len();
        by_name.retain(|_, endpoint| Arc::strong_count(endpoint) > 1 || endpoint.in_flight() > 0);
        before - by_name.len()
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_secs_f64(seconds)
    }

    fn endpoint() -> Arc<Endpoint> {
        EndpointTable::new(&LatencyPlan::default()).endpoint("a", at(0.0))
    }

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn an_endpoint_takes_two_cache_lines_and_what_choices_and_answers_read_one() {
        assert_eq!(size_of::<Endpoint>(), 128);
        assert_eq!(align_of::<Endpoint>(), 128);
        assert_eq!(std::mem::offset_of!(Endpoint, quantile), 64);
    }

    #[test]
    fn names_are_identity() {
        let table = EndpointTable::new(&LatencyPlan::default());
        let a = table.endpoint("a", at(1.0));
        a.start(0);
        assert_eq!(table.endpoint("a", at(2.0)).in_flight(), 1);
        assert_ne!(table.endpoint("b", at(2.0)).id(), a.id());
        assert_eq!(table.sweep(), 1, "b is referred to by nobody");
        drop(a);
        assert_eq!(table.sweep(), 0, "a has a request in flight");
    }

    #[test]
    fn a_stream_teaches_time_to_first_token_and_time_per_token() {
        let endpoint = endpoint();
        // 1000 prompt tokens double the time to first token: 0.2 s · (1 + 1) = 0.4 s; then 20 ms a token.
        let answer = Answer {
            first_token: Some(MS(400)),
            prompt_tokens: 1000,
            output_tokens: 101,
            ..Answer::plain(Outcome::Success, MS(2400), 0)
        };
        endpoint.observe(at(1.0), &answer);
        let expect = |prompt, output, ahead| {
            endpoint.expected_latency(Tick::of(at(1.0)), prompt, output, ahead).unwrap()
        };
        assert!((expect(0, 0, 0) - 0.2).abs() < 1e-4);
        assert!((expect(3000, 0, 0) - 0.8).abs() < 1e-4);
        assert!((expect(1000, 50, 0) - 1.4).abs() < 1e-4);
        assert!((expect(1000, 50, 3) - 2.8).abs() < 1e-4, "√4 times as long with three ahead");
    }

    #[test]
    fn a_first_token_teaches_before_the_end_and_only_once() {
        let endpoint = endpoint();
        endpoint.record_first_token(at(1.0), MS(100), 0, 0);
        assert_eq!(endpoint.samples(), 1);
        let answer = Answer {
            first_token: Some(MS(100)),
            first_token_recorded: true,
            output_tokens: 11,
            ..Answer::plain(Outcome::Success, MS(200), 0)
        };
        endpoint.observe(at(1.2), &answer);
        assert_eq!(endpoint.samples(), 1);
        let tick = Tick::of(at(1.2));
        let expected = endpoint.expected_latency(tick, 0, 10, 0).unwrap();
        assert!((expected - 0.2).abs() < 1e-4, "{expected}");
    }

    #[test]
    fn fast_failures_do_not_improve_the_latency_and_slow_ones_worsen_it() {
        let endpoint = endpoint();
        let latency = |now| endpoint.expected_latency(Tick::of(at(now)), 0, 0, 0).unwrap();
        endpoint.observe(at(1.0), &Answer::plain(Outcome::Success, MS(100), 0));
        endpoint.observe(at(2.0), &Answer::plain(Outcome::ServerError, MS(1), 0));
        assert!((latency(2.0) - 0.1).abs() < 1e-6);
        assert!(endpoint.error_ratio(Tick::of(at(2.0))) > 0.04);
        endpoint.observe(at(3.0), &Answer::plain(Outcome::ServerError, MS(5000), 0));
        assert!(latency(3.0) > 0.4);
        let before = endpoint.error_ratio(Tick::of(at(3.0)));
        assert!((endpoint.error_ratio(Tick::of(at(8.0))) / before - 0.5).abs() < 0.01);
    }

    #[test]
    fn a_cancelled_request_says_nothing() {
        let endpoint = endpoint();
        let ahead = endpoint.start(7);
        assert_eq!((endpoint.in_flight(), endpoint.in_flight_tokens()), (1, 7));
        let answer = Answer { held_tokens: 7, ..Answer::plain(Outcome::Cancelled, MS(9000), ahead) };
        endpoint.finish(at(1.0), &answer);
        assert_eq!((endpoint.in_flight(), endpoint.in_flight_tokens(), endpoint.samples()), (0, 0, 0));
        endpoint.finish(at(1.0), &answer);
        assert_eq!((endpoint.in_flight(), endpoint.in_flight_tokens()), (0, 0));
    }
}
