//! Which few paths should be set up for each pair of nodes?
//!
//! A controller that splits traffic over tunnels can be no better than its tunnels. The usual choice, the `k`
//! shortest paths, knows nothing of capacities and demands. Here a history of matrices decides: a path is taken
//! when the linear program over the paths so far
//!
//! ```text
//! θ_P(D) = min θ   s.t.   Σ_{p ∈ P_k} x_p = d_k,   Σ_{p ∋ l} x_p ≤ θ c_l,   x ≥ 0
//! ```
//!
//! asks for it by its prices (column generation: Ford and Fulkerson 1958), until `θ_P(D)` is within a tolerance of
//! the optimum over all paths, `θ(D)`, for every matrix `D`. What the search added for nothing is taken out again.
//! Each matrix comes with lengths that prove the bound on `θ(D)`, see the [module](super).

use std::num::NonZeroUsize;
use std::time::Instant;

use traflux_core::{GroupIx, LinkIx, Network, NodeIx, ShortestPaths, TrafficMatrix};

use super::graph::Graph;
use super::min_max::Growth;
use super::{Commodity, FlowError, FlowProblem, FlowSolution, MinMaxSolver, passed, relative_gap};

/// How many times paths are looked for in place of those that the limit took away.
const REPAIRS: usize = 2;

/// How often the clock is read while paths are given.
const PAIRS_PER_LOOK: usize = 256;

/// How many paths there may be, and how good they have to be.
#[derive(Debug, Clone, PartialEq)]
pub struct PathChoice {
    /// Every pair gets so many paths before any are chosen, where the network has them and `most_paths` allows it:
    /// its shortest by weight, then one after the other the path that has fewest links in common with those
    /// before, the shortest of these by weight. Matrices that were not given need them, and so does a pair one of
    /// whose links fails.
    pub least_paths: NonZeroUsize,
    /// The most paths of a pair.
    pub most_paths: NonZeroUsize,
    /// What the utilisation over the chosen paths may exceed the optimum over all paths by, as a part of the
    /// former: not negative.
    pub tolerance: f64,
}

impl Default for PathChoice {
    fn default() -> Self {
        let paths = |count: usize| NonZeroUsize::MIN.saturating_add(count - 1);
        Self { least_paths: paths(2), most_paths: paths(4), tolerance: 0.01 }
    }
}

/// Why the search for paths ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathSetsStatus {
    /// Every matrix is within the tolerance.
    Reached,
    /// Some matrix is not: pairs would need more paths than they may have, or rounding is in the way.
    Limited,
    /// The deadline passed.
    Deadline,
}

/// How well the chosen paths serve one matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct PathSetsFit {
    /// The least maximum link utilisation over the chosen paths, or what was reached by the deadline.
    pub utilization: f64,
    /// No flows over any paths can have a lower one.
    pub lower_bound: f64,
    /// Lengths `y` that prove the bound, by link, `Σ c_l y_l = 1`.
    pub link_prices: Vec<f64>,
}

impl PathSetsFit {
    /// What the choice of paths costs at most: `(utilization − lower_bound) / utilization`, 0 for no load.
    #[must_use]
    pub fn gap(&self) -> f64 {
        relative_gap(self.utilization, self.lower_bound)
    }
}

/// The paths of each pair, and how well they serve the matrices they were chosen for.
#[derive(Debug, Clone, PartialEq)]
pub struct PathSets {
    /// By pair.
    paths: Vec<Vec<Vec<LinkIx>>>,
    /// By matrix, in the order given.
    pub fits: Vec<PathSetsFit>,
    /// Why the search ended.
    pub status: PathSetsStatus,
}

/// The paths of one pair by the names of the nodes on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPaths<'a> {
    /// Name of the source.
    pub source: &'a str,
    /// Name of the target.
    pub target: &'a str,
    /// Names of all nodes of each path, source and target included; the shortest path by weight first.
    pub paths: Vec<Vec<&'a str>>,
}

impl PathSets {
    /// The paths of a pair, links from source to target: the shortest by weight first, then by the traffic of all
    /// matrices on them. Empty where no path joins the pair.
    ///
    /// # Panics
    /// When there is no such pair.
    #[must_use]
    pub fn of(&self, pair: GroupIx) -> &[Vec<LinkIx>] {
        &self.paths[pair.ix()]
    }

    /// How many paths all pairs have together.
    #[must_use]
    pub fn path_count(&self) -> usize {
        self.paths.iter().map(Vec::len).sum()
    }

