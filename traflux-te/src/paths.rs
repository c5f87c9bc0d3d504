//! Which paths could a pair take besides the shortest?
//!
//! A [`PathFinder`] answers for one network and one length per link: the k shortest loopless paths (Yen 1971,
//! with the rule of Lawler 1972 that no path is found twice), as many link-disjoint paths as there are, at
//! the least total length (Suurballe 1974), and all shortest paths. Equal lengths are ordered by number of
//! links and then by positions of links, so the answer depends on nothing but the arguments.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap};

use traflux_core::{LinkIx, Network, NetworkError, NodeIx, ShortestPaths};

use crate::ecmp::TIE_TOLERANCE;

/// A path and its length.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// Its links from source to target.
    pub links: Vec<LinkIx>,
    /// The sum of their lengths, in the unit of the lengths: by default weights.
    pub length: f64,
}

/// Finds paths between nodes of one network; keeps its memory from one call to the next.
///
/// ```
/// use traflux_core::{BitRate, NodeIx};
/// use traflux_te::generate::{LinkModel, ring};
/// use traflux_te::PathFinder;
///
/// let network = ring(6, &LinkModel::default(), 1)?;
/// let mut finder = PathFinder::new(&network);
/// let both_ways = finder.k_shortest(NodeIx(0), NodeIx(2), 5);
/// assert_eq!(both_ways.iter().map(|path| path.links.len()).collect::<Vec<_>>(), [2, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PathFinder<'a> {
    network: &'a Network,
    lengths: Vec<f64>,
    to_target: ShortestPaths,
    search: Search,
}

impl<'a> PathFinder<'a> {
    /// Takes the weights of the network as lengths.
    #[must_use]
    pub fn new(network: &'a Network) -> Self {
        Self::unchecked(network, network.links().iter().map(|link| link.weight).collect())
    }

    /// Takes other lengths, one per link: delays, prices, a load.
    ///
    /// # Errors
    /// [`NetworkError::Length`], or [`NetworkError::LinkValue`] for a length that is not finite and positive.
    pub fn with_lengths(network: &'a Network, lengths: Vec<f64>) -> Result<Self, NetworkError> {
        if lengths.len() != network.links().len() {
            let (got, expected) = (lengths.len(), network.links().len());
            return Err(NetworkError::Length { what: "lengths", got, expected });
        }
        if let Some(link) = lengths.iter().position(|l| !(l.is_finite() && *l > 0.0)) {
            return Err(NetworkError::LinkValue { link, quantity: "length", value: lengths[link] });
        }
        Ok(Self::unchecked(network, lengths))
    }

    fn unchecked(network: &'a Network, lengths: Vec<f64>) -> Self {
        Self { network, lengths, to_target: ShortestPaths::default(), search: Search::default() }
    }

    /// A shortest path; `None` where there is none or source and target are the same node.
    ///
    /// # Panics
    /// When the network has no such node.
    #[must_use]
    pub fn shortest(&mut self, source: NodeIx, target: NodeIx) -> Option<Path> {
        self.k_shortest(source, target, 1).pop()
    }

    /// The `k` shortest paths that visit no node twice, shortest first; fewer where there are fewer. Parallel
    /// links make different paths.
    ///
    /// Which of several paths of equal length comes `k`-th is determined by the positions of nodes and links.
    ///
    /// # Panics
    /// When the network has no such node.
    #[must_use]
    pub fn k_shortest(&mut self, source: NodeIx, target: NodeIx, k: usize) -> Vec<Path> {
        if k == 0 || source == target {
            return Vec::new();
        }
        // Distances to the target in the whole network never overestimate those in what is left of it: they
        // lead every search below straight to the target.
        self.to_target.towards(self.network, target, |link| self.lengths[link.ix()]);
        let mut candidates = BTreeSet::new();
        let mut found: Vec<Candidate> = Vec::new();
        if let Some(first) = self.deviate(&[], &found, source, target) {
            candidates.insert(first);
        }
        while let Some(best) = candidates.pop_first() {
            if found.len() + 1 == k {
                found.push(best);
                break;
            }
            let (links, from) = (best.links.clone(), best.deviates_at);
            found.push(best);
            // Lawler's rule: before `from` the path is its parent's, and the parent has deviated there
            // already.
            for at in from..links.len() {
                let node = if at == 0 { source } else { self.head(links[at - 1]) };
                candidates.extend(self.deviate(&links[..at], &found, node, target));
            }
        }
        found.into_iter().map(|c| Path { links: c.links, length: c.length.0 }).collect()
    }

