//! What a configuration is refused for, and with which words.
#![allow(clippy::unwrap_used)]

use traflux::{Config, ConfigError};

const GOOD: &str = r#"
sources:
  - name: us-east
    rtt_ms: { a: 2.5 }
services:
  - name: checkout
    listen: 127.0.0.1:10000
    endpoints:
      - { name: a, address: "127.0.0.1:8081", capacity_rps: 200, tier: 0 }
      - { name: b, address: "[::1]:8082", capacity_rps: 100, price_usd_per_million: 1.5 }
metrics:
  prometheus: { url: "http://127.0.0.1:9090" }
"#;

fn refusal(text: &str) -> String {
    Config::parse(text).expect_err("must be refused").to_string()
}

#[test]
fn a_small_configuration_builds_a_fleet_by_capacity() {
    let config = Config::parse(GOOD).unwrap();
    let built = config.build(&Default::default()).unwrap();
    let shares = built.fleet.fallback.shares();
    assert!((shares[0] - 200.0 / 300.0).abs() < 1e-12);
    let topology = &built.fleet.topology;
    assert_eq!(topology.routes()[0].name, "us-east/a");
    assert!((topology.routes()[0].delay.as_millis() - 2.5).abs() < 1e-12);
    assert!((topology.routes()[1].price.get() - 1.5).abs() < 1e-12);
    assert_eq!(built.fleet.services[0].endpoints[1].hosts[0].address, "::1");
}

#[test]
fn a_refusal_names_the_path_of_the_key_and_the_value() {
    let cases = [
        (
            "capacity_rps: 200",
            "capacity_rps: 200, capacity: 1",
            "services[0].endpoints[0]",
            "unknown field `capacity`",
        ),
        ("capacity_rps: 200", "capacity_rps: 20x", "services[0].endpoints[0].capacity_rps", "20x"),
        (
            "capacity_rps: 200",
            "capacity_rps: -1",
            "services[0].endpoints[0].capacity_rps",
            "-1 is outside [0,",
        ),
        ("capacity_rps: 200", "capacity_rps: .nan", "line 9 column 61", "non-finite float"),
        ("name: b", "name: a", "services[0].endpoints[1].name", "`a` is named twice"),
        ("127.0.0.1:8081", "127.0.0.1", "services[0].endpoints[0].address", "`127.0.0.1` is not host:port"),
        ("rtt_ms: { a: 2.5 }", "rtt_ms: { c: 2.5 }", "sources[0].rtt_ms.c", "no endpoint has this name"),
        ("http://", "ftp://", "metrics.prometheus.url", "must start with http://"),
        ("9090\" }", "9090\", window_s: 20 }", "metrics.prometheus.window_s", "four scrape intervals, 60"),
        ("name: us-east\n", "name: \"\"\n", "sources[0].name", "has 0 characters"),
    ];
    for (from, to, path, problem) in cases {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "the case `{to}` changes nothing");
        let message = refusal(&text);
        assert!(message.contains(path), "`{to}` must name {path}: {message}");
        assert!(message.contains(problem), "`{to}` must say `{problem}`: {message}");
    }
}

#[test]
fn keys_of_every_section_are_checked() {
    let cases = [
        ("policy: { bounds: { multiplier_min: 0 } }", "policy.bounds.multiplier_min: 0 is outside"),
        ("policy: { bounds: { multiplier_max: 0.1 } }", "policy.bounds.multiplier_max: 0.1 is outside [0.5,"),
        ("policy: { bounds: { headroom_max: 9 } }", "policy.bounds.headroom_max: 9 is outside [0, 5]"),
        ("policy: { save_to: x }", "policy.save_to: has an effect in mode `learning` only"),
        ("objective: { reward: { churn: -1 } }", "objective.reward.churn: -1 is outside"),
        (
            "control: { estimator: { demand: { growth_limit: 0.5 } } }",
            "control.estimator.demand.growth_limit: 0.5 is out of range, the nearest value in range is 1.0",
        ),
        (
            "control: { estimator: { capacity: { probe_doublings: 11 } } }",
            "control.estimator.capacity.probe_doublings: 11 is out of range",
        ),
        (
            "control: { estimator: { health: { p95_limit_ms: 0 } } }",
            "control.estimator.health.p95_limit_ms: 0 is outside",
        ),
        ("prices: { url: \"ftp://p\" }", "prices.url: `ftp://p` must start with http:// or https://"),
        ("prices: { url: \"http://p\", timeout_ms: 0 }", "prices.timeout_ms: 0 is outside"),
        (
            "prices: { url: \"http://p\", auth: { username: u } }",
            "prices.auth: `username` and `password_file`",
        ),
        ("prices: { file: p.json, headers: { a: b } }", "prices: `auth` and `headers` need `url`"),
        ("prices: { file: p.json, url: \"http://p\" }", "prices: give either `file` or `url`"),
    ];
    for (section, message) in cases {
        let refused = refusal(&format!("{GOOD}{section}\n"));
        assert!(refused.starts_with(message), "`{section}`: {refused}");
    }
    let signals = [
        ("[{ name: a, query: up }, { name: a, query: up }]", "signals[1].name: `a` is named twice"),
        ("[{ name: a, query: \" \" }]", "signals[0].query: is empty"),
        ("[{ name: a, query: up, limit: 0 }]", "signals[0].limit: 0 must be finite and above 0"),
    ];
    for (list, message) in signals {
        let refused = refusal(&GOOD.replace("9090\" }", &format!("9090\", signals: {list} }}")));
        assert_eq!(refused, format!("metrics.prometheus.{message}"));
    }
}

