//! What is the cheapest split, and the cheapest within a budget?
//!
//! A budget is priced: at a multiplier `ν` on dollars the best split spends some amount, less as `ν` rises.
//! Two splits, one over and one under the budget, cost the same at one `ν`; the best split there either
//! replaces one of the two or proves that both are best, and with them every split between.

use traflux_core::SolveError;

use super::{Layout, MAX_STEPS, ROUNDING, TransportEngine};
use crate::simplex::{Ended, Piece};
use crate::stage::{Solved, Stage};
use crate::two_stage;

/// What is minimised: `scale · (delay + latency + churn) + dollar · price`.
#[derive(Debug, Clone, Copy)]
struct Weights {
    scale: f64,
    dollar: f64,
}

/// One best split under some weights.
#[derive(Debug, Clone)]
struct Point {
    added: Vec<f64>,
    /// Seconds per second, priced at the problem's own `α`.
    cost: f64,
    /// Dollars per second.
    spend: f64,
    optimal: bool,
}

impl TransportEngine {
    /// Stage 2 over the transport structure, within the budget.
    pub(super) fn least_cost_of(
        &mut self,
        stage: &Stage<'_>,
        layout: &mut Layout,
    ) -> Result<Solved, SolveError> {
        let alpha = stage.goal.seconds_per_dollar;
        let free = self.best(stage, layout, Weights { scale: 1.0, dollar: alpha }, None);
        let (point, budget_price, softened) = match stage.budget {
            Some(budget) if free.optimal && free.spend > budget * (1.0 + ROUNDING) => {
                self.within_budget(stage, layout, free, budget)
            }
            _ => (free, 0.0, Vec::new()),
        };
        let resource_price = self.resource_prices(stage, layout);
        Ok(Solved {
            added: point.added,
            resource_price,
            extra: vec![0.0; stage.problem.routes()],
            budget_price,
            softened,
            optimal: point.optimal,
        })
    }

    /// The best split that spends at most the budget, its multiplier, and what had to be softened.
    fn within_budget(
        &mut self,
        stage: &Stage<'_>,
        layout: &mut Layout,
        free: Point,
        budget: f64,
    ) -> (Point, f64, Vec<String>) {
        let alpha = stage.goal.seconds_per_dollar;
        let mut softened = Vec::new();
        let mut over = free;
        let mut under = self.best(stage, layout, Weights { scale: 0.0, dollar: 1.0 }, Some(&over.added));
        let budget = if under.spend > budget * (1.0 + ROUNDING) {
            softened.push(budget_words(budget, under.spend));
            under.spend
        } else {
            budget
        };
        let mut multiplier = 0.0;
        let mut optimal = under.optimal;
        for _ in 0..MAX_STEPS {
            let apart = over.spend - under.spend;
            if !optimal || apart <= 1e-13 * over.spend {
                break;
            }
            multiplier = ((under.cost - over.cost) / apart).max(0.0);
            let weights = Weights { scale: 1.0, dollar: alpha + multiplier };
            let point = self.best(stage, layout, weights, Some(&over.added));
            optimal &= point.optimal;
            let line = over.cost + multiplier * over.spend;
            let better = line - (point.cost + multiplier * point.spend) > 1e-11 * line.abs();
            if !better || !point.optimal {
                break;
            }
            if point.spend > budget {
                over = point;
            } else {
                under = point;
            }
        }
        // Both ends are best under the multiplier, so is every split between them.
        let apart = over.spend - under.spend;
        let part = if apart > 0.0 { ((budget - under.spend) / apart).clamp(0.0, 1.0) } else { 0.0 };
        let added = over.added.iter().zip(&under.added).map(|(o, u)| u + part * (o - u)).collect();
        let point = Point {
            added,
            cost: under.cost + part * (over.cost - under.cost),
            spend: under.spend + part * apart,
            optimal,
        };
        (point, multiplier, softened)
    }

    fn best(
        &mut self,
        stage: &Stage<'_>,
        layout: &mut Layout,
        weights: Weights,
        start: Option<&[f64]>,
    ) -> Point {
        let tolerance = self.build_costs(stage, layout, weights);
        if let Some(added) = start {
            self.preset(stage, layout, added);
        } else {
            let greedy = self.greedy(stage, layout);
            self.preset(stage, layout, &greedy);
            let cost = self.network.cost();
            let held = Self::in_force(stage);
            self.preset(stage, layout, &held);
            if self.network.cost() >= cost {
                self.preset(stage, layout, &greedy);
            }
        }
        let ended = self.run(stage, layout, tolerance, stage.problem.until);
        let mut added = layout.volumes(stage, &self.network);
        let optimal = ended == Ended::Optimal;
        let fits = Self::meets_the_rest(stage, &added, |r| {
            if layout.node[r].is_some() { stage.caps[r] } else { f64::INFINITY }
        });
        if !optimal && !fits {
            added.clone_from(&self.levelled);
        }
        let shares = stage.shares(&added);
        let loads = stage.problem.loads(&shares);
        let volume = |r: usize| shares[r] * stage.problem.demand[stage.problem.flow_of[r]];
        Point {
            cost: two_stage::objective(stage.problem, stage.goal, &shares, &loads),
            spend: (0..shares.len()).map(|r| stage.problem.price[r] * volume(r)).sum(),
            added,
            optimal,
        }
    }

