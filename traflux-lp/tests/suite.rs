//! Every solver answers the same questions the same way.

mod common;

use common::{Case, approx, relative, solvers};
use traflux_core::{Objective, SolveError, SolverStatus, SplitProblem, SplitSolution};
use traflux_lp::check;

/// Solves with every solver, checks each answer by itself, and that all objectives are equal.
fn agree(problem: &SplitProblem) -> Vec<SplitSolution> {
    let answers: Vec<SplitSolution> = solvers()
        .into_iter()
        .map(|(name, mut solver)| {
            let solution = solver.solve(problem).unwrap_or_else(|error| panic!("{name}: {error}"));
            check::verify(problem, &solution, 1e-6).unwrap_or_else(|error| panic!("{name}: {error}"));
            solution
        })
        .collect();
    for other in &answers[1..] {
        let (a, b) = (&answers[0], other);
        let what = format!("{} and {}", a.solver, b.solver);
        assert!(
            (a.theta - b.theta).abs() < 1e-6 * a.theta.max(0.01),
            "theta of {what}: {} and {}",
            a.theta,
            b.theta
        );
        assert!(
            relative(a.objective, b.objective) < 1e-6,
            "objective of {what}: {} and {}",
            a.objective,
            b.objective
        );
        assert_eq!(a.status, b.status, "{what}");
        assert_eq!(a.softened.len(), b.softened.len(), "{what}: {:?} and {:?}", a.softened, b.softened);
    }
    answers
}

