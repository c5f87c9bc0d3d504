//! Where does this request go, now or later, and if nowhere, why?
//!
//! What is decided stays here under a number; `index.js` puts an object around it that owns the number.

use std::cell::RefCell;

use napi::Result;
use napi::bindgen_prelude::{Uint8Array, Uint8ArraySlice};
use napi_derive::napi;
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::adapter::Clock;
use traflux_gateway::congestion::{Feedback, FeedbackSettings};
use traflux_gateway::observe::Format;
use traflux_gateway::queue::Ticket;
use traflux_gateway::{
    Decision, End, Engine, EngineSettings, Forward, Later, Outcome, Refusal, RequestFacts, TokenEstimator,
    Usage, Waiting,
};

use crate::errors::{coded, guarded, input};
use crate::request::{Numbers, count, pairs, timestamp, with_request};

/// What Node owns a number of.
enum Held {
    Forward(Forward),
    Wait(Waiting),
    Later(Later),
}

/// Decisions by number. Numbers are used again once their decision has ended.
#[derive(Default)]
struct Slots {
    held: Vec<Option<Held>>,
    free: Vec<u32>,
    refusal: Option<Refusal>,
}

impl Slots {
    fn put(&mut self, held: Held) -> u32 {
        match self.free.pop() {
            Some(slot) => {
                self.held[slot as usize] = Some(held);
                slot
            }
            None => {
                self.held.push(Some(held));
                (self.held.len() - 1) as u32
            }
        }
    }

    /// Four times the number, and what it is: 0 forward, 1 wait, 2 later, 3 refuse.
    fn answer(&mut self, decision: Decision) -> f64 {
        let (slot, kind) = match decision {
            Decision::Forward(way) => (self.put(Held::Forward(way)), 0),
            Decision::Wait(waiting) => (self.put(Held::Wait(waiting)), 1),
            Decision::Later(turn) => (self.put(Held::Later(turn)), 2),
            Decision::Refuse(refusal) => {
                self.refusal = Some(refusal);
                (0, 3)
            }
        };
        f64::from(slot) * 4.0 + f64::from(kind)
    }

    fn take(&mut self, slot: u32) -> Result<Held> {
        let held = self.held.get_mut(slot as usize).and_then(Option::take).ok_or_else(ended)?;
        self.free.push(slot);
        Ok(held)
    }

    fn get(&self, slot: u32) -> Result<&Held> {
        self.held.get(slot as usize).and_then(Option::as_ref).ok_or_else(ended)
    }

    fn forward(&mut self, slot: u32) -> Result<&mut Forward> {
        match self.held.get_mut(slot as usize).and_then(Option::as_mut) {
            Some(Held::Forward(way)) => Ok(way),
            _ => Err(ended()),
        }
    }
}

/// A refusal in words and numbers.
#[napi(object)]
pub struct RefusalView {
    /// Why: a stable name such as `limited`.
    pub reason: String,
    /// HTTP status to answer with.
    pub status: u32,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The limit that refused.
    pub limit: Option<String>,
    /// Milliseconds after which to come back.
    pub retry_after_ms: Option<f64>,
    /// In words.
    pub message: String,
}

/// Somebody's turn in a queue.
#[napi(object)]
pub struct ReadyView {
    /// As [`NativeEngine::wait_view`] gives it.
    pub ticket: String,
    /// As [`NativeEngine::decide`] gives it.
    pub answer: f64,
}

/// What was before a request when it began to wait.
#[napi(object)]
pub struct WaitView {
    /// Its name while it waits.
    pub ticket: String,
    /// Requests before it.
    pub position: u32,
    /// Their tokens.
    pub tokens_before: f64,
    /// Milliseconds after which it starts, where that is known.
    pub starts_in_ms: Option<f64>,
}

/// What a body says of a call of a language model.
#[napi(object)]
pub struct FactsView {
    /// The model.
    pub model: String,
    /// Tokens read, estimated.
    pub input_tokens: f64,
    /// Most tokens written.
    pub output_tokens: f64,
    /// Most tokens of one answer.
    pub max_answer_tokens: Option<f64>,
    /// Whether a stream is asked for.
    pub stream: bool,
}

/// The engine behind `Engine` of `index.js`.
#[napi]
pub struct NativeEngine {
    engine: Engine,
    clock: Clock,
    slots: RefCell<Slots>,
}

#[napi]
impl NativeEngine {
    /// From a plan as YAML or JSON, and settings as JSON.
    #[napi(constructor)]
    pub fn new(plan: String, settings: Option<String>, now_ms: f64) -> Result<Self> {
        guarded(|| {
            let clock = Clock::start();
            let (plan, settings) = (read_plan(&plan)?, read_settings(settings.as_deref())?);
            let engine = Engine::new(&plan, &settings, time(&clock, now_ms)?).map_err(coded)?;
            Ok(Self { engine, clock, slots: RefCell::default() })
        })
    }

