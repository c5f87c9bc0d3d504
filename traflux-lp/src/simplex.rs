//! What is the cheapest flow through a network whose arcs have convex piecewise-linear costs?
//!
//! A network simplex in which an arc is a chain of *pieces* (slope, end) instead of one cost and one bound:
//! a tangent of a latency curve is a piece, the kink of a churn term is the border between two. An arc
//! outside the spanning tree rests at a border of its pieces, so the tree has one node per flow and per
//! endpoint however many tangents a curve has.
//!
//! The price `p_v` of a node is what one more unit at `v` costs on its way to the root. On a tree arc
//! `u → v` within a piece of slope `s`, `s = p_u − p_v`; the flow is optimal when no arc at rest has
//! `s⁺ + p_v − p_u < 0` (forwards) or `s⁻ + p_v − p_u > 0` (backwards).
//!
//! The start may be *any* flow that meets the supplies: arcs that lie inside a piece but not in the tree are
//! brought in one by one, each step at no loss, until the flow is a vertex.

use std::time::Instant;

const NONE: u32 = u32::MAX;
/// Steps shorter than this part of the flow unit count as degenerate.
const DEGENERATE: f64 = 1e-14;
/// The deadline is looked at once in so many pivots.
const CLOCK_EVERY: usize = 64;

/// One linear piece of an arc's cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    /// Cost of one more unit.
    pub(crate) slope: f64,
    /// Flow of the arc at which the piece ends.
    pub(crate) end: f64,
}

#[derive(Debug, Clone, Copy)]
struct Arc {
    from: u32,
    to: u32,
    first: u32,
    count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the tree, inside piece `piece`.
    Tree,
    /// At the border below piece `piece`.
    Rest,
    /// Inside piece `piece` but not in the tree.
    Loose,
}

/// Why the search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Optimal,
    Deadline,
}

/// A network, a flow on it, and the tree that prices it. The root is the node after the last.
#[derive(Debug, Default)]
pub(crate) struct Network {
    arcs: Vec<Arc>,
    pieces: Vec<Piece>,
    flow: Vec<f64>,
    piece: Vec<u32>,
    place: Vec<Place>,
    nodes: usize,
    parent: Vec<u32>,
    parent_arc: Vec<u32>,
    depth: Vec<u32>,
    price: Vec<f64>,
    first_child: Vec<u32>,
    next_sibling: Vec<u32>,
    previous_sibling: Vec<u32>,
    supply: Vec<f64>,
    tolerance: f64,
    /// Pivots so far, bound flips included.
    pub(crate) pivots: usize,
    cycle: Vec<(u32, u32, bool)>,
    stack: Vec<u32>,
    path: Vec<u32>,
    cursor: usize,
    stalled: usize,
}

impl Network {
    /// Empties the network for `supply.len()` nodes and a root.
    pub(crate) fn reset(&mut self, supply: Vec<f64>) {
        self.nodes = supply.len();
        self.supply = supply;
        self.arcs.clear();
        self.pieces.clear();
        self.flow.clear();
        self.pivots = 0;
    }

    /// The root node.
    pub(crate) fn root(&self) -> usize {
        self.nodes
    }

    /// Adds an arc with pieces of rising slope and rising end; empty pieces are left out.
    pub(crate) fn add_arc(
        &mut self,
        from: usize,
        to: usize,
        pieces: impl IntoIterator<Item = Piece>,
    ) -> usize {
        let first = self.pieces.len();
        let mut start = 0.0;
        for piece in pieces {
            if piece.end > start {
                start = piece.end;
                self.pieces.push(piece);
            }
        }
        self.arcs.push(Arc {
            from: from as u32,
            to: to as u32,
            first: first as u32,
            count: (self.pieces.len() - first) as u32,
        });
        self.flow.push(0.0);
        self.arcs.len() - 1
    }

    /// The flow on an arc.
    pub(crate) fn flow(&self, arc: usize) -> f64 {
        self.flow[arc]
    }

    /// Presets the flow on an arc; [`Network::solve`] needs flows that meet the supplies.
    pub(crate) fn set_flow(&mut self, arc: usize, flow: f64) {
        self.flow[arc] = flow;
    }

    /// What one more unit at a node costs.
    pub(crate) fn price(&self, node: usize) -> f64 {
        self.price[node]
    }

    /// The pieces of an arc.
    pub(crate) fn pieces(&self, arc: usize) -> &[Piece] {
        let a = self.arcs[arc];
        &self.pieces[a.first as usize..(a.first + a.count) as usize]
    }

