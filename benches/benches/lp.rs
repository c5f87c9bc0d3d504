//! How long does one solve take, by size of the fleet? (Goals, every route movable: p99 ≤ 20 ms for 6 × 100,
//! ≤ 200 ms for 10 × 1000.)
//!
//! `cold` starts from shares in proportion to capacity, `changed` from the optimum of a moment before with
//! demand changed by up to 3 %, which is what a control loop sees. Curves have 13 tangents.
#![allow(missing_docs, clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use traflux_core::{SplitProblem, WeightSolver as _};
use traflux_lp::TransportSolver;
use traflux_lp::sample::Fleet;

fn cold_and_changed(fleet: Fleet) -> (SplitProblem, SplitProblem) {
    let cold = fleet.problem();
    let now = TransportSolver::new().solve(&cold).expect("the sample is feasible");
    let changed = fleet.later(&cold, now.split.shares());
    (cold, changed)
}

/// Percentiles of the default solver over fleets of one size, one line per state.
fn percentiles(flows: usize, endpoints: usize, seeds: u64, goal_ms: f64) {
    let mut times = [Vec::new(), Vec::new()];
    for seed in 1..=seeds {
        let (cold, changed) = cold_and_changed(Fleet::new(flows, endpoints, seed));
        for (problem, times) in [cold, changed].iter().zip(&mut times) {
            let mut solver = TransportSolver::new();
            let began = Instant::now();
            black_box(solver.solve(black_box(problem))).expect("the sample is feasible");
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    for (state, mut times) in ["cold", "changed"].into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        // Nearest rank.
        let at = |q: f64| times[((times.len() as f64 * q).ceil() as usize).max(1) - 1];
        let verdict = if at(0.99) <= goal_ms { "met" } else { "missed" };
        println!(
            "lp {flows} x {endpoints}, all movable, {state}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms over {} fleets; \
             goal p99 <= {goal_ms:.0} ms {verdict}",
            at(0.5),
            at(0.99),
            at(1.0),
            times.len()
        );
    }
}

fn solve(criterion: &mut Criterion) {
    percentiles(6, 100, 400, 20.0);
    percentiles(10, 1000, 100, 200.0);
    let mut group = criterion.benchmark_group("lp");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    for (flows, endpoints, movable) in [(1, 100, 10), (1, 100, 100), (6, 100, 100), (10, 1000, 1000)] {
        let (cold, changed) = cold_and_changed(Fleet { movable, ..Fleet::new(flows, endpoints, 1) });
        for (state, problem) in [("cold", &cold), ("changed", &changed)] {
            for name in traflux_lp::available() {
                // The general programs need seconds for the largest fleet; `examples/latency` says how many.
                if name != TransportSolver::NAME && flows * movable > 1000 {
                    continue;
                }
                let mut solver = traflux_lp::by_name(name).expect("an available solver");
                let id = BenchmarkId::new(name, format!("{flows}x{endpoints}/{movable} movable/{state}"));
                group.bench_with_input(id, problem, |bencher, problem| {
                    bencher.iter(|| {
                        black_box(solver.solve(black_box(problem))).expect("the sample is feasible")
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, solve);
criterion_main!(benches);
