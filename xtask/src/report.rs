//! What came of all the steps?

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use crate::process::{self, Outcome, Show};

/// Writes a line to the terminal. A closed terminal is no reason to stop.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It did what it should.
    Ok,
    /// It did not, and why.
    Failed(String),
    /// It did not run, and why.
    NotRun(String),
}

/// One step and what it counted.
#[derive(Debug)]
struct Line {
    name: &'static str,
    elapsed: Duration,
    verdict: Verdict,
    counts: Counts,
}

/// Tests that passed and tests that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
}

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: Vec<Line>,
}

impl Report {
    /// Runs a step, shows what it writes, and counts the tests in it.
    pub(crate) fn step(&mut self, name: &'static str, command: Command, deadline: Duration) -> Outcome {
        say(&format!("\n== {name}: {}", shown(&command)));
        let outcome = process::run(command, deadline, Show::All);
        let verdict = match &outcome.problem {
            None => Verdict::Ok,
            Some(problem) => Verdict::Failed(problem.clone()),
        };
        say(&format!("== {name}: {} in {:.1} s", word(&verdict), outcome.elapsed.as_secs_f64()));
        let counts = Counts::read(&outcome.output);
        self.lines.push(Line { name, elapsed: outcome.elapsed, verdict, counts });
        outcome
    }

    /// Adds a step that was not a program, or did not run.
    pub(crate) fn add(&mut self, name: &'static str, elapsed: Duration, verdict: Verdict) {
        self.lines.push(Line { name, elapsed, verdict, counts: Counts::default() });
    }

    /// Whether nothing failed.
    pub(crate) fn is_ok(&self) -> bool {
        self.counts().failed == 0
    }

    /// All tests; a step that failed without naming a test counts as one.
    fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for line in &self.lines {
            sum.passed += line.counts.passed;
            sum.failed += line.counts.failed;
            if matches!(line.verdict, Verdict::Failed(_)) && line.counts.failed == 0 {
                sum.failed += 1;
            }
        }
        sum
    }

    /// The table of the steps.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from("\nstep                 time  tests  result\n");
        for line in &self.lines {
            let tests = line.counts.passed + line.counts.failed;
            text.push_str(&format!(
                "{:<16} {:>6.1} s {:>6}  {}{}\n",
                line.name,
                line.elapsed.as_secs_f64(),
                if tests == 0 { "-".to_owned() } else { tests.to_string() },
                word(&line.verdict),
                match &line.verdict {
                    Verdict::Ok => String::new(),
                    Verdict::Failed(why) | Verdict::NotRun(why) => format!(": {why}"),
                },
            ));
        }
        let total: Duration = self.lines.iter().map(|l| l.elapsed).sum();
        text.push_str(&format!("{:<16} {:>6.1} s", "all", total.as_secs_f64()));
        text
    }

    /// The line that ends everything: `N passed, N failed`.
    pub(crate) fn sum(&self) -> String {
        let counts = self.counts();
        format!("{} passed, {} failed", counts.passed, counts.failed)
    }
}

impl Counts {
    /// Reads the result lines of `cargo test` and of pytest, and the claims of the live tests.
    fn read(output: &str) -> Self {
        let mut counts = Self::default();
        for line in output.lines() {
            if let Some(result) = line.trim_start().strip_prefix("test result: ") {
                counts.passed += number_before(result, " passed");
                counts.failed += number_before(result, " failed");
            } else if let Some(result) = pytest_result(line) {
                counts.passed += number_before(result, " passed");
                counts.failed += number_before(result, " failed") + number_before(result, " error");
            } else if line.starts_with("claim ") && line.ends_with(" ok") {
                counts.passed += 1;
            } else if line.starts_with("claim ") && line.ends_with(" FAILED") {
                counts.failed += 1;
            }
        }
        counts
    }
}

/// The last line of pytest: `2 failed, 59 passed in 4.64s`.
fn pytest_result(line: &str) -> Option<&str> {
    let (result, time) = line.rsplit_once(" in ")?;
    let counts = result.ends_with(" passed") || result.ends_with(" failed") || result.contains(" passed, ");
    (counts && time.split(' ').next()?.ends_with('s') && result.starts_with(|c: char| c.is_ascii_digit()))
        .then_some(result)
}

fn number_before(text: &str, word: &str) -> usize {
    let digits = text.find(word).map(|end| &text[..end]).and_then(|head| head.rsplit(' ').next());
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Failed(_) => "FAILED",
        Verdict::NotRun(_) => "not run",
    }
}

fn shown(command: &Command) -> String {
    let name = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let program = name(command.get_program());
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    std::iter::once(program).chain(command.get_args().map(name)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_claims_add_up() {
        let output = "\
running 3 tests
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
test result: FAILED. 11 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
2 failed, 59 passed, 1 skipped in 4.64s
claim 1: 2000 requests, largest deviation 1.2 sigma ok
claim 2: rows differ by 0.02, at least 0.1 expected FAILED
claim 3: not a verdict
";
        assert_eq!(Counts::read(output), Counts { passed: 74, failed: 5 });
    }

    #[test]
    fn a_step_that_fails_without_a_test_counts_as_one_failure() {
        let mut report = Report::default();
        report.add("clippy", Duration::from_secs(2), Verdict::Failed("exit status: 101".into()));
        report.add("live", Duration::ZERO, Verdict::NotRun("no Envoy".into()));
        assert!(!report.is_ok());
        assert_eq!(report.sum(), "0 passed, 1 failed");
        assert!(report.table().contains("live                0.0 s      -  not run: no Envoy"));
    }
}
