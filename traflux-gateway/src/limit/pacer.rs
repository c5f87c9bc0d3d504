//! How long shall this request wait so that traffic flows evenly?
//!
//! A limit refuses, a pacer delays: it answers with the time to wait and never blocks. Two shapes: [`Pacer`] spaces
//! requests uniformly, [`WarmUp`] lets the rate of an idle backend climb slowly.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use traflux_core::Timestamp;

use super::bucket::{BucketCell, Shortfall};
use super::meter::{Meter, Refill};
use super::{nanos, setting_error};
use crate::error::GatewayError;

/// Answer of a pacer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The request has its turn after this time (zero: now).
    After(Duration),
    /// Its turn would come only after this time, which is above the longest wait. It took no turn.
    TooLate(Duration),
}

/// Uniform spacing: a request of `n` units starts when all units before it have flowed, and holds the way free
/// for `n / rate` after it. A leaky bucket that is read as a meter with queue: turns are given in the order of calls, exact
/// at any rate as in [`Meter`].
#[derive(Debug)]
pub struct Pacer {
    meter: Meter,
    longest_ticks: u64,
    cell: BucketCell,
    jitter_ns: u64,
}

impl Pacer {
    /// A pacer at `amount` units per `period` whose turns wait at most `longest_wait`. Up to `jitter` is added to each
    /// delay by the draw of the caller, so that equal clients do not beat together.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a rate of zero, or a longest wait in which more than 2⁵⁹ ticks flow (half a year
    /// at the least).
    pub fn new(
        amount: u64,
        period: Duration,
        longest_wait: Duration,
        jitter: Duration,
        now: Timestamp,
    ) -> Result<Self, GatewayError> {
        if amount == 0 {
            return Err(setting_error("pacer", "amount", 0, "at least 1"));
        }
        let meter = Meter::new(Refill::Continuous { amount, period }, amount, nanos(now))
            .map_err(|e| setting_error("pacer", e.setting, format!("{amount} per {period:?}"), e.expected))?;
        let wait_ns = u64::try_from(longest_wait.as_nanos()).unwrap_or(u64::MAX);
        let end = nanos(now).saturating_add(wait_ns);
        let longest_ticks = meter.granted(end).wrapping_sub(meter.granted(nanos(now)));
        if wait_ns > 1 << 53 || longest_ticks > 1 << 59 {
            let value = format!("{longest_wait:?}");
            return Err(setting_error("pacer", "longest_wait_ms", value, "at most 100 days"));
        }
        let jitter_ns = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self { meter, longest_ticks, cell: BucketCell::default(), jitter_ns })
    }

    /// Takes a turn of `units`. `draw` (64 random bits) places the jitter; zero means none.
    pub fn turn(&self, now: Timestamp, units: u64, draw: u64) -> Pace {
        let now_ns = nanos(now);
        let granted = self.meter.granted(now_ns);
        let cost = self.meter.ticks_of_any(units).min(1 << 59);
        // What is before this one must flow within the longest wait; its own cost comes after it.
        match self.cell.charge_below(granted, cost, self.longest_ticks + cost) {
            Ok(receipt) => {
                let before = super::bucket::level(receipt.finish, granted) - cost;
                let delay = self.meter.time_until(now_ns, before).unwrap_or(u64::MAX);
                let jitter = (u128::from(draw) * u128::from(self.jitter_ns)) >> 64;
                Pace::After(Duration::from_nanos(delay.saturating_add(jitter as u64)))
            }
            Err(Shortfall::Ticks(ticks)) => {
                let ticks = ticks + self.longest_ticks;
                let wait = self.meter.time_until(now_ns, ticks).unwrap_or(u64::MAX);
                Pace::TooLate(Duration::from_nanos(wait))
            }
            Err(Shortfall::AboveBurst) => Pace::TooLate(Duration::MAX),
        }
    }
}

/// Parameters of [`WarmUp`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WarmUpSettings {
    /// Requests per second when warm.
    pub rate: f64,
    /// Time from cold to warm under full load.
    pub warm_up: Duration,
    /// How many times slower the first request after a long idle time is paced.
    pub cold_factor: f64,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl Default for WarmUpSettings {
    fn default() -> Self {
        Self {
            rate: 100.0,
            warm_up: Duration::from_secs(30),
            cold_factor: 3.0,
            longest_wait: Duration::from_secs(1),
        }
    }
}

/// A pacer whose rate climbs from `rate / cold_factor` to `rate` within the warm-up time and falls back when idle.
///
/// The scheme of Guava's `SmoothWarmingUp` with Sentinel's general cold factor `c`: idle time stores permits, up
/// to `m`; a permit taken from above the threshold `h` costs more time the more are stored,
///
/// ```text
/// s = 1/rate      h = w / (s·(c − 1))      m = h + 2w / (s·(1 + c))
/// interval(x) = s                               for x ≤ h stored permits
///             = s + (x − h)·s·(c − 1)/(m − h)   above
/// ```
///
/// and the time of `n` permits is the integral of the interval from `x − n` to `x`. From cold, the way from `m` down
/// to `h` takes exactly `w`. A warm-up that starts anew takes `w` of idle time. `f64` arithmetic: equal inputs
/// give equal outputs.
#[derive(Debug)]
pub struct WarmUp {
    stable_ns: f64,
    threshold: f64,
    most: f64,
    slope: f64,
    idle_ns_per_permit: f64,
    longest_wait_ns: f64,
    state: Mutex<Warmth>,
}