    /// The shortest path that starts with `prefix` and leaves it, at `node`, by a link that no path found so
    /// far takes there.
    fn deviate(
        &mut self,
        prefix: &[LinkIx],
        found: &[Candidate],
        node: NodeIx,
        target: NodeIx,
    ) -> Option<Candidate> {
        self.search.start(self.network.nodes().len());
        for &link in prefix {
            self.search.close(self.network.links()[link.ix()].tail);
        }
        let at = prefix.len();
        let taken: Vec<LinkIx> = found
            .iter()
            .filter(|path| path.links.len() > at && path.links[..at] == *prefix)
            .map(|path| path.links[at])
            .collect();
        let (lengths, remaining) = (&self.lengths, self.to_target.distances());
        let mut links = prefix.to_vec();
        let allowed = |from: NodeIx, link| from != node || !taken.contains(&link);
        self.search.run(self.network, node, target, lengths, remaining, allowed, &mut links).then(|| {
            let length = links.iter().map(|link| self.lengths[link.ix()]).sum();
            Candidate { length: Distance(length), hops: links.len(), links, deviates_at: at }
        })
    }

    /// Link-disjoint paths: at most `limit` of them, as many as there are, and of all such sets one of the
    /// least total length; shortest first.
    ///
    /// Successive shortest paths in the residual network, with lengths kept non-negative by potentials.
    ///
    /// # Panics
    /// When the network has no such node.
    #[must_use]
    pub fn disjoint(&mut self, source: NodeIx, target: NodeIx, limit: usize) -> Vec<Path> {
        if source == target {
            return Vec::new();
        }
        let (network, nodes) = (self.network, self.network.nodes().len());
        let mut used = vec![false; network.links().len()];
        let mut potential = vec![0.0; nodes];
        let mut residual = ShortestPaths::default();
        let mut count = 0;
        while count < limit {
            let (used_now, potential_now, lengths) = (&used, &potential, &self.lengths);
            residual.search(nodes, source, |node| {
                let forward = network.out_links(node).iter().filter(|link| !used_now[link.ix()]);
                let backward = network.in_links(node).iter().filter(|link| used_now[link.ix()]);
                let steps = forward.map(|l| (*l, 1.0)).chain(backward.map(|l| (*l, -1.0)));
                steps.map(move |(link, sign)| {
                    let ends = &network.links()[link.ix()];
                    let next = if sign > 0.0 { ends.head } else { ends.tail };
                    let reduced =
                        sign * lengths[link.ix()] + potential_now[node.ix()] - potential_now[next.ix()];
                    // Below zero by a rounding error at most.
                    (next, link, reduced.max(0.0))
                })
            });
            if residual.distance(target).is_infinite() {
                break;
            }
            let mut at = target;
            while let Some(link) = residual.through(at) {
                let ends = &network.links()[link.ix()];
                // A link in use is crossed backwards and set free.
                at = if used[link.ix()] { ends.head } else { ends.tail };
                used[link.ix()] = !used[link.ix()];
            }
            for (potential, distance) in potential.iter_mut().zip(residual.distances()) {
                // A node that cannot be reached now cannot be reached later.
                if distance.is_finite() {
                    *potential += distance;
                }
            }
            count += 1;
        }
        self.decompose(source, target, used, count)
    }

    /// The paths that the links in use consist of.
    fn decompose(&self, source: NodeIx, target: NodeIx, mut used: Vec<bool>, count: usize) -> Vec<Path> {
        let mut paths: Vec<Candidate> = (0..count)
            .map(|_| {
                let (mut links, mut at) = (Vec::new(), source);
                while let Some(&link) =
                    self.network.out_links(at).iter().find(|l| at != target && used[l.ix()])
                {
                    used[link.ix()] = false;
                    links.push(link);
                    at = self.head(link);
                }
                let length = links.iter().map(|link| self.lengths[link.ix()]).sum();
                Candidate { length: Distance(length), hops: links.len(), links, deviates_at: 0 }
            })
            .collect();
        paths.sort();
        paths.into_iter().map(|c| Path { links: c.links, length: c.length.0 }).collect()
    }

