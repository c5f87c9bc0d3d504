//! Where has a path no choice?
//!
//! Two reductions that change nothing about the optimum:
//!
//! * **Trees.** A node with one neighbour hands all its demand to that neighbour, and so on inwards. What
//!   remains is the *core*; the load on the links of the trees is forced and becomes background.
//! * **Chains.** Between two *junctions* (nodes with three neighbours or more) lie chains of nodes with two
//!   neighbours. A path from inside a chain leaves it at one of two ends, so shortest paths are needed between
//!   junctions only; a chain that a path crosses is one *segment* there.
//!
//! Maps of backbones are mostly chains: of 754 nodes, 200 may be junctions.

use super::super::FlowProblem;
use super::super::graph::Graph;

/// No node, no link.
pub(super) const NONE: u32 = u32::MAX;

/// A chain `n_0, …, n_{k+1}` whose ends are junctions.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    /// The junctions `n_0` and `n_{k+1}`.
    pub(super) ends: [u32; 2],
    /// Core nodes `n_1, …, n_k`.
    pub(super) nodes: Vec<u32>,
    /// Links `n_t → n_{t+1}`, [`NONE`] where there is none.
    pub(super) forward: Vec<u32>,
    /// Links `n_{t+1} → n_t`.
    pub(super) backward: Vec<u32>,
}

/// Where a core node lies.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Junction(u32),
    /// Chain, and position in it from 1.
    Inside(u32, u32),
}

/// A network without its trees, its chains listed.
#[derive(Debug, Clone)]
pub(super) struct Reduced {
    /// By node: the next node towards the core, [`NONE`] in the core.
    parent: Vec<u32>,
    /// By node: the link to the parent, and the one back.
    up: Vec<u32>,
    down: Vec<u32>,
    depth: Vec<u32>,
    /// By node: its core node; only for nodes of the core.
    core_ix: Vec<u32>,
    /// By core node: the node.
    pub(super) core: Vec<u32>,
    pub(super) places: Vec<Place>,
    /// By core node: the junctions at which it may leave and be entered, side 0 and side 1; a junction is its
    /// own side 0.
    pub(super) gates: Vec<[u32; 2]>,
    pub(super) junctions: usize,
    pub(super) chains: Vec<Chain>,
    /// Segments between junctions: their links in order.
    pub(super) segments: Vec<Vec<u32>>,
    /// The junctions and segments.
    pub(super) graph: Graph,
}

/// Demands between core nodes, and what is forced.
#[derive(Debug, Clone)]
pub(super) struct CoreDemands {
    /// By source and target in the core, bit/s.
    pub(super) matrix: Vec<f64>,
    /// By link, bit/s: the problem's background and the load of the trees.
    pub(super) background: Vec<f64>,
    /// A commodity that a missing link of a tree cuts off.
    pub(super) cut_off: Option<usize>,
}

/// How a commodity crosses the trees.
#[derive(Debug, Clone, Default)]
pub(super) struct TreePath {
    /// Links before and after the core.
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
    /// Core nodes where it enters and leaves the core; `None` when it stays in one tree.
    pub(super) core: Option<(u32, u32)>,
}

/// A neighbour: (node, link there, link back).
type Near = Vec<(u32, u32, u32)>;

impl Reduced {
    pub(super) fn new(problem: &FlowProblem<'_>) -> Self {
        let network = problem.network;
        let count = network.nodes().len();
        let mut near: Vec<Near> = vec![Near::new(); count];
        // A node with parallel links has a choice between them, so it is a junction.
        let mut pinned = vec![false; count];
        for (ix, link) in network.links().iter().enumerate() {
            let (tail, head) = (link.tail.0, link.head.0);
            let there = entry(&mut near[tail as usize], head);
            if there.1 == NONE {
                there.1 = ix as u32;
            } else {
                pinned[tail as usize] = true;
                pinned[head as usize] = true;
            }
            let back = entry(&mut near[head as usize], tail);
            if back.2 == NONE {
                back.2 = ix as u32;
            }
        }
        let mut reduced = Self {
            parent: vec![NONE; count],
            up: vec![NONE; count],
            down: vec![NONE; count],
            depth: vec![0; count],
            core_ix: vec![NONE; count],
            core: Vec::new(),
            places: Vec::new(),
            gates: Vec::new(),
            junctions: 0,
            chains: Vec::new(),
            segments: Vec::new(),
            graph: Graph::from_arcs(0, &[]),
        };
        reduced.peel(&mut near, &pinned);
        reduced.cut_into_chains(problem, &near, &pinned);
        reduced
    }