#[derive(Debug)]
struct Warmth {
    stored: f64,
    next_ns: u64,
}

impl WarmUp {
    /// A cold pacer.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a rate that is not positive and finite, or a cold factor of 1 or less.
    pub fn new(settings: WarmUpSettings, now: Timestamp) -> Result<Self, GatewayError> {
        let WarmUpSettings { rate, warm_up, cold_factor, longest_wait } = settings;
        if !(1e-6..=1e9).contains(&rate) {
            return Err(setting_error("warm-up", "rate", rate, "from 10^-6 to 10^9 per second"));
        }
        if !(cold_factor > 1.0 && cold_factor <= 1e6) {
            return Err(setting_error("warm-up", "cold_factor", cold_factor, "above 1 and at most 10^6"));
        }
        let stable_ns = 1e9 / rate;
        let warm_up_ns = (warm_up.as_secs_f64() * 1e9).max(1.0);
        let threshold = warm_up_ns / (stable_ns * (cold_factor - 1.0));
        let most = threshold + 2.0 * warm_up_ns / (stable_ns * (1.0 + cold_factor));
        Ok(Self {
            stable_ns,
            threshold,
            most,
            slope: stable_ns * (cold_factor - 1.0) / (most - threshold),
            idle_ns_per_permit: warm_up_ns / most,
            longest_wait_ns: longest_wait.as_secs_f64() * 1e9,
            state: Mutex::new(Warmth { stored: most, next_ns: nanos(now) }),
        })
    }

    /// Takes a turn of `permits`.
    pub fn turn(&self, now: Timestamp, permits: u32) -> Pace {
        let now_ns = nanos(now);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ns > state.next_ns {
            let idle = (now_ns - state.next_ns) as f64;
            state.stored = (state.stored + idle / self.idle_ns_per_permit).min(self.most);
            state.next_ns = now_ns;
        }
        let delay = Duration::from_nanos(state.next_ns.saturating_sub(now_ns));
        if delay.as_nanos() as f64 > self.longest_wait_ns {
            return Pace::TooLate(delay);
        }
        let permits = f64::from(permits);
        let stored = state.stored.min(permits);
        let cost = self.time_of(state.stored, stored) + (permits - stored) * self.stable_ns;
        state.stored -= stored;
        state.next_ns = state.next_ns.saturating_add(cost as u64);
        Pace::After(delay)
    }

    /// Integral of the interval from `stored − taken` to `stored`.
    fn time_of(&self, stored: f64, taken: f64) -> f64 {
        let above = (stored - self.threshold).max(0.0);
        let from_above = taken.min(above);
        let mean = self.stable_ns + self.slope * (above - from_above / 2.0);
        from_above * mean + (taken - from_above) * self.stable_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::new(Duration::from_nanos(nanos))
    }

    #[test]
    fn turns_are_a_period_apart_and_stop_at_the_longest_wait() {
        let (second, wait) = (Duration::from_secs(1), Duration::from_millis(35));
        let pacer = Pacer::new(100, second, wait, Duration::ZERO, at(0)).unwrap();
        for turn in 0..4u64 {
            let Pace::After(delay) = pacer.turn(at(0), 1, u64::MAX) else { panic!("turn {turn}") };
            assert!(delay.as_nanos().abs_diff(u128::from(turn) * 10_000_000) <= 64, "{delay:?}");
        }
        assert!(matches!(pacer.turn(at(0), 1, 0), Pace::TooLate(wait) if wait.as_millis() == 40));
        // An idle time stores nothing: two at once are still a period apart.
        assert_eq!(pacer.turn(at(1_000_000_000), 1, 0), Pace::After(Duration::ZERO));
        let Pace::After(delay) = pacer.turn(at(1_000_000_000), 1, 0) else { panic!("within the wait") };
        assert!(delay.as_nanos().abs_diff(10_000_000) <= 64, "{delay:?}");
    }

    #[test]
    fn jitter_is_a_share_of_its_bound() {
        let second = Duration::from_secs(1);
        let pacer = Pacer::new(1, second, second, Duration::from_millis(8), at(0)).unwrap();
        assert_eq!(pacer.turn(at(0), 1, 1 << 63), Pace::After(Duration::from_millis(4)));
    }

    #[test]
    fn from_cold_the_rate_climbs_to_full_within_the_warm_up_time() {
        let settings = WarmUpSettings {
            rate: 100.0,
            warm_up: Duration::from_secs(10),
            longest_wait: Duration::from_secs(1),
            ..WarmUpSettings::default()
        };
        let warm_up = WarmUp::new(settings, at(0)).unwrap();
        let (mut now, mut starts) = (0u64, Vec::new());
        while now < 20_000_000_000 {
            let Pace::After(delay) = warm_up.turn(at(now), 1) else { panic!("one at a time") };
            now += delay.as_nanos() as u64;
            starts.push(now);
        }
        let gap = |ix: usize| (starts[ix + 1] - starts[ix]) as f64 / 1e6;
        assert!((gap(0) - 30.0).abs() < 0.1, "a cold interval is three times 10 ms: {}", gap(0));
        let warm = starts.iter().position(|s| *s >= 10_000_000_000).unwrap();
        assert!((gap(warm + 1) - 10.0).abs() < 0.1, "{}", gap(warm + 1));
        // m − h = 2w/(s(1 + c)) = 500 permits take the first 10 s.
        assert!(warm.abs_diff(500) <= 1, "{warm}");
        assert!(WarmUp::new(WarmUpSettings { rate: f64::NAN, ..settings }, at(0)).is_err());
    }
}
