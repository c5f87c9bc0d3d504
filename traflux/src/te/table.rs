//! The comparison as text and as CSV.

use std::fmt::Write as _;

use super::score::Comparison;

impl Comparison {
    /// A table for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        let stale = if self.stale { ", each choice one matrix old" } else { "" };
        let played = self.optimal.len();
        let of = if self.asked > played { format!(" of {}", self.asked) } else { String::new() };
        let near =
            if self.tolerance > 0.0 { format!(", optima to {:.0e}", self.tolerance) } else { String::new() };
        let _ = writeln!(
            out,
            "{played}{of} {}, at most {} of {} pairs rerouted{stale}{near}",
            if self.asked == 1 { "matrix" } else { "matrices" },
            self.count,
            self.pairs
        );
        let width = self.arms.iter().map(|arm| arm.name.chars().count()).fold(18, usize::max);
        let with_delay = self.arms.iter().any(|arm| !arm.delay_ratio.is_empty());
        let _ = writeln!(
            out,
            "{:<width$} {:>7} {:>16} {:>7} {:>7} {:>11} {:>11} {:>8} {:>9}{}",
            "selector",
            "PR_U",
            "95 %",
            "p5",
            "min",
            "selected %",
            "rerouted %",
            "changed",
            "µs",
            if with_delay { "   PR_Ω" } else { "" }
        );
        for arm in &self.arms {
            let Some(summary) = arm.summary(self.block) else { continue };
            let _ = write!(
                out,
                "{:<width$} {:>7.4} [{:.4}, {:.4}] {:>7.4} {:>7.4} {:>11.1} {:>11} {:>8} {:>9.1}",
                arm.name,
                summary.mean,
                summary.mean_interval.low,
                summary.mean_interval.high,
                summary.p5,
                summary.min,
                100.0 * mean(&arm.selected),
                known(100.0 * mean(&arm.rerouted)),
                known(if arm.changed_pairs.is_empty() { f64::NAN } else { mean(&arm.changed_pairs) }),
                median(&arm.selection_us),
            );
            if with_delay {
                let _ = write!(out, " {:>6.4}", mean(&arm.delay_ratio));
            }
            out.push('\n');
        }
        if !self.bound.is_empty() {
            let bound = mean(&self.bound);
            let _ =
                writeln!(out, "{:<width$} {bound:>7.4}  no choice of so many pairs can be better", "(bound)");
        }
        for (family, arms) in self.families() {
            let means: Vec<f64> = arms.iter().map(|arm| mean(&arm.performance)).collect();
            if means.len() > 1 {
                let (least, greatest) = (least(&means), means.iter().copied().fold(0.0, f64::max));
                let _ = writeln!(
                    out,
                    "{family}, {} of them: {:.4} in the mean, {least:.4} to {greatest:.4}, deviation {:.4}",
                    means.len(),
                    mean(&means),
                    deviation(&means)
                );
            }
        }
        for gain in self.gains() {
            let d = &gain.difference;
            let _ = writeln!(
                out,
                "{} − {}: {} [{}, {}]",
                gain.of,
                gain.over,
                signed(d.mean),
                signed(d.interval.low),
                signed(d.interval.high)
            );
        }
        for arm in self.arms.iter().filter(|arm| arm.fallbacks > 0) {
            let (times, of) = (arm.fallbacks, arm.performance.len());
            let _ = writeln!(
                out,
                "{}: on {times} of {of} outside what it was trained on, there greedy-relief chose",
                arm.name
            );
        }
        for name in &self.late {
            let _ = writeln!(out, "{name}: no time was left for it");
        }
        out
    }

    /// One line per matrix and arm.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut out = String::from(
            "matrix,selector,optimal_utilization,pr_u,bound,selected,rerouted,changed_pairs,pr_delay\n",
        );
        let first = self.history + usize::from(self.stale);
        for arm in &self.arms {
            for (ix, optimal) in self.optimal.iter().enumerate() {
                let number = |values: &[f64], at: Option<usize>| {
                    let known = at.and_then(|at| values.get(at)).filter(|value| value.is_finite());
                    known.map_or_else(String::new, f64::to_string)
                };
                let _ = writeln!(
                    out,
                    "{},{},{optimal},{},{},{},{},{},{}",
                    first + ix,
                    quoted(&arm.name),
                    number(&arm.performance, Some(ix)),
                    number(&self.bound, Some(ix)),
                    number(&arm.selected, Some(ix)),
                    number(&arm.rerouted, Some(ix)),
                    number(&arm.changed_pairs, ix.checked_sub(1)),
                    number(&arm.delay_ratio, Some(ix)),
                );
            }
        }
        out
    }
}

/// A field of CSV.
pub(super) fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn known(value: f64) -> String {
    if value.is_nan() { "–".to_owned() } else { format!("{value:.1}") }
}

/// A difference in four digits; one that rounds to nothing has no sign.
pub(super) fn signed(difference: f64) -> String {
    let text = format!("{difference:+.4}");
    if text[1..] == *"0.0000" { "0.0000".to_owned() } else { text }
}

pub(super) fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Standard deviation of a sample; 0 for one value.
pub(super) fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values);
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (squares / values.len().saturating_sub(1).max(1) as f64).sqrt()
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_a_sign_unless_it_rounds_to_nothing() {
        let shown = [0.0, -0.0, 4e-5, -4e-5, 6e-5, -6e-5, -1.0, f64::NAN].map(signed);
        assert_eq!(shown, ["0.0000", "0.0000", "0.0000", "0.0000", "+0.0001", "-0.0001", "-1.0000", "NaN"]);
    }
}
