//! What do the same problems cost by plain means?

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use crate::Outcome;

/// The script, as it was when this was built.
const SCRIPT: &str = include_str!("../plain.py");

/// A way to solve the problem that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Method {
    PulpGlpk,
    HighsByPair,
    ScipyByPair,
    HighsByTarget,
    HighsByTargetKept,
}

impl Method {
    pub(crate) const ALL: [Self; 5] =
        [Self::PulpGlpk, Self::HighsByPair, Self::ScipyByPair, Self::HighsByTarget, Self::HighsByTargetKept];

    /// As the table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PulpGlpk => "PuLP + GLPK, by pair, whole call",
            Self::HighsByPair => "highspy by pair, build + solve",
            Self::ScipyByPair => "SciPy linprog(highs) by pair",
            Self::HighsByTarget => "highspy by target, build + solve",
            Self::HighsByTargetKept => "highspy by target, model kept warm",
        }
    }

    /// Greatest relative difference of the utilisation: PuLP reads six digits.
    pub(crate) fn tolerance(self) -> f64 {
        if self == Self::PulpGlpk { 5e-6 } else { ALL_DIGITS }
    }

    fn key(self) -> &'static str {
        match self {
            Self::PulpGlpk => "pulp_glpk",
            Self::HighsByPair => "highs_by_pair",
            Self::ScipyByPair => "scipy_by_pair",
            Self::HighsByTarget => "highs_by_target",
            Self::HighsByTargetKept => "highs_by_target_kept",
        }
    }
}

/// Greatest relative difference of a utilisation that was read with all its digits.
pub(crate) const ALL_DIGITS: f64 = 1e-6;

/// What a method found.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    /// Of each problem.
    pub seconds: Vec<f64>,
    /// Of each problem, CPU time of the process and of the programs that it started.
    pub cpu_seconds: Vec<f64>,
    /// Of each problem.
    pub utilizations: Vec<f64>,
    /// Utilisation of the problem before, with all digits.
    pub before: f64,
}

/// The process of the other side; it ends when its input does.
pub(crate) struct Plain {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    versions: String,
}

impl Plain {
    /// Starts it and waits until it has read the problems.
    pub(crate) fn start(python: &Path, problems: &Path) -> Outcome<Self> {
        let mut command = Command::new(python);
        command.arg("-c").arg(SCRIPT).arg(problems).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ours runs on one core; nothing below Python shall take another.
        for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"] {
            command.env(name, "1");
        }
        let mut child = command.spawn().map_err(|e| format!("cannot start {}: {e}", python.display()))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("the other side has no output")?);
        let mut plain = Self { child, input, output, versions: String::new() };
        let versions: std::collections::BTreeMap<String, String> = serde_json::from_str(&plain.line()?)?;
        let versions = versions.iter().map(|(name, version)| format!("{name} {version}"));
        plain.versions = versions.collect::<Vec<_>>().join(", ");
        Ok(plain)
    }

    /// What it runs.
    pub(crate) fn versions(&self) -> &str {
        &self.versions
    }

    /// Solves `before` without a clock and then each of the problems with one.
    pub(crate) fn solve(
        &mut self,
        method: Method,
        series: usize,
        before: usize,
        problems: &[usize],
    ) -> Outcome<Answer> {
        let request =
            json!({ "method": method.key(), "series": series, "before": before, "problems": problems });
        let input = self.input.as_mut().ok_or("the other side has no input")?;
        writeln!(input, "{request}")?;
        input.flush()?;
        let answer: Answer = serde_json::from_str(&self.line()?)?;
        let counts = [answer.seconds.len(), answer.cpu_seconds.len(), answer.utilizations.len()];
        if counts != [problems.len(); 3] {
            return Err(format!("{} gave another number of answers", method.name()).into());
        }
        Ok(answer)
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the other side ended early; its reason is above".into());
        }
        Ok(line)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}
