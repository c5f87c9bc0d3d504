//! What does CFR-RL's table of links say?
//!
//! ```text
//! Node_num: 2   Edge_num: 2
//! Link_index    Source   Destination   OSPF   Capacity(kbps)
//! 0             0        1             10     9920000
//! 1             1        0             10     9920000
//! ```
//!
//! Columns are apart by tabs. Nodes are the numbers from 0. Matrices stand in a file of their own, see [`super::MatrixRows`].

use traflux_core::network::{Network, NodeIx};

use super::NetworkFile;
use super::draft::{Draft, LinkValues};
use super::error::FormatError;
use super::kind::Format;
use super::options::{ReadOptions, WriteOptions};
use super::text::{Range, Source, decimal};
use super::unit::RateUnit;
use super::write::Written;

/// Reads the table.
pub(super) fn read(source: Source<'_>, options: &ReadOptions) -> Result<NetworkFile, FormatError> {
    let mut lines = source.lines();
    let first = lines.next().unwrap_or("");
    let at = if first.is_empty() { source.end() } else { source.at(first) };
    let words: Vec<&str> = first.split_whitespace().collect();
    let ["Node_num:", nodes, "Edge_num:", edges] = words[..] else {
        return Err(source.syntax(at, "`Node_num:` and `Edge_num:` with their numbers", first));
    };
    let edges_at = source.at(edges);
    let node_count = source.integer(source.at(nodes), nodes, "a number of nodes")?;
    let edge_count = source.integer(edges_at, edges, "a number of links")?;
    let mut draft = Draft::new(source, options);
    // Nodes are not listed: a large number of them would cost memory without a byte of input for each.
    if node_count > Network::MAX_NODES {
        return Err(source.too_large(source.at(nodes), "nodes", node_count, Network::MAX_NODES));
    }
    for node in 0..node_count {
        draft.add_node(at, node.to_string(), None)?;
    }
    let header = lines.next().unwrap_or("");
    let header_at = if header.is_empty() { source.end() } else { source.at(header) };
    if header.split_whitespace().count() != 5 {
        return Err(source.syntax(header_at, "the names of five columns", header));
    }
    let unit = options.capacity_unit(unit_of(header).unwrap_or(RateUnit::KILOBIT));
    let directed = options.directed.unwrap_or(true);
    let mut rows = 0;
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [index, tail, head, weight, capacity] = words[..] else {
            return Err(source.syntax(source.at(line), "five columns", line));
        };
        source.integer(source.at(index), index, "the number of a link")?;
        let node = |word: &str| {
            let ix = source.integer(source.at(word), word, "the number of a node")?;
            if ix < node_count {
                Ok(NodeIx::from(ix))
            } else {
                Err(source.unknown_node(source.at(word), word))
            }
        };
        let ends = [node(tail)?, node(head)?];
        let values = LinkValues {
            capacity: Some(source.rate(
                source.at(capacity),
                capacity,
                unit,
                "a capacity",
                Range::Positive,
            )?),
            weight: Some(source.number(source.at(weight), weight, "a weight", Range::Positive)?),
            delay: None,
        };
        draft.add_link(source.at(line), ends, values, directed)?;
        rows += 1;
    }
    if rows != edge_count {
        return Err(source.count(edges_at, "links", rows, edge_count));
    }
    let (network, warnings) = draft.finish()?;
    Ok(NetworkFile { format: Format::CfrRl, network, demands: None, name: None, warnings: warnings.finish() })
}

/// The unit that the name of the last column ends in, as in `Capacity(kbps)`.
fn unit_of(header: &str) -> Option<RateUnit> {
    header.strip_suffix(')')?.rsplit_once('(')?.1.parse().ok()
}

/// Writes the table.
pub(super) fn write(network: &Network, demands: bool, options: &WriteOptions) -> Written {
    let mut written = Written::default();
    written.lose_demands(demands);
    written.lose_names(network);
    written.lose_delays(network);
    let unit = options.capacity_unit(RateUnit::KILOBIT);
    // A blank in the name of the unit would make another column.
    let name = match unit {
        RateUnit::KILOBIT => "kbps".to_string(),
        unit => unit.to_string().replace(' ', ""),
    };
    let (nodes, links) = (network.nodes().len(), network.links().len());
    let text = &mut written.text;
    text.push_str(&format!("Node_num: {nodes}\tEdge_num: {links}\n"));
    text.push_str(&format!("Link_index\tSource\tDestination\tOSPF\tCapacity({name})\n"));
    for (at, link) in network.links().iter().enumerate() {
        let (tail, head, weight) = (link.tail.ix(), link.head.ix(), decimal(link.weight, 0));
        text.push_str(&format!("{at}\t{tail}\t{head}\t{weight}\t{}\n", unit.print(link.capacity.get())));
    }
    written
}
