//! Requests through an engine in virtual time.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use traflux::gateway::read_plan;
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::congestion::Feedback;
use traflux_gateway::retry::Idempotence;
use traflux_gateway::{
    Client, Decision, End, Engine, EngineSettings, Forward, GatewayError, Outcome, Request, RequestFacts,
    TokenEstimate, Usage,
};

use crate::case::{Fields, Gave, compare};

/// The plan of an object or a text, checked.
fn plan_of(value: &Value) -> Result<RequestPlan, (&'static str, bool)> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let plan = read_plan(&text).map_err(|error| (error.code(), error.is_transient()))?;
    plan.validate().map_err(|error| (error.code(), error.is_transient()))?;
    Ok(plan)
}

fn coded(error: GatewayError) -> (&'static str, bool) {
    (error.code(), error.is_transient())
}

pub(crate) fn plan_error(input: &mut Fields<'_>) -> Gave {
    let settings = input.take("settings").map(|value| serde_json::from_value(value.clone()).unwrap());
    let plan = plan_of(input.take("plan").unwrap())?;
    Engine::new(&plan, &settings.unwrap_or_default(), Timestamp::ZERO).map_err(coded)?;
    Ok(Value::Null)
}

pub(crate) fn request_error(input: &mut Fields<'_>) -> Gave {
    RequestFacts::read(input.text("body").unwrap().as_bytes()).map_err(coded)?;
    Ok(Value::Null)
}

fn decide(engine: &Engine, fields: &Value, now: Timestamp) -> Decision {
    let mut fields = Fields::of(fields);
    let headers: BTreeMap<String, String> = fields
        .take("headers")
        .map(|value| serde_json::from_value::<BTreeMap<String, String>>(value.clone()).unwrap())
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name.to_lowercase(), value))
        .collect();
    let method = fields.text("method").unwrap_or("GET");
    let request = Request {
        method,
        path: fields.text("path").unwrap_or("/"),
        headers: &headers,
        client: Client { tenant: fields.text("tenant").unwrap_or(""), ..Client::default() },
        model: fields.text("model").unwrap_or(""),
        tokens: TokenEstimate {
            input: fields.count("input_tokens").unwrap_or(0),
            output: fields.count("output_tokens").unwrap_or(0),
        },
        max_answer: fields.count("max_answer_tokens"),
        idempotence: Idempotence::of_method(method, headers.contains_key("idempotency-key")),
        ..Request::default()
    };
    fields.all_read("a request");
    engine.decide(&request, now)
}

/// What a step says of an end.
fn said(step: &mut Fields<'_>, way: &Forward, now: Timestamp) -> (Outcome, Option<Usage>, Feedback) {
    let headers: BTreeMap<String, String> =
        step.take("headers").map(|value| serde_json::from_value(value.clone()).unwrap()).unwrap_or_default();
    let feedback = Feedback::read(
        headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        now.since_epoch(),
        way.feedback_plan(),
    );
    let outcome = match step.take("outcome").unwrap() {
        Value::String(name) => Outcome::ALL.into_iter().find(|outcome| outcome.name() == name).unwrap(),
        status => Outcome::of_status(
            u16::try_from(status.as_u64().unwrap()).unwrap(),
            headers.contains_key("retry-after"),
        ),
    };
    let tokens = ["input_tokens", "cached_tokens", "output_tokens"].map(|key| step.count(key));
    let usage = tokens.iter().any(Option::is_some).then(|| {
        let [input, cached, output] = tokens.map(Option::unwrap_or_default);
        Usage { input, cached, output }
    });
    (outcome, usage, feedback)
}

