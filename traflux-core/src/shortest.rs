//! How far is every node from one node, and by which links?
//!
//! Dijkstra's algorithm (1959) with a 4-ary heap and memory that is kept from one search to the next. Of equal ways
//! to a node the one found first is kept.

use crate::network::{LinkIx, Network, NodeIx};

const NONE: u32 = u32::MAX;
const ARITY: usize = 4;

/// Distances from one node and a tree of shortest paths.
///
/// ```
/// use traflux_core::{BitRate, Latency, Link, LinkIx, Network, Node, NodeIx, ShortestPaths};
///
/// let nodes = ["a", "b", "c"].map(|name| Node { name: name.to_owned(), position: None });
/// let link = |tail, head, weight| Link {
///     tail: NodeIx(tail),
///     head: NodeIx(head),
///     capacity: BitRate::gigabits_per_second(1.0),
///     weight,
///     delay: Latency::ZERO,
/// };
/// let network = Network::new(nodes.to_vec(), vec![link(0, 1, 1.0), link(1, 2, 1.0), link(0, 2, 5.0)])?;
/// let mut paths = ShortestPaths::default();
/// paths.towards(&network, NodeIx(2), |link| network.links()[link.ix()].weight);
/// assert_eq!(paths.distances(), [2.0, 1.0, 0.0]);
/// assert_eq!(paths.through(NodeIx(0)), Some(LinkIx(0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ShortestPaths {
    distance: Vec<f64>,
    through: Vec<u32>,
    settled: Vec<NodeIx>,
    heap: Vec<u32>,
    /// Where a node is in the heap, and in `settled` once it is there.
    place: Vec<u32>,
}

impl ShortestPaths {
    /// Searches from `start` among so many nodes; of nodes at the same distance the one of the lower position is
    /// settled first.
    ///
    /// `steps` gives, for a node, what is one step away: the node there, the link and how long the step is, not
    /// negative and not NaN.
    ///
    /// # Panics
    /// When `start` or a node that `steps` gives is not one of the nodes.
    #[inline]
    pub fn search<I>(&mut self, nodes: usize, start: NodeIx, steps: impl Fn(NodeIx) -> I)
    where
        I: IntoIterator<Item = (NodeIx, LinkIx, f64)>,
    {
        self.run::<true, I>(nodes, start, steps);
    }

    /// The same where it does not matter which of several nodes at the same distance is settled first, which saves a
    /// comparison. Equal arguments give equal trees all the same.
    ///
    /// # Panics
    /// As [`ShortestPaths::search`].
    #[inline]
    pub fn search_in_any_order<I>(&mut self, nodes: usize, start: NodeIx, steps: impl Fn(NodeIx) -> I)
    where
        I: IntoIterator<Item = (NodeIx, LinkIx, f64)>,
    {
        self.run::<false, I>(nodes, start, steps);
    }

    /// Searches against the direction of a network's links: distances are those of every node *to* the target,
    /// and [`ShortestPaths::through`] is the link by which a node goes there.
    ///
    /// # Panics
    /// When the network has no such node.
    #[inline]
    pub fn towards(&mut self, network: &Network, target: NodeIx, length: impl Fn(LinkIx) -> f64) {
        let links = network.links();
        self.search(network.nodes().len(), target, |node| {
            network.in_links(node).iter().map(|link| (links[link.ix()].tail, *link, length(*link)))
        });
    }

    /// Length of the shortest path to a node; infinite where none leads there.
    ///
    /// # Panics
    /// When the last search had no such node.
    #[inline]
    #[must_use]
    pub fn distance(&self, node: NodeIx) -> f64 {
        self.distance[node.ix()]
    }

    /// The same for all nodes.
    #[inline]
    #[must_use]
    pub fn distances(&self) -> &[f64] {
        &self.distance
    }

    /// The link by which the tree enters a node; `None` at the start and where no path leads.
    ///
    /// # Panics
    /// When the last search had no such node.
    #[inline]
    #[must_use]
    pub fn through(&self, node: NodeIx) -> Option<LinkIx> {
        let link = self.through[node.ix()];
        (link != NONE).then_some(LinkIx(link))
    }

