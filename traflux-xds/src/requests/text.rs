//! How is a message of Envoy written as YAML?
//!
//! The generated types cannot write themselves, so a message is encoded, and its bytes are read with [`SCHEMA`]: a
//! table of names, numbers and types of the fields that this crate sets. A field that is not in the table is an
//! error, never left out.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::OnceLock;

use crate::bootstrap::quoted;
use crate::error::XdsError;

/// One line per message: its name, then number, name and type of each field. Types: `s` text, `b` truth, `u` number,
/// `d` broken number, `e:` enumeration, `m:` message; before it `*` for many, `%` for a map.
const SCHEMA: &str = include_str!("schema.txt");

#[derive(Debug)]
struct Field {
    number: u32,
    name: &'static str,
    many: bool,
    map: bool,
    kind: &'static str,
}

type Schema = HashMap<&'static str, Vec<Field>>;

fn schema() -> &'static Schema {
    static PARSED: OnceLock<Schema> = OnceLock::new();
    PARSED.get_or_init(|| {
        let lines = SCHEMA.lines().filter_map(|line| line.split_once(" | "));
        lines.map(|(name, fields)| (name, fields.split(" | ").filter_map(Field::parse).collect())).collect()
    })
}

impl Field {
    fn parse(text: &'static str) -> Option<Self> {
        let mut words = text.split(' ');
        let (number, name, kind) = (words.next()?.parse().ok()?, words.next()?, words.next().unwrap_or(""));
        let bare = kind.trim_start_matches(['*', '%']);
        Some(Self { number, name, many: kind.starts_with('*'), map: kind.starts_with('%'), kind: bare })
    }
}

