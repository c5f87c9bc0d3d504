//! What does a GML file of the Topology Zoo say?
//!
//! ```text
//! graph [
//!   node [ id 0 label "Oslo" Longitude 10.7 Latitude 59.9 ]
//!   node [ id 1 label "Bergen" ]
//!   edge [ source 0 target 1 LinkSpeedRaw 10000000000.0 ]
//! ]
//! ```

use std::borrow::Cow;
use std::collections::HashMap;

use traflux_core::network::{Network, NodeIx};

use super::NetworkFile;
use super::attributes::{Attribute, Attributes};
use super::draft::Draft;
use super::error::FormatError;
use super::kind::Format;
use super::options::{ReadOptions, WriteOptions};
use super::text::{Source, decimal, quoted};
use super::write::Written;

/// The deepest nesting of lists.
const MAX_DEPTH: usize = 32;

/// The longest character reference, `&#x10ffff;` with a few zeros.
const LONGEST_REFERENCE: usize = 16;

/// A number or a string with its key, or the start or the end of a list.
enum Item<'a> {
    Value(Attribute<'a>),
    Open { key: &'a str, at: usize },
    Close { at: usize },
}

/// Reads key by key.
struct Items<'a> {
    source: Source<'a>,
    at: usize,
}

impl<'a> Items<'a> {
    /// A word, a quoted string with its quotes, or a bracket.
    fn token(&mut self) -> Result<Option<&'a str>, FormatError> {
        loop {
            let rest = &self.source.text[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            let Some(first) = trimmed.chars().next() else {
                return Ok(None);
            };
            let length = match first {
                '#' => {
                    self.at += trimmed.find('\n').unwrap_or(trimmed.len());
                    continue;
                }
                '[' | ']' => 1,
                '"' => match trimmed[1..].find('"') {
                    Some(end) => end + 2,
                    None => return Err(self.source.syntax(self.at, "a string that ends with `\"`", trimmed)),
                },
                _ => trimmed.find(|c: char| c.is_whitespace() || "[]\"".contains(c)).unwrap_or(trimmed.len()),
            };
            self.at += length;
            return Ok(Some(&trimmed[..length]));
        }
    }

    fn next(&mut self) -> Result<Option<Item<'a>>, FormatError> {
        let Some(key) = self.token()? else {
            return Ok(None);
        };
        let at = self.source.at(key);
        if key == "]" {
            return Ok(Some(Item::Close { at }));
        }
        if !key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Err(self.source.syntax(at, "a key or `]`", key));
        }
        let Some(value) = self.token()? else {
            return Err(self.source.syntax(self.source.end(), value_of(key), ""));
        };
        let value_at = self.source.at(value);
        match value.as_bytes()[0] {
            b'[' => Ok(Some(Item::Open { key, at })),
            b']' => Err(self.source.syntax(value_at, value_of(key), value)),
            b'"' => {
                let text = unescape(&value[1..value.len() - 1]);
                Ok(Some(Item::Value(Attribute { name: key.into(), text, at: value_at + 1 })))
            }
            _ => Ok(Some(Item::Value(Attribute { name: key.into(), text: value.into(), at: value_at }))),
        }
    }

    /// The values of a list that has been opened; lists in it are skipped.
    fn list(&mut self) -> Result<Attributes<'a>, FormatError> {
        let mut attributes = Attributes::default();
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Some(Item::Value(attribute)) if depth == 1 => attributes.0.push(attribute),
                Some(Item::Value(_)) => {}
                Some(Item::Open { at, .. }) if depth == MAX_DEPTH => {
                    return Err(self.source.too_large(at, "levels of lists", depth + 1, MAX_DEPTH));
                }
                Some(Item::Open { .. }) => depth += 1,
                Some(Item::Close { .. }) => depth -= 1,
                None => return Err(self.source.syntax(self.source.end(), "`]`", "")),
            }
        }
        Ok(attributes)
    }
}

/// What an error expects after a key.
fn value_of(key: &str) -> String {
    format!("the value of {}", quoted(key))
}

/// A list with the offset of its key.
type Listed<'a> = (usize, Attributes<'a>);

/// The graph as written.
#[derive(Default)]
struct Graph<'a> {
    values: Attributes<'a>,
    nodes: Vec<Listed<'a>>,
    edges: Vec<Listed<'a>>,
}

impl<'a> Graph<'a> {
    fn read(source: Source<'a>) -> Result<Self, FormatError> {
        let mut items = Items { source, at: 0 };
        let mut graph: Option<Self> = None;
        while let Some(item) = items.next()? {
            match item {
                Item::Open { key: "graph", .. } if graph.is_none() => graph = Some(Self::list(&mut items)?),
                Item::Open { key: "graph", at } => return Err(source.syntax(at, "one graph", "another")),
                Item::Open { .. } => {
                    items.list()?;
                }
                Item::Close { at } => return Err(source.syntax(at, "a key", "]")),
                Item::Value(_) => {}
            }
        }
        graph.ok_or_else(|| source.syntax(source.end(), "`graph [`", ""))
    }

    fn list(items: &mut Items<'a>) -> Result<Self, FormatError> {
        let mut graph = Self::default();
        loop {
            match items.next()? {
                Some(Item::Open { key: "node", at }) => {
                    if graph.nodes.len() >= Network::MAX_NODES {
                        let (found, limit) = (graph.nodes.len() + 1, Network::MAX_NODES);
                        return Err(items.source.too_large(at, "nodes", found, limit));
                    }
                    graph.nodes.push((at, items.list()?));
                }
                Some(Item::Open { key: "edge", at }) => graph.edges.push((at, items.list()?)),
                Some(Item::Open { .. }) => {
                    items.list()?;
                }
                Some(Item::Value(attribute)) => graph.values.0.push(attribute),
                Some(Item::Close { .. }) => return Ok(graph),
                None => return Err(items.source.syntax(items.source.end(), "`]`", "")),
            }
        }
    }
}

