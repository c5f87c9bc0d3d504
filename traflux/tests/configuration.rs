//! The pages of all keys are what the types of the configurations say.
//!
//! After a change of a key run `UPDATE_DOCS=1 cargo test -p traflux --test configuration`.

#![allow(clippy::unwrap_used)]

mod reference;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use reference::Reference;
use serde_json::Value;
use traflux::Config;
use traflux_core::plan::requests::RequestPlan;

/// Everything below this line is made from the schema.
const MARK: &str = "<!-- Made from the types: UPDATE_DOCS=1 cargo test -p traflux --test configuration -->";

/// A page, the schema that it is made from, and what reads the examples on it.
struct Page {
    path: PathBuf,
    schema: Value,
    parse: fn(&str) -> Result<(), String>,
}

fn pages() -> [Page; 2] {
    let at = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let controller: fn(&str) -> Result<(), String> =
        |text| Config::parse(text).map(drop).map_err(|problem| problem.to_string());
    let gateway: fn(&str) -> Result<(), String> = |text| {
        let plan = traflux::gateway::read_plan(text).map_err(|problem| problem.to_string())?;
        plan.validate().map_err(|problem| problem.to_string())
    };
    [
        Page {
            path: at("configuration.md"),
            schema: serde_json::to_value(schemars::schema_for!(Config)).unwrap(),
            parse: controller,
        },
        Page {
            path: at("gateway-configuration.md"),
            schema: serde_json::to_value(schemars::schema_for!(RequestPlan)).unwrap(),
            parse: gateway,
        },
    ]
}

#[test]
fn the_references_list_every_key_with_its_default_and_unit() {
    for Page { path, schema, .. } in pages() {
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, found) = text.split_once(MARK).expect("the page holds the mark");
        let made = Reference::new(schema).text();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            // The other tests of this file read it meanwhile.
            let beside = path.with_extension("new");
            std::fs::write(&beside, format!("{head}{MARK}\n{made}")).unwrap();
            std::fs::rename(&beside, &path).unwrap();
            continue;
        }
        assert!(
            found.trim_start() == made.trim_start(),
            "{} is not what the types say; run `UPDATE_DOCS=1 cargo test -p traflux --test configuration`",
            path.display()
        );
    }
}

#[test]
fn every_key_of_the_schemas_appears_in_the_references() {
    for Page { path, schema, .. } in pages() {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut keys = BTreeSet::new();
        collect(&schema, &mut keys);
        assert!(keys.len() > 100, "{}", keys.len());
        for key in keys {
            // A key that only says of what kind the rest is, or that is all there is, stands in the type.
            let is_there = [format!("`{key}`"), format!("{{ {key}: ")].iter().any(|word| text.contains(word));
            assert!(is_there, "{key} is missing in {}", path.display());
        }
    }
}

#[test]
fn the_examples_of_the_pages_are_valid_configurations() {
    for Page { path, parse, .. } in pages() {
        let text = std::fs::read_to_string(path).unwrap();
        let (head, _) = text.split_once(MARK).unwrap();
        let examples: Vec<&str> =
            head.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
        for example in &examples {
            parse(example).unwrap_or_else(|problem| panic!("{problem} in\n{example}"));
        }
        assert!(examples.len() >= 2, "{}", examples.len());
    }
}

/// Every block that begins with "```yaml" alone is a whole plan; another word follows on those that are not.
#[test]
fn the_examples_of_the_pages_of_the_gateway_are_valid_plans() {
    let [_, Page { parse, .. }] = pages();
    let mut examples = 0;
    for page in ["gateway.md", "gateway-guide.md", "gateway-envoy.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
        let text = std::fs::read_to_string(path).unwrap();
        for block in text.split("```yaml\n").skip(1) {
            let example = block.split("```").next().unwrap();
            parse(example).unwrap_or_else(|problem| panic!("{page}: {problem} in\n{example}"));
            examples += 1;
        }
    }
    assert!(examples >= 10, "{examples}");
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
