//! Whose turn is it among the tenants of a band?
//!
//! Deficit round robin in tokens (M. Shreedhar, G. Varghese, "Efficient fair queuing using deficit round-robin",
//! IEEE/ACM ToN 4(3), 1996), in the form that may overdraw and repays from later rounds, because the cost of a
//! head is then not needed to choose a tenant (surplus round robin: H. Adiseshu, G. Parulkar, G. Varghese, "A
//! reliable and scalable striping protocol", SIGCOMM 1996). Per round a tenant of weight `w` may begin requests
//! while `Q·w` tokens are not spent. One deviation: a tenant that owes several rounds is not visited in each of
//! them, but filed in a calendar under the round in which it may send again, and rounds in which nobody may are
//! skipped by one bit scan. So a visit is O(1) for any quantum, and the quantum can be smaller than a request.
//!
//! **Bound.** With `M` the largest cost, every waiting tenant has been granted the same rounds, has less than one
//! quantum unspent and owes less than `M`. So for two tenants that both wait all the time from `s` to `t`
//!
//! ```text
//! | sent_i / w_i − sent_j / w_j |  <  2·Q + M/w_i + M/w_j        (Q + M/w from the moment both join fresh)
//! ```
//!
//! A tenant that leaves in debt finds the debt again when it returns in the same rounds; unspent tokens are lost.
//!
//! **Hierarchy.** Organisation, team, key: each inner node is a calendar over its children, and a cost is charged
//! to every node on the way. The bound then holds among the children of each node, in their tokens.
//!
//! **Deadlines.** Inside a round every tenant with credit may go first without hurting the bound. Where the band
//! orders by a key (deadline, value) the round is a heap by the key of each tenant's best request, so the order is
//! that key *across* tenants inside a round and fairness *between* rounds. A larger quantum gives the deadline more
//! freedom, a smaller one fairness.

use super::link::{Link, NIL, Shape, last};

const ROUNDS: u64 = 64;
/// The most rounds that anybody owes: a million quanta.
const MOST_OWED: i64 = 1 << 20;
const ROOT: u32 = 0;

/// The nodes of one band: node 0 is the band, node `t + 1` is tenant `t`.
#[derive(Debug)]
pub(super) struct FairTree {
    quantum: u64,
    shape: Shape,
    nodes: Vec<Node>,
    links: Vec<Link>,
    calendars: Vec<Calendar>,
}

/// One line of the cache: all of it is read and written per request.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Node {
    /// What may still be spent in `round`; a debt where not positive.
    credit: i64,
    /// The round in which this node may send next.
    round: u64,
    weight: u32,
    parent: u32,
    /// Of an inner node.
    calendar: u32,
    /// The first request of a leaf.
    first: u32,
    active: bool,
    flow: Flow,
}

/// What waits in one leaf.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flow {
    pub(super) items: u32,
    pub(super) tokens: u64,
    /// All that ever left, modulo the width: a request knows its place by the difference.
    pub(super) left_items: u32,
    pub(super) left_tokens: u64,
}

#[derive(Debug)]
struct Calendar {
    round: u64,
    /// Bit `r mod 64`: somebody is filed under round `r`.
    occupied: u64,
    active_weight: u64,
    rounds: [u32; ROUNDS as usize],
}

impl Calendar {
    fn new() -> Self {
        Self { round: 1, occupied: 0, active_weight: 0, rounds: [NIL; ROUNDS as usize] }
    }

    /// The first of the earliest round in which anybody may send.
    fn front(&self) -> Option<(u64, u32)> {
        if self.occupied == 0 {
            return None;
        }
        let skip = u64::from(self.occupied.rotate_right((self.round % ROUNDS) as u32).trailing_zeros());
        let round = self.round + skip;
        Some((round, self.rounds[(round % ROUNDS) as usize]))
    }
}

