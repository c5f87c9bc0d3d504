//! Duals are what they say: seconds that a little more, or a little less, would cost.

mod common;

use common::solvers;
use traflux_core::{Objective, SplitProblem, WeightSolver};

/// A problem whose caps do not depend on `θ*`, so that the optimum is convex in demand and in caps.
fn free(seed: u64) -> SplitProblem {
    let mut problem = common::random_of(seed, |_| (1 + (seed % 3) as usize, 2 + (seed % 5) as usize));
    let capacity: f64 = problem.resources.iter().map(|r| r.capacity).sum();
    let demand: f64 = problem.demand.iter().sum();
    for resource in &mut problem.resources {
        resource.background = 0.0;
        resource.capacity = resource.capacity.max(0.01 * capacity);
    }
    let capacity: f64 = problem.resources.iter().map(|r| r.capacity).sum();
    problem.demand.iter_mut().for_each(|d| *d *= 0.5 * capacity / demand);
    for route in &mut problem.routes {
        (route.lower, route.upper) = (0.002, 1.0);
    }
    if let Objective::TwoStage(goal) = &mut problem.objective {
        goal.max_utilization = 0.75;
        goal.slack = 0.0;
        goal.budget_per_hour = None;
    }
    problem
}

fn objective(solver: &mut dyn WeightSolver, problem: &SplitProblem) -> f64 {
    solver.solve(problem).expect("a feasible problem").objective
}

#[test]
fn a_demand_dual_lies_between_what_one_less_saves_and_one_more_costs() {
    for (name, mut solver) in solvers() {
        for seed in 0..25 {
            let problem = free(seed);
            let solution = solver.solve(&problem).unwrap();
            assert!(solution.theta < 0.75, "{name}, seed {seed}: theta {}", solution.theta);
            for flow in 0..problem.demand.len() {
                let step = 1e-3 * problem.demand[flow];
                let at = |solver: &mut dyn WeightSolver, sign: f64| {
                    let mut moved = problem.clone();
                    moved.demand[flow] += sign * step;
                    objective(solver, &moved)
                };
                let more = (at(solver.as_mut(), 1.0) - solution.objective) / step;
                let less = (solution.objective - at(solver.as_mut(), -1.0)) / step;
                let dual = solution.demand_duals[flow];
                let noise = 1e-4 * dual.abs() + 2e-8 * solution.objective / step;
                assert!(
                    less - noise <= dual && dual <= more + noise,
                    "{name}, seed {seed}, flow {flow}: {less} <= {dual} <= {more}"
                );
            }
        }
    }
}

#[test]
fn a_capacity_dual_lies_between_what_one_more_saves_and_one_less_costs() {
    let mut bound = 0;
    for (name, mut solver) in solvers() {
        for seed in 0..25 {
            let mut problem = free(seed);
            // Without curves capacity is nothing but a cap, and every near resource is at it.
            problem.resources.iter_mut().for_each(|r| r.curve = None);
            let solution = solver.solve(&problem).unwrap();
            for resource in 0..problem.resources.len() {
                let step = 1e-3 * problem.resources[resource].capacity;
                let at = |solver: &mut dyn WeightSolver, sign: f64| {
                    let mut moved = problem.clone();
                    moved.resources[resource].capacity += sign * step / 0.75;
                    objective(solver, &moved)
                };
                let more = (solution.objective - at(solver.as_mut(), 1.0)) / step;
                let less = (at(solver.as_mut(), -1.0) - solution.objective) / step;
                let dual = solution.capacity_duals[resource];
                let noise = 1e-4 * dual.abs() + 2e-8 * solution.objective / step;
                assert!(
                    more - noise <= dual && dual <= less + noise,
                    "{name}, seed {seed}, resource {resource}: {more} <= {dual} <= {less}"
                );
                bound += usize::from(dual > 0.0);
            }
        }
    }
    assert!(bound > 50, "only {bound} caps bind");
}

#[test]
fn a_budget_dual_lies_between_what_one_dollar_more_saves_and_one_less_costs() {
    let mut bound = 0;
    for (name, mut solver) in solvers() {
        for seed in 0..25 {
            let mut problem = free(seed);
            let unlimited = solver.solve(&problem).unwrap();
            let audit = traflux_lp::check::audit(&problem, unlimited.split.shares()).unwrap();
            let budget = 0.9 * audit.dollars_per_hour;
            let limit = |problem: &mut SplitProblem, budget: f64| {
                if let Objective::TwoStage(goal) = &mut problem.objective {
                    goal.budget_per_hour = Some(budget);
                }
            };
            limit(&mut problem, budget);
            let solution = solver.solve(&problem).unwrap();
            if !solution.softened.is_empty() {
                continue;
            }
            let step = 1e-3 * budget;
            let at = |solver: &mut dyn WeightSolver, budget: f64| {
                let mut moved = problem.clone();
                limit(&mut moved, budget);
                let solution = solver.solve(&moved).expect("a feasible problem");
                solution.softened.is_empty().then_some(solution.objective)
            };
            let (Some(rich), Some(poor)) =
                (at(solver.as_mut(), budget + step), at(solver.as_mut(), budget - step))
            else {
                continue;
            };
            // Dollars per hour to dollars per second.
            let dollar = step / 3600.0;
            let (more, less) = ((solution.objective - rich) / dollar, (poor - solution.objective) / dollar);
            let dual = solution.budget_dual;
            let noise = 1e-4 * dual.abs() + 2e-8 * solution.objective / dollar;
            assert!(
                more - noise <= dual && dual <= less + noise,
                "{name}, seed {seed}: {more} <= {dual} <= {less}"
            );
            bound += usize::from(dual > 0.0);
        }
    }
    assert!(bound > 20, "only {bound} budgets bind");
}

#[test]
fn reduced_costs_are_equal_across_solvers_where_the_optimum_is_a_single_vertex() {
    // Three endpoints, the middle one split between bounds: its price sets the others' differences.
    let problem = common::Case::new(&[100.0], &[50.0, 100.0, 100.0])
        .delays(&[0.002, 0.050, 0.080])
        .lower(&[0.0, 0.0, 0.1])
        .no_curves()
        .build();
    for (name, mut solver) in solvers() {
        let solution = solver.solve(&problem).unwrap();
        for (found, expected) in solution.reduced_costs.iter().zip([0.0, 0.0, 0.030]) {
            assert!((found - expected).abs() < 1e-6, "{name}: {:?}", solution.reduced_costs);
        }
        assert!((solution.capacity_duals[0] - 0.048).abs() < 1e-6, "{name}");
    }
}
