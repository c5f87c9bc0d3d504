//! The program as people run it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn traflux(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_traflux")).current_dir(folder).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ten virtual minutes of the built-in scenario of that name.
fn short(folder: &Path) -> String {
    let yaml = include_str!("../../traflux-sim/scenarios/brownout.yaml");
    let scenario = traflux::sim::Scenario::from_yaml(yaml).unwrap();
    let needle = format!("duration_s: {}", scenario.duration_s);
    assert!(yaml.contains(&needle), "{needle}");
    let path = folder.join("short.yaml");
    std::fs::write(&path, yaml.replace(&needle, "duration_s: 600")).unwrap();
    path.display().to_string()
}

#[test]
fn the_demonstration_plays_every_arm_and_writes_one_page() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = short(folder.path());
    let done = traflux(folder.path(), &["demo", "--scenario", &scenario, "--html", "page.html"]);
    let out = text(&done.stdout);
    assert!(done.status.success(), "{}", text(&done.stderr));
    for kind in traflux::lab::ArmKind::ALL {
        assert!(out.contains(kind.name()), "{kind} is missing in\n{out}");
    }
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("</html>"));
    for outside in ["src=\"http", "href=\"http", "@import"] {
        assert!(!page.contains(outside), "the page loads something: {outside}");
    }
}

#[test]
fn a_scenario_that_does_not_exist_is_refused_with_the_ones_that_do() {
    let folder = tempfile::tempdir().unwrap();
    let done = traflux(folder.path(), &["demo", "--scenario", "nowhere"]);
    assert_eq!(done.status.code(), Some(1));
    let words = text(&done.stderr);
    assert!(words.contains("nowhere") && words.contains("brownout"), "{words}");
}

#[test]
fn check_shows_what_a_configuration_means_and_refuses_with_the_path_of_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let good = "sources: [{ name: here }]\nservices:\n  - name: s\n    endpoints:\n      - { name: a, address: \"127.0.0.1:1\", capacity_rps: 3 }\n      - { name: b, address: \"127.0.0.1:2\", capacity_rps: 1 }\nmetrics: { prometheus: { url: \"http://127.0.0.1:9\" } }\n";
    std::fs::write(folder.path().join("traflux.yaml"), good).unwrap();
    let done = traflux(folder.path(), &["check"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("75.0 %  a"), "{}", text(&done.stdout));

    std::fs::write(folder.path().join("traflux.yaml"), good.replace("name: b", "name: a")).unwrap();
    let done = traflux(folder.path(), &["check"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("services[0].endpoints[1].name: `a` is named twice"));
}

#[test]
fn the_schema_is_one_json_document_with_every_section() {
    let folder = tempfile::tempdir().unwrap();
    let done = traflux(folder.path(), &["schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    for section in ["sources", "services", "metrics", "objective", "control", "policy", "xds", "api"] {
        assert!(schema["properties"].get(section).is_some(), "{section}");
    }
}

#[test]
fn the_shipped_checkpoint_fits_the_encoder_and_names_the_command_that_made_it() {
    use traflux::core::StateEncoder as _;
    let checkpoint = traflux::checkpoint::shipped().unwrap();
    checkpoint.check_space(&traflux::policy::FleetEncoder::default().space()).unwrap();
    assert!(checkpoint.provenance.command.starts_with("traflux train"), "{:?}", checkpoint.provenance);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    pages.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut links = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            assert!(page.parent().unwrap().join(target).exists(), "{}: {link}", page.display());
        }
    }
    assert!(links > 10, "{links} links");
}
