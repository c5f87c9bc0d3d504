//! How would the recorded requests have fared under another plan?
//!
//! [`what_if`] gives the recorded arrivals, at their times, to an engine of another plan. It decides otherwise, so what
//! backends do must be modelled:
//!
//! - An attempt at a backend that served the same request in the log goes as it did then.
//! - Any other takes the time to the first byte, the total time, the outcome and what was said about limits from one
//!   recorded attempt at that backend and model: of the [`NEAR_IN_TIME`] attempts nearest in time, among the
//!   [`NEAR_IN_LENGTH`] nearest in tokens written, one drawn by the request's number, so that the same question has the
//!   same answer.
//! - Tokens are those of the request where the log knows them, else those of the attempt that was drawn.
//! - A client that went away does so after the same time, unless it was served before.
//! - Answers to probes, load reports, weights and upkeep come as recorded; an endpoint that was never asked is well.
//!
//! **What this cannot know.** A backend is as fast as it was, whatever load the other plan puts on it: compare the peaks
//! in flight. Second attempts beside a slow first (`retry.hedge`) are not played. Clients send what they sent; those that were refused and came again come again. Attempts at a backend
//! without any record take the times of all others, and are counted as such. A run of the *same* plan through the
//! model stands beside the other plan's, so that its error shows: compare the model with the model.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use traflux_core::plan::requests::RequestPlan;

use super::entry::{Call, Entry, Said, stamp, time};
use super::secrets::{Visible, without_secrets};
use super::summary::Summary;
use super::trace::{Attempted, Fate, Trace, Traced};
use crate::congestion::Feedback;
use crate::engine::{Decision, End, Engine, Forward, Later, ProbeQuestion, Waiting};
use crate::error::GatewayError;
use crate::health::{Outcome, ProbeResult};
use crate::queue::Ticket;
use crate::rng::Rng;
use crate::wire::Usage;

/// Recorded attempts that are looked at for a model of another.
pub const NEAR_IN_TIME: usize = 64;
/// Of these, those of about as many tokens from which one is drawn.
pub const NEAR_IN_LENGTH: usize = 8;
/// Nanoseconds between two times of upkeep once those of the log are over.
const UPKEEP: u64 = 250_000_000;
/// Nanoseconds after the last arrival at which the play ends, whatever is still open.
const LATEST: u64 = 3_600_000_000_000;

/// The recorded requests as they were, as the model of the same plan has them, and under another plan.
#[derive(Debug, Clone, PartialEq)]
pub struct WhatIf {
    /// As recorded.
    pub recorded: Summary,
    /// The recorded plan, played through the model: what it differs from the record is the model's error.
    pub modelled: Summary,
    /// The other plan, played through the same model.
    pub other: Summary,
    /// What stands against believing it, in words.
    pub caveats: Vec<String>,
}

/// Plays a trace under another plan.
///
/// # Errors
/// [`GatewayError`] for a plan that an engine refuses.
pub fn what_if(trace: &Trace, other: &RequestPlan) -> Result<WhatIf, GatewayError> {
    let model = Model::new(trace);
    let recorded_plan = &trace.header.plan;
    let recorded = Summary::of(trace.requests.iter(), recorded_plan, trace.span);
    let (modelled, _) = play(trace, &model, recorded_plan)?;
    let (written, looks_into) = without_secrets(other);
    let (other_summary, unknown) = play(trace, &model, &written)?;
    let mut caveats = Vec::new();
    let beyond = Visible::of(other).beyond(&Visible::of(recorded_plan));
    if !beyond.is_empty() {
        caveats.push(format!(
            "the other plan looks at what the log does not hold, as if no request had it: {}",
            beyond.join(", ")
        ));
    }
    caveats.extend(looks_into.map(|problem| format!("the other plan cannot be judged in part: {problem}")));
    for (backend, attempts) in &unknown {
        caveats.push(format!(
            "backend `{backend}` has no record: its {attempts} attempts take the times of all other backends"
        ));
    }
    for (backend, row) in &other_summary.backends {
        let before = recorded.backends.get(backend).map_or(0, |row| row.peak_in_flight);
        if before > 0 && row.peak_in_flight > before + before / 2 {
            caveats.push(format!(
                "backend `{backend}` has up to {} requests in flight and never had more than {before}: it may be slower",
                row.peak_in_flight
            ));
        }
    }
    if other.retry.hedge.is_some() {
        caveats.push("second attempts beside a slow first are not played".to_owned());
    }
    if trace.reloads > 0 {
        caveats.push(format!(
            "the log has {} changes of the plan; one plan is played throughout",
            trace.reloads
        ));
    }
    if !trace.gaps.is_empty() {
        let missing: u64 = trace.gaps.iter().map(|gap| gap.count).sum();
        caveats.push(format!("{missing} entries are missing from the log"));
    }
    Ok(WhatIf { recorded, modelled, other: other_summary, caveats })
}

