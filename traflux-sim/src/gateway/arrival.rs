//! Which requests come when?
//!
//! Drawn once for a scenario, load and seed, so that everything that is compared gets the same ones.

use traflux_gateway::Rng;

use super::scenario::{
    BASE_SECONDS, Load, MAX_PROMPT, OUTPUT_TOKEN_SECONDS, PROMPT_TOKEN_SECONDS, Scenario, Tenant,
};

/// A request as its client makes it. Times are seconds since the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// When it is asked.
    pub at: f64,
    /// Position of the tenant.
    pub tenant: usize,
    /// Tokens read.
    pub prompt: f64,
    /// Tokens written.
    pub output: f64,
    /// The conversation.
    pub session: Option<usize>,
    /// When the answer has to be complete.
    pub deadline: Option<f64>,
}

impl Arrival {
    /// Slot-seconds at speed 1, without a cache.
    #[must_use]
    pub fn work(&self) -> f64 {
        BASE_SECONDS + self.prompt * PROMPT_TOKEN_SECONDS + self.output * OUTPUT_TOKEN_SECONDS
    }
}

/// Draws all requests at a load, in order of time.
#[must_use]
pub fn draw(scenario: &Scenario, load: f64, seed: u64) -> Vec<Arrival> {
    let mut rng = Rng::stream(seed, 1);
    let rate = load * scenario.capacity();
    let rates: Vec<f64> = scenario.tenants.iter().map(|t| rate * t.share / t.mean_work()).collect();
    let total: f64 = rates.iter().sum();
    let path = Path::new(scenario, &mut Rng::stream(seed, 2));
    let zipf: Vec<Option<Vec<f64>>> = scenario.tenants.iter().map(cumulative_zipf).collect();
    let (mut now, mut arrivals) = (0.0, Vec::new());
    loop {
        now += rng.exponential() / (total * path.most);
        if now >= scenario.seconds {
            return arrivals;
        }
        // Thinning: P. Lewis, G. Shedler, "Simulation of nonhomogeneous Poisson processes by thinning", 1979.
        if rng.uniform() * path.most > path.at(now) {
            continue;
        }
        let mut left = rng.uniform() * total;
        let tenant = rates
            .iter()
            .position(|rate| {
                left -= rate;
                left < 0.0
            })
            .unwrap_or(rates.len() - 1);
        let of = &scenario.tenants[tenant];
        let mut size = |mean: f64, shape: crate::distribution::ServiceTime, most: f64| {
            // Half a step from the ends, where quantiles are infinite.
            let u = (rng.uniform() + 1e-12).min(1.0 - 1e-12);
            (mean * shape.compile().at(u)).clamp(1.0, most).round()
        };
        let prompt = size(of.prompt.0, of.prompt.1, MAX_PROMPT);
        let output = size(of.output.0, of.output.1, of.max_output);
        let session = zipf[tenant].as_ref().map(|cumulative| {
            let u = rng.uniform();
            cumulative.partition_point(|share| *share < u).min(cumulative.len() - 1)
        });
        let deadline = of.deadline.map(|(least, most)| now + rng.between(least, most));
        arrivals.push(Arrival { at: now, tenant, prompt, output, session, deadline });
    }
}

fn cumulative_zipf(tenant: &Tenant) -> Option<Vec<f64>> {
    let (count, exponent) = tenant.sessions?;
    let weights = (1..=count).map(|rank| (rank as f64).powf(-exponent));
    let total: f64 = weights.clone().sum();
    let sums = weights.scan(0.0, |sum, weight| {
        *sum += weight / total;
        Some(*sum)
    });
    Some(sums.collect())
}

/// The load over time, in means.
struct Path {
    shape: Load,
    most: f64,
    /// Ends of calm and bursts in turn.
    switches: Vec<f64>,
}

impl Path {
    fn new(scenario: &Scenario, rng: &mut Rng) -> Self {
        let mut switches = Vec::new();
        let most = match scenario.shape {
            Load::Steady => 1.0,
            Load::Bursts { factor, on, off } => {
                let mut now = 0.0;
                while now < scenario.seconds {
                    now += rng.exponential() * if switches.len() % 2 == 0 { off } else { on };
                    switches.push(now);
                }
                factor * (on + off) / (factor * on + off)
            }
            Load::Ramp { amplitude, .. } => 1.0 + amplitude,
            Load::Flash { before, .. } => before.max(1.0),
        };
        Self { shape: scenario.shape, most, switches }
    }

    fn at(&self, now: f64) -> f64 {
        match self.shape {
            Load::Steady => 1.0,
            Load::Bursts { factor, .. } => {
                let bursting = self.switches.partition_point(|end| *end <= now) % 2 == 1;
                if bursting { self.most } else { self.most / factor }
            }
            Load::Ramp { period, amplitude } => {
                1.0 - amplitude * (now / period * std::f64::consts::TAU).cos()
            }
            Load::Flash { before, from, until } => {
                if (from..until).contains(&now) {
                    1.0
                } else {
                    before
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenarios;
    use super::*;

    #[test]
    fn the_work_that_comes_is_the_load_asked_for() {
        for scenario in scenarios().into_iter().filter(|s| !matches!(s.shape, Load::Flash { .. })) {
            let work: f64 = (1..=6).flat_map(|seed| draw(&scenario, 1.0, seed)).map(|a| a.work()).sum();
            let share = work / (6.0 * scenario.capacity() * scenario.seconds);
            let slack = if matches!(scenario.shape, Load::Bursts { .. }) { 0.12 } else { 0.02 };
            assert!((share - 1.0).abs() < slack, "{}: {share}", scenario.name);
        }
    }

    #[test]
    fn equal_seeds_give_equal_requests() {
        let scenario = &scenarios()[9];
        assert_eq!(draw(scenario, 0.7, 3), draw(scenario, 0.7, 3));
        assert_ne!(draw(scenario, 0.7, 3), draw(scenario, 0.7, 4));
    }
}
