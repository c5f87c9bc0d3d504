//! What is it worth to let these pairs leave their base routing?

use serde::{Deserialize, Serialize};
use traflux_core::{BaseRouting, GroupIx, Network, TrafficMatrix};
use traflux_lp::multicommodity::select::SelectionEvaluator;
use traflux_te::{check_served, performance_ratio, selected_share};

use super::judge::{Judgement, judge};
use crate::error::SimError;

/// Traffic matrices of one network, in the order of time.
#[derive(Debug, Clone)]
pub struct TrafficSeries {
    network: Network,
    base: BaseRouting,
    matrices: Vec<TrafficMatrix>,
    optimal: Vec<f64>,
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
        let mut evaluator = SelectionEvaluator::new(&network, &base);
        let mut optimal = Vec::with_capacity(matrices.len());
        for demands in &matrices {
            check_served(&network, &base, demands)?;
            optimal.push(evaluator.optimum(demands)?);
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

    /// What judges choices on this network.
    #[must_use]
    pub fn evaluator(&self) -> SelectionEvaluator {
        SelectionEvaluator::new(&self.network, &self.base)
    }

    /// Judges one choice, see [`judge()`]; the evaluator must be one for the series' network and base.
    ///
    /// `stale`: the flows are those for the matrix at `at`, judged on the next.
    ///
    /// # Errors
    /// [`SimError::Flow`] when the solver fails.
    ///
    /// # Panics
    /// When there is no such matrix.
    pub fn judge(
        &self,
        evaluator: &mut SelectionEvaluator,
        at: usize,
        critical: &[GroupIx],
        stale: bool,
    ) -> Result<Judgement, SimError> {
        let met = at + usize::from(stale);
        judge(evaluator, critical, &self.matrices[at], &self.matrices[met], self.optimal[met])
    }

    /// Rewards of several choices at one matrix. They do not depend on what was asked before, so any number
    /// of threads may ask.
    ///
    /// # Errors
    /// [`SimError::Flow`] when the solver fails.
    ///
    /// # Panics
    /// When there is no such matrix.
    pub fn rewards(
        &self,
        at: usize,
        sets: &[Vec<GroupIx>],
        reward: &SelectionReward,
    ) -> Result<Vec<f64>, SimError> {
        let mut evaluator = self.evaluator();
        sets.iter().map(|set| self.reward(&mut evaluator, at, set, reward)).collect()
    }

    /// The reward of one choice at one matrix by an evaluator that is kept for many; it must be one for the series'
    /// network and base. Beyond rounding the reward does not depend on what was asked before.
    ///
    /// # Errors
    /// [`SimError::Flow`] when the solver fails.
    ///
    /// # Panics
    /// When there is no such matrix.
    pub fn reward(
        &self,
        evaluator: &mut SelectionEvaluator,
        at: usize,
        critical: &[GroupIx],
        reward: &SelectionReward,
    ) -> Result<f64, SimError> {
        let demands = &self.matrices[at];
        let (utilization, met) = if reward.stale {
            let routing = evaluator.outcome(demands, critical)?.routing;
            let loads = routing.loads(&self.network, &self.base, &self.matrices[at + 1]);
            (self.network.max_utilization(&loads), at + 1)
        } else {
            (evaluator.utilization(demands, critical)?, at)
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
        Ok(worth - reward.disturbance_price * selected_share(&self.network, demands, critical))
    }
}
