//! What does SNDlib's XML format say?
//!
//! The root `network` holds `meta` with a `unit`, `networkStructure` with `nodes` and `links`, and `demands`. The
//! files of dynamic demands leave out the structure, or all of it but the nodes.

use std::collections::HashMap;

use traflux_core::network::{Network, NodeIx, TrafficMatrix};
use traflux_core::units::BitRate;

use super::draft::{DemandList, Draft, LinkValues};
use super::error::FormatError;
use super::kind::Format;
use super::options::{ReadOptions, WriteOptions};
use super::sndlib::{Capacities, DIRECTED, listed, unit_name, warn_of_modules};
use super::text::{Range, Source, decimal};
use super::unit::RateUnit;
use super::write::{Written, identifiers, joined_both_ways};
use super::xml::{self, Element, Visit, escape};
use super::{NetworkFile, Targets};

const CONTAINERS: [&str; 6] = ["network", "meta", "networkStructure", "nodes", "links", "demands"];

/// What a file holds, names unresolved.
#[derive(Default)]
struct Parts {
    unit: Option<RateUnit>,
    nodes: Vec<Element>,
    links: Vec<Element>,
    demands: Vec<Demand>,
    has_nodes: bool,
    directed: bool,
}

struct Demand {
    source: String,
    target: String,
    source_at: usize,
    target_at: usize,
    value: String,
    at: usize,
    routing_unit: f64,
}

impl Parts {
    fn read(source: &Source<'_>) -> Result<Self, FormatError> {
        let mut parts = Self::default();
        let mut root = true;
        xml::walk(source, &CONTAINERS, &mut |visit| {
            match visit {
                Visit::Open(element) => {
                    if root && element.name != "network" {
                        return Err(source.syntax(element.at, "<network>", &element.name));
                    }
                    parts.has_nodes |= element.name == "nodes";
                }
                Visit::Item(element) if root => {
                    return Err(source.syntax(element.at, "<network>", &element.name));
                }
                Visit::Item(element) => match element.name.as_str() {
                    "unit" => parts.unit = Some(source.unit(element.text_at, element.text.trim())?),
                    "node" => {
                        if parts.nodes.len() >= Network::MAX_NODES {
                            let found = parts.nodes.len() + 1;
                            return Err(source.too_large(element.at, "nodes", found, Network::MAX_NODES));
                        }
                        parts.nodes.push(element);
                    }
                    "link" => parts.links.push(element),
                    "demand" => parts.demands.push(Demand::read(source, &element)?),
                    _ => {}
                },
                Visit::Comment(text) => {
                    parts.directed |= text == DIRECTED;
                    return Ok(());
                }
            }
            root = false;
            Ok(())
        })?;
        Ok(parts)
    }

    fn demands(
        &self,
        source: &Source<'_>,
        options: &ReadOptions,
        nodes: usize,
        node: impl Fn(&str) -> Option<NodeIx>,
    ) -> Result<Option<TrafficMatrix>, FormatError> {
        let Some(first) = self.demands.first() else {
            return Ok(None);
        };
        let unit = options.demand_unit(self.unit.unwrap_or(RateUnit::MEGABIT));
        let mut list = DemandList::new(source, first.at, nodes)?;
        for demand in &self.demands {
            let find = |name: &str, at| node(name).ok_or_else(|| source.unknown_node(at, name));
            let ends = [find(&demand.source, demand.source_at)?, find(&demand.target, demand.target_at)?];
            let value = source.rate(demand.at, &demand.value, unit, "a demand", Range::NotNegative)?;
            list.add(ends, if demand.routing_unit == 1.0 { value } else { value * demand.routing_unit });
        }
        Ok(Some(list.finish()))
    }
}

impl Demand {
    fn read(source: &Source<'_>, element: &Element) -> Result<Self, FormatError> {
        let (from, source_at) = element.required_text(source, "source")?;
        let (to, target_at) = element.required_text(source, "target")?;
        let (value, at) = element.required_text(source, "demandValue")?;
        let routing_unit = match element.child_text("routingUnit") {
            Some((text, at)) => source.number(at, text, "a routing unit", Range::NotNegative)?,
            None => 1.0,
        };
        let (from, to) = (from.to_string(), to.to_string());
        Ok(Self {
            source: from,
            target: to,
            source_at,
            target_at,
            value: value.to_string(),
            at,
            routing_unit,
        })
    }
}

