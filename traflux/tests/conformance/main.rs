//! What Rust, Python and Node must agree on: every case of `tests/conformance`, as its README describes them.
#![allow(clippy::unwrap_used)]

mod case;
mod controller;
mod gateway;
mod solve;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use case::{Fields, Gave, compare};
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance")
}

fn cases() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let is_cases = path.extension().is_some_and(|e| e == "json") && !path.ends_with("codes.json");
        if is_cases {
            let file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            for case in file["cases"].as_array().unwrap() {
                all.push((path.file_name().unwrap().to_string_lossy().into_owned(), case.clone()));
            }
        }
    }
    all
}

fn call(name: &str, input: &mut Fields<'_>, tolerance: f64) -> Gave {
    match name {
        "lp.endpoints" => solve::endpoints(input),
        "lp.min_max_utilization" => solve::min_max_utilization(input),
        "te.read_network" => solve::read_network(input),
        "gateway.decisions" => gateway::decisions(input, tolerance),
        "gateway.plan_error" => gateway::plan_error(input),
        "gateway.request_error" => gateway::request_error(input),
        "controller.ticks" => controller::ticks(input),
        "controller.config_error" => controller::config_error(input),
        unknown => panic!("`{unknown}` is unknown"),
    }
}

#[test]
fn every_case_holds() {
    let cases = cases();
    assert!(!cases.is_empty(), "no cases in {}", folder().display());
    let mut names = BTreeSet::new();
    for (file, case) in &cases {
        let mut fields = Fields::of(case);
        let name = fields.text("name").unwrap();
        println!("{file}: {name}");
        assert!(names.insert(name.to_owned()), "`{name}` is the name of two cases");
        assert!(fields.text("why").is_some_and(|why| !why.is_empty()), "{name}: why?");
        let called = fields.text("call").unwrap().to_owned();
        let mut input = Fields::of(fields.take("input").unwrap());
        let tolerance = fields.number("tolerance").unwrap_or(0.0);
        let gave = call(&called, &mut input, tolerance);
        input.all_read(name);
        let transient = fields.take("transient").is_some_and(|value| value.as_bool().unwrap());
        match (fields.text("error"), fields.take("expected"), gave) {
            (Some(code), None, Err(error)) => assert_eq!((error.0, error.1), (code, transient), "{name}"),
            (None, Some(expected), Ok(found)) => compare(&found, expected, tolerance, name),
            (None, None, Ok(_)) => assert_eq!(called, "gateway.decisions", "{name}: nothing is expected"),
            (_, _, gave) => panic!("{name}: {gave:?}"),
        }
        fields.all_read(name);
    }
}

/// Where errors are that a binding can give.
const SOURCES: [&str; 14] = [
    "traflux-core/src/error.rs",
    "traflux-gateway/src/error.rs",
    "traflux-lp/src/check.rs",
    "traflux-lp/src/multicommodity/check.rs",
    "traflux-lp/src/multicommodity/error.rs",
    "traflux-lp/src/table.rs",
    "traflux-policy/src/checkpoint.rs",
    "traflux-sim/src/error.rs",
    "traflux-te/src/error.rs",
    "traflux-te/src/format/error.rs",
    "traflux/src/config/parse.rs",
    "traflux/src/controller/store.rs",
    "traflux/src/service/run.rs",
    "traflux/src/te/error.rs",
];

/// What `codes.json` says of a code.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    /// What Python and Node raise.
    class: String,
    /// A test of Python provokes it: nothing that the cases call can.
    #[serde(default)]
    python: bool,
    /// Why nobody provokes it.
    why: Option<String>,
}

/// Every code that the sources give is listed with its class, and provoked by a case or by Python, or the list says why
/// it cannot be.
#[test]
fn every_code_is_provoked_or_excused() {
    let mut provoked = BTreeSet::new();
    for (_, case) in cases() {
        collect(&case, &mut provoked);
    }
    let text = fs::read_to_string(folder().join("codes.json")).unwrap();
    let listed: std::collections::BTreeMap<String, Listed> = serde_json::from_str(&text).unwrap();
    let mut known = BTreeSet::new();
    for source in SOURCES {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(source);
        let text = fs::read_to_string(path).unwrap();
        let before = known.len();
        for line in text.lines().map(str::trim).filter(|line| line.starts_with("Self::")) {
            if let Some((_, code)) = line.split_once("=> \"") {
                known.insert(code.split('"').next().unwrap().to_owned());
            }
        }
        assert!(known.len() > before, "{source} has no codes that can be read");
    }
    let missing: Vec<_> = known.iter().filter(|code| !listed.contains_key(*code)).collect();
    assert!(missing.is_empty(), "codes.json has no {missing:?}");
    for (code, Listed { class, python, why }) in &listed {
        assert!(known.contains(code), "no error has the code {code}");
        assert_eq!(traflux::error_family(code), class, "{code}");
        let ways = [provoked.contains(code), *python, why.as_ref().is_some_and(|why| !why.is_empty())];
        let ways = ways.into_iter().filter(|way| *way).count();
        assert_eq!(ways, 1, "{code} is to be provoked by a case or by Python, or to be excused");
    }
}

/// Codes under `error`, and those of failures of ticks.
fn collect(value: &Value, codes: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("error", Value::String(code)) => drop(codes.insert(code.clone())),
                    ("failures", Value::Array(pairs)) => {
                        codes.extend(pairs.iter().map(|pair| pair[1].as_str().unwrap().to_owned()));
                    }
                    _ => collect(value, codes),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, codes)),
        _ => {}
    }
}
