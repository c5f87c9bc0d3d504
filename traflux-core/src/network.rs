//! Which links join the nodes, how much does each pair of nodes send, and over which paths?
//!
//! In a network a *resource* is a [`Link`], a *flow* is an ordered pair of nodes, and a *route* is a path. The
//! number of paths is exponential, so they are never all listed: a [`Routing`] is a [`BaseRouting`] (what the
//! routers do by themselves, usually ECMP) for every pair but the few that were rerouted, at least in part, over
//! explicit paths.
//!
//! Pairs are the groups that a policy scores. Of `n` nodes there are `n (n − 1)`; pair `s → t` has position
//! `s (n − 1) + t − [t > s]`, the order of a matrix by rows without its diagonal.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::topology::{GroupIx, index};
use crate::units::{BitRate, Latency};

index!(
    /// Position of a node.
    NodeIx
);
index!(
    /// Position of a directed link.
    LinkIx
);

/// Shares of a pair may miss the sum of 1 by this much.
const SHARE_TOLERANCE: f64 = 1e-9;

/// A router.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Node {
    /// Unique name.
    pub name: String,
    /// Longitude and latitude in degrees, or any other plane, where known; for show.
    pub position: Option<[f64; 2]>,
}

/// A directed link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Where it starts.
    pub tail: NodeIx,
    /// Where it ends.
    pub head: NodeIx,
    /// What it can carry. Positive.
    pub capacity: BitRate,
    /// Weight of the routing protocol, by which shortest paths are found. Dimensionless, positive.
    pub weight: f64,
    /// Propagation delay; zero where it is not known.
    pub delay: Latency,
}

/// A directed network; parallel links are allowed, loops are not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Network {
    nodes: Vec<Node>,
    links: Vec<Link>,
    #[serde(skip)]
    out_offsets: Vec<u32>,
    #[serde(skip)]
    out_links: Vec<LinkIx>,
    #[serde(skip)]
    in_offsets: Vec<u32>,
    #[serde(skip)]
    in_links: Vec<LinkIx>,
}

impl Network {
    /// The most nodes of which all pairs can be indexed.
    pub const MAX_NODES: usize = 65_536;
    /// The most links: 4096 nodes, each joined with every other, have fewer.
    pub const MAX_LINKS: usize = 1 << 24;

    /// Checks nodes and links and indexes them.
    ///
    /// # Errors
    /// [`NetworkError`] for a name used twice, a node that does not exist, a loop, a capacity or a weight that
    /// is not finite and positive, more than [`Network::MAX_NODES`] nodes, or more than
    /// [`Network::MAX_LINKS`] links.
    pub fn new(nodes: Vec<Node>, links: Vec<Link>) -> Result<Self, NetworkError> {
        Self::check_size(nodes.len(), links.len())?;
        let mut seen = HashMap::with_capacity(nodes.len());
        for node in &nodes {
            if seen.insert(node.name.as_str(), ()).is_some() {
                return Err(NetworkError::DuplicateNode { name: node.name.clone() });
            }
        }
        for (ix, link) in links.iter().enumerate() {
            for end in [link.tail, link.head] {
                if end.ix() >= nodes.len() {
                    return Err(NetworkError::UnknownNode { link: ix, node: end.ix(), nodes: nodes.len() });
                }
            }
            if link.tail == link.head {
                return Err(NetworkError::SelfLoop { link: ix, node: nodes[link.tail.ix()].name.clone() });
            }
            for (quantity, value) in [("capacity", link.capacity.get()), ("weight", link.weight)] {
                if !(value.is_finite() && value > 0.0) {
                    return Err(NetworkError::LinkValue { link: ix, quantity, value });
                }
            }
        }
        let (out_offsets, out_links) = by_node(nodes.len(), links.iter().map(|link| link.tail));
        let (in_offsets, in_links) = by_node(nodes.len(), links.iter().map(|link| link.head));
        Ok(Self { nodes, links, out_offsets, out_links, in_offsets, in_links })
    }