impl FairTree {
    pub(super) fn new(quantum: u64, shape: Shape) -> Self {
        let calendars = vec![Calendar::new()];
        let mut tree = Self { quantum, shape, nodes: Vec::new(), links: Vec::new(), calendars };
        tree.grow(1);
        tree.nodes[ROOT as usize].calendar = 0;
        tree
    }

    fn grow(&mut self, nodes: usize) {
        let fresh = Node {
            credit: 1,
            round: 0,
            weight: 1,
            parent: ROOT,
            calendar: NIL,
            first: NIL,
            active: false,
            flow: Flow::default(),
        };
        if nodes > self.nodes.len() {
            self.nodes.resize(nodes, fresh);
            self.links.resize(nodes, Link::LOOSE);
        }
    }

    /// Sets weight and parent of a tenant. The caller has checked that there is no cycle and, where the parent
    /// changes, that nothing waits below the tenant.
    pub(super) fn set_tenant(&mut self, tenant: u32, parent: Option<u32>, weight: u32) {
        let node = tenant + 1;
        let parent = parent.map_or(ROOT, |p| p + 1);
        self.grow(node.max(parent) as usize + 1);
        if self.nodes[parent as usize].calendar == NIL {
            self.nodes[parent as usize].calendar = self.calendars.len() as u32;
            self.calendars.push(Calendar::new());
        }
        if self.nodes[node as usize].active {
            let old = u64::from(self.nodes[node as usize].weight);
            let calendar = self.calendar_of_parent(node);
            calendar.active_weight = calendar.active_weight - old + u64::from(weight);
        } else if self.nodes[node as usize].parent != parent {
            // Rounds are counted per parent.
            (self.nodes[node as usize].round, self.nodes[node as usize].credit) = (0, 1);
        }
        (self.nodes[node as usize].parent, self.nodes[node as usize].weight) = (parent, weight);
    }

    /// The leaf of a tenant, made where there is none; `None` for a group of tenants.
    #[inline]
    pub(super) fn leaf(&mut self, tenant: u32) -> Option<u32> {
        let node = tenant + 1;
        if node as usize >= self.nodes.len() {
            self.grow(node as usize + 1);
        }
        (self.nodes[node as usize].calendar == NIL).then_some(node)
    }

    #[inline]
    pub(super) fn flow(&self, leaf: u32) -> &Flow {
        &self.nodes[leaf as usize].flow
    }

    /// Whether anything waits at or below a tenant.
    pub(super) fn is_active(&self, tenant: u32) -> bool {
        self.nodes.get(tenant as usize + 1).is_some_and(|n| n.active)
    }

    /// How many tokens leave the band per token of a leaf, while the same tenants wait; and how many tokens of its
    /// own the leaf must let pass first.
    #[inline]
    pub(super) fn dilution(&self, leaf: u32) -> (f64, u64) {
        let (mut dilution, mut node, mut debt) = (1.0, leaf, 0);
        while node != ROOT {
            let n = &self.nodes[node as usize];
            let calendar = &self.calendars[self.nodes[n.parent as usize].calendar as usize];
            let weight = u64::from(n.weight);
            let others = calendar.active_weight - if n.active { weight } else { 0 };
            dilution *= (others + weight) as i64 as f64 / f64::from(n.weight);
            if node == leaf {
                let rounds = n.round.saturating_sub(calendar.round);
                debt = rounds.saturating_mul(self.quantum * weight);
            }
            node = n.parent;
        }
        (dilution, debt)
    }

    /// Adds a request to a leaf.
    #[inline]
    pub(super) fn join(&mut self, leaf: u32, item: u32, cost: u64, items: &mut [Link]) {
        let node = &mut self.nodes[leaf as usize];
        node.flow.items += 1;
        node.flow.tokens += cost;
        self.shape.insert(items, &mut node.first, item);
        if !node.active {
            self.activate(leaf, items);
        } else if self.shape == Shape::Heap && node.first == item {
            self.refresh(leaf, items);
        }
    }

