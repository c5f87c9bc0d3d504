//! Which paths are worth telling the master problem about?
//!
//! One shortest-path tree per source under the prices of the links finds, for all commodities from there, a
//! better path or the proof that there is none.

use std::time::Instant;

use traflux_core::{LinkIx, Network, NodeIx, PathShare, ShortestPaths};

use super::graph::Graph;
use super::master::{Entering, Master, NONE, slack};
use super::{Commodity, FlowError, FlowProblem, FlowStatus, OPTIMAL_GAP, passed};

/// Reduced costs above minus this are none, relative to the price of the commodity.
const REDUCED: f64 = 1e-11;
/// The most columns that one round of trees adds, at least and as a part of all sets.
const BATCH: usize = 96;
const BATCH_PART: usize = 32;
/// How often the clock is read.
const PIVOTS_PER_LOOK: usize = 16;
const TREES_PER_LOOK: usize = 16;
/// After so many pivots without a step the next ones are drawn.
const STALLED: usize = 200;
/// A warm start is tried when at least this part of the commodities was there before.
const KEPT: f64 = 0.8;
/// A problem that takes more pivots than this for each set and row is not solved.
const PIVOTS_PER_ROW: usize = 200;

/// A master problem over the paths of a network that grows as prices ask for it. All amounts are in multiples
/// of `unit`.
#[derive(Debug, Clone)]
pub(super) struct Generation {
    pub(super) master: Master,
    /// By link, then that of the budget, where there is one.
    pub(super) capacities: Vec<f64>,
    /// The row behind those of links, of which every path takes [`Generation::uses`] per unit.
    budget: Option<u32>,
    /// By set.
    uses: Vec<f64>,
    /// bit/s that count as 1.
    pub(super) unit: f64,
    /// What the objective asks per unit on each link, beyond its price.
    pub(super) link_costs: Vec<f64>,
    /// What it asks per unit on any path.
    pub(super) path_cost: f64,
    /// The same by set, with what breaks ties between sets.
    set_costs: Vec<f64>,
    /// Whether all paths are there from the start.
    pub(super) listed: bool,
    /// Trees add no path to a set that has so many.
    pub(super) most_paths: usize,
    /// The most columns that one round adds; where 0, what suits the number of sets.
    pub(super) most_found: usize,
    /// The most pivots for a problem, where its size does not set a lower limit.
    pub(super) most_pivots: usize,
    graph: Graph,
    /// Source and target of each set.
    ends: Vec<(u32, u32)>,
    /// A column of each set that is no path (its base, or nothing at all), or [`NONE`].
    special: Vec<u32>,
    set_of_pair: Vec<u32>,
    by_source: Vec<Vec<u32>>,
    /// For each source the links of its tree by weight.
    trees: Vec<Vec<u32>>,
    shortest: ShortestPaths,
    lengths: Vec<f64>,
    sums: Vec<f64>,
    path: Vec<u32>,
    found: Vec<Found>,
    found_links: Vec<u32>,
    entering: Vec<u32>,
}

/// Something better than the basis.
#[derive(Debug, Clone)]
struct Found {
    score: f64,
    set: u32,
    /// A column there is, or [`NONE`].
    column: u32,
    /// Otherwise the place of its path in `found_links`.
    path: std::ops::Range<usize>,
}

/// What a round of trees says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    /// The sum over all sets of demand times least cost under the lengths.
    pub(super) cost: f64,
    /// Whether any column was found that is better than the basis.
    pub(super) found: bool,
}

/// How a run of pivots ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// No column that is known to be better is left, and no price of the wrong sign.
    Done,
    /// The deadline passed. Prices may be wrong; flows are not.
    Late,
    /// Rounding is in the way. Flows are as they were; prices and basis are not to be relied on.
    Stuck,
}

impl Ended {
    /// What may be said of a solution with this gap.
    pub(super) fn status(self, gap: f64) -> FlowStatus {
        match self {
            _ if gap <= OPTIMAL_GAP => FlowStatus::Optimal,
            Self::Late => FlowStatus::Deadline,
            Self::Done | Self::Stuck => FlowStatus::Stalled,
        }
    }
}

