//! One tick without network: 1 flow × 100 endpoints, K = 10 (goal: p99 ≤ 5 ms), and larger fleets.
#![allow(missing_docs, clippy::print_stdout)]

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use traflux::Controller;
use traflux::core::Timestamp;
use traflux_benches::controller;

fn tick(controller: &mut Controller, turn: &mut u64) {
    *turn += 1;
    let at = Timestamp::new(Duration::from_secs(5 * *turn));
    let decision = controller.tick(at).now_or_never().expect("nothing here waits");
    assert!(decision.failures.is_empty(), "{:?}", decision.failures);
    assert!(*turn < 3 || decision.solver.is_some());
}

fn percentiles(flows: usize, endpoints: usize, k: usize, turns: usize) {
    let mut controller = controller(flows, endpoints, k);
    let mut turn = 0;
    let mut times: Vec<Duration> = (0..turns)
        .map(|_| {
            let began = Instant::now();
            tick(&mut controller, &mut turn);
            began.elapsed()
        })
        .collect();
    times.sort();
    let at = |q: f64| times[((turns - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    println!(
        "tick {flows} x {endpoints}, K = {k}: p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms over {turns} ticks",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn benches(criterion: &mut Criterion) {
    percentiles(1, 100, 10, 2000);
    percentiles(6, 100, 100, 500);
    percentiles(10, 1000, 1000, 50);
    criterion.bench_function("tick/1x100/k10", |bencher| {
        let mut controller = controller(1, 100, 10);
        let mut turn = 0;
        bencher.iter(|| tick(&mut controller, &mut turn));
    });
}

criterion_group!(group, benches);
criterion_main!(group);