fn describe(decision: &Decision, now: Timestamp) -> Value {
    match decision {
        Decision::Forward(way) => json!({
            "kind": "forward", "backend": way.backend(), "url": way.url(), "rule": way.rule(),
            "algorithm": way.algorithm().to_string(), "attempt": way.attempt(),
        }),
        Decision::Wait(waiting) => json!({"kind": "wait", "position": waiting.outlook().position}),
        Decision::Later(turn) => json!({
            "kind": "later", "due_in_s": turn.after(now).as_secs_f64(), "limit": turn.limit().as_deref(),
            "rule": turn.rule(),
        }),
        Decision::Refuse(refusal) => json!({
            "kind": "refuse", "reason": refusal.reason.code(), "status": refusal.reason.status(),
            "rule": refusal.rule.as_deref(), "limit": refusal.limit.as_deref(),
            "retry_after_s": refusal.retry_after.map(|wait| wait.as_secs_f64()),
        }),
    }
}

pub(crate) fn decisions(input: &mut Fields<'_>, tolerance: f64) -> Gave {
    let steps = input.take("steps").unwrap().as_array().unwrap();
    let settings = input.take("settings").map(|value| serde_json::from_value(value.clone()).unwrap());
    let settings = EngineSettings { seed: input.count("seed").unwrap_or(0), ..settings.unwrap_or_default() };
    let start = Timestamp::from_secs_f64(steps[0]["at_s"].as_f64().unwrap());
    let engine = Engine::new(&plan_of(input.take("plan").unwrap())?, &settings, start).map_err(coded)?;
    let mut held: BTreeMap<String, Decision> = BTreeMap::new();
    let mut tickets = BTreeMap::new();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for (ix, step) in steps.iter().enumerate() {
        let place = format!("step {ix}");
        let mut step = Fields::of(step);
        let now = Timestamp::from_secs_f64(step.number("at_s").unwrap());
        let mut came: Option<(String, Decision)> = None;
        if step.has("decide") {
            let name = step.text("as").unwrap().to_owned();
            let decision = decide(&engine, step.take("decide").unwrap(), now);
            if let Decision::Wait(waiting) = &decision {
                tickets.insert(waiting.ticket(), name.clone());
            }
            came = Some((name, decision));
        } else if let Some(name) = step.text("finish") {
            let way = held.remove(name).unwrap().forward().unwrap();
            let (outcome, usage, feedback) = said(&mut step, &way, now);
            way.finish(now, &End { outcome, usage, feedback: &feedback });
        } else if let Some(name) = step.text("retry") {
            let way = held.remove(name).unwrap().forward().unwrap();
            let (outcome, usage, feedback) = said(&mut step, &way, now);
            came = Some((name.to_owned(), way.retry(now, &End { outcome, usage, feedback: &feedback })));
        } else if let Some(name) = step.text("first_byte") {
            let Some(Decision::Forward(way)) = held.get_mut(name) else { panic!("{place}: {name}") };
            way.first_byte(now);
        } else if let Some(name) = step.text("drop") {
            drop(held.remove(name).unwrap());
        } else if let Some(name) = step.text("go_on") {
            let Some(Decision::Later(turn)) = held.remove(name) else { panic!("{place}: {name}") };
            came = Some((name.to_owned(), turn.go_on(now)));
        } else if step.take("take_ready").is_some() {
            if let Some((ticket, decision)) = engine.take_ready() {
                came = Some((tickets[&ticket].clone(), decision));
            }
        } else if step.take("upkeep").is_some() {
            engine.upkeep(now);
        } else if let Some(plan) = step.take("reload") {
            let done = plan_of(plan).and_then(|plan| {
                let in_force = engine.settings();
                engine.reload(&plan, &in_force, now).map_err(coded)
            });
            assert_eq!(done.err().map(|error| error.0), step.text("error"), "{place}");
        } else {
            panic!("{place} does nothing");
        }
        let mut found = came.as_ref().map_or_else(|| json!({}), |(_, decision)| describe(decision, now));
        found["of"] = json!(came.as_ref().map(|(name, _)| name));
        if let Some((name, decision)) = came {
            if let Decision::Forward(way) = &decision {
                *counts.entry(way.backend().to_owned()).or_default() += 1;
            }
            held.insert(name, decision);
        }
        if let Some(expected) = step.take("expect") {
            compare(&found, expected, tolerance, &place);
        }
        step.all_read(&place);
    }
    Ok(json!({"counts": counts}))
}