impl Generation {
    pub(super) fn new(network: &Network) -> Self {
        let nodes = network.nodes().len();
        let links = network.links().len();
        let capacities: Vec<f64> = network.links().iter().map(|link| link.capacity.get()).collect();
        let unit = if links == 0 { 1.0 } else { capacities.iter().sum::<f64>() / links as f64 };
        Self {
            master: Master::new(links),
            capacities: capacities.iter().map(|capacity| capacity / unit).collect(),
            budget: None,
            uses: Vec::new(),
            unit,
            link_costs: vec![0.0; links],
            path_cost: 0.0,
            set_costs: Vec::new(),
            listed: false,
            most_paths: usize::MAX,
            most_found: 0,
            most_pivots: usize::MAX,
            graph: Graph::new(network),
            ends: Vec::new(),
            special: Vec::new(),
            set_of_pair: vec![NONE; nodes * nodes],
            by_source: vec![Vec::new(); nodes],
            trees: vec![Vec::new(); nodes],
            shortest: ShortestPaths::default(),
            lengths: Vec::with_capacity(links),
            sums: Vec::new(),
            path: Vec::new(),
            found: Vec::new(),
            found_links: Vec::new(),
            entering: Vec::new(),
        }
    }

    /// As [`Generation::new`] with one row more, which limits what all paths together take.
    pub(super) fn with_budget(network: &Network) -> Self {
        let mut generation = Self::new(network);
        let row = generation.links();
        generation.budget = Some(row as u32);
        generation.capacities.push(1.0);
        generation.link_costs.push(0.0);
        generation.master = Master::new(row + 1);
        generation
    }

    pub(super) fn links(&self) -> usize {
        self.capacities.len() - usize::from(self.budget.is_some())
    }

    /// What one unit of a set takes of the budget on any of its paths.
    pub(super) fn set_use(&mut self, set: u32, per_unit: f64) {
        self.uses[set as usize] = per_unit;
        let special = self.special[set as usize];
        let mut next = self.master.columns.newest(set as usize);
        while next != NONE {
            if next != special {
                self.master.columns.set_last_part(next, per_unit);
            }
            next = self.master.columns.older(next);
        }
    }

    pub(super) fn sets(&self) -> usize {
        self.ends.len()
    }

    /// Whether lengths and numbers of a problem fit.
    pub(super) fn check(&self, problem: &FlowProblem<'_>) -> Result<(), FlowError> {
        let nodes = self.graph.nodes();
        let length = |what, found, expected| {
            if found == expected { Ok(()) } else { Err(FlowError::Length { what, found, expected }) }
        };
        length("network nodes", problem.network.nodes().len(), nodes)?;
        length("network links", problem.network.links().len(), self.links())?;
        for (link, (found, ends)) in problem.network.links().iter().zip(self.graph.ends()).enumerate() {
            let same = (found.tail.0, found.head.0) == *ends
                && found.capacity.get() / self.unit == self.capacities[link];
            if !same {
                return Err(FlowError::OtherNetwork { link });
            }
        }
        length("background", problem.background.len(), self.links())?;
        for (index, load) in problem.background.iter().enumerate() {
            valid("background of link", index, *load)?;
        }
        for (index, commodity) in problem.commodities.iter().enumerate() {
            valid("demand of commodity", index, commodity.demand)?;
            let (source_node, target_node) = (commodity.source.ix(), commodity.target.ix());
            if source_node >= nodes || target_node >= nodes || source_node == target_node {
                return Err(FlowError::Ends { commodity: index, source_node, target_node, nodes });
            }
        }
        Ok(())
    }

    /// Forgets all columns and sets.
    pub(super) fn clear(&mut self) {
        self.master.clear();
        self.link_costs.fill(0.0);
        self.path_cost = 0.0;
        self.listed = false;
        for (source, target) in self.ends.drain(..) {
            self.set_of_pair[source as usize * self.graph.nodes() + target as usize] = NONE;
            self.by_source[source as usize].clear();
        }
        self.special.clear();
        self.set_costs.clear();
        self.uses.clear();
    }

    /// Whether a problem has so much in common with the one before that its basis is a good start.
    pub(super) fn is_like_before(&self, problem: &FlowProblem<'_>) -> bool {
        let kept = problem.commodities.iter().filter(|commodity| self.set(commodity).is_some()).count();
        let most = self.sets().max(problem.commodities.len());
        let columns = 8 * self.sets() + 64 * self.links();
        let too_many = !self.listed && self.master.columns.count() > columns;
        kept as f64 >= KEPT * most as f64 && !too_many
    }

    /// The set of a commodity, where there is one.
    pub(super) fn set(&self, commodity: &Commodity) -> Option<u32> {
        let set = self.set_of_pair[commodity.source.ix() * self.graph.nodes() + commodity.target.ix()];
        (set != NONE).then_some(set)
    }

