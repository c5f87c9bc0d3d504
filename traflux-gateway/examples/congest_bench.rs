//! What do the fast paths of congestion control, health and retries cost?
//!
//! `cargo run --release -p traflux-gateway --example congest_bench`: medians and quartiles over interleaved
//! rounds, in nanoseconds per call on one thread.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use traflux_core::Timestamp;
use traflux_core::plan::retry::HedgePlan;
use traflux_gateway::Rng;
use traflux_gateway::congestion::{
    BackendSignal, Ceiling, ConcurrencyLimit, ConcurrencyPlan, CoolDown, CoolDownPlan, Feedback,
    FeedbackPlan, LoadReport, Sample, SignalPlan, Throttle, ThrottlePlan,
};
use traflux_gateway::health::{Entry, HealthGroup, HealthPlan, Outcome};
use traflux_gateway::retry::{BudgetPlan, Hedge, RetryBudget};

const ROUNDS: usize = 41;
const CALLS: u64 = 100_000;

fn main() {
    let limit = ConcurrencyLimit::new(&ConcurrencyPlan::default());
    let throttle = Throttle::new(&ThrottlePlan::default());
    let group = HealthGroup::new(&HealthPlan::default(), 64);
    let signal = BackendSignal::new(&SignalPlan::default());
    signal.report(Timestamp::ZERO, LoadReport { waiting: Some(1.0), ..LoadReport::default() }, 0);
    let cool_down = CoolDown::new(&CoolDownPlan::default());
    let ceiling = Ceiling::default();
    let budget = RetryBudget::new(BudgetPlan::default());
    let hedge = Hedge::new(HedgePlan::default());
    let settings = FeedbackPlan::default();
    let headers: [(&[u8], &[u8]); 12] = [
        (b"content-type", b"text/event-stream"),
        (b"date", b"Tue, 27 Jan 2026 10:16:00 GMT"),
        (b"x-request-id", b"req_0123456789abcdef"),
        (b"server", b"cloudflare"),
        (b"openai-processing-ms", b"312"),
        (b"x-ratelimit-limit-requests", b"10000"),
        (b"x-ratelimit-limit-tokens", b"2000000"),
        (b"x-ratelimit-remaining-requests", b"9999"),
        (b"x-ratelimit-remaining-tokens", b"1999984"),
        (b"x-ratelimit-reset-requests", b"6ms"),
        (b"x-ratelimit-reset-tokens", b"120ms"),
        (b"vary", b"Origin"),
    ];
    let at = |step: u64| Timestamp::new(Duration::from_nanos(step * 10_000));
    let mut rng = Rng::new(1);

    type Case<'a> = (&'a str, Box<dyn FnMut(u64) + 'a>);
    let mut cases: Vec<Case<'_>> = vec![
        (
            "nothing (loop and call)",
            Box::new(|step| {
                let _ = black_box(at(step));
            }),
        ),
        (
            "concurrency: acquire + release",
            Box::new(|step| {
                if let Ok(slot) = limit.try_acquire(step as usize & 3) {
                    limit.release(black_box(slot));
                }
            }),
        ),
        (
            "concurrency: acquire + observe + release",
            Box::new(|step| {
                if let Ok(slot) = limit.try_acquire(step as usize & 3) {
                    limit.observe(
                        at(step),
                        &slot,
                        Sample::Latency(Duration::from_nanos(300_000_000 + step % 1000)),
                    );
                    limit.release(slot);
                }
            }),
        ),
        (
            "throttle: decide + accepted, band 3",
            Box::new(|step| {
                let _ = black_box(throttle.decide(at(step), 3, rng.next_u64()));
                throttle.accepted(at(step), 3);
            }),
        ),
        (
            "health: eligibility",
            Box::new(|step| {
                let _ = black_box(group.eligibility(at(step), step as usize & 63));
            }),
        ),
        (
            "health: enter + record success",
            Box::new(|step| {
                let endpoint = step as usize & 63;
                let entry = group.try_enter(at(step), endpoint).unwrap_or(Entry::Normal);
                group.record(at(step), endpoint, entry, Outcome::Success);
            }),
        ),
        (
            "signal: saturation",
            Box::new(|step| {
                let _ = black_box(signal.saturation(at(step), 5, 20));
            }),
        ),
        (
            "cool-down: share + served",
            Box::new(|step| {
                black_box(cool_down.share(at(step)));
                cool_down.served(at(step));
            }),
        ),
        (
            "ceiling: take",
            Box::new(|step| {
                let _ = black_box(ceiling.take(at(step), 1));
            }),
        ),
        ("retry budget: request", Box::new(|step| budget.request(at(step)))),
        (
            "hedge: observe + delay",
            Box::new(|step| {
                hedge.observe(Duration::from_nanos(100_000_000 + (step % 100) * 1_000_000));
                black_box(hedge.delay());
            }),
        ),
        (
            "feedback: 12 headers, 6 of rate limits",
            Box::new(|step| {
                let now = Duration::from_secs(1_769_508_900 + step % 2);
                black_box(Feedback::read(black_box(headers), now, &settings));
            }),
        ),
    ];
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for round in 0..ROUNDS as u64 {
        for ((_, call), times) in cases.iter_mut().zip(&mut times) {
            let start = Instant::now();
            for step in round * CALLS..(round + 1) * CALLS {
                call(step);
            }
            times.push(start.elapsed().as_nanos() as f64 / CALLS as f64);
        }
    }
    println!("{:<44} {:>8} {:>8} {:>8} {:>8}", "ns per call", "min", "q1", "median", "q3");
    for ((name, _), times) in cases.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let of = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!("{name:<44} {:>8.1} {:>8.1} {:>8.1} {:>8.1}", of(0.0), of(0.25), of(0.5), of(0.75));
    }
}
