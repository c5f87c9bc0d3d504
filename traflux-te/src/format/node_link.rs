//! What does node-link JSON say, as NetworkX writes it and TopoHub, TEAL and FIGRET use it?
//!
//! ```json
//! {"directed": false, "multigraph": false, "graph": {"demands": {"0": {"1": 5e9}}},
//!  "nodes": [{"id": 0, "name": "Oslo", "pos": [10.7, 59.9]}, {"id": 1}],
//!  "links": [{"source": 0, "target": 1, "capacity": 1e10, "dist": 306.5}]}
//! ```
//!
//! Links stand under `links` or `edges`. Elements are kept as slices of the file until they are understood, so
//! an error knows its place and a number is parsed from its own digits.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;
use traflux_core::network::{Network, NodeIx, TrafficMatrix};

use super::attributes::{Attribute, Attributes};
use super::draft::{DemandList, Draft, Warning};
use super::error::FormatError;
use super::kind::Format;
use super::options::{ReadOptions, WriteOptions};
use super::sndlib::listed;
use super::text::{Range, Source, decimal, shortened};
use super::unit::RateUnit;
use super::write::Written;
use super::{NetworkFile, Targets};

/// The top level; unknown keys are skipped.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(default)]
    directed: Option<bool>,
    #[serde(borrow, default)]
    graph: Option<&'a RawValue>,
    #[serde(borrow)]
    nodes: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    links: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    edges: Option<Vec<&'a RawValue>>,
}

/// An object whose values stay slices.
type Object<'a> = BTreeMap<String, &'a RawValue>;

/// Parses a slice of the file (or all of it); errors are placed in the file.
fn parse<'a, T: Deserialize<'a>>(source: &Source<'a>, text: &'a str) -> Result<T, FormatError> {
    serde_json::from_str(text).map_err(|error| {
        let line = error.line().saturating_sub(1);
        let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
        let at = source.at(text) + start + error.column().saturating_sub(1);
        let message = error.to_string();
        let problem = message.split(" at line ").next().unwrap_or(&message);
        let (expected, found) = match problem.strip_prefix("expected ") {
            Some(expected) => (format!("JSON with {expected}").into(), "something else".to_string()),
            None => ("node-link JSON".into(), shortened(problem, 100)),
        };
        FormatError::Syntax { place: source.place(at), expected, found }
    })
}

/// The text of a string, a number or a boolean; `None` for null, arrays and objects.
fn scalar<'a>(
    source: &Source<'a>,
    value: &'a RawValue,
) -> Result<Option<std::borrow::Cow<'a, str>>, FormatError> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'"') => Ok(Some(parse::<String>(source, text)?.into())),
        Some(b'[' | b'{' | b'n') | None => Ok(None),
        Some(_) => Ok(Some(text.into())),
    }
}

/// The scalar values of a node or a link.
fn attributes<'a>(source: &Source<'a>, object: &Object<'a>) -> Result<Attributes<'a>, FormatError> {
    let mut attributes = Attributes::default();
    for (name, value) in object {
        if let Some(text) = scalar(source, value)? {
            attributes.0.push(Attribute { name: name.clone().into(), text, at: source.at(value.get()) });
        }
    }
    Ok(attributes)
}

/// An identifier, integer or string; the two are not told apart, as keys of JSON objects cannot.
fn identifier(
    source: &Source<'_>,
    attributes: &Attributes<'_>,
    element: &RawValue,
    key: &'static str,
) -> Result<(String, usize), FormatError> {
    match attributes.find(key) {
        Some(found) => Ok((found.text.to_string(), found.at)),
        None => Err(source.syntax(
            source.at(element.get()),
            format!("`{key}` with an integer or a string"),
            element.get(),
        )),
    }
}

/// Nodes by identifier, in the order they get.
struct Nodes<'a> {
    document: Document<'a>,
    draft: Draft<'a>,
    by_id: HashMap<String, NodeIx>,
}

