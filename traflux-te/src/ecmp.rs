//! Which links does traffic take when routers are left alone?
//!
//! Equal-cost multi-path: towards every target each node forwards over all links that lie on a shortest path
//! by weight, and splits what it has to forward, its own traffic and that in transit, equally among them (RFC
//! 2992 describes the split, Fortz and Thorup (2000) the model). With `δ(v, t)` the distance of `v` from
//! target `t`:
//!
//! ```text
//! next hops of v  =  { (v, u) : w(v, u) + δ(u, t) ≤ δ(v, t) (1 + ε) },   ε = TIE_TOLERANCE
//! ```
//!
//! and `u` nearer to `t` than `v`, so that forwarding never loops. Parallel links are next hops of their own.
//!
//! [`ecmp`] lists the fractions of all pairs; [`ecmp_loads`] gives only the loads, target by target, in
//! memory linear in the network, for networks whose pairs are too many to list.

use std::collections::BinaryHeap;

use traflux_core::{
    BaseRouting, GroupIx, LinkIx, Network, NetworkError, NodeIx, ShortestPaths, TrafficMatrix,
};

/// Two paths tie when their weights differ by no more than this, relative to the shorter. Sums of real-valued
/// weights in another order differ by some 1e-15; weights that people set differ by more than 1e-6.
pub const TIE_TOLERANCE: f64 = 1e-9;

/// The links over which each node forwards towards one target.
#[derive(Debug, Clone, Default)]
pub struct NextHops {
    search: ShortestPaths,
    offsets: Vec<u32>,
    links: Vec<LinkIx>,
}

impl NextHops {
    /// Computes them for one target.
    ///
    /// # Panics
    /// When the network has no such node.
    #[must_use]
    pub fn new(network: &Network, target: NodeIx) -> Self {
        let mut hops = Self::default();
        hops.compute(network, target);
        hops
    }

    /// Computes them for another target or network, in the memory that is there.
    ///
    /// # Panics
    /// When the network has no such node.
    pub fn compute(&mut self, network: &Network, target: NodeIx) {
        let links = network.links();
        self.search.towards(network, target, |link| links[link.ix()].weight);
        let (distances, ranks) = (self.search.distances(), self.search.ranks());
        self.offsets.clear();
        self.links.clear();
        self.offsets.push(0);
        for node in 0..network.nodes().len() {
            let (distance, rank) = (distances[node], ranks[node]);
            if distance.is_finite() {
                for &link in network.out_links(NodeIx::from(node)) {
                    let head = links[link.ix()].head.ix();
                    let through = links[link.ix()].weight + distances[head];
                    if ranks[head] < rank && through <= distance * (1.0 + TIE_TOLERANCE) {
                        self.links.push(link);
                    }
                }
            }
            self.offsets.push(self.links.len() as u32);
        }
    }

    /// The links over which a node forwards, in the order of the network; none at the target and where no
    /// path leads there.
    #[must_use]
    pub fn of(&self, node: NodeIx) -> &[LinkIx] {
        &self.links[self.offsets[node.ix()] as usize..self.offsets[node.ix() + 1] as usize]
    }

    /// Weight of a shortest path from a node to the target; infinite where there is none.
    #[must_use]
    pub fn distance(&self, node: NodeIx) -> f64 {
        self.search.distance(node)
    }

    /// The nodes that reach the target, nearest first, the target itself included.
    #[must_use]
    pub fn nearest_first(&self) -> &[NodeIx] {
        self.search.settled()
    }
}

/// For each pair the fraction of its demand on each link under equal-cost multi-path, in the order in which
/// traffic meets the links. A pair that no path joins has none.
///
/// # Errors
/// [`NetworkError::TooLarge`] beyond `u32::MAX` entries.
pub fn ecmp(network: &Network) -> Result<BaseRouting, NetworkError> {
    let nodes = network.nodes().len();
    let towards: Vec<NextHops> = (0..nodes).map(|t| NextHops::new(network, NodeIx::from(t))).collect();
    let mut spread = Spread::new(nodes);
    let pairs = (0..network.pair_count()).map(|pair| {
        let (source, target) = network.pair(GroupIx::from(pair));
        spread.of(network, &towards[target.ix()], source)
    });
    BaseRouting::new(network, pairs)
}

