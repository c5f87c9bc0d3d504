//! What is left of a network when links, nodes or shared risk groups fail?
//!
//! A [`Failure`] keeps all nodes, so pairs, traffic matrices and policies keep their positions; only links
//! get new ones, which it maps back to the intact network.
//!
//! ```
//! use traflux_te::generate::{LinkModel, ring};
//! use traflux_te::failure::{Cut, link_failures};
//!
//! let network = ring(5, &LinkModel::default(), 1)?;
//! for failure in link_failures(&network, Cut::BothDirections) {
//!     assert!(failure.unreachable.is_empty(), "a ring survives {}", failure.name);
//! }
//! # Ok::<(), traflux_te::TeError>(())
//! ```

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use traflux_core::{
    BitRate, GroupIx, LinkIx, Network, NetworkError, NodeIx, PathShare, Rerouting, Routing, TrafficMatrix,
};

/// Which links fail together when one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// A link alone.
    OneDirection,
    /// A link and its twin back: of parallel links the first with the first, the second with the second.
    BothDirections,
}

/// Links that fail together because they share something: a duct, a line card, a power supply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RiskGroup {
    /// What they share.
    pub name: String,
    /// The links.
    pub links: Vec<LinkIx>,
}

/// A network in which something failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What failed: `a - b` for both directions, `a -> b` for one, with `#2` for the second of parallel
    /// links; the name of a node or of a risk group.
    pub name: String,
    /// All nodes and what is left of the links.
    pub network: Network,
    /// The links of the intact network that failed, by rising position.
    pub down: Vec<LinkIx>,
    /// The pairs that the failure parted, by rising position; pairs that no path joined before are not among
    /// them.
    pub unreachable: Vec<GroupIx>,
    links: Vec<LinkIx>,
    now: Vec<Option<LinkIx>>,
}

impl Failure {
    /// Takes links out of a network.
    ///
    /// # Panics
    /// When the network has no such link.
    #[must_use]
    pub fn new(intact: &Network, name: String, mut down: Vec<LinkIx>) -> Self {
        down.sort_unstable();
        down.dedup();
        let network = intact.without_links(&down);
        let mut now = vec![None; intact.links().len()];
        let mut links = Vec::with_capacity(network.links().len());
        for link in (0..intact.links().len()).map(LinkIx::from) {
            if down.binary_search(&link).is_err() {
                now[link.ix()] = Some(LinkIx::from(links.len()));
                links.push(link);
            }
        }
        let unreachable = parted(intact, &network, &down);
        Self { name, network, down, unreachable, links, now }
    }

    /// The position in the intact network of each link that is left.
    #[must_use]
    pub fn links(&self) -> &[LinkIx] {
        &self.links
    }

    /// The position that a link of the intact network has now; `None` when it failed.
    #[must_use]
    pub fn link(&self, intact: LinkIx) -> Option<LinkIx> {
        self.now.get(intact.ix()).copied().flatten()
    }

    /// Values by link that is left, in the order of the intact network; 0 for links that failed.
    #[must_use]
    pub fn on_intact(&self, loads: &[f64]) -> Vec<f64> {
        let mut all = vec![0.0; self.now.len()];
        for (link, load) in self.links.iter().zip(loads) {
            all[link.ix()] = *load;
        }
        all
    }

    /// The demands that can still be served, and the sum of those that cannot.
    ///
    /// # Errors
    /// [`NetworkError::Length`] for a matrix of another number of nodes.
    pub fn served(&self, demands: &TrafficMatrix) -> Result<(TrafficMatrix, BitRate), NetworkError> {
        self.network.check_matrix(demands)?;
        let (mut served, mut lost) = (demands.clone(), BitRate::ZERO);
        for &pair in &self.unreachable {
            let (source, target) = self.network.pair(pair);
            lost += BitRate::saturating(demands.demand(source, target));
            served.set(source, target, BitRate::ZERO);
        }
        Ok((served, lost))
    }

    /// What becomes of a routing of the intact network before anybody computes a new one: paths that lost a
    /// link are left out, and the other paths of the pair and its part on the base share what they had in
    /// proportion; a pair without paths left is back on the base.
    ///
    /// # Errors
    /// [`NetworkError`] for a routing that is not one of the intact network.
    pub fn carried_over(&self, routing: &Routing) -> Result<Routing, NetworkError> {
        let survivors = |rerouting: &Rerouting| {
            let paths: Vec<PathShare> = rerouting.paths.iter().filter_map(|p| self.path(p)).collect();
            let left = rerouting.base_share + paths.iter().map(|path| path.share).sum::<f64>();
            let paths =
                paths.into_iter().map(|p| PathShare { share: p.share / left, ..p }).collect::<Vec<_>>();
            let base_share = rerouting.base_share / left;
            (!paths.is_empty()).then_some(Rerouting { pair: rerouting.pair, base_share, paths })
        };
        Routing::new(&self.network, routing.reroutings().iter().filter_map(survivors).collect())
    }

