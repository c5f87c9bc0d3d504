//! What was claimed, and what came of it?

use crate::measure::{Pair, Theirs, Times, paired};
use crate::spread::{Ratio, median, quantile};

/// What a number has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// It is only shown.
    None,
    /// Not above; whether that is judged.
    AtMost(f64, bool),
    /// Not below; whether that is judged.
    AtLeast(f64, bool),
}

impl Goal {
    pub(crate) fn at_most(limit: f64, judged: bool) -> Self {
        Self::AtMost(limit, judged)
    }

    pub(crate) fn at_least(limit: f64, judged: bool) -> Self {
        Self::AtLeast(limit, judged)
    }

    fn verdict(self, value: f64) -> &'static str {
        let met = match self {
            Self::AtMost(limit, true) => value <= limit,
            Self::AtLeast(limit, true) => value >= limit,
            _ => return "–",
        };
        if met { "met" } else { "missed" }
    }
}

/// Both sides on the same problems.
pub(crate) struct Comparison<'a> {
    pub claim: &'a str,
    pub problem: &'a str,
    pub ours: &'a str,
    pub plain: &'a str,
    /// Ours, cold or in sequence.
    pub times: &'a Times,
    pub theirs: &'a Theirs,
    pub goal: Goal,
}

/// Rows of a Markdown table.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<[String; 9]>,
}

impl Table {
    /// Adds a number that is no time.
    pub(crate) fn value(&mut self, claim: &str, problem: &str, what: &str, value: f64, goal: Goal) {
        let goal_text = match goal {
            Goal::AtMost(limit, _) => format!("≤ {limit:.0e}"),
            Goal::AtLeast(limit, _) => format!("≥ {limit:.0e}"),
            Goal::None => "–".to_owned(),
        };
        let ours = format!("{what} {value:.1e}");
        self.add(claim, problem, &goal_text, &ours, ["–"; 4], goal.verdict(value));
    }

    /// Adds the time of our side alone, in milliseconds.
    pub(crate) fn time(&mut self, claim: &str, problem: &str, what: &str, times: &Times, goal: Goal) {
        let times: Vec<f64> = times.iter().flatten().copied().collect();
        let goal_text = match goal {
            Goal::AtMost(limit, _) => format!("median ≤ {limit} ms"),
            Goal::AtLeast(limit, _) => format!("median ≥ {limit} ms"),
            Goal::None => "–".to_owned(),
        };
        let ours = format!("{what} {}", milliseconds(&times));
        self.add(claim, problem, &goal_text, &ours, ["–"; 4], goal.verdict(median(&times) * 1e3));
    }

    /// Adds a comparison.
    pub(crate) fn ratio(&mut self, comparison: &Comparison<'_>) {
        let wall = paired(comparison.times, &comparison.theirs.wall);
        let cpu = paired(comparison.times, &comparison.theirs.cpu);
        let all = |of: fn(&Pair) -> &Vec<f64>| -> Vec<f64> { wall.iter().flat_map(of).copied().collect() };
        let (ours, plain) = (all(|pair| &pair.0), all(|pair| &pair.1));
        let (by_wall, by_cpu) = (Ratio::of(&wall), Ratio::of(&cpu));
        let goal_text = match comparison.goal {
            Goal::AtMost(limit, _) => format!("≤ {limit} ×"),
            Goal::AtLeast(limit, _) => format!("≥ {limit} ×"),
            Goal::None => "–".to_owned(),
        };
        self.add(
            comparison.claim,
            comparison.problem,
            &goal_text,
            &format!("{} {}", comparison.ours, milliseconds(&ours)),
            [comparison.plain, &milliseconds(&plain), &interval(by_wall), &interval(by_cpu)],
            comparison.goal.verdict(by_wall.value.min(by_cpu.value)),
        );
    }

    fn add(&mut self, claim: &str, problem: &str, goal: &str, ours: &str, theirs: [&str; 4], verdict: &str) {
        let [plain, time, by_wall, by_cpu] = theirs;
        let row = [claim, problem, goal, ours, plain, time, by_wall, by_cpu, verdict];
        self.rows.push(row.map(str::to_owned));
    }

    /// The table, columns under each other.
    pub(crate) fn print(&self) -> String {
        let header = [
            "claim",
            "problem",
            "goal",
            "ours, ms: median (p95)",
            "plain method",
            "ms: median (p95)",
            "ratio [95 % interval]",
            "by its CPU time",
            "",
        ]
        .map(str::to_owned);
        let all: Vec<&[String; 9]> = std::iter::once(&header).chain(&self.rows).collect();
        let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..9).map(width).collect();
        let mut text = String::new();
        for (at, row) in all.iter().enumerate() {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
            text.push_str(&format!("|{}\n", cells.collect::<String>()));
            if at == 0 {
                let lines = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2)));
                text.push_str(&format!("|{}\n", lines.collect::<String>()));
            }
        }
        text
    }
}

fn interval(ratio: Ratio) -> String {
    format!("{} [{}, {}]", rounded(ratio.value), rounded(ratio.low), rounded(ratio.high))
}

fn milliseconds(seconds: &[f64]) -> String {
    format!("{} ({})", rounded(median(seconds) * 1e3), rounded(quantile(seconds, 0.95) * 1e3))
}

/// Three digits that count.
fn rounded(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_judged_only_where_it_was_set_for_these_data() {
        assert_eq!(Goal::at_most(0.2, true).verdict(0.2), "met");
        assert_eq!(Goal::at_least(200.0, true).verdict(199.0), "missed");
        assert_eq!(Goal::at_most(0.2, false).verdict(9.0), "–");
        assert_eq!(Goal::at_most(0.2, true).verdict(f64::NAN), "missed");
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([0.0714, 3.456, 34.56, 345.6].map(rounded), ["0.071", "3.46", "34.6", "346"]);
    }
}