    /// The nodes that paths lead to, by rising distance, the start first; each comes after the node before it in the
    /// tree.
    #[inline]
    #[must_use]
    pub fn settled(&self) -> &[NodeIx] {
        &self.settled
    }

    /// Position of each node in [`ShortestPaths::settled`]; `u32::MAX` where it is not there.
    #[inline]
    #[must_use]
    pub fn ranks(&self) -> &[u32] {
        &self.place
    }

    /// `BY_POSITION`: whether positions decide between nodes at the same distance.
    #[inline]
    fn run<const BY_POSITION: bool, I>(&mut self, nodes: usize, start: NodeIx, steps: impl Fn(NodeIx) -> I)
    where
        I: IntoIterator<Item = (NodeIx, LinkIx, f64)>,
    {
        self.begin(nodes, start);
        while let Some(node) = self.pop::<BY_POSITION>() {
            let from = self.distance[node.ix()];
            for (next, link, length) in steps(node) {
                let distance = from + length;
                if distance < self.distance[next.ix()] {
                    self.reach::<BY_POSITION>(next, link, distance);
                }
            }
        }
    }

    fn begin(&mut self, nodes: usize, start: NodeIx) {
        self.distance.clear();
        self.distance.resize(nodes, f64::INFINITY);
        self.through.clear();
        self.through.resize(nodes, NONE);
        self.place.clear();
        self.place.resize(nodes, NONE);
        self.heap.clear();
        self.settled.clear();
        self.distance[start.ix()] = 0.0;
        self.place[start.ix()] = 0;
        self.heap.push(start.0);
    }

    /// Notes a shorter way to a node.
    #[inline]
    fn reach<const BY_POSITION: bool>(&mut self, node: NodeIx, link: LinkIx, distance: f64) {
        let place = self.place[node.ix()];
        if place == NONE {
            self.distance[node.ix()] = distance;
            self.through[node.ix()] = link.0;
            self.heap.push(node.0);
            self.rise::<BY_POSITION>(self.heap.len() - 1);
        } else if self.heap.get(place as usize) == Some(&node.0) {
            self.distance[node.ix()] = distance;
            self.through[node.ix()] = link.0;
            self.rise::<BY_POSITION>(place as usize);
        }
        // Else it is settled, and only a negative step could lead there.
    }

    #[inline]
    fn pop<const BY_POSITION: bool>(&mut self) -> Option<NodeIx> {
        let top = *self.heap.first()?;
        let last = self.heap.pop()?;
        if top != last {
            self.heap[0] = last;
            self.sink::<BY_POSITION>();
        }
        self.place[top as usize] = self.settled.len() as u32;
        self.settled.push(NodeIx(top));
        Some(NodeIx(top))
    }

    #[inline]
    fn rise<const BY_POSITION: bool>(&mut self, mut at: usize) {
        let node = self.heap[at];
        while at > 0 {
            let above = (at - 1) / ARITY;
            let other = self.heap[above];
            if !self.is_before::<BY_POSITION>(node, other) {
                break;
            }
            self.heap[at] = other;
            self.place[other as usize] = at as u32;
            at = above;
        }
        self.heap[at] = node;
        self.place[node as usize] = at as u32;
    }

    /// Puts the node at the top where it belongs.
    #[inline]
    fn sink<const BY_POSITION: bool>(&mut self) {
        let mut at = 0;
        let node = self.heap[at];
        loop {
            let first = at * ARITY + 1;
            let Some(&child) = self.heap.get(first) else { break };
            let (mut below, mut best) = (first, child);
            for place in first + 1..(first + ARITY).min(self.heap.len()) {
                let other = self.heap[place];
                if self.is_before::<BY_POSITION>(other, best) {
                    (below, best) = (place, other);
                }
            }
            if !self.is_before::<BY_POSITION>(best, node) {
                break;
            }
            self.heap[at] = best;
            self.place[best as usize] = at as u32;
            at = below;
        }
        self.heap[at] = node;
        self.place[node as usize] = at as u32;
    }

