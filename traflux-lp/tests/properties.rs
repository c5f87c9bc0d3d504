//! What holds for any problem.

mod common;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use traflux_core::{Objective, SolveError, SolverStatus, SplitProblem};
use traflux_lp::{by_name, check};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(0x7261_666c),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A random row within bounds.
fn any_row(random: &mut ChaCha8Rng, problem: &SplitProblem, flow: usize) -> Vec<f64> {
    let routes = &problem.routes[problem.flow_offsets[flow]..problem.flow_offsets[flow + 1]];
    let mut row: Vec<f64> = routes.iter().map(|r| r.lower).collect();
    let mut left = 1.0 - row.iter().sum::<f64>();
    for _ in 0..4 * row.len() {
        let ix = random.random_range(0..row.len());
        let taken = (routes[ix].upper - row[ix]).min(left * random.random_range(0.0..1.0)).max(0.0);
        row[ix] += taken;
        left -= taken;
    }
    for (share, route) in row.iter_mut().zip(routes) {
        let taken = (route.upper - *share).min(left).max(0.0);
        *share += taken;
        left -= taken;
    }
    row
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn no_random_split_within_the_caps_is_better(seed in any::<u64>()) {
        let mut problem = common::random_of(seed, |r| (r.random_range(1..6), r.random_range(1..14)));
        if let Objective::TwoStage(goal) = &mut problem.objective {
            goal.budget_per_hour = None;
        }
        for resource in &mut problem.resources {
            // Load without capacity does not count as utilization, so moving it there would seem to help.
            resource.capacity = resource.capacity.max(1e-3 * problem.demand[0]);
        }
        let solution = by_name("transport").unwrap().solve(&problem).unwrap();
        let own = check::verify(&problem, &solution, 1e-6).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for try_near in 0..40 {
            let any: Vec<f64> =
                (0..problem.demand.len()).flat_map(|f| any_row(&mut random, &problem, f)).collect();
            // A step from the optimum towards anywhere feasible costs, however small.
            let part = 0.5f64.powi(try_near % 20);
            let shares: Vec<f64> = solution
                .split
                .shares()
                .iter()
                .zip(&any)
                .map(|(own, other)| own + part * (other - own))
                .collect();
            let other = check::audit(&problem, &shares).unwrap();
            prop_assert!(other.utilization >= solution.theta * (1.0 - 1e-9));
            let within = other.loads.iter().zip(&own.loads).zip(&problem.resources).all(|((o, s), r)| {
                // Below what the solution itself loads, or below the cap that always holds.
                let Objective::TwoStage(goal) = &problem.objective else { return false };
                *o <= (s * (1.0 - 1e-12)).max(goal.max_utilization * r.capacity)
            });
            if within {
                prop_assert!(other.objective >= solution.objective * (1.0 - 1e-9));
            }
        }
    }

    #[test]
    fn garbage_is_refused_or_solved_but_never_panics(
        seed in any::<u64>(),
        spoils in prop::collection::vec((0usize..12, any::<usize>(), any::<f64>()), 1..4),
    ) {
        let mut problem = common::random(seed);
        for (what, at, value) in spoils {
            let routes = problem.routes.len();
            let resources = problem.resources.len();
            let flows = problem.demand.len();
            // Half of the garbage is a plausible number.
            let value = if at % 2 == 0 { value } else { value.abs() % 2.0 };
            match what {
                0 => problem.demand[at % flows] = value,
                1 => problem.routes[at % routes].lower = value,
                2 => problem.routes[at % routes].upper = value,
                3 => problem.routes[at % routes].previous = value,
                4 => problem.routes[at % routes].delay = value,
                5 => problem.routes[at % routes].price = value,
                6 => problem.routes[at % routes].consumption.push((at % (resources + 1), value)),
                7 => problem.resources[at % resources].capacity = value,
                8 => problem.resources[at % resources].background = value,
                9 => problem.resources[at % resources].multiplier = value,
                10 => problem.flow_offsets[at % (flows + 1)] = at % (routes + 2),
                _ => problem.demand[at % flows] = 0.0,
            }
        }
        match by_name("transport").unwrap().solve(&problem) {
            Ok(solution) => {
                check::verify(&problem, &solution, 1e-6).unwrap();
            }
            Err(SolveError::Invalid { .. } | SolveError::InfeasibleBounds { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

proptest! {
    #![proptest_config(config(120))]

    #[test]
    fn the_transport_solver_equals_the_linear_programs(seed in any::<u64>()) {
        let problem = common::random_of(seed, |r| (r.random_range(1..6), r.random_range(1..16)));
        let own = by_name("transport").unwrap().solve(&problem).unwrap();
        check::verify(&problem, &own, 1e-6).unwrap();
        for name in ["microlp", "clarabel"] {
            let other = by_name(name).unwrap().solve(&problem).unwrap();
            check::verify(&problem, &other, 1e-6).unwrap();
            prop_assert!((own.theta - other.theta).abs() <= 1e-6 * own.theta.max(0.01), "theta of {}", name);
            prop_assert!(
                common::relative(own.objective, other.objective) < 1e-6,
                "{}: {} and {}", name, own.objective, other.objective
            );
            prop_assert_eq!(own.status, other.status);
        }
    }

    #[test]
    fn the_split_in_force_changes_where_the_search_starts_and_not_where_it_ends(seed in any::<u64>()) {
        let mut problem = common::random_of(seed, |r| (r.random_range(1..6), r.random_range(1..16)));
        if let Objective::TwoStage(goal) = &mut problem.objective {
            goal.churn_seconds = 0.0;
        }
        let cold = by_name("transport").unwrap().solve(&problem).unwrap();
        for (route, share) in problem.routes.iter_mut().zip(cold.split.shares()) {
            route.previous = *share;
        }
        let warm = by_name("transport").unwrap().solve(&problem).unwrap();
        if cold.softened.is_empty() {
            prop_assert!(common::relative(cold.objective, warm.objective) < 1e-9);
        }
    }
}

#[test]
fn a_deadline_in_the_middle_leaves_a_feasible_split_and_an_honest_gap() {
    let fleet = traflux_lp::sample::Fleet::new(10, 300, 5);
    let mut problem = fleet.problem();
    let mut solver = by_name("transport").unwrap();
    problem.deadline = std::time::Duration::from_secs(60);
    let best = solver.solve(&problem).unwrap();
    assert_eq!(best.status, SolverStatus::Optimal);
    for micros in [50, 200, 500, 1000, 2000, 3000, 5000, 8000, 12_000] {
        problem.deadline = std::time::Duration::from_micros(micros);
        match solver.solve(&problem) {
            Ok(solution) => {
                check::audit(&problem, solution.split.shares()).unwrap();
                let gap = if let SolverStatus::Gap { gap } = solution.status { gap } else { 0.0 };
                assert!(solution.objective >= best.objective * (1.0 - 1e-9));
                let bound = solution.objective * (1.0 - gap);
                assert!(bound <= best.objective * (1.0 + 1e-9), "{micros} us: gap {gap}");
            }
            Err(error) => assert!(matches!(error, SolveError::Deadline { .. }), "{error}"),
        }
    }
}
