//! `traflux te` as people use it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn te(at: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_traflux")).current_dir(at).arg("te").args(arguments).output().unwrap()
}

/// What a successful command printed.
fn said(at: &Path, arguments: &[&str]) -> String {
    let output = te(at, arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}: {err}");
    out
}

/// What a failing command complained about.
fn refused(at: &Path, arguments: &[&str]) -> String {
    let output = te(at, arguments);
    assert!(!output.status.success(), "{arguments:?} was taken");
    String::from_utf8(output.stderr).unwrap()
}

fn made(at: &Path) {
    said(at, &["generate", "network", "backbone.json", "--nodes", "8", "--seed", "7"]);
    said(at, &["generate", "matrices", "backbone.json", "tm.rows", "--count", "12", "--utilization", "0.9"]);
}

#[test]
fn from_a_generated_network_to_a_comparison_of_selectors() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    let solved = said(at, &["solve", "backbone.json", "tm.rows", "--json", "--out", "paths.json"]);
    let solved: serde_json::Value = serde_json::from_str(&solved).unwrap();
    let matrices = solved.as_array().unwrap();
    assert_eq!(matrices.len(), 12);
    for found in matrices {
        let (value, bound) = (found["value"].as_f64().unwrap(), found["bound"].as_f64().unwrap());
        assert!(bound <= value && value - bound <= 1e-9 * value && value <= 0.9, "{found}");
    }
    let paths: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(at.join("paths.json")).unwrap()).unwrap();
    for pair in paths[0].as_array().unwrap() {
        let shares = pair["paths"].as_array().unwrap().iter().map(|path| path["share"].as_f64().unwrap());
        assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);
    }

    let comparison = [
        "evaluate",
        "backbone.json",
        "tm.rows",
        "--history",
        "4",
        "--html",
        "te.html",
        "--csv",
        "te.csv",
        "--json",
    ];
    let comparison: serde_json::Value = serde_json::from_str(&said(at, &comparison)).unwrap();
    let arms = comparison["arms"].as_array().unwrap();
    let mean = |name: &str| {
        let arm = arms.iter().find(|arm| arm["name"] == name).unwrap();
        let values = arm["performance"].as_array().unwrap();
        assert_eq!(values.len(), 8, "four matrices are history");
        values.iter().map(|v| v.as_f64().unwrap()).sum::<f64>() / 8.0
    };
    assert!(mean("ecmp") < mean("top-k-critical") && mean("top-k-critical") <= 1.0);
    assert!(mean("top-k-critical") < mean("greedy-relief"), "{}", mean("greedy-relief"));
    assert!(mean("fixed-set") > mean("ecmp"));
    assert!(std::fs::read_to_string(at.join("te.html")).unwrap().contains("Distribution of PR_U"));
    let lines = std::fs::read_to_string(at.join("te.csv")).unwrap().lines().count();
    assert_eq!(lines, 1 + 8 * arms.len());
}

#[test]
fn a_network_survives_the_way_through_every_format_with_links() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    for (file, format) in [
        ("b.graphml", "graphml"),
        ("b.gml", "gml"),
        ("b.graph", "repetita"),
        ("b.xml", "sndlib-xml"),
        ("b.txt", "sndlib"),
        ("b.cfr", "cfr-rl"),
    ] {
        said(at, &["convert", "backbone.json", file, "--to", format]);
        let solved = said(at, &["solve", file, "tm.rows", "--limit", "1", "--json"]);
        let solved: serde_json::Value = serde_json::from_str(&solved).unwrap();
        let original = said(at, &["solve", "backbone.json", "tm.rows", "--limit", "1", "--json"]);
        let original: serde_json::Value = serde_json::from_str(&original).unwrap();
        let (value, expected) =
            (solved[0]["value"].as_f64().unwrap(), original[0]["value"].as_f64().unwrap());
        assert!((value - expected).abs() < 1e-9, "{format}: {value}, expected {expected}");
    }
}

