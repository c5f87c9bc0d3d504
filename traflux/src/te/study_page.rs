//! A study as text, as CSV and as one self-contained page.

use std::fmt::Write as _;

use traflux_sim::report::escape;

use super::chart::{Axes, Series, figure};
use super::course::Case;
use super::page::{ABOUT, begin, end};
use super::study::{Fold, Run, Study};
use super::table::{deviation, least, mean, quoted, signed};

impl Study {
    /// Curves and tests for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        let names = self.folds.iter().flat_map(|fold| &fold.runs).map(|run| run.name.long().chars().count());
        let width = names.fold(24, usize::max);
        let _ = writeln!(
            out,
            "{:<width$} {:>8} {:>9} {:>10} {:>8} {:>8}  best after",
            "training", "updates", "rewards", "rewards/s", "PR_U", "p5"
        );
        for fold in &self.folds {
            fold.trainings(&mut out, width);
            fold.lesson(&mut out);
        }
        if self.folds.iter().any(|fold| fold.left_out.is_some()) {
            self.left_out(&mut out);
        } else {
            for (name, test) in self.folds.iter().flat_map(|fold| &fold.tests) {
                let _ = write!(out, "\n{name}, matrices set aside: {}", test.table());
            }
        }
        if self.stopped {
            out.push_str("ended early: checkpoints are the best by then, --resume goes on\n");
        }
        out
    }

    /// One line for each case that was left out.
    fn left_out(&self, out: &mut String) {
        let Some((_, first)) = self.folds.iter().flat_map(|fold| &fold.tests).next() else { return };
        let rivals: Vec<&str> =
            first.arms.iter().filter(|arm| arm.family.is_none()).map(|arm| arm.name.as_str()).collect();
        let width = self.folds.iter().flat_map(|fold| &fold.tests).map(|(name, _)| name.chars().count());
        let width = width.fold(8, usize::max);
        let _ = write!(out, "\nmean PR_U on networks left out\n{:<width$} {:>8}", "left out", "bound");
        for rival in &rivals {
            let _ = write!(out, " {rival:>15}");
        }
        out.push_str("  learned elsewhere  − first rival\n");
        for (name, test) in self.folds.iter().flat_map(|fold| &fold.tests) {
            let bound =
                if test.bound.is_empty() { "–".to_owned() } else { format!("{:.4}", mean(&test.bound)) };
            let _ = write!(out, "{name:<width$} {bound:>8}");
            for rival in &rivals {
                let value = test.arm(rival).map_or(f64::NAN, |arm| mean(&arm.performance));
                let _ = write!(out, " {value:>15.4}");
            }
            for (at, (family, arms)) in test.families().into_iter().enumerate() {
                let means: Vec<f64> = arms.iter().map(|arm| mean(&arm.performance)).collect();
                let greatest = means.iter().copied().fold(0.0, f64::max);
                if at > 0 {
                    let _ = write!(out, "; {family}");
                }
                let _ = write!(out, " {:>6.4}", mean(&means));
                if means.len() > 1 {
                    let _ = write!(out, " ({:.4} to {greatest:.4})", least(&means));
                }
            }
            let learned = test.families().first().map(|(name, _)| (*name).to_owned());
            let gains = test.gains();
            let gain = gains.iter().find(|gain| {
                Some(&gain.of) == learned.as_ref() && Some(&gain.over.as_str()) == rivals.first()
            });
            if let Some(gain) = gain {
                let d = &gain.difference;
                let [middle, low, high] = [d.mean, d.interval.low, d.interval.high].map(signed);
                let _ = write!(out, "  {middle} [{low}, {high}]");
            }
            let fallbacks: usize = test.arms.iter().map(|arm| arm.fallbacks).sum();
            if fallbacks > 0 {
                let all: usize =
                    test.families().iter().flat_map(|(_, arms)| arms).map(|arm| arm.performance.len()).sum();
                let _ = write!(out, "  greedy-relief on {fallbacks} of {all}");
            }
            out.push('\n');
        }
    }

    /// The learning curves, one line per point, and the means of rivals, which have no updates; of a training that
    /// ended early also how far it had come, without a validation.
    #[must_use]
    pub fn curve_csv(&self) -> String {
        let mut out = String::from(
            "left_out,selector,seed,update,rewards,seconds,mean_reward,validation_pr_u,validation_p5\n",
        );
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        for fold in &self.folds {
            let left_out = quoted(fold.left_out.as_deref().unwrap_or_default());
            for (name, value) in &fold.rivals {
                let _ = writeln!(out, "{left_out},{},,,,,,{value},", quoted(name));
            }
            for Run { name, trained } in &fold.runs {
                for point in &trained.curve {
                    let _ = writeln!(
                        out,
                        "{left_out},{},{},{},{},{:.3},{},{},{}",
                        quoted(&name.family()),
                        name.seed,
                        point.update,
                        point.rewards,
                        point.seconds,
                        number(point.mean_reward),
                        number(point.validation),
                        number(point.validation_p5)
                    );
                }
                // What was done after the last point and is lost.
                if trained.curve.last().is_some_and(|point| point.rewards < trained.rewards) {
                    let (updates, rewards, seconds) = (trained.updates, trained.rewards, trained.seconds);
                    let family = quoted(&name.family());
                    let _ = writeln!(
                        out,
                        "{left_out},{family},{},{updates},{rewards},{seconds:.3},,,",
                        name.seed
                    );
                }
            }
        }
        out
    }

    /// Everybody on every matrix set aside.
    #[must_use]
    pub fn test_csv(&self) -> String {
        let mut out = String::new();
        for (name, test) in self.folds.iter().flat_map(|fold| &fold.tests) {
            for (at, line) in test.csv().lines().enumerate() {
                match (at, out.is_empty()) {
                    (0, true) => {
                        let _ = writeln!(out, "network,{line}");
                    }
                    (0, false) => {}
                    _ => {
                        let _ = writeln!(out, "{},{line}", quoted(name));
                    }
                }
            }
        }
        out
    }

    /// One page with curves, plots and tables: no script, font or image from elsewhere. `notes` are its last lines.
    #[must_use]
    pub fn html(&self, title: &str, cases: &[Case], notes: &[String]) -> String {
        let mut out =
            begin(&format!("Learning on {title}"), &format!("Learning on <em>{}</em>", escape(title)));
        let runs: usize = self.folds.iter().map(|fold| fold.runs.len()).sum();
        let _ = write!(
            out,
            "<p>{ABOUT} Trained policies choose by what they learned from earlier matrices; the checkpoint that was \
             best in the validation is judged on matrices set aside.</p><p class=\"facts\">{} · {}{}</p></header>",
            counted(cases.len(), "set of matrices", "sets of matrices"),
            counted(runs, "training", "trainings"),
            if self.stopped { " · ended early" } else { "" }
        );
        for fold in &self.folds {
            fold.curve(&mut out);
        }
        for fold in &self.folds {
            for (name, test) in &fold.tests {
                let Some(case) = cases.iter().find(|case| case.name == *name) else { continue };
                let how =
                    if fold.left_out.is_some() { ", which was left out" } else { ", matrices set aside" };
                let _ = write!(out, "<h2>{}{how}</h2>{}", escape(name), test.facts(&case.network));
                test.sections(&case.network, &mut out);
            }
        }
        end(&mut out, notes);
        out
    }
}

fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

impl Fold {
    /// What was learned from, and what that rests on.
    fn lesson(&self, out: &mut String) {
        let title = self.left_out.as_ref().map_or_else(String::new, |group| format!("without {group}: "));
        let _ = write!(out, "{title}learned from {}", self.lesson.name());
        let said: Vec<String> = self
            .trials
            .iter()
            .map(|trial| format!("{} {:.4}", trial.lesson.name(), trial.validation))
            .collect();
        if !said.is_empty() {
            let _ = write!(out, "; trials: {}", said.join("; "));
        }
        out.push('\n');
    }

    /// A line for each training.
    fn trainings(&self, out: &mut String, width: usize) {
        let show = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"));
        let mut best = Vec::new();
        for Run { name, trained } in &self.runs {
            let Some(last) = trained.curve.last() else { continue };
            let chosen = trained.curve.iter().find(|point| point.update == trained.best_update);
            let chosen = chosen.unwrap_or(last);
            let speed = trained.rewards_per_second;
            let _ = writeln!(
                out,
                "{:<width$} {:>8} {:>9} {:>10} {:>8} {:>8}  {}{}",
                name.long(),
                trained.updates,
                trained.rewards,
                speed.map_or_else(|| "–".to_owned(), |speed| format!("{speed:.0}")),
                show(chosen.validation),
                show(chosen.validation_p5),
                trained.best_update,
                if trained.finished {
                    String::new()
                } else {
                    format!(", not finished; --resume goes on after {}", last.update)
                }
            );
            if name.without.is_none() {
                best.extend(chosen.validation);
            }
        }
        let title = self.left_out.as_ref().map_or_else(String::new, |group| format!("without {group}: "));
        if best.len() > 1 {
            let _ = writeln!(
                out,
                "{title}in the validation {:.4} in the mean, deviation {:.4}",
                mean(&best),
                deviation(&best)
            );
        }
        for (name, value) in &self.rivals {
            let _ = writeln!(out, "{:<width$} {value:>38.4}", format!("{title}{name}"));
        }
    }