    pub(super) fn special(&self, set: u32) -> Option<u32> {
        let column = self.special[set as usize];
        (column != NONE).then_some(column)
    }

    /// Makes a set whose key is a column that is no path and costs nothing itself.
    pub(super) fn add_special_set(
        &mut self,
        commodity: &Commodity,
        entries: impl IntoIterator<Item = (u32, f64)>,
    ) -> u32 {
        let set = self.master.add_set(commodity.demand / self.unit, 0.0, entries);
        self.special.push(self.master.key[set as usize]);
        self.register(commodity, set)
    }

    /// Makes a set whose key is the first path given.
    pub(super) fn add_listed_set(&mut self, commodity: &Commodity, first: &[LinkIx]) -> u32 {
        let demand = commodity.demand / self.unit;
        let set = self.master.add_set(demand, self.path_cost, first.iter().map(|link| (link.0, 1.0)));
        self.special.push(NONE);
        self.register(commodity, set)
    }

    /// Adds a path that pricing may choose.
    pub(super) fn add_listed_path(&mut self, set: u32, path: &[LinkIx]) {
        self.master.columns.add(set, self.path_cost, path.iter().map(|link| (link.0, 1.0)));
    }

    /// Makes a set whose key is the shortest path by weight.
    pub(super) fn add_set(&mut self, network: &Network, commodity: &Commodity) -> Result<u32, FlowError> {
        let (source, target) = (commodity.source.0, commodity.target.0);
        if self.trees[source as usize].is_empty() {
            self.lengths.clear();
            self.lengths.extend(network.links().iter().map(|link| link.weight));
            self.graph.search(source, &self.lengths, &mut self.shortest);
            let nodes = (0..self.graph.nodes()).map(NodeIx::from);
            let links = nodes.map(|node| self.shortest.through(node).map_or(NONE, |link| link.0));
            self.trees[source as usize].extend(links);
        }
        let tree = &self.trees[source as usize];
        self.path.clear();
        let mut node = target;
        while tree[node as usize] != NONE {
            self.path.push(tree[node as usize]);
            node = self.graph.tail(LinkIx(tree[node as usize])).0;
        }
        if self.path.is_empty() {
            return Err(disconnected(network, commodity));
        }
        let path = self.path.iter().rev().map(|link| (*link, 1.0));
        let set = self.master.add_set(commodity.demand / self.unit, self.path_cost, path);
        self.special.push(NONE);
        Ok(self.register(commodity, set))
    }

    fn register(&mut self, commodity: &Commodity, set: u32) -> u32 {
        let (source, target) = (commodity.source.0, commodity.target.0);
        self.set_of_pair[source as usize * self.graph.nodes() + target as usize] = set;
        self.ends.push((source, target));
        self.set_costs.push(self.path_cost);
        self.uses.push(0.0);
        self.by_source[source as usize].push(set);
        set
    }

    /// Tolerances from the demands and from what loads are like at a utilisation.
    pub(super) fn set_slacks(&mut self, utilization: f64) {
        let master = &mut self.master;
        master.value_slack = slack(master.demand.iter().copied().fold(0.0, f64::max));
        for (load_slack, capacity) in master.load_slack.iter_mut().zip(&self.capacities) {
            *load_slack = slack(capacity * utilization);
        }
    }

    /// Sets the objective of all columns but those that are no paths; sets differ by up to `tie`.
    pub(super) fn set_path_costs(&mut self, tie: f64) {
        let master = &mut self.master;
        for (set, (source, target)) in self.ends.iter().enumerate() {
            let pair = u64::from(*source) * self.graph.nodes() as u64 + u64::from(*target);
            self.set_costs[set] = self.path_cost + tie * scattered(pair);
            let special = self.special[set];
            let mut next = master.columns.newest(set);
            while next != NONE {
                if next != special {
                    master.columns.cost[next as usize] =
                        self.set_costs[set] + master.columns.dot(next, &self.link_costs);
                }
                next = master.columns.older(next);
            }
        }
    }