    /// Builds the network of stage 2; returns the tolerance on reduced costs.
    fn build_costs(&mut self, stage: &Stage<'_>, layout: &mut Layout, weights: Weights) -> f64 {
        let problem = stage.problem;
        let (unit, rate) = (layout.unit, layout.rate.clone());
        let churn = weights.scale * stage.goal.churn_seconds;
        let cost =
            |route: usize| weights.scale * problem.delay[route] + weights.dollar * problem.price[route];
        let mut greatest = 0.0f64;
        let mut typical = 0.0f64;
        for &(route, _, resource) in &layout.arcs {
            let curve = resource.and_then(|r| problem.curve[r].as_ref().map(|c| (c, r)));
            let slope = |load: fn(&Stage<'_>, usize) -> f64| {
                curve.map_or(0.0, |(c, r)| weights.scale * rate[r] * c.slope_after(load(stage, r)))
            };
            greatest = greatest.max(cost(route) + slope(|s, r| s.caps[r]));
            typical += cost(route) + slope(|s, r| s.fixed[r]);
        }
        typical /= layout.arcs.len().max(1) as f64;
        let flows = layout.flow_node.iter().flatten().count();
        // Dearer than any detour: a path through the network alternates between flows and resources.
        let beyond = 4.0 * (flows + 2) as f64 * (greatest + churn).max(f64::MIN_POSITIVE);
        self.build(
            stage,
            layout,
            |route| {
                let room = stage.room[route] / unit;
                let demand = problem.demand[problem.flow_of[route]];
                let kink = (problem.previous[route] * demand - stage.floor_volume(route)) / unit;
                let kink = if churn > 0.0 { kink.clamp(0.0, room) } else { 0.0 };
                [
                    Piece { slope: cost(route) - churn, end: kink },
                    Piece { slope: cost(route) + churn, end: room },
                ]
            },
            |r, pieces| {
                let scale = rate[r] * unit;
                let room = |end: f64| (end - stage.fixed[r]) / scale;
                if let Some(curve) = &problem.curve[r] {
                    pieces.extend(curve.pieces(stage.fixed[r], stage.caps[r]).map(|(slope, end)| Piece {
                        slope: weights.scale * slope * rate[r],
                        end: room(end),
                    }));
                } else {
                    pieces.push(Piece { slope: 0.0, end: room(stage.caps[r]) });
                }
                pieces.push(Piece { slope: beyond, end: f64::INFINITY });
            },
        );
        1e-11 * (typical + churn)
    }

    /// Seconds that one more unit of load on each resource costs.
    fn resource_prices(&self, stage: &Stage<'_>, layout: &Layout) -> Vec<f64> {
        let problem = stage.problem;
        let mut beyond = vec![f64::INFINITY; problem.resources()];
        let mut wanted = vec![0.0f64; problem.resources()];
        for &(route, arc, resource) in &layout.arcs {
            let Some(r) = resource else { continue };
            beyond[r] = self.network.pieces(layout.sink[r]).last().map_or(f64::INFINITY, |p| p.slope);
            let from = layout.flow_node[problem.flow_of[route]].expect("arcs belong to flows with volume");
            let pieces = self.network.pieces(arc);
            let flow = self.network.flow(arc);
            // What the flow would pay for one more unit of this resource.
            if let Some(next) = pieces.iter().find(|p| p.end > flow + 1e-15) {
                wanted[r] = wanted[r].max(self.network.price(from) - next.slope);
            }
        }
        (0..problem.resources())
            .map(|r| {
                let slope = |load: f64| problem.curve[r].as_ref().map_or(0.0, |c| c.slope_after(load));
                let Some(node) = layout.node[r] else { return slope(stage.fixed[r]) };
                let price = self.network.price(node);
                // A resource without any room may be priced by the arc beyond its cap: any price from what
                // is wanted upwards is a dual, the least tells most.
                let price = if price > 0.5 * beyond[r] { wanted[r] } else { price };
                (price / layout.rate[r]).max(0.0)
            })
            .collect()
    }
}

/// The sentence about a budget that cannot be met; both in dollars per second.
pub(crate) fn budget_words(budget: f64, least: f64) -> String {
    format!("budget of ${:.2}/h: the least possible is ${:.2}/h", budget * 3600.0, least * 3600.0)
}
