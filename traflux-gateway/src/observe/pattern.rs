//! What is the daily and weekly shape of traffic, how does it grow, and how high are its peaks?
//!
//! The model is `rate(t) = level(t) · factor(hour of the week)` with a level on a straight line. Both are robust:
//! the line has Sen's slope of days, and a factor is the median over weeks of rate over level; so an outage or a
//! batch job leaves no trace in them. Fitted in two rounds: first days are compared only with the same weekday of
//! other weeks, then, divided by the factors so found, each with each, which takes half the variance. Below two
//! weeks of history the factors are those of the hour of the day, below three days the level is flat.

use traflux_core::Timestamp;

use super::history::{HOURS_PER_WEEK, Hour, Measure, TrafficHistory, hour_of_week};
use super::robust::{Slope, center_and_spread, median, quantile, seasonal_slope};

/// Least number of known hours for a profile.
const LEAST_HOURS: usize = 24;

/// Standard deviations of a two-sided interval of 90 %.
const Z: f64 = 1.645;

/// The shape of one stream's traffic. Rates are in units per second of its [`Measure`].
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Of what.
    pub measure: Measure,
    /// Factors by hour of the week from Monday 00:00 local time, mean 1.
    pub factors: [f64; HOURS_PER_WEEK],
    /// Whether days of the week are told apart, which takes two weeks of history.
    pub weekly: bool,
    /// Known hours behind it.
    pub hours: usize,
    /// How the level grows.
    pub growth: Growth,
    /// Standard deviation of an hour's rate over its expectation, by the median absolute deviation.
    pub spread: f64,
    /// How high it peaks.
    pub peaks: Peaks,
    /// The line of the level: its value in the middle of the history, and where that is, in local hours.
    middle: (f64, f64),
    offset_hours: f64,
}

/// Growth of the level in units per second per day, and its interval of 90 %.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// The slope.
    pub per_day: f64,
    /// Lower end; −∞ where the history is too short to tell.
    pub low: f64,
    /// Upper end; ∞ where the history is too short to tell.
    pub high: f64,
}

/// Peaks over means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Mean rate of all hours.
    pub mean: f64,
    /// The 95th percentile of hours over the mean.
    pub p95_over_mean: f64,
    /// The 99th percentile of hours over the mean.
    pub p99_over_mean: f64,
    /// Rate of the highest hour.
    pub peak_hour: f64,
    /// When that hour began.
    pub peak_hour_at: Timestamp,
    /// The 95th percentile over hours of the peak minute over its hour's mean.
    pub minute_over_hour: f64,
}

impl TrafficHistory {
    /// The shape of a stream's traffic up to the hour of `now`; `None` below 24 known hours or without traffic.
    #[must_use]
    pub fn profile(&self, stream: usize, measure: Measure, now: Timestamp) -> Option<Profile> {
        let hours = self.hours(stream, now);
        let mean = hours.iter().map(|hour| hour.rate(measure)).sum::<f64>() / hours.len() as f64;
        if hours.len() < LEAST_HOURS || mean <= 0.0 {
            return None;
        }
        let span = hours.last()?.number - hours.first()?.number;
        let weekly = span >= 2 * HOURS_PER_WEEK as u64 - 24;
        let mut factors = [1.0; HOURS_PER_WEEK];
        let mut line = Line { middle: 0.0, level: mean, slope: None };
        for round in 0..2 {
            line = Line::fit(&hours, measure, &factors, weekly && round == 0)?;
            factors = self::factors(&hours, measure, &line, weekly, mean);
        }
        let mut ratios: Vec<f64> = hours
            .iter()
            .filter_map(|hour| {
                let expected = line.at(hour.number as f64 + 0.5).max(0.0) * factors[hour.of_week()];
                (expected > 0.0).then(|| hour.rate(measure) / expected)
            })
            .collect();
        let (_, spread) = center_and_spread(&mut ratios)?;
        let mut rates: Vec<f64> = hours.iter().map(|hour| hour.rate(measure)).collect();
        let peak = hours.iter().max_by(|a, b| a.rate(measure).total_cmp(&b.rate(measure)))?;
        let mut bursts: Vec<f64> = hours.iter().map(|hour| hour.burst(measure)).collect();
        let peaks = Peaks {
            mean,
            p95_over_mean: quantile(&mut rates, 0.95)? / mean,
            p99_over_mean: quantile(&mut rates, 0.99)? / mean,
            peak_hour: peak.rate(measure),
            peak_hour_at: self.hour_start(peak.number),
            minute_over_hour: quantile(&mut bursts, 0.95)?,
        };
        let growth =
            line.slope
                .map_or(Growth { per_day: 0.0, low: f64::NEG_INFINITY, high: f64::INFINITY }, |slope| {
                    Growth { per_day: slope.slope, low: slope.low, high: slope.high }
                });
        Some(Profile {
            measure,
            factors,
            weekly,
            hours: hours.len(),
            growth,
            spread,
            peaks,
            middle: (line.middle, line.level),
            offset_hours: self.local_hours(Timestamp::ZERO),
        })
    }
}

