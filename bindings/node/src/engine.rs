//! Where does this request go, now or later, and if nowhere, why?
//!
//! Engines and decisions stay here under numbers; `lib/engine.js` puts objects around them that own the numbers.

mod slots;
mod values;
mod views;

use napi::Result;
use napi::bindgen_prelude::{Uint8Array, Uint8ArraySlice};
use napi_derive::napi;
use traflux_gateway::adapter::Clock;
use traflux_gateway::observe::Format;
use traflux_gateway::{End, Engine, EngineSettings, Outcome, RequestFacts, TokensPlan};

use self::slots::{Held, Hosted, Slots, ended, with};
use self::values::{read_plan, read_settings, said, ticket, usage};
use self::views::{FactsView, ReadyView, RefusalView, WaitView};
use crate::errors::{coded, guarded, input};
use crate::request::{count, timestamp, with_request};

/// An engine from a plan as YAML or JSON, and settings as JSON: its number.
#[napi]
pub fn engine_new(plan: String, settings: Option<String>, now_ms: f64) -> Result<u32> {
    guarded(|| {
        let clock = Clock::start();
        let now = if now_ms.is_nan() { clock.now() } else { timestamp(now_ms)? };
        let settings = read_settings(&EngineSettings::default(), settings.as_deref())?;
        let engine = Engine::new(&read_plan(&plan)?, &settings, now).map_err(coded)?;
        Ok(slots::keep(Hosted { engine, clock, slots: Slots::default().into() }))
    })
}

/// Forgets an engine, with whatever it holds.
#[napi]
pub fn engine_drop(engine: u32) -> Result<()> {
    guarded(|| {
        slots::forget(engine);
        Ok(())
    })
}

/// Decides about a block as [`crate::request`] describes it: four times the number of the decision, and what it is (0
/// forward, 1 wait, 2 later, 3 refuse).
#[napi]
pub fn engine_decide(engine: u32, block: Uint8ArraySlice<'_>, now_ms: f64) -> Result<u32> {
    decide_with(engine, &block, &[], now_ms)
}

/// The same with a prompt, whose beginning is compared to find caches of it.
#[napi]
pub fn engine_decide_prompt(
    engine: u32,
    block: Uint8ArraySlice<'_>,
    now_ms: f64,
    prompt: Uint8ArraySlice<'_>,
) -> Result<u32> {
    decide_with(engine, &block, &prompt, now_ms)
}

fn decide_with(engine: u32, block: &[u8], prompt: &[u8], now_ms: f64) -> Result<u32> {
    with(engine, |hosted| {
        let now = hosted.time(now_ms)?;
        let decision = with_request(block, prompt, |request| hosted.engine.decide(request, now))?;
        Ok(hosted.slots.borrow_mut().answer(decision))
    })
}

/// What the engine would look at, in words.
#[napi]
pub fn engine_explain(engine: u32, block: Uint8ArraySlice<'_>, now_ms: f64) -> Result<String> {
    with(engine, |hosted| {
        let now = hosted.time(now_ms)?;
        with_request(&block, &[], |request| hosted.engine.explain(request, now).to_string())
    })
}