    /// Looks for columns that are better than the basis under the prices, and keeps the best of them.
    ///
    /// `lengths` are what a unit on each link costs in all, not below its price and cost. Trees may be grown
    /// under others, `smooth`, which the bound is then for; their paths are kept where `lengths` like them too.
    /// `None` where the deadline passes.
    pub(super) fn price(
        &mut self,
        lengths: &[f64],
        smooth: Option<&[f64]>,
        deadline: Option<Instant>,
    ) -> Option<Round> {
        self.found.clear();
        self.found_links.clear();
        self.entering.clear();
        let budget_length = self.budget.map_or(0.0, |row| lengths[row as usize]);
        let batch = match self.most_found {
            0 => BATCH.max(self.sets() / BATCH_PART),
            most => most,
        };
        let mut cost = 0.0;
        let mut least_score = 0.0;
        for source in 0..self.by_source.len() {
            if self.by_source[source].is_empty() {
                continue;
            }
            if source % TREES_PER_LOOK == TREES_PER_LOOK - 1 && passed(deadline) {
                return None;
            }
            if !self.listed {
                self.graph.search(source as u32, smooth.unwrap_or(lengths), &mut self.shortest);
                if smooth.is_some() {
                    self.graph.along(&self.shortest, lengths, &mut self.sums);
                }
            }
            for at in 0..self.by_source[source].len() {
                let set = self.by_source[source][at];
                let demand = self.master.demand[set as usize];
                if demand == 0.0 {
                    continue;
                }
                let target = self.ends[set as usize].1;
                let (mut least, mut column) = (f64::INFINITY, NONE);
                if self.listed {
                    for listed in self.master.columns.of_set(set as usize) {
                        let along = self.set_costs[set as usize] + self.master.columns.dot(listed, lengths);
                        if along < least {
                            (least, column) = (along, listed);
                        }
                    }
                } else {
                    let own = self.set_costs[set as usize] + self.uses[set as usize] * budget_length;
                    least = own + self.shortest.distances()[target as usize];
                }
                if let Some(special) = self.special(set) {
                    // Link costs are for paths.
                    let entries = self.master.columns.entries(special);
                    let along: f64 =
                        entries.map(|(link, part)| part * (lengths[link] - self.link_costs[link])).sum();
                    if along <= least {
                        (least, column) = (along, special);
                    }
                }
                cost += demand * least;
                if smooth.is_some() {
                    least = self.set_costs[set as usize] + self.sums[target as usize];
                }
                let price = self.master.set_price(set);
                let gain = price - least;
                let score = gain * demand;
                if gain <= tolerance(price, self.path_cost) || score <= least_score {
                    continue;
                }
                if column == NONE && self.is_full(set) {
                    continue;
                }
                let start = self.found_links.len();
                if column == NONE {
                    self.graph.path_to(&self.shortest, target, &mut self.path);
                    self.found_links.extend_from_slice(&self.path);
                }
                self.found.push(Found { score, set, column, path: start..self.found_links.len() });
                if self.found.len() >= 2 * batch {
                    keep_best(&mut self.found, batch);
                    least_score = self.found[batch - 1].score;
                }
            }
        }
        keep_best(&mut self.found, batch);
        for at in 0..self.found.len() {
            let column = match self.found[at].column {
                NONE => self.column(at),
                known => known,
            };
            self.entering.push(column);
        }
        Some(Round { cost, found: !self.entering.is_empty() })
    }

    /// Whether a set may get no more paths.
    fn is_full(&self, set: u32) -> bool {
        let most = self.most_paths;
        most < usize::MAX && self.master.columns.of_set(set as usize).nth(most.saturating_sub(1)).is_some()
    }

    /// Moves all commodities of a source at a time to their shortest paths under lengths that rise
    /// exponentially with utilisation, so that a search for the least utilisation starts near it. At the deadline
    /// the sources left stay where they are.
    pub(super) fn spread(&mut self, background: &[f64], steepness: f64, deadline: Option<Instant>) {
        let links = self.links();
        let mut loads: Vec<f64> = self.master.load.iter().zip(background).map(|(a, b)| a + b).collect();
        let mut lengths = vec![0.0; links];
        for source in 0..self.by_source.len() {
            if self.by_source[source].is_empty() {
                continue;
            }
            if passed(deadline) {
                break;
            }
            let busiest = loads.iter().zip(&self.capacities).map(|(l, c)| l / c).fold(0.0, f64::max);
            for set in &self.by_source[source] {
                let demand = self.master.demand[*set as usize];
                for link in self.master.columns.links(self.master.key[*set as usize]) {
                    loads[*link as usize] -= demand;
                }
            }
            for link in 0..links {
                let capacity = self.capacities[link];
                let relative = loads[link] / (capacity * busiest.max(f64::MIN_POSITIVE));
                lengths[link] = (steepness * (relative - 1.0)).exp() / capacity;
            }
            self.graph.search(source as u32, &lengths, &mut self.shortest);
            for at in 0..self.by_source[source].len() {
                let set = self.by_source[source][at];
                self.graph.path_to(&self.shortest, self.ends[set as usize].1, &mut self.path);
                let demand = self.master.demand[set as usize];
                for link in &self.path {
                    loads[*link as usize] += demand;
                }
                let path = std::mem::take(&mut self.path);
                self.master.key[set as usize] = self.column_along(set, &path);
                self.path = path;
            }
        }
        self.master.start_on_keys();
    }

