//! Plots as inline SVG.
//!
//! Every plot has the same width and time axis, so that they line up below each other. Their numbers are embedded as JSON
//! for the tooltip.

use std::fmt::Write;

use serde::Serialize;

use super::escape;
use crate::condition::WindowSpan;

const WIDTH: f64 = 1080.0;
/// Wide enough for the names of lanes.
const LEFT: f64 = 126.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 24.0;

/// How values become heights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// From the first to the second.
    Linear(f64, f64),
    /// Decades from the first to the second, both positive.
    Log(f64, f64),
}

/// One line or one layer.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    /// A CSS colour.
    pub(super) color: String,
    pub(super) values: Vec<f64>,
    /// Drawn bold and on top.
    pub(super) strong: bool,
}

/// A plot over time.
#[derive(Debug, Clone)]
pub(super) struct Chart<'a> {
    pub(super) id: &'static str,
    pub(super) title: &'a str,
    pub(super) subtitle: &'a str,
    pub(super) unit: &'static str,
    pub(super) decimals: usize,
    pub(super) height: f64,
    pub(super) scale: Scale,
    /// Layers that add up instead of lines.
    pub(super) stacked: bool,
    /// Moments of the values, in seconds, and the end of time.
    pub(super) times: &'a [f64],
    pub(super) end_s: f64,
    pub(super) windows: &'a [WindowSpan],
    pub(super) series: Vec<Series>,
}

/// A row of spans: name, colour, and (from, to, text).
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) color: String,
    pub(super) spans: Vec<(f64, f64, String)>,
}

#[derive(Serialize)]
struct Embedded<'a> {
    unit: &'a str,
    decimals: usize,
    left: f64,
    right: f64,
    width: f64,
    end: f64,
    times: &'a [f64],
    stacked: bool,
    series: Vec<EmbeddedSeries<'a>>,
}

#[derive(Serialize)]
struct EmbeddedSeries<'a> {
    name: &'a str,
    color: &'a str,
    values: Vec<f64>,
}

