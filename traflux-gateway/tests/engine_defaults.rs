//! What an engine does that was told nothing but a plan.
#![allow(clippy::unwrap_used)]

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::congestion::ConcurrencyPlan;
use traflux_gateway::health::Outcome;
use traflux_gateway::{
    Decision, End, Engine, EngineSettings, Forward, Reason, Request, TokenEstimate, Usage,
};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(1_000.0 + seconds)
}

fn engine(json: &str, limit: u32) -> Engine {
    let mut plan: RequestPlan = serde_json::from_str(json).unwrap();
    plan.congestion.concurrency = Some(ConcurrencyPlan::fixed(limit));
    Engine::new(&plan, &EngineSettings::default(), at(0.0)).unwrap()
}

fn forward(decision: Decision) -> Forward {
    decision.forward().unwrap()
}

/// Sends requests one after another that take as long as these.
fn teach(engine: &Engine, request: &Request<'_>, from: f64, seconds: impl Iterator<Item = f64>) -> f64 {
    let mut now = from;
    for taken in seconds {
        let sent = forward(engine.decide(request, at(now)));
        now += taken;
        sent.finish(at(now), &End::of(Outcome::Success));
    }
    now
}

#[test]
fn a_request_that_finds_no_room_waits() {
    let engine = engine(r#"{"routing": {"default": {"backend": "a"}}}"#, 1);
    let _held = forward(engine.decide(&Request::default(), at(0.0)));
    assert!(matches!(engine.decide(&Request::default(), at(0.0)), Decision::Wait(_)));
}

#[test]
fn every_band_may_fill_the_limit_since_the_queue_knows_who_goes_first() {
    let engine = engine(r#"{"routing": {"default": {"backend": "a"}}}"#, 20);
    let batch = Request { kind: "batch", ..Request::default() };
    let mut held: Vec<_> = (0..20).map(|_| forward(engine.decide(&batch, at(0.0)))).collect();
    let Decision::Wait(lower) = engine.decide(&batch, at(0.0)) else { panic!() };
    let better = Request { kind: "interactive", ..Request::default() };
    let Decision::Wait(better) = engine.decide(&better, at(0.0)) else { panic!() };
    held.pop().unwrap().finish(at(0.1), &End::of(Outcome::Success));
    assert_eq!(engine.take_ready().unwrap().0, better.ticket());
    assert!(lower.outlook_now(at(0.1)).is_some());
}

/// Two backends of one place each, one of which takes 1 s and the other 3 s, which is known.
fn unequal() -> (Engine, f64) {
    let engine = engine(
        r#"{"routing": {"rules": [
                {"name": "quick", "match": {"path": "/quick"}, "route": {"backend": "quick"}},
                {"name": "slow", "match": {"path": "/slow"}, "route": {"backend": "slow"}}],
            "default": {"backend": ["quick", "slow"], "algorithm": "round-robin"}}}"#,
        1,
    );
    let to = |path| Request { path, ..Request::default() };
    let now = teach(&engine, &to("/quick"), 0.0, (0..200).map(|_| 1.0));
    let now = teach(&engine, &to("/slow"), now, (0..200).map(|_| 3.0));
    (engine, now)
}

#[test]
fn a_deadline_counts_with_the_slower_backends_too() {
    let (engine, now) = unequal();
    let held: Vec<_> = (0..2).map(|_| forward(engine.decide(&Request::default(), at(now)))).collect();
    // 1 s and 3 s to the sixteenth above: some 2.1 s, so it has to start within 7.9 s and not 8.9 s.
    let asked = Request { deadline: Some(at(now + 10.0)), ..Request::default() };
    let Decision::Wait(waiting) = engine.decide(&asked, at(now)) else { panic!() };
    engine.upkeep(at(now + 7.5));
    assert!(engine.take_ready().is_none());
    engine.upkeep(at(now + 8.3));
    let (ticket, decision) = engine.take_ready().unwrap();
    assert_eq!(ticket, waiting.ticket());
    assert!(matches!(decision, Decision::Refuse(refusal) if matches!(refusal.reason, Reason::Dropped(_))));
    drop(held);
}