    /// The column that goes along a path that was found.
    fn column(&mut self, found: usize) -> u32 {
        let Found { set, path, .. } = self.found[found].clone();
        let all = std::mem::take(&mut self.found_links);
        let column = self.column_along(set, &all[path]);
        self.found_links = all;
        column
    }

    /// The column of a set along a path, made where there is none.
    pub(super) fn column_along(&mut self, set: u32, links: &[u32]) -> u32 {
        let columns = &mut self.master.columns;
        let special = self.special[set as usize];
        let budget = self.budget.map(|row| (row, self.uses[set as usize]));
        let path_rows = links.len() + usize::from(budget.is_some());
        let same = |column: &u32| {
            let rows = columns.links(*column);
            *column != special && rows.len() == path_rows && rows.starts_with(links)
        };
        if let Some(known) = columns.of_set(set as usize).find(same) {
            return known;
        }
        let cost = self.set_costs[set as usize]
            + links.iter().map(|link| self.link_costs[*link as usize]).sum::<f64>();
        columns.add(set, cost, links.iter().map(|link| (*link, 1.0)).chain(budget))
    }

    /// Adds the paths, `most` at the most, that gain most under the prices. `among` has those of each commodity.
    pub(super) fn add_best_of(&mut self, problem: &FlowProblem<'_>, among: &[Vec<Vec<LinkIx>>], most: usize) {
        let mut best: Vec<(f64, u32, &Vec<LinkIx>)> = Vec::new();
        for (commodity, paths) in problem.commodities.iter().zip(among) {
            let Some(set) = self.set(commodity).filter(|_| commodity.demand > 0.0) else { continue };
            let price = self.master.set_price(set);
            let gain = |path: &Vec<LinkIx>| {
                price - path.iter().map(|link| self.master.price[link.ix()]).sum::<f64>() - self.path_cost
            };
            let of_set = paths.iter().map(|path| (gain(path), set, path));
            let helpful = of_set.filter(|(gain, ..)| *gain > tolerance(price, self.path_cost));
            let one = helpful.max_by(|a, b| a.0.total_cmp(&b.0));
            best.extend(one.map(|(gain, set, path)| (gain * commodity.demand, set, path)));
        }
        best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        best.truncate(most);
        for (_, set, path) in best {
            let links: Vec<u32> = path.iter().map(|link| link.0).collect();
            self.column_along(set, &links);
        }
    }

    /// How many columns the last round found.
    pub(super) fn found(&self) -> usize {
        self.entering.len()
    }

    /// Pivots until no tight link has a price of the wrong sign, which only a warm start can leave behind.
    pub(super) fn settle(&mut self, deadline: Option<Instant>) -> Ended {
        self.entering.clear();
        self.pivot_until(deadline)
    }

    /// Pivots until none of the columns found in the last round is better than the basis. To have found some and
    /// to be able to use none is to be stuck.
    pub(super) fn pivot(&mut self, deadline: Option<Instant>) -> Ended {
        let before = self.master.pivots;
        match self.pivot_until(deadline) {
            Ended::Done if self.master.pivots == before => Ended::Stuck,
            ended => ended,
        }
    }

    fn pivot_until(&mut self, deadline: Option<Instant>) -> Ended {
        let before = self.master.pivots;
        let by_size = PIVOTS_PER_ROW.saturating_mul(100 + self.sets() + self.capacities.len());
        let most = self.most_pivots.min(by_size);
        let mut stalled = 0;
        loop {
            let made = self.master.pivots - before;
            let look = made % PIVOTS_PER_LOOK == PIVOTS_PER_LOOK - 1;
            if look && passed(deadline) {
                return Ended::Late;
            }
            // A long run of pivots that move nothing may be a cycle; chance breaks it.
            let chance = |number: u32| match stalled > STALLED {
                true => scattered(u64::from(number) << 32 | made as u64),
                false => 1.0,
            };
            let Some(entering) = self.best_to_enter(chance) else { return Ended::Done };
            if self.master.pivots >= most {
                return Ended::Stuck;
            }
            let Some(step) = self.master.enter(entering) else { return Ended::Stuck };
            stalled = if step > self.master.value_slack { 0 } else { stalled + 1 };
            self.master.update_prices();
        }
    }

