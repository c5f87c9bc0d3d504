//! Which statistics survive outliers?
//!
//! Medians, the median absolute deviation, and Sen's slope with its seasonal form and interval.

/// Turns a median absolute deviation into a standard deviation where values are normal: 1/Φ⁻¹(3/4).
pub(crate) const MAD_TO_SIGMA: f64 = 1.482_602_218_505_602;

/// The quantile `share` of values, interpolated between order statistics (Hyndman and Fan's type 7); `None` of
/// none. Sorts the values.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let rank = share.clamp(0.0, 1.0) * last as f64;
    let below = rank.floor() as usize;
    let above = (below + 1).min(last);
    Some(values[below] + (rank - below as f64) * (values[above] - values[below]))
}

/// The median; `None` of none. Sorts the values.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The median and the standard deviation by the median absolute deviation; `None` of none.
pub(crate) fn center_and_spread(values: &mut [f64]) -> Option<(f64, f64)> {
    let center = median(values)?;
    for value in values.iter_mut() {
        *value = (*value - center).abs();
    }
    Some((center, median(values)? * MAD_TO_SIGMA))
}

/// A slope and its interval, in units of y per unit of x.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Slope {
    pub(crate) slope: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Sen's slope (P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63, 1968) of
/// points `(season, x, y)`: the median slope of all pairs. Only pairs of one season are compared (R. M. Hirsch,
/// J. R. Slack, R. A. Smith, "Techniques of trend analysis for monthly water quality data", Water Resources
/// Research 18, 1982), so that seasons of different level cannot look like a trend. The interval at `z` standard
/// deviations takes the slopes of rank `(N ± z·√Var S)/2`, `Var S = Σ n(n−1)(2n+5)/18` over seasons (R. O.
/// Gilbert, "Statistical methods for environmental pollution monitoring", 1987, section 17.4). `None` without a
/// pair.
pub(crate) fn seasonal_slope(points: &[(usize, f64, f64)], z: f64) -> Option<Slope> {
    let mut slopes = Vec::new();
    for (ix, (season, x, y)) in points.iter().enumerate() {
        for (other, later, value) in &points[ix + 1..] {
            if season == other && later != x {
                slopes.push((value - y) / (later - x));
            }
        }
    }
    let slope = median(&mut slopes)?;
    let seasons = points.iter().map(|p| p.0).max()?;
    let mut variance = 0.0;
    for season in 0..=seasons {
        let n = points.iter().filter(|p| p.0 == season).count() as f64;
        variance += n * (n - 1.0) * (2.0 * n + 5.0) / 18.0;
    }
    let count = slopes.len() as f64;
    let half = z * variance.sqrt();
    // Ranks count from one; where the interval is wider than all slopes, the extreme ones are all there is.
    let at = |rank: f64| slopes[(rank.clamp(1.0, count) as usize) - 1];
    Some(Slope {
        slope,
        low: at(((count - half) / 2.0).floor()),
        high: at(((count + half) / 2.0).ceil() + 1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_values_may_be_wild() {
        let mut values = [1.0, 2.0, 3.0, 4.0, 1e300];
        assert_eq!(center_and_spread(&mut values), Some((3.0, MAD_TO_SIGMA)));
        assert_eq!(median(&mut []), None);
        assert_eq!(quantile(&mut [4.0, 1.0, 3.0, 2.0], 0.5), Some(2.5));
    }

    #[test]
    fn sens_slope_is_the_median_of_pairs_and_keeps_seasons_apart() {
        // y = 2x in both seasons, one season 1000 higher, one outlier.
        let mut points: Vec<(usize, f64, f64)> = (0..20)
            .map(|x| (x % 2, x as f64, 2.0 * x as f64 + if x % 2 == 1 { 1000.0 } else { 0.0 }))
            .collect();
        points[7].2 = 1e6;
        let slope = seasonal_slope(&points, 1.96).unwrap();
        assert_eq!(slope.slope, 2.0);
        assert!(slope.low <= 2.0 && slope.high >= 2.0);
        assert_eq!(seasonal_slope(&points[..1], 1.96), None);
    }

    #[test]
    fn the_interval_has_the_ranks_of_the_textbook() {
        // Gilbert's ranks for n = 10, z = 1.645: Var S = 125, C = 18.39, M1 = 13.3, M2 + 1 = 32.7 of 45 slopes.
        let points: Vec<(usize, f64, f64)> = (0..10).map(|x| (0, f64::from(x), f64::from(x * x))).collect();
        let slope = seasonal_slope(&points, 1.645).unwrap();
        let mut all: Vec<i32> = (0..10).flat_map(|a| (a + 1..10).map(move |b| a + b)).collect();
        all.sort_unstable();
        assert_eq!((slope.low, slope.high), (f64::from(all[12]), f64::from(all[32])));
    }
}
