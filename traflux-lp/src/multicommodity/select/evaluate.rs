//! What is a set of pairs worth?

use traflux_core::{BaseRouting, GroupIx, Network, Routing, TrafficMatrix};

use super::super::check::verify;
use super::super::{FlowError, FlowProblem, MinMaxSolver, Preference};
use super::FractionalBound;

/// One door to all that a choice of pairs is judged by, on one network and base; solvers are kept between calls.
///
/// What results are made of passes the independent checker first, [`verify`]: outcomes and optima. The bare
/// [`utilization`](Self::utilization), from which searches and rewards take millions of numbers, does not.
///
/// No number depends on what was asked before, beyond rounding; a routing may where several are equally good, see
/// [`MinMaxSolver`].
///
/// ```
/// use traflux_core::{BaseRouting, BitRate, GroupIx, Latency, Link, LinkIx, Network, Node, NodeIx, TrafficMatrix};
/// use traflux_lp::multicommodity::select::SelectionEvaluator;
///
/// // Two links from a to b; the base knows the first only.
/// let nodes = ["a", "b"].map(|name| Node { name: name.to_owned(), position: None });
/// let link = Link {
///     tail: NodeIx(0),
///     head: NodeIx(1),
///     capacity: BitRate::gigabits_per_second(1.0),
///     weight: 1.0,
///     delay: Latency::ZERO,
/// };
/// let network = Network::new(nodes.to_vec(), vec![link, link])?;
/// let base = BaseRouting::new(&network, [vec![(LinkIx(0), 1.0)], vec![]])?;
/// let mut demands = TrafficMatrix::zero(2);
/// demands.set(NodeIx(0), NodeIx(1), BitRate::gigabits_per_second(0.8));
///
/// let mut evaluator = SelectionEvaluator::new(&network, &base);
/// assert_eq!(evaluator.utilization(&demands, &[])?, 0.8);
/// let outcome = evaluator.outcome(&demands, &[GroupIx(0)])?;
/// assert!((outcome.utilization - 0.4).abs() < 1e-12);
/// assert!((outcome.rerouted_share - 0.5).abs() < 1e-12);
/// assert!((evaluator.optimum(&demands)? - 0.4).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SelectionEvaluator {
    network: Network,
    base: BaseRouting,
    any: MinMaxSolver,
    least_rerouted: MinMaxSolver,
    all: MinMaxSolver,
    fractional: FractionalBound,
}

/// What becomes of a matrix when a set of pairs may leave the base.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectionOutcome {
    /// The least maximum link utilisation.
    pub utilization: f64,
    /// Who leaves the base: of all routings of that utilisation the one with the least traffic off the base.
    pub routing: Routing,
    /// Traffic that leaves the base, as a fraction of all traffic.
    pub rerouted_share: f64,
    /// Load of each link in bit/s.
    pub loads: Vec<f64>,
}

impl SelectionEvaluator {
    /// An evaluator for one network and its base.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting) -> Self {
        Self {
            network: network.clone(),
            base: base.clone(),
            any: MinMaxSolver::new(network),
            least_rerouted: MinMaxSolver::new(network),
            all: MinMaxSolver::new(network),
            fractional: FractionalBound::new(network, base),
        }
    }

    /// Starts from scratch, so that nothing in what follows depends on what was asked before, rounding included.
    pub fn forget(&mut self) {
        for solver in [&mut self.any, &mut self.least_rerouted, &mut self.all] {
            solver.forget();
        }
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What pairs follow that are not chosen.
    #[must_use]
    pub fn base(&self) -> &BaseRouting {
        &self.base
    }

    /// The maximum link utilisation when nobody leaves the base.
    ///
    /// # Errors
    /// [`FlowError::Network`] for a matrix of another number of nodes.
    pub fn base_utilization(&self, demands: &TrafficMatrix) -> Result<f64, FlowError> {
        self.network.check_matrix(demands)?;
        Ok(self.network.max_utilization(&self.base.loads(&self.network, demands)))
    }

    /// The least maximum link utilisation when `chosen` may leave the base, and only that: the fastest answer.
    ///
    /// # Errors
    /// [`FlowError`] for a matrix of another number of nodes, a pair that is not one of the network, or one with
    /// demand that no path joins.
    pub fn utilization(&mut self, demands: &TrafficMatrix, chosen: &[GroupIx]) -> Result<f64, FlowError> {
        let problem = critical(&self.network, &self.base, demands, chosen)?;
        Ok(self.any.solve(&problem, None)?.utilization)
    }

    /// The same with the routing that moves the least traffic.
    ///
    /// # Errors
    /// As [`SelectionEvaluator::utilization`], and [`FlowError::Check`].
    pub fn outcome(
        &mut self,
        demands: &TrafficMatrix,
        chosen: &[GroupIx],
    ) -> Result<SelectionOutcome, FlowError> {
        let problem = critical(&self.network, &self.base, demands, chosen)?;
        let preference = Preference::LeastRerouted(&self.base);
        let solution = self.least_rerouted.solve_preferring(&problem, preference, None)?;
        verify(&problem, Some(&self.base), &solution)?;
        let routing = solution.routing(&problem)?;
        Ok(SelectionOutcome {
            utilization: solution.utilization,
            rerouted_share: routing.rerouted_share(&self.network, demands),
            routing,
            loads: solution.loads,
        })
    }

    /// The least maximum link utilisation when all pairs may leave.
    ///
    /// # Errors
    /// As [`SelectionEvaluator::utilization`], and [`FlowError::Check`].
    pub fn optimum(&mut self, demands: &TrafficMatrix) -> Result<f64, FlowError> {
        let problem = FlowProblem::all(&self.network, demands)?;
        let solution = self.all.solve(&problem, None)?;
        verify(&problem, None, &solution)?;
        Ok(solution.utilization)
    }

    /// A utilisation that no `count` pairs can go below.
    ///
    /// # Errors
    /// As [`FractionalBound::solve`].
    pub fn lower_bound(&mut self, demands: &TrafficMatrix, count: usize) -> Result<f64, FlowError> {
        Ok(self.fractional.solve(demands, count, None)?.lower_bound)
    }
}

/// [`FlowProblem::critical`] for pairs that anybody may name.
pub(super) fn critical<'a>(
    network: &'a Network,
    base: &BaseRouting,
    demands: &TrafficMatrix,
    chosen: &[GroupIx],
) -> Result<FlowProblem<'a>, FlowError> {
    if let Some(pair) = chosen.iter().find(|pair| pair.ix() >= network.pair_count()) {
        return Err(FlowError::Pair { pair: pair.ix(), pairs: network.pair_count() });
    }
    Ok(FlowProblem::critical(network, base, demands, chosen)?)
}
