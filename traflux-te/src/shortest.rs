//! How far is every node from one node? The search that all of this crate shares.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use traflux_core::{LinkIx, Network, NodeIx};

/// A distance as a key of a heap: never NaN, so the order is total.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Distance(pub(crate) f64);

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

/// A node and how far it is; the node breaks ties, so the order of settling is determined.
pub(crate) type Entry = Reverse<(Distance, u32)>;

/// Distances of all nodes to one target (Dijkstra), with memory that is kept from one search to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct ToTarget {
    /// By node; infinite where no path leads to the target.
    pub(crate) distance: Vec<f64>,
    /// The nodes that reach the target, nearest first.
    pub(crate) settled: Vec<NodeIx>,
    /// Position of each node in `settled`; `u32::MAX` where it is not there.
    pub(crate) rank: Vec<u32>,
    heap: BinaryHeap<Entry>,
}

impl ToTarget {
    /// Searches from `target` against the direction of the links; `lengths` by link, not negative.
    pub(crate) fn search(&mut self, network: &Network, target: NodeIx, length: impl Fn(LinkIx) -> f64) {
        self.search_over(network.nodes().len(), target, |node| {
            let tail = |link: &LinkIx| (network.links()[link.ix()].tail, length(*link));
            network.in_links(node).iter().map(tail)
        });
    }

    /// Searches from `target`; `steps` gives the nodes one step before a node and how long the step is, not
    /// negative.
    pub(crate) fn search_over<I: Iterator<Item = (NodeIx, f64)>>(
        &mut self,
        nodes: usize,
        target: NodeIx,
        steps: impl Fn(NodeIx) -> I,
    ) {
        self.distance.clear();
        self.distance.resize(nodes, f64::INFINITY);
        self.rank.clear();
        self.rank.resize(nodes, u32::MAX);
        self.settled.clear();
        self.heap.clear();
        self.distance[target.ix()] = 0.0;
        self.heap.push(Reverse((Distance(0.0), target.0)));
        while let Some(Reverse((Distance(distance), node))) = self.heap.pop() {
            if self.rank[node as usize] != u32::MAX {
                continue;
            }
            self.rank[node as usize] = self.settled.len() as u32;
            self.settled.push(NodeIx(node));
            for (tail, length) in steps(NodeIx(node)) {
                let through = distance + length;
                if through < self.distance[tail.ix()] {
                    self.distance[tail.ix()] = through;
                    self.heap.push(Reverse((Distance(through), tail.0)));
                }
            }
        }
    }
}
