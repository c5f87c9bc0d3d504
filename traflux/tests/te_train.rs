//! `traflux te train`, and the trainings behind it.
#![allow(clippy::unwrap_used)]

mod te_program;

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use te_program::{made, refused, said};
use traflux::te::generate::{BackboneConfig, TrafficModel, backbone};
use traflux::te::{
    Case, Earlier, EvaluateError, Limit, RunName, SelectorKind, StudyOptions, TrainOptions, TrainPoint,
    Watch, study,
};
use traflux_core::BitRate;
use traflux_policy::Checkpoint;

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
    let row = said_by_training.lines().nth(1).unwrap();
    // 40 and 40; 16 sets of 16 matrices each time, and once more to see how far rewards differ.
    assert!(row.split_whitespace().skip(3).take(2).eq(["80", "10496"]), "{row}");
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
    let timed = said(at, &["bench", "backbone.json", "tm.rows", "--checkpoint", "policy.safetensors"]);
    assert!(timed.contains("\nobservation and choice by policy: median "), "{timed}");
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
        let number = |at| line.split_whitespace().nth(at).unwrap().parse::<usize>().unwrap();
        // Of one state two sets are judged for each update after the 10 on examples, of the one that was broken off fewer.
        let (updates, rewards) = (number(3), number(4));
        assert!((2 * (updates - 10)..=2 * (updates - 9)).contains(&rewards), "{line}");
        updates
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

/// Stops some reports after the point at which imitation ends.
struct Late {
    limit: Limit,
    reports: AtomicUsize,
}

impl Watch for Late {
    fn progress(&self, _: f64, _: &str) {
        let left = self.reports.load(Ordering::Relaxed);
        if left > 0 && left < usize::MAX && self.reports.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.limit.stop();
        }
    }

    fn point(
        &self,
        _: &RunName,
        point: &TrainPoint,
        _: &Checkpoint,
        _: Option<&Checkpoint>,
    ) -> Result<(), EvaluateError> {
        if point.update == 40 {
            self.reports.store(6, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[test]
fn a_training_that_ends_between_two_points_says_what_was_done() {
    let network = backbone(&BackboneConfig { nodes: 7, ..BackboneConfig::default() }, 3).unwrap();
    let mean = BitRate::gigabits_per_second(1.0);
    let matrices = TrafficModel::Lognormal { mean, sigma: 1.0 }.matrices(&network, 12, 1).unwrap();
    let (name, group) = ("seven".to_owned(), "seven".to_owned());
    let case = Case { name, group, network, matrices, count: 4, train: 9, validate: 3, test: 3 };
    let limit = Limit::default();
    let options = StudyOptions {
        train: TrainOptions {
            teacher: Some(SelectorKind::Quick),
            example_updates: 40,
            updates: 160,
            states: 3,
            draws: 3,
            ..TrainOptions::default()
        },
        seeds: vec![1],
        without: Vec::new(),
        leave_one_out: false,
        rivals: vec![SelectorKind::TopKCritical],
        fixed_set: false,
        block: 1,
        fallback: true,
        limit: limit.clone(),
    };
    let watch = Late { limit, reports: AtomicUsize::new(usize::MAX) };
    let study = study(std::slice::from_ref(&case), &options, &watch).unwrap();
    let trained = &study.folds[0].runs[0].trained;
    let last = trained.curve.last().unwrap();
    assert!(study.stopped && last.rewards == 0, "the last point is at the end of imitation");
    assert!(trained.updates > 40 && trained.rewards >= 9 * (trained.updates as u64 - 40), "{trained:?}");
    let line = study.table().lines().nth(1).unwrap().to_owned();
    assert!(line.contains(&format!(" {} ", trained.rewards)), "{line}");
    assert!(line.contains("not finished; --resume goes on after 40"), "{line}");
    let curve = study.curve_csv();
    let done = format!(",learned,1,{},{},", trained.updates, trained.rewards);
    assert!(curve.lines().last().unwrap().starts_with(&done), "{curve}");
}

/// Stops when the test has begun.
struct AtTheTest(Limit);

impl Watch for AtTheTest {
    fn progress(&self, _done: f64, what: &str) {
        if what == "test" {
            self.0.stop();
        }
    }

    fn point(
        &self,
        _name: &RunName,
        _point: &TrainPoint,
        _last: &Checkpoint,
        _best: Option<&Checkpoint>,
    ) -> Result<(), EvaluateError> {
        Ok(())
    }
}

#[test]
fn a_limit_within_the_test_loses_nothing_of_the_training() {
    let case = |name: &str, seed: u64| {
        let network = backbone(&BackboneConfig { nodes: 7, ..BackboneConfig::default() }, seed).unwrap();
        let mean = BitRate::gigabits_per_second(1.0);
        let matrices = TrafficModel::Lognormal { mean, sigma: 1.0 }.matrices(&network, 12, 1).unwrap();
        let (name, group) = (name.to_owned(), name.to_owned());
        Case { name, group, network, matrices, count: 4, train: 9, validate: 3, test: 3 }
    };
    let limit = Limit::default();
    let options = StudyOptions {
        train: TrainOptions {
            example_updates: 20,
            identities: false,
            updates: 20,
            states: 3,
            draws: 3,
            ..TrainOptions::default()
        },
        seeds: vec![1],
        without: Vec::new(),
        leave_one_out: false,
        rivals: vec![SelectorKind::TopK, SelectorKind::TopKCritical],
        fixed_set: false,
        block: 1,
        fallback: true,
        limit: limit.clone(),
    };
    let study = study(&[case("one", 3), case("two", 4)], &options, &AtTheTest(limit)).unwrap();
    assert!(study.stopped);
    let tests = &study.folds[0].tests;
    let tested: Vec<&str> = tests.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(tested, ["one", "two"]);
    for (_, played) in tests {
        assert!(played.arms.iter().any(|arm| arm.name == "learned" && !arm.performance.is_empty()));
    }
    assert!(study.curve_csv().lines().count() > 2);
}