#[test]
fn no_endpoint_no_source_and_no_yaml_are_refused() {
    let none = GOOD.replace(
        "    endpoints:\n      - { name: a, address: \"127.0.0.1:8081\", capacity_rps: 200, tier: 0 }\n      - { name: b, address: \"[::1]:8082\", capacity_rps: 100, price_usd_per_million: 1.5 }\n",
        "    endpoints: []\n",
    );
    assert!(refusal(&none).contains("services[0].endpoints: is empty"), "{}", refusal(&none));
    assert!(
        refusal("sources: []\nservices: []\nmetrics: { prometheus: { url: \"http://x\" } }")
            .contains("is empty")
    );
    let Err(ConfigError::Syntax { .. }) = Config::parse("services: [") else { panic!("not YAML") };
    assert!(refusal("{}").contains("missing field"));
}

#[test]
fn an_api_beyond_loopback_must_be_allowed_by_name() {
    let open = format!("{GOOD}api: {{ listen: \"0.0.0.0:9902\" }}\n");
    assert!(refusal(&open).contains("api.allow_remote"));
    let allowed = format!("{GOOD}api: {{ listen: \"0.0.0.0:9902\", allow_remote: true }}\n");
    assert!(Config::parse(&allowed).is_ok());
}

#[test]
fn ten_thousand_endpoints_are_read_and_built() {
    let mut text = String::from("sources: [{ name: s }]\nservices:\n  - name: big\n    endpoints:\n");
    for ix in 0..10_000 {
        text.push_str(&format!(
            "      - {{ name: e{ix}, address: \"10.{}.{}.1:80\", capacity_rps: {} }}\n",
            ix / 250,
            ix % 250,
            1 + ix % 7
        ));
    }
    text.push_str("metrics: { prometheus: { url: \"http://127.0.0.1:9090\" } }\n");
    let config = Config::parse(&text).unwrap();
    let built = config.build(&Default::default()).unwrap();
    assert_eq!(built.fleet.topology.groups().len(), 10_000);
    assert!((built.fleet.fallback.shares().iter().sum::<f64>() - 1.0).abs() < 1e-9);
}

#[test]
fn dns_names_are_listed_and_addresses_are_not() {
    let text = GOOD.replace("127.0.0.1:8081", "backend.internal:8081");
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.dns_names(), ["backend.internal"]);
    let resolved =
        [("backend.internal".to_owned(), vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()])].into();
    let built = config.build(&resolved).unwrap();
    let hosts: Vec<&str> =
        built.fleet.services[0].endpoints[0].hosts.iter().map(|h| h.address.as_str()).collect();
    assert_eq!(hosts, ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn what_endpoints_share_is_taken_by_the_requests_of_the_sources_named() {
    let shared = "shared:\n\
        \x20 - { name: quota, capacity_per_s: 9000, per_request: { a: 350, b: 100 } }\n\
        \x20 - { name: link, capacity_per_s: 1e6, per_request: { b: 2000 }, sources: [eu] }\n";
    let text = GOOD.replace("services:", "  - name: eu\nservices:") + shared;
    let topology = Config::parse(&text).unwrap().build(&Default::default()).unwrap().fleet.topology;
    let taken = |route: &str| -> Vec<(&str, f64)> {
        let route = &topology.routes()[topology.route(route).unwrap().ix()];
        let name = |c: &traflux::core::Consumption| topology.resources()[c.resource.ix()].name.as_str();
        route.consumption.iter().map(|c| (name(c), c.per_request)).collect()
    };
    assert_eq!(taken("us-east/a"), [("a", 1.0), ("quota", 350.0)]);
    assert_eq!(taken("us-east/b"), [("b", 1.0), ("quota", 100.0)]);
    assert_eq!(taken("eu/b"), [("b", 1.0), ("quota", 100.0), ("link", 2000.0)]);
    for (right, wrong, message) in [
        ("name: quota", "name: a", "shared[0].name: `a` is named twice"),
        ("9000", "-1", "shared[0].capacity_per_s: -1 is outside [0,"),
        ("{ a: 350, b: 100 }", "{}", "shared[0].per_request: is empty"),
        ("a: 350", "c: 350", "shared[0].per_request.c: no endpoint has this name"),
        ("a: 350", "a: 0", "shared[0].per_request.a: 0 is outside [0.000000001,"),
        ("[eu]", "[asia]", "shared[1].sources[0]: no source has the name `asia`"),
    ] {
        let refused = refusal(&text.replace(right, wrong));
        assert!(refused.starts_with(message), "{refused}");
    }
}
