//! Which paths of all commodities are the shortest now?
//!
//! One tree for each junction; a commodity then compares the ways out of its source's chain and into its
//! target's. Sources are split into a fixed number of blocks whose sums are added in order, so that the answer
//! does not depend on the number of threads.

use traflux_core::ShortestPaths;

use super::pool::Path;
use super::reduce::{CoreDemands, NONE, Place, Reduced};

/// Fixed, so that sums are added in the same order with any number of threads.
const BLOCKS: usize = 4;

/// With fewer pairs of core nodes, threads cost more than they save.
const PARALLEL: usize = 100_000;

/// Entered at the gate of side 0 or 1, or reached along the own chain.
pub(super) const DIRECT: u8 = 2;

/// Lengths of everything a path is made of.
#[derive(Debug, Clone, Default)]
pub(super) struct Lengths {
    pub(super) segments: Vec<f64>,
    /// By core node and side: to the gate, from the gate; infinite where there is no way.
    pub(super) out: Vec<[f64; 2]>,
    pub(super) into: Vec<[f64; 2]>,
    /// By core node inside a chain: along the chain from its start, and back to it; missing links count 0.
    forward: Vec<f64>,
    backward: Vec<f64>,
    /// How many links are missing on the way.
    gaps: Vec<[u32; 2]>,
}

impl Lengths {
    /// Adds up the lengths of links.
    pub(super) fn set(&mut self, reduced: &Reduced, links: &[f64]) {
        let count = reduced.core.len();
        self.segments.clear();
        self.segments
            .extend(reduced.segments.iter().map(|s| s.iter().map(|l| links[*l as usize]).sum::<f64>()));
        self.out.clear();
        self.out.resize(count, [0.0, f64::INFINITY]);
        self.into.clone_from(&self.out);
        self.forward.resize(count, 0.0);
        self.backward.resize(count, 0.0);
        self.gaps.resize(count, [0; 2]);
        let length = |link: u32, missing: f64| if link == NONE { missing } else { links[link as usize] };
        for chain in &reduced.chains {
            let (mut forward, mut backward, mut gaps) = (0.0, 0.0, [0; 2]);
            let (mut there, mut back) = (0.0, 0.0);
            for (at, node) in chain.nodes.iter().enumerate() {
                let node = *node as usize;
                there += length(chain.forward[at], f64::INFINITY);
                back += length(chain.backward[at], f64::INFINITY);
                self.into[node][0] = there;
                self.out[node][0] = back;
                forward += length(chain.forward[at], 0.0);
                backward += length(chain.backward[at], 0.0);
                gaps[0] += u32::from(chain.forward[at] == NONE);
                gaps[1] += u32::from(chain.backward[at] == NONE);
                (self.forward[node], self.backward[node], self.gaps[node]) = (forward, backward, gaps);
            }
            (there, back) = (0.0, 0.0);
            for (at, node) in chain.nodes.iter().enumerate().rev() {
                let node = *node as usize;
                there += length(chain.forward[at + 1], f64::INFINITY);
                back += length(chain.backward[at + 1], f64::INFINITY);
                self.out[node][1] = there;
                self.into[node][1] = back;
            }
        }
    }

    /// The way along the chain from one place to another.
    pub(super) fn direct(&self, from: (u32, Place), to: (u32, Place)) -> f64 {
        let (Place::Inside(chain, at), Place::Inside(other, end)) = (from.1, to.1) else {
            return f64::INFINITY;
        };
        if chain != other {
            return f64::INFINITY;
        }
        let (from, to) = (from.0 as usize, to.0 as usize);
        let side = usize::from(at > end);
        if self.gaps[from][side] != self.gaps[to][side] {
            return f64::INFINITY;
        }
        if at < end { self.forward[to] - self.forward[from] } else { self.backward[from] - self.backward[to] }
    }
}

/// Flow on everything a path is made of, bit/s.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    pub(super) segments: Vec<f64>,
    pub(super) out: Vec<[f64; 2]>,
    pub(super) into: Vec<[f64; 2]>,
    /// By core node: starts less ends of flow along its chain, in the order of the chain and against it.
    along: Vec<[f64; 2]>,
}

impl Flow {
    pub(super) fn new(reduced: &Reduced) -> Self {
        let count = reduced.core.len();
        Self {
            segments: vec![0.0; reduced.segments.len()],
            out: vec![[0.0; 2]; count],
            into: vec![[0.0; 2]; count],
            along: vec![[0.0; 2]; count],
        }
    }

    /// Adds flow along a chain.
    pub(super) fn add_direct(&mut self, places: &[Place], from: usize, to: usize, flow: f64) {
        if let (Place::Inside(_, at), Place::Inside(_, end)) = (places[from], places[to]) {
            let side = usize::from(at > end);
            self.along[from][side] += flow;
            self.along[to][side] -= flow;
        }
    }

