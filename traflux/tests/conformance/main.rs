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

/// Every code that the sources give is provoked by a case, or `codes.json` says why none does.
#[test]
fn every_code_is_provoked_or_excused() {
    let mut provoked = BTreeSet::new();
    for (_, case) in cases() {
        collect(&case, &mut provoked);
    }
    let text = fs::read_to_string(folder().join("codes.json")).unwrap();
    let excused: std::collections::BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    let mut known = BTreeSet::new();
    let sources = [
        "traflux-core/src/error.rs",
        "traflux-gateway/src/error.rs",
        "traflux-lp/src/multicommodity/error.rs",
        "traflux-lp/src/table.rs",
        "traflux-te/src/error.rs",
        "traflux-te/src/format/error.rs",
        "traflux/src/config/parse.rs",
    ];
    for source in sources {
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
    let missing: Vec<_> =
        known.iter().filter(|code| !provoked.contains(*code) && !excused.contains_key(*code)).collect();
    assert!(missing.is_empty(), "neither a case nor codes.json has {missing:?}");
    let idle: Vec<_> =
        excused.keys().filter(|code| provoked.contains(*code) || !known.contains(*code)).collect();
    assert!(idle.is_empty(), "codes.json excuses in vain {idle:?}");
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
