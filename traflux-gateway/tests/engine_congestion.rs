//! What a plan says of cool-downs, reports of load and headers of backends.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::congestion::{Feedback, LoadReport};
use traflux_gateway::{Decision, End, Engine, EngineSettings, Forward, Outcome, Request};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(1_000.0 + seconds)
}

/// `a`, and `b` for what `a` does not take.
fn engine(congestion: &str) -> Engine {
    let plan = format!(
        r#"{{"routing": {{"default": {{"backend": "a", "fallback": "b"}}}}, "congestion": {congestion}}}"#
    );
    let plan: RequestPlan = serde_json::from_str(&plan).unwrap();
    Engine::new(&plan, &EngineSettings::default(), at(0.0)).unwrap()
}

fn forward(engine: &Engine, seconds: f64) -> Forward {
    match engine.decide(&Request::default(), at(seconds)) {
        Decision::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

fn chosen(engine: &Engine, seconds: f64) -> String {
    forward(engine, seconds).backend().to_owned()
}

#[test]
fn a_backend_is_left_alone_for_as_long_as_the_plan_says() {
    let plan = |base_ms: u32| {
        format!(
            r#"{{"cool_down": {{"base_ms": {base_ms}, "max_ms": 60000, "spread": 0, "ramp_ms": 0, "first_share": 1}}}}"#
        )
    };
    for (base_ms, back) in [(1_000, 1.0), (30_000, 30.0)] {
        let engine = engine(&plan(base_ms));
        forward(&engine, 0.0).finish(at(0.0), &End::of(Outcome::Limited));
        assert_eq!(chosen(&engine, back - 0.01), "b", "{base_ms} ms");
        assert_eq!(chosen(&engine, back + 0.01), "a", "{base_ms} ms");
    }
}

#[test]
fn a_report_of_load_means_full_where_the_plan_says_and_as_long_as_it_says() {
    let report = LoadReport { waiting: Some(8.0), cache_use: Some(0.5), ..LoadReport::default() };
    for (signal, first, later) in [
        // A queue of 5 is full; after 2 s a report begins to fade, and 1.6 times full fades to less than full by 9 s.
        ("{}", "b", "a"),
        (r#"{"queue_full": 20}"#, "a", "a"),
        (r#"{"queue_full": 20, "cache_full": 0.5}"#, "b", "a"),
        (r#"{"fresh_ms": 60000, "expiry_ms": 120000}"#, "b", "b"),
    ] {
        let engine = engine(&format!(r#"{{"signal": {signal}}}"#));
        let held = forward(&engine, 0.0);
        assert_eq!(held.backend(), "a");
        engine.report_load(at(0.0), "a", "", report);
        assert_eq!(
            (chosen(&engine, 0.5).as_str(), chosen(&engine, 9.0).as_str()),
            (first, later),
            "{signal}"
        );
    }
}

#[test]
fn a_wait_that_a_backend_states_is_believed_as_far_as_the_plan_says() {
    let headers: [(&[u8], &[u8]); 1] = [(b"retry-after", b"300")];
    for (feedback, back) in [(r#"{"max_wait_ms": 20000}"#, 20.0), ("{}", 300.0)] {
        let cool_down = r#"{"spread": 0, "ramp_ms": 0, "first_share": 1}"#;
        let engine = engine(&format!(r#"{{"feedback": {feedback}, "cool_down": {cool_down}}}"#));
        let first = forward(&engine, 0.0);
        let feedback = Feedback::read(headers, Duration::ZERO, first.feedback_plan());
        first.finish(at(0.0), &End { feedback: &feedback, ..End::of(Outcome::Limited) });
        assert_eq!((chosen(&engine, back - 0.01), chosen(&engine, back + 0.01)), ("b".into(), "a".into()));
    }
}