#[test]
fn bad_input_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    assert!(refused(at, &["solve", "backbone.json"]).contains("holds no demands"));
    assert!(refused(at, &["solve", "none.json", "tm.rows"]).contains("none.json"));
    std::fs::write(at.join("short.rows"), "1 2 3\n").unwrap();
    assert!(refused(at, &["solve", "backbone.json", "short.rows"]).contains("short.rows:1"));
    let told = refused(at, &["evaluate", "backbone.json", "tm.rows", "--selectors", "best"]);
    assert!(told.contains("`best` is no selector; there are ecmp, top-k"), "{told}");
    assert!(
        refused(at, &["evaluate", "backbone.json", "tm.rows", "--history", "12"]).contains("13 matrices")
    );
    assert!(
        refused(at, &["evaluate", "backbone.json", "tm.rows", "-k", "110%"]).contains("outside [0%, 100%]")
    );
    assert!(refused(at, &["convert", "backbone.json", "out.bin"]).contains("say it with --to"));
    let zones = ["generate", "matrices", "backbone.json", "x.rows", "--diurnal", "--time-zones"];
    assert!(refused(at, &zones).contains("which is no longitude and latitude"));
    let idle = ["solve", "backbone.json", "tm.rows", "--objective", "delay", "--second", "rerouted"];
    assert!(refused(at, &idle).contains("it needs --objective utilization"));
    let told = refused(at, &["evaluate", "backbone.json", "tm.rows", "--selectors", "fixed-set"]);
    assert!(told.contains("a fixed set is found with --history"), "{told}");
    let all = refused(at, &["solve", "backbone.json", "tm.rows", "-k", "3", "--objective", "total"]);
    assert!(all.contains("is asked of all pairs"), "{all}");
    // Capacities in bit/s against demands that are a million times what was meant.
    let output = te(at, &["solve", "backbone.json", "tm.rows", "--demand-unit", "Mbit/s", "--limit", "1"]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("units of network and matrices may not fit"));
}

#[test]
fn by_night_there_is_less_traffic_than_by_day() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    said(at, &["generate", "network", "backbone.json", "--nodes", "8", "--seed", "7"]);
    said(at, &["generate", "matrices", "backbone.json", "day.rows", "--diurnal", "--count", "288"]);
    let text = std::fs::read_to_string(at.join("day.rows")).unwrap();
    let totals: Vec<f64> = text
        .lines()
        .map(|line| line.split_whitespace().map(|number| number.parse::<f64>().unwrap()).sum())
        .collect();
    // Day and night differ by half of the mean either way; phases of nodes and noise take some of it.
    let mean = |hours: std::ops::Range<usize>| {
        totals[hours.start * 12..hours.end * 12].iter().sum::<f64>() / (12 * hours.len()) as f64
    };
    assert!(mean(4..10) > 1.8 * mean(16..22), "{} by day, {} by night", mean(4..10), mean(16..22));
}

#[test]
fn a_selector_is_learned_saved_and_compared() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    let learn = [
        "train",
        "backbone.json",
        "tm.rows",
        "--train",
        "8",
        "--updates",
        "40",
        "--examples",
        "40",
        "--curve",
        "c.csv",
    ];
    let said_by_training = said(at, &learn);
    assert!(said_by_training.contains("rewards/s; policy: policy.safetensors"), "{said_by_training}");
    assert!(std::fs::read_to_string(at.join("c.csv")).unwrap().lines().count() > 10);
    let first = std::fs::read(at.join("policy.safetensors")).unwrap();
    said(at, &[&learn[..], &["--threads", "1"]].concat());
    assert!(std::fs::read(at.join("policy.safetensors")).unwrap() == first, "threads change nothing");
    let compared = [
        "evaluate",
        "backbone.json",
        "tm.rows",
        "--history",
        "8",
        "--checkpoint",
        "policy.safetensors",
        "--json",
    ];
    let compared: serde_json::Value = serde_json::from_str(&said(at, &compared)).unwrap();
    let arm = |name: &str| {
        let arms = compared["arms"].as_array().unwrap();
        let values = arms.iter().find(|arm| arm["name"] == name).unwrap()["performance"].as_array().unwrap();
        values.iter().map(|v| v.as_f64().unwrap()).sum::<f64>() / values.len() as f64
    };
    assert!(arm("learned") > arm("ecmp"), "{} against {}", arm("learned"), arm("ecmp"));
    let foreign = ["evaluate", "backbone.json", "tm.rows", "--checkpoint", "fleet.safetensors"];
    traflux::checkpoint::shipped().unwrap().save(&at.join("fleet.safetensors")).unwrap();
    assert!(refused(at, &foreign).contains("checkpoint: "));
    // What knows pairs by name is of no use elsewhere.
    said(at, &["generate", "network", "other.json", "--nodes", "9"]);
    said(at, &["generate", "matrices", "other.json", "other.rows", "--count", "3"]);
    let elsewhere = ["evaluate", "other.json", "other.rows", "--checkpoint", "policy.safetensors"];
    assert!(
        refused(at, &elsewhere).contains("it knows the 56 pairs of the network it was trained on by name")
    );
}
