//! Which flows keep the busiest link as idle as possible?
//!
//! Column generation over a partitioned simplex, see `generation` and `master`. Each round of shortest-path
//! trees proves the bound of the [module](super); it is exact when no tree has a better path.

mod growing;
mod hand_over;

use std::time::Instant;

use traflux_core::{BaseRouting, LinkIx, Network};

use super::generation::{Ended, Generation, disconnected, scattered, until, valid};
use super::master::{Basis, NONE};
use super::{Commodity, FlowError, FlowProblem, FlowSolution, FlowStatus, OPTIMAL_GAP, passed, relative_gap};
pub(super) use growing::Growth;
use hand_over::HAND_OVER;

/// The gap at which the solver is done, relative.
const GAP: f64 = 1e-11;
/// Lengths of links without a price, as a part of all prices: of paths that cost the same the widest and
/// shortest is found, at the expense of this relative gap.
const BLUR: f64 = 1e-11;
/// From this many commodities on it pays to spread them before the first pivot, and to smooth prices.
const MANY: usize = 4000;
const SMOOTHING: f64 = 0.5;
const LEAST_SMOOTHING: f64 = 0.01;
const STEEPNESS: f64 = 30.0;
/// Smoothing is halved after a round with fewer columns than this.
const FEW: usize = 8;
/// What a second objective pays for the hops that break its ties, relative to what it is about.
const TIE: f64 = 1e-6;

