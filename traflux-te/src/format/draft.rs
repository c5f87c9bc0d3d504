//! How do the pieces of a file become a network?

use std::collections::{HashMap, HashSet};
use std::fmt;

use traflux_core::network::{Link, Network, Node, NodeIx, TrafficMatrix};
use traflux_core::units::{BitRate, Latency};

use super::error::FormatError;
use super::options::ReadOptions;
use super::text::Source;

/// The most nodes of a network whose file lists demands pair by pair.
///
/// A matrix is dense: a few kilobytes of names may not ask for gigabytes. Files of whole rows have no such
/// limit, as they are as large as the matrix.
pub const MAX_LISTED_NODES: usize = 4096;

/// The most directed links of a file.
pub const MAX_LINKS: usize = Network::MAX_LINKS;

/// Warnings beyond this many are counted, not kept.
const MAX_WARNINGS: usize = 100;

/// Something in a file that was read in a way its author may not have meant, or that a format has no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The line it is about, from 1, where it is about one.
    pub line: Option<usize>,
    /// What was done.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// A bounded list of warnings.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    kept: Vec<Warning>,
    dropped: usize,
}

impl Warnings {
    pub(super) fn push(&mut self, line: Option<usize>, message: impl Into<String>) {
        if self.kept.len() < MAX_WARNINGS {
            self.kept.push(Warning { line, message: message.into() });
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn finish(mut self) -> Vec<Warning> {
        if self.dropped > 0 {
            self.kept.push(Warning { line: None, message: format!("{} more warnings", self.dropped) });
        }
        self.kept
    }
}

/// What a file says about a link; `None` where it is silent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LinkValues {
    pub(super) capacity: Option<BitRate>,
    pub(super) weight: Option<f64>,
    pub(super) delay: Option<Latency>,
}

/// Nodes and links as they are read.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) source: Source<'a>,
    options: &'a ReadOptions,
    nodes: Vec<Node>,
    links: Vec<Link>,
    loops: usize,
    first_loop: usize,
    pub(super) warnings: Warnings,
}

