//! What is it worth to let these pairs leave their base routing?

use serde::{Deserialize, Serialize};
use traflux_core::{BaseRouting, GroupIx, Network, TrafficMatrix};
use traflux_lp::multicommodity::{FlowProblem, FlowSolution, MinMaxSolver, Preference};
use traflux_te::{check_served, performance_ratio, selected_share};

use crate::error::SimError;

/// Traffic matrices of one network, in the order of time.
#[derive(Debug, Clone)]
pub struct TrafficSeries {
    network: Network,
    base: BaseRouting,
    matrices: Vec<TrafficMatrix>,
    optimal: Vec<f64>,
}

/// What came of one choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// Maximum link utilisation.
    pub utilization: f64,
    /// `PR_U`: the least that any routing reaches over `utilization`, in (0, 1].
    pub performance_ratio: f64,
    /// Share of all traffic that belongs to the chosen pairs, moved or not: the rerouting disturbance of Zhang et
    /// al. (2020).
    pub selected_share: f64,
    /// Share of all traffic that left its base routing; of the optimal flows those that move least.
    pub moved_share: f64,
}

/// What is rewarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Worth {
    /// `PR_U`: every matrix counts alike.
    #[default]
    PerformanceRatio,
    /// One over the maximum utilisation, as Zhang et al. (2020).
    InverseUtilization,
}

/// How a choice is rewarded.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionReward {
    /// What is rewarded.
    pub worth: Worth,
    /// What is taken off for all traffic being chosen; in proportion for a part of it.
    pub disturbance_price: f64,
    /// Whether pairs and their splits meet the next matrix instead of the one they were made for.
    pub stale: bool,
}

impl TrafficSeries {
    /// Solves for the least maximum utilisation of every matrix.
    ///
    /// # Errors
    /// [`SimError::Network`] for a matrix of another number of nodes or a demand that the base does not serve,
    /// [`SimError::Flow`] when the solver fails.
    pub fn new(network: Network, base: BaseRouting, matrices: Vec<TrafficMatrix>) -> Result<Self, SimError> {
        let mut solver = MinMaxSolver::new(&network);
        let mut optimal = Vec::with_capacity(matrices.len());
        for demands in &matrices {
            check_served(&network, &base, demands)?;
            optimal.push(solver.solve(&FlowProblem::all(&network, demands)?, None)?.utilization);
        }
        Ok(Self { network, base, matrices, optimal })
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What routers do by themselves.
    #[must_use]
    pub fn base(&self) -> &BaseRouting {
        &self.base
    }

    /// The matrices.
    #[must_use]
    pub fn matrices(&self) -> &[TrafficMatrix] {
        &self.matrices
    }

    /// The least maximum utilisation of each matrix.
    #[must_use]
    pub fn optimal(&self) -> &[f64] {
        &self.optimal
    }

    /// How many choices can be judged: one per matrix, or one less where they meet the next.
    #[must_use]
    pub fn steps(&self, stale: bool) -> usize {
        self.matrices.len().saturating_sub(usize::from(stale))
    }

    /// Judges one choice by the optimal flows that move the least traffic; all chosen pairs may take any paths.
    ///
    /// `stale`: the flows are those for the matrix at `at`, judged on the next.
    ///
    /// # Errors
    /// [`SimError::Flow`] when the solver fails.
    ///
    /// # Panics
    /// When there is no such matrix or pair.
    pub fn judge(&self, at: usize, critical: &[GroupIx], stale: bool) -> Result<Judgement, SimError> {
        let demands = &self.matrices[at];
        let (problem, solution) = self.solve(&mut MinMaxSolver::new(&self.network), at, critical, true)?;
        let moved: f64 = problem
            .commodities
            .iter()
            .zip(&solution.base_share)
            .map(|(c, stays)| c.demand * (1.0 - stays))
            .sum();
        let total = demands.total();
        let (utilization, met) = if stale {
            let routing = solution.routing(&problem)?;
            let loads = routing.loads(&self.network, &self.base, &self.matrices[at + 1]);
            (self.network.max_utilization(&loads), at + 1)
        } else {
            (solution.utilization, at)
        };
        Ok(Judgement {
            utilization,
            performance_ratio: performance_ratio(self.optimal[met], utilization),
            selected_share: selected_share(&self.network, demands, critical),
            moved_share: if total > 0.0 { moved / total } else { 0.0 },
        })
    }

    /// Rewards of several choices at one matrix. They do not depend on what was asked before, so any number
    /// of threads may ask.
    ///
    /// # Errors
    /// [`SimError::Flow`] when the solver fails.
    ///
    /// # Panics
    /// When there is no such matrix or pair.
    pub fn rewards(
        &self,
        at: usize,
        sets: &[Vec<GroupIx>],
        reward: &SelectionReward,
    ) -> Result<Vec<f64>, SimError> {
        let mut solver = MinMaxSolver::new(&self.network);
        sets.iter().map(|set| self.reward(&mut solver, at, set, reward)).collect()
    }

    pub(super) fn reward(
        &self,
        solver: &mut MinMaxSolver,
        at: usize,
        critical: &[GroupIx],
        reward: &SelectionReward,
    ) -> Result<f64, SimError> {
        let (utilization, met) = if reward.stale {
            let (problem, solution) = self.solve(solver, at, critical, true)?;
            let loads = solution.routing(&problem)?.loads(&self.network, &self.base, &self.matrices[at + 1]);
            (self.network.max_utilization(&loads), at + 1)
        } else {
            (self.solve(solver, at, critical, false)?.1.utilization, at)
        };
        let worth = match reward.worth {
            Worth::PerformanceRatio => performance_ratio(self.optimal[met], utilization),
            // Without load there is nothing to choose and nothing to earn.
            Worth::InverseUtilization if utilization > 0.0 => 1.0 / utilization,
            Worth::InverseUtilization => 0.0,
        };
        if reward.disturbance_price == 0.0 {
            return Ok(worth);
        }
        Ok(worth - reward.disturbance_price * selected_share(&self.network, &self.matrices[at], critical))
    }

    fn solve(
        &self,
        solver: &mut MinMaxSolver,
        at: usize,
        critical: &[GroupIx],
        least_rerouted: bool,
    ) -> Result<(FlowProblem<'_>, FlowSolution), SimError> {
        let problem = FlowProblem::critical(&self.network, &self.base, &self.matrices[at], critical)?;
        let preference =
            if least_rerouted { Preference::LeastRerouted(&self.base) } else { Preference::None };
        let solution = solver.solve_preferring(&problem, preference, None)?;
        Ok((problem, solution))
    }
}
