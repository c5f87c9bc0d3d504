//! What does SNDlib's native text format say?
//!
//! ```text
//! ?SNDlib native format; type: network; version: 1.0
//! META ( unit = MBITPERSEC )
//! NODES ( a ( 13.4 52.5 ) b ( 9.9 53.5 ) )
//! LINKS ( l ( a b ) 0.0 0.0 1.0 0.0 ( 40000.0 1.0 ) )
//! DEMANDS ( d ( a b ) 1 125.0 UNLIMITED )
//! ```
//!
//! A link is `id ( source target ) pre_installed_capacity cost routing_cost setup_cost ( { capacity cost } )`, a
//! demand `id ( source target ) routing_unit value max_path_length`.

use std::collections::HashMap;

use traflux_core::network::{Network, NodeIx, TrafficMatrix};
use traflux_core::units::BitRate;

use super::draft::{DemandList, Draft, LinkValues};
use super::error::FormatError;
use super::kind::Format;
use super::options::{ReadOptions, WriteOptions};
use super::text::{Range, Source, decimal};
use super::unit::RateUnit;
use super::write::{Written, identifiers, joined_both_ways};
use super::{NetworkFile, Targets};

const HEADER: &str = "?SNDlib native format; type: network; version: 1.0";

/// The comment by which this library's files say that links lead one way; SNDlib keeps that in another file.
pub(super) const DIRECTED: &str = "link model: DIRECTED";

/// Link capacities as SNDlib's two formats give them.
#[derive(Debug, Default)]
pub(super) struct Capacities {
    pub(super) pre_installed: Option<BitRate>,
    pub(super) largest_module: Option<BitRate>,
}

impl Capacities {
    /// What is installed, or else one module of the largest kind.
    pub(super) fn capacity(&self) -> Option<BitRate> {
        self.pre_installed.or(self.largest_module)
    }

    pub(super) fn add_module(&mut self, capacity: BitRate) {
        self.largest_module = Some(self.largest_module.map_or(capacity, |largest| largest.max(capacity)));
    }
}

/// Words and parentheses from an offset on, without comments.
#[derive(Debug, Clone)]
struct Words<'a> {
    source: Source<'a>,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        loop {
            let rest = &self.source.text[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            let first = trimmed.chars().next()?;
            let length = match first {
                '#' => {
                    self.at += trimmed.find('\n').unwrap_or(trimmed.len());
                    continue;
                }
                '(' | ')' => 1,
                _ => {
                    trimmed.find(|c: char| c.is_whitespace() || c == '(' || c == ')').unwrap_or(trimmed.len())
                }
            };
            self.at += length;
            return Some(&trimmed[..length]);
        }
    }

    fn peek(&self) -> Option<&'a str> {
        self.clone().next()
    }

    fn word(&mut self, what: &'static str) -> Result<&'a str, FormatError> {
        match self.next() {
            Some(word) if word != "(" && word != ")" => Ok(word),
            other => Err(self.unexpected(what, other)),
        }
    }

    fn expect(&mut self, parenthesis: &'static str) -> Result<(), FormatError> {
        match self.next() {
            Some(word) if word == parenthesis => Ok(()),
            other => Err(self.unexpected(if parenthesis == "(" { "`(`" } else { "`)`" }, other)),
        }
    }

    fn unexpected(&self, what: &'static str, found: Option<&str>) -> FormatError {
        let at = found.map_or(self.source.end(), |word| self.source.at(word));
        self.source.syntax(at, what, found.unwrap_or(""))
    }

    fn pair(&mut self) -> Result<[&'a str; 2], FormatError> {
        self.expect("(")?;
        let pair = [self.word("the name of the source")?, self.word("the name of the target")?];
        self.expect(")")?;
        Ok(pair)
    }

    fn number(&mut self, what: &'static str, range: Range) -> Result<f64, FormatError> {
        let word = self.word(what)?;
        self.source.number(self.source.at(word), word, what, range)
    }

    fn rate(&mut self, what: &'static str, unit: RateUnit, range: Range) -> Result<BitRate, FormatError> {
        let word = self.word(what)?;
        self.source.rate(self.source.at(word), word, unit, what, range)
    }

    /// Skips what an opened parenthesis holds.
    fn skip(&mut self) -> Result<(), FormatError> {
        let mut depth = 1usize;
        while depth > 0 {
            match self.next() {
                Some("(") => depth += 1,
                Some(")") => depth -= 1,
                Some(_) => {}
                None => return Err(self.unexpected("`)`", None)),
            }
        }
        Ok(())
    }
}

