//! Which links join how many nodes?

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
#[cfg(doc)]
use traflux_core::NetworkError;
use traflux_core::{BitRate, Latency, Link, LinkIx, Network, Node, NodeIx, ShortestPaths};

use super::rng;
use crate::error::{TeError, require};

/// Light in fibre covers two thirds of what it does in vacuum.
const FIBRE_KM_PER_SECOND: f64 = 200_000.0;
/// Two nodes are at least a metre apart, so that a weight by distance is positive.
const LEAST_KM: f64 = 1e-3;

/// How the weight of a link follows from the rest of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightRule {
    /// 1: shortest paths have the fewest links.
    Hops,
    /// The greatest capacity of the model over that of the link.
    InverseCapacity,
    /// Kilometres.
    Distance,
}

/// What links are like. Every link has a twin in the other direction with the same capacity, weight and
/// delay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkModel {
    /// One is drawn for each pair of twins, all with the same probability; at least one, all positive.
    pub capacities: Vec<BitRate>,
    /// How weights are set.
    pub weight: WeightRule,
    /// Edge of the square in which nodes lie, in kilometres, positive. Delay is distance over the speed of
    /// light in fibre.
    pub side_km: f64,
}

/// 10 Gbit/s throughout, weights of 1, a square as large as a continent.
impl Default for LinkModel {
    fn default() -> Self {
        Self {
            capacities: vec![BitRate::gigabits_per_second(10.0)],
            weight: WeightRule::Hops,
            side_km: 4000.0,
        }
    }
}

/// A circle of nodes, each joined with the next.
///
/// # Errors
/// [`TeError::Parameter`] for fewer than 3 nodes or a link model out of its range; [`NetworkError::TooLarge`]
/// for a network beyond [`Network::MAX_NODES`] or [`Network::MAX_LINKS`].
pub fn ring(nodes: usize, links: &LinkModel, seed: u64) -> Result<Network, TeError> {
    require(nodes >= 3, "number of nodes", nodes as f64, "at least 3")?;
    Network::check_size(nodes, 0)?;
    let edges = (0..nodes).map(|node| (node, (node + 1) % nodes)).collect();
    links.network(circle(nodes, links.side_km), edges, seed)
}

/// `rows × columns` nodes, each joined with its neighbours to the right and below; node `(r, c)` has position
/// `r · columns + c`.
///
/// # Errors
/// [`TeError::Parameter`] for fewer than 2 nodes or a link model out of its range; [`NetworkError::TooLarge`]
/// for a network beyond [`Network::MAX_NODES`] or [`Network::MAX_LINKS`].
pub fn grid(rows: usize, columns: usize, links: &LinkModel, seed: u64) -> Result<Network, TeError> {
    let nodes = rows.saturating_mul(columns);
    require(nodes >= 2, "number of nodes", nodes as f64, "at least 2")?;
    Network::check_size(nodes, 0)?;
    let step = links.side_km / (rows.max(columns) - 1) as f64;
    let positions = (0..nodes).map(|v| [(v % columns) as f64 * step, (v / columns) as f64 * step]).collect();
    let right = (0..nodes).filter(|v| v % columns + 1 < columns).map(|v| (v, v + 1));
    let below = (0..nodes - columns).map(|v| (v, v + columns));
    links.network(positions, right.chain(below).collect(), seed)
}

/// Every node joined with every other, on a circle.
///
/// # Errors
/// [`TeError::Parameter`] for fewer than 2 nodes or a link model out of its range; [`NetworkError::TooLarge`]
/// for a network beyond [`Network::MAX_NODES`] or [`Network::MAX_LINKS`].
pub fn full_mesh(nodes: usize, links: &LinkModel, seed: u64) -> Result<Network, TeError> {
    require(nodes >= 2, "number of nodes", nodes as f64, "at least 2")?;
    Network::check_size(nodes, nodes.saturating_mul(nodes - 1))?;
    let edges = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))).collect();
    links.network(circle(nodes, links.side_km), edges, seed)
}

/// Parameters of [`waxman`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WaxmanConfig {
    /// How many nodes, at least 3.
    pub nodes: usize,
    /// `α`, in (0, 1]: how many links there are.
    pub alpha: f64,
    /// `β`, positive: how long they are.
    pub beta: f64,
    /// Whether the failure of no single link may part the network.
    pub survivable: bool,
    /// What links are like.
    pub links: LinkModel,
}

