//! What do REPETITA's `.graph` and `.demands` files say?
//!
//! ```text
//! NODES 2
//! label x y
//! Oslo 10.7 59.9
//! Bergen 5.3 60.4
//!
//! EDGES 1
//! label src dest weight bw delay
//! edge_0 0 1 10 10000000 1530
//! ```
//!
//! `src` and `dest` count nodes from 0, `bw` is in kbit/s, `delay` in microseconds.

use traflux_core::network::{Network, NodeIx, TrafficMatrix};

use super::NetworkFile;
use super::draft::{DemandList, Draft, LinkValues};
use super::error::FormatError;
use super::kind::Format;
use super::options::{ReadOptions, WriteOptions};
use super::sndlib::listed;
use super::text::{Range, Source, decimal};
use super::unit::RateUnit;
use super::write::{Written, identifiers};

const MICROSECONDS: i32 = -6;

/// A section: a line `NAME count`, a line of column names, and the rows.
struct Section<'a> {
    source: Source<'a>,
    count: usize,
    at: usize,
    name: &'static str,
}

impl<'a> Section<'a> {
    /// Reads the first two lines of a section.
    fn open(
        source: Source<'a>,
        lines: &mut impl Iterator<Item = &'a str>,
        name: &'static str,
        columns: &'static str,
    ) -> Result<Self, FormatError> {
        let first = lines.next().unwrap_or("");
        let at = if first.is_empty() { source.end() } else { source.at(first) };
        let words: Vec<&str> = first.split_whitespace().collect();
        let [found, count] = words[..] else {
            return Err(source.syntax(at, format!("`{name}` and their number"), first));
        };
        if found != name {
            return Err(source.syntax(at, format!("`{name}` and their number"), first));
        }
        let count = source.integer(source.at(count), count, "a number of rows")?;
        let header = lines.next().unwrap_or("");
        let header_at = if header.is_empty() { source.end() } else { source.at(header) };
        if header.split_whitespace().ne(columns.split_whitespace()) {
            return Err(source.syntax(header_at, format!("the columns `{columns}`"), header));
        }
        Ok(Self { source, count, at, name })
    }

    /// The words of the next row.
    fn row<const N: usize>(&self, line: Option<&'a str>, row: usize) -> Result<[&'a str; N], FormatError> {
        let Some(line) = line else {
            return Err(self.source.count(self.at, self.name, row, self.count));
        };
        let mut words = line.split_whitespace();
        let mut row = [""; N];
        for (column, word) in row.iter_mut().enumerate() {
            *word = words.next().ok_or_else(|| {
                let at = self.source.at(line) + line.len();
                self.source.syntax(at, format!("{N} columns"), &format!("{column}"))
            })?;
        }
        match words.next() {
            Some(word) => Err(self.source.syntax(self.source.at(word), format!("{N} columns"), word)),
            None => Ok(row),
        }
    }

    fn node(&self, word: &str, nodes: usize) -> Result<NodeIx, FormatError> {
        let at = self.source.at(word);
        let ix = self.source.integer(at, word, "the number of a node")?;
        if ix < nodes { Ok(NodeIx::from(ix)) } else { Err(self.source.unknown_node(at, word)) }
    }
}

