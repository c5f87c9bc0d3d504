//! Does the analysis find the shape, the growth and the day of exhaustion that the traffic was made with?
#![allow(clippy::unwrap_used)]

use std::f64::consts::TAU;
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_gateway::observe::{Amount, HistorySettings, Measure, Profile, TrafficHistory};
use traflux_gateway::{PicoDollars, Rng};

/// A Monday, 00:00.
const START: u64 = 2_000 * 604_800 + 4 * 86_400;
const HOUR: u64 = 3600;

struct Traffic {
    level: f64,
    per_day: f64,
    noise: f64,
    seed: u64,
}

fn shape(hour: u64) -> f64 {
    let daily = 1.0 - 0.6 * (TAU * (hour % 24) as f64 / 24.0).cos();
    // Weekend at 40 %: the mean over the week is (5 + 2 · 0.4)/7.
    daily * if hour / 24 % 7 >= 5 { 0.4 } else { 1.0 } * 7.0 / 5.8
}

impl Traffic {
    /// Requests per second expected in an hour since the start.
    fn rate(&self, hour: u64) -> f64 {
        (self.level + self.per_day * hour as f64 / 24.0) * shape(hour)
    }

    /// A record for every minute of so many days.
    fn record(&self, days: u64) -> (TrafficHistory, Timestamp) {
        let mut history = TrafficHistory::new(1, HistorySettings::default()).unwrap();
        let mut rng = Rng::new(self.seed);
        // Day-to-day noise: hours of a day are not independent.
        let mut day_noise = 1.0;
        for hour in 0..days * 24 {
            if hour % 24 == 0 {
                day_noise = 1.0 + self.noise * (rng.uniform() + rng.uniform() + rng.uniform() - 1.5) * 2.0;
            }
            let noise = day_noise * (1.0 + self.noise * (rng.uniform() - 0.5));
            // An outage of a day in week three, a batch job at ten times the rate in week five.
            let outlier = match hour / 24 {
                17 => 0.0,
                30 if hour % 24 < 4 => 10.0,
                _ => 1.0,
            };
            let requests = (self.rate(hour) * noise * outlier * 60.0).round() as u64;
            for minute in 0..60 {
                let at = Timestamp::new(Duration::from_secs(START + hour * HOUR + minute * 60));
                let busy = Duration::from_millis(2000 * requests);
                history.record(
                    at,
                    0,
                    Amount {
                        requests,
                        tokens: 500 * requests,
                        cost: PicoDollars::new(2_000_000_000 * requests),
                        busy,
                    },
                );
            }
        }
        (history, Timestamp::new(Duration::from_secs(START + days * 86_400)))
    }

    fn profile(&self, days: u64, measure: Measure) -> (Profile, Timestamp) {
        let (history, now) = self.record(days);
        (history.profile(0, measure, now).unwrap(), now)
    }
}

#[test]
fn the_weekly_shape_is_found_in_spite_of_an_outage_and_a_batch_job() {
    let traffic = Traffic { level: 100.0, per_day: 1.0, noise: 0.1, seed: 1 };
    let (profile, now) = traffic.profile(56, Measure::Requests);
    assert!(profile.weekly);
    let mean = (0..168).map(shape).sum::<f64>() / 168.0;
    let worst =
        (0..168).map(|h| (profile.factors[h as usize] / (shape(h) / mean) - 1.0).abs()).fold(0.0, f64::max);
    assert!(worst < 0.12, "{worst}");
    assert!((profile.level(now) / (156.0 * mean) - 1.0).abs() < 0.06, "{}", profile.level(now));
    let (peak, hour) = profile.peak_factor();
    assert!((1.7..2.2).contains(&peak) && (11..=13).contains(&(hour % 24)) && hour < 120, "{peak} {hour}");
    // The batch job does raise the peaks that were seen.
    assert_eq!(profile.peaks.peak_hour_at.since_epoch().as_secs(), START + (30 * 24 + 3) * HOUR);
}

#[test]
fn little_s_law_gives_requests_in_flight() {
    let traffic = Traffic { level: 100.0, per_day: 0.0, noise: 0.0, seed: 1 };
    let (requests, now) = traffic.profile(28, Measure::Requests);
    let (concurrency, _) = traffic.profile(28, Measure::Concurrency);
    // Each request takes two seconds.
    assert!((concurrency.level(now) / requests.level(now) - 2.0).abs() < 1e-9);
}