/// What an attempt would do.
#[derive(Debug, Clone)]
struct Modelled {
    first: Option<u64>,
    total: u64,
    outcome: Outcome,
    usage: Option<Usage>,
    feedback: Feedback,
}

/// One recorded attempt that ended by itself.
struct Sample {
    sent: u64,
    first: Option<u64>,
    total: u64,
    outcome: Outcome,
    usage: Option<Usage>,
    said: Option<Said>,
    stream: bool,
}

/// What backends did, in order of time.
struct Model {
    by_model: HashMap<(String, String), Vec<Sample>>,
    by_backend: HashMap<String, Vec<(String, usize)>>,
    models: Vec<(String, String)>,
}

impl Model {
    fn new(trace: &Trace) -> Self {
        let mut by_model: HashMap<(String, String), Vec<Sample>> = HashMap::new();
        for request in &trace.requests {
            for attempt in &request.attempts {
                let (Some(total), Some(outcome)) = (attempt.total, attempt.outcome) else { continue };
                if outcome.is_given_up() {
                    continue;
                }
                let key = (attempt.backend.clone(), request.asked.model.to_string());
                by_model.entry(key).or_default().push(Sample {
                    sent: attempt.sent,
                    first: attempt.first,
                    total,
                    outcome,
                    usage: attempt.usage,
                    said: attempt.said.clone(),
                    stream: request.asked.stream,
                });
            }
        }
        let mut by_backend: HashMap<String, Vec<(String, usize)>> = HashMap::new();
        for ((backend, model), samples) in &mut by_model {
            samples.sort_by_key(|sample| sample.sent);
            by_backend.entry(backend.clone()).or_default().push((model.clone(), samples.len()));
        }
        // The model of most record stands for others; in an order that does not depend on that of a hash table.
        for models in by_backend.values_mut() {
            models.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        }
        let mut models: Vec<(String, String)> = by_model.keys().cloned().collect();
        models.sort();
        Self { by_model, by_backend, models }
    }

    /// What the attempt of this number would do; the second value is whether the backend has a record.
    fn attempt(&self, request: &Traced, backend: &str, number: usize, now: u64) -> (Modelled, bool) {
        let own = request.attempts.iter().filter(|attempt| attempt.backend == backend);
        let own = own.clone().nth(number).or_else(|| own.clone().next_back());
        let known_usage = request.attempts.iter().rev().find_map(|attempt| attempt.usage);
        if let Some(Attempted { first, total: Some(total), outcome: Some(outcome), usage, said, .. }) = own
            && !outcome.is_given_up()
        {
            let feedback = Said::feedback_of(said.as_ref());
            let (first, total, outcome, usage) = (*first, *total, *outcome, *usage);
            return (Modelled { first, total, outcome, usage, feedback }, true);
        }
        let mut rng = Rng::stream(request.n, number as u64);
        let model = request.asked.model.to_string();
        let exact = (backend.to_owned(), model.clone());
        let (key, known) = if self.by_model.contains_key(&exact) {
            (Some(&exact), true)
        } else if let Some((other, _)) = self.by_backend.get(backend).and_then(|models| models.first()) {
            (self.models.iter().find(|(name, model)| name == backend && model == other), true)
        } else {
            let same: Vec<_> = self.models.iter().filter(|(_, other)| *other == model).collect();
            let among = if same.is_empty() { self.models.iter().collect() } else { same };
            let key = (!among.is_empty()).then(|| among[rng.below(among.len())]);
            (key, false)
        };
        let samples = key.and_then(|key| self.by_model.get(key)).map_or(&[][..], Vec::as_slice);
        let length = known_usage.map(|usage| usage.output);
        let Some(sample) = draw(samples, now, length, request.asked.stream, &mut rng) else {
            // A log without a single answer: everything is answered at once.
            let feedback = Feedback::NONE;
            return (
                Modelled { first: None, total: 0, outcome: Outcome::Success, usage: None, feedback },
                false,
            );
        };
        let usage =
            if sample.outcome == Outcome::Success { known_usage.or(sample.usage) } else { sample.usage };
        // Somebody who went away had not been answered by then.
        let patience = own.and_then(|attempt| attempt.total).unwrap_or(0);
        let modelled = Modelled {
            first: sample.first,
            total: sample.total.max(patience),
            outcome: sample.outcome,
            usage,
            feedback: Said::feedback_of(sample.said.as_ref()),
        };
        (modelled, known)
    }
}