impl<'a> Draft<'a> {
    pub(super) fn new(source: Source<'a>, options: &'a ReadOptions) -> Self {
        let warnings = Warnings::default();
        Self { source, options, nodes: Vec::new(), links: Vec::new(), loops: 0, first_loop: 0, warnings }
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn warn(&mut self, at: usize, message: impl Into<String>) {
        self.warnings.push(Some(self.source.place(at).line), message);
    }

    /// Adds a node at offset `at` of the file.
    pub(super) fn add_node(
        &mut self,
        at: usize,
        name: String,
        position: Option<[f64; 2]>,
    ) -> Result<NodeIx, FormatError> {
        if self.nodes.len() >= Network::MAX_NODES {
            return Err(self.source.too_large(at, "nodes", self.nodes.len() + 1, Network::MAX_NODES));
        }
        self.nodes.push(Node { name, position });
        Ok(NodeIx::from(self.nodes.len() - 1))
    }

    /// Adds a link, and the one back unless it is `directed`; a loop is left out, as nothing is routed over it.
    pub(super) fn add_link(
        &mut self,
        at: usize,
        ends: [NodeIx; 2],
        values: LinkValues,
        directed: bool,
    ) -> Result<(), FormatError> {
        let [tail, head] = ends;
        if tail == head {
            if self.loops == 0 {
                self.first_loop = at;
            }
            self.loops += 1;
            return Ok(());
        }
        let Some(capacity) = values.capacity.or(self.options.default_capacity) else {
            return Err(FormatError::Missing {
                place: self.source.place(at),
                what: "a capacity of this link",
                option: "`default_capacity` (`--capacity`)",
            });
        };
        let weight = values.weight.unwrap_or(self.options.default_weight);
        let link = Link { tail, head, capacity, weight, delay: values.delay.unwrap_or(Latency::ZERO) };
        self.links.push(link);
        if !directed {
            self.links.push(Link { tail: head, head: tail, ..link });
        }
        if self.links.len() > MAX_LINKS {
            return Err(self.source.too_large(at, "links", self.links.len(), MAX_LINKS));
        }
        Ok(())
    }

    /// Gives every second node of a name the first free of `name_2`, `name_3`, … and the nameless their position.
    pub(super) fn make_names_unique(&mut self) {
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let (names, renamed) = unique_names(names);
        for (node, name) in self.nodes.iter_mut().zip(names) {
            node.name = name;
        }
        if renamed > 0 {
            self.warnings.push(None, format!("{renamed} nodes without a name of their own were renamed"));
        }
    }

    /// Forgets positions that only fill a column: all of them at the origin.
    pub(super) fn drop_positions_at_origin(&mut self) {
        if self.nodes.iter().all(|node| node.position == Some([0.0, 0.0])) {
            for node in &mut self.nodes {
                node.position = None;
            }
        }
    }

    /// Orders the nodes anew: node `i` moves to `places[i]`. Before any link is added.
    pub(super) fn reorder(&mut self, places: &[usize]) {
        debug_assert!(self.links.is_empty(), "links keep the positions they were given");
        let mut nodes = vec![Node::default(); self.nodes.len()];
        for (node, place) in self.nodes.drain(..).zip(places) {
            nodes[*place] = node;
        }
        self.nodes = nodes;
    }

    pub(super) fn finish(mut self) -> Result<(Network, Warnings), FormatError> {
        if self.loops > 0 {
            let message = format!("{} links from a node to itself were left out", self.loops);
            self.warn(self.first_loop, message);
        }
        let place = self.source.place(0);
        let network =
            Network::new(self.nodes, self.links).map_err(|source| FormatError::Network { place, source })?;
        Ok((network, self.warnings))
    }
}

/// Names made unique in order, and how many were changed.
pub(super) fn unique_names(names: Vec<String>) -> (Vec<String>, usize) {
    let all: HashSet<String> = names.iter().cloned().collect();
    let mut taken = HashSet::with_capacity(names.len());
    // Where to go on counting for each name, so that many equal names do not take quadratic time.
    let mut next: HashMap<String, usize> = HashMap::new();
    let mut renamed = 0;
    let mut unique = Vec::with_capacity(names.len());
    for (position, name) in names.into_iter().enumerate() {
        if !name.is_empty() && taken.insert(name.clone()) {
            unique.push(name);
            continue;
        }
        let base = if name.is_empty() { format!("node_{position}") } else { name };
        let count = next.entry(base.clone()).or_insert(2);
        let mut candidate = if all.contains(&base) { format!("{base}_{count}") } else { base.clone() };
        while all.contains(&candidate) || taken.contains(&candidate) {
            *count += 1;
            candidate = format!("{base}_{count}");
        }
        taken.insert(candidate.clone());
        unique.push(candidate);
        renamed += 1;
    }
    (unique, renamed)
}

/// Demands pair by pair; those of one pair add up, those of a node to itself are dropped.
#[derive(Debug)]
pub(super) struct DemandList {
    matrix: TrafficMatrix,
}

impl DemandList {
    /// Room for the demands of `nodes` nodes, which are listed from offset `at` on.
    pub(super) fn new(source: &Source<'_>, at: usize, nodes: usize) -> Result<Self, FormatError> {
        if nodes > MAX_LISTED_NODES {
            return Err(source.too_large(at, "nodes with listed demands", nodes, MAX_LISTED_NODES));
        }
        Ok(Self { matrix: TrafficMatrix::zero(nodes) })
    }

    pub(super) fn add(&mut self, ends: [NodeIx; 2], demand: BitRate) {
        let [source, target] = ends;
        if source != target {
            let so_far = BitRate::saturating(self.matrix.demand(source, target));
            self.matrix.set(source, target, so_far + demand);
        }
    }

    pub(super) fn finish(self) -> TrafficMatrix {
        self.matrix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_unique_without_taking_one_that_is_used_elsewhere() {
        let names = ["a", "a", "", "a_2", "a", "", "node_2"].map(String::from).to_vec();
        let (unique, renamed) = unique_names(names);
        assert_eq!(unique, ["a", "a_3", "node_2_2", "a_2", "a_4", "node_5", "node_2"]);
        assert_eq!(renamed, 4);
    }

    #[test]
    fn the_list_of_warnings_is_bounded() {
        let mut warnings = Warnings::default();
        for line in 1..=250 {
            warnings.push(Some(line), "odd");
        }
        let kept = warnings.finish();
        assert_eq!(kept.len(), MAX_WARNINGS + 1);
        assert_eq!(kept[0].to_string(), "line 1: odd");
        assert_eq!(kept[MAX_WARNINGS].to_string(), "150 more warnings");
    }
}
