//! Scenario files: what is refused, and in which words.

#![allow(clippy::unwrap_used)]

use traflux_sim::{Scenario, SimError};

const GOOD: &str = "
name: good
duration_s: 60
clouds: { here: { egress_usd_per_gb: 0.1 } }
sources: [{ name: west, base_rps: 10 }]
endpoints:
  - { name: a, cloud: here, slots: 5, service_ms: 20, hourly_usd: 1, rtt_ms: { west: 10 } }
processes:
  - name: crowd
    start_s: 10
    end_s: 30
    targets: [west]
    effect: { flash_crowd: { factor: 2, ramp_s: 5 } }
";

fn path_and_problem(text: &str) -> (String, String) {
    match Scenario::from_yaml(text) {
        Err(SimError::Scenario { path, problem }) => (path, problem),
        other => panic!("expected a scenario error, got {other:?}"),
    }
}

#[test]
fn every_built_in_scenario_is_valid_and_named_after_its_file() {
    for name in Scenario::built_in_names() {
        let scenario = Scenario::built_in(name).unwrap();
        assert_eq!(scenario.name, name);
        assert!(!scenario.description.is_empty());
    }
    let error = Scenario::built_in("nowhere").unwrap_err();
    assert_eq!(error.code(), "sim_unknown_scenario");
    assert!(error.to_string().contains("demo"), "{error}");
}

#[test]
fn the_demo_is_loaded_as_it_says() {
    let demo = Scenario::built_in("demo").unwrap();
    let mean: f64 = demo.sources.iter().map(|s| s.base_rps).sum();
    let utilization = mean / demo.fleet_capacity().get();
    assert!((0.36..0.45).contains(&utilization), "{utilization}");
    assert!((0.84..0.92).contains(&(2.25 * utilization)), "{utilization}");
    assert_eq!((demo.endpoints.len(), demo.sources.len(), demo.clouds.len()), (8, 3, 3));
}

#[test]
fn an_error_names_the_path_of_the_key() {
    for (old, new, path) in [
        ("factor: 2,", "faktor: 2,", "processes[0].effect.flash_crowd.faktor"),
        ("factor: 2,", "factor: high,", "processes[0].effect.flash_crowd.factor"),
        ("factor: 2,", "factor: -1,", "processes[0].effect.flash_crowd.factor"),
        ("targets: [west]", "targets: [a]", "processes[0].targets[0]"),
        ("end_s: 30", "end_s: 5", "processes[0].end_s"),
        ("slots: 5", "slots: -5", "endpoints[0].slots"),
        ("slots: 5", "slot: 5", "endpoints[0].slot"),
        ("service_ms: 20", "service_ms: 0", "endpoints[0].service_ms"),
        ("cloud: here", "cloud: there", "endpoints[0].cloud"),
        ("{ west: 10 }", "{ east: 10 }", "endpoints[0].rtt_ms.east"),
        ("base_rps: 10", "base_rps: 1e99", "sources[0].base_rps"),
        ("duration_s: 60", "duration_s: 0", "duration_s"),
        ("duration_s: 60", "durations: 60", "durations"),
        (
            "duration_s: 60",
            "duration_s: 60\nmetrics: { scrape_interval_s: 15, rate_window_s: 20 }",
            "metrics.rate_window_s",
        ),
    ] {
        assert!(GOOD.contains(old), "{old}");
        let (found, problem) = path_and_problem(&GOOD.replacen(old, new, 1));
        assert_eq!(found, path, "{problem}");
        assert!(!problem.is_empty());
    }
}

#[test]
fn a_missing_key_is_named() {
    let (_, problem) = path_and_problem(&GOOD.replace("slots: 5, ", ""));
    assert!(problem.contains("slots"), "{problem}");
}

#[test]
fn a_name_given_twice_is_refused() {
    let endpoint =
        "  - { name: a, cloud: here, slots: 5, service_ms: 20, hourly_usd: 1, rtt_ms: { west: 10 } }\n";
    let (path, problem) = path_and_problem(&GOOD.replace(endpoint, &endpoint.repeat(2)));
    assert_eq!(path, "endpoints[1].name");
    assert!(problem.contains("`a` is named twice"), "{problem}");
    let source = "{ name: west, base_rps: 10 }";
    let (path, _) = path_and_problem(&GOOD.replace(source, &format!("{source}, {source}")));
    assert_eq!(path, "sources[1].name");
}

#[test]
fn no_endpoints_and_no_sources_are_refused_and_one_of_each_is_enough() {
    let head = GOOD.split("endpoints:").next().unwrap();
    assert_eq!(path_and_problem(&format!("{head}endpoints: []")).0, "endpoints");
    let (path, _) = path_and_problem(&GOOD.replace("[{ name: west, base_rps: 10 }]", "[]"));
    assert_eq!(path, "sources");
    assert!(Scenario::from_yaml(GOOD).is_ok());
}

#[test]
fn a_source_that_reaches_nobody_is_refused() {
    let error = Scenario::from_yaml(&GOOD.replace("{ west: 10 }", "{}")).unwrap_err();
    assert_eq!(error.code(), "topology_no_route");
}

#[test]
fn text_that_is_no_yaml_is_a_syntax_error() {
    let nan = Scenario::from_yaml(&GOOD.replace("service_ms: 20", "service_ms: .nan")).unwrap_err();
    assert!(nan.to_string().contains("line 7"), "{nan}");
    let error = Scenario::from_yaml("name: [").unwrap_err();
    assert_eq!(error.code(), "sim_syntax");
    assert!(!error.is_transient());
}

#[test]
fn a_scenario_survives_being_written_and_read() {
    let scenario = Scenario::built_in("outage").unwrap();
    let text = serde_json::to_string(&scenario).unwrap();
    assert_eq!(Scenario::from_yaml(&text).unwrap(), scenario, "JSON is YAML");
}