/// What to prefer among flows of the same maximum utilisation.
#[derive(Debug, Clone, Copy, Default)]
pub enum Preference<'a> {
    /// Nothing: any optimal flows.
    #[default]
    None,
    /// The least traffic times propagation delay, then the fewest hops.
    Delay,
    /// The least traffic times the sum of these costs (by link, not negative) along its path, then the fewest
    /// hops.
    LinkCosts(&'a [f64]),
    /// The least traffic that leaves its base routing, then the fewest hops.
    LeastRerouted(&'a BaseRouting),
}

/// An exact solver that is kept for a sequence of problems on one network.
///
/// It starts from the optimum before when only demands and background have changed. The utilisation does not
/// depend on what was solved before; which of several optimal flows is found may, unless a [`Preference`]
/// leaves only one.
///
/// A preference is strict: it never costs utilisation. Its own ties are broken with a weight of 10⁻⁶ by hops,
/// which count between 1 and 1 1/16 each by a fixed pattern, and by a fixed order of pairs. What is left open
/// then is how commodities that cross exchange their paths at the same load of every link.
#[derive(Debug, Clone)]
pub struct MinMaxSolver {
    generation: Generation,
    theta: u32,
    warm: bool,
    with_base: bool,
    /// The basis in which the second objective was optimal.
    second: Option<Basis>,
    background: Vec<f64>,
    /// The part of trees' lengths that is not prices.
    smoothing: f64,
    /// After so many pivots the solver for large networks is asked.
    hand_over_after: usize,
}

/// A bound and the lengths that prove it.
#[derive(Debug, Clone, Default)]
struct Bound {
    value: f64,
    lengths: Vec<f64>,
}

impl MinMaxSolver {
    /// A solver for one network.
    #[must_use]
    pub fn new(network: &Network) -> Self {
        let generation = Generation::new(network);
        Self {
            generation,
            theta: NONE,
            warm: false,
            with_base: false,
            second: None,
            background: Vec::new(),
            smoothing: 0.0,
            hand_over_after: HAND_OVER,
        }
    }

    /// Starts the next problem from scratch, so that nothing in its solution depends on those before.
    pub fn forget(&mut self) {
        self.warm = false;
    }

    /// Any flows of the least maximum utilisation.
    ///
    /// When the deadline passes, the flows at hand are given with the gap proven so far.
    ///
    /// # Errors
    /// [`FlowError`] where vectors do not fit the network of [`MinMaxSolver::new`] or the problem has another one
    /// (links with other ends or capacities), a number is not finite and not negative, or no path joins the ends
    /// of a commodity.
    pub fn solve(
        &mut self,
        problem: &FlowProblem<'_>,
        deadline: Option<Instant>,
    ) -> Result<FlowSolution, FlowError> {
        self.solve_preferring(problem, Preference::None, deadline)
    }

    /// Of all flows of the least maximum utilisation those that a second objective prefers.
    ///
    /// # Errors
    /// As [`MinMaxSolver::solve`].
    pub fn solve_preferring(
        &mut self,
        problem: &FlowProblem<'_>,
        preference: Preference<'_>,
        deadline: Option<Instant>,
    ) -> Result<FlowSolution, FlowError> {
        self.solve_over(problem, None, preference, deadline)
    }

    /// The same over listed paths only: `paths` has those of each commodity, in the order of the problem.
    ///
    /// The bound holds for these paths; others may do better.
    ///
    /// # Errors
    /// As [`MinMaxSolver::solve`]; also for a path that does not join the ends of its commodity, and for two
    /// commodities with the same ends. A commodity without any path is disconnected.
    pub fn solve_listed(
        &mut self,
        problem: &FlowProblem<'_>,
        paths: &[Vec<Vec<LinkIx>>],
        preference: Preference<'_>,
        deadline: Option<Instant>,
    ) -> Result<FlowSolution, FlowError> {
        self.solve_over(problem, Some(paths), preference, deadline)
    }

    fn solve_over(
        &mut self,
        problem: &FlowProblem<'_>,
        listed: Option<&[Vec<Vec<LinkIx>>]>,
        preference: Preference<'_>,
        deadline: Option<Instant>,
    ) -> Result<FlowSolution, FlowError> {
        self.generation.check(problem)?;
        if let Preference::LinkCosts(costs) = preference {
            if costs.len() != self.generation.links() {
                let (found, expected) = (costs.len(), self.generation.links());
                return Err(FlowError::Length { what: "link costs", found, expected });
            }
            for (index, cost) in costs.iter().enumerate() {
                valid("cost of link", index, *cost)?;
            }
        }
        let base = if let Preference::LeastRerouted(base) = preference { Some(base) } else { None };
        let choice = Choice { base, listed };
        if let Some(listed) = listed {
            check_listed(problem, listed)?;
        }
        self.background.clear();
        self.background.extend(problem.background.iter().map(|load| load / self.generation.unit));
        self.generation.master.pivots = 0;
        let kept = self.start_warm(problem, choice, deadline)?;
        if !kept {
            self.start_cold(problem, choice, deadline)?;
        }
        let mut bound = Bound::default();
        let most = self.generation.most_pivots;
        let all_paths = base.is_none() && listed.is_none();
        if all_paths {
            self.generation.most_pivots = most.min(self.hand_over_after);
        }
        let mut ended = self.minimize(&mut bound, deadline);
        let slow = |solver: &Self| {
            let after = solver.hand_over_after;
            solver.generation.master.pivots >= after && most > after
        };
        if kept && ended == Ended::Stuck && !slow(self) {
            // The basis of another problem may be a bad one for this.
            self.generation.master.pivots = 0;
            self.start_cold(problem, choice, deadline)?;
            ended = self.minimize(&mut bound, deadline);
        }
        self.generation.most_pivots = most;
        if all_paths && ended == Ended::Stuck && slow(self) {
            if let Some(flows) = self.hand_over(problem, &mut bound, deadline)? {
                return Ok(flows);
            }
            ended = Ended::Done;
        }
        self.warm = ended != Ended::Stuck;
        if matches!(preference, Preference::None) {
            return Ok(self.solution(problem, &bound, ended));
        }
        let proven = relative_gap(self.theta(), bound.value) <= OPTIMAL_GAP;
        if !proven || ended == Ended::Stuck {
            let mut solution = self.solution(problem, &bound, ended);
            if solution.status == FlowStatus::Optimal {
                // The second objective has not had its turn.
                solution.status = FlowStatus::Stalled;
            }
            return Ok(solution);
        }
        let basis = self.generation.master.basis();
        let theta = self.theta();
        self.set_costs(problem, preference);
        if !self.resume_second(theta, deadline) {
            self.generation.master.restore(basis.clone());
            self.start_second(theta);
        }
        let second = self.minimize_second(deadline);
        let mut solution = self.solution(problem, &bound, second);
        // The gap is that of the utilisation; the second objective is at its least when nothing is left to do.
        solution.status = match second {
            Ended::Done => solution.status,
            Ended::Late => FlowStatus::Deadline,
            Ended::Stuck => FlowStatus::Stalled,
        };
        self.clear_costs();
        self.second = (second != Ended::Stuck).then(|| self.generation.master.basis());
        self.generation.master.restore(basis);
        Ok(solution)
    }

    /// Pivots and grows trees until bound and utilisation meet.
    fn minimize(&mut self, bound: &mut Bound, deadline: Option<Instant>) -> Ended {
        let mut ended = self.generation.settle(deadline);
        // The first round has no deadline: without it nothing at all is proven.
        let mut found = self.round(bound, None).unwrap_or(false);
        while ended == Ended::Done && found && self.theta() - bound.value > GAP * self.theta() {
            if passed(deadline) {
                return Ended::Late;
            }
            ended = self.generation.pivot(deadline);
            if ended == Ended::Done {
                let Some(more) = self.round(bound, deadline) else { return Ended::Late };
                found = more;
            }
        }
        ended
    }

    /// Pivots and grows trees until the second objective has no better columns.
    fn minimize_second(&mut self, deadline: Option<Instant>) -> Ended {
        let mut ended = self.generation.settle(deadline);
        while ended == Ended::Done {
            match self.second_round(deadline) {
                Some(false) => return Ended::Done,
                Some(true) if !passed(deadline) => ended = self.generation.pivot(deadline),
                _ => return Ended::Late,
            }
        }
        ended
    }

    /// Whether a problem fits the network.
    pub(super) fn check(&self, problem: &FlowProblem<'_>) -> Result<(), FlowError> {
        self.generation.check(problem)
    }

    /// The utilisation of the basis.
    fn theta(&self) -> f64 {
        let master = &self.generation.master;
        master.position(self.theta).map_or(0.0, |position| master.value[position])
    }

    /// Takes over the basis before; false where that is not worth it.
    fn start_warm(
        &mut self,
        problem: &FlowProblem<'_>,
        choice: Choice<'_>,
        deadline: Option<Instant>,
    ) -> Result<bool, FlowError> {
        let same_kind =
            self.with_base == choice.base.is_some() && self.generation.listed == choice.listed.is_some();
        if !std::mem::take(&mut self.warm) || !same_kind {
            return Ok(false);
        }
        let generation = &mut self.generation;
        if !generation.is_like_before(problem) {
            return Ok(false);
        }
        generation.master.demand.fill(0.0);
        for (at, commodity) in problem.commodities.iter().enumerate() {
            if let Some(set) = generation.set(commodity) {
                if !choice.is_that_of(generation, problem, at, set) {
                    return Ok(false);
                }
                generation.master.demand[set as usize] += commodity.demand / generation.unit;
            } else {
                choice.add_set(generation, problem, at)?;
            }
        }
        for (limit, load) in generation.master.limit.iter_mut().zip(&self.background) {
            *limit = -load;
        }
        if !generation.master.refactor() || generation.master.position(self.theta).is_none() {
            return Ok(false);
        }
        let theta = self.theta();
        self.generation.set_slacks(theta.max(f64::MIN_POSITIVE));
        let most = 20 * self.generation.links();
        let repaired = self.generation.master.repair(until(most, deadline));
        self.generation.master.update_prices();
        Ok(repaired)
    }

    /// All commodities on one path each.
    fn start_cold(
        &mut self,
        problem: &FlowProblem<'_>,
        choice: Choice<'_>,
        deadline: Option<Instant>,
    ) -> Result<(), FlowError> {
        self.warm = false;
        self.second = None;
        self.with_base = choice.base.is_some();
        let generation = &mut self.generation;
        generation.clear();
        generation.listed = choice.listed.is_some();
        let entries = generation.capacities.iter().enumerate();
        let entries = entries.map(|(link, capacity)| (link as u32, -capacity));
        self.theta = generation.master.columns.add(NONE, 1.0, entries);
        for (at, commodity) in problem.commodities.iter().enumerate() {
            if let Some(set) = generation.set(commodity) {
                generation.master.demand[set as usize] += commodity.demand / generation.unit;
            } else {
                choice.add_set(generation, problem, at)?;
            }
        }
        for (limit, load) in generation.master.limit.iter_mut().zip(&self.background) {
            *limit = -load;
        }
        generation.master.start_on_keys();
        self.smoothing = 0.0;
        if generation.sets() >= MANY && choice.base.is_none() && choice.listed.is_none() {
            self.smoothing = SMOOTHING;
            for steepness in [8.0, 16.0, 32.0] {
                generation.spread(&self.background, steepness, deadline);
            }
        }
        self.start_theta();
        Ok(())
    }

    /// Makes the utilisation basic in the busiest link, with all commodities on their keys.
    fn start_theta(&mut self) {
        let generation = &mut self.generation;
        let busy = |link: usize| {
            (self.background[link] + generation.master.load[link]) / generation.capacities[link]
        };
        let busiest = (0..generation.links()).max_by(|a, b| busy(*a).total_cmp(&busy(*b)));
        if let Some(link) = busiest {
            let theta = busy(link);
            let capacity = generation.capacities[link];
            generation.set_slacks(theta);
            generation.master.start_with(self.theta, link as u32, -capacity);
        }
        generation.master.update_prices();
    }

    /// Grows trees under the prices and keeps the better bound; whether there are better columns, `None` where the
    /// deadline passes.
    fn round(&mut self, bound: &mut Bound, deadline: Option<Instant>) -> Option<bool> {
        let generation = &mut self.generation;
        let links = generation.links();
        let (mut total, mut value) = (0.0, 0.0);
        let mut lengths = Vec::with_capacity(links);
        for link in 0..links {
            let blur = BLUR / (links as f64 * generation.capacities[link]);
            let length = generation.master.price[link].max(0.0) + blur;
            total += length * generation.capacities[link];
            value += length * self.background[link];
            lengths.push(length);
        }
        let smooth = (self.smoothing > 0.0).then(|| self.smooth(&lengths));
        let generation = &mut self.generation;
        if let Some(smooth) = &smooth {
            (total, value) = (0.0, 0.0);
            for link in 0..links {
                total += smooth[link] * generation.capacities[link];
                value += smooth[link] * self.background[link];
            }
        }
        let round = generation.price(&lengths, smooth.as_deref(), deadline)?;
        let lengths_of_bound = smooth.as_ref().unwrap_or(&lengths);
        value = if total > 0.0 { (value + round.cost) / total } else { 0.0 };
        if value >= bound.value {
            *bound = Bound { value, lengths: lengths_of_bound.iter().map(|length| length / total).collect() };
        }
        if smooth.is_some() && self.generation.found() < FEW {
            self.smoothing *= 0.5;
            if self.smoothing < LEAST_SMOOTHING {
                self.smoothing = 0.0;
            }
            return if round.found { Some(true) } else { self.round(bound, deadline) };
        }
        Some(round.found)
    }

    /// Prices mixed with lengths that rise exponentially with utilisation: what trees are like that do not
    /// overlook links which are about to become tight (Wentges 1997).
    fn smooth(&self, lengths: &[f64]) -> Vec<f64> {
        let generation = &self.generation;
        let theta = self.theta();
        let weight = |link: usize| {
            let load =
                generation.master.load[link] + self.background[link] + theta * generation.capacities[link];
            (STEEPNESS * (load / (theta * generation.capacities[link]) - 1.0)).exp()
        };
        let weights: Vec<f64> = (0..generation.links()).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let mixed = lengths.iter().zip(&weights).zip(&generation.capacities);
        mixed
            .map(|((length, weight), capacity)| {
                (1.0 - self.smoothing) * length + self.smoothing * weight / (sum * capacity)
            })
            .collect()
    }

    /// Turns the optimum into a limit and goes on from its basis.
    fn start_second(&mut self, theta: f64) {
        let master = &mut self.generation.master;
        if let Some(position) = master.position(self.theta) {
            master.drop_basic(position);
        }
        self.limit_utilization(theta);
        self.generation.master.recompute();
        self.generation.master.update_prices();
    }

    /// Goes on from the basis in which the second objective was optimal before; false where that fails.
    fn resume_second(&mut self, theta: f64, deadline: Option<Instant>) -> bool {
        let Some(basis) = self.second.take() else { return false };
        self.generation.master.restore(basis);
        self.limit_utilization(theta);
        let most = 4 * self.generation.links();
        let resumed =
            self.generation.master.refactor() && self.generation.master.repair(until(most, deadline));
        self.generation.master.update_prices();
        resumed
    }

    fn limit_utilization(&mut self, theta: f64) {
        let limits = self.generation.master.limit.iter_mut().zip(&self.background);
        for ((limit, load), capacity) in limits.zip(&self.generation.capacities) {
            *limit = theta * capacity - load;
        }
    }

    /// The second objective.
    fn set_costs(&mut self, problem: &FlowProblem<'_>, preference: Preference<'_>) {
        let generation = &mut self.generation;
        let links = generation.links();
        match preference {
            Preference::None => {}
            Preference::Delay => {
                let delays = problem.network.links().iter().map(|link| link.delay.get());
                for (cost, delay) in generation.link_costs.iter_mut().zip(delays) {
                    *cost = delay;
                }
            }
            Preference::LinkCosts(costs) => generation.link_costs.copy_from_slice(costs),
            Preference::LeastRerouted(_) => generation.path_cost = 1.0,
        }
        let sum: f64 = generation.link_costs.iter().sum();
        let mean = if sum > 0.0 { sum / links as f64 } else { 1.0 };
        for (link, cost) in generation.link_costs.iter_mut().enumerate() {
            *cost = *cost / mean + TIE * (1.0 + scattered(link as u64) / 16.0);
        }
        generation.set_path_costs(TIE);
    }

    fn clear_costs(&mut self) {
        self.generation.link_costs.fill(0.0);
        self.generation.path_cost = 0.0;
        self.generation.set_path_costs(0.0);
    }

    /// Grows trees for the second objective; whether there are better columns, `None` where the deadline passes.
    fn second_round(&mut self, deadline: Option<Instant>) -> Option<bool> {
        let generation = &mut self.generation;
        let prices = generation.master.price.iter().zip(&generation.link_costs);
        let lengths: Vec<f64> = prices.map(|(price, cost)| price.max(0.0) + cost).collect();
        Some(generation.price(&lengths, None, deadline)?.found)
    }

    fn solution(&self, problem: &FlowProblem<'_>, bound: &Bound, ended: Ended) -> FlowSolution {
        let (paths, base_share, loads) = self.generation.shares(problem);
        let utilization = problem.network.max_utilization(&loads);
        let unit = self.generation.unit;
        FlowSolution {
            utilization,
            lower_bound: bound.value.min(utilization),
            status: ended.status(relative_gap(utilization, bound.value)),
            loads,
            paths,
            base_share,
            link_prices: bound.lengths.iter().map(|length| length / unit).collect(),
            iterations: self.generation.master.pivots,
        }
    }
}

/// What a commodity may choose from.
#[derive(Debug, Clone, Copy)]
struct Choice<'a> {
    /// Where it may stay.
    base: Option<&'a BaseRouting>,
    /// Its paths; all there are where none are listed.
    listed: Option<&'a [Vec<Vec<LinkIx>>]>,
}