/// A message in a form that is easy to write.
#[derive(Debug, PartialEq)]
enum Node {
    Scalar(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// Writes an encoded message as YAML.
///
/// # Errors
/// [`XdsError::Field`] for a field that the table does not know.
pub(crate) fn yaml(message: &str, bytes: &[u8]) -> Result<String, XdsError> {
    let mut out = String::new();
    let node = read(message, bytes)?;
    write(&mut out, &node, 0, false).expect("a String takes any text");
    Ok(out)
}

/// A value as it stands on the wire.
enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Raw<'a>)> {
    let key = varint(bytes)?;
    let number = u32::try_from(key >> 3).ok()?;
    let raw = match key & 7 {
        0 => Raw::Varint(varint(bytes)?),
        1 => {
            let (first, rest) = bytes.split_first_chunk::<8>()?;
            *bytes = rest;
            Raw::Fixed64(u64::from_le_bytes(*first))
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            let (first, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Raw::Bytes(first)
        }
        _ => return None,
    };
    Some((number, raw))
}

fn read(message: &str, mut bytes: &[u8]) -> Result<Node, XdsError> {
    let unknown = |field| XdsError::Field { message: message.to_owned(), field };
    if let Some(node) = well_known(message, bytes)? {
        return Ok(node);
    }
    let fields = schema().get(message).ok_or_else(|| unknown(0))?;
    let mut found: Vec<(&Field, Node)> = Vec::new();
    while !bytes.is_empty() {
        let (number, raw) = next(&mut bytes).ok_or_else(|| unknown(0))?;
        let field = fields.iter().find(|f| f.number == number).ok_or_else(|| unknown(number))?;
        let mut values = Vec::new();
        match raw {
            // Numbers of a list stand together.
            Raw::Bytes(mut packed) if field.kind == "u" => {
                while !packed.is_empty() {
                    values
                        .push(Node::Scalar(varint(&mut packed).ok_or_else(|| unknown(number))?.to_string()));
                }
            }
            raw if field.map => {
                let Raw::Bytes(mut entry) = raw else { return Err(unknown(number)) };
                let (mut key, mut value) = (String::new(), Node::Map(Vec::new()));
                while let Some((part, Raw::Bytes(raw))) = next(&mut entry) {
                    match part {
                        1 => key = String::from_utf8_lossy(raw).into_owned(),
                        _ => value = scalar(field, &Raw::Bytes(raw)).ok_or_else(|| unknown(number))??,
                    }
                }
                values.push(Node::Map(vec![(key, value)]));
            }
            raw => values.push(scalar(field, &raw).ok_or_else(|| unknown(number))??),
        }
        for value in values {
            match (found.iter_mut().find(|(f, _)| f.number == number), value) {
                (Some((_, Node::List(list))), value) => list.push(value),
                (Some((_, Node::Map(map))), Node::Map(more)) if field.map => map.extend(more),
                (_, value) if field.many => found.push((field, Node::List(vec![value]))),
                (_, value) => found.push((field, value)),
            }
        }
    }
    found.sort_by_key(|(field, _)| field.number);
    Ok(Node::Map(found.into_iter().map(|(field, node)| (field.name.to_owned(), node)).collect()))
}

fn scalar(field: &Field, raw: &Raw<'_>) -> Option<Result<Node, XdsError>> {
    let text = match (field.kind, raw) {
        ("b", Raw::Varint(value)) => (*value != 0).to_string(),
        // Negative numbers stand as their complement of two.
        ("u", Raw::Varint(value)) => (*value as i64).to_string(),
        ("d", Raw::Fixed64(value)) => f64::from_bits(*value).to_string(),
        ("s", Raw::Bytes(bytes)) => quoted(&String::from_utf8_lossy(bytes)),
        (kind, Raw::Varint(value)) => {
            let names = schema().get(kind.strip_prefix("e:")?)?;
            names.iter().find(|n| u64::from(n.number) == *value)?.name.to_owned()
        }
        (kind, Raw::Bytes(bytes)) => return Some(read(kind.strip_prefix("m:")?, bytes)),
        _ => return None,
    };
    Some(Ok(Node::Scalar(text)))
}

/// Messages that are not written field by field.
fn well_known(message: &str, bytes: &[u8]) -> Result<Option<Node>, XdsError> {
    let mut rest = bytes;
    let mut fields = std::iter::from_fn(|| next(&mut rest));
    let mut number = || match fields.next() {
        Some((_, Raw::Varint(value) | Raw::Fixed64(value))) => value,
        _ => 0,
    };
    let text = match message {
        "google.protobuf.BoolValue" => (number() != 0).to_string(),
        "google.protobuf.UInt32Value" | "google.protobuf.UInt64Value" => number().to_string(),
        "google.protobuf.DoubleValue" => f64::from_bits(number()).to_string(),
        "google.protobuf.Duration" => {
            let (mut seconds, mut nanos) = (0, 0);
            for (field, raw) in fields {
                match (field, raw) {
                    (1, Raw::Varint(value)) => seconds = value,
                    (_, Raw::Varint(value)) => nanos = value,
                    _ => {}
                }
            }
            let broken = format!("{seconds}.{nanos:09}");
            let broken = broken.trim_end_matches('0').trim_end_matches('.');
            format!("{broken}s")
        }
        "google.protobuf.Any" => {
            let (mut url, mut value) = (String::new(), &[][..]);
            for (field, raw) in fields {
                match (field, raw) {
                    (1, Raw::Bytes(bytes)) => url = String::from_utf8_lossy(bytes).into_owned(),
                    (_, Raw::Bytes(bytes)) => value = bytes,
                    _ => {}
                }
            }
            let name = url.rsplit('/').next().unwrap_or_default();
            let mut map = vec![("@type".to_owned(), Node::Scalar(quoted(&url)))];
            match read(name, value)? {
                Node::Map(fields) => map.extend(fields),
                node => map.push(("value".to_owned(), node)),
            }
            return Ok(Some(Node::Map(map)));
        }
        _ => return Ok(None),
    };
    Ok(Some(Node::Scalar(text)))
}

/// Writes a node; `inline` where the line was begun by a dash.
fn write(out: &mut String, node: &Node, depth: usize, inline: bool) -> std::fmt::Result {
    let indent = |out: &mut String, first: bool| {
        if !(first && inline) {
            out.push_str(&"  ".repeat(depth));
        }
    };
    match node {
        Node::Scalar(text) => writeln!(out, "{text}")?,
        Node::List(list) => {
            for (ix, item) in list.iter().enumerate() {
                indent(out, ix == 0);
                out.push_str("- ");
                if is_empty(item) {
                    out.push_str("{}\n");
                } else {
                    write(out, item, depth + 1, true)?;
                }
            }
        }
        Node::Map(map) => {
            for (ix, (key, value)) in map.iter().enumerate() {
                indent(out, ix == 0);
                if key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                    out.push_str(key);
                } else {
                    out.push_str(&quoted(key));
                }
                out.push(':');
                match value {
                    Node::Scalar(text) => writeln!(out, " {text}")?,
                    value if is_empty(value) => out.push_str(" {}\n"),
                    value => {
                        out.push('\n');
                        write(out, value, depth + 1, false)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn is_empty(node: &Node) -> bool {
    matches!(node, Node::Map(map) if map.is_empty())
}