    /// Checks how many nodes and links there are to be, before anything is allocated for them.
    ///
    /// # Errors
    /// [`NetworkError::TooLarge`] beyond [`Network::MAX_NODES`] or [`Network::MAX_LINKS`].
    pub fn check_size(nodes: usize, links: usize) -> Result<(), NetworkError> {
        for (what, count, limit) in [("nodes", nodes, Self::MAX_NODES), ("links", links, Self::MAX_LINKS)] {
            if count > limit {
                return Err(NetworkError::TooLarge { what, count, limit });
            }
        }
        Ok(())
    }

    /// All nodes.
    #[inline]
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All links.
    #[inline]
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The links that start at a node, in the order given.
    ///
    /// # Panics
    /// When there is no such node.
    #[inline]
    #[must_use]
    pub fn out_links(&self, node: NodeIx) -> &[LinkIx] {
        let range = self.out_offsets[node.ix()] as usize..self.out_offsets[node.ix() + 1] as usize;
        &self.out_links[range]
    }

    /// The links that end at a node, in the order given.
    ///
    /// # Panics
    /// When there is no such node.
    #[inline]
    #[must_use]
    pub fn in_links(&self, node: NodeIx) -> &[LinkIx] {
        let range = self.in_offsets[node.ix()] as usize..self.in_offsets[node.ix() + 1] as usize;
        &self.in_links[range]
    }

    /// Finds a node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<NodeIx> {
        self.nodes.iter().position(|node| node.name == name).map(NodeIx::from)
    }

    /// How many ordered pairs of different nodes there are.
    #[inline]
    #[must_use]
    pub fn pair_count(&self) -> usize {
        self.nodes.len() * self.nodes.len().saturating_sub(1)
    }

    /// Position of the pair `source → target`.
    ///
    /// # Panics
    /// When the two are the same node, or there is no such node.
    #[inline]
    #[must_use]
    pub fn pair_ix(&self, source: NodeIx, target: NodeIx) -> GroupIx {
        assert!(source != target, "a pair has two ends");
        assert!(source.max(target).ix() < self.nodes.len(), "a pair has ends that exist");
        GroupIx::from(source.ix() * (self.nodes.len() - 1) + target.ix() - usize::from(target > source))
    }

    /// The two ends of a pair, source first.
    ///
    /// # Panics
    /// When there is no such pair.
    #[inline]
    #[must_use]
    pub fn pair(&self, pair: GroupIx) -> (NodeIx, NodeIx) {
        assert!(pair.ix() < self.pair_count(), "a pair is one of the network");
        let others = self.nodes.len() - 1;
        let (source, rest) = (pair.ix() / others, pair.ix() % others);
        (NodeIx::from(source), NodeIx::from(rest + usize::from(rest >= source)))
    }

    /// Checks that a matrix has a row for every node.
    ///
    /// # Errors
    /// [`NetworkError::Length`] when it is for another number of nodes.
    pub fn check_matrix(&self, demands: &TrafficMatrix) -> Result<(), NetworkError> {
        let (got, expected) = (demands.nodes(), self.nodes.len());
        if got == expected {
            return Ok(());
        }
        Err(NetworkError::Length { what: "traffic matrix", got, expected })
    }

    /// Checks demands by rows in memory of the caller's: `nodes × nodes` numbers in bit/s, row = source, finite and
    /// not negative. The diagonal is not looked at.
    ///
    /// # Errors
    /// As [`TrafficMatrix::from_rows`].
    pub fn check_rows(&self, rows: &[f64]) -> Result<(), NetworkError> {
        let nodes = self.nodes.len();
        check_rows(nodes, rows)
    }

    /// Load divided by capacity, at its greatest; 0 without links.
    ///
    /// `loads`: bit/s by link.
    #[must_use]
    pub fn max_utilization(&self, loads: &[f64]) -> f64 {
        self.links.iter().zip(loads).map(|(link, load)| load / link.capacity.get()).fold(0.0, f64::max)
    }

    /// The same nodes without some of the links.
    ///
    /// # Panics
    /// When there is no such link.
    #[must_use]
    pub fn without_links(&self, down: &[LinkIx]) -> Self {
        let mut up = vec![true; self.links.len()];
        for link in down {
            up[link.ix()] = false;
        }
        let links: Vec<Link> = self.links.iter().zip(&up).filter(|(_, up)| **up).map(|(l, _)| *l).collect();
        let (out_offsets, out_links) = by_node(self.nodes.len(), links.iter().map(|link| link.tail));
        let (in_offsets, in_links) = by_node(self.nodes.len(), links.iter().map(|link| link.head));
        Self { nodes: self.nodes.clone(), links, out_offsets, out_links, in_offsets, in_links }
    }
}

