//! An engine tells what is unusual, and how fairly it shares.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::congestion::ConcurrencyPlan;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::health::Outcome;
use traflux_gateway::observe::{AnomalyEvent, Format, Signal};
use traflux_gateway::{Client, End, Engine, EngineSettings, Forward, Request, Rng, TokenEstimate, Usage};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(1_000_000.0 + seconds)
}

fn plan(json: &str) -> RequestPlan {
    serde_json::from_str(json).unwrap()
}

/// A second of 30 requests, of which some fail.
fn second(engine: &Engine, start: f64, failing: f64, rng: &mut Rng) {
    for n in 0..30 {
        let now = start + f64::from(n) / 30.0;
        let forward = engine.decide(&Request::default(), at(now)).forward().unwrap();
        // A mistake of the client's is no failure; here the backend's are too few for an ejection.
        let failed = rng.uniform() < failing;
        let outcome = if failed { Outcome::ServerError } else { Outcome::Success };
        forward.finish(at(now + 0.01), &End::of(outcome));
    }
    engine.upkeep(at(start + 1.0));
}

#[test]
fn errors_that_rise_are_told_shown_and_told_to_be_over() {
    let plan = plan(r#"{"routing": {"default": {"backend": "a", "health_check": false}}}"#);
    let engine = Engine::new(&plan, &EngineSettings::default(), at(0.0)).unwrap();
    let mut rng = Rng::new(1);
    let mut clock = 0..;
    let mut play = |seconds: usize, failing: f64| {
        for start in clock.by_ref().take(seconds) {
            second(&engine, f64::from(start), failing, &mut rng);
        }
    };
    play(600, 0.002);
    assert_eq!(engine.anomalies(), []);
    assert!(engine.take_anomaly_events().is_empty());
    play(60, 0.3);
    let anomalies = engine.anomalies();
    let [anomaly] = anomalies.as_slice() else { panic!("{anomalies:?}") };
    assert!(matches!(&anomaly.signal, Signal::Errors(of) if of.backend == "a"));
    // The window in which it began is in the mean.
    assert!(anomaly.shift.seen > 0.1 && anomaly.shift.usual < 0.01, "{anomaly}");
    // Noticed within two windows of ten seconds.
    assert!(anomaly.at <= at(621.0), "{:?}", anomaly.at);
    let shown = engine.scrape(at(660.0), Format::Prometheus);
    let line = "traflux_gateway_anomaly{signal=\"errors\",rule=\"\",backend=\"a\",model=\"\"} 1";
    assert!(shown.contains(line), "{shown}");
    play(200, 0.002);
    assert_eq!(engine.anomalies(), []);
    let events: Vec<_> = engine.take_anomaly_events();
    let [AnomalyEvent::Raised(_), AnomalyEvent::Cleared { .. }] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert!(!engine.scrape(at(860.0), Format::Prometheus).contains("traflux_gateway_anomaly{"));
}

#[test]
fn a_split_that_leaves_its_weights_is_told() {
    let plan = plan(
        r#"{"backends": {"a": {"url": "http://a"}, "b": {"url": "http://b"}},
            "routing": {"default": {"backend": ["a", "b"], "algorithm": "round-robin", "health_check": true}}}"#,
    );
    let engine = Engine::new(&plan, &EngineSettings::default(), at(0.0)).unwrap();
    let serve = |from: u32, b_fails: bool| {
        for second in from..from + 60 {
            for n in 0..50 {
                let now = f64::from(second) + f64::from(n) / 50.0;
                let Some(forward) = engine.decide(&Request::default(), at(now)).forward() else { continue };
                let fails = b_fails && forward.backend() == "b";
                let outcome = if fails { Outcome::ConnectFailure } else { Outcome::Success };
                forward.finish(at(now), &End::of(outcome));
            }
            engine.upkeep(at(f64::from(second) + 1.0));
        }
    };
    serve(0, false);
    assert_eq!(engine.anomalies(), []);
    serve(60, true);
    let split = |anomaly: &traflux_gateway::observe::Anomaly| matches!(&anomaly.signal, Signal::Split { .. });
    assert!(engine.anomalies().iter().any(split), "{:?}", engine.anomalies());
}

