//! The comparison as one self-contained page.

use std::fmt::Write as _;

use traflux_core::Network;
use traflux_sim::report::{STYLE, escape};

use super::evaluate::{ArmScore, Comparison};
use super::table::mean;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;
/// Colours of arms in the style sheet.
const COLORS: usize = 9;
/// Pairs in the table of choices.
const PAIRS_SHOWN: usize = 15;
/// Points of a line; more would only make the page large.
const POINTS: usize = 1000;

impl Comparison {
    /// One page with plots and tables: no script, font or image from elsewhere. `notes` are its last lines.
    #[must_use]
    pub fn html(&self, title: &str, network: &Network, notes: &[String]) -> String {
        let mut out = String::with_capacity(64 * 1024);
        let title = escape(title);
        let _ = write!(
            out,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>Traflux: {title}</title><style>{STYLE}</style></head><body><main>\
             <header><p class=\"brand\">Traflux</p><h1>Network <em>{title}</em></h1>\
             <p>Which pairs of nodes should leave ECMP? PR_U is the least possible utilisation of the fullest link \
             over the utilisation reached: 1 is optimal.</p>\
             <p class=\"facts\">{} nodes · {} links · {} matrices · at most {} of {} pairs rerouted{}</p></header>",
            network.nodes().len(),
            network.links().len(),
            self.optimal.len(),
            self.count,
            self.pairs,
            if self.stale { " · each choice one matrix old" } else { "" }
        );
        self.distribution(&mut out);
        self.disturbance(&mut out);
        self.course(&mut out);
        self.scores(&mut out);
        self.choices(network, &mut out);
        if !notes.is_empty() {
            out.push_str("<footer>");
            for note in notes {
                let _ = write!(out, "<p>{}</p>", escape(note));
            }
            out.push_str("</footer>");
        }
        out.push_str("</main></body></html>");
        out
    }

    fn least(&self) -> f64 {
        let all = self.arms.iter().flat_map(|arm| arm.performance.iter().copied());
        (all.fold(1.0, f64::min) * 20.0).floor() / 20.0
    }

    fn distribution(&self, out: &mut String) {
        let axes = Axes { x: (self.least(), 1.0), y: (0.0, 1.0), x_name: "PR_U", y_name: "matrices" };
        let lines = self.arms.iter().map(|arm| {
            let mut sorted = arm.performance.clone();
            sorted.sort_by(f64::total_cmp);
            let count = sorted.len() as f64;
            let points = sorted.iter().enumerate().map(|(ix, value)| (*value, (ix as f64 + 1.0) / count));
            thinned(points.collect())
        });
        let about = "Part of the matrices on which PR_U is at most this. The farther right, the better.";
        figure(out, "Distribution of PR_U", about, &axes, &self.arms, lines.collect(), true);
    }

    fn disturbance(&self, out: &mut String) {
        let most = self.arms.iter().map(|arm| mean(&arm.rerouted)).fold(0.05, f64::max);
        let axes = Axes {
            x: (0.0, (most * 11.0).ceil() / 10.0),
            y: (self.arms.iter().map(|a| mean(&a.performance)).fold(1.0, f64::min) - 0.02, 1.0),
            x_name: "traffic rerouted",
            y_name: "PR_U",
        };
        let points = self.arms.iter().map(|arm| vec![(mean(&arm.rerouted), mean(&arm.performance))]);
        let about = "Mean over all matrices. Up is better balanced, left is less disturbed.";
        figure(out, "What it takes", about, &axes, &self.arms, points.collect(), false);
    }

    fn course(&self, out: &mut String) {
        let axes = Axes {
            x: (0.0, self.optimal.len().max(2) as f64 - 1.0),
            y: (self.least(), 1.0),
            x_name: "matrix",
            y_name: "PR_U",
        };
        let lines = self.arms.iter().map(|arm| {
            thinned(arm.performance.iter().enumerate().map(|(ix, value)| (ix as f64, *value)).collect())
        });
        figure(out, "PR_U over time", "By matrix, in their order.", &axes, &self.arms, lines.collect(), true);
    }