/// Links sorted by one of their ends: offsets (nodes + 1) and links.
fn by_node(nodes: usize, ends: impl Iterator<Item = NodeIx> + Clone) -> (Vec<u32>, Vec<LinkIx>) {
    let mut offsets = vec![0u32; nodes + 1];
    for end in ends.clone() {
        offsets[end.ix() + 1] += 1;
    }
    for node in 0..nodes {
        offsets[node + 1] += offsets[node];
    }
    let mut next = offsets.clone();
    let mut links = vec![LinkIx(0); offsets[nodes] as usize];
    for (ix, end) in ends.enumerate() {
        links[next[end.ix()] as usize] = LinkIx::from(ix);
        next[end.ix()] += 1;
    }
    (offsets, links)
}

/// Who sends how much to whom: a dense matrix with an empty diagonal.
///
/// What is deserialized is checked as by [`TrafficMatrix::from_rows`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedMatrix")]
pub struct TrafficMatrix {
    nodes: usize,
    demands: Vec<f64>,
}

/// A [`TrafficMatrix`] as it is read.
#[derive(Deserialize)]
struct UncheckedMatrix {
    nodes: usize,
    demands: Vec<f64>,
}

impl TryFrom<UncheckedMatrix> for TrafficMatrix {
    type Error = NetworkError;

    fn try_from(matrix: UncheckedMatrix) -> Result<Self, NetworkError> {
        Self::from_rows(matrix.nodes, matrix.demands)
    }
}

impl TrafficMatrix {
    /// A matrix without traffic.
    #[must_use]
    pub fn zero(nodes: usize) -> Self {
        Self { nodes, demands: vec![0.0; nodes * nodes] }
    }

    /// Takes `nodes × nodes` demands by rows (row = source) in bit/s. The diagonal is dropped.
    ///
    /// # Errors
    /// [`NetworkError::Length`], or [`NetworkError::Demand`] for a NaN, infinite or negative demand.
    pub fn from_rows(nodes: usize, mut demands: Vec<f64>) -> Result<Self, NetworkError> {
        check_rows(nodes, &demands)?;
        for node in 0..nodes {
            demands[node * nodes + node] = 0.0;
        }
        Ok(Self { nodes, demands })
    }

    /// How many nodes it is for.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// All demands by rows, bit/s, diagonal included (zero).
    #[must_use]
    pub fn as_slice(&self) -> &[f64] {
        &self.demands
    }