fn all_fail(problem: &SplitProblem, is_expected: impl Fn(&SolveError) -> bool) {
    for (name, mut solver) in solvers() {
        match solver.solve(problem) {
            Err(error) if is_expected(&error) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn the_nearer_endpoint_is_filled_to_the_cap_and_its_dual_is_what_the_detour_costs() {
    let problem = Case::new(&[100.0], &[100.0, 100.0]).delays(&[0.002, 0.080]).no_curves().build();
    for solution in agree(&problem) {
        approx(solution.theta, 0.5, 1e-9);
        approx(solution.split.shares()[0], 0.8, 1e-6);
        approx(solution.capacity_duals[0], 0.078, 1e-6);
        approx(solution.capacity_duals[1], 0.0, 1e-9);
        approx(solution.demand_duals[0], 0.080, 1e-6);
        approx(solution.objective, 80.0 * 0.002 + 20.0 * 0.080, 1e-6);
    }
}

#[test]
fn random_fleets_have_one_optimum_whoever_solves() {
    for seed in 0..40 {
        agree(&common::random(seed));
    }
}

#[test]
fn a_fleet_of_six_regions_and_thirty_endpoints_has_one_optimum() {
    for (seed, load) in [(1, 0.3), (2, 0.7), (3, 0.9), (4, 1.2)] {
        let fleet = traflux_lp::sample::Fleet { load, ..traflux_lp::sample::Fleet::new(6, 30, seed) };
        agree(&fleet.problem());
    }
}

#[test]
fn six_regions_and_a_hundred_endpoints_with_every_route_movable_have_one_optimum() {
    let problem = traflux_lp::sample::Fleet::new(6, 100, 1).problem();
    assert!(problem.routes.len() == 600 && problem.routes.iter().all(|route| route.lower < route.upper));
    let names: Vec<String> = agree(&problem).into_iter().map(|solution| solution.solver).collect();
    assert_eq!(names[0], "transport");
    assert!(["microlp", "clarabel"].iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
}

#[test]
fn beyond_capacity_the_worst_overload_is_least() {
    let problem = Case::new(&[150.0, 90.0], &[100.0, 50.0, 50.0]).build();
    for solution in agree(&problem) {
        assert_eq!(solution.status, SolverStatus::Overloaded);
        approx(solution.theta, 1.2, 1e-7);
    }
}

#[test]
fn background_load_counts() {
    let problem = Case::new(&[60.0], &[100.0, 100.0]).background(&[50.0, 0.0]).build();
    for solution in agree(&problem) {
        approx(solution.theta, 0.55, 1e-7);
    }
}

#[test]
fn bounds_decide_the_least_utilization_where_they_bind() {
    // Flow 0 may put at most 20 % on the large endpoint: 80 of 100 remain for the small one.
    let problem = Case::new(&[100.0], &[50.0, 1000.0]).upper(&[1.0, 0.2]).build();
    for solution in agree(&problem) {
        approx(solution.theta, 1.6, 1e-7);
        assert_eq!(solution.status, SolverStatus::Overloaded);
    }
}

#[test]
fn frozen_routes_keep_their_share() {
    let problem = Case::new(&[100.0], &[100.0, 100.0, 100.0]).frozen(1, 0.25).build();
    for solution in agree(&problem) {
        approx(solution.split.shares()[1], 0.25, 1e-12);
    }
}

#[test]
fn with_every_route_frozen_the_split_stays() {
    let problem = Case::new(&[100.0], &[100.0, 100.0]).frozen(0, 0.25).frozen(1, 0.75).build();
    for solution in agree(&problem) {
        approx(solution.split.shares()[0], 0.25, 1e-12);
        approx(solution.theta, 0.75, 1e-9);
    }
}

#[test]
fn one_endpoint_takes_everything() {
    for solution in agree(&Case::new(&[70.0], &[100.0]).build()) {
        approx(solution.split.shares()[0], 1.0, 1e-12);
        approx(solution.theta, 0.7, 1e-9);
    }
}

#[test]
fn without_demand_the_split_in_force_is_kept_as_far_as_bounds_allow() {
    let problem = Case::new(&[0.0], &[100.0, 100.0]).previous(&[0.9, 0.1]).upper(&[0.7, 1.0]).build();
    for solution in agree(&problem) {
        assert_eq!(solution.status, SolverStatus::NoDemand);
        approx(solution.split.shares()[0], 0.7, 1e-12);
    }
}

#[test]
fn a_flow_without_demand_beside_one_with_keeps_its_row() {
    let problem = Case::new(&[0.0, 80.0], &[100.0, 100.0]).previous(&[0.9, 0.1, 0.5, 0.5]).build();
    for solution in agree(&problem) {
        approx(solution.split.shares()[0], 0.9, 1e-9);
        assert!(solution.demand_duals[0] > 0.0);
    }
}

#[test]
fn no_flows_at_all_is_no_demand() {
    let mut problem = Case::new(&[1.0], &[1.0]).build();
    problem.demand.clear();
    problem.routes.clear();
    problem.flow_offsets = vec![0];
    for solution in agree(&problem) {
        assert_eq!(solution.status, SolverStatus::NoDemand);
    }
}

#[test]
fn a_route_without_resources_is_as_good_as_its_delay() {
    let mut problem = Case::new(&[100.0], &[100.0, 100.0]).delays(&[0.01, 0.04]).no_curves().build();
    problem.routes[1].consumption.clear();
    for solution in agree(&problem) {
        approx(solution.theta, 0.0, 1e-9);
        approx(solution.split.shares()[0], 0.8, 1e-6);
    }
}

#[test]
fn nothing_goes_where_there_is_no_capacity() {
    let problem = Case::new(&[100.0], &[0.0, 100.0, 100.0]).lower(&[0.05, 0.0, 0.0]).build();
    for solution in agree(&problem) {
        approx(solution.split.shares()[0], 0.05, 1e-9);
        assert_eq!(solution.status, SolverStatus::Optimal);
        assert!(solution.capacity_duals[0] > 0.0, "capacity there would save something");
    }
}

#[test]
fn a_flow_with_nothing_but_dead_endpoints_keeps_its_split_and_says_so() {
    let problem = Case::new(&[100.0], &[0.0, 0.0]).previous(&[0.3, 0.7]).build();
    for solution in agree(&problem) {
        assert_eq!(solution.status, SolverStatus::Overloaded);
        assert_eq!(solution.softened.len(), 1);
        approx(solution.split.shares()[0], 0.3, 1e-9);
    }
}

#[test]
fn a_dead_endpoint_with_a_probe_share_does_not_lift_the_cap_of_the_others() {
    // 5 % of 100/s on an endpoint of 1/s is five times its capacity; the quota of the near one stands.
    let problem = Case::new(&[100.0], &[1.0, 100.0, 100.0])
        .lower(&[0.05, 0.0, 0.0])
        .delays(&[0.01, 0.002, 0.08])
        .no_curves()
        .build();
    for solution in agree(&problem) {
        approx(solution.theta, 5.0, 1e-7);
        approx(solution.split.shares()[0], 0.05, 1e-9);
        approx(solution.split.shares()[1], 0.8, 1e-6);
    }
}

#[test]
fn a_budget_is_met_between_two_splits_and_its_dual_is_the_trade() {
    // Near: 2 ms and $10 per million; far: 80 ms and free. 100/s near cost $3.6/h.
    let problem = Case::new(&[100.0], &[1000.0, 1000.0])
        .delays(&[0.002, 0.080])
        .prices(&[10e-6, 0.0])
        .no_curves()
        .goal(|g| g.budget_per_hour = Some(1.8))
        .build();
    for solution in agree(&problem) {
        approx(solution.split.shares()[0], 0.5, 1e-6);
        approx(solution.budget_dual, 0.078 / 10e-6, 1e-2);
        assert!(solution.softened.is_empty());
    }
}

#[test]
fn a_budget_below_the_least_possible_is_softened_to_it() {
    let problem = Case::new(&[100.0], &[1000.0, 1000.0])
        .delays(&[0.002, 0.080])
        .prices(&[10e-6, 5e-6])
        .no_curves()
        .goal(|g| g.budget_per_hour = Some(0.5))
        .build();
    for solution in agree(&problem) {
        assert_eq!(solution.softened.len(), 1);
        approx(solution.split.shares()[1], 1.0, 1e-6);
    }
}

#[test]
fn churn_keeps_traffic_where_moving_costs_more_than_it_saves() {
    let stay = |churn: f64| {
        Case::new(&[100.0], &[1000.0, 1000.0])
            .delays(&[0.010, 0.012])
            .previous(&[0.4, 0.6])
            .no_curves()
            .goal(|g| g.churn_seconds = churn)
            .build()
    };
    for solution in agree(&stay(0.0015)) {
        approx(solution.split.shares()[0], 0.4, 1e-6);
    }
    for solution in agree(&stay(0.0005)) {
        approx(solution.split.shares()[0], 0.8f64.max(1.0), 1e-6);
    }
}

#[test]
fn surviving_the_loss_of_a_domain_keeps_room_elsewhere() {
    // Two domains of 100/s each and 90/s of demand: if either fails, the other must hold all of it.
    let problem = Case::new(&[90.0], &[100.0, 100.0, 60.0])
        .delays(&[0.002, 0.05, 0.09])
        .domains(&[0, 1, 2])
        .no_curves()
        .goal(|g| g.survive_domain_loss = Some(0.95))
        .build();
    for solution in agree(&problem) {
        assert!(solution.softened.is_empty(), "{:?}", solution.softened);
        let x: Vec<f64> = solution.split.shares().iter().map(|w| w * 90.0).collect();
        for (lost, _) in x.iter().enumerate() {
            for (ix, capacity) in [100.0, 100.0, 60.0].into_iter().enumerate() {
                let after = x[ix] * 90.0 / (90.0 - x[lost]);
                assert!(ix == lost || after <= 0.95 * capacity * (1.0 + 1e-6), "{after} of {capacity}");
            }
        }
    }
}

#[test]
fn a_domain_that_cannot_be_lost_is_reported() {
    let problem = Case::new(&[150.0], &[100.0, 100.0])
        .domains(&[0, 1])
        .goal(|g| g.survive_domain_loss = Some(0.95))
        .build();
    for solution in agree(&problem) {
        assert_eq!(solution.softened.len(), 2, "{:?}", solution.softened);
    }
}

#[test]
fn a_shared_egress_link_limits_what_endpoints_could_take() {
    let mut problem =
        Case::new(&[50.0, 50.0], &[100.0, 100.0, 60.0]).delays(&[0.002, 0.05, 0.002, 0.05]).build_with(
            |problem| {
                // Resource 2 is the link in front of endpoint 0: 1.5 units per request of flow 0.
                problem.resources[2].curve = None;
            },
            2,
        );
    problem.routes[0].consumption.push((2, 1.5));
    problem.routes[2].consumption.push((2, 0.5));
    for solution in agree(&problem) {
        let x = solution.split.shares()[0] * 50.0 * 1.5 + solution.split.shares()[2] * 50.0 * 0.5;
        assert!(x <= 60.0 * 0.8 * (1.0 + 1e-6), "{x}");
    }
}

#[test]
fn routes_that_consume_at_different_rates_share_a_capacity() {
    let mut problem = Case::new(&[100.0], &[100.0, 100.0, 100.0]).build();
    problem.routes[1].consumption = vec![(0, 2.0)];
    agree(&problem);
}

#[test]
fn a_resource_counted_in_thousands_of_tokens_is_no_different() {
    let mut problem = Case::new(&[100.0], &[100_000.0, 50_000.0]).no_curves().build();
    for route in &mut problem.routes {
        route.consumption[0].1 = 1000.0;
    }
    for solution in agree(&problem) {
        approx(solution.theta, 2.0 / 3.0, 1e-7);
    }
}

#[test]
fn a_million_requests_a_second_are_split_as_precisely_as_a_hundred() {
    let small = Case::new(&[70.0, 30.0], &[50.0, 80.0]).delays(&[0.002, 0.05, 0.09, 0.004]).build();
    let mut large = small.clone();
    large.demand.iter_mut().for_each(|d| *d *= 1e4);
    large.resources.iter_mut().for_each(|r| r.capacity *= 1e4);
    for (a, b) in agree(&small).iter().zip(agree(&large)) {
        assert!(relative(a.objective * 1e4, b.objective) < 1e-6, "{}", a.solver);
    }
}

#[test]
fn the_literal_form_has_its_closed_form() {
    let mut problem = Case::new(&[100.0], &[1.0, 100.0, 100.0]).build();
    problem.objective = Objective::MinMaxWeightedCost { costs: vec![1.0, 2.0, 4.0] };
    for solution in agree(&problem) {
        for (share, expected) in solution.split.shares().iter().zip([4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0]) {
            approx(*share, expected, 1e-6);
        }
        approx(solution.objective, 4.0 / 7.0, 1e-6);
    }
}

#[test]
fn the_literal_form_respects_bounds() {
    for (lower, upper) in
        [([0.0, 0.0, 0.5], [1.0, 1.0, 1.0]), ([0.0, 0.1, 0.0], [0.3, 1.0, 0.2]), ([0.2, 0.3, 0.5], [1.0; 3])]
    {
        let mut problem = Case::new(&[100.0], &[1.0; 3]).lower(&lower).upper(&upper).build();
        problem.objective = Objective::MinMaxWeightedCost { costs: vec![1.0, 2.0, 4.0] };
        agree(&problem);
    }
}

#[test]
fn bounds_that_exclude_one_are_refused() {
    let low = Case::new(&[1.0], &[1.0, 1.0]).upper(&[0.4, 0.5]).build();
    let high = Case::new(&[1.0], &[1.0, 1.0]).lower(&[0.6, 0.5]).build();
    for problem in [low, high] {
        all_fail(&problem, |e| matches!(e, SolveError::InfeasibleBounds { flow: 0, .. }));
    }
}

#[test]
fn numbers_that_are_none_are_refused_by_name() {
    type Spoil = fn(&mut SplitProblem, f64);
    let spoils: [(&str, Spoil); 8] = [
        ("demand", |p, v| p.demand[0] = v),
        ("capacity", |p, v| p.resources[0].capacity = v),
        ("background", |p, v| p.resources[0].background = v),
        ("multiplier", |p, v| p.resources[0].multiplier = v),
        ("delay", |p, v| p.routes[0].delay = v),
        ("price", |p, v| p.routes[0].price = v),
        ("lower", |p, v| p.routes[0].lower = v),
        ("consumption", |p, v| p.routes[0].consumption[0].1 = v),
    ];
    for (name, spoil) in spoils {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            let mut problem = Case::new(&[1.0], &[1.0, 1.0]).build();
            spoil(&mut problem, value);
            all_fail(&problem, |e| matches!(e, SolveError::Invalid { what, .. } if what.contains(name)));
        }
    }
}

#[test]
fn indices_that_point_outside_are_refused() {
    let whole = Case::new(&[1.0], &[1.0, 1.0]).build();
    let broken: [fn(&mut SplitProblem); 6] = [
        |p| p.flow_offsets = vec![],
        |p| p.flow_offsets = vec![0, 1],
        |p| p.flow_offsets = vec![1, 2],
        |p| {
            p.flow_offsets = vec![0, 0, 2];
            p.demand = vec![1.0, 1.0];
        },
        |p| p.routes[0].consumption[0].0 = 9,
        |p| p.objective = Objective::MinMaxWeightedCost { costs: vec![1.0] },
    ];
    for break_it in broken {
        let mut problem = whole.clone();
        break_it(&mut problem);
        all_fail(&problem, |e| matches!(e, SolveError::Invalid { .. }));
    }
}

#[test]
fn a_deadline_of_zero_is_a_deadline() {
    let mut problem = Case::new(&[100.0], &[100.0, 100.0]).build();
    problem.deadline = std::time::Duration::ZERO;
    all_fail(&problem, |e| matches!(e, SolveError::Deadline { limit_ms: 0 }));
}

#[test]
fn the_same_problem_gives_the_same_bits_whatever_was_solved_before() {
    for (name, mut solver) in solvers() {
        let problem = common::random(3);
        let first = solver.solve(&problem).unwrap();
        solver.solve(&common::random(4)).unwrap();
        let again = solver.solve(&problem).unwrap();
        let bits = |s: &SplitSolution| s.split.shares().iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&first), bits(&again), "{name}");
        assert_eq!(first, again, "{name}");
    }
}

#[test]
fn an_unknown_name_lists_those_there_are() {
    let error = traflux_lp::by_name("simplex9000").err().expect("there is no such solver");
    let text = error.to_string();
    assert!(["transport", "microlp", "clarabel"].iter().all(|name| text.contains(name)), "{text}");
}