/// What one pass over a file finds.
struct Sections<'a> {
    unit: Option<RateUnit>,
    nodes: Option<usize>,
    links: Option<usize>,
    demands: Option<usize>,
    directed: bool,
    source: Source<'a>,
}

impl<'a> Sections<'a> {
    /// Finds where the sections begin, and the unit.
    fn find(source: Source<'a>) -> Result<Self, FormatError> {
        let first = source.lines().find(|line| !line.starts_with('#')).unwrap_or("");
        let squeezed = |text: &str| text.split_whitespace().collect::<String>();
        if squeezed(first) != squeezed(HEADER) {
            return Err(source.syntax(source.at(first).min(source.end()), format!("`{HEADER}`"), first));
        }
        let mut words = Words { source, at: source.at(first) + first.len() };
        let directed =
            source.lines().any(|line| line.strip_prefix('#').is_some_and(|c| c.trim() == DIRECTED));
        let mut found = Self { unit: None, nodes: None, links: None, demands: None, directed, source };
        while let Some(name) = words.next() {
            let at = source.at(name);
            words.expect("(")?;
            let taken = match name {
                "META" => {
                    found.unit = meta(&mut words)?;
                    continue;
                }
                "NODES" => found.nodes.replace(words.at),
                "LINKS" => found.links.replace(words.at),
                "DEMANDS" => found.demands.replace(words.at),
                "ADMISSIBLE_PATHS" => None,
                _ => {
                    let expected = "one of the sections META, NODES, LINKS, DEMANDS, ADMISSIBLE_PATHS";
                    return Err(source.syntax(at, expected, name));
                }
            };
            if taken.is_some() {
                return Err(source.duplicate(at, "a section", name));
            }
            words.skip()?;
        }
        Ok(found)
    }

    fn words(&self, section: Option<usize>) -> Option<Words<'a>> {
        section.map(|at| Words { source: self.source, at })
    }

    fn demands(
        &self,
        options: &ReadOptions,
        nodes: usize,
        node: impl Fn(&str) -> Option<NodeIx>,
    ) -> Result<Option<TrafficMatrix>, FormatError> {
        let Some(mut words) = self.words(self.demands) else {
            return Ok(None);
        };
        if words.peek() == Some(")") {
            return Ok(None);
        }
        let unit = options.demand_unit(self.unit.unwrap_or(RateUnit::MEGABIT));
        let mut list = DemandList::new(&self.source, words.at, nodes)?;
        while words.peek() != Some(")") {
            words.word("the name of a demand")?;
            let pair = words.pair()?;
            let routing_unit = words.number("a routing unit", Range::NotNegative)?;
            let value = words.rate("a demand", unit, Range::NotNegative)?;
            words.word("a maximum path length")?;
            let ends = ends(&self.source, pair, &node)?;
            list.add(ends, if routing_unit == 1.0 { value } else { value * routing_unit });
        }
        Ok(Some(list.finish()))
    }
}

/// Both nodes of a pair.
fn ends(
    source: &Source<'_>,
    pair: [&str; 2],
    node: impl Fn(&str) -> Option<NodeIx>,
) -> Result<[NodeIx; 2], FormatError> {
    let find = |name: &str| node(name).ok_or_else(|| source.unknown_node(source.at(name), name));
    Ok([find(pair[0])?, find(pair[1])?])
}