    #[inline]
    fn is_before<const BY_POSITION: bool>(&self, a: u32, b: u32) -> bool {
        let (near, far) = (self.distance[a as usize], self.distance[b as usize]);
        near < far || (BY_POSITION && near == far && a < b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Link, Node};
    use crate::units::{BitRate, Latency};
    use rand::{RngExt, SeedableRng};

    fn network(nodes: u32, ends: &[(u32, u32)]) -> Network {
        let names = (0..nodes).map(|n| Node { name: n.to_string(), position: None }).collect();
        let link = |(tail, head): &(u32, u32)| Link {
            tail: NodeIx(*tail),
            head: NodeIx(*head),
            capacity: BitRate::bits_per_second(1.0),
            weight: 1.0,
            delay: Latency::ZERO,
        };
        Network::new(names, ends.iter().map(link).collect()).unwrap()
    }

    #[test]
    fn distances_agree_with_relaxing_every_link_until_nothing_changes() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let mut paths = ShortestPaths::default();
        for round in 0..200 {
            let nodes: u32 = random.random_range(2..20);
            let ends: Vec<(u32, u32)> = (0..random.random_range(1..60))
                .map(|_| (random.random_range(0..nodes), random.random_range(0..nodes)))
                .filter(|(tail, head)| tail != head)
                .collect();
            let network = network(nodes, &ends);
            // Small whole numbers, zero among them, make many ways equal.
            let length = |_: &(u32, u32)| match round % 2 {
                0 => random.random_range(0.0..1.0),
                _ => f64::from(random.random_range(0u32..3)),
            };
            let lengths: Vec<f64> = ends.iter().map(length).collect();
            let target = NodeIx(0);
            let mut expected = vec![f64::INFINITY; nodes as usize];
            expected[0] = 0.0;
            for _ in 0..nodes {
                for ((tail, head), length) in ends.iter().zip(&lengths) {
                    let through = expected[*head as usize] + length;
                    expected[*tail as usize] = expected[*tail as usize].min(through);
                }
            }
            paths.search_in_any_order(network.nodes().len(), target, |node| {
                let step = |link: &LinkIx| (network.links()[link.ix()].tail, *link, lengths[link.ix()]);
                network.in_links(node).iter().map(step)
            });
            assert_eq!(paths.distances(), expected);
            paths.towards(&network, target, |link| lengths[link.ix()]);
            assert_eq!(paths.distances(), expected);
            assert_eq!(paths.settled().len(), expected.iter().filter(|d| d.is_finite()).count());
            for pair in paths.settled().windows(2) {
                assert!(paths.distance(pair[0]) <= paths.distance(pair[1]));
            }
            for node in (0..nodes).map(NodeIx) {
                let rank = paths.ranks()[node.ix()];
                assert_eq!(
                    paths.settled().get(rank as usize),
                    paths.distance(node).is_finite().then_some(&node)
                );
                let Some(link) = paths.through(node) else {
                    assert!(node == target || rank == NONE);
                    continue;
                };
                let (tail, head) = ends[link.ix()];
                assert_eq!(tail, node.0);
                assert!(paths.ranks()[head as usize] < rank);
                assert_eq!(paths.distance(node), paths.distance(NodeIx(head)) + lengths[link.ix()]);
            }
        }
    }

    #[test]
    fn nodes_at_the_same_distance_are_settled_in_the_order_of_their_positions() {
        let ends: Vec<(u32, u32)> = (1..9).rev().map(|node| (node, 0)).collect();
        let network = network(9, &ends);
        let mut paths = ShortestPaths::default();
        paths.towards(&network, NodeIx(0), |_| 1.0);
        assert_eq!(paths.settled(), (0..9).map(NodeIx).collect::<Vec<_>>());
    }

    #[test]
    fn a_negative_length_gives_wrong_distances_but_no_panic() {
        let ends = [(1, 0), (2, 1), (0, 2), (2, 0), (3, 2), (1, 3)];
        let network = network(4, &ends);
        let mut paths = ShortestPaths::default();
        paths.towards(&network, NodeIx(0), |link| [1.0, -3.0, -1.0, 2.0, 1.0, -9.0][link.ix()]);
        assert_eq!(paths.settled().len(), 4);
    }
}