impl Chart<'_> {
    pub(super) fn figure(&self) -> String {
        let mut out = String::new();
        let _ = write!(
            out,
            "<figure class=\"chart\" id=\"{}\"><figcaption><h2>{}</h2><p>{}</p></figcaption>",
            self.id,
            escape(self.title),
            escape(self.subtitle)
        );
        self.legend(&mut out);
        self.svg(&mut out);
        let data = Embedded {
            unit: self.unit,
            decimals: self.decimals,
            left: LEFT,
            right: RIGHT,
            width: WIDTH,
            end: self.end_s,
            times: self.times,
            stacked: self.stacked,
            series: self
                .series
                .iter()
                .map(|s| EmbeddedSeries {
                    name: &s.name,
                    color: &s.color,
                    values: s.values.iter().map(|v| round(*v)).collect(),
                })
                .collect(),
        };
        // `<` never stands as such in a script element.
        let json = serde_json::to_string(&data).unwrap_or_else(|_| "{}".to_owned()).replace('<', "\\u003c");
        let _ = write!(out, "<script type=\"application/json\">{json}</script></figure>");
        out
    }

    fn legend(&self, out: &mut String) {
        out.push_str("<div class=\"legend\">");
        for (ix, series) in self.series.iter().enumerate() {
            let _ = write!(
                out,
                "<button type=\"button\" data-ix=\"{ix}\"{}><i style=\"background:{}\"></i>{}</button>",
                if series.strong { " class=\"strong\"" } else { "" },
                escape(&series.color),
                escape(&series.name)
            );
        }
        out.push_str("</div>");
    }

    fn svg(&self, out: &mut String) {
        let _ = write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">",
            self.height,
            escape(self.title)
        );
        frame(out, self.height, self.end_s, self.windows);
        self.value_axis(out);
        if self.stacked {
            self.layers(out);
        } else {
            self.lines(out);
        }
        let _ = write!(
            out,
            "<line class=\"cursor\" y1=\"{TOP}\" y2=\"{}\" x1=\"0\" x2=\"0\"/></svg>",
            self.height - BOTTOM
        );
    }

    fn x(&self, time: f64) -> f64 {
        position(time, self.end_s)
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear(low, high) => (value - low) / (high - low).max(1e-12),
            Scale::Log(low, high) => (value.max(low) / low).ln() / (high / low).ln().max(1e-12),
        };
        TOP + (self.height - TOP - BOTTOM) * (1.0 - share.clamp(0.0, 1.0))
    }

    fn value_axis(&self, out: &mut String) {
        for tick in ticks(self.scale) {
            let y = self.y(tick);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 7.0,
                y + 3.5,
                label(tick)
            );
        }
        let _ = write!(
            out,
            "<text class=\"unit\" x=\"{:.1}\" y=\"13\" text-anchor=\"end\">{}</text>",
            LEFT - 7.0,
            escape(self.unit)
        );
    }

    fn lines(&self, out: &mut String) {
        let mut order: Vec<usize> = (0..self.series.len()).collect();
        order.sort_by_key(|ix| self.series[*ix].strong);
        for ix in order {
            let series = &self.series[ix];
            let mut points = String::new();
            for (time, value) in self.times.iter().zip(&series.values) {
                let _ = write!(points, "{:.1},{:.1} ", self.x(*time), self.y(*value));
            }
            let _ = write!(
                out,
                "<polyline class=\"line{}\" data-ix=\"{ix}\" style=\"stroke:{}\" points=\"{}\"/>",
                if series.strong { " strong" } else { "" },
                escape(&series.color),
                points.trim_end()
            );
        }
    }

    fn layers(&self, out: &mut String) {
        let mut below = vec![0.0; self.times.len()];
        for (ix, series) in self.series.iter().enumerate() {
            let mut path = String::new();
            for (k, time) in self.times.iter().enumerate() {
                let top = below[k] + series.values.get(k).copied().unwrap_or(0.0);
                let _ =
                    write!(path, "{}{:.1} {:.1}", if k == 0 { "M" } else { "L" }, self.x(*time), self.y(top));
            }
            for (k, time) in self.times.iter().enumerate().rev() {
                let _ = write!(path, "L{:.1} {:.1}", self.x(*time), self.y(below[k]));
                below[k] += series.values.get(k).copied().unwrap_or(0.0);
            }
            let _ = write!(
                out,
                "<path class=\"layer\" data-ix=\"{ix}\" style=\"fill:{}\" d=\"{path}Z\"/>",
                escape(&series.color)
            );
        }
        // Windows shade what is below them; over layers they are outlined instead.
        let bottom = self.height - BOTTOM;
        for (from, to) in self.windows.iter().flat_map(|w| &w.spans) {
            for at in [from, to] {
                let x = self.x(*at);
                let _ = write!(
                    out,
                    "<line class=\"edge\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\"/>"
                );
            }
        }
    }
}

/// A figure of lanes below each other, on the same time axis.
pub(super) fn lanes(
    title: &str,
    subtitle: &str,
    lanes: &[Lane],
    end_s: f64,
    windows: &[WindowSpan],
) -> String {
    const ROW: f64 = 20.0;
    let height = TOP + BOTTOM + ROW * lanes.len() as f64;
    let mut out = String::new();
    let _ = write!(
        out,
        "<figure class=\"chart\"><figcaption><h2>{}</h2><p>{}</p></figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(title),
        escape(subtitle),
        escape(title)
    );
    frame(&mut out, height, end_s, windows);
    for (ix, lane) in lanes.iter().enumerate() {
        let y = TOP + ROW * ix as f64;
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
            WIDTH - RIGHT,
            y + ROW,
            y + ROW
        );
        for (from, to, text) in &lane.spans {
            let (x, right) = (position(*from, end_s), position(*to, end_s));
            let _ = write!(
                out,
                "<rect class=\"span\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" style=\"fill:{}\">\
                 <title>{}</title></rect>",
                y + 4.0,
                (right - x).max(1.2),
                ROW - 8.0,
                escape(&lane.color),
                escape(text)
            );
        }
        let _ = write!(
            out,
            "<text class=\"lane\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 7.0,
            y + ROW / 2.0 + 3.5,
            escape(&shortened(&lane.name))
        );
    }
    out.push_str("</svg></figure>");
    out
}