/// Reads a `.graph` file.
pub(super) fn read(source: Source<'_>, options: &ReadOptions) -> Result<NetworkFile, FormatError> {
    let mut lines = source.lines();
    let mut draft = Draft::new(source, options);
    let section = Section::open(source, &mut lines, "NODES", "label x y")?;
    for row in 0..section.count {
        let [label, x, y] = section.row(lines.next(), row)?;
        let x = source.number(source.at(x), x, "a longitude", Range::Finite)?;
        let y = source.number(source.at(y), y, "a latitude", Range::Finite)?;
        draft.add_node(source.at(label), label.to_string(), Some([x, y]))?;
    }
    draft.make_names_unique();
    draft.drop_positions_at_origin();
    let nodes = draft.node_count();
    let section = Section::open(source, &mut lines, "EDGES", "label src dest weight bw delay")?;
    let unit = options.capacity_unit(RateUnit::KILOBIT);
    let directed = options.directed.unwrap_or(true);
    for row in 0..section.count {
        let [label, tail, head, weight, capacity, delay] = section.row(lines.next(), row)?;
        let ends = [section.node(tail, nodes)?, section.node(head, nodes)?];
        let values = LinkValues {
            capacity: Some(source.rate(
                source.at(capacity),
                capacity,
                unit,
                "a capacity",
                Range::Positive,
            )?),
            weight: Some(source.number(source.at(weight), weight, "a weight", Range::Positive)?),
            delay: Some(source.delay(source.at(delay), delay, MICROSECONDS)?),
        };
        draft.add_link(source.at(label), ends, values, directed)?;
    }
    if let Some(line) = lines.next() {
        return Err(source.syntax(source.at(line), format!("the end after {} edges", section.count), line));
    }
    let (network, warnings) = draft.finish()?;
    Ok(NetworkFile {
        format: Format::Repetita,
        network,
        demands: None,
        name: None,
        warnings: warnings.finish(),
    })
}

/// Reads a `.demands` file for a network of `nodes` nodes.
pub(super) fn read_demands(
    source: Source<'_>,
    options: &ReadOptions,
    nodes: usize,
) -> Result<TrafficMatrix, FormatError> {
    let mut lines = source.lines();
    let section = Section::open(source, &mut lines, "DEMANDS", "label src dest bw")?;
    let unit = options.demand_unit(RateUnit::KILOBIT);
    let mut list = DemandList::new(&source, section.at, nodes)?;
    for row in 0..section.count {
        let [_, from, to, demand] = section.row(lines.next(), row)?;
        let ends = [section.node(from, nodes)?, section.node(to, nodes)?];
        list.add(ends, source.rate(source.at(demand), demand, unit, "a demand", Range::NotNegative)?);
    }
    if let Some(line) = lines.next() {
        return Err(source.syntax(source.at(line), format!("the end after {} demands", section.count), line));
    }
    Ok(list.finish())
}

/// Writes a `.graph` file.
pub(super) fn write(network: &Network, demands: bool, options: &WriteOptions) -> Written {
    let mut written = Written::default();
    written.lose_demands(demands);
    let names = identifiers(network, &mut written, |_| false);
    let unit = options.capacity_unit(RateUnit::KILOBIT);
    written.hide_unit(unit, RateUnit::KILOBIT);
    let text = &mut written.text;
    text.push_str(&format!("NODES {}\nlabel x y\n", names.len()));
    for (node, name) in network.nodes().iter().zip(&names) {
        let [x, y] = node.position.unwrap_or([0.0, 0.0]);
        text.push_str(&format!("{name} {} {}\n", decimal(x, 0), decimal(y, 0)));
    }
    text.push_str(&format!("\nEDGES {}\nlabel src dest weight bw delay\n", network.links().len()));
    for (at, link) in network.links().iter().enumerate() {
        text.push_str(&format!(
            "edge_{at} {} {} {} {} {}\n",
            link.tail.ix(),
            link.head.ix(),
            decimal(link.weight, 0),
            unit.print(link.capacity.get()),
            decimal(link.delay.as_secs(), -MICROSECONDS)
        ));
    }
    written
}

/// Writes a `.demands` file.
pub(super) fn write_demands(matrix: &TrafficMatrix, options: &WriteOptions) -> Written {
    let mut written = Written::default();
    let unit = options.demand_unit(RateUnit::KILOBIT);
    written.hide_unit(unit, RateUnit::KILOBIT);
    let text = &mut written.text;
    *text = format!("DEMANDS {}\nlabel src dest bw\n", listed(matrix).count());
    for (at, (source, target, demand)) in listed(matrix).enumerate() {
        text.push_str(&format!("demand_{at} {source} {target} {}\n", unit.print(demand)));
    }
    written
}
