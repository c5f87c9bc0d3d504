//! `traflux te` as people use it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use traflux::te::generate::{BackboneConfig, TrafficModel, backbone};
use traflux::te::{
    Case, Earlier, EvaluateError, Limit, RunName, SelectorKind, StudyOptions, TrainOptions, TrainPoint,
    Watch, study,
};
use traflux_core::BitRate;
use traflux_policy::Checkpoint;

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
        "--validate",
        "2",
        "--updates",
        "40",
        "--examples",
        "40",
        "--curve",
        "c.csv",
    ];
    let said_by_training = said(at, &learn);
    assert!(said_by_training.contains("policy: policy.safetensors"), "{said_by_training}");
    assert!(said_by_training.contains("learned − relax-and-round: "), "{said_by_training}");
    assert!(std::fs::read_to_string(at.join("c.csv")).unwrap().lines().count() > 10);
    assert!(at.join("policy.last.safetensors").exists());
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

#[test]
fn several_trainings_are_compared_with_and_without_imitation_and_never_run_twice() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    let learn = [
        "train",
        "backbone.json",
        "tm.rows",
        "--train",
        "8",
        "--validate",
        "2",
        "--updates",
        "30",
        "--examples",
        "30",
        "--states",
        "4",
        "--seeds",
        "2",
        "--ablate",
        "imitation",
        "--html",
        "l.html",
        "--csv",
        "t.csv",
        "--resume",
    ];
    let first = said(at, &learn);
    assert!(first.contains("learned, 2 of them: "), "{first}");
    assert!(first.contains("without imitation − learned: "), "{first}");
    let page = std::fs::read_to_string(at.join("l.html")).unwrap();
    for line in ["learned, seed 1", "without imitation, seed 2", "(bound) ", "relax-and-round ", "fixed-set "]
    {
        assert!(page.contains(&format!("</i> {line}")) && page.contains(&format!("<title>{line}")), "{line}");
    }
    // Four rivals and four trainings on four matrices.
    assert_eq!(std::fs::read_to_string(at.join("t.csv")).unwrap().lines().count(), 1 + 8 * 4);
    let files = ["policy-seed1", "policy-seed2.last", "policy-no-imitation-seed1"];
    let read = || files.map(|file| std::fs::read(at.join(format!("{file}.safetensors"))).unwrap());
    let bytes = read();
    let again = said(at, &learn);
    assert!(read() == bytes, "what is finished is taken as it is");
    let tests = |text: &str| {
        text.split("matrices set aside").nth(1).unwrap().lines().nth(2).unwrap()[..40].to_owned()
    };
    assert_eq!(tests(&again), tests(&first));
    let other = [&learn[..], &["--hidden", "8"]].concat();
    assert!(refused(at, &other).contains("it cannot be gone on with: training was"));

    let compared = ["evaluate", "backbone.json", "tm.rows", "--stale", "--selectors", "relax-and-round"];
    let seeds = ["--checkpoint", "policy-seed1.safetensors", "--checkpoint", "policy-seed2.safetensors"];
    let one = said(at, &[&compared[..], &seeds].concat());
    assert!(one.contains("learned, 2 of them: ") && one.contains("learned − relax-and-round: "), "{one}");
    let mixed = ["--checkpoint", "policy-no-imitation-seed1.safetensors"];
    let two = said(at, &[&compared[..], &seeds, &mixed].concat());
    assert!(two.contains("policy-no-imitation-seed1 − policy-seed1: "), "{two}");
}

