//! On small problems every split of a grid can be tried.

mod common;

use common::solvers;
use traflux_core::{Objective, SplitProblem, TwoStage};
use traflux_lp::check::{Audit, audit};

/// All rows of `routes` shares in steps of `1/steps`.
fn rows(routes: usize, steps: usize) -> Vec<Vec<f64>> {
    fn fill(left: usize, routes: usize, row: &mut Vec<usize>, out: &mut Vec<Vec<usize>>) {
        if routes == 1 {
            row.push(left);
            out.push(row.clone());
            row.pop();
            return;
        }
        for taken in 0..=left {
            row.push(taken);
            fill(left - taken, routes - 1, row, out);
            row.pop();
        }
    }
    let mut out = Vec::new();
    fill(steps, routes, &mut Vec::new(), &mut out);
    out.into_iter().map(|row| row.into_iter().map(|n| n as f64 / steps as f64).collect()).collect()
}

/// Every split of the grid that is within bounds.
fn grid(problem: &SplitProblem, steps: usize) -> Vec<Audit> {
    let mut splits: Vec<Vec<f64>> = vec![Vec::new()];
    for flow in 0..problem.demand.len() {
        let range = problem.flow_offsets[flow]..problem.flow_offsets[flow + 1];
        let rows: Vec<Vec<f64>> = rows(range.len(), steps)
            .into_iter()
            .filter(|row| {
                let bounds = &problem.routes[range.clone()];
                row.iter().zip(bounds).all(|(w, r)| *w >= r.lower - 1e-12 && *w <= r.upper + 1e-12)
            })
            .collect();
        splits = splits.iter().flat_map(|s| rows.iter().map(|r| [s.as_slice(), r].concat())).collect();
    }
    splits.iter().map(|shares| audit(problem, shares).expect("one share per route")).collect()
}

fn small(seed: u64) -> (SplitProblem, usize) {
    let (flows, endpoints, steps) = [(1, 2, 2000), (1, 3, 120), (2, 2, 150), (2, 3, 14)][seed as usize % 4];
    let mut problem = common::random_of(seed, |_| (flows, endpoints));
    for resource in &mut problem.resources {
        resource.capacity = resource.capacity.max(problem.demand[0] * 0.3);
    }
    for route in &mut problem.routes {
        // Bounds on the grid, so that the grid has splits.
        (route.lower, route.upper) = (0.0, if seed.is_multiple_of(3) { 0.5 } else { 1.0 });
    }
    if let Objective::TwoStage(TwoStage { slack, budget_per_hour, .. }) = &mut problem.objective {
        *slack = 0.05;
        *budget_per_hour = None;
    }
    (problem, steps)
}

#[test]
fn no_split_of_a_grid_is_better_and_the_best_of_a_fine_grid_is_close() {
    for seed in 0..40 {
        let (problem, steps) = small(seed);
        let Objective::TwoStage(goal) = &problem.objective else { unreachable!() };
        let tried = grid(&problem, steps);
        let least = tried.iter().map(|a| a.utilization).fold(f64::INFINITY, f64::min);
        for (name, mut solver) in solvers() {
            let solution = solver.solve(&problem).unwrap();
            let what = format!("{name}, seed {seed}");
            assert!(solution.theta <= least * (1.0 + 1e-9), "{what}: {} > {least}", solution.theta);
            // One step of the grid moves at most the greatest demand over the least capacity.
            let step = problem.demand.iter().sum::<f64>()
                / problem.resources.iter().map(|r| r.capacity).fold(f64::INFINITY, f64::min)
                / steps as f64;
            assert!(solution.theta >= least - step, "{what}: {} < {least} - {step}", solution.theta);

            let cap = goal.max_utilization.max((1.0 + goal.slack) * solution.theta);
            let allowed = tried.iter().filter(|a| a.utilization <= cap);
            let best = allowed.map(|a| a.objective).fold(f64::INFINITY, f64::min);
            assert!(solution.objective <= best * (1.0 + 1e-7), "{what}: {} > {best}", solution.objective);
            // Two routes in 2000 steps are fine enough to come close from above.
            if steps >= 2000 && best.is_finite() {
                assert!(solution.objective >= best * (1.0 - 5e-3), "{what}: {} < {best}", solution.objective);
            }
        }
    }
}
