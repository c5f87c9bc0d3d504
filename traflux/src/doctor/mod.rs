//! What is missing in a running set-up?
//!
//! [`diagnose`] looks at the configuration and its files, at Prometheus and what the Envoys tell it, and at
//! the running controller. Each look is a [`Finding`]; one that is not fine says how to mend it. Nothing is
//! changed, and a part that cannot be reached ends only the looks that need it.

mod controller;
mod local;
mod prometheus;

use std::fmt::Write as _;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could, or cannot be told yet.
    Warn,
    /// Traffic cannot be controlled like this.
    Fail,
}

/// One look at one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub what: String,
    /// What was seen.
    pub detail: String,
    /// What to do about it; `null` where there is nothing to do.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), detail: detail.into(), fix: None }
    }

    fn warn(what: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warn, what: what.into(), detail: detail.into(), fix: Some(fix.into()) }
    }

    fn fail(what: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Fail, what: what.into(), detail: detail.into(), fix: Some(fix.into()) }
    }
}

/// Longest time to wait for the controller, for a port or for a name.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks at everything; takes some seconds where something does not answer.
pub async fn diagnose(config: &Config) -> Vec<Finding> {
    let (local, prometheus, controller) =
        tokio::join!(local::look(config), prometheus::look(config), controller::look(config));
    let mut findings = local;
    findings.extend(prometheus);
    findings.extend(controller);
    findings
}

/// Whether anything failed: the exit code of `traflux doctor` is then 1.
#[must_use]
pub fn failed(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.level == Level::Fail)
}

/// The findings as a list for people, ending with a line break.
#[must_use]
pub fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|f| f.what.chars().count()).max().unwrap_or(0).min(WHAT_WIDTH);
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => '✓',
            Level::Warn => '!',
            Level::Fail => '✗',
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{mark} {:width$}  {}", finding.what, finding.detail);
        if let Some(fix) = &finding.fix {
            let _ = writeln!(text, "  {:width$}  → {fix}", "");
        }
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let _ = writeln!(
        text,
        "\n{} fine, {} to look at, {} failed",
        count(Level::Ok),
        count(Level::Warn),
        count(Level::Fail)
    );
    text
}

/// Columns of what was looked at; what is longer pushes its detail to the right.
const WHAT_WIDTH: usize = 28;

/// A few names of many.
fn some_of<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    const SHOWN: usize = 6;
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len() {
        0..=SHOWN => shown,
        more => format!("{shown} and {} more", more - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_marked_and_followed_by_its_fix() {
        let findings = [
            Finding::ok("configuration", "1 source"),
            Finding::warn("clock", "3.0 s ahead", "run a time service"),
            Finding::fail("prometheus", "unreachable", "start it"),
        ];
        assert_eq!(
            render(&findings),
            "✓ configuration  1 source\n\
             ! clock          3.0 s ahead\n                 → run a time service\n\
             ✗ prometheus     unreachable\n                 → start it\n\
             \n1 fine, 1 to look at, 1 failed\n"
        );
        assert!(failed(&findings) && !failed(&findings[..2]));
    }

    #[test]
    fn many_names_are_counted_and_not_listed() {
        let names: Vec<String> = (1..=8).map(|n| format!("e{n}")).collect();
        assert_eq!(some_of(&names), "e1, e2, e3, e4, e5, e6 and 2 more");
        assert_eq!(some_of(&names[..2]), "e1, e2");
    }
}