    /// Takes a request out of a leaf, free of charge.
    #[inline]
    pub(super) fn leave(&mut self, leaf: u32, item: u32, cost: u64, items: &mut [Link]) {
        let was_first = self.nodes[leaf as usize].first == item;
        if self.take(leaf, item, cost, items) {
            self.deactivate(leaf, items);
        } else if self.shape == Shape::Heap && was_first {
            self.refresh(leaf, items);
        }
    }

    /// Takes a request out of the structure of its leaf; whether that is empty now.
    #[inline]
    fn take(&mut self, leaf: u32, item: u32, cost: u64, items: &mut [Link]) -> bool {
        let node = &mut self.nodes[leaf as usize];
        node.flow.items -= 1;
        node.flow.tokens -= cost;
        node.flow.left_items = node.flow.left_items.wrapping_add(1);
        node.flow.left_tokens = node.flow.left_tokens.wrapping_add(cost);
        self.shape.remove(items, &mut node.first, item);
        node.first == NIL
    }

    /// The leaf whose turn it is, and its next request: the newest where `newest`, else the first.
    #[inline]
    pub(super) fn head(&mut self, newest: bool, items: &[Link]) -> Option<(u32, u32)> {
        let mut node = ROOT;
        loop {
            let calendar_ix = self.nodes[node as usize].calendar;
            if calendar_ix == NIL {
                let first = self.nodes[node as usize].first;
                return Some((node, if newest { last(items, first) } else { first }));
            }
            let calendar = &mut self.calendars[calendar_ix as usize];
            let (round, child) = calendar.front()?;
            calendar.round = round;
            if self.nodes[child as usize].credit <= 0 {
                self.unfile(child);
                self.file(child);
            } else {
                node = child;
            }
        }
    }

    /// Takes a request out of a leaf because it is sent, and charges the leaf and all above it.
    #[inline]
    pub(super) fn send(&mut self, leaf: u32, item: u32, cost: u64, items: &mut [Link]) {
        let mut node = leaf;
        let mut empty = self.take(leaf, item, cost, items);
        while node != ROOT {
            // Out under the old key and round, in under the new.
            self.unfile(node);
            self.owe(node, cost as i64);
            if empty {
                empty = self.retire(node);
            } else {
                self.set_key(node, items);
                self.file(node);
            }
            node = self.nodes[node as usize].parent;
        }
    }

    /// Corrects what a leaf and all above it were charged.
    pub(super) fn charge(&mut self, leaf: u32, cost: i64, items: &[Link]) {
        let mut node = leaf;
        while node != ROOT {
            self.owe(node, cost);
            if self.nodes[node as usize].active {
                self.unfile(node);
                self.set_key(node, items);
                self.file(node);
            }
            node = self.nodes[node as usize].parent;
        }
    }

    /// Charges a node. What it owes beyond [`MOST_OWED`] rounds is forgiven: the search for who is next goes through
    /// 63 rounds at a step, and must end whatever a request says that it used.
    #[inline]
    fn owe(&mut self, node: u32, cost: i64) {
        let most = self.grant(node).saturating_mul(MOST_OWED);
        let n = &mut self.nodes[node as usize];
        n.credit = n.credit.saturating_sub(cost).max(-most);
    }

    /// What a node may send per round.
    #[inline]
    fn grant(&self, node: u32) -> i64 {
        let weight = u64::from(self.nodes[node as usize].weight);
        self.quantum.saturating_mul(weight).min(i64::MAX as u64 / 2) as i64
    }

    fn calendar_of_parent(&mut self, node: u32) -> &mut Calendar {
        let parent = self.nodes[node as usize].parent;
        &mut self.calendars[self.nodes[parent as usize].calendar as usize]
    }

    fn activate(&mut self, leaf: u32, items: &[Link]) {
        let mut node = leaf;
        while node != ROOT && !self.nodes[node as usize].active {
            self.nodes[node as usize].active = true;
            let weight = u64::from(self.nodes[node as usize].weight);
            self.calendar_of_parent(node).active_weight += weight;
            self.set_key(node, items);
            self.file(node);
            node = self.nodes[node as usize].parent;
        }
        if self.shape == Shape::Heap && node != ROOT {
            self.refresh(node, items);
        }
    }