    fn path(&self, path: &PathShare) -> Option<PathShare> {
        let links = path.links.iter().map(|link| self.link(*link)).collect::<Option<Vec<_>>>()?;
        Some(PathShare { links, share: path.share })
    }
}

/// The failures of every single link, one after the other.
pub fn link_failures(network: &Network, cut: Cut) -> impl Iterator<Item = Failure> + '_ {
    let twins = twins(network);
    (0..network.links().len()).map(LinkIx::from).filter_map(move |link| {
        let twin = twins[link.ix()].0.filter(|_| cut == Cut::BothDirections);
        // Twins fail once, in the place of the first.
        let first = twin.is_none_or(|twin| link < twin);
        first.then(|| {
            let down = std::iter::once(link).chain(twin).collect();
            Failure::new(network, link_name(network, link, twin.is_some(), twins[link.ix()].1), down)
        })
    })
}

/// The failures of every single node: all its links are gone, the node itself stays, cut off.
pub fn node_failures(network: &Network) -> impl Iterator<Item = Failure> + '_ {
    (0..network.nodes().len()).map(NodeIx::from).map(move |node| {
        let down = network.out_links(node).iter().chain(network.in_links(node)).copied().collect();
        Failure::new(network, network.nodes()[node.ix()].name.clone(), down)
    })
}

/// The failures of shared risk groups, in the order given.
///
/// # Errors
/// [`NetworkError::Length`] for a group with a link that the network does not have.
pub fn group_failures<'a>(
    network: &'a Network,
    groups: &'a [RiskGroup],
) -> Result<impl Iterator<Item = Failure> + 'a, NetworkError> {
    let expected = network.links().len();
    if let Some(link) = groups.iter().flat_map(|g| &g.links).find(|link| link.ix() >= expected) {
        return Err(NetworkError::Length { what: "risk group", got: link.ix() + 1, expected });
    }
    Ok(groups.iter().map(|group| Failure::new(network, group.name.clone(), group.links.clone())))
}

/// Of each link the twin in the other direction, if there is one, and which of its parallels it is, from 0.
fn twins(network: &Network) -> Vec<(Option<LinkIx>, usize)> {
    let mut between: HashMap<(NodeIx, NodeIx), Vec<LinkIx>> = HashMap::new();
    let mut ordinals = Vec::with_capacity(network.links().len());
    for (ix, link) in network.links().iter().enumerate() {
        let parallel = between.entry((link.tail, link.head)).or_default();
        ordinals.push(parallel.len());
        parallel.push(LinkIx::from(ix));
    }
    let back = |(link, ordinal): (&traflux_core::Link, usize)| {
        let twin = between.get(&(link.head, link.tail)).and_then(|links| links.get(ordinal));
        (twin.copied(), ordinal)
    };
    network.links().iter().zip(ordinals).map(back).collect()
}

fn link_name(network: &Network, link: LinkIx, both: bool, ordinal: usize) -> String {
    let ends = &network.links()[link.ix()];
    let name = |node: NodeIx| &network.nodes()[node.ix()].name;
    let arrow = if both { "-" } else { "->" };
    let number = if ordinal > 0 { format!(" #{}", ordinal + 1) } else { String::new() };
    format!("{} {arrow} {}{number}", name(ends.tail), name(ends.head))
}

/// The pairs that a path joined before and none joins now.
fn parted(intact: &Network, left: &Network, down: &[LinkIx]) -> Vec<GroupIx> {
    let mut reach = Reach::default();
    // Where every link that failed has a way around, every path has: nothing is parted. That is the common
    // case.
    let around = down.iter().all(|link| {
        let ends = &intact.links()[link.ix()];
        reach.search(left, ends.tail, Some(ends.head));
        reach.seen[ends.head.ix()]
    });
    let mut pairs = Vec::new();
    if around {
        return pairs;
    }
    let mut before = Reach::default();
    for source in (0..intact.nodes().len()).map(NodeIx::from) {
        before.search(intact, source, None);
        reach.search(left, source, None);
        for target in (0..intact.nodes().len()).map(NodeIx::from) {
            if before.seen[target.ix()] && !reach.seen[target.ix()] {
                pairs.push(intact.pair_ix(source, target));
            }
        }
    }
    pairs
}

/// What can be reached from a node.
#[derive(Default)]
struct Reach {
    seen: Vec<bool>,
    queue: Vec<NodeIx>,
}

impl Reach {
    /// Stops early when `wanted` is found.
    fn search(&mut self, network: &Network, source: NodeIx, wanted: Option<NodeIx>) {
        self.seen.clear();
        self.seen.resize(network.nodes().len(), false);
        self.seen[source.ix()] = true;
        self.queue.clear();
        self.queue.push(source);
        while let Some(node) = self.queue.pop().filter(|_| !wanted.is_some_and(|w| self.seen[w.ix()])) {
            for link in network.out_links(node) {
                let head = network.links()[link.ix()].head;
                if !std::mem::replace(&mut self.seen[head.ix()], true) {
                    self.queue.push(head);
                }
            }
        }
    }
}
