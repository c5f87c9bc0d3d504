//! Which flows keep queues short?
//!
//! Delay grows without limit as a link fills up, so unlike a maximum it counts all links. With `φ` convex and
//! piecewise linear in the utilisation,
//!
//! ```text
//! min Σ_l φ((b_l + Σ_{p ∋ l} x_p) / c_l)   s.t.   Σ_{p ∈ P_k} x_p = d_k,   x ≥ 0
//! ```
//!
//! is a linear program (Fortz & Thorup 2000); a link may be filled beyond its capacity at a high price. The
//! bound is that of the Lagrangian at prices `y ≥ 0`:
//!
//! ```text
//! Σ_k d_k dist_k(y) + Σ_l min_{x ≥ 0} (φ((b_l + x) / c_l) − y_l x)
//! ```

use std::time::Instant;

use traflux_core::PathShare;

use super::generation::{Ended, Generation};
use super::master::Curves;
use super::{FlowError, FlowProblem, FlowStatus, passed, relative_gap};

/// The gap at which the solver is done, relative.
const GAP: f64 = 1e-10;

/// A convex, piecewise linear cost of a link by its utilisation, 0 at 0.
#[derive(Debug, Clone, PartialEq)]
pub struct DelayCurve {
    ends: Vec<f64>,
    slopes: Vec<f64>,
}

impl DelayCurve {
    /// Takes the utilisations at which the slope changes, and the slopes: one more than changes.
    ///
    /// # Errors
    /// [`FlowError::Length`] when there is not one slope more; [`FlowError::Value`] for a change or a slope that
    /// is not finite, not positive, or not above the one before.
    pub fn new(changes: Vec<f64>, slopes: Vec<f64>) -> Result<Self, FlowError> {
        if slopes.len() != changes.len() + 1 {
            let expected = changes.len() + 1;
            return Err(FlowError::Length { what: "slopes", found: slopes.len(), expected });
        }
        for (what, values) in [("change of slope", &changes), ("slope", &slopes)] {
            let mut last = 0.0;
            for (index, value) in values.iter().enumerate() {
                if !(value.is_finite() && *value > last) {
                    return Err(FlowError::Value { what, index, value: *value });
                }
                last = *value;
            }
        }
        let mut ends = changes;
        ends.push(f64::INFINITY);
        Ok(Self { ends, slopes })
    }

    /// The slopes 1, 3, 10, 70, 500 and 5000 of Fortz & Thorup (2000).
    #[must_use]
    pub fn fortz_thorup() -> Self {
        let ends = vec![1.0 / 3.0, 2.0 / 3.0, 0.9, 1.0, 1.1, f64::INFINITY];
        Self { ends, slopes: vec![1.0, 3.0, 10.0, 70.0, 500.0, 5000.0] }
    }

    /// Chords of the queueing delay `u / (1 − u)` between utilisations `1 − 2^(−i/2)`, of which there are
    /// `pieces` (at least 1, at most 20), the last chord for all above.
    #[must_use]
    pub fn queueing(pieces: usize) -> Self {
        let at = |i: usize| 1.0 - 0.5f64.powf(i as f64 / 2.0);
        let delay = |u: f64| u / (1.0 - u);
        let pieces = pieces.clamp(1, 20);
        let slope = |i: usize| (delay(at(i + 1)) - delay(at(i))) / (at(i + 1) - at(i));
        let mut ends: Vec<f64> = (1..pieces).map(at).collect();
        ends.push(f64::INFINITY);
        Self { ends, slopes: (0..pieces).map(slope).collect() }
    }

    /// The last slope.
    pub(super) fn steepest(&self) -> f64 {
        self.slopes.last().copied().unwrap_or(0.0)
    }

    /// Cost at a utilisation.
    #[must_use]
    pub fn at(&self, utilization: f64) -> f64 {
        let (mut cost, mut start) = (0.0, 0.0);
        for (end, slope) in self.ends.iter().zip(&self.slopes) {
            cost += slope * (utilization.min(*end) - start);
            if utilization <= *end {
                break;
            }
            start = *end;
        }
        cost
    }
}

/// Flows of the least delay, with a proof.
#[derive(Debug, Clone, PartialEq)]
pub struct DelaySolution {
    /// The sum of the curve over all links.
    pub cost: f64,
    /// No flows cost less.
    pub lower_bound: f64,
    /// Why the solver stopped.
    pub status: FlowStatus,
    /// Load of each link in bit/s, background included.
    pub loads: Vec<f64>,
    /// Paths of each commodity, in the order of the problem; shares sum to 1.
    pub paths: Vec<Vec<PathShare>>,
    /// Prices that prove the bound, by link: cost per bit/s, at most the steepest slope over the capacity.
    pub link_prices: Vec<f64>,
    /// Pivots.
    pub iterations: usize,
}