/// Reads a network with its demands.
pub(super) fn read(source: Source<'_>, options: &ReadOptions) -> Result<NetworkFile, FormatError> {
    let parts = Parts::read(&source)?;
    if !parts.has_nodes {
        return Err(source.syntax(source.end(), "<nodes> (a file of demands alone is read as matrices)", ""));
    }
    let mut draft = Draft::new(source, options);
    let mut nodes: HashMap<String, NodeIx> = HashMap::new();
    for element in &parts.nodes {
        let name = element.required(&source, "id")?.trim().to_string();
        let ix = draft.add_node(element.at, name.clone(), position(&source, element)?)?;
        if nodes.insert(name.clone(), ix).is_some() {
            return Err(source.duplicate(element.at, "a node name", &name));
        }
    }
    let directed = options.directed.unwrap_or(parts.directed);
    let unit = options.capacity_unit(parts.unit.unwrap_or(RateUnit::MEGABIT));
    let mut of_modules = 0usize;
    for element in &parts.links {
        let find = |key| {
            let (name, at) = element.required_text(&source, key)?;
            nodes.get(name).copied().ok_or_else(|| source.unknown_node(at, name))
        };
        let ends = [find("source")?, find("target")?];
        let capacities = capacities(&source, element, unit)?;
        of_modules += usize::from(capacities.pre_installed.is_none() && capacities.largest_module.is_some());
        let weight = match element.child_text("routingCost") {
            Some((text, at)) => Some(source.number(at, text, "a routing cost", Range::Finite)?),
            None => None,
        };
        let values = LinkValues {
            capacity: capacities.capacity(),
            weight: weight.filter(|weight| *weight > 0.0),
            delay: None,
        };
        draft.add_link(element.at, ends, values, directed)?;
    }
    warn_of_modules(&mut draft, of_modules);
    let count = draft.node_count();
    let (network, warnings) = draft.finish()?;
    let demands = parts.demands(&source, options, count, |name| nodes.get(name).copied())?;
    Ok(NetworkFile { format: Format::SndlibXml, network, demands, name: None, warnings: warnings.finish() })
}

fn position(source: &Source<'_>, node: &Element) -> Result<Option<[f64; 2]>, FormatError> {
    let Some(coordinates) = node.child("coordinates") else {
        return Ok(None);
    };
    let number = |name: &'static str, what| {
        let (text, at) = coordinates.required_text(source, name)?;
        source.number(at, text, what, Range::Finite)
    };
    Ok(Some([number("x", "a longitude")?, number("y", "a latitude")?]))
}

fn capacities(source: &Source<'_>, link: &Element, unit: RateUnit) -> Result<Capacities, FormatError> {
    let rate = |element: &Element| {
        let (text, at) = element.required_text(source, "capacity")?;
        source.rate(at, text, unit, "a capacity", Range::NotNegative)
    };
    let mut capacities = Capacities::default();
    if let Some(module) = link.child("preInstalledModule") {
        capacities.pre_installed = Some(rate(module)?).filter(|capacity| *capacity > BitRate::ZERO);
    }
    let modules = link.child("additionalModules").map_or(&[][..], |modules| &modules.children);
    for module in modules.iter().filter(|module| module.name == "addModule") {
        let capacity = rate(module)?;
        if capacity > BitRate::ZERO {
            capacities.add_module(capacity);
        }
    }
    Ok(capacities)
}

/// Reads the demands alone, for nodes of a known network.
pub(super) fn read_demands(
    source: Source<'_>,
    options: &ReadOptions,
    targets: &Targets<'_>,
) -> Result<TrafficMatrix, FormatError> {
    let parts = Parts::read(&source)?;
    let demands = parts.demands(&source, options, targets.nodes(), |name| targets.find(name))?;
    demands.ok_or_else(|| source.syntax(source.end(), "<demands> with a <demand>", ""))
}

/// Writes a network with its demands.
pub(super) fn write(network: &Network, demands: Option<&TrafficMatrix>, options: &WriteOptions) -> Written {
    let mut written = Written::default();
    let unit = options.capacity_unit(RateUnit::MEGABIT);
    let names = identifiers(network, &mut written, |_| false);
    let names: Vec<String> = names.iter().map(|name| escape(name)).collect();
    let both_ways = joined_both_ways(network, &mut written);
    written.lose_delays(network);
    let text = &mut written.text;
    text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    if !both_ways {
        text.push_str(&format!("<!-- {DIRECTED} -->\n"));
    }
    text.push_str("<network xmlns=\"http://sndlib.zib.de/network\" version=\"1.0\">\n");
    text.push_str(&format!(" <meta>\n  <unit>{}</unit>\n </meta>\n", unit_name(unit)));
    text.push_str(" <networkStructure>\n  <nodes coordinatesType=\"geographical\">\n");
    for (node, name) in network.nodes().iter().zip(&names) {
        match node.position {
            Some([x, y]) => text.push_str(&format!(
                "   <node id=\"{name}\"><coordinates><x>{}</x><y>{}</y></coordinates></node>\n",
                decimal(x, 0),
                decimal(y, 0)
            )),
            None => text.push_str(&format!("   <node id=\"{name}\"/>\n")),
        }
    }
    text.push_str("  </nodes>\n  <links>\n");
    for (at, link) in network.links().iter().step_by(if both_ways { 2 } else { 1 }).enumerate() {
        text.push_str(&format!(
            "   <link id=\"link_{at}\"><source>{}</source><target>{}</target><preInstalledModule><capacity>{}</capacity>\
             <cost>0</cost></preInstalledModule><routingCost>{}</routingCost></link>\n",
            names[link.tail.ix()],
            names[link.head.ix()],
            unit.print(link.capacity.get()),
            decimal(link.weight, 0)
        ));
    }
    text.push_str("  </links>\n </networkStructure>\n <demands>\n");
    for (source, target, demand) in demands.into_iter().flat_map(listed) {
        let (from, to) = (&names[source], &names[target]);
        text.push_str(&format!(
            "  <demand id=\"{from}_{to}\"><source>{from}</source><target>{to}</target>\
             <demandValue>{}</demandValue></demand>\n",
            unit.print(demand)
        ));
    }
    text.push_str(" </demands>\n</network>\n");
    written
}
