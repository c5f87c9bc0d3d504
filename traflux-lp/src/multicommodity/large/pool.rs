//! Which paths may each commodity of the core use, and how much does each take?

use super::oracle::{DIRECT, Flow, Lengths, Oracle};
use super::path_tree::PathTree;
use super::reduce::{CoreDemands, NONE, Reduced};

/// A path of a commodity: out of its source's chain, between junctions, into its target's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Path {
    between: u32,
    sides: u8,
}

impl Path {
    /// Along the chain of both ends.
    pub(super) const DIRECT: Self = Self { between: NONE, sides: 0 };

    /// `between`: a node of the tree of paths.
    pub(super) fn new(between: u32, exit: usize, entry: usize) -> Self {
        Self { between, sides: (exit | entry << 1) as u8 }
    }

    /// Path between junctions, side of exit and side of entry; `None` when direct.
    pub(super) fn parts(self) -> Option<(u32, usize, usize)> {
        (self.between != NONE).then_some((
            self.between,
            (self.sides & 1) as usize,
            (self.sides >> 1) as usize,
        ))
    }
}

/// Sums of gains by power of two.
#[derive(Debug, Clone)]
pub(super) struct Gains {
    sums: Vec<f64>,
}

impl Default for Gains {
    fn default() -> Self {
        Self { sums: vec![0.0; 2048] }
    }
}

impl Gains {
    /// `gain`: positive.
    pub(super) fn add(&mut self, gain: f64) {
        self.sums[(gain.to_bits() >> 52) as usize] += gain;
    }

    /// A power of two; the gains below it are at most the fraction `rest` of all together.
    pub(super) fn least(&self, rest: f64) -> f64 {
        let mut rest = rest * self.sums.iter().sum::<f64>();
        let first = self.sums.iter().position(|sum| {
            rest -= sum;
            rest < 0.0
        });
        f64::from_bits((first.unwrap_or(0) as u64) << 52)
    }
}

/// Reads paths off the trees of shortest paths that an oracle found.
#[derive(Debug)]
pub(super) struct Shortest {
    /// By two junctions.
    between: Vec<u32>,
}

impl Shortest {
    pub(super) fn new(reduced: &Reduced) -> Self {
        Self { between: vec![NONE; reduced.junctions * reduced.junctions] }
    }

    /// Takes all paths between junctions into the tree of paths.
    pub(super) fn read(&mut self, oracle: &Oracle<'_>, tree: &mut PathTree) {
        let junctions = oracle.reduced.junctions.max(1);
        let rows = self.between.chunks_mut(junctions).zip(&oracle.trees).enumerate();
        for (root, (paths, shortest)) in rows {
            tree.insert(&oracle.reduced.graph, root as u32, shortest, paths);
        }
    }

    /// The shortest path of a commodity and its length.
    pub(super) fn of(&self, oracle: &Oracle<'_>, source: usize, target: usize) -> (Path, f64) {
        let (reduced, lengths) = (oracle.reduced, &oracle.lengths);
        let (count, junctions) = (reduced.core.len(), reduced.junctions);
        let entry = oracle.entry[source * count + target];
        if entry == DIRECT {
            let place = |node: usize| (node as u32, reduced.places[node]);
            return (Path::DIRECT, lengths.direct(place(source), place(target)));
        }
        let entry = entry as usize;
        let junction = reduced.gates[target][entry] as usize;
        let exit = oracle.exit[source * junctions + junction] as usize;
        let gate = reduced.gates[source][exit] as usize;
        let length = lengths.out[source][exit]
            + oracle.trees[gate].distances()[junction]
            + lengths.into[target][entry];
        (Path::new(self.between[gate * junctions + junction], exit, entry), length)
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    path: Path,
    next: u32,
    share: f64,
}

/// Paths with their shares, by commodity (core source × nodes + core target).
#[derive(Debug, Clone)]
pub(super) struct Pool {
    heads: Vec<u32>,
    entries: Vec<Entry>,
    pub(super) tree: PathTree,
}

impl Pool {
    pub(super) fn new(count: usize, tree: PathTree) -> Self {
        Self { heads: vec![NONE; count * count], entries: Vec::new(), tree }
    }

