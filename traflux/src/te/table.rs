//! The comparison as text and as CSV.

use std::fmt::Write as _;

use super::evaluate::Comparison;

impl Comparison {
    /// A table for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        let stale = if self.stale { ", each choice one matrix old" } else { "" };
        let _ = writeln!(
            out,
            "{} matrices, at most {} of {} pairs rerouted{stale}",
            self.optimal.len(),
            self.count,
            self.pairs
        );
        let with_delay = self.arms.iter().any(|arm| !arm.delay_ratio.is_empty());
        let _ = writeln!(
            out,
            "{:<18} {:>7} {:>15} {:>7} {:>7} {:>11} {:>11} {:>8} {:>9}{}",
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
            let Some(summary) = arm.summary() else { continue };
            let _ = write!(
                out,
                "{:<18} {:>7.4} [{:.4}, {:.4}] {:>7.4} {:>7.4} {:>11.1} {:>11.1} {:>8.1} {:>9.1}",
                arm.name,
                summary.mean,
                summary.mean_interval.low,
                summary.mean_interval.high,
                summary.p5,
                summary.min,
                100.0 * mean(&arm.selected),
                100.0 * mean(&arm.rerouted),
                mean(&arm.changed_pairs),
                median(&arm.selection_us),
            );
            if with_delay {
                let _ = write!(out, " {:>6.4}", mean(&arm.delay_ratio));
            }
            out.push('\n');
        }
        if !self.bound.is_empty() {
            let bound = mean(&self.bound);
            let _ = writeln!(out, "{:<18} {bound:>7.4}  no choice of so many pairs can be better", "(bound)");
        }
        let best = self.arms.iter().max_by(|a, b| mean(&a.performance).total_cmp(&mean(&b.performance)));
        if let Some(best) = best {
            for arm in self.arms.iter().filter(|arm| arm.name != best.name) {
                if let Some(gain) = best.gain_over(arm) {
                    let _ = writeln!(
                        out,
                        "{} − {}: {:+.4} [{:+.4}, {:+.4}]",
                        best.name, arm.name, gain.mean, gain.interval.low, gain.interval.high
                    );
                }
            }
        }
        out
    }

    /// One line per matrix and arm.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut out = String::from(
            "matrix,selector,optimal_utilization,pr_u,selected,rerouted,changed_pairs,pr_delay\n",
        );
        let first = self.history + usize::from(self.stale);
        for arm in &self.arms {
            for (ix, optimal) in self.optimal.iter().enumerate() {
                let number = |values: &[f64], at: Option<usize>| {
                    at.and_then(|at| values.get(at)).map_or_else(String::new, f64::to_string)
                };
                let _ = writeln!(
                    out,
                    "{},{},{optimal},{},{},{},{},{}",
                    first + ix,
                    arm.name,
                    number(&arm.performance, Some(ix)),
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

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
