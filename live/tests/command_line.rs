//! Does the program say what it can do? (Being an integration test, this also makes `cargo test` build the
//! program, with the features of the tests.)

use std::process::Command;

#[test]
fn every_claim_is_listed_by_its_number() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_traflux-live")).args(["claims", "--list"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<&str> = text.lines().filter_map(|l| l.split([' ', ':']).nth(1)).collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "5", "6", "7", "8"]);
}

#[test]
fn a_claim_that_does_not_exist_is_refused_with_the_limits() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_traflux-live")).args(["claims", "--claims", "9"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("1..=8"));
}

#[test]
fn a_rig_that_cannot_start_names_the_program() {
    let dir = std::env::temp_dir().join(format!("traflux-live-cli-{}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_traflux-live"))
        .args(["claims", "--claims", "1", "--traflux", "/nonexistent/traflux", "--work-dir"])
        .arg(&dir)
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("traflux"));
    std::fs::remove_dir_all(&dir).unwrap();
}
