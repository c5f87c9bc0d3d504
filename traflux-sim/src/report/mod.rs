//! How did the arms do, for people?
//!
//! [`Report::table`] is text for a terminal, [`Report::html`] one self-contained page: no script, font or image
//! from elsewhere.

mod chart;
mod page;
mod table;

pub use page::STYLE;

use crate::compare::ArmResult;
use crate::outcome::Outcome;
use crate::scenario::Scenario;

/// Everything that a report is made of.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// What was played.
    pub scenario: &'a Scenario,
    /// The arms, in the order of the table.
    pub arms: &'a [ArmResult],
    /// Name of the arm that the report is about; the last one where there is no such arm.
    pub focus: &'a str,
    /// Name of the arm that it is held against in the headline; the first one where there is no such arm.
    pub baseline: &'a str,
    /// Lines for the foot of the page: command, commit, machine.
    pub notes: &'a [String],
}

/// A number of the table: its heading, how it is found, its factor and decimals for people.
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    pub(crate) number: fn(&Outcome) -> f64,
    pub(crate) scale: f64,
    pub(crate) decimals: usize,
}

/// The numbers of every table; less is better in all of them.
pub(crate) const COLUMNS: [Column; 9] = [
    Column { heading: "mean ms", number: |o| o.mean.as_millis(), scale: 1.0, decimals: 1 },
    Column { heading: "p50 ms", number: |o| o.p50.as_millis(), scale: 1.0, decimals: 0 },
    Column { heading: "p95 ms", number: |o| o.p95.as_millis(), scale: 1.0, decimals: 0 },
    Column { heading: "p99 ms", number: |o| o.p99.as_millis(), scale: 1.0, decimals: 0 },
    Column { heading: "error %", number: |o| o.error_ratio, scale: 100.0, decimals: 3 },
    Column { heading: "SLO miss %", number: |o| o.slo_miss_ratio, scale: 100.0, decimals: 2 },
    Column { heading: "$/1M", number: |o| o.billed_price.get(), scale: 1.0, decimals: 3 },
    Column { heading: "churn/min", number: |o| o.churn_per_minute, scale: 1.0, decimals: 3 },
    Column { heading: "max util", number: |o| o.max_utilization, scale: 1.0, decimals: 2 },
];

impl<'a> Report<'a> {
    pub(crate) fn focus_arm(&self) -> Option<&'a ArmResult> {
        self.arms.iter().find(|a| a.name == self.focus).or(self.arms.last())
    }

    pub(crate) fn baseline_arm(&self) -> Option<&'a ArmResult> {
        self.arms.iter().find(|a| a.name == self.baseline).or(self.arms.first())
    }

    pub(crate) fn seeds(&self) -> usize {
        self.arms.iter().map(|a| a.outcomes.len()).max().unwrap_or(0)
    }

    /// Names of the windows, in the order of the scenario.
    pub(crate) fn window_names(&self) -> Vec<&'a str> {
        let outcome = self.arms.iter().find_map(|a| a.outcomes.first());
        outcome.map_or_else(Vec::new, |o| o.windows.iter().map(|w| w.name.as_str()).collect())
    }

    /// Tables for a terminal: all arms, means by window, and paired differences where there are several seeds.
    #[must_use]
    pub fn table(&self) -> String {
        table::text(self)
    }

    /// One page with plots and tables; the plots show the first seed.
    #[must_use]
    pub fn html(&self) -> String {
        page::html(self)
    }
}

/// Text that is safe between tags and inside quoted attributes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