impl<'a> Nodes<'a> {
    fn read(source: Source<'a>, options: &'a ReadOptions) -> Result<Self, FormatError> {
        let start = source.text.trim_start();
        if !start.starts_with('{') {
            // Without this a list of the right kinds of values would do.
            return Err(source.syntax(source.at(start), "an object of node-link JSON", start));
        }
        let document: Document<'a> = parse(&source, source.text)?;
        let mut draft = Draft::new(source, options);
        let mut ids: Vec<String> = Vec::new();
        let mut by_id = HashMap::new();
        for element in &document.nodes {
            let object: Object<'a> = parse(&source, element.get())?;
            let attributes = attributes(&source, &object)?;
            let (id, at) = identifier(&source, &attributes, element, "id")?;
            let name = match attributes.node_name() {
                "" => id.clone(),
                name => name.to_string(),
            };
            let position = match object.get("pos") {
                Some(value) if value.get() != "null" => Some(position(&source, value)?),
                _ => attributes.position(&source)?,
            };
            let ix = draft.add_node(source.at(element.get()), name, position)?;
            if by_id.insert(id.clone(), ix).is_some() {
                return Err(source.duplicate(at, "a node id", &id));
            }
            ids.push(id);
        }
        if let Some(places) = numbering(&ids) {
            draft.reorder(&places);
            for (id, place) in ids.iter().zip(&places) {
                by_id.insert(id.clone(), NodeIx::from(*place));
            }
        }
        draft.make_names_unique();
        Ok(Self { document, draft, by_id })
    }

    fn find(&self, id: &str, at: usize) -> Result<NodeIx, FormatError> {
        self.by_id.get(id).copied().ok_or_else(|| self.draft.source.unknown_node(at, id))
    }

    /// What `graph` says: the name and the demands of TopoHub.
    fn graph(&self, options: &ReadOptions) -> Result<(Option<String>, Option<TrafficMatrix>), FormatError> {
        let source = &self.draft.source;
        // Old files keep an empty list here.
        let Some(graph) = self.document.graph.filter(|graph| graph.get().starts_with('{')) else {
            return Ok((None, None));
        };
        let graph: Object<'a> = parse(source, graph.get())?;
        let name = match graph.get("name") {
            Some(name) => scalar(source, name)?.map(String::from),
            None => None,
        };
        let Some(demands) = graph.get("demands") else {
            return Ok((name, None));
        };
        let rows: Object<'a> = parse(source, demands.get())?;
        if rows.is_empty() {
            return Ok((name, None));
        }
        let unit = options.demand_unit(RateUnit::BIT);
        let mut list = DemandList::new(source, source.at(demands.get()), self.draft.node_count())?;
        for (from, row) in &rows {
            let tail = self.find(from, source.at(row.get()))?;
            let row: Object<'a> = parse(source, row.get())?;
            for (to, demand) in &row {
                let at = source.at(demand.get());
                let head = self.find(to, at)?;
                list.add([tail, head], source.rate(at, demand.get(), unit, "a demand", Range::NotNegative)?);
            }
        }
        Ok((name, Some(list.finish())))
    }
}

/// Where each node goes when identifiers are the numbers from 0 in any order: matrices count nodes by them.
fn numbering(ids: &[String]) -> Option<Vec<usize>> {
    let mut seen = vec![false; ids.len()];
    let place = |id: &String| {
        let place: usize = id.parse().ok().filter(|place: &usize| place.to_string() == *id)?;
        let fresh = !std::mem::replace(seen.get_mut(place)?, true);
        fresh.then_some(place)
    };
    ids.iter().map(place).collect()
}

fn position(source: &Source<'_>, value: &RawValue) -> Result<[f64; 2], FormatError> {
    let at = source.at(value.get());
    let words: Vec<&str> = value.get().trim_matches(['[', ']']).split(',').map(str::trim).collect();
    let [x, y] = words[..] else {
        return Err(source.value(at, "a position", "a pair of numbers", value.get()));
    };
    Ok([
        source.number(at, x, "a position", Range::Finite)?,
        source.number(at, y, "a position", Range::Finite)?,
    ])
}

/// Reads a network with its demands.
pub(super) fn read(source: Source<'_>, options: &ReadOptions) -> Result<NetworkFile, FormatError> {
    let mut nodes = Nodes::read(source, options)?;
    let (links, edges) = (nodes.document.links.take(), nodes.document.edges.take());
    let Some(links) = links.or(edges) else {
        return Err(source.syntax(source.end(), "`links` or `edges`", ""));
    };
    let directed = options.directed.or(nodes.document.directed).unwrap_or(false);
    for element in links {
        let object: Object<'_> = parse(&source, element.get())?;
        let attributes = attributes(&source, &object)?;
        let (tail, tail_at) = identifier(&source, &attributes, element, "source")?;
        let (head, head_at) = identifier(&source, &attributes, element, "target")?;
        let ends = [nodes.find(&tail, tail_at)?, nodes.find(&head, head_at)?];
        let values = attributes.link(&source, options)?;
        nodes.draft.add_link(source.at(element.get()), ends, values, directed)?;
    }
    let (name, demands) = nodes.graph(options)?;
    let (network, warnings) = nodes.draft.finish()?;
    Ok(NetworkFile { format: Format::NodeLink, network, demands, name, warnings: warnings.finish() })
}

