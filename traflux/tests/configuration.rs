//! `docs/configuration.md` is what the types of the configuration say.
//!
//! After a change of a key run `UPDATE_DOCS=1 cargo test -p traflux --test configuration`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use traflux::Config;

/// Everything below this line is made from the schema.
const MARK: &str = "<!-- Made from the types: UPDATE_DOCS=1 cargo test -p traflux --test configuration -->";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")
}

fn schema() -> Value {
    serde_json::to_value(schemars::schema_for!(Config)).unwrap()
}

#[test]
fn the_reference_lists_every_key_with_its_default_and_unit() {
    let path = page();
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, found) = text.split_once(MARK).expect("docs/configuration.md holds the mark");
    let made = Reference::new(schema()).text();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        // The other tests of this file read it meanwhile.
        let beside = path.with_extension("new");
        std::fs::write(&beside, format!("{head}{MARK}\n{made}")).unwrap();
        std::fs::rename(&beside, &path).unwrap();
        return;
    }
    assert!(
        found.trim_start() == made.trim_start(),
        "docs/configuration.md is not what the types say; \
         run `UPDATE_DOCS=1 cargo test -p traflux --test configuration`"
    );
}

#[test]
fn every_key_of_the_schema_appears_in_the_reference() {
    let text = std::fs::read_to_string(page()).unwrap();
    let mut keys = BTreeSet::new();
    collect(&schema(), &mut keys);
    assert!(keys.len() > 100, "{}", keys.len());
    for key in keys {
        assert!(text.contains(&format!("`{key}`")), "{key} is missing in docs/configuration.md");
    }
}

#[test]
fn the_examples_of_the_page_are_valid_configurations() {
    let text = std::fs::read_to_string(page()).unwrap();
    let mut examples = 0;
    for block in text.split("```yaml\n").skip(1) {
        let example = block.split("```").next().unwrap();
        Config::parse(example).unwrap_or_else(|problem| panic!("{problem} in\n{example}"));
        examples += 1;
    }
    assert!(examples >= 2, "{examples}");
}

fn collect(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(properties) = map.get("properties").and_then(Value::as_object) {
                keys.extend(properties.keys().cloned());
            }
            map.values().for_each(|v| collect(v, keys));
        }
        Value::Array(items) => items.iter().for_each(|v| collect(v, keys)),
        _ => {}
    }
}

/// Writes a section with a table for each object of the schema.
struct Reference {
    schema: Value,
}

impl Reference {
    fn new(schema: Value) -> Self {
        Self { schema }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        self.section("", &self.schema, &mut text);
        text
    }

    fn section(&self, path: &str, object: &Value, text: &mut String) {
        let title = if path.is_empty() { "Top level".to_owned() } else { format!("`{path}`") };
        writeln!(text, "\n## {title}\n").unwrap();
        if let (Some(description), false) = (object["description"].as_str(), path.is_empty()) {
            writeln!(text, "{}\n", one_line(description)).unwrap();
        }
        writeln!(text, "| key | type | default | unit | what it is |\n|---|---|---|---|---|").unwrap();
        let required: Vec<&str> =
            object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut below = Vec::new();
        for (key, property) in object["properties"].as_object().unwrap() {
            let kind = self.kind(property);
            let default = match (&kind, property.get("default")) {
                _ if required.contains(&key.as_str()) => "required".to_owned(),
                (Kind { inner: Some(_), optional: false, .. }, Some(Value::Object(_))) => {
                    "see below".to_owned()
                }
                (_, None | Some(Value::Null)) => "unset".to_owned(),
                (_, Some(default)) => format!("`{default}`"),
            };
            let description = one_line(property["description"].as_str().unwrap_or(""));
            assert!(!description.is_empty(), "{path}.{key} has no description");
            writeln!(text, "| `{key}` | {} | {default} | {} | {description} |", kind.name, unit(key))
                .unwrap();
            if let Some(inner) = kind.inner {
                let dot = if path.is_empty() { "" } else { "." };
                below.push((format!("{path}{dot}{key}{}", kind.suffix), inner));
            }
        }
        for (path, inner) in below {
            self.section(&path, inner, text);
        }
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.schema.pointer(reference.trim_start_matches('#')).unwrap(),
            None => schema,
        }
    }

    fn kind<'a>(&'a self, property: &'a Value) -> Kind<'a> {
        if let Some(branches) = property["anyOf"].as_array() {
            let some = branches.iter().find(|b| b["type"] != "null").unwrap();
            return Kind { optional: true, ..self.kind(some) };
        }
        let schema = self.resolve(property);
        let plain = |name: &str, optional| Kind { name: name.to_owned(), inner: None, suffix: "", optional };
        if let Some(branches) = schema["oneOf"].as_array() {
            let names: Vec<String> =
                branches.iter().filter_map(|b| b["const"].as_str()).map(|name| format!("`{name}`")).collect();
            return plain(&names.join(", "), false);
        }
        let (name, optional) = match &schema["type"] {
            Value::String(name) => (name.as_str(), false),
            names => {
                let some = names.as_array().unwrap().iter().filter_map(Value::as_str).find(|n| *n != "null");
                (some.unwrap(), true)
            }
        };
        match name {
            "object" if schema.get("properties").is_some() => {
                Kind { name: "section".to_owned(), inner: Some(schema), suffix: "", optional }
            }
            "object" => {
                let values = self.kind(&schema["additionalProperties"]);
                plain(&format!("map of {}", values.name), optional)
            }
            "array" => {
                let items = self.kind(&schema["items"]);
                let name = match items.inner {
                    Some(_) => "list of sections".to_owned(),
                    None => format!("list of {}s", items.name),
                };
                Kind { name, inner: items.inner, suffix: "[]", optional }
            }
            "string" => plain("text", optional),
            "boolean" => plain("true or false", optional),
            name => plain(name, optional),
        }
    }
}

struct Kind<'a> {
    name: String,
    /// The object to describe below.
    inner: Option<&'a Value>,
    suffix: &'static str,
    optional: bool,
}

/// A description on one line, in the words of the file: links into the code are only their text.
fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    while let Some((before, rest)) = line.split_once("[`")
        && let Some((linked, after)) = rest.split_once("`]")
    {
        let after = match after.strip_prefix('(') {
            Some(target) => target.split_once(')').map_or(after, |(_, after)| after),
            None => after,
        };
        line = format!("{before}`{linked}`{after}");
    }
    line.replace("`None`", "unset").replace("`null`", "unset")
}

/// Keys end in their unit.
fn unit(key: &str) -> &'static str {
    let units = [
        ("usd_per_million_for_10_ms", "$ per million requests"),
        ("usd_per_million", "$ per million requests"),
        ("usd_per_hour", "$ per hour"),
        ("hourly_usd", "$ per hour"),
        ("_per_s", "1/s"),
        ("_rps", "requests/s"),
        ("_ms", "ms"),
        ("_s", "s"),
    ];
    units.iter().find(|(end, _)| key.ends_with(end)).map_or("", |(_, unit)| unit)
}
