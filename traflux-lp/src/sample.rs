//! What does a fleet of a given size look like?
//!
//! Problems from a seed, for benches, examples and comparisons: endpoints of unequal size, some near and some
//! an ocean away, egress prices as clouds have them, 13 tangents per latency curve. The same arguments give
//! the same problem on every machine.

use std::time::Duration;

use traflux_core::{
    Generation, Latency, LatencyCurve, Objective, ProblemResource, ProblemRoute, SplitProblem, TwoStage,
};

/// Size and state of a fleet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fleet {
    /// Source regions.
    pub flows: usize,
    /// Endpoints; each flow has a route to each.
    pub endpoints: usize,
    /// Endpoints whose routes may move; the others stay at their share in force.
    pub movable: usize,
    /// Demand over capacity.
    pub load: f64,
    /// What is asked of stage 2.
    pub goal: TwoStage,
    /// What the numbers are drawn from.
    pub seed: u64,
}

impl Fleet {
    /// A fleet at 70 % load with all routes movable.
    #[must_use]
    pub fn new(flows: usize, endpoints: usize, seed: u64) -> Self {
        let goal = TwoStage { seconds_per_dollar: 2e3, churn_seconds: 1e-3, ..TwoStage::default() };
        Self { flows, endpoints, movable: endpoints, load: 0.7, goal, seed }
    }

    /// The problem of this fleet, its traffic now being split in proportion to capacity.
    #[must_use]
    pub fn problem(&self) -> SplitProblem {
        let mut random = Random(self.seed);
        let resources: Vec<ProblemResource> = (0..self.endpoints)
            .map(|_| {
                let servers = [4.0, 8.0, 16.0, 32.0, 64.0][random.below(5)];
                let service = random.between(0.008, 0.040);
                ProblemResource {
                    capacity: servers / service,
                    background: 0.0,
                    curve: Some(LatencyCurve::new(Latency::millis(service * 1e3), servers)),
                    multiplier: 1.0,
                    domain: Some(random.below(3)),
                }
            })
            .collect();
        let total: f64 = resources.iter().map(|r| r.capacity).sum();
        let sizes: Vec<f64> = (0..self.flows).map(|_| random.between(0.3, 1.0)).collect();
        let size: f64 = sizes.iter().sum();
        let demand = sizes.iter().map(|s| self.load * total * s / size).collect();
        let mut routes = Vec::with_capacity(self.flows * self.endpoints);
        for _ in 0..self.flows {
            for (ix, resource) in resources.iter().enumerate() {
                // One endpoint in three is in the flow's own metro.
                let near = random.below(3) == 0;
                let delay = if near { random.between(0.002, 0.008) } else { random.between(0.03, 0.23) };
                let share = resource.capacity / total;
                let free = ix < self.movable;
                routes.push(ProblemRoute {
                    lower: if free { 0.05 * share } else { share },
                    upper: if free { 1.0 } else { share },
                    previous: share,
                    delay,
                    price: if near { random.between(0.2e-6, 0.6e-6) } else { random.between(1e-6, 3e-6) },
                    consumption: vec![(ix, 1.0)],
                });
            }
        }
        SplitProblem {
            generation: Generation(1),
            flow_offsets: (0..=self.flows).map(|f| f * self.endpoints).collect(),
            demand,
            routes,
            resources,
            objective: Objective::TwoStage(self.goal),
            deadline: Duration::from_secs(5),
        }
    }

    /// The same fleet a moment later: the given split in force, demand of each flow changed by up to 3 %.
    ///
    /// # Panics
    /// When there is not one share per route.
    #[must_use]
    pub fn later(&self, now: &SplitProblem, shares: &[f64]) -> SplitProblem {
        assert_eq!(shares.len(), now.routes.len(), "one share per route");
        let mut random = Random(self.seed ^ 0x5bd1_e995_9d1d_25a5);
        let mut later = now.clone();
        later.demand.iter_mut().for_each(|d| *d *= random.between(0.97, 1.03));
        for (route, share) in later.routes.iter_mut().zip(shares) {
            route.previous = *share;
        }
        later
    }
}

/// SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_problem() {
        assert_eq!(Fleet::new(2, 5, 7).problem(), Fleet::new(2, 5, 7).problem());
        assert_ne!(Fleet::new(2, 5, 7).problem(), Fleet::new(2, 5, 8).problem());
    }
}