/// Load of each link in bit/s when all demands follow equal-cost multi-path: [`ecmp`] and
/// [`BaseRouting::loads`] in one, without the fractions of all pairs in memory.
///
/// # Errors
/// [`NetworkError::Length`] for a matrix of another number of nodes, [`NetworkError::Disconnected`] for a
/// demand that no path serves.
pub fn ecmp_loads(network: &Network, demands: &TrafficMatrix) -> Result<Vec<f64>, NetworkError> {
    network.check_matrix(demands)?;
    let mut loads = vec![0.0; network.links().len()];
    let mut hops = NextHops::default();
    let mut transit = vec![0.0; network.nodes().len()];
    for target in (0..network.nodes().len()).map(NodeIx::from) {
        hops.compute(network, target);
        for source in 0..network.nodes().len() {
            transit[source] = demands.demand(NodeIx::from(source), target);
            if transit[source] > 0.0 && hops.distance(NodeIx::from(source)).is_infinite() {
                return Err(disconnected(network, NodeIx::from(source), target, transit[source]));
            }
        }
        for &node in hops.nearest_first().iter().rev() {
            let next = hops.of(node);
            let amount = transit[node.ix()];
            if amount > 0.0 && !next.is_empty() {
                let part = amount / next.len() as f64;
                for link in next {
                    loads[link.ix()] += part;
                    transit[network.links()[link.ix()].head.ix()] += part;
                }
            }
        }
    }
    Ok(loads)
}

/// Checks that a base serves every demand, which [`BaseRouting::loads`] takes for granted.
///
/// # Errors
/// [`NetworkError::Length`] for a matrix of another number of nodes, [`NetworkError::Disconnected`] for the
/// first demand without a path.
pub fn check_served(
    network: &Network,
    base: &BaseRouting,
    demands: &TrafficMatrix,
) -> Result<(), NetworkError> {
    network.check_matrix(demands)?;
    for (pair, demand) in demands.pairs().enumerate() {
        let pair = GroupIx::from(pair);
        if demand > 0.0 && base.of(pair).next().is_none() {
            let (source, target) = network.pair(pair);
            return Err(disconnected(network, source, target, demand));
        }
    }
    Ok(())
}

fn disconnected(network: &Network, source: NodeIx, target: NodeIx, demand: f64) -> NetworkError {
    let name = |node: NodeIx| network.nodes()[node.ix()].name.clone();
    NetworkError::Disconnected { source_node: name(source), target_node: name(target), demand }
}

/// Follows one unit of traffic from a source over next hops.
struct Spread {
    amount: Vec<f64>,
    /// Ranks of the nodes with traffic, the farthest from the target first: all that flows into it is then
    /// known.
    waiting: BinaryHeap<u32>,
}

impl Spread {
    fn new(nodes: usize) -> Self {
        Self { amount: vec![0.0; nodes], waiting: BinaryHeap::new() }
    }

    fn of(&mut self, network: &Network, hops: &NextHops, source: NodeIx) -> Vec<(LinkIx, f64)> {
        let mut fractions = Vec::new();
        if hops.distance(source).is_infinite() {
            return fractions;
        }
        self.amount[source.ix()] = 1.0;
        self.waiting.push(hops.search.ranks()[source.ix()]);
        while let Some(rank) = self.waiting.pop() {
            let node = hops.search.settled()[rank as usize];
            let next = hops.of(node);
            let part = std::mem::take(&mut self.amount[node.ix()]) / next.len().max(1) as f64;
            for &link in next {
                fractions.push((link, part));
                let head = network.links()[link.ix()].head;
                if self.amount[head.ix()] == 0.0 {
                    self.waiting.push(hops.search.ranks()[head.ix()]);
                }
                self.amount[head.ix()] += part;
            }
        }
        fractions
    }
}