    /// Puts a path in front of a commodity's others.
    pub(super) fn add(&mut self, commodity: usize, path: Path, share: f64) {
        let next = std::mem::replace(&mut self.heads[commodity], self.entries.len() as u32);
        self.entries.push(Entry { path, next, share });
    }

    /// Positions of a commodity's paths, the newest first.
    pub(super) fn of(&self, commodity: usize) -> impl Iterator<Item = usize> + '_ {
        let mut at = self.heads[commodity];
        std::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?;
            let ix = at as usize;
            at = entry.next;
            Some(ix)
        })
    }

    /// Whether a commodity has one path at most.
    pub(super) fn single(&self, commodity: usize) -> bool {
        self.entries.get(self.heads[commodity] as usize).is_none_or(|entry| entry.next == NONE)
    }

    pub(super) fn path(&self, entry: usize) -> Path {
        self.entries[entry].path
    }

    /// Puts another path in the place of one.
    pub(super) fn set_path(&mut self, entry: usize, path: Path) {
        self.entries[entry].path = path;
    }

    pub(super) fn share(&self, entry: usize) -> f64 {
        self.entries[entry].share
    }

    pub(super) fn set_share(&mut self, entry: usize, share: f64) {
        self.entries[entry].share = share;
    }

    /// How many paths there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What the links carry when the paths have these shares, background excluded.
    pub(super) fn loads(&self, reduced: &Reduced, demands: &CoreDemands, loads: &mut [f64]) {
        self.loads_with(reduced, demands, |entry| self.entries[entry].share, loads);
    }

    /// What the links carry when the paths have these shares, background excluded.
    pub(super) fn loads_with(
        &self,
        reduced: &Reduced,
        demands: &CoreDemands,
        shares: impl Fn(usize) -> f64,
        loads: &mut [f64],
    ) {
        let count = reduced.core.len();
        let mut flow = Flow::new(reduced);
        let mut between = vec![0.0; self.tree.len()];
        for commodity in 0..self.heads.len() {
            let demand = demands.matrix[commodity];
            if demand == 0.0 {
                continue;
            }
            let (source, target) = (commodity / count, commodity % count);
            for entry in self.of(commodity) {
                let carried = demand * shares(entry);
                if carried > 0.0 {
                    let path = self.entries[entry].path;
                    flow.add_path(reduced, &mut between, source, target, path, carried);
                }
            }
        }
        self.tree.load(&mut between, &mut flow.segments);
        loads.fill(0.0);
        flow.load(reduced, loads);
    }

    /// Length of a path of a commodity, given the lengths of all paths between junctions.
    pub(super) fn length(
        &self,
        reduced: &Reduced,
        lengths: &Lengths,
        between: &[f64],
        commodity: usize,
        path: Path,
    ) -> f64 {
        let count = reduced.core.len();
        let (source, target) = (commodity / count, commodity % count);
        match path.parts() {
            Some((path, exit, entry)) => {
                lengths.out[source][exit] + between[path as usize] + lengths.into[target][entry]
            }
            None => lengths
                .direct((source as u32, reduced.places[source]), (target as u32, reduced.places[target])),
        }
    }

    /// Writes the links of a path of a commodity.
    pub(super) fn links(&self, reduced: &Reduced, commodity: usize, path: Path, links: &mut Vec<u32>) {
        let count = reduced.core.len();
        let (source, target) = ((commodity / count) as u32, (commodity % count) as u32);
        let Some((path, exit, entry)) = path.parts() else {
            reduced.direct_links(source, target, links);
            return;
        };
        reduced.exit_links(source, exit, links);
        let mut way = Vec::new();
        let mut at = path;
        while let Some((parent, segment)) = self.tree.last(at) {
            way.push(segment);
            at = parent;
        }
        for segment in way.iter().rev() {
            links.extend(&reduced.segments[*segment as usize]);
        }
        reduced.entry_links(target, entry, links);
    }
}