    /// The demands from one source by target, bit/s.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn row(&self, source: NodeIx) -> &[f64] {
        &self.demands[source.ix() * self.nodes..][..self.nodes]
    }

    /// One demand in bit/s.
    ///
    /// # Panics
    /// When there is no such node.
    #[inline]
    #[must_use]
    pub fn demand(&self, source: NodeIx, target: NodeIx) -> f64 {
        self.row(source)[target.ix()]
    }

    /// Sets one demand.
    ///
    /// # Panics
    /// When source and target are the same node, or there is no such node.
    pub fn set(&mut self, source: NodeIx, target: NodeIx, demand: BitRate) {
        assert_ne!(source, target, "a node sends nothing to itself");
        self.demands[source.ix() * self.nodes..][..self.nodes][target.ix()] = demand.get();
    }

    /// The demands of all pairs in the order of pair positions, bit/s.
    pub fn pairs(&self) -> impl Iterator<Item = f64> + '_ {
        let nodes = self.nodes;
        self.demands.iter().enumerate().filter(move |(at, _)| at / nodes != at % nodes).map(|(_, d)| *d)
    }

    /// The sum of all demands in bit/s.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.demands.iter().sum()
    }

    /// Every demand times `factor`, saturating.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let demands = self.demands.iter().map(|d| BitRate::saturating(d * factor).get()).collect();
        Self { nodes: self.nodes, demands }
    }
}

/// What routers do by themselves: for each pair the fraction of its demand on each link.
///
/// A clone shares its memory with the original.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseRouting {
    link_count: usize,
    offsets: Arc<[u32]>,
    entries: Arc<[(LinkIx, f64)]>,
}

impl BaseRouting {
    /// Takes the links of all pairs, pair after pair; a pair that no path joins has none.
    ///
    /// # Errors
    /// [`NetworkError::UnknownLink`] for a link that the network does not have, [`NetworkError::Fraction`] for
    /// a fraction that is not from 0 to 1, [`NetworkError::Length`] when the number of pairs is not that of
    /// the network, [`NetworkError::TooLarge`] beyond `u32::MAX` entries.
    pub fn new<I>(network: &Network, pairs: impl IntoIterator<Item = I>) -> Result<Self, NetworkError>
    where
        I: IntoIterator<Item = (LinkIx, f64)>,
    {
        let link_count = network.links().len();
        let mut offsets = Vec::with_capacity(network.pair_count() + 1);
        let mut entries = Vec::new();
        offsets.push(0);
        for (pair, links) in pairs.into_iter().enumerate() {
            for (link, value) in links {
                if link.ix() >= link_count {
                    return Err(NetworkError::UnknownLink { pair, link: link.ix(), links: link_count });
                }
                // Sums of parts, 1/3 + 1/3 + 1/3, may exceed 1 by rounding..
                if !(0.0..=1.0 + SHARE_TOLERANCE).contains(&value) {
                    return Err(NetworkError::Fraction { pair, link: link.ix(), value });
                }
                entries.push((link, value));
            }
            let (what, count, limit) = ("entries of the base routing", entries.len(), u32::MAX as usize);
            let too_large = |_| NetworkError::TooLarge { what, count, limit };
            offsets.push(u32::try_from(count).map_err(too_large)?);
        }
        if offsets.len() != network.pair_count() + 1 {
            return Err(NetworkError::Length {
                what: "base routing",
                got: offsets.len() - 1,
                expected: network.pair_count(),
            });
        }
        Ok(Self { link_count, offsets: offsets.into(), entries: entries.into() })
    }

    /// How many pairs it is for.
    #[must_use]
    pub fn pair_count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// How many links the network has that it is for.
    #[must_use]
    pub fn link_count(&self) -> usize {
        self.link_count
    }

    /// Whether a network has as many pairs and links as the one it was made for, so that no index of one is
    /// out of range in the other. That links join the same nodes is not checked.
    #[must_use]
    pub fn fits(&self, network: &Network) -> bool {
        self.pair_count() == network.pair_count() && self.link_count == network.links().len()
    }

