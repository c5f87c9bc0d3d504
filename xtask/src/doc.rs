//! Can the documentation of every crate be built without a warning?

use std::time::Duration;

use crate::report::{Report, say};
use crate::workspace;

/// Help of the task.
pub(crate) const HELP: &str = "\
Build the documentation of all crates; a warning is a failure

Usage: cargo xtask doc

No part of `cargo xtask test`: it checks every dependency once more. Examples in the documentation are run by
`cargo xtask test`.
";

/// Longest time for the build.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Runs the task.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    if let Some(unknown) = arguments.first() {
        return Err(format!("`{unknown}` is unknown; `cargo xtask doc` takes no option"));
    }
    let mut report = Report::default();
    let mut documentation = workspace::cargo(&["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    report.step("doc", documentation, LIMIT);
    say(&report.table());
    Ok(report.is_ok())
}