    /// Takes nodes with one neighbour away until there are none.
    fn peel(&mut self, near: &mut [Near], pinned: &[bool]) {
        let count = near.len();
        let leaf = |near: &[Near], node: usize| near[node].len() == 1 && !pinned[node];
        let mut leaves: Vec<usize> = (0..count).filter(|node| leaf(near, *node)).collect();
        let mut order = Vec::new();
        while let Some(node) = leaves.pop() {
            if !leaf(near, node) {
                continue;
            }
            let (parent, up, down) = near[node][0];
            near[node].clear();
            near[parent as usize].retain(|(other, ..)| *other as usize != node);
            (self.parent[node], self.up[node], self.down[node]) = (parent, up, down);
            order.push(node);
            if leaf(near, parent as usize) {
                leaves.push(parent as usize);
            }
        }
        for node in order.into_iter().rev() {
            self.depth[node] = self.depth[self.parent[node] as usize] + 1;
        }
        for node in 0..count {
            if self.parent[node] == NONE {
                self.core_ix[node] = self.core.len() as u32;
                self.core.push(node as u32);
            }
        }
    }

    fn cut_into_chains(&mut self, problem: &FlowProblem<'_>, near: &[Near], pinned: &[bool]) {
        self.places = vec![Place::Junction(NONE); self.core.len()];
        let mut junctions = Vec::new();
        for (ix, node) in self.core.iter().enumerate() {
            if pinned[*node as usize] || near[*node as usize].len() != 2 {
                self.places[ix] = Place::Junction(junctions.len() as u32);
                junctions.push(*node);
            }
        }
        let mut next = 0;
        // A ring without a junction gets one.
        for ring in 0..=self.core.len() {
            while next < junctions.len() {
                for (first, ..) in &near[junctions[next] as usize] {
                    self.walk(near, junctions[next], *first);
                }
                next += 1;
            }
            if ring < self.core.len() && matches!(self.places[ring], Place::Junction(NONE)) {
                self.places[ring] = Place::Junction(junctions.len() as u32);
                junctions.push(self.core[ring]);
            }
        }
        self.junctions = junctions.len();
        self.gates = self
            .places
            .iter()
            .map(|place| match place {
                Place::Junction(junction) => [*junction, NONE],
                Place::Inside(chain, _) => self.chains[*chain as usize].ends,
            })
            .collect();
        let mut ends = Vec::new();
        for chain in &self.chains {
            let [first, last] = chain.ends;
            if !chain.forward.contains(&NONE) {
                self.segments.push(chain.forward.clone());
                ends.push((first, last));
            }
            if !chain.backward.contains(&NONE) {
                self.segments.push(chain.backward.iter().rev().copied().collect());
                ends.push((last, first));
            }
        }
        for (ix, link) in problem.network.links().iter().enumerate() {
            if let (Some(tail), Some(head)) = (self.junction(link.tail.0), self.junction(link.head.0)) {
                self.segments.push(vec![ix as u32]);
                ends.push((tail, head));
            }
        }
        self.graph = Graph::from_arcs(self.junctions, &ends);
    }

    /// Follows the chain that starts with the nodes `start` and `first`, unless it was walked before.
    fn walk(&mut self, near: &[Near], start: u32, first: u32) {
        let mut chain =
            Chain { ends: [NONE; 2], nodes: Vec::new(), forward: Vec::new(), backward: Vec::new() };
        let (mut before, mut node) = (start, first);
        loop {
            let step = near[before as usize].iter().find(|(other, ..)| *other == node);
            let &(_, there, back) = step.expect("the nodes are neighbours");
            chain.forward.push(there);
            chain.backward.push(back);
            let ix = self.core_ix[node as usize];
            match self.places[ix as usize] {
                Place::Inside(..) => return,
                Place::Junction(NONE) => chain.nodes.push(ix),
                Place::Junction(end) => {
                    chain.ends[1] = end;
                    break;
                }
            }
            let onward = near[node as usize].iter().find(|(other, ..)| *other != before);
            let next = onward.expect("a node inside a chain has two neighbours").0;
            (before, node) = (node, next);
        }
        if chain.nodes.is_empty() {
            return;
        }
        chain.ends[0] = self.junction(start).expect("chains start at junctions");
        for (at, node) in chain.nodes.iter().enumerate() {
            self.places[*node as usize] = Place::Inside(self.chains.len() as u32, at as u32 + 1);
        }
        self.chains.push(chain);
    }

