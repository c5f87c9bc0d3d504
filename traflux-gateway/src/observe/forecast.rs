//! When is a limit or a budget reached?
//!
//! The level is carried on along its line and along the two lines of the interval of its slope, so every answer
//! comes with an earliest and a latest moment.

use std::time::Duration;

use traflux_core::Timestamp;

use super::pattern::Profile;

/// How far ahead a forecast looks; what is later is called not in sight.
pub const HORIZON: Duration = Duration::from_secs(3 * 365 * 86_400);

const DAY_SECONDS: f64 = 86_400.0;

/// Time until something is reached, `None` where it is not in sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhaustion {
    /// With growth as fitted.
    pub within: Option<Duration>,
    /// With growth at the upper end of its interval.
    pub earliest: Option<Duration>,
    /// With growth at the lower end of its interval.
    pub latest: Option<Duration>,
}

/// What peaks leave of a limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Headroom {
    /// The rate to expect in the busiest minutes of the week now, in units per second.
    pub peak: f64,
    /// The limit over that rate: below 1 it is exceeded.
    pub factor: f64,
    /// When it will be 1.
    pub exhaustion: Exhaustion,
}

impl Profile {
    /// How far the busiest minutes are from a limit in units per second (for concurrency: requests in flight).
    /// The busiest minutes are level · greatest factor of the week · the 95th percentile of a peak minute over its
    /// hour · (1 + the spread of hours).
    #[must_use]
    pub fn headroom(&self, limit: f64, now: Timestamp) -> Headroom {
        let peak_over_level = self.peak_factor().0 * self.peaks.minute_over_hour * (1.0 + self.spread);
        let peak = self.level(now) * peak_over_level;
        let within = |per_day: f64| {
            let level = self.level_growing(now, per_day);
            let room = limit / peak_over_level - level;
            if room <= 0.0 {
                return Some(Duration::ZERO);
            }
            if per_day <= 0.0 {
                return None;
            }
            in_sight(room / per_day * DAY_SECONDS)
        };
        Headroom {
            peak,
            factor: if peak > 0.0 { limit / peak } else { f64::INFINITY },
            exhaustion: self.each(within),
        }
    }

    /// When an amount (requests, tokens or dollars, by the measure) will be used up, hour by hour.
    #[must_use]
    pub fn used_up(&self, amount: f64, now: Timestamp) -> Exhaustion {
        self.each(|per_day| {
            let mut left = amount;
            let mut at = now;
            if left <= 0.0 {
                return Some(Duration::ZERO);
            }
            while at.since(now) < HORIZON {
                let rate = self.level_growing(at, per_day) * self.factor(at);
                let step = 3600.0 - at.as_secs_f64() % 3600.0;
                if rate * step >= left {
                    return in_sight(at.since(now).as_secs_f64() + left / rate);
                }
                left -= rate * step;
                at = at + Duration::from_secs_f64(step.max(1.0));
            }
            None
        })
    }

    /// An infinite slope (too short a history) has no forecast: its end is open.
    fn each(&self, within: impl Fn(f64) -> Option<Duration>) -> Exhaustion {
        let growth = self.growth;
        Exhaustion {
            within: within(growth.per_day),
            earliest: if growth.high.is_finite() { within(growth.high) } else { Some(Duration::ZERO) },
            latest: if growth.low.is_finite() { within(growth.low) } else { None },
        }
    }
}

fn in_sight(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|within| *within <= HORIZON)
}