#[test]
fn a_tenant_that_is_crowded_out_lowers_the_index() {
    let mut plan = plan(r#"{"routing": {"default": {"backend": "a"}}, "queue": {"max_waiting": 0}}"#);
    plan.congestion.concurrency = Some(ConcurrencyPlan::fixed(4));
    let engine = Engine::new(&plan, &EngineSettings::default(), at(0.0)).unwrap();
    engine.upkeep(at(0.0));
    assert_eq!(engine.fairness(), None);
    let ask = |tenant: &'static str, now: f64| -> Option<Forward> {
        let request = Request {
            client: Client { tenant, ..Client::default() },
            tokens: TokenEstimate { input: 100, output: 100 },
            ..Request::default()
        };
        engine.decide(&request, at(now)).forward()
    };
    let minute = |start: f64, greedy: usize, modest: usize| {
        for second in 0..60 {
            let now = start + f64::from(second);
            // Whoever asks first in each second gets the four places.
            let first: Vec<_> = (0..greedy).filter_map(|_| ask("greedy", now)).collect();
            let last: Vec<_> = (0..modest).filter_map(|_| ask("modest", now)).collect();
            let usage = Some(Usage { input: 100, cached: 0, output: 100 });
            for forward in first.into_iter().chain(last) {
                forward.finish(at(now + 0.5), &End { usage, ..End::of(Outcome::Success) });
            }
            engine.upkeep(at(now + 1.0));
        }

        engine.fairness().unwrap()
    };
    let fair = minute(0.0, 2, 2);
    assert_eq!((fair.jain, fair.tenants), (1.0, 2));
    let unfair = minute(60.0, 8, 4);
    // One has everything and the other nothing of what both are entitled to.
    assert!(unfair.jain < 0.55, "{unfair:?}");
    let shown = engine.scrape(at(121.0), Format::Prometheus);
    assert!(shown.contains("traflux_gateway_fairness_jain_ratio{scope=\"tenants\"} 0.5"), "{shown}");
}

#[test]
fn after_a_day_the_engine_tells_when_a_limit_is_reached() {
    let plan = plan(
        r#"{"routing": {"default": {"backend": "a"}},
            "limits": [{"name": "daily", "unit": "requests", "amount": 100000000, "period_ms": 86400000},
                       {"name": "tight", "unit": "requests", "amount": 80, "period_ms": 60000}]}"#,
    );
    let engine = Engine::new(&plan, &EngineSettings::default(), at(0.0)).unwrap();
    for tick in 0..27 * 360 {
        let now = f64::from(tick) * 10.0;
        for _ in 0..10 {
            if let Some(forward) = engine.decide(&Request::default(), at(now)).forward() {
                forward.finish(at(now), &End::of(Outcome::Success));
            }
        }
        engine.upkeep(at(now));
    }
    let exhaustion = engine.exhaustion();
    // 60 a minute of 80 in a steady stream, and hardly anything of a hundred million a day.
    assert_eq!(exhaustion["daily"].within, None, "{exhaustion:?}");
    assert_eq!(exhaustion["tight"].within, None, "{exhaustion:?}");
    let shown = engine.scrape(at(27.0 * 3600.0), Format::Prometheus);
    assert!(shown.contains("traflux_gateway_exhaustion_seconds{limit=\"daily\"} +Inf"), "{shown}");
    let less = plan_with(&plan, 50.0);
    engine.reload(&less, &EngineSettings::default(), at(27.0 * 3600.0)).unwrap();
    // Three streams, one looked at in each window of ten seconds.
    for tick in 1..40 {
        engine.upkeep(at(27.0 * 3600.0 + f64::from(tick) * 10.0));
    }
    assert_eq!(engine.exhaustion()["tight"].within, Some(Duration::ZERO), "{:?}", engine.exhaustion());
}

fn plan_with(plan: &RequestPlan, amount: f64) -> RequestPlan {
    let mut plan = plan.clone();
    plan.limits[1].amount = amount;
    plan
}