/// One of the samples near in time and length.
fn draw<'a>(
    samples: &'a [Sample],
    now: u64,
    length: Option<u64>,
    stream: bool,
    rng: &mut Rng,
) -> Option<&'a Sample> {
    if samples.is_empty() {
        return None;
    }
    let middle = samples.partition_point(|sample| sample.sent < now);
    let from = middle.saturating_sub(NEAR_IN_TIME / 2).min(samples.len().saturating_sub(NEAR_IN_TIME));
    let near = &samples[from..(from + NEAR_IN_TIME).min(samples.len())];
    let mut alike: Vec<&Sample> = near.iter().filter(|sample| sample.stream == stream).collect();
    if alike.is_empty() {
        alike = near.iter().collect();
    }
    if let Some(length) = length {
        // Failures have no length; they keep their share.
        let failures = alike.iter().filter(|sample| sample.outcome != Outcome::Success).count();
        if rng.below(alike.len()) < failures {
            alike.retain(|sample| sample.outcome != Outcome::Success);
        } else {
            alike.retain(|sample| sample.outcome == Outcome::Success);
            let output = |sample: &Sample| sample.usage.map_or(0, |usage| usage.output);
            alike.sort_by_key(|sample| output(sample).abs_diff(length));
            alike.truncate(NEAR_IN_LENGTH);
        }
    }
    Some(alike[rng.below(alike.len())])
}

/// What happens at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Other(usize),
    Upkeep,
    Arrival(usize),
    /// Of the attempt of this number.
    First(usize, usize),
    End(usize, usize),
    /// The turn under a limit comes.
    Turn(usize),
    Leave(usize),
}

/// A request at play.
#[expect(clippy::large_enum_variant, reason = "few are waiting, and all are in one table")]
enum Held {
    Forward(Forward, Modelled),
    Later(Later),
    Waiting(Waiting),
}

struct Play<'a> {
    trace: &'a Trace,
    model: &'a Model,
    engine: Engine,
    /// By time; of those at once, what backends do comes first, because it makes room, then in the order in which they
    /// were set: the first byte before the end.
    events: BinaryHeap<Reverse<(u64, bool, u64, Event)>>,
    set: u64,
    held: HashMap<usize, Held>,
    waiting: HashMap<(usize, Ticket), usize>,
    done: Vec<Traced>,
    unknown: BTreeMap<String, u64>,
    /// Endpoints whose answers to probes are recorded, and questions that wait for them.
    probed: HashSet<(String, String)>,
    questions: HashMap<(String, String), ProbeQuestion>,
}

/// Plays all requests under a plan; gives what came of them, and attempts at backends without a record.
fn play(
    trace: &Trace,
    model: &Model,
    plan: &RequestPlan,
) -> Result<(Summary, BTreeMap<String, u64>), GatewayError> {
    let engine = Engine::new(plan, &trace.header.settings, time(trace.span.0))?;
    let mut play = Play {
        trace,
        model,
        engine,
        events: BinaryHeap::new(),
        set: 0,
        held: HashMap::new(),
        waiting: HashMap::new(),
        done: Vec::with_capacity(trace.requests.len()),
        unknown: BTreeMap::new(),
        probed: trace.others.iter().filter_map(probed_endpoint).collect(),
        questions: HashMap::new(),
    };
    for (ix, entry) in trace.others.iter().enumerate() {
        play.at(entry.t, Event::Other(ix));
    }
    for (ix, request) in trace.requests.iter().enumerate() {
        play.done.push(Traced {
            attempts: Vec::new(),
            waited: None,
            ended: None,
            fate: Fate::Open,
            ..request.clone()
        });
        play.at(request.at, Event::Arrival(ix));
        let left = match request.fate {
            Fate::Left => request.waited.map(|waited| request.at + waited),
            Fate::Ended(Outcome::Cancelled) => request.ended,
            _ => None,
        };
        if let Some(left) = left {
            play.at(left, Event::Leave(ix));
        }
    }
    play.at(trace.others.last().map_or(trace.span.0, |entry| entry.t) + UPKEEP, Event::Upkeep);
    let last = trace.requests.iter().map(|request| request.at).max().unwrap_or(trace.span.1);
    let mut end = trace.span.1;
    while let Some(Reverse((t, _, _, event))) = play.events.pop() {
        if t > last + LATEST {
            break;
        }
        play.happen(t, event);
        play.hand_out(t);
        if !matches!(event, Event::Upkeep) {
            end = end.max(t);
        }
    }
    Ok((Summary::of(play.done.iter(), plan, (trace.span.0, end)), play.unknown))
}

