//! How far is every node from every other, again and again under other lengths?
//!
//! Once for a network, nodes are eliminated one after the other, each time one of the fewest neighbours, and the
//! neighbours it had are joined. Under given lengths the joints get the length through the eliminated node; then, in
//! the reverse order, each node only has to look at the neighbours it had when it was eliminated ("Snowball" of
//! Planken, de Weerdt and van der Krogt, "Computing All-Pairs Shortest Paths by Leveraging Low Treewidth", JAIR 43,
//! 2012). Cost O(n² w) with `w` the most such neighbours, 5 to 10 in backbones, without branches or a heap.

use traflux_core::{Network, NodeIx};

/// All distances of a network, in memory that is kept.
#[derive(Debug, Clone)]
pub(crate) struct Distances {
    nodes: usize,
    /// By node: its place in the reverse order of elimination.
    places: Vec<u32>,
    /// Places of the tail and of the head of each link.
    links: Vec<(u32, u32)>,
    /// By place: places of the neighbours when it was eliminated, all lower.
    neighbours: Vec<Vec<u32>>,
    /// `[places, places]`, from row to column.
    from: Vec<f64>,
    /// `[places, places]`, from column to row.
    to: Vec<f64>,
    out: Vec<f64>,
}

impl Distances {
    pub(crate) fn new(network: &Network) -> Self {
        let nodes = network.nodes().len();
        let mut joined = vec![false; nodes * nodes];
        for link in network.links().iter().filter(|link| link.tail != link.head) {
            joined[link.tail.ix() * nodes + link.head.ix()] = true;
            joined[link.head.ix() * nodes + link.tail.ix()] = true;
        }
        let degree = |joined: &[bool], node: usize| {
            joined[node * nodes..(node + 1) * nodes].iter().filter(|joined| **joined).count()
        };
        let mut degrees: Vec<usize> = (0..nodes).map(|node| degree(&joined, node)).collect();
        let mut places = vec![u32::MAX; nodes];
        let mut had: Vec<Vec<usize>> = vec![Vec::new(); nodes];
        for place in (0..nodes).rev() {
            let left = (0..nodes).filter(|node| places[*node] == u32::MAX);
            let Some(node) = left.min_by_key(|node| degrees[*node]) else { break };
            places[node] = place as u32;
            let around: Vec<usize> = (0..nodes).filter(|other| joined[node * nodes + other]).collect();
            for a in &around {
                for b in around.iter().filter(|b| *b != a) {
                    joined[a * nodes + b] = true;
                }
            }
            for a in &around {
                (joined[node * nodes + a], joined[a * nodes + node]) = (false, false);
            }
            for a in &around {
                degrees[*a] = degree(&joined, *a);
            }
            had[place] = around;
        }
        let place = |node: usize| places[node];
        let links =
            network.links().iter().map(|link| (place(link.tail.ix()), place(link.head.ix()))).collect();
        let neighbours = had.into_iter().map(|around| around.into_iter().map(place).collect()).collect();
        Self { nodes, links, neighbours, places, from: Vec::new(), to: Vec::new(), out: Vec::new() }
    }

    /// Finds all distances; `lengths` by link, not negative.
    pub(crate) fn set(&mut self, lengths: &[f64]) {
        let n = self.nodes;
        let (from, to) = (&mut self.from, &mut self.to);
        from.clear();
        from.resize(n * n, f64::INFINITY);
        to.resize(n * n, 0.0);
        for ((tail, head), length) in self.links.iter().zip(lengths) {
            let cell = &mut from[*tail as usize * n + *head as usize];
            *cell = less(*length, *cell);
        }
        for (place, around) in self.neighbours.iter().enumerate().rev() {
            for a in around {
                let into = from[*a as usize * n + place];
                for b in around {
                    let through = into + from[place * n + *b as usize];
                    let cell = &mut from[*a as usize * n + *b as usize];
                    *cell = less(through, *cell);
                }
            }
        }
        for (place, around) in self.neighbours.iter().enumerate() {
            let (known_from, row_from) = from.split_at_mut(place * n);
            let (known_to, row_to) = to.split_at_mut(place * n);
            let row_to = &mut row_to[..=place];
            // The lengths of the joints, before distances take their place.
            self.out.clear();
            self.out.extend(around.iter().map(|a| row_from[*a as usize]));
            let row_from = &mut row_from[..=place];
            row_from.fill(f64::INFINITY);
            row_to.fill(f64::INFINITY);
            for (a, out) in around.iter().zip(&self.out) {
                let (start, end) = (*a as usize * n, *a as usize * n + place);
                let into = known_from[end];
                for (cell, rest) in row_from.iter_mut().zip(&known_from[start..end]) {
                    *cell = less(out + rest, *cell);
                }
                for (cell, rest) in row_to.iter_mut().zip(&known_to[start..end]) {
                    *cell = less(into + rest, *cell);
                }
            }
            (row_from[place], row_to[place]) = (0.0, 0.0);
            for (other, (from, to)) in row_from[..place].iter().zip(&row_to[..place]).enumerate() {
                known_from[other * n + place] = *to;
                known_to[other * n + place] = *from;
            }
        }
    }

    /// The length of a shortest path, infinite without one.
    #[inline]
    pub(crate) fn between(&self, source: NodeIx, target: NodeIx) -> f64 {
        self.from[self.places[source.ix()] as usize * self.nodes + self.places[target.ix()] as usize]
    }

    /// Distances from a node by place, and the place of each node.
    #[inline]
    pub(crate) fn row(&self, source: usize) -> (&[f64], &[u32]) {
        let start = self.places[source] as usize * self.nodes;
        (&self.from[start..start + self.nodes], &self.places)
    }
}

/// The lesser of two numbers that are not NaN, in one instruction.
#[inline]
fn less(a: f64, b: f64) -> f64 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{BackboneConfig, backbone};
    use traflux_core::{BitRate, Latency, Link, Node, ShortestPaths};

    fn agree(network: &Network, lengths: &[f64]) {
        let mut distances = Distances::new(network);
        // What was there before must not matter.
        distances.set(&vec![1e-9; lengths.len()]);
        distances.set(lengths);
        let mut search = ShortestPaths::default();
        for target in (0..network.nodes().len()).map(NodeIx::from) {
            search.towards(network, target, |link| lengths[link.ix()]);
            for source in (0..network.nodes().len()).map(NodeIx::from) {
                let (found, expected) = (distances.between(source, target), search.distance(source));
                let same = found == expected || (found - expected).abs() <= 1e-12 * expected;
                assert!(same, "{source:?} to {target:?}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn distances_are_those_of_a_search() {
        for nodes in [4, 7, 30, 61] {
            let network = backbone(&BackboneConfig { nodes, ..BackboneConfig::default() }, 5).unwrap();
            let length = |link: usize| ((link * 7919) % 101) as f64 * 0.01;
            agree(&network, &(0..network.links().len()).map(length).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_way_and_parallel_links_and_lonely_nodes_are_understood() {
        let nodes = (0..6).map(|node| Node { name: node.to_string(), position: None }).collect();
        let link = |(tail, head): (u32, u32)| Link {
            tail: NodeIx(tail),
            head: NodeIx(head),
            capacity: BitRate::gigabits_per_second(1.0),
            weight: 1.0,
            delay: Latency::ZERO,
        };
        let ends = [(0, 1), (1, 2), (2, 0), (0, 1), (2, 3), (3, 2), (3, 4)];
        let network = Network::new(nodes, ends.map(link).to_vec()).unwrap();
        agree(&network, &[3.0, 1.0, 0.5, 2.0, 0.0, 4.0, 0.25]);
    }
}