    /// Learning curves over the validation, with the rivals as level lines.
    fn curve(&self, out: &mut String) {
        let most = self.runs.iter().filter_map(|run| run.trained.curve.last()).map(|p| p.update).max();
        let learned: Vec<f64> = self
            .runs
            .iter()
            .flat_map(|run| &run.trained.curve)
            .filter_map(|point| point.validation)
            .collect();
        let (Some(most), false) = (most, learned.is_empty()) else { return };
        let greatest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let high = greatest(&mut learned.iter().copied().chain(self.rivals.iter().map(|(_, value)| *value)));
        let lowest = least(&learned);
        // A rival far below would leave no room for what is learned.
        let floor = lowest - (high - lowest).max(0.01);
        let shown = |value: f64| value >= floor;
        let low = self.rivals.iter().map(|(_, value)| *value).filter(|v| shown(*v)).fold(lowest, f64::min);
        let axes = Axes {
            x: (0.0, most as f64),
            y: ((low * 100.0 - 0.2).floor() / 100.0, (high * 100.0 + 0.2).ceil().min(100.0) / 100.0),
            x_name: "updates",
            y_name: "PR_U",
        };
        let mut lines = Vec::new();
        for (color, Run { name, trained }) in self.runs.iter().enumerate() {
            let points = trained.curve.iter().filter_map(|p| Some((p.update as f64, p.validation?)));
            lines.push(Series { name: name.to_string(), points: points.collect(), color, dashed: false });
        }
        for (at, (name, value)) in self.rivals.iter().enumerate() {
            let below = if shown(*value) { "" } else { ", below the plot" };
            let points = if shown(*value) { vec![(0.0, *value), (most as f64, *value)] } else { Vec::new() };
            let name = format!("{name} {value:.4}{below}");
            lines.push(Series { name, points, color: self.runs.len() + at, dashed: true });
        }
        let title = match &self.left_out {
            Some(group) => format!("Learning without {group}"),
            None => "Learning".to_owned(),
        };
        let about = "Mean PR_U on matrices of the validation, which nothing is learned from. Level lines are selectors \
                     that learn nothing, and the bound that no choice of so many pairs can exceed.";
        figure(out, &title, about, &axes, &lines, true);
    }
}
