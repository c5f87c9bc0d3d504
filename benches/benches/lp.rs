//! How long does one solve take, by size of the fleet?
//!
//! `cold` starts from shares in proportion to capacity, `changed` from the optimum of a moment before with
//! demand changed by up to 3 %, which is what a control loop sees. Curves have 13 tangents.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use traflux_lp::sample::Fleet;

fn solve(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lp");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    for (flows, endpoints, movable) in [(1, 100, 10), (1, 100, 100), (6, 100, 100), (10, 1000, 1000)] {
        let fleet = Fleet { movable, ..Fleet::new(flows, endpoints, 1) };
        let cold = fleet.problem();
        let mut solver = traflux_lp::TransportSolver::new();
        let now = traflux_core::WeightSolver::solve(&mut solver, &cold).expect("the sample is feasible");
        let changed = fleet.later(&cold, now.split.shares());
        for (state, problem) in [("cold", &cold), ("changed", &changed)] {
            for name in traflux_lp::available() {
                // The general programs need seconds for the largest fleet; `examples/latency` says how many.
                if name != "transport" && flows * movable > 1000 {
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