fn probed_endpoint(entry: &Entry<'_>) -> Option<(String, String)> {
    match &entry.call {
        Call::Probe { backend, url, .. } => Some((backend.to_string(), url.to_string())),
        _ => None,
    }
}

impl Play<'_> {
    fn at(&mut self, t: u64, event: Event) {
        self.set += 1;
        let is_of_backend = matches!(event, Event::First(..) | Event::End(..));
        self.events.push(Reverse((t, !is_of_backend, self.set, event)));
    }

    fn happen(&mut self, t: u64, event: Event) {
        let now = time(t);
        match event {
            Event::Other(ix) => self.other(ix),
            Event::Upkeep => {
                self.engine.upkeep(now);
                // As long as somebody is there, time goes on.
                if !self.held.is_empty() || !self.events.is_empty() {
                    self.at(t + UPKEEP, Event::Upkeep);
                }
            }
            Event::Arrival(ix) => {
                let asked = &self.trace.requests[ix].asked;
                let engine = &self.engine;
                let decision = asked.with(|request| engine.decide_in_session(request, asked.session(), now));
                self.decided(ix, t, decision);
            }
            Event::First(ix, number) => {
                let current = self.done[ix].attempts.len();
                if let Some(Held::Forward(forward, _)) = self.held.get_mut(&ix)
                    && current == number
                {
                    forward.first_byte(now);
                    if let Some(attempt) = self.done[ix].attempts.last_mut() {
                        attempt.first = Some(t.saturating_sub(attempt.sent));
                    }
                }
            }
            Event::End(ix, number) => {
                if self.done[ix].attempts.len() == number {
                    self.end(ix, t);
                }
            }
            Event::Turn(ix) => match self.held.remove(&ix) {
                Some(Held::Later(later)) if later.due() <= now => {
                    self.done[ix].waited = Some(t.saturating_sub(self.done[ix].at));
                    let decision = later.go_on(now);
                    self.decided(ix, t, decision);
                }
                // A turn of before; the request has another state by now.
                Some(other) => {
                    self.held.insert(ix, other);
                }
                None => {}
            },
            Event::Leave(ix) => match self.held.remove(&ix) {
                Some(Held::Later(later)) => {
                    drop(later);
                    self.close(ix, t, Fate::Left);
                }
                Some(Held::Waiting(waiting)) => {
                    self.waiting.remove(&waiting.ticket());
                    self.done[ix].waited = Some(t.saturating_sub(self.done[ix].at));
                    self.close(ix, t, Fate::Left);
                }
                Some(Held::Forward(forward, modelled)) => {
                    let cancelled = Modelled { outcome: Outcome::Cancelled, usage: None, ..modelled };
                    self.note_end(ix, t, &cancelled);
                    forward.finish(now, &End::of(Outcome::Cancelled));
                    self.close(ix, t, Fate::Ended(Outcome::Cancelled));
                }
                None => {}
            },
        }
    }

    fn other(&mut self, ix: usize) {
        let entry = &self.trace.others[ix];
        let now = entry.at();
        match &entry.call {
            Call::Upkeep => self.engine.upkeep(now),
            Call::SetWeights { rule, weights } => {
                let weights: Vec<(&str, u32)> = weights.iter().map(|(name, w)| (&**name, *w)).collect();
                // Another plan need not have the rules of the one that was recorded.
                let _ = self.engine.set_weights(now, rule, &weights);
            }
            Call::AskProbes { most } => {
                for question in self.engine.probes(now, usize::try_from(*most).unwrap_or(usize::MAX)) {
                    let endpoint = (question.backend.to_string(), question.url.to_string());
                    if self.probed.contains(&endpoint) {
                        self.questions.insert(endpoint, question);
                    } else {
                        self.engine.on_probe(now, &question, ProbeResult::Passed);
                    }
                }
            }
            Call::Probe { backend, url, passed, .. } => {
                let result = if *passed { ProbeResult::Passed } else { ProbeResult::Failed };
                if let Some(question) = self.questions.remove(&(backend.to_string(), url.to_string())) {
                    self.engine.on_probe(now, &question, result);
                }
            }
            Call::Restore { levels, .. } => {
                self.engine.restore(now, levels);
            }
            Call::Load { backend, model, report } => self.engine.report_load(now, backend, model, *report),
            _ => {}
        }
    }

    fn decided(&mut self, ix: usize, t: u64, decision: Decision) {
        match decision {
            Decision::Forward(forward) => {
                let request = &self.trace.requests[ix];
                let backend = forward.backend().to_owned();
                let before =
                    self.done[ix].attempts.iter().filter(|attempt| attempt.backend == backend).count();
                let sent = t + u64::try_from(forward.send_after().as_nanos()).unwrap_or(0);
                let (modelled, known) = self.model.attempt(request, &backend, before, sent);
                if !known {
                    *self.unknown.entry(backend.clone()).or_default() += 1;
                }
                self.done[ix].rule = forward.rule().to_owned();
                self.done[ix].attempts.push(Attempted::begun(backend, sent));
                let number = self.done[ix].attempts.len();
                if let Some(first) = modelled.first {
                    self.at(sent + first, Event::First(ix, number));
                }
                self.at(sent + modelled.total, Event::End(ix, number));
                self.held.insert(ix, Held::Forward(forward, modelled));
            }
            Decision::Later(later) => {
                self.at(stamp(later.due()), Event::Turn(ix));
                self.held.insert(ix, Held::Later(later));
            }
            Decision::Wait(waiting) => {
                self.waiting.insert(waiting.ticket(), ix);
                self.held.insert(ix, Held::Waiting(waiting));
            }
            Decision::Refuse(refusal) => {
                self.done[ix].rule = refusal.rule.map(|rule| rule.to_string()).unwrap_or_default();
                let last = self.done[ix].attempts.last().and_then(|attempt| attempt.outcome);
                let refused = || Fate::Refused(refusal.reason.code().to_owned());
                self.close(ix, t, last.map_or_else(refused, Fate::Ended));
            }
        }
    }

    fn end(&mut self, ix: usize, t: u64) {
        if !matches!(self.held.get(&ix), Some(Held::Forward(..))) {
            return;
        }
        let Some(Held::Forward(forward, modelled)) = self.held.remove(&ix) else { return };
        self.note_end(ix, t, &modelled);
        let Modelled { outcome, usage, ref feedback, .. } = modelled;
        let end = End { outcome, usage, feedback };
        let begun = self.done[ix].attempts.last().is_some_and(|attempt| attempt.first.is_some());
        // As the server does: what failed before its first byte is tried again, as far as the policy goes.
        if !begun && (outcome.is_failure() || outcome == Outcome::Limited) {
            let decision = forward.retry(time(t), &end);
            self.decided(ix, t, decision);
        } else {
            forward.finish(time(t), &end);
            self.close(ix, t, Fate::Ended(outcome));
        }
    }

    fn close(&mut self, ix: usize, t: u64, fate: Fate) {
        self.done[ix].fate = fate;
        self.done[ix].ended = Some(t);
    }

    fn note_end(&mut self, ix: usize, t: u64, modelled: &Modelled) {
        if let Some(attempt) = self.done[ix].attempts.last_mut() {
            attempt.total = Some(t.saturating_sub(attempt.sent));
            attempt.outcome = Some(modelled.outcome);
            attempt.usage = modelled.usage;
        }
    }

    /// Decisions for those who wait.
    fn hand_out(&mut self, t: u64) {
        while let Some((ticket, decision)) = self.engine.take_ready() {
            let Some(ix) = self.waiting.remove(&ticket) else { continue };
            self.held.remove(&ix);
            self.done[ix].waited = Some(t.saturating_sub(self.done[ix].at));
            self.decided(ix, t, decision);
        }
    }
}