impl Default for WaxmanConfig {
    fn default() -> Self {
        Self { nodes: 30, alpha: 0.4, beta: 0.15, survivable: true, links: LinkModel::default() }
    }
}

/// The random network of Waxman (1988): nodes uniform in a square, each two joined with probability `α
/// exp(−distance / (β L))`, `L` the diagonal of the square. The shortest links that connect the parts are
/// added.
///
/// # Errors
/// [`TeError::Parameter`] for a parameter out of its range; [`NetworkError::TooLarge`]
/// for a network beyond [`Network::MAX_NODES`] or [`Network::MAX_LINKS`].
pub fn waxman(config: &WaxmanConfig, seed: u64) -> Result<Network, TeError> {
    let WaxmanConfig { nodes, alpha, beta, .. } = *config;
    require(nodes >= 3, "number of nodes", nodes as f64, "at least 3")?;
    Network::check_size(nodes, 0)?;
    require(alpha > 0.0 && alpha <= 1.0, "alpha", alpha, "in (0, 1]")?;
    require(beta.is_finite() && beta > 0.0, "beta", beta, "finite and positive")?;
    let mut random = rng(seed, 1);
    let positions = scattered(nodes, config.links.side_km, &mut random);
    let reach = beta * config.links.side_km * std::f64::consts::SQRT_2;
    let mut edges = Vec::new();
    for a in 0..nodes {
        for b in a + 1..nodes {
            if random.random::<f64>() < alpha * (-distance(&positions, a, b) / reach).exp() {
                edges.push((a, b));
            }
        }
        Network::check_size(nodes, 2 * edges.len())?;
    }
    connect(&positions, &mut edges);
    if config.survivable {
        cover_bridges(&positions, &mut edges);
    }
    config.links.network(positions, edges, seed)
}

/// Parameters of [`backbone`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackboneConfig {
    /// How many nodes, at least 3.
    pub nodes: usize,
    /// Neighbours of a node on average, as far as the Gabriel graph has them (about 4); backbones have 2.5 to
    /// 3.5.
    pub mean_degree: f64,
    /// Whether the failure of no single link may part the network.
    pub survivable: bool,
    /// What links are like.
    pub links: LinkModel,
}

impl Default for BackboneConfig {
    fn default() -> Self {
        Self { nodes: 20, mean_degree: 3.0, survivable: true, links: LinkModel::default() }
    }
}

/// A sparse network that looks like a backbone: nodes uniform in a square, joined by the shortest tree, by
/// what it takes to survive any single link, and by links of the Gabriel graph (Gabriel and Sokal 1969: two
/// nodes are joined when no other lies within the circle of which they are the diameter; fibre networks
/// resemble it, Çetinkaya et al. 2014) where they save the longest detours, until nodes have `mean_degree`
/// neighbours.
///
/// # Errors
/// [`TeError::Parameter`] for a parameter out of its range; [`NetworkError::TooLarge`]
/// for a network beyond [`Network::MAX_NODES`] or [`Network::MAX_LINKS`].
pub fn backbone(config: &BackboneConfig, seed: u64) -> Result<Network, TeError> {
    let (nodes, degree) = (config.nodes, config.mean_degree);
    require(nodes >= 3, "number of nodes", nodes as f64, "at least 3")?;
    Network::check_size(nodes, 0)?;
    require(degree.is_finite() && degree >= 0.0, "mean degree", degree, "finite and not negative")?;
    let positions = scattered(nodes, config.links.side_km, &mut rng(seed, 1));
    let mut edges = Vec::new();
    connect(&positions, &mut edges);
    if config.survivable {
        cover_bridges(&positions, &mut edges);
    }
    let wanted = (degree * nodes as f64 / 2.0).round() as usize;
    if edges.len() < wanted {
        let present = Adjacency::new(nodes, &edges);
        let (mut search, mut saving) = (ShortestPaths::default(), Vec::new());
        for a in 0..nodes {
            // Edges have no direction: the way to `a` is as long as the way from it.
            search.search(nodes, NodeIx::from(a), |node| {
                let (from, positions) = (node.ix(), &positions);
                let edges = present.of[from].iter();
                edges.map(move |(other, edge)| {
                    (NodeIx::from(*other), LinkIx::from(*edge), distance(positions, from, *other))
                })
            });
            for b in (a + 1..nodes).filter(|b| !present.joins(a, *b) && is_gabriel(&positions, a, *b)) {
                let direct = distance(&positions, a, b).max(LEAST_KM);
                saving.push((search.distance(NodeIx::from(b)) / direct, a, b));
            }
        }
        saving.sort_unstable_by(|one, other| {
            other.0.total_cmp(&one.0).then((one.1, one.2).cmp(&(other.1, other.2)))
        });
        edges.extend(saving.iter().take(wanted - edges.len()).map(|(_, a, b)| (*a, *b)));
    }
    config.links.network(positions, edges, seed)
}