    /// Links of one pair with the fraction of its demand that crosses each.
    ///
    /// # Panics
    /// When there is no such pair.
    #[inline]
    pub fn of(&self, pair: GroupIx) -> impl Iterator<Item = (LinkIx, f64)> + '_ {
        self.entries(pair).iter().copied()
    }

    /// The same as a slice.
    ///
    /// # Panics
    /// When there is no such pair.
    #[inline]
    #[must_use]
    pub fn entries(&self, pair: GroupIx) -> &[(LinkIx, f64)] {
        &self.entries[self.offsets[pair.ix()] as usize..self.offsets[pair.ix() + 1] as usize]
    }

    /// Load of each link in bit/s when all pairs follow the base.
    ///
    /// # Panics
    /// When the base does not [fit](BaseRouting::fits) the network, or the matrix is for another number of
    /// nodes.
    #[must_use]
    pub fn loads(&self, network: &Network, demands: &TrafficMatrix) -> Vec<f64> {
        self.loads_of_rows(network, demands.as_slice())
    }

    /// The same for demands by rows in memory of the caller's, which [`Network::check_rows`] has checked.
    ///
    /// # Panics
    /// As [`BaseRouting::loads`].
    #[must_use]
    pub fn loads_of_rows(&self, network: &Network, rows: &[f64]) -> Vec<f64> {
        let nodes = network.nodes().len();
        assert!(self.fits(network), "the base is one of another network");
        assert_eq!(rows.len(), nodes * nodes, "the matrix is one of another network");
        let mut loads = vec![0.0; network.links().len()];
        let off_diagonal = (0..nodes * nodes).filter(|at| at / nodes != at % nodes);
        for (pair, at) in off_diagonal.enumerate() {
            if rows[at] > 0.0 {
                for (link, fraction) in self.of(GroupIx::from(pair)) {
                    loads[link.ix()] += rows[at] * fraction;
                }
            }
        }
        loads
    }
}

/// A path and the part of its pair's demand on it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathShare {
    /// Its links from source to target.
    pub links: Vec<LinkIx>,
    /// Fraction of the demand, positive.
    pub share: f64,
}

/// One pair of which at least a part leaves the base for explicit paths.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rerouting {
    /// The pair.
    pub pair: GroupIx,
    /// Fraction of its demand that stays on the base, from 0 to 1.
    pub base_share: f64,
    /// Its paths; their shares and `base_share` sum to 1.
    pub paths: Vec<PathShare>,
}

/// Who leaves the base, by rising position of the pair; all other pairs follow the base.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Routing {
    reroutings: Vec<Rerouting>,
}

impl Routing {
    /// Checks that every path leads from source to target and that shares sum to 1 with what stays on the
    /// base, and sorts by pair.
    ///
    /// # Errors
    /// [`NetworkError::BrokenPath`] (also for a pair named twice) or [`NetworkError::Shares`].
    pub fn new(network: &Network, mut reroutings: Vec<Rerouting>) -> Result<Self, NetworkError> {
        reroutings.sort_by_key(|rerouting| rerouting.pair);
        for (at, rerouting) in reroutings.iter().enumerate() {
            let pair = rerouting.pair.ix();
            let twice = at > 0 && reroutings[at - 1].pair == rerouting.pair;
            if twice || pair >= network.pair_count() {
                return Err(NetworkError::BrokenPath { pair });
            }
            let (source, target) = network.pair(rerouting.pair);
            for path in &rerouting.paths {
                let mut at = source;
                for link in &path.links {
                    match network.links().get(link.ix()) {
                        Some(link) if link.tail == at => at = link.head,
                        _ => return Err(NetworkError::BrokenPath { pair }),
                    }
                }
                if at != target {
                    return Err(NetworkError::BrokenPath { pair });
                }
            }
            let explicit: f64 = rerouting.paths.iter().map(|path| path.share).sum();
            let sum = rerouting.base_share + explicit;
            let positive = rerouting.base_share >= 0.0 && rerouting.paths.iter().all(|path| path.share > 0.0);
            let complete = (sum - 1.0).abs() <= SHARE_TOLERANCE;
            if !positive || !complete {
                return Err(NetworkError::Shares { pair, sum });
            }
        }
        Ok(Self { reroutings })
    }

    /// The pairs that leave the base, by rising position.
    #[must_use]
    pub fn reroutings(&self) -> &[Rerouting] {
        &self.reroutings
    }