    /// Decides; see [`crate::request`] for the arguments.
    #[napi]
    pub fn decide(
        &self,
        text: String,
        headers: u32,
        claims: u32,
        input: f64,
        output: f64,
        max_answer: f64,
        flags: u32,
        bytes: f64,
        deadline_ms: f64,
        now_ms: f64,
    ) -> Result<f64> {
        let numbers = Numbers { headers, claims, input, output, max_answer, flags, bytes, deadline_ms };
        self.decide_with(&text, &numbers, &[], now_ms)
    }

    /// The same with a prompt, whose beginning is compared to find caches of it.
    #[napi]
    pub fn decide_prompt(
        &self,
        text: String,
        headers: u32,
        claims: u32,
        input: f64,
        output: f64,
        max_answer: f64,
        flags: u32,
        bytes: f64,
        deadline_ms: f64,
        now_ms: f64,
        prompt: Uint8ArraySlice<'_>,
    ) -> Result<f64> {
        let numbers = Numbers { headers, claims, input, output, max_answer, flags, bytes, deadline_ms };
        self.decide_with(&text, &numbers, &prompt, now_ms)
    }

    fn decide_with(&self, text: &str, numbers: &Numbers, prompt: &[u8], now_ms: f64) -> Result<f64> {
        guarded(|| {
            let now = time(&self.clock, now_ms)?;
            let decision = with_request(text, numbers, prompt, |request| self.engine.decide(request, now))?;
            Ok(self.slots.borrow_mut().answer(decision))
        })
    }

    /// What the engine would look at, in words.
    #[napi]
    pub fn explain(
        &self,
        text: String,
        headers: u32,
        claims: u32,
        input: f64,
        output: f64,
        max_answer: f64,
        flags: u32,
        bytes: f64,
        deadline_ms: f64,
        now_ms: f64,
    ) -> Result<String> {
        guarded(|| {
            let numbers = Numbers { headers, claims, input, output, max_answer, flags, bytes, deadline_ms };
            let now = time(&self.clock, now_ms)?;
            with_request(&text, &numbers, &[], |request| self.engine.explain(request, now).to_string())
        })
    }

    /// The refusal that came last; it is asked for at once.
    #[napi]
    pub fn take_refusal(&self) -> Result<RefusalView> {
        guarded(|| {
            let refusal = self.slots.borrow_mut().refusal.take().ok_or_else(ended)?;
            Ok(RefusalView {
                reason: refusal.reason.code().to_owned(),
                status: u32::from(refusal.reason.status()),
                rule: refusal.rule.as_deref().map(str::to_owned),
                limit: refusal.limit.as_deref().map(str::to_owned),
                retry_after_ms: refusal.retry_after.map(|wait| wait.as_secs_f64() * 1e3),
                message: refusal.to_string(),
            })
        })
    }

    /// Backend, URL, rule and algorithm of a forward, apart by NUL.
    #[napi]
    pub fn describe(&self, slot: u32) -> Result<String> {
        guarded(|| match self.slots.borrow().get(slot)? {
            Held::Forward(way) => {
                Ok(format!("{}\0{}\0{}\0{}", way.backend(), way.url(), way.rule(), way.algorithm()))
            }
            Held::Wait(_) | Held::Later(_) => Err(ended()),
        })
    }

    /// Which attempt a forward is, from 1.
    #[napi]
    pub fn attempt(&self, slot: u32) -> Result<u32> {
        guarded(|| Ok(self.slots.borrow_mut().forward(slot)?.attempt() as u32))
    }

    /// Milliseconds to wait before sending.
    #[napi]
    pub fn send_after(&self, slot: u32) -> Result<f64> {
        guarded(|| Ok(self.slots.borrow_mut().forward(slot)?.send_after().as_secs_f64() * 1e3))
    }

    /// The first byte of the answer has come.
    #[napi]
    pub fn first_byte(&self, slot: u32, now_ms: f64) -> Result<()> {
        guarded(|| {
            let now = time(&self.clock, now_ms)?;
            self.slots.borrow_mut().forward(slot)?.first_byte(now);
            Ok(())
        })
    }

    /// Its stream is quiet.
    #[napi]
    pub fn pause(&self, slot: u32, now_ms: f64) -> Result<()> {
        guarded(|| {
            let now = time(&self.clock, now_ms)?;
            self.slots.borrow_mut().forward(slot)?.pause(now);
            Ok(())
        })
    }

    /// Its stream goes on.
    #[napi]
    pub fn resume(&self, slot: u32) -> Result<()> {
        guarded(|| {
            self.slots.borrow_mut().forward(slot)?.resume();
            Ok(())
        })
    }

