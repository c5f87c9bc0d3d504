//! The whole loop on an embedded fleet, for whoever wants to see it run.

use std::path::PathBuf;
use std::time::Instant;

use traflux_sim::report::Report;
use traflux_sim::{Scenario, SimError};

use super::arms::ArmKind;
use super::compare::{Claim, Comparison, compare};
use crate::progress::Progress;

/// What to play.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// The scenario.
    pub scenario: Scenario,
    /// Seeds; the plots show the first.
    pub seeds: Vec<u64>,
    /// Arms.
    pub arms: Vec<ArmKind>,
    /// The arm that the report is about.
    pub focus: ArmKind,
    /// Where the page goes; `None`: no page.
    pub html: Option<PathBuf>,
    /// The command, for the foot of the page.
    pub command: String,
}

/// What came of it.
#[derive(Debug)]
pub struct DemoResult {
    /// All runs.
    pub comparison: Comparison,
    /// Tables for a terminal.
    pub table: String,
    /// What must hold, and whether it does.
    pub claims: Vec<Claim>,
    /// The page.
    pub html: Option<PathBuf>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// A demonstration that could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The simulation.
    #[error(transparent)]
    Sim(#[from] SimError),
    /// The page cannot be written.
    #[error("{path}: {reason}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        reason: String,
    },
}

impl DemoError {
    /// A stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Sim(error) => error.code(),
            Self::Io { .. } => "demo_io",
        }
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}

/// Plays every arm with a progress bar on standard error, and writes the page.
///
/// # Errors
/// [`DemoError`].
pub fn demo(options: &DemoOptions) -> Result<DemoResult, DemoError> {
    let began = Instant::now();
    let runs = options.seeds.len() * options.arms.len();
    let bar = Progress::new(format!("{runs} runs"));
    let whole = runs.max(1) as f64;
    let progress = |done: f64| bar.set(done / whole);
    let comparison = compare(&options.scenario, &options.seeds, &options.arms, &progress)?;
    drop(bar);
    let seconds = began.elapsed().as_secs_f64();
    let notes = [
        format!("made by `{}`, Traflux {}", options.command, env!("CARGO_PKG_VERSION")),
        format!("{runs} runs of {:.0} virtual s in {seconds:.1} s", options.scenario.duration_s),
    ];
    let report = Report {
        scenario: &comparison.scenario,
        arms: &comparison.arms,
        focus: options.focus.name(),
        baseline: ArmKind::StaticCapacity.name(),
        notes: &notes,
    };
    if let Some(path) = &options.html {
        let io = |error: std::io::Error| DemoError::Io {
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        std::fs::write(path, report.html()).map_err(io)?;
    }
    let table = report.table();
    let claims = comparison.claims(options.focus);
    Ok(DemoResult { table, claims, html: options.html.clone(), seconds, comparison })
}
