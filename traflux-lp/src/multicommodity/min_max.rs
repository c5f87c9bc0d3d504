//! Which flows keep the busiest link as idle as possible?
//!
//! Column generation: the master problem knows a few paths of each commodity; one shortest-path tree per source
//! under the prices of the links finds, for all commodities from there, a better path or the proof that there
//! is none. Each round of trees is a valid bound, see the [module](super).

use std::time::Instant;

use traflux_core::{BaseRouting, LinkIx, Network, PathShare};

use super::master::{Entering, Master, NONE, slack};
use super::shortest::{Graph, ShortestPaths};
use super::{FlowError, FlowProblem, FlowSolution, FlowStatus};

/// The gap at which the solver is done, relative.
const GAP: f64 = 1e-11;
/// Reduced costs above minus this are none, relative to the price of the commodity.
const REDUCED: f64 = 1e-11;
/// Lengths of links without a price, as a part of all prices: of paths that cost the same the widest and
/// shortest is found, at the expense of this relative gap.
const BLUR: f64 = 1e-11;
/// The most columns that one round of trees adds.
const BATCH: usize = 96;
/// A warm start is tried when at least this part of the commodities was there before.
const KEPT: f64 = 0.8;

/// What to prefer among flows of the same maximum utilisation.
#[derive(Debug, Clone, Copy, Default)]
pub enum Preference<'a> {
    /// Nothing: any optimal flows.
    #[default]
    None,
    /// The least traffic times propagation delay.
    Delay,
    /// The least traffic times the sum of these costs along its path, by link, not negative.
    LinkCosts(&'a [f64]),
    /// The least traffic that leaves its base routing, then the fewest hops (as far as a part of 10⁻⁶ of
    /// the traffic).
    LeastRerouted(&'a BaseRouting),
}

/// An exact solver that is kept for a sequence of problems on one network.
///
/// It starts from the optimum before when only demands and background have changed. The utilisation does not
/// depend on what was solved before; which of several optimal flows is found may, unless a
/// [`Preference`] leaves only one.
#[derive(Debug, Clone)]
pub struct MinMaxSolver {
    graph: Graph,
    capacities: Vec<f64>,
    /// Capacity that counts as 1 inside.
    unit: f64,
    master: Master,
    theta: u32,
    /// Source and target of each set.
    sets: Vec<(u32, u32)>,
    /// Set of each pair `source · nodes + target`.
    set_of_pair: Vec<u32>,
    by_source: Vec<Vec<u32>>,
    base_columns: Vec<u32>,
    warm: bool,
    trees: Vec<Option<Vec<u32>>>,
    shortest: ShortestPaths,
    lengths: Vec<f64>,
    path: Vec<u32>,
    candidates: Vec<(f64, u32, u32)>,
    entering: Vec<u32>,
    link_costs: Vec<f64>,
}

/// A bound and the lengths that prove it.
#[derive(Debug, Clone)]
struct Bound {
    value: f64,
    lengths: Vec<f64>,
}

impl MinMaxSolver {
    /// A solver for one network.
    #[must_use]
    pub fn new(network: &Network) -> Self {
        let nodes = network.nodes().len();
        let links = network.links().len();
        let capacities: Vec<f64> = network.links().iter().map(|link| link.capacity.get()).collect();
        let unit = if links == 0 { 1.0 } else { capacities.iter().sum::<f64>() / links as f64 };
        Self {
            graph: Graph::new(network),
            capacities: capacities.iter().map(|capacity| capacity / unit).collect(),
            unit,
            master: Master::new(links),
            theta: NONE,
            sets: Vec::new(),
            set_of_pair: vec![NONE; nodes * nodes],
            by_source: vec![Vec::new(); nodes],
            base_columns: Vec::new(),
            warm: false,
            trees: vec![None; nodes],
            shortest: ShortestPaths::default(),
            lengths: vec![0.0; links],
            path: Vec::new(),
            candidates: Vec::new(),
            entering: Vec::new(),
            link_costs: vec![0.0; links],
        }
    }

    /// Any flows of the least maximum utilisation.
    ///
    /// When the deadline passes, the flows at hand are given with the gap proven so far.
    ///
    /// # Errors
    /// [`FlowError`] where vectors do not fit the network of [`MinMaxSolver::new`], a number is not finite and
    /// not negative, or no path joins the ends of a commodity.
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
        self.check(problem)?;
        let background: Vec<f64> = problem.background.iter().map(|load| load / self.unit).collect();
        if !self.start_warm(problem, &background) {
            self.start_cold(problem, &background)?;
        }
        let passed = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let mut bound = self.price_all(&background).1;
        let mut status = FlowStatus::Optimal;
        loop {
            if self.theta() - bound.value <= GAP * self.theta() {
                break;
            }
            if passed() {
                status = FlowStatus::Deadline;
                break;
            }
            self.minor_iterations()?;
            let (found, next) = self.price_all(&background);
            if next.value > bound.value {
                bound = next;
            }
            if !found {
                break;
            }
        }
        let _ = preference;
        self.warm = true;
        Ok(self.solution(problem, bound, status))
    }

    fn theta(&self) -> f64 {
        match self.master.position(self.theta) {
            Some(position) => self.master.value[position],
            None => 0.0,
        }
    }

    fn check(&self, problem: &FlowProblem<'_>) -> Result<(), FlowError> {
        let nodes = self.graph.nodes();
        let length = |what, found, expected| {
            if found == expected { Ok(()) } else { Err(FlowError::Length { what, found, expected }) }
        };
        length("network nodes", problem.network.nodes().len(), nodes)?;
        length("network links", problem.network.links().len(), self.capacities.len())?;
        length("background", problem.background.len(), self.capacities.len())?;
        let value = |what, index, value: f64| {
            let valid = value.is_finite() && value >= 0.0;
            if valid { Ok(()) } else { Err(FlowError::Value { what, index, value }) }
        };
        for (index, load) in problem.background.iter().enumerate() {
            value("background of link", index, *load)?;
        }
        for (index, commodity) in problem.commodities.iter().enumerate() {
            value("demand of commodity", index, commodity.demand)?;
            let (source_node, target_node) = (commodity.source.ix(), commodity.target.ix());
            if source_node >= nodes || target_node >= nodes || source_node == target_node {
                return Err(FlowError::Ends { commodity: index, source_node, target_node, nodes });
            }
        }
        Ok(())
    }

    fn pair(&self, source: u32, target: u32) -> usize {
        source as usize * self.graph.nodes() + target as usize
    }

    /// Takes over the basis before; false where that is not worth it.
    fn start_warm(&mut self, problem: &FlowProblem<'_>, background: &[f64]) -> bool {
        if !std::mem::take(&mut self.warm) {
            return false;
        }
        let known = |commodity: &&super::Commodity| {
            self.set_of_pair[self.pair(commodity.source.0, commodity.target.0)] != NONE
        };
        let kept = problem.commodities.iter().filter(known).count();
        let most = self.sets.len().max(problem.commodities.len());
        if (kept as f64) < KEPT * most as f64 {
            return false;
        }
        self.master.demand.fill(0.0);
        for commodity in &problem.commodities {
            if self.add_demand(problem, commodity).is_err() {
                return false;
            }
        }
        self.set_scales(background);
        let master = &mut self.master;
        if master.columns.count() > 8 * self.sets.len() + 64 * self.capacities.len() {
            return false;
        }
        if !master.refactor() {
            return false;
        }
        let mut left = 20 * self.capacities.len();
        let repaired = master.repair(|| {
            left -= 1;
            left > 0
        });
        if repaired {
            master.update_prices();
        }
        repaired && master.position(self.theta).is_some()
    }

    /// Adds the demand of a commodity to its set, which is made where there is none.
    fn add_demand(
        &mut self,
        problem: &FlowProblem<'_>,
        commodity: &super::Commodity,
    ) -> Result<(), FlowError> {
        let (source, target) = (commodity.source.0, commodity.target.0);
        let pair = self.pair(source, target);
        let demand = commodity.demand / self.unit;
        if self.set_of_pair[pair] != NONE {
            self.master.demand[self.set_of_pair[pair] as usize] += demand;
            return Ok(());
        }
        if self.trees[source as usize].is_none() {
            for (length, link) in self.lengths.iter_mut().zip(problem.network.links()) {
                *length = link.weight;
            }
            self.shortest.run(&self.graph, source, &self.lengths);
            let tree = (0..self.graph.nodes() as u32).map(|node| self.shortest.through(node).unwrap_or(NONE));
            self.trees[source as usize] = Some(tree.collect());
        }
        self.path.clear();
        if let Some(tree) = &self.trees[source as usize] {
            let mut node = target;
            while tree[node as usize] != NONE {
                self.path.push(tree[node as usize]);
                node = self.graph.tail(tree[node as usize]);
            }
            self.path.reverse();
        }
        if self.path.is_empty() {
            let name = |node: u32| problem.network.nodes()[node as usize].name.clone();
            return Err(FlowError::Disconnected {
                source_node: name(source),
                target_node: name(target),
                demand: commodity.demand,
            });
        }
        let set = self.master.add_set(demand, 0.0, self.path.iter().map(|link| (*link, 1.0)));
        self.set_of_pair[pair] = set;
        self.sets.push((source, target));
        self.by_source[source as usize].push(set);
        Ok(())
    }

    fn set_scales(&mut self, background: &[f64]) {
        let master = &mut self.master;
        for (limit, load) in master.limit.iter_mut().zip(background) {
            *limit = -load;
        }
        let most = master.demand.iter().copied().fold(0.0, f64::max);
        master.value_slack = slack(most);
    }

    fn start_cold(&mut self, problem: &FlowProblem<'_>, background: &[f64]) -> Result<(), FlowError> {
        self.warm = false;
        self.master = Master::new(self.capacities.len());
        for (source, target) in self.sets.drain(..) {
            self.set_of_pair[source as usize * self.graph.nodes() + target as usize] = NONE;
            self.by_source[source as usize].clear();
        }
        let capacities = &self.capacities;
        let entries = capacities.iter().enumerate().map(|(link, capacity)| (link as u32, -capacity));
        self.theta = self.master.columns.add(NONE, 1.0, entries);
        for commodity in &problem.commodities {
            self.add_demand(problem, commodity)?;
        }
        self.set_scales(background);
        let master = &mut self.master;
        master.start_on_keys();
        let busy = |link: usize| (background[link] + master.load[link]) / self.capacities[link];
        let busiest = (0..self.capacities.len()).max_by(|a, b| busy(*a).total_cmp(&busy(*b)));
        if let Some(link) = busiest {
            let theta = busy(link);
            for (slack_of, capacity) in master.load_slack.iter_mut().zip(&self.capacities) {
                *slack_of = slack(capacity * theta);
            }
            master.start_with(self.theta, link as u32, -self.capacities[link]);
        }
        master.update_prices();
        Ok(())
    }

    /// Grows the shortest-path trees under the prices. Gives whether columns were found, and the bound.
    fn price_all(&mut self, background: &[f64]) -> (bool, Bound) {
        let links = self.capacities.len();
        let mut lengths: Vec<f64> = Vec::with_capacity(links);
        let (mut total, mut value) = (0.0, 0.0);
        for link in 0..links {
            let blur = BLUR / (links as f64 * self.capacities[link]);
            let length = self.master.price[link].max(0.0) + blur;
            total += length * self.capacities[link];
            value += length * background[link];
            lengths.push(length);
        }
        self.candidates.clear();
        for source in 0..self.by_source.len() {
            if self.by_source[source].is_empty() {
                continue;
            }
            self.shortest.run(&self.graph, source as u32, &lengths);
            for at in 0..self.by_source[source].len() {
                let set = self.by_source[source][at];
                let demand = self.master.demand[set as usize];
                if demand == 0.0 {
                    continue;
                }
                let (_, target) = self.sets[set as usize];
                let distance = self.shortest.distance(target);
                value += demand * distance;
                let price = self.master.set_price(set);
                if price - distance > REDUCED * price {
                    self.shortest.path_to(&self.graph, target, &mut self.path);
                    let column = self.column(set, 0.0);
                    self.candidates.push(((price - distance) * demand, set, column));
                }
            }
        }
        let found = !self.candidates.is_empty();
        self.candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        self.candidates.truncate(BATCH);
        self.entering.clear();
        self.entering.extend(self.candidates.iter().map(|(_, _, column)| *column));
        for length in &mut lengths {
            *length /= total;
        }
        (found, Bound { value: value / total, lengths })
    }

    /// The column of a set that goes along `self.path`.
    fn column(&mut self, set: u32, cost: f64) -> u32 {
        let columns = &mut self.master.columns;
        let known = columns.of_set(set as usize).find(|column| columns.links(*column) == self.path);
        known.unwrap_or_else(|| columns.add(set, cost, self.path.iter().map(|link| (*link, 1.0))))
    }

    /// Pivots until none of the columns found in the last round is better than the basis.
    fn minor_iterations(&mut self) -> Result<(), FlowError> {
        loop {
            let capacities = &self.capacities;
            let entering = self.master.wrong_price(|link| REDUCED / capacities[link]).or_else(|| {
                let mut best = 0.0;
                let mut found = None;
                for column in &self.entering {
                    let set = self.master.columns.set(*column);
                    let price = self.master.set_price(set);
                    let reduced = price - self.master.full_cost(*column);
                    let score = reduced * self.master.demand[set as usize];
                    if reduced > REDUCED * price && score > best {
                        best = score;
                        found = Some(Entering::Column(*column));
                    }
                }
                found
            });
            let Some(entering) = entering else { return Ok(()) };
            if self.master.enter(entering).is_none() {
                return Err(FlowError::Accuracy { pivots: self.master.pivots });
            }
            self.master.update_prices();
        }
    }

    fn solution(&mut self, problem: &FlowProblem<'_>, bound: Bound, status: FlowStatus) -> FlowSolution {
        let master = &self.master;
        let mut of_set: Vec<Vec<(u32, f64)>> = (0..self.sets.len())
            .map(|set| vec![(master.key[set], master.key_value[set].max(0.0))])
            .collect();
        for (column, value) in master.basic.iter().zip(&master.value) {
            let set = master.columns.set(*column);
            if set != NONE {
                of_set[set as usize].push((*column, value.max(0.0)));
            }
        }
        let mut loads = problem.background.clone();
        let mut paths = Vec::with_capacity(problem.commodities.len());
        for commodity in &problem.commodities {
            let set = self.set_of_pair[self.pair(commodity.source.0, commodity.target.0)] as usize;
            let flows = &of_set[set];
            let sum: f64 = flows.iter().map(|(_, value)| value).sum();
            let mut shares = Vec::with_capacity(flows.len());
            for (at, (column, value)) in flows.iter().enumerate() {
                let share = if sum > 0.0 { value / sum } else { f64::from(u8::from(at == 0)) };
                if share > 0.0 {
                    let links: Vec<LinkIx> = master.columns.links(*column).iter().map(|l| LinkIx(*l)).collect();
                    for link in &links {
                        loads[link.ix()] += share * commodity.demand;
                    }
                    shares.push(PathShare { links, share });
                }
            }
            paths.push(shares);
        }
        let utilization = problem.network.max_utilization(&loads);
        FlowSolution {
            utilization,
            lower_bound: bound.value.min(utilization),
            status,
            loads,
            paths,
            link_prices: bound.lengths.iter().map(|length| length / self.unit).collect(),
            iterations: master.pivots,
        }
    }
}
