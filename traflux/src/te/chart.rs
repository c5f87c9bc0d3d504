//! How are lines drawn on a page without a script?

use std::fmt::Write as _;

use traflux_sim::report::escape;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;
/// Colours in the style sheet.
pub(crate) const COLORS: usize = 9;
/// Points of a line; more would only make the page large.
const POINTS: usize = 1000;

/// Ranges and names of both axes.
pub(crate) struct Axes {
    pub(crate) x: (f64, f64),
    pub(crate) y: (f64, f64),
    pub(crate) x_name: &'static str,
    pub(crate) y_name: &'static str,
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

/// One line, or the points of one kind.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// Position among the colours.
    pub(crate) color: usize,
    /// For what does not change: a bound, a rival.
    pub(crate) dashed: bool,
}

/// Draws lines, or with `joined` unset points.
pub(crate) fn figure(
    out: &mut String,
    title: &str,
    about: &str,
    axes: &Axes,
    series: &[Series],
    joined: bool,
) {
    let (title, about) = (escape(title), escape(about));
    let _ = write!(
        out,
        "<figure class=\"chart\"><figcaption><h2>{title}</h2><p>{about}</p></figcaption><div class=\"legend\">"
    );
    for one in series {
        let mark = if one.dashed { "height:3px;" } else { "" };
        let _ = write!(
            out,
            "<span><i style=\"{mark}background:var(--arm-{})\"></i> {}</span> ",
            one.color % COLORS,
            escape(&one.name)
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
    for Series { name, points, color, dashed } in series {
        let color = color % COLORS;
        let name = escape(name);
        if joined {
            out.push_str("<polyline class=\"line\" points=\"");
            for point in points {
                let (x, y) = axes.at(*point);
                let _ = write!(out, "{x:.1},{y:.1} ");
            }
            let dash = if *dashed { ";stroke-dasharray:6 4" } else { ";stroke-width:2" };
            let _ =
                write!(out, "\" style=\"stroke:var(--arm-{color}){dash}\"><title>{name}</title></polyline>");
        } else {
            for point in points {
                let (x, y) = axes.at(*point);
                let _ = write!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\" style=\"fill:var(--arm-{color})\"><title>{name}</title></circle>"
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
pub(crate) fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(POINTS).max(1);
    points.chunks(step).filter_map(|near| near.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))).collect()
}
