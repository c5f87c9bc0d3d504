//! What does a GraphML file of the Topology Zoo say?
//!
//! `key` elements declare the names of attributes, `data` elements of `node` and `edge` refer to them.

use std::collections::HashMap;

use traflux_core::network::{Network, NodeIx};

use super::NetworkFile;
use super::attributes::{Attribute, Attributes};
use super::draft::Draft;
use super::error::FormatError;
use super::kind::Format;
use super::options::{ReadOptions, WriteOptions};
use super::text::{Source, decimal};
use super::write::Written;
use super::xml::{self, Element, Visit, escape};

/// The most keys with a default, each of which is looked at for every node and edge.
const MAX_DEFAULTS: usize = 256;

/// An attribute that a `key` declares.
struct Key {
    name: String,
    of_nodes: bool,
    of_edges: bool,
    default: Option<(String, usize)>,
}

/// The graph as written.
#[derive(Default)]
struct Graph {
    keys: HashMap<String, Key>,
    /// Keys with a default, in the order of the file.
    defaults: Vec<String>,
    graphs: usize,
    directed: bool,
    nodes: Vec<Element>,
    edges: Vec<Element>,
    name: Option<String>,
    hyperedges: usize,
}

impl Graph {
    fn read(source: &Source<'_>) -> Result<Self, FormatError> {
        let mut graph = Self::default();
        let mut root = true;
        xml::walk(source, &["graphml", "graph"], &mut |visit| {
            let (element, open) = match visit {
                Visit::Open(element) => (element, true),
                Visit::Item(element) => (element, false),
                Visit::Comment(_) => return Ok(()),
            };
            if root && !(open && element.name == "graphml") {
                return Err(source.syntax(element.at, "<graphml>", &element.name));
            }
            root = false;
            graph.add(source, element)
        })?;
        if graph.graphs == 0 {
            return Err(source.syntax(source.end(), "<graph>", ""));
        }
        Ok(graph)
    }

    fn add(&mut self, source: &Source<'_>, element: Element) -> Result<(), FormatError> {
        match element.name.as_str() {
            "graph" => {
                self.graphs += 1;
                if self.graphs > 1 {
                    return Err(source.syntax(element.at, "one <graph>", "another"));
                }
                self.directed = match element.attribute("edgedefault") {
                    Some("directed") => true,
                    Some("undirected") | None => false,
                    Some(other) => {
                        return Err(source.syntax(
                            element.at,
                            "edgedefault `directed` or `undirected`",
                            other,
                        ));
                    }
                };
                self.name = element.attribute("id").filter(|id| !id.is_empty()).map(String::from);
            }
            "key" => {
                let id = element.required(source, "id")?.to_string();
                let name = element.attribute("attr.name").unwrap_or(&id).to_string();
                let of = element.attribute("for").unwrap_or("all");
                let default = element.child("default").map(|child| (child.text.clone(), child.text_at));
                if default.is_some() {
                    if self.defaults.len() == MAX_DEFAULTS {
                        let found = MAX_DEFAULTS + 1;
                        return Err(source.too_large(element.at, "keys with a default", found, MAX_DEFAULTS));
                    }
                    self.defaults.push(id.clone());
                }
                let (of_nodes, of_edges) = (of == "node" || of == "all", of == "edge" || of == "all");
                if self.keys.insert(id.clone(), Key { name, of_nodes, of_edges, default }).is_some() {
                    return Err(source.duplicate(element.at, "a key", &id));
                }
            }
            "node" => {
                if self.nodes.len() >= Network::MAX_NODES {
                    let found = self.nodes.len() + 1;
                    return Err(source.too_large(element.at, "nodes", found, Network::MAX_NODES));
                }
                if element.child("graph").is_some() {
                    return Err(source.syntax(element.at, "a node without a graph of its own", "<graph>"));
                }
                self.nodes.push(element);
            }
            "edge" => self.edges.push(element),
            "hyperedge" => self.hyperedges += 1,
            _ => {}
        }
        Ok(())
    }

