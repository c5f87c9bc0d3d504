//! Which paths from one node are the shortest under lengths that change from call to call?
//!
//! Dijkstra's algorithm on a flat copy of the network with a 4-ary heap whose memory is kept between calls.

use traflux_core::Network;

const NONE: u32 = u32::MAX;
const ARITY: usize = 4;

/// The links of a network by tail, flat.
#[derive(Debug, Clone)]
pub(crate) struct Graph {
    offsets: Vec<u32>,
    /// (head, link).
    arcs: Vec<(u32, u32)>,
    ends: Vec<(u32, u32)>,
}

impl Graph {
    pub(crate) fn new(network: &Network) -> Self {
        let arcs: Vec<(u32, u32)> = network.links().iter().map(|link| (link.tail.0, link.head.0)).collect();
        Self::from_arcs(network.nodes().len(), &arcs)
    }

    /// Takes (tail, head) of each arc; an arc's position takes the place of a link's.
    pub(crate) fn from_arcs(nodes: usize, ends: &[(u32, u32)]) -> Self {
        let mut offsets = vec![0u32; nodes + 1];
        for (tail, _) in ends {
            offsets[*tail as usize + 1] += 1;
        }
        for node in 0..nodes {
            offsets[node + 1] += offsets[node];
        }
        let mut next = offsets.clone();
        let mut arcs = vec![(0, 0); ends.len()];
        for (arc, (tail, head)) in ends.iter().enumerate() {
            arcs[next[*tail as usize] as usize] = (*head, arc as u32);
            next[*tail as usize] += 1;
        }
        Self { offsets, arcs, ends: ends.to_vec() }
    }

    pub(crate) fn nodes(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Tail and head of each link.
    pub(crate) fn ends(&self) -> &[(u32, u32)] {
        &self.ends
    }

    /// Where a link starts.
    pub(crate) fn tail(&self, link: u32) -> u32 {
        self.ends[link as usize].0
    }
}

/// Distances and a tree from one source; memory is kept between calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShortestPaths {
    distance: Vec<f64>,
    through: Vec<u32>,
    heap: Vec<u32>,
    place: Vec<u32>,
    settled: Vec<u32>,
}

impl ShortestPaths {
    /// Finds the shortest paths from `source` under `lengths` (by link, not negative).
    pub(crate) fn run(&mut self, graph: &Graph, source: u32, lengths: &[f64]) {
        let nodes = graph.nodes();
        self.distance.clear();
        self.distance.resize(nodes, f64::INFINITY);
        self.through.clear();
        self.through.resize(nodes, NONE);
        self.place.clear();
        self.place.resize(nodes, NONE);
        self.heap.clear();
        self.settled.clear();
        self.distance[source as usize] = 0.0;
        self.push(source);
        while let Some(node) = self.pop() {
            self.settled.push(node);
            let from = self.distance[node as usize];
            let range = graph.offsets[node as usize] as usize..graph.offsets[node as usize + 1] as usize;
            for &(head, link) in &graph.arcs[range] {
                let distance = from + lengths[link as usize];
                if distance < self.distance[head as usize] {
                    let known = self.distance[head as usize].is_finite();
                    self.distance[head as usize] = distance;
                    self.through[head as usize] = link;
                    if known {
                        self.rise(self.place[head as usize] as usize);
                    } else {
                        self.push(head);
                    }
                }
            }
        }
    }

    /// Length of the shortest path to a node; infinite where none leads there.
    pub(crate) fn distance(&self, node: u32) -> f64 {
        self.distance[node as usize]
    }

    /// Lengths of the shortest paths to all nodes.
    pub(crate) fn distances(&self) -> &[f64] {
        &self.distance
    }

    /// The link by which the tree enters a node.
    pub(crate) fn through(&self, node: u32) -> Option<u32> {
        let link = self.through[node as usize];
        (link != NONE).then_some(link)
    }

    /// What the tree's paths sum up to under other lengths, by node; infinite where none leads.
    pub(crate) fn along(&self, graph: &Graph, lengths: &[f64], sums: &mut Vec<f64>) {
        sums.clear();
        sums.resize(graph.nodes(), f64::INFINITY);
        for node in &self.settled {
            // Nodes are settled after the node before them.
            sums[*node as usize] = match self.through(*node) {
                Some(link) => sums[graph.tail(link) as usize] + lengths[link as usize],
                None => 0.0,
            };
        }
    }