impl Choice<'_> {
    fn add_set(
        self,
        generation: &mut Generation,
        problem: &FlowProblem<'_>,
        at: usize,
    ) -> Result<(), FlowError> {
        let commodity = &problem.commodities[at];
        let mut listed = self.listed.map_or(&[][..], |listed| &listed[at][..]);
        let set = if let Some(entries) = self.base_entries(problem, commodity) {
            generation.add_special_set(commodity, entries)
        } else if let Some((first, others)) = listed.split_first() {
            listed = others;
            generation.add_listed_set(commodity, first)
        } else if self.listed.is_some() {
            return Err(disconnected(problem.network, commodity));
        } else {
            generation.add_set(problem.network, commodity)?
        };
        for path in listed {
            generation.add_listed_path(set, path);
        }
        Ok(())
    }

    /// Whether a set offers just this.
    fn is_that_of(self, generation: &Generation, problem: &FlowProblem<'_>, at: usize, set: u32) -> bool {
        let commodity = &problem.commodities[at];
        let columns = &generation.master.columns;
        let special = generation.special(set);
        let same_base = match (special, self.base_entries(problem, commodity)) {
            (Some(special), Some(entries)) => {
                columns.entries(special).eq(entries.map(|(link, part)| (link as usize, part)))
            }
            (None, None) => true,
            _ => false,
        };
        let same_list = self.listed.is_none_or(|listed| {
            let newest_first = columns.of_set(set as usize).filter(|column| Some(*column) != special);
            let links = newest_first.map(|column| columns.links(column));
            links.eq(listed[at].iter().rev().map(|path| path.iter().map(|link| link.0).collect::<Vec<_>>()))
        });
        same_base && same_list
    }

    fn base_entries(
        self,
        problem: &FlowProblem<'_>,
        commodity: &Commodity,
    ) -> Option<impl Iterator<Item = (u32, f64)>> {
        let pair = problem.network.pair_ix(commodity.source, commodity.target);
        let entries = self.base?.of(pair).map(|(link, part)| (link.0, part));
        let mut entries = entries.peekable();
        entries.peek().is_some().then_some(entries)
    }
}