/// Reads `key = value` lines up to the closing parenthesis and returns the unit.
fn meta(words: &mut Words<'_>) -> Result<Option<RateUnit>, FormatError> {
    let source = words.source;
    let mut unit = None;
    // Values are free text to the end of their line; the section ends at a line that closes it.
    while words.at < source.end() {
        let rest = &source.text[words.at..];
        let line = rest.split_inclusive('\n').next().unwrap_or(rest);
        words.at += line.len();
        let line = line.trim();
        let closes = line.ends_with(')') && !line[..line.len() - 1].contains('(');
        let entry = if closes { line[..line.len() - 1].trim() } else { line };
        if let Some((key, value)) = entry.split_once('=')
            && key.trim() == "unit"
        {
            let value = value.trim();
            unit = Some(source.unit(source.at(value), value)?);
        }
        if closes {
            return Ok(unit);
        }
    }
    Err(words.unexpected("`)`", None))
}

/// Reads a network with its demands.
pub(super) fn read(source: Source<'_>, options: &ReadOptions) -> Result<NetworkFile, FormatError> {
    let sections = Sections::find(source)?;
    let mut draft = Draft::new(source, options);
    let mut nodes: HashMap<&str, NodeIx> = HashMap::new();
    let Some(mut words) = sections.words(sections.nodes) else {
        return Err(source.syntax(source.end(), "a section NODES", ""));
    };
    while words.peek() != Some(")") {
        let name = words.word("the name of a node")?;
        let at = source.at(name);
        let mut position = None;
        if words.peek() == Some("(") {
            words.expect("(")?;
            let x = words.number("a longitude", Range::Finite)?;
            let y = words.number("a latitude", Range::Finite)?;
            words.expect(")")?;
            position = Some([x, y]);
        }
        let ix = draft.add_node(at, name.to_string(), position)?;
        if nodes.insert(name, ix).is_some() {
            return Err(source.duplicate(at, "a node name", name));
        }
    }
    if let Some(words) = sections.words(sections.links) {
        let directed = options.directed.unwrap_or(sections.directed);
        let unit = options.capacity_unit(sections.unit.unwrap_or(RateUnit::MEGABIT));
        links(words, &mut draft, &nodes, unit, directed)?;
    }
    let count = draft.node_count();
    let (network, warnings) = draft.finish()?;
    let demands = sections.demands(options, count, |name| nodes.get(name).copied())?;
    let name =
        source.lines().find_map(|line| line.strip_prefix("# network ")).map(|name| name.trim().to_string());
    Ok(NetworkFile { format: Format::SndlibNative, network, demands, name, warnings: warnings.finish() })
}

fn links(
    mut words: Words<'_>,
    draft: &mut Draft<'_>,
    nodes: &HashMap<&str, NodeIx>,
    unit: RateUnit,
    directed: bool,
) -> Result<(), FormatError> {
    let source = words.source;
    let mut of_modules = 0usize;
    while words.peek() != Some(")") {
        let name = words.word("the name of a link")?;
        let pair = words.pair()?;
        let mut capacities = Capacities::default();
        let pre_installed = words.rate("a pre-installed capacity", unit, Range::NotNegative)?;
        capacities.pre_installed = (pre_installed > BitRate::ZERO).then_some(pre_installed);
        words.number("the cost of the pre-installed capacity", Range::Finite)?;
        let routing_cost = words.number("a routing cost", Range::Finite)?;
        words.number("a setup cost", Range::Finite)?;
        words.expect("(")?;
        while words.peek() != Some(")") {
            let capacity = words.word("the capacity of a module")?;
            // An unlimited module says no more than none.
            if capacity != "UNLIMITED" {
                let at = source.at(capacity);
                let value = source.number(at, capacity, "the capacity of a module", Range::Finite)?;
                if value > 0.0 {
                    let what = "the capacity of a module";
                    capacities.add_module(source.rate(at, capacity, unit, what, Range::NotNegative)?);
                }
            }
            words.number("the cost of a module", Range::Finite)?;
        }
        words.expect(")")?;
        of_modules += usize::from(capacities.pre_installed.is_none() && capacities.largest_module.is_some());
        let values = LinkValues {
            capacity: capacities.capacity(),
            weight: (routing_cost > 0.0).then_some(routing_cost),
            delay: None,
        };
        let ends = ends(&source, pair, |name| nodes.get(name).copied())?;
        draft.add_link(source.at(name), ends, values, directed)?;
    }
    warn_of_modules(draft, of_modules);
    Ok(())
}