    /// Nodes that can be reached, by rising distance, the source first.
    pub(crate) fn settled(&self) -> &[u32] {
        &self.settled
    }

    /// Writes the links of the tree's path to `target`, in order, into `path`.
    pub(crate) fn path_to(&self, graph: &Graph, target: u32, path: &mut Vec<u32>) {
        path.clear();
        let mut node = target;
        while let Some(link) = self.through(node) {
            path.push(link);
            node = graph.tail(link);
        }
        path.reverse();
    }

    fn push(&mut self, node: u32) {
        self.place[node as usize] = self.heap.len() as u32;
        self.heap.push(node);
        self.rise(self.heap.len() - 1);
    }

    fn pop(&mut self) -> Option<u32> {
        let top = *self.heap.first()?;
        let last = self.heap.pop()?;
        if top != last {
            self.heap[0] = last;
            self.place[last as usize] = 0;
            self.sink(0);
        }
        Some(top)
    }

    fn rise(&mut self, mut at: usize) {
        let node = self.heap[at];
        let key = self.distance[node as usize];
        while at > 0 {
            let above = (at - 1) / ARITY;
            let other = self.heap[above];
            if self.distance[other as usize] <= key {
                break;
            }
            self.heap[at] = other;
            self.place[other as usize] = at as u32;
            at = above;
        }
        self.heap[at] = node;
        self.place[node as usize] = at as u32;
    }

    fn sink(&mut self, mut at: usize) {
        let node = self.heap[at];
        let key = self.distance[node as usize];
        loop {
            let first = at * ARITY + 1;
            let below = (first..(first + ARITY).min(self.heap.len()))
                .min_by(|a, b| self.key(*a).total_cmp(&self.key(*b)));
            let Some(below) = below.filter(|b| self.key(*b) < key) else { break };
            let other = self.heap[below];
            self.heap[at] = other;
            self.place[other as usize] = at as u32;
            at = below;
        }
        self.heap[at] = node;
        self.place[node as usize] = at as u32;
    }

    fn key(&self, at: usize) -> f64 {
        self.distance[self.heap[at] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use traflux_core::{BitRate, Latency, Link, Node, NodeIx};

    #[test]
    fn distances_agree_with_relaxing_every_link_until_nothing_changes() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        for _ in 0..50 {
            let nodes: u32 = random.random_range(2..20);
            let links: Vec<Link> = (0..random.random_range(1..60))
                .filter_map(|_| {
                    let (tail, head) = (random.random_range(0..nodes), random.random_range(0..nodes));
                    (tail != head).then_some(Link {
                        tail: NodeIx(tail),
                        head: NodeIx(head),
                        capacity: BitRate::bits_per_second(1.0),
                        weight: 1.0,
                        delay: Latency::ZERO,
                    })
                })
                .collect();
            let names = (0..nodes).map(|n| Node { name: n.to_string(), position: None }).collect();
            let network = Network::new(names, links).unwrap();
            let lengths: Vec<f64> = network.links().iter().map(|_| random.random_range(0.0..1.0)).collect();
            let mut expected = vec![f64::INFINITY; nodes as usize];
            expected[0] = 0.0;
            for _ in 0..nodes {
                for (link, length) in network.links().iter().zip(&lengths) {
                    let distance = expected[link.tail.ix()] + length;
                    expected[link.head.ix()] = expected[link.head.ix()].min(distance);
                }
            }
            let graph = Graph::new(&network);
            let mut paths = ShortestPaths::default();
            paths.run(&graph, 0, &lengths);
            let mut path = Vec::new();
            let mut sums = Vec::new();
            paths.along(&graph, &lengths, &mut sums);
            assert_eq!(sums, expected);
            for node in 0..nodes {
                assert_eq!(paths.distance(node), expected[node as usize]);
                paths.path_to(&graph, node, &mut path);
                let length: f64 = path.iter().map(|l| lengths[*l as usize]).sum();
                if paths.distance(node).is_finite() {
                    assert!((length - paths.distance(node)).abs() < 1e-12);
                }
            }
        }
    }
}