    /// Cost of the flow.
    pub(crate) fn cost(&self) -> f64 {
        let mut total = 0.0;
        for arc in 0..self.arcs.len() {
            let mut start = 0.0;
            for piece in self.pieces(arc) {
                let inside = self.flow[arc].min(piece.end) - start;
                if inside <= 0.0 {
                    break;
                }
                total += inside * piece.slope;
                start = piece.end;
            }
        }
        total
    }

    /// Minimises the cost from the flow that is set. `hubs` gives for each node an arc that leads towards
    /// the root and may join the tree first; following hubs from any node must end at the root.
    pub(crate) fn solve(&mut self, hubs: &[usize], tolerance: f64, until: Instant) -> Ended {
        self.tolerance = tolerance;
        self.settle_on_pieces();
        self.plant(hubs);
        self.stalled = 0;
        self.cursor = 0;
        for arc in 0..self.arcs.len() {
            if self.place[arc] == Place::Loose {
                let forwards = self.reduced(arc, self.piece[arc]) < 0.0;
                self.pivot(arc, forwards);
                if self.pivots.is_multiple_of(CLOCK_EVERY) && Instant::now() >= until {
                    return Ended::Deadline;
                }
            }
        }
        loop {
            while let Some((arc, forwards)) = self.enter() {
                self.pivot(arc, forwards);
                if self.pivots.is_multiple_of(CLOCK_EVERY) && Instant::now() >= until {
                    self.refresh_flows();
                    self.refresh_prices();
                    return Ended::Deadline;
                }
            }
            // Rounding gathers over thousands of pivots; the proof is made on fresh numbers.
            self.refresh_flows();
            self.refresh_prices();
            if self.enter().is_none() {
                return Ended::Optimal;
            }
        }
    }

    fn start_of(&self, arc: usize, piece: u32) -> f64 {
        if piece == 0 { 0.0 } else { self.pieces[(self.arcs[arc].first + piece - 1) as usize].end }
    }

    fn end_of(&self, arc: usize, piece: u32) -> f64 {
        self.pieces[(self.arcs[arc].first + piece) as usize].end
    }

    fn slope_of(&self, arc: usize, piece: u32) -> f64 {
        self.pieces[(self.arcs[arc].first + piece) as usize].slope
    }

    /// Reduced cost of one more unit on a piece.
    fn reduced(&self, arc: usize, piece: u32) -> f64 {
        let a = self.arcs[arc];
        self.slope_of(arc, piece) + self.price[a.to as usize] - self.price[a.from as usize]
    }

    /// Finds the piece of every preset flow; what is within rounding of a border is put on it.
    fn settle_on_pieces(&mut self) {
        let count = self.arcs.len();
        self.piece.clear();
        self.place.clear();
        self.piece.resize(count, 0);
        self.place.resize(count, Place::Rest);
        for arc in 0..count {
            let x = self.flow[arc];
            let mut piece = 0u32;
            let mut start = 0.0;
            let last = self.arcs[arc].count;
            while piece < last && x >= self.end_of(arc, piece) - 1e-15 {
                start = self.end_of(arc, piece);
                piece += 1;
            }
            self.piece[arc] = piece;
            if piece < last && x > start + 1e-15 {
                self.place[arc] = Place::Loose;
            } else {
                self.flow[arc] = start;
            }
        }
    }

    fn plant(&mut self, hubs: &[usize]) {
        let size = self.nodes + 1;
        for list in [
            &mut self.parent,
            &mut self.parent_arc,
            &mut self.first_child,
            &mut self.next_sibling,
            &mut self.previous_sibling,
        ] {
            list.clear();
            list.resize(size, NONE);
        }
        self.depth.clear();
        self.depth.resize(size, 0);
        self.price.clear();
        self.price.resize(size, 0.0);
        for (node, &hub) in hubs.iter().enumerate() {
            let a = self.arcs[hub];
            let above = if a.from as usize == node { a.to } else { a.from };
            if self.place[hub] == Place::Rest && self.piece[hub] == a.count {
                self.piece[hub] -= 1;
            }
            self.place[hub] = Place::Tree;
            self.parent_arc[node] = hub as u32;
            self.attach(node as u32, above);
        }
        self.refresh_prices();
        self.refresh_flows();
    }

    fn attach(&mut self, node: u32, above: u32) {
        self.parent[node as usize] = above;
        let next = self.first_child[above as usize];
        self.next_sibling[node as usize] = next;
        self.previous_sibling[node as usize] = NONE;
        if next != NONE {
            self.previous_sibling[next as usize] = node;
        }
        self.first_child[above as usize] = node;
    }