/// Reads a network.
pub(super) fn read(source: Source<'_>, options: &ReadOptions) -> Result<NetworkFile, FormatError> {
    let graph = Graph::read(source)?;
    let mut draft = Draft::new(source, options);
    let mut nodes: HashMap<&str, NodeIx> = HashMap::with_capacity(graph.nodes.len());
    for (at, attributes) in &graph.nodes {
        let Some(id) = attributes.find("id") else {
            return Err(source.syntax(*at, "an `id` of this node", ""));
        };
        let name = match attributes.node_name() {
            "" => id.text.as_ref(),
            name => name,
        };
        let ix = draft.add_node(*at, name.to_string(), attributes.position(&source)?)?;
        if nodes.insert(id.text.as_ref(), ix).is_some() {
            return Err(source.duplicate(id.at, "a node id", &id.text));
        }
    }
    draft.make_names_unique();
    let directed = graph.values.find("directed").is_some_and(|value| value.text == "1");
    for (at, attributes) in &graph.edges {
        let find = |key: &'static str| {
            let Some(id) = attributes.find(key) else {
                return Err(source.syntax(*at, format!("a `{key}` of this edge"), ""));
            };
            nodes.get(id.text.as_ref()).copied().ok_or_else(|| source.unknown_node(id.at, &id.text))
        };
        let ends = [find("source")?, find("target")?];
        let values = attributes.link(&source, options)?;
        draft.add_link(*at, ends, values, options.directed.unwrap_or(directed))?;
    }
    let name = graph.values.find("label").or(graph.values.find("Network")).map(|name| name.text.to_string());
    let (network, warnings) = draft.finish()?;
    Ok(NetworkFile { format: Format::Gml, network, demands: None, name, warnings: warnings.finish() })
}

/// Resolves `&amp;`, `&quot;`, `&lt;`, `&gt;`, `&apos;` and character references; anything else stays as it is.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        resolved.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(LONGEST_REFERENCE).position(|byte| byte == b';');
        let reference = end.and_then(|end| {
            let (reference, after) = (&rest[..end], &rest[end + 1..]);
            let character = match &reference[1..] {
                "amp" => '&',
                "quot" => '"',
                "lt" => '<',
                "gt" => '>',
                "apos" => '\'',
                other => character(other)?,
            };
            Some((character, after))
        });
        let (character, after) = reference.unwrap_or(('&', &rest[1..]));
        resolved.push(character);
        rest = after;
    }
    resolved.push_str(rest);
    Cow::Owned(resolved)
}

/// The character of a reference such as `#252` or `#xfc`.
fn character(reference: &str) -> Option<char> {
    let number = reference.strip_prefix('#')?;
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
        None => number.parse(),
    };
    char::from_u32(code.ok()?)
}

/// Text in quotes: GML is ASCII, everything else is a character reference.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '&' => quoted.push_str("&amp;"),
            '"' => quoted.push_str("&quot;"),
            ' '..='~' => quoted.push(character),
            _ => quoted.push_str(&format!("&#{};", u32::from(character))),
        }
    }
    quoted.push('"');
    quoted
}

/// A real number of GML, which has a point.
fn real(value: f64) -> String {
    let text = decimal(value, 0);
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// Writes a network; every link leads one way.
pub(super) fn write(network: &Network, demands: bool, options: &WriteOptions) -> Written {
    let mut written = Written::default();
    written.lose_demands(demands);
    let text = &mut written.text;
    text.push_str("graph [\n  directed 1\n  multigraph 1\n");
    if let Some(name) = &options.name {
        text.push_str(&format!("  label {}\n", quote(name)));
    }
    for (at, node) in network.nodes().iter().enumerate() {
        text.push_str(&format!("  node [\n    id {at}\n    label {}\n", quote(&node.name)));
        if let Some([x, y]) = node.position {
            text.push_str(&format!("    Longitude {}\n    Latitude {}\n", real(x), real(y)));
        }
        text.push_str("  ]\n");
    }
    for (at, link) in network.links().iter().enumerate() {
        text.push_str(&format!(
            "  edge [\n    source {}\n    target {}\n    key {at}\n    LinkSpeedRaw {}\n    weight {}\n    delay_s {}\n  ]\n",
            link.tail.ix(),
            link.head.ix(),
            real(link.capacity.get()),
            real(link.weight),
            real(link.delay.as_secs())
        ));
    }
    text.push_str("]\n");
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_gml_resolve_references_and_keep_what_is_none() {
        assert_eq!(unescape("M&#252;nchen &amp; &#xe9;"), "München & é");
        assert_eq!(unescape("AT&T &#99999999; &; &"), "AT&T &#99999999; &; &");
        let name = "a \"b\" & \u{1F600}\n";
        assert_eq!(unescape(quote(name).trim_matches('"')), name);
    }

    #[test]
    fn long_keys_without_a_value_are_shown_short() {
        let key = format!("k{}", "\u{ff}".repeat(600));
        for text in [format!("graph [ {key} ]"), format!("graph [ {key}")] {
            let mut items = Items { source: Source { text: &text }, at: 0 };
            items.next().unwrap();
            let error = items.list().err().unwrap().to_string();
            assert!(error.contains("expected the value of `k") && error.len() < 200, "{error}");
        }
    }
}
