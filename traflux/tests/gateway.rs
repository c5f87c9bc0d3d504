//! `traflux gateway`: what people write is read as they mean it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn traflux(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_traflux")).args(arguments).output().unwrap()
}

/// Checks a file as an engine inside another program reads it.
fn check(text: &str, more: &[&str]) -> (bool, String) {
    check_as(text, &[&["--embedded"], more].concat())
}

fn check_as(text: &str, more: &[&str]) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    let output = traflux(&[&["gateway", "check", path], more].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap().replace(path, "FILE"))
}

const SMALL: &str = r#"
routing:
  strategy: adaptive
  rules:
    - name: high-priority
      match: { headers: { X-Priority: "critical" } }
      route: { backend: premium-ai, weight: 100 }
    - name: cost-optimized
      match: { path: /v1/completions, user_tier: free }
      route: { backend: [openai-basic, anthropic-basic], algorithm: least-cost }
    - name: latency-optimized
      match: { path: /v1/chat }
      route: { backend: [openai-premium, anthropic-premium], algorithm: least-latency, health_check: true }
"#;

#[test]
fn rules_in_their_short_form_are_read_and_shown_in_order() {
    let (passed, said) = check(SMALL, &[]);
    assert!(passed, "{said}");
    let lines: Vec<_> = said.lines().take(4).map(str::trim).collect();
    assert_eq!(lines[0], "FILE: 3 rules, 5 backends, 0 limits");
    assert_eq!(lines[1], "high-priority      adaptive           premium-ai x 100");
    assert_eq!(lines[2], "cost-optimized     least-cost         openai-basic x 1, anthropic-basic x 1");
    assert!(
        said.contains("warning: routing.rules[0].route: backend `premium-ai` is not described"),
        "{said}"
    );
    assert!(said.contains("note: no default route"), "{said}");
}

