//! The comparison as one self-contained page.

use std::fmt::Write as _;

use traflux_core::Network;
use traflux_sim::report::{STYLE, escape};

use super::chart::{Axes, Series, figure, thinned};
use super::score::{ArmScore, Comparison};
use super::table::{mean, signed};

/// Pairs in the table of choices.
const PAIRS_SHOWN: usize = 15;

/// What the ratio means.
pub(super) const ABOUT: &str = "Which pairs of nodes should leave ECMP? PR_U is the least possible utilisation of \
                                the fullest link over the utilisation reached: 1 is optimal.";

/// The top of a page, up to the heading.
pub(crate) fn begin(title: &str, heading: &str) -> String {
    let mut out = String::with_capacity(64 * 1024);
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Traflux: {}</title><style>{STYLE}</style></head><body><main>\
         <header><p class=\"brand\">Traflux</p><h1>{heading}</h1>",
        escape(title)
    );
    out
}

/// The bottom of a page.
pub(crate) fn end(out: &mut String, notes: &[String]) {
    if !notes.is_empty() {
        out.push_str("<footer>");
        for note in notes {
            let _ = write!(out, "<p>{}</p>", escape(note));
        }
        out.push_str("</footer>");
    }
    out.push_str("</main></body></html>");
}

fn known(value: f64, unit: &str) -> String {
    if value.is_nan() { "–".to_owned() } else { format!("{value:.1}{unit}") }
}

impl Comparison {
    /// One page with plots and tables: no script, font or image from elsewhere. `notes` are its last lines.
    #[must_use]
    pub fn html(&self, title: &str, network: &Network, notes: &[String]) -> String {
        let mut out = begin(&format!("Network {title}"), &format!("Network <em>{}</em>", escape(title)));
        let _ = write!(out, "<p>{ABOUT}</p>{}</header>", self.facts(network));
        self.sections(network, &mut out);
        end(&mut out, notes);
        out
    }

    /// What was played, in one line.
    pub(super) fn facts(&self, network: &Network) -> String {
        let of = if self.asked > self.optimal.len() { format!(" of {}", self.asked) } else { String::new() };
        let near =
            if self.tolerance > 0.0 { format!(" · to {:.0e}", self.tolerance) } else { String::new() };
        format!(
            "<p class=\"facts\">{} nodes · {} links · {}{of} matrices · at most {} of {} pairs rerouted{}{near}</p>",
            network.nodes().len(),
            network.links().len(),
            self.optimal.len(),
            self.count,
            self.pairs,
            if self.stale { " · each choice one matrix old" } else { "" }
        )
    }

    /// Plots and tables.
    pub(super) fn sections(&self, network: &Network, out: &mut String) {
        self.distribution(out);
        self.disturbance(out);
        self.course(out);
        self.scores(out);
        self.differences(out);
        self.choices(network, out);
    }

    /// One line or point for each arm.
    fn series(&self, points: impl Fn(&ArmScore) -> Vec<(f64, f64)>) -> Vec<Series> {
        let arms = self.arms.iter().enumerate();
        arms.map(|(color, arm)| Series { name: arm.name.clone(), points: points(arm), color, dashed: false })
            .collect()
    }

    fn least(&self) -> f64 {
        let all = self.arms.iter().flat_map(|arm| arm.performance.iter().copied());
        (all.fold(1.0, f64::min) * 20.0).floor() / 20.0
    }

    fn distribution(&self, out: &mut String) {
        let axes = Axes { x: (self.least(), 1.0), y: (0.0, 1.0), x_name: "PR_U", y_name: "matrices" };
        let lines = self.series(|arm| {
            let mut sorted = arm.performance.clone();
            sorted.sort_by(f64::total_cmp);
            let count = sorted.len() as f64;
            let points = sorted.iter().enumerate().map(|(ix, value)| (*value, (ix as f64 + 1.0) / count));
            thinned(points.collect())
        });
        let about = "Part of the matrices on which PR_U is at most this. The farther right, the better.";
        figure(out, "Distribution of PR_U", about, &axes, &lines, true);
    }

    fn disturbance(&self, out: &mut String) {
        if self.tolerance > 0.0 {
            return;
        }
        let most = self.arms.iter().map(|arm| mean(&arm.rerouted)).fold(0.05, f64::max);
        let axes = Axes {
            x: (0.0, (most * 11.0).ceil() / 10.0),
            y: (self.arms.iter().map(|a| mean(&a.performance)).fold(1.0, f64::min) - 0.02, 1.0),
            x_name: "traffic rerouted",
            y_name: "PR_U",
        };
        let points = self.series(|arm| vec![(mean(&arm.rerouted), mean(&arm.performance))]);
        let about = "Mean over all matrices. Up is better balanced, left is less disturbed.";
        figure(out, "What it takes", about, &axes, &points, false);
    }

