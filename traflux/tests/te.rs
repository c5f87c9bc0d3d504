//! `traflux te` as people use it.
#![allow(clippy::unwrap_used)]

mod te_program;

use std::process::Command;

use te_program::{made, refused, said, te};

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
fn what_makes_no_sense_is_refused_by_its_name_and_nothing_that_was_found_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    std::fs::write(at.join("empty.rows"), "").unwrap();
    let told = refused(at, &["solve", "backbone.json", "empty.rows"]);
    assert!(told.contains("empty.rows: it holds no matrix"), "{told}");
    let told = refused(at, &["solve", "backbone.json", "tm.rows", "--limit", "0"]);
    assert!(told.contains("--limit 0 leaves none of its matrices"), "{told}");
    let told = refused(at, &["solve", "backbone.json", "tm.rows", "--unit", "parsec"]);
    assert!(told.contains("expected a unit of rates") && !told.contains("line 1"), "{told}");
    let told = refused(at, &["paths", "backbone.json", "tm.rows", "--least", "5", "--most", "2"]);
    assert!(told.contains("--least 5 is more than --most 2"), "{told}");
    let told = refused(at, &["paths", "backbone.json", "tm.rows", "--tolerance", "nan"]);
    assert!(told.contains("--tolerance NaN must be finite"), "{told}");
    let told = refused(at, &["evaluate", "backbone.json", "tm.rows", "--checkpoint", "empty.rows"]);
    assert!(told.contains("empty.rows: checkpoint is truncated"), "{told}");
    // No clock holds that many seconds.
    let told = said(at, &["paths", "backbone.json", "tm.rows", "--limit", "1", "--deadline-s", "1e300"]);
    assert!(told.contains("1 matrix they were chosen for"), "{told}");
    // One matrix has none before it.
    let evaluate = ["evaluate", "backbone.json", "tm.rows", "--limit", "1", "--selectors", "top-k"];
    let told = said(at, &evaluate);
    assert!(!told.contains("-0.0") && told.contains("–"), "{told}");
    let output = te(at, &[&evaluate[..], &["--html", "nowhere/te.html"]].concat());
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("top-k"));
    assert!(String::from_utf8(output.stderr).unwrap().contains("nowhere/te.html"));
}

/// Three nodes; nothing leads from c to a, and two links from a to b.
const ONE_WAY: &str = r#"{"directed": true, "nodes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"},
    {"id": 2, "name": "c"}], "links": [{"source": 0, "target": 1, "capacity": 1e9},
    {"source": 0, "target": 1, "capacity": 1e9, "weight": 2}, {"source": 1, "target": 0, "capacity": 1e9},
    {"source": 1, "target": 2, "capacity": 1e9}]}"#;

#[test]
fn a_demand_that_no_path_serves_is_named_by_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("n.json"), ONE_WAY).unwrap();
    std::fs::write(at.join("tm.rows"), "0,1e8,1e8, 1e8,0,1e8, 1e8,0,0\n".repeat(12)).unwrap();
    for command in [
        &["solve"][..],
        &["solve", "-k", "1"],
        &["solve", "--objective", "delay"],
        &["evaluate"],
        &["train"],
        &["bench"],
    ] {
        let told = refused(at, &[command, &["n.json", "tm.rows"]].concat());
        assert!(told.contains("no path leads from node `c` to node `a`"), "{command:?}: {told}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_are_read_once_and_paths_say_which_of_parallel_links_they_take() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (pipe, text) in [("n.pipe", ONE_WAY), ("tm.pipe", "0, 8e8, 0, 0, 0, 0, 0, 0, 0\n")] {
        assert!(Command::new("mkfifo").arg(at.join(pipe)).status().unwrap().success());
        let path = at.join(pipe);
        std::thread::spawn(move || std::fs::write(path, text).unwrap());
    }
    let told = said(at, &["solve", "n.pipe", "tm.pipe", "--out", "paths.json"]);
    assert!(told.starts_with("3 nodes, 4 links, 1 matrix\n"), "{told}");
    let paths: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(at.join("paths.json")).unwrap()).unwrap();
    let paths = paths[0][0]["paths"].as_array().unwrap();
    let mut links: Vec<u64> = paths.iter().map(|path| path["links"][0].as_u64().unwrap()).collect();
    links.sort_unstable();
    assert_eq!(links, [0, 1]);
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
fn a_large_network_is_compared_to_a_tolerance_and_as_far_as_time_allows() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    said(at, &["generate", "network", "large.json", "--nodes", "105", "--seed", "2"]);
    said(at, &["generate", "matrices", "large.json", "tm.rows", "--count", "2"]);
    let selectors = ["--selectors", "ecmp,top-k-critical", "-k", "1%", "--limit", "2"];
    let compare = [&["evaluate", "large.json", "tm.rows", "--csv", "l.csv"][..], &selectors].concat();
    let whole = said(at, &compare);
    assert!(whole.starts_with("2 matrices, at most 109 of 10920 pairs rerouted, optima to 1e-4"), "{whole}");
    assert!(whole.contains("top-k-critical − ecmp: +"), "{whole}");
    assert!(!std::fs::read_to_string(at.join("l.csv")).unwrap().contains("NaN"));
    let late = te(at, &[&compare[..], &["--deadline-s", "0.000001"]].concat());
    assert!(String::from_utf8(late.stderr).unwrap().contains("stopped before a matrix was played"));
}

#[test]
fn few_paths_serve_the_matrices_they_were_chosen_for_and_those_after() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    said(at, &["generate", "network", "net.json", "--nodes", "10", "--seed", "3"]);
    said(at, &["generate", "matrices", "net.json", "tm.rows", "--count", "12", "--seed", "3"]);
    let said = said(at, &["paths", "net.json", "tm.rows", "--history", "6", "--out", "paths.json"]);
    assert!(said.contains("for 90 pairs") && said.contains("6 matrices after these"), "{said}");
    let text = std::fs::read_to_string(at.join("paths.json")).unwrap();
    let pairs: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(pairs.len(), 90);
    for pair in &pairs {
        let paths = pair["paths"].as_array().unwrap();
        assert!((1..=4).contains(&paths.len()), "{pair}");
        assert_eq!(paths[0]["nodes"][0], pair["source"]);
        assert_eq!(
            paths[0]["nodes"].as_array().unwrap().len(),
            paths[0]["links"].as_array().unwrap().len() + 1
        );
    }
}
