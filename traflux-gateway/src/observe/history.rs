//! What was asked of the gateway, hour by hour, over the last weeks?
//!
//! One ring of hours per stream (the whole gateway, a backend, a tenant): 80 bytes an hour, 105 kB for eight
//! weeks, whatever the traffic. Amounts are recorded off the hot path, from the difference of two
//! [`Snapshot`](super::Snapshot)s, at least once a minute **also when nothing happened**: minutes without any
//! record count as unknown, not as idle.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::Timestamp;

use super::buckets::nanos;
use crate::error::GatewayError;
use crate::units::PicoDollars;

pub(crate) const HOURS_PER_WEEK: usize = 168;

/// How much history is kept, and in which time zone days begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistorySettings {
    /// Weeks kept.
    pub weeks: u32,
    /// Local time less UTC, in minutes; −1440 to 1440.
    pub utc_offset_minutes: i32,
}

impl Default for HistorySettings {
    /// Eight weeks, UTC.
    fn default() -> Self {
        Self { weeks: 8, utc_offset_minutes: 0 }
    }
}

/// What happened in an interval that ended at the time of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Requests.
    pub requests: u64,
    /// Tokens.
    pub tokens: u64,
    /// Money.
    pub cost: PicoDollars,
    /// Sum of the durations of requests.
    pub busy: Duration,
}

/// Of what a rate is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Requests per second.
    Requests,
    /// Tokens per second.
    Tokens,
    /// Dollars per second.
    Dollars,
    /// Requests in flight on average: the sum of their durations over the time, which is Little's law `L = λ·W`
    /// (J. D. C. Little, "A proof for the queuing formula L = λW", Operations Research 9, 1961).
    Concurrency,
}

/// One hour of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hour {
    /// Hours since the epoch, local time.
    pub(crate) number: u64,
    /// The minutes for which there is a record.
    minutes: u64,
    requests: u64,
    tokens: u64,
    cost: u64,
    busy_nanos: u64,
    minute: u8,
    minute_requests: u64,
    minute_tokens: u64,
    peak_requests: u64,
    peak_tokens: u64,
}

/// Rings of hours.
#[derive(Debug, Clone)]
pub struct TrafficHistory {
    settings: HistorySettings,
    streams: Vec<Vec<Hour>>,
    rejected: u64,
}

impl TrafficHistory {
    /// An empty history of so many streams.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] unless 1 to 104 weeks are kept and the offset is at most a day.
    pub fn new(streams: usize, settings: HistorySettings) -> Result<Self, GatewayError> {
        if !(1..=104).contains(&settings.weeks) {
            return Err(GatewayError::setting("weeks", settings.weeks, "1 to 104"));
        }
        if settings.utc_offset_minutes.unsigned_abs() > 1440 {
            return Err(GatewayError::setting(
                "utc_offset_minutes",
                settings.utc_offset_minutes,
                "-1440 to 1440",
            ));
        }
        let hours = settings.weeks as usize * HOURS_PER_WEEK;
        Ok(Self { settings, streams: vec![vec![Hour::default(); hours]; streams], rejected: 0 })
    }

    /// Adds what happened in an interval of at most a minute that ends at `at`. What is older than the ring is
    /// rejected and counted.
    pub fn record(&mut self, at: Timestamp, stream: usize, amount: Amount) {
        let minute = self.local_minute(at);
        let (number, minute) = (minute / 60, (minute % 60) as u8);
        let Some(ring) = self.streams.get_mut(stream) else {
            self.rejected += 1;
            return;
        };
        let slot = (number % ring.len() as u64) as usize;
        let hour = &mut ring[slot];
        if hour.minutes == 0 || hour.number < number {
            *hour = Hour { number, ..Hour::default() };
        } else if hour.number > number {
            self.rejected += 1;
            return;
        }
        hour.minutes |= 1 << minute;
        hour.requests = hour.requests.saturating_add(amount.requests);
        hour.tokens = hour.tokens.saturating_add(amount.tokens);
        hour.cost = hour.cost.saturating_add(amount.cost.get());
        hour.busy_nanos = hour.busy_nanos.saturating_add(nanos(amount.busy));
        if minute > hour.minute {
            (hour.minute, hour.minute_requests, hour.minute_tokens) = (minute, 0, 0);
        }
        // A late minute counts in its hour, but its peak is not looked for.
        if minute == hour.minute {
            hour.minute_requests = hour.minute_requests.saturating_add(amount.requests);
            hour.minute_tokens = hour.minute_tokens.saturating_add(amount.tokens);
            hour.peak_requests = hour.peak_requests.max(hour.minute_requests);
            hour.peak_tokens = hour.peak_tokens.max(hour.minute_tokens);
        }
    }

    /// Records of unknown streams or before the ring.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Number of streams.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// The hours of a stream before the one of `now` of which at least half is known, oldest first.
    pub(crate) fn hours(&self, stream: usize, now: Timestamp) -> Vec<Hour> {
        let current = self.local_minute(now) / 60;
        let ring = self.streams.get(stream).map_or(&[][..], Vec::as_slice);
        let oldest = current.saturating_sub(ring.len() as u64);
        let known =
            |hour: &&Hour| hour.minutes.count_ones() >= 30 && (oldest..current).contains(&hour.number);
        let mut hours: Vec<Hour> = ring.iter().filter(known).copied().collect();
        hours.sort_unstable_by_key(|hour| hour.number);
        hours
    }