    /// Adds flow on a path; what it carries between junctions goes to `between`, by path there.
    pub(super) fn add_path(
        &mut self,
        reduced: &Reduced,
        between: &mut [f64],
        source: usize,
        target: usize,
        path: Path,
        flow: f64,
    ) {
        match path.parts() {
            Some((path, exit, entry)) => {
                self.out[source][exit] += flow;
                self.into[target][entry] += flow;
                between[path as usize] += flow;
            }
            None => self.add_direct(&reduced.places, source, target, flow),
        }
    }

    /// Adds the flow to the loads of links.
    pub(super) fn load(&self, reduced: &Reduced, loads: &mut [f64]) {
        for (links, flow) in reduced.segments.iter().zip(&self.segments) {
            for link in links {
                loads[*link as usize] += flow;
            }
        }
        let mut add = |link: u32, flow: f64| {
            if link != NONE {
                loads[link as usize] += flow.max(0.0);
            }
        };
        for chain in &reduced.chains {
            // Before link t lie the nodes 1..=t: those start forward flow, and flow into the others passes.
            let (mut started, mut ended) = (0.0, 0.0);
            for (at, node) in chain.nodes.iter().enumerate() {
                let node = *node as usize;
                started += self.out[node][1] + self.along[node][0];
                ended += self.into[node][1] - self.along[node][1];
                add(chain.forward[at + 1], started);
                add(chain.backward[at + 1], ended);
            }
            (started, ended) = (0.0, 0.0);
            for (at, node) in chain.nodes.iter().enumerate().rev() {
                let node = *node as usize;
                ended += self.into[node][0];
                started += self.out[node][0];
                add(chain.forward[at], ended);
                add(chain.backward[at], started);
            }
        }
    }
}

/// What one block of sources works with.
#[derive(Debug, Clone)]
struct Block {
    cost: f64,
    distance: Vec<f64>,
}

/// Shortest paths of all commodities; memory is kept between calls.
#[derive(Debug)]
pub(super) struct Oracle<'a> {
    pub(super) reduced: &'a Reduced,
    pub(super) demands: &'a CoreDemands,
    threads: usize,
    pub(super) lengths: Lengths,
    pub(super) trees: Vec<ShortestPaths>,
    /// By core source and core target: the side of entry, or [`DIRECT`].
    pub(super) entry: Vec<u8>,
    /// By core source and junction: the side of exit.
    pub(super) exit: Vec<u8>,
    blocks: Vec<Block>,
}

impl<'a> Oracle<'a> {
    pub(super) fn new(reduced: &'a Reduced, demands: &'a CoreDemands, threads: usize) -> Self {
        let (count, junctions) = (reduced.core.len(), reduced.junctions);
        // Small networks are done before a thread has started.
        let threads = if count * count < PARALLEL { 1 } else { threads.clamp(1, BLOCKS) };
        Self {
            reduced,
            demands,
            threads,
            lengths: Lengths::default(),
            trees: vec![ShortestPaths::default(); junctions],
            entry: vec![0; count * count],
            exit: vec![0; count * junctions],
            blocks: vec![Block { cost: 0.0, distance: vec![0.0; junctions] }; BLOCKS],
        }
    }

    /// The bound that `lengths` (by link, `Σ c_l y_l = 1`) prove; infinite when a commodity has no path.
    pub(super) fn bound(&mut self, lengths: &[f64]) -> f64 {
        let background: f64 = self.demands.background.iter().zip(lengths).map(|(b, y)| b * y).sum();
        self.run(lengths) + background
    }

    /// Finds the shortest paths under `links` (length by link) and returns `Σ_k d_k dist_k`.
    fn run(&mut self, links: &[f64]) -> f64 {
        let reduced = self.reduced;
        self.lengths.set(reduced, links);
        let lengths = &self.lengths;
        let per_block = self.trees.len().div_ceil(BLOCKS).max(1);
        let work = self.trees.chunks_mut(per_block).enumerate().map(|(block, trees)| {
            move || {
                for (at, tree) in trees.iter_mut().enumerate() {
                    reduced.graph.search((block * per_block + at) as u32, &lengths.segments, tree);
                }
            }
        });
        spread(self.threads, work.collect());

        let (count, junctions) = (reduced.core.len(), reduced.junctions);
        let sweep = Sweep { reduced, demands: self.demands, lengths, trees: &self.trees };
        let rows = count.div_ceil(BLOCKS).max(1);
        let blocks = self.blocks.iter_mut().zip(self.entry.chunks_mut((rows * count).max(1)));
        let blocks = blocks.zip(self.exit.chunks_mut((rows * junctions).max(1))).enumerate();
        let work =
            blocks.map(|(ix, ((block, entry), exit))| move || sweep.block(ix * rows, block, entry, exit));
        spread(self.threads, work.collect());
        self.blocks.iter().take(count.div_ceil(rows)).map(|block| block.cost).sum()
    }

