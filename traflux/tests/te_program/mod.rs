//! Runs `traflux te`.
// Not every file of tests needs all of it.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Output};

pub(crate) fn te(at: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_traflux")).current_dir(at).arg("te").args(arguments).output().unwrap()
}

/// What a successful command printed.
pub(crate) fn said(at: &Path, arguments: &[&str]) -> String {
    let output = te(at, arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}: {err}");
    out
}

/// What a failing command complained about.
pub(crate) fn refused(at: &Path, arguments: &[&str]) -> String {
    let output = te(at, arguments);
    assert!(!output.status.success(), "{arguments:?} was taken");
    String::from_utf8(output.stderr).unwrap()
}

pub(crate) fn made(at: &Path) {
    said(at, &["generate", "network", "backbone.json", "--nodes", "8", "--seed", "7"]);
    said(at, &["generate", "matrices", "backbone.json", "tm.rows", "--count", "12", "--utilization", "0.9"]);
}

/// What a successful command said beside its result.
pub(crate) fn warned(at: &Path, arguments: &[&str]) -> String {
    let output = te(at, arguments);
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {err}");
    err
}
