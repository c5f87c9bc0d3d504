//! What does it cost to record decisions? Prints nanoseconds and bytes per request, the median of rounds in turns.
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::decision_log::{LogReader, LogSettings, replay};
use traflux_gateway::health::Outcome;
use traflux_gateway::{Client, End, Engine, EngineSettings, Request, TokenEstimate, Usage};

const PLAN: &str = r#"{
    "backends": {
        "openai-basic": {"url": "https://api.openai.com", "models": {"gpt-5-mini": {}}},
        "anthropic-basic": {"url": "https://api.anthropic.com"}
    },
    "routing": {"rules": [
        {"name": "critical", "match": {"headers": {"x-priority": "critical"}}, "route": {"backend": "anthropic-basic"}},
        {"name": "chat", "match": {"path": "/v1/chat"},
         "route": {"backend": ["openai-basic", "anthropic-basic"], "algorithm": "least-latency"}}
    ]},
    "limits": [{"name": "tpm", "unit": "tokens", "amount": 1000000000000, "by": "tenant"}]
}"#;

/// Requests of one round: decision, first byte, end.
const REQUESTS: u64 = 20_000;

fn at(nanos: u64) -> Timestamp {
    Timestamp::new(Duration::from_nanos(1_763_900_000_000_000_000 + nanos))
}

fn request(engine: &Engine, nanos: u64) {
    let headers = [("x-priority", "normal"), ("user-agent", "bench")];
    let request = Request {
        method: "POST",
        path: "/v1/chat/completions",
        headers: &headers,
        client: Client { tenant: "acme", key: "ci", user: "", user_tier: "free" },
        model: "gpt-5-mini",
        tokens: TokenEstimate { input: 812, output: 1024 },
        stream: true,
        kind: "interactive",
        deadline: Some(at(nanos + 60_000_000_000)),
        ..Request::default()
    };
    if let Some(mut forward) = engine.decide(&request, at(nanos)).forward() {
        forward.first_byte(at(nanos + 400_000));
        let usage = Some(Usage { input: 812, cached: 0, output: 231 });
        forward.finish(at(nanos + 900_000), &End { usage, ..End::of(Outcome::Success) });
    }
}

/// Nanoseconds per request of one round on so many threads.
fn round(engine: &Engine, threads: u64, clock: &mut u64) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let start = *clock + thread * 100;
            scope.spawn(move || {
                for n in 0..REQUESTS / threads {
                    request(black_box(engine), start + n * 1_000_000);
                }
            });
        }
    });
    *clock += REQUESTS * 1_000_000;
    began.elapsed().as_nanos() as f64 / REQUESTS as f64
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plan: RequestPlan = serde_json::from_str(PLAN)?;
    let settings = EngineSettings::default();
    let room = LogSettings { buffer_bytes: 64 << 20 };
    for threads in [1, 2, 4] {
        let plain = Engine::new(&plan, &settings, at(0))?;
        let logged = Engine::with_log(&plan, &settings, &room, at(0))?;
        let log = logged.decision_log().ok_or("it has a log")?;
        let (mut off, mut on, mut bytes) = (Vec::new(), Vec::new(), 0);
        let (mut clock, mut lines) = (0, Vec::new());
        for _ in 0..25 {
            let mut same = clock;
            off.push(round(&plain, threads, &mut same));
            on.push(round(&logged, threads, &mut clock));
            log.take(&mut lines, false);
            bytes = lines.len();
        }
        let median = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let (off, on) = (median(&mut off), median(&mut on));
        println!(
            "{threads} threads: {off:.0} ns a request without a log, {on:.0} ns with one, {} bytes a request",
            bytes as u64 / REQUESTS
        );
    }
    let logged = Engine::with_log(&plan, &settings, &room, at(0))?;
    (0..2 * REQUESTS).for_each(|n| request(&logged, n * 1_000_000));
    let mut lines = Vec::new();
    logged.decision_log().ok_or("it has a log")?.take(&mut lines, false);
    let began = Instant::now();
    let done = replay(&mut LogReader::new(&lines[..]))?;
    println!(
        "replay: {:.0} ns a call, {} answers{}",
        began.elapsed().as_nanos() as f64 / done.calls as f64,
        done.answers,
        if done.difference.is_none() { ", all as recorded" } else { " DIFFER" }
    );
    Ok(())
}