    /// Local time in hours since the epoch.
    pub(crate) fn local_hours(&self, at: Timestamp) -> f64 {
        at.as_secs_f64() / 3600.0 + f64::from(self.settings.utc_offset_minutes) / 60.0
    }

    /// The moment at which a local hour begins.
    pub(crate) fn hour_start(&self, number: u64) -> Timestamp {
        let seconds = number as i64 * 3600 - i64::from(self.settings.utc_offset_minutes) * 60;
        Timestamp::new(Duration::from_secs(seconds.max(0) as u64))
    }

    fn local_minute(&self, at: Timestamp) -> u64 {
        let minutes = at.since_epoch().as_secs() / 60;
        minutes.saturating_add_signed(i64::from(self.settings.utc_offset_minutes))
    }
}

impl Hour {
    /// The mean rate over the minutes known, in units per second.
    pub(crate) fn rate(&self, measure: Measure) -> f64 {
        let seconds = f64::from(self.minutes.count_ones()) * 60.0;
        let sum = match measure {
            Measure::Requests => self.requests as f64,
            Measure::Tokens => self.tokens as f64,
            Measure::Dollars => PicoDollars::new(self.cost).as_dollars(),
            Measure::Concurrency => self.busy_nanos as f64 * 1e-9,
        };
        sum / seconds
    }

    /// The peak minute over the mean minute, at least 1. Concurrency is scaled like requests and dollars like
    /// tokens: within an hour, what a request costs and how long it takes changes less than how many there are.
    pub(crate) fn burst(&self, measure: Measure) -> f64 {
        let (peak, sum) = match measure {
            Measure::Requests | Measure::Concurrency => (self.peak_requests, self.requests),
            Measure::Tokens => (self.peak_tokens, self.tokens),
            Measure::Dollars if self.tokens > 0 => (self.peak_tokens, self.tokens),
            Measure::Dollars => (self.peak_requests, self.requests),
        };
        if sum == 0 {
            return 1.0;
        }
        (peak as f64 * f64::from(self.minutes.count_ones()) / sum as f64).max(1.0)
    }

    /// Position in the week: 0 is Monday from 00:00 to 01:00.
    pub(crate) fn of_week(&self) -> usize {
        hour_of_week(self.number)
    }
}

/// Position of an hour since the epoch in its week, which begins on Monday; the epoch was a Thursday.
pub(crate) fn hour_of_week(number: u64) -> usize {
    ((number + 3 * 24) % HOURS_PER_WEEK as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(minutes: u64) -> Timestamp {
        Timestamp::new(Duration::from_secs(minutes * 60))
    }

    fn requests(requests: u64) -> Amount {
        Amount { requests, busy: Duration::from_millis(500 * requests), ..Amount::default() }
    }

    #[test]
    fn minutes_without_a_record_are_unknown_and_not_idle() {
        let mut history = TrafficHistory::new(1, HistorySettings::default()).unwrap();
        for m in 0..40 {
            history.record(minute(m), 0, requests(60));
        }
        let hours = history.hours(0, minute(60));
        assert_eq!(hours.len(), 1);
        assert_eq!((hours[0].rate(Measure::Requests), hours[0].rate(Measure::Concurrency)), (1.0, 0.5));
        assert!(history.hours(0, minute(59)).is_empty(), "an hour that is not over");
        for m in 60..89 {
            history.record(minute(m), 0, requests(60));
        }
        assert_eq!(history.hours(0, minute(120)).len(), 1, "29 minutes are too few");
    }

    #[test]
    fn the_peak_minute_is_compared_with_the_mean_minute() {
        let mut history = TrafficHistory::new(1, HistorySettings::default()).unwrap();
        for m in 0..60 {
            // Two records a minute; minute 30 has four times the others: mean 63/60, peak 4.
            for _ in 0..2 {
                history.record(minute(m), 0, requests(if m == 30 { 40 } else { 10 }));
            }
        }
        let hour = history.hours(0, minute(60))[0];
        assert!((hour.burst(Measure::Requests) - 4.0 / 1.05).abs() < 1e-12);
        assert_eq!(hour.burst(Measure::Tokens), 1.0);
    }

    #[test]
    fn what_is_older_than_the_ring_is_rejected_and_the_ring_forgets() {
        let mut history =
            TrafficHistory::new(1, HistorySettings { weeks: 1, ..HistorySettings::default() }).unwrap();
        let week = 7 * 24 * 60;
        for m in 0..60 {
            history.record(minute(m), 0, requests(1));
        }
        assert_eq!(history.hours(0, minute(week)).len(), 1);
        assert_eq!(history.hours(0, minute(week + 60)).len(), 0);
        history.record(minute(week), 0, requests(1));
        history.record(minute(5), 0, requests(1));
        history.record(minute(5), 1, requests(1));
        assert_eq!(history.rejected(), 2);
    }

    #[test]
    fn the_week_begins_on_monday_in_local_time() {
        // 1970-01-05 was a Monday; at UTC−1 its first hour begins at 01:00 UTC.
        assert_eq!(hour_of_week(4 * 24), 0);
        let settings = HistorySettings { utc_offset_minutes: -60, ..HistorySettings::default() };
        let history = TrafficHistory::new(1, settings).unwrap();
        assert_eq!(hour_of_week(history.local_minute(minute((4 * 24 + 1) * 60)) / 60), 0);
        assert_eq!(history.hour_start(4 * 24), minute((4 * 24 + 1) * 60));
    }
}
