//! Which arcs leave a node, without a way round over the links of the network?

use traflux_core::{LinkIx, Network, NodeIx, ShortestPaths};

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
    pub(crate) fn tail(&self, link: LinkIx) -> NodeIx {
        NodeIx(self.ends[link.ix()].0)
    }

    /// Finds the shortest paths from `source` under `lengths` (by link, not negative).
    pub(crate) fn search(&self, source: u32, lengths: &[f64], paths: &mut ShortestPaths) {
        paths.search_in_any_order(self.nodes(), NodeIx(source), |node| {
            let range = self.offsets[node.ix()] as usize..self.offsets[node.ix() + 1] as usize;
            let arcs = self.arcs[range].iter();
            arcs.map(|(head, link)| (NodeIx(*head), LinkIx(*link), lengths[*link as usize]))
        });
    }

    /// What the paths of a tree sum up to under other lengths, by node; infinite where none leads.
    pub(crate) fn along(&self, tree: &ShortestPaths, lengths: &[f64], sums: &mut Vec<f64>) {
        sums.clear();
        sums.resize(self.nodes(), f64::INFINITY);
        for node in tree.settled() {
            // Nodes are settled after the node before them.
            sums[node.ix()] = match tree.through(*node) {
                Some(link) => sums[self.tail(link).ix()] + lengths[link.ix()],
                None => 0.0,
            };
        }
    }

    /// Writes the links of a tree's path to `target`, in order, into `path`.
    pub(crate) fn path_to(&self, tree: &ShortestPaths, target: u32, path: &mut Vec<u32>) {
        path.clear();
        let mut node = NodeIx(target);
        while let Some(link) = tree.through(node) {
            path.push(link.0);
            node = self.tail(link);
        }
        path.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_along_a_tree_and_its_paths_are_those_of_its_links() {
        // Over 1 and 2 it is nearer than straight ahead; nothing leads to 4.
        let graph = Graph::from_arcs(5, &[(0, 3), (0, 1), (1, 2), (2, 3), (3, 0)]);
        let mut tree = ShortestPaths::default();
        graph.search(0, &[9.0, 1.0, 2.0, 3.0, 1.0], &mut tree);
        assert_eq!(tree.distances(), [0.0, 1.0, 3.0, 6.0, f64::INFINITY]);
        let (mut path, mut sums) = (Vec::new(), Vec::new());
        graph.path_to(&tree, 3, &mut path);
        assert_eq!(path, [1, 2, 3]);
        graph.along(&tree, &[0.0, 10.0, 20.0, 30.0, 40.0], &mut sums);
        assert_eq!(sums, [0.0, 10.0, 30.0, 60.0, f64::INFINITY]);
    }
}
