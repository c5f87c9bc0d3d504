//! Problems for tests, and every solver there is.
#![allow(dead_code, unreachable_pub)]

use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use traflux_core::{
    Generation, Latency, LatencyCurve, Objective, ProblemResource, ProblemRoute, SplitProblem, TwoStage,
    WeightSolver,
};

pub fn solvers() -> Vec<(&'static str, Box<dyn WeightSolver>)> {
    let names = traflux_lp::available();
    names.into_iter().map(|name| (name, traflux_lp::by_name(name).expect("an available name"))).collect()
}

pub fn relative(a: f64, b: f64) -> f64 {
    (a - b).abs() / a.abs().max(b.abs()).max(1e-9)
}

#[track_caller]
pub fn approx(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "found {found}, expected {expected} within {tolerance}");
}

/// A small problem, all flows with a route to each endpoint.
pub struct Case {
    problem: SplitProblem,
    goal: TwoStage,
}

impl Case {
    pub fn new(demand: &[f64], capacity: &[f64]) -> Self {
        let resources: Vec<ProblemResource> = capacity
            .iter()
            .map(|capacity| ProblemResource {
                capacity: *capacity,
                background: 0.0,
                curve: Some(LatencyCurve::new(Latency::millis(20.0), 8.0)),
                multiplier: 1.0,
                domain: None,
            })
            .collect();
        let mut routes = Vec::new();
        for _ in demand {
            for (ix, _) in capacity.iter().enumerate() {
                routes.push(ProblemRoute {
                    lower: 0.0,
                    upper: 1.0,
                    previous: 1.0 / capacity.len() as f64,
                    delay: 0.010 * (1 + ix) as f64,
                    price: 0.0,
                    consumption: vec![(ix, 1.0)],
                });
            }
        }
        let problem = SplitProblem {
            generation: Generation(3),
            flow_offsets: (0..=demand.len()).map(|f| f * capacity.len()).collect(),
            demand: demand.to_vec(),
            routes,
            resources,
            objective: Objective::TwoStage(TwoStage::default()),
            deadline: Duration::from_secs(60),
        };
        Self { problem, goal: TwoStage::default() }
    }

    fn each(mut self, values: &[f64], set: impl Fn(&mut ProblemRoute, f64)) -> Self {
        for (route, value) in self.problem.routes.iter_mut().zip(values) {
            set(route, *value);
        }
        self
    }

    pub fn delays(self, values: &[f64]) -> Self {
        self.each(values, |r, v| r.delay = v)
    }

    pub fn prices(self, values: &[f64]) -> Self {
        self.each(values, |r, v| r.price = v)
    }

    pub fn lower(self, values: &[f64]) -> Self {
        self.each(values, |r, v| r.lower = v)
    }

    pub fn upper(self, values: &[f64]) -> Self {
        self.each(values, |r, v| r.upper = v)
    }

    pub fn previous(self, values: &[f64]) -> Self {
        self.each(values, |r, v| r.previous = v)
    }

    pub fn frozen(mut self, route: usize, share: f64) -> Self {
        let r = &mut self.problem.routes[route];
        (r.lower, r.upper, r.previous) = (share, share, share);
        self
    }

    pub fn background(mut self, values: &[f64]) -> Self {
        for (resource, value) in self.problem.resources.iter_mut().zip(values) {
            resource.background = *value;
        }
        self
    }

    pub fn domains(mut self, values: &[usize]) -> Self {
        for (resource, value) in self.problem.resources.iter_mut().zip(values) {
            resource.domain = Some(*value);
        }
        self
    }

    pub fn no_curves(mut self) -> Self {
        self.problem.resources.iter_mut().for_each(|r| r.curve = None);
        self
    }

    pub fn goal(mut self, set: impl Fn(&mut TwoStage)) -> Self {
        set(&mut self.goal);
        self
    }

    pub fn build(mut self) -> SplitProblem {
        self.problem.objective = Objective::TwoStage(self.goal);
        self.problem
    }

    /// Keeps the routes to the first `endpoints` resources only.
    pub fn build_with(self, set: impl Fn(&mut SplitProblem), endpoints: usize) -> SplitProblem {
        let mut problem = self.build();
        problem.routes.retain(|r| r.consumption[0].0 < endpoints);
        problem.flow_offsets = (0..=problem.demand.len()).map(|f| f * endpoints).collect();
        set(&mut problem);
        problem
    }
}

/// A problem with a bit of everything, by seed.
pub fn random(seed: u64) -> SplitProblem {
    random_of(seed, |random| (random.random_range(1..5), random.random_range(1..9)))
}

pub fn random_of(seed: u64, size: impl Fn(&mut ChaCha8Rng) -> (usize, usize)) -> SplitProblem {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (flows, endpoints) = size(&mut random);
    let scale = 10f64.powf(random.random_range(0.0..5.0));
    let capacity: Vec<f64> = (0..endpoints).map(|_| scale * random.random_range(0.2..3.0)).collect();
    let load = random.random_range(0.2..1.2) * capacity.iter().sum::<f64>() / flows as f64;
    let demand: Vec<f64> = (0..flows).map(|_| load * random.random_range(0.3..1.4)).collect();
    let mut case = Case::new(&demand, &capacity);
    let any = random.next_u64();
    let has = |bit: u32| any & (1 << bit) != 0;
    let stepped = has(0);
    for flow in 0..flows {
        let raw: Vec<f64> = (0..endpoints).map(|_| random.random_range(0.05..1.0)).collect();
        let sum: f64 = raw.iter().sum();
        for (ix, share) in raw.iter().enumerate() {
            let route = &mut case.problem.routes[flow * endpoints + ix];
            route.previous = share / sum;
            route.delay = random.random_range(0.001..0.2);
            route.price = random.random_range(0.0..5e-6);
            if stepped {
                route.lower = (route.previous - 0.15).max(0.0);
                route.upper = (route.previous + 0.15).min(1.0);
            }
            if has(1) && random.random_range(0..4) == 0 {
                (route.lower, route.upper) = (route.previous, route.previous);
            }
        }
    }
    for resource in &mut case.problem.resources {
        let service = Latency::millis(random.random_range(2.0..60.0));
        let servers = random.random_range(1.0..64.0);
        resource.curve = (random.random_range(0..6) != 0).then(|| LatencyCurve::new(service, servers));
        resource.multiplier = random.random_range(0.5..2.0);
        if has(2) {
            resource.background = resource.capacity * random.random_range(0.0..0.4);
        }
        if has(3) && random.random_range(0..5) == 0 {
            resource.capacity = if random.random_range(0..2) == 0 { 0.0 } else { resource.capacity * 1e-3 };
        }
    }
    if has(4) {
        case.goal.churn_seconds = random.random_range(0.0..0.02);
    }
    if has(5) {
        case.goal.seconds_per_dollar = random.random_range(0.0..1e4);
    }
    case.goal.max_utilization = random.random_range(0.3..0.95);
    case.goal.slack = random.random_range(0.0..0.1);
    if has(6) && has(7) {
        let even: f64 = demand.iter().sum::<f64>() * 2.5e-6 * 3600.0;
        case.goal.budget_per_hour = Some(even * random.random_range(0.3..1.2));
    }
    case.build()
}