    fn detach(&mut self, node: u32) {
        let (before, after) = (self.previous_sibling[node as usize], self.next_sibling[node as usize]);
        if before == NONE {
            self.first_child[self.parent[node as usize] as usize] = after;
        } else {
            self.next_sibling[before as usize] = after;
        }
        if after != NONE {
            self.previous_sibling[after as usize] = before;
        }
    }

    /// Prices and depths from the tree.
    fn refresh_prices(&mut self) {
        self.stack.clear();
        self.stack.push(self.nodes as u32);
        self.price[self.nodes] = 0.0;
        self.depth[self.nodes] = 0;
        while let Some(above) = self.stack.pop() {
            let mut node = self.first_child[above as usize];
            while node != NONE {
                let arc = self.parent_arc[node as usize] as usize;
                let slope = self.slope_of(arc, self.piece[arc]);
                let up = self.arcs[arc].from == node;
                self.price[node as usize] = self.price[above as usize] + if up { slope } else { -slope };
                self.depth[node as usize] = self.depth[above as usize] + 1;
                self.stack.push(node);
                node = self.next_sibling[node as usize];
            }
        }
    }

    /// Tree flows from supplies and the arcs outside the tree.
    fn refresh_flows(&mut self) {
        let mut surplus = self.supply.clone();
        surplus.push(0.0);
        for (arc, a) in self.arcs.iter().enumerate() {
            if self.place[arc] != Place::Tree {
                surplus[a.from as usize] -= self.flow[arc];
                surplus[a.to as usize] += self.flow[arc];
            }
        }
        self.path.clear();
        self.stack.clear();
        self.stack.push(self.nodes as u32);
        while let Some(above) = self.stack.pop() {
            self.path.push(above);
            let mut node = self.first_child[above as usize];
            while node != NONE {
                self.stack.push(node);
                node = self.next_sibling[node as usize];
            }
        }
        for ix in (1..self.path.len()).rev() {
            let node = self.path[ix] as usize;
            let arc = self.parent_arc[node] as usize;
            let above = self.parent[node] as usize;
            let amount = surplus[node];
            let up = self.arcs[arc].from as usize == node;
            self.flow[arc] = if up { amount } else { -amount };
            surplus[above] += amount;
        }
    }

    /// The most promising arc of the next block that holds one; the first of all when stalled (Bland).
    fn enter(&mut self) -> Option<(usize, bool)> {
        let count = self.arcs.len();
        if count == 0 {
            return None;
        }
        let stalled = self.stalled > 4 * self.nodes + 200;
        let block = if stalled { 1 } else { ((count as f64).sqrt() as usize * 2).max(48) };
        let mut at = if stalled { 0 } else { self.cursor % count };
        let mut best: Option<(usize, bool)> = None;
        let mut best_gain = self.tolerance;
        let mut in_block = 0;
        for _ in 0..count {
            if self.place[at] == Place::Rest {
                let a = self.arcs[at];
                let drop = self.price[a.from as usize] - self.price[a.to as usize];
                let piece = self.piece[at];
                if piece < a.count {
                    let gain = drop - self.pieces[(a.first + piece) as usize].slope;
                    if gain > best_gain {
                        best_gain = gain;
                        best = Some((at, true));
                    }
                }
                if piece > 0 {
                    let gain = self.pieces[(a.first + piece - 1) as usize].slope - drop;
                    if gain > best_gain {
                        best_gain = gain;
                        best = Some((at, false));
                    }
                }
            }
            at += 1;
            if at == count {
                at = 0;
            }
            in_block += 1;
            if in_block >= block {
                if best.is_some() {
                    break;
                }
                in_block = 0;
            }
        }
        self.cursor = at;
        best
    }