    /// The most paths any pair has.
    #[must_use]
    pub fn most_paths(&self) -> usize {
        self.paths.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The largest gap of any matrix, 0 where there is none.
    #[must_use]
    pub fn worst_gap(&self) -> f64 {
        self.fits.iter().map(PathSetsFit::gap).fold(0.0, f64::max)
    }

    /// The paths of each commodity, as [`MinMaxSolver::solve_listed`] takes them.
    ///
    /// # Panics
    /// When the problem is on another network than the one the paths were chosen for.
    #[must_use]
    pub fn listed(&self, problem: &FlowProblem<'_>) -> Vec<Vec<Vec<LinkIx>>> {
        let pair = |commodity: &Commodity| problem.network.pair_ix(commodity.source, commodity.target);
        problem.commodities.iter().map(|commodity| self.of(pair(commodity)).to_vec()).collect()
    }

    /// The paths of all pairs that have any, by the names of nodes. Of parallel links the names tell nothing.
    ///
    /// # Panics
    /// When the paths were chosen for another network.
    #[must_use]
    pub fn named<'a>(&self, network: &'a Network) -> Vec<NamedPaths<'a>> {
        let name = |node: NodeIx| network.nodes()[node.ix()].name.as_str();
        let mut named = Vec::new();
        for (pair, paths) in self.paths.iter().enumerate().filter(|(_, paths)| !paths.is_empty()) {
            let (source, target) = network.pair(GroupIx::from(pair));
            let nodes = |links: &Vec<LinkIx>| {
                let heads = links.iter().map(|link| name(network.links()[link.ix()].head));
                std::iter::once(name(source)).chain(heads).collect()
            };
            let paths = paths.iter().map(nodes).collect();
            named.push(NamedPaths { source: name(source), target: name(target), paths });
        }
        named
    }
}

/// Chooses paths for all pairs so that each of the matrices can be routed over them nearly as well as over all
/// paths there are.
///
/// Every pair that can be joined gets its shortest path by weight, so matrices that were not given can be routed
/// too. Equal arguments give equal paths, unless the deadline passes; then the paths found so far are given, with
/// what is proven of them.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use traflux_core::BitRate;
/// use traflux_lp::multicommodity::{PathChoice, PathSetsStatus, choose_paths};
/// use traflux_te::generate::{LinkModel, TrafficModel, grid};
///
/// let network = grid(3, 3, &LinkModel::default(), 1)?;
/// let mean = BitRate::gigabits_per_second(0.05);
/// let history = TrafficModel::Exponential { mean }.matrices(&network, 5, 2)?;
/// let sets = choose_paths(&network, &history, &PathChoice::default(), None)?;
/// assert_eq!(sets.status, PathSetsStatus::Reached);
/// assert!(sets.worst_gap() <= 0.01);
/// assert!(sets.path_count() < 3 * network.pair_count());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`FlowError::Network`] where a matrix is for another number of nodes, [`FlowError::Value`] for a tolerance
/// that is not finite and not negative, [`FlowError::Disconnected`] for demand between nodes that no path joins,
/// and [`FlowError::Accuracy`] should rounding get the better of the solver.
pub fn choose_paths(
    network: &Network,
    matrices: &[TrafficMatrix],
    choice: &PathChoice,
    deadline: Option<Instant>,
) -> Result<PathSets, FlowError> {
    super::generation::valid("tolerance", 0, choice.tolerance)?;
    for matrix in matrices {
        network.check_matrix(matrix)?;
    }
    let mut search = Search::new(network, matrices, choice.clone(), deadline);
    search.bound()?;
    search.grow()?;
    search.reduce()?;
    search.limit()?;
    search.finish()
}

/// The state of a search. Paths are by commodity: a pair with demand in any of the matrices.
#[derive(Debug)]
struct Search<'a> {
    matrices: &'a [TrafficMatrix],
    choice: PathChoice,
    deadline: Option<Instant>,
    /// The same commodities for all matrices; one that a matrix does not ask for has demand 0 then.
    problem: FlowProblem<'a>,
    /// By pair: what it gets in any case.
    given: Vec<Vec<Vec<LinkIx>>>,
    kept: Vec<Vec<Vec<LinkIx>>>,
    fits: Vec<PathSetsFit>,
    over_all: MinMaxSolver,
    over_kept: MinMaxSolver,
    growing: MinMaxSolver,
}