/// The refusal that came last; it is asked for at once.
#[napi]
pub fn engine_take_refusal(engine: u32) -> Result<RefusalView> {
    with(engine, |hosted| {
        let refusal = hosted.slots.borrow_mut().refusal.take().ok_or_else(ended)?;
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

/// The number of what [`engine_words`] says of a forward: there are few such texts, so JavaScript keeps them.
#[napi]
pub fn engine_describe(engine: u32, slot: u32) -> Result<u32> {
    with(engine, |hosted| hosted.slots.borrow_mut().describe(slot))
}

/// Backend, URL, rule and algorithm of a forward, apart by NUL.
#[napi]
pub fn engine_words(engine: u32, slot: u32) -> Result<String> {
    with(engine, |hosted| {
        let mut words = String::new();
        hosted.slots.borrow_mut().write_words(slot, &mut words)?;
        Ok(words)
    })
}

/// Which attempt a forward is, from 1.
#[napi]
pub fn engine_attempt(engine: u32, slot: u32) -> Result<u32> {
    with(engine, |hosted| Ok(hosted.slots.borrow_mut().forward(slot)?.attempt() as u32))
}

/// Milliseconds to wait before sending.
#[napi]
pub fn engine_send_after(engine: u32, slot: u32) -> Result<f64> {
    with(engine, |hosted| Ok(hosted.slots.borrow_mut().forward(slot)?.send_after().as_secs_f64() * 1e3))
}

/// The first byte of the answer has come.
#[napi]
pub fn engine_first_byte(engine: u32, slot: u32, now_ms: f64) -> Result<()> {
    with(engine, |hosted| {
        let now = hosted.time(now_ms)?;
        hosted.slots.borrow_mut().forward(slot)?.first_byte(now);
        Ok(())
    })
}

/// Its stream is quiet.
#[napi]
pub fn engine_pause(engine: u32, slot: u32, now_ms: f64) -> Result<()> {
    with(engine, |hosted| {
        let now = hosted.time(now_ms)?;
        hosted.slots.borrow_mut().forward(slot)?.pause(now);
        Ok(())
    })
}

/// Its stream goes on.
#[napi]
pub fn engine_resume(engine: u32, slot: u32) -> Result<()> {
    with(engine, |hosted| {
        hosted.slots.borrow_mut().forward(slot)?.resume();
        Ok(())
    })
}

/// Settles a forward: `outcome` is an HTTP status, or −1 less the place of a name in [`outcome_names`]; numbers of
/// tokens are NaN where nothing is said.
#[napi]
pub fn engine_finish(
    engine: u32,
    slot: u32,
    outcome: i32,
    input: f64,
    cached: f64,
    output: f64,
    now_ms: f64,
    headers: Option<String>,
    header_count: u32,
) -> Result<()> {
    with(engine, |hosted| {
        let now = hosted.time(now_ms)?;
        let usage = usage(input, cached, output)?;
        let mut slots = hosted.slots.borrow_mut();
        let settings = slots.forward(slot)?.feedback_plan();
        let (outcome, feedback) = said(outcome, headers.as_deref(), header_count, now, settings)?;
        let way = slots.take_forward(slot)?;
        drop(slots);
        way.finish(now, &End { outcome, usage, feedback: &feedback });
        Ok(())
    })
}

/// Settles an attempt and looks for another one.
#[napi]
pub fn engine_retry(
    engine: u32,
    slot: u32,
    outcome: i32,
    input: f64,
    cached: f64,
    output: f64,
    now_ms: f64,
    headers: Option<String>,
    header_count: u32,
) -> Result<u32> {
    with(engine, |hosted| {
        let now = hosted.time(now_ms)?;
        let usage = usage(input, cached, output)?;
        let mut slots = hosted.slots.borrow_mut();
        let settings = slots.forward(slot)?.feedback_plan();
        let (outcome, feedback) = said(outcome, headers.as_deref(), header_count, now, settings)?;
        let way = slots.take_forward(slot)?;
        drop(slots);
        let decision = way.retry(now, &End { outcome, usage, feedback: &feedback });
        Ok(hosted.slots.borrow_mut().answer(decision))
    })
}

/// Ends whatever it is: cancels a forward, leaves a queue, gives back a turn.
#[napi]
pub fn engine_drop_slot(engine: u32, slot: u32) -> Result<()> {
    with(engine, |hosted| {
        let held = hosted.slots.borrow_mut().take(slot)?;
        drop(held);
        Ok(())
    })
}

/// Milliseconds until the turn of a later comes.
#[napi]
pub fn engine_due_in(engine: u32, slot: u32, now_ms: f64) -> Result<f64> {
    with(engine, |hosted| match hosted.slots.borrow().get(slot)? {
        Held::Later(turn) => Ok(turn.after(hosted.time(now_ms)?).as_secs_f64() * 1e3),
        Held::Forward(_) | Held::Wait(_) => Err(ended()),
    })
}

/// Rule and limit of a later, apart by NUL.
#[napi]
pub fn engine_describe_later(engine: u32, slot: u32) -> Result<String> {
    with(engine, |hosted| match hosted.slots.borrow().get(slot)? {
        Held::Later(turn) => Ok(format!("{}\0{}", turn.rule(), turn.limit().as_deref().unwrap_or(""))),
        Held::Forward(_) | Held::Wait(_) => Err(ended()),
    })
}

/// What becomes of a later.
#[napi]
pub fn engine_go_on(engine: u32, slot: u32, now_ms: f64) -> Result<u32> {
    with(engine, |hosted| {
        let now = hosted.time(now_ms)?;
        let mut slots = hosted.slots.borrow_mut();
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
pub fn engine_wait_view(engine: u32, slot: u32) -> Result<WaitView> {
    with(engine, |hosted| match hosted.slots.borrow().get(slot)? {
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

/// Whether a wait has not left the queue.
#[napi]
pub fn engine_is_waiting(engine: u32, slot: u32) -> Result<bool> {
    with(engine, |hosted| match hosted.slots.borrow().get(slot)? {
        Held::Wait(waiting) => Ok(waiting.outlook_now(hosted.clock.now()).is_some()),
        Held::Forward(_) | Held::Later(_) => Err(ended()),
    })
}

/// The next decision for somebody who waits.
#[napi]
pub fn engine_take_ready(engine: u32) -> Result<Option<ReadyView>> {
    with(engine, |hosted| {
        let Some((name, decision)) = hosted.engine.take_ready() else { return Ok(None) };
        let answer = hosted.slots.borrow_mut().answer(decision);
        Ok(Some(ReadyView { ticket: ticket(name), answer }))
    })
}

/// The answer to Prometheus.
#[napi]
pub fn engine_metrics(engine: u32, openmetrics: bool, now_ms: f64) -> Result<String> {
    with(engine, |hosted| {
        let format = if openmetrics { Format::OpenMetrics } else { Format::Prometheus };
        Ok(hosted.engine.scrape(hosted.time(now_ms)?, format))
    })
}

/// Puts another plan in force.
#[napi]
pub fn engine_reload(engine: u32, plan: String, settings: Option<String>, now_ms: f64) -> Result<()> {
    with(engine, |hosted| {
        let settings = read_settings(&hosted.engine.settings(), settings.as_deref())?;
        let plan = read_plan(&plan)?;
        hosted.engine.reload(&plan, &settings, hosted.time(now_ms)?).map_err(coded)
    })
}

/// Does what time alone brings.
#[napi]
pub fn engine_upkeep(engine: u32, now_ms: f64) -> Result<()> {
    with(engine, |hosted| {
        hosted.engine.upkeep(hosted.time(now_ms)?);
        Ok(())
    })
}

/// Weights of a rule under `adaptive`.
#[napi]
pub fn engine_set_weights(
    engine: u32,
    rule: String,
    names: Vec<String>,
    weights: Vec<f64>,
    now_ms: f64,
) -> Result<()> {
    with(engine, |hosted| {
        let now = hosted.time(now_ms)?;
        let weights = names
            .iter()
            .zip(weights)
            .map(|(name, weight)| {
                let whole = count(weight, &format!("the weight of {name}"))?;
                let whole = u32::try_from(whole).map_err(|_| {
                    input("input_count", format!("the weight of {name} is {whole}, expected less than 2^32"))
                })?;
                Ok((name.as_str(), whole))
            })
            .collect::<Result<Vec<(&str, u32)>>>()?;
        hosted.engine.set_weights(now, &rule, &weights).map_err(coded)
    })
}

/// The plan in force as JSON, with every default.
#[napi]
pub fn engine_plan(engine: u32) -> Result<String> {
    with(engine, |hosted| {
        serde_json::to_string(&*hosted.engine.plan()).map_err(|error| input("input_plan", error))
    })
}

/// How many decisions have not ended.
#[napi]
pub fn engine_open(engine: u32) -> Result<u32> {
    with(engine, |hosted| Ok(hosted.slots.borrow().open()))
}

/// Milliseconds since 1970 by its clock, which never goes back.
#[napi]
pub fn engine_now(engine: u32) -> Result<f64> {
    with(engine, |hosted| Ok(hosted.clock.now().as_secs_f64() * 1e3))
}

/// Names of outcomes, in the order of their numbers.
#[napi]
pub fn outcome_names() -> Result<Vec<String>> {
    guarded(|| Ok(Outcome::ALL.map(|outcome| outcome.name().to_owned()).to_vec()))
}

/// What the body of a call of a language model says; its tokens by the plan of an engine, where one is named.
#[napi]
pub fn read_request(body: Uint8Array, engine: Option<u32>) -> Result<FactsView> {
    guarded(|| {
        let facts = RequestFacts::read(&body).map_err(coded)?;
        let estimate = match engine {
            Some(engine) => with(engine, |hosted| Ok(facts.estimate(&hosted.engine.plan().tokens)))?,
            None => facts.estimate(&TokensPlan::default()),
        };
        Ok(FactsView {
            input_tokens: estimate.input as f64,
            output_tokens: estimate.output as f64,
            max_answer_tokens: facts.max_answer.map(|tokens| tokens as f64),
            stream: facts.stream,
            prompt: facts.prompt.to_vec().into(),
            model: facts.model.into_owned(),
        })
    })
}
