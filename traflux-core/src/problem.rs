//! What exactly is the solver asked, and what does it answer?
//!
//! A [`SplitProblem`] is self-contained numbers: shares `w_fr ∈ [lower, upper]` with `Σ_r w_fr = 1`, volumes
//! `x_fr = demand_f · w_fr`, loads `X_i = background_i + Σ a_ri x_r`. [`Objective::TwoStage`] then asks
//!
//! 1. `min θ` subject to `X_i ≤ θ μ_i`;
//! 2. `min Σ delay_r x_r + Σ m_i g_i(X_i) + α Σ price_r x_r + κ Σ |x_r − x_r⁰|` subject to
//!    `X_i ≤ max(ρ_max, (1+ε) θ*) μ_i`, with `g_i` bounded below by tangents of the latency curve.
//!
//! All in seconds of delay per second; `α` turns dollars into seconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::curve::LatencyCurve;
use crate::split::Split;
use crate::topology::{Generation, Topology};

/// One route of a problem.
#[derive(Debug, Clone, PartialEq)]
pub struct ProblemRoute {
    /// Least share.
    pub lower: f64,
    /// Greatest share; equal to `lower` for a frozen route.
    pub upper: f64,
    /// Share in force now, from which churn is counted.
    pub previous: f64,
    /// Delay that no load changes, in seconds.
    pub delay: f64,
    /// Marginal price in dollars per request.
    pub price: f64,
    /// (resource position, units per request).
    pub consumption: Vec<(usize, f64)>,
}

/// One resource of a problem.
#[derive(Debug, Clone, PartialEq)]
pub struct ProblemResource {
    /// Capacity to count on, units/s. Zero: nothing fits.
    pub capacity: f64,
    /// Load that no flow here controls, units/s.
    pub background: f64,
    /// Latency curve, where the resource is one that requests wait for.
    pub curve: Option<LatencyCurve>,
    /// A factor on its latency cost, 1 = neutral.
    pub multiplier: f64,
    /// What fails together: an index equal for all resources of one domain.
    pub domain: Option<usize>,
}

/// The two-stage objective's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TwoStage {
    /// `ρ_max`: the utilisation that stage 2 may use freely.
    pub max_utilization: f64,
    /// `ε`: how much above the least possible maximum stage 2 may go, when even that exceeds `ρ_max`.
    pub slack: f64,
    /// `α`: seconds that one dollar is worth.
    pub seconds_per_dollar: f64,
    /// `κ`: seconds of delay that moving one request is worth.
    pub churn_seconds: f64,
    /// Tangents per latency curve.
    pub tangents: usize,
    /// Most dollars per hour of marginal price, where limited.
    pub budget_per_hour: Option<f64>,
    /// Keep room so that the loss of any one domain leaves the others at most this utilised (N−1).
    pub survive_domain_loss: Option<f64>,
}

impl Default for TwoStage {
    fn default() -> Self {
        Self {
            max_utilization: 0.8,
            slack: 0.02,
            seconds_per_dollar: 0.0,
            churn_seconds: 0.0,
            tangents: 13,
            budget_per_hour: None,
            survive_domain_loss: None,
        }
    }
}

/// What is minimised.
#[derive(Debug, Clone, PartialEq)]
pub enum Objective {
    /// Least maximum utilisation, then delay, price and churn under that cap.
    TwoStage(TwoStage),
    /// The literal `min max_r w_r · k_r` per flow with the given cost `k` of each route. It ignores capacity;
    /// offered for comparison.
    MinMaxWeightedCost {
        /// Cost of each route, positive.
        costs: Vec<f64>,
    },
}

/// A complete question to a solver.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitProblem {
    /// The topology that its indices belong to.
    pub generation: Generation,
    /// Flow offsets into `routes`: flow count + 1 numbers.
    pub flow_offsets: Vec<usize>,
    /// Demand to plan for, by flow, requests/s, headroom included.
    pub demand: Vec<f64>,
    /// Routes by flow.
    pub routes: Vec<ProblemRoute>,
    /// Resources.
    pub resources: Vec<ProblemResource>,
    /// What is minimised.
    pub objective: Objective,
    /// Time limit.
    pub deadline: Duration,
}