impl Profile {
    /// The level at a moment, with growth as fitted, in units per second.
    #[must_use]
    pub fn level(&self, at: Timestamp) -> f64 {
        self.level_growing(at, self.growth.per_day)
    }

    /// The rate to expect at a moment, in units per second.
    #[must_use]
    pub fn expected(&self, at: Timestamp) -> f64 {
        self.level(at) * self.factor(at)
    }

    /// The factor of the hour of a moment.
    #[must_use]
    pub fn factor(&self, at: Timestamp) -> f64 {
        self.factors[hour_of_week(self.local_hours(at).max(0.0) as u64)]
    }

    /// The greatest factor of the week, and its hour of the week from Monday 00:00.
    #[must_use]
    pub fn peak_factor(&self) -> (f64, usize) {
        let greatest = self.factors.iter().copied().enumerate().rev().max_by(|a, b| a.1.total_cmp(&b.1));
        greatest.map_or((1.0, 0), |(hour, factor)| (factor, hour))
    }

    /// The level at a moment if it grew so much per day: all lines meet in the middle of the history. Never
    /// negative.
    pub(crate) fn level_growing(&self, at: Timestamp, per_day: f64) -> f64 {
        let days = (self.local_hours(at) - self.middle.0) / 24.0;
        (self.middle.1 + per_day * days).max(0.0)
    }

    fn local_hours(&self, at: Timestamp) -> f64 {
        at.as_secs_f64() / 3600.0 + self.offset_hours
    }
}

/// The straight line of the level.
struct Line {
    /// Local hours.
    middle: f64,
    level: f64,
    /// Per day.
    slope: Option<Slope>,
}

impl Line {
    /// Fits days divided by their factors; `by_weekday` compares only the same weekday of different weeks, while
    /// factors are not known yet.
    fn fit(
        hours: &[Hour],
        measure: Measure,
        factors: &[f64; HOURS_PER_WEEK],
        by_weekday: bool,
    ) -> Option<Self> {
        let mut days: Vec<(u64, f64, f64, u32)> = Vec::new();
        for hour in hours {
            let day = hour.number / 24;
            if days.last().is_none_or(|last| last.0 != day) {
                days.push((day, 0.0, 0.0, 0));
            }
            if let Some(last) = days.last_mut() {
                last.1 += hour.rate(measure);
                last.2 += factors[hour.of_week()];
                last.3 += 1;
            }
        }
        // A day of few known hours says little, unless there are no others.
        if days.iter().filter(|day| day.3 >= 18).count() >= 3 {
            days.retain(|day| day.3 >= 18);
        }
        let points: Vec<(usize, f64, f64)> = days
            .iter()
            .filter(|day| day.2 > 0.0)
            .map(|(day, sum, factor, _)| {
                (if by_weekday { (*day % 7) as usize } else { 0 }, *day as f64, sum / factor)
            })
            .collect();
        // Factors of seven weekdays were fitted to the same days and took some of their scatter.
        let days = points.len() as f64;
        let z = if by_weekday || days <= 14.0 { Z } else { Z * (days / (days - 7.0)).sqrt() };
        let slope = if points.len() >= 3 { seasonal_slope(&points, z) } else { None };
        let per_day = slope.map_or(0.0, |slope| slope.slope);
        let middle = (points.first()?.1 + points.last()?.1) / 2.0;
        let mut levels: Vec<f64> = points.iter().map(|(_, day, y)| y - per_day * (day - middle)).collect();
        // A day's value stands for its noon.
        Some(Self { middle: middle * 24.0 + 12.0, level: median(&mut levels)?, slope })
    }

    fn at(&self, local_hours: f64) -> f64 {
        self.level + self.slope.map_or(0.0, |slope| slope.slope) * (local_hours - self.middle) / 24.0
    }
}

fn factors(hours: &[Hour], measure: Measure, line: &Line, weekly: bool, mean: f64) -> [f64; HOURS_PER_WEEK] {
    let mut of_week: Vec<Vec<f64>> = vec![Vec::new(); HOURS_PER_WEEK];
    let mut of_day: Vec<Vec<f64>> = vec![Vec::new(); 24];
    for hour in hours {
        // Where the line nears zero, ratios would explode.
        let level = line.at(hour.number as f64 + 0.5).max(mean * 0.01);
        let ratio = hour.rate(measure) / level;
        of_week[hour.of_week()].push(ratio);
        of_day[hour.of_week() % 24].push(ratio);
    }
    let of_day: Vec<Option<f64>> = of_day.iter_mut().map(|ratios| median(ratios)).collect();
    let mut factors = [1.0; HOURS_PER_WEEK];
    for (ix, factor) in factors.iter_mut().enumerate() {
        let own = if weekly { median(&mut of_week[ix]) } else { None };
        *factor = own.or(of_day[ix % 24]).unwrap_or(1.0);
    }
    let sum: f64 = factors.iter().sum();
    if sum > 0.0 {
        for factor in &mut factors {
            *factor *= HOURS_PER_WEEK as f64 / sum;
        }
    }
    factors
}
