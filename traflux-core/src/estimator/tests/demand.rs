//! The demand forecast, on readings whose truth is known.

use std::time::Duration;

use crate::estimate::FlowEstimate;
use crate::estimator::config::DemandConfig;
use crate::estimator::demand::DemandTracker;
use crate::units::Timestamp;

const WINDOW: f64 = 60.0;
const DELAY: f64 = 3.0;

fn average(rate: &dyn Fn(f64) -> f64, end: f64, window: f64) -> f64 {
    (0..60).map(|ix| rate(end - window * (f64::from(ix) + 0.5) / 60.0)).sum::<f64>() / 60.0
}

/// Ticks every 5 s on scrapes every 15 s of a 60 s average of `rate`, and gives (time, estimate).
fn watch(rate: &dyn Fn(f64) -> f64, seconds: u32) -> Vec<(f64, FlowEstimate)> {
    let config = DemandConfig::default();
    let mut tracker = DemandTracker::default();
    (1..=seconds / 5)
        .map(|tick| {
            let now = 5.0 * f64::from(tick);
            let scrape = (now / 15.0).floor() * 15.0;
            let at = Timestamp::from_secs_f64(1e9 + now);
            let age = Duration::from_secs_f64(now - scrape);
            let offered = average(rate, scrape, WINDOW);
            tracker.observe(at, Duration::from_secs_f64(WINDOW), offered, age, &config);
            (now, tracker.estimate(at, DELAY, &config))
        })
        .collect()
}

#[test]
fn the_first_reading_is_the_forecast() {
    let (_, first) = watch(&|_| 120.0, 5)[0];
    assert!((first.demand.get() - 120.0).abs() < 1e-9);
}

#[test]
fn a_steady_demand_has_a_narrow_band() {
    let noisy = |t: f64| 1000.0 + 20.0 * (t / 7.0).sin();
    let (_, last) = *watch(&noisy, 900).last().unwrap();
    assert!((last.demand.get() - 1000.0).abs() < 20.0);
    assert!(last.upper.get() < 1060.0, "{}", last.upper);
}

#[test]
fn a_slow_ramp_is_forecast_to_the_moment_of_the_next_plan() {
    // 1 req/s more each second: the 60 s average lags by 30 s and more.
    let ramp = |t: f64| 1000.0 + t;
    for (now, estimate) in watch(&ramp, 900).into_iter().filter(|(now, _)| *now > 400.0) {
        let truth = ramp(now + DELAY);
        assert!((estimate.demand.get() / truth - 1.0).abs() < 0.02, "{now}: {} of {truth}", estimate.demand);
    }
}

#[test]
fn in_a_flash_crowd_the_band_opens_at_once_and_the_forecast_stays_bounded() {
    let flash = |t: f64| 1000.0 * (1.0 + 1.25 * ((t - 300.0) / 30.0).clamp(0.0, 1.0));
    let estimates = watch(&flash, 900);
    for (now, estimate) in &estimates {
        assert!(estimate.demand.get() <= 1.6 * 2250.0 + 1.0 && estimate.upper >= estimate.demand);
        if *now >= 345.0 && *now <= 600.0 {
            // 15 s after the ramp's end the 60 s average is at two thirds of its way.
            assert!(estimate.upper.get() >= 0.95 * 2250.0, "{now}: {}", estimate.upper);
        }
    }
    let last = estimates.last().unwrap().1;
    assert!((last.demand.get() / 2250.0 - 1.0).abs() < 0.03 && last.upper.get() < 1.1 * 2250.0, "{last:?}");
}

#[test]
fn the_upper_band_is_never_below_the_last_reading() {
    let fall = |t: f64| 2000.0 - 3.0 * (t - 100.0).clamp(0.0, 500.0);
    for (now, estimate) in watch(&fall, 900) {
        let scrape = (now / 15.0).floor() * 15.0;
        assert!(estimate.upper.get() >= average(&fall, scrape, WINDOW) - 1e-6, "{now}");
    }
}

#[test]
fn without_news_the_level_stays_and_the_band_widens() {
    let config = DemandConfig::default();
    let mut tracker = DemandTracker::default();
    let at = |t: f64| Timestamp::from_secs_f64(1e9 + t);
    for step in 0..20 {
        let now = 15.0 * f64::from(step);
        tracker.observe(at(now), Duration::from_secs(60), 500.0, Duration::ZERO, &config);
    }
    let fresh = tracker.estimate(at(285.0), DELAY, &config);
    let old = tracker.estimate(at(585.0), DELAY, &config);
    assert!((old.demand.get() - 500.0).abs() < 1.0);
    assert!(old.upper.get() > fresh.upper.get() * 1.2 && old.upper.get() < 500.0 * 1.6);
    assert_eq!(old.age, Some(Duration::from_secs(300)));
}

#[test]
fn a_clock_that_jumps_neither_way_makes_the_forecast_wild() {
    for jump in [-86_400.0, -100.0, 7_200.0, 86_400.0 * 365.0] {
        let config = DemandConfig::default();
        let mut tracker = DemandTracker::default();
        for step in 0..60 {
            let now = 1e9 + 15.0 * f64::from(step) + if step >= 30 { jump } else { 0.0 };
            let at = Timestamp::from_secs_f64(now);
            let offered = 800.0 + 2.0 * f64::from(step);
            tracker.observe(at, Duration::from_secs(60), offered, Duration::from_secs(2), &config);
            let estimate = tracker.estimate(at, DELAY, &config);
            assert!((estimate.demand.get() / offered - 1.0).abs() < 0.05, "{jump}: {step} {estimate:?}");
            assert!(estimate.upper.get() < 1.3 * offered, "{jump}: {step} {estimate:?}");
        }
    }
}

#[test]
fn no_demand_is_a_demand_of_zero() {
    let (_, last) = *watch(&|_| 0.0, 300).last().unwrap();
    assert_eq!((last.demand.get(), last.upper.get()), (0.0, 0.0));
}
