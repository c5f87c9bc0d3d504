//! What does "minimise the maximum weighted cost", taken literally, give?
//!
//! `min max_r w_r k_r` per flow with `Σ w = 1` and bounds. Without bounds `w_r = (1/k_r) / Σ (1/k_j)`; with
//! bounds the shares are `clamp(t / k_r, lower_r, upper_r)` at the level `t` where they sum to 1. Loads and
//! capacities do not occur: this form overloads a cheap endpoint and never learns of it. It is here to be
//! compared with.

use crate::validate::ValidProblem;

/// The levelled shares and the greatest `w_r k_r` of all flows.
pub(crate) fn level_weighted_cost(problem: &ValidProblem, costs: &[f64]) -> (Vec<f64>, f64) {
    let mut shares = Vec::with_capacity(costs.len());
    for flow in 0..problem.flows() {
        let range = problem.range(flow);
        let rate: Vec<f64> = costs[range.clone()].iter().map(|k| 1.0 / k).collect();
        shares.extend(problem.row(flow).level(&vec![0.0; range.len()], &rate).0);
    }
    let worst = shares.iter().zip(costs).map(|(w, k)| w * k).fold(0.0, f64::max);
    (shares, worst)
}