#[test]
fn one_policy_is_learned_for_all_networks_and_tested_on_the_one_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    let learn = [
        "train",
        "backbone.json",
        "tm.rows",
        "--generated",
        "2",
        "--spread",
        "8",
        "--updates",
        "0",
        "--examples",
        "60",
        "--states",
        "4",
        "--leave-one-out",
        "--no-fallback",
        "--rivals",
        "top-k-critical",
    ];
    let text = said(at, &learn);
    let line =
        |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{text}"));
    for name in ["backbone ", "generated 0 ", "generated 1 "] {
        let numbers: Vec<f64> =
            line(name).split([' ', '[', ']', ',']).filter_map(|word| word.parse().ok()).collect();
        // Top-K critical and what was learned elsewhere; before them the position of a generated one and the bound.
        let [rival, learned] = numbers[numbers.len() - 5..numbers.len() - 3] else { panic!("{numbers:?}") };
        assert!(learned > rival - 0.02 && learned <= 1.0, "{name}: {learned} against {rival}");
    }
    let elsewhere =
        ["evaluate", "backbone.json", "tm.rows", "--checkpoint", "policy-without-backbone.safetensors"];
    assert!(said(at, &elsewhere).contains("learned − oracle"));
    let alone = ["train", "backbone.json", "tm.rows", "--leave-one-out"];
    assert!(refused(at, &alone).contains("two networks are needed"));
    assert!(refused(at, &["train", "backbone.json"]).contains("an even number of files"));
    let idle = ["train", "backbone.json", "tm.rows", "--examples", "0", "--ablate", "reinforcement"];
    assert!(refused(at, &idle).contains("no updates are left to learn by without reinforcement"));
    let greedy = ["train", "backbone.json", "tm.rows", "--train", "8", "--test", "5"];
    assert!(refused(at, &greedy).contains("needs 13 matrices, there are 12"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_the_best_policy_and_the_training_can_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    let learn = [
        "train",
        "backbone.json",
        "tm.rows",
        "--updates",
        "200000",
        "--examples",
        "10",
        "--states",
        "1",
        "--draws",
        "2",
        "--resume",
        "--validate",
        "2",
    ];
    let interrupted = || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_traflux"))
            .current_dir(at)
            .arg("te")
            .args(learn)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let last = at.join("policy.last.safetensors");
        let written = || std::fs::metadata(&last).and_then(|file| file.modified()).ok();
        let (before, began) = (written(), std::time::Instant::now());
        while written() == before && began.elapsed().as_secs() < 120 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("not finished") && text.contains("ended early"), "{text}");
        let line = text.lines().find(|line| line.starts_with("learned, seed 1")).unwrap();
        line.split_whitespace().nth(3).unwrap().parse::<usize>().unwrap()
    };
    let first = interrupted();
    assert!(
        said(at, &["evaluate", "backbone.json", "tm.rows", "--checkpoint", "policy.safetensors"])
            .contains("learned − top-k-critical")
    );
    let second = interrupted();
    assert!(first > 0 && second > first, "{first}, then {second}");
}

/// Keeps files in memory and stops after some points.
struct Leaving {
    limit: Limit,
    points: AtomicUsize,
    files: Mutex<Option<(Checkpoint, Checkpoint)>>,
}

impl Watch for Leaving {
    fn progress(&self, _: f64, _: &str) {}

    fn point(
        &self,
        _: &RunName,
        _: &TrainPoint,
        last: &Checkpoint,
        best: Option<&Checkpoint>,
    ) -> Result<(), EvaluateError> {
        let mut files = self.files.lock().unwrap();
        let kept = files.take().map(|(best, _)| best);
        // As files: what is read is what was written.
        let read = |checkpoint: &Checkpoint| Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap()).unwrap();
        *files = Some((best.map(read).or(kept).unwrap(), read(last)));
        if self.points.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.limit.stop();
        }
        Ok(())
    }

    fn earlier(&self, _: &RunName) -> Result<Option<Earlier>, EvaluateError> {
        let files = self.files.lock().unwrap();
        Ok(files.clone().map(|(best, last)| Earlier { last, best }))
    }
}

#[test]
fn a_training_that_was_left_and_gone_on_with_gives_the_files_of_one_that_was_not() {
    let network = backbone(&BackboneConfig { nodes: 7, ..BackboneConfig::default() }, 3).unwrap();
    let mean = BitRate::gigabits_per_second(1.0);
    let matrices = TrafficModel::Lognormal { mean, sigma: 1.0 }.matrices(&network, 12, 1).unwrap();
    let case = Case {
        name: "seven".to_owned(),
        group: "seven".to_owned(),
        network,
        matrices,
        count: 4,
        train: 9,
        validate: 3,
        test: 3,
    };
    let train =
        TrainOptions { example_updates: 40, updates: 30, states: 3, draws: 3, ..TrainOptions::default() };
    // How many points each time, in the imitation, after it, and twice.
    let files = |stops: &[usize]| {
        let mut files = None;
        for stop in stops.iter().chain(&[usize::MAX]) {
            let limit = Limit::default();
            let options = StudyOptions {
                train: train.clone(),
                seeds: vec![1],
                without: Vec::new(),
                leave_one_out: false,
                rivals: vec![SelectorKind::TopKCritical],
                fixed_set: false,
                block: 1,
                fallback: true,
                limit: limit.clone(),
            };
            let watch = Leaving { limit, points: AtomicUsize::new(*stop), files: Mutex::new(files) };
            let study = study(std::slice::from_ref(&case), &options, &watch).unwrap();
            assert_eq!(study.stopped, *stop != usize::MAX);
            files = watch.files.into_inner().unwrap();
        }
        let (best, last) = files.unwrap();
        (best.to_bytes().unwrap(), last.to_bytes().unwrap())
    };
    let whole = files(&[]);
    for stops in [&[2][..], &[9], &[3, 7]] {
        assert!(files(stops) == whole, "left after {stops:?} points");
    }
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