    /// Settles a forward: `outcome` is an HTTP status, or −1 less the place of a name in [`outcome_names`]; numbers
    /// of tokens are NaN where nothing is said.
    #[napi]
    pub fn finish(
        &self,
        slot: u32,
        outcome: i32,
        input: f64,
        cached: f64,
        output: f64,
        now_ms: f64,
        headers: Option<String>,
        header_count: u32,
    ) -> Result<()> {
        guarded(|| {
            let now = time(&self.clock, now_ms)?;
            let (outcome, feedback) = said(outcome, headers.as_deref(), header_count, now)?;
            let usage = usage(input, cached, output)?;
            let Held::Forward(way) = self.take_forward(slot)? else { return Err(ended()) };
            way.finish(now, &End { outcome, usage, feedback: &feedback });
            Ok(())
        })
    }

    /// Settles an attempt and looks for another one.
    #[napi]
    pub fn retry(
        &self,
        slot: u32,
        outcome: i32,
        input: f64,
        cached: f64,
        output: f64,
        now_ms: f64,
        headers: Option<String>,
        header_count: u32,
    ) -> Result<f64> {
        guarded(|| {
            let now = time(&self.clock, now_ms)?;
            let (outcome, feedback) = said(outcome, headers.as_deref(), header_count, now)?;
            let usage = usage(input, cached, output)?;
            let Held::Forward(way) = self.take_forward(slot)? else { return Err(ended()) };
            let decision = way.retry(now, &End { outcome, usage, feedback: &feedback });
            Ok(self.slots.borrow_mut().answer(decision))
        })
    }

    fn take_forward(&self, slot: u32) -> Result<Held> {
        let mut slots = self.slots.borrow_mut();
        slots.forward(slot)?;
        slots.take(slot)
    }

    /// Ends whatever it is: cancels a forward, leaves a queue, gives back a turn.
    #[napi]
    pub fn drop_slot(&self, slot: u32) -> Result<()> {
        guarded(|| {
            let held = self.slots.borrow_mut().take(slot)?;
            drop(held);
            Ok(())
        })
    }

    /// Milliseconds until the turn of a later comes.
    #[napi]
    pub fn due_in(&self, slot: u32, now_ms: f64) -> Result<f64> {
        guarded(|| match self.slots.borrow().get(slot)? {
            Held::Later(turn) => Ok(turn.after(time(&self.clock, now_ms)?).as_secs_f64() * 1e3),
            Held::Forward(_) | Held::Wait(_) => Err(ended()),
        })
    }

    /// Rule and limit of a later, apart by NUL.
    #[napi]
    pub fn describe_later(&self, slot: u32) -> Result<String> {
        guarded(|| match self.slots.borrow().get(slot)? {
            Held::Later(turn) => Ok(format!("{}\0{}", turn.rule(), turn.limit().as_deref().unwrap_or(""))),
            Held::Forward(_) | Held::Wait(_) => Err(ended()),
        })
    }

    /// What becomes of a later.
    #[napi]
    pub fn go_on(&self, slot: u32, now_ms: f64) -> Result<f64> {
        guarded(|| {
            let now = time(&self.clock, now_ms)?;
            let mut slots = self.slots.borrow_mut();
            if !matches!(slots.get(slot)?, Held::Later(_)) {
                return Err(ended());
            }
            let Held::Later(turn) = slots.take(slot)? else { return Err(ended()) };
            let decision = turn.go_on(now);
            Ok(slots.answer(decision))
        })
    }

    /// What a wait looks forward to.
    #[napi]
    pub fn wait_view(&self, slot: u32) -> Result<WaitView> {
        guarded(|| match self.slots.borrow().get(slot)? {
            Held::Wait(waiting) => {
                let outlook = waiting.outlook();
                Ok(WaitView {
                    ticket: ticket(waiting.ticket()),
                    position: outlook.position,
                    tokens_before: outlook.tokens_before as f64,
                    starts_in_ms: outlook.starts_in.map(|time| time.as_secs_f64() * 1e3),
                })
            }
            Held::Forward(_) | Held::Later(_) => Err(ended()),
        })
    }

    /// The next decision for somebody who waits.
    #[napi]
    pub fn take_ready(&self) -> Result<Option<ReadyView>> {
        guarded(|| {
            let Some((name, decision)) = self.engine.take_ready() else { return Ok(None) };
            let answer = self.slots.borrow_mut().answer(decision);
            Ok(Some(ReadyView { ticket: ticket(name), answer }))
        })
    }

    /// The answer to Prometheus.
    #[napi]
    pub fn metrics(&self, openmetrics: bool, now_ms: f64) -> Result<String> {
        guarded(|| {
            let format = if openmetrics { Format::OpenMetrics } else { Format::Prometheus };
            Ok(self.engine.scrape(time(&self.clock, now_ms)?, format))
        })
    }