    /// The paths of a pair of which at least a part leaves the base.
    #[must_use]
    pub fn of(&self, pair: GroupIx) -> Option<&Rerouting> {
        self.reroutings
            .binary_search_by_key(&pair, |rerouting| rerouting.pair)
            .ok()
            .map(|at| &self.reroutings[at])
    }

    /// The share of all traffic that leaves the base, in [0, 1], for any demands; 0 without traffic.
    ///
    /// # Panics
    /// When the routing or the matrix is one of another network.
    #[must_use]
    pub fn rerouted_share(&self, network: &Network, demands: &TrafficMatrix) -> f64 {
        let total = demands.total();
        let leaves = self.reroutings.iter().map(|rerouting| {
            let (source, target) = network.pair(rerouting.pair);
            demands.demand(source, target) * (1.0 - rerouting.base_share)
        });
        // An empty sum is −0.
        if total > 0.0 { (leaves.sum::<f64>() / total + 0.0).min(1.0) } else { 0.0 }
    }

    /// Load of each link in bit/s for any demands, not only those the routing was made for.
    ///
    /// # Panics
    /// When the routing, the base or the matrix is one of another network.
    #[must_use]
    pub fn loads(&self, network: &Network, base: &BaseRouting, demands: &TrafficMatrix) -> Vec<f64> {
        let mut loads = base.loads(network, demands);
        for rerouting in &self.reroutings {
            let (source, target) = network.pair(rerouting.pair);
            let demand = demands.demand(source, target);
            let leaving = demand * (1.0 - rerouting.base_share);
            for (link, fraction) in base.of(rerouting.pair) {
                loads[link.ix()] -= leaving * fraction;
            }
            for path in &rerouting.paths {
                for link in &path.links {
                    loads[link.ix()] += demand * path.share;
                }
            }
        }
        // What was taken off may leave a rounding error below zero.
        for load in &mut loads {
            *load = load.max(0.0);
        }
        loads
    }
}

/// Checks demands by rows, the diagonal left out.
fn check_rows(nodes: usize, rows: &[f64]) -> Result<(), NetworkError> {
    let (got, expected) = (rows.len(), nodes.saturating_mul(nodes));
    if got != expected {
        return Err(NetworkError::Length { what: "traffic matrix", got, expected });
    }
    let wrong = |at: &usize| at / nodes != at % nodes && !(rows[*at].is_finite() && rows[*at] >= 0.0);
    match (0..rows.len()).find(wrong) {
        Some(at) => {
            Err(NetworkError::Demand { source_node: at / nodes, target_node: at % nodes, value: rows[at] })
        }
        None => Ok(()),
    }
}

/// Columns of a network's observation that every selector may rely on; an encoder may add more behind them.
pub mod column {
    /// Demand of the pair divided by the mean demand of all pairs.
    pub const DEMAND: usize = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square() -> Network {
        let nodes = ["a", "b", "c", "d"].map(|name| Node { name: name.into(), position: None }).to_vec();
        let link = |tail, head| Link {
            tail: NodeIx(tail),
            head: NodeIx(head),
            capacity: BitRate::gigabits_per_second(1.0),
            weight: 1.0,
            delay: Latency::ZERO,
        };
        Network::new(nodes, vec![link(0, 1), link(1, 3), link(0, 2), link(2, 3)]).unwrap()
    }

    #[test]
    fn positions_of_pairs_count_a_matrix_by_rows_without_its_diagonal() {
        let network = square();
        let mut at = 0;
        for source in 0..4 {
            for target in (0..4).filter(|t| *t != source) {
                let pair = network.pair_ix(NodeIx(source), NodeIx(target));
                assert_eq!(pair, GroupIx::from(at));
                assert_eq!(network.pair(pair), (NodeIx(source), NodeIx(target)));
                at += 1;
            }
        }
        assert_eq!(network.pair_count(), at);
    }