/// Reads the demands alone, for nodes of a known network, which are found by name.
pub(super) fn read_demands(
    source: Source<'_>,
    options: &ReadOptions,
    targets: &Targets<'_>,
) -> Result<TrafficMatrix, FormatError> {
    let nodes = Nodes::read(source, options)?;
    let (_, demands) = nodes.graph(options)?;
    let Some(demands) = demands else {
        return Err(source.syntax(source.end(), "`demands` in `graph`", ""));
    };
    let (network, _) = nodes.draft.finish()?;
    let mut list = DemandList::new(&source, 0, targets.nodes())?;
    for (from, to, demand) in listed(&demands) {
        let find = |node: usize| {
            let name = &network.nodes()[node].name;
            targets.find(name).ok_or_else(|| source.unknown_node(0, name))
        };
        list.add([find(from)?, find(to)?], traflux_core::units::BitRate::saturating(demand));
    }
    Ok(list.finish())
}

/// Text as a JSON string.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Writes a network with its demands; every link leads one way.
pub(super) fn write(network: &Network, demands: Option<&TrafficMatrix>, options: &WriteOptions) -> Written {
    let mut text = String::from("{\"directed\": true, \"multigraph\": true,\n\"graph\": {");
    let mut separator = "";
    if let Some(name) = &options.name {
        text.push_str(&format!("\"name\": {}", quote(name)));
        separator = ", ";
    }
    if let Some(demands) = demands {
        text.push_str(&format!("{separator}\"demands\": {{"));
        write_demands(&mut text, demands, options.demand_unit(RateUnit::BIT));
        text.push('}');
    }
    text.push_str("},\n\"nodes\": [");
    for (at, node) in network.nodes().iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        text.push_str(&format!("{comma}\n{{\"id\": {at}, \"name\": {}", quote(&node.name)));
        if let Some([x, y]) = node.position {
            text.push_str(&format!(", \"pos\": [{}, {}]", decimal(x, 0), decimal(y, 0)));
        }
        text.push('}');
    }
    text.push_str("\n],\n\"links\": [");
    let unit = options.capacity_unit(RateUnit::BIT);
    for (at, link) in network.links().iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        text.push_str(&format!(
            "{comma}\n{{\"source\": {}, \"target\": {}, \"key\": {at}, \"capacity\": {}, \"weight\": {}, \"delay_s\": {}}}",
            link.tail.ix(),
            link.head.ix(),
            unit.print(link.capacity.get()),
            decimal(link.weight, 0),
            decimal(link.delay.as_secs(), 0)
        ));
    }
    text.push_str("\n]}\n");
    let demand_unit = demands.map(|_| options.demand_unit(RateUnit::BIT));
    let mut warnings = Vec::new();
    for (what, unit) in [("capacities", Some(unit)), ("demands", demand_unit)] {
        if let Some(unit) = unit.filter(|unit| *unit != RateUnit::BIT) {
            let message =
                format!("node-link has no place for units: {what} are in {unit}, say so when it is read");
            warnings.push(Warning { line: None, message });
        }
    }
    Written { text, warnings }
}

/// Writes `"source": {"target": demand, …}, …`.
fn write_demands(text: &mut String, demands: &TrafficMatrix, unit: RateUnit) {
    let mut row = None;
    for (source, target, demand) in listed(demands) {
        match row {
            Some(open) if open == source => text.push_str(", "),
            Some(_) => text.push_str("},\n"),
            None => text.push('\n'),
        }
        if row != Some(source) {
            text.push_str(&format!("\"{source}\": {{"));
            row = Some(source);
        }
        text.push_str(&format!("\"{target}\": {}", unit.print(demand)));
    }
    if row.is_some() {
        text.push('}');
    }
}