    fn attributes<'a>(&'a self, source: &Source<'_>, of: &'a Element) -> Result<Attributes<'a>, FormatError> {
        let mut attributes = Attributes::default();
        for data in of.children.iter().filter(|child| child.name == "data") {
            let id = data.required(source, "key")?;
            let Some(key) = self.keys.get(id) else {
                return Err(source.syntax(data.at, "one of the declared keys", id));
            };
            let attribute = Attribute {
                name: key.name.as_str().into(),
                text: data.text.as_str().into(),
                at: data.text_at,
            };
            attributes.0.push(attribute);
        }
        for id in &self.defaults {
            let key = &self.keys[id];
            let here = if of.name == "node" { key.of_nodes } else { key.of_edges };
            if let Some((text, at)) = key.default.as_ref().filter(|_| here) {
                let attribute =
                    Attribute { name: key.name.as_str().into(), text: text.as_str().into(), at: *at };
                attributes.0.push(attribute);
            }
        }
        Ok(attributes)
    }
}

/// Reads a network.
pub(super) fn read(source: Source<'_>, options: &ReadOptions) -> Result<NetworkFile, FormatError> {
    let graph = Graph::read(&source)?;
    let mut draft = Draft::new(source, options);
    let mut nodes: HashMap<&str, NodeIx> = HashMap::with_capacity(graph.nodes.len());
    for element in &graph.nodes {
        let id = element.required(&source, "id")?;
        let attributes = graph.attributes(&source, element)?;
        let name = match attributes.node_name() {
            "" => id,
            name => name,
        };
        let ix = draft.add_node(element.at, name.to_string(), attributes.position(&source)?)?;
        if nodes.insert(id, ix).is_some() {
            return Err(source.duplicate(element.at, "a node id", id));
        }
    }
    draft.make_names_unique();
    if graph.hyperedges > 0 {
        draft.warnings.push(None, format!("{} hyperedges were left out", graph.hyperedges));
    }
    for element in &graph.edges {
        let find = |key| {
            let id = element.required(&source, key)?;
            nodes.get(id).copied().ok_or_else(|| source.unknown_node(element.at, id))
        };
        let ends = [find("source")?, find("target")?];
        let values = graph.attributes(&source, element)?.link(&source, options)?;
        let directed = match element.attribute("directed") {
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            _ => graph.directed,
        };
        draft.add_link(element.at, ends, values, options.directed.unwrap_or(directed))?;
    }
    let (network, warnings) = draft.finish()?;
    Ok(NetworkFile {
        format: Format::GraphMl,
        network,
        demands: None,
        name: graph.name,
        warnings: warnings.finish(),
    })
}

/// Writes a network; every link leads one way.
pub(super) fn write(network: &Network, demands: bool, options: &WriteOptions) -> Written {
    let mut written = Written::default();
    written.lose_demands(demands);
    let text = &mut written.text;
    text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<graphml xmlns=\"http://graphml.graphdrawing.org/xmlns\">\n");
    for (id, of, name, kind) in [
        ("d0", "node", "label", "string"),
        ("d1", "node", "Longitude", "double"),
        ("d2", "node", "Latitude", "double"),
        ("d3", "edge", "LinkSpeedRaw", "double"),
        ("d4", "edge", "weight", "double"),
        ("d5", "edge", "delay_s", "double"),
    ] {
        text.push_str(&format!(
            " <key id=\"{id}\" for=\"{of}\" attr.name=\"{name}\" attr.type=\"{kind}\"/>\n"
        ));
    }
    let id = options.name.as_ref().map_or(String::new(), |name| format!(" id=\"{}\"", escape(name)));
    text.push_str(&format!(" <graph{id} edgedefault=\"directed\">\n"));
    for (at, node) in network.nodes().iter().enumerate() {
        text.push_str(&format!("  <node id=\"{at}\"><data key=\"d0\">{}</data>", escape(&node.name)));
        if let Some([x, y]) = node.position {
            let (x, y) = (decimal(x, 0), decimal(y, 0));
            text.push_str(&format!("<data key=\"d1\">{x}</data><data key=\"d2\">{y}</data>"));
        }
        text.push_str("</node>\n");
    }
    for (at, link) in network.links().iter().enumerate() {
        text.push_str(&format!(
            "  <edge id=\"e{at}\" source=\"{}\" target=\"{}\"><data key=\"d3\">{}</data><data key=\"d4\">{}</data>\
             <data key=\"d5\">{}</data></edge>\n",
            link.tail.ix(),
            link.head.ix(),
            decimal(link.capacity.get(), 0),
            decimal(link.weight, 0),
            decimal(link.delay.as_secs(), 0)
        ));
    }
    text.push_str(" </graph>\n</graphml>\n");
    written
}