    fn scores(&self, out: &mut String) {
        out.push_str(
            "<h2>Selectors</h2><div class=\"scroll\"><table><thead><tr><th>selector</th><th>PR_U</th><th>95 %</th>\
             <th>p5</th><th>median</th><th>min</th><th>selected</th><th>rerouted</th><th>pairs changed</th></tr></thead><tbody>",
        );
        let best = self.arms.iter().map(|arm| mean(&arm.performance)).fold(0.0, f64::max);
        for arm in &self.arms {
            let Some(s) = arm.summary() else { continue };
            let _ = write!(
                out,
                "<tr{}><th>{}</th><td>{:.4}</td><td><small>{:.4} to {:.4}</small></td><td>{:.4}</td><td>{:.4}</td>\
                 <td>{:.4}</td><td>{:.1} %</td><td>{:.1} %</td><td>{:.1}</td></tr>",
                if s.mean >= best { " class=\"focus\"" } else { "" },
                escape(&arm.name),
                s.mean,
                s.mean_interval.low,
                s.mean_interval.high,
                s.p5,
                s.p50,
                s.min,
                100.0 * mean(&arm.selected),
                100.0 * mean(&arm.rerouted),
                mean(&arm.changed_pairs)
            );
        }
        out.push_str("</tbody></table></div>");
        if !self.bound.is_empty() {
            let bound = mean(&self.bound);
            let _ =
                write!(out, "<p>No choice of so many pairs can have more than {bound:.4} in the mean.</p>");
        }
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

/// Ranges and names of both axes.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
    x_name: &'static str,
    y_name: &'static str,
}

impl Axes {
    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let part = |value: f64, (from, to): (f64, f64)| {
            if to > from { ((value - from) / (to - from)).clamp(0.0, 1.0) } else { 0.0 }
        };
        (
            LEFT + part(x, self.x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - part(y, self.y) * (HEIGHT - TOP - BOTTOM),
        )
    }
}

fn figure(
    out: &mut String,
    title: &str,
    about: &str,
    axes: &Axes,
    arms: &[ArmScore],
    series: Vec<Vec<(f64, f64)>>,
    joined: bool,
) {
    let _ = write!(
        out,
        "<figure class=\"chart\"><figcaption><h2>{title}</h2><p>{about}</p></figcaption><div class=\"legend\">"
    );
    for (ix, arm) in arms.iter().enumerate() {
        let _ = write!(
            out,
            "<span><i style=\"background:var(--arm-{})\"></i> {}</span> ",
            ix % COLORS,
            escape(&arm.name)
        );
    }
    let _ = write!(out, "</div><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
    for step in 0..=4 {
        let part = f64::from(step) / 4.0;
        let value = |(from, to): (f64, f64)| from + part * (to - from);
        let (_, y) = axes.at((axes.x.0, value(axes.y)));
        let (x, _) = axes.at((value(axes.x), axes.y.0));
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            label(value(axes.y), axes.y),
            HEIGHT - BOTTOM + 15.0,
            label(value(axes.x), axes.x)
        );
    }
    let _ = write!(
        out,
        "<text class=\"unit\" x=\"{LEFT}\" y=\"{}\">{} against {}</text>",
        HEIGHT - 4.0,
        axes.y_name,
        axes.x_name
    );
    for (ix, points) in series.iter().enumerate() {
        let color = ix % COLORS;
        if joined {
            out.push_str("<polyline class=\"line\" points=\"");
            for point in points {
                let (x, y) = axes.at(*point);
                let _ = write!(out, "{x:.1},{y:.1} ");
            }
            let _ = write!(out, "\" style=\"stroke:var(--arm-{color})\"/>");
        } else {
            for point in points {
                let (x, y) = axes.at(*point);
                let _ = write!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\" style=\"fill:var(--arm-{color})\"><title>{}</title></circle>",
                    escape(&arms[ix].name)
                );
            }
        }
    }
    out.push_str("</svg></figure>");
}

fn label(value: f64, (from, to): (f64, f64)) -> String {
    if to - from > 20.0 {
        return format!("{value:.0}");
    }
    format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// At most so many points that a line needs: of neighbours the lowest, so that the worst matrix stays.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(POINTS).max(1);
    points.chunks(step).filter_map(|near| near.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))).collect()
}