/// How good the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum SolverStatus {
    /// Proven optimal within the solver's tolerance.
    Optimal,
    /// The deadline passed: feasible, at most this relative gap from the optimum.
    Gap {
        /// Relative gap.
        gap: f64,
    },
    /// Demand exceeds capacity (`θ* > 1`): the split minimises the worst overload. Something must be shed.
    Overloaded,
    /// There is no demand: the split in force is kept as far as bounds allow.
    NoDemand,
}

/// A solver's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitSolution {
    /// The split.
    pub split: Split,
    /// How good it is.
    pub status: SolverStatus,
    /// `θ*` of stage 1: the least possible maximum utilisation.
    pub theta: f64,
    /// Objective of stage 2 in seconds of delay per second; of the literal form, its maximum.
    pub objective: f64,
    /// By resource: seconds of total delay per second that one more unit/s of *capacity cap* would save; ≥ 0.
    /// Zero where the cap does not bind.
    pub capacity_duals: Vec<f64>,
    /// By flow: seconds of total delay per second that one more request/s of demand costs.
    pub demand_duals: Vec<f64>,
    /// By route: how many seconds per request worse than the best movable route of its flow; ≥ 0 at the lower
    /// bound, ≤ 0 at the upper, 0 between.
    pub reduced_costs: Vec<f64>,
    /// Seconds that one dollar of budget would save; 0 without a binding budget.
    pub budget_dual: f64,
    /// Constraints that had to be softened (N−1), in words.
    pub softened: Vec<String>,
    /// Simplex pivots or iterations.
    pub iterations: usize,
    /// Name of the solver.
    pub solver: String,
}

/// One sentence of why the split is as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Explanation {
    /// A resource is at its cap.
    Capped {
        /// Its name.
        resource: String,
        /// What one more request/s on it would cost elsewhere, in milliseconds of delay.
        cost_ms: f64,
    },
    /// A flow's marginal cost.
    MarginalDemand {
        /// Its name.
        flow: String,
        /// Milliseconds of total delay that one more request/s costs.
        cost_ms: f64,
    },
    /// Demand exceeds capacity.
    Overloaded {
        /// Least possible maximum utilisation.
        theta: f64,
    },
    /// The budget binds.
    BudgetBinds {
        /// Milliseconds of total delay per second that one more dollar per second would save.
        ms_per_dollar: f64,
    },
    /// A constraint was softened.
    Softened {
        /// Which.
        constraint: String,
    },
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Capped { resource, cost_ms } => {
                write!(f, "{resource} is capped: one more request/s there costs {cost_ms:.0} ms")
            }
            Self::MarginalDemand { flow, cost_ms } => {
                write!(f, "one more request/s of {flow} costs {cost_ms:.0} ms")
            }
            Self::Overloaded { theta } => write!(
                f,
                "demand exceeds capacity: the best split still reaches {:.0} % utilization",
                theta * 100.0
            ),
            Self::BudgetBinds { ms_per_dollar } => {
                write!(f, "the budget binds: one more dollar would save {ms_per_dollar:.0} ms of delay")
            }
            Self::Softened { constraint } => write!(f, "{constraint} cannot be met and was softened"),
        }
    }
}

impl SplitSolution {
    /// Turns duals into sentences, the costliest first.
    #[must_use]
    pub fn explain(&self, topology: &Topology) -> Vec<Explanation> {
        let mut capped: Vec<(f64, String)> = self
            .capacity_duals
            .iter()
            .zip(topology.resources())
            .filter(|(dual, _)| **dual > 1e-9)
            .map(|(dual, resource)| (dual * 1e3, resource.name.clone()))
            .collect();
        capped.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let mut out = Vec::new();
        if self.status == SolverStatus::Overloaded {
            out.push(Explanation::Overloaded { theta: self.theta });
        }
        out.extend(capped.into_iter().map(|(cost_ms, resource)| Explanation::Capped { resource, cost_ms }));
        if self.budget_dual > 1e-9 {
            out.push(Explanation::BudgetBinds { ms_per_dollar: self.budget_dual * 1e3 });
        }
        out.extend(self.softened.iter().map(|c| Explanation::Softened { constraint: c.clone() }));
        let demand = self.demand_duals.iter().zip(topology.flows());
        out.extend(
            demand.map(|(d, flow)| Explanation::MarginalDemand { flow: flow.name.clone(), cost_ms: d * 1e3 }),
        );
        out
    }
}