    /// Moves flow around the cycle that an arc closes, until something blocks.
    fn pivot(&mut self, entering: usize, forwards: bool) {
        self.pivots += 1;
        let a = self.arcs[entering];
        let loose = self.place[entering] == Place::Loose;
        let piece = if loose || forwards { self.piece[entering] } else { self.piece[entering] - 1 };
        let own = if forwards {
            self.end_of(entering, piece) - self.flow[entering]
        } else {
            self.flow[entering] - self.start_of(entering, piece)
        };
        // Flow is pushed tail → head through the arc and back head → … → tail through the tree.
        let (tail, head) = if forwards { (a.from, a.to) } else { (a.to, a.from) };
        let (mut t, mut h) = (tail, head);
        let mut step = own.max(0.0);
        let mut blocking: Option<(u32, bool, bool)> = None;
        self.cycle.clear();
        while t != h {
            let tail_side = self.depth[t as usize] >= self.depth[h as usize];
            let node = if tail_side { t } else { h };
            let arc = self.parent_arc[node as usize];
            let up = self.arcs[arc as usize].from == node;
            // On the head side flow climbs, on the tail side it descends.
            let rises = up != tail_side;
            let x = self.flow[arc as usize];
            let inside = self.piece[arc as usize];
            let room = if rises {
                self.end_of(arc as usize, inside) - x
            } else {
                x - self.start_of(arc as usize, inside)
            };
            let room = room.max(0.0);
            let tie = blocking.is_some_and(|(b, _, _)| arc < self.parent_arc[b as usize]);
            if room < step || (room == step && tie) {
                step = room;
                blocking = Some((node, rises, tail_side));
            }
            self.cycle.push((arc, node, rises));
            if tail_side {
                t = self.parent[t as usize];
            } else {
                h = self.parent[h as usize];
            }
        }
        self.stalled = if step > DEGENERATE { 0 } else { self.stalled + 1 };
        for &(arc, _, rises) in &self.cycle {
            self.flow[arc as usize] += if rises { step } else { -step };
        }
        let Some((node, rises, tail_side)) = blocking else {
            self.piece[entering] = if forwards { piece + 1 } else { piece };
            self.place[entering] = Place::Rest;
            self.flow[entering] = self.start_of(entering, self.piece[entering]);
            return;
        };
        self.flow[entering] += if forwards { step } else { -step };
        self.piece[entering] = piece;
        self.place[entering] = Place::Tree;
        let leaving = self.parent_arc[node as usize] as usize;
        if rises {
            self.piece[leaving] += 1;
        }
        self.place[leaving] = Place::Rest;
        self.flow[leaving] = self.start_of(leaving, self.piece[leaving]);
        let (inside, outside) = if tail_side { (tail, head) } else { (head, tail) };
        self.regraft(node, inside, outside, entering as u32);
    }

    /// The subtree under `top` loses its arc upwards and hangs at `outside` by `inside` through `arc`.
    fn regraft(&mut self, top: u32, inside: u32, outside: u32, arc: u32) {
        let mut node = inside;
        let mut above = outside;
        let mut through = arc;
        loop {
            let next = self.parent[node as usize];
            let next_arc = self.parent_arc[node as usize];
            self.detach(node);
            self.parent_arc[node as usize] = through;
            self.attach(node, above);
            if node == top {
                break;
            }
            above = node;
            through = next_arc;
            node = next;
        }
        let up = self.arcs[arc as usize].from == inside;
        let slope = self.slope_of(arc as usize, self.piece[arc as usize]);
        let price = self.price[outside as usize] + if up { slope } else { -slope };
        let shift = price - self.price[inside as usize];
        self.depth[inside as usize] = self.depth[outside as usize] + 1;
        self.price[inside as usize] = price;
        self.stack.clear();
        self.stack.push(inside);
        while let Some(above) = self.stack.pop() {
            let depth = self.depth[above as usize] + 1;
            let mut node = self.first_child[above as usize];
            while node != NONE {
                self.depth[node as usize] = depth;
                self.price[node as usize] += shift;
                self.stack.push(node);
                node = self.next_sibling[node as usize];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn flow_fills_the_cheaper_pieces_of_two_parallel_paths_first() {
        let mut network = Network::default();
        network.reset(vec![3.0, 0.0, 0.0]);
        let root = network.root();
        let big = 100.0;
        let a = network.add_arc(0, 1, [Piece { slope: 0.0, end: 10.0 }]);
        let b = network.add_arc(0, 2, [Piece { slope: 0.5, end: 10.0 }]);
        let sink = |s1, s2| {
            [Piece { slope: s1, end: 1.0 }, Piece { slope: s2, end: 4.0 }, Piece { slope: big, end: 1e9 }]
        };
        let sa = network.add_arc(1, root, sink(1.0, 3.0));
        let sb = network.add_arc(2, root, sink(1.0, 2.0));
        network.set_flow(a, 3.0);
        network.set_flow(sa, 3.0);
        assert_eq!(network.solve(&[a, sa, sb], 1e-12, far()), Ended::Optimal);
        // Path a costs 1 then 3, path b 1.5 then 2.5: one unit on a, two on b.
        assert!((network.flow(a) - 1.0).abs() < 1e-12);
        assert!((network.flow(b) - 2.0).abs() < 1e-12);
        assert!((network.cost() - 5.0).abs() < 1e-12);
        assert!((network.price(0) - 2.5).abs() < 1e-12);
    }
}