    /// Puts another plan in force.
    #[napi]
    pub fn reload(&self, plan: String, settings: Option<String>, now_ms: f64) -> Result<()> {
        guarded(|| {
            let (plan, settings) = (read_plan(&plan)?, read_settings(settings.as_deref())?);
            self.engine.reload(&plan, &settings, time(&self.clock, now_ms)?).map_err(coded)
        })
    }

    /// Does what time alone brings.
    #[napi]
    pub fn upkeep(&self, now_ms: f64) -> Result<()> {
        guarded(|| {
            self.engine.upkeep(time(&self.clock, now_ms)?);
            Ok(())
        })
    }

    /// Weights of a rule under `adaptive`.
    #[napi]
    pub fn set_weights(
        &self,
        rule: String,
        names: Vec<String>,
        weights: Vec<u32>,
        now_ms: f64,
    ) -> Result<()> {
        guarded(|| {
            let now = time(&self.clock, now_ms)?;
            let weights: Vec<(&str, u32)> = names.iter().map(String::as_str).zip(weights).collect();
            self.engine.set_weights(now, &rule, &weights);
            Ok(())
        })
    }

    /// The plan in force as JSON, with every default.
    #[napi]
    pub fn plan(&self) -> Result<String> {
        guarded(|| serde_json::to_string(&*self.engine.plan()).map_err(|error| input("input_plan", error)))
    }

    /// How many decisions have not ended.
    #[napi]
    pub fn open(&self) -> u32 {
        let slots = self.slots.borrow();
        (slots.held.len() - slots.free.len()) as u32
    }

    /// Milliseconds since 1970 by its clock, which never goes back.
    #[napi]
    pub fn now(&self) -> f64 {
        self.clock.now().as_secs_f64() * 1e3
    }
}

/// Names of outcomes, in the order of their numbers.
#[napi]
pub fn outcome_names() -> Vec<String> {
    Outcome::ALL.map(|outcome| outcome.name().to_owned()).to_vec()
}

/// What the body of a call of a language model says.
#[napi]
pub fn read_request(body: Uint8Array) -> Result<FactsView> {
    guarded(|| {
        let facts = RequestFacts::read(&body).map_err(coded)?;
        let estimate = TokenEstimator::default().estimate(&facts);
        Ok(FactsView {
            input_tokens: estimate.input as f64,
            output_tokens: estimate.output as f64,
            max_answer_tokens: facts.max_answer.map(|tokens| tokens as f64),
            stream: facts.stream,
            model: facts.model.into_owned(),
        })
    })
}

fn time(clock: &Clock, now_ms: f64) -> Result<Timestamp> {
    if now_ms.is_nan() { Ok(clock.now()) } else { timestamp(now_ms) }
}

fn read_plan(text: &str) -> Result<RequestPlan> {
    let plan = traflux::gateway::read_plan(text).map_err(coded)?;
    plan.validate().map_err(coded)?;
    Ok(plan)
}

fn read_settings(text: Option<&str>) -> Result<EngineSettings> {
    text.map_or_else(
        || Ok(EngineSettings::default()),
        |text| serde_json::from_str(text).map_err(|error| input("input_settings", error)),
    )
}

fn ticket((room, ticket): (usize, Ticket)) -> String {
    format!("{room:x}.{:x}", ticket.get())
}

fn usage(input: f64, cached: f64, output: f64) -> Result<Option<Usage>> {
    if input.is_nan() && output.is_nan() {
        return Ok(None);
    }
    let tokens = |value: f64, what| if value.is_nan() { Ok(0) } else { count(value, what) };
    Ok(Some(Usage {
        input: tokens(input, "inputTokens")?,
        cached: tokens(cached, "cachedTokens")?,
        output: tokens(output, "outputTokens")?,
    }))
}

fn said(outcome: i32, headers: Option<&str>, count: u32, now: Timestamp) -> Result<(Outcome, Feedback)> {
    let headers = pairs(headers.unwrap_or_default(), count)?;
    let has_retry_after = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
    let feedback = if headers.is_empty() {
        Feedback::NONE
    } else {
        let bytes = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Feedback::read(bytes, now.since_epoch(), &FeedbackSettings::default())
    };
    let outcome = match u16::try_from(outcome) {
        Ok(status) => Outcome::of_status(status, has_retry_after),
        Err(_) => *usize::try_from(-1 - i64::from(outcome))
            .ok()
            .and_then(|ix| Outcome::ALL.get(ix))
            .ok_or_else(|| input("input_outcome", format!("{outcome} is no outcome")))?,
    };
    Ok((outcome, feedback))
}

fn ended() -> napi::Error {
    input("input_ended", "it has ended; a decision ends once")
}