    fn course(&self, out: &mut String) {
        let axes = Axes {
            x: (0.0, self.optimal.len().max(2) as f64 - 1.0),
            y: (self.least(), 1.0),
            x_name: "matrix",
            y_name: "PR_U",
        };
        let mut lines = self.series(|arm| {
            thinned(arm.performance.iter().enumerate().map(|(ix, value)| (ix as f64, *value)).collect())
        });
        if !self.bound.is_empty() {
            let points = self.bound.iter().enumerate().map(|(ix, value)| (ix as f64, *value));
            let points = thinned(points.collect());
            lines.push(Series { name: "(bound)".into(), points, color: self.arms.len(), dashed: true });
        }
        figure(out, "PR_U over time", "By matrix, in their order.", &axes, &lines, true);
    }

    fn scores(&self, out: &mut String) {
        out.push_str(
            "<h2>Selectors</h2><div class=\"scroll\"><table><thead><tr><th>selector</th><th>PR_U</th><th>95 %</th>\
             <th>p5</th><th>median</th><th>min</th><th>selected</th><th>rerouted</th><th>pairs changed</th></tr></thead><tbody>",
        );
        let best = self.arms.iter().map(|arm| mean(&arm.performance)).fold(0.0, f64::max);
        for arm in &self.arms {
            let Some(s) = arm.summary(self.block) else { continue };
            let _ = write!(
                out,
                "<tr{}><th>{}</th><td>{:.4}</td><td><small>{:.4} to {:.4}</small></td><td>{:.4}</td><td>{:.4}</td>\
                 <td>{:.4}</td><td>{:.1} %</td><td>{}</td><td>{}</td></tr>",
                if s.mean >= best { " class=\"focus\"" } else { "" },
                escape(&arm.name),
                s.mean,
                s.mean_interval.low,
                s.mean_interval.high,
                s.p5,
                s.p50,
                s.min,
                100.0 * mean(&arm.selected),
                known(100.0 * mean(&arm.rerouted), " %"),
                known(if self.tolerance > 0.0 { f64::NAN } else { mean(&arm.changed_pairs) }, "")
            );
        }
        out.push_str("</tbody></table></div>");
        if !self.bound.is_empty() {
            let bound = mean(&self.bound);
            let _ =
                write!(out, "<p>No choice of so many pairs can have more than {bound:.4} in the mean.</p>");
        }
    }

    fn differences(&self, out: &mut String) {
        let gains = self.gains();
        if gains.is_empty() {
            return;
        }
        let _ = write!(
            out,
            "<h2>Differences</h2><p>PR_U of the first less that of the second, matrix by matrix; 95 %, blocks of {}.\
             </p><div class=\"scroll\"><table><thead><tr><th>difference</th><th>mean</th><th>95 %</th>\
             <th>greater on</th><th>less on</th></tr></thead><tbody>",
            self.block
        );
        for gain in &gains {
            let d = &gain.difference;
            let sure = match (d.interval.low > 0.0, d.interval.high < 0.0) {
                (true, _) => " class=\"good\"",
                (_, true) => " class=\"bad\"",
                _ => "",
            };
            let _ = write!(
                out,
                "<tr><th>{} − {}</th><td{sure}>{}</td><td><small>{} to {}</small></td><td>{:.0} %</td>\
                 <td>{:.0} %</td></tr>",
                escape(&gain.of),
                escape(&gain.over),
                signed(d.mean),
                signed(d.interval.low),
                signed(d.interval.high),
                100.0 * d.first_greater,
                100.0 * d.second_greater
            );
        }
        out.push_str("</tbody></table></div>");
    }

    fn choices(&self, network: &Network, out: &mut String) {
        let best = self.arms.iter().max_by(|a, b| mean(&a.performance).total_cmp(&mean(&b.performance)));
        let Some(best) = best.filter(|arm| !arm.chosen.is_empty()) else { return };
        let _ = write!(
            out,
            "<h2>Which pairs matter</h2><p>How often {} chose them, of {} matrices.</p><div class=\"scroll\"><table>\
             <thead><tr><th>pair</th><th>chosen</th></tr></thead><tbody>",
            escape(&best.name),
            best.performance.len()
        );
        for (pair, times) in best.chosen.iter().take(PAIRS_SHOWN) {
            let (source, target) = network.pair((*pair).into());
            let name = |node: traflux_core::NodeIx| escape(&network.nodes()[node.ix()].name);
            let share = 100.0 * *times as f64 / best.performance.len().max(1) as f64;
            let _ = write!(out, "<tr><th>{} → {}</th><td>{share:.0} %</td></tr>", name(source), name(target));
        }
        out.push_str("</tbody></table></div>");
    }
}