impl<'a> Search<'a> {
    fn new(
        network: &'a Network,
        matrices: &'a [TrafficMatrix],
        choice: PathChoice,
        deadline: Option<Instant>,
    ) -> Self {
        let given = given_paths(network, choice.least_paths.min(choice.most_paths).get(), deadline);
        let mut commodities = Vec::new();
        let mut kept = Vec::new();
        for (pair, paths) in given.iter().enumerate() {
            let (source, target) = network.pair(GroupIx::from(pair));
            if matrices.iter().any(|matrix| matrix.demand(source, target) > 0.0) {
                commodities.push(Commodity { source, target, demand: 0.0 });
                // Without a path the first solve says so.
                kept.push(paths.clone());
            }
        }
        let background = vec![0.0; network.links().len()];
        let solver = MinMaxSolver::new(network);
        Self {
            matrices,
            choice,
            deadline,
            problem: FlowProblem { network, commodities, background },
            given,
            kept,
            fits: Vec::with_capacity(matrices.len()),
            over_all: solver.clone(),
            over_kept: solver.clone(),
            growing: solver,
        }
    }

    fn ask_for(&mut self, matrix: usize) {
        for commodity in &mut self.problem.commodities {
            commodity.demand = self.matrices[matrix].demand(commodity.source, commodity.target);
        }
    }

    /// Solves every matrix over all paths, for the bounds.
    fn bound(&mut self) -> Result<(), FlowError> {
        for matrix in 0..self.matrices.len() {
            self.ask_for(matrix);
            let solution = self.over_all.solve(&self.problem, self.deadline)?;
            self.fits.push(PathSetsFit {
                utilization: f64::INFINITY,
                lower_bound: solution.lower_bound,
                link_prices: solution.link_prices,
            });
        }
        Ok(())
    }

    /// The utilisation that is good enough for a matrix.
    fn goal(&self, matrix: usize) -> f64 {
        self.fits[matrix].lower_bound / (1.0 - self.choice.tolerance).max(f64::MIN_POSITIVE)
    }

    /// The best flows over the paths at hand.
    fn solve(&mut self, matrix: usize) -> Result<FlowSolution, FlowError> {
        self.ask_for(matrix);
        let preference = super::Preference::None;
        self.over_kept.solve_listed(&self.problem, &self.kept, preference, self.deadline)
    }

    /// How many paths a commodity was given.
    fn given_to(&self, commodity: &Commodity) -> usize {
        self.given[self.problem.network.pair_ix(commodity.source, commodity.target).ix()].len()
    }

    /// Adds the paths that a matrix needs beyond those at hand: that which was solved last.
    fn add_for(&mut self, growth: &Growth<'_>) -> Result<(), FlowError> {
        let solution = self.growing.solve_growing(&self.problem, &self.kept, growth, self.deadline)?;
        for (kept, paths) in self.kept.iter_mut().zip(solution.paths) {
            for path in paths {
                if !kept.contains(&path.links) {
                    kept.push(path.links);
                }
            }
        }
        Ok(())
    }

    /// Adds paths until every matrix is within the tolerance.
    fn grow(&mut self) -> Result<(), FlowError> {
        for matrix in 0..self.matrices.len() {
            if passed(self.deadline) {
                break;
            }
            let goal = self.goal(matrix);
            if self.solve(matrix)?.utilization > goal {
                self.add_for(&Growth { goal, most_paths: usize::MAX, among: None })?;
            }
        }
        Ok(())
    }

    /// Starts from the given paths again and takes only those found before that are still missed, beginning
    /// with the matrices that came last.
    fn reduce(&mut self) -> Result<(), FlowError> {
        if passed(self.deadline) {
            return Ok(());
        }
        let mut least = self.kept.clone();
        for (paths, commodity) in least.iter_mut().zip(&self.problem.commodities) {
            paths.truncate(self.given_to(commodity));
        }
        let grown = std::mem::replace(&mut self.kept, least);
        for matrix in (0..self.matrices.len()).rev() {
            if passed(self.deadline) {
                // Half of a reduction is worse than none.
                self.kept = grown;
                return Ok(());
            }
            let goal = self.goal(matrix);
            if self.solve(matrix)?.utilization > goal {
                self.add_for(&Growth { goal, most_paths: usize::MAX, among: Some(&grown) })?;
            }
        }
        Ok(())
    }

    /// Leaves each commodity the paths that carry most, then looks for what makes up for the others.
    fn limit(&mut self) -> Result<(), FlowError> {
        let most_paths = self.choice.most_paths.get();
        self.sort_by_use()?;
        if self.kept.iter().all(|paths| paths.len() <= most_paths) {
            return Ok(());
        }
        for paths in &mut self.kept {
            paths.truncate(most_paths);
        }
        for _ in 0..REPAIRS {
            let before: usize = self.kept.iter().map(Vec::len).sum();
            for matrix in 0..self.matrices.len() {
                if passed(self.deadline) {
                    return Ok(());
                }
                let goal = self.goal(matrix);
                if self.solve(matrix)?.utilization > goal {
                    self.add_for(&Growth { goal, most_paths, among: None })?;
                }
            }
            if self.kept.iter().map(Vec::len).sum::<usize>() == before {
                break;
            }
        }
        self.sort_by_use()
    }