impl DelaySolution {
    /// `(cost − lower_bound) / cost`, 0 for no load.
    #[must_use]
    pub fn gap(&self) -> f64 {
        relative_gap(self.cost, self.lower_bound)
    }
}

/// Flows of the least sum of a delay curve over all links.
///
/// # Errors
/// As [`MinMaxSolver::solve`](super::MinMaxSolver::solve).
pub fn least_delay(
    problem: &FlowProblem<'_>,
    curve: &DelayCurve,
    deadline: Option<Instant>,
) -> Result<DelaySolution, FlowError> {
    let mut generation = Generation::new(problem.network);
    generation.check(problem)?;
    for commodity in &problem.commodities {
        if let Some(set) = generation.set(commodity) {
            generation.master.demand[set as usize] += commodity.demand / generation.unit;
        } else {
            generation.add_set(problem.network, commodity)?;
        }
    }
    generation.set_slacks(1.0);
    generation.master.start_on_keys();
    let unit = generation.unit;
    let background: Vec<f64> = problem.background.iter().map(|load| load / unit).collect();
    let mut curves = Curves::new(curve.slopes.len());
    for (capacity, load) in generation.capacities.iter().zip(&background) {
        curves.ends.extend(curve.ends.iter().map(|end| end * capacity - load));
        curves.slopes.extend(curve.slopes.iter().map(|slope| slope / capacity));
    }
    generation.master.set_curves(curves);
    generation.master.update_prices();
    let mut ended = Ended::Done;
    let (mut lower_bound, mut link_prices) = (f64::NEG_INFINITY, Vec::new());
    loop {
        // Beyond the last slope the Lagrangian has no minimum; a price is there only as long as pivots go on.
        let prices = generation.master.price.iter().zip(&generation.capacities);
        let lengths: Vec<f64> =
            prices.map(|(price, capacity)| price.clamp(0.0, curve.steepest() / capacity)).collect();
        // The first round has no deadline: without it nothing at all is proven.
        let late = if link_prices.is_empty() { None } else { deadline };
        let Some(round) = generation.price(&lengths, None, late) else {
            ended = Ended::Late;
            break;
        };
        let mut bound = round.cost;
        for ((capacity, load), length) in generation.capacities.iter().zip(&background).zip(&lengths) {
            bound += least_at(curve, *capacity, *load, *length);
        }
        if bound > lower_bound {
            lower_bound = bound;
            link_prices = lengths;
        }
        let loads = generation.master.load.iter().zip(&background).zip(&generation.capacities);
        let cost: f64 = loads.map(|((load, fixed), capacity)| curve.at((load + fixed) / capacity)).sum();
        if !round.found || cost - lower_bound <= GAP * cost {
            break;
        }
        ended = if passed(deadline) { Ended::Late } else { generation.pivot(deadline) };
        if ended != Ended::Done {
            break;
        }
    }
    let (paths, _, loads) = generation.shares(problem);
    let used = loads.iter().zip(problem.network.links());
    let cost: f64 = used.map(|(load, link)| curve.at(load / link.capacity.get())).sum();
    Ok(DelaySolution {
        cost,
        lower_bound: lower_bound.min(cost),
        status: ended.status(relative_gap(cost, lower_bound)),
        loads,
        paths,
        link_prices: link_prices.iter().map(|price| price / unit).collect(),
        iterations: generation.master.pivots,
    })
}

/// `min_{x ≥ 0} φ((b + x) / c) − y x`, which is at 0 or where the slope passes `y c`, for `y c` no more than the
/// last slope.
pub(super) fn least_at(curve: &DelayCurve, capacity: f64, background: f64, price: f64) -> f64 {
    let mut least = curve.at(background / capacity);
    for end in curve.ends.iter().filter(|end| end.is_finite() && **end * capacity > background) {
        least = least.min(curve.at(*end) - price * (end * capacity - background));
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_at_their_kinks_what_the_formulas_say() {
        let curve = DelayCurve::fortz_thorup();
        assert!((curve.at(1.0 / 3.0) - 1.0 / 3.0).abs() < 1e-12);
        // The line 70 u − 178 / 3.
        assert!((curve.at(1.0) - (70.0 - 178.0 / 3.0)).abs() < 1e-12);
        let queue = DelayCurve::queueing(8);
        assert!((queue.at(0.5) - 1.0).abs() < 1e-12);
        assert!((queue.at(0.75) - 3.0).abs() < 1e-12);
    }

    #[test]
    fn slopes_that_do_not_rise_are_refused() {
        let falling = DelayCurve::new(vec![0.5], vec![2.0, 1.0]);
        assert_eq!(falling, Err(FlowError::Value { what: "slope", index: 1, value: 1.0 }));
        let missing = DelayCurve::new(vec![0.5], vec![2.0]);
        assert_eq!(missing, Err(FlowError::Length { what: "slopes", found: 1, expected: 2 }));
    }
}
