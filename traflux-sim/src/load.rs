//! When do requests arrive?
//!
//! A nonhomogeneous Poisson process by thinning (P. A. W. Lewis, G. S. Shedler, Naval Research Logistics
//! 26, 1979): candidates come at a bound of the rate over a short piece of time and are kept with probability rate
//! over bound. Each source has its own stream of random numbers, which nothing but time and seed touches, so the
//! same requests come whoever routes them.

use traflux_gateway::Rng;

use crate::process::Effect;
use crate::scenario::Scenario;

/// Length of the pieces over which the rate is bounded, in seconds.
const PIECE_S: f64 = 5.0;
/// Random numbers of process `p` on target `t` come from stream `PROCESS_STREAMS + p · 2²⁰ + t`.
const PROCESS_STREAMS: u64 = 1 << 40;

/// The generator of one process on one target.
pub(crate) fn process_stream(seed: u64, process: usize, target: usize) -> Rng {
    Rng::stream(seed, PROCESS_STREAMS + ((process as u64) << 20) + target as u64)
}

/// The rate of one source over time.
#[derive(Debug, Clone)]
pub(crate) struct LoadCurve {
    base: f64,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    start: f64,
    end: f64,
    shape: Shape,
}

#[derive(Debug, Clone)]
enum Shape {
    Constant(f64),
    Sinusoid { amplitude: f64, omega: f64, peak: f64 },
    Trapezoid { factor: f64, ramp: f64, decay: f64 },
    Steps(Vec<(f64, f64)>),
    Points { interval: f64, factors: Vec<f64> },
}

impl LoadCurve {
    pub(crate) fn new(scenario: &Scenario, source: usize, seed: u64) -> Self {
        let name = &scenario.sources[source].name;
        let mut parts = Vec::new();
        for (ix, process) in scenario.processes.iter().enumerate().filter(|(_, p)| p.acts_on(name)) {
            let mut rng = process_stream(seed, ix, source);
            for (start, end) in process.spans(scenario.duration_s) {
                let shape = match &process.effect {
                    Effect::Load { factor } => Shape::Constant(*factor),
                    Effect::Diurnal { peak_to_trough, period_s, peak_at_s } => Shape::Sinusoid {
                        amplitude: (peak_to_trough - 1.0) / (peak_to_trough + 1.0),
                        omega: std::f64::consts::TAU / period_s,
                        peak: *peak_at_s,
                    },
                    Effect::FlashCrowd { factor, ramp_s, decay_s } => {
                        Shape::Trapezoid { factor: *factor, ramp: *ramp_s, decay: decay_s.unwrap_or(*ramp_s) }
                    }
                    Effect::Mmpp { factors, mean_dwell_s } => {
                        let mut steps = Vec::new();
                        let mut at = start;
                        let mut state = rng.below(factors.len());
                        while at < end {
                            steps.push((at, factors[state]));
                            at += (mean_dwell_s[state] * rng.exponential()).max(1e-3);
                            state = (state + 1 + rng.below(factors.len().max(2) - 1)) % factors.len();
                        }
                        Shape::Steps(steps)
                    }
                    Effect::Shape { interval_s, factors } => {
                        Shape::Points { interval: *interval_s, factors: factors.clone() }
                    }
                    _ => break,
                };
                parts.push(Part { start, end, shape });
            }
        }
        Self { base: scenario.sources[source].base_rps, parts }
    }

    /// Requests per second at a time.
    pub(crate) fn rate(&self, t: f64) -> f64 {
        self.parts.iter().filter(|p| p.start <= t && t < p.end).fold(self.base, |rate, p| rate * p.at(t))
    }

    /// A bound of the rate over `[from, to]`.
    fn bound(&self, from: f64, to: f64) -> f64 {
        self.parts.iter().filter(|p| p.start <= to && from < p.end).fold(self.base, |bound, part| {
            let inside = part.bound(from.max(part.start), to.min(part.end));
            let covers = part.start <= from && to < part.end;
            bound * if covers { inside } else { inside.max(1.0) }
        })
    }
}

impl Part {
    fn at(&self, t: f64) -> f64 {
        let since = t - self.start;
        match &self.shape {
            Shape::Constant(factor) => *factor,
            Shape::Sinusoid { amplitude, omega, peak } => 1.0 + amplitude * (omega * (t - peak)).cos(),
            Shape::Trapezoid { factor, ramp, decay } => {
                let up = if *ramp > 0.0 { (since / ramp).min(1.0) } else { 1.0 };
                let down = if *decay > 0.0 { ((self.end - t) / decay).min(1.0) } else { 1.0 };
                1.0 + (factor - 1.0) * up.min(down).max(0.0)
            }
            Shape::Steps(steps) => {
                let ix = steps.partition_point(|(at, _)| *at <= t);
                steps[ix.saturating_sub(1)].1
            }
            Shape::Points { interval, factors } => {
                let x = since / interval;
                let last = factors.len() - 1;
                let ix = (x as usize).min(last);
                let next = (ix + 1).min(last);
                factors[ix] + (factors[next] - factors[ix]) * (x - ix as f64).clamp(0.0, 1.0)
            }
        }
    }