    /// The first pair of core nodes with demand and, after a run, no path.
    pub(super) fn disconnected(&self) -> Option<(u32, u32)> {
        let count = self.reduced.core.len();
        let mut distance = vec![0.0; self.reduced.junctions];
        let sweep = Sweep {
            reduced: self.reduced,
            demands: self.demands,
            lengths: &self.lengths,
            trees: &self.trees,
        };
        for source in 0..count {
            sweep.distances(source, &mut distance, None);
            for target in 0..count {
                let demand = self.demands.matrix[source * count + target];
                if demand > 0.0 && sweep.enter(source, target, &distance).0.is_infinite() {
                    return Some((source as u32, target as u32));
                }
            }
        }
        None
    }
}

#[derive(Clone, Copy)]
struct Sweep<'a> {
    reduced: &'a Reduced,
    demands: &'a CoreDemands,
    lengths: &'a Lengths,
    trees: &'a [ShortestPaths],
}

impl Sweep<'_> {
    /// Distances from a core node to all junctions, and the sides of exit.
    fn distances(&self, source: usize, distance: &mut [f64], exit: Option<&mut [u8]>) {
        let [first, second] = self.reduced.gates[source];
        let [a, b] = self.lengths.out[source];
        let from_first = self.trees[first as usize].distances();
        if second == NONE {
            for (to, d) in distance.iter_mut().zip(from_first) {
                *to = a + d;
            }
            if let Some(exit) = exit {
                exit.fill(0);
            }
            return;
        }
        let both = from_first.iter().zip(self.trees[second as usize].distances());
        let Some(exit) = exit else {
            for (to, (x, y)) in distance.iter_mut().zip(both) {
                *to = (a + x).min(b + y);
            }
            return;
        };
        for ((to, side), (x, y)) in distance.iter_mut().zip(exit).zip(both) {
            let (x, y) = (a + x, b + y);
            *to = x.min(y);
            *side = u8::from(y < x);
        }
    }

    /// Length of the shortest path and how it reaches the target.
    fn enter(&self, source: usize, target: usize, distance: &[f64]) -> (f64, u8) {
        let [first, second] = self.reduced.gates[target];
        let [a, b] = self.lengths.into[target];
        let (mut best, mut side) = (distance[first as usize] + a, 0);
        if second == NONE {
            return (best, side);
        }
        let other = distance[second as usize] + b;
        if other < best {
            (best, side) = (other, 1);
        }
        let places = &self.reduced.places;
        if let (Place::Inside(mine, _), Place::Inside(its, _)) = (places[source], places[target])
            && mine == its
        {
            let direct =
                self.lengths.direct((source as u32, places[source]), (target as u32, places[target]));
            if direct <= best {
                (best, side) = (direct, DIRECT);
            }
        }
        (best, side)
    }

    /// Finds the paths of some sources, the first of which is `start`.
    fn block(&self, start: usize, block: &mut Block, entry: &mut [u8], exit: &mut [u8]) {
        let (count, junctions) = (self.reduced.core.len(), self.reduced.junctions);
        block.cost = 0.0;
        for (at, (entry, exit)) in entry.chunks_mut(count).zip(exit.chunks_mut(junctions)).enumerate() {
            let source = start + at;
            let demands = &self.demands.matrix[source * count..][..count];
            self.distances(source, &mut block.distance, Some(exit));
            for (target, demand) in demands.iter().enumerate().filter(|(_, demand)| **demand > 0.0) {
                let (length, side) = self.enter(source, target, &block.distance);
                block.cost += demand * length;
                entry[target] = side;
            }
        }
    }
}

/// Does the pieces of work on some threads.
fn spread<F: FnOnce() + Send>(threads: usize, work: Vec<F>) {
    if threads <= 1 {
        work.into_iter().for_each(|piece| piece());
        return;
    }
    let mut shares: Vec<Vec<F>> = (0..threads).map(|_| Vec::new()).collect();
    for (ix, piece) in work.into_iter().enumerate() {
        shares[ix % threads].push(piece);
    }
    std::thread::scope(|scope| {
        let mut shares = shares.into_iter();
        let own = shares.next();
        for share in shares {
            scope.spawn(move || share.into_iter().for_each(|piece| piece()));
        }
        own.into_iter().flatten().for_each(|piece| piece());
    });
}