    /// All shortest paths, at most `limit` of them, in the order of positions of links; lengths within
    /// [`TIE_TOLERANCE`] of the shortest at every node count as equal, as for
    /// [`NextHops`](crate::ecmp::NextHops).
    ///
    /// # Panics
    /// When the network has no such node.
    #[must_use]
    pub fn all_shortest(&mut self, source: NodeIx, target: NodeIx, limit: usize) -> Vec<Path> {
        self.to_target.towards(self.network, target, |link| self.lengths[link.ix()]);
        let mut paths = Vec::new();
        let (distance, rank) = (self.to_target.distances(), self.to_target.ranks());
        if source == target || distance[source.ix()].is_infinite() {
            return paths;
        }
        // Depth first, with a stack of its own: a path may be as long as there are nodes.
        let (mut links, mut stack) = (Vec::new(), vec![(source, 0)]);
        while let Some((node, next)) = stack.last_mut() {
            if paths.len() == limit {
                break;
            }
            if *node == target {
                let length = links.iter().map(|link: &LinkIx| self.lengths[link.ix()]).sum();
                paths.push(Path { links: links.clone(), length });
                stack.pop();
                links.pop();
                continue;
            }
            let Some(&link) = self.network.out_links(*node).get(*next) else {
                stack.pop();
                links.pop();
                continue;
            };
            *next += 1;
            let head = self.head(link);
            let through = self.lengths[link.ix()] + distance[head.ix()];
            if rank[head.ix()] < rank[node.ix()] && through <= distance[node.ix()] * (1.0 + TIE_TOLERANCE) {
                links.push(link);
                stack.push((head, 0));
            }
        }
        paths
    }

    fn head(&self, link: LinkIx) -> NodeIx {
        self.network.links()[link.ix()].head
    }
}

/// A length as a key of a heap or a sorted set: never NaN, so the order is total.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Distance(f64);

impl Eq for Distance {}

impl Ord for Distance {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Distance {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A path in the order in which paths are given: by length, number of links, positions of links.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    length: Distance,
    hops: usize,
    links: Vec<LinkIx>,
    deviates_at: usize,
}

/// One search from a node to the target around closed nodes (A* with exact distances of the whole network).
#[derive(Debug, Clone, Default)]
struct Search {
    /// The round in which the entries of a node were written: clearing them all would cost more than a
    /// search.
    round: Vec<u32>,
    closed: Vec<bool>,
    distance: Vec<f64>,
    parent: Vec<LinkIx>,
    now: u32,
    /// A node and how far its paths are at least; the node breaks ties, so the order of settling is determined.
    heap: BinaryHeap<Reverse<(Distance, u32)>>,
}

impl Search {
    fn start(&mut self, nodes: usize) {
        if self.round.len() != nodes || self.now == u32::MAX {
            self.round = vec![0; nodes];
            self.closed = vec![false; nodes];
            self.distance = vec![f64::INFINITY; nodes];
            self.parent = vec![LinkIx(0); nodes];
            self.now = 0;
        }
        self.now += 1;
        self.heap.clear();
    }

    fn open(&mut self, node: NodeIx) {
        if self.round[node.ix()] != self.now {
            self.round[node.ix()] = self.now;
            self.closed[node.ix()] = false;
            self.distance[node.ix()] = f64::INFINITY;
        }
    }

    fn close(&mut self, node: NodeIx) {
        self.open(node);
        self.closed[node.ix()] = true;
    }

    /// Appends the links of a shortest path to `links`; false where there is none.
    fn run(
        &mut self,
        network: &Network,
        source: NodeIx,
        target: NodeIx,
        lengths: &[f64],
        remaining: &[f64],
        allowed: impl Fn(NodeIx, LinkIx) -> bool,
        links: &mut Vec<LinkIx>,
    ) -> bool {
        if remaining[source.ix()].is_infinite() {
            return false;
        }
        self.open(source);
        self.distance[source.ix()] = 0.0;
        self.heap.push(Reverse((Distance(remaining[source.ix()]), source.0)));
        while let Some(Reverse((_, node))) = self.heap.pop() {
            let node = NodeIx(node);
            if std::mem::replace(&mut self.closed[node.ix()], true) {
                continue;
            }
            if node == target {
                let start = links.len();
                let mut at = target;
                while at != source {
                    links.push(self.parent[at.ix()]);
                    at = network.links()[self.parent[at.ix()].ix()].tail;
                }
                links[start..].reverse();
                return true;
            }
            let reached = self.distance[node.ix()];
            for &link in network.out_links(node) {
                let head = network.links()[link.ix()].head;
                self.open(head);
                let through = reached + lengths[link.ix()];
                if through < self.distance[head.ix()]
                    && !self.closed[head.ix()]
                    && remaining[head.ix()].is_finite()
                    && allowed(node, link)
                {
                    self.distance[head.ix()] = through;
                    self.parent[head.ix()] = link;
                    self.heap.push(Reverse((Distance(through + remaining[head.ix()]), head.0)));
                }
            }
        }
        false
    }
}