    /// A bound over a piece inside the part.
    fn bound(&self, from: f64, to: f64) -> f64 {
        let ends = self.at(from).max(self.at(to));
        match &self.shape {
            Shape::Constant(factor) => *factor,
            // The slope is at most amplitude · ω, so half the piece away from an end no more than this.
            Shape::Sinusoid { amplitude, omega, .. } => {
                (ends + amplitude * omega * (to - from) / 2.0).min(1.0 + amplitude)
            }
            Shape::Trapezoid { ramp, decay, .. } => {
                let corners = [self.start + ramp, self.end - decay];
                let inside = corners.into_iter().filter(|c| from < *c && *c < to).map(|c| self.at(c));
                // Ramps that meet cross between the corners; the height of either bounds the crossing.
                let crossing = if ramp + decay > self.end - self.start {
                    let share = (self.end - self.start) / (ramp + decay);
                    let at = self.start + share * ramp;
                    if from < at && at < to { self.at(at) } else { ends }
                } else {
                    ends
                };
                inside.fold(ends, f64::max).max(crossing)
            }
            Shape::Steps(steps) => {
                let first = steps.partition_point(|(at, _)| *at <= from);
                steps[first..].iter().take_while(|(at, _)| *at <= to).fold(ends, |b, (_, f)| b.max(*f))
            }
            Shape::Points { interval, factors } => {
                let first = ((from - self.start) / interval) as usize + 1;
                let last = ((to - self.start) / interval) as usize;
                (first..=last).filter_map(|ix| factors.get(ix)).fold(ends, |b, f| b.max(*f))
            }
        }
    }
}

/// One request as it comes, before anybody routes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Arrival {
    /// When, in nanoseconds.
    pub(crate) at: u64,
    /// Quantile of its service time.
    pub(crate) work: f64,
    /// Decides whether it is among those that fail.
    pub(crate) fate: f64,
}

/// The requests of one source, in order.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals {
    curve: LoadCurve,
    rng: Rng,
    now: f64,
    piece_end: f64,
    bound: f64,
    end: f64,
}

impl Arrivals {
    pub(crate) fn new(scenario: &Scenario, source: usize, seed: u64) -> Self {
        Self {
            curve: LoadCurve::new(scenario, source, seed),
            rng: Rng::stream(seed, source as u64),
            now: 0.0,
            piece_end: 0.0,
            bound: 0.0,
            end: scenario.duration_s,
        }
    }

    /// The rate at a time, for oracles.
    pub(crate) fn rate(&self, t: f64) -> f64 {
        if t < self.end { self.curve.rate(t) } else { 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        loop {
            if self.now >= self.piece_end {
                if self.now >= self.end {
                    return None;
                }
                self.piece_end = (self.now + PIECE_S).min(self.end);
                self.bound = self.curve.bound(self.now, self.piece_end);
            }
            if self.bound <= 0.0 {
                self.now = self.piece_end;
                continue;
            }
            let next = self.now + self.rng.exponential() / self.bound;
            if next >= self.piece_end {
                // Memoryless: the rest of the gap may be drawn anew under the next bound.
                self.now = self.piece_end;
                continue;
            }
            self.now = next;
            if self.rng.uniform() * self.bound < self.curve.rate(next) {
                return Some(Arrival {
                    at: (next * 1e9) as u64,
                    work: self.rng.uniform(),
                    fate: self.rng.uniform(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;

    fn part(start: f64, end: f64, shape: Shape) -> Part {
        Part { start, end, shape }
    }

    #[test]
    fn no_rate_exceeds_its_bound() {
        let mut rng = Rng::new(1);
        let shapes = [
            Shape::Constant(0.4),
            Shape::Sinusoid { amplitude: 0.8, omega: 0.3, peak: 7.0 },
            Shape::Trapezoid { factor: 3.0, ramp: 4.0, decay: 9.0 },
            Shape::Trapezoid { factor: 3.0, ramp: 40.0, decay: 90.0 },
            Shape::Steps((0..40).map(|ix| (10.0 + f64::from(ix), f64::from(ix * 7 % 5))).collect()),
            Shape::Points { interval: 3.0, factors: vec![1.0, 5.0, 0.0, 2.0, 9.0] },
        ];
        for first in &shapes {
            for second in &shapes {
                let curve = LoadCurve {
                    base: 10.0,
                    parts: vec![part(10.0, 50.0, first.clone()), part(12.0, 31.0, second.clone())],
                };
                for _ in 0..400 {
                    let from = rng.between(0.0, 60.0);
                    let to = from + rng.between(0.0, 8.0);
                    let bound = curve.bound(from, to);
                    for step in 0..=40 {
                        let t = from + (to - from) * f64::from(step) / 40.0;
                        assert!(
                            curve.rate(t) <= bound * (1.0 + 1e-9),
                            "{first:?} × {second:?} at {t}: {} above {bound}",
                            curve.rate(t)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn arrivals_come_at_the_rate_of_a_flash_crowd() {
        let mut scenario = Scenario::built_in("steady").unwrap();
        scenario.duration_s = 1000.0;
        scenario.sources[0].base_rps = 100.0;
        scenario.processes = vec![Process {
            name: "crowd".into(),
            start_s: 400.0,
            end_s: Some(700.0),
            repeat_every_s: None,
            targets: vec![],
            effect: Effect::FlashCrowd { factor: 3.0, ramp_s: 100.0, decay_s: Some(50.0) },
        }];
        let arrivals: Vec<Arrival> = Arrivals::new(&scenario, 0, 3).collect();
        let count = |from: f64, to: f64| {
            arrivals.iter().filter(|a| (from..to).contains(&(a.at as f64 * 1e-9))).count() as f64
        };
        // Means 40000, 20000 (ramp), 45000 and 10000 (fall); four standard deviations.
        for (from, to, mean) in
            [(0.0, 400.0, 4e4), (400.0, 500.0, 2e4), (500.0, 650.0, 4.5e4), (650.0, 700.0, 1e4)]
        {
            let n = count(from, to);
            assert!((n - mean).abs() < 4.0 * f64::sqrt(mean), "{from}..{to}: {n}");
        }
    }
}