impl LinkModel {
    /// Nodes `n0`, `n1`, … and two links per edge: link `2 i` leads from the first end of edge `i` to the
    /// second, link `2 i + 1` back.
    fn network(
        &self,
        positions: Vec<[f64; 2]>,
        edges: Vec<(usize, usize)>,
        seed: u64,
    ) -> Result<Network, TeError> {
        let (side, count) = (self.side_km, self.capacities.len());
        require(side.is_finite() && side > 0.0, "side in km", side, "finite and positive")?;
        require(count > 0, "number of capacities", count as f64, "at least 1")?;
        let greatest = self.capacities.iter().copied().fold(BitRate::ZERO, BitRate::max);
        let mut random = rng(seed, 0);
        let mut links = Vec::with_capacity(2 * edges.len());
        for (a, b) in edges {
            let capacity = self.capacities[random.random_range(0..count)];
            let km = distance(&positions, a, b).max(LEAST_KM);
            let weight = match self.weight {
                WeightRule::Hops => 1.0,
                WeightRule::InverseCapacity => greatest / capacity,
                WeightRule::Distance => km,
            };
            let delay = Latency::saturating(km / FIBRE_KM_PER_SECOND);
            for (tail, head) in [(a, b), (b, a)] {
                let (tail, head) = (NodeIx::from(tail), NodeIx::from(head));
                links.push(Link { tail, head, capacity, weight, delay });
            }
        }
        let node = |(ix, at)| Node { name: format!("n{ix}"), position: Some(at) };
        Ok(Network::new(positions.into_iter().enumerate().map(node).collect(), links)?)
    }
}

fn circle(nodes: usize, side: f64) -> Vec<[f64; 2]> {
    let at = |node: usize| std::f64::consts::TAU * node as f64 / nodes as f64;
    (0..nodes).map(|v| [0.5 * side * (1.0 + at(v).cos()), 0.5 * side * (1.0 + at(v).sin())]).collect()
}

fn scattered(nodes: usize, side: f64, random: &mut ChaCha8Rng) -> Vec<[f64; 2]> {
    (0..nodes).map(|_| [side * random.random::<f64>(), side * random.random::<f64>()]).collect()
}

fn distance(positions: &[[f64; 2]], a: usize, b: usize) -> f64 {
    let (a, b) = (positions[a], positions[b]);
    ((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)).sqrt()
}

fn is_gabriel(positions: &[[f64; 2]], a: usize, b: usize) -> bool {
    let squared = |x, y| distance(positions, x, y).powi(2);
    let diameter = squared(a, b);
    (0..positions.len()).all(|c| c == a || c == b || squared(a, c) + squared(b, c) > diameter)
}

/// Adds the shortest edges that make one part of all (Prim's algorithm, where what is joined already is
/// near).
fn connect(positions: &[[f64; 2]], edges: &mut Vec<(usize, usize)>) {
    let nodes = positions.len();
    let present = Adjacency::new(nodes, edges);
    let mut joined = vec![false; nodes];
    // For each node outside, its distance to what is inside and the node it is joined by.
    let mut nearest = vec![(f64::INFINITY, 0); nodes];
    let mut next = 0;
    loop {
        let mut fresh = vec![next];
        joined[next] = true;
        while let Some(node) = fresh.pop() {
            for other in 0..nodes {
                let length = distance(positions, node, other);
                if !joined[other] && length < nearest[other].0 {
                    nearest[other] = (length, node);
                }
            }
            for &(other, _) in &present.of[node] {
                if !std::mem::replace(&mut joined[other], true) {
                    fresh.push(other);
                }
            }
        }
        let outside = (0..nodes).filter(|v| !joined[*v]);
        match outside.min_by(|a, b| nearest[*a].0.total_cmp(&nearest[*b].0)) {
            Some(node) => {
                edges.push((nearest[node].1, node));
                next = node;
            }
            None => return,
        }
    }
}