    #[test]
    fn a_rerouted_pair_leaves_its_base_links() {
        let network = square();
        let mut demands = TrafficMatrix::zero(4);
        demands.set(NodeIx(0), NodeIx(3), BitRate::gigabits_per_second(2.0));
        let pair = network.pair_ix(NodeIx(0), NodeIx(3));
        let base = BaseRouting::new(
            &network,
            (0..12).map(|p| if p == pair.ix() { vec![(LinkIx(0), 1.0), (LinkIx(1), 1.0)] } else { vec![] }),
        )
        .unwrap();
        assert_eq!(base.loads(&network, &demands), [2e9, 2e9, 0.0, 0.0]);
        let path = |links: [u32; 2], share| PathShare { links: links.map(LinkIx).to_vec(), share };
        let paths = vec![path([0, 1], 0.25), path([2, 3], 0.75)];
        let rerouting = Rerouting { pair, base_share: 0.0, paths };
        let routing = Routing::new(&network, vec![rerouting]).unwrap();
        assert_eq!(routing.loads(&network, &base, &demands), [0.5e9, 0.5e9, 1.5e9, 1.5e9]);
        assert_eq!(network.max_utilization(&[0.5e9, 0.5e9, 1.5e9, 1.5e9]), 1.5);
        let partly = Rerouting { pair, base_share: 0.25, paths: vec![path([2, 3], 0.75)] };
        let routing = Routing::new(&network, vec![partly]).unwrap();
        assert_eq!(routing.loads(&network, &base, &demands), [0.5e9, 0.5e9, 1.5e9, 1.5e9]);
        assert_eq!(routing.rerouted_share(&network, &demands), 0.75);
        assert_eq!(routing.rerouted_share(&network, &TrafficMatrix::zero(4)), 0.0);
        assert!(network.check_matrix(&demands).is_ok());
        let other = NetworkError::Length { what: "traffic matrix", got: 3, expected: 4 };
        assert_eq!(network.check_matrix(&TrafficMatrix::zero(3)), Err(other));
    }

    #[test]
    fn a_base_with_a_link_that_is_not_there_or_a_fraction_that_is_none_is_refused() {
        let network = square();
        let with = |entry| BaseRouting::new(&network, (0..12).map(|_| [entry])).unwrap_err().to_string();
        assert_eq!(with((LinkIx(4), 1.0)), "pair 0 refers to link 4, but there are 4 links");
        assert_eq!(with((LinkIx(2), -0.5)), "fraction of pair 0 on link 2 is -0.5; it must be from 0 to 1");
        assert_eq!(
            with((LinkIx(2), f64::NAN)),
            "fraction of pair 0 on link 2 is NaN; it must be from 0 to 1"
        );
        assert_eq!(with((LinkIx(2), 1.5)), "fraction of pair 0 on link 2 is 1.5; it must be from 0 to 1");
        let few = BaseRouting::new(&network, (0..11).map(|_| [])).unwrap_err();
        assert_eq!(few.to_string(), "base routing has 11 entries, expected 12");
    }

    #[test]
    fn a_base_fits_networks_with_as_many_pairs_and_links() {
        let network = square();
        let base = BaseRouting::new(&network, (0..12).map(|_| [(LinkIx(3), 1.0)])).unwrap();
        assert!(base.fits(&network));
        assert!(!base.fits(&network.without_links(&[LinkIx(0)])));
        let two = Network::new(network.nodes()[..2].to_vec(), vec![]).unwrap();
        assert!(!base.fits(&two));
    }

