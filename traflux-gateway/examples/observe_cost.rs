//! What does it cost to count a request? Prints nanoseconds, the best of many rounds.
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use traflux_gateway::PicoDollars;
use traflux_gateway::observe::{
    BackendModel, BandIx, Decider, DeciderIx, Metrics, MetricsLayout, MetricsSettings, ReasonIx,
    RequestRecord, Route, RouteIx, SeriesIx,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backends = 64u32;
    let layout = MetricsLayout {
        series: (0..backends).map(|b| BackendModel { backend: format!("b{b}"), model: "m".into() }).collect(),
        routes: (0..backends).map(|b| Route { rule: "r".into(), backend: format!("b{b}") }).collect(),
        deciders: vec![Decider { rule: "r".into(), algorithm: "peak_ewma".into() }],
        reasons: vec!["allowed".into(), "rate_limited".into()],
        bands: vec!["high".into(), "low".into()],
    };
    let metrics = Metrics::new(layout, &MetricsSettings::default())?;
    let requests: Vec<RequestRecord> = (0..1024u64)
        .map(|n| RequestRecord {
            input_tokens: 1000 + n,
            output_tokens: 100 + n % 64,
            cost: PicoDollars::new(1_000_000 * n),
            duration: Duration::from_micros(700_000 + n * 997),
            time_to_first_token: Some(Duration::from_micros(90_000 + n * 331)),
            ..RequestRecord::new(SeriesIx((n * 7 % u64::from(backends)) as u32))
        })
        .collect();
    // Under a profiler that counts instructions, one round is enough.
    let rounds = if std::env::args().any(|a| a == "--once") { 1 } else { 2000 };
    let all = |request: &RequestRecord| {
        let mut recorder = metrics.recorder();
        recorder.decision(DeciderIx(0), ReasonIx(0));
        recorder.pick(RouteIx(request.series.0));
        recorder.queue_wait(BandIx(0), request.duration);
        recorder.request(request);
    };
    let busy = metrics.recorder();
    let shared = best(rounds, &requests, all);
    drop(busy);
    let own = best(rounds, &requests, all);
    let request = best(rounds, &requests, |request| metrics.recorder().request(request));
    let decision = best(rounds, &requests, |_| metrics.recorder().decision(DeciderIx(0), ReasonIx(0)));
    let empty = best(rounds, &requests, |_| {
        black_box(metrics.recorder());
    });
    println!("take and release a recorder                              {empty:6.1} ns");
    println!("one decision                                             {decision:6.1} ns");
    println!("request: 4 counters, 3 histograms                        {request:6.1} ns");
    println!("decision + pick + wait + request (6 counters, 4 hist.)   {own:6.1} ns");
    println!("the same where the stripe is taken (atomic additions)    {shared:6.1} ns");
    Ok(())
}

fn best(rounds: usize, requests: &[RequestRecord], mut each: impl FnMut(&RequestRecord)) -> f64 {
    let round = |_| {
        let started = Instant::now();
        for request in requests {
            each(black_box(request));
        }
        started.elapsed().as_secs_f64() * 1e9 / requests.len() as f64
    };
    (0..rounds).map(round).fold(f64::INFINITY, f64::min)
}
