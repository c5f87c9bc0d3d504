//! How does total delay grow with load, in straight pieces?

use traflux_core::Tangent;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    slope: f64,
    intercept: f64,
    /// Load from which this line is the highest.
    from: f64,
}

/// `max_k (slope_k · X + intercept_k)` for `X ≥ 0`: the tangents of a latency curve, in the order in which
/// they become the highest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Convex {
    lines: Vec<Line>,
}

impl Convex {
    /// The upper envelope of tangents, all multiplied by a factor.
    pub(crate) fn new(tangents: &[Tangent], factor: f64) -> Self {
        let mut sorted: Vec<(f64, f64)> =
            tangents.iter().map(|t| (t.slope * factor, t.intercept * factor)).collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut lines: Vec<Line> = Vec::with_capacity(sorted.len());
        for (slope, intercept) in sorted {
            let mut from = 0.0;
            while let Some(last) = lines.last() {
                if slope <= last.slope {
                    if intercept <= last.intercept {
                        from = f64::INFINITY;
                        break;
                    }
                    lines.pop();
                    continue;
                }
                from = (last.intercept - intercept) / (slope - last.slope);
                if from > last.from {
                    break;
                }
                lines.pop();
                from = 0.0;
            }
            if from.is_finite() {
                lines.push(Line { slope, intercept, from: if lines.is_empty() { 0.0 } else { from } });
            }
        }
        Self { lines }
    }

    /// Delay per second at a load.
    pub(crate) fn value(&self, load: f64) -> f64 {
        self.lines.iter().map(|l| l.slope * load + l.intercept).fold(0.0, f64::max)
    }

    /// Slope towards higher load.
    pub(crate) fn slope_after(&self, load: f64) -> f64 {
        self.lines.iter().rev().find(|l| l.from <= load).or(self.lines.first()).map_or(0.0, |l| l.slope)
    }

    /// (slope, load at which it ends) of the pieces between two loads.
    pub(crate) fn pieces(&self, from: f64, to: f64) -> impl Iterator<Item = (f64, f64)> + '_ {
        let ends = self.lines.iter().skip(1).map(|l| l.from).chain(std::iter::once(f64::INFINITY));
        self.lines
            .iter()
            .zip(ends)
            .filter(move |(line, end)| *end > from && line.from < to)
            .map(move |(line, end)| (line.slope, end.min(to)))
    }

    /// `min over X in [from, to] of value(X) − price · X`.
    pub(crate) fn least_with_price(&self, price: f64, from: f64, to: f64) -> f64 {
        let at = |x: f64| self.value(x) - price * x;
        let kinks = self.lines.iter().map(|l| l.from).filter(|x| *x > from && *x < to);
        kinks.map(at).fold(at(from).min(at(to)), f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traflux_core::{Latency, LatencyCurve, Rate};

    #[test]
    fn the_pieces_integrate_to_the_value() {
        let curve = LatencyCurve::new(Latency::millis(8.0), 6.0);
        let convex = Convex::new(&curve.tangents(Rate::per_second(90.0), 13), 1.5);
        for (low, high) in [(0.0, 80.0), (13.0, 120.0), (60.0, 60.5)] {
            let mut at = low;
            let mut sum = convex.value(low);
            let mut last = 0.0;
            for (slope, end) in convex.pieces(low, high) {
                assert!(slope > last);
                last = slope;
                sum += slope * (end - at);
                at = end;
            }
            assert!((at - high).abs() < 1e-9);
            assert!((sum - convex.value(high)).abs() < 1e-9 * sum);
        }
    }

    #[test]
    fn a_line_below_the_others_is_left_out() {
        let line = |slope, intercept| Tangent { slope, intercept };
        let convex = Convex::new(&[line(1.0, 0.0), line(2.0, -10.0), line(3.0, -11.0)], 1.0);
        assert_eq!(convex.pieces(0.0, 100.0).count(), 2);
        assert_eq!(convex.slope_after(5.5), 3.0);
        assert_eq!(convex.slope_after(5.0), 1.0);
    }
}