    /// Sorts paths by the traffic of all matrices on them, but for those that were given, and takes out those that
    /// carry nothing.
    fn sort_by_use(&mut self) -> Result<(), FlowError> {
        let mut carried: Vec<Vec<f64>> = self.kept.iter().map(|paths| vec![0.0; paths.len()]).collect();
        for matrix in 0..self.matrices.len() {
            if passed(self.deadline) {
                return Ok(());
            }
            let solution = self.solve(matrix)?;
            for (at, paths) in solution.paths.iter().enumerate() {
                for path in paths {
                    let place = self.kept[at].iter().position(|links| *links == path.links);
                    if let Some(place) = place {
                        carried[at][place] += path.share * self.problem.commodities[at].demand;
                    }
                }
            }
        }
        let given: Vec<usize> = self.problem.commodities.iter().map(|c| self.given_to(c)).collect();
        for ((kept, carried), given) in self.kept.iter_mut().zip(carried).zip(given) {
            let mut order: Vec<usize> = (given..kept.len()).filter(|at| carried[*at] > 0.0).collect();
            order.sort_by(|a, b| carried[*b].total_cmp(&carried[*a]).then(a.cmp(b)));
            let sorted = (0..given).chain(order).map(|at| std::mem::take(&mut kept[at]));
            *kept = sorted.collect();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<PathSets, FlowError> {
        for matrix in 0..self.matrices.len() {
            let utilization = self.solve(matrix)?.utilization;
            let fit = &mut self.fits[matrix];
            fit.utilization = utilization;
            fit.lower_bound = fit.lower_bound.min(utilization);
        }
        let worst = self.fits.iter().map(PathSetsFit::gap).fold(0.0, f64::max);
        let status = if worst <= self.choice.tolerance.max(super::OPTIMAL_GAP) {
            PathSetsStatus::Reached
        } else if passed(self.deadline) {
            PathSetsStatus::Deadline
        } else {
            PathSetsStatus::Limited
        };
        let mut paths = self.given;
        for (commodity, kept) in self.problem.commodities.iter().zip(self.kept) {
            paths[self.problem.network.pair_ix(commodity.source, commodity.target).ix()] = kept;
        }
        Ok(PathSets { paths, fits: self.fits, status })
    }
}

/// By pair its shortest path by weight, then, up to `most` in all and until the deadline, the path that has fewest
/// links in common with those before; none where no path joins it.
fn given_paths(network: &Network, most: usize, deadline: Option<Instant>) -> Vec<Vec<Vec<LinkIx>>> {
    let (graph, mut tree) = (Graph::new(network), ShortestPaths::default());
    let weights: Vec<f64> = network.links().iter().map(|link| link.weight).collect();
    let shared = weights.iter().sum::<f64>();
    let mut path = Vec::new();
    let mut root = None;
    let mut pairs: Vec<Vec<Vec<LinkIx>>> = Vec::with_capacity(network.pair_count());
    for pair in 0..network.pair_count() {
        let (source, target) = network.pair(GroupIx::from(pair));
        if root.replace(source) != Some(source) {
            graph.search(source.0, &weights, &mut tree);
        }
        graph.path_to(&tree, target.0, &mut path);
        let links: Vec<LinkIx> = path.iter().map(|link| LinkIx(*link)).collect();
        pairs.push(if links.is_empty() { Vec::new() } else { vec![links] });
    }
    if most < 2 {
        return pairs;
    }
    let mut lengths = weights.clone();
    for (pair, paths) in pairs.iter_mut().enumerate().filter(|(_, paths)| !paths.is_empty()) {
        if pair % PAIRS_PER_LOOK == 0 && passed(deadline) {
            break;
        }
        let (source, target) = network.pair(GroupIx::from(pair));
        lengths.copy_from_slice(&weights);
        while paths.len() < most {
            for link in &paths[paths.len() - 1] {
                lengths[link.ix()] += shared;
            }
            graph.search(source.0, &lengths, &mut tree);
            graph.path_to(&tree, target.0, &mut path);
            let links: Vec<LinkIx> = path.iter().map(|link| LinkIx(*link)).collect();
            if paths.contains(&links) {
                break;
            }
            paths.push(links);
        }
    }
    pairs
}