    fn junction(&self, node: u32) -> Option<u32> {
        match self.core_ix[node as usize] {
            NONE => None,
            ix => match self.places[ix as usize] {
                Place::Junction(junction) => Some(junction),
                Place::Inside(..) => None,
            },
        }
    }

    /// The way of a commodity through the trees; `None` where a link is missing.
    pub(super) fn tree_path(&self, source: u32, target: u32, path: &mut TreePath) -> Option<()> {
        path.before.clear();
        path.after.clear();
        path.core = None;
        let (mut at, mut to) = (source, target);
        while at != to {
            let (above, below) = (self.depth[at as usize], self.depth[to as usize]);
            if above == 0 && below == 0 {
                path.core = Some((self.core_ix[at as usize], self.core_ix[to as usize]));
                break;
            }
            let (climber, link, side) = if above >= below {
                (&mut at, &self.up, &mut path.before)
            } else {
                (&mut to, &self.down, &mut path.after)
            };
            let link = link[*climber as usize];
            if link == NONE {
                return None;
            }
            side.push(link);
            *climber = self.parent[*climber as usize];
        }
        path.after.reverse();
        Some(())
    }

    /// Hands demands on to the core.
    pub(super) fn demands(&self, problem: &FlowProblem<'_>) -> CoreDemands {
        let count = self.core.len();
        let mut demands = CoreDemands {
            matrix: vec![0.0; count * count],
            background: problem.background.clone(),
            cut_off: None,
        };
        let mut path = TreePath::default();
        for (ix, commodity) in problem.commodities.iter().enumerate() {
            if self.tree_path(commodity.source.0, commodity.target.0, &mut path).is_none() {
                demands.cut_off = demands.cut_off.or(Some(ix));
                continue;
            }
            for link in path.before.iter().chain(&path.after) {
                demands.background[*link as usize] += commodity.demand;
            }
            if let Some((source, target)) = path.core {
                demands.matrix[source as usize * count + target as usize] += commodity.demand;
            }
        }
        demands
    }

    /// Writes the links from a core node to its gate on a side.
    pub(super) fn exit_links(&self, node: u32, side: usize, links: &mut Vec<u32>) {
        if let Place::Inside(chain, at) = self.places[node as usize] {
            let (chain, at) = (&self.chains[chain as usize], at as usize);
            if side == 0 {
                links.extend(chain.backward[..at].iter().rev());
            } else {
                links.extend(&chain.forward[at..]);
            }
        }
    }

    /// Writes the links from a gate to its core node.
    pub(super) fn entry_links(&self, node: u32, side: usize, links: &mut Vec<u32>) {
        if let Place::Inside(chain, at) = self.places[node as usize] {
            let (chain, at) = (&self.chains[chain as usize], at as usize);
            if side == 0 {
                links.extend(&chain.forward[..at]);
            } else {
                links.extend(chain.backward[at..].iter().rev());
            }
        }
    }

    /// Writes the links between two nodes of one chain, along it.
    pub(super) fn direct_links(&self, source: u32, target: u32, links: &mut Vec<u32>) {
        if let (Place::Inside(chain, from), Place::Inside(_, to)) =
            (self.places[source as usize], self.places[target as usize])
        {
            let (chain, from, to) = (&self.chains[chain as usize], from as usize, to as usize);
            if from < to {
                links.extend(&chain.forward[from..to]);
            } else {
                links.extend(chain.backward[to..from].iter().rev());
            }
        }
    }
}

fn entry(near: &mut Near, node: u32) -> &mut (u32, u32, u32) {
    let at = near.iter().position(|(other, ..)| *other == node).unwrap_or_else(|| {
        near.push((node, NONE, NONE));
        near.len() - 1
    });
    &mut near[at]
}