/// Adds edges until no edge of a connected network is a bridge: again and again, from a part behind a single
/// bridge, the one that is shortest for each bridge that it makes one no more.
fn cover_bridges(positions: &[[f64; 2]], edges: &mut Vec<(usize, usize)>) {
    let nodes = positions.len();
    while let Some(bridges) = bridges_between(nodes, edges) {
        let adjacency = Adjacency::new(nodes, edges);
        // Of a tree of parts joined by bridges there are at least two with one bridge only.
        let leaf = (0..nodes).map(|node| adjacency.bridges_crossed(node, &bridges)).find(|crossed| {
            let ends = |&(a, b): &(usize, usize)| crossed[a].min(crossed[b]) == 0;
            edges.iter().zip(&bridges).filter(|(edge, bridge)| **bridge && ends(edge)).count() == 1
        });
        let Some(crossed) = leaf else { return };
        let bridge =
            edges.iter().zip(&bridges).find(|((a, b), bridge)| **bridge && crossed[*a] + crossed[*b] == 1);
        let bridge = bridge.map(|(edge, _)| *edge);
        let mut best = (f64::INFINITY, None);
        for a in (0..nodes).filter(|a| crossed[*a] == 0) {
            for b in (0..nodes).filter(|b| crossed[*b] > 0) {
                let price = distance(positions, a, b) / crossed[b] as f64;
                if price < best.0 && Some((a, b)) != bridge && Some((b, a)) != bridge {
                    best = (price, Some((a, b)));
                }
            }
        }
        // With three nodes or more, a part and the rest have another pair than the bridge.
        let Some(edge) = best.1 else { return };
        edges.push(edge);
    }
}

/// Which edges of a connected network are bridges; `None` when none is.
fn bridges_between(nodes: usize, edges: &[(usize, usize)]) -> Option<Vec<bool>> {
    let adjacency = Adjacency::new(nodes, edges);
    let (mut order, mut low) = (vec![usize::MAX; nodes], vec![0; nodes]);
    let mut bridges = vec![false; edges.len()];
    let mut stack = vec![(0, usize::MAX, 0)];
    let mut visited = 0;
    // Depth first: an edge to a child is a bridge when nothing below reaches above it (Tarjan 1974).
    while let Some((node, through, next)) = stack.last_mut() {
        let (node, through) = (*node, *through);
        if *next == 0 {
            order[node] = visited;
            low[node] = visited;
            visited += 1;
        }
        if let Some(&(other, edge)) = adjacency.of[node].get(*next) {
            *next += 1;
            if edge == through {
                continue;
            }
            if order[other] == usize::MAX {
                stack.push((other, edge, 0));
            } else {
                low[node] = low[node].min(order[other]);
            }
        } else {
            stack.pop();
            if let Some((parent, _, _)) = stack.last() {
                low[*parent] = low[*parent].min(low[node]);
                bridges[through] = low[node] > order[*parent];
            }
        }
    }
    bridges.contains(&true).then_some(bridges)
}

/// The neighbours of each node with the edge that leads there.
struct Adjacency {
    of: Vec<Vec<(usize, usize)>>,
}

impl Adjacency {
    fn new(nodes: usize, edges: &[(usize, usize)]) -> Self {
        let mut of = vec![Vec::new(); nodes];
        for (edge, &(a, b)) in edges.iter().enumerate() {
            of[a].push((b, edge));
            of[b].push((a, edge));
        }
        Self { of }
    }

    /// How many bridges lie between one node and each; every path crosses the same.
    fn bridges_crossed(&self, from: usize, bridges: &[bool]) -> Vec<usize> {
        let mut crossed = vec![usize::MAX; self.of.len()];
        crossed[from] = 0;
        let mut stack = vec![from];
        while let Some(node) = stack.pop() {
            for &(other, edge) in &self.of[node] {
                if crossed[other] == usize::MAX {
                    crossed[other] = crossed[node] + usize::from(bridges[edge]);
                    stack.push(other);
                }
            }
        }
        crossed
    }

    fn joins(&self, a: usize, b: usize) -> bool {
        self.of[a].iter().any(|(other, _)| *other == b)
    }
}