    #[test]
    fn a_path_that_ends_elsewhere_and_shares_that_miss_one_are_refused() {
        let network = square();
        let pair = network.pair_ix(NodeIx(0), NodeIx(3));
        let with = |links: Vec<LinkIx>, base_share, share| {
            let paths = vec![PathShare { links, share }];
            Routing::new(&network, vec![Rerouting { pair, base_share, paths }])
        };
        assert_eq!(with(vec![LinkIx(0)], 0.0, 1.0), Err(NetworkError::BrokenPath { pair: pair.ix() }));
        let shares = |sum| Err(NetworkError::Shares { pair: pair.ix(), sum });
        assert_eq!(with(vec![LinkIx(0), LinkIx(1)], 0.0, 0.5), shares(0.5));
        assert_eq!(with(vec![LinkIx(0), LinkIx(1)], 0.75, 0.5), shares(1.25));
        assert_eq!(with(vec![LinkIx(0), LinkIx(1)], -0.5, 1.5), shares(1.0));
    }

    #[test]
    fn a_matrix_drops_its_diagonal_and_refuses_what_is_not_a_demand() {
        let matrix = TrafficMatrix::from_rows(2, vec![f64::NAN, 1.0, 2.0, 5.0]).unwrap();
        assert_eq!(matrix.as_slice(), [0.0, 1.0, 2.0, 0.0]);
        assert_eq!(matrix.pairs().collect::<Vec<_>>(), [1.0, 2.0]);
        let bad = TrafficMatrix::from_rows(2, vec![0.0, -1.0, 0.0, 0.0]);
        assert_eq!(bad, Err(NetworkError::Demand { source_node: 0, target_node: 1, value: -1.0 }));
    }

    #[test]
    fn a_matrix_reads_from_json_only_when_it_is_valid() {
        let matrix = TrafficMatrix::from_rows(2, vec![0.0, 1.0, 2.0, 0.0]).unwrap();
        let text = serde_json::to_string(&matrix).unwrap();
        assert_eq!(serde_json::from_str::<TrafficMatrix>(&text).unwrap(), matrix);
        let refused = |text: &str| serde_json::from_str::<TrafficMatrix>(text).unwrap_err().to_string();
        let short = refused(r#"{"nodes": 2, "demands": [0.0, 1.0]}"#);
        assert!(short.starts_with("traffic matrix has 2 entries, expected 4"), "{short}");
        let negative = refused(r#"{"nodes": 2, "demands": [0.0, -1.0, 0.0, 0.0]}"#);
        assert!(negative.starts_with("demand from node 0 to node 1 is -1"), "{negative}");
        let huge = refused(r#"{"nodes": 18446744073709551615, "demands": [0.0]}"#);
        assert!(huge.starts_with("traffic matrix has 1 entries"), "{huge}");
    }

    #[test]
    fn an_index_from_another_network_panics_rather_than_names_another_pair() {
        let panics = |call: &dyn Fn(&Network)| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(&square()))).is_err()
        };
        assert!(panics(&|network| {
            let _ = network.pair_ix(NodeIx(1), NodeIx(1));
        }));
        assert!(panics(&|network| {
            let _ = network.pair_ix(NodeIx(0), NodeIx(4));
        }));
        assert!(panics(&|network| {
            let _ = network.pair(GroupIx(12));
        }));
        assert!(panics(&|network| {
            let _ = network.without_links(&[LinkIx(4)]);
        }));
        assert!(panics(&|_| {
            let _ = TrafficMatrix::zero(4).demand(NodeIx(0), NodeIx(4));
        }));
        assert!(!panics(&|network| {
            let _ = network.pair(GroupIx(11));
        }));
    }

    #[test]
    fn a_link_without_capacity_or_to_itself_is_refused() {
        let nodes =
            vec![Node { name: "a".into(), position: None }, Node { name: "b".into(), position: None }];
        let mut link = Link {
            tail: NodeIx(0),
            head: NodeIx(1),
            capacity: BitRate::ZERO,
            weight: 1.0,
            delay: Latency::ZERO,
        };
        let error = Network::new(nodes.clone(), vec![link]).unwrap_err();
        assert_eq!(error.to_string(), "link 0 has capacity 0; it must be finite and positive");
        link.head = NodeIx(0);
        assert_eq!(Network::new(nodes, vec![link]).unwrap_err().code(), "network_self_loop");
    }
}