    fn deactivate(&mut self, leaf: u32, items: &[Link]) {
        let mut node = leaf;
        while node != ROOT {
            self.unfile(node);
            let parent_empty = self.retire(node);
            node = self.nodes[node as usize].parent;
            if !parent_empty {
                break;
            }
        }
        if self.shape == Shape::Heap && node != ROOT {
            self.refresh(node, items);
        }
    }

    /// A node that is no longer filed waits for nothing; whether its parent does not either.
    #[inline]
    fn retire(&mut self, node: u32) -> bool {
        self.nodes[node as usize].active = false;
        let weight = u64::from(self.nodes[node as usize].weight);
        let calendar = self.calendar_of_parent(node);
        calendar.active_weight -= weight;
        calendar.occupied == 0
    }

    /// Files a node under the first round in which it has credit, at most 63 ahead: what it owes beyond stays owed.
    #[inline]
    fn file(&mut self, node: u32) {
        let grant = self.grant(node);
        let parent = self.nodes[node as usize].parent;
        let calendar = &mut self.calendars[self.nodes[parent as usize].calendar as usize];
        let n = &mut self.nodes[node as usize];
        if n.credit <= 0 {
            // Most often one round is enough, and no division.
            let rounds = if -n.credit < grant { 1 } else { 1 + n.credit.unsigned_abs() / grant as u64 };
            n.credit = n.credit.saturating_add((rounds as i64).saturating_mul(grant));
            n.round = n.round.saturating_add(rounds);
        }
        if n.round < calendar.round {
            (n.round, n.credit) = (calendar.round, grant);
        }
        let latest = calendar.round + (ROUNDS - 1);
        if n.round > latest {
            let owed = i64::try_from(n.round - latest).unwrap_or(i64::MAX).saturating_mul(grant);
            (n.round, n.credit) = (latest, n.credit.saturating_sub(owed));
        }
        let slot = (n.round % ROUNDS) as usize;
        calendar.occupied |= 1 << slot;
        self.shape.insert(&mut self.links, &mut calendar.rounds[slot], node);
    }

    #[inline]
    fn unfile(&mut self, node: u32) {
        let n = &self.nodes[node as usize];
        let slot = (n.round % ROUNDS) as usize;
        let calendar = &mut self.calendars[self.nodes[n.parent as usize].calendar as usize];
        self.shape.remove(&mut self.links, &mut calendar.rounds[slot], node);
        if calendar.rounds[slot] == NIL {
            calendar.occupied &= !(1 << slot);
        }
    }

    /// Takes over the key of the best request at or below a node; whether it changed.
    fn set_key(&mut self, node: u32, items: &[Link]) -> bool {
        if self.shape == Shape::List {
            return false;
        }
        let n = &self.nodes[node as usize];
        let best = if n.calendar == NIL {
            items[n.first as usize]
        } else {
            match self.calendars[n.calendar as usize].front() {
                Some((_, child)) => self.links[child as usize],
                None => return false,
            }
        };
        let link = &mut self.links[node as usize];
        let changed = (link.key, link.sequence) != (best.key, best.sequence);
        (link.key, link.sequence) = (best.key, best.sequence);
        changed
    }

    /// Moves a node and those above it to where their keys belong now.
    fn refresh(&mut self, from: u32, items: &[Link]) {
        let mut node = from;
        while node != ROOT && self.nodes[node as usize].active {
            let slot = (self.nodes[node as usize].round % ROUNDS) as usize;
            let parent = self.nodes[node as usize].parent;
            let calendar = self.nodes[parent as usize].calendar as usize;
            // Out under the old key, in under the new.
            self.shape.remove(&mut self.links, &mut self.calendars[calendar].rounds[slot], node);
            let changed = self.set_key(node, items);
            self.shape.insert(&mut self.links, &mut self.calendars[calendar].rounds[slot], node);
            if !changed {
                break;
            }
            node = parent;
        }
    }
}
