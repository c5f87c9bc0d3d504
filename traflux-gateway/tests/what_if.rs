//! A log by request: under another plan, and as a basis of planning.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::decision_log::{LogReader, LogSettings, Planning, Trace, csv, side_by_side, what_if};
use traflux_gateway::health::Outcome;
use traflux_gateway::{
    Client, Decision, End, Engine, EngineSettings, Forward, Request, TokenEstimate, Usage,
};

const SECOND: u64 = 1_000_000_000;

fn at(nanos: u64) -> Timestamp {
    Timestamp::new(Duration::from_nanos(1_700_006_400 * SECOND + nanos))
}

fn plan(backends: &str, more: &str) -> RequestPlan {
    let json = format!(
        r#"{{"backends": {{
                "fast": {{"url": "http://fast", "price": {{"output_dollars_per_million": 10}}}},
                "slow": {{"url": "http://slow", "price": {{"output_dollars_per_million": 1}}}}}},
            "routing": {{"default": {{"backend": {backends}, "algorithm": "round-robin"}}}} {more}}}"#
    );
    serde_json::from_str(&json).unwrap()
}

/// How long a backend takes.
fn service(backend: &str) -> u64 {
    if backend == "fast" { SECOND / 10 } else { SECOND / 2 }
}

/// One request every `gap`, each answered after its backend's time with 100 tokens.
fn record(plan: &RequestPlan, requests: u64, gap: u64) -> Trace {
    let engine = Engine::with_log(plan, &EngineSettings::default(), &LogSettings::default(), at(0)).unwrap();
    let mut open: BTreeMap<(u64, u64), Forward> = BTreeMap::new();
    let end_until = |open: &mut BTreeMap<(u64, u64), Forward>, now: u64| {
        while let Some(entry) = open.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((end, _), forward) = entry.remove_entry();
            let usage = Some(Usage { input: 50, cached: 0, output: 100 });
            forward.finish(at(end), &End { usage, ..End::of(Outcome::Success) });
        }
    };
    for n in 0..requests {
        let now = n * gap;
        end_until(&mut open, now);
        if n % 20 == 0 {
            engine.upkeep(at(now));
        }
        let request = Request {
            client: Client { tenant: if n % 4 == 0 { "small" } else { "large" }, ..Client::default() },
            model: "m",
            tokens: TokenEstimate { input: 50, output: 400 },
            ..Request::default()
        };
        if let Decision::Forward(forward) = engine.decide(&request, at(now)) {
            open.insert((now + service(forward.backend()), n), forward);
        }
    }
    end_until(&mut open, u64::MAX);
    let mut lines = Vec::new();
    engine.decision_log().unwrap().take(&mut lines, false);
    Trace::read(&mut LogReader::new(&lines[..])).unwrap()
}