/// Time axis and shaded windows with their names.
fn frame(out: &mut String, height: f64, end_s: f64, windows: &[WindowSpan]) {
    let bottom = height - BOTTOM;
    for window in windows {
        for (k, (from, to)) in window.spans.iter().enumerate() {
            let (x, right) = (position(*from, end_s), position(*to, end_s));
            let _ = write!(
                out,
                "<rect class=\"window\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
                (right - x).max(1.0),
                bottom - TOP,
                escape(&window.name)
            );
            // About six units a character: a name that does not fit is left to the tooltip.
            if k == 0 && right - x > 6.0 * window.name.len() as f64 {
                let _ = write!(
                    out,
                    "<text class=\"windowname\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    (x + right) / 2.0,
                    TOP - 7.0,
                    escape(&window.name)
                );
            }
        }
    }
    let step = [60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0, 7200.0, 21600.0, 86400.0]
        .into_iter()
        .find(|step| end_s / step <= 13.0)
        .unwrap_or(end_s.max(1.0));
    let mut at = 0.0;
    while at <= end_s + 1e-9 {
        let x = position(at, end_s);
        let _ = write!(
            out,
            "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0}:{:02.0}</text>",
            height - 7.0,
            (at / 3600.0).floor(),
            (at % 3600.0) / 60.0
        );
        at += step;
    }
    let _ = write!(
        out,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>",
        WIDTH - RIGHT
    );
}

/// A name that fits left of the plot.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 21;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}

fn position(time: f64, end_s: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * (time / end_s.max(1e-9)).clamp(0.0, 1.0)
}

fn ticks(scale: Scale) -> Vec<f64> {
    match scale {
        Scale::Linear(low, high) => {
            let rough = (high - low).max(1e-12) / 4.0;
            let unit = 10f64.powf(rough.log10().floor());
            let step =
                [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|m| m * unit >= rough).unwrap_or(10.0) * unit;
            let first = (low / step - 1e-9).ceil() as i64;
            let last = (high / step + 1e-9).floor() as i64;
            (first..=last).map(|k| k as f64 * step).collect()
        }
        Scale::Log(low, high) => {
            let mut ticks = Vec::new();
            let mut decade = 10f64.powf(low.log10().floor());
            while decade <= high {
                ticks.extend(
                    [1.0, 2.0, 5.0]
                        .map(|m| m * decade)
                        .into_iter()
                        .filter(|t| *t >= low * 0.999 && *t <= high * 1.001),
                );
                decade *= 10.0;
            }
            ticks
        }
    }
}

/// Up to two decimals, none that is zero.
fn label(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Five significant digits are enough for a tooltip.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let factor = 10f64.powf(4.0 - value.abs().log10().floor());
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_inside_the_scale() {
        assert_eq!(ticks(Scale::Linear(0.0, 1.0)), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(ticks(Scale::Linear(-3.1, 0.2)), [-3.0, -2.0, -1.0, 0.0]);
        assert_eq!(ticks(Scale::Log(20.0, 2000.0)), [20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0]);
        assert_eq!(["0.25", "1", "0", "2000"], [0.25, 1.0, -0.0, 2000.0].map(label));
    }

    #[test]
    fn tooltips_keep_five_digits() {
        assert_eq!(round(123.456_789), 123.46);
        assert_eq!(round(0.000_123_456_7), 0.000_123_46);
        assert_eq!(round(f64::NAN), 0.0);
    }
}