    fn best_to_enter(&self, chance: impl Fn(u32) -> f64) -> Option<Entering> {
        let tolerance_of = |link: usize| REDUCED / self.capacities[link];
        if let Some(entering) = self.master.wrong_price(tolerance_of, &chance) {
            return Some(entering);
        }
        let mut best = 0.0;
        let mut found = None;
        for column in &self.entering {
            let set = self.master.columns.set(*column);
            let price = self.master.set_price(set);
            let gain = price - self.master.full_cost(*column);
            let score = gain * self.master.demand[set as usize] * chance(*column);
            if gain > tolerance(price, self.path_cost) && score > best {
                best = score;
                found = Some(Entering::Column(*column));
            }
        }
        found
    }

    /// Paths of each commodity and what is left to its special column, as shares, with the loads of all.
    pub(super) fn shares(&self, problem: &FlowProblem<'_>) -> (Vec<Vec<PathShare>>, Vec<f64>, Vec<f64>) {
        let master = &self.master;
        let mut split: Vec<(u32, u32, f64)> = master
            .basic
            .iter()
            .zip(&master.value)
            .map(|(column, value)| (master.columns.set(*column), *column, value.max(0.0)))
            .filter(|(set, _, value)| *set != NONE && *value > 0.0)
            .collect();
        split.sort_unstable_by_key(|(set, column, _)| (*set, *column));
        let mut loads = problem.background.clone();
        let mut paths = Vec::with_capacity(problem.commodities.len());
        let mut rest = Vec::with_capacity(problem.commodities.len());
        for commodity in &problem.commodities {
            let Some(set) = self.set(commodity) else { continue };
            let others = &split[split.partition_point(|(s, ..)| *s < set)..];
            let others = &others[..others.partition_point(|(s, ..)| *s == set)];
            let key_value = master.key_value[set as usize].max(0.0);
            let sum: f64 = key_value + others.iter().map(|(.., value)| value).sum::<f64>();
            let key_share = if sum > 0.0 { key_value / sum } else { 1.0 };
            let key = (set, master.key[set as usize], key_share);
            let mut shares = Vec::with_capacity(1 + others.len());
            let mut special_share = 0.0;
            let others =
                others.iter().map(|(s, column, value)| (*s, *column, value / sum.max(f64::MIN_POSITIVE)));
            for (_, column, share) in std::iter::once(key).chain(others).filter(|(.., share)| *share > 0.0) {
                for (link, part) in master.columns.entries(column) {
                    loads[link] += share * commodity.demand * part;
                }
                if self.special[set as usize] == column {
                    special_share = share;
                } else {
                    let links = master.columns.links(column).iter().map(|link| LinkIx(*link)).collect();
                    shares.push(PathShare { links, share });
                }
            }
            paths.push(shares);
            rest.push(special_share);
        }
        (paths, rest, loads)
    }
}

/// Says no after so many pivots, or when the deadline passes.
pub(super) fn until(most: usize, deadline: Option<Instant>) -> impl FnMut() -> bool {
    let mut left = most;
    move || {
        left = left.saturating_sub(1);
        left > 0 && !(left.is_multiple_of(PIVOTS_PER_LOOK) && passed(deadline))
    }
}

/// A fraction that looks random (splitmix64), so that sums of different ones hardly ever agree.
pub(super) fn scattered(number: u64) -> f64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

fn keep_best(found: &mut Vec<Found>, batch: usize) {
    found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.set.cmp(&b.set)));
    found.truncate(batch);
}

/// What a gain has to exceed: a part of the price of a set, or of what any path costs.
fn tolerance(price: f64, path_cost: f64) -> f64 {
    REDUCED * price.abs().max(path_cost.abs())
}

pub(super) fn disconnected(network: &Network, commodity: &Commodity) -> FlowError {
    FlowError::Disconnected {
        source_node: network.nodes()[commodity.source.ix()].name.clone(),
        target_node: network.nodes()[commodity.target.ix()].name.clone(),
        demand: commodity.demand,
    }
}

pub(super) fn valid(what: &'static str, index: usize, value: f64) -> Result<(), FlowError> {
    let valid = value.is_finite() && value >= 0.0;
    if valid { Ok(()) } else { Err(FlowError::Value { what, index, value }) }
}