#[test]
fn under_the_same_plan_the_model_is_the_record() {
    let trace = record(&plan(r#"["fast", "slow"]"#, ""), 1000, SECOND / 20);
    let result = what_if(&trace, &trace.header.plan.clone()).unwrap();
    assert_eq!(result.recorded.succeeded, 1000);
    assert_eq!(result.modelled, result.recorded);
    assert_eq!(result.other, result.recorded);
    assert_eq!(result.caveats, Vec::<String>::new());
}

#[test]
fn under_another_plan_requests_take_the_times_of_the_backends_they_go_to() {
    let trace = record(&plan(r#"["fast", "slow"]"#, ""), 1000, SECOND / 20);
    let result = what_if(&trace, &plan(r#""slow""#, "")).unwrap();
    let (recorded, other) = (&result.recorded, &result.other);
    assert_eq!((recorded.models["m"].p50, recorded.models["m"].p95), (0.1, 0.5));
    assert_eq!((other.models["m"].p50, other.models["m"].p99), (0.5, 0.5));
    // The adaptive limit on requests in flight may look for its bound for a moment.
    assert!(other.succeeded >= 970 && other.succeeded == other.backends["slow"].attempts, "{other:?}");
    // 100,000 tokens written, half at ten dollars a million and half at one; then all at one.
    let expected = other.succeeded as f64 * 1e-4;
    assert!((recorded.dollars - 0.55).abs() < 1e-9 && (other.dollars - expected).abs() < 1e-9, "{other:?}");
    // Little's law: 20 a second for half a second are ten, of which five were seen before.
    assert_eq!((recorded.backends["slow"].peak_in_flight, other.backends["slow"].peak_in_flight), (5, 10));
    assert!(
        result.caveats.iter().any(|caveat| caveat.contains("never had more than 5")),
        "{:?}",
        result.caveats
    );
    let table = side_by_side(&[recorded, &result.modelled, other]);
    let text = csv(&["recorded", "same", "other"], &table);
    assert!(text.contains(&format!("slow: attempts,500,500,{}\n", other.succeeded)), "{text}");
    assert!(text.contains("fast: attempts,500,500,\n"), "{text}");
}

#[test]
fn limits_of_another_plan_refuse_and_backends_without_record_are_named() {
    let trace = record(&plan(r#"["fast", "slow"]"#, ""), 600, SECOND / 10);
    let limit = r#", "limits": [{"name": "rpm", "unit": "requests", "amount": 60, "period_ms": 60000, "by": "tenant"}]"#;
    let result = what_if(&trace, &plan(r#""fresh""#, limit)).unwrap();
    // In a minute, each tenant may have its burst of 60 and 60 more that flow back: of 450 and 150 requests.
    let refused = result.other.refused["limited"];
    assert!((600 - 240..=600 - 238).contains(&refused), "{refused}");
    let served = 600 - refused;
    let named =
        format!("backend `fresh` has no record: its {served} attempts take the times of all other backends");
    assert!(result.caveats.contains(&named), "{:?}", result.caveats);
    let looks = plan(r#""fast""#, "");
    let mut looks_further = looks.clone();
    looks_further.limits = serde_json::from_str(
        r#"[{"name": "l", "unit": "requests", "amount": 5, "by": {"header": "x-team"}}]"#,
    )
    .unwrap();
    let result = what_if(&trace, &looks_further).unwrap();
    assert!(result.caveats[0].contains("header `x-team`"), "{:?}", result.caveats);
}

#[test]
fn planning_counts_demand_by_minute_and_forecasts_limits() {
    let limit = r#", "limits": [{"name": "rpm", "unit": "requests", "amount": 30, "period_ms": 60000},
        {"name": "tokens", "unit": "tokens", "amount": 1000000, "period_ms": 60000, "by": "tenant"}]"#;
    // Ten a minute for 26 hours.
    let trace = record(&plan(r#"["fast", "slow"]"#, limit), 26 * 600, 6 * SECOND);
    let planning = Planning::of(&trace, 0).unwrap();
    assert_eq!(planning.minutes, 26 * 60 - 1);
    let stream = |kind: &str, name: &str| {
        planning.streams.iter().find(|stream| stream.kind == kind && stream.name == name).unwrap()
    };
    let all = stream("all", "");
    assert!((all.peak_minute.0 - 10.0 / 60.0).abs() < 1e-9);
    assert!(all.profile.as_ref().is_some_and(|profile| (profile.peak_factor().0 - 1.0).abs() < 1e-6));
    let (small, large) = (stream("tenant", "small").total, stream("tenant", "large").total);
    assert!((2.9..3.1).contains(&(large.requests as f64 / small.requests as f64)));
    assert_eq!(large.tokens, large.requests * 150);
    let rpm = planning.limits.iter().find(|limit| limit.name == "rpm").unwrap();
    assert!((rpm.allowed - 0.5).abs() < 1e-9 && (rpm.mean - 1.0 / 6.0).abs() < 1e-3, "{rpm:?}");
    let headroom = rpm.headroom.unwrap();
    assert!((headroom.factor - 3.0).abs() < 0.05, "{headroom:?}");
    assert_eq!(headroom.exhaustion.within, None);
    assert!(planning.limits.iter().any(|limit| limit.name == "tokens of large"));
}