#[test]
fn growth_lies_in_its_interval_of_90_percent_in_at_least_80_of_100_histories() {
    let mut inside = 0;
    let mut errors = Vec::new();
    for seed in 0..100 {
        let traffic = Traffic { level: 100.0, per_day: 0.5, noise: 0.1, seed };
        let growth = traffic.profile(42, Measure::Requests).0.growth;
        inside += u32::from((growth.low..=growth.high).contains(&0.5));
        errors.push((growth.per_day - 0.5).abs());
    }
    errors.sort_by(f64::total_cmp);
    eprintln!("growth of 0.5 % a day: inside its interval {inside} of 100, median error {:.3}", errors[50]);
    assert!(inside >= 80, "{inside}");
    // Least squares on days without season or outliers: 11 a day / √(42³/12) = 0.14, of which the median is 0.094.
    assert!(errors[50] < 0.11, "{}", errors[50]);
}

#[test]
fn the_day_on_which_a_limit_is_reached_is_forecast_with_an_interval() {
    let traffic = Traffic { level: 100.0, per_day: 1.0, noise: 0.06, seed: 4 };
    let (profile, now) = traffic.profile(56, Measure::Requests);
    // Without the spread the busiest hour is (156 + days) · peak factor; no bursts within an hour.
    let peak_over_level = profile.peak_factor().0 * profile.peaks.minute_over_hour * (1.0 + profile.spread);
    let limit = 200.0 * peak_over_level;
    let headroom = profile.headroom(limit, now);
    let days = headroom.exhaustion.within.unwrap().as_secs_f64() / 86_400.0;
    assert!((35.0..55.0).contains(&days), "{days}");
    assert!(headroom.exhaustion.earliest.unwrap() < headroom.exhaustion.within.unwrap());
    assert!(headroom.exhaustion.latest.is_none_or(|latest| latest > headroom.exhaustion.within.unwrap()));
    assert!((headroom.factor - 200.0 / 156.0).abs() < 0.08, "{}", headroom.factor);
    assert_eq!(profile.headroom(headroom.peak * 0.9, now).exhaustion.within, Some(Duration::ZERO));
}

#[test]
fn a_limit_is_not_in_sight_when_traffic_does_not_grow() {
    let traffic = Traffic { level: 100.0, per_day: -0.5, noise: 0.02, seed: 4 };
    let (profile, now) = traffic.profile(56, Measure::Requests);
    let exhaustion = profile.headroom(10.0 * profile.peaks.peak_hour, now).exhaustion;
    assert_eq!((exhaustion.within, exhaustion.latest), (None, None));
}

#[test]
fn a_budget_lasts_as_long_as_the_traffic_that_really_came() {
    let traffic = Traffic { level: 100.0, per_day: 1.0, noise: 0.04, seed: 9 };
    let (profile, now) = traffic.profile(49, Measure::Dollars);
    // What the next 20 days cost at $0.002 a request.
    let cost: f64 = (49 * 24..69 * 24).map(|hour| traffic.rate(hour) * 3600.0 * 0.002).sum();
    let exhaustion = profile.used_up(cost, now);
    let days = exhaustion.within.unwrap().as_secs_f64() / 86_400.0;
    assert!((days - 20.0).abs() < 1.0, "{days}");
    let (earliest, latest) = (exhaustion.earliest.unwrap(), exhaustion.latest.unwrap());
    assert!(earliest <= exhaustion.within.unwrap() && exhaustion.within.unwrap() <= latest);
    assert_eq!(profile.used_up(0.0, now).within, Some(Duration::ZERO));
    assert_eq!(profile.used_up(1e15, now).within, None);
}

#[test]
fn a_short_history_is_not_overrated() {
    let traffic = Traffic { level: 100.0, per_day: 0.0, noise: 0.0, seed: 1 };
    let (history, now) = traffic.record(1);
    let profile = history.profile(0, Measure::Requests, now).unwrap();
    assert!(!profile.weekly);
    assert_eq!((profile.growth.low, profile.growth.high), (f64::NEG_INFINITY, f64::INFINITY));
    let exhaustion = profile.headroom(1000.0, now).exhaustion;
    assert_eq!(
        (exhaustion.earliest, exhaustion.within, exhaustion.latest),
        (Some(Duration::ZERO), None, None)
    );
    let idle = TrafficHistory::new(1, HistorySettings::default()).unwrap();
    assert!(idle.profile(0, Measure::Requests, now).is_none());
    assert!(history.profile(1, Measure::Requests, now).is_none());
    assert!(
        history
            .profile(0, Measure::Requests, Timestamp::new(Duration::from_secs(START + 23 * HOUR)))
            .is_none()
    );
}

#[test]
fn equal_histories_give_bit_identical_profiles() {
    let traffic = Traffic { level: 100.0, per_day: 1.0, noise: 0.1, seed: 1 };
    let (a, b) = (traffic.profile(30, Measure::Tokens).0, traffic.profile(30, Measure::Tokens).0);
    assert_eq!(a.factors.map(f64::to_bits), b.factors.map(f64::to_bits));
    assert_eq!(a, b);
}