#[test]
fn who_has_less_time_than_the_slowest_take_and_more_than_most_do_is_let_in() {
    let engine = engine(r#"{"routing": {"default": {"backend": "a"}}}"#, 1);
    // One of twenty takes 4 s, the others half a second.
    let now = teach(&engine, &Request::default(), 0.0, (0..200).map(|n| if n % 20 == 0 { 4.0 } else { 0.5 }));
    let _held = forward(engine.decide(&Request::default(), at(now)));
    let within = |seconds| Request { deadline: Some(at(now + seconds)), ..Request::default() };
    let Decision::Wait(waiting) = engine.decide(&within(2.0), at(now)) else { panic!() };
    assert!(matches!(engine.decide(&within(0.4), at(now)), Decision::Refuse(_)), "most would be late");
    // It waits for a fifth of its time.
    engine.upkeep(at(now + 0.35));
    assert!(engine.take_ready().is_none());
    engine.upkeep(at(now + 0.45));
    assert_eq!(engine.take_ready().unwrap().0, waiting.ticket());
}

#[test]
fn answers_are_expected_to_be_as_long_as_answers_were_and_not_as_they_may_be() {
    // 0.1 s to the first token and 40 ms for each, against 0.6 s and 10 ms: even at 17 tokens.
    let json = r#"{"routing": {"rules": [
            {"name": "prompt", "match": {"path": "/prompt"}, "route": {"backend": "prompt"}},
            {"name": "swift", "match": {"path": "/swift"}, "route": {"backend": "swift"}}],
        "default": {"backend": ["prompt", "swift"], "algorithm": "least-latency"}}}"#;
    let engine = engine(json, 100);
    let asked = |path| Request {
        path,
        stream: true,
        tokens: TokenEstimate { input: 0, output: 400 },
        ..Request::default()
    };
    let mut now = 0.0;
    let mut play = |path, tokens: u64| {
        let mut sent = forward(engine.decide(&asked(path), at(now)));
        let (first, each) = if sent.backend() == "prompt" { (0.1, 0.04) } else { (0.6, 0.01) };
        now += first;
        sent.first_byte(at(now));
        now += each * (tokens - 1) as f64;
        let backend = sent.backend().to_owned();
        let usage = Some(Usage { input: 0, cached: 0, output: tokens });
        sent.finish(at(now), &End { usage, ..End::of(Outcome::Success) });
        backend
    };
    for _ in 0..40 {
        play("/prompt", 5);
        play("/swift", 5);
    }
    let mut settled = |tokens: u64| (0..200).map(|_| play("/", tokens)).skip(180).collect::<Vec<_>>();
    let short = settled(5);
    assert!(short.iter().filter(|backend| *backend == "prompt").count() >= 19, "{short:?}");
    let long = settled(200);
    assert!(long.iter().filter(|backend| *backend == "swift").count() >= 19, "{long:?}");
}

#[test]
fn a_session_yields_when_its_backend_has_more_than_twice_its_share() {
    use traflux_gateway::affinity::{AffinityKey, AffinityPlan, Session, Stay};
    use traflux_gateway::balance::{BalanceSettings, EndpointTable, LatencyPlan, Member, PickRequest, Pool};

    let table = EndpointTable::new(&LatencyPlan::default());
    let members = ["a", "b", "c", "d"].map(|name| Member::new(table.endpoint(name, at(0.0)), 1));
    let pool = Pool::new(BalanceSettings::default(), members, 1).unwrap();
    let session = Session::new(&AffinityPlan::default()).unwrap();
    let key = AffinityKey::of(b"ann");
    let pick = || session.pick(&pool, &PickRequest::new(at(0.0), 7), key).unwrap();
    let home = pick().position;
    for position in 0..4 {
        pool.start(position, 0);
    }
    // ⌈2·(4 + 1)/4⌉ = 3 may be there, then ⌈2·(6 + 1)/4⌉ = 4, and with six of nine ⌈2·10/4⌉ = 5.
    for _ in 0..2 {
        assert_eq!(pick().stay, Stay::Kept);
        pool.start(home, 0);
    }
    for _ in 0..3 {
        pool.start(home, 0);
    }
    assert_eq!(pick().stay, Stay::Overflowed);
}