pub(super) fn warn_of_modules(draft: &mut Draft<'_>, links: usize) {
    if links > 0 {
        let message =
            format!("{links} links have nothing installed and got one module of their largest kind");
        draft.warnings.push(None, message);
    }
}

/// Reads the demands alone, for nodes of a known network.
pub(super) fn read_demands(
    source: Source<'_>,
    options: &ReadOptions,
    targets: &Targets<'_>,
) -> Result<TrafficMatrix, FormatError> {
    let sections = Sections::find(source)?;
    let demands = sections.demands(options, targets.nodes(), |name| targets.find(name))?;
    demands.ok_or_else(|| source.syntax(source.end(), "a section DEMANDS with demands", ""))
}

/// The unit under the name that SNDlib gives it.
pub(super) fn unit_name(unit: RateUnit) -> String {
    match unit.to_string().as_str() {
        "bit/s" => "BITPERSEC".into(),
        "kbit/s" => "KBITPERSEC".into(),
        "Mbit/s" => "MBITPERSEC".into(),
        "Gbit/s" => "GBITPERSEC".into(),
        other => other.to_string(),
    }
}

/// Writes a network with its demands.
pub(super) fn write(network: &Network, demands: Option<&TrafficMatrix>, options: &WriteOptions) -> Written {
    let mut written = Written::default();
    let unit = options.capacity_unit(RateUnit::MEGABIT);
    let names = identifiers(network, &mut written, |c| c == '(' || c == ')' || c == '#');
    let both_ways = joined_both_ways(network, &mut written);
    written.lose_delays(network);
    let text = &mut written.text;
    text.push_str(&format!("{HEADER}\n"));
    if let Some(name) = &options.name {
        text.push_str(&format!("# network {}\n", name.replace(['\n', '\r'], " ")));
    }
    if !both_ways {
        text.push_str(&format!("# {DIRECTED}\n"));
    }
    text.push_str(&format!("\nMETA (\n  unit = {}\n)\n\nNODES (\n", unit_name(unit)));
    for (node, name) in network.nodes().iter().zip(&names) {
        match node.position {
            Some([x, y]) => text.push_str(&format!("  {name} ( {} {} )\n", decimal(x, 0), decimal(y, 0))),
            None => text.push_str(&format!("  {name}\n")),
        }
    }
    text.push_str(")\n\nLINKS (\n");
    for (at, link) in network.links().iter().step_by(if both_ways { 2 } else { 1 }).enumerate() {
        let (tail, head) = (&names[link.tail.ix()], &names[link.head.ix()]);
        let (capacity, weight) = (unit.print(link.capacity.get()), decimal(link.weight, 0));
        text.push_str(&format!("  link_{at} ( {tail} {head} ) {capacity} 0 {weight} 0 ( )\n"));
    }
    text.push_str(")\n\nDEMANDS (\n");
    for (source, target, demand) in demands.into_iter().flat_map(listed) {
        let (from, to) = (&names[source], &names[target]);
        text.push_str(&format!("  {from}_{to} ( {from} {to} ) 1 {} UNLIMITED\n", unit.print(demand)));
    }
    text.push_str(")\n\nADMISSIBLE_PATHS (\n)\n");
    written
}

/// The demands that are not zero, with source and target.
pub(super) fn listed(matrix: &TrafficMatrix) -> impl Iterator<Item = (usize, usize, f64)> + '_ {
    let nodes = matrix.nodes();
    let demands = matrix.as_slice().iter().enumerate().filter(|(_, demand)| **demand > 0.0);
    demands.map(move |(at, demand)| (at / nodes, at % nodes, *demand))
}