fn check_listed(problem: &FlowProblem<'_>, listed: &[Vec<Vec<LinkIx>>]) -> Result<(), FlowError> {
    let (found, expected) = (listed.len(), problem.commodities.len());
    if found != expected {
        return Err(FlowError::Length { what: "list of paths", found, expected });
    }
    let mut seen = std::collections::HashSet::new();
    for (at, (commodity, paths)) in problem.commodities.iter().zip(listed).enumerate() {
        if !seen.insert((commodity.source, commodity.target)) {
            return Err(FlowError::Repeated { commodity: at });
        }
        for (path, links) in paths.iter().enumerate() {
            let mut node = Some(commodity.source);
            for link in links {
                let link = problem.network.links().get(link.ix());
                node = link.filter(|link| Some(link.tail) == node).map(|link| link.head);
            }
            if node != Some(commodity.target) {
                return Err(FlowError::BrokenPath { commodity: at, path });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use traflux_core::{BitRate, Latency, Link, Node, NodeIx};

    use super::super::check::verify;
    use super::*;

    /// A ring with chords, links of 1 to 3 bit/s.
    fn ring(nodes: u32) -> Network {
        let link = |tail: u32, head: u32| Link {
            tail: NodeIx(tail),
            head: NodeIx(head),
            capacity: BitRate::bits_per_second(1.0 + 2.0 * scattered(u64::from(tail * nodes + head))),
            weight: 1.0,
            delay: Latency::ZERO,
        };
        let both = (0..nodes).flat_map(|node| {
            let (next, across) = ((node + 1) % nodes, (node + nodes / 2 - node % 3) % nodes);
            [link(node, next), link(next, node), link(node, across), link(across, node)]
        });
        let names = (0..nodes).map(|n| Node { name: format!("n{n}"), position: None }).collect();
        Network::new(names, both.collect()).expect("nodes and links are fine")
    }

    fn problem(network: &Network, seed: u64) -> FlowProblem<'_> {
        let nodes = network.nodes().len() as u32;
        let pairs = (0..nodes).flat_map(|s| (0..nodes).filter(move |t| *t != s).map(move |t| (s, t)));
        let demand = |(s, t): (u32, u32)| Commodity {
            source: NodeIx(s),
            target: NodeIx(t),
            demand: 0.01 + scattered(seed * 10_007 + u64::from(s * nodes + t)),
        };
        let commodities = pairs.map(demand).collect();
        FlowProblem { network, commodities, background: vec![0.0; network.links().len()] }
    }

    #[test]
    fn a_problem_on_another_network_of_as_many_links_is_refused() {
        let network = ring(6);
        let mut links = network.links().to_vec();
        links[3].capacity = BitRate::bits_per_second(9.0);
        let wider = Network::new(network.nodes().to_vec(), links.clone()).expect("links are fine");
        links[3] = links[0];
        let turned = Network::new(network.nodes().to_vec(), links).expect("links are fine");
        let mut solver = MinMaxSolver::new(&network);
        for other in [&wider, &turned] {
            let error = solver.solve(&problem(other, 1), None).expect_err("it is another network");
            assert_eq!(error, FlowError::OtherNetwork { link: 3 });
            assert_eq!(error.code(), "flow_other_network");
        }
        // A copy is the same.
        let copy = network.clone();
        let solution = solver.solve(&problem(&copy, 1), None).expect("it is connected");
        assert_eq!(solution.status, FlowStatus::Optimal);
    }

    #[test]
    fn a_run_cut_off_after_any_pivot_claims_what_it_has_proven() {
        let network = ring(20);
        let problem = problem(&network, 1);
        let whole = MinMaxSolver::new(&network).solve(&problem, None).expect("it is connected");
        assert!(whole.iterations > 20, "{} pivots cut nothing off", whole.iterations);
        for most in 0..=whole.iterations {
            let mut solver = MinMaxSolver::new(&network);
            solver.generation.most_pivots = most;
            let solution = solver.solve(&problem, None).expect("it is connected");
            assert_eq!(verify(&problem, None, &solution), Ok(()));
            let proven = solution.gap() <= super::super::OPTIMAL_GAP;
            let status = if proven { FlowStatus::Optimal } else { FlowStatus::Stalled };
            assert_eq!(solution.status, status, "after {most} pivots of {}", whole.iterations);
            assert!(most >= solution.iterations);
            assert!(most > 0 || !proven);
        }
    }

    #[test]
    fn flows_found_from_the_paths_of_the_other_solver_are_optimal_too() {
        let network = ring(20);
        for seed in 0..4 {
            let problem = problem(&network, seed);
            let whole = MinMaxSolver::new(&network).solve(&problem, None).expect("it is connected");
            let mut solver = MinMaxSolver::new(&network);
            solver.hand_over_after = 5;
            for _ in 0..2 {
                let found = solver.solve(&problem, None).expect("it is connected");
                assert_eq!(verify(&problem, None, &found), Ok(()));
                assert_eq!(found.status, FlowStatus::Optimal);
                assert!((found.utilization / whole.utilization - 1.0).abs() < 1e-9);
            }
            let preferred = solver.solve_preferring(&problem, Preference::Delay, None);
            assert_eq!(preferred.expect("it is connected").status, FlowStatus::Optimal);
        }
    }

    #[test]
    fn at_the_deadline_the_best_flows_of_both_solvers_are_given_with_the_best_bound() {
        let network = ring(20);
        let problem = problem(&network, 1);
        let mut solver = MinMaxSolver::new(&network);
        let cut = solver.solve(&problem, Some(Instant::now())).expect("it is connected");
        let mut bound = Bound::default();
        let late = Some(Instant::now());
        let flows = solver.hand_over(&problem, &mut bound, late).expect("it is connected");
        let flows = flows.expect("the deadline has passed");
        assert_eq!(verify(&problem, None, &flows), Ok(()));
        assert_eq!(flows.status, FlowStatus::Deadline);
        assert!(flows.utilization <= cut.utilization);
        assert!(flows.lower_bound > 0.0 && flows.lower_bound < flows.utilization);
    }

    #[test]
    fn a_warm_start_cut_off_after_any_pivot_claims_what_it_has_proven_and_recovers() {
        let network = ring(10);
        let (before, after) = (problem(&network, 1), problem(&network, 2));
        let optimum = MinMaxSolver::new(&network).solve(&after, None).expect("it is connected");
        for most in 0..40 {
            let mut solver = MinMaxSolver::new(&network);
            solver.solve(&before, None).expect("it is connected");
            solver.generation.most_pivots = most;
            let cut = solver.solve_preferring(&after, Preference::Delay, None).expect("it is connected");
            assert_eq!(verify(&after, None, &cut), Ok(()));
            assert!(cut.status != FlowStatus::Optimal || cut.gap() <= super::super::OPTIMAL_GAP);
            solver.generation.most_pivots = usize::MAX;
            let whole = solver.solve(&after, None).expect("it is connected");
            assert_eq!(whole.status, FlowStatus::Optimal);
            assert!((whole.utilization / optimum.utilization - 1.0).abs() < 1e-9);
        }
    }
}