#[test]
fn what_cannot_be_served_is_refused_with_the_words_of_a_start() {
    let served = "
server: { listen: 127.0.0.1:0 }
backends: { a: { url: \"http://127.0.0.1:9\" } }
routing: { default: { backend: a } }
limits: [{ name: l, unit: requests, amount: 5 }]
";
    let (passed, said) = check_as(served, &["--strict"]);
    assert!(passed, "{said}");
    for (before, after, expected) in [
        ("a: { url: \"http://127.0.0.1:9\" }", "a: {}", "backends.a.url: a gateway needs one"),
        ("127.0.0.1:0", "\"127.0.0.1:0\", admin: \"0.0.0.0:0\"", "needs a token (server.admin_key)"),
        ("amount: 5", "amount: 5, persistent: true", "limits[0].persistent: needs server.levels_file"),
        (
            "9\" }",
            "9\", key: { env: TRAFLUX_NO_SUCH_KEY } }",
            "variable TRAFLUX_NO_SUCH_KEY holds no usable secret",
        ),
    ] {
        let refused = served.replace(before, after);
        let (passed, said) = check_as(&refused, &[]);
        assert!(!passed && said.contains("cannot be served: ") && said.contains(expected), "{said}");
        assert!(said.contains("default  adaptive"), "the rules are shown all the same: {said}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &refused).unwrap();
        let started = traflux(&["gateway", "--config", file.path().to_str().unwrap()]);
        let said = String::from_utf8(started.stderr).unwrap();
        assert!(!started.status.success() && said.contains(expected), "{said}");
        assert!(check(&refused, &[]).0, "an engine inside another program looks at none of it");
    }
}

#[test]
fn strict_fails_on_a_rule_that_can_never_decide() {
    let shadowed = "
backends: { a: {} }
routing:
  default: { backend: a }
  rules:
    - { name: wide, match: { path: /v1 }, route: { backend: a } }
    - { name: narrow, match: { path: /v1/chat }, route: { backend: a } }
";
    let (passed, said) = check(shadowed, &["--strict"]);
    assert!(!passed);
    assert!(
        said.contains("rule `narrow` can never decide: `wide`, tried before, takes all that it matches"),
        "{said}"
    );
    assert!(check(shadowed, &[]).0);
}

#[test]
fn a_wrong_key_or_value_is_named_with_its_path() {
    for (text, expected) in [
        ("routing: { rule: [] }", "unknown field `rule`"),
        ("routing: { default: { backend: a, algorithm: fastest } }", "unknown variant `fastest`"),
        (
            "limits: [{ name: l, unit: tokens, amount: 0 }]",
            "limits[0].amount: 0 is outside (0, 1000000000000000]",
        ),
        ("backends: { a: { url: \"ftp://x\" } }", "`ftp://x` is no URL with http:// or https:// and a host"),
        (
            "routing: { default: { backend: a }, rules: [{ name: r, match: { path: { regex: \"(\" } }, route: { backend: a } }] }",
            "regular expression `(` does not compile",
        ),
    ] {
        let (passed, said) = check(text, &[]);
        assert!(!passed && said.contains(expected), "{text}: {said}");
    }
}

#[test]
fn the_file_of_the_documentation_has_no_warning() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gateway.md");
    let text = std::fs::read_to_string(docs).unwrap();
    let yaml = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let (passed, said) = check(yaml, &["--strict"]);
    assert!(passed, "{said}");
}

#[test]
fn the_check_says_what_the_controller_will_move() {
    let plan = "
backends: { a: { url: \"http://127.0.0.1:1\" }, b: { url: \"http://127.0.0.1:2\" } }
routing: { default: { backend: [a, b] } }
control: { capacity_rps: { a: 50 } }
";
    let (passed, said) = check(plan, &["--strict"]);
    assert!(
        passed && said.contains("control: moves the weights of default; capacity to be learned: b"),
        "{said}"
    );
    let (passed, said) = check(&plan.replace("[a, b]", "a"), &["--strict"]);
    assert!(
        !passed && said.contains("warning: control: no rule under `adaptive` has two backends"),
        "{said}"
    );
    let (passed, said) = check(&plan.replace("a: 50", "c: 50"), &[]);
    assert!(!passed && said.contains("control.capacity_rps.c: no backend has this name"), "{said}");
    let frozen = plan.replace("capacity_rps: { a: 50 }", "mode: frozen, checkpoint: /nowhere");
    let (passed, said) = check(&frozen, &[]);
    assert!(!passed && said.contains("control.checkpoint: checkpoint /nowhere"), "{said}");
}

#[test]
fn the_schema_of_a_gateway_is_one_of_its_own() {
    let output = traflux(&["schema", "gateway"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["routing"].is_object() && schema["properties"]["sources"].is_null());
}

#[test]
fn a_plan_is_written_for_envoy_with_what_it_cannot_say() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let plan = "
backends: { a: { url: \"http://127.0.0.1:9\" } }
routing: { default: { backend: a, algorithm: round-robin } }
limits: [{ name: rpm, unit: requests, amount: 60 }]
";
    std::fs::write(file.path(), plan).unwrap();
    let path = file.path().to_str().unwrap();
    let output = traflux(&["gateway", "envoy", path]);
    let (config, report) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{report}");
    assert!(config.contains("static_resources") && config.contains("local_ratelimit"), "{config}");
    assert!(report.contains("limits"), "{report}");
    std::fs::write(file.path(), plan.replace("requests", "tokens")).unwrap();
    let output = traflux(&["gateway", "envoy", path, "--strict"]);
    assert!(!output.status.success() && output.stdout.is_empty());
}

#[test]
fn envoy_asks_the_service_that_is_named_who_a_client_is() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let plan = format!(
        "
identity: {{ api_keys: [{{ name: ci, sha256: {hash}, tenant: acme }}] }}
backends: {{ a: {{ url: \"https://a.example\" }} }}
routing: {{ default: {{ backend: a, algorithm: round-robin }} }}
"
    );
    std::fs::write(file.path(), plan).unwrap();
    let envoy = |arguments: &[&str]| {
        let output = traflux(&[&["gateway", "envoy", file.path().to_str().unwrap()], arguments].concat());
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (_, alone) = envoy(&[]);
    assert!(!alone.contains("ext_authz"), "{alone}");
    let (passed, config) =
        envoy(&["--authorization", "keys.example:8100", "--authorities", "/etc/roots.pem"]);
    assert!(passed && config.contains("ext_authz"), "{config}");
    assert!(config.contains("keys.example") && config.contains("8100") && config.contains("/etc/roots.pem"));
    assert!(!envoy(&["--authorization", "keys.example"]).0, "a port is missing");
}
